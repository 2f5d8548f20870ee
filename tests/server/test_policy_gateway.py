"""Policies of a whole gateway: read, tried, replayed and proposed by its clients."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealkeeper.client.cli.policy_cases import read_cases
from sealkeeper.client.errors import ProposedError, RefusedError
from sealkeeper.client.identity_operations import who_am_i
from sealkeeper.client.policy_operations import (
    explain_decision,
    get_policy,
    list_policy_versions,
    run_policy_cases,
    simulate_policy,
    update_policy,
)
from sealkeeper.server.policy_engine import default_policy
from sealkeeper.v1 import policy_pb2
from tests.e2e.running import PARENT
from tests.server.house import KEY, House, audit_records
from tests.server.policy_house import FORBID_ALL

CASES = Path(__file__).with_name("default_policy_cases.toml")


async def test_a_policy_is_read_tried_replayed_and_proposed(tmp_path: Path) -> None:
    house = await House.make(tmp_path / "gateway", default_policy())
    async with house.running() as gateway:
        await house.create_key(gateway)
        await house.sign(gateway)
        found = await house.ask(gateway, "custodian", lambda client: client.call(get_policy(PARENT)))
        assert found.version.text == default_policy()
        page = await house.ask(gateway, "admin", lambda client: client.call(list_policy_versions(PARENT, "", 10)))
        assert [one.number for one in page.versions] == [1]

        me = await house.ask(gateway, "ci", lambda client: client.call(who_am_i(KEY)))
        assert me.principal.role == "ci"
        assert [one.allowed for one in me.permissions if one.action in ("RotateKey", "Sign")] == [False, True]

        cases = read_cases(CASES.read_text("utf-8"), PARENT)
        tested = await house.ask(gateway, "admin", lambda client: client.call(run_policy_cases(PARENT, cases)))
        assert all(one.passed for one in tested.results)

        asked = policy_pb2.AccessRequest(
            principal=policy_pb2.AccessPrincipal(subject=me.principal.subject, role="ci"), action="Sign", resource=KEY
        )
        why = await house.ask(gateway, "admin", lambda client: client.call(explain_decision(PARENT, asked)))
        assert list(why.decision.policies) == ["ci-with-a-certificate-may-sign"]

        draft = FORBID_ALL.replace("action,", 'action == Sealkeeper::Action::"Sign",') + default_policy()
        told = await house.ask(
            gateway, "admin", lambda client: list(client.stream(simulate_policy(PARENT, draft, 1000)))
        )
        (change,) = told[-1].changes
        assert (change.action, change.count, change.subject) == ("Sign", 1, me.principal.subject)
        assert (change.resource, change.before.allowed, change.after.allowed) == (KEY, True, False)
        with pytest.raises(RefusedError):
            await house.ask(
                gateway, "custodian", lambda client: list(client.stream(simulate_policy(PARENT, draft, 1000)))
            )

        with pytest.raises(ProposedError) as raised:
            await house.ask(gateway, "admin", lambda client: client.call(update_policy(PARENT, draft, 1, "a test")))
        assert raised.value.proposal.startswith(f"{PARENT}/proposals/")
        records = await house.ask(gateway, "admin", audit_records)
        last = [one for one in records if one["method"] == "PolicyService/UpdatePolicy"][-1]
        assert (last["action"], last["outcome"]) == ("UpdatePolicy", "APPROVAL_REQUIRED")
        await house.sign(gateway)
