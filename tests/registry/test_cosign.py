"""What cosign kept before becomes a bundle where all its parts are there, and is refused by the missing one else."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.registry import Layout, Origin, to_bundle
from sealkeeper.registry.cosign import (
    BUNDLE,
    DSSE_ENVELOPE,
    OLD_BUNDLE,
    SIMPLE_SIGNING,
    CosignAttestation,
    CosignSignature,
    read_attestation,
    read_signature,
)
from sealkeeper.registry.errors import MalformedError, RegistryError
from sealkeeper.registry.manifest import Descriptor
from sealkeeper.verify.bundle import MessageSignature, parse_bundle
from sealkeeper.verify.errors import VerifyError
from sealkeeper.verify.gate.simple_signing import image_digest
from tests.stores.openbao import make_certificates

IMAGE = "sha256:" + "a" * 64
ORIGIN = Origin(Layout.COSIGN_SIGNATURES, IMAGE, "sha256:" + "b" * 64, "sha256:" + "c" * 64)
PAYLOAD = json.dumps(
    {
        "critical": {
            "identity": {"docker-reference": ""},
            "image": {"docker-manifest-digest": IMAGE},
            "type": "cosign container image signature",
        },
        "optional": None,
    }
).encode()
LOG_ID = "c0d23d6ad406973f9559f3ba2d1ca01f84147d8ffc5b8445c224f98b9591801d"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


BODY = json.dumps({"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": {}}).encode()
REKOR: dict[str, Any] = {
    "SignedEntryTimestamp": b64(b"promise"),
    "Payload": {"body": b64(BODY), "integratedTime": 1624396085, "logIndex": 5179, "logID": LOG_ID},
}
ENVELOPE: dict[str, Any] = {
    "payloadType": "application/vnd.in-toto+json",
    "payload": b64(b"statement"),
    "signatures": [{"keyid": "", "sig": b64(b"signature")}],
}


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("certificates")
    make_certificates(directory)
    return (directory / "server.pem").read_text()


def signature(**annotations: str) -> CosignSignature:
    notes = {"dev.cosignproject.cosign/signature": b64(b"signature")}
    notes |= {f"dev.sigstore.cosign/{name}": text for name, text in annotations.items()}
    return read_signature(PAYLOAD, Descriptor(SIMPLE_SIGNING, ORIGIN.layer, len(PAYLOAD), annotations=notes), ORIGIN)


def attestation(envelope: object = ENVELOPE, **annotations: str) -> CosignAttestation:
    notes = {f"dev.sigstore.cosign/{name}": text for name, text in annotations.items()}
    data = json.dumps(envelope).encode()
    return read_attestation(data, Descriptor(DSSE_ENVELOPE, ORIGIN.layer, len(data), annotations=notes), ORIGIN)


def test_the_parts_of_a_signature_are_told_apart(certificate: str) -> None:
    found = signature(certificate=certificate, chain="the chain", bundle="{}")
    assert (found.payload, found.signature) == (PAYLOAD, b"signature")
    assert (found.material.certificate, found.material.chain) == (certificate, "the chain")
    assert image_digest(found.payload) == IMAGE


def test_a_signature_with_a_promise_becomes_a_bundle_of_v0_1(certificate: str) -> None:
    bundle = to_bundle(signature(certificate=certificate, chain=certificate, bundle=json.dumps(REKOR)))
    der = x509.load_pem_x509_certificate(certificate.encode()).public_bytes(Encoding.DER)
    document = json.loads(bundle)
    assert document["mediaType"] == OLD_BUNDLE
    material = document["verificationMaterial"]
    assert material["x509CertificateChain"] == {"certificates": [{"rawBytes": b64(der)}]}
    assert material["tlogEntries"] == [
        {
            "logIndex": "5179",
            "logId": {"keyId": b64(bytes.fromhex(LOG_ID))},
            "kindVersion": {"kind": "hashedrekord", "version": "0.0.1"},
            "integratedTime": "1624396085",
            "inclusionPromise": {"signedEntryTimestamp": b64(b"promise")},
            "canonicalizedBody": b64(BODY),
        }
    ]
    assert document["messageSignature"] == {
        "messageDigest": {"algorithm": "SHA2_256", "digest": b64(hashlib.sha256(PAYLOAD).digest())},
        "signature": b64(b"signature"),
    }


def test_a_signature_with_a_timestamp_becomes_a_bundle_that_is_read_here(certificate: str) -> None:
    stamp = json.dumps({"SignedRFC3161Timestamp": b64(b"stamp")})
    found = parse_bundle(to_bundle(signature(certificate=certificate, rfc3161timestamp=stamp)))
    assert found.certificate == x509.load_pem_x509_certificate(certificate.encode()).public_bytes(Encoding.DER)
    assert found.timestamps == (b"stamp",)
    assert isinstance(found.content, MessageSignature)


def test_a_signature_with_a_key_names_it() -> None:
    bundle = to_bundle(signature(), hint="release")
    assert parse_bundle(bundle).hint == "release"
    assert json.loads(bundle)["mediaType"] == BUNDLE


def test_an_attestation_becomes_a_bundle_with_its_envelope(certificate: str) -> None:
    for found in (
        json.loads(to_bundle(attestation(certificate=certificate, bundle=json.dumps(REKOR)))),
        json.loads(to_bundle(attestation(), hint="release")),
    ):
        assert found["dsseEnvelope"] == {
            "payload": b64(b"statement"),
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"sig": b64(b"signature")}],
        }


def test_a_signature_without_certificate_and_key_is_refused() -> None:
    with pytest.raises(MalformedError, match="no certificate"):
        to_bundle(signature())


def changed(**payload: object) -> str:
    return json.dumps({**REKOR, "Payload": {**REKOR["Payload"], **payload}})


@pytest.mark.parametrize(
    "annotations",
    [
        {"certificate": "no PEM"},
        {"certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"},
        {"bundle": "no JSON"},
        {"bundle": "{}"},
        {"bundle": json.dumps({**REKOR, "SignedEntryTimestamp": ""})},
        {"bundle": json.dumps({**REKOR, "SignedEntryTimestamp": 1})},
        {"bundle": changed(body="!")},
        {"bundle": changed(body=b64(b"[]"))},
        {"bundle": changed(body=b64(b"{}"))},
        {"bundle": changed(logID="xyz")},
        {"bundle": changed(logID=None)},
        {"bundle": changed(logIndex="5")},
        {"bundle": changed(logIndex=-1)},
        {"bundle": changed(integratedTime=2**63)},
        {"bundle": "[" * 100_000},
        {"rfc3161timestamp": "{}"},
        {"rfc3161timestamp": "no JSON"},
    ],
)
def test_a_part_that_is_not_what_it_should_be_is_refused(annotations: dict[str, str]) -> None:
    with pytest.raises(MalformedError, match=r"dev\.sigstore\.cosign"):
        to_bundle(signature(**annotations), hint="release")


@pytest.mark.parametrize(
    "envelope",
    [
        [],
        {},
        {**ENVELOPE, "signatures": []},
        {**ENVELOPE, "signatures": ENVELOPE["signatures"] * 2},
        {**ENVELOPE, "signatures": [{}]},
        {**ENVELOPE, "signatures": [1]},
        {**ENVELOPE, "payload": "!"},
        {**ENVELOPE, "payloadType": 1},
    ],
)
def test_an_envelope_that_is_none_is_refused(envelope: object) -> None:
    with pytest.raises(MalformedError):
        to_bundle(attestation(envelope), hint="release")


@pytest.mark.parametrize("payload", [b"", b"{}", b'{"critical":1}', b'{"critical":{"image":{}}}', b"[" * 10_000])
def test_a_payload_that_names_no_image_is_refused(payload: bytes) -> None:
    layer = Descriptor(SIMPLE_SIGNING, ORIGIN.layer, 1, annotations={"dev.cosignproject.cosign/signature": "eA=="})
    with pytest.raises(VerifyError):
        image_digest(read_signature(payload, layer, ORIGIN).payload)


@given(st.dictionaries(st.sampled_from(["certificate", "chain", "bundle", "rfc3161timestamp"]), st.text(max_size=50)))
def test_any_annotations_make_a_bundle_or_are_refused(annotations: dict[str, str]) -> None:
    try:
        bundle = to_bundle(signature(**annotations), hint="release")
    except RegistryError:
        return
    assert json.loads(bundle)["messageSignature"]
