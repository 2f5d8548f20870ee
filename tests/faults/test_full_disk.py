"""The disk of a live gateway is full: it refuses, loses nothing, and goes on when there is space."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from sealkeeper.client import Client, message_content
from sealkeeper.client.errors import ClientError
from sealkeeper.client.retry import RetryPolicy
from sealkeeper.v1 import signing_pb2
from sealkeeper.verify import Artifact, Policy, verify
from tests.e2e.running import Running

PATIENT = RetryPolicy(attempts=60, random=lambda: 0.2)
SMALL = "150m"


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Running]:
    """A gateway whose state is on a small disk of its own."""
    made = Running.make(tmp_path / "gateway")
    state = made.directory / "state"
    kept = tmp_path / "kept"
    shutil.copytree(state, kept)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(state)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        shutil.copytree(kept, state, dirs_exist_ok=True)
        yield made
    finally:
        if made.process is not None:
            made.stop()
        subprocess.run(["umount", str(state)], check=True)


def fill(directory: Path) -> Path:
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(64 * 1024))
        except OSError:
            pass
    return ballast


def sign_for_ever(ci: Client, key: str, received: list[tuple[bytes, signing_pb2.Signature]]) -> None:
    for number in count():
        messages = [b"%d %d" % (number, place) for place in range(500)]
        answer = ci.sign_batch(key, [message_content(one) for one in messages])
        received += zip(messages, answer.signatures, strict=True)


def test_a_full_disk_refuses_and_loses_nothing(gateway: Running) -> None:
    gateway.start()
    key = gateway.create_key("release")
    received: list[tuple[bytes, signing_pb2.Signature]] = []
    ballast = fill(gateway.directory / "state")
    with gateway.client("ci") as ci:
        with pytest.raises(ClientError) as caught:
            sign_for_ever(ci, key, received)
        assert caught.value.reason == "STORAGE_FULL"
        assert "space" in caught.value.next_step
    with gateway.client("custodian") as custodian, pytest.raises(ClientError) as caught:
        custodian.rotate_key(key)
    assert caught.value.reason == "STORAGE_FULL"
    ballast.unlink()
    with gateway.client("ci", PATIENT) as ci:
        last = ci.sign(key, message_content(b"last")).signature
        entries = list(ci.entries("logs/transparency"))
    received.append((b"last", last))
    assert len(entries) == len(received) == last.log_index + 1
    trust = gateway.trust()
    for message, signature in received[::97]:
        verify(signature.bundle, Artifact.from_bytes(message), trust, Policy(key=key)).require()
    assert gateway.stop() == 0
    with gateway.running():
        assert gateway.tree_size() == len(entries)
