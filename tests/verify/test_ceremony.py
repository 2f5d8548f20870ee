"""Ceremony records: each step refuses what only it can see."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.verify import CeremonyResult, KeptCeremony, LogProof, StepFailedError, verify_ceremony
from sealkeeper.verify.strict_json import JsonError
from tests.verify.ceremonies import (
    KEY,
    ORIGIN,
    VERSION,
    Change,
    Made,
    b64,
    canonical,
    envelope,
    log_verifier,
    payload,
    proof_of,
    spki,
)

STEPS = (
    "record",
    "envelope",
    "payload",
    "public-key",
    "signature",
    "agreement",
    "evidence",
    "checkpoint",
    "inclusion-proof",
)
OTHER = ec.derive_private_key(22, ec.SECP256R1())
OTHER_LOG = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


def put(path: str, value: Any) -> Change:
    """Set the member at the end of a path, as ``provider.region``."""

    def change(document: Any) -> None:
        *way, last = path.split(".")
        for name in way:
            document = document[name]
        document[last] = value

    return change


def drop(path: str) -> Change:
    def change(document: Any) -> None:
        *way, last = path.split(".")
        for name in way:
            document = document[name]
        del document[last]

    return change


def failed_at(result: CeremonyResult) -> str:
    assert (result.verified, result.ceremony, result.checkpoint) == (False, None, None)
    assert tuple(one.name for one in result.steps) == STEPS[: len(result.steps)]
    assert [one.passed for one in result.steps] == [True] * (len(result.steps) - 1) + [False]
    return result.steps[-1].name


def checked(record: bytes, proof: LogProof, **other: Any) -> CeremonyResult:
    given: dict[str, Any] = {"public_key": spki(KEY), "log": log_verifier(), "key_version": VERSION, **other}
    return verify_ceremony(record, proof, **given)


def test_a_record_with_what_gateways_add_since_verifies() -> None:
    def change(record: Any) -> None:
        record.update(action="ImportKey", address="127.0.0.1", caller={"method": "certificate", "person": "first"})

    assert Made(change_record=change).verify().verified
    assert failed_at(Made(change_record=put("further", "")).verify()) == "record"


@pytest.mark.parametrize("key", [KEY, ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))])
def test_a_whole_record_passes_every_step_and_says_what_is_in_it(key: Any) -> None:
    result = Made(key).verify()
    assert tuple(one.name for one in result.steps) == STEPS
    assert result.log_verified
    assert result.checkpoint is not None
    assert result.checkpoint.origin == ORIGIN
    ceremony = result.require()
    assert (ceremony.event, ceremony.key_version, ceremony.subject) == ("IMPORTED", VERSION, "spiffe://acme/custodian")
    assert ceremony.imported is not None
    assert ceremony.imported.wrapped_key_digest == b"\xcd" * 32
    assert ceremony.evidence.claims == {"imported_key": "true", "type": "ecdsa-p256"}


@pytest.mark.parametrize(
    ("event", "method"),
    [
        ("CREATED", "KeyService/CreateKey"),
        ("ROTATED", "KeyService/RotateKey"),
        ("STANDBY_ADDED", "KeyService/AddStandbyVersion"),
    ],
)
def test_versions_that_were_made_in_the_store_have_no_import(event: str, method: str) -> None:
    def change(document: Any) -> None:
        document.update({"event": event, "import": None})
        document["evidence"].update(attestation=None, exportable=None)

    ceremony = Made(change_payload=change, change_record=put("method", method)).verify().require()
    assert (ceremony.event, ceremony.imported, ceremony.evidence.attestation) == (event, None, None)


def test_attestations_too_long_for_the_record_leave_their_digest() -> None:
    def change(document: Any) -> None:
        document["evidence"]["attestation"].update(content=None, certificates=None)

    attestation = Made(change_payload=change).verify().require().evidence.attestation
    assert attestation is not None
    assert (attestation.content, attestation.certificates, len(attestation.digest)) == (None, None, 32)


@pytest.mark.parametrize(
    "change",
    [
        drop("outcome"),
        drop("subject"),
        put("outcome", "PERMISSION_DENIED"),
        put("format", "sealkeeper-audit/2"),
        put("time", "yesterday"),
        put("more", 1),
    ],
)
def test_a_record_of_another_form_or_of_a_refused_call_is_refused(change: Change) -> None:
    assert failed_at(Made(change_record=change).verify()) == "record"


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"{" * 40, b" " * 65_536])
def test_what_is_no_record_is_refused(data: bytes) -> None:
    assert failed_at(checked(data, proof_of(data))) == "record"


@pytest.mark.parametrize(
    "change",
    [drop("details.ceremony"), put("details.ceremony", None), put("details", {"omitted": "too long"})],
)
def test_a_record_without_its_ceremony_is_refused(change: Change) -> None:
    assert failed_at(Made(change_record=change).verify()) == "envelope"


@pytest.mark.parametrize(
    "change",
    [
        drop("payload"),
        drop("signatures"),
        put("payloadType", "application/vnd.in-toto+json"),
        put("signatures", []),
        put("payload", "###"),
        put("payload", "e30"),
        lambda one: one["signatures"].append(one["signatures"][0]),
        lambda one: one["signatures"][0].pop("keyid"),
        lambda one: one["signatures"][0].update(sig=7),
    ],
)
def test_an_envelope_of_another_form_is_refused(change: Change) -> None:
    assert failed_at(Made(change_envelope=change).verify()) == "envelope"


@pytest.mark.parametrize("name", payload())
def test_a_payload_lacks_nothing(name: str) -> None:
    assert failed_at(Made(change_payload=drop(name)).verify()) == "payload"


@pytest.mark.parametrize(
    "change",
    [
        put("format", "sealkeeper-key-ceremony/2"),
        put("event", "FOUND"),
        put("time", "2026-11-24"),
        put("keyVersion", "tenants/acme/keys/release"),
        put("algorithm", "PKIX_ECDSA_P256_SHA_1"),
        put("publicKeyFingerprint", "sha256:AB"),
        put("principal.more", "x"),
        put("provider.region", None),
        put("standby", 0),
        put("evidence.exportable", "no"),
        put("evidence.claims", {str(number): "x" for number in range(65)}),
        put("evidence.claims", ["CKA_SENSITIVE"]),
        put("evidence.claims", {"CKA_SENSITIVE": True}),
        put("evidence.attestation.digest", "sha1:00"),
        put("evidence.attestation.content", b64(b"x" * 32_769)),
        put("evidence.attestation.certificates", [b64(b"x")] * 17),
        put("import.wrappedKeyDigest", ""),
        put("import.begunTime", None),
        put("nonce", "0f"),
        put("more", "x"),
    ],
)
def test_a_payload_of_another_form_is_refused(change: Change) -> None:
    assert failed_at(Made(change_payload=change).verify()) == "payload"


@pytest.mark.parametrize(
    "encode",
    [
        lambda document: json.dumps(document, sort_keys=True).encode(),
        lambda document: json.dumps(dict(reversed(document.items())), separators=(",", ":")).encode(),
        lambda document: canonical(document).replace(b'"release"', b'"\\u0072elease"').replace(b"eu-c", b"eu\\u002dc"),
        lambda document: canonical(document) + b"\n",
    ],
)
def test_a_payload_that_is_not_canonical_is_refused(encode: Any) -> None:
    assert failed_at(Made(encode=encode).verify()) == "payload"


def test_another_public_key_than_that_of_the_record_is_refused() -> None:
    kept = Made().kept()
    assert failed_at(checked(kept.record, kept.proof, public_key=spki(OTHER))) == "public-key"
    assert failed_at(checked(kept.record, kept.proof, public_key=b"")) == "public-key"


def test_a_key_that_is_not_one_for_the_algorithm_is_refused() -> None:
    assert failed_at(Made(change_payload=put("algorithm", "PKIX_ED25519")).verify()) == "signature"


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one["signatures"][0].update(envelope(canonical(payload()), OTHER)["signatures"][0]),
        lambda one: one["signatures"][0].update(sig=envelope(canonical(payload()), OTHER)["signatures"][0]["sig"]),
        lambda one: one["signatures"][0].update(sig=envelope(b"{}")["signatures"][0]["sig"]),
        lambda one: one["signatures"][0].update(
            sig=envelope(canonical(payload()), kind="text/plain")["signatures"][0]["sig"]
        ),
        lambda one: one["signatures"][0].update(keyid=b64(bytes(32))),
        lambda one: one["signatures"][0].update(keyid=""),
        lambda one: one["signatures"][0].update(sig=""),
        lambda one: one.update(payload=b64(canonical({**payload(), "gateway": "other.example"}))),
    ],
)
def test_a_signature_of_another_key_or_content_is_refused(change: Change) -> None:
    assert failed_at(Made(change_envelope=change).verify()) == "signature"


@pytest.mark.parametrize(
    "change",
    [
        put("subject", "spiffe://acme/other"),
        put("role", "admin"),
        put("tenant", "beta"),
        put("method", "KeyService/CreateKey"),
        put("details.keyVersion", "tenants/acme/keys/release/versions/2"),
        drop("details.keyVersion"),
        put("time", "2026-11-24T09:59:59.999Z"),
        put("time", "2026-11-24T10:15:00.001Z"),
    ],
)
def test_a_record_that_says_otherwise_than_its_ceremony_is_refused(change: Change) -> None:
    assert failed_at(Made(change_record=change).verify()) == "agreement"


def test_the_ceremony_of_another_version_is_refused() -> None:
    assert failed_at(Made().verify("tenants/acme/keys/release/versions/2")) == "agreement"
    assert Made().verify(None).verified


def test_a_tenant_that_makes_another_tenants_key_is_refused() -> None:
    other = "tenants/beta/keys/release/versions/1"
    made = Made(change_payload=put("keyVersion", other), change_record=put("details.keyVersion", other))
    assert failed_at(made.verify(other)) == "agreement"


@pytest.mark.parametrize(
    "change",
    [
        put("import", None),
        put("evidence.attestation.content", b64(b"the vendor says otherwise")),
        put("evidence.attestation.digest", "sha256:" + "00" * 32),
        lambda one: one["import"].update(
            attestation={"format": "V", "digest": "sha256:" + "00" * 32, "content": "", "certificates": None}
        ),
    ],
)
def test_evidence_that_contradicts_itself_is_refused(change: Change) -> None:
    assert failed_at(Made(change_payload=change).verify()) == "evidence"


def test_an_import_of_a_key_that_was_created_is_refused() -> None:
    made = Made(change_payload=put("event", "CREATED"), change_record=put("method", "KeyService/CreateKey"))
    assert failed_at(made.verify()) == "evidence"


def test_a_checkpoint_must_be_the_logs_and_of_the_proofs_size() -> None:
    record = Made().record()
    proof = proof_of(record)
    for spoiled in (
        replace(proof, checkpoint=""),
        replace(proof, checkpoint=proof.checkpoint.partition("\n\n")[0] + "\n"),
        replace(proof, checkpoint=proof.checkpoint.replace("\n5\n", "\n6\n")),
        proof_of(record, key=OTHER_LOG),
        proof_of(record, origin="transparency.sealkeeper.example"),
        proof_of(record, size=6),
    ):
        assert failed_at(checked(record, spoiled)) == "checkpoint"


def test_a_record_belongs_in_the_log_of_the_gateway_that_it_names() -> None:
    other = "audit.other.example"
    record = Made().record()
    assert failed_at(checked(record, proof_of(record, origin=other), log=log_verifier(other))) == "checkpoint"
    assert failed_at(checked(record, proof_of(record, origin=other), log=None)) == "checkpoint"
    moved = Made(change_payload=put("gateway", "other.example")).record()
    assert failed_at(checked(moved, proof_of(moved))) == "checkpoint"
    assert checked(moved, proof_of(moved, origin=other), log=log_verifier(other)).verified


def test_no_byte_of_a_record_can_be_another() -> None:
    record = Made().record()
    proof = proof_of(record)
    for place in range(len(record)):
        spoiled = bytearray(record)
        spoiled[place] ^= 1
        failed_at(checked(bytes(spoiled), proof))


@given(st.binary(max_size=200))
def test_what_is_no_record_is_an_answer_and_no_exception(data: bytes) -> None:
    failed_at(checked(data, proof_of(data)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=9,
)


@given(st.sampled_from(sorted(payload())), JSON)
def test_whatever_is_in_a_payload_is_an_answer_and_no_exception(name: str, value: Any) -> None:
    result = Made(change_payload=put(name, value)).verify()
    assert result.verified == result.steps[-1].passed


@given(st.sampled_from(["record", "envelope"]), st.sampled_from(["payload", "signatures", "details", "time"]), JSON)
def test_whatever_is_in_a_record_is_an_answer_and_no_exception(where: str, name: str, value: Any) -> None:
    change = put(name, value)
    failed_at((Made(change_record=change) if where == "record" else Made(change_envelope=change)).verify())


def test_without_the_logs_key_the_result_says_that_the_log_was_not_checked() -> None:
    record = Made().record()
    result = checked(record, proof_of(record, key=OTHER_LOG), log=None)
    assert (result.verified, result.log_verified) == (True, False)
    assert "NOT checked" in next(one.detail for one in result.steps if one.name == "checkpoint")
    assert failed_at(checked(record, proof_of(record, size=6), log=None)) == "checkpoint"


def test_a_record_that_is_not_under_the_checkpoint_is_refused() -> None:
    record = Made().record()
    proof = proof_of(record)
    for spoiled in (
        proof_of(record + b" "),
        replace(proof, index=1),
        replace(proof, index=5),
        replace(proof, hashes=proof.hashes[:-1]),
        replace(proof, hashes=(*proof.hashes, bytes(32))),
        replace(proof, hashes=(bytes(32), *proof.hashes[1:])),
        replace(proof, hashes=(b"", *proof.hashes[1:])),
    ):
        assert failed_at(checked(record, spoiled)) == "inclusion-proof"


def test_a_refused_result_raises_with_the_name_of_its_step() -> None:
    result = Made(change_record=put("subject", "x")).verify()
    with pytest.raises(StepFailedError) as caught:
        result.require()
    assert caught.value.step == "agreement"


def test_a_kept_ceremony_reads_back_byte_by_byte() -> None:
    kept = Made().kept()
    assert KeptCeremony.parse(kept.encode()) == kept


@pytest.mark.parametrize(
    "change",
    [
        *map(drop, ("format", "record", "logIndex", "treeSize", "hashes", "checkpoint")),
        put("format", "sealkeeper-kept-ceremony/2"),
        put("logIndex", -1),
        put("hashes", [b64(b"x" * 33)]),
        put("hashes", [b64(bytes(32))] * 64),
        put("checkpoint", "x" * 65_537),
        put("record", b64(b"x" * 65_536)),
        put("publicKey", ""),
    ],
)
def test_a_kept_ceremony_of_another_form_is_refused(change: Change) -> None:
    document = json.loads(Made().kept().encode())
    change(document)
    with pytest.raises(JsonError):
        KeptCeremony.parse(json.dumps(document).encode())
