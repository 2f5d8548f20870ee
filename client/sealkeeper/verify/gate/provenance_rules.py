"""What a policy asks of SLSA provenance. A statement is judged as a whole: parts of several do not make a good one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sealkeeper.verify.errors import PredicateError, VerifyError
from sealkeeper.verify.gate.build_source import BuildSource, build_source, self_hosted
from sealkeeper.verify.gate.decision import Reason, RuleResult
from sealkeeper.verify.gate.evidence import Evidence, Examined
from sealkeeper.verify.gate.patterns import Pattern, repository_of
from sealkeeper.verify.gate.policy import BuilderRule, GatePolicy, ProvenanceRule, SourceRule
from sealkeeper.verify.predicates import Provenance

_MAX_LEAVES = 10_000
_MOST_TOLD = 5
_PROVENANCE = "https://slsa.dev/provenance/"


@dataclass(frozen=True, slots=True)
class Judged:
    """What was said of one provenance.

    Attributes:
        evidence: it.
        results: of each rule.
        level: SLSA build level that it is believed for.
        source: that it names.
    """

    evidence: Evidence
    results: tuple[RuleResult, ...]
    level: int
    source: BuildSource

    @property
    def passed(self) -> bool:
        """It fulfils everything."""
        return all(one.passed for one in self.results)


def judge_provenance(
    rule: ProvenanceRule, policy: GatePolicy, examined: Examined, now: datetime
) -> tuple[tuple[RuleResult, ...], Judged | None]:
    """Judge all provenance, and take the best.

    Returns:
        The results of the best, and it where it fulfils everything.
    """
    judged = [found for one in examined.evidence if (found := _judge(rule, policy, one, now)) is not None]
    believed = [one for one in judged if one.level]
    conflict = _conflict(believed)
    if conflict is not None:
        return (conflict,), None
    best = max(
        judged,
        key=lambda one: (
            *(one.passed, one.level, sum(result.passed for result in one.results)),
            *(one.evidence.made, one.evidence.statement_digest, one.evidence.digest),
        ),
        default=None,
    )
    if best is None:
        return (_missing(policy, examined),), None
    return best.results, best if best.passed else None


def believed_level(policy: GatePolicy, evidence: Evidence, builder_id: str) -> int:
    """SLSA build level up to which signer and builder together are believed; 0 for not at all."""
    return max((one.level for one in _pairs(policy, evidence) if one.id.fits(builder_id)), default=0)


def _pairs(policy: GatePolicy, evidence: Evidence) -> Iterator[BuilderRule]:
    return (one for one in policy.builders if one.signer in evidence.signers)


def _missing(policy: GatePolicy, examined: Examined) -> RuleResult:
    wanted = "; ".join(f"{one.id} signed by {policy.signers[one.signer]}" for one in policy.builders[:_MOST_TOLD])
    # What cannot be read says not even what it is.
    found = [one for one in examined.refused if not one.predicate_type or one.predicate_type.startswith(_PROVENANCE)]
    found.sort(key=lambda one: (not one.predicate_type, one.digest))
    said = "".join(
        f"; found one {f'of {one.who} ' if one.who else ''}in {one.origin}, refused: {one.why}"
        for one in found[:_MOST_TOLD]
    )
    reason = Reason(
        "PROVENANCE_MISSING",
        f"no SLSA provenance from a builder of the policy ({wanted}){said or '; none was found at all'}",
        "build it in CI with: sealkeeper attest --slsa, or see why the one that was found is refused",
    )
    return RuleResult("provenance", False, "none that verifies", (reason,))


def _judge(rule: ProvenanceRule, policy: GatePolicy, evidence: Evidence, now: datetime) -> Judged | None:
    if not evidence.predicate_type.startswith(_PROVENANCE):
        return None
    try:
        provenance = evidence.predicate
        if not isinstance(provenance, Provenance):
            raise PredicateError("$", f"this version of SLSA provenance is not known: {evidence.predicate_type}")
        source = build_source(provenance)
    except VerifyError as error:
        result = _failed("provenance.predicate", "PROVENANCE_INVALID", f"{_who(evidence)}: {error}")
        return Judged(evidence, (result,), 0, BuildSource())
    level = believed_level(policy, evidence, provenance.builder_id)
    results = [_builder(policy, evidence, provenance, level), _level(rule, level)]
    if not level:
        # Anybody can have signed it: nothing else in it is worth the time that it may take.
        return Judged(evidence, tuple(results), 0, source)
    if rule.source is not None:
        results += _source(rule.source, source)
    results += _build(rule, evidence, provenance, source)
    if rule.max_age is not None:
        results.append(_age(rule, evidence, now))
    return Judged(evidence, tuple(results), level, source)


def _builder(policy: GatePolicy, evidence: Evidence, provenance: Provenance, level: int) -> RuleResult:
    if level:
        return RuleResult("provenance.builder", True, f"{provenance.builder_id}, signed by {evidence.who}")
    wanted = [f"{one.id} signed by {policy.signers[one.signer]}" for one in policy.builders[:_MOST_TOLD]]
    return _failed(
        "provenance.builder",
        "PROVENANCE_BUILDER",
        f"no provenance from {' or '.join(wanted)}; found one from {provenance.builder_id} signed by {evidence.who} "
        f"at {evidence.time:%Y-%m-%d %H:%M} UTC",
        "build it with a builder that the policy names, or propose to add this pair to its builders",
    )


def _level(rule: ProvenanceRule, level: int) -> RuleResult:
    if level >= rule.minimum_level:
        return RuleResult("provenance.level", True, f"SLSA build level {level}")
    return _failed(
        "provenance.level",
        "PROVENANCE_LEVEL",
        f"SLSA build level {rule.minimum_level} is required; this signer and builder are believed for {level}",
        "build it with a builder that is believed for that level",
    )


def _source(rule: SourceRule, source: BuildSource) -> Iterator[RuleResult]:
    if rule.repository:
        fits = any(one.fits(source.repository) or _same(one, source.repository) for one in rule.repository)
        yield _matched("source.repository", "SOURCE_REPOSITORY", source.repository, rule.repository, passed=fits)
    if rule.ref:
        yield _matched("source.ref", "SOURCE_REF", source.ref, rule.ref, passed=_fits(rule.ref, source.ref))
    if rule.version is not None:
        tag = source.ref.removeprefix("refs/tags/") if source.ref.startswith("refs/tags/") else ""
        passed = rule.version.holds(tag)
        yield _matched("source.version", "SOURCE_VERSION", tag or source.ref, (rule.version,), passed=passed)


def _same(pattern: Pattern, repository: str) -> bool:
    """Whether the pattern is a spelling of just this repository."""
    try:
        return repository != "" and repository_of(pattern.text) == repository
    except ValueError:
        return False


def _build(
    rule: ProvenanceRule, evidence: Evidence, provenance: Provenance, source: BuildSource
) -> Iterator[RuleResult]:
    if rule.build_type:
        kind = provenance.build_type
        yield _matched("build_type", "BUILD_TYPE", kind, rule.build_type, passed=_fits(rule.build_type, kind))
    if rule.parameters is not None:
        yield _parameters(rule.parameters, provenance.external_parameters)
    if not rule.self_hosted_runners:
        own = self_hosted(provenance, evidence.result.claims)
        yield (
            _failed(
                "provenance.runner",
                "SELF_HOSTED_RUNNER",
                f"it was built on a self-hosted runner ({provenance.builder_id})",
                "build it on a runner of the CI system, or propose self_hosted_runners: true",
            )
            if own
            else RuleResult("provenance.runner", True, "not on a self-hosted runner")
        )
    if rule.claims_match and evidence.result.claims:
        yield _claims(evidence.result.claims, provenance, source)


def _parameters(wanted: Mapping[str, Sequence[Pattern]], found: Mapping[str, Any]) -> RuleResult:
    try:
        values = list(leaves(found))
    except PredicateError as error:
        return _failed("provenance.parameters", "BUILD_PARAMETERS", str(error))
    problems: list[str] = []
    patterns = {Pattern(path.replace(".", "/")): values for path, values in wanted.items()}
    seen: set[str] = set()
    for path, text in values:
        fitting = [(one, values) for one, values in patterns.items() if one.fits(path)]
        seen.update(one.text for one, _ in fitting)
        shown = path.replace("/", ".")[:200]
        if not fitting:
            problems.append(f"{shown} is not a parameter that the policy knows")
        elif not any(_fits(values, text) for _, values in fitting):
            problems.append(f"{shown} is {text[:100]!r}")
    problems += [
        f"{one.text.replace('/', '.')} is missing" for one in patterns if "*" not in one.text and one.text not in seen
    ]
    if not problems:
        return RuleResult("provenance.parameters", True, f"{len(seen)} as the policy has them")
    return _failed(
        "provenance.parameters",
        "BUILD_PARAMETERS",
        f"external parameters are not as the policy has them: {'; '.join(problems[:_MOST_TOLD])}",
        "build it with the parameters of the policy; those that it does not name are refused",
    )


def leaves(value: Any) -> Iterator[tuple[str, str]]:
    """Every text, number and truth value with its path, parts joined by ``/``; items of a list have the list's path.

    In names ``.``, ``/`` and ``%`` are written ``%2E``, ``%2F`` and ``%25``, and an empty name ``%``: it must not make
    two paths alike, or none. Empty objects and lists count as one.

    Raises:
        PredicateError: there are more than 10,000.
    """
    waiting: list[tuple[str, Any]] = [("", value)]
    count = 0
    while waiting:
        path, one = waiting.pop()
        count += 1
        if count > _MAX_LEAVES:
            raise PredicateError("$.buildDefinition.externalParameters", f"has more than {_MAX_LEAVES} values")
        if isinstance(one, Mapping) and one:
            waiting += [(f"{path}/{_escaped(name)}" if path else _escaped(name), inner) for name, inner in one.items()]
        elif isinstance(one, list) and one:
            waiting += [(path, inner) for inner in one]
        elif path:
            yield path, leaf_text(one)


def _escaped(name: str) -> str:
    return "%" if not name else name.replace("%", "%25").replace(".", "%2E").replace("/", "%2F")


def leaf_text(value: Any) -> str:
    """How patterns see a value: ``true``, ``false``, ``null``, a number, a text; ``{}`` and ``[]`` where empty."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "{}"
    return "[]" if isinstance(value, list) else str(value)


