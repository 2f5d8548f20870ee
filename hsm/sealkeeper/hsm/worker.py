"""The worker process: one backend, one socket, and one thread unless the backend can do with several.

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
from collections import deque

import msgspec

from sealkeeper.hsm import frames
from sealkeeper.hsm.backend import ConcurrentBackend
from sealkeeper.hsm.worker_crew import Crew
from sealkeeper.hsm.worker_host import WorkerHost

_PR_SET_DUMPABLE = 4
_PR_SET_PDEATHSIG = 1
_FRAME_BYTES = 4 * 1024 * 1024
_PIECE = 16


class _Task:
    """A request, and what has been signed of it."""

    __slots__ = ("request", "signatures")

    def __init__(self, request: frames.Request) -> None:
        self.request = request
        self.signatures: list[bytes] = []

    def advance(self, host: WorkerHost) -> frames.Response | None:
        """Do a piece of it; the answer when it was the last."""
        request, made = self.request, self.signatures
        if not isinstance(request, frames.Sign):
            return host.answer(request)
        try:
            made += host.sign(request, len(made), len(made) + _PIECE)
        except Exception as error:  # noqa: BLE001  (the host says what of it may be told)
            return host.failed(request, error)
        return frames.Signed(request.id, made) if len(made) == len(request.payloads) else None


def _harden(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(0)


def _serve(connection: socket.socket, host: WorkerHost) -> None:
    """Answer until the other end closes or the store is lost: a piece of each request in turn."""
    reader, tasks = frames.FrameReader(), deque[_Task]()
    crew: Crew | None = None
    while not host.lost and (data := _received(connection, wait=not tasks)) != b"":
        for body in reader.feed(data or b""):
            for request in frames.requests.decode(body):
                if crew is not None:
                    crew.add(request)
                else:
                    tasks.append(_Task(request))
        crew = crew or _advance(connection, host, tasks)


def _advance(connection: socket.socket, host: WorkerHost, tasks: deque[_Task]) -> Crew | None:
    """Do a piece of each request. Once a store is open that several threads may use, there is a crew to go on with."""
    # In as few frames as may be: woken less, the gateway has more time for its work.
    answers: list[frames.Response] = []
    length = 0
    for _ in range(len(tasks)):
        task = tasks.popleft()
        answer = task.advance(host)
        if answer is None:
            tasks.append(task)
            continue
        answers.append(answer)
        length += sum(map(len, task.signatures))
        if length > _FRAME_BYTES:
            connection.sendall(frames.frame(answers))
            answers, length = [], 0
        if isinstance(answer, frames.Opened) and isinstance(host.backend, ConcurrentBackend):
            connection.sendall(frames.frame(answers))
            crew = Crew(connection, host, host.backend)
            for one in tasks:
                crew.add(one.request)
            tasks.clear()
            return crew
    if answers:
        connection.sendall(frames.frame(answers))
    return None


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
        host = WorkerHost()
        try:
            _serve(connection, host)
        except (msgspec.MsgspecError, frames.FrameError):
            raise SystemExit(1) from None
        finally:
            host.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
