"""A version of a tenant's policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256


@dataclass(frozen=True, slots=True)
class TenantPolicy:
    """A version of a tenant's policy.

    Attributes:
        tenant: whose.
        number: from 1.
        text: Cedar policies.
        create_time: when it came into force.
        proposal: that brought it; empty for the first one.
        author: who proposed it; empty for the first one.
    """

    tenant: str
    number: int
    text: str = field(repr=False)
    create_time: datetime
    proposal: str
    author: str

    @property
    def name(self) -> str:
        """``tenants/{tenant}/policyVersions/{number}``."""
        return f"tenants/{self.tenant}/policyVersions/{self.number}"

    @property
    def digest(self) -> bytes:
        """SHA-256 of the text, 32 bytes."""
        return sha256(self.text.encode()).digest()
