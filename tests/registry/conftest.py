from __future__ import annotations

from collections.abc import Iterator

import pytest

from sealkeeper.registry import Deadline, Registry
from tests.registry.scripted_registry import ScriptedRegistry, scripted_registry
from tests.stores.docker_registry import DockerRegistry, docker_registry


@pytest.fixture
def scripted() -> Iterator[ScriptedRegistry]:
    with scripted_registry() as registry:
        yield registry


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with docker_registry(tmp_path_factory.mktemp("docker-registry")) as registry:
        yield registry


@pytest.fixture
def client() -> Registry:
    return Registry(proxies={})


@pytest.fixture
def deadline() -> Deadline:
    return Deadline.after(30)
