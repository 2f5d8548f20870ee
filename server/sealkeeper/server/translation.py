"""Between the contract's messages and the domain's values: enums, times, masks, pages, checksums."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import google_crc32c
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from sealkeeper.hsm import Attestation, KeyEvidence, Origin, WrapMethod
from sealkeeper.server.errors import InvalidRequestError
from sealkeeper.server.key import Failover, Key, KeyVersion
from sealkeeper.server.resources import ID
from sealkeeper.v1 import resources_pb2

MAX_PAGE = 1000
DEFAULT_PAGE = 100
_MAX_TOKEN = 128
_NOT_OURS = "must be the next_page_token of the page before"
_LABEL = re.compile(r"[a-z0-9._-]{1,63}")
_MAX_LABELS = 32
_MAX_LABEL = 128
MAX_PUBLISH_PERIOD = timedelta(days=90)
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_HASHES: dict[int, str] = {
    one.number: one.name.removeprefix("HASH_ALGORITHM_")
    for one in resources_pb2.HashAlgorithm.DESCRIPTOR.values
    if one.number != 0
}
_ORIGINS = {
    Origin.GENERATED: resources_pb2.KEY_ORIGIN_GENERATED,
    Origin.IMPORTED: resources_pb2.KEY_ORIGIN_IMPORTED,
    Origin.UNKNOWN: resources_pb2.KEY_ORIGIN_UNSPECIFIED,
}
_FAILOVERS = {
    Failover.NONE: resources_pb2.FAILOVER_UNSPECIFIED,
    Failover.AUTOMATIC: resources_pb2.FAILOVER_AUTOMATIC,
    Failover.MANUAL: resources_pb2.FAILOVER_MANUAL,
}
KEY_FIELDS = tuple(field.name for field in resources_pb2.Key.DESCRIPTOR.fields)


crc32c: Callable[[bytes], int] = google_crc32c.value
"""CRC32C (RFC 3720)."""


def algorithm_name(value: int, field: str) -> str:
    """Name in ``PublicKeyDetails``.

    Raises:
        InvalidRequestError: not set, or not a known number.
    """
    known = resources_pb2.PublicKeyDetails.DESCRIPTOR.values_by_number.get(value)
    if known is None or value == 0:
        raise InvalidRequestError.of(field, "must be one of the algorithms of PublicKeyDetails")
    return str(known.name).removeprefix("PUBLIC_KEY_DETAILS_")


def algorithm_value(name: str) -> resources_pb2.PublicKeyDetails.ValueType:
    """Number of an algorithm."""
    return resources_pb2.PublicKeyDetails.Value(f"PUBLIC_KEY_DETAILS_{name}")


def hash_name(value: int, field: str) -> str:
    """Name in ``HashAlgorithm``.

    Raises:
        InvalidRequestError: not set, or not a known number.
    """
    known = _HASHES.get(value)
    if known is None:
        raise InvalidRequestError.of(field, "must be SHA2_256, SHA2_384 or SHA2_512")
    return known


def state_name(value: int, field: str) -> str:
    """Name of a key version's state.

    Raises:
        InvalidRequestError: not set, or not a known number.
    """
    known = resources_pb2.KeyVersionState.DESCRIPTOR.values_by_number.get(value)
    if known is None or value == 0:
        raise InvalidRequestError.of(field, "must be one of the states of KeyVersionState")
    return str(known.name).removeprefix("KEY_VERSION_STATE_")


def timestamp(moment: datetime | None) -> Timestamp | None:
    """A time as a message."""
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def moment_of(message: Timestamp, field: str) -> datetime:
    """A message as a time.

    Raises:
        InvalidRequestError: out of range.
    """
    try:
        return message.ToDatetime(UTC)
    except ValueError:
        raise InvalidRequestError.of(field, "is not a time between the years 1 and 9999") from None


def period_of(message: Duration, field: str) -> timedelta:
    """A message as a period.

    Raises:
        InvalidRequestError: out of range.
    """
    try:
        return message.ToTimedelta()
    except (ValueError, OverflowError):
        raise InvalidRequestError.of(field, "is not a duration") from None


def whole_seconds_of(message: Duration, field: str) -> int:
    """A message as a number of whole seconds.

    Raises:
        InvalidRequestError: out of range, or with a part of a second.
    """
    period = period_of(message, field)
    if message.nanos:
        raise InvalidRequestError.of(field, "must be in whole seconds")
    return period // timedelta(seconds=1)


def key_message(key: Key, now: datetime, fields: Sequence[str] = KEY_FIELDS) -> resources_pb2.Key:
    """A key, with these fields filled."""
    active, standby = key.active_at(now), key.active_at(now, standby=True)
    message = resources_pb2.Key(
        name=str(key.name),
        algorithm=algorithm_value(key.algorithm),
        provider=key.provider,
        active_version=str(active.name) if active is not None else "",
        labels=dict(key.labels),
        create_time=timestamp(key.create_time),
        etag=key.etag,
        standby_version=str(standby.name) if standby is not None else "",
        failover=_FAILOVERS[key.failover],
    )
    for field in KEY_FIELDS:
        if field not in fields:
            message.ClearField(field)  # type: ignore[arg-type]  # a field's name, as the descriptor has it
    return message


def version_message(version: KeyVersion, now: datetime) -> resources_pb2.KeyVersion:
    """A key version."""
    state = resources_pb2.KeyVersionState.Value(f"KEY_VERSION_STATE_{version.state_at(now)}")
    return resources_pb2.KeyVersion(
        name=str(version.name),
        state=state,
        algorithm=algorithm_value(version.algorithm),
        provider=version.provider,
        protection_level=protection_level_value(version.protection_level),
        public_key=version.public_key,
        public_key_crc32c=crc32c(version.public_key),
        hint=version.hint,
        create_time=timestamp(version.create_time),
        activate_time=timestamp(version.activate_time),
        retire_time=timestamp(version.retire_time),
        compromise_time=timestamp(version.compromise_time),
        destroy_time=timestamp(version.destroy_time),
        region=version.region,
        standby=version.standby,
        origin=_ORIGINS[version.origin],
    )


def evidence_message(evidence: KeyEvidence) -> resources_pb2.KeyEvidence:
    """What a store says of a private key."""
    return resources_pb2.KeyEvidence(
        protection_level=protection_level_value(evidence.protection_level),
        origin=_ORIGINS[evidence.origin],
        exportable=evidence.exportable,
        claims=dict(evidence.claims),
        attestation=attestation_message(evidence.attestation),
    )


def attestation_message(attestation: Attestation | None) -> resources_pb2.Attestation | None:
    """A store's signed statement."""
    if attestation is None:
        return None
    return resources_pb2.Attestation(
        format=attestation.format, content=attestation.content, certificates=attestation.certificates
    )


