"""Images on the command line: attested, attached to in their registry, looked at; and gates take what was attached."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sealkeeper.registry import Deadline, ImageReference, Registry
from sealkeeper.registry.attach import attach_bundle
from sealkeeper.registry.manifest import OCI_INDEX, OCI_MANIFEST
from tests.e2e.command import run, run_here, settings
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
ATTEST = ("attest", "--predicate", "release.json", "--type", "release")
NOWHERE = "127.0.0.1:1/acme/app@sha256:" + "ab" * 32


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with docker_registry(tmp_path_factory.mktemp("images")) as running:
        yield running


@pytest.fixture
def folder(gateway: Running, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a predicate, a policy that wants it, and the trust root; ``ci`` calls, with a key of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "release.json").write_text('{"purl": "pkg:oci/app@1.0"}')
    (tmp_path / "policy.yaml").write_text(POLICY.format(key=key))
    found = run(gateway, "verifier", "trust", "export", "trust", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    monkeypatch.setenv("SEALKEEPER_CONFIG", str(settings(gateway, "ci", tmp_path)))
    monkeypatch.setenv("SEALKEEPER_SIGNING_KEY", key)
    return tmp_path


class Terminal:
    """Commands, with what they print."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd
        self.errors = ""

    def text(self, *arguments: str, code: int = 0) -> str:
        """Run a command; what it prints."""
        self._capfd.readouterr()
        found, out = run_here(*arguments), self._capfd.readouterr()
        assert found == code, out.err + out.out
        self.errors = out.err
        return out.out

    def document(self, *arguments: str, code: int = 0) -> Any:
        """Run a command; the document that it prints."""
        return json.loads(self.text(*arguments, "--json", code=code))

    def passes_gate(self, image: object) -> bool:
        """Whether the policy lets an image run, by what is in its registry alone."""
        arguments = ("gate", "check", str(image), "--policy", "policy.yaml", "--trust", "trust")
        self._capfd.readouterr()
        code = run_here(*arguments)
        assert code in (0, 1), self._capfd.readouterr().err
        return code == 0


@pytest.fixture
def terminal(folder: Path, capfd: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capfd)


def push(host: str, name: str, layer: bytes = b"layer") -> ImageReference:
    reference = ImageReference.parse(f"{host}/{name}")
    return reference.with_digest(push_image(Registry(proxies={}), reference, Deadline.after(30), layer))


def push_index(host: str, name: str) -> tuple[ImageReference, list[ImageReference]]:
    """An index of two images, and of papers that run nowhere; it, and the images, the papers last."""
    registry, deadline = Registry(proxies={}), Deadline.after(30)
    images = [push(host, name.partition(":")[0], f"{name} {one}".encode()) for one in ("amd64", "arm64", "papers")]
    platforms = [("linux", "amd64"), ("linux", "arm64"), ("unknown", "unknown")]
    children = [
        described(
            one.digest,
            len(registry.manifest(one, deadline).data),
            OCI_MANIFEST,
            platform={"os": platform[0], "architecture": platform[1]},
        )
        for one, platform in zip(images, platforms, strict=True)
    ]
    data = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children}).encode()
    reference = ImageReference.parse(f"{host}/{name}")
    registry.push_manifest(reference, data, OCI_INDEX, deadline)
    return reference.with_digest(sha256(data)), images


def subjects(bundle: Path) -> list[dict[str, Any]]:
    statement = json.loads(b64decode(json.loads(bundle.read_text())["dsseEnvelope"]["payload"]))
    found: list[dict[str, Any]] = statement["subject"]
    return found


def subject(image: ImageReference, name: str = "") -> dict[str, Any]:
    return {"name": name or str(image), "digest": {"sha256": image.digest.removeprefix("sha256:")}}


def test_an_image_is_attested_with_the_bundle_in_its_registry_and_passes_its_gate(
    registry: DockerRegistry, folder: Path, terminal: Terminal
) -> None:
    image = push(registry.host, "acme/app")
    assert not terminal.passes_gate(image)
    report = terminal.document(*ATTEST, str(image), "--attach")
    [attached] = report["attached"]
    assert (attached["image"], attached["layout"], attached["new"]) == (str(image), "REFERRERS_TAG", True)
    assert subjects(folder / report["bundle"]) == [subject(image)]
    assert terminal.passes_gate(image)


