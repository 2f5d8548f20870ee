"""Private keys are wrapped for a store alone: what is taken, what is refused, and the one file that does it offline."""

from __future__ import annotations

import ast
import base64
import json
import os
import pty
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, padding, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.client import key_wrapping
from sealkeeper.client.key_wrapping import (
    KeyWrappingError,
    PassphraseNeededError,
    check_private_key,
    fingerprint,
    load_private_key,
    parse_import_document,
    spoken,
    standalone,
    wrap,
)
from sealkeeper.hsm import ALGORITHMS, WrapMethod
from sealkeeper.hsm.algorithms import load_public_key, signature_verifies
from sealkeeper.hsm.software import SoftwareBackend
from tests.stores.software import software
from tests.wrapping import new_private_key, pkcs8, private_key, spki

P256 = "PKIX_ECDSA_P256_SHA_256"
KWP, KWP_SHA1, OAEP = "RSA_OAEP_SHA256_AES_256_KWP", "RSA_OAEP_SHA1_AES_256_KWP", "RSA_OAEP_SHA256"
NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
DEBIANS_PYTHON = Path("/usr/bin/python3")


@cache
def wrapping_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def pem(key: Any) -> str:
    encoded: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded.decode()


def fields(**changed: object) -> dict[str, object]:
    return {
        "format": "sealkeeper-key-import/1",
        "name": "tenants/acme/keyImports/i-7f3a",
        "key": "tenants/acme/keys/release",
        "algorithm": P256,
        "wrappingKey": pem(wrapping_key()),
        "wrapMethods": [KWP],
        "expireTime": "2026-11-26T00:00:00Z",
        "attestation": None,
    } | changed


def document(**changed: object) -> bytes:
    return json.dumps(fields(**changed)).encode()


def unwrapped(method: str, wrapped: bytes, key: rsa.RSAPrivateKey | None = None) -> bytes:
    key = key or wrapping_key()
    digest = hashes.SHA1() if "SHA1" in method else hashes.SHA256()
    oaep, block = padding.OAEP(padding.MGF1(digest), digest, None), key.key_size // 8
    if method == OAEP:
        return key.decrypt(wrapped, oaep)
    return keywrap.aes_key_unwrap_with_padding(key.decrypt(wrapped[:block], oaep), wrapped[block:])


def encrypted(key: PrivateKeyTypes, encoding: serialization.Encoding, passphrase: bytes) -> bytes:
    kind = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, kind)


# What is wrapped


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if "4096" not in name])
@pytest.mark.parametrize("method", [KWP, KWP_SHA1])
def test_a_wrapped_key_unwraps_to_itself_and_comes_with_its_public_key(name: str, method: str) -> None:
    key = private_key(ALGORITHMS[name].parameter)
    parsed = parse_import_document(document(algorithm=name, wrapMethods=[method]))
    wrapped = json.loads(wrap(parsed, key, NOW))
    assert unwrapped(method, base64.b64decode(wrapped.pop("wrappedKey"))) == pkcs8(key)
    assert wrapped == {
        "format": "sealkeeper-wrapped-key/1",
        "name": "tenants/acme/keyImports/i-7f3a",
        "key": "tenants/acme/keys/release",
        "wrapMethod": method,
        "publicKey": pem(key),
        "fingerprint": f"sha256:{sha256(spki(key)).hexdigest()}",
    }


def test_every_method_of_the_stores_is_known() -> None:
    assert set(key_wrapping.WRAP_METHODS) == set(WrapMethod)
    assert set(key_wrapping._KINDS) == set(ALGORITHMS)


def test_the_first_method_that_can_be_used_is() -> None:
    for methods in ([OAEP, KWP], [KWP, OAEP]):
        for name, parameter, used in (
            (P256, "secp256r1", methods[0]),
            ("PKIX_RSA_PSS_2048_SHA256", 2048, KWP),
        ):
            parsed = parse_import_document(document(algorithm=name, wrapMethods=methods))
            wrapped = json.loads(wrap(parsed, private_key(parameter), NOW))
            assert wrapped["wrapMethod"] == used
            unwrapped(used, base64.b64decode(wrapped["wrappedKey"]))


