"""Proposals: what one person wants done and others have to approve of."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from hashlib import sha256

from sealkeeper.server.authorization import Action
from sealkeeper.server.identity import Method, Principal, Role
from sealkeeper.server.resources import ProposalName


class ProposalState(StrEnum):
    """What has become of a proposal, as in the contract."""

    PENDING = "PENDING"
    APPROVED = "APPROVED"
    EXECUTED = "EXECUTED"
    FAILED = "FAILED"
    REJECTED = "REJECTED"
    WITHDRAWN = "WITHDRAWN"
    EXPIRED = "EXPIRED"

    @property
    def is_open(self) -> bool:
        """Whether it can still be done."""
        return self in (ProposalState.PENDING, ProposalState.APPROVED)


@dataclass(frozen=True, slots=True)
class Approval:
    """What an approver said.

    Attributes:
        subject: who.
        person: the person.
        approves: or rejects.
        statement: DSSE envelope, signed.
        material: what verifies it: a certificate or a SubjectPublicKeyInfo, DER.
        certificate: the material is a certificate.
        key: SHA-256 of the public key's SubjectPublicKeyInfo.
        create_time: when.
        log_index: of its record in the audit log.
        withdraw_time: when it was taken back; it does not count then.
        withdraw_index: of the record of that in the audit log.
    """

    subject: str
    person: str
    approves: bool
    statement: bytes = field(repr=False)
    material: bytes = field(repr=False)
    certificate: bool
    key: bytes
    create_time: datetime
    log_index: int
    withdraw_time: datetime | None = None
    withdraw_index: int | None = None

    @property
    def counts(self) -> bool:
        """Whether it is an approval that stands."""
        return self.approves and self.withdraw_time is None

    def principal(self, tenant: str) -> Principal:
        """Who it was, as far as it is known: enough to tell whether they have been denied since."""
        method = Method.CERTIFICATE if self.certificate else Method.TOKEN
        issuer = self.subject.removeprefix("spiffe://").partition("/")[0] if self.certificate else ""
        certificate = self.material if self.certificate else b""
        # Which of the roles of persons it was is not kept.
        return Principal(
            tenant,
            self.subject,
            Role.CUSTODIAN,
            method=method,
            person=self.person,
            issuer=issuer,
            certificate=certificate,
        )


@dataclass(frozen=True, slots=True)
class Proposal:
    """A proposal.

    Attributes:
        name: its name.
        state: what has become of it.
        action: what is to be done.
        resource: about what.
        key: the key that it is about; empty where it is about none.
        content: canonical JSON, as ``sealkeeper.verify.approval`` has it: what approvers sign the digest of.
        proposer: who proposed it.
        address: IP address that it was proposed from; empty where that is not known.
        reason: why.
        required: how many approvals it needs.
        create_time: when it was made.
        expire_time: until when it can be approved and done.
        log_index: of its record in the audit log.
        approvals: what was said so far, in order.
        close_time: when it was closed.
        outcome: what came of it.
        end_index: of the record in the audit log that closed it.
    """

    name: ProposalName
    state: ProposalState
    action: Action
    resource: str
    key: str
    content: bytes = field(repr=False)
    proposer: Principal
    address: str
    reason: str
    required: int
    create_time: datetime
    expire_time: datetime
    log_index: int
    approvals: tuple[Approval, ...] = ()
    close_time: datetime | None = None
    outcome: str = ""
    end_index: int | None = None

    @property
    def digest(self) -> bytes:
        """SHA-256 of the content, 32 bytes."""
        return sha256(self.content).digest()

    @property
    def standing(self) -> int:
        """How many approvals stand."""
        return sum(one.counts for one in self.approvals)
