"""What a worker process hosts: a store whose calls block.

A backend is used by one thread of one process and nobody else, unless it is a ``ConcurrentBackend``. It raises the
errors of ``errors.py``. What only some stores can do is a Protocol of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from sealkeeper.hsm.algorithms import MAX_MESSAGE, Algorithm
from sealkeeper.hsm.errors import AlgorithmNotSupportedError, PayloadError, ProviderUnavailableError
from sealkeeper.hsm.provider import Diagnosis, KeyEvidence, ProviderInfo, ProviderKey, WrapMethod, WrappingKey


class Backend(Protocol):
    """A blocking key store; methods as in ``KeyProvider`` and ``KeyDestroyer``."""

    @property
    def info(self) -> ProviderInfo:
        """What the store is and can do."""
        ...

    def generate(self, label: str, algorithm: Algorithm) -> ProviderKey:
        """Make a key pair."""
        ...

    def public_key(self, handle: str) -> ProviderKey:
        """Read a public key."""
        ...

    def sign(self, handle: str, algorithm: Algorithm, payloads: Sequence[bytes]) -> list[bytes]:
        """Sign payloads whose lengths have been checked."""
        ...

    def destroy(self, handle: str) -> None:
        """Destroy a key pair."""
        ...

    def check(self) -> None:
        """Give a sign of life."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


@runtime_checkable
class ConcurrentBackend(Protocol):
    """A backend that several threads may use at once: a store across a network, which spends its time waiting.

    Attributes:
        concurrency: how many calls at a time, 2 to 64.
        piece: most payloads that one call to ``sign`` gets, from 1: what the store signs in one of its own requests.
    """

    concurrency: int
    piece: int


@runtime_checkable
class WitnessBackend(Protocol):
    """A backend that says what the store knows of a private key; as ``KeyWitness``."""

    def evidence(self, handle: str) -> KeyEvidence:
        """Read back what the store says of a private key."""
        ...


@runtime_checkable
class ImportBackend(Protocol):
    """A backend whose store unwraps private keys that come from outside; as ``KeyImporter``."""

    def begin_import(self, label: str, algorithm: Algorithm) -> WrappingKey:
        """Have the store offer a wrapping key."""
        ...

    def finish_import(
        self, state: bytes, label: str, algorithm: Algorithm, method: WrapMethod, wrapped: bytes, public_key: bytes
    ) -> ProviderKey:
        """Hand a wrapped private key to the store."""
        ...

    def end_import(self, state: bytes) -> None:
        """Remove what ``begin_import`` left in the store."""
        ...


@runtime_checkable
class DiagnosingBackend(Protocol):
    """A backend whose store tells, without a side effect, what the gateway may do there."""

    def diagnose(self) -> Sequence[Diagnosis]:
        """What is set up as it should be, and what is not."""
        ...


class BackendLostError(ProviderUnavailableError):
    """The store cannot be reached from this process any more: the worker ends, a new one starts from nothing."""


def check_payloads(algorithm: Algorithm, payloads: Sequence[bytes], info: ProviderInfo | None) -> None:
    """Refuse payloads that do not fit the algorithm or the store, before anything is sent.

    Args:
        algorithm: that is to sign.
        payloads: digests or messages.
        info: of the store; ``None`` where it is not known yet.

    Raises:
        PayloadError: naming the first bad one by its place.
    """
    if algorithm.signs_digest:
        wanted = algorithm.digest_length
        for place, payload in enumerate(payloads):
            if len(payload) != wanted:
                raise PayloadError(
                    f"payload {place} has {len(payload)} bytes; a {algorithm.digest} digest for {algorithm.name} "
                    f"has {wanted}"
                )
    else:
        for place, payload in enumerate(payloads):
            if len(payload) > MAX_MESSAGE:
                raise PayloadError(f"payload {place} has {len(payload)} bytes; {algorithm.name} takes {MAX_MESSAGE}")
        limit = info.max_message.get(algorithm.name) if info is not None else None
        if info is not None and limit is not None:
            for place, payload in enumerate(payloads):
                if not 1 <= len(payload) <= limit:
                    raise PayloadError(
                        f"payload {place} has {len(payload)} bytes; {info.description} takes {algorithm.name} messages "
                        f"of 1 to {limit}",
                        next_step="sign such messages with a key of another algorithm, or with one in another provider",
                    )


def require_algorithm(key: Algorithm, asked: Algorithm) -> None:
    """Refuse to use a key with another algorithm than its own.

    Raises:
        AlgorithmNotSupportedError: naming both.
    """
    if key.name != asked.name:
        raise AlgorithmNotSupportedError(f"the key is one for {key.name}, not for {asked.name}")
