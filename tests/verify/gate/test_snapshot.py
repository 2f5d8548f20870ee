"""What a gate decides by offline is what its verdict key signed, of this gate, now."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealkeeper.verify.errors import VerifyError
from sealkeeper.verify.gate.exceptions import GateException
from sealkeeper.verify.gate.patterns import Pattern
from sealkeeper.verify.gate.snapshot import (
    PAYLOAD_TYPE,
    Snapshot,
    encode_snapshot,
    parse_snapshot,
    verify_snapshot,
)
from tests.verify.gate.signed_statements import GATES, QA, STRANGER, SUMMARY, by_key, statement, trust
from tests.verify.instance import NOW
from tests.verify.signed import changed

GATE, KEY = "tenants/acme/gates/prod", "tenants/acme/keys/gates"
POLICY = f"""gate: v1
verdict_key: {KEY}
signers: {{release: {{key: tenants/acme/keys/release}}}}
require: {{signatures: {{signers: [release]}}}}
""".encode()
EXCEPTIONS = (
    GateException(f"{GATE}/exceptions/a", "sha256:" + "1" * 64, None, "", "a fix", NOW, NOW + timedelta(days=1)),
    GateException(f"{GATE}/exceptions/b", "", Pattern("acme/*"), "dev", "old", NOW, NOW + timedelta(days=2)),
)
HOUR = timedelta(hours=1)


def payload(
    gate: str = GATE, policy: bytes = POLICY, issued: datetime = NOW - HOUR, expires: datetime = NOW + HOUR
) -> bytes:
    return encode_snapshot(gate, 7, policy, EXCEPTIONS, issued, expires)


def verified(bundle: bytes, root: Any = None, now: datetime = NOW) -> Snapshot:
    return verify_snapshot(bundle, root or trust(), GATE, KEY, now)


def signed(data: bytes, key: str = GATES, payload_type: str = PAYLOAD_TYPE, **more: Any) -> bytes:
    return by_key(data, key, payload_type=payload_type, **more)


@pytest.mark.parametrize("certificate", [False, True])
def test_what_was_put_in_comes_out(certificate: bool) -> None:
    found = verified(signed(payload(), certificate=certificate))
    assert (found.gate, found.version, found.policy_name) == (GATE, 7, f"{GATE}/versions/7")
    assert found.policy.text == POLICY
    assert found.exceptions == EXCEPTIONS
    assert (found.issued, found.expires) == (NOW - HOUR, NOW + HOUR)


BAD: list[tuple[str, Callable[[], bytes], str]] = [
    ("another key", lambda: signed(payload(), QA), "tenants/acme/keys/qa"),
    ("another tenant's key", lambda: signed(payload(), STRANGER, certificate=True, tenant="mallory"), "identity"),
    ("a key that is not acme's", lambda: signed(payload(), STRANGER, certificate=True, tenant="acme"), "identity"),
    ("of another gate", lambda: signed(payload("tenants/acme/gates/staging")), "is of tenants/acme/gates/staging"),
    ("expired", lambda: signed(payload(expires=NOW)), "is good from"),
    ("not yet", lambda: signed(payload(issued=NOW + HOUR, expires=NOW + 2 * HOUR)), "is good from"),
    (
        "a statement",
        lambda: signed(statement(SUMMARY, {}), payload_type="application/vnd.in-toto+json"),
        "not the snap",
    ),
    ("no snapshot", lambda: signed(b"{}"), "not one"),
    ("no JSON", lambda: signed(b"\xff"), "not one"),
    ("a bad policy", lambda: signed(payload(policy=b"gate: v2")), "not one"),
    (
        "a policy that names another key",
        lambda: signed(payload(policy=POLICY.replace(KEY.encode(), b"tenants/acme/keys/qa"))),
        "another verdict_key",
    ),
    (
        "a policy that names none",
        lambda: signed(payload(policy=POLICY.replace(f"verdict_key: {KEY}\n".encode(), b""))),
        "another verdict_key",
    ),
    (
        "forged",
        lambda: changed(signed(payload()), lambda one: one["dsseEnvelope"].update(payload="e30=")),
        "signature",
    ),
]


@pytest.mark.parametrize(("make", "why"), [(make, why) for _, make, why in BAD], ids=[name for name, *_ in BAD])
def test_what_is_not_the_gates_own_is_refused(make: Callable[[], bytes], why: str) -> None:
    with pytest.raises(VerifyError, match=why):
        verified(make())


@pytest.mark.parametrize(
    "members", [{"state": "DISABLED"}, {"state": "COMPROMISED", "compromiseTime": NOW.isoformat()}]
)
def test_a_snapshot_by_a_key_that_is_not_good_any_more_is_refused(members: dict[str, str]) -> None:
    root = trust(lambda found: found[GATES].update(members))
    with pytest.raises(VerifyError, match=members["state"]):
        verified(signed(payload()), root)


def test_the_first_moment_belongs_to_it_and_the_last_does_not() -> None:
    bundle = signed(payload(issued=NOW, expires=NOW + HOUR))
    assert verified(bundle, now=NOW).version == 7
    with pytest.raises(VerifyError, match="is good from"):
        verified(bundle, now=NOW + HOUR)


@pytest.mark.parametrize(
    ("version", "issued", "good"),
    [(7, NOW, True), (8, NOW, True), (7, NOW - timedelta(seconds=1), False), (6, NOW + timedelta(seconds=1), False)],
)
def test_an_older_snapshot_does_not_take_the_place_of_the_held_one(version: int, issued: datetime, good: bool) -> None:
    later = NOW + timedelta(minutes=1)
    held = verified(signed(payload(issued=NOW)))
    bundle = signed(encode_snapshot(GATE, version, POLICY, (), issued, NOW + HOUR))
    assert verified(bundle, now=later).version == version
    if good:
        assert verify_snapshot(bundle, trust(), GATE, KEY, later, held).version == version
    else:
        with pytest.raises(VerifyError, match="older than"):
            verify_snapshot(bundle, trust(), GATE, KEY, later, held)


def test_the_same_input_gives_the_same_bytes() -> None:
    assert payload() == payload()
    assert parse_snapshot(payload()).exceptions == EXCEPTIONS


@pytest.mark.parametrize("member", ["gate", "version", "policy", "exceptions", "issuedAt", "expiresAt"])
def test_a_snapshot_that_lacks_something_is_refused(member: str) -> None:
    document = json.loads(payload())
    del document[member]
    with pytest.raises(VerifyError, match=f"{member} is missing"):
        parse_snapshot(json.dumps(document).encode())


@settings(max_examples=100, deadline=None)
@given(
    member=st.sampled_from(["gate", "version", "policy", "exceptions", "issuedAt", "expiresAt", "more"]),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=10),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ),
)
def test_no_member_of_any_form_makes_it_raise_anything_else(member: str, value: Any) -> None:
    document = {**json.loads(payload()), member: value}
    try:
        parse_snapshot(json.dumps(document).encode())
    except VerifyError:
        return
    assert member != "more"
