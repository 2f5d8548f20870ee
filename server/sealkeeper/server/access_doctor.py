"""What ``sealkeeper doctor --gateway`` finds out about access: how callers are known, what decides about them.

Files are read as the gateway reads them, and issuers are asked as it asks them, once and all at the same time. Nobody
can say from settings whether enough persons hold certificates for what needs approvals, so nothing is said of that.
"""

from __future__ import annotations

import asyncio
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

from cryptography import x509

from sealkeeper.hsm import ProviderUriError
from sealkeeper.hsm.registry import pin_file_of
from sealkeeper.server.deny_list import DenyList
from sealkeeper.server.errors import ConfigurationError, InvalidRequestError
from sealkeeper.server.finding import Finding
from sealkeeper.server.identity import PEOPLE
from sealkeeper.server.identity_settings import IssuerSettings, PersonSettings
from sealkeeper.server.issuer_keys import Published, published_keys
from sealkeeper.server.people import People
from sealkeeper.server.policy_engine import compile_policy
from sealkeeper.server.settings import Settings
from sealkeeper.server.trust_bundles import is_valid, read_bundle

_SOON = timedelta(days=14)
_SECOND = timedelta(seconds=1)
_CA_KEY = "ca.key"
"""Beside the CA certificate, where the gateway has a CA of its own."""


def check_access(settings: Settings, now: datetime) -> list[Finding]:
    """Look at everything that callers are known by. Waits for issuers for a few seconds.

    Args:
        settings: the gateway's.
        now: UTC.
    """
    checks: list[Callable[[Settings, datetime], list[Finding]]] = [
        _people,
        _deny_list,
        _trust_domains,
        _issuers,
        _policies,
        _secrets,
        _writable,
    ]
    return [finding for one in checks for finding in one(settings, now)]


def _of_persons(settings: Settings) -> list[str]:
    """The issuers by whose tokens people come in."""
    return [name for name, one in settings.issuers.items() if any(rule.role in PEOPLE for rule in one.principals)]


def _people(settings: Settings, now: datetime) -> list[Finding]:
    if not settings.people and (issuers := _of_persons(settings)):
        text = f"people log in by {', '.join(issuers)}, and [people] joins no identities"
        return [("people", True, text, "name the identities of each: who has a certificate too counts as two people")]
    if not settings.people:
        return []
    try:
        known = People.read(settings.people)
    except ConfigurationError as error:
        return [("people", False, str(error), error.next_step)]
    strange = [(name, one) for name, person in settings.people.items() for one in _strange(settings, person)]
    if strange:
        name, identity = strange[0]
        text = f"people.{name}.identities: {identity} is of no issuer and no trust domain that the gateway knows"
        return [("people", False, text, "correct it: one whose identities are not all known counts as several people")]
    keys = sum(len(known.approval_keys(name)) for name in settings.people)
    text = f"{len(settings.people)} people, {keys} approval keys can be read"
    keyless = [name for name, person in settings.people.items() if _needs_key(person)]
    if keyless:
        text = f"{text}; {', '.join(keyless)} come with tokens alone and have none, so cannot approve"
        return [("people", True, text, f"name their public keys: people.{keyless[0]}.approval_keys")]
    return [("people", True, text, "")]


def _strange(settings: Settings, person: PersonSettings) -> Iterator[str]:
    domains = {settings.gateway.domain, *settings.trust_domains}
    issuers = {one.issuer for one in settings.issuers.values()}
    for identity in person.identities:
        if identity.startswith("spiffe://"):
            known = identity.removeprefix("spiffe://").partition("/")[0] in domains
        else:
            known = any(identity.startswith(f"{issuer}#") for issuer in issuers)
        if not known:
            yield identity


def _needs_key(person: PersonSettings) -> bool:
    return not person.approval_keys and not any(one.startswith("spiffe://") for one in person.identities)


def _deny_list(settings: Settings, now: datetime) -> list[Finding]:
    path = settings.identity.deny_list
    if path is None:
        return []
    try:
        DenyList(path)
    except ConfigurationError as error:
        return [("deny list", False, str(error), error.next_step)]
    return [("deny list", True, f"{path} can be read", "")]


def _trust_domains(settings: Settings, now: datetime) -> list[Finding]:
    bundles = [(name, one.bundle, f"trust_domains.{name}.bundle") for name, one in settings.trust_domains.items()]
    if settings.gateway.tls is not None and not settings.gateway.insecure:
        bundles.insert(0, (settings.gateway.domain, settings.gateway.tls.client_ca, "gateway.tls.client_ca"))
    return [_bundle(f"trust domain {name}", path, setting, now) for name, path, setting in bundles]


def _bundle(label: str, path: Path, setting: str, now: datetime) -> Finding:
    try:
        authorities = read_bundle(path, setting, now)
    except ConfigurationError as error:
        return (label, False, str(error), error.next_step)
    valid = [one.not_valid_after_utc for one in authorities if is_valid(one, now)]
    text = f"{_count(authorities, 'CA certificate')} in {path}, {len(valid)} of them valid now"
    if max(valid) - now < _SOON:
        text = f"{text}; the last one expires soon, at {max(valid):%Y-%m-%d %H:%M} UTC"
        return (label, True, text, f"have the next CA in {setting} before: it is read again while the gateway runs")
    return (label, True, text, "")


