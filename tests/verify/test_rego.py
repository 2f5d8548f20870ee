"""Rego modules decide within bounds: what never ends, eats memory or kills the interpreter is an error and no pass."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealkeeper.verify import rego
from sealkeeper.verify.errors import (
    RegoError,
    RegoFailedError,
    RegoMemoryError,
    RegoMissingError,
    RegoTimeoutError,
    VerifyError,
)
from sealkeeper.verify.rego import RegoModule, RegoResult, RegoRunner, check_module
from sealkeeper.verify.rego_plan import BUILT_INS
from sealkeeper.verify.rego_process import RegoProcess

HEAD = "package sealkeeper.gate\n\nimport rego.v1\n\n"
NEVER_ENDS = 'deny contains "x" if regex.match("(a+)+$", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!")'
TOO_DEEP = "allow if json.unmarshal(input.text)"
DEEP = {"text": "[" * 200_000 + "]" * 200_000}
PATIENT = 60.0
"""Seconds; for tests that are not about time, on a machine that is busy."""
ECHO = """
sizes(x) := count(x) if is_array(x)
sizes(x) := count(x) if is_object(x)
sizes(x) := 0 if { not is_array(x); not is_object(x) }
deny contains sprintf("%v", [[sizes(input.document), input.document == input.same]])
"""
FLOATS = st.floats(-1e300, 1e300).filter(lambda one: one == 0 or abs(one) > 1e-300)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | FLOATS | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=20,
)


ORDERED = (
    st.integers(-(2**70), 2**70)
    | st.integers(-20, 20)
    | st.integers(-(10**9), 10**9).map(lambda one: one / 1000)
    # Others are ordered by their spelling in JSON, quotation marks among it.
    | st.text(st.characters(min_codepoint=0x23, exclude_categories=["Cs"], exclude_characters="\\"), max_size=3)
)
KNOWN_ANSWERS = r"""
    abs(-3) == 3
    round(2.6) == 3
    ceil(2.1) == 3
    floor(2.9) == 2
    5 % 3 == 2
    numbers.range(1, 3) == [1, 2, 3]
    numbers.range(3, 1) == [3, 2, 1]
    numbers.range_step(1, 5, 2) == [1, 3, 5]
    bits.and(6, 3) == 2
    bits.or(6, 3) == 7
    bits.xor(6, 3) == 5
    bits.lsh(1, 3) == 8
    bits.rsh(8, 3) == 1
    count([1, 2]) == 2
    count({"a": 1}) == 1
    count({1, 2}) == 2
    count("abc") == 3
    sum([1, 2.5]) == 3.5
    product([2, 3]) == 6
    array.concat([1], [2]) == [1, 2]
    array.reverse([1, 2]) == [2, 1]
    array.slice([1, 2, 3], 1, 2) == [2]
    union({{1}, {2}}) == {1, 2}
    intersection({{1, 2}, {2}}) == {2}
    {1} | {2} == {1, 2}
    {1, 2} & {2} == {2}
    {1, 2} - {2} == {1}
    object.get({"a": 1}, "b", 2) == 2
    object.get({"a": {"b": 1}}, ["a", "b"], 2) == 1
    object.keys({"a": 1, "b": 2}) == {"a", "b"}
    object.remove({"a": 1, "b": 2}, ["a"]) == {"b": 2}
    object.filter({"a": 1, "b": 2}, ["a"]) == {"a": 1}
    object.union({"a": 1}, {"a": 2, "b": 3}) == {"a": 2, "b": 3}
    object.union_n([{"a": 1}, {"b": 2}]) == {"a": 1, "b": 2}
    object.subset({"a": 1, "b": 2}, {"a": 1})
    not object.subset({"a": 1}, {"a": 2})
    concat(",", ["a", "b"]) == "a,b"
    contains("abc", "bc")
    not contains("abc", "x")
    startswith("abc", "ab")
    endswith("abc", "bc")
    indexof("abc", "c") == 2
    indexof("abc", "x") == -1
    indexof_n("abab", "b") == [1, 3]
    lower("AbC") == "abc"
    upper("aBc") == "ABC"
    replace("aXaX", "X", "b") == "abab"
    strings.replace_n({"a": "1", "b": "2"}, "ab") == "12"
    strings.reverse("abc") == "cba"
    strings.any_prefix_match("abc", ["x", "ab"])
    strings.any_suffix_match("abc", ["x", "bc"])
    strings.count("abab", "ab") == 2
    split("a/b/c", "/") == ["a", "b", "c"]
    substring("abcd", 1, 2) == "bc"
    substring("abcd", 1, -1) == "bcd"
    trim("xax", "x") == "a"
    trim_left("xax", "x") == "ax"
    trim_right("xax", "x") == "xa"
    trim_prefix("abc", "a") == "bc"
    trim_suffix("abc", "c") == "ab"
    trim_space(" a ") == "a"
    sprintf("%s-%d-%v", ["a", 7, [1]]) == "a-7-[1]"
    format_int(255, 16) == "ff"
    to_number("12.5") == 12.5
    is_string("a")
    is_number(1)
    is_boolean(true)
    is_null(null)
    is_array([])
    is_object({})
    is_set(set())
    not is_string(1)
    type_name(1) == "number"
    regex.match(`^v[0-9]+\.[0-9]+$`, "v1.20")
    not regex.match(`^v[0-9]+\.[0-9]+$`, "v1x20")
    regex.match(`a.c`, "xabcx")
    regex.is_valid(`(a)`)
    not regex.is_valid(`(a`)
    regex.split(`,+`, "a,,b") == ["a", "b"]
    regex.replace("abc", `b`, "x") == "axc"
    regex.find_n(`[0-9]+`, "1 22 3", 2) == ["1", "22"]
    regex.find_n(`[0-9]+`, "1 22 3", -1) == ["1", "22", "3"]
    regex.find_all_string_submatch_n(`([a-z])([0-9])`, "a1 b2", -1) == [["a1", "a", "1"], ["b2", "b", "2"]]
    regex.template_match("urn:{.*}", "urn:x", "{", "}")
    glob.match("*.example.com", ["."], "api.example.com")
    not glob.match("*.example.com", ["."], "a.b.example.com")
    glob.match("**.example.com", ["."], "a.b.example.com")
    glob.match("refs/heads/*", ["/"], "refs/heads/main")
    not glob.match("refs/heads/*", ["/"], "refs/heads/a/b")
    glob.match("{a,b}c", [], "bc")
    semver.is_valid("1.2.3")
    not semver.is_valid("1.2")
    time.parse_rfc3339_ns("2026-01-01T00:00:00+00:00") == 1767225600000000000
    time.parse_rfc3339_ns("2026-01-01T00:00:00+02:00") == 1767218400000000000
    time.parse_ns("2006-01-02", "2026-01-01") == 1767225600000000000
    time.parse_duration_ns("1h30m") == 5400000000000
    time.add_date(1767225600000000000, 0, 1, 1) == 1769990400000000000
    time.diff(1767225600000000000, 1767312000000000000) == [0, 0, 1, 0, 0, 0]
    time.date(1767225600000000000) == [2026, 1, 1]
    time.clock(1767229200000000000) == [1, 0, 0]
    time.weekday(1767225600000000000) == "Thursday"
    json.marshal({"a": [1, "b"]}) == `{"a":[1,"b"]}`
    json.unmarshal(`{"a":[1,"b"]}`) == {"a": [1, "b"]}
    json.is_valid(`{}`)
    not json.is_valid(`{`)
    json.filter({"a": {"b": 1, "c": 2}}, ["a/b"]) == {"a": {"b": 1}}
    json.remove({"a": {"b": 1, "c": 2}}, ["a/b"]) == {"a": {"c": 2}}
    json.patch({"a": 1}, [{"op": "add", "path": "/b", "value": 2}]) == {"a": 1, "b": 2}
    yaml.unmarshal("a: 1") == {"a": 1}
    base64.encode("hello") == "aGVsbG8="
    base64.decode("aGVsbG8=") == "hello"
    base64.is_valid("aGVsbG8=")
    base64url.encode("a?b>") == "YT9iPg=="
    base64url.encode_no_pad("a") == "YQ"
    base64url.decode("YT9iPg==") == "a?b>"
    hex.decode("6162") == "ab"
    urlquery.decode("a%20b") == "a b"
    crypto.sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    graph.reachable({"a": ["b"], "b": []}, {"a"}) == {"a", "b"}
    units.parse("10K") == 10000
    units.parse_bytes("1KiB") == 1024
    "a" < "b"
    "10" < "9"
    1 + 1 == 2
    y := [1 == 1, 1 == 2, {1} == {1.0}, "a" == "a", "1" == 1]; y == [true, false, true, true, false]
    3 - 1 == 2
    2 * 3 == 6
    7 / 2 == 3.5
    not 1 != 1
    9 <= 10
    10 >= 9
    10 > 9
    not 9 > 10
    9 < 10
    -10 < -9
    9.5 < 100
    1e2 == 100
    2 in [1, 2]
    not 3 in [1, 2]
    "a", 1 in {"a": 1}
    print("x")
    $"a{1}" == "a1"
    [p | walk({"a": [7]}, [p, v]); v == 7] == [["a", 0]]
