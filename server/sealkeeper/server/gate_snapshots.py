"""Snapshots of gates: what a gate needs to decide by itself, signed with the key that its policy names."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sealkeeper.server.calls import Call
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.gate import GateInForce
from sealkeeper.server.gate_exceptions import GateExceptions
from sealkeeper.server.gates import Gates, verdict_key
from sealkeeper.server.resources import GateName
from sealkeeper.server.signing import Content, ContentKind, Material, Signing
from sealkeeper.server.trust import Trust
from sealkeeper.verify.gate.snapshot import PAYLOAD_TYPE, encode_snapshot
from sealkeeper.verify.trust import TrustRoot


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot.

    Attributes:
        bundle: its bundle; empty where the policy names no key to sign it with.
        payload: itself.
        trusted_root: JSON document, as are the keys.
        keys: of the tenant, as of now.
    """

    bundle: bytes = field(repr=False)
    payload: bytes = field(repr=False)
    trusted_root: bytes = field(repr=False)
    keys: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Made:
    version: int
    revision: int
    trust: TrustRoot
    renew: datetime
    bundle: bytes
    payload: bytes


class GateSnapshots:
    """Makes snapshots. Used on the event loop.

    Args:
        gates: whose policies are in force.
        exceptions: of them.
        signing: signs.
        trust: makes trust roots.
        clock: the time.
        lifetime: of a snapshot.
    """

    def __init__(
        self,
        gates: Gates,
        exceptions: GateExceptions,
        signing: Signing,
        trust: Trust,
        clock: SteadyClock,
        lifetime: timedelta,
    ) -> None:
        self._gates = gates
        self._exceptions = exceptions
        self._signing = signing
        self._trust = trust
        self._clock = clock
        self._lifetime = lifetime
        self._known: dict[GateName, _Made] = {}

    async def snapshot(self, name: GateName, call: Call) -> Snapshot:
        """The gate's snapshot; the one of before until half of its lifetime is over, unless something has changed.

        Args:
            name: of the gate.
            call: under way; where something is signed, its record is durable with it.

        Raises:
            NotFoundError: there is no such gate.
            SealkeeperError, ProviderError, LogError: as of ``Signing.sign``.
        """
        gate, now = self._gates.in_force(name), self._clock.now()
        trust, revision = await self._trust.root(name.tenant), self._exceptions.revision(name)
        made = self._known.get(name)
        current = (gate.version.number, revision)
        if made is None or (made.version, made.revision) != current or made.trust is not trust or now >= made.renew:
            made = self._known[name] = await self._make(gate, revision, trust, now, call)
        documents = await self._trust.documents(name.tenant)
        return Snapshot(made.bundle, made.payload, documents.trusted_root, documents.keys)

    async def _make(self, gate: GateInForce, revision: int, trust: TrustRoot, now: datetime, call: Call) -> _Made:
        name, version = gate.version.name.parent, gate.version.number
        payload = encode_snapshot(
            str(name),
            version,
            gate.version.text.encode(),
            self._exceptions.in_force(name, now),
            now,
            now + self._lifetime,
        )
        bundle = b""
        if gate.policy is not None and gate.policy.verdict_key:
            call.details["gateVersion"] = str(gate.version.name)
            call.quotas.admit_signatures(call.caller, 1)
            content = Content(
                ContentKind.DSSE, payload, payload_type=PAYLOAD_TYPE, artifact_name=str(gate.version.name)
            )
            key = verdict_key(gate.policy.verdict_key)
            signed = await self._signing.sign(key, [content], Material.PUBLIC_KEY, call)
            bundle = signed.signatures[0].bundle
        return _Made(version, revision, trust, now + self._lifetime / 2, bundle, payload)
