"""A chain of provenance as an SVG picture (https://www.w3.org/TR/SVG11): no scripts, nothing from elsewhere.

The same graph gives the same bytes. Names come from outside: they are cut to what fits, each box cuts off what fonts
make wider than it should be, and what is no visible character is replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import Element, SubElement, tostring

from sealkeeper.client.provenance_graph import Column, Node, NodeKind, ProvenanceGraph, Tone, limited, utc

MAX_NODES: Final = 200
_BOX: Final = 272
_GAP: Final = 76
_BETWEEN: Final = 18
_MARGIN: Final = 32
_LEFT: Final = 22
_RIGHT: Final = 12
_ROOM: Final = _BOX - _LEFT - _RIGHT
_TOP: Final = 118
"""Of the boxes: title, digest and headings are above."""
_ROW: Final = 16
_LANE: Final = 12
"""Height that an edge takes where it passes a column."""
_LEGEND: Final = 64
_MAX_NOTES: Final = 8
_MAX_TOLD: Final = 1000
_SWEEPS: Final = 4

_FONT: Final = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
_MONO: Final = "ui-monospace, 'SF Mono', 'DejaVu Sans Mono', monospace"
# Advance widths in thousandths of the font's size, rounded up, of the widest of the fonts that are usual here.
_ADVANCES: Final = {
    one: width
    for width, those in (
        (320, "',.IJijl"),
        (400, " !()-/:;[\\]ft|"),
        (460, '"r'),
        (530, "*?_`sz"),
        (600, "FLckvxy"),
        (640, "$0123456789EPSTYabdeghnopqu{}"),
        (700, "ABCKRVXZ"),
        (780, "&DGHNU"),
        (860, "#+<=>OQ^w~"),
    )
    for one in those
}
_OTHER: Final = 1100
"""Of all other characters."""
_BOLD: Final = 1.2
_FIXED: Final = 620

_HEADINGS: Final = {
    Column.SOURCE: "Source and dependencies",
    Column.BUILD: "Build",
    Column.ARTIFACT: "Artifact",
    Column.ABOUT: "What is known of it",
    Column.DECISION: "Deploy decisions",
}
_WORDS: Final = {NodeKind.INDEX_CHILD: "image", NodeKind.SBOM: "bill of materials"}
_TICK: Final = "M0 4 l3 3 l6 -7"
_CROSS: Final = "M0 0 l7 7 M7 0 l-7 7"

_LIGHT: Final = {
    "paper": "#ffffff",
    "card": "#f8f9fb",
    "line": "#cbd2d9",
    "ink": "#1f2328",
    "faint": "#57606a",
    "edge": "#98a2ad",
    "source": "#0969da",
    "build": "#8250df",
    "artifact": "#0a7d73",
    "about": "#57606a",
    "good": "#1a7f37",
    "doubtful": "#8a5a00",
    "bad": "#cf222e",
    "asked": "#e3f5f2",
}
_DARK: Final = {
    "paper": "#0d1117",
    "card": "#161b22",
    "line": "#3d444d",
    "ink": "#f0f6fc",
    "faint": "#9ba3ad",
    "edge": "#656c76",
    "source": "#58a6ff",
    "build": "#b392f0",
    "artifact": "#39c5b5",
    "about": "#9ba3ad",
    "good": "#3fb950",
    "doubtful": "#d29922",
    "bad": "#f85149",
    "asked": "#11302d",
}
_ACCENTS: Final = {
    NodeKind.SOURCE: "source",
    NodeKind.DEPENDENCY: "source",
    NodeKind.BUILD: "build",
    NodeKind.ARTIFACT: "artifact",
    NodeKind.INDEX_CHILD: "artifact",
}


def provenance_svg(graph: ProvenanceGraph) -> bytes:
    """Draw a graph, from left to right; UTF-8. Of more than ``MAX_NODES`` nodes the rest is summed up."""
    graph = limited(graph, MAX_NODES)
    layout = _arranged(graph)
    legend_top = layout.bottom + 24
    notes = [_fit(one, layout.width - 2 * _MARGIN, 11) for one in graph.notes[-_MAX_NOTES:]]
    height = legend_top + _LEGEND + 16 * len(notes)
    told = f"Provenance of {_safe(graph.asked.title)}"
    root = Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "width": str(layout.width),
            "height": str(height),
            "viewBox": f"0 0 {layout.width} {height}",
            "role": "group",
            "aria-label": told,
        },
    )
    SubElement(root, "title").text = told
    SubElement(root, "style").text = _style()
    _draw_marker(root)
    _rectangle(root, "paper", 0, 0, layout.width, height)
    _draw_head(root, graph, layout)
    for one in layout.edges:
        _draw_edge(root, one, layout)
    for box in layout.boxes.values():
        if box.node is not None:
            _draw_box(root, box, box.node)
    _draw_legend(root, legend_top)
    for place, note in enumerate(notes):
        _text(root, "note", _MARGIN, legend_top + _LEGEND - 6 + 16 * place, note)
    picture: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return picture + b"\n"


@dataclass(frozen=True, slots=True)
class _Box:
    """A place that is taken: by a node, or by edges that pass (``node`` is None)."""

    x: int
    y: int
    height: int
    node: Node | None
    rows: tuple[tuple[str, str], ...] = ()

    @property
    def middle(self) -> int:
        return self.y + self.height // 2


@dataclass(frozen=True, slots=True)
class _Piece:
    """Of an edge, from one place to another."""

    tail: str
    head: str
    believed: bool


@dataclass(frozen=True, slots=True)
class _Layout:
    boxes: Mapping[str, _Box]
    edges: tuple[_Piece, ...]
    columns: tuple[tuple[int, str], ...]
    width: int
    bottom: int


def _arranged(graph: ProvenanceGraph) -> _Layout:
    nodes = {one.id: one for one in graph.nodes}
    layers = sorted({one.layer for one in graph.nodes})
    columns: dict[int, list[str]] = {one: [] for one in layers}
    for node in graph.nodes:
        columns[node.layer].append(node.id)
    pieces = _pieces(graph, nodes, columns)
    neighbours: dict[str, list[str]] = {}
    for one in pieces:
        neighbours.setdefault(one.tail, []).append(one.head)
        neighbours.setdefault(one.head, []).append(one.tail)
    _untangle(columns, neighbours)
    rows = {one.id: _rows(one) for one in graph.nodes}
    heights = {one: _height(nodes[one], rows[one]) if one in nodes else _LANE for one in _all(columns)}
    tops = _placed(columns, neighbours, heights, graph.asked.layer)
    x = {one: _MARGIN + place * (_BOX + _GAP) for place, layer in enumerate(layers) for one in columns[layer]}
    boxes = {one: _Box(x[one], tops[one], heights[one], nodes.get(one), rows.get(one, ())) for one in tops}
    headings = tuple(
        (_MARGIN + place * (_BOX + _GAP), _heading(layer, [nodes[one] for one in columns[layer] if one in nodes]))
        for place, layer in enumerate(layers)
    )
    width = max(2 * _MARGIN + len(layers) * (_BOX + _GAP) - _GAP, 760)
    return _Layout(boxes, pieces, headings, width, max(one.y + one.height for one in boxes.values()))


def _heading(layer: int, nodes: Sequence[Node]) -> str:
    if any(one.depth == 0 for one in nodes):
        return _HEADINGS[Column(layer)] if layer in _HEADINGS else ""
    return "Builds of dependencies" if layer % 2 else "Their sources and dependencies"


def _pieces(graph: ProvenanceGraph, nodes: Mapping[str, Node], columns: dict[int, list[str]]) -> tuple[_Piece, ...]:
    """The edges; one that passes columns goes through a lane in each, together with others from the same node."""
    layers = list(columns)
    pieces: dict[_Piece, None] = {}
    for edge in graph.edges:
        tail, head = nodes[edge.tail], nodes[edge.head]
        believed, at = not (tail.why_not or head.why_not), tail.id
        for layer in layers[layers.index(tail.layer) + 1 : layers.index(head.layer)]:
            lane = f"lane {layer} {tail.id}"
            if lane not in columns[layer]:
                columns[layer].append(lane)
            pieces[_Piece(at, lane, believed)] = None
            at = lane
        pieces[_Piece(at, head.id, believed)] = None
    return tuple(pieces)


def _untangle(columns: dict[int, list[str]], neighbours: Mapping[str, Sequence[str]]) -> None:
    """Order each column by where its neighbours are (the barycenter heuristic of layered drawing)."""
    layers = list(columns)
    for sweep in range(_SWEEPS):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            places = {
                one: (place + 1) / (len(column) + 1) for column in columns.values() for place, one in enumerate(column)
            }
            near = {one: [places[each] for each in neighbours.get(one, ())] for one in columns[layer]}
            means = {one: _mean(near[one], places[one]) for one in columns[layer]}
            columns[layer].sort(key=means.__getitem__)


def _placed(
    columns: Mapping[int, Sequence[str]],
    neighbours: Mapping[str, Sequence[str]],
    heights: Mapping[str, int],
    first: int,
) -> dict[str, int]:
    """The top of each place: near its neighbours, one below the other, from the asked artifact's column outwards."""
    middles: dict[str, float] = {}
    tops: dict[str, float] = {}
    for layer in sorted(columns, key=lambda one: (abs(one - first), one)):
        wanted, y = [], float("-inf")
        for one in columns[layer]:
            near = [middles[each] for each in neighbours.get(one, ()) if each in middles]
            want = _mean(near, 0.0) - heights[one] / 2
            y = max(want, y)
            wanted.append((one, want, y))
            y += heights[one] + _BETWEEN
        # Pushed down by those above, they would all hang below their neighbours.
        shift = sum(y - want for _, want, y in wanted) / len(wanted)
        for one, _, y in wanted:
            tops[one] = y - shift
            middles[one] = tops[one] + heights[one] / 2
    highest = min(tops.values())
    return {one: _TOP + round(y - highest) for one, y in tops.items()}


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _rows(node: Node) -> tuple[tuple[str, str], ...]:
    """The lines of a box, each with its class."""
    rows = [("title", one) for one in _wrapped(node.title, 13, 2, _BOLD)]
    if node.digest:
        rows.append(("digest", _short_digest(node.digest)))
    if node.why_not:
        return (*rows, *(("why", one) for one in _wrapped(node.why_not, 11, 3)))
    for one in node.lines[:3]:
        rows += [("row", each) for each in _wrapped(one, 11, 2)]
    if node.signed is not None:
        who = node.signed.who or "a trusted signer"
        rows += [("row", each) for each in _wrapped(f"signed by {who}", 11, 2)]
        if node.signed.time is not None:
            rows.append(("row", utc(node.signed.time)))
    return tuple(rows)


