"""Exceptions let an artifact run, for a time and somewhere, and change nothing of what is said of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.verify.gate.decision import Artifact, Outcome
from sealkeeper.verify.gate.exceptions import GateException, applying
from sealkeeper.verify.gate.patterns import Pattern
from sealkeeper.verify.gate.policy import Mode
from sealkeeper.verify.gate.summary import summary_predicate
from tests.verify.gate.signed_statements import APP, BUILT, DIGEST, by_key, codes, decided, provenance
from tests.verify.instance import NOW

HOUR = timedelta(hours=1)


def exception(name: str = "one", **members: Any) -> GateException:
    whole: dict[str, Any] = {
        "digest": f"sha256:{DIGEST}",
        "pattern": None,
        "environment": "",
        "reason": "a fix that cannot wait",
        "start": NOW - HOUR,
        "end": NOW + HOUR,
    }
    return GateException(f"tenants/acme/gates/prod/exceptions/{name}", **{**whole, **members})


@pytest.mark.parametrize(
    ("members", "environment", "applies"),
    [
        ({}, "", True),
        ({}, "production", True),
        ({"environment": "production"}, "production", True),
        ({"environment": "production"}, "staging", False),
        ({"environment": "production"}, "", False),
        ({"digest": f"sha256:{'0' * 64}"}, "", False),
        ({"digest": f"sha512:{DIGEST}"}, "", False),
        ({"digest": "sha256:"}, "", False),
        ({"digest": "", "pattern": None}, "", False),
        ({"digest": "", "pattern": Pattern("registry.example/acme/*")}, "", True),
        ({"digest": "", "pattern": Pattern("registry.example/*")}, "", False),
        ({"digest": f"sha256:{'0' * 64}", "pattern": Pattern("**")}, "", False),
        ({"start": NOW}, "", True),
        ({"end": NOW}, "", False),
        ({"start": NOW + timedelta(microseconds=1)}, "", False),
    ],
)
def test_an_exception_is_for_an_artifact_a_place_and_a_time(
    members: dict[str, Any], environment: str, applies: bool
) -> None:
    decision = decided(BUILT, [], exceptions=[exception(**members)], environment=environment)
    assert (decision.outcome is Outcome.ALLOW) is applies
    assert bool(decision.exception) is applies
    assert codes(decision) == {"PROVENANCE_MISSING"}
    assert bool(decision.warnings) is applies


def test_an_exception_never_makes_a_verdict_that_passed() -> None:
    decision = decided(BUILT, [], exceptions=[exception()])
    assert decision.outcome is Outcome.ALLOW
    assert not decision.verdict.passed
    predicate = summary_predicate(decision, "gw.example", "tenants/acme/gates/prod")
    assert (predicate["verificationResult"], predicate["verifiedLevels"]) == ("FAILED", ["FAILED"])


@pytest.mark.parametrize("mode", ["warn", "audit"])
def test_a_mode_that_lets_all_pass_makes_no_verdict_that_passed(mode: str) -> None:
    decision = decided(BUILT.replace("gate: v1", f"gate: v1\nmode: {mode}"), [])
    assert (decision.outcome, decision.mode) == (Outcome.ALLOW, Mode(mode))
    assert summary_predicate(decision, "gw.example", "tenants/acme/gates/prod")["verificationResult"] == "FAILED"


def test_what_passes_needs_no_exception_and_names_none() -> None:
    decision = decided(BUILT, [by_key(provenance())], exceptions=[exception()])
    assert (decision.outcome, decision.exception, decision.warnings) == (Outcome.ALLOW, "", ())


def test_what_the_policy_revokes_runs_by_an_exception_for_just_that_and_by_none_for_names() -> None:
    digest = f"sha256:{APP.digests['sha256']}"
    revoking = BUILT.replace("gate: v1", f'gate: v1\nrevoked: [{{digest: "{digest}", reason: malware}}]')
    by_name = exception(digest="", pattern=Pattern("**"))
    assert decided(revoking, [by_key(provenance())], exceptions=[by_name]).outcome is Outcome.DENY
    assert decided(revoking, [by_key(provenance())], exceptions=[by_name, exception()]).outcome is Outcome.ALLOW


@given(st.permutations(range(4)))
def test_which_one_applies_is_not_a_matter_of_order(order: list[int]) -> None:
    all_of_them = [
        exception("b"),
        exception("a"),
        exception("0", digest="", pattern=Pattern("**")),
        exception("00", environment="elsewhere"),
    ]
    found = applying([all_of_them[one] for one in order], APP, "", NOW)
    assert found is not None
    assert found.name.endswith("/a")


def test_an_exception_for_an_index_is_for_its_images_there_and_not_for_the_image_alone() -> None:
    child = Artifact("elsewhere/app", {"sha256": "1" * 64})
    index = Artifact(APP.name, APP.digests, (child,))
    assert decided(BUILT, [], index, exceptions=[exception()]).outcome is Outcome.ALLOW
    assert decided(BUILT, [], child, exceptions=[exception()]).outcome is Outcome.DENY
