"""What is attached to an image is found with its place, and no amount or kind of it takes the reader down."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sealkeeper.registry import Deadline, FoundBundles, ImageReference, Layout, Limits, Registry, find_bundles
from sealkeeper.registry.cosign import BUNDLE, DSSE_ENVELOPE, SIMPLE_SIGNING
from sealkeeper.registry.errors import (
    DigestLiesError,
    ImageReferenceError,
    MalformedError,
    RedirectRefusedError,
    RegistryDeniedError,
    RegistryError,
    RegistryTimeoutError,
    TooLargeError,
    TooManyError,
)
from sealkeeper.registry.manifest import OCI_INDEX, OCI_MANIFEST
from sealkeeper.registry.reference import referrers_tag
from tests.registry.attached import bundle_json, bundle_manifest, index_of, named
from tests.registry.scripted_registry import Reply, ScriptedRegistry, described, endless, hang, sha256

MEGABYTE = 1024 * 1024
REPOSITORY = "acme/app"


def attach(registry: ScriptedRegistry, image: str, bundle: bytes, **changes: Any) -> str:
    return registry.put_manifest(REPOSITORY, bundle_manifest(registry, image, bundle, **changes))


@pytest.fixture
def image(scripted: ScriptedRegistry) -> ImageReference:
    return named(scripted, f"{REPOSITORY}@{scripted.push_image(REPOSITORY)}")


@pytest.fixture(params=[True, False], ids=["referrers API", "tag"])
def either(request: pytest.FixtureRequest, scripted: ScriptedRegistry) -> ScriptedRegistry:
    """With the API, and without."""
    scripted.referrers_api = request.param
    return scripted


def list_in_tag(registry: ScriptedRegistry, image: ImageReference, *digests: str, **more: Any) -> None:
    """What clients do where there is no API."""
    listed = [
        described(one, len(registry.manifests[REPOSITORY, one][1]), OCI_MANIFEST, **{"artifactType": BUNDLE, **more})
        for one in digests
    ]
    registry.put_manifest(REPOSITORY, index_of(*listed), referrers_tag(image.digest))


def test_bundles_are_found_with_their_annotations_and_place(
    either: ScriptedRegistry, image: ImageReference, client: Registry, deadline: Deadline
) -> None:
    notes = {
        "dev.sigstore.bundle.content": "dsse-envelope",
        "dev.sigstore.bundle.predicateType": "https://slsa.dev/provenance/v1",
    }
    digest = attach(either, image.digest, bundle_json(), annotations=notes)
    list_in_tag(either, image, digest)
    [found] = find_bundles(client, image, Limits(), deadline).bundles
    assert found.data == bundle_json()
    assert (found.content, found.predicate_type) == ("dsse-envelope", "https://slsa.dev/provenance/v1")
    assert found.origin.layout is (Layout.REFERRERS_API if either.referrers_api else Layout.REFERRERS_TAG)
    assert (found.origin.manifest, found.origin.layer) == (digest, sha256(bundle_json()))


def test_an_image_without_a_digest_is_refused(scripted: ScriptedRegistry, client: Registry, deadline: Deadline) -> None:
    with pytest.raises(ImageReferenceError):
        find_bundles(client, named(scripted, f"{REPOSITORY}:1.0"), Limits(), deadline)


def test_bundles_of_all_pages_are_found(
    scripted: ScriptedRegistry, image: ImageReference, client: Registry, deadline: Deadline
) -> None:
    scripted.page = 3
    for number in range(10):
        attach(scripted, image.digest, bundle_json(f"{number}"))
    found = find_bundles(client, image, Limits(), deadline)
    assert {one.data for one in found.bundles} == {bundle_json(f"{number}") for number in range(10)}
    assert sum("referrers" in path for path in scripted.paths()) == 4


def test_only_bundles_are_asked_for_and_what_else_comes_is_left_out(
    either: ScriptedRegistry, image: ImageReference, client: Registry, deadline: Deadline
) -> None:
    digest = attach(either, image.digest, b"an SBOM", artifactType="application/spdx+json")
    list_in_tag(either, image, digest, artifactType="application/spdx+json")
    found = find_bundles(client, image, Limits(), deadline)
    assert not found.bundles
    assert not found.unusable
    [asked] = [path for path in either.paths() if "referrers" in path]
    assert "artifactType=application%2Fvnd.dev.sigstore.bundle.v0.3%2Bjson" in asked


def test_nothing_attached_is_nothing_found(
    either: ScriptedRegistry, image: ImageReference, client: Registry, deadline: Deadline
) -> None:
    found = find_bundles(client, image, Limits(), deadline)
    assert found == FoundBundles()


# Bombs


def test_ten_thousand_attestations_are_refused_before_one_is_fetched(
    either: ScriptedRegistry, image: ImageReference, client: Registry, deadline: Deadline
) -> None:
    many = [described(sha256(b"%d" % n), 500, OCI_MANIFEST, artifactType=BUNDLE) for n in range(10_000)]
    if either.referrers_api:
        path = f"/v2/{REPOSITORY}/referrers/{image.digest}"
        either.replies[path] = Reply(200, index_of(*many), {"Content-Type": OCI_INDEX})
    else:
        either.put_manifest(REPOSITORY, index_of(*many), referrers_tag(image.digest))
    with pytest.raises(TooManyError) as refused:
        find_bundles(client, image, Limits(), deadline)
    assert refused.value.reason == "TOO_MANY"
    assert len(either.seen) <= 2


def test_one_bundle_more_than_the_limit_is_refused_and_not_left_out(
    either: ScriptedRegistry, image: ImageReference, client: Registry, deadline: Deadline
) -> None:
    either.page = 2
    digests = [attach(either, image.digest, bundle_json(f"{number}")) for number in range(5)]
    list_in_tag(either, image, *digests)
    assert len(find_bundles(client, image, Limits(bundles=5), deadline).bundles) == 5
    either.seen.clear()
    with pytest.raises(TooManyError):
        find_bundles(client, image, Limits(bundles=4), deadline)
    assert not any("blobs" in path for path in either.paths())


def test_signatures_of_all_layouts_count_together(
    scripted: ScriptedRegistry, image: ImageReference, client: Registry, deadline: Deadline
) -> None:
    attach(scripted, image.digest, bundle_json())
    keep_as_cosign(scripted, image, ".sig", SIMPLE_SIGNING, 2)
    keep_as_cosign(scripted, image, ".att", DSSE_ENVELOPE, 2)
    found = find_bundles(client, image, Limits(bundles=5), deadline)
    assert (len(found.bundles), len(found.signatures), len(found.attestations)) == (1, 2, 2)
    with pytest.raises(TooManyError):
        find_bundles(client, image, Limits(bundles=4), deadline)


def keep_as_cosign(
    registry: ScriptedRegistry, image: ImageReference, suffix: str, media_type: str, count: int, **changes: Any
) -> None:
    layers = []
    for number in range(count):
        data = f"{suffix} {number}".encode()
        notes = {"dev.cosignproject.cosign/signature": "c2lnbmF0dXJl"}
        layer = described(registry.put_blob(data), len(data), media_type, annotations=notes)
        layers.append({**layer, **changes})
    config = described(registry.put_blob(b"{}"), 2, "application/vnd.oci.image.config.v1+json")
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers}
    registry.put_manifest(REPOSITORY, document, referrers_tag(image.digest, suffix))


def test_a_predicate_of_100_megabytes_is_refused_before_it_is_fetched(
    scripted: ScriptedRegistry, image: ImageReference, client: Registry, deadline: Deadline
) -> None:
    layer = described(sha256(b"huge"), 100 * MEGABYTE, BUNDLE)
    attach(scripted, image.digest, b"", layers=[layer])
    with pytest.raises(TooLargeError) as refused:
        find_bundles(client, image, Limits(), deadline)
    assert refused.value.reason == "TOO_LARGE"
    assert not any("blobs" in path for path in scripted.paths())


def test_a_predicate_of_100_megabytes_that_is_said_to_be_small_is_a_lie(
    scripted: ScriptedRegistry, image: ImageReference, client: Registry, deadline: Deadline
) -> None:
    digest = sha256(b"huge")
    attach(scripted, image.digest, b"", layers=[described(digest, 1000, BUNDLE)])
    scripted.replies[f"/v2/{REPOSITORY}/blobs/{digest}"] = endless
    with pytest.raises(DigestLiesError):
        find_bundles(client, image, Limits(), deadline)


def test_bundles_that_are_too_large_together_are_refused(
    scripted: ScriptedRegistry, image: ImageReference, client: Registry, deadline: Deadline
) -> None:
    for number in range(4):
        attach(scripted, image.digest, bundle_json(f"{number}", more="x" * 1000))
    size = len(bundle_json("0", more="x" * 1000))
    assert len(find_bundles(client, image, Limits(total_size=4 * size), deadline).bundles) == 4
    with pytest.raises(TooLargeError, match="together"):
        find_bundles(client, image, Limits(total_size=4 * size - 1), deadline)


@pytest.mark.parametrize("suffix", ["", ".sig", ".att"])
def test_a_manifest_nested_without_end_is_refused(
    scripted: ScriptedRegistry, image: ImageReference, client: Registry, deadline: Deadline, suffix: str
) -> None:
    scripted.referrers_api = False
    path = f"/v2/{REPOSITORY}/manifests/{referrers_tag(image.digest, suffix)}"
    for deep in (b'{"manifests":' + b"[" * 1_000_000, b'{"a":' * 50 + b"1" + b"}" * 50):
        scripted.replies[path] = Reply(200, deep, {"Content-Type": OCI_INDEX})
        with pytest.raises((MalformedError, TooManyError)):
            find_bundles(client, image, Limits(), deadline)


def test_pages_without_end_are_refused(
    scripted: ScriptedRegistry, image: ImageReference, client: Registry, deadline: Deadline
) -> None:
    path = f"/v2/{REPOSITORY}/referrers/{image.digest}"
    headers = {"Content-Type": OCI_INDEX, "Link": f'<{path}?last=1>; rel="next"'}
    scripted.replies[path] = Reply(200, index_of(), headers)
    with pytest.raises(TooManyError, match="pages"):
        find_bundles(client, image, Limits(), deadline)
    assert len(scripted.seen) <= 17


@pytest.mark.parametrize(
    "target",
    [
        "https://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1:1/v2/acme/app/referrers/",
        "https://elsewhere.example/",
        "/v2/other/app/referrers/sha256:" + "0" * 64,
        "/v2/",
        "/metrics",
        "file:///etc/passwd",
    ],
)
def test_a_page_that_is_elsewhere_is_refused(
    scripted: ScriptedRegistry, image: ImageReference, client: Registry, deadline: Deadline, target: str
) -> None:
    headers = {"Content-Type": OCI_INDEX, "Link": f'<{target}>; rel="next"'}
    scripted.replies[f"/v2/{REPOSITORY}/referrers/{image.digest}"] = Reply(200, index_of(), headers)
    with pytest.raises(RedirectRefusedError):
        find_bundles(client, image, Limits(), deadline)
    assert len(scripted.seen) == 1


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(200, index_of(), {"Content-Type": "text/html"}), MalformedError),
        (Reply(200, index_of()), MalformedError),
        (Reply(200, b"<html>", {"Content-Type": OCI_INDEX}), MalformedError),
        (Reply(200, b'{"manifests":[]}', {"Content-Type": OCI_INDEX}), MalformedError),
        (Reply(403), RegistryDeniedError),
        (Reply(418), RegistryError),
    ],
)
def test_a_list_that_is_none_is_refused(
    scripted: ScriptedRegistry,
    image: ImageReference,
    client: Registry,
    deadline: Deadline,
    reply: Reply,
    expected: type[RegistryError],
) -> None:
    scripted.replies[f"/v2/{REPOSITORY}/referrers/{image.digest}"] = reply
    with pytest.raises(expected):
        find_bundles(client, image, Limits(), deadline)


@pytest.mark.parametrize("part", ["referrers", "manifests", "blobs", ".sig", ".att"])
def test_a_registry_that_hangs_at_any_step_ends_with_the_deadline(
    scripted: ScriptedRegistry, image: ImageReference, client: Registry, part: str
) -> None:
    manifest = attach(scripted, image.digest, bundle_json())
    path = {
        "referrers": f"referrers/{image.digest}",
        "manifests": f"manifests/{manifest}",
        "blobs": f"blobs/{sha256(bundle_json())}",
    }.get(part, f"manifests/{referrers_tag(image.digest, part)}")
    scripted.replies[f"/v2/{REPOSITORY}/{path}"] = hang
    with pytest.raises(RegistryTimeoutError):
        find_bundles(client, image, Limits(), Deadline.after(0.5))


@pytest.mark.parametrize("kind", ["manifests", "blobs"])
def test_a_registry_that_lies_about_an_attachment_is_refused(
    scripted: ScriptedRegistry, image: ImageReference, client: Registry, deadline: Deadline, kind: str
) -> None:
    good = attach(scripted, image.digest, bundle_json("good"))
    other = bundle_manifest(scripted, image.digest, bundle_json("evil"))
    digest, body = (
        (good, json.dumps(other).encode())
        if kind == "manifests"
        else (
            sha256(bundle_json("good")),
            bundle_json("evil"),
        )
    )
    scripted.replies[f"/v2/{REPOSITORY}/{kind}/{digest}"] = Reply(200, body, {"Content-Type": OCI_MANIFEST})
    with pytest.raises(DigestLiesError):
        find_bundles(client, image, Limits(), deadline)


# Rubbish beside good ones


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": described("sha256:" + "0" * 64, 100, OCI_MANIFEST)},
        {"subject": None},
        {"artifactType": "application/spdx+json"},
        {"layers": []},
        {"layers": [described(sha256(b"x"), 1, "text/plain")]},
        {"layers": [described(sha256(b"1"), 1, BUNDLE), described(sha256(b"2"), 1, BUNDLE)]},
        {"layers": [described(sha256(b"not there"), 9, BUNDLE)]},
        {"layers": "none"},
        {"config": None},
        {"annotations": {"a": 1}},
    ],
)
def test_what_is_listed_and_no_bundle_of_this_image_is_told_beside_the_good_ones(
    scripted: ScriptedRegistry, image: ImageReference, client: Registry, deadline: Deadline, changes: dict[str, Any]
) -> None:
    scripted.referrers_api = False
    good, bad = (attach(scripted, image.digest, bundle_json(w), **c) for w, c in (("good", {}), ("bad", changes)))
    list_in_tag(scripted, image, bad, good)
    found = find_bundles(client, image, Limits(), deadline)
    assert [one.data for one in found.bundles] == [bundle_json("good")]
    [unusable] = found.unusable
    assert unusable.origin.manifest == bad
    assert unusable.reason in ("MALFORMED", "BLOB_UNKNOWN")
    assert unusable.problem


def test_a_referrer_that_is_gone_is_told_beside_the_good_ones(
    scripted: ScriptedRegistry, image: ImageReference, client: Registry, deadline: Deadline
) -> None:
    scripted.referrers_api = False
    good, gone = (attach(scripted, image.digest, bundle_json(words)) for words in ("good", "gone"))
    list_in_tag(scripted, image, gone, good)
    del scripted.manifests[REPOSITORY, gone]
    found = find_bundles(client, image, Limits(), deadline)
    assert len(found.bundles) == 1
    assert [one.reason for one in found.unusable] == ["MANIFEST_UNKNOWN"]


def test_a_signature_of_cosign_without_a_signature_is_told(
    scripted: ScriptedRegistry, image: ImageReference, client: Registry, deadline: Deadline
) -> None:
    bad: list[dict[str, Any]] = [{"annotations": {}}, {"mediaType": "text/plain"}]
    for changes in bad:
        keep_as_cosign(scripted, image, ".sig", SIMPLE_SIGNING, 1, **changes)
        found = find_bundles(client, image, Limits(), deadline)
        assert not found.signatures
        assert [one.origin.layout for one in found.unusable] == [Layout.COSIGN_SIGNATURES]
