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
from sealkeeper.v1 import key_import_pb2, key_pb2, log_pb2, provider_pb2, resources_pb2, signing_pb2, trust_pb2
from sealkeeper.verify.artifact import MAX_MESSAGE
from sealkeeper.verify.bundle import MAX_SENT_BUNDLE, MessageSignature, parse_bundle
from sealkeeper.verify.errors import VerifyError

T = TypeVar("T")
MAX_ITEMS = 1000
"""Contents of a batch."""
MAX_WRAPPED_KEY = 16 * 1024
"""Bytes of a wrapped private key."""
MAX_PUBLIC_KEY = 4 * 1024
"""Bytes of a public key."""
_MAX_RECORD = 65_535
_MAX_PROOF = 63


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
        key=key, content=content, material=material_value(certificate), request_id=request_id or new_request_id()
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
        raise invalid("items", f"has {len(items)} items; 1 to {MAX_ITEMS} are allowed")
    for number, one in enumerate(items):
        _check_size(_field(one, f"items[{number}]"), _size(one), MAX_MESSAGE)
    _check_size("items", sum(map(_size, items)), MAX_MESSAGE)
    request = signing_pb2.SignBatchRequest(
        key=key, items=items, material=material_value(certificate), request_id=request_id or new_request_id()
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
        InvalidRequestError: the bundle is longer than 24 MiB, or the message than 4 MiB.
    """
    _check_size("bundle", len(bundle), MAX_SENT_BUNDLE)
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
        name=name, publish_period=duration_message(publish_period), request_id=request_id or new_request_id()
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
        compromise_time=timestamp_message(compromise_time),
        destroy_delay=duration_message(destroy_delay),
        etag=etag,
        request_id=request_id or new_request_id(),
    )
    return Operation("KeyService", "SetKeyVersionState", request, lambda response: _checked_version(response.version))


def add_standby_version(
    name: str, provider: str, *, failover: str, publish_period: timedelta | None, request_id: str | None
) -> Operation[key_pb2.AddStandbyVersionResponse]:
    """A version that stands by; ``failover`` as in ``Failover``."""
    request = key_pb2.AddStandbyVersionRequest(
        name=name,
        provider=provider,
        failover=_failover_value(failover),
        publish_period=duration_message(publish_period),
        request_id=request_id or new_request_id(),
    )

    def check(response: key_pb2.AddStandbyVersionResponse) -> key_pb2.AddStandbyVersionResponse:
        _checked_version(response.version)
        if not response.version.standby or response.version.provider != provider:
            raise CorruptAnswerError(f"a standby version in {provider} was asked for, another version came")
        return response

    return Operation("KeyService", "AddStandbyVersion", request, check)


def get_key_evidence(name: str) -> Operation[resources_pb2.KeyEvidence]:
    """What the store says of a version's private key now."""
    request = key_pb2.GetKeyEvidenceRequest(name=name)
    return Operation("KeyService", "GetKeyEvidence", request, lambda response: response.evidence)


def get_key_ceremony(name: str) -> Operation[key_pb2.GetKeyCeremonyResponse]:
    """How a version came to be: to be checked by ``sealkeeper.verify.verify_ceremony``."""

    def check(response: key_pb2.GetKeyCeremonyResponse) -> key_pb2.GetKeyCeremonyResponse:
        if not 1 <= len(response.record) <= _MAX_RECORD or len(response.hashes) > _MAX_PROOF:
            raise CorruptAnswerError(f"what came is no record of {name} with its proof")
        return response

    return Operation("KeyService", "GetKeyCeremony", key_pb2.GetKeyCeremonyRequest(name=name), check)


def begin_key_import(
    parent: str,
    key_id: str,
    *,
    algorithm: str,
    provider: str,
    standby: bool,
    labels: Mapping[str, str],
    request_id: str | None,
) -> Operation[key_import_pb2.KeyImport]:
    """A wrapping key of the store's; no ``algorithm`` means that of the key."""
    request = key_import_pb2.BeginKeyImportRequest(
        parent=parent,
        key_id=key_id,
        algorithm=_algorithm_value(algorithm) if algorithm else resources_pb2.PUBLIC_KEY_DETAILS_UNSPECIFIED,
        provider=provider,
        standby=standby,
        labels=dict(labels),
        request_id=request_id or new_request_id(),
    )

    def check(response: key_import_pb2.BeginKeyImportResponse) -> key_import_pb2.KeyImport:
        begun = _checked_import(response.key_import)
        asked = (f"{parent}/keys/{key_id}", request.algorithm or begun.algorithm, provider or begun.provider, standby)
        if (begun.key, begun.algorithm, begun.provider, begun.standby) != asked:
            raise CorruptAnswerError(f"the import that was begun is not the one of {asked[0]} that was asked for")
        if not begun.wrapping_key or not begun.wrap_methods:
            raise CorruptAnswerError("the import came without a wrapping key, or without a method to wrap with")
        return begun

    return Operation("KeyImportService", "BeginKeyImport", request, check)


def finish_key_import(
    name: str,
    wrap_method: str,
    wrapped_key: bytes,
    public_key: bytes,
    *,
    publish_period: timedelta | None,
    request_id: str | None,
) -> Operation[key_import_pb2.FinishKeyImportResponse]:
    """A version of a private key that was wrapped; ``wrap_method`` as in ``WrapMethod``.

    Raises:
        InvalidRequestError: the wrapped key or the public key is empty, or longer than any may be.
    """
    _check_size("wrapped_key", len(wrapped_key), MAX_WRAPPED_KEY, least=1)
    _check_size("public_key", len(public_key), MAX_PUBLIC_KEY, least=1)
    request = key_import_pb2.FinishKeyImportRequest(
        name=name,
        wrap_method=_wrap_method_value(wrap_method),
        wrapped_key=wrapped_key,
        wrapped_key_crc32c=crc32c(wrapped_key),
        public_key=public_key,
        publish_period=duration_message(publish_period),
        request_id=request_id or new_request_id(),
    )

    def check(response: key_import_pb2.FinishKeyImportResponse) -> key_import_pb2.FinishKeyImportResponse:
        if _checked_version(response.version).public_key != public_key:
            raise CorruptAnswerError(
                f"{response.version.name} has another public key than the one that was given",
                next_step="do not use this version: disable it, and have people look at the gateway",
            )
        return response

    return Operation("KeyImportService", "FinishKeyImport", request, check)


def cancel_key_import(name: str) -> Operation[key_import_pb2.KeyImport]:
    """An import that is given up."""
    request = key_import_pb2.CancelKeyImportRequest(name=name)
    return Operation(
        "KeyImportService", "CancelKeyImport", request, lambda response: _checked_import(response.key_import)
    )


def get_key_import(name: str) -> Operation[key_import_pb2.KeyImport]:
    """One import."""
    request = key_import_pb2.GetKeyImportRequest(name=name)
    return Operation("KeyImportService", "GetKeyImport", request, lambda response: _checked_import(response.key_import))


def list_key_imports(parent: str, page_token: str, page_size: int) -> Operation[key_import_pb2.ListKeyImportsResponse]:
    """A page of imports."""
    request = key_import_pb2.ListKeyImportsRequest(parent=parent, page_token=page_token, page_size=page_size)

    def check(response: key_import_pb2.ListKeyImportsResponse) -> key_import_pb2.ListKeyImportsResponse:
        for one in response.key_imports:
            _checked_import(one)
        return response

    return Operation("KeyImportService", "ListKeyImports", request, check)


def list_providers(parent: str) -> Operation[Sequence[provider_pb2.Provider]]:
    """The providers that the tenant may use."""
    request = provider_pb2.ListProvidersRequest(parent=parent)
    return Operation("ProviderService", "ListProviders", request, lambda response: response.providers)


def get_provider(name: str) -> Operation[provider_pb2.Provider]:
    """One provider."""
    request = provider_pb2.GetProviderRequest(name=name)
    return Operation("ProviderService", "GetProvider", request, lambda response: response.provider)


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


def _checked_import(found: key_import_pb2.KeyImport) -> key_import_pb2.KeyImport:
    # Under a damaged wrapping key nobody could unwrap; under another one, somebody else could.
    if crc32c(found.wrapping_key) != found.wrapping_key_crc32c:
        raise CorruptAnswerError(f"the wrapping key of {found.name} was damaged on its way", next_step="try again")
    return found


def _size(content: signing_pb2.SignContent) -> int:
    return len(content.message) + len(content.dsse.payload)


def _field(content: signing_pb2.SignContent, place: str) -> str:
    return f"{place}.dsse.payload" if content.WhichOneof("content") == "dsse" else f"{place}.message"


def _check_size(field: str, size: int, most: int, *, least: int = 0) -> None:
    if size < least:
        raise invalid(field, f"has {size} bytes; at least {least} is needed")
    # What is too long for a gateway may be too long for gRPC, whose error names no field.
    if size > most:
        raise invalid(field, f"has {size} bytes; at most {most} are allowed")


def invalid(field: str, problem: str) -> InvalidRequestError:
    """An error that names a field of the request."""
    return InvalidRequestError(f"{field}: {problem}", violations=[FieldViolation(field, problem)])


def require_whole(signature: signing_pb2.Signature, what: str) -> None:
    """Check the checksums of a signature and its bundle.

    Raises:
        CorruptAnswerError: they were damaged on their way; ``what`` names them.
    """
    if crc32c(signature.signature) != signature.signature_crc32c or crc32c(signature.bundle) != signature.bundle_crc32c:
        raise CorruptAnswerError(f"the {what} was damaged on its way", next_step="try again")


def _check_signature(signature: signing_pb2.Signature, content: signing_pb2.SignContent) -> None:
    """What came must be whole, and of what was asked."""
    require_whole(signature, "signature")
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


def material_value(certificate: bool) -> resources_pb2.VerificationMaterial.ValueType:
    """Number of what proves the signer in bundles."""
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


def _failover_value(name: str) -> resources_pb2.Failover.ValueType:
    kind = resources_pb2.Failover
    return kind.Value(_known(kind, "FAILOVER_", name, "failover"))


def _wrap_method_value(name: str) -> resources_pb2.WrapMethod.ValueType:
    kind = resources_pb2.WrapMethod
    return kind.Value(_known(kind, "WRAP_METHOD_", name, "wrap_method"))


def _known(kind: Any, prefix: str, name: str, field: str) -> str:
    names = [one.removeprefix(prefix) for one in kind.DESCRIPTOR.values_by_name if not one.endswith("UNSPECIFIED")]
    if name not in names:
        raise InvalidRequestError(f"{field} {name!r} is not known", next_step=f"one of {', '.join(names)}")
    return prefix + name


def duration_message(period: timedelta | None) -> Duration | None:
    """A period as a message."""
    if period is None:
        return None
    message = Duration()
    message.FromTimedelta(period)
    return message


def timestamp_message(moment: datetime | None) -> Timestamp | None:
    """A time as a message."""
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment)
    return message
