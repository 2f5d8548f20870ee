"""Google Cloud KMS that misbehaves, refuses, is slow, or loses answers; and keys that are brought into it.

The service is the one of ``tests/stores/google_kms.py``. Time stands still unless the backend waits.
"""

from __future__ import annotations

import gzip
import json
import re
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding
from cryptography.x509.oid import NameOID
from google.auth.credentials import Credentials
from google.auth.exceptions import RefreshError, TransportError
from google.auth.transport.grpc import AuthMetadataPlugin
from google.auth.transport.requests import Request
from google.cloud import kms_v1 as kms
from google.cloud.kms_v1 import KeyManagementServiceClient
from google.cloud.kms_v1.services.key_management_service.transports import KeyManagementServiceGrpcTransport

from sealkeeper.hsm import (
    ALGORITHMS,
    AlgorithmNotSupportedError,
    ImportExpiredError,
    ImportNotSupportedError,
    KeyHandleError,
    Origin,
    ProtectionLevel,
    ProviderConfigurationError,
    ProviderError,
    ProviderPermissionError,
    ProviderThrottledError,
    ProviderUnavailableError,
    SelfCheckError,
    WrapMethod,
    WrappedKeyError,
    open_provider,
)
from sealkeeper.hsm.algorithms import MAX_MESSAGE, load_public_key, signature_verifies
from sealkeeper.hsm.gcpkms import GcpKmsBackend
from sealkeeper.hsm.gcpkms_calls import Calls, open_calls
from sealkeeper.hsm.gcpkms_uri import parse_gcpkms_uri
from sealkeeper.hsm.provider import ProviderKey
from tests.stores.google_kms import KEY_RING, GoogleKms, JobState, State, served, throttled

P256 = ALGORITHMS["PKIX_ECDSA_P256_SHA_256"]
P384 = ALGORITHMS["PKIX_ECDSA_P384_SHA_384"]
RSA_2048 = ALGORITHMS["PKIX_RSA_PSS_2048_SHA256"]
ML_DSA = ALGORITHMS["ML_DSA_65"]
KWP = WrapMethod.RSA_OAEP_SHA256_AES_256_KWP
DIGEST = bytes(range(32))
DOCS = Path(__file__).parents[2] / "docs/providers/gcpkms.md"


class Time:
    """Passes when somebody sleeps."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def clock(self) -> float:
        return sum(self.pauses)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def service() -> GoogleKms:
    return GoogleKms()


@pytest.fixture
def endpoint(service: GoogleKms) -> Iterator[str]:
    with served(service) as address:
        yield address


@pytest.fixture
def opened(endpoint: str, time: Time) -> Iterator[Callable[..., GcpKmsBackend]]:
    """Opens the key ring, as often as wanted."""
    with ExitStack() as stack:

        def open_ring(protection: str = "HSM") -> GcpKmsBackend:
            uri = f"gcpkms://{KEY_RING}?protection={protection}&endpoint={endpoint}"
            backend = GcpKmsBackend(uri, sleep=time.sleep, clock=time.clock)
            stack.callback(backend.close)
            return backend

        yield open_ring


@pytest.fixture
def backend(opened: Callable[..., GcpKmsBackend]) -> GcpKmsBackend:
    return opened()


def verifies(key: ProviderKey, payload: bytes, signature: bytes) -> bool:
    return signature_verifies(key.algorithm, load_public_key(key.algorithm, key.public_key), payload, signature)


def spki(private: Any) -> bytes:
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(private.public_key().public_bytes(encoding, form))


def wrap(private: Any, wrapping_key: bytes) -> bytes:
    """What the custodian does: RSA-OAEP with SHA-256 around an AES key, AES-KWP around PKCS#8."""
    pkcs8 = private.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = serialization.load_der_public_key(wrapping_key)
    assert isinstance(public, rsa.RSAPublicKey)
    key = secrets.token_bytes(32)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    return public.encrypt(key, oaep) + aes_key_wrap_with_padding(key, pkcs8)


