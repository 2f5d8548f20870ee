"""Simulating a policy: what was asked of late is decided again, by the policy in force and by a draft."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_address
from typing import TypeAlias

import msgspec

from sealkeeper.server.audit import tenant_of
from sealkeeper.server.authorization import Action
from sealkeeper.server.errors import InvalidRequestError
from sealkeeper.server.identity import ATTRIBUTES, Method, Principal, Role
from sealkeeper.server.log import LogReader
from sealkeeper.server.policies import Policies
from sealkeeper.server.policy_authorizer import PolicyAuthorizer
from sealkeeper.server.policy_engine import Facts, Link, Policy, Question, concerning, with_grants
from sealkeeper.server.policy_trials import Answer, Places, answer
from sealkeeper.server.resources import ResourceName, parse_resource

MAX_SIMULATIONS = 4
"""Simulations at a time; one a tenant."""
MAX_LOOKED_AT = 1_000_000
"""Records of the audit log that a simulation looks at, those of other tenants among them."""
MAX_CHANGES = 1000
"""Changes that are told apart; those beyond are counted by action, without subject and resource."""
_MAX_KNOWN = 10_000
_CHUNK = 256
_Asked: TypeAlias = tuple[Principal, Action, ResourceName]
_Pair: TypeAlias = tuple[Answer, Answer]


class _Caller(msgspec.Struct, frozen=True):
    method: str = ""
    person: str = ""
    issuer: str = ""
    attributes: Mapping[str, str] = {}
    hardware: bool = False
    acr: str = ""
    amr: Sequence[str] = ()


class _Record(msgspec.Struct, frozen=True):
    """What a decision depends on of an audit record, as ``audit.py`` writes them."""

    tenant: str
    subject: str
    role: str
    time: datetime
    resource: str = ""
    action: str = ""
    address: str = ""
    caller: _Caller = _Caller()


_decoder = msgspec.json.Decoder(_Record)


@dataclass(frozen=True, slots=True)
class Change:
    """What is decided otherwise.

    Attributes:
        subject: who asked; empty for those beyond the first ``MAX_CHANGES``.
        action: for what.
        resource: about what; empty as the subject is.
        before: by the policy in force.
        after: by the draft.
    """

    subject: str
    action: str
    resource: str
    before: Answer
    after: Answer


@dataclass(slots=True)
class Progress:
    """How far a simulation is.

    Attributes:
        done: records of the tenant that have been looked at.
        total: that will be, at most; at the end as many as ``done``.
        skipped: of ``done``, those that tell no action, or nothing that can be decided again.
        changes: how often each was, and when last.
        ended: this is all.
    """

    done: int
    total: int
    skipped: int = 0
    changes: dict[Change, tuple[int, datetime]] = field(default_factory=dict)
    ended: bool = False


class Simulations:
    """Replays audit records.

    Args:
        audit: the audit log.
        policies: in force.
        authorizer: knows the grants in force, and what is known of resources.
        clock: the time.
    """

    def __init__(
        self, audit: LogReader, policies: Policies, authorizer: PolicyAuthorizer, clock: Callable[[], datetime]
    ) -> None:
        self._audit = audit
        self._policies = policies
        self._authorizer = authorizer
        self._clock = clock
        self._places = Places(MAX_SIMULATIONS, "simulations")

    async def run(self, tenant: str, draft: Policy, records: int) -> AsyncGenerator[Progress, None]:
        """Replay a tenant's newest records, newest first. Yields the same object, each time further on.

        Args:
            tenant: whose.
            draft: that decides otherwise, or not.
            records: how many.

        Raises:
            OverloadedError: too many simulations are under way, or one of the tenant.
            LogError: the log cannot be read.
        """
        with self._places.one(tenant):
            end = self._audit.tree_size
            least = max(0, end - MAX_LOOKED_AT)
            progress = Progress(0, min(records, end - least))
            replay = self._replay(tenant, draft, progress)
            while end > least and progress.done < records:
                start = max(least, (end - 1) // _CHUNK * _CHUNK)
                bodies = [one async for _, part in self._audit.entries(start, end - start) for one in part]
                before, end = progress.done, start
                await asyncio.to_thread(replay.take, bodies, records)
                progress.total = min(records, progress.done + end - least)
                if progress.done > before:
                    yield progress
            progress.total, progress.ended = progress.done, True
            yield progress

    def _replay(self, tenant: str, draft: Policy, progress: Progress) -> _Replay:
        links, emergencies = self._authorizer.grants(tenant, self._clock())
        current = self._policies.in_force(tenant).policy
        return _Replay(tenant, current, draft, links, emergencies, self._authorizer.facts, progress)


@dataclass(slots=True)
class _Replay:
    """One simulation; used by one thread at a time."""

    tenant: str
    current: Policy
    draft: Policy
    links: Mapping[str, Sequence[Link]]
    emergencies: frozenset[str]
    facts: Callable[[ResourceName], Facts]
    progress: Progress
    known: dict[_Asked, _Pair] = field(default_factory=dict)
    current_granted: dict[tuple[str, ...], Policy] = field(default_factory=dict)
    draft_granted: dict[tuple[str, ...], Policy] = field(default_factory=dict)

    def take(self, bodies: Sequence[bytes], records: int) -> None:
        """Decide what the tenant's among the records asked for, newest first, until there are enough."""
        for body in reversed(bodies):
            if self.progress.done >= records:
                return
            if tenant_of(body) == self.tenant:
                self.progress.done += 1
                self._take(body)

    def _take(self, body: bytes) -> None:
        question = question_of(body, self.facts)
        if question is None:
            self.progress.skipped += 1
            return
        before, after = self._answers(question)
        if (before.allowed, before.approvals) == (after.allowed, after.approvals):
            return
        changes = self.progress.changes
        change = Change(question.principal.subject, question.action, str(question.resource), before, after)
        if change not in changes and len(changes) >= MAX_CHANGES:
            change = Change("", question.action, "", _alike(before), _alike(after))
        count, last = changes.get(change, (0, question.now))
        changes[change] = count + 1, max(last, question.now)

    def _answers(self, question: Question) -> _Pair:
        if self.current.uses_context or self.draft.uses_context:
            return self._ask(question)
        asked = question.principal, question.action, question.resource
        found = self.known.get(asked)
        if found is None:
            if len(self.known) >= _MAX_KNOWN:
                self.known.clear()
            found = self.known[asked] = self._ask(question)
        return found

    def _ask(self, question: Question) -> _Pair:
        action = question.action
        links = concerning(self.links.get(question.principal.subject, ()), action, question.resource)
        before = with_grants(self.current, action, links, self.current_granted)
        after = with_grants(self.draft, action, links, self.draft_granted)
        return answer(before, question, self.emergencies), answer(after, question, self.emergencies)


def question_of(body: bytes, facts: Callable[[ResourceName], Facts]) -> Question | None:
    """The question that an audit record tells of; ``None`` where it tells of none.

    Args:
        body: of the record.
        facts: what is known of a resource now.
    """
    try:
        record = _decoder.decode(body)
        if not record.action:
            return None
        resource = parse_resource(record.resource, "resource")
        address = str(ip_address(record.address)) if record.address else ""
        return Question(_principal(record), Action(record.action), resource, address, record.time, facts(resource))
    except (msgspec.DecodeError, InvalidRequestError, ValueError):
        return None


def _principal(record: _Record) -> Principal:
    caller = record.caller
    return Principal(
        record.tenant,
        record.subject,
        Role(record.role),
        method=Method(caller.method or Method.CERTIFICATE),
        person=caller.person,
        issuer=caller.issuer,
        attributes=tuple(sorted((name, value) for name, value in caller.attributes.items() if name in ATTRIBUTES)),
        hardware=caller.hardware,
        acr=caller.acr,
        amr=tuple(sorted(caller.amr)),
    )


def _alike(one: Answer) -> Answer:
    return Answer(one.allowed, (), one.approvals)
