"""ApprovalService: checks and translates requests, and leaves the rest to ``proposals.py``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from sealkeeper.server.approver import read_statement
from sealkeeper.server.authorization import Action
from sealkeeper.server.calls import current_call
from sealkeeper.server.errors import InvalidRequestError, UnauthenticatedError
from sealkeeper.server.key_changes import KeyChanges
from sealkeeper.server.key_usage import Artifact, KeyUsage
from sealkeeper.server.log import AUDIT, Sequencer
from sealkeeper.server.people import People
from sealkeeper.server.proposal import Approval, Proposal, ProposalState
from sealkeeper.server.proposals import Proposals
from sealkeeper.server.resources import (
    KeyVersionName,
    ProposalName,
    TenantName,
    parse_proposal_name,
    parse_resource,
    parse_tenant_name,
)
from sealkeeper.server.translation import id_of_page_token, page_size_of, page_token, timestamp
from sealkeeper.v1 import approval_pb2, approval_pb2_grpc

_STATES = {state: approval_pb2.ProposalState.Value(f"PROPOSAL_STATE_{state}") for state in ProposalState}


class ApprovalService(approval_pb2_grpc.ApprovalServiceServicer):
    """Answers for the contract's ApprovalService.

    Args:
        proposals: all proposals.
        people: whose keys statements are verified with.
        changes: records calls.
        usage: of keys, for what a change does to others.
        logs: where the evidence is.
    """

    def __init__(
        self, proposals: Proposals, people: People, changes: KeyChanges, usage: KeyUsage, logs: Sequencer
    ) -> None:
        self._proposals = proposals
        self._people = people
        self._changes = changes
        self._usage = usage
        self._logs = logs

    async def GetProposal(  # noqa: N802
        self, request: approval_pb2.GetProposalRequest, context: Any
    ) -> approval_pb2.GetProposalResponse:
        """Look a proposal up."""
        name = parse_proposal_name(request.name, "name")
        current_call().authorize(Action.GET_PROPOSAL, name)
        found = self._proposals.get(name)
        message = _message(found, whole=True)
        impact = self._impact(found)
        if impact is not None:
            message.impact.CopyFrom(impact)
        response = approval_pb2.GetProposalResponse(proposal=message)
        if request.with_evidence:
            await self._add_evidence(found, response)
        return response

    async def ListProposals(  # noqa: N802
        self, request: approval_pb2.ListProposalsRequest, context: Any
    ) -> approval_pb2.ListProposalsResponse:
        """List a tenant's proposals, newest first."""
        parent = parse_tenant_name(request.parent, "parent")
        current_call().authorize(Action.GET_PROPOSAL, parent)
        size, before = page_size_of(request.page_size), id_of_page_token(request.page_token)
        found = self._proposals.page(parent.tenant, before, size + 1, only_open=request.open)
        return approval_pb2.ListProposalsResponse(
            proposals=[_message(one, whole=False) for one in found[:size]],
            next_page_token=page_token(found[size - 1].name.id) if len(found) > size else "",
        )

    async def DecideProposal(  # noqa: N802
        self, request: approval_pb2.DecideProposalRequest, context: Any
    ) -> approval_pb2.DecideProposalResponse:
        """Approve or reject."""
        name = parse_proposal_name(request.name, "name")
        principal = current_call().authorize(Action.APPROVE, name)
        self._proposals.get(name)
        statement = read_statement(request.statement, principal, self._people)
        decided = await self._proposals.decide(name, statement, self._changes.audit())
        return approval_pb2.DecideProposalResponse(proposal=_message(decided, whole=True))

    async def WithdrawProposal(  # noqa: N802
        self, request: approval_pb2.WithdrawProposalRequest, context: Any
    ) -> approval_pb2.WithdrawProposalResponse:
        """Take back what is the caller's."""
        name = parse_proposal_name(request.name, "name")
        current_call().authorize(Action.GET_PROPOSAL, name)
        changed = await self._proposals.withdraw(name, self._changes.audit())
        return approval_pb2.WithdrawProposalResponse(proposal=_message(changed, whole=True))

    async def WatchProposals(  # noqa: N802
        self, request: approval_pb2.WatchProposalsRequest, context: Any
    ) -> AsyncIterator[approval_pb2.WatchProposalsResponse]:
        """Give what is open, and then what changes."""
        name = _watched(request.name)
        call = current_call()
        call.authorize(Action.GET_PROPOSAL, name)
        only = name if isinstance(name, ProposalName) else None
        if only is not None and not self._proposals.get(only).state.is_open:
            yield approval_pb2.WatchProposalsResponse(proposal=_message(self._proposals.get(only), whole=False))
            return
        async for one in self._proposals.watch(name.tenant):
            # What has changed meanwhile may be the policy, or the caller's proof has come to its end.
            call.authorize(Action.GET_PROPOSAL, name)
            if call.caller.not_after is not None and call.now() > call.caller.not_after:
                raise UnauthenticatedError(
                    "the proof of who you are has expired meanwhile",
                    reason="CREDENTIALS_EXPIRED",
                    next_step="renew it, and watch again",
                )
            if only in (None, one.name):
                yield approval_pb2.WatchProposalsResponse(proposal=_message(one, whole=False))

    async def _add_evidence(self, found: Proposal, response: approval_pb2.GetProposalResponse) -> None:
        reader = self._logs.log(AUDIT)
        indices = [found.log_index, *(one.log_index for one in found.approvals)]
        indices += [one.withdraw_index for one in found.approvals if one.withdraw_index is not None]
        indices += [] if found.end_index is None else [found.end_index]
        size = reader.tree_size
        response.checkpoint = reader.checkpoint
        for index in sorted(set(indices)):
            record = b"".join([body async for _, bodies in reader.entries(index, 1) for body in bodies])
            proof = await reader.inclusion_proof(index, size)
            response.evidence.add(log_index=index, record=record, hashes=proof.hashes, tree_size=size)

    def _impact(self, found: Proposal) -> approval_pb2.Impact | None:
        name = parse_resource(found.resource)
        if not isinstance(name, KeyVersionName):
            return None
        usage = self._usage.of(name)
        if usage is None:
            return approval_pb2.Impact()
        return approval_pb2.Impact(
            signatures=usage.signatures,
            last_use_time=timestamp(usage.last_use),
            recent_artifacts=[_artifact(one) for one in usage.recent],
            production_artifacts=[_artifact(one) for one in usage.production],
            production_signatures=usage.production_signatures,
        )


