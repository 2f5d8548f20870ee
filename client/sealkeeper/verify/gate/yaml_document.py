"""YAML from outside, read as strictly as JSON: plain values only, no duplicate names, no aliases, bounded.

Plain texts are those of YAML 1.2's core schema: ``yes`` and ``no`` are texts, and so is what looks like a date.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from sealkeeper.verify.strict_json import MAX_DEPTH, MAX_VALUES, Json, JsonError

_CORE = {
    "null": (re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    "bool": (re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF")),
    "int": (re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})"), list("-+0123456789")),
    "float": (re.compile(r"[-+]?[0-9]{1,18}\.[0-9]{1,18}"), list("-+0123456789")),
}


class _Loader(yaml.SafeLoader):
    """Makes values of the core schema only."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (as the library has it)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.values = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise _refusal("aliases are not allowed", self)
        self.depth, self.values = self.depth + 1, self.values + 1
        if self.depth > MAX_DEPTH or self.values > MAX_VALUES:
            raise _refusal(f"it is more than {MAX_DEPTH} deep, or has more than {MAX_VALUES} values", self)
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                raise yaml.constructor.ConstructorError(None, None, "a name must be a text", key.start_mark)
            if key.value in seen:
                said = f"the name {key.value[:64]!r} is there twice"
                raise yaml.constructor.ConstructorError(None, None, said, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


for _tag, (_form, _first) in _CORE.items():
    # The library looks at the beginning of a text only.
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_form.pattern})\Z"), _first)


def parse_yaml(text: bytes) -> Json:
    """Read one document.

    Raises:
        JsonError: it is not YAML, more than one document, or not as above; the text names line and column.
    """
    try:
        loader = _Loader(text.decode("utf-8"))
    except UnicodeDecodeError:
        raise JsonError("$: the document is not UTF-8") from None
    except yaml.YAMLError as error:
        raise JsonError(f"$: {_said(error)}") from None
    try:
        return loader.get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise JsonError(f"$: {_said(error)}") from None
    finally:
        loader.dispose()


def _refusal(said: str, loader: Any) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, said, loader.peek_event().start_mark)


def _said(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "it cannot be read as YAML"
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark is not None else str(problem)