def ec_key(curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(curve or ec.SECP256R1())


# What is offered.


def test_post_quantum_keys_and_ed25519_are_offered_in_software_only_and_how_long_messages_may_be_is_said(
    opened: Callable[..., GcpKmsBackend],
) -> None:
    hardware, software = opened("HSM").info, opened("SOFTWARE").info
    assert (hardware.protection_level, software.protection_level) == (ProtectionLevel.HSM, ProtectionLevel.SOFTWARE)
    assert software.algorithms - hardware.algorithms == {"ML_DSA_44", "ML_DSA_65", "ML_DSA_87", "PKIX_ED25519"}
    assert set(ALGORITHMS) - software.algorithms == {"PKIX_ECDSA_P521_SHA_512"}
    assert software.max_message == {"PKIX_ED25519": 65536}
    assert hardware.region == "europe-west3"


def test_the_longest_message_is_signed_with_ml_dsa_as_any_verifier_expects(
    opened: Callable[..., GcpKmsBackend],
) -> None:
    backend = opened("SOFTWARE")
    key = backend.generate("post-quantum", ML_DSA)
    message = secrets.token_bytes(MAX_MESSAGE)
    [signature] = backend.sign(key.handle, ML_DSA, [message])
    assert verifies(key, message, signature)


def test_a_key_has_the_level_that_was_asked_for_the_shortest_way_to_its_end_and_an_id_made_from_its_label(
    service: GoogleKms, opened: Callable[..., GcpKmsBackend]
) -> None:
    for protection in ("HSM", "SOFTWARE"):
        handle = opened(protection).generate("team.a/release"[:6] + "x" * 122, P256).handle
        key = service.keys[f"{KEY_RING}/{handle.partition('/cryptoKeyVersions/')[0]}"]
        assert kms.ProtectionLevel(key.version_template.protection_level).name == protection
        assert key.destroy_scheduled_duration == timedelta(hours=24)
        assert dict(key.labels) == {"managed-by": "sealkeeper"}
        assert re.fullmatch(r"cryptoKeys/team-ax{40}-[0-9a-f]{16}/cryptoKeyVersions/1", handle)


def test_a_key_is_used_for_its_own_algorithm_only(backend: GcpKmsBackend) -> None:
    key = backend.generate("release", P256)
    with pytest.raises(AlgorithmNotSupportedError, match="not for"):
        backend.sign(key.handle, RSA_2048, [DIGEST])


def test_a_version_that_is_no_signing_key_known_here_is_not_one_of_ours(
    service: GoogleKms, backend: GcpKmsBackend
) -> None:
    key = backend.generate("release", P256)
    other = kms.CryptoKeyVersion.CryptoKeyVersionAlgorithm.EC_SIGN_SECP256K1_SHA256
    service.versions[f"{KEY_RING}/{key.handle}"].record.algorithm = other
    with pytest.raises(KeyHandleError, match="not one for an algorithm known here"):
        backend.public_key(key.handle)


# Checksums, both ways.


@pytest.mark.parametrize("what", ["request", "verified", "signature"])
@pytest.mark.parametrize("name", [P256.name, "PKIX_ED25519", ML_DSA.name])
def test_a_signature_that_was_changed_on_the_way_is_asked_for_again(
    service: GoogleKms, opened: Callable[..., GcpKmsBackend], what: str, name: str
) -> None:
    backend, algorithm = opened("SOFTWARE"), ALGORITHMS[name]
    key = backend.generate("release", algorithm)
    service.corrupt[what] = 2
    assert verifies(key, DIGEST, backend.sign(key.handle, algorithm, [DIGEST])[0])
    service.corrupt[what] = 100
    with pytest.raises(ProviderUnavailableError, match="wrong checksums"):
        backend.sign(key.handle, algorithm, [DIGEST])


@pytest.mark.parametrize(("what", "name"), [("pem", P256.name), ("public_key", ML_DSA.name)])
def test_a_public_key_that_was_changed_on_the_way_is_asked_for_again(
    service: GoogleKms, opened: Callable[..., GcpKmsBackend], what: str, name: str
) -> None:
    backend = opened("SOFTWARE")
    key = backend.generate("release", ALGORITHMS[name])
    service.corrupt[what] = 2
    assert backend.public_key(key.handle) == key
    service.corrupt[what] = 100
    with pytest.raises(ProviderUnavailableError, match="wrong checksums"):
        backend.public_key(key.handle)


def test_an_answer_for_another_key_is_not_taken(service: GoogleKms, backend: GcpKmsBackend) -> None:
    key = backend.generate("release", P256)
    service.wrong_name = True
    with pytest.raises(SelfCheckError, match="another key"):
        backend.sign(key.handle, P256, [DIGEST])
    with pytest.raises(ProviderUnavailableError, match="another key"):
        backend.public_key(key.handle)


@pytest.mark.parametrize("protection", ["HSM", "SOFTWARE"])
async def test_a_signature_that_is_wrong_with_a_right_checksum_is_withheld(
    service: GoogleKms, endpoint: str, protection: str
) -> None:
    provider = await open_provider(f"gcpkms://{KEY_RING}?protection={protection}&endpoint={endpoint}")
    try:
        key = await provider.generate("release", P256)
        service.corrupt["store"] = 1
        with pytest.raises(SelfCheckError, match="does not verify"):
            await provider.sign(key.handle, P256, [DIGEST])
        assert verifies(key, DIGEST, (await provider.sign(key.handle, P256, [DIGEST]))[0])
    finally:
        await provider.close()


# States of a version.


@pytest.mark.parametrize(
    ("state", "kind", "step"),
    [
        # Of one key, so that the store is not left alone for it: see ``ConfiguredProvider``.
        (State.DISABLED, ProviderPermissionError, "versions enable"),
        (State.DESTROY_SCHEDULED, KeyHandleError, "versions restore"),
        (State.DESTROYED, KeyHandleError, ""),
        (State.PENDING_GENERATION, ProviderPermissionError, "try again"),
        (State.PENDING_IMPORT, ProviderPermissionError, "try again"),
        (State.IMPORT_FAILED, KeyHandleError, ""),
        (State.GENERATION_FAILED, KeyHandleError, ""),
        (State.PENDING_EXTERNAL_DESTRUCTION, KeyHandleError, ""),
    ],
)
def test_a_version_that_is_not_enabled_says_why_and_what_to_do(
    service: GoogleKms, opened: Callable[..., GcpKmsBackend], state: Any, kind: type[ProviderError], step: str
) -> None:
    backend = opened()
    key = backend.generate("release", P256)
    service.pending_reads = 10**9
    service.versions[f"{KEY_RING}/{key.handle}"].reads = 10**9
    service.set_state(key.handle, state)
    # Once with what the backend knows from before, once by one that starts now.
    for call in (
        lambda: backend.sign(key.handle, P256, [DIGEST]),
        lambda: backend.public_key(key.handle),
        lambda: opened().sign(key.handle, P256, [DIGEST]),
    ):
        with pytest.raises(kind, match=state.name if state != State.DISABLED else "disabled") as caught:
            call()
        assert type(caught.value) is kind
        assert step in caught.value.next_step


def test_a_disabled_key_signs_again_once_it_is_enabled(service: GoogleKms, backend: GcpKmsBackend) -> None:
    key = backend.generate("release", P256)
    service.set_state(key.handle, State.DISABLED)
    with pytest.raises(ProviderUnavailableError):
        backend.sign(key.handle, P256, [DIGEST])
    service.set_state(key.handle, State.ENABLED)
    assert verifies(key, DIGEST, backend.sign(key.handle, P256, [DIGEST])[0])


def test_destroying_schedules_the_end_a_day_ahead_and_a_second_time_is_fine(
    service: GoogleKms, backend: GcpKmsBackend
) -> None:
    key = backend.generate("release", P256)
    service.lose_answer("DestroyCryptoKeyVersion")
    backend.destroy(key.handle)
    backend.destroy(key.handle)
    record = service.versions[f"{KEY_RING}/{key.handle}"].record
    assert record.state == State.DESTROY_SCHEDULED
    assert record.destroy_time - record.create_time > timedelta(hours=23)


@pytest.mark.parametrize("handle", ["cryptoKeys/absent/cryptoKeyVersions/1", "nonsense", "../other"])
def test_a_key_that_is_not_there_is_destroyed_already(backend: GcpKmsBackend, handle: str) -> None:
    backend.destroy(handle)


def test_a_key_that_google_will_not_destroy_is_reported(service: GoogleKms, backend: GcpKmsBackend) -> None:
    key = backend.generate("release", P256)
    service.refuse("DestroyCryptoKeyVersion", grpc.StatusCode.FAILED_PRECONDITION)
    with pytest.raises(ProviderPermissionError, match="FAILED_PRECONDITION"):
        backend.destroy(key.handle)


# Waiting for hardware.


def test_a_key_that_is_being_generated_is_waited_for(service: GoogleKms, backend: GcpKmsBackend, time: Time) -> None:
    service.pending_reads = 4
    key = backend.generate("release", P256)
    assert time.pauses == [0.1, 0.2, 0.4, 0.8]
    assert verifies(key, DIGEST, backend.sign(key.handle, P256, [DIGEST])[0])


def test_nobody_waits_for_ever(service: GoogleKms, backend: GcpKmsBackend, time: Time) -> None:
    service.pending_reads = 10**9
    with pytest.raises(ProviderUnavailableError, match="not got ready in time"):
        backend.generate("release", P256)
    assert 30 < time.clock() < 35
    with pytest.raises(ProviderUnavailableError, match="not got ready in time"):
        backend.begin_import("release", P256)


def test_a_key_that_cannot_be_generated_leaves_nothing(service: GoogleKms, backend: GcpKmsBackend) -> None:
    service.fails_to_generate, service.pending_reads = True, 1
    with pytest.raises(ProviderUnavailableError, match="could not generate"):
        backend.generate("release", P256)
    assert not service.keys
    assert not service.versions
    service.refuse("DeleteCryptoKeyVersion", grpc.StatusCode.PERMISSION_DENIED)
    with pytest.raises(ProviderUnavailableError, match="could not generate") as caught:
        backend.generate("release", P256)
    [name] = service.keys
    assert name.rpartition("/")[2] in caught.value.next_step


# Refusals, and a network that breaks.


def test_throttling_is_passed_on_at_once_with_the_time_to_come_back(
    service: GoogleKms, backend: GcpKmsBackend, time: Time
) -> None:
    key = backend.generate("release", P256)
    for details, wait in (
        ((throttled(7),), timedelta(seconds=7)),
        ((throttled(10**6),), timedelta(hours=1)),
        ((), None),
    ):
        service.calls.clear()
        service.refuse("AsymmetricSign", grpc.StatusCode.RESOURCE_EXHAUSTED, *details)
        with pytest.raises(ProviderThrottledError, match="quota") as caught:
            backend.sign(key.handle, P256, [DIGEST])
        assert caught.value.retry_after == wait
        assert service.calls["AsymmetricSign"] == 1
    assert time.pauses == []


@pytest.mark.parametrize("code", [grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED])
def test_credentials_that_are_not_enough_are_named_and_googles_text_is_not_shown(
    service: GoogleKms, backend: GcpKmsBackend, code: grpc.StatusCode
) -> None:
    calls: dict[str, Callable[[], object]] = {
        "GetKeyRing": backend.check,
        "CreateCryptoKey": lambda: backend.generate("release", P256),
        "CreateImportJob": lambda: backend.begin_import("release", P256),
    }
    for method, call in calls.items():
        service.refuse(method, code)
        with pytest.raises(ProviderPermissionError) as caught:
            call()
        assert caught.value.next_step
        assert "hunter2" not in f"{caught.value} {caught.value.next_step} {caught.value.__cause__}"


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_no_refusal_shows_googles_text_or_is_anything_but_an_error_of_ours(
    service: GoogleKms, backend: GcpKmsBackend, code: grpc.StatusCode
) -> None:
    if code is grpc.StatusCode.OK:
        return
    key = backend.generate("release", P256)
    calls: dict[str, Callable[[], object]] = {
        "GetKeyRing": backend.check,
        "AsymmetricSign": lambda: backend.sign(key.handle, P256, [DIGEST]),
        "GetCryptoKeyVersion": lambda: backend.evidence(key.handle),
        "GetPublicKey": lambda: backend.public_key(key.handle),
    }
    for method, call in calls.items():
        service.refuse(method, code, times=9)
        with pytest.raises(ProviderError) as caught:
            call()
        assert "hunter2" not in f"{caught.value} {caught.value.next_step}"
        service._refusals.clear()


def test_what_does_no_harm_twice_is_tried_again_for_a_moment(
    service: GoogleKms, backend: GcpKmsBackend, time: Time
) -> None:
    key = backend.generate("release", P256)
    service.refuse("AsymmetricSign", grpc.StatusCode.UNAVAILABLE, times=3)
    assert verifies(key, DIGEST, backend.sign(key.handle, P256, [DIGEST])[0])
    assert len(time.pauses) == 3
    assert time.clock() < 5
    service.calls.clear()
    service.refuse("AsymmetricSign", grpc.StatusCode.UNAVAILABLE, times=9)
    with pytest.raises(ProviderUnavailableError, match="UNAVAILABLE"):
        backend.sign(key.handle, P256, [DIGEST])
    assert service.calls["AsymmetricSign"] == 4


def test_a_key_whose_answer_was_lost_is_made_once(service: GoogleKms, backend: GcpKmsBackend) -> None:
    service.lose_answer("CreateCryptoKey")
    key = backend.generate("release", P256)
    assert len(service.keys) == len(service.versions) == 1
    assert verifies(key, DIGEST, backend.sign(key.handle, P256, [DIGEST])[0])


def test_a_key_that_was_made_without_an_answer_to_the_last_try_is_not_left(
    service: GoogleKms, backend: GcpKmsBackend
) -> None:
    service.refuse("CreateCryptoKey", grpc.StatusCode.UNAVAILABLE, times=3)
    service.lose_answer("CreateCryptoKey")
    with pytest.raises(ProviderUnavailableError, match="UNAVAILABLE"):
        backend.generate("release", P256)
    assert [version.record.state for version in service.versions.values()] == [State.DESTROY_SCHEDULED]


def test_another_import_job_than_was_asked_for_is_not_taken(service: GoogleKms, backend: GcpKmsBackend) -> None:
    offer = backend.begin_import("release", P256)
    [(job, _)] = service.jobs.values()
    job.name += "0"
    with pytest.raises(ProviderUnavailableError, match="another import"):
        backend.finish_import(offer.state, "release", P256, KWP, wrap(ec_key(), offer.public_key), spki(ec_key()))


def test_a_key_that_was_made_and_cannot_be_read_is_not_left(service: GoogleKms, backend: GcpKmsBackend) -> None:
    service.refuse("GetPublicKey", grpc.StatusCode.PERMISSION_DENIED)
    with pytest.raises(ProviderPermissionError):
        backend.generate("release", P256)
    assert {version.record.state for version in service.versions.values()} == {State.DESTROY_SCHEDULED}


def test_a_key_ring_that_is_not_there_is_named_with_the_command_that_makes_it(
    service: GoogleKms, opened: Callable[..., GcpKmsBackend]
) -> None:
    service.rings.clear()
    with pytest.raises(ProviderConfigurationError, match="there is no Google Cloud KMS key ring 'release'") as caught:
        opened()
    assert caught.value.next_step == (
        "gcloud kms keyrings create release --location europe-west3 --project acme-signing"
    )


def test_an_endpoint_where_nobody_listens_is_unavailable(time: Time) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        uri = f"gcpkms://{KEY_RING}?endpoint=127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ProviderUnavailableError, match="cannot be reached"):
            GcpKmsBackend(uri, sleep=time.sleep, clock=time.clock)
    assert len(time.pauses) == 3


def test_loopback_is_reached_past_any_proxy_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, opened: Callable[..., GcpKmsBackend]
) -> None:
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    opened().check()


