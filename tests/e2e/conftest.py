"""One gateway for all tests that leave it as they found it, or make keys of their own in it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.e2e.running import Running

_numbers = count()


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway whose keys are in sealed files."""
    made = Running.make(tmp_path_factory.mktemp("gateway") / "gateway")
    with made.running():
        yield made


@pytest.fixture
def key(gateway: Running) -> str:
    """A fresh P-256 key."""
    return gateway.create_key(f"key-{next(_numbers)}")


@pytest.fixture
def new_key_id() -> str:
    return f"new-{next(_numbers)}"


@pytest.fixture
def own_gateway(tmp_path: Path) -> Running:
    """A gateway for one test, not started."""
    return Running.make(tmp_path / "gateway")
