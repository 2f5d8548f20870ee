"""YAML and JSON documents with the places of their values; sizes, depth, aliases and documents are bounded.

YAML is read as those read it who deploy from it (Kubernetes, Compose): merge keys are followed, tags of one's own are
passed over, names may not be there twice. Nothing is constructed but plain values.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml

from sealkeeper.verify.strict_json import JsonError, Value

try:
    from yaml import CSafeLoader as _Loader
except ImportError:  # PyYAML without libyaml reads the same, slower.
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

MAX_DOCUMENTS = 10_000
"""Most documents of a stream."""
MAX_VALUES = 200_000
"""Most values of a document, those that aliases repeat included."""
MAX_DEPTH = 100
"""Deepest nesting of a document."""
_MAX_NUMBER = 64
_MERGE = "<<"
_NO_KEY = object()
_JSON_VALUE = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"(?P<name>\s*:)?|[\[{]|[^\s\[\]{},:"]+')
_TAG = "tag:yaml.org,2002:"

Place: TypeAlias = tuple[int, int]
"""Line and column, from 1; columns count characters."""


class DocumentError(Exception):
    """The text is no YAML, or goes beyond a bound.

    Attributes:
        place: where; line 0 where that cannot be told.
    """

    def __init__(self, message: str, place: Place = (0, 0)) -> None:
        super().__init__(message)
        self.place = place


@dataclass(frozen=True, slots=True)
class Document:
    """A document of a stream.

    Attributes:
        value: as ``json.loads`` has it; times are strings, as they are written.
        start: the line that the document begins with: its marker ``---``, if it has one.
        place: of its value.
    """

    value: Any
    start: int
    place: Place
    _places: Mapping[tuple[int, Any], Place] = field(repr=False)
    # Places are found by the identity of what holds a value: nothing of it may go while they are in use.
    _kept: Sequence[Any] = field(default=(), repr=False)

    def place_of(self, keys: tuple[str | int, ...]) -> Place:
        """Where a value is written; where there is none, the closest one that it would be in.

        Args:
            keys: names of members, and indexes from 0.
        """
        value, place = self.value, self.place
        for key in keys:
            found = self._places.get((id(value), key))
            if found is None:
                break
            value, place = value[key], found
        return place


def read_documents(data: bytes) -> Iterator[Document]:
    """The documents of a stream, each as soon as it has been read. JSON is taken for JSON first, as kubectl does.

    Args:
        data: UTF-8, of a length that the caller has bounded.

    Raises:
        DocumentError: neither YAML nor JSON; a name twice in one mapping; an alias to something that holds it; a key
            that is no scalar; or more documents, values or depth than is allowed.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DocumentError("the text is not UTF-8") from None
    if text.lstrip()[:1] in {"{", "["}:
        try:
            document = _read_json(data, text)
        except JsonError:
            # Comments and the like: YAML can tell.
            pass
        else:
            yield document
            return
    yield from _read_yaml(text)


def _read_json(data: bytes, text: str) -> Document:
    value = Value.parse(data, max_length=len(data), max_values=MAX_VALUES).json
    lines = [0, *(match.end() for match in re.finditer("\n", text))]
    places = ((_json_place(match.start(), lines)) for match in _JSON_VALUE.finditer(text) if not match["name"])
    first, found = next(places), dict[tuple[int, Any], Place]()
    _put_json_places(value, places, found)
    return Document(value, 1, first, found)


def _put_json_places(value: Any, places: Iterator[Place], found: dict[tuple[int, Any], Place]) -> None:
    # Values come in the order of the text. As deep as strict JSON is, which is bounded.
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inside:
        found[id(value), key] = next(places)
        _put_json_places(one, places, found)


def _json_place(offset: int, lines: list[int]) -> Place:
    line = bisect_right(lines, offset)
    return line, offset - lines[line - 1] + 1


def _read_yaml(text: str) -> Iterator[Document]:
    loader = None
    try:
        # A text with characters that YAML does not allow is refused here already.
        loader = _Loader(text)
        count = 0
        while not isinstance(event := loader.get_event(), yaml.StreamEndEvent):
            if isinstance(event, yaml.DocumentStartEvent):
                count += 1
                if count > MAX_DOCUMENTS:
                    raise DocumentError(f"there are more than {MAX_DOCUMENTS} documents", _place(event))
                yield _Reading(loader, _place(event)[0]).document()
    except yaml.MarkedYAMLError as error:
        raise DocumentError(str(error.problem), _place_of_mark(error.problem_mark)) from None
    except yaml.YAMLError as error:
        raise DocumentError(str(error).splitlines()[0]) from None
    finally:
        if loader is not None:
            loader.dispose()


@dataclass(slots=True)
class _Known:
    """A value that is complete: how many values it stands for, with all that its aliases repeat."""

    value: Any
    size: int
    place: Place


