"""Everything by which the gateway knows its callers, put together: certificates, tokens, people, who is denied."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime

import grpc

from sealkeeper.server.certificate_identity import CertificateAuthenticator
from sealkeeper.server.deny_list import DenyList
from sealkeeper.server.errors import ConfigurationError
from sealkeeper.server.identity import (
    Authenticator,
    Caller,
    InsecureLoopbackAuthenticator,
    PortAuthenticator,
    Principal,
    Role,
    spiffe_id,
)
from sealkeeper.server.people import People
from sealkeeper.server.settings import Settings
from sealkeeper.server.tls_reload import TlsReload
from sealkeeper.server.token_identity import TokenAuthenticator

_log = logging.getLogger("sealkeeper.identity")


class Identities:
    """Tells who is calling; an ``Authenticator``. Made by ``open_identities``.

    Args:
        authenticator: proves it.
        people: who is whom.
        deny_list: who is refused.
        tls: of the ports; ``None`` for plaintext on loopback.
        tokens: of token callers; ``None`` where there are none.

    Attributes:
        people: who is whom.
        tokens: of token callers; ``None`` where there are none.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        people: People,
        deny_list: DenyList,
        tls: TlsReload | None = None,
        tokens: TokenAuthenticator | None = None,
    ) -> None:
        self.people = people
        self.tokens = tokens
        self._authenticator = authenticator
        self._deny_list = deny_list
        self._tls = tls

    async def authenticate(self, caller: Caller, now: datetime) -> Principal:
        """As ``Authenticator`` has it; whether they are denied is another question, so that it can be said of whom."""
        return await self._authenticator.authenticate(caller, now)

    def require_allowed(self, principal: Principal) -> None:
        """Refuse one who is denied.

        Raises:
            UnauthenticatedError: it is on the deny list.
        """
        self._deny_list.require_allowed(principal)

    def credentials(self) -> grpc.ServerCredentials | None:
        """For a port that callers with certificates connect to; ``None`` for plaintext."""
        return None if self._tls is None else self._tls.credentials()

    def token_credentials(self) -> grpc.ServerCredentials | None:
        """For a port that callers with tokens connect to; ``None`` for plaintext."""
        return None if self._tls is None else self._tls.token_credentials()

    async def refresh(self) -> None:
        """Read what lies in files again, where it may have changed."""
        try:
            await self._deny_list.refresh()
        finally:
            if self._tls is not None:
                await self._tls.refresh()

    async def close(self) -> None:
        """Let go of the issuers."""
        if self.tokens is not None:
            await self.tokens.close()


async def open_identities(settings: Settings, started: datetime) -> Identities:
    """Read everything that callers are known by.

    Args:
        settings: of the gateway.
        started: now, by the machine's clock.

    Raises:
        ConfigurationError: a file that the settings name is no good.
    """
    identity, gateway = settings.identity, settings.gateway
    people = await asyncio.to_thread(People.read, settings.people)
    deny_list = await asyncio.to_thread(DenyList, identity.deny_list)
    if gateway.insecure:
        tenant = settings.tenants[0]
        everybody = Principal(tenant, spiffe_id(gateway.domain, tenant, Role.ADMIN, "insecure"), Role.ADMIN)
        _log.warning("plaintext on loopback: every process of this machine may use every key of tenant %s", tenant)
        return Identities(InsecureLoopbackAuthenticator(everybody), people, deny_list)
    if gateway.tls is None:
        raise ConfigurationError("gateway.tls: is missing", next_step="set certificate, key and client_ca")
    tls = await asyncio.to_thread(TlsReload, gateway.tls, gateway.domain, settings.trust_domains)
    certificates = CertificateAuthenticator(
        gateway.domain, tls, settings.trust_domains, people, identity.hardware_policies
    )
    tokens = None
    if settings.issuers:
        tokens = TokenAuthenticator(
            gateway.domain,
            settings.issuers,
            people,
            # Tokens say when they were issued in whole seconds.
            started.replace(microsecond=0),
        )
        await tokens.start()
    return Identities(PortAuthenticator(certificates, tokens), people, deny_list, tls, tokens)
