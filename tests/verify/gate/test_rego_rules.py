"""What Rego modules of a policy are told, and what comes of their answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sealkeeper.verify.errors import RegoFailedError
from sealkeeper.verify.gate.decision import Artifact, Outcome
from sealkeeper.verify.rego import RegoModule, RegoResult, RegoRunner
from tests.verify.gate.signed_statements import (
    APP,
    POLICY,
    QA,
    STRANGER,
    SUBJECT,
    by_identity,
    by_key,
    codes,
    decided,
    provenance,
    results,
    statement,
    told,
)
from tests.verify.signed import changed


def policy(*modules: str) -> str:
    written = "".join(
        f"    - |\n{''.join(f'      {line}' for line in one.splitlines(keepends=True))}\n" for one in modules
    )
    return f"{POLICY}\nrequire:\n  signatures: {{signers: [release]}}\n  rego:\n{written}"


NAMED = """package sealkeeper.gate

deny contains "nobody of qa has tested it" if {
  count([1 | some one in input.attestations; "qa" in one.signer.names]) == 0
}
"""
ALLOW = "package sealkeeper.gate\n\nallow if { input.artifact }\n"


ALLOWED = RegoResult(allowed=True)


class Listening:
    """Keeps what it is asked, and answers as it is told."""

    def __init__(self, answer: RegoResult | Exception = ALLOWED) -> None:
        self.asked: list[Any] = []
        self._answer = answer

    def evaluate(self, module: RegoModule, input_document: Any) -> RegoResult:
        self.asked.append(input_document)
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


@pytest.fixture(scope="module")
def rego() -> Iterator[RegoRunner]:
    with RegoRunner() as runner:
        yield runner


def forged(bundle: bytes) -> bytes:
    return changed(bundle, lambda one: one["dsseEnvelope"].update(payload="e30="))


def test_only_what_was_verified_and_is_about_the_artifact_is_among_the_attestations() -> None:
    other = provenance({"digest": {"sha256": "0" * 64}})
    strange = by_identity(results(), "mallory@example.com")
    found = [by_key(provenance()), by_key(results(), QA), forged(by_key(results(), QA)), by_key(other), strange]
    listening = Listening()
    decided(policy(ALLOW), [*found, by_key(results(), STRANGER), b"{}"], rego=listening)
    [document] = listening.asked
    assert [one["signer"]["names"] for one in document["attestations"]] == [["release"], ["qa"]]
    assert [one["signer"]["identity"] for one in document["strangers"]] == ["mallory@example.com"]
    assert len(document["refused"]) == 4
    assert not any("predicate" in one for one in document["refused"])


def test_what_was_found_twice_of_an_image_is_told_once() -> None:
    listening = Listening()
    shared = by_key(provenance(SUBJECT, {"digest": {"sha256": "1" * 64}}))
    index = Artifact(APP.name, APP.digests, (Artifact("child", {"sha256": "1" * 64}),))
    decided(policy(ALLOW), [shared], index, rego=listening)
    assert [len(one["attestations"]) for one in listening.asked] == [1, 1]


def test_a_module_denies_with_its_own_reason(rego: RegoRunner) -> None:
    decision = decided(policy(NAMED), [by_key(provenance())], rego=rego)
    assert (decision.outcome, codes(decision)) == (Outcome.DENY, {"REGO_DENIED"})
    assert "nobody of qa has tested it" in told(decision)
    assert decided(policy(NAMED), [by_key(provenance()), by_key(results(), QA)], rego=rego).outcome is Outcome.ALLOW


def test_the_statement_of_a_stranger_has_none_of_the_policys_names(rego: RegoRunner) -> None:
    strange = [by_identity(results(), "qa@example.com"), by_key(results(), STRANGER, certificate=True, tenant="qa")]
    assert codes(decided(policy(NAMED), [by_key(provenance()), *strange], rego=rego)) == {"REGO_DENIED"}


def test_a_module_that_allows_does_not_outweigh_other_rules(rego: RegoRunner) -> None:
    assert codes(decided(policy(ALLOW), [], rego=rego)) == {"SIGNATURES_TOO_FEW"}


def test_all_modules_must_allow(rego: RegoRunner) -> None:
    assert codes(decided(policy(ALLOW, NAMED), [by_key(provenance())], rego=rego)) == {"REGO_DENIED"}


@pytest.mark.parametrize(
    ("answer", "code"),
    [(RegoFailedError("it died"), "REGO_FAILED"), (RegoResult(allowed=False), "REGO_DENIED")],
)
def test_what_gives_no_reason_is_refused_all_the_same(answer: Any, code: str) -> None:
    decision = decided(policy(ALLOW), [by_key(provenance())], rego=Listening(answer))
    assert (decision.outcome, codes(decision)) == (Outcome.DENY, {code})
    assert told(decision)


def test_a_module_that_is_none_refuses(rego: RegoRunner) -> None:
    assert codes(decided(policy("package other\n"), [by_key(provenance())], rego=rego)) == {"REGO_INVALID"}


def test_more_than_a_module_can_be_told_is_refused(rego: RegoRunner) -> None:
    large = by_key(statement("urn:x", {"text": "x" * 5_000_000}))
    assert codes(decided(policy(ALLOW), [large], rego=rego)) == {"REGO_FAILED"}