# Evidence.


def test_a_key_made_in_hardware_has_an_attestation_that_its_certificate_verifies(backend: GcpKmsBackend) -> None:
    key = backend.generate("release", P256)
    evidence = backend.evidence(key.handle)
    assert (evidence.protection_level, evidence.origin) == (ProtectionLevel.HSM, Origin.GENERATED)
    assert evidence.exportable is False
    assert evidence.claims["protectionLevel"] == "HSM"
    assert evidence.claims["state"] == "ENABLED"
    assert evidence.claims["algorithm"] == "EC_SIGN_P256_SHA256"
    assert "generateTime" in evidence.claims
    assert evidence.attestation is not None
    assert evidence.attestation.format == "CAVIUM_V2_COMPRESSED"
    statement = gzip.decompress(evidence.attestation.content)
    chain = [x509.load_der_x509_certificate(one) for one in evidence.attestation.certificates]
    signer = chain[0].public_key()
    assert isinstance(signer, rsa.RSAPublicKey)
    signer.verify(statement[-256:], statement[:-256], padding.PKCS1v15(), hashes.SHA256())
    for one, issuer in pairwise(chain):
        one.verify_directly_issued_by(issuer)


def test_a_key_in_software_has_none(opened: Callable[..., GcpKmsBackend]) -> None:
    backend = opened("SOFTWARE")
    evidence = backend.evidence(backend.generate("release", P256).handle)
    assert (evidence.protection_level, evidence.attestation) == (ProtectionLevel.SOFTWARE, None)


