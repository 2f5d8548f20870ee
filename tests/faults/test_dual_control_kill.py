"""The gateway is killed again and again, while proposals are made and approved, and its database fails in between.

What enough people have approved of is done, once, and nothing else is; memory, database and audit log say the same.
"""

from __future__ import annotations

import json
import random
import signal
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path
from threading import Condition
from typing import Any

import pytest

from sealkeeper.client import Client
from sealkeeper.client.approval_operations import get_proposal, kept_proposal, list_proposals, watch_proposals
from sealkeeper.client.errors import ClientError, ProposedError, RefusedError
from sealkeeper.client.grant_operations import break_glass, create_grant, list_grants
from sealkeeper.client.policy_operations import get_policy, list_policy_versions, update_policy
from sealkeeper.client.quota_operations import get_quota, update_quota
from sealkeeper.server.errors import UnavailableError
from sealkeeper.server.gateway import Gateway
from sealkeeper.server.identity import Role
from sealkeeper.server.policy_engine import default_policy
from sealkeeper.server.resources import parse_proposal_name
from sealkeeper.server.store.database import Database
from sealkeeper.v1 import approval_pb2, resources_pb2
from sealkeeper.verify.known_people import KnownPeople
from sealkeeper.verify.note import NoteVerifier
from sealkeeper.verify.proposal_evidence import verify_proposal
from tests.e2e.running import NO_RETRY, P256, PARENT, Running
from tests.server.house import House, audit_records
from tests.server.people import APPROVED, EXECUTED, PENDING, add_person, decide, proposed

ROUNDS = 8
LATER = 2
"""Proposals that the gateway is to have been killed with, between the last approval and the doing."""
REQUIRED = 2
KINDS = (
    *("CreateGrant", "BreakGlass", "CompromiseKeyVersion", "UpdatePolicy", "RaiseQuota"),
    *("UpdateGate", "CreateGateException"),
)
OF_ADMINS = ("UpdatePolicy", "RaiseQuota", "UpdateGate")
GRANTS = ("CreateGrant", "BreakGlass")
KEYS = 50
"""That the tenant may have when all begins; each RaiseQuota asks for one more."""
PATIENCE = 100.0
POLICY = default_policy().replace('@approvals("1")', f'@approvals("{REQUIRED}")')


@dataclass
class Asked:
    """A proposal, and who has still to approve of it."""

    name: str
    left: list[str]


@dataclass
class Told:
    """What callers were told.

    Attributes:
        states: by proposal, the newest state that a caller was told.
        open: by kind, proposals whose approvals a kill has come between.
        begun: calls since the gateway was started.
    """

    states: dict[str, int] = field(default_factory=dict)
    open: dict[str, Asked] = field(default_factory=dict)
    begun: int = 0
    changed: Condition = field(default_factory=Condition)

    def begin(self) -> None:
        with self.changed:
            self.begun += 1
            self.changed.notify_all()


