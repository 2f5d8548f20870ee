"""SigningService: checks and translates requests, and leaves the rest to ``signing.py``.

Second of the five files to read for one signature.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives import serialization

from sealkeeper.server.authorization import Action
from sealkeeper.server.calls import Call, current_call
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.errors import FieldViolation, InvalidRequestError, OverloadedError
from sealkeeper.server.idempotency import RequestId, RequestLedger
from sealkeeper.server.keys import Keys
from sealkeeper.server.reserved_predicates import is_statement, require_no_encoding, require_signable
from sealkeeper.server.resources import (
    KeyName,
    KeyVersionName,
    parse_key_name,
    parse_key_or_version_name,
)
from sealkeeper.server.signing import (
    MAX_ITEMS,
    MAX_MESSAGE,
    Content,
    ContentKind,
    Material,
    Signature,
    Signed,
    Signing,
    encode_answer,
)
from sealkeeper.server.translation import algorithm_value, crc32c, hash_name
from sealkeeper.server.trust import Trust
from sealkeeper.v1 import resources_pb2, signing_pb2, signing_pb2_grpc
from sealkeeper.verify import Artifact, Policy, TrustRoot, VerificationResult, verify
from sealkeeper.verify.bundle import MAX_SENT_BUNDLE

_DIGEST_LENGTHS = {"SHA2_256": 32, "SHA2_384": 48, "SHA2_512": 64}
_PAYLOAD_TYPE = re.compile(r"[\x20-\x7e]{1,256}")
_OWN_TYPES = "application/vnd.sealkeeper."
_MATERIALS = {0: Material.PUBLIC_KEY, 1: Material.PUBLIC_KEY, 2: Material.CERTIFICATE}
_MAX_NAME = 512
_MAX_VERIFYING = 64
_MAX_TOLD = 20
_INLINE = 16 * 1024


class SigningService(signing_pb2_grpc.SigningServiceServicer):
    """Answers for the contract's SigningService.

    Args:
        signing: signs.
        keys: whose public keys are given.
        ledger: knows which requests were answered.
        trust: to verify with.
        clock: the time.
    """

    def __init__(self, signing: Signing, keys: Keys, ledger: RequestLedger, trust: Trust, clock: SteadyClock) -> None:
        self._signing = signing
        self._keys = keys
        self._ledger = ledger
        self._trust = trust
        self._clock = clock
        # In threads of its own: what somebody else's bundle takes is taken from no signature.
        self._verifiers = ThreadPoolExecutor(2, "sealkeeper-verify")
        self._verifying = 0

    async def Sign(self, request: signing_pb2.SignRequest, context: Any) -> signing_pb2.SignResponse:  # noqa: N802
        """Sign one content."""
        try:
            return await self._sign_one(request)
        except Exception:
            current_call().details["asked"] = _asked([request.content])
            raise

    async def SignBatch(  # noqa: N802
        self, request: signing_pb2.SignBatchRequest, context: Any
    ) -> signing_pb2.SignBatchResponse:
        """Sign up to 1,000 contents, all or none."""
        try:
            return await self._sign_all(request)
        except Exception:
            current_call().details["asked"] = _asked(request.items)
            raise

    async def _sign_one(self, request: signing_pb2.SignRequest) -> signing_pb2.SignResponse:
        call, name = _authorized_to_sign(request.key)
        call.use_request_id(request.request_id)
        contents = [_content(request.content, "content")]
        signed = await self._sign(call, name, contents, request)
        return signing_pb2.SignResponse(
            signature=_signature(signed.signatures[0], request.content), key_version=signed.key_version
        )

    async def _sign_all(self, request: signing_pb2.SignBatchRequest) -> signing_pb2.SignBatchResponse:
        call, name = _authorized_to_sign(request.key)
        call.use_request_id(request.request_id)
        contents = _contents(request.items)
        signed = await self._sign(call, name, contents, request)
        signatures = [_signature(one, item) for one, item in zip(signed.signatures, request.items, strict=True)]
        return signing_pb2.SignBatchResponse(signatures=signatures, key_version=signed.key_version)

    async def _sign(
        self,
        call: Call,
        name: KeyName | KeyVersionName,
        contents: Sequence[Content],
        request: signing_pb2.SignRequest | signing_pb2.SignBatchRequest,
    ) -> Signed:
        material = material_of(request.material)
        await _require_unforged(contents)
        if not call.request_id:
            call.quotas.admit_signatures(call.caller, len(contents))
            return await self._signing.sign(name, contents, material, call)
        known = RequestId.of(call.caller, call.method, call.request_id, _without_id(request))

        async def sign() -> Signed:
            # What was signed before is given again for nothing.
            call.quotas.admit_signatures(call.caller, len(contents))
            return await self._signing.sign(name, contents, material, call, known.fingerprint)

        return await self._ledger.once(
            known,
            sign,
            lambda answer: self._signing.replay(answer, contents),
            encode_answer,
        )

    async def Verify(  # noqa: N802
        self, request: signing_pb2.VerifyRequest, context: Any
    ) -> signing_pb2.VerifyResponse:
        """Verify a bundle against this gateway's trust root."""
        name = parse_key_name(request.key, "key")
        principal = current_call().authorize(Action.VERIFY, name)
        if len(request.bundle) > MAX_SENT_BUNDLE:
            raise InvalidRequestError.of(
                "bundle", f"has {len(request.bundle)} bytes; at most {MAX_SENT_BUNDLE} are allowed"
            )
        if request.HasField("bundle_crc32c") and crc32c(request.bundle) != request.bundle_crc32c:
            raise _checksum_mismatch("bundle_crc32c")
        artifact = _artifact(request)
        trust, policy = await self._trust.root(principal.tenant), Policy(key=str(name))
        details = current_call().details
        if request.WhichOneof("artifact") == "digest":
            details["digest"] = request.digest.value.hex()
        result, details["bundle"] = await self._verify(request.bundle, artifact, trust, policy)
        details["verified"] = result.verified
        steps = [
            signing_pb2.VerificationStep(name=one.name, passed=one.passed, detail=one.detail) for one in result.steps
        ]
        return signing_pb2.VerifyResponse(
            verified=result.verified,
            steps=steps,
            bundle_crc32c_verified=request.HasField("bundle_crc32c"),
            artifact_crc32c_verified=request.HasField("artifact_crc32c"),
        )

    async def _verify(
        self, bundle: bytes, artifact: Artifact | None, trust: TrustRoot, policy: Policy
    ) -> tuple[VerificationResult, str]:
        """Verify a bundle, and give its SHA-256 for the record."""

        def work() -> tuple[VerificationResult, str]:
            return verify(bundle, artifact, trust, policy), sha256(bundle).hexdigest()

        if self._verifying >= _MAX_VERIFYING:
            raise OverloadedError("too many bundles are being verified", retry_after=timedelta(milliseconds=200))
        self._verifying += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._verifiers, work)
        finally:
            self._verifying -= 1

    async def GetPublicKey(  # noqa: N802
        self, request: signing_pb2.GetPublicKeyRequest, context: Any
    ) -> signing_pb2.GetPublicKeyResponse:
        """Give a version's public key."""
        name = parse_key_or_version_name(request.name, "name")
        current_call().authorize(Action.GET_PUBLIC_KEY, name)
        if isinstance(name, KeyVersionName):
            version = self._keys.get_version(name)
        else:
            version = self._keys.signing_version(name, self._clock.at_least_latest())
        current_call().details["keyVersion"] = str(version.name)
        pem = _pem(version.public_key)
        return signing_pb2.GetPublicKeyResponse(
            key_version=str(version.name),
            algorithm=algorithm_value(version.algorithm),
            pem=pem,
            pem_crc32c=crc32c(pem.encode()),
            hint=version.hint,
        )


