from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.verify.gate.patterns import Pattern, parse_version_range, repository_of


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        ("refs/heads/main", "refs/heads/main", True),
        ("refs/heads/main", "refs/heads/main2", False),
        ("refs/tags/v*", "refs/tags/v1.2.3", True),
        ("refs/tags/v*", "refs/tags/v1/evil", False),
        ("https://github.com/acme/*", "https://github.com/acme/app", True),
        ("https://github.com/acme/*", "https://github.com/acme", False),
        ("https://github.com/acme/*", "https://github.com/acme-evil/app", False),
        ("https://github.com/acme/**", "https://github.com/acme/app/sub", True),
        ("**", "", True),
        ("*", "a/b", False),
        ("a.c", "abc", False),
        ("*a*", "bab", True),
        ("**/x", "a/b/x", True),
    ],
)
def test_a_star_is_anything_but_a_slash_and_two_are_anything(pattern: str, text: str, fits: bool) -> None:
    assert Pattern(pattern).fits(text) is fits


@given(st.text("a*/", max_size=12), st.text("a/", max_size=12))
def test_patterns_fit_what_the_same_regular_expression_fits(pattern: str, text: str) -> None:
    parts = re.findall(r"\*\*|\*|[^*]", pattern)
    form = "".join({"**": r"[\s\S]*", "*": "[^/]*"}.get(one, re.escape(one)) for one in parts)
    assert Pattern(pattern).fits(text) is (re.fullmatch(form, text) is not None)


def test_a_hostile_pattern_takes_bounded_time() -> None:
    assert not Pattern("*a" * 300 + "b").fits("a" * 1000)
    assert not Pattern("**a" * 300 + "b").fits("a/" * 500)


@pytest.mark.parametrize(
    ("wanted", "version", "holds"),
    [
        (">=1.2.0", "v1.2.0", True),
        (">=1.2.0", "1.10.0", True),
        (">=1.2.0, <2.0.0", "2.0.0", False),
        (">=1.2.0", "2.0.0-rc.1", False),
        (">=2.0.0-rc.1", "2.0.0-rc.2", True),
        ("1.0.0", "1.0.0+build.5", True),
        ("!=1.3.0", "1.3.0", False),
        (">=1.0.0", "latest", False),
        (">=1.0.0", "v1", False),
        (">=1.0.0", "", False),
        (">=1.0.0", "1.0.0" + "0" * 1000, False),
    ],
)
def test_versions_are_compared_as_semantic_versions(wanted: str, version: str, holds: bool) -> None:
    assert parse_version_range(wanted).holds(version) is holds


@pytest.mark.parametrize("text", ["", ">=1", "~>1.0.0", ">=1.0.0 <2.0.0", "1.0.0," * 20, ">= v1.0.0x"])
def test_what_is_no_range_of_versions_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="comparison"):
        parse_version_range(text)


@pytest.mark.parametrize(
    "uri",
    [
        "https://github.com/acme/app",
        "git+https://github.com/acme/app.git@refs/heads/main",
        "https://GitHub.com/acme/app/",
        "git+https://github.com/acme/app@0123456789abcdef",
    ],
)
def test_spellings_of_a_repository_are_one(uri: str) -> None:
    assert repository_of(uri) == "https://github.com/acme/app"


@pytest.mark.parametrize(
    "uri",
    [
        "https://github.com/acme/app?x=1",
        "https://github.com/acme/app#x",
        "https://github.com/acme/../evil/app",
        "https://github.com/acme/%61pp",
        "https://github.com/acme//app",
        "https://github.com@evil.example/acme/app",
        "https://github.com\\@evil.example/acme/app",
        "https://gith\u0443b.com/acme/app",
        "https://github.com/\u0430cme/app",
        "http://github.com/acme/app",
        "file:///acme/app",
        "https:///acme/app",
        "https://github.com",
        "https://github.com/acme/app\n",
        "https://github.com/.git",
        "https://git.example/acme/app@evil/app",
        "",
    ],
)
def test_what_could_be_read_as_another_repository_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="repository"):
        repository_of(uri)


@given(st.text(max_size=60))
def test_a_spelling_stays_as_it_is(uri: str) -> None:
    try:
        spelled = repository_of(f"https://github.com/{uri}")
    except ValueError:
        return
    assert repository_of(spelled) == spelled