def protection_level_value(level: str) -> resources_pb2.ProtectionLevel.ValueType:
    """Number of a protection level."""
    return resources_pb2.ProtectionLevel.Value(f"PROTECTION_LEVEL_{level}")


def wrap_method_value(method: WrapMethod) -> resources_pb2.WrapMethod.ValueType:
    """Number of a wrap method."""
    return resources_pb2.WrapMethod.Value(f"WRAP_METHOD_{method}")


def failover_of(value: int, field: str) -> Failover:
    """When a standby version signs; AUTOMATIC where that is not said.

    Raises:
        InvalidRequestError: not a known number.
    """
    if value == resources_pb2.FAILOVER_UNSPECIFIED:
        return Failover.AUTOMATIC
    for failover, number in _FAILOVERS.items():
        if number == value:
            return failover
    raise InvalidRequestError.of(field, "must be AUTOMATIC or MANUAL")


def labels_of(labels: Mapping[str, str], field: str) -> dict[str, str]:
    """A key's labels.

    Raises:
        InvalidRequestError: too many, or a name or value that is not allowed.
    """
    if len(labels) > _MAX_LABELS:
        raise InvalidRequestError.of(field, f"has {len(labels)} labels; at most {_MAX_LABELS} are allowed")
    for name, value in labels.items():
        if not _LABEL.fullmatch(name):
            raise InvalidRequestError.of(field, f'{name[:64]!r}: names are 1 to 63 of a-z, 0-9, "-", "_", "."')
        if len(value) > _MAX_LABEL:
            raise InvalidRequestError.of(f"{field}[{name}]", f"has more than {_MAX_LABEL} characters")
    return dict(labels)


def publish_period_of(request: Message, message: Duration) -> timedelta | None:
    """How long a new version stays PUBLISHED; ``None`` where the request leaves that to the gateway.

    Raises:
        InvalidRequestError: out of bounds.
    """
    if not request.HasField("publish_period"):
        return None
    period = period_of(message, "publish_period")
    if not timedelta(0) <= period <= MAX_PUBLISH_PERIOD:
        raise InvalidRequestError.of("publish_period", "must be from 0 s to 90 days")
    return period


def mask_of(mask: FieldMask, field: str) -> Sequence[str]:
    """The fields of a Key that a mask names; all where it is empty.

    Raises:
        InvalidRequestError: an unknown path.
    """
    for path in mask.paths:
        if path not in KEY_FIELDS:
            raise InvalidRequestError.of(f"{field}.paths", f"{path[:64]!r} is not a field of Key")
    return tuple(mask.paths) or KEY_FIELDS


def page_size_of(size: int) -> int:
    """How many to give.

    Raises:
        InvalidRequestError: negative or too many.
    """
    if not 0 <= size <= MAX_PAGE:
        raise InvalidRequestError.of("page_size", f"must be from 0 to {MAX_PAGE}")
    return size or DEFAULT_PAGE


def page_token(after: str) -> str:
    """A token for the page after an item."""
    return base64.urlsafe_b64encode(f"1:{after}".encode()).decode()


def id_of_page_token(token: str) -> str:
    """The id of the item that a page comes after, as ``page_token`` was given it; empty for the first page.

    Raises:
        InvalidRequestError: not a token of ours.
    """
    return _after(token, ID) if token else ""


def versions_left(token: str, count: int) -> int:
    """How many of a key's versions, from the oldest, are left for a page and those behind it; all for the first page.

    Args:
        token: of the request.
        count: of the key's versions.

    Raises:
        InvalidRequestError: not a token of ours, or not of such a key.
    """
    if not token:
        return count
    number = int(_after(token, _NUMBER))
    # The page before ended with this version, and gave a token since there are older ones.
    if not 2 <= number <= count:
        raise InvalidRequestError.of("page_token", _NOT_OURS)
    return number - 1


def _after(token: str, form: re.Pattern[str]) -> str:
    """The item in a token; only the very spelling that ``page_token`` gives is taken."""
    after = ""
    if len(token) <= _MAX_TOKEN:
        with suppress(ValueError):
            after = base64.b64decode(token, altchars=b"-_", validate=True).decode().removeprefix("1:")
    if not form.fullmatch(after) or page_token(after) != token:
        raise InvalidRequestError.of("page_token", _NOT_OURS)
    return after
