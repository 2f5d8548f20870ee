"""Logins of people: OAuth 2.0 device authorization grant (RFC 8628), refresh, revocation (RFC 7009).

The issuer is an OpenID provider that is found by discovery (OpenID Connect Discovery 1.0), and knows this client as a
public one: it has an id and no secret.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from sealkeeper.client.connection import ACCESS_TOKEN_KIND, ID_TOKEN_KIND, LoginSettings
from sealkeeper.client.https import Answer, ask, checked_url
from sealkeeper.client.token_file import KeptLogin, TokenFile
from sealkeeper.client.token_source import MARGIN, MAX_TOKEN, Token, TokenUnavailableError, claims_of, parse_token

SCOPE = "openid offline_access"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_AGAIN = "log in again: sealkeeper login"
_INTERVAL = 5.0
_SLOWER = 5.0
_LONGEST_WAIT = 3600.0


@dataclass(frozen=True, slots=True)
class Issuer:
    """An OpenID provider, as its discovery document has it.

    Attributes:
        issuer: its name, a URL.
        token_endpoint: gives tokens out.
        device_endpoint: begins logins.
        revocation_endpoint: takes tokens back; empty where there is none.
    """

    issuer: str
    token_endpoint: str
    device_endpoint: str = ""
    revocation_endpoint: str = ""

    def post(self, endpoint: str, form: Mapping[str, str]) -> Answer:
        """Ask one of its endpoints.

        Raises:
            TokenUnavailableError: there was no answer.
        """
        return ask(endpoint, self.issuer, form=form, loopback=_plain(self.issuer))


@dataclass(frozen=True, slots=True)
class DeviceCode:
    """A login that waits for its person (RFC 8628 section 3.2).

    Attributes:
        device_code: of this client.
        user_code: what the person compares or types.
        uri: where.
        complete_uri: the same with the code in it; empty where the issuer has none.
        lifetime: seconds until it is over.
        interval: seconds to wait between questions.
    """

    device_code: str = field(repr=False)
    user_code: str
    uri: str
    complete_uri: str
    lifetime: float
    interval: float


def _plain(issuer: str) -> bool:
    """Whether it is an issuer in plaintext, on this machine itself."""
    return issuer.startswith("http://")


def discover(issuer: str) -> Issuer:
    """Find an issuer's endpoints.

    Args:
        issuer: ``https://`` URL; ``http://`` to loopback only.

    Raises:
        TokenUnavailableError: it does not answer, or not as an OpenID provider of this name.
    """
    checked_url(issuer, "login_issuer", loopback=True)
    answer = ask(f"{issuer.rstrip('/')}/.well-known/openid-configuration", issuer, loopback=True)
    step = "set login_issuer to the issuer of your OpenID provider, as its discovery document has it"
    if answer.status != 200 or not answer.document:
        raise TokenUnavailableError(
            f"{issuer} has no discovery document (HTTP status {answer.status})",
            next_step=step,
            transient=answer.status >= 500,
        )
    if answer.text("issuer") != issuer:
        raise TokenUnavailableError(f"what answers at {issuer} is another issuer", next_step=step)

    def endpoint(name: str, *, needed: bool = False) -> str:
        url = answer.text(name)
        return checked_url(url, f"{name} of {issuer}", loopback=_plain(issuer)) if url or needed else ""

    return Issuer(
        issuer,
        endpoint("token_endpoint", needed=True),
        endpoint("device_authorization_endpoint"),
        endpoint("revocation_endpoint"),
    )


def begin(issuer: Issuer, settings: LoginSettings, scope: str = SCOPE) -> DeviceCode:
    """Begin a login.

    Raises:
        TokenUnavailableError: the issuer has no such logins, or refuses.
    """
    if not issuer.device_endpoint:
        raise TokenUnavailableError(
            f"{issuer.issuer} offers no device authorization (RFC 8628)",
            next_step="switch it on there, for this client",
        )
    form = {"client_id": settings.client_id, "scope": scope}
    if settings.audience:
        # No standard has it, but many issuers take it: whom access tokens are to be for.
        form["audience"] = settings.audience
    answer = issuer.post(issuer.device_endpoint, form)
    if answer.status != 200:
        raise _refused(issuer, answer, "switch the device flow on there for this client id, as a public client")
    texts = [answer.text(name) for name in ("device_code", "user_code", "verification_uri")]
    lifetime = _number(answer.document.get("expires_in"), 0.0)
    if not all(texts) or any(len(one) > 4096 for one in texts) or lifetime <= 0:
        raise TokenUnavailableError(
            f"{issuer.issuer} answered incompletely", next_step="check that it follows RFC 8628"
        )
    device, user, uri = texts
    complete = answer.text("verification_uri_complete")
    return DeviceCode(
        device,
        user,
        checked_url(uri, "the address to log in at", loopback=_plain(issuer.issuer)),
        checked_url(complete, "the address to log in at", loopback=_plain(issuer.issuer)) if complete else "",
        min(lifetime, _LONGEST_WAIT),
        _number(answer.document.get("interval"), _INTERVAL),
    )


def _number(value: object, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e9 else otherwise


def wait(
    issuer: Issuer,
    settings: LoginSettings,
    code: DeviceCode,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> KeptLogin:
    """Wait until the person has logged in (RFC 8628 section 3.5).

    Args:
        issuer: where.
        settings: of the login.
        code: of the login that has begun.
        sleep: waits, in seconds; injected in tests.
        clock: seconds that go on by themselves; injected in tests.

    Raises:
        TokenUnavailableError: the person refused, or was not there in time, or the issuer refuses.
    """
    interval, ends = code.interval, clock() + code.lifetime
    form = {"grant_type": DEVICE_GRANT, "device_code": code.device_code, "client_id": settings.client_id}
    while clock() + interval < ends:
        sleep(interval)
        try:
            answer = issuer.post(issuer.token_endpoint, form)
        except TokenUnavailableError as error:
            if error.exit_code != TokenUnavailableError.exit_code:
                # Section 3.5: on a timeout, ask less often.
                interval = max(1.0, interval * 2)
                continue
            raise
        if answer.status == 200:
            return _kept(issuer, settings, answer)
        match answer.text("error"):
            case "authorization_pending":
                pass
            case "slow_down":
                interval += _SLOWER
            case "access_denied":
                raise TokenUnavailableError("the login was refused in the browser", next_step=_AGAIN)
            case "expired_token":
                break
            case _:
                raise _refused(issuer, answer, _AGAIN)
    raise TokenUnavailableError("nobody confirmed the login in time", next_step=_AGAIN)


def refreshed(issuer: Issuer, login: KeptLogin) -> KeptLogin:
    """A login with new tokens (RFC 6749 section 6).

    Raises:
        TokenUnavailableError: the issuer gives none.
    """
    form = {"grant_type": "refresh_token", "refresh_token": login.refresh_token, "client_id": login.client_id}
    answer = issuer.post(issuer.token_endpoint, form)
    if answer.status != 200:
        raise _refused(issuer, answer, _AGAIN)
    before = claims_of(login.id_token)
    audience = before.get("aud")
    settings = LoginSettings(login.issuer, login.client_id, login.send, audience if isinstance(audience, str) else "")
    renewed = _kept(issuer, settings, answer)
    if renewed.id_token and login.id_token and before.get("sub") != claims_of(renewed.id_token).get("sub"):
        # OpenID Connect Core section 12.2.
        raise TokenUnavailableError(f"{issuer.issuer} gave tokens of somebody else", next_step=_AGAIN)
    return replace(
        renewed,
        id_token=renewed.id_token or login.id_token,
        refresh_token=renewed.refresh_token or login.refresh_token,
    )


def _kept(issuer: Issuer, settings: LoginSettings, answer: Answer) -> KeptLogin:
    tokens = {name: answer.text(name) for name in ("id_token", "access_token", "refresh_token")}
    if any(len(one) > MAX_TOKEN for one in tokens.values()):
        raise TokenUnavailableError(
            f"{issuer.issuer} gave a token that is too long", next_step="ask for a smaller scope"
        )
    if tokens["id_token"]:
        _check_id_token(tokens["id_token"], settings)
    lifetime = int(_number(answer.document.get("expires_in"), 0.0))
    return KeptLogin(
        settings.issuer,
        settings.client_id,
        settings.token or ID_TOKEN_KIND,
        tokens["id_token"],
        tokens["access_token"],
        int(time.time()) + lifetime if lifetime else 0,
        tokens["refresh_token"],
    )


def _check_id_token(text: str, settings: LoginSettings) -> None:
    """That it is for us; who signed it is for the gateway to check (OpenID Connect Core section 3.1.3.7)."""
    claims = claims_of(text)
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    ours = settings.client_id in audiences or (settings.audience and settings.audience in audiences)
    if claims.get("iss") != settings.issuer or not ours:
        raise TokenUnavailableError(f"{settings.issuer} gave an ID token that is not for this client", next_step=_AGAIN)


def _refused(issuer: Issuer, answer: Answer, next_step: str) -> TokenUnavailableError:
    # The error code is one of a few words; what else the issuer writes may repeat the request.
    code = answer.text("error")[:64]
    said = code if code.replace("_", "").isalnum() and code.isascii() else f"HTTP status {answer.status}"
    return TokenUnavailableError(
        f"{issuer.issuer} refuses: {said}", next_step=next_step, transient=answer.status >= 500
    )


def keep(login: KeptLogin, file: TokenFile) -> Token:
    """Keep a login, and see that it has the token that the gateway is to get.

    Raises:
        TokenUnavailableError: it does not.
        ConfigurationError: it cannot be kept.
    """
    token = _token(login)
    with file.locked():
        file.keep(login)
    return token


def revoke(issuer: Issuer, login: KeptLogin) -> bool:
    """Have the issuer take the tokens back (RFC 7009); says whether it did.

    Raises:
        TokenUnavailableError: it does not answer.
    """
    if not issuer.revocation_endpoint:
        return False
    kinds = (("refresh_token", login.refresh_token), ("access_token", login.access_token))
    forms = [{"token": token, "token_type_hint": kind, "client_id": login.client_id} for kind, token in kinds if token]
    statuses = [issuer.post(issuer.revocation_endpoint, form).status for form in forms]
    return all(status == 200 for status in statuses)


class LoginTokens:
    """Tokens of a login that is kept, renewed in time.

    Args:
        settings: which login.
        file: where it is kept.
    """

    def __init__(self, settings: LoginSettings, file: TokenFile) -> None:
        self._settings = settings
        self._file = file
        self._given = ""
        self.renewable = True

    def fetch(self, *, renew: bool = False) -> Token:
        """As ``TokenSource``.

        Raises:
            TokenUnavailableError: it has ended, and cannot be renewed.
            ConfigurationError: the file cannot be used.
        """
        # Refresh tokens are often good for one time: who comes second finds what the first was given.
        with self._file.locked():
            login = self._find()
            if not self._good(login, renew=renew):
                login = self._renewed(login)
                self._file.keep(login)
        token = _token(login)
        self._given, self.renewable = token.text, bool(login.refresh_token)
        return token

    def changed(self) -> bool:
        """Never by itself."""
        return False

    def _find(self) -> KeptLogin:
        login = self._file.find(self._settings.issuer, self._settings.client_id)
        if login is None:
            raise TokenUnavailableError(f"nobody is logged in at {self._settings.issuer}", next_step=_AGAIN)
        return replace(login, send=self._settings.token or login.send)

    def _good(self, login: KeptLogin, *, renew: bool) -> bool:
        refused = renew and login.text == self._given
        return bool(login.text) and not refused and not _token(login).ends_before(datetime.now(UTC) + MARGIN)

    def _renewed(self, login: KeptLogin) -> KeptLogin:
        if not login.refresh_token:
            raise TokenUnavailableError(
                f"the login at {login.issuer} has ended", next_step=f"{_AGAIN} (with the scope offline_access it lasts)"
            )
        renewed = refreshed(discover(login.issuer), login)
        if _token(renewed).ends_before(datetime.now(UTC)):
            raise TokenUnavailableError(
                f"{login.issuer} renews no ID tokens",
                next_step=f"{_AGAIN}, or use its access tokens: login_token = {ACCESS_TOKEN_KIND!r}",
            )
        return renewed


def _token(login: KeptLogin) -> Token:
    kind = "an access token" if login.send == ACCESS_TOKEN_KIND else "an ID token"
    if not login.text:
        raise TokenUnavailableError(
            f"{login.issuer} gave no {kind.partition(' ')[2]}",
            next_step="log in with the scope openid, or with --access-token: sealkeeper login",
        )
    token = parse_token(login.text, f"{kind} of {login.issuer}", _AGAIN)
    if login.send == ACCESS_TOKEN_KIND and token.expires is None and login.access_expires:
        return replace(token, expires=datetime.fromtimestamp(login.access_expires, UTC))
    return token


def kept_login(settings: LoginSettings, environment: Mapping[str, str] = os.environ) -> LoginTokens | None:
    """The tokens of a login that is kept; ``None`` where there is none.

    Raises:
        ConfigurationError: the file with it cannot be used.
    """
    file = TokenFile.of(environment)
    return LoginTokens(settings, file) if file.find(settings.issuer, settings.client_id) is not None else None
