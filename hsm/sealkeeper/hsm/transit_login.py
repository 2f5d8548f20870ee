"""The gateway's token at a Vault or OpenBao server: how it gets one, keeps it and gets another.

A token is renewed when two thirds of its time are over, while the old one serves on. Where it cannot be renewed (not
renewable, at the end of its longest life, revoked), the gateway logs in again; a token file is read again, which is how
an agent beside the gateway hands over a new one. A login that was refused is repeated at growing intervals only, or
once its secret file has changed: servers lock out who guesses.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

from sealkeeper.hsm.errors import (
    ProviderConfigurationError,
    ProviderError,
    ProviderPermissionError,
    ProviderUnavailableError,
)
from sealkeeper.hsm.secret_file import fingerprint, read_secret
from sealkeeper.hsm.transit_connection import Answer, Connection, refusal
from sealkeeper.hsm.transit_uri import TransitUri

_NAMES = {"token": "token", "approle": "secret id", "jwt": "JWT", "kubernetes": "service account token"}
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")
_SHORTEST_PAUSE = 5.0
_LONGEST_PAUSE = 300.0
_ADVICE = {
    "token": "put a valid token of the gateway's policy into {source}",
    "approle": "check role-id, and put a new secret id into {source}: bao write -f auth/{mount}/role/NAME/secret-id",
    "jwt": "compare the JWT's issuer, audience and claims with the role: bao read auth/{mount}/role/{role}",
    "kubernetes": "compare service account and namespace with the role: bao read auth/{mount}/role/{role}",
    "cert": "compare the client certificate with what the server trusts: bao list auth/{mount}/certs",
}


@dataclass(frozen=True, slots=True)
class _Token:
    """A token that the server gave.

    Attributes:
        secret: the token.
        granted: seconds that it was given at first; 0 for ever.
        renewable: whether its time can be extended.
        due: when to see to it, by the clock.
        end: when it expires, by the clock.
    """

    secret: str = field(repr=False)
    granted: float
    renewable: bool
    due: float
    end: float


class Tokens:
    """Gives the token to use now; several threads may ask.

    Args:
        connection: to the server.
        uri: says how to log in.
        clock: seconds, never going back.
    """

    def __init__(self, connection: Connection, uri: TransitUri, clock: Callable[[], float] = time.monotonic) -> None:
        self._connection = connection
        self._uri = uri
        self._clock = clock
        # One thread at a time gets a token; the others go on with the one that there is.
        self._lock = Lock()
        self._token: _Token | None = None
        self._refused: tuple[ProviderError, str] | None = None
        self._not_before = 0.0
        self._pause = _SHORTEST_PAUSE

    def current(self) -> str:
        """The token to use now, renewed or got anew where it is time to.

        Raises:
            ProviderPermissionError: the server refuses the login.
            ProviderConfigurationError: the secret file cannot be used, or the auth method is not there.
            ProviderUnavailableError: the server cannot answer now, and there is no token left to use.
        """
        token = self._token
        if token is not None and self._clock() < token.due:
            return token.secret
        usable = token is not None and self._clock() < token.end
        if not self._lock.acquire(blocking=not usable):
            assert token is not None  # noqa: S101  (it is usable)
            return token.secret
        try:
            return self._seen_to()
        finally:
            self._lock.release()

    def replaced(self, secret: str) -> bool:
        """Tell whether there is another token to try, after the server refused a request made with this one.

        It may have been revoked: then the gateway logs in again. If the server still knows it, its policy is at fault.

        Raises:
            As ``current``.
        """
        with self._lock:
            if self._token is None or self._token.secret != secret:
                return True
            if self._connection.send("get", "auth/token/lookup-self", token=secret).status != 403:
                return False
            self._token = None
            self._token = self._login()
            return True

    def forget(self) -> None:
        """Revoke the token where it was got by a login, so that it does not outlive its use."""
        with self._lock:
            token, self._token = self._token, None
        if token is None or self._uri.auth.method == "token":
            return
        try:
            self._connection.send("post", "auth/token/revoke-self", {}, token.secret)
        except ProviderError:
            # It expires by itself.
            return

    def _seen_to(self) -> str:
        token, now = self._token, self._clock()
        if token is not None and now < token.due:
            return token.secret
        usable = token is not None and now < token.end
        try:
            renewed = self._renewed(token) if token is not None and usable and token.renewable else None
            self._token = renewed or self._login()
        except ProviderError:
            if token is None or not usable:
                raise
            self._token = replace(token, due=now + min(_SHORTEST_PAUSE, (token.end - now) / 2))
        return self._token.secret

    def _renewed(self, token: _Token) -> _Token | None:
        """The token with more time; ``None`` where it gets none, or so little that its longest life is nearly over."""
        answer = self._connection.send("post", "auth/token/renew-self", {}, token.secret)
        if answer.status in (400, 403):
            return None
        if answer.status != 200:
            raise refusal(answer, self._uri, "renew its token")
        seconds = _seconds(_auth(answer).get("lease_duration"))
        if seconds < token.granted / 2:
            return None
        return replace(self._lasting(token.secret, seconds, renewable=True), granted=token.granted)

    def _lasting(self, secret: str, seconds: float, *, renewable: bool) -> _Token:
        now = self._clock()
        if not seconds:
            return _Token(secret, 0.0, renewable, float("inf"), float("inf"))
        return _Token(secret, seconds, renewable, now + seconds * 2 / 3, now + seconds)

    def _login(self) -> _Token:
        source = self._uri.auth.source
        state = fingerprint(source) if source is not None else ""
        if self._refused is not None:
            error, before = self._refused
            if before == state and self._clock() < self._not_before:
                raise error
            if before != state:
                self._pause = _SHORTEST_PAUSE
        try:
            token = self._adopt() if self._uri.auth.method == "token" else self._log_in()
        except (ProviderPermissionError, ProviderConfigurationError) as error:
            self._refused = error, state
            self._not_before = self._clock() + self._pause
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
            raise
        self._refused, self._pause = None, _SHORTEST_PAUSE
        return token

    def _adopt(self) -> _Token:
        """The token of the token file, with what the server says of its time."""
        secret = self._secret()
        answer = self._connection.send("get", "auth/token/lookup-self", token=secret)
        if answer.status == 403:
            raise ProviderPermissionError(
                "the transit server does not know the token in the token file any more, or its policy is too narrow",
                next_step=self._advice(),
            )
        if answer.status != 200:
            raise refusal(answer, self._uri, "look up its token")
        return self._lasting(secret, _seconds(answer.data.get("ttl")), renewable=answer.data.get("renewable") is True)

    def _log_in(self) -> _Token:
        auth = self._uri.auth
        body = {"name": auth.role} if auth.role else {}
        if auth.method == "approle":
            body = {"role_id": auth.role, "secret_id": self._secret()}
        elif auth.method in ("jwt", "kubernetes"):
            body = {"role": auth.role, "jwt": self._secret()}
        answer = self._connection.send("post", f"auth/{auth.mount}/login", body)
        if answer.status == 404 and "namespace not found" not in answer.errors:
            raise ProviderConfigurationError(
                f"the transit server has no auth method at auth/{auth.mount}",
                next_step=f"enable it there: bao auth enable -path={auth.mount} {auth.method}",
            )
        if answer.status in (400, 401, 403):
            raise ProviderPermissionError(
                f"the transit server refuses the gateway's login by {auth.method}",
                next_step=f"{self._advice()}; see that auth/{auth.mount} is enabled: bao auth list",
            )
        if answer.status != 200:
            raise refusal(answer, self._uri, "log in")
        given = _auth(answer)
        secret = given.get("client_token")
        if not isinstance(secret, str) or not _TOKEN.fullmatch(secret):
            raise ProviderConfigurationError(
                f"the login by {auth.method} gives no token: the server wants more than that",
                next_step="take the multi-factor requirement off the gateway's role",
            )
        return self._lasting(secret, _seconds(given.get("lease_duration")), renewable=given.get("renewable") is True)

    def _secret(self) -> str:
        what = _NAMES[self._uri.auth.method]
        assert self._uri.auth.source is not None  # noqa: S101  (the parser sees to it for these methods)
        text = read_secret(self._uri.auth.source, what).decode("ascii", "replace")
        if not _TOKEN.fullmatch(text):
            raise ProviderConfigurationError(
                f"the {what} file holds more than one line of printable ASCII",
                next_step=f"put nothing but the {what} into {self._uri.auth.source}",
            )
        return text

    def _advice(self) -> str:
        auth = self._uri.auth
        return _ADVICE[auth.method].format(source=auth.source, mount=auth.mount, role=auth.role)


def _auth(answer: Answer) -> dict[str, Any]:
    auth = answer.body.get("auth")
    return auth if isinstance(auth, dict) else {}


def _seconds(value: object) -> float:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ProviderUnavailableError(
            "the transit server does not say how long the gateway's token lasts",
            next_step="see whether anything on the way to the server changes its answers",
        )
    return float(value)
