"""What gates are asked: what is malformed is refused by its field, what is too much at a time too; what is old goes."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sealkeeper.client.errors import ClientError
from sealkeeper.server import gate_evaluation
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.errors import InvalidRequestError
from sealkeeper.server.gate_exceptions import MAX_ACTIVE, GateExceptions, order_of
from sealkeeper.server.gate_messages import question_of
from sealkeeper.server.gates import MAX_GATES
from sealkeeper.server.resources import GateName
from sealkeeper.server.settings import RegistrySettings
from sealkeeper.v1 import attestation_pb2, gate_pb2
from tests.e2e.running import PARENT
from tests.server.gate_house import DENY, GATE, POLICY, GateHouse, artifact
from tests.server.house import House

NAME = GateName("acme", "production")
SHA = "ab" * 32


def subject(name: str = "app", **digests: str) -> attestation_pb2.Subject:
    return attestation_pb2.Subject(name=name, digest=digests or {"sha256": SHA})


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"subject": None}, "subject.digest"),
        ({"subject": subject(sha1="ab" * 20)}, "subject.digest"),
        ({"subject": subject(sha256="AB" * 32)}, "subject.digest[sha256]"),
        ({"subject": subject(sha256="ab" * 31)}, "subject.digest[sha256]"),
        ({"subject": subject(sha256=SHA, sha384="zz" * 48)}, "subject.digest[sha384]"),
        ({"subject": subject(md5="ab" * 16, sha256=SHA)}, "subject.digest"),
        ({"subject": subject("a" * 513)}, "subject.name"),
        ({"subject": subject("a\nb")}, "subject.name"),
        ({"children": [subject(), subject(sha256="x")]}, "children[1].digest[sha256]"),
        ({"children": [subject()] * 1001}, "children"),
        ({"environment": "Production"}, "environment"),
        ({"environment": "a" * 64}, "environment"),
        ({"bundles": [b"x"] * 65}, "bundles"),
        ({"bundles": [b"x" * (5 * 1024 * 1024)] * 2}, "bundles"),
        ({"image": "no image"}, "image"),
        ({"image": f"ghcr.io/acme/app@sha256:{'cd' * 32}"}, "image"),
    ],
)
def test_a_malformed_question_is_refused_by_its_field(members: dict[str, Any], field: str) -> None:
    members = {"gate": GATE, "subject": subject(), **members}
    with pytest.raises(InvalidRequestError) as caught:
        question_of(gate_pb2.EvaluateRequest(**members), NAME)
    assert [one.field for one in caught.value.violations] == [field]


def test_a_good_question_is_taken_as_it_is() -> None:
    image = f"ghcr.io/acme/app:1.0@sha256:{SHA}"
    request = gate_pb2.EvaluateRequest(
        gate=GATE, subject=subject(), children=[subject("one")], environment="eu-1", bundles=[b"x"], image=image
    )
    found = question_of(request, NAME)
    assert (found.artifact.digest, found.artifact.children[0].name) == (f"sha256:{SHA}", "one")
    assert (found.environment, found.bundles, found.remember) == ("eu-1", (b"x",), True)
    assert found.image is not None
    assert found.image.registry == "ghcr.io"


@pytest.mark.parametrize("host", ["", "ghcr.io/acme", "https://ghcr.io", "GHCR.io", "ghcr.io:0", "ghcr.io:", "a b"])
def test_what_is_no_host_of_a_registry_is_no_setting(host: str) -> None:
    with pytest.raises(ValueError, match="must be the host of a registry"):
        RegistrySettings(host=host)


def test_hosts_of_registries_with_and_without_ports_are_settings() -> None:
    hosts = ["ghcr.io", "127.0.0.1:5000"]
    assert [RegistrySettings(host=one).host for one in hosts] == hosts


@pytest.mark.parametrize("name", ["", "/acme", "acme/", "Acme", "acme//app", "acme/*", "acme/../other"])
def test_what_is_no_repository_is_no_setting(name: str) -> None:
    with pytest.raises(ValueError, match="must be the name of a repository"):
        RegistrySettings(host="ghcr.io", repositories=["acme/app", name])


@pytest.fixture
async def house(tmp_path: Path) -> GateHouse:
    return await GateHouse.make(tmp_path / "gateway")


async def test_more_questions_than_there_are_places_are_refused_and_the_others_answered(
    house: GateHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_evaluation, "MAX_UNDER_WAY", 1)
    async with house.house.running() as gateway:
        await house.furnish(gateway)
        asked = [house.evaluate(gateway, artifact(str(number))) for number in range(12)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        refused = [one for one in answers if isinstance(one, ClientError)]
        assert {one.reason for one in refused} == {"OVERLOADED"}
        assert len(refused) < 12
        assert all(one.decision.outcome == DENY for one in answers if isinstance(one, gate_pb2.EvaluateResponse))
        assert (await house.evaluate(gateway, artifact("app"))).decision.outcome == DENY


async def test_decisions_are_forgotten_when_they_are_too_old_with_what_they_rest_on(tmp_path: Path) -> None:
    house = await GateHouse.make(tmp_path / "gateway", settings='[gates]\nkeep_decisions = "P1D"\n')
    app = artifact("app")
    evidence = house.house.directory / "state" / "evidence" / "acme"

    def kept() -> int:
        return sum(one.is_file() for one in evidence.rglob("*"))

    async with house.house.running() as gateway:
        await house.furnish(gateway)
        bundle = await house.signed(gateway, app)
        old = (await house.evaluate(gateway, app, bundles=[bundle])).decision
        assert kept() == 2
        house.house.ahead = 20 * 3600 * 10**9
        new = (await house.evaluate(gateway, artifact("other"))).decision
        await gateway._regular["gates"]()
        assert kept() == 3
        house.house.ahead = 25 * 3600 * 10**9
        await gateway._regular["gates"]()
        listed = await house.ask(gateway, "admin", lambda client: list(client.list_gate_decisions(GATE)))
        assert [one.name for one in listed] == [new.name]
        assert kept() == 1
        with pytest.raises(ClientError) as caught:
            await house.ask(gateway, "admin", lambda client: client.get_gate_decision(old.name))
        assert caught.value.reason == "DECISION_NOT_FOUND"


async def test_the_oldest_decisions_make_room_for_new_ones(tmp_path: Path) -> None:
    house = await GateHouse.make(tmp_path / "gateway", settings="[gates]\nmax_decisions = 1000\n")
    async with house.house.running() as gateway:
        await house.furnish(gateway)
        old = (await house.evaluate(gateway, artifact("old"))).decision.name
        parts = gateway._regular["gates"].__self__  # type: ignore[attr-defined]
        first = await house.ask(gateway, "admin", lambda client: client.get_gate_decision(old))
        told = gate_pb2.GateDecision()
        told.CopyFrom(first)
        told.time.FromDatetime(first.time.ToDatetime() + timedelta(seconds=1))
        await house.ask(gateway, "verifier", lambda client: client.report_gate_decisions(GATE, [told] * 1000))
        await parts.tidy()
        listed = await house.ask(gateway, "admin", lambda client: list(client.list_gate_decisions(GATE)))
        assert len(listed) == 1000
        assert old not in {one.name for one in listed}


class NoTable:
    """Takes everything."""

    async def write(self, *_: object) -> None:
        return


class NoAudit:
    """Records everything."""

    principal = None

    async def __call__(self, details: dict[str, object]) -> int:
        return 0


async def test_there_is_an_end_to_exceptions_of_a_gate_and_each_gate_has_its_own() -> None:
    exceptions = GateExceptions(NoTable(), SteadyClock())  # type: ignore[arg-type]
    parameters = {"digest": "", "pattern": "app:*", "environment": "", "lifetimeSeconds": 60}
    for _ in range(MAX_ACTIVE):
        await exceptions.create(order_of(NAME, parameters, "somebody", "a fix"), NoAudit())  # type: ignore[arg-type]
    with pytest.raises(Exception, match="1000 exceptions in force") as caught:
        await exceptions.create(order_of(NAME, parameters, "somebody", "a fix"), NoAudit())  # type: ignore[arg-type]
    assert getattr(caught.value, "reason", "") == "EXCEPTION_LIMIT"
    other = order_of(GateName("acme", "other"), parameters, "somebody", "a fix")
    assert (await exceptions.create(other, NoAudit())).name.gate == "other"  # type: ignore[arg-type]


async def test_there_is_an_end_to_gates_of_a_tenant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sealkeeper.server.gates.MAX_GATES", 1)
    assert MAX_GATES == 100
    house = GateHouse(await House.make(tmp_path / "gateway"))
    async with house.house.running() as gateway:
        await house.furnish(gateway)
        with pytest.raises(ClientError) as caught:
            await house.ask(gateway, "admin", lambda client: client.update_gate(f"{PARENT}/gates/more", POLICY, 0))
        assert caught.value.reason == "GATE_LIMIT"
