"""Keys in sealed files, for development and for tests of the rest. Not a place for keys that matter.

``software:///var/lib/keys?sealing-key-source=file:/run/secrets/sealing-key``

One file a key, ``{handle}.json``: public parts in clear, the PKCS#8 private key sealed with AES-256-GCM (NIST SP
800-38D) under a key from a file or from a passphrase (scrypt, RFC 7914). The associated data binds handle, algorithm,
label and public key, so that files cannot be swapped. Whoever reads the memory of the worker process reads the keys.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa, utils
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from sealkeeper.hsm.algorithms import ALGORITHMS, Algorithm
from sealkeeper.hsm.backend import require_algorithm
from sealkeeper.hsm.errors import KeyHandleError, ProviderConfigurationError, ProviderUnavailableError
from sealkeeper.hsm.provider import ProtectionLevel, ProviderInfo, ProviderKey
from sealkeeper.hsm.secret_file import read_secret
from sealkeeper.hsm.uri import SoftwareUri, parse_software_uri

PrivateKey: TypeAlias = (
    ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | rsa.RSAPrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
)

KEY_FORMAT = "sealkeeper-software-key/1"
SEAL_FORMAT = "sealkeeper-software-seal/1"
_SEAL_FILE = "seal.json"
_HANDLE = re.compile(r"[0-9a-f]{32}")
_CHECK_TEXT = b"sealkeeper: the sealing key is the right one"
_CACHE_LIMIT = 10_000
_MAX_FILE = 64 * 1024
_CURVES = {"secp256r1": ec.SECP256R1(), "secp384r1": ec.SECP384R1(), "secp521r1": ec.SECP521R1()}
_HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
_ML_DSA: dict[int, Callable[[], PrivateKey]] = {
    44: mldsa.MLDSA44PrivateKey.generate,
    65: mldsa.MLDSA65PrivateKey.generate,
    87: mldsa.MLDSA87PrivateKey.generate,
}


class SoftwareBackend:
    """Key files in one folder.

    Raises:
        ProviderConfigurationError: the folder or the secret cannot be used, or the secret is not the folder's.
    """

    def __init__(self, uri: str) -> None:
        parsed = parse_software_uri(uri)
        self._directory = parsed.directory
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._aead = AESGCM(_open_seal(parsed))
        except OSError as error:
            raise ProviderConfigurationError(
                f"the key folder cannot be used: {error.strerror}", next_step=f"check {self._directory}"
            ) from None
        self._keys: OrderedDict[str, tuple[ProviderKey, PrivateKey]] = OrderedDict()
        self.info = ProviderInfo(
            "software",
            "sealed key files, for development and tests",
            ProtectionLevel.SOFTWARE,
            frozenset(ALGORITHMS),
        )

    def generate(self, label: str, algorithm: Algorithm) -> ProviderKey:
        """Make a key pair and seal it into a new file."""
        private = _generate(algorithm)
        spki = private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        pkcs8 = private.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        handle = secrets.token_hex(16)
        nonce = secrets.token_bytes(12)
        document = {
            "format": KEY_FORMAT,
            "label": label,
            "algorithm": algorithm.name,
            "publicKey": _text(spki),
            "nonce": _text(nonce),
            "sealed": _text(self._aead.encrypt(nonce, pkcs8, _bound(handle, label, algorithm.name, spki))),
        }
        try:
            _write_atomically(self._path(handle), json.dumps(document, indent=1).encode())
        except OSError as error:
            raise ProviderUnavailableError(
                f"a key file cannot be written: {error.strerror}", next_step=f"look at {self._directory} and its disk"
            ) from None
        key = ProviderKey(handle, algorithm, spki)
        self._remember(handle, key, private)
        return key

    def public_key(self, handle: str) -> ProviderKey:
        """Read a public key; the file must still be there and whole."""
        return self._load(handle)[0]

    def sign(self, handle: str, algorithm: Algorithm, payloads: Sequence[bytes]) -> list[bytes]:
        """Sign each payload."""
        key, private = self._keys.get(handle) or self._load(handle)
        require_algorithm(key.algorithm, algorithm)
        if isinstance(private, ec.EllipticCurvePrivateKey):
            ecdsa = ec.ECDSA(utils.Prehashed(_HASHES[algorithm.digest or ""]))
            return [private.sign(payload, ecdsa) for payload in payloads]
        if isinstance(private, rsa.RSAPrivateKey):
            digest = _HASHES[algorithm.digest or ""]
            scheme: padding.AsymmetricPadding = padding.PKCS1v15()
            if algorithm.family == "rsa-pss":
                scheme = padding.PSS(padding.MGF1(digest), algorithm.digest_length)
            return [private.sign(payload, scheme, utils.Prehashed(digest)) for payload in payloads]
        return [private.sign(payload) for payload in payloads]

    def destroy(self, handle: str) -> None:
        """Remove the key's file. Whoever has a copy of file and sealing key still has the key."""
        self._keys.pop(handle, None)
        if not _HANDLE.fullmatch(handle):
            return
        try:
            self._path(handle).unlink(missing_ok=True)
            _sync_folder(self._directory)
        except OSError as error:
            raise ProviderUnavailableError(f"the key file cannot be removed: {error.strerror}") from None

    def check(self) -> None:
        """Look whether the folder is there."""
        if not (self._directory / _SEAL_FILE).is_file():
            raise ProviderUnavailableError("the key folder is gone")

    def close(self) -> None:
        """Forget the keys."""
        self._keys.clear()

    def _path(self, handle: str) -> Path:
        return self._directory / f"{handle}.json"

    def _remember(self, handle: str, key: ProviderKey, private: PrivateKey) -> None:
        self._keys[handle] = key, private
        if len(self._keys) > _CACHE_LIMIT:
            self._keys.popitem(last=False)

    def _load(self, handle: str) -> tuple[ProviderKey, PrivateKey]:
        if not _HANDLE.fullmatch(handle):
            raise KeyHandleError("the software provider has no such key")
        try:
            document = _read_json(self._path(handle), KEY_FORMAT)
        except FileNotFoundError:
            self._keys.pop(handle, None)
            raise KeyHandleError("the software provider has no such key") from None
        try:
            algorithm, label = ALGORITHMS[document["algorithm"]], document["label"]
            spki, nonce, sealed = (_bytes(document[name]) for name in ("publicKey", "nonce", "sealed"))
            pkcs8 = self._aead.decrypt(nonce, sealed, _bound(handle, label, algorithm.name, spki))
            private = serialization.load_der_private_key(pkcs8, None)
        except (KeyError, ValueError, TypeError, AttributeError, InvalidTag):
            raise ProviderConfigurationError(
                "a key file has been changed or belongs elsewhere; it was not used",
                next_step=f"restore {self._path(handle)} from a backup",
            ) from None
        key = ProviderKey(handle, algorithm, spki)
        self._remember(handle, key, private)  # type: ignore[arg-type]  # the sealed document is our own
        return key, private  # type: ignore[return-value]


