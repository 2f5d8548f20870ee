"""in-toto Statements."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.verify import statement as module
from sealkeeper.verify.errors import StatementError
from sealkeeper.verify.statement import (
    DIGEST_LENGTHS,
    MAX_DEPTH,
    MAX_PREDICATE,
    MAX_STATEMENT,
    MAX_SUBJECTS,
    STATEMENT_TYPE,
    Subject,
    encode_statement,
    parse_predicate,
    parse_statement,
)

MEGABYTE = 1024 * 1024
SHA256 = "fe4fe40ac7250263c5dbe1cf3138912f3f416140aa248637a60d65fe22c47da4"
TYPE = "https://example.com/predicate/v1"
SUBJECT = Subject("foo.jar", {"sha256": SHA256})
HEAD = json.dumps({"_type": STATEMENT_TYPE, "subject": [{"digest": {"sha256": SHA256}}], "predicateType": TYPE})


def statement(**changes: Any) -> bytes:
    """A good Statement with some members changed; those that are ``...`` are left out."""
    document: dict[str, Any] = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": "foo.jar", "digest": {"sha256": SHA256}}],
        "predicateType": TYPE,
        "predicate": {"a": 1.5},
    }
    document |= {name.replace("type_", "_type"): one for name, one in changes.items()}
    return json.dumps({name: one for name, one in document.items() if one is not ...}).encode()


def with_predicate(predicate: bytes) -> bytes:
    return HEAD[:-1].encode() + b', "predicate": ' + predicate + b"}"


def refusal(payload: bytes) -> StatementError:
    with pytest.raises(StatementError) as caught:
        parse_statement(payload)
    assert str(caught.value) == f"{caught.value.path}: {caught.value.text}"
    return caught.value


def test_a_statement_is_read() -> None:
    read = parse_statement(statement())
    assert read.subjects == (SUBJECT,)
    assert (read.type, read.legacy, read.predicate_type) == (STATEMENT_TYPE, False, TYPE)
    assert read.predicate == {"a": 1.5}


def test_version_0_1_is_read_and_told_apart() -> None:
    read = parse_statement(statement(type_="https://in-toto.io/Statement/v0.1"))
    assert (read.type, read.legacy) == ("https://in-toto.io/Statement/v0.1", True)


def test_every_member_of_a_subject_is_read() -> None:
    # The examples of in-toto's ResourceDescriptor, one with everything.
    descriptor: dict[str, Any] = {
        "name": "Foo.apk",
        "uri": "git+https://android.googlesource.com/platform/vendor/foo/bar@16244f4e#prebuilts/Foo/Foo.apk",
        "digest": {"sha256": SHA256, "gitBlob": "5ab2f8a4323abafb10abb68657d9d39f1a775057"},
        "content": "SGVsbG8=",
        "downloadLocation": "http://example.com/Foo.apk",
        "mediaType": "application/x.dsse+json",
        "annotations": {"twoPartyReview": False},
    }
    [subject] = parse_statement(statement(subject=[descriptor])).subjects
    assert subject == Subject(
        "Foo.apk",
        {"sha256": SHA256, "gitBlob": "5ab2f8a4323abafb10abb68657d9d39f1a775057"},
        descriptor["uri"],
        "application/x.dsse+json",
        "http://example.com/Foo.apk",
        b"Hello",
        {"twoPartyReview": False},
    )


@pytest.mark.parametrize("predicate", [..., None, {}])
def test_no_predicate_is_an_empty_one(predicate: object) -> None:
    assert parse_statement(statement(predicate=predicate)).predicate == {}


def test_what_is_not_known_is_ignored() -> None:
    payload = statement(later=1, subject=[{"digest": {"sha256": SHA256}, "later": [1]}])
    assert parse_statement(payload).subjects == (Subject("", {"sha256": SHA256}),)


def test_a_digest_of_an_algorithm_that_is_not_known_is_kept_as_it_is() -> None:
    [subject] = parse_statement(statement(subject=[{"digest": {"somecoolhash": "aB+/="}}])).subjects
    assert subject.digests == {"somecoolhash": "aB+/="}


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"type_": ...}, "$", "_type is missing"),
    ({"type_": 1}, "$._type", "string"),
    ({"type_": "https://in-toto.io/Statement/v2"}, "$._type", "must be 'https://in-toto.io/Statement/v1'"),
    ({"subject": ...}, "$", "subject is missing"),
    ({"subject": None}, "$.subject", "array"),
    ({"subject": {}}, "$.subject", "array"),
    ({"subject": []}, "$.subject", "has 0 items"),
    ({"subject": [{"digest": {"sha256": SHA256}}] * (MAX_SUBJECTS + 1)}, "$.subject", "has 10001 items"),
    ({"subject": ["foo"]}, "$.subject[0]", "object"),
    ({"subject": [{"name": "foo"}]}, "$.subject[0].digest", "one digest or more"),
    ({"subject": [{"name": "foo", "digest": {}}]}, "$.subject[0].digest", "one digest or more"),
    ({"subject": [{"name": "foo", "digest": None}]}, "$.subject[0].digest", "one digest or more"),
    ({"subject": [{"name": "foo", "digest": SHA256}]}, "$.subject[0].digest", "object"),
    ({"subject": [{"digest": {f"a{i}": "00" for i in range(33)}}]}, "$.subject[0].digest", "33 members"),
    ({"subject": [{"digest": {"sha 256: x": SHA256}}]}, "$.subject[0].digest", "no algorithm"),
    ({"subject": [{"digest": {"sha256": SHA256.upper()}}]}, "$.subject[0].digest.sha256", "lower-case"),
    ({"subject": [{"digest": {"sha256": SHA256[2:]}}]}, "$.subject[0].digest.sha256", "must be 64"),
    ({"subject": [{"digest": {"sha256": 7}}]}, "$.subject[0].digest.sha256", "string"),
    ({"subject": [{"digest": {"sha256": SHA256, "sha512": SHA256}}]}, "$.subject[0].digest.sha512", "128"),
    ({"subject": [{"digest": {"gitCommit": "d20ace"}}]}, "$.subject[0].digest.gitCommit", "40 or 64"),
    ({"subject": [{"digest": {"other": ""}}]}, "$.subject[0].digest.other", "empty"),
    ({"subject": [{"digest": {"other": "a" * 1025}}]}, "$.subject[0].digest.other", "1024"),
    ({"subject": [{"name": 3, "digest": {"sha256": SHA256}}]}, "$.subject[0].name", "string"),
    ({"subject": [{"name": "a" * 4097, "digest": {"sha256": SHA256}}]}, "$.subject[0].name", "4096"),
    ({"subject": [{"uri": [], "digest": {"sha256": SHA256}}]}, "$.subject[0].uri", "string"),
    ({"subject": [{"mediaType": {}, "digest": {"sha256": SHA256}}]}, "$.subject[0].mediaType", "string"),
    ({"subject": [{"content": "?", "digest": {"sha256": SHA256}}]}, "$.subject[0].content", "base64"),
    ({"subject": [{"annotations": [], "digest": {"sha256": SHA256}}]}, "$.subject[0].annotations", "object"),
    (
        {"subject": [{"digest": {"sha256": SHA256}}] * 3 + [{"digest": {"sha256": "x"}}]},
        "$.subject[3].digest.sha256",
        "",
    ),
    ({"predicateType": ...}, "$", "predicateType is missing"),
    ({"predicateType": ""}, "$.predicateType", "URI"),
    ({"predicateType": "slsa provenance"}, "$.predicateType", "URI"),
    ({"predicateType": "https://slsa.dev/provenance/v1\n"}, "$.predicateType", "URI"),
    ({"predicateType": "https://slsa.dev/\u202eprovenance"}, "$.predicateType", "URI"),
    ({"predicateType": "https://" + "a" * 4096}, "$.predicateType", "4096"),
    ({"predicate": []}, "$.predicate", "object"),
    ({"predicate": "{}"}, "$.predicate", "object"),
    ({"predicate": False}, "$.predicate", "object"),
]


@pytest.mark.parametrize(("changes", "path", "text"), BAD)
def test_bad_input_is_refused_with_its_place(changes: dict[str, Any], path: str, text: str) -> None:
    error = refusal(statement(**changes))
    assert error.path == path
    assert text in error.text


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"", "not JSON"),
        (b"[]", "_type is missing"),
        (b"\xff\xfe", "UTF-8"),
        (statement()[:-1], "not JSON"),
        (statement() + b"{}", "not JSON"),
        (with_predicate(b'{"a":1,"a":2}'), "twice"),
        (with_predicate(b'{"a":1}, "predicateType": "https://example.com/other"'), "twice"),
        (with_predicate(b'{"a":NaN}'), "NaN"),
        (with_predicate(b'{"a":1e999}'), "too large"),
        (with_predicate(b'{"a":-1e999}'), "too large"),
        (with_predicate(b'{"a":' + b"9" * 65 + b"}"), "64 digits"),
        (with_predicate(b'{"a":' + b"9" * 1_000_000 + b"}"), "64 digits"),
        (with_predicate(rb'{"a":"\ud800"}'), "surrogate"),
        (with_predicate(rb'{"a":["\\\uDFFF"]}'), "surrogate"),
        (with_predicate(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "nested"),
        (with_predicate(b'{"a":' + b"[" * 100_000), "nested"),
        (with_predicate(b'{"a":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"), "nested"),
    ],
    ids=range(17),
)
def test_json_that_is_read_in_more_than_one_way_or_not_at_all_is_refused(payload: bytes, text: str) -> None:
    error = refusal(payload)
    assert error.path == "$"
    assert text in error.text


def test_what_only_looks_like_half_a_surrogate_pair_is_text() -> None:
    read = parse_statement(with_predicate(rb'{"a":"\\ud800", "b":"\ud83d\ude00"}'))
    assert read.predicate == {"a": r"\ud800", "b": "\N{GRINNING FACE}"}


def test_as_deep_as_allowed_is_read() -> None:
    deep = b"[" * (MAX_DEPTH - 2) + b"]" * (MAX_DEPTH - 2)
    assert parse_statement(with_predicate(b'{"a":' + deep + b"}")).predicate["a"]
    assert parse_predicate(b'{"a":' + deep + b"}")["a"]
    with pytest.raises(StatementError, match=r"^\$\.predicate: nested"):
        parse_predicate(b'{"a":[' + deep + b"]}")


def test_a_predicate_of_16_mib_is_read_and_a_byte_more_is_refused() -> None:
    most = b'{"a":"' + b"x" * (MAX_PREDICATE - 8) + b'"}'
    more = b'{"a":"' + b"x" * (MAX_PREDICATE - 7) + b'"}'
    encoded = encode_statement([SUBJECT], TYPE, most)
    assert len(parse_statement(encoded).predicate["a"]) == MAX_PREDICATE - 8
    assert len(parse_predicate(b" \n" * 1000 + most)["a"]) == MAX_PREDICATE - 8
    with pytest.raises(StatementError, match=r"^\$\.predicate: has 16777217 bytes"):
        encode_statement([SUBJECT], TYPE, more)
    error = refusal(encoded.replace(b'"xx', b'"xxx'))
    assert (error.path, "16777217 bytes" in error.text) == ("$.predicate", True)


def test_10_000_subjects_beside_a_predicate_of_16_mib_are_read() -> None:
    subjects = [Subject(f"target/release/artifact-{place}.tar.gz", {"sha256": SHA256}) for place in range(MAX_SUBJECTS)]
    encoded = encode_statement(subjects, TYPE, b'{"a":"' + b"x" * (MAX_PREDICATE - 8) + b'"}')
    assert len(parse_statement(encoded).subjects) == MAX_SUBJECTS


@pytest.mark.parametrize("value", [b"1", b"[]", b"{}", b'""', b'{"a":1}'])
def test_a_bomb_of_many_values_is_refused(value: bytes) -> None:
    bomb = with_predicate(b'{"a":[' + b",".join([value] * 2_000_001) + b"]}")
    assert "more than 2000000 values" in refusal(bomb).text


def test_100_megabytes_are_refused_before_they_are_read() -> None:
    payload = b"[" * 100 * MEGABYTE
    assert f"at most {MAX_STATEMENT}" in refusal(payload).text
    with pytest.raises(StatementError, match=f"at most {MAX_STATEMENT}"):
        parse_predicate(payload)


def test_a_predicate_is_encoded_as_its_caller_wrote_it() -> None:
    predicate = b'{ "z": 1.0, "a": [1e2,\t10000000000000000000, -0.0],\n "t": " \\" , \\u00e9 \xc3\xa9" }\r\n'
    encoded = encode_statement([SUBJECT], TYPE, predicate)
    assert encoded.endswith(
        b',"predicate":{"z":1.0,"a":[1e2,10000000000000000000,-0.0],"t":" \\" , \\u00e9 \xc3\xa9"}}'
    )
    assert encoded.startswith(
        f'{{"_type":"{STATEMENT_TYPE}","subject":[{{"name":"foo.jar","digest":{{"sha256":"{SHA256}"}}}}],'.encode()
    )


@pytest.mark.parametrize(
    ("predicate", "path"),
    [
        (b"", "$.predicate"),
        (b"[]", "$.predicate"),
        (b'{},"subject":[]', "$.predicate"),
        (b'{},"later":1', "$.predicate"),
        (b"{}}", "$.predicate"),
        (b'{"a":1,"a":1}', "$.predicate"),
        (rb'{"a":"\ud800"}', "$.predicate"),
    ],
)
def test_a_predicate_that_is_no_json_object_is_not_encoded(predicate: bytes, path: str) -> None:
    with pytest.raises(StatementError) as caught:
        encode_statement([SUBJECT], TYPE, predicate)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("subjects", "predicate_type", "path"),
    [
        ([], TYPE, "$.subject"),
        ([Subject("a")], TYPE, "$.subject[0].digest"),
        ([SUBJECT, Subject("a", {"sha256": "00"})], TYPE, "$.subject[1].digest.sha256"),
        ([SUBJECT], "greeting", "$.predicateType"),
        ([SUBJECT], "https://example.com/\ud800", "$.predicateType"),
        ([Subject("\ud800", {"sha256": SHA256})], TYPE, "$.subject[0].name"),
        ([Subject("a", {"sha256": SHA256}, annotations={"a": math.nan})], TYPE, "$.subject"),
        ([Subject("a", {"sha256": SHA256}, annotations={"a": {1, 2}})], TYPE, "$.subject"),
        ([Subject("a", {"sha256": SHA256}, annotations={"a": "\ud800"})], TYPE, "$.subject"),
        ([SUBJECT] * (MAX_SUBJECTS + 1), TYPE, "$.subject"),
    ],
    ids=range(10),
)
def test_what_would_not_be_read_is_not_encoded(subjects: list[Subject], predicate_type: str, path: str) -> None:
    with pytest.raises(StatementError) as caught:
        encode_statement(subjects, predicate_type, b"{}")
    assert caught.value.path == path


def test_annotations_deeper_than_a_statement_may_be_are_not_encoded() -> None:
    deep: dict[str, Any] = {}
    for _ in range(MAX_DEPTH):
        deep = {"a": deep}
    with pytest.raises(StatementError, match="nested"):
        encode_statement([Subject("a", {"sha256": SHA256}, annotations=deep)], TYPE, b"{}")


TEXT = st.text(max_size=40)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=4)
HEX = st.sampled_from(sorted(DIGEST_LENGTHS)).flatmap(
    lambda name: st.tuples(
        st.just(name), st.text("0123456789abcdef", min_size=(size := min(DIGEST_LENGTHS[name])), max_size=size)
    )
)
SUBJECTS = st.lists(
    st.builds(
        Subject,
        TEXT,
        st.lists(HEX, min_size=1, max_size=3).map(dict),
        TEXT,
        TEXT,
        TEXT,
        st.none() | st.binary(min_size=1, max_size=20),
        OBJECT,
    ),
    min_size=1,
    max_size=4,
)


@given(SUBJECTS, OBJECT, st.sampled_from([None, 0, 2, "\t"]))
def test_what_is_encoded_is_read_again(subjects: list[Subject], predicate: dict[str, Any], indent: int | None) -> None:
    encoded = encode_statement(subjects, TYPE, json.dumps(predicate, indent=indent).encode())
    read = parse_statement(encoded)
    assert list(read.subjects) == subjects
    assert (read.predicate_type, read.predicate, read.legacy) == (TYPE, predicate, False)
    compact = json.dumps(predicate, separators=(",", ":")).encode()
    assert encode_statement(subjects, TYPE, compact) == encoded
    assert encoded.endswith(b',"predicate":' + compact + b"}")


@given(st.binary(max_size=200) | JSON.map(lambda one: json.dumps(one).encode()))
def test_anything_is_read_or_refused(payload: bytes) -> None:
    with contextlib.suppress(StatementError):
        parse_statement(payload)


def test_every_algorithm_of_the_specification_has_its_length() -> None:
    # in-toto attestation spec v1, DigestSet; shake128 and shake256 have any length.
    named = "sha256 sha224 sha384 sha512 sha512_224 sha512_256 sha3_224 sha3_256 sha3_384 sha3_512 blake2b blake2s"
    named += " ripemd160 sm3 gost sha1 md5 dirHash gitCommit gitTree gitBlob gitTag"
    assert set(named.split()) - set(module.DIGEST_LENGTHS) == set()
