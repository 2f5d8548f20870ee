"""The end of a proposal that is done: its record, and what becomes durable in the transaction of what was proposed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from sqlalchemy import Connection

from sealkeeper.server.authorization import Action, Decision
from sealkeeper.server.key import Key
from sealkeeper.server.new_version import Audit
from sealkeeper.server.proposal import Proposal, ProposalState
from sealkeeper.server.store.proposal_table import end


class ProposalBook(Protocol):
    """What the end of a proposal needs to know of ``proposals.py``."""

    def closed(self, known: Proposal, state: ProposalState, outcome: str, index: int | None) -> Proposal:
        """The proposal as it is when it is closed now."""
        ...

    def seen(self, changed: Proposal) -> None:
        """Take a proposal as it is now."""
        ...

    async def record(
        self, known: Proposal, method: str, details: Mapping[str, Any], decision: Decision | None = None
    ) -> int:
        """Make a record of what the gateway does with a proposal; its index in the audit log."""
        ...


class ExecutionAudit:
    """The record of what is done in the name of a proposer; an ``Audit``."""

    def __init__(self, proposals: ProposalBook, proposal: Proposal) -> None:
        self.principal = proposal.proposer
        self.index: int | None = None
        self.decision: Decision | None = None
        self._proposals = proposals
        self._proposal = proposal

    async def __call__(self, details: dict[str, object]) -> int:
        """Make the record."""
        self.index = await self._proposals.record(
            self._proposal, "Gateway/ExecuteProposal", {**details, **grounds(self._proposal)}, self.decision
        )
        return self.index


class IndexedAudit:
    """Another record of a change, whose place in the audit log is remembered; an ``Audit``."""

    def __init__(self, audit: Audit) -> None:
        self.principal = audit.principal
        self.index: int | None = None
        self._audit = audit

    async def __call__(self, details: dict[str, object]) -> int:
        """Make the record."""
        self.index = await self._audit(details)
        return self.index


class ProposalEnd:
    """Ends a proposal in the transaction of what was proposed; an ``Alongside``."""

    def __init__(
        self, proposals: ProposalBook, proposal: Proposal, audit: ExecutionAudit | IndexedAudit | None = None
    ) -> None:
        self._proposals = proposals
        self._proposal = proposal
        self._audit = audit
        self._done: Proposal | None = None

    def recorded_by(self, audit: IndexedAudit) -> ProposalEnd:
        """The same, where the record of what is done is another's."""
        return ProposalEnd(self._proposals, self._proposal, audit)

    def write(self, connection: Connection, answer: Any) -> None:
        """End it. In the database's thread."""
        index = self._audit.index if self._audit is not None else None
        outcome = _outcome(self._proposal, answer)
        closed = self._proposals.closed(self._proposal, ProposalState.EXECUTED, outcome, index)
        end(closed)(connection)
        self._done = closed

    def seen(self) -> None:
        """To be called when the transaction is through: from now on the proposal is seen as done."""
        if self._done is not None:
            self._proposals.seen(self._done)


def grounds(known: Proposal) -> dict[str, Any]:
    """For the record of what is done: what was approved of, and by whom."""
    approvals = [
        {"subject": one.subject, "person": one.person, "logIndex": one.log_index}
        for one in known.approvals
        if one.counts
    ]
    return {"contentDigest": f"sha256:{known.digest.hex()}", "approvals": approvals}


def _outcome(known: Proposal, answer: Any) -> str:
    """Name of what was made or changed."""
    if isinstance(answer, Key):
        return str(answer.versions[-1].name) if known.action is Action.IMPORT_KEY else known.resource
    return str(getattr(answer, "name", "")) or known.resource
