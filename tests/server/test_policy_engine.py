"""The policy engine: what a policy may look like, what it answers, and that no text brings the gateway down."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sealkeeper.server.authorization import ALWAYS_APPROVED, PROPOSABLE, Action, Decision
from sealkeeper.server.errors import InvalidRequestError
from sealkeeper.server.identity import ATTRIBUTES, Principal
from sealkeeper.server.policy_engine import (
    GRANTABLE,
    MAX_TEXT,
    Link,
    Policy,
    compile_policy,
    default_policy,
    kinds_of,
    schema_text,
)
from sealkeeper.server.resources import KeyName, LogName, ProposalName, ResourceName, TenantName
from tests.server.hostile_policies import tried
from tests.server.policy_house import (
    ADMIN,
    CI,
    CUSTODIAN,
    FORBID_ALL,
    HOUR,
    KEY,
    PERMIT_ALL,
    START,
    VERIFIER,
    PolicyHouse,
    Record,
    policy_house,
    question,
)

DEFAULT = compile_policy(default_policy())


def refusal(text: str) -> str:
    with pytest.raises(InvalidRequestError) as raised:
        compile_policy(text)
    assert raised.value.reason == "POLICY_INVALID"
    assert len(raised.value.violations) <= 10
    assert all(one.field == "text" and len(one.description) <= 500 for one in raised.value.violations)
    return str(raised.value)


@pytest.mark.parametrize("stack", [512, 8192])
def test_no_text_ends_the_process_whatever_thread_it_is_checked_in(stack: int) -> None:
    command = [sys.executable, "-m", "tests.server.hostile_policies", str(stack)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 0, (done.stdout[-200:], done.stderr[-2000:])
    lines = done.stdout.splitlines()
    tried = [line.removeprefix("trying ") for line in lines if line.startswith("trying ")]
    assert len(tried) > 150
    assert {line.removeprefix("taken ").removeprefix("refused ") for line in lines[len(tried) :]} == set(tried)
    assert "taken the default" in lines
    assert "refused 100000 brackets" in lines
    assert "refused 100000 after a carriage return in a comment" in lines
    assert "refused bad escapes" in lines
    assert "taken like with many *" in lines


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                [
                    *(
                        "permit",
                        "forbid",
                        "principal",
                        "action",
                        "resource",
                        "when",
                        "unless",
                        "has",
                        "like",
                        "in",
                        "if",
                    ),
                    *("(", ")", "{", "}", "[", "]", ",", ";", "&&", "||", "!", "==", "::", ".", '"', "\\", "//", "\n"),
                    *("\r", "*", "@id", '("x")', "?principal", "context", "now", "true", 'Sealkeeper::Action::"Sign"'),
                ]
            ),
            st.text(max_size=5),
        ),
        max_size=60,
    ).map(" ".join)
)
def test_any_text_is_a_policy_or_refused(text: str) -> None:
    assert tried(text) in ("taken", "refused")


def test_a_policy_of_the_longest_allowed_text_is_taken_and_one_byte_more_is_not() -> None:
    comment = "/" * (MAX_TEXT - len(PERMIT_ALL) - 1) + "\n"
    assert compile_policy(comment + PERMIT_ALL).texts
    assert "must have 1 byte to 262144 bytes" in refusal("/" + comment + PERMIT_ALL)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("permit (principal, action, resource);", "needs an @id"),
        ('@id("") permit (principal, action, resource);', "needs an @id"),
        ('@id("a b") permit (principal, action, resource);', "needs an @id"),
        ('@id("tenant-isolation") permit (principal, action, resource);', "reserved"),
        ('@id("no-policy") permit (principal, action, resource);', "reserved"),
        (PERMIT_ALL + PERMIT_ALL, "all: this @id is there twice"),
        ('@id("x") permit (principal == ?principal, action, resource);', "templates"),
        ('@id("x") @approvals("11") permit (principal, action, resource);', "from 0 to 10"),
        ('@id("x") @approvals("-1") permit (principal, action, resource);', "from 0 to 10"),
        ('@id("x") @approvals("1") forbid (principal, action, resource);', "goes with permit"),
        ('@id("x") permit (principal, action, resource) when { principal.shoe == 1 };', "x: "),
        ('@id("x") permit (principal, action, resource) when { principal.ref == "a" };', "x: "),
        ('@id("x") permit (principal, action == Sealkeeper::Action::"Fly", resource);', "Fly"),
        ('@id("x") permit (principal, action, resource) when { "\\u{110000}" == "a" };', "text: "),
        ('@id("x") permit (principal, action, resource) when { "a == "b" };', "without an end"),
        ("// only a comment", "has 0 policies"),
        (PERMIT_ALL + "\x00", "printable"),
        (PERMIT_ALL + "permit", "text: "),
        ("".join(f'@id("x{one}") forbid (principal, action, resource);' for one in range(1001)), "1001 policies"),
    ],
)
def test_a_policy_that_is_not_as_it_should_be_is_refused_with_what_is_wrong(text: str, told: str) -> None:
    assert told in refusal(text)


def test_what_is_wrong_is_told_of_with_the_id_of_the_policy_wherever_it_stands() -> None:
    good = "".join(f'@id("x{one}") forbid (principal, action, resource);\n' for one in range(50))
    bad = '@id("the-bad-one") permit (principal, action, resource) when { principal.shoe == 1 };'
    assert "the-bad-one: " in refusal(good + bad)
    assert "the-bad-one: " in refusal(bad + good)


def test_texts_of_policies_are_told_by_their_ids_with_the_comments_before_them() -> None:
    texts = compile_policy(f"// first; \n{PERMIT_ALL}\n// second\r{FORBID_ALL}\n// the end\n").texts
    assert texts == {"all": f"// first; \n{PERMIT_ALL}", "none": f"// second\r{FORBID_ALL}"}


def test_the_schema_has_every_action_with_the_kinds_it_takes() -> None:
    assert {action: bool(kinds_of(action)) for action in Action} == dict.fromkeys(Action, True)
    assert kinds_of(Action.SIGN) == {"Key"}
    assert kinds_of(Action.READ_AUDIT_LOG) == {"Log", "Tenant"}
    assert kinds_of(Action.IMPORT_KEY) == {"Key", "KeyImport"}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_every_attribute_of_callers_is_in_the_schema_and_optional(name: str) -> None:
    assert f"    {name}?: {'Bool' if name == 'ref_protected' else 'String'},\n" in schema_text()


@pytest.mark.parametrize("action", GRANTABLE)
def test_a_grant_of_every_grantable_action_permits_it_to_its_subject_alone(action: Action) -> None:
    resource: ResourceName = KEY
    if action is Action.LIST_KEYS:
        resource = TenantName("acme")
    if action is Action.READ_AUDIT_LOG:
        resource = LogName("audit")
    policy = compile_policy(FORBID_ALL.replace("forbid", "permit").replace("resource)", "resource) when { false }"))
    granted = policy.granting([Link("tenants/acme/grants/g", CI.subject, False, [action], _scope(resource))])
    asked = question(CI, action, resource, {})
    assert granted.decide(asked, "1").policy == "tenants/acme/grants/g"
    assert granted.decide(asked, "1").allowed
    assert not policy.decide(asked, "1").allowed
    assert not granted.decide(replace(asked, principal=replace_subject(CI, "other")), "1").allowed


def _scope(resource: ResourceName) -> KeyName | str:
    return resource if isinstance(resource, KeyName) else "acme"


def replace_subject(principal: Principal, subject: str) -> Principal:
    return Principal(principal.tenant, subject, principal.role)


def test_a_grant_for_a_workload_is_none_for_a_person_of_the_same_name() -> None:
    granted = DEFAULT.granting([Link("g", CUSTODIAN.subject, False, [Action.SIGN], KEY)])
    assert not granted.decide(question(CUSTODIAN, Action.SIGN, labels={}), "1").allowed


def test_a_grant_does_not_outweigh_a_forbid() -> None:
    granted = compile_policy(FORBID_ALL).granting([Link("g", CI.subject, False, [Action.SIGN], KEY)])
    assert granted.decide(question(CI, Action.SIGN, labels={}), "1") == Decision(False, "none", "1")


@pytest.mark.parametrize(("asked", "needed"), [(None, None), (0, 0), (1, 1), (10, 10)])
@pytest.mark.parametrize("action", Action)
def test_approvals_are_those_of_the_permit_else_the_usual_ones_and_never_none_where_there_must_be_some(
    action: Action, asked: int | None, needed: int | None
) -> None:
    annotation = "" if asked is None else f'@approvals("{asked}") '
    policy = compile_policy(annotation + PERMIT_ALL)
    decision = policy.decide(question(ADMIN, action, _resource(action), {}), "7")
    expected = PROPOSABLE.get(action, 0) if needed is None else needed
    if action in ALWAYS_APPROVED:
        expected = max(expected, 1)
    assert decision == Decision(True, "all", "7", expected)


def _resource(action: Action) -> ResourceName:
    if action is Action.APPROVE:
        return ProposalName("acme", "p-1")
    return KEY if "Key" in kinds_of(action) else LogName("audit") if "Log" in kinds_of(action) else TenantName("acme")


def test_the_strictest_of_several_permits_counts() -> None:
    two = '@id("two") @approvals("2") permit (principal, action, resource);'
    one = '@id("one") @approvals("1") permit (principal, action, resource);'
    assert compile_policy(one + two).decide(question(ADMIN, Action.IMPORT_KEY), "1").approvals == 2
    assert compile_policy(two + one).decide(question(ADMIN, Action.IMPORT_KEY), "1").approvals == 2


def test_where_a_policy_cannot_be_evaluated_the_answer_is_no() -> None:
    overflow = '@id("sum") permit (principal, action, resource) when { 9223372036854775807 + 1 > 0 };'
    policy = compile_policy(PERMIT_ALL + overflow)
    assert policy.decide(question(ADMIN, Action.GET_KEY, labels={}), "1") == Decision(False, "policy-error", "1")


def test_break_glass_permits_what_nothing_else_does_and_waives_approvals_but_of_what_must_have_them() -> None:
    name = "tenants/acme/grants/fire"
    actions = [Action.COMPROMISE_KEY_VERSION, Action.SIGN, Action.GET_KEY]
    policy = DEFAULT.granting([Link(name, CUSTODIAN.subject, True, actions, "acme", break_glass=True)])

    def decided(action: Action) -> Decision:
        return policy.decide(question(CUSTODIAN, action, labels={}), "1", frozenset([name]))

    assert decided(Action.SIGN) == Decision(True, name, "1", 0, name)
    assert decided(Action.COMPROMISE_KEY_VERSION).approvals == 0
    assert decided(Action.COMPROMISE_KEY_VERSION).break_glass == name
    # It would be permitted anyway, and is then no use of the emergency.
    assert decided(Action.GET_KEY).break_glass == ""


def test_a_policy_that_looks_at_time_or_address_says_so_and_one_that_only_names_them_does_not() -> None:
    def uses(condition: str) -> bool:
        return compile_policy(f"{PERMIT_ALL[:-1]} when {{ {condition} }};").uses_context

    assert uses('context.now < datetime("2027-01-01")')
    assert uses('context has address && context.address.isInRange(ip("10.0.0.0/8"))')
    assert uses('if principal.role == "ci" then true else [1, 2].contains(1) && !(context has address)')
    assert not uses('principal.role == "context"')
    assert not DEFAULT.uses_context


def test_time_and_address_decide() -> None:
    text = '@id("x") permit (principal, action, resource) when {{ {} }};'
    office = compile_policy(text.format('context has address && context.address.isInRange(ip("10.0.0.0/8"))'))
    assert office.decide(question(CI, Action.SIGN, address="10.1.2.3"), "1").allowed
    assert not office.decide(question(CI, Action.SIGN, address="192.0.2.1"), "1").allowed
    assert not office.decide(question(CI, Action.SIGN, address=""), "1").allowed
    hour = compile_policy(text.format('context.now < datetime("2026-03-01T12:00:01Z")'))
    assert hour.decide(question(CI, Action.SIGN), "1").allowed
    assert not hour.decide(question(CI, Action.SIGN, now=START + HOUR), "1").allowed


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.0/24"),
        ("::ffff:192.0.2.7", "192.0.2.0/24"),
        ("2001:db8::7", "2001:db8::/32"),
        ("fe80::1%eth0", "fe80::/10"),
    ],
)
def test_addresses_are_compared_however_they_are_written(address: str, network: str) -> None:
    policy = compile_policy(
        f'{PERMIT_ALL[:-1]} when {{ context has address && context.address.isInRange(ip("{network}")) }};'
    )
    assert policy.decide(question(CI, Action.SIGN, address=address), "1") == Decision(True, "all", "1")


def test_an_address_that_is_none_is_one_that_is_not_known() -> None:
    policy = compile_policy(f"{PERMIT_ALL[:-1]} when {{ !(context has address) }};")
    assert policy.decide(question(CI, Action.SIGN, address="somewhere"), "1").allowed


# What is asked again and again while things change: remembered answers must be those that would be given anew.
QUESTIONS: list[tuple[Principal, Action, ResourceName]] = [
    (CI, Action.SIGN, KEY),
    (CI, Action.SIGN, KeyName("acme", "other")),
    (CI, Action.GET_KEY, KEY),
    (CUSTODIAN, Action.COMPROMISE_KEY_VERSION, KEY),
    (CUSTODIAN, Action.SIGN, KEY),
    (CUSTODIAN, Action.APPROVE, ProposalName("acme", "p-1")),
    (ADMIN, Action.READ_AUDIT_LOG, LogName("audit")),
    (VERIFIER, Action.VERIFY, KEY),
    (CI, Action.SIGN, KeyName("beta", "release")),
]
NOT_OWN = (
    '@id("others") permit (principal, action == Sealkeeper::Action::"Approve", resource) '
    "when { resource.proposer != principal.person };"
)
POLICIES = [
    default_policy(),
    PERMIT_ALL,
    FORBID_ALL,
    NOT_OWN,
    '@id("team") permit (principal, action, resource is Sealkeeper::Key) '
    'when { resource.exists && resource.hasTag("team") && resource.getTag("team") == "web" };',
    f'{PERMIT_ALL[:-1]} when {{ context.now < datetime("2026-03-01T13:30:00Z") }};',
]
STEPS = st.one_of(
    st.tuples(st.just("policy"), st.integers(0, len(POLICIES) - 1)),
    st.tuples(st.just("grant"), st.booleans()),
    st.tuples(st.just("revoke"), st.integers(0, 3)),
    st.tuples(st.just("key"), st.sampled_from(["web", "app", ""])),
    st.tuples(st.just("time"), st.integers(1, 70)),
    st.tuples(st.just("proposal"), st.sampled_from(["ada", "grace"])),
)


async def step(house: PolicyHouse, kind: str, value: object) -> None:
    if kind == "policy":
        await house.put_policy(POLICIES[int(str(value))])
    elif kind == "grant" and value:
        await house.grant(CUSTODIAN, Action.SIGN, resource=TenantName("acme"), break_glass=True)
    elif kind == "grant":
        await house.grant(CI, Action.SIGN)
    elif kind == "revoke":
        active = list(house.grants._of("acme").values())
        if active:
            await house.grants.revoke(active[int(str(value)) % len(active)].name, Record())
    elif kind == "key":
        await house.put_key({"team": str(value)} if value else {})
    elif kind == "time":
        house.now += int(str(value)) * HOUR / 60
    else:
        house.proposals[ProposalName("acme", "p-1")] = ("ImportKey", str(value), "")


def anew(house: PolicyHouse, principal: Principal, action: Action, resource: ResourceName) -> Decision:
    """What is decided with nothing remembered, and with all grants in one."""
    if resource == KeyName("beta", "release"):
        number = house.policies.in_force("acme").version.number
        return Decision(False, "tenant-isolation", str(number))
    current = house.policies.in_force("acme")
    policy: Policy = current.policy.granting(house.grants.links("acme", house.now))
    facts = house.authorizer.facts(resource)
    asked = replace(question(principal, action, resource, now=house.now), facts=facts)
    return policy.decide(asked, str(current.version.number), house.grants.emergencies("acme", house.now))


@settings(max_examples=25, deadline=None)
@given(st.lists(STEPS, min_size=1, max_size=12))
# Policy 3 permits nobody to sign, policy 4 looks at labels, policy 5 at the time.
@example([("policy", 3), ("grant", False), ("time", 61)])
@example(
    [("policy", 3), ("grant", False), ("revoke", 0), ("grant", True), ("time", 30), ("grant", False), ("time", 31)]
)
@example([("policy", 4), ("key", "web"), ("key", "app"), ("key", "web")])
@example([("policy", 1), ("policy", 2), ("policy", 1)])
@example([("policy", 5), ("time", 60), ("time", 60)])
@example([("policy", 3), ("proposal", "ada"), ("grant", True), ("time", 59), ("time", 1)])
def test_what_is_remembered_is_never_stale(steps: list[tuple[str, object]]) -> None:
    async def run() -> None:
        with TemporaryDirectory() as folder:
            async with policy_house(Path(folder)) as house:
                for kind, value in [("time", 0), *steps]:
                    await step(house, kind, value)
                    for _ in range(2):
                        for one in QUESTIONS:
                            found = house.authorizer.decide(*one, "127.0.0.1", house.now)
                            assert found == anew(house, *one), (kind, value, one)

    asyncio.run(run())


async def test_an_answer_about_a_proposal_that_was_not_there_is_not_remembered(tmp_path: Path) -> None:
    async with policy_house(tmp_path, NOT_OWN) as house:
        name = ProposalName("acme", "p-1")
        asked = CUSTODIAN, Action.APPROVE, name, "127.0.0.1", house.now
        assert house.authorizer.decide(*asked).allowed
        house.proposals[name] = "ImportKey", "ada", ""
        assert not house.authorizer.decide(*asked).allowed


async def test_grants_of_others_are_not_looked_at(tmp_path: Path) -> None:
    async with policy_house(tmp_path) as house:
        other = Principal("acme", "spiffe://acme.example/other", CI.role)
        grant = await house.grant(other, Action.SIGN)
        await house.put_key({"repository": "acme/app"})
        assert house.authorizer.decide(other, Action.SIGN, KEY, "", house.now).allowed
        assert not house.authorizer.decide(CI, Action.SIGN, KEY, "", house.now).allowed
        assert set(house.authorizer.ready("acme", house.now).granted) == {(Action.SIGN, str(grant.name))}


@pytest.mark.parametrize("limit", [1, 10_001])
async def test_no_more_answers_are_remembered_than_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr("sealkeeper.server.policy_authorizer._MAX_KNOWN", limit)
    monkeypatch.setattr("sealkeeper.server.policy_authorizer._MIN_KNOWN", 1)
    async with policy_house(tmp_path) as house:
        for number in range(20):
            house.authorizer.decide(CI, Action.SIGN, KeyName("acme", f"k{number}"), "", house.now)
        assert len(house.authorizer.ready("acme", house.now).known) == min(limit, 20)
