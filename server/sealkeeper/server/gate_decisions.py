"""Decisions of gates: recorded before they are answered, found again, and kept for a time."""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import msgspec
from sqlalchemy import Connection

from sealkeeper.server.bundle_files import BundleFiles
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.errors import NotFoundError
from sealkeeper.server.resources import GateDecisionName, GateExceptionName, GateName, GateVersionName
from sealkeeper.server.store.database import Alongside, writer
from sealkeeper.server.store.gate_tables import DecisionFilter, DecisionRow, GateDecisionTable, SummaryRow
from sealkeeper.verify.gate.decision import Artifact, Decision, RuleResult

MAX_RULES = 1000
"""Of a decision that are kept; of more, those that are fulfilled are left out first."""
MAX_TEXT = 2000
"""Characters of a rule's detail, and of each text of a reason."""
MAX_REASONS = 20
"""Of a rule."""
MAX_LOOKED_AT = 2000
"""Bundles of a decision that are remembered for deciding again."""
_MAX_DOCUMENT = 16 * 1024 * 1024


class KeptReason(msgspec.Struct, frozen=True, array_like=True):
    """Why not."""

    code: str
    message: str
    next_step: str


class KeptRule(msgspec.Struct, frozen=True, array_like=True):
    """What came of a rule."""

    rule: str
    passed: bool
    detail: str
    reasons: tuple[KeptReason, ...]


class KeptArtifact(msgspec.Struct, frozen=True, array_like=True):
    """An artifact, and the verified bundles about it: digest and origin."""

    name: str
    digests: Mapping[str, str]
    found: tuple[tuple[str, str], ...] = ()


class KeptDecision(msgspec.Struct, frozen=True):
    """A decision, as it is recorded and answered.

    Attributes:
        gate: that made it.
        id: ordered by time; empty where it is not recorded.
        outcome: whether it may run.
        passed: the policy is fulfilled.
        mode: of the policy.
        subject: what was asked about.
        children: of an image index, its images.
        environment: where it was to run.
        time: when.
        version: of the policy; 0 where the caller did not say it.
        rules: what came of each.
        exception: id of the one that lets it run; empty where none was needed.
        levels: verified SLSA levels.
        attestations: bundles that counted.
        caller: who asked, by subject.
        cached: from earlier evidence.
        offline: the gate decided by itself.
        summary: digest of the bundle of its SLSA Verification Summary; empty where there is none.
        looked: all artifacts that were looked at, dependencies too, with what was found.
        repeatable: it can be decided again: all that was found is in ``looked``.
    """

    gate: GateName
    id: str
    outcome: str
    passed: bool
    mode: str
    subject: KeptArtifact
    children: tuple[KeptArtifact, ...]
    environment: str
    time: datetime
    version: int
    rules: tuple[KeptRule, ...]
    exception: str = ""
    levels: tuple[str, ...] = ()
    attestations: tuple[str, ...] = ()
    caller: str = ""
    cached: bool = False
    offline: bool = False
    summary: str = ""
    looked: tuple[KeptArtifact, ...] = ()
    repeatable: bool = False

    @property
    def name(self) -> str:
        """Of it; empty where it is not recorded."""
        return str(GateDecisionName(self.gate.tenant, self.gate.gate, self.id)) if self.id else ""

    @property
    def reasons(self) -> tuple[KeptReason, ...]:
        """Why not, of all rules."""
        return tuple(reason for rule in self.rules for reason in rule.reasons)

    @property
    def exception_name(self) -> GateExceptionName | None:
        """Of the exception that lets it run."""
        return GateExceptionName(self.gate.tenant, self.gate.gate, self.exception) if self.exception else None

    @property
    def policy_version(self) -> str:
        """Name of the version that decided; empty where the caller did not say it."""
        return str(GateVersionName(self.gate.tenant, self.gate.gate, self.version)) if self.version else ""

    @property
    def artifact(self) -> Artifact:
        """What was asked about, as decisions take it."""
        children = tuple(Artifact(one.name, one.digests) for one in self.children)
        return Artifact(self.subject.name, self.subject.digests, children)


def kept(
    decision: Decision, gate: GateName, version: int, *, caller: str, cached: bool, looked: Sequence[KeptArtifact]
) -> KeptDecision:
    """A decision as it is kept, within bounds; not recorded yet.

    Args:
        decision: to keep.
        gate: that made it.
        version: of the policy.
        caller: who asked.
        cached: from earlier evidence.
        looked: what was looked at.
    """
    count = sum(len(one.found) for one in looked)
    repeatable = count <= MAX_LOOKED_AT
    artifact = decision.artifact
    return KeptDecision(
        gate,
        "",
        decision.outcome,
        decision.verdict.passed,
        decision.mode,
        KeptArtifact(artifact.name, artifact.digests),
        tuple(KeptArtifact(one.name, one.digests) for one in artifact.children),
        decision.environment,
        decision.time,
        version,
        _rules(decision.verdict.results),
        decision.exception.rpartition("/")[2],
        decision.levels,
        decision.verdict.attestations[:MAX_LOOKED_AT],
        caller,
        cached,
        looked=tuple(looked) if repeatable else (),
        repeatable=repeatable,
    )


