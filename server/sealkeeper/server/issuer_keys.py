"""The public keys of one issuer of tokens (RFC 7517): found, remembered, and asked for again in time.

They come by OpenID Connect Discovery, from a URL or from a file. A set is asked for again before its time is up, and
when a token names a key that is not in it; never more often than ``PACE`` allows, however many such tokens come. While
the issuer does not answer, the last set is used for as long as the settings say.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import aiohttp
import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from sealkeeper.server.errors import (
    ConfigurationError,
    IssuerUnavailableError,
    OverloadedError,
    UnauthenticatedError,
)
from sealkeeper.server.identity_settings import IssuerSettings
from sealkeeper.server.setting_types import is_loopback
from sealkeeper.verify.strict_json import JsonError, Value

_log = logging.getLogger("sealkeeper.issuers")
PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

MAX_DOCUMENT = 1024 * 1024
MAX_KEYS = 100
MAX_WAITING = 256
"""Calls of an issuer that wait for one refresh."""

PACE = 10.0
"""Seconds from one attempt to get the keys to the next, at least."""

INTERVAL = 600.0
"""Seconds for which a set is good where the issuer does not say less."""

FILE_INTERVAL = 10.0
"""The same, of a file."""

TIMEOUT = 5.0
"""Seconds that an attempt may take, discovery included."""

_DISCOVERY = "/.well-known/openid-configuration"
_MAX_VALUES = 5_000
_MAX_KID = 255
_MAX_SAME = 4
_MIN_RSA = 2048
_MAX_RSA = 8192
# Characters of base64url: of a modulus as long as is allowed, and of an exponent of 32 bits.
_MAX_PARAMETER = 1366
_MAX_EXPONENT = 6
# Asked for again when this part of its time is over.
_EARLY = 0.8
_SLOWEST_RETRY = 60.0
_MAX_AGE = re.compile(r"(?:^|[,\s])max-age=\"?([0-9]{1,9})", re.IGNORECASE)
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}


class IssuerKey(msgspec.Struct, frozen=True, eq=False):
    """A public key of an issuer, told apart from others by being another object.

    Attributes:
        kid: names it; empty where it has no name.
        algorithms: of signatures that it may be used for.
        public: the key.
    """

    kid: str
    algorithms: frozenset[str]
    public: PublicKey


class _KeySetError(Exception):
    """A set cannot be had; the text says why, in our own words."""


# What comes of asking for keys where it goes wrong.
_FAILURES = (_KeySetError, JsonError, TimeoutError, OSError, EOFError, aiohttp.ClientError, ValueError)


class _Fetched(msgspec.Struct, frozen=True):
    data: bytes
    good_for: float
    date: str = ""


class Published(msgspec.Struct, frozen=True):
    """What an issuer publishes now.

    Attributes:
        keys: that signatures can be verified with.
        others: how many keys beside, which are passed over: of another kind or use, or too short.
        date: when it says that it answered (RFC 9110 section 6.6.1); empty where it does not, and of a file.
        problem: why its keys cannot be had; empty where they can.
    """

    keys: tuple[IssuerKey, ...] = ()
    others: int = 0
    date: str = ""
    problem: str = ""


class IssuerKeys:
    """Of one issuer. Used from one event loop.

    Args:
        name: of the issuer in the settings.
        settings: of the issuer. Its CA file is read here, which blocks.
        clock: seconds that only go forward; injected in tests.

    Raises:
        ConfigurationError: the CA file cannot be used.
    """

    def __init__(self, name: str, settings: IssuerSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._settings = settings
        self._clock = clock
        self._tls = _tls_context(name, settings)
        self._stale = settings.stale.total_seconds()
        self._data: bytes | None = None
        self._by_content: dict[bytes, IssuerKey] = {}
        self._by_name: dict[str, tuple[IssuerKey, ...]] = {}
        self._all: frozenset[IssuerKey] = frozenset()
        self._good_until = -1.0
        self._had_at = clock()
        self._next_attempt = -1.0
        self._failures = 0
        self._waiting = 0
        self._refreshing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.problem = "they were not asked for yet"
        """Why the last attempt failed; empty where it did not."""

    async def start(self) -> None:
        """Get the keys for the first time, and again in time from now on.

        Does not wait for an issuer, which may be away when the gateway starts.

        Raises:
            ConfigurationError: the file of the keys cannot be used.
        """
        task = self._begin()
        if self._settings.jwks_file is not None:
            await asyncio.shield(task)
            if self.problem:
                raise ConfigurationError(
                    f"issuers.{self._name}.jwks_file: {self._settings.jwks_file} {self.problem}",
                    next_step="name a file with the issuer's JSON Web Key Set",
                )

    async def close(self) -> None:
        """Ask for them no more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)

    def holds(self, key: IssuerKey) -> bool:
        """Whether a key is still the issuer's, as far as is known, and the set not too old to tell."""
        now = self._clock()
        if now > self._good_until:
            self._begin_if_due(now)
        return key in self._all and self._usable(now)

    async def find(self, kid: str) -> tuple[IssuerKey, ...]:
        """Keys that a token may have been signed with.

        Args:
            kid: as the token names the key; empty for the only one.

        Raises:
            UnauthenticatedError: there is no such key.
            IssuerUnavailableError: the issuer does not say whether there is.
            OverloadedError: too many calls wait for the issuer.
        """
        now = self._clock()
        if now > self._good_until:
            self._begin_if_due(now)
        found = self._known(kid, now)
        if not found and (self._refreshing is not None or now >= self._next_attempt):
            await self._refreshed()
            now = self._clock()
            found = self._known(kid, now)
        if found:
            return found
        retry_after = timedelta(seconds=max(1.0, self._next_attempt - now))
        if self.problem or not self._usable(now):
            raise IssuerUnavailableError(
                "the issuer of the token does not give its keys",
                next_step="retry; if it stays so, those who run the gateway find why in its log lines",
                retry_after=retry_after,
            )
        raise UnauthenticatedError(
            "the token was signed with a key that is none of its issuer's",
            reason="TOKEN_KEY_UNKNOWN",
            next_step="get a new token; where the issuer has just changed its keys, retry after the time given",
            retry_after=retry_after,
        )

    def _known(self, kid: str, now: float) -> tuple[IssuerKey, ...]:
        if not self._usable(now):
            return ()
        if kid:
            return self._by_name.get(kid, ())
        return tuple(self._all) if len(self._all) == 1 else ()

    def age(self) -> float:
        """Seconds since the keys were last had from the issuer, or since they were first asked for. From any thread."""
        return self._clock() - self._had_at

    def _usable(self, now: float) -> bool:
        return bool(self._all) and now <= self._good_until + self._stale

    # Getting them.

    async def _refreshed(self) -> None:
        if self._waiting >= MAX_WAITING:
            raise OverloadedError("too many calls wait for the keys of the issuer", retry_after=timedelta(seconds=1))
        self._waiting += 1
        try:
            # One caller that hangs up must not take it from the others.
            await asyncio.shield(self._begin())
        finally:
            self._waiting -= 1

    def _begin_if_due(self, now: float) -> None:
        if self._refreshing is None and now >= self._next_attempt and not self._closed:
            self._begin()

    def _begin(self) -> asyncio.Task[None]:
        if self._refreshing is None:
            self._next_attempt = self._clock() + PACE
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh())
        return self._refreshing

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(TIMEOUT):
                fetched = await self.fetch()
                if fetched.data != self._data:
                    keys = await asyncio.to_thread(read_keys, fetched.data)
                    self._take(keys, fetched.data)
        except _FAILURES as error:
            self._failed(_said(error))
        else:
            self._had_at = self._clock()
            self._good_until = self._had_at + fetched.good_for
            self._failures, self.problem = 0, ""
        finally:
            self._refreshing = None
            self._set_timer()

    def _take(self, keys: Mapping[bytes, IssuerKey], data: bytes) -> None:
        # A key that stays is the same object, so that what was verified with it stays good.
        self._by_content = {content: self._by_content.get(content, key) for content, key in keys.items()}
        by_name: dict[str, list[IssuerKey]] = {}
        for key in self._by_content.values():
            by_name.setdefault(key.kid, []).append(key)
        # Each is tried with a token that names it, whoever made that.
        self._by_name = {kid: tuple(some[:_MAX_SAME]) for kid, some in by_name.items() if kid}
        self._all, self._data = frozenset(self._by_content.values()), data

    def _failed(self, problem: str) -> None:
        self._failures += 1
        self.problem = problem
        _log.warning("issuers.%s: its keys %s; those known are %s", self._name, problem, len(self._all))

    def _set_timer(self) -> None:
        if self._closed:
            return
        now = self._clock()
        due = max(self._next_attempt, now + (self._good_until - now) * _EARLY)
        if self._failures:
            due = self._next_attempt + min(PACE * (2 ** min(self._failures - 1, 8)), _SLOWEST_RETRY) - PACE
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(max(due - now, 0.1), self._on_time)

    def _on_time(self) -> None:
        if self._refreshing is None:
            self._begin_if_due(self._clock())
        if self._refreshing is None:
            self._set_timer()

    async def fetch(self) -> _Fetched:
        """Get the set once, and leave what is known as it is."""
        settings = self._settings
        if settings.jwks_file is not None:
            return _Fetched(await asyncio.to_thread(_read_file, settings), FILE_INTERVAL)
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=1)
        async with aiohttp.ClientSession(
            connector=connector,
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as session:
            url = settings.jwks_uri or await self._discover(session)
            return await _get(session, url)

    async def _discover(self, session: aiohttp.ClientSession) -> str:
        issuer = self._settings.issuer
        document = Value.parse((await _get(session, issuer.rstrip("/") + _DISCOVERY)).data, MAX_DOCUMENT, _MAX_VALUES)
        # OpenID Connect Discovery section 4.3: else one issuer could speak for another.
        if document.member("issuer").text() != issuer:
            raise _KeySetError("cannot be found: the discovery document is another issuer's")
        url = document.member("jwks_uri").text()
        if not _is_safe(url, issuer):
            raise _KeySetError("cannot be found: the discovery document names no https:// URL for them")
        return url


async def published_keys(name: str, settings: IssuerSettings) -> Published:
    """Ask an issuer for its keys once, as the gateway does, for whoever wants to know what becomes of that.

    Args:
        name: of the issuer in the settings.
        settings: of the issuer.

    Raises:
        ConfigurationError: the CA file cannot be used.
    """
    asked = IssuerKeys(name, settings)
    try:
        async with asyncio.timeout(TIMEOUT):
            fetched = await asked.fetch()
        keys = tuple(read_keys(fetched.data).values())
        count = len(Value.parse(fetched.data, MAX_DOCUMENT, _MAX_VALUES).member("keys").items(MAX_KEYS))
    except _FAILURES as error:
        return Published(problem=_said(error))
    return Published(keys, count - len(keys), fetched.date)


def read_keys(data: bytes) -> dict[bytes, IssuerKey]:
    """The keys of a JSON Web Key Set that signatures can be verified with, by content; others are passed over.

    Raises:
        JsonError: it is no such set, or has more than ``MAX_KEYS`` keys.
    """
    found = {}
    for one in Value.parse(data, MAX_DOCUMENT, _MAX_VALUES).member("keys").items(MAX_KEYS):
        key = _key(one.json) if isinstance(one.json, dict) else None
        if key is not None:
            found[_content(key)] = key
    return found


def _key(jwk: Mapping[str, Any]) -> IssuerKey | None:
    kid, operations = jwk.get("kid", ""), jwk.get("key_ops", ["verify"])
    algorithms = _algorithms(jwk)
    usable = bool(algorithms) and jwk.get("use", "sig") == "sig"
    named = isinstance(kid, str) and len(kid) <= _MAX_KID
    if not usable or not named or not isinstance(operations, list) or "verify" not in operations:
        return None
    if not _is_small_and_public(jwk):
        return None
    try:
        public = jwt.PyJWK(dict(jwk), min(algorithms)).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return None
    if isinstance(public, rsa.RSAPublicKey) and not _MIN_RSA <= public.key_size <= _MAX_RSA:
        return None
    if not isinstance(public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        return None
    return IssuerKey(kid, algorithms, public)


def _is_small_and_public(jwk: Mapping[str, Any]) -> bool:
    """Whether it can be read, and used, without work that its issuer has set the amount of.

    A private key that is published signs for everybody; to read it, what is missing of it would be computed first, with
    numbers of any length. With a long exponent each verification takes milliseconds.
    """
    if "d" in jwk:
        return False
    long = any(isinstance(one, str) and len(one) > _MAX_PARAMETER for one in (jwk.get(name) for name in "nexy"))
    exponent = jwk.get("e", "")
    return not long and isinstance(exponent, str) and len(exponent) <= _MAX_EXPONENT


def _algorithms(jwk: Mapping[str, Any]) -> frozenset[str]:
    """What a key can be used for by its type, or the one of it that it says."""
    kind, curve = jwk.get("kty"), jwk.get("crv")
    possible: frozenset[str] = frozenset()
    if kind == "RSA":
        possible = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
    elif kind == "EC" and isinstance(curve, str) and curve in _CURVES:
        possible = frozenset({_CURVES[curve]})
    elif kind == "OKP" and curve == "Ed25519":
        possible = frozenset({"EdDSA"})
    said = jwk.get("alg")
    if said is None:
        return possible
    return possible & {said} if isinstance(said, str) else frozenset()


def _content(key: IssuerKey) -> bytes:
    if isinstance(key.public, rsa.RSAPublicKey):
        modulus = key.public.public_numbers()
        material = (modulus.n, modulus.e)
    elif isinstance(key.public, ec.EllipticCurvePublicKey):
        point = key.public.public_numbers()
        material = (point.x, point.y)
    else:
        material = (int.from_bytes(key.public.public_bytes_raw(), "big"), 0)
    return msgspec.json.encode((key.kid, sorted(key.algorithms), *map(str, material)))


async def _get(session: aiohttp.ClientSession, url: str) -> _Fetched:
    async with session.get(url, allow_redirects=False) as response:
        if response.status != 200:
            raise _KeySetError(f"cannot be had: the answer has status {response.status}")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise _KeySetError("cannot be had: the answer is compressed, which was not asked for")
        data = bytearray()
        async for piece in response.content.iter_any():
            data += piece
            if len(data) > MAX_DOCUMENT:
                raise _KeySetError(f"cannot be had: the answer has more than {MAX_DOCUMENT} bytes")
        headers = response.headers
        return _Fetched(bytes(data), _good_for(headers.get("Cache-Control", "")), headers.get("Date", ""))


def _good_for(cache_control: str) -> float:
    match = _MAX_AGE.search(cache_control)
    return INTERVAL if match is None else min(max(float(match[1]), PACE), INTERVAL)


def _is_safe(url: str, issuer: str) -> bool:
    parts = urlsplit(url)
    if "@" in parts.netloc:
        return False
    if parts.scheme == "https":
        return bool(parts.netloc)
    return parts.scheme == "http" == urlsplit(issuer).scheme and is_loopback(parts.netloc)


def _read_file(settings: IssuerSettings) -> bytes:
    path = settings.jwks_file
    if path is None:
        raise _KeySetError("have no file")
    with path.open("rb") as file:
        data = file.read(MAX_DOCUMENT + 1)
    if len(data) > MAX_DOCUMENT:
        raise _KeySetError(f"cannot be had: the file has more than {MAX_DOCUMENT} bytes")
    return data


def _said(error: Exception) -> str:
    """What to say of a failure: never what the other side sent."""
    if isinstance(error, _KeySetError):
        return str(error)
    if isinstance(error, TimeoutError):
        return "were not had in time"
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return "cannot be had: TLS does not trust the issuer's certificate"
    if isinstance(error, JsonError):
        return "cannot be read: the document is not what it should be"
    if isinstance(error, OSError) and not isinstance(error, aiohttp.ClientError):
        return f"cannot be read: {error.strerror}"
    return f"cannot be had: {type(error).__name__}"


def _tls_context(name: str, settings: IssuerSettings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if settings.ca is None else str(settings.ca))
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else None
        raise ConfigurationError(
            f"issuers.{name}.ca: {settings.ca} {problem or 'holds no certificate that can be read'}",
            next_step="name a PEM file of CA certificates",
        ) from None
