"""YAML and JSON with places: what is read, where it is, and what would take without end."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.client import located_documents
from sealkeeper.client.located_documents import DocumentError, read_documents


def read(text: str) -> list[Any]:
    return [one.value for one in read_documents(text.encode())]


def refused(data: bytes | str) -> DocumentError:
    with pytest.raises(DocumentError) as raised:
        list(read_documents(data if isinstance(data, bytes) else data.encode()))
    return raised.value


def test_values_are_those_of_json() -> None:
    text = (
        "{a: 1, b: [x, 'y', \"z\", !!str 1, null, ~, true, 1.5], t: 2001-01-01, d: !own {e: !own f}, g: !reset 1, ~: 1}"
    )
    (value,) = read(text)
    assert value == {
        "a": 1,
        "b": ["x", "y", "z", "1", None, None, True, 1.5],
        "t": "2001-01-01",
        "d": {"e": "f"},
        "g": None,
        None: 1,
    }


def test_places_are_exact_for_every_style() -> None:
    text = (
        "# comment\n"
        "--- # first\n"
        "plain: value\n"
        "list:\n"
        "  - ä: {deep: 'quoted'}\n"
        "  - >-\n"
        "    folded\n"
        "tagged: !!str  x\n"
        "---\n"
        "second\n"
    )
    first, second = read_documents(text.encode())
    assert (first.start, first.place, second.start, second.place) == (2, (3, 1), 9, (10, 1))
    places = {keys: first.place_of(keys) for keys in [("plain",), ("list",), ("list", 0, "ä", "deep"), ("list", 1)]}
    assert places == {
        ("plain",): (3, 8),
        ("list",): (5, 3),
        ("list", 0, "ä", "deep"): (5, 15),
        ("list", 1): (6, 5),
    }
    assert first.place_of(("tagged",)) == (8, 9)


def test_the_place_of_what_is_missing_is_what_it_would_be_in() -> None:
    (one,) = read_documents(b"a:\n  b:\n    - c: 1\n")
    assert one.place_of(("a", "b", 0, "x", "y")) == (3, 7)
    assert one.place_of(("a", "b", 7)) == (3, 5)
    assert one.place_of(()) == (1, 1)


def test_aliases_and_merges_point_to_where_the_value_is_written() -> None:
    text = "base: &b\n  image: x\n  name: n\nmore: *b\nmerged:\n  <<: [*b, {name: no, tag: t}]\n  image: own\n"
    (one,) = read_documents(text.encode())
    assert one.value["merged"] == {"image": "own", "name": "n", "tag": "t"}
    assert one.place_of(("more", "image")) == (2, 10)
    assert one.place_of(("merged", "image")) == (7, 10)
    assert one.place_of(("merged", "name")) == (3, 9)
    assert one.place_of(("merged", "tag")) == (6, 28)


def test_json_has_its_places_with_tabs_and_escapes() -> None:
    text = '{\n\t"a" : [1, -2.5e3, true, null, "x,]\\"", {"b:" :\n "\\ud83d\\ude00"}],\n"c": {}, "d": "e"}'
    (one,) = read_documents(text.encode())
    assert one.value == json.loads(text)
    assert one.place == (1, 1)
    assert [one.place_of(("a", at)) for at in range(6)] == [(2, 9), (2, 12), (2, 20), (2, 26), (2, 32), (2, 41)]
    assert one.place_of(("a", 5, "b:")) == (3, 2)
    assert one.place_of(("d",)) == (4, 15)


def test_json_with_comments_is_read_as_yaml() -> None:
    assert read('{"a": 1, # comment\n "b": [2,]}') == [{"a": 1, "b": [2]}]


def test_a_mark_of_the_byte_order_is_no_text() -> None:
    (one,) = read_documents(b"\xef\xbb\xbfa: b")
    assert (one.value, one.place_of(("a",))) == ({"a": "b"}, (1, 4))
    assert read('\ufeff{"a": 1}') == [{"a": 1}]


@pytest.mark.parametrize(
    ("text", "told", "place"),
    [
        ("a: 1\nb: 2\na: 3\n", "twice", (3, 1)),
        ('{"a": 1,\n "a": 2}', "twice", (2, 2)),
        ("{<<: {a: 1}, <<: {b: 1}}", "twice", (1, 14)),
        ("a: {<<: x}", "<<", (1, 4)),
        ("? [a]\n: b\n", "key", (1, 3)),
        ("image: {{ .Values.image }}\n", "key", (1, 9)),
        ("a: &x [*x]\n", "alias", (1, 8)),
        ("a: *nobody\n", "alias", (1, 4)),
        ("a: !!int 1x\n", "tag", (1, 4)),
        ("a: !!bool ''\n", "tag", (1, 4)),
        ("!!binary aW1hZ2U=: x\n", "binary", (1, 1)),
        ("%TAG !y! tag:yaml.org,2002:\n---\na: !y!binary eA==\n", "binary", (3, 4)),
        (f"a: {'9' * 65}\n", "characters", (1, 4)),
        ("a: b: c\n", "mapping values", (1, 5)),
        ("a: [b\n", "expected", (2, 1)),
        ("a: \x07\n", "control characters", (0, 0)),
        ("%YAML 9.9\n---\na\n", "", (1, 1)),
    ],
)
def test_what_is_ambiguous_or_broken_is_refused_with_its_place(text: str, told: str, place: tuple[int, int]) -> None:
    error = refused(text)
    assert told in str(error)
    assert error.place == place


@pytest.mark.parametrize("data", [b"a: \xff", "a: b".encode("utf-16"), b"\xed\xa0\x80"])
def test_what_is_not_utf_8_is_refused(data: bytes) -> None:
    assert "UTF-8" in str(refused(data))


def test_documents_are_given_before_what_is_broken_behind_them() -> None:
    documents = read_documents(b"a: 1\n---\nb: [\n")
    assert next(documents).value == {"a": 1}
    with pytest.raises(DocumentError):
        next(documents)


MANY = 2_000_000
LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{at}: &a{at} [{','.join([f'*a{at - 1}'] * 9)}]\n" for at in range(1, 40)
)
MERGES = "a0: &a0 {k0: x}\n" + "".join(
    f"a{at}: &a{at} {{<<: [{','.join([f'*a{at - 1}'] * 9)}], k{at}: x}}\n" for at in range(1, 40)
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (LAUGHS, "values"),
        (MERGES, "values"),
        ("a: &a [x, x]\nb: [" + "*a," * 100_000 + "]", "values"),
        ("---\n" * 100_000, "documents"),
        ("---\na: b\n" * 100_000, "documents"),
        ("[" * MANY, "depth"),
        ("{" * MANY, "depth"),
        ("- " * MANY, "deep"),
        ("".join(" " * at + "a:\n" for at in range(200)), "deep"),
        ('{"a":' * 200 + "1" + "}" * 200, "deep"),
        ("? " * MANY, "key"),
        ("[" + "a," * MANY, "values"),
        ("- a\n" * 300_000, "values"),
        ("a: " * MANY, "mapping"),
        ('"' + "\n" * MANY, "end of stream"),
    ],
    ids=lambda value: value[:12].strip() if isinstance(value, str) else None,
)
def test_a_text_that_would_grow_without_end_is_refused(text: str, told: str) -> None:
    assert told in str(refused(text))


@pytest.mark.parametrize("text", ["a " * MANY, "a: " + "x" * MANY, "#" * MANY, "\n" * MANY, "|\n" + " \n" * MANY])
def test_a_long_text_of_few_values_is_read(text: str) -> None:
    assert len(read(text)) <= 1


def test_reading_without_libyaml_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"--- # x\na: &x {b: [1, 'q'], c: y}\ne: >-\n   y\nd: {<<: *x}\n---\ne\n"
    expected = [(one.value, one.start, one.place, one.place_of(("a", "b", 1))) for one in read_documents(text)]
    monkeypatch.setattr(located_documents, "_Loader", yaml.SafeLoader)
    assert [(one.value, one.start, one.place, one.place_of(("a", "b", 1))) for one in read_documents(text)] == expected
    assert "alias" in str(refused("a: *b"))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=5).filter(lambda key: key != "<<"), inner
        )
    ),
    max_leaves=20,
)


@given(VALUES, st.sampled_from([None, 2]))
def test_every_json_text_is_read_as_json_has_it_with_places_of_its_strings(value: Any, indent: int | None) -> None:
    text = json.dumps([value], indent=indent, ensure_ascii=False)
    (one,) = read_documents(text.encode())
    assert one.value == [value]
    line, column = one.place_of((0,))
    assert text.split("\n")[line - 1][column - 1 :].startswith(json.dumps(value, ensure_ascii=False, indent=indent)[:1])


@given(VALUES)
def test_what_pyyaml_writes_is_read_back(value: Any) -> None:
    (one,) = read_documents(yaml.safe_dump({"a": value}).encode())
    assert one.value == {"a": value}


@given(st.binary(max_size=60) | st.text(st.sampled_from("ab:-[]{}&*!|>'\"#?, \n\t%<"), max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        for one in read_documents(data):
            one.place_of(("a", 0))
    except DocumentError:
        pass