def _count(things: Sequence[x509.Certificate], what: str) -> str:
    return f"{len(things)} {what}{'' if len(things) == 1 else 's'}"


def _issuers(settings: Settings, now: datetime) -> list[Finding]:
    started = time.monotonic()

    async def ask() -> list[list[Finding]]:
        def clock() -> datetime:
            return now + timedelta(seconds=time.monotonic() - started)

        asked = (_issuer(name, one, settings.gateway.domain, clock) for name, one in settings.issuers.items())
        return await asyncio.gather(*asked)

    return [finding for some in asyncio.run(ask()) for finding in some] if settings.issuers else []


async def _issuer(name: str, one: IssuerSettings, domain: str, clock: Callable[[], datetime]) -> list[Finding]:
    label = f"issuer {name}"
    try:
        published = await published_keys(name, one)
    except ConfigurationError as error:
        return [(label, False, str(error), error.next_step)]
    if published.problem:
        text = f"{one.issuer}: its keys {published.problem}"
        return [(label, False, text, _reach(name, one))]
    fit = [key for key in published.keys if key.algorithms & set(one.algorithms)]
    others = len(published.keys) - len(fit) + published.others
    if not fit:
        text = f"{one.issuer}: none of its {others} keys is for {', '.join(one.algorithms)}"
        return [(label, False, text, f"set issuers.{name}.algorithms to what it signs with; RSA keys need 2048 bits")]
    audiences = ", ".join(one.audiences) or f"https://{domain}, since issuers.{name}.audiences names none"
    counted = f"{len(fit)} keys that tokens can be verified with, {others} others"
    text = f"{one.issuer}: {counted}; tokens must be for {audiences}"
    return [(label, True, text, ""), *_skew(name, one, published, clock())]


def _reach(name: str, one: IssuerSettings) -> str:
    if one.jwks_file is not None:
        return f"correct issuers.{name}.jwks_file: a JSON Web Key Set"
    return f"look at issuers.{name}.issuer, ca and jwks_uri, and the network to it; or name a jwks_file"


def _skew(name: str, one: IssuerSettings, published: Published, now: datetime) -> list[Finding]:
    try:
        apart = parsedate_to_datetime(published.date) - now
    except (ValueError, TypeError):
        return []
    # Its date is in whole seconds, and was written a moment ago.
    if abs(apart) <= one.leeway + 2 * _SECOND:
        return []
    way = "ahead of" if apart > timedelta() else "behind"
    text = f"its clock is {abs(apart) // _SECOND} s {way} this machine's; {one.leeway // _SECOND} s are allowed"
    return [(f"issuer {name} clock", False, text, f"set this machine's clock right (NTP), or issuers.{name}.leeway")]


def _policies(settings: Settings, now: datetime) -> list[Finding]:
    return [_policy(tenant, path) for tenant, path in settings.initial_policies.items()]


def _policy(tenant: str, path: Path) -> Finding:
    label = f"initial policy {tenant}"
    try:
        policy = compile_policy(path.read_text("utf-8"))
    except InvalidRequestError as error:
        return (label, False, f"{path}: {error}", "correct it; try it: sealkeeper policy test")
    except (OSError, UnicodeDecodeError) as error:
        return (label, False, f"{path}: {getattr(error, 'strerror', '') or 'is not UTF-8'}", "correct initial_policies")
    return (label, True, f"{path}: {len(policy.texts)} policies, for a tenant that has none yet", "")


def _secrets(settings: Settings, now: datetime) -> list[Finding]:
    """Files that nobody but the gateway's user may read."""
    open_ = [one for one in _files(_secret_files(settings)) if _mode(one) & (stat.S_IROTH | stat.S_IWOTH)]
    if open_:
        return [("secrets", False, f"everybody on this machine can read {_named(open_)}", f"chmod o= {open_[0]}")]
    return [("secrets", True, "private keys and PINs are closed to others", "")]


def _secret_files(settings: Settings) -> Iterator[Path]:
    if settings.gateway.tls is not None:
        yield settings.gateway.tls.key
        yield settings.gateway.tls.client_ca.parent / _CA_KEY
    for one in settings.providers.values():
        try:
            pin = pin_file_of(one.uri)
        except ProviderUriError:
            # Said where providers are looked at.
            continue
        if pin is not None:
            yield pin


def _writable(settings: Settings, now: datetime) -> list[Finding]:
    """Files that say who callers are: whoever writes them can be anybody."""
    found = [one for one in _files(_deciding_files(settings)) if _mode(one) & stat.S_IWOTH]
    if not found:
        return []
    return [("access files", False, f"everybody on this machine can write {_named(found)}", f"chmod o-w {found[0]}")]


def _deciding_files(settings: Settings) -> Iterator[Path]:
    tls = settings.gateway.tls
    yield from () if tls is None else (tls.certificate, tls.client_ca)
    yield from (one.bundle for one in settings.trust_domains.values())
    yield from (path for one in settings.issuers.values() for path in (one.jwks_file, one.ca) if path is not None)
    yield from (path for one in settings.people.values() for path in one.approval_keys)
    yield from settings.initial_policies.values()
    if settings.identity.deny_list is not None:
        yield settings.identity.deny_list


def _files(paths: Iterable[Path]) -> list[Path]:
    return list(dict.fromkeys(path for path in paths if _mode(path)))


def _mode(path: Path) -> int:
    """Permissions of a file; 0 where it is not there, which is said elsewhere."""
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _named(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))
