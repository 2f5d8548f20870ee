"""Simulating a gate's policy: earlier decisions are made again by a draft, with the evidence and the time of then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime

from sealkeeper.server.gate_decisions import GateDecisions, KeptArtifact, KeptDecision, kept, subject_digest
from sealkeeper.server.gate_evaluation import GateEvaluation
from sealkeeper.server.gate_evidence import UNAVAILABLE, EvidenceSources
from sealkeeper.server.gate_exceptions import GateExceptions
from sealkeeper.server.policy_trials import Places
from sealkeeper.server.resources import GateName
from sealkeeper.server.store.gate_tables import DecisionFilter
from sealkeeper.server.trust import Trust
from sealkeeper.verify.errors import EvidenceError
from sealkeeper.verify.gate.decision import Artifact
from sealkeeper.verify.gate.evaluate import Context
from sealkeeper.verify.gate.evidence import FoundBundle
from sealkeeper.verify.gate.policy import GatePolicy

MAX_SIMULATIONS = 4
"""Simulations at a time; one a tenant."""
MAX_CHANGES = 1000
"""Artifacts whose changes are told; those beyond are counted with the last one."""
_CHUNK = 50
_MAX_KNOWN = 1000


@dataclass(slots=True)
class Change:
    """What would come out otherwise of an artifact in an environment: the newest such decision, and how many such."""

    before: KeptDecision
    after: KeptDecision
    count: int = 1


@dataclass(slots=True)
class Progress:
    """How far a simulation is.

    Attributes:
        done: decisions that have been looked at.
        total: that will be, at most.
        skipped: of ``done``, those whose evidence is not there any more.
        changes: by what changed.
        ended: this is all.
    """

    done: int
    total: int
    skipped: int = 0
    changes: dict[object, Change] = field(default_factory=dict)
    ended: bool = False


class GateSimulations:
    """Simulates. Used on the event loop.

    Args:
        decisions: of before.
        sources: give their evidence again.
        evaluation: decides.
        exceptions: of the gates, those of before too.
        trust: makes trust roots.
    """

    def __init__(
        self,
        decisions: GateDecisions,
        sources: EvidenceSources,
        evaluation: GateEvaluation,
        exceptions: GateExceptions,
        trust: Trust,
    ) -> None:
        self._decisions = decisions
        self._sources = sources
        self._evaluation = evaluation
        self._exceptions = exceptions
        self._trust = trust
        self._places = Places(MAX_SIMULATIONS, "simulations")

    async def run(
        self, gate: GateName, draft: GatePolicy, after: datetime, most: int
    ) -> AsyncGenerator[Progress, None]:
        """Make a gate's newest decisions again, newest first. Yields the same object, each time further on.

        Keys are as they are now: what was signed with one that is compromised by now does not count, whatever the draft
        says.

        Args:
            gate: whose.
            draft: that decides otherwise, or not.
            after: decisions since then.
            most: at most so many.

        Raises:
            OverloadedError: too many simulations are under way, or one of the tenant.
            SealkeeperError: the database does not answer.
        """
        with self._places.one(gate.tenant):
            progress = Progress(0, min(most, await self._decisions.count(gate, after)))
            replay, before, wanted = _Replay(self, gate, draft, progress), "", DecisionFilter(after=after)
            while progress.done < progress.total:
                size = min(_CHUNK, progress.total - progress.done)
                page = await self._decisions.page(gate, wanted, before, size)
                if not page:
                    break
                for one in page:
                    await replay.take(one)
                before = page[-1].id
                yield progress
            progress.total, progress.ended = progress.done, True
            yield progress

    async def decided(self, gate: GateName, draft: GatePolicy, one: KeptDecision) -> KeptDecision | None:
        """A decision by a draft; ``None`` where the evidence is not there any more."""
        trust, loop = await self._trust.root(gate.tenant), asyncio.get_running_loop()
        known = {subject_digest(each.digests): each for each in one.looked}
        missing: list[str] = []

        async def read(looked: KeptArtifact) -> list[FoundBundle]:
            found = [(await self._sources.again(gate.tenant, digest), origin) for digest, origin in looked.found]
            missing.extend(origin for data, origin in found if data is None)
            return [FoundBundle(data, origin) for data, origin in found if data is not None]

        def gather(artifact: Artifact) -> Iterable[FoundBundle]:
            looked = known.get(subject_digest(artifact.digests)) if artifact.digests else None
            if looked is None:
                missing.append("")
                raise EvidenceError(UNAVAILABLE, "nobody looked at it then")
            return asyncio.run_coroutine_threadsafe(read(looked), loop).result()

        context = Context(
            replace(trust, issued_at=one.time),
            gather,
            one.time,
            one.environment,
            exceptions=self._exceptions.known(gate),
        )
        decision = await self._evaluation.again(gate, draft, one.artifact, context)
        return None if missing else kept(decision, gate, 0, caller=one.caller, cached=False, looked=())


@dataclass(slots=True)
class _Replay:
    simulations: GateSimulations
    gate: GateName
    draft: GatePolicy
    progress: Progress
    known: dict[object, KeptDecision | None] = field(default_factory=dict)

    async def take(self, one: KeptDecision) -> None:
        self.progress.done += 1
        after = await self._after(one)
        if after is None:
            self.progress.skipped += 1
            return
        if (one.outcome, one.passed) == (after.outcome, after.passed):
            return
        what = (
            subject_digest(one.subject.digests),
            one.environment,
            one.outcome,
            one.passed,
            after.outcome,
            after.passed,
        )
        change = self.progress.changes.get(what)
        if change is None and len(self.progress.changes) >= MAX_CHANGES:
            change = next(reversed(self.progress.changes.values()))
        if change is not None:
            change.count += 1
        else:
            self.progress.changes[what] = Change(one, after)

    async def _after(self, one: KeptDecision) -> KeptDecision | None:
        if not one.repeatable:
            return None
        # What differs within an hour is the age of what was signed, and exceptions that began or ended.
        hour = int(one.time.timestamp()) // 3600
        found = tuple(digest for looked in one.looked for digest, _ in looked.found)
        what = subject_digest(one.subject.digests), one.subject.name, one.environment, one.exception, hour, found
        if what not in self.known:
            if len(self.known) >= _MAX_KNOWN:
                self.known.clear()
            self.known[what] = await self.simulations.decided(self.gate, self.draft, one)
        return self.known[what]
