"""What is not plain, bounded JSON is refused, naming the place."""

from __future__ import annotations

import contextlib
import json
import math
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.verify.bundle import MAX_BUNDLE, MAX_ENTRIES, MAX_HASHES, MAX_TIMESTAMPS, parse_bundle
from sealkeeper.verify.errors import MalformedBundleError
from sealkeeper.verify.strict_json import JsonError, Value, _unique
from sealkeeper.verify.trust import MAX_DOCUMENT, MAX_VALUES
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
        (b"1e999", "too large"),
        (b"-1e999", "too large"),
        (b"9" * 65, "64 digits"),
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


def test_the_depth_is_the_callers() -> None:
    assert Value.parse(b"[" * 100 + b"]" * 100, max_depth=100)
    with pytest.raises(JsonError, match="more than 99 deep"):
        Value.parse(b"[" * 100 + b"]" * 100, max_depth=99)


def test_an_optional_member_that_is_null_is_not_there() -> None:
    value = Value.parse(b'{"a": null, "b": 0}')
    assert value.optional("a") is value.optional("c") is None
    assert value.optional("b") == Value(0, "$.b")
    with pytest.raises(JsonError, match="must be an object"):
        Value([]).optional("a")


MEGABYTE = 1024 * 1024


@pytest.mark.parametrize(
    "text", [b"a" * MEGABYTE, rb"\n" * (MEGABYTE // 2), rb"\"" * (MEGABYTE // 2), b"a" * MEGABYTE + b'"']
)
def test_a_long_string_takes_no_more_memory_than_its_copies(text: bytes) -> None:
    # Enough brackets that they have to be told from those in strings; the last one is not even JSON.
    document = b"[" + b"[]," * 40 + b'"' + text + b'"]'
    tracemalloc.start()
    try:
        with contextlib.suppress(JsonError):
            Value.parse(document)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MEGABYTE


@pytest.mark.parametrize("value", [b"1", b"[]", b"{}", b'""', b'{"a":1}'])
def test_more_values_than_any_bundle_has_are_refused_before_they_are_made(value: bytes) -> None:
    document = b"[" + b",".join([value] * (MEGABYTE // 2)) + b"]"
    tracemalloc.start()
    try:
        with pytest.raises(JsonError, match="more than 10000 values"):
            Value.parse(document)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEGABYTE


def test_as_many_values_as_allowed_are_read_and_commas_in_strings_are_none() -> None:
    assert len(Value.parse(b"[" + b",".join([b"1"] * 9_999) + b"]").items(9_999)) == 9_999
    assert Value.parse(json.dumps([","] * 100 + ["," * 20_000]).encode()).items(101)


def test_no_bundle_of_the_format_has_too_many_values() -> None:
    def change(document: Any) -> None:
        material = document["verificationMaterial"]
        [entry] = material["tlogEntries"]
        entry["inclusionProof"]["hashes"] = [entry["inclusionProof"]["rootHash"]] * MAX_HASHES
        material["tlogEntries"] = [entry] * MAX_ENTRIES
        material["timestampVerificationData"]["rfc3161Timestamps"] *= MAX_TIMESTAMPS

    assert len(parse_bundle(changed(signed().key_envelope, change)).entries) == MAX_ENTRIES


def test_no_keys_document_has_too_many_values_before_it_is_too_long() -> None:
    # The shortest record: the shortest key, no window, no spaces.
    record = json.loads(signed("PKIX_ED25519").world.keys(signed("PKIX_ED25519").key, "ACTIVE"))["keys"][0]
    record |= {"name": "tenants/a/keys/b/versions/1", "disabled": True, "compromiseTime": "2026-01-01T00:00:00Z"}
    text = json.dumps(record, separators=(",", ":"))
    values = 1 + text.count(",") + text.count("{")
    assert values * MAX_DOCUMENT / len(text) < MAX_VALUES


class Name(str):
    """A member's name that counts how often it is compared."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Name.compared += 1
        return str.__eq__(self, other)


def test_a_name_that_is_there_twice_is_found_in_one_pass() -> None:
    names = [Name(f"name {number}") for number in range(2_000)]
    Name.compared = 0
    with pytest.raises(ValueError, match="'name 1999' is there twice"):
        _unique([(name, 1) for name in [*names, Name("name 1999")]])
    assert Name.compared < 3 * len(names)


@pytest.mark.parametrize("data", [rb'"\ud800"', rb'"a\udfff"', rb'"\udc00\ud800"', rb'"\ud83d \ude00"'])
def test_half_a_surrogate_pair_is_no_text(data: bytes) -> None:
    with pytest.raises(JsonError, match="surrogate"):
        Value.parse(data).text()
    with pytest.raises(JsonError, match="surrogate"):
        Value.parse(b"{" + data + b":1}")


def test_a_whole_surrogate_pair_is_text() -> None:
    assert Value.parse(rb'"\ud83d\ude00"').text() == "\N{GRINNING FACE}"


@pytest.mark.parametrize(
    "value", [-1, 2**63, "-1", "-0", "+1", " 1", "1e3", "01", "", 1.5, True, None, "9" * 30, math.pi]
)
def test_an_index_is_a_whole_number(value: object) -> None:
    with pytest.raises(JsonError, match="whole number"):
        Value(value).integer()


def test_a_minus_zero_is_no_index() -> None:
    with pytest.raises(JsonError, match="-0"):
        Value.parse(b'{"logIndex":-0}')


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
    if (path[-1], value) in (("hashes", []), ("timestampVerificationData", {})):
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
