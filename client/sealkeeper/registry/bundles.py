"""Which Sigstore bundles are attached to an image: by referrers, by the tag in place of them, and as cosign did before.

Sources: the OCI distribution spec v1.1 ("Listing Referrers", "Referrers Tag Schema"), cosign's
``specs/BUNDLE_SPEC.md``. Nothing is verified but digests, and that an attachment names this image as its subject.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from sealkeeper.registry.client import Registry
from sealkeeper.registry.cosign import (
    BUNDLE,
    DSSE_ENVELOPE,
    NO_HINT,
    SIMPLE_SIGNING,
    CosignAttestation,
    CosignSignature,
    read_attestation,
    read_signature,
    to_bundle,
)
from sealkeeper.registry.deadline import Deadline
from sealkeeper.registry.errors import (
    BlobUnknownError,
    ImageReferenceError,
    MalformedError,
    ManifestUnknownError,
    RegistryError,
    TooLargeError,
    TooManyError,
)
from sealkeeper.registry.manifest import Descriptor, Index, Manifest
from sealkeeper.registry.origin import Layout, Origin
from sealkeeper.registry.reference import ImageReference, referrers_tag

CONTENT = "dev.sigstore.bundle.content"
PREDICATE_TYPE = "dev.sigstore.bundle.predicateType"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is taken of what is attached to one image; more is an error, so that nothing is left out in silence.

    Attributes:
        bundles: bundles, signatures and attestations of all layouts.
        bundle_size: bytes of one.
        total_size: bytes of all.
    """

    bundles: int = 64
    bundle_size: int = 24 * 1024 * 1024
    total_size: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class AttachedBundle:
    """A bundle.

    Attributes:
        data: JSON, as it came.
        content: what its annotation says that it is: ``dsse-envelope`` or ``message-signature``; may be empty.
        predicate_type: what its annotation says that its statement's is; may be empty. Neither is signed.
        origin: where it was found.
    """

    data: bytes = field(repr=False)
    content: str
    predicate_type: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class Unusable:
    """Something that is listed as attached and cannot be read, which says nothing about the others.

    Attributes:
        origin: where it was found.
        reason: as of a ``RegistryError``.
        problem: for a person.
    """

    origin: Origin
    reason: str
    problem: str


Attached: TypeAlias = AttachedBundle | CosignSignature | CosignAttestation | Unusable


@dataclass(frozen=True, slots=True)
class FoundBundles:
    """All that is attached to an image.

    Attributes:
        bundles: Sigstore bundles.
        signatures: as cosign kept them before.
        attestations: as cosign kept them before.
        unusable: what cannot be read.
    """

    bundles: tuple[AttachedBundle, ...] = ()
    signatures: tuple[CosignSignature, ...] = ()
    attestations: tuple[CosignAttestation, ...] = ()
    unusable: tuple[Unusable, ...] = ()

    def documents(self, simple_signing: Callable[[bytes, bytes], bytes]) -> Iterator[tuple[Origin, bytes, str]]:
        """All of it as documents that can be verified: each one's origin, JSON, and else why it has none.

        Args:
            simple_signing: makes one document of the payload that cosign signed and the bundle that verifies it.
        """
        for found in self.bundles:
            yield found.origin, found.data, ""
        older: list[CosignSignature | CosignAttestation] = [*self.signatures, *self.attestations]
        for one in older:
            try:
                bundle = to_bundle(one, NO_HINT)
            except RegistryError as error:
                yield one.origin, b"", str(error)
                continue
            yield one.origin, simple_signing(one.payload, bundle) if isinstance(one, CosignSignature) else bundle, ""
        # What cannot be read is told, rather than left out.
        for bad in self.unusable:
            yield bad.origin, b"", bad.problem


def find_bundles(registry: Registry, image: ImageReference, limits: Limits, deadline: Deadline) -> FoundBundles:
    """What is attached to an image.

    Args:
        registry: to ask.
        image: with its digest.
        limits: how much is taken.
        deadline: for all of it.

    Raises:
        ImageReferenceError: the image has no digest.
        TooManyError: there is more than the limits allow.
        TooLargeError: there is more than the limits allow; what is too large is not fetched.
        DigestLiesError: something does not have its digest.
        RegistryError: it cannot be had.
    """
    if not image.digest:
        raise ImageReferenceError(f"{image}: has no digest; a tag may mean another image a moment later")
    search = _Search(registry, image, limits, deadline)
    found = [*_referrers(search), *_signatures(search), *_attestations(search)]
    return FoundBundles(
        tuple(one for one in found if isinstance(one, AttachedBundle)),
        tuple(one for one in found if isinstance(one, CosignSignature)),
        tuple(one for one in found if isinstance(one, CosignAttestation)),
        tuple(one for one in found if isinstance(one, Unusable)),
    )


