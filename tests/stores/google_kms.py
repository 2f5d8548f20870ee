"""Google Cloud KMS as far as its public documentation says, on loopback: a gRPC server that really signs and unwraps.

There is no emulator of Google's. What this one does is taken from the API's own reference (the comments of
google/cloud/kms/v1/service.proto and resources.proto) and from https://cloud.google.com/kms/docs (algorithms,
key-states, importing-a-key, data-integrity-guidelines, delete-kms-resources); where they say nothing, it refuses.
"""

from __future__ import annotations

import datetime as dt
import gzip
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import RLock
from typing import Any

import google_crc32c
import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa, utils
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap_with_padding
from cryptography.x509.oid import NameOID
from google.cloud import kms_v1 as kms
from google.iam.v1 import iam_policy_pb2  # type: ignore[import-untyped]
from google.longrunning import operations_pb2  # type: ignore[import-untyped]
from google.protobuf import any_pb2, duration_pb2, empty_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

KEY_RING = "projects/acme-signing/locations/europe-west3/keyRings/release"
Algorithm: Any = kms.CryptoKeyVersion.CryptoKeyVersionAlgorithm
State: Any = kms.CryptoKeyVersion.CryptoKeyVersionState
JobState: Any = kms.ImportJob.ImportJobState
_ID = re.compile(r"[a-zA-Z0-9_-]{1,63}")
_PSS, _PKCS1 = re.compile(r"RSA_SIGN_PSS_(\d+)_SHA256"), re.compile(r"RSA_SIGN_PKCS1_(\d+)_SHA256")
_ML_DSA = re.compile(r"PQ_SIGN_ML_DSA_(44|65|87)_EXTERNAL_MU")
_ML_DSA_KEYS: dict[str, Any] = {
    "44": mldsa.MLDSA44PrivateKey,
    "65": mldsa.MLDSA65PrivateKey,
    "87": mldsa.MLDSA87PrivateKey,
}
_CURVES: dict[str, Any] = {"EC_SIGN_P256_SHA256": ec.SECP256R1, "EC_SIGN_P384_SHA384": ec.SECP384R1}
_PENDING = {State.PENDING_GENERATION, State.PENDING_IMPORT}
_DELETABLE = {State.DESTROYED, State.IMPORT_FAILED, State.GENERATION_FAILED}


class _RefusedError(Exception):
    """A call that is refused."""

    def __init__(self, code: grpc.StatusCode, text: str, *details: Any) -> None:
        super().__init__(text)
        self.code, self.text, self.details = code, text, details


@dataclass
class _Version:
    # Messages of proto-plus take and give datetimes, which their types do not say.
    record: Any
    private: Any
    # Reads until it leaves a pending state, and which one it gets to.
    reads: int = 0
    then: Any = State.ENABLED


