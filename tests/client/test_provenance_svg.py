"""The chain of provenance as a picture: well-formed, harmless, nothing over anything else."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealkeeper.client.provenance_graph import Column, Edge, Node, NodeKind, ProvenanceGraph, Tone, build_graph
from sealkeeper.client.provenance_svg import MAX_NODES, provenance_svg
from sealkeeper.verify.statement import Subject
from tests.client.provenance_samples import (
    ALLOWED,
    EVERYTHING,
    PROVENANCE,
    believed,
    digest,
    provenance,
    statement,
    unbelieved,
    whole,
)

NAMESPACE = "{http://www.w3.org/2000/svg}"
Element = ET.Element
HOSTILE = [
    "\x00\x1b[2J\x07",
    "]]><script>alert(1)</script>",
    '"/><script xlink:href="https://evil.example/x.js"/>',
    "<!ENTITY a SYSTEM 'file:///etc/passwd'>&a;&#0;",
    "\u202egnp.exe\u2066",
    "\ud800 half a pair \ufffe\uffff",
    "W" * 5000,
    "\ufdfd" * 300,
    "@import url(https://evil.example/a.css);",
    "",
]


def drawn(graph: ProvenanceGraph) -> Element:
    return ET.fromstring(provenance_svg(graph))


def nodes_of(root: Element) -> list[Element]:
    return root.findall(f"{NAMESPACE}svg")


def words(element: Element) -> list[str]:
    return [one.text or "" for one in element.iter(f"{NAMESPACE}text")]


def node_of(root: Element, word: str) -> Element:
    [one] = [one for one in nodes_of(root) if word in words(one)]
    return one


def place(element: Element) -> tuple[int, int, int, int]:
    x, y, width, height = (int(element.attrib[one]) for one in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


def require_apart(root: Element) -> None:
    """Every box is within the picture, and none over another."""
    _, _, right, bottom = map(int, root.attrib["viewBox"].split())
    boxes = [place(one) for one in nodes_of(root)]
    for left, top, end, low in boxes:
        assert 0 <= left < end <= right
        assert 0 <= top < low <= bottom
    for one, other in combinations(boxes, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def test_every_node_is_drawn_with_what_it_is_for_who_cannot_see_it() -> None:
    graph = whole()
    boxes = nodes_of(drawn(graph))
    assert len(boxes) == len(graph.nodes)
    for box in boxes:
        title = box.find(f"{NAMESPACE}title")
        assert title is not None
        assert box.attrib["role"] == "img"
        assert title.text == box.attrib["aria-label"] != ""
    told = next(one.attrib["aria-label"] for one in boxes if "asked" in one.attrib["class"].split())
    assert told == f"artifact; app; {digest('app')}"


def test_the_columns_go_from_source_to_decisions() -> None:
    root = drawn(whole())
    headings = [one for one in root.findall(f"{NAMESPACE}text") if one.attrib["class"] == "heading"]
    assert [one.text for one in headings] == [
        "Their sources and dependencies",
        "Builds of dependencies",
        "Source and dependencies",
        "Build",
        "Artifact",
        "What is known of it",
        "Deploy decisions",
    ]
    lefts = [int(one.attrib["x"]) for one in headings]
    assert lefts == sorted(lefts)
    assert place(node_of(root, "SPDX 2.3"))[0] == lefts[5]
    require_apart(root)


def test_what_is_not_verified_is_drawn_otherwise() -> None:
    root = drawn(whole())
    bad = [one for one in nodes_of(root) if "unbelieved" in one.attrib["class"].split()]
    assert bad == [node_of(root, "CycloneDX bill of materials")]
    assert "NOT VERIFIED" in words(bad[0])
    assert "VERIFIED" not in words(bad[0])
    assert bad[0].attrib["aria-label"].startswith("not verified: signature: it does not fit; ")
    dashed = [one for one in root.findall(f"{NAMESPACE}path") if one.attrib["class"] == "edge unbelieved"]
    assert len(dashed) == 1


def test_a_decision_does_not_look_verified() -> None:
    box = node_of(drawn(build_graph(digest("app"), {}, [ALLOWED])), "allowed for eu")
    assert words(box) == ["DECISION", "allowed for eu", "by production", "2026-06-01 13:00:00Z"]


def test_the_same_graph_gives_the_same_bytes_in_every_process() -> None:
    script = (
        "import hashlib; from tests.client.provenance_samples import whole;"
        "from sealkeeper.client.provenance_svg import provenance_svg;"
        "print(hashlib.sha256(provenance_svg(whole())).hexdigest())"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed, "PATH": ""}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1


def test_it_has_no_scripts_no_links_and_nothing_from_elsewhere() -> None:
    picture = provenance_svg(whole()).decode()
    root = ET.fromstring(picture)
    kinds = {one.tag.removeprefix(NAMESPACE) for one in root.iter()}
    assert kinds == {"svg", "title", "style", "defs", "marker", "path", "rect", "text", "g"}
    names = {name for one in root.iter() for name in one.attrib}
    assert not [one for one in names if one.startswith("on") or "href" in one or one == "style"]
    [style] = [one.text or "" for one in root.iter(f"{NAMESPACE}style")]
    assert "url(" not in style
    assert "@import" not in style
    assert re.findall(r"url\([^)]*\)", picture) == ["url(#arrow)"] * picture.count("url(")


def test_it_is_light_or_dark_as_its_reader_wants() -> None:
    [style] = [one.text or "" for one in drawn(whole()).iter(f"{NAMESPACE}style")]
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    classes = re.compile(r"^\s*(\.[\w.,\s]+?) \{ (?:fill|stroke): #", re.MULTILINE)
    assert set(classes.findall(dark)) == set(classes.findall(light)) != set()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_harmless_wherever_it_stands(name: str) -> None:
    text = name or "x"
    said = provenance([], f"https://{text}")
    said["runDetails"]["metadata"]["invocationId"] = text[:4000]
    one = replace(believed(statement(PROVENANCE, said, Subject(name, {"sha256": digest("app")[7:]}))), who=name)
    bad = replace(unbelieved(None, 1, why=text), origin=name)
    decision = replace(ALLOWED, gate=name, environment=name, reasons=(name,))
    graph = build_graph(digest("app"), {digest("app"): [one, bad]}, [decision], notes=[name])
    root = drawn(graph)
    assert {one.tag for one in root.iter()} == {one.tag for one in drawn(whole()).iter()}
    shown = "".join(one.text or "" for one in root.iter() if one.tag != f"{NAMESPACE}style")
    assert shown.isprintable()
    assert all(value.isprintable() for one in root.iter() for value in one.attrib.values())
    assert all(len(value) <= 1000 for one in root.iter() for value in one.attrib.values())
    assert len(provenance_svg(graph)) < 60_000
    require_apart(root)


def test_long_text_is_cut_to_its_box() -> None:
    graph = build_graph(digest("app"), {digest("app"): EVERYTHING}, name="W" * 300)
    for box in nodes_of(drawn(graph)):
        for row in box.iter(f"{NAMESPACE}text"):
            wide = row.attrib["class"].split()[0]
            # A W takes 0.99 of the font's size, and bold ones more.
            assert (row.text or "").count("W") * {"title": 13 * 1.1}.get(wide, 11) <= 272 - 34
    assert any("…" in one for one in words(drawn(graph)))


def test_what_a_font_makes_wider_is_cut_off_by_the_box() -> None:
    # A nested svg element is a viewport that clips, unless something says otherwise.
    root = drawn(whole())
    [style] = [one.text or "" for one in root.iter(f"{NAMESPACE}style")]
    assert "overflow" not in style
    assert not [one for one in root.iter() if "overflow" in one.attrib]


def test_too_many_nodes_are_summed_up_and_said_so() -> None:
    names = [f"lib{number}" for number in range(1000)]
    one = believed(statement(PROVENANCE, provenance(names)))
    root = drawn(build_graph(digest("app"), {digest("app"): [one]}, show_all=True))
    assert len(nodes_of(root)) <= MAX_NODES
    assert "things are shown" in words(root)[-1]
    require_apart(root)


def test_an_artifact_of_which_nothing_is_known_is_drawn_alone() -> None:
    root = drawn(build_graph(digest("app"), {}))
    assert len(nodes_of(root)) == 1
    require_apart(root)


texts = st.text(max_size=40)


@st.composite
def graphs(draw: Any) -> ProvenanceGraph:
    count = draw(st.integers(1, 40))
    nodes = tuple(
        Node(
            f"n{place}",
            draw(st.sampled_from(NodeKind)),
            draw(texts),
            draw(st.sampled_from(Column)),
            tuple(draw(st.lists(texts, max_size=3))),
            digest=draw(st.sampled_from(["", digest("x"), "x"])),
            tone=draw(st.sampled_from(Tone)),
            signed=draw(st.sampled_from([None, *EVERYTHING])),
            why_not=draw(st.sampled_from(["", "no", "no " * 100])),
            asked=place == 0,
            depth=draw(st.integers(0, 3)),
        )
        for place in range(count)
    )
    ends = st.integers(0, count - 1)
    pairs = draw(st.lists(st.tuples(ends, ends), max_size=60))
    return ProvenanceGraph(nodes, tuple(Edge(f"n{tail}", f"n{head}", "made") for tail, head in pairs))


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_no_box_is_over_another_whatever_the_graph(graph: ProvenanceGraph) -> None:
    root = drawn(graph)
    assert len(nodes_of(root)) == len(graph.nodes)
    require_apart(root)
