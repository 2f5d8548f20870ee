"""Predicate types as the command line has them: short names for URIs, and bills of materials by what is in them."""

from __future__ import annotations

from pathlib import Path

import typer

from sealkeeper.client.cli.output import printable

_SLSA = "SLSA provenance is written by the gateway: --slsa"
_GATE = "verification summaries are written by gates: sealkeeper gate"


def predicate_type_of(text: str, option: str) -> str:
    """The URI of a predicate type, or of its short name, of something that a caller may attest as it likes.

    Raises:
        typer.BadParameter: it is neither, or one that only the gateway writes.
    """
    uri = known_type(text, option)
    kind = short_name_of(uri)
    if kind in ("slsa-provenance", "vsa"):
        raise typer.BadParameter(_SLSA if kind == "slsa-provenance" else _GATE, param_hint=option)
    return uri


def known_type(text: str, option: str) -> str:
    """The URI of a predicate type, or of its short name.

    Raises:
        typer.BadParameter: it is neither.
    """
    from sealkeeper.verify.predicates import KINDS, by_short_name

    kind = by_short_name("slsa-provenance" if text == "slsa" else text)
    if kind is not None:
        return kind.types[0]
    if ":" not in text:
        known = ", ".join(one.short_name for one in KINDS)
        raise typer.BadParameter(f"must be a URI, or one of {known}", param_hint=option)
    return text


def short_name_of(predicate_type: str, other: str = "") -> str:
    """The short name of a predicate type; where it has none ``other``, or the type itself."""
    from sealkeeper.verify.predicates import kind_of

    kind = kind_of(predicate_type)
    return kind.short_name if kind is not None else other or predicate_type


def sbom_type_of(data: bytes, path: Path) -> str:
    """The predicate type of a bill of materials, by its content.

    Raises:
        typer.BadParameter: it is neither SPDX nor CycloneDX as JSON.
    """
    from sealkeeper.verify.errors import StatementError
    from sealkeeper.verify.predicates import by_short_name
    from sealkeeper.verify.statement import parse_predicate

    try:
        document = parse_predicate(data)
    except StatementError as error:
        raise typer.BadParameter(f"{printable(path)}: {error.text}", param_hint="--sbom") from None
    context = document.get("@context")
    if document.get("bomFormat") == "CycloneDX":
        kind = by_short_name("cyclonedx")
    elif "spdxVersion" in document or (isinstance(context, str) and "spdx.org" in context):
        kind = by_short_name("spdx")
    else:
        kind = None
    if kind is None:
        raise typer.BadParameter(f"{printable(path)} is neither SPDX nor CycloneDX as JSON", param_hint="--sbom")
    return kind.types[0]