def test_without_attach_nothing_goes_into_the_registry(
    registry: DockerRegistry, folder: Path, terminal: Terminal
) -> None:
    image = push(registry.host, "acme/alone", b"alone")
    report = terminal.document(*ATTEST, str(image))
    assert report["attached"] == []
    assert subjects(folder / report["bundle"]) == [subject(image)]
    assert not terminal.passes_gate(image)


def test_a_tag_is_attested_as_the_image_that_it_means_now(
    registry: DockerRegistry, folder: Path, terminal: Terminal
) -> None:
    first = push(registry.host, "acme/tagged:1", b"first")
    name = f"{first.name}:1"
    report = terminal.document(*ATTEST, name, "--attach")
    push(registry.host, "acme/tagged:1", b"second")
    assert subjects(folder / report["bundle"]) == [subject(first, name)]
    assert terminal.passes_gate(first)
    assert not terminal.passes_gate(name)


def test_of_an_index_each_image_that_can_run_is_a_subject_and_is_attached_to(
    registry: DockerRegistry, folder: Path, terminal: Terminal
) -> None:
    index, [amd, arm, papers] = push_index(registry.host, "acme/multi:1")
    report = terminal.document(*ATTEST, str(index), "--attach")
    assert subjects(folder / report["bundle"]) == [subject(index), subject(amd), subject(arm)]
    assert [one["image"] for one in report["attached"]] == [str(index), str(amd), str(arm)]
    assert all(map(terminal.passes_gate, (index, amd, arm)))
    assert not terminal.passes_gate(papers)


def test_without_children_the_index_alone_is_a_subject(
    registry: DockerRegistry, folder: Path, terminal: Terminal
) -> None:
    index, [amd, *_] = push_index(registry.host, "acme/index:1")
    report = terminal.document(*ATTEST, str(index), "--attach", "--no-children")
    assert subjects(folder / report["bundle"]) == [subject(index)]
    assert [one["image"] for one in report["attached"]] == [str(index)]
    assert not terminal.passes_gate(amd)


def test_images_named_as_subjects_are_attached_to_and_files_stand_beside_them(
    registry: DockerRegistry, folder: Path, terminal: Terminal
) -> None:
    image = push(registry.host, "acme/both", b"both")
    (folder / "app.whl").write_bytes(b"wheel")
    shown = terminal.text(*ATTEST, "app.whl", "--subject", str(image), "--attach")
    assert f"  attached to {image} (referrers tag)" in shown.splitlines()
    [bundle] = folder.glob("*.sigstore.json")
    digest = sha256(b"wheel").removeprefix("sha256:")
    assert subjects(bundle) == [{"name": "app.whl", "digest": {"sha256": digest}}, subject(image)]
    assert terminal.passes_gate(image)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["release.json", "--attach"], "needs an image"),
        (["--subject", f"pkg:pypi/x@sha256:{'ab' * 32}", "--attach"], "--attach needs images"),
        (["app", "--attach"], "is not there"),
        (["ghcr.io/acme/app", "--attach"], "is not there"),
        (["ghcr.io/acme/app@sha256:ab"], "is no digest"),
        ([f"sha256:{'ab' * 32}"], "is not there"),
    ],
)
def test_what_is_no_image_is_refused_before_anything_is_signed(
    gateway: Running, terminal: Terminal, arguments: list[str], said: str
) -> None:
    size = gateway.tree_size()
    assert said in terminal.document(*ATTEST, *arguments, code=2)["error"]
    assert gateway.tree_size() == size


def test_an_image_that_is_not_there_or_not_reached_is_not_attested(
    gateway: Running, registry: DockerRegistry, terminal: Terminal
) -> None:
    size = gateway.tree_size()
    failure = terminal.document(*ATTEST, f"{registry.host}/acme/none:1", "--attach", code=2)
    assert failure["reason"] == "MANIFEST_UNKNOWN"
    assert terminal.document(*ATTEST, NOWHERE, code=3)["reason"] == "REGISTRY_UNAVAILABLE"
    assert gateway.tree_size() == size


