"""A bundle that is attached is found, once, whatever others do at the same time."""

from __future__ import annotations

import json

import pytest

from sealkeeper.registry import Deadline, ImageReference, Index, Limits, Registry, attach_bundle, find_bundles
from sealkeeper.registry.errors import ConflictError, MalformedError, ManifestUnknownError, TooLargeError, TooManyError
from sealkeeper.registry.manifest import OCI_INDEX, OCI_MANIFEST
from sealkeeper.registry.reference import referrers_tag
from tests.registry.attached import bundle_json, index_of, named
from tests.registry.scripted_registry import Reply, ScriptedRegistry, described, sha256

REPOSITORY = "acme/app"
PREDICATE = "https://slsa.dev/provenance/v1"


@pytest.fixture
def image(scripted: ScriptedRegistry) -> ImageReference:
    return named(scripted, f"{REPOSITORY}@{scripted.push_image(REPOSITORY)}")


def listed(client: Registry, image: ImageReference, deadline: Deadline) -> list[str]:
    index = client.manifest(image.with_tag(referrers_tag(image.digest)), deadline)
    assert isinstance(index, Index)
    return [child.digest for child in index.children]


def test_a_registry_with_the_api_gets_no_tag(
    scripted: ScriptedRegistry, image: ImageReference, client: Registry, deadline: Deadline
) -> None:
    descriptor = attach_bundle(client, image, bundle_json(), PREDICATE, deadline)
    with pytest.raises(ManifestUnknownError):
        listed(client, image, deadline)
    [found] = find_bundles(client, image, Limits(), deadline).bundles
    assert found.origin.manifest == descriptor.digest


