"""What gates decide on: remembered verdicts, evidence that is too much, hangs or lies, and what leaves the gate up."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sealkeeper.client.errors import ClientError
from sealkeeper.server import gate_evaluation
from sealkeeper.v1 import attestation_pb2, gate_pb2
from tests.e2e.running import PARENT
from tests.registry.attached import bundle_manifest
from tests.registry.scripted_registry import scripted_registry
from tests.server.gate_house import ALLOW, DENY, GATE, KEY, POLICY, VERDICTS, GateHouse, artifact, codes

REVIEW = "https://example.com/review/v1"
REVIEWED = POLICY.replace(
    "signatures: {signers: [release]}", f"attestations: [{{type: '{REVIEW}', signers: [release]}}]"
)
SETTINGS = "[gates]\ncache = 300\n"


@pytest.fixture
async def house(tmp_path: Path) -> GateHouse:
    return await GateHouse.make(tmp_path / "gateway", settings=SETTINGS)


async def test_a_verdict_is_remembered_while_nothing_changes_and_each_answer_is_recorded(house: GateHouse) -> None:
    app = artifact("app")
    async with house.house.running() as gateway:
        await house.furnish(gateway, REVIEWED)
        await house.attest(gateway, app)
        answers = [await house.evaluate(gateway, app) for _ in range(3)]
        assert [one.decision.cached for one in answers] == [False, True, True]
        assert {one.decision.outcome for one in answers} == {ALLOW}
        # What says the same is signed once.
        assert len({one.summary.bundle for one in answers}) == 1
        names = await house.ask(gateway, "admin", lambda client: [one.name for one in client.list_gate_decisions(GATE)])
        assert sorted(names) == sorted(one.decision.name for one in answers)
        # Another environment is another question, and a new attestation another answer.
        assert not (await house.evaluate(gateway, app, environment="dev")).decision.cached
        await house.attest(gateway, app, {"result": "new"})
        assert not (await house.evaluate(gateway, app)).decision.cached
        assert (await house.evaluate(gateway, app)).decision.cached
        house.house.ahead = 301 * 10**9
        assert not (await house.evaluate(gateway, app)).decision.cached


async def test_a_compromised_key_counts_no_more_at_once(house: GateHouse) -> None:
    app = artifact("app")
    async with house.house.running() as gateway:
        await house.furnish(gateway, REVIEWED)
        await house.attest(gateway, app)
        await house.evaluate(gateway, app)
        assert (await house.evaluate(gateway, app)).decision.cached
        await house.ask(
            gateway, "custodian", lambda client: client.set_key_version_state(f"{KEY}/versions/1", "COMPROMISED")
        )
        found = (await house.evaluate(gateway, app)).decision
        assert (found.outcome, found.cached, codes(found)) == (DENY, False, ["ATTESTATION_MISSING"])


async def test_another_policy_decides_at_once(house: GateHouse) -> None:
    app = artifact("app")
    async with house.house.running() as gateway:
        await house.furnish(gateway, REVIEWED)
        await house.attest(gateway, app)
        await house.evaluate(gateway, app)
        await house.put(gateway, REVIEWED.replace(REVIEW, "https://example.com/other/v1"))
        found = (await house.evaluate(gateway, app)).decision
        assert (found.outcome, found.cached) == (DENY, False)


async def test_a_summary_of_one_gate_is_found_by_another(house: GateHouse) -> None:
    app, production = artifact("app"), f"{PARENT}/gates/last"
    promoted = f"""
gate: v1
signers: {{gates: {{key: {VERDICTS}}}}}
require:
  promotion: {{verifier: 'https://sealkeeper.example/{GATE}', signers: [gates]}}
