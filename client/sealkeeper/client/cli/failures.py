"""Everything that can go wrong, as a person or a script is told of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sealkeeper.client.errors import REFUSED, UNAVAILABLE, USAGE, ClientError, FieldViolation, ProposedError

FAULT = 70
"""Exit code for a fault of our own (``EX_SOFTWARE`` of sysexits.h)."""
INTERRUPTED = 130
"""Exit code after SIGINT, as shells have it."""
_REFUSALS = ("StepFailedError", "LogCorruptError", "ProofError")
_REGISTRY_AWAY = ("REGISTRY_UNAVAILABLE", "REGISTRY_TIMEOUT", "REGISTRY_THROTTLED")
_SERVER_USAGE = ("MISCONFIGURED", "PROVIDER_URI_INVALID")


@dataclass(frozen=True, slots=True)
class Failure:
    """What is told.

    Attributes:
        text: one sentence.
        reason: stable, upper snake case.
        exit_code: what the command ends with.
        next_step: what a person can do; may be empty.
        violations: options, arguments or fields that are wrong.
        proposal: name of the proposal that was made instead; empty where none was.
    """

    text: str
    reason: str
    exit_code: int
    next_step: str = ""
    violations: Sequence[FieldViolation] = ()
    proposal: str = ""

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "error": self.text,
            "reason": self.reason,
            "next_step": self.next_step,
            "violations": [{"field": one.field, "description": one.description} for one in self.violations],
            "exit_code": self.exit_code,
            **({"proposal": self.proposal} if self.proposal else {}),
        }


STOPPED = Failure("interrupted", "INTERRUPTED", INTERRUPTED)


def failure_of(error: Exception) -> Failure:
    """What to tell of an error; one that nobody foresaw is a fault of ours."""
    if isinstance(error, ClientError):
        proposal = error.proposal if isinstance(error, ProposedError) else ""
        return Failure(str(error), error.reason, error.exit_code, error.next_step, error.violations, proposal)
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, UnicodeEncodeError):
        return Failure("an argument is not UTF-8", "NOT_UTF8", USAGE, "only names of files may be anything else")
    reason = getattr(error, "reason", None)
    if not isinstance(reason, str) or not reason.isupper():
        text = f"this is a fault of Sealkeeper's: {type(error).__name__}: {error}"
        return Failure(text, "FAULT", FAULT, "set SEALKEEPER_DEBUG=1 to see where it happened, and report it")
    return Failure(str(error), reason, _code(error, reason), _next_step(error, reason), _violations(error))


def usage_failure(error: Any) -> Failure:
    """What to tell of arguments that Typer refuses."""
    field = getattr(error, "param_hint", None) or _field(getattr(error, "param", None))
    text = error.format_message()
    violations = (FieldViolation(str(field), str(error.message or text)),) if field else ()
    return Failure(text, "USAGE", USAGE, "see its --help", violations)


def _field(parameter: Any) -> str:
    if parameter is None:
        return ""
    if parameter.param_type_name == "option":
        return str(max(parameter.opts, key=len))
    return str(parameter.metavar or parameter.name).upper().rstrip("…")


def _code(error: Exception, reason: str) -> int:
    # What the verifier and the server raise is known by its shape: neither is imported for a command without need.
    if type(error).__module__.startswith("sealkeeper.verify."):
        kinds = {kind.__name__ for kind in type(error).__mro__}
        return REFUSED if kinds.intersection(_REFUSALS) else USAGE
    if type(error).__module__.startswith("sealkeeper.registry."):
        return UNAVAILABLE if reason in _REGISTRY_AWAY else USAGE
    return USAGE if reason in _SERVER_USAGE else UNAVAILABLE


def _next_step(error: Exception, reason: str) -> str:
    given = str(getattr(error, "next_step", ""))
    if given or reason != "TRUST_ROOT_INVALID":
        return given
    return "name the folder with --trust, or fetch it anew: sealkeeper trust export"


def _violations(error: Exception) -> Sequence[FieldViolation]:
    return tuple(FieldViolation(one.field, one.description) for one in getattr(error, "violations", ()))


def _of_system(error: OSError) -> Failure:
    import socket
    import ssl

    said = error.strerror or str(error)
    if isinstance(error, ConnectionError | TimeoutError | socket.gaierror | ssl.SSLError):
        return Failure(said, "UNAVAILABLE", UNAVAILABLE, "check the address, and that something answers there")
    if error.filename is None:
        return Failure(said, "SYSTEM_ERROR", USAGE, "free what is lacking, and try again")
    # A name that is not UTF-8 can be printed, but not always sent on.
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename)
    missing = isinstance(error, FileNotFoundError)
    step = "check the path" if missing else "check what it is, and who may read it"
    reason = "FILE_NOT_FOUND" if missing else "FILE_UNUSABLE"
    return Failure(f"{name}: {said}", reason, USAGE, step, (FieldViolation(name, said),))
