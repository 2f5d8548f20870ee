from __future__ import annotations

import json
import shutil
import subprocess
from base64 import b64decode, b64encode
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest
import rfc8785
from asn1crypto import tsp
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from rfc3161_client import VerifierBuilder, decode_timestamp_response
from sigstore_models.bundle.v1 import Bundle
from sigstore_models.trustroot.v1 import TrustedRoot

from sealkeeper.hsm import ALGORITHMS
from sealkeeper.server.bundle import BundleTemplate
from sealkeeper.server.certificates import KeyCertificates
from sealkeeper.server.der import oid, tlv
from sealkeeper.server.entry import EntryTemplate
from tests.shapes.world import DOMAIN, KEY, NOW, Inclusion, World

some_bytes = st.binary(max_size=200)


@given(some_bytes, some_bytes, some_bytes, st.booleans())
def test_an_entry_is_canonical_json(verifier: bytes, digest: bytes, signature: bytes, is_certificate: bool) -> None:
    body = EntryTemplate("PKIX_ED25519", verifier, is_certificate=is_certificate).body("SHA2_256", digest, signature)
    raw = {"rawBytes": b64encode(verifier).decode()}
    assert body == rfc8785.dumps(
        {
            "apiVersion": "0.0.2",
            "kind": "hashedrekord",
            "spec": {
                "hashedRekordV002": {
                    "data": {"algorithm": "SHA2_256", "digest": b64encode(digest).decode()},
                    "signature": {
                        "content": b64encode(signature).decode(),
                        "verifier": {
                            "keyDetails": "PKIX_ED25519",
                            ("x509Certificate" if is_certificate else "publicKey"): raw,
                        },
                    },
                }
            },
        }
    )


@given(
    st.lists(st.binary(min_size=32, max_size=32), max_size=20), some_bytes, st.text(max_size=50), st.text(max_size=30)
)
def test_a_bundle_says_what_was_put_in(hashes: list[bytes], data: bytes, checkpoint: str, payload_type: str) -> None:
    inclusion = Inclusion(7, 9, bytes(32), tuple(hashes), checkpoint)
    template = BundleTemplate.for_public_key("aGludA==", b"\1" * 32)
    plain = json.loads(template.message_signature("SHA2_384", data, b"sig", b"{}", inclusion, b"stamp"))
    proof = plain["verificationMaterial"]["tlogEntries"][0]["inclusionProof"]
    assert [b64decode(one) for one in proof["hashes"]] == hashes
    assert proof["checkpoint"]["envelope"] == checkpoint
    assert plain["messageSignature"]["messageDigest"] == {"algorithm": "SHA2_384", "digest": b64encode(data).decode()}
    envelope = json.loads(template.dsse(payload_type, data, b"sig", b"{}", inclusion, b"stamp"))["dsseEnvelope"]
    assert envelope["payloadType"] == payload_type
    assert b64decode(envelope["payload"]) == data
    assert envelope["signatures"] == [{"sig": b64encode(b"sig").decode(), "keyid": "aGludA=="}]


async def test_bundles_and_trusted_root_fit_sigstore_s_strict_models(tmp_path: Path) -> None:
    world = await World.create(tmp_path)
    key = await world.provider.generate("release", ALGORITHMS["PKIX_ECDSA_P256_SHA_256"])
    for certificate in (False, True):
        for payload_type in ("", "application/vnd.in-toto+json"):
            bundle = await world.bundle(key, b"{}", certificate=certificate, payload_type=payload_type)
            Bundle.from_json(bundle)
    TrustedRoot.from_json(world.trusted_root())


