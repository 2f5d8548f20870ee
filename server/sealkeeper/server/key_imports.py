"""Imports of keys (BYOK): from the wrapping key that a store offers to the version that signs, or to nothing at all.

An import is OPEN until it is finished, given up or too old; then what it left in the store is removed, which is tried
again until it is done. The wrapped key is handed on to the store and kept nowhere. What was unwrapped is a version only
once the store has signed with it under the custodian's public key (``ceremony.py``); else it is destroyed.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from bisect import bisect_right
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sealkeeper.hsm import (
    ALGORITHMS,
    Algorithm,
    ImportExpiredError,
    KeyHandleError,
    Origin,
    ProviderError,
    ProviderKey,
    PublicKeyMismatchError,
    WrapMethod,
    WrappingKey,
)
from sealkeeper.hsm.algorithms import load_public_key, require_strong
from sealkeeper.server.ceremony import attestation_document, fingerprint
from sealkeeper.server.clock import SteadyClock, rfc3339
from sealkeeper.server.configured_provider import ConfiguredProvider
from sealkeeper.server.errors import (
    FailedPreconditionError,
    InvalidRequestError,
    NotFoundError,
    SealkeeperError,
)
from sealkeeper.server.identity import Principal
from sealkeeper.server.key import Key
from sealkeeper.server.key_import import ImportState, KeyImport
from sealkeeper.server.keys import Keys
from sealkeeper.server.new_version import Audit, Making, VersionMaker, version_label
from sealkeeper.server.resources import KeyImportName, KeyName
from sealkeeper.server.store.database import Alongside, writer
from sealkeeper.server.store.import_table import ImportTable
from sealkeeper.server.under_way import UnderWay

MAX_WRAPPED = 16 * 1024
MAX_OPEN = 100
"""Imports of a tenant that are OPEN at a time."""
MAX_KEPT = 1000
"""Imports of a tenant that are known at a time; of those that are closed, the oldest are forgotten first."""
LIFETIME = timedelta(hours=24)
KEPT = timedelta(days=30)
_MAX_STATE = 16 * 1024
_log = logging.getLogger("sealkeeper.keys")


@dataclass(frozen=True, slots=True)
class ImportOrder:
    """What is asked for at the beginning.

    Attributes:
        key: that is to get the version.
        algorithm: name in ``PublicKeyDetails``; empty for that of the key.
        provider: name; empty for that of the key, or the default one.
        standby: the version is to stand by.
        labels: of a new key.
    """

    key: KeyName
    algorithm: str
    provider: str
    standby: bool
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """What a custodian hands over.

    Attributes:
        method: that it was wrapped by.
        wrapped: the private key, wrapped; never shown.
        public_key: SubjectPublicKeyInfo, DER.
        publish_period: of a version of a key that there is; ``None`` for the gateway's setting.
    """

    method: WrapMethod
    wrapped: bytes = field(repr=False)
    public_key: bytes
    publish_period: timedelta | None


class _Imported:
    """The source of an imported version; see ``new_version.Source``."""

    origin = Origin.IMPORTED

    def __init__(self, begun: KeyImport, key: WrappedKey) -> None:
        self._begun = begun
        self._key = key

    @property
    def imported(self) -> Mapping[str, Any]:
        """How it came, for the record."""
        offer = self._begun.wrapping_key
        return {
            "name": str(self._begun.name),
            "wrapMethod": self._key.method.value,
            "wrappingKeyFingerprint": fingerprint(offer.public_key),
            "wrappedKeyDigest": f"sha256:{sha256(self._key.wrapped).hexdigest()}",
            "begunTime": rfc3339(self._begun.create_time),
            "begunBy": self._begun.begun_by,
            "attestation": attestation_document(offer.attestation),
        }

    async def make(self, provider: ConfiguredProvider, label: str, algorithm: Algorithm) -> ProviderKey:
        """Have the store unwrap it. From here on it goes by the custodian's public key."""
        key = self._key
        made = await provider.finish_import(
            self._begun.wrapping_key.state, label, algorithm, key.method, key.wrapped, key.public_key
        )
        return replace(made, public_key=key.public_key)


