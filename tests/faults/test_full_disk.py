"""The disk of a live gateway is full: it refuses, loses nothing, and goes on when there is space."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from sealkeeper.client import Client, message_content
from sealkeeper.client.errors import ClientError
from sealkeeper.client.retry import RetryPolicy
from sealkeeper.server.log import TRANSPARENCY, LogStorageFullError, Sequencer, Submission
from sealkeeper.v1 import signing_pb2
from sealkeeper.verify import Artifact, Policy, verify
from tests.e2e.running import Running
from tests.log.test_sequencer import entries, opened

PATIENT = RetryPolicy(attempts=60, random=lambda: 0.2)


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Running]:
    """A gateway whose state is on a small disk of its own."""
    made = Running.make(tmp_path / "gateway")
    state = made.directory / "state"
    kept = tmp_path / "kept"
    shutil.copytree(state, kept)
    with small_disk(state, "150m"):
        try:
            shutil.copytree(kept, state, dirs_exist_ok=True)
            yield made
        finally:
            if made.process is not None:
                made.stop()


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


async def test_a_log_whose_disk_filled_after_it_went_on_to_another_segment_goes_on_when_there_is_space(
    tmp_path: Path,
) -> None:
    received: list[bytes] = []

    async def submit(logs: Sequencer, count: int) -> None:
        for _ in range(count):
            body = b"%d " % len(received) + bytes(300)
            await logs.submit(Submission(transparency=[body]))
            received.append(body)

    with small_disk(tmp_path, "64m"):
        async with opened(tmp_path / "logs") as logs:
            for _ in range(2):
                await submit(logs, 100)
                ballast = fill(tmp_path)
                for _ in range(2):
                    with pytest.raises(LogStorageFullError):
                        await submit(logs, 1_000_000)
                ballast.unlink()
            await submit(logs, 100)
        async with opened(tmp_path / "logs") as logs:
            assert await entries(logs, TRANSPARENCY) == received
