"""Gates that decide by a policy file: a real gateway signs, a real registry keeps, the command line decides."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sealkeeper.client.operations import dsse_content
from sealkeeper.registry import Deadline, ImageReference, Registry
from sealkeeper.registry.attach import attach_bundle
from sealkeeper.registry.manifest import OCI_INDEX, OCI_MANIFEST
from sealkeeper.verify.statement import PAYLOAD_TYPE, ResourceDescriptor, encode_statement
from tests.e2e.command import run, run_here
from tests.e2e.running import Running
from tests.registry.attached import push_image
from tests.registry.scripted_registry import described, sha256
from tests.stores.docker_registry import DockerRegistry, docker_registry

RELEASE = "https://in-toto.io/attestation/release/v0.1"
POLICY = """
gate: v1
signers: {{release: {{key: {key}}}}}
require:
  attestations: [{{type: release, signers: [release]}}]
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with docker_registry(tmp_path_factory.mktemp("images")) as running:
        yield running


@dataclass(frozen=True)
class Desk:
    """A gateway, a registry, and a folder to work in.

    Attributes:
        gateway: it.
        host: of the registry.
        folder: with the trust root and a policy.
        key: that the policy wants.
    """

    gateway: Running
    host: str
    folder: Path
    key: str

    def push(self, name: str, layer: bytes = b"layer") -> ImageReference:
        """Put an image into the registry."""
        reference = ImageReference.parse(f"{self.host}/{name}")
        return reference.with_digest(push_image(Registry(proxies={}), reference, Deadline.after(30), layer))

    def push_index(
        self, name: str, *images: ImageReference, for_nothing: Sequence[ImageReference] = ()
    ) -> ImageReference:
        """Put an index of images into the registry, some of them for no platform."""
        nothing = {"platform": {"os": "unknown", "architecture": "unknown"}}
        children = [described(one.digest, 1, OCI_MANIFEST) for one in images]
        children += [described(one.digest, 1, OCI_MANIFEST, **nothing) for one in for_nothing]
        images = (*images, *for_nothing)
        registry, deadline = Registry(proxies={}), Deadline.after(30)
        sizes = [len(registry.manifest(one, deadline).data) for one in images]
        for child, size in zip(children, sizes, strict=True):
            child["size"] = size
        data = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children}).encode()
        reference = ImageReference.parse(f"{self.host}/{name}")
        registry.push_manifest(reference, data, OCI_INDEX, deadline)
        return reference.with_digest(sha256(data))

    def attest(self, image: ImageReference, *, key: str = "", about: str = "", predicate_type: str = RELEASE) -> bytes:
        """Sign a statement about an image, or something else, and attach it."""
        digest = (about or image.digest).removeprefix("sha256:")
        payload = encode_statement(
            [ResourceDescriptor(str(image), {"sha256": digest})], predicate_type, b'{"purl":"pkg:oci/app@1.0"}'
        )
        with self.gateway.client("ci") as ci:
            bundle = ci.sign(key or self.key, dsse_content(PAYLOAD_TYPE, payload)).signature.bundle
        attach_bundle(Registry(proxies={}), image, bundle, predicate_type, Deadline.after(30))
        return bundle

    def check(self, *arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
        """Decide; exit code and document."""
        policy, trust = str(self.folder / "policy.yaml"), str(self.folder / "trust")
        capsys.readouterr()
        code = run_here("gate", *arguments, "--policy", policy, "--trust", trust, "--json")
        return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def desk(gateway: Running, registry: DockerRegistry, key: str, tmp_path: Path) -> Desk:
    found = run(gateway, "verifier", "trust", "export", "trust", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    (tmp_path / "policy.yaml").write_text(POLICY.format(key=key))
    return Desk(gateway, registry.host, tmp_path, key)


def codes(document: Any) -> set[str]:
    return {one["code"] for one in document["reasons"]}


def test_an_image_that_is_attested_may_run(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    image = desk.push("acme/app")
    desk.attest(image)
    code, document = desk.check(str(image), capsys=capsys)
    assert (code, document["outcome"], document["passed"]) == (0, "ALLOW", True)
    assert document["subject"]["digest"] == {"sha256": image.digest.removeprefix("sha256:")}


def test_a_tag_is_decided_on_as_the_image_that_it_means_now(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    image = desk.push("acme/app:1", b"one")
    desk.attest(image)
    assert desk.check(f"{image.name}:1", capsys=capsys)[0] == 0
    desk.push("acme/app:1", b"another")
    assert desk.check(f"{image.name}:1", capsys=capsys)[0] == 1


def test_an_image_about_which_there_is_nothing_may_not(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    code, document = desk.check(str(desk.push("acme/bare", b"bare")), capsys=capsys)
    assert (code, document["outcome"], codes(document)) == (1, "DENY", {"ATTESTATION_MISSING"})
    assert "nothing was found at all" in document["reasons"][0]["message"]


def test_a_statement_about_another_image_counts_for_nothing(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    image = desk.push("acme/other", b"other")
    desk.attest(image, about="sha256:" + "ab" * 32)
    code, document = desk.check(str(image), capsys=capsys)
    assert (code, codes(document)) == (1, {"ATTESTATION_MISSING"})
    assert "its statement is about something else" in document["reasons"][0]["message"]


def test_a_statement_by_another_key_counts_for_nothing(
    desk: Desk, capsys: pytest.CaptureFixture[str], new_key_id: str
) -> None:
    image = desk.push("acme/stranger", b"stranger")
    other = desk.gateway.create_key(new_key_id)
    assert run(desk.gateway, "verifier", "trust", "export", "trust", cwd=desk.folder).returncode == 0
    desk.attest(image, key=other)
    code, document = desk.check(str(image), capsys=capsys)
    assert (code, codes(document)) == (1, {"ATTESTATION_MISSING"})
    assert other in document["reasons"][0]["message"]


def test_every_image_of_an_index_must_be_attested(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    amd, arm = desk.push("acme/multi", b"amd64"), desk.push("acme/multi", b"arm64")
    index = desk.push_index("acme/multi:1", amd, arm)
    desk.attest(index)
    desk.attest(amd)
    code, document = desk.check(str(index), capsys=capsys)
    assert (code, codes(document)) == (1, {"ATTESTATION_MISSING"})
    assert any(one["rule"].startswith(f"children.{arm.digest[:19]}") for one in document["rules"] if not one["passed"])
    desk.attest(arm)
    assert desk.check(str(index), capsys=capsys)[0] == 0


def test_what_runs_on_no_platform_need_not_be_attested(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    amd, papers = desk.push("acme/kit", b"amd64"), desk.push("acme/kit", b"papers")
    index = desk.push_index("acme/kit:1", amd, for_nothing=[papers])
    desk.attest(index)
    desk.attest(amd)
    assert desk.check(str(index), capsys=capsys)[0] == 0


def test_a_file_is_decided_on_by_the_bundles_beside_it(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    file = desk.folder / "app.whl"
    file.write_bytes(b"wheel")
    image = desk.push("acme/carrier", b"carrier")
    bundle = desk.attest(image, about=sha256(b"wheel"))
    assert desk.check(str(file), capsys=capsys)[0] == 1
    (desk.folder / "app.whl.release.sigstore.json").write_bytes(bundle)
    assert desk.check(str(file), capsys=capsys)[0] == 0
    file.write_bytes(b"another wheel")
    assert desk.check(str(file), capsys=capsys)[0] == 1


def test_explain_shows_what_came_of_every_rule(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    image = desk.push("acme/app")
    desk.attest(image)
    policy, trust = str(desk.folder / "policy.yaml"), str(desk.folder / "trust")
    capsys.readouterr()
    assert run_here("gate", "explain", str(image), "--policy", policy, "--trust", trust) == 0
    shown = capsys.readouterr().out
    assert "attestations.release: " in shown
    assert "trust_root" in shown


def test_an_image_that_is_not_there_is_an_error(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    code, document = desk.check(f"{desk.host}/acme/nowhere:1", capsys=capsys)
    assert (code, document["reason"]) == (2, "MANIFEST_UNKNOWN")


def test_a_scan_finds_the_images_that_may_not_run(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = desk.push("acme/app"), desk.push("acme/bare", b"bare")
    desk.attest(good)
    manifest = desk.folder / "pods.yaml"
    pods = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"pod-{place}"},
            "spec": {"containers": [{"name": "app", "image": str(image)}]},
        }
        for place, image in enumerate((good, bad))
    ]
    manifest.write_text("\n---\n".join(map(json.dumps, pods)))
    policy, trust = str(desk.folder / "policy.yaml"), str(desk.folder / "trust")
    arguments = ("gate", "scan", str(manifest), "--policy", policy, "--trust", trust)
    capsys.readouterr()
    assert run_here(*arguments, "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert [(one["rule"], one["image"]) for one in document["findings"]] == [
        ("image-allowed", str(good)),
        ("image-refused", str(bad)),
    ]
    assert run_here(*arguments, "--format", "sarif", "-o", str(desk.folder / "out.sarif")) == 1
    [sarif] = json.loads((desk.folder / "out.sarif").read_text())["runs"]
    assert [one["level"] for one in sarif["results"] if one.get("kind") != "pass"] == ["error"]
    assert run_here(*arguments, "--format", "junit", "-o", str(desk.folder / "out.xml")) == 1
    assert 'failures="1"' in (desk.folder / "out.xml").read_text()
