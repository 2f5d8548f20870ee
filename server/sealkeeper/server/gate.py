"""Gates: a version of a policy, the one in force, and exceptions."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256

from sealkeeper.server.resources import GateExceptionName, GateName, GateVersionName
from sealkeeper.verify.gate.exceptions import GateException as CoreException
from sealkeeper.verify.gate.patterns import Pattern
from sealkeeper.verify.gate.policy import GatePolicy


@dataclass(frozen=True, slots=True)
class GateVersion:
    """A version of a gate's policy.

    Attributes:
        name: of it.
        text: YAML.
        create_time: when it came into force.
        proposal: name of the one that brought it; empty where no approval was needed.
        author: who proposed it, by subject.
    """

    name: GateVersionName
    text: str = field(repr=False)
    create_time: datetime
    proposal: str
    author: str

    @property
    def number(self) -> int:
        """From 1."""
        return self.name.number

    @property
    def digest(self) -> bytes:
        """SHA-256 of the text, 32 bytes."""
        return sha256(self.text.encode()).digest()


@dataclass(frozen=True, slots=True)
class GateInForce:
    """The policy by which a gate decides.

    Attributes:
        version: which it is.
        policy: checked; ``None`` for one that an earlier version of the gateway took and this one does not: then the
            gate refuses everything.
    """

    version: GateVersion
    policy: GatePolicy | None = field(repr=False)


class ExceptionState(StrEnum):
    """What an exception is now."""

    ACTIVE = "ACTIVE"
    EXPIRED = "EXPIRED"
    REVOKED = "REVOKED"


@dataclass(frozen=True, slots=True)
class ExceptionOrder:
    """What is asked for.

    Attributes:
        gate: whose.
        digest: of the artifact, ``sha256:…``; empty where it is by name.
        pattern: of artifacts' names; empty where it is by digest.
        environment: where it is for; empty for all.
        lifetime: for how long.
        reason: why.
        created_by: who asks for it, by subject.
    """

    gate: GateName
    digest: str
    pattern: str
    environment: str
    lifetime: timedelta
    reason: str
    created_by: str


@dataclass(frozen=True, slots=True)
class GateException:
    """An exception.

    Attributes:
        name: of it.
        digest: as in ``ExceptionOrder``, as are the next two.
        pattern: likewise.
        environment: likewise.
        reason: why.
        created_by: who asked for it.
        proposal: name of the proposal that brought it; empty where no approval was needed.
        create_time: from when on.
        expire_time: until when; at this moment it is not in force any more.
        revoke_time: when it was ended before that.
        revoked_by: who ended it.
        uses: how many decisions it let through, as far as that is durable.
    """

    name: GateExceptionName
    digest: str
    pattern: str
    environment: str
    reason: str
    created_by: str
    proposal: str
    create_time: datetime
    expire_time: datetime
    revoke_time: datetime | None = None
    revoked_by: str = ""
    uses: int = 0

    def state_at(self, now: datetime) -> ExceptionState:
        """What it is at a time."""
        if self.revoke_time is not None:
            return ExceptionState.REVOKED
        return ExceptionState.ACTIVE if now < self.expire_time else ExceptionState.EXPIRED

    @property
    def end_time(self) -> datetime:
        """When it ends, or has ended."""
        return self.revoke_time or self.expire_time

    @property
    def core(self) -> CoreException:
        """As decisions take it."""
        pattern = Pattern(self.pattern) if self.pattern else None
        return CoreException(
            str(self.name), self.digest, pattern, self.environment, self.reason, self.create_time, self.end_time
        )
