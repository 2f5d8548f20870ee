"""The files of the software provider: JSON documents with a sealed secret in them, written whole or not at all."""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sealkeeper.hsm.errors import ProviderConfigurationError, ProviderUnavailableError

_MAX_FILE = 64 * 1024


class SealedFolder:
    """Documents in one folder, each with a secret sealed by AES-256-GCM (NIST SP 800-38D) under the folder's key.

    Attributes:
        directory: the folder.
    """

    def __init__(self, directory: Path, sealing_key: bytes) -> None:
        self.directory = directory
        self._aead = AESGCM(sealing_key)

    def write(self, name: str, document: Mapping[str, str], secret: bytes, bound: bytes) -> None:
        """Write a document with ``secret`` sealed in it; ``bound`` is the associated data, to be the same again.

        Raises:
            ProviderUnavailableError: it cannot be written, and nothing was.
        """
        nonce = secrets.token_bytes(12)
        sealed = {"nonce": to_text(nonce), "sealed": to_text(self._aead.encrypt(nonce, secret, bound))}
        try:
            write_atomically(self.directory / name, json.dumps({**document, **sealed}, indent=1).encode())
        except OSError as error:
            raise ProviderUnavailableError(
                f"a key file cannot be written: {error.strerror}", next_step=f"look at {self.directory} and its disk"
            ) from None

    def unseal(self, document: Mapping[str, Any], bound: bytes) -> bytes:
        """The secret in a document.

        Raises:
            ValueError: it is damaged, or something else was bound to it.
        """
        try:
            return self._aead.decrypt(to_bytes(document["nonce"]), to_bytes(document["sealed"]), bound)
        except (KeyError, TypeError, InvalidTag):
            raise ValueError("a document was changed") from None

    def remove(self, name: str) -> None:
        """Remove a document. One that is gone already is fine.

        Raises:
            ProviderUnavailableError: it cannot be removed.
        """
        try:
            (self.directory / name).unlink(missing_ok=True)
            _sync_folder(self.directory)
        except OSError as error:
            raise ProviderUnavailableError(f"the key file cannot be removed: {error.strerror}") from None


def changed(path: Path) -> ProviderConfigurationError:
    """The error for a document that is not as it was written."""
    return ProviderConfigurationError(
        "a key file has been changed or belongs elsewhere; it was not used",
        next_step=f"restore {path} from a backup",
    )


def read_document(path: Path, formats: Collection[str]) -> dict[str, Any]:
    """Read a document of one of several formats.

    Raises:
        FileNotFoundError: there is none.
        ProviderConfigurationError: it is another thing, or damaged.
    """
    with path.open("rb") as file:
        content = file.read(_MAX_FILE + 1)
    try:
        document = json.loads(content) if len(content) <= _MAX_FILE else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or document.get("format") not in formats:
        raise ProviderConfigurationError(
            f"{path.name} is not a {' or '.join(formats)} file or is damaged",
            next_step=f"restore {path} from a backup",
        )
    return document


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file for the owner alone, durably, or nothing.

    Raises:
        OSError: it cannot be written.
    """
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


def to_text(data: bytes) -> str:
    """Base64."""
    return base64.b64encode(data).decode()


def to_bytes(text: str) -> bytes:
    """From base64.

    Raises:
        ValueError: it is not.
        TypeError: it is not even text.
    """
    return base64.b64decode(text, validate=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
