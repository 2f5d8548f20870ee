"""An auditor's check of dual control: that enough people approved of exactly what was done, before it was done.

Offline, and without belief in the gateway: who people are comes from their organisation.

>>> kept = KeptProposal.parse(Path("proposal.json").read_bytes())  # doctest: +SKIP
>>> people = KnownPeople.read([Path("people-ca.pem").read_bytes()], [])  # doctest: +SKIP
>>> verify_proposal(kept, people=people, log=NoteVerifier.from_vkey(vkey)).require()  # doctest: +SKIP
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import rfc8785

from sealkeeper.verify.approval import APPROVE, Content, Statement, open_statement, parse_content
from sealkeeper.verify.audit_record import audit_checkpoint, parse_audit_record
from sealkeeper.verify.errors import StepFailedError, VerifyError
from sealkeeper.verify.kept_proposal import MAX_APPROVALS, KeptApproval, KeptProposal, KeptRecord
from sealkeeper.verify.known_people import KnownPeople, Signer, parse_person_id, public_key_of_certificate
from sealkeeper.verify.merkle import leaf_hash, verify_inclusion
from sealkeeper.verify.note import Checkpoint, NoteVerifier
from sealkeeper.verify.steps import Step, take_steps
from sealkeeper.verify.strict_json import Value

DECIDED = "ApprovalService/DecideProposal"
WITHDRAWN = "ApprovalService/WithdrawProposal"
EXECUTED = "Gateway/ExecuteProposal"
IMPORTED = "KeyImportService/FinishKeyImport"
PROPOSED = "APPROVAL_REQUIRED"
"""Outcome of the call that proposed."""
_SKEW = timedelta(minutes=10)
"""By which an approver's clock may be ahead of the gateway's or behind it; and the longest that doing it takes."""
_MAX_TEXT = 4096


@dataclass(frozen=True, slots=True)
class Record:
    """What an audit record says.

    Attributes:
        index: of the log's entry.
        time: when it was written, by the gateway's clock.
        method: that was called, or what the gateway did.
        outcome: OK, or the reason of the refusal.
        action: that it was, as policies name it; empty where the record does not say.
        resource: what it was about.
        tenant: whose it is.
        subject: who called.
        person: the person who did, as the gateway knows it; empty where the record does not say.
        details: as the method has them.
    """

    index: int
    time: datetime
    method: str
    outcome: str
    action: str
    resource: str
    tenant: str
    subject: str
    person: str
    details: Value


@dataclass(frozen=True, slots=True)
class Approver:
    """One whose approval counts.

    Attributes:
        signer: who it is.
        statement: what they signed.
        record: of the approval.
        kept: the same statement, signed.
    """

    signer: Signer
    statement: Statement
    record: Record
    kept: KeptApproval


@dataclass(frozen=True, slots=True)
class ProposalResult:
    """What came out.

    Attributes:
        verified: every step passed.
        steps: in order; the last one failed where ``verified`` is False.
        content: what was proposed; ``None`` unless ``verified``.
        approvers: whose approvals count, in the order of the log; empty unless ``verified``.
        executed: the record of what was done; ``None`` unless ``verified``.
        checkpoint: that the records are under; ``None`` unless ``verified``.
        log_verified: the checkpoint's signature was checked against a key of the log.
    """

    verified: bool = False
    steps: tuple[Step, ...] = ()
    content: Content | None = None
    approvers: tuple[Approver, ...] = ()
    executed: Record | None = None
    checkpoint: Checkpoint | None = None
    log_verified: bool = False

    def require(self) -> Content:
        """What was proposed, approved and done.

        Raises:
            StepFailedError: a step failed.
        """
        if self.content is None:
            raise StepFailedError(self.steps[-1].name, self.steps[-1].detail)
        return self.content


def verify_proposal(kept: KeptProposal, *, people: KnownPeople, log: NoteVerifier | None) -> ProposalResult:
    """Verify a proposal that was done. A bad one is an answer, never an exception.

    Args:
        kept: the proposal with its evidence.
        people: whom the organisation vouches for.
        log: the audit log's verifier key. Without it the records are shown to be in *a* tree, not in the gateway's log;
            ``ProposalResult.log_verified`` says so.
    """
    run = _Verification(kept, people, log)
    steps = take_steps(run.steps())
    return replace(run.result() if steps[-1].passed else ProposalResult(), steps=steps)


class _Verification:
    """The steps of one verification, and what they have found so far."""

    def __init__(self, kept: KeptProposal, people: KnownPeople, log: NoteVerifier | None) -> None:
        self._kept = kept
        self._people = people
        self._log = log
        self._content: Content
        self._statements: list[Statement]
        self._signers: list[Signer]
        self._checkpoint: Checkpoint
        self._records: list[Record]
        self._said: list[Approver]
        self._approvers: list[Approver]
        self._executed: Record

    def steps(self) -> Iterator[tuple[str, Callable[[], str]]]:
        """Each step's stable name and what it does; later ones rely on what earlier ones have found."""
        yield "content", self._read_content
        yield "statements", self._open_statements
        yield "content-digest", self._compare_digests
        yield "signers", self._find_signers
        yield "checkpoint", self._check_checkpoint
        yield "inclusion-proof", self._check_inclusion
        yield "records", self._read_records
        yield "proposing", self._find_proposing
        yield "agreement", self._compare_with_records
        yield "execution", self._find_execution
        yield "decisions", self._count_decisions
        yield "persons", self._require_distinct
        yield "proposer", self._require_others
        yield "times", self._check_times
        yield "quorum", self._require_quorum

    def result(self) -> ProposalResult:
        """After all steps have passed."""
        found = (self._content, tuple(self._approvers), self._executed, self._checkpoint)
        return ProposalResult(True, (), *found, self._log is not None)

    def _read_content(self) -> str:
        self._content = parse_content(self._kept.content)
        return f"{self._content.action} of {self._content.resource}, {self._content.proposal}"

    def _open_statements(self) -> str:
        if not self._kept.approvals:
            raise VerifyError("nobody has said anything of the proposal")
        self._statements = [open_statement(one.statement, _public_key(one)) for one in self._kept.approvals]
        return f"{len(self._statements)}, each signed with the key that is given for it"

    def _compare_digests(self) -> str:
        content = self._content
        for one in self._statements:
            _require_equal("gateway", one.gateway, content.gateway)
            _require_equal("proposal", one.proposal, content.proposal)
            if one.content_digest != content.digest:
                raise VerifyError(
                    f"a statement is of the content sha256:{one.content_digest.hex()}; "
                    f"that of the proposal is sha256:{content.digest.hex()}"
                )
        return f"sha256:{content.digest.hex()}"

    def _find_signers(self) -> str:
        pairs = zip(self._kept.approvals, self._statements, strict=True)
        self._signers = [self._signer(one, statement.time) for one, statement in pairs]
        return ", ".join(f"{one.person} ({one.identity or 'by public key'})" for one in self._signers)

    def _signer(self, approval: KeptApproval, moment: datetime) -> Signer:
        if not approval.certificate:
            return self._people.signer(approval.material)
        tenant = self._content.proposal.split("/")[1]
        return self._people.certified(approval.material, moment, gateway=self._content.gateway, tenant=tenant)

    def _check_checkpoint(self) -> str:
        self._checkpoint, found = audit_checkpoint(self._kept.checkpoint, self._content.gateway, self._log)
        return found

    def _check_inclusion(self) -> str:
        size, before = self._checkpoint.size, -1
        for one in self._kept.records:
            if one.tree_size != size:
                raise VerifyError(f"a proof is of {one.tree_size} entries, the checkpoint of {size}")
            if one.index <= before:
                raise VerifyError("the records are not in the order of the log")
            verify_inclusion(leaf_hash(one.record), one.index, size, one.hashes, self._checkpoint.root_hash)
            before = one.index
        return f"{len(self._kept.records)} records are in the tree of {size}"

    def _read_records(self) -> str:
        content = self._content
        self._records = [_record(one) for one in self._kept.records]
        for one in self._records:
            _require_equal("proposal of a record", one.details.member("proposal").text(256), content.proposal)
            _require_equal("tenant of a record", one.tenant, content.proposal.split("/")[1])
        return f"{len(self._records)}, all of {content.proposal}"

    def _find_proposing(self) -> str:
        content = self._content
        first = next(iter(self._records), None)
        if first is None or first.outcome != PROPOSED:
            raise VerifyError("the first record is not the one of the call that proposed")
        _require_equal("proposer", first.subject, content.proposer_subject)
        _require_equal("content of the record", first.details.member("contentDigest").text(128), _digest(content))
        details = first.details.json
        # Long contents are not in the log, only their digest.
        if "content" in details and _canonical(details["content"]) != self._kept.content:
            raise VerifyError("the content in the record is another than the one that was kept")
        return f"{first.method} by {first.subject} at {first.time.isoformat()}"

    def _compare_with_records(self) -> str:
        decided = [one for one in self._records if (one.method, one.outcome) == (DECIDED, "OK")]
        said: list[Approver] = []
        for approval, statement, signer in zip(self._kept.approvals, self._statements, self._signers, strict=True):
            record = next((one for one in decided if _is_record_of(one, approval, statement, self._content)), None)
            if record is None:
                raise VerifyError(f"no record of the log has the statement of {signer.person}")
            if signer.identity:
                _require_equal("caller of the record", record.subject, signer.identity)
            decided.remove(record)
            said.append(Approver(signer, statement, record, approval))
        if decided:
            raise VerifyError(f"the statement in the record {decided[0].index} was not kept")
        self._said = sorted(said, key=lambda one: one.record.index)
        return f"in the log as they were kept: {len(said)}"

    def _find_execution(self) -> str:
        done = [one for one in self._records if one.method in (EXECUTED, IMPORTED) and one.outcome == "OK"]
        if not done:
            raise VerifyError("no record says that it was done")
        first = self._executed = done[0]
        _require_equal("action that was done", first.action, self._content.action)
        _require_equal("resource of what was done", first.resource, self._content.resource)
        wanted = _digest(self._content)
        _require_equal("content of what was done", first.details.member("contentDigest").text(128), wanted)
        # The record comes before the change: a gateway that was ended in between does it again, and records it again.
        again = f", and {len(done) - 1} times again" if len(done) > 1 else ""
        return f"{first.method} at {first.time.isoformat()}{again}"

    def _count_decisions(self) -> str:
        before = [one for one in self._said if one.record.index < self._executed.index]
        refused = next((one for one in before if one.statement.decision != APPROVE), None)
        if refused is not None:
            raise VerifyError(f"{refused.signer.person} rejected it, and it was done all the same")
        withdrawals = [one for one in self._records if (one.method, one.outcome) == (WITHDRAWN, "OK")]
        for one in withdrawals:
            if one.details.member("withdrawn").text(64) == "proposal" and one.index < self._executed.index:
                raise VerifyError("the proposal was withdrawn, and it was done all the same")
        counted = self._counted_indexes()
        self._approvers = [
            one
            for one in before
            if not self._is_withdrawn(one, withdrawals) and (counted is None or one.record.index in counted)
        ]
        return f"{len(self._approvers)} approve, {len(before) - len(self._approvers)} were taken back"

    def _counted_indexes(self) -> set[int] | None:
        """Of the approvals that the gateway counted when it did it; ``None`` where its record does not say."""
        details = self._executed.details
        if "approvals" not in details.json:
            return None
        return {one.member("logIndex").integer() for one in details.member("approvals").items(MAX_APPROVALS)}

    def _is_withdrawn(self, one: Approver, withdrawals: Sequence[Record]) -> bool:
        return any(
            one.record.index < other.index < self._executed.index and _same_caller(one.record, other)
            for other in withdrawals
            if other.details.member("withdrawn").text(64) == "approval"
        )

    def _require_distinct(self) -> str:
        _require_unique("person", [one.signer.person.casefold() for one in self._approvers])
        _require_unique("key", [one.signer.key_id for one in self._approvers])
        _require_unique("caller", [one.record.subject for one in self._approvers])
        _require_unique("caller's person", [one.record.person for one in self._approvers if one.record.person])
        return ", ".join(one.signer.person for one in self._approvers)

    def _require_others(self) -> str:
        content = self._content
        named = parse_person_id(content.proposer_subject)
        own = {content.proposer_person, named.person if named else "", content.proposer_subject} - {""}
        own |= {one.casefold() for one in own}
        for one in self._approvers:
            theirs = {one.signer.person, one.signer.person.casefold(), one.signer.identity}
            theirs |= {one.record.person, one.record.subject}
            if not own.isdisjoint(theirs):
                raise VerifyError(f"{one.signer.person} proposed it, and cannot approve of it as well")
        return f"proposed by {content.proposer_person or content.proposer_subject}, who did not approve"

    def _check_times(self) -> str:
        start, end = self._content.create_time, self._content.expire_time
        for one in self._approvers:
            _require_within(f"the statement of {one.signer.person}", one.statement.time, self._content, _SKEW, _SKEW)
            _require_within(f"the record {one.record.index}", one.record.time, self._content)
            # A certificate that has expired meanwhile could sign what is dated back.
            self._signer(one.kept, one.record.time)
        _require_within(f"the record {self._executed.index}", self._executed.time, self._content, late=_SKEW)
        return f"from {start.isoformat()} to {end.isoformat()}"

    def _require_quorum(self) -> str:
        found, required = len(self._approvers), self._content.required
        if found < required:
            raise VerifyError(f"{required} approvals were needed, and {found} count before it was done")
        return f"{found} of {required}"


