"""Proposals and approvals in the metadata database."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Row, delete, select, update

from sealkeeper.server.audit import caller_document, recorded_caller
from sealkeeper.server.authorization import Action
from sealkeeper.server.errors import FailedPreconditionError
from sealkeeper.server.proposal import Approval, Proposal, ProposalState
from sealkeeper.server.resources import ProposalName
from sealkeeper.server.store.database import Database
from sealkeeper.server.store.schema import approvals, proposals


class ProposalTable:
    """Reads and writes proposals.

    Args:
        database: where.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, one: Proposal) -> None:
        """Make a new proposal durable.

        Raises:
            SealkeeperError: the database did not take it; nothing was written.
        """
        await self._database.run(lambda connection: connection.execute(proposals.insert(), _row(one)).rowcount)

    async def write(self, one: Proposal) -> None:
        """Make what has become of a proposal durable, and what was said of it.

        Raises:
            SealkeeperError: the database did not take it; nothing was written.
        """

        def work(connection: Connection) -> None:
            end(one)(connection)
            connection.execute(delete(approvals).filter_by(tenant=one.name.tenant, proposal=one.name.id))
            if one.approvals:
                rows = [_approval_row(one.name, place, said) for place, said in enumerate(one.approvals)]
                connection.execute(approvals.insert(), rows)

        await self._database.run(work)

    async def forget(self, name: ProposalName) -> None:
        """Remove a proposal.

        Raises:
            SealkeeperError: the database did not take it.
        """

        def work(connection: Connection) -> None:
            connection.execute(delete(approvals).filter_by(tenant=name.tenant, proposal=name.id))
            connection.execute(delete(proposals).filter_by(tenant=name.tenant, id=name.id))

        await self._database.run(work)

    async def read(self) -> list[Proposal]:
        """All proposals.

        Raises:
            SealkeeperError: the database does not answer.
        """

        def work(connection: Connection) -> list[Proposal]:
            said: dict[tuple[str, str], list[Approval]] = defaultdict(list)
            for row in connection.execute(select(approvals).order_by(approvals.c.number)):
                said[row.tenant, row.proposal].append(_approval(row))
            return [_proposal(row, said[row.tenant, row.id]) for row in connection.execute(select(proposals))]

        return await self._database.run(work)


def end(one: Proposal) -> Callable[[Connection], None]:
    """Writes what has become of a proposal, in a transaction of something else.

    Only one that is open changes: what was done once is not done again.

    Raises:
        FailedPreconditionError: in the transaction, which then does nothing: it is closed already.
    """

    def write(connection: Connection) -> None:
        columns = proposals.c
        still_open = columns.state.in_([state.value for state in ProposalState if state.is_open])
        found = connection.execute(
            update(proposals)
            .where(columns.tenant == one.name.tenant, columns.id == one.name.id, still_open)
            .values(state=one.state.value, close_time=one.close_time, outcome=one.outcome, end_index=one.end_index)
        )
        if found.rowcount != 1:
            raise FailedPreconditionError(f"{one.name} is closed already", reason="PROPOSAL_CLOSED")

    return write


def _row(one: Proposal) -> dict[str, Any]:
    proposer = one.proposer
    return {
        "tenant": one.name.tenant,
        "id": one.name.id,
        "state": one.state.value,
        "action": one.action.value,
        "resource": one.resource,
        "key": one.key,
        "content": one.content,
        "proposer": proposer.subject,
        "proposer_role": proposer.role.value,
        "proposer_certificate": proposer.certificate,
        "caller": dict(caller_document(proposer)),
        "address": one.address,
        "reason": one.reason,
        "required": one.required,
        "create_time": one.create_time,
        "expire_time": one.expire_time,
        "close_time": one.close_time,
        "outcome": one.outcome,
        "log_index": one.log_index,
        "end_index": one.end_index,
    }


def _approval_row(name: ProposalName, number: int, one: Approval) -> dict[str, Any]:
    return {
        "tenant": name.tenant,
        "proposal": name.id,
        "number": number,
        "subject": one.subject,
        "person": one.person,
        "approves": one.approves,
        "statement": one.statement,
        "material": one.material,
        "certificate": one.certificate,
        "key": one.key,
        "create_time": one.create_time,
        "withdraw_time": one.withdraw_time,
        "withdraw_index": one.withdraw_index,
        "log_index": one.log_index,
    }


def _proposal(row: Row[Any], said: list[Approval]) -> Proposal:
    return Proposal(
        ProposalName(row.tenant, row.id),
        ProposalState(row.state),
        Action(row.action),
        row.resource,
        row.key,
        row.content,
        recorded_caller(row.tenant, row.proposer, row.proposer_role, row.caller, row.proposer_certificate),
        row.address,
        row.reason,
        row.required,
        row.create_time,
        row.expire_time,
        row.log_index,
        tuple(said),
        row.close_time,
        row.outcome,
        row.end_index,
    )


def _approval(row: Row[Any]) -> Approval:
    return Approval(
        row.subject,
        row.person,
        row.approves,
        row.statement,
        row.material,
        row.certificate,
        row.key,
        row.create_time,
        row.log_index,
        row.withdraw_time,
        row.withdraw_index,
    )
