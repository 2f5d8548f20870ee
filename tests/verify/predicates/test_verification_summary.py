"""SLSA Verification Summaries, as they are read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from sealkeeper.verify.predicates import VerificationSummary, read_predicate
from sealkeeper.verify.statement import ResourceDescriptor
from tests.verify.predicates.samples import SHA256, VERIFICATION_SUMMARY


def read(predicate: dict[str, Any]) -> VerificationSummary:
    found = read_predicate("https://slsa.dev/verification_summary/v1", predicate)
    assert isinstance(found, VerificationSummary)
    return found


def test_a_verification_summary_is_read() -> None:
    found = read(VERIFICATION_SUMMARY)
    assert found == VerificationSummary(
        verifier_id="https://example.com/publication_verifier",
        verifier_version={"slsa-verifier-linux-amd64": "v2.3.0"},
        time_verified=datetime(1985, 4, 12, 23, 20, 50, 520000, tzinfo=UTC),
        resource_uri="https://example.com/example-1.2.3.tar.gz",
        policy=ResourceDescriptor(uri="https://example.com/example_tarball.policy", digests={"sha256": SHA256}),
        input_attestations=(
            ResourceDescriptor(
                uri="https://example.com/provenances/example-1.2.3.tar.gz.intoto.jsonl", digests={"sha256": SHA256}
            ),
        ),
        verification_result="PASSED",
        verified_levels=("SLSA_BUILD_LEVEL_3",),
        dependency_levels={"SLSA_BUILD_LEVEL_3": 5, "SLSA_BUILD_LEVEL_2": 7, "SLSA_BUILD_LEVEL_1": 1},
        slsa_version="1.0",
    )
    assert found.passed


def test_no_claim_on_dependencies_is_not_a_claim_that_there_are_none() -> None:
    assert read(VERIFICATION_SUMMARY | {"dependencyLevels": None}).dependency_levels is None
    assert read(VERIFICATION_SUMMARY | {"dependencyLevels": {}}).dependency_levels == {}


def test_a_refusal_is_read_with_no_levels_or_failed() -> None:
    for levels in ([], ["FAILED"]):
        failed = read(VERIFICATION_SUMMARY | {"verificationResult": "FAILED", "verifiedLevels": levels})
        assert not failed.passed


@pytest.mark.parametrize(
    "levels",
    [
        ["SLSA_BUILD_LEVEL_UNEVALUATED"],
        ["SLSA_BUILD_LEVEL_2", "SLSA_SOURCE_LEVEL_4", "ORG_REVIEWED", "ORG_REVIEWED_TWICE"],
    ],
)
def test_one_level_of_each_track_and_any_other_property_are_read(levels: list[str]) -> None:
    assert read(VERIFICATION_SUMMARY | {"verifiedLevels": levels}).verified_levels == tuple(levels)
