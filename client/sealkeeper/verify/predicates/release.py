"""in-toto release, versions 0.1 and 0.2 (in-toto attestation spec, predicates/release)."""

from __future__ import annotations

from dataclasses import dataclass

from sealkeeper.verify.statement import read_text
from sealkeeper.verify.strict_json import JsonError, Value

RELEASE_V0_1 = "https://in-toto.io/attestation/release/v0.1"
RELEASE_V0_2 = "https://in-toto.io/attestation/release/v0.2"


@dataclass(frozen=True, slots=True)
class Release:
    """Which release of a package the artifacts make up.

    Attributes:
        purl: package URL, with a version.
        package_id: the same for all releases of a package; ``releaseId`` in version 0.1. Empty where it is not told.
    """

    purl: str
    package_id: str


def read_release(_predicate_type: str, predicate: Value) -> Release:
    """Read a release that its schema has passed.

    Raises:
        JsonError: it has both names of the identifier, with different values.
    """
    package, release = read_text(predicate, "packageId"), read_text(predicate, "releaseId")
    if package and release and package != release:
        raise JsonError("$.releaseId: is not packageId, which is its new name")
    return Release(predicate.member("purl").text(), package or release)
