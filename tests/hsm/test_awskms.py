"""AWS KMS: what it is asked for, word by word, and what becomes of its answers.

Where moto's server can do it, it does; what it cannot, AWS's SDK answers itself (botocore's Stubber), checking each
request against its model of the service.
"""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError, ReadTimeoutError, SSLError
from botocore.session import Session
from botocore.stub import Stubber
from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa

from sealkeeper.hsm import (
    ALGORITHMS,
    Algorithm,
    AlgorithmNotSupportedError,
    ImportExpiredError,
    ImportNotSupportedError,
    KeyHandleError,
    Origin,
    PayloadError,
    ProtectionLevel,
    ProviderConfigurationError,
    ProviderError,
    ProviderKey,
    ProviderPermissionError,
    ProviderThrottledError,
    ProviderUnavailableError,
    SelfCheckError,
    WrapMethod,
    WrappedKeyError,
    open_provider,
)
from sealkeeper.hsm.algorithms import load_public_key, signature_verifies
from sealkeeper.hsm.awskms import AwsKmsBackend
from sealkeeper.hsm.awskms_client import KmsClient, Operation, translated
from sealkeeper.hsm.awskms_uri import parse_awskms_uri
from tests.stores.aws import REGION, moto_kms
from tests.wrapping import private_key, spki

P256 = ALGORITHMS["PKIX_ECDSA_P256_SHA_256"]
ED25519 = ALGORITHMS["PKIX_ED25519"]
KEY_ID = "1234abcd-12ab-34cd-56ef-1234567890ab"
HANDLE = f"id={KEY_ID};x-algorithm={P256.name}"
ARN = f"arn:aws:kms:{REGION}:111122223333:key/{KEY_ID}"
KWP = WrapMethod.RSA_OAEP_SHA256_AES_256_KWP
PAGE = Path(__file__).parents[2] / "docs/providers/awskms.md"
SPECS = {
    "PKIX_ECDSA_P256_SHA_256": "ECC_NIST_P256",
    "PKIX_ECDSA_P384_SHA_384": "ECC_NIST_P384",
    "PKIX_ECDSA_P521_SHA_512": "ECC_NIST_P521",
    "PKIX_ED25519": "ECC_NIST_EDWARDS25519",
    "PKIX_RSA_PKCS1V15_2048_SHA256": "RSA_2048",
    "PKIX_RSA_PKCS1V15_3072_SHA256": "RSA_3072",
    "PKIX_RSA_PKCS1V15_4096_SHA256": "RSA_4096",
    "PKIX_RSA_PSS_2048_SHA256": "RSA_2048",
    "PKIX_RSA_PSS_3072_SHA256": "RSA_3072",
    "PKIX_RSA_PSS_4096_SHA256": "RSA_4096",
    "ML_DSA_44": "ML_DSA_44",
    "ML_DSA_65": "ML_DSA_65",
    "ML_DSA_87": "ML_DSA_87",
}
SECRET = "AWS's own words, which may name what is nobody's business"


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with moto_kms(tmp_path_factory.mktemp("aws")) as made:
        yield made


@pytest.fixture
def pauses() -> list[float]:
    """How long was waited between tries: nothing really waits."""
    return []


@pytest.fixture
def backend(uri: str, pauses: list[float]) -> Iterator[AwsKmsBackend]:
    opened = AwsKmsBackend(uri, sleep=pauses.append)
    yield opened
    opened.close()


def client(backend: AwsKmsBackend) -> Any:
    return backend._kms._client


class Script(Stubber):  # type: ignore[misc]  # botocore has no types
    """Answers in their order, in place of a server."""

    answers = 0

    def add_response(self, *args: Any, **more: Any) -> None:
        self.answers += 1
        super().add_response(*args, **more)

    def add_client_error(self, *args: Any, **more: Any) -> None:
        self.answers += 1
        super().add_client_error(*args, **more)


@contextmanager
def scripted(backend: AwsKmsBackend) -> Iterator[Stubber]:
    """A script that is played to its end, and nothing asked beyond it."""
    asked: list[None] = []

    def count(**_: Any) -> None:
        asked.append(None)

    events = client(backend).meta.events
    with Script(client(backend)) as stub:
        events.register("provide-client-params.kms", count)
        yield stub
        events.unregister("provide-client-params.kms", count)
        assert len(asked) == stub.answers
        stub.assert_no_pending_responses()


def described(state: str = "Enabled", spec: str = "ECC_NIST_P256", origin: str = "AWS_KMS", **more: Any) -> Any:
    metadata = {
        "KeyId": KEY_ID,
        "Arn": ARN,
        "CreationDate": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "KeyManager": "CUSTOMER",
        "KeySpec": spec,
        "KeyState": state,
        "KeyUsage": "SIGN_VERIFY",
        "Origin": origin,
        "MultiRegion": False,
    }
    return {"KeyMetadata": metadata | more}


def describes(stub: Stubber, *args: Any, **more: Any) -> None:
    stub.add_response("describe_key", described(*args, **more), {"KeyId": KEY_ID})


def fails(stub: Stubber, method: str, code: str, status: int = 400, params: Any = None) -> None:
    stub.add_client_error(method, code, SECRET, status, expected_params=params)


def gives_public_key(stub: Stubber, algorithm: Algorithm, key: bytes | None = None) -> None:
    answer = {"KeyId": ARN, "PublicKey": key or spki(private_key(algorithm.parameter))}
    stub.add_response("get_public_key", answer, {"KeyId": KEY_ID})


