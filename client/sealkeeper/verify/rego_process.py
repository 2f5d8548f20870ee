"""One process that evaluates Rego modules, as its parent sees it: asked, waited for until a deadline, and killed."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import Any

from sealkeeper.verify.errors import RegoFailedError, RegoMemoryError, RegoMissingError, RegoTimeoutError

MAX_ANSWER = 1024 * 1024
_START = 30.0
"""Seconds that a process may take to start."""
_END = 5.0
"""Seconds that one whose socket has closed may take to end by itself."""
_OUT_OF_MEMORY = 77
_COMPLAINTS = (b"bad_alloc", b"snmalloc")
_MAX_COMPLAINT = 4096


class WorkerKilledError(RegoFailedError):
    """The process was killed from outside, which is not the module's doing."""


class RegoProcess:
    """A process that is ready to evaluate.

    Args:
        timeout: seconds that each request may take.
        memory: bytes that it may take beside what the interpreter itself does.

    Raises:
        RegoMissingError: there is no interpreter, or this is not Linux.
        RegoFailedError: the process does not start.
    """

    def __init__(self, timeout: float, memory: int) -> None:
        if sys.platform != "linux":
            raise RegoMissingError("Rego is evaluated on Linux only, where its time and memory can be bounded")
        if importlib.util.find_spec("regopy") is None:
            raise RegoMissingError("Rego needs an interpreter, which is not installed: pip install 'sealkeeper[gate]'")
        self.asked = 0
        self._timeout = timeout
        self._memory = memory
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._start(theirs)
        except OSError as error:
            ours.close()
            raise RegoFailedError(f"the interpreter cannot be started: {error.strerror}") from None
        self._connection = ours
        try:
            self._require_ready()
        except BaseException:
            self.kill()
            raise

    def _require_ready(self) -> None:
        if self._answer(time.monotonic() + _START) != {"status": "ready"}:
            raise self._nonsense()

    def _start(self, connection: socket.socket) -> None:
        # -P: what lies in the working directory is not imported.
        command = [sys.executable, "-P", "-m", "sealkeeper.verify.rego_worker"]
        limits = [str(connection.fileno()), str(self._timeout), str(self._memory)]
        self._folder = tempfile.TemporaryDirectory(prefix="sealkeeper-rego-", ignore_cleanup_errors=True)
        self._complaints = os.memfd_create("rego", os.MFD_CLOEXEC)
        try:
            self._process = subprocess.Popen(  # noqa: S603  (this very interpreter)
                command + limits,
                pass_fds=(connection.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._complaints,
                cwd=self._folder.name,
                env={},
            )
        except OSError:
            self._clear()
            raise

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Ask, and wait. The process is no more once this has raised something.

        Raises:
            RegoTimeoutError: there was no answer in time.
            RegoMemoryError: there was not enough memory.
            RegoFailedError: the process died of it, or what it says makes no sense.
        """
        self.asked += 1
        deadline = time.monotonic() + self._timeout
        body = json.dumps(request, ensure_ascii=False).encode()
        try:
            self._connection.settimeout(self._timeout)
            self._connection.sendall(struct.pack(">I", len(body)) + body)
        except TimeoutError:
            raise self._late() from None
        except OSError:
            raise self._died() from None
        return self._answer(deadline)

    def kill(self) -> None:
        """End it, and wait until it has ended."""
        self._process.kill()
        self._process.wait()
        self._clear()

    def _clear(self) -> None:
        self._folder.cleanup()
        if self._complaints >= 0:
            os.close(self._complaints)
            self._complaints = -1
        if hasattr(self, "_connection"):
            self._connection.close()

    def _answer(self, deadline: float) -> dict[str, Any]:
        (length,) = struct.unpack(">I", self._received(4, deadline))
        if length > MAX_ANSWER:
            raise self._nonsense()
        try:
            answer = json.loads(self._received(length, deadline))
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise self._nonsense()
        return answer

    def _received(self, length: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < length:
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._late()
            try:
                self._connection.settimeout(left)
                piece = self._connection.recv(min(length - len(data), 1 << 16))
            except TimeoutError:
                raise self._late() from None
            except OSError:
                piece = b""
            if not piece:
                raise self._died()
            data += piece
        return bytes(data)

    def _late(self) -> RegoTimeoutError:
        self.kill()
        return RegoTimeoutError(f"the module was not through after {self._timeout:g} seconds: simplify it")

    def _nonsense(self) -> RegoFailedError:
        self.kill()
        return RegoFailedError("the interpreter answered what was not asked")

    def _died(self) -> RegoFailedError | RegoMemoryError | RegoTimeoutError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END)
        status, said = self._process.poll(), b""
        if self._complaints >= 0:
            said = os.pread(self._complaints, _MAX_COMPLAINT, 0)
        self.kill()
        if status == _OUT_OF_MEMORY or any(one in said for one in _COMPLAINTS):
            return RegoMemoryError(f"the module needs more than {self._memory // 2**20} MiB of memory: simplify it")
        if status in (-signal.SIGXCPU, -signal.SIGALRM):
            return self._late()
        if status == -signal.SIGKILL:
            return WorkerKilledError("the interpreter was killed")
        return RegoFailedError(f"the interpreter died of the module (status {status}): simplify it, nest it less")
