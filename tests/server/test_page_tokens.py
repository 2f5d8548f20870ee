"""A page token is what the page before gave, or it is refused naming the field."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sealkeeper.server.errors import InvalidRequestError
from sealkeeper.server.resources import ID
from sealkeeper.server.translation import id_of_page_token, page_token, versions_left

COUNT = 7
T = TypeVar("T")


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


def taken(read: Callable[[], T]) -> T | None:
    """What a token stands for; ``None`` where it is refused as it should be, and nothing else is raised."""
    try:
        return read()
    except InvalidRequestError as error:
        return None if [one.field for one in error.violations] == ["page_token"] else read()


# Half of them in the right wrapping, so that what is inside is looked at.
tokens = st.text() | st.text().map(encoded) | st.text().map(lambda text: encoded(f"1:{text}"))


@given(tokens)
@example(encoded("1:" + "9" * 5000))
@example(encoded("1:0"))
@example(encoded("1:-1"))
@example(encoded("1:٣"))
@example(encoded("1:03"))
@example(encoded("1: 3"))
@example(encoded("1:1"))
@example(encoded(f"1:{COUNT + 1}"))
@example(encoded("2:3"))
@example(encoded("1:3") + "=")
@example(encoded("1:3").rstrip("="))
@example("MTo4OB==")
@example("é")
def test_any_token_of_versions_is_one_of_ours_or_refused(token: str) -> None:
    left = taken(lambda: versions_left(token, COUNT))
    assert left is None or (1 <= left <= COUNT and token in ("", page_token(str(left + 1))))


@given(tokens)
@example(encoded("1:" + "a" * 64))
@example(encoded("1:a-"))
@example(encoded("1:a\n"))
def test_any_token_of_keys_is_one_of_ours_or_refused(token: str) -> None:
    after = taken(lambda: id_of_page_token(token))
    assert after is None or token == (page_token(after) if after else "")


@given(st.from_regex(ID, fullmatch=True))
def test_every_key_gives_a_token_that_is_taken(key: str) -> None:
    assert id_of_page_token(page_token(key)) == key


@pytest.mark.parametrize("number", range(2, COUNT + 1))
def test_every_version_but_the_first_gives_a_token_that_is_taken(number: int) -> None:
    assert versions_left(page_token(str(number)), COUNT) == number - 1
