"""The gRPC client and the command line ``sealkeeper``.

>>> from sealkeeper.client import Client, Connection
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sealkeeper.client.client import AsyncClient, Client
    from sealkeeper.client.connection import Connection
    from sealkeeper.client.errors import ClientError
    from sealkeeper.client.operations import digest_content, dsse_content, message_content

_HOMES = {
    "AsyncClient": "client",
    "Client": "client",
    "ClientError": "errors",
    "Connection": "connection",
    "digest_content": "operations",
    "dsse_content": "operations",
    "message_content": "operations",
}
__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "Connection",
    "digest_content",
    "dsse_content",
    "message_content",
]


def __getattr__(name: str) -> Any:
    # gRPC takes long to import, and `sealkeeper verify` does not need it.
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"sealkeeper.client.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
