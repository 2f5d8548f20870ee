"""What every call goes through, whatever it asks for: identity, authorization, audit, telemetry, refusal.

The interceptor makes a ``Call``; services reach it with ``current_call()``, authorize with it, and leave in it what the
audit record should say. No answer leaves before the record is durable.

A call is known, counted and, where there is too much, refused before its request is taken in; the request is decoded
here, so that what cannot be decoded, what is too long and what asks for a method that there is not leave a record like
everything else. Refusals of calls that are not admitted, for want of an identity or of quota, are recorded one by one
up to a rate and summed up beyond it, so that nobody makes the audit log grow as they like.

Two kinds of calls leave no record. Health checks and reflection touch no key, no log and nothing of a tenant, and
probes would fill the log with them for ever; they are not counted as under way either, so that a gateway at its limit
still says that it is well. And a request that gRPC itself cuts off (longer than ``grpc_front.TRANSPORT_LIMIT``) is
recorded as one that did not arrive, since nothing of it is seen.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError
from opentelemetry import trace

from sealkeeper.server.audit import OK, AuditRecord, caller_document
from sealkeeper.server.authorization import PROPOSABLE, Action, Authorizer, Decision, crosses_tenants
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.errors import (
    InvalidRequestError,
    MethodUnknownError,
    OverloadedError,
    PermissionDeniedError,
    QuotaExceededError,
    RequestMalformedError,
    RequestTooLargeError,
    UnauthenticatedError,
)
from sealkeeper.server.identity import Authenticator, Caller, Principal
from sealkeeper.server.log import LogError, Sequencer, Submission
from sealkeeper.server.resources import ResourceName
from sealkeeper.server.status import reason_of, status_of
from sealkeeper.server.telemetry import Telemetry, set_outcome
from sealkeeper.server.token_bucket import TokenBucket

_log = logging.getLogger("sealkeeper.calls")
if TYPE_CHECKING:
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]
    Interceptor: TypeAlias = grpc.aio.ServerInterceptor[Any, Any]
else:
    # Generic in the type stubs only.
    Interceptor = grpc.aio.ServerInterceptor
Decode: TypeAlias = Callable[[bytes], Any]
Receive: TypeAlias = Callable[["Call", Any], Awaitable[Any]]

MAX_REQUEST = 28 * 1024 * 1024 + 64 * 1024
"""Bytes of a request: the largest bundle and the largest message of one Verify, and 64 KiB for the rest of it."""

MAX_REQUESTS = 512 * 1024 * 1024
"""Bytes of all requests under way together."""

UNKNOWN = "Unknown"
"""Stands in records and metrics for a method that there is not: names that callers make up are without number."""

_GROUNDS = {
    "no-policy": "no policy of the tenant permits it",
    "policy-error": "a policy of the tenant cannot be evaluated, so nothing is permitted",
}
_PREFIX = "/sealkeeper.v1."
_MAX_PATH = 200
_MAX_FIELDS = 10
_MAX_FIELD = 200
_MAX_REFUSAL = 1000
# A second: of those who are nobody's, of whom there is no end, and of each tenant's.
_STRANGERS, _REFUSALS, _REFUSALS_AT_ONCE = 1, 20, 1000
_RETRY_AFTER = timedelta(milliseconds=200)
# Seconds; who is denied is not known at all.
_KNOWN_FOR = 1.0
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
# Missing in the type stubs.
_EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]
_current: ContextVar[Call] = ContextVar("sealkeeper_call")


class Quotas(Protocol):
    """What tenants and their callers may use."""

    def admit_call(self, principal: Principal) -> None:
        """Take note of a call.

        Raises:
            QuotaExceededError: it is one too many.
        """
        ...

    def admit_signatures(self, principal: Principal, count: int) -> None:
        """Take note of signatures that are about to be made.

        Raises:
            QuotaExceededError: they are too many.
        """
        ...


@dataclass(slots=True)
class Call:
    """One call under way.

    Attributes:
        method: ``SigningService/Sign``.
        authorizer: decides.
        quotas: of the tenants.
        now: the time.
        principal: who calls; ``None`` until that is known.
        address: IP address that it comes from; empty where that is not known.
        action: that was asked for last.
        resource: what it is about, once authorized or refused.
        decision: on that; ``None`` before.
        asked: the same, for asking again.
        request_id: the caller's.
        details: for the audit record.
        recorded: the audit record is durable already.
        recorded_as: the outcome in that record, where it is a refusal.
        span: that traces it.
        proof: by which the caller is known; ``None`` until it is.
        known_at: when it was looked at last, in seconds that only go forward.
        admitted: it is one of the calls under way, as far as their limit goes.
        size: of its request, bytes.
    """

    method: str
    authorizer: Authorizer
    quotas: Quotas
    now: Callable[[], datetime]
    principal: Principal | None = None
    address: str = ""
    action: str = ""
    resource: str = ""
    decision: Decision | None = None
    asked: tuple[Action, ResourceName] | None = None
    request_id: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    recorded: bool = False
    recorded_as: str = ""
    span: trace.Span = trace.INVALID_SPAN
    proof: Caller | None = None
    known_at: float = 0.0
    admitted: bool = False
    size: int = 0

    @property
    def caller(self) -> Principal:
        """Who calls.

        Raises:
            UnauthenticatedError: nobody who is known.
        """
        if self.principal is None:
            raise UnauthenticatedError("nobody was authenticated")
        return self.principal

    @property
    def approvals(self) -> int:
        """How many others must approve of what was authorized last."""
        return self.decision.approvals if self.decision is not None else 0

    def authorize(self, action: Action, resource: ResourceName, *, proposable: bool = False) -> Principal:
        """Ask whether the caller may do this.

        Args:
            action: what.
            resource: about what.
            proposable: the service looks at how many approvals the decision asks for. Where it does not, a policy that
                asks for some refuses.

        Raises:
            PermissionDeniedError: it may not. Says the same whether the resource exists or not.
        """
        principal = self.caller
        self.action, self.resource, self.asked = action, str(resource), (action, resource)
        decision = self.decision = self.authorizer.decide(principal, action, resource, self.address, self.now())
        if decision.break_glass:
            self.details["breakGlass"] = decision.break_glass
        if not decision.allowed:
            raise self._denied(principal, action, resource, decision)
        if decision.approvals and not (proposable and action in PROPOSABLE):
            raise PermissionDeniedError(
                f"policy {decision.policy} asks for approvals of {action}, which cannot wait for them",
                next_step="a custodian can change the policy: sealkeeper policy explain",
            )
        return principal

    def authorize_again(self) -> None:
        """See whether the caller may still do what was asked last: policies and grants change while an answer lasts.

        Raises:
            PermissionDeniedError: it may not any more.
        """
        if self.asked is not None:
            self.authorize(*self.asked, proposable=True)

    def _denied(
        self, principal: Principal, action: Action, resource: ResourceName, decision: Decision
    ) -> PermissionDeniedError:
        step = "ask within your own tenant"
        if not crosses_tenants(principal, resource):
            grounds = _GROUNDS.get(decision.policy, f"decided by {decision.policy}")
            step = f"{grounds}; see what you may do: sealkeeper whoami"
        return PermissionDeniedError(
            f"{principal.role} of tenant {principal.tenant} may not {action} on {resource}", next_step=step
        )

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
        principal, decision = self.principal, self.decision
        return AuditRecord(
            now,
            self.method,
            principal.tenant if principal else "",
            principal.subject if principal else "",
            principal.role if principal else "",
            self.resource,
            outcome,
            decision.policy if decision else "",
            decision.version if decision else "",
            self.request_id,
            {**self.details, **details} if details else self.details,
            self.action,
            self.address,
            caller_document(principal) if principal else {},
        ).encode()


def current_call() -> Call:
    """The call that is being answered."""
    return _current.get()


class CallInterceptor(Interceptor):
    """Wraps every method but those of health checks and reflection, and answers for methods that there are not.

    Args:
        authenticator: says who calls.
        authorizer: says what they may do.
        tenants: that this gateway serves.
        logs: where audit records go.
        clock: the time.
        telemetry: told of every call.
        quotas: of the tenants.
        require_allowed: raises where a caller is known and denied.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        authorizer: Authorizer,
        tenants: frozenset[str],
        logs: Sequencer,
        clock: SteadyClock,
        telemetry: Telemetry,
        quotas: Quotas,
        require_allowed: Callable[[Principal], None] = lambda principal: None,
    ) -> None:
        self._require_allowed = require_allowed
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._quotas = quotas
        self._tenants = tenants
        self._logs = logs
        self._clock = clock
        self._telemetry = telemetry
        self._wrapped: dict[str, Handler] = {}
        # Calls that are not admitted cost their callers nothing: their refusals are recorded one by one at some rate,
        # of each tenant and of those who are nobody's, and summed up beyond it, so that no flood fills the log.
        self._refusals = {
            tenant: TokenBucket(_REFUSALS if tenant else _STRANGERS, _REFUSALS_AT_ONCE, time.monotonic)
            for tenant in (*tenants, "")
        }
        self._summed_up: Counter[tuple[str, str]] = Counter()
        self._background: set[asyncio.Task[None]] = set()
        self._max_calls = sys.maxsize
        self._max_bytes = MAX_REQUESTS
        self._calls = 0
        self._bytes = 0
        self._calls_of: Counter[str] = Counter()
        self._bytes_of: Counter[str] = Counter()

    def admit_at_most(self, calls: int, size: int = MAX_REQUESTS) -> None:
        """Refuse, from now on, further calls while this many are under way.

        Args:
            calls: under way at a time.
            size: of their requests together, bytes.
        """
        self._max_calls, self._max_bytes = calls, size

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
        if handler is None:
            # Not kept: there is no end to the names that callers can make up.
            return self._unknown(method)
        if not method.startswith(_PREFIX):
            return handler
        wrapped = self._wrap(method.removeprefix(_PREFIX), handler)
        self._wrapped[method] = wrapped
        return wrapped

    def _wrap(self, method: str, handler: Handler) -> Handler:
        """The handler as gRPC gets it.

        For gRPC the request is a stream, of which one message is read: so a call can be refused, and is known to have
        been there, before and without its request. On the wire there is no difference.
        """
        decode, serializer = cast(Decode, handler.request_deserializer), handler.response_serializer
        receive = self._receiver(decode)
        if handler.response_streaming:

            async def stream(_: Any, context: Any) -> AsyncIterator[Any]:
                async for response in self._stream(method, handler.unary_stream, receive, context):
                    yield response

            return grpc.stream_stream_rpc_method_handler(stream, response_serializer=serializer)

        async def unary(_: Any, context: Any) -> Any:
            return await self._unary(method, handler.unary_unary, receive, context)

        return grpc.stream_unary_rpc_method_handler(unary, response_serializer=serializer)

    def _receiver(self, decode: Decode) -> Receive:
        """Takes a call's request in, and checks its length before anything is made of it.

        What it makes raises RequestMalformedError, RequestTooLargeError and OverloadedError.
        """

        async def receive(call: Call, context: Any) -> Any:
            data = await context.read()
            if data is _EOF:
                raise RequestMalformedError("the call ended before its request had arrived")
            await self._require_still_known(call)
            size = len(data)
            if size > MAX_REQUEST:
                raise RequestTooLargeError(f"the request has {size} bytes; at most {MAX_REQUEST} are allowed")
            tenant, free = call.caller.tenant, self._max_bytes - self._bytes
            if size > free or (len(self._tenants) > 1 and self._bytes_of[tenant] + size > free):
                raise OverloadedError("the requests under way are too large together", retry_after=_RETRY_AFTER)
            call.size = size
            self._bytes += size
            self._bytes_of[tenant] += size
            try:
                return decode(data)
            except DecodeError:
                # What the decoder says is about its own inside.
                raise RequestMalformedError("the request is not a message of the method's type") from None

        return receive

    def _unknown(self, method: str) -> Handler:
        async def receive(call: Call, context: Any) -> Any:
            call.details["path"] = method[:_MAX_PATH]
            raise MethodUnknownError("there is no such method")

        async def unary(_: Any, context: Any) -> Any:
            return await self._unary(UNKNOWN, None, receive, context)

        return grpc.stream_unary_rpc_method_handler(unary)

    async def _unary(self, method: str, handler: Any, receive: Receive, context: Any) -> Any:
        call, started = self._call(method), time.perf_counter()
        metadata = dict(context.invocation_metadata() or ())
        with self._telemetry.call_span(method, metadata) as call.span:
            try:
                await self._enter(call, context, metadata)
                response = await handler(await receive(call, context), context)
                if not call.recorded:
                    await self._record(call, OK)
            except BaseException as error:
                await self._refuse(call, error, context, started)
                raise
            finally:
                self._leave(call)
            self._count(call, OK, started)
            return response

    async def _stream(self, method: str, handler: Any, receive: Receive, context: Any) -> AsyncIterator[Any]:
        call, started = self._call(method), time.perf_counter()
        metadata = dict(context.invocation_metadata() or ())
        with self._telemetry.call_span(method, metadata) as call.span:
            try:
                await self._enter(call, context, metadata)
                async for response in handler(await receive(call, context), context):
                    await self._require_still_known(call)
                    call.authorize_again()
                    # Recorded when it is known to be allowed and before the first answer.
                    if not call.recorded:
                        await self._record(call, OK)
                    yield response
                if not call.recorded:
                    await self._record(call, OK)
            except BaseException as error:
                await self._refuse(call, error, context, started)
                raise
            finally:
                self._leave(call)
            self._count(call, OK, started)

    def _call(self, method: str) -> Call:
        return Call(method, self._authorizer, self._quotas, self._clock.at_least_latest)

    async def _enter(self, call: Call, context: Any, metadata: Mapping[str, str | bytes]) -> None:
        _current.set(call)
        peer = context.peer()
        call.address = _address(peer)
        if sum(name == "authorization" for name, _ in context.invocation_metadata() or ()) > 1:
            raise UnauthenticatedError(
                "the call came with several tokens", reason="TOKEN_MALFORMED", next_step="send one token"
            )
        call.proof = Caller(context.auth_context(), metadata, peer)
        principal = await self._know(call, call.proof)
        free = self._max_calls - self._calls
        # Of several tenants none gets more than what it leaves to the others: see fair_queue.py.
        if free <= 0 or (len(self._tenants) > 1 and self._calls_of[principal.tenant] >= free):
            raise OverloadedError("as many calls are under way as are allowed", retry_after=_RETRY_AFTER)
        self._quotas.admit_call(principal)
        # Refusals above do not count: a flood of them must not keep others out.
        self._calls += 1
        self._calls_of[principal.tenant] += 1
        call.admitted = True

    async def _know(self, call: Call, proof: Caller) -> Principal:
        principal = await self._authenticator.authenticate(proof, self._clock.machine())
        if principal.tenant not in self._tenants:
            raise UnauthenticatedError(
                "this gateway does not serve the caller's tenant",
                reason="TENANT_UNKNOWN",
                next_step="have the tenant added to the gateway's settings, or use another identity",
            )
        call.principal = principal
        self._require_allowed(principal)
        call.known_at = time.monotonic()
        return principal

    async def _require_still_known(self, call: Call) -> None:
        """Look again at who calls: requests can be held back, and answers last, for longer than a proof is good."""
        if call.proof is None or time.monotonic() - call.known_at < _KNOWN_FOR:
            self._require_allowed(call.caller)
        else:
            await self._know(call, call.proof)

    def _leave(self, call: Call) -> None:
        self._bytes -= call.size
        if call.admitted:
            self._calls -= 1
            self._calls_of[call.caller.tenant] -= 1
            self._bytes_of[call.caller.tenant] -= call.size

    async def _record(self, call: Call, outcome: str) -> None:
        await self._logs.submit(Submission(audit=[call.audit_record(self._clock.at_least_latest(), outcome)]))
        call.recorded = True

    async def _refuse(self, call: Call, error: BaseException, context: Any, started: float) -> None:
        """Record and answer a refusal; returns only where there is nobody to answer."""
        reason = reason_of(error)
        self._count(call, reason, started)
        if isinstance(error, GeneratorExit | asyncio.CancelledError):
            if not call.recorded:
                self._recording(call, reason)
            return
        if not isinstance(error, Exception):
            return
        if isinstance(error, QuotaExceededError) and call.principal is not None:
            self._telemetry.quota_refusal(call.principal.tenant, error.metadata.get("quota", ""))
        code, text, trailers = status_of(error)
        if code is grpc.StatusCode.INTERNAL:
            _log.error("a call failed", exc_info=error, extra={"fields": {"method": call.method}})
        _describe(call, error, text)
        tenant = call.principal.tenant if call.principal is not None else ""
        if not call.admitted and self._refusals[tenant].take():
            self._summed_up[tenant, reason] += 1
        elif call.recorded_as != reason:
            await asyncio.shield(self._recording(call, reason))
        await context.abort(code, text, trailers)

    def _recording(self, call: Call, reason: str) -> asyncio.Task[None]:
        """Record a refusal even if the caller goes away meanwhile: nobody escapes the log by hanging up."""
        task = asyncio.create_task(self._record_refusal(call, reason))
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _record_refusal(self, call: Call, reason: str) -> None:
        try:
            await self._record(call, reason)
        except LogError as problem:
            # The refusal stands; that it could not be recorded must be seen by people.
            _log.error("a refusal was not recorded: %s", problem, extra={"fields": {"reason": reason}})

    async def sum_up(self) -> None:
        """Record how many refusals were not recorded one by one. To be called now and then.

        Raises:
            LogError: it could not be recorded; it is tried the next time.
        """
        counts, self._summed_up = self._summed_up, Counter()
        if not counts:
            return
        now, of_tenant = self._clock.at_least_latest(), dict[str, dict[str, int]]()
        for (tenant, reason), count in counts.items():
            of_tenant.setdefault(tenant, {})[reason] = count
        records = [
            AuditRecord(now, "Gateway/SumUpRefusals", tenant, details={"refusals": refusals}).encode()
            for tenant, refusals in of_tenant.items()
        ]
        try:
            await self._logs.submit(Submission(audit=records))
        except BaseException:
            self._summed_up += counts
            raise

    def _count(self, call: Call, outcome: str, started: float) -> None:
        tenant, role = (call.principal.tenant, call.principal.role) if call.principal else ("", "")
        if call.principal is None:
            self._telemetry.authentication_failure(outcome)
        elif call.decision is not None and call.decision.break_glass:
            self._telemetry.break_glass_use(tenant, call.action)
            _log.warning(
                "a break-glass was used",
                extra={"fields": {"grant": call.decision.break_glass, "subject": call.principal.subject}},
            )
        self._telemetry.call(call.method, tenant, role, outcome, time.perf_counter() - started)
        if call.span.is_recording():
            key_version = str(call.details.get("keyVersion", ""))
            call.span.set_attributes({"tenant": tenant, "role": role, "key_version": key_version})
            set_outcome(call.span, outcome)


@lru_cache(maxsize=4096)
def _address(peer: str) -> str:
    """The IP address in what gRPC calls a peer, ``ipv4:192.0.2.1:50000`` or ``ipv6:%5B2001:db8::1%5D:50000``."""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]").partition("%")[0] if kind in ("ipv4", "ipv6") else ""


def _describe(call: Call, error: Exception, text: str) -> None:
    """Leave in the record what the caller is told: names of fields and our own words, never what fields hold."""
    call.details["refusal"] = text[:_MAX_REFUSAL]
    if isinstance(error, InvalidRequestError):
        call.details["fields"] = [one.field[:_MAX_FIELD] for one in error.violations[:_MAX_FIELDS]]
