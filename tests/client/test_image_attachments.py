"""Attaching bundles to images: which images, how they are found there, and which arguments name an image at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sealkeeper.client.cli.images import image_of
from sealkeeper.client.gate_evidence import Target, image_target
from sealkeeper.client.image_attachments import attach, read_bundle
from sealkeeper.registry import Deadline, ImageReference, Layout, Registry
from sealkeeper.registry.errors import ImageReferenceError, ManifestUnknownError, RegistryUnavailableError
from sealkeeper.registry.manifest import OCI_MANIFEST
from sealkeeper.registry.reference import referrers_tag
from sealkeeper.verify.errors import VerifyError
from sealkeeper.verify.gate.decision import Artifact
from sealkeeper.verify.statement import Subject
from tests.client.provenance_samples import RELEASE, bundle_of, statement
from tests.registry.attached import index_of, named
from tests.registry.scripted_registry import Reply, ScriptedRegistry, described, scripted_registry, sha256
from tests.verify.signed import ARTIFACT, signed

REPOSITORY = "acme/app"


@pytest.fixture
def scripted() -> Iterator[ScriptedRegistry]:
    with scripted_registry() as running:
        yield running


def target_of(scripted: ScriptedRegistry, digest: str) -> Target:
    return image_target(named(scripted, f"{REPOSITORY}@{digest}"), Registry(proxies={}), Deadline.after(30))


def bundle_about(*digests: str) -> bytes:
    subjects = [Subject(f"image {place}", {"sha256": one[7:]}) for place, one in enumerate(digests)]
    return bundle_of(statement(RELEASE, {"purl": "pkg:oci/app@1"}, *subjects))


@pytest.mark.parametrize(("api", "layout"), [(True, Layout.REFERRERS_API), (False, Layout.REFERRERS_TAG)])
def test_where_a_bundle_is_found_and_whether_it_is_new_is_told(
    scripted: ScriptedRegistry, api: bool, layout: Layout
) -> None:
    scripted.referrers_api = api
    image = scripted.push_image(REPOSITORY)
    target, bundle = target_of(scripted, image), read_bundle(bundle_about(image))
    for is_new in (True, False):
        [one] = attach(Registry(proxies={}), target, bundle, 30)
        assert (one.image, one.layout, one.is_new) == (target.image, layout, is_new)
        assert (REPOSITORY, one.manifest) in scripted.manifests
    assert ((REPOSITORY, referrers_tag(image)) in scripted.manifests) is not api


def test_of_the_images_of_an_index_those_that_the_bundle_names_are_attached_to(scripted: ScriptedRegistry) -> None:
    images = [scripted.push_image(REPOSITORY, layer=one) for one in (b"one", b"two", b"three")]
    sizes = [len(scripted.manifests[REPOSITORY, one][1]) for one in images]
    children = [described(one, size, OCI_MANIFEST) for one, size in zip(images, sizes, strict=True)]
    index = scripted.put_manifest(REPOSITORY, index_of(*children))
    elsewhere = sha256(b"elsewhere")
    bundle = read_bundle(bundle_about(index, images[2], elsewhere, images[0]))
    told = list(attach(Registry(proxies={}), target_of(scripted, index), bundle, 30))
    assert [one.image.digest for one in told] == [index, images[0], images[2]]


def test_what_is_in_no_registry_is_attached_to_nowhere() -> None:
    target = Target(Artifact("a", {"sha256": "ab" * 32}))
    assert list(attach(Registry(proxies={}), target, read_bundle(bundle_about(sha256(b"a"))), 30)) == []


def test_a_registry_that_breaks_off_is_an_error_and_the_same_again_goes_on(scripted: ScriptedRegistry) -> None:
    image = scripted.push_image(REPOSITORY)
    target, bundle = target_of(scripted, image), read_bundle(bundle_about(image))
    scripted.before_put = lambda _: Reply(503)
    with pytest.raises(RegistryUnavailableError):
        list(attach(Registry(proxies={}), target, bundle, 30))
    scripted.before_put = lambda _: None
    assert [one.is_new for one in attach(Registry(proxies={}), target, bundle, 30)] == [True]


def test_an_image_that_is_gone_is_attached_to_by_nobody(scripted: ScriptedRegistry) -> None:
    image = scripted.push_image(REPOSITORY)
    target = target_of(scripted, image)
    del scripted.manifests[REPOSITORY, image]
    with pytest.raises(ManifestUnknownError):
        list(attach(Registry(proxies={}), target, read_bundle(bundle_about(image)), 30))


def test_a_file_gives_the_bundle_that_was_written_to_it() -> None:
    data = bundle_about(sha256(b"a"))
    read = read_bundle(b" \r\n" + data + b"\n")
    assert read == read_bundle(data)
    assert (read.data, read.version, read.predicate_type, read.digests) == (
        data,
        "0.3",
        RELEASE,
        frozenset({sha256(b"a")}),
    )


def test_a_signature_is_about_the_digest_that_it_says() -> None:
    read = read_bundle(signed().key_bundle)
    assert (read.predicate_type, read.digests) == ("", frozenset({sha256(ARTIFACT)}))


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"[" * 100_000])
def test_what_is_no_bundle_is_refused(data: bytes) -> None:
    with pytest.raises(VerifyError):
        read_bundle(data)


DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "bare", "expected"),
    [
        (f"ghcr.io/acme/app@{DIGEST}", False, f"ghcr.io/acme/app@{DIGEST}"),
        ("ghcr.io/acme/app:1.2", False, "ghcr.io/acme/app:1.2"),
        ("127.0.0.1:5000/app:1", False, "127.0.0.1:5000/app:1"),
        (f"alpine@{DIGEST}", False, f"docker.io/library/alpine@{DIGEST}"),
        ("ghcr.io/acme/app", True, "ghcr.io/acme/app:latest"),
        ("127.0.0.1:5000/app", True, "127.0.0.1:5000/app:latest"),
        (f"ghcr.io/app:{'a' * 128}@sha512:{'ab' * 64}", False, f"ghcr.io/app:{'a' * 128}@sha512:{'ab' * 64}"),
        ("ghcr.io/acme/app", False, None),
        ("127.0.0.1:5000/app", False, None),
        ("alpine", True, None),
        ("dist/app.whl", True, None),
        ("./dist/app", True, None),
        ("dist/*", True, None),
        ("Dist/App:1", True, None),
        (DIGEST, True, None),
        ("", True, None),
    ],
)
def test_an_argument_names_an_image_only_where_it_cannot_be_a_mistyped_file(
    text: str, bare: bool, expected: str | None
) -> None:
    found = image_of(text, bare=bare)
    assert (found if found is None else str(found)) == expected


def test_a_file_that_is_there_is_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert image_of("app:1") == ImageReference.parse("app:1")
    (tmp_path / "app:1").write_bytes(b"")
    assert image_of("app:1") is None


@pytest.mark.parametrize("text", ["ghcr.io/acme/app@sha256:ab", f"ghcr.io/ACME/app@{DIGEST}", "app@sha1:" + "ab" * 20])
def test_what_has_a_digest_and_is_no_image_is_told(text: str) -> None:
    with pytest.raises(ImageReferenceError):
        image_of(text)
