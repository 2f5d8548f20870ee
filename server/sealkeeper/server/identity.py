"""Who is calling: the peer certificate becomes a ``Principal``.

The certificate was verified by TLS against the configured client CA before this code sees it. Its one URI subject
alternative name, ``spiffe://{gateway domain}/tenants/{tenant}/roles/{role}/{name}``, says the rest. Other ways to
prove an identity (OIDC tokens) join as further ``Authenticator``s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from cryptography import x509

from sealkeeper.server.errors import UnauthenticatedError
from sealkeeper.server.resources import ID


class Role(StrEnum):
    """What a principal is there for; authorization decides by it."""

    ADMIN = "admin"
    CUSTODIAN = "custodian"
    CI = "ci"
    VERIFIER = "verifier"


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller.

    Attributes:
        tenant: its tenant; nothing crosses it.
        subject: how it is named in audit records: its SPIFFE ID.
        role: what it is there for.
        not_after: until when its proof is good.
    """

    tenant: str
    subject: str
    role: Role
    not_after: datetime | None = None


class Authenticator(Protocol):
    """Turns what a connection and a call carry into a principal."""

    def authenticate(
        self, auth_context: Mapping[str, Sequence[bytes]], metadata: Mapping[str, str | bytes], now: datetime
    ) -> Principal:
        """Tell who is calling.

        Raises:
            UnauthenticatedError: nobody, or not in a way that can be checked.
        """
        ...


def spiffe_id(domain: str, tenant: str, role: Role, name: str) -> str:
    """The URI subject alternative name that stands for a principal."""
    return f"spiffe://{domain}/tenants/{tenant}/roles/{role}/{name}"


class CertificateAuthenticator:
    """Mutual TLS with SPIFFE IDs.

    Args:
        domain: the gateway's domain, the SPIFFE trust domain.
    """

    _CACHE_LIMIT = 4096

    def __init__(self, domain: str) -> None:
        roles = "|".join(Role)
        self._pattern = re.compile(
            rf"spiffe://{re.escape(domain)}/tenants/({ID.pattern})/roles/({roles})/([A-Za-z0-9._-]{{1,128}})"
        )
        self._known: dict[bytes, Principal] = {}

    def authenticate(
        self, auth_context: Mapping[str, Sequence[bytes]], metadata: Mapping[str, str | bytes], now: datetime
    ) -> Principal:
        """Read the peer certificate.

        Raises:
            UnauthenticatedError: there is none, it has expired since the handshake, or its name is not ours.
        """
        pem = auth_context.get("x509_pem_cert")
        if not pem:
            raise UnauthenticatedError(
                "the call came without a client certificate", next_step="connect with mutual TLS"
            )
        principal = self._known.get(pem[0])
        if principal is None:
            principal = self._read(pem[0])
            # Bounded, so that a holder of the CA cannot fill memory; refilling costs one parse a certificate.
            if len(self._known) >= self._CACHE_LIMIT:
                self._known.clear()
            self._known[pem[0]] = principal
        # TLS looked at the dates once; connections live for days.
        if principal.not_after is not None and now > principal.not_after:
            raise UnauthenticatedError(
                "the client certificate has expired", next_step="renew the client certificate and connect again"
            )
        return principal

    def _read(self, pem: bytes) -> Principal:
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        except (ValueError, x509.ExtensionNotFound):
            raise UnauthenticatedError("the client certificate has no readable subject alternative name") from None
        match = self._pattern.fullmatch(uris[0]) if len(uris) == 1 else None
        if match is None:
            raise UnauthenticatedError(
                "the client certificate's URI name is not one of this gateway's principals",
                next_step="use a certificate that names spiffe://{domain}/tenants/{tenant}/roles/{role}/{name}",
            )
        return Principal(match[1], uris[0], Role(match[2]), certificate.not_valid_after_utc)


class InsecureLoopbackAuthenticator:
    """For a plaintext port on loopback, asked for with ``--insecure``: everybody is this principal.

    Args:
        principal: who everybody is.
    """

    def __init__(self, principal: Principal) -> None:
        self._principal = principal

    def authenticate(
        self, auth_context: Mapping[str, Sequence[bytes]], metadata: Mapping[str, str | bytes], now: datetime
    ) -> Principal:
        """Answer the one principal."""
        return self._principal