def _claims(claims: Mapping[str, str], provenance: Provenance, source: BuildSource) -> RuleResult:
    """Compare what the predicate says with what the CA has seen in the builder's token."""
    problems = []
    repository = claims.get("source_repository_uri", "")
    pairs = [
        ("source repository", _spelled(repository), source.repository),
        ("ref", claims.get("source_repository_ref", ""), source.ref),
        ("commit", claims.get("source_repository_digest", ""), source.commit),
        ("run", claims.get("run_invocation_uri", ""), provenance.invocation_id),
    ]
    # What one of them does not say cannot differ; who signed is what the certificate says in any case.
    problems = [
        f"{name} is {said[:200]!r} in the predicate and {known[:200]!r} in the certificate"
        for name, known, said in pairs
        if known and said and known != said
    ]
    if source.repository and not repository:
        problems.append("the certificate names no source repository")
    if problems:
        return _failed("provenance.claims", "CLAIMS_MISMATCH", "; ".join(problems))
    return RuleResult("provenance.claims", True, "the predicate says what the certificate says")


def _spelled(repository: str) -> str:
    try:
        return repository_of(repository) if repository else ""
    except ValueError:
        return repository


def _age(rule: ProvenanceRule, evidence: Evidence, now: datetime) -> RuleResult:
    return age_result("provenance.age", "PROVENANCE_TOO_OLD", evidence, rule.max_age, now)


