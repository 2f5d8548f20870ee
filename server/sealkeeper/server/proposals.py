"""Dual control: what one person proposes is done when enough others have approved of exactly that, and once.

A service whose action needs approvals calls ``require``: it makes a proposal and refuses the call. Approvers sign the
digest of the proposal's content with their own keys. With the last approval that is needed the proposal is APPROVED,
durably, and then done: what is done becomes durable in one transaction with the proposal's end, so that a gateway that
was ended in between does it when it starts again, and never twice. An import waits for its proposer to hand in the
wrapped key, which the gateway does not keep.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec
import rfc8785

from sealkeeper.hsm import ProviderError
from sealkeeper.server.approver import SignedStatement
from sealkeeper.server.audit import AuditRecord, caller_document
from sealkeeper.server.authorization import Action, Authorizer, Decision
from sealkeeper.server.calls import Call
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.errors import (
    ApprovalRequiredError,
    FailedPreconditionError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    SealkeeperError,
    UnauthenticatedError,
    UnavailableError,
)
from sealkeeper.server.identity import Principal
from sealkeeper.server.log import LogError, Sequencer, Submission
from sealkeeper.server.new_version import Audit
from sealkeeper.server.proposal import Approval, Proposal, ProposalState
from sealkeeper.server.proposal_end import ExecutionAudit, ProposalEnd, grounds
from sealkeeper.server.proposal_watching import Watching
from sealkeeper.server.resources import KeyName, KeyVersionName, ProposalName, ResourceName, parse_resource
from sealkeeper.server.status import reason_of
from sealkeeper.server.store.database import Alongside
from sealkeeper.server.store.proposal_table import ProposalTable
from sealkeeper.server.under_way import UnderWay
from sealkeeper.verify.approval import encode_content, parse_content
from sealkeeper.verify.errors import VerifyError

MAX_OPEN = 100
"""Open proposals of a tenant."""
MAX_OPEN_OF_ONE = 50
"""Of these, of one proposer: nobody keeps the others from proposing."""
MAX_KEPT = 1000
"""Proposals of a tenant that are kept, open and closed."""
MAX_BYTES = 64 * 1024 * 1024
"""Of their contents and statements: the oldest closed ones make room for new ones."""
MAX_STATEMENTS = 32
"""Of a proposal, those that were taken back too."""
KEPT = timedelta(days=90)
"""How long a closed one is kept."""
MAX_REASON = 1024
_MAX_TOLD = 32 * 1024
_TRANSIENT = (UnavailableError, OverloadedError, ProviderError, LogError)

_log = logging.getLogger("sealkeeper.proposals")
T = TypeVar("T")
Parameters: TypeAlias = Mapping[str, Any]


class Executor(Protocol):
    """Does what was proposed; of one action."""

    async def __call__(self, proposal: Proposal, parameters: Parameters, audit: Audit, also: Alongside[Any]) -> object:
        """Do it, with ``also`` in its transaction.

        Raises:
            SealkeeperError: it cannot be done.
        """
        ...


@dataclass(frozen=True, slots=True)
class Rules:
    """What proposals are measured by.

    Attributes:
        gateway: its domain.
        lifetime: of a proposal.
        authorizer: asked again before something is done.
        trusted: raises where a proposer or an approver has been denied meanwhile.
        tell: told of each change: tenant, action, state.
        name_of: the person behind a subject, where the settings name one.
    """

    gateway: str
    lifetime: timedelta
    authorizer: Authorizer
    trusted: Callable[[Principal], None]
    tell: Callable[[str, str, str], None]
    name_of: Callable[[str], str]


class Proposals:
    """All proposals.

    Args:
        table: where they are durable.
        logs: where what happens to them is recorded before.
        clock: the time.
        proposals: as the table has them.
    """

    def __init__(
        self, table: ProposalTable, logs: Sequencer, clock: SteadyClock, proposals: Iterable[Proposal]
    ) -> None:
        self._table = table
        self._logs = logs
        self._clock = clock
        self._proposals: dict[str, dict[ProposalName, Proposal]] = {}
        for one in proposals:
            self._proposals.setdefault(one.name.tenant, {})[one.name] = one
        self._executors: Mapping[Action, Executor] = {}
        self._rules: Rules | None = None
        self._locks: dict[str, asyncio.Lock] = {}
        self._changes = UnderWay()
        self._watching = Watching()

    def begin(self, rules: Rules, executors: Mapping[Action, Executor]) -> None:
        """Learn how things are done, which needs what is made after this. To be called once, before anything else."""
        self._rules, self._executors = rules, executors

    @property
    def rules(self) -> Rules:
        """As ``begin`` was given them."""
        if self._rules is None:
            raise RuntimeError("proposals have not begun")
        return self._rules

    def get(self, name: ProposalName) -> Proposal:
        """Look a proposal up.

        Raises:
            NotFoundError: there is none.
        """
        found = self._proposals.get(name.tenant, {}).get(name)
        if found is None:
            raise NotFoundError(
                f"there is no proposal {name}",
                reason="PROPOSAL_NOT_FOUND",
                next_step="list them: sealkeeper approvals list",
            )
        return found

    def facts(self, name: ProposalName) -> tuple[str, str, str] | None:
        """What policies know of a proposal."""
        found = self._proposals.get(name.tenant, {}).get(name)
        return None if found is None else (found.action.value, found.proposer.subject, found.key)

    def page(self, tenant: str, before: str, limit: int, *, only_open: bool) -> list[Proposal]:
        """Up to ``limit`` proposals of a tenant, newest first, those before the id ``before``."""
        known = self._proposals.get(tenant, {})
        names = sorted((one.id for one in known), reverse=False)
        last = bisect_left(names, before) if before else len(names)
        found = (known[ProposalName(tenant, names[place])] for place in range(last - 1, -1, -1))
        chosen = (one for one in found if one.state.is_open or not only_open)
        return [one for one, _ in zip(chosen, range(limit), strict=False)]

    async def to_the_end(self, change: Coroutine[Any, Any, T]) -> T:
        """Make a change that ends a proposal to its end, even where its caller hangs up.

        Raises:
            Exception: what the change raises.
        """
        return await self._changes.to_the_end(change)

    async def close(self) -> None:
        """Wait for the changes under way."""
        await self._changes.close()

    def end_watching(self) -> None:
        """Let everybody who watches go."""
        self._watching.end()

    async def watch(self, tenant: str) -> AsyncIterator[Proposal]:
        """A tenant's open proposals, then each again whenever it changes, until watching ends.

        Raises:
            OverloadedError: too many watch already.
        """
        with self._watching.one_more(tenant) as changed:
            for one in self.page(tenant, "", MAX_KEPT, only_open=True)[::-1]:
                yield one
            while (name := await changed.get()) is not None:
                found = self._proposals.get(tenant, {}).get(name)
                if found is not None:
                    yield found

    async def require(
        self, call: Call, action: Action, resource: ResourceName, parameters: Parameters, reason: str = ""
    ) -> ProposalEnd | None:
        """See to it that the action of a call, which is authorized, has the approvals that it needs.

        Args:
            call: under way.
            action: that it asks for.
            resource: about what.
            parameters: what exactly, as JSON has it, without floats.
            reason: why, in the caller's words.

        Returns:
            ``None`` where it needs none. Where the caller's proposal of just this is APPROVED, and waits for the
            caller: what ends that proposal, for the transaction of the change.

        Raises:
            ApprovalRequiredError: it is proposed now, or was before.
            FailedPreconditionError: too many are open; or what was approved needs more approvals by now.
            InvalidRequestError: the reason is too long, or the content.
        """
        if not call.approvals:
            return None
        return await self._changes.to_the_end(self._require(call, action, resource, parameters, reason))

    async def _require(
        self, call: Call, action: Action, resource: ResourceName, parameters: Parameters, reason: str
    ) -> ProposalEnd | None:
        async with self._lock(call.caller.tenant):
            known = self._same(call.caller, action, resource, parameters)
            if known is None:
                known = await self._propose(call, action, resource, parameters, reason)
            else:
                call.details["proposal"] = str(known.name)
                if known.state is ProposalState.APPROVED and action not in self._executors:
                    await self._require_enough(known, call.approvals)
                    call.details.update(grounds(known))
                    return ProposalEnd(self, known)
        raise ApprovalRequiredError(
            f"{action} needs {known.required} approval{'s' if known.required > 1 else ''} of others; it is proposed as "
            f"{known.name}",
            next_step=f"have it approved: sealkeeper approvals approve {known.name.id}; "
            f"follow it: sealkeeper approvals watch {known.name.id}",
            metadata={"proposal": str(known.name)},
        )

    def _same(
        self, proposer: Principal, action: Action, resource: ResourceName, parameters: Parameters
    ) -> Proposal | None:
        """The proposer's own open proposal of just this."""
        now, wanted = self._clock.at_least_latest(), rfc8785.dumps(dict(parameters))
        # Contents are canonical: what does not have these bytes is not read at all.
        written = b'"parameters":' + wanted + b","
        for one in self._proposals.get(proposer.tenant, {}).values():
            if (
                one.state.is_open
                and now < one.expire_time
                and one.action is action
                and one.resource == str(resource)
                and one.proposer.subject == proposer.subject
                and written in one.content
                and rfc8785.dumps(dict(parse_content(one.content).parameters)) == wanted
            ):
                return one
        return None

    async def _propose(
        self, call: Call, action: Action, resource: ResourceName, parameters: Parameters, reason: str
    ) -> Proposal:
        proposer, now = call.caller, self._clock.now()
        if len(reason) > MAX_REASON or not all(one.isprintable() or one == "\n" for one in reason):
            raise InvalidRequestError.of("reason", f"must be at most {MAX_REASON} printable characters")
        await self._make_room(proposer)
        name = ProposalName(proposer.tenant, f"p{int(now.timestamp() * 1000):012x}{secrets.token_hex(4)}")
        try:
            content = encode_content(
                gateway=self.rules.gateway,
                proposal=str(name),
                action=action.value,
                resource=str(resource),
                parameters=parameters,
                proposer_subject=proposer.subject,
                proposer_person=proposer.person,
                proposer_role=proposer.role.value,
                reason=reason,
                required=call.approvals,
                create_time=now,
                expire_time=now + self.rules.lifetime,
            )
        except VerifyError as error:
            raise InvalidRequestError.of("request", f"cannot be proposed: {error}") from None
        # As the content has them, which is in milliseconds.
        parsed = parse_content(content)
        index = await self._record_proposal(call, name, content, parsed.digest)
        made = Proposal(
            name,
            ProposalState.PENDING,
            action,
            str(resource),
            _key_of(resource),
            content,
            proposer,
            call.address,
            reason,
            call.approvals,
            parsed.create_time,
            parsed.expire_time,
            index,
        )
        await self._table.add(made)
        self.seen(made)
        return made

    async def _record_proposal(self, call: Call, name: ProposalName, content: bytes, digest: bytes) -> int:
        call.details["proposal"] = str(name)
        call.details["contentDigest"] = f"sha256:{digest.hex()}"
        if len(content) <= _MAX_TOLD:
            call.details["content"] = msgspec.json.decode(content)
        record = call.audit_record(self._clock.at_least_latest(), ApprovalRequiredError.reason)
        receipt = await self._logs.submit(Submission(audit=[record]))
        call.recorded_as = ApprovalRequiredError.reason
        return receipt.audit_index

    async def _make_room(self, proposer: Principal) -> None:
        tenant, known = proposer.tenant, self._proposals.get(proposer.tenant, {})
        still_open = [one for one in known.values() if one.state.is_open]
        own = sum(one.proposer.subject == proposer.subject for one in still_open)
        if len(still_open) >= MAX_OPEN or own >= MAX_OPEN_OF_ONE:
            raise FailedPreconditionError(
                f"{tenant} has {len(still_open)} open proposals, {own} of them yours; {MAX_OPEN} are allowed, and "
                f"{MAX_OPEN_OF_ONE} of one proposer",
                reason="PROPOSAL_LIMIT",
                next_step="approve, reject or withdraw some: sealkeeper approvals list",
            )
        count, size = len(known), sum(map(_size, known.values()))
        closed = [(one.close_time, one) for one in known.values() if one.close_time is not None]
        for _, one in sorted(closed, key=lambda pair: pair[0]):
            if count < MAX_KEPT and size < MAX_BYTES:
                break
            await self._forget(one.name)
            count, size = count - 1, size - _size(one)

    async def _forget(self, name: ProposalName) -> None:
        await self._table.forget(name)
        self._proposals[name.tenant].pop(name, None)

    async def decide(self, name: ProposalName, statement: SignedStatement, audit: Audit) -> Proposal:
        """Take an approver's statement. With the last approval that is needed, the proposal is done.

        Raises:
            NotFoundError: there is no such proposal.
            FailedPreconditionError: it is closed or too old.
            PermissionDeniedError: the approver is the proposer, by whatever certificate.
            AlreadyExistsError: the person, or the key, has approved already.
            InvalidRequestError: the statement is of other content.
        """
        return await self._changes.to_the_end(self._decide(name, statement, audit))

    async def _decide(self, name: ProposalName, statement: SignedStatement, audit: Audit) -> Proposal:
        async with self._lock(name.tenant):
            known = self._require_pending(name)
            now = self._clock.now()
            statement.require_of(known, self.rules.gateway, now)
            statement.require_another(known, self.rules.name_of)
            if len(known.approvals) >= MAX_STATEMENTS:
                raise FailedPreconditionError(
                    f"{MAX_STATEMENTS} decisions about {name} were made, and taken back",
                    reason="PROPOSAL_LIMIT",
                    next_step="have its proposer take it back and propose it again",
                )
            said = statement.approval(now, await audit(statement.details(known)))
            index = said.log_index
            changed = replace(known, approvals=(*known.approvals, said))
            if not said.approves:
                changed = self.closed(changed, ProposalState.REJECTED, "", index)
            elif changed.standing >= changed.required:
                changed = replace(changed, state=ProposalState.APPROVED)
            await self._write(changed)
            if changed.state is ProposalState.APPROVED:
                changed = await self._execute(changed)
            return changed

    async def withdraw(self, name: ProposalName, audit: Audit) -> Proposal:
        """Take back the principal's own proposal, or the principal's approval, while it is PENDING.

        Raises:
            NotFoundError: there is no such proposal.
            FailedPreconditionError: it is closed, or there is nothing of the principal's.
        """
        return await self._changes.to_the_end(self._withdraw(name, audit))

    async def _withdraw(self, name: ProposalName, audit: Audit) -> Proposal:
        async with self._lock(name.tenant):
            # An import that is approved still waits for its proposer, who may think better of it.
            known, subject = self._require_open(name), audit.principal.subject
            own = [one for one in known.approvals if one.subject == subject and one.withdraw_time is None]
            if known.proposer.subject == subject:
                index = await audit({"proposal": str(name), "withdrawn": "proposal"})
                changed = self.closed(known, ProposalState.WITHDRAWN, "", index)
            elif own and known.state is ProposalState.PENDING:
                index = await audit({"proposal": str(name), "withdrawn": "approval"})
                taken_back = (self._taken_back(one, subject, index) for one in known.approvals)
                changed = replace(known, approvals=tuple(taken_back))
            else:
                raise FailedPreconditionError(
                    f"neither {name} nor an approval of it that could be taken back is yours",
                    reason="NOTHING_TO_WITHDRAW",
                    next_step="its proposer can withdraw it; an approver can reject it while it is PENDING",
                )
            await self._write(changed)
            return changed

    def _taken_back(self, one: Approval, subject: str, index: int) -> Approval:
        if one.subject != subject or one.withdraw_time is not None:
            return one
        return replace(one, withdraw_time=self._clock.at_least_latest(), withdraw_index=index)

    def _require_open(self, name: ProposalName) -> Proposal:
        known = self.get(name)
        if not known.state.is_open:
            raise _closed_error(f"{name} is {known.state}")
        if self._clock.at_least_latest() >= known.expire_time:
            raise _closed_error(f"{name} could be approved and done until {known.expire_time:%Y-%m-%d %H:%M:%S} UTC")
        return known

    def _require_pending(self, name: ProposalName) -> Proposal:
        known = self._require_open(name)
        if known.state is not ProposalState.PENDING:
            raise _closed_error(f"{name} is {known.state} already")
        return known

    def closed(self, known: Proposal, state: ProposalState, outcome: str, index: int | None) -> Proposal:
        """The proposal as it is when it is closed now."""
        return replace(known, state=state, outcome=outcome, close_time=self._clock.at_least_latest(), end_index=index)

    async def tidy(self) -> None:
        """Do what is approved and was not done, close what is too old, and forget the oldest."""
        for name in [one for found in self._proposals.values() for one in found]:
            try:
                async with self._lock(name.tenant):
                    await self._tidy(name)
            except _TRANSIENT as error:
                _log.error("%s waits: %s", name, error)
            except Exception:  # noqa: BLE001  (what nobody foresaw must not keep others from being done)
                _log.exception("%s waits", name)

    async def _tidy(self, name: ProposalName) -> None:
        now, one = self._clock.at_least_latest(), self._proposals[name.tenant].get(name)
        if one is None:
            return
        if one.state.is_open and now >= one.expire_time:
            index = await self.record(one, "Gateway/ExpireProposal", {"expireTime": one.expire_time})
            await self._write(self.closed(one, ProposalState.EXPIRED, "", index))
        elif one.state is ProposalState.APPROVED:
            await self._execute(one)
        elif one.close_time is not None and now - one.close_time > KEPT:
            await self._forget(one.name)

    async def _execute(self, known: Proposal) -> Proposal:
        """Do what is approved; the proposal as it is then. What cannot be done now is tried again by ``tidy``."""
        execute = self._executors.get(known.action)
        if execute is None:
            return known
        audit, parameters = ExecutionAudit(self, known), parse_content(known.content).parameters
        ending = ProposalEnd(self, known, audit)
        try:
            audit.decision = self._require_still_allowed(known)
            await execute(known, parameters, audit, ending)
        except _TRANSIENT as error:
            _log.error("%s is approved and cannot be done now: %s", known.name, error)
            return known
        except SealkeeperError as error:
            if reason_of(error) == "PROPOSAL_CLOSED":
                _log.critical("%s is done by the database and not here: start the gateway again", known.name)
                return known
            return await self._fail(known, error)
        ending.seen()
        return self.get(known.name)

    async def _fail(self, known: Proposal, error: SealkeeperError) -> Proposal:
        """Close what cannot be done for good; the proposal as it is then."""
        reason = reason_of(error)
        index = await self.record(known, "Gateway/FailProposal", {"reason": reason, "refusal": str(error)[:1000]})
        failed = self.closed(known, ProposalState.FAILED, reason, index)
        await self._write(failed)
        return failed

    async def _require_enough(self, known: Proposal, needed: int) -> None:
        """Close and refuse what its proposer would finish without enough approvals that still hold."""
        try:
            self._require_standing(known, needed)
        except SealkeeperError as error:
            await self._fail(known, error)
            raise

    def _require_still_allowed(self, known: Proposal) -> Decision:
        """Refuse what the proposer may not do any more, or what needs more approvals by now."""
        proposer, now = known.proposer, self._clock.now()
        self.rules.trusted(proposer)
        decision = self.rules.authorizer.decide(
            proposer, known.action, parse_resource(known.resource), known.address, now
        )
        if not decision.allowed:
            raise PermissionDeniedError(f"{proposer.subject} may not {known.action} on {known.resource} any more")
        self._require_standing(known, decision.approvals)
        return decision

    def _require_standing(self, known: Proposal, needed: int) -> None:
        """Refuse what needs more approvals by now, or has one of somebody who has been denied meanwhile."""
        for one in known.approvals:
            if one.counts:
                self._require_trusted(one, known.name.tenant)
        if needed > known.standing:
            raise FailedPreconditionError(
                f"{known.action} needs {needed} approvals by now",
                reason="APPROVALS_MISSING",
                next_step="propose it again",
            )

    def _require_trusted(self, one: Approval, tenant: str) -> None:
        try:
            self.rules.trusted(one.principal(tenant))
        except UnauthenticatedError:
            raise FailedPreconditionError(
                f"{one.person} has approved of it, and is denied by now",
                reason="APPROVALS_MISSING",
                next_step="propose it again",
            ) from None

    async def record(
        self, known: Proposal, method: str, details: Mapping[str, Any], decision: Decision | None = None
    ) -> int:
        """Make a record of what the gateway does with a proposal; its index in the audit log."""
        proposer = known.proposer
        record = AuditRecord(
            self._clock.at_least_latest(),
            method,
            known.name.tenant,
            proposer.subject,
            proposer.role,
            known.resource,
            policy=decision.policy if decision is not None else "",
            policy_version=decision.version if decision is not None else "",
            details={"proposal": str(known.name), "contentDigest": f"sha256:{known.digest.hex()}", **details},
            action=known.action,
            caller=caller_document(proposer),
        )
        return (await self._logs.submit(Submission(audit=[record.encode()]))).audit_index

    async def _write(self, changed: Proposal) -> None:
        await self._table.write(changed)
        self.seen(changed)

    def seen(self, changed: Proposal) -> None:
        """Take a proposal as it is now."""
        before = self._proposals.setdefault(changed.name.tenant, {}).get(changed.name)
        self._proposals[changed.name.tenant][changed.name] = changed
        self._watching.tell(changed.name)
        if before is None or before.state is not changed.state:
            self.rules.tell(changed.name.tenant, changed.action, changed.state)

    def _lock(self, tenant: str) -> asyncio.Lock:
        return self._locks.setdefault(tenant, asyncio.Lock())


def _key_of(resource: ResourceName) -> str:
    if isinstance(resource, KeyVersionName):
        return str(resource.parent)
    return str(resource) if isinstance(resource, KeyName) else ""


def _size(one: Proposal) -> int:
    """Bytes that it takes, about."""
    return len(one.content) + sum(len(said.statement) + len(said.material) for said in one.approvals)


def _closed_error(text: str) -> FailedPreconditionError:
    return FailedPreconditionError(text, reason="PROPOSAL_CLOSED", next_step="propose it again")
