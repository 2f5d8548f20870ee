"""Tables of cases are read strictly, and what holds of decisions whatever is found."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealkeeper.verify.errors import GatePolicyError
from sealkeeper.verify.gate.cases import CaseResult, parse_cases, run_cases
from sealkeeper.verify.gate.policy import parse_policy

POLICY = parse_policy(b"""
gate: v1
signers: {ci: {key: tenants/a/keys/ci}, qa: {key: tenants/a/keys/qa}, gates: {key: tenants/a/keys/gates}}
builders: [{signer: ci, id: https://ci/hosted, level: 3}, {signer: qa, id: https://ci/hosted, level: 1}]
require:
  signatures: {signers: [ci, qa, gates], threshold: 2}
  provenance: {minimum_level: 2, source: {repository: https://github.com/acme/app}}
  attestations: [{type: "urn:x", signers: [qa], fields: {r: PASSED}}]
  vulnerabilities: {worst_allowed: medium, signers: [qa]}
  promotion: {verifier: https://gw/gates/staging, signers: [gates]}
""")


def run(found: list[Any]) -> CaseResult:
    table = {"cases": [{"name": "one", "found": found, "expect": "allow"}]}
    [result] = run_cases(POLICY, parse_cases(json.dumps(table).encode()))
    return result


def passes(found: list[Any]) -> bool:
    return run(found).decision.verdict.passed


def provenance(signer: str, repository: str, age: str) -> Any:
    said = {"signers": [signer], "party": signer, "builder": "https://ci/hosted", "age": age}
    return {"provenance": {**said, "repository": f"https://github.com/acme/{repository}"}}


def attestation(result: str, age: str) -> Any:
    return {"attestation": {"signers": ["qa"], "party": "qa", "type": "urn:x", "predicate": {"r": result}, "age": age}}


def scan(severity: str, age: str) -> Any:
    return {"scan": {"signers": ["qa"], "party": "qa", "findings": [{"id": "CVE-1", "severity": severity}], "age": age}}


def summary(result: str, age: str) -> Any:
    said = {"signers": ["gates"], "party": "gates", "verifier": "https://gw/gates/staging", "age": age}
    return {"summary": {**said, "result": result, "levels": ["SLSA_BUILD_LEVEL_2" if result == "PASSED" else "FAILED"]}}


AGES = st.integers(1, 9).map("{}d".format)
GOOD = [
    provenance("ci", "app", "5d"),
    attestation("PASSED", "5d"),
    scan("low", "5d"),
    summary("PASSED", "5d"),
]
ANY = st.one_of(
    st.builds(provenance, st.sampled_from(["ci", "qa", "gates"]), st.sampled_from(["app", "evil"]), AGES),
    st.builds(attestation, st.sampled_from(["PASSED", "FAILED"]), AGES),
    st.builds(scan, st.sampled_from(["low", "critical"]), AGES),
    st.builds(summary, st.sampled_from(["PASSED", "FAILED"]), AGES),
    st.builds(lambda one: {"signature": {"signers": [one], "party": one}}, st.sampled_from(["ci", "qa", "gates"])),
    st.just({"provenance": {"signers": [], "builder": "https://ci/hosted", "repository": "https://github.com/x/y"}}),
)
FOUND = st.one_of(st.lists(ANY, max_size=5), st.lists(ANY, max_size=4).map(lambda one: [*GOOD, *one]))


def test_what_these_tests_begin_with_passes_and_each_part_is_needed() -> None:
    assert passes(GOOD)
    assert not any(passes([one for one in GOOD if one is not left_out]) for left_out in GOOD)


@settings(max_examples=50, deadline=None)
@given(found=FOUND, data=st.data())
def test_the_order_of_evidence_changes_nothing(found: list[Any], data: st.DataObject) -> None:
    other = data.draw(st.permutations(found))
    one, two = run(found).decision, run(other).decision
    assert (one.outcome, one.verdict.level) == (two.outcome, two.verdict.level)
    assert {reason.code for reason in one.verdict.reasons} == {reason.code for reason in two.verdict.reasons}


def _outweighs(one: Any) -> bool:
    """Whether a statement can speak against an artifact: a bad one that counts while no newer one does, a conflict."""
    [(kind, said)] = one.items()
    if kind == "provenance":
        return said["repository"].endswith("evil") and said["signers"] in (["ci"], ["qa"])
    bad = {"attestation": ("predicate", {"r": "FAILED"}), "summary": ("result", "FAILED")}
    if kind == "scan":
        return bool(said["findings"][0]["severity"] == "critical")
    return kind in bad and said[bad[kind][0]] == bad[kind][1]


@settings(max_examples=80, deadline=None)
@given(found=FOUND, data=st.data())
def test_leaving_evidence_out_lets_nothing_pass_but_for_what_speaks_against_it(
    found: list[Any], data: st.DataObject
) -> None:
    """Precisely: an artifact passes without a statement and not with it only if that one failed itself or conflicted.

    Whatever is of strangers, good, or about nothing that a policy asks for can be left out, or be added, by whoever
    likes to: leaving it out never helps.
    """
    if not found:
        return
    left_out = data.draw(st.integers(0, len(found) - 1))
    fewer = [one for place, one in enumerate(found) if place != left_out]
    if passes(fewer) and not passes(found):
        assert _outweighs(found[left_out])


@settings(max_examples=50, deadline=None)
@given(found=FOUND, more=st.lists(ANY, max_size=3))
def test_more_that_speaks_for_it_never_makes_it_fail(found: list[Any], more: list[Any]) -> None:
    good = [one for one in more if not _outweighs(one)]
    if passes(found):
        assert passes([*found, *good])


@pytest.mark.parametrize(
    ("found", "place"),
    [
        ([{"provenance": {"signers": ["ci"], "claims": [1]}}], "claims"),
        ([{"provenance": {"signers": ["ci"], "claims": 5}}], "claims"),
        ([{"provenance": {"signers": ["ci"], "dependencies": 5}}], "dependencies"),
        ([{"provenance": {"signers": ["ci"], "parameters": 5}}], "parameters"),
        ([{"attestation": {"signers": ["ci"], "type": "urn:x", "predicate": 5}}], "predicate"),
        ([{"signature": {"signers": ["ci"], "age": "999999w"}}], "age"),
        ([{"signature": {"signers": ["nobody"]}}], "nobody"),
        ([{"signature": 5}], "signature"),
        ([{"signature": {"like": 5}}], "like"),
        ([{"signature": {"like": "x"}}], "x"),
        ([{"dream": {}}], "found"),
        (["x"], "x"),
        ([5], "found"),
        (5, "found"),
    ],
)
def test_what_is_no_case_is_refused_by_its_place(found: Any, place: str) -> None:
    with pytest.raises(GatePolicyError, match=place):
        run(found)


def test_evidence_that_is_like_no_object_is_refused() -> None:
    table = {
        "evidence": {"x": {"signature": 5}},
        "cases": [{"name": "one", "found": [{"signature": {"like": "x"}}], "expect": "allow"}],
    }
    with pytest.raises(GatePolicyError, match="signature"):
        parse_cases(json.dumps(table).encode())


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["ci", "x", "1d", "999999w", "allow", "sha256:a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("signature", "provenance", "attestation", "summary", "scan", "signers", "like", "age", "claims"),
                    *("about", "party", "predicate", "type", "findings", "verifier", "levels", "dependencies"),
                    *("parameters", "builder", "repository", "digest", "name"),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


_MORE = ["artifact", "children", "offline", "trust_root_age", "environment", "reasons"]


@settings(max_examples=150, deadline=None)
@given(found=st.lists(_JSON, max_size=2), more=st.dictionaries(st.sampled_from(_MORE), _JSON, max_size=2))
def test_no_table_makes_it_raise_anything_else(found: list[Any], more: dict[str, Any]) -> None:
    case = {"name": "one", "expect": "allow", "found": found, **more}
    table = {"evidence": {"x": found[0] if found else 1}, "cases": [case]}
    with suppress(GatePolicyError):
        run_cases(POLICY, parse_cases(json.dumps(table).encode()))
