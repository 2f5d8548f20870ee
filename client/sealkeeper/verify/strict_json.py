"""JSON from outside, read strictly: sizes and depth bounded, no duplicate names, errors that name the place.

>>> Value.parse(b'{"a": [1]}').member("a").items(10)[0].integer()
1
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Set
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from sealkeeper.verify.errors import VerifyError

Json: TypeAlias = Any
MAX_DEPTH = 32
MAX_VALUES = 10_000
"""Most values of a document, where nothing else is said; a bundle with all that its format allows has under 3,000."""

_INTEGER = re.compile(r"0|[1-9][0-9]{0,18}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)")
_SURROGATE = re.compile("[\ud800-\udfff]")
# Brackets and commas outside of strings. Strings, and what is between them, are passed over in one go and possessively:
# where the pattern could come back to each character, that would be remembered, at a hundred bytes and more each.
_STRUCTURE = re.compile(rb'(?s)(?:"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z)[^"\[\]{},]*+)++|[\[\]{},]')
_INT64 = 2**63
_MAX_DIGITS = 64
"""Of an integer. 128 bits take 39; what is longer costs the square of its length to read."""


class JsonError(VerifyError):
    """The document is not what it should be; the text starts with the place, for example ``$.keys[0].name``."""

    reason = "JSON_INVALID"


@dataclass(frozen=True, slots=True)
class Value:
    """A JSON value and its place in the document.

    Attributes:
        json: as ``json.loads`` has it.
        path: from the root, ``$``.
    """

    json: Json
    path: str = "$"

    @classmethod
    def parse(
        cls,
        data: bytes,
        max_length: int = 8 * 1024 * 1024,
        max_values: int = MAX_VALUES,
        max_depth: int = MAX_DEPTH,
    ) -> Value:
        """Parse a document.

        Args:
            data: the document, UTF-8.
            max_length: most bytes.
            max_values: most values: objects, arrays and what is in them.
            max_depth: most arrays and objects in one another; at most 256, since the parser recurses.

        Raises:
            JsonError: it is too long, too deep or of too many values, no UTF-8, no JSON, has a name twice in one
                object or half a surrogate pair in a name, or a number that is too large.
        """
        if len(data) > max_length:
            raise JsonError(f"$: the document has {len(data)} bytes; at most {max_length} are allowed")
        _require_bounds(data, max_values, max_depth)
        try:
            return cls(_loads(data.decode("utf-8")))
        except UnicodeDecodeError:
            raise JsonError("$: the document is not UTF-8") from None
        except json.JSONDecodeError as error:
            raise JsonError(f"$: not JSON at byte {error.pos}") from None
        except ValueError as error:
            raise JsonError(f"$: {error}") from None

    def members(self, required: Set[str], optional: Set[str] = frozenset()) -> dict[str, Value]:
        """The members of an object, which has all required ones and no unknown ones.

        Raises:
            JsonError: naming the member.
        """
        if not isinstance(self.json, dict):
            raise JsonError(f"{self.path}: must be an object")
        for name in self.json:
            if name not in required and name not in optional:
                raise JsonError(f"{self.path}: unknown member {name[:64]!r}")
        for name in sorted(required):
            if name not in self.json:
                raise JsonError(f"{self.path}: {name} is missing")
        return {name: Value(one, f"{self.path}.{name}") for name, one in self.json.items()}

    def member(self, name: str) -> Value:
        """One member of an object; others are not looked at.

        Raises:
            JsonError: it is missing.
        """
        if not isinstance(self.json, dict) or name not in self.json:
            raise JsonError(f"{self.path}: {name} is missing")
        return Value(self.json[name], f"{self.path}.{name}")

    def optional(self, name: str) -> Value | None:
        """As ``member``, but ``None`` where it is missing or null.

        Raises:
            JsonError: this is no object.
        """
        if not isinstance(self.json, dict):
            raise JsonError(f"{self.path}: must be an object")
        one = self.json.get(name)
        return None if one is None else Value(one, f"{self.path}.{name}")

    def items(self, most: int, least: int = 0) -> list[Value]:
        """The items of an array of ``least`` to ``most``.

        Raises:
            JsonError: no array, or of another length.
        """
        if not isinstance(self.json, list):
            raise JsonError(f"{self.path}: must be an array")
        if not least <= len(self.json) <= most:
            raise JsonError(f"{self.path}: has {len(self.json)} items; {least} to {most} are allowed")
        return [Value(one, f"{self.path}[{place}]") for place, one in enumerate(self.json)]

    def text(self, most: int = 4096) -> str:
        """A string of at most ``most`` characters.

        Raises:
            JsonError: no string, too long, or with half of a surrogate pair.
        """
        if not isinstance(self.json, str) or len(self.json) > most:
            raise JsonError(f"{self.path}: must be a string of at most {most} characters")
        if _has_surrogate(self.json):
            raise JsonError(f"{self.path}: has half of a surrogate pair, which is no character")
        return self.json

    def integer(self) -> int:
        """A whole number from 0 to 2^63 - 1; as protojson has it, also as a string.

        Raises:
            JsonError: no such number.
        """
        value = self.json
        if isinstance(value, str) and _INTEGER.fullmatch(value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _INT64:
            raise JsonError(f"{self.path}: must be a whole number from 0 to 2^63 - 1")
        return value

    def boolean(self) -> bool:
        """True or false.

        Raises:
            JsonError: neither.
        """
        if not isinstance(self.json, bool):
            raise JsonError(f"{self.path}: must be true or false")
        return self.json

    def base64(self, most: int = 65_536) -> bytes:
        """Bytes in base64, standard alphabet with padding.

        Raises:
            JsonError: not that, or more than ``most`` bytes.
        """
        text = self.text(most * 4 // 3 + 4)
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            data = None
        # One value, one spelling: non-zero trailing bits are refused too.
        if data is None or len(data) > most or base64.b64encode(data).decode() != text:
            raise JsonError(f"{self.path}: must be base64 of at most {most} bytes")
        return data

    def time(self) -> datetime:
        """An RFC 3339 date and time.

        Raises:
            JsonError: it is none.
        """
        text = self.text(64)
        if _TIME.fullmatch(text):
            try:
                # Digits beyond microseconds say nothing that is compared here.
                return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
            except ValueError:
                pass
        raise JsonError(f"{self.path}: must be a date and time of RFC 3339")


def _loads(text: str) -> Json:
    return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse, parse_int=_integer, parse_float=_finite)


def _require_bounds(data: bytes, max_values: int, max_depth: int) -> None:
    # Before the parser, which recurses, and takes fifty bytes and more for a value of two.
    opening = data.count(b"[") + data.count(b"{")
    if opening <= max_depth and opening + data.count(b",") < max_values:
        return
    depth, values = 0, 1
    for match in _STRUCTURE.finditer(data):
        character = data[match.start()]
        if character in b"[{":
            depth += 1
        elif character in b"]}":
            depth -= 1
        # An array or object of n values has n - 1 commas, so this is as many as there are, or an empty one more.
        values += character in b"[{,"
        if depth > max_depth:
            raise JsonError(f"$: nested more than {max_depth} deep")
        if values > max_values:
            raise JsonError(f"$: the document has more than {max_values} values")


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for name, one in pairs:
        if name in found:
            raise ValueError(f"the member {name[:64]!r} is there twice")
        if _has_surrogate(name):
            raise ValueError(f"the member's name {name[:64]!r} has half of a surrogate pair")
        found[name] = one
    return found


def _has_surrogate(text: str) -> bool:
    # JSON's escapes can write what no UTF-8 can say (RFC 8259 section 8.2).
    return not text.isascii() and _SURROGATE.search(text) is not None


def _integer(text: str) -> int:
    # One value, one spelling.
    if text == "-0":
        raise ValueError("-0 is written 0")
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"an integer has more than {_MAX_DIGITS} digits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _refuse(constant: str) -> Json:
    raise ValueError(f"{constant} is not a number of JSON")