"""
    async with house.house.running() as gateway:
        await house.furnish(gateway)
        await house.put(gateway, promoted, production)
        assert codes((await house.evaluate(gateway, app, gate=production)).decision) == ["SUMMARY_MISSING"]
        await house.evaluate(gateway, app)
        assert codes((await house.evaluate(gateway, app, gate=production)).decision) == ["SUMMARY_FAILED"]
        bundle = await house.signed(gateway, app)
        await house.evaluate(gateway, app, bundles=[bundle], without_summary=True)
        assert codes((await house.evaluate(gateway, app, gate=production)).decision) == ["SUMMARY_FAILED"]
        await house.evaluate(gateway, app, bundles=[bundle], dry_run=True)
        assert codes((await house.evaluate(gateway, app, gate=production)).decision) == ["SUMMARY_FAILED"]
        await house.evaluate(gateway, app, bundles=[bundle])
        assert (await house.evaluate(gateway, app, gate=production)).decision.outcome == ALLOW
        # However often a gate is asked, there is one summary of it.
        for number in range(70):
            await house.evaluate(gateway, app, bundles=[bundle] if number % 2 else [], request_id=f"r{number}")
        assert (await house.evaluate(gateway, app, gate=production)).decision.outcome == ALLOW


def many(database: Path, subject: attestation_pb2.Subject, count: int) -> None:
    """Put so many attestations of an artifact into the index, all with the bundle of the one that there is."""
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        cursor = connection.execute("select * from attestations limit 1")
        names = [one[0] for one in cursor.description]
        row = dict(zip(names, cursor.fetchone(), strict=True))
        rows = [{**row, "log_index": 10**9 + number, "bundle_digest": number.to_bytes(32)} for number in range(count)]
        connection.executemany(
            f"insert into attestations ({', '.join(names)}) values ({', '.join(f':{one}' for one in names)})", rows
        )
        connection.executemany(
            "insert into attestation_subjects (tenant, digest, log_index) values (?, ?, ?)",
            [("acme", f"sha256:{subject.digest['sha256']}", one["log_index"]) for one in rows],
        )


async def test_ten_thousand_attestations_are_refused_as_too_many_and_the_gate_stays_up(house: GateHouse) -> None:
    app, other = artifact("app"), artifact("other")
    async with house.house.running() as gateway:
        await house.furnish(gateway, REVIEWED)
        await house.attest(gateway, app)
        await house.attest(gateway, other)
        many(house.house.directory / "state" / "metadata.db", app, 10_000)
        found = (await house.evaluate(gateway, app)).decision
        assert (found.outcome, codes(found)) == (DENY, ["ATTESTATIONS_TOO_MANY"])
        assert (await house.evaluate(gateway, other)).decision.outcome == ALLOW


async def test_an_attestation_that_is_not_on_the_disk_any_more_refuses(house: GateHouse) -> None:
    app = artifact("app")
    async with house.house.running() as gateway:
        await house.furnish(gateway, REVIEWED)
        await house.attest(gateway, app)
        [path] = (house.house.directory / "state" / "attestations").rglob("*.json")
        path.write_bytes(path.read_bytes()[:-1])
        assert codes((await house.evaluate(gateway, app)).decision) == ["ATTESTATIONS_UNAVAILABLE"]


REGO = "package sealkeeper.gate\n\n"
ENDLESS = REGO + "allow if { some a in numbers.range(1, 100000); some b in numbers.range(1, 100000); a * b == -1 }\n"


async def test_a_module_that_never_ends_refuses_and_the_gate_stays_up(house: GateHouse) -> None:
    app, other = artifact("app"), f"{PARENT}/gates/other"
    rules = f"rego: {json.dumps([ENDLESS])}\n  signatures"
    async with house.house.running() as gateway:
        await house.furnish(gateway, POLICY.replace("signatures", rules, 1))
        await house.put(gateway, POLICY, other)
        bundle = await house.signed(gateway, app)
        found = (await house.evaluate(gateway, app, bundles=[bundle])).decision
        assert found.outcome == DENY
        assert set(codes(found)) <= {"REGO_TIMEOUT", "REGO_MEMORY", "REGO_FAILED"}
        assert (await house.evaluate(gateway, app, gate=other, bundles=[bundle])).decision.outcome == ALLOW


async def test_evidence_that_takes_too_long_refuses(house: GateHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    app = artifact("app")
    async with house.house.running() as gateway:
        await house.furnish(gateway)
        bundle = await house.signed(gateway, app)
        ticks: Iterator[float] = iter(range(0, 10**9, 1000))
        monkeypatch.setattr(gate_evaluation, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
        assert codes((await house.evaluate(gateway, app, bundles=[bundle])).decision) == ["ATTESTATIONS_TOO_MANY"]


HOSTILE: list[bytes] = [
    b"",
    b"{}",
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"\xff\xfe",
    b"null",
    json.dumps({"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"}).encode(),
    b"x" * (1024 * 1024),
]


async def test_bundles_that_are_none_are_reasons_and_no_errors(house: GateHouse) -> None:
    app = artifact("app")
    async with house.house.running() as gateway:
        await house.furnish(gateway)
        found = (await house.evaluate(gateway, app, bundles=HOSTILE)).decision
        assert (found.outcome, codes(found)) == (DENY, ["SIGNATURES_TOO_FEW"])
        assert "bundles[0] of the request" in found.reasons[0].message
        good = await house.signed(gateway, app)
        assert (await house.evaluate(gateway, app, bundles=[*HOSTILE, good])).decision.outcome == ALLOW
        # Nothing of it is kept but what verified, and the summaries.
        kept = list((house.house.directory / "state" / "evidence" / "acme").rglob("*"))
        assert sum(one.is_file() for one in kept) == 3


async def test_each_image_of_an_index_must_be_signed_too(house: GateHouse) -> None:
    index, images = artifact("index"), [artifact("amd64"), artifact("arm64")]
    async with house.house.running() as gateway:
        await house.furnish(gateway)
        bundles = [await house.signed(gateway, one) for one in (index, images[0])]
        found = (await house.evaluate(gateway, index, children=images, bundles=bundles)).decision
        assert (found.outcome, codes(found)) == (DENY, ["SIGNATURES_TOO_FEW"])
        bundles.append(await house.signed(gateway, images[1]))
        assert (await house.evaluate(gateway, index, children=images, bundles=bundles)).decision.outcome == ALLOW
        many_images = [artifact(str(number)) for number in range(101)]
        found = (await house.evaluate(gateway, index, children=many_images, bundles=bundles)).decision
        assert "CHILDREN_TOO_MANY" in codes(found)


async def test_a_registry_that_the_settings_do_not_name_is_not_asked(house: GateHouse) -> None:
    app = artifact("app")
    async with house.house.running() as gateway:
        await house.furnish(gateway)
        found = (await house.evaluate(gateway, app, image="ghcr.io/acme/app")).decision
        assert codes(found) == ["ATTESTATIONS_UNAVAILABLE"]
        assert "gates.registries" in found.reasons[0].message


async def test_a_registry_that_cannot_be_reached_refuses_and_is_asked_again(tmp_path: Path) -> None:
    app = artifact("app")
    house = await GateHouse.make(tmp_path / "gateway", settings='[gates.registries.local]\nhost = "127.0.0.1:9"\n')
    async with house.house.running() as gateway:
        await house.furnish(gateway)
        for _ in range(2):
            found = (await house.evaluate(gateway, app, image="127.0.0.1:9/acme/app")).decision
            assert (codes(found), found.cached) == (["ATTESTATIONS_UNAVAILABLE"], False)


async def test_what_is_attached_in_a_registry_that_the_settings_name_counts_and_is_remembered(tmp_path: Path) -> None:
    with scripted_registry() as registry:
        settings = f'[gates.registries.local]\nhost = "{registry.host}"\n'
        house = await GateHouse.make(tmp_path / "gateway", settings=settings)
        image = registry.push_image("acme/app", "1.0")
        app = attestation_pb2.Subject(name=f"{registry.host}/acme/app:1.0", digest={"sha256": image[7:]})
        async with house.house.running() as gateway:
            await house.furnish(gateway)
            bundle = await house.signed(gateway, app)
            registry.put_manifest("acme/app", bundle_manifest(registry, image, bundle))
            found = (await house.evaluate(gateway, app, image=app.name)).decision
            assert (found.outcome, found.cached) == (ALLOW, False)
            asked = len(registry.seen)
            found = (await house.evaluate(gateway, app, image=app.name)).decision
            assert (found.outcome, found.cached, len(registry.seen)) == (ALLOW, True, asked)
            # Without the registry there is nothing.
            assert (await house.evaluate(gateway, app)).decision.outcome == DENY
            with pytest.raises(ClientError) as caught:
                await house.evaluate(gateway, artifact("other"), image=f"{registry.host}/acme/app@{image}")
            assert caught.value.violations[0].field == "image"


def decided(client: Any) -> list[gate_pb2.GateDecision]:
    return list(client.list_gate_decisions(GATE))


async def test_a_gate_whose_policy_is_none_any_more_refuses_everything_and_can_be_mended(house: GateHouse) -> None:
    app = artifact("app")
    async with house.house.running() as gateway:
        await house.furnish(gateway)
        bundle = await house.signed(gateway, app)
    with closing(sqlite3.connect(house.house.directory / "state" / "metadata.db")) as connection, connection:
        connection.execute("update gates set text = ?", (b"gate: v0\n",))
    async with house.house.running() as gateway:
        found = (await house.evaluate(gateway, app, bundles=[bundle])).decision
        assert (found.outcome, codes(found)) == (DENY, ["POLICY_UNUSABLE"])
        await house.put(gateway, POLICY)
        assert (await house.evaluate(gateway, app, bundles=[bundle])).decision.outcome == ALLOW
        assert [one.outcome for one in await house.ask(gateway, "admin", decided)] == [ALLOW, DENY]