@dataclass
class GoogleKms:
    """The service's state, and how it is to misbehave.

    Attributes:
        calls: how often each method was called.
        pending_reads: reads of a new version or import job that find it pending.
        fails_to_generate: new versions end as GENERATION_FAILED.
        corrupt: what is changed on the way, each time: ``request`` (the digest or message), ``verified`` (the flag is
            not set), ``signature``, ``pem`` or ``public_key``; or ``store``: the signature is wrong, its checksum
            right.
        wrong_name: answers carry another version's name.
        now: the time.
        denied: permissions that the caller has not: told by TestIamPermissions, not enforced.
    """

    calls: Counter[str] = field(default_factory=Counter)
    pending_reads: int = 0
    fails_to_generate: bool = False
    corrupt: Counter[str] = field(default_factory=Counter)
    wrong_name: bool = False
    now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)
    rings: set[str] = field(default_factory=lambda: {KEY_RING})
    keys: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, _Version] = field(default_factory=dict)
    jobs: dict[str, tuple[Any, rsa.RSAPrivateKey]] = field(default_factory=dict)
    retired: set[str] = field(default_factory=set)
    denied: set[str] = field(default_factory=set)
    _refusals: dict[str, deque[_RefusedError]] = field(default_factory=dict)
    _lost: Counter[str] = field(default_factory=Counter)
    _lock: RLock = field(default_factory=RLock)

    def refuse(self, method: str, code: grpc.StatusCode, *details: Any, times: int = 1) -> None:
        """Have the next calls of a method refused before they do anything."""
        refusal = _RefusedError(code, "a text that may repeat what was sent: hunter2", *details)
        self._refusals.setdefault(method, deque()).extend([refusal] * times)

    def lose_answer(self, method: str) -> None:
        """Have the next call of a method carried out, and its answer lost."""
        self._lost[method] += 1

    def set_state(self, handle: str, state: Any) -> None:
        """What a person does in the console."""
        self.versions[f"{KEY_RING}/{handle}"].record.state = state

    def answer(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        """Do one call."""
        with self._lock:
            self.calls[method] += 1
            try:
                return self._answer(method, request)
            except _RefusedError as error:
                refused = error
        status = status_pb2.Status(code=refused.code.value[0], message=refused.text)
        for detail in refused.details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        return context.abort_with_status(rpc_status.to_status(status))

    def _answer(self, method: str, request: Any) -> Any:
        if self._refusals.get(method):
            raise self._refusals[method].popleft()
        answer = getattr(self, _snake(method))(request)
        if self._lost[method]:
            self._lost[method] -= 1
            raise _RefusedError(grpc.StatusCode.UNAVAILABLE, "the connection broke")
        return answer

    def get_key_ring(self, request: kms.GetKeyRingRequest) -> kms.KeyRing:
        _require(request.name in self.rings, grpc.StatusCode.NOT_FOUND)
        return kms.KeyRing(name=request.name)

    def test_iam_permissions(self, request: Any) -> Any:
        _require(request.resource in self.rings, grpc.StatusCode.NOT_FOUND)
        granted = [one for one in request.permissions if one not in self.denied]
        return iam_policy_pb2.TestIamPermissionsResponse(permissions=granted)

    def create_crypto_key(self, request: kms.CreateCryptoKeyRequest) -> Any:
        _require(request.parent in self.rings, grpc.StatusCode.NOT_FOUND)
        key: Any = request.crypto_key
        name = f"{request.parent}/cryptoKeys/{request.crypto_key_id}"
        _require(_ID.fullmatch(request.crypto_key_id))
        _require(name not in self.keys and name not in self.retired, grpc.StatusCode.ALREADY_EXISTS)
        _require(key.purpose == kms.CryptoKey.CryptoKeyPurpose.ASYMMETRIC_SIGN)
        _require(key.destroy_scheduled_duration >= dt.timedelta(hours=24))
        _require(not key.import_only or request.skip_initial_version_creation)
        algorithm = Algorithm(key.version_template.algorithm).name
        level = key.version_template.protection_level
        in_hardware = "PQ_" not in algorithm and algorithm != "EC_SIGN_ED25519"
        _require(level == kms.ProtectionLevel.SOFTWARE or (level == kms.ProtectionLevel.HSM and in_hardware))
        private = None if request.skip_initial_version_creation else _generate(algorithm)
        key.name, key.create_time = name, self.now()
        self.keys[name] = key
        if private is not None:
            record: Any = kms.CryptoKeyVersion(
                name=f"{name}/cryptoKeyVersions/1",
                algorithm=key.version_template.algorithm,
                protection_level=level,
                create_time=self.now(),
                state=State.PENDING_GENERATION,
            )
            then = State.GENERATION_FAILED if self.fails_to_generate else State.ENABLED
            self._begin(_Version(record, private, self.pending_reads, then))
        return key

    def get_crypto_key_version(self, request: kms.GetCryptoKeyVersionRequest) -> Any:
        version = self._version(request.name)
        if version.record.state in _PENDING:
            self._advance(version)
        return version.record

    def get_public_key(self, request: kms.GetPublicKeyRequest) -> kms.PublicKey:
        version = self._enabled(request.name)
        record, public = version.record, version.private.public_key()
        answer = kms.PublicKey(
            name=self._named(record.name), algorithm=record.algorithm, protection_level=record.protection_level
        )
        if "PQ_" in Algorithm(record.algorithm).name:
            # "This field is required for PQC algorithms."
            _require(request.public_key_format == kms.PublicKey.PublicKeyFormat.NIST_PQC)
            raw = public.public_bytes_raw()
            answer.public_key_format = request.public_key_format
            answer.public_key = kms.ChecksummedData(
                data=self._changed("public_key", raw), crc32c_checksum=google_crc32c.value(raw)
            )
        else:
            _require(not request.public_key_format)
            pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            answer.pem_crc32c = google_crc32c.value(pem)
            answer.pem = (pem if not self._is_corrupt("pem") else pem.replace(b"M", b"N", 1)).decode()
        return answer

    def asymmetric_sign(self, request: kms.AsymmetricSignRequest) -> kms.AsymmetricSignResponse:
        version = self._enabled(request.name)
        algorithm = Algorithm(version.record.algorithm).name
        if algorithm == "EC_SIGN_ED25519":
            # An empty message cannot be told from none.
            _require("digest" not in request and request.digest_crc32c is None)
            _require(1 <= len(request.data) <= 64 * 1024)
            sent, checksum = request.data, request.data_crc32c
        else:
            _require(not request.data and request.data_crc32c is None)
            kind = kms.Digest.pb(request.digest).WhichOneof("digest")
            sent, checksum = getattr(request.digest, kind or "sha256"), request.digest_crc32c
            wanted, length = (
                ("external_mu", 64) if "PQ_" in algorithm else ("sha384", 48) if "384" in algorithm else ("sha256", 32)
            )
            _require(kind == wanted and len(sent) == length)
        _require(checksum is None or google_crc32c.value(self._changed("request", sent)) == checksum)
        signature = _sign(algorithm, version.private, sent)
        if self._is_corrupt("store"):
            signature = _sign(algorithm, version.private, bytes(len(sent)))
        verified = checksum is not None and not self._is_corrupt("verified")
        return kms.AsymmetricSignResponse(
            name=self._named(request.name),
            signature=self._changed("signature", signature),
            signature_crc32c=google_crc32c.value(signature),
            verified_data_crc32c=verified and algorithm == "EC_SIGN_ED25519",
            verified_digest_crc32c=verified and algorithm != "EC_SIGN_ED25519",
            protection_level=version.record.protection_level,
        )

    def destroy_crypto_key_version(self, request: kms.DestroyCryptoKeyVersionRequest) -> Any:
        version = self._version(request.name)
        usable = version.record.state in {State.ENABLED, State.DISABLED}
        _require(usable, grpc.StatusCode.FAILED_PRECONDITION)
        key = self.keys[_key_of(request.name)]
        version.record.state = State.DESTROY_SCHEDULED
        version.record.destroy_time = self.now() + key.destroy_scheduled_duration
        return version.record

    def create_import_job(self, request: kms.CreateImportJobRequest) -> Any:
        _require(request.parent in self.rings, grpc.StatusCode.NOT_FOUND)
        name = f"{request.parent}/importJobs/{request.import_job_id}"
        _require(_ID.fullmatch(request.import_job_id))
        _require(name not in self.jobs, grpc.StatusCode.ALREADY_EXISTS)
        job: Any = request.import_job
        _require(job.import_method == kms.ImportJob.ImportMethod.RSA_OAEP_4096_SHA256_AES_256)
        _require(job.protection_level in {kms.ProtectionLevel.SOFTWARE, kms.ProtectionLevel.HSM})
        job.name, job.create_time, job.state = name, self.now(), JobState.PENDING_GENERATION
        job.expire_time = self.now() + dt.timedelta(days=3)
        self.jobs[name] = job, _wrapping_key()
        self._job_reads = self.pending_reads
        return job

    def get_import_job(self, request: kms.GetImportJobRequest) -> Any:
        _require(request.name in self.jobs, grpc.StatusCode.NOT_FOUND)
        job, private = self.jobs[request.name]
        if job.state == JobState.PENDING_GENERATION:
            self._job_reads -= 1
            if self._job_reads < 0:
                job.state, job.generate_time = JobState.ACTIVE, self.now()
                spki = private.public_key().public_bytes(
                    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
                )
                job.public_key = kms.ImportJob.WrappingPublicKey(pem=spki.decode())
                if job.protection_level == kms.ProtectionLevel.HSM:
                    job.attestation = attestation(job.name)
        if self.now() >= job.expire_time:
            job.state, job.public_key = JobState.EXPIRED, None
        return job

    def import_crypto_key_version(self, request: kms.ImportCryptoKeyVersionRequest) -> Any:
        _require(request.parent in self.keys, grpc.StatusCode.NOT_FOUND)
        job = self.get_import_job(kms.GetImportJobRequest(name=request.import_job))
        _require(job.state == JobState.ACTIVE, grpc.StatusCode.FAILED_PRECONDITION)
        key = self.keys[request.parent]
        _require(key.version_template.protection_level == job.protection_level)
        number = 1 + sum(name.startswith(f"{request.parent}/") for name in self.versions)
        record = kms.CryptoKeyVersion(
            name=f"{request.parent}/cryptoKeyVersions/{number}",
            algorithm=request.algorithm,
            protection_level=job.protection_level,
            import_job=request.import_job,
            create_time=self.now(),
            state=State.PENDING_IMPORT,
        )
        private, reason = _unwrap(Algorithm(request.algorithm).name, self.jobs[job.name][1], request.wrapped_key)
        record.import_failure_reason = reason
        self._begin(_Version(record, private, self.pending_reads, State.IMPORT_FAILED if reason else State.ENABLED))
        return record

    def delete_crypto_key_version(self, request: kms.DeleteCryptoKeyVersionRequest) -> operations_pb2.Operation:
        record = self._version(request.name).record
        deletable = record.state in _DELETABLE and not record.import_time
        _require(deletable, grpc.StatusCode.FAILED_PRECONDITION)
        del self.versions[request.name]
        return _done()

    def delete_crypto_key(self, request: kms.DeleteCryptoKeyRequest) -> operations_pb2.Operation:
        _require(request.name in self.keys, grpc.StatusCode.NOT_FOUND)
        empty = not any(name.startswith(f"{request.name}/") for name in self.versions)
        _require(empty, grpc.StatusCode.FAILED_PRECONDITION)
        del self.keys[request.name]
        self.retired.add(request.name)
        return _done()

    def _begin(self, version: _Version) -> None:
        self.versions[version.record.name] = version
        if not version.reads and version.then == State.ENABLED:
            self._advance(version)

    def _advance(self, version: _Version) -> None:
        if version.reads:
            version.reads -= 1
            return
        record = version.record
        if version.then == State.ENABLED:
            setattr(record, "import_time" if record.import_job else "generate_time", self.now())
            if record.protection_level == kms.ProtectionLevel.HSM:
                record.attestation = attestation(record.name)
        record.state = version.then

    def _version(self, name: str) -> _Version:
        _require(name in self.versions, grpc.StatusCode.NOT_FOUND)
        return self.versions[name]

    def _enabled(self, name: str) -> _Version:
        version = self._version(name)
        _require(version.record.state == State.ENABLED, grpc.StatusCode.FAILED_PRECONDITION)
        return version

    def _is_corrupt(self, what: str) -> bool:
        if not self.corrupt[what]:
            return False
        self.corrupt[what] -= 1
        return True

    def _changed(self, what: str, data: bytes) -> bytes:
        return bytes([data[0] ^ 1]) + data[1:] if self._is_corrupt(what) else data

    def _named(self, name: str) -> str:
        return f"{name}0" if self.wrong_name else name


@contextmanager
def served(service: GoogleKms, credentials: grpc.ServerCredentials | None = None) -> Iterator[str]:
    """The service on a free port of loopback, in the clear unless it has credentials; gives host and port."""
    server = grpc.server(ThreadPoolExecutor(max_workers=8))
    handlers = {method: _handler(service, method, *kinds) for method, kinds in _METHODS.items()}
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler("google.cloud.kms.v1.KeyManagementService", handlers),
            grpc.method_handlers_generic_handler(
                "google.iam.v1.IAMPolicy", {"TestIamPermissions": _permissions_handler(service)}
            ),
        ]
    )
    address = "127.0.0.1:0"
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(grace=None).wait(timeout=10)


