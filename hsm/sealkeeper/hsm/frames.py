"""What the gateway and a worker process say to each other: typed MessagePack, never pickle.

A frame is a length (4 bytes, big-endian) and a MessagePack array of messages. A worker hosts a vendor's library; what
it answers is decoded strictly, so that a library gone bad gets no code into the gateway.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TypeAlias

import msgspec

from sealkeeper.hsm.provider import Diagnosis, KeyEvidence, ProviderInfo, WrapMethod, WrappingKey

MAX_FRAME = 64 * 1024 * 1024
MAX_REQUEST = 16 * 1024 * 1024
"""Most payload bytes of one request."""

_LENGTH = struct.Struct(">I")


class Generate(msgspec.Struct, frozen=True, tag="generate", array_like=True):
    """Make a key pair."""

    id: int
    label: str
    algorithm: str


class Read(msgspec.Struct, frozen=True, tag="read", array_like=True):
    """Read a public key."""

    id: int
    handle: str


class Sign(msgspec.Struct, frozen=True, tag="sign", array_like=True):
    """Sign payloads."""

    id: int
    handle: str
    algorithm: str
    payloads: list[bytes]


class Destroy(msgspec.Struct, frozen=True, tag="destroy", array_like=True):
    """Destroy a key pair."""

    id: int
    handle: str


class Witness(msgspec.Struct, frozen=True, tag="witness", array_like=True):
    """Say what the store knows of a private key."""

    id: int
    handle: str


class BeginImport(msgspec.Struct, frozen=True, tag="begin-import", array_like=True):
    """Offer a wrapping key."""

    id: int
    label: str
    algorithm: str


class FinishImport(msgspec.Struct, frozen=True, tag="finish-import", array_like=True):
    """Unwrap a private key in the store."""

    id: int
    state: bytes
    label: str
    algorithm: str
    method: WrapMethod
    wrapped: bytes
    public_key: bytes


class EndImport(msgspec.Struct, frozen=True, tag="end-import", array_like=True):
    """Remove what an import left."""

    id: int
    state: bytes


class Check(msgspec.Struct, frozen=True, tag="check", array_like=True):
    """Give a sign of life."""

    id: int


class Diagnose(msgspec.Struct, frozen=True, tag="diagnose", array_like=True):
    """Say how the store is set up for the gateway."""

    id: int


class Open(msgspec.Struct, frozen=True, tag="open", array_like=True):
    """Open the store; the first message to a worker."""

    id: int
    uri: str


class Opened(msgspec.Struct, frozen=True, tag="opened", array_like=True):
    """The store is open."""

    id: int
    info: ProviderInfo


class Key(msgspec.Struct, frozen=True, tag="key", array_like=True):
    """A key: ``ProviderKey``."""

    id: int
    handle: str
    algorithm: str
    public_key: bytes


class Witnessed(msgspec.Struct, frozen=True, tag="witnessed", array_like=True):
    """What the store says of a private key."""

    id: int
    evidence: KeyEvidence


class Diagnosed(msgspec.Struct, frozen=True, tag="diagnosed", array_like=True):
    """How the store is set up for the gateway."""

    id: int
    diagnoses: list[Diagnosis]


class Offered(msgspec.Struct, frozen=True, tag="offered", array_like=True):
    """A wrapping key."""

    id: int
    wrapping_key: WrappingKey


class Signed(msgspec.Struct, frozen=True, tag="signed", array_like=True):
    """Signatures, one a payload."""

    id: int
    signatures: list[bytes]


class Done(msgspec.Struct, frozen=True, tag="done", array_like=True):
    """It is done."""

    id: int


class Failed(msgspec.Struct, frozen=True, tag="failed", array_like=True):
    """It was refused: an error's reason, text and next step."""

    id: int
    reason: str
    message: str
    next_step: str
    retry_after: timedelta | None = None


Request: TypeAlias = (
    Open | Generate | Read | Sign | Destroy | Witness | BeginImport | FinishImport | EndImport | Check | Diagnose
)
Response: TypeAlias = Opened | Key | Witnessed | Offered | Signed | Diagnosed | Done | Failed

_encoder = msgspec.msgpack.Encoder()
requests = msgspec.msgpack.Decoder(list[Request])
responses = msgspec.msgpack.Decoder(list[Response])


def frame(messages: Sequence[Request] | Sequence[Response]) -> bytes:
    """Encode messages as one frame."""
    body = _encoder.encode(messages)
    return _LENGTH.pack(len(body)) + body


class FrameError(Exception):
    """A frame is longer than allowed."""


class FrameReader:
    """Cuts a stream of bytes into the bodies of frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take bytes and yield the bodies that are whole now.

        Raises:
            FrameError: a length is beyond ``MAX_FRAME``.
        """
        self._buffer += data
        while len(self._buffer) >= 4:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME:
                raise FrameError("a frame is too long")
            if len(self._buffer) < 4 + length:
                return
            body = bytes(memoryview(self._buffer)[4 : 4 + length])
            del self._buffer[: 4 + length]
            yield body
