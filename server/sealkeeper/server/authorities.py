"""The gateway's own keys: certificate authority, timestamp authority, logs. They live in a provider like all others.

``authorities.json`` says which they are: handles, public keys and certificates, no secret. It is written once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sealkeeper.hsm import ALGORITHMS, KeyProvider, ProviderError, ProviderKey, algorithm_named
from sealkeeper.server.certificates import create_certificate_chain
from sealkeeper.server.clock import rfc3339
from sealkeeper.server.errors import ConfigurationError
from sealkeeper.server.files import write_file
from sealkeeper.server.log import AUDIT, CT, TRANSPARENCY
from sealkeeper.server.timestamping import create_timestamp_chain
from sealkeeper.server.trusted_root import Authority, LogKey, signing_config_json, trusted_root_json
from sealkeeper.server.x509_signing import P256, P384
from sealkeeper.verify.note import NoteVerifier

FORMAT = "sealkeeper-authorities/1"
LIFETIME = timedelta(days=3650)
_ED25519 = "PKIX_ED25519"
_ROLES = (TRANSPARENCY, CT, AUDIT, "certificate-root", "certificate-authority", "timestamp-root", "timestamp-authority")
ORIGINS = {TRANSPARENCY: "log", CT: "ct", AUDIT: "audit"}


@dataclass(frozen=True, slots=True)
class Authorities:
    """The gateway's own keys and certificates.

    Attributes:
        domain: the gateway's.
        provider: name of the provider that holds the keys.
        create_time: whole seconds.
        keys: by role.
        certificate_chain: intermediate, root.
        timestamp_chain: leaf, root.
    """

    domain: str
    provider: str
    create_time: datetime
    keys: dict[str, ProviderKey]
    certificate_chain: Sequence[x509.Certificate]
    timestamp_chain: Sequence[x509.Certificate]

    def origin(self, log: str) -> str:
        """Name of a log: a bare host name."""
        return f"{ORIGINS[log]}.{self.domain}"

    def log_verifier(self, log: str) -> NoteVerifier:
        """Checks a log's checkpoints."""
        return NoteVerifier(self.origin(log), self.keys[log].public_key)

    def trusted_root(self) -> bytes:
        """Sigstore's ``trusted_root.json``."""
        uri = f"https://{self.domain}"
        return trusted_root_json(
            [self._log_key(TRANSPARENCY)],
            [self._log_key(CT)],
            [Authority(uri, tuple(self.certificate_chain))],
            [Authority(uri, tuple(self.timestamp_chain))],
        )

    def signing_config(self) -> bytes:
        """Sigstore's signing config."""
        return signing_config_json(f"https://{self.domain}", self.origin(TRANSPARENCY), self.create_time)

    def _log_key(self, log: str) -> LogKey:
        key = self.keys[log]
        log_id = self.log_verifier(log).log_id
        return LogKey(self.origin(log), key.public_key, key.algorithm.name, log_id, self.create_time)


class LogSigner:
    """Signs the checkpoints of one log with a key in a provider.

    Args:
        provider: holds the key.
        key: Ed25519 or P-256.
        verifier: of the same key.
    """

    def __init__(self, provider: KeyProvider, key: ProviderKey, verifier: NoteVerifier) -> None:
        self._provider = provider
        self._key = key
        self.origin = verifier.name
        self.key_id = verifier.key_id

    async def sign(self, text: bytes) -> bytes:
        """Sign a note's text.

        Raises:
            ProviderError: the provider did not sign.
        """
        payload = sha256(text).digest() if self._key.algorithm.signs_digest else text
        [signature] = await self._provider.sign(self._key.handle, self._key.algorithm, [payload])
        return signature


async def create_authorities(domain: str, name: str, provider: KeyProvider, now: datetime) -> Authorities:
    """Make all keys and certificates.

    Args:
        domain: the gateway's.
        name: of the provider.
        provider: holds the keys.
        now: start of everything.

    Raises:
        ProviderError: the provider cannot make them.
    """
    start = now.replace(microsecond=0)
    # Witnesses want Ed25519; a token that cannot do it signs checkpoints with P-256.
    note = ALGORITHMS[_ED25519] if _ED25519 in provider.info.algorithms else P256
    algorithms = (note, P256, note, P384, P384, P384, P256)
    keys = {
        role: await provider.generate(f"gateway.{role}", algorithm)
        for role, algorithm in zip(_ROLES, algorithms, strict=True)
    }
    certificates = await create_certificate_chain(
        provider, keys["certificate-root"], keys["certificate-authority"], domain, start, start + LIFETIME
    )
    stamps = await create_timestamp_chain(
        provider, keys["timestamp-root"], keys["timestamp-authority"], domain, start, start + LIFETIME
    )
    return Authorities(domain, name, start, keys, certificates, stamps)


def save_authorities(path: Path, authorities: Authorities) -> None:
    """Write ``authorities.json``; an existing one is never replaced.

    Raises:
        OSError: it exists, or cannot be written.
    """
    document = {
        "format": FORMAT,
        "domain": authorities.domain,
        "provider": authorities.provider,
        "createTime": rfc3339(authorities.create_time),
        "keys": {
            role: {"handle": key.handle, "keyDetails": key.algorithm.name, "publicKey": _pem(key.public_key)}
            for role, key in authorities.keys.items()
        },
        "certificateChain": [_certificate_pem(one) for one in authorities.certificate_chain],
        "timestampChain": [_certificate_pem(one) for one in authorities.timestamp_chain],
    }
    write_file(path, json.dumps(document, indent=2).encode() + b"\n", mode=0o644, replace=False)


def read_authorities(path: Path) -> Authorities:
    """Read ``authorities.json``. Blocks.

    Raises:
        ConfigurationError: it cannot be read.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
        if document["format"] != FORMAT or set(document["keys"]) != set(_ROLES):
            raise ConfigurationError(f"{path} is of another version")
        return Authorities(
            document["domain"],
            document["provider"],
            datetime.fromisoformat(document["createTime"]),
            {role: _key(one) for role, one in document["keys"].items()},
            [x509.load_pem_x509_certificate(one.encode()) for one in document["certificateChain"]],
            [x509.load_pem_x509_certificate(one.encode()) for one in document["timestampChain"]],
        )
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {path}: {error.strerror}", next_step="sealkeeper init makes it, once"
        ) from None
    except (KeyError, TypeError, ValueError, AttributeError, ProviderError):
        raise ConfigurationError(f"{path} is malformed", next_step="bring it back from a backup") from None


async def require_authorities(authorities: Authorities, provider: KeyProvider, domain: str) -> None:
    """Check that the provider holds these keys, and that they are this gateway's.

    Raises:
        ConfigurationError: they are another's.
        ProviderError: the provider does not answer, or lacks one.
    """
    if authorities.domain != domain:
        raise ConfigurationError(
            f"the authorities are those of {authorities.domain}, not of {domain}",
            next_step="gateway.domain names a gateway for good: set it back",
        )
    found = await asyncio.gather(*(provider.public_key(key.handle) for key in authorities.keys.values()))
    for (role, key), held in zip(authorities.keys.items(), found, strict=True):
        if held.public_key != key.public_key:
            raise ConfigurationError(f"the provider holds another key for {role} than authorities.json says")


def _key(document: dict[str, Any]) -> ProviderKey:
    public = serialization.load_pem_public_key(document["publicKey"].encode())
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return ProviderKey(document["handle"], algorithm_named(document["keyDetails"]), spki)


def _pem(spki: bytes) -> str:
    key = serialization.load_der_public_key(spki)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _certificate_pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()
