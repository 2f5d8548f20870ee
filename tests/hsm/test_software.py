"""Sealed key files: what they keep, and what is noticed when somebody changes them."""

from __future__ import annotations

import base64
import json
import os
import stat
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sealkeeper.hsm.algorithms import ALGORITHMS, load_public_key, signature_verifies
from sealkeeper.hsm.errors import (
    AlgorithmNotSupportedError,
    ImportExpiredError,
    KeyHandleError,
    ProviderConfigurationError,
    ProviderUnavailableError,
    WrappedKeyError,
)
from sealkeeper.hsm.provider import Origin, ProviderKey, WrapMethod, WrappingKey
from sealkeeper.hsm.software import SoftwareBackend
from tests.wrapping import new_private_key, pkcs8, private_key, spki, wrap

KWP = WrapMethod.RSA_OAEP_SHA256_AES_256_KWP
RSA = ALGORITHMS["PKIX_RSA_PKCS1V15_2048_SHA256"]
P256 = ALGORITHMS["PKIX_ECDSA_P256_SHA_256"]
DIGEST = sha256(b"artifact").digest()


def secret_file(path: Path, content: str) -> Path:
    path.write_text(content)
    path.chmod(0o600)
    return path


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"software://{tmp_path}/keys?sealing-key-source=file:{secret_file(tmp_path / 'seal', '5a' * 32)}"


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if "4096" not in name])
def test_every_algorithm_signs_and_its_key_survives_reopening(uri: str, name: str) -> None:
    algorithm = ALGORITHMS[name]
    key = SoftwareBackend(uri).generate("release", algorithm)
    payload = b"\x07" * (algorithm.digest_length or 5)
    reopened = SoftwareBackend(uri)
    [signature] = reopened.sign(key.handle, algorithm, [payload])
    assert reopened.public_key(key.handle) == key
    assert signature_verifies(algorithm, load_public_key(algorithm, key.public_key), payload, signature)


def test_files_and_folder_are_for_the_owner_alone_and_hold_no_key_in_clear(uri: str, tmp_path: Path) -> None:
    key = SoftwareBackend(uri).generate("release", P256)
    path = tmp_path / "keys" / f"{key.handle}.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    public = {"format", "label", "algorithm", "publicKey", "origin"}
    assert set(json.loads(path.read_bytes())) == public | {"nonce", "sealed"}