def test_a_method_can_be_asked_for_where_the_import_has_it() -> None:
    parsed = parse_import_document(document(wrapMethods=[KWP, OAEP]))
    key = private_key("secp256r1")
    assert json.loads(wrap(parsed, key, NOW, OAEP))["wrapMethod"] == OAEP
    with pytest.raises(KeyWrappingError, match=f"{KWP} and {OAEP} only"):
        wrap(parsed, key, NOW, KWP_SHA1)


def test_a_key_too_long_for_the_only_method_is_refused() -> None:
    parsed = parse_import_document(document(algorithm="PKIX_RSA_PKCS1V15_2048_SHA256", wrapMethods=[OAEP]))
    with pytest.raises(KeyWrappingError, match="too long"):
        wrap(parsed, private_key(2048), NOW)


def test_one_key_wrapped_twice_looks_different() -> None:
    parsed, key = parse_import_document(document()), private_key("secp256r1")
    one, two = (json.loads(wrap(parsed, key, NOW))["wrappedKey"] for _ in range(2))
    assert one != two
    assert base64.b64decode(one)[256:] != base64.b64decode(two)[256:]


def test_an_import_is_refused_from_the_second_on_that_its_time_is_up() -> None:
    parsed, key = parse_import_document(document()), private_key("secp256r1")
    end = datetime(2026, 11, 26, tzinfo=UTC)
    wrap(parsed, key, end - timedelta(microseconds=1))
    for now in (end, end.astimezone(timezone(timedelta(hours=9)))):
        with pytest.raises(KeyWrappingError, match="2026-11-26 00:00:00 UTC, and it is 2026-11-26 00:00:00 by this"):
            wrap(parsed, key, now)


def test_what_is_wrapped_offline_the_software_provider_takes(tmp_path: Path) -> None:
    with software(tmp_path) as uri:
        backend = SoftwareBackend(uri)
    algorithm, key = ALGORITHMS[P256], private_key("secp256r1")
    offer = backend.begin_import("brought", algorithm)
    rsa_pem = serialization.load_der_public_key(offer.public_key).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for method in offer.methods:
        parsed = parse_import_document(document(wrappingKey=rsa_pem.decode(), wrapMethods=[method]))
        wrapped = base64.b64decode(json.loads(wrap(parsed, key, NOW))["wrappedKey"])
        brought = backend.finish_import(offer.state, "brought", algorithm, method, wrapped, spki(key))
        [signature] = backend.sign(brought.handle, algorithm, [bytes(32)])
        assert signature_verifies(algorithm, load_public_key(algorithm, spki(key)), bytes(32), signature)


# Which private keys


@pytest.mark.parametrize(
    ("algorithm", "make", "found"),
    [
        (P256, lambda: private_key("secp384r1"), "elliptic curve key on P-384"),
        (P256, lambda: ec.generate_private_key(ec.SECP256K1()), "elliptic curve key on secp256k1"),
        (P256, lambda: private_key(2048), "RSA key of 2048 bits"),
        (P256, lambda: private_key("ed25519"), "Ed25519 key"),
        ("PKIX_ED25519", ed448.Ed448PrivateKey.generate, "of another kind"),
        ("PKIX_ED25519", x25519.X25519PrivateKey.generate, "of another kind"),
        ("PKIX_ECDSA_P384_SHA_384", lambda: dsa.generate_private_key(1024), "of another kind"),
        ("PKIX_RSA_PSS_3072_SHA256", lambda: private_key(2048), "RSA key of 2048 bits"),
        ("PKIX_RSA_PKCS1V15_2048_SHA256", lambda: new_private_key(1024), "RSA key of 1024 bits"),
        ("PKIX_RSA_PKCS1V15_2048_SHA256", lambda: rsa.generate_private_key(3, 2048), "weak: its public exponent"),
        ("ML_DSA_65", lambda: private_key(44), "ML-DSA-44 key"),
        ("RSA_1024", lambda: private_key(2048), "not one that is known"),
    ],
    ids=range(12),
)
def test_a_key_that_is_not_one_for_the_algorithm_is_refused_and_named(
    algorithm: str, make: Callable[[], PrivateKeyTypes], found: str
) -> None:
    with pytest.raises(KeyWrappingError, match=found):
        check_private_key(make(), algorithm)


