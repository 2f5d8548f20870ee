"""How values of options are read: periods, instants, labels, names of the contract."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import typer

_PERIOD = re.compile(r"(\d{1,9})(s|m|h|d)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def period(text: str | None, option: str) -> timedelta | None:
    """A number with its unit, ``90m``.

    Raises:
        typer.BadParameter: it is none.
    """
    if text is None:
        return None
    match = _PERIOD.fullmatch(text)
    if match is None:
        raise typer.BadParameter("must be a number with s, m, h or d, for example 24h", param_hint=option)
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def moment(text: str | None, option: str) -> datetime | None:
    """An instant of RFC 3339, in UTC where it names no zone.

    Raises:
        typer.BadParameter: it is none.
    """
    if text is None:
        return None
    try:
        # A bare number is refused: a date to Python, seconds since 1970 to others.
        found = datetime.fromisoformat(text) if "-" in text and ":" in text else None
    except ValueError:
        found = None
    if found is None:
        raise typer.BadParameter("must be a time, for example 2026-11-24T22:00:00+02:00", param_hint=option)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def labels(texts: Iterable[str] | None) -> dict[str, str]:
    """Labels, each ``NAME=VALUE``.

    Raises:
        typer.BadParameter: one is none.
    """
    found = {}
    for text in texts or ():
        name, separator, value = text.partition("=")
        if not separator:
            raise typer.BadParameter("must be NAME=VALUE", param_hint="--label")
        found[name] = value
    return found


def one_of(text: str, known: Sequence[str], place: str) -> str:
    """A name of the contract, however it is written: ``verify-only`` for ``VERIFY_ONLY``.

    Raises:
        typer.BadParameter: it is not among the known ones.
    """
    name = text.upper().replace("-", "_")
    if name not in known:
        raise typer.BadParameter(f"must be one of {', '.join(known)}", param_hint=place)
    return name


def algorithms(incomplete: str) -> list[str]:
    """Completions of an algorithm."""
    from sealkeeper.verify.algorithms import ALGORITHMS

    return [one for one in ALGORITHMS if one.startswith(incomplete.upper())]
