"""Why a store across a network cannot be reached, from the errors that its SDK wraps around that of the system."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

_DEPTH = 12
_NO_WAY = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN}
NO_NAME = "its name is not known to this machine's DNS"
REFUSED = "the machine is there, but nothing listens on the port"
NO_WAY = "there is no way to it from this network"


def why_unreachable(error: BaseException) -> str:
    """What the system said, in words; empty where it said nothing of use."""
    for one in _inside(error, _DEPTH):
        if isinstance(one, socket.gaierror):
            return NO_NAME
        if isinstance(one, ConnectionRefusedError):
            return REFUSED
        if isinstance(one, OSError) and one.errno in _NO_WAY:
            return NO_WAY
    return ""


def because(error: BaseException) -> str:
    """As ``why_unreachable``, to follow what cannot be reached."""
    why = why_unreachable(error)
    return f": {why}" if why else ""


def _inside(error: object, depth: int) -> Iterator[BaseException]:
    """An error and those that it was made of: requests, urllib3, botocore and azure-core each keep them elsewhere."""
    if not isinstance(error, BaseException) or not depth:
        return
    yield error
    kept = (error.__cause__, error.__context__, getattr(error, "reason", None), getattr(error, "inner_exception", None))
    values = getattr(error, "kwargs", None)
    for one in (*kept, *error.args[:4], values.get("error") if isinstance(values, dict) else None):
        yield from _inside(one, depth - 1)
