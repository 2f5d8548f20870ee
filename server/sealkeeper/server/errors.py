"""What the gateway refuses, and why.

One class a kind of refusal; ``status.py`` maps kinds to gRPC codes in one table. ``reason`` is stable and upper snake
case; callers program against it. ``next_step`` tells a person what to do. Texts never hold secrets, nor anything that
another tenant should not learn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sealkeeper.hsm import ProviderUnavailableError


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One bad field.

    Attributes:
        field: path in the request, for example ``items[3].digest.value``.
        description: what is wrong with it.
    """

    field: str
    description: str


class SealkeeperError(Exception):
    """Base of all refusals.

    Attributes:
        reason: stable, upper snake case.
        next_step: what a person can do; may be empty.
        retry_after: when a retry makes sense; ``None`` where it does not by itself.
        metadata: further facts for programs, by stable names.
    """

    reason = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        next_step: str = "",
        retry_after: timedelta | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason
        self.next_step = next_step
        self.retry_after = retry_after
        self.metadata = dict(metadata or {})


class InvalidRequestError(SealkeeperError):
    """The request itself is wrong, whatever the state of the gateway."""

    reason = "INVALID_FIELD"

    def __init__(self, violations: Sequence[FieldViolation], *, reason: str | None = None, next_step: str = "") -> None:
        self.violations = tuple(violations)
        text = "; ".join(f"{violation.field}: {violation.description}" for violation in self.violations[:10])
        super().__init__(text, reason=reason, next_step=next_step)

    @classmethod
    def of(cls, field: str, description: str, *, reason: str | None = None, next_step: str = "") -> InvalidRequestError:
        """Refuse one field."""
        return cls([FieldViolation(field, description)], reason=reason, next_step=next_step)


class RequestMalformedError(SealkeeperError):
    """What came is not a request of the method at all, so that no field of it can be named."""

    reason = "REQUEST_MALFORMED"


class RequestTooLargeError(SealkeeperError):
    """The request as a whole is longer than any may be.

    INVALID_ARGUMENT as where one field is too long, and as clouds answer; RESOURCE_EXHAUSTED would invite a retry.
    """

    reason = "REQUEST_TOO_LARGE"


class MethodUnknownError(SealkeeperError):
    """The contract, as this gateway knows it, has no such method."""

    reason = "METHOD_UNKNOWN"


class UnauthenticatedError(SealkeeperError):
    """The caller did not prove who it is."""

    reason = "UNAUTHENTICATED"


class PermissionDeniedError(SealkeeperError):
    """The caller is known and may not do this."""

    reason = "PERMISSION_DENIED"


class NotFoundError(SealkeeperError):
    """There is no such thing in the caller's tenant."""

    reason = "NOT_FOUND"


class AlreadyExistsError(SealkeeperError):
    """There is such a thing already."""

    reason = "ALREADY_EXISTS"


class FailedPreconditionError(SealkeeperError):
    """Right request, wrong state."""

    reason = "FAILED_PRECONDITION"


class ApprovalRequiredError(FailedPreconditionError):
    """It is proposed now, and done when others have approved of it; metadata ``proposal`` names the proposal."""

    reason = "APPROVAL_REQUIRED"


class RegionNotAllowedError(FailedPreconditionError):
    """The tenant's keys may not be there."""

    reason = "REGION_NOT_ALLOWED"


class KeyExportableError(FailedPreconditionError):
    """The store says that it would give the private key out."""

    reason = "KEY_EXPORTABLE"


class ConflictError(SealkeeperError):
    """Somebody else changed it meanwhile; read it again."""

    reason = "ETAG_MISMATCH"


class OverloadedError(SealkeeperError):
    """Too much is under way; later."""

    reason = "OVERLOADED"


class QuotaExceededError(OverloadedError):
    """The tenant or the caller has used up its rate; ``retry_after`` says when there is some of it again."""

    reason = "QUOTA_EXCEEDED"


class UnavailableError(SealkeeperError):
    """Something the gateway needs does not answer; a retry may succeed."""

    reason = "UNAVAILABLE"


class ClockWentBackError(UnavailableError):
    """The machine's clock shows an earlier time than the log's newest record, by more than can be bridged."""

    reason = "CLOCK_WENT_BACK"


class IssuerUnavailableError(UnavailableError):
    """The issuer of the token does not give its keys, and those that are known are too old or not the token's."""

    reason = "ISSUER_UNAVAILABLE"


class ProviderTimeoutError(ProviderUnavailableError):
    """The provider did not answer in time. What it may answer later is thrown away."""

    reason = "PROVIDER_TIMEOUT"


class CircuitOpenError(ProviderUnavailableError):
    """The provider failed too often of late, and is left alone until ``retry_after``."""

    reason = "CIRCUIT_OPEN"


class ConfigurationError(SealkeeperError):
    """The gateway cannot start as configured."""

    reason = "MISCONFIGURED"