@contextmanager
def google_kms(directory: Path) -> Iterator[str]:
    """A key ring whose keys are in software, which is where Google makes post-quantum signatures as well."""
    with served(GoogleKms()) as endpoint:
        yield f"gcpkms://{KEY_RING}?protection=SOFTWARE&endpoint={endpoint}"


@cache
def attesting_chain() -> tuple[rsa.RSAPrivateKey, tuple[str, str, str]]:
    """A partition's key, and its certificate, the card's and the root's (PEM), in place of Google's and Marvell's."""
    keys = [rsa.generate_private_key(65537, 2048) for _ in range(3)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("partition", "card", "root")]
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    pems = []
    for place, issuer in ((0, 1), (1, 2), (2, 2)):
        certificate = (
            x509.CertificateBuilder()
            .subject_name(names[place])
            .issuer_name(names[issuer])
            .public_key(keys[place].public_key())
            .serial_number(place + 1)
            .not_valid_before(start)
            .not_valid_after(start + dt.timedelta(days=3650))
            .sign(keys[issuer], hashes.SHA256())
        )
        pems.append(certificate.public_bytes(serialization.Encoding.PEM).decode())
    return keys[0], (pems[0], pems[1], pems[2])


def attestation(name: str) -> kms.KeyOperationAttestation:
    """A statement in the shape that https://cloud.google.com/kms/docs/attest-key shows: gzip, 256 bytes of RSA last."""
    key, (partition, card, root) = attesting_chain()
    statement = name.encode()
    signed = statement + key.sign(statement, padding.PKCS1v15(), hashes.SHA256())
    chains = kms.KeyOperationAttestation.CertificateChains(
        google_partition_certs=[partition, card, root], google_card_certs=[card, root], cavium_certs=[root]
    )
    form = kms.KeyOperationAttestation.AttestationFormat.CAVIUM_V2_COMPRESSED
    return kms.KeyOperationAttestation(format=form, content=gzip.compress(signed), cert_chains=chains)


