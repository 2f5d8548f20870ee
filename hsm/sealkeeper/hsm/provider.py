"""The interface of a key provider: one configured HSM or KMS.

Use::

    uri = "pkcs11:token=acme?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/pin"
    provider = await open_provider(uri)
    key = await provider.generate("acme-release-1", ALGORITHMS["PKIX_ECDSA_P256_SHA_256"])
    [signature] = await provider.sign(key.handle, key.algorithm, [digest])
    await provider.close()

``KeyProvider`` is small on purpose. What only some stores can do is a Protocol of its own (``KeyDestroyer``), asked for
with ``isinstance``. A store is added by writing one file and one line in ``registry.py``'s table.

All methods are coroutines and never block the event loop; they may be called concurrently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from sealkeeper.hsm.algorithms import Algorithm


class ProtectionLevel(StrEnum):
    """Where the private key lives."""

    SOFTWARE = "SOFTWARE"
    HSM = "HSM"
    EXTERNAL = "EXTERNAL"


@dataclass(frozen=True, slots=True)
class ProviderInfo:
    """What a provider says of itself once it is open.

    Attributes:
        scheme: URI scheme, for example ``pkcs11``.
        description: what a person recognises it by (token label, manufacturer, firmware); no secret.
        protection_level: where private keys live.
        algorithms: names of the algorithms that ``generate`` and ``sign`` can do.
    """

    scheme: str
    description: str
    protection_level: ProtectionLevel
    algorithms: frozenset[str]


@dataclass(frozen=True, slots=True)
class ProviderKey:
    """A key pair inside a provider.

    Attributes:
        handle: names the key pair within its provider, at most 512 printable ASCII characters; opaque to others, stable
            over restarts, no secret.
        algorithm: the one that it was made for and alone may be used with.
        public_key: SubjectPublicKeyInfo, DER.
    """

    handle: str
    algorithm: Algorithm
    public_key: bytes


@runtime_checkable
class KeyProvider(Protocol):
    """One open HSM or KMS."""

    @property
    def info(self) -> ProviderInfo:
        """What the provider is and can do."""
        ...

    async def generate(self, label: str, algorithm: Algorithm) -> ProviderKey:
        """Make a key pair whose private key cannot be read out.

        Args:
            label: 1 to 128 of a-z, A-Z, 0-9, ``-``, ``_``, ``.``; for people who look into the store. Need not be
                unique.

        Raises:
            AlgorithmNotSupportedError: ``algorithm`` is not in ``info.algorithms``.
            ProviderUnavailableError: the store cannot answer now. Nothing was made, as far as can be known.
        """
        ...

    async def public_key(self, handle: str) -> ProviderKey:
        """Read the public key back from the store.

        Raises:
            KeyHandleError: there is no such key.
            ProviderUnavailableError: the store cannot answer now.
        """
        ...

    async def sign(self, handle: str, algorithm: Algorithm, payloads: Sequence[bytes]) -> list[bytes]:
        """Sign each payload: a digest where ``algorithm.signs_digest``, else a message of at most ``MAX_MESSAGE``.

        All are signed or an error is raised. ECDSA signatures are DER (RFC 3279 section 2.2.3). Signatures of any
        provider but a software one have been verified against the public key before they are returned.

        Raises:
            PayloadError: a payload has the wrong length; nothing was signed.
            KeyHandleError: there is no such key.
            AlgorithmNotSupportedError: the key is not one for ``algorithm``.
            SelfCheckError: the store answered with a signature that does not verify.
            ProviderUnavailableError: the store cannot answer now.
        """
        ...

    async def check(self) -> None:
        """Ask the store for a sign of life, without using a key.

        Raises:
            ProviderError: what is wrong.
        """
        ...

    async def close(self) -> None:
        """Let go of the store. Further calls raise ``ProviderUnavailableError``. Closing twice is fine."""
        ...


@runtime_checkable
class KeyDestroyer(Protocol):
    """A provider that can destroy keys for good."""

    async def destroy(self, handle: str) -> None:
        """Destroy the key pair. Destroying one that is gone already is fine.

        Raises:
            ProviderUnavailableError: the store cannot answer now; the key may still be there.
        """
        ...
