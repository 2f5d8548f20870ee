"""References of images: ``ghcr.io/acme/app:1.2@sha256:…``.

The grammar is that of the OCI distribution spec (v1.1, "Pulling manifests"); names without a registry are normalised as
Docker does: ``alpine`` is ``docker.io/library/alpine:latest``.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace

from sealkeeper.registry.errors import ImageReferenceError

DOCKER_HUB = "docker.io"
_MAX_REFERENCE = 1024
_MAX_REPOSITORY = 255
_HOST_PART = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_REGISTRY = re.compile(
    rf"(?:{_HOST_PART}(?:\.{_HOST_PART})*|\[[0-9A-Fa-f:.]{{2,45}}\])(?::(?P<port>[1-9][0-9]{{0,4}}))?"
)
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_NOT_OF_A_TAG = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True)
class ImageReference:
    """Which image.

    Attributes:
        registry: host, with its port where it has one; lower case.
        repository: name in it.
        tag: empty where there is none.
        digest: ``sha256:…`` or ``sha512:…``; empty where there is none. It says which image, whatever the tag says.
    """

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> ImageReference:
        """Parse a reference.

        Raises:
            ImageReferenceError: it is none, or has a digest of an algorithm other than SHA-256 and SHA-512.
        """
        if len(text) > _MAX_REFERENCE:
            raise ImageReferenceError(f"the reference has {len(text)} characters; at most {_MAX_REFERENCE} are allowed")
        name, at, digest = text.partition("@")
        if at:
            require_digest(digest)
        tag = ""
        # A colon before the last slash is that of a port.
        if ":" in name.rpartition("/")[2]:
            name, _, tag = name.rpartition(":")
            if not _TAG.fullmatch(tag):
                raise ImageReferenceError(f"{_shown(tag)} is no tag")
        registry, repository = _registry_and_repository(name)
        return cls(registry, repository, tag or ("" if digest else "latest"), digest)

    @property
    def name(self) -> str:
        """Registry and repository."""
        return f"{self.registry}/{self.repository}"

    def with_digest(self, digest: str) -> ImageReference:
        """The same repository's manifest of a digest, without a tag.

        Raises:
            ImageReferenceError: it is no digest.
        """
        return replace(self, tag="", digest=require_digest(digest))

    def with_tag(self, tag: str) -> ImageReference:
        """The same repository's manifest of a tag, without a digest."""
        return replace(self, tag=tag, digest="")

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.name}{tag}{'@' if self.digest else ''}{self.digest}"


def require_digest(text: str) -> str:
    """A digest, unchanged.

    Raises:
        ImageReferenceError: it is none of SHA-256 or SHA-512 in lower-case hex.
    """
    if not _DIGEST.fullmatch(text):
        raise ImageReferenceError(f"{_shown(text)} is no digest: sha256: or sha512: and lower-case hex")
    return text


def digest_of(data: bytes, like: str = "sha256:") -> str:
    """The digest of bytes.

    Args:
        data: the bytes.
        like: a digest, or the beginning of one, whose algorithm to use.
    """
    algorithm = like.partition(":")[0]
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def referrers_tag(digest: str, suffix: str = "") -> str:
    """The tag that stands in for a referrers API, ``sha256-…`` (OCI distribution spec v1.1, "Referrers Tag Schema").

    Args:
        digest: of the image.
        suffix: ``.sig`` or ``.att`` for the tags that cosign uses.
    """
    algorithm, _, encoded = digest.partition(":")
    return _NOT_OF_A_TAG.sub("-", f"{algorithm[:32]}-{encoded[:64]}") + suffix


def _registry_and_repository(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    # Docker's rule of what is a host rather than the beginning of a repository's name.
    if slash and (first == "localhost" or first.lower() != first or "." in first or ":" in first):
        registry, repository = first.lower(), rest
    else:
        registry, repository = DOCKER_HUB, name
    if registry in ("index.docker.io", "registry-1.docker.io"):
        registry = DOCKER_HUB
    if registry == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    found = _REGISTRY.fullmatch(registry)
    if not found or len(registry) > _MAX_REPOSITORY or int(found["port"] or 1) > 65_535:
        raise ImageReferenceError(f"{_shown(registry)} is no host")
    if not _REPOSITORY.fullmatch(repository) or len(repository) > _MAX_REPOSITORY:
        raise ImageReferenceError(f"{_shown(repository)} is no repository's name: lower-case words and slashes")
    return registry, repository


def _shown(text: str) -> str:
    return repr(text[:80])
