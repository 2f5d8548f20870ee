"""KeyService: checks and translates requests, and leaves the rest to ``keys.py``."""

from __future__ import annotations

from typing import Any

from sealkeeper.server.authorization import Action
from sealkeeper.server.calls import current_call
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.errors import InvalidRequestError, NotFoundError
from sealkeeper.server.key import Key, State
from sealkeeper.server.key_changes import KeyChanges
from sealkeeper.server.keys import Keys, StateChange
from sealkeeper.server.log import AUDIT, Sequencer
from sealkeeper.server.new_version import Audit, Making
from sealkeeper.server.proposals import Proposals
from sealkeeper.server.proposed_changes import STATES, state_parameters
from sealkeeper.server.resources import (
    KeyName,
    parse_id,
    parse_key_name,
    parse_tenant_name,
    parse_version_name,
)
from sealkeeper.server.store.database import Alongside
from sealkeeper.server.translation import (
    algorithm_name,
    evidence_message,
    failover_of,
    id_of_page_token,
    key_message,
    labels_of,
    mask_of,
    moment_of,
    page_size_of,
    page_token,
    period_of,
    publish_period_of,
    state_name,
    version_message,
    versions_left,
)
from sealkeeper.v1 import key_pb2, key_pb2_grpc

_MAX_ETAG = 64


class KeyService(key_pb2_grpc.KeyServiceServicer):
    """Answers for the contract's KeyService.

    Args:
        keys: all keys.
        changes: has them changed.
        proposals: where changes wait that need approvals.
        logs: where changes are recorded.
        clock: the time.
    """

    def __init__(
        self, keys: Keys, changes: KeyChanges, proposals: Proposals, logs: Sequencer, clock: SteadyClock
    ) -> None:
        self._keys = keys
        self._changes = changes
        self._proposals = proposals
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
        labels = labels_of(request.key.labels, "key.labels")
        key = await self._changes.once(
            request,
            request.request_id,
            lambda audit, row: self._keys.create(name, algorithm, labels, audit, row, Making(provider)),
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
        size, after = page_size_of(request.page_size), id_of_page_token(request.page_token)
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
        period = publish_period_of(request, request.publish_period)
        key = await self._changes.once(
            request, request.request_id, lambda audit, row: self._keys.rotate(name, period, audit, row)
        )
        now = self._clock.at_least_latest()
        return key_pb2.RotateKeyResponse(key=key_message(key, now), version=version_message(key.versions[-1], now))

    async def SetKeyVersionState(  # noqa: N802
        self, request: key_pb2.SetKeyVersionStateRequest, context: Any
    ) -> key_pb2.SetKeyVersionStateResponse:
        """Move a version into another state."""
        name, call = parse_version_name(request.name, "name"), current_call()
        change = _state_change(request)
        action = STATES.get(change.state, Action.SET_KEY_VERSION_STATE)
        call.authorize(action, name, proposable=True)

        async def move(audit: Audit, row: Alongside[Key] | None) -> Key:
            if call.approvals:
                # Nobody shall have to approve of what cannot be done anyway.
                parameters = state_parameters(self._keys.possible(name, change))
                await self._proposals.require(call, action, name, parameters)
            return await self._keys.set_state(name, change, audit, row)

        key = await self._changes.once(request, request.request_id, move)
        version = key.versions[name.number - 1]
        return key_pb2.SetKeyVersionStateResponse(version=version_message(version, self._clock.at_least_latest()))

    async def AddStandbyVersion(  # noqa: N802
        self, request: key_pb2.AddStandbyVersionRequest, context: Any
    ) -> key_pb2.AddStandbyVersionResponse:
        """Make a version that stands by in another provider."""
        name = parse_key_name(request.name, "name")
        current_call().authorize(Action.ROTATE_KEY, name)
        making = Making(
            parse_id(request.provider, "provider"), standby=True, failover=failover_of(request.failover, "failover")
        )
        period = publish_period_of(request, request.publish_period)
        key = await self._changes.once(
            request, request.request_id, lambda audit, row: self._keys.rotate(name, period, audit, row, making)
        )
        now = self._clock.at_least_latest()
        return key_pb2.AddStandbyVersionResponse(
            key=key_message(key, now), version=version_message(key.versions[-1], now)
        )

    async def GetKeyEvidence(  # noqa: N802
        self, request: key_pb2.GetKeyEvidenceRequest, context: Any
    ) -> key_pb2.GetKeyEvidenceResponse:
        """Read back what the store says of a private key."""
        name = parse_version_name(request.name, "name")
        current_call().authorize(Action.GET_KEY, name)
        return key_pb2.GetKeyEvidenceResponse(evidence=evidence_message(await self._keys.evidence(name)))

    async def GetKeyCeremony(  # noqa: N802
        self, request: key_pb2.GetKeyCeremonyRequest, context: Any
    ) -> key_pb2.GetKeyCeremonyResponse:
        """Give the record of how a version came to be."""
        name = parse_version_name(request.name, "name")
        current_call().authorize(Action.GET_KEY, name)
        index = self._keys.get_version(name).ceremony_index
        if index is None:
            raise NotFoundError(f"{name} was made before ceremonies were recorded", reason="CEREMONY_NOT_FOUND")
        record, proof, checkpoint = await self._logs.log(AUDIT).proven_entry(index)
        return key_pb2.GetKeyCeremonyResponse(
            record=record,
            log_index=index,
            tree_size=proof.tree_size,
            hashes=proof.hashes,
            checkpoint=checkpoint,
        )


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