def throttled(seconds: int) -> error_details_pb2.RetryInfo:
    """What comes with a refusal that says when to come back."""
    return error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=seconds))


@cache
def _wrapping_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 4096)


def _generate(algorithm: str) -> Any:
    if algorithm in _CURVES:
        return ec.generate_private_key(_CURVES[algorithm]())
    if algorithm == "EC_SIGN_ED25519":
        return ed25519.Ed25519PrivateKey.generate()
    if found := _ML_DSA.fullmatch(algorithm):
        return _ML_DSA_KEYS[found[1]].generate()
    found = _PSS.fullmatch(algorithm) or _PKCS1.fullmatch(algorithm)
    _require(found)
    assert found is not None
    return rsa.generate_private_key(65537, int(found[1]))


def _sign(algorithm: str, private: Any, digest: bytes) -> bytes:
    if "PQ_" in algorithm:
        return bytes(private.sign_mu(digest))
    if algorithm == "EC_SIGN_ED25519":
        return bytes(private.sign(digest))
    kind: Any = hashes.SHA384() if "384" in algorithm else hashes.SHA256()
    if algorithm in _CURVES:
        return bytes(private.sign(digest, ec.ECDSA(utils.Prehashed(kind))))
    # "For PSS, the salt length used is equal to the length of digest algorithm."
    scheme: Any = padding.PSS(padding.MGF1(kind), 32) if "PSS" in algorithm else padding.PKCS1v15()
    return bytes(private.sign(digest, scheme, utils.Prehashed(kind)))


