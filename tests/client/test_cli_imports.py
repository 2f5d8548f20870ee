"""``sealkeeper keys import`` against a gateway that answers as it is told; wrapping needs none."""

from __future__ import annotations

import base64
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from sealkeeper.client.cli import run
from sealkeeper.client.operations import crc32c
from sealkeeper.v1 import key_import_pb2, key_pb2, resources_pb2
from tests.client.answering import Gateway
from tests.wrapping import pkcs8, private_key, spki

COMMAND = [sys.executable, "-m", "sealkeeper.client.cli"]
KEY = "tenants/acme/keys/own"
VERSION = f"{KEY}/versions/1"
IMPORT = "tenants/acme/keyImports/i-1"
OURS = private_key("secp256r1")
OTHER = private_key("secp384r1")
STORE = private_key(2048)
P256 = resources_pb2.PUBLIC_KEY_DETAILS_PKIX_ECDSA_P256_SHA_256
KWP = resources_pb2.WRAP_METHOD_RSA_OAEP_SHA256_AES_256_KWP
SHORT = resources_pb2.WRAP_METHOD_RSA_OAEP_SHA256
Change = Callable[[Any], None]


def pem(key: Any) -> bytes:
    data: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return data


def private_pem(key: Any, passphrase: bytes | None = None) -> bytes:
    how: Any = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    data: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)
    return data


def key_import(**other: Any) -> key_import_pb2.KeyImport:
    now = datetime.now(UTC)
    members: dict[str, Any] = {
        "name": IMPORT,
        "state": key_import_pb2.KEY_IMPORT_STATE_OPEN,
        "key": KEY,
        "algorithm": P256,
        "provider": "vault",
        "region": "eu-central",
        "wrapping_key": spki(STORE),
        "wrapping_key_crc32c": crc32c(spki(STORE)),
        "wrap_methods": [KWP, SHORT],
        "create_time": now,
        "expire_time": now + timedelta(hours=1),
    }
    return key_import_pb2.KeyImport(**{**members, **other})


def finished() -> key_import_pb2.FinishKeyImportResponse:
    version = resources_pb2.KeyVersion(
        name=VERSION,
        state=resources_pb2.KEY_VERSION_STATE_ACTIVE,
        provider="vault",
        region="eu-central",
        origin=resources_pb2.KEY_ORIGIN_IMPORTED,
        public_key=spki(OURS),
        public_key_crc32c=crc32c(spki(OURS)),
    )
    return key_import_pb2.FinishKeyImportResponse(key=resources_pb2.Key(name=KEY), version=version)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own with the custodian's keys, in which nothing is set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("SEALKEEPER_")]:
        monkeypatch.delenv(name)
    (tmp_path / "private.pem").write_bytes(private_pem(OURS))
    (tmp_path / "public.pem").write_bytes(pem(OURS))
    (tmp_path / "other.pem").write_bytes(pem(OTHER))
    return tmp_path


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    ceremony = key_pb2.GetKeyCeremonyResponse(record=b"{}", log_index=17)
    one = Gateway(
        {
            "BeginKeyImport": key_import_pb2.BeginKeyImportResponse(key_import=key_import()),
            "FinishKeyImport": finished(),
            "GetKeyImport": key_import_pb2.GetKeyImportResponse(key_import=key_import(key_version=VERSION)),
            "ListKeyImports": key_import_pb2.ListKeyImportsResponse(key_imports=[key_import()]),
            "CancelKeyImport": key_import_pb2.CancelKeyImportResponse(
                key_import=key_import(state=key_import_pb2.KEY_IMPORT_STATE_CANCELLED)
            ),
            "GetKeyCeremony": ceremony,
        }
    )
    with one.serving():
        yield one


def imports(gateway: Gateway, *arguments: str) -> int:
    return run(["--insecure", "--endpoint", gateway.address, "--tenant", "acme", "keys", "import", *arguments])


