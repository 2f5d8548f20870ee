"""Evaluating gates: evidence is listed, a verdict is looked up or made in a thread, and a decision is made of it.

A verdict is remembered for as long as nothing has changed that it rests on: the policy, the trust root with the state
of every key, the bundles that there are about every artifact that was looked at. The policy's mode and the gate's
exceptions are looked at each time. A key that is compromised makes another trust root, so nothing that was remembered
by the one before counts.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, TypeAlias, cast

from sealkeeper.registry import ImageReference
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.gate import GateInForce
from sealkeeper.server.gate_decisions import KeptArtifact
from sealkeeper.server.gate_evidence import (
    EvidenceSources,
    Listed,
    Reader,
    Search,
    fingerprint,
    given_bundles,
    verifiers_of,
)
from sealkeeper.server.gate_exceptions import GateExceptions
from sealkeeper.server.gate_registries import Registries
from sealkeeper.server.policy_trials import Places
from sealkeeper.server.resources import GateName
from sealkeeper.server.trust import Trust
from sealkeeper.verify.errors import EvidenceError, RegoTimeoutError
from sealkeeper.verify.gate.decision import Artifact, Decision, Outcome, Reason, RuleResult, Verdict
from sealkeeper.verify.gate.evaluate import Context, Examiner, decide, verdict_on
from sealkeeper.verify.gate.evidence import Examined, FoundBundle, examine
from sealkeeper.verify.gate.policy import GatePolicy, Mode
from sealkeeper.verify.gate.summary import own_environment
from sealkeeper.verify.rego import RegoModule, RegoResult, RegoRunner
from sealkeeper.verify.trust import TrustRoot

MAX_UNDER_WAY = 64
"""Evaluations under way at a time."""
MAX_SECONDS = 20.0
"""That one looks at evidence for; then it is refused."""
MAX_REMEMBERED = 10_000
"""Verdicts of all gates together."""
_MAX_REMEMBERED_RULES = 200
_THREADS = 4
_THREADS_OF_ONE = 2
_Key: TypeAlias = tuple[GateName, int, str, str, tuple[tuple[str, ...], ...]]


@dataclass(frozen=True, slots=True)
class Question:
    """What a gate is asked.

    Attributes:
        gate: which.
        artifact: with its children.
        environment: where it is to run; empty for nowhere in particular.
        bundles: that the caller has.
        image: whose registry is to be asked; ``None`` for none.
        remember: the verdict is remembered, since what it rests on is kept.
    """

    gate: GateName
    artifact: Artifact
    environment: str
    bundles: Sequence[bytes] = field(default=(), repr=False)
    image: ImageReference | None = None
    remember: bool = True


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The answer, and what it rests on.

    Attributes:
        decision: itself.
        cached: its verdict was made before.
        looked: all artifacts that were looked at, with the verified bundles about them.
        evidence: those of these that are kept nowhere, by digest.
        trust: that it rests on.
    """

    decision: Decision
    cached: bool
    looked: tuple[KeptArtifact, ...]
    evidence: Mapping[str, bytes] = field(repr=False)
    trust: TrustRoot = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Made:
    """A verdict, and what must stay as it is for it to count.

    Attributes:
        verdict: itself.
        time: when it was made.
        trust: the trust root, as ``Trust.root`` gave it: another one is another version.
        listed: the artifacts that were looked at, with the fingerprints of what there was.
        looked: these, with the verified bundles.
    """

    verdict: Verdict
    time: datetime
    trust: TrustRoot
    listed: tuple[tuple[Artifact, bytes], ...]
    looked: tuple[KeptArtifact, ...]


