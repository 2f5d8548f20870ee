"""Trust bundles: the CA certificates of each SPIFFE trust domain.

TLS takes a client certificate that *any* domain's CA has signed, so which domain a caller is of is decided here: a
certificate counts only for the domain whose own bundle it leads to (SPIFFE Trust Domain and Bundle, section 3).

gRPC shows the leaf of a connection and not what came with it. So the leaf must be signed by a certificate of the bundle
directly: where workloads' certificates are issued by intermediates, the bundle holds those, and they are anchors of
their own. Keys are RSA from 2048 bits and P-256, P-384, P-521; a CA with URI name constraints vouches for nobody, since
these are not evaluated.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from sealkeeper.server.errors import ConfigurationError
from sealkeeper.server.file_watch import read_bounded
from sealkeeper.verify.certificate import UNREADABLE
from sealkeeper.verify.svid import AUTHORITY, CALLER

MAX_BUNDLE = 1024 * 1024
"""Bytes of a bundle."""

MAX_AUTHORITIES = 100
"""CA certificates of a bundle."""

_PEM = re.compile(rb"-----BEGIN (?:X509 )?CERTIFICATE-----")


class TrustBundles:
    """The bundles of all trust domains, as they were read together; never changed.

    Args:
        authorities: CA certificates by trust domain.
        generation: how many there were before.
    """

    def __init__(self, authorities: Mapping[str, Sequence[x509.Certificate]], generation: int = 0) -> None:
        self.generation = generation
        self.authorities = {domain: tuple(ones) for domain, ones in authorities.items()}
        self._stores = {domain: Store(list(ones)) for domain, ones in self.authorities.items()}

    @property
    def pem(self) -> bytes:
        """The CA certificates of all domains, each once: what TLS checks callers against."""
        union = dict.fromkeys(one for ones in self.authorities.values() for one in ones)
        return b"".join(one.public_bytes(Encoding.PEM) for one in union)

    def issuer_of(self, certificate: x509.Certificate, domain: str, now: datetime) -> x509.Certificate | None:
        """The CA certificate of a domain that has signed another and vouches for it now; ``None`` if none does."""
        store = self._stores.get(domain)
        if store is None:
            return None
        policy = PolicyBuilder().store(store).time(now).extension_policies(ca_policy=AUTHORITY, ee_policy=CALLER)
        try:
            chain = policy.build_client_verifier().verify(certificate, []).chain
        except (VerificationError, *UNREADABLE):
            return None
        return chain[1] if len(chain) == 2 else None

    def domain_of(self, certificate: x509.Certificate, now: datetime) -> str | None:
        """A trust domain that has a CA that has signed the certificate."""
        return next((domain for domain in self._stores if self.issuer_of(certificate, domain, now)), None)


def read_bundle(path: Path, setting: str, now: datetime) -> tuple[x509.Certificate, ...]:
    """Read and check a trust bundle. Blocks.

    Args:
        path: PEM or SPIFFE bundle in JSON, told apart by the content.
        setting: that names it.
        now: when one of its CA certificates has to be valid, UTC.

    Raises:
        ConfigurationError: it cannot be read, or holds no CA certificate that is valid now; the text names setting and
            file.
    """
    return check_bundle(read_bounded(path, setting, MAX_BUNDLE), path, setting, now)


def check_bundle(data: bytes, path: Path, setting: str, now: datetime) -> tuple[x509.Certificate, ...]:
    """As ``read_bundle``, of what has been read already."""
    try:
        authorities = parse_bundle(data)
    except ValueError as error:
        raise ConfigurationError(
            f"{setting}: {path}: {error}", next_step="name a PEM file of CA certificates, or a SPIFFE bundle in JSON"
        ) from None
    require_valid_authority(authorities, f"{setting}: {path}", now)
    return authorities


def require_valid_authority(authorities: Sequence[x509.Certificate], what: str, now: datetime) -> None:
    """Refuse CA certificates of which none is valid.

    Raises:
        ConfigurationError: nobody could get in; the text begins with ``what``.
    """
    if any(is_valid(one, now) for one in authorities):
        return
    coming = [one.not_valid_before_utc for one in authorities if one.not_valid_before_utc > now]
    if coming:
        said = f"is not valid before {min(coming):%Y-%m-%d %H:%M} UTC"
    else:
        said = f"has expired, at {max(one.not_valid_after_utc for one in authorities):%Y-%m-%d %H:%M} UTC"
    raise ConfigurationError(f"{what} {said}", next_step="name a CA that is valid")


def is_valid(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether it is, at a time (RFC 5280 section 4.1.2.5: both ends belong to it)."""
    return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc


