"""The gateway is killed while gates are asked: what was answered is on record, with what it rests on."""

from __future__ import annotations

import json
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from sealkeeper.client import Client
from sealkeeper.client.errors import ClientError, ProposedError
from sealkeeper.client.operations import digest_content
from sealkeeper.server.identity import Role
from sealkeeper.v1 import attestation_pb2, gate_pb2
from tests.e2e.running import PARENT, Running
from tests.server.gate_house import GATE, POLICY
from tests.server.house import audit_records
from tests.server.people import add_person, decide, proposed

ROUNDS = 4


def furnish(gateway: Running) -> None:
    for key in ("release", "verdicts"):
        gateway.create_key(key)
    second = add_person(gateway.directory, Role.ADMIN, "second")
    with gateway.client("admin") as admin, pytest.raises(ProposedError) as caught:
        admin.update_gate(GATE, POLICY, 0)
    with gateway.client(second) as approver:
        decide(approver, proposed(caught.value), gateway.directory / "clients" / second / "key.pem")


def ask(client: Client, number: int, bundle: bytes) -> gate_pb2.EvaluateResponse:
    content = sha256(f"{number % 3}".encode()).hexdigest()
    subject = attestation_pb2.Subject(name="app", digest={"sha256": content})
    return client.evaluate_gate(GATE, subject, bundles=[bundle], request_id=f"r{number}")


def until_killed(gateway: Running, first: int, bundle: bytes, count: int) -> dict[int, gate_pb2.EvaluateResponse]:
    """Ask until the gateway is gone, which it is after so many answers; these, by number."""
    answers: dict[int, gate_pb2.EvaluateResponse] = {}

    def work(start: int) -> None:
        try:
            with gateway.client("verifier") as client:
                for number in range(start, start + 10_000, 2):
                    answers[number] = ask(client, number, bundle)
                    if len(answers) == count and gateway.process is not None:
                        gateway.process.send_signal(signal.SIGKILL)
        except ClientError:
            pass

    with ThreadPoolExecutor(2) as threads:
        for one in [threads.submit(work, first + offset) for offset in range(2)]:
            one.result()
    assert gateway.stop(signal.SIGKILL) == -signal.SIGKILL
    return answers


@pytest.mark.timeout(300)
def test_what_a_gate_has_answered_is_on_record_whenever_the_gateway_is_killed(tmp_path: Path) -> None:
    gateway, chance = Running.make(tmp_path / "gateway"), random.Random(20261125)
    gateway.start()
    furnish(gateway)
    with gateway.client("ci") as ci:
        signed = ci.sign(f"{PARENT}/keys/release", digest_content("SHA2_256", sha256(b"1").digest()))
    bundle, answers = signed.signature.bundle, dict[int, gate_pb2.EvaluateResponse]()
    for place in range(ROUNDS):
        made = until_killed(gateway, place * 100_000, bundle, chance.randint(3, 15))
        assert made
        answers.update(made)
        gateway.start()
        with gateway.client("verifier") as verifier:
            # A retry is answered as it was.
            for number, answer in made.items():
                assert ask(verifier, number, bundle) == answer
    with gateway.client("admin") as admin:
        listed = {one.name: one for one in admin.list_gate_decisions(GATE)}
        recorded = {
            one["details"].get("decision") for one in audit_records(admin) if one["method"] == "GateService/Evaluate"
        }
        [*_, last] = admin.simulate_gate(GATE, POLICY)
    names = {answer.decision.name for answer in answers.values()}
    assert names <= listed.keys()
    assert names <= recorded
    assert {one.outcome for one in listed.values()} == {gate_pb2.GATE_OUTCOME_ALLOW, gate_pb2.GATE_OUTCOME_DENY}
    # What they rest on is there: decided again, nothing comes out otherwise.
    assert (last.done, last.skipped, list(last.changes)) == (len(listed), 0, [])
    assert gateway.stop() == 0
    assert not [line for line in gateway.log_lines().splitlines() if json.loads(line)["level"] == "CRITICAL"]