async def test_timestamps_verify_with_rfc3161_client_and_openssl(tmp_path: Path) -> None:
    world = await World.create(tmp_path)
    messages = [b"one", b"two", b"x" * 1000]
    leaf, root = world.tsa.chain
    verifier = VerifierBuilder(tsa_certificate=leaf, roots=[root]).build()
    for message, stamp in zip(messages, await world.tsa.stamp(messages), strict=True):
        response = decode_timestamp_response(stamp)
        assert verifier.verify_message(response, message)
        assert response.tst_info.gen_time == NOW.replace(microsecond=0)
        parsed = tsp.TimeStampResp.load(stamp, strict=True)
        assert parsed.copy().dump(force=True) == stamp
        (tmp_path / "stamp").write_bytes(stamp)
        (tmp_path / "message").write_bytes(message)
        (tmp_path / "root.pem").write_bytes(root.public_bytes(Encoding.PEM))
        if shutil.which("openssl"):
            command = ["openssl", "ts", "-verify", "-in", "stamp", "-data", "message", "-CAfile", "root.pem"]
            command += ["-attime", str(int(NOW.timestamp()))]
            result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert "Verification: OK" in result.stdout, result.stderr


async def test_serial_numbers_of_timestamps_differ(tmp_path: Path) -> None:
    world = await World.create(tmp_path)
    stamps = await world.tsa.stamp([b"same"] * 50)
    assert len({decode_timestamp_response(stamp).tst_info.serial_number for stamp in stamps}) == 50


async def test_a_certificate_names_the_key_and_lives_briefly(tmp_path: Path) -> None:
    world = await World.create(tmp_path)
    key = await world.provider.generate("release", ALGORITHMS["PKIX_ECDSA_P256_SHA_256"])
    issued = await world.ca.issue(KEY, key.public_key)
    certificate = x509.load_der_x509_certificate(issued.der)
    certificate.verify_directly_issued_by(world.ca.chain[0])
    world.ca.chain[0].verify_directly_issued_by(world.ca.chain[1])
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == [f"https://{DOMAIN}/{KEY}"]
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == timedelta(minutes=10)
    assert certificate.not_valid_before_utc <= NOW
    scts = certificate.extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps).value
    assert [sct.log_id for sct in scts] == [sha256(world.ct.public_key).digest()]
    # The logged precertificate is the certificate without its timestamp (RFC 6962 section 3.2).
    assert issued.precertificate_entry[47:-2] == certificate.tbs_precertificate_bytes


async def test_certificates_are_shared_renewed_at_half_of_their_life_and_logged_first(tmp_path: Path) -> None:
    world = await World.create(tmp_path)
    key = await world.provider.generate("release", ALGORITHMS["PKIX_ECDSA_P256_SHA_256"])
    logged: list[bytes] = []
    now = NOW

    async def record(entry: bytes) -> None:
        logged.append(entry)

    world.ca.clock = lambda: now
    certificates = KeyCertificates(world.ca, record)
    first = await certificates.get(KEY, key.public_key)
    now += timedelta(minutes=4)
    assert await certificates.get(KEY, key.public_key) is first
    now += timedelta(minutes=2)
    second = await certificates.get(KEY, key.public_key)
    assert second is not first
    assert logged == [first.precertificate_entry, second.precertificate_entry]
    # A clock set back must not yield a certificate from the future.
    now = NOW
    assert (await certificates.get(KEY, key.public_key)).not_before <= NOW


async def test_a_certificate_that_could_not_be_logged_is_not_used(tmp_path: Path) -> None:
    world = await World.create(tmp_path)
    key = await world.provider.generate("release", ALGORITHMS["PKIX_ECDSA_P256_SHA_256"])

    async def refuse(_: bytes) -> None:
        raise ConnectionError

    certificates = KeyCertificates(world.ca, refuse)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await certificates.get(KEY, key.public_key)


def test_der_has_the_shortest_lengths() -> None:
    assert tlv(4, bytes(127))[:2] == b"\x04\x7f"
    assert tlv(4, bytes(128))[:3] == b"\x04\x81\x80"
    assert tlv(4, bytes(256))[:4] == b"\x04\x82\x01\x00"
    assert oid("1.2.840.113549.1.7.2").hex() == "06092a864886f70d010702"
