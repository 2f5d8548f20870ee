"""With Debian's real registry, which has no referrers API."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sealkeeper.registry import (
    ConfigFiles,
    Deadline,
    Hosts,
    ImageReference,
    Index,
    Layout,
    Limits,
    Platform,
    Registry,
    attach_bundle,
    find_bundles,
)
from sealkeeper.registry.cosign import DSSE_ENVELOPE, SIMPLE_SIGNING
from sealkeeper.registry.errors import (
    BlobUnknownError,
    ManifestUnknownError,
    RegistryDeniedError,
    RegistryUnavailableError,
)
from sealkeeper.registry.manifest import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor
from sealkeeper.registry.reference import referrers_tag
from tests.registry.attached import account_file, bundle_json, index_of, named, push_image
from tests.registry.scripted_registry import described, sha256
from tests.stores.docker_registry import DockerRegistry, docker_registry
from tests.stores.openbao import make_certificates

PREDICATE = "https://slsa.dev/provenance/v1"


def test_a_tag_resolves_to_the_digest_of_its_manifest(
    debian: DockerRegistry, client: Registry, deadline: Deadline
) -> None:
    reference = named(debian, "acme/resolved:1.0")
    digest = push_image(client, reference, deadline)
    found = client.resolve(reference, deadline)
    assert found.digest == digest
    assert found.media_type == OCI_MANIFEST
    assert str(found.reference) == f"{debian.host}/acme/resolved@{digest}"
    assert client.resolve(found.reference, deadline) == found


def test_a_blob_that_was_pushed_comes_back(debian: DockerRegistry, client: Registry, deadline: Deadline) -> None:
    reference = named(debian, "acme/blobs")
    data = bytes(range(256)) * 40_000
    descriptor = client.push_blob(reference, data, "application/octet-stream", deadline)
    assert client.push_blob(reference, data, "application/octet-stream", deadline) == descriptor
    assert client.blob(reference, descriptor, deadline) == data
    with pytest.raises(BlobUnknownError):
        client.blob(reference, Descriptor("a/b", sha256(b"else"), 4), deadline)


def test_what_is_not_there_is_unknown(debian: DockerRegistry, client: Registry, deadline: Deadline) -> None:
    with pytest.raises(ManifestUnknownError, match="acme/nothing:1"):
        client.resolve(named(debian, "acme/nothing:1"), deadline)


def test_an_attached_bundle_is_found_through_the_tag(
    debian: DockerRegistry, client: Registry, deadline: Deadline
) -> None:
    reference = named(debian, "acme/attached:1.0")
    image = client.resolve(reference.with_digest(push_image(client, reference, deadline)), deadline).reference
    assert not find_bundles(client, image, Limits(), deadline).bundles
    descriptor = attach_bundle(client, image, bundle_json(), PREDICATE, deadline)
    [found] = find_bundles(client, image, Limits(), deadline).bundles
    assert found.data == bundle_json()
    assert (found.content, found.predicate_type) == ("dsse-envelope", PREDICATE)
    assert found.origin.layout is Layout.REFERRERS_TAG
    assert (found.origin.image, found.origin.manifest) == (image.digest, descriptor.digest)
    listed = client.manifest(image.with_tag(referrers_tag(image.digest)), deadline)
    assert isinstance(listed, Index)
    assert listed.children == (descriptor,)


def test_a_bundle_that_is_attached_twice_is_there_once(
    debian: DockerRegistry, client: Registry, deadline: Deadline
) -> None:
    reference = named(debian, "acme/twice:1.0")
    push_image(client, reference, deadline)
    first = attach_bundle(client, reference, bundle_json(), PREDICATE, deadline)
    assert attach_bundle(client, reference, bundle_json(), PREDICATE, deadline) == first
    image = client.resolve(reference, deadline).reference
    assert len(find_bundles(client, image, Limits(), deadline).bundles) == 1


def test_bundles_that_are_attached_side_by_side_are_all_there(
    debian: DockerRegistry, client: Registry, deadline: Deadline
) -> None:
    reference = named(debian, "acme/side:1.0")
    push_image(client, reference, deadline)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda n: attach_bundle(client, reference, bundle_json(f"{n}"), "", deadline), range(8)))
    image = client.resolve(reference, deadline).reference
    found = find_bundles(client, image, Limits(), deadline)
    assert {one.data for one in found.bundles} == {bundle_json(f"{n}") for n in range(8)}


@pytest.mark.parametrize(("index_type", "image_type"), [(OCI_INDEX, OCI_MANIFEST), (DOCKER_LIST, DOCKER_MANIFEST)])
def test_the_images_of_an_index_are_found_with_what_is_attached_to_each(
    debian: DockerRegistry, client: Registry, deadline: Deadline, index_type: str, image_type: str
) -> None:
    reference = named(debian, f"acme/multi-{len(index_type)}:1.0")
    children = []
    for architecture in ("amd64", "arm64"):
        config = client.push_blob(reference, b"{}", "application/vnd.docker.container.image.v1+json", deadline)
        document: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": image_type,
            "config": described(config.digest, config.size, config.media_type),
            "layers": [],
            **({"annotations": {"for": architecture}} if image_type == OCI_MANIFEST else {"for": architecture}),
        }
        data = json.dumps(document).encode()
        client.push_manifest(reference.with_digest(sha256(data)), data, image_type, deadline)
        platform = {"os": "linux", "architecture": architecture}
        children.append(described(sha256(data), len(data), image_type, platform=platform))
    index = json.dumps({"schemaVersion": 2, "mediaType": index_type, "manifests": children}).encode()
    client.push_manifest(reference, index, index_type, deadline)
    whole = client.resolve(reference, deadline)
    images = client.images(whole, deadline)
    assert [image.platform for image in images] == [Platform("linux", "amd64"), Platform("linux", "arm64")]
    attach_bundle(client, whole.reference, bundle_json("index"), PREDICATE, deadline)
    attach_bundle(client, whole.reference.with_digest(images[0].digest), bundle_json("amd64"), PREDICATE, deadline)
    of_each = [
        find_bundles(client, whole.reference.with_digest(digest), Limits(), deadline).bundles
        for digest in (whole.digest, images[0].digest, images[1].digest)
    ]
    # The last one is the child of an index that is signed, and not signed itself.
    assert [[one.data for one in found] for found in of_each] == [[bundle_json("index")], [bundle_json("amd64")], []]


def test_what_cosign_kept_before_is_read(debian: DockerRegistry, client: Registry, deadline: Deadline) -> None:
    reference = named(debian, "acme/cosign:1.0")
    digest = push_image(client, reference, deadline)
    for suffix, media_type, notes in (
        (".sig", SIMPLE_SIGNING, {"dev.cosignproject.cosign/signature": "c2lnbmF0dXJl"}),
        (".att", DSSE_ENVELOPE, {"dev.cosignproject.cosign/signature": "", "predicateType": PREDICATE}),
    ):
        config = client.push_blob(reference, b"{}", "application/vnd.oci.image.config.v1+json", deadline)
        layer = client.push_blob(reference, suffix.encode(), media_type, deadline)
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": described(config.digest, config.size, config.media_type),
            "layers": [described(layer.digest, layer.size, media_type, annotations=notes)],
        }
        tagged = reference.with_tag(referrers_tag(digest, suffix))
        client.push_manifest(tagged, json.dumps(document).encode(), OCI_MANIFEST, deadline)
    found = find_bundles(client, reference.with_digest(digest), Limits(), deadline)
    [signature], [attestation] = found.signatures, found.attestations
    assert (signature.payload, signature.signature) == (b".sig", b"signature")
    assert signature.origin.layout is Layout.COSIGN_SIGNATURES
    assert attestation.envelope == b".att"
    assert attestation.annotations["predicateType"] == PREDICATE


def test_an_account_of_dockers_config_is_let_in_and_nobody_else(tmp_path: Path, deadline: Deadline) -> None:
    with docker_registry(tmp_path, account=("ci", "the password")) as registry:
        reference = named(registry, "acme/app:1.0")
        with pytest.raises(RegistryDeniedError):
            Registry(proxies={}).resolve(reference, deadline)
        good = account_file(tmp_path, {"auths": {registry.host: {"username": "ci", "password": "the password"}}})
        known = Registry(ConfigFiles((good,)), proxies={})
        digest = push_image(known, reference, deadline)
        assert known.resolve(reference, deadline).digest == digest
        bad = account_file(tmp_path, {"auths": {registry.host: {"username": "ci", "password": "a guess"}}})
        with pytest.raises(RegistryDeniedError) as refused:
            Registry(ConfigFiles((bad,)), proxies={}).resolve(reference, deadline)
        assert "guess" not in str(refused.value)


def test_a_private_ca_is_trusted_where_it_is_named_and_nowhere_else(tmp_path: Path, deadline: Deadline) -> None:
    make_certificates(tmp_path)
    with docker_registry(tmp_path / "data", tls=(tmp_path / "server.pem", tmp_path / "server.key")) as registry:
        hosts = Hosts(secure=frozenset({registry.host}))
        reference = named(registry, "acme/app:1.0")
        trusting = Registry(hosts=hosts, ca_file=tmp_path / "ca.pem", proxies={})
        assert trusting.resolve(reference.with_digest(push_image(trusting, reference, deadline)), deadline)
        with pytest.raises(RegistryUnavailableError, match="certificate is not good"):
            Registry(hosts=hosts, proxies={}).resolve(reference, deadline)


def test_an_index_whose_child_is_gone_is_listed_and_the_child_is_unknown(
    debian: DockerRegistry, client: Registry, deadline: Deadline
) -> None:
    reference = named(debian, "acme/gone:1.0")
    digest = push_image(client, reference, deadline)
    lost = described("sha256:" + "0" * 64, 100, OCI_MANIFEST)
    with pytest.raises(Exception, match="MANIFEST_BLOB_UNKNOWN"):
        client.push_manifest(reference, index_of(described(digest, 100, OCI_MANIFEST), lost), OCI_INDEX, deadline)
    with pytest.raises(ManifestUnknownError):
        client.manifest(ImageReference(reference.registry, reference.repository, digest=lost["digest"]), deadline)
