"""Ports for servers that cannot be told to take any."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack, suppress

# Below what the kernel gives to connections and to servers that ask for any port, so that none is taken in between.
_RANGE = range(20_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on."""
    found: list[int] = []
    with ExitStack() as probes:
        for port in random.sample(_RANGE, 50 * count):
            probe = probes.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
            if len(found) == count:
                return found
    raise AssertionError("too few ports of loopback are free")
