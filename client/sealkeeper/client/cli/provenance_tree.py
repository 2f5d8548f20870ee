"""A chain of provenance as a tree for the terminal."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from sealkeeper.client.cli.output import printable
from sealkeeper.client.provenance_graph import Node, NodeKind, ProvenanceGraph, Tone, about_order, utc

if TYPE_CHECKING:
    from sealkeeper.client.provenance_graph import Edge

_WIDE = 1_000_000
_GUIDE = 4
"""Columns of a level's lines."""
_SHORT = 12
_STYLES = {Tone.PLAIN: "", Tone.GOOD: "green", Tone.DOUBTFUL: "yellow", Tone.BAD: "red"}
_UNBELIEVED = "red"
_WORDS = {NodeKind.INDEX_CHILD: "image"}


def tree_lines(
    graph: ProvenanceGraph,
    *,
    width: int | None = None,
    encoding: str = "utf-8",
    coloured: bool = False,
    full: bool = False,
) -> list[str]:
    """The tree, a line a node.

    Args:
        graph: what is drawn.
        width: columns that there are, which lines are cut to; ``None`` for as many as it takes.
        encoding: of where it goes; lines and marks are ASCII where it is none of Unicode.
        coloured: with escape sequences for colours.
        full: digests in full, bundles and where they were found as well; nothing is cut.
    """
    drawing = _Drawing(graph, None if full else width, encoding, full)
    room = io.BytesIO()
    stream = io.TextIOWrapper(room, encoding=encoding, errors="backslashreplace", write_through=True)
    console = Console(
        file=stream,
        force_terminal=coloured,
        color_system="standard" if coloured else None,
        width=_WIDE,
        legacy_windows=False,
        no_color=not coloured,
    )
    console.print(drawing.tree())
    return room.getvalue().decode(encoding).rstrip("\n").split("\n")


class _Drawing:
    def __init__(self, graph: ProvenanceGraph, width: int | None, encoding: str, full: bool) -> None:
        self._graph = graph
        self._nodes = {one.id: one for one in graph.nodes}
        self._into: dict[str, list[Edge]] = {}
        self._out: dict[str, list[Edge]] = {}
        for edge in graph.edges:
            self._into.setdefault(edge.head, []).append(edge)
            self._out.setdefault(edge.tail, []).append(edge)
        self._seen: set[str] = set()
        self._width, self._encoding, self._full = width, encoding, full
        self._unicode = encoding.lower().startswith("utf")
        self._more = "…" if self._unicode else "..."

    def tree(self) -> Tree:
        """The asked artifact's digest, and below it the chain from its sources on."""
        asked = self._graph.asked
        tree = Tree(self._fitted(Text(f"provenance of {self._digest(asked.digest)}", "bold"), 0))
        for root in self._roots(asked):
            self._grow(tree, root, 1)
        return tree

    def _roots(self, asked: Node) -> Iterator[Node]:
        builds = self._tails(asked, "made")
        if not builds:
            yield asked
        for build in builds:
            yield from self._tails(build, "built") or [build]

    def _grow(self, tree: Tree, node: Node, level: int) -> None:
        again = node.id in self._seen
        if again and node.kind is NodeKind.SOURCE:
            return
        branch = tree.add(self._fitted(self._label(node, again), level))
        self._seen.add(node.id)
        if not again:
            for one in self._below(node):
                self._grow(branch, one, level + 1)

    def _below(self, node: Node) -> Iterator[Node]:
        match node.kind:
            case NodeKind.SOURCE if node.depth == 0:
                yield from self._heads(node, "built")
            case NodeKind.BUILD:
                # What was built for a dependency is above it, its source below.
                yield from (one for one in self._tails(node, "built") if one.id not in self._seen)
                yield from self._tails(node, "used")
                if node.depth == 0:
                    yield from sorted(self._heads(node, "made"), key=lambda one: not one.asked)
            case NodeKind.ARTIFACT:
                yield from self._heads(node, "contains")
                yield from sorted(self._heads(node, "about"), key=about_order)
                yield from self._heads(node, "decided")
            case NodeKind.DEPENDENCY:
                yield from self._tails(node, "made")

    def _heads(self, node: Node, relation: str) -> list[Node]:
        return [self._nodes[one.head] for one in self._out.get(node.id, ()) if one.relation == relation]

    def _tails(self, node: Node, relation: str) -> list[Node]:
        return [self._nodes[one.tail] for one in self._into.get(node.id, ()) if one.relation == relation]

    def _label(self, node: Node, again: bool) -> Text:
        label = Text()
        if node.signed is not None:
            good, bad = ("✓", "✗") if self._unicode else ("v", "x")
            label.append(f"{bad if node.why_not else good} ", "red" if node.why_not else "green")
        if node.why_not:
            label.append(f"not verified: {self._safe(node.title)}: {self._safe(node.why_not)}", _UNBELIEVED)
            label.append(self._found(node))
            return label
        if node.kind is not NodeKind.MORE:
            label.append(f"{_WORDS.get(node.kind, node.kind)} ", "bold")
        label.append(self._safe(node.title), "bold cyan" if node.asked else _STYLES[node.tone])
        if again:
            label.append(" (as above)")
            return label
        told = [self._digest(node.digest)] if node.digest else []
        told += [self._safe(one) for one in node.lines]
        label.append("".join(f", {one}" for one in told))
        if node.asked:
            label.append(" (asked for)", "bold cyan")
        label.append(self._signature(node))
        return label

    def _signature(self, node: Node) -> str:
        if node.signed is None:
            return ": --all shows them" if node.kind is NodeKind.MORE else ""
        who = self._safe(node.signed.who or "a trusted signer")
        return f"; signed by {who}, {utc(node.signed.time)}{self._found(node) if self._full else ''}"

    def _found(self, node: Node) -> str:
        if node.signed is None:
            return ""
        return f" ({self._safe(node.signed.origin)}, bundle {self._digest(node.signed.bundle_digest)})"

    def _digest(self, digest: str) -> str:
        algorithm, _, value = self._safe(digest).partition(":")
        if self._full or len(value) <= _SHORT:
            return f"{algorithm}:{value}"
        return f"{algorithm}:{value[:_SHORT]}{self._more}"

    def _safe(self, text: str) -> str:
        # Measured as it will be written.
        return printable(text).encode(self._encoding, "backslashreplace").decode(self._encoding)

    def _fitted(self, label: Text, level: int) -> Text:
        label.no_wrap, label.overflow = True, "ignore"
        if self._width is not None:
            room = max(self._width - _GUIDE * level, _SHORT)
            if label.cell_len > room:
                label.truncate(room - len(self._more), overflow="crop")
                label.append(self._more)
        return label
