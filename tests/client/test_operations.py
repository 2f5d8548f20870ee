"""What is too long is refused before it is sent, with the field's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sealkeeper.client import operations
from sealkeeper.client.errors import InvalidRequestError
from sealkeeper.client.operations import dsse_content, message_content

KEY = "tenants/acme/keys/release"
MIB = 1024 * 1024
LONG = b"x" * (4 * MIB + 1)
SHORT = message_content(b"x")


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: sign(message_content(LONG)), "content.message"),
        (lambda: sign(dsse_content("text/plain", LONG)), "content.dsse.payload"),
        (lambda: sign_batch([SHORT, message_content(LONG)]), "items[1].message"),
        (lambda: sign_batch([message_content(LONG[: 3 * MIB])] * 2), "items"),
        (lambda: sign_batch([SHORT] * 1001), "items"),
        (lambda: sign_batch([]), "items"),
        (lambda: operations.verify(LONG * 6, KEY, message=b"", digest=None), "bundle"),
        (lambda: operations.verify(b"", KEY, message=LONG, digest=None), "message"),
    ],
)
def test_what_is_too_long_is_refused_before_it_is_sent(make: Callable[[], Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        make()
    assert [one.field for one in caught.value.violations] == [field]


def test_what_is_just_short_enough_is_sent() -> None:
    assert sign(message_content(LONG[:-1])).method == "Sign"
    assert sign_batch([SHORT] * 1000).method == "SignBatch"


def sign(content: Any) -> Any:
    return operations.sign(KEY, content, certificate=False, request_id=None)


def sign_batch(items: list[Any]) -> Any:
    return operations.sign_batch(KEY, items, certificate=False, request_id=None)
