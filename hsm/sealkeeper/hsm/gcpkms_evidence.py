"""What Google Cloud KMS says of a key version, as evidence.

Source: https://cloud.google.com/kms/docs/reference/rpc/google.cloud.kms.v1#cryptokeyversion.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from google.cloud import kms_v1 as kms

from sealkeeper.hsm.errors import ProviderUnavailableError
from sealkeeper.hsm.provider import Attestation, KeyEvidence, Origin, ProtectionLevel

_MAX_ATTESTATION = 32 * 1024
_MAX_CERTIFICATES = 16
_MAX_CERTIFICATE = 16 * 1024
_MAX_CLAIM = 512
_LEVELS = {
    kms.ProtectionLevel.SOFTWARE: ProtectionLevel.SOFTWARE,
    kms.ProtectionLevel.HSM: ProtectionLevel.HSM,
    kms.ProtectionLevel.HSM_SINGLE_TENANT: ProtectionLevel.HSM,
    kms.ProtectionLevel.EXTERNAL: ProtectionLevel.EXTERNAL,
    kms.ProtectionLevel.EXTERNAL_VPC: ProtectionLevel.EXTERNAL,
}


def key_evidence(version: kms.CryptoKeyVersion) -> KeyEvidence:
    """Put a version's own record into evidence. Claims are named as in Google's JSON.

    Raises:
        ProviderUnavailableError: its protection level is not known here.
    """
    level = _LEVELS.get(version.protection_level)
    if level is None:
        raise ProviderUnavailableError("Google Cloud KMS names a protection level that is not known here")
    claims = {
        "name": version.name,
        "state": _name(version.state),
        "algorithm": _name(version.algorithm),
        "protectionLevel": _name(version.protection_level),
    }
    for claim, moment in (("generateTime", version.generate_time), ("importTime", version.import_time)):
        if moment:
            claims[claim] = utc(moment).strftime("%Y-%m-%dT%H:%M:%SZ")
    if version.import_job:
        claims["importJob"] = version.import_job
    attestation, left_out = hsm_attestation(version.attestation)
    if left_out:
        claims["attestation"] = left_out
    exportable = None
    if level is not ProtectionLevel.EXTERNAL:
        # Only a key of a single-tenant HSM can be one that another key may wrap and take out.
        exportable = bool(getattr(version, "trusted_wrapping_enabled", False))
        claims["trustedWrappingEnabled"] = str(exportable).lower()
    if version.import_job or version.import_time:
        origin = Origin.IMPORTED
    else:
        origin = Origin.GENERATED if version.generate_time else Origin.UNKNOWN
    short = {claim: text[:_MAX_CLAIM] for claim, text in claims.items()}
    return KeyEvidence(level, origin, exportable, short, attestation)


def hsm_attestation(given: kms.KeyOperationAttestation) -> tuple[Attestation | None, str]:
    """The HSM's statement, and why it is left out where it is there but cannot be passed on.

    Its certificates are those of the HSM's partition as Google signed them, of the card as Google signed it, and of
    both as the manufacturer did; each chain begins with the signer's.
    """
    if not given.content:
        return None, ""
    form, chains = _name(given.format), given.cert_chains
    pems = list(dict.fromkeys([*chains.google_partition_certs, *chains.google_card_certs, *chains.cavium_certs]))
    if len(given.content) > _MAX_ATTESTATION or any(len(pem) > _MAX_CERTIFICATE for pem in pems):
        return None, f"{form}, left out: too large"
    if len(pems) > _MAX_CERTIFICATES:
        return None, f"{form}, left out: {len(pems)} certificates"
    try:
        parsed = [certificate for pem in pems for certificate in x509.load_pem_x509_certificates(pem.encode())]
    except ValueError:
        return None, f"{form}, left out: a certificate is malformed"
    certificates = tuple(certificate.public_bytes(serialization.Encoding.DER) for certificate in parsed)
    return Attestation(form, bytes(given.content), certificates), ""


def utc(moment: Any) -> datetime:
    """A time of Google's in whole seconds."""
    return datetime.fromtimestamp(int(moment.timestamp()), UTC)


def _name(value: Any) -> str:
    """An enumeration's word; its number where this client library does not know it."""
    return str(getattr(value, "name", value))