def _rules(results: Sequence[RuleResult]) -> tuple[KeptRule, ...]:
    if len(results) > MAX_RULES:
        room = max(MAX_RULES - sum(not one.passed for one in results), 0)
        passed = {id(one) for one in [one for one in results if one.passed][:room]}
        results = [one for one in results if not one.passed or id(one) in passed][:MAX_RULES]
    return tuple(
        KeptRule(
            _clipped(one.rule),
            one.passed,
            _clipped(one.detail),
            tuple(
                KeptReason(reason.code, _clipped(reason.message), _clipped(reason.next_step))
                for reason in one.reasons[:MAX_REASONS]
            ),
        )
        for one in results
    )


def _clipped(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"


def subject_digest(digests: Mapping[str, str]) -> str:
    """By which decisions on an artifact are found: of SHA-256 where there is one, else the strongest."""
    return f"sha256:{digests['sha256']}" if "sha256" in digests else Artifact("", digests).digest


class GateDecisions:
    """All decisions. Used on the event loop.

    Args:
        table: where they are durable.
        files: where the evidence is that they rest on.
        clock: the time.
        keep: for how long.
        most: of all gates together.
    """

    def __init__(
        self, table: GateDecisionTable, files: BundleFiles, clock: SteadyClock, keep: timedelta, most: int
    ) -> None:
        self._table = table
        self._files = files
        self._clock = clock
        self._keep = keep
        self._most = most

    @property
    def oldest(self) -> datetime:
        """Decisions of before are not kept."""
        return self._clock.at_least_latest() - self._keep

    def named(self, one: KeptDecision) -> KeptDecision:
        """The decision with a name, by which it will be recorded."""
        milliseconds = int(one.time.timestamp() * 1000)
        return msgspec.structs.replace(one, id=f"d{milliseconds:012x}{secrets.token_hex(4)}")

    async def record(
        self,
        decisions: Sequence[KeptDecision],
        evidence: Iterable[bytes] = (),
        summary: SummaryRow | None = None,
        also: Alongside[Any] | None = None,
        answer: Any = None,
    ) -> None:
        """Make decisions durable, all of one gate, with what is needed to decide again.

        Args:
            decisions: named.
            evidence: bundles that they rest on and that are nowhere else, the summary among them.
            summary: takes the place of the one before it.
            also: becomes durable with them.
            answer: for ``also``.

        Raises:
            SealkeeperError: the database or the disk did not take it.
        """
        tenant = decisions[0].gate.tenant
        used = [await self._files.keep(tenant, one) for one in evidence]
        used += [one.summary for one in decisions if one.summary]
        write: Callable[[Connection], None] = writer(also, answer)
        await self._table.write([_row(one) for one in decisions], used, summary, write)

    async def get(self, name: GateDecisionName) -> KeptDecision:
        """A decision.

        Raises:
            NotFoundError: there is none, or not any more.
            SealkeeperError: the database does not answer.
        """
        row = await self._table.read(name.parent, name.id)
        if row is None:
            raise NotFoundError(
                f"there is no decision {name}",
                reason="DECISION_NOT_FOUND",
                next_step="list them: sealkeeper gate decisions list",
            )
        return _decoded(row)

    async def page(self, gate: GateName, wanted: DecisionFilter, before: str, limit: int) -> list[KeptDecision]:
        """Up to ``limit`` decisions that fit, newest first, those before the id ``before``, where it is not empty.

        Raises:
            SealkeeperError: the database does not answer.
        """
        return [_decoded(one) for one in await self._table.page(gate, wanted, before, limit)]

    async def count(self, gate: GateName, after: datetime) -> int:
        """How many decisions there are since a time.

        Raises:
            SealkeeperError: the database does not answer.
        """
        return await self._table.count(gate, after)

    async def tidy(self) -> None:
        """Forget decisions that are too old or too many, and the evidence that no other rests on.

        Raises:
            SealkeeperError: the database did not take it; it is tried again the next time.
        """
        oldest = self.oldest
        while await self._table.forget(oldest, self._most):
            pass
        for tenant, digest in await self._table.unused(oldest):
            await self._files.forget(tenant, digest)
            await self._table.forget_evidence(tenant, digest)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(KeptDecision)


def _row(one: KeptDecision) -> DecisionRow:
    document = zlib.compress(_encoder.encode(one), 1)
    return DecisionRow(
        one.gate, one.id, one.time, subject_digest(one.subject.digests), one.environment, one.outcome, document
    )


def _decoded(row: DecisionRow) -> KeptDecision:
    unpacking = zlib.decompressobj()
    return _decoder.decode(unpacking.decompress(row.document, _MAX_DOCUMENT))


def bundle_digest(data: bytes) -> str:
    """``sha256:…``."""
    return f"sha256:{sha256(data).hexdigest()}"