class Work:
    """One caller of each kind, who proposes it and has it approved until the gateway is gone."""

    def __init__(self, gateway: Running, approvers: Sequence[str]) -> None:
        self.told = Told()
        self._gateway = gateway
        self._approvers = approvers
        self._numbers = count(1)

    def until_killed(self, calls: int, *, between: bool) -> None:
        """Work, and kill the gateway when so many calls have begun: it is at work then.

        Args:
            calls: how many.
            between: wait after that until something has enough approvals and is not done.
        """
        self.told.begun = 0
        with ThreadPoolExecutor(len(KINDS)) as threads:
            working = [threads.submit(self._work, kind, None) for kind in KINDS]
            with self.told.changed:
                assert self.told.changed.wait_for(
                    lambda: self.told.begun >= calls or any(one.done() for one in working), PATIENCE
                )
            if between:
                until_approved(self._gateway, lambda: any(one.done() for one in working))
            assert self._gateway.stop(signal.SIGKILL) == -signal.SIGKILL
        for one in working:
            one.result()

    def once(self) -> None:
        """One of each kind, to its end."""
        for kind in KINDS:
            self._work(kind, 1)

    def _work(self, kind: str, times: int | None) -> None:
        role = "admin" if kind in OF_ADMINS else "custodian"
        try:
            with self._client(role) as client:
                for done in count():
                    if kind in self.told.open:
                        self._approve(self.told.open[kind])
                        del self.told.open[kind]
                    if done == times:
                        return
                    number = next(self._numbers)
                    asked = Asked(self._propose(client, kind, number), list(self._approvers))
                    self.told.states[asked.name] = PENDING
                    if times is None and number % 4 == 0:
                        # One approval too few, for ever.
                        asked.left.pop()
                    self.told.open[kind] = asked
        except ClientError as error:
            # Killed: neither refused nor anything that the gateway has said.
            if isinstance(error, RefusedError) or times is not None:
                raise

    def _propose(self, client: Client, kind: str, number: int) -> str:
        self.told.begin()
        if kind == "CompromiseKeyVersion":
            client.create_key(PARENT, f"key-{number}", P256)
        with pytest.raises(ProposedError) as caught:
            _CALLS[kind](client, number)
        return proposed(caught.value)

    def _approve(self, asked: Asked) -> None:
        while asked.left:
            who = asked.left[0]
            self.told.begin()
            key = self._gateway.directory / "clients" / who / "key.pem"
            try:
                with self._client(who) as client:
                    self.told.states[asked.name] = decide(client, asked.name, key).state
            except RefusedError as error:
                # The approval before the kill was taken, and its answer was not.
                if error.reason not in ("APPROVAL_EXISTS", "PROPOSAL_CLOSED"):
                    raise
            del asked.left[0]

    def _client(self, who: str) -> Client:
        return Client(self._gateway.connection(who), retry=NO_RETRY, timeout=PATIENCE)


def grant(client: Client, number: int) -> object:
    lifetime = timedelta(hours=1)
    key, subject = f"{PARENT}/keys/release", f"spiffe://sealkeeper.example/tenants/acme/roles/ci/{number}"
    return client.call(create_grant(PARENT, subject, key, lifetime=lifetime, reason=f"number {number}"))


def emergency(client: Client, number: int) -> object:
    return client.call(
        break_glass(PARENT, ["ListKeys"], lifetime=timedelta(hours=1), reason=f"emergency number {number}")
    )


def compromise(client: Client, number: int) -> object:
    return client.set_key_version_state(f"{PARENT}/keys/key-{number}/versions/1", "COMPROMISED")


def policy(client: Client, number: int) -> object:
    base = client.call(get_policy(PARENT)).version.number
    return client.call(update_policy(PARENT, f"{POLICY}\n// {number}\n", base, ""))


def raise_quota(client: Client, number: int) -> object:
    return client.call(update_quota(PARENT, keys=KEYS + number))


GATE = f"{PARENT}/gates/production"
GATE_POLICY = (
    f"gate: v1\nsigners: {{one: {{key: {PARENT}/keys/release}}}}\nrequire: {{signatures: {{signers: [one]}}}}\n"
)


def gate_policy(client: Client, number: int) -> object:
    base = max((one.number for one in client.list_gates(PARENT)), default=0)
    return client.update_gate(GATE, f"{GATE_POLICY}# {number}\n", base)


def exempt(client: Client, number: int) -> object:
    lifetime = timedelta(hours=1)
    return client.create_gate_exception(GATE, pattern=f"app:{number}", lifetime=lifetime, reason="a fix")


def gate_changes(client: Client) -> list[str]:
    """Names of the proposals that gates and their exceptions say brought them."""
    if not list(client.list_gates(PARENT)):
        return []
    found = [one.proposal for one in client.list_gate_exceptions(GATE)]
    return found + [one.proposal for one in client.list_gate_versions(GATE)]


_CALLS: Mapping[str, Callable[[Client, int], object]] = {
    "CreateGrant": grant,
    "BreakGlass": emergency,
    "CompromiseKeyVersion": compromise,
    "UpdatePolicy": policy,
    "RaiseQuota": raise_quota,
    "UpdateGate": gate_policy,
    "CreateGateException": exempt,
}


