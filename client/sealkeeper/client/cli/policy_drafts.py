"""Drafts of policies, for access and for gates: read from files, held against what is in force, tried."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Protocol, TypeVar

import typer

from sealkeeper.client.cli.input_files import read_limited
from sealkeeper.client.cli.output import coloured, note, printable, progress
from sealkeeper.client.errors import CorruptAnswerError

MAX_POLICY: Final = 256 * 1024
"""Bytes."""
_COLOURS = {"+": "32", "-": "31", "@": "36"}


class _Progress(Protocol):
    done: int
    total: int


_P = TypeVar("_P", bound=_Progress)


def read_text(path: Path, most: int, place: str) -> str:
    """A text.

    Raises:
        typer.BadParameter: it is longer, or not UTF-8.
        OSError: it cannot be read.
    """
    try:
        return read_limited(path, most, place).decode()
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{printable(path)} is not UTF-8", param_hint=place) from None


def read_policy(path: Path, place: str) -> str:
    """A draft.

    Raises:
        typer.BadParameter: it is empty, too long, or not UTF-8.
        OSError: it cannot be read.
    """
    text = read_text(path, MAX_POLICY, place)
    if not text:
        raise typer.BadParameter(f"{printable(path)} is empty", param_hint=place)
    return text


def print_difference(before: str, said: str, text: str, path: Path) -> None:
    """Show what a draft changes, on standard error: standard output is for the answer.

    Args:
        before: the text in force; empty where there is none.
        said: what that is called.
        text: the draft.
        path: where it is.
    """
    in_colour = coloured(sys.stderr)
    for line in difflib.unified_diff(before.splitlines(), text.splitlines(), said, printable(path), lineterm=""):
        colour = _COLOURS.get(line[:1], "") if in_colour else ""
        shown = printable(line.expandtabs(2))
        note(f"\x1b[{colour}m{shown}\x1b[0m" if colour else shown)


def simulated(answers: Iterable[_P], wanted: int, what: str, *, quiet: bool) -> _P:
    """The last answer of a simulation, which has what would change; with a bar meanwhile.

    Raises:
        CorruptAnswerError: there is none.
    """
    last = None
    with progress("simulating", wanted, quiet=quiet, least=0) as advance:
        for one in answers:
            advance(one.done - (last.done if last is not None else 0))
            last = one
    if last is None or last.done != last.total:
        raise CorruptAnswerError(f"the simulation ended before all {what} were done")
    return last
