"""What CI does: sign, and what comes of it."""

from __future__ import annotations

import json
from base64 import b64decode
from hashlib import sha256, sha384, sha512

import pytest

from sealkeeper.client import digest_content, dsse_content, message_content
from sealkeeper.client.errors import (
    InvalidRequestError,
    NotFoundError,
    RefusedError,
)
from sealkeeper.client.operations import Operation
from sealkeeper.v1 import resources_pb2, signing_pb2
from sealkeeper.verify import Artifact, Policy, verify
from sealkeeper.verify.algorithms import ALGORITHMS
from tests.e2e.running import PARENT, Running

HASHES = {"SHA2_256": sha256, "SHA2_384": sha384, "SHA2_512": sha512}
MESSAGE = b"the artifact"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_signs_digests_messages_and_envelopes(
    gateway: Running, new_key_id: str, algorithm: str
) -> None:
    key, known = gateway.create_key(new_key_id, algorithm), ALGORITHMS[algorithm]
    trust, policy = gateway.trust(), Policy(key=key)
    contents = [message_content(MESSAGE)]
    if known.signs_digest:
        contents.append(digest_content(known.digest, HASHES[known.digest](MESSAGE).digest()))
    with gateway.client("ci") as ci:
        for certificate in (False, True):
            for content in contents:
                answer = ci.sign(key, content, certificate=certificate)
                verify(answer.signature.bundle, Artifact.from_bytes(MESSAGE), trust, policy).require()
            answer = ci.sign(key, dsse_content("text/plain", MESSAGE), certificate=certificate)
            result = verify(answer.signature.bundle, None, trust, policy).require()
            assert (result.payload, result.log_index) == (MESSAGE, answer.signature.log_index)


def test_a_batch_is_signed_in_order(gateway: Running, key: str) -> None:
    messages = [b"message %d" % number for number in range(1000)]
    with gateway.client("ci") as ci:
        answer = ci.sign_batch(key, [message_content(one) for one in messages])
    trust, indices = gateway.trust(), [one.log_index for one in answer.signatures]
    assert indices == list(range(indices[0], indices[0] + 1000))
    for place in (0, 1, 500, 999):
        bundle = answer.signatures[place].bundle
        assert verify(bundle, Artifact.from_bytes(messages[place]), trust, Policy(key=key)).verified
        assert not verify(bundle, Artifact.from_bytes(messages[place - 1]), trust, Policy(key=key)).verified


def test_a_message_of_4_mib_is_signed_and_one_byte_more_is_not(gateway: Running, new_key_id: str) -> None:
    key, most = gateway.create_key(new_key_id, "PKIX_ED25519"), bytes(4 * 1024 * 1024)
    with gateway.client("ci") as ci:
        bundle = ci.sign(key, message_content(most)).signature.bundle
        assert verify(bundle, Artifact.from_bytes(most), gateway.trust(), Policy(key=key)).verified
        with pytest.raises(InvalidRequestError) as caught:
            ci.sign(key, message_content(most + b"\0"))
    assert caught.value.violations[0].field == "content.message"


def _raw(request: signing_pb2.SignRequest | signing_pb2.SignBatchRequest) -> Operation[object]:
    method = "Sign" if isinstance(request, signing_pb2.SignRequest) else "SignBatch"
    return Operation("SigningService", method, request, lambda response: response)


def _digest(algorithm: int, length: int) -> signing_pb2.SignContent:
    digest = resources_pb2.Digest(algorithm=algorithm, value=bytes(length))  # type: ignore[arg-type]  # wrong on purpose
    return signing_pb2.SignContent(digest=digest)


