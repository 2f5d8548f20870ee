"""A signer's certificate that an authority should not have issued is refused, whatever is in it."""

from __future__ import annotations

import struct
from base64 import b64encode
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from sealkeeper.hsm import ALGORITHMS as SIGNING_ALGORITHMS
from sealkeeper.verify import TrustRootError
from sealkeeper.verify.algorithms import ALGORITHMS, KeyMismatchError, load_public_key
from sealkeeper.verify.certificate import (
    CertificateError,
    parse_signer_certificate,
    require_authority,
    verify_certificate_timestamp,
)
from sealkeeper.verify.trust import CertificateTransparencyLog, Validity
from tests.shapes.world import NOW
from tests.verify.certificates import (
    AUTHORITY,
    TLS_FEATURE,
    UNKNOWN_CURVE,
    UNKNOWN_FEATURE,
    certificate,
    raw_bytes,
    spki,
)
from tests.verify.signed import changed, check, edited_trusted_root, failed_step, signed

LOG_ID = bytes(32)
WRONG = bytes.fromhex("3006020101020101")
SCT_LIST = "1.3.6.1.4.1.11129.2.4.2"
P256 = "PKIX_ECDSA_P256_SHA_256"


def timestamps(*milliseconds: int) -> tuple[str, bytes]:
    """The extension with timestamps of these moments, each signed wrongly (RFC 6962 section 3.3)."""
    stamps = b""
    for moment in milliseconds:
        # Version, log, moment, no extensions, SHA-256 with ECDSA, signature.
        one = struct.pack(">B32sQH", 0, LOG_ID, moment, 0) + struct.pack(">BBH", 4, 3, 8) + WRONG
        stamps += struct.pack(">H", len(one)) + one
    value = struct.pack(">H", len(stamps)) + stamps
    return SCT_LIST, b"\x04\x81" + bytes([len(value)]) + value if len(value) > 127 else bytes([4, len(value)]) + value


def log(algorithm: str, key: bytes) -> CertificateTransparencyLog:
    parsed = ALGORITHMS[algorithm]
    everywhen = Validity(None, None)
    return CertificateTransparencyLog(
        "https://ct.example", "ct.example", LOG_ID, key, parsed, load_public_key(parsed, key), everywhen
    )


def check_timestamp(extension: tuple[str, bytes], algorithm: str = P256, key: bytes = b"") -> None:
    signer = parse_signer_certificate(certificate(extension).public_bytes(Encoding.DER))
    known = {LOG_ID: log(algorithm, key or spki(AUTHORITY.public_key()))}
    verify_certificate_timestamp(signer, certificate(), known)


def test_a_certificate_with_a_feature_that_nobody_knows_is_refused() -> None:
    one = signed()
    odd = raw_bytes(certificate((TLS_FEATURE, UNKNOWN_FEATURE)))

    def change(document: Any) -> None:
        document["verificationMaterial"]["certificate"]["rawBytes"] = odd

    result = check(changed(one.certificate_bundle, change), one.trust)
    assert failed_step(result) == "material"
    assert "malformed" in result.steps[-1].detail


def authority(*extensions: tuple[x509.ExtensionType, bool]) -> x509.Certificate:
    """An authority's own certificate with further extensions, each critical or not."""
    name, end = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]), NOW + timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, AUTHORITY.public_key(), 1, NOW, end)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    given = [(x509.BasicConstraints(ca=True, path_length=None), True), (usage, True), *extensions]
    for one, critical in given:
        builder = builder.add_extension(one, critical=critical)
    return builder.sign(AUTHORITY, hashes.SHA256())


# RFC 5280 section 4.2: what is critical and not understood.
def test_an_authority_under_constraints_that_are_not_checked_is_refused() -> None:
    only = x509.NameConstraints([x509.UniformResourceIdentifier("other.example")], None)
    require_authority(authority())
    require_authority(authority((only, False)))
    with pytest.raises(CertificateError, match=r"critical extension 2\.5\.29\.30"):
        require_authority(authority((only, True)))


@pytest.mark.parametrize("milliseconds", [2**64 - 1, 253_402_300_800_000])
def test_a_certificate_timestamp_beyond_the_calendar_is_refused(milliseconds: int) -> None:
    with pytest.raises(CertificateError, match="malformed"):
        check_timestamp(timestamps(milliseconds))


@pytest.mark.parametrize("moments", [(), (1, 2)])
def test_a_certificate_has_exactly_one_certificate_timestamp(moments: tuple[int, ...]) -> None:
    with pytest.raises(CertificateError, match="one is needed"):
        check_timestamp(timestamps(*moments))


def test_a_wrong_certificate_timestamp_is_refused() -> None:
    with pytest.raises(CertificateError, match="signature is wrong"):
        check_timestamp(timestamps(1))


@pytest.mark.parametrize("algorithm", SIGNING_ALGORITHMS)
def test_a_certificate_timestamp_is_refused_and_never_raises_whatever_the_key_of_its_log(algorithm: str) -> None:
    with pytest.raises(CertificateError):
        check_timestamp(timestamps(1), algorithm, signed(algorithm).key.public_key)


def test_a_key_on_an_unknown_curve_is_refused() -> None:
    with pytest.raises(KeyMismatchError):
        load_public_key(ALGORITHMS[P256], UNKNOWN_CURVE)


# RFC 6962 section 2.1.4: ECDSA on P-256, or RSASSA-PKCS1-v1_5, with SHA-256.
@pytest.mark.parametrize("algorithm", SIGNING_ALGORITHMS)
def test_logs_of_certificates_sign_as_rfc_6962_has_it(algorithm: str) -> None:
    one, key = signed(), signed(algorithm).key.public_key

    def change(document: Any) -> None:
        document["ctlogs"][0]["publicKey"].update(rawBytes=b64encode(key).decode(), keyDetails=algorithm)
        document["ctlogs"][0]["logId"]["keyId"] = b64encode(sha256(key).digest()).decode()

    if algorithm == P256 or algorithm.startswith("PKIX_RSA_PKCS1V15"):
        assert edited_trusted_root(one, change).ct_logs
    else:
        with pytest.raises(TrustRootError, match=r"ctlogs\[0\]\.publicKey\.keyDetails"):
            edited_trusted_root(one, change)
