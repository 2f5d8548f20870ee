"""Bringing a key of one's own, from the first command to the offline check of a signature and of the ceremony."""

from __future__ import annotations

import base64
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from tests.e2e.command import run, run_here, settings
from tests.e2e.running import P256, Running
from tests.wrapping import new_private_key, private_key, spki

PARAMETERS: dict[str, str | int] = {
    "PKIX_ECDSA_P256_SHA_256": "secp256r1",
    "PKIX_ECDSA_P384_SHA_384": "secp384r1",
    "PKIX_ED25519": "ed25519",
    "PKIX_RSA_PSS_2048_SHA256": 2048,
    "ML_DSA_65": 65,
}


def pem(key: Any) -> bytes:
    data: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return data


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The custodian's folder, with a private key of their own and its public key."""
    monkeypatch.chdir(tmp_path)
    bring(new_private_key("secp256r1"))
    return tmp_path


def bring(key: Any) -> None:
    Path("public.pem").write_bytes(pem(key))
    Path("private.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


@pytest.fixture
def custodian(gateway: Running, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who calls where nothing else is said."""
    monkeypatch.setenv("SEALKEEPER_CONFIG", str(settings(gateway, "custodian", folder)))


def begin(key_id: str, *options: str) -> int:
    return run_here("keys", "import", "begin", key_id, "-o", "import.json", *options)


def wrap(*options: str) -> int:
    return run_here("keys", "import", "wrap", "import.json", "private.pem", "-o", "wrapped.json", *options)


def finish(*options: str, public_key: str = "public.pem") -> int:
    return run_here("keys", "import", "finish", "wrapped.json", "--public-key", public_key, *options)


def stored(gateway: Running) -> set[str]:
    """What lies in the store."""
    return {path.name for path in (gateway.directory / "keys").iterdir()}


def said(capfd: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capfd.readouterr().out.splitlines()[-1])


def import_name() -> str:
    name: str = json.loads(Path("import.json").read_bytes())["name"]
    return name


def change(path: str, spoil: Callable[[Any], None]) -> None:
    document = json.loads(Path(path).read_bytes())
    spoil(document)
    Path(path).write_text(json.dumps(document))


@pytest.mark.parametrize("algorithm", PARAMETERS)
@pytest.mark.usefixtures("custodian")
def test_a_key_that_was_brought_signs_what_verifies_offline(
    gateway: Running, folder: Path, new_key_id: str, algorithm: str
) -> None:
    key = private_key(PARAMETERS[algorithm])
    # A public key can be brought once.
    key = key if algorithm.startswith("PKIX_RSA") else new_private_key(PARAMETERS[algorithm])
    bring(key)
    assert (begin(new_key_id, "--algorithm", algorithm), wrap(), finish()) == (0, 0, 0)
    (folder / "a").write_text("precious")
    name = f"tenants/acme/keys/{new_key_id}"
    assert run(gateway, "ci", "sign", "a", "--key", name, cwd=folder).returncode == 0
    assert run_here("trust", "export", "trust") == 0
    assert run_here("verify", "a", "--key", name) == 0
    with gateway.client("verifier") as client:
        assert client.public_key(f"{name}/versions/1").pem.encode() == pem(key)


@pytest.mark.usefixtures("custodian")
def test_the_one_file_wraps_on_a_machine_without_sealkeeper(
    folder: Path, new_key_id: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert begin(new_key_id, "--algorithm", P256, "--offline-tool", "wrap.py") == 0
    apart = folder / "apart"
    apart.mkdir()
    for name in ("wrap.py", "private.pem"):
        (folder / name).rename(apart / name)
    command = [sys.executable, "-I", "wrap.py", "private.pem", "-o", "wrapped.json"]
    done = subprocess.run(command, cwd=apart, env={}, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    (apart / "wrapped.json").rename(folder / "wrapped.json")
    begun = capfd.readouterr().out
    # What is read out on one side is there on the other.
    fingerprint = next(line.strip() for line in begun.splitlines() if len(line.split()) == 16)
    assert fingerprint in done.stdout
    assert finish("--json") == 0
    assert said(capfd)["version"]["origin"] == "IMPORTED"


@pytest.mark.usefixtures("custodian")
def test_the_ceremony_of_an_import_is_printed_kept_and_verified_offline(
    gateway: Running, new_key_id: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert (begin(new_key_id, "--algorithm", P256), wrap(), finish("--json")) == (0, 0, 0)
    index = said(capfd)["ceremonyLogIndex"]
    keys = ["--public-key", "public.pem", "--log-key", str(gateway.directory / "audit.vkey")]
    assert run_here("keys", "ceremony", f"{new_key_id}/1", "-o", "record.json", *keys) == 0
    page = capfd.readouterr().out
    digits = sha256(base64.b64decode(json.loads(Path("wrapped.json").read_bytes())["wrappedKey"]))
    assert " ".join(digits.hexdigest()[at : at + 4] for at in range(0, 32, 4)) in page
    assert import_name() in page
    assert "spiffe://sealkeeper.example/tenants/acme/roles/custodian/custodian" in page
    assert max(map(len, page.splitlines())) <= 100
    assert run_here("keys", "ceremony", "--verify", "record.json", *keys) == 0
    assert capfd.readouterr().out == page
    assert run_here("keys", "ceremony", "--verify", "record.json", *keys, "--json") == 0
    document = said(capfd)
    assert (document["event"], document["logIndex"], document["logVerified"]) == ("IMPORTED", index, True)
    change("record.json", lambda one: one.update(logIndex=index + 1))
    assert run_here("keys", "ceremony", "--verify", "record.json", *keys) == 1


@pytest.mark.usefixtures("custodian")
def test_keys_that_are_made_and_rotated_have_ceremonies_too(
    gateway: Running, new_key_id: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_here("keys", "create", new_key_id) == 0
    assert run_here("keys", "rotate", new_key_id, "--publish-period", "0s") == 0
    capfd.readouterr()
    for number, event in ((1, "CREATED"), (2, "ROTATED")):
        log_key = str(gateway.directory / "audit.vkey")
        assert run_here("keys", "ceremony", f"{new_key_id}/{number}", "--log-key", log_key, "--json") == 0
        document = said(capfd)
        assert (document["event"], document["logVerified"], document["import"]) == (event, True, None)


@pytest.mark.usefixtures("custodian")
def test_the_next_version_of_a_key_can_be_brought(new_key_id: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_here("keys", "create", new_key_id) == 0
    # The algorithm is that of the key.
    assert (begin(new_key_id), wrap(), finish("--publish-period", "2h", "--json")) == (0, 0, 0)
    version = said(capfd)["version"]
    assert (version["name"].rpartition("/")[2], version["state"], version["origin"]) == ("2", "PUBLISHED", "IMPORTED")


@pytest.mark.usefixtures("custodian")
def test_evidence_and_providers_are_shown(new_key_id: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_here("keys", "create", new_key_id) == 0
    capfd.readouterr()
    assert run_here("keys", "evidence", f"{new_key_id}/1", "--json") == 0
    document = said(capfd)
    assert (document["protectionLevel"], document["origin"]) == ("SOFTWARE", "GENERATED")
    assert run_here("keys", "evidence", f"{new_key_id}/1", "--attestation-output", "proof") == 1
    capfd.readouterr()
    assert run_here("providers", "list", "--json") == 0
    [provider] = said(capfd)
    assert (provider["scheme"], provider["health"]["circuit"]) == ("software", "CLOSED")
    assert run_here("providers", "show", "main", "--json") == 0
    assert said(capfd)["wrapMethods"] == provider["wrapMethods"]


@pytest.mark.usefixtures("custodian")
def test_an_import_that_was_cancelled_leaves_nothing_and_cannot_be_finished(
    gateway: Running, new_key_id: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = stored(gateway)
    assert (begin(new_key_id, "--algorithm", P256), wrap()) == (0, 0)
    assert stored(gateway) != before
    short = import_name().rpartition("/")[2]
    assert run_here("keys", "import", "cancel", short) == 0
    assert stored(gateway) == before
    capfd.readouterr()
    assert finish("--json") == 1
    assert said(capfd)["reason"] == "IMPORT_CLOSED"
    assert run_here("keys", "import", "show", short, "--json") == 0
    assert said(capfd)["state"] == "CANCELLED"
    assert run_here("keys", "import", "list") == 0
    assert f"{short}\tCANCELLED\t{new_key_id}" in capfd.readouterr().out


def other_key(document: Any) -> None:
    """As if somebody else's public key had been put beside the wrapped private key, and been given as well."""
    other = new_private_key("secp256r1")
    Path("public.pem").write_bytes(pem(other))
    digest = sha256(spki(other)).hexdigest()
    document.update(publicKey=pem(other).decode(), fingerprint=f"sha256:{digest}")


def damage(document: Any) -> None:
    data = bytearray(base64.b64decode(document["wrappedKey"]))
    data[-1] ^= 1
    document["wrappedKey"] = base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (other_key, "PUBLIC_KEY_MISMATCH"),
        (damage, "WRAPPED_KEY_REFUSED"),
        (lambda one: one.update(wrapMethod="RSA_OAEP_SHA1_AES_256_KWP"), "INVALID_FIELD"),
        (lambda one: one.update(wrapMethod="RSA_OAEP_SHA256"), "WRAPPED_KEY_REFUSED"),
        (lambda one: one.update(name="tenants/acme/keyImports/none"), "IMPORT_NOT_FOUND"),
        (lambda one: one.update(name=one["name"].replace("acme", "other")), "PERMISSION_DENIED"),
    ],
)
@pytest.mark.usefixtures("custodian")
def test_what_is_not_the_key_that_was_said_is_refused_and_leaves_nothing(
    gateway: Running,
    new_key_id: str,
    capfd: pytest.CaptureFixture[str],
    spoil: Callable[[Any], None],
    reason: str,
) -> None:
    before = stored(gateway)
    assert (begin(new_key_id, "--algorithm", P256), wrap()) == (0, 0)
    change("wrapped.json", spoil)
    capfd.readouterr()
    assert finish("--json") in (1, 2)
    failure = said(capfd)
    assert failure["reason"] == reason
    assert failure["next_step"] or failure["violations"]
    assert run_here("keys", "show", new_key_id) == 2
    assert run_here("keys", "import", "cancel", import_name()) == 0
    assert stored(gateway) == before