def parse_bundle(data: bytes) -> tuple[x509.Certificate, ...]:
    """CA certificates of a bundle, PEM or JSON, each once.

    Raises:
        ValueError: it is malformed, holds something else than CA certificates, or too many or none of them.
    """
    found = _parse_json(data) if data.lstrip()[:1] == b"{" else _parse_pem(data)
    authorities = tuple(dict.fromkeys(found))
    if not authorities:
        raise ValueError("holds no CA certificate")
    if len(authorities) > MAX_AUTHORITIES:
        raise ValueError(f"holds more than {MAX_AUTHORITIES} certificates")
    for place, one in enumerate(authorities, 1):
        if not _is_authority(one):
            raise ValueError(f"certificate {place} is not a CA certificate")
    return authorities


def _parse_pem(data: bytes) -> list[x509.Certificate]:
    expected = len(_PEM.findall(data))
    if expected > MAX_AUTHORITIES:
        raise ValueError(f"holds more than {MAX_AUTHORITIES} certificates")
    try:
        found = x509.load_pem_x509_certificates(data)
    except UNREADABLE:
        raise ValueError("holds no certificate that can be read") from None
    # A file that is still being written ends within a certificate.
    if len(found) != expected:
        raise ValueError(f"holds {expected} certificates, of which {len(found)} can be read")
    return found


def _is_authority(certificate: x509.Certificate) -> bool:
    """Whether it may sign others (RFC 5280 sections 4.2.1.3 and 4.2.1.9)."""
    try:
        extensions = certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value if _has(extensions, x509.KeyUsage) else None
        # Both are read later, of every anchor.
        certificate.public_key()
        is_valid(certificate, certificate.not_valid_before_utc)
    except (x509.ExtensionNotFound, *UNREADABLE):
        return False
    return constraints.ca and (usage is None or usage.key_cert_sign)


def _has(extensions: x509.Extensions, kind: type[x509.ExtensionType]) -> bool:
    return any(isinstance(one.value, kind) for one in extensions)


class _Kind(msgspec.Struct):
    use: Any = None
    kty: Any = None
    x5c: Any = None

    @property
    def is_authority(self) -> bool:
        return self.use == "x509-svid" and self.kty in ("EC", "RSA") and bool(self.x5c)


class _Jwk(msgspec.Struct):
    kty: str
    x5c: list[str]
    x: str | None = None
    y: str | None = None
    n: str | None = None
    e: str | None = None


class _Bundle(msgspec.Struct):
    keys: list[msgspec.Raw]


def _parse_json(data: bytes) -> list[x509.Certificate]:
    """SPIFFE Trust Domain and Bundle, section 4; X.509-SVID, section 6. What is of another use is ignored."""
    try:
        keys = msgspec.json.decode(data, type=_Bundle).keys
        wanted = [place for place, key in enumerate(keys) if msgspec.json.decode(key, type=_Kind).is_authority]
        if len(wanted) > MAX_AUTHORITIES:
            raise ValueError(f"holds more than {MAX_AUTHORITIES} certificates")
        entries = [(f"keys[{place}]", msgspec.json.decode(keys[place], type=_Jwk)) for place in wanted]
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise ValueError("is not a SPIFFE bundle in JSON") from None
    return [_certificate_of(jwk, what) for what, jwk in entries]


def _certificate_of(jwk: _Jwk, what: str) -> x509.Certificate:
    if len(jwk.x5c) != 1:
        raise ValueError(f"{what}.x5c: must have exactly one certificate")
    try:
        certificate = x509.load_der_x509_certificate(base64.b64decode(jwk.x5c[0], validate=True))
        key = certificate.public_key()
    except UNREADABLE:
        raise ValueError(f"{what}.x5c: is not a certificate in base64") from None
    # RFC 7517 section 4.7: both are the same key.
    if isinstance(key, rsa.RSAPublicKey):
        public = key.public_numbers()
        same = jwk.kty == "RSA" and (_number(jwk.n), _number(jwk.e)) == (public.n, public.e)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        point = key.public_numbers()
        same = jwk.kty == "EC" and (_number(jwk.x), _number(jwk.y)) == (point.x, point.y)
    else:
        same = False
    if not same:
        raise ValueError(f"{what}: its parameters are not the key of its x5c")
    return certificate


def _number(text: str | None) -> int | None:
    """An unsigned number in base64url (RFC 7518 section 2)."""
    if not text:
        return None
    try:
        return int.from_bytes(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True))
    except ValueError:
        return None