def test_what_the_store_says_counts_and_not_how_the_gateway_is_configured(
    opened: Callable[..., GcpKmsBackend],
) -> None:
    key = opened("SOFTWARE").generate("release", P256)
    assert opened("HSM").evidence(key.handle).protection_level is ProtectionLevel.SOFTWARE


@pytest.mark.parametrize(
    ("level", "said", "exportable"),
    [
        (kms.ProtectionLevel.EXTERNAL, ProtectionLevel.EXTERNAL, None),
        (kms.ProtectionLevel.EXTERNAL_VPC, ProtectionLevel.EXTERNAL, None),
        (kms.ProtectionLevel.HSM_SINGLE_TENANT, ProtectionLevel.HSM, True),
    ],
)
def test_keys_of_other_levels_are_said_to_be_what_they_are(
    service: GoogleKms, backend: GcpKmsBackend, level: Any, said: ProtectionLevel, exportable: bool | None
) -> None:
    key = backend.generate("release", P256)
    record = service.versions[f"{KEY_RING}/{key.handle}"].record
    record.protection_level, record.trusted_wrapping_enabled = level, True
    evidence = backend.evidence(key.handle)
    assert (evidence.protection_level, evidence.exportable) == (said, exportable)


def test_an_attestation_that_cannot_be_passed_on_is_left_out_and_said_to_be(
    service: GoogleKms, backend: GcpKmsBackend
) -> None:
    key = backend.generate("release", P256)
    attestation = service.versions[f"{KEY_RING}/{key.handle}"].record.attestation
    attestation.cert_chains.cavium_certs.append("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n")
    evidence = backend.evidence(key.handle)
    assert evidence.attestation is None
    assert "malformed" in evidence.claims["attestation"]
    attestation.content = bytes(40_000)
    assert "too large" in backend.evidence(key.handle).claims["attestation"]


