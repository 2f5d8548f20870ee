"""Every bad input is refused with its reason, and none takes the gate down. All of it is really signed, or not."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealkeeper.verify.errors import EvidenceError, GatePolicyError
from sealkeeper.verify.gate import evidence
from sealkeeper.verify.gate.decision import Artifact, Outcome
from sealkeeper.verify.gate.evidence import MAX_BUNDLES, MAX_BYTES, FoundBundle
from sealkeeper.verify.gate.policy import parse_policy
from sealkeeper.verify.predicates import read_predicate
from sealkeeper.verify.rego import RegoRunner
from sealkeeper.verify.statement import MAX_SUBJECTS
from tests.verify.gate.signed_statements import (
    APP,
    BUILT,
    DIGEST,
    GATES,
    POLICY,
    QA,
    RELEASE,
    REPOSITORY,
    SIGNED,
    STRANGER,
    SUBJECT,
    WORKFLOW,
    by_identity,
    by_key,
    codes,
    decided,
    provenance,
    scan,
    stamped_again,
    statement,
    summary,
    told,
    trust,
)
from tests.verify.instance import NOW
from tests.verify.signed import changed

BUNDLES = [by_key(provenance()), by_identity(provenance())]
OTHER = {"name": "app", "digest": {"sha256": "f" * 64}}


def wrong_signature(bundle: bytes) -> bytes:
    def change(document: Any) -> None:
        document["dsseEnvelope"]["signatures"][0]["sig"] = b64encode(b"\x30" + b"\1" * 70).decode()

    return changed(bundle, change)


def other_payload(bundle: bytes, payload: bytes) -> bytes:
    return changed(bundle, lambda document: document["dsseEnvelope"].update(payload=b64encode(payload).decode()))


def without(*path: str) -> Callable[[bytes], bytes]:
    def change(document: Any) -> None:
        for name in path[:-1]:
            document = document[name]
        del document[path[-1]]

    return lambda bundle: changed(bundle, change)


def state(name: str, **members: Any) -> Any:
    def change(found: dict[str, Any]) -> None:
        validity = members.pop("validFor", None)
        if validity is not None:
            found[name]["publicKey"]["validFor"] = validity
        found[name].update(members)

    return trust(change)


@pytest.mark.parametrize("found", [[], [b""], [b"{}"], [b"not json"], [b"\xff\xfe"], [b"[" * 100_000], [provenance()]])
def test_what_is_unsigned_is_refused(found: list[bytes]) -> None:
    decision = decided(BUILT, found)
    assert decision.outcome is Outcome.DENY
    assert codes(decision) == {"PROVENANCE_MISSING"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (wrong_signature, "signature"),
        (without("dsseEnvelope", "signatures"), "signatures"),
        (without("verificationMaterial", "tlogEntries"), "tlogEntries"),
        (without("verificationMaterial", "timestampVerificationData"), "timestamp"),
        (lambda bundle: other_payload(bundle, provenance(commit="b" * 40)), "signature"),
        (lambda bundle: changed(bundle, lambda one: one["dsseEnvelope"].update(payloadType="text/plain")), "signature"),
    ],
)
def test_one_wrong_place_of_a_bundle_refuses_it_and_says_where(change: Callable[[bytes], bytes], why: str) -> None:
    assert decided(BUILT, [by_key(provenance())]).outcome is Outcome.ALLOW
    decision = decided(BUILT, [change(by_key(provenance()))])
    assert decision.outcome is Outcome.DENY
    assert codes(decision) == {"PROVENANCE_MISSING"}
    assert why in told(decision)


@pytest.mark.parametrize(
    "bundle",
    [
        by_key(provenance(), QA),
        by_key(provenance(), STRANGER, certificate=True, tenant="mallory"),
        by_key(provenance(), STRANGER, certificate=True, tenant="acme"),
        by_identity(provenance(), "https://github.com/mallory/app/.github/workflows/release.yml@refs/tags/v1"),
        by_identity(provenance(), "mallory@example.com"),
    ],
    ids=["another key", "another tenant", "a key that acme does not have", "another workflow", "a person"],
)
def test_the_signature_of_somebody_else_is_refused(bundle: bytes) -> None:
    decision = decided(BUILT, [bundle])
    assert decision.outcome is Outcome.DENY
    assert codes(decision) & {"PROVENANCE_BUILDER", "PROVENANCE_MISSING"}


def test_the_right_key_with_another_digest_is_refused_and_says_what_it_is_of() -> None:
    decision = decided(BUILT, [by_key(provenance(OTHER))])
    assert codes(decision) == {"PROVENANCE_MISSING"}
    assert "about something else: app ffffffffffffffff" in told(decision)


def test_a_signature_of_another_artifact_is_refused() -> None:
    decision = decided(SIGNED, [by_key(b"another image", payload_type="")])
    assert codes(decision) == {"SIGNATURES_TOO_FEW"}
    assert "another artifact" in told(decision)


def test_the_subjects_name_does_not_make_it_the_artifact() -> None:
    decision = decided(BUILT, [by_key(provenance({"name": APP.name, "digest": {"sha256": "0" * 64}}))])
    assert codes(decision) == {"PROVENANCE_MISSING"}


@pytest.mark.parametrize(
    ("repository", "code"),
    [
        ("https://github.com/acme/app-evil", "SOURCE_REPOSITORY"),
        ("https://github.com/acme-evil/app", "SOURCE_REPOSITORY"),
        ("https://github.com/acme/App", "SOURCE_REPOSITORY"),
        ("https://github.com.evil.example/acme/app", "SOURCE_REPOSITORY"),
        ("https://github.com/acme/app/evil", "SOURCE_REPOSITORY"),
        ("https://github.com/acme/\u0430pp", "PROVENANCE_INVALID"),
        ("https://github.com/acme/app%2Fevil", "PROVENANCE_INVALID"),
        ("https://github.com/evil/x/../../acme/app", "PROVENANCE_INVALID"),
        ("https://github.com@evil.example/acme/app", "PROVENANCE_INVALID"),
        ("http://github.com/acme/app", "PROVENANCE_INVALID"),
    ],
)
def test_a_repository_with_a_confusable_name_is_refused(repository: str, code: str) -> None:
    assert code in codes(decided(BUILT, [by_key(provenance(repository=repository))]))


@pytest.mark.parametrize(
    "ref", ["refs/heads/x@refs/tags/v1", "refs/heads/refs/tags/v1", "refs/tags/x@refs/tags/v1", "refs/tags/v1/evil"]
)
def test_a_ref_cannot_be_named_so_that_it_passes_for_another(ref: str) -> None:
    assert codes(decided(BUILT, [by_key(provenance(ref=ref))])) == {"SOURCE_REF"}


def test_provenance_that_is_replayed_is_too_old() -> None:
    policy = BUILT.replace("minimum_level: 2", "minimum_level: 2, max_age: 30d")
    old = by_key(provenance(), moment=NOW - timedelta(days=31))
    assert codes(decided(policy, [old])) == {"PROVENANCE_TOO_OLD"}
    assert decided(policy, [by_key(provenance(), moment=NOW - timedelta(days=29))]).outcome is Outcome.ALLOW


def test_a_signature_of_the_future_is_refused() -> None:
    decision = decided(BUILT, [by_key(provenance(), moment=NOW + timedelta(minutes=1))])
    assert codes(decision) == {"PROVENANCE_MISSING"}
    assert "yet to come" in told(decision)


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"state": "DISABLED"}, "DISABLED"),
        ({"state": "COMPROMISED", "compromiseTime": "2026-05-31T00:00:00Z"}, "COMPROMISED"),
        ({"state": "COMPROMISED", "compromiseTime": "2026-06-01T12:00:00Z"}, "COMPROMISED"),
        ({"state": "DESTROYED", "disabled": True}, "was DISABLED"),
        ({"state": "VERIFY_ONLY"}, "until when"),
        (
            {"state": "VERIFY_ONLY", "validFor": {"start": "2026-01-01T00:00:00Z", "end": "2026-05-01T00:00:00Z"}},
            "valid from",
        ),
        ({"state": "ACTIVE", "validFor": {"start": "2026-06-02T00:00:00Z"}}, "valid from"),
    ],
    ids=["disabled", "compromised", "just then", "destroyed", "no end", "expired", "before the key"],
)
@pytest.mark.parametrize("certificate", [False, True])
def test_a_key_that_is_not_good_at_that_time_signs_nothing(
    members: dict[str, Any], why: str, certificate: bool
) -> None:
    decision = decided(BUILT, [by_key(provenance(), certificate=certificate)], trust=state(RELEASE, **dict(members)))
    assert codes(decision) == {"PROVENANCE_MISSING"}
    assert why in told(decision)


def test_what_a_key_signed_before_it_was_compromised_stays() -> None:
    compromised = state(RELEASE, state="COMPROMISED", compromiseTime="2026-05-01T00:00:00Z")
    earlier = by_key(provenance(), moment=NOW - timedelta(days=40))
    assert decided(BUILT, [earlier], trust=compromised).outcome is Outcome.ALLOW
    assert decided(BUILT, [by_key(provenance())], trust=compromised).outcome is Outcome.DENY
    # What the thief signs does not spoil what the owner had signed.
    forged = by_key(provenance(repository="https://github.com/evil/app"))
    assert decided(BUILT, [earlier, forged], trust=compromised).outcome is Outcome.ALLOW


@pytest.mark.parametrize(
    "kind", ["https://slsa.dev/provenance/v0.1", "https://slsa.dev/provenance/v1.1", "https://x.example/p"]
)
def test_another_predicate_type_is_not_taken_for_provenance(kind: str) -> None:
    predicate = json.loads(provenance())["predicate"]
    decision = decided(BUILT, [by_key(statement(kind, predicate))])
    assert decision.outcome is Outcome.DENY
    assert codes(decision) & {"PROVENANCE_INVALID", "PROVENANCE_MISSING"}


def test_a_type_swapped_after_it_was_signed_is_refused() -> None:
    signed = by_key(scan())
    swapped = other_payload(signed, statement("https://slsa.dev/provenance/v1", json.loads(provenance())["predicate"]))
    assert codes(decided(BUILT, [swapped])) == {"PROVENANCE_MISSING"}


def test_two_believed_statements_with_conflicting_claims_are_both_refused() -> None:
    one, other = by_key(provenance()), by_identity(provenance(repository="https://github.com/acme/other"), claims={})
    for found in ([one, other], [other, one]):
        assert codes(decided(BUILT, found)) == {"PROVENANCE_CONFLICT"}


def test_claims_that_the_certificate_contradicts_are_refused() -> None:
    assert decided(BUILT, [by_identity(provenance(commit="a" * 40))]).outcome is Outcome.ALLOW
    assert codes(decided(BUILT, [by_identity(provenance(commit="b" * 40))])) == {"CLAIMS_MISMATCH"}
    elsewhere = {9: WORKFLOW, 12: "https://github.com/mallory/app", 13: "a" * 40, 14: "refs/tags/v1"}
    assert codes(decided(BUILT, [by_identity(provenance(), claims=elsewhere)])) == {"CLAIMS_MISMATCH"}
    self_hosted = {12: REPOSITORY, 13: "a" * 40, 14: "refs/tags/v1", 11: "self-hosted"}
    assert codes(decided(BUILT, [by_identity(provenance(), claims=self_hosted)])) == {"SELF_HOSTED_RUNNER"}


def test_the_index_alone_does_not_make_its_unsigned_image_pass() -> None:
    index = Artifact("app", {"sha256": DIGEST}, (Artifact("app", {"sha256": "c" * 64}),))
    decision = decided(BUILT, [by_key(provenance())], index)
    assert codes(decision) == {"PROVENANCE_MISSING"}


# Bombs.


def test_ten_thousand_attestations_are_refused_before_they_are_looked_at() -> None:
    taken = 0

    def endless(_: Artifact) -> Iterator[FoundBundle]:
        nonlocal taken
        while True:
            taken += 1
            yield FoundBundle(b"%d" % taken, "store")

    assert codes(decided(BUILT, [], gather=endless)) == {"ATTESTATIONS_TOO_MANY"}
    assert taken == MAX_BUNDLES + 1


def test_more_bytes_than_can_be_looked_at_are_refused() -> None:
    one = by_key(provenance())
    taken = 0

    def large(_: Artifact) -> Iterator[FoundBundle]:
        nonlocal taken
        for place in range(10):
            taken += 1
            yield FoundBundle(one + b" " * (MAX_BYTES // 4 + place), "store")

    assert codes(decided(BUILT, [], gather=large)) == {"ATTESTATIONS_TOO_LARGE"}
    assert taken == 4


def test_a_predicate_of_a_hundred_megabytes_is_refused() -> None:
    large = other_payload(by_key(provenance()), b" " * (100 * 1024 * 1024))
    assert codes(decided(BUILT, [large])) == {"ATTESTATIONS_TOO_LARGE"}


@pytest.mark.parametrize(
    ("predicate", "why"),
    [
        (json.loads("[" * 200 + "]" * 200), "deep"),
        ({"a" * 17_000_000: 1}, "bytes"),
    ],
    ids=["deep", "large"],
)
def test_a_signed_bomb_is_refused(predicate: Any, why: str) -> None:
    decision = decided(BUILT, [by_key(statement("https://slsa.dev/provenance/v1", {"x": predicate}))])
    assert decision.outcome is Outcome.DENY
    assert why in told(decision)


def test_a_bomb_beside_it_does_not_spoil_good_provenance() -> None:
    bomb = by_key(statement("https://slsa.dev/provenance/v1", {"x": json.loads("[" * 200 + "]" * 200)}))
    assert decided(BUILT, [bomb, by_key(provenance())]).outcome is Outcome.ALLOW


@pytest.mark.parametrize(("count", "code"), [(MAX_SUBJECTS - 1, None), (MAX_SUBJECTS, "PROVENANCE_MISSING")])
def test_a_statement_of_ten_thousand_subjects_is_read_and_one_of_more_is_not(count: int, code: str | None) -> None:
    others = [{"name": f"{number}", "digest": {"sha256": f"{number:064x}"}} for number in range(count)]
    decision = decided(BUILT, [by_key(provenance(*others, SUBJECT))])
    assert codes(decision) == ({code} if code else set())


def test_a_policy_that_never_ends_is_ended_and_refuses() -> None:
    policy = POLICY + (
        "require:\n  signatures: {signers: [release]}\n  rego: ["
        "'package sealkeeper.gate\n\n      allow if { count([1 | some a in numbers.range(0, 3000); "
        "some b in numbers.range(0, 3000); a == b]) > 0 }']\n"
    )
    with RegoRunner(timeout=0.5) as rego:
        decision = decided(policy, [by_key(provenance())], rego=rego)
    assert decision.outcome is Outcome.DENY
    assert codes(decision) == {"REGO_TIMEOUT"}


def test_without_an_interpreter_a_policy_with_modules_refuses() -> None:
    policy = f"{POLICY}\nrequire: {{signatures: {{signers: [release]}}, rego: ['package sealkeeper.gate']}}\n"
    assert codes(decided(policy, [by_key(provenance())])) == {"REGO_MISSING"}


@pytest.mark.parametrize("reason", ["ATTESTATIONS_UNAVAILABLE", "ATTESTATIONS_TOO_MANY"])
def test_a_registry_that_does_not_answer_is_a_refusal_that_says_so(reason: str) -> None:
    def gather(_: Artifact) -> Iterator[FoundBundle]:
        yield FoundBundle(by_key(provenance()), "store")
        raise EvidenceError(reason, "registry.example does not answer")

    decision = decided(BUILT, [], gather=gather)
    assert (decision.outcome, codes(decision)) == (Outcome.DENY, {reason})
    assert "registry.example does not answer" in told(decision)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_no_changed_byte_makes_it_raise_or_pass_as_something_else(data: st.DataObject) -> None:
    bundle = bytearray(data.draw(st.sampled_from(BUNDLES)))
    for _ in range(data.draw(st.integers(1, 3))):
        bundle[data.draw(st.integers(0, len(bundle) - 1))] = data.draw(st.integers(0, 255))
    decision = decided(BUILT, [bytes(bundle)])
    if decision.outcome is Outcome.ALLOW:
        assert json.loads(bundle)["dsseEnvelope"]["payload"] == b64encode(provenance()).decode()


@settings(max_examples=60, deadline=None)
@given(
    predicate=st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=20,
    ),
    kind=st.sampled_from(
        [
            "https://slsa.dev/provenance/v1",
            "https://slsa.dev/provenance/v0.2",
            "https://slsa.dev/verification_summary/v1",
            "https://in-toto.io/attestation/vulns/v0.1",
            "https://cosign.sigstore.dev/attestation/vuln/v1",
        ]
    ),
)
def test_no_predicate_makes_it_raise(predicate: Any, kind: str) -> None:
    policy = BUILT + (
        "  attestations: [{type: vsa, signers: [release]}, {type: slsa-provenance, signers: [release]}]\n"
        "  vulnerabilities: {worst_allowed: low, signers: [release]}\n"
        "  promotion: {verifier: v, signers: [release]}\n"
    )
    document = {"x": predicate} if not isinstance(predicate, dict) else predicate
    assert decided(policy, [by_key(statement(kind, document))]).outcome is Outcome.DENY


@pytest.mark.parametrize("believed", [True, False])
def test_more_parameters_than_can_be_compared_are_a_reason(believed: bool) -> None:
    policy = BUILT.replace("minimum_level: 2", 'minimum_level: 2, parameters: {"**": "*"}')
    bomb = provenance(parameters={f"p{number}": "x" for number in range(10_001)})
    signed = by_key(bomb) if believed else by_identity(bomb, "mallory@example.com")
    decision = decided(policy, [signed])
    assert ("BUILD_PARAMETERS" if believed else "PROVENANCE_BUILDER") in codes(decision)
    assert decided(policy, [signed, by_key(provenance(parameters={"p": "x"}))]).outcome is Outcome.ALLOW


@pytest.mark.parametrize(
    "parameters",
    [{"": "evil"}, {"": {"": "evil"}}, {"": {"ref": "main"}}, {"ref": "main", "": "evil"}, {"": {}}, {"": []}],
)
def test_a_parameter_with_an_empty_name_is_one_that_the_policy_does_not_know(parameters: Any) -> None:
    policy = BUILT.replace("minimum_level: 2", "minimum_level: 2, parameters: {ref: main}")
    decision = decided(policy, [by_key(provenance(parameters=parameters))])
    assert codes(decision) == {"BUILD_PARAMETERS"}
    assert decided(policy, [by_key(provenance(parameters={"ref": "main"}))]).outcome is Outcome.ALLOW


@pytest.mark.parametrize(
    ("finished", "signed", "outcome"),
    [
        (-30, -30, Outcome.DENY),
        (-20, -20, Outcome.DENY),
        (-25, 0, Outcome.DENY),
        (-10, 0, Outcome.ALLOW),
        (-40, -40, Outcome.ALLOW),
    ],
)
def test_what_was_made_while_its_signer_was_revoked_is_refused_whenever_it_was_stamped(
    finished: int, signed: int, outcome: Outcome
) -> None:
    day = timedelta(days=1)
    period = f"from: {NOW - 30 * day:%FT%TZ}, until: {NOW - 20 * day:%FT%TZ}"
    policy = f"{BUILT}revoked: [{{signer: release, {period}, reason: x}}]\n"
    said = provenance(finished=f"{NOW + finished * day:%FT%TZ}")
    assert decided(policy, [by_key(said, moment=NOW + signed * day)]).outcome is outcome


def test_levels_that_are_no_levels_reach_none() -> None:
    policy = f"{POLICY}\nrequire: {{promotion: {{verifier: https://gw/gates/staging, signers: [gates]}}}}\n"
    for level in ("SLSA_BUILD_LEVEL_9", "SLSA_BUILD_LEVEL_", "SLSA_BUILD_LEVEL_33"):
        decision = decided(policy, [by_key(summary(verifiedLevels=[level]), GATES)])
        assert (decision.outcome, decision.verdict.level) == (Outcome.ALLOW, 0)


def test_a_predicate_that_cannot_be_read_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0

    def count(kind: str, predicate: Any) -> Any:
        nonlocal read
        read += 1
        return read_predicate(kind, predicate)

    monkeypatch.setattr(evidence, "read_predicate", count)
    revoked = ", ".join(f"{{builder: https://b.example/{number}, reason: x}}" for number in range(100))
    bad = by_key(statement("https://slsa.dev/provenance/v1", {}))
    assert codes(decided(f"{BUILT}\nrevoked: [{revoked}]\n", [bad])) == {"PROVENANCE_INVALID"}
    assert read == 1


@pytest.mark.parametrize(
    ("suite", "passes"),
    [
        (["PASSED"] * 1000, True),
        (["PASSED"] * 1000 + ["FAILED"], False),
        (["PASSED"] * 1001, False),
        ([["FAILED"]], False),
        ({"FAILED": 1}, False),
        ([], False),
        ("FAILED", False),
    ],
    ids=["as many as can be", "one behind them", "more", "in another list", "in an object", "none", "bad"],
)
def test_no_value_of_a_field_escapes_the_policy(suite: Any, passes: bool) -> None:
    rule = "{type: 'urn:x', signers: [qa], fields: {s.r: [PASSED, '{}', '[]']}}"
    policy = f"{POLICY}\nrequire: {{attestations: [{rule}]}}\n"
    assert decided(policy, [by_key(statement("urn:x", {"s": {"r": suite}}), QA)]).verdict.passed is passes


def test_an_old_scan_with_a_new_timestamp_is_an_old_scan() -> None:
    policy = f"{BUILT}  vulnerabilities: {{worst_allowed: low, signers: [qa], max_age: 60d}}\n"
    bad = by_key(scan("critical", finished="2026-05-20T00:00:00Z"), QA, moment=NOW - timedelta(days=12))
    good = by_key(scan(finished="2026-04-20T00:00:00Z"), QA, moment=NOW - timedelta(days=42))
    again = stamped_again(good, NOW - timedelta(minutes=1))
    release = by_key(provenance())
    assert decided(policy, [release, good]).verdict.passed
    assert codes(decided(policy, [release, bad, again])) == {"VULNERABILITIES_FOUND"}
    assert codes(decided(policy.replace("60d", "30d"), [release, again])) == {"SCAN_TOO_OLD"}


def test_an_old_verdict_or_build_with_a_new_timestamp_is_an_old_one() -> None:
    promotion = "{verifier: https://gw/gates/staging, signers: [gates], max_age: 30d}"
    policy = f"{POLICY}\nrequire: {{promotion: {promotion}}}\n"
    old = stamped_again(by_key(summary(verified="2026-02-01T00:00:00Z"), GATES, moment=NOW - timedelta(days=90)), NOW)
    failed = by_key(summary("FAILED", verified="2026-05-20T00:00:00Z"), GATES, moment=NOW - timedelta(days=12))
    assert codes(decided(policy, [old])) == {"SUMMARY_TOO_OLD"}
    assert codes(decided(policy, [old, failed])) == {"SUMMARY_FAILED"}
    built = stamped_again(by_key(provenance(finished="2026-02-01T00:00:00Z"), moment=NOW - timedelta(days=90)), NOW)
    assert codes(decided(BUILT.replace("minimum_level: 2", "max_age: 30d"), [built])) == {"PROVENANCE_TOO_OLD"}


def test_what_others_wrote_is_told_in_one_line_that_shows_nothing_else() -> None:
    name = "\x1b[2J\r\nALLOW \u202eapp" + "x" * 4000
    found = [
        by_identity(provenance({"name": name, "digest": OTHER["digest"]}), "mallory@example.com"),
        by_key(provenance(dependencies=[{"uri": name}])),
        by_key(statement("urn:x", {"r": name}), QA),
    ]
    rule = "{type: 'urn:x', signers: [qa], fields: {r: PASSED}}"
    policy = BUILT.replace("minimum_level: 2", "dependencies: {depth: 1}")
    decision = decided(f"{policy}  attestations: [{rule}]\n", found)
    assert codes(decision) == {"DEPENDENCY_UNPROVEN", "ATTESTATION_FIELD"}
    missing = decided(BUILT, found[:1])
    for one in (*decision.verdict.results, *missing.verdict.results):
        for text in (one.rule, one.detail, *(reason.message for reason in one.reasons)):
            assert text.isprintable()
            assert len(text) <= 4000
    assert "ALLOW" in told(missing)


def test_a_public_key_that_signs_nothing_is_refused_where_the_policy_is_read() -> None:
    public = x25519.X25519PrivateKey.generate().public_key()
    text = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    unknown = text.replace("MCowBQYDK2Vu", "MCowBQYDK2V6")
    for one in (text, unknown):
        policy = (
            f"gate: v1\nsigners: {{a: {{public_key: {json.dumps(one)}}}}}\nrequire: {{signatures: {{signers: [a]}}}}\n"
        )
        with pytest.raises(GatePolicyError, match=r"\$.signers.a.public_key"):
            parse_policy(policy.encode())
