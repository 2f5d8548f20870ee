"""The admission webhook in front of a live gateway and a real registry, asked over TLS."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sealkeeper.registry import ImageReference
from tests.e2e.gate_webhook import RunningWebhook, running_webhook
from tests.e2e.running import Running
from tests.e2e.test_cli_approvals import DONE, Desk
from tests.e2e.test_gate import attest, desk, house, push, registry
from tests.stores.docker_registry import DockerRegistry

__all__ = ["desk", "house", "registry"]
_PATIENCE = 60.0


@pytest.fixture
def webhook(desk: Desk, registry: DockerRegistry, tmp_path: Path) -> Iterator[RunningWebhook]:
    with running_webhook(desk.gateway, tmp_path, registry.host) as running:
        yield running


def images(desk: Desk, registry: DockerRegistry, name: str) -> tuple[ImageReference, ImageReference]:
    """One that is attested, and one that is not."""
    good, bad = (push(registry, f"acme/{name}", f"{name} {which}".encode()) for which in ("good", "bad"))
    attest(desk, good)
    return good, bad


def test_pods_are_admitted_by_what_is_attested(desk: Desk, registry: DockerRegistry, webhook: RunningWebhook) -> None:
    good, bad = images(desk, registry, "hooked")
    assert webhook.admit(str(good))["allowed"]
    refused = webhook.admit(str(good), str(bad))
    assert not refused["allowed"]
    assert "ATTESTATION_MISSING" in refused["status"]["message"]
    assert str(bad) in refused["status"]["message"]
    listed = desk.say("admin", "gate", "decisions", "list", "prod", "--digest", bad.digest, "--json").document
    assert [one["outcome"] for one in listed] == ["DENY"]
    shown = webhook.metrics()
    assert 'outcome="allowed"' in shown
    assert 'reason="ATTESTATION_MISSING"' in shown


def test_a_dry_run_leaves_no_trace(desk: Desk, registry: DockerRegistry, webhook: RunningWebhook) -> None:
    _, bad = images(desk, registry, "rehearsed")
    assert not webhook.admit(str(bad), dry_run=True)["allowed"]
    assert desk.say("admin", "gate", "decisions", "list", "prod", "--digest", bad.digest, "--json").document == []


def test_a_registry_that_nobody_named_is_not_asked_at_a_private_address(webhook: RunningWebhook) -> None:
    refused = webhook.admit("127.0.0.1:1/acme/app:1")
    assert not refused["allowed"]
    assert "ADDRESS_REFUSED" in refused["status"]["message"]


def test_gatekeeper_is_told_the_digest_or_why_not(
    desk: Desk, registry: DockerRegistry, webhook: RunningWebhook
) -> None:
    good, bad = images(desk, registry, "kept")
    asked = {
        "apiVersion": "externaldata.gatekeeper.sh/v1beta1",
        "kind": "ProviderRequest",
        "request": {"keys": [str(good), str(bad)]},
    }
    answer = webhook.post("/external-data/validate", asked)["response"]
    found = {one["key"]: one for one in answer["items"]}
    assert found[str(good)]["value"] == str(good)
    assert "ATTESTATION_MISSING" in found[str(bad)]["error"]


def test_while_the_gateway_is_away_its_snapshot_decides_and_it_is_told_afterwards(
    desk: Desk, registry: DockerRegistry, webhook: RunningWebhook
) -> None:
    good, bad = images(desk, registry, "lonely")
    gateway, held = desk.gateway, desk.folder / "held" / "prod.sigstore.json"
    wait_until(lambda: bool(webhook.metrics()) and held.exists())
    addresses = fixed_addresses(gateway)
    assert gateway.stop() == 0
    try:
        assert webhook.admit(str(good))["allowed"]
        refused = webhook.admit(str(bad))
        assert not refused["allowed"]
        assert "offline" in refused["status"]["message"]
    finally:
        addresses()
        gateway.start()
    found: list[object] = []

    def told() -> bool:
        said = desk.say("admin", "gate", "decisions", "list", "prod", "--digest", bad.digest, "--json")
        found[:] = [one["offline"] for one in said.document] if said.code == DONE else []
        return bool(found)

    wait_until(told)
    assert found == [True]


def wait_until(holds: Callable[[], bool]) -> None:
    """Look again and again; each look asks a server, which takes a while."""
    end = time.monotonic() + _PATIENCE
    while not holds():
        assert time.monotonic() < end, "it did not come to that"


def fixed_addresses(gateway: Running) -> Callable[[], None]:
    """Have the gateway come back where it is now."""
    address = gateway.addresses["grpc"]

    def fix() -> None:
        gateway.change_settings(lambda text: text.replace('listen = "127.0.0.1:0"', f'listen = "{address}"', 1))

    return fix
