"""Calls about who is calling, as values; see ``operations.py``."""

from __future__ import annotations

from sealkeeper.client.errors import CorruptAnswerError
from sealkeeper.client.operations import Operation
from sealkeeper.v1 import identity_pb2


def who_am_i(key: str = "") -> Operation[identity_pb2.WhoAmIResponse]:
    """Ask who the caller is, and what it may do with a key; with all keys of its tenant where none is named."""

    def check(response: identity_pb2.WhoAmIResponse) -> identity_pb2.WhoAmIResponse:
        if not response.HasField("principal"):
            raise CorruptAnswerError("the answer does not say who the caller is")
        return response

    return Operation("IdentityService", "WhoAmI", identity_pb2.WhoAmIRequest(key=key), check)
