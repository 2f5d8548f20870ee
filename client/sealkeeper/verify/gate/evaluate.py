"""A gate's decision: policy, artifact and evidence in, ALLOW or DENY with reasons out. No network, no clock, no state.

The way of a decision: ``evidence.examine`` verifies every bundle, ``evaluate`` judges rule by rule, and the mode of the
policy and the exceptions of the gate make an answer of that. Where something cannot be looked at, the answer is DENY.

>>> decision = evaluate(policy, Artifact("app", {"sha256": "…"}), context)  # doctest: +SKIP
>>> decision.outcome  # doctest: +SKIP
<Outcome.DENY: 'DENY'>
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from sealkeeper.verify.errors import EvidenceError, VerifyError
from sealkeeper.verify.gate.decision import Artifact, Decision, Outcome, Reason, RuleResult, Verdict
from sealkeeper.verify.gate.evidence import Evidence, Examined, FoundBundle, bounded, examine
from sealkeeper.verify.gate.exceptions import GateException, applying
from sealkeeper.verify.gate.patterns import Pattern
from sealkeeper.verify.gate.policy import DependencyRule, GatePolicy, Mode, Rules
from sealkeeper.verify.gate.provenance_rules import Judged, believed_level, judge_provenance
from sealkeeper.verify.gate.rego_input import rego_input
from sealkeeper.verify.gate.statement_rules import (
    check_attestation,
    check_signatures,
    check_summary,
    check_trust_root,
    check_vulnerabilities,
)
from sealkeeper.verify.predicates import Provenance
from sealkeeper.verify.rego import RegoModule, RegoResult
from sealkeeper.verify.statement import ResourceDescriptor
from sealkeeper.verify.trust import TrustRoot

MAX_CHILDREN = 100
MAX_DEPENDENCIES = 200
"""That are looked at for one artifact, all depths together."""
_BUILD_LEVEL = re.compile(r"SLSA_BUILD_LEVEL_([0-4])")
_SOURCE_ONLY = frozenset({"gitCommit", "gitTree", "gitBlob", "gitTag", "sha1"})


class Gatherer(Protocol):
    """Finds bundles."""

    def __call__(self, artifact: Artifact, /) -> Iterable[FoundBundle]:
        """All that there are about an artifact.

        Raises:
            EvidenceError: they cannot be had, or are too many.
        """
        ...


class Examiner(Protocol):
    """Looks at bundles; ``evidence.examine`` but where cases of a policy state what would be found."""

    def __call__(
        self, found: Iterable[FoundBundle], artifact: Artifact, policy: GatePolicy, trust: TrustRoot, now: datetime
    ) -> Examined:
        """As ``evidence.examine``."""
        ...


class RegoEvaluator(Protocol):
    """Asks Rego modules, within bounds."""

    def evaluate(self, module: RegoModule, input_document: Any) -> RegoResult:
        """Ask one.

        Raises:
            VerifyError: it cannot be evaluated, or takes too long or too much.
        """
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """What a decision rests on, beside policy and artifact.

    Attributes:
        trust: what is trusted.
        gather: finds bundles.
        now: UTC.
        environment: where the artifact is to run; empty for none in particular.
        policy_name: and version, for the answer.
        exceptions: of the gate.
        rego: asks modules; ``None`` where there is no interpreter, so that what asks for one is refused.
        offline: a newer trust root could not be had.
        examine: looks at bundles.
    """

    trust: TrustRoot
    gather: Gatherer
    now: datetime
    environment: str = ""
    policy_name: str = ""
    exceptions: Sequence[GateException] = ()
    rego: RegoEvaluator | None = field(default=None, repr=False)
    offline: bool = False
    examine: Examiner = examine


def evaluate(policy: GatePolicy, artifact: Artifact, context: Context) -> Decision:
    """Decide. What goes wrong is a reason in the answer, never an exception of the evidence's making."""
    return decide(policy, verdict_on(policy, artifact, context), artifact, context)


def verdict_on(policy: GatePolicy, artifact: Artifact, context: Context) -> Verdict:
    """What the policy says of an artifact, whatever its mode and the gate's exceptions are."""
    return _Evaluation(policy, context).verdict(artifact)


def decide(policy: GatePolicy, verdict: Verdict, artifact: Artifact, context: Context) -> Decision:
    """What comes of a verdict, now, with the policy's mode and the gate's exceptions."""
    exception = None if verdict.passed else applying(context.exceptions, artifact, context.environment, context.now)
    allowed = verdict.passed or exception is not None or policy.mode is not Mode.ENFORCE
    return Decision(
        Outcome.ALLOW if allowed else Outcome.DENY,
        verdict,
        policy.mode,
        artifact,
        context.environment,
        context.now,
        policy.digest,
        context.policy_name,
        exception.name if exception is not None else "",
        context.trust.issued_at,
        context.offline,
    )