@pytest.mark.parametrize("field", ["label", "algorithm", "publicKey", "origin", "nonce", "sealed", "format"])
def test_a_changed_key_file_is_refused(uri: str, tmp_path: Path, field: str) -> None:
    backend = SoftwareBackend(uri)
    key, other = backend.generate("one", P256), backend.generate("two", ALGORITHMS["PKIX_ED25519"])
    path = tmp_path / "keys" / f"{key.handle}.json"
    document = json.loads(path.read_bytes())
    theirs = json.loads((tmp_path / "keys" / f"{other.handle}.json").read_bytes())
    document[field] = {"format": "else", "origin": "imported"}.get(field, theirs[field])
    path.write_text(json.dumps(document))
    with pytest.raises(ProviderConfigurationError, match=r"changed|damaged"):
        SoftwareBackend(uri).sign(key.handle, P256, [DIGEST])


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[" * 50_000, b"\xff", b"{}" + b" " * 70_000])
def test_a_damaged_key_file_is_refused(uri: str, tmp_path: Path, content: bytes) -> None:
    backend = SoftwareBackend(uri)
    key = backend.generate("one", P256)
    (tmp_path / "keys" / f"{key.handle}.json").write_bytes(content)
    with pytest.raises(ProviderConfigurationError, match="damaged"):
        SoftwareBackend(uri).public_key(key.handle)


def test_a_renamed_key_file_is_refused(uri: str, tmp_path: Path) -> None:
    backend = SoftwareBackend(uri)
    key, other = backend.generate("one", P256), backend.generate("two", P256)
    folder = tmp_path / "keys"
    (folder / f"{key.handle}.json").replace(folder / f"{other.handle}.json")
    with pytest.raises(ProviderConfigurationError, match="changed"):
        SoftwareBackend(uri).sign(other.handle, P256, [DIGEST])


def test_another_sealing_key_is_noticed_when_the_folder_is_opened(uri: str, tmp_path: Path) -> None:
    SoftwareBackend(uri)
    secret_file(tmp_path / "seal", "5b" * 32)
    with pytest.raises(ProviderConfigurationError, match="not the one") as refused:
        SoftwareBackend(uri)
    assert "5b5b" not in str(refused.value)


def test_a_passphrase_opens_the_folder_and_a_wrong_one_does_not(tmp_path: Path) -> None:
    secret = secret_file(tmp_path / "passphrase", "correct horse\n")
    uri = f"software://{tmp_path}/keys?passphrase-source=file:{secret}"
    key = SoftwareBackend(uri).generate("one", P256)
    secret_file(secret, "correct horse")
    assert SoftwareBackend(uri).public_key(key.handle) == key
    secret_file(secret, "battery staple")
    with pytest.raises(ProviderConfigurationError, match="not the one"):
        SoftwareBackend(uri)


@pytest.mark.parametrize(("content", "mode"), [("", 0o600), ("short", 0o600), ("zz" * 32, 0o600), ("5a" * 32, 0o644)])
def test_an_unfit_sealing_key_file_is_refused(tmp_path: Path, content: str, mode: int) -> None:
    secret_file(tmp_path / "seal", content).chmod(mode)
    with pytest.raises(ProviderConfigurationError, match="sealing key file"):
        SoftwareBackend(f"software://{tmp_path}/keys?sealing-key-source=file:{tmp_path}/seal")


def test_a_folder_with_other_things_in_it_is_not_taken_over(uri: str, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "letter.txt").write_text("mine")
    with pytest.raises(ProviderConfigurationError, match="not empty"):
        SoftwareBackend(uri)


def test_a_key_signs_with_its_own_algorithm_alone(uri: str) -> None:
    backend = SoftwareBackend(uri)
    key = backend.generate("one", ALGORITHMS["PKIX_RSA_PSS_2048_SHA256"])
    with pytest.raises(AlgorithmNotSupportedError, match="PKIX_RSA_PSS_2048_SHA256"):
        backend.sign(key.handle, ALGORITHMS["PKIX_RSA_PKCS1V15_2048_SHA256"], [DIGEST])


def test_a_destroyed_key_is_gone_and_destroying_it_again_is_fine(uri: str) -> None:
    backend = SoftwareBackend(uri)
    key = backend.generate("one", P256)
    backend.destroy(key.handle)
    backend.destroy(key.handle)
    for handle in (key.handle, "../seal", "", "0" * 32):
        with pytest.raises(KeyHandleError):
            backend.sign(handle, P256, [DIGEST])


def test_a_full_disk_leaves_no_half_written_key(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = SoftwareBackend(uri)
    before = sorted((tmp_path / "keys").iterdir())

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ProviderUnavailableError, match="No space left"):
        backend.generate("one", P256)
    assert sorted((tmp_path / "keys").iterdir()) == before


def bring(backend: SoftwareBackend, offer: WrappingKey, secret: bytes, public_key: bytes) -> ProviderKey:
    wrapped = wrap(KWP, offer.public_key, secret)
    return backend.finish_import(offer.state, "brought", P256, KWP, wrapped, public_key)


def test_a_key_file_says_where_its_key_came_from(uri: str) -> None:
    backend, private = SoftwareBackend(uri), private_key("secp256r1")
    made = backend.generate("made", P256)
    brought = bring(backend, backend.begin_import("brought", P256), pkcs8(private), spki(private))
    for one in (backend, SoftwareBackend(uri)):
        assert one.evidence(made.handle).origin is Origin.GENERATED
        assert one.evidence(brought.handle).origin is Origin.IMPORTED
        assert one.evidence(made.handle).exportable is None
        assert "can read it" in one.evidence(made.handle).claims["export"]


def test_a_key_file_of_before_there_were_imports_is_still_read_and_its_origin_not_guessed(
    uri: str, tmp_path: Path
) -> None:
    SoftwareBackend(uri)
    private, nonce, handle = new_private_key("secp256r1"), os.urandom(12), "0123456789abcdef" * 2
    public_key = base64.b64encode(spki(private)).decode()
    bound = json.dumps(["sealkeeper-software-key/1", handle, "old", P256.name, public_key]).encode()
    document = {
        "format": "sealkeeper-software-key/1",
        "label": "old",
        "algorithm": P256.name,
        "publicKey": public_key,
        "nonce": base64.b64encode(nonce).decode(),
        "sealed": base64.b64encode(AESGCM(bytes.fromhex("5a" * 32)).encrypt(nonce, pkcs8(private), bound)).decode(),
    }
    path = tmp_path / "keys" / f"{handle}.json"
    path.write_text(json.dumps(document))
    backend = SoftwareBackend(uri)
    assert backend.public_key(handle).public_key == spki(private)
    [signature] = backend.sign(handle, P256, [DIGEST])
    assert signature_verifies(P256, load_public_key(P256, spki(private)), DIGEST, signature)
    assert backend.evidence(handle).origin is Origin.UNKNOWN
    path.write_text(json.dumps({**document, "origin": "generated"}))
    assert backend.evidence(handle).origin is Origin.UNKNOWN
    path.write_text(json.dumps({**document, "format": "sealkeeper-software-key/2", "origin": "generated"}))
    with pytest.raises(ProviderConfigurationError, match="changed"):
        backend.evidence(handle)


def test_a_new_key_file_cannot_be_passed_off_as_an_old_one(uri: str, tmp_path: Path) -> None:
    backend = SoftwareBackend(uri)
    handle = backend.generate("made", P256).handle
    path = tmp_path / "keys" / f"{handle}.json"
    path.write_text(path.read_text().replace("software-key/2", "software-key/1"))
    with pytest.raises(ProviderConfigurationError, match="changed"):
        backend.evidence(handle)


def test_a_wrapping_key_is_good_for_a_day_and_then_gone(uri: str, tmp_path: Path) -> None:
    times = [datetime(2026, 1, 1, 12, 0, 0, 5, UTC)]
    backend, private = SoftwareBackend(uri, lambda: times[-1]), private_key("secp256r1")
    offer = backend.begin_import("brought", P256)
    assert offer.expire_time == datetime(2026, 1, 2, 12, 0, 0, 0, UTC)
    times.append(offer.expire_time - timedelta(microseconds=1))
    bring(backend, offer, pkcs8(private), spki(private))
    times.append(offer.expire_time)
    with pytest.raises(ImportExpiredError, match="time is up"):
        bring(backend, offer, pkcs8(private), spki(private))
    assert not list((tmp_path / "keys").glob("*.wrapping.json"))
    times.append(times[0])
    with pytest.raises(ImportExpiredError):
        bring(backend, offer, pkcs8(private), spki(private))


def test_wrapping_keys_whose_time_is_up_do_not_pile_up(uri: str, tmp_path: Path) -> None:
    times = [datetime(2026, 1, 1, tzinfo=UTC)]
    backend = SoftwareBackend(uri, lambda: times[-1])
    key = backend.generate("stays", P256)
    backend.begin_import("first", P256)
    times.append(times[0] + timedelta(hours=23))
    second = backend.begin_import("second", P256)
    times.append(times[0] + timedelta(hours=25))
    third = backend.begin_import("third", P256)
    left = {path.name.split(".")[0].encode() for path in (tmp_path / "keys").glob("*.wrapping.json")}
    assert left == {second.state, third.state}
    assert backend.public_key(key.handle) == key


def test_a_wrapping_key_is_sealed_and_for_the_owner_alone(uri: str, tmp_path: Path) -> None:
    backend = SoftwareBackend(uri)
    offer = backend.begin_import("brought", P256)
    path = tmp_path / "keys" / f"{offer.state.decode()}.wrapping.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    public = {"format", "label", "algorithm", "publicKey", "expireTime"}
    assert set(json.loads(path.read_bytes())) == public | {"nonce", "sealed"}
    with pytest.raises(KeyHandleError):
        backend.public_key(offer.state.decode())
    backend.end_import(offer.state)
    assert not path.exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [("expireTime", "2999-01-01T00:00:00+00:00"), ("algorithm", "PKIX_ED25519"), ("label", "other"), ("sealed", 5)],
)
def test_a_changed_wrapping_key_file_is_refused(uri: str, tmp_path: Path, field: str, value: object) -> None:
    backend, private = SoftwareBackend(uri), private_key("secp256r1")
    offer = backend.begin_import("brought", P256)
    path = tmp_path / "keys" / f"{offer.state.decode()}.wrapping.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), field: value}))
    with pytest.raises(ProviderConfigurationError, match="changed"):
        bring(backend, offer, pkcs8(private), spki(private))