def proposals(client: Client) -> dict[str, approval_pb2.Proposal]:
    return {one.name: one for one in client.call(list_proposals(PARENT, "", 1000)).proposals}


def until_approved(gateway: Running, ended: Callable[[], bool]) -> None:
    """Look into the database until something has enough approvals and is not done: that takes a few milliseconds."""
    with closing(sqlite3.connect(database(gateway))) as connection:
        while not connection.execute("select 1 from proposals where state = 'APPROVED'").fetchone():
            assert not ended()


def database(gateway: Running) -> Path:
    [path] = (gateway.directory / "state").rglob("*.db")
    return path


def until_done(client: Client) -> int:
    """Wait until the gateway has done what had enough approvals when it was killed; how much that was."""
    found_so = 0
    for name, found in proposals(client).items():
        if found.state == APPROVED:
            # Closed meanwhile or not: it is told.
            last = next(one for one in client.stream(watch_proposals(name)) if one.state != APPROVED)
            assert last.state == EXECUTED, last.outcome
            found_so += 1
    return found_so


def standing(one: approval_pb2.Proposal) -> int:
    return sum(not said.HasField("withdraw_time") for said in one.approvals)


def number_of(one: approval_pb2.Proposal, client: Client) -> int:
    content = json.loads(client.call(get_proposal(one.name)).proposal.content)
    return int(content["parameters"]["limits"]["keys"])


@pytest.mark.timeout(600)
def test_what_enough_people_have_approved_of_is_done_once_whenever_the_gateway_is_killed(tmp_path: Path) -> None:
    gateway, chance = Running.make(tmp_path / "gateway", policy=POLICY), random.Random(20261125)
    approvers = [add_person(gateway.directory, Role.ADMIN, name) for name in ("first", "second")]
    work = Work(gateway, approvers)
    gateway.start()
    gateway.create_key("release")
    with gateway.client("admin") as admin:
        admin.call(update_quota(PARENT, keys=KEYS))
    with gateway.client("admin") as admin, pytest.raises(ProposedError) as caught:
        gate_policy(admin, 0)
    for who in approvers:
        with gateway.client(who) as approver:
            decide(approver, proposed(caught.value), gateway.directory / "clients" / who / "key.pem")
    done_later = rounds = 0
    # It may have been done when the signal arrived; so until it was not, often enough.
    while rounds < ROUNDS or done_later < LATER:
        work.until_killed(chance.randint(10, 40), between=rounds % 2 == 1)
        rounds += 1
        gateway.start()
        with gateway.client("admin", timeout=PATIENCE) as admin:
            done_later += until_done(admin)
            require_as_told(proposals(admin), work.told.states)
    work.once()
    with gateway.client("admin", timeout=PATIENCE) as admin:
        known = proposals(admin)
        require_as_told(known, work.told.states)
        require_done_once(admin, known)
        require_recorded(known, audit_records(admin))
        require_proven(gateway, admin, known)
    assert gateway.stop() == 0
    assert {one.action for one in known.values() if one.state == EXECUTED} == set(KINDS)
    assert any(one.state == PENDING and standing(one) == 1 for one in known.values())
    require_durable(gateway, known)


def require_as_told(known: Mapping[str, approval_pb2.Proposal], told: Mapping[str, int]) -> None:
    """What a caller was told is so, and what has enough approvals is done, and nothing else."""
    assert known.keys() >= told.keys()
    for name, state in told.items():
        if state in (APPROVED, EXECUTED):
            assert known[name].state == EXECUTED, name
    for name, one in known.items():
        assert one.state == (EXECUTED if standing(one) >= REQUIRED else PENDING), name


