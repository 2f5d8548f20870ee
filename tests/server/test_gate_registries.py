"""A gate asks the registries that are its tenant's, with its tenant's credentials, and no others."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sealkeeper.registry import ImageReference
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.gate_registries import Registries
from sealkeeper.server.settings import RegistrySettings
from sealkeeper.verify.errors import EvidenceError
from sealkeeper.verify.gate.decision import Artifact
from tests.registry.attached import account_file, bundle_json, bundle_manifest
from tests.registry.scripted_registry import Handler, Reply, ScriptedRegistry, scripted_registry
from tests.stores.openbao import make_certificates

Make = Callable[[dict[str, RegistrySettings]], Registries]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    async with AsyncExitStack() as stack:

        def made(places: dict[str, RegistrySettings]) -> Registries:
            registries = Registries(places, timedelta(minutes=5), SteadyClock())
            stack.push_async_callback(registries.close)
            return registries

        yield made


@pytest.fixture
def scripted() -> Iterator[ScriptedRegistry]:
    with scripted_registry() as registry:
        yield registry


def pushed(registry: ScriptedRegistry, repository: str) -> tuple[ImageReference, Artifact]:
    """An image with a bundle."""
    digest = registry.push_image(repository, layer=repository.encode())
    registry.put_manifest(repository, bundle_manifest(registry, digest, bundle_json()))
    reference = ImageReference.parse(f"{registry.host}/{repository}@{digest}")
    return reference, Artifact(reference.name, {"sha256": digest[7:]})


def accounts(folder: Path, host: str, name: str) -> Path:
    folder.mkdir()
    return account_file(folder, {"auths": {host: {"auth": base64.b64encode(f"{name}:secret".encode()).decode()}}})


def asks_who(handler: Handler) -> Reply | None:
    known = bool(handler.headers.get("Authorization"))
    return None if known else Reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'})


async def found(registries: Registries, tenant: str, image: ImageReference, artifact: Artifact) -> int | str:
    """How many bundles there are, or why that is not known."""
    answer = (await registries.attached(tenant, image, [artifact]))[artifact.digest]
    return str(answer) if isinstance(answer, EvidenceError) else len(answer)


@pytest.mark.parametrize(
    ("repository", "allowed"),
    [("acme/app", True), ("acme/tools/cli", True), ("acme", True), ("acme-evil/app", False), ("other/acme/app", False)],
)
async def test_repositories_are_those_named_and_what_is_below_them(
    make: Make, scripted: ScriptedRegistry, repository: str, allowed: bool
) -> None:
    registries = make({"acme": RegistrySettings(host=scripted.host, repositories=["tools", "acme"])})
    answer = await found(registries, "acme", *pushed(scripted, repository))
    assert (answer == 1) if allowed else ("gates.registries" in str(answer))
    assert bool(scripted.seen) == allowed


async def test_another_tenant_learns_nothing_of_a_tenants_registry_even_of_what_is_remembered(
    make: Make, scripted: ScriptedRegistry
) -> None:
    registries = make({"acme": RegistrySettings(host=scripted.host, tenants=["acme"])})
    image, artifact = pushed(scripted, "acme/app")
    assert await found(registries, "acme", image, artifact) == 1
    assert "gates.registries" in str(await found(registries, "globex", image, artifact))


async def test_each_tenant_asks_with_its_own_credentials_and_is_not_given_what_another_was_told(
    make: Make, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    scripted.authorize = asks_who
    places = {
        tenant: RegistrySettings(
            host=scripted.host, tenants=[tenant], credentials=accounts(tmp_path / tenant, scripted.host, tenant)
        )
        for tenant in ("acme", "globex")
    }
    registries = make(places)
    image, artifact = pushed(scripted, "shared/app")
    for tenant in places:
        scripted.seen.clear()
        assert await found(registries, tenant, image, artifact) == 1
        told = {base64.b64decode(one.authorization.removeprefix("Basic ")) for one in scripted.seen}
        assert told == {b"", f"{tenant}:secret".encode()}


async def test_the_section_that_names_an_image_most_closely_is_asked(
    make: Make, scripted: ScriptedRegistry, tmp_path: Path
) -> None:
    scripted.authorize = asks_who

    def place(name: str, **settings: Any) -> RegistrySettings:
        return RegistrySettings(
            host=scripted.host, credentials=accounts(tmp_path / name, scripted.host, name), **settings
        )

    registries = make(
        {
            "below": place("below", repositories=["acme/tools"]),
            "named": place("named", repositories=["acme"], tenants=["acme"]),
            "all": place("all"),
            "anybody": place("anybody", repositories=["acme"]),
        }
    )
    for repository, wanted in (("acme/tools/cli", "below"), ("acme/app", "named"), ("globex/app", "all")):
        scripted.seen.clear()
        assert await found(registries, "acme", *pushed(scripted, repository)) == 1
        assert base64.b64decode(scripted.seen[-1].authorization[6:]) == f"{wanted}:secret".encode()


async def test_a_registry_with_a_ca_of_its_own_is_asked_over_tls(make: Make, tmp_path: Path) -> None:
    make_certificates(tmp_path)
    with scripted_registry((tmp_path / "server.pem", tmp_path / "server.key")) as registry:
        image, artifact = pushed(registry, "acme/app")
        settings = RegistrySettings(host=registry.host, ca=tmp_path / "ca.pem")
        assert await found(make({"one": settings}), "acme", image, artifact) == 1
        settings = RegistrySettings(host=registry.host, ca=tmp_path / "missing.pem")
        assert "missing.pem" in str(await found(make({"one": settings}), "acme", image, artifact))
