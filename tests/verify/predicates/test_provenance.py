"""SLSA Provenance, as it is read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from sealkeeper.verify.errors import PredicateError
from sealkeeper.verify.predicates import Provenance, read_predicate
from sealkeeper.verify.statement import ResourceDescriptor
from tests.verify.predicates.samples import PROVENANCE_V0_2, PROVENANCE_V1, SHA256

V1 = "https://slsa.dev/provenance/v1"
V0_2 = "https://slsa.dev/provenance/v0.2"


def read(predicate_type: str, predicate: dict[str, Any]) -> Provenance:
    found = read_predicate(predicate_type, predicate)
    assert isinstance(found, Provenance)
    return found


def test_version_1_is_read() -> None:
    assert read(V1, PROVENANCE_V1) == Provenance(
        version="1",
        build_type="https://slsa-framework.github.io/github-actions-buildtypes/workflow/v1",
        external_parameters={"repository": "https://github.com/octocat/hello-world", "ref": "refs/heads/main"},
        internal_parameters={"github": {"event_name": "push"}},
        resolved_dependencies=(
            ResourceDescriptor(
                uri="git+https://github.com/octocat/hello-world@refs/heads/main",
                digests={"gitCommit": "7fd1a60b01f91b314f59955a4e4d4e80d8edf11d"},
            ),
        ),
        builder_id="https://github.com/actions/runner/github-hosted",
        builder_version={"runner": "2.311.0"},
        invocation_id="https://github.com/octocat/hello-world/actions/runs/1536140711/attempts/1",
        started_on=datetime(2023, 1, 1, 12, 34, 56, tzinfo=UTC),
        finished_on=datetime(2023, 1, 1, 12, 34, 57, tzinfo=UTC),
        byproducts=(ResourceDescriptor(name="log", digests={"sha256": SHA256}),),
    )


@pytest.mark.parametrize("empty", [{}, {"metadata": None, "byproducts": None}, {"metadata": {}, "byproducts": []}])
def test_what_is_not_there_null_and_empty_are_the_same(empty: dict[str, Any]) -> None:
    least = {
        "buildDefinition": {"buildType": "https://example.com/make", "externalParameters": {}},
        "runDetails": {"builder": {"id": "https://example.com/builder"}} | empty,
    }
    assert read(V1, least) == Provenance(
        "1", "https://example.com/make", {}, {}, (), "https://example.com/builder", {}, "", None, None, ()
    )


def test_version_0_2_is_read_as_its_successor_says() -> None:
    archive = ResourceDescriptor(uri="https://example.com/example-1.2.3.tar.gz", digests={"sha256": SHA256})
    assert read(V0_2, PROVENANCE_V0_2) == Provenance(
        version="0.2",
        build_type="https://example.com/Makefile",
        external_parameters={
            "CFLAGS": "-O3",
            "entryPoint": "src:foo",
            "source": "https://example.com/example-1.2.3.tar.gz",
        },
        internal_parameters={"arch": "amd64"},
        resolved_dependencies=(archive, archive),
        builder_id="mailto:person@example.com",
        builder_version={},
        invocation_id="7",
        started_on=datetime(2022, 1, 1, tzinfo=UTC),
        finished_on=datetime(2022, 1, 1, tzinfo=UTC),
        byproducts=(),
    )


def test_a_parameter_does_not_stand_for_the_source_of_the_build() -> None:
    invocation = PROVENANCE_V0_2["invocation"] | {"parameters": {"source": "https://evil.example", "entryPoint": "x"}}
    found = read(V0_2, PROVENANCE_V0_2 | {"invocation": invocation})
    assert found.external_parameters == {
        "source": "https://example.com/example-1.2.3.tar.gz",
        "entryPoint": "src:foo",
    }


@pytest.mark.parametrize("invocation", [..., None, {}, {"configSource": {}}, {"configSource": None}])
def test_version_0_2_with_no_more_than_it_must_have_is_read(invocation: object) -> None:
    least = {"builder": {"id": "https://example.com/builder"}, "buildType": "https://example.com/make"}
    found = read(V0_2, least if invocation is ... else least | {"invocation": invocation})
    assert (found.external_parameters, found.resolved_dependencies, found.started_on) == ({}, (), None)
    # What is read is the caller's, and stays as it is.
    assert "invocation" not in least


def test_the_invocation_is_read_by_the_name_that_builders_write() -> None:
    # slsa-github-generator v2.0.0 writes buildInvocationID, as in-toto's Go library has it.
    run = PROVENANCE_V1["runDetails"] | {"metadata": {"invocationID": "8791219359-1"}}
    assert read(V1, PROVENANCE_V1 | {"runDetails": run}).invocation_id == "8791219359-1"
    metadata = {"buildInvocationID": "8791219359-1"}
    assert read(V0_2, PROVENANCE_V0_2 | {"metadata": metadata}).invocation_id == "8791219359-1"
    with pytest.raises(PredicateError, match=r"^\$\.metadata\.buildInvocationID: must be string"):
        read(V0_2, PROVENANCE_V0_2 | {"metadata": {"buildInvocationID": 1}})


def test_times_at_the_ends_of_the_calendar_are_compared() -> None:
    metadata = {"startedOn": "0001-01-01T00:00:00+23:59", "finishedOn": "9999-12-31T23:59:59-23:59"}
    run = PROVENANCE_V1["runDetails"] | {"metadata": metadata}
    assert read(V1, PROVENANCE_V1 | {"runDetails": run}).started_on is not None
