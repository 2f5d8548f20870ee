"""Signed notes and checkpoints (C2SP signed-note v1, tlog-checkpoint v1).

A note is a text that ends with a newline, an empty line, and signature lines ``— name base64(key id || signature)``.
A checkpoint is a note whose text is the log's origin, its size and its root hash, a line each.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from sealkeeper.verify.algorithms import ALGORITHMS, Algorithm, KeyMismatchError, message_verifies, require_key
from sealkeeper.verify.errors import NoteError

MAX_NOTE = 1024 * 1024
MAX_SIGNATURES = 100
MAX_VKEY = 4096
_DASH = "— "
# SubjectPublicKeyInfo of Ed25519 up to the key (RFC 8410 section 4).
_ED25519_PREFIX = bytes.fromhex("302a300506032b6570032100")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log says about itself.

    Attributes:
        origin: name of the log, unique.
        size: number of entries.
        root_hash: of the tree, 32 bytes.
        extensions: further lines, not interpreted.
    """

    origin: str
    size: int
    root_hash: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        """The note's text, with its last newline."""
        lines = (self.origin, str(self.size), base64.b64encode(self.root_hash).decode(), *self.extensions)
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line."""

    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class SignedNote:
    """A note, parsed and not yet verified."""

    text: str
    signatures: tuple[NoteSignature, ...]


def parse_checkpoint(text: str) -> Checkpoint:
    """Parse a note's text as a checkpoint.

    Raises:
        NoteError: it is none.
    """
    if not text.endswith("\n"):
        raise NoteError("a checkpoint ends with a newline")
    origin, *rest = text[:-1].split("\n")
    if len(rest) < 2 or not origin:
        raise NoteError("a checkpoint has an origin, a size and a root hash")
    size, root, *extensions = rest
    if not _SIZE.fullmatch(size) or int(size) >= 2**63:
        raise NoteError("the checkpoint's size is not a decimal number below 2^63")
    if not all(extensions):
        raise NoteError("a checkpoint has no empty lines")
    root_hash = _base64(root, "root hash")
    if len(root_hash) != 32:
        raise NoteError("the checkpoint's root hash is not 32 bytes long")
    return Checkpoint(origin, int(size), root_hash, tuple(extensions))


def parse_signed_note(envelope: str | bytes) -> SignedNote:
    """Parse a note with its signatures, without verifying them.

    Raises:
        NoteError: malformed, or beyond 1 MiB or 100 signatures.
    """
    if len(envelope) > MAX_NOTE:
        raise NoteError("the note is longer than 1 MiB")
    envelope = _utf8(envelope, "note")
    if _CONTROL.search(envelope):
        raise NoteError("the note holds control characters")
    text, separator, block = envelope.rpartition("\n\n")
    if not separator or not block.endswith("\n"):
        raise NoteError("the note has no signatures")
    lines = block[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise NoteError(f"the note has more than {MAX_SIGNATURES} signatures")
    return SignedNote(text + "\n", tuple(map(_parse_signature, lines)))


def _utf8(text: str | bytes, what: str) -> str:
    # A str can hold half of a surrogate pair, which has no bytes that could be signed.
    try:
        return (text.encode() if isinstance(text, str) else text).decode()
    except UnicodeError:
        raise NoteError(f"the {what} is not UTF-8") from None


def _parse_signature(line: str) -> NoteSignature:
    name, separator, encoded = line.removeprefix(_DASH).rpartition(" ")
    if not line.startswith(_DASH) or not separator or not name or "+" in name or any(map(str.isspace, name)):
        raise NoteError("a signature line of the note is malformed")
    blob = _base64(encoded, "signature")
    if len(blob) < 5:
        raise NoteError("a signature of the note is too short")
    return NoteSignature(name, blob[:4], blob[4:])


def _base64(text: str, what: str) -> bytes:
    try:
        blob = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        blob = None
    # One value, one spelling: non-zero trailing bits are refused too.
    if blob is None or base64.b64encode(blob).decode() != text:
        raise NoteError(f"the note's {what} is not base64")
    return blob


def log_id_ed25519(name: str, public_key: bytes) -> bytes:
    """Untruncated key id: SHA-256(name || 0x0A || 0x01 || raw public key)."""
    return sha256(name.encode() + b"\n\x01" + public_key).digest()


def ed25519_key_id(name: str, public_key: bytes) -> bytes:
    """Key id of an Ed25519 note key, 4 bytes."""
    return log_id_ed25519(name, public_key)[:4]


def ecdsa_key_id(spki: bytes) -> bytes:
    """Key id of an ECDSA note key as Sigstore's logs have it: SHA-256(SubjectPublicKeyInfo)[:4]."""
    return sha256(spki).digest()[:4]


