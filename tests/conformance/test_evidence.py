"""What every key store says of its private keys. That a key was imported is claimed in ``test_import.py``."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sealkeeper.hsm import (
    ALGORITHMS,
    Algorithm,
    KeyDestroyer,
    KeyEvidence,
    KeyHandleError,
    KeyProvider,
    KeyWitness,
    Origin,
    ProtectionLevel,
    ProviderKey,
)

# In the loop that the providers are open in.
pytestmark = pytest.mark.asyncio(loop_scope="session")
P256 = ALGORITHMS["PKIX_ECDSA_P256_SHA_256"]


async def evidence(provider: KeyProvider, handle: str) -> KeyEvidence:
    assert isinstance(provider, KeyWitness)
    return await provider.evidence(handle)


async def test_a_generated_key_is_not_said_to_be_imported_or_exportable(
    provider: KeyProvider, key: ProviderKey | None, proven: Callable[[Algorithm, str], None]
) -> None:
    if key is None:
        return
    said = await evidence(provider, key.handle)
    assert said.origin in {Origin.GENERATED, Origin.UNKNOWN}
    assert said.exportable in {False, None}
    proven(key.algorithm, "evidence")
    assert said.protection_level in set(ProtectionLevel)
    assert_bounded(said)


def assert_bounded(said: KeyEvidence) -> None:
    assert len(said.claims) <= 64
    assert all(name and name.isprintable() and text.isprintable() for name, text in said.claims.items())
    if said.attestation is not None:
        assert said.attestation.format.isprintable()
        assert 0 < len(said.attestation.content) <= 32 * 1024


async def test_no_key_is_said_to_be_safer_than_a_store_that_is_no_hardware(provider: KeyProvider) -> None:
    said = await evidence(provider, (await provider.generate("key", P256)).handle)
    if provider.info.protection_level is ProtectionLevel.SOFTWARE:
        assert said.protection_level is ProtectionLevel.SOFTWARE
        assert said.attestation is None


async def test_what_is_said_of_a_key_is_said_again(provider: KeyProvider) -> None:
    handle = (await provider.generate("key", P256)).handle
    first, second = await evidence(provider, handle), await evidence(provider, handle)
    assert (first.protection_level, first.origin, first.exportable) == (
        second.protection_level,
        second.origin,
        second.exportable,
    )
    assert first.claims.keys() == second.claims.keys()


@pytest.mark.parametrize("handle", ["", "nonsense", "0" * 32, "id=%00;x-algorithm=PKIX_ECDSA_P256_SHA_256", "../seal"])
async def test_nothing_is_said_of_no_key(provider: KeyProvider, handle: str) -> None:
    with pytest.raises(KeyHandleError):
        await evidence(provider, handle)


async def test_nothing_is_said_of_a_destroyed_key(provider: KeyProvider) -> None:
    gone = await provider.generate("gone", P256)
    assert (await evidence(provider, gone.handle)).origin is not Origin.IMPORTED
    assert isinstance(provider, KeyDestroyer)
    await provider.destroy(gone.handle)
    with pytest.raises(KeyHandleError):
        await evidence(provider, gone.handle)
