"""What an approver has signed: read, verified with the approver's own key, and held against a proposal.

A person with a certificate signs with its key. A person who logs in with tokens has no key that the gateway sees; it is
named in the settings, ``[people.NAME] approval_keys``.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

from sealkeeper.server.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidRequestError,
    PermissionDeniedError,
)
from sealkeeper.server.identity import Principal
from sealkeeper.server.people import People
from sealkeeper.server.proposal import Approval, Proposal
from sealkeeper.verify.approval import MAX_ENVELOPE, Statement, open_statement
from sealkeeper.verify.errors import VerifyError
from sealkeeper.verify.known_people import public_key_of_certificate

_CLOCKS = timedelta(minutes=10)
"""Between an approver's clock and the gateway's."""


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A statement whose signature was verified.

    Attributes:
        principal: who handed it in, and has the key.
        statement: what it says.
        envelope: DSSE, JSON.
        material: the certificate, or the public key, that verified it; DER.
        certificate: the material is a certificate.
        key: SHA-256 of the public key.
    """

    principal: Principal
    statement: Statement
    envelope: bytes
    material: bytes
    certificate: bool
    key: bytes

    def require_of(self, proposal: Proposal, gateway: str, now: datetime) -> None:
        """See to it that the statement is of this proposal, of what it says now, and new.

        Raises:
            InvalidRequestError: it is not.
        """
        said = self.statement
        if (said.gateway, said.proposal, said.content_digest) != (gateway, str(proposal.name), proposal.digest):
            raise InvalidRequestError.of(
                "statement",
                "is about another proposal, or about other content than this one has",
                reason="APPROVAL_CONTENT_MISMATCH",
                next_step="look at the proposal again, and sign what it says now",
            )
        if abs(said.time - now) > _CLOCKS:
            raise InvalidRequestError.of("statement", "was not signed just now; set the clock of your machine right")

    def require_another(self, proposal: Proposal, name_of: Callable[[str], str]) -> None:
        """See to it that the approver is neither the proposer nor one who has spoken already, in whatever guise.

        Args:
            proposal: that it is about.
            name_of: the person behind a subject, as the settings have it now; empty where they do not say.

        Raises:
            PermissionDeniedError: the approver is the proposer.
            AlreadyExistsError: the person, or the key, has said something that stands.
        """
        proposer, person = proposal.proposer, self.principal.person
        if (
            self.principal.subject == proposer.subject
            or _is_one(person, proposer.person, name_of(proposer.subject))
            or (proposer.certificate and self.key == key_digest(proposer.certificate))
        ):
            raise PermissionDeniedError(
                "who proposes something does not approve of it, by whatever certificate or login",
                reason="SELF_APPROVAL",
                next_step="have another person approve; take it back yourself: sealkeeper approvals withdraw",
            )
        for one in proposal.approvals:
            known = one.subject == self.principal.subject or one.key == self.key
            if one.withdraw_time is None and (known or _is_one(person, one.person, name_of(one.subject))):
                raise AlreadyExistsError(
                    f"{one.person} has decided already; each person counts once, by whatever certificate or login",
                    reason="APPROVAL_EXISTS",
                    next_step="have another person approve",
                )

    def details(self, proposal: Proposal) -> dict[str, object]:
        """For the audit record: enough to verify it without the gateway."""
        return {
            "proposal": str(proposal.name),
            "contentDigest": f"sha256:{proposal.digest.hex()}",
            "decision": self.statement.decision,
            "statement": b64encode(self.envelope).decode(),
            "material": b64encode(self.material).decode(),
            "certificate": self.certificate,
        }

    def approval(self, now: datetime, log_index: int) -> Approval:
        """As the proposal keeps it."""
        return Approval(
            self.principal.subject,
            self.principal.person,
            self.statement.decision == "APPROVE",
            self.envelope,
            self.material,
            self.certificate,
            self.key,
            now,
            log_index,
        )


def read_statement(envelope: bytes, principal: Principal, people: People) -> SignedStatement:
    """Verify a statement with the key of whoever hands it in.

    Args:
        envelope: DSSE, JSON.
        principal: who hands it in.
        people: from the settings, with their keys.

    Raises:
        InvalidRequestError: it is malformed, or signed by none of the keys.
        PermissionDeniedError: it is of a workload, or the key is named in the settings as another person's.
        FailedPreconditionError: there is no key of the person to verify it with.
    """
    if len(envelope) > MAX_ENVELOPE:
        raise InvalidRequestError.of("statement", f"has {len(envelope)} bytes; at most {MAX_ENVELOPE} are allowed")
    if not principal.is_person or not principal.person:
        raise PermissionDeniedError(
            "only persons approve", next_step="use the certificate or the login of an admin or a custodian"
        )
    problem = ""
    for material, certificate, public_key in _keys(principal, people.approval_keys(principal.person)):
        try:
            said = open_statement(envelope, public_key)
        except VerifyError as error:
            problem = str(error)
            continue
        if people.owner_of(public_key) not in ("", principal.person):
            raise PermissionDeniedError(
                "the key that has signed is named in the gateway's settings as another person's",
                next_step="use a certificate with a key of your own",
            )
        return SignedStatement(principal, said, envelope, material, certificate, sha256(public_key).digest())
    if not problem:
        raise FailedPreconditionError(
            "you came with a token, and no key is known that you sign approvals with",
            reason="APPROVAL_KEY_UNKNOWN",
            next_step="have your public key named in the gateway's settings, approval_keys of people.NAME, or use a "
            "certificate",
        )
    raise InvalidRequestError.of(
        "statement",
        f"is not a statement signed with your key: {problem}",
        reason="APPROVAL_SIGNATURE_INVALID",
        next_step="sign with the key of your certificate, or the one that the settings name for you",
    )


def _is_one(person: str, *others: str) -> bool:
    """Whether a person is one of others; capitals make no difference, as they make none to auditors."""
    return person.casefold() in {one.casefold() for one in others if one}


def key_digest(certificate: bytes) -> bytes:
    """SHA-256 of a certificate's public key."""
    return sha256(public_key_of_certificate(certificate)).digest()


def _keys(principal: Principal, keys: Sequence[bytes]) -> Iterator[tuple[bytes, bool, bytes]]:
    """What may verify, whether it is a certificate, and its public key."""
    if principal.certificate:
        yield principal.certificate, True, public_key_of_certificate(principal.certificate)
    for one in keys:
        yield one, False, one