def signature_line(name: str, key_id: bytes, signature: bytes) -> str:
    """Render one signature line, with its newline."""
    return f"{_DASH}{name} {base64.b64encode(key_id + signature).decode()}\n"


_NOTE_KEYS = (ed25519.Ed25519PublicKey, ec.EllipticCurvePublicKey, rsa.RSAPublicKey)


def _algorithm(key: object) -> Algorithm:
    if isinstance(key, ed25519.Ed25519PublicKey):
        return ALGORITHMS["PKIX_ED25519"]
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return ALGORITHMS["PKIX_ECDSA_P256_SHA_256"]
    raise NoteError("notes are signed with Ed25519 or ECDSA P-256 keys only")


class NoteVerifier:
    """Checks notes against one key.

    Args:
        name: of the key; for a checkpoint, the log's origin.
        spki: public key, SubjectPublicKeyInfo DER.
        algorithm: of its signatures; without it, the key is an Ed25519 or ECDSA P-256 key.
        log_id: untruncated key id, where that is another than the key's kind has it.

    Raises:
        NoteError: the key is of another kind, or its name is no text.
    """

    def __init__(self, name: str, spki: bytes, algorithm: Algorithm | None = None, log_id: bytes | None = None) -> None:
        try:
            key = serialization.load_der_public_key(spki)
        except (ValueError, UnsupportedAlgorithm):
            raise NoteError("the note's key cannot be read") from None
        self.name = _utf8(name, "name of the note's key")
        self._algorithm = _algorithm(key) if algorithm is None else algorithm
        try:
            self._key = require_key(self._algorithm, key)
        except KeyMismatchError as error:
            raise NoteError(str(error)) from None
        if not isinstance(self._key, _NOTE_KEYS) or self._algorithm.pss:
            raise NoteError(f"notes are not signed with {self._algorithm.name}")
        self.log_id = log_id or (
            log_id_ed25519(name, self._key.public_bytes_raw())
            if isinstance(self._key, ed25519.Ed25519PublicKey)
            else sha256(spki).digest()
        )
        self.key_id = self.log_id[:4]

    @classmethod
    def from_vkey(cls, text: str | bytes) -> NoteVerifier:
        """A verifier key, ``name+keyid+base64(type || key)``: as C2SP signed-note has it for Ed25519 (type 1, raw key),
        and with type 2 and SubjectPublicKeyInfo for ECDSA, whose key ids are those of Sigstore's logs.

        Raises:
            NoteError: it is none, or longer than ``MAX_VKEY``.
        """
        if len(text) > MAX_VKEY:
            raise NoteError(f"a verifier key has at most {MAX_VKEY} characters")
        name, _, rest = _utf8(text, "verifier key").strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        blob = _base64(encoded, "verifier key")
        spki = blob[1:]
        if blob[:1] == b"\x01" and len(spki) == 32:
            spki = _ED25519_PREFIX + spki
        elif blob[:1] != b"\x02":
            raise NoteError("not a verifier key: name+keyid+base64")
        verifier = cls(name, spki)
        if not name or verifier.key_id.hex() != key_id:
            raise NoteError("the verifier key's id is not that of its key")
        return verifier

    def vkey(self) -> str:
        """The verifier key; see ``from_vkey``."""
        if isinstance(self._key, ed25519.Ed25519PublicKey):
            blob = b"\x01" + self._key.public_bytes_raw()
        else:
            spki = serialization.PublicFormat.SubjectPublicKeyInfo
            blob = b"\x02" + self._key.public_bytes(serialization.Encoding.DER, spki)
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(blob).decode()}"

    def verify(self, note: SignedNote) -> None:
        """Check the key's signature; lines of other keys are ignored.

        Raises:
            NoteError: there is none of this key, or it is wrong.
        """
        mine: Iterable[NoteSignature] = [
            one for one in note.signatures if one.name == self.name and one.key_id == self.key_id
        ]
        if not mine:
            raise NoteError(f"the note is not signed by {self.name}")
        for one in mine:
            self._verify_one(note.text.encode(), one.signature)

    def _verify_one(self, text: bytes, signature: bytes) -> None:
        if not message_verifies(self._algorithm, self._key, text, signature):
            raise NoteError(f"the note's signature by {self.name} is wrong")