class GateEvaluation:
    """Evaluates. Used on the event loop.

    Args:
        sources: of evidence.
        registries: to ask.
        exceptions: of the gates.
        trust: makes trust roots.
        clock: the time.
        remember: for how long a verdict is good.
        tenants: how many there are; of several, one leaves places to the others.
    """

    def __init__(
        self,
        sources: EvidenceSources,
        registries: Registries,
        exceptions: GateExceptions,
        trust: Trust,
        clock: SteadyClock,
        remember: timedelta,
        tenants: int = 1,
    ) -> None:
        self._sources = sources
        self._registries = registries
        self._exceptions = exceptions
        self._trust = trust
        self._clock = clock
        self._remember = remember
        self._places = Places(MAX_UNDER_WAY, "evaluations of gates")
        self._most = MAX_UNDER_WAY if tenants == 1 else MAX_UNDER_WAY // 2
        # Threads of its own: what evidence takes is taken from no signature. Nor does a tenant with a slow policy take
        # those of another, or its interpreters.
        self._threads = ThreadPoolExecutor(_THREADS, "sealkeeper-gates")
        own = _THREADS if tenants == 1 else _THREADS_OF_ONE
        self._turns: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(own))
        self._rego = RegoRunner(workers=_THREADS)
        self._known: OrderedDict[_Key, _Made] = OrderedDict()

    async def evaluate(self, question: Question, gate: GateInForce) -> Evaluated:
        """Decide by the policy in force. What is wrong with the evidence is a reason in the answer.

        Raises:
            OverloadedError: too many are under way.
            ClockWentBackError: it cannot be told what is in force.
            SealkeeperError: the database does not answer.
        """
        with self._places.one(question.gate.tenant, most=self._most):
            now = self._clock.now()
            trust = await self._trust.root(question.gate.tenant)
            if gate.policy is None:
                return Evaluated(_unusable(question, gate, now), False, (), {}, trust)
            search = await self._search(question, gate.policy)
            made = await self._remembered(question, gate, search, trust, now)
            cached, evidence = made is not None, cast(Mapping[str, bytes], {})
            if made is None:
                made, evidence = await self._made(question, gate, gate.policy, search, trust, now)
            context = Context(
                # The gateway's own trust root says what is the case now, whenever it was made.
                replace(trust, issued_at=now),
                _nothing,
                now,
                question.environment,
                str(gate.version.name),
                self._exceptions.in_force(question.gate, now),
            )
            decision = decide(gate.policy, made.verdict, question.artifact, context)
            return Evaluated(decision, cached, made.looked, evidence, trust)

    async def again(self, gate: GateName, policy: GatePolicy, artifact: Artifact, context: Context) -> Decision:
        """Decide in a thread, by whatever policy, evidence and time; nothing is remembered."""

        def work() -> Decision:
            bounded = _Bounded(time.monotonic() + MAX_SECONDS, self._rego, context.examine)
            limited = replace(context, examine=bounded.examine, rego=bounded)
            return decide(policy, verdict_on(policy, artifact, limited), artifact, limited)

        found: Decision = await self._in_thread(gate, work)
        return found

    async def _search(self, question: Question, policy: GatePolicy) -> Search:
        artifact, given = question.artifact, dict[str, Sequence[FoundBundle]]()
        if question.bundles:
            given.update(await self._in_thread(question.gate, lambda: given_bundles(question.bundles, artifact)))
        attached: Mapping[str, Sequence[FoundBundle] | EvidenceError] = {}
        if question.image is not None:
            artifacts = (artifact, *artifact.children)
            attached = await self._registries.attached(question.gate.tenant, question.image, artifacts)
        return Search(
            question.gate,
            own_environment(policy, question.environment),
            verifiers_of(policy, question.environment),
            artifact,
            given,
            attached,
        )

    async def _remembered(
        self, question: Question, gate: GateInForce, search: Search, trust: TrustRoot, now: datetime
    ) -> _Made | None:
        """The verdict of before, where it still counts."""
        key = _key(question, gate)
        made = self._known.get(key)
        if made is None:
            return None
        if made.trust is trust and timedelta(0) <= now - made.time < self._remember:
            try:
                if all([fingerprint(await self._sources.listed(search, one)) == was for one, was in made.listed]):
                    return made
            except EvidenceError:
                # Looked at again, it becomes the reason.
                pass
        self._known.pop(key, None)
        return None

    async def _made(
        self,
        question: Question,
        gate: GateInForce,
        policy: GatePolicy,
        search: Search,
        trust: TrustRoot,
        now: datetime,
    ) -> tuple[_Made, Mapping[str, bytes]]:
        loop = asyncio.get_running_loop()
        reader = Reader(self._sources, search, loop, loop.time() + MAX_SECONDS)
        bounded = _Bounded(time.monotonic() + MAX_SECONDS, self._rego)

        def work() -> Verdict:
            context = Context(
                replace(trust, issued_at=now),
                reader,
                now,
                question.environment,
                str(gate.version.name),
                rego=bounded,
                examine=bounded.examine,
            )
            return verdict_on(policy, question.artifact, context)

        verdict = await self._in_thread(question.gate, work)
        listed = tuple((artifact, fingerprint(found)) for artifact, found in reader.listed.values())
        looked = tuple(_looked(artifact, found, bounded.verified) for artifact, found in reader.listed.values())
        kept = {one.digest for _, found in reader.listed.values() for one in found if one.kept}
        evidence = {digest: data for digest, data in bounded.verified.items() if digest not in kept}
        made = _Made(verdict, now, trust, listed, looked)
        certain = question.remember and not reader.failed and not bounded.exhausted
        if certain and len(verdict.results) <= _MAX_REMEMBERED_RULES:
            self._keep(_key(question, gate), made)
        return made, evidence

    async def _in_thread(self, gate: GateName, work: Callable[[], Any]) -> Any:
        async with self._turns[gate.tenant]:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _keep(self, key: _Key, made: _Made) -> None:
        while len(self._known) >= MAX_REMEMBERED:
            self._known.popitem(last=False)
        self._known[key] = made

    async def close(self) -> None:
        """Finish what is under way."""
        await self._registries.close()
        await asyncio.to_thread(self._threads.shutdown)
        await asyncio.to_thread(self._rego.close)