def _generate(algorithm: Algorithm) -> PrivateKey:
    match algorithm.family:
        case "ecdsa":
            return ec.generate_private_key(_CURVES[str(algorithm.parameter)])
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "ml-dsa":
            return _ML_DSA[int(algorithm.parameter)]()
        case _:
            return rsa.generate_private_key(65537, int(algorithm.parameter))


def _open_seal(uri: SoftwareUri) -> bytes:
    """The sealing key, checked against the folder's check value; an empty folder gets one."""
    path = uri.directory / _SEAL_FILE
    if not path.exists():
        if next(uri.directory.iterdir(), None) is not None:
            raise ProviderConfigurationError(
                "the key folder is not empty and has no seal.json", next_step="name an empty folder"
            )
        _create_seal(uri, path)
    document = _read_json(path, SEAL_FORMAT)
    try:
        key = _sealing_key(uri, _bytes(document["salt"]))
        AESGCM(key).decrypt(_bytes(document["nonce"]), _bytes(document["check"]), SEAL_FORMAT.encode())
    except (KeyError, ValueError, TypeError, InvalidTag):
        raise ProviderConfigurationError(
            "the sealing key or passphrase is not the one that this key folder was made with",
            next_step="name the file that holds the right one",
        ) from None
    return key


def _create_seal(uri: SoftwareUri, path: Path) -> None:
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    check = AESGCM(_sealing_key(uri, salt)).encrypt(nonce, _CHECK_TEXT, SEAL_FORMAT.encode())
    document = {"format": SEAL_FORMAT, "salt": _text(salt), "nonce": _text(nonce), "check": _text(check)}
    _write_atomically(path, json.dumps(document, indent=1).encode())


def _sealing_key(uri: SoftwareUri, salt: bytes) -> bytes:
    if uri.passphrase_source is not None:
        # RFC 7914 parameters for a passphrase that guards files at rest: 128 MiB, about half a second.
        return Scrypt(salt=salt, length=32, n=2**17, r=8, p=1).derive(read_secret(uri.passphrase_source, "passphrase"))
    assert uri.sealing_key_source is not None  # noqa: S101  (the parser lets exactly one through)
    secret = read_secret(uri.sealing_key_source, "sealing key")
    if len(secret) == 64:
        try:
            return bytes.fromhex(secret.decode("ascii"))
        except ValueError:
            pass
    if len(secret) != 32:
        raise ProviderConfigurationError(
            "the sealing key file does not hold 32 bytes or 64 hexadecimal digits",
            next_step="make one with: openssl rand -hex 32",
        )
    return secret


def _bound(handle: str, label: str, algorithm: str, spki: bytes) -> bytes:
    return json.dumps([KEY_FORMAT, handle, label, algorithm, _text(spki)]).encode()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _read_json(path: Path, kind: str) -> dict[str, Any]:
    with path.open("rb") as file:
        content = file.read(_MAX_FILE + 1)
    try:
        document = json.loads(content) if len(content) <= _MAX_FILE else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or document.get("format") != kind:
        raise ProviderConfigurationError(
            f"{path.name} is not a {kind} file or is damaged", next_step=f"restore {path} from a backup"
        )
    return document


def _write_atomically(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
