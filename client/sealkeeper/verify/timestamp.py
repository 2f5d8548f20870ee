"""RFC 3161 timestamps: when a signature existed, as a trusted timestamp authority says."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography import x509

from sealkeeper.verify.certificate import UNREADABLE
from sealkeeper.verify.errors import VerifyError
from sealkeeper.verify.trust import Authority

if TYPE_CHECKING:
    from rfc3161_client import Verifier


class TimestampError(VerifyError):
    """No trusted authority timestamped the signature."""

    reason = "TIMESTAMP_INVALID"


def verify_timestamp(response: bytes, message: bytes, authorities: tuple[Authority, ...]) -> datetime:
    """Check a timestamp.

    Args:
        response: TimeStampResp, DER.
        message: what was timestamped: the signature.
        authorities: trusted.

    Returns:
        The time, UTC.

    Raises:
        TimestampError: malformed, of something else, or of nobody trusted at that time.
    """
    from rfc3161_client import VerificationError, decode_timestamp_response

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
    raise TimestampError(problem)


@lru_cache(maxsize=64)
def _verifier(chain: tuple[x509.Certificate, ...]) -> Verifier:
    from rfc3161_client import VerifierBuilder

    leaf, *intermediates, root = chain
    return VerifierBuilder(tsa_certificate=leaf, intermediates=intermediates, roots=[root]).build()
