"""QuotaService in this process: what is authorized, what is proposed, what is done at once."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sealkeeper.server import calls
from sealkeeper.server.authorization import Action, Decision, crosses_tenants
from sealkeeper.server.calls import Call
from sealkeeper.server.errors import (
    ApprovalRequiredError,
    ConflictError,
    FailedPreconditionError,
    InvalidRequestError,
    PermissionDeniedError,
)
from sealkeeper.server.identity import Principal
from sealkeeper.server.limits import LimitsUpdate, Rate
from sealkeeper.server.quota_service import QuotaService, limits_of
from sealkeeper.server.quotas import Quotas, open_quotas
from sealkeeper.server.resources import ResourceName, TenantName
from sealkeeper.server.store.database import open_database
from sealkeeper.server.store.quota_table import QuotaTable
from sealkeeper.v1 import quota_pb2
from tests.server.test_quotas import CEILINGS, Recording, caller
from tests.server.test_token_bucket import Clock

PARENT = "tenants/acme"


class Rules:
    """An ``Authorizer``: allows these actions within the tenant, and remembers what it was asked."""

    def __init__(self, *allowed: Action) -> None:
        self.allowed = allowed
        self.asked: list[tuple[Action, str]] = []
        self.reached = asyncio.Event()

    def decide(
        self, principal: Principal, action: Action, resource: ResourceName, address: str, now: datetime
    ) -> Decision:
        self.asked.append((action, str(resource)))
        self.reached.set()
        allowed = action in self.allowed and not crosses_tenants(principal, resource)
        return Decision(allowed, "rules", "1", approvals=1 if action is Action.RAISE_QUOTA else 0)


class Proposals:
    """A ``Proposer``: asks for an approval, unless none is needed."""

    def __init__(self) -> None:
        self.needed = True
        self.proposed: list[tuple[Action, str, str, str]] = []

    async def require(
        self, call: Call, action: Action, resource: ResourceName, parameters: Mapping[str, Any], reason: str
    ) -> None:
        assert resource == TenantName("acme")
        text = json.dumps(parameters, sort_keys=True)
        self.proposed.append((action, str(resource), text, reason))
        if self.needed:
            raise ApprovalRequiredError("others must approve first", metadata={"proposal": f"{resource}/proposals/p1"})


class House:
    """The service, and what it speaks to."""

    def __init__(self, quotas: Quotas) -> None:
        self.quotas = quotas
        self.rules = Rules(Action.GET_QUOTA, Action.UPDATE_QUOTA, Action.RAISE_QUOTA)
        self.proposals = Proposals()
        self.audit = Recording()
        self.details: dict[str, Any] = {}
        self.service = QuotaService(quotas, self.proposals, lambda: self.audit, lambda tenant: 2)

    def _call(self) -> None:
        """What the interceptor does."""
        call = Call("QuotaService/Test", self.rules, self.quotas, lambda: datetime.now(UTC), caller("ci"))
        self.details = call.details
        calls._current.set(call)

    async def get(self, parent: str = PARENT) -> quota_pb2.Quota:
        self._call()
        return (await self.service.GetQuota(quota_pb2.GetQuotaRequest(parent=parent), None)).quota

    async def update(self, parent: str = PARENT, reason: str = "", **limits: Any) -> quota_pb2.Quota:
        request = quota_pb2.UpdateQuotaRequest(parent=parent, limits=quota_pb2.Limits(**limits), reason=reason)
        self._call()
        return (await self.service.UpdateQuota(request, None)).quota


def rate(per_second: float, burst: int) -> quota_pb2.Rate:
    return quota_pb2.Rate(per_second=per_second, burst=burst)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    database = await open_database(f"sqlite:///{tmp_path / 'metadata.db'}")
    yield House(await open_quotas(CEILINGS, ["acme", "beta"], QuotaTable(database), Clock()))
    await database.close()


async def test_the_quota_tells_limits_ceilings_and_what_is_used(house: House) -> None:
    house.quotas.admit_call(caller("a"))
    house.quotas.admit_signatures(caller("a"), 30)
    found = await house.get()
    assert found.name == "tenants/acme/quota"
    assert found.limits == found.ceilings
    assert found.limits.tenant_calls == rate(10, 20)
    assert (found.limits.keys, found.keys_used) == (3, 2)
    assert (found.calls_available, found.signatures_available, found.refused) == (19, 170, 0)
    assert house.rules.asked == [(Action.GET_QUOTA, PARENT)]


async def test_lowering_is_done_at_once_and_recorded(house: House) -> None:
    changed = await house.update(tenant_calls=rate(5, 20), keys=0, reason="less is enough")
    assert (changed.limits.tenant_calls, changed.limits.keys) == (rate(5, 20), 0)
    assert changed.limits.principal_calls == rate(5, 10)
    assert house.rules.asked == [(Action.UPDATE_QUOTA, PARENT)]
    assert house.proposals.proposed == []
    assert len(house.audit.details) == 1
    assert house.details["reason"] == "less is enough"


async def test_raising_is_proposed_and_not_done(house: House) -> None:
    await house.update(tenant_calls=rate(5, 20))
    with pytest.raises(ApprovalRequiredError) as caught:
        await house.update(tenant_calls=rate(7.5, 20), keys=1, reason="a release")
    assert caught.value.metadata["proposal"]
    assert house.quotas.limits("acme").tenant_calls == Rate(5, 20)
    assert house.quotas.limits("acme").keys == 3
    [(action, resource, content, reason)] = house.proposals.proposed
    assert (action, resource, reason) == (Action.RAISE_QUOTA, PARENT, "a release")
    assert json.loads(content, parse_float=pytest.fail) == {
        "limits": {"keys": 1, "tenant_calls": {"per_second": "7.5", "burst": 20}},
        "before": {"keys": 3, "tenant_calls": {"per_second": "5", "burst": 20}},
    }
    assert limits_of(json.loads(content)) == LimitsUpdate(tenant_calls=Rate(7.5, 20), keys=1)


async def test_what_was_approved_is_done_later_by_its_content(house: House) -> None:
    await house.update(tenant_calls=rate(5, 20), tenant_signatures=rate(1, 1))
    with pytest.raises(ApprovalRequiredError):
        await house.update(tenant_calls=rate(8, 20))
    content = json.loads(house.proposals.proposed[0][2])
    changed = await house.quotas.change("acme", limits_of(content), house.audit)
    assert (changed.tenant_calls, changed.tenant_signatures) == (Rate(8, 20), Rate(1, 1))


async def test_raising_is_done_at_once_where_no_approval_is_needed(house: House) -> None:
    await house.update(keys=1)
    house.proposals.needed = False
    assert (await house.update(keys=2)).limits.keys == 2


async def test_who_may_lower_may_not_raise_by_that(house: House) -> None:
    house.rules.allowed = (Action.UPDATE_QUOTA,)
    await house.update(keys=1)
    with pytest.raises(PermissionDeniedError):
        await house.update(keys=2)
    assert house.proposals.proposed == []


async def test_beyond_the_ceiling_nothing_is_proposed(house: House) -> None:
    with pytest.raises(FailedPreconditionError) as caught:
        await house.update(tenant_calls=rate(10.5, 20))
    assert caught.value.reason == "QUOTA_CEILING"
    assert caught.value.metadata == {"field": "limits.tenant_calls.per_second", "ceiling": "10"}
    assert house.proposals.proposed == []


async def test_what_would_have_lowered_does_not_raise_what_was_lowered_meanwhile(house: House) -> None:
    """Two at the same time, both below what holds: the one that comes second must not undo the first unapproved."""
    first = Recording()
    first.go.clear()
    lowering = asyncio.create_task(house.quotas.change("acme", LimitsUpdate(keys=0), first))
    await first.reached.wait()
    asking = asyncio.create_task(house.update(keys=2))
    # It has been authorized as a lowering by now, and waits for its turn.
    await house.rules.reached.wait()
    first.go.set()
    with pytest.raises(ConflictError):
        await asking
    assert (await lowering).keys == house.quotas.limits("acme").keys == 0
    assert house.rules.asked == [(Action.UPDATE_QUOTA, PARENT)]


@pytest.mark.parametrize("parent", ["tenants/beta", "tenants/none"])
@pytest.mark.parametrize("keys", [0, 3, 100])
async def test_of_another_tenant_a_refusal_tells_neither_whether_it_is_there_nor_its_limits(
    house: House, parent: str, keys: int
) -> None:
    await house.quotas.change("beta", LimitsUpdate(keys=1), Recording())
    for work in (house.update(parent, keys=keys), house.get(parent)):
        with pytest.raises(PermissionDeniedError) as caught:
            await work
        text = str(caught.value).replace(parent, "")
        assert text.removeprefix("ci of tenant acme may not ") in ("UpdateQuota on ", "GetQuota on ")
    assert {action for action, _ in house.rules.asked} == {Action.UPDATE_QUOTA, Action.GET_QUOTA}


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        ({}, "limits"),
        ({"keys": -1}, "limits.keys"),
        ({"keys": 1_000_001}, "limits.keys"),
        ({"tenant_calls": rate(0, 1)}, "limits.tenant_calls.per_second"),
        # So slow that nobody could ask for more again.
        ({"principal_calls": rate(0.5, 1)}, "limits.principal_calls.per_second"),
        ({"tenant_signatures": rate(0, 1)}, "limits.tenant_signatures.per_second"),
        ({"tenant_signatures": rate(-1, 1)}, "limits.tenant_signatures.per_second"),
        ({"tenant_signatures": rate(math.nan, 1)}, "limits.tenant_signatures.per_second"),
        ({"tenant_signatures": rate(math.inf, 1)}, "limits.tenant_signatures.per_second"),
        ({"tenant_signatures": rate(1_000_001, 1)}, "limits.tenant_signatures.per_second"),
        ({"principal_signatures": rate(1, 0)}, "limits.principal_signatures.burst"),
        ({"principal_signatures": rate(1, 10_000_001)}, "limits.principal_signatures.burst"),
        ({"principal_signatures": quota_pb2.Rate()}, "limits.principal_signatures.per_second"),
        ({"keys": 1, "reason": "x" * 1025}, "reason"),
        ({"keys": 1, "parent": "tenants/Acme"}, "parent"),
    ],
)
async def test_a_bad_field_is_named(house: House, limits: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await house.update(**limits)
    assert [one.field for one in caught.value.violations] == [field]
    assert house.audit.details == []