def _asked(items: Sequence[signing_pb2.SignContent]) -> dict[str, Any]:
    """What was to be signed, for the audit record of a refusal: digests and names as they came, but bounded."""
    digests = [one.digest.value[:64].hex() for one in items[:_MAX_TOLD] if one.WhichOneof("content") == "digest"]
    names = [one.artifact_name[:_MAX_NAME] for one in items[:_MAX_TOLD] if one.artifact_name]
    kinds = sorted({one.WhichOneof("content") or "nothing" for one in items[:MAX_ITEMS]})
    asked = {"count": len(items), "kinds": kinds, "digests": digests, "artifacts": names}
    return {name: value for name, value in asked.items() if value}


def _authorized_to_sign(key: str) -> tuple[Call, KeyName | KeyVersionName]:
    name, call = parse_key_or_version_name(key, "key"), current_call()
    call.authorize(Action.SIGN, name)
    if isinstance(name, KeyVersionName):
        call.details["keyVersion"] = str(name)
    return call, name


def material_of(value: int, field: str = "material") -> Material:
    """What proves the signer in bundles; a hint at the public key where that is not said.

    Raises:
        InvalidRequestError: not a known number.
    """
    if value not in _MATERIALS:
        raise InvalidRequestError.of(field, "must be PUBLIC_KEY or CERTIFICATE")
    return _MATERIALS[value]


