"""Ask a decider about many images at once, and have an answer to each by the deadline."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from sealkeeper.client.admission.clock import Clock
from sealkeeper.client.admission.decider import AnswerSource, Decider, GateReason, ImageAnswer, ImageQuestion
from sealkeeper.client.admission.metrics import GateMetrics

TIMEOUT, FAILED, OVERLOADED = "GATE_TIMEOUT", "GATE_FAILED", "GATE_OVERLOADED"
_log = logging.getLogger("sealkeeper.admission")
# What a decider has less than the caller, so that an answer of the last moment still gets there: seconds, and a share.
_MARGIN, _MARGIN_SHARE = 0.25, 0.1
T = TypeVar("T")


class Asking:
    """Asks. Used on one event loop.

    Args:
        decider: is asked, for each image by itself, so that one that is slow holds up no other.
        clock: that deadlines are of.
        metrics: counts durations, faults and what was not answered in time.
        most: images that are being decided on; beyond, they are not asked about.
    """

    def __init__(self, decider: Decider, clock: Clock, metrics: GateMetrics, most: int) -> None:
        self._decider = decider
        self._clock = clock
        self._metrics = metrics
        self._most = most
        self._under_way: set[asyncio.Task[ImageAnswer]] = set()

    async def ask(self, questions: Sequence[ImageQuestion], deadline: float) -> tuple[ImageAnswer, ...]:
        """Ask about images, all at once.

        Args:
            questions: about which.
            deadline: seconds of the clock, after which nothing is waited for.

        Returns:
            Answers, in order; with source ``NONE`` where there was none in time, or nothing that is an answer.
        """
        start = self._clock.now()
        margin = min(_MARGIN, _MARGIN_SHARE * max(0.0, deadline - start))
        tasks = [self._begin(one, deadline - margin) for one in questions]
        waited_for = [task for task in tasks if task is not None]
        try:
            await finished_by(self._clock, deadline, _ended(waited_for))
        finally:
            for task in waited_for:
                task.cancel()
        return tuple(self._answer(question, task, start) for question, task in zip(questions, tasks, strict=True))

    def _begin(self, question: ImageQuestion, deadline: float) -> asyncio.Task[ImageAnswer] | None:
        # What was given up on counts until it has really ended.
        if len(self._under_way) >= self._most:
            return None
        task = asyncio.create_task(self._one(question, deadline))
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[ImageAnswer]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            # Taken note of: what was given up on may fail later, and nobody is there to hear of it.
            task.exception()

    async def _one(self, question: ImageQuestion, deadline: float) -> ImageAnswer:
        start = self._clock.now()
        answers = await self._decider.decide((question,), deadline)
        (answer,) = answers
        if answer.image != question.image:
            raise ValueError("an answer to another question")
        self._metrics.decision_seconds.record(self._clock.now() - start, answer.source.value)
        return answer

    def _answer(self, question: ImageQuestion, task: asyncio.Task[ImageAnswer] | None, start: float) -> ImageAnswer:
        if task is None:
            self._metrics.errors.add("overloaded")
            return undecided(question, OVERLOADED, "too much is being decided on", "try again")
        if not task.done() or task.cancelled():
            self._metrics.errors.add("timeout")
            self._metrics.decision_seconds.record(self._clock.now() - start, AnswerSource.NONE.value)
            return undecided(question, TIMEOUT, "it was not decided in time", "try again; see the webhook's log")
        error = task.exception()
        if error is None:
            return task.result()
        self._metrics.errors.add("decider")
        # Its text may hold what is not for a log.
        _log.error("deciding on an image failed: %s", type(error).__name__)
        return undecided(question, FAILED, "deciding failed", "see the webhook's log")


def undecided(question: ImageQuestion, code: str, message: str, next_step: str) -> ImageAnswer:
    """The answer where there is none."""
    reason = GateReason(code, message, next_step)
    return ImageAnswer(question.image, "", allowed=False, passed=False, source=AnswerSource.NONE, reasons=(reason,))


async def _ended(tasks: Sequence[asyncio.Task[ImageAnswer]]) -> None:
    if tasks:
        await asyncio.wait(tasks)


async def finished_by(clock: Clock, deadline: float, work: Awaitable[T]) -> T | None:
    """What work comes to; ``None`` where it has not ended by the deadline, at which it is cancelled.

    Raises:
        Exception: what the work raised.
    """
    future, timer = asyncio.ensure_future(work), asyncio.ensure_future(clock.until(deadline))
    try:
        await asyncio.wait({future, timer}, return_when=asyncio.FIRST_COMPLETED)
        return future.result() if future.done() else None
    finally:
        timer.cancel()
        future.cancel()
