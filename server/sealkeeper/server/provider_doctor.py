"""What ``sealkeeper doctor --gateway`` finds out about the providers: each is opened as the gateway would.

Nothing is made, used or removed in a store. All are looked at together, and none is waited for longer than told.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from sealkeeper.hsm import (
    Diagnosis,
    PinRefusedError,
    ProviderError,
    ProviderInfo,
    ProviderUriError,
    open_provider,
)
from sealkeeper.hsm.registry import pin_file_of
from sealkeeper.hsm.uri import scheme_of
from sealkeeper.hsm.worker_provider import WorkerProvider
from sealkeeper.server.files import unusable
from sealkeeper.server.finding import Finding
from sealkeeper.server.settings import ProviderSettings, Settings
from sealkeeper.server.x509_signing import P256

_UNTOLD = {
    "awskms": (
        "AWS tells nobody what an identity may do without IAM's own permissions, so only signs of life were tried",
        "compare its policy with docs/providers/awskms.md, or have an administrator ask: "
        "aws iam simulate-principal-policy",
    ),
    "azurekv": (
        "Azure does not tell an identity what it may do in a vault, so only listing keys was tried",
        "compare its role with docs/providers/azurekv.md: az role assignment list --scope VAULT_ID",
    ),
}
"""By scheme: why it cannot be said what the gateway may do there, and who can."""


@dataclass(frozen=True, slots=True)
class Examined:
    """A provider that was looked at.

    Attributes:
        findings: about it.
        region: where it is, as the store says or else the settings; empty where nobody says.
    """

    findings: list[Finding]
    region: str


@dataclass(slots=True)
class _PinFile:
    """A PIN file that several providers may name: a PIN that one token refused is not sent to another, or twice."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    refused: str = ""


async def examine_providers(settings: Settings, patience: timedelta) -> dict[str, Examined]:
    """Look at all providers of the settings at the same time.

    Args:
        settings: the gateway's.
        patience: after which a provider is not waited for any more.
    """
    pins: defaultdict[Path, _PinFile] = defaultdict(_PinFile)
    examined = await asyncio.gather(
        *(_examine(settings, name, one, patience, pins) for name, one in settings.providers.items())
    )
    return dict(zip(settings.providers, examined, strict=True))


async def _examine(
    settings: Settings, name: str, one: ProviderSettings, patience: timedelta, pins: defaultdict[Path, _PinFile]
) -> Examined:
    try:
        pin_file = pin_file_of(one.uri)
    except ProviderUriError as error:
        return Examined([_refused(name, one, error)], one.region)
    if pin_file is None:
        return await _look(settings, name, one, patience)
    pin = pins[pin_file]
    async with pin.lock:
        if pin.refused:
            text = f"not opened: its PIN file is that of provider {pin.refused}, whose token refused the PIN"
            return Examined([(f"provider {name}", False, text, "correct the PIN file, then ask again")], one.region)
        return await _look(settings, name, one, patience, pin)


async def _look(
    settings: Settings, name: str, one: ProviderSettings, patience: timedelta, pin: _PinFile | None = None
) -> Examined:
    try:
        async with asyncio.timeout(patience.total_seconds()):
            # With the gateway's state, so that a PIN that was refused is not tried again.
            state = settings.storage.directory if settings.storage.directory.is_dir() else None
            provider = await open_provider(one.uri, state_dir=state, environment=one.environment)
            try:
                return await _ask(settings, name, one, provider)
            finally:
                await provider.close()
    except TimeoutError:
        text = f"no answer within {patience.total_seconds():g} s: the store or its library hangs"
        next_step = "look at the store, at the network to it, and at what its library waits for"
        return Examined([(f"provider {name}", False, text, next_step)], one.region)
    except ProviderError as error:
        if pin is not None and isinstance(error, PinRefusedError):
            pin.refused = name
        return Examined([_refused(name, one, error)], one.region)
    except OSError as error:
        refused = unusable(error, settings.storage.directory)
        return Examined([(f"provider {name}", False, str(refused), refused.next_step)], one.region)


def _refused(name: str, one: ProviderSettings, error: ProviderError) -> Finding:
    next_step = error.next_step
    if not next_step and isinstance(error, ProviderUriError):
        next_step = f"correct [providers.{name}] uri; docs/providers/README.md names what there is"
    return (f"provider {name}", False, str(error), next_step or _look_at(one))


def _look_at(one: ProviderSettings) -> str:
    scheme = scheme_of(one.uri)
    return f"look at the store and its own log; docs/providers/{scheme}.md says what errors mean"


async def _ask(settings: Settings, name: str, one: ProviderSettings, provider: WorkerProvider) -> Examined:
    await provider.check()
    info = provider.info
    findings: list[Finding] = [(f"provider {name}", True, _description(info, one), "")]
    findings += _region(name, one, info)
    findings += _algorithms(settings, name, info)
    try:
        findings += _permissions(name, info, await provider.diagnose())
    except ProviderError as error:
        text = f"it could not be asked what the gateway may do: {error}"
        findings.append((f"provider {name} permissions", False, text, error.next_step or _look_at(one)))
    return Examined(findings, info.region or one.region)


def _description(info: ProviderInfo, one: ProviderSettings) -> str:
    region = info.region or one.region
    methods = ", ".join(sorted(info.wrap_methods))
    return "; ".join(
        (
            info.description,
            f"protection level {info.protection_level}",
            f"region {region}" if region else "in no region that it or the settings tell",
            f"{len(info.algorithms)} algorithms",
            f"takes keys wrapped by {methods}" if methods else "takes no keys from outside",
        )
    )


def _region(name: str, one: ProviderSettings, info: ProviderInfo) -> list[Finding]:
    if not one.region or not info.region or one.region == info.region:
        return []
    text = f"the settings say {one.region}, but the key store is in {info.region}"
    next_step = f"correct [providers.{name}] region, or its uri; the gateway does not start before"
    return [(f"provider {name} region", False, text, next_step)]


def _algorithms(settings: Settings, name: str, info: ProviderInfo) -> list[Finding]:
    if P256.name in info.algorithms:
        return []
    # Without it: the gateway's own certificate authority can be made elsewhere, and keys ask for others by name.
    passed = bool(info.algorithms) and name != settings.keys.default_provider
    offered = f"it can do {', '.join(sorted(info.algorithms))}" if info.algorithms else "nor anything else known here"
    text = f"it cannot do {P256.name}; {offered}"
    next_step = (
        "allow ECDSA with P-256 in the store (PKCS#11: CKM_ECDSA and CKM_EC_KEY_PAIR_GEN)"
        if info.scheme == "pkcs11"
        else "bring the store up to date"
    )
    return [(f"provider {name} algorithms", passed, text, f"{next_step}, or use another provider by default")]


def _permissions(name: str, info: ProviderInfo, diagnoses: Sequence[Diagnosis]) -> list[Finding]:
    label = f"provider {name} permissions"
    if not diagnoses:
        return [(label, True, *_UNTOLD[info.scheme])] if info.scheme in _UNTOLD else []
    wrong = sorted((one for one in diagnoses if not one.passed), key=lambda one: not one.needed)
    right = [one for one in diagnoses if one.passed]
    text = ", ".join(one.found for one in (*wrong, *right))
    passed = not any(one.needed for one in wrong)
    return [(label, passed, text, "; ".join(one.next_step for one in wrong))]
