"""Gates as people use them: policies under dual control, decisions, exceptions, and the way without the gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sealkeeper.client.operations import dsse_content
from sealkeeper.registry import Deadline, ImageReference, Registry
from sealkeeper.registry.attach import attach_bundle
from sealkeeper.server.identity import Role
from sealkeeper.server.policy_engine import default_policy
from sealkeeper.verify.statement import PAYLOAD_TYPE, ResourceDescriptor, encode_statement
from tests.e2e.running import P256, PARENT, Running
from tests.e2e.test_cli_approvals import DONE, PROPOSED, REFUSED, Desk, Said
from tests.registry.attached import push_image
from tests.server.people import add_person
from tests.stores.docker_registry import DockerRegistry, docker_registry

RELEASE = "https://in-toto.io/attestation/release/v0.1"
POLICY = f"""
gate: v1
verdict_key: {PARENT}/keys/verdicts
signers: {{release: {{key: {PARENT}/keys/release}}, verdicts: {{key: {PARENT}/keys/verdicts}}}}
require:
  attestations: [{{type: release, signers: [release]}}]
environments:
  production:
    promotion: {{verifier: https://sealkeeper.example/{PARENT}/gates/prod, signers: [verdicts]}}
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with docker_registry(tmp_path_factory.mktemp("images")) as running:
        yield running


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, str]]:
    gateway = Running.make(tmp_path_factory.mktemp("gated") / "gateway", policy=default_policy())
    second = add_person(gateway.directory, Role.ADMIN, "second")
    with gateway.running():
        with gateway.client("custodian") as custodian:
            for name in ("release", "verdicts"):
                custodian.create_key(PARENT, name, P256)
        yield gateway, second


