"""Keys in sealed files, for development and for tests of the rest. Not a place for keys that matter.

``software:///var/lib/keys?sealing-key-source=file:/run/secrets/sealing-key``

One file a key, ``{handle}.json``: public parts in clear, the PKCS#8 private key sealed with AES-256-GCM (NIST SP
800-38D) under a key from a file or from a passphrase (scrypt, RFC 7914). The associated data binds handle, algorithm,
label, public key and origin, so that files cannot be swapped. Whoever reads the memory of the worker process reads the
keys, those from outside too: they are unwrapped there (``software_import.py``).
"""

from __future__ import annotations

import json
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from sealkeeper.hsm import private_keys
from sealkeeper.hsm.algorithms import ALGORITHMS, Algorithm
from sealkeeper.hsm.backend import require_algorithm
from sealkeeper.hsm.errors import KeyHandleError, ProviderConfigurationError, ProviderUnavailableError
from sealkeeper.hsm.private_keys import PrivateKey
from sealkeeper.hsm.provider import (
    KeyEvidence,
    Origin,
    ProtectionLevel,
    ProviderInfo,
    ProviderKey,
    WrapMethod,
    WrappingKey,
)
from sealkeeper.hsm.secret_file import read_secret
from sealkeeper.hsm.software_files import SealedFolder, changed, read_document, to_bytes, to_text, write_atomically
from sealkeeper.hsm.software_import import METHODS, WrappingKeys, utc_now
from sealkeeper.hsm.uri import SoftwareUri, parse_software_uri

KEY_FORMAT = "sealkeeper-software-key/2"
OLD_KEY_FORMAT = "sealkeeper-software-key/1"
"""Without an origin: that of these keys is not known."""
SEAL_FORMAT = "sealkeeper-software-seal/1"
_SEAL_FILE = "seal.json"
_HANDLE = re.compile(r"[0-9a-f]{32}")
_CHECK_TEXT = b"sealkeeper: the sealing key is the right one"
_CACHE_LIMIT = 10_000
_ORIGINS = {"generated": Origin.GENERATED, "imported": Origin.IMPORTED}


@dataclass(frozen=True, slots=True)
class _Held:
    """A key out of its file."""

    key: ProviderKey
    private: PrivateKey
    origin: Origin