def test_an_import_takes_a_key_for_its_own_algorithm_alone(uri: str) -> None:
    backend, private = SoftwareBackend(uri), private_key("secp256r1")
    offer = backend.begin_import("brought", ALGORITHMS["PKIX_ED25519"])
    with pytest.raises(WrappedKeyError, match="PKIX_ED25519"):
        bring(backend, offer, pkcs8(private), spki(private))


def test_a_private_key_is_not_taken_for_that_of_another_public_key(uri: str, tmp_path: Path) -> None:
    backend = SoftwareBackend(uri)
    offer = backend.begin_import("brought", P256)
    before = sorted((tmp_path / "keys").iterdir())
    with pytest.raises(WrappedKeyError, match="does not belong"):
        bring(backend, offer, pkcs8(new_private_key("secp256r1")), spki(new_private_key("secp256r1")))
    assert sorted((tmp_path / "keys").iterdir()) == before


def test_a_key_whose_public_half_is_anothers_is_refused(uri: str) -> None:
    backend = SoftwareBackend(uri)
    own, other = new_private_key("secp256r1"), new_private_key("secp256r1")
    assert isinstance(own, ec.EllipticCurvePrivateKey)
    assert isinstance(other, ec.EllipticCurvePrivateKey)
    point, theirs = (
        key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
        for key in (own, other)
    )
    assert pkcs8(own).count(point) == 1
    with pytest.raises(WrappedKeyError, match=r"not its own|damaged"):
        bring(backend, backend.begin_import("brought", P256), pkcs8(own).replace(point, theirs), spki(other))


