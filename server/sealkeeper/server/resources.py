"""Resource names: parsed once, then carried as typed values.

``tenants/{tenant}``, ``tenants/{tenant}/keys/{key}``, ``tenants/{tenant}/keys/{key}/versions/{version}``,
``tenants/{tenant}/keyImports/{import}``, ``tenants/{tenant}/providers/{provider}``,
``tenants/{tenant}/grants/{grant}``, ``tenants/{tenant}/proposals/{proposal}``,
``tenants/{tenant}/attestations/{attestation}``, ``tenants/{tenant}/gates/{gate}`` with ``/versions/{version}``,
``/exceptions/{exception}`` and ``/decisions/{decision}`` below, ``logs/{log}``
(https://google.aip.dev/122). Every call makes some, so they are msgspec structs: made, hashed and compared in C.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

import msgspec

from sealkeeper.server.errors import InvalidRequestError

ID = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
_TENANT = re.compile(rf"tenants/({ID.pattern})")
_KEY = re.compile(rf"tenants/({ID.pattern})/keys/({ID.pattern})")
_VERSION = re.compile(rf"tenants/({ID.pattern})/keys/({ID.pattern})/versions/([1-9][0-9]{{0,8}})")
_IMPORT = re.compile(rf"tenants/({ID.pattern})/keyImports/({ID.pattern})")
_GRANT = re.compile(rf"tenants/({ID.pattern})/grants/({ID.pattern})")
_PROPOSAL = re.compile(rf"tenants/({ID.pattern})/proposals/({ID.pattern})")
_ATTESTATION = re.compile(rf"tenants/({ID.pattern})/attestations/({ID.pattern})")
_PROVIDER = re.compile(rf"tenants/({ID.pattern})/providers/({ID.pattern})")
_GATE = re.compile(rf"tenants/({ID.pattern})/gates/({ID.pattern})")
_GATE_VERSION = re.compile(rf"{_GATE.pattern}/versions/([1-9][0-9]{{0,8}})")
_EXCEPTION = re.compile(rf"{_GATE.pattern}/exceptions/({ID.pattern})")
_DECISION = re.compile(rf"{_GATE.pattern}/decisions/({ID.pattern})")
LOGS = ("transparency", "ct", "audit")


class TenantName(msgspec.Struct, frozen=True):
    """``tenants/{tenant}``."""

    tenant: str

    def __str__(self) -> str:
        return f"tenants/{self.tenant}"


class KeyName(msgspec.Struct, frozen=True):
    """``tenants/{tenant}/keys/{key}``."""

    tenant: str
    key: str

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/keys/{self.key}"

    def version(self, number: int) -> KeyVersionName:
        """Name of one of its versions."""
        return KeyVersionName(self.tenant, self.key, number)


class KeyVersionName(msgspec.Struct, frozen=True):
    """``tenants/{tenant}/keys/{key}/versions/{version}``."""

    tenant: str
    key: str
    number: int

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/keys/{self.key}/versions/{self.number}"

    @property
    def parent(self) -> KeyName:
        """Name of the key."""
        return KeyName(self.tenant, self.key)


class KeyImportName(msgspec.Struct, frozen=True):
    """``tenants/{tenant}/keyImports/{import}``."""

    tenant: str
    id: str

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/keyImports/{self.id}"


class ProviderName(msgspec.Struct, frozen=True):
    """``tenants/{tenant}/providers/{provider}``."""

    tenant: str
    provider: str

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/providers/{self.provider}"


class GrantName(msgspec.Struct, frozen=True):
    """``tenants/{tenant}/grants/{grant}``."""

    tenant: str
    id: str

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/grants/{self.id}"


class ProposalName(msgspec.Struct, frozen=True):
    """``tenants/{tenant}/proposals/{proposal}``."""

    tenant: str
    id: str

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/proposals/{self.id}"


class AttestationName(msgspec.Struct, frozen=True):
    """``tenants/{tenant}/attestations/{attestation}``."""

    tenant: str
    id: str

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/attestations/{self.id}"


class GateName(msgspec.Struct, frozen=True):
    """``tenants/{tenant}/gates/{gate}``."""

    tenant: str
    gate: str

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/gates/{self.gate}"

    def version(self, number: int) -> GateVersionName:
        """Name of one of its versions."""
        return GateVersionName(self.tenant, self.gate, number)


class _OfGate(msgspec.Struct, frozen=True):
    """Something of a gate."""

    tenant: str
    gate: str

    @property
    def parent(self) -> GateName:
        """Name of the gate."""
        return GateName(self.tenant, self.gate)


class GateVersionName(_OfGate, frozen=True):
    """``tenants/{tenant}/gates/{gate}/versions/{version}``."""

    number: int

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/gates/{self.gate}/versions/{self.number}"


class GateExceptionName(_OfGate, frozen=True):
    """``tenants/{tenant}/gates/{gate}/exceptions/{exception}``."""

    id: str

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/gates/{self.gate}/exceptions/{self.id}"


class GateDecisionName(_OfGate, frozen=True):
    """``tenants/{tenant}/gates/{gate}/decisions/{decision}``."""

    id: str

    def __str__(self) -> str:
        return f"tenants/{self.tenant}/gates/{self.gate}/decisions/{self.id}"


class LogName(msgspec.Struct, frozen=True):
    """``logs/{log}``."""

    log: str

    def __str__(self) -> str:
        return f"logs/{self.log}"


ResourceName: TypeAlias = (
    TenantName
    | KeyName
    | KeyVersionName
    | KeyImportName
    | ProviderName
    | GrantName
    | ProposalName
    | GateName
    | GateVersionName
    | GateExceptionName
    | GateDecisionName
    | LogName
)


def parse_id(text: str, field: str) -> str:
    """Check the last part of a name, as given at creation.

    Raises:
        InvalidRequestError: naming ``field``.
    """
    if not ID.fullmatch(text):
        raise InvalidRequestError.of(
            field, 'must be 1 to 63 of a-z, 0-9 and "-", start with a letter and not end with "-"'
        )
    return text


def parse_tenant_name(text: str, field: str) -> TenantName:
    """Parse ``tenants/{tenant}``.

    Raises:
        InvalidRequestError: naming ``field``.
    """
    if match := _TENANT.fullmatch(text):
        return TenantName(match[1])
    raise InvalidRequestError.of(field, "must be tenants/{tenant}")


def parse_key_name(text: str, field: str) -> KeyName:
    """Parse ``tenants/{tenant}/keys/{key}``.

    Raises:
        InvalidRequestError: naming ``field``.
    """
    if match := _KEY.fullmatch(text):
        return KeyName(match[1], match[2])
    raise InvalidRequestError.of(field, "must be tenants/{tenant}/keys/{key}")


def parse_version_name(text: str, field: str) -> KeyVersionName:
    """Parse ``tenants/{tenant}/keys/{key}/versions/{version}``.

    Raises:
        InvalidRequestError: naming ``field``.
    """
    if match := _VERSION.fullmatch(text):
        return KeyVersionName(match[1], match[2], int(match[3]))
    raise InvalidRequestError.of(field, "must be tenants/{tenant}/keys/{key}/versions/{version}")


def parse_key_or_version_name(text: str, field: str) -> KeyName | KeyVersionName:
    """Parse the name of a key or of one of its versions.

    Raises:
        InvalidRequestError: naming ``field``.
    """
    if match := _KEY.fullmatch(text):
        return KeyName(match[1], match[2])
    if match := _VERSION.fullmatch(text):
        return KeyVersionName(match[1], match[2], int(match[3]))
    raise InvalidRequestError.of(field, "must be tenants/{tenant}/keys/{key} or .../versions/{version}")


def parse_import_name(text: str, field: str) -> KeyImportName:
    """Parse ``tenants/{tenant}/keyImports/{import}``.

    Raises:
        InvalidRequestError: naming ``field``.
    """
    if match := _IMPORT.fullmatch(text):
        return KeyImportName(match[1], match[2])
    raise InvalidRequestError.of(field, "must be tenants/{tenant}/keyImports/{import}")


def parse_grant_name(text: str, field: str) -> GrantName:
    """Parse ``tenants/{tenant}/grants/{grant}``.

    Raises:
        InvalidRequestError: naming ``field``.
    """
    if match := _GRANT.fullmatch(text):
        return GrantName(match[1], match[2])
    raise InvalidRequestError.of(field, "must be tenants/{tenant}/grants/{grant}")


def parse_proposal_name(text: str, field: str) -> ProposalName:
    """Parse ``tenants/{tenant}/proposals/{proposal}``.

    Raises:
        InvalidRequestError: naming ``field``.
    """
    if match := _PROPOSAL.fullmatch(text):
        return ProposalName(match[1], match[2])
    raise InvalidRequestError.of(field, "must be tenants/{tenant}/proposals/{proposal}")


def parse_attestation_name(text: str, field: str) -> AttestationName:
    """Parse ``tenants/{tenant}/attestations/{attestation}``.

    Raises:
        InvalidRequestError: naming ``field``.
    """
    if match := _ATTESTATION.fullmatch(text):
        return AttestationName(match[1], match[2])
    raise InvalidRequestError.of(field, "must be tenants/{tenant}/attestations/{attestation}")


def parse_provider_name(text: str, field: str) -> ProviderName:
    """Parse ``tenants/{tenant}/providers/{provider}``.

    Raises:
        InvalidRequestError: naming ``field``.
    """
    if match := _PROVIDER.fullmatch(text):
        return ProviderName(match[1], match[2])
    raise InvalidRequestError.of(field, "must be tenants/{tenant}/providers/{provider}")


def parse_gate_name(text: str, field: str) -> GateName:
    """Parse ``tenants/{tenant}/gates/{gate}``.

    Raises:
        InvalidRequestError: naming ``field``.
    """
    if match := _GATE.fullmatch(text):
        return GateName(match[1], match[2])
    raise InvalidRequestError.of(field, "must be tenants/{tenant}/gates/{gate}")


def parse_gate_or_version_name(text: str, field: str) -> GateName | GateVersionName:
    """Parse the name of a gate or of a version of its policy.

    Raises:
        InvalidRequestError: naming ``field``.
    """
    if match := _GATE.fullmatch(text):
        return GateName(match[1], match[2])
    if match := _GATE_VERSION.fullmatch(text):
        return GateVersionName(match[1], match[2], int(match[3]))
    raise InvalidRequestError.of(field, "must be tenants/{tenant}/gates/{gate} or .../versions/{version}")


def parse_exception_name(text: str, field: str) -> GateExceptionName:
    """Parse ``tenants/{tenant}/gates/{gate}/exceptions/{exception}``.

    Raises:
        InvalidRequestError: naming ``field``.
    """
    if match := _EXCEPTION.fullmatch(text):
        return GateExceptionName(match[1], match[2], match[3])
    raise InvalidRequestError.of(field, "must be tenants/{tenant}/gates/{gate}/exceptions/{exception}")


def parse_decision_name(text: str, field: str) -> GateDecisionName:
    """Parse ``tenants/{tenant}/gates/{gate}/decisions/{decision}``.

    Raises:
        InvalidRequestError: naming ``field``.
    """
    if match := _DECISION.fullmatch(text):
        return GateDecisionName(match[1], match[2], match[3])
    raise InvalidRequestError.of(field, "must be tenants/{tenant}/gates/{gate}/decisions/{decision}")


def _parse_of_gate(text: str, field: str) -> ResourceName:
    if match := _EXCEPTION.fullmatch(text):
        return GateExceptionName(match[1], match[2], match[3])
    if match := _DECISION.fullmatch(text):
        return GateDecisionName(match[1], match[2], match[3])
    return parse_gate_or_version_name(text, field)


def parse_log_name(text: str, field: str) -> LogName:
    """Parse ``logs/{log}``.

    Raises:
        InvalidRequestError: naming ``field``.
    """
    prefix, _, log = text.partition("/")
    if prefix == "logs" and log in LOGS:
        return LogName(log)
    raise InvalidRequestError.of(field, "must be logs/transparency, logs/ct or logs/audit")


_PARSERS: Mapping[str, Callable[[str, str], ResourceName]] = {
    "keys": parse_key_or_version_name,
    "keyImports": parse_import_name,
    "grants": parse_grant_name,
    "proposals": parse_proposal_name,
    "providers": parse_provider_name,
    "gates": _parse_of_gate,
}


def parse_resource(text: str, field: str = "resource") -> ResourceName:
    """Parse a name of whatever kind.

    Raises:
        InvalidRequestError: naming ``field``.
    """
    parts = text[:300].split("/")
    if parts[0] == "logs":
        return parse_log_name(text, field)
    if len(parts) <= 2:
        return parse_tenant_name(text, field)
    parse = _PARSERS.get(parts[2])
    if parse is None:
        raise InvalidRequestError.of(field, f"must be tenants/{{tenant}}/{{{'|'.join(_PARSERS)}}}/... or logs/{{log}}")
    return parse(text, field)
