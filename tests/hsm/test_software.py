"""Sealed key files: what they keep, and what is noticed when somebody changes them."""

from __future__ import annotations

import json
import stat
from hashlib import sha256
from pathlib import Path

import pytest

from sealkeeper.hsm.algorithms import ALGORITHMS, load_public_key, signature_verifies
from sealkeeper.hsm.errors import (
    AlgorithmNotSupportedError,
    KeyHandleError,
    ProviderConfigurationError,
    ProviderUnavailableError,
)
from sealkeeper.hsm.software import SoftwareBackend

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
    assert set(json.loads(path.read_bytes())) == {"format", "label", "algorithm", "publicKey", "nonce", "sealed"}


@pytest.mark.parametrize("field", ["label", "algorithm", "publicKey", "nonce", "sealed", "format"])
def test_a_changed_key_file_is_refused(uri: str, tmp_path: Path, field: str) -> None:
    backend = SoftwareBackend(uri)
    key, other = backend.generate("one", P256), backend.generate("two", ALGORITHMS["PKIX_ED25519"])
    path = tmp_path / "keys" / f"{key.handle}.json"
    document = json.loads(path.read_bytes())
    theirs = json.loads((tmp_path / "keys" / f"{other.handle}.json").read_bytes())
    document[field] = "else" if field == "format" else theirs[field]
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