"""


@pytest.fixture(scope="module")
def runner() -> Iterator[RegoRunner]:
    with RegoRunner(timeout=PATIENT) as one:
        yield one


def module(rules: str) -> RegoModule:
    return RegoModule(HEAD + rules)


def unchecked(rules: str) -> RegoModule:
    """As one that an interpreter of another version has found good."""
    one = object.__new__(RegoModule)
    object.__setattr__(one, "text", HEAD + rules)
    return one


def pid_of(runner: RegoRunner) -> int:
    (process,) = runner._idle
    return process.pid


def runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


DENY = 'deny contains msg if { some one in input.list; one > 3; msg := sprintf("%d is too big", [one]) }'


@pytest.mark.parametrize(
    ("rules", "document", "expected"),
    [
        (DENY, {"list": [1, 2]}, RegoResult(True)),
        (DENY, {"list": [5, 1, 4]}, RegoResult(False, ("4 is too big", "5 is too big"))),
        (DENY, {}, RegoResult(True)),
        ("allow if input.level >= 3", {"level": 3}, RegoResult(True)),
        ("allow if input.level >= 3", {"level": 2}, RegoResult(False, ("allow is undefined",))),
        ("default allow := false\nallow if input.level >= 3", {}, RegoResult(False, ("allow is not true",))),
        ("allow := 1", {}, RegoResult(False, ("allow is not true",))),
        ('allow := "true"', {}, RegoResult(False, ("allow is not true",))),
        ("allow := [true]", {}, RegoResult(False, ("allow is not true",))),
        (f"{DENY}\nallow if count(deny) == 0", {"list": []}, RegoResult(True)),
        (f"{DENY}\nallow if input.level == 3", {"list": []}, RegoResult(False, ("allow is undefined",))),
        (f"{DENY}\nallow := true", {"list": [4]}, RegoResult(False, ("4 is too big",))),
        ("deny if input.level < 3", {"level": 3}, RegoResult(False, ("deny is undefined",))),
        ("deny if input.level < 3", {"level": 2}, RegoResult(False, ("deny is not a set of texts",))),
        ("deny := {}", {}, RegoResult(False, ("deny is not a set of texts",))),
        ('deny contains {"level": input.level} if true', {"level": 2}, RegoResult(False, ('{"level": 2}',))),
        ('deny contains "" if true', {}, RegoResult(False, ("no reason is given",))),
        ("allow if input.a == 1 with input as {}", {"a": 1}, RegoResult(False, ("allow is undefined",))),
    ],
)
def test_a_module_passes_only_with_an_empty_deny_and_a_true_allow(
    runner: RegoRunner, rules: str, document: dict[str, Any], expected: RegoResult
) -> None:
    assert runner.evaluate(module(rules), document) == expected


@pytest.mark.parametrize(
    "rules",
    [
        "allow if { every one in input.list { one.a > 1; count(one.b) == 2 } }",
        "allow if input.kind in {1, 2, `a`}",
        "f(x, y) := z if { z := x + y } else := 3 if { x > 1 }\nallow if f(1, 2) == 3",
        "names := {k: v | some k, v in input.names}\ndeny contains k if { some k; names[k] == 1; not input.known[k] }",
        'allow if { [a, b] := [1, 2]; a < b; {"x": c} = input; c == 1 }',
        "allow if { walk(input, [path, value]); value == 1; count(path) > 2 }",
        "f(1) if true\nf([x, y]) if x == y\nallow if f(input.a)",
        "default f(_) := false\nf(x) if x == 1\nallow := f(1)",
        "known[x] := y if { some x, y in input.m }\nallow if known.a == 1",
        "allow if { some a, b; input.x[a][b] == 3; a != b }",
        "allow if { input.x[_] == 1; input.x[i] == input.y[i] }",
        "import data.sealkeeper.gate as g\nallow := g.b\nb := true",
        "a.b.c := 1\nallow if a.b.c == 1",
        "allow if { not any_of }\nany_of if input.a\nany_of if input.b",
        'deny contains m if { n := count({a.party | some a in input.list}); n < 2; m := $"only {n}" }',
        'allow if { regex.match(`^v[0-9]+\\.`, input.ref); startswith(input.a, "refs/"); print("é😀", input.a) }',
        'allow if { input["a b"]["é"] == 1; input.x == "\\"\\\\\\n\\t" }',
    ],
)
def test_usual_modules_are_found_good(runner: RegoRunner, rules: str) -> None:
    runner.check(HEAD + rules)


@pytest.mark.parametrize(
    "body",
    ["not one < 0", "not f(one)", "count([x | some x in one; x < 0]) == 0", "every x in one { not x < 0 }"],
)
def test_a_variable_of_every_that_the_interpreter_loses_is_told(runner: RegoRunner, body: str) -> None:
    with pytest.raises(RegoError, match="stands for nothing"):
        runner.check(f"{HEAD}allow if {{ every one in input.list {{ {body} }} }}\nf(x) if x < 0")


@pytest.mark.parametrize(
    ("rules", "line", "column", "problem"),
    [
        ("allow if {\n  foo(\n}", 6, 6, "unclosed"),
        ('# é😀é\nallow if { "é😀" == foo( }', 6, 23, "unclosed"),
        ("allow if {", 5, 10, "unclosed"),
        ("allow if nosuch(1)", 5, 10, "no function nosuch"),
        ('allow if { input.x == "é😀"; nosuch(1) }', 5, 29, "no function nosuch"),
        ('deny contains "x" if { input.a == 1; undeclared > 1 }', 5, 38, "stands for nothing"),
        ('deny contains "x" if not undeclared', 5, 19, "stands for nothing"),
        ("deny contains msg if input.a", 5, 22, "stands for nothing"),
        ('allow if { some one in input.list; one == "x"; [x | x := other.z] }', 5, 53, "stands for nothing"),
        ("allow if helper\nhelper if other\nother if helper", 0, 0, "rests on itself"),
        ("allow if f(1)\nf(x) := f(x + 1)", 0, 0, "rests on itself"),
        ("permit := true", 0, 0, "deny or allow"),
        ("allow(x) if x == 1", 0, 0, "deny or allow"),
        ('allow := true\ndeny.level contains "x" if true', 0, 0, "deny.level"),
        ('allow if input.x == "\\u0041"', 0, 0, "write the character itself"),
        ('allow if input.x == "a\\/b"', 0, 0, "write the character itself"),
        ('allow if input["\\u0041"]', 0, 0, "write the character itself"),
    ],
)
def test_what_is_wrong_with_a_module_is_told_with_its_place(
    runner: RegoRunner, rules: str, line: int, column: int, problem: str
) -> None:
    with pytest.raises(RegoError, match=problem) as caught:
        runner.check(HEAD + rules)
    assert caught.value.reason == "REGO_INVALID"
    if line:
        assert (caught.value.line, caught.value.column) == (line, column)
        assert str(caught.value).startswith(f"line {line}, column {column}: ")


@pytest.mark.parametrize(
    "call",
    [
        'http.send({"method": "GET", "url": "http://127.0.0.1/"})',
        'net.lookup_ip_addr("localhost")',
        "opa.runtime()",
        'opa["runtime"]()',
        "time.now_ns()",
        'rand.intn("x", 5)',
        'uuid.rfc4122("x")',
    ],
)
def test_a_built_in_that_reaches_outside_is_refused(runner: RegoRunner, call: str) -> None:
    with pytest.raises(RegoError, match=r"not allowed|no function"):
        runner.check(f"{HEAD}deny contains x if x := {call}")


@pytest.mark.parametrize("expression", [one.strip() for one in KNOWN_ANSWERS.strip().splitlines()])
def test_a_built_in_answers_as_it_should(runner: RegoRunner, expression: str) -> None:
    assert runner.evaluate(unchecked(f"allow if {{ {expression} }}"), {}) == RegoResult(True)


def test_every_built_in_that_a_module_can_call_has_a_known_answer() -> None:
    operators = {
        "equal": "==",
        "gt": ">",
        "gte": ">=",
        "lt": "<",
        "lte": "<=",
        "neq": "!=",
        "plus": "+",
        "minus": "-",
        "mul": "*",
    }
    operators |= {
        "div": "/",
        "rem": "%",
        "and": "&",
        "or": "|",
        "internal.member_2": " in ",
        "internal.print": "print(",
    }
    operators |= {"internal.member_3": ", 1 in ", "internal.template_string": '$"'}
    missing = {one for one in BUILT_INS if operators.get(one, f"{one}(") not in KNOWN_ANSWERS}
    assert not missing


@pytest.mark.parametrize(
    "call",
    [
        "max([9, 10])",
        "min([9, 10])",
        "sort([9, 10])",
        'semver.compare("1.10.0", "1.9.0")',
        'hex.encode("é")',
        'io.jwt.decode_verify("x", {})',
    ],
)
def test_a_built_in_that_answers_wrongly_is_refused(runner: RegoRunner, call: str) -> None:
    with pytest.raises(RegoError, match="not a"):
        runner.check(f"{HEAD}allow if {call}")


@settings(max_examples=200, deadline=None)
@given(ORDERED, ORDERED)
def test_values_are_ordered_in_rego_as_in_python(runner: RegoRunner, one: Any, other: Any) -> None:
    if isinstance(one, str) is isinstance(other, str):
        answer = runner.evaluate(module("allow if input.one < input.other"), {"one": one, "other": other})
        assert answer.allowed is (one < other)


def test_a_text_or_a_comment_that_names_such_a_built_in_is_not(runner: RegoRunner) -> None:
    runner.check(f'{HEAD}# http.send(1)\ndeny contains "http.send({{}}) time.now_ns()" if input.x')


@pytest.mark.parametrize(
    "text",
    [
        "",
        "allow := true",
        "package other\nallow := true",
        "package sealkeeper.gate.more\nallow := true",
        "package sealkeeper\ngate.allow := true",
        'package sealkeeper["gate"]\nallow := true',
        "# package sealkeeper.gate\npackage other\nallow := true",
        "package other\npackage sealkeeper.gate\nallow := true",
        "\ufeffpackage sealkeeper.gate\nallow := true",
        "package sealkeeper.gate\nallow := true\npackage other",
    ],
)
def test_a_module_of_another_package_is_refused(runner: RegoRunner, text: str) -> None:
    with pytest.raises(RegoError):
        runner.check(text)


GOOD = f"""{HEAD}trusted := {{"release", "ci"}}
{DENY}
deny contains msg if {{ count(known) < 1; msg := "no attestation of a known signer" }}
known contains one.digest if {{ some one in input.attestations; some name in one.signer.names; name in trusted }}
allow if {{ input.level >= 3; every one in input.list {{ one >= 0 }} }}
"""


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(GOOD)), st.integers(0, 30), st.text(max_size=8) | st.sampled_from(list('{}[]()"`#:=|;.\\\n')))
def test_a_damaged_module_is_refused_or_evaluated_and_ends_nothing(
    runner: RegoRunner, start: int, length: int, added: str
) -> None:
    runner.check(GOOD)
    before = pid_of(runner)
    with suppress(RegoError):
        runner.check(GOOD[:start] + added + GOOD[start + length :])
    assert pid_of(runner) == before


def test_comments_before_the_package_are_fine(runner: RegoRunner) -> None:
    runner.check("# METADATA\n# title: ours\n\n  # more\r\npackage sealkeeper.gate\nallow := true\n")


@pytest.mark.parametrize("text", [HEAD + "allow := true\n#\0", HEAD + "allow := true\n# \ud800"])
def test_what_the_interpreter_would_not_read_whole_is_refused(text: str) -> None:
    with pytest.raises(RegoError, match="line 6, column"):
        check_module(text)


def test_a_module_is_at_most_64_kib(runner: RegoRunner) -> None:
    most = HEAD + "allow := true\n#"
    most += "x" * (rego.MAX_MODULE - len(most))
    runner.check(most)
    with pytest.raises(RegoError, match="65537 bytes"):
        runner.check(most + "x")
    with pytest.raises(RegoError, match="bytes"):
        RegoModule(most[:-1] + "é")


def test_a_module_is_checked_when_it_is_made() -> None:
    with pytest.raises(RegoError, match="line 5, column 10"):
        RegoModule(HEAD + "allow if nosuch(1)")


def test_what_was_found_good_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    text = HEAD + "allow if input.asked == 1"
    check_module(text)
    monkeypatch.setattr(subprocess, "Popen", None)
    check_module(text)


@pytest.mark.parametrize(
    "rules",
    [
        'deny contains "x" if 1 / 0 > 1',
        'deny contains "x" if to_number(input.text) > 1',
        'allow := true\ndeny contains "x" if json.unmarshal(input.text).a',
        "allow := true\nallow := false",
        "allow if data.sealkeeper.gate[input.rule]",
    ],
)
def test_an_evaluation_that_fails_is_no_pass(runner: RegoRunner, rules: str) -> None:
    with pytest.raises(RegoFailedError, match="cannot be evaluated") as caught:
        runner.evaluate(module(rules), {"text": "{", "rule": "allow"})
    assert caught.value.reason == "REGO_FAILED"


@pytest.mark.parametrize(
    "rules",
    [
        NEVER_ENDS,
        "allow if { n := numbers.range(1, 3000); some a in n; some b in n; some c in n; a + b + c < 0 }",
    ],
)
def test_a_module_that_never_ends_is_ended(rules: str) -> None:
    never, good = module(rules), module(DENY)
    with RegoRunner(timeout=1.0) as short:
        with pytest.raises(RegoTimeoutError, match="after 1 seconds") as caught:
            short.evaluate(never, {})
        assert caught.value.reason == "REGO_TIMEOUT"
        assert not short._idle
        assert short.evaluate(good, {"list": []}).allowed


@pytest.mark.parametrize(
    "rules",
    [
        "allow if count(numbers.range(1, 1000000000)) > 1",
        "allow if { all := [s | some a in numbers.range(1, 1000); some b in numbers.range(1, 1000);\n"
        ' s := sprintf("%d %d and more than that, so that it takes a while", [a, b])]; count(all) > 1 }',
        'a := "xxxxxxxxxxxxxxxx"\n'
        + "".join(f'{chr(98 + one)} := concat("", [{", ".join([chr(97 + one)] * 8)}])\n' for one in range(10))
        + "allow if count(k) > 1",
    ],
)
def test_a_module_that_eats_memory_is_ended(rules: str) -> None:
    hungry, good = module(rules), module(DENY)
    with RegoRunner(timeout=PATIENT, memory=64 * 2**20) as small:
        with pytest.raises(RegoMemoryError, match="64 MiB") as caught:
            small.evaluate(hungry, {})
        assert caught.value.reason == "REGO_MEMORY"
        assert not small._idle
        assert small.evaluate(good, {"list": []}).allowed


def test_a_text_that_is_nested_too_deep_ends_the_interpreter_and_nothing_else(runner: RegoRunner) -> None:
    with pytest.raises(RegoFailedError, match="died") as caught:
        runner.check(f"{HEAD}allow := {'[' * 30_000}{']' * 30_000}")
    assert caught.value.reason == "REGO_FAILED"
    assert runner.evaluate(module(DENY), {"list": []}).allowed


def test_an_evaluation_that_overflows_the_stack_ends_the_interpreter_and_nothing_else(runner: RegoRunner) -> None:
    with pytest.raises(RegoFailedError, match="died"):
        runner.evaluate(module(TOO_DEEP), DEEP)
    assert runner.evaluate(module(DENY), {"list": []}).allowed


def test_a_module_that_was_never_checked_is_checked_where_it_is_evaluated(runner: RegoRunner) -> None:
    with pytest.raises(RegoError, match=r"opa\.runtime"):
        runner.evaluate(unchecked("deny contains x if x := opa.runtime()"), {})


@pytest.mark.parametrize(
    "text",
    [
        'x"}, "level": 3, "y": {"z": "',
        'x", "level": 3, "',
        '"]} # ',
        "\\",
        '\\"',
        "\\u0041",
        "a\0b",
        "a\nb\r\t\x7f\u2028\u202e",
        "${input.level} {input.level} `raw`",
        "é😀\ufeff\U0010ffff",
        "http.send",
        "data.sealkeeper.gate",
        "",
    ],
)
def test_a_text_in_the_input_is_a_text_and_nothing_else(runner: RegoRunner, text: str) -> None:
    same = module("allow if { input.text == input.list[0]; input.names[input.text] == 1; count(input) == 3 }")
    assert runner.evaluate(same, {"text": text, "list": [text], "names": {text: 1}}).allowed
    assert not runner.evaluate(same, {"text": text, "list": [text + "x"], "names": {text: 1}}).allowed
    level = module("allow if input.level == 3")
    assert not runner.evaluate(level, {"text": text, text + "level": 3}).allowed or text == ""


@pytest.mark.parametrize("text", ["A", 'a"b', "a\\b", "a\nb", "a/b", "é😀", "\x01", "\x1f", "\u2028"])
def test_a_text_in_the_input_equals_the_same_text_in_a_module(runner: RegoRunner, text: str) -> None:
    literal = json.dumps(text, ensure_ascii=False)
    assert runner.evaluate(module(f"allow if input.text == {literal}"), {"text": text}).allowed


@settings(max_examples=150, deadline=None)
@given(JSON)
def test_the_interpreter_sees_of_a_document_what_python_does(runner: RegoRunner, document: Any) -> None:
    size = len(document) if isinstance(document, (list, dict)) else 0
    answer = runner.evaluate(module(ECHO), {"document": document, "same": document})
    assert answer == RegoResult(False, (f"[{size}, true]",))


@settings(max_examples=100, deadline=None)
@given(JSON, JSON)
def test_two_documents_are_equal_in_rego_where_they_are_in_json(runner: RegoRunner, one: Any, other: Any) -> None:
    answer = runner.evaluate(module("allow if input.one == input.other"), {"one": one, "other": other})
    assert answer.allowed is (_typed(one) == _typed(other))


def _typed(document: Any) -> Any:
    """For Python, True is 1."""
    if isinstance(document, dict):
        return {name: _typed(one) for name, one in document.items()}
    if isinstance(document, list):
        return [_typed(one) for one in document]
    return ("truth", document) if isinstance(document, bool) else document


def test_reasons_are_bounded_and_show_on_a_screen(runner: RegoRunner) -> None:
    many = runner.evaluate(
        module("deny contains one if some one in input.list"), {"list": [f"{n:04}" for n in range(120)]}
    )
    assert len(many.reasons) == rego.MAX_REASONS
    assert many.reasons[0] == "0000"
    assert many.reasons[-1] == "and 71 more"
    text = "a\x1b[31mb\u202ec\n\n d\0" + "é" * 1000
    (one,) = runner.evaluate(module("deny contains input.text if true"), {"text": text}).reasons
    assert one.startswith("a [31mb c d éé")
    assert len(one) == rego.MAX_REASON
    assert one.replace(" ", "").isprintable()


@pytest.mark.parametrize(
    "document", [{"x": float("nan")}, {"x": float("inf")}, {"x": "\ud800"}, {"x": object()}, {"x": b"x"}, {("a",): 1}]
)
def test_an_input_that_is_no_json_is_refused(runner: RegoRunner, document: dict[str, Any]) -> None:
    with pytest.raises(RegoFailedError, match="no JSON"):
        runner.evaluate(module(DENY), document)


def test_an_input_that_is_nested_too_deep_is_refused(runner: RegoRunner) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(RegoFailedError, match="no JSON"):
        runner.evaluate(module(DENY), {"x": deep})


def test_an_input_is_at_most_4_mib(runner: RegoRunner) -> None:
    long = module("allow if startswith(input.x, `xx`)")
    assert runner.evaluate(long, {"x": "x" * (rego.MAX_INPUT - 8)}).allowed
    with pytest.raises(RegoFailedError, match="4194305 bytes"):
        runner.evaluate(long, {"x": "x" * (rego.MAX_INPUT - 7)})


def test_any_mapping_can_be_in_an_input(runner: RegoRunner) -> None:
    document = MappingProxyType({"list": (1, 9), "more": MappingProxyType({})})
    assert runner.evaluate(module(DENY), document).reasons == ("9 is too big",)


def test_one_evaluation_knows_nothing_of_the_one_before(runner: RegoRunner) -> None:
    level = module("allow if input.level == 3")
    answers = [runner.evaluate(level, document).allowed for document in ({"level": 3}, {}, {"level": 3}, {"level": 2})]
    assert answers == [True, False, True, False]


def test_more_modules_than_are_kept_compiled_do_not_mix(runner: RegoRunner) -> None:
    for _ in range(2):
        for number in range(70):
            rules = f"allow if input.number == {number}"
            assert runner.evaluate(unchecked(rules), {"number": number}).allowed
            assert not runner.evaluate(unchecked(rules), {"number": number + 1}).allowed


def test_a_process_is_kept_for_the_next_evaluation() -> None:
    good = module(DENY)
    with RegoRunner(timeout=PATIENT) as one:
        one.evaluate(good, {})
        first = pid_of(one)
        one.evaluate(good, {})
        assert pid_of(one) == first


def test_a_process_that_has_served_long_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rego, "_MOST_ASKED", 2)
    good = module(DENY)
    with RegoRunner(timeout=PATIENT) as one:
        one.evaluate(good, {})
        first = pid_of(one)
        one.evaluate(good, {})
        assert not one._idle
        assert not runs(first)
        assert one.evaluate(good, {}).allowed


def test_a_process_that_was_killed_between_two_evaluations_is_replaced() -> None:
    good = module(DENY)
    with RegoRunner(timeout=PATIENT) as one:
        one.evaluate(good, {})
        first = pid_of(one)
        os.kill(first, signal.SIGKILL)
        assert one.evaluate(good, {"list": [9]}).reasons == ("9 is too big",)
        assert pid_of(one) != first
        assert not runs(first)


def test_threads_share_a_runner_and_have_each_its_own_answer() -> None:
    good = module(DENY)
    barrier = Barrier(4)

    def ask(number: int) -> bool:
        barrier.wait()
        return all(
            one.evaluate(good, {"list": [number * 1000 + turn]}).reasons == (f"{number * 1000 + turn} is too big",)
            for turn in range(20)
        )

    with RegoRunner(timeout=PATIENT, workers=2) as one, ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, [1, 2, 3, 4]))
        assert 1 <= len(one._idle) <= 2


def test_a_process_outlives_the_thread_that_started_it() -> None:
    good = module(DENY)
    with RegoRunner(timeout=PATIENT) as one:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(one.evaluate, good, {}).result()
        first = pid_of(one)
        one.evaluate(good, {})
        assert pid_of(one) == first


def test_who_waits_for_a_process_too_long_is_told_so() -> None:
    never, good = module(NEVER_ENDS), module(DENY)
    with RegoRunner(timeout=1.0) as one, ThreadPoolExecutor(1) as pool:
        first = one._free
        assert first.acquire(timeout=0)
        try:
            with pytest.raises(RegoTimeoutError, match="no interpreter was free"):
                pool.submit(one.evaluate, good, {}).result()
        finally:
            first.release()
        with pytest.raises(RegoTimeoutError, match="not through"):
            one.evaluate(never, {})


def test_nothing_is_left_after_close() -> None:
    good = module(DENY)
    one = RegoRunner(timeout=PATIENT)
    one.evaluate(good, {})
    (process,) = one._idle
    folder = Path(process._folder.name)
    assert folder.parent == Path(tempfile.gettempdir())
    assert list(folder.iterdir()) == []
    one.close()
    one.close()
    assert not runs(process.pid)
    assert not folder.exists()
    with pytest.raises(RegoFailedError, match="closed"):
        one.evaluate(good, {})


def test_nothing_is_left_after_a_module_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    never, started = module(NEVER_ENDS), []

    class Noted(RegoProcess):
        def __init__(self, timeout: float, memory: int) -> None:
            super().__init__(timeout, memory)
            started.append(self)

    monkeypatch.setattr(rego, "RegoProcess", Noted)
    with RegoRunner(timeout=0.5) as one, pytest.raises(RegoTimeoutError):
        one.evaluate(never, {})
    (process,) = started
    assert not runs(process.pid)
    assert not Path(process._folder.name).exists()


def test_a_process_at_work_ends_by_itself_where_nobody_is_left_to_kill_it() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [
            sys.executable,
            "-P",
            "-m",
            "sealkeeper.verify.rego_worker",
            str(theirs.fileno()),
            "0.5",
            "100000000",
        ]
        with tempfile.TemporaryDirectory() as folder:
            process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], cwd=folder, env={}, stdin=subprocess.DEVNULL
            )
            theirs.close()
            try:
                body = json.dumps({"module": HEAD + NEVER_ENDS, "input": "{}"}).encode()
                ours.sendall(struct.pack(">I", len(body)) + body)
                assert process.wait(PATIENT) in (-signal.SIGALRM, -signal.SIGXCPU)
            finally:
                process.kill()
                process.wait()


def test_a_process_has_no_environment_few_files_and_no_core_dump(monkeypatch: pytest.MonkeyPatch) -> None:
    start, given_options = subprocess.Popen, []

    def popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        given_options.append(options)
        return start(command, **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    with RegoRunner(timeout=PATIENT) as one:
        one.evaluate(module(DENY), {})
        assert [options["env"] for options in given_options] == [{}] * len(given_options)
        pid = pid_of(one)
        limits = Path(f"/proc/{pid}/limits").read_text(encoding="ascii")
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    rows = {" ".join(row.split()[:-2]) for row in limits.splitlines()}
    assert any(row.startswith("Max core file size 0") for row in rows)
    assert any(row.startswith("Max open files 32") for row in rows)
    assert not any(row.startswith("Max address space unlimited") for row in rows)
    assert "NoNewPrivs:\t1" in status
    assert children == ""


LIAR = """
import json, socket, struct, sys
connection = socket.socket(fileno=int(sys.argv[-3]))
def say(body):
    connection.sendall(struct.pack(">I", len(body)) + body)
