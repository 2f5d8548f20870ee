"""What a compiled Rego module would do, read from its plan (https://www.openpolicyagent.org/docs/latest/ir/).

The interpreter takes a name that means nothing as undefined: a ``deny`` with a typing error in it would never deny. It
compares texts as they are spelled, so that ``"\\u0041"`` is not ``"A"``. Both are found here, before a module is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

PACKAGE = ("sealkeeper", "gate")
_ROOT = "g0.data." + ".".join(PACKAGE) + "."
_INPUT_AND_DATA = 2
_REFUSED = {
    "http.": "there is no network",
    "net.lookup": "there is no network",
    "opa.": "what is around the interpreter is of no interest; everything is in input",
    "time.now_ns": "use input.now",
    "rand.": "the same input must have the same result",
    "uuid.rfc4122": "the same input must have the same result",
    "io.jwt.decode_verify": "it looks at the clock; use input.now and io.jwt.verify_*",
    "io.jwt.encode_sign": "a gate signs nothing here",
    "crypto.x509.parse_and_verify": "it looks at the clock; certificates are verified before",
    "providers.": "there is no network",
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
                yield Fault(
                    "a name stands for nothing: no variable, rule or import is called so", place.line, place.column
                )
    yield from _recursion(functions)
    yield from _spelling(plan)


def _fault_of_call(name: str, place: Fault, *, known: bool) -> Iterator[Fault]:
    for prefix, why in _REFUSED.items():
        if name.startswith(prefix):
            yield Fault(f"{name} is not allowed: {why}", place.line, place.column)
            return
    if not known:
        yield Fault(f"there is no function {name[:100]}", place.line, place.column)


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
