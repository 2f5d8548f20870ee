"""What a scan found, as SARIF 2.1.0, as JUnit XML and as plain lines. The same findings give the same bytes.

Names and texts come from files of others: what would act on a terminal, an XML reader or a SARIF viewer is shown
as escapes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import quote
from xml.etree import ElementTree as ET

Level: TypeAlias = Literal["error", "warning", "note", "none"]
"""As in SARIF (section 3.27.10); ``none`` is an image that passed."""
STDIN = "-"
"""The file name of findings in what came through standard input."""

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_FINGERPRINT = "sealkeeperFinding/v1"
_ROOT = "%SRCROOT%"
# What tells findings of one rule and image in one file from each other, and stays when lines move.
_IDENTITY = ("object_kind", "namespace", "object_name", "path")
# Control characters, those that turn the direction of writing or cannot be seen, lone surrogates, and what is no
# character: XML 1.0 (section 2.2) cannot even escape most of them.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


@dataclass(frozen=True, slots=True)
class Rule:
    """What findings of one kind have in common.

    Attributes:
        id: stable, lower case with dashes.
        description: in one sentence.
        help: what a person can do.
        level: that its findings have, unless they say otherwise.
    """

    id: str
    description: str
    help: str
    level: Level = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something found at a place.

    Attributes:
        rule_id: of its rule.
        level: how bad it is; ``none``: the image passed.
        message: for a person.
        file: path as it was given; ``-`` for standard input.
        line: from 1; 0 where it cannot be told.
        column: from 1, in characters; 0 where it cannot be told.
        image: that it is about; may be empty.
        properties: more for a machine; ``object_kind``, ``namespace``, ``object_name`` and ``path`` identify the place.
        justification: of the exception that it falls under; ``None`` where it falls under none.
    """

    rule_id: str
    level: Level
    message: str
    file: str
    line: int = 0
    column: int = 0
    image: str = ""
    properties: Mapping[str, str] = field(default_factory=dict)
    justification: str | None = None

    @property
    def fails(self) -> bool:
        """Whether a scan must not pass with it: an error that no exception covers."""
        return self.level == "error" and self.justification is None


def visible(text: str) -> str:
    r"""A text on one line, with characters that are unsafe to print as escapes, for example ``\x1b``."""
    return _UNSAFE.sub(lambda match: _escape(match[0]), text)


def plain(findings: Iterable[Finding]) -> str:
    """A line a finding: ``file:line:column: level: message [rule]``; images that passed are left out."""
    return "".join(f"{_plain_line(one)}\n" for one in _sorted(findings) if one.level != "none")


def sarif(findings: Iterable[Finding], rules: Sequence[Rule], version: str, root: Path | None = None) -> str:
    """A SARIF 2.1.0 log with one run.

    Args:
        findings: in any order.
        rules: of the findings; one that is not among them gets by with its id.
        version: of Sealkeeper.
        root: folder that paths are relative to, as ``%SRCROOT%``; the current one if not given.

    Returns:
        JSON, ASCII.
    """
    base, ordered = (root or Path.cwd()).absolute(), _sorted(findings)
    known = {one.id: one for one in rules}
    ids = sorted(known.keys() | {one.rule_id for one in ordered})
    indexes = {rule_id: index for index, rule_id in enumerate(ids)}
    seen: Counter[str] = Counter()
    run = {
        "tool": {
            "driver": {
                "name": "Sealkeeper",
                "version": version,
                "rules": [_sarif_rule(known.get(one) or Rule(one, one, one)) for one in ids],
            }
        },
        "invocations": [{"executionSuccessful": True}],
        "originalUriBaseIds": {_ROOT: {"description": {"text": "The folder that was scanned from."}}},
        "columnKind": "unicodeCodePoints",
        "results": [_sarif_result(one, indexes[one.rule_id], base, seen) for one in ordered],
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def junit(findings: Iterable[Finding], name: str = "sealkeeper gate scan") -> str:
    """JUnit XML: a test suite a file, a test case for each image at each place, and for each finding about no image.

    Errors are failures; those that an exception covers are skipped tests; warnings and notes are output.

    Returns:
        XML, ASCII.
    """
    suites: dict[str, dict[tuple[Any, ...], list[Finding]]] = {}
    for one in _sorted(findings):
        case = (one.line, one.column, one.image, *_identity(one), "" if one.image else one.rule_id)
        suites.setdefault(one.file, {}).setdefault(case, []).append(one)
    top = ET.Element("testsuites", {"name": visible(name)})
    for file, cases in suites.items():
        suite = ET.SubElement(top, "testsuite", {"name": _display(file)})
        for found in cases.values():
            _junit_case(suite, found)
        _count(suite)
    _count(top)
    ET.indent(top)
    text: bytes = ET.tostring(top, encoding="us-ascii")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text.decode()}\n'


