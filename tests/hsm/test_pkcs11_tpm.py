"""What is special to a TPM behind tpm2-pkcs11: a module with habits of its own, and little room."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from sealkeeper.hsm import ALGORITHMS, KeyHandleError, Origin, ProviderKey, open_provider
from sealkeeper.hsm.algorithms import load_public_key, signature_verifies
from sealkeeper.hsm.worker_provider import WorkerProvider
from tests.stores.tpm import tpm

P256 = ALGORITHMS["PKIX_ECDSA_P256_SHA_256"]
RSA = ALGORITHMS["PKIX_RSA_PKCS1V15_2048_SHA256"]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with tpm(tmp_path_factory.mktemp("tpm")) as made:
        yield made


@pytest.fixture
async def provider(uri: str) -> AsyncIterator[WorkerProvider]:
    opened = await open_provider(uri)
    yield opened
    await opened.close()


async def signs(provider: WorkerProvider, key: ProviderKey) -> bool:
    [signature] = await provider.sign(key.handle, P256, [bytes(32)])
    return signature_verifies(P256, load_public_key(P256, key.public_key), bytes(32), signature)


async def test_a_key_that_another_process_made_is_found(uri: str, provider: WorkerProvider) -> None:
    first = await provider.generate("first", P256)
    other = await open_provider(uri)
    try:
        later = await provider.generate("later", P256)
        assert await signs(other, later)
        assert await other.public_key(first.handle) == first
        assert (await other.evidence(first.handle)).origin is Origin.GENERATED
    finally:
        await other.close()


async def test_a_key_that_another_process_destroyed_is_gone_for_those_that_open_the_token_later(
    uri: str, provider: WorkerProvider
) -> None:
    key = await provider.generate("gone", P256)
    await provider.destroy(key.handle)
    later = await open_provider(uri)
    try:
        with pytest.raises(KeyHandleError):
            await later.sign(key.handle, P256, [bytes(32)])
    finally:
        await later.close()


async def test_a_key_that_another_process_made_can_be_destroyed(uri: str, provider: WorkerProvider) -> None:
    # A module that does not see the key must not let it be taken for gone.
    key = await provider.generate("theirs", P256)
    await provider.close()
    first, second = await open_provider(uri), await open_provider(uri)
    try:
        later = await first.generate("later", P256)
        await second.destroy(later.handle)
        await second.destroy(later.handle)
    finally:
        await first.close()
        await second.close()
    again = await open_provider(uri)
    try:
        with pytest.raises(KeyHandleError):
            await again.public_key(later.handle)
        assert await signs(again, key)
    finally:
        await again.close()


async def test_more_keys_than_the_resource_manager_holds_at_once_are_made_and_used(provider: WorkerProvider) -> None:
    # tpm2-abrmd lends a connection 27 objects, and the module keeps two of each key.
    keys = [await provider.generate(f"key-{number}", P256) for number in range(30)]
    for key in keys:
        assert await signs(provider, key)


async def test_its_elliptic_keys_only_sign_and_its_rsa_keys_are_said_to_decrypt(provider: WorkerProvider) -> None:
    elliptic = (await provider.evidence((await provider.generate("elliptic", P256)).handle)).claims
    rsa = (await provider.evidence((await provider.generate("rsa", RSA)).handle)).claims
    for claims in (elliptic, rsa):
        said = {name: claims[f"CKA_{name}"] for name in ("SENSITIVE", "NEVER_EXTRACTABLE", "LOCAL", "SIGN", "DERIVE")}
        assert said == {
            "SENSITIVE": "true",
            "NEVER_EXTRACTABLE": "true",
            "LOCAL": "true",
            "SIGN": "true",
            "DERIVE": "false",
        }
    assert elliptic["CKA_DECRYPT"] == "false"
    assert rsa["CKA_DECRYPT"] == "true"
