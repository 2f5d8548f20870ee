"""What a gate is asked about, and where evidence about it comes from: registries, files. All of it blocks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sealkeeper.client.errors import FieldViolation, InvalidRequestError
from sealkeeper.registry import (
    Deadline,
    Descriptor,
    ImageReference,
    Limits,
    Registry,
    RegistryError,
    find_bundles,
)
from sealkeeper.verify.bundle import MAX_BUNDLE
from sealkeeper.verify.errors import EvidenceError
from sealkeeper.verify.gate.decision import Artifact
from sealkeeper.verify.gate.evidence import FoundBundle
from sealkeeper.verify.gate.simple_signing import encode_simple_signing

_DIGEST = re.compile(r"(sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})")
_REASONS = {"TOO_MANY": "ATTESTATIONS_TOO_MANY", "TOO_LARGE": "ATTESTATIONS_TOO_LARGE"}
_SUFFIXES = (".json", ".jsonl")


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked about.

    Attributes:
        artifact: it, with the images of an index.
        image: where it is, with its digest; ``None`` where it is not in a registry.
        platforms: of the images of an index, by digest, ``linux/amd64``; of those that say theirs.
    """

    artifact: Artifact
    image: ImageReference | None = None
    platforms: Mapping[str, str] = field(default_factory=dict, hash=False)


def target_of(text: str, registry: Callable[[], Registry], deadline: Deadline) -> Target:
    """Find out what a person means: a digest, a file, or else an image.

    Args:
        text: ``sha256:…``, a path, or a reference.
        registry: for images: resolves tags, and finds the images of an index.
        deadline: for that.

    Raises:
        InvalidRequestError: it is none of these.
        RegistryError: the image cannot be found.
        OSError: the file cannot be read.
    """
    if _DIGEST.fullmatch(text):
        return Target(_artifact(text, text))
    path = Path(text)
    if path.is_file():
        with path.open("rb") as file:
            return Target(Artifact(path.name, {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}))
    try:
        reference = ImageReference.parse(text)
    except RegistryError as error:
        raise InvalidRequestError(
            f"{text}: is no file, no digest and no image",
            reason="SUBJECT_UNKNOWN",
            next_step="give a file, sha256:HEX, or an image such as ghcr.io/acme/app@sha256:HEX",
            violations=[FieldViolation("SUBJECT", str(error))],
        ) from None
    return image_target(reference, registry(), deadline)


def image_target(reference: ImageReference, registry: Registry, deadline: Deadline) -> Target:
    """An image by its digest, with its own images where it is an index.

    Raises:
        RegistryError: it cannot be found.
    """
    resolved = registry.resolve(reference, deadline)
    images = registry.images(resolved, deadline)
    children = [one for one in images if one.digest != resolved.digest and _can_run(one)]
    artifact = Artifact(
        str(reference),
        _digests(resolved.digest),
        tuple(_artifact(f"{reference.name}@{one.digest}", one.digest) for one in children),
    )
    return Target(artifact, resolved.reference, {one.digest: str(one.platform) for one in children if one.platform})


def _can_run(one: Descriptor) -> bool:
    """Whether a machine would take it: builders keep attestations in an index as images for no platform."""
    return one.platform is None or (one.platform.os, one.platform.architecture) != ("unknown", "unknown")


def _artifact(name: str, digest: str) -> Artifact:
    return Artifact(name, _digests(digest))


def _digests(digest: str) -> dict[str, str]:
    algorithm, _, value = digest.partition(":")
    return {algorithm: value}


class RegistryEvidence:
    """Bundles that are attached to an image and to its images.

    Args:
        registry: to ask.
        target: whose image it is; of other artifacts nothing is found.
        deadline: for all of it.
    """

    def __init__(self, registry: Registry, target: Target, deadline: Deadline) -> None:
        self._registry = registry
        self._image = target.image
        self._known = {one.digest for one in (target.artifact, *target.artifact.children)}
        self._deadline = deadline

    def __call__(self, artifact: Artifact) -> list[FoundBundle]:
        """As ``Gatherer`` has it."""
        try:
            return self.attached(artifact.digest)
        except RegistryError as error:
            raise EvidenceError(_REASONS.get(error.reason, "ATTESTATIONS_UNAVAILABLE"), str(error)) from None

    def attached(self, digest: str) -> list[FoundBundle]:
        """What is attached to the image, or to the one of its images, that has this digest; nothing for others.

        Raises:
            RegistryError: it cannot be had.
        """
        if self._image is None or digest not in self._known:
            return []
        found = find_bundles(self._registry, self._image.with_digest(digest), Limits(), self._deadline)
        return [
            FoundBundle(data or problem.encode(), str(origin))
            for origin, data, problem in found.documents(encode_simple_signing)
        ]


class FileEvidence:
    """Bundles in files, whatever they are about: JSON, or a line each (``.jsonl``).

    Args:
        paths: of the files; of a folder its ``.json`` and ``.jsonl`` files.

    Raises:
        OSError: one cannot be read.
        InvalidRequestError: one is too long.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._found = [bundle for path in paths for one in _files(path) for bundle in _bundles(one)]

    def __call__(self, artifact: Artifact) -> list[FoundBundle]:
        """As ``Gatherer`` has it."""
        return self._found


def _files(path: Path) -> Sequence[Path]:
    return sorted(one for one in path.iterdir() if one.suffix in _SUFFIXES) if path.is_dir() else [path]


def _bundles(path: Path) -> list[FoundBundle]:
    with path.open("rb") as file:
        data = file.read(4 * MAX_BUNDLE + 1)
    if len(data) > 4 * MAX_BUNDLE:
        raise InvalidRequestError(f"{path}: is longer than bundles may be", reason="BUNDLE_TOO_LARGE")
    parts = data.splitlines() if path.suffix == ".jsonl" else [data]
    return [FoundBundle(one, f"file {path.name}") for one in parts if one.strip()]


def gathered(*sources: Callable[[Artifact], Iterable[FoundBundle]]) -> Callable[[Artifact], list[FoundBundle]]:
    """One source of several."""

    def gather(artifact: Artifact) -> list[FoundBundle]:
        return [one for source in sources for one in source(artifact)]

    return gather
