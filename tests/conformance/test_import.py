"""What every key store must do with private keys from outside. A store says itself which ones it takes, and how."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from sealkeeper.hsm import (
    ALGORITHMS,
    Algorithm,
    ImportExpiredError,
    ImportNotSupportedError,
    KeyDestroyer,
    KeyHandleError,
    KeyImporter,
    KeyProvider,
    KeyWitness,
    Origin,
    ProviderError,
    ProviderKey,
    WrapMethod,
    WrappedKeyError,
    WrappingKey,
    open_provider,
)
from sealkeeper.hsm.algorithms import load_public_key, signature_verifies
from tests.wrapping import new_private_key, pkcs8, private_key, spki, wrap

# In the loop that the providers are open in.
pytestmark = pytest.mark.asyncio(loop_scope="session")
P256 = ALGORITHMS["PKIX_ECDSA_P256_SHA_256"]
RSA = ALGORITHMS["PKIX_RSA_PKCS1V15_2048_SHA256"]
TRIED = [name for name in ALGORITHMS if "4096" not in name]
MAX_WRAPPED = MAX_STATE = 16 * 1024
REFUSED_STATE = (KeyHandleError, ImportExpiredError, WrappedKeyError)
# Cloud KMS has no method to delete an import job: it stays until it expires.
KEEP_WRAPPING_KEYS = {"gcpkms"}


class Importing:
    """A store with one import under way."""

    def __init__(self, provider: KeyProvider, algorithm: Algorithm, offer: WrappingKey) -> None:
        assert isinstance(provider, KeyImporter)
        self.provider, self.algorithm, self.offer = provider, algorithm, offer

    def wrap(self, key: PrivateKeyTypes, method: WrapMethod | None = None) -> bytes:
        return wrap(method or self.offer.methods[0], self.offer.public_key, pkcs8(key))

    async def finish(
        self, wrapped: bytes, public_key: bytes, *, method: WrapMethod | None = None, state: bytes | None = None
    ) -> ProviderKey:
        assert isinstance(self.provider, KeyImporter)
        return await self.provider.finish_import(
            self.offer.state if state is None else state,
            "brought",
            self.algorithm,
            method or self.offer.methods[0],
            wrapped,
            public_key,
        )


@asynccontextmanager
async def importing(provider: KeyProvider, algorithm: Algorithm) -> AsyncIterator[Importing | None]:
    """An import that is ended afterwards; ``None`` where the store takes no keys for the algorithm."""
    assert isinstance(provider, KeyImporter)
    if algorithm.name not in provider.info.algorithms:
        yield None
        return
    try:
        offer = await provider.begin_import("brought", algorithm)
    except ImportNotSupportedError:
        yield None
        return
    try:
        yield Importing(provider, algorithm, offer)
    finally:
        await provider.end_import(offer.state)


async def signs(provider: KeyProvider, handle: str, algorithm: Algorithm, public_key: bytes) -> bool:
    """Whether the key behind a handle signs so that it verifies under a public key: the proof of possession."""
    challenge = secrets.token_bytes(algorithm.digest_length or 32)
    [signature] = await provider.sign(handle, algorithm, [challenge])
    return signature_verifies(algorithm, load_public_key(algorithm, public_key), challenge, signature)


async def refused_or_unproven(one: Importing, wrapped: bytes, public_key: bytes) -> None:
    """Claim that a private key does not pass for that of a public key that is not its own.

    A store may find out at once, or leave it to the proof of possession, as some never look at a public key. What
    passes neither way is a store that gives the public key back and signs with a key that belongs to it.
    """
    try:
        key = await one.finish(wrapped, public_key)
    except WrappedKeyError:
        return
    try:
        said = (await one.provider.public_key(key.handle)).public_key
        assert said != public_key or not await signs(one.provider, key.handle, one.algorithm, public_key)
    except ProviderError:
        pass
    assert isinstance(one.provider, KeyDestroyer)
    await one.provider.destroy(key.handle)


async def test_a_store_that_takes_no_keys_says_so(provider: KeyProvider) -> None:
    if provider.info.wrap_methods:
        return
    assert isinstance(provider, KeyImporter)
    with pytest.raises(ImportNotSupportedError) as refused:
        await provider.begin_import("brought", P256)
    assert refused.value.next_step
    with pytest.raises(ImportNotSupportedError):
        await provider.finish_import(
            b"", "brought", P256, next(iter(WrapMethod)), bytes(300), spki(private_key("secp256r1"))
        )


async def test_a_store_that_takes_keys_takes_those_that_stock_verifiers_want(provider: KeyProvider) -> None:
    if not provider.info.wrap_methods:
        return
    async with importing(provider, P256) as one:
        assert one is not None


@pytest.mark.parametrize("name", TRIED)
async def test_the_wrapping_key_is_strong_and_bounded(provider: KeyProvider, name: str) -> None:
    async with importing(provider, ALGORITHMS[name]) as one:
        if one is None:
            return
        offer = one.offer
        wrapping_key = serialization.load_der_public_key(offer.public_key)
        assert isinstance(wrapping_key, rsa.RSAPublicKey)
        assert wrapping_key.key_size >= 2048
        assert offer.methods
        assert set(offer.methods) <= provider.info.wrap_methods
        assert 0 < len(offer.state) <= MAX_STATE
        assert offer.expire_time is None or offer.expire_time > datetime.now(UTC)


@pytest.mark.parametrize("name", TRIED)
async def test_a_key_that_was_brought_signs_under_its_owners_public_key(
    store: str, provider: KeyProvider, name: str, proven: Callable[[Algorithm, str], None]
) -> None:
    algorithm = ALGORITHMS[name]
    async with importing(provider, algorithm) as first:
        methods = first.offer.methods if first else ()
    private = private_key(algorithm.parameter)
    keys = []
    for method in methods:
        async with importing(provider, algorithm) as one:
            assert one is not None
            key = await one.finish(one.wrap(private, method), spki(private), method=method)
        assert key.algorithm == algorithm
        assert key.public_key == spki(private)
        assert await signs(provider, key.handle, algorithm, spki(private))
        keys.append(key)
    if not keys:
        return
    again = await open_provider(store)
    try:
        for key in keys:
            assert await again.public_key(key.handle) == key
            assert await signs(again, key.handle, algorithm, spki(private))
            assert isinstance(again, KeyWitness)
            said = await again.evidence(key.handle)
            assert said.origin in {Origin.IMPORTED, Origin.UNKNOWN}
            assert said.exportable in {False, None}
    finally:
        await again.close()
    proven(algorithm, "import")


async def test_an_import_goes_on_after_the_store_was_closed(store: str, provider: KeyProvider) -> None:
    async with importing(provider, P256) as one:
        if one is None:
            return
        private = new_private_key("secp256r1")
        again = await open_provider(store)
        try:
            key = await Importing(again, P256, one.offer).finish(one.wrap(private), spki(private))
        finally:
            await again.close()
        assert await signs(provider, key.handle, P256, spki(private))


async def test_a_key_that_was_brought_can_be_destroyed(provider: KeyProvider) -> None:
    async with importing(provider, P256) as one:
        if one is None:
            return
        private = new_private_key("secp256r1")
        key = await one.finish(one.wrap(private), spki(private))
    assert isinstance(provider, KeyDestroyer)
    await provider.destroy(key.handle)
    with pytest.raises(KeyHandleError):
        await provider.sign(key.handle, P256, [bytes(32)])


@pytest.mark.parametrize("algorithm", [P256, RSA], ids=lambda one: one.name)
async def test_what_cannot_be_unwrapped_is_refused_and_a_right_key_still_taken(
    provider: KeyProvider, algorithm: Algorithm
) -> None:
    async with importing(provider, algorithm) as one:
        if one is None:
            return
        private = new_private_key(algorithm.parameter)
        right = one.wrap(private)
        method, size = one.offer.methods[0], len(right)
        # Another key of the store's kind of size, so that nothing but the key is wrong.
        bits = serialization.load_der_public_key(one.offer.public_key).key_size  # type: ignore[union-attr]
        wrong = {
            "empty": b"",
            "one byte": b"\0",
            "garbage": secrets.token_bytes(size),
            "zeros": bytes(size),
            "without its last byte": right[:-1],
            "without its last block": right[:-8],
            "half": right[: size // 2],
            "a byte more": right + b"\0",
            "a block more": right + bytes(8),
            "more than is taken": right + bytes(MAX_WRAPPED),
            "first bit flipped": bytes([right[0] ^ 0x80]) + right[1:],
            "last bit flipped": right[:-1] + bytes([right[-1] ^ 1]),
            "under another key": wrap(method, spki(private_key(bits)), pkcs8(private)),
            "not a private key": wrap(method, one.offer.public_key, bytes(138)),
            "a public key": wrap(method, one.offer.public_key, spki(private)),
        }
        for other in set(WrapMethod) - {method}:
            if other is not WrapMethod.RSA_OAEP_SHA256 or algorithm is P256:
                wrong[f"wrapped by {other}"] = one.wrap(private, other)
        for what, wrapped in wrong.items():
            with pytest.raises(WrappedKeyError):
                pytest.fail(f"{what} was taken: {await one.finish(wrapped, spki(private))}")
        key = await one.finish(right, spki(private))
        assert await signs(provider, key.handle, algorithm, spki(private))


@pytest.mark.parametrize(
    ("algorithm", "wrong"),
    [(P256, 2048), (P256, "secp384r1"), (P256, "ed25519"), (RSA, 3072), (RSA, 1024), (RSA, "secp256r1")],
    ids=lambda one: one.name if isinstance(one, Algorithm) else one,
)
async def test_a_key_of_another_kind_does_not_pass_and_a_right_key_is_still_taken(
    provider: KeyProvider, algorithm: Algorithm, wrong: str | int
) -> None:
    async with importing(provider, algorithm) as one:
        if one is None:
            return
        private = private_key(algorithm.parameter)
        [method] = [method for method in one.offer.methods if method.endswith("_KWP")][:1]
        await refused_or_unproven(one, one.wrap(private_key(wrong), method), spki(private))
    async with importing(provider, algorithm) as one:
        assert one is not None
        key = await one.finish(one.wrap(private), spki(private))
        assert await signs(provider, key.handle, algorithm, spki(private))


async def test_who_names_the_public_key_of_a_key_in_the_store_does_not_get_that_key(provider: KeyProvider) -> None:
    # Public keys are public: an import that names another tenant's must not end with a handle of their private key.
    if not provider.info.wrap_methods:
        return
    theirs = await provider.generate("theirs", P256)
    async with importing(provider, P256) as one:
        assert one is not None
        await refused_or_unproven(one, one.wrap(new_private_key("secp256r1")), theirs.public_key)
    assert await signs(provider, theirs.handle, P256, theirs.public_key)


@pytest.mark.parametrize(
    "state", [b"", b"nonsense", b"{}", b"[]", b"null", b"\xff" * 100, b"../seal", bytes(MAX_STATE + 1)]
)
async def test_a_forged_state_is_refused(provider: KeyProvider, state: bytes) -> None:
    async with importing(provider, P256) as one:
        if one is None:
            return
        private = private_key("secp256r1")
        with pytest.raises(REFUSED_STATE):
            await one.finish(one.wrap(private), spki(private), state=state)


async def test_to_end_an_import_removes_no_key(provider: KeyProvider) -> None:
    if not provider.info.wrap_methods:
        return
    made, private = await provider.generate("made", P256), new_private_key("secp256r1")
    async with importing(provider, P256) as one:
        assert one is not None
        assert isinstance(provider, KeyImporter)
        brought = await one.finish(one.wrap(private), spki(private))
        await provider.end_import(one.offer.state)
        await provider.end_import(one.offer.state)
        for handle in (made.handle, brought.handle):
            try:
                await provider.end_import(handle.encode())
            except REFUSED_STATE:
                continue
    for key in (made, brought):
        # Read back as well: a store may sign with what it still has in memory.
        assert await provider.public_key(key.handle) == key
        assert await signs(provider, key.handle, P256, key.public_key)


async def test_an_import_that_was_ended_takes_no_key(provider: KeyProvider) -> None:
    if not provider.info.wrap_methods or provider.info.scheme in KEEP_WRAPPING_KEYS:
        return
    async with importing(provider, P256) as one, importing(provider, P256) as other:
        assert one is not None
        assert other is not None
        if one.offer.public_key == other.offer.public_key:
            # The store's own wrapping key, which every import uses.
            return
        assert isinstance(provider, KeyImporter)
        await provider.end_import(one.offer.state)
        private = new_private_key("secp256r1")
        with pytest.raises(REFUSED_STATE):
            await one.finish(one.wrap(private), spki(private))
        assert await signs(
            provider, (await other.finish(other.wrap(private), spki(private))).handle, P256, spki(private)
        )
