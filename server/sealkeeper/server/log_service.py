"""LogService: reads the logs for callers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from sealkeeper.server.audit import tenant_of
from sealkeeper.server.authorization import Action
from sealkeeper.server.calls import current_call
from sealkeeper.server.errors import InvalidRequestError
from sealkeeper.server.log import AUDIT, LogReader, Sequencer
from sealkeeper.server.resources import parse_log_name
from sealkeeper.v1 import log_pb2, log_pb2_grpc
from sealkeeper.verify.merkle import leaf_hash


class LogService(log_pb2_grpc.LogServiceServicer):
    """Answers for the contract's LogService.

    Args:
        logs: to read.
    """

    def __init__(self, logs: Sequencer) -> None:
        self._logs = logs

    async def GetCheckpoint(  # noqa: N802
        self, request: log_pb2.GetCheckpointRequest, context: Any
    ) -> log_pb2.GetCheckpointResponse:
        """Give the newest checkpoint."""
        reader, _ = self._reader(request.log)
        return log_pb2.GetCheckpointResponse(
            checkpoint=reader.checkpoint, tree_size=reader.tree_size, root_hash=reader.root_hash
        )

    async def GetInclusionProof(  # noqa: N802
        self, request: log_pb2.GetInclusionProofRequest, context: Any
    ) -> log_pb2.GetInclusionProofResponse:
        """Prove that an entry is in a tree."""
        reader, _ = self._reader(request.log)
        _require_not_negative(log_index=request.log_index, tree_size=request.tree_size)
        size = request.tree_size or reader.tree_size
        proof = await reader.inclusion_proof(request.log_index, size)
        return log_pb2.GetInclusionProofResponse(
            log_index=proof.index,
            tree_size=proof.tree_size,
            root_hash=proof.root_hash,
            hashes=proof.hashes,
            leaf_hash=proof.leaf_hash,
            checkpoint=reader.checkpoint if reader.tree_size == size else "",
        )

    async def GetConsistencyProof(  # noqa: N802
        self, request: log_pb2.GetConsistencyProofRequest, context: Any
    ) -> log_pb2.GetConsistencyProofResponse:
        """Prove that one tree is a prefix of another."""
        reader, _ = self._reader(request.log)
        _require_not_negative(first_size=request.first_size, second_size=request.second_size)
        size = request.second_size or reader.tree_size
        if request.first_size > size:
            raise InvalidRequestError.of("first_size", f"must not be above second_size, {size}")
        proof = await reader.consistency_proof(request.first_size, size)
        return log_pb2.GetConsistencyProofResponse(first_size=request.first_size, second_size=size, hashes=proof)

    async def ListEntries(  # noqa: N802
        self, request: log_pb2.ListEntriesRequest, context: Any
    ) -> AsyncIterator[log_pb2.ListEntriesResponse]:
        """Stream entries; of the audit log, the bodies of the caller's tenant only."""
        reader, tenant = self._reader(request.log)
        _require_not_negative(start_index=request.start_index, limit=request.limit)
        async for first, bodies in reader.entries(request.start_index, request.limit or None):
            yield log_pb2.ListEntriesResponse(
                entries=[
                    log_pb2.LogEntry(
                        log_index=first + place,
                        leaf_hash=leaf_hash(body),
                        body=body if tenant is None or tenant_of(body) == tenant else b"",
                    )
                    for place, body in enumerate(bodies)
                ]
            )

    def _reader(self, log: str) -> tuple[LogReader, str | None]:
        """The log, and the tenant that its bodies must be of."""
        name = parse_log_name(log, "log")
        private = name.log == AUDIT
        principal = current_call().authorize(Action.READ_AUDIT_LOG if private else Action.READ_LOG, name)
        return self._logs.log(name.log), principal.tenant if private else None


def _require_not_negative(**numbers: int) -> None:
    for field, number in numbers.items():
        if number < 0:
            raise InvalidRequestError.of(field, "must not be negative")
