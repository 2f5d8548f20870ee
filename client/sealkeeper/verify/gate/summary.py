"""SLSA Verification Summaries: what a gate signs of its verdict, so that the next gate needs one check.

Source: https://slsa.dev/spec/v1.0/verification_summary.
"""

from __future__ import annotations

from typing import Any

from sealkeeper.verify.gate.decision import Artifact, Decision
from sealkeeper.verify.gate.policy import GatePolicy

PREDICATE_TYPE = "https://slsa.dev/verification_summary/v1"
SLSA_VERSION = "1.0"
MAX_INPUTS = 1000


def verifier_id(gateway: str, gate: str, environment: str = "") -> str:
    """How a gate is called in its summaries.

    Args:
        gateway: its domain.
        gate: ``tenants/{tenant}/gates/{gate}``.
        environment: whose own rules decided; empty where those did that hold everywhere.
    """
    place = f"/environments/{environment}" if environment else ""
    return f"https://{gateway}/{gate}{place}"


def own_environment(policy: GatePolicy, environment: str) -> str | None:
    """The environment, where it has rules of its own, and empty where those of everywhere hold.

    What passed by the rules of one environment must not be taken for what passed by those of another. So there is no
    summary, ``None``, where a Rego module may judge by an environment that the policy does not name: anybody can make
    up as many of these as they like.
    """
    if environment in policy.environments:
        return environment
    rules = policy.rules(environment)
    return None if rules is None or (rules.rego and environment) else ""


def summary_predicate(decision: Decision, gateway: str, gate: str, environment: str = "") -> dict[str, Any]:
    """The predicate of a verdict. An exception, or a mode that lets all pass, makes no verdict PASSED.

    Args:
        decision: on it.
        gateway: its domain.
        gate: ``tenants/{tenant}/gates/{gate}``.
        environment: as ``own_environment`` has it.
    """
    passed = decision.verdict.passed
    return {
        "verifier": {"id": verifier_id(gateway, gate, environment)},
        "timeVerified": decision.time.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "resourceUri": resource_uri(decision.artifact),
        "policy": {
            "uri": f"https://{gateway}/{decision.policy_name}",
            "digest": {"sha256": decision.policy_digest.hex()},
        },
        "inputAttestations": [
            {"digest": {"sha256": one.removeprefix("sha256:")}} for one in decision.verdict.attestations[:MAX_INPUTS]
        ],
        "verificationResult": "PASSED" if passed else "FAILED",
        "verifiedLevels": list(decision.levels) if passed else ["FAILED"],
        "slsaVersion": SLSA_VERSION,
    }


def resource_uri(artifact: Artifact) -> str:
    """A URI that names the artifact by its digest: what it is called is in the subject, and nobody has verified it."""
    algorithm, _, value = artifact.digest.partition(":")
    return f"urn:{algorithm}:{value}"
