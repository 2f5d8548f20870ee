"""Where gates find evidence about artifacts: kept attestations, other gates' summaries, the request, registries
(``gate_registries.py``).

What there is, is listed first, on the event loop, and costs a look into an index; so a verdict that is remembered can
be held against what there is now. Bundles are read by whoever looks at them, in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

from sealkeeper.server.attestation import Attestation
from sealkeeper.server.attestation import Search as AttestationSearch
from sealkeeper.server.attestations import Attestations
from sealkeeper.server.bundle_files import BundleFiles
from sealkeeper.server.errors import OverloadedError, UnavailableError
from sealkeeper.server.resources import GateName
from sealkeeper.server.store.gate_tables import GateDecisionTable, SummaryRow
from sealkeeper.verify.bundle import DsseEnvelope
from sealkeeper.verify.errors import EvidenceError, VerifyError
from sealkeeper.verify.gate.decision import Artifact
from sealkeeper.verify.gate.evidence import MAX_BUNDLES, MAX_BYTES, FoundBundle
from sealkeeper.verify.gate.policy import GatePolicy
from sealkeeper.verify.gate.simple_signing import image_digest, parse_found
from sealkeeper.verify.gate.summary import verifier_id
from sealkeeper.verify.statement import parse_statement

SHA2 = ("sha256", "sha384", "sha512")
MAX_SUMMARIES = 32
"""Of other gates, about one artifact: those that the policy names first, then the newest."""
_HASHES = {"SHA2_256": "sha256", "SHA2_384": "sha384", "SHA2_512": "sha512"}
UNAVAILABLE = "ATTESTATIONS_UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class Listed:
    """A bundle that there is.

    Attributes:
        digest: ``sha256:…``.
        origin: where it was found.
        size: bytes; 0 where that is not known before it is read.
        read: gives it; not on the event loop's time.
        kept: it stays where it is, and can be read there again.
    """

    digest: str
    origin: str
    size: int
    read: Callable[[], Awaitable[bytes]] = field(repr=False)
    kept: bool


class AttestationSource(Protocol):
    """The kept attestations, as gates need them."""

    async def about(self, tenant: str, digests: Sequence[str], limit: int) -> Sequence[Listed]:
        """At most ``limit`` attestations about an artifact, by its digests.

        Raises:
            SealkeeperError: the database does not answer.
        """
        ...

    async def read(self, tenant: str, digest: str) -> bytes | None:
        """A kept attestation's bundle by its digest; ``None`` where there is none."""
        ...


class KeptAttestations:
    """The attestations that the gateway keeps, as an ``AttestationSource``.

    Args:
        attestations: all.
    """

    def __init__(self, attestations: Attestations) -> None:
        self._attestations = attestations

    async def about(self, tenant: str, digests: Sequence[str], limit: int) -> Sequence[Listed]:
        """As ``AttestationSource.about``."""
        found: dict[bytes, Attestation] = {}
        for digest in digests:
            search = AttestationSearch(tenant, subject_digest=digest)
            found.update({one.bundle_digest: one for one in await self._attestations.search(search, None, limit)})
        return [self._listed(one) for one in list(found.values())[:limit]]

    def _listed(self, one: Attestation) -> Listed:
        async def read() -> bytes:
            data = await self._attestations.data(one.tenant, one.bundle_digest)
            if data is None:
                raise EvidenceError(UNAVAILABLE, f"{one.name} cannot be read from the gateway's disk")
            return data

        return Listed(f"sha256:{one.bundle_digest.hex()}", str(one.name), one.bundle_size, read, kept=True)

    async def read(self, tenant: str, digest: str) -> bytes | None:
        """As ``AttestationSource.read``."""
        return await self._attestations.data(tenant, bytes.fromhex(digest.removeprefix("sha256:")))


@dataclass(frozen=True, slots=True)
class Search:
    """What evidence is looked for.

    Attributes:
        gate: that asks.
        environment: whose own rules decide; as ``summary.own_environment`` has it.
        verifiers: whose summaries the policy names.
        subject: what the gate was asked about.
        given: the caller's bundles, by the digests that they claim to be about; under an empty name those that claim
            nothing of what was asked about.
        attached: what the registry has, by digest of the artifact; or why that cannot be had.
    """

    gate: GateName
    environment: str | None
    verifiers: frozenset[str]
    subject: Artifact
    given: Mapping[str, Sequence[FoundBundle]]
    attached: Mapping[str, Sequence[FoundBundle] | EvidenceError]


