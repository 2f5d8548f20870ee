"""The chain of provenance as a graph: what is in it, and what is not taken for true."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.client.provenance_graph import (
    FEW,
    MAX_ALIKE,
    DeployDecision,
    Node,
    NodeKind,
    ProvenanceGraph,
    SignedStatement,
    Tone,
    build_graph,
    dependency_digests,
    limited,
)
from sealkeeper.verify.statement import Statement, Subject
from tests.client.provenance_samples import (
    ALLOWED,
    APP,
    COMMIT,
    EVERYTHING,
    EXCEPTED,
    OF_LIB1,
    PROVENANCE,
    REFUSED,
    SPDX,
    VULNS,
    believed,
    digest,
    provenance,
    sbom,
    scan,
    statement,
    subject,
    unbelieved,
    whole,
)
from tests.verify.predicates.samples import PROVENANCE_V0_2

ASKED = digest("app")


def of_kind(graph: ProvenanceGraph, kind: NodeKind) -> list[Node]:
    return [one for one in graph.nodes if one.kind is kind]


def only(graph: ProvenanceGraph, kind: NodeKind) -> Node:
    [one] = of_kind(graph, kind)
    return one


def about(*statements: SignedStatement, show_all: bool = False) -> ProvenanceGraph:
    return build_graph(ASKED, {ASKED: statements}, show_all=show_all)


def test_the_whole_chain_is_there_from_source_to_decisions() -> None:
    graph = whole()
    names = {one.id: f"{one.kind} {one.title}" for one in graph.nodes}
    assert [(names[one.tail], one.relation, names[one.head]) for one in graph.edges] == [
        ("source github.com/acme/app", "built", "build ci.example/hosted"),
        ("dependency pkg:pypi/lib1", "used", "build ci.example/hosted"),
        ("dependency pkg:pypi/lib2", "used", "build ci.example/hosted"),
        ("build ci.example/hosted", "made", "artifact app"),
        ("build ci.example/hosted", "made", "artifact app.tar.gz"),
        ("artifact app", "about", "sbom SPDX 2.3"),
        ("artifact app", "about", "scan 1 critical, 2 high"),
        ("artifact app", "about", "test FAILED"),
        ("artifact app", "about", "release pkg:oci/app@1.4.0"),
        ("artifact app", "about", "summary PASSED"),
        ("artifact app", "about", "signature of the artifact"),
        ("artifact app", "about", "attestation acme.example/review/v1"),
        ("artifact app", "about", "attestation CycloneDX bill of materials"),
        ("source github.com/acme/lib1", "built", "build ci.example/hosted"),
        ("dependency pkg:pypi/lib3", "used", "build ci.example/hosted"),
        ("build ci.example/hosted", "made", "dependency pkg:pypi/lib1"),
        ("artifact app", "contains", "index-child linux/amd64"),
        ("artifact app", "decided", "decision refused for us"),
        ("artifact app", "decided", "decision allowed for eu"),
        ("artifact app", "decided", "decision allowed, policy not fulfilled"),
    ]
    assert [one.asked for one in of_kind(graph, NodeKind.ARTIFACT)] == [True, False]
    assert graph.verified


def test_a_source_has_its_repository_ref_and_whole_commit() -> None:
    source = only(about(EVERYTHING[0]), NodeKind.SOURCE)
    assert source.facts == {"repository": "https://github.com/acme/app", "ref": "refs/heads/main", "commit": COMMIT}
    assert source.lines == ("refs/heads/main", "commit 7fd1a60b01f9")


def test_a_source_that_only_the_parameters_name_is_found_and_is_no_dependency() -> None:
    graph = about(believed(statement("https://slsa.dev/provenance/v0.2", PROVENANCE_V0_2)))
    assert only(graph, NodeKind.SOURCE).facts["repository"] == "https://example.com/example-1.2.3.tar.gz"
    assert len(of_kind(graph, NodeKind.DEPENDENCY)) == 1  # the material of the same address, once


@pytest.mark.parametrize("user", ["me:secret", "me:secret" * 40])
def test_the_name_of_a_user_in_an_address_is_shown_nowhere(user: str) -> None:
    graph = about(believed(statement(PROVENANCE, provenance(repository=f"https://{user}@git.example/app"))))
    assert only(graph, NodeKind.ATTESTATION).why_not.startswith("it is signed, but the repository 'git+https://")
    shown = repr([(one.title, one.lines, one.facts, one.why_not) for one in graph.nodes])
    assert "secret" not in shown


def test_provenance_that_names_two_repositories_is_not_believed_and_none_of_them_is_shown() -> None:
    torn = provenance(["lib1"])
    torn["buildDefinition"]["externalParameters"]["workflow"]["repository"] = "https://github.com/acme/other"
    one = believed(statement(PROVENANCE, torn))
    graph = about(one)
    [_, node] = graph.nodes
    assert node.kind is NodeKind.ATTESTATION
    assert node.why_not.startswith("it is signed, but the provenance names two repositories as its source")
    assert not graph.verified
    assert list(dependency_digests(one)) == []


def test_spellings_of_one_repository_are_one_source() -> None:
    told = provenance(repository="https://GitHub.com/acme/app.git")
    told["buildDefinition"]["externalParameters"]["workflow"]["repository"] = "https://github.com/acme/app"
    source = only(about(believed(statement(PROVENANCE, told))), NodeKind.SOURCE)
    assert source.facts == {"repository": "https://github.com/acme/app", "ref": "refs/heads/main", "commit": COMMIT}


@pytest.mark.parametrize("kind_and_predicate", [(PROVENANCE, provenance(["lib1"])), (SPDX, sbom()), (VULNS, scan())])
def test_what_is_not_verified_says_so_and_nothing_of_what_it_claims(
    kind_and_predicate: tuple[str, dict[str, object]],
) -> None:
    graph = about(unbelieved(statement(*kind_and_predicate, APP, subject("other"))))
    [asked, node] = graph.nodes
    assert (asked.title, node.kind, node.why_not) == ("artifact", NodeKind.ATTESTATION, "signature: it does not fit")
    assert node.lines == ()
    assert node.facts == {"predicateType": kind_and_predicate[0]}
    assert not graph.verified


def test_a_verified_statement_that_is_not_what_its_type_says_is_not_believed() -> None:
    graph = about(believed(statement(PROVENANCE, {"buildDefinition": {}})))
    [_, node] = graph.nodes
    assert node.kind is NodeKind.ATTESTATION
    assert node.why_not.startswith("it is signed, but is not what its type says: ")
    assert not graph.verified


def test_decisions_alone_verify_nothing() -> None:
    assert not build_graph(ASKED, {}, [ALLOWED]).verified


def test_what_is_verified_about_a_dependency_verifies_nothing_of_the_artifact() -> None:
    bad = unbelieved(EVERYTHING[0].statement)
    assert not build_graph(ASKED, {ASKED: [bad], digest("lib1"): OF_LIB1}).verified
    of_another = replace(only(about(EVERYTHING[0]), NodeKind.BUILD), depth=1)
    assert not ProvenanceGraph((of_another,), ()).verified


def test_many_dependencies_are_summed_up_unless_all_are_asked_for() -> None:
    names = [f"lib{number}" for number in range(42)]
    one = believed(statement(PROVENANCE, provenance(names)))
    graph = about(one)
    assert len(of_kind(graph, NodeKind.DEPENDENCY)) == FEW
    assert only(graph, NodeKind.MORE).title == "and 37 more dependencies"
    assert len(of_kind(about(one, show_all=True), NodeKind.DEPENDENCY)) == 42
    assert not of_kind(about(one, show_all=True), NodeKind.MORE)


def test_even_all_dependencies_are_bounded() -> None:
    graph = about(believed(statement(PROVENANCE, provenance([f"l{n}" for n in range(MAX_ALIKE + 1)]))), show_all=True)
    assert only(graph, NodeKind.MORE).title == "and 1 more dependency"


def test_dependencies_of_which_more_is_known_are_among_the_few() -> None:
    names = [f"lib{number}" for number in range(9, -1, -1)]
    graph = build_graph(ASKED, {ASKED: [believed(statement(PROVENANCE, provenance(names)))], digest("lib1"): OF_LIB1})
    first = of_kind(graph, NodeKind.DEPENDENCY)[0]
    assert (first.title, first.lines) == ("pkg:pypi/lib1", ("attested: 1 sbom",))


def test_the_asked_artifact_is_shown_among_many_siblings() -> None:
    others = [subject(f"a{number}") for number in range(10)]
    graph = about(believed(statement(PROVENANCE, provenance(), *others, APP)))
    assert [one.title for one in of_kind(graph, NodeKind.ARTIFACT)] == ["app", "a0", "a1", "a2", "a3", "a4"]
    assert only(graph, NodeKind.MORE).title == "and 5 more artifacts"


def test_the_newest_decisions_are_shown_and_refusals_among_the_others_are_told() -> None:
    many = [replace(ALLOWED, time=ALLOWED.time and ALLOWED.time.replace(minute=one)) for one in range(8)]
    graph = build_graph(ASKED, {}, [replace(REFUSED, time=EXCEPTED.time), *many])
    assert [one.lines[1][-6:] for one in of_kind(graph, NodeKind.DECISION)] == [
        f"0{one}:00Z" for one in (7, 6, 5, 4, 3)
    ]
    more = only(graph, NodeKind.MORE)
    assert (more.title, more.lines) == ("and 4 more decisions", ("1 of them refused",))


@pytest.mark.parametrize(
    ("decision", "tone"),
    [
        (ALLOWED, Tone.GOOD),
        (EXCEPTED, Tone.DOUBTFUL),
        (REFUSED, Tone.BAD),
        (DeployDecision("g", "", "7", True), Tone.BAD),
    ],
)
def test_a_decision_looks_like_what_it_let_happen(decision: DeployDecision, tone: Tone) -> None:
    assert only(build_graph(ASKED, {}, [decision]), NodeKind.DECISION).tone is tone


def test_no_name_is_so_long_that_it_hides_an_outcome() -> None:
    long = DeployDecision("tenants/acme/gates/" + "allowed" * 100, "allowed" * 100, "DENY", False)
    assert only(build_graph(ASKED, {}, [long]), NodeKind.DECISION).title.startswith("refused for allowed")


def test_one_bundle_that_is_found_twice_is_shown_once() -> None:
    one = EVERYTHING[1]
    assert len(of_kind(about(one, replace(one, origin="file again.json")), NodeKind.SBOM)) == 1


def test_dependencies_in_a_circle_come_to_an_end() -> None:
    of_app = believed(statement(PROVENANCE, provenance(["lib1", "app"])), 1)
    of_lib = believed(statement(PROVENANCE, provenance(["app", "lib1"]), subject("lib1")), 2)
    graph = build_graph(ASKED, {ASKED: [of_app], digest("lib1"): [of_lib]})
    assert [one.depth for one in of_kind(graph, NodeKind.BUILD)] == [0, 1]


def test_only_verified_provenance_says_what_to_follow() -> None:
    assert list(dependency_digests(EVERYTHING[0])) == [digest("lib1"), digest("lib2")]
    assert list(dependency_digests(unbelieved(EVERYTHING[0].statement))) == []
    assert list(dependency_digests(EVERYTHING[1])) == []
    assert list(dependency_digests(believed(statement(PROVENANCE, {})))) == []


def test_a_graph_with_too_many_nodes_is_cut_and_a_note_says_so() -> None:
    names = [f"lib{number}" for number in range(500)]
    graph = build_graph(
        ASKED, {ASKED: [believed(statement(PROVENANCE, provenance(names))), *EVERYTHING[1:]]}, [REFUSED], show_all=True
    )
    small = limited(graph, 200)
    assert len(small.nodes) == 196
    assert small.notes == (f"195 of {len(graph.nodes)} things are shown; --json has all",)
    for kind in (NodeKind.SOURCE, NodeKind.BUILD, NodeKind.SBOM, NodeKind.DECISION):
        assert of_kind(small, kind) == of_kind(graph, kind)
    more = only(small, NodeKind.MORE)
    assert more.title == f"{len(graph.nodes) - 195} more"
    assert [(one.tail, one.relation) for one in small.edges if one.tail == more.id] == [(more.id, "used")]


def test_a_graph_that_is_small_enough_stays_as_it_is() -> None:
    graph = whole()
    assert limited(graph, len(graph.nodes)) is graph


names = st.text(max_size=20)
subjects = st.builds(Subject, names, st.sampled_from([dict(subject(one).digests) for one in "abc"]))


@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=8), max_size=4),
    st.lists(subjects, min_size=1, max_size=8),
    st.integers(1, 30),
)
def test_every_edge_has_its_ends_whatever_is_put_together(
    builds: list[list[str]], made: list[Subject], most: int
) -> None:
    said = [believed(Statement(tuple(made), PROVENANCE, provenance(one)), place) for place, one in enumerate(builds)]
    graph = limited(build_graph(digest("a"), {digest(one): said for one in "ab"}), most)
    ids = [one.id for one in graph.nodes]
    assert len(set(ids)) == len(ids) <= max(most, 1 + len({one.layer for one in graph.nodes}))
    assert all({one.tail, one.head} <= set(ids) for one in graph.edges)
    assert graph.asked.digest == digest("a")
