"""How refusals travel: one table from kinds of errors to gRPC codes, and the rich details that go with them.

Details are ``google.rpc.ErrorInfo`` (domain, stable reason, next step), ``BadRequest`` (fields) and ``RetryInfo``
(https://google.aip.dev/193).
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from sealkeeper import hsm
from sealkeeper.server import errors, log

DOMAIN = "sealkeeper.dev"
DETAILS = "grpc-status-details-bin"

# The first that fits counts: special kinds stand before general ones.
CODES: tuple[tuple[type[BaseException], grpc.StatusCode], ...] = (
    (errors.InvalidRequestError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.RequestMalformedError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.RequestTooLargeError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.MethodUnknownError, grpc.StatusCode.UNIMPLEMENTED),
    (errors.UnauthenticatedError, grpc.StatusCode.UNAUTHENTICATED),
    (errors.PermissionDeniedError, grpc.StatusCode.PERMISSION_DENIED),
    (errors.NotFoundError, grpc.StatusCode.NOT_FOUND),
    (errors.AlreadyExistsError, grpc.StatusCode.ALREADY_EXISTS),
    (errors.FailedPreconditionError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.ConflictError, grpc.StatusCode.ABORTED),
    (errors.OverloadedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.UnavailableError, grpc.StatusCode.UNAVAILABLE),
    (hsm.AlgorithmNotSupportedError, grpc.StatusCode.INVALID_ARGUMENT),
    (hsm.PayloadError, grpc.StatusCode.INVALID_ARGUMENT),
    (hsm.WrappedKeyError, grpc.StatusCode.INVALID_ARGUMENT),
    (hsm.WeakKeyError, grpc.StatusCode.INVALID_ARGUMENT),
    (hsm.ImportNotSupportedError, grpc.StatusCode.INVALID_ARGUMENT),
    (hsm.ImportExpiredError, grpc.StatusCode.FAILED_PRECONDITION),
    (hsm.ProviderError, grpc.StatusCode.UNAVAILABLE),
    (log.IndexOutOfRangeError, grpc.StatusCode.OUT_OF_RANGE),
    (log.EntryTooLargeError, grpc.StatusCode.INVALID_ARGUMENT),
    (log.LogOverloadedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (log.LogStorageFullError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (log.LogError, grpc.StatusCode.UNAVAILABLE),
    (asyncio.CancelledError, grpc.StatusCode.CANCELLED),
)

_NEXT_STEPS = {
    "LOG_UNAVAILABLE": "retry; if it stays so, look at the gateway's log lines for what its storage or provider says",
    "LOG_OVERLOADED": "retry after a while, or spread the load over more time",
    "STORAGE_FULL": "free space on the gateway's log volume; nothing was recorded or lost",
    "PROVIDER_UNAVAILABLE": "retry; if it stays so, run sealkeeper doctor on the gateway's machine",
    "PROVIDER_THROTTLED": "retry after the time given, or ask the key store's owner for a higher rate",
    "PROVIDER_SEALED": "have the key store unsealed, then retry",
    "WRAPPED_KEY_REFUSED": "wrap the right key anew: sealkeeper keys import wrap",
    "WEAK_KEY": "make a new key pair with a current version of a known tool",
    "REQUEST_MALFORMED": "send one message of the method's request type, as the contract has it",
    "REQUEST_TOO_LARGE": "sign or verify the digest instead of the message, or send fewer items",
    "METHOD_UNKNOWN": "check that client and gateway are of the same version of the contract",
    "OVERLOADED": "retry after a while, or spread the load over more time",
    "INDEX_OUT_OF_RANGE": "ask for the newest checkpoint first",
}
_RETRY = {
    "LOG_OVERLOADED": timedelta(milliseconds=200),
    "STORAGE_FULL": timedelta(seconds=5),
    "PROVIDER_UNAVAILABLE": timedelta(seconds=1),
    "PROVIDER_TIMEOUT": timedelta(seconds=1),
    "PROVIDER_KEY_NOT_FOUND": timedelta(seconds=10),
    "PROVIDER_THROTTLED": timedelta(seconds=1),
    "PROVIDER_SEALED": timedelta(seconds=10),
    "PROVIDER_PERMISSION_DENIED": timedelta(seconds=10),
}
_INTERNAL = "something went wrong inside the gateway; its log lines say what"


def code_of(error: BaseException) -> grpc.StatusCode:
    """The gRPC code; INTERNAL for what is not in the table."""
    for kind, code in CODES:
        if isinstance(error, kind):
            return code
    return grpc.StatusCode.INTERNAL


def reason_of(error: BaseException) -> str:
    """The stable reason, bounded in number: fit for a metric's label."""
    if isinstance(error, asyncio.CancelledError):
        return "CANCELLED"
    return str(getattr(error, "reason", "INTERNAL")) if code_of(error) is not grpc.StatusCode.INTERNAL else "INTERNAL"


def status_of(error: BaseException) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """Code, text and trailing metadata of a refusal. What was not foreseen says nothing about itself."""
    code, reason = code_of(error), reason_of(error)
    text = _INTERNAL if code is grpc.StatusCode.INTERNAL else str(error)
    next_step = str(getattr(error, "next_step", "")) or _NEXT_STEPS.get(reason, "")
    metadata: dict[str, str] = dict(getattr(error, "metadata", {}))
    if next_step:
        metadata["next_step"] = next_step
    details: list[Message] = [error_details_pb2.ErrorInfo(domain=DOMAIN, reason=reason, metadata=metadata)]
    if isinstance(error, errors.InvalidRequestError):
        details.append(_bad_request(error))
    retry_after = getattr(error, "retry_after", None) or _RETRY.get(reason)
    if retry_after is not None:
        delay = Duration()
        delay.FromTimedelta(retry_after)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code.value[0], message=text)
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return code, text, ((DETAILS, status.SerializeToString()),)


def _bad_request(error: errors.InvalidRequestError) -> Message:
    kind = error_details_pb2.BadRequest
    # Trailing metadata is bounded by the peer, usually to 8 KiB.
    details: Message = kind(
        field_violations=[
            kind.FieldViolation(field=one.field[:200], description=one.description[:200])
            for one in error.violations[:10]
        ]
    )
    return details
