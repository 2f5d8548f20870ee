"""Several threads that serve one worker's requests, where the store is across a network and spends its time waiting.

Long requests are cut into pieces, and the threads take a piece of each in turn: a batch of a thousand is signed by all
of them at once, and holds up nobody who asks for one signature.
"""

from __future__ import annotations

import socket
from collections import deque
from contextlib import suppress
from threading import Condition, Lock, Thread

from sealkeeper.hsm import frames
from sealkeeper.hsm.backend import ConcurrentBackend
from sealkeeper.hsm.worker_host import WorkerHost


class _Task:
    """A request; where it is one to sign, its pieces so far.

    Attributes:
        request: what is asked.
        begun: payloads that have been taken up.
        left: payloads without a signature yet.
        signatures: by place.
        answered: an answer has gone out: no more of it is done.
    """

    __slots__ = ("answered", "begun", "left", "request", "signatures")

    def __init__(self, request: frames.Request) -> None:
        self.request = request
        self.begun = 0
        self.left = len(request.payloads) if isinstance(request, frames.Sign) else 0
        self.signatures = [b""] * self.left
        self.answered = False


class Crew:
    """Threads at work on a socket's requests.

    Args:
        connection: answers go out on it; each by one thread at a time.
        host: does the work.
        backend: whose limits count.
    """

    def __init__(self, connection: socket.socket, host: WorkerHost, backend: ConcurrentBackend) -> None:
        self._connection = connection
        self._host = host
        self._piece = max(1, backend.piece)
        self._sending = Lock()
        # Guards the tasks, and what they know of themselves.
        self._tasks: deque[_Task] = deque()
        self._changed = Condition()
        for number in range(backend.concurrency):
            Thread(target=self._work, name=f"store-{number}", daemon=True).start()

    def add(self, request: frames.Request) -> None:
        """Take a request up."""
        with self._changed:
            self._tasks.append(_Task(request))
            self._changed.notify()

    def _work(self) -> None:
        while True:
            task, start, end = self._next()
            if isinstance(task.request, frames.Sign):
                answer = self._sign(task, task.request, start, end)
            else:
                answer = self._host.answer(task.request)
            if answer is not None:
                self._send(answer)
            if self._host.lost:
                # Wakes the thread that reads, which ends the worker.
                with suppress(OSError):
                    self._connection.shutdown(socket.SHUT_RD)

    def _next(self) -> tuple[_Task, int, int]:
        """A task and the piece of it to do: the others go on with the rest."""
        with self._changed:
            while True:
                while not self._tasks:
                    self._changed.wait()
                task = self._tasks.popleft()
                if task.answered:
                    continue
                start = task.begun
                task.begun = min(start + self._piece, len(task.signatures))
                if task.begun < len(task.signatures):
                    self._tasks.append(task)
                    self._changed.notify()
                return task, start, task.begun

    def _sign(self, task: _Task, request: frames.Sign, start: int, end: int) -> frames.Response | None:
        """Sign a piece; the answer where it was the last, or the first that failed."""
        try:
            signatures = self._host.sign(request, start, end)
        except Exception as error:  # noqa: BLE001  (the host says what of it may be told)
            with self._changed:
                first, task.answered = not task.answered, True
            # Asked for each: it finds out whether the store is lost.
            failed = self._host.failed(request, error)
            return failed if first else None
        with self._changed:
            task.signatures[start:end] = signatures
            task.left -= end - start
            if task.left or task.answered:
                return None
            task.answered = True
        return frames.Signed(request.id, task.signatures)

    def _send(self, answer: frames.Response) -> None:
        # Where that fails the gateway has gone, and the worker goes with it.
        with suppress(OSError), self._sending:
            self._connection.sendall(frames.frame([answer]))