def _height(node: Node, rows: Sequence[tuple[str, str]]) -> int:
    return _begin(node) + 12 + _ROW * len(rows)


def _begin(node: Node) -> int:
    """Where rows begin: below the kind, where there is one to tell."""
    return 6 if node.kind is NodeKind.MORE else 22


def _all(columns: Mapping[int, Sequence[str]]) -> Iterable[str]:
    return (one for column in columns.values() for one in column)


def _draw_head(root: Element, graph: ProvenanceGraph, layout: _Layout) -> None:
    room = layout.width - 2 * _MARGIN
    _text(root, "head", _MARGIN, 42, _fit(f"Provenance of {graph.asked.title}", room, 20, _BOLD))
    _text(root, "digest", _MARGIN, 64, _fixed(graph.asked.digest, room))
    for x, heading in layout.columns:
        _text(root, "heading", x, _TOP - 18, _fit(heading, _BOX, 12, _BOLD))


def _draw_edge(root: Element, piece: _Piece, layout: _Layout) -> None:
    tail, head = layout.boxes[piece.tail], layout.boxes[piece.head]
    begin, end = tail.x + _BOX, head.x - (7 if head.node is not None else 0)
    bend = max(abs(end - begin) // 2, 24)
    path = f"M{begin} {tail.middle} C{begin + bend} {tail.middle} {end - bend} {head.middle} {end} {head.middle}"
    if head.node is None:
        path += f" H{head.x + _BOX}"
    attributes = {"class": "edge" if piece.believed else "edge unbelieved", "d": path}
    if head.node is not None:
        attributes["marker-end"] = "url(#arrow)"
    SubElement(root, "path", attributes)


def _draw_box(root: Element, box: _Box, node: Node) -> None:
    accent = _accent(node)
    classes = ["node", *(name for name, has in (("unbelieved", node.why_not), ("asked", node.asked)) if has)]
    told = _told(node)
    # A viewport of its own cuts off what a font makes wider than it was measured.
    place = {"x": str(box.x), "y": str(box.y), "width": str(_BOX), "height": str(box.height)}
    view = SubElement(root, "svg", {"class": " ".join(classes), **place, "role": "img", "aria-label": told})
    SubElement(view, "title").text = told
    _rectangle(view, "card", 1, 1, _BOX - 2, box.height - 2, 8)
    _rectangle(view, f"bar {accent}", 9, 11, 3, box.height - 22, 1)
    if node.kind is not NodeKind.MORE:
        _text(view, f"kind {accent}", _LEFT, 20, _WORDS.get(node.kind, str(node.kind)).upper())
    _draw_state(view, node)
    y = _begin(node)
    for name, row in box.rows:
        y += _ROW
        tone = f" {node.tone}" if name == "title" and node.tone is not Tone.PLAIN and not node.why_not else ""
        _text(view, name + tone, _LEFT, y, row)


def _draw_state(view: Element, node: Node) -> None:
    if node.asked:
        _text(view, "state artifact", _BOX - _RIGHT, 20, "ASKED FOR", "end")
    if node.signed is None:
        return
    name, word, mark = ("bad", "NOT VERIFIED", _CROSS) if node.why_not else ("good", "VERIFIED", _TICK)
    _text(view, f"state {name}", _BOX - _RIGHT, 20, word, "end")
    x = _BOX - _RIGHT - (94 if node.why_not else 69)
    SubElement(view, "path", {"class": f"mark {name}", "d": mark, "transform": f"translate({x} 12)"})


def _accent(node: Node) -> str:
    if node.why_not:
        return "bad"
    if node.kind is NodeKind.DECISION:
        return str(node.tone)
    return _ACCENTS.get(node.kind, "about")


def _told(node: Node) -> str:
    """Everything about a node, for who points at it or cannot see it."""
    kind = "" if node.kind is NodeKind.MORE else _WORDS.get(node.kind, str(node.kind))
    parts = [kind, node.title, node.digest, *node.lines]
    if node.why_not:
        parts.insert(0, f"not verified: {node.why_not}")
    elif node.signed is not None:
        parts.append(f"signed by {node.signed.who or 'a trusted signer'} {utc(node.signed.time)}")
    if node.signed is not None:
        parts += [node.signed.origin, f"bundle {node.signed.bundle_digest}"]
    return _safe("; ".join(filter(None, parts)))


def _draw_legend(root: Element, top: int) -> None:
    SubElement(root, "path", {"class": "rule", "d": f"M{_MARGIN} {top} h{5 * 136 - 8}"})
    entries = (
        ("card", "", "verified"),
        ("card", "unbelieved", "not verified"),
        ("card", "asked", "asked for"),
        ("bar good", "", "allowed"),
        ("bar bad", "", "refused"),
    )
    for place, (name, around, word) in enumerate(entries):
        x = _MARGIN + 136 * place
        group = SubElement(root, "g", {"class": f"node {around}".strip()})
        if name == "card":
            _rectangle(group, name, x, top + 16, 26, 16, 4)
        else:
            _rectangle(group, name, x + 11, top + 16, 3, 16, 1)
        _text(root, "note", x + 34, top + 28, word)


def _draw_marker(root: Element) -> None:
    size = {"viewBox": "0 0 8 8", "refX": "2", "refY": "4", "markerWidth": "7", "markerHeight": "7", "orient": "auto"}
    marker = SubElement(SubElement(root, "defs"), "marker", {"id": "arrow", **size})
    SubElement(marker, "path", {"class": "arrow", "d": "M0 0 L8 4 L0 8 z"})


def _rectangle(parent: Element, name: str, x: int, y: int, width: int, height: int, round_by: int = 0) -> None:
    attributes = {"class": name, "x": str(x), "y": str(y), "width": str(width), "height": str(height)}
    if round_by:
        attributes["rx"] = str(round_by)
    SubElement(parent, "rect", attributes)


def _text(parent: Element, name: str, x: int, y: int, text: str, anchor: str = "") -> None:
    attributes = {"class": name, "x": str(x), "y": str(y)}
    if anchor:
        attributes["text-anchor"] = anchor
    SubElement(parent, "text", attributes).text = text


def _style() -> str:
    dark = "".join(f"  {line}\n" for line in _colours(_DARK))
    rules = (
        f"text {{ font-family: {_FONT}; direction: ltr; unicode-bidi: isolate; }}",
        f".digest {{ font-family: {_MONO}; font-size: 11px; }}",
        ".head { font-size: 20px; font-weight: 600; }",
        ".heading { font-size: 12px; font-weight: 600; }",
        ".kind, .state { font-size: 9px; font-weight: 600; letter-spacing: 0.6px; }",
        ".title { font-size: 13px; font-weight: 600; }",
        ".row, .why, .note { font-size: 11px; }",
        ".card { stroke-width: 1; }",
        ".unbelieved .card, .edge.unbelieved { stroke-dasharray: 5 4; }",
        ".asked .card { stroke-width: 2; }",
        ".edge, .mark, .rule { fill: none; stroke-width: 1.5; }",
        ".rule { stroke-width: 1; }",
        ".mark { stroke-width: 2; stroke-linecap: round; stroke-linejoin: round; }",
        *_colours(_LIGHT),
    )
    return "\n" + "\n".join(rules) + "\n@media (prefers-color-scheme: dark) {\n" + dark + "}\n"


def _colours(palette: Mapping[str, str]) -> Iterable[str]:
    for name in ("paper", "ink", "faint"):
        targets = {"paper": ".paper", "ink": ".head, .title", "faint": ".row, .note, .digest, .heading"}
        yield f"{targets[name]} {{ fill: {palette[name]}; }}"
    for name in ("source", "build", "artifact", "about", "good", "doubtful", "bad"):
        yield f".{name} {{ fill: {palette[name]}; }}"
    yield f".mark.good {{ stroke: {palette['good']}; fill: none; }}"
    yield f".mark.bad {{ stroke: {palette['bad']}; fill: none; }}"
    yield f".card {{ fill: {palette['card']}; stroke: {palette['line']}; }}"
    yield f".unbelieved .card {{ fill: {palette['paper']}; stroke: {palette['bad']}; }}"
    yield f".asked .card {{ fill: {palette['asked']}; stroke: {palette['artifact']}; }}"
    yield f".unbelieved .title {{ fill: {palette['faint']}; }}"
    yield f".why {{ fill: {palette['bad']}; }}"
    yield f".edge {{ stroke: {palette['edge']}; }}"
    yield f".edge.unbelieved {{ stroke: {palette['bad']}; }}"
    yield f".arrow {{ fill: {palette['edge']}; }}"
    yield f".rule {{ stroke: {palette['line']}; }}"


def _wrapped(text: str, size: int, most: int, weight: float = 1.0) -> list[str]:
    """Rows that fit into a box; the last one is cut where there would be more."""
    rows, left = list[str](), _safe(text)
    while left and len(rows) < most - 1:
        whole = _fitting(left, _ROOM, size, weight)
        if whole == len(left):
            break
        # After what separates, where that does not leave the row half empty.
        end = max((left.rfind(one, 0, whole) + 1 for one in " /-@:,."), default=0)
        end = end if end > whole // 2 else whole
        rows.append(left[:end].rstrip())
        left = left[end:].lstrip()
    return [*rows, _fit(left, _ROOM, size, weight)] if left else rows


def _fit(text: str, room: int, size: int, weight: float = 1.0) -> str:
    """The text, cut with an ellipsis where it is wider than the room."""
    text = _safe(text)
    if _fitting(text, room, size, weight) == len(text):
        return text
    return text[: _fitting(text, room - size * weight * _OTHER / 1000, size, weight)].rstrip() + "…"


def _fitting(text: str, room: float, size: int, weight: float) -> int:
    """How many of its characters fit."""
    left = room * 1000 / (size * weight)
    for place, one in enumerate(text):
        left -= _ADVANCES.get(one, _OTHER)
        if left < 0:
            return place
    return len(text)


def _fixed(text: str, room: int) -> str:
    text, most = _safe(text), room * 1000 // (11 * _FIXED)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _short_digest(digest: str) -> str:
    algorithm, _, value = digest.partition(":")
    return _fixed(f"{algorithm}:{value[:12]}…{value[-6:]}" if len(value) > 24 else digest, _ROOM)


def _safe(text: str) -> str:
    """At most so many visible characters: no control, no direction, no half pair, none that XML has not."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text[:_MAX_TOLD])
