"""The JSON Schemas of predicates: compiled once, when they are first needed; what is wrong is told with its place."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from itertools import islice
from typing import Any

import jsonschema_rs

from sealkeeper.verify.errors import PredicateError
from sealkeeper.verify.statement import MAX_DEPTH

MAX_PROBLEMS = 10
"""Most problems of a predicate that are told."""
_FEW = 1_000
_SHORT = 64 * 1024
"""Values and characters of a predicate for which all problems are looked for. The validator makes all of them before it
tells one, each with a copy of what is wrong there: of a larger predicate, only the first problem is told."""
_PLAIN = re.compile(r"[A-Za-z_@][A-Za-z0-9_-]{0,63}")
_LONGEST_NAME = 64
_FIELDS = "urn:sealkeeper:predicate:fields"


def require_valid(schema: str, predicate: Mapping[str, Any]) -> None:
    """Hold a predicate against a schema.

    Args:
        schema: file name, within this package.
        predicate: of JSON's types, as ``json.loads`` has them.

    Raises:
        PredicateError: it is nested too deep, or does not fit; names up to ``MAX_PROBLEMS`` places.
    """
    values = _count(predicate)
    validator = _validator(schema)
    try:
        if validator.is_valid(predicate):
            return
        small = values <= _FEW and len(json.dumps(predicate)) <= _SHORT
        (path, text), *more = _problems(validator, predicate) if small else [_first_problem(validator, predicate)]
    except UnicodeEncodeError:
        raise PredicateError("$", "has half of a surrogate pair, which is no character") from None
    raise PredicateError(path, text, *more)


def json_path(parts: Iterable[str | int]) -> str:
    """A place in a document: ``$.a[0]["b c"]``; names that are no words are quoted, and cut where they are long."""
    path = "$"
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        elif _PLAIN.fullmatch(part):
            path += f".{part}"
        else:
            path += f"[{json.dumps(part[:_LONGEST_NAME])}]"
    return path


@cache
def _validator(schema: str) -> jsonschema_rs.Validator:
    registry = jsonschema_rs.Registry([(_FIELDS, _load("fields.schema.json"))])
    return jsonschema_rs.Draft202012Validator(
        _load(schema), registry=registry, offline=True, mask="the value", pattern_options=jsonschema_rs.RegexOptions()
    )


def _load(schema: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(files(__package__).joinpath(schema).read_text(encoding="utf-8"))
    return document


def _count(predicate: Mapping[str, Any]) -> int:
    # Level by level: the validator recurses, and a stack that runs out ends the process.
    level: list[Any] = [predicate]
    values = 0
    for _ in range(MAX_DEPTH):
        members = [one.values() if isinstance(one, dict) else one for one in level]
        values += sum(map(len, members))
        level = [one for each in members for one in each if isinstance(one, (dict, list))]
        if not level:
            return values
    raise PredicateError("$", f"nested more than {MAX_DEPTH} deep")


def _problems(validator: jsonschema_rs.Validator, predicate: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [_problem(error) for error in islice(validator.iter_errors(predicate), MAX_PROBLEMS)]


def _first_problem(validator: jsonschema_rs.Validator, predicate: Mapping[str, Any]) -> tuple[str, str]:
    try:
        validator.validate(predicate)
    except jsonschema_rs.ValidationError as error:
        return _problem(error)
    return "$", "does not fit its type"


def _problem(error: jsonschema_rs.ValidationError) -> tuple[str, str]:
    path, kind = list(error.instance_path), error.kind
    match kind.name:
        case "required":
            return json_path([*path, kind.value]), "is missing"
        case "type":
            return json_path(path), f"must be {' or '.join(sorted(kind.value, key=_null_last))}"
        case "enum":
            return json_path(path), f"must be one of {', '.join(str(one) for one in kind.value)}"
        case "const":
            return json_path(path), f"must be {kind.value!r}"
        case "pattern":
            return json_path(path), f"must match {kind.value}"
        case "anyOf":
            return json_path(path), "is of none of the forms that are allowed"
        case "propertyNames":
            return json_path(path), "has a member whose name is not allowed"
        case _:
            return json_path(path), error.message


def _null_last(kind: str) -> bool:
    return kind == "null"