@pytest.mark.parametrize("parameter", ["secp256r1", "secp521r1", "ed25519", 2048, 65])
@pytest.mark.parametrize("encoding", [serialization.Encoding.PEM, serialization.Encoding.DER])
def test_pkcs8_is_read_encrypted_or_not(parameter: str | int, encoding: serialization.Encoding) -> None:
    key = private_key(parameter)
    plain = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    assert pkcs8(load_private_key(plain)) == pkcs8(key)
    with pytest.raises(KeyWrappingError, match="not encrypted"):
        load_private_key(plain, b"sesame")
    locked = encrypted(key, encoding, b"sesame")
    assert pkcs8(load_private_key(locked, b"sesame")) == pkcs8(key)
    with pytest.raises(PassphraseNeededError):
        load_private_key(locked)
    with pytest.raises(KeyWrappingError, match="passphrase is wrong") as refused:
        load_private_key(locked, b"open-4711")
    assert "4711" not in str(refused.value)


@pytest.mark.parametrize("parameter", ["secp256r1", 2048])
def test_older_pem_is_read(parameter: str | int) -> None:
    key = private_key(parameter)
    old = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    assert b"BEGIN PRIVATE KEY" not in old
    assert pkcs8(load_private_key(old)) == pkcs8(key)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "damaged"),
        (b"nonsense", "damaged"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "damaged"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\n", "ssh-keygen"),
        (b"0" * 70_000, "longer than"),
    ],
    ids=range(5),
)
def test_what_is_no_private_key_is_refused(content: bytes, match: str) -> None:
    with pytest.raises(KeyWrappingError, match=match):
        load_private_key(content)
    with pytest.raises(KeyWrappingError, match="damaged"):
        load_private_key(spki(private_key("secp256r1")))


@given(st.binary(max_size=300))
def test_no_content_breaks_the_reading_of_keys_and_documents(content: bytes) -> None:
    for read in (load_private_key, parse_import_document):
        with pytest.raises(KeyWrappingError):
            read(content)


# Which import documents


def test_an_import_document_is_read() -> None:
    attestation = {"format": "CAVIUM_V2", "content": "AAEC", "certificates": ["AwQ="]}
    parsed = parse_import_document(document(attestation=attestation, expireTime="2026-11-26T00:00:00.25Z"))
    assert parsed.name == "tenants/acme/keyImports/i-7f3a"
    assert parsed.wrapping_key == spki(wrapping_key())
    assert parsed.wrap_methods == (KWP,)
    assert parsed.expire_time == datetime(2026, 11, 26, tzinfo=UTC)
    assert parsed.attestation == key_wrapping.Attestation("CAVIUM_V2", bytes([0, 1, 2]), (bytes([3, 4]),))


