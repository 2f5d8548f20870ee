"""What can go wrong for a caller of the gateway: one hierarchy, made from gRPC statuses and their rich details.

Every error has a stable ``reason``, the fields that are wrong, a ``next_step`` for a person, and the ``exit_code`` that
the command line ends with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

_DETAILS = "grpc-status-details-bin"
REFUSED, USAGE, UNAVAILABLE, PROPOSED = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of the request, and what is wrong with it."""

    field: str
    description: str


class ClientError(Exception):
    """Base of all errors of the client.

    Attributes:
        reason: stable, upper snake case.
        next_step: what a person can do; may be empty.
        violations: fields that are wrong.
        retry_after: when the gateway says that a retry makes sense.
    """

    exit_code = REFUSED
    reason = "FAILED"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        next_step: str = "",
        violations: Sequence[FieldViolation] = (),
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason
        self.next_step = next_step
        self.violations = tuple(violations)
        self.retry_after = retry_after


class ConfigurationError(ClientError):
    """The client is not set up to reach a gateway."""

    exit_code = USAGE
    reason = "CLIENT_MISCONFIGURED"


class InvalidRequestError(ClientError):
    """The request is wrong; ``violations`` name the fields."""

    exit_code = USAGE
    reason = "INVALID_FIELD"


class NotFoundError(ClientError):
    """There is no such thing in the tenant."""

    exit_code = USAGE


class RefusedError(ClientError):
    """The gateway refuses: not allowed, wrong state, exists already, changed meanwhile."""


class ProposedError(RefusedError):
    """It was not done: it is proposed, and done when others have approved of it.

    Attributes:
        proposal: ``tenants/{tenant}/proposals/{proposal}``.
    """

    exit_code = PROPOSED
    reason = "APPROVAL_REQUIRED"
    proposal = ""


class UnavailableError(ClientError):
    """The gateway, or something that it needs, does not answer; retries did not help."""

    exit_code = UNAVAILABLE
    reason = "UNAVAILABLE"


class ExhaustedError(UnavailableError):
    """Too much is under way, or a disk is full; ``retry_after`` says when a retry makes sense, if it does."""

    reason = "RESOURCE_EXHAUSTED"


class CorruptAnswerError(ClientError):
    """The answer is not what was asked for, or was damaged on its way. Nothing of it is given out."""

    reason = "ANSWER_CORRUPT"


# By gRPC code. Names, so that `sealkeeper verify` does not import gRPC.
_KINDS: dict[str, type[ClientError]] = {
    "INVALID_ARGUMENT": InvalidRequestError,
    "OUT_OF_RANGE": InvalidRequestError,
    "NOT_FOUND": NotFoundError,
    "UNAVAILABLE": UnavailableError,
    "DEADLINE_EXCEEDED": UnavailableError,
    "RESOURCE_EXHAUSTED": ExhaustedError,
    "CANCELLED": UnavailableError,
    "INTERNAL": UnavailableError,
    "UNKNOWN": UnavailableError,
}
_NEXT_STEPS = {
    "UNAVAILABLE": "check that the gateway runs and that the endpoint is right: sealkeeper doctor",
    "DEADLINE_EXCEEDED": "try again, with a longer --timeout if need be",
    "UNIMPLEMENTED": "what answers there is no Sealkeeper gateway, or an older one",
}


_UNKNOWN_CALLER = (
    "if the gateway runs, it may not know who issued your certificate: name one that it knows (certificate and key), "
    "and see its log"
)
# Of a connection that was not made, by what gRPC says of it.
_HANDSHAKES = {
    "CERTIFICATE_VERIFY_FAILED": "ca: it does not vouch for the gateway's certificate, or that is of another host: "
    "name the right ca and endpoint",
    "handshake failed": "endpoint: what answers there does not speak TLS: name the gateway's gRPC port",
    "Socket closed": _UNKNOWN_CALLER,
    "Connection reset": _UNKNOWN_CALLER,
}


def error_of(error: Any) -> ClientError:
    """Translate what gRPC raised."""
    from google.rpc import error_details_pb2

    code: str = error.code().name
    info, violations, retry_after = error_details_pb2.ErrorInfo(), list[FieldViolation](), None
    for detail in _details(error):
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest()
            detail.Unpack(bad)
            violations = [FieldViolation(one.field, one.description) for one in bad.field_violations]
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_after = retry.retry_delay.ToTimedelta()
    kind = ProposedError if info.reason == ProposedError.reason else _KINDS.get(code, RefusedError)
    found = kind(
        error.details() or code,
        reason=info.reason or code,
        next_step=info.metadata.get("next_step", "") or _next_step(code, error.details() or ""),
        violations=violations,
        retry_after=retry_after,
    )
    if isinstance(found, ProposedError):
        found.proposal = info.metadata.get("proposal", "")
    return found


def _next_step(code: str, said: str) -> str:
    if code == "UNAVAILABLE":
        for sign, step in _HANDSHAKES.items():
            if sign in said:
                return step
    return _NEXT_STEPS.get(code, "")


def _details(error: Any) -> Sequence[Any]:
    from google.rpc import status_pb2

    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS:
            details: Sequence[Any] = status_pb2.Status.FromString(value).details
            return details
    return ()