def _unwrap(algorithm: str, wrapping: rsa.RSAPrivateKey, wrapped: bytes) -> tuple[Any, str]:
    """The private key, or why there is none, in words of Google's page on failed imports."""
    try:
        oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
        pkcs8 = aes_key_unwrap_with_padding(wrapping.decrypt(wrapped[:512], oaep), wrapped[512:])
        private: Any = serialization.load_der_private_key(pkcs8, None)
    except (ValueError, InvalidUnwrap, UnsupportedAlgorithm):
        return None, "The key material in the import request couldn't be unwrapped or wasn't formatted correctly"
    fits = False
    if algorithm in _CURVES:
        fits = isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(private.curve, _CURVES[algorithm])
    elif found := _PSS.fullmatch(algorithm) or _PKCS1.fullmatch(algorithm):
        fits = isinstance(private, rsa.RSAPrivateKey) and private.key_size == int(found[1])
    return (private, "") if fits else (None, "An argument to the import operation was malformed")


def _key_of(version: str) -> str:
    return version.partition("/cryptoKeyVersions/")[0]


def _require(holds: object, code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT) -> None:
    if not holds:
        raise _RefusedError(code, "refused")


def _done() -> operations_pb2.Operation:
    operation = operations_pb2.Operation(name="projects/acme-signing/locations/europe-west3/operations/1", done=True)
    operation.response.Pack(empty_pb2.Empty())
    return operation