GOOD = _digest(1, 32)
BAD_CONTENTS = [
    (signing_pb2.SignContent(), "content", "INVALID_FIELD"),
    (_digest(1, 31), "content.digest.value", "INVALID_FIELD"),
    (_digest(1, 33), "content.digest.value", "INVALID_FIELD"),
    (_digest(0, 32), "content.digest.algorithm", "INVALID_FIELD"),
    (_digest(99, 32), "content.digest.algorithm", "INVALID_FIELD"),
    (_digest(2, 48), "content.digest.algorithm", "DIGEST_MISMATCH"),
    (signing_pb2.SignContent(message=b"x", crc32c=1), "content.crc32c", "CHECKSUM_MISMATCH"),
    (signing_pb2.SignContent(message=b"x", artifact_name="a\nb"), "content.artifact_name", "INVALID_FIELD"),
    (signing_pb2.SignContent(message=b"x", artifact_name="a" * 513), "content.artifact_name", "INVALID_FIELD"),
    (
        signing_pb2.SignContent(dsse=resources_pb2.DssePayload(payload=b"x")),
        "content.dsse.payload_type",
        "INVALID_FIELD",
    ),
    (
        signing_pb2.SignContent(dsse=resources_pb2.DssePayload(payload_type="ü", payload=b"x")),
        "content.dsse.payload_type",
        "INVALID_FIELD",
    ),
]


@pytest.mark.parametrize(("content", "field", "reason"), BAD_CONTENTS)
def test_a_bad_content_is_refused_naming_the_field_and_nothing_is_logged(
    gateway: Running, key: str, content: signing_pb2.SignContent, field: str, reason: str
) -> None:
    size = gateway.tree_size()
    with gateway.client("ci") as ci:
        with pytest.raises(InvalidRequestError) as caught:
            ci.call(_raw(signing_pb2.SignRequest(key=key, content=content)))
        assert (caught.value.violations[0].field, caught.value.reason) == (field, reason)
        with pytest.raises(InvalidRequestError) as caught:
            ci.call(_raw(signing_pb2.SignBatchRequest(key=key, items=[GOOD, content])))
        assert caught.value.violations[0].field == field.replace("content", "items[1]", 1)
    assert gateway.tree_size() == size


def test_bad_requests_name_their_field(gateway: Running, key: str) -> None:
    requests: list[tuple[signing_pb2.SignRequest | signing_pb2.SignBatchRequest, str]] = [
        (signing_pb2.SignRequest(key="release", content=GOOD), "key"),
        (signing_pb2.SignRequest(key=f"{key}/versions/0", content=GOOD), "key"),
        (signing_pb2.SignRequest(key=key, content=GOOD, request_id="a b"), "request_id"),
        (signing_pb2.SignRequest(key=key, content=GOOD, request_id="a" * 65), "request_id"),
        (signing_pb2.SignRequest(key=key, content=GOOD, material=9), "material"),  # type: ignore[arg-type]
        (signing_pb2.SignBatchRequest(key=key), "items"),
        (signing_pb2.SignBatchRequest(key=key, items=[GOOD] * 1001), "items"),
    ]
    with gateway.client("ci") as ci:
        for request, field in requests:
            with pytest.raises(InvalidRequestError) as caught:
                ci.call(_raw(request))
            assert caught.value.violations[0].field == field


def test_a_key_that_signs_messages_refuses_digests(gateway: Running, new_key_id: str) -> None:
    key = gateway.create_key(new_key_id, "PKIX_ED25519")
    with gateway.client("ci") as ci, pytest.raises(InvalidRequestError) as caught:
        ci.sign(key, digest_content("SHA2_256", bytes(32)))
    assert (caught.value.reason, caught.value.violations[0].field) == ("DIGEST_NOT_SUPPORTED", "content.digest")
    assert "message" in caught.value.next_step


def test_an_unknown_key_or_version_is_not_found(gateway: Running, key: str) -> None:
    with gateway.client("ci") as ci:
        with pytest.raises(NotFoundError) as caught:
            ci.sign(f"{PARENT}/keys/nobody", message_content(b"x"))
        assert caught.value.reason == "KEY_NOT_FOUND"
        with pytest.raises(NotFoundError) as caught:
            ci.sign(f"{key}/versions/7", message_content(b"x"))
        assert caught.value.reason == "KEY_VERSION_NOT_FOUND"


def test_the_same_request_id_gives_the_same_answer_and_signs_once(gateway: Running, key: str) -> None:
    size = gateway.tree_size()
    with gateway.client("ci") as ci:
        first = ci.sign(key, message_content(b"once"), request_id=f"{key[-6:]}-once")
        assert ci.sign(key, message_content(b"once"), request_id=f"{key[-6:]}-once") == first
        with pytest.raises(RefusedError) as caught:
            ci.sign(key, message_content(b"twice"), request_id=f"{key[-6:]}-once")
    assert caught.value.reason == "REQUEST_ID_REUSED"
    assert gateway.tree_size() == size + 1


