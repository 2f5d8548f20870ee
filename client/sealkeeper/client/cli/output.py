"""What people and machines read: text on a terminal, or one JSON document; errors with a next step."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sealkeeper.client.errors import PROPOSED, USAGE, ClientError

if TYPE_CHECKING:
    from sealkeeper.client.cli.failures import Failure

SUFFIX = ".sigstore.json"
"""Of bundle files, as Sigstore's clients name them."""

_BIG = 32 * 1024 * 1024
"""From this many bytes on, a progress bar is worth its while."""


class OutputError(ClientError):
    """Standard output cannot be written."""

    exit_code = USAGE
    reason = "OUTPUT_UNWRITABLE"

    def __init__(self, error: OSError) -> None:
        super().__init__(
            f"cannot write standard output: {error.strerror or error}",
            next_step="what was done is done; the exit code does not say more than that",
        )


class ReaderGoneError(OutputError):
    """Whoever read standard output has stopped: the exit code is that of SIGPIPE, as of other tools."""

    exit_code = 141
    reason = "READER_GONE"


def printable(text: object) -> str:
    """Text without control characters: names come from outside, and terminals obey."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(text))


def set_up_streams() -> None:
    """Make standard streams safe to use, whatever the caller closed and whatever the locale is."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if stream is None:
            # A file opened later must not become what libraries take for standard error.
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_json(document: Any) -> None:
    """One document on standard output.

    Raises:
        OutputError: it cannot be written.
    """
    print_text(json.dumps(document, ensure_ascii=not _unicode(sys.stdout)))


def print_text(text: str = "") -> None:
    """A line on standard output; nothing where that is closed, as ``print`` does.

    Raises:
        OutputError: it cannot be written.
    """
    if sys.stdout is not None:
        with _told():
            sys.stdout.write(f"{text}\n")


def flush_output() -> None:
    """Write what is still kept back.

    Raises:
        OutputError: it cannot be written.
    """
    if sys.stdout is not None:
        with _told():
            sys.stdout.flush()


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # What is left in the buffer would be tried again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise (ReaderGoneError if isinstance(error, BrokenPipeError) else OutputError)(error) from None


def note(text: str) -> None:
    """A line for a person on standard error."""
    if sys.stderr is not None:
        print(text, file=sys.stderr)  # noqa: T201


def mark(good: bool) -> str:
    """A tick or a cross, in colour on a terminal, in ASCII where there is nothing else."""
    sign, plain, colour = ("✓", "v", "32") if good else ("✗", "x", "31")
    if not _unicode(sys.stdout):
        return plain
    return f"\x1b[{colour}m{sign}\x1b[0m" if coloured(sys.stdout) else sign


def _unicode(stream: Any) -> bool:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return str(encoding).lower().replace("-", "") == "utf8"


def is_terminal(stream: Any) -> bool:
    """Whether somebody looks at the stream."""
    return stream is not None and bool(stream.isatty())


def coloured(stream: Any) -> bool:
    """Whether the stream is a terminal whose owner wants colour (https://no-color.org)."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


@dataclass(frozen=True, slots=True)
class Coloured:
    """A cell of a table that has a colour on terminals.

    Attributes:
        text: what it says.
        colour: ``green``, ``yellow`` or ``red``.
    """

    text: str
    colour: str

    def __str__(self) -> str:
        return self.text


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns; plain where nobody looks."""
    if is_terminal(sys.stdout):
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*headings, box=None, header_style="bold", pad_edge=False)
        for row in rows:
            styles = (one.colour if isinstance(one, Coloured) and coloured(sys.stdout) else "" for one in row)
            table.add_row(*(Text(printable(one), style) for one, style in zip(row, styles, strict=True)))
        Console(highlight=False, markup=False).print(table)
        return
    for row in (headings, *rows):
        print_text("\t".join(printable(one) for one in row))


def print_failure(failure: Failure, *, as_json: bool) -> None:
    """An error: one document on standard output, or text with its fields and next step on standard error."""
    if as_json:
        print_json(failure.document())
        return
    word, colour = ("proposed", "33") if failure.exit_code == PROPOSED else ("error", "31")
    begin, end = (f"\x1b[{colour}m", "\x1b[0m") if coloured(sys.stderr) else ("", "")
    note(f"{begin}{word}:{end} {printable(failure.text)}")
    for one in failure.violations:
        note(f"  field: {printable(one.field)}: {printable(one.description)}")
    if failure.next_step:
        note(f"  next: {printable(failure.next_step)}")


@contextmanager
def progress(title: str, total: int | None, *, quiet: bool, least: int = _BIG) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, told of each advance; none where nobody looks or it is soon over."""
    if quiet or not is_terminal(sys.stderr) or (total is not None and total < least):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(printable(title), total=total)
        yield lambda count: bar.update(task, advance=count)