def creation(algorithm: Algorithm, origin: str = "AWS_KMS", owner: str = "sealkeeper") -> dict[str, Any]:
    return {
        "KeySpec": SPECS[algorithm.name],
        "KeyUsage": "SIGN_VERIFY",
        "Origin": origin,
        "MultiRegion": False,
        "Description": "Sealkeeper signing key release-1",
        "Tags": [
            {"TagKey": "sealkeeper-owner", "TagValue": owner},
            {"TagKey": "sealkeeper-label", "TagValue": "release-1"},
        ],
    }


def key_id(key: ProviderKey) -> str:
    return key.handle.partition(";")[0].removeprefix("id=")


def verifies(algorithm: Algorithm, public_key: bytes, payload: bytes, signature: bytes) -> bool:
    return signature_verifies(algorithm, load_public_key(algorithm, public_key), payload, signature)


# Keys


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=lambda one: one.name)
def test_a_key_is_made_for_its_algorithm_and_tagged(backend: AwsKmsBackend, algorithm: Algorithm) -> None:
    with scripted(backend) as stub:
        stub.add_response("create_key", described(), creation(algorithm))
        gives_public_key(stub, algorithm)
        key = backend.generate("release-1", algorithm)
    assert key.handle == f"id={KEY_ID};x-algorithm={algorithm.name}"
    assert key.public_key == spki(private_key(algorithm.parameter))


def test_owner_and_regions_are_as_the_uri_says(uri: str) -> None:
    backend = AwsKmsBackend(f"{uri}&owner=acme&multi-region=true")
    with scripted(backend) as stub:
        stub.add_response("create_key", described(), creation(P256, owner="acme") | {"MultiRegion": True})
        gives_public_key(stub, P256)
        backend.generate("release-1", P256)
    made = backend.generate("several", P256)
    assert made.handle.startswith("id=mrk-")
    assert verifies(P256, made.public_key, bytes(32), backend.sign(made.handle, P256, [bytes(32)])[0])
    backend.close()


def test_a_replica_in_another_region_signs_by_the_same_handle(uri: str) -> None:
    primary, other = AwsKmsBackend(f"{uri}&multi-region=true"), AwsKmsBackend(uri.replace(REGION, "eu-west-1"))
    key = primary.generate("release", P256)
    with pytest.raises(KeyHandleError):
        other.public_key(key.handle)
    client(primary).replicate_key(KeyId=key_id(key), ReplicaRegion="eu-west-1")
    assert other.public_key(key.handle) == key
    assert verifies(P256, key.public_key, bytes(32), other.sign(key.handle, P256, [bytes(32)])[0])
    assert (primary.info.region, other.info.region) == (REGION, "eu-west-1")
    primary.close()
    other.close()


def test_a_key_that_others_have_not_heard_of_yet_is_asked_for_again(
    backend: AwsKmsBackend, pauses: list[float]
) -> None:
    with scripted(backend) as stub:
        stub.add_response("create_key", described())
        fails(stub, "get_public_key", "NotFoundException")
        fails(stub, "get_public_key", "AccessDeniedException")
        gives_public_key(stub, P256)
        backend.generate("release-1", P256)
    assert len(pauses) == 2


def test_a_key_whose_public_key_cannot_be_had_is_not_left_behind(backend: AwsKmsBackend) -> None:
    deletion = {"KeyId": KEY_ID, "PendingWindowInDays": 7}
    with scripted(backend) as stub:
        stub.add_response("create_key", described())
        for _ in range(5):
            fails(stub, "get_public_key", "KMSInternalException", 500)
        stub.add_response("schedule_key_deletion", {}, deletion)
        with pytest.raises(ProviderUnavailableError):
            backend.generate("release-1", P256)
    with scripted(backend) as stub:
        stub.add_response("create_key", described())
        gives_public_key(stub, P256, spki(private_key("secp384r1")))
        fails(stub, "schedule_key_deletion", "ThrottlingException", params=deletion)
        stub.add_response("schedule_key_deletion", {}, deletion)
        with pytest.raises(AlgorithmNotSupportedError):
            backend.generate("release-1", P256)


@pytest.mark.parametrize("code", ["KMSInternalException", "DependencyTimeoutException", "503"])
def test_a_key_whose_making_was_not_answered_is_not_made_twice(backend: AwsKmsBackend, code: str) -> None:
    with scripted(backend) as stub:
        fails(stub, "create_key", code, 503)
        with pytest.raises(ProviderUnavailableError):
            backend.generate("release-1", P256)


def test_a_key_that_was_not_begun_is_made_after_a_pause(backend: AwsKmsBackend, pauses: list[float]) -> None:
    with scripted(backend) as stub:
        fails(stub, "create_key", "ThrottlingException")
        stub.add_response("create_key", described())
        gives_public_key(stub, P256)
        backend.generate("release-1", P256)
    assert len(pauses) == 1


@pytest.mark.parametrize("code", ["ValidationException", "UnsupportedOperationException"])
def test_a_key_that_a_region_does_not_know_is_not_supported(backend: AwsKmsBackend, code: str) -> None:
    with scripted(backend) as stub:
        fails(stub, "create_key", code)
        with pytest.raises(AlgorithmNotSupportedError) as refused:
            backend.generate("release-1", ALGORITHMS["ML_DSA_87"])
    assert "algorithms=" in refused.value.next_step


async def test_only_what_the_uri_names_is_offered(uri: str) -> None:
    less = await open_provider(re.sub("algorithms=[^&]*", f"algorithms={P256.name}", uri))
    try:
        assert less.info.algorithms == {P256.name}
        with pytest.raises(AlgorithmNotSupportedError):
            await less.generate("refused", ED25519)
    finally:
        await less.close()
    everything = AwsKmsBackend(re.sub("&algorithms=[^&]*", "", uri))
    assert everything.info.algorithms == set(ALGORITHMS)
    assert (everything.info.region, everything.info.description) == (REGION, f"AWS KMS in {REGION}")
    everything.close()


