"""Persons who propose and approve, each with a certificate of a gateway's local CA."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from sealkeeper.client import Client, ClientError
from sealkeeper.client.approval_operations import (
    content_of,
    decide_proposal,
    get_proposal,
    read_approval_key,
    sign_decision,
)
from sealkeeper.server.identity import Role, spiffe_id
from sealkeeper.server.local_ca import LocalCa, Pair
from sealkeeper.v1 import approval_pb2
from tests.e2e.running import DOMAIN, TENANT

EXECUTED, FAILED = approval_pb2.PROPOSAL_STATE_EXECUTED, approval_pb2.PROPOSAL_STATE_FAILED
PENDING, APPROVED = approval_pb2.PROPOSAL_STATE_PENDING, approval_pb2.PROPOSAL_STATE_APPROVED
REJECTED, WITHDRAWN = approval_pb2.PROPOSAL_STATE_REJECTED, approval_pb2.PROPOSAL_STATE_WITHDRAWN
EXPIRED = approval_pb2.PROPOSAL_STATE_EXPIRED


def add_person(directory: Path, role: Role, name: str, *, key_of: str | None = None, tenant: str = TENANT) -> str:
    """Give a person a certificate; what to name as its role in tests.

    Args:
        directory: the gateway's.
        role: the person's.
        name: the person's.
        key_of: another caller, whose private key the certificate is for.
        tenant: the person's.
    """
    now, folder = datetime.now(UTC), directory / "clients" / f"{tenant}-{role}-{name}{'-again' if key_of else ''}"
    folder.mkdir(mode=0o700)
    ca = LocalCa.read(directory)
    pair = ca.issue_client(spiffe_id(DOMAIN, tenant, role, name), now, timedelta(days=1))
    if key_of is not None:
        pair = _with_key(pair, ca, directory / "clients" / key_of / "key.pem")
    pair.write(folder / "cert.pem", folder / "key.pem")
    return folder.name


def _with_key(pair: Pair, ca: LocalCa, path: Path) -> Pair:
    """The certificate again, for another private key."""
    key: Any = serialization.load_pem_private_key(path.read_bytes(), None)
    made, builder = pair.certificate, x509.CertificateBuilder()
    builder = (
        builder.subject_name(made.subject)
        .issuer_name(made.issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(made.not_valid_before_utc)
        .not_valid_after(made.not_valid_after_utc)
    )
    for one in made.extensions:
        builder = builder.add_extension(one.value, one.critical)
    return Pair(builder.sign(ca.pair.key, hashes.SHA256()), key)


def decide(client: Client, proposal: str, key: Path, decision: str = "APPROVE", reason: str = "") -> Any:
    """Look at a proposal, sign what it says, and hand that in."""
    content = content_of(client.call(get_proposal(proposal)).proposal)
    return client.call(decide_proposal(proposal, sign_decision(content, decision, reason, read_approval_key(key))))


def proposed(error: ClientError) -> str:
    """The proposal that a refusal names."""
    assert error.reason == "APPROVAL_REQUIRED", error
    found: str = error.proposal  # type: ignore[attr-defined]
    assert found
    return found
