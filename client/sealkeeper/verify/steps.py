"""Verification as a row of named steps, of which the first that fails is the last that is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sealkeeper.verify.errors import VerifyError


@dataclass(frozen=True, slots=True)
class Step:
    """One step that was taken, and what was found, for a person."""

    name: str
    passed: bool
    detail: str


def take_steps(steps: Iterable[tuple[str, Callable[[], str]]]) -> tuple[Step, ...]:
    """Take steps until one fails; all have passed where the last one has.

    Args:
        steps: at least one: its stable name, and what it does, which gives what was found or raises VerifyError. A step
            is asked for when those before it have passed.
    """
    taken: list[Step] = []
    for name, take in steps:
        try:
            taken.append(Step(name, True, take()))
        except VerifyError as error:
            taken.append(Step(name, False, str(error)))
            break
    return tuple(taken)
