"""The gateway is killed again and again while clients sign: all they received is in the log, which has one history."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from base64 import b64decode
from collections.abc import Iterator
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
from tests.e2e.running import NO_RETRY, Running

ROUNDS = 20
CLIENTS = 8


@dataclass
class Received:
    """What clients were given, and the newest request of each that was not answered."""

    bundles: list[tuple[bytes, signing_pb2.Signature]] = field(default_factory=list)
    unanswered: dict[int, tuple[str, bytes]] = field(default_factory=dict)


async def sign_until_killed(gateway: Running, key: str, received: Received, seconds: float, round_: int) -> None:
    async def one(number: int) -> None:
        async with AsyncClient(gateway.connection("ci"), retry=NO_RETRY, timeout=10) as client:
            for count in range(1_000_000):
                # A request that the last kill swallowed is asked again first.
                request_id, message = received.unanswered.get(
                    number, (f"{round_}-{number}-{count}", b"%d %d %d" % (round_, number, count))
                )
                received.unanswered[number] = request_id, message
                try:
                    answer = await client.sign(
                        key, message_content(message), certificate=number % 4 == 0, request_id=request_id
                    )
                except ClientError:
                    return
                received.bundles.append((message, answer.signature))
                del received.unanswered[number]

    tasks = [asyncio.create_task(one(number)) for number in range(CLIENTS)]
    # How long is chance; that it is killed at work is not.
    await asyncio.sleep(seconds)
    assert gateway.process is not None
    gateway.process.send_signal(signal.SIGKILL)
    await asyncio.gather(*tasks)


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
    key, published = "", list[str]()
    for round_ in range(ROUNDS):
        gateway.start()
        key = key or gateway.create_key("release")
        asyncio.run(sign_until_killed(gateway, key, received, chance.uniform(0.05, 0.6), round_))
        assert gateway.stop(signal.SIGKILL) == -signal.SIGKILL
        published.append((gateway.logs / "transparency" / "checkpoint").read_text())
    assert len(received.bundles) > ROUNDS
    with gateway.running():
        trust = gateway.trust()
        with gateway.client("verifier") as client:
            entries = list(client.entries("logs/transparency"))
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
