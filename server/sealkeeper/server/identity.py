"""Who is calling, once that is proven: a ``Principal``.

Callers prove who they are by a client certificate (``certificate_identity.py``) or by a token of an OIDC issuer
(``token_identity.py``). Whatever of it policies may look at is in the principal, verified and typed; the token is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Protocol

import msgspec

from sealkeeper.server.errors import UnauthenticatedError


class Role(StrEnum):
    """What a principal is there for; policies decide by it."""

    ADMIN = "admin"
    CUSTODIAN = "custodian"
    CI = "ci"
    VERIFIER = "verifier"


class Method(StrEnum):
    """How a principal proved who it is."""

    CERTIFICATE = "certificate"
    TOKEN = "token"  # noqa: S105  (a kind of proof, and no secret)
    NONE = "none"


PEOPLE = frozenset({Role.ADMIN, Role.CUSTODIAN})
"""Roles of persons; the others are workloads'."""

ATTRIBUTES = (
    "repository",
    "ref",
    "ref_type",
    "ref_protected",
    "sha",
    "workflow",
    "environment",
    "runner",
    "actor",
    "event",
    "run",
    "namespace",
    "service_account",
    "pod",
    "project",
    "email",
)
"""Names of the attributes that there are, whatever an issuer calls them. ``ref_protected`` is ``true`` or ``false``."""


class Principal(msgspec.Struct, frozen=True, cache_hash=True):
    """An authenticated caller. Compared and hashed by all of it, once: decisions are remembered by it.

    Attributes:
        tenant: its tenant; nothing crosses it.
        subject: how it is named in audit records, policies and grants: a SPIFFE ID, or ``{issuer}#{sub}`` of a token.
        role: what it is there for.
        not_after: until when its proof is good.
        method: how it proved who it is.
        person: the person behind it, alike for all certificates and tokens of one; empty for a workload.
        issuer: trust domain of the certificate, or the issuer of the token.
        attributes: name and value, of ``ATTRIBUTES``, sorted; without empty values.
        hardware: the certificate says that its private key is in hardware.
        acr: authentication context class of the token (OpenID Connect Core, section 2).
        amr: authentication methods of the token (RFC 8176), sorted.
        certificate: DER, of the caller; empty where it has none.
    """

    tenant: str
    subject: str
    role: Role
    not_after: datetime | None = None
    method: Method = Method.CERTIFICATE
    person: str = ""
    issuer: str = ""
    attributes: tuple[tuple[str, str], ...] = ()
    hardware: bool = False
    acr: str = ""
    amr: tuple[str, ...] = ()
    certificate: bytes = b""

    @property
    def is_person(self) -> bool:
        """Whether it is a person rather than a workload."""
        return self.role in PEOPLE

    def attribute(self, name: str) -> str:
        """An attribute's value; empty where there is none."""
        return next((value for known, value in self.attributes if known == name), "")


class Caller(msgspec.Struct, frozen=True):
    """What a connection and a call carry, as gRPC has it.

    Attributes:
        auth_context: of the connection: what TLS has found.
        metadata: of the call.
        peer: address of the connection, as gRPC writes it: ``ipv4:192.0.2.1:50000``.
    """

    auth_context: Mapping[str, Sequence[bytes]]
    metadata: Mapping[str, str | bytes]
    peer: str

    def __repr__(self) -> str:
        # The metadata hold the token.
        return f"Caller({self.peer!r})"


class Authenticator(Protocol):
    """Turns what a connection and a call carry into a principal."""

    async def authenticate(self, caller: Caller, now: datetime) -> Principal:
        """Tell who is calling.

        Raises:
            UnauthenticatedError: nobody, or not in a way that can be checked; its reason says which.
            UnavailableError, OverloadedError: it cannot be checked now.
        """
        ...


def spiffe_id(domain: str, tenant: str, role: Role, name: str) -> str:
    """The URI subject alternative name that stands for a principal in the gateway's own trust domain."""
    return f"spiffe://{domain}/tenants/{tenant}/roles/{role}/{name}"


class InsecureLoopbackAuthenticator:
    """For a plaintext port on loopback, asked for with ``--insecure``: everybody is this principal.

    Args:
        principal: who everybody is.
    """

    def __init__(self, principal: Principal) -> None:
        self._principal = principal

    async def authenticate(self, caller: Caller, now: datetime) -> Principal:
        """Answer the one principal."""
        return self._principal


class PortAuthenticator:
    """Callers with a certificate by that, the others by their token.

    A port asks for client certificates or does not, so there is no doubt which; who comes with both is refused, since
    it would not be clear as whom.

    Args:
        certificates: of callers with a certificate.
        tokens: of callers with a token; ``None`` where no issuer is configured.
    """

    def __init__(self, certificates: Authenticator, tokens: Authenticator | None) -> None:
        self._certificates = certificates
        self._tokens = tokens

    async def authenticate(self, caller: Caller, now: datetime) -> Principal:
        """As ``Authenticator`` has it."""
        token = "authorization" in caller.metadata
        if "x509_pem_cert" in caller.auth_context:
            if token:
                raise UnauthenticatedError(
                    "the call came with a client certificate and with a token",
                    reason="TWO_IDENTITIES",
                    next_step="send one of them: certificates to gateway.listen, tokens to gateway.token_listen",
                )
            return await self._certificates.authenticate(caller, now)
        if self._tokens is None or not token:
            raise UnauthenticatedError(
                "the call came without a client certificate and without a token",
                reason="CREDENTIALS_MISSING",
                next_step="connect with mutual TLS, or send a token of a CI system or of a login",
            )
        return await self._tokens.authenticate(caller, now)
