"""Tokens that tell a gateway who is calling, and where they come from.

A token is never part of an error, a ``repr`` or an argument of a command.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from sealkeeper.client.errors import UNAVAILABLE, USAGE, ClientError, ConfigurationError

MAX_TOKEN = 16 * 1024
"""Bytes."""
MARGIN = timedelta(seconds=30)
"""A token that ends sooner than this is renewed before it is sent."""
ID_TOKEN = "SEALKEEPER_ID_TOKEN"  # noqa: S105  # a name
"""Variable that holds a token itself."""
# b64token of RFC 6750 section 2.1.
_BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class TokenUnavailableError(ClientError):
    """There is no token to be had, so nothing was sent to the gateway.

    Args:
        message: why.
        next_step: what a person can do.
        transient: it may work later.
    """

    exit_code = USAGE
    reason = "TOKEN_UNAVAILABLE"

    def __init__(self, message: str, *, next_step: str, transient: bool = False) -> None:
        super().__init__(message, next_step=next_step)
        if transient:
            self.exit_code = UNAVAILABLE


@dataclass(frozen=True, slots=True)
class Token:
    """A token.

    Attributes:
        text: as it is sent.
        expires: when it ends, as it says itself; ``None`` where it says nothing.
    """

    text: str = field(repr=False)
    expires: datetime | None = None

    def ends_before(self, moment: datetime) -> bool:
        """Whether it has ended by then."""
        return self.expires is not None and self.expires <= moment


class TokenSource(Protocol):
    """Where tokens come from."""

    @property
    def renewable(self) -> bool:
        """Whether it gives new tokens when it is asked for them."""
        ...

    def fetch(self, *, renew: bool = False) -> Token:
        """A token that is good now.

        Args:
            renew: the one before was refused: a new one is needed.

        Raises:
            TokenUnavailableError: there is none.
        """
        ...

    def changed(self) -> bool:
        """Whether there is another token than the one that was fetched last."""
        ...


def parse_token(text: str, place: str, next_step: str) -> Token:
    """Check that something can be a token, and see when it ends. Its signature is for the gateway to check.

    Args:
        text: the token; space around it is taken away.
        place: where it was found, for errors.
        next_step: what a person can do where it is none.

    Raises:
        TokenUnavailableError: it is empty, too long, or has characters that tokens do not have.
    """
    text = text.strip()
    if not text:
        raise TokenUnavailableError(f"{place} is empty", next_step=next_step)
    if len(text) > MAX_TOKEN or not _BEARER.fullmatch(text):
        raise TokenUnavailableError(f"{place} does not hold a token", next_step=next_step)
    return Token(text, _expiry(claims_of(text)))


def claims_of(text: str) -> Mapping[str, Any]:
    """Claims of a JSON web token, not verified; none where it is no such token."""
    parts = text.split(".")
    if len(parts) != 3 or len(text) > MAX_TOKEN:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _expiry(claims: Mapping[str, Any]) -> datetime | None:
    ends = claims.get("exp")
    if not isinstance(ends, int | float) or isinstance(ends, bool):
        return None
    try:
        return datetime.fromtimestamp(ends, UTC)
    except (ValueError, OverflowError, OSError):
        return None


@dataclass(frozen=True, slots=True)
class FixedToken:
    """A token that somebody else has put into a variable."""

    text: str = field(repr=False)
    place: str
    next_step: str
    renewable: bool = False

    def fetch(self, *, renew: bool = False) -> Token:
        """As ``TokenSource``."""
        return parse_token(self.text, self.place, self.next_step)

    def changed(self) -> bool:
        """Never."""
        return False


class FileToken:
    """A file that holds a token and nothing else; whoever keeps it replaces it in time.

    Args:
        path: of the file.
    """

    renewable = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, ...] = ()

    def fetch(self, *, renew: bool = False) -> Token:
        """As ``TokenSource``."""
        step = "name the file that your platform keeps a token for the gateway in, as token_file"
        try:
            with self.path.open("rb") as file:
                self._seen = _version(os.fstat(file.fileno()))
                data = file.read(MAX_TOKEN + 1024)
        except OSError as error:
            raise TokenUnavailableError(f"cannot read {self.path}: {error.strerror}", next_step=step) from None
        return parse_token(data.decode("utf-8", "replace"), str(self.path), step)

    def changed(self) -> bool:
        """Whether the file is another than the one that was read last."""
        try:
            return _version(self.path.stat()) != self._seen
        except OSError:
            return True


def _version(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def explicit_source(token_file: Path | None, environment: Mapping[str, str]) -> TokenSource | None:
    """The token that settings name: a file, or the variable ``SEALKEEPER_ID_TOKEN``."""
    if token_file is not None:
        return FileToken(token_file)
    text = environment.get(ID_TOKEN)
    if text:
        return FixedToken(text, f"the variable {ID_TOKEN}", f"set {ID_TOKEN} to a token for the gateway, or unset it")
    return None


def no_identity() -> ConfigurationError:
    """Nothing says who is calling."""
    return ConfigurationError(
        "nothing says who you are: there is no client certificate with its key, and no token",
        next_step="name certificate and key (as sealkeeper init made: --config DIR/clients/ci.toml), or a token_file, "
        f"or set {ID_TOKEN}, or log in (login_issuer, login_client_id; then: sealkeeper login), "
        "or run in a CI system that gives tokens out (docs/identity/README.md)",
    )
