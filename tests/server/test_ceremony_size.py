"""The record of a ceremony is in the audit log whatever a store says: records have a bounded length."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils

from sealkeeper.hsm import Algorithm, Attestation, KeyEvidence, Origin, ProtectionLevel, ProviderInfo
from sealkeeper.server.audit import AuditRecord
from sealkeeper.server.ceremony import Ceremony, Event, attestation_document, hold
from sealkeeper.server.identity import Principal, Role
from sealkeeper.server.key import KeyVersion, State
from sealkeeper.server.new_version import MadeVersion
from sealkeeper.server.resources import KeyVersionName
from tests.e2e.running import P256
from tests.wrapping import private_key, spki

ED25519 = "PKIX_ED25519"
NOW = datetime(2026, 1, 2, tzinfo=UTC)
LONG = Attestation("CAVIUM_V2_COMPRESSED", bytes(19 * 1024), (bytes(500), bytes(500)))
SHORT = Attestation("CAVIUM_V2_COMPRESSED", bytes(500), (bytes(100),))
CLAIMS = {f"{number:02}{'ü' * 300}": "界" * 300 for number in range(100)}


class Store:
    """Signs with a key of its own."""

    name = "store"
    info = ProviderInfo("store", "of a test", ProtectionLevel.HSM, frozenset({P256}), "eu-central-1")

    def __init__(self) -> None:
        key = private_key("secp256r1")
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key

    async def sign(self, handle: str, algorithm: Algorithm, payloads: Sequence[bytes]) -> list[bytes]:
        return [self._key.sign(one, ec.ECDSA(utils.Prehashed(hashes.SHA256()))) for one in payloads]


class SmallStore:
    """Signs messages, and none that is long."""

    name = "small"
    info = ProviderInfo(
        "store", "of a test", ProtectionLevel.HSM, frozenset({ED25519}), "eu-central-1", max_message={ED25519: 4096}
    )

    def __init__(self) -> None:
        self.key = ed25519.Ed25519PrivateKey.generate()

    async def sign(self, handle: str, algorithm: Algorithm, payloads: Sequence[bytes]) -> list[bytes]:
        assert all(len(one) <= 4096 for one in payloads)
        return [self.key.sign(one) for one in payloads]


async def test_it_is_no_longer_than_what_the_store_signs() -> None:
    small: Any = SmallStore()
    version = KeyVersion(
        KeyVersionName("acme", "release", 1),
        State.PUBLISHED,
        ED25519,
        "small",
        ProtectionLevel.HSM,
        "handle",
        spki(small.key),
        NOW,
    )
    evidence = KeyEvidence(ProtectionLevel.HSM, Origin.GENERATED, False, CLAIMS, LONG)
    principal = Principal("acme", "spiffe://example/acme/custodian/x", Role.CUSTODIAN, None)
    envelope = await hold(Ceremony(Event.CREATED, NOW, "example", principal, version, evidence, None), small)
    said = json.loads(base64.b64decode(envelope["payload"]))
    assert said["evidence"]["attestation"]["digest"].startswith("sha256:")


@pytest.mark.parametrize("attestation", [LONG, SHORT, None])
@pytest.mark.parametrize("of_import", [LONG, SHORT, None])
@pytest.mark.parametrize("claims", [CLAIMS, {"CKA_LOCAL": "true"}])
async def test_it_fits_and_says_the_digests_of_what_does_not(
    attestation: Attestation | None, of_import: Attestation | None, claims: dict[str, str]
) -> None:
    version = KeyVersion(
        KeyVersionName("acme", "release", 1),
        State.PUBLISHED,
        P256,
        "store",
        ProtectionLevel.HSM,
        "handle",
        spki(private_key("secp256r1")),
        NOW,
    )
    evidence = KeyEvidence(ProtectionLevel.HSM, Origin.IMPORTED, False, claims, attestation)
    principal = Principal("acme", "spiffe://example/acme/custodian/x", Role.CUSTODIAN, None)
    imported = {"attestation": attestation_document(of_import)}
    store: Any = Store()
    ceremony = await hold(Ceremony(Event.IMPORTED, NOW, "example", principal, version, evidence, imported), store)
    record = AuditRecord(NOW, "KeyImportService/FinishKeyImport", details=MadeVersion(version, ceremony).details)
    said = json.loads(base64.b64decode(json.loads(record.encode())["details"]["ceremony"]["payload"]))
    for one, document in (
        (attestation, said["evidence"]["attestation"]),
        (of_import, said["import"]["attestation"]),
    ):
        whole = attestation_document(one)
        assert (document and document["digest"]) == (whole and whole["digest"])
        if one is SHORT and claims is not CLAIMS:
            assert document["content"] or LONG in (attestation, of_import)
    assert said["evidence"]["claims"]
