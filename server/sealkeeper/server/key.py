"""A key and its versions, as values.

A version's recorded state and its times say what it may do at a moment (``KeyVersion.state_at``): a rotation that has
been arranged comes into force by itself, at its second, without anybody having to be awake.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from sealkeeper.hsm import Origin, ProtectionLevel
from sealkeeper.server.resources import KeyName, KeyVersionName
from sealkeeper.server.trusted_root import key_hint


class State(StrEnum):
    """State of a key version, as in the contract."""

    PUBLISHED = "PUBLISHED"
    ACTIVE = "ACTIVE"
    VERIFY_ONLY = "VERIFY_ONLY"
    DISABLED = "DISABLED"
    COMPROMISED = "COMPROMISED"
    DESTROY_SCHEDULED = "DESTROY_SCHEDULED"
    DESTROYED = "DESTROYED"


class Failover(StrEnum):
    """When a key's standby version signs, as in the contract."""

    NONE = "NONE"
    AUTOMATIC = "AUTOMATIC"
    MANUAL = "MANUAL"


_OFF = {State.DISABLED, State.COMPROMISED}
TRANSITIONS: Mapping[State, set[State]] = {
    State.PUBLISHED: {State.ACTIVE, State.DESTROY_SCHEDULED} | _OFF,
    State.ACTIVE: {State.VERIFY_ONLY} | _OFF,
    State.VERIFY_ONLY: {State.ACTIVE, State.DESTROY_SCHEDULED} | _OFF,
    State.DISABLED: {State.ACTIVE, State.VERIFY_ONLY, State.COMPROMISED, State.DESTROY_SCHEDULED},
    State.COMPROMISED: {State.COMPROMISED, State.DESTROY_SCHEDULED},
    State.DESTROY_SCHEDULED: {State.DISABLED, State.COMPROMISED},
    State.DESTROYED: {State.COMPROMISED},
}
"""Where a version may go from where it is. DESTROYED comes by itself; see ``KeyVersion.transitions_at``."""


@dataclass(frozen=True, slots=True)
class KeyVersion:
    """A version of a key.

    Attributes:
        name: its name.
        state: as recorded; see ``state_at``.
        algorithm: name in ``PublicKeyDetails``.
        provider: name of the provider that holds it.
        protection_level: where the private key lives.
        handle: within the provider.
        public_key: SubjectPublicKeyInfo, DER.
        create_time: when it was made.
        activate_time: when it became or will become ACTIVE; whole seconds, as timestamps have them.
        retire_time: when it ceases to sign; whole seconds.
        compromise_time: from when on its signatures are refused; whole seconds.
        destroy_time: when the private key goes.
        disabled: it was DISABLED when its destruction was scheduled, so its signatures still do not verify.
        region: where its provider was when it was made; empty where nobody says.
        standby: it signs in the place of the ACTIVE version while that one's provider does not answer.
        origin: made in its provider or brought into it.
        ceremony_index: in the audit log, of the record of how it came to be; ``None`` where there is none.
    """

    name: KeyVersionName
    state: State
    algorithm: str
    provider: str
    protection_level: ProtectionLevel
    handle: str
    public_key: bytes
    create_time: datetime
    activate_time: datetime | None = None
    retire_time: datetime | None = None
    compromise_time: datetime | None = None
    destroy_time: datetime | None = None
    disabled: bool = False
    region: str = ""
    standby: bool = False
    origin: Origin = Origin.UNKNOWN
    ceremony_index: int | None = None

    def state_at(self, now: datetime) -> State:
        """What it may do at a moment."""
        state = self.state
        if state is State.PUBLISHED and self.activate_time is not None and self.activate_time <= now:
            state = State.ACTIVE
        if state is State.ACTIVE and self.retire_time is not None and self.retire_time <= now:
            state = State.VERIFY_ONLY
        return state

    def transitions_at(self, now: datetime) -> set[State]:
        """Where it may go at a moment. What is compromised stays so, whatever else becomes of it."""
        allowed = TRANSITIONS[self.state_at(now)]
        return allowed if self.compromise_time is None else allowed & {State.COMPROMISED, State.DESTROY_SCHEDULED}

    @property
    def hint(self) -> str:
        """How bundles point at it."""
        return key_hint(self.public_key)


@dataclass(frozen=True, slots=True)
class Key:
    """A key with its versions, oldest first."""

    name: KeyName
    algorithm: str
    provider: str
    labels: Mapping[str, str]
    create_time: datetime
    revision: int
    versions: tuple[KeyVersion, ...] = field(repr=False)
    failover: Failover = Failover.NONE

    @property
    def etag(self) -> str:
        """Changes with every change."""
        return f"r{self.revision}"

    def active_at(self, now: datetime, *, standby: bool = False) -> KeyVersion | None:
        """The version that signs at a moment, or the one that stands by."""
        for version in reversed(self.versions):
            if version.standby is standby and version.state_at(now) is State.ACTIVE:
                return version
        return None

    def published_at(self, now: datetime, *, standby: bool = False) -> KeyVersion | None:
        """The version that is to sign, or to stand by, and does not yet."""
        for version in self.versions:
            if version.standby is standby and version.state_at(now) is State.PUBLISHED:
                return version
        return None

    def version(self, number: int) -> KeyVersion | None:
        """One of its versions."""
        return self.versions[number - 1] if number <= len(self.versions) else None

    def changed(self, *versions: KeyVersion, failover: Failover | None = None) -> Key:
        """The key with these versions in the place of those with their numbers, or added."""
        found = {one.name.number: one for one in (*self.versions, *versions)}
        return replace(
            self,
            revision=self.revision + 1,
            versions=tuple(found[number] for number in sorted(found)),
            failover=failover or self.failover,
        )
