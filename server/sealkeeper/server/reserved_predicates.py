"""Predicates that nobody has signed as they like: SLSA provenance and verification summaries.

Whoever may sign in-toto Statements of these types could say anything of a build. So provenance is written by the
gateway (``slsa_provenance.py``) and summaries by gates. Where payloads and messages come as they are, neither is
signed, under whatever spelling of its type, nor anything that a DSSE envelope with one could be made of.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from sealkeeper.server.errors import InvalidRequestError
from sealkeeper.verify.errors import StatementError
from sealkeeper.verify.statement import PAYLOAD_TYPE, parse_statement

ENCODING = b"DSSEv1 "
"""How a DSSE pre-authentication encoding begins (DSSE v1.0.0, protocol)."""

_PROVENANCE = "have the gateway write it: sealkeeper attest --slsa"
_SUMMARY = "have a gate decide, which attests what it has found: sealkeeper gate"
_NOT_LETTERS = re.compile(r"[^a-z0-9]")


def require_unreserved(predicate_type: str, field: str) -> None:
    """Refuse a predicate type that only the gateway itself writes.

    Args:
        predicate_type: URI.
        field: for errors.

    Raises:
        InvalidRequestError: with the reason PREDICATE_INVALID.
    """
    letters = _letters(predicate_type)
    if "provenance" in letters and ("slsa" in letters or "intoto" in letters):
        raise _reserved(field, "SLSA provenance is written by the gateway, from the caller's token", _PROVENANCE)
    if "slsadev" in letters and "verificationsummary" in letters:
        raise _reserved(field, "SLSA verification summaries are written by gates", _SUMMARY)


def is_statement(payload_type: str) -> bool:
    """Whether a DSSE payload type says that the payload is an in-toto Statement, in whatever spelling."""
    return payload_type.partition(";")[0].strip().lower() == PAYLOAD_TYPE


def require_signable(payload: bytes, field: str) -> None:
    """Refuse an in-toto payload that is no Statement, or one with a reserved predicate. Takes long for a long payload.

    Args:
        payload: of a DSSE envelope whose type is that of Statements.
        field: for errors.

    Raises:
        InvalidRequestError: with the reason PREDICATE_INVALID.
    """
    try:
        statement = parse_statement(payload)
    except StatementError as error:
        raise InvalidRequestError.of(
            field,
            f"is no in-toto Statement, as its payload type says: {error}",
            reason="PREDICATE_INVALID",
            next_step="correct it, or name the payload type that it has",
        ) from None
    require_unreserved(statement.predicate_type, field)


def require_no_encoding(message: bytes, field: str) -> None:
    """Refuse a message whose signature would be that of a DSSE envelope.

    Raises:
        InvalidRequestError: naming ``field``.
    """
    if message.startswith(ENCODING):
        raise InvalidRequestError.of(
            field,
            "is a DSSE pre-authentication encoding: its signature would be that of an envelope",
            next_step="send payload type and payload as dsse",
        )


def _letters(predicate_type: str) -> str:
    # Two rounds, since what is decoded may be encoded again. More spellings are taken for reserved than are in use.
    return _NOT_LETTERS.sub("", unquote(unquote(predicate_type)).lower())


def _reserved(field: str, what: str, next_step: str) -> InvalidRequestError:
    return InvalidRequestError.of(field, what, reason="PREDICATE_INVALID", next_step=next_step)
