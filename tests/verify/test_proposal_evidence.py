"""Evidence of dual control: each step refuses what only it can see."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.verify.errors import StepFailedError, TrustRootError
from sealkeeper.verify.kept_proposal import KeptProposal, KeptRecord
from sealkeeper.verify.known_people import KnownPeople
from sealkeeper.verify.proposal_evidence import ProposalResult, verify_proposal
from sealkeeper.verify.strict_json import JsonError
from tests.verify.proposals import (
    END,
    OTHER_CA_KEY,
    OTHER_LOG_KEY,
    PROPOSAL,
    SECOND,
    START,
    STRANGER,
    THIRD,
    Made,
    Said,
    authority,
    b64,
    certificate,
    content,
    envelope,
    identity,
    log_verifier,
    pem,
    people,
    private_pem,
    spki,
    two_approvals,
    withdrawal,
)

STEPS = (
    *("content", "statements", "content-digest", "signers", "checkpoint", "inclusion-proof", "records", "proposing"),
    *("agreement", "execution", "decisions", "persons", "proposer", "times", "quorum"),
)
ROOT = authority().public_bytes(Encoding.PEM)


def failed_at(result: ProposalResult) -> str:
    assert (result.verified, result.content, result.approvers, result.executed) == (False, None, (), None)
    assert tuple(one.name for one in result.steps) == STEPS[: len(result.steps)]
    assert [one.passed for one in result.steps] == [True] * (len(result.steps) - 1) + [False]
    return result.steps[-1].name


def checked(kept: KeptProposal) -> ProposalResult:
    return verify_proposal(kept, people=people(), log=log_verifier())


def changed_record(kept: KeptProposal, place: int, **other: Any) -> KeptProposal:
    records = list(kept.records)
    records[place] = replace(records[place], **other)
    return replace(kept, records=tuple(records))


def test_what_two_others_approved_of_verifies_with_who_they_were_and_when() -> None:
    result = Made().verify()
    assert result.verified
    assert tuple(one.name for one in result.steps) == STEPS
    assert result.require().proposal == PROPOSAL
    assert [one.signer.person for one in result.approvers] == ["second", "third"]
    assert result.executed is not None
    assert result.executed.index == 4
    assert result.log_verified


def test_without_the_logs_key_it_verifies_and_says_that_the_log_was_not_checked() -> None:
    result = verify_proposal(Made().kept(), people=people(), log=None)
    assert result.verified
    assert not result.log_verified
    assert "NOT checked" in result.steps[STEPS.index("checkpoint")].detail


def test_a_kept_proposal_is_read_as_it_was_written() -> None:
    kept = Made().kept()
    assert KeptProposal.parse(kept.encode()) == kept


@pytest.mark.parametrize("name", ["format", "content", "approvals", "records", "checkpoint"])
def test_a_kept_proposal_without_one_of_its_members_is_none(name: str) -> None:
    document = json.loads(Made().kept().encode())
    del document[name]
    with pytest.raises(JsonError, match=name):
        KeptProposal.parse(json.dumps(document).encode())


def test_an_approver_is_known_by_a_public_key_that_the_organisation_gave() -> None:
    said = [Said(SECOND, "second"), Said(THIRD, "third", certified=False)]
    assert Made(said=said).verify(KnownPeople.read([ROOT], [("third", pem(THIRD))])).verified
    assert failed_at(Made(said=said).verify()) == "signers"


def test_content_in_another_spelling_is_refused() -> None:
    kept = Made().kept()
    assert failed_at(checked(replace(kept, content=kept.content + b"\n"))) == "content"


def test_a_proposal_of_which_nobody_said_anything_is_refused() -> None:
    assert failed_at(checked(replace(Made().kept(), approvals=()))) == "statements"


def test_a_statement_that_was_changed_is_refused() -> None:
    kept = Made().kept()
    document = json.loads(kept.approvals[0].statement)
    document["signatures"][0]["sig"] = b64(SECOND.sign(b"something else", ec.ECDSA(hashes.SHA256())))
    bad = replace(kept.approvals[0], statement=json.dumps(document).encode())
    assert failed_at(checked(replace(kept, approvals=(bad, kept.approvals[1])))) == "statements"


def test_a_statement_that_another_key_has_signed_is_refused() -> None:
    stranger = Said(STRANGER, "second", material=certificate(SECOND, identity("second")))
    assert failed_at(Made(said=[stranger, Said(THIRD, "third")]).verify()) == "statements"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("contentDigest", "sha256:" + "ab" * 32),
        ("gateway", "other.example"),
        ("proposal", "tenants/acme/proposals/p-2"),
    ],
)
def test_a_statement_of_something_else_is_refused(name: str, value: str) -> None:
    other = Said(SECOND, "second", change=lambda document: document.update({name: value}))
    assert failed_at(Made(said=[other, Said(THIRD, "third")]).verify()) == "content-digest"


def test_content_that_was_changed_after_it_was_signed_is_refused() -> None:
    kept = Made().kept()
    other = Made(content=content(resource="tenants/acme/keys/release/versions/2")).kept()
    assert failed_at(checked(replace(kept, content=other.content))) == "content-digest"


@pytest.mark.parametrize(
    "material",
    [
        certificate(SECOND, identity("second"), issuer=OTHER_CA_KEY),
        certificate(SECOND, identity("second"), end=START + timedelta(minutes=1)),
        certificate(SECOND, identity("second"), start=START + timedelta(days=1)),
        certificate(SECOND, identity("second", tenant="other")),
        certificate(SECOND, identity("second", gateway="other.example")),
        certificate(SECOND, identity("job", role="ci")),
        certificate(SECOND, "spiffe://sealkeeper.example/ns/build/sa/second"),
        certificate(SECOND, identity("second"), usage=ExtendedKeyUsageOID.SERVER_AUTH),
        certificate(SECOND, identity("second"), ca=True),
    ],
    ids=["issuer", "expired", "early", "tenant", "gateway", "workload", "name", "usage", "authority"],
)
def test_a_signer_whom_the_organisation_does_not_vouch_for_is_refused(material: bytes) -> None:
    assert failed_at(Made(said=[Said(SECOND, "second", material=material), Said(THIRD, "third")]).verify()) == "signers"


def test_a_key_of_one_person_in_a_certificate_of_another_is_refused() -> None:
    known = KnownPeople.read([ROOT], [("first", pem(SECOND))])
    assert failed_at(Made().verify(known)) == "signers"


def test_a_certificate_counts_for_nothing_where_no_ca_is_given() -> None:
    assert failed_at(Made().verify(KnownPeople.read([], [("third", pem(THIRD))]))) == "signers"


def test_a_checkpoint_that_another_key_has_signed_is_refused() -> None:
    assert failed_at(checked(Made(log_key=OTHER_LOG_KEY).kept())) == "checkpoint"


def test_a_checkpoint_of_another_gateways_log_is_refused_with_and_without_its_key() -> None:
    kept = Made(origin="audit.other.example").kept()
    assert failed_at(verify_proposal(kept, people=people(), log=None)) == "checkpoint"
    other = log_verifier("audit.other.example")
    assert failed_at(verify_proposal(kept, people=people(), log=other)) == "checkpoint"


def test_a_record_that_is_not_in_the_log_is_refused() -> None:
    kept = Made().kept()
    forged = kept.records[0].record.replace(b"127.0.0.1", b"127.0.0.2")
    assert failed_at(checked(changed_record(kept, 0, record=forged))) == "inclusion-proof"


@given(place=st.integers(0, 3), change=st.sampled_from(["index", "tree_size", "hashes"]))
def test_a_proof_of_anything_else_is_refused(place: int, change: str) -> None:
    kept = Made().kept()
    one = kept.records[place]
    other: dict[str, Any] = {"index": 0, "tree_size": 5, "hashes": one.hashes[1:]}
    assert failed_at(checked(changed_record(kept, place, **{change: other[change]}))) == "inclusion-proof"


def test_records_in_another_order_than_the_logs_are_refused() -> None:
    kept = Made().kept()
    assert failed_at(checked(replace(kept, records=kept.records[::-1]))) == "inclusion-proof"


@pytest.mark.parametrize(
    "change",
    [
        lambda records: records[1]["details"].update(proposal="tenants/acme/proposals/p-2"),
        lambda records: records[1]["details"].pop("proposal"),
        lambda records: records[1].update(tenant="other"),
        lambda records: records[1].update(format="sealkeeper-audit/2"),
        lambda records: records[1].update(further=1),
    ],
    ids=["other proposal", "no proposal", "other tenant", "other format", "unknown member"],
)
def test_a_record_of_something_else_is_refused(change: Any) -> None:
    assert failed_at(Made(change_records=change).verify()) == "records"


@pytest.mark.parametrize(
    "change",
    [
        lambda records: records.pop(0),
        lambda records: records[0].update(outcome="OK"),
        lambda records: records[0].update(subject=identity("third")),
        lambda records: records[0]["details"].update(contentDigest="sha256:" + "ab" * 32),
        lambda records: records[0]["details"].update(content={}),
    ],
    ids=["none", "outcome", "subject", "digest", "content"],
)
def test_a_proposal_whose_proposing_is_not_on_record_is_refused(change: Any) -> None:
    assert failed_at(Made(change_records=change).verify()) == "proposing"


def test_a_content_that_is_too_long_for_the_record_is_known_by_its_digest() -> None:
    assert Made(change_records=lambda records: records[0]["details"].pop("content")).verify().verified


@pytest.mark.parametrize("name", ["statement", "material", "certificate", "decision", "contentDigest"])
def test_an_approval_that_is_on_record_otherwise_than_it_was_kept_is_refused(name: str) -> None:
    assert failed_at(Made(change_records=lambda records: records[1]["details"].pop(name)).verify()) == "agreement"


def test_an_approval_that_is_not_on_record_is_refused() -> None:
    assert failed_at(Made(change_records=lambda records: records.pop(1)).verify()) == "agreement"


def test_an_approval_that_was_refused_is_none() -> None:
    made = Made(change_records=lambda records: records[1].update(outcome="SELF_APPROVAL"))
    assert failed_at(made.verify()) == "agreement"


def test_a_statement_on_record_that_was_not_kept_is_missed() -> None:
    kept = Made().kept()
    assert failed_at(checked(replace(kept, approvals=kept.approvals[:1]))) == "agreement"


def test_a_certificate_that_another_caller_sent_is_refused() -> None:
    said = [Said(SECOND, "second", subject=identity("third")), Said(THIRD, "third")]
    assert failed_at(Made(said=said).verify()) == "agreement"


def test_what_no_record_says_was_done_is_refused() -> None:
    assert failed_at(Made(change_records=lambda records: records.pop()).verify()) == "execution"
    assert failed_at(Made(change_records=lambda records: records[-1].update(outcome="ETAG_MISMATCH")).verify()) == (
        "execution"
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda records: records[-1].update(action="CompromiseKeyVersion"),
        lambda records: records[-1].update(resource="tenants/acme/keys/release/versions/2"),
        lambda records: records[-1]["details"].update(contentDigest="sha256:" + "ab" * 32),
        lambda records: records[-1]["details"].pop("contentDigest"),
    ],
    ids=["action", "resource", "digest", "no digest"],
)
@pytest.mark.parametrize("method", ["Gateway/ExecuteProposal", "KeyImportService/FinishKeyImport"])
def test_what_was_done_is_what_was_approved(method: str, change: Any) -> None:
    def changed(records: Any) -> None:
        records[-1].update(method=method)
        change(records)

    assert failed_at(Made(change_records=changed).verify()) == "execution"


def test_what_was_begun_again_after_a_crash_says_so() -> None:
    result = Made(change_records=lambda records: records.append(records[-1])).verify()
    assert result.verified
    assert "1 times again" in result.steps[STEPS.index("execution")].detail


def test_an_approval_that_the_gateway_did_not_count_does_not_count() -> None:
    def counted(*indexes: int) -> Any:
        return lambda records: records[-1]["details"].update(approvals=[{"logIndex": one} for one in indexes])

    assert Made(change_records=counted(2, 3)).verify().verified
    assert failed_at(Made(change_records=counted(3)).verify()) == "quorum"
    again = [Said(SECOND, "second"), Said(THIRD, "third"), Said(SECOND, "second", moment=START + timedelta(hours=2))]
    assert failed_at(Made(said=again).verify()) == "persons"
    assert Made(said=again, change_records=counted(3, 4)).verify().verified


def test_an_import_is_done_by_the_call_that_finishes_it() -> None:
    made = Made(change_records=lambda records: records[-1].update(method="KeyImportService/FinishKeyImport"))
    assert made.verify().verified


def test_what_one_person_rejected_is_refused() -> None:
    rejected = Said(STRANGER, "fourth", decision="REJECT")
    assert failed_at(Made(said=[*two_approvals(), rejected]).verify()) == "decisions"


def test_a_proposal_that_was_withdrawn_before_it_was_done_is_refused() -> None:
    made = Made(change_records=lambda records: records.insert(3, withdrawal("proposal", "first")))
    assert failed_at(made.verify()) == "decisions"


def test_an_approval_that_was_withdrawn_does_not_count() -> None:
    def change(records: list[Any]) -> None:
        records.insert(3, withdrawal("approval", "second"))

    assert failed_at(Made(change_records=change).verify()) == "quorum"
    enough = Made(said=[*two_approvals(), Said(STRANGER, "fourth")], change_records=change).verify()
    assert [one.signer.person for one in enough.approvers] == ["third", "fourth"]


def test_an_approval_counts_as_withdrawn_when_its_person_took_it_back_by_another_identity() -> None:
    def change(records: list[Any]) -> None:
        records.insert(3, {**withdrawal("approval", "second"), "subject": "https://login.example#1"})

    assert failed_at(Made(change_records=change).verify()) == "quorum"


@pytest.mark.parametrize(
    "said",
    [
        [Said(SECOND, "second"), Said(THIRD, "second")],
        [Said(SECOND, "second"), Said(THIRD, "Second")],
        [Said(SECOND, "second"), Said(SECOND, "third")],
        [Said(SECOND, "second"), Said(THIRD, "third", person="second")],
    ],
    ids=["name", "spelling", "key", "known to the gateway as one"],
)
def test_one_person_who_approves_twice_is_one(said: list[Said]) -> None:
    assert failed_at(Made(said=said).verify()) == "persons"


@pytest.mark.parametrize(
    ("subject", "person", "said"),
    [
        (identity("first"), "first", Said(SECOND, "first")),
        (identity("second", "admin"), "somebody", Said(SECOND, "second")),
        (identity("second"), "", Said(SECOND, "second")),
        ("https://login.example#1", "First", Said(SECOND, "first")),
        (identity("first"), "somebody", Said(SECOND, "second", person="somebody")),
    ],
    ids=["person", "name in another role", "subject", "spelling", "known to the gateway as one"],
)
def test_the_proposer_does_not_approve(subject: str, person: str, said: Said) -> None:
    made = content(proposer={"subject": subject, "person": person, "role": "custodian"})
    assert failed_at(Made(content=made, said=[said, Said(THIRD, "third")]).verify()) == "proposer"


@pytest.mark.parametrize(
    "said",
    [
        Said(SECOND, "second", moment=START - timedelta(minutes=11), recorded=START),
        Said(SECOND, "second", moment=END + timedelta(minutes=11), recorded=END),
        Said(SECOND, "second", recorded=START - timedelta(seconds=1)),
        Said(SECOND, "second", recorded=END + timedelta(seconds=1)),
        Said(
            SECOND,
            "second",
            recorded=START + timedelta(days=2),
            material=certificate(SECOND, identity("second"), end=START + timedelta(days=1)),
        ),
    ],
    ids=["signed early", "signed late", "recorded early", "recorded late", "recorded with an expired certificate"],
)
def test_an_approval_out_of_time_is_refused(said: Said) -> None:
    assert failed_at(Made(said=[said, Said(THIRD, "third")]).verify()) == "times"


def test_what_was_done_long_after_its_time_was_up_is_refused() -> None:
    made = Made(change_records=lambda records: records[-1].update(time="2026-12-01T10:10:01.000Z"))
    assert failed_at(made.verify()) == "times"


def test_an_approvers_clock_may_be_a_little_behind() -> None:
    early = Said(SECOND, "second", moment=START - timedelta(minutes=9), recorded=START)
    assert Made(said=[early, Said(THIRD, "third")]).verify().verified


@pytest.mark.parametrize("year", ["0001-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z", "1969-12-31T23:59:59.000Z"])
def test_times_at_the_ends_of_the_calendar_are_an_answer_and_no_exception(year: str) -> None:
    late = Said(SECOND, "second", change=lambda document: document.update(time=year))
    assert failed_at(Made(said=[late, Said(THIRD, "third")]).verify()) == "signers"
    known = KnownPeople.read([ROOT], [("second", pem(SECOND))])
    late = Said(SECOND, "second", change=lambda document: document.update(time=year), certified=False)
    assert failed_at(Made(said=[late, Said(THIRD, "third")]).verify(known)) == "times"
    late = Said(SECOND, "second", certified=False)
    made = Made(said=[late, Said(THIRD, "third")], change_records=lambda records: records[1].update(time=year))
    assert failed_at(made.verify(known)) == "times"


def test_a_proposal_from_the_beginning_to_the_end_of_the_calendar_is_an_answer() -> None:
    always = content(createTime="0001-01-01T00:00:00.000Z", expireTime="9999-12-31T23:59:59.999Z")
    assert Made(content=always).verify().verified


def test_too_few_approvals_are_refused() -> None:
    assert failed_at(Made(said=[Said(SECOND, "second")]).verify()) == "quorum"
    assert Made(content=content(required=1), said=[Said(SECOND, "second")]).verify().verified


def test_approvals_that_came_after_it_was_done_do_not_count() -> None:
    made = Made(change_records=lambda records: records.insert(2, records.pop()))
    assert failed_at(made.verify()) == "quorum"


def test_what_requires_a_result_gets_the_step_that_failed() -> None:
    with pytest.raises(StepFailedError, match="quorum") as caught:
        Made(said=[Said(SECOND, "second")]).verify().require()
    assert caught.value.step == "quorum"


@given(st.binary(max_size=200))
def test_rubbish_in_every_place_is_an_answer_and_no_exception(data: bytes) -> None:
    kept = Made().kept()
    record = KeptRecord(kept.records[0].index, data, kept.records[0].hashes, kept.records[0].tree_size)
    approval = kept.approvals[0]
    for bad in (
        replace(kept, content=data),
        replace(kept, approvals=(replace(approval, statement=data),)),
        replace(kept, approvals=(replace(approval, material=data),)),
        replace(kept, approvals=(replace(approval, material=data, certificate=False),)),
        replace(kept, records=(record,)),
        replace(kept, checkpoint=data.decode("latin-1")),
    ):
        assert not checked(bad).verified


@pytest.mark.parametrize(
    ("authorities", "keys"),
    [
        ([], []),
        ([b"no certificate"], []),
        ([pem(SECOND)], []),
        ([ROOT], [("second", b"no key")]),
        ([ROOT], [("second", ROOT)]),
        ([ROOT], [("second", private_pem(SECOND))]),
        ([ROOT], [("second", pem(SECOND)), ("third", pem(SECOND))]),
    ],
    ids=["nothing", "rubbish", "a key as CA", "rubbish as key", "a CA as key", "a private key", "one key of two"],
)
def test_people_that_cannot_be_told_are_refused(authorities: list[bytes], keys: list[tuple[str, bytes]]) -> None:
    with pytest.raises(TrustRootError):
        KnownPeople.read(authorities, keys)


def test_a_key_that_statements_cannot_be_signed_with_is_refused_for_a_person() -> None:
    weak = rsa.generate_private_key(65537, 1024)
    with pytest.raises(TrustRootError):
        KnownPeople.read(
            [], [("second", weak.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))]
        )


def test_an_envelope_of_another_kind_is_no_statement() -> None:
    other = Said(SECOND, "second", sealed=envelope(b"{}", SECOND, "application/vnd.sealkeeper.key-ceremony.v1+json"))
    assert failed_at(Made(said=[other, Said(THIRD, "third")]).verify()) == "statements"


def test_a_key_that_the_gateway_alone_names_for_a_person_counts_for_nothing() -> None:
    said = [Said(STRANGER, "second", certified=False, material=spki(STRANGER)), Said(THIRD, "third")]
    assert failed_at(Made(said=said).verify()) == "signers"
