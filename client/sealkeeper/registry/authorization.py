"""How a registry is told who asks: Basic, or a token of the service that it names.

Sources: the OCI distribution spec leaves this open; the token protocol is that of the CNCF Distribution project's
"Token Authentication Specification" and "OAuth2 Token Authentication".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from threading import Lock
from typing import TypeAlias
from urllib.parse import urlencode

from sealkeeper.registry.credentials import Credentials, CredentialSource
from sealkeeper.registry.deadline import Deadline
from sealkeeper.registry.document import parse_object
from sealkeeper.registry.errors import MalformedError, RegistryDeniedError, RegistryUnavailableError
from sealkeeper.registry.transport import Answer, Request, Transport

PULL = "pull"
PUSH = "pull,push"
_MAX_ANSWER = 64 * 1024
_MAX_TOKENS = 512
_MAX_CHALLENGE = 8 * 1024
_MARGIN = 10.0
_BASIC_LIFE = 300.0
# Where a token's answer says nothing; so does the specification.
_LIFE = 60
_MAX_LIFE = 3600
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,32768}")
_SCHEME = re.compile(r"(?:^|,)\s*(Bearer|Basic)(?=[\s,]|$)", re.IGNORECASE)
_PARAMETER = re.compile(r'\s*,?\s*([A-Za-z_]+)\s*=\s*(?:"([^"\\]*)"|([^\s",]+))')
_Key: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class _Kept:
    header: str = field(repr=False)
    end: float


class Authorization:
    """Logs in to registries, and keeps what came of it for as long as it is good. Used by several threads.

    Args:
        transport: by which token services are asked.
        credentials: where they come from; ``None`` for none.
        clock: monotonic, seconds.
    """

    def __init__(self, transport: Transport, credentials: CredentialSource | None, clock: Callable[[], float]) -> None:
        self._transport = transport
        self._credentials = credentials
        self._clock = clock
        self._lock = Lock()
        self._kept: dict[_Key, _Kept] = {}  # with the lock

    def send(self, request: Request, registry: str, repository: str, actions: str, deadline: Deadline) -> Answer:
        """Ask a registry, and log in where it wants that.

        Args:
            request: what.
            registry: at which.
            repository: about which.
            actions: to be allowed: ``PULL`` or ``PUSH``.
            deadline: for all of it.

        Raises:
            RegistryDeniedError: it does not let these credentials, or nobody without any.
            RegistryError: as ``Transport.send``.
        """
        key = (registry, repository, actions)
        header = self._known(key)
        answer = self._transport.send(_with(request, header), registry, deadline)
        if answer.status == HTTPStatus.UNAUTHORIZED:
            challenge = answer.headers.get("www-authenticate", "")
            header = self._log_in(challenge, key, deadline)
            answer = self._transport.send(_with(request, header), registry, deadline)
        if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            with self._lock:
                self._kept.pop(key, None)
            raise RegistryDeniedError(f"{registry}/{repository}: the registry does not allow to {actions}")
        return answer

    def _known(self, key: _Key) -> str:
        with self._lock:
            kept = self._kept.get(key)
        return kept.header if kept and kept.end > self._clock() else ""

    def _log_in(self, challenge: str, key: _Key, deadline: Deadline) -> str:
        registry, repository, _ = key
        scheme, parameters = parse_challenge(challenge, registry)
        found = self._credentials.find(registry, repository, deadline) if self._credentials else None
        if scheme == "basic":
            if found is None or found.identity_token:
                raise RegistryDeniedError(f"{registry}: wants a username and a password, and there are none for it")
            header, life = found.basic(), _BASIC_LIFE
        else:
            token, life = self._token(parameters, found, key, deadline)
            header = f"Bearer {token}"
        with self._lock:
            self._kept.pop(key, None)
            self._kept[key] = _Kept(header, self._clock() + life - _MARGIN)
            if len(self._kept) > _MAX_TOKENS:
                self._kept.pop(next(iter(self._kept)))
        return header

    def _token(
        self, parameters: Mapping[str, str], found: Credentials | None, key: _Key, deadline: Deadline
    ) -> tuple[str, float]:
        registry, repository, actions = key
        scope = parameters.get("scope", "")
        # What the first request takes is less than what those after it will.
        if not scope or scope.startswith(f"repository:{repository}:"):
            scope = f"repository:{repository}:{actions}"
        asked = {"scope": scope}
        if service := parameters.get("service"):
            asked["service"] = service
        realm = parameters.get("realm", "")
        if found and found.identity_token:
            form = {**asked, "grant_type": "refresh_token", "refresh_token": found.identity_token}
            body = urlencode({**form, "client_id": "sealkeeper"}).encode()
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            request = Request("POST", realm, headers, body, _MAX_ANSWER)
        else:
            url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(asked)}"
            request = Request("GET", url, {"Authorization": found.basic()} if found else {}, None, _MAX_ANSWER)
        answer = self._transport.send(request, registry, deadline)
        return _granted(answer, f"{registry}: its token service")


def parse_challenge(challenge: str, registry: str) -> tuple[str, dict[str, str]]:
    """What a ``WWW-Authenticate`` header wants (RFC 9110 section 11.6.1): ``bearer`` or ``basic``, and its parameters.

    Raises:
        MalformedError: it is none of both.
    """
    known = list(_SCHEME.finditer(challenge)) if len(challenge) <= _MAX_CHALLENGE else []
    # A token of the registry's service is for this repository alone; a password is for everything.
    scheme = next((one for one in known if one[1].lower() == "bearer"), known[0] if known else None)
    if not scheme:
        raise MalformedError(f"{registry}: wants to know who asks in a way that is not known here")
    found: dict[str, str] = {}
    place = scheme.end()
    while parameter := _PARAMETER.match(challenge, place):
        found.setdefault(parameter[1].lower(), parameter[2] or parameter[3] or "")
        place = parameter.end()
    return scheme[1].lower(), found


def _granted(answer: Answer, place: str) -> tuple[str, float]:
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR or answer.status == HTTPStatus.TOO_MANY_REQUESTS:
        raise RegistryUnavailableError(f"{place} answers {answer.status}")
    if answer.status != HTTPStatus.OK:
        raise RegistryDeniedError(f"{place} gives no token: it answers {answer.status}")
    document = parse_object(answer.body, place)
    token = document.get("token") or document.get("access_token")
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise MalformedError(f"{place} answers without a token")
    life = document.get("expires_in", _LIFE)
    if not isinstance(life, int) or isinstance(life, bool) or life < 0:
        life = _LIFE
    return token, min(life, _MAX_LIFE)


def _with(request: Request, header: str) -> Request:
    headers = {**request.headers, "Authorization": header} if header else request.headers
    return Request(request.method, request.url, headers, request.body, request.limit, request.redirects)
