"""Calls of ApprovalService as values; see ``operations.py``.

What an approver is shown and signs is a proposal's content, which is read here and not taken from the gateway's words.

>>> found = client.call(get_proposal("tenants/acme/proposals/p1"))  # doctest: +SKIP
>>> content = content_of(found.proposal)  # doctest: +SKIP
>>> statement = sign_decision(content, "APPROVE", "", read_approval_key(connection.approval_key))  # doctest: +SKIP
>>> client.call(decide_proposal(content.proposal, statement))  # doctest: +SKIP
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from sealkeeper.client.errors import ConfigurationError, CorruptAnswerError, FieldViolation
from sealkeeper.client.operations import Operation
from sealkeeper.client.tls_files import read_pem
from sealkeeper.v1 import approval_pb2
from sealkeeper.verify.approval import (
    Content,
    PrivateKey,
    Statement,
    load_approval_key,
    parse_content,
    sign_statement,
)
from sealkeeper.verify.errors import VerifyError
from sealkeeper.verify.kept_proposal import KeptApproval, KeptProposal, KeptRecord

_SETTING = "approval_key"


def get_proposal(name: str, *, with_evidence: bool = False) -> Operation[approval_pb2.GetProposalResponse]:
    """A proposal; with the audit log's records of it where asked for."""

    def check(response: approval_pb2.GetProposalResponse) -> approval_pb2.GetProposalResponse:
        _require_name(response.proposal, name)
        return response

    request = approval_pb2.GetProposalRequest(name=name, with_evidence=with_evidence)
    return Operation("ApprovalService", "GetProposal", request, check)


def list_proposals(
    parent: str, page_token: str = "", page_size: int = 0, *, only_open: bool = False
) -> Operation[approval_pb2.ListProposalsResponse]:
    """A page of a tenant's proposals, newest first, without content."""
    request = approval_pb2.ListProposalsRequest(
        parent=parent, open=only_open, page_size=page_size, page_token=page_token
    )
    return Operation("ApprovalService", "ListProposals", request, lambda response: response)


def decide_proposal(name: str, statement: bytes) -> Operation[approval_pb2.Proposal]:
    """Hand in what ``sign_decision`` has signed."""
    request = approval_pb2.DecideProposalRequest(name=name, statement=statement)
    return Operation("ApprovalService", "DecideProposal", request, lambda response: _named(response.proposal, name))


def withdraw_proposal(name: str) -> Operation[approval_pb2.Proposal]:
    """Take back the caller's own proposal, or the caller's approval of it."""
    request = approval_pb2.WithdrawProposalRequest(name=name)
    return Operation("ApprovalService", "WithdrawProposal", request, lambda response: _named(response.proposal, name))


def watch_proposals(name: str) -> Operation[approval_pb2.Proposal]:
    """Open proposals of ``tenants/{tenant}``, or one, then each again when it changes: for ``Client.stream``."""
    request = approval_pb2.WatchProposalsRequest(name=name)

    def check(response: approval_pb2.WatchProposalsResponse) -> approval_pb2.Proposal:
        found = response.proposal
        if found.name != name and not found.name.startswith(f"{name}/proposals/"):
            raise CorruptAnswerError(f"{name} was asked for, {found.name!r} came")
        return found

    return Operation("ApprovalService", "WatchProposals", request, check)


def content_of(proposal: approval_pb2.Proposal) -> Content:
    """What is proposed, read from what approvers sign and held against what the gateway says of it.

    Raises:
        CorruptAnswerError: it cannot be read, or the gateway says something else than it does.
    """
    try:
        content = parse_content(proposal.content)
    except VerifyError as error:
        problem = f"the content of {proposal.name} cannot be read, and must not be signed: {error}"
        raise CorruptAnswerError(problem) from None
    said = {
        "digest": (proposal.digest, content.digest),
        "name": (proposal.name, content.proposal),
        "action": (proposal.action, content.action),
        "resource": (proposal.resource, content.resource),
        "proposer": (proposal.proposer, content.proposer_subject),
        "proposer's person": (proposal.proposer_person, content.proposer_person),
        "reason": (proposal.reason, content.reason),
        "number of approvals": (proposal.required, content.required),
    }
    for what, (told, found) in said.items():
        if told != found:
            raise CorruptAnswerError(f"the {what} of {proposal.name} is another one in what is to be signed")
    return content


def sign_decision(content: Content, decision: str, reason: str, private_key: PrivateKey) -> bytes:
    """Sign that a proposal be done, or not.

    Args:
        content: of the proposal, from ``content_of``: what was shown to whoever decides.
        decision: APPROVE or REJECT.
        reason: why, at most 1,024 printable characters; may be empty.
        private_key: the approver's.

    Returns:
        The statement for ``decide_proposal``.

    Raises:
        VerifyError: the reason is not one, or the key is of a kind that statements are not signed with.
    """
    now = datetime.now(UTC)
    statement = Statement(content.gateway, content.proposal, content.digest, decision, reason, now)
    return sign_statement(statement, private_key)


def read_approval_key(path: Path | None) -> PrivateKey:
    """The private key that approvals are signed with.

    Args:
        path: PEM file: ``Connection.approval_key``.

    Raises:
        ConfigurationError: none is named, it cannot be read, or it is of a kind that statements are not signed with.
    """
    if path is None:
        raise _key_error("no key is named that approvals are signed with")
    data = read_pem(path, _SETTING)
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError:
        raise _key_error(f"{path} is encrypted") from None
    except (ValueError, UnsupportedAlgorithm):
        raise _key_error(f"{path} holds no private key that can be read") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey):
        raise _key_error(f"{path} is of a kind that approvals are not signed with")
    try:
        load_approval_key(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    except VerifyError as error:
        raise _key_error(f"{path}: {error}") from None
    return key


def kept_proposal(response: approval_pb2.GetProposalResponse) -> KeptProposal:
    """A proposal with its evidence, for a file; nothing is verified.

    Args:
        response: of ``get_proposal`` with evidence.
    """
    proposal = response.proposal
    return KeptProposal(
        proposal.content,
        tuple(KeptApproval(one.statement, one.verification_material, one.certificate) for one in proposal.approvals),
        tuple(
            KeptRecord(one.log_index, one.record, tuple(one.hashes), one.tree_size)
            for one in sorted(response.evidence, key=lambda one: one.log_index)
        ),
        response.checkpoint,
    )


def _named(proposal: approval_pb2.Proposal, name: str) -> approval_pb2.Proposal:
    _require_name(proposal, name)
    return proposal


def _require_name(proposal: approval_pb2.Proposal, name: str) -> None:
    if proposal.name != name:
        raise CorruptAnswerError(f"{name} was asked for, {proposal.name!r} came")


def _key_error(problem: str) -> ConfigurationError:
    return ConfigurationError(
        f"{_SETTING}: {problem}",
        next_step="name a PEM file with your private key: approval_key in the client's file, or --approval-key",
        violations=[FieldViolation(_SETTING, problem)],
    )
