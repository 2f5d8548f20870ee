"""HTTP with registries, bounded in time and size, and kept from where it must not go.

A request has one deadline over name resolution, TLS, logging in, redirects and the last byte of the answer. Plaintext
is for loopback, and for hosts that are named as insecure. Only blobs are redirected, without credentials.

Proxies of the environment are honoured (``HTTPS_PROXY``, ``NO_PROXY``). A proxy resolves names by itself, so that
addresses cannot be checked here: it must keep requests from where they must not go.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from threading import Lock
from typing import TypeAlias
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from urllib3 import BaseHTTPResponse, ProxyManager, Timeout, make_headers
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import HTTPError, NewConnectionError, ProtocolError, SSLError
from urllib3.exceptions import TimeoutError as HTTPTimeoutError
from urllib3.util import parse_url

from sealkeeper.registry.addresses import (
    Locality,
    Resolve,
    addresses_of,
    is_address,
    is_loopback_name,
    locality_of,
    system_resolver,
)
from sealkeeper.registry.connection import HTTPPool, TLSPool, tls_context
from sealkeeper.registry.deadline import Deadline
from sealkeeper.registry.errors import (
    MalformedError,
    PlaintextRefusedError,
    RedirectRefusedError,
    RegistryError,
    RegistryTimeoutError,
    RegistryUnavailableError,
    TooLargeError,
)
from sealkeeper.registry.reference import DOCKER_HUB

MAX_REDIRECTS = 5
_MAX_URL = 8 * 1024
_MAX_POOLS = 64
_MAX_EXPLANATION = 64 * 1024
_PIECE = 64 * 1024
_AGENT = "sealkeeper"
_Key: TypeAlias = tuple[str, str, int, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Hosts:
    """What is allowed with which hosts; each as references write it, with its port where it has one.

    Attributes:
        insecure: are spoken to without TLS.
        secure: are spoken to with TLS although they are at a loopback address by their name.
        local: registries that may be at private or loopback addresses; ``None`` allows all registries that are asked
            for, which is for those who choose the images by themselves. Link-local addresses are for none.
    """

    insecure: frozenset[str] = frozenset()
    secure: frozenset[str] = frozenset()
    local: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask.

    Attributes:
        method: of HTTP.
        url: where, absolute.
        headers: to send with it.
        body: to send with it.
        limit: most bytes of the answer that are taken.
        redirects: how many are followed.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)
    limit: int = 1024 * 1024
    redirects: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, of any status.

    Attributes:
        status: of HTTP.
        headers: by lower-case name.
        body: at most the request's limit.
        url: that answered.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    url: str


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a request goes: its addresses are checked; none where a proxy is asked."""

    scheme: str
    host: str
    port: int
    addresses: tuple[str, ...]


