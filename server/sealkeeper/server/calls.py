"""What every call goes through, whatever it asks for: identity, authorization, audit, telemetry, refusal.

The interceptor makes a ``Call``; services reach it with ``current_call()``, authorize with it, and leave in it what the
audit record should say. No answer leaves before the record is durable.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from opentelemetry import trace

from sealkeeper.server.audit import OK, AuditRecord
from sealkeeper.server.authorization import Action, Authorizer
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.errors import InvalidRequestError, PermissionDeniedError, UnauthenticatedError
from sealkeeper.server.identity import Authenticator, Principal
from sealkeeper.server.log import LogError, Sequencer, Submission
from sealkeeper.server.resources import LogName, ResourceName
from sealkeeper.server.status import code_of, reason_of, status_of
from sealkeeper.server.telemetry import Telemetry

_log = logging.getLogger("sealkeeper.calls")
if TYPE_CHECKING:
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]
    Interceptor: TypeAlias = grpc.aio.ServerInterceptor[Any, Any]
else:
    # Generic in the type stubs only.
    Interceptor = grpc.aio.ServerInterceptor

_PREFIX = "/sealkeeper.v1."
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_current: ContextVar[Call] = ContextVar("sealkeeper_call")


@dataclass(slots=True)
class Call:
    """One call under way.

    Attributes:
        method: ``SigningService/Sign``.
        authorizer: decides.
        principal: who calls; ``None`` until that is known.
        resource: what it is about, once authorized or refused.
        policy: which policy decided, and its version.
        request_id: the caller's.
        details: for the audit record.
        recorded: the audit record is durable already.
        span: that traces it.
    """

    method: str
    authorizer: Authorizer
    principal: Principal | None = None
    resource: str = ""
    policy: tuple[str, str] = ("", "")
    request_id: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    recorded: bool = False
    span: trace.Span = trace.INVALID_SPAN

    @property
    def caller(self) -> Principal:
        """Who calls.

        Raises:
            UnauthenticatedError: nobody who is known.
        """
        if self.principal is None:
            raise UnauthenticatedError("nobody was authenticated")
        return self.principal

    def authorize(self, action: Action, resource: ResourceName) -> Principal:
        """Ask whether the caller may do this.

        Raises:
            PermissionDeniedError: it may not. Says the same whether the resource exists or not.
        """
        principal = self.caller
        self.resource = str(resource)
        decision = self.authorizer.decide(principal, action, resource)
        self.policy = decision.policy, decision.version
        if not decision.allowed:
            raise PermissionDeniedError(
                f"{principal.role} of tenant {principal.tenant} may not {action} on {resource}",
                next_step=f"decided by {decision.policy}; ask with a certificate of another role"
                if isinstance(resource, LogName) or resource.tenant == principal.tenant
                else "ask within your own tenant",
            )
        return principal

    def use_request_id(self, request_id: str) -> None:
        """Take note of the caller's request id.

        Raises:
            InvalidRequestError: it is malformed.
        """
        if request_id and not _REQUEST_ID.fullmatch(request_id):
            raise InvalidRequestError.of("request_id", 'must be 1 to 64 of A-Z, a-z, 0-9, "-" and "_"')
        self.request_id = request_id

    def audit_record(self, now: datetime, outcome: str = OK, **details: Any) -> bytes:
        """The audit record as it stands."""
        principal = self.principal
        return AuditRecord(
            now,
            self.method,
            principal.tenant if principal else "",
            principal.subject if principal else "",
            principal.role if principal else "",
            self.resource,
            outcome,
            *self.policy,
            self.request_id,
            {**self.details, **details} if details else self.details,
        ).encode()


def current_call() -> Call:
    """The call that is being answered."""
    return _current.get()


class CallInterceptor(Interceptor):
    """Wraps every method of this project's services.

    Args:
        authenticator: says who calls.
        authorizer: says what they may do.
        tenants: that this gateway serves.
        logs: where audit records go.
        clock: the time.
        telemetry: told of every call.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        authorizer: Authorizer,
        tenants: frozenset[str],
        logs: Sequencer,
        clock: SteadyClock,
        telemetry: Telemetry,
    ) -> None:
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._tenants = tenants
        self._logs = logs
        self._clock = clock
        self._telemetry = telemetry
        self._wrapped: dict[str, Handler] = {}
        self._background: set[asyncio.Task[None]] = set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Wrap the method's handler, once."""
        method = handler_call_details.method
        if method in self._wrapped:
            return self._wrapped[method]
        handler = await continuation(handler_call_details)
        if handler is None or not method.startswith(_PREFIX):
            return handler
        wrapped = self._wrap(method.removeprefix(_PREFIX), handler)
        self._wrapped[method] = wrapped
        return wrapped

    def _wrap(self, method: str, handler: Handler) -> Handler:
        coding = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.response_streaming:

            async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
                async for response in self._stream(method, handler.unary_stream, request, context):
                    yield response

            return grpc.unary_stream_rpc_method_handler(stream, **coding)

        async def unary(request: Any, context: Any) -> Any:
            return await self._unary(method, handler.unary_unary, request, context)

        return grpc.unary_unary_rpc_method_handler(unary, **coding)

    async def _unary(self, method: str, handler: Any, request: Any, context: Any) -> Any:
        call, started = Call(method, self._authorizer), time.perf_counter()
        metadata = dict(context.invocation_metadata() or ())
        with self._telemetry.call_span(method, metadata) as call.span:
            try:
                self._enter(call, context, metadata)
                response = await handler(request, context)
                if not call.recorded:
                    await self._record(call, OK)
            except BaseException as error:
                await self._refuse(call, error, context, started)
                raise
            self._count(call, OK, started)
            return response

    async def _stream(self, method: str, handler: Any, request: Any, context: Any) -> AsyncIterator[Any]:
        call, started = Call(method, self._authorizer), time.perf_counter()
        metadata = dict(context.invocation_metadata() or ())
        with self._telemetry.call_span(method, metadata) as call.span:
            try:
                self._enter(call, context, metadata)
                async for response in handler(request, context):
                    # Recorded when it is known to be allowed and before the first answer.
                    if not call.recorded:
                        await self._record(call, OK)
                    yield response
                if not call.recorded:
                    await self._record(call, OK)
            except BaseException as error:
                await self._refuse(call, error, context, started)
                raise
            self._count(call, OK, started)

    def _enter(self, call: Call, context: Any, metadata: Mapping[str, str | bytes]) -> None:
        _current.set(call)
        principal = self._authenticator.authenticate(context.auth_context(), metadata, self._clock.at_least_latest())
        if principal.tenant not in self._tenants:
            raise UnauthenticatedError("this gateway does not serve the certificate's tenant")
        call.principal = principal

    async def _record(self, call: Call, outcome: str) -> None:
        await self._logs.submit(Submission(audit=[call.audit_record(self._clock.at_least_latest(), outcome)]))
        call.recorded = True

    async def _refuse(self, call: Call, error: BaseException, context: Any, started: float) -> None:
        """Record and answer a refusal; returns only where there is nobody to answer."""
        reason = reason_of(error)
        self._count(call, reason, started)
        if isinstance(error, GeneratorExit | asyncio.CancelledError):
            self._record_later(call, reason)
            return
        if not isinstance(error, Exception):
            return
        if code_of(error) is grpc.StatusCode.INTERNAL:
            _log.error("a call failed", exc_info=error, extra={"fields": {"method": call.method}})
        try:
            await self._record(call, reason)
        except LogError as problem:
            # The refusal stands; that it could not be recorded must be seen by people.
            _log.error("a refusal was not recorded: %s", problem, extra={"fields": {"reason": reason}})
        code, text, trailers = status_of(error)
        await context.abort(code, text, trailers)

    def _record_later(self, call: Call, reason: str) -> None:
        if call.recorded:
            return
        task = asyncio.create_task(self._record(call, reason))
        self._background.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            _log.error("a cancelled call was not recorded: %s", problem)

    def _count(self, call: Call, outcome: str, started: float) -> None:
        tenant, role = (call.principal.tenant, call.principal.role) if call.principal else ("", "")
        self._telemetry.call(call.method, tenant, role, outcome, time.perf_counter() - started)
        if call.span.is_recording():
            key_version = str(call.details.get("keyVersion", ""))
            call.span.set_attributes({"tenant": tenant, "role": role, "key_version": key_version, "outcome": outcome})
