"""GateService: checks and translates requests, and leaves the rest to the gates and what they decide by."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import msgspec

from sealkeeper.server.authorization import Action
from sealkeeper.server.calls import Call, current_call
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.errors import FailedPreconditionError, InvalidRequestError
from sealkeeper.server.gate import GateException, GateInForce
from sealkeeper.server.gate_decisions import KeptDecision, bundle_digest, kept, subject_digest
from sealkeeper.server.gate_evaluation import Evaluated, Question
from sealkeeper.server.gate_exceptions import order_of
from sealkeeper.server.gate_messages import (
    MAX_REPORTED,
    audit_details,
    decision_message,
    exception_message,
    exception_parameters,
    filter_of,
    progress_message,
    question_of,
    reported_of,
    summary_message,
    version_message,
)
from sealkeeper.server.gate_parts import GateParts
from sealkeeper.server.gate_summaries import Summary
from sealkeeper.server.key_changes import KeyChanges
from sealkeeper.server.new_version import Audit
from sealkeeper.server.policy_questions import require_length, within
from sealkeeper.server.proposer import Proposer
from sealkeeper.server.resources import (
    GateDecisionName,
    GateExceptionName,
    GateName,
    GateVersionName,
    parse_decision_name,
    parse_exception_name,
    parse_gate_name,
    parse_gate_or_version_name,
    parse_tenant_name,
)
from sealkeeper.server.signing import Signature
from sealkeeper.server.store.database import Alongside
from sealkeeper.server.store.gate_tables import SummaryRow
from sealkeeper.server.telemetry import Telemetry
from sealkeeper.server.translation import (
    id_of_page_token,
    page_size_of,
    page_token,
    period_of,
    versions_left,
)
from sealkeeper.v1 import gate_pb2, gate_pb2_grpc
from sealkeeper.verify.bundle import parse_bundle
from sealkeeper.verify.gate.policy import MAX_POLICY, GatePolicy

_MAX_REASON = 1024
_MAX_NUMBER = 999_999_999
_MAX_DECISIONS = 100_000
_DEFAULT_DECISIONS = 1000
_DEFAULT_PERIOD = timedelta(days=30)


class GateService(gate_pb2_grpc.GateServiceServicer):
    """Answers for the contract's GateService.

    Args:
        parts: that it answers from.
        changes: has what is asked for done once, and recorded.
        proposer: has changes approved.
        clock: the time.
        telemetry: told of decisions.
    """

    def __init__(
        self, parts: GateParts, changes: KeyChanges, proposer: Proposer, clock: SteadyClock, telemetry: Telemetry
    ) -> None:
        self._parts = parts
        self._changes = changes
        self._proposer = proposer
        self._clock = clock
        self._telemetry = telemetry

    async def Evaluate(  # noqa: N802
        self, request: gate_pb2.EvaluateRequest, context: Any
    ) -> gate_pb2.EvaluateResponse:
        """Decide, record it, and sign a summary of it."""
        gate, call, started = parse_gate_name(request.gate, "gate"), current_call(), time.perf_counter()
        call.authorize(Action.EVALUATE_GATE, gate)
        question = question_of(request, gate)
        in_force = self._parts.gates.in_force(gate)
        if request.dry_run:
            call.use_request_id(request.request_id)
            call.details["dryRun"] = True
            one, _ = await self._decide(question, in_force, call)
            return _answer(one)
        without_summary = request.without_summary

        async def decide(audit: Audit, also: Alongside[Any] | None) -> gate_pb2.EvaluateResponse:
            answer = await self._record(question, in_force, call, also, without_summary=without_summary)
            seconds = time.perf_counter() - started
            self._telemetry.gate_decision_time(gate.tenant, seconds, cached=answer.decision.cached)
            return answer

        return await self._changes.once_for(request, request.request_id, decide, self._replay)

    async def _decide(self, question: Question, gate: GateInForce, call: Call) -> tuple[KeptDecision, Evaluated]:
        evaluated = await self._parts.evaluation.evaluate(question, gate)
        one = kept(
            evaluated.decision,
            question.gate,
            gate.version.number,
            caller=call.caller.subject,
            cached=evaluated.cached,
            looked=evaluated.looked,
        )
        # What is only tried has no name.
        one = self._parts.decisions.named(one) if question.remember else one
        call.details.update(audit_details(one))
        return one, evaluated

    async def _record(
        self,
        question: Question,
        gate: GateInForce,
        call: Call,
        also: Alongside[Any] | None,
        *,
        without_summary: bool,
    ) -> gate_pb2.EvaluateResponse:
        parts = self._parts
        one, evaluated = await self._decide(question, gate, call)
        summary = None if without_summary else await parts.summaries.summary(gate, evaluated, call)
        evidence, row = list(evaluated.evidence.values()), None
        if summary is not None:
            evidence.append(summary.signature.bundle)
            one = msgspec.structs.replace(one, summary=bundle_digest(summary.signature.bundle))
            row = _row(one, summary)
        await parts.decisions.record([one], evidence, row, also, _Kept(one.gate, one.id))
        self._count(one, gate.policy)
        return _answer(one, summary.signature if summary is not None else None)

    def _count(self, one: KeptDecision, policy: GatePolicy | None) -> None:
        if one.exception_name is not None:
            self._parts.exceptions.use(one.exception_name)
        # Names that callers make up are without number.
        known = not one.environment or (policy is not None and one.environment in policy.environments)
        self._telemetry.gate_decision(
            (one.gate.tenant, one.gate.gate, one.environment if known else "other"),
            outcome=one.outcome,
            passed=one.passed,
            reasons=[reason.code for reason in one.reasons],
        )

    async def _replay(self, answer: bytes) -> gate_pb2.EvaluateResponse:
        found = msgspec.msgpack.decode(answer, type=_Kept)
        one = await self._parts.decisions.get(GateDecisionName(found.gate.tenant, found.gate.gate, found.id))
        current_call().details.update(audit_details(one))
        if not one.summary:
            return _answer(one)
        bundle = await asyncio.to_thread(self._parts.files.read, one.gate.tenant, one.summary)
        if bundle is None:
            raise FailedPreconditionError(
                "the summary of this decision is not kept any more",
                reason="ANSWER_LOST",
                next_step="ask again with a new request id",
            )
        return _answer(one, await asyncio.to_thread(_kept_signature, bundle))

    async def ReportDecisions(  # noqa: N802
        self, request: gate_pb2.ReportDecisionsRequest, context: Any
    ) -> gate_pb2.ReportDecisionsResponse:
        """Record what a gate has decided by itself."""
        gate, call = parse_gate_name(request.gate, "gate"), current_call()
        call.authorize(Action.REPORT_GATE_DECISIONS, gate)
        policy = self._parts.gates.in_force(gate).policy
        if not 1 <= len(request.decisions) <= MAX_REPORTED:
            raise InvalidRequestError.of(
                "decisions", f"has {len(request.decisions)} decisions; 1 to {MAX_REPORTED} are allowed"
            )
        decisions, now, oldest = self._parts.decisions, self._clock.now(), self._parts.decisions.oldest
        found = [
            decisions.named(reported_of(one, gate, f"decisions[{place}]", call.caller.subject, oldest, now))
            for place, one in enumerate(request.decisions)
        ]

        async def record(audit: Audit, also: Alongside[Any] | None) -> list[str]:
            names = [one.name for one in found]
            denied = sum(one.outcome == "DENY" for one in found)
            await audit({"decisions": [one.id for one in found], "denied": denied})
            await decisions.record(found, also=also, answer=names)
            for one in found:
                self._count(one, policy)
            return names

        names = await self._changes.once_for(request, request.request_id, record, _names)
        return gate_pb2.ReportDecisionsResponse(names=names)

    async def GetGateSnapshot(  # noqa: N802
        self, request: gate_pb2.GetGateSnapshotRequest, context: Any
    ) -> gate_pb2.GetGateSnapshotResponse:
        """Give what a gate needs to decide by itself."""
        gate, call = parse_gate_name(request.gate, "gate"), current_call()
        call.authorize(Action.GET_GATE, gate)
        found = await self._parts.snapshots.snapshot(gate, call)
        return gate_pb2.GetGateSnapshotResponse(
            bundle=found.bundle, snapshot=found.payload, trusted_root=found.trusted_root, keys=found.keys
        )

    async def ListGates(  # noqa: N802
        self, request: gate_pb2.ListGatesRequest, context: Any
    ) -> gate_pb2.ListGatesResponse:
        """List a tenant's gates by name."""
        parent = parse_tenant_name(request.parent, "parent")
        current_call().authorize(Action.GET_GATE, parent)
        size, after = page_size_of(request.page_size), id_of_page_token(request.page_token)
        found = self._parts.gates.page(parent.tenant, after, size + 1)
        return gate_pb2.ListGatesResponse(
            gates=[version_message(one, text="") for one in found[:size]],
            next_page_token=page_token(found[size - 1].name.gate) if len(found) > size else "",
        )

    async def GetGateVersion(  # noqa: N802
        self, request: gate_pb2.GetGateVersionRequest, context: Any
    ) -> gate_pb2.GetGateVersionResponse:
        """Give a version of a gate's policy."""
        name = parse_gate_or_version_name(request.name, "name")
        current_call().authorize(Action.GET_GATE, name)
        gate, number = (name.parent, name.number) if isinstance(name, GateVersionName) else (name, 0)
        found = await self._parts.gates.get(gate, number)
        return gate_pb2.GetGateVersionResponse(version=version_message(found))

    async def ListGateVersions(  # noqa: N802
        self, request: gate_pb2.ListGateVersionsRequest, context: Any
    ) -> gate_pb2.ListGateVersionsResponse:
        """List the versions of a gate's policy, newest first."""
        gate = parse_gate_name(request.parent, "parent")
        current_call().authorize(Action.GET_GATE, gate)
        size, newest = page_size_of(request.page_size), self._parts.gates.in_force(gate).version.number
        left = versions_left(request.page_token, newest)
        found = await self._parts.gates.versions(gate, left + 1, size)
        last = found[-1].number if found else 1
        return gate_pb2.ListGateVersionsResponse(
            versions=[version_message(one, text="") for one in found],
            next_page_token=page_token(str(last)) if last > 1 else "",
        )

    async def UpdateGate(  # noqa: N802
        self, request: gate_pb2.UpdateGateRequest, context: Any
    ) -> gate_pb2.UpdateGateResponse:
        """Have another policy approved; it is put in force when it is."""
        gate, call = parse_gate_name(request.gate, "gate"), current_call()
        call.authorize(Action.UPDATE_GATE, gate, proposable=True)
        require_length("reason", request.reason, 0, _MAX_REASON)
        base = within(request.base, 0, _MAX_NUMBER, "base")
        await self._draft(gate, request.text)
        self._parts.gates.require_base(gate, base)
        parameters = {"base": base, "text": request.text}
        await self._proposer.require(call, Action.UPDATE_GATE, gate, parameters, request.reason)
        # Come here, nobody else is there to approve: on the insecure loopback port.
        made = await self._parts.gates.change(gate, request.text, base, "", self._changes.audit(), None)
        return gate_pb2.UpdateGateResponse(version=version_message(made))

    async def _draft(self, gate: GateName, text: str) -> GatePolicy:
        size = len(text.encode("utf-8", "surrogatepass"))
        if not 1 <= size <= MAX_POLICY:
            raise InvalidRequestError.of(
                "text", f"has {size} bytes; 1 to {MAX_POLICY} are allowed", reason="POLICY_INVALID"
            )
        return await self._parts.gates.read(gate, text)

    async def SimulateGate(  # noqa: N802
        self, request: gate_pb2.SimulateGateRequest, context: Any
    ) -> AsyncIterator[gate_pb2.SimulateGateResponse]:
        """Decide again what was decided of late, and tell what would be decided otherwise."""
        gate, call = parse_gate_name(request.gate, "gate"), current_call()
        call.authorize(Action.SIMULATE_GATE, gate)
        self._parts.gates.in_force(gate)
        most = within(request.decisions, 0, _MAX_DECISIONS, "decisions") or _DEFAULT_DECISIONS
        period = period_of(request.period, "period") if request.HasField("period") else _DEFAULT_PERIOD
        now, oldest = self._clock.now(), self._parts.decisions.oldest
        if period <= timedelta(0):
            raise InvalidRequestError.of("period", "must be above 0")
        after = max(oldest, now - min(period, now - oldest))
        draft = await self._draft(gate, request.text)
        async with aclosing(self._parts.simulations.run(gate, draft, after, most)) as running:
            async for progress in running:
                yield progress_message(progress)

    async def CreateGateException(  # noqa: N802
        self, request: gate_pb2.CreateGateExceptionRequest, context: Any
    ) -> gate_pb2.CreateGateExceptionResponse:
        """Let an artifact run for a time although the policy refuses it."""
        gate, call = parse_gate_name(request.gate, "gate"), current_call()
        call.authorize(Action.CREATE_GATE_EXCEPTION, gate, proposable=True)
        parameters = exception_parameters(request)
        order = order_of(gate, parameters, call.caller.subject, request.reason)
        self._parts.gates.in_force(gate)

        async def create(audit: Audit, also: Alongside[GateException] | None) -> GateException:
            self._parts.exceptions.require_room(gate)
            await self._proposer.require(call, Action.CREATE_GATE_EXCEPTION, gate, parameters, order.reason)
            return await self._parts.exceptions.create(order, audit, also)

        made = await self._changes.once_for(request, request.request_id, create, self._exception)
        message = exception_message(made, self._clock.at_least_latest())
        return gate_pb2.CreateGateExceptionResponse(exception=message)

    async def _exception(self, answer: bytes) -> GateException:
        found = msgspec.msgpack.decode(answer, type=_Named)
        return self._parts.exceptions.get(found.name)

    async def RevokeGateException(  # noqa: N802
        self, request: gate_pb2.RevokeGateExceptionRequest, context: Any
    ) -> gate_pb2.RevokeGateExceptionResponse:
        """End an exception at once."""
        name = parse_exception_name(request.name, "name")
        current_call().authorize(Action.REVOKE_GATE_EXCEPTION, name)
        found = await self._parts.exceptions.revoke(name, self._changes.audit())
        message = exception_message(found, self._clock.at_least_latest())
        return gate_pb2.RevokeGateExceptionResponse(exception=message)

    async def ListGateExceptions(  # noqa: N802
        self, request: gate_pb2.ListGateExceptionsRequest, context: Any
    ) -> gate_pb2.ListGateExceptionsResponse:
        """List a gate's exceptions by name."""
        gate = parse_gate_name(request.parent, "parent")
        current_call().authorize(Action.GET_GATE, gate)
        size, after = page_size_of(request.page_size), id_of_page_token(request.page_token)
        self._parts.gates.in_force(gate)
        found, now = self._parts.exceptions.page(gate, after, size + 1), self._clock.at_least_latest()
        return gate_pb2.ListGateExceptionsResponse(
            exceptions=[exception_message(one, now) for one in found[:size]],
            next_page_token=page_token(found[size - 1].name.id) if len(found) > size else "",
        )

    async def GetGateDecision(  # noqa: N802
        self, request: gate_pb2.GetGateDecisionRequest, context: Any
    ) -> gate_pb2.GetGateDecisionResponse:
        """Give a decision."""
        name = parse_decision_name(request.name, "name")
        current_call().authorize(Action.GET_GATE, name)
        return gate_pb2.GetGateDecisionResponse(decision=decision_message(await self._parts.decisions.get(name)))

    async def ListGateDecisions(  # noqa: N802
        self, request: gate_pb2.ListGateDecisionsRequest, context: Any
    ) -> gate_pb2.ListGateDecisionsResponse:
        """List decisions, newest first."""
        gate = parse_gate_name(request.parent, "parent")
        current_call().authorize(Action.GET_GATE, gate)
        size, before, wanted = (
            page_size_of(request.page_size),
            id_of_page_token(request.page_token),
            filter_of(request),
        )
        self._parts.gates.in_force(gate)
        found = await self._parts.decisions.page(gate, wanted, before, size + 1)
        return gate_pb2.ListGateDecisionsResponse(
            decisions=[decision_message(one, with_rules=False) for one in found[:size]],
            next_page_token=page_token(found[size - 1].id) if len(found) > size else "",
        )


class _Kept(msgspec.Struct, frozen=True):
    """What is kept of an answer: the rest is looked up."""

    gate: GateName
    id: str


class _Named(msgspec.Struct, frozen=True):
    """What is needed of an exception that was answered."""

    name: GateExceptionName


async def _names(answer: bytes) -> list[str]:
    return msgspec.msgpack.decode(answer, type=list[str])


def _answer(one: KeptDecision, summary: Signature | None = None) -> gate_pb2.EvaluateResponse:
    return gate_pb2.EvaluateResponse(decision=decision_message(one), summary=summary_message(summary))


def _row(one: KeptDecision, summary: Summary) -> SummaryRow:
    return SummaryRow(one.gate, summary.environment, subject_digest(one.subject.digests), one.summary, one.time)


def _kept_signature(bundle: bytes) -> Signature:
    parsed = parse_bundle(bundle)
    return Signature(bundle, parsed.signature, parsed.entries[0].log_index)
