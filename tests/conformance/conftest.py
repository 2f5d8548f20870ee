from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sealkeeper.hsm import ALGORITHMS, Algorithm, KeyProvider, ProviderKey, open_provider
from tests.conformance.stores import STORES


@pytest.fixture(scope="session", params=STORES)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of a store, one for the whole run."""
    patch = pytest.MonkeyPatch()
    patch.setenv("SOFTHSM2_CONF", "/nonexistent")
    directory: Path = tmp_path_factory.mktemp(request.param)
    yield STORES[request.param](directory)
    patch.undo()


@pytest.fixture
async def provider(store: str) -> AsyncIterator[KeyProvider]:
    opened = await open_provider(store)
    yield opened
    await opened.close()


# Keys take long to make (RSA), so each store makes one an algorithm; tests that destroy a key make their own.
_KEYS: dict[tuple[str, str], ProviderKey] = {}


@pytest.fixture(params=ALGORITHMS)
def algorithm(request: pytest.FixtureRequest) -> Algorithm:
    return ALGORITHMS[request.param]


@pytest.fixture
async def key(store: str, provider: KeyProvider, algorithm: Algorithm) -> ProviderKey | None:
    """A key for the algorithm, or ``None`` where the store says that it cannot do it."""
    if algorithm.name not in provider.info.algorithms:
        return None
    if (store, algorithm.name) not in _KEYS:
        _KEYS[store, algorithm.name] = await provider.generate(f"key-{len(_KEYS)}", algorithm)
    return _KEYS[store, algorithm.name]
