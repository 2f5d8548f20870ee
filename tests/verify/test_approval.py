"""What approvers sign: one content has one spelling, and a statement is of one content, by one key."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.verify.algorithms import KeyMismatchError
from sealkeeper.verify.approval import (
    MAX_CONTENT,
    MAX_ENVELOPE,
    PrivateKey,
    Statement,
    encode_content,
    key_id,
    load_approval_key,
    open_statement,
    parse_content,
    sign_statement,
    signing_key_id,
)
from sealkeeper.verify.errors import StepFailedError, VerifyError
from tests.verify.proposals import (
    GATEWAY,
    PROPOSAL,
    SECOND,
    START,
    THIRD,
    b64,
    canonical,
    content,
    envelope,
    identity,
    spki,
    statement,
)

RSA = rsa.generate_private_key(65537, 2048)
KEYS: list[PrivateKey] = [
    SECOND,
    ec.derive_private_key(7, ec.SECP384R1()),
    ec.derive_private_key(7, ec.SECP521R1()),
    ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)),
    RSA,
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
SAID = Statement(GATEWAY, PROPOSAL, sha256(b"content").digest(), "APPROVE", "reviewed", START)


def der(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def given_members(**other: Any) -> dict[str, Any]:
    members: dict[str, Any] = {
        "gateway": GATEWAY,
        "proposal": PROPOSAL,
        "action": "DestroyKeyVersion",
        "resource": "tenants/acme/keys/release/versions/1",
        "parameters": {"destroyDelaySeconds": 604800, "etag": "e1"},
        "proposer_subject": identity("first"),
        "proposer_person": "first",
        "proposer_role": "custodian",
        "reason": "it was replaced",
        "required": 2,
        "create_time": START,
        "expire_time": START + timedelta(days=7),
    }
    return {**members, **other}


def test_a_content_is_encoded_as_the_format_has_it() -> None:
    assert encode_content(**given_members()) == canonical(content())


@given(parameters=st.dictionaries(st.text(max_size=8), JSON, max_size=4), reason=st.text(max_size=20))
def test_what_is_encoded_is_read_back(parameters: dict[str, Any], reason: str) -> None:
    members = given_members(parameters=parameters)
    if reason.replace("\n", "").isprintable():
        members["reason"] = reason
    data = encode_content(**members)
    assert asdict(parse_content(data)) == {**members, "digest": sha256(data).digest()}


def test_times_are_cut_to_milliseconds_and_put_into_utc() -> None:
    there = datetime(2026, 11, 24, 12, 0, 0, 123999, timezone(timedelta(hours=2)))
    found = parse_content(encode_content(**given_members(create_time=there)))
    assert found.create_time == datetime(2026, 11, 24, 10, 0, 0, 123000, UTC)


def test_a_workload_that_proposes_is_no_person() -> None:
    assert parse_content(encode_content(**given_members(proposer_person=""))).proposer_person == ""


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("gateway", "Sealkeeper.example"),
        ("proposal", "tenants/acme/keys/release"),
        ("action", "destroy key"),
        ("resource", ""),
        ("resource", "tenants/acme\n"),
        ("parameters", {"half": 0.5}),
        ("parameters", {"list": [{"half": 1e300}]}),
        ("parameters", {"large": 2**53}),
        ("parameters", {"half": "\ud800"}),
        ("proposer_subject", ""),
        ("proposer_person", "first\u202etsrif"),
        ("proposer_role", "Admin"),
        ("reason", "x" * 1025),
        ("reason", "one\rtwo"),
        ("required", 0),
        ("required", 101),
        ("required", True),
        ("create_time", datetime(2026, 11, 24)),  # noqa: DTZ001  # that it has no zone is what is wrong
        ("expire_time", START),
        ("parameters", {"text": "x" * MAX_CONTENT}),
    ],
)
def test_what_no_approver_could_read_is_not_encoded(member: str, value: Any) -> None:
    with pytest.raises(VerifyError):
        encode_content(**given_members(**{member: value}))


@pytest.mark.parametrize("name", sorted(content()))
def test_a_content_without_one_of_its_members_is_none(name: str) -> None:
    document = content()
    del document[name]
    with pytest.raises(VerifyError, match=name):
        parse_content(canonical(document))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data + b"\n",
        lambda data: data.replace(b'":', b'": ', 1),
        lambda data: data.replace(b"acme", b"\\u0061cme", 1),
        lambda data: data.replace(b'"required":2', b'"required":2.0'),
        lambda data: data.replace(b'"required":2', b'"required":"2"'),
        lambda data: data.replace(b'"required":2', b'"required":2,"required":2'),
        lambda data: data.replace(b'"etag":"e1"', b'"etag":1.5'),
        lambda data: data.replace(b'"format"', b'"extra":1,"format"'),
        lambda data: data.replace(b"T10:00:00.000Z", b"T10:00:00Z", 1),
        lambda data: data.replace(b"T10:00:00.000Z", b"T12:00:00.000+02:00", 1),
        lambda data: data.replace(b"sealkeeper-proposal/1", b"sealkeeper-proposal/2"),
        lambda data: json.dumps(json.loads(data)).encode(),
        lambda data: canonical(json.loads(data) | {"parameters": []}),
    ],
)
def test_a_content_in_any_other_spelling_is_refused(change: Callable[[bytes], bytes]) -> None:
    data = canonical(content())
    assert change(data) != data
    with pytest.raises(VerifyError):
        parse_content(change(data))


@given(st.binary(max_size=300))
def test_rubbish_is_refused_with_one_kind_of_error(data: bytes) -> None:
    for read in (parse_content, signing_key_id, lambda given: open_statement(given, spki(SECOND))):
        with pytest.raises(VerifyError):
            read(data)


@pytest.mark.parametrize("key", KEYS, ids=["p256", "p384", "p521", "ed25519", "rsa"])
def test_a_statement_is_opened_with_the_key_that_signed_it_and_no_other(key: PrivateKey) -> None:
    signed = sign_statement(SAID, key)
    assert len(signed) <= MAX_ENVELOPE
    assert open_statement(signed, der(key)) == SAID
    assert signing_key_id(signed) == key_id(der(key)) == sha256(der(key)).hexdigest()
    with pytest.raises(StepFailedError) as caught:
        open_statement(signed, spki(THIRD))
    assert caught.value.step == "public-key"


def test_a_statement_by_anybody_who_follows_the_format_is_opened() -> None:
    signed = envelope(canonical(statement(b"content")), SECOND)
    assert open_statement(signed, spki(SECOND)).decision == "APPROVE"


@given(
    decision=st.sampled_from(["APPROVE", "REJECT"]),
    reason=st.text(max_size=1024).filter(str.isprintable),
    digest=st.binary(min_size=32, max_size=32),
)
def test_a_statement_is_read_as_it_was_signed(decision: str, reason: str, digest: bytes) -> None:
    said = replace(SAID, decision=decision, reason=reason, content_digest=digest)
    assert open_statement(sign_statement(said, SECOND), spki(SECOND)) == said


def test_the_longest_statement_fits() -> None:
    widest = "\U0001f511" * 1024
    assert widest.isprintable()
    signed = sign_statement(replace(SAID, reason=widest), rsa.generate_private_key(65537, 4096))
    assert len(signed) <= MAX_ENVELOPE


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("gateway", ""),
        ("proposal", "p-1"),
        ("content_digest", b"short"),
        ("decision", "MAYBE"),
        ("reason", "x" * 1025),
        ("reason", "line\nline"),
        ("time", datetime(2026, 11, 24)),  # noqa: DTZ001  # that it has no zone is what is wrong
    ],
)
def test_what_could_not_be_opened_is_not_signed(member: str, value: Any) -> None:
    with pytest.raises(VerifyError):
        sign_statement(replace(SAID, **{member: value}), SECOND)


@pytest.mark.parametrize(
    ("change", "step"),
    [
        (lambda document: document.update(payloadType="text/plain"), "envelope"),
        (lambda document: document.update(further=1), "envelope"),
        (lambda document: document["signatures"].append(document["signatures"][0]), "envelope"),
        (lambda document: document.update(signatures=[]), "envelope"),
        (lambda document: document["signatures"][0].update(keyid=""), "envelope"),
        (lambda document: document["signatures"][0].update(keyid="ab" * 32), "public-key"),
        (lambda document: document["signatures"][0].update(sig=b64(b"no signature")), "signature"),
        (lambda document: document.update(payload=b64(canonical(statement(b"other")))), "signature"),
    ],
)
def test_an_envelope_that_was_changed_is_refused_at_its_step(change: Callable[[Any], None], step: str) -> None:
    document = json.loads(sign_statement(SAID, SECOND))
    change(document)
    with pytest.raises(StepFailedError) as caught:
        open_statement(json.dumps(document).encode(), spki(SECOND))
    assert caught.value.step == step


@pytest.mark.parametrize(
    "payload",
    [
        canonical({**statement(b"content"), "decision": "MAYBE"}),
        canonical({**statement(b"content"), "further": 1}),
        canonical({**statement(b"content"), "time": "2026-11-24T10:00:00Z"}),
        canonical({**statement(b"content"), "contentDigest": "sha512:" + "ab" * 32}),
        canonical({**statement(b"content"), "format": "sealkeeper-proposal/1"}),
        json.dumps(statement(b"content")).encode(),
    ],
    ids=["decision", "member", "time", "digest", "format", "spelling"],
)
def test_a_signed_payload_that_is_no_statement_is_refused(payload: bytes) -> None:
    with pytest.raises(StepFailedError) as caught:
        open_statement(envelope(payload, SECOND), spki(SECOND))
    assert caught.value.step == "payload"


@pytest.mark.parametrize(
    "key",
    [
        ec.derive_private_key(7, ec.SECP256K1()).public_key(),
        rsa.generate_private_key(65537, 1024).public_key(),
        x25519.X25519PrivateKey.from_private_bytes(bytes(32)).public_key(),
    ],
    ids=["secp256k1", "rsa 1024", "x25519"],
)
def test_keys_of_other_kinds_are_refused(key: Any) -> None:
    with pytest.raises(KeyMismatchError):
        load_approval_key(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def test_a_weak_private_key_signs_nothing() -> None:
    with pytest.raises(KeyMismatchError):
        sign_statement(SAID, rsa.generate_private_key(65537, 1024))


def test_one_key_in_another_spelling_is_refused() -> None:
    compressed = SECOND.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    usual = spki(SECOND)
    point = b"\x03\x22\x00" + compressed
    other = b"\x30" + bytes([len(usual[2:23]) + len(point)]) + usual[2:23] + point
    with pytest.raises(KeyMismatchError, match="usual form"):
        load_approval_key(other)
