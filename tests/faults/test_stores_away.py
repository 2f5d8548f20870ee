"""Key stores that are sealed, taken away, throttled, hung or dead behind a live gateway, under load.

The gateway's own keys are in a store that stays; what is broken holds a tenant's key. What must hold of every call is
in ``load.py``.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

import grpc
import pytest

from sealkeeper.client import Client, message_content
from sealkeeper.client.errors import UnavailableError
from sealkeeper.server.identity import Role
from sealkeeper.v1 import provider_pb2
from tests.e2e.running import NO_RETRY, P256, PARENT, TENANT, Running
from tests.faults.load import PATIENCE, STANDBY, Called, Load, under_load
from tests.faults.test_provider import PATIENT, workers
from tests.stores import openbao
from tests.stores.google_kms import KEY_RING, GoogleKms, served, throttled
from tests.stores.softhsm import softhsm

ENOUGH = 20
OTHER = "beta"
FLOODERS, FLOOD = 12, 80
# So that a flood waits for the store, and not for the gateway.
SLOW = "PKIX_RSA_PKCS1V15_4096_SHA256"
HINT, KILLS = 3, 5
WORKERS = 2
"""Of each provider."""


@dataclass(frozen=True)
class Store:
    """A key store that can be away.

    Attributes:
        uri: of it.
        reason: that callers hear while it is away.
        away: takes it away, and gives it back at the end.
        timeout: of the provider, ISO 8601.
    """

    uri: str
    reason: str
    away: Callable[[Running], AbstractContextManager[None]]
    timeout: str = "PT20S"


@contextmanager
def sealed(directory: Path) -> Iterator[Store]:
    with openbao.server(directory) as bao:

        @contextmanager
        def away(_: Running) -> Iterator[None]:
            bao.seal()
            try:
                yield
            finally:
                bao.unseal()

        yield Store(bao.uri(bao.approle()), "PROVIDER_SEALED", away)


@contextmanager
def removed(directory: Path) -> Iterator[Store]:
    tokens, elsewhere = directory / "tokens", directory / "elsewhere"

    @contextmanager
    def away(gateway: Running) -> Iterator[None]:
        # Nobody asks SoftHSM2 for a key of a token that is half gone: it says then that there is no such key.
        signal_workers(gateway, signal.SIGSTOP)
        tokens.rename(elsewhere)
        tokens.mkdir()
        signal_workers(gateway, signal.SIGKILL)
        try:
            yield
        finally:
            tokens.rmdir()
            elsewhere.rename(tokens)

    with softhsm(directory) as uri:
        yield Store(uri, "PROVIDER_UNAVAILABLE", away)


class _Throttling(GoogleKms):
    """Takes no more requests while it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.throttled = Event()

    def answer(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        if self.throttled.is_set():
            self.refuse(method, grpc.StatusCode.RESOURCE_EXHAUSTED, throttled(HINT))
        return super().answer(method, request, context)


@contextmanager
def throttling(directory: Path) -> Iterator[Store]:
    cloud = _Throttling()

    @contextmanager
    def away(_: Running) -> Iterator[None]:
        cloud.throttled.set()
        try:
            yield
        finally:
            cloud.throttled.clear()

    with served(cloud) as endpoint:
        yield Store(f"gcpkms://{KEY_RING}?protection=SOFTWARE&endpoint={endpoint}", "PROVIDER_THROTTLED", away)


@contextmanager
def hung(directory: Path) -> Iterator[Store]:
    @contextmanager
    def away(gateway: Running) -> Iterator[None]:
        signal_workers(gateway, signal.SIGSTOP)
        try:
            yield
        finally:
            signal_workers(gateway, signal.SIGCONT)

    yield Store(sealed_files(directory / "hung"), "PROVIDER_TIMEOUT", away, "PT1S")


def sealed_files(folder: Path) -> str:
    """The URI of a folder of sealed key files."""
    folder.mkdir()
    seal = folder / "seal"
    seal.touch(0o600)
    seal.write_text("5a" * 32)
    return f"software://{folder}/keys?sealing-key-source=file:{seal}"


@pytest.fixture
def gateway(tmp_path: Path) -> Running:
    made = Running.make(tmp_path / "gateway")
    add_provider(made, "spare", sealed_files(tmp_path / "spare"))
    return made


@pytest.fixture(params=[sealed, removed, throttling, hung])
def store(request: pytest.FixtureRequest, tmp_path: Path, gateway: Running) -> Iterator[Store]:
    """A store, which the gateway knows by that name."""
    with request.param(tmp_path) as made:
        add_provider(gateway, "store", made.uri, made.timeout)
        yield made


def add_provider(gateway: Running, name: str, uri: str, timeout: str = "PT20S", count: int = WORKERS) -> None:
    settings = f'[providers.{name}]\nuri = "{uri}"\nworkers = {count}\ntimeout = "{timeout}"\n'
    gateway.change_settings(lambda text: f"{text}\n{settings}")


def signal_workers(gateway: Running, number: signal.Signals) -> None:
    """Send a signal to the workers of the last provider: those of the others were started earlier, and stay."""
    for pid in workers(gateway)[2 * WORKERS :]:
        # One whose store is lost ends by itself.
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def create_key(gateway: Running, key_id: str, provider: str, *, standby: str = "", algorithm: str = P256) -> str:
    with gateway.client("custodian") as custodian:
        name = custodian.create_key(PARENT, key_id, algorithm, provider=provider).key.name
        if standby:
            version = custodian.add_standby_version(name, standby, publish_period=timedelta(0)).version
            assert version.name == f"{name}/versions/{STANDBY}"
    return name


def circuit(gateway: Running, provider: str = "store") -> provider_pb2.CircuitState.ValueType:
    with gateway.client("custodian") as custodian:
        return custodian.get_provider(f"{PARENT}/providers/{provider}").health.circuit


def signed(key: str, version: int = 1) -> Callable[[Called], bool]:
    return lambda called: (called.key, called.version) == (key, version)


def refused(key: str, reason: str) -> Callable[[Called], bool]:
    return lambda called: (called.key, called.reason) == (key, reason)


def reasons(load: Load, key: str) -> set[str]:
    return {called.reason for called in load.calls if called.key == key} - {""}


def test_without_a_standby_callers_hear_why_and_when_to_come_back(gateway: Running, store: Store) -> None:
    with gateway.running():
        key, other = create_key(gateway, "release", "store"), create_key(gateway, "other", "spare")
        with under_load(gateway) as load:
            load.add(key)
            load.add(other, threads=1)
            load.until(signed(key), ENOUGH)
            with store.away(gateway):
                load.until(refused(key, store.reason))
                load.until(refused(key, "CIRCUIT_OPEN"))
                assert circuit(gateway) != provider_pb2.CIRCUIT_STATE_CLOSED
                load.until(signed(other), ENOUGH)
            load.until(signed(key), ENOUGH)
            assert circuit(gateway) == provider_pb2.CIRCUIT_STATE_CLOSED
    assert reasons(load, key) == {store.reason, "CIRCUIT_OPEN"}
    assert not reasons(load, other)


def test_a_standby_signs_meanwhile_and_the_first_by_itself_afterwards(gateway: Running, store: Store) -> None:
    with gateway.running():
        key = create_key(gateway, "release", "store", standby="spare")
        with under_load(gateway) as load:
            load.add(key)
            load.until(signed(key), ENOUGH)
            with store.away(gateway):
                load.until(signed(key, STANDBY), ENOUGH)
            load.until(signed(key), ENOUGH)
    assert not reasons(load, key)
    assert ("store", store.reason) in load.failovers
    assert load.failovers <= {("store", store.reason), ("store", "CIRCUIT_OPEN")}


def test_workers_that_die_again_and_again_lose_nothing(gateway: Running, tmp_path: Path) -> None:
    add_provider(gateway, "store", sealed_files(tmp_path / "store"))
    with gateway.running():
        key, both = create_key(gateway, "release", "store"), create_key(gateway, "both", "store", standby="spare")
        with under_load(gateway) as load:
            load.add(key)
            load.add(both, threads=2)
            for _ in range(KILLS):
                load.until(signed(key), ENOUGH)
                signal_workers(gateway, signal.SIGKILL)
            load.until(signed(key), ENOUGH)
            load.until(signed(both), ENOUGH)
    assert reasons(load, key) <= {"PROVIDER_UNAVAILABLE", "CIRCUIT_OPEN"}
    assert not reasons(load, both)


def test_callers_connect_while_workers_are_replaced(gateway: Running, tmp_path: Path) -> None:
    def ask(_: int) -> None:
        with gateway.client("verifier", timeout=15) as verifier:
            verifier.trust_root(PARENT)

    add_provider(gateway, "store", sealed_files(tmp_path / "store"))
    with gateway.running(), ThreadPoolExecutor(4) as callers:
        key = create_key(gateway, "release", "store")
        for _ in range(KILLS):
            asked = callers.map(ask, range(2 * ENOUGH))
            signal_workers(gateway, signal.SIGKILL)
            with gateway.client("ci", PATIENT) as ci:
                ci.sign(key, message_content(b"x"))
            # gRPC's own handlers of forks would hold up every handshake for a minute.
            assert len(list(asked)) == 2 * ENOUGH


def test_a_provider_that_hangs_does_not_hold_up_another(gateway: Running, tmp_path: Path) -> None:
    add_provider(gateway, "store", sealed_files(tmp_path / "store"), "PT10M")
    with gateway.running():
        key, other = create_key(gateway, "release", "store"), create_key(gateway, "other", "spare")
        with under_load(gateway) as load:
            load.add(key)
            load.until(signed(key), ENOUGH)
            signal_workers(gateway, signal.SIGSTOP)
            try:
                load.add(other)
                load.until(signed(other), 10 * ENOUGH)
                held_up = len([one for one in load.calls if one.key == key])
                load.until(signed(other), 10 * ENOUGH)
                # It did hang meanwhile.
                assert len([one for one in load.calls if one.key == key]) == held_up
            finally:
                signal_workers(gateway, signal.SIGCONT)
            load.until(signed(key), ENOUGH)
    assert not reasons(load, key) | reasons(load, other)


def test_a_gateway_starts_without_a_store_and_uses_it_once_it_is_there(gateway: Running, tmp_path: Path) -> None:
    bao = openbao.planned(tmp_path)
    token = bao.secret("token", "token-of-the-tests")
    add_provider(gateway, "store", bao.uri(f"auth=token&token-source=file:{token}"))
    with ExitStack() as running:
        running.enter_context(gateway.running())
        with pytest.raises(UnavailableError) as caught:
            create_key(gateway, "release", "store")
        assert caught.value.reason == "PROVIDER_UNAVAILABLE"
        assert caught.value.retry_after
        other = create_key(gateway, "other", "spare")
        sign_once(gateway, other)
        running.enter_context(openbao.running(bao))
        bao.root("POST", "auth/token/create", {"id": "token-of-the-tests", "policies": ["sealkeeper"]})
        key = create_patiently(gateway, "release", "store")
        both = create_key(gateway, "both", "store", standby="spare")
        assert gateway.stop() == 0
        bao.seal()
        gateway.start()
        with under_load(gateway) as load:
            load.add(key)
            load.add(both, threads=2)
            load.add(other, threads=1)
            load.until(lambda called: called.key == key and called.refusal is not None)
            load.until(signed(both, STANDBY), ENOUGH)
            load.until(signed(other), ENOUGH)
            bao.unseal()
            load.until(signed(key), ENOUGH)
            load.until(signed(both), ENOUGH)
    assert reasons(load, key) <= {"PROVIDER_SEALED", "PROVIDER_UNAVAILABLE", "CIRCUIT_OPEN"}
    assert not reasons(load, both) | reasons(load, other)


def sign_once(gateway: Running, key: str) -> None:
    with gateway.client("ci") as ci:
        ci.sign(key, message_content(b"x"))


def create_patiently(gateway: Running, key_id: str, provider: str) -> str:
    """Create a key, as soon as the gateway uses the provider again."""
    with gateway.client("custodian", PATIENT, timeout=PATIENCE) as custodian:
        return custodian.create_key(PARENT, key_id, P256, provider=provider).key.name


def test_one_tenants_flood_does_not_starve_another(gateway: Running, tmp_path: Path) -> None:
    add_provider(gateway, "store", sealed_files(tmp_path / "store"), count=1)
    gateway.change_settings(lambda text: text.replace(f'["{TENANT}"]', f'["{TENANT}", "{OTHER}"]'))
    custodian, ci, _ = (gateway.add_caller(role, OTHER) for role in (Role.CUSTODIAN, Role.CI, Role.ADMIN))
    with gateway.running():
        flooded = create_key(gateway, "release", "store", algorithm=SLOW)
        with Client(gateway.connection(custodian, OTHER), retry=NO_RETRY, timeout=PATIENCE) as client:
            key = client.create_key(f"tenants/{OTHER}", "release", SLOW, provider="store").key.name
        with under_load(gateway, every=FLOOD) as load:
            load.add(flooded, threads=FLOODERS, batch=FLOOD, every=1)
            load.until(signed(flooded), FLOODERS // 2)
            load.add(key, threads=1, role=ci)
            load.until(signed(key), 8)
    assert not reasons(load, key) | reasons(load, flooded)
    indexes = [called.signatures[0].log_index for called in load.calls if called.key == key]
    assert len(indexes) >= 8
    # In turn with the flood, rather than behind all that it has waiting.
    assert (indexes[-1] - indexes[0]) / (len(indexes) - 1) < FLOODERS * FLOOD / 2
