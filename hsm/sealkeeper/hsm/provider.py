"""The interface of a key provider: one configured HSM or KMS.

Use::

    uri = "pkcs11:token=acme?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/pin"
    provider = await open_provider(uri)
    key = await provider.generate("acme-release-1", ALGORITHMS["PKIX_ECDSA_P256_SHA_256"])
    [signature] = await provider.sign(key.handle, key.algorithm, [digest])
    await provider.close()

``KeyProvider`` is small on purpose. What only some stores can do is a Protocol of its own (``KeyDestroyer``,
``KeyWitness``, ``KeyImporter``), asked for with ``isinstance``. A store is added by writing one file, a ``Backend``,
and one line in ``registry.py``'s table.

All methods are coroutines and never block the event loop; they may be called concurrently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol, runtime_checkable

from sealkeeper.hsm.algorithms import Algorithm


class ProtectionLevel(StrEnum):
    """Where the private key lives."""

    SOFTWARE = "SOFTWARE"
    HSM = "HSM"
    EXTERNAL = "EXTERNAL"


class Origin(StrEnum):
    """Where a private key came from, as far as its store says."""

    GENERATED = "GENERATED"
    IMPORTED = "IMPORTED"
    UNKNOWN = "UNKNOWN"


class WrapMethod(StrEnum):
    """How a private key (PKCS#8 DER, RFC 5208) is wrapped under a store's RSA wrapping key, to be unwrapped in there.

    The ``..._AES_256_KWP`` ones are what PKCS #11 v3.0 (section 2.1.21) calls CKM_RSA_AES_KEY_WRAP: a new AES-256 key
    wrapped by RSAES-OAEP (RFC 8017 section 7.1, empty label), followed by the private key wrapped under it by AES key
    wrap with padding (RFC 5649).
    """

    RSA_OAEP_SHA256 = "RSA_OAEP_SHA256"
    """RSAES-OAEP with SHA-256 and MGF1-SHA-256 over the PKCS#8 itself, which must be short: elliptic curves only."""
    RSA_OAEP_SHA256_AES_256_KWP = "RSA_OAEP_SHA256_AES_256_KWP"
    """OAEP with SHA-256 and MGF1-SHA-256, then AES-KWP."""
    RSA_OAEP_SHA1_AES_256_KWP = "RSA_OAEP_SHA1_AES_256_KWP"
    """OAEP with SHA-1 and MGF1-SHA-1, then AES-KWP, for stores that know no other hash there (Azure, SoftHSM2). OAEP
    does not need a hash that resists collisions."""


@dataclass(frozen=True, slots=True)
class ProviderInfo:
    """What a provider says of itself once it is open.

    Attributes:
        scheme: URI scheme, for example ``pkcs11``.
        description: what a person recognises it by (token label, manufacturer, firmware); no secret.
        protection_level: where private keys live.
        algorithms: names of the algorithms that ``generate`` and ``sign`` can do.
        region: where it is, in the store's own words (``eu-central-1``); empty where it does not know.
        wrap_methods: how private keys can be brought into it; empty where they cannot.
        max_message: longest message in bytes by algorithm's name, where that is less than ``MAX_MESSAGE``. Stores with
            such a limit take no empty message either.
    """

    scheme: str
    description: str
    protection_level: ProtectionLevel
    algorithms: frozenset[str]
    region: str = ""
    wrap_methods: frozenset[WrapMethod] = frozenset()
    max_message: Mapping[str, int] = field(default_factory=dict)


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


@dataclass(frozen=True, slots=True)
class Attestation:
    """A store's signed statement about a key, for whoever can check it against the vendor's root.

    Attributes:
        format: as the vendor names it, for example ``CAVIUM_V2_COMPRESSED``.
        content: the statement, at most 32 KiB.
        certificates: that it is signed with, DER, the signer's first; may be empty.
    """

    format: str
    content: bytes
    certificates: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class KeyEvidence:
    """What a store says of a private key: read back, never assumed.

    Attributes:
        protection_level: of this key.
        origin: whether it was made in there.
        exportable: whether the store would give it out; ``None`` where the store does not say.
        claims: the store's own words, for example ``CKA_SENSITIVE: true``; at most 64, no secret.
        attestation: signed by the store's vendor; ``None`` where there is none.
    """

    protection_level: ProtectionLevel
    origin: Origin
    exportable: bool | None
    claims: Mapping[str, str] = field(default_factory=dict)
    attestation: Attestation | None = None


@dataclass(frozen=True, slots=True)
class WrappingKey:
    """A store's offer to take a private key.

    Attributes:
        state: what the store needs to go on with this import, at most 16 KiB; opaque to others, no secret.
        public_key: of the RSA wrapping key, SubjectPublicKeyInfo, DER.
        methods: that the store accepts for this key, the best first.
        expire_time: when the store forgets it, UTC; ``None`` where it does not by itself.
        attestation: that the wrapping key lives in hardware; ``None`` where there is none.
    """

    state: bytes
    public_key: bytes
    methods: tuple[WrapMethod, ...]
    expire_time: datetime | None = None
    attestation: Attestation | None = None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that a store says of how it is set up for the gateway.

    Attributes:
        found: how it is, to follow the store's name: ``may not sign``; no secret.
        passed: whether it is as it should be.
        next_step: what a person can do about it; empty where it passed.
        needed: false where it may be meant to be so: a custodian may want nobody to bring or to destroy keys.
    """

    found: str
    passed: bool
    next_step: str = ""
    needed: bool = True


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
        """Sign each payload: a digest where ``algorithm.signs_digest``, else a message.

        A message has at most ``MAX_MESSAGE`` bytes, or fewer where ``info.max_message`` says so.

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


@runtime_checkable
class KeyWitness(Protocol):
    """A provider that says what it knows of a private key."""

    async def evidence(self, handle: str) -> KeyEvidence:
        """Read back what the store says of a private key.

        Raises:
            KeyHandleError: there is no such key.
            ProviderUnavailableError: the store cannot answer now.
        """
        ...


@runtime_checkable
class KeyImporter(Protocol):
    """A provider that takes private keys, wrapped so that nobody between their owner and the store can read them.

    Asked of one whose ``info.wrap_methods`` are not empty.
    """

    async def begin_import(self, label: str, algorithm: Algorithm) -> WrappingKey:
        """Have the store offer a wrapping key.

        Args:
            label: as in ``generate``.
            algorithm: of the key to come.

        Raises:
            ImportNotSupportedError: the store takes no private keys, or none for the algorithm.
            ProviderUnavailableError: the store cannot answer now.
        """
        ...

    async def finish_import(
        self, state: bytes, label: str, algorithm: Algorithm, method: WrapMethod, wrapped: bytes, public_key: bytes
    ) -> ProviderKey:
        """Hand a wrapped private key to the store, which unwraps it. The key cannot be read out again.

        Args:
            state: of the wrapping key.
            label: as in ``begin_import``.
            algorithm: as in ``begin_import``.
            method: that it was wrapped by.
            wrapped: the private key, at most 16 KiB.
            public_key: that should belong to it, SubjectPublicKeyInfo, DER. Whether it does is for the caller to find
                out, by a signature: stores need not check.

        Raises:
            WrappedKeyError: it cannot be unwrapped, or is not a key for the algorithm. Nothing is left in the store.
            PublicKeyMismatchError: the store found out that it is not the one of the public key. Nothing is left.
            ImportExpiredError: the store has forgotten the wrapping key.
            ProviderUnavailableError: the store cannot answer now. Nothing is left in the store, as far as can be known.
        """
        ...

    async def end_import(self, state: bytes) -> None:
        """Remove what ``begin_import`` left in the store, but no key that was imported. Twice is fine.

        Raises:
            ProviderUnavailableError: the store cannot answer now.
        """
        ...