def _public_key(approval: KeptApproval) -> bytes:
    return public_key_of_certificate(approval.material) if approval.certificate else approval.material


def _record(kept: KeptRecord) -> Record:
    members = parse_audit_record(kept.record)
    caller = members["caller"].json if "caller" in members else None
    return Record(
        kept.index,
        members["time"].time(),
        members["method"].text(128),
        members["outcome"].text(64),
        members["action"].text(64) if "action" in members else "",
        members["resource"].text(_MAX_TEXT),
        members["tenant"].text(64),
        members["subject"].text(_MAX_TEXT),
        members["caller"].member("person").text(_MAX_TEXT) if isinstance(caller, dict) and "person" in caller else "",
        members["details"],
    )


def _is_record_of(record: Record, approval: KeptApproval, statement: Statement, content: Content) -> bool:
    wanted = {
        "contentDigest": _digest(content),
        "decision": statement.decision,
        "statement": _base64(approval.statement),
        "material": _base64(approval.material),
        "certificate": approval.certificate,
    }
    found = record.details.json
    return all(name in found and found[name] == one for name, one in wanted.items())


def _same_caller(one: Record, other: Record) -> bool:
    return one.subject == other.subject or (one.person != "" and one.person == other.person)


def _require_unique(what: str, found: Sequence[Hashable]) -> None:
    if len(set(found)) < len(found):
        raise VerifyError(f"one {what} stands behind two approvals")


def _require_within(
    what: str, moment: datetime, content: Content, early: timedelta = timedelta(), late: timedelta = timedelta()
) -> None:
    start, end = content.create_time, content.expire_time
    # Differences, since times at the ends of the calendar cannot be moved.
    if start - moment > early or moment - end > late:
        allowed = f"{start.isoformat()} to {end.isoformat()} is allowed"
        raise VerifyError(f"{what} is of {moment.isoformat()}; {allowed}")


def _require_equal(what: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise VerifyError(f"the {what} is {found!r}; it must be {wanted!r}")


def _digest(content: Content) -> str:
    return f"sha256:{content.digest.hex()}"


def _canonical(document: object) -> bytes:
    try:
        return rfc8785.dumps(document)  # type: ignore[arg-type]  # what json.loads gives
    except (rfc8785.CanonicalizationError, UnicodeError):
        return b""


def _base64(data: bytes) -> str:
    return b64encode(data).decode()
