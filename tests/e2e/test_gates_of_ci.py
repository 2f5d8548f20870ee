"""Two CI systems build two images; every kind of gate is asked about the good ones and about each bad one.

The jobs have tokens of a real local issuer; the images, of a real registry, are index and image manifests made by hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sealkeeper.client import Client, Connection
from sealkeeper.client.attestation_operations import subject
from sealkeeper.client.token_source import FixedToken
from sealkeeper.registry import Deadline, ImageReference, Registry
from sealkeeper.registry.attach import attach_bundle
from sealkeeper.registry.manifest import OCI_INDEX, OCI_MANIFEST
from sealkeeper.server.identity import Role
from sealkeeper.server.policy_engine import default_policy
from tests.e2e.gate_webhook import RunningWebhook, running_webhook
from tests.e2e.running import ANY_PORT, DOMAIN, NO_RETRY, P256, PARENT, TENANT, Running
from tests.e2e.test_cli_approvals import DONE, REFUSED, Desk
from tests.oidc_issuer import Issuer, oidc_issuer
from tests.registry.attached import push_image
from tests.registry.scripted_registry import described
from tests.registry.scripted_registry import sha256 as digest_of
from tests.server.people import add_person
from tests.stores.docker_registry import docker_registry

SLSA, SPDX = "https://slsa.dev/provenance/v1", "https://spdx.dev/Document"
SBOM = json.dumps(
    {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": "app",
        "documentNamespace": "https://example.com/app",
        "creationInfo": {"created": "2026-01-01T00:00:00Z", "creators": ["Tool: by hand"]},
        "packages": [],
    }
).encode()
GITHUB, GITLAB = "acme-org/app", "acme-group/app"
SOURCES = {"github": "https://github.com", "gitlab": "https://gitlab.example.org"}
POLICY = f"""
gate: v1
description: what two CI systems may bring
verdict_key: {PARENT}/keys/verdicts
signers:
  github: {{key: {PARENT}/keys/github}}
  gitlab: {{key: {PARENT}/keys/gitlab}}
  retired: {{key: {PARENT}/keys/retired}}
