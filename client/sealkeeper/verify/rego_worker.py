"""The process that Rego modules are evaluated in: native code, which nothing else can stop once it has begun.

Started by ``rego_process.py`` in an empty folder, without an environment, as ``python -P -m
sealkeeper.verify.rego_worker FD SECONDS BYTES``. It leaves when the other end of its socket closes; where it is at work
and nobody is left to kill it, a timer and a limit of the processor's time do. A signal at the parent's death
(``PR_SET_PDEATHSIG``) would come too early: when the thread ends that has started the process.

A message is its length in four bytes, big-endian, and JSON. A request has ``module`` and, where it is to be evaluated,
``input``, the document as a text; an answer has a ``status``.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import re
import resource
import shutil
import signal
import socket
import struct
import sys
import unicodedata
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from regopy import Bundle, Interpreter, LogLevel, rego_shared  # type: ignore[import-untyped]
from regopy import RegoError as InterpreterError

from sealkeeper.verify.rego_plan import PACKAGE, Fault, faults_of, rules_of

MAX_REASONS = 50
MAX_REASON = 500
OUT_OF_MEMORY = 77
"""Exit status."""
_KEPT_MODULES = 64
_MAX_FILE = 64 * 1024 * 1024
_FILE = "gate.rego"
_FOLDER = "plan"
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_PACKAGE = re.compile(r"(?:[ \t]*(?:#[^\n]*)?\r?\n)*package[ \t]+([A-Za-z0-9_.]+)[ \t]*(?:#[^\n]*)?(?:\r?\n|\Z)")
_SYNTAX_ERROR = re.compile(r"\(error \d+:[^|]*\|(\d+)\|\d+\s+\(errormsg (\d+):")
_EVALUATION_ERROR = re.compile(r"\(error\s+\(errormsg (\d+):")
_SAMPLE = 4 * MAX_REASON


class _InvalidError(Exception):
    """A module is not one that a gate can use."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


class _FailedError(Exception):
    """An evaluation has no result."""


@dataclass(frozen=True, slots=True)
class _Module:
    """A compiled module.

    Attributes:
        interpreter: of it alone.
        bundle: what it was compiled to.
        rules: those of deny and allow that it has.
    """

    interpreter: Interpreter
    bundle: Bundle
    rules: tuple[str, ...]


class _Host:
    """Answers requests; keeps the modules compiled that were asked for last."""

    def __init__(self) -> None:
        self._modules: OrderedDict[bytes, _Module] = OrderedDict()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            module = self._module(request["module"])
            if "input" not in request:
                return {"status": "checked"}
            return {"status": "evaluated", **_evaluate(module, request["input"])}
        except _InvalidError as error:
            fault = error.fault
            return {
                "status": "invalid",
                "message": _plain(fault.message),
                "line": fault.line,
                "column": fault.column,
            }
        except (_FailedError, InterpreterError) as error:
            return {"status": "failed", "message": _plain(str(error))}

    def _module(self, text: str) -> _Module:
        digest = sha256(text.encode()).digest()
        module = self._modules.get(digest)
        if module is None:
            module = self._modules[digest] = _compile(text)
            if len(self._modules) > _KEPT_MODULES:
                self._modules.popitem(last=False)
        self._modules.move_to_end(digest)
        return module


def _compile(text: str) -> _Module:
    named = _PACKAGE.match(text)
    if named is None or named[1] != ".".join(PACKAGE):
        raise _InvalidError(Fault(f"the module must begin with: package {'.'.join(PACKAGE)}", 1, 1))
    rules = tuple(sorted(_checked_rules(text) & {"deny", "allow"}))
    interpreter = _interpreter(text)
    bundle = interpreter.build(None, ["/".join((*PACKAGE, one)) for one in rules])
    if not bundle.ok():
        raise _InvalidError(Fault("the module cannot be compiled"))
    return _Module(interpreter, bundle, rules)


def _interpreter(text: str) -> Interpreter:
    interpreter = Interpreter()
    interpreter.log_level = LogLevel.NONE
    # Else what goes wrong in a built-in function is undefined, and a deny that uses it says nothing.
    interpreter.strict_built_in_errors = True
    try:
        # A comment in the last line needs its end.
        interpreter.add_module(_FILE, text + "\n")
    except InterpreterError as error:
        raise _InvalidError(_syntax_fault(str(error), text.encode())) from None
    return interpreter