def test_a_request_id_outlives_a_restart_for_every_kind_of_content(own_gateway: Running) -> None:
    contents = [message_content(b"m"), dsse_content("text/plain", b"d"), digest_content("SHA2_256", bytes(32))]
    with own_gateway.running():
        key = own_gateway.create_key("release")
        with own_gateway.client("ci") as ci:
            first = [
                ci.sign(key, one, request_id=f"id-{place}", certificate=place == 0)
                for place, one in enumerate(contents)
            ]
            batch = ci.sign_batch(key, contents, request_id="batch")
    with own_gateway.running():
        size, trust = own_gateway.tree_size(), own_gateway.trust()
        with own_gateway.client("ci") as ci:
            for place, one in enumerate(contents):
                again = ci.sign(key, one, request_id=f"id-{place}", certificate=place == 0)
                assert _lasting(again.signature) == _lasting(first[place].signature)
            replayed = ci.sign_batch(key, contents, request_id="batch")
            assert [*map(_lasting, replayed.signatures)] == [*map(_lasting, batch.signatures)]
            with pytest.raises(RefusedError):
                ci.sign(key, contents[1], request_id="id-0")
        assert own_gateway.tree_size() == size
        assert verify(replayed.signatures[0].bundle, Artifact.from_bytes(b"m"), trust, Policy(key=key)).verified


def _lasting(signature: signing_pb2.Signature) -> object:
    """All of a bundle but the proof, which is of the newest tree."""
    bundle = json.loads(signature.bundle)
    del bundle["verificationMaterial"]["tlogEntries"][0]["inclusionProof"]
    return bundle


def test_the_gateway_verifies_as_a_client_does(gateway: Running, key: str) -> None:
    with gateway.client("ci") as ci:
        bundle = ci.sign(key, message_content(MESSAGE)).signature.bundle
    with gateway.client("verifier") as verifier:
        assert verifier.verify(bundle, key, message=MESSAGE).verified
        assert verifier.verify(bundle, key, digest=("SHA2_256", sha256(MESSAGE).digest())).verified
        refused = verifier.verify(bundle, key, message=b"other")
        assert not refused.verified
        assert refused.steps[-1].name == "content"
        assert not verifier.verify(b"{}", key, message=MESSAGE).verified
        with pytest.raises(InvalidRequestError):
            verifier.verify(bundle, key, digest=("SHA2_256", b"short"))


def test_the_public_key_is_given_for_a_key_and_for_a_version(gateway: Running, key: str) -> None:
    with gateway.client("verifier") as verifier:
        by_key, by_version = verifier.public_key(key), verifier.public_key(f"{key}/versions/1")
    assert by_key == by_version
    assert by_key.pem.startswith("-----BEGIN PUBLIC KEY-----")


def test_the_artifacts_name_goes_into_the_audit_log_and_nowhere_else(gateway: Running, key: str) -> None:
    with gateway.client("ci") as ci:
        answer = ci.sign(key, message_content(MESSAGE, "release.tar.gz"))
    assert b"release.tar.gz" not in answer.signature.bundle
    with gateway.client("admin") as admin:
        last = [json.loads(one.body) for one in admin.entries("logs/audit") if one.body]
    record = next(one for one in reversed(last) if one["method"] == "SigningService/Sign")
    assert record["details"]["artifacts"] == ["release.tar.gz"]
    assert record["details"]["logIndex"] == answer.signature.log_index
    assert record["details"]["digest"] == f"SHA2_256:{sha256(MESSAGE).hexdigest()}"


def test_the_log_entry_is_what_the_bundle_says(gateway: Running, key: str) -> None:
    with gateway.client("ci") as ci:
        answer = ci.sign(key, message_content(MESSAGE))
        [entry] = ci.entries("logs/transparency", answer.signature.log_index, 1)
    body = json.loads(answer.signature.bundle)["verificationMaterial"]["tlogEntries"][0]["canonicalizedBody"]
    assert b64decode(body) == entry.body
