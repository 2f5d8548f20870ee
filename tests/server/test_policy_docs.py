"""The page on policies: every policy and every case on it is one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sealkeeper.client.cli.policy_cases import read_cases
from sealkeeper.server.authorization import Action
from sealkeeper.server.identity import ATTRIBUTES, Method, Principal, Role
from sealkeeper.server.policy_engine import compile_policy, default_policy
from sealkeeper.server.resources import ProposalName
from tests.server.policy_house import CI, CUSTODIAN, KEY, PARENT, question

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "policies.md").read_text("utf-8")
BLOCKS = [
    pytest.param(block, id=f"{path.name}-{place}")
    for path in sorted(DOCS.rglob("*.md"))
    for place, block in enumerate(re.findall(r"```cedar\n(.*?)```", path.read_text("utf-8"), re.DOTALL))
]


def example(name: str) -> str:
    (block,) = (one for one in re.findall(r"```cedar\n(.*?)```", PAGE, re.DOTALL) if f'@id("{name}")' in one)
    return str(block)


@pytest.mark.parametrize("text", BLOCKS)
def test_every_policy_in_the_docs_is_valid(text: str) -> None:
    assert compile_policy(text).texts


@pytest.mark.parametrize("text", BLOCKS)
def test_every_policy_in_the_docs_goes_with_the_default_policy_unless_it_is_of_it(text: str) -> None:
    own = [name for name in compile_policy(text).texts if name not in compile_policy(default_policy()).texts]
    if own:
        assert set(own) <= set(compile_policy(default_policy() + text).texts)


def test_the_default_policy_is_explained_whole_and_as_it_is() -> None:
    for name, text in compile_policy(default_policy()).texts.items():
        statement = text[text.index("@id") :]
        assert statement in PAGE, name


def test_every_attribute_is_on_the_page() -> None:
    for name in ATTRIBUTES:
        assert f"`{name}`" in PAGE


def test_the_cases_on_the_page_are_read() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert len(read_cases(text, PARENT)) == 2


def test_privileged_actions_need_what_the_example_says() -> None:
    policy = compile_policy(default_policy() + example("privileged-actions-need-hardware"))

    def decided(principal: Principal, action: Action) -> bool:
        resource = ProposalName("acme", "p") if action is Action.APPROVE else KEY
        return policy.decide(question(principal, action, resource, {}), "1").allowed

    soft = Principal("acme", "s", Role.CUSTODIAN)
    hard = Principal("acme", "s", Role.CUSTODIAN, hardware=True)
    login = Principal("acme", "s", Role.CUSTODIAN, method=Method.TOKEN, amr=("hwk", "user"))
    resistant = Principal("acme", "s", Role.CUSTODIAN, method=Method.TOKEN, acr="phrh")
    password = Principal("acme", "s", Role.CUSTODIAN, method=Method.TOKEN, amr=("pwd",))
    for action in (Action.CREATE_KEY, Action.IMPORT_KEY, Action.DESTROY_KEY_VERSION, Action.APPROVE):
        assert [decided(one, action) for one in (soft, password)] == [False, False]
        assert [decided(one, action) for one in (hard, login, resistant)] == [True, True, True]
    assert decided(soft, Action.GET_KEY)


def test_the_strictest_of_the_examples_permits_counts() -> None:
    policy = compile_policy(example("destroy-in-production"))

    def needed(**labels: str) -> int:
        return policy.decide(question(CUSTODIAN, Action.DESTROY_KEY_VERSION, labels=labels), "1").approvals

    assert (needed(stage="production"), needed(stage="test"), needed()) == (2, 1, 1)


def test_the_examples_of_circumstances_look_at_them() -> None:
    policy = compile_policy(default_policy() + example("certificates-sign-from-the-build-network"))
    assert policy.uses_context
    assert policy.decide(question(CI, Action.SIGN, labels={}, address="10.20.1.1"), "1").allowed
    assert not policy.decide(question(CI, Action.SIGN, labels={}, address="10.21.1.1"), "1").allowed
