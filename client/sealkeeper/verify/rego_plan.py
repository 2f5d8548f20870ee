"""What a compiled Rego module would do, read from its plan (https://www.openpolicyagent.org/docs/latest/ir/).

The interpreter takes a name that means nothing as undefined: a ``deny`` with a typing error in it would never deny, and
``every x in xs { not x < 0 }`` is true of all, as ``x`` is not known there. It compares texts as they are spelled, so
that ``"\\u0041"`` is not ``"A"``. Some of its functions answer wrongly. All that is found before a module is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

PACKAGE = ("sealkeeper", "gate")
_ROOT = "g0.data." + ".".join(PACKAGE) + "."
_INPUT_AND_DATA = 2
BUILT_INS = frozenset(
    """
    equal gt gte lt lte neq plus minus mul div rem and or internal.member_2 internal.member_3 internal.print
    internal.template_string walk
    abs ceil floor round numbers.range numbers.range_step bits.and bits.lsh bits.or bits.rsh bits.xor
    count sum product array.concat array.reverse array.slice union intersection
    object.filter object.get object.keys object.remove object.subset object.union object.union_n
    is_array is_boolean is_null is_number is_object is_set is_string type_name to_number format_int sprintf
    concat contains endswith startswith indexof indexof_n lower upper replace split substring trim trim_left
    trim_prefix trim_right trim_space trim_suffix strings.any_prefix_match strings.any_suffix_match strings.count
    strings.replace_n strings.reverse
    regex.find_all_string_submatch_n regex.find_n regex.is_valid regex.match regex.replace regex.split
    regex.template_match glob.match semver.is_valid
    time.add_date time.clock time.date time.diff time.parse_duration_ns time.parse_ns time.parse_rfc3339_ns time.weekday
    json.filter json.is_valid json.marshal json.patch json.remove json.unmarshal yaml.unmarshal
    base64.decode base64.encode base64.is_valid base64url.decode base64url.encode base64url.encode_no_pad hex.decode
    urlquery.decode crypto.sha256 graph.reachable units.parse units.parse_bytes
    """.split()  # noqa: SIM905  (a hundred lines else)
)
"""What a module can call, operators among it: each is known to answer rightly."""
_UNBOUND = (
    "a name stands for nothing: no variable, rule or import is called so, or it is every's variable in a not or a"
    " comprehension inside, where the interpreter does not know it: make that a function"
)
_OUTSIDE = "everything that a module may know is in input"
_REPEATABLE = "the same input must have the same result"
_AS_TEXTS = "the interpreter orders numbers as if they were texts, 10 before 9"
_REFUSED = {
    "http.": _OUTSIDE,
    "net.lookup_ip_addr": _OUTSIDE,
    "opa.": _OUTSIDE,
    "providers.": _OUTSIDE,
    "time.now_ns": "use input.now",
    "rand.": _REPEATABLE,
    "uuid.": _REPEATABLE,
    "max": _AS_TEXTS,
    "min": _AS_TEXTS,
    "sort": _AS_TEXTS,
    "semver.compare": _AS_TEXTS,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a module.

    Attributes:
        message: for its author.
        line: from 1; 0 where it is not known.
        column: from 1, in bytes; 0 likewise.
    """

    message: str
    line: int = 0
    column: int = 0


@dataclass(slots=True)
class _Function:
    """A rule or function: what it calls, and which of its variables have a value, with the places."""

    calls: list[tuple[str, Fault]] = field(default_factory=list)
    written: set[int] = field(default_factory=set)
    read: dict[int, Fault] = field(default_factory=dict)


def rules_of(plan: Mapping[str, Any]) -> frozenset[str]:
    """Names of the module's rules; of functions not."""
    return frozenset(
        one["name"].removeprefix(_ROOT)
        for one in plan["funcs"]["funcs"]
        if one["name"].startswith(_ROOT) and len(one["params"]) == _INPUT_AND_DATA
    )