def test_a_destroyed_key_has_no_evidence_and_a_disabled_one_has(service: GoogleKms, backend: GcpKmsBackend) -> None:
    key = backend.generate("release", P256)
    service.set_state(key.handle, State.DISABLED)
    assert backend.evidence(key.handle).claims["state"] == "DISABLED"
    backend.destroy(key.handle)
    for handle in (key.handle, "cryptoKeys/absent/cryptoKeyVersions/1", "nonsense"):
        with pytest.raises(KeyHandleError):
            backend.evidence(handle)


# Keys from outside.


@pytest.mark.parametrize("name", ["PKIX_ECDSA_P256_SHA_256", "PKIX_ECDSA_P384_SHA_384", "PKIX_RSA_PSS_2048_SHA256"])
def test_a_key_from_outside_signs_and_is_said_to_be_from_outside(
    service: GoogleKms, backend: GcpKmsBackend, name: str
) -> None:
    algorithm = ALGORITHMS[name]
    service.pending_reads = 2
    private: Any = rsa.generate_private_key(65537, 2048) if "RSA" in name else None
    private = private or ec_key(ec.SECP384R1() if algorithm is P384 else None)
    offer = backend.begin_import("from.acme", algorithm)
    assert offer.methods == (KWP,)
    assert offer.expire_time is not None
    assert timedelta(days=2) < offer.expire_time - datetime.now(UTC) <= timedelta(days=3)
    wrapped = wrap(private, offer.public_key)
    key = backend.finish_import(offer.state, "from.acme", algorithm, KWP, wrapped, spki(private))
    assert key.public_key == spki(private)
    payload = bytes(algorithm.digest_length)
    assert verifies(key, payload, backend.sign(key.handle, algorithm, [payload])[0])
    evidence = backend.evidence(key.handle)
    assert evidence.origin is Origin.IMPORTED
    assert evidence.claims["importJob"].startswith(f"{KEY_RING}/importJobs/from-acme-")
    assert service.keys[f"{KEY_RING}/{key.handle.partition('/cryptoKeyVersions')[0]}"].import_only
    backend.end_import(offer.state)
    backend.end_import(offer.state)
    assert verifies(key, payload, backend.sign(key.handle, algorithm, [payload])[0])


