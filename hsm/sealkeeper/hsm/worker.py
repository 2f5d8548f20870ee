"""The worker process: one thread, one backend, one socket.

Started by ``worker_provider.py`` as ``python -P -m sealkeeper.hsm.worker FD PARENT_PID``. It leaves when the gateway's
end of the socket closes, and signs long requests in pieces, so that they hold up no others. It writes no core dump, and
ignores Ctrl-C, which goes to the whole group: the gateway drains first.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sys
from collections import OrderedDict, deque

import msgspec

from sealkeeper.hsm import frames
from sealkeeper.hsm.algorithms import Algorithm, PublicKey, algorithm_named, load_public_key, signature_verifies
from sealkeeper.hsm.backend import Backend, BackendLostError, check_payloads
from sealkeeper.hsm.errors import AlgorithmNotSupportedError, ProviderError, SelfCheckError
from sealkeeper.hsm.provider import ProtectionLevel, ProviderKey
from sealkeeper.hsm.registry import open_backend

_PR_SET_DUMPABLE = 4
_PR_SET_PDEATHSIG = 1
_CACHE_LIMIT = 10_000
_FRAME_BYTES = 4 * 1024 * 1024
_PIECE = 16


class _Task:
    """A request, and what has been signed of it."""

    __slots__ = ("request", "signatures")

    def __init__(self, request: frames.Request) -> None:
        self.request = request
        self.signatures: list[bytes] = []


class _Host:
    """Answers requests with the backend that the first of them opens."""

    def __init__(self) -> None:
        self._backend: Backend | None = None
        self.lost = False
        self._public: OrderedDict[str, PublicKey] = OrderedDict()

    def advance(self, task: _Task) -> frames.Response | None:
        """Do a piece of a request; answers when it was the last."""
        request = task.request
        try:
            return self._advance(task)
        except ProviderError as error:
            self.lost = self.lost or isinstance(error, BackendLostError)
            return frames.Failed(request.id, error.reason, str(error), error.next_step)
        except Exception as error:  # noqa: BLE001  (a library's error must neither end the worker nor show its text)
            text = f"the key store failed unexpectedly ({type(error).__name__})"
            return frames.Failed(request.id, "PROVIDER_UNAVAILABLE", text, "look at the key store's own log")

    def _advance(self, task: _Task) -> frames.Response | None:
        request = task.request
        if isinstance(request, frames.Open):
            self._backend = open_backend(request.uri)
            info = self._backend.info
            return frames.Opened(
                request.id, info.scheme, info.description, info.protection_level, sorted(info.algorithms)
            )
        backend = self._backend
        if backend is None:
            raise ProviderError("the worker has opened no store")
        match request:
            case frames.Sign():
                done = self._sign(backend, request, task.signatures)
                return frames.Signed(request.id, task.signatures) if done else None
            case frames.Generate():
                return _key(request.id, backend.generate(request.label, _offered(backend, request.algorithm)))
            case frames.Read():
                return _key(request.id, backend.public_key(request.handle))
            case frames.Destroy():
                backend.destroy(request.handle)
                self._public.pop(request.handle, None)
            case frames.Check():
                backend.check()
        return frames.Done(request.id)

    def _sign(self, backend: Backend, request: frames.Sign, made: list[bytes]) -> bool:
        """Add signatures to those made; true when all are."""
        algorithm = _offered(backend, request.algorithm)
        if not made:
            check_payloads(algorithm, request.payloads)
        payloads = request.payloads[len(made) : len(made) + _PIECE]
        signatures = backend.sign(request.handle, algorithm, payloads)
        if backend.info.protection_level is not ProtectionLevel.SOFTWARE:
            public = self._public_key(backend, request.handle, algorithm)
            for payload, signature in zip(payloads, signatures, strict=True):
                if not signature_verifies(algorithm, public, payload, signature):
                    raise SelfCheckError(
                        "the key store made a signature that does not verify; it was withheld",
                        next_step="take the store out of use and have it examined",
                    )
        made += signatures
        return len(made) == len(request.payloads)

    def _public_key(self, backend: Backend, handle: str, algorithm: Algorithm) -> PublicKey:
        public = self._public.get(handle)
        if public is None:
            public = self._public[handle] = load_public_key(algorithm, backend.public_key(handle).public_key)
            if len(self._public) > _CACHE_LIMIT:
                self._public.popitem(last=False)
        return public


def _offered(backend: Backend, name: str) -> Algorithm:
    algorithm = algorithm_named(name)
    if name not in backend.info.algorithms:
        raise AlgorithmNotSupportedError(
            f"{backend.info.description} cannot do {name}",
            next_step=f"it can do: {', '.join(sorted(backend.info.algorithms))}",
        )
    return algorithm


def _key(number: int, key: ProviderKey) -> frames.Key:
    return frames.Key(number, key.handle, key.algorithm.name, key.public_key)


def _harden(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(0)


def _serve(connection: socket.socket, host: _Host) -> None:
    """Answer until the other end closes or the store is lost: a piece of each request in turn."""
    reader, tasks = frames.FrameReader(), deque[_Task]()
    while not host.lost and (data := _received(connection, wait=not tasks)) != b"":
        for body in reader.feed(data or b""):
            tasks.extend(_Task(request) for request in frames.requests.decode(body))
        # In as few frames as may be: woken less, the gateway has more time for its work.
        answers: list[frames.Response] = []
        length = 0
        for _ in range(len(tasks)):
            task = tasks.popleft()
            answer = host.advance(task)
            if answer is None:
                tasks.append(task)
                continue
            answers.append(answer)
            length += sum(map(len, task.signatures))
            if length > _FRAME_BYTES:
                connection.sendall(frames.frame(answers))
                answers, length = [], 0
        if answers:
            connection.sendall(frames.frame(answers))


def _received(connection: socket.socket, *, wait: bool) -> bytes | None:
    """What has come, nothing once the other end has closed; ``None`` where nothing came and there is work to do."""
    try:
        return connection.recv(1 << 20, 0 if wait else socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None


def main(descriptor: int, parent: int) -> None:
    """Serve until the other end closes."""
    _harden(parent)
    with socket.socket(fileno=descriptor) as connection:
        try:
            _serve(connection, _Host())
        except (msgspec.MsgspecError, frames.FrameError):
            raise SystemExit(1) from None


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
