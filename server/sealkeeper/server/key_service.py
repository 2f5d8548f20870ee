"""KeyService: checks and translates requests, and leaves the rest to ``keys.py``."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import msgspec
from google.protobuf.message import Message

from sealkeeper.server.authorization import Action
from sealkeeper.server.calls import Call, current_call
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.errors import InvalidRequestError
from sealkeeper.server.idempotency import RequestId, RequestLedger, RequestRow
from sealkeeper.server.key import Key, State
from sealkeeper.server.keys import MAX_PUBLISH_PERIOD, Audit, Keys, StateChange
from sealkeeper.server.log import Sequencer, Submission
from sealkeeper.server.resources import (
    KeyName,
    parse_id,
    parse_key_name,
    parse_tenant_name,
    parse_version_name,
)
from sealkeeper.server.translation import (
    algorithm_name,
    key_after,
    key_message,
    mask_of,
    moment_of,
    page_size_of,
    page_token,
    period_of,
    state_name,
    version_message,
    versions_left,
)
from sealkeeper.v1 import key_pb2, key_pb2_grpc

_LABEL = re.compile(r"[a-z0-9._-]{1,63}")
_MAX_LABELS = 32
_MAX_LABEL = 128
_MAX_ETAG = 64
Change: TypeAlias = Callable[[Audit, RequestRow[Key] | None], Awaitable[Key]]


class KeyService(key_pb2_grpc.KeyServiceServicer):
    """Answers for the contract's KeyService.

    Args:
        keys: all keys.
        ledger: knows which requests were answered.
        logs: where changes are recorded before they take effect.
        clock: the time.
    """

    def __init__(self, keys: Keys, ledger: RequestLedger, logs: Sequencer, clock: SteadyClock) -> None:
        self._keys = keys
        self._ledger = ledger
        self._logs = logs
        self._clock = clock

    async def CreateKey(  # noqa: N802
        self, request: key_pb2.CreateKeyRequest, context: Any
    ) -> key_pb2.CreateKeyResponse:
        """Make a key and its first version."""
        parent = parse_tenant_name(request.parent, "parent")
        name = KeyName(parent.tenant, parse_id(request.key_id, "key_id"))
        current_call().authorize(Action.CREATE_KEY, name)
        algorithm = algorithm_name(request.key.algorithm, "key.algorithm")
        provider = parse_id(request.key.provider, "key.provider") if request.key.provider else ""
        labels = _labels(request.key.labels)
        key = await self._once(
            request, lambda audit, row: self._keys.create(name, algorithm, provider, labels, audit, row)
        )
        now = self._clock.at_least_latest()
        return key_pb2.CreateKeyResponse(key=key_message(key, now), version=version_message(key.versions[0], now))

    async def GetKey(self, request: key_pb2.GetKeyRequest, context: Any) -> key_pb2.GetKeyResponse:  # noqa: N802
        """Look a key up."""
        name = parse_key_name(request.name, "name")
        current_call().authorize(Action.GET_KEY, name)
        fields = mask_of(request.read_mask, "read_mask")
        return key_pb2.GetKeyResponse(key=key_message(self._keys.get(name), self._clock.at_least_latest(), fields))

    async def ListKeys(self, request: key_pb2.ListKeysRequest, context: Any) -> key_pb2.ListKeysResponse:  # noqa: N802
        """List a tenant's keys by name."""
        parent = parse_tenant_name(request.parent, "parent")
        current_call().authorize(Action.LIST_KEYS, parent)
        size, after = page_size_of(request.page_size), key_after(request.page_token)
        fields, now = mask_of(request.read_mask, "read_mask"), self._clock.at_least_latest()
        found = self._keys.page(parent.tenant, after, size + 1)
        return key_pb2.ListKeysResponse(
            keys=[key_message(one, now, fields) for one in found[:size]],
            next_page_token=page_token(found[size - 1].name.key) if len(found) > size else "",
        )

    async def GetKeyVersion(  # noqa: N802
        self, request: key_pb2.GetKeyVersionRequest, context: Any
    ) -> key_pb2.GetKeyVersionResponse:
        """Look a version up."""
        name = parse_version_name(request.name, "name")
        current_call().authorize(Action.GET_KEY, name)
        version = self._keys.get_version(name)
        return key_pb2.GetKeyVersionResponse(version=version_message(version, self._clock.at_least_latest()))

    async def ListKeyVersions(  # noqa: N802
        self, request: key_pb2.ListKeyVersionsRequest, context: Any
    ) -> key_pb2.ListKeyVersionsResponse:
        """List a key's versions, newest first."""
        name = parse_key_name(request.parent, "parent")
        current_call().authorize(Action.GET_KEY, name)
        size, versions = page_size_of(request.page_size), self._keys.get(name).versions
        left = versions[: versions_left(request.page_token, len(versions))]
        found, now = left[::-1][:size], self._clock.at_least_latest()
        return key_pb2.ListKeyVersionsResponse(
            versions=[version_message(one, now) for one in found],
            next_page_token=page_token(str(found[-1].name.number)) if len(left) > size else "",
        )

    async def RotateKey(  # noqa: N802
        self, request: key_pb2.RotateKeyRequest, context: Any
    ) -> key_pb2.RotateKeyResponse:
        """Make a new version that will sign."""
        name = parse_key_name(request.name, "name")
        current_call().authorize(Action.ROTATE_KEY, name)
        period = None
        if request.HasField("publish_period"):
            period = period_of(request.publish_period, "publish_period")
            if not 0 <= period.total_seconds() <= MAX_PUBLISH_PERIOD.total_seconds():
                raise InvalidRequestError.of("publish_period", "must be from 0 s to 90 days")
        key = await self._once(request, lambda audit, row: self._keys.rotate(name, period, audit, row))
        now = self._clock.at_least_latest()
        return key_pb2.RotateKeyResponse(key=key_message(key, now), version=version_message(key.versions[-1], now))

    async def SetKeyVersionState(  # noqa: N802
        self, request: key_pb2.SetKeyVersionStateRequest, context: Any
    ) -> key_pb2.SetKeyVersionStateResponse:
        """Move a version into another state."""
        name = parse_version_name(request.name, "name")
        current_call().authorize(Action.SET_KEY_VERSION_STATE, name)
        change = _state_change(request)
        key = await self._once(request, lambda audit, row: self._keys.set_state(name, change, audit, row))
        version = key.versions[name.number - 1]
        return key_pb2.SetKeyVersionStateResponse(version=version_message(version, self._clock.at_least_latest()))

    async def _once(
        self,
        request: key_pb2.CreateKeyRequest | key_pb2.RotateKeyRequest | key_pb2.SetKeyVersionStateRequest,
        change: Change,
    ) -> Key:
        """Change a key, or give the answer of the same request before."""
        call = current_call()
        call.use_request_id(request.request_id)
        if not call.request_id:
            return await change(self._audit(call), None)
        known = RequestId.of(call.caller, call.method, call.request_id, _without_id(request))
        return await self._ledger.once(
            known, lambda: change(self._audit(call), self._ledger.row(known, msgspec.msgpack.encode)), _replay, None
        )

    def _audit(self, call: Call) -> Audit:
        async def audit(details: dict[str, object]) -> None:
            call.details.update(details)
            await self._logs.submit(Submission(audit=[call.audit_record(self._clock.at_least_latest())]))
            call.recorded = True

        return audit