def _snake(method: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", method).lower()


def _permissions_handler(service: GoogleKms) -> grpc.RpcMethodHandler[Any, Any]:
    return grpc.unary_unary_rpc_method_handler(
        lambda asked, context: service.answer("TestIamPermissions", asked, context),
        request_deserializer=iam_policy_pb2.TestIamPermissionsRequest.FromString,
        response_serializer=iam_policy_pb2.TestIamPermissionsResponse.SerializeToString,
    )


def _handler(service: GoogleKms, method: str, request: Any, answer: Any) -> grpc.RpcMethodHandler[Any, Any]:
    return grpc.unary_unary_rpc_method_handler(
        lambda asked, context: service.answer(method, asked, context),
        request_deserializer=request.deserialize,
        response_serializer=answer.SerializeToString if answer is operations_pb2.Operation else answer.serialize,
    )


_METHODS: dict[str, tuple[Any, Any]] = {
    "GetKeyRing": (kms.GetKeyRingRequest, kms.KeyRing),
    "CreateCryptoKey": (kms.CreateCryptoKeyRequest, kms.CryptoKey),
    "GetCryptoKeyVersion": (kms.GetCryptoKeyVersionRequest, kms.CryptoKeyVersion),
    "GetPublicKey": (kms.GetPublicKeyRequest, kms.PublicKey),
    "AsymmetricSign": (kms.AsymmetricSignRequest, kms.AsymmetricSignResponse),
    "DestroyCryptoKeyVersion": (kms.DestroyCryptoKeyVersionRequest, kms.CryptoKeyVersion),
    "CreateImportJob": (kms.CreateImportJobRequest, kms.ImportJob),
    "GetImportJob": (kms.GetImportJobRequest, kms.ImportJob),
    "ImportCryptoKeyVersion": (kms.ImportCryptoKeyVersionRequest, kms.CryptoKeyVersion),
    "DeleteCryptoKeyVersion": (kms.DeleteCryptoKeyVersionRequest, operations_pb2.Operation),
    "DeleteCryptoKey": (kms.DeleteCryptoKeyRequest, operations_pb2.Operation),
}
