"""What a signature is of: a file, bytes, or a digest of something that is not here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from sealkeeper.verify.errors import VerifyError

MAX_MESSAGE = 4 * 1024 * 1024
_CHUNK = 1024 * 1024
_HASHES = {"SHA2_256": hashlib.sha256, "SHA2_384": hashlib.sha384, "SHA2_512": hashlib.sha512}


class ArtifactError(VerifyError):
    """The artifact is not there in the form that the signature needs."""

    reason = "ARTIFACT_UNSUITABLE"


class Artifact:
    """An artifact; a file is read at most once a digest algorithm, in constant memory.

    >>> Artifact.from_bytes(b"abc").digest("SHA2_256").hex()[:8]
    'ba7816bf'
    """

    def __init__(
        self,
        *,
        path: Path | None = None,
        message: bytes | None = None,
        digests: dict[str, bytes] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._path = path
        self._message = message
        self._digests = dict(digests or {})
        self._progress = progress

    @classmethod
    def from_path(cls, path: Path, progress: Callable[[int], None] | None = None) -> Artifact:
        """A file; ``progress`` is told the number of bytes as they are read."""
        return cls(path=path, progress=progress)

    @classmethod
    def from_stream(cls, stream: BinaryIO) -> Artifact:
        """What is read from a stream once, in constant memory: at most its first 4 MiB are kept, as a message.

        Raises:
            OSError: it cannot be read.
        """
        head, hashes = b"", {name: make() for name, make in _HASHES.items()}
        while chunk := stream.read(_CHUNK):
            for one in hashes.values():
                one.update(chunk)
            if len(head) <= MAX_MESSAGE:
                head += chunk
        digests = {name: one.digest() for name, one in hashes.items()}
        return cls(message=head if len(head) <= MAX_MESSAGE else None, digests=digests)

    @classmethod
    def from_bytes(cls, message: bytes) -> Artifact:
        """Bytes in memory."""
        return cls(message=message)

    @classmethod
    def from_digest(cls, algorithm: str, digest: bytes) -> Artifact:
        """Something that is not here; ``algorithm`` as in ``HashAlgorithm``.

        Raises:
            ArtifactError: unknown algorithm or wrong length.
        """
        if algorithm not in _HASHES:
            raise ArtifactError(f"the digest's algorithm must be one of {', '.join(_HASHES)}")
        size = _HASHES[algorithm]().digest_size
        if len(digest) != size:
            raise ArtifactError(f"a {algorithm} digest has {size} bytes, not {len(digest)}")
        return cls(digests={algorithm: digest})

    def digest(self, algorithm: str) -> bytes:
        """Its digest.

        Raises:
            ArtifactError: only a digest of another algorithm was given.
            OSError: the file cannot be read.
        """
        if algorithm not in self._digests:
            self._digests[algorithm] = self._compute(algorithm)
        return self._digests[algorithm]

    def message(self) -> bytes:
        """Its bytes, at most 4 MiB.

        Raises:
            ArtifactError: it is longer, or only a digest was given.
            OSError: the file cannot be read.
        """
        if self._message is None:
            if self._path is None:
                raise ArtifactError(
                    "this signature is of a message of at most 4 MiB, which is not here: a digest is no help"
                )
            with self._path.open("rb") as file:
                message = file.read(MAX_MESSAGE + 1)
            if len(message) > MAX_MESSAGE:
                raise ArtifactError("this signature is of the message itself, which may have 4 MiB at most")
            self._message = message
        return self._message

    def _compute(self, algorithm: str) -> bytes:
        digest = _HASHES[algorithm]()
        if self._message is not None:
            digest.update(self._message)
            return digest.digest()
        if self._path is None:
            raise ArtifactError(
                f"the artifact was given by its {next(iter(self._digests))} digest; {algorithm} is needed"
            )
        with self._path.open("rb", buffering=0) as file:
            buffer = memoryview(bytearray(_CHUNK))
            while count := file.readinto(buffer):
                digest.update(buffer[:count])
                if self._progress is not None:
                    self._progress(count)
        return digest.digest()