async def _replay(answer: bytes) -> Key:
    return msgspec.msgpack.decode(answer, type=Key)


def _without_id(request: Message) -> bytes:
    request.ClearField("request_id")
    return request.SerializeToString(deterministic=True)


def _labels(labels: Mapping[str, str]) -> dict[str, str]:
    if len(labels) > _MAX_LABELS:
        raise InvalidRequestError.of("key.labels", f"has {len(labels)} labels; at most {_MAX_LABELS} are allowed")
    for name, value in labels.items():
        if not _LABEL.fullmatch(name):
            raise InvalidRequestError.of("key.labels", f'{name[:64]!r}: names are 1 to 63 of a-z, 0-9, "-", "_", "."')
        if len(value) > _MAX_LABEL:
            raise InvalidRequestError.of(f"key.labels[{name}]", f"has more than {_MAX_LABEL} characters")
    return dict(labels)


def _state_change(request: key_pb2.SetKeyVersionStateRequest) -> StateChange:
    state = State(state_name(request.state, "state"))
    if state in (State.DESTROYED, State.PUBLISHED):
        raise InvalidRequestError.of("state", f"{state} cannot be asked for")
    if len(request.etag) > _MAX_ETAG:
        raise InvalidRequestError.of("etag", f"has {len(request.etag)} characters; at most {_MAX_ETAG} are allowed")
    compromise_time = destroy_delay = None
    if request.HasField("compromise_time"):
        if state is not State.COMPROMISED:
            raise InvalidRequestError.of("compromise_time", "goes with COMPROMISED only")
        compromise_time = moment_of(request.compromise_time, "compromise_time")
    if request.HasField("destroy_delay"):
        if state is not State.DESTROY_SCHEDULED:
            raise InvalidRequestError.of("destroy_delay", "goes with DESTROY_SCHEDULED only")
        destroy_delay = period_of(request.destroy_delay, "destroy_delay")
    return StateChange(state, compromise_time, destroy_delay, request.etag)
