"""in-toto Statements: what an attestation is about, and what its predicate is (in-toto attestation spec v1, Statement).

Known members are read strictly. Unknown ones are ignored, as the parsing rules of the specification want it: by its
monotonic principle, leaving something out must not turn a refusal into an approval.

>>> encoded = encode_statement([Subject("a", {"sha256": "00" * 32})], "https://example.com/greeting/v1", b'{"hi": 1.0}')
>>> parse_statement(encoded).predicate
{'hi': 1.0}
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from sealkeeper.verify.errors import StatementError
from sealkeeper.verify.strict_json import JsonError, Value

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
LEGACY_STATEMENT_TYPE = "https://in-toto.io/Statement/v0.1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_SUBJECTS = 10_000
MAX_PREDICATE = 16 * 1024 * 1024
"""Bytes of a predicate, without white space between its parts."""
MAX_STATEMENT = MAX_PREDICATE + 8 * 1024 * 1024
"""Bytes of a Statement."""
MAX_DEPTH = 64
"""Of a Statement; its predicate begins at two."""
MAX_VALUES = 2_000_000
"""Most values of a Statement: one for every twelve bytes of the longest, which no bill of materials comes near to."""

_MAX_NAME = 4096
_MAX_DIGESTS = 32
_MAX_DIGEST = 1024
_MAX_CONTENT = 1024 * 1024
_ALGORITHM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+/-]{0,63}")
_HEX = re.compile(r"[0-9a-f]+")
DIGEST_LENGTHS: Final[Mapping[str, frozenset[int]]] = {
    "md5": frozenset({32}),
    **dict.fromkeys(("sha1", "ripemd160"), frozenset({40})),
    **dict.fromkeys(("sha224", "sha512_224", "sha3_224"), frozenset({56})),
    **dict.fromkeys(("sha256", "sha512_256", "sha3_256", "blake2s", "sm3", "gost"), frozenset({64})),
    **dict.fromkeys(("dirHash", "dirHash1"), frozenset({64})),
    **dict.fromkeys(("sha384", "sha3_384"), frozenset({96})),
    **dict.fromkeys(("sha512", "sha3_512", "blake2b"), frozenset({128})),
    **dict.fromkeys(("gitCommit", "gitTree", "gitBlob", "gitTag"), frozenset({40, 64})),
}
"""Hexadecimal digits of each algorithm's digests (in-toto attestation spec v1, DigestSet)."""

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!#-;=?-\[\]_a-z~]+")
# Strings, and what is between them and no white space.
_SIGNIFICANT = re.compile(rb'(?s)(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"|[^\s"])++')
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class ResourceDescriptor:
    """An artifact or resource (in-toto attestation spec v1, ResourceDescriptor). What is empty is not set.

    Attributes:
        name: within the document.
        digests: by algorithm; lower-case hexadecimal where the algorithm is in ``DIGEST_LENGTHS``, any text elsewhere.
        uri: that identifies it globally.
        media_type: of its content.
        download_location: where to fetch it from.
        content: the thing itself; ``None`` where it is not told.
        annotations: any JSON.
    """

    name: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)
    uri: str = ""
    media_type: str = ""
    download_location: str = ""
    content: bytes | None = field(default=None, repr=False)
    annotations: Mapping[str, Any] = field(default_factory=dict, repr=False)


Subject: TypeAlias = ResourceDescriptor
"""Of a Statement; has one digest or more. Artifacts are matched by digest, whatever they are called."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What is claimed, and of which artifacts.

    Attributes:
        subjects: one or more.
        predicate_type: URI; says how the predicate is to be read.
        predicate: empty where the Statement has none.
        legacy: True for version 0.1 of the format, which old bundles carry.
    """

    subjects: tuple[Subject, ...]
    predicate_type: str
    predicate: Mapping[str, Any] = field(repr=False)
    legacy: bool = False

    @property
    def type(self) -> str:
        """The Statement's ``_type``."""
        return LEGACY_STATEMENT_TYPE if self.legacy else STATEMENT_TYPE


