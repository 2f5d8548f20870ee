"""Files that commands read: no longer than they may be, and what they should be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sealkeeper.client.cli.output import printable

if TYPE_CHECKING:
    from sealkeeper.verify.note import NoteVerifier

_MAX_KEY = 64 * 1024


def read_limited(path: Path, most: int, place: str) -> bytes:
    """The whole file.

    Args:
        path: where it is.
        most: bytes.
        place: option or argument that named it, for errors.

    Raises:
        typer.BadParameter: it is longer.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise typer.BadParameter(f"{printable(path)} is longer than {most // 1024} KiB", param_hint=place)
    return data


def read_public_key(path: Path, place: str) -> bytes:
    """A public key, PEM or DER, as SubjectPublicKeyInfo (DER).

    Raises:
        typer.BadParameter: there is none in the file.
        OSError: it cannot be read.
    """
    data = read_limited(path, _MAX_KEY, place)
    if b"PRIVATE KEY-----" in data:
        raise typer.BadParameter(f"{printable(path)} holds a private key: give its public key alone", param_hint=place)
    spki = public_key_of(data)
    if spki is None:
        raise typer.BadParameter(f"{printable(path)} holds no public key, PEM or DER", param_hint=place)
    return spki


def public_key_of(data: bytes) -> bytes | None:
    """A public key, PEM or DER, as SubjectPublicKeyInfo (DER); ``None`` where it is none."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    load = serialization.load_pem_public_key if b"-----BEGIN" in data else serialization.load_der_public_key
    try:
        key = load(data)
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def read_log_key(path: Path, place: str) -> NoteVerifier:
    """A log's verifier key, as the gateway writes it.

    Raises:
        NoteError: it is none.
        typer.BadParameter: it is far too long.
        OSError: it cannot be read.
    """
    from sealkeeper.verify.note import NoteVerifier

    return NoteVerifier.from_vkey(read_limited(path, _MAX_KEY, place).decode("utf-8", "replace"))
