"""How long a worker's answers may be: what a vendor's library gone bad says ends up in records and answers of ours.

The limits are those of ``provider.py``, and where that has none, ones that no store comes near.
"""

from __future__ import annotations

import re
from datetime import timedelta

from sealkeeper.hsm import frames
from sealkeeper.hsm.provider import Attestation

MAX_TEXT = 1024
"""Characters of an error's text; longer ones are cut."""
MAX_WAIT = timedelta(hours=1)
"""Before a store is tried again; longer ones are cut."""
_HANDLE = re.compile(r"[ -~]{1,512}")
_MAX_PUBLIC_KEY = 8 * 1024
_MAX_STATE = 16 * 1024
_MAX_CLAIMS = 64
_MAX_WORDS = 4096
_MAX_ATTESTATION = 32 * 1024
_MAX_CERTIFICATES = 16
_MAX_DIAGNOSES = 256
_MAX_NAMES = 256


def is_bounded(answer: frames.Response) -> bool:
    """Whether an answer, other than one with signatures, is no longer than it may be."""
    match answer:
        case frames.Key(_, handle, algorithm, public_key):
            return _HANDLE.fullmatch(handle) is not None and _short(algorithm) and len(public_key) <= _MAX_PUBLIC_KEY
        case frames.Witnessed(_, evidence):
            words = [word for claim in evidence.claims.items() for word in claim]
            return len(evidence.claims) <= _MAX_CLAIMS and _short(*words) and _attests(evidence.attestation)
        case frames.Offered(_, offer):
            lengths = len(offer.state) <= _MAX_STATE and len(offer.public_key) <= _MAX_PUBLIC_KEY
            return lengths and len(offer.methods) <= _MAX_NAMES and _attests(offer.attestation)
        case frames.Opened(_, info):
            names = [info.scheme, info.description, info.region, *info.algorithms, *info.max_message]
            return len(names) <= _MAX_NAMES and _short(*names)
        case frames.Diagnosed(_, diagnoses):
            words = [word for one in diagnoses for word in (one.found, one.next_step)]
            return len(diagnoses) <= _MAX_DIAGNOSES and _short(*words)
    return True


def _short(*words: str) -> bool:
    return all(len(word) <= _MAX_WORDS for word in words)


def _attests(attestation: Attestation | None) -> bool:
    if attestation is None:
        return True
    parts = [attestation.content, *attestation.certificates]
    return (
        _short(attestation.format)
        and len(attestation.certificates) <= _MAX_CERTIFICATES
        and all(len(part) <= _MAX_ATTESTATION for part in parts)
    )