ATTESTATION = {"format": "F", "content": "AAEC", "certificates": []}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"format": "sealkeeper-key-import/2"}, "format"),
        ({"more": 1}, "fields"),
        ({"name": None}, "name"),
        ({"name": "tenants/acme/keys/release"}, "name"),
        ({"name": "tenants/acme/keyImports/i\n"}, "name"),
        ({"name": "tenants/other/keyImports/i"}, "different tenants"),
        ({"key": "tenants/acme/keys/../release"}, "key"),
        ({"key": ["tenants/acme/keys/release"]}, "key"),
        ({"algorithm": "PKIX_RSA_PKCS1V15_1024_SHA256"}, "algorithm"),
        ({"algorithm": {}}, "algorithm"),
        ({"wrapMethods": []}, "wrapMethods"),
        ({"wrapMethods": KWP}, "wrapMethods"),
        ({"wrapMethods": ["NONE"]}, "wrapMethods"),
        ({"wrapMethods": [KWP, KWP]}, "wrapMethods"),
        ({"wrapMethods": [KWP, ["x"]]}, "wrapMethods"),
        ({"wrappingKey": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"}, "wrappingKey"),
        ({"wrappingKey": " " * 5000}, "wrappingKey"),
        ({"wrappingKey": 5}, "wrappingKey"),
        ({"expireTime": None}, "expireTime"),
        ({"expireTime": "2026-11-26"}, "expireTime"),
        ({"expireTime": "2026-11-26T00:00:00+00:00"}, "expireTime"),
        ({"expireTime": "2026-13-26T00:00:00Z"}, "expireTime"),
        ({"expireTime": 1795651200}, "expireTime"),
        ({"attestation": []}, "attestation"),
        ({"attestation": {**ATTESTATION, "x": 1}}, "attestation"),
        ({"attestation": {**ATTESTATION, "format": "\x1b[2J"}}, "format"),
        ({"attestation": {**ATTESTATION, "content": "!"}}, "content"),
        ({"attestation": {**ATTESTATION, "content": "A" * 50_000}}, "content"),
        ({"attestation": {**ATTESTATION, "certificates": ["AAAA"] * 17}}, "certificates"),
        ({"attestation": {**ATTESTATION, "certificates": "AAAA"}}, "certificates"),
        ({"attestation": {**ATTESTATION, "certificates": [None]}}, "certificates"),
    ],
    ids=range(31),
)
def test_a_wrong_import_document_is_refused_by_its_field(changed: dict[str, object], named: str) -> None:
    with pytest.raises(KeyWrappingError, match=named):
        parse_import_document(document(**changed))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: pem(private_key("secp256r1")), "RSA key of 2048 to 8192"),
        (lambda: pem(wrapping_key(1024)), "RSA key of 2048 to 8192"),
        (lambda: pem(rsa.generate_private_key(3, 2048)), "exponent"),
        (lambda: pem(wrapping_key()) * 2, "one public key"),
        (lambda: pem(wrapping_key()) + "é", "wrappingKey"),
        (lambda: pem(wrapping_key()).replace("PUBLIC", "PRIVATE"), "wrappingKey"),
    ],
    ids=range(6),
)
def test_an_unfit_wrapping_key_is_refused(make: Callable[[], str], named: str) -> None:
    with pytest.raises(KeyWrappingError, match=named):
        parse_import_document(document(wrappingKey=make()))


FIELDS = ["format", "name", "key", "algorithm", "wrappingKey", "wrapMethods", "expireTime", "attestation"]


@pytest.mark.parametrize("field", FIELDS)
def test_an_import_document_must_be_whole(field: str) -> None:
    with pytest.raises(KeyWrappingError, match=r"format|fields"):
        parse_import_document(json.dumps({name: value for name, value in fields().items() if name != field}).encode())


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"[" * 100_000, b"\xff", b"{} " * 100_000], ids=range(6))
def test_what_is_no_json_object_is_refused(content: bytes) -> None:
    with pytest.raises(KeyWrappingError, match=r"JSON object|longer"):
        parse_import_document(content)


def test_a_document_that_says_a_thing_twice_is_refused() -> None:
    twice = document().replace(b'{"format', b'{"key": "tenants/acme/keys/other", "format')
    with pytest.raises(KeyWrappingError, match="twice"):
        parse_import_document(twice)


def test_fingerprints_are_those_of_openssl_and_can_be_read_out() -> None:
    made = fingerprint(spki(wrapping_key()))
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-outform", "DER"],
        input=pem(wrapping_key()).encode(),
        capture_output=True,
        check=True,
    ).stdout
    told = subprocess.run(["openssl", "dgst", "-sha256", "-r"], input=der, capture_output=True, check=True).stdout
    assert made == f"sha256:{told.decode()[:64]}"
    assert spoken(made).replace(" ", "") == made.removeprefix("sha256:")
    assert {len(group) for group in spoken(made).split(" ")} == {4}


