"""Typed predicates of in-toto Statements: each is held against a schema, and then read.

>>> read_predicate("https://in-toto.io/attestation/release/v0.1", {"purl": "pkg:pypi/urllib3@2.1.0"})
Release(purl='pkg:pypi/urllib3@2.1.0', package_id='')
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from sealkeeper.verify.errors import PredicateError
from sealkeeper.verify.predicates.cyclonedx import CYCLONEDX_TYPES, read_cyclonedx
from sealkeeper.verify.predicates.findings import SEVERITIES, Finding
from sealkeeper.verify.predicates.provenance import PROVENANCE_V0_2, PROVENANCE_V1, Provenance, read_provenance
from sealkeeper.verify.predicates.release import RELEASE_V0_1, RELEASE_V0_2, Release, read_release
from sealkeeper.verify.predicates.sbom import Sbom
from sealkeeper.verify.predicates.schema import require_valid
from sealkeeper.verify.predicates.spdx import SPDX_TYPES, read_spdx
from sealkeeper.verify.predicates.test_result import TEST_RESULT_V0_1, TestResult, read_test_result
from sealkeeper.verify.predicates.verification_summary import (
    VERIFICATION_SUMMARY_V1,
    VerificationSummary,
    read_verification_summary,
)
from sealkeeper.verify.predicates.vulnerability_scan import (
    COSIGN_VULN_V1,
    VULNS_V0_1,
    VULNS_V0_2,
    VulnerabilityScan,
    read_vulnerability_scan,
)
from sealkeeper.verify.statement import place_and_text
from sealkeeper.verify.strict_json import JsonError, Value

Predicate: TypeAlias = Provenance | VerificationSummary | Sbom | VulnerabilityScan | TestResult | Release


@dataclass(frozen=True, slots=True)
class PredicateKind:
    """A kind of predicate.

    Attributes:
        short_name: for command lines and policies.
        title: for people.
        schemas: the file of the JSON Schema of each predicate type; what is written today is the first.
        read: reads a predicate that its schema has passed.
    """

    short_name: str
    title: str
    schemas: Mapping[str, str]
    read: Callable[[str, Value], Predicate]

    @property
    def types(self) -> tuple[str, ...]:
        """Its predicate types, URIs; the first is the one to write."""
        return tuple(self.schemas)


KINDS = (
    PredicateKind(
        "slsa-provenance",
        "SLSA Provenance",
        {PROVENANCE_V1: "slsa-provenance-v1.schema.json", PROVENANCE_V0_2: "slsa-provenance-v0.2.schema.json"},
        read_provenance,
    ),
    PredicateKind(
        "vsa",
        "SLSA Verification Summary",
        {VERIFICATION_SUMMARY_V1: "slsa-vsa-v1.schema.json"},
        read_verification_summary,
    ),
    PredicateKind("spdx", "SPDX bill of materials", dict.fromkeys(SPDX_TYPES, "spdx.schema.json"), read_spdx),
    PredicateKind(
        "cyclonedx",
        "CycloneDX bill of materials",
        dict.fromkeys(CYCLONEDX_TYPES, "cyclonedx.schema.json"),
        read_cyclonedx,
    ),
    PredicateKind(
        "vulns",
        "Vulnerability scan",
        {
            VULNS_V0_2: "vulns-v0.2.schema.json",
            VULNS_V0_1: "vulns-v0.1.schema.json",
            COSIGN_VULN_V1: "cosign-vuln-v1.schema.json",
        },
        read_vulnerability_scan,
    ),
    PredicateKind("test-result", "Test result", {TEST_RESULT_V0_1: "test-result-v0.1.schema.json"}, read_test_result),
    PredicateKind(
        "release", "Release", dict.fromkeys((RELEASE_V0_1, RELEASE_V0_2), "release.schema.json"), read_release
    ),
)
_BY_TYPE = {predicate_type: kind for kind in KINDS for predicate_type in kind.types}
_BY_NAME = {kind.short_name: kind for kind in KINDS}


def kind_of(predicate_type: str) -> PredicateKind | None:
    """The kind of a predicate type; ``None`` where it is not known."""
    return _BY_TYPE.get(predicate_type)


def by_short_name(name: str) -> PredicateKind | None:
    """The kind of that name, as ``slsa-provenance``; ``None`` where there is none."""
    return _BY_NAME.get(name)


def validate_predicate(predicate_type: str, predicate: Mapping[str, Any]) -> None:
    """Hold a predicate against its type; of a type that is not known it only has to be an object.

    Args:
        predicate_type: URI.
        predicate: of JSON's types, as ``parse_statement`` has it.

    Raises:
        PredicateError: it is not what its type says; names the places.
    """
    read_predicate(predicate_type, predicate)


def read_predicate(predicate_type: str, predicate: Mapping[str, Any]) -> Predicate | None:
    """Read a predicate; ``None`` where its type is not known.

    Args:
        predicate_type: URI.
        predicate: of JSON's types, as ``parse_statement`` has it.

    Raises:
        PredicateError: it is not what its type says; names the places.
    """
    if not isinstance(predicate, Mapping):
        raise PredicateError("$", "must be an object")
    kind = kind_of(predicate_type)
    if kind is None:
        return None
    document = dict(predicate)
    require_valid(kind.schemas[predicate_type], document)
    try:
        return kind.read(predicate_type, Value(document))
    except JsonError as error:
        raise PredicateError(*place_and_text(error)) from None


__all__ = [
    "KINDS",
    "SEVERITIES",
    "Finding",
    "Predicate",
    "PredicateKind",
    "Provenance",
    "Release",
    "Sbom",
    "TestResult",
    "VerificationSummary",
    "VulnerabilityScan",
    "by_short_name",
    "kind_of",
    "read_predicate",
    "validate_predicate",
]
