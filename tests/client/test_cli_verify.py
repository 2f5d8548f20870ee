"""``sealkeeper verify`` with bundles of other Sigstore instances."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sealkeeper.client.cli import run
from tests.verify.instance import ARTIFACT, IDENTITY, ISSUER, Instance, Shape, der

INSTANCE = Instance()
ROOT = ["--trust", "root.json"]
BY_IDENTITY = ["--identity", IDENTITY, "--issuer", ISSUER]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An artifact ``a``, a trust root without keys, and a public key."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("a").write_bytes(ARTIFACT)
    Path("root.json").write_bytes(INSTANCE.trusted_root())
    public = INSTANCE.signer.public_key()
    Path("key.pem").write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    Path("key.der").write_bytes(der(INSTANCE.signer))
    Path("other.der").write_bytes(der(ec.derive_private_key(3, ec.SECP256R1())))
    return tmp_path


def write(shape: Shape) -> None:
    Path("a.sigstore.json").write_text(json.dumps(INSTANCE.bundle(shape)))


def verified(capfd: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code = run(["verify", "a", *arguments, "--json"])
    document = json.loads(capfd.readouterr().out)
    assert code == (0 if document["verified"] else 1)
    return document


def test_a_bundle_of_another_instance_verifies_with_its_trusted_root(capfd: pytest.CaptureFixture[str]) -> None:
    write(Shape(version="0.2"))
    document = verified(capfd, *ROOT, *BY_IDENTITY)
    assert document["verified"]
    assert (document["bundleVersion"], document["material"]) == ("0.2", "certificate")
    assert document["claims"]["source_repository_uri"] == "https://github.com/acme/app"
    assert document["keyDetails"] == "PKIX_ECDSA_P256_SHA_256"
    assert document["publicKeySha256"] == sha256(der(INSTANCE.signer)).hexdigest()
    other = verified(capfd, *ROOT, "--identity", IDENTITY, "--issuer", "https://other.example")
    assert other["steps"][-1]["name"] == "identity"


@pytest.mark.parametrize("file", ["key.pem", "key.der"])
def test_a_managed_key_of_another_instance_is_pinned_by_its_file(capfd: pytest.CaptureFixture[str], file: str) -> None:
    write(Shape(certificate=False))
    assert verified(capfd, *ROOT, "--public-key", file)["material"] == "key"
    assert verified(capfd, *ROOT, "--public-key", "other.der")["steps"][-1]["name"] == "signature"
    assert run(["verify", "a", *ROOT, "--public-key", file]) == 0
    assert "the public key given" in capfd.readouterr().out


def test_a_public_key_is_pinned_alone_and_is_one(capfd: pytest.CaptureFixture[str]) -> None:
    write(Shape(certificate=False))
    assert run(["verify", "a", *ROOT, "--public-key", "key.pem", *BY_IDENTITY, "--json"]) == 2
    assert run(["verify", "a", *ROOT, "--public-key", "a", "--json"]) == 2
    capfd.readouterr()


def test_the_public_good_instance_is_trusted_by_name(capfd: pytest.CaptureFixture[str]) -> None:
    write(Shape())
    document = verified(capfd, "--trust", "public-good", *BY_IDENTITY)
    # It is not the one that signed.
    assert document["steps"][-1]["name"] == "timestamp"
    assert run(["trust", "show", "public-good"]) == 0
    assert "rekor.sigstore.dev" in capfd.readouterr().out


def test_a_folder_of_that_name_is_named_by_its_path(capfd: pytest.CaptureFixture[str]) -> None:
    write(Shape())
    Path("public-good").mkdir()
    Path("root.json").rename("public-good/trusted_root.json")
    assert not verified(capfd, "--trust", "public-good", *BY_IDENTITY)["verified"]
    assert verified(capfd, "--trust", f"{Path.cwd()}/public-good", *BY_IDENTITY)["verified"]
