"""People who are known by several identities, and the keys they approve with: ``[people.NAME]`` of the settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from sealkeeper.server.errors import ConfigurationError
from sealkeeper.server.identity_settings import PersonSettings
from sealkeeper.verify.algorithms import KeyMismatchError
from sealkeeper.verify.approval import load_approval_key

_MAX_FILE = 65_536
_KINDS = "an ECDSA (P-256, P-384, P-521), Ed25519 or RSA (2048 to 8192 bits) public key"


class People:
    """Who is whom.

    Args:
        names: of the people, by subject.
        approval_keys: DER SubjectPublicKeyInfo of each, by name; every name is there.
    """

    def __init__(self, names: Mapping[str, str], approval_keys: Mapping[str, tuple[bytes, ...]]) -> None:
        self._names = dict(names)
        self._approval_keys = dict(approval_keys)

    @classmethod
    def read(cls, settings: Mapping[str, PersonSettings]) -> People:
        """From the settings and the files that they name. Blocks.

        Raises:
            ConfigurationError: an identity or a key is there for two people, or a file holds no fit public key; the
                text names the setting.
        """
        names: dict[str, str] = {}
        keys: dict[str, tuple[bytes, ...]] = {}
        owners: dict[bytes, str] = {}
        for name, person in settings.items():
            for subject in person.identities:
                _require_own(names, subject, name, f"people.{name}.identities: {subject}")
            keys[name] = tuple(dict.fromkeys(_read_keys(name, person)))
            for key in keys[name]:
                _require_own(owners, key, name, f"people.{name}.approval_keys: a key")
        return cls(names, keys)

    def name_of(self, subject: str) -> str:
        """The person's name; empty where the subject is nobody's."""
        return self._names.get(subject, "")

    def __contains__(self, name: object) -> bool:
        """Whether there is a person of this name."""
        return name in self._approval_keys

    def owner_of(self, key: bytes) -> str:
        """Whose approval key it is, DER SubjectPublicKeyInfo; empty where it is nobody's."""
        return next((name for name, keys in self._approval_keys.items() if key in keys), "")

    def approval_keys(self, person: str) -> tuple[bytes, ...]:
        """Keys that a person approves with: DER SubjectPublicKeyInfo (RFC 5280 section 4.1). None for strangers."""
        return self._approval_keys.get(person, ())


def _require_own(owners: dict[Any, str], thing: object, name: str, what: str) -> None:
    # One person who counts as two would be dual control by one.
    owner = owners.setdefault(thing, name)
    if owner != name:
        raise ConfigurationError(
            f"{what} is also of people.{owner}", next_step="leave it with the person it belongs to"
        )


def _read_keys(name: str, person: PersonSettings) -> Iterator[bytes]:
    for path in person.approval_keys:
        setting = f"people.{name}.approval_keys: {path}"
        yield _public_key(_read(path, setting), setting)


def _read(path: Path, setting: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise ConfigurationError(
            f"{setting} cannot be read: {error.strerror}", next_step="correct the path, or bring the file back"
        ) from None
    if len(data) > _MAX_FILE:
        raise ConfigurationError(f"{setting} has more than {_MAX_FILE} bytes", next_step=f"name a PEM file of {_KINDS}")
    return data


def _public_key(data: bytes, setting: str) -> bytes:
    if b"PRIVATE KEY-----" in data:
        raise ConfigurationError(
            f"{setting} holds a private key", next_step="keep that with its person, and name a file of the public key"
        )
    try:
        spki = load_pem_public_key(data).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(
            f"{setting} holds no public key that can be read", next_step=f"name a PEM file of {_KINDS}"
        ) from None
    try:
        load_approval_key(spki)
    except KeyMismatchError:
        raise ConfigurationError(
            f"{setting} holds a key of another kind, or too short or too long a one",
            next_step=f"name a PEM file of {_KINDS}",
        ) from None
    return spki
