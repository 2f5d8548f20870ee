"""Key ceremonies: how a key version came to be, signed by itself and kept in the audit log.

The statement says who, when, where, and with which fingerprints and evidence. It is signed by the new version in a DSSE
envelope, which proves at the same time that its provider holds the private key of the public key: for an imported key
the one that the custodian gave. The envelope is part of the audit record of the change, before which no version signs
for anybody. ``sealkeeper.verify.ceremony`` checks such records offline.
"""

from __future__ import annotations

import hashlib
import secrets
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any

import rfc8785

from sealkeeper.hsm import (
    ALGORITHMS,
    Attestation,
    KeyEvidence,
    ProviderInfo,
    PublicKeyMismatchError,
    SelfCheckError,
)
from sealkeeper.hsm.algorithms import load_public_key, signature_verifies
from sealkeeper.server.clock import rfc3339
from sealkeeper.server.configured_provider import ConfiguredProvider
from sealkeeper.server.errors import KeyExportableError
from sealkeeper.server.identity import Principal
from sealkeeper.server.key import KeyVersion
from sealkeeper.verify.dsse import pae

FORMAT = "sealkeeper-key-ceremony/1"
PAYLOAD_TYPE = "application/vnd.sealkeeper.key-ceremony.v1+json"
# So that the record, in which the statement is base64 and stands beside a signature, stays within the 65,535 bytes of
# a log entry.
_MOST_STATEMENT = 36 * 1024
_MOST_ATTESTATION = 20 * 1024
_MOST_CLAIM = 200
_MOST_CLAIMS = 64


class Event(StrEnum):
    """What was done."""

    CREATED = "CREATED"
    ROTATED = "ROTATED"
    STANDBY_ADDED = "STANDBY_ADDED"
    IMPORTED = "IMPORTED"


@dataclass(frozen=True, slots=True)
class Ceremony:
    """What a statement says.

    Attributes:
        event: what was done.
        time: when.
        gateway: its domain.
        principal: who asked for it.
        version: that came to be.
        evidence: what the store says of it.
        imported: of an imported key, how it came: see ``key_imports.py``.
    """

    event: Event
    time: datetime
    gateway: str
    principal: Principal
    version: KeyVersion
    evidence: KeyEvidence
    imported: Mapping[str, Any] | None


def fingerprint(public_key: bytes) -> str:
    """SHA-256 of a SubjectPublicKeyInfo, for people to compare."""
    return f"sha256:{sha256(public_key).hexdigest()}"


def attestation_document(attestation: Attestation | None) -> dict[str, Any] | None:
    """An attestation as records and offers have it; only its digest where it is too long for a record."""
    if attestation is None:
        return None
    content: str | None = _text(attestation.content)
    certificates: list[str] | None = [_text(one) for one in attestation.certificates]
    if len(attestation.content) + sum(map(len, attestation.certificates)) > _MOST_ATTESTATION:
        content = certificates = None
    digest = f"sha256:{sha256(attestation.content).hexdigest()}"
    return {
        "format": attestation.format[:_MOST_CLAIM],
        "digest": digest,
        "content": content,
        "certificates": certificates,
    }


async def hold(ceremony: Ceremony, provider: ConfiguredProvider) -> dict[str, Any]:
    """Have the new version sign its ceremony's statement, and check that.

    Returns:
        The DSSE envelope, as JSON has it.

    Raises:
        KeyExportableError: the store would give the private key out.
        PublicKeyMismatchError: the signature is not one of the version's public key.
        ProviderError: the provider did not sign.
    """
    if ceremony.evidence.exportable:
        raise KeyExportableError(
            f"provider {provider.name} says that the private key could be read out of it",
            next_step="let the store make keys that cannot be exported",
        )
    version = ceremony.version
    payload = _payload(_statement(ceremony, provider.name, provider.info), _room(provider.info, version.algorithm))
    encoded, algorithm = pae(PAYLOAD_TYPE, payload), ALGORITHMS[version.algorithm]
    signed = hashlib.new(algorithm.digest, encoded).digest() if algorithm.digest else encoded
    try:
        [signature] = await provider.sign(version.handle, algorithm, [signed])
    except SelfCheckError:
        signature = b""
    if not signature_verifies(algorithm, load_public_key(algorithm, version.public_key), signed, signature):
        raise PublicKeyMismatchError(
            "the private key in the store is not the one of the public key",
            next_step="compare the fingerprints on both sides; the private key was destroyed, begin anew",
        )
    return {
        "payloadType": PAYLOAD_TYPE,
        "payload": _text(payload),
        "signatures": [{"keyid": version.hint, "sig": _text(signature)}],
    }


def _room(info: ProviderInfo, algorithm: str) -> int:
    """Bytes that a statement may have: by the record that it becomes part of, and by what the store signs at once."""
    return min(_MOST_STATEMENT, info.max_message.get(algorithm, _MOST_STATEMENT) - len(pae(PAYLOAD_TYPE, b"")) - 8)


def _payload(statement: dict[str, Any], room: int) -> bytes:
    """A statement in its canonical form, with as much of the store's words as there is room for."""
    payload, evidence = rfc8785.dumps(statement), statement["evidence"]
    for attestation in ((statement["import"] or {}).get("attestation"), evidence["attestation"]):
        if attestation is not None and len(payload) > room:
            attestation.update(content=None, certificates=None)
            payload = rfc8785.dumps(statement)
    while len(payload) > room and evidence["claims"]:
        evidence["claims"].popitem()
        payload = rfc8785.dumps(statement)
    return payload


def _statement(ceremony: Ceremony, provider: str, info: ProviderInfo) -> dict[str, Any]:
    version, evidence, principal = ceremony.version, ceremony.evidence, ceremony.principal
    return {
        "format": FORMAT,
        "event": ceremony.event.value,
        "time": rfc3339(ceremony.time),
        "gateway": ceremony.gateway,
        "keyVersion": str(version.name),
        "algorithm": version.algorithm,
        "publicKeyFingerprint": fingerprint(version.public_key),
        "principal": {"tenant": principal.tenant, "subject": principal.subject, "role": str(principal.role)},
        "provider": {
            "name": provider,
            "scheme": info.scheme,
            "description": info.description,
            "region": version.region,
            "protectionLevel": version.protection_level.value,
        },
        "standby": version.standby,
        "evidence": {
            "protectionLevel": evidence.protection_level.value,
            "origin": evidence.origin.value,
            "exportable": evidence.exportable,
            "claims": _claims(evidence),
            "attestation": attestation_document(evidence.attestation),
        },
        "import": dict(ceremony.imported) if ceremony.imported is not None else None,
        "nonce": secrets.token_hex(32),
    }


def _claims(evidence: KeyEvidence) -> dict[str, str]:
    return {name[:_MOST_CLAIM]: value[:_MOST_CLAIM] for name, value in list(evidence.claims.items())[:_MOST_CLAIMS]}


def _text(data: bytes) -> str:
    return b64encode(data).decode()
