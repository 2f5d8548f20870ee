"""SLSA Verification Summaries of gates: signed with the key that the policy names, once for what is the same."""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeAlias

import rfc8785

from sealkeeper.hsm import ProviderError
from sealkeeper.server.calls import Call
from sealkeeper.server.errors import SealkeeperError
from sealkeeper.server.gate import GateInForce
from sealkeeper.server.gate_evaluation import Evaluated
from sealkeeper.server.gates import verdict_key
from sealkeeper.server.resources import GateName
from sealkeeper.server.signing import Content, ContentKind, Material, Signature, Signing
from sealkeeper.server.status import reason_of
from sealkeeper.verify.gate.decision import Artifact
from sealkeeper.verify.gate.summary import PREDICATE_TYPE, own_environment, summary_predicate
from sealkeeper.verify.statement import PAYLOAD_TYPE, Subject, encode_statement
from sealkeeper.verify.trust import TrustRoot

_MAX_REMEMBERED = 1000
_log = logging.getLogger("sealkeeper.gates")
_Key: TypeAlias = tuple[GateName, str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class Summary:
    """A signed summary.

    Attributes:
        signature: with its bundle.
        environment: whose own rules decided; empty where those of everywhere did.
    """

    signature: Signature = field(repr=False)
    environment: str


@dataclass(frozen=True, slots=True)
class _Signed:
    summary: Summary
    time: datetime
    said: tuple[object, ...]
    trust: TrustRoot


class GateSummaries:
    """Signs summaries. Used on the event loop.

    Args:
        signing: signs.
        gateway: its domain.
        again: a summary that says the same is signed anew after this time.
    """

    def __init__(self, signing: Signing, gateway: str, again: timedelta) -> None:
        self._signing = signing
        self._gateway = gateway
        self._again = again
        self._known: OrderedDict[_Key, _Signed] = OrderedDict()

    async def summary(self, gate: GateInForce, evaluated: Evaluated, call: Call) -> Summary | None:
        """The summary of a verdict; the one of before where it says the same and is new enough.

        A gate decides whether or not its key signs: where it does not, there is no summary, and whoever asks for one
        refuses. The call's record says why.

        Args:
            gate: that decided.
            evaluated: its answer.
            call: under way; where something is signed, its record is durable with it.
        """
        policy, decision = gate.policy, evaluated.decision
        if policy is None or not policy.verdict_key:
            return None
        environment = own_environment(policy, decision.environment)
        if environment is None:
            return None
        name = gate.version.name.parent
        key = name, environment, tuple(sorted(decision.artifact.digests.items()))
        said = gate.version.number, decision.verdict.passed, decision.levels
        known = self._known.get(key)
        if (
            known is not None
            and known.said == said
            and known.trust is evaluated.trust
            and timedelta(0) <= decision.time - known.time < self._again
        ):
            return known.summary
        try:
            signature = await self._sign(gate, evaluated, environment, call)
        except (SealkeeperError, ProviderError) as error:
            call.details["summary"] = reason_of(error)
            _log.warning("the verdict of %s is not signed: %s", name, error)
            return None
        made = Summary(signature, environment)
        while len(self._known) >= _MAX_REMEMBERED:
            self._known.popitem(last=False)
        self._known[key] = _Signed(made, decision.time, said, evaluated.trust)
        return made

    async def _sign(self, gate: GateInForce, evaluated: Evaluated, environment: str, call: Call) -> Signature:
        decision = evaluated.decision
        predicate = summary_predicate(decision, self._gateway, str(gate.version.name.parent), environment)
        payload = encode_statement([_subject(decision.artifact)], PREDICATE_TYPE, rfc8785.dumps(predicate))
        assert gate.policy is not None  # noqa: S101  (looked at by the caller)
        call.quotas.admit_signatures(call.caller, 1)
        content = Content(
            ContentKind.DSSE, payload, payload_type=PAYLOAD_TYPE, artifact_name=decision.artifact.name[:512]
        )
        signed = await self._signing.sign(verdict_key(gate.policy.verdict_key), [content], Material.PUBLIC_KEY, call)
        return signed.signatures[0]


def _subject(artifact: Artifact) -> Subject:
    return Subject(artifact.name[:512], dict(artifact.digests))
