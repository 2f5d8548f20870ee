"""``sealkeeper login`` and ``logout``: a person's tokens, by the browser of any device (RFC 8628)."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sealkeeper.client.cli.options import Json, options_of
from sealkeeper.client.cli.output import is_terminal, note, print_json, print_text, printable
from sealkeeper.client.errors import ClientError, ConfigurationError, FieldViolation

if TYPE_CHECKING:
    from sealkeeper.client.connection import LoginSettings
    from sealkeeper.client.login import DeviceCode
    from sealkeeper.client.token_file import KeptLogin


def login(
    context: typer.Context,
    scope: Annotated[
        str, typer.Option(help="What to ask the issuer for [default: openid offline_access]", show_default=False)
    ] = "",
    access_token: Annotated[
        bool, typer.Option("--access-token", help="Send the gateway the access token instead of the ID token.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Log in with a browser, here or on another device; commands then act as you until the login ends.

    The issuer and the client id come from the client's file (login_issuer, login_client_id), variables or options.
    """
    from sealkeeper.client.login import SCOPE, begin, discover, keep, wait
    from sealkeeper.client.token_file import TokenFile

    settings, file = _settings(context, access_token=access_token), TokenFile.of()
    # What is in the way of keeping a login is told before somebody goes to their browser for it.
    with file.locked():
        file.read()
    issuer = discover(settings.issuer)
    code = begin(issuer, settings, scope or SCOPE)
    _show(code)
    with _waiting():
        kept = wait(issuer, settings, code)
    token = keep(kept, file)
    _report(kept, token.expires, as_json=json_output)


def logout(context: typer.Context, json_output: Json = False) -> None:
    """Forget a login, and have the issuer take its tokens back where it can."""
    from sealkeeper.client.login import discover, revoke
    from sealkeeper.client.token_file import TokenFile

    settings, file = _settings(context), TokenFile.of()
    with file.locked():
        kept = file.find(settings.issuer, settings.client_id)
        file.remove(settings.issuer, settings.client_id)
    revoked = False
    if kept is not None:
        try:
            revoked = revoke(discover(settings.issuer), kept)
        except ClientError as error:
            note(f"warning: the tokens were not taken back: {printable(error)}")
    if json_output:
        print_json(
            {"issuer": settings.issuer, "clientId": settings.client_id, "removed": kept is not None, "revoked": revoked}
        )
        return
    if kept is None:
        print_text(f"nobody was logged in at {printable(settings.issuer)}")
        return
    print_text(f"logged out of {printable(settings.issuer)}")
    if not revoked:
        print_text("  the issuer did not take its tokens back: they are good until they end")


def _settings(context: typer.Context, *, access_token: bool = False) -> LoginSettings:
    settings = options_of(context).login(token="access_token" if access_token else None)
    if settings is None:
        problem = "says where to log in, and is missing"
        raise ConfigurationError(
            "no issuer to log in at is named",
            next_step="set login_issuer and login_client_id in the client's file, or give --login-issuer and "
            "--login-client-id",
            violations=[FieldViolation("login_issuer", problem)],
        )
    return settings


def _show(code: DeviceCode) -> None:
    """On standard error: standard output has the outcome only."""
    note(f"To log in, open   {printable(code.complete_uri or code.uri)}")
    if code.complete_uri:
        note(f"and compare       {printable(code.user_code)}")
        note(f"(or open {printable(code.uri)} and enter the code)")
    else:
        note(f"and enter         {printable(code.user_code)}")
    note("Confirm only if you began this yourself, just now.")


def _waiting() -> AbstractContextManager[Any]:
    if not is_terminal(sys.stderr):
        note("waiting for you to confirm ...")
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status("waiting for you to confirm; Ctrl-C gives up")


def _report(kept: KeptLogin, expires: datetime | None, *, as_json: bool) -> None:
    from sealkeeper.client.token_source import claims_of

    subject = claims_of(kept.text).get("sub")
    if as_json:
        document = {
            "issuer": kept.issuer,
            "clientId": kept.client_id,
            "subject": subject,
            "token": kept.send,
            "expireTime": expires.isoformat().replace("+00:00", "Z") if expires is not None else None,
            "renewable": bool(kept.refresh_token),
        }
        print_json(document)
        return
    print_text(
        f"logged in at {printable(kept.issuer)} as {printable(subject or 'somebody whom its token does not name')}"
    )
    if expires is not None:
        renewed = "and is renewed by itself" if kept.refresh_token else "and then you log in again"
        print_text(f"  the token ends at {expires:%Y-%m-%d %H:%M:%SZ} {renewed}")
    print_text("  what the gateway makes of it: sealkeeper whoami")
