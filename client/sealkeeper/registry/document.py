"""JSON documents of registries, read with bounds: bytes, values and depth are limited, a name is there once."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from sealkeeper.registry.errors import MalformedError, TooManyError

Json: TypeAlias = Any
MAX_DOCUMENT = 4 * 1024 * 1024
"""Bytes; what the OCI distribution spec has registries take at least."""
MAX_DEPTH = 32
_MAX_VALUES = 200_000
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_object(data: bytes, place: str) -> dict[str, Json]:
    """Parse a JSON object.

    Args:
        data: the document, UTF-8.
        place: what it is, for errors.

    Raises:
        MalformedError: it is none, is nested too deep, or has a name twice in one object.
        TooManyError: it has too many values.
    """
    # Those within strings are counted too: a document that is no attack stays far below either way.
    if data.count(b"[") + data.count(b"{") + data.count(b",") > _MAX_VALUES:
        raise TooManyError(f"{place}: has more than {_MAX_VALUES} values")
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError):
        # The parser's own text would quote the document, and Python's recursion ends one that is too deep.
        raise MalformedError(f"{place}: is not JSON, has a name twice or is nested too deep") from None
    if not isinstance(document, dict):
        raise MalformedError(f"{place}: is no JSON object")
    _require_plain(document, place)
    return document


def text_of(document: Mapping[str, Json], name: str, place: str, most: int = 256) -> str:
    """A member that is a string of at most ``most`` characters; empty where there is none.

    Raises:
        MalformedError: it is something else.
    """
    value = document.get(name, "")
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise MalformedError(f"{place}.{name}: must be a string of at most {most} printable characters")
    return value


def list_of(document: Mapping[str, Json], name: str, place: str, most: int) -> list[Json]:
    """A member that is a list of at most ``most`` items.

    Raises:
        MalformedError: it is missing or something else.
        TooManyError: it has more items.
    """
    value = document.get(name)
    if not isinstance(value, list):
        raise MalformedError(f"{place}.{name}: must be a list")
    if len(value) > most:
        raise TooManyError(f"{place}.{name}: has {len(value)} items; at most {most} are taken")
    return value


def _require_plain(document: Json, place: str) -> None:
    level = [document]
    for _ in range(MAX_DEPTH):
        inner: list[Json] = []
        for one in level:
            inner.extend([*one.keys(), *one.values()] if isinstance(one, dict) else one)
        # JSON's escapes can write what no UTF-8 can say (RFC 8259 section 8.2).
        if any(isinstance(one, str) and not one.isascii() and _SURROGATE.search(one) for one in inner):
            raise MalformedError(f"{place}: has half of a surrogate pair, which is no character")
        level = [one for one in inner if isinstance(one, dict | list)]
        if not level:
            return
    raise MalformedError(f"{place}: is nested more than {MAX_DEPTH} deep")


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _refuse(_: str) -> Json:
    raise ValueError
