"""A decider that says what a test tells it to, and a clock that goes on when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sealkeeper.client.admission.decider import AnswerSource, Binding, GateReason, ImageAnswer, ImageQuestion
from sealkeeper.client.admission.settings import (
    DigestRule,
    FailurePolicy,
    Limits,
    NamespaceRule,
    TlsPaths,
    WebhookSettings,
)

PRODUCTION = Binding("tenants/acme/gates/production", "production")
DIGEST = "sha256:" + "c" * 64
NOT_SIGNED = GateReason("PROVENANCE_MISSING", "no SLSA provenance that verifies", "attest it in the build")


def resolved(image: str) -> str:
    repository = image.rpartition(":")[0] if ":" in image.rpartition("/")[2] else image
    return image if "@" in image else f"{repository}@{DIGEST}"


def allowed(image: str, source: AnswerSource = AnswerSource.GATEWAY, **more: object) -> ImageAnswer:
    return ImageAnswer(image, resolved(image), True, bool(more.pop("passed", True)), source, **more)  # type: ignore[arg-type]


def refused(image: str, source: AnswerSource = AnswerSource.GATEWAY, *reasons: GateReason) -> ImageAnswer:
    return ImageAnswer(image, resolved(image), False, False, source, reasons or (NOT_SIGNED,))


def rule(
    *names: str,
    binding: Binding | None = PRODUCTION,
    digest: DigestRule = DigestRule.NOWHERE,
    failure: FailurePolicy = FailurePolicy.CLOSED,
) -> NamespaceRule:
    return NamespaceRule(names or ("shop-*",), binding, digest, failure)


def settings(*rules: NamespaceRule, limits: Limits | None = None, **more: object) -> WebhookSettings:
    paths = TlsPaths(Path("tls.crt"), Path("tls.key"))
    found = rules or (rule("kube-system", binding=None), rule())
    return WebhookSettings("127.0.0.1:0", paths, found, limits=limits or Limits(), **more)  # type: ignore[arg-type]


@dataclass
class StoppedClock:
    """Goes on by ``advance`` only."""

    time: float = 1000.0
    _waiting: list[tuple[float, asyncio.Future[None]]] = field(default_factory=list)

    def now(self) -> float:
        return self.time

    async def until(self, moment: float) -> None:
        if moment > self.time:
            future = asyncio.get_running_loop().create_future()
            self._waiting.append((moment, future))
            await future

    def advance(self, seconds: float) -> None:
        self.time += seconds
        for moment, future in self._waiting:
            if moment <= self.time and not future.done():
                future.set_result(None)


@dataclass
class ScriptedDecider:
    """Answers by image; allows where nothing is said.

    Attributes:
        answers: by image; an exception is raised.
        never: images that are never answered; the clock goes on by an hour when they are asked about.
        clock: that does.
        problem: what ``ready`` says.
    """

    answers: Mapping[str, ImageAnswer | Exception] = field(default_factory=dict)
    never: frozenset[str] = frozenset()
    clock: StoppedClock | None = None
    problem: str = ""
    asked: list[ImageQuestion] = field(default_factory=list)
    deadlines: list[float] = field(default_factory=list)
    closed: bool = False

    async def decide(self, questions: Sequence[ImageQuestion], deadline: float) -> Sequence[ImageAnswer]:
        self.asked += questions
        self.deadlines.append(deadline)
        return [await self._one(one.image) for one in questions]

    async def _one(self, image: str) -> ImageAnswer:
        if image in self.never:
            if self.clock is not None:
                self.clock.advance(3600)
            await asyncio.Event().wait()
        answer = self.answers.get(image) or allowed(image)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def ready(self) -> str:
        return self.problem

    async def close(self) -> None:
        self.closed = True

    def images(self) -> list[str]:
        return [one.image for one in self.asked]
