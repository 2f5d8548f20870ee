"""SLSA Verification Summary Attestation: what a verifier decided (https://slsa.dev/spec/v1.2/verification_summary)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sealkeeper.verify.predicates.provenance import read_descriptors
from sealkeeper.verify.predicates.times import read_time
from sealkeeper.verify.statement import ResourceDescriptor, read_descriptor, read_text, read_uri
from sealkeeper.verify.strict_json import JsonError, Value

VERIFICATION_SUMMARY_V1 = "https://slsa.dev/verification_summary/v1"
_TRACK = re.compile(r"(SLSA_[A-Z_]+)_LEVEL_(?:[0-9]+|UNEVALUATED)")


@dataclass(frozen=True, slots=True)
class VerificationSummary:
    """What a verifier decided on an artifact.

    Attributes:
        verifier_id: URI.
        verifier_version: of its parts, by name.
        time_verified: ``None`` where it is not told.
        resource_uri: of the artifact, where its consumers are to fetch it from.
        policy: that was applied; has a URI, and should have a digest.
        input_attestations: that were looked at; each has a digest.
        verification_result: PASSED or FAILED.
        verified_levels: one at most of each SLSA track, and other properties.
        dependency_levels: how many dependencies reached each level; ``None`` where nothing is claimed of them.
        slsa_version: ``MAJOR.MINOR``; empty where it is not told.
    """

    verifier_id: str
    verifier_version: Mapping[str, str]
    time_verified: datetime | None
    resource_uri: str
    policy: ResourceDescriptor
    input_attestations: tuple[ResourceDescriptor, ...] = field(repr=False)
    verification_result: str
    verified_levels: tuple[str, ...]
    dependency_levels: Mapping[str, int] | None
    slsa_version: str

    @property
    def passed(self) -> bool:
        """Whether the artifact fulfils the policy."""
        return self.verification_result == "PASSED"


def read_verification_summary(_predicate_type: str, predicate: Value) -> VerificationSummary:
    """Read a verification summary that its schema has passed.

    Raises:
        JsonError: a time, a URI or a digest is malformed, or the levels contradict themselves or the result.
    """
    verifier = predicate.member("verifier")
    result: str = predicate.member("verificationResult").json
    levels = tuple(one.text() for one in predicate.member("verifiedLevels").items(1000))
    _require_consistent(result, levels)
    dependencies = predicate.optional("dependencyLevels")
    return VerificationSummary(
        read_uri(verifier.member("id")),
        verifier.json.get("version") or {},
        read_time(predicate, "timeVerified"),
        predicate.member("resourceUri").text(),
        read_descriptor(predicate.member("policy")),
        read_descriptors(predicate.optional("inputAttestations")),
        result,
        levels,
        None if dependencies is None else {name: int(one) for name, one in dependencies.json.items()},
        read_text(predicate, "slsaVersion"),
    )


def _require_consistent(result: str, levels: tuple[str, ...]) -> None:
    if result == "PASSED" and "FAILED" in levels:
        raise JsonError("$.verifiedLevels: has FAILED, but the result is PASSED")
    seen: set[str] = set()
    for place, level in enumerate(levels):
        track = _TRACK.fullmatch(level)
        if track and track[1] in seen:
            raise JsonError(f"$.verifiedLevels[{place}]: is the second level of the track {track[1]}")
        seen |= {track[1]} if track else set()
