"""Test results and releases, as they are read."""

from __future__ import annotations

import pytest

from sealkeeper.verify.predicates import Release, TestResult, read_predicate
from sealkeeper.verify.statement import ResourceDescriptor
from tests.verify.predicates.samples import RELEASE, TEST_RESULT


def test_a_test_result_is_read() -> None:
    assert read_predicate("https://in-toto.io/attestation/test-result/v0.1", TEST_RESULT) == TestResult(
        result="PASSED",
        configuration=(
            ResourceDescriptor(
                name=".github/workflows/ci.yml",
                digests={"gitBlob": "ebe4add40f63c3c98bc9b32ff1e736f04120b023"},
                download_location="https://github.com/in-toto/in-toto/blob/d20ace79/.github/workflows/ci.yml",
            ),
        ),
        url="https://github.com/in-toto/in-toto/actions/runs/4425592351",
        passed_tests=("build (3.7, ubuntu-latest, py)", "build (3.x, ubuntu-latest, lint)"),
        warned_tests=(),
        failed_tests=(),
    )


@pytest.mark.parametrize("version", ["v0.1", "v0.2"])
@pytest.mark.parametrize("name", ["packageId", "releaseId"])
def test_a_release_is_read_by_the_old_and_the_new_name_of_its_identifier(version: str, name: str) -> None:
    predicate = {"purl": RELEASE["purl"], name: "1234567890"}
    assert read_predicate(f"https://in-toto.io/attestation/release/{version}", predicate) == Release(
        "pkg:npm/@angular/http@7.2.16", "1234567890"
    )


@pytest.mark.parametrize(
    "purl",
    [
        "pkg:pypi/urllib3@2.1.0",
        "pkg:oci/my-image@sha256%3Afedcba09?repository_url=registry.example.com/my-project/my-image&tag=v1.2.3",
        "pkg:golang/google.golang.org/genproto@abcdedf#googleapis/api/annotations",
    ],
)
def test_package_urls_of_all_parts_are_read(purl: str) -> None:
    assert read_predicate("https://in-toto.io/attestation/release/v0.1", {"purl": purl}) == Release(purl, "")
