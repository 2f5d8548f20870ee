"""Files of cases: what they say, and how what is wrong in them is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.client.cli.policy_cases import read_cases, resource_name
from sealkeeper.client.errors import InvalidRequestError

PARENT = "tenants/acme"
LEAST = '[[case]]\nname = "x"\nprincipal = { role = "ci" }\naction = "Sign"\nresource = "release"\nexpect = "allow"\n'
FULL = """
[[case]]
name = "a job signs"
principal = { role = "ci", subject = "s", method = "token", person = "p", issuer = "i", hardware = true, acr = "gold", \
amr = ["otp"], attributes = { repository = "acme/app", ref_protected = true } }
action = "Sign"
resource = "release"
labels = { repository = "acme/app" }
address = "192.0.2.1"
time = 2026-03-01T13:00:00+01:00
expect = "deny"
policy = "some"
approvals = 0
"""


def refused(text: str) -> tuple[str, str]:
    with pytest.raises(InvalidRequestError) as raised:
        read_cases(text, PARENT)
    assert raised.value.reason == "CASES_INVALID"
    assert raised.value.next_step
    (one,) = raised.value.violations
    return one.field, one.description


def test_everything_that_a_case_can_say_is_read() -> None:
    (case,) = read_cases(FULL, PARENT)
    request, principal = case.request, case.request.principal
    assert (case.name, case.allowed, case.policy) == ("a job signs", False, "some")
    assert case.HasField("approvals")
    assert (principal.role, principal.subject, principal.method) == ("ci", "s", "token")
    assert (principal.person, principal.issuer, principal.hardware) == ("p", "i", True)
    assert (principal.acr, list(principal.amr)) == ("gold", ["otp"])
    assert dict(principal.attributes) == {"repository": "acme/app", "ref_protected": "true"}
    assert (request.action, request.resource) == ("Sign", "tenants/acme/keys/release")
    assert (dict(request.labels), request.address) == ({"repository": "acme/app"}, "192.0.2.1")
    assert request.time.ToJsonString() == "2026-03-01T12:00:00Z"


def test_little_is_enough() -> None:
    (case,) = read_cases(LEAST, PARENT)
    assert (case.allowed, case.policy, case.HasField("approvals")) == (True, "", False)
    assert case.request.principal.subject == "test:ci"
    assert not case.request.HasField("time")


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("", "tenants/acme"),
        ("release", "tenants/acme/keys/release"),
        ("release/versions/2", "tenants/acme/keys/release/versions/2"),
        ("proposals/p-1", "tenants/acme/proposals/p-1"),
        ("gates/production", "tenants/acme/gates/production"),
        ("providers/hsm", "tenants/acme/providers/hsm"),
        ("keys/release", "tenants/acme/keys/release"),
        ("logs/audit", "logs/audit"),
        ("tenants/beta/keys/x", "tenants/beta/keys/x"),
    ],
)
def test_short_names_are_of_the_tenant(name: str, full: str) -> None:
    assert resource_name(PARENT, name) == full


@pytest.mark.parametrize(
    ("text", "field", "told"),
    [
        ("[[case", "cases", "not TOML"),
        ("a = " + "[" * 5000, "cases", "not TOML"),
        ("", "case", "at least one"),
        ("case = 1", "case", "at least one"),
        ("case = [1]", "case[0]", "a table"),
        (LEAST + "[other]\n", "other", "only [[case]]"),
        (LEAST.replace('name = "x"', ""), "case[0].name", "must be there"),
        (LEAST.replace('name = "x"', "name = 1"), "case[0].name", "must be a string"),
        (LEAST + "shoe = 1\n", "case[0] (x).shoe", "there is no such member"),
        (LEAST.replace('"allow"', '"perhaps"'), "case[0] (x).expect", "allow or deny"),
        (LEAST.replace('expect = "allow"', ""), "case[0] (x).expect", "must be there"),
        (LEAST.replace('action = "Sign"', ""), "case[0] (x).action", "must be there"),
        (LEAST.replace("{ role", "{ shoe = 1, role"), "case[0] (x).principal.shoe", "there is no such member"),
        (LEAST.replace('role = "ci"', ""), "case[0] (x).principal.role", "must be there"),
        (LEAST.replace('{ role = "ci" }', '"ci"'), "case[0] (x).principal", "must be a table"),
        (LEAST.replace('"ci" }', '"ci", amr = [1] }'), "case[0] (x).principal.amr", "a list of strings"),
        (LEAST.replace('"ci" }', '"ci", hardware = 1 }'), "case[0] (x).principal.hardware", "true or false"),
        (LEAST.replace('"ci" }', '"ci", attributes = { ref = 1 } }'), "case[0] (x).principal.attributes.ref", "string"),
        (LEAST + "approvals = true\n", "case[0] (x).approvals", "a whole number"),
        (LEAST + "approvals = 99999999999\n", "case[0] (x).approvals", "from 0 to 10"),
        (LEAST + 'time = "noon"\n', "case[0] (x).time", "must be a time"),
        (LEAST + "labels = { a = [] }\n", "case[0] (x).labels.a", "must be a string"),
    ],
)
def test_what_is_wrong_is_told_with_the_case_and_its_member(text: str, field: str, told: str) -> None:
    found = refused(text)
    assert found[0] == field
    assert told in found[1]


def test_the_second_case_is_told_as_the_second() -> None:
    assert refused(LEAST + LEAST.replace('"allow"', '""'))[0] == "case[1] (x).expect"


@given(st.text(alphabet='[]{}="\n\\case.namexptiol0123456789', max_size=200))
def test_any_text_is_cases_or_refused(text: str) -> None:
    try:
        read_cases(text, PARENT)
    except InvalidRequestError as error:
        (_,) = error.violations
