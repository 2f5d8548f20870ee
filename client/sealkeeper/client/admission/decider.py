"""What the webhook asks of whatever decides: gateway, kept answers, or a snapshot without either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Binding:
    """Which gate is asked.

    Attributes:
        gate: ``tenants/{tenant}/gates/{gate}``.
        environment: where the image is to run, as the gate's policy names it; may be empty.
    """

    gate: str
    environment: str

    @property
    def tenant(self) -> str:
        """Whose gate it is."""
        return self.gate.split("/")[1]


@dataclass(frozen=True, slots=True)
class ImageQuestion:
    """May this image run there?

    Attributes:
        image: reference as the manifest has it.
        binding: which gate is asked.
        dry_run: nothing may be changed or recorded by asking.
    """

    image: str
    binding: Binding
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class GateReason:
    """Why an image is refused, or would have been.

    Attributes:
        code: stable, upper snake case; see ``docs/gates/reasons.md``.
        message: what was wanted and what was found.
        next_step: what to do; may be empty.
    """

    code: str
    message: str
    next_step: str = ""


class AnswerSource(StrEnum):
    """Where an answer is from."""

    GATEWAY = "gateway"
    CACHE = "cache"
    OFFLINE = "offline"
    REGISTRY = "registry"
    """What the registry has is refused without asking further: there is too much, or it is not what it should be."""
    NONE = "none"
    """Nobody could decide; whether it may run all the same is up to the failure policy of whoever asks."""


@dataclass(frozen=True, slots=True)
class ImageAnswer:
    """What was decided of an image.

    Attributes:
        image: as in the question.
        resolved: reference with digest; empty where it could not be resolved.
        allowed: it may run.
        passed: the policy is fulfilled; an image may be allowed by the gate's mode or an exception without.
        source: where the answer is from.
        reasons: why not, or what would have been refused.
        warn: whoever deploys is told the reasons although it is allowed.
        decision: name of the recorded decision; empty where none was recorded.
        exception: name of the exception that lets it run; empty where none was needed.
    """

    image: str
    resolved: str
    allowed: bool
    passed: bool
    source: AnswerSource
    reasons: tuple[GateReason, ...] = ()
    warn: bool = False
    decision: str = ""
    exception: str = ""


class Decider(Protocol):
    """Decides. Used on one event loop, by many at once."""

    async def decide(self, questions: Sequence[ImageQuestion], deadline: float) -> Sequence[ImageAnswer]:
        """Decide on images.

        Args:
            questions: about which.
            deadline: seconds of the monotonic clock, by which an answer is of use.

        Returns:
            Answers, in order. What cannot be found out is an answer, with source ``NONE``; it never raises for that.
        """

    async def ready(self) -> str:
        """Why it cannot decide now; empty where it can."""

    async def close(self) -> None:
        """Let go of what it holds."""