def _checked_rules(text: str) -> frozenset[str]:
    interpreter = _interpreter(text)
    shutil.rmtree(_FOLDER, ignore_errors=True)
    try:
        interpreter.save_bundle(_FOLDER, interpreter.build("data." + ".".join(PACKAGE)))
        plan = json.loads((Path(_FOLDER) / "plan.json").read_bytes())
        fault = next(faults_of(plan, interpreter.is_builtin), None)
    except (InterpreterError, OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise _InvalidError(Fault(f"the module cannot be compiled ({type(error).__name__})")) from None
    finally:
        shutil.rmtree(_FOLDER, ignore_errors=True)
    if fault is not None:
        raise _InvalidError(_in_characters(fault, text))
    return rules_of(plan)


def _in_characters(fault: Fault, text: str) -> Fault:
    """The plan counts bytes."""
    lines = text.encode().split(b"\n")
    if not 0 < fault.line <= len(lines):
        return fault
    before = lines[fault.line - 1][: fault.column - 1].decode(errors="replace")
    return Fault(fault.message, fault.line, len(before) + 1)


def _syntax_fault(told: str, text: bytes) -> Fault:
    found = _SYNTAX_ERROR.search(told)
    if found is None:
        return Fault("the module cannot be read")
    before = text[: int(found[1])].decode(errors="replace")
    message = told[found.end() :].encode()[: int(found[2])].decode(errors="replace")
    if "declaration" in message or "reference" in message:
        message += "; after package and import, a comment needs a line of its own"
    return Fault(message, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)


def _evaluate(module: _Module, document: str) -> dict[str, Any]:
    # As a term and not as an Input: that one reads the texts in it as if they were spelled with escapes.
    module.interpreter.set_input_term(document)
    reasons: list[str] = []
    if "deny" in module.rules:
        reasons += _denials(_result(module, "deny"))
    if "allow" in module.rules and not reasons:
        result = _result(module, "allow")
        if not result:
            reasons.append("allow is undefined")
        elif result[0] is not True:
            reasons.append("allow is not true")
    return {"allowed": not reasons, "reasons": reasons}


def _denials(result: list[Any]) -> list[str]:
    if not result:
        return ["deny is undefined"]
    found = result[0]
    if not isinstance(found, list):
        return ["deny is not a set of texts"]
    reasons = [_plain(one) for one in found[:MAX_REASONS]]
    if len(found) > MAX_REASONS:
        reasons[-1] = f"and {len(found) - MAX_REASONS + 1} more"
    return reasons


def _plain(reason: Any) -> str:
    """A text in one line, of bounded length, without control characters and what else is not seen."""
    text = reason if isinstance(reason, str) else json.dumps(reason, ensure_ascii=False)
    seen = "".join(one if unicodedata.category(one)[0] not in "CZ" else " " for one in text[:_SAMPLE])
    return " ".join(seen.split())[:MAX_REASON] or "no reason is given"


def _result(module: _Module, rule: str) -> list[Any]:
    """A rule's value, alone in a list; an empty one where it is undefined."""
    interpreter = module.interpreter._impl  # noqa: SLF001  (regopy's Output takes an error for JSON)
    name = "/".join((*PACKAGE, rule))
    output = rego_shared.rego_bundle_query_entrypoint(interpreter, module.bundle._impl, name)  # noqa: SLF001
    try:
        if not rego_shared.rego_output_ok(output):
            raise _FailedError(_told(output))
        text = rego_shared.rego_output_string(output)
    finally:
        rego_shared.rego_free_output(output)
    if text == "undefined":
        return []
    try:
        return [json.loads(text, strict=False)["expressions"][0]]
    except (ValueError, LookupError, TypeError, RecursionError):
        error = _EVALUATION_ERROR.match(text)
        message = text[error.end() : error.end() + int(error[1])] if error else f"{rule} is no value that can be read"
    if "bad_alloc" in message:
        raise MemoryError
    raise _FailedError(message)


def _told(output: Any) -> str:
    """The text of an error: the first child of the first one."""
    node = rego_shared.rego_output_node(output)
    for _ in range(2):
        if not node or not rego_shared.rego_node_size(node):
            return "the evaluation failed"
        node = rego_shared.rego_node_get(node, 0)
    message: str = rego_shared.rego_node_value(node)
    if "bad_alloc" in message:
        raise MemoryError
    return message


def _harden(memory: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # The interpreter's allocator has reserved its addresses by now, 256 GiB of them: what counts is what is added.
    taken = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 32,
        resource.RLIMIT_FSIZE: _MAX_FILE,
        resource.RLIMIT_AS: taken + memory,
    }
    for limit, value in limits.items():
        _limit(limit, value, hard=True)


def _limit(limit: int, value: int, *, hard: bool) -> None:
    """Set a limit, or leave one that is lower. Where it is not hard it can be raised again."""
    _, most = resource.getrlimit(limit)
    if most != resource.RLIM_INFINITY:
        value = min(value, most)
    resource.setrlimit(limit, (value, value if hard else most))


def _start_clocks(seconds: float) -> None:
    """End this process some time after it should have been killed, asleep or at work."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime + seconds) + 1, hard=False)
    signal.setitimer(signal.ITIMER_REAL, seconds + 1)


def _serve(connection: socket.socket, seconds: float) -> None:
    host = _Host()
    send(connection, {"status": "ready"})
    while (length := _received(connection, 4)) is not None:
        body = _received(connection, *struct.unpack(">I", length))
        if body is None:
            return
        _start_clocks(seconds)
        send(connection, host.answer(json.loads(body)))
        signal.setitimer(signal.ITIMER_REAL, 0)


def _received(connection: socket.socket, length: int) -> bytes | None:
    data = bytearray()
    while len(data) < length:
        piece = connection.recv(min(length - len(data), 1 << 20))
        if not piece:
            return None
        data += piece
    return bytes(data)


def send(connection: socket.socket, message: dict[str, Any]) -> None:
    """Write a message."""
    body = json.dumps(message).encode()
    connection.sendall(struct.pack(">I", len(body)) + body)


def main(descriptor: int, seconds: float, memory: int) -> None:
    """Serve until the other end closes."""
    _harden(memory)
    with socket.socket(fileno=descriptor) as connection:
        try:
            _serve(connection, seconds)
        except MemoryError:
            # Not by way of the interpreter's end, which may need memory.
            os._exit(OUT_OF_MEMORY)
        except OSError:
            raise SystemExit(1) from None


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
