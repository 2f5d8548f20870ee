"""Attach a bundle to an image: as a referrer, and in the tag in place of referrers where a registry has no such API.

Sources: the OCI distribution spec v1.1 ("Pushing Manifests with Subject", "Unavailable Referrers API"), the OCI image
spec v1.1 ("Guidance for an Empty Descriptor"), cosign's ``specs/BUNDLE_SPEC.md``.
"""

from __future__ import annotations

import json
from threading import Lock
from weakref import WeakValueDictionary

from sealkeeper.registry.bundles import CONTENT, PREDICATE_TYPE, listed_in_tag
from sealkeeper.registry.client import MAX_BLOB, Registry
from sealkeeper.registry.cosign import BUNDLE
from sealkeeper.registry.deadline import Deadline
from sealkeeper.registry.document import Json, parse_object
from sealkeeper.registry.errors import ConflictError, MalformedError, TooLargeError, TooManyError
from sealkeeper.registry.manifest import MAX_DESCRIPTORS, OCI_INDEX, OCI_MANIFEST, Descriptor, Index, descriptor_json
from sealkeeper.registry.reference import ImageReference, digest_of, referrers_tag

EMPTY = "application/vnd.oci.empty.v1+json"
_ATTEMPTS = 8


class _TagLock:
    """A lock that is there as long as somebody holds it."""

    def __init__(self) -> None:
        self.lock = Lock()


_locks: WeakValueDictionary[str, _TagLock] = WeakValueDictionary()  # with _locks_lock
_locks_lock = Lock()


def attach_bundle(
    registry: Registry, image: ImageReference, bundle: bytes, predicate_type: str, deadline: Deadline
) -> Descriptor:
    """Attach a bundle. What is attached already is not attached again.

    Args:
        registry: to put it into.
        image: to which; with a tag, what it means now.
        bundle: JSON, of v0.3.
        predicate_type: of the bundle's statement; empty where it is no statement.
        deadline: for all of it.

    Returns:
        the descriptor of the attached manifest.

    Raises:
        MalformedError: it is no bundle of v0.3.
        ManifestUnknownError: there is no such image.
        ConflictError: others change the list of referrers again and again.
        RegistryError: it cannot be put there.
    """
    content = _content_of(bundle)
    subject = registry.resolve(image, deadline)
    config = registry.push_blob(image, b"{}", EMPTY, deadline)
    layer = registry.push_blob(image, bundle, BUNDLE, deadline)
    annotations = {CONTENT: content, **({PREDICATE_TYPE: predicate_type} if predicate_type else {})}
    # Without the time, so that the same bundle gives the same manifest.
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": BUNDLE,
        "config": descriptor_json(config),
        "layers": [descriptor_json(layer)],
        "subject": descriptor_json(subject.descriptor()),
        "annotations": annotations,
    }
    data = json.dumps(document, separators=(",", ":")).encode()
    digest = digest_of(data)
    answer = registry.push_manifest(image.with_digest(digest), data, OCI_MANIFEST, deadline)
    attached = Descriptor(OCI_MANIFEST, digest, len(data), BUNDLE, annotations)
    # The header says that the registry has understood the subject.
    if "oci-subject" not in answer and registry.referrers(subject.reference, BUNDLE, deadline) is None:
        _list_in_tag(registry, subject.reference, attached, deadline)
    return attached


def _content_of(bundle: bytes) -> str:
    if len(bundle) > MAX_BLOB:
        raise TooLargeError(f"the bundle has {len(bundle)} bytes; at most {MAX_BLOB} are taken")
    document = parse_object(bundle, "the bundle")
    if document.get("mediaType") != BUNDLE:
        raise MalformedError(f"the bundle: its mediaType is not {BUNDLE}")
    if ("dsseEnvelope" in document) == ("messageSignature" in document):
        raise MalformedError("the bundle: needs exactly one of messageSignature and dsseEnvelope")
    return "dsse-envelope" if "dsseEnvelope" in document else "message-signature"


def _list_in_tag(registry: Registry, image: ImageReference, attached: Descriptor, deadline: Deadline) -> None:
    # Most registries let the last one win. So those of this process take turns, and each looks whether what it
    # wrote is still there; ETags are for registries that look at them.
    tagged = image.with_tag(referrers_tag(image.digest))
    turn = _lock_of(str(tagged))
    with turn.lock:
        for _ in range(_ATTEMPTS):
            index, etag = listed_in_tag(registry, image, deadline)
            children = index.children if index else ()
            if any(child.digest == attached.digest for child in children):
                return
            if len(children) >= MAX_DESCRIPTORS:
                raise TooManyError(f"{tagged}: lists {MAX_DESCRIPTORS} referrers already")
            data = _index_with(index, attached)
            try:
                registry.push_manifest(tagged, data, OCI_INDEX, deadline, if_match=etag)
            except ConflictError:
                continue
    raise ConflictError(f"{tagged}: is changed again and again by others")


def _index_with(index: Index | None, attached: Descriptor) -> bytes:
    document: dict[str, Json] = {"schemaVersion": 2, "manifests": []}
    if index:
        # What others wrote stays as it is.
        document = parse_object(index.data, index.digest)
    document["mediaType"] = OCI_INDEX
    document["manifests"].append(descriptor_json(attached))
    return json.dumps(document, separators=(",", ":")).encode()


def _lock_of(tag: str) -> _TagLock:
    with _locks_lock:
        return _locks.setdefault(tag, _TagLock())