async def _require_unforged(contents: Sequence[Content]) -> None:
    """Refuse what would make an attestation that the gateway, or a gate, has to write itself.

    Raises:
        InvalidRequestError: naming the content.
    """

    def work() -> None:
        for one in statements:
            require_signable(one.data, f"{one.field}.dsse.payload")

    for one in contents:
        if one.kind is ContentKind.MESSAGE:
            require_no_encoding(one.data, f"{one.field}.message")
    statements = [one for one in contents if one.kind is ContentKind.DSSE and is_statement(one.payload_type)]
    # Reading much would hold up everybody else.
    if sum(len(one.data) for one in statements) < _INLINE:
        work()
    else:
        await asyncio.to_thread(work)


def _without_id(request: signing_pb2.SignRequest | signing_pb2.SignBatchRequest) -> bytes:
    request.ClearField("request_id")
    return request.SerializeToString(deterministic=True)


def _contents(items: Sequence[signing_pb2.SignContent]) -> list[Content]:
    if not 1 <= len(items) <= MAX_ITEMS:
        raise InvalidRequestError.of("items", f"has {len(items)} items; 1 to {MAX_ITEMS} are allowed")
    contents: list[Content] = []
    violations: list[FieldViolation] = []
    for place, item in enumerate(items):
        try:
            contents.append(_content(item, f"items[{place}]"))
        except InvalidRequestError as error:
            if error.reason != InvalidRequestError.reason:
                raise
            violations += error.violations
    if violations:
        raise InvalidRequestError(violations)
    total = sum(len(one.data) for one in contents if one.kind is not ContentKind.DIGEST)
    if total > MAX_MESSAGE:
        raise InvalidRequestError.of("items", f"messages and payloads have {total} bytes; together 4 MiB are allowed")
    return contents


def _content(item: signing_pb2.SignContent, field: str) -> Content:
    """Check one content.

    Raises:
        InvalidRequestError: naming the field.
    """
    kind = item.WhichOneof("content")
    if kind is None:
        raise InvalidRequestError.of(field, "needs a digest, a message or a DSSE payload")
    if kind == "digest":
        content = _digest_content(item, field)
    elif kind == "message":
        content = Content(
            ContentKind.MESSAGE,
            _bounded(item.message, f"{field}.message"),
            artifact_name=item.artifact_name,
            field=field,
        )
    else:
        content = _dsse_content(item, field)
    if item.HasField("crc32c") and crc32c(content.data) != item.crc32c:
        raise _checksum_mismatch(f"{field}.crc32c")
    if len(content.artifact_name) > _MAX_NAME or not content.artifact_name.isprintable():
        raise InvalidRequestError.of(
            f"{field}.artifact_name", f"must be at most {_MAX_NAME} characters without control characters"
        )
    return content