def test_a_wrapping_key_in_hardware_is_attested_and_one_in_software_is_not(
    opened: Callable[..., GcpKmsBackend],
) -> None:
    assert opened("HSM").begin_import("release", P256).attestation is not None
    assert opened("SOFTWARE").begin_import("release", P256).attestation is None


def test_an_import_job_whose_answer_was_lost_is_made_once(service: GoogleKms, backend: GcpKmsBackend) -> None:
    service.lose_answer("CreateImportJob")
    backend.begin_import("release", P256)
    assert len(service.jobs) == 1


def test_an_import_whose_answer_was_lost_is_done_once_and_a_repeated_one_finds_the_same_key(
    service: GoogleKms, backend: GcpKmsBackend
) -> None:
    private = ec_key()
    offer = backend.begin_import("release", P256)
    wrapped = wrap(private, offer.public_key)
    service.lose_answer("ImportCryptoKeyVersion")
    first = backend.finish_import(offer.state, "release", P256, KWP, wrapped, spki(private))
    again = backend.finish_import(offer.state, "release", P256, KWP, wrapped, spki(private))
    assert first == again
    assert len(service.versions) == len(service.keys) == 1
    assert service.calls["ImportCryptoKeyVersion"] == 1


def test_an_import_that_broke_off_before_google_had_the_key_goes_on_when_it_is_repeated(
    service: GoogleKms, backend: GcpKmsBackend
) -> None:
    private = ec_key()
    offer = backend.begin_import("release", P256)
    wrapped = wrap(private, offer.public_key)
    service.refuse("ImportCryptoKeyVersion", grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(ProviderUnavailableError, match="UNAVAILABLE"):
        backend.finish_import(offer.state, "release", P256, KWP, wrapped, spki(private))
    assert service.calls["ImportCryptoKeyVersion"] == 1
    assert not service.versions
    key = backend.finish_import(offer.state, "release", P256, KWP, wrapped, spki(private))
    assert key.public_key == spki(private)
    assert len(service.versions) == len(service.keys) == 1


def test_what_cannot_be_unwrapped_is_refused_with_the_reason_and_leaves_nothing(
    service: GoogleKms, backend: GcpKmsBackend
) -> None:
    private = ec_key()
    offer = backend.begin_import("release", P256)
    good = wrap(private, offer.public_key)
    bad = {
        "cannot be unwrapped": good[:-1] + bytes([good[-1] ^ 1]),
        "malformed": wrap(ec_key(ec.SECP384R1()), offer.public_key),
    }
    for reason, wrapped in bad.items():
        for said in (reason, "given this wrapped key before"):
            with pytest.raises(WrappedKeyError, match=said) as caught:
                backend.finish_import(offer.state, "release", P256, KWP, wrapped, spki(private))
            assert "wrap the private key again" in caught.value.next_step
            # The second time Google, whose names are used once, makes no key of that name.
            assert not service.versions
            assert not service.keys
    assert backend.finish_import(offer.state, "release", P256, KWP, good, spki(private)).public_key == spki(private)


def test_a_failed_import_that_cannot_be_cleared_away_says_what_to_delete(
    service: GoogleKms, backend: GcpKmsBackend
) -> None:
    offer = backend.begin_import("release", P256)
    wrapped = wrap(ec_key(ec.SECP384R1()), offer.public_key)
    service.refuse("DeleteCryptoKeyVersion", grpc.StatusCode.PERMISSION_DENIED)
    with pytest.raises(WrappedKeyError) as caught:
        backend.finish_import(offer.state, "release", P256, KWP, wrapped, spki(ec_key()))
    [name] = service.keys
    assert name.rpartition("/")[2] in caught.value.next_step


def test_a_reason_of_googles_that_is_not_known_is_not_repeated(service: GoogleKms, backend: GcpKmsBackend) -> None:
    service.pending_reads = 1
    offer = backend.begin_import("release", P256)
    get = service.get_crypto_key_version

    def with_another_reason(request: kms.GetCryptoKeyVersionRequest) -> Any:
        record = get(request)
        record.import_failure_reason = "hunter2"
        return record

    service.get_crypto_key_version = with_another_reason  # type: ignore[method-assign]
    with pytest.raises(WrappedKeyError, match="not known here") as caught:
        backend.finish_import(
            offer.state, "release", P256, KWP, wrap(ec_key(ec.SECP384R1()), offer.public_key), spki(ec_key())
        )
    assert "hunter2" not in f"{caught.value} {caught.value.next_step}"


def test_a_wrapping_key_that_google_has_forgotten_is_said_to_have_expired(
    service: GoogleKms, backend: GcpKmsBackend
) -> None:
    private = ec_key()
    offer = backend.begin_import("release", P256)
    wrapped = wrap(private, offer.public_key)
    service.now = lambda: datetime.now(UTC) + timedelta(days=3)
    with pytest.raises(ImportExpiredError, match="three days"):
        backend.finish_import(offer.state, "release", P256, KWP, wrapped, spki(private))
    service.jobs.clear()
    with pytest.raises(ImportExpiredError, match="three days"):
        backend.finish_import(offer.state, "release", P256, KWP, wrapped, spki(private))
    assert not service.keys


def test_a_job_that_expires_between_the_look_and_the_import_leaves_nothing(
    service: GoogleKms, backend: GcpKmsBackend
) -> None:
    private = ec_key()
    offer = backend.begin_import("release", P256)
    create = service.create_crypto_key

    def and_expire(request: kms.CreateCryptoKeyRequest) -> Any:
        for job, _ in service.jobs.values():
            job.state, job.expire_time = JobState.EXPIRED, service.now()
        return create(request)

    service.create_crypto_key = and_expire  # type: ignore[method-assign]
    with pytest.raises(ImportExpiredError):
        backend.finish_import(offer.state, "release", P256, KWP, wrap(private, offer.public_key), spki(private))
    assert not service.keys


def test_an_import_that_a_policy_stops_goes_on_once_it_is_allowed(service: GoogleKms, backend: GcpKmsBackend) -> None:
    private = ec_key()
    offer = backend.begin_import("release", P256)
    wrapped = wrap(private, offer.public_key)
    service.refuse("ImportCryptoKeyVersion", grpc.StatusCode.FAILED_PRECONDITION)
    with pytest.raises(ProviderUnavailableError, match="FAILED_PRECONDITION"):
        backend.finish_import(offer.state, "release", P256, KWP, wrapped, spki(private))
    key = backend.finish_import(offer.state, "release", P256, KWP, wrapped, spki(private))
    assert key.public_key == spki(private)


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b"[" * 2000,
        b'{"job": "a", "key": "a", "more": 1}',
        b'{"job": 1, "key": "a"}',
        b'{"job": "../importJobs/a", "key": "a"}',
        b'{"job": "a", "key": "a/b"}',
        b'{"job": "a", "key": "' + b"k" * 55 + b'"}',
        json.dumps({"job": "absent", "key": "absent"}).encode(),
    ],
)
def test_a_state_that_is_not_of_an_import_here_is_refused(
    service: GoogleKms, backend: GcpKmsBackend, state: bytes
) -> None:
    with pytest.raises(ImportExpiredError, match=r"not one|expired"):
        backend.finish_import(state, "release", P256, KWP, bytes(512 + 40), spki(ec_key()))
    assert not service.keys