def parse_statement(payload: bytes) -> Statement:
    """Read a Statement; its predicate is only read as JSON, not as its type wants it (``predicates.read_predicate``).

    Args:
        payload: of a DSSE envelope whose payload type is ``PAYLOAD_TYPE``.

    Raises:
        StatementError: it is too large, no JSON (RFC 8259, each name once in an object), or no Statement.
    """
    try:
        return _read_statement(payload)
    except JsonError as error:
        raise StatementError(*place_and_text(error)) from None


def parse_predicate(data: bytes) -> Mapping[str, Any]:
    """Read a predicate as JSON, within the bounds that it has in a Statement.

    Raises:
        StatementError: it is too large, no JSON object, has a name twice in one object, or is nested too deep.
    """
    try:
        value = Value.parse(data, MAX_STATEMENT, MAX_VALUES, MAX_DEPTH - 1)
        _require_object(value)
        _require_characters(value, data)
        if len(data) > MAX_PREDICATE:
            _require_size(value, len(_compact(data)))
    except JsonError as error:
        path, text = place_and_text(error)
        raise StatementError(f"$.predicate{path[1:]}", text) from None
    predicate: dict[str, Any] = value.json
    return predicate


def encode_statement(subjects: Sequence[Subject], predicate_type: str, predicate_json: bytes) -> bytes:
    """A Statement as compact JSON, the same bytes for the same input.

    Args:
        subjects: 1 to ``MAX_SUBJECTS``, in this order.
        predicate_type: URI.
        predicate_json: a JSON object. Only white space between its parts is taken out: the order of members, and how
            numbers and strings are written, stay as they are.

    Raises:
        StatementError: what ``parse_statement`` would not take.
    """
    parse_predicate(predicate_json)
    try:
        read_uri(Value(predicate_type, "$.predicateType"))
        documents = [_document(one) for one in subjects]
        for one in Value(documents, "$.subject").items(MAX_SUBJECTS, 1):
            _read_subject(one)
    except JsonError as error:
        raise StatementError(*place_and_text(error)) from None
    try:
        head = _encode({"_type": STATEMENT_TYPE, "subject": documents, "predicateType": predicate_type})
    except (TypeError, ValueError, RecursionError):
        raise StatementError("$.subject", "has annotations that are no JSON") from None
    encoded = b'%b,"predicate":%b}' % (head[:-1], _compact(predicate_json))
    # Annotations are the caller's own, and unbounded until here.
    parse_statement(encoded)
    return encoded


def read_descriptor(value: Value) -> ResourceDescriptor:
    """Read a ResourceDescriptor; unknown members are ignored, null is as if not there.

    Raises:
        JsonError: naming the member.
    """
    content, annotations = value.optional("content"), value.optional("annotations")
    if annotations is not None and not isinstance(annotations.json, dict):
        raise JsonError(f"{annotations.path}: must be an object")
    return ResourceDescriptor(
        read_text(value, "name"),
        read_digests(value.optional("digest")),
        read_text(value, "uri"),
        read_text(value, "mediaType"),
        read_text(value, "downloadLocation"),
        None if content is None else content.base64(_MAX_CONTENT),
        {} if annotations is None else annotations.json,
    )


def read_digests(value: Value | None) -> dict[str, str]:
    """Read a DigestSet: lower-case hexadecimal of the algorithm's length, where the specification names the algorithm.

    Raises:
        JsonError: naming the algorithm.
    """
    if value is None:
        return {}
    if not isinstance(value.json, dict):
        raise JsonError(f"{value.path}: must be an object")
    if len(value.json) > _MAX_DIGESTS:
        raise JsonError(f"{value.path}: has {len(value.json)} members; at most {_MAX_DIGESTS} are allowed")
    for name in value.json:
        if not isinstance(name, str) or not _ALGORITHM.fullmatch(name):
            raise JsonError(f"{value.path}: a member's name is no algorithm")
    return {name: _digest(value.member(name), DIGEST_LENGTHS.get(name)) for name in value.json}


