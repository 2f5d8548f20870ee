"""What is not plain, bounded JSON is refused, naming the place."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.verify.bundle import MAX_BUNDLE, parse_bundle
from sealkeeper.verify.errors import MalformedBundleError
from sealkeeper.verify.strict_json import JsonError, Value
from tests.verify.signed import ENTRY_PATHS, changed, signed

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@given(PLAIN)
def test_plain_json_reads_as_json_does(document: object) -> None:
    assert Value.parse(json.dumps(document).encode()).json == document


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "UTF-8"),
        (b'{"a":1,"a":2}', "twice"),
        (b'{"x":{"a":1,"\\u0061":2}}', "twice"),
        (b"NaN", "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b"[" * 100_000, "nested"),
        (b'{"a":' * 50 + b"1" + b"}" * 50, "nested"),
        (b"[" * 33 + b"]" * 33, "nested"),
        (b"[" + b"9" * 5000 + b"]", "$"),
        (b" " * 101, "101 bytes"),
    ],
)
def test_anything_else_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(JsonError, match=problem.replace("$", r"\$")):
        Value.parse(data, 100 if data.isspace() else 1_000_000)


def test_brackets_in_strings_are_no_depth() -> None:
    assert Value.parse(json.dumps(["[" * 100, '"' + "{" * 100, "\\"]).encode()).items(3)


@pytest.mark.parametrize(
    "value", [-1, 2**63, "-1", "-0", "+1", " 1", "1e3", "01", "", 1.5, True, None, "9" * 30, math.pi]
)
def test_an_index_is_a_whole_number(value: object) -> None:
    with pytest.raises(JsonError, match="whole number"):
        Value(value).integer()


@pytest.mark.parametrize("value", ["AAA", "AA==\n", "AB==", "A A=", "_-==", 3, "A" * 100_000])
def test_base64_has_one_spelling(value: object) -> None:
    with pytest.raises(JsonError):
        Value(value).base64()


@pytest.mark.parametrize("path", ENTRY_PATHS, ids=".".join)
@pytest.mark.parametrize("value", [None, [], {}, "", -1, "x" * 70_000, [[1]], True])
def test_a_bundle_with_a_wrong_type_anywhere_is_refused(path: list[str], value: object) -> None:
    def change(document: Any) -> None:
        for part in path[:-1]:
            document = document[0][part] if isinstance(document, list) else document[part]
        holder = document[0] if isinstance(document, list) else document
        holder[path[-1]] = value

    if path[-1] == "tlogEntries" and value == []:
        return  # an empty list is well-formed; that an entry is wanted is for the verifier to say
    if path[-1] == "hashes" and value == []:
        return
    with pytest.raises(MalformedBundleError, match=r"^\$"):
        parse_bundle(changed(signed().key_bundle, change))


def test_a_huge_or_truncated_bundle_is_refused() -> None:
    with pytest.raises(MalformedBundleError, match="bytes"):
        parse_bundle(b" " * (MAX_BUNDLE + 1))
    whole = signed().key_bundle
    for length in range(0, len(whole), 97):
        with pytest.raises(MalformedBundleError):
            parse_bundle(whole[:length])


def test_a_bundle_has_one_material_and_one_content() -> None:
    for path, name, value in (
        ("verificationMaterial", "certificate", {"rawBytes": "AAAA"}),
        ("", "dsseEnvelope", {}),
        ("", "unknown", 1),
    ):

        def change(document: Any, path: str = path, name: str = name, value: object = value) -> None:
            holder = document[path] if path else document
            holder[name] = value

        with pytest.raises(MalformedBundleError):
            parse_bundle(changed(signed().key_bundle, change))
