"""Manifests and indexes of images, parsed strictly.

Sources: OCI image spec v1.1 (``manifest.md``, ``image-index.md``, ``descriptor.md``) and Docker's "Image Manifest
Version 2, Schema 2". What a manifest is says its media type, which must be the same everywhere that it is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from sealkeeper.registry.document import MAX_DOCUMENT, Json, list_of, parse_object, text_of
from sealkeeper.registry.errors import ImageReferenceError, MalformedError, TooLargeError, TooManyError
from sealkeeper.registry.reference import require_digest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEXES = (OCI_INDEX, DOCKER_LIST)
MAX_DESCRIPTORS = 1000
"""Of one index, or layers of one manifest."""
MAX_ANNOTATIONS = 256
_MAX_NAME = 1024
_MEDIA_TYPE = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}(?:;[ -~]{1,128})?"
)
_MAX_SIZE = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on, in the words of Go: ``linux``, ``arm64``, ``v8``."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Points at a blob or a manifest.

    Attributes:
        media_type: of it.
        digest: of its bytes.
        size: in bytes.
        artifact_type: of the manifest; may be empty.
        annotations: by name.
        platform: of the image; ``None`` where none is said.
    """

    media_type: str
    digest: str
    size: int
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    platform: Platform | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest of an image, or of what is attached to one.

    Attributes:
        digest: of ``data``.
        media_type: of it.
        data: as it came.
        config: of the image.
        layers: in order.
        artifact_type: may be empty.
        subject: to which it is attached; ``None`` where to nothing.
        annotations: by name.
    """

    digest: str
    media_type: str
    data: bytes = field(repr=False)
    config: Descriptor
    layers: tuple[Descriptor, ...]
    artifact_type: str = ""
    subject: Descriptor | None = None
    annotations: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)


@dataclass(frozen=True, slots=True)
class Index:
    """An index: the manifests of several platforms, or of other things that belong together.

    Attributes:
        digest: of ``data``.
        media_type: of it.
        data: as it came.
        children: in order; indexes too, perhaps.
        artifact_type: may be empty.
        subject: to which it is attached; ``None`` where to nothing.
        annotations: by name.
    """

    digest: str
    media_type: str
    data: bytes = field(repr=False)
    children: tuple[Descriptor, ...]
    artifact_type: str = ""
    subject: Descriptor | None = None
    annotations: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)


AnyManifest: TypeAlias = Manifest | Index


def parse_manifest(data: bytes, digest: str, content_type: str) -> AnyManifest:
    """Parse a manifest or an index.

    Args:
        data: its bytes, whose digest has been checked.
        digest: of them.
        content_type: of the answer that it came in.

    Raises:
        MalformedError: it is none, or its media types contradict each other.
        TooManyError: it has too many descriptors or annotations.
        TooLargeError: it has more than 4 MiB.
    """
    if len(data) > MAX_DOCUMENT:
        raise TooLargeError(f"{digest}: the manifest has more than {MAX_DOCUMENT} bytes")
    document = parse_object(data, digest)
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in MANIFESTS + INDEXES:
        raise MalformedError(f"{digest}: {content_type[:100]!r} is no media type of a manifest")
    said = text_of(document, "mediaType", digest)
    # One document must not be two things to two readers (CVE-2021-41190).
    if (said and said != kind) or (not said and kind in (DOCKER_MANIFEST, DOCKER_LIST)):
        raise MalformedError(f"{digest}.mediaType: is not {kind}, as which it came")
    if document.get("schemaVersion") != 2:
        raise MalformedError(f"{digest}.schemaVersion: must be 2")
    if ("manifests" in document) == ("config" in document or "layers" in document):
        raise MalformedError(f"{digest}: must be either an image or an index")
    if ("manifests" in document) != (kind in INDEXES):
        raise MalformedError(f"{digest}: is not {kind}, as which it came")
    if kind in INDEXES:
        return Index(digest, kind, data, descriptors(document, "manifests", digest), *_rest(document, digest))
    config = parse_descriptor(document.get("config"), f"{digest}.config")
    return Manifest(digest, kind, data, config, descriptors(document, "layers", digest), *_rest(document, digest))


def descriptors(document: Mapping[str, Json], name: str, place: str) -> tuple[Descriptor, ...]:
    """A member that is a list of descriptors.

    Raises:
        MalformedError: it is none.
        TooManyError: there are more than ``MAX_DESCRIPTORS``.
    """
    items = list_of(document, name, place, MAX_DESCRIPTORS)
    return tuple(parse_descriptor(one, f"{place}.{name}[{number}]") for number, one in enumerate(items))


def parse_descriptor(document: Json, place: str) -> Descriptor:
    """Parse a descriptor.

    Raises:
        MalformedError: it is none.
        TooManyError: it has too many annotations.
    """
    if not isinstance(document, dict):
        raise MalformedError(f"{place}: must be a descriptor")
    size = document.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= _MAX_SIZE:
        raise MalformedError(f"{place}.size: must be a whole number from 0 to 2^63 - 1")
    digest = text_of(document, "digest", place)
    try:
        require_digest(digest)
    except ImageReferenceError as error:
        raise MalformedError(f"{place}.digest: {error}") from None
    return Descriptor(
        _media_type(document, "mediaType", place, required=True),
        digest,
        size,
        _media_type(document, "artifactType", place),
        _annotations(document, place),
        _platform(document.get("platform"), f"{place}.platform"),
    )


def descriptor_json(descriptor: Descriptor) -> dict[str, Json]:
    """A descriptor as JSON has it."""
    document: dict[str, Json] = {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    }
    if descriptor.platform:
        platform = descriptor.platform
        document["platform"] = {"os": platform.os, "architecture": platform.architecture}
        if platform.variant:
            document["platform"]["variant"] = platform.variant
    if descriptor.annotations:
        document["annotations"] = dict(descriptor.annotations)
    if descriptor.artifact_type:
        document["artifactType"] = descriptor.artifact_type
    return document


def _rest(document: Mapping[str, Json], place: str) -> tuple[str, Descriptor | None, Mapping[str, str]]:
    subject = document.get("subject")
    return (
        _media_type(document, "artifactType", place),
        None if subject is None else parse_descriptor(subject, f"{place}.subject"),
        _annotations(document, place),
    )


def _media_type(document: Mapping[str, Json], name: str, place: str, *, required: bool = False) -> str:
    text = text_of(document, name, place, 400)
    if (text or required) and not _MEDIA_TYPE.fullmatch(text):
        raise MalformedError(f"{place}.{name}: must be a media type")
    return text


def _annotations(document: Mapping[str, Json], place: str) -> Mapping[str, str]:
    value = document.get("annotations")
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise MalformedError(f"{place}.annotations: must be an object of strings")
    if len(value) > MAX_ANNOTATIONS:
        raise TooManyError(f"{place}.annotations: has {len(value)}; at most {MAX_ANNOTATIONS} are taken")
    if any(len(name) > _MAX_NAME for name in value):
        raise MalformedError(f"{place}.annotations: a name has more than {_MAX_NAME} characters")
    return MappingProxyType(value)


def _platform(document: Json, place: str) -> Platform | None:
    if document is None:
        return None
    if not isinstance(document, dict):
        raise MalformedError(f"{place}: must be an object")
    return Platform(*(text_of(document, name, place, 64) for name in ("os", "architecture", "variant")))