class KeyImports:
    """All imports; made with what the table has.

    Args:
        table: where they are durable.
        keys: that get versions.
        maker: knows which provider may be used.
        providers: by name.
        clock: the time.
        imports: as the table has them.
    """

    def __init__(
        self,
        table: ImportTable,
        keys: Keys,
        maker: VersionMaker,
        providers: Mapping[str, ConfiguredProvider],
        clock: SteadyClock,
        imports: Iterable[KeyImport],
    ) -> None:
        self._table = table
        self._keys = keys
        self._maker = maker
        self._providers = providers
        self._clock = clock
        self._imports: dict[KeyImportName, KeyImport] = {one.name: one for one in imports}
        self._open: Counter[str] = Counter()
        for one in self._imports.values():
            self._open[one.name.tenant] += one.state is ImportState.OPEN
        self._locks: dict[KeyImportName, asyncio.Lock] = {}
        self._changes = UnderWay()

    def get(self, name: KeyImportName) -> KeyImport:
        """Look an import up.

        Raises:
            NotFoundError: there is none.
        """
        found = self._imports.get(name)
        if found is None:
            raise NotFoundError(f"there is no import {name}", reason="IMPORT_NOT_FOUND", next_step="list the imports")
        return found

    def page(self, tenant: str, after: str, limit: int) -> list[KeyImport]:
        """Up to ``limit`` imports of a tenant by name, those after the id ``after``."""
        ids = sorted(name.id for name in self._imports if name.tenant == tenant)
        start = bisect_right(ids, after)
        return [self._imports[KeyImportName(tenant, id_)] for id_ in ids[start : start + limit]]

    async def close(self) -> None:
        """Wait for the changes under way."""
        await self._changes.close()

    async def begin(self, order: ImportOrder, audit: Audit, also: Alongside[KeyImportName] | None = None) -> KeyImport:
        """Have the store offer a wrapping key.

        Raises:
            NotFoundError, RegionNotAllowedError, AlgorithmNotSupportedError: the provider cannot be used for it.
            FailedPreconditionError: the key has another algorithm, or too many imports are OPEN.
            ProviderError: the store does not take keys, or does not answer.
        """
        return await self._changes.to_the_end(self._begin(order, audit, also))

    async def _begin(self, order: ImportOrder, audit: Audit, also: Alongside[KeyImportName] | None) -> KeyImport:
        tenant = order.key.tenant
        algorithm, provider = self._target(order)
        if self._open[tenant] >= MAX_OPEN:
            raise FailedPreconditionError(
                f"{tenant} has {MAX_OPEN} open imports",
                reason="IMPORT_LIMIT",
                next_step="finish or cancel some: sealkeeper keys import list",
            )
        await self._make_room(tenant)
        self._open[tenant] += 1
        try:
            offer = await provider.begin_import(self._label(order.key), ALGORITHMS[algorithm])
        except BaseException:
            self._open[tenant] -= 1
            raise
        begun = self._offered(order, algorithm, provider, offer, audit.principal)
        try:
            _require_short(offer)
            await audit(
                {
                    "keyImport": str(begun.name),
                    "key": str(order.key),
                    "algorithm": algorithm,
                    "provider": provider.name,
                    "region": begun.region,
                    "wrappingKeyFingerprint": fingerprint(offer.public_key),
                    "expireTime": begun.expire_time,
                }
            )
            await self._table.write(begun, writer(also, begun.name))
        except BaseException:
            self._open[tenant] -= 1
            await self._remove(begun)
            raise
        self._imports[begun.name] = begun
        return begun

    async def _make_room(self, tenant: str) -> None:
        own = [one for one in self._imports.values() if one.name.tenant == tenant]
        if len(own) < MAX_KEPT:
            return
        closed = [(one.close_time, one.name) for one in own if one.close_time is not None and not one.left_over]
        if not closed:
            raise FailedPreconditionError(
                f"{tenant} has {len(own)} imports that are open, or left something in their stores",
                reason="IMPORT_LIMIT",
                next_step="finish or cancel some, and look at the stores: sealkeeper keys import list",
            )
        for _, name in sorted(closed, key=lambda one: one[0])[: len(own) - MAX_KEPT + 1]:
            await self._forget(name)

    async def _forget(self, name: KeyImportName) -> None:
        await self._table.forget(name)
        self._imports.pop(name, None)
        self._locks.pop(name, None)

    def _target(self, order: ImportOrder) -> tuple[str, ConfiguredProvider]:
        """The algorithm and the provider of a version to come."""
        known = self._keys.find(order.key)
        if known is None and not order.algorithm:
            raise InvalidRequestError.of("algorithm", f"is missing, and there is no key {order.key} yet")
        if known is None and order.standby:
            raise NotFoundError(f"there is no key {order.key}", reason="KEY_NOT_FOUND", next_step="make the key first")
        if order.algorithm:
            _require_algorithm(known, order.algorithm)
        algorithm = known.algorithm if known is not None else order.algorithm
        name = order.provider or self._keys.default_provider(order.key)
        if known is not None:
            self._keys.require_apart(known, name, standby=order.standby)
        if not order.provider:
            self._maker.require_default(order.key.tenant, name)
        return algorithm, self._maker.provider(order.key.tenant, name, algorithm, "import")

    def _label(self, key: KeyName) -> str:
        known = self._keys.find(key)
        return version_label(key.version(len(known.versions) + 1 if known is not None else 1))

    def _offered(
        self, order: ImportOrder, algorithm: str, provider: ConfiguredProvider, offer: WrappingKey, by: Principal
    ) -> KeyImport:
        now = self._clock.now()
        # Letters first, as names have them.
        name = KeyImportName(order.key.tenant, "i" + secrets.token_hex(8))
        return KeyImport(
            name,
            ImportState.OPEN,
            order.key,
            algorithm,
            provider.name,
            provider.region,
            order.standby,
            dict(order.labels),
            by.subject,
            offer,
            now,
            min(now + LIFETIME, offer.expire_time or now + LIFETIME),
        )

    async def finish(
        self, name: KeyImportName, key: WrappedKey, audit: Audit, also: Alongside[Key] | None = None
    ) -> Key:
        """Have the store unwrap a private key, and make a version of it.

        Raises:
            NotFoundError: there is no such import.
            FailedPreconditionError: it is closed or too old, or the private key is not the one of the public key.
            InvalidRequestError: the method is not one of the import's.
            AlreadyExistsError: a version of the tenant's has the public key already.
            ProviderError: the public key is weak, the store refuses the wrapped key, or does not answer.
        """

        async def change() -> Key:
            async with self._lock(name):
                begun = self.require_possible(name, key)
                try:
                    made = await self._made(begun, key, audit, also)
                except PublicKeyMismatchError:
                    await self._closed(begun, ImportState.FAILED)
                    raise
                version = made.versions[-1]
                try:
                    await self._closed(begun, ImportState.FINISHED, str(version.name))
                except SealkeeperError as error:
                    # The version is there; the import is closed when its time is up.
                    _log.error("%s is finished, and could not be closed: %s", name, error)
                return made

        return await self._changes.to_the_end(change())

    def require_possible(self, name: KeyImportName, key: WrappedKey) -> KeyImport:
        """See whether an import could be finished so, as far as that can be seen without the store.

        Raises:
            SealkeeperError, ProviderError: as ``finish``.
        """
        begun = self._require_open(name)
        if key.method not in begun.wrapping_key.methods:
            known = ", ".join(begun.wrapping_key.methods)
            raise InvalidRequestError.of("wrap_method", f"is not one of the import's: {known}")
        require_strong(ALGORITHMS[begun.algorithm], key.public_key)
        _require_usual_form(begun.algorithm, key.public_key)
        return begun

    def parameters(self, name: KeyImportName, key: WrappedKey) -> dict[str, Any]:
        """What is proposed where the import is to be finished so: all that it makes, and nothing of the private key.

        Raises:
            NotFoundError: there is no such import.
        """
        period, begun = key.publish_period, self.get(name)
        return {
            "keyImport": str(name),
            "key": str(begun.key),
            "algorithm": begun.algorithm,
            "provider": begun.provider,
            "standby": begun.standby,
            # Of a key that is new with it: policies decide by them who may sign.
            "labels": dict(begun.labels),
            "wrapMethod": key.method.value,
            "wrappedKeyDigest": f"sha256:{sha256(key.wrapped).hexdigest()}",
            "publicKeyFingerprint": fingerprint(key.public_key),
            "publishPeriodSeconds": None if period is None else int(period.total_seconds()),
        }

    def _lock(self, name: KeyImportName) -> asyncio.Lock:
        """Of one import; of names that there are not none is kept."""
        self.get(name)
        return self._locks.setdefault(name, asyncio.Lock())

    async def _made(self, begun: KeyImport, key: WrappedKey, audit: Audit, also: Alongside[Key] | None) -> Key:
        _require_algorithm(self._keys.find(begun.key), begun.algorithm)
        making = Making(begun.provider, _Imported(begun, key), standby=begun.standby)
        with self._keys.importing(begun.key.tenant, key.public_key):
            try:
                if self._keys.find(begun.key) is None:
                    return await self._keys.create(begun.key, begun.algorithm, begun.labels, audit, also, making)
                return await self._keys.rotate(begun.key, key.publish_period, audit, also, making)
            except (ImportExpiredError, KeyHandleError) as error:
                raise FailedPreconditionError(
                    f"provider {begun.provider} has forgotten the import: {error}",
                    reason="IMPORT_EXPIRED",
                    next_step="begin a new import",
                ) from None

    def _require_open(self, name: KeyImportName) -> KeyImport:
        begun = self.get(name)
        if begun.state is not ImportState.OPEN:
            raise FailedPreconditionError(
                f"{name} is {begun.state}", reason="IMPORT_CLOSED", next_step="begin a new import"
            )
        if self._clock.now() >= begun.expire_time:
            raise FailedPreconditionError(
                f"{name} could be finished until {rfc3339(begun.expire_time)}",
                reason="IMPORT_EXPIRED",
                next_step="begin a new import",
            )
        return begun

    async def cancel(self, name: KeyImportName, audit: Audit) -> KeyImport:
        """Give an import up. One that is closed already stays as it is.

        Raises:
            NotFoundError: there is none.
            SealkeeperError: it could not be made durable.
        """

        async def change() -> KeyImport:
            async with self._lock(name):
                begun = self.get(name)
                await audit({"keyImport": str(name), "from": begun.state})
                if begun.state is not ImportState.OPEN:
                    return begun
                return await self._closed(begun, ImportState.CANCELLED)

        return await self._changes.to_the_end(change())

    async def tidy(self, audit: Callable[[KeyImport], Awaitable[None]]) -> None:
        """Close imports that are too old, remove what closed ones left in their stores, and forget the oldest."""
        now = self._clock.now()
        for one in list(self._imports.values()):
            if one.name not in self._imports:
                continue
            async with self._lock(one.name):
                begun = self._imports.get(one.name)
                if begun is None:
                    continue
                if begun.state is ImportState.OPEN and now >= begun.expire_time:
                    await audit(begun)
                    await self._closed(begun, ImportState.EXPIRED)
                elif begun.state is not ImportState.OPEN and begun.left_over:
                    await self._closed(begun, begun.state, begun.key_version)
                elif begun.close_time is not None and now - begun.close_time > KEPT:
                    await self._forget(begun.name)

    async def _closed(self, begun: KeyImport, state: ImportState, key_version: str = "") -> KeyImport:
        """Close an import; what it left in the store is removed now, or by ``tidy``."""
        left_over = not await self._remove(begun)
        close_time = begun.close_time or self._clock.at_least_latest()
        closed = replace(begun, state=state, close_time=close_time, key_version=key_version, left_over=left_over)
        if closed != begun:
            await self._table.write(closed, writer(None, closed.name))
        self._open[begun.name.tenant] -= begun.state is ImportState.OPEN
        self._imports[begun.name] = closed
        return closed

    async def _remove(self, begun: KeyImport) -> bool:
        provider = self._providers.get(begun.provider)
        try:
            if provider is not None:
                await provider.end_import(begun.wrapping_key.state)
        except ProviderError as error:
            _log.error("%s: its wrapping key is still in provider %s: %s", begun.name, begun.provider, error)
            return False
        return True


def _require_algorithm(key: Key | None, algorithm: str) -> None:
    if key is not None and key.algorithm != algorithm:
        raise FailedPreconditionError(
            f"{key.name} is one for {key.algorithm}, and so are all its versions",
            reason="ALGORITHM_OF_KEY",
            next_step="import into a new key",
        )


def _require_usual_form(algorithm: str, public_key: bytes) -> None:
    # Bundles point at a version by the bytes of its public key: written in two ways, one key would be two.
    known = load_public_key(ALGORITHMS[algorithm], public_key)
    if known.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != public_key:
        raise InvalidRequestError.of(
            "public_key",
            "is not written in the usual way: DER, with whole points on curves",
            next_step="write it anew: openssl pkey -pubin -ec_conv_form uncompressed -outform DER",
        )


def _require_short(offer: WrappingKey) -> None:
    if len(offer.state) > _MAX_STATE:
        raise ProviderError("the key store offers a wrapping key with too long a state")
