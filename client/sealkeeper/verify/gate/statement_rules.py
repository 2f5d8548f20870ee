"""What a policy asks beside provenance: signatures, attestations, scans, verdicts of gates, a fresh trust root."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sealkeeper.verify.errors import PredicateError
from sealkeeper.verify.gate.decision import Reason, RuleResult
from sealkeeper.verify.gate.evidence import Evidence, Examined
from sealkeeper.verify.gate.patterns import Pattern
from sealkeeper.verify.gate.policy import (
    AttestationRule,
    GatePolicy,
    Severity,
    SignatureRule,
    SummaryRule,
    TrustRule,
    VulnerabilityRule,
)
from sealkeeper.verify.gate.provenance_rules import age_result, leaf_text
from sealkeeper.verify.predicates import KINDS, TestResult, VerificationSummary

_LEVEL = re.compile(r"([A-Z_]+_LEVEL_)([0-9])")
_MAX_VALUES = 1000
"""At one path: what is not looked at could be what forbids."""
_MOST_TOLD = 5
_PASSED = "PASSED"
_SCANS = frozenset(one for kind in KINDS if kind.short_name == "vulns" for one in kind.types)
# Of these, one that cannot be read may say so.
_VERDICTS = frozenset(one for kind in KINDS if kind.short_name in ("vsa", "test-result") for one in kind.types)


def check_signatures(rule: SignatureRule, policy: GatePolicy, examined: Examined, now: datetime) -> RuleResult:
    """So many different parties, each one of the named signers, have signed the artifact or a statement about it."""
    theirs = [one for one in examined.evidence if set(one.signers) & set(rule.signers) and not _speaks_against(one)]
    fresh = [one for one in theirs if rule.max_age is None or now - one.made <= rule.max_age]
    parties: dict[str, set[str]] = {name: set() for name in rule.signers}
    for one in fresh:
        for name in one.signers:
            if name in parties:
                parties[name].add(one.party)
    found = _most_pairs(parties)
    if len(found) >= rule.threshold:
        return RuleResult("signatures", True, f"signed by {', '.join(sorted(found))}")
    wanted = ", ".join(str(policy.signers[one]) for one in rule.signers)
    others = {f"{one.who} at {one.time:%Y-%m-%d %H:%M} UTC in {one.origin}" for one in examined.evidence}
    others |= {f"{one.who or 'somebody'} in {one.origin}, refused: {one.why}" for one in examined.refused}
    told = f"; found: {'; '.join(sorted(others)[:_MOST_TOLD])}" if others else "; there is no signature at all"
    message = f"{rule.threshold} of {len(rule.signers)} must have signed it ({wanted}); {len(found)} have{told}"
    return _failed("signatures", "SIGNATURES_TOO_FEW", message, "have it signed: sealkeeper sign, sealkeeper attest")


def _speaks_against(evidence: Evidence) -> bool:
    """Whether it says that the artifact has failed: whoever signs that has not signed for it."""
    found = _read(evidence)
    if isinstance(found, VerificationSummary):
        return not found.passed
    if isinstance(found, TestResult):
        return found.result == "FAILED"
    return found is None and evidence.predicate_type in _VERDICTS


def _most_pairs(parties: Mapping[str, set[str]]) -> set[str]:
    """The most signers, each with a party of its own: one key under two names is one (Kuhn's algorithm)."""
    taken: dict[str, str] = {}

    def find(name: str, tried: set[str]) -> bool:
        for party in sorted(parties[name]):
            if party not in tried:
                tried.add(party)
                if party not in taken or find(taken[party], tried):
                    taken[party] = name
                    return True
        return False

    return {name for name in parties if find(name, set())} and set(taken.values())


def check_attestation(rule: AttestationRule, policy: GatePolicy, examined: Examined, now: datetime) -> RuleResult:
    """The newest attestation of the type by one of the signers is as the policy wants it: an older one says nothing."""
    name = f"attestations.{rule.type}"
    newest = _newest(examined.evidence, rule.signers, lambda one: one.predicate_type in rule.types)
    if not newest:
        return _none(name, "ATTESTATION_MISSING", rule.type, rule.signers, policy, examined)
    return _worst(_attestation(name, rule, one, now) for one in newest)


def _attestation(name: str, rule: AttestationRule, newest: Evidence, now: datetime) -> RuleResult:
    try:
        _ = newest.predicate
    except PredicateError as error:
        return _failed(name, "ATTESTATION_INVALID", f"{_told(newest)} is not one of its type: {error}")
    predicate = newest.statement.predicate if newest.statement is not None else {}
    problems = [said for path, patterns in rule.fields.items() if (said := _misfit(predicate, path, patterns))]
    if problems:
        return _failed(name, "ATTESTATION_FIELD", f"{_told(newest)}: {'; '.join(problems[:_MOST_TOLD])}")
    return age_result(name, "ATTESTATION_TOO_OLD", newest, rule.max_age, now)


def _misfit(predicate: Mapping[str, Any], path: str, patterns: Sequence[Pattern]) -> str:
    """What is wrong at a path; empty where each value fits."""
    values = values_at(predicate, path)
    if values is None:
        return f"{path} is no text, number or truth value, or more than {_MAX_VALUES} of them"
    bad = [one for one in values if not any(pattern.fits(one) for pattern in patterns)]
    if values and not bad:
        return ""
    return f"{path} is {', '.join(bad)[:200] or 'not there'}, and must be {' or '.join(map(str, patterns))}"


def values_at(predicate: Mapping[str, Any], path: str) -> list[str] | None:
    """The texts at a path of names parted by dots; of a list those of all its items.

    Returns:
        ``None`` where they are more than 1000, or something there is an object or a list of lists, which have no text.
    """
    places: list[Any] = [predicate]
    for name in path.split("."):
        inner = [one for place in places for one in (place if isinstance(place, list) else [place])]
        places = [one[name] for one in inner if isinstance(one, Mapping) and name in one]
    flat = [one for place in places for one in (place if isinstance(place, list) else [place])]
    if len(flat) > _MAX_VALUES or any(isinstance(one, (Mapping, list)) and one for one in flat):
        return None
    return [leaf_text(one) for one in flat]


def check_vulnerabilities(rule: VulnerabilityRule, policy: GatePolicy, examined: Examined, now: datetime) -> RuleResult:
    """The newest scan has found nothing worse than is allowed."""
    scans = _newest(examined.evidence, rule.signers, lambda one: one.predicate_type in _SCANS)
    if not scans:
        return _none("vulnerabilities", "SCAN_MISSING", "a vulnerability scan", rule.signers, policy, examined)
    return _worst(_scan(rule, one, now) for one in scans)


def _scan(rule: VulnerabilityRule, scan: Evidence, now: datetime) -> RuleResult:
    aged = age_result("vulnerabilities", "SCAN_TOO_OLD", scan, rule.max_age, now)
    if not aged.passed:
        return aged
    try:
        findings = scan.predicate.findings
    except PredicateError as error:
        return _failed("vulnerabilities", "SCAN_INVALID", f"{_told(scan)} cannot be read: {error}")
    ignored = {one.id for one in rule.ignore if one.until is None or now <= one.until}
    bad = sorted(
        {f"{one.id} ({one.severity})" for one in findings if one.id not in ignored and _is_bad(rule, one.severity)}
    )
    if bad:
        more = f" and {len(bad) - _MOST_TOLD} more" if len(bad) > _MOST_TOLD else ""
        allowed = rule.worst if rule.worst is not None else "none"
        return _failed(
            "vulnerabilities",
            "VULNERABILITIES_FOUND",
            f"{', '.join(bad[:_MOST_TOLD])}{more} found by {_told(scan)}; the worst allowed is {allowed}",
            "update what has them and scan again, or propose to ignore them for a time",
        )
    return RuleResult("vulnerabilities", True, f"{len(findings)} findings, none too bad, in {_told(scan)}")


def _is_bad(rule: VulnerabilityRule, severity: str) -> bool:
    try:
        found = Severity(severity)
    except ValueError:
        return not rule.unknown
    return rule.worst is None or found.exceeds(rule.worst)


def check_summary(
    name: str, rule: SummaryRule, policy: GatePolicy, examined: Examined, now: datetime
) -> tuple[RuleResult, Evidence | None]:
    """The newest summary of the verifier, signed by whom it signs with, says PASSED at the levels.

    Source: https://slsa.dev/spec/v1.0/verification_summary, "How to verify".
    """
    newest = _newest(examined.evidence, rule.signers, lambda one: _verifier_of(one) == rule.verifier)
    if not newest:
        found = _none(
            name, "SUMMARY_MISSING", f"a verification summary of {rule.verifier}", rule.signers, policy, examined
        )
        return found, None
    worst = _worst(_summary(name, rule, one, now) for one in newest)
    return worst, newest[0] if worst.passed else None


def _summary(name: str, rule: SummaryRule, newest: Evidence, now: datetime) -> RuleResult:
    summary: VerificationSummary = newest.predicate
    if summary.verification_result != _PASSED:
        message = f"{_told(newest)} says {summary.verification_result}"
        return _failed(name, "SUMMARY_FAILED", message, f"see why {rule.verifier} refuses it")
    missing = [one for one in rule.levels if not _reaches(summary.verified_levels, one)]
    if missing:
        levels = ", ".join(summary.verified_levels) or "none"
        message = f"{_told(newest)} does not reach {', '.join(missing)}; it has {levels}"
        return _failed(name, "SUMMARY_LEVEL", message)
    if rule.resource is not None and not rule.resource.fits(summary.resource_uri):
        message = f"{_told(newest)} is for {summary.resource_uri[:300]}, not {rule.resource}"
        return _failed(name, "SUMMARY_RESOURCE", message)
    return age_result(name, "SUMMARY_TOO_OLD", newest, rule.max_age, now)


def _verifier_of(evidence: Evidence) -> str:
    found = _read(evidence)
    return found.verifier_id if isinstance(found, VerificationSummary) else ""


def _reaches(levels: Iterable[str], wanted: str) -> bool:
    match = _LEVEL.fullmatch(wanted)
    if match is None:
        return wanted in levels
    found = (_LEVEL.fullmatch(one) for one in levels)
    return any(one is not None and one[1] == match[1] and int(one[2]) >= int(match[2]) for one in found)


def check_trust_root(rule: TrustRule, made: datetime | None, now: datetime, *, offline: bool) -> RuleResult:
    """The trust root is fresh enough, and may be used although there may be a newer one."""
    if offline and not rule.offline:
        return _failed(
            "trust_root", "TRUST_ROOT_OFFLINE", "the gateway does not answer, and the policy decides nothing without it"
        )
    if rule.max_age is None:
        return RuleResult("trust_root", True, f"made at {made.isoformat()}" if made else "of any age")
    if made is None:
        return _failed(
            "trust_root",
            "TRUST_ROOT_TOO_OLD",
            "the trust root does not say when it was made",
            "export it with keys.json",
        )
    if now - made > rule.max_age:
        return _failed(
            "trust_root",
            "TRUST_ROOT_TOO_OLD",
            f"the trust root was made at {made:%Y-%m-%d %H:%M} UTC; it may be {rule.max_age} old at most",
            "fetch a newer one: sealkeeper trust export",
        )
    return RuleResult("trust_root", True, f"made at {made.isoformat()}")


def age_limit(rules: Iterable[timedelta | None]) -> timedelta | None:
    """The shortest of the ages that are limited."""
    return min((one for one in rules if one is not None), default=None)


def _newest(evidence: Iterable[Evidence], signers: Sequence[str], wanted: Callable[[Evidence], bool]) -> list[Evidence]:
    """All of the last moment: times are in seconds, and which of two is the last one must not be anybody's choice.

    Of those of one gateway's keys its log knows which came later: nobody else writes there.
    """
    fitting = [one for one in evidence if set(one.signers) & set(signers) and wanted(one)]
    last = max((one.made for one in fitting), default=None)
    newest = sorted((one for one in fitting if one.made == last), key=lambda one: one.digest)
    logs = {one.result.log_origin if one.result.key_name else "" for one in newest}
    if len(logs) == 1 and "" not in logs:
        latest = max(one.result.log_index or 0 for one in newest)
        newest = [one for one in newest if one.result.log_index == latest]
    return newest


def _worst(results: Iterable[RuleResult]) -> RuleResult:
    """The first that failed, or the first."""
    return min(results, key=lambda one: one.passed)


def _read(evidence: Evidence) -> Any:
    try:
        return evidence.predicate
    except PredicateError:
        return None


def _none(
    rule: str, code: str, what: str, signers: Sequence[str], policy: GatePolicy, examined: Examined
) -> RuleResult:
    wanted = " or ".join(str(policy.signers[one]) for one in signers[:_MOST_TOLD])
    others = [f"{one.predicate_type or 'a signature'} of {one.who}" for one in examined.evidence[:_MOST_TOLD]]
    others += [
        f"{one.predicate_type or 'something'} in {one.origin}, refused: {one.why}"
        for one in examined.refused[:_MOST_TOLD]
    ]
    told = f"; found {'; '.join(others)}" if others else "; nothing was found at all"
    return _failed(rule, code, f"{what} signed by {wanted} is missing{told}", "attest it: sealkeeper attest")


def _told(evidence: Evidence) -> str:
    return f"the one of {evidence.who}, {evidence.time:%Y-%m-%d %H:%M} UTC, in {evidence.origin}"


def _failed(rule: str, code: str, message: str, next_step: str = "") -> RuleResult:
    return RuleResult(rule, False, message, (Reason(code, message, next_step),))