def test_what_was_signed_and_could_not_be_attached_can_be_attached_later(
    registry: DockerRegistry, folder: Path, terminal: Terminal
) -> None:
    index, [amd, arm, _] = push_index(registry.host, "acme/later:1")
    # A registry that has lost the image of a child cannot have anything attached to it.
    registry_client, deadline = Registry(proxies={}), Deadline.after(30)
    data = registry_client.manifest(amd, deadline).data
    revisions = registry.directory / "data/docker/registry/v2/repositories/acme/later/_manifests/revisions/sha256"
    link = revisions / amd.digest.removeprefix("sha256:") / "link"
    link.unlink()
    failure = terminal.document(*ATTEST, str(index), "--attach", code=2)
    assert failure["reason"] == "MANIFEST_UNKNOWN"
    assert f"sealkeeper attach {index} attestation.release.sigstore.json" in failure["next_step"]
    registry_client.push_manifest(amd, data, OCI_MANIFEST, deadline)
    told = terminal.document("attach", str(index), "attestation.release.sigstore.json")
    assert [(one["image"], one["new"]) for one in told["attached"]] == [
        (str(index), False),
        (str(amd), True),
        (str(arm), True),
    ]
    assert terminal.passes_gate(index)


def test_bundles_are_attached_once_however_often_that_is_asked_for(
    registry: DockerRegistry, folder: Path, terminal: Terminal
) -> None:
    image = push(registry.host, "acme/again:1", b"again")
    bundle = terminal.document(*ATTEST, str(image))["bundle"]
    first = terminal.document("attach", f"{image.name}:1", bundle)
    second = terminal.document("attach", str(image), bundle)
    assert first["image"] == second["image"] == str(image)
    [once], [twice] = first["attached"], second["attached"]
    assert (once["new"], twice["new"]) == (True, False)
    assert {**once, "new": False} == twice
    assert (once["bundle"], once["predicateType"], once["layout"]) == (bundle, RELEASE, "REFERRERS_TAG")
    assert terminal.text("attach", str(image), bundle).splitlines() == [
        f"{bundle}: release",
        f"  was attached before to {image} (referrers tag)",
    ]
    assert terminal.errors == ""
    assert terminal.passes_gate(image)


def test_a_bundle_about_something_else_is_attached_with_a_warning_and_counts_for_nothing(
    registry: DockerRegistry, folder: Path, terminal: Terminal
) -> None:
    image = push(registry.host, "acme/wrong", b"wrong")
    bundle = terminal.document(*ATTEST, "release.json")["bundle"]
    terminal.document("attach", str(image), bundle)
    assert f"warning: {bundle} does not say that it is about {image}" in terminal.errors
    assert not terminal.passes_gate(image)


def test_what_is_no_bundle_is_named_and_nothing_is_attached(
    registry: DockerRegistry, folder: Path, terminal: Terminal
) -> None:
    image = push(registry.host, "acme/rubbish", b"rubbish")
    bundle = terminal.document(*ATTEST, str(image))["bundle"]
    old = json.loads((folder / bundle).read_text())
    old["mediaType"] = "application/vnd.dev.sigstore.bundle+json;version=0.2"
    old["verificationMaterial"] = {"publicKey": {"hint": "x"}, "tlogEntries": []}
    (folder / "old.json").write_text(json.dumps(old))
    for bad in ("release.json", "old.json"):
        failure = terminal.document("attach", str(image), bundle, bad, code=2)
        assert failure["violations"][0]["field"] == "BUNDLE"
        assert bad in failure["error"]
    assert not terminal.passes_gate(image)
    assert terminal.document("attach", str(image), "none.json", code=2)["reason"] == "FILE_NOT_FOUND"
    assert terminal.document("attach", NOWHERE, bundle, code=3)["reason"] == "REGISTRY_UNAVAILABLE"
    assert terminal.document("attach", "No Image", bundle, code=2)["reason"] == "REFERENCE_INVALID"


# ``sealkeeper provenance show`` of images.

SHOW = ("provenance", "show")
OFFLINE = ("--trust", "trust", "--offline")


