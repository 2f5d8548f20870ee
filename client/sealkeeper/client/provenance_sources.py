"""Where what is known about artifacts is gathered from, and what of it is to be believed.

>>> chain = gather(digest, [FileSources([Path("app.sigstore.json")])], trust)  # doctest: +SKIP
>>> build_graph(digest, chain.statements, chain.decisions).verified  # doctest: +SKIP
True
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from sealkeeper.client.errors import RefusedError
from sealkeeper.client.provenance_graph import DeployDecision, IndexChild, SignedStatement, dependency_digests
from sealkeeper.verify.artifact import Artifact
from sealkeeper.verify.bundle import MAX_BUNDLE, Bundle, DsseEnvelope
from sealkeeper.verify.errors import VerifyError
from sealkeeper.verify.gate.simple_signing import image_digest, parse_found
from sealkeeper.verify.statement import PAYLOAD_TYPE, Statement, parse_statement
from sealkeeper.verify.strict_json import JsonError, Value
from sealkeeper.verify.trust import TrustRoot
from sealkeeper.verify.verifier import Policy, VerificationResult, verify

if TYPE_CHECKING:
    from sealkeeper.client.client import Client
    from sealkeeper.client.gate_evidence import Target
    from sealkeeper.registry import Deadline, Registry
    from sealkeeper.v1 import gate_pb2

MAX_BUNDLES: Final = 200
"""About one artifact."""
MAX_BYTES: Final = 256 * 1024 * 1024
"""Of all bundles that are looked at together."""
MAX_FOLLOWED: Final = 50
"""Dependencies whose own provenance is looked for."""
MAX_DECISIONS: Final = 1000
"""The newest of each gate."""
MAX_INDEX: Final = 4 * 1024 * 1024
"""Bytes of an image index, as registries have it."""
_MAX_CHILDREN: Final = 1000
_INDEXES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
ELSEWHERE: Final = "its statement is about something else"


class Sources(Protocol):
    """Who knows something about artifacts."""

    def statements(self, digest: str) -> Iterable[tuple[bytes, str]]:
        """Bundles about the artifact, not verified, each with its origin; also such as may be about something else.

        Args:
            digest: ``sha256:…``.
        """

    def decisions(self, digest: str) -> Iterable[DeployDecision]:
        """What gates decided about the artifact, newest first.

        Raises:
            RefusedError: the caller may not know.
        """


class FileSources:
    """Bundles in files; what they are about is in them.

    Args:
        paths: of bundles, JSON.

    Raises:
        OSError: one cannot be read.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._found = [(_read(one), f"file {one}") for one in paths]

    def statements(self, digest: str) -> Iterable[tuple[bytes, str]]:
        """All of them."""
        return iter(self._found)

    def decisions(self, digest: str) -> Iterable[DeployDecision]:
        """None: decisions are the gateway's."""
        return ()


class GatewaySources:
    """What a gateway keeps.

    Args:
        client: connected; is not closed here.
        parent: ``tenants/{tenant}``.
    """

    def __init__(self, client: Client, parent: str) -> None:
        self._client = client
        self._parent = parent

    def statements(self, digest: str) -> Iterator[tuple[bytes, str]]:
        """Bundles that the gateway keeps, newest first."""
        from sealkeeper.client.attestation_operations import Filters

        for one in self._client.list_attestations(self._parent, Filters(subject_digest=digest)):
            yield self._client.get_attestation(one.name).bundle, "store"

    def decisions(self, digest: str) -> Iterator[DeployDecision]:
        """Decisions of all gates of the tenant."""
        for gate in self._client.list_gates(self._parent):
            name = gate.name.partition("/versions/")[0]
            found = self._client.list_gate_decisions(name, subject_digest=digest)
            yield from (_decision(name, one) for one in islice(found, MAX_DECISIONS))