def faults_of(plan: Mapping[str, Any], is_known: Callable[[str], bool]) -> Iterator[Fault]:
    """What is wrong with a module.

    Args:
        plan: of the query for all of the package.
        is_known: whether the interpreter has a built-in function of that name.
    """
    rules = rules_of(plan)
    if not rules & {"deny", "allow"}:
        yield Fault("there must be a rule deny or allow")
    for rule in sorted(rules):
        if rule.startswith(("deny.", "allow.")):
            yield Fault(f"{rule[:100]} is nothing that is looked at; deny and allow are")
    built_in = {one["name"] for one in plan["static"]["builtin_funcs"]}
    functions = {one["name"]: _read(one) for one in plan["funcs"]["funcs"]}
    for function in functions.values():
        for name, place in function.calls:
            if name not in functions:
                yield from _fault_of_call(name, place, known=name in built_in and is_known(name))
        for variable, place in function.read.items():
            if variable not in function.written:
                yield Fault(_UNBOUND, place.line, place.column)
    yield from _recursion(functions)
    yield from _spelling(plan)


def _fault_of_call(name: str, place: Fault, *, known: bool) -> Iterator[Fault]:
    for refused, why in _REFUSED.items():
        if name == refused or (refused.endswith(".") and name.startswith(refused)):
            yield Fault(f"{name} is not allowed: {why}", place.line, place.column)
            return
    if not known:
        yield Fault(f"there is no function {name[:100]}", place.line, place.column)
    elif name not in BUILT_INS:
        yield Fault(f"{name} is not among the functions that a gate's module can call", place.line, place.column)


def _read(function: Mapping[str, Any]) -> _Function:
    found = _Function(written=set(function["params"]))
    _visit(function["blocks"], found, Fault("", 0, 0))
    return found


def _visit(node: Any, found: _Function, place: Fault) -> None:
    if isinstance(node, list):
        for one in node:
            _visit(one, found, place)
        return
    if not isinstance(node, dict):
        return
    if node.get("type") == "local":
        found.read.setdefault(node["value"], place)
        return
    if isinstance(node.get("row"), int):
        place = Fault("", node["row"] + 1, node["col"] + 1)
    statement = node.get("stmt")
    if isinstance(statement, dict):
        _note(node.get("type"), statement, found, place)
    for one in node.values():
        _visit(one, found, place)


def _note(kind: Any, statement: Mapping[str, Any], found: _Function, place: Fault) -> None:
    writes = ("target", "result", "key", "value") if kind == "ScanStmt" else ("target", "result")
    found.written.update(statement[name] for name in writes if isinstance(statement.get(name), int))
    if isinstance(statement.get("source"), int):
        found.read.setdefault(statement["source"], place)
    if "func" in statement:
        if isinstance(statement.get("row"), int):
            place = Fault("", statement["row"] + 1, statement["col"] + 1)
        found.calls.append((statement["func"], place))


def _recursion(functions: Mapping[str, _Function]) -> Iterator[Fault]:
    """A rule that rests on itself; the interpreter finds it only when it gets there."""
    finished: set[str] = set()
    for first in functions:
        way: dict[str, Iterator[tuple[str, Fault]]] = {}
        name: str | None = first if first not in finished else None
        while name is not None:
            calls = way.setdefault(name, iter(functions[name].calls))
            called, place = next(calls, (None, Fault("")))
            if called is None:
                finished.add(name)
                del way[name]
                name = next(reversed(way), None)
            elif called in way:
                yield Fault(f"{called.removeprefix(_ROOT)} rests on itself", place.line, place.column)
                return
            elif called in functions and called not in finished:
                name = called


def _spelling(plan: Mapping[str, Any]) -> Iterator[Fault]:
    for one in plan["static"]["strings"]:
        value = one["value"]
        quoted = len(value) > 1 and value[0] == value[-1] == '"'
        spelled = value[1:-1] if quoted else value
        try:
            text = json.loads(f'"{spelled}"', strict=False)
        except ValueError:
            continue
        if "\\" in spelled and json.dumps(text, ensure_ascii=False)[1:-1] != spelled:
            yield Fault(
                f"the text {value[:100]} is spelled with an escape that is not needed: write the character itself"
            )