def age_result(name: str, code: str, evidence: Evidence, most: Any, now: datetime) -> RuleResult:
    """Whether it was made recently enough."""
    age = now - evidence.made
    if most is None or age <= most:
        return RuleResult(name, True, f"made at {evidence.made.isoformat()}")
    return _failed(
        name,
        code,
        f"made at {evidence.made:%Y-%m-%d %H:%M} UTC, {age.days} days ago; it may be {most} old at most",
        "build, scan or attest it again",
    )


def _conflict(believed: Sequence[Judged]) -> RuleResult | None:
    """Two that are believed and cannot both be true: one digest from two repositories, one run of two commits."""
    for place, one in enumerate(believed):
        for other in believed[:place]:
            run = one.evidence.predicate.invocation_id
            same_run = run and run == other.evidence.predicate.invocation_id
            if one.source.repository != other.source.repository or (same_run and one.source != other.source):
                return _failed(
                    "provenance.conflict",
                    "PROVENANCE_CONFLICT",
                    f"two statements contradict each other: {_who(other.evidence)} says {_shown(other.source)}, "
                    f"{_who(one.evidence)} says {_shown(one.source)}",
                    "find out which is true, and revoke the other in the policy",
                )
    return None


def _shown(source: BuildSource) -> str:
    return f"{source.repository or 'no repository'} {source.ref} {source.commit[:12]}".strip()


def _who(evidence: Evidence) -> str:
    return f"provenance {evidence.statement_digest} in {evidence.origin}, signed by {evidence.who}"


def _fits(patterns: Sequence[Pattern], text: str) -> bool:
    return text != "" and any(one.fits(text) for one in patterns)


def _matched(name: str, code: str, found: str, wanted: Sequence[Any], *, passed: bool) -> RuleResult:
    if passed:
        return RuleResult(f"provenance.{name}", True, found)
    said = ", ".join(one.text for one in wanted[:_MOST_TOLD])
    return _failed(
        f"provenance.{name}",
        code,
        f"{name.replace('.', ' ').replace('_', ' ')} must be {said}; it is {found[:300] or 'not said'}",
        "build it from there, or propose to add this to the policy",
    )


def _failed(rule: str, code: str, message: str, next_step: str = "") -> RuleResult:
    return RuleResult(rule, False, message, (Reason(code, message, next_step),))