def require_done_once(client: Client, known: Mapping[str, approval_pb2.Proposal]) -> None:
    done = {name for name, one in known.items() if one.state == EXECUTED}
    grants = [one.proposal for one in client.call(list_grants(PARENT, "", 1000)).grants]
    assert sorted(grants) == sorted(name for name in done if known[name].action in GRANTS)
    versions = client.call(list_policy_versions(PARENT, "", 1000)).versions
    brought = [one.proposal for one in versions if one.proposal]
    assert sorted(brought) == sorted(name for name in done if known[name].action == "UpdatePolicy")
    assert sorted(one.number for one in versions) == list(range(1, len(versions) + 1))
    of_gates = {name for name in done if known[name].action in ("UpdateGate", "CreateGateException")}
    assert sorted(gate_changes(client)) == sorted(of_gates)
    compromised = resources_pb2.KEY_VERSION_STATE_COMPROMISED
    for name, one in known.items():
        if one.action == "CompromiseKeyVersion":
            assert (client.get_key_version(one.resource).state == compromised) == (name in done)
    raised = [one for one in known.values() if one.action == "RaiseQuota" and one.state == EXECUTED]
    newest = max(raised, key=lambda one: one.close_time.ToDatetime())
    assert client.call(get_quota(PARENT)).limits.keys == number_of(newest, client)


def require_recorded(known: Mapping[str, approval_pb2.Proposal], records: Sequence[Mapping[str, Any]]) -> None:
    """The log has every signed statement before the record of the doing, and no doing of anything else."""
    said: dict[str, set[str]] = {}
    done = set()
    for one in records:
        name = one["details"].get("proposal", "")
        if one["method"] == "ApprovalService/DecideProposal" and one["outcome"] == "OK":
            assert name not in done
            said.setdefault(name, set()).add(one["details"]["statement"])
        if one["method"] == "Gateway/ExecuteProposal":
            assert len(said[name]) >= REQUIRED
            assert len(one["details"]["approvals"]) == REQUIRED
            done.add(name)
    assert done == {name for name, one in known.items() if one.state == EXECUTED}


def require_proven(gateway: Running, client: Client, known: Mapping[str, approval_pb2.Proposal]) -> None:
    """An auditor who has no gateway sees it too."""
    people = KnownPeople.read([(gateway.directory / "tls" / "ca.pem").read_bytes()], [])
    log = NoteVerifier.from_vkey((gateway.directory / "audit.vkey").read_text())
    for name, one in known.items():
        kept = kept_proposal(client.call(get_proposal(name, with_evidence=True)))
        result = verify_proposal(kept, people=people, log=log)
        assert result.verified == (one.state == EXECUTED), result.steps[-1]


def require_durable(gateway: Running, known: Mapping[str, approval_pb2.Proposal]) -> None:
    """The database has what callers were shown."""
    with closing(sqlite3.connect(database(gateway))) as connection:
        rows = {row[0]: row[1:] for row in connection.execute("select id, state, outcome from proposals")}
        said = dict(connection.execute("select proposal, count(*) from approvals group by proposal"))
    assert rows == {
        name.rpartition("/")[2]: (approval_pb2.ProposalState.Name(one.state)[15:], one.outcome)
        for name, one in known.items()
    }
    assert said == {name.rpartition("/")[2]: len(one.approvals) for name, one in known.items() if one.approvals}


@pytest.fixture
async def house(tmp_path: Path) -> House:
    return await House.make(tmp_path / "gateway", default_policy())


