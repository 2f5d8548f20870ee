"""Several threads of one worker: what becomes of them when a store answers badly."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from hashlib import sha256

import pytest

from sealkeeper.hsm import frames
from sealkeeper.hsm.algorithms import ALGORITHMS, Algorithm
from sealkeeper.hsm.backend import BackendLostError
from sealkeeper.hsm.errors import KeyHandleError, ProviderThrottledError
from sealkeeper.hsm.private_keys import PrivateKey, generate, public_half, sign
from sealkeeper.hsm.provider import KeyEvidence, Origin, ProtectionLevel, ProviderInfo, ProviderKey
from sealkeeper.hsm.worker_crew import Crew, _Task
from sealkeeper.hsm.worker_host import WorkerHost

P256 = ALGORITHMS["PKIX_ECDSA_P256_SHA_256"]
DIGESTS = [sha256(bytes([n])).digest() for n in range(5)]
BAD = "a text that is no text: \udcff"


class Store:
    """A store across a network, with the answers of one that has gone bad."""

    concurrency = 2
    piece = 1
    info = ProviderInfo("test", "a store", ProtectionLevel.EXTERNAL, frozenset({P256.name}))

    def __init__(self) -> None:
        self.private: PrivateKey = generate(P256)

    def generate(self, label: str, algorithm: Algorithm) -> ProviderKey:
        raise ProviderThrottledError(BAD, next_step=BAD)

    def public_key(self, handle: str) -> ProviderKey:
        return ProviderKey(handle, P256, public_half(self.private))

    def sign(self, handle: str, algorithm: Algorithm, payloads: Sequence[bytes]) -> list[bytes]:
        if payloads[0] == DIGESTS[0]:
            raise KeyHandleError("gone")
        if payloads[0] == DIGESTS[1]:
            raise BackendLostError("lost")
        return sign(self.private, algorithm, payloads)

    def evidence(self, handle: str) -> KeyEvidence:
        return KeyEvidence(ProtectionLevel.EXTERNAL, Origin.UNKNOWN, None, {"claim": BAD})

    def destroy(self, handle: str) -> None:
        return

    def check(self) -> None:
        return

    def close(self) -> None:
        return


class Gateway:
    """The gateway's end of a crew's socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.reader = frames.FrameReader()

    def answers(self, count: int) -> list[frames.Response]:
        found: list[frames.Response] = []
        while len(found) < count:
            data = self.connection.recv(65536)
            assert data
            for body in self.reader.feed(data):
                found += frames.responses.decode(body)
        return found


@pytest.fixture
def host() -> WorkerHost:
    made = WorkerHost()
    made._backend = Store()
    return made


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    # So that a crew that does not answer is a failure, and not a test without an end.
    ours.settimeout(20)
    with ours, theirs:
        yield ours, theirs


def test_answers_that_cannot_be_written_cost_no_thread(
    host: WorkerHost, sockets: tuple[socket.socket, socket.socket]
) -> None:
    gateway, crew = Gateway(sockets[0]), Crew(sockets[1], host, Store())
    for number in range(4):
        crew.add(frames.Witness(number, "key"))
        crew.add(frames.Generate(number + 100, "label", P256.name))
    for answer in gateway.answers(8):
        assert isinstance(answer, frames.Failed)
        assert answer.reason == ("PROVIDER_THROTTLED" if answer.id >= 100 else "PROVIDER_UNAVAILABLE")
        assert "\\udcff" in answer.message or answer.id < 100
    crew.add(frames.Sign(200, "key", P256.name, DIGESTS[2:]))
    [signed] = gateway.answers(1)
    assert isinstance(signed, frames.Signed)
    assert len(signed.signatures) == 3


def test_a_store_that_is_lost_ends_the_worker_though_another_piece_failed_first(
    host: WorkerHost, sockets: tuple[socket.socket, socket.socket]
) -> None:
    crew = Crew(sockets[1], host, Store())
    request = frames.Sign(1, "key", P256.name, DIGESTS[:2])
    task = _Task(request)
    assert isinstance(crew._sign(task, request, 0, 1), frames.Failed)
    assert not host.lost
    assert crew._sign(task, request, 1, 2) is None
    assert host.lost
    # The thread that reads is woken.
    crew.add(frames.Check(2))
    assert sockets[1].recv(1) == b""
