"""Bills of materials, in outline: what SPDX and CycloneDX documents have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from sealkeeper.verify.predicates.findings import Finding
from sealkeeper.verify.strict_json import JsonError, Value


@dataclass(frozen=True, slots=True)
class Sbom:
    """A bill of materials.

    Attributes:
        format: ``SPDX`` or ``CycloneDX``.
        version: of the format.
        name: of the document, or of what it describes; empty where it is not told.
        created: ``None`` where it is not told.
        tools: that made it: names, with versions where they are told.
        components: how many: packages of SPDX; components of CycloneDX, those within others as well.
        dependencies: how many: which component depends on which other.
        vulnerabilities: that the document tells of (CycloneDX; VEX where they have a state).
    """

    format: str
    version: str
    name: str
    created: datetime | None
    tools: tuple[str, ...]
    components: int
    dependencies: int
    vulnerabilities: tuple[Finding, ...] = field(default=(), repr=False)


def require_version(predicate_type: str, base: str, value: Value, version: str) -> None:
    """Where a predicate type says of which version the document is, it must be.

    Args:
        predicate_type: ``base``, or ``base`` with ``/v`` and a version or the beginning of one.
        base: of the format.
        value: where the document says its version.
        version: what it says.

    Raises:
        JsonError: it is another.
    """
    _, _, wanted = predicate_type.partition(f"{base}/v")
    if wanted and version != wanted and not version.startswith(f"{wanted}."):
        raise JsonError(f"{value.path}: must be {wanted}, as the predicate type says")
