"""Gates of a whole gateway: asked, changed under dual control, and what is left of their decisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sealkeeper.verify import Policy, verify
from sealkeeper.verify.predicates import read_predicate
from sealkeeper.verify.statement import parse_statement
from tests.e2e.running import PARENT
from tests.server.gate_house import ALLOW, DENY, GATE, POLICY, VERDICTS, GateHouse, artifact, codes
from tests.server.house import audit_records


@pytest.fixture
async def house(tmp_path: Path) -> GateHouse:
    return await GateHouse.make(tmp_path / "gateway")


async def test_what_is_signed_may_run_and_what_is_not_may_not(house: GateHouse) -> None:
    app = artifact("app")
    async with house.house.running() as gateway:
        await house.furnish(gateway)
        refused = (await house.evaluate(gateway, app)).decision
        assert (refused.outcome, refused.passed, codes(refused)) == (DENY, False, ["SIGNATURES_TOO_FEW"])
        bundle = await house.signed(gateway, app)
        found = (await house.evaluate(gateway, app, bundles=[bundle])).decision
        assert (found.outcome, found.passed, codes(found)) == (ALLOW, True, [])
        assert found.policy_version == f"{GATE}/versions/1"
        other = (await house.evaluate(gateway, artifact("other"), bundles=[bundle])).decision
        assert other.outcome == DENY


async def test_a_verdict_is_signed_as_a_summary_that_verifies_and_says_what_was_decided(house: GateHouse) -> None:
    app = artifact("app")
    async with house.house.running() as gateway:
        await house.furnish(gateway)
        bundle = await house.signed(gateway, app)
        answers = [await house.evaluate(gateway, app), await house.evaluate(gateway, app, bundles=[bundle])]
        trust = await house.house.trust(gateway)
    said = []
    for one in answers:
        result = verify(one.summary.bundle, None, trust, Policy(key=VERDICTS)).require()
        statement = parse_statement(result.payload)
        assert statement.subjects[0].digests == dict(app.digest)
        summary: Any = read_predicate(statement.predicate_type, statement.predicate)
        assert summary.verifier_id == f"https://sealkeeper.example/{GATE}"
        said.append(summary.verification_result)
    assert said == ["FAILED", "PASSED"]


async def test_a_decision_is_recorded_before_it_is_answered_and_found_again(house: GateHouse) -> None:
    app = artifact("app")
    async with house.house.running() as gateway:
        await house.furnish(gateway)
        bundle = await house.signed(gateway, app)
        made = [
            (await house.evaluate(gateway, app)).decision,
            (await house.evaluate(gateway, app, bundles=[bundle], environment="staging")).decision,
        ]
        for one in made:
            assert await house.ask(gateway, "admin", lambda client, one=one: client.get_gate_decision(one.name)) == one
        listed = await house.ask(gateway, "admin", lambda client: list(client.list_gate_decisions(GATE)))
        assert [one.name for one in listed] == [one.name for one in made[::-1]]
        assert not any(one.rules for one in listed)
        for wanted, which in (
            ({"outcome": "DENY"}, made[:1]),
            ({"environment": "staging"}, made[1:]),
            ({"subject_digest": f"sha256:{app.digest['sha256']}"}, made[::-1]),
            ({"subject_digest": f"sha256:{'0' * 64}"}, []),
            ({"before": made[1].time.ToDatetime()}, made[:1]),
            ({"after": made[1].time.ToDatetime()}, made[1:]),
        ):
            found = await house.ask(
                gateway, "admin", lambda client, wanted=wanted: list(client.list_gate_decisions(GATE, **wanted))
            )
            assert [one.name for one in found] == [one.name for one in which], wanted
        records = await house.ask(gateway, "admin", audit_records)
        told = [one for one in records if one["method"] == "GateService/Evaluate"]
        assert [one["details"]["decision"] for one in told] == [one.name for one in made]
        assert told[0]["details"]["reasons"] == ["SIGNATURES_TOO_FEW"]
        assert told[1]["details"]["evidence"] == list(made[1].attestations)
    async with house.house.running() as gateway:
        again = await house.ask(gateway, "admin", lambda client: client.get_gate_decision(made[0].name))
        assert again == made[0]


async def test_a_policy_is_in_force_when_another_person_has_approved_of_it_and_not_before(house: GateHouse) -> None:
    app = artifact("app")
    async with house.house.running() as gateway:
        await house.furnish(gateway)
        lax = POLICY.replace("signers: [release]}", "signers: [release]}\nmode: audit")
        proposal = await house.put(gateway, lax)
        found = (await house.evaluate(gateway, app)).decision
        assert (found.outcome, found.passed, codes(found)) == (ALLOW, False, ["SIGNATURES_TOO_FEW"])
        versions = await house.ask(gateway, "admin", lambda client: list(client.list_gate_versions(GATE)))
        assert [(one.number, one.text) for one in versions] == [(2, ""), (1, "")]
        assert versions[0].proposal == proposal
        text = (await house.ask(gateway, "admin", lambda client: client.get_gate_version(GATE))).text
        assert text == lax
        first = await house.ask(gateway, "admin", lambda client: client.get_gate_version(f"{GATE}/versions/1"))
        assert first.text == POLICY
        gates = await house.ask(gateway, "verifier", lambda client: list(client.list_gates(PARENT)))
        assert [one.name for one in gates] == [f"{GATE}/versions/2"]
    async with house.house.running() as gateway:
        found = (await house.evaluate(gateway, app)).decision
        assert (found.outcome, found.policy_version) == (ALLOW, f"{GATE}/versions/2")


async def test_kept_attestations_count_without_being_sent(house: GateHouse) -> None:
    app = artifact("app")
    rules = "attestations: [{type: 'https://example.com/review/v1', signers: [release], fields: {result: ok}}]"
    async with house.house.running() as gateway:
        await house.furnish(gateway, POLICY.replace("signatures: {signers: [release]}", rules))
        assert codes((await house.evaluate(gateway, app)).decision) == ["ATTESTATION_MISSING"]
        await house.attest(gateway, app, {"result": "bad"})
        assert codes((await house.evaluate(gateway, app)).decision) == ["ATTESTATION_FIELD"]
        await house.attest(gateway, app, {"result": "ok"})
        assert (await house.evaluate(gateway, app)).decision.outcome == ALLOW
