"""Sigstore bundles v0.3 as JSON (sigstore/protobuf-specs, ``sigstore_bundle.proto``), assembled from strings.

Everything that a caller chose is base64, but a DSSE payload type, which is escaped.
"""

from __future__ import annotations

import binascii
import json
import threading
from collections.abc import Sequence
from functools import partial
from typing import Protocol

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_base64 = partial(binascii.b2a_base64, newline=False)


class Inclusion(Protocol):
    """Where an entry is in the transparency log, and the proof; hashes are 32 bytes each."""

    @property
    def index(self) -> int: ...
    @property
    def tree_size(self) -> int: ...
    @property
    def root_hash(self) -> bytes: ...
    @property
    def hashes(self) -> Sequence[bytes]: ...
    @property
    def checkpoint(self) -> str: ...


class _Encoded(threading.local):
    """What the entries of one checkpoint have in common, encoded once; for each thread by itself."""

    def __init__(self) -> None:
        self._checkpoint: str | None = None
        self._tail = b""
        self._hashes: dict[bytes, bytes] = {}

    def proof(self, inclusion: Inclusion) -> tuple[bytes, ...]:
        """The members of ``inclusionProof``, in pieces."""
        if inclusion.checkpoint is not self._checkpoint:
            self._checkpoint = inclusion.checkpoint
            self._hashes.clear()
            self._tail = b'],"rootHash":"%b","treeSize":"%d","checkpoint":{"envelope":%b}' % (
                _base64(inclusion.root_hash),
                inclusion.tree_size,
                json.dumps(inclusion.checkpoint, ensure_ascii=False).encode(),
            )
        # Paths have most of their hashes in common.
        known, hashes = self._hashes, []
        for one in inclusion.hashes:
            text = known.get(one)
            if text is None:
                text = known[one] = b'"%b"' % _base64(one)
            hashes.append(text)
        return b'"logIndex":"%d","hashes":[' % inclusion.index, b",".join(hashes), self._tail


_encoded = _Encoded()


class BundleTemplate:
    """Makes the bundles of one key version or certificate; see ``for_public_key`` and ``for_certificate``."""

    __slots__ = ("_hint", "_middle", "_prefix")

    def __init__(self, material: bytes, hint: str, log_id: bytes) -> None:
        self._hint = hint
        self._prefix = b'{"mediaType":"%b","verificationMaterial":{%b,"tlogEntries":[{"logIndex":"' % (
            MEDIA_TYPE.encode(),
            material,
        )
        self._middle = (
            b'","logId":{"keyId":"%b"},"kindVersion":{"kind":"hashedrekord","version":"0.0.2"},'
            b'"integratedTime":"0","inclusionProof":{' % _base64(log_id)
        )

    @classmethod
    def for_public_key(cls, hint: str, log_id: bytes) -> BundleTemplate:
        """For verifiers that hold the key.

        Args:
            hint: base64 of SHA-256 of the SubjectPublicKeyInfo.
            log_id: of the transparency log, 32 bytes.
        """
        return cls(b'"publicKey":{"hint":"%b"}' % hint.encode(), hint, log_id)

    @classmethod
    def for_certificate(cls, certificate_der: bytes, log_id: bytes) -> BundleTemplate:
        """For verifiers that trust the gateway's CA."""
        return cls(b'"certificate":{"rawBytes":"%b"}' % _base64(certificate_der), "", log_id)

    def message_signature(
        self,
        digest_algorithm: str,
        digest: bytes,
        signature: bytes,
        entry: bytes,
        inclusion: Inclusion,
        timestamp: bytes,
    ) -> bytes:
        """A bundle with a signature of an artifact.

        Args:
            digest_algorithm: name in ``HashAlgorithm``.
            digest: of the artifact.
            signature: of the artifact.
            entry: body of its log entry.
            inclusion: of that entry.
            timestamp: RFC 3161 TimeStampResp over the signature, DER.
        """
        return b"".join(
            (
                *self._material(entry, inclusion, timestamp),
                b'"messageSignature":{"messageDigest":{"algorithm":"',
                digest_algorithm.encode(),
                b'","digest":"',
                _base64(digest),
                b'"},"signature":"',
                _base64(signature),
                b'"}}',
            )
        )

    def dsse(
        self,
        payload_type: str,
        payload: bytes,
        signature: bytes,
        entry: bytes,
        inclusion: Inclusion,
        timestamp: bytes,
    ) -> bytes:
        """A bundle with a DSSE envelope; arguments as for ``message_signature``."""
        return b"".join(
            (
                *self._material(entry, inclusion, timestamp),
                b'"dsseEnvelope":{"payload":"',
                _base64(payload),
                b'","payloadType":',
                json.dumps(payload_type).encode(),
                b',"signatures":[{"sig":"',
                _base64(signature),
                b'","keyid":"',
                self._hint.encode(),
                b'"}]}}',
            )
        )

    def _material(self, entry: bytes, inclusion: Inclusion, timestamp: bytes) -> tuple[bytes, ...]:
        return (
            self._prefix,
            b"%d" % inclusion.index,
            self._middle,
            *_encoded.proof(inclusion),
            b'},"canonicalizedBody":"',
            _base64(entry),
            b'"}],"timestampVerificationData":{"rfc3161Timestamps":[{"signedTimestamp":"',
            _base64(timestamp),
            b'"}]}},',
        )
