"""The contract says what the code does: every reason of a refusal, every method's errors."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealkeeper import v1
from sealkeeper.hsm import errors as hsm_errors
from sealkeeper.server import calls, errors
from sealkeeper.server.log import errors as log_errors
from sealkeeper.server.signing import MAX_MESSAGE
from sealkeeper.server.status import code_of
from sealkeeper.verify.bundle import MAX_SENT_BUNDLE

CONTRACT = sorted(Path(next(iter(v1.__path__))).glob("*.proto"))
CODES = {
    "ABORTED",
    "ALREADY_EXISTS",
    "FAILED_PRECONDITION",
    "INTERNAL",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "OUT_OF_RANGE",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "UNAUTHENTICATED",
    "UNAVAILABLE",
    "UNIMPLEMENTED",
}
KINDS: dict[str, type[BaseException]] = {
    name: kind
    for module in (errors, hsm_errors, log_errors)
    for name, kind in vars(module).items()
    # It ends the gateway before there is a call.
    if isinstance(kind, type) and issubclass(kind, Exception) and kind is not errors.ConfigurationError
}


def reasons_of_kinds() -> Iterator[tuple[str, str]]:
    for kind in KINDS.values():
        yield str(vars(kind).get("reason", kind.reason)), code_of(kind.__new__(kind)).name  # type: ignore[attr-defined]


def reasons_in_the_code() -> Iterator[tuple[str, str]]:
    """Each ``SomeError(…, reason="…")`` and ``SomeError.of(…, reason="…")``."""
    for package in (Path(errors.__file__).parent, Path(hsm_errors.__file__).parent):
        for path in sorted(package.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and (kind := _kind(node.func)) is not None:
                    for keyword in node.keywords:
                        if keyword.arg == "reason" and isinstance(keyword.value, ast.Constant):
                            yield str(keyword.value.value), code_of(kind.__new__(kind)).name


def _kind(called: ast.expr) -> type[BaseException] | None:
    parts = ast.unparse(called).split(".")
    return next((KINDS[part] for part in parts if part in KINDS), None)


def table() -> dict[str, str]:
    """Reason and code, as the table above resources.proto has them."""
    text = next(path for path in CONTRACT if path.name == "resources.proto").read_text()
    return dict(re.findall(r"^//   ([A-Z_]+) +([A-Z_]+)  ", text, re.MULTILINE))


def methods() -> Iterator[tuple[str, str]]:
    """Each method with its comment."""
    for path in CONTRACT:
        for comment, name in re.findall(r"((?:^  //.*\n)+)  rpc (\w+)", path.read_text(), re.MULTILINE):
            yield name, comment


def test_the_contract_names_every_reason_with_its_code_and_none_that_is_not_there() -> None:
    assert table() == {**dict(reasons_of_kinds()), **dict(reasons_in_the_code())}


def test_a_reason_has_one_code() -> None:
    pairs = {*reasons_of_kinds(), *reasons_in_the_code()}
    assert len(pairs) == len({reason for reason, _ in pairs})


@pytest.mark.parametrize(("method", "comment"), [*methods()], ids=[name for name, _ in methods()])
def test_a_method_says_its_errors_with_reasons_of_the_table(method: str, comment: str) -> None:
    _, said, text = comment.partition("Errors:")
    assert said
    known = table()
    for words in re.findall(r"\b[A-Z][A-Z_]{3,}\b", text):
        assert words in known or words in CODES, words
    for code, reasons in re.findall(r"([A-Z_]+) \(([^)]*)\)", text):
        for reason in re.findall(r"\b[A-Z][A-Z_]{3,}\b", reasons):
            assert known[reason] == code, reason


def test_all_methods_are_looked_at() -> None:
    assert len([*methods()]) == sum(path.read_text().count("\n  rpc ") for path in CONTRACT) == 61


def test_a_request_may_be_as_long_as_its_largest_fields_together() -> None:
    assert calls.MAX_REQUEST >= MAX_SENT_BUNDLE + MAX_MESSAGE + 32 * 1024
    text = "".join(path.read_text() for path in CONTRACT)
    assert f"{calls.MAX_REQUEST:,} bytes" in text
