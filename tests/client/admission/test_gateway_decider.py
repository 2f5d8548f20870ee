"""Deciding with a gateway, from kept answers, and without: a scripted gateway, and a registry that does as told."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sealkeeper.client.admission.decider import AnswerSource, Binding, ImageAnswer, ImageQuestion
from sealkeeper.client.admission.gateway_decider import DeciderSettings, GatewayDecider
from sealkeeper.client.errors import RefusedError, UnavailableError
from sealkeeper.client.gate_snapshots import HeldSnapshot
from sealkeeper.registry import Hosts, Registry
from sealkeeper.v1 import gate_pb2
from sealkeeper.verify import TrustRoot
from sealkeeper.verify.gate.policy import parse_policy
from sealkeeper.verify.gate.snapshot import Snapshot
from tests.registry.attached import bundle_json, bundle_manifest
from tests.registry.scripted_registry import ScriptedRegistry, hang, scripted_registry

GATE = "tenants/acme/gates/prod"
BINDING = Binding(GATE, "production")
POLICY = b"""
gate: v1
mode: MODE
verdict_key: tenants/acme/keys/gates
signers: {a: {key: tenants/acme/keys/a}}
require: {signatures: {signers: [a]}}
"""


class ScriptedGateway:
    """Answers as told, and knows what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.outcome = gate_pb2.GATE_OUTCOME_ALLOW
        self.refusal: Exception | None = None
        self.keys = b"{}"
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def close(self) -> None:
        pass

    async def call(self, operation: Any) -> Any:
        self.asked.append(operation.request)
        if self.refusal is not None:
            raise self.refusal
        if operation.method == "ReportDecisions":
            return [f"{GATE}/decisions/d{place}" for place, _ in enumerate(operation.request.decisions)]
        if operation.method == "GetGateSnapshot":
            return gate_pb2.GetGateSnapshotResponse(bundle=b"{}", keys=self.keys)
        if self.meanwhile is not None:
            happens, self.meanwhile = self.meanwhile, None
            await happens()
        allowed = self.outcome == gate_pb2.GATE_OUTCOME_ALLOW
        decision = gate_pb2.GateDecision(
            name=f"{GATE}/decisions/d1", outcome=self.outcome, passed=allowed, mode=gate_pb2.GATE_MODE_ENFORCE
        )
        return gate_pb2.EvaluateResponse(decision=decision)

    def of(self, kind: type[Any]) -> list[Any]:
        return [one for one in self.asked if isinstance(one, kind)]


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.passed = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.passed


@pytest.fixture
def images() -> Iterator[ScriptedRegistry]:
    with scripted_registry() as registry:
        yield registry


@pytest.fixture
def gateway() -> ScriptedGateway:
    return ScriptedGateway()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def decider(images: ScriptedRegistry, gateway: ScriptedGateway, clock: Clock) -> AsyncIterator[GatewayDecider]:
    registry = Registry(proxies={}, hosts=Hosts(insecure=frozenset({images.host})))
    settings = DeciderSettings({GATE: "tenants/acme/keys/gates"}, cache=300, fresh=10, tags=30)
    made = GatewayDecider(gateway, registry, settings, clock=clock)  # type: ignore[arg-type]
    yield made
    await made.close()


@pytest.fixture
def image(images: ScriptedRegistry) -> str:
    return f"{images.host}/acme/app@{images.push_image('acme/app', '1')}"


async def ask(decider: GatewayDecider, clock: Clock, image: str, seconds: float = 20, **more: Any) -> ImageAnswer:
    [answer] = await decider.decide([ImageQuestion(image, BINDING, **more)], clock() + seconds)
    return answer


def held(mode: str = "enforce") -> HeldSnapshot:
    now = datetime.now(UTC)
    policy = parse_policy(POLICY.replace(b"MODE", mode.encode()))
    empty = TrustRoot({}, {}, (), (), "", "", now, {})
    return HeldSnapshot(Snapshot(GATE, 3, policy, (), now - timedelta(1), now + timedelta(1)), empty)