# The one file


@pytest.fixture
def tool(tmp_path: Path) -> Path:
    path = tmp_path / "wrap.py"
    path.write_text(standalone(document(expireTime="2999-01-01T00:00:00Z")))
    (tmp_path / "key.pem").write_bytes(
        private_key("secp256r1").private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return path


def run(tool: Path, *arguments: str, python: Path | str = sys.executable) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(python), "-I", tool.name, *arguments],
        cwd=tool.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": os.environ["PATH"]},
        check=False,
    )


def test_the_one_file_needs_nothing_but_the_standard_library_and_cryptography(tool: Path) -> None:
    # As Python 3.9 reads it.
    tree = ast.parse(tool.read_text(), feature_version=(3, 9))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) if node.module}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    others = {name for name in imported if name.partition(".")[0] not in sys.stdlib_module_names}
    assert {name.partition(".")[0] for name in others} == {"cryptography"}
    assert not imported & {"socket", "ssl", "urllib", "http"}


@pytest.mark.parametrize("python", [sys.executable, pytest.param(DEBIANS_PYTHON, id="Debian's")])
def test_the_one_file_wraps(tool: Path, python: Path | str) -> None:
    if python is DEBIANS_PYTHON and subprocess.run([python, "-c", "import cryptography"], check=False).returncode:
        pytest.skip("python3-cryptography is missing (Debian: apt-get install python3-cryptography)")
    done = run(tool, "key.pem", "-o", "wrapped.json", python=python)
    assert (done.returncode, done.stderr) == (0, "")
    written = tool.parent / "wrapped.json"
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    wrapped = json.loads(written.read_bytes())
    key = private_key("secp256r1")
    secret = unwrapped(wrapped["wrapMethod"], base64.b64decode(wrapped["wrappedKey"]))
    assert spki(serialization.load_der_private_key(secret, None)) == spki(key)
    for public in (spki(key), spki(wrapping_key())):
        assert spoken(sha256(public).hexdigest()) in done.stdout
    assert "sealkeeper keys import finish" in done.stdout
    assert "without an attestation" in done.stdout


