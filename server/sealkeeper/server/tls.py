"""The PEM files that ``gateway.tls`` names, checked: what is wrong with one is said of that one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from sealkeeper.server.errors import ConfigurationError
from sealkeeper.server.file_watch import read_bounded
from sealkeeper.server.settings import TlsSettings
from sealkeeper.server.trust_bundles import MAX_BUNDLE, check_bundle

RENEW = "sealkeeper issue DIRECTORY --server renews it, where the local CA issued it"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What mutual TLS needs.

    Attributes:
        certificate: PEM, the gateway's own first.
        key: PEM, its private key; not in the repr.
        client_ca: PEM, one or more that callers' certificates are checked against.
        leaf: the gateway's own certificate.
        authorities: the certificates of ``client_ca``.
    """

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes
    leaf: x509.Certificate
    authorities: tuple[x509.Certificate, ...]


def read_tls_files(tls: TlsSettings, now: datetime, before: TlsFiles | None = None) -> TlsFiles:
    """Read and check the files. Blocks.

    Args:
        tls: names them.
        now: when they have to be valid, UTC.
        before: what they held before. What is still as it was need not be valid any more, so that it does not keep the
            rest from being replaced.

    Raises:
        ConfigurationError: one cannot be read, is not PEM, is not valid now, or the key is another's; the text names
            the setting and the file.
    """
    certificate, key, client_ca = (
        _read(path, f"gateway.tls.{name}")
        for path, name in ((tls.certificate, "certificate"), (tls.key, "key"), (tls.client_ca, "client_ca"))
    )
    if before is not None and (certificate, key) == (before.certificate, before.key):
        leaf = before.leaf
    else:
        leaf = _certificates(certificate, tls.certificate, "gateway.tls.certificate")[0]
        _require_key(key, tls, leaf)
        _require_valid(leaf, now, f"gateway.tls.certificate: {tls.certificate}", RENEW)
    if before is not None and client_ca == before.client_ca:
        authorities = before.authorities
    else:
        authorities = check_bundle(client_ca, tls.client_ca, "gateway.tls.client_ca", now)
    return TlsFiles(certificate, key, client_ca, leaf, authorities)


def _read(path: Path, setting: str) -> bytes:
    data = read_bounded(path, setting, MAX_BUNDLE)
    if b"-----BEGIN " not in data:
        raise ConfigurationError(f"{setting}: {path} is not a PEM file", next_step="name a file in PEM form")
    return data


def _certificates(data: bytes, path: Path, setting: str) -> Sequence[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        raise ConfigurationError(
            f"{setting}: {path} holds no certificate that can be read", next_step="name a file of PEM certificates"
        ) from None


def _require_key(data: bytes, tls: TlsSettings, leaf: x509.Certificate) -> None:
    try:
        key = load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigurationError(
            f"gateway.tls.key: {tls.key} holds no private key that can be read without a passphrase",
            next_step="name a PEM file with the private key alone",
        ) from None
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    try:
        same = key.public_key().public_bytes(*form) == leaf.public_key().public_bytes(*form)
    except (ValueError, UnsupportedAlgorithm):
        same = False
    if not same:
        raise ConfigurationError(
            f"gateway.tls.key: {tls.key} is not the key of gateway.tls.certificate {tls.certificate}",
            next_step="name the two that belong together",
        )


def _require_valid(certificate: x509.Certificate, now: datetime, what: str, next_step: str) -> None:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now < start:
        raise ConfigurationError(
            f"{what} is not valid before {start:%Y-%m-%d %H:%M} UTC",
            next_step="set the clock right, or use another certificate",
        )
    if now > end:
        raise ConfigurationError(f"{what} has expired, at {end:%Y-%m-%d %H:%M} UTC", next_step=next_step)