say(b'{"status": "ready"}')
connection.recv(100000)
ANSWER
connection.recv(1)
"""


@pytest.mark.parametrize(
    "answer",
    [
        "say(b'nonsense')",
        "say(b'[]')",
        "say(b'[' * 100000)",
        "say(b'{}')",
        "say(json.dumps({'status': 'checked'}).encode())",
        "say(json.dumps({'status': 'evaluated', 'allowed': 1, 'reasons': []}).encode())",
        "say(json.dumps({'status': 'evaluated', 'allowed': True}).encode())",
        "say(json.dumps({'status': 'evaluated', 'allowed': True, 'reasons': ['x']}).encode())",
        "say(json.dumps({'status': 'evaluated', 'allowed': False, 'reasons': []}).encode())",
        "say(json.dumps({'status': 'evaluated', 'allowed': False, 'reasons': ['x'] * 51}).encode())",
        "say(json.dumps({'status': 'evaluated', 'allowed': False, 'reasons': ['x' * 501]}).encode())",
        "say(json.dumps({'status': 'evaluated', 'allowed': False, 'reasons': [1]}).encode())",
        "say(json.dumps({'status': 'failed', 'message': 'x' * 1001}).encode())",
        "connection.sendall(b'\\xff\\xff\\xff\\xff')",
        "sys.exit(0)",
    ],
)
def test_a_process_that_answers_nonsense_is_one_that_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str
) -> None:
    good = module(DENY)
    script = tmp_path / "liar.py"
    script.write_text(LIAR.replace("ANSWER", answer), encoding="utf-8")
    start = subprocess.Popen

    def popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        return start([sys.executable, str(script), *command[-3:]], **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    with RegoRunner(timeout=PATIENT) as one, pytest.raises(RegoFailedError):
        one.evaluate(good, {})


def test_a_missing_interpreter_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    good = module(DENY)
    monkeypatch.setitem(sys.modules, "regopy", None)
    with RegoRunner() as one, pytest.raises(RegoMissingError, match=r"pip install 'sealkeeper\[gate\]'") as caught:
        one.evaluate(good, {})
    assert caught.value.reason == "REGO_MISSING"


def test_every_error_is_one_of_verification() -> None:
    for kind in (RegoError, RegoTimeoutError, RegoMemoryError, RegoFailedError, RegoMissingError):
        assert issubclass(kind, VerifyError)


@pytest.mark.parametrize("options", [{"timeout": 0}, {"memory": 1024}, {"workers": 0}])
def test_bounds_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        RegoRunner(**options)
