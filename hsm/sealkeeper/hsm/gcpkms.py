"""Keys in Google Cloud KMS: one key ring, over gRPC.

``gcpkms://projects/acme-signing/locations/europe-west3/keyRings/release?protection=HSM``

Each key is a CryptoKey with one version, 1; the handle is the version's name within the ring. What is sent is a digest:
for ML-DSA the message representative of FIPS 204 section 6.2, computed here, so that a message may be longer than the
64 KiB that Google takes. Ed25519 has no such way: the message itself is sent. Checksums (CRC32C) are sent and checked
both ways, as https://cloud.google.com/kms/docs/data-integrity-guidelines asks for.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256, shake_256
from threading import Lock
from typing import Any, NoReturn, TypeVar

import google_crc32c
import grpc
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import mldsa, rsa
from google.cloud import kms_v1 as kms

from sealkeeper.hsm.algorithms import ALGORITHMS, Algorithm, PublicKey, load_public_key
from sealkeeper.hsm.backend import require_algorithm
from sealkeeper.hsm.errors import (
    AlgorithmNotSupportedError,
    ImportExpiredError,
    ImportNotSupportedError,
    KeyHandleError,
    ProviderConfigurationError,
    ProviderError,
    ProviderPermissionError,
    ProviderUnavailableError,
    SelfCheckError,
    WrappedKeyError,
)
from sealkeeper.hsm.gcpkms_calls import RefusedError, open_calls
from sealkeeper.hsm.gcpkms_evidence import hsm_attestation, key_evidence, utc
from sealkeeper.hsm.gcpkms_permissions import PERMISSIONS, diagnoses_of
from sealkeeper.hsm.gcpkms_uri import Protection, parse_gcpkms_uri
from sealkeeper.hsm.provider import (
    Diagnosis,
    KeyEvidence,
    ProtectionLevel,
    ProviderInfo,
    ProviderKey,
    WrapMethod,
    WrappingKey,
)

_KmsAlgorithm: Any = kms.CryptoKeyVersion.CryptoKeyVersionAlgorithm
_State: Any = kms.CryptoKeyVersion.CryptoKeyVersionState
_JobState: Any = kms.ImportJob.ImportJobState

_NAMES = {
    "PKIX_ECDSA_P256_SHA_256": "EC_SIGN_P256_SHA256",
    "PKIX_ECDSA_P384_SHA_384": "EC_SIGN_P384_SHA384",
    "PKIX_ED25519": "EC_SIGN_ED25519",
    **{f"PKIX_RSA_PKCS1V15_{bits}_SHA256": f"RSA_SIGN_PKCS1_{bits}_SHA256" for bits in (2048, 3072, 4096)},
    **{f"PKIX_RSA_PSS_{bits}_SHA256": f"RSA_SIGN_PSS_{bits}_SHA256" for bits in (2048, 3072, 4096)},
    **{f"ML_DSA_{size}": f"PQ_SIGN_ML_DSA_{size}_EXTERNAL_MU" for size in (44, 65, 87)},
}
# Older client libraries do not know all of them.
_TO_KMS = {ours: _KmsAlgorithm[theirs] for ours, theirs in _NAMES.items() if theirs in _KmsAlgorithm.__members__}
_FROM_KMS = {theirs: ALGORITHMS[ours] for ours, theirs in _TO_KMS.items()}

MAX_DATA = 64 * 1024
"""Most bytes of a message that ``AsymmetricSign`` takes."""
# Their signatures are made in software only: https://cloud.google.com/kms/docs/algorithms says so of the post-quantum
# ones. Of Ed25519 nothing was found that says that Cloud HSM has it.
_SOFTWARE_ONLY = frozenset({"ml-dsa", "ed25519"})

_METHOD = WrapMethod.RSA_OAEP_SHA256_AES_256_KWP
_WRAPPING_BITS = 4096
_HANDLE = re.compile(r"cryptoKeys/[A-Za-z0-9_-]{1,63}/cryptoKeyVersions/[1-9][0-9]{0,9}")
_ID = re.compile(r"[A-Za-z0-9_-]{1,63}")
_LABELS = {"managed-by": "sealkeeper"}
# The least that Google allows.
_DESTROY_AFTER = timedelta(hours=24)
_PATIENCE = 30.0
_TRIES = 3
_CACHE_LIMIT = 10_000
_MAX_STATE = 1024

_LEVELS: dict[Protection, Any] = {"HSM": kms.ProtectionLevel.HSM, "SOFTWARE": kms.ProtectionLevel.SOFTWARE}
_GONE = {
    _State.DESTROYED,
    _State.DESTROY_SCHEDULED,
    _State.PENDING_EXTERNAL_DESTRUCTION,
    _State.EXTERNAL_DESTRUCTION_FAILED,
}
_NEVER_MADE = {_State.IMPORT_FAILED, _State.GENERATION_FAILED}
_PENDING = {_State.PENDING_GENERATION, _State.PENDING_IMPORT}

# https://cloud.google.com/kms/docs/troubleshooting-failed-imports: words of Google's reasons, and ours for them.
_IMPORT_FAILURES = {
    "unwrapped": "it cannot be unwrapped with this import's wrapping key, or is not PKCS#8",
    "malformed": "it is malformed: not PKCS#8, not wrapped by the method, or not a key for the algorithm",
    "length": "what was wrapped has a length that no key for the algorithm has",
    "too short": "it is too short",
    "64-bit blocks": "it is not the output of AES key wrap with padding",
}

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Signer:
    """What is known of a key that signs.

    Attributes:
        key: as callers know it.
        tr: hash of the public key that ML-DSA puts before a message (FIPS 204 section 5.2); empty for others.
    """

    key: ProviderKey
    tr: bytes

    def request(self, name: str, payload: bytes) -> kms.AsymmetricSignRequest:
        """What Google is asked to sign, by a version's full name."""
        algorithm = self.key.algorithm
        if algorithm.family == "ed25519":
            return kms.AsymmetricSignRequest(name=name, data=payload, data_crc32c=google_crc32c.value(payload))
        kind, sent = str(algorithm.digest), payload
        if algorithm.family == "ml-dsa":
            # FIPS 204 algorithm 2 (pure, empty context) up to the message representative of algorithm 7.
            kind, sent = "external_mu", shake_256(self.tr + b"\x00\x00" + payload).digest(64)
        return kms.AsymmetricSignRequest(
            name=name, digest=kms.Digest(**{kind: sent}), digest_crc32c=google_crc32c.value(sent)
        )


