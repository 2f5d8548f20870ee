"""Mistakes in the client's certificate, key and CA are found before anything is asked of a gateway."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sealkeeper.client.connection import Connection
from sealkeeper.client.errors import ConfigurationError

NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ci")])
PEM = serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8
DAY = timedelta(days=1)


def write_identity(folder: Path, start: timedelta = -DAY, end: timedelta = DAY, password: bytes = b"") -> Connection:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    builder = x509.CertificateBuilder(NAME, NAME, key.public_key(), 1, now + start, now + end)
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    (folder / "cert.pem").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(PEM, PKCS8, hidden))
    return Connection("localhost:1", "acme", folder / "cert.pem", folder / "cert.pem", folder / "key.pem")


def refused(connection: Connection) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        connection.credentials()
    assert caught.value.exit_code == 2
    assert caught.value.next_step
    return caught.value


def test_what_belongs_together_makes_credentials(tmp_path: Path) -> None:
    assert write_identity(tmp_path).credentials() is not None


@pytest.mark.parametrize(("start", "end", "said"), [(-2 * DAY, -DAY, "expired"), (DAY, 2 * DAY, "not valid before")])
def test_a_certificate_out_of_its_time_is_named(tmp_path: Path, start: timedelta, end: timedelta, said: str) -> None:
    error = refused(write_identity(tmp_path, start, end))
    assert (error.violations[0].field, said in str(error)) == ("certificate", True)


def test_a_key_of_another_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    write_identity(tmp_path / "other")
    connection = write_identity(tmp_path)
    (tmp_path / "other" / "key.pem").replace(tmp_path / "key.pem")
    assert refused(connection).violations[0].field == "key"


def test_an_encrypted_key_is_named(tmp_path: Path) -> None:
    error = refused(write_identity(tmp_path, password=b"secret"))
    assert (error.violations[0].field, "encrypted" in str(error)) == ("key", True)


@pytest.mark.parametrize(("file", "field"), [("cert.pem", "certificate"), ("key.pem", "key"), ("ca.pem", "ca")])
@pytest.mark.parametrize(
    "text", ["", "text", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "-----BEGIN X-----\n"]
)
def test_a_file_that_is_no_pem_is_named(tmp_path: Path, file: str, field: str, text: str) -> None:
    made = write_identity(tmp_path)
    (tmp_path / "ca.pem").write_bytes((tmp_path / "cert.pem").read_bytes())
    (tmp_path / file).write_text(text)
    connection = Connection(made.endpoint, "acme", tmp_path / "ca.pem", made.certificate, made.key)
    assert refused(connection).violations[0].field == field


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    connection = write_identity(tmp_path)
    (tmp_path / "key.pem").unlink()
    assert "key: cannot read" in str(refused(connection))