def test_the_one_file_writes_over_nothing_and_leaves_nothing_when_it_refuses(tool: Path) -> None:
    (tool.parent / "there.json").write_text("precious")
    (tool.parent / "p384.pem").write_bytes(pkcs8(private_key("secp384r1")))
    (tool.parent / "dangling.json").symlink_to("elsewhere.json")
    for arguments, reason in (
        (["key.pem", "-o", "there.json"], "File exists"),
        (["key.pem", "-o", "dangling.json"], "File exists"),
        (["key.pem", "-o", "nowhere/wrapped.json"], "No such file"),
        (["p384.pem", "-o", "wrapped.json"], "P-384"),
        (["absent.pem", "-o", "wrapped.json"], "No such file"),
        (["there.json", "-o", "wrapped.json"], "damaged"),
        (["key.pem", "-o", "wrapped.json", "--method", KWP_SHA1], "only"),
        (["key.pem"], "required: -o"),
    ):
        done = run(tool, *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert reason in done.stderr
        assert "Traceback" not in done.stderr
    assert (tool.parent / "there.json").read_text() == "precious"
    assert not (tool.parent / "wrapped.json").exists()
    assert not (tool.parent / "elsewhere.json").exists()


def test_the_one_file_takes_a_passphrase_from_a_file(tool: Path) -> None:
    folder = tool.parent
    (folder / "locked.pem").write_bytes(encrypted(private_key("secp256r1"), serialization.Encoding.PEM, b"sesame 4711"))
    secret = folder / "passphrase"
    for content, mode, reason in (
        ("sesame 4711\n", 0o644, "chmod 600"),
        ("sesame 4712\n", 0o600, "passphrase is wrong"),
        ("", 0o600, "empty"),
        ("sesame 4711\nmore\n", 0o600, "one line"),
        ("sesame 4711\n", 0o600, ""),
    ):
        secret.write_text(content)
        secret.chmod(mode)
        done = run(tool, "locked.pem", "-o", "wrapped.json", "--passphrase-file", "passphrase")
        assert done.returncode == (2 if reason else 0)
        assert reason in done.stderr
        assert "471" not in done.stderr + done.stdout


def test_the_one_file_does_not_ask_where_typing_would_be_seen(tool: Path) -> None:
    (tool.parent / "locked.pem").write_bytes(encrypted(private_key("secp256r1"), serialization.Encoding.PEM, b"sesame"))
    command = [sys.executable, "-I", "wrap.py", "locked.pem", "-o", "wrapped.json"]
    done = subprocess.run(
        command, cwd=tool.parent, input="sesame\n", capture_output=True, text=True, start_new_session=True, check=False
    )
    assert done.returncode == 2
    assert "--passphrase-file" in done.stderr
    assert not (tool.parent / "wrapped.json").exists()


def test_the_one_file_asks_for_a_passphrase_and_does_not_show_it(tool: Path) -> None:
    (tool.parent / "locked.pem").write_bytes(encrypted(private_key("secp256r1"), serialization.Encoding.PEM, b"sesame"))
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tool.parent)
        os.execv(sys.executable, [sys.executable, "-I", "wrap.py", "locked.pem", "-o", "wrapped.json"])
    shown = b""
    try:
        while b"Passphrase" not in shown:
            shown += os.read(terminal, 1000)
        # Whose wrapping key it is can be told before the private key is opened.
        assert spoken(fingerprint(spki(wrapping_key()))).encode() in shown
        os.write(terminal, b"sesame\n")
        while part := os.read(terminal, 1000):
            shown += part
    except OSError:
        # How a terminal ends.
        pass
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert b"sesame\r" not in shown
    assert (tool.parent / "wrapped.json").exists()


def test_the_one_file_is_made_for_a_right_document_alone_and_carries_it_whole(tool: Path) -> None:
    with pytest.raises(KeyWrappingError, match="fields"):
        standalone(document(more=1))
    assert tool.read_text().count("tenants/acme/keyImports/i-7f3a") == 1
    # The rest is this module, to the letter.
    source = Path(key_wrapping.__file__).read_text()
    lines = [line for line in tool.read_text().splitlines() if not line.startswith("_EMBEDDED = ")]
    assert lines == [line for line in source.splitlines() if not line.startswith("_EMBEDDED = ")]


@pytest.mark.parametrize("text", ["'", '"', "\\", "'''", '"""', "\\'", "' + exit() + '"])
def test_no_document_gets_out_of_its_place_in_the_one_file(text: str, tmp_path: Path) -> None:
    # Of all fields, the attestation's format takes most characters.
    content = document(attestation={**ATTESTATION, "format": f"x{text}x"}, expireTime="2999-01-01T00:00:00Z")
    path = tmp_path / "wrap.py"
    path.write_text(standalone(content))
    [value] = [
        node.value
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "_EMBEDDED"
    ]
    assert isinstance(value, ast.Constant)
    assert isinstance(value.value, str)
    assert parse_import_document(value.value.encode()) == parse_import_document(content)


def test_the_module_by_itself_says_how_the_tool_is_made(tmp_path: Path) -> None:
    path = tmp_path / "wrap.py"
    path.write_text(Path(key_wrapping.__file__).read_text())
    done = run(path, "key.pem", "-o", "wrapped.json")
    assert done.returncode == 2
    assert "--offline-tool" in done.stderr


def test_an_expired_tool_refuses(tmp_path: Path) -> None:
    path = tmp_path / "wrap.py"
    path.write_text(standalone(document(expireTime="2020-01-01T00:00:00Z")))
    (tmp_path / "key.der").write_bytes(pkcs8(private_key("secp256r1")))
    done = run(path, "key.der", "-o", "wrapped.json")
    assert done.returncode == 2
    assert "time was up at 2020-01-01 00:00:00 UTC" in done.stderr
