"""Answers about attestations are checked: whole, and of what was asked. What cannot be right is not sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest

from sealkeeper.client.attestation_operations import (
    BuildReport,
    Filters,
    attest,
    attest_slsa,
    get_attestation,
    list_attestations,
    subject,
)
from sealkeeper.client.errors import CorruptAnswerError, InvalidRequestError
from sealkeeper.client.operations import Operation, crc32c
from sealkeeper.v1 import attestation_pb2
from sealkeeper.verify.bundle import parse_bundle
from sealkeeper.verify.statement import PAYLOAD_TYPE
from tests.verify.signed import RUNNER, signed

KEY, PARENT = "tenants/acme/keys/release", "tenants/acme"
OTHER, SLSA = "https://example.org/x/v1", "https://slsa.dev/provenance/v1"
NAME = f"{PARENT}/attestations/a0000000000000007"
ABOUT = subject("app", sha256="5e" * 32)
Change = Callable[[attestation_pb2.AttestResponse], None]


def answer(
    predicate_type: str = OTHER, predicate: str = '{"a": 1}', digest: str = "5e" * 32, kind: str = PAYLOAD_TYPE
) -> attestation_pb2.AttestResponse:
    """As a gateway would answer."""
    one = signed()
    statement = (
        f'{{"_type":"https://in-toto.io/Statement/v1","subject":[{{"name":"app","digest":{{"sha256":"{digest}"}}}}],'
        f'"predicateType":"{predicate_type}","predicate":{predicate}}}'
    )
    bundle = RUNNER.run(one.world.bundle(one.key, statement.encode(), certificate=False, payload_type=kind))
    found = attestation_pb2.AttestResponse()
    found.signature.bundle, found.signature.bundle_crc32c = bundle, crc32c(bundle)
    found.signature.signature = parse_bundle(bundle).signature
    found.signature.signature_crc32c = crc32c(found.signature.signature)
    found.attestation.name, found.attestation.predicate_type = NAME, predicate_type
    found.attestation.bundle_digest = sha256(bundle).digest()
    return found


def ask(**more: Any) -> Operation[attestation_pb2.AttestResponse]:
    return attest(KEY, [ABOUT], OTHER, b'{"a":1}', **more)


def test_what_was_asked_for_is_taken() -> None:
    assert ask().check(answer()).attestation.name == NAME
    assert attest_slsa(KEY, [ABOUT]).check(answer(SLSA)).attestation.predicate_type == SLSA
    transient = answer()
    transient.attestation.name = ""
    assert ask(transient=True).check(transient)


def _another_signature(one: attestation_pb2.AttestResponse) -> None:
    one.signature.signature, one.signature.signature_crc32c = b"x", crc32c(b"x")


def _no_bundle(one: attestation_pb2.AttestResponse) -> None:
    one.signature.bundle, one.signature.bundle_crc32c = b"{}", crc32c(b"{}")


DAMAGED: dict[str, Change] = {
    "the bundle": lambda one: setattr(one.signature, "bundle", one.signature.bundle + b" "),
    "the signature": lambda one: setattr(one.signature, "signature", b"x"),
    "another signature": _another_signature,
    "a bundle that is none": _no_bundle,
    "another digest of the bundle": lambda one: setattr(one.attestation, "bundle_digest", b"x" * 32),
    "another type in the record": lambda one: setattr(one.attestation, "predicate_type", SLSA),
    "nothing kept": lambda one: setattr(one.attestation, "name", ""),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_an_answer_that_is_not_whole_is_refused(what: str) -> None:
    found = answer()
    DAMAGED[what](found)
    with pytest.raises(CorruptAnswerError):
        ask().check(found)


@pytest.mark.parametrize(
    "changes",
    [
        {"predicate_type": "https://example.org/y/v1"},
        {"predicate": '{"a": 2}'},
        {"digest": "ab" * 32},
        {"kind": "text/plain"},
    ],
)
def test_an_attestation_of_something_else_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(CorruptAnswerError):
        ask().check(answer(**changes))


def test_what_is_kept_though_it_was_not_to_be_is_refused() -> None:
    with pytest.raises(CorruptAnswerError):
        ask(transient=True).check(answer())


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: attest(KEY, [], OTHER, b"{}"), "subjects"),
        (lambda: attest_slsa(KEY, [ABOUT] * 10_001), "subjects"),
        (lambda: attest(KEY, [ABOUT], OTHER, b"[]"), "predicate.json"),
        (lambda: attest(KEY, [ABOUT], OTHER, b'{"a":1,"a":2}'), "predicate.json"),
        (lambda: attest(KEY, [ABOUT], OTHER, b" " * (16 * 1024 * 1024 + 1)), "predicate.json"),
        (lambda: attest_slsa(KEY, [ABOUT], BuildReport(external_parameters={"a": {1}})), "slsa_provenance"),
    ],
)
def test_what_cannot_be_right_is_not_sent(make: Callable[[], Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        make()
    assert caught.value.violations[0].field == field


def test_what_a_build_says_is_sent_as_it_is() -> None:
    said = attest_slsa(KEY, [ABOUT], BuildReport({"a": 1}, [{"uri": "pkg:x"}])).request.slsa_provenance
    assert json.loads(said.external_parameters) == {"a": 1}
    assert json.loads(said.resolved_dependencies) == [{"uri": "pkg:x"}]
    assert attest_slsa(KEY, [ABOUT]).request.WhichOneof("content") == "slsa_provenance"


def test_one_that_is_looked_up_is_that_one_with_its_bundle() -> None:
    def found(**changes: Any) -> attestation_pb2.GetAttestationResponse:
        bundle = changes.pop("bundle", b"bundle")
        record = attestation_pb2.AttestationRecord(name=NAME, bundle_digest=sha256(b"bundle").digest(), **changes)
        return attestation_pb2.GetAttestationResponse(attestation=record, bundle=bundle, bundle_crc32c=crc32c(bundle))

    assert get_attestation(NAME).check(found()).bundle == b"bundle"
    with pytest.raises(CorruptAnswerError):
        get_attestation(NAME).check(found(bundle=b"another"))
    with pytest.raises(CorruptAnswerError):
        get_attestation(f"{NAME[:-1]}8").check(found())
    damaged = found()
    damaged.bundle_crc32c += 1
    with pytest.raises(CorruptAnswerError):
        get_attestation(NAME).check(damaged)


def test_filters_are_sent_as_they_are() -> None:
    noon = datetime(2026, 1, 2, 12, tzinfo=UTC)
    filters = Filters("sha256:5e", OTHER, "https://git.example.org/app", "https://example.org/b", KEY, noon, noon)
    request = list_attestations(PARENT, filters, "token", 7).request
    assert (request.subject_digest, request.predicate_type, request.key) == ("sha256:5e", OTHER, KEY)
    assert (request.after.ToDatetime(UTC), request.before.ToDatetime(UTC)) == (noon, noon)
    assert not list_attestations(PARENT, Filters(), "", 7).request.HasField("after")
