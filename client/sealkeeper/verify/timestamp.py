"""RFC 3161 timestamps: when a signature existed, as a trusted timestamp authority says."""

from __future__ import annotations

import hashlib
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography import x509

from sealkeeper.verify.certificate import UNREADABLE
from sealkeeper.verify.errors import VerifyError
from sealkeeper.verify.trust import Authority

if TYPE_CHECKING:
    from rfc3161_client import TimeStampResponse, Verifier

# The arc of SHA-2 (NIST's computer security objects register).
_IMPRINTS = {
    "2.16.840.1.101.3.4.2.1": hashlib.sha256,
    "2.16.840.1.101.3.4.2.2": hashlib.sha384,
    "2.16.840.1.101.3.4.2.3": hashlib.sha512,
}


class TimestampError(VerifyError):
    """A timestamp is malformed or of something else than the signature."""

    reason = "TIMESTAMP_INVALID"


class UntrustedTimestampError(TimestampError):
    """No authority that is trusted, at that time, made the timestamp."""


def verify_timestamp(response: bytes, message: bytes, authorities: tuple[Authority, ...]) -> datetime:
    """Check a timestamp.

    Args:
        response: TimeStampResp, DER.
        message: what was timestamped: the signature.
        authorities: trusted.

    Returns:
        The time, UTC.

    Raises:
        TimestampError: malformed, or of something else.
        UntrustedTimestampError: of nobody trusted at that time.
    """
    from rfc3161_client import VerificationError, decode_timestamp_response

    _require_imprint(response, message)
    problem = "no timestamp authority is trusted"
    for authority in authorities:
        try:
            # Parsed anew each time: checking takes parts out of it.
            parsed = decode_timestamp_response(response)
            _verifier(authority.chain).verify_message(parsed, message)
            moment = parsed.tst_info.gen_time
        except VerificationError as error:
            problem = str(error)
            continue
        except UNREADABLE:
            raise TimestampError("the timestamp is malformed") from None
        if authority.validity.covers(moment):
            return moment
        problem = f"its authority is trusted from {authority.validity} only"
    raise UntrustedTimestampError(problem)


def _require_imprint(response: bytes, message: bytes) -> None:
    from rfc3161_client import decode_timestamp_response

    try:
        parsed: TimeStampResponse = decode_timestamp_response(response)
        imprint = parsed.tst_info.message_imprint
        hashed = _IMPRINTS[imprint.hash_algorithm.dotted_string](message).digest()
        same = imprint.message == hashed
    except UNREADABLE:
        raise TimestampError("the timestamp is malformed, or not of a SHA-2 digest") from None
    if not same:
        raise TimestampError("the timestamp is of something else than the signature")


@lru_cache(maxsize=64)
def _verifier(chain: tuple[x509.Certificate, ...]) -> Verifier:
    from rfc3161_client import VerifierBuilder

    leaf, *intermediates, root = chain
    return VerifierBuilder(tsa_certificate=leaf, intermediates=intermediates, roots=[root]).build()
