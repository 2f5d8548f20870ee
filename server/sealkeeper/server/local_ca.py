"""The local CA of a gateway's folder: it certifies the gateway's port and its callers.

``tls/ca.pem`` and ``tls/ca.key``. It vouches for connections, not for signatures: the trust root does not know it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sealkeeper.server.errors import ConfigurationError
from sealkeeper.server.files import write_file
from sealkeeper.server.x509_signing import key_usage

CERTIFICATE_LIFETIME = timedelta(days=365)
CA_LIFETIME = timedelta(days=3650)
CA_FILE, CA_KEY_FILE = Path("tls/ca.pem"), Path("tls/ca.key")
"""Below the gateway's folder."""

_SKEW = timedelta(minutes=5)
_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9-]{1,63})*")


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, P-256."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def write(self, certificate: Path, key: Path) -> None:
        """Write both as PEM; the key (PKCS #8) for its owner alone.

        Raises:
            OSError: one cannot be written.
        """
        pem = serialization.Encoding.PEM
        write_file(certificate, self.certificate.public_bytes(pem), mode=0o644)
        unencrypted = serialization.NoEncryption()
        write_file(key, self.key.private_bytes(pem, serialization.PrivateFormat.PKCS8, unencrypted))


@dataclass(frozen=True, slots=True)
class LocalCa:
    """Issues certificates.

    Attributes:
        pair: its own.
    """

    pair: Pair

    @classmethod
    def create(cls, domain: str, now: datetime) -> LocalCa:
        """Make one, for ten years."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{domain} callers")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + CA_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(Pair(certificate, key))

    @classmethod
    def read(cls, directory: Path) -> LocalCa:
        """Read that of a gateway's folder.

        Raises:
            ConfigurationError: one of its files is missing or malformed, or they do not belong together.
        """
        certificate_file, key_file = directory / CA_FILE, directory / CA_KEY_FILE
        try:
            certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
            key = serialization.load_pem_private_key(key_file.read_bytes(), None)
        except OSError as error:
            raise ConfigurationError(
                f"the local CA cannot be read: {error.filename}: {error.strerror}",
                next_step="sealkeeper init makes it; where its key is kept elsewhere, bring it back for this",
            ) from None
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise ConfigurationError(
                f"{certificate_file} or {key_file} is not a PEM file without passphrase",
                next_step="bring it back from a backup",
            ) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ConfigurationError(
                f"{key_file} is not the key of {certificate_file}", next_step="bring both back from one backup"
            )
        return cls(Pair(certificate, key))

    @property
    def pem(self) -> bytes:
        """Its certificate."""
        return self.pair.certificate.public_bytes(serialization.Encoding.PEM)

    def issue_server(self, names: Sequence[x509.GeneralName], now: datetime, lifetime: timedelta) -> Pair:
        """For the gateway's port, under these names.

        Raises:
            ConfigurationError: the CA has expired, or ends before the certificate would.
        """
        return self._issue(names, ExtendedKeyUsageOID.SERVER_AUTH, now, lifetime)

    def issue_client(self, spiffe_id: str, now: datetime, lifetime: timedelta) -> Pair:
        """For the caller with a SPIFFE ID; as ``issue_server``."""
        names = [x509.UniformResourceIdentifier(spiffe_id)]
        return self._issue(names, ExtendedKeyUsageOID.CLIENT_AUTH, now, lifetime)

    def _issue(
        self, names: Sequence[x509.GeneralName], usage: x509.ObjectIdentifier, now: datetime, lifetime: timedelta
    ) -> Pair:
        ca = self.pair.certificate
        if now + lifetime > ca.not_valid_after_utc:
            raise ConfigurationError(
                f"the local CA is valid until {ca.not_valid_after_utc:%Y-%m-%d}, the certificate would be for longer",
                next_step="ask for fewer days, or make a new CA",
            )
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(ca.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.pair.key.public_key()), critical=False
            )
            .sign(self.pair.key, hashes.SHA256())
        )
        return Pair(certificate, key)


def host_names(hosts: Iterable[str]) -> list[x509.GeneralName]:
    """Host names and IP addresses as a certificate has them, each once; without wildcard addresses.

    Raises:
        ConfigurationError: one is neither.
    """
    return [name for host in dict.fromkeys(hosts) if (name := _host_name(host)) is not None]


def _host_name(host: str) -> x509.GeneralName | None:
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        if not _HOST.fullmatch(host):
            raise ConfigurationError(f"{host!r} is neither a host name nor an IP address") from None
        return x509.DNSName(host)
    return None if address.is_unspecified else x509.IPAddress(address)
