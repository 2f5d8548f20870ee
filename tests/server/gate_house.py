"""A gateway with keys and gates, whose policies another person has approved."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest

from sealkeeper.client import Client
from sealkeeper.client.errors import ProposedError
from sealkeeper.client.operations import digest_content
from sealkeeper.server.gateway import Gateway
from sealkeeper.server.identity import Role
from sealkeeper.v1 import attestation_pb2, attestation_pb2_grpc, gate_pb2
from tests.e2e.running import P256, PARENT
from tests.server.house import House
from tests.server.people import add_person, decide

GATE = f"{PARENT}/gates/production"
KEY = f"{PARENT}/keys/release"
VERDICTS = f"{PARENT}/keys/verdicts"
POLICY = f"""
gate: v1
verdict_key: {VERDICTS}
signers:
  release: {{key: {KEY}}}
require:
  signatures: {{signers: [release]}}
"""
ALLOW, DENY = gate_pb2.GATE_OUTCOME_ALLOW, gate_pb2.GATE_OUTCOME_DENY


def artifact(content: str, name: str = "ghcr.io/acme/app") -> attestation_pb2.Subject:
    """An artifact with this content."""
    return attestation_pb2.Subject(name=name, digest={"sha256": sha256(content.encode()).hexdigest()})


def codes(decision: gate_pb2.GateDecision) -> list[str]:
    """The codes of its reasons."""
    return [one.code for one in decision.reasons]


class GateHouse:
    """A gateway's folder, with a second person who approves."""

    def __init__(self, house: House) -> None:
        self.house = house
        self._second = add_person(house.directory, Role.ADMIN, "second")

    @classmethod
    async def make(cls, directory: Path, policy: str | None = None, settings: str = "") -> GateHouse:
        house = await House.make(directory, policy)
        house.settings(settings)
        return cls(house)

    async def furnish(self, gateway: Gateway, text: str = POLICY, gate: str = GATE) -> None:
        """Make the keys, where they are not there, and put a policy in force."""
        for key in ("release", "verdicts"):
            known = await self.ask(gateway, "admin", lambda client: [one.name for one in client.list_keys(PARENT)])
            if f"{PARENT}/keys/{key}" not in known:
                await self.ask(gateway, "custodian", lambda client, key=key: client.create_key(PARENT, key, P256))
        await self.put(gateway, text, gate)

    async def put(self, gateway: Gateway, text: str, gate: str = GATE) -> str:
        """Put a policy in force; the proposal."""

        def propose(client: Client) -> str:
            base = {one.name.rpartition("/versions/")[0]: one.number for one in client.list_gates(PARENT)}.get(gate, 0)
            with pytest.raises(ProposedError) as caught:
                client.update_gate(gate, text, base, "a test")
            return caught.value.proposal

        name: str = await self.ask(gateway, "admin", propose)
        await self.approve(gateway, name)
        return name

    async def approve(self, gateway: Gateway, proposal: str) -> Any:
        key = self.house.directory / "clients" / self._second / "key.pem"
        return await self.ask(gateway, self._second, lambda client: decide(client, proposal, key))

    async def ask(self, gateway: Gateway, role: str, question: Any) -> Any:
        return await self.house.ask(gateway, role, question)

    async def signed(self, gateway: Gateway, subject: attestation_pb2.Subject, key: str = KEY) -> bytes:
        """The bundle of a signature of an artifact."""
        content = digest_content("SHA2_256", bytes.fromhex(subject.digest["sha256"]))
        found = await self.ask(gateway, "ci", lambda client: client.sign(key, content))
        bundle: bytes = found.signature.bundle
        return bundle

    async def evaluate(
        self,
        gateway: Gateway,
        subject: attestation_pb2.Subject,
        *,
        gate: str = GATE,
        role: str = "verifier",
        **more: Any,
    ) -> gate_pb2.EvaluateResponse:
        """Ask a gate."""
        found: gate_pb2.EvaluateResponse = await self.ask(
            gateway, role, lambda client: client.evaluate_gate(gate, subject, **more)
        )
        return found

    async def attest(
        self,
        gateway: Gateway,
        subject: attestation_pb2.Subject,
        predicate: Mapping[str, Any] | None = None,
        kind: str = "https://example.com/review/v1",
        key: str = KEY,
    ) -> attestation_pb2.AttestationRecord:
        """Have the gateway sign and keep an attestation."""
        request = attestation_pb2.AttestRequest(
            key=key,
            subjects=[subject],
            predicate=attestation_pb2.Predicate(type=kind, json=json.dumps(predicate or {}).encode()),
        )
        connection = self.house.connection(gateway, "ci")

        def work() -> attestation_pb2.AttestationRecord:
            with grpc.secure_channel(connection.endpoint, connection.credentials()) as channel:
                answer = attestation_pb2_grpc.AttestationServiceStub(channel).Attest(request, timeout=30)
            return answer.attestation

        return await asyncio.to_thread(work)