async def test_the_gateway_decides_with_what_is_attached(
    decider: GatewayDecider, gateway: ScriptedGateway, images: ScriptedRegistry, image: str, clock: Clock
) -> None:
    digest = image.partition("@")[2]
    images.put_manifest("acme/app", bundle_manifest(images, digest, bundle_json()))
    answer = await ask(decider, clock, image)
    assert (answer.allowed, answer.source, answer.resolved) == (True, AnswerSource.GATEWAY, image)
    [request] = gateway.of(gate_pb2.EvaluateRequest)
    assert dict(request.subject.digest) == {"sha256": digest.removeprefix("sha256:")}
    assert (list(request.bundles), request.environment) == ([bundle_json()], "production")


async def test_a_tag_is_resolved_and_the_answer_says_to_what(
    decider: GatewayDecider, images: ScriptedRegistry, image: str, clock: Clock
) -> None:
    answer = await ask(decider, clock, f"{images.host}/acme/app:1")
    assert answer.resolved == image


async def test_the_same_question_a_moment_later_is_not_asked_again(
    decider: GatewayDecider, gateway: ScriptedGateway, image: str, clock: Clock
) -> None:
    await ask(decider, clock, image)
    assert (await ask(decider, clock, image)).source is AnswerSource.CACHE
    clock.passed += 11
    gateway.outcome = gate_pb2.GATE_OUTCOME_DENY
    answer = await ask(decider, clock, image)
    assert (answer.allowed, answer.source) == (False, AnswerSource.GATEWAY)


async def test_a_slow_registry_is_stood_in_for_by_an_answer_that_is_not_too_old(
    decider: GatewayDecider, images: ScriptedRegistry, image: str, clock: Clock
) -> None:
    await ask(decider, clock, image)
    digest = image.partition("@")[2]
    images.replies[f"/v2/acme/app/referrers/{digest}"] = hang
    clock.passed += 60
    answer = await ask(decider, clock, image, 0.5)
    assert (answer.allowed, answer.source) == (True, AnswerSource.CACHE)
    clock.passed += 300
    answer = await ask(decider, clock, image, 0.5)
    assert (answer.allowed, answer.source) == (False, AnswerSource.NONE)
    assert answer.reasons[0].code in ("GATE_TIMEOUT", "ATTESTATIONS_UNAVAILABLE", "REGISTRY_TIMEOUT")


async def test_nothing_is_kept_of_another_environment(
    decider: GatewayDecider, gateway: ScriptedGateway, image: str, clock: Clock
) -> None:
    await ask(decider, clock, image)
    other = ImageQuestion(image, replace(BINDING, environment="staging"))
    [answer] = await decider.decide([other], clock() + 20)
    assert answer.source is AnswerSource.GATEWAY


@pytest.mark.parametrize(("mode", "allowed"), [("enforce", False), ("warn", True)])
async def test_without_the_gateway_its_snapshot_decides_and_is_told_of_later(
    decider: GatewayDecider, gateway: ScriptedGateway, image: str, clock: Clock, mode: str, allowed: bool
) -> None:
    decider._held[GATE] = held(mode)
    gateway.refusal = UnavailableError("away")
    answer = await ask(decider, clock, image)
    assert (answer.allowed, answer.passed, answer.source) == (allowed, False, AnswerSource.OFFLINE)
    assert answer.reasons[0].code == "SIGNATURES_TOO_FEW"
    assert answer.warn is allowed
    gateway.refusal = None
    await decider._report(GATE)
    [report] = gateway.of(gate_pb2.ReportDecisionsRequest)
    assert [(one.offline, one.policy_version) for one in report.decisions] == [(True, f"{GATE}/versions/3")]
    await decider._report(GATE)
    assert len(gateway.of(gate_pb2.ReportDecisionsRequest)) == 1


async def test_a_dry_run_leaves_nothing_to_tell(
    decider: GatewayDecider, gateway: ScriptedGateway, image: str, clock: Clock
) -> None:
    decider._held[GATE] = held()
    gateway.refusal = UnavailableError("away")
    assert (await ask(decider, clock, image, dry_run=True)).source is AnswerSource.OFFLINE
    gateway.refusal = None
    await decider._report(GATE)
    assert gateway.of(gate_pb2.ReportDecisionsRequest) == []


async def test_without_the_gateway_and_a_snapshot_nobody_decides(
    decider: GatewayDecider, gateway: ScriptedGateway, image: str, clock: Clock
) -> None:
    gateway.refusal = UnavailableError("away")
    answer = await ask(decider, clock, image)
    assert (answer.allowed, answer.source, answer.reasons[0].message) == (False, AnswerSource.NONE, "away")
    assert "away" in await decider.ready()


