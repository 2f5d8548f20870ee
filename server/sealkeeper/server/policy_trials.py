"""Trying policies: what one answers, which of its policies decide, and whether it answers as cases expect."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from sealkeeper.server.authorization import PROPOSABLE, Action, Decision, crosses_tenants
from sealkeeper.server.errors import OverloadedError
from sealkeeper.server.policies import Policies
from sealkeeper.server.policy_engine import FAULTY, NOTHING, Policy, Question
from sealkeeper.server.under_way import UnderWay

MAX_DRAFTS = 4
"""Drafts that are checked at a time."""
MAX_DRAFTS_OF_TENANT = 2
"""The same, of one tenant."""
_RETRY_AFTER = timedelta(seconds=2)
_OWN_ID = re.compile(r"policy\d+")


@dataclass(frozen=True, slots=True)
class Answer:
    """What would become of a call.

    Attributes:
        allowed: whether.
        policies: ids of those that decided, names of grants among them; none where nothing permits.
        approvals: how many others must approve; where the action cannot wait for them, it is not allowed.
        errors: what went wrong in policies that could not be evaluated.
    """

    allowed: bool
    policies: tuple[str, ...]
    approvals: int = 0
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """A question, and the answer that is expected.

    Attributes:
        name: what it shows.
        question: what is asked.
        allowed: the answer.
        policy: that must be among those that decide; empty where any may.
        approvals: that must be needed; ``None`` where any number may.
    """

    name: str
    question: Question
    allowed: bool
    policy: str = ""
    approvals: int | None = None

    def fits(self, answer: Answer) -> bool:
        """Whether the answer is the expected one."""
        return (
            answer.allowed == self.allowed
            and (not self.policy or self.policy in answer.policies)
            and self.approvals in (None, answer.approvals)
        )


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What became of a case.

    Attributes:
        case: which.
        answer: to its question.
    """

    case: Case
    answer: Answer

    @property
    def passed(self) -> bool:
        """Whether the answer is the expected one."""
        return self.case.fits(self.answer)


def answer_of(decision: Decision, action: Action) -> Answer:
    """What a decision comes to: what asks for approvals that it cannot wait for is refused."""
    decided = () if decision.policy in (NOTHING, FAULTY) else tuple(decision.policy.split(","))
    allowed = decision.allowed and (not decision.approvals or action in PROPOSABLE)
    return Answer(allowed, decided, decision.approvals)


def answer(policy: Policy, question: Question, emergencies: frozenset[str] = frozenset()) -> Answer:
    """Ask a policy.

    Args:
        policy: of the tenant, with grants or without.
        question: what is asked.
        emergencies: names of the grants that are break-glass.
    """
    if crosses_tenants(question.principal, question.resource):
        return Answer(False, ("tenant-isolation",))
    decision = policy.decide(question, "", emergencies)
    if decision.policy != FAULTY:
        return answer_of(decision, question.action)
    told = policy.ask(question).diagnostics.errors
    named = (_OWN_ID.sub(lambda found: policy.names.get(found[0], found[0]), str(one)) for one in told)
    return Answer(False, (), 0, tuple(sorted(named)))


def run_cases(policy: Policy, cases: Sequence[Case]) -> list[CaseResult]:
    """Ask for each case. Takes about a millisecond a case: not for the event loop."""
    return [CaseResult(one, answer(policy, one.question)) for one in cases]


def unused_policies(policy: Policy, results: Sequence[CaseResult]) -> list[str]:
    """Ids of the policies that decided none of the cases, in their order."""
    used = {name for one in results for name in one.answer.policies}
    return [name for name in policy.texts if name not in used]


class Places:
    """A few places for work that takes long, so that it leaves the machine to the others.

    Args:
        count: how many.
        work: what it is, for the refusal.
    """

    def __init__(self, count: int, work: str) -> None:
        self._left = count
        self._work = work
        self._taken: Counter[str] = Counter()

    @contextmanager
    def one(self, tenant: str, *, most: int = 1) -> Iterator[None]:
        """Take a place for as long as the block lasts.

        Args:
            tenant: that takes it.
            most: that it takes at a time.

        Raises:
            OverloadedError: there is none, or the tenant has as many as it may.
        """
        if not self._left or self._taken[tenant] >= most:
            raise OverloadedError(
                f"too many {self._work} are under way",
                next_step="try again when they are done",
                retry_after=_RETRY_AFTER,
            )
        self._left -= 1
        self._taken[tenant] += 1
        try:
            yield
        finally:
            self._left += 1
            self._taken[tenant] -= 1


class Drafts:
    """Checks drafts of policies, a few at a time.

    Args:
        policies: of the tenants.
    """

    def __init__(self, policies: Policies) -> None:
        self._policies = policies
        self._places = Places(MAX_DRAFTS, "drafts of policies")
        self._checks = UnderWay()

    async def compiled(self, tenant: str, text: str, field: str = "text") -> Policy:
        """Check a draft, not on the event loop. A caller that hangs up does not make room before it is checked.

        Raises:
            InvalidRequestError: it is not valid; the reason is POLICY_INVALID.
            OverloadedError: too many are being checked.
        """
        return await self._checks.to_the_end(self._compiled(tenant, text, field))

    async def chosen(self, tenant: str, text: str, field: str = "text") -> tuple[Policy, int]:
        """A draft with the number 0, or where there is none the tenant's policy in force and its version.

        Raises:
            InvalidRequestError, OverloadedError: as ``compiled``.
        """
        if text:
            return await self.compiled(tenant, text, field), 0
        current = self._policies.in_force(tenant)
        return current.policy, current.version.number

    async def tested(self, tenant: str, policy: Policy, cases: Sequence[Case]) -> list[CaseResult]:
        """Run cases, not on the event loop.

        Raises:
            OverloadedError: too much is under way.
        """

        async def run() -> list[CaseResult]:
            with self._places.one(tenant, most=MAX_DRAFTS_OF_TENANT):
                return await asyncio.to_thread(run_cases, policy, cases)

        return await self._checks.to_the_end(run())

    async def _compiled(self, tenant: str, text: str, field: str) -> Policy:
        with self._places.one(tenant, most=MAX_DRAFTS_OF_TENANT):
            return await self._policies.compiled(text, field)
