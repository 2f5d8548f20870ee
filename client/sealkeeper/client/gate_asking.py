"""Asking a gate about one artifact: the gateway, or a policy here.

``AskGateway`` sends what the caller has found along with the question; ``AskHere`` decides by a policy file or a
snapshot, with a trust root from a folder. Both give the contract's decision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from sealkeeper.client.gate_evidence import Target
from sealkeeper.client.gate_messages import decision_message, subject_message
from sealkeeper.client.gate_operations import MAX_BUNDLES, MAX_BUNDLES_BYTES, evaluate_gate
from sealkeeper.verify.errors import EvidenceError
from sealkeeper.verify.gate.decision import Artifact, Decision, Outcome, Reason, RuleResult, Verdict
from sealkeeper.verify.gate.evaluate import Context, RegoEvaluator, evaluate
from sealkeeper.verify.gate.evidence import FoundBundle

if TYPE_CHECKING:
    from sealkeeper.client.client import Client
    from sealkeeper.v1 import gate_pb2
    from sealkeeper.verify import TrustRoot
    from sealkeeper.verify.gate.exceptions import GateException
    from sealkeeper.verify.gate.policy import GatePolicy


class Asking(Protocol):
    """Asks a gate."""

    def ask(self, target: Target, gather: Callable[[Artifact], Sequence[FoundBundle]]) -> gate_pb2.GateDecision:
        """Ask whether an artifact may run.

        Raises:
            ClientError: the gateway does not answer, or refuses to.
        """
        ...


@dataclass(frozen=True, slots=True)
class AskGateway:
    """Asks the gateway.

    Attributes:
        client: to it.
        gate: ``tenants/{tenant}/gates/{gate}``.
        environment: where the artifact is to run.
        dry_run: record nothing, sign nothing.
    """

    client: Client
    gate: str
    environment: str
    dry_run: bool = False

    def ask(self, target: Target, gather: Callable[[Artifact], Sequence[FoundBundle]]) -> gate_pb2.GateDecision:
        """As ``Asking`` has it."""
        artifact = target.artifact
        try:
            found = [one for each in (artifact, *artifact.children) for one in gather(each)]
            bundles = bounded(found)
        except EvidenceError as error:
            return self._undecided(artifact, error)
        answer = self.client.call(
            evaluate_gate(
                self.gate,
                subject_message(artifact),
                children=[subject_message(one) for one in artifact.children],
                environment=self.environment,
                bundles=bundles,
                dry_run=self.dry_run,
            )
        )
        return answer.decision

    def _undecided(self, artifact: Artifact, error: EvidenceError) -> gate_pb2.GateDecision:
        return decision_message(undecided(artifact, self.environment, error.reason, str(error)))


def bounded(found: Sequence[FoundBundle]) -> list[bytes]:
    """The bundles once each, as a request takes them.

    Raises:
        EvidenceError: they are too many or too large: what is left out could be what forbids.
    """
    bundles = list(dict.fromkeys(one.data for one in found))
    if len(bundles) > MAX_BUNDLES:
        raise EvidenceError("ATTESTATIONS_TOO_MANY", f"there are more than {MAX_BUNDLES} attestations")
    if sum(map(len, bundles)) > MAX_BUNDLES_BYTES:
        raise EvidenceError("ATTESTATIONS_TOO_LARGE", f"the attestations have more than {MAX_BUNDLES_BYTES} bytes")
    return bundles


def undecided(artifact: Artifact, environment: str, code: str, message: str) -> Decision:
    """The answer where nothing could be looked at: DENY, and why."""
    from sealkeeper.verify.gate.policy import Mode

    result = RuleResult("evidence", False, message, (Reason(code, message, "try again"),))
    return Decision(Outcome.DENY, Verdict((result,)), Mode.ENFORCE, artifact, environment, datetime.now(UTC), b"")


@dataclass(frozen=True, slots=True)
class AskHere:
    """Decides here.

    Attributes:
        policy: by which.
        trust: what is trusted.
        environment: where the artifact is to run.
        policy_name: and version, where it is known by one.
        exceptions: of the gate.
        rego: asks modules of the policy.
        offline: a newer trust root could not be had.
        now: gives the time.
    """

    policy: GatePolicy
    trust: TrustRoot
    environment: str
    policy_name: str = ""
    exceptions: Sequence[GateException] = ()
    rego: RegoEvaluator | None = None
    offline: bool = False
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def ask(self, target: Target, gather: Callable[[Artifact], Sequence[FoundBundle]]) -> gate_pb2.GateDecision:
        """As ``Asking`` has it."""
        context = Context(
            self.trust,
            gather,
            self.now(),
            self.environment,
            self.policy_name,
            self.exceptions,
            self.rego,
            self.offline,
        )
        return decision_message(evaluate(self.policy, target.artifact, context))