builders:
  - {{signer: github, id: https://github.com/actions/runner/github-hosted, level: 3}}
  - {{signer: retired, id: https://github.com/actions/runner/github-hosted, level: 3}}
  - {{signer: gitlab, id: "https://gitlab.example.org/**", level: 2}}
require:
  provenance:
    minimum_level: 2
    source: {{repository: [https://github.com/{GITHUB}, https://gitlab.example.org/{GITLAB}], branch: main}}
    max_age: 1d
  attestations: [{{type: spdx, signers: [github, gitlab, retired]}}]
"""


@dataclass
class World:
    """A gateway, two CI systems, a registry, a webhook, and the images that were built.

    Attributes:
        gateway: it.
        second: who approves.
        issuers: of the CI systems' tokens, by kind.
        host: of the registry.
        webhook: in front of it all.
        images: by what is told of them below.
    """

    gateway: Running
    second: str
    issuers: dict[str, Issuer]
    host: str
    webhook: RunningWebhook
    images: dict[str, ImageReference] = field(default_factory=dict)

    def job(self, kind: str, **claims: Any) -> Client:
        """A job of a CI system."""
        token = self.issuers[kind].token(kind, f"https://{DOMAIN}", **claims)
        ca = self.gateway.directory / "tls" / "ca.pem"
        tokens = FixedToken(token, "the test's token", "none")
        return Client(Connection(self.gateway.addresses["tokens"], TENANT, ca, tokens=tokens), retry=NO_RETRY)

    def push(self, name: str, tag: str = "latest") -> ImageReference:
        """Put an image into the registry, another one for each name and tag."""
        reference = ImageReference.parse(f"{self.host}/acme/{name}:{tag}")
        return reference.with_digest(push_image(self.registry, reference, self.deadline, f"{name} {tag}".encode()))

    def push_index(self, name: str, *images: ImageReference) -> ImageReference:
        """Put an index of images into the registry."""
        reference = ImageReference.parse(f"{self.host}/acme/{name}")
        children = []
        for one in images:
            size = len(self.registry.manifest(one, self.deadline).data)
            children.append(described(one.digest, size, OCI_MANIFEST))
        data = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children}).encode()
        self.registry.push_manifest(reference, data, OCI_INDEX, self.deadline)
        return reference.with_digest(digest_of(data))

    @property
    def registry(self) -> Registry:
        return Registry(proxies={})

    @property
    def deadline(self) -> Deadline:
        return Deadline.after(60)

    def attach(self, image: ImageReference, bundle: bytes, predicate_type: str) -> None:
        attach_bundle(self.registry, image, bundle, predicate_type, self.deadline)

    def build(
        self, image: ImageReference, kind: str, key: str, *, about: str = "", sbom: bool = True, **claims: Any
    ) -> None:
        """Attest an image as a CI job does, and attach that. Nothing is left in the gateway's store."""
        subjects = [subject(str(image), sha256=(about or image.digest).removeprefix("sha256:"))]
        with self.job(kind, **claims) as job:
            name = f"{PARENT}/keys/{key}"
            provenance = job.attest_slsa(name, subjects, transient=True).signature.bundle
            self.attach(image, provenance, SLSA)
            if sbom:
                self.attach(image, job.attest(name, subjects, SPDX, SBOM, transient=True).signature.bundle, SPDX)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    gateway = Running.make(tmp_path_factory.mktemp("ci") / "gateway", policy=default_policy())
    second = add_person(gateway.directory, Role.ADMIN, "second")
    with ExitStack() as stack:
        issuers = {kind: stack.enter_context(oidc_issuer()) for kind in ("github", "gitlab")}
        gateway.change_settings(lambda text: with_issuers(text, issuers))
        stack.enter_context(gateway.running())
        with gateway.client("custodian") as custodian:
            for name, repository in KEYS.items():
                custodian.create_key(PARENT, name, P256, labels={"repository": repository} if repository else {})
        registry = stack.enter_context(docker_registry(tmp_path_factory.mktemp("registry")))
        folder = tmp_path_factory.mktemp("webhook")
        webhook = stack.enter_context(running_webhook(gateway, folder, registry.host, "fresh = 0\ncache = 0"))
        yield World(gateway, second, issuers, registry.host, webhook)


KEYS = {
    "github": GITHUB,
    "gitlab": GITLAB,
    "retired": GITHUB,
    "stranger": "acme-0rg/app",
    "verdicts": "",
}


def with_issuers(text: str, issuers: dict[str, Issuer]) -> str:
    text = text.replace("[http]", f'token_listen = "{ANY_PORT}"\n\n[http]', 1)
    for kind, issuer in issuers.items():
        text += f"""
[issuers.{kind}]
issuer = "{issuer.url}"
kind = "{kind}"
source_url = "{SOURCES[kind]}"
protected_refs = ["refs/heads/**"]
principals = [{{ claims = {{ sub = "*" }}, tenant = "{TENANT}", role = "ci" }}]
"""
    return text


def github(world: World, name: str) -> ImageReference:
    image = world.push(name)
    world.build(image, "github", "github")
    return image


def gitlab(world: World, name: str) -> ImageReference:
    image = world.push(name)
    world.build(image, "gitlab", "gitlab", runner_environment="gitlab-hosted")
    return image


def index(world: World, name: str) -> ImageReference:
    """An index of two images, all three attested."""
    first, second = world.push(name, "amd64"), world.push(name, "arm64")
    found = world.push_index(name, first, second)
    for one in (first, second, found):
        world.build(one, "github", "github")
    return found


def index_with_a_stranger(world: World, name: str) -> ImageReference:
    first, second = world.push(name, "amd64"), world.push(name, "arm64")
    found = world.push_index(name, first, second)
    for one in (first, found):
        world.build(one, "github", "github")
    return found


def by_a_stranger(world: World, name: str) -> ImageReference:
    image = world.push(name)
    workflow = "acme-0rg/app/.github/workflows/ci.yml@refs/heads/main"
    world.build(image, "github", "stranger", repository="acme-0rg/app", workflow_ref=workflow)
    return image


def about_another(world: World, name: str) -> ImageReference:
    image = world.push(name)
    world.build(image, "github", "github", about=f"sha256:{sha256(b'another').hexdigest()}")
    return image


def from_a_branch(world: World, name: str) -> ImageReference:
    image = world.push(name)
    workflow = f"{GITHUB}/.github/workflows/ci.yml@refs/heads/feature"
    world.build(image, "github", "github", ref="refs/heads/feature", workflow_ref=workflow)
    return image


def on_a_runner_of_its_own(world: World, name: str) -> ImageReference:
    image = world.push(name)
    world.build(image, "github", "github", runner_environment="self-hosted")
    return image


def without_papers(world: World, name: str) -> ImageReference:
    image = world.push(name)
    world.build(image, "github", "github", sbom=False)
    return image


def with_a_forged_envelope(world: World, name: str) -> ImageReference:
    image = world.push(name)
    with world.job("github") as job:
        about = [subject("x", sha256=sha256(b"x").hexdigest())]
        bundle = json.loads(job.attest_slsa(f"{PARENT}/keys/github", about, transient=True).signature.bundle)
    from base64 import b64decode, b64encode

    payload = json.loads(b64decode(bundle["dsseEnvelope"]["payload"]))
    payload["subject"][0]["digest"] = {"sha256": image.digest.removeprefix("sha256:")}
    bundle["dsseEnvelope"]["payload"] = b64encode(json.dumps(payload).encode()).decode()
    world.attach(image, json.dumps(bundle).encode(), SLSA)
    return image


def with_a_bomb(world: World, name: str) -> ImageReference:
    image = github(world, name)
    with world.job("github") as job:
        about = [subject("x", sha256=image.digest.removeprefix("sha256:"))]
        bundle = job.attest(f"{PARENT}/keys/github", about, SPDX, SBOM, transient=True).signature.bundle
    for place in range(64):
        world.attach(image, bundle + b" " * place, SPDX)
    return image


GOOD: dict[str, Callable[[World, str], ImageReference]] = {
    "built-by-github": github,
    "built-by-gitlab": gitlab,
    "an-index": index,
}
BAD: dict[str, tuple[Callable[[World, str], ImageReference], str]] = {
    "unsigned": (lambda world, name: world.push(name), "PROVENANCE_MISSING"),
    "by-a-stranger": (by_a_stranger, "PROVENANCE_BUILDER"),
    "about-another": (about_another, "PROVENANCE_MISSING"),
    "from-a-branch": (from_a_branch, "SOURCE_REF"),
    "on-a-runner-of-its-own": (on_a_runner_of_its_own, "PROVENANCE_BUILDER"),
    "without-papers": (without_papers, "ATTESTATION_MISSING"),
    "forged": (with_a_forged_envelope, "PROVENANCE_MISSING"),
    "an-index-with-a-stranger": (index_with_a_stranger, "PROVENANCE_MISSING"),
    "a-bomb": (with_a_bomb, "ATTESTATIONS_TOO_MANY"),
}


@pytest.fixture
def desk(world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Desk:
    found = Desk(world.gateway, tmp_path, world.second, capfd)
    (tmp_path / "policy.yaml").write_text(POLICY)
    with world.gateway.client("admin") as admin:
        known = list(admin.list_gates(PARENT))
    if not known:
        name = found.propose("admin", "gate", "policy", "set", "prod", str(tmp_path / "policy.yaml"))
        found.approve(name)
    return found


def image_of(world: World, name: str, make: Callable[[World, str], ImageReference]) -> ImageReference:
    if name not in world.images:
        world.images[name] = make(world, name)
    return world.images[name]


def ask_the_gateway(desk: Desk, world: World, image: ImageReference) -> tuple[bool, str]:
    said = desk.say("verifier", "gate", str(image), "--policy", "prod", "--json")
    assert said.code in (DONE, REFUSED), said
    return said.code == DONE, said.out


def ask_a_policy_here(desk: Desk, world: World, image: ImageReference) -> tuple[bool, str]:
    trust = str(desk.folder / "trust")
    assert desk.say("verifier", "trust", "export", trust).code == DONE
    file = str(desk.folder / "policy.yaml")
    said = desk.say("verifier", "gate", str(image), "--policy", file, "--trust", trust, "--json")
    assert said.code in (DONE, REFUSED), said
    return said.code == DONE, said.out


def ask_a_snapshot(desk: Desk, world: World, image: ImageReference) -> tuple[bool, str]:
    folder = str(desk.folder / "gate")
    assert desk.say("verifier", "gate", "policy", "export", "prod", "--directory", folder).code == DONE
    offline = ("--offline", folder, "--verdict-key", "verdicts")
    said = desk.say("verifier", "gate", str(image), "--policy", "prod", *offline, "--json")
    assert said.code in (DONE, REFUSED), said
    return said.code == DONE, said.out


def scan_a_manifest(desk: Desk, world: World, image: ImageReference) -> tuple[bool, str]:
    manifest = desk.folder / "pod.json"
    containers = [{"name": "app", "image": str(image)}]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": containers}}
    manifest.write_text(json.dumps(pod))
    said = desk.say("verifier", "gate", "scan", str(manifest), "--policy", "prod", "--json")
    assert said.code in (DONE, REFUSED), said
    return said.code == DONE, said.out


def admit_a_pod(desk: Desk, world: World, image: ImageReference) -> tuple[bool, str]:
    response = world.webhook.admit(str(image))
    return response["allowed"], json.dumps(response)


def ask_for_gatekeeper(desk: Desk, world: World, image: ImageReference) -> tuple[bool, str]:
    asked = {
        "apiVersion": "externaldata.gatekeeper.sh/v1beta1",
        "kind": "ProviderRequest",
        "request": {"keys": [str(image)]},
    }
    response = world.webhook.post("/external-data/validate", asked)["response"]
    items = response.get("items", [])
    return bool(items) and items[0].get("value") == str(image), json.dumps(response)


GATES = [ask_the_gateway, ask_a_policy_here, ask_a_snapshot, scan_a_manifest, admit_a_pod, ask_for_gatekeeper]


@pytest.mark.parametrize("gate", GATES, ids=lambda one: one.__name__)
@pytest.mark.parametrize("name", GOOD)
def test_what_is_good_passes_every_gate(
    world: World, desk: Desk, name: str, gate: Callable[[Desk, World, ImageReference], tuple[bool, str]]
) -> None:
    allowed, said = gate(desk, world, image_of(world, name, GOOD[name]))
    assert allowed, said


@pytest.mark.parametrize("gate", GATES, ids=lambda one: one.__name__)
@pytest.mark.parametrize("name", BAD)
def test_what_is_bad_passes_no_gate_and_each_says_why(
    world: World, desk: Desk, name: str, gate: Callable[[Desk, World, ImageReference], tuple[bool, str]]
) -> None:
    make, code = BAD[name]
    allowed, said = gate(desk, world, image_of(world, name, make))
    assert not allowed, said
    assert code in said, said


def test_a_key_that_is_compromised_opens_no_gate_any_more(world: World, desk: Desk) -> None:
    image = world.push("retired")
    world.build(image, "github", "retired")
    for gate in GATES:
        assert gate(desk, world, image)[0], gate.__name__
    desk.approve(desk.propose("custodian", "keys", "set-state", "retired/1", "COMPROMISED", "--yes"))
    for gate in (ask_the_gateway, ask_a_policy_here, ask_a_snapshot, scan_a_manifest, admit_a_pod):
        allowed, said = gate(desk, world, image)
        assert not allowed, gate.__name__
        assert "COMPROMISED" in said