def test_what_cannot_be_a_wrapped_key_is_not_sent(service: GoogleKms, backend: GcpKmsBackend) -> None:
    offer = backend.begin_import("release", P256)
    service.calls.clear()
    for length in (0, 511, 512, 512 + 16, 512 + 41):
        with pytest.raises(WrappedKeyError, match=f"{length} bytes"):
            backend.finish_import(offer.state, "release", P256, KWP, bytes(length), spki(ec_key()))
    with pytest.raises(WrappedKeyError, match="RSA_OAEP_SHA256"):
        backend.finish_import(offer.state, "release", P256, WrapMethod.RSA_OAEP_SHA256, bytes(512 + 40), spki(ec_key()))
    assert not service.calls


def test_post_quantum_keys_are_not_imported(opened: Callable[..., GcpKmsBackend]) -> None:
    with pytest.raises(ImportNotSupportedError, match="ML_DSA_65"):
        opened("SOFTWARE").begin_import("release", ML_DSA)


# Credentials.


def service_account(**changes: object) -> dict[str, object]:
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    document: dict[str, object] = {
        "type": "service_account",
        "project_id": "acme-signing",
        "private_key_id": "0" * 40,
        "private_key": pem.decode(),
        "client_email": "sealkeeper@acme-signing.iam.gserviceaccount.com",
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    return document | changes


def federation(**changes: object) -> dict[str, object]:
    pool = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q"
    document: dict[str, object] = {
        "type": "external_account",
        "audience": pool,
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": "https://sts.googleapis.com/v1/token",
        "credential_source": {"file": "/run/token"},
    }
    return document | changes


def with_credentials(path: Path, document: object) -> Any:
    path.write_text(json.dumps(document))
    path.chmod(0o600)
    uri = parse_gcpkms_uri(f"gcpkms://{KEY_RING}?credentials-source=file:{path}&endpoint=kms.acme.example")
    return open_calls(uri, lambda _: None, lambda: 0.0)


@pytest.mark.parametrize("document", [service_account(), federation()], ids=["service account", "federation"])
def test_credentials_of_a_file_go_to_the_endpoint_of_the_uri_only(tmp_path: Path, document: object) -> None:
    calls = with_credentials(tmp_path / "credentials.json", document)
    try:
        transport: Any = calls.client.transport
        assert transport.host == "kms.acme.example:443"
        assert transport._credentials is not None
        assert transport._credentials.scopes == ("https://www.googleapis.com/auth/cloudkms",)
    finally:
        calls.close()


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("ya29.token", "not a JSON document"),
        ({"type": "authorized_user", "refresh_token": "hunter2"}, "neither type"),
        (service_account(token_uri="https://evil.example/token"), "token_uri that is not Google's"),
        (service_account(token_uri="http://oauth2.googleapis.com/token"), "token_uri that is not Google's"),
        (service_account(token_uri=7), "token_uri that is not Google's"),
        (service_account(private_key="hunter2"), "damaged"),
        (federation(token_url="https://sts.googleapis.com.evil.example/"), "token_url that is not Google's"),
        (federation(service_account_impersonation_url="https://evil.example/"), "that is not Google's"),
        (federation(credential_source={"executable": {"command": "/bin/sh"}}), "elsewhere than a file"),
        (federation(credential_source={"url": "http://169.254.169.254/"}), "elsewhere than a file"),
    ],
)
def test_credentials_that_would_send_secrets_elsewhere_or_run_programs_are_refused_without_repeating_them(
    tmp_path: Path, document: object, said: str
) -> None:
    with pytest.raises(ProviderConfigurationError, match=said) as caught:
        with_credentials(tmp_path / "credentials.json", document)
    assert "hunter2" not in f"{caught.value} {caught.value.next_step}"


