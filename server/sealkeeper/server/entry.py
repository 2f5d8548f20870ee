"""Bodies of transparency log entries: Rekor v2's ``hashedrekord`` 0.0.2 in canonical JSON (RFC 8785).

Assembled from strings: keys are in order, all values are base64 or fixed names, so nothing needs escaping.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from dataclasses import dataclass
from functools import partial

import msgspec

_base64 = partial(binascii.b2a_base64, newline=False)


class EntryTemplate:
    """Makes the entries of one key version or certificate.

    Args:
        key_details: name in ``PublicKeyDetails``.
        verifier_der: SubjectPublicKeyInfo or certificate, DER.
        is_certificate: which of both.
    """

    __slots__ = ("_suffix",)

    def __init__(self, key_details: str, verifier_der: bytes, *, is_certificate: bool) -> None:
        kind = "x509Certificate" if is_certificate else "publicKey"
        raw = _base64(verifier_der).decode()
        self._suffix = f'","verifier":{{"keyDetails":"{key_details}","{kind}":{{"rawBytes":"{raw}"}}}}}}}}}}}}'.encode()

    def body(self, digest_algorithm: str, digest: bytes, signature: bytes) -> bytes:
        """The entry of one signature.

        Args:
            digest_algorithm: name in ``HashAlgorithm``, for example ``SHA2_256``.
            digest: of the artifact, or of the DSSE pre-authentication encoding.
            signature: as it stands in the bundle.
        """
        return (
            b'{"apiVersion":"0.0.2","kind":"hashedrekord","spec":{"hashedRekordV002":{"data":{"algorithm":"%b",'
            b'"digest":"%b"},"signature":{"content":"%b%b'
            % (digest_algorithm.encode(), _base64(digest), _base64(signature), self._suffix)
        )


@dataclass(frozen=True, slots=True)
class LoggedSignature:
    """What an entry of this gateway says.

    Attributes:
        digest_algorithm: name in ``HashAlgorithm``.
        digest: of the artifact, or of the DSSE pre-authentication encoding.
        signature: as it stands in the bundle.
        verifier: SubjectPublicKeyInfo or certificate, DER.
        is_certificate: which of both.
    """

    digest_algorithm: str
    digest: bytes
    signature: bytes
    verifier: bytes
    is_certificate: bool


def parse_entry(body: bytes) -> LoggedSignature:
    """Read an entry that was made with ``EntryTemplate``."""
    spec = msgspec.json.decode(body)["spec"]["hashedRekordV002"]
    verifier = spec["signature"]["verifier"]
    is_certificate = "x509Certificate" in verifier
    return LoggedSignature(
        spec["data"]["algorithm"],
        b64decode(spec["data"]["digest"]),
        b64decode(spec["signature"]["content"]),
        b64decode(verifier["x509Certificate" if is_certificate else "publicKey"]["rawBytes"]),
        is_certificate,
    )
