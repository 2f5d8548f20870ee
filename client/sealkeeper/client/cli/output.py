"""What people and machines read: text on a terminal, or one JSON document; errors with a next step."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

SUFFIX = ".sigstore.json"
"""Of bundle files, as Sigstore's clients name them."""

_BIG = 32 * 1024 * 1024
"""From this many bytes on, a progress bar is worth its while."""


def printable(text: object) -> str:
    """Text without control characters: names come from outside, and terminals obey."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(text))


def print_json(document: Any) -> None:
    """One document on standard output."""
    print(json.dumps(document, ensure_ascii=False))  # noqa: T201


def print_text(text: str = "") -> None:
    """A line on standard output."""
    print(text)  # noqa: T201


def note(text: str) -> None:
    """A line for a person on standard error."""
    print(text, file=sys.stderr)  # noqa: T201


def mark(good: bool) -> str:
    """A tick or a cross, in colour on a terminal."""
    sign, colour = ("✓", "32") if good else ("✗", "31")
    return f"\x1b[{colour}m{sign}\x1b[0m" if coloured(sys.stdout) else sign


def coloured(stream: Any) -> bool:
    """Whether the stream is a terminal whose owner wants colour (https://no-color.org)."""
    return bool(stream.isatty()) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns; plain where nobody looks."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(*headings, box=None, header_style="bold", pad_edge=False)
        for row in rows:
            table.add_row(*(printable(one) for one in row))
        Console(highlight=False, markup=False).print(table)
        return
    for row in (headings, *rows):
        print_text("\t".join(printable(one) for one in row))


def print_error(error: BaseException, *, as_json: bool) -> None:
    """An error with its fields and next step, on standard error."""
    reason = str(getattr(error, "reason", "") or "ERROR")
    next_step = str(getattr(error, "next_step", ""))
    fields = [(one.field, one.description) for one in getattr(error, "violations", ())]
    if as_json:
        document = {
            "error": {
                "reason": reason,
                "message": str(error),
                "nextStep": next_step,
                "fields": [{"field": field, "description": text} for field, text in fields],
            }
        }
        note(json.dumps(document, ensure_ascii=False))
        return
    red, plain = ("\x1b[31m", "\x1b[0m") if coloured(sys.stderr) else ("", "")
    note(f"{red}error:{plain} {printable(error)}")
    for field, text in fields:
        note(f"  field: {printable(field)}: {printable(text)}")
    if next_step:
        note(f"  next: {printable(next_step)}")


@contextmanager
def progress(title: str, total: int | None, *, quiet: bool, least: int = _BIG) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, told of each advance; none where nobody looks or it is soon over."""
    if quiet or not sys.stderr.isatty() or (total is not None and total < least):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(printable(title), total=total)
        yield lambda count: bar.update(task, advance=count)
