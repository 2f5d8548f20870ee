"""Wrapping keys of the software provider: one file an import, sealed as keys are, gone when it ends.

The private key is unwrapped in the worker's memory: there is no other place. The wrapping protects it on its way here,
not from whoever reads that memory, or has the folder and its sealing key.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from sealkeeper.hsm.algorithms import Algorithm
from sealkeeper.hsm.errors import (
    AlgorithmNotSupportedError,
    ImportExpiredError,
    ProviderConfigurationError,
    ProviderUnavailableError,
    PublicKeyMismatchError,
    WeakKeyError,
    WrappedKeyError,
)
from sealkeeper.hsm.private_keys import PrivateKey, load_foreign, pkcs8_of, public_half
from sealkeeper.hsm.provider import WrapMethod, WrappingKey
from sealkeeper.hsm.software_files import SealedFolder, changed, read_document, to_text

WRAPPING_FORMAT = "sealkeeper-software-wrapping-key/1"
LIFETIME = timedelta(hours=24)
METHODS = (WrapMethod.RSA_OAEP_SHA256_AES_256_KWP, WrapMethod.RSA_OAEP_SHA256)
_BITS = 3072
_MAX_WRAPPED = 16 * 1024
_STATE = re.compile(rb"[0-9a-f]{32}")
_SUFFIX = ".wrapping.json"
_OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


class WrappingKeys:
    """The wrapping keys in one folder. ``now`` gives the time, UTC."""

    def __init__(self, folder: SealedFolder, now: Callable[[], datetime]) -> None:
        self._folder = folder
        self._now = now

    def make(self, label: str, algorithm: Algorithm) -> WrappingKey:
        """Make a wrapping key for a private key to come. Those whose time is up are removed."""
        self._remove_expired()
        private = rsa.generate_private_key(65537, _BITS)
        spki = public_half(private)
        identifier = secrets.token_hex(16)
        expire_time = self._now().replace(microsecond=0) + LIFETIME
        document = {
            "format": WRAPPING_FORMAT,
            "label": label,
            "algorithm": algorithm.name,
            "publicKey": to_text(spki),
            "expireTime": expire_time.isoformat(),
        }
        self._folder.write(f"{identifier}{_SUFFIX}", document, pkcs8_of(private), _bound(identifier, document))
        # The PKCS#8 of the others is longer than one RSA block, or can be.
        short = algorithm.family in {"ecdsa", "ed25519"}
        return WrappingKey(identifier.encode(), spki, METHODS if short else METHODS[:1], expire_time)

    def unwrap(
        self, state: bytes, algorithm: Algorithm, method: WrapMethod, wrapped: bytes, public_key: bytes
    ) -> PrivateKey:
        """Unwrap a private key and check it.

        Raises:
            ImportExpiredError: there is no such wrapping key, or its time is up.
            WrappedKeyError: it was wrapped for another algorithm, in another way or for another store; or it is no key
                for the algorithm, or a weak one.
            PublicKeyMismatchError: it is not that of ``public_key`` (SubjectPublicKeyInfo, DER).
            ProviderConfigurationError: the wrapping key's file was changed.
        """
        document, wrapping_key = self._load(state)
        if document["algorithm"] != algorithm.name:
            raise WrappedKeyError(f"the import was begun for a key for {document['algorithm']}")
        try:
            private = load_foreign(algorithm, _unwrapped(wrapping_key, method, wrapped))
        except (AlgorithmNotSupportedError, WeakKeyError) as error:
            raise WrappedKeyError(f"what was wrapped is refused: {error}", next_step=error.next_step) from None
        if public_half(private) != public_key:
            raise PublicKeyMismatchError(
                "the wrapped private key does not belong to the public key that was named",
                next_step="compare the fingerprints of both on the machine where the key was wrapped",
            )
        return private

    def remove(self, state: bytes) -> None:
        """Remove a wrapping key. One that is gone, or never was, is fine."""
        if _STATE.fullmatch(state):
            self._folder.remove(f"{state.decode()}{_SUFFIX}")

    def _load(self, state: bytes) -> tuple[dict[str, Any], rsa.RSAPrivateKey]:
        path = self._path(state)
        try:
            document = read_document(path, [WRAPPING_FORMAT])
        except FileNotFoundError:
            raise _gone() from None
        try:
            key = serialization.load_der_private_key(
                self._folder.unseal(document, _bound(state.decode(), document)), None
            )
            expire_time = datetime.fromisoformat(document["expireTime"])
        except (KeyError, TypeError, ValueError):
            raise changed(path) from None
        if self._now() >= expire_time:
            self.remove(state)
            raise _gone()
        assert isinstance(key, rsa.RSAPrivateKey)  # noqa: S101  (the sealed document is our own)
        return document, key

    def _path(self, state: bytes) -> Path:
        if not _STATE.fullmatch(state):
            raise _gone()
        return self._folder.directory / f"{state.decode()}{_SUFFIX}"

    def _remove_expired(self) -> None:
        try:
            paths = list(self._folder.directory.glob(f"*{_SUFFIX}"))
        except OSError as error:
            raise ProviderUnavailableError(f"the key folder cannot be read: {error.strerror}") from None
        for path in paths:
            try:
                expire_time = datetime.fromisoformat(read_document(path, [WRAPPING_FORMAT])["expireTime"])
                if self._now() < expire_time:
                    continue
            except (OSError, KeyError, TypeError, ValueError, ProviderConfigurationError):
                # Damaged ones are left for a person to look at.
                continue
            self._folder.remove(path.name)


def _unwrapped(key: rsa.RSAPrivateKey, method: WrapMethod, wrapped: bytes) -> bytes:
    """The bytes inside. One error for all that can be wrong, so that nothing is learnt from which it was."""
    block = key.key_size // 8
    if method in METHODS and len(wrapped) <= _MAX_WRAPPED:
        with suppress(ValueError, keywrap.InvalidUnwrap):
            if method is WrapMethod.RSA_OAEP_SHA256:
                return key.decrypt(wrapped, _OAEP)
            inner = key.decrypt(wrapped[:block], _OAEP)
            if len(inner) == 32:
                return keywrap.aes_key_unwrap_with_padding(inner, wrapped[block:])
    raise WrappedKeyError(
        "the wrapped key cannot be unwrapped: it was wrapped in another way, under another key, or is damaged",
        next_step="wrap it again, with the import document of this very import",
    )


def _bound(identifier: str, document: dict[str, Any]) -> bytes:
    fields = [document[name] for name in ("label", "algorithm", "publicKey", "expireTime")]
    return json.dumps([WRAPPING_FORMAT, identifier, *fields]).encode()


def _gone() -> ImportExpiredError:
    return ImportExpiredError(
        "there is no such import: it was ended, or its time is up",
        next_step="begin a new import and wrap the key again",
    )


def utc_now() -> datetime:
    """The time."""
    return datetime.now(UTC)