class RegistrySources:
    """What is attached to an image, and to its images, in its registry.

    Args:
        registry: to ask.
        target: the image; of other artifacts nothing is found.
        deadline: for all of it.
    """

    def __init__(self, registry: Registry, target: Target, deadline: Deadline) -> None:
        from sealkeeper.client.gate_evidence import RegistryEvidence

        self._evidence = RegistryEvidence(registry, target, deadline)
        self.children = tuple(
            IndexChild(one.digest, target.platforms.get(one.digest, "")) for one in target.artifact.children
        )
        """The images of an index."""

    def statements(self, digest: str) -> Iterator[tuple[bytes, str]]:
        """Bundles that are attached; what is listed as one and cannot be read too.

        Raises:
            RegistryError: they cannot be had.
        """
        return ((one.data, f"registry {one.origin}") for one in self._evidence.attached(digest))

    def decisions(self, digest: str) -> Iterable[DeployDecision]:
        """None: decisions are the gateway's."""
        return ()


@dataclass(frozen=True, slots=True)
class Chain:
    """What was gathered.

    Attributes:
        statements: by the digest that they are about.
        decisions: about the artifact.
        notes: what is missing, for a person.
    """

    statements: Mapping[str, Sequence[SignedStatement]]
    decisions: tuple[DeployDecision, ...] = ()
    notes: tuple[str, ...] = field(default=())


def gather(
    digest: str, sources: Sequence[Sources], trust: TrustRoot, *, artifact: Artifact | None = None, depth: int = 1
) -> Chain:
    """Look for what is known about an artifact, and about what it was built from; verify all of it.

    Whoever the trust root vouches for is believed: that is for looking, not for deciding.

    Args:
        digest: of the artifact, ``sha256:…``.
        sources: who is asked.
        trust: what is trusted.
        artifact: the same, where it is here: some signatures are of more than a digest.
        depth: of dependencies that are followed; 0 for none.

    Raises:
        ClientError, RegistryError: a source does not answer.
        OSError: the artifact's file cannot be read.
    """
    gathering = _Gathering(sources, trust)
    gathering.look(digest, artifact or _artifact_of(digest), asked=True)
    waiting = deque([(digest, depth)])
    while waiting:
        one, left = waiting.popleft()
        if left > 0:
            waiting.extend((each, left - 1) for each in gathering.follow(one))
    decisions = list[DeployDecision]()
    for source in sources:
        try:
            decisions.extend(source.decisions(digest))
        except RefusedError as error:
            gathering.notes.append(f"decisions are not shown: {error}")
    return Chain(gathering.statements, tuple(decisions), gathering.told())