@dataclass(slots=True)
class _Search:
    """One search, and what it has taken so far."""

    registry: Registry
    image: ImageReference
    limits: Limits
    deadline: Deadline
    count: int = 0
    size: int = 0

    def take(self, number: int) -> None:
        """Count what is to be fetched.

        Raises:
            TooManyError: it is one too many.
        """
        self.count += number
        if self.count > self.limits.bundles:
            raise TooManyError(f"{self.image}: has more than {self.limits.bundles} bundles")

    def blob(self, layer: Descriptor) -> bytes:
        """Fetch a layer.

        Raises:
            TooLargeError: it would be too large, alone or with the others.
        """
        self.size += layer.size
        if self.size > self.limits.total_size:
            raise TooLargeError(f"{self.image}: its bundles have more than {self.limits.total_size} bytes together")
        return self.registry.blob(self.image, layer, self.deadline, self.limits.bundle_size)


def listed_in_tag(registry: Registry, image: ImageReference, deadline: Deadline) -> tuple[Index | None, str]:
    """The index that stands in for a referrers API, ``None`` where there is none; and its ETag, which may be empty.

    Raises:
        MalformedError: what is there is no index.
        RegistryError: it cannot be had.
    """
    tagged = image.with_tag(referrers_tag(image.digest))
    try:
        found, etag = registry.manifest_and_etag(tagged, deadline)
    except ManifestUnknownError:
        return None, ""
    if not isinstance(found, Index):
        raise MalformedError(f"{tagged}: is no index of referrers")
    return found, etag


def _referrers(search: _Search) -> Iterable[Attached]:
    pages = search.registry.referrers(search.image, BUNDLE, search.deadline)
    layout = Layout.REFERRERS_TAG if pages is None else Layout.REFERRERS_API
    if pages is None:
        index, _ = listed_in_tag(search.registry, search.image, search.deadline)
        listed = index.children if index else ()
        pages = iter([tuple(one for one in listed if one.artifact_type == BUNDLE)])
    digests: dict[str, None] = {}
    for page in pages:
        new = dict.fromkeys(one.digest for one in page if one.digest not in digests)
        search.take(len(new))
        digests.update(new)
    for digest in digests:
        origin = Origin(layout, search.image.digest, digest)
        yield _or_unusable(origin, partial(_bundle, search, origin))


def _bundle(search: _Search, origin: Origin) -> AttachedBundle:
    manifest = search.registry.manifest(search.image.with_digest(origin.manifest), search.deadline)
    if not isinstance(manifest, Manifest) or (manifest.artifact_type or manifest.config.media_type) != BUNDLE:
        raise MalformedError(f"{origin}: is listed as a bundle, and is none")
    if manifest.subject is None or manifest.subject.digest != search.image.digest:
        raise MalformedError(f"{origin}: is not attached to this image, with which it is listed")
    layers = [layer for layer in manifest.layers if layer.media_type == BUNDLE]
    if len(layers) != 1 or len(manifest.layers) != 1:
        raise MalformedError(f"{origin}: must have the bundle as its one layer")
    data = search.blob(layers[0])
    annotations = manifest.annotations
    whole = Origin(origin.layout, origin.image, origin.manifest, layers[0].digest)
    return AttachedBundle(data, annotations.get(CONTENT, "")[:64], annotations.get(PREDICATE_TYPE, "")[:1024], whole)


def _signatures(search: _Search) -> Iterable[Attached]:
    for layer, origin in _layers(search, ".sig", Layout.COSIGN_SIGNATURES):
        yield _or_unusable(origin, partial(_signature, search, layer, origin))


def _attestations(search: _Search) -> Iterable[Attached]:
    for layer, origin in _layers(search, ".att", Layout.COSIGN_ATTESTATIONS):
        yield _or_unusable(origin, partial(_attestation, search, layer, origin))


def _layers(search: _Search, suffix: str, layout: Layout) -> list[tuple[Descriptor, Origin]]:
    tagged = search.image.with_tag(referrers_tag(search.image.digest, suffix))
    try:
        manifest = search.registry.manifest(tagged, search.deadline)
    except ManifestUnknownError:
        return []
    if not isinstance(manifest, Manifest):
        raise MalformedError(f"{tagged}: is not what cosign keeps there")
    search.take(len(manifest.layers))
    return [(layer, Origin(layout, search.image.digest, manifest.digest, layer.digest)) for layer in manifest.layers]


def _signature(search: _Search, layer: Descriptor, origin: Origin) -> CosignSignature:
    _require_media_type(layer, SIMPLE_SIGNING, origin)
    return read_signature(search.blob(layer), layer, origin)


def _attestation(search: _Search, layer: Descriptor, origin: Origin) -> CosignAttestation:
    _require_media_type(layer, DSSE_ENVELOPE, origin)
    return read_attestation(search.blob(layer), layer, origin)


def _require_media_type(layer: Descriptor, expected: str, origin: Origin) -> None:
    if layer.media_type != expected:
        raise MalformedError(f"{origin}: is no {expected}")


def _or_unusable(origin: Origin, read: Callable[[], Attached]) -> Attached:
    # Whoever may attach something could else keep an image from running with a single piece of rubbish.
    try:
        return read()
    except (MalformedError, ManifestUnknownError, BlobUnknownError) as error:
        return Unusable(origin, error.reason, str(error))
