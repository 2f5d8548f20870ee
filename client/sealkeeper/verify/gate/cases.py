"""A table of what a policy must allow and refuse, with stated evidence: nothing is signed, nothing is looked up.

>>> cases = parse_cases(b'''
... evidence:
...   built: {provenance: {signers: [ci], builder: https://ci/hosted, repository: https://github.com/acme/app}}
... cases:
...   - {name: what CI built may run, found: [built], expect: allow}
...   - name: what it built from elsewhere may not
...     found: [{provenance: {like: built, repository: https://github.com/evil/app}}]
...     expect: deny
...     reasons: [SOURCE_REPOSITORY]
... ''')
>>> cases[0].expect
<Outcome.ALLOW: 'ALLOW'>
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from types import MappingProxyType
from typing import Any

from sealkeeper.verify.errors import GatePolicyError
from sealkeeper.verify.gate.decision import Artifact, Decision, Outcome
from sealkeeper.verify.gate.evaluate import Context, RegoEvaluator, evaluate
from sealkeeper.verify.gate.evidence import Evidence, Examined, FoundBundle
from sealkeeper.verify.gate.policy import GatePolicy, parse_duration
from sealkeeper.verify.gate.summary import PREDICATE_TYPE as SUMMARY
from sealkeeper.verify.gate.yaml_document import parse_yaml
from sealkeeper.verify.predicates import by_short_name
from sealkeeper.verify.predicates.provenance import PROVENANCE_V1
from sealkeeper.verify.predicates.vulnerability_scan import VULNS_V0_1
from sealkeeper.verify.statement import ResourceDescriptor, Statement
from sealkeeper.verify.strict_json import JsonError, Value
from sealkeeper.verify.trust import TrustRoot
from sealkeeper.verify.verifier import VerificationResult

MAX_CASES = 1000
_MAX_FOUND = 64
_MAX_AGE = timedelta(days=36_500)
_NOW = datetime(2030, 1, 1, tzinfo=UTC)
_KINDS = ("signature", "provenance", "attestation", "summary", "scan")
_DIGEST = sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class Stated:
    """Evidence as a case states it.

    Attributes:
        signers: names of the policy's signers that it is of.
        party: who it really is; alike for two of them that are one.
        age: since it was signed.
        predicate_type: empty for a signature of the artifact itself.
        predicate: as JSON.
        claims: of the signer's certificate.
        about: digest of a child or a dependency that it is about; empty for the artifact.
    """

    signers: tuple[str, ...]
    party: str
    age: timedelta
    predicate_type: str
    predicate: Mapping[str, Any]
    claims: Mapping[str, str]
    about: str


@dataclass(frozen=True, slots=True)
class Case:
    """One row.

    Attributes:
        name: what it claims.
        artifact: that is asked about.
        environment: where it is to run.
        found: what there is about it.
        trust_age: of the trust root.
        offline: the gateway does not answer.
        expect: the outcome.
        reasons: codes that must be among the reasons.
    """

    name: str
    artifact: Artifact
    environment: str
    found: tuple[Stated, ...]
    trust_age: timedelta
    offline: bool
    expect: Outcome
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What came of a case.

    Attributes:
        case: it.
        decision: of the policy.
        missing: expected reasons that were not given.
    """

    case: Case
    decision: Decision
    missing: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """It came out as expected."""
        return self.decision.outcome is self.case.expect and not self.missing


def parse_cases(text: bytes) -> tuple[Case, ...]:
    """Read a table.

    Raises:
        GatePolicyError: naming the place that is not as it should be.
    """
    try:
        members = Value(parse_yaml(text)).members({"cases"}, {"evidence"})
        shared = _shared(members["evidence"]) if "evidence" in members else {}
        return tuple(_case(one, shared) for one in members["cases"].items(MAX_CASES, 1))
    except JsonError as error:
        raise GatePolicyError(str(error)) from None


def run_cases(policy: GatePolicy, cases: Iterable[Case], rego: RegoEvaluator | None = None) -> list[CaseResult]:
    """Run a table against a policy."""
    return [_run(policy, one, rego) for one in cases]


