"""``sealkeeper init``: what it makes, and what a failure leaves behind."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from sealkeeper.hsm import ProviderUriError
from sealkeeper.server.errors import ConfigurationError
from sealkeeper.server.initialise import Plan, initialise

BAD_PROVIDER = "foo:bar"


def plan(directory: Path, provider_uri: str | None = None, listen: str = "127.0.0.1:0", *hosts: str) -> Plan:
    return Plan(directory, "sealkeeper.example", "acme", provider_uri, listen=listen, hosts=hosts)


def names(certificate: Path) -> set[str]:
    loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    found = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(found.get_values_for_type(x509.DNSName)) | set(map(str, found.get_values_for_type(x509.IPAddress)))


async def test_a_failure_takes_away_the_folder_and_those_above_that_it_made(tmp_path: Path) -> None:
    with pytest.raises(ProviderUriError):
        await initialise(plan(tmp_path / "a" / "b" / "gateway", BAD_PROVIDER))
    assert list(tmp_path.iterdir()) == []


def _folder(directory: Path) -> None:
    directory.mkdir(mode=0o750)


def _link(directory: Path) -> None:
    _folder(directory.with_name("elsewhere"))
    directory.symlink_to("elsewhere")


@pytest.mark.parametrize("make", [_folder, _link])
async def test_a_failure_in_an_empty_folder_leaves_it_empty_and_as_it_was(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    directory = tmp_path / "gateway"
    make(directory)
    before, link_before = directory.stat(), directory.lstat()
    with pytest.raises(ProviderUriError, match="foo"):
        await initialise(plan(directory, BAD_PROVIDER))
    assert list(directory.iterdir()) == []
    after = directory.stat()
    assert (after.st_ino, after.st_mode, after.st_uid) == (before.st_ino, before.st_mode, before.st_uid)
    assert directory.lstat().st_ino == link_before.st_ino


async def test_an_empty_folder_keeps_its_mode_and_its_secrets_are_closed(tmp_path: Path) -> None:
    directory = tmp_path / "gateway"
    _folder(directory)
    await initialise(plan(directory))
    assert directory.stat().st_mode & 0o777 == 0o750
    for name in ("tls", "secrets", "state", "clients", "keys"):
        assert (directory / name).stat().st_mode & 0o077 == 0


def _file(path: Path) -> None:
    path.write_text("an application")


def _dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [_file, _dangling_link])
async def test_what_is_no_folder_is_named_and_left_alone(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "app.bin"
    make(path)
    before = path.lstat()
    with pytest.raises(ConfigurationError, match=r"app\.bin is not a folder") as caught:
        await initialise(plan(path))
    assert caught.value.next_step
    assert path.lstat() == before


async def test_a_folder_below_a_file_is_named(tmp_path: Path) -> None:
    _file(tmp_path / "app.bin")
    with pytest.raises(ConfigurationError, match=r"app\.bin.*Not a directory") as caught:
        await initialise(plan(tmp_path / "app.bin" / "gateway"))
    assert caught.value.next_step


def test_where_nothing_can_be_written_the_path_is_named_and_nothing_stays(tmp_path: Path) -> None:
    directory = tmp_path / "gateway"

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))

    done = subprocess.run(
        [sys.executable, "-m", "sealkeeper.client.cli", "init", str(directory)],
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=no_room,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert f"{directory}/" in done.stderr
    assert "File too large" in done.stderr
    assert "next:" in done.stderr
    assert not directory.exists()


async def test_listening_everywhere_names_the_domain_to_callers_and_no_wildcard(tmp_path: Path) -> None:
    directory = tmp_path / "gateway"
    await initialise(plan(directory, None, "0.0.0.0:58443", "seal.example.org", "192.0.2.7"))
    assert 'endpoint = "sealkeeper.example:58443"' in (directory / "clients" / "ci.toml").read_text()
    found = names(directory / "tls" / "server.pem")
    assert {"sealkeeper.example", "localhost", "127.0.0.1", "seal.example.org", "192.0.2.7"} <= found
    assert "0.0.0.0" not in found


@pytest.mark.parametrize("host", ["two words", "https://seal.example", "seal.example:8443", ""])
async def test_a_host_that_is_none_is_refused_and_nothing_stays(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigurationError, match="neither a host name nor an IP address"):
        await initialise(plan(tmp_path / "gateway", None, "127.0.0.1:0", host))
    assert list(tmp_path.iterdir()) == []
