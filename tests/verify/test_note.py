"""Signed notes and checkpoints."""

from __future__ import annotations

import base64
import contextlib

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.verify import note
from sealkeeper.verify.errors import NoteError
from tests.verify.certificates import UNKNOWN_CURVE

# golang.org/x/mod/sumdb/note, package example: the verifier key and the note that it signed.
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def _spki(key: ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _signed(text: str, origin: str, key: ed25519.Ed25519PrivateKey) -> str:
    key_id = note.ed25519_key_id(origin, key.public_key().public_bytes_raw())
    return f"{text}\n{note.signature_line(origin, key_id, key.sign(text.encode()))}"


ORIGIN = "log.sealkeeper.example"
KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
CHECKPOINT = note.Checkpoint(ORIGIN, 20, bytes(range(32)))


def test_published_note_verifies_under_its_published_key() -> None:
    name, key_id, encoded = PETER.split("+", 2)
    raw = base64.b64decode(encoded)
    assert raw[0] == 1
    public = ed25519.Ed25519PublicKey.from_public_bytes(raw[1:])
    verifier = note.NoteVerifier(name, _spki(public))
    assert verifier.key_id.hex() == key_id
    verifier.verify(note.parse_signed_note(PETER_NOTE))
    with pytest.raises(NoteError):
        verifier.verify(note.parse_signed_note(PETER_NOTE.replace("answer", "Answer")))


@given(
    st.integers(0, 2**63 - 1),
    st.binary(min_size=32, max_size=32),
    st.lists(st.text("abc =+/", min_size=1, max_size=9), max_size=3),
)
def test_checkpoint_text_reads_back(size: int, root: bytes, extensions: list[str]) -> None:
    checkpoint = note.Checkpoint(ORIGIN, size, root, tuple(extensions))
    assert note.parse_checkpoint(checkpoint.text()) == checkpoint


def test_ecdsa_signature_verifies_and_an_altered_text_does_not() -> None:
    key = ec.derive_private_key(7, ec.SECP256R1())
    spki = _spki(key.public_key())
    signature = key.sign(CHECKPOINT.text().encode(), ec.ECDSA(hashes.SHA256()))
    envelope = CHECKPOINT.text() + "\n" + note.signature_line(ORIGIN, note.ecdsa_key_id(spki), signature)
    note.NoteVerifier(ORIGIN, spki).verify(note.parse_signed_note(envelope))
    with pytest.raises(NoteError):
        note.NoteVerifier(ORIGIN, spki).verify(note.parse_signed_note(envelope.replace("20", "21", 1)))


def test_signatures_of_unknown_keys_are_ignored() -> None:
    cosigned = _signed(CHECKPOINT.text(), ORIGIN, KEY) + note.signature_line("witness.example", b"1234", bytes(72))
    parsed = note.parse_signed_note(cosigned)
    note.NoteVerifier(ORIGIN, _spki(KEY.public_key())).verify(parsed)
    assert [one.name for one in parsed.signatures] == [ORIGIN, "witness.example"]


def test_a_note_without_the_known_key_is_refused() -> None:
    parsed = note.parse_signed_note(_signed(CHECKPOINT.text(), "other.example", KEY))
    with pytest.raises(NoteError, match="not signed by"):
        note.NoteVerifier(ORIGIN, _spki(KEY.public_key())).verify(parsed)


def test_a_wrong_second_signature_of_the_known_key_is_refused() -> None:
    key_id = note.ed25519_key_id(ORIGIN, KEY.public_key().public_bytes_raw())
    doubled = _signed(CHECKPOINT.text(), ORIGIN, KEY) + note.signature_line(ORIGIN, key_id, bytes(64))
    with pytest.raises(NoteError, match="wrong"):
        note.NoteVerifier(ORIGIN, _spki(KEY.public_key())).verify(note.parse_signed_note(doubled))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "origin\n",
        "origin\n1\n",
        "\n1\n" + "A" * 43 + "=\n",
        "origin\n01\n" + "A" * 43 + "=\n",
        "origin\n-1\n" + "A" * 43 + "=\n",
        "origin\n9223372036854775808\n" + "A" * 43 + "=\n",
        "origin\n1\nAAAA\n",
        "origin\n1\n" + "A" * 42 + "B=\n",
        "origin\n1\n" + "A" * 43 + "=",
        "origin\n1\n" + "A" * 43 + "=\n\nextension\n",
    ],
)
def test_malformed_checkpoints_are_refused(text: str) -> None:
    with pytest.raises(NoteError):
        note.parse_checkpoint(text)


@pytest.mark.parametrize(
    "envelope",
    [
        "",
        "text\n",
        "text\n\n",
        "text\n\n— name AAAA\n",
        "text\n\n— name AAAAAAAA",
        "text\n\n- name AAAAAAAA\n",
        "text\n\n— AAAAAAAA\n",
        "text\n\n— na+me AAAAAAAA\n",
        "text\n\n— na me AAAAAAAA\n",
        "text\n\n— name AAAA*AAA\n",
        "text\x00\n\n— name AAAAAAAA\n",
        b"\xff\n\n",
        "text\n\n" + "— name AAAAAAAA\n" * 101,
        "t" * (1024 * 1024 + 1),
        "half a pair \ud800\n\n— name AAAAAAAA\n",
        "text\n\n— na\udfffme AAAAAAAA\n",
    ],
)
def test_malformed_notes_are_refused(envelope: str | bytes) -> None:
    with pytest.raises(NoteError):
        note.parse_signed_note(envelope)


@given(st.binary(max_size=200))
def test_bytes_from_outside_raise_nothing_but_note_errors(envelope: bytes) -> None:
    with contextlib.suppress(NoteError):
        note.parse_signed_note(envelope)


def test_a_verifier_key_whose_name_is_no_text_is_refused() -> None:
    with pytest.raises(NoteError, match="UTF-8"):
        note.NoteVerifier.from_vkey(PETER.replace("Peter", "\ud800"))
    with pytest.raises(NoteError, match="UTF-8"):
        note.NoteVerifier("\ud800", _spki(KEY.public_key()))


@pytest.mark.parametrize("text", [PETER + " " * 5000, "x" * 5000, b"\xff" + PETER.encode(), PETER.encode() + b"\0"])
def test_a_verifier_key_is_a_short_text(text: str | bytes) -> None:
    assert note.NoteVerifier.from_vkey(PETER.encode() + b"\n").vkey() == PETER
    with pytest.raises(NoteError):
        note.NoteVerifier.from_vkey(text)


def test_keys_of_other_kinds_are_refused() -> None:
    key = ec.derive_private_key(7, ec.SECP384R1()).public_key()
    for spki in (_spki(key), UNKNOWN_CURVE, b"no key"):
        with pytest.raises(NoteError):
            note.NoteVerifier(ORIGIN, spki)
