"""What gates sign of their verdicts."""

from __future__ import annotations

import pytest

from sealkeeper.verify.gate.policy import parse_policy
from sealkeeper.verify.gate.summary import own_environment, verifier_id

GATE = "tenants/acme/gates/app"
POLICY = """
gate: v1
signers: {ci: {key: tenants/acme/keys/release}}
require:
  signatures: {signers: [ci]}
"""


REGO = "  rego: ['package sealkeeper.gate']\n"
DEV = "environments: {dev: {}}\n"


@pytest.mark.parametrize(
    ("more", "environment", "named"),
    [
        ("", "", GATE),
        ("", "dev", GATE),
        (DEV, "dev", f"{GATE}/environments/dev"),
        (DEV, "production", GATE),
        (DEV, "", GATE),
        (REGO, "", GATE),
        (f"{REGO}{DEV}", "dev", f"{GATE}/environments/dev"),
    ],
)
def test_a_verdict_by_the_rules_of_one_environment_is_of_another_verifier_than_the_others(
    more: str, environment: str, named: str
) -> None:
    found = own_environment(parse_policy(f"{POLICY}{more}".encode()), environment)
    assert found is not None
    assert verifier_id("sealkeeper.example", GATE, found) == f"https://sealkeeper.example/{named}"


@pytest.mark.parametrize(
    ("more", "environment"),
    [(REGO, "dev"), (f"{REGO}{DEV}", "production"), (f"{DEV}only_named_environments: true\n", "production")],
)
def test_there_is_no_summary_for_an_environment_that_a_policy_judges_by_and_does_not_name(
    more: str, environment: str
) -> None:
    assert own_environment(parse_policy(f"{POLICY}{more}".encode()), environment) is None
