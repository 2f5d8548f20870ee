"""Vulnerabilities that were found, whatever the scanner and its words for how severe they are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

UNKNOWN = "unknown"
SEVERITIES: Final = ("critical", "high", "medium", "low", "negligible", UNKNOWN)
"""The worst first."""
_SYNONYMS: Final = {
    **{name: name for name in SEVERITIES},
    "important": "high",
    "moderate": "medium",
    "none": "negligible",
    "info": "negligible",
    "informational": "negligible",
    "minimal": "negligible",
}
# CVSS v3.1 section 5 and v4.0 section 6: qualitative severity rating scale, from each score on.
_SCALE: Final = ((9.0, "critical"), (7.0, "high"), (4.0, "medium"), (0.1, "low"), (0.0, "negligible"))
_MAX_SCORE = 10.0
_SCORE = re.compile(r"[0-9]{1,2}(?:\.[0-9]{1,6})?")


@dataclass(frozen=True, slots=True)
class Finding:
    """A vulnerability.

    Attributes:
        id: as the scanner names it: ``CVE-...``, ``GHSA-...``.
        severity: of ``SEVERITIES``.
        score: CVSS base score, 0 to 10; ``None`` where there is none.
        packages: that have it: package URLs, or names with versions; empty where it is not told.
        state: of its analysis, in CycloneDX's words (``not_affected``, ``exploitable``); empty where there is none.
    """

    id: str
    severity: str
    score: float | None
    packages: tuple[str, ...] = ()
    state: str = ""


def severity(words: Iterable[str], score: float | None) -> str:
    """The worst of what was said; where nothing was, what CVSS calls the score."""
    said = {_SYNONYMS.get(word.strip().lower(), UNKNOWN) for word in words} - {UNKNOWN}
    if said:
        return min(said, key=SEVERITIES.index)
    if score is None:
        return UNKNOWN
    return next(name for least, name in _SCALE if score >= least)


def worst_score(scores: Iterable[object]) -> float | None:
    """The highest of what is a CVSS score, a number or its text; ``None`` where nothing is."""
    found = [one for one in map(_score, scores) if one is not None]
    return max(found, default=None)


def is_severity(word: str) -> bool:
    """Whether a word says how severe a vulnerability is."""
    return word.strip().lower() in _SYNONYMS


def _score(value: object) -> float | None:
    if isinstance(value, str) and _SCORE.fullmatch(value):
        value = float(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= _MAX_SCORE:
        return float(value)
    return None
