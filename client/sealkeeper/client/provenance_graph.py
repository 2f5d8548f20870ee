"""Where an artifact comes from, and what is known about it, as a graph: from its source to what gates decided.

Only what is verified becomes a source, a build or a property of the artifact. What is not is one node that says so and
repeats nothing of what it claims.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from itertools import islice
from typing import Any, Final, TypeAlias

from sealkeeper.verify.errors import PredicateError, VerifyError
from sealkeeper.verify.gate.build_source import BuildSource, build_source
from sealkeeper.verify.gate.patterns import repository_of
from sealkeeper.verify.predicates import (
    SEVERITIES,
    Provenance,
    Release,
    Sbom,
    TestResult,
    VerificationSummary,
    VulnerabilityScan,
    kind_of,
    read_predicate,
)
from sealkeeper.verify.statement import ResourceDescriptor, Statement

FEW: Final = 5
"""Of dependencies, siblings and decisions, so many are shown where not all are asked for."""
MAX_ALIKE: Final = 2000
"""So many are shown even where all are asked for."""
_MAX_TITLE: Final = 300
_MAX_FACT: Final = 4096
_USER: Final = re.compile(r"(://)[^/?#]*@")
# What is too long for a host is the beginning of a user's name that was cut off.
_USER_IN_TEXT: Final = re.compile(r"://(?:[^/?#'\"]*@|[^/?#'\"]{100,})")
_SCHEME: Final = re.compile(r"(?:git\+)?(?:https?|ssh|git)://")
_COMMITS: Final = ("gitCommit", "sha1")


class NodeKind(StrEnum):
    """What a node stands for. An ``attestation`` is one of a type that is not known, or one that is not believed."""

    SOURCE = "source"
    DEPENDENCY = "dependency"
    BUILD = "build"
    ARTIFACT = "artifact"
    INDEX_CHILD = "index-child"
    SIGNATURE = "signature"
    SBOM = "sbom"
    SCAN = "scan"
    TEST = "test"
    RELEASE = "release"
    SUMMARY = "summary"
    ATTESTATION = "attestation"
    DECISION = "decision"
    MORE = "more"


class Column(IntEnum):
    """Where a node stands in the chain, from left to right."""

    SOURCE = 0
    BUILD = 1
    ARTIFACT = 2
    ABOUT = 3
    DECISION = 4


class Tone(StrEnum):
    """What a node means for whoever wants the artifact to run."""

    PLAIN = "plain"
    GOOD = "good"
    DOUBTFUL = "doubtful"
    BAD = "bad"


_COLUMNS: Final = {
    NodeKind.SOURCE: Column.SOURCE,
    NodeKind.DEPENDENCY: Column.SOURCE,
    NodeKind.BUILD: Column.BUILD,
    NodeKind.ARTIFACT: Column.ARTIFACT,
    NodeKind.DECISION: Column.DECISION,
}
_ORDER: Final = tuple(NodeKind)


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """What a bundle says, and whether it is to be believed.

    Attributes:
        statement: ``None`` where the artifact itself was signed, or where the bundle cannot be read.
        bundle_digest: ``sha256:…`` of the bundle.
        origin: where it was found: ``store``, ``registry …``, ``file …``.
        who: signed it, for a person; empty where it is not verified.
        time: of the signature; ``None`` likewise.
        verified: the bundle verifies, and is about the artifact.
        why_not: it does not; empty where it does.
    """

    statement: Statement | None
    bundle_digest: str
    origin: str
    who: str = ""
    time: datetime | None = None
    verified: bool = False
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class DeployDecision:
    """What a gate decided about the artifact, as the gateway has recorded it.

    Attributes:
        gate: its name.
        environment: where the artifact was to run; empty for nowhere in particular.
        outcome: ``ALLOW`` or ``DENY``.
        passed: the policy was fulfilled; an artifact may run without.
        time: of the decision.
        exception: that let it run; empty where none was needed.
        reasons: why the policy was not fulfilled.
    """

    gate: str
    environment: str
    outcome: str
    passed: bool
    time: datetime | None = None
    exception: str = ""
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IndexChild:
    """An image of an image index.

    Attributes:
        digest: ``sha256:…``.
        platform: ``linux/amd64``; empty where it is not told.
    """

    digest: str
    platform: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """One thing of the chain.

    Attributes:
        id: in the graph, ``build-1``; the same for the same input.
        kind: what it stands for.
        title: its name, for a person.
        column: where it stands.
        lines: what else is to be said, for a person: at most three, short.
        facts: the same for programs, and more: JSON.
        digest: ``sha256:…``, or of another algorithm; empty where it has none.
        tone: what it means.
        signed: what it is known from; ``None`` for what is known from another node's statement, and for decisions.
        why_not: it is not to be believed; empty where it is.
        asked: it is the artifact that was asked about.
        depth: 0 for the artifact's own chain, 1 for that of its dependencies, and so on.
    """

    id: str
    kind: NodeKind
    title: str
    column: Column
    lines: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""
    tone: Tone = Tone.PLAIN
    signed: SignedStatement | None = None
    why_not: str = ""
    asked: bool = False
    depth: int = 0

    @property
    def layer(self) -> int:
        """Its place from left to right; that of the source is 0, those of dependencies' chains are below."""
        return self.column - 2 * self.depth