@pytest.mark.usefixtures("custodian")
def test_a_public_key_that_was_brought_before_is_refused(new_key_id: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert (begin(new_key_id, "--algorithm", P256), wrap(), finish()) == (0, 0, 0)
    assert (begin(f"{new_key_id}-again", "--algorithm", P256), wrap()) == (0, 0)
    capfd.readouterr()
    assert finish("--json") == 1
    assert said(capfd)["reason"] == "PUBLIC_KEY_EXISTS"


def test_who_signs_brings_no_keys(gateway: Running, folder: Path, new_key_id: str) -> None:
    done = run(gateway, "ci", "keys", "import", "begin", new_key_id, "-o", "import.json", "--json", cwd=folder)
    assert (done.returncode, json.loads(done.stdout)["reason"]) == (1, "PERMISSION_DENIED")
    assert not (folder / "import.json").exists()


def test_an_import_whose_time_is_up_is_refused(
    own_gateway: Running, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(*steps: Callable[[], int]) -> list[int]:
        with own_gateway.running():
            monkeypatch.setenv("SEALKEEPER_CONFIG", str(settings(own_gateway, "custodian", folder)))
            return [step() for step in steps]

    assert call(lambda: begin("own", "--algorithm", P256), wrap) == [0, 0]
    with closing(sqlite3.connect(own_gateway.directory / "state" / "metadata.db")) as database:
        database.execute("UPDATE key_imports SET expire_time = create_time + 1")
        database.commit()
    capfd.readouterr()
    [code] = call(lambda: finish("--json"))
    failure = said(capfd)
    # Which of the two it is depends on whether the gateway has looked through its imports yet.
    assert (code, failure["reason"] in ("IMPORT_EXPIRED", "IMPORT_CLOSED")) == (1, True)
    assert "EXPIRED" in f"{failure['reason']} {failure['error']}"


def test_a_standby_version_in_a_second_store_has_its_ceremony(
    own_gateway: Running, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    second = folder / "second"
    uri = f"software://{second}?sealing-key-source=file:{own_gateway.directory}/secrets/sealing-key"
    section = f'[providers.second]\nuri = "{uri}"\nregion = "eu-west"\n\n[keys]'
    own_gateway.change_settings(lambda text: text.replace("[keys]", section))
    with own_gateway.running():
        monkeypatch.setenv("SEALKEEPER_CONFIG", str(settings(own_gateway, "custodian", folder)))
        assert run_here("keys", "create", "own") == 0
        assert run_here("keys", "standby", "own", "--provider", "main") == 1
        assert run_here("keys", "standby", "own", "--provider", "second", "--publish-period", "0s") == 0
        capfd.readouterr()
        assert run_here("keys", "show", "own") == 0
        shown = capfd.readouterr().out
        assert "own/2 stands by, failover AUTOMATIC" in shown
        assert "second (SOFTWARE, eu-west)" in shown
        assert run_here("keys", "ceremony", "own/2", "--json") == 0
        document = said(capfd)
    assert (document["event"], document["standby"], document["provider"]["region"]) == (
        "STANDBY_ADDED",
        True,
        "eu-west",
    )
