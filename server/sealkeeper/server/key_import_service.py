"""KeyImportService: checks and translates requests, and leaves the rest to ``key_imports.py``."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from sealkeeper.hsm import WrapMethod
from sealkeeper.server.authorization import Action
from sealkeeper.server.calls import Call, current_call
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.errors import InvalidRequestError
from sealkeeper.server.key import Key
from sealkeeper.server.key_changes import KeyChanges
from sealkeeper.server.key_import import ImportState, KeyImport
from sealkeeper.server.key_imports import MAX_WRAPPED, ImportOrder, KeyImports, WrappedKey
from sealkeeper.server.new_version import Audit
from sealkeeper.server.proposal_end import IndexedAudit
from sealkeeper.server.proposals import Proposals
from sealkeeper.server.resources import KeyImportName, KeyName, parse_id, parse_import_name, parse_tenant_name
from sealkeeper.server.store.database import Alongside, Both
from sealkeeper.server.translation import (
    algorithm_name,
    algorithm_value,
    attestation_message,
    crc32c,
    id_of_page_token,
    key_message,
    labels_of,
    page_size_of,
    page_token,
    publish_period_of,
    timestamp,
    version_message,
    wrap_method_value,
)
from sealkeeper.v1 import key_import_pb2, key_import_pb2_grpc

_MAX_PUBLIC_KEY = 4096
_STATES = {
    ImportState.OPEN: key_import_pb2.KEY_IMPORT_STATE_OPEN,
    ImportState.FINISHED: key_import_pb2.KEY_IMPORT_STATE_FINISHED,
    ImportState.CANCELLED: key_import_pb2.KEY_IMPORT_STATE_CANCELLED,
    ImportState.EXPIRED: key_import_pb2.KEY_IMPORT_STATE_EXPIRED,
    ImportState.FAILED: key_import_pb2.KEY_IMPORT_STATE_FAILED,
}


class KeyImportService(key_import_pb2_grpc.KeyImportServiceServicer):
    """Answers for the contract's KeyImportService.

    Args:
        imports: all imports.
        changes: has keys changed.
        proposals: where imports wait that need approvals.
        clock: the time.
    """

    def __init__(self, imports: KeyImports, changes: KeyChanges, proposals: Proposals, clock: SteadyClock) -> None:
        self._imports = imports
        self._changes = changes
        self._proposals = proposals
        self._clock = clock

    async def BeginKeyImport(  # noqa: N802
        self, request: key_import_pb2.BeginKeyImportRequest, context: Any
    ) -> key_import_pb2.BeginKeyImportResponse:
        """Have a store offer a wrapping key."""
        parent = parse_tenant_name(request.parent, "parent")
        name = KeyName(parent.tenant, parse_id(request.key_id, "key_id"))
        # What is approved of is the key that is handed in, not that a store offers to take one.
        current_call().authorize(Action.IMPORT_KEY, name, proposable=True)
        order = _order(request, name)
        begun = await self._changes.once_for(
            request, request.request_id, lambda audit, row: self._imports.begin(order, audit, row), self._replay
        )
        return key_import_pb2.BeginKeyImportResponse(key_import=_message(begun, self._clock.at_least_latest()))

    async def FinishKeyImport(  # noqa: N802
        self, request: key_import_pb2.FinishKeyImportRequest, context: Any
    ) -> key_import_pb2.FinishKeyImportResponse:
        """Have the store unwrap a private key, and make a version of it."""
        name = parse_import_name(request.name, "name")
        call = current_call()
        call.authorize(Action.IMPORT_KEY, name, proposable=True)
        wrapped = _wrapped(request)

        async def finish(audit: Audit, row: Alongside[Key] | None) -> Key:
            if not call.approvals:
                return await self._imports.finish(name, wrapped, audit, row)
            # Nobody shall have to approve of what cannot be done anyway.
            self._imports.require_possible(name, wrapped)
            return await self._proposals.to_the_end(self._finish_approved(call, name, wrapped, audit, row))

        key = await self._changes.once(request, request.request_id, finish)
        now = self._clock.at_least_latest()
        return key_import_pb2.FinishKeyImportResponse(
            key=key_message(key, now), version=version_message(key.versions[-1], now)
        )

    async def _finish_approved(
        self, call: Call, name: KeyImportName, wrapped: WrappedKey, audit: Audit, row: Alongside[Key] | None
    ) -> Key:
        parameters = self._imports.parameters(name, wrapped)
        ending = await self._proposals.require(call, Action.IMPORT_KEY, name, parameters)
        if ending is None:
            return await self._imports.finish(name, wrapped, audit, row)
        record = IndexedAudit(audit)
        ending = ending.recorded_by(record)
        key = await self._imports.finish(name, wrapped, record, ending if row is None else Both(row, ending))
        ending.seen()
        return key

    async def CancelKeyImport(  # noqa: N802
        self, request: key_import_pb2.CancelKeyImportRequest, context: Any
    ) -> key_import_pb2.CancelKeyImportResponse:
        """Give an import up."""
        name = parse_import_name(request.name, "name")
        current_call().authorize(Action.IMPORT_KEY, name, proposable=True)
        closed = await self._imports.cancel(name, self._changes.audit())
        return key_import_pb2.CancelKeyImportResponse(key_import=_message(closed, self._clock.at_least_latest()))

    async def GetKeyImport(  # noqa: N802
        self, request: key_import_pb2.GetKeyImportRequest, context: Any
    ) -> key_import_pb2.GetKeyImportResponse:
        """Look an import up."""
        name = parse_import_name(request.name, "name")
        current_call().authorize(Action.GET_KEY, name)
        found = self._imports.get(name)
        return key_import_pb2.GetKeyImportResponse(key_import=_message(found, self._clock.at_least_latest()))

    async def ListKeyImports(  # noqa: N802
        self, request: key_import_pb2.ListKeyImportsRequest, context: Any
    ) -> key_import_pb2.ListKeyImportsResponse:
        """List a tenant's imports by name."""
        parent = parse_tenant_name(request.parent, "parent")
        current_call().authorize(Action.LIST_KEYS, parent)
        size, after = page_size_of(request.page_size), id_of_page_token(request.page_token)
        found, now = self._imports.page(parent.tenant, after, size + 1), self._clock.at_least_latest()
        return key_import_pb2.ListKeyImportsResponse(
            key_imports=[_message(one, now) for one in found[:size]],
            next_page_token=page_token(found[size - 1].name.id) if len(found) > size else "",
        )

    async def _replay(self, answer: bytes) -> KeyImport:
        return self._imports.get(msgspec.msgpack.decode(answer, type=KeyImportName))