class _Evaluation:
    """One decision under way."""

    def __init__(self, policy: GatePolicy, context: Context) -> None:
        self._policy = policy
        self._context = context
        self._dependencies_left = MAX_DEPENDENCIES
        self._known: dict[str, tuple[list[FoundBundle], RuleResult | None]] = {}

    def verdict(self, artifact: Artifact) -> Verdict:
        rules = self._policy.rules(self._context.environment)
        if rules is None:
            known = ", ".join(self._policy.environments)
            return Verdict((_failed("environment", "ENVIRONMENT_UNKNOWN", f"the policy knows {known} only"),))
        results = [
            check_trust_root(
                rules.trust_root, self._context.trust.issued_at, self._context.now, offline=self._context.offline
            )
        ]
        own = self._judge(rules, artifact, ())
        results += own.results
        level, used = own.level, list(own.attestations)
        if rules.children:
            for child in self._children(artifact, results):
                one = self._judge(rules, child, tuple(self._found(artifact)[0]))
                results += [
                    RuleResult(
                        f"children.{child.digest[:19]}….{result.rule}", result.passed, result.detail, result.reasons
                    )
                    for result in one.results
                ]
                level, used = min(level, one.level), [*used, *one.attestations]
        return Verdict(tuple(results), level, tuple(dict.fromkeys(used)))

    def _children(self, artifact: Artifact, results: list[RuleResult]) -> Sequence[Artifact]:
        if len(artifact.children) > MAX_CHILDREN:
            results.append(_failed("children", "CHILDREN_TOO_MANY", f"the index has more than {MAX_CHILDREN} images"))
            return ()
        return artifact.children

    def _found(self, artifact: Artifact) -> tuple[list[FoundBundle], RuleResult | None]:
        digest = artifact.digest
        if digest not in self._known:
            try:
                self._known[digest] = bounded(self._context.gather(artifact)), None
            except EvidenceError as error:
                self._known[digest] = [], _failed("evidence", error.reason, str(error))
        return self._known[digest]

    def _judge(self, rules: Rules, artifact: Artifact, further: Sequence[FoundBundle]) -> Verdict:
        """All rules on one artifact; ``further`` is what was found about the index that it is of."""
        for one in self._policy.revoked:
            if one.digest and one.digest.partition(":")[2] == artifact.digests.get(one.digest.partition(":")[0]):
                return Verdict(
                    (_failed("revoked", "ARTIFACT_REVOKED", f"the policy revokes the artifact: {one.reason}"),)
                )
        found, problem = self._found(artifact)
        if problem is not None:
            return Verdict((problem,))
        try:
            own, shared = self._examined(found, artifact), self._examined(further, artifact)
        except EvidenceError as error:
            return Verdict((_failed("evidence", error.reason, str(error)),))
        examined = Examined((*own.evidence, *shared.evidence), own.refused)
        return self._verdict_on(rules, artifact, examined)

    def _examined(self, found: Sequence[FoundBundle], artifact: Artifact) -> Examined:
        return self._context.examine(found, artifact, self._policy, self._context.trust, self._context.now)

    def _verdict_on(self, rules: Rules, artifact: Artifact, examined: Examined) -> Verdict:
        policy, now = self._policy, self._context.now
        results: list[RuleResult] = []
        used: list[Evidence] = []
        level = 0
        summarised = self._summarised(rules, examined, results, used)
        if not summarised:
            if rules.signatures is not None:
                results.append(check_signatures(rules.signatures, policy, examined, now))
            if rules.provenance is not None:
                found, judged = judge_provenance(rules.provenance, policy, examined, now)
                results += found
                if judged is not None:
                    level = judged.level
                    used.append(judged.evidence)
                    if rules.provenance.dependencies is not None:
                        results += self._dependencies(rules.provenance.dependencies, judged)
            results += [check_attestation(one, policy, examined, now) for one in rules.attestations]
        if rules.vulnerabilities is not None:
            results.append(check_vulnerabilities(rules.vulnerabilities, policy, examined, now))
        if rules.promotion is not None:
            result, summary = check_summary("promotion", rules.promotion, policy, examined, now)
            results.append(result)
            used += [summary] if summary is not None else []
        results += self._rego(rules, artifact, examined, results, level)
        counted = used or [one for one in examined.evidence if one.signers]
        return Verdict(tuple(results), level or _summary_level(used), tuple(one.digest for one in counted))

    def _summarised(self, rules: Rules, examined: Examined, results: list[RuleResult], used: list[Evidence]) -> bool:
        """Whether another gate has looked already, so that signatures, provenance and attestations need not be.

        Where a policy asks for summaries and for nothing beside, one of them must be there.
        """
        failed = []
        for place, rule in enumerate(rules.summaries):
            result, summary = check_summary(f"summaries[{place}]", rule, self._policy, examined, self._context.now)
            if summary is not None:
                results.append(result)
                used.append(summary)
                return True
            failed.append(result)
        if not (rules.signatures or rules.provenance or rules.attestations):
            results += failed
        return False

    def _dependencies(self, rule: DependencyRule, judged: Judged) -> Iterator[RuleResult]:
        waiting = [(1, one) for one in judged.evidence.predicate.resolved_dependencies]
        while waiting:
            depth, dependency = waiting.pop(0)
            if _is_excepted(dependency, rule.except_):
                continue
            self._dependencies_left -= 1
            if self._dependencies_left < 0:
                yield _failed(
                    "provenance.dependencies",
                    "DEPENDENCIES_TOO_MANY",
                    f"there are more than {MAX_DEPENDENCIES} to look at",
                )
                return
            result, further = self._dependency(rule, dependency)
            yield result
            if depth < rule.depth:
                waiting += [(depth + 1, one) for one in further]

    def _dependency(
        self, rule: DependencyRule, dependency: ResourceDescriptor
    ) -> tuple[RuleResult, Sequence[ResourceDescriptor]]:
        name = dependency.uri or dependency.name or "a dependency without a name"
        place = f"provenance.dependencies.{name[:200]}"
        if not dependency.digests:
            return _failed(
                place, "DEPENDENCY_UNPROVEN", f"{name[:300]} has no digest, so nothing can be known of it"
            ), ()
        artifact = Artifact(name, dependency.digests)
        found, problem = self._found(artifact)
        if problem is not None:
            return RuleResult(place, False, problem.detail, problem.reasons), ()
        try:
            examined = self._examined(found, artifact)
        except EvidenceError as error:
            return _failed(place, error.reason, str(error)), ()
        for one in examined.evidence:
            provenance = _provenance(one)
            if (
                provenance is not None
                and believed_level(self._policy, one, provenance.builder_id) >= rule.minimum_level
            ):
                return RuleResult(place, True, f"{provenance.builder_id}, signed by {one.who}"), (
                    provenance.resolved_dependencies
                )
        return _failed(
            place,
            "DEPENDENCY_UNPROVEN",
            f"{name[:300]} has no provenance of SLSA build level {rule.minimum_level} from a builder of the policy",
            "build it with provenance too, or propose to except it in the policy",
        ), ()

    def _rego(
        self, rules: Rules, artifact: Artifact, examined: Examined, results: Sequence[RuleResult], level: int
    ) -> Iterator[RuleResult]:
        if not rules.rego:
            return
        document = rego_input(artifact, examined, results, level, self._context.environment, self._context.now)
        for place, text in enumerate(rules.rego):
            name = f"rego[{place}]"
            if self._context.rego is None:
                yield _failed(
                    name, "REGO_MISSING", "there is no interpreter for Rego here", "pip install 'sealkeeper[gate]'"
                )
                continue
            try:
                answer = self._context.rego.evaluate(RegoModule(text), document)
            except VerifyError as error:
                yield _failed(name, error.reason, str(error))
                continue
            if answer.allowed:
                yield RuleResult(name, True, "allows it")
            else:
                said = answer.reasons or ("the module does not allow it",)
                yield RuleResult(name, False, "; ".join(said), tuple(Reason("REGO_DENIED", one) for one in said))


def _is_excepted(dependency: ResourceDescriptor, patterns: Sequence[Pattern]) -> bool:
    # What has no other digest than those of git is source, which the rules of source are about, and no built thing.
    if dependency.digests and dependency.digests.keys() <= _SOURCE_ONLY:
        return True
    return any(one.fits(dependency.uri) for one in patterns)


def _provenance(evidence: Evidence) -> Provenance | None:
    try:
        found = evidence.predicate
    except VerifyError:
        return None
    return found if isinstance(found, Provenance) else None


def _summary_level(used: Sequence[Evidence]) -> int:
    levels = [_BUILD_LEVEL.fullmatch(one) for each in used for one in getattr(each.predicate, "verified_levels", ())]
    return max((int(one[1]) for one in levels if one is not None), default=0)


def _failed(rule: str, code: str, message: str, next_step: str = "") -> RuleResult:
    return RuleResult(rule, False, message, (Reason(code, message, next_step),))
