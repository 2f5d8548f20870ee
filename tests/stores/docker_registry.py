"""Debian's real ``docker-registry`` (CNCF Distribution 2.8), on loopback. It has no referrers API."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.ports import free_ports

PROGRAM = "docker-registry"
_LIFE = "600"
_PATIENCE = 20.0


@dataclass(frozen=True)
class DockerRegistry:
    """A running registry.

    Attributes:
        host: with its port, as references have it.
        directory: with its files.
    """

    host: str
    directory: Path


@dataclass(frozen=True)
class TokenAuth:
    """A token service that the registry believes.

    Attributes:
        realm: URL to send clients to.
        service: its name for the registry.
        issuer: of tokens.
        certificates: PEM file of whom tokens are signed by.
    """

    realm: str
    service: str
    issuer: str
    certificates: Path


@contextmanager
def docker_registry(
    directory: Path,
    account: tuple[str, str] | None = None,
    token: TokenAuth | None = None,
    tls: tuple[Path, Path] | None = None,
) -> Iterator[DockerRegistry]:
    """A registry.

    Args:
        directory: for its files.
        account: the one that it lets in, with its password; ``None`` for everybody.
        token: whose tokens it takes.
        tls: certificate and private key, PEM files; ``None`` for plaintext.
    """
    if shutil.which(PROGRAM) is None:
        pytest.skip("docker-registry is missing (Debian: apt-get install docker-registry)")
    directory.mkdir(parents=True, exist_ok=True)
    [port] = free_ports(1)
    config = directory / "config.yml"
    config.write_text(yaml.safe_dump(_config(directory, port, account, token, tls)))
    with (directory / "registry.log").open("wb") as log:
        command = ["timeout", _LIFE, PROGRAM, "serve", str(config)]
        environment = {"PATH": os.environ["PATH"], "HOME": str(directory)}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        _await(process, port, directory)
        yield DockerRegistry(f"127.0.0.1:{port}", directory)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _config(
    directory: Path,
    port: int,
    account: tuple[str, str] | None,
    token: TokenAuth | None,
    tls: tuple[Path, Path] | None,
) -> dict[str, object]:
    http: dict[str, object] = {"addr": f"127.0.0.1:{port}", "secret": "of the tests"}
    if tls:
        http["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
    config: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}, "delete": {"enabled": True}},
        "http": http,
    }
    if account:
        password_file = directory / "htpasswd"
        password_file.write_text(f"{account[0]}:{_bcrypt(account[1])}\n")
        config["auth"] = {"htpasswd": {"realm": "tests", "path": str(password_file)}}
    if token:
        config["auth"] = {
            "token": {
                "realm": token.realm,
                "service": token.service,
                "issuer": token.issuer,
                "rootcertbundle": str(token.certificates),
            }
        }
    return config


def _bcrypt(password: str) -> str:
    # The system's own; of Python's modules, the one that calls it is gone from 3.13 on.
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    hashed: bytes = library.crypt(password.encode(), b"$2b$04$abcdefghijklmnopqrstuu")
    return hashed.decode()


def _await(process: subprocess.Popen[bytes], port: int, directory: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                return
        except OSError:
            time.sleep(0.02)
    raise AssertionError((directory / "registry.log").read_text()[-2000:])
