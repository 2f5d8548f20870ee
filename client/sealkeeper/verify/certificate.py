"""Signers' certificates: chain, certificate timestamp, identity (RFC 5280, RFC 6962 section 3, Fulcio's extensions).

A signer's certificate has one subject alternative name, digitalSignature and codeSigning, and one embedded timestamp of
a certificate transparency log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from sealkeeper.verify.algorithms import Algorithm, PublicKey, fitting_algorithms, require_key
from sealkeeper.verify.algorithms import signature_verifies as _verifies
from sealkeeper.verify.claims import ARC, parse_claims, utf8_string
from sealkeeper.verify.errors import VerifyError

if TYPE_CHECKING:
    from sealkeeper.verify.trust import Authority, CertificateTransparencyLog

UNREADABLE = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises for certificates that are malformed, beyond it, or not signed by who should have: KeyError,
for example, for a TLS feature (RFC 7633) that it does not know."""

_ISSUER_V1, _OTHER_NAME, _ISSUER_V2 = f"{ARC}.1", f"{ARC}.7", f"{ARC}.8"
_KNOWN_CRITICAL = {
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class CertificateError(VerifyError):
    """A certificate is not what a signer's has to be."""

    reason = "CERTIFICATE_INVALID"


@dataclass(frozen=True, slots=True)
class SignerCertificate:
    """A signer's certificate, parsed and not yet trusted.

    Attributes:
        der: the certificate.
        certificate: parsed.
        key: its public key.
        spki: the same as SubjectPublicKeyInfo, DER.
        algorithms: that the key fits, the likeliest first; more than one for RSA, P-384 and P-521.
        identity: its subject alternative name: a URI, an email address, or another name of Fulcio's (a user name).
        issuer: who vouched for the identity: Fulcio's extension 8, or 1; empty where there is none.
        claims: what else Fulcio certified, by the names of ``claims.CLAIMS`` and ``claims.OLDER_CLAIMS``.
    """

    der: bytes
    certificate: x509.Certificate
    key: PublicKey
    spki: bytes
    algorithms: tuple[Algorithm, ...]
    identity: str
    issuer: str
    claims: Mapping[str, str]


def parse_signer_certificate(der: bytes) -> SignerCertificate:
    """Parse a certificate and check what it allows.

    Raises:
        CertificateError: malformed, or not a signer's.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        require_readable(certificate)
        extensions, key = certificate.extensions, certificate.public_key()
        _require_signer(extensions)
        algorithms = fitting_algorithms(key)
        texts = _unrecognized(extensions)
        identity, issuer = _identity(extensions), _issuer(texts)
        claims = parse_claims(texts, issuer)
    except UNREADABLE:
        raise CertificateError("the certificate is malformed") from None
    except x509.ExtensionNotFound as error:
        raise CertificateError(f"the certificate has no extension {error.oid.dotted_string}") from None
    if not algorithms:
        raise CertificateError("the certificate's key is of a kind that is not supported")
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    key = require_key(algorithms[0], key)
    return SignerCertificate(der, certificate, key, spki, algorithms, identity, issuer, claims)


def require_readable(certificate: x509.Certificate) -> None:
    """Read what cryptography reads on demand only, so that a malformed part fails here and nowhere later.

    Raises:
        Exception: one of ``UNREADABLE``.
    """
    _ = certificate.subject, certificate.issuer, certificate.not_valid_before_utc, certificate.not_valid_after_utc
    _ = certificate.extensions, certificate.public_key()


def _require_known(extensions: x509.Extensions) -> None:
    for one in extensions:
        if one.critical and one.oid not in _KNOWN_CRITICAL:
            raise CertificateError(f"a certificate has an unknown critical extension {one.oid.dotted_string}")


def _require_signer(extensions: x509.Extensions) -> None:
    _require_known(extensions)
    if not extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature:
        raise CertificateError("the certificate's key usage does not allow digital signatures")
    if ExtendedKeyUsageOID.CODE_SIGNING not in extensions.get_extension_for_class(x509.ExtendedKeyUsage).value:
        raise CertificateError("the certificate is not for code signing")
    for one in extensions:
        if isinstance(one.value, x509.BasicConstraints) and one.value.ca:
            raise CertificateError("the certificate is an authority's")


def _unrecognized(extensions: x509.Extensions) -> Mapping[str, bytes]:
    found = [one for one in extensions if isinstance(one.value, x509.UnrecognizedExtension)]
    return {one.oid.dotted_string: one.value.value for one in found}


def _identity(extensions: x509.Extensions) -> str:
    names = list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    if len(names) == 1 and isinstance(names[0], x509.UniformResourceIdentifier | x509.RFC822Name):
        return names[0].value
    if len(names) == 1 and isinstance(names[0], x509.OtherName) and names[0].type_id.dotted_string == _OTHER_NAME:
        return utf8_string(names[0].value, _OTHER_NAME)
    raise CertificateError(
        "the certificate needs exactly one subject alternative name: a URI, an email address, or another name of "
        f"the type {_OTHER_NAME}"
    )


def _issuer(extensions: Mapping[str, bytes]) -> str:
    older = extensions[_ISSUER_V1].decode() if _ISSUER_V1 in extensions else ""
    if _ISSUER_V2 not in extensions:
        return older
    issuer = utf8_string(extensions[_ISSUER_V2], _ISSUER_V2)
    # Fulcio writes the same twice; verifiers that read one each must not see two issuers.
    if _ISSUER_V1 in extensions and older != issuer:
        raise CertificateError("the certificate names two issuers of its identity")
    return issuer


def require_authority(certificate: x509.Certificate) -> None:
    """Check that a certificate may certify others.

    Raises:
        CertificateError: it may not, or under constraints that are not checked here.
    """
    _require_known(certificate.extensions)
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        raise CertificateError("an authority's certificate has no basic constraints or no key usage") from None
    if not constraints.ca or not usage.key_cert_sign:
        raise CertificateError("a certificate of the chain is not an authority's")


def verify_chain(signer: SignerCertificate, authorities: tuple[Authority, ...], moment: datetime) -> x509.Certificate:
    """Find the authority that issued a certificate, and check all dates.

    Args:
        signer: the certificate.
        authorities: trusted; the links of their chains were checked when they were read.
        moment: when the signature was made.

    Returns:
        The issuer's certificate.

    Raises:
        CertificateError: none of them issued it, or a certificate was not valid at the moment.
    """
    problem = CertificateError("no trusted authority issued the certificate")
    for authority in authorities:
        issuer = authority.chain[0]
        if not _issued_by(signer.certificate, issuer):
            continue
        try:
            _require_path(authority)
            _require_dates(signer, authority, moment)
        except CertificateError as error:
            # The same authority may be there again, for another time.
            problem = error
            continue
        return issuer
    raise problem


def _require_dates(signer: SignerCertificate, authority: Authority, moment: datetime) -> None:
    for one in (signer.certificate, *authority.chain):
        if not one.not_valid_before_utc <= moment <= one.not_valid_after_utc:
            raise CertificateError(
                f"a certificate of the chain is valid from {one.not_valid_before_utc.isoformat()} "
                f"to {one.not_valid_after_utc.isoformat()}, the signature is of {moment.isoformat()}"
            )
    if not authority.validity.covers(moment):
        raise CertificateError(f"the authority is trusted from {authority.validity} only")


def _issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except UNREADABLE:
        return False
    return True


def _require_path(authority: Authority) -> None:
    for below, one in enumerate(authority.chain):
        require_authority(one)
        length = one.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
        if length is not None and below > length:
            raise CertificateError("the chain is longer than one of its certificates allows")


def verify_certificate_timestamp(
    signer: SignerCertificate, issuer: x509.Certificate, logs: Mapping[bytes, CertificateTransparencyLog]
) -> datetime:
    """Check the one embedded certificate timestamp (RFC 6962 section 3.2).

    Returns:
        Its time.

    Raises:
        CertificateError: there is none or more than one, of an unknown log, or wrong.
    """
    try:
        stamp, moment = _one_timestamp(signer.certificate)
        log = logs.get(stamp.log_id)
        if log is None or not signs_certificate_timestamps(log.algorithm):
            raise CertificateError("the certificate timestamp is of a log that is not trusted")
        digest = _digest(stamp, signer.certificate.tbs_precertificate_bytes, issuer, moment)
        genuine = _verifies(log.algorithm, log.key, digest, stamp.signature)
    except x509.ExtensionNotFound:
        raise CertificateError("the certificate has no certificate timestamp") from None
    except UNREADABLE:
        raise CertificateError("the certificate timestamp is malformed") from None
    if not genuine:
        raise CertificateError("the certificate timestamp's signature is wrong")
    if not log.validity.covers(moment):
        raise CertificateError(f"the log of certificates is trusted from {log.validity} only")
    return moment


def signs_certificate_timestamps(algorithm: Algorithm) -> bool:
    """Tell whether logs of certificates sign with it: ECDSA on P-256 or RSASSA-PKCS1-v1_5, with SHA-256 (RFC 6962
    section 2.1.4)."""
    return algorithm.signs_digest and algorithm.digest == "SHA2_256" and not algorithm.pss


def _one_timestamp(
    certificate: x509.Certificate,
) -> tuple[x509.certificate_transparency.SignedCertificateTimestamp, datetime]:
    stamps = certificate.extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps).value
    if len(stamps) != 1:
        raise CertificateError(f"the certificate has {len(stamps)} certificate timestamps; one is needed")
    return stamps[0], stamps[0].timestamp.replace(tzinfo=UTC)


def _digest(
    stamp: x509.certificate_transparency.SignedCertificateTimestamp,
    tbs: bytes,
    issuer: x509.Certificate,
    moment: datetime,
) -> bytes:
    issuer_key = issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    extensions = stamp.extension_bytes
    signed = (
        b"\0\0",
        ((moment - _EPOCH) // timedelta(milliseconds=1)).to_bytes(8, "big"),
        b"\0\1",
        sha256(issuer_key).digest(),
        len(tbs).to_bytes(3, "big"),
        tbs,
        len(extensions).to_bytes(2, "big"),
        extensions,
    )
    return sha256(b"".join(signed)).digest()