@pytest.mark.parametrize(
    ("bits", "exponent", "reason"),
    [(2048, 3, "public exponent"), (1024, 65537, "not one for"), (2056, 65537, "not one for")],
)
def test_a_weak_rsa_key_is_refused_with_the_reason(uri: str, bits: int, exponent: int, reason: str) -> None:
    backend = SoftwareBackend(uri)
    offer, key = backend.begin_import("brought", RSA), rsa.generate_private_key(exponent, bits)
    wrapped = wrap(KWP, offer.public_key, pkcs8(key))
    with pytest.raises(WrappedKeyError, match=reason):
        backend.finish_import(offer.state, "brought", RSA, KWP, wrapped, spki(key))


@pytest.mark.parametrize("number", ["d", "p", "q", "dmp1", "dmq1", "iqmp"])
def test_an_rsa_key_whose_numbers_do_not_belong_together_is_refused(uri: str, number: str) -> None:
    backend, key = SoftwareBackend(uri), private_key(2048)
    assert isinstance(key, rsa.RSAPrivateKey)
    value: int = getattr(key.private_numbers(), number)
    old, new = (one.to_bytes((value.bit_length() + 7) // 8) for one in (value, value ^ 2))
    assert pkcs8(key).count(old) == 1
    offer = backend.begin_import("brought", RSA)
    wrapped = wrap(KWP, offer.public_key, pkcs8(key).replace(old, new))
    with pytest.raises(WrappedKeyError, match="damaged"):
        backend.finish_import(offer.state, "brought", RSA, KWP, wrapped, spki(key))


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if "4096" not in name])
def test_keys_of_every_algorithm_are_taken(uri: str, name: str) -> None:
    algorithm = ALGORITHMS[name]
    backend, private = SoftwareBackend(uri), private_key(algorithm.parameter)
    offer = backend.begin_import("brought", algorithm)
    payload = b"\x07" * (algorithm.digest_length or 5)
    for method in offer.methods:
        wrapped = wrap(method, offer.public_key, pkcs8(private))
        key = backend.finish_import(offer.state, "brought", algorithm, method, wrapped, spki(private))
        [signature] = SoftwareBackend(uri).sign(key.handle, algorithm, [payload])
        assert signature_verifies(algorithm, load_public_key(algorithm, spki(private)), payload, signature)
