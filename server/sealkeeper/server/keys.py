"""All keys and the life of their versions: create, rotate, change state, destroy.

All keys are held in memory; a change is audited, then made durable, then seen. It goes on to its end when its caller
hangs up, so that memory, database and audit log say the same. From the moment that it takes its time from until it is
seen, signing with the key waits: no signature is made by a version after the second in which it retires.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from sealkeeper.hsm import KeyEvidence, ProviderError
from sealkeeper.server.clock import SteadyClock, rfc3339
from sealkeeper.server.configured_provider import ConfiguredProvider
from sealkeeper.server.errors import (
    AlreadyExistsError,
    ConflictError,
    FailedPreconditionError,
    InvalidRequestError,
    NotFoundError,
    SealkeeperError,
)
from sealkeeper.server.key import Key, KeyVersion, State
from sealkeeper.server.log import LogError
from sealkeeper.server.new_version import Audit, MadeVersion, Making, VersionMaker
from sealkeeper.server.resources import KeyName, KeyVersionName
from sealkeeper.server.settings import KeySettings
from sealkeeper.server.store.database import Alongside, writer
from sealkeeper.server.store.key_table import KeyTable
from sealkeeper.server.under_way import UnderWay

MAX_VERSIONS = 1000
MAX_DESTROY_DELAY = timedelta(days=120)
MAX_WEIGHT = 12 * 1024 * 1024
"""Bytes of a tenant's ``keys.json``, about: verifiers take 16 MiB."""

_log = logging.getLogger("sealkeeper.keys")