class _Gathering:
    def __init__(self, sources: Sequence[Sources], trust: TrustRoot) -> None:
        self.statements: dict[str, list[SignedStatement]] = {}
        self.notes: list[str] = []
        self._sources = sources
        self._trust = trust
        self._used: set[str] = set()
        self._elsewhere: dict[str, str] = {}
        self._left = MAX_BYTES
        self._followed = 0
        # A file may be about several artifacts, and is verified once.
        self._envelopes: dict[str, tuple[VerificationResult, Statement | None, str]] = {}

    def look(self, digest: str, artifact: Artifact, *, asked: bool) -> None:
        """Add what is known about the artifact."""
        found = self.statements.setdefault(digest, [])
        for data, origin in self._bundles(digest):
            one = self._signed(data, origin, digest, artifact)
            if one.verified or (asked and one.why_not != ELSEWHERE) or _about(one.statement, digest):
                found.append(one)
                self._used.add(one.bundle_digest)
            elif asked:
                self._elsewhere.setdefault(one.bundle_digest, origin)

    def told(self) -> tuple[str, ...]:
        """What is missing, and what was of no use."""
        unused = (origin for digest, origin in self._elsewhere.items() if digest not in self._used)
        return tuple(dict.fromkeys((*self.notes, *(f"{one}: {ELSEWHERE}" for one in unused))))

    def follow(self, digest: str) -> list[str]:
        """Look at what the artifact was built from; the digests that are known of."""
        known = list[str]()
        for one in self.statements.get(digest, ()):
            for other in dependency_digests(one):
                if other in self.statements:
                    continue
                if self._followed == MAX_FOLLOWED:
                    self.notes.append(f"only the first {MAX_FOLLOWED} dependencies were followed")
                    return known
                self._followed += 1
                self.look(other, _artifact_of(other), asked=False)
                known.append(other)
        return known

    def _bundles(self, digest: str) -> Iterator[tuple[bytes, str]]:
        for source in self._sources:
            for count, (data, origin) in enumerate(source.statements(digest)):
                self._left -= len(data)
                if count == MAX_BUNDLES or self._left < 0:
                    self.notes.append("there are more attestations than can be looked at")
                    break
                yield data, origin

    def _signed(self, data: bytes, origin: str, digest: str, artifact: Artifact) -> SignedStatement:
        bundle_digest = f"sha256:{sha256(data).hexdigest()}"
        try:
            bundle, payload = parse_found(data)
            if payload is not None and image_digest(payload) != digest:
                return SignedStatement(None, bundle_digest, origin, why_not=ELSEWHERE)
        except VerifyError as error:
            return SignedStatement(None, bundle_digest, origin, why_not=str(error))
        if not isinstance(bundle.content, DsseEnvelope):
            signed = artifact if payload is None else Artifact.from_bytes(payload)
            result = verify(bundle, signed, self._trust, Policy.any_trusted())
            return _judged(result, None, bundle_digest, origin, "" if result.verified else _why(result))
        if bundle_digest not in self._envelopes:
            self._envelopes[bundle_digest] = self._opened(bundle, bundle.content)
        result, statement, why_not = self._envelopes[bundle_digest]
        if not why_not and not _about(statement, digest):
            why_not = ELSEWHERE
        return _judged(result, statement, bundle_digest, origin, why_not)

    def _opened(self, bundle: Bundle, envelope: DsseEnvelope) -> tuple[VerificationResult, Statement | None, str]:
        result = verify(bundle, None, self._trust, Policy.any_trusted())
        try:
            statement = parse_statement(envelope.payload)
        except VerifyError as error:
            return result, None, _why(result) if not result.verified else str(error)
        if not result.verified:
            return result, statement, _why(result)
        if result.payload_type != PAYLOAD_TYPE:
            return result, statement, f"the envelope's payload is of type {result.payload_type!r}, not {PAYLOAD_TYPE}"
        return result, statement, ""


def _judged(
    result: VerificationResult, statement: Statement | None, bundle_digest: str, origin: str, why_not: str
) -> SignedStatement:
    if why_not:
        return SignedStatement(statement, bundle_digest, origin, why_not=why_not)
    who = f"{result.identity} (issuer {result.issuer})" if result.identity else result.key_name
    return SignedStatement(statement, bundle_digest, origin, who, result.time, verified=True)


def _why(result: VerificationResult) -> str:
    return f"{result.steps[-1].name}: {result.steps[-1].detail}"


def _about(statement: Statement | None, digest: str) -> bool:
    value = digest.removeprefix("sha256:")
    return statement is not None and any(one.digests.get("sha256") == value for one in statement.subjects)


def _artifact_of(digest: str) -> Artifact:
    return Artifact.from_digest("SHA2_256", bytes.fromhex(digest.removeprefix("sha256:")))


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BUNDLE + 1)


def _decision(gate: str, one: gate_pb2.GateDecision) -> DeployDecision:
    from sealkeeper.v1.gate_pb2 import GATE_OUTCOME_ALLOW

    return DeployDecision(
        gate,
        one.environment,
        # Of an outcome that this client does not know, nothing is said to be allowed.
        "ALLOW" if one.outcome == GATE_OUTCOME_ALLOW else "DENY",
        one.passed,
        one.time.ToDatetime(UTC) if one.HasField("time") else None,
        one.exception,
        tuple(f"{each.code}: {each.message}" for each in one.reasons),
    )


def index_children(document: bytes) -> list[IndexChild]:
    """The images of an OCI image index (OCI image spec v1.1, image-index), or of Docker's manifest list.

    Returns:
        none where it is neither.
    """
    try:
        index = Value.parse(document, MAX_INDEX)
        if index.member("mediaType").text() not in _INDEXES:
            return []
        return [_child(one) for one in index.member("manifests").items(_MAX_CHILDREN)]
    except JsonError:
        return []


def _child(value: Value) -> IndexChild:
    platform = value.optional("platform")
    names = () if platform is None else (platform.optional(name) for name in ("os", "architecture", "variant"))
    return IndexChild(value.member("digest").text(), "/".join(one.text() for one in names if one is not None))