class SoftwareBackend:
    """Key files in one folder. ``now`` gives the time, UTC.

    Raises:
        ProviderConfigurationError: the folder or the secret cannot be used, or the secret is not the folder's.
    """

    def __init__(self, uri: str, now: Callable[[], datetime] = utc_now) -> None:
        parsed = parse_software_uri(uri)
        try:
            parsed.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder = SealedFolder(parsed.directory, _open_seal(parsed))
        except OSError as error:
            raise ProviderConfigurationError(
                f"the key folder cannot be used: {error.strerror}", next_step=f"check {parsed.directory}"
            ) from None
        self._wrapping_keys = WrappingKeys(self._folder, now)
        self._keys: OrderedDict[str, _Held] = OrderedDict()
        self.info = ProviderInfo(
            "software",
            "sealed key files, for development and tests",
            ProtectionLevel.SOFTWARE,
            frozenset(ALGORITHMS),
            wrap_methods=frozenset(METHODS),
        )

    def generate(self, label: str, algorithm: Algorithm) -> ProviderKey:
        """Make a key pair and seal it into a new file."""
        return self._keep(label, algorithm, private_keys.generate(algorithm), "generated")

    def public_key(self, handle: str) -> ProviderKey:
        """Read a public key; the file must still be there and whole."""
        return self._load(handle).key

    def sign(self, handle: str, algorithm: Algorithm, payloads: Sequence[bytes]) -> list[bytes]:
        """Sign each payload."""
        held = self._keys.get(handle) or self._load(handle)
        require_algorithm(held.key.algorithm, algorithm)
        return private_keys.sign(held.private, algorithm, payloads)

    def destroy(self, handle: str) -> None:
        """Remove the key's file. Whoever has a copy of file and sealing key still has the key."""
        self._keys.pop(handle, None)
        if _HANDLE.fullmatch(handle):
            self._folder.remove(f"{handle}.json")

    def evidence(self, handle: str) -> KeyEvidence:
        """What the key's file says. Whether such a key can be taken out is not for the provider to say."""
        claims = {
            "store": "a sealed file; the key is used in the memory of a process",
            "export": "the provider gives no private key out; whoever has the file and its sealing key can read it",
        }
        return KeyEvidence(ProtectionLevel.SOFTWARE, self._load(handle).origin, None, claims)

    def begin_import(self, label: str, algorithm: Algorithm) -> WrappingKey:
        """Make a wrapping key, which is forgotten after a day."""
        return self._wrapping_keys.make(label, algorithm)

    def finish_import(
        self, state: bytes, label: str, algorithm: Algorithm, method: WrapMethod, wrapped: bytes, public_key: bytes
    ) -> ProviderKey:
        """Unwrap a private key in memory and seal it into a new file."""
        private = self._wrapping_keys.unwrap(state, algorithm, method, wrapped, public_key)
        return self._keep(label, algorithm, private, "imported")

    def end_import(self, state: bytes) -> None:
        """Remove a wrapping key."""
        self._wrapping_keys.remove(state)

    def check(self) -> None:
        """Look whether the folder is there."""
        if not (self._folder.directory / _SEAL_FILE).is_file():
            raise ProviderUnavailableError("the key folder is gone")

    def close(self) -> None:
        """Forget the keys."""
        self._keys.clear()

    def _keep(self, label: str, algorithm: Algorithm, private: PrivateKey, origin: str) -> ProviderKey:
        spki, handle = private_keys.public_half(private), secrets.token_hex(16)
        document = {
            "format": KEY_FORMAT,
            "label": label,
            "algorithm": algorithm.name,
            "publicKey": to_text(spki),
            "origin": origin,
        }
        self._folder.write(f"{handle}.json", document, private_keys.pkcs8_of(private), _bound(handle, document))
        key = ProviderKey(handle, algorithm, spki)
        self._remember(_Held(key, private, _ORIGINS[origin]))
        return key

    def _remember(self, held: _Held) -> None:
        self._keys[held.key.handle] = held
        if len(self._keys) > _CACHE_LIMIT:
            self._keys.popitem(last=False)

    def _load(self, handle: str) -> _Held:
        if not _HANDLE.fullmatch(handle):
            raise KeyHandleError("the software provider has no such key")
        path = self._folder.directory / f"{handle}.json"
        try:
            document = read_document(path, [KEY_FORMAT, OLD_KEY_FORMAT])
        except FileNotFoundError:
            self._keys.pop(handle, None)
            raise KeyHandleError("the software provider has no such key") from None
        try:
            pkcs8 = self._folder.unseal(document, _bound(handle, document))
            key = ProviderKey(handle, ALGORITHMS[document["algorithm"]], to_bytes(document["publicKey"]))
            origin = Origin.UNKNOWN if document["format"] == OLD_KEY_FORMAT else _ORIGINS[document["origin"]]
            private = cast("PrivateKey", serialization.load_der_private_key(pkcs8, None))
        except (KeyError, ValueError, TypeError):
            raise changed(path) from None
        held = _Held(key, private, origin)
        self._remember(held)
        return held


def _open_seal(uri: SoftwareUri) -> bytes:
    """The sealing key, checked against the folder's check value; an empty folder gets one."""
    path = uri.directory / _SEAL_FILE
    if not path.exists():
        if next(uri.directory.iterdir(), None) is not None:
            raise ProviderConfigurationError(
                "the key folder is not empty and has no seal.json", next_step="name an empty folder"
            )
        _create_seal(uri, path)
    document = read_document(path, [SEAL_FORMAT])
    try:
        key = _sealing_key(uri, to_bytes(document["salt"]))
        AESGCM(key).decrypt(to_bytes(document["nonce"]), to_bytes(document["check"]), SEAL_FORMAT.encode())
    except (KeyError, ValueError, TypeError, InvalidTag):
        raise ProviderConfigurationError(
            "the sealing key or passphrase is not the one that this key folder was made with",
            next_step="name the file that holds the right one",
        ) from None
    return key


def _create_seal(uri: SoftwareUri, path: Path) -> None:
    salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
    check = AESGCM(_sealing_key(uri, salt)).encrypt(nonce, _CHECK_TEXT, SEAL_FORMAT.encode())
    document = {"format": SEAL_FORMAT, "salt": to_text(salt), "nonce": to_text(nonce), "check": to_text(check)}
    write_atomically(path, json.dumps(document, indent=1).encode())


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


def _bound(handle: str, document: dict[str, Any]) -> bytes:
    values = [document[name] for name in ("label", "algorithm", "publicKey")]
    if document["format"] != OLD_KEY_FORMAT:
        values.append(document["origin"])
    return json.dumps([document["format"], handle, *values]).encode()
