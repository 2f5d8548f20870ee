"""What a gate answers, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from sealkeeper.verify.gate.policy import Mode

_MAX_MESSAGE = 4000


class Outcome(StrEnum):
    """May it run?"""

    ALLOW = "ALLOW"
    DENY = "DENY"


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a gate is asked about.

    Attributes:
        name: as people call it, for example an image reference; not believed.
        digests: lower-case hexadecimal, by in-toto name of the algorithm; all of the one artifact.
        children: of an image index, its images.
    """

    name: str
    digests: Mapping[str, str]
    children: tuple[Artifact, ...] = ()

    @property
    def digest(self) -> str:
        """The strongest of the digests: algorithm, a colon and hexadecimal digits."""
        algorithm = max(self.digests, key=lambda one: (one.startswith("sha"), len(self.digests[one])))
        return f"{algorithm}:{self.digests[algorithm]}"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why not.

    Attributes:
        code: stable, upper snake case.
        message: what was wanted and what was found, for a developer; one line of at most 4000 characters.
        next_step: what to do.
    """

    code: str
    message: str
    next_step: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", _one_line(self.message))


@dataclass(frozen=True, slots=True)
class RuleResult:
    """What came of one rule.

    Attributes:
        rule: its place in the policy: ``provenance.source.repository``.
        passed: it is fulfilled.
        detail: what was found, for a person.
        reasons: why not; empty where it passed.
    """

    rule: str
    passed: bool
    detail: str
    reasons: tuple[Reason, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "rule", _one_line(self.rule))
        object.__setattr__(self, "detail", _one_line(self.detail))


def _one_line(text: str) -> str:
    """What others have written is told to people, in logs and on terminals: it must not look like anything else."""
    return "".join(one if one.isprintable() else "\ufffd" for one in text[:_MAX_MESSAGE])


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the policy says of an artifact, before its mode and exceptions are looked at.

    Attributes:
        results: of all rules, in order.
        level: SLSA build level that its provenance reaches; 0 for none.
        attestations: SHA-256 of the bundles that counted.
    """

    results: tuple[RuleResult, ...]
    level: int = 0
    attestations: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Every rule is fulfilled, and there is one."""
        return bool(self.results) and all(one.passed for one in self.results)

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why not."""
        return tuple(reason for one in self.results for reason in one.reasons)


@dataclass(frozen=True, slots=True)
class Decision:
    """A gate's answer.

    Attributes:
        outcome: whether it may run.
        verdict: what the policy says.
        mode: of the policy: a DENY is one with ``enforce`` only.
        artifact: that was asked about.
        environment: where it is to run.
        time: of the decision.
        policy_digest: SHA-256 of the policy's text.
        policy_name: and version, where it is known by one.
        exception: name of the exception that lets it through; empty where none was needed.
        trust_time: when the trust root was made; ``None`` where it does not say.
        offline: the trust root was the last one, with no newer one to be had.
    """

    outcome: Outcome
    verdict: Verdict
    mode: Mode
    artifact: Artifact
    environment: str
    time: datetime
    policy_digest: bytes = field(repr=False)
    policy_name: str = ""
    exception: str = ""
    trust_time: datetime | None = None
    offline: bool = False

    @property
    def warnings(self) -> tuple[Reason, ...]:
        """What would have been refused, but for the mode or an exception."""
        return self.verdict.reasons if self.outcome is Outcome.ALLOW else ()

    @property
    def levels(self) -> tuple[str, ...]:
        """Verified SLSA levels as a VSA names them (https://slsa.dev/spec/v1.0/verification_summary)."""
        if not self.verdict.passed:
            return ()
        return (f"SLSA_BUILD_LEVEL_{self.verdict.level}",) if self.verdict.level else ("SLSA_BUILD_LEVEL_UNEVALUATED",)
