"""What Rego modules of a policy are asked about; ``docs/gates/rego-input.schema.json`` is its JSON Schema."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sealkeeper.verify.gate.decision import Artifact, RuleResult
from sealkeeper.verify.gate.evidence import Evidence, Examined


def rego_input(
    artifact: Artifact,
    examined: Examined,
    results: Sequence[RuleResult],
    level: int,
    environment: str,
    now: datetime,
) -> dict[str, Any]:
    """The input document. Only what was verified and is of one of the policy's signers is in ``attestations``.

    What strangers have signed is apart: a module that looks for a predicate alone must not take theirs.
    """
    return {
        "artifact": {"name": artifact.name, "digests": dict(artifact.digests)},
        "environment": environment,
        "now": now.isoformat(),
        "level": level,
        "attestations": [_attestation(one) for one in examined.evidence if one.signers],
        "strangers": [_attestation(one) for one in examined.evidence if not one.signers],
        "refused": [
            {"digest": one.digest, "origin": one.origin, "predicate_type": one.predicate_type, "why": one.why}
            for one in examined.refused
        ],
        "rules": [{"rule": one.rule, "passed": one.passed, "detail": one.detail} for one in results],
    }


def _attestation(one: Evidence) -> dict[str, Any]:
    return {
        "digest": one.digest,
        "origin": one.origin,
        "time": one.time.isoformat(),
        "predicate_type": one.predicate_type,
        "predicate": dict(one.statement.predicate) if one.statement is not None else {},
        "signer": {
            "names": list(one.signers),
            "key": one.result.key_name,
            "identity": one.result.identity,
            "issuer": one.result.issuer,
            "trust_root": one.trust_root,
            "claims": dict(one.result.claims),
        },
    }
