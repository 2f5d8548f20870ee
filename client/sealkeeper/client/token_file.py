"""Tokens of logins, kept for their owner alone in ``$XDG_STATE_HOME/sealkeeper/tokens.json``."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from tempfile import mkstemp
from typing import Any

from sealkeeper.client.errors import ConfigurationError

_MAX_FILE = 1024 * 1024
_MAX_LOGINS = 100
_NAME = "tokens.json"
_LOCK = "tokens.lock"
_ELSEWHERE = "set XDG_STATE_HOME to a folder of yours"
_ANEW = "remove it, and log in again: sealkeeper login"


@dataclass(frozen=True, slots=True)
class KeptLogin:
    """A login.

    Attributes:
        issuer: the OpenID provider.
        client_id: by which it knows this client.
        send: which token the gateway gets: ``id_token`` or ``access_token``.
        id_token: says who logged in.
        access_token: for an API.
        access_expires: when that ends, in seconds since 1970; 0 where the issuer did not say.
        refresh_token: gets new ones; empty where the issuer gave none.
    """

    issuer: str
    client_id: str
    send: str
    id_token: str = field(default="", repr=False)
    access_token: str = field(default="", repr=False)
    access_expires: int = 0
    refresh_token: str = field(default="", repr=False)

    @property
    def text(self) -> str:
        """The token that the gateway gets."""
        return self.access_token if self.send == "access_token" else self.id_token


class TokenFile:
    """The file, one entry for an issuer and client id.

    Args:
        folder: that it is in; made where it is not there, for its owner alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / _NAME

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> TokenFile:
        """Where the XDG Base Directory Specification wants it."""
        state = environment.get("XDG_STATE_HOME", "")
        # The specification: a path that is not absolute is to be ignored.
        base = (
            Path(state) if state.startswith("/") else Path(environment.get("HOME") or "~").expanduser() / ".local/state"
        )
        return cls(base / "sealkeeper")

    def find(self, issuer: str, client_id: str) -> KeptLogin | None:
        """The login that is kept.

        Raises:
            ConfigurationError: the file is not its owner's alone, cannot be read, or is not what was written.
        """
        return next((one for one in self.read() if (one.issuer, one.client_id) == (issuer, client_id)), None)

    def read(self) -> list[KeptLogin]:
        """All logins that are kept; none where there is no file.

        Raises:
            ConfigurationError: as for ``find``.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigurationError(f"cannot read {self.path}: {error.strerror}", next_step=_ANEW) from None
        with os.fdopen(descriptor, "rb") as file:
            _check_owner(self.path, os.fstat(descriptor))
            self._check_folder()
            return _parse(file.read(_MAX_FILE + 1), self.path)

    def keep(self, login: KeptLogin) -> None:
        """Keep a login, in place of the one for its issuer and client id. Call it while ``locked``.

        Raises:
            ConfigurationError: as for ``find``, or it cannot be written.
        """
        others = [one for one in self.read() if (one.issuer, one.client_id) != (login.issuer, login.client_id)]
        self._write([*others, login][-_MAX_LOGINS:])

    def remove(self, issuer: str, client_id: str) -> bool:
        """Remove a login; says whether there was one. Call it while ``locked``.

        Raises:
            ConfigurationError: as for ``keep``.
        """
        kept = self.read()
        left = [one for one in kept if (one.issuer, one.client_id) != (issuer, client_id)]
        if len(left) < len(kept):
            self._write(left)
        return len(left) < len(kept)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone with the file: others who renew or remove logins wait.

        Raises:
            ConfigurationError: the folder cannot be made, or is not its owner's alone.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_folder()
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self.folder / _LOCK, flags, 0o600)
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _check_folder(self) -> None:
        _check_owner(self.folder, self.folder.stat())

    def _write(self, logins: list[KeptLogin]) -> None:
        data = json.dumps({"logins": [asdict(one) for one in logins]}, indent=1).encode()
        try:
            # mkstemp's files are their owner's alone.
            descriptor, name = mkstemp(prefix=f".{_NAME}.", dir=self.folder)
            partial = Path(name)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                partial.replace(self.path)
            except BaseException:
                with suppress(OSError):
                    partial.unlink()
                raise
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> ConfigurationError:
        return ConfigurationError(
            f"cannot keep tokens in {self.folder}: {error.strerror}",
            next_step=_ELSEWHERE,
        )


def _check_owner(path: Path, found: os.stat_result) -> None:
    """Tokens that others could have read, or put there, are not used."""
    if found.st_uid != os.geteuid():
        raise ConfigurationError(f"{path} belongs to somebody else", next_step=_ELSEWHERE)
    if stat.S_IMODE(found.st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
        mode = "700" if stat.S_ISDIR(found.st_mode) else "600"
        raise ConfigurationError(
            f"{path} can be used by others",
            next_step=f"chmod {mode} {path}; if others may have read it: sealkeeper logout",
        )
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        raise ConfigurationError(f"{path} is not a file", next_step=_ANEW)


def _parse(data: bytes, path: Path) -> list[KeptLogin]:
    try:
        logins = [_login(one) for one in json.loads(data)["logins"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ConfigurationError(f"{path} is not what was written there", next_step=_ANEW) from None
    return logins


def _login(document: Any) -> KeptLogin:
    for one in fields(KeptLogin):
        if type(document[one.name]).__name__ != one.type:
            raise TypeError(one.name)
    return KeptLogin(**document)