def _sorted(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(
        findings,
        key=lambda one: (
            *(one.file, one.line, one.column, one.image, one.rule_id, one.level, one.message),
            *(one.justification or "", sorted(one.properties.items())),
        ),
    )


def _identity(finding: Finding) -> list[str]:
    return [finding.properties.get(name, "") for name in _IDENTITY]


def _plain_line(finding: Finding) -> str:
    place = "".join(f":{one}" for one in (finding.line, finding.column) if one)
    excepted = "" if finding.justification is None else f" (exception: {finding.justification})"
    return visible(f"{_display(finding.file)}{place}: {finding.level}: {finding.message}{excepted} [{finding.rule_id}]")


def _display(file: str) -> str:
    return "stdin" if file == STDIN else visible(file)


def _sarif_rule(rule: Rule) -> dict[str, object]:
    return {
        "id": visible(rule.id),
        "shortDescription": {"text": _message(rule.description)},
        "fullDescription": {"text": _message(rule.description)},
        "help": {"text": _message(rule.help)},
        "defaultConfiguration": {"level": rule.level},
    }


def _sarif_result(finding: Finding, index: int, base: Path, seen: Counter[str]) -> dict[str, object]:
    passed = finding.level == "none"
    artifact = _artifact(finding.file, base)
    place: dict[str, object] = {"artifactLocation": artifact}
    if finding.line > 0:
        place["region"] = {"startLine": finding.line, **({"startColumn": finding.column} if finding.column > 0 else {})}
    location: dict[str, object] = {"physicalLocation": place}
    if finding.properties.get("path"):
        name = "/".join(one for one in _identity(finding) if one)
        location["logicalLocations"] = [{"fullyQualifiedName": visible(name), "kind": "value"}]
    properties = {visible(name): visible(value) for name, value in sorted(finding.properties.items()) if value}
    result: dict[str, object] = {
        "ruleId": visible(finding.rule_id),
        "ruleIndex": index,
        "kind": "pass" if passed else "fail",
        "level": finding.level,
        "message": {"text": _message(finding.message)},
        "locations": [location],
        "partialFingerprints": {_FINGERPRINT: _fingerprint(finding, artifact["uri"], seen)},
        "properties": {**properties, **({"image": visible(finding.image)} if finding.image else {})},
    }
    if finding.justification is not None:
        suppression = {"kind": "external", "status": "accepted", "justification": visible(finding.justification)}
        result["suppressions"] = [suppression]
    return result


def _message(text: str) -> str:
    # Section 3.11.5: braces are doubled. Section 3.11.6: `[text](target)` is a link, which no file is to put there.
    return visible(text).replace("{", "{{").replace("}", "}}").replace("](", "] (") or "-"


def _artifact(file: str, base: Path) -> dict[str, str]:
    if file == STDIN:
        return {"uri": "stdin"}
    # Not resolved: a symbolic link is reported under the name that it was found by.
    path = Path(os.path.normpath(base / file))
    if path.is_relative_to(base):
        return {"uri": _quoted(path.relative_to(base)), "uriBaseId": _ROOT}
    return {"uri": f"file://{_quoted(path)}"}


def _quoted(path: Path) -> str:
    try:
        # Bytes that are no UTF-8 are in names of files as surrogates (PEP 383).
        data = str(path).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        data = visible(str(path)).encode()
    return quote(data, safe="/")


def _fingerprint(finding: Finding, uri: str, seen: Counter[str]) -> str:
    # Lines are left out, so that a finding stays the same when something is written above it.
    text = json.dumps([finding.rule_id, uri, finding.image, *_identity(finding)])
    digest = hashlib.sha256(text.encode()).hexdigest()
    seen[digest] += 1
    return f"{digest}:{seen[digest]}"


def _junit_case(suite: ET.Element, found: Sequence[Finding]) -> None:
    first = found[0]
    # Without lines where it can be told without, so that a test keeps its name when something is written above it.
    place = "/".join(one for one in _identity(first) if one) or (f"line {first.line}" if first.line else "")
    parts = [first.image or first.rule_id, place]
    case = ET.SubElement(
        suite,
        "testcase",
        {
            "classname": _display(first.file),
            "name": visible(" ".join(one for one in parts if one)),
            "file": _display(first.file),
            **({"line": str(first.line)} if first.line else {}),
        },
    )
    failures = [one for one in found if one.fails]
    excepted = [one for one in found if one.level == "error" and not one.fails]
    for one in failures:
        attributes = {"message": visible(one.message), "type": visible(one.rule_id)}
        ET.SubElement(case, "failure", attributes).text = _plain_line(one)
    if excepted and not failures:
        justifications = "; ".join(visible(one.justification or "") for one in excepted)
        ET.SubElement(case, "skipped", {"message": f"exception: {justifications}"})
    said = [_plain_line(one) for one in found if one.level in {"warning", "note"} or one in excepted]
    if said:
        ET.SubElement(case, "system-out").text = "\n".join(said)


def _count(element: ET.Element) -> None:
    element.set("tests", str(len(list(element.iter("testcase")))))
    element.set("failures", str(sum(case.find("failure") is not None for case in element.iter("testcase"))))
    element.set("errors", "0")
    element.set("skipped", str(len(list(element.iter("skipped")))))


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