async def test_an_expired_snapshot_decides_nothing(
    decider: GatewayDecider, gateway: ScriptedGateway, image: str, clock: Clock
) -> None:
    old = held("warn")
    decider._held[GATE] = replace(old, snapshot=replace(old.snapshot, expires=datetime.now(UTC)))
    gateway.refusal = UnavailableError("away")
    assert (await ask(decider, clock, image)).source is AnswerSource.NONE


async def test_a_refusal_of_the_gateway_is_no_reason_to_decide_without_it(
    decider: GatewayDecider, gateway: ScriptedGateway, image: str, clock: Clock
) -> None:
    decider._held[GATE] = held("warn")
    gateway.refusal = RefusedError("may not", reason="PERMISSION_DENIED")
    answer = await ask(decider, clock, image)
    assert (answer.source, answer.reasons[0].code) == (AnswerSource.NONE, "PERMISSION_DENIED")


async def test_what_is_no_image_is_an_answer(decider: GatewayDecider, clock: Clock) -> None:
    answer = await ask(decider, clock, "UPPER CASE")
    assert (answer.source, answer.reasons[0].code) == (AnswerSource.REGISTRY, "REFERENCE_INVALID")


async def test_more_than_can_be_looked_at_is_a_refusal_and_not_a_doubt(
    decider: GatewayDecider, images: ScriptedRegistry, image: str, clock: Clock
) -> None:
    digest = image.partition("@")[2]
    for place in range(65):
        images.put_manifest("acme/app", bundle_manifest(images, digest, bundle_json(str(place))))
    answer = await ask(decider, clock, image)
    assert (answer.allowed, answer.source) == (False, AnswerSource.REGISTRY)
    assert answer.reasons[0].code == "ATTESTATIONS_TOO_MANY"


async def test_a_registry_that_lies_about_a_digest_is_refused(
    decider: GatewayDecider, images: ScriptedRegistry, image: str, clock: Clock
) -> None:
    digest = image.partition("@")[2]
    kind, _ = images.manifests["acme/app", digest]
    images.manifests["acme/app", digest] = (kind, b"{}")
    answer = await ask(decider, clock, image)
    assert (answer.allowed, answer.source, answer.reasons[0].code) == (False, AnswerSource.REGISTRY, "DIGEST_LIES")


async def test_a_look_that_finds_no_change_makes_nothing_worthless(
    decider: GatewayDecider, gateway: ScriptedGateway, image: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealkeeper.client.admission.gateway_decider.held_snapshot", lambda *_: held())
    gateway.keys = b'{"issuedAt": "2026-01-01T00:00:00Z", "keys": []}'
    await decider._refresh(GATE)
    await ask(decider, clock, image)
    gateway.keys = b'{"issuedAt": "2026-01-01T00:00:10Z", "keys": []}'
    await decider._refresh(GATE)
    assert (await ask(decider, clock, image)).source is AnswerSource.CACHE
    gateway.keys = b'{"issuedAt": "2026-01-01T00:00:10Z", "keys": [{}]}'
    await decider._refresh(GATE)
    assert (await ask(decider, clock, image)).source is AnswerSource.GATEWAY


async def test_a_change_of_the_gate_makes_kept_answers_worthless(
    decider: GatewayDecider, gateway: ScriptedGateway, image: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ask(decider, clock, image)
    taken: Callable[..., HeldSnapshot] = lambda *_: held()  # noqa: E731
    monkeypatch.setattr("sealkeeper.client.admission.gateway_decider.held_snapshot", taken)
    await decider._take(GATE, gate_pb2.GetGateSnapshotResponse(bundle=b"{}"))
    assert (await ask(decider, clock, image)).source is AnswerSource.GATEWAY


async def test_an_answer_that_was_under_way_while_the_gate_changed_is_not_kept(
    decider: GatewayDecider, gateway: ScriptedGateway, image: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sealkeeper.client.admission.gateway_decider.held_snapshot", lambda *_: held())
    gateway.meanwhile = lambda: decider._refresh(GATE)
    assert (await ask(decider, clock, image)).source is AnswerSource.GATEWAY
    assert (await ask(decider, clock, image)).source is AnswerSource.GATEWAY
    assert (await ask(decider, clock, image)).source is AnswerSource.CACHE