class _Bounded:
    """Looks at evidence and asks Rego modules until a time, and remembers which bundles verified; used in one thread.

    Args:
        until: monotonic.
        rego: asks modules.
        inner: looks at evidence.
    """

    def __init__(self, until: float, rego: RegoRunner, inner: Examiner = examine) -> None:
        self._until = until
        self._rego = rego
        self._inner = inner
        self.verified: dict[str, bytes] = {}
        self.exhausted = False

    def examine(
        self, found: Iterable[FoundBundle], artifact: Artifact, policy: GatePolicy, trust: TrustRoot, now: datetime
    ) -> Examined:
        """As ``evidence.examine``.

        Raises:
            EvidenceError: likewise, or it has taken too long already.
        """
        bundles = list(found)
        if time.monotonic() > self._until:
            self.exhausted = True
            raise EvidenceError("ATTESTATIONS_TOO_MANY", f"looking at them takes longer than {MAX_SECONDS:g} seconds")
        examined = self._inner(bundles, artifact, policy, trust, now)
        good = {one.digest for one in examined.evidence}
        self.verified.update({one.digest: one.data for one in bundles if one.digest in good})
        return examined

    def evaluate(self, module: RegoModule, input_document: Any) -> RegoResult:
        """As ``RegoRunner.evaluate``.

        Raises:
            VerifyError: likewise, or it has taken too long already.
        """
        if time.monotonic() > self._until:
            self.exhausted = True
            raise RegoTimeoutError(f"the evaluation takes longer than {MAX_SECONDS:g} seconds")
        return self._rego.evaluate(module, input_document)


def _key(question: Question, gate: GateInForce) -> _Key:
    artifacts = (question.artifact, *question.artifact.children)
    named = tuple((one.name, *(f"{name}:{value}" for name, value in sorted(one.digests.items()))) for one in artifacts)
    image = question.image.name if question.image is not None else ""
    return question.gate, gate.version.number, question.environment, image, named


def _looked(artifact: Artifact, found: Sequence[Listed], verified: Mapping[str, bytes]) -> KeptArtifact:
    return KeptArtifact(
        artifact.name[:1024],
        artifact.digests,
        tuple((one.digest, one.origin[:512]) for one in found if one.digest in verified),
    )


def _nothing(artifact: Artifact) -> Iterable[FoundBundle]:
    return ()


def _unusable(question: Question, gate: GateInForce, now: datetime) -> Decision:
    reason = Reason(
        "POLICY_UNUSABLE",
        f"{gate.version.name} is not a policy that this version of the gateway takes",
        "put another policy in its place: sealkeeper gate policy set",
    )
    verdict = Verdict((RuleResult("policy", False, reason.message, (reason,)),))
    return Decision(
        Outcome.DENY,
        verdict,
        Mode.ENFORCE,
        question.artifact,
        question.environment,
        now,
        gate.version.digest,
        str(gate.version.name),
    )