@pytest.mark.parametrize(
    "handle",
    [
        KEY_ID,
        ARN,
        f"id={ARN};x-algorithm={P256.name}",
        f"id=alias/release;x-algorithm={P256.name}",
        f"id={KEY_ID};x-algorithm=SHA1",
        f"{HANDLE}\n",
        f"id={KEY_ID.upper()};x-algorithm={P256.name}",
    ],
)
def test_what_is_no_handle_of_ours_is_not_asked_for(backend: AwsKmsBackend, handle: str) -> None:
    with scripted(backend):
        for call in (backend.public_key, backend.evidence, backend.destroy):
            with pytest.raises(KeyHandleError):
                call(handle)
        with pytest.raises(KeyHandleError):
            backend.sign(handle, P256, [bytes(32)])


@pytest.mark.parametrize("more", [{"KeySpec": "ECC_NIST_P384"}, {"KeyUsage": "KEY_AGREEMENT"}])
def test_a_key_of_another_kind_is_not_used(backend: AwsKmsBackend, more: dict[str, str]) -> None:
    with scripted(backend) as stub:
        describes(stub, **more)
        with pytest.raises(AlgorithmNotSupportedError):
            backend.sign(HANDLE, P256, [bytes(32)])
        describes(stub, **more)
        with pytest.raises(AlgorithmNotSupportedError):
            backend.public_key(HANDLE)


# Signatures


@pytest.mark.parametrize(
    ("name", "signs"),
    [
        ("PKIX_ECDSA_P256_SHA_256", "ECDSA_SHA_256"),
        ("PKIX_ECDSA_P384_SHA_384", "ECDSA_SHA_384"),
        ("PKIX_ECDSA_P521_SHA_512", "ECDSA_SHA_512"),
        ("PKIX_RSA_PKCS1V15_3072_SHA256", "RSASSA_PKCS1_V1_5_SHA_256"),
        ("PKIX_RSA_PSS_3072_SHA256", "RSASSA_PSS_SHA_256"),
    ],
)
def test_a_digest_is_signed_as_a_digest(backend: AwsKmsBackend, name: str, signs: str) -> None:
    algorithm = ALGORITHMS[name]
    digest = bytes(algorithm.digest_length)
    asked = {"KeyId": KEY_ID, "Message": digest, "MessageType": "DIGEST", "SigningAlgorithm": signs}
    with scripted(backend) as stub:
        describes(stub, spec=SPECS[name])
        for signature in (b"one", b"two"):
            stub.add_response("sign", {"KeyId": ARN, "Signature": signature}, asked)
        # What a key is, is asked once.
        assert backend.sign(f"id={KEY_ID};x-algorithm={name}", algorithm, [digest, digest]) == [b"one", b"two"]


@pytest.mark.parametrize("size", [1, 4096])
def test_ed25519_signs_the_message_itself(backend: AwsKmsBackend, size: int) -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    message = b"m" * size
    asked = {"KeyId": KEY_ID, "Message": message, "MessageType": "RAW", "SigningAlgorithm": "ED25519_SHA_512"}
    with scripted(backend) as stub:
        describes(stub, spec="ECC_NIST_EDWARDS25519")
        stub.add_response("sign", {"KeyId": ARN, "Signature": private.sign(message)}, asked)
        [signature] = backend.sign(f"id={KEY_ID};x-algorithm={ED25519.name}", ED25519, [message])
    assert verifies(ED25519, spki(private), message, signature)


@pytest.mark.parametrize("size", [0, 4097])
async def test_a_message_of_a_length_that_ed25519_does_not_take_is_refused_before_anything_is_sent(
    uri: str, size: int
) -> None:
    provider = await open_provider(re.sub("algorithms=[^&]*", f"algorithms={ED25519.name}", uri))
    try:
        # There is no such key, so the error would be another one if AWS were asked.
        with pytest.raises(PayloadError, match="messages of 1 to 4096") as refused:
            await provider.sign(f"id={KEY_ID};x-algorithm={ED25519.name}", ED25519, [b"short", bytes(size)])
    finally:
        await provider.close()
    assert refused.value.next_step


@pytest.mark.parametrize("size", [44, 65, 87])
def test_ml_dsa_signs_messages_of_any_length_by_their_representative(backend: AwsKmsBackend, size: int) -> None:
    private = private_key(size)
    assert isinstance(private, mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey)
    algorithm = ALGORITHMS[f"ML_DSA_{size}"]
    asked: list[dict[str, Any]] = []

    def sign(params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]]:
        asked.append(json.loads(params["body"]))
        # cryptography knows nothing of the message here: it verifies only if what stands for it is right.
        return Answered, {"KeyId": ARN, "Signature": private.sign_mu(base64_bytes(asked[-1]["Message"]))}

    messages = [b"", b"message", bytes(100_000)]
    with scripted(backend) as stub:
        describes(stub, spec=f"ML_DSA_{size}")
        gives_public_key(stub, algorithm)
        backend.sign(f"id={KEY_ID};x-algorithm={algorithm.name}", algorithm, [])
    client(backend).meta.events.register_first("before-call.kms.Sign", sign)
    signatures = backend.sign(f"id={KEY_ID};x-algorithm={algorithm.name}", algorithm, messages)
    for message, signature in zip(messages, signatures, strict=True):
        assert verifies(algorithm, spki(private), message, signature)
    assert {(one["KeyId"], one["MessageType"], one["SigningAlgorithm"]) for one in asked} == {
        (KEY_ID, "EXTERNAL_MU", "ML_DSA_SHAKE_256")
    }
    assert all(len(base64_bytes(one["Message"])) == 64 for one in asked)