@pytest.mark.parametrize("kind", KINDS)
async def test_a_database_that_fails_between_the_last_approval_and_the_doing_loses_nothing_and_does_nothing_twice(
    house: House, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    role = "admin" if kind in OF_ADMINS else "custodian"
    second = add_person(house.directory, Role.ADMIN, "second")
    key = house.directory / "clients" / second / "key.pem"
    async with house.running() as gateway:
        await house.create_key(gateway)
        await house.ask(gateway, "custodian", lambda client: client.create_key(PARENT, "key-1", P256))
        await house.ask(gateway, "admin", lambda client: client.call(update_quota(PARENT, keys=KEYS)))
        before = []
        if kind == "CreateGateException":
            before = [proposed(await refused(house, gateway, "admin", lambda client: gate_policy(client, 0)))]
            await house.ask(gateway, second, partial(decide, proposal=before[0], key=key))
        name = proposed(await refused(house, gateway, role, lambda client: _CALLS[kind](client, 1)))
        run, proposals_known = Database.run, gateway._regular["access"].__self__.proposals  # type: ignore[attr-defined]

        async def failing(self: Database, work: Callable[[Any], Any]) -> Any:
            # The last approval is taken, and nothing after it.
            if proposals_known.get(parse_proposal_name(name, "name")).approvals:
                raise UnavailableError("the database does not answer", reason="DATABASE_UNAVAILABLE")
            return await run(self, work)

        with monkeypatch.context() as patch:
            patch.setattr(Database, "run", failing)
            assert (await house.ask(gateway, second, partial(decide, proposal=name, key=key))).state == APPROVED
            # Tried again while the database is still away.
            await gateway._regular["access"]()
            assert (await house.ask(gateway, "admin", lambda client: proposals(client)))[name].state == APPROVED
        assert await house.ask(gateway, "admin", done_of) == before
        for _ in range(2):
            await gateway._regular["access"]()
        known = await house.ask(gateway, "admin", proposals)
        assert known[name].state == EXECUTED
        assert sorted(await house.ask(gateway, "admin", done_of)) == sorted([name, *before])
        records = await house.ask(gateway, "admin", audit_records)
        # A record comes before what it tells of, and so each time that it was tried.
        _, said, *doing = [one["method"] for one in records if one["details"].get("proposal") == name]
        assert said == "ApprovalService/DecideProposal"
        assert set(doing) == {"Gateway/ExecuteProposal"}
    async with house.running() as gateway:
        assert await house.ask(gateway, "admin", proposals) == known
        assert sorted(await house.ask(gateway, "admin", done_of)) == sorted([name, *before])


async def refused(house: House, gateway: Gateway, who: str, question: Callable[[Client], Any]) -> ClientError:
    with pytest.raises(ClientError) as caught:
        await house.ask(gateway, who, question)
    return caught.value


def done_of(client: Client) -> list[str]:
    """Names of the proposals that have done something, as what was done says."""
    found = [one.proposal for one in client.call(list_grants(PARENT, "", 1000)).grants]
    found += [one.proposal for one in client.call(list_policy_versions(PARENT, "", 1000)).versions if one.proposal]
    found += gate_changes(client)
    known = proposals(client).values()
    compromised = resources_pb2.KEY_VERSION_STATE_COMPROMISED
    for one in known:
        if one.action == "CompromiseKeyVersion" and client.get_key_version(one.resource).state == compromised:
            found.append(one.name)
        if one.action == "RaiseQuota" and client.call(get_quota(PARENT)).limits.keys > KEYS:
            found.append(one.name)
    return found


async def test_an_approval_that_the_database_did_not_take_does_not_count_and_can_be_given_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = house.directory / "clients" / "admin" / "key.pem"
    async with house.running() as gateway:
        await house.create_key(gateway)
        await house.ask(gateway, "custodian", lambda client: client.create_key(PARENT, "key-1", P256))
        name = proposed(await refused(house, gateway, "custodian", lambda client: compromise(client, 1)))

        async def failing(self: Database, work: Callable[[Any], Any]) -> Any:
            raise UnavailableError("the database does not answer", reason="DATABASE_UNAVAILABLE")

        with monkeypatch.context() as patch:
            patch.setattr(Database, "run", failing)
            error = await refused(house, gateway, "admin", partial(decide, proposal=name, key=key))
            assert error.reason == "DATABASE_UNAVAILABLE"
        [pending] = (await house.ask(gateway, "admin", proposals)).values()
        assert (pending.state, len(pending.approvals)) == (PENDING, 0)
        assert await house.ask(gateway, "admin", done_of) == []
        assert (await house.ask(gateway, "admin", partial(decide, proposal=name, key=key))).state == EXECUTED
        found = await house.ask(gateway, "admin", lambda client: client.call(get_proposal(name, with_evidence=True)))
        people = KnownPeople.read([(house.directory / "tls" / "ca.pem").read_bytes()], [])
        log = NoteVerifier.from_vkey((house.directory / "audit.vkey").read_text())
        assert verify_proposal(kept_proposal(found), people=people, log=log).verified