@dataclass(frozen=True, slots=True)
class Edge:
    """From what comes first to what comes of it.

    Attributes:
        tail: id of a node.
        head: id of a node.
        relation: ``built``, ``used``, ``made``, ``contains``, ``about`` or ``decided``.
    """

    tail: str
    head: str
    relation: str


@dataclass(frozen=True, slots=True)
class ProvenanceGraph:
    """The chain.

    Attributes:
        nodes: as they were found.
        edges: between them.
        notes: what is missing, for a person.
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    notes: tuple[str, ...] = ()

    @property
    def asked(self) -> Node:
        """The artifact that was asked about."""
        return next(one for one in self.nodes if one.asked)

    @property
    def verified(self) -> bool:
        """Whether anything verified is there about the artifact that was asked about."""
        return any(one.signed is not None and not one.why_not and one.depth == 0 for one in self.nodes)


def build_graph(
    digest: str,
    statements: Mapping[str, Sequence[SignedStatement]],
    decisions: Iterable[DeployDecision] = (),
    *,
    name: str = "",
    children: Iterable[IndexChild] = (),
    notes: Iterable[str] = (),
    show_all: bool = False,
) -> ProvenanceGraph:
    """Put together what is known.

    Args:
        digest: of the artifact that is asked about, ``sha256:…``.
        statements: by the digest that they are about: of the artifact, and of dependencies that are followed.
        decisions: about the artifact.
        name: of the artifact; empty for what the statements call it.
        children: its images, where it is an image index.
        notes: what is missing, for a person.
        show_all: do not sum up what is alike and many.
    """
    building = _Building(statements, MAX_ALIKE if show_all else FEW)
    building.add_asked(digest, name)
    building.add_children(children)
    building.add_decisions(decisions)
    return ProvenanceGraph(tuple(building.nodes.values()), tuple(building.edges), tuple(map(_fact, notes)))


def dependency_digests(signed: SignedStatement) -> Iterator[str]:
    """``sha256:…`` of what a build used, as verified SLSA provenance has it; nothing for all else."""
    if not signed.verified or signed.statement is None:
        return
    found, _ = _predicate_of(signed)
    if isinstance(found, Provenance):
        yield from (f"sha256:{one.digests['sha256']}" for one in found.resolved_dependencies if "sha256" in one.digests)


def limited(graph: ProvenanceGraph, most: int) -> ProvenanceGraph:
    """The graph with at most so many nodes: of each layer, one stands for what is left out, and a note says so."""
    if len(graph.nodes) <= most:
        return graph
    layers = {one.layer for one in graph.nodes}
    ranked = sorted(graph.nodes, key=lambda one: (not one.asked, one.depth, one.kind in _MANY, one.tone is Tone.PLAIN))
    kept = {one.id for one in ranked[: max(1, most - len(layers))]}
    left = [one for one in graph.nodes if one.id not in kept]
    counts = Counter(one.layer for one in left)
    names = {one.id: one.id if one.id in kept else f"left-{one.layer}" for one in graph.nodes}
    first = {one.layer: one for one in reversed(left)}
    sums = (
        Node(f"left-{layer}", NodeKind.MORE, f"{count} more", first[layer].column, depth=first[layer].depth)
        for layer, count in sorted(counts.items())
    )
    edges = dict.fromkeys(Edge(names[one.tail], names[one.head], one.relation) for one in graph.edges)
    return ProvenanceGraph(
        (*(one for one in graph.nodes if one.id in kept), *sums),
        tuple(one for one in edges if one.tail != one.head),
        (*graph.notes, f"{len(kept)} of {len(graph.nodes)} things are shown; --json has all"),
    )


_MANY: Final = frozenset({NodeKind.DEPENDENCY, NodeKind.ARTIFACT, NodeKind.INDEX_CHILD, NodeKind.MORE})


_Key: TypeAlias = tuple[object, ...]


class _Building:
    """A graph that grows; nodes by what makes them the same, at the same depth."""

    def __init__(self, statements: Mapping[str, Sequence[SignedStatement]], most: int) -> None:
        self.nodes: dict[_Key, Node] = {}
        self.edges: dict[Edge, None] = {}
        self._statements = statements
        self._most = most
        self._counts: Counter[NodeKind] = Counter()
        self._asked: Node
        # Dependencies whose own builds are still to be added.
        self._waiting: deque[tuple[str, Node]] = deque()
        self._followed: set[str] = set()

    def add_asked(self, digest: str, name: str) -> None:
        found = _in_order(self._statements.get(digest, ()))
        called = (_name_in(one.statement, digest) for one in found if one.verified and one.statement is not None)
        title = name or next(filter(None, called), "") or "artifact"
        self._asked = self._node(("artifact", digest), NodeKind.ARTIFACT, title, digest=digest, asked=True)
        self._followed.add(digest)
        for one in found:
            self._add_statement(one, digest)
        while self._waiting:
            waiting, node = self._waiting.popleft()
            self._follow(waiting, node)

    def add_children(self, children: Iterable[IndexChild]) -> None:
        listed = list(children)
        for one in listed[: self._most]:
            facts = {"platform": _fact(one.platform) or None}
            child = self._node(
                ("child", one.digest), NodeKind.INDEX_CHILD, one.platform or "image", facts=facts, digest=one.digest
            )
            self._edge(self._asked, child, "contains")
        self._add_more(len(listed) - self._most, "image", self._asked, "contains", Column.ABOUT)

    def add_decisions(self, decisions: Iterable[DeployDecision]) -> None:
        newest = sorted(decisions, key=lambda one: (one.time is None, -(one.time.timestamp() if one.time else 0)))
        for place, one in enumerate(newest[: self._most]):
            self._edge(self._asked, self._decision(place, one), "decided")
        left = newest[self._most :]
        refused = sum(one.outcome != "ALLOW" for one in left)
        said = f"{refused} of them refused" if refused else ""
        self._add_more(len(left), "decision", self._asked, "decided", Column.DECISION, said)

    def _add_statement(self, signed: SignedStatement, digest: str) -> None:
        found, why_not = _predicate_of(signed)
        if isinstance(found, Provenance) and signed.statement is not None:
            build = self._add_build(signed, found, 0)
            self._edge(build, self._asked, "made")
            self._add_siblings(build, signed.statement, digest)
            return
        kind, title, lines, facts, tone = _described(signed, found, why_not)
        node = self._node(
            ("about", signed.bundle_digest, signed.origin),
            kind,
            title,
            lines=lines,
            facts=facts,
            tone=tone,
            signed=signed,
            why_not=why_not,
        )
        self._edge(self._asked, node, "about")

    def _add_build(self, signed: SignedStatement, found: Provenance, depth: int) -> Node:
        run = _short(found.invocation_id)
        facts = {
            "builder": _fact(found.builder_id),
            "buildType": _fact(found.build_type),
            "run": _fact(found.invocation_id) or None,
            "startTime": _iso(found.started_on),
            "finishTime": _iso(found.finished_on),
            "slsaProvenance": found.version,
        }
        build = self._node(
            ("build", signed.bundle_digest),
            NodeKind.BUILD,
            _short(found.builder_id),
            lines=tuple(filter(None, (f"run {run}" if run else "", f"type {_short(found.build_type)}"))),
            facts=facts,
            signed=signed,
            depth=depth,
        )
        source, others = _source_of(found)
        if source != BuildSource():
            self._edge(self._source(source, depth), build, "built")
        self._add_dependencies(build, others)
        return build

    def _source(self, source: BuildSource, depth: int) -> Node:
        title, ref = _short(source.repository) or "source", _fact(source.ref)
        commit = f"commit {source.commit[:12]}" if source.commit and ":" not in source.commit else source.commit[:19]
        facts = {"repository": source.repository or None, "ref": ref or None, "commit": _fact(source.commit) or None}
        return self._node(
            ("source", source, depth),
            NodeKind.SOURCE,
            title,
            lines=tuple(filter(None, (ref, commit))),
            facts=facts,
            depth=depth,
        )

    def _add_dependencies(self, build: Node, found: Sequence[ResourceDescriptor]) -> None:
        # Those of which more is known come first.
        ordered = sorted(found, key=lambda one: not self._statements.get(_digest_of(one)))
        shown = ordered[: self._most]
        for one in shown:
            digest, uri = _digest_of(one), _fact(_USER.sub(r"\1", one.uri))
            node = self._node(
                ("dependency", digest or uri, build.depth),
                NodeKind.DEPENDENCY,
                one.name or _short(one.uri) or "dependency",
                facts={"name": _fact(one.name) or None, "uri": uri or None, "mediaType": _fact(one.media_type) or None},
                digest=digest,
                depth=build.depth,
            )
            self._edge(node, build, "used")
            if digest not in self._followed and self._statements.get(digest):
                self._followed.add(digest)
                self._waiting.append((digest, node))
        self._add_more(len(ordered) - len(shown), "dependency", build, "used", Column.SOURCE)

    def _follow(self, digest: str, node: Node) -> None:
        others: Counter[str] = Counter()
        for signed in _in_order(self._statements[digest]):
            found, why_not = _predicate_of(signed)
            if isinstance(found, Provenance):
                self._edge(self._add_build(signed, found, node.depth + 1), node, "made")
            else:
                others["not verified" if why_not else str(_described(signed, found, why_not)[0])] += 1
        if others:
            said = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
            key = next(key for key, one in self.nodes.items() if one.id == node.id)
            facts = {**node.facts, "attestations": dict(sorted(others.items()))}
            self.nodes[key] = replace(node, lines=(*node.lines, f"attested: {said}"), facts=facts)

    def _add_siblings(self, build: Node, statement: Statement, digest: str) -> None:
        others = [one for one in statement.subjects if _digest_of(one) != digest]
        for one in others[: self._most]:
            other = _digest_of(one)
            node = self._node(("artifact", other, one.name), NodeKind.ARTIFACT, one.name or "artifact", digest=other)
            self._edge(build, node, "made")
        self._add_more(len(others) - self._most, "artifact", build, "made", Column.ARTIFACT)

    def _decision(self, place: int, one: DeployDecision) -> Node:
        tone, said = _outcome(one)
        where = f" for {one.environment}" if one.environment else ""
        because = f"exception {one.exception.rpartition('/')[2]}" if one.exception else "; ".join(one.reasons)
        return self._node(
            ("decision", place),
            NodeKind.DECISION,
            # The outcome first: no name can be so long that it is cut off.
            f"{said}{where}",
            lines=tuple(filter(None, (f"by {one.gate.rpartition('/')[2]}", utc(one.time), because))),
            facts={
                "gate": _fact(one.gate),
                "environment": _fact(one.environment) or None,
                "outcome": _fact(one.outcome),
                "passed": one.passed,
                "time": _iso(one.time),
                "exception": _fact(one.exception) or None,
                "reasons": [_fact(each) for each in one.reasons[:100]],
            },
            tone=tone,
        )

    def _add_more(self, count: int, what: str, beside: Node, relation: str, column: Column, said: str = "") -> None:
        if count <= 0:
            return
        plural = f"{what[:-1]}ies" if what.endswith("y") else f"{what}s"
        node = self._node(
            ("more", beside.id, relation),
            NodeKind.MORE,
            f"and {count} more {what if count == 1 else plural}",
            column=column,
            lines=(said,) if said else (),
            facts={"count": count},
            depth=beside.depth,
        )
        self._edge(*((node, beside) if relation == "used" else (beside, node)), relation)

    def _node(
        self,
        key: _Key,
        kind: NodeKind,
        title: str,
        *,
        column: Column | None = None,
        lines: tuple[str, ...] = (),
        **more: Any,
    ) -> Node:
        if key not in self.nodes:
            self._counts[kind] += 1
            place = _COLUMNS.get(kind, Column.ABOUT) if column is None else column
            short = tuple(_cut(one) for one in lines[:3])
            self.nodes[key] = Node(f"{kind}-{self._counts[kind]}", kind, _cut(title), place, short, **more)
        return self.nodes[key]

    def _edge(self, tail: Node, head: Node, relation: str) -> None:
        self.edges[Edge(tail.id, head.id, relation)] = None


_Description: TypeAlias = tuple[NodeKind, str, tuple[str, ...], dict[str, Any], Tone]


def _predicate_of(signed: SignedStatement) -> tuple[Any, str]:
    """What a statement says, typed where its type is known; and why it is not to be believed."""
    if not signed.verified:
        return None, _fact(signed.why_not) or "it was not verified"
    if signed.statement is None:
        return None, ""
    try:
        found = read_predicate(signed.statement.predicate_type, signed.statement.predicate)
    except PredicateError as error:
        return None, _fact(f"it is signed, but is not what its type says: {error}")
    try:
        if isinstance(found, Provenance):
            build_source(found)
    except VerifyError as error:
        return None, _fact(f"it is signed, but {_USER_IN_TEXT.sub('://', str(error))}")
    return found, ""


def _described(signed: SignedStatement, found: Any, why_not: str) -> _Description:
    """A node for what a bundle says."""
    if why_not:
        facts = {"predicateType": _fact(signed.statement.predicate_type) if signed.statement is not None else None}
        return NodeKind.ATTESTATION, _type_title(signed.statement), (), facts, Tone.BAD
    if signed.statement is None:
        return NodeKind.SIGNATURE, "of the artifact", (), {}, Tone.PLAIN
    for kind, describe in _DESCRIBED.items():
        if isinstance(found, kind):
            node, title, lines, facts, tone = describe(found)
            return node, title, lines, {"predicateType": signed.statement.predicate_type, **facts}, tone
    facts = {"predicateType": signed.statement.predicate_type}
    return NodeKind.ATTESTATION, _type_title(signed.statement), (), facts, Tone.PLAIN


def _type_title(statement: Statement | None) -> str:
    if statement is None:
        return "bundle"
    kind = kind_of(statement.predicate_type)
    return kind.title if kind is not None else _short(statement.predicate_type)


def _sbom(found: Sbom) -> _Description:
    counted = f"{found.components} component{'' if found.components == 1 else 's'}"
    tools = f"by {', '.join(found.tools[:3])}" if found.tools else ""
    facts = {
        "format": found.format,
        "version": _fact(found.version),
        "components": found.components,
        "createTime": _iso(found.created),
        "tools": [_fact(one) for one in found.tools[:20]],
    }
    return NodeKind.SBOM, f"{found.format} {found.version}", tuple(filter(None, (counted, tools))), facts, Tone.PLAIN


def _scan(found: VulnerabilityScan) -> _Description:
    scanner = f"by {_short(found.scanner_uri)}" if found.scanner_uri else ""
    finished = f"of {utc(found.finished_on)}" if found.finished_on else ""
    facts: dict[str, Any] = {
        "scanner": _fact(found.scanner_uri) or None,
        "finishTime": _iso(found.finished_on),
        "findings": None,
    }
    lines = tuple(filter(None, (scanner, finished)))
    if found.report is None:
        title = "findings in a format that is not known"
        return NodeKind.SCAN, title, lines, facts, Tone.DOUBTFUL
    counts = Counter(one.severity for one in found.report)
    said = ", ".join(f"{counts[one]} {one}" for one in SEVERITIES if counts[one])
    facts["findings"] = {one: counts[one] for one in SEVERITIES}
    severe = counts["critical"] + counts["high"]
    return NodeKind.SCAN, said or "no findings", lines, facts, Tone.DOUBTFUL if severe else Tone.PLAIN


def _test(found: TestResult) -> _Description:
    counts = (("passed", found.passed_tests), ("warned", found.warned_tests), ("failed", found.failed_tests))
    said = ", ".join(f"{len(names)} {word}" for word, names in counts if names)
    run = f"run {_short(found.url)}" if found.url else ""
    facts = {"result": found.result, "url": _fact(found.url) or None, **{word: len(names) for word, names in counts}}
    tone = {"PASSED": Tone.GOOD, "WARNED": Tone.DOUBTFUL}.get(found.result, Tone.BAD)
    return NodeKind.TEST, found.result, tuple(filter(None, (said, run))), facts, tone


def _release(found: Release) -> _Description:
    facts = {"purl": _fact(found.purl), "packageId": _fact(found.package_id) or None}
    return NodeKind.RELEASE, found.purl, (), facts, Tone.PLAIN


def _summary(found: VerificationSummary) -> _Description:
    levels = ", ".join(islice(found.verified_levels, 10))
    facts = {
        "verifier": _fact(found.verifier_id),
        "result": found.verification_result,
        "levels": [_fact(one) for one in found.verified_levels[:100]],
        "resource": _fact(found.resource_uri) or None,
        "policy": _fact(found.policy.uri) or None,
        "time": _iso(found.time_verified),
    }
    lines = tuple(filter(None, (levels, f"by {_short(found.verifier_id)}")))
    return NodeKind.SUMMARY, found.verification_result, lines, facts, Tone.GOOD if found.passed else Tone.BAD


_DESCRIBED: Final[Mapping[type, Any]] = {
    Sbom: _sbom,
    VulnerabilityScan: _scan,
    TestResult: _test,
    Release: _release,
    VerificationSummary: _summary,
}


def _outcome(decision: DeployDecision) -> tuple[Tone, str]:
    if decision.outcome != "ALLOW":
        return Tone.BAD, "refused"
    return (Tone.GOOD, "allowed") if decision.passed else (Tone.DOUBTFUL, "allowed, policy not fulfilled")


def _source_of(found: Provenance) -> tuple[BuildSource, list[ResourceDescriptor]]:
    """The source of a build, as gates see it; and what else the build used.

    Raises:
        VerifyError: the provenance contradicts itself.
    """
    source, dependencies = build_source(found), list(found.resolved_dependencies)
    place = next((place for place, one in enumerate(dependencies) if one.uri.startswith("git+")), None)
    if place is None and source.repository:
        # Whose URI is not that of a git repository, and is named as the source elsewhere.
        place = next((place for place, one in enumerate(dependencies) if _is_of(one.uri, source.repository)), None)
    if place is None:
        return source, dependencies
    one = dependencies.pop(place)
    commit = source.commit or next((one.digests[name] for name in _COMMITS if name in one.digests), _digest_of(one))
    return replace(source, commit=commit), dependencies


def _is_of(uri: str, repository: str) -> bool:
    try:
        return repository_of(uri) == repository
    except ValueError:
        return False


def _digest_of(one: ResourceDescriptor) -> str:
    """Its SHA-256, or whichever digest it has."""
    if "sha256" in one.digests:
        return f"sha256:{one.digests['sha256']}"
    return next((_fact(f"{name}:{value}") for name, value in sorted(one.digests.items())), "")


def _name_in(statement: Statement, digest: str) -> str:
    return next((one.name for one in statement.subjects if one.name and _digest_of(one) == digest), "")


def _in_order(statements: Iterable[SignedStatement]) -> list[SignedStatement]:
    """Each bundle once, the verified ones first, and the oldest of them."""
    once: dict[str, SignedStatement] = {}
    for one in statements:
        once.setdefault(one.bundle_digest, one)
    last = datetime.max.replace(tzinfo=UTC)
    return sorted(once.values(), key=lambda one: (not one.verified, one.time or last, one.bundle_digest))


def utc(moment: datetime | None) -> str:
    """A time for a person, in UTC; empty for none."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ") if moment is not None else ""


def _iso(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat() if moment is not None else None


def _short(uri: str) -> str:
    """A URI without its scheme, where everybody knows it, and without the name of a user."""
    return _SCHEME.sub("", _USER.sub(r"\1", uri), count=1)


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TITLE else f"{text[: _MAX_TITLE - 1]}…"


def _fact(text: str) -> str:
    return text[:_MAX_FACT]


def about_order(node: Node) -> int:
    """Of what is known about an artifact: by kind, as ``NodeKind`` has them."""
    return _ORDER.index(node.kind)