def _checksum_mismatch(field: str) -> InvalidRequestError:
    return InvalidRequestError.of(
        field,
        "is not the checksum of what arrived",
        reason="CHECKSUM_MISMATCH",
        next_step="send it again; if it stays so, something on the way changes data",
    )


def _digest_content(item: signing_pb2.SignContent, field: str) -> Content:
    digest = item.digest
    algorithm, value = hash_name(digest.algorithm, f"{field}.digest.algorithm"), digest.value
    length = _DIGEST_LENGTHS[algorithm]
    if len(value) != length:
        raise InvalidRequestError.of(
            f"{field}.digest.value", f"a {algorithm} digest has {length} bytes, not {len(value)}"
        )
    return Content(ContentKind.DIGEST, value, algorithm, artifact_name=item.artifact_name, field=field)


def _dsse_content(item: signing_pb2.SignContent, field: str) -> Content:
    if not _PAYLOAD_TYPE.fullmatch(item.dsse.payload_type):
        raise InvalidRequestError.of(f"{field}.dsse.payload_type", "must be 1 to 256 printable ASCII characters")
    _require_callers(item.dsse.payload_type, f"{field}.dsse.payload_type")
    return Content(
        ContentKind.DSSE,
        _bounded(item.dsse.payload, f"{field}.dsse.payload"),
        payload_type=item.dsse.payload_type,
        artifact_name=item.artifact_name,
        field=field,
    )


def _require_callers(payload_type: str, field: str) -> None:
    """Refuse payloads that only the gateway itself makes, such as snapshots of gates."""
    if payload_type.casefold().startswith(_OWN_TYPES):
        raise InvalidRequestError.of(field, f"{_OWN_TYPES}… are the gateway's own, and signed for nobody")


def _bounded(data: bytes, field: str) -> bytes:
    if len(data) > MAX_MESSAGE:
        raise InvalidRequestError.of(
            field,
            f"has {len(data)} bytes; at most 4 MiB are allowed",
            next_step="sign the digest instead, with a key whose algorithm signs digests",
        )
    return data


def _signature(one: Signature, item: signing_pb2.SignContent) -> signing_pb2.Signature:
    return signing_pb2.Signature(
        bundle=one.bundle,
        bundle_crc32c=crc32c(one.bundle),
        signature=one.signature,
        signature_crc32c=crc32c(one.signature),
        content_crc32c_verified=item.HasField("crc32c"),
        log_index=one.log_index,
    )


def _artifact(request: signing_pb2.VerifyRequest) -> Artifact | None:
    kind = request.WhichOneof("artifact")
    if request.HasField("artifact_crc32c"):
        if kind is None:
            raise InvalidRequestError.of("artifact_crc32c", "goes with digest or message only")
        if crc32c(request.message if kind == "message" else request.digest.value) != request.artifact_crc32c:
            raise _checksum_mismatch("artifact_crc32c")
    if kind == "message":
        return Artifact.from_bytes(_bounded(request.message, "message"))
    if kind == "digest":
        digest: resources_pb2.Digest = request.digest
        algorithm = hash_name(digest.algorithm, "digest.algorithm")
        if len(digest.value) != _DIGEST_LENGTHS[algorithm]:
            raise InvalidRequestError(
                [FieldViolation("digest.value", f"a {algorithm} digest has {_DIGEST_LENGTHS[algorithm]} bytes")]
            )
        return Artifact.from_digest(algorithm, digest.value)
    return None


def _pem(public_key: bytes) -> str:
    key = serialization.load_der_public_key(public_key)
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
