"""Policies are tested without a gateway by the same engine, and say the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealkeeper.client.cli.policy_cases import read_cases
from sealkeeper.client.policy_operations import run_policy_cases
from sealkeeper.server.errors import InvalidRequestError
from sealkeeper.server.offline_policy import run_offline
from tests.e2e.command import run_here

CASES = Path(__file__).with_name("default_policy_cases.toml")
PARENT = "tenants/acme"
NOBODY = '@id("nobody-signs") forbid (principal, action == Sealkeeper::Action::"Sign", resource);'


def test_the_cases_of_the_default_policy_pass_without_a_gateway() -> None:
    request = run_policy_cases(PARENT, read_cases(CASES.read_text(), PARENT), text="").request
    response = run_offline(request)
    assert len(response.results) == len(request.cases)
    assert [one.name for one in response.results if not one.passed] == []


def test_a_draft_that_is_none_is_refused_by_its_field() -> None:
    request = run_policy_cases(PARENT, read_cases(CASES.read_text(), PARENT), text="permit").request
    with pytest.raises(InvalidRequestError) as caught:
        run_offline(request)
    assert (caught.value.reason, caught.value.violations[0].field) == ("POLICY_INVALID", "text")


def test_the_command_needs_neither_gateway_nor_tenant_and_fails_with_a_case_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    draft = tmp_path / "draft.cedar"
    draft.write_text(NOBODY)
    assert run_here("policy", "test", str(CASES), "--offline") == 0
    capsys.readouterr()
    assert run_here("policy", "test", str(CASES), "--offline", "--policy", str(draft)) == 1
    assert " failed" in capsys.readouterr().out
