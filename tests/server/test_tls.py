"""The PEM files of the gateway's port: what is wrong is said of the file that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sealkeeper.server.errors import ConfigurationError
from sealkeeper.server.local_ca import LocalCa, host_names
from sealkeeper.server.settings import TlsSettings
from sealkeeper.server.tls import read_tls_files

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def tls(tmp_path: Path) -> TlsSettings:
    ca = LocalCa.create("sealkeeper.example", NOW)
    ca.pair.write(tmp_path / "ca.pem", tmp_path / "ca.key")
    names = host_names(["sealkeeper.example", "127.0.0.1"])
    ca.issue_server(names, NOW, 30 * DAY).write(tmp_path / "server.pem", tmp_path / "server.key")
    ca.issue_server(names, NOW, 30 * DAY).write(tmp_path / "other.pem", tmp_path / "other.key")
    return TlsSettings(certificate=tmp_path / "server.pem", key=tmp_path / "server.key", client_ca=tmp_path / "ca.pem")


def test_files_that_belong_together_are_taken(tls: TlsSettings) -> None:
    found = read_tls_files(tls, NOW)
    assert (found.certificate, found.key) == (tls.certificate.read_bytes(), tls.key.read_bytes())


def _missing(path: Path) -> None:
    path.unlink()


def _binary(path: Path) -> None:
    path.write_bytes(b"\x30\x82\x01\x00" * 40)


def _damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"M", b"!", 3))


@pytest.mark.parametrize("setting", ["certificate", "key", "client_ca"])
@pytest.mark.parametrize("spoil", [_missing, _binary, _damaged])
def test_a_file_that_cannot_be_read_is_named_with_its_setting(
    tls: TlsSettings, setting: str, spoil: Callable[[Path], None]
) -> None:
    path: Path = getattr(tls, setting)
    spoil(path)
    with pytest.raises(ConfigurationError) as caught:
        read_tls_files(tls, NOW)
    assert str(caught.value).startswith(f"gateway.tls.{setting}: ")
    assert str(path) in str(caught.value)
    assert caught.value.next_step


def test_a_key_of_another_certificate_is_refused(tls: TlsSettings) -> None:
    mixed = tls.model_copy(update={"key": tls.key.with_name("other.key")})
    with pytest.raises(ConfigurationError, match=r"^gateway\.tls\.key: .* is not the key of gateway\.tls\.certificate"):
        read_tls_files(mixed, NOW)


@pytest.mark.parametrize(
    ("when", "setting", "said"),
    [
        (NOW - DAY, "certificate", "not valid before"),
        (NOW + 31 * DAY, "certificate", "has expired"),
        (NOW + 31 * DAY, "certificate", "2026-03-31"),
    ],
)
def test_a_certificate_that_is_not_valid_now_is_refused(
    tls: TlsSettings, when: datetime, setting: str, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=rf"^gateway\.tls\.{setting}: .*{said}") as caught:
        read_tls_files(tls, when)
    assert caught.value.next_step


def test_an_expired_client_ca_is_refused_since_nobody_could_get_in(tls: TlsSettings, tmp_path: Path) -> None:
    old = LocalCa.create("sealkeeper.example", NOW - 4000 * DAY)
    old.pair.write(tmp_path / "old.pem", tmp_path / "old.key")
    with pytest.raises(ConfigurationError, match=r"^gateway\.tls\.client_ca: .*old\.pem has expired"):
        read_tls_files(tls.model_copy(update={"client_ca": tmp_path / "old.pem"}), NOW)


def test_a_ca_does_not_issue_beyond_its_own_end() -> None:
    ca = LocalCa.create("sealkeeper.example", NOW)
    with pytest.raises(ConfigurationError, match="the local CA is valid until 2036"):
        ca.issue_client("spiffe://sealkeeper.example/tenants/acme/roles/ci/a", NOW, timedelta(days=3651))


def test_a_certificate_that_is_no_ca_is_refused_as_one(tls: TlsSettings) -> None:
    with pytest.raises(ConfigurationError, match=r"^gateway\.tls\.client_ca: .*certificate 1 is not a CA certificate"):
        read_tls_files(tls.model_copy(update={"client_ca": tls.certificate}), NOW)


def test_what_is_as_it_was_need_not_be_valid_any_more(tls: TlsSettings) -> None:
    before = read_tls_files(tls, NOW)
    later = NOW + 31 * DAY
    assert read_tls_files(tls, later, before) == before
    tls.key.write_bytes(tls.key.with_name("other.key").read_bytes())
    with pytest.raises(ConfigurationError, match=r"^gateway\.tls\.key: "):
        read_tls_files(tls, later, before)
    tls.certificate.write_bytes(tls.certificate.with_name("other.pem").read_bytes())
    with pytest.raises(ConfigurationError, match="has expired"):
        read_tls_files(tls, later, before)


def test_the_private_key_is_not_in_what_is_shown(tls: TlsSettings) -> None:
    assert "PRIVATE" not in repr(read_tls_files(tls, NOW))
