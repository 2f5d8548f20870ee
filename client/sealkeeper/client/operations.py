"""Every call of the contract as a value: what is asked, and how the answer is checked.

``client.py`` carries them out, with and without asyncio; nothing here does I/O.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

import google_crc32c
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from sealkeeper.client.errors import CorruptAnswerError, FieldViolation, InvalidRequestError
from sealkeeper.v1 import key_pb2, log_pb2, resources_pb2, signing_pb2, trust_pb2
from sealkeeper.verify.artifact import MAX_MESSAGE
from sealkeeper.verify.bundle import MAX_BUNDLE, MessageSignature, parse_bundle
from sealkeeper.verify.errors import VerifyError

T = TypeVar("T")
MAX_ITEMS = 1000
"""Contents of a batch."""


@dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    """A call.

    Attributes:
        service: ``SigningService``.
        method: ``Sign``.
        request: its message.
        check: turns the answer into what the caller gets, or raises CorruptAnswerError.
    """

    service: str
    method: str
    request: Any
    check: Callable[[Any], T]


def crc32c(data: bytes) -> int:
    """CRC32C (RFC 3720)."""
    value: int = google_crc32c.value(data)
    return value


def new_request_id() -> str:
    """An id that makes a retry safe."""
    return uuid.uuid4().hex


def digest_content(algorithm: str, digest: bytes, artifact_name: str = "") -> signing_pb2.SignContent:
    """Sign a digest; ``algorithm`` as in ``HashAlgorithm``, for example ``SHA2_256``."""
    return signing_pb2.SignContent(
        digest=resources_pb2.Digest(algorithm=_hash_value(algorithm), value=digest),
        crc32c=crc32c(digest),
        artifact_name=artifact_name,
    )


def message_content(message: bytes, artifact_name: str = "") -> signing_pb2.SignContent:
    """Sign a message of at most 4 MiB."""
    return signing_pb2.SignContent(message=message, crc32c=crc32c(message), artifact_name=artifact_name)


def dsse_content(payload_type: str, payload: bytes, artifact_name: str = "") -> signing_pb2.SignContent:
    """Sign a payload of at most 4 MiB in a DSSE envelope."""
    return signing_pb2.SignContent(
        dsse=resources_pb2.DssePayload(payload_type=payload_type, payload=payload),
        crc32c=crc32c(payload),
        artifact_name=artifact_name,
    )


def sign(
    key: str, content: signing_pb2.SignContent, *, certificate: bool, request_id: str | None
) -> Operation[signing_pb2.SignResponse]:
    """One signature.

    Raises:
        InvalidRequestError: the content is longer than 4 MiB.
    """
    _check_size(_field(content, "content"), _size(content), MAX_MESSAGE)
    request = signing_pb2.SignRequest(
        key=key, content=content, material=_material(certificate), request_id=request_id or new_request_id()
    )

    def check(response: signing_pb2.SignResponse) -> signing_pb2.SignResponse:
        _check_signature(response.signature, content)
        return response

    return Operation("SigningService", "Sign", request, check)


def sign_batch(
    key: str, items: Sequence[signing_pb2.SignContent], *, certificate: bool, request_id: str | None
) -> Operation[signing_pb2.SignBatchResponse]:
    """Up to 1,000 signatures: all or none.

    Raises:
        InvalidRequestError: there are more, or a content or all of them together are longer than 4 MiB.
    """
    if not 1 <= len(items) <= MAX_ITEMS:
        raise _invalid("items", f"has {len(items)} items; 1 to {MAX_ITEMS} are allowed")
    for number, one in enumerate(items):
        _check_size(_field(one, f"items[{number}]"), _size(one), MAX_MESSAGE)
    _check_size("items", sum(map(_size, items)), MAX_MESSAGE)
    request = signing_pb2.SignBatchRequest(
        key=key, items=items, material=_material(certificate), request_id=request_id or new_request_id()
    )

    def check(response: signing_pb2.SignBatchResponse) -> signing_pb2.SignBatchResponse:
        if len(response.signatures) != len(items):
            raise CorruptAnswerError(f"{len(items)} signatures were asked for, {len(response.signatures)} came")
        for signature, content in zip(response.signatures, items, strict=True):
            _check_signature(signature, content)
        return response

    return Operation("SigningService", "SignBatch", request, check)


def verify(
    bundle: bytes, key: str, *, message: bytes | None, digest: tuple[str, bytes] | None
) -> Operation[signing_pb2.VerifyResponse]:
    """Let the gateway verify.

    Raises:
        InvalidRequestError: the bundle is longer than 8 MiB, or the message than 4 MiB.
    """
    _check_size("bundle", len(bundle), MAX_BUNDLE)
    _check_size("message", len(message or b""), MAX_MESSAGE)
    request = signing_pb2.VerifyRequest(bundle=bundle, key=key, bundle_crc32c=crc32c(bundle))
    if message is not None:
        request.message, request.artifact_crc32c = message, crc32c(message)
    if digest is not None:
        request.digest.CopyFrom(resources_pb2.Digest(algorithm=_hash_value(digest[0]), value=digest[1]))
        request.artifact_crc32c = crc32c(digest[1])

    def check(response: signing_pb2.VerifyResponse) -> signing_pb2.VerifyResponse:
        artifact = request.WhichOneof("artifact") is not None
        if not response.bundle_crc32c_verified or response.artifact_crc32c_verified != artifact:
            raise CorruptAnswerError("the gateway did not check what it was sent")
        return response

    return Operation("SigningService", "Verify", request, check)


def public_key(name: str) -> Operation[signing_pb2.GetPublicKeyResponse]:
    """A public key."""

    def check(response: signing_pb2.GetPublicKeyResponse) -> signing_pb2.GetPublicKeyResponse:
        if crc32c(response.pem.encode()) != response.pem_crc32c:
            raise CorruptAnswerError("the public key was damaged on its way")
        return response

    return Operation("SigningService", "GetPublicKey", signing_pb2.GetPublicKeyRequest(name=name), check)


def create_key(
    parent: str, key_id: str, algorithm: str, *, provider: str, labels: Mapping[str, str], request_id: str | None
) -> Operation[key_pb2.CreateKeyResponse]:
    """A new key."""
    key = resources_pb2.Key(algorithm=_algorithm_value(algorithm), provider=provider, labels=dict(labels))
    request = key_pb2.CreateKeyRequest(parent=parent, key_id=key_id, key=key, request_id=request_id or new_request_id())
    return Operation("KeyService", "CreateKey", request, _with_version)


def get_key(name: str) -> Operation[resources_pb2.Key]:
    """One key."""
    return Operation("KeyService", "GetKey", key_pb2.GetKeyRequest(name=name), lambda response: response.key)


def list_keys(parent: str, page_token: str, page_size: int) -> Operation[key_pb2.ListKeysResponse]:
    """A page of keys."""
    request = key_pb2.ListKeysRequest(parent=parent, page_token=page_token, page_size=page_size)
    return Operation("KeyService", "ListKeys", request, _as_it_is)


def get_key_version(name: str) -> Operation[resources_pb2.KeyVersion]:
    """One key version."""
    request = key_pb2.GetKeyVersionRequest(name=name)
    return Operation("KeyService", "GetKeyVersion", request, lambda response: _checked_version(response.version))


def list_key_versions(parent: str, page_token: str, page_size: int) -> Operation[key_pb2.ListKeyVersionsResponse]:
    """A page of versions, newest first."""
    request = key_pb2.ListKeyVersionsRequest(parent=parent, page_token=page_token, page_size=page_size)

    def check(response: key_pb2.ListKeyVersionsResponse) -> key_pb2.ListKeyVersionsResponse:
        for one in response.versions:
            _checked_version(one)
        return response

    return Operation("KeyService", "ListKeyVersions", request, check)


def rotate_key(
    name: str, *, publish_period: timedelta | None, request_id: str | None
) -> Operation[key_pb2.RotateKeyResponse]:
    """A new version."""
    request = key_pb2.RotateKeyRequest(
        name=name, publish_period=_duration(publish_period), request_id=request_id or new_request_id()
    )
    return Operation("KeyService", "RotateKey", request, _with_version)


def set_key_version_state(
    name: str,
    state: str,
    *,
    compromise_time: datetime | None,
    destroy_delay: timedelta | None,
    etag: str,
    request_id: str | None,
) -> Operation[resources_pb2.KeyVersion]:
    """A version in another state."""
    request = key_pb2.SetKeyVersionStateRequest(
        name=name,
        state=_state_value(state),
        compromise_time=_timestamp(compromise_time),
        destroy_delay=_duration(destroy_delay),
        etag=etag,
        request_id=request_id or new_request_id(),
    )
    return Operation("KeyService", "SetKeyVersionState", request, lambda response: _checked_version(response.version))


def checkpoint(log: str) -> Operation[log_pb2.GetCheckpointResponse]:
    """The newest checkpoint."""
    return Operation("LogService", "GetCheckpoint", log_pb2.GetCheckpointRequest(log=log), _as_it_is)


def inclusion_proof(log: str, index: int, tree_size: int) -> Operation[log_pb2.GetInclusionProofResponse]:
    """A proof that an entry is in a tree."""
    request = log_pb2.GetInclusionProofRequest(log=log, log_index=index, tree_size=tree_size)
    return Operation("LogService", "GetInclusionProof", request, _as_it_is)


def consistency_proof(log: str, first: int, second: int) -> Operation[log_pb2.GetConsistencyProofResponse]:
    """A proof that one tree is a prefix of another."""
    request = log_pb2.GetConsistencyProofRequest(log=log, first_size=first, second_size=second)
    return Operation("LogService", "GetConsistencyProof", request, _as_it_is)


def entries(log: str, start: int, limit: int) -> Operation[Sequence[log_pb2.LogEntry]]:
    """Entries, as a stream."""
    request = log_pb2.ListEntriesRequest(log=log, start_index=start, limit=limit)
    return Operation("LogService", "ListEntries", request, lambda response: response.entries)


def trust_root(parent: str) -> Operation[trust_pb2.GetTrustRootResponse]:
    """The trust root."""
    return Operation("TrustService", "GetTrustRoot", trust_pb2.GetTrustRootRequest(parent=parent), _as_it_is)


def _as_it_is(response: T) -> T:
    return response


def _with_version(response: T) -> T:
    _checked_version(response.version)  # type: ignore[attr-defined]  # both messages that come here have one
    return response


def _checked_version(version: resources_pb2.KeyVersion) -> resources_pb2.KeyVersion:
    if crc32c(version.public_key) != version.public_key_crc32c:
        raise CorruptAnswerError(f"the public key of {version.name} was damaged on its way")
    return version


def _size(content: signing_pb2.SignContent) -> int:
    return len(content.message) + len(content.dsse.payload)


def _field(content: signing_pb2.SignContent, place: str) -> str:
    return f"{place}.dsse.payload" if content.WhichOneof("content") == "dsse" else f"{place}.message"


def _check_size(field: str, size: int, most: int) -> None:
    # What is too long for a gateway may be too long for gRPC, whose error names no field.
    if size > most:
        raise _invalid(field, f"has {size} bytes; at most {most} are allowed")


def _invalid(field: str, problem: str) -> InvalidRequestError:
    return InvalidRequestError(f"{field}: {problem}", violations=[FieldViolation(field, problem)])


def _check_signature(signature: signing_pb2.Signature, content: signing_pb2.SignContent) -> None:
    """What came must be whole, and of what was asked."""
    if crc32c(signature.signature) != signature.signature_crc32c or crc32c(signature.bundle) != signature.bundle_crc32c:
        raise CorruptAnswerError("the signature was damaged on its way", next_step="try again")
    if not signature.content_crc32c_verified:
        raise CorruptAnswerError("the gateway did not check what it was sent")
    try:
        bundle = parse_bundle(signature.bundle)
    except VerifyError as error:
        raise CorruptAnswerError(f"the bundle is malformed: {error}") from None
    if bundle.signature != signature.signature:
        raise CorruptAnswerError("the bundle holds another signature")
    made, asked = bundle.content, content.WhichOneof("content")
    if isinstance(made, MessageSignature):
        if asked == "dsse" or (asked == "digest" and made.digest and made.digest.digest != content.digest.value):
            raise CorruptAnswerError("the bundle is of something else")
    elif asked != "dsse" or (made.payload_type, made.payload) != (content.dsse.payload_type, content.dsse.payload):
        raise CorruptAnswerError("the bundle is of something else")


def _material(certificate: bool) -> resources_pb2.VerificationMaterial.ValueType:
    kinds = resources_pb2.VerificationMaterial
    return kinds.VERIFICATION_MATERIAL_CERTIFICATE if certificate else kinds.VERIFICATION_MATERIAL_PUBLIC_KEY


def _hash_value(name: str) -> resources_pb2.HashAlgorithm.ValueType:
    return resources_pb2.HashAlgorithm.Value(_known(resources_pb2.HashAlgorithm, "HASH_ALGORITHM_", name, "digest"))


def _algorithm_value(name: str) -> resources_pb2.PublicKeyDetails.ValueType:
    kind = resources_pb2.PublicKeyDetails
    return kind.Value(_known(kind, "PUBLIC_KEY_DETAILS_", name, "algorithm"))


def _state_value(name: str) -> resources_pb2.KeyVersionState.ValueType:
    kind = resources_pb2.KeyVersionState
    return kind.Value(_known(kind, "KEY_VERSION_STATE_", name, "state"))


def _known(kind: Any, prefix: str, name: str, field: str) -> str:
    names = [one.removeprefix(prefix) for one in kind.DESCRIPTOR.values_by_name if not one.endswith("UNSPECIFIED")]
    if name not in names:
        raise InvalidRequestError(f"{field} {name!r} is not known", next_step=f"one of {', '.join(names)}")
    return prefix + name


def _duration(period: timedelta | None) -> Duration | None:
    if period is None:
        return None
    message = Duration()
    message.FromTimedelta(period)
    return message


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment)
    return message
