"""TrustService: gives the trust root."""

from __future__ import annotations

from typing import Any

from sealkeeper.server.authorization import Action
from sealkeeper.server.calls import current_call
from sealkeeper.server.resources import parse_tenant_name
from sealkeeper.server.trust import Trust
from sealkeeper.v1 import trust_pb2, trust_pb2_grpc


class TrustService(trust_pb2_grpc.TrustServiceServicer):
    """Answers for the contract's TrustService.

    Args:
        trust: makes trust roots.
    """

    def __init__(self, trust: Trust) -> None:
        self._trust = trust

    async def GetTrustRoot(  # noqa: N802
        self, request: trust_pb2.GetTrustRootRequest, context: Any
    ) -> trust_pb2.GetTrustRootResponse:
        """Give the trust root of the gateway with one tenant's keys."""
        parent = parse_tenant_name(request.parent, "parent")
        current_call().authorize(Action.GET_TRUST_ROOT, parent)
        documents = await self._trust.documents(parent.tenant)
        return trust_pb2.GetTrustRootResponse(
            trusted_root=documents.trusted_root, keys=documents.keys, signing_config=documents.signing_config
        )
