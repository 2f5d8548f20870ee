"""Decides with the gateway; from kept answers while the registry is slow; from snapshots while the gateway is away.

The way of a question: the image's digest and its images (kept, since a digest never changes its meaning; a tag's for a
moment only), the bundles that are attached to it, the gateway's decision. What takes longer than there is time for is
given up, and a kept answer stands in that is not too old; it says that it is one. While the gateway does not answer,
its snapshot decides, if the gate's policy lets it; those decisions are told to the gateway when it is back.

Kept answers of a gate are forgotten as soon as its policy, its exceptions or the trust root are seen to have changed,
which is looked for every few seconds.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sealkeeper.client.admission.decider import AnswerSource, GateReason, ImageAnswer, ImageQuestion
from sealkeeper.client.errors import ClientError, UnavailableError
from sealkeeper.client.gate_asking import AskHere, bounded
from sealkeeper.client.gate_evidence import RegistryEvidence, Target, image_target
from sealkeeper.client.gate_messages import subject_message
from sealkeeper.client.gate_operations import MAX_REPORTED, evaluate_gate, get_gate_snapshot, report_gate_decisions
from sealkeeper.client.gate_snapshots import HeldSnapshot, SnapshotFolder, held_snapshot
from sealkeeper.registry import Deadline, ImageReference, Registry, RegistryError
from sealkeeper.v1 import gate_pb2
from sealkeeper.verify.errors import EvidenceError, VerifyError
from sealkeeper.verify.strict_json import Value
from sealkeeper.verify.trust import MAX_DOCUMENT, MAX_VALUES

if TYPE_CHECKING:
    from sealkeeper.client.client import AsyncClient
    from sealkeeper.verify import TrustRoot
    from sealkeeper.verify.gate.evaluate import RegoEvaluator
    from sealkeeper.verify.gate.evidence import FoundBundle

_log = logging.getLogger("sealkeeper.admission")
_MAX_KEPT = 10_000
_MAX_TARGETS = 10_000
_MAX_UNREPORTED = 10_000
_THREADS = 16
# Of the time that is left, what the registry may take, so that the gateway still has some.
_REGISTRY_SHARE = 0.6
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class DeciderSettings:
    """How it is decided.

    Attributes:
        verdict_keys: by gate, the key that its snapshots must be signed with; gates that are not here are not decided
            on without the gateway.
        snapshots: folder where snapshots are kept over restarts; ``None`` for memory only.
        cache: seconds for which an answer may stand in where there is no newer one.
        fresh: seconds for which an answer is given again without asking.
        tags: seconds for which a tag is taken to mean what it meant.
        refresh: seconds between looks at what has changed.
        trust_roots: of other instances, by the names that policies have for them, for deciding without the gateway.
    """

    verdict_keys: Mapping[str, str] = field(default_factory=dict)
    snapshots: Path | None = None
    cache: float = 300.0
    fresh: float = 10.0
    tags: float = 30.0
    refresh: float = 10.0
    trust_roots: Mapping[str, TrustRoot] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Kept:
    """An answer, and when it was made."""

    answer: ImageAnswer
    made: float


class GatewayDecider:
    """As ``Decider`` has it. Used on one event loop.

    Args:
        client: to the gateway.
        registry: where images are.
        settings: how it is decided.
        rego: asks modules of policies, without the gateway.
        clock: monotonic, seconds.
        now: the time, UTC.
    """

    def __init__(
        self,
        client: AsyncClient,
        registry: Registry,
        settings: DeciderSettings,
        rego: RegoEvaluator | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._client = client
        self._registry = registry
        self._settings = settings
        self._rego = rego
        self._clock = clock
        self._now = now
        self._threads = ThreadPoolExecutor(_THREADS, "sealkeeper-gate")
        self._kept: OrderedDict[tuple[str, str, str], _Kept] = OrderedDict()
        self._targets: OrderedDict[str, Target] = OrderedDict()
        self._tags: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._held: dict[str, HeldSnapshot] = {}
        self._marks: dict[str, bytes] = {}
        self._changes: Counter[str] = Counter()
        self._unreported: dict[str, deque[gate_pb2.GateDecision]] = {}
        self._away = ""
        self._folder = SnapshotFolder(settings.snapshots) if settings.snapshots is not None else None
        self._refreshing: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Take up what was kept, and begin to look for changes. To be called on the event loop."""
        self._refreshing = asyncio.create_task(self._refresh_again_and_again())

    async def _take_up(self) -> None:
        for gate, key in self._settings.verdict_keys.items():
            if self._folder is not None:
                with suppress(OSError, VerifyError):
                    self._held[gate] = await self._in_thread(self._folder.read, gate, key, self._now())

    async def ready(self) -> str:
        """Why it cannot decide now; empty where it can."""
        if not self._away or all(gate in self._held for gate in self._settings.verdict_keys):
            return ""
        return f"the gateway does not answer, and there is no snapshot to decide by: {self._away}"

    async def close(self) -> None:
        """Let go of what it holds."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            with suppress(asyncio.CancelledError):
                await self._refreshing
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._client.close()

    async def decide(self, questions: Sequence[ImageQuestion], deadline: float) -> Sequence[ImageAnswer]:
        """As ``Decider`` has it."""
        return await asyncio.gather(*(self._decide(one, deadline) for one in questions))

    async def _decide(self, question: ImageQuestion, deadline: float) -> ImageAnswer:
        known = self._known(question)
        if known is not None and self._clock() - known.made <= self._settings.fresh and not question.dry_run:
            return replace(known.answer, image=question.image, source=AnswerSource.CACHE)
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock())):
                return await self._anew(question, deadline)
        except (RegistryError, EvidenceError, ClientError) as error:
            reason = GateReason(error.reason, str(error), getattr(error, "next_step", ""))
            if _is_refusal(error):
                # Nobody gets in, where what cannot be decided may, by making it impossible to decide.
                return ImageAnswer(question.image, "", False, False, AnswerSource.REGISTRY, (reason,))
        except TimeoutError:
            reason = GateReason("GATE_TIMEOUT", "registry and gateway did not answer in time", "try again")
        return self._instead(question, reason)

    def _instead(self, question: ImageQuestion, reason: GateReason) -> ImageAnswer:
        """A kept answer that is not too old; else that nobody could decide."""
        known = self._known(question)
        if known is not None and self._clock() - known.made <= self._settings.cache:
            return replace(known.answer, image=question.image, source=AnswerSource.CACHE)
        return ImageAnswer(question.image, "", False, False, AnswerSource.NONE, (reason,))

    def _known(self, question: ImageQuestion) -> _Kept | None:
        digest = self._digest_of(question.image)
        binding = question.binding
        return self._kept.get((binding.gate, binding.environment, digest)) if digest else None

    def _digest_of(self, image: str) -> str:
        """The digest of an image, where that is known without asking."""
        _, at, digest = image.partition("@")
        if at:
            return digest
        found = self._tags.get(image)
        return found[0] if found is not None and self._clock() - found[1] <= self._settings.tags else ""

    async def _anew(self, question: ImageQuestion, deadline: float) -> ImageAnswer:
        gate = question.binding.gate
        changes = self._changes[gate]
        until = self._clock() + _REGISTRY_SHARE * max(0.0, deadline - self._clock())
        target, found = await self._in_thread(self._look, question.image, Deadline(until, self._clock))
        if target.image is not None:
            _put(self._tags, question.image, (target.image.digest, self._clock()), _MAX_TARGETS)
        try:
            decision = await self._ask(question, target, found)
            source = AnswerSource.GATEWAY
        except UnavailableError as error:
            self._away = str(error)
            decision = await self._in_thread(self._ask_here, question, target, found, error)
            source = AnswerSource.OFFLINE
            if not question.dry_run:
                self._unreported.setdefault(gate, deque(maxlen=_MAX_UNREPORTED)).append(decision)
        answer = _answer(question, target, decision, source)
        # What was under way while something changed, a key that is compromised by now, may know nothing of it.
        if changes == self._changes[gate]:
            key = (gate, question.binding.environment, target.artifact.digest)
            _put(self._kept, key, _Kept(answer, self._clock()), _MAX_KEPT)
        return answer

    def _look(self, image: str, deadline: Deadline) -> tuple[Target, list[FoundBundle]]:
        """The image by its digest, and all bundles about it and its images."""
        reference = ImageReference.parse(image)
        # By digest, an image stays what it is.
        target = self._targets.get(reference.digest) if reference.digest else None
        if target is None or target.image is None or target.image.name != reference.name:
            target = image_target(reference, self._registry, deadline)
            _put(self._targets, target.artifact.digest, target, _MAX_TARGETS)
        target = replace(target, artifact=replace(target.artifact, name=str(reference)))
        evidence = RegistryEvidence(self._registry, target, deadline)
        artifact = target.artifact
        return target, [one for each in (artifact, *artifact.children) for one in evidence(each)]

    async def _ask(self, question: ImageQuestion, target: Target, found: Sequence[FoundBundle]) -> Any:
        binding, artifact = question.binding, target.artifact
        answer = await self._client.call(
            evaluate_gate(
                binding.gate,
                subject_message(artifact),
                children=[subject_message(one) for one in artifact.children],
                environment=binding.environment,
                bundles=bounded(found),
                dry_run=question.dry_run,
            )
        )
        self._away = ""
        return answer.decision

    def _ask_here(
        self, question: ImageQuestion, target: Target, found: Sequence[FoundBundle], error: UnavailableError
    ) -> gate_pb2.GateDecision:
        held, now = self._held.get(question.binding.gate), self._now()
        if held is None or now >= held.snapshot.expires:
            raise error
        snapshot = held.snapshot
        asking = AskHere(
            snapshot.policy,
            replace(held.trust, others=self._settings.trust_roots),
            question.binding.environment,
            snapshot.policy_name,
            snapshot.exceptions,
            self._rego,
            offline=True,
            now=self._now,
        )
        return asking.ask(target, lambda _: list(found))

    async def _refresh_again_and_again(self) -> None:
        await self._take_up()
        while True:
            for gate in self._settings.verdict_keys:
                await self._refresh(gate)
            await asyncio.sleep(self._settings.refresh)

    async def _refresh(self, gate: str) -> None:
        try:
            answer = await self._client.call(get_gate_snapshot(gate))
            mark = _mark(answer)
            if self._marks.get(gate) != mark:
                await self._take(gate, answer)
                self._marks[gate] = mark
            self._away = ""
            await self._report(gate)
        except ClientError as error:
            self._away = str(error)
        except (OSError, VerifyError) as error:
            _log.error("the snapshot of %s is not taken: %s", gate, error)

    async def _take(self, gate: str, answer: gate_pb2.GetGateSnapshotResponse) -> None:
        """Forget what was decided before the change, and hold the new snapshot."""
        self._changes[gate] += 1
        for kept in [one for one in self._kept if one[0] == gate]:
            del self._kept[kept]
        key, held = self._settings.verdict_keys[gate], self._held.get(gate)
        self._held[gate] = await self._in_thread(held_snapshot, answer, gate, key, self._now(), held)
        if self._folder is not None:
            await self._in_thread(self._folder.write, gate, answer)

    async def _report(self, gate: str) -> None:
        waiting = self._unreported.get(gate)
        while waiting:
            told = [waiting[place] for place in range(min(len(waiting), MAX_REPORTED))]
            await self._client.call(report_gate_decisions(gate, told))
            for _ in told:
                waiting.popleft()

    async def _in_thread(self, work: Callable[..., _T], *arguments: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)


def _is_refusal(error: Exception) -> bool:
    """Whether it would be so again: a registry that does not answer may, what it has too much of stays."""
    if isinstance(error, RegistryError):
        return not error.transient
    return isinstance(error, EvidenceError) and error.reason != "ATTESTATIONS_UNAVAILABLE"


def _mark(answer: gate_pb2.GetGateSnapshotResponse) -> bytes:
    """Alike where nothing has changed; when the keys were listed changes each time."""
    keys = Value.parse(answer.keys, MAX_DOCUMENT, MAX_VALUES).json
    listed = json.dumps({name: one for name, one in keys.items() if name != "issuedAt"}, sort_keys=True)
    return sha256(answer.bundle + b"\0" + answer.trusted_root + b"\0" + listed.encode()).digest()


def _put(kept: OrderedDict[Any, Any], key: Any, value: Any, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)


def _answer(
    question: ImageQuestion, target: Target, decision: gate_pb2.GateDecision, source: AnswerSource
) -> ImageAnswer:
    return ImageAnswer(
        question.image,
        str(target.image) if target.image is not None else "",
        decision.outcome == gate_pb2.GATE_OUTCOME_ALLOW,
        decision.passed,
        source,
        tuple(GateReason(one.code, one.message, one.next_step) for one in decision.reasons),
        decision.mode == gate_pb2.GATE_MODE_WARN,
        decision.name,
        decision.exception,
    )
