"""Checkpoint signers for tests."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from sealkeeper.server.log import LOG_NAMES
from sealkeeper.verify.note import NoteVerifier, ed25519_key_id


@dataclass
class Signer:
    """Signs with a key made from the log's name; refuses while ``failing``."""

    name: str
    failing: bool = False

    def __post_init__(self) -> None:
        self.origin = f"{self.name}.example"
        self._key = ed25519.Ed25519PrivateKey.from_private_bytes(self.name.encode().ljust(32, b"\0"))
        self.key_id = ed25519_key_id(self.origin, self._key.public_key().public_bytes_raw())

    async def sign(self, text: bytes) -> bytes:
        if self.failing:
            raise ConnectionError("the provider is away")
        return self._key.sign(text)

    def verifier(self) -> NoteVerifier:
        spki = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return NoteVerifier(self.origin, spki)


def signers() -> dict[str, Signer]:
    return {name: Signer(name) for name in LOG_NAMES}