def unwrapped(document: bytes) -> bytes:
    """What the store finds in a wrapped key document."""
    found = json.loads(document)
    data = base64.b64decode(found["wrappedKey"])
    assert isinstance(STORE, rsa.RSAPrivateKey)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    if found["wrapMethod"] == "RSA_OAEP_SHA256":
        return STORE.decrypt(data, oaep)
    return keywrap.aes_key_unwrap_with_padding(STORE.decrypt(data[:256], oaep), data[256:])


@pytest.fixture
def begun(gateway: Gateway, capfd: pytest.CaptureFixture[str]) -> Path:
    """The import document, as begin writes it."""
    assert imports(gateway, "begin", "own", "-o", "import.json", "--offline-tool", "wrap.py") == 0
    capfd.readouterr()
    return Path("import.json")


@pytest.fixture
def wrapped(begun: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    assert run(["keys", "import", "wrap", str(begun), "private.pem", "-o", "wrapped.json"]) == 0
    capfd.readouterr()
    return Path("wrapped.json")


def test_beginning_asks_for_what_was_said_and_tells_what_comes_next(
    gateway: Gateway, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["begin", "own", "--algorithm", "PKIX_ECDSA_P256_SHA_256", "--provider", "vault", "--label", "a=b"]
    assert imports(gateway, *arguments, "-o", "import.json") == 0
    [asked] = gateway.requests(key_import_pb2.BeginKeyImportRequest)
    assert (asked.parent, asked.key_id, asked.algorithm, asked.provider) == ("tenants/acme", "own", P256, "vault")
    assert (dict(asked.labels), asked.standby, bool(asked.request_id)) == ({"a": "b"}, False, True)
    out = capfd.readouterr().out
    for said in (IMPORT, "comes without an attestation", "keys import wrap import.json", "keys import finish"):
        assert said in out


def test_a_gateway_cannot_move_the_cursor_of_whoever_reads_its_fingerprints(
    gateway: Gateway, wrapped: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    escape = "\x1b[2A\x1b]0;title\x07"
    spoiled = key_import(provider=escape, region=escape, key_version=VERSION + escape)
    nameless = key_import(provider=escape, name=IMPORT + escape)
    gateway.answers["BeginKeyImport"] = key_import_pb2.BeginKeyImportResponse(key_import=spoiled)
    gateway.answers["GetKeyImport"] = key_import_pb2.GetKeyImportResponse(key_import=spoiled)
    gateway.answers["CancelKeyImport"] = key_import_pb2.CancelKeyImportResponse(key_import=nameless)
    made = gateway.answers["FinishKeyImport"].version
    made.name, made.provider, made.region = VERSION + escape, escape, escape
    for arguments in (
        ["begin", "own", "-o", "again.json"],
        ["show", "i-1"],
        ["cancel", "i-1"],
        ["finish", str(wrapped), "--public-key", "public.pem"],
    ):
        assert imports(gateway, *arguments) == 0
        out = capfd.readouterr().out
        assert "\\x1b[2A" in out
        assert "\x1b" not in out
        assert "\x07" not in out


def test_the_import_document_holds_the_attestation(gateway: Gateway, capfd: pytest.CaptureFixture[str]) -> None:
    attestation = resources_pb2.Attestation(format="VENDOR_V1", content=b"so", certificates=[b"der"])
    gateway.answers["BeginKeyImport"] = key_import_pb2.BeginKeyImportResponse(
        key_import=key_import(attestation=attestation)
    )
    assert imports(gateway, "begin", "own", "-o", "-") == 0
    document = json.loads(capfd.readouterr().out)
    assert document["attestation"] == {"format": "VENDOR_V1", "content": "c28=", "certificates": ["ZGVy"]}


@pytest.mark.parametrize(
    "arguments",
    [
        ["begin", "own", "-o", "nowhere/import.json"],
        ["begin", "own", "-o", "import.json", "--offline-tool", "nowhere/wrap.py"],
        ["begin", "own", "-o", "import.json", "--label", "a"],
        ["begin", "own"],
        ["begin", "own", "-o", "import.json", "--standby"],
        ["begin", "own", "-o", "import.json", "--algorithm", "DSA"],
    ],
)
def test_nothing_is_begun_where_it_cannot_be_written_or_makes_no_sense(gateway: Gateway, arguments: list[str]) -> None:
    assert imports(gateway, *arguments) == 2
    assert gateway.asked == []
    assert not Path("import.json").exists()


def test_an_import_that_nobody_could_wrap_for_is_told_with_the_way_to_give_it_up(
    gateway: Gateway, capfd: pytest.CaptureFixture[str]
) -> None:
    weak = spki(OTHER)
    spoiled = key_import(wrapping_key=weak, wrapping_key_crc32c=crc32c(weak))
    gateway.answers["BeginKeyImport"] = key_import_pb2.BeginKeyImportResponse(key_import=spoiled)
    assert imports(gateway, "begin", "own", "-o", "import.json") == 2
    err = capfd.readouterr().err
    assert "wrappingKey must be an RSA key" in err
    assert "keys import cancel i-1" in err
    assert not Path("import.json").exists()


def test_the_command_line_wraps_what_the_store_can_unwrap(begun: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["keys", "import", "wrap", str(begun), "private.pem", "-o", "wrapped.json"]) == 0
    assert unwrapped(Path("wrapped.json").read_bytes()) == pkcs8(OURS)
    out = capfd.readouterr().out
    for key in (STORE, OURS):
        digest = hashes.Hash(hashes.SHA256())
        digest.update(spki(key))
        digits = digest.finalize().hex()
        assert " ".join(digits[at : at + 4] for at in range(0, 64, 4)) in out
    assert "destroy wrapped.json" in out
    assert "keys import finish wrapped.json --public-key" in out


def test_the_one_file_wraps_in_a_bare_process(begun: Path, folder: Path) -> None:
    command = [sys.executable, "-I", "wrap.py", "private.pem", "-o", "wrapped.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env={})
    assert (done.returncode, done.stderr) == (0, "")
    assert unwrapped((folder / "wrapped.json").read_bytes()) == pkcs8(OURS)


def test_wrapping_needs_no_gateway_and_imports_nothing_that_could_reach_one(begun: Path) -> None:
    code = (
        "import sys; from sealkeeper.client.cli import run; code = run(sys.argv[1:]); "
        "late = {'grpc', 'google.protobuf', 'asyncio', 'http.client', 'sealkeeper.client.connection'}; "
        "print(code, sorted(late & set(sys.modules)), file=sys.stderr)"
    )
    arguments = ["keys", "import", "wrap", str(begun), "private.pem", "-o", "wrapped.json"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.stderr == "0 []\n"


def test_the_method_can_be_chosen(begun: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["keys", "import", "wrap", str(begun), "private.pem", "-o", "wrapped.json", "--json"]
    assert run([*arguments, "--method", "RSA_OAEP_SHA256"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert (document["name"], document["wrapMethod"]) == (IMPORT, "RSA_OAEP_SHA256")
    assert unwrapped(Path("wrapped.json").read_bytes()) == pkcs8(OURS)


@pytest.mark.parametrize(
    ("spoil", "arguments", "said"),
    [
        (lambda one: one.update(expireTime="2026-01-01T00:00:00Z"), [], "time was up"),
        (lambda one: one, ["--method", "RSA_OAEP_SHA1_AES_256_KWP"], "accepts RSA_OAEP_SHA256_AES_256_KWP and"),
        (lambda one: one, ["--method", "NONE"], "accepts"),
        (lambda one: one.update(algorithm="PKIX_ECDSA_P384_SHA_384"), [], "needs an elliptic curve key on P-384"),
        (lambda one: one.update(format="x"), [], "sealkeeper-key-import/1"),
        (lambda one: one.update(more=1), [], "these fields"),
    ],
)
def test_what_cannot_be_wrapped_is_told_and_leaves_nothing(
    begun: Path, capfd: pytest.CaptureFixture[str], spoil: Change, arguments: list[str], said: str
) -> None:
    document = json.loads(begun.read_bytes())
    spoil(document)
    begun.write_text(json.dumps(document))
    assert run(["keys", "import", "wrap", str(begun), "private.pem", "-o", "wrapped.json", *arguments, "--json"]) == 2
    failure = json.loads(capfd.readouterr().out)
    assert (failure["reason"], said in failure["error"]) == ("KEY_NOT_WRAPPED", True)
    assert not Path("wrapped.json").exists()


def test_the_private_key_is_never_written_over(begun: Path) -> None:
    assert run(["keys", "import", "wrap", str(begun), "private.pem", "-o", "private.pem"]) == 2
    assert Path("private.pem").read_bytes() == private_pem(OURS)


@pytest.fixture
def encrypted(begun: Path) -> list[str]:
    Path("private.pem").write_bytes(private_pem(OURS, b"open sesame"))
    return ["keys", "import", "wrap", str(begun), "private.pem", "-o", "wrapped.json"]


def test_a_passphrase_comes_from_a_file_of_ones_own(encrypted: list[str]) -> None:
    path = Path("passphrase")
    path.write_text("open sesame\n")
    path.chmod(0o600)
    assert run([*encrypted, "--passphrase-file", "passphrase"]) == 0
    assert unwrapped(Path("wrapped.json").read_bytes()) == pkcs8(OURS)


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        ("open sesame\n", 0o604, "chmod 600"),
        ("wrong\n", 0o600, "passphrase is wrong"),
        ("", 0o600, "one line"),
        ("open\nsesame\n", 0o600, "one line"),
        ("x" * 4097, 0o600, "longer than"),
    ],
)
def test_a_passphrase_file_that_is_not_right_is_told(
    encrypted: list[str], capfd: pytest.CaptureFixture[str], content: str, mode: int, said: str
) -> None:
    path = Path("passphrase")
    path.write_text(content)
    path.chmod(mode)
    assert run([*encrypted, "--passphrase-file", "passphrase"]) == 2
    err = capfd.readouterr().err
    assert said in " ".join(err.replace("│", " ").split())
    assert "sesame" not in err
    assert not Path("wrapped.json").exists()


def test_a_passphrase_is_asked_for_on_a_terminal_and_not_shown(encrypted: list[str]) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *encrypted], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    seen = b""
    try:
        while data := os.read(ours, 65536):
            seen += data
            if seen.endswith(b": "):
                os.write(ours, b"open sesame\n")
    except OSError:
        # So a terminal ends whose other side is closed.
        pass
    os.close(ours)
    assert process.wait(60) == 0, seen
    assert b"Passphrase" in seen
    assert b"sesame" not in seen
    assert unwrapped(Path("wrapped.json").read_bytes()) == pkcs8(OURS)


def test_without_a_terminal_nobody_is_asked(encrypted: list[str]) -> None:
    done = subprocess.run([*COMMAND, *encrypted], input="open sesame\n", capture_output=True, text=True, check=False)
    assert (done.returncode, "--passphrase-file" in done.stderr) == (2, True)


def test_finishing_sends_the_wrapped_key_with_the_public_key_that_was_given(
    gateway: Gateway, wrapped: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert imports(gateway, "finish", str(wrapped), "--public-key", "public.pem", "--publish-period", "2h") == 0
    [asked] = gateway.requests(key_import_pb2.FinishKeyImportRequest)
    document = json.loads(wrapped.read_bytes())
    assert (asked.name, asked.wrap_method, asked.public_key) == (IMPORT, KWP, spki(OURS))
    assert asked.wrapped_key == base64.b64decode(document["wrappedKey"])
    assert asked.wrapped_key_crc32c == crc32c(asked.wrapped_key)
    assert asked.publish_period.seconds == 7200
    out = capfd.readouterr().out
    assert "entry 17 of logs/audit: sealkeeper keys ceremony own/1" in out
    assert "eu-central" in out


def test_a_key_is_there_even_where_its_ceremony_cannot_be_found_just_now(
    gateway: Gateway, wrapped: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    gateway.answers["GetKeyCeremony"] = key_pb2.GetKeyCeremonyResponse()
    assert imports(gateway, "finish", str(wrapped), "--public-key", "public.pem", "--json") == 0
    document = json.loads(capfd.readouterr().out)
    assert (document["ceremonyLogIndex"], document["version"]["origin"]) == (None, "IMPORTED")


def test_another_public_key_than_the_wrapped_ones_is_refused_before_anything_is_sent(
    gateway: Gateway, wrapped: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    gateway.asked.clear()
    assert imports(gateway, "finish", str(wrapped), "--public-key", "other.pem", "--json") == 1
    assert gateway.asked == []
    failure = json.loads(capfd.readouterr().out)
    assert failure["reason"] == "PUBLIC_KEY_MISMATCH"
    assert failure["violations"][0]["field"] == "--public-key"


def test_a_key_that_was_wrapped_for_another_key_is_not_sent(
    gateway: Gateway, wrapped: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = key_import(key="tenants/acme/keys/other")
    gateway.answers["GetKeyImport"] = key_import_pb2.GetKeyImportResponse(key_import=other)
    assert imports(gateway, "finish", str(wrapped), "--public-key", "public.pem", "--json") == 1
    assert json.loads(capfd.readouterr().out)["reason"] == "IMPORT_OF_ANOTHER_KEY"
    assert gateway.requests(key_import_pb2.FinishKeyImportRequest) == []


@pytest.mark.parametrize("file", ["private.pem", "import.json", "nofile"])
def test_what_is_no_public_key_is_refused_before_anything_is_sent(gateway: Gateway, wrapped: Path, file: str) -> None:
    gateway.asked.clear()
    assert imports(gateway, "finish", str(wrapped), "--public-key", file) == 2
    assert imports(gateway, "finish", str(wrapped)) == 2
    assert gateway.asked == []


@pytest.mark.parametrize(
    "spoil",
    [
        *(lambda one, name=name: one.pop(name) for name in ("format", "name", "wrapMethod", "wrappedKey", "publicKey")),
        lambda one: one.update(format="sealkeeper-wrapped-key/2"),
        lambda one: one.update(wrappedKey="%"),
        lambda one: one.update(publicKey="none"),
        lambda one: one.update(fingerprint="sha256:" + "00" * 32),
        lambda one: one.update(publicKey=pem(OTHER).decode()),
        lambda one: one.update(wrapMethod="NONE"),
        lambda one: one.update(wrappedKey=base64.b64encode(b"x" * 16_385).decode()),
        lambda one: one.update(wrappedKey=""),
    ],
)
def test_a_wrapped_key_that_is_none_is_refused_before_it_is_sent(
    gateway: Gateway, wrapped: Path, spoil: Change
) -> None:
    gateway.asked.clear()
    document = json.loads(wrapped.read_bytes())
    spoil(document)
    wrapped.write_text(json.dumps(document))
    assert imports(gateway, "finish", str(wrapped), "--public-key", "public.pem") == 2
    assert gateway.requests(key_import_pb2.FinishKeyImportRequest) == []


@pytest.mark.parametrize("name", ["i-1", IMPORT])
def test_imports_are_shown_listed_and_cancelled_by_their_last_part(
    gateway: Gateway, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    assert [imports(gateway, "show", name), imports(gateway, "cancel", name), imports(gateway, "list")] == [0, 0, 0]
    assert [one.name for one in gateway.requests(key_import_pb2.GetKeyImportRequest)] == [IMPORT]
    assert [one.name for one in gateway.requests(key_import_pb2.CancelKeyImportRequest)] == [IMPORT]
    out = capfd.readouterr().out
    assert f"made {VERSION}" in out
    assert f"{IMPORT} is CANCELLED" in out
    assert "i-1\tOPEN\town\tPKIX_ECDSA_P256_SHA_256\tvault" in out


def test_imports_are_json_documents_as_well(gateway: Gateway, capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in (["show", "i-1"], ["cancel", "i-1"], ["list"], ["begin", "own", "-o", "import.json"]):
        assert imports(gateway, *arguments, "--json") == 0
        found = json.loads(capfd.readouterr().out)
        one = found[0] if isinstance(found, list) else found
        assert (one["name"], one["provider"], one["region"]) == (IMPORT, "vault", "eu-central")
