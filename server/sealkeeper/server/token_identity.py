"""Callers with a token of an OIDC issuer, ``authorization: Bearer …`` (RFC 6750): a JWT that becomes a ``Principal``.

A token is looked at in this order, so that what is cheap and needs nobody else comes first: form and header, issuer and
algorithm, audience and times, signature, whose it is, and last whether it was used elsewhere (RFC 8725 for most of it).
One that was found good is remembered until it ends; what can change meanwhile is checked with each call.

Tokens are secrets: none is in an error, its chain of causes, a log line or a ``repr``; memories hold hashes of them.
"""

from __future__ import annotations

import base64
import binascii
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import jwt
import msgspec

from sealkeeper.server.errors import ConfigurationError, UnauthenticatedError
from sealkeeper.server.identity import Caller, Method, Principal
from sealkeeper.server.identity_settings import ALGORITHMS, IssuerKind, IssuerSettings, Replay
from sealkeeper.server.issuer_keys import IssuerKey, IssuerKeys
from sealkeeper.server.people import People
from sealkeeper.server.token_claims import (
    Claims,
    Standard,
    attributes_of,
    expired,
    malformed,
    person_of,
    rule_of,
    unknown_person,
)
from sealkeeper.server.token_replay import UsedTokens, replayed
from sealkeeper.verify.strict_json import JsonError, Value

MAX_TOKEN = 8192
"""Characters of a token."""

MAX_REMEMBERED = 4096
"""Good tokens that are remembered."""

_MAX_VALUES = 1000
_MAX_KID = 255
_BEARER = re.compile(r"(?i:bearer) +([!-~]+)")
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)")
_TYPES = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
_BINDINGS: Mapping[IssuerKind, Replay] = {
    "github": "connection",
    "buildkite": "connection",
    "gitlab": "address",
    "circleci": "address",
    "kubernetes": "address",
    "generic": "address",
}
_jws = jwt.PyJWS(algorithms=list(ALGORITHMS))


class _Issuer(msgspec.Struct, frozen=True, eq=False):
    settings: IssuerSettings
    audiences: tuple[str, ...]
    keys: IssuerKeys
    used: UsedTokens


class _Remembered(msgspec.Struct, frozen=True, eq=False):
    """A token that was found good, and what must still hold: ``end`` has the leeway in it, in seconds."""

    principal: Principal
    issuer: _Issuer
    key: IssuerKey
    end: float
    place: str


class _Token(msgspec.Struct, frozen=True, eq=False):
    signed: str
    header: Mapping[str, Any]
    claims: Claims