def _order(request: key_import_pb2.BeginKeyImportRequest, name: KeyName) -> ImportOrder:
    algorithm = algorithm_name(request.algorithm, "algorithm") if request.algorithm else ""
    provider = parse_id(request.provider, "provider") if request.provider else ""
    if request.standby and not provider:
        raise InvalidRequestError.of("provider", "must be named for a standby version")
    return ImportOrder(name, algorithm, provider, request.standby, labels_of(request.labels, "labels"))


def _wrapped(request: key_import_pb2.FinishKeyImportRequest) -> WrappedKey:
    if not 1 <= len(request.wrapped_key) <= MAX_WRAPPED:
        raise InvalidRequestError.of("wrapped_key", f"must be 1 to {MAX_WRAPPED} bytes")
    if crc32c(request.wrapped_key) != request.wrapped_key_crc32c:
        raise InvalidRequestError.of(
            "wrapped_key_crc32c", "is not that of what arrived", reason="CHECKSUM_MISMATCH", next_step="send it again"
        )
    if not 1 <= len(request.public_key) <= _MAX_PUBLIC_KEY:
        raise InvalidRequestError.of("public_key", f"must be 1 to {_MAX_PUBLIC_KEY} bytes")
    method = _method(request.wrap_method)
    period = publish_period_of(request, request.publish_period)
    return WrappedKey(method, request.wrapped_key, request.public_key, period)


def _method(value: int) -> WrapMethod:
    for method in WrapMethod:
        if wrap_method_value(method) == value:
            return method
    raise InvalidRequestError.of("wrap_method", "must be one of the methods of WrapMethod")


def _message(one: KeyImport, now: datetime) -> key_import_pb2.KeyImport:
    offer = one.wrapping_key
    # What has run out is not shown as OPEN until somebody has tidied up.
    state = ImportState.EXPIRED if one.state is ImportState.OPEN and now >= one.expire_time else one.state
    return key_import_pb2.KeyImport(
        name=str(one.name),
        state=_STATES[state],
        key=str(one.key),
        algorithm=algorithm_value(one.algorithm),
        provider=one.provider,
        region=one.region,
        standby=one.standby,
        wrapping_key=offer.public_key,
        wrapping_key_crc32c=crc32c(offer.public_key),
        wrap_methods=[wrap_method_value(method) for method in offer.methods],
        attestation=attestation_message(offer.attestation),
        create_time=timestamp(one.create_time),
        expire_time=timestamp(one.expire_time),
        key_version=one.key_version,
    )