@pytest.fixture
def desk(house: tuple[Running, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Desk:
    gateway, second = house
    found = Desk(gateway, tmp_path, second, capfd)
    (tmp_path / "policy.yaml").write_text(POLICY)
    with gateway.client("admin") as admin:
        known = {one.name.partition("/versions/")[0] for one in admin.list_gates(PARENT)}
    if f"{PARENT}/gates/prod" not in known:
        put(found, "policy.yaml")
    return found


def put(desk: Desk, file: str) -> Said:
    """Have a policy approved."""
    return desk.approve(desk.propose("admin", "gate", "policy", "set", "prod", str(desk.folder / file)))


def push(registry: DockerRegistry, name: str, layer: bytes) -> ImageReference:
    reference = ImageReference.parse(f"{registry.host}/{name}")
    return reference.with_digest(push_image(Registry(proxies={}), reference, Deadline.after(30), layer))


def attest(desk: Desk, image: ImageReference) -> None:
    payload = encode_statement(
        [ResourceDescriptor(str(image), {"sha256": image.digest.removeprefix("sha256:")})],
        RELEASE,
        b'{"purl":"pkg:oci/app@1"}',
    )
    with desk.gateway.client("ci") as ci:
        bundle = ci.sign(f"{PARENT}/keys/release", dsse_content(PAYLOAD_TYPE, payload)).signature.bundle
    attach_bundle(Registry(proxies={}), image, bundle, RELEASE, Deadline.after(30))


def check(desk: Desk, *arguments: str, who: str = "verifier") -> tuple[int, Any]:
    said = desk.say(who, "gate", *arguments, "--policy", "prod", "--json")
    return said.code, said.document


def codes(document: Any) -> set[str]:
    return {one["code"] for one in document["reasons"]}


def test_an_image_goes_from_nothing_to_staging_to_production(desk: Desk, registry: DockerRegistry) -> None:
    image = push(registry, "acme/app", b"first")
    code, document = check(desk, str(image))
    assert (code, codes(document)) == (REFUSED, {"ATTESTATION_MISSING"})
    attest(desk, image)
    code, document = check(desk, str(image), "--environment", "production")
    assert (code, codes(document)) == (REFUSED, {"SUMMARY_FAILED"})
    code, document = check(desk, str(image))
    assert (code, document["passed"], document["policyVersion"]) == (DONE, True, f"{PARENT}/gates/prod/versions/1")
    # The gate's verdict is kept, and is what production asks for.
    assert check(desk, str(image), "--environment", "production")[0] == DONE


def test_decisions_are_listed_and_shown(desk: Desk, registry: DockerRegistry) -> None:
    image = push(registry, "acme/listed", b"listed")
    name = check(desk, str(image))[1]["name"]
    listed = desk.say("admin", "gate", "decisions", "list", "prod", "--digest", image.digest, "--json").document
    assert [(one["name"], one["outcome"]) for one in listed] == [(name, "DENY")]
    shown = desk.say("admin", "gate", "decisions", "show", "prod", name.rpartition("/")[2])
    assert shown.code == DONE
    assert "may not run" in shown.out
    assert "ATTESTATION_MISSING" in shown.out


def test_a_dry_run_and_explain_leave_no_trace(desk: Desk, registry: DockerRegistry) -> None:
    image = push(registry, "acme/dry", b"dry")
    assert check(desk, str(image), "--dry-run")[1]["name"] is None
    explained = desk.say("verifier", "gate", "explain", str(image), "--policy", "prod")
    assert (explained.code, "attestations.release" in explained.out) == (REFUSED, True)
    assert desk.say("admin", "gate", "decisions", "list", "prod", "--digest", image.digest, "--json").document == []


def test_an_exception_lets_run_what_is_refused_until_it_ends(desk: Desk, registry: DockerRegistry) -> None:
    image = push(registry, "acme/legacy", b"legacy")
    proposal = desk.propose(
        *("admin", "gate", "exceptions", "create", "prod", "--digest", image.digest),
        *("--for", "1h", "--reason", "the build of 2019"),
    )
    assert check(desk, str(image))[0] == REFUSED
    desk.approve(proposal)
    code, document = check(desk, str(image))
    assert (code, document["passed"], codes(document)) == (DONE, False, {"ATTESTATION_MISSING"})
    exceptions = desk.say("admin", "gate", "exceptions", "list", "prod", "--json").document
    [made] = [one for one in exceptions if one["digest"] == image.digest]
    assert (made["name"], made["uses"], made["state"]) == (document["exception"], 1, "ACTIVE")
    assert desk.say("admin", "gate", "exceptions", "revoke", "prod", made["name"]).code == DONE
    assert check(desk, str(image))[0] == REFUSED


def test_a_scan_asks_the_gateway_and_leaves_no_trace(desk: Desk, registry: DockerRegistry) -> None:
    good, bad = push(registry, "acme/scanned", b"good"), push(registry, "acme/scanned", b"bad")
    attest(desk, good)
    compose = desk.folder / "compose.yaml"
    compose.write_text(json.dumps({"services": {"a": {"image": str(good)}, "b": {"image": str(bad)}}}))
    said = desk.say("verifier", "gate", "scan", str(compose), "--policy", "prod", "--json")
    assert said.code == REFUSED
    assert {one["image"]: one["rule"] for one in said.document["findings"]} == {
        str(good): "image-allowed",
        str(bad): "image-refused",
    }
    assert desk.say("admin", "gate", "decisions", "list", "prod", "--digest", bad.digest, "--json").document == []


def test_a_draft_is_tried_on_what_was_decided(desk: Desk, registry: DockerRegistry) -> None:
    image = push(registry, "acme/tried", b"tried")
    attest(desk, image)
    assert check(desk, str(image))[0] == DONE
    draft = desk.folder / "draft.yaml"
    draft.write_text(POLICY.replace("type: release, signers: [release]", "type: spdx, signers: [release]"))
    said = desk.say("admin", "gate", "policy", "simulate", "prod", "--policy", str(draft), "--fail-on-change", "--json")
    assert said.code == REFUSED
    changes = {one["before"]["subject"]["name"]: one["after"]["outcome"] for one in said.document["changes"]}
    assert changes[str(image)] == "DENY"
    same = desk.say(
        "admin", "gate", "policy", "simulate", "prod", "--policy", str(desk.folder / "policy.yaml"), "--json"
    )
    assert (same.code, same.document["changes"]) == (DONE, [])


def test_a_policy_is_changed_by_two_people_only(desk: Desk) -> None:
    said = desk.say("admin", "gate", "policy", "set", "prod", str(desk.folder / "policy.yaml"), "--reason", "none")
    assert said.code == PROPOSED
    proposal = said.err.partition("approve ")[2].partition(";")[0]
    own = desk.say("admin", "approvals", "approve", proposal, "--yes")
    assert own.code == REFUSED
    assert desk.say("admin", "approvals", "withdraw", proposal).code == DONE
    bad = desk.folder / "bad.yaml"
    bad.write_text(POLICY.replace("gate: v1", "gate: v1\nunknown: 1"))
    refused = desk.say("admin", "gate", "policy", "set", "prod", str(bad))
    assert refused.code == 2
    assert "unknown member 'unknown'" in refused.err


def test_without_the_gateway_its_snapshot_decides(desk: Desk, registry: DockerRegistry) -> None:
    good, bad = push(registry, "acme/away", b"good"), push(registry, "acme/away", b"bad")
    attest(desk, good)
    folder = str(desk.folder / "gate")
    assert desk.say("verifier", "gate", "policy", "export", "prod", "--directory", folder).code == DONE
    offline = ("--offline", folder, "--verdict-key", "verdicts")
    code, document = check(desk, str(good), *offline)
    assert (code, document["offline"], document["policyVersion"]) == (DONE, True, f"{PARENT}/gates/prod/versions/1")
    assert check(desk, str(bad), *offline)[0] == REFUSED
    other = desk.say(
        *("verifier", "gate", str(good), "--policy", "prod", "--offline", folder, "--verdict-key", "release"), "--json"
    )
    assert other.code != DONE
