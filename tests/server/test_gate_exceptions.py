"""Exceptions, snapshots, reports, retries and simulations of gates, as callers of a whole gateway see them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sealkeeper.client import Client
from sealkeeper.client.errors import ClientError, ProposedError
from sealkeeper.client.operations import dsse_content
from sealkeeper.server.policy_engine import default_policy
from sealkeeper.v1 import attestation_pb2, gate_pb2
from sealkeeper.verify import TrustRoot
from sealkeeper.verify.gate.snapshot import PAYLOAD_TYPE, verify_snapshot
from tests.e2e.running import P256, PARENT
from tests.server.gate_house import ALLOW, DENY, GATE, KEY, POLICY, VERDICTS, GateHouse, artifact, codes
from tests.server.house import audit_records

HOUR = timedelta(hours=1)
ACTIVE = gate_pb2.GATE_EXCEPTION_STATE_ACTIVE


@pytest.fixture
async def house(tmp_path: Path) -> GateHouse:
    return await GateHouse.make(tmp_path / "gateway")


def digest(subject: attestation_pb2.Subject) -> str:
    return f"sha256:{subject.digest['sha256']}"


async def exempted(house: GateHouse, gateway: Any, **what: Any) -> gate_pb2.GateException:
    """An exception, by a policy that asks for no approvals of it."""
    what = {"lifetime": HOUR, "reason": "a fix", **what}
    made: gate_pb2.GateException = await house.ask(
        gateway, "custodian", lambda client: client.create_gate_exception(GATE, **what)
    )
    return made


async def test_an_exception_lets_its_artifact_run_for_its_time_and_makes_no_verdict_pass(house: GateHouse) -> None:
    app, other = artifact("app"), artifact("other")
    async with house.house.running() as gateway:
        await house.furnish(gateway)
        made = await exempted(house, gateway, digest=digest(app))
        found = (await house.evaluate(gateway, app)).decision
        assert (found.outcome, found.passed, found.exception) == (ALLOW, False, made.name)
        assert codes(found) == ["SIGNATURES_TOO_FEW"]
        assert (await house.evaluate(gateway, other)).decision.outcome == DENY
        [listed] = await house.ask(gateway, "admin", lambda client: list(client.list_gate_exceptions(GATE)))
        assert (listed.state, listed.uses, listed.reason) == (ACTIVE, 1, "a fix")
        house.house.ahead = 3601 * 10**9
        assert (await house.evaluate(gateway, app)).decision.outcome == DENY
    async with house.house.running() as gateway:
        [listed] = await house.ask(gateway, "admin", lambda client: list(client.list_gate_exceptions(GATE)))
        assert (listed.state, listed.uses) == (gate_pb2.GATE_EXCEPTION_STATE_EXPIRED, 1)


async def test_a_revoked_exception_lets_nothing_run_any_more(house: GateHouse) -> None:
    app = artifact("app", "ghcr.io/acme/app:1.2")
    async with house.house.running() as gateway:
        await house.furnish(gateway)
        made = await exempted(house, gateway, pattern="ghcr.io/acme/*", environment="staging")
        assert (await house.evaluate(gateway, app, environment="staging")).decision.outcome == ALLOW
        assert (await house.evaluate(gateway, app, environment="production")).decision.outcome == DENY
        elsewhere = artifact("app", "ghcr.io/evil/app:1.2")
        assert (await house.evaluate(gateway, elsewhere, environment="staging")).decision.outcome == DENY
        found = await house.ask(gateway, "admin", lambda client: client.revoke_gate_exception(made.name))
        assert (found.state, found.revoked_by != "") == (gate_pb2.GATE_EXCEPTION_STATE_REVOKED, True)
        assert (await house.evaluate(gateway, app, environment="staging")).decision.outcome == DENY


@pytest.mark.parametrize(
    ("what", "field"),
    [
        ({"pattern": "**"}, "pattern"),
        ({"pattern": "*/*:**"}, "pattern"),
        ({"pattern": "a" * 513}, "pattern"),
        ({"digest": "sha256:00"}, "digest"),
        ({"digest": "md5:" + "0" * 32}, "digest"),
        ({"pattern": "a", "environment": "No"}, "environment"),
        ({"pattern": "a", "reason": " "}, "reason"),
        ({"pattern": "a", "reason": "x" * 1025}, "reason"),
        ({"pattern": "a", "lifetime": timedelta(days=91)}, "lifetime"),
        ({"pattern": "a", "lifetime": timedelta(seconds=59)}, "lifetime"),
        ({"pattern": "a", "lifetime": timedelta(seconds=60.5)}, "lifetime"),
    ],
)
async def test_an_exception_for_everything_or_for_ever_is_refused(
    house: GateHouse, what: dict[str, Any], field: str
) -> None:
    async with house.house.running() as gateway:
        await house.furnish(gateway)
        with pytest.raises(ClientError) as caught:
            await exempted(house, gateway, **what)
        assert (caught.value.reason, caught.value.violations[0].field) == ("INVALID_FIELD", field)


async def test_by_the_default_policy_an_exception_takes_two_people(tmp_path: Path) -> None:
    house, app = await GateHouse.make(tmp_path / "gateway", default_policy()), artifact("app")
    async with house.house.running() as gateway:
        await house.furnish(gateway)
        with pytest.raises(ProposedError) as caught:
            await exempted(house, gateway, digest=digest(app))
        assert (await house.evaluate(gateway, app)).decision.outcome == DENY
        await house.approve(gateway, caught.value.proposal)
        found = (await house.evaluate(gateway, app)).decision
        assert found.outcome == ALLOW
        [listed] = await house.ask(gateway, "admin", lambda client: list(client.list_gate_exceptions(GATE)))
        assert (listed.name, listed.proposal) == (found.exception, caught.value.proposal)


async def test_a_snapshot_verifies_and_changes_with_policy_exceptions_and_keys(house: GateHouse) -> None:
    app = artifact("app")
    async with house.house.running() as gateway:
        await house.furnish(gateway)

        async def snapshot() -> gate_pb2.GetGateSnapshotResponse:
            found: gate_pb2.GetGateSnapshotResponse = await house.ask(
                gateway, "verifier", lambda client: client.get_gate_snapshot(GATE)
            )
            return found

        first, again = await snapshot(), await snapshot()
        assert first.bundle == again.bundle
        trust = TrustRoot.from_json(first.trusted_root, first.keys)
        read = verify_snapshot(first.bundle, trust, GATE, VERDICTS, datetime.now(UTC))
        assert (read.policy.text, read.version, read.exceptions) == (POLICY.encode(), 1, ())
        made = await exempted(house, gateway, digest=digest(app))
        changed = await snapshot()
        read = verify_snapshot(changed.bundle, trust, GATE, VERDICTS, datetime.now(UTC))
        assert [one.name for one in read.exceptions] == [made.name]
        await house.ask(gateway, "custodian", lambda client: client.create_key(PARENT, "third", P256))
        assert (await snapshot()).bundle != changed.bundle
        bundle = (await snapshot()).bundle
        house.house.ahead = 12 * 3600 * 10**9 + 10**9
        assert (await snapshot()).bundle != bundle


async def test_a_gate_without_a_verdict_key_signs_neither_verdicts_nor_snapshots(house: GateHouse) -> None:
    app = artifact("app")
    async with house.house.running() as gateway:
        await house.furnish(gateway, POLICY.replace(f"verdict_key: {VERDICTS}\n", ""))
        assert not (await house.evaluate(gateway, app)).HasField("summary")
        found = await house.ask(gateway, "verifier", lambda client: client.get_gate_snapshot(GATE))
        assert (found.bundle, json.loads(found.snapshot)["gate"]) == (b"", GATE)


async def test_nobody_has_the_gateways_own_payloads_signed(house: GateHouse) -> None:
    async with house.house.running() as gateway:
        await house.furnish(gateway)
        for kind in (PAYLOAD_TYPE, PAYLOAD_TYPE.upper(), "application/vnd.sealkeeper.other"):
            with pytest.raises(ClientError) as caught:
                await house.ask(gateway, "ci", lambda client, kind=kind: client.sign(KEY, dsse_content(kind, b"{}")))
            assert caught.value.violations[0].field == "content.dsse.payload_type"


async def test_a_verdict_key_that_cannot_sign_leaves_the_decision_and_no_summary(house: GateHouse) -> None:
    app = artifact("app")
    async with house.house.running() as gateway:
        await house.furnish(gateway)
        await house.ask(
            gateway, "custodian", lambda client: client.set_key_version_state(f"{VERDICTS}/versions/1", "DISABLED")
        )
        found = await house.evaluate(gateway, app)
        assert (found.decision.outcome, found.HasField("summary")) == (DENY, False)
        records = await house.ask(gateway, "admin", audit_records)
        [told] = [one for one in records if one["method"] == "GateService/Evaluate"]
        assert told["details"]["summary"] == "KEY_VERSION_NOT_ACTIVE"


@pytest.mark.parametrize("key", ["tenants/other/keys/verdicts", f"{PARENT}/keys/none", f"{VERDICTS}/versions/7"])
async def test_a_verdict_key_that_is_not_the_tenants_is_refused(house: GateHouse, key: str) -> None:
    async with house.house.running() as gateway:
        await house.furnish(gateway)
        text = POLICY.replace(VERDICTS, key)
        with pytest.raises(ClientError) as caught:
            await house.ask(gateway, "admin", lambda client: client.update_gate(GATE, text, 1))
        assert caught.value.reason in ("KEY_NOT_FOUND", "KEY_VERSION_NOT_FOUND")


@pytest.mark.parametrize(
    ("text", "base", "reason"),
    [
        ("", 1, "POLICY_INVALID"),
        ("gate: v2", 1, "POLICY_INVALID"),
        ("a: &a [*a]", 1, "POLICY_INVALID"),
        (POLICY.replace("require:", "require:\n  rego: ['package other']"), 1, "POLICY_INVALID"),
        (POLICY, 0, "ETAG_MISMATCH"),
        (POLICY, 2, "ETAG_MISMATCH"),
        (POLICY, -1, "INVALID_FIELD"),
    ],
)
async def test_a_policy_that_is_none_or_comes_too_late_is_not_even_proposed(
    house: GateHouse, text: str, base: int, reason: str
) -> None:
    async with house.house.running() as gateway:
        await house.furnish(gateway)
        with pytest.raises(ClientError) as caught:
            await house.ask(gateway, "admin", lambda client: client.update_gate(GATE, text, base))
        assert caught.value.reason == reason


async def test_a_retry_is_the_same_decision_and_other_content_is_refused(house: GateHouse) -> None:
    app = artifact("app")
    async with house.house.running() as gateway:
        await house.furnish(gateway)
        first = await house.evaluate(gateway, app, request_id="once")
        assert await house.evaluate(gateway, app, request_id="once") == first
        with pytest.raises(ClientError) as caught:
            await house.evaluate(gateway, artifact("other"), request_id="once")
        assert caught.value.reason == "REQUEST_ID_REUSED"
    async with house.house.running() as gateway:
        assert await house.evaluate(gateway, app, request_id="once") == first
        assert len(await house.ask(gateway, "admin", lambda client: list(client.list_gate_decisions(GATE)))) == 1


async def test_what_is_only_tried_leaves_no_decision(house: GateHouse) -> None:
    app = artifact("app")
    async with house.house.running() as gateway:
        await house.furnish(gateway)
        made = await exempted(house, gateway, digest=digest(app))
        found = await house.evaluate(gateway, app, dry_run=True)
        assert (found.decision.name, found.decision.exception, found.HasField("summary")) == ("", made.name, False)
        assert await house.ask(gateway, "admin", lambda client: list(client.list_gate_decisions(GATE))) == []
        [listed] = await house.ask(gateway, "admin", lambda client: list(client.list_gate_exceptions(GATE)))
        assert listed.uses == 0


def reported(**other: Any) -> gate_pb2.GateDecision:
    members: dict[str, Any] = {
        "outcome": DENY,
        "mode": gate_pb2.GATE_MODE_ENFORCE,
        "subject": artifact("app"),
        "environment": "production",
        "time": datetime.now(UTC),
        "policy_version": f"{GATE}/versions/1",
        "reasons": [gate_pb2.GateReason(code="SIGNATURES_TOO_FEW", message="none")],
    }
    return gate_pb2.GateDecision(**{**members, **other})


async def test_decisions_that_a_gate_made_by_itself_are_recorded_once(house: GateHouse) -> None:
    async with house.house.running() as gateway:
        await house.furnish(gateway)
        told = [reported(), reported(outcome=ALLOW, passed=True, reasons=[], time=datetime.now(UTC) - HOUR)]

        def report(client: Client) -> list[str]:
            return list(client.report_gate_decisions(GATE, told, request_id="once"))

        names = await house.ask(gateway, "verifier", report)
        assert await house.ask(gateway, "verifier", report) == names
        listed = await house.ask(gateway, "admin", lambda client: list(client.list_gate_decisions(GATE)))
        assert [one.name for one in listed] == names
        assert {one.offline for one in listed} == {True}
        assert codes(listed[0]) == ["SIGNATURES_TOO_FEW"]
        found = await house.ask(gateway, "admin", lambda client: client.get_gate_decision(names[0]))
        assert found.time == told[0].time
        assert found.caller.endswith("/roles/verifier/verifier")


@pytest.mark.parametrize(
    ("other", "field"),
    [
        ({"time": None}, "time"),
        ({"time": datetime.now(UTC) + timedelta(days=1)}, "time"),
        ({"time": datetime.now(UTC) - timedelta(days=500)}, "time"),
        ({"subject": attestation_pb2.Subject(name="x")}, "subject.digest"),
        ({"subject": attestation_pb2.Subject(digest={"sha256": "AB" * 32})}, "subject.digest[sha256]"),
        ({"subject": attestation_pb2.Subject(digest={"md5": "00" * 16})}, "subject.digest"),
        ({"subject": attestation_pb2.Subject(name="\x1b", digest={"sha256": "ab" * 32})}, "subject.name"),
        ({"environment": "x" * 64}, "environment"),
        ({"outcome": ALLOW}, "outcome"),
        ({"passed": True}, "outcome"),
        ({"outcome": 7}, ""),
        ({"mode": 0}, ""),
        ({"policy_version": f"{PARENT}/gates/other/versions/1"}, "policy_version"),
        ({"exception": f"{PARENT}/gates/other/exceptions/e1"}, "exception"),
        ({"reasons": [gate_pb2.GateReason(code="not one")]}, "reasons[0].code"),
        ({"reasons": [gate_pb2.GateReason(code="A_B")] * 1001}, ""),
        ({"attestations": ["sha256:0"]}, "attestations[0]"),
        ({"levels": ["x"] * 21}, "levels"),
    ],
)
async def test_a_report_that_contradicts_itself_or_is_of_another_gate_is_refused_by_its_place(
    house: GateHouse, other: dict[str, Any], field: str
) -> None:
    async with house.house.running() as gateway:
        await house.furnish(gateway)
        with pytest.raises(ClientError) as caught:
            await house.ask(gateway, "verifier", lambda client: client.report_gate_decisions(GATE, [reported(**other)]))
        place = f"decisions[0].{field}" if field else "decisions[0]"
        assert [one.field for one in caught.value.violations] == [place]


async def test_a_simulation_tells_what_a_draft_would_decide_otherwise(house: GateHouse) -> None:
    apps = [artifact(str(number)) for number in range(3)]
    async with house.house.running() as gateway:
        await house.furnish(gateway)
        bundles = [await house.signed(gateway, one) for one in apps]
        for _ in range(2):
            await house.evaluate(gateway, apps[0], bundles=bundles[:1])
        await house.evaluate(gateway, apps[1])
        await house.ask(gateway, "verifier", lambda client: client.report_gate_decisions(GATE, [reported()]))

        async def simulated(text: str, **more: Any) -> gate_pb2.SimulateGateResponse:
            found: list[gate_pb2.SimulateGateResponse] = await house.ask(
                gateway, "admin", lambda client: list(client.simulate_gate(GATE, text, **more))
            )
            return found[-1]

        same = await simulated(POLICY)
        assert (same.done, same.total, same.skipped, list(same.changes)) == (4, 4, 1, [])
        strict = await simulated(POLICY.replace("{key: " + KEY, "{key: " + VERDICTS))
        [change] = strict.changes
        assert (change.before.outcome, change.after.outcome, change.count) == (ALLOW, DENY, 2)
        assert change.before.subject == apps[0]
        lax = await simulated(POLICY + "mode: audit\n")
        [change] = lax.changes
        assert (change.before.outcome, change.after.outcome, change.after.passed) == (DENY, ALLOW, False)
        assert (await simulated(POLICY, decisions=1)).total == 1
        assert (await simulated(POLICY, period=timedelta(microseconds=1))).total == 0
        with pytest.raises(ClientError):
            await simulated("gate: v2")