class Answered:
    """What the SDK takes for the transport's part of an answer."""

    status_code = 200


def base64_bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def test_signing_goes_on_after_moments_of_too_many_requests(backend: AwsKmsBackend, pauses: list[float]) -> None:
    with scripted(backend) as stub:
        describes(stub)
        for code in ("ThrottlingException", "KMSInternalException", "DependencyTimeoutException"):
            fails(stub, "sign", code)
        stub.add_response("sign", {"KeyId": ARN, "Signature": b"signature"})
        assert backend.sign(HANDLE, P256, [bytes(32)]) == [b"signature"]
    assert len(pauses) == 3
    for pause, longest in zip(pauses, (0.1, 0.2, 0.4), strict=True):
        assert longest / 2 <= pause <= longest


def test_too_many_requests_for_longer_are_said_to_be_that(backend: AwsKmsBackend, pauses: list[float]) -> None:
    with scripted(backend) as stub:
        describes(stub)
        for _ in range(5):
            fails(stub, "sign", "ThrottlingException")
        with pytest.raises(ProviderThrottledError) as refused:
            backend.sign(HANDLE, P256, [bytes(32)])
    assert refused.value.retry_after == timedelta(seconds=1)
    assert len(pauses) == 4
    assert sum(pauses) < 5


def test_a_caller_who_has_waited_long_is_not_kept_longer(uri: str, pauses: list[float]) -> None:
    now = [0.0]

    def slow(**_: Any) -> None:
        now[0] += 3.95

    backend = AwsKmsBackend(uri, sleep=pauses.append, clock=lambda: now[0])
    client(backend).meta.events.register("provide-client-params.kms", slow)
    with scripted(backend) as stub:
        fails(stub, "describe_key", "ThrottlingException")
        with pytest.raises(ProviderThrottledError):
            backend.sign(HANDLE, P256, [bytes(32)])
    assert pauses == []
    backend.close()


OTHER = KEY_ID.replace("ab", "cd")


@pytest.mark.parametrize("named", [OTHER, ARN.replace(KEY_ID, OTHER), ARN.replace("eu-", "us-"), f"{ARN}0"])
def test_an_answer_about_another_key_is_not_taken(backend: AwsKmsBackend, named: str) -> None:
    with scripted(backend) as stub:
        describes(stub)
        stub.add_response("get_public_key", {"PublicKey": spki(private_key("secp256r1")), "KeyId": named})
        with pytest.raises(SelfCheckError, match="another key"):
            backend.public_key(HANDLE)
        describes(stub)
        stub.add_response("sign", {"Signature": b"signature", "KeyId": named})
        with pytest.raises(SelfCheckError, match="another key"):
            backend.sign(HANDLE, P256, [bytes(32)])


def test_a_description_of_another_key_is_not_taken(backend: AwsKmsBackend) -> None:
    answer = described()
    answer["KeyMetadata"]["KeyId"] = OTHER
    with scripted(backend) as stub:
        for call in (backend.public_key, backend.evidence, backend.destroy):
            stub.add_response("describe_key", answer)
            with pytest.raises(SelfCheckError, match="another key"):
                call(HANDLE)


# Keys that cannot be used now, or ever


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("PendingDeletion", KeyHandleError),
        ("PendingReplicaDeletion", KeyHandleError),
        # Of one key, so that the store is not left alone for it: see ``ConfiguredProvider``.
        ("Disabled", ProviderPermissionError),
        ("PendingImport", ProviderPermissionError),
        ("Unavailable", ProviderPermissionError),
    ],
)
def test_a_key_that_was_taken_out_of_use_elsewhere_says_why(
    backend: AwsKmsBackend, state: str, kind: type[ProviderError]
) -> None:
    with scripted(backend) as stub:
        describes(stub)
        stub.add_response("sign", {"KeyId": ARN, "Signature": b"signature"})
        backend.sign(HANDLE, P256, [bytes(32)])
        fails(stub, "sign", "KMSInvalidStateException")
        describes(stub, state)
        with pytest.raises(kind) as refused:
            backend.sign(HANDLE, P256, [bytes(32)])
        assert refused.value.next_step
        # It is looked at anew before it is used again.
        describes(stub, state)
        with pytest.raises(kind):
            backend.sign(HANDLE, P256, [bytes(32)])


def test_a_disabled_key_is_unavailable_until_it_is_enabled(backend: AwsKmsBackend) -> None:
    key = backend.generate("release", P256)
    backend.sign(key.handle, P256, [bytes(32)])
    client(backend).disable_key(KeyId=key_id(key))
    with pytest.raises(ProviderUnavailableError) as refused:
        backend.sign(key.handle, P256, [bytes(32)])
    assert "enable-key" in refused.value.next_step
    with pytest.raises(ProviderUnavailableError):
        backend.public_key(key.handle)
    client(backend).enable_key(KeyId=key_id(key))
    assert verifies(P256, key.public_key, bytes(32), backend.sign(key.handle, P256, [bytes(32)])[0])


def test_a_destroyed_key_waits_for_seven_days_and_is_gone_at_once(backend: AwsKmsBackend) -> None:
    key = backend.generate("release", P256)
    backend.destroy(key.handle)
    backend.destroy(key.handle)
    metadata = client(backend).describe_key(KeyId=key_id(key))["KeyMetadata"]
    assert metadata["KeyState"] == "PendingDeletion"
    assert timedelta(days=6.9) < metadata["DeletionDate"] - datetime.now(UTC) < timedelta(days=7.1)
    for call in (backend.public_key, backend.evidence):
        with pytest.raises(KeyHandleError) as refused:
            call(key.handle)
        assert "cancel-key-deletion" in refused.value.next_step


