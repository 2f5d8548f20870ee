"""A manifest is what the OCI image spec allows, or refused; an index is walked as deep as is allowed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.registry import Deadline, Index, Manifest, Platform, Registry
from sealkeeper.registry.errors import MalformedError, RegistryError, TooLargeError, TooManyError
from sealkeeper.registry.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    descriptor_json,
    parse_descriptor,
    parse_manifest,
)
from tests.registry.attached import index_of, named
from tests.registry.scripted_registry import ScriptedRegistry, described, sha256

D = sha256(b"")
LAYER = described(D, 0, "application/vnd.oci.image.layer.v1.tar+gzip")
IMAGE: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": LAYER, "layers": [LAYER]}
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
INDEX: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [LAYER]}


def parsed(document: object, kind: str = OCI_MANIFEST) -> Manifest | Index:
    return parse_manifest(json.dumps(document).encode(), D, kind)


def test_a_manifest_and_an_index_are_read() -> None:
    image = parsed({**IMAGE, "subject": LAYER, "artifactType": "a/b", "annotations": {"x": "y"}})
    assert isinstance(image, Manifest)
    assert (image.artifact_type, dict(image.annotations)) == ("a/b", {"x": "y"})
    assert image.subject == image.layers[0] == image.config
    platform = {"os": "linux", "architecture": "arm64", "variant": "v8", "os.version": "1"}
    index = parsed({**INDEX, "manifests": [{**LAYER, "platform": platform}]}, OCI_INDEX)
    assert isinstance(index, Index)
    assert index.children[0].platform == Platform("linux", "arm64", "v8")
    assert str(index.children[0].platform) == "linux/arm64/v8"


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        (IMAGE, OCI_INDEX),
        (INDEX, OCI_MANIFEST),
        (IMAGE, DOCKER_MANIFEST),
        ({**IMAGE, "manifests": []}, OCI_MANIFEST),
        ({**INDEX, "layers": []}, OCI_INDEX),
        ({**INDEX, "config": LAYER}, OCI_INDEX),
        ({"schemaVersion": 2, "layers": [], "config": LAYER}, DOCKER_MANIFEST),
        ({"schemaVersion": 2, "manifests": []}, DOCKER_LIST),
        (IMAGE, "application/json"),
        (IMAGE, ""),
        ({**IMAGE, "schemaVersion": 1}, OCI_MANIFEST),
        ({"schemaVersion": 2, "mediaType": OCI_MANIFEST}, OCI_MANIFEST),
        ([], OCI_MANIFEST),
        ("text", OCI_MANIFEST),
        ({**IMAGE, "layers": {}}, OCI_MANIFEST),
        ({**IMAGE, "layers": [1]}, OCI_MANIFEST),
        ({**IMAGE, "annotations": []}, OCI_MANIFEST),
        ({**IMAGE, "annotations": {"a" * 2000: ""}}, OCI_MANIFEST),
        ({**IMAGE, "subject": []}, OCI_MANIFEST),
        ({**IMAGE, "artifactType": "no media type"}, OCI_MANIFEST),
        ({**INDEX, "manifests": [{**LAYER, "platform": []}]}, OCI_INDEX),
        ({**INDEX, "manifests": [{**LAYER, "platform": {"os": 1}}]}, OCI_INDEX),
    ],
)
def test_what_contradicts_itself_or_the_specification_is_refused(document: object, kind: str) -> None:
    with pytest.raises(MalformedError):
        parsed(document, kind)


@pytest.mark.parametrize(
    "change",
    [
        {"size": -1},
        {"size": 1.5},
        {"size": "1"},
        {"size": True},
        {"size": 2**63},
        {"size": None},
        {"digest": "sha256:00"},
        {"digest": D.upper()},
        {"digest": D + "\n"},
        {"digest": "../../etc/passwd"},
        {"digest": None},
        {"mediaType": ""},
        {"mediaType": "text/plain\r\nX: y"},
        {"mediaType": "x" * 1000},
        {"annotations": {"a": None}},
    ],
)
def test_a_descriptor_with_a_bad_member_is_refused_by_its_place(change: dict[str, Any]) -> None:
    with pytest.raises(MalformedError, match=r"layers\[1\]"):
        parsed({**IMAGE, "layers": [LAYER, {**LAYER, **change}]})


def test_a_name_that_is_there_twice_is_refused() -> None:
    data = json.dumps(IMAGE).encode()[:-1] + b', "layers": []}'
    with pytest.raises(MalformedError):
        parse_manifest(data, D, OCI_MANIFEST)


@pytest.mark.parametrize("notes", [{"a": "\ud800"}, {"\udfff": "a"}])
def test_half_of_a_character_is_refused(notes: dict[str, str]) -> None:
    with pytest.raises(MalformedError, match="surrogate"):
        parsed({**IMAGE, "annotations": notes})


def test_too_much_is_refused() -> None:
    with pytest.raises(TooManyError):
        parsed({**IMAGE, "layers": [LAYER] * 1001})
    with pytest.raises(TooManyError):
        parsed({**IMAGE, "annotations": {f"{n}": "" for n in range(257)}})
    with pytest.raises(TooManyError):
        parse_manifest(b"[" + b"[]," * 300_000 + b"[]]", D, OCI_MANIFEST)
    with pytest.raises(TooLargeError):
        parse_manifest(b" " * (4 * 1024 * 1024 + 1), D, OCI_MANIFEST)


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.text(max_size=5), st.lists).map(lambda one: json.dumps(one).encode())
)
def test_any_bytes_are_a_manifest_or_refused(data: bytes) -> None:
    with pytest.raises(RegistryError):
        parse_manifest(data, D, OCI_MANIFEST)


@given(
    st.sampled_from(sorted(IMAGE)),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=5), one, max_size=3),
    ),
)
def test_a_manifest_with_any_member_replaced_is_read_or_refused(name: str, value: object) -> None:
    try:
        found = parsed({**IMAGE, name: value})
    except RegistryError:
        return
    assert isinstance(found, Manifest)


def test_a_descriptor_reads_as_it_was_written() -> None:
    platform = {"os": "linux", "architecture": "arm", "variant": "v7"}
    document = {**LAYER, "platform": platform, "annotations": {"a": "b"}, "artifactType": "a/b"}
    assert descriptor_json(parse_descriptor(document, "$")) == document


# Indexes in indexes


def test_images_of_indexes_in_an_index_are_found_once_each(
    scripted: ScriptedRegistry, client: Registry, deadline: Deadline
) -> None:
    inner = scripted.put_manifest("a/b", index_of(described(sha256(b"1"), 1, OCI_MANIFEST)))
    outer = index_of(
        described(inner, 1, OCI_INDEX),
        described(sha256(b"2"), 1, OCI_MANIFEST),
        described(sha256(b"1"), 1, OCI_MANIFEST),
    )
    scripted.put_manifest("a/b", outer, "1.0")
    images = client.images(client.resolve(named(scripted, "a/b:1.0"), deadline), deadline)
    assert {one.digest for one in images} == {sha256(b"1"), sha256(b"2")}
    assert len(images) == 2


def test_an_image_is_its_own_only_image(scripted: ScriptedRegistry, client: Registry, deadline: Deadline) -> None:
    image = client.resolve(named(scripted, f"a/b@{scripted.push_image('a/b')}"), deadline)
    assert [one.digest for one in client.images(image, deadline)] == [image.digest]


def test_indexes_nested_too_deep_are_refused(scripted: ScriptedRegistry, client: Registry, deadline: Deadline) -> None:
    digest = scripted.put_manifest("a/b", index_of())
    for _ in range(3):
        digest = scripted.put_manifest("a/b", index_of(described(digest, 1, OCI_INDEX)))
    whole = client.resolve(named(scripted, f"a/b@{digest}"), deadline)
    with pytest.raises(TooManyError, match="deep"):
        client.images(whole, deadline)


def test_an_index_of_too_many_images_is_refused(
    scripted: ScriptedRegistry, client: Registry, deadline: Deadline
) -> None:
    children = [described(sha256(b"%d" % n), 1, OCI_MANIFEST) for n in range(257)]
    digest = scripted.put_manifest("a/b", index_of(*children))
    with pytest.raises(TooManyError):
        client.images(client.resolve(named(scripted, f"a/b@{digest}"), deadline), deadline)


def test_a_child_that_is_listed_as_an_index_and_is_none_is_refused(
    scripted: ScriptedRegistry, client: Registry, deadline: Deadline
) -> None:
    child = scripted.push_image("a/b")
    digest = scripted.put_manifest("a/b", index_of(described(child, 1, OCI_INDEX)))
    with pytest.raises(MalformedError):
        client.images(client.resolve(named(scripted, f"a/b@{digest}"), deadline), deadline)
