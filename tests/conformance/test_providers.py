"""What every key store must do. Which algorithms are tried is what the store says that it can do."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealkeeper.hsm import (
    ALGORITHMS,
    Algorithm,
    AlgorithmNotSupportedError,
    KeyDestroyer,
    KeyHandleError,
    KeyProvider,
    PayloadError,
    ProviderKey,
    ProviderUnavailableError,
    open_provider,
)
from sealkeeper.hsm.algorithms import MAX_MESSAGE, load_public_key, signature_verifies

Proven = Callable[[Algorithm, str], None]
# In the loop that the providers are open in.
pytestmark = pytest.mark.asyncio(loop_scope="session")
P256 = ALGORITHMS["PKIX_ECDSA_P256_SHA_256"]


def payload(algorithm: Algorithm) -> bytes:
    return secrets.token_bytes(algorithm.digest_length or 100)


def verifies(key: ProviderKey, data: bytes, signature: bytes) -> bool:
    return signature_verifies(key.algorithm, load_public_key(key.algorithm, key.public_key), data, signature)


async def test_every_store_can_do_the_algorithm_that_stock_verifiers_want(provider: KeyProvider) -> None:
    assert P256.name in provider.info.algorithms
    assert provider.info.algorithms <= set(ALGORITHMS)


async def test_what_is_signed_verifies_and_anything_else_does_not(
    provider: KeyProvider, algorithm: Algorithm, key: ProviderKey | None, proven: Proven
) -> None:
    if key is None:
        with pytest.raises(AlgorithmNotSupportedError, match=algorithm.name):
            await provider.generate("refused", algorithm)
        return
    data = [payload(algorithm) for _ in range(5)]
    signatures = await provider.sign(key.handle, algorithm, data)
    for one, signature in zip(data, signatures, strict=True):
        assert verifies(key, one, signature)
    assert not verifies(key, data[0], signatures[1])
    proven(algorithm, "generate")
    proven(algorithm, "sign")


async def test_a_key_is_found_again_after_the_store_was_closed(
    store: str, algorithm: Algorithm, key: ProviderKey | None, proven: Proven
) -> None:
    if key is None:
        return
    again = await open_provider(store)
    try:
        assert await again.public_key(key.handle) == key
        data = payload(algorithm)
        assert verifies(key, data, (await again.sign(key.handle, algorithm, [data]))[0])
    finally:
        await again.close()
    proven(algorithm, "reopen")


async def test_a_digest_of_another_length_is_refused_by_its_place(
    provider: KeyProvider, algorithm: Algorithm, key: ProviderKey | None
) -> None:
    if key is None or not algorithm.signs_digest:
        return
    for wrong in (b"", bytes(algorithm.digest_length - 1), bytes(algorithm.digest_length + 1)):
        with pytest.raises(PayloadError, match="payload 1 has"):
            await provider.sign(key.handle, algorithm, [payload(algorithm), wrong])


async def test_a_message_is_signed_up_to_the_limit(
    provider: KeyProvider, algorithm: Algorithm, key: ProviderKey | None
) -> None:
    if key is None or algorithm.signs_digest:
        return
    limit = provider.info.max_message.get(algorithm.name)
    good, bad = ((1, limit), (0, limit + 1)) if limit else ((0, 100_000), (MAX_MESSAGE + 1,))
    for length in good:
        data = bytes(length)
        assert verifies(key, data, (await provider.sign(key.handle, algorithm, [data]))[0])
    for length in bad:
        with pytest.raises(PayloadError, match=f"payload 1 has {length} bytes.* {limit or MAX_MESSAGE}$"):
            await provider.sign(key.handle, algorithm, [b"short", bytes(length)])


async def test_a_key_is_used_for_its_own_algorithm_only(
    provider: KeyProvider, algorithm: Algorithm, key: ProviderKey | None
) -> None:
    if key is None:
        return
    for name in sorted(provider.info.algorithms - {algorithm.name}):
        other = ALGORITHMS[name]
        with pytest.raises(AlgorithmNotSupportedError, match=algorithm.name):
            await provider.sign(key.handle, other, [payload(other)])


async def test_concurrent_callers_get_their_own_signatures(
    provider: KeyProvider, algorithm: Algorithm, key: ProviderKey | None
) -> None:
    if key is None:
        return
    data = [payload(algorithm) for _ in range(20)]
    signed = await asyncio.gather(*(provider.sign(key.handle, algorithm, [one]) for one in data))
    assert all(verifies(key, one, signature) for one, [signature] in zip(data, signed, strict=True))


@pytest.mark.parametrize("handle", ["", "nonsense", "0" * 32, "id=%00;x-algorithm=PKIX_ECDSA_P256_SHA_256", "../seal"])
async def test_a_handle_of_no_key_is_refused(provider: KeyProvider, handle: str) -> None:
    with pytest.raises(KeyHandleError):
        await provider.public_key(handle)
    with pytest.raises(KeyHandleError):
        await provider.sign(handle, P256, [bytes(32)])


async def test_a_destroyed_key_is_gone_and_others_stay(
    provider: KeyProvider, algorithm: Algorithm, key: ProviderKey | None, proven: Proven
) -> None:
    assert isinstance(provider, KeyDestroyer)
    # Large RSA keys take long to make; to destroy them is no other work.
    if key is None or algorithm.parameter in (3072, 4096):
        return
    payloads = [payload(algorithm)]
    gone, stays = await provider.generate("gone", algorithm), await provider.generate("stays", algorithm)
    await provider.sign(gone.handle, algorithm, payloads)
    await provider.destroy(gone.handle)
    await provider.destroy(gone.handle)
    for call in (provider.sign(gone.handle, algorithm, payloads), provider.public_key(gone.handle)):
        with pytest.raises(KeyHandleError):
            await call
    assert verifies(stays, payloads[0], (await provider.sign(stays.handle, algorithm, payloads))[0])
    proven(algorithm, "destroy")


async def test_two_keys_of_one_label_are_two_keys(provider: KeyProvider) -> None:
    one, two = await provider.generate("same", P256), await provider.generate("same", P256)
    assert one.handle != two.handle
    assert one.public_key != two.public_key
    assert not verifies(one, bytes(32), (await provider.sign(two.handle, P256, [bytes(32)]))[0])


async def test_handles_are_printable_and_short(provider: KeyProvider) -> None:
    handle = (await provider.generate("handle", P256)).handle
    assert len(handle) <= 512
    assert handle.isascii()
    assert handle.isprintable()


async def test_a_sign_of_life_is_given(provider: KeyProvider) -> None:
    await provider.check()


async def test_no_payload_gives_no_signature(provider: KeyProvider) -> None:
    key = await provider.generate("none", P256)
    assert await provider.sign(key.handle, P256, []) == []


async def test_a_closed_provider_refuses(store: str) -> None:
    opened = await open_provider(store)
    await opened.close()
    await opened.close()
    with pytest.raises(ProviderUnavailableError):
        await opened.check()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(digests=st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=20))
async def test_any_digests_are_signed_in_their_order(provider: KeyProvider, digests: list[bytes]) -> None:
    if provider.info.description not in _order:
        _order[provider.info.description] = await provider.generate("order", P256)
    key = _order[provider.info.description]
    signatures = await provider.sign(key.handle, P256, digests)
    assert all(verifies(key, one, two) for one, two in zip(digests, signatures, strict=True))


_order: dict[str, ProviderKey] = {}