@dataclass(slots=True)
class _Open:
    """A mapping or sequence that is being read."""

    value: dict[Any, Any] | list[Any]
    anchor: str | None
    place: Place
    size: int = 1
    key: Any = _NO_KEY
    merged: Any = None


class _Reading:
    """One document, from the parser's events and without recursion: PyYAML's own composer goes as deep as the text."""

    def __init__(self, loader: Any, start: int) -> None:
        self._loader = loader
        self._start = start
        self._open: list[_Open] = []
        self._anchors: dict[str, _Known] = {}
        self._places: dict[tuple[int, Any], Place] = {}
        self._root = _Known(None, 1, (start, 1))
        self._kept: list[Any] = []

    def document(self) -> Document:
        while not isinstance(event := self._loader.get_event(), yaml.DocumentEndEvent):
            place = _place(event)
            if isinstance(event, yaml.AliasEvent):
                known = self._anchors.get(event.anchor or "")
                if known is None:
                    raise DocumentError("an alias names no anchor before it, or what it is in itself", place)
                self._put(known, place)
            elif isinstance(event, yaml.ScalarEvent):
                known = _Known(_scalar(self._loader, event, place), 1, place)
                self._complete(known, event.anchor, place)
            elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
                self._begin(event, place)
            else:
                self._end()
        return Document(self._root.value, self._start, self._root.place, self._places, self._kept)

    def _begin(self, event: Any, place: Place) -> None:
        if len(self._open) == MAX_DEPTH:
            raise DocumentError(f"nested more than {MAX_DEPTH} deep", place)
        if self._open and isinstance(self._open[-1].value, dict) and self._open[-1].key is _NO_KEY:
            raise DocumentError("a key must be a scalar", place)
        self._open.append(_Open({} if isinstance(event, yaml.MappingStartEvent) else [], event.anchor, place))

    def _end(self) -> None:
        done = self._open.pop()
        if done.merged is not None and isinstance(done.value, dict):
            self._merge(done.value, done.merged, done.place)
        self._complete(_Known(done.value, done.size, done.place), done.anchor, done.place)

    def _complete(self, known: _Known, anchor: str | None, place: Place) -> None:
        if anchor is not None:
            self._anchors[anchor] = known
        self._put(known, place)

    def _put(self, known: _Known, place: Place) -> None:
        if not self._open:
            self._root = known
            return
        into = self._open[-1]
        into.size += known.size
        if into.size > MAX_VALUES:
            raise DocumentError(f"has more than {MAX_VALUES} values, those that aliases repeat included", place)
        if isinstance(into.value, list):
            self._places[id(into.value), len(into.value)] = known.place
            into.value.append(known.value)
        elif into.key is _NO_KEY:
            into.key = _key(known.value, into, place)
        else:
            if into.key == _MERGE:
                into.merged = known.value
            else:
                self._places[id(into.value), into.key] = known.place
                into.value[into.key] = known.value
            into.key = _NO_KEY

    def _merge(self, into: dict[Any, Any], merged: Any, place: Place) -> None:
        """Take in the members of other mappings, as ``<<`` says; its own come first, then those of earlier ones."""
        self._kept.append(merged)
        for source in merged if isinstance(merged, list) else [merged]:
            if not isinstance(source, dict):
                raise DocumentError("<< takes a mapping, or a sequence of them", place)
            for key, value in source.items():
                if key not in into:
                    into[key] = value
                    self._places[id(into), key] = self._places[id(source), key]


def _key(value: Any, into: _Open, place: Place) -> Any:
    if isinstance(value, dict | list):
        raise DocumentError("a key must be a scalar", place)
    if value in into.value or (value == _MERGE and into.merged is not None):
        raise DocumentError("a name is there twice in one mapping", place)
    return value


def _scalar(loader: Any, event: yaml.ScalarEvent, place: Place) -> Any:
    text: str = event.value
    tag = event.tag
    if tag is None or tag == "!":
        if not event.implicit[0]:
            return text
        tag = loader.resolve(yaml.ScalarNode, text, event.implicit)
    if tag in {f"{_TAG}null", "!reset"}:
        # Compose's `!reset` takes a value away, whatever is written behind it.
        return None
    if tag == f"{_TAG}binary":
        # Kubernetes would decode it, names of members too: it is no way to hide an image.
        raise DocumentError("binary data is not read: write it as a string", place)
    if tag not in {f"{_TAG}bool", f"{_TAG}int", f"{_TAG}float"}:
        return text
    if len(text) > _MAX_NUMBER:
        raise DocumentError(f"a number has more than {_MAX_NUMBER} characters", place)
    try:
        return loader.construct_object(yaml.ScalarNode(tag, text))
    except (ValueError, KeyError, IndexError, OverflowError, yaml.YAMLError):
        raise DocumentError("a scalar is not what its tag says", place) from None


def _place(event: yaml.Event) -> Place:
    return _place_of_mark(event.start_mark)


def _place_of_mark(mark: Any) -> Place:
    return (mark.line + 1, mark.column + 1) if mark else (0, 0)
