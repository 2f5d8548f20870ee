"""How policies name texts: patterns, ranges of versions, repositories. Matching is bounded."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from semver import Version

_PART = re.compile(r"\*\*|\*|[^*]+")
_COMPARISON = re.compile(r"(>=|<=|==|!=|>|<)?\s*(\S{1,100})")
_MAX_COMPARISONS = 10
_REPOSITORY_PATH = re.compile(r"(/[A-Za-z0-9_~][A-Za-z0-9_.~+-]*)+")
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,252}[a-z0-9])?(:[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A text with ``*``, any characters other than ``/``, and ``**``, any characters. Everything else is exact.

    >>> Pattern("refs/tags/v*").fits("refs/tags/v1.2"), Pattern("acme/*").fits("acme/app/evil")
    (True, False)
    """

    text: str
    _parts: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_parts", tuple(_PART.findall(self.text)))

    def fits(self, text: str) -> bool:
        """Whether the text is one of those. Bounded time, whatever the pattern: places are followed, not tried."""
        places = {0}
        for part in self._parts:
            places = _after(part, text, places)
            if not places:
                return False
        return len(text) in places

    def __str__(self) -> str:
        return self.text


def _after(part: str, text: str, places: set[int]) -> set[int]:
    """Where a match can go on after a part that begins at one of the places."""
    if part not in ("*", "**"):
        return {place + len(part) for place in places if text.startswith(part, place)}
    found: set[int] = set()
    for place in sorted(places):
        # What begins here and what began before end alike up to the next boundary.
        if place in found:
            continue
        end = len(text)
        if part == "*":
            slash = text.find("/", place)
            end = slash if slash >= 0 else end
        found.update(range(place, end + 1))
    return found


@dataclass(frozen=True, slots=True)
class VersionRange:
    """Comparisons of semantic versions (https://semver.org, 2.0.0), all of which must hold."""

    text: str
    _comparisons: tuple[tuple[str, Version], ...] = field(repr=False)

    def holds(self, version: str) -> bool:
        """Whether a version is inside; a text that is no semantic version is not. A leading ``v`` is not looked at.

        A pre-release is inside only where the range names one: ``>=1.0.0`` does not let ``2.0.0-rc.1`` in.
        """
        try:
            found = Version.parse(version.removeprefix("v")) if len(version) <= 256 else None
        except ValueError:
            found = None
        if found is None:
            return False
        if found.prerelease and not any(one.prerelease for _, one in self._comparisons):
            return False
        return all(_compare(found, operator, other) for operator, other in self._comparisons)


def _compare(found: Version, operator: str, other: Version) -> bool:
    order = found.compare(other)
    return {
        ">=": order >= 0,
        "<=": order <= 0,
        ">": order > 0,
        "<": order < 0,
        "==": order == 0,
        "!=": order != 0,
    }[operator]


def parse_version_range(text: str) -> VersionRange:
    """Read a range: comparisons parted by commas, such as ``>=1.2.0, <2.0.0``.

    Raises:
        ValueError: it is none.
    """
    comparisons = []
    parts = text.split(",")
    for part in parts[: _MAX_COMPARISONS + 1]:
        match = _COMPARISON.fullmatch(part.strip())
        try:
            comparisons.append((match[1] or "==", Version.parse(match[2]))) if match else None
        except ValueError:
            match = None
        if match is None:
            raise ValueError("must be comparisons of semantic versions parted by commas, for example >=1.2.0, <2.0.0")
    if len(parts) > _MAX_COMPARISONS:
        raise ValueError(f"has more than {_MAX_COMPARISONS} comparisons")
    return VersionRange(text, tuple(comparisons))


def repository_of(uri: str) -> str:
    """The one spelling of a source repository's URI, by which policies compare.

    ``git+`` before it, ``.git``, a revision after ``@`` and a slash behind it say nothing of which one it is, nor does
    the case of its host. Whatever could be read as another one is refused: anything but ASCII, escapes, a user, a
    query, a fragment, ``.`` and ``..`` as parts.

    >>> repository_of("git+https://GitHub.com/acme/app.git@refs/heads/main")
    'https://github.com/acme/app'

    Raises:
        ValueError: it is not such a URI.
    """
    text = uri.removeprefix("git+")
    # The library takes line breaks out before it looks.
    if not text.isascii() or not text.isprintable() or len(text) > 1024:
        raise ValueError(f"the repository {uri[:200]!r} is not plain ASCII")
    split = urlsplit(text)
    path, _, revision = split.path.partition("@")
    path = path.rstrip("/").removesuffix(".git")
    host = split.netloc.lower()
    if split.scheme not in ("https", "ssh") or not _HOST.fullmatch(host) or split.query or split.fragment:
        raise ValueError(f"the repository {uri[:200]!r} is not the plain https URI of one")
    # What is behind it may be a path to some server: acme/app@evil/app.
    if not _REPOSITORY_PATH.fullmatch(path) or ".." in path or ("/" in revision and not revision.startswith("refs/")):
        raise ValueError(f"the repository {uri[:200]!r} has a path that could be read as another one")
    return f"{split.scheme}://{host}{path}"
