"""Bundles that are put into an image's registry, beside the image, and how they are found there. All of it blocks.

>>> bundle = read_bundle(Path("app.slsa.sigstore.json").read_bytes())  # doctest: +SKIP
>>> [one.layout for one in attach(registry, target, bundle, seconds=30)]  # doctest: +SKIP
[<Layout.REFERRERS_API: 'referrers API'>]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from sealkeeper.client.gate_evidence import Target
from sealkeeper.registry import Deadline, ImageReference, Layout, Registry, attach_bundle
from sealkeeper.registry.bundles import listed_in_tag
from sealkeeper.registry.cosign import BUNDLE
from sealkeeper.verify.bundle import Bundle, DsseEnvelope, parse_bundle
from sealkeeper.verify.statement import PAYLOAD_TYPE, parse_statement

_ALGORITHMS = {"SHA2_256": "sha256", "SHA2_384": "sha384", "SHA2_512": "sha512"}


@dataclass(frozen=True, slots=True)
class ReadBundle:
    """A bundle, and what it says that it is about. None of it is verified.

    Attributes:
        data: JSON.
        version: of its format: ``0.3`` is the one that can be attached.
        predicate_type: of its statement; empty where it has none.
        digests: of what it is about, ``sha256:…``.
    """

    data: bytes = field(repr=False)
    version: str
    predicate_type: str
    digests: frozenset[str]


@dataclass(frozen=True, slots=True)
class Attachment:
    """A bundle at an image.

    Attributes:
        image: to which it is attached, with its digest.
        manifest: digest of the manifest that holds the bundle.
        layout: by which readers find it.
        is_new: it was not there before.
    """

    image: ImageReference
    manifest: str
    layout: Layout
    is_new: bool


def read_bundle(data: bytes) -> ReadBundle:
    """Read a bundle that is to be attached.

    Args:
        data: JSON; white space around it is left out, so that a file gives the bundle that was written to it.

    Raises:
        VerifyError: it is no bundle, or its statement is none.
    """
    data = data.strip()
    bundle = parse_bundle(data)
    envelope = bundle.content
    if not isinstance(envelope, DsseEnvelope) or envelope.payload_type != PAYLOAD_TYPE:
        return ReadBundle(data, bundle.version, "", _signed_digest(bundle))
    statement = parse_statement(envelope.payload)
    digests = (f"{name}:{value}" for one in statement.subjects for name, value in one.digests.items())
    return ReadBundle(data, bundle.version, statement.predicate_type, frozenset(digests))


def _signed_digest(bundle: Bundle) -> frozenset[str]:
    digest = None if isinstance(bundle.content, DsseEnvelope) else bundle.content.digest
    if digest is None or digest.algorithm not in _ALGORITHMS:
        return frozenset()
    return frozenset({f"{_ALGORITHMS[digest.algorithm]}:{digest.digest.hex()}"})


def attach(registry: Registry, target: Target, bundle: ReadBundle, seconds: float) -> Iterator[Attachment]:
    """Attach a bundle to an image, and to those of its own images that it says it is about.

    Args:
        registry: to put it into.
        target: the image; with the images of an index.
        bundle: of v0.3.
        seconds: for each of them.

    Raises:
        RegistryError: it cannot be put there. What was attached before stays; the same again goes on.
    """
    if target.image is None:
        return
    children = [one.digest for one in target.artifact.children if one.digest in bundle.digests]
    for digest in dict.fromkeys((target.image.digest, *children)):
        yield _attach(registry, target.image.with_digest(digest), bundle, Deadline.after(seconds))


def _attach(registry: Registry, image: ImageReference, bundle: ReadBundle, deadline: Deadline) -> Attachment:
    layout, before = _attached(registry, image, deadline)
    manifest = attach_bundle(registry, image, bundle.data, bundle.predicate_type, deadline).digest
    return Attachment(image, manifest, layout, manifest not in before)


def _attached(registry: Registry, image: ImageReference, deadline: Deadline) -> tuple[Layout, frozenset[str]]:
    """How bundles are found at an image, and the digests of the manifests that are."""
    pages = registry.referrers(image, BUNDLE, deadline)
    if pages is not None:
        return Layout.REFERRERS_API, frozenset(one.digest for page in pages for one in page)
    index, _ = listed_in_tag(registry, image, deadline)
    return Layout.REFERRERS_TAG, frozenset(one.digest for one in index.children) if index else frozenset()
