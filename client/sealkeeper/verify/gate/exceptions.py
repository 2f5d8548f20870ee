"""Exceptions: an artifact, or several by their names, that may run for a time although the policy refuses them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sealkeeper.verify.gate.decision import Artifact
from sealkeeper.verify.gate.patterns import Pattern


@dataclass(frozen=True, slots=True)
class GateException:
    """An exception that others have approved.

    Attributes:
        name: ``tenants/{tenant}/gates/{gate}/exceptions/{exception}``.
        digest: of the artifact, ``sha256:…``; empty where it is by name.
        pattern: of the artifact's name; ``None`` where it is by digest.
        environment: where it is for; empty for all.
        reason: why, in the words of who asked for it.
        start: from when on.
        end: until when.
    """

    name: str
    digest: str
    pattern: Pattern | None
    environment: str
    reason: str
    start: datetime
    end: datetime

    def covers(self, artifact: Artifact, environment: str, moment: datetime) -> bool:
        """Whether it lets the artifact run there and then."""
        if not self.start <= moment < self.end or self.environment not in ("", environment):
            return False
        if self.digest:
            algorithm, _, value = self.digest.partition(":")
            return artifact.digests.get(algorithm) == value
        return self.pattern is not None and self.pattern.fits(artifact.name)


def applying(
    exceptions: Sequence[GateException], artifact: Artifact, environment: str, now: datetime, *, revoked: bool = False
) -> GateException | None:
    """The one that applies; one by digest before one by name.

    Args:
        exceptions: of the gate.
        artifact: that is refused.
        environment: where it is to run.
        now: UTC.
        revoked: the policy revokes the artifact: then it takes one by digest, whose approvers had just this in mind.
    """
    found = [one for one in exceptions if one.covers(artifact, environment, now) and (one.digest or not revoked)]
    return min(found, key=lambda one: (not one.digest, one.name), default=None)
