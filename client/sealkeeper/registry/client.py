"""A client for OCI registries: the part of the OCI distribution spec v1.1 that reading and attaching bundles takes.

::

    registry = Registry(ConfigFiles.of_environment())
    deadline = Deadline.after(20)
    image = registry.resolve(ImageReference.parse("ghcr.io/acme/app:1.2"), deadline)
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote, urlencode, urljoin, urlsplit

from sealkeeper.registry.addresses import Resolve, system_resolver
from sealkeeper.registry.authorization import PULL, PUSH, Authorization
from sealkeeper.registry.credentials import CredentialSource
from sealkeeper.registry.deadline import Deadline
from sealkeeper.registry.document import MAX_DOCUMENT, parse_object
from sealkeeper.registry.errors import (
    BlobUnknownError,
    ConflictError,
    DigestLiesError,
    MalformedError,
    ManifestUnknownError,
    RedirectRefusedError,
    RegistryError,
    RegistryThrottledError,
    RegistryUnavailableError,
    TooLargeError,
    TooManyError,
)
from sealkeeper.registry.manifest import INDEXES, MANIFESTS, OCI_INDEX, AnyManifest, Descriptor, Index, parse_manifest
from sealkeeper.registry.reference import ImageReference, digest_of, require_digest
from sealkeeper.registry.transport import MAX_REDIRECTS, Answer, Hosts, Request, Transport

MAX_BLOB = 24 * 1024 * 1024
"""Bytes, where nothing else is said."""
MAX_INDEX_DEPTH = 3
"""An index in an index in an index."""
MAX_CHILDREN = 256
"""Of an index, with those of the indexes in it."""
MAX_PAGES = 16
"""Of a list of referrers."""
_ACCEPT = ", ".join(INDEXES + MANIFESTS)
_CODE = re.compile(r"[A-Z][A-Z_]{2,40}")
_NEXT = re.compile(r'<([^<>]{1,4096})>\s*;\s*(?:[^,]*;\s*)?rel="?next"?', re.IGNORECASE)
# How registries without it, and proxies before them, answer to what they do not know.
_NO_REFERRERS = (400, 404, 405, 406, 501)


@dataclass(frozen=True, slots=True)
class Resolved:
    """An image that is there.

    Attributes:
        reference: with the digest, without the tag.
        media_type: of its manifest.
        size: of its manifest, in bytes.
        manifest: itself.
    """

    reference: ImageReference
    media_type: str
    size: int
    manifest: AnyManifest = field(repr=False)

    @property
    def digest(self) -> str:
        """Of the manifest."""
        return self.reference.digest

    def descriptor(self) -> Descriptor:
        """That points at it."""
        return Descriptor(self.media_type, self.digest, self.size)


class Registry:
    """Registries, all of them. Used by several threads; each call blocks until it is done, or its deadline is over.

    Args:
        credentials: where they come from; ``None`` asks as nobody.
        hosts: which are insecure, and which may be local.
        ca_file: PEM file of CAs to trust instead of the system's.
        proxies: by scheme; ``None`` takes those of the environment.
        resolve: asks for addresses of names.
        clock: monotonic, seconds; when tokens end.
    """

    def __init__(
        self,
        credentials: CredentialSource | None = None,
        hosts: Hosts | None = None,
        ca_file: Path | None = None,
        proxies: Mapping[str, str] | None = None,
        resolve: Resolve = system_resolver,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = Transport(hosts, ca_file, proxies, resolve)
        self._authorization = Authorization(self._transport, credentials, clock)

    def resolve(self, reference: ImageReference, deadline: Deadline) -> Resolved:
        """Which manifest a reference means now. The digest is computed from the manifest's bytes.

        Raises:
            RegistryError: as ``manifest``.
        """
        found = self.manifest(reference, deadline)
        return Resolved(reference.with_digest(found.digest), found.media_type, len(found.data), found)

    def manifest(self, reference: ImageReference, deadline: Deadline) -> AnyManifest:
        """A manifest or an index.

        Raises:
            ManifestUnknownError: there is none.
            DigestLiesError: it does not have the reference's digest, or not that which the registry says.
            MalformedError: it is no manifest.
            RegistryError: it cannot be had.
        """
        found, _ = self.manifest_and_etag(reference, deadline)
        return found

    def manifest_and_etag(self, reference: ImageReference, deadline: Deadline) -> tuple[AnyManifest, str]:
        """A manifest or an index, and what the registry calls its state, which may be empty.

        Raises:
            RegistryError: as ``manifest``.
        """
        url = self._url(reference, f"manifests/{reference.digest or reference.tag}")
        request = Request("GET", url, {"Accept": _ACCEPT}, limit=MAX_DOCUMENT)
        answer = self._send(request, reference, PULL, deadline)
        if answer.status == HTTPStatus.NOT_FOUND:
            raise ManifestUnknownError(f"{reference}: the registry has no such manifest")
        _require(answer, str(reference), HTTPStatus.OK)
        said = answer.headers.get("docker-content-digest", "")
        for claimed in filter(None, (reference.digest, said)):
            _require_digest_of(answer.body, claimed, str(reference))
        digest = reference.digest or digest_of(answer.body)
        return parse_manifest(answer.body, digest, answer.headers.get("content-type", "")), answer.headers.get(
            "etag", ""
        )

    def images(self, image: Resolved, deadline: Deadline) -> tuple[Descriptor, ...]:
        """The images of an index, with those of the indexes in it; the image itself where it is none.

        Indexes are fetched, images are not: whether these are there is for those to find out who ask for them.

        Raises:
            TooManyError: there are too many, or the indexes are nested too deep.
            RegistryError: an index cannot be had.
        """
        if not isinstance(image.manifest, Index):
            return (image.descriptor(),)
        found: dict[str, Descriptor] = {}
        level = [image.manifest]
        for _ in range(MAX_INDEX_DEPTH):
            inner: list[Descriptor] = []
            for child in (child for index in level for child in index.children):
                (inner.append(child) if child.media_type in INDEXES else found.setdefault(child.digest, child))
            if len(found) + len(inner) > MAX_CHILDREN:
                raise TooManyError(f"{image.reference}: the index has more than {MAX_CHILDREN} images")
            if not inner:
                return tuple(found.values())
            level = [self._child_index(image.reference, child, deadline) for child in inner]
        raise TooManyError(f"{image.reference}: has indexes nested more than {MAX_INDEX_DEPTH} deep")

    def blob(
        self, reference: ImageReference, descriptor: Descriptor, deadline: Deadline, limit: int = MAX_BLOB
    ) -> bytes:
        """A blob of a repository.

        Args:
            reference: names the repository.
            descriptor: of the blob.
            deadline: for all of it.
            limit: most bytes that are taken.

        Raises:
            TooLargeError: it has more, or says so; then it is not asked for.
            DigestLiesError: it does not have its digest or its size.
            BlobUnknownError: there is none.
            RegistryError: it cannot be had.
        """
        place = f"{reference.name}@{descriptor.digest}"
        if descriptor.size > limit:
            raise TooLargeError(f"{place}: has {descriptor.size} bytes; at most {limit} are taken")
        request = Request(
            "GET",
            self._url(reference, f"blobs/{descriptor.digest}"),
            limit=descriptor.size,
            redirects=MAX_REDIRECTS,
        )
        try:
            answer = self._send(request, reference, PULL, deadline)
        except TooLargeError:
            raise DigestLiesError(f"{place}: has more than the {descriptor.size} bytes that it should have") from None
        if answer.status == HTTPStatus.NOT_FOUND:
            raise BlobUnknownError(f"{place}: the registry has no such blob")
        _require(answer, place, HTTPStatus.OK)
        if len(answer.body) != descriptor.size:
            raise DigestLiesError(f"{place}: has {len(answer.body)} bytes, and should have {descriptor.size}")
        _require_digest_of(answer.body, descriptor.digest, place)
        return answer.body

    def push_blob(self, reference: ImageReference, data: bytes, media_type: str, deadline: Deadline) -> Descriptor:
        """Put a blob into a repository, where it is not there yet.

        Returns:
            its descriptor.

        Raises:
            RegistryDeniedError: these credentials must not.
            RegistryError: it cannot be put there.
        """
        digest = digest_of(data)
        descriptor = Descriptor(media_type, digest, len(data))
        place = f"{reference.name}@{digest}"
        known = Request("HEAD", self._url(reference, f"blobs/{digest}"), redirects=MAX_REDIRECTS)
        if self._send(known, reference, PUSH, deadline).status == HTTPStatus.OK:
            return descriptor
        begun = self._send(Request("POST", self._url(reference, "blobs/uploads/")), reference, PUSH, deadline)
        if begun.status == HTTPStatus.CREATED:
            return descriptor
        _require(begun, place, HTTPStatus.ACCEPTED)
        location = urljoin(begun.url, begun.headers.get("location", ""))
        if not self._transport.is_same_origin(location, reference.registry):
            raise RedirectRefusedError(f"{place}: is to be uploaded to where the registry is not")
        url = f"{location}{'&' if urlsplit(location).query else '?'}{urlencode({'digest': digest})}"
        headers = {"Content-Type": "application/octet-stream"}
        done = self._send(Request("PUT", url, headers, data), reference, PUSH, deadline)
        _require(done, place, HTTPStatus.CREATED, HTTPStatus.NO_CONTENT)
        return descriptor

    def push_manifest(
        self, reference: ImageReference, data: bytes, media_type: str, deadline: Deadline, if_match: str = ""
    ) -> Mapping[str, str]:
        """Put a manifest into a repository, under the reference's tag or digest.

        Args:
            reference: where to.
            data: the manifest.
            media_type: of it.
            deadline: for all of it.
            if_match: the ETag that the tag must still have, for registries that look at it.

        Returns:
            headers of the answer.

        Raises:
            DigestLiesError: the registry says that it has another digest.
            ConflictError: the tag has another ETag.
            RegistryDeniedError: these credentials must not.
            RegistryError: it cannot be put there.
        """
        headers = {"Content-Type": media_type, **({"If-Match": if_match} if if_match else {})}
        url = self._url(reference, f"manifests/{reference.digest or reference.tag}")
        answer = self._send(Request("PUT", url, headers, data), reference, PUSH, deadline)
        _require(answer, str(reference), HTTPStatus.CREATED)
        if said := answer.headers.get("docker-content-digest", ""):
            _require_digest_of(data, said, str(reference))
        return answer.headers

    def referrers(
        self, reference: ImageReference, artifact_type: str, deadline: Deadline
    ) -> Iterator[tuple[Descriptor, ...]] | None:
        """The manifests that are attached to an image, page by page; ``None`` where the registry has no such API.

        Args:
            reference: with the image's digest.
            artifact_type: of which; what the registry leaves in of others is left out.
            deadline: for all pages.

        Raises:
            RegistryError: they cannot be had; also while pages are taken.
        """
        path = f"referrers/{reference.digest}"
        url = self._url(reference, f"{path}?{urlencode({'artifactType': artifact_type})}")
        first = self._referrers_page(url, reference, deadline)
        if first.status in _NO_REFERRERS:
            return None
        return self._pages(first, path, artifact_type, reference, deadline)

    def _pages(
        self, answer: Answer, path: str, artifact_type: str, reference: ImageReference, deadline: Deadline
    ) -> Iterator[tuple[Descriptor, ...]]:
        for _ in range(MAX_PAGES):
            _require(answer, f"{reference}: its referrers", HTTPStatus.OK)
            place = f"{reference}: the list of its referrers"
            index = parse_manifest(answer.body, place, answer.headers.get("content-type", ""))
            if not isinstance(index, Index):
                raise MalformedError(f"{place}: is no index")
            yield tuple(one for one in index.children if one.artifact_type == artifact_type)
            following = _NEXT.search(answer.headers.get("link", ""))
            if not following:
                return
            url = urljoin(answer.url, following[1])
            expected = urlsplit(self._url(reference, path)).path
            if not self._transport.is_same_origin(url, reference.registry) or urlsplit(url).path != expected:
                raise RedirectRefusedError(f"{place}: goes on where the registry is not")
            answer = self._referrers_page(url, reference, deadline)
        raise TooManyError(f"{reference}: the list of its referrers has more than {MAX_PAGES} pages")

    def _referrers_page(self, url: str, reference: ImageReference, deadline: Deadline) -> Answer:
        return self._send(Request("GET", url, {"Accept": OCI_INDEX}, limit=MAX_DOCUMENT), reference, PULL, deadline)

    def _child_index(self, reference: ImageReference, child: Descriptor, deadline: Deadline) -> Index:
        found = self.manifest(reference.with_digest(child.digest), deadline)
        if not isinstance(found, Index):
            raise MalformedError(f"{reference.name}@{child.digest}: is no index, as which it is listed")
        return found

    def _send(self, request: Request, reference: ImageReference, actions: str, deadline: Deadline) -> Answer:
        name, repository = reference.registry, reference.repository
        answer = self._authorization.send(request, name, repository, actions, deadline)
        if _is_broken(answer) and request.method in ("GET", "HEAD"):
            # Registries say so too when a tag is being written at this very moment.
            answer = self._authorization.send(request, name, repository, actions, deadline)
        if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
            raise RegistryThrottledError(f"{reference.registry}: takes no more requests at this rate")
        if _is_broken(answer):
            raise RegistryUnavailableError(f"{reference.registry}: answers {answer.status}{_code(answer)}")
        return answer

    def _url(self, reference: ImageReference, rest: str) -> str:
        return f"{self._transport.base_url(reference.registry)}/v2/{quote(reference.repository)}/{rest}"


def _is_broken(answer: Answer) -> bool:
    return answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR and answer.status != HTTPStatus.NOT_IMPLEMENTED


def _require(answer: Answer, place: str, *statuses: HTTPStatus) -> None:
    if answer.status in statuses:
        return
    text = f"{place}: the registry answers {answer.status}{_code(answer)}"
    if answer.status in (HTTPStatus.PRECONDITION_FAILED, HTTPStatus.CONFLICT):
        raise ConflictError(text)
    raise RegistryError(text)


def _require_digest_of(data: bytes, claimed: str, place: str) -> None:
    try:
        require_digest(claimed)
    except RegistryError as error:
        raise MalformedError(f"{place}: {error}") from None
    if digest_of(data, claimed) != claimed:
        raise DigestLiesError(f"{place}: what came has the digest {digest_of(data, claimed)}, not {claimed}")


def _code(answer: Answer) -> str:
    # The code is one of the specification's; what else the registry writes is not repeated.
    try:
        code = parse_object(answer.body, "")["errors"][0]["code"]
    except (RegistryError, LookupError, TypeError):
        return ""
    return f" {code}" if isinstance(code, str) and _CODE.fullmatch(code) else ""