class Transport:
    """HTTP with registries. Used by several threads.

    Args:
        hosts: what is allowed.
        ca_file: PEM file of CAs to trust instead of the system's.
        proxies: by scheme; ``None`` takes those of the environment.
        resolve: asks for addresses.
    """

    def __init__(
        self,
        hosts: Hosts | None = None,
        ca_file: Path | None = None,
        proxies: Mapping[str, str] | None = None,
        resolve: Resolve = system_resolver,
    ) -> None:
        self._hosts = hosts or Hosts()
        self._ca_file = ca_file
        self._proxies = getproxies() if proxies is None else dict(proxies)
        self._resolve = resolve
        self._lock = Lock()
        self._context: ssl.SSLContext | None = None  # with the lock
        self._pools: dict[_Key, HTTPConnectionPool] = {}  # with the lock; what was used last is last
        self._managers: dict[str, ProxyManager] = {}  # with the lock

    def base_url(self, registry: str) -> str:
        """Where a registry's API is; without a slash at the end."""
        if registry == DOCKER_HUB:
            return "https://registry-1.docker.io"
        return f"{'http' if self._is_plain(registry) else 'https'}://{registry}"

    def send(self, request: Request, registry: str, deadline: Deadline) -> Answer:
        """Ask, and take the answer whatever its status is.

        Args:
            request: what.
            registry: on whose behalf: what it names beyond itself must not be more local than it is.
            deadline: for all of it.

        Raises:
            RegistryUnavailableError: there is no answer.
            RegistryTimeoutError: there is none in time.
            TooLargeError: it is larger than the request's limit.
            RedirectRefusedError: it is a redirect that is not followed.
            AddressRefusedError: it would be asked where nobody must ask.
            MalformedError: it is no HTTP, or encoded.
        """
        url, headers = request.url, {"User-Agent": _AGENT, "Accept-Encoding": "identity", **request.headers}
        for _ in range(request.redirects + 1):
            place = self._place(url, registry, deadline)
            answer, target = self._ask(request, url, headers, place, deadline)
            if target is None:
                return answer
            url = self._redirected(url, target, registry)
            # Not even to the same host: where blobs are kept, a signed URL is all that is asked for.
            headers.pop("Authorization", None)
        followed = f"after {request.redirects} others" if request.redirects else f"of {request.method}"
        raise RedirectRefusedError(f"{registry}: its redirect {followed} is not followed")

    def is_same_origin(self, url: str, registry: str) -> bool:
        """Whether a URL is at the registry itself."""
        return _origin(url, registry) == _origin(self.base_url(registry), registry)

    def _ask(
        self, request: Request, url: str, headers: Mapping[str, str], place: _Place, deadline: Deadline
    ) -> tuple[Answer, str | None]:
        # One that was open may have been closed meanwhile, which says nothing about the registry.
        tries = 2 if request.method in ("GET", "HEAD") else 1
        while True:
            tries -= 1
            try:
                response = self._open(request, url, headers, place, deadline)
                return self._taken(response, request, url, place, deadline)
            except ProtocolError:
                if not tries:
                    raise RegistryUnavailableError(f"{place.host}: the connection broke") from None
            except RegistryError:
                raise
            except (HTTPError, HTTPException, OSError, ValueError) as error:
                raise _failure(place.host, error) from None

    def _open(
        self, request: Request, url: str, headers: Mapping[str, str], place: _Place, deadline: Deadline
    ) -> BaseHTTPResponse:
        left = deadline.remaining(place.host)
        pool, target = self._pool(place, url)
        return pool.urlopen(
            request.method,
            target,
            body=request.body,
            headers=headers,
            retries=False,
            redirect=False,
            timeout=Timeout(total=left),
            preload_content=False,
            decode_content=False,
            assert_same_host=False,
        )

    def _taken(
        self, response: BaseHTTPResponse, request: Request, url: str, place: _Place, deadline: Deadline
    ) -> tuple[Answer, str | None]:
        whole = False
        try:
            # One that is there several times becomes a list, which none of those is that only one may be of.
            headers = {name.lower(): response.headers[name] for name in response.headers}
            if headers.get("content-encoding", "identity").lower() != "identity":
                raise MalformedError(f"{place.host}: the answer is compressed, which was not asked for")
            if response.status in (301, 302, 303, 307, 308):
                return Answer(response.status, headers, b"", url), headers.get("location", "")
            body, whole = b"", True
            if request.method != "HEAD":
                body, whole = _read(response, request.limit, place.host, deadline)
            return Answer(response.status, headers, body, url), None
        finally:
            if not whole:
                response.close()
            response.release_conn()

    def _redirected(self, url: str, target: str, registry: str) -> str:
        found = urljoin(url, target)
        good = found.startswith("https://") or self.is_same_origin(found, registry)
        if not target or len(found) > _MAX_URL or not good:
            raise RedirectRefusedError(f"{registry}: redirects to what is no https:// URL")
        return found

    def _place(self, url: str, registry: str, deadline: Deadline) -> _Place:
        scheme, host, port = _origin(url, registry)
        own = self.is_same_origin(url, registry)
        if scheme == "http" and not (own or self._is_plain(_authority(host, port))):
            raise PlaintextRefusedError(f"{registry}: names {host}, which would be asked without TLS")
        proxied = self._proxy(scheme, host) is not None
        if proxied and not is_address(host):
            return _Place(scheme, host, port, ())
        most = Locality.LOOPBACK if self._may_be_local(registry) else Locality.PUBLIC
        if not own and most > Locality.PUBLIC:
            # What the registry names may be as local as it is itself.
            _, own_host, own_port = _origin(self.base_url(registry), registry)
            found = addresses_of(own_host, own_port, most, deadline, self._resolve)
            most = min(map(locality_of, found))
        addresses = addresses_of(host, port, most, deadline, self._resolve)
        if scheme == "http" and is_loopback_name(host) and min(map(locality_of, addresses)) < Locality.LOOPBACK:
            raise PlaintextRefusedError(f"{registry}: {host} is not at this machine, and would be asked without TLS")
        return _Place(scheme, host, port, () if proxied else addresses)

    def _may_be_local(self, registry: str) -> bool:
        return registry != DOCKER_HUB and (self._hosts.local is None or registry in self._hosts.local)

    def _is_plain(self, authority: str) -> bool:
        host = _host_of(authority)
        loopback = is_loopback_name(host) and authority not in self._hosts.secure
        return loopback or authority in self._hosts.insecure

    def _proxy(self, scheme: str, host: str) -> str | None:
        # What is meant for this machine is not sent to a proxy.
        if is_loopback_name(host) or proxy_bypass(host):
            return None
        return self._proxies.get(scheme) or self._proxies.get("all")

    def _pool(self, place: _Place, url: str) -> tuple[HTTPConnectionPool, str]:
        proxy = self._proxy(place.scheme, place.host)
        with self._lock:
            if self._context is None and (place.scheme == "https" or proxy):
                self._context = _tls(self._ca_file)
            if proxy:
                manager = self._managers.get(proxy) or self._managers.setdefault(proxy, _manager(proxy, self._context))
                pool = manager.connection_from_host(place.host, place.port, place.scheme)
                return pool, url if place.scheme == "http" else _target(url)
            key = (place.scheme, place.host, place.port, tuple(sorted(place.addresses)))
            found = self._pools.pop(key, None) or self._new_pool(place)
            self._pools[key] = found
            if len(self._pools) > _MAX_POOLS:
                # Not closed: another thread may be about to use it. What nobody holds any more closes by itself.
                self._pools.pop(next(iter(self._pools)))
        return found, _target(url)

    def _new_pool(self, place: _Place) -> HTTPConnectionPool:
        if place.scheme == "http":
            return HTTPPool(place.host, place.port, maxsize=4, addresses=place.addresses)
        return TLSPool(place.host, place.port, maxsize=4, addresses=place.addresses, ssl_context=self._context)


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return tls_context(None if ca_file is None else str(ca_file))
    except OSError:
        wrong = f"{ca_file}: cannot be read, or has no certificate in PEM"
        raise RegistryError(wrong, next_step="correct the file of CAs") from None