class EvidenceSources:
    """Lists what there is about artifacts. Used on the event loop.

    Args:
        attestations: that are kept.
        table: knows the newest summaries.
        files: has them.
        gateway: its domain.
    """

    def __init__(
        self, attestations: AttestationSource, table: GateDecisionTable, files: BundleFiles, gateway: str
    ) -> None:
        self._attestations = attestations
        self._table = table
        self._files = files
        self._gateway = gateway

    async def listed(self, search: Search, artifact: Artifact) -> Sequence[Listed]:
        """All that there is about an artifact.

        Raises:
            EvidenceError: it cannot be had, or is too much.
            SealkeeperError: the database does not answer.
        """
        digests = [f"{name}:{value}" for name, value in artifact.digests.items() if name in SHA2]
        tenant = search.gate.tenant
        found = list(await self._attestations.about(tenant, digests, MAX_BUNDLES + 1)) if digests else []
        found += [self._summary(one) for one in await self._summaries(search, digests)]
        found += [_in_hand(one) for one in _given(search, artifact, digests)]
        attached = search.attached.get(artifact.digest, ())
        if isinstance(attached, EvidenceError):
            raise attached
        found += [_in_hand(one) for one in attached]
        unique = tuple({one.digest: one for one in reversed(found)}.values())
        if len(unique) > MAX_BUNDLES:
            raise EvidenceError("ATTESTATIONS_TOO_MANY", f"there are more than {MAX_BUNDLES} attestations")
        if sum(one.size for one in unique) > MAX_BYTES:
            raise EvidenceError("ATTESTATIONS_TOO_LARGE", f"the attestations have more than {MAX_BYTES} bytes together")
        return unique

    async def again(self, tenant: str, digest: str) -> bytes | None:
        """A bundle that a decision rested on; ``None`` where it is not there any more."""
        known = await asyncio.to_thread(self._files.read, tenant, digest)
        return known if known is not None else await self._attestations.read(tenant, digest)

    async def _summaries(self, search: Search, digests: Sequence[str]) -> Sequence[SummaryRow]:
        rows = await self._table.summaries(search.gate.tenant, digests) if digests else []
        # A gate learns nothing from its own verdict; and each new one would make it look again.
        others = [one for one in rows if (one.gate, one.environment) != (search.gate, search.environment)]
        others.sort(key=lambda one: verifier_id(self._gateway, str(one.gate), one.environment) not in search.verifiers)
        return others[:MAX_SUMMARIES]

    def _summary(self, row: SummaryRow) -> Listed:
        async def read() -> bytes:
            data = await asyncio.to_thread(self._files.read, row.gate.tenant, row.bundle)
            if data is None:
                raise EvidenceError(UNAVAILABLE, f"the summary of {row.gate} is not on the gateway's disk any more")
            return data

        return Listed(row.bundle, f"summary of {row.gate}", 0, read, kept=False)


def _given(search: Search, artifact: Artifact, digests: Sequence[str]) -> Iterable[FoundBundle]:
    for digest in digests:
        yield from search.given.get(digest, ())
    if artifact.digest == search.subject.digest:
        yield from search.given.get("", ())


def _in_hand(one: FoundBundle) -> Listed:
    async def read() -> bytes:
        return one.data

    return Listed(one.digest, one.origin, len(one.data), read, kept=False)


def verifiers_of(policy: GatePolicy, environment: str) -> frozenset[str]:
    """Whose summaries a policy asks for in an environment."""
    rules = policy.rules(environment)
    if rules is None:
        return frozenset()
    asked = [*rules.summaries, *([rules.promotion] if rules.promotion is not None else [])]
    return frozenset(one.verifier for one in asked)


def given_bundles(bundles: Sequence[bytes], subject: Artifact) -> Mapping[str, Sequence[FoundBundle]]:
    """The caller's bundles by what they claim to be about. Blocks.

    Nobody believes a claim: but what does not claim to be about an artifact cannot count for it, and need not be
    verified for each child of an index.
    """
    known = {
        f"{name}:{value}" for one in (subject, *subject.children) for name, value in one.digests.items() if name in SHA2
    }
    found: dict[str, list[FoundBundle]] = {}
    for place, data in enumerate(bundles):
        one = FoundBundle(data, f"bundles[{place}] of the request")
        claimed = _claimed(data)
        for digest in claimed:
            found.setdefault(digest, []).append(one)
        if not claimed & known:
            found.setdefault("", []).append(one)
    return found


def _claimed(data: bytes) -> set[str]:
    try:
        bundle, payload = parse_found(data)
        if payload is not None:
            return {image_digest(payload)}
        content = bundle.content
        if isinstance(content, DsseEnvelope):
            subjects = parse_statement(content.payload).subjects
            return {f"{name}:{value}" for one in subjects for name, value in one.digests.items() if name in SHA2}
    except VerifyError:
        return set()
    if content.digest is None or content.digest.algorithm not in _HASHES:
        return set()
    return {f"{_HASHES[content.digest.algorithm]}:{content.digest.digest.hex()}"}


class Reader:
    """Gathers and reads evidence for one evaluation, in its thread; a ``Gatherer``.

    Args:
        sources: list what there is.
        search: what is looked for.
        loop: where the sources live.
        until: monotonic time at which nobody waits any more, and the loop's own.
    """

    def __init__(self, sources: EvidenceSources, search: Search, loop: asyncio.AbstractEventLoop, until: float) -> None:
        self._sources = sources
        self._search = search
        self._loop = loop
        self._until = until
        self.listed: dict[str, tuple[Artifact, Sequence[Listed]]] = {}
        self.failed = False

    def __call__(self, artifact: Artifact) -> list[FoundBundle]:
        """All that there is about an artifact.

        Raises:
            EvidenceError: it cannot be had, or is too much.
            SealkeeperError: the database does not answer.
        """
        try:
            return asyncio.run_coroutine_threadsafe(self._read(artifact), self._loop).result()
        except EvidenceError:
            # So it is not remembered: the next one shall look again.
            self.failed = True
            raise

    async def _read(self, artifact: Artifact) -> list[FoundBundle]:
        try:
            async with asyncio.timeout_at(self._until):
                found = await self._sources.listed(self._search, artifact)
                read = [FoundBundle(await one.read(), one.origin) for one in found]
        except TimeoutError:
            raise EvidenceError(UNAVAILABLE, "reading the attestations takes too long") from None
        except (UnavailableError, OverloadedError) as error:
            if error.reason == "DATABASE_UNAVAILABLE":
                raise
            raise EvidenceError(UNAVAILABLE, str(error)) from None
        self.listed[artifact.digest] = artifact, found
        return read


def fingerprint(listed: Iterable[Listed]) -> bytes:
    """Alike for the same bundles, in whatever order."""
    return sha256("\n".join(sorted(one.digest for one in listed)).encode()).digest()