class TokenAuthenticator:
    """Tokens of the issuers that are configured. Reads their CA files, which blocks.

    Args:
        domain: the gateway's domain; ``https://`` and it is the audience where the settings name none.
        issuers: settings, by name.
        people: who is known by more than one identity.
        started: when this process began to remember used tokens, UTC.
        clock: seconds that only go forward, for the issuers' keys; injected in tests.

    Raises:
        ConfigurationError: two issuers have the same ``iss``, or a CA file cannot be used.
    """

    def __init__(
        self,
        domain: str,
        issuers: Mapping[str, IssuerSettings],
        people: People,
        started: datetime,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._people = people
        self._started = started.timestamp()
        self._memory = _Memory(MAX_REMEMBERED)
        self._issuers: dict[str, _Issuer] = {}
        for name, settings in issuers.items():
            if settings.issuer in self._issuers:
                raise ConfigurationError(
                    f"issuers.{name}.issuer: another one is the same", next_step="put the principals of both into one"
                )
            audiences = tuple(settings.audiences) or (f"https://{domain}",)
            shared = len({rule.tenant for rule in settings.principals}) > 1
            used = UsedTokens(settings.replay or _BINDINGS[settings.kind], shared=shared)
            self._issuers[settings.issuer] = _Issuer(settings, audiences, IssuerKeys(name, settings, clock), used)

    @property
    def ages(self) -> dict[str, Callable[[], float]]:
        """By issuer, what tells the seconds since its keys were last had from it."""
        return {name: one.keys.age for name, one in self._issuers.items()}

    async def start(self) -> None:
        """Get the issuers' keys. Does not wait for issuers on the network.

        Raises:
            ConfigurationError: a file of keys cannot be used.
        """
        try:
            for issuer in self._issuers.values():
                await issuer.keys.start()
        except ConfigurationError:
            await self.close()
            raise

    async def close(self) -> None:
        """Ask issuers for nothing more."""
        for issuer in self._issuers.values():
            await issuer.keys.close()

    async def authenticate(self, caller: Caller, now: datetime) -> Principal:
        """As ``Authenticator`` has it. The same token gives the same principal, the object itself."""
        text = _bearer(caller.metadata.get("authorization"))
        digest = sha256(text.encode("ascii")).digest()
        known = self._memory.get(digest)
        if known is not None and known.issuer.keys.holds(known.key):
            return self._again(known, digest, caller.peer, now)
        token = _parse(text)
        issuer = self._issuer_of(token.claims)
        standard = Standard.of(token.claims)
        _require_algorithm(token.header, issuer.settings.algorithms)
        standard.require_good(issuer.audiences, issuer.settings, now)
        key = _verify(text, token.header, await issuer.keys.find(token.header.get("kid", "")))
        principal = self._principal(issuer, standard, token.claims)
        self._require_first_use(issuer, standard, token.signed, caller.peer, now, principal.tenant)
        end = standard.end + issuer.settings.leeway.total_seconds()
        return self._memory.add(
            digest, _Remembered(principal, issuer, key, end, issuer.used.place_of(caller.peer)), known
        )

    def _again(self, known: _Remembered, digest: bytes, peer: str, now: datetime) -> Principal:
        if now.timestamp() > known.end:
            self._memory.forget(digest)
            raise expired()
        if known.issuer.used.place_of(peer) != known.place:
            raise replayed()
        return known.principal

    def _issuer_of(self, claims: Claims) -> _Issuer:
        name = claims.get("iss")
        if not isinstance(name, str):
            raise malformed("has no issuer (iss)")
        issuer = self._issuers.get(name)
        if issuer is None:
            raise UnauthenticatedError(
                "the token is of an issuer that this gateway does not know (iss)",
                reason="TOKEN_ISSUER_UNKNOWN",
                next_step="have the issuer added to issuers of the gateway's settings",
            )
        return issuer

    def _principal(self, issuer: _Issuer, standard: Standard, claims: Claims) -> Principal:
        settings = issuer.settings
        attributes = attributes_of(settings.kind, claims, settings.protected_refs)
        rule = rule_of(settings.principals, claims)
        subject = f"{standard.issuer}#{standard.subject}"
        person = self._people.name_of(subject)
        if not person and rule.person:
            person = person_of(rule.person, claims)
            # A name of [people] belongs to the identities that are listed there.
            if person in self._people:
                raise unknown_person()
        return Principal(
            tenant=rule.tenant,
            subject=subject,
            role=rule.role,
            not_after=datetime.fromtimestamp(standard.end, UTC),
            method=Method.TOKEN,
            person=person,
            issuer=standard.issuer,
            attributes=attributes,
            acr=standard.acr,
            amr=standard.amr,
        )

    def _require_first_use(
        self, issuer: _Issuer, standard: Standard, signed: str, peer: str, now: datetime, tenant: str
    ) -> None:
        # What was used before the gateway started is not known any more.
        if issuer.used.binding == "connection" and standard.issued < self._started:
            raise replayed()
        # Signatures of one token can differ (ECDSA), what is signed cannot. An id counts with its subject: who chooses
        # ids, or guesses them, takes no other's.
        token_id = f"jti {standard.token_id}#{standard.subject}" if standard.token_id else f"jws {signed}"
        end = standard.end + issuer.settings.leeway.total_seconds()
        issuer.used.use(token_id, peer, end, now.timestamp(), tenant)


class _Memory:
    """Good tokens by digest, the longest unused first to go, of the tenant that has most of them.

    So whoever can get many tokens pushes out their own tenant's alone; and only good tokens come in.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tokens: dict[bytes, _Remembered] = {}
        self._of_tenant: dict[str, OrderedDict[bytes, None]] = {}

    def get(self, digest: bytes) -> _Remembered | None:
        found = self._tokens.get(digest)
        if found is not None:
            self._of_tenant[found.principal.tenant].move_to_end(digest)
        return found

    def add(self, digest: bytes, token: _Remembered, before: _Remembered | None) -> Principal:
        """Remember it; the principal is the one that this token gave before, where it did."""
        before = self._tokens.get(digest, before)
        if before is not None and before.principal == token.principal:
            token = msgspec.structs.replace(token, principal=before.principal)
        self.forget(digest)
        if len(self._tokens) >= self._limit:
            most: OrderedDict[bytes, None] = max(self._of_tenant.values(), key=len)
            self.forget(next(iter(most)))
        self._tokens[digest] = token
        self._of_tenant.setdefault(token.principal.tenant, OrderedDict())[digest] = None
        return token.principal

    def forget(self, digest: bytes) -> None:
        found = self._tokens.pop(digest, None)
        if found is not None:
            del self._of_tenant[found.principal.tenant][digest]


def _bearer(value: str | bytes | None) -> str:
    if not isinstance(value, str):
        raise malformed("is missing: authorization must be Bearer and a token")
    if len(value) > MAX_TOKEN + 32:
        raise _too_large()
    match = _BEARER.fullmatch(value)
    if match is None:
        raise malformed("is not there alone: authorization must be Bearer and one token")
    if len(match[1]) > MAX_TOKEN:
        raise _too_large()
    return match[1]


def _too_large() -> UnauthenticatedError:
    return UnauthenticatedError(
        f"the token has more than {MAX_TOKEN} characters",
        reason="TOKEN_TOO_LARGE",
        next_step="ask the issuer for a token with fewer claims, such as without groups",
    )


def _parse(text: str) -> _Token:
    """A JWS in compact form whose payload is a JSON object (RFC 7515 section 3.1, RFC 7519 section 7.2)."""
    match = _COMPACT.fullmatch(text)
    if match is None:
        raise malformed("is not three parts of base64url with dots between")
    header, claims = _json(match[1], "header"), _json(match[2], "payload")
    _require_plain_header(header)
    if not match[3] or header["alg"].lower() == "none":
        raise UnauthenticatedError(
            "the token is not signed", reason="TOKEN_UNSIGNED", next_step="get a token that its issuer has signed"
        )
    return _Token(text[: match.end(2)], header, claims)


def _json(part: str, what: str) -> dict[str, Any]:
    try:
        data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
        value = Value.parse(data, MAX_TOKEN, _MAX_VALUES).json
    except (binascii.Error, ValueError, JsonError):
        value = None
    if not isinstance(value, dict):
        raise malformed(f"has a {what} that is no JSON object, or one with a name twice")
    return value


def _require_plain_header(header: Mapping[str, Any]) -> None:
    # Keys that the header brings along or points at (jku, jwk, x5u, x5c) are not looked at.
    if "crit" in header or "b64" in header:
        raise malformed("has a header with extensions (crit)")
    algorithm, kid, kind = header.get("alg"), header.get("kid", "-"), header.get("typ", "JWT")
    if not isinstance(algorithm, str):
        raise malformed("has a header without an algorithm (alg)")
    if not isinstance(kid, str) or not 0 < len(kid) <= _MAX_KID:
        raise malformed(f"has a header whose kid is not 1 to {_MAX_KID} characters")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise malformed("has a header of another type than JWT (typ)")


def _require_algorithm(header: Mapping[str, Any], algorithms: Sequence[str]) -> None:
    if header["alg"] not in algorithms:
        raise _algorithm_refused()


def _algorithm_refused() -> UnauthenticatedError:
    return UnauthenticatedError(
        "the token is signed with an algorithm that is not its issuer's, or not its key's (alg)",
        reason="TOKEN_ALGORITHM_REFUSED",
        next_step="have the algorithm added to issuers.*.algorithms, where it is the issuer's",
    )


def _verify(text: str, header: Mapping[str, Any], keys: Sequence[IssuerKey]) -> IssuerKey:
    algorithm = header["alg"]
    fit = [key for key in keys if algorithm in key.algorithms]
    if not fit:
        raise _algorithm_refused()
    for key in fit:
        try:
            _jws.decode_complete(text, key.public, [algorithm])
        except (jwt.PyJWTError, ValueError):
            continue
        return key
    raise UnauthenticatedError(
        "the token's signature is not its issuer's",
        reason="TOKEN_SIGNATURE_INVALID",
        next_step="get a new token, and send it as the issuer gave it",
    )
