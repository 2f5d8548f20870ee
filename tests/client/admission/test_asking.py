"""Every image has an answer by the deadline: its own, or that there was none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import pytest

from sealkeeper.client.admission.asking import Asking
from sealkeeper.client.admission.decider import AnswerSource, ImageAnswer, ImageQuestion
from sealkeeper.client.admission.metrics import GateMetrics
from tests.client.admission.deciding import PRODUCTION, ScriptedDecider, StoppedClock, allowed, refused


class Asked:
    """A decider that is asked through ``Asking``, at 1000 seconds, with ten seconds time."""

    def __init__(self, decider: ScriptedDecider, most: int = 100) -> None:
        self.clock = StoppedClock()
        self.metrics = GateMetrics()
        decider.clock = self.clock
        self.asking = Asking(decider, self.clock, self.metrics, most)

    async def about(self, *images: str) -> tuple[ImageAnswer, ...]:
        return await self.asking.ask([ImageQuestion(one, PRODUCTION) for one in images], self.clock.now() + 10)


def codes(answers: Sequence[ImageAnswer]) -> list[str]:
    return [" ".join(reason.code for reason in one.reasons) for one in answers]


async def turns() -> None:
    """Let what is ready go on, until it comes to rest."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_answers_are_those_of_the_decider_in_order() -> None:
    decider = ScriptedDecider({"b:1": refused("b:1", AnswerSource.CACHE)})
    asked = Asked(decider)
    assert await asked.about("a:1", "b:1") == (allowed("a:1"), refused("b:1", AnswerSource.CACHE))
    assert asked.metrics.decision_seconds.count("gateway") == 1
    assert asked.metrics.decision_seconds.count("cache") == 1


async def test_nothing_asked_is_nothing_answered() -> None:
    assert await Asked(ScriptedDecider()).about() == ()


async def test_the_decider_has_a_little_less_time_than_there_is() -> None:
    decider = ScriptedDecider()
    await Asked(decider).about("a:1")
    assert decider.deadlines == [pytest.approx(1009.75)]


@pytest.mark.parametrize("images", [("slow:1", "a:1", "b:1"), ("a:1", "slow:1", "b:1"), ("a:1", "b:1", "slow:1")])
async def test_one_that_is_not_answered_in_time_holds_up_no_other(images: tuple[str, ...]) -> None:
    asked = Asked(ScriptedDecider(never=frozenset({"slow:1"})))
    answers = {one.image: one for one in await asked.about(*images)}
    assert codes([answers["slow:1"]]) == ["GATE_TIMEOUT"]
    assert answers["slow:1"].source is AnswerSource.NONE
    assert (answers["a:1"].allowed, answers["b:1"].allowed) == (True, True)
    assert asked.metrics.errors.value("timeout") == 1
    assert asked.metrics.decision_seconds.count("none") == 1


async def test_with_no_time_left_the_decider_has_none_beyond_the_deadline() -> None:
    decider = ScriptedDecider()
    asked = Asked(decider)
    await asked.asking.ask([ImageQuestion("a:1", PRODUCTION)], asked.clock.now() - 1)
    assert decider.deadlines == [asked.clock.now() - 1]


async def test_what_was_given_up_on_ends() -> None:
    asked = Asked(ScriptedDecider(never=frozenset({"slow:1"})), most=1)
    await asked.about("slow:1")
    await turns()
    assert codes(await asked.about("a:1")) == [""]


class _Stubborn(ScriptedDecider):
    """Does not end when it is given up on."""

    def __init__(self) -> None:
        super().__init__()
        self.released = asyncio.Event()

    async def _one(self, image: str) -> ImageAnswer:
        assert self.clock is not None
        self.clock.advance(3600)
        while not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                continue
        raise ValueError("late")


async def test_what_does_not_end_counts_among_what_may_be_under_way() -> None:
    decider = _Stubborn()
    asked = Asked(decider, most=2)
    assert codes(await asked.about("a:1", "b:1", "c:1")) == ["GATE_TIMEOUT", "GATE_TIMEOUT", "GATE_OVERLOADED"]
    assert codes(await asked.about("d:1")) == ["GATE_OVERLOADED"]
    assert asked.metrics.errors.value("overloaded") == 2
    decider.released.set()
    await turns()
    assert codes(await asked.about("e:1")) == ["GATE_FAILED"]


async def test_a_decider_that_fails_is_an_image_that_nobody_decided_on(caplog: pytest.LogCaptureFixture) -> None:
    decider = ScriptedDecider({"a:1": ValueError("token=hunter2")})
    asked = Asked(decider)
    with caplog.at_level(logging.ERROR):
        answers = await asked.about("a:1", "b:1")
    assert codes(answers) == ["GATE_FAILED", ""]
    assert answers[0].source is AnswerSource.NONE
    assert asked.metrics.errors.value("decider") == 1
    assert "ValueError" in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("answer", [allowed("another:1"), "yes", None], ids=["of another", "text", "none"])
async def test_an_answer_to_another_question_is_none(answer: object) -> None:
    class Confused(ScriptedDecider):
        async def decide(self, _questions: object, _deadline: float) -> list[ImageAnswer]:
            return [answer]  # type: ignore[list-item]

    assert codes(await Asked(Confused()).about("a:1")) == ["GATE_FAILED"]


@pytest.mark.parametrize("number", [0, 2])
async def test_more_or_fewer_answers_than_questions_are_none(number: int) -> None:
    class Confused(ScriptedDecider):
        async def decide(self, _questions: object, _deadline: float) -> list[ImageAnswer]:
            return [allowed("a:1")] * number

    assert codes(await Asked(Confused()).about("a:1")) == ["GATE_FAILED"]