def kinds(document: Any) -> list[tuple[str, bool | None]]:
    return [(one["kind"], one["verified"]) for one in document["nodes"]]


def test_what_is_attached_to_an_image_is_shown(registry: DockerRegistry, folder: Path, terminal: Terminal) -> None:
    image = push(registry.host, "acme/shown", b"shown")
    terminal.document(*ATTEST, str(image), "--attach", "--transient")
    for name in (str(image), f"{image.name}:latest", image.name):
        document = terminal.document(*SHOW, name, *OFFLINE)
        assert document["digest"] == image.digest
        assert kinds(document) == [("artifact", None), ("release", True)]
        assert document["nodes"][1]["origin"].startswith(f"registry referrers tag of {image.digest}")
    assert f"artifact {image}, " in terminal.text(*SHOW, str(image), *OFFLINE)


def test_what_a_gateway_keeps_of_an_image_is_shown_once_with_what_is_attached(
    registry: DockerRegistry, folder: Path, terminal: Terminal
) -> None:
    image = push(registry.host, "acme/kept", b"kept")
    terminal.document(*ATTEST, str(image), "--attach")
    assert kinds(terminal.document(*SHOW, str(image), "--trust", "trust")) == [("artifact", None), ("release", True)]


def test_without_the_registry_nothing_is_asked_of_it(registry: DockerRegistry, terminal: Terminal) -> None:
    image = push(registry.host, "acme/silent", b"silent")
    terminal.document(*ATTEST, str(image), "--attach", "--transient")
    assert kinds(terminal.document(*SHOW, str(image), "--no-registry", *OFFLINE, code=1)) == [("artifact", None)]
    assert terminal.document(*SHOW, NOWHERE, "--no-registry", *OFFLINE, code=1)["verified"] is False
    failure = terminal.document(*SHOW, f"{image.name}:latest", "--no-registry", *OFFLINE, code=2)
    assert failure["violations"][0]["field"] == "IMAGE"


def test_an_index_is_shown_with_the_images_that_can_run(registry: DockerRegistry, terminal: Terminal) -> None:
    index, [amd, arm, _] = push_index(registry.host, "acme/family:1")
    nodes = terminal.document(*SHOW, str(index), *OFFLINE, code=1)["nodes"]
    assert [(one["kind"], one["title"], one["digest"]) for one in nodes[1:]] == [
        ("index-child", "linux/amd64", amd.digest),
        ("index-child", "linux/arm64", arm.digest),
    ]


def test_what_is_attached_and_does_not_verify_is_shown_as_such(
    registry: DockerRegistry, folder: Path, terminal: Terminal
) -> None:
    image = push(registry.host, "acme/forged", b"forged")
    bundle = json.loads((folder / terminal.document(*ATTEST, str(image), "--transient")["bundle"]).read_text())
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = "MAYCAQECAQE="
    attach_bundle(Registry(proxies={}), image, json.dumps(bundle).encode(), RELEASE, Deadline.after(30))
    document = terminal.document(*SHOW, str(image), *OFFLINE, code=1)
    assert kinds(document) == [("artifact", None), ("attestation", False)]


def test_an_image_that_is_not_there_or_not_reached_is_an_error(registry: DockerRegistry, terminal: Terminal) -> None:
    assert terminal.document(*SHOW, NOWHERE, *OFFLINE, code=3)["reason"] == "REGISTRY_UNAVAILABLE"
    missing = f"{registry.host}/acme/none:1"
    assert terminal.document(*SHOW, missing, *OFFLINE, code=2)["reason"] == "MANIFEST_UNKNOWN"
    sha512 = f"{registry.host}/acme/none@sha512:{'ab' * 64}"
    assert terminal.document(*SHOW, sha512, *OFFLINE, code=2)["violations"][0]["field"] == "IMAGE"


def test_simulating_has_a_short_name_that_help_does_not_repeat(terminal: Terminal) -> None:
    assert "--fail-on-change" in terminal.text("gate", "simulate", "--help")
    assert "simulate" not in terminal.text("gate", "--help")
    assert "simulate" in terminal.text("gate", "policy", "--help")