def test_destroying_what_is_gone_is_fine(backend: AwsKmsBackend) -> None:
    with scripted(backend) as stub:
        fails(stub, "describe_key", "NotFoundException")
        backend.destroy(HANDLE)
        describes(stub)
        fails(stub, "schedule_key_deletion", "KMSInvalidStateException")
        describes(stub, "PendingDeletion")
        backend.destroy(HANDLE)


def test_a_key_that_cannot_be_destroyed_is_not_said_to_be(backend: AwsKmsBackend) -> None:
    with scripted(backend) as stub:
        describes(stub)
        fails(stub, "schedule_key_deletion", "KMSInvalidStateException")
        describes(stub)
        with pytest.raises(ProviderUnavailableError):
            backend.destroy(HANDLE)
        describes(stub)
        fails(stub, "schedule_key_deletion", "AccessDeniedException")
        with pytest.raises(ProviderPermissionError, match="ScheduleKeyDeletion"):
            backend.destroy(HANDLE)


def test_the_material_of_an_imported_key_is_deleted_at_once(backend: AwsKmsBackend) -> None:
    deletion = {"KeyId": KEY_ID, "PendingWindowInDays": 7}
    with scripted(backend) as stub:
        describes(stub, origin="EXTERNAL")
        stub.add_response("delete_imported_key_material", {}, {"KeyId": KEY_ID})
        stub.add_response("schedule_key_deletion", {}, deletion)
        backend.destroy(HANDLE)
        describes(stub, "PendingImport", origin="EXTERNAL")
        stub.add_response("schedule_key_deletion", {}, deletion)
        backend.destroy(HANDLE)


# What goes wrong


@pytest.mark.parametrize(
    ("code", "status", "kind", "step"),
    [
        ("AccessDeniedException", 400, ProviderPermissionError, "kms:Sign"),
        ("ExpiredTokenException", 400, ProviderPermissionError, "renew"),
        ("UnrecognizedClientException", 400, ProviderPermissionError, "renew"),
        ("InvalidSignatureException", 400, ProviderPermissionError, "clock"),
        ("DisabledException", 400, ProviderPermissionError, "enable-key"),
        ("NotFoundException", 400, KeyHandleError, "region"),
        ("InvalidKeyUsageException", 400, AlgorithmNotSupportedError, ""),
        ("LimitExceededException", 400, ProviderPermissionError, "quota"),
        ("KeyUnavailableException", 500, ProviderUnavailableError, "try again"),
        ("InternalFailure", 500, ProviderUnavailableError, "try again"),
        ("ValidationException", 400, ProviderPermissionError, "CloudTrail"),
        ("<html>", 502, ProviderUnavailableError, "try again"),
        ("RequestLimitExceeded", 400, ProviderThrottledError, "quota"),
    ],
)
def test_each_refusal_is_told_with_what_to_do(
    backend: AwsKmsBackend, code: str, status: int, kind: type[ProviderError], step: str
) -> None:
    with Stubber(client(backend)) as stub:
        describes(stub)
        for _ in range(5):
            fails(stub, "sign", code, status)
        with pytest.raises(kind) as refused:
            backend.sign(HANDLE, P256, [bytes(32)])
    assert type(refused.value) is kind
    assert step in refused.value.next_step
    told = f"{refused.value} {refused.value.next_step}"
    assert SECRET not in told
    assert "<html>" not in told


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("create_key", lambda one: one.generate("a", P256)),
        ("describe_key", lambda one: one.public_key(HANDLE)),
        ("generate_random", lambda one: one.check()),
    ],
)
def test_a_permission_that_is_missing_is_named(
    backend: AwsKmsBackend, method: str, call: Callable[[AwsKmsBackend], object]
) -> None:
    action = "".join(part.title() for part in method.split("_"))
    with scripted(backend) as stub:
        fails(stub, method, "AccessDeniedException")
        with pytest.raises(ProviderPermissionError, match=f"does not allow {action}") as refused:
            call(backend)
    assert f"kms:{action}" in refused.value.next_step


@pytest.mark.parametrize("answer", [{}, {"PublicKey": b""}, {"PublicKey": bytes(9000)}, {"PublicKey": b"nonsense"}])
def test_an_answer_that_is_none_is_not_taken_for_one(backend: AwsKmsBackend, answer: dict[str, bytes]) -> None:
    with scripted(backend) as stub:
        describes(stub)
        stub.add_response("get_public_key", answer)
        with pytest.raises((ProviderUnavailableError, AlgorithmNotSupportedError)):
            backend.public_key(HANDLE)