def read_uri(value: Value) -> str:
    """Read a URI with a scheme (RFC 3986 section 3), at most 4096 characters.

    Raises:
        JsonError: it is none.
    """
    text = value.text(_MAX_NAME)
    if not _URI.fullmatch(text):
        raise JsonError(f"{value.path}: must be a URI")
    return text


def read_text(value: Value, name: str) -> str:
    """A member that is text of at most 4096 characters; empty where it is missing or null.

    Raises:
        JsonError: it is none.
    """
    one = value.optional(name)
    return "" if one is None else one.text(_MAX_NAME)


def place_and_text(error: JsonError) -> tuple[str, str]:
    """A JSON error's path, and what is wrong there."""
    path, _, text = str(error).partition(": ")
    return path, text


def _read_subject(value: Value) -> Subject:
    subject = read_descriptor(value)
    if not subject.digests:
        raise JsonError(f"{value.path}.digest: must have one digest or more")
    return subject


def _digest(value: Value, lengths: Iterable[int] | None) -> str:
    text = value.text(_MAX_DIGEST)
    if lengths is None:
        if not text:
            raise JsonError(f"{value.path}: must not be empty")
    elif len(text) not in lengths or not _HEX.fullmatch(text):
        allowed = " or ".join(str(one) for one in sorted(lengths))
        raise JsonError(f"{value.path}: must be {allowed} lower-case hexadecimal digits")
    return text


def _document(subject: Subject) -> dict[str, Any]:
    document = {
        "name": subject.name,
        "uri": subject.uri,
        "digest": dict(subject.digests),
        "content": "" if subject.content is None else b64encode(subject.content).decode(),
        "downloadLocation": subject.download_location,
        "mediaType": subject.media_type,
        "annotations": dict(subject.annotations),
    }
    return {name: one for name, one in document.items() if one}


def _read_statement(payload: bytes) -> Statement:
    root = Value.parse(payload, MAX_STATEMENT, MAX_VALUES, MAX_DEPTH)
    _require_characters(root, payload)
    kind = root.member("_type").text(_MAX_NAME)
    if kind not in (STATEMENT_TYPE, LEGACY_STATEMENT_TYPE):
        raise JsonError(f"$._type: must be {STATEMENT_TYPE!r}")
    subjects = tuple(_read_subject(one) for one in root.member("subject").items(MAX_SUBJECTS, 1))
    predicate_type = read_uri(root.member("predicateType"))
    predicate = root.optional("predicate") or Value({}, "$.predicate")
    _require_object(predicate)
    if len(payload) > MAX_PREDICATE:
        others = {name: one for name, one in root.json.items() if name != "predicate"}
        _require_size(predicate, len(_compact(payload)) - len(_encode(others)) - len(',"predicate":'))
    return Statement(subjects, predicate_type, predicate.json, kind == LEGACY_STATEMENT_TYPE)


def _require_object(value: Value) -> None:
    if not isinstance(value.json, dict):
        raise JsonError(f"{value.path}: must be an object")


def _require_size(predicate: Value, length: int) -> None:
    if length > MAX_PREDICATE:
        raise JsonError(f"{predicate.path}: has {length} bytes; at most {MAX_PREDICATE} are allowed")


def _require_characters(value: Value, document: bytes) -> None:
    # What was read is written again only where that can find something.
    if _HALF_PAIR.search(document):
        try:
            _encode(value.json)
        except UnicodeEncodeError:
            raise JsonError(f"{value.path}: has half of a surrogate pair, which is no character") from None


def _encode(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _compact(document: bytes) -> bytes:
    # Not a list of parts: there can be millions, and each takes more than what is in it.
    compact = bytearray()
    for match in _SIGNIFICANT.finditer(document):
        compact += match[0]
    return bytes(compact)
