"""What policies allow and refuse, as tables: each policy of ``tables/`` with its cases, each broken in one way."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealkeeper.verify.gate.cases import Case, parse_cases, run_cases
from sealkeeper.verify.gate.policy import GatePolicy, parse_policy

TABLES = Path(__file__).parent / "tables"


def rows() -> list[object]:
    found: list[object] = []
    for path in sorted(TABLES.glob("*.policy.yaml")):
        policy = parse_policy(path.read_bytes())
        cases = parse_cases(path.with_name(path.name.replace(".policy.", ".cases.")).read_bytes())
        name = path.name.partition(".")[0]
        found += [pytest.param(policy, case, id=f"{name}: {case.name}") for case in cases]
    return found


@pytest.mark.parametrize(("policy", "case"), rows())
def test_a_policy_answers_what_its_table_says(policy: GatePolicy, case: Case) -> None:
    [result] = run_cases(policy, [case])
    shown = [(one.rule, one.detail) for one in result.decision.verdict.results if not one.passed]
    assert result.decision.outcome is case.expect, shown
    assert not result.missing, (result.missing, [one.code for one in result.decision.verdict.reasons])
    assert result.decision.verdict.passed or all(reason.message for reason in result.decision.verdict.reasons)
