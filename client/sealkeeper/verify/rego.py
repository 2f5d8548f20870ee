"""Rego modules that decide on what a gate knows of an artifact, evaluated in bounded time and memory.

A module is of ``package sealkeeper.gate``, in Rego v1 (https://www.openpolicyagent.org/docs/latest/policy-language/),
and has one or both of these rules:

- ``deny contains reason if {...}``: a set of texts. Any of them is a denial.
- ``allow if {...}``: anything but true is a denial; undefined, too.

Both must agree. What is undefined, what fails (``1/0``, a number that is none) and what has another type is a denial or
an error, never a pass. A module sees ``input`` and nothing else: no network, no clock, no chance, no environment.

The interpreter is rego-cpp, which has its own ways:

- Functions see a text as JSON spells it inside its quotes, and ``<`` with them: ``count`` of a quotation mark is 2.
- ``==`` within a call, or within another comparison, is a condition of the rule and no value: name it first (``:=``).
- ``sprintf`` writes numbers beyond 32 bits right with ``%v`` only; times are read with ``+00:00``, not with ``Z``.
- ``package`` and ``import`` stand alone in their lines, comments too.
- Numbers near to what a double can hold at most or least make an evaluation fail.

>>> with RegoRunner() as runner:  # doctest: +SKIP
...     runner.evaluate(RegoModule(text), {"level": 3})
RegoResult(allowed=True, reasons=())
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import TracebackType
from typing import Any

from sealkeeper.verify.errors import RegoError, RegoFailedError, RegoTimeoutError
from sealkeeper.verify.rego_process import RegoProcess, WorkerKilledError

MAX_MODULE = 64 * 1024
"""Bytes of a module."""
MAX_INPUT = 4 * 1024 * 1024
"""Bytes of an input document, as JSON."""
MAX_REASONS = 50
MAX_REASON = 500
TIMEOUT = 5.0
MEMORY = 512 * 1024 * 1024
_LEAST_MEMORY = 32 * 1024 * 1024
_MAX_MESSAGE = 1000
_MOST_ASKED = 10_000
"""Requests to one process, before another takes its place."""


@dataclass(frozen=True, slots=True)
class RegoModule:
    """A module that the interpreter has read and found no fault with.

    Args:
        text: of it.

    Raises:
        VerifyError: as ``check_module``.
    """

    text: str = field(repr=False)

    def __post_init__(self) -> None:
        check_module(self.text)


@dataclass(frozen=True, slots=True)
class RegoResult:
    """What came of a module.

    Attributes:
        allowed: whether it lets the artifact pass.
        reasons: why not, at most 50 of at most 500 characters, none of them a control character; empty where it passes.
    """

    allowed: bool
    reasons: tuple[str, ...] = ()


class RegoRunner:
    """Evaluates modules in processes of its own, which are kept while they behave. Threads may share it.

    A call takes at most twice the timeout, waiting for a process that is free included, and the start of a process.

    Args:
        timeout: seconds that an evaluation may take.
        memory: bytes that it may take beside what the interpreter itself does.
        workers: most processes.
    """

    def __init__(self, timeout: float = TIMEOUT, memory: int = MEMORY, workers: int = 1) -> None:
        if timeout <= 0 or memory < _LEAST_MEMORY or workers < 1:
            raise ValueError(f"timeout and workers must be positive, and memory at least {_LEAST_MEMORY}")
        self._timeout = timeout
        self._memory = memory
        self._free = threading.Semaphore(workers)
        # Guards the rest.
        self._lock = threading.Lock()
        self._idle: list[RegoProcess] = []
        self._closed = False

    def check(self, text: str) -> None:
        """Find out whether a text is a module.

        Raises:
            VerifyError: as ``check_module``.
        """
        _require_size(text)
        if self._ask({"module": text}) != {"status": "checked"}:
            raise _nonsense()

    def evaluate(self, module: RegoModule, input_document: Mapping[str, Any]) -> RegoResult:
        """Evaluate a module.

        Args:
            module: to ask.
            input_document: what it sees as ``input``: JSON, at most 4 MiB.

        Raises:
            RegoFailedError: it has no result: it fails, the interpreter dies of it, or the input is no JSON document.
            RegoTimeoutError: it takes too long, or no process was free in time.
            RegoMemoryError: it takes too much memory.
            RegoMissingError: there is no interpreter.
        """
        return _result(self._ask({"module": module.text, "input": _term(input_document)}))

    def close(self) -> None:
        """End the processes; one that is at work ends when it is through."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for process in idle:
            process.kill()

    def __enter__(self) -> RegoRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if not self._free.acquire(timeout=self._timeout):
            raise RegoTimeoutError(f"no interpreter was free for {self._timeout:g} seconds: allow for more of them")
        try:
            answer = self._ask_process(request)
        finally:
            self._free.release()
        status, message = answer.get("status"), answer.get("message")
        if status in ("invalid", "failed") and isinstance(message, str) and len(message) <= _MAX_MESSAGE:
            if status == "failed":
                raise RegoFailedError(f"the module cannot be evaluated: {message}")
            raise RegoError(message, _place(answer.get("line")), _place(answer.get("column")))
        return answer

    def _ask_process(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            if self._closed:
                raise RegoFailedError("the interpreters have been closed")
            process = self._idle.pop() if self._idle else None
        if process is not None:
            try:
                return self._ask_and_keep(process, request)
            except WorkerKilledError:
                # By somebody else, maybe while it was idle: another one shall say.
                pass
        return self._ask_and_keep(RegoProcess(self._timeout, self._memory), request)

    def _ask_and_keep(self, process: RegoProcess, request: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = process.ask(request)
        except BaseException:
            process.kill()
            raise
        with self._lock:
            if not self._closed and process.asked < _MOST_ASKED:
                self._idle.append(process)
                return answer
        process.kill()
        return answer


def check_module(text: str) -> None:
    """Find out whether a text is a module, in a process of its own. What has been found good is remembered.

    Raises:
        RegoError: it is none: too long, no Rego, of another package, or it uses what is not allowed; with the place.
        RegoTimeoutError: the interpreter takes too long to read it.
        RegoMemoryError: the interpreter takes too much memory to read it.
        RegoFailedError: the interpreter dies of it.
        RegoMissingError: there is no interpreter.
    """
    _require_size(text)
    _check(text)


@lru_cache(maxsize=64)
def _check(text: str) -> None:
    with RegoRunner() as runner:
        runner.check(text)


def _require_size(text: str) -> None:
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        before = text[: error.start]
        line = before.count("\n") + 1
        raise RegoError("half of a surrogate pair is no character", line, len(before) - before.rfind("\n")) from None
    if len(data) > MAX_MODULE:
        raise RegoError(f"the module has {len(data)} bytes; at most {MAX_MODULE} are allowed")
    if "\0" in text:
        # The interpreter would read no further.
        before = text[: text.index("\0")]
        raise RegoError("there is a NUL character", before.count("\n") + 1, len(before) - before.rfind("\n"))


def _term(document: Mapping[str, Any]) -> str:
    try:
        term = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=dict)
        length = len(term.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise RegoFailedError(f"the input is no JSON document ({type(error).__name__})") from None
    if length > MAX_INPUT:
        raise RegoFailedError(f"the input has {length} bytes; at most {MAX_INPUT} are allowed")
    return term


def _result(answer: Mapping[str, Any]) -> RegoResult:
    allowed, reasons = answer.get("allowed"), answer.get("reasons")
    if answer.get("status") != "evaluated" or not isinstance(allowed, bool) or not isinstance(reasons, list):
        raise _nonsense()
    if not all(isinstance(one, str) and 0 < len(one) <= MAX_REASON for one in reasons):
        raise _nonsense()
    if len(reasons) > MAX_REASONS or allowed is not (not reasons):
        raise _nonsense()
    return RegoResult(allowed, tuple(reasons))


def _place(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value <= MAX_MODULE else 0


def _nonsense() -> RegoFailedError:
    return RegoFailedError("the interpreter answered what was not asked")
