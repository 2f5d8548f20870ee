"""Registries that gates ask for what is attached to an image: whose they are, what may be asked there, and as whom.

A tenant that could ask with another one's credentials would learn what that one's repositories hold. So each place is a
registry with repositories, tenants and credentials of its own, and what it answered is remembered for it alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta

from sealkeeper.registry import (
    ConfigFiles,
    Deadline,
    Hosts,
    ImageReference,
    Limits,
    Registry,
    RegistryError,
    find_bundles,
)
from sealkeeper.registry import FoundBundles as AttachedBundles
from sealkeeper.registry.errors import TooLargeError, TooManyError
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.errors import OverloadedError
from sealkeeper.server.gate_evidence import UNAVAILABLE
from sealkeeper.server.settings import RegistrySettings
from sealkeeper.verify.errors import EvidenceError
from sealkeeper.verify.gate.decision import Artifact
from sealkeeper.verify.gate.evidence import MAX_BUNDLES, MAX_BYTES, FoundBundle
from sealkeeper.verify.gate.simple_signing import encode_simple_signing

_SECONDS = 15.0
_THREADS = 8
_MAX_ASKING = 64
_MAX_REMEMBERED = 1000


@dataclass(frozen=True, slots=True)
class _Place:
    """One section of ``gates.registries``, and who asks there."""

    name: str
    settings: RegistrySettings
    registry: Registry = field(repr=False)

    @classmethod
    def of(cls, name: str, settings: RegistrySettings) -> _Place:
        credentials = ConfigFiles((settings.credentials,)) if settings.credentials is not None else None
        host = frozenset({settings.host})
        # Whoever runs the gateway has named it, so it may be within its own network; nothing else may.
        hosts = Hosts(local=host, secure=host if settings.ca is not None else frozenset())
        return cls(name, settings, Registry(credentials, hosts, settings.ca))

    def fit(self, image: ImageReference, tenant: str) -> tuple[int, bool] | None:
        """How closely it names an image of a tenant's; ``None`` where it does not."""
        own = self.settings
        if own.host != image.registry or (own.tenants and tenant not in own.tenants):
            return None
        if not own.repositories:
            return 0, bool(own.tenants)
        fitting = [len(one) for one in own.repositories if f"{image.repository}/".startswith(f"{one}/")]
        return (max(fitting), bool(own.tenants)) if fitting else None


class Registries:
    """Asks the registries that the settings name, in threads of its own, and remembers their answers for a time.

    Args:
        places: that may be asked, by name.
        remember: for how long.
        clock: the time.
    """

    def __init__(self, places: Mapping[str, RegistrySettings], remember: timedelta, clock: SteadyClock) -> None:
        self._places = [_Place.of(name, one) for name, one in places.items()]
        self._remember = remember
        self._clock = clock
        self._threads = ThreadPoolExecutor(_THREADS, "sealkeeper-gates-registry")
        self._asking = 0
        self._known: dict[tuple[str, str, str], tuple[float, Sequence[FoundBundle]]] = {}

    async def attached(
        self, tenant: str, image: ImageReference, artifacts: Sequence[Artifact]
    ) -> Mapping[str, Sequence[FoundBundle] | EvidenceError]:
        """What is attached to artifacts in an image's repository, by their digests; or why that cannot be had.

        Raises:
            OverloadedError: too many are asked at the moment.
        """
        place = self._place(tenant, image)
        if place is None:
            said = f"the gateway may not ask for {image.name} for {tenant}"
            problem = EvidenceError(UNAVAILABLE, f"{said}: its settings, gates.registries, do not name it")
            return {one.digest: problem for one in artifacts}
        if self._asking >= _MAX_ASKING:
            raise OverloadedError("too many registries are being asked", retry_after=timedelta(seconds=1))
        self._asking += 1
        try:
            work = self._ask_all(place, image, artifacts)
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._asking -= 1

    def _place(self, tenant: str, image: ImageReference) -> _Place | None:
        """The one that names the image most closely."""
        fits = [(fit, one) for one in self._places if (fit := one.fit(image, tenant)) is not None]
        return max(fits, key=lambda one: one[0])[1] if fits else None

    def _ask_all(
        self, place: _Place, image: ImageReference, artifacts: Sequence[Artifact]
    ) -> Callable[[], Mapping[str, Sequence[FoundBundle] | EvidenceError]]:
        def work() -> Mapping[str, Sequence[FoundBundle] | EvidenceError]:
            deadline = Deadline.after(_SECONDS)
            return {one.digest: self._ask(place, image, one, deadline) for one in artifacts}

        return work

    def _ask(
        self, place: _Place, image: ImageReference, artifact: Artifact, deadline: Deadline
    ) -> Sequence[FoundBundle] | EvidenceError:
        value = artifact.digests.get("sha256", "")
        if not value:
            return EvidenceError(UNAVAILABLE, "registries know images by SHA-256, and no such digest was given")
        reference, now = image.with_digest(f"sha256:{value}"), self._clock.machine().timestamp()
        key = (place.name, reference.name, value)
        known = self._known.get(key)
        if known is not None and 0 <= now - known[0] < self._remember.total_seconds():
            return known[1]
        try:
            found = _found(find_bundles(place.registry, reference, Limits(MAX_BUNDLES, total_size=MAX_BYTES), deadline))
        except TooManyError as error:
            return EvidenceError("ATTESTATIONS_TOO_MANY", str(error))
        except TooLargeError as error:
            return EvidenceError("ATTESTATIONS_TOO_LARGE", str(error))
        except RegistryError as error:
            return EvidenceError(UNAVAILABLE, f"{error} ({error.reason}): {error.next_step}")
        self._keep(key, now, found)
        return found

    def _keep(self, key: tuple[str, str, str], now: float, found: Sequence[FoundBundle]) -> None:
        # What is large is had again: the memory is for many.
        if sum(len(one.data) for one in found) > MAX_BYTES // 64:
            return
        if len(self._known) >= _MAX_REMEMBERED:
            self._known.clear()
        self._known[key] = now, found

    async def close(self) -> None:
        """Finish what is under way."""
        await asyncio.to_thread(self._threads.shutdown)


def _found(attached: AttachedBundles) -> Sequence[FoundBundle]:
    return [
        FoundBundle(data, f"registry: {origin} ({problem})" if problem else f"registry: {origin}")
        for origin, data, problem in attached.documents(encode_simple_signing)
    ]