def _run(policy: GatePolicy, case: Case, rego: RegoEvaluator | None) -> CaseResult:
    unknown = sorted({name for one in case.found for name in one.signers} - policy.signers.keys())
    if unknown:
        raise GatePolicyError(f"case {case.name!r}: there is no signer {unknown[0]!r} in the policy")
    named = {one.trust_root: _NOTHING for one in policy.signers.values() if one.trust_root}
    trust = replace(_NOTHING, issued_at=_NOW - case.trust_age, others=named)
    context = Context(
        trust,
        lambda artifact: (FoundBundle(artifact.digest.encode(), "case"),),
        _NOW,
        case.environment,
        rego=rego,
        offline=case.offline,
        # What was found about the index is looked at for each of its images as well: that is not stated twice.
        examine=lambda found, artifact, policy, trust, now: _stated(case, artifact, found),
    )
    # Which outcome a mode makes of it is not what a table is about.
    decision = evaluate(replace(policy, mode=type(policy.mode).ENFORCE), case.artifact, context)
    told = {reason.code for reason in decision.verdict.reasons}
    return CaseResult(case, decision, tuple(one for one in case.reasons if one not in told))


_NOTHING = TrustRoot(MappingProxyType({}), MappingProxyType({}), (), (), "", "", None, MappingProxyType({}))


def _stated(case: Case, artifact: Artifact, found_bundles: Iterable[FoundBundle]) -> Examined:
    if artifact.digest.encode() not in [one.data for one in found_bundles]:
        return Examined((), ())
    own = artifact is case.artifact
    found = [one for one in case.found if one.about == artifact.digest or (own and not one.about)]
    return Examined(tuple(_evidence(one, place, artifact) for place, one in enumerate(found)), ())


def _evidence(stated: Stated, place: int, artifact: Artifact) -> Evidence:
    subject = ResourceDescriptor(artifact.name, artifact.digests)
    statement = Statement((subject,), stated.predicate_type, stated.predicate) if stated.predicate_type else None
    party = sha256(stated.party.encode()).digest()
    result = VerificationResult(
        verified=True, time=_NOW - stated.age, key_name=stated.party, public_key=party, claims=stated.claims
    )
    digest = f"sha256:{sha256(f'{place} {json.dumps(dict(stated.predicate), sort_keys=True)}'.encode()).hexdigest()}"
    return Evidence(digest, "case", result, statement, stated.signers)


def _shared(value: Value) -> dict[str, Value]:
    """Evidence that several cases have, by name."""
    return {name: Value(one, f"{value.path}.{name}") for name, one in _object(value).items()}


def _object(value: Value) -> dict[str, Any]:
    if not isinstance(value.json, dict):
        raise JsonError(f"{value.path}: must be an object")
    return value.json


def _age(value: Value) -> timedelta:
    age = parse_duration(value)
    if age > _MAX_AGE:
        raise JsonError(f"{value.path}: must be at most {_MAX_AGE.days} days")
    return age


def _case(value: Value, shared: Mapping[str, Value]) -> Case:
    members = value.members(
        {"name", "expect"}, {"artifact", "children", "environment", "found", "trust_root_age", "offline", "reasons"}
    )
    children = members["children"].items(100) if "children" in members else []
    artifact = _artifact(members["artifact"]) if "artifact" in members else Artifact("artifact", {"sha256": _DIGEST})
    expect = members["expect"].text(10)
    if expect not in ("allow", "deny"):
        raise JsonError(f"{value.path}.expect: must be allow or deny")
    return Case(
        members["name"].text(200),
        replace(artifact, children=tuple(map(_artifact, children))),
        members["environment"].text(63) if "environment" in members else "",
        tuple(_found(one, shared) for one in members["found"].items(_MAX_FOUND)) if "found" in members else (),
        _age(members["trust_root_age"]) if "trust_root_age" in members else timedelta(),
        members["offline"].boolean() if "offline" in members else False,
        Outcome(expect.upper()),
        tuple(one.text(64) for one in members["reasons"].items(20)) if "reasons" in members else (),
    )


def _artifact(value: Value) -> Artifact:
    members = value.members(set(), {"name", "digest"})
    digest = members["digest"].text(200) if "digest" in members else f"sha256:{_DIGEST}"
    algorithm, _, hexadecimal = digest.partition(":")
    if not algorithm or not hexadecimal:
        raise JsonError(f"{value.path}.digest: must be sha256: and hexadecimal digits")
    return Artifact(members["name"].text(512) if "name" in members else "artifact", {algorithm: hexadecimal})


def _named(value: Value, shared: Mapping[str, Value]) -> Value:
    if value.text(63) not in shared:
        raise JsonError(f"{value.path}: there is no {value.json[:63]!r} in $.evidence")
    return shared[value.json]