class Keys:
    """All keys of the gateway; made by ``open_keys``.

    Args:
        table: where they are durable.
        providers: by name.
        maker: of versions.
        settings: of keys.
        clock: the time.
        keys: as the table has them.
        require_key: raises where a tenant, which has so many keys, gets no further one.
    """

    def __init__(
        self,
        table: KeyTable,
        providers: Mapping[str, ConfiguredProvider],
        maker: VersionMaker,
        settings: KeySettings,
        clock: SteadyClock,
        keys: Iterable[Key],
        require_key: Callable[[str, int], None] = lambda tenant, count: None,
    ) -> None:
        self._require_key = require_key
        self._table = table
        self._providers = providers
        self._maker = maker
        self._settings = settings
        self._clock = clock
        self._keys: dict[KeyName, Key] = {one.name: one for one in keys}
        # Names by tenant, sorted, for pages.
        self._names: dict[str, list[str]] = defaultdict(list)
        for name in self._keys:
            self._names[name.tenant].append(name.key)
        for names in self._names.values():
            names.sort()
        self._locks: dict[KeyName, asyncio.Lock] = {}
        # Keys whose change has its time and is not seen yet.
        self._held: dict[KeyName, asyncio.Future[None]] = {}
        self._changes = UnderWay()
        # Versions whose destruction is recorded and not done: it is tried again and again.
        self._announced: set[KeyVersion] = set()
        self._revisions: Counter[str] = Counter()
        # Keys that are being made, by tenant.
        self._coming: Counter[str] = Counter()
        # Bytes of a tenant's trust root, about.
        self._weights: Counter[str] = Counter()
        # Those that there are and those that are being imported, by tenant.
        self._public_keys: dict[str, set[bytes]] = defaultdict(set)
        for key in self._keys.values():
            self._weights[key.name.tenant] += sum(map(_weight, key.versions))
            self._public_keys[key.name.tenant].update(one.public_key for one in key.versions)

    def get(self, name: KeyName) -> Key:
        """Look a key up.

        Raises:
            NotFoundError: there is none.
        """
        key = self._keys.get(name)
        if key is None:
            raise NotFoundError(f"there is no key {name}", reason="KEY_NOT_FOUND", next_step="list the tenant's keys")
        return key

    def find(self, name: KeyName) -> Key | None:
        """A key, where there is one."""
        return self._keys.get(name)

    def get_version(self, name: KeyVersionName) -> KeyVersion:
        """Look a version up.

        Raises:
            NotFoundError: there is none.
        """
        version = self.get(name.parent).version(name.number)
        if version is None:
            raise NotFoundError(f"there is no version {name}", reason="KEY_VERSION_NOT_FOUND")
        return version

    async def evidence(self, name: KeyVersionName) -> KeyEvidence:
        """What the store says of a version's private key now.

        Raises:
            NotFoundError: there is no such version.
            ProviderError: the store does not answer, or does not have it.
        """
        version = self.get_version(name)
        return await self._providers[version.provider].evidence(version.handle)

    def page(self, tenant: str, after: str, limit: int) -> list[Key]:
        """Up to ``limit`` keys of a tenant by name, those after the key id ``after``."""
        names = self._names.get(tenant, [])
        start = bisect_right(names, after)
        return [self._keys[KeyName(tenant, name)] for name in names[start : start + limit]]

    def of_tenant(self, tenant: str) -> list[Key]:
        """All keys of a tenant by name."""
        return self.page(tenant, "", len(self._keys))

    def count(self, tenant: str) -> int:
        """How many keys a tenant has."""
        return len(self._names.get(tenant, ()))

    def revision(self, tenant: str) -> int:
        """Changes with every change of a tenant's keys."""
        return self._revisions[tenant]

    @property
    def providers(self) -> set[str]:
        """Names of the providers that hold versions which are not destroyed."""
        return {
            version.provider
            for key in self._keys.values()
            for version in key.versions
            if version.state is not State.DESTROYED
        }

    async def settled(self, name: KeyName | KeyVersionName) -> None:
        """Wait until no change of the key is between taking its time and being seen."""
        while self._held and (held := self._held.get(name if isinstance(name, KeyName) else name.parent)) is not None:
            await asyncio.shield(held)

    async def close(self) -> None:
        """Wait for the changes under way."""
        await self._changes.close()

    def signing_version(self, name: KeyName | KeyVersionName, now: datetime) -> KeyVersion:
        """The version that signs.

        Raises:
            NotFoundError: no such key or version.
            FailedPreconditionError: the key has no ACTIVE version, or the one named is not.
        """
        if isinstance(name, KeyVersionName):
            version = self.get_version(name)
            if version.state_at(now) is State.ACTIVE:
                return version
            raise FailedPreconditionError(
                f"{name} is {version.state_at(now)} and does not sign",
                reason="KEY_VERSION_NOT_ACTIVE",
                next_step=f"name the key {name.parent}, so that its ACTIVE version signs",
            )
        active = self.get(name).active_at(now)
        if active is None:
            raise FailedPreconditionError(
                f"{name} has no ACTIVE version",
                reason="KEY_VERSION_NOT_ACTIVE",
                next_step="a custodian can rotate the key or enable one of its versions",
            )
        return active

    def default_provider(self, name: KeyName) -> str:
        """Name of the provider that a key's next version is made in, where none is named."""
        known = self._keys.get(name)
        return known.provider if known is not None else self._settings.default_provider

    async def create(
        self,
        name: KeyName,
        algorithm: str,
        labels: Mapping[str, str],
        audit: Audit,
        also: Alongside[Key] | None = None,
        making: Making | None = None,
    ) -> Key:
        """Make a key with one ACTIVE version.

        Raises:
            AlreadyExistsError: there is such a key.
            NotFoundError: no such provider.
            AlgorithmNotSupportedError: the provider cannot do it.
            RegionNotAllowedError: the tenant's keys may not be there.
            FailedPreconditionError: the tenant has as many keys as it may.
            ProviderError: the provider did not make it.
        """
        how = _in_provider(making or Making(), self._settings.default_provider)

        async def change() -> Key:
            if name in self._keys:
                raise AlreadyExistsError(f"there is a key {name} already", reason="KEY_EXISTS")
            self._require_room(name)
            if making is None or not making.provider:
                self._maker.require_default(name.tenant, how.provider)
            with self._one_more_key(name.tenant):
                async with self._maker.made(name.version(1), algorithm, how, audit.principal) as made:
                    now = self._clock.now()
                    version = replace(made.version, state=State.ACTIVE, create_time=now, activate_time=_second(now))
                    index = await audit(made.details)
                    versions = (replace(version, ceremony_index=index),)
                    key = Key(name, algorithm, how.provider, dict(labels), now, 1, versions)
                    return await self._write(key, also)

        return await self._to_the_end(name, change)

    async def rotate(
        self,
        name: KeyName,
        publish_period: timedelta | None,
        audit: Audit,
        also: Alongside[Key] | None = None,
        making: Making | None = None,
    ) -> Key:
        """Make a new version, ACTIVE after ``publish_period``; the one before retires at that second.

        Where the version is to stand by, it takes the place of the standby version before.

        Raises:
            NotFoundError: no such key.
            FailedPreconditionError: a rotation is under way already, or there are too many versions, or a standby
                version would be where the ACTIVE one is.
            RegionNotAllowedError: the tenant's keys may not be there.
            ProviderError: the provider did not make it.
        """
        period = self._settings.publish_period if publish_period is None else publish_period

        async def change() -> Key:
            key = self.get(name)
            how = _in_provider(making or Making(), key.provider)
            self._require_rotatable(key, how)
            self._require_room(name)
            number = len(key.versions) + 1
            async with self._maker.made(name.version(number), key.algorithm, how, audit.principal) as made:
                with self._hold(name):
                    changed = self._rotated(key, made, how, period)
                    version = changed.versions[-1]
                    index = await audit({**made.details, "activateTime": version.activate_time})
                    changed = replace(
                        changed, versions=(*changed.versions[:-1], replace(version, ceremony_index=index))
                    )
                    return await self._write(changed, also)

        return await self._to_the_end(name, change)

    def _rotated(self, key: Key, made: MadeVersion, how: Making, period: timedelta) -> Key:
        now = self._clock.now()
        start, state = _second(now + period), State.PUBLISHED if period else State.ACTIVE
        version = replace(made.version, state=state, create_time=now, activate_time=start)
        active = key.active_at(now, standby=how.standby)
        versions = [version] if active is None else [_retired(active, start, now), version]
        return key.changed(*versions, failover=how.failover if how.standby else None)

    def require_apart(self, key: Key, provider: str, *, standby: bool) -> None:
        """Refuse a version that would fail together with the one that stands by it, or that it stands by.

        Raises:
            FailedPreconditionError: they would be in the same provider.
        """
        now = self._clock.now()
        others = {one.provider for one in key.versions if one.standby is not standby and _signs_or_will(one, now)}
        if standby and not others:
            others = {key.provider}
        if provider in others:
            raise FailedPreconditionError(
                f"{key.name} has its {'ACTIVE' if standby else 'standby'} version in provider {provider}, where both "
                "would fail together",
                reason="STANDBY_IN_SAME_PROVIDER",
                next_step="name another provider: sealkeeper providers list",
            )

    @contextmanager
    def importing(self, tenant: str, public_key: bytes) -> Iterator[None]:
        """Keep a public key for one import: a bundle must point at one version.

        Raises:
            AlreadyExistsError: a version of the tenant's has it, or it is just being imported.
        """
        known = self._public_keys[tenant]
        if public_key in known:
            raise AlreadyExistsError(
                "a key version of the tenant has this public key already",
                reason="PUBLIC_KEY_EXISTS",
                next_step="use that version, or another key pair",
            )
        known.add(public_key)
        try:
            yield
        except BaseException:
            known.discard(public_key)
            raise

    def _require_rotatable(self, key: Key, how: Making) -> None:
        self.require_apart(key, how.provider, standby=how.standby)
        if key.published_at(self._clock.now(), standby=how.standby) is not None:
            raise FailedPreconditionError(
                f"{key.name} has a version that is PUBLISHED already",
                reason="ROTATION_PENDING",
                next_step="wait until it is ACTIVE, or set its state",
            )
        if len(key.versions) >= MAX_VERSIONS:
            raise FailedPreconditionError(
                f"{key.name} has {MAX_VERSIONS} versions", reason="VERSION_LIMIT", next_step="make a new key"
            )

    @contextmanager
    def _one_more_key(self, tenant: str) -> Iterator[None]:
        """While a key is being made it counts already: however many are asked for at once, no quota is overrun."""
        self._require_key(tenant, self.count(tenant) + self._coming[tenant])
        self._coming[tenant] += 1
        try:
            yield
        finally:
            self._coming[tenant] -= 1

    def _require_room(self, name: KeyName) -> None:
        if self._weights[name.tenant] > MAX_WEIGHT:
            raise FailedPreconditionError(
                f"{name.tenant} has so many key versions that its trust root would become too large",
                reason="KEY_LIMIT",
                next_step="use another tenant for new keys",
            )

    def possible(self, name: KeyVersionName, change: StateChange) -> StateChange:
        """See whether a version could be moved so now; the change, with what it leaves to the gateway filled in.

        Raises:
            SealkeeperError: as ``set_state``.
        """
        key, version, now = self.get(name.parent), self.get_version(name), self._time_of(change)
        _require_possible(key, version, change, now)
        self._moved(key, version, change, now)
        if change.state is State.COMPROMISED:
            return replace(change, compromise_time=_compromise_time(version, change, now))
        if change.state is State.DESTROY_SCHEDULED:
            return replace(change, destroy_delay=self._destroy_delay(change))
        return change

    def _time_of(self, change: StateChange) -> datetime:
        # A key can be switched off whatever the clock says.
        off = change.state in (State.DISABLED, State.COMPROMISED)
        return self._clock.at_least_latest() if off else self._clock.now()

    async def set_state(
        self, name: KeyVersionName, change: StateChange, audit: Audit, also: Alongside[Key] | None = None
    ) -> Key:
        """Move a version into another state.

        Raises:
            NotFoundError: no such version.
            ConflictError: the etag is another.
            FailedPreconditionError: there is no way from its state to that.
            InvalidRequestError: a time or delay is out of bounds.
        """

        async def move() -> Key:
            key, version = self.get(name.parent), self.get_version(name)
            with self._hold(name.parent):
                now = self._time_of(change)
                _require_possible(key, version, change, now)
                changed = key.changed(*self._moved(key, version, change, now))
                await audit({"keyVersion": str(name), "from": version.state_at(now), "to": change.state})
                return await self._write(changed, also)

        return await self._to_the_end(name.parent, move)

    def _moved(self, key: Key, version: KeyVersion, change: StateChange, now: datetime) -> list[KeyVersion]:
        """The version in its new state, and what that does to others."""
        current, second = version.state_at(now), _second(now)
        if current is State.DESTROYED:
            # The private key stays gone; what it signed is refused from the time of the compromise on.
            return [replace(version, compromise_time=_compromise_time(version, change, now))]
        disabled = change.state is State.DESTROY_SCHEDULED and current is State.DISABLED
        moved = replace(version, state=change.state, destroy_time=None, disabled=disabled)
        if change.state is State.ACTIVE:
            return self._activated(key, moved, now)
        # Retired for good from the first moment that it did not sign.
        if version.activate_time is not None and version.activate_time <= now:
            moved = replace(moved, retire_time=min(version.retire_time or second, second))
        if change.state is State.COMPROMISED:
            moved = replace(moved, compromise_time=_compromise_time(version, change, now))
        if change.state is State.DESTROY_SCHEDULED:
            moved = replace(moved, destroy_time=now + self._destroy_delay(change))
        changes = [moved]
        if current is State.PUBLISHED:
            # The version that was to retire in its favour goes on.
            active = key.active_at(now, standby=version.standby)
            if active is not None:
                changes.append(replace(active, state=State.ACTIVE, retire_time=None))
        return changes

    def _activated(self, key: Key, version: KeyVersion, now: datetime) -> list[KeyVersion]:
        second = _second(now)
        pending = key.published_at(now, standby=version.standby)
        if pending is not None and pending.name == version.name:
            pending = None
        start = version.activate_time if version.activate_time and version.activate_time <= now else second
        changes = [
            replace(
                version,
                activate_time=start,
                retire_time=pending.activate_time if pending is not None else None,
            )
        ]
        active = key.active_at(now, standby=version.standby)
        if active is not None and active.name != version.name:
            changes.append(_retired(active, second, now))
        return changes

    def _destroy_delay(self, change: StateChange) -> timedelta:
        minimum = self._settings.minimum_destroy_delay
        delay = minimum if change.destroy_delay is None else change.destroy_delay
        if not minimum <= delay <= MAX_DESTROY_DELAY:
            raise InvalidRequestError.of("destroy_delay", f"must be from {minimum} to {MAX_DESTROY_DELAY}")
        return delay

    async def destroy_due(self, audit: Callable[[KeyVersion], Awaitable[None]]) -> list[KeyVersionName]:
        """Destroy what is scheduled for now or earlier. What cannot be destroyed is tried again the next time."""
        now, done = self._clock.now(), []
        for name in list(self._keys):
            for version in self._keys[name].versions:
                if version.state is State.DESTROY_SCHEDULED and version.destroy_time and version.destroy_time <= now:
                    try:
                        await self._to_the_end(name, partial(self._destroy, version, audit))
                    except (SealkeeperError, ProviderError, LogError) as error:
                        _log.error("%s cannot be destroyed now: %s", version.name, error)
                    else:
                        done.append(version.name)
        return done

    async def _destroy(self, version: KeyVersion, audit: Callable[[KeyVersion], Awaitable[None]]) -> Key:
        key = self.get(version.name.parent)
        # Its destruction may have been undone while this waited for its turn.
        if version not in key.versions:
            self._announced.discard(version)
            return key
        if version not in self._announced:
            await audit(version)
            self._announced.add(version)
        await self._providers[version.provider].destroy(version.handle)
        destroyed = await self._write(key.changed(replace(version, state=State.DESTROYED)), None)
        self._announced.discard(version)
        return destroyed

    async def _to_the_end(self, name: KeyName, change: Callable[[], Awaitable[Key]]) -> Key:
        """Make one change of a key after the other, each to its end even where its caller hangs up."""

        async def in_turn() -> Key:
            # Locks of names that were only asked for are few: callers are authorized first.
            async with self._locks.setdefault(name, asyncio.Lock()):
                return await change()

        return await self._changes.to_the_end(in_turn())

    @contextmanager
    def _hold(self, name: KeyName) -> Iterator[None]:
        held = self._held[name] = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            del self._held[name]
            held.set_result(None)

    async def _write(self, key: Key, also: Alongside[Key] | None) -> Key:
        await self._table.write(key, writer(also, key))
        tenant, before = key.name.tenant, self._keys.get(key.name)
        if before is None:
            names = self._names[tenant]
            names.insert(bisect_right(names, key.name.key), key.name.key)
        self._keys[key.name] = key
        self._revisions[tenant] += 1
        new = key.versions[len(before.versions) if before else 0 :]
        self._weights[tenant] += sum(map(_weight, new))
        self._public_keys[tenant].update(one.public_key for one in new)
        return key