def test_the_manifest_is_laid_out_as_cosign_has_it(
    scripted: ScriptedRegistry, image: ImageReference, client: Registry, deadline: Deadline
) -> None:
    bundle = json.dumps({"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "messageSignature": {}}).encode()
    descriptor = attach_bundle(client, image, bundle, "", deadline)
    _, data = scripted.manifests[REPOSITORY, descriptor.digest]
    size = len(scripted.manifests[REPOSITORY, image.digest][1])
    assert json.loads(data) == {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        # Digest and size of the empty descriptor: OCI image spec v1.1, "Guidance for an Empty Descriptor".
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
            "size": 2,
        },
        "layers": [described(sha256(bundle), len(bundle), "application/vnd.dev.sigstore.bundle.v0.3+json")],
        "subject": described(image.digest, size, OCI_MANIFEST),
        "annotations": {"dev.sigstore.bundle.content": "message-signature"},
    }
    assert scripted.blobs[sha256(b"{}")] == b"{}"


def test_what_others_listed_stays_as_it_is(
    scripted: ScriptedRegistry, image: ImageReference, client: Registry, deadline: Deadline
) -> None:
    scripted.referrers_api = False
    other = {**described(sha256(b"sbom"), 4, OCI_MANIFEST, artifactType="a/b"), "com.example.unknown": [1, 2]}
    scripted.put_manifest(REPOSITORY, index_of(other), referrers_tag(image.digest))
    attach_bundle(client, image, bundle_json(), PREDICATE, deadline)
    _, data = scripted.manifests[REPOSITORY, referrers_tag(image.digest)]
    manifests = json.loads(data)["manifests"]
    assert manifests[0] == other
    assert manifests[1]["annotations"]["dev.sigstore.bundle.predicateType"] == PREDICATE
    assert len(manifests) == 2


def test_a_change_that_another_client_loses_is_made_again(
    scripted: ScriptedRegistry, image: ImageReference, client: Registry, deadline: Deadline
) -> None:
    scripted.referrers_api = False
    tag = referrers_tag(image.digest)
    other = described(sha256(b"other"), 5, OCI_MANIFEST)
    writes = []

    def overwriting(name: str) -> Reply | None:
        if name != tag:
            return None
        writes.append(name)
        if len(writes) == 1:
            # Another client writes its own list just after this one has written, and knows nothing of it.
            scripted.put_manifest(REPOSITORY, index_of(other), tag)
            return Reply(201)
        return None

    scripted.before_put = overwriting
    descriptor = attach_bundle(client, image, bundle_json(), PREDICATE, deadline)
    assert listed(client, image, deadline) == [other["digest"], descriptor.digest]
    assert len(writes) == 2


def test_a_list_that_changes_meanwhile_is_read_again_where_the_registry_looks_at_etags(
    scripted: ScriptedRegistry, image: ImageReference, client: Registry, deadline: Deadline
) -> None:
    scripted.referrers_api = False
    tag = referrers_tag(image.digest)
    first, second = (described(sha256(words), 5, OCI_MANIFEST) for words in (b"first", b"second"))
    scripted.put_manifest(REPOSITORY, index_of(first), tag)
    writes = []

    def racing(name: str) -> None:
        writes.append(name)
        if name == tag and writes.count(tag) == 1:
            scripted.put_manifest(REPOSITORY, index_of(first, second), tag)

    scripted.before_put = racing
    descriptor = attach_bundle(client, image, bundle_json(), PREDICATE, deadline)
    assert listed(client, image, deadline) == [first["digest"], second["digest"], descriptor.digest]


def test_a_list_that_never_comes_to_rest_is_given_up(
    scripted: ScriptedRegistry, image: ImageReference, client: Registry, deadline: Deadline
) -> None:
    scripted.referrers_api = False
    tag = referrers_tag(image.digest)
    scripted.before_put = lambda name: Reply(412) if name == tag else None
    with pytest.raises(ConflictError) as refused:
        attach_bundle(client, image, bundle_json(), PREDICATE, deadline)
    assert refused.value.transient
    assert scripted.paths("PUT").count(f"/v2/{REPOSITORY}/manifests/{tag}") == 8


def test_a_full_list_is_not_made_longer(
    scripted: ScriptedRegistry, image: ImageReference, client: Registry, deadline: Deadline
) -> None:
    scripted.referrers_api = False
    full = index_of(*(described(sha256(b"%d" % n), 1, OCI_MANIFEST) for n in range(1000)))
    scripted.put_manifest(REPOSITORY, full, referrers_tag(image.digest))
    with pytest.raises(TooManyError):
        attach_bundle(client, image, bundle_json(), PREDICATE, deadline)


def test_a_tag_that_is_no_list_is_not_overwritten(
    scripted: ScriptedRegistry, image: ImageReference, client: Registry, deadline: Deadline
) -> None:
    scripted.referrers_api = False
    tag = referrers_tag(image.digest)
    scripted.push_image(REPOSITORY, tag, layer=b"somebody's image")
    with pytest.raises(MalformedError):
        attach_bundle(client, image, bundle_json(), PREDICATE, deadline)
    assert scripted.manifests[REPOSITORY, tag][0] == OCI_MANIFEST != OCI_INDEX


@pytest.mark.parametrize(
    "bundle",
    [
        b"",
        b"no JSON",
        b"[]",
        b"{}",
        bundle_json(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.1"),
        bundle_json(messageSignature={}),
        b'{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_bundle_is_not_attached(
    scripted: ScriptedRegistry, image: ImageReference, client: Registry, deadline: Deadline, bundle: bytes
) -> None:
    with pytest.raises(MalformedError):
        attach_bundle(client, image, bundle, PREDICATE, deadline)
    assert not scripted.seen


def test_a_bundle_that_nobody_would_read_is_not_attached(
    scripted: ScriptedRegistry, image: ImageReference, client: Registry, deadline: Deadline
) -> None:
    with pytest.raises(TooLargeError):
        attach_bundle(client, image, b" " * (24 * 1024 * 1024 + 1), PREDICATE, deadline)


def test_nothing_is_attached_to_what_is_not_there(
    scripted: ScriptedRegistry, client: Registry, deadline: Deadline
) -> None:
    with pytest.raises(ManifestUnknownError):
        attach_bundle(client, named(scripted, "acme/nothing:1"), bundle_json(), PREDICATE, deadline)
    assert scripted.paths("PUT") == []