def _found(value: Value, shared: Mapping[str, Value]) -> Stated:
    if isinstance(value.json, str):
        value = _named(value, shared)
    if not isinstance(value.json, dict) or len(value.json) != 1 or next(iter(value.json)) not in _KINDS:
        raise JsonError(f"{value.path}: must be a name of $.evidence, or have exactly one of {', '.join(_KINDS)}")
    kind = next(iter(value.json))
    inner = value.member(kind)
    if isinstance(inner.json, dict) and "like" in inner.json:
        other = _object(_named(inner.member("like"), shared).member(kind))
        inner = Value({**other, **{name: one for name, one in inner.json.items() if name != "like"}}, inner.path)
    common = {"signers", "party", "age", "about", "claims"}
    members = inner.members({"signers"}, common | _MEMBERS[kind])
    signers = tuple(one.text(63) for one in members["signers"].items(100, 0))
    predicate_type, predicate = _PREDICATES[kind](inner, members)
    return Stated(
        signers,
        members["party"].text(200) if "party" in members else "+".join(signers) or "a stranger",
        _age(members["age"]) if "age" in members else timedelta(),
        predicate_type,
        predicate,
        {name: str(one) for name, one in _object(members["claims"]).items()} if "claims" in members else {},
        members["about"].text(200) if "about" in members else "",
    )


def _of_signature(_: Value, members: Mapping[str, Value]) -> tuple[str, dict[str, Any]]:
    return "", {}


def _of_provenance(_: Value, members: Mapping[str, Value]) -> tuple[str, dict[str, Any]]:
    def said(name: str, default: str = "") -> str:
        return members[name].text(1024) if name in members else default

    source = {"uri": f"git+{said('repository')}{'@' if said('ref') else ''}{said('ref')}"}
    dependencies: list[Any] = []
    if said("repository"):
        dependencies.append({**source, "digest": {"gitCommit": said("commit", "0" * 40)}})
    if "dependencies" in members:
        dependencies += [one.json for one in members["dependencies"].items(1000)]
    predicate: dict[str, Any] = {
        "buildDefinition": {
            "buildType": said("build_type", "https://example.com/build"),
            "externalParameters": _object(members["parameters"]) if "parameters" in members else {},
            "internalParameters": {},
            "resolvedDependencies": dependencies,
        },
        "runDetails": {"builder": {"id": said("builder", "https://example.com/builder")}, "metadata": {}},
    }
    if said("run"):
        predicate["runDetails"]["metadata"] = {"invocationId": said("run")}
    return PROVENANCE_V1, predicate


def _of_attestation(value: Value, members: Mapping[str, Value]) -> tuple[str, dict[str, Any]]:
    kind = value.member("type").text(512)
    known = by_short_name(kind)
    predicate = _object(members["predicate"]) if "predicate" in members else {}
    return known.types[0] if known is not None else kind, predicate


def _of_summary(value: Value, members: Mapping[str, Value]) -> tuple[str, dict[str, Any]]:
    result = members["result"].text(10) if "result" in members else "PASSED"
    return SUMMARY, {
        "verifier": {"id": value.member("verifier").text(512)},
        "timeVerified": "2030-01-01T00:00:00Z",
        "resourceUri": members["resource"].text(1024) if "resource" in members else f"urn:sha256:{_DIGEST}",
        "policy": {"uri": "https://example.com/policy"},
        "verificationResult": result,
        "verifiedLevels": [one.text(100) for one in members["levels"].items(20)] if "levels" in members else ["FAILED"],
    }


def _of_scan(_: Value, members: Mapping[str, Value]) -> tuple[str, dict[str, Any]]:
    findings = members["findings"].items(1000) if "findings" in members else []
    results = []
    for one in findings:
        said = one.members({"id", "severity"})
        severity = [{"method": "nvd", "score": said["severity"].text(20)}]
        results.append({"id": said["id"].text(100), "severity": severity})
    return VULNS_V0_1, {
        "scanner": {
            "uri": "https://example.com/scanner",
            "db": {"lastUpdate": "2030-01-01T00:00:00Z"},
            "result": results,
        },
        "metadata": {"scanStartedOn": "2030-01-01T00:00:00Z", "scanFinishedOn": "2030-01-01T00:00:00Z"},
    }


_PREDICATES = {
    "signature": _of_signature,
    "provenance": _of_provenance,
    "attestation": _of_attestation,
    "summary": _of_summary,
    "scan": _of_scan,
}
_MEMBERS: Mapping[str, set[str]] = {
    "signature": set(),
    "provenance": {"builder", "repository", "ref", "commit", "build_type", "parameters", "run", "dependencies"},
    "attestation": {"type", "predicate"},
    "summary": {"verifier", "result", "levels", "resource"},
    "scan": {"findings"},
}
