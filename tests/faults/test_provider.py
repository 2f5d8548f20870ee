"""A PKCS#11 token behind a live gateway: workers die, the token goes away and comes back, the PIN is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealkeeper.client import message_content
from sealkeeper.client.errors import UnavailableError
from sealkeeper.client.retry import RetryPolicy
from sealkeeper.verify import Artifact, Policy, verify
from tests.e2e.running import Running
from tests.stores.softhsm import softhsm

PATIENT = RetryPolicy(attempts=60, random=lambda: 0.2)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Running]:
    with softhsm(tmp_path) as uri:
        yield Running.make(tmp_path / "gateway", uri, SOFTHSM2_CONF=os.environ["SOFTHSM2_CONF"])


def workers(gateway: Running) -> list[int]:
    """The process ids of all workers, the eldest first."""
    assert gateway.process is not None
    command = ["ps", "--ppid", str(gateway.process.pid), "--sort=start_time", "-o", "pid=,args="]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return [int(line.split()[0]) for line in found.stdout.splitlines() if "sealkeeper.hsm.worker" in line]


def test_keys_in_a_token_sign_and_the_log_is_signed_there_too(gateway: Running) -> None:
    with gateway.running():
        key = gateway.create_key("release")
        with gateway.client("ci") as ci:
            for certificate in (False, True):
                bundle = ci.sign(key, message_content(b"x"), certificate=certificate).signature.bundle
                verify(bundle, Artifact.from_bytes(b"x"), gateway.trust(), Policy(key=key)).require()
        with gateway.client("custodian") as custodian:
            version = custodian.get_key_version(f"{key}/versions/1")
    assert version.protection_level == 2
    # Nothing of a private key is in the gateway's own folder.
    assert not any(path.name.endswith(".key") for path in (gateway.directory / "state").rglob("*"))


def test_a_worker_that_is_killed_is_replaced_and_nothing_signed_is_lost(gateway: Running) -> None:
    with gateway.running():
        key = gateway.create_key("release")
        with gateway.client("ci", PATIENT) as ci:
            received = []
            for number in range(6):
                killed = workers(gateway)
                for worker in killed:
                    os.kill(worker, signal.SIGKILL)
                received.append(ci.sign(key, message_content(b"%d" % number)).signature)
                assert killed
                assert not set(killed) & set(workers(gateway))
            entries = list(ci.entries("logs/transparency"))
        trust = gateway.trust()
        for number, signature in enumerate(received):
            artifact = Artifact.from_bytes(b"%d" % number)
            result = verify(signature.bundle, artifact, trust, Policy(key=key)).require()
            assert result.log_index is not None
            assert signature.log_index < len(entries)


def test_a_deadline_ends_a_call_that_a_key_store_holds_up_and_the_audit_log_says_so(gateway: Running) -> None:
    with gateway.running():
        key = gateway.create_key("release")
        for worker in workers(gateway):
            os.kill(worker, signal.SIGSTOP)
        with gateway.client("ci", timeout=0.5) as ci, pytest.raises(UnavailableError) as caught:
            ci.sign(key, message_content(b"x"))
        for worker in workers(gateway):
            os.kill(worker, signal.SIGCONT)
        assert caught.value.reason == "DEADLINE_EXCEEDED"
        assert "--timeout" in caught.value.next_step
        with gateway.client("ci") as ci:
            ci.sign(key, message_content(b"y"))
        with gateway.client("admin") as admin:
            records = [json.loads(one.body) for one in admin.entries("logs/audit") if one.body]
    signs = [one for one in records if one["method"] == "SigningService/Sign"]
    [cancelled] = [one for one in signs if one["outcome"] == "CANCELLED"]
    # What a request id stands for goes on without its caller, so that a retry finds the answer.
    assert cancelled["requestId"] in [one["requestId"] for one in signs if one["outcome"] == "OK"]


def test_a_token_that_is_taken_out_is_unavailable_until_it_is_back(gateway: Running, tmp_path: Path) -> None:
    tokens, away = tmp_path / "tokens", tmp_path / "away"
    with gateway.running():
        key = gateway.create_key("release")
        with gateway.client("ci") as ci:
            size = gateway.tree_size()
            tokens.rename(away)
            tokens.mkdir()
            for worker in workers(gateway):
                os.kill(worker, signal.SIGKILL)
            with pytest.raises(UnavailableError) as caught:
                ci.sign(key, message_content(b"x"))
            assert caught.value.reason in ("PROVIDER_UNAVAILABLE", "LOG_UNAVAILABLE")
            assert caught.value.next_step
            tokens.rmdir()
            away.rename(tokens)
        with gateway.client("ci", PATIENT) as ci:
            bundle = ci.sign(key, message_content(b"x")).signature.bundle
        # A try whose checkpoint could not be signed is in the log too, without an answer.
        assert gateway.tree_size() > size
        assert verify(bundle, Artifact.from_bytes(b"x"), gateway.trust(), Policy(key=key)).verified


def test_a_wrong_pin_is_tried_once_and_never_again_until_it_is_changed(gateway: Running, tmp_path: Path) -> None:
    pin = tmp_path / "pin"
    right = pin.read_text()
    pin.write_text("wrong-4711\n")
    command = [sys.executable, "-m", "sealkeeper.client.cli", "serve", str(gateway.directory)]
    for _ in range(12):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 3
        assert "PIN" in done.stderr
        assert "wrong-4711" not in done.stderr
    pin.write_text(right)
    with gateway.running():
        gateway.create_key("release")
