"""The gateway is killed again and again, while clients sign and while it is being opened.

All that clients received is in the log, which has one history.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
from base64 import b64decode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sealkeeper.client import message_content
from sealkeeper.client.client import AsyncClient
from sealkeeper.client.errors import ClientError
from sealkeeper.v1 import log_pb2, signing_pb2
from sealkeeper.verify import Artifact, Policy, verify
from sealkeeper.verify.log import DirectorySource, trusted_verifier, verify_log
from sealkeeper.verify.merkle import EMPTY_ROOT, leaf_hash, node_hash
from sealkeeper.verify.note import NoteVerifier, parse_checkpoint, parse_signed_note
from tests.e2e.running import NO_RETRY, PARENT, Running

ROUNDS = 10
CLIENTS = 8
BATCH = 7
ALGORITHM = "PKIX_ED25519"


@dataclass
class Received:
    """What clients were given, and the newest request of each that was not answered."""

    bundles: list[tuple[bytes, signing_pb2.Signature]] = field(default_factory=list)
    unanswered: dict[int, tuple[str, list[bytes]]] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)


async def sign_until_killed(gateway: Running, key: str, received: Received, seconds: float, round_: int) -> None:
    async def one(number: int) -> None:
        batch = BATCH if number % 4 == 1 else 1
        async with AsyncClient(gateway.connection("ci"), retry=NO_RETRY, timeout=10) as client:
            for count in range(1_000_000):
                # A request that the last kill swallowed is asked again first.
                request_id, messages = received.unanswered.get(
                    number,
                    (
                        f"{round_}-{number}-{count}",
                        [b"%d %d %d %d" % (round_, number, count, place) for place in range(batch)],
                    ),
                )
                received.unanswered[number] = request_id, messages
                contents, certificate = [message_content(message) for message in messages], number % 4 == 0
                try:
                    if batch > 1:
                        answer = await client.sign_batch(key, contents, request_id=request_id)
                        signatures = list(answer.signatures)
                    else:
                        single = await client.sign(key, *contents, certificate=certificate, request_id=request_id)
                        signatures = [single.signature]
                except ClientError:
                    return
                received.bundles += zip(messages, signatures, strict=True)
                del received.unanswered[number]

    async def create_keys() -> None:
        async with AsyncClient(gateway.connection("custodian"), retry=NO_RETRY, timeout=10) as client:
            for count in range(1_000_000):
                try:
                    answer = await client.create_key(PARENT, f"key-{round_}-{count}", ALGORITHM)
                except ClientError:
                    return
                received.keys.add(answer.key.name)

    tasks = [asyncio.create_task(one(number)) for number in range(CLIENTS)]
    tasks.append(asyncio.create_task(create_keys()))
    # How long is chance; that it is killed at work is not.
    await asyncio.sleep(seconds)
    assert gateway.process is not None
    gateway.process.send_signal(signal.SIGKILL)
    await asyncio.gather(*tasks)


def journal(gateway: Running) -> dict[str, int]:
    """The journal's segments and when they were written: nothing changes them until an opening is in its midst."""
    with suppress(FileNotFoundError):
        return {path.name: path.stat().st_mtime_ns for path in (gateway.logs / "journal").iterdir()}
    return {}


def kill_while_opening(gateway: Running, seconds: float) -> None:
    """Start the gateway and kill it when it has begun to change what lies there, before it serves."""
    before = journal(gateway)
    with ThreadPoolExecutor(1) as thread:
        starting = thread.submit(gateway.start)
        while journal(gateway) == before and not starting.done():
            time.sleep(0.001)
        # At which step of the opening is chance.
        time.sleep(seconds)
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGKILL)
        served = starting.exception() is None
    assert gateway.stop(signal.SIGKILL) == -signal.SIGKILL
    if served:
        # It was too quick: once more, at the first change.
        kill_while_opening(gateway, 0)


def checkpoints_of(received: Received) -> Iterator[str]:
    for _, signature in received.bundles:
        [entry] = json.loads(signature.bundle)["verificationMaterial"]["tlogEntries"]
        yield entry["inclusionProof"]["checkpoint"]["envelope"]


def roots_by_size(entries: list[log_pb2.LogEntry]) -> list[bytes]:
    """The root hash of the tree of each size, from a row of complete subtrees (RFC 6962 section 2.1)."""
    roots, row = [EMPTY_ROOT], list[tuple[int, bytes]]()
    for entry in entries:
        row.append((1, leaf_hash(entry.body)))
        while len(row) > 1 and row[-1][0] == row[-2][0]:
            (width, right), (_, left) = row.pop(), row.pop()
            row.append((2 * width, node_hash(left, right)))
        root = row[-1][1]
        for _, left in reversed(row[:-1]):
            root = node_hash(left, root)
        roots.append(root)
    return roots


@pytest.mark.timeout(600)
def test_every_signature_received_is_in_the_one_history(tmp_path: Path) -> None:
    gateway, received, chance = Running.make(tmp_path / "gateway"), Received(), random.Random(20261124)
    key, published, kills = "", list[str](), 0
    for round_ in range(ROUNDS):
        # The first opening of all is killed too, and some twice in a row.
        for _ in range((1, 0, 2, 2)[round_ % 4]):
            kill_while_opening(gateway, chance.uniform(0, 0.02))
            kills += 1
        gateway.start()
        key = key or gateway.create_key("release")
        asyncio.run(sign_until_killed(gateway, key, received, chance.uniform(0.05, 0.6), round_))
        assert gateway.stop(signal.SIGKILL) == -signal.SIGKILL
        kills += 1
        published.append((gateway.logs / "transparency" / "checkpoint").read_text())
    assert kills >= 20
    assert len(received.bundles) > ROUNDS * BATCH
    with gateway.running():
        trust = gateway.trust()
        with gateway.client("verifier") as client:
            entries = list(client.entries("logs/transparency"))
        with gateway.client("custodian") as client:
            assert {one.name for one in client.list_keys(PARENT)} >= received.keys
    for message, signature in received.bundles:
        [entry] = json.loads(signature.bundle)["verificationMaterial"]["tlogEntries"]
        assert entries[signature.log_index].body == b64decode(entry["canonicalizedBody"])
        assert verify(signature.bundle, Artifact.from_bytes(message), trust, Policy(key=key)).verified
    # Asked again after a kill or not: each message was signed once.
    digests = [json.loads(entry.body)["spec"]["hashedRekordV002"]["data"]["digest"] for entry in entries]
    assert len(set(digests)) == len(digests)
    # Whatever was received or published: it is of the one history.
    roots, [log] = roots_by_size(entries), trust.logs.values()
    for text in (*checkpoints_of(received), *published):
        note = parse_signed_note(text)
        log.verifier.verify(note)
        checkpoint = parse_checkpoint(note.text)
        assert checkpoint.root_hash == roots[checkpoint.size]
    audit = NoteVerifier.from_vkey((gateway.directory / "audit.vkey").read_text())
    for name in ("transparency", "ct", "audit"):
        source = DirectorySource(gateway.logs / name)
        assert verify_log(source, audit if name == "audit" else trusted_verifier(source, trust))