class GcpKmsBackend:
    """A key ring of Google Cloud KMS.

    Args:
        uri: ``gcpkms:``; see ``gcpkms_uri.py``.
        sleep: waits for some seconds.
        clock: seconds that only go up.

    Raises:
        ProviderUriError: the URI is malformed.
        ProviderConfigurationError: there is no such key ring, or there are no credentials.
        ProviderUnavailableError: Google cannot be reached, or does not take the credentials.
    """

    concurrency = 16
    piece = 1

    def __init__(
        self,
        uri: str,
        *,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._uri = parse_gcpkms_uri(uri)
        self._sleep, self._clock = sleep, clock
        self._level = _LEVELS[self._uri.protection]
        self._calls = open_calls(self._uri, sleep, clock)
        self._client = self._calls.client
        self._lock = Lock()
        # By handle; guarded by the lock.
        self._signers: dict[str, _Signer] = {}
        self.info = ProviderInfo(
            "gcpkms",
            f"Google Cloud KMS key ring {self._uri.ring!r} of {self._uri.project} in {self._uri.location}",
            ProtectionLevel[self._uri.protection],
            frozenset(name for name in _TO_KMS if self._offers(ALGORITHMS[name])),
            self._uri.location,
            frozenset({_METHOD}),
            {name: MAX_DATA for name in _TO_KMS if ALGORITHMS[name].family == "ed25519"},
        )
        try:
            self.check()
        except ProviderError:
            self.close()
            raise

    def generate(self, label: str, algorithm: Algorithm) -> ProviderKey:
        """Make a CryptoKey with one version, and wait until Google has generated it."""
        key_id = f"{_id_part(label, 46)}-{secrets.token_hex(8)}"
        handle = f"cryptoKeys/{key_id}/cryptoKeyVersions/1"
        try:
            # It may have come to be where no answer came.
            self._create_key(key_id, algorithm, imported=False)
            return self._generated(handle)
        except ProviderError:
            with suppress(ProviderError):
                self.destroy(handle)
            raise

    def public_key(self, handle: str) -> ProviderKey:
        """Read a public key; its version must be enabled."""
        return self._read(handle).key

    def sign(self, handle: str, algorithm: Algorithm, payloads: Sequence[bytes]) -> list[bytes]:
        """Sign each payload with a call of its own."""
        with self._lock:
            signer = self._signers.get(handle)
        signer = signer or self._read(handle)
        require_algorithm(signer.key.algorithm, algorithm)
        return [self._sign(signer, payload) for payload in payloads]

    def destroy(self, handle: str) -> None:
        """Have Google destroy the version 24 hours from now. Until then people can restore it, in Google's console."""
        with self._lock:
            self._signers.pop(handle, None)
        if not _HANDLE.fullmatch(handle):
            return
        name = self._name(handle)
        try:
            self._calls(
                self._client.destroy_crypto_key_version, kms.DestroyCryptoKeyVersionRequest(name=name), again=True
            )
        except RefusedError as refused:
            if refused.code is grpc.StatusCode.NOT_FOUND:
                return
            try:
                state = self._version(name).state
            except KeyHandleError:
                return
            if state not in _GONE | _NEVER_MADE:
                raise

    def check(self) -> None:
        """Read the key ring's own record."""
        try:
            self._calls(self._client.get_key_ring, kms.GetKeyRingRequest(name=self._uri.key_ring), again=True)
        except RefusedError as refused:
            if refused.code is not grpc.StatusCode.NOT_FOUND:
                raise
            raise ProviderConfigurationError(
                f"there is no {self.info.description}",
                next_step=f"gcloud kms keyrings create {self._uri.ring} --location {self._uri.location} "
                f"--project {self._uri.project}",
            ) from None

    def diagnose(self) -> list[Diagnosis]:
        """Ask Google which of the role's permissions the gateway has on the key ring."""
        request = {"resource": self._uri.key_ring, "permissions": PERMISSIONS}
        answer: Any = self._calls(self._client.test_iam_permissions, request, again=True)
        return diagnoses_of(answer.permissions)

    def close(self) -> None:
        """Close the channel."""
        self._calls.close()

    def evidence(self, handle: str) -> KeyEvidence:
        """What Google says of a version, with the HSM's own attestation where it has one."""
        version = self._version(self._name(handle))
        if version.state in _GONE | _NEVER_MADE:
            _refuse_state(version.state)
        return key_evidence(version)

    def begin_import(self, label: str, algorithm: Algorithm) -> WrappingKey:
        """Make an import job, and wait until it has its wrapping key. It expires by itself, three days later."""
        if algorithm.family in _SOFTWARE_ONLY:
            raise ImportNotSupportedError(
                f"keys for {algorithm.name} cannot be imported into Google Cloud KMS",
                next_step="have the key made there, or import one of ECDSA or RSA",
            )
        prefix, suffix = _id_part(label, 37), secrets.token_hex(8)
        job_id = f"{prefix}-{suffix}"
        request = kms.CreateImportJobRequest(
            parent=self._uri.key_ring,
            import_job_id=job_id,
            import_job=kms.ImportJob(
                import_method=kms.ImportJob.ImportMethod.RSA_OAEP_4096_SHA256_AES_256, protection_level=self._level
            ),
        )
        self._create(self._client.create_import_job, request)
        job = self._settled(lambda: self._job(job_id), lambda job: job.state == _JobState.PENDING_GENERATION)
        return WrappingKey(
            state=json.dumps({"job": job_id, "key": job_id}).encode(),
            public_key=_wrapping_key(job.public_key.pem),
            methods=(_METHOD,),
            expire_time=utc(job.expire_time),
            attestation=hsm_attestation(job.attestation)[0],
        )

    def finish_import(
        self, state: bytes, label: str, algorithm: Algorithm, method: WrapMethod, wrapped: bytes, public_key: bytes
    ) -> ProviderKey:
        """Have Google unwrap a key into a CryptoKey that takes imported versions only.

        The CryptoKey's name follows from the import and the wrapped key: asked a second time with both the same, it is
        the same key.
        """
        job_id, prefix = _parse_state(state)
        if method is not _METHOD:
            raise WrappedKeyError(f"Google Cloud KMS was asked for a key wrapped by {_METHOD}, not {method}")
        _require_length(wrapped)
        self._job(job_id)
        key_id = f"{prefix}-{sha256(wrapped).hexdigest()[:8]}"
        self._create_key(key_id, algorithm, imported=True)
        name = self._name(f"cryptoKeys/{key_id}/cryptoKeyVersions/1")
        if not self._exists(name):
            self._import(job_id, key_id, algorithm, wrapped)
        version = self._settled(lambda: self._version(name), lambda version: version.state in _PENDING)
        if version.state == _State.IMPORT_FAILED:
            reason = _import_failure(version.import_failure_reason)
            left = self._delete(name)
            raise WrappedKeyError(
                f"Google Cloud KMS could not import the key: {reason}",
                next_step=left or "wrap the private key again, with this import's wrapping key",
            )
        if version.algorithm != _TO_KMS[algorithm.name]:
            raise WrappedKeyError(f"this key was imported before, for another algorithm than {algorithm.name}")
        return self._read(f"cryptoKeys/{key_id}/cryptoKeyVersions/1").key

    def end_import(self, state: bytes) -> None:
        """Nothing: Google has no call to delete an import job, and forgets its wrapping key after three days."""

    def _offers(self, algorithm: Algorithm) -> bool:
        return algorithm.family not in _SOFTWARE_ONLY or self._uri.protection == "SOFTWARE"

    def _name(self, handle: str) -> str:
        if not _HANDLE.fullmatch(handle):
            raise _no_key()
        return f"{self._uri.key_ring}/{handle}"

    def _create(self, rpc: Callable[..., object], request: Any) -> None:
        """Create something by a name that nobody else uses: that it exists means that an earlier call got through."""
        try:
            self._calls(rpc, request, again=True)
        except RefusedError as refused:
            if refused.code is not grpc.StatusCode.ALREADY_EXISTS:
                raise

    def _create_key(self, key_id: str, algorithm: Algorithm, *, imported: bool) -> None:
        key = kms.CryptoKey(
            purpose=kms.CryptoKey.CryptoKeyPurpose.ASYMMETRIC_SIGN,
            version_template=kms.CryptoKeyVersionTemplate(
                algorithm=_TO_KMS[algorithm.name], protection_level=self._level
            ),
            labels=_LABELS,
            destroy_scheduled_duration=_DESTROY_AFTER,
            import_only=imported,
        )
        request = kms.CreateCryptoKeyRequest(
            parent=self._uri.key_ring, crypto_key_id=key_id, crypto_key=key, skip_initial_version_creation=imported
        )
        self._create(self._client.create_crypto_key, request)

    def _generated(self, handle: str) -> ProviderKey:
        """Wait for a version that is being generated."""
        name = self._name(handle)
        version = self._settled(lambda: self._version(name), lambda version: version.state in _PENDING)
        if version.state in _NEVER_MADE:
            left = self._delete(name)
            raise ProviderUnavailableError(
                "Google Cloud KMS could not generate the key", next_step=left or "try again; nothing of it is left"
            )
        return self._read(handle).key

    def _version(self, name: str) -> kms.CryptoKeyVersion:
        request = kms.GetCryptoKeyVersionRequest(name=name)
        try:
            version = self._calls(self._client.get_crypto_key_version, request, again=True)
        except RefusedError as refused:
            if refused.code is grpc.StatusCode.NOT_FOUND:
                raise _no_key() from None
            raise
        if version.name != name:
            raise ProviderUnavailableError("Google Cloud KMS answered for another key than it was asked for")
        return version

    def _exists(self, name: str) -> bool:
        try:
            self._version(name)
        except KeyHandleError:
            return False
        return True

    def _settled(self, read: Callable[[], _T], pending: Callable[[_T], bool]) -> _T:
        """Read again until something is no longer pending, which takes Google's HSMs some seconds."""
        begun, pause = self._clock(), 0.1
        while pending(found := read()):
            if self._clock() - begun > _PATIENCE:
                raise ProviderUnavailableError(
                    "Google Cloud KMS has not got ready in time what it was asked for",
                    next_step=f"try again; a key that nobody uses may have come to be in ring {self._uri.ring!r}",
                )
            self._sleep(pause)
            pause = min(pause * 2, 2.0)
        return found

    def _read(self, handle: str) -> _Signer:
        """Look a key up, and remember it for signing."""
        version = self._version(self._name(handle))
        if version.state != _State.ENABLED:
            _refuse_state(version.state)
        algorithm = _FROM_KMS.get(version.algorithm)
        if algorithm is None:
            raise KeyHandleError("the Google Cloud KMS key is not one for an algorithm known here")
        public = self._public_key(version, algorithm)
        spki = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        tr = b""
        if algorithm.family == "ml-dsa":
            raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
            tr = shake_256(raw).digest(64)
        signer = _Signer(ProviderKey(handle, algorithm, spki), tr)
        with self._lock:
            if len(self._signers) >= _CACHE_LIMIT:
                self._signers.clear()
            self._signers[handle] = signer
        return signer

    def _public_key(self, version: kms.CryptoKeyVersion, algorithm: Algorithm) -> PublicKey:
        """Read a public key, until its checksum is right."""
        post_quantum = algorithm.family == "ml-dsa"
        form = kms.PublicKey.PublicKeyFormat.NIST_PQC if post_quantum else None
        request = kms.GetPublicKeyRequest(name=version.name, public_key_format=form)
        for _ in range(_TRIES):
            try:
                answer = self._calls(self._client.get_public_key, request, again=True)
            except RefusedError:
                self._refused(version.name)
                raise
            data, checksum = answer.pem.encode(), answer.pem_crc32c
            if post_quantum:
                data, checksum = answer.public_key.data, answer.public_key.crc32c_checksum
            if google_crc32c.value(data) == checksum:
                break
        else:
            raise _corrupted()
        if answer.name != version.name or answer.algorithm != version.algorithm:
            raise ProviderUnavailableError("Google Cloud KMS answered for another key than it was asked for")
        try:
            return _parse_raw(algorithm, data) if post_quantum else _parse_pem(algorithm, data)
        except (ValueError, AlgorithmNotSupportedError):
            raise ProviderUnavailableError("Google Cloud KMS's public key is not one for the key's algorithm") from None

    def _sign(self, signer: _Signer, payload: bytes) -> bytes:
        """Sign, until the checksums of both ways are right."""
        name = self._name(signer.key.handle)
        request = signer.request(name, payload)
        for _ in range(_TRIES):
            try:
                answer = self._calls(self._client.asymmetric_sign, request, again=True)
            except RefusedError as refused:
                if refused.code is grpc.StatusCode.INVALID_ARGUMENT:
                    # How Google says that what arrived does not have the checksum that came with it.
                    continue
                self._refused(name)
                raise
            if answer.name != name:
                raise SelfCheckError("Google Cloud KMS signed with another key than it was asked to; it was withheld")
            arrived = answer.verified_data_crc32c if request.data else answer.verified_digest_crc32c
            if arrived and google_crc32c.value(answer.signature) == answer.signature_crc32c:
                return bytes(answer.signature)
        raise _corrupted()

    def _refused(self, name: str) -> None:
        """Say by the version's state why Google would not use it; nothing where it is enabled."""
        state = self._version(name).state
        if state != _State.ENABLED:
            _refuse_state(state)

    def _job(self, job_id: str) -> kms.ImportJob:
        request = kms.GetImportJobRequest(name=f"{self._uri.key_ring}/importJobs/{job_id}")
        try:
            job = self._calls(self._client.get_import_job, request, again=True)
        except RefusedError as refused:
            if refused.code is grpc.StatusCode.NOT_FOUND:
                raise _expired() from None
            raise
        if job.name != request.name:
            raise ProviderUnavailableError("Google Cloud KMS answered for another import than it was asked for")
        if job.state == _JobState.EXPIRED:
            raise _expired()
        return job

    def _import(self, job_id: str, key_id: str, algorithm: Algorithm, wrapped: bytes) -> None:
        """Hand the wrapped key over, once: whether a call that got no answer was carried out is looked up."""
        parent = f"{self._uri.key_ring}/cryptoKeys/{key_id}"
        request = kms.ImportCryptoKeyVersionRequest(
            parent=parent,
            algorithm=_TO_KMS[algorithm.name],
            import_job=f"{self._uri.key_ring}/importJobs/{job_id}",
            wrapped_key=wrapped,
        )
        try:
            self._calls(self._client.import_crypto_key_version, request, again=False)
        except RefusedError as refused:
            if refused.code is grpc.StatusCode.NOT_FOUND:
                raise WrappedKeyError(
                    "Google Cloud KMS was given this wrapped key before, and it was refused",
                    next_step="wrap the private key again, with this import's wrapping key",
                ) from None
            if refused.code is grpc.StatusCode.FAILED_PRECONDITION:
                self._require_active(job_id, parent)
                raise
            self._delete_key(parent)
            raise WrappedKeyError("Google Cloud KMS does not take the wrapped key for the algorithm") from None
        except ProviderUnavailableError:
            if not self._exists(f"{parent}/cryptoKeyVersions/1"):
                raise

    def _require_active(self, job_id: str, key: str) -> None:
        """Clear a CryptoKey away that waits for an import whose job has expired."""
        try:
            self._job(job_id)
        except ImportExpiredError:
            self._delete_key(key)
            raise

    def _delete(self, version: str) -> str:
        """Delete a version that holds no key, and its CryptoKey; what a person has to do where that did not work."""
        parent = version.partition("/cryptoKeyVersions/")[0]
        try:
            self._calls(
                self._client.delete_crypto_key_version, kms.DeleteCryptoKeyVersionRequest(name=version), again=True
            )
        except ProviderUnavailableError:
            return f"delete the CryptoKey {parent.rpartition('/')[2]}, which holds no key, by hand; then try again"
        return self._delete_key(parent)

    def _delete_key(self, name: str) -> str:
        try:
            self._calls(self._client.delete_crypto_key, kms.DeleteCryptoKeyRequest(name=name), again=True)
        except ProviderUnavailableError:
            return f"delete the CryptoKey {name.rpartition('/')[2]}, which holds no key, by hand; then try again"
        return ""


def _id_part(label: str, length: int) -> str:
    """A label as the front of a resource ID, which may hold no dots and at most 63 characters."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", label)[:length]


def _parse_pem(algorithm: Algorithm, pem: bytes) -> PublicKey:
    spki = serialization.load_pem_public_key(pem).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return load_public_key(algorithm, spki)


def _parse_raw(algorithm: Algorithm, raw: bytes) -> PublicKey:
    match algorithm.parameter:
        case 44:
            return mldsa.MLDSA44PublicKey.from_public_bytes(raw)
        case 65:
            return mldsa.MLDSA65PublicKey.from_public_bytes(raw)
        case _:
            return mldsa.MLDSA87PublicKey.from_public_bytes(raw)


def _wrapping_key(pem: str) -> bytes:
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except ValueError:
        key = None
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != _WRAPPING_BITS:
        raise ProviderUnavailableError("Google Cloud KMS's wrapping key is not the one that it was asked for")
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _parse_state(state: bytes) -> tuple[str, str]:
    """The import job's ID, and how the CryptoKey's begins."""
    try:
        document = json.loads(state) if len(state) <= _MAX_STATE else None
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict) and set(document) == {"job", "key"}:
        job, key = document["job"], document["key"]
        if isinstance(job, str) and isinstance(key, str) and _ID.fullmatch(job) and _ID.fullmatch(key[:54] + "x" * 9):
            return job, key
    raise ImportExpiredError("this import is not one that Google Cloud KMS knows", next_step="begin the import anew")


def _require_length(wrapped: bytes) -> None:
    """An RSA block, then AES-KWP: the 8 bytes that it adds, and at least 16 of a key, in blocks of 8 (RFC 5649)."""
    rest = len(wrapped) - _WRAPPING_BITS // 8
    if rest < 24 or rest % 8:
        raise WrappedKeyError(
            f"{len(wrapped)} bytes are no private key wrapped by {_METHOD} with an RSA key of {_WRAPPING_BITS} bits",
            next_step="wrap the private key again, with this import's wrapping key",
        )


def _import_failure(reason: str) -> str:
    for words, ours in _IMPORT_FAILURES.items():
        if words in reason:
            return ours
    return "for a reason that is not known here; Google's console shows it"


def _refuse_state(state: int) -> NoReturn:
    """Say what a version's state means for whoever wanted to use it. Other keys are not concerned."""
    name = _State(state).name
    if state in _GONE:
        raise KeyHandleError(
            f"the Google Cloud KMS key is destroyed or about to be ({name})",
            next_step="gcloud kms keys versions restore brings it back" if state == _State.DESTROY_SCHEDULED else "",
        )
    if state in _NEVER_MADE:
        raise KeyHandleError(f"the Google Cloud KMS key version holds no key ({name})")
    if state == _State.DISABLED:
        raise ProviderPermissionError(
            "the Google Cloud KMS key is disabled", next_step="gcloud kms keys versions enable, if it may sign again"
        )
    raise ProviderPermissionError(f"the Google Cloud KMS key cannot be used yet ({name})", next_step="try again")


def _no_key() -> KeyHandleError:
    return KeyHandleError("Google Cloud KMS has no such key in the key ring")


def _expired() -> ImportExpiredError:
    return ImportExpiredError(
        "the import job has expired: Google keeps one for three days", next_step="begin the import anew, and wrap again"
    )


def _corrupted() -> ProviderUnavailableError:
    return ProviderUnavailableError(
        "what goes to and from Google Cloud KMS arrives with wrong checksums",
        next_step="look for whatever changes traffic on the way, a proxy for example",
    )
