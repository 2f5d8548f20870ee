"""A gate's decision: policy, artifact and evidence in, ALLOW or DENY with reasons out. No network, no clock, no state.

The way of a decision: ``evidence.examine`` verifies every bundle, ``evaluate`` judges rule by rule, and the mode of the
policy and the exceptions of the gate make an answer of that. Where something cannot be looked at, the answer is DENY.

>>> decision = evaluate(policy, Artifact("app", {"sha256": "…"}), context)  # doctest: +SKIP
>>> decision.outcome  # doctest: +SKIP
<Outcome.DENY: 'DENY'>
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, TypeAlias

from sealkeeper.verify.errors import EvidenceError, VerifyError
from sealkeeper.verify.gate.decision import Artifact, Decision, Outcome, Reason, RuleResult, Verdict
from sealkeeper.verify.gate.evidence import Evidence, Examined, FoundBundle, bounded, examine, same_artifact
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
"""That are looked at in one decision, all depths together."""
MAX_LISTED = 10_000
"""That one artifact has, all depths together, excepted ones too."""
_Dependency: TypeAlias = tuple[RuleResult, Sequence[ResourceDescriptor]]
_BUILD_LEVEL = re.compile(r"SLSA_BUILD_LEVEL_([0-4])")
_REVOKED = "ARTIFACT_REVOKED"
_SOURCE_ONLY = frozenset({"gitCommit", "gitTree", "gitBlob", "gitTag"})


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
    exception = None
    if not verdict.passed:
        revoked = any(one.code == _REVOKED for one in verdict.reasons)
        exception = applying(context.exceptions, artifact, context.environment, context.now, revoked=revoked)
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
        # What came of each, by its digests; the bundles themselves would be too many to keep.
        self._dependencies_known: dict[frozenset[tuple[str, str]], _Dependency] = {}

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
        unknown = {one.trust_root for one in self._policy.signers.values()} - {"", *self._context.trust.others}
        if unknown:
            said = f"the policy's signers name trust roots that are not here: {', '.join(sorted(unknown))}"
            step = "name them: gates.trust_roots, --trust-root"
            results.append(_failed("trust_root", "TRUST_ROOT_UNKNOWN", said, step))
        found = self._found(artifact)
        own = self._judge(rules, artifact, found, ())
        results += own.results
        level, used = own.level, list(own.attestations)
        for place, child in enumerate(_descendants(artifact)):
            if not rules.children:
                results += [_of_child(child, one) for one in self._revoked([child.digests])]
                continue
            if place == MAX_CHILDREN:
                said = f"the index has more than {MAX_CHILDREN} images"
                results.append(_failed("children", "CHILDREN_TOO_MANY", said))
                break
            one = self._judge(rules, child, self._found(child), found[0])
            results += [_of_child(child, result) for result in one.results]
            level, used = min(level, one.level), [*used, *one.attestations]
        return Verdict(tuple(results), level, tuple(dict.fromkeys(used)))

    def _found(self, artifact: Artifact) -> tuple[Sequence[FoundBundle], RuleResult | None]:
        try:
            return bounded(self._context.gather(artifact)), None
        except EvidenceError as error:
            return (), _failed("evidence", error.reason, str(error))

    def _judge(
        self,
        rules: Rules,
        artifact: Artifact,
        found: tuple[Sequence[FoundBundle], RuleResult | None],
        further: Sequence[FoundBundle],
    ) -> Verdict:
        """All rules on one artifact; ``further`` is what was found about the index that it is of."""
        bundles, problem = found
        revoked = self._revoked([artifact.digests])
        if revoked or problem is not None:
            return Verdict((*revoked, *([problem] if problem is not None else [])))
        known = {one.digest for one in bundles}
        try:
            own = self._examined(bundles, artifact)
            shared = self._examined([one for one in further if one.digest not in known], artifact)
        except EvidenceError as error:
            return Verdict((_failed("evidence", error.reason, str(error)),))
        examined = Examined((*own.evidence, *shared.evidence), own.refused)
        # It may be revoked by a digest that only its signers know of.
        revoked = self._revoked(_said_digests(examined, artifact))
        return Verdict(tuple(revoked)) if revoked else self._verdict_on(rules, artifact, examined)

    def _revoked(self, known: Iterable[Mapping[str, str]]) -> list[RuleResult]:
        """Empty where the policy revokes none of the digests."""
        revoked = {one.digest: one.reason for one in self._policy.revoked if one.digest}
        if not revoked:
            return []
        found = {f"{name}:{value}" for one in known for name, value in one.items()} & revoked.keys()
        return [
            _failed("revoked", _REVOKED, f"the policy revokes the artifact: {revoked[one]}") for one in sorted(found)
        ]

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
        waiting = deque((1, one) for one in judged.evidence.predicate.resolved_dependencies[: MAX_LISTED + 1])
        listed, seen = 0, set()
        while waiting:
            depth, dependency = waiting.popleft()
            listed += 1
            key = frozenset(dependency.digests.items())
            new = key not in self._dependencies_known and not _is_excepted(dependency, rule.except_)
            if listed > MAX_LISTED or (new and len(self._dependencies_known) == MAX_DEPENDENCIES):
                said = f"there are more than {MAX_DEPENDENCIES} to look at, or more than {MAX_LISTED} at all"
                yield _failed("provenance.dependencies", "DEPENDENCIES_TOO_MANY", said)
                return
            # The first time that one is met is where the way to it is shortest.
            if (key in seen and key) or _is_excepted(dependency, rule.except_):
                continue
            seen.add(key)
            if new or not key:
                self._dependencies_known[key] = self._dependency(rule, dependency)
            result, further = self._dependencies_known[key]
            yield result
            if depth < rule.depth:
                waiting += [(depth + 1, one) for one in further]

    def _dependency(self, rule: DependencyRule, dependency: ResourceDescriptor) -> _Dependency:
        name = dependency.uri or dependency.name or "a dependency without a name"
        place = f"provenance.dependencies.{name[:200]}"
        if not dependency.digests:
            said = f"{name[:300]} has no digest, so nothing can be known of it"
            return _failed(place, "DEPENDENCY_UNPROVEN", said), ()
        artifact = Artifact(name, dependency.digests)
        revoked = self._revoked([dependency.digests])
        found, problem = self._found(artifact)
        if revoked or problem is not None:
            [bad, *_] = [*revoked, *([problem] if problem is not None else [])]
            return RuleResult(place, False, bad.detail, bad.reasons), ()
        try:
            examined = self._examined(found, artifact)
        except EvidenceError as error:
            return _failed(place, error.reason, str(error)), ()
        # The newest that is believed, whatever order they were found in.
        for one in sorted(examined.evidence, key=lambda one: (one.made, one.statement_digest), reverse=True):
            provenance = _provenance(one)
            if (
                provenance is not None
                and believed_level(self._policy, one, provenance.builder_id) >= rule.minimum_level
            ):
                told = f"{provenance.builder_id}, signed by {one.who}"
                return RuleResult(place, True, told), provenance.resolved_dependencies[: MAX_LISTED + 1]
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


def _descendants(artifact: Artifact) -> Iterator[Artifact]:
    """The images of an index, and those of the indexes in it."""
    waiting = list(reversed(artifact.children))
    while waiting:
        one = waiting.pop()
        yield one
        waiting += reversed(one.children)


def _of_child(child: Artifact, result: RuleResult) -> RuleResult:
    place = f"children.{child.digest[:19]}….{result.rule}"
    return RuleResult(place, result.passed, result.detail, result.reasons)


def _said_digests(examined: Examined, artifact: Artifact) -> Iterator[Mapping[str, str]]:
    """The artifact's digests as the policy's signers have them."""
    for one in examined.evidence:
        if one.signers and one.statement is not None:
            yield from (
                each.digests for each in one.statement.subjects if same_artifact(each.digests, artifact.digests)
            )


def _is_excepted(dependency: ResourceDescriptor, patterns: Sequence[Pattern]) -> bool:
    # What has no other digest than those of git is source, which the rules of source are about, and no built thing;
    # SHA-1 is a file's as well.
    source = _SOURCE_ONLY | ({"sha1"} if dependency.uri.startswith("git+") else set())
    if dependency.digests and dependency.digests.keys() <= source:
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
