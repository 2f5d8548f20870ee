from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import pytest_asyncio

from sealkeeper.hsm import ALGORITHMS, Algorithm, KeyProvider, ProviderKey, open_provider
from tests.conformance.matrix import PROVEN
from tests.conformance.stores import STORES


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a store together, so that it is set up once in a run and not once a process."""
    for item in items:
        name = (
            item.callspec.params.get("store")
            if isinstance(item, pytest.Function) and hasattr(item, "callspec")
            else None
        )
        if name in STORES:
            item.add_marker(pytest.mark.xdist_group(f"store {name}"))


@pytest.fixture(scope="session", params=STORES)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of a store, one for the whole run."""
    with STORES[request.param](tmp_path_factory.mktemp(request.param)) as uri:
        yield uri


@pytest.fixture
def proven(request: pytest.FixtureRequest) -> Callable[[Algorithm, str], None]:
    """Notes for the matrix what a test has proven of its store: call it last."""
    store = request.node.callspec.params["store"]

    def note(algorithm: Algorithm, operation: str) -> None:
        request.node.user_properties.append((PROVEN, f"{store} {algorithm.name} {operation}"))

    return note


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def provider(store: str) -> AsyncIterator[KeyProvider]:
    """The store, open: once for all tests, since its worker takes longer to start than most of them."""
    opened = await open_provider(store)
    yield opened
    await opened.close()


# Keys take long to make (RSA), so each store makes one an algorithm; tests that destroy a key make their own.
_KEYS: dict[tuple[str, str], ProviderKey] = {}


@pytest.fixture(params=ALGORITHMS)
def algorithm(request: pytest.FixtureRequest) -> Algorithm:
    return ALGORITHMS[request.param]


@pytest_asyncio.fixture(loop_scope="session")
async def key(store: str, provider: KeyProvider, algorithm: Algorithm) -> ProviderKey | None:
    """A key for the algorithm, or ``None`` where the store says that it cannot do it."""
    if algorithm.name not in provider.info.algorithms:
        return None
    if (store, algorithm.name) not in _KEYS:
        _KEYS[store, algorithm.name] = await provider.generate(f"key-{len(_KEYS)}", algorithm)
    return _KEYS[store, algorithm.name]