def _manager(proxy: str, context: ssl.SSLContext | None) -> ProxyManager:
    parsed = parse_url(proxy if "://" in proxy else f"http://{proxy}")
    headers = make_headers(proxy_basic_auth=parsed.auth) if parsed.auth else None
    without = parsed._replace(auth=None).url
    manager = ProxyManager(without, proxy_headers=headers, maxsize=4, ssl_context=context)
    manager.pool_classes_by_scheme = {"http": HTTPPool, "https": TLSPool}
    return manager


def _read(response: BaseHTTPResponse, limit: int, host: str, deadline: Deadline) -> tuple[bytes, bool]:
    # Of what explains an error, the beginning will do.
    explains = response.status >= HTTPStatus.BAD_REQUEST
    most = _MAX_EXPLANATION if explains else limit
    said = response.headers.get("content-length", "")
    if said.isdigit() and int(said[:20]) > most and not explains:
        raise TooLargeError(f"{host}: the answer has {said[:20]} bytes; at most {most} are taken")
    body = bytearray()
    while piece := response.read(_PIECE, decode_content=False):
        body += piece
        deadline.remaining(host)
        if len(body) > most and not explains:
            raise TooLargeError(f"{host}: the answer has more than {most} bytes")
        if len(body) > most:
            return bytes(body[:most]), False
    return bytes(body), True


def _failure(host: str, error: Exception) -> RegistryError:
    # urllib3 counts refused connections among those that were not made in time.
    if isinstance(error, TimeoutError | HTTPTimeoutError) and not isinstance(error, NewConnectionError):
        return RegistryTimeoutError(f"{host}: no answer in time")
    if isinstance(error, SSLError | ssl.SSLError):
        return RegistryUnavailableError(f"{host}: TLS fails: {_tls_reason(error)}")
    if isinstance(error, HTTPException | ValueError):
        return MalformedError(f"{host}: the answer is not HTTP")
    return RegistryUnavailableError(f"{host}: no connection")


def _tls_reason(error: Exception) -> str:
    cause = error.args[0] if error.args and isinstance(error.args[0], Exception) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not good: {cause.verify_message}"
    return (getattr(cause, "reason", None) or "no TLS").lower().replace("_", " ")


def _origin(url: str, registry: str) -> tuple[str, str, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    good = parts.scheme in ("http", "https") and host and "@" not in parts.netloc and port != 0
    if not good or len(url) > _MAX_URL or not url.isascii() or not url.isprintable() or " " in url:
        raise RedirectRefusedError(f"{registry}: names what is no URL of http or https")
    return parts.scheme, host, port or (443 if parts.scheme == "https" else 80)


def _authority(host: str, port: int) -> str:
    shown = f"[{host}]" if ":" in host else host
    return shown if port in (80, 443) else f"{shown}:{port}"


def _host_of(authority: str) -> str:
    return (urlsplit(f"//{authority}").hostname or "").lower()


def _target(url: str) -> str:
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