def test_answers_are_known_before_several_threads_read_them() -> None:
    # msgspec 0.22 learns a type at its first use, and the process ends where another thread uses it meanwhile.
    state = msgspec.json.encode({"key_id": KEY_ID, "algorithm": P256.name, "token": b""})
    program = f"""
import msgspec._utils
from sealkeeper.hsm import awskms, awskms_client

def learn(_):
    raise SystemExit("learned late")

msgspec._utils._get_class_mro_and_typevar_mappings = learn
for name in ("Described", "Done", "ImportParameters", "PublicKeyRead", "Signed"):
    try:
        msgspec.convert({{}}, getattr(awskms_client, name))
    except msgspec.ValidationError:
        pass
awskms._import_state({state!r})
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (ReadTimeoutError(endpoint_url="x"), 1),
        (ConnectTimeoutError(endpoint_url="x"), 5),
        (SSLError(endpoint_url="x", error="y"), 1),
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_was_perhaps_received_is_not_sent_again_where_that_does_harm(
    backend: AwsKmsBackend, error: Exception, tries: int
) -> None:
    asked = failing(backend, "CreateKey", error)
    with pytest.raises(ProviderUnavailableError):
        backend.generate("release-1", P256)
    assert len(asked) == tries


def failing(backend: AwsKmsBackend, operation: str, error: Exception) -> list[None]:
    asked: list[None] = []

    def fail(**_: Any) -> None:
        asked.append(None)
        raise error

    client(backend).meta.events.register_first(f"provide-client-params.kms.{operation}", fail)
    return asked


def test_a_kms_out_of_reach_is_unavailable(uri: str, pauses: list[float]) -> None:
    with socket.socket() as taken:
        # Bound and not listening: whoever connects is refused.
        taken.bind(("127.0.0.1", 0))
        nowhere = re.sub(r"endpoint=[^&]*", f"endpoint=http://127.0.0.1:{taken.getsockname()[1]}", uri)
        with pytest.raises(ProviderUnavailableError, match="EndpointConnectionError"):
            AwsKmsBackend(nowhere, sleep=pauses.append)
    assert len(pauses) == 4


# Who asks


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment in which the SDK finds nothing, on a machine without a role."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "shared"))
    return monkeypatch


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("awskms:", "no AWS region"),
        ("awskms:region=eu-central-1", "no AWS credentials"),
        ("awskms:region=eu-central-1?role-arn=arn:aws:iam::111122223333:role/keys", "no AWS credentials"),
        ("awskms:region=eu-central-1?profile=none", "ProfileNotFound"),
    ],
)
def test_where_and_who_must_be_known(uri: str, why: str) -> None:
    with pytest.raises(ProviderConfigurationError, match=why) as refused:
        AwsKmsBackend(uri)
    assert refused.value.next_step


def test_the_sdks_own_settings_say_who_asks_but_not_whom(bare: pytest.MonkeyPatch, uri: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[profile keys]\nregion = eu-west-3\nendpoint_url = http://127.0.0.1:9\n")
    (tmp_path / "shared").write_text("[keys]\naws_access_key_id = AKIAPROFILE\naws_secret_access_key = x\n")
    bare.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    bare.setenv("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:9")
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
        bare.setenv(name, "http://127.0.0.1:9")
    kms = KmsClient(parse_awskms_uri("awskms:?profile=keys"))
    assert kms._client.meta.endpoint_url == "https://kms.eu-west-3.amazonaws.com"
    assert kms._client.meta.config.proxies == {}
    kms.close()
    endpoint = re.search(r"endpoint=[^&]*", uri)
    assert endpoint is not None
    backend = AwsKmsBackend(f"awskms:?profile=keys&{endpoint[0]}")
    assert access_key(backend) == "AKIAPROFILE"
    assert backend.info.region == "eu-west-3"
    backend.close()


def test_requests_at_a_time_have_a_connection_each_and_an_end(backend: AwsKmsBackend) -> None:
    config = client(backend).meta.config
    assert config.max_pool_connections >= backend.concurrency
    assert max(config.connect_timeout, config.read_timeout) <= 10
    assert config.retries["total_max_attempts"] == 1


def test_what_the_sdk_asks_by_itself_to_get_credentials_has_an_end_too(
    bare: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("a token of the platform's")
    bare.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    bare.setenv("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/keys")
    asked: list[Any] = []

    def send(request: Any, **_: Any) -> None:
        asked.append(request.url)
        raise EndpointConnectionError(endpoint_url=request.url)

    class Watched(Session):  # type: ignore[misc]  # botocore has no types
        def create_client(self, *args: Any, **more: Any) -> Any:
            made = super().create_client(*args, **more)
            assert max(made.meta.config.connect_timeout, made.meta.config.read_timeout) <= 10
            made.meta.events.register("before-send.sts", send)
            return made

    bare.setattr("sealkeeper.hsm.awskms_credentials.Session", Watched)
    pauses: list[float] = []
    with pytest.raises(ProviderUnavailableError):
        AwsKmsBackend("awskms:region=eu-central-1?endpoint=http://127.0.0.1:9", sleep=pauses.append)
    assert set(asked) == {"https://sts.eu-central-1.amazonaws.com/"}
    assert len(asked) == 5


def access_key(backend: AwsKmsBackend) -> str:
    """The access key id that a request goes out with."""
    seen: list[str] = []

    def look(request: Any, **_: Any) -> None:
        seen.append(re.search(r"Credential=([A-Z0-9]+)/", request.headers["Authorization"].decode())[1])  # type: ignore[index]

    client(backend).meta.events.register("before-send.kms", look)
    backend.check()
    client(backend).meta.events.unregister("before-send.kms", look)
    return seen[-1]


def test_a_renewed_credentials_file_is_used_without_a_restart(uri: str, tmp_path: Path) -> None:
    file = tmp_path / "credentials"

    def put(text: str) -> None:
        (tmp_path / "new").write_text(text)
        (tmp_path / "new").chmod(0o600)
        (tmp_path / "new").rename(file)

    put("[default]\naws_access_key_id = AKIAOLD\naws_secret_access_key = old-secret\n")
    backend = AwsKmsBackend(re.sub(r"file:[^&]*", f"file:{file}", uri))
    assert access_key(backend) == "AKIAOLD"
    put("[default]\naws_access_key_id=ASIANEW\naws_secret_access_key=new/secret+=\naws_session_token=tok==\n")
    assert access_key(backend) == "ASIANEW"
    put("[default]\naws_access_key_id = AKIAOLD\n")
    with pytest.raises(ProviderPermissionError) as refused:
        backend.check()
    assert "aws_secret_access_key" in refused.value.next_step
    put("[default]\naws_access_key_id = AKIAAGAIN\naws_secret_access_key = again-secret\n")
    assert access_key(backend) == "AKIAAGAIN"
    backend.close()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "AKIA hush-hush",
        "[other]\naws_access_key_id = AKIA\naws_secret_access_key = hush-hush",
        "[default]\naws_secret_access_key = hush-hush",
        "[default]\naws_access_key_id = AKIA\naws_secret_access_key =",
        "[default]\naws_access_key_id = AKIA\naws_secret_access_key = hush-hush\nrole_arn = x",
        "[default]\naws_access_key_id = AKIA\naws_secret_access_key = hush-hush\nhush-hush",
        "[default]\naws_access_key_id = AKIA\naws_secret_access_key = hush-h\u00fcsh",
    ],
)
def test_a_malformed_credentials_file_is_refused_and_not_shown(uri: str, tmp_path: Path, text: str) -> None:
    file = tmp_path / "credentials"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(ProviderConfigurationError) as refused:
        AwsKmsBackend(re.sub(r"file:[^&]*", f"file:{file}", uri))
    assert "hush" not in f"{refused.value!r} {refused.value.next_step}"
    assert refused.value.__cause__ is None
    file.chmod(0o644)
    with pytest.raises(ProviderConfigurationError, match="open to everybody"):
        AwsKmsBackend(re.sub(r"file:[^&]*", f"file:{file}", uri))


def test_a_role_is_taken_on(uri: str) -> None:
    endpoint = re.search(r"endpoint=([^&]*)", uri)
    assert endpoint is not None
    role = f"role-arn=arn:aws:iam::123456789012:role/keys&sts-endpoint={endpoint[1]}"
    backend = AwsKmsBackend(f"{uri}&{role}")
    # moto names keys of roles as AWS does.
    assert access_key(backend).startswith("ASIA")
    key = backend.generate("release", P256)
    assert verifies(P256, key.public_key, bytes(32), backend.sign(key.handle, P256, [bytes(32)])[0])
    backend.close()


def test_a_role_that_is_not_given_is_told_from_a_key_that_is_not_allowed() -> None:
    error = translated("Sign", ClientError({"Error": {"Code": "AccessDenied", "Message": SECRET}}, "AssumeRole"))
    assert isinstance(error, ProviderPermissionError)
    assert "sts:AssumeRole" in error.next_step


# Evidence


@pytest.mark.parametrize(
    ("origin", "came", "level", "exportable"),
    [
        ("AWS_KMS", Origin.GENERATED, ProtectionLevel.HSM, False),
        ("AWS_CLOUDHSM", Origin.GENERATED, ProtectionLevel.HSM, False),
        ("EXTERNAL", Origin.IMPORTED, ProtectionLevel.HSM, False),
        ("EXTERNAL_KEY_STORE", Origin.UNKNOWN, ProtectionLevel.EXTERNAL, None),
    ],
)
def test_what_aws_says_of_a_key_is_passed_on(
    backend: AwsKmsBackend, origin: str, came: Origin, level: ProtectionLevel, exportable: bool | None
) -> None:
    with scripted(backend) as stub:
        describes(stub, origin=origin, MultiRegion=True)
        said = backend.evidence(HANDLE)
    assert (said.origin, said.protection_level, said.exportable) == (came, level, exportable)
    assert said.attestation is None
    assert said.claims["Arn"] == ARN
    assert said.claims["Origin"] == origin
    assert said.claims["KeyManager"] == "CUSTOMER"
    assert said.claims["MultiRegion"] == "true"
    assert said.claims["CreationDate"] == "2026-01-02T03:04:05+00:00"
    assert "not attested" in said.claims["Exportable"]


def test_a_disabled_key_can_be_looked_at(backend: AwsKmsBackend) -> None:
    with scripted(backend) as stub:
        describes(stub, "Disabled")
        assert backend.evidence(HANDLE).claims["KeyState"] == "Disabled"


# Keys from outside


VALID_TO = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
PARAMETERS = {"KeyId": KEY_ID, "WrappingAlgorithm": "RSA_AES_KEY_WRAP_SHA_256", "WrappingKeySpec": "RSA_4096"}
OFFER = {"KeyId": ARN, "ImportToken": b"\x00token\xff", "PublicKey": b"wrapping key", "ParametersValidTo": VALID_TO}
HAND_OVER = {
    "KeyId": KEY_ID,
    "ImportToken": b"\x00token\xff",
    "EncryptedKeyMaterial": b"wrapped",
    "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
}
DELETION = {"KeyId": KEY_ID, "PendingWindowInDays": 7}


def begun(backend: AwsKmsBackend) -> bytes:
    with scripted(backend) as stub:
        stub.add_response("create_key", described("PendingImport", origin="EXTERNAL"), creation(P256, "EXTERNAL"))
        stub.add_response("get_parameters_for_import", OFFER, PARAMETERS)
        offer = backend.begin_import("release-1", P256)
    assert (offer.public_key, offer.methods, offer.expire_time) == (b"wrapping key", (KWP,), VALID_TO)
    assert offer.attestation is None
    return offer.state


def finish(backend: AwsKmsBackend, state: bytes, **change: Any) -> Any:
    given: dict[str, Any] = {"method": KWP, "wrapped": b"wrapped", "algorithm": P256} | change
    return backend.finish_import(
        state, "release-1", given["algorithm"], given["method"], given["wrapped"], spki(private_key("secp256r1"))
    )


def test_a_key_is_brought_in_and_stays(backend: AwsKmsBackend) -> None:
    state = begun(backend)
    with scripted(backend) as stub:
        stub.add_response("import_key_material", {}, HAND_OVER)
        gives_public_key(stub, P256)
        key = finish(backend, state)
        describes(stub, origin="EXTERNAL")
        backend.end_import(state)
    assert (key.handle, key.public_key) == (HANDLE, spki(private_key("secp256r1")))


def test_the_longest_token_fits_into_the_state(backend: AwsKmsBackend) -> None:
    with scripted(backend) as stub:
        stub.add_response("create_key", described("PendingImport", origin="EXTERNAL"))
        stub.add_response("get_parameters_for_import", OFFER | {"ImportToken": bytes(6144)})
        assert len(backend.begin_import("release-1", P256).state) <= 16 * 1024


@pytest.mark.parametrize("code", ["AccessDeniedException", "UnsupportedOperationException", "KMSInternalException"])
def test_an_import_that_does_not_begin_leaves_no_key(backend: AwsKmsBackend, code: str) -> None:
    with scripted(backend) as stub:
        stub.add_response("create_key", described("PendingImport", origin="EXTERNAL"))
        for _ in range(1 if code.startswith("Unsupported") else 5):
            fails(stub, "get_parameters_for_import", code)
        stub.add_response("schedule_key_deletion", {}, DELETION)
        with pytest.raises((ProviderUnavailableError, ImportNotSupportedError)):
            backend.begin_import("release-1", P256)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("InvalidCiphertextException", WrappedKeyError),
        ("IncorrectKeyMaterialException", WrappedKeyError),
        ("ExpiredImportTokenException", ImportExpiredError),
        ("InvalidImportTokenException", ImportExpiredError),
        ("KMSInvalidStateException", ImportExpiredError),
        ("NotFoundException", ImportExpiredError),
        ("AccessDeniedException", ProviderPermissionError),
    ],
)
def test_a_key_that_is_not_taken_is_told_why_and_its_place_removed(
    backend: AwsKmsBackend, code: str, kind: type[ProviderError]
) -> None:
    state = begun(backend)
    with scripted(backend) as stub:
        fails(stub, "import_key_material", code, params=HAND_OVER)
        with pytest.raises(kind) as refused:
            finish(backend, state)
        assert refused.value.next_step
        describes(stub, "PendingImport", origin="EXTERNAL")
        stub.add_response("schedule_key_deletion", {}, DELETION)
        backend.end_import(state)
        describes(stub, "PendingDeletion", origin="EXTERNAL")
        backend.end_import(state)
        fails(stub, "describe_key", "NotFoundException")
        backend.end_import(state)


@pytest.mark.parametrize(
    "change",
    [
        {"wrapped": b""},
        {"wrapped": bytes(6145)},
        {"method": WrapMethod.RSA_OAEP_SHA256},
        {"method": WrapMethod.RSA_OAEP_SHA1_AES_256_KWP},
        {"algorithm": ALGORITHMS["PKIX_ECDSA_P384_SHA_384"]},
    ],
    ids=str,
)
def test_what_aws_cannot_take_is_not_sent(backend: AwsKmsBackend, change: dict[str, Any]) -> None:
    state = begun(backend)
    with scripted(backend), pytest.raises(WrappedKeyError):
        finish(backend, state, **change)


def test_a_key_that_was_taken_though_the_answer_was_lost_is_found(backend: AwsKmsBackend) -> None:
    state = begun(backend)
    asked = failing(backend, "ImportKeyMaterial", ReadTimeoutError(endpoint_url="x"))
    with scripted(backend) as stub:
        describes(stub, origin="EXTERNAL")
        gives_public_key(stub, P256)
        assert finish(backend, state).handle == HANDLE
        describes(stub, "PendingImport", origin="EXTERNAL")
        with pytest.raises(ProviderUnavailableError):
            finish(backend, state)
    assert asked


def test_ml_dsa_keys_are_not_taken(backend: AwsKmsBackend) -> None:
    with scripted(backend), pytest.raises(ImportNotSupportedError):
        backend.begin_import("release-1", ALGORITHMS["ML_DSA_65"])


def test_chinese_regions_take_no_keys(uri: str) -> None:
    backend = AwsKmsBackend(uri.replace(REGION, "cn-north-1"))
    assert backend.info.wrap_methods == frozenset()
    backend.close()


# The page for custodians


def policies() -> list[Any]:
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)]


def actions(policy: Any) -> list[str]:
    return [
        action for statement in policy["Statement"] if statement["Effect"] == "Allow" for action in statement["Action"]
    ]


def test_the_policies_allow_what_is_asked_for_and_no_more() -> None:
    identity, key = policies()
    needed = {f"kms:{operation}" for operation in get_args(Operation)} | {"kms:TagResource"}
    assert sorted(actions(identity)) == sorted(needed)
    on_keys = needed - {"kms:CreateKey", "kms:TagResource", "kms:GenerateRandom"}
    [gateway] = [one for one in key["Statement"] if one["Sid"] == "Gateway"]
    assert set(gateway["Action"]) == on_keys


def test_every_operation_is_really_asked_for() -> None:
    source = Path(__file__).parents[2].joinpath("hsm/sealkeeper/hsm/awskms.py").read_text()
    assert set(re.findall(r'\.ask\(\s*"(\w+)"', source)) == set(get_args(Operation))


def test_keys_of_others_are_out_of_the_policys_reach() -> None:
    identity, _ = policies()
    for statement in identity["Statement"]:
        if statement["Action"] == ["kms:GenerateRandom"]:
            continue
        condition = json.dumps(statement["Condition"])
        assert "Tag/sealkeeper-owner" in condition