@dataclass(frozen=True, slots=True)
class StateChange:
    """What is asked of a version.

    Attributes:
        state: to move to.
        compromise_time: with COMPROMISED; ``None`` means since its creation.
        destroy_delay: with DESTROY_SCHEDULED; ``None`` means the gateway's minimum.
        etag: that the key must still have, or empty.
    """

    state: State
    compromise_time: datetime | None = None
    destroy_delay: timedelta | None = None
    etag: str = ""


def _require_possible(key: Key, version: KeyVersion, change: StateChange, now: datetime) -> None:
    if change.etag and change.etag != key.etag:
        raise ConflictError("the key has changed since its etag was read", next_step="read it again")
    current, allowed = version.state_at(now), version.transitions_at(now)
    if change.state not in allowed:
        raise FailedPreconditionError(
            f"{version.name} is {current}; from there it can become {', '.join(sorted(allowed)) or 'nothing'}",
            reason="STATE_TRANSITION_REFUSED",
        )


def _in_provider(making: Making, provider: str) -> Making:
    return making if making.provider else replace(making, provider=provider)


def _compromise_time(version: KeyVersion, change: StateChange, now: datetime) -> datetime:
    moment = change.compromise_time or version.create_time
    if moment > now:
        raise InvalidRequestError.of("compromise_time", "must not be after now")
    known = version.compromise_time
    if known is not None and _second(moment) > known:
        raise InvalidRequestError.of("compromise_time", f"is known to be {rfc3339(known)}; it can only become earlier")
    return _second(moment)


def _weight(version: KeyVersion) -> int:
    # What stands about a version in keys.json: its public key in base64, and names and times around it.
    return 600 + len(version.public_key) * 4 // 3


def _signs_or_will(version: KeyVersion, now: datetime) -> bool:
    return version.state_at(now) in (State.ACTIVE, State.PUBLISHED)


def _retired(version: KeyVersion, at: datetime, now: datetime) -> KeyVersion:
    state = State.VERIFY_ONLY if at <= now else State.ACTIVE
    return replace(version, state=state, retire_time=at)


def _second(moment: datetime) -> datetime:
    # Timestamps are in whole seconds, rounded down: so are the bounds that they are compared with.
    return moment.replace(microsecond=0)