def test_no_credentials_at_all_are_a_mistake_of_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "absent.json"))
    with pytest.raises(ProviderConfigurationError, match="no Google credentials"):
        open_calls(parse_gcpkms_uri(f"gcpkms://{KEY_RING}"), lambda _: None, lambda: 0.0)


class RevokedCredentials(Credentials):
    """Credentials that Google no longer takes, or whose token service cannot be reached."""

    def __init__(self, error: Exception) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._error = error

    def refresh(self, request: object) -> None:
        raise self._error


@pytest.mark.parametrize("kind", [RefreshError, TransportError])
def test_credentials_that_cannot_be_renewed_are_said_to_be_and_not_tried_again(
    service: GoogleKms, time: Time, kind: Callable[[str], Exception]
) -> None:
    key, certificate = own_certificate()
    with served(service, grpc.ssl_server_credentials([(key, certificate)])) as endpoint:
        plugin = AuthMetadataPlugin(RevokedCredentials(kind("hunter2")), Request())  # type: ignore[no-untyped-call]
        credentials = grpc.composite_channel_credentials(
            grpc.ssl_channel_credentials(certificate), grpc.metadata_call_credentials(plugin)
        )
        with grpc.secure_channel(endpoint, credentials) as channel:
            client = KeyManagementServiceClient(transport=KeyManagementServiceGrpcTransport(channel=channel))
            calls = Calls(client, time.sleep, time.clock)
            with pytest.raises(ProviderPermissionError, match="cannot be renewed") as caught:
                calls(client.get_key_ring, kms.GetKeyRingRequest(name=KEY_RING), again=True)
    assert "hunter2" not in f"{caught.value} {caught.value.next_step}"
    assert not time.pauses
    assert not service.calls


def own_certificate() -> tuple[bytes, bytes]:
    """Key and certificate of a server on loopback, PEM."""
    key = ec_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem, certificate.public_bytes(serialization.Encoding.PEM)


# The page for custodians.

# https://cloud.google.com/kms/docs/reference/permissions-and-roles and .../delete-kms-resources.
PERMISSIONS = {
    "GetKeyRing": {"cloudkms.keyRings.get"},
    "CreateCryptoKey": {"cloudkms.cryptoKeys.create"},
    "GetCryptoKeyVersion": {"cloudkms.cryptoKeyVersions.get"},
    "GetPublicKey": {"cloudkms.cryptoKeyVersions.viewPublicKey"},
    "AsymmetricSign": {"cloudkms.cryptoKeyVersions.useToSign"},
    "DestroyCryptoKeyVersion": {"cloudkms.cryptoKeyVersions.destroy"},
    "CreateImportJob": {"cloudkms.importJobs.create"},
    "GetImportJob": {"cloudkms.importJobs.get"},
    "ImportCryptoKeyVersion": {"cloudkms.cryptoKeyVersions.create", "cloudkms.importJobs.useToImport"},
    "DeleteCryptoKeyVersion": {"cloudkms.cryptoKeyVersions.delete"},
    "DeleteCryptoKey": {"cloudkms.cryptoKeys.delete"},
}


def test_the_role_of_the_documentation_holds_what_the_backend_calls_and_no_more(
    service: GoogleKms, backend: GcpKmsBackend
) -> None:
    key = backend.generate("release", P256)
    backend.sign(key.handle, P256, [DIGEST])
    backend.evidence(key.handle)
    offer = backend.begin_import("release", P256)
    private = ec_key()
    backend.finish_import(offer.state, "release", P256, KWP, wrap(private, offer.public_key), spki(private))
    with pytest.raises(WrappedKeyError):
        backend.finish_import(offer.state, "release", P256, KWP, bytes(512 + 40), spki(private))
    backend.end_import(offer.state)
    backend.destroy(key.handle)
    needed = set().union(*(PERMISSIONS[method] for method in service.calls))
    [role] = re.findall(r"```yaml\n(title: Sealkeeper\n.*?)```", DOCS.read_text(), re.DOTALL)
    assert set(re.findall(r"^- (\S+)$", role, re.MULTILINE)) == needed
    assert set(service.calls) == set(PERMISSIONS)