def _watched(text: str) -> TenantName | ProposalName:
    name = parse_resource(text, "name")
    if not isinstance(name, TenantName | ProposalName):
        raise InvalidRequestError.of("name", "must be tenants/{tenant} or tenants/{tenant}/proposals/{proposal}")
    return name


def _message(one: Proposal, *, whole: bool) -> approval_pb2.Proposal:
    return approval_pb2.Proposal(
        name=str(one.name),
        state=_STATES[one.state],
        action=one.action,
        resource=one.resource,
        content=one.content if whole else b"",
        digest=one.digest,
        proposer=one.proposer.subject,
        proposer_person=one.proposer.person,
        reason=one.reason,
        required=one.required,
        approvals=[_approval(said, whole=whole) for said in one.approvals],
        create_time=timestamp(one.create_time),
        expire_time=timestamp(one.expire_time),
        close_time=timestamp(one.close_time),
        outcome=one.outcome,
        log_index=one.log_index,
    )


def _approval(one: Approval, *, whole: bool) -> approval_pb2.Approval:
    kinds = approval_pb2.APPROVAL_DECISION_APPROVE, approval_pb2.APPROVAL_DECISION_REJECT
    return approval_pb2.Approval(
        subject=one.subject,
        person=one.person,
        decision=kinds[0] if one.approves else kinds[1],
        statement=one.statement if whole else b"",
        verification_material=one.material if whole else b"",
        certificate=one.certificate,
        create_time=timestamp(one.create_time),
        withdraw_time=timestamp(one.withdraw_time),
        log_index=one.log_index,
    )


def _artifact(one: Artifact) -> approval_pb2.SignedArtifact:
    return approval_pb2.SignedArtifact(
        name=one.name, digest=one.digest, sign_time=timestamp(one.time), subject=one.subject
    )
