"""Credentials for registries, from where ``docker login`` and ``podman login`` leave them.

The formats are those of Docker's ``config.json`` (docs.docker.com, "docker login"), of ``containers-auth.json(5)``, and
of the credential helpers' protocol (docker/docker-credential-helpers). Files are read each time, since others renew
them. A secret is never part of an error, a ``repr`` or the arguments of a command.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sealkeeper.registry.deadline import Deadline
from sealkeeper.registry.document import Json, parse_object
from sealkeeper.registry.errors import CredentialsError, RegistryError, RegistryTimeoutError
from sealkeeper.registry.reference import DOCKER_HUB

HELPER_TIMEOUT = 10.0
"""Seconds."""
_MAX_FILE = 1024 * 1024
_MAX_SECRET = 64 * 1024
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# What Docker calls its own registry, and always has.
_HUB_NAMES = ("https://index.docker.io/v1/", "index.docker.io", "docker.io")
_IDENTITY_TOKEN_USER = "<token>"  # noqa: S105  # a name, of the helpers' protocol


@dataclass(frozen=True, slots=True)
class Credentials:
    """What to log in with.

    Attributes:
        username: of the account.
        password: its password, or an access token in place of it.
        identity_token: an OAuth 2 refresh token; where there is one, it is used instead.
    """

    username: str
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    def basic(self) -> str:
        """The value of an ``Authorization`` header (RFC 7617)."""
        pair = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"


class CredentialSource(Protocol):
    """Where credentials come from."""

    def find(self, registry: str, repository: str, deadline: Deadline) -> Credentials | None:
        """The credentials for a repository; ``None`` where there are none.

        Raises:
            CredentialsError: they cannot be read.
        """


@dataclass(frozen=True, slots=True)
class ConfigFiles:
    """Credentials of files, in order; the first that has some for a registry is taken.

    Attributes:
        files: which may be missing.
    """

    files: tuple[Path, ...]

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] | None = None) -> ConfigFiles:
        """Those of Docker and Podman: of ``DOCKER_CONFIG`` or the home folder, and of ``REGISTRY_AUTH_FILE``."""
        variables = os.environ if environment is None else environment
        home = Path(variables.get("HOME") or "/")
        docker = Path(variables.get("DOCKER_CONFIG") or home / ".docker") / "config.json"
        settings = Path(variables.get("XDG_CONFIG_HOME") or home / ".config")
        podman = [settings / "containers" / "auth.json"]
        if runtime := variables.get("XDG_RUNTIME_DIR"):
            podman.insert(0, Path(runtime) / "containers" / "auth.json")
        if named := variables.get("REGISTRY_AUTH_FILE"):
            return cls((Path(named), docker))
        return cls((docker, *podman))

    def find(self, registry: str, repository: str, deadline: Deadline) -> Credentials | None:
        """The credentials for a repository; ``None`` where there are none.

        Raises:
            CredentialsError: a file cannot be read, or a helper fails.
            RegistryTimeoutError: a helper does not answer in time.
        """
        for file in self.files:
            config = _config(file)
            found = _of_helper(config, file, registry, deadline) or _of_auths(config, file, registry, repository)
            if found:
                return found
        return None


def _config(file: Path) -> dict[str, Json]:
    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise CredentialsError(f"{file}: cannot be read: {error.strerror}") from None
    if len(data) > _MAX_FILE:
        raise CredentialsError(f"{file}: has more than 1 MiB")
    try:
        return parse_object(data or b"{}", str(file))
    except RegistryError as error:
        raise CredentialsError(str(error)) from None


def _of_helper(config: Mapping[str, Json], file: Path, registry: str, deadline: Deadline) -> Credentials | None:
    helpers = _members(config, "credHelpers", file)
    name = next((helpers[key] for key in _names_of(registry) if key in helpers), config.get("credsStore"))
    if not name:
        return None
    if not isinstance(name, str) or not _HELPER.fullmatch(name):
        raise CredentialsError(f"{file}: names a credential helper whose name cannot be")
    server = _HUB_NAMES[0] if registry == DOCKER_HUB else registry
    code, said = _run(f"docker-credential-{name}", server, deadline)
    if code:
        # The protocol's one way to say so. Other texts may hold anything, and are not shown.
        if b"credentials not found" in said:
            return None
        raise CredentialsError(f"docker-credential-{name}: fails with exit code {code}")
    place = f"docker-credential-{name}"
    try:
        answer = parse_object(said, place)
    except RegistryError:
        raise CredentialsError(f"{place}: its answer is not that of a credential helper") from None
    return _credentials(answer.get("Username"), answer.get("Secret"), place)


def _run(program: str, server: str, deadline: Deadline) -> tuple[int, bytes]:
    left = min(deadline.remaining(program), HELPER_TIMEOUT)
    try:
        # In a session of its own, so that what it started ends with it.
        process = subprocess.Popen(  # noqa: S603  # its name is checked, and its arguments are ours
            [program, "get"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise CredentialsError(f"{program}: cannot be run: {error.strerror}") from None
    with process:
        try:
            said, _ = process.communicate(server.encode(), timeout=left)
        except subprocess.TimeoutExpired:
            raise RegistryTimeoutError(f"{program}: no answer in time") from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, said[: _MAX_SECRET * 2]


def _credentials(username: Json, secret: Json, place: str) -> Credentials:
    if not isinstance(username, str) or not isinstance(secret, str) or len(username) + len(secret) > _MAX_SECRET:
        raise CredentialsError(f"{place}: has no username and secret")
    if username == _IDENTITY_TOKEN_USER:
        return Credentials("", identity_token=secret)
    return Credentials(username, secret)


def _of_auths(config: Mapping[str, Json], file: Path, registry: str, repository: str) -> Credentials | None:
    auths = _members(config, "auths", file)
    known = {_bare(key): key for key in auths}
    for name in _prefixes(registry, repository):
        entry = auths.get(known.get(name, ""))
        # An entry without anything in it says that a helper has the credentials.
        if entry:
            return _entry(entry, f"{file}: auths.{name}")
    return None


def _entry(entry: Json, place: str) -> Credentials | None:
    if not isinstance(entry, dict):
        raise CredentialsError(f"{place}: must be an object")
    token = entry.get("identitytoken")
    if token:
        return _credentials(_IDENTITY_TOKEN_USER, token, place)
    if entry.get("auth"):
        try:
            pair = base64.b64decode(entry["auth"], validate=True).decode().rstrip("\0")
        except (binascii.Error, TypeError, ValueError):
            raise CredentialsError(f"{place}.auth: is not base64 of a username and a password") from None
        username, colon, password = pair.partition(":")
        return _credentials(username, password if colon else None, place)
    if "username" in entry:
        return _credentials(entry["username"], entry.get("password", ""), place)
    return None


def _members(config: Mapping[str, Json], name: str, file: Path) -> dict[str, Json]:
    value = config.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CredentialsError(f"{file}: {name} must be an object")
    return value


def _names_of(registry: str) -> tuple[str, ...]:
    return _HUB_NAMES if registry == DOCKER_HUB else (registry, f"https://{registry}")


def _prefixes(registry: str, repository: str) -> Iterator[str]:
    # Podman's entries may be for a part of a registry; the longest one counts.
    parts = repository.split("/")
    for count in range(len(parts), 0, -1):
        yield "/".join([registry, *parts[:count]])
    for name in _names_of(registry):
        yield _bare(name)


def _bare(key: str) -> str:
    without = re.sub(r"^https?://", "", key)
    return re.sub(r"/v[12]/?$", "", without).rstrip("/").lower()
