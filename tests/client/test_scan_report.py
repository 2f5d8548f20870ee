"""SARIF, JUnit and plain lines of a scan: what viewers rely on, the same bytes each time, and names that mean harm."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree as ET

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.client.scan_report import Finding, Level, Rule, junit, plain, sarif, visible

RULES = (Rule("unsigned", "No signature.", "Sign it."), Rule("other", "Something else.", "See to it.", "note"))
PLACE = {"object_kind": "Pod", "namespace": "prod", "object_name": "web", "path": "spec.containers[0].image"}
BAD = Finding("unsigned", "error", "has no signature", "a.yaml", 3, 9, "web:1", PLACE)
GOOD = Finding("unsigned", "none", "is signed", "a.yaml", 9, 9, "web:2", {**PLACE, "path": "spec.containers[1].image"})
NOTE = Finding("other", "note", "passed over", "b.yaml")
EXCEPTED = Finding("unsigned", "error", "has no signature", "c.yaml", 1, 1, "web:3", PLACE, justification="until May")
ALL = [BAD, GOOD, NOTE, EXCEPTED]
HOSTILE = '\x1b[31m]]>&<a b="c">\n\r\0\u202e\u2028\ud800\ufffe\U000e0041{0} [click](https://example.com) \x85\x9b'

# What SARIF 2.1.0 demands of the parts that are written, in words of our own; sections of the standard beside them.
TEXT = {"type": "object", "required": ["text"], "properties": {"text": {"type": "string", "minLength": 1}}}
LEVEL = {"enum": ["none", "note", "warning", "error"]}
ARTIFACT = {  # 3.4
    "type": "object",
    "required": ["uri"],
    "properties": {
        "uri": {"type": "string", "pattern": r"^[A-Za-z0-9._~/:%!$&'()*+,;=@-]+$"},
        "uriBaseId": {"type": "string"},
    },
    "additionalProperties": False,
}
REGION = {  # 3.30
    "type": "object",
    "required": ["startLine"],
    "properties": {name: {"type": "integer", "minimum": 1} for name in ("startLine", "startColumn")},
    "additionalProperties": False,
}
LOCATION = {  # 3.28
    "type": "object",
    "required": ["physicalLocation"],
    "properties": {
        "physicalLocation": {
            "type": "object",
            "required": ["artifactLocation"],
            "properties": {"artifactLocation": ARTIFACT, "region": REGION},
            "additionalProperties": False,
        },
        "logicalLocations": {"type": "array", "items": {"type": "object", "required": ["fullyQualifiedName"]}},
    },
    "additionalProperties": False,
}
SUPPRESSION = {  # 3.35
    "type": "object",
    "required": ["kind"],
    "properties": {
        "kind": {"enum": ["inSource", "external"]},
        "status": {"enum": ["accepted", "underReview", "rejected"]},
        "justification": {"type": "string"},
    },
    "additionalProperties": False,
}
RESULT = {  # 3.27; 3.27.10: a result that is no failure has no level.
    "type": "object",
    "required": ["ruleId", "ruleIndex", "kind", "level", "message", "locations", "partialFingerprints"],
    "properties": {
        "ruleId": {"type": "string", "minLength": 1},
        "ruleIndex": {"type": "integer", "minimum": 0},
        "kind": {"enum": ["pass", "fail"]},
        "level": LEVEL,
        "message": TEXT,
        "locations": {"type": "array", "items": LOCATION, "minItems": 1},
        "partialFingerprints": {"type": "object", "additionalProperties": {"type": "string"}},
        "properties": {"type": "object"},
        "suppressions": {"type": "array", "items": SUPPRESSION, "uniqueItems": True},
    },
    "if": {"properties": {"kind": {"const": "pass"}}},
    "then": {"properties": {"level": {"const": "none"}}},
    "else": {"properties": {"level": {"enum": ["note", "warning", "error"]}}},
    "additionalProperties": False,
}
RULE = {  # 3.49
    "type": "object",
    "required": ["id", "shortDescription", "help"],
    "properties": {
        "id": {"type": "string", "minLength": 1},
        "shortDescription": TEXT,
        "fullDescription": TEXT,
        "help": TEXT,
        "defaultConfiguration": {"type": "object", "properties": {"level": LEVEL}, "additionalProperties": False},
    },
    "additionalProperties": False,
}
DRIVER = {
    "type": "object",
    "required": ["name", "version", "rules"],
    "properties": {"rules": {"type": "array", "items": RULE, "uniqueItems": True}},
}
RUN = {  # 3.14
    "type": "object",
    "required": ["tool", "invocations", "results", "columnKind"],
    "properties": {
        "tool": {"type": "object", "required": ["driver"], "properties": {"driver": DRIVER}},
        "invocations": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["executionSuccessful"],
                "properties": {"executionSuccessful": {"type": "boolean"}},
            },
        },
        "originalUriBaseIds": {"type": "object"},
        "columnKind": {"enum": ["utf16CodeUnits", "unicodeCodePoints"]},
        "results": {"type": "array", "items": RESULT},
    },
    "additionalProperties": False,
}
SARIF = jsonschema_rs.validator_for(
    {
        "type": "object",
        "required": ["$schema", "version", "runs"],
        "properties": {"version": {"const": "2.1.0"}, "runs": {"type": "array", "items": RUN, "minItems": 1}},
    }
)


def run_of(findings: list[Finding], rules: tuple[Rule, ...] = RULES, root: Path | None = None) -> Any:
    document = json.loads(sarif(findings, rules, "1.2.3", root))
    SARIF.validate(document)
    (run,) = document["runs"]
    for one in run["results"]:
        # 3.27.6: the index points at the rule of the same id.
        assert run["tool"]["driver"]["rules"][one["ruleIndex"]]["id"] == one["ruleId"]
    return run


def cases(findings: list[Finding]) -> list[ET.Element]:
    return list(ET.fromstring(junit(findings)).iter("testcase"))


def test_a_result_has_its_place_level_rule_and_image() -> None:
    run = run_of(ALL)
    bad, good, note, excepted = run["results"]
    (location,) = bad["locations"]
    assert location["physicalLocation"] == {
        "artifactLocation": {"uri": "a.yaml", "uriBaseId": "%SRCROOT%"},
        "region": {"startLine": 3, "startColumn": 9},
    }
    assert location["logicalLocations"][0]["fullyQualifiedName"] == "Pod/prod/web/spec.containers[0].image"
    assert (bad["kind"], bad["level"], bad["ruleId"]) == ("fail", "error", "unsigned")
    assert bad["properties"]["image"] == "web:1"
    assert (good["kind"], good["level"]) == ("pass", "none")
    assert note["level"] == "note"
    assert "region" not in note["locations"][0]["physicalLocation"]
    assert run["tool"]["driver"]["version"] == "1.2.3"
    assert "suppressions" not in bad
    assert excepted["suppressions"] == [{"kind": "external", "status": "accepted", "justification": "until May"}]


def test_rules_are_there_with_their_help_and_unknown_ones_get_by() -> None:
    rules = run_of([Finding("new", "error", "x", "a")])["tool"]["driver"]["rules"]
    assert [one["id"] for one in rules] == ["new", "other", "unsigned"]
    assert rules[2]["help"]["text"] == "Sign it."
    assert rules[1]["defaultConfiguration"] == {"level": "note"}


@pytest.mark.parametrize(
    "write", [lambda found: sarif(found, RULES, "1"), junit, plain], ids=["sarif", "junit", "plain"]
)
def test_the_order_of_findings_changes_no_byte(write: Any) -> None:
    findings = [*ALL, BAD, Finding("unsigned", "error", "else", "a.yaml", 3, 9, "web:1", {**PLACE, "namespace": "dev"})]
    expected = write(findings)
    for seed in range(5):
        assert write(random.Random(seed).sample(findings, len(findings))) == expected


def fingerprints(findings: list[Finding]) -> list[str]:
    return [one["partialFingerprints"]["sealkeeperFinding/v1"] for one in run_of(findings)["results"]]


def test_a_fingerprint_stays_when_lines_move_and_differs_by_place_image_and_rule() -> None:
    moved = Finding("unsigned", "error", "in other words", "a.yaml", 40, 2, "web:1", PLACE)
    assert fingerprints([BAD]) == fingerprints([moved])
    others = [
        Finding("other", "error", "x", "a.yaml", 3, 9, "web:1", PLACE),
        Finding("unsigned", "error", "x", "z.yaml", 3, 9, "web:1", PLACE),
        Finding("unsigned", "error", "x", "a.yaml", 3, 9, "web:9", PLACE),
        Finding("unsigned", "error", "x", "a.yaml", 3, 9, "web:1", {**PLACE, "path": "else"}),
    ]
    assert len({*fingerprints([BAD]), *fingerprints(others)}) == 5


def test_findings_that_are_alike_have_fingerprints_of_their_own() -> None:
    assert len(set(fingerprints([BAD, BAD, BAD]))) == 3


@pytest.mark.parametrize(
    ("file", "uri", "based"),
    [
        ("a/b.yaml", "a/b.yaml", True),
        ("./a//b.yaml", "a/b.yaml", True),
        ("/root/of/it/a.yaml", "a.yaml", True),
        ("a b#?%:.yaml", "a%20b%23%3F%25%3A.yaml", True),
        ("ä.yaml", "%C3%A4.yaml", True),
        ("\udcff.yaml", "%FF.yaml", True),
        ("a\nb.yaml", "a%0Ab.yaml", True),
        ("../other.yaml", "file:///root/of/other.yaml", False),
        ("/etc/x y.yaml", "file:///etc/x%20y.yaml", False),
        ("-", "stdin", False),
    ],
)
def test_paths_are_uris_relative_to_the_root_or_absolute(file: str, uri: str, based: bool) -> None:
    (result,) = run_of([Finding("unsigned", "error", "x", file)], root=Path("/root/of/it"))["results"]
    artifact = result["locations"][0]["physicalLocation"]["artifactLocation"]
    assert artifact == {"uri": uri, **({"uriBaseId": "%SRCROOT%"} if based else {})}


def test_no_message_can_put_a_link_or_a_placeholder_into_a_viewer() -> None:
    (result,) = run_of([Finding("unsigned", "error", HOSTILE, "a")])["results"]
    text = result["message"]["text"]
    assert "](" not in text
    assert "{{0}}" in text


def test_a_test_case_is_an_image_at_a_place() -> None:
    again = Finding("other", "warning", "old", "a.yaml", 3, 9, "web:1", PLACE)
    found = cases([*ALL, again])
    assert [(one.get("classname"), one.get("name")) for one in found] == [
        ("a.yaml", "web:1 Pod/prod/web/spec.containers[0].image"),
        ("a.yaml", "web:2 Pod/prod/web/spec.containers[1].image"),
        ("b.yaml", "other"),
        ("c.yaml", "web:3 Pod/prod/web/spec.containers[0].image"),
    ]
    first, passed, note, excepted = found
    (failure,) = first.findall("failure")
    assert (failure.get("message"), failure.get("type")) == ("has no signature", "unsigned")
    assert failure.text == "a.yaml:3:9: error: has no signature [unsigned]"
    assert "old" in (first.findtext("system-out") or "")
    assert list(passed) == []
    assert note.find("failure") is None
    assert excepted.find("failure") is None
    assert "until May" in str(excepted.find("skipped").attrib)  # type: ignore[union-attr]


def test_junit_counts_what_it_has() -> None:
    top = ET.fromstring(junit([*ALL, BAD]))
    assert (top.get("tests"), top.get("failures"), top.get("errors"), top.get("skipped")) == ("4", "1", "0", "1")
    first = top.find("testsuite")
    assert first is not None
    assert (first.get("name"), first.get("tests"), first.get("failures")) == ("a.yaml", "2", "1")


def test_an_exception_does_not_hide_another_failure_of_the_same_image() -> None:
    other = Finding("other", "error", "else", "c.yaml", 1, 1, "web:3", PLACE)
    (case,) = cases([EXCEPTED, other])
    assert case.find("failure") is not None
    assert case.find("skipped") is None
    assert [one.fails for one in (BAD, GOOD, NOTE, EXCEPTED)] == [True, False, False, False]


def test_plain_lines_say_place_level_and_rule_and_leave_out_what_passed() -> None:
    assert plain(ALL) == (
        "a.yaml:3:9: error: has no signature [unsigned]\n"
        "b.yaml: note: passed over [other]\n"
        "c.yaml:1:1: error: has no signature (exception: until May) [unsigned]\n"
    )
    assert plain([Finding("other", "note", "x", "-", 1, 1)]) == "stdin:1:1: note: x [other]\n"


def test_no_findings_make_empty_reports() -> None:
    assert run_of([])["results"] == []
    assert cases([]) == []
    assert plain([]) == ""


def test_hostile_names_become_escapes() -> None:
    finding = Finding(HOSTILE, "error", HOSTILE, HOSTILE, 1, 1, HOSTILE, {"path": HOSTILE, HOSTILE: HOSTILE}, HOSTILE)
    failing = Finding(HOSTILE, "error", HOSTILE, HOSTILE, 2, 1, HOSTILE, {"path": HOSTILE})
    line = plain([finding])
    assert line.count("\n") == 1
    assert line[:-1].isprintable()
    run_of([finding, failing], (Rule(HOSTILE, HOSTILE, HOSTILE),))
    (excepted, failed) = cases([finding, failing])
    assert r"\x1b[31m" in str(failed.get("name"))
    assert failed.findtext("failure")
    assert excepted.find("skipped") is not None
    assert visible("a\nb\u202e\U000e0041") == r"a\x0ab\u202e\U000e0041"


LEVELS: list[Level] = ["error", "warning", "note", "none"]
ANY = st.text(st.characters(), max_size=12)
FILES = ANY.filter(bool) | st.just("-")
FINDINGS = st.builds(
    Finding,
    ANY.filter(bool),
    st.sampled_from(LEVELS),
    ANY,
    FILES,
    st.integers(0, 5),
    st.integers(0, 5),
    ANY,
    st.dictionaries(st.sampled_from(["path", "object_kind", "x"]), ANY),
    st.none() | ANY,
)


@given(st.lists(FINDINGS, max_size=6))
def test_whatever_is_found_the_reports_are_well_formed(findings: list[Finding]) -> None:
    results = run_of(findings)["results"]
    assert len(results) == len(findings)
    for one in results:
        unquote_to_bytes(one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"])
    failing = [one for one in findings if one.fails]
    assert sum(len(one.findall("failure")) for one in cases(findings)) == len(failing)
    assert plain(findings).count("\n") == sum(one.level != "none" for one in findings)
