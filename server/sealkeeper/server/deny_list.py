"""Identities that are refused, whatever proves them: a file that is read again when it changes.

::

    # a line each; comments are lines of their own
    spiffe://prod.example.org/ns/build/sa/release
    spiffe://prod.example.org/ns/old/*
    https://token.actions.githubusercontent.com#repo:acme-org/app:ref:refs/heads/main
    person:first
    sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    serial:5a31c0ffee@prod.example.org

A subject is one exactly, or with ``/*`` at its end all that are below. ``sha256`` is that of a certificate's DER,
``serial`` its number in hexadecimal with the trust domain that it is of. A list that cannot be read does not replace
one that could.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sized
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from sealkeeper.server.certificate_identity import parse_spiffe_id
from sealkeeper.server.der import BIT_STRING, SEQUENCE, tlv
from sealkeeper.server.errors import ConfigurationError, UnauthenticatedError
from sealkeeper.server.file_watch import WatchedFiles, read_bounded
from sealkeeper.server.identity import Principal

MAX_LINES = 100_000
MAX_LENGTH = 4096
"""Of a line, bytes."""

_log = logging.getLogger("sealkeeper.deny_list")
_SETTING = "identity.deny_list"
_MAX_FILE = 64 * 1024 * 1024
_TOKEN = re.compile(r"https?://[^#\s]{1,512}#.{1,2048}")
_SHA256 = re.compile(r"[0-9A-Fa-f]{64}")
_SERIAL = re.compile(r"([0-9A-Fa-f]{1,40})@(.{1,255})")
_ECDSA = "1.2.840.10045.4"
_ORDERS = (ec.SECP256R1.group_order, ec.SECP384R1.group_order, ec.SECP521R1.group_order)


@dataclass(frozen=True, slots=True)
class Denied:
    """What is denied.

    Attributes:
        subjects: each exactly.
        below: SPIFFE IDs, of which all is denied that is below.
        people: names.
        certificates: SHA-256 of their DER.
        serials: with their trust domains.
    """

    subjects: set[str] = field(default_factory=set)
    below: set[str] = field(default_factory=set)
    people: set[str] = field(default_factory=set)
    certificates: set[bytes] = field(default_factory=set)
    serials: set[tuple[int, str]] = field(default_factory=set)

    def __len__(self) -> int:
        kinds: tuple[Sized, ...] = (self.subjects, self.below, self.people, self.certificates, self.serials)
        return sum(len(one) for one in kinds)

    def has(self, principal: Principal) -> bool:
        """Whether a principal is denied."""
        return (
            principal.subject in self.subjects
            or principal.person in self.people
            or (bool(self.below) and any(one in self.below for one in _parents(principal.subject)))
            or (bool(principal.certificate) and self._has_certificate(principal))
        )

    def _has_certificate(self, principal: Principal) -> bool:
        if not self.certificates and not self.serials:
            return False
        certificate = x509.load_der_x509_certificate(principal.certificate)
        if (certificate.serial_number, principal.issuer) in self.serials:
            return True
        return bool(self.certificates) and not self.certificates.isdisjoint(
            sha256(der).digest() for der in _forms(certificate, principal.certificate)
        )


class DenyList:
    """The deny list. Used on the event loop; ``refresh`` reads in threads.

    Making one blocks, and raises ConfigurationError where the file is no good.

    Args:
        path: of the file; ``None`` where there is none.

    Attributes:
        generation: how many lists there were before.
    """

    _CACHE_LIMIT = 16_384

    def __init__(self, path: Path | None) -> None:
        self.generation = 0
        self._path = path
        self._files = WatchedFiles([path], lambda: _read(path)) if path is not None else None
        self._data, self._denied = self._files.first() if self._files is not None else (b"", Denied())
        self._decided: dict[Principal, bool] = {}

    def require_allowed(self, principal: Principal) -> None:
        """Refuse a principal that is denied. Remembers by principal, so that it may be asked at every call.

        Raises:
            UnauthenticatedError: it is.
        """
        denied = self._decided.get(principal)
        if denied is None:
            denied = self._denied.has(principal)
            if len(self._decided) >= self._CACHE_LIMIT:
                self._decided.clear()
            self._decided[principal] = denied
        if denied:
            raise UnauthenticatedError(
                "this identity is on the gateway's deny list",
                reason="IDENTITY_DENIED",
                next_step="ask those who run the gateway why",
            )

    async def refresh(self) -> None:
        """Read the file again if it may have changed, and use it if it is good."""
        found = await self._files.changed() if self._files is not None else None
        if found is None or found[0] == self._data:
            return
        self._data, self._denied = found
        self._decided = {}
        self.generation += 1
        _log.info("taken: %s %s, with %d entries", _SETTING, self._path, len(self._denied))


def parse_deny_list(data: bytes) -> Denied:
    """Read a deny list.

    Raises:
        ValueError: it has too many lines, or one is none of a deny list; the text begins with its number.
    """
    lines = data.split(b"\n")
    if len(lines) > MAX_LINES + (not lines[-1]):
        raise ValueError(f"has more than {MAX_LINES} lines")
    denied = Denied()
    for number, line in enumerate(lines, 1):
        try:
            _take_line(denied, line)
        except ValueError as error:
            said = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
            raise ValueError(f"line {number}: {said}") from None
    return denied


def _read(path: Path) -> tuple[bytes, Denied]:
    data = read_bounded(path, _SETTING, _MAX_FILE)
    try:
        return data, parse_deny_list(data)
    except ValueError as error:
        raise ConfigurationError(
            f"{_SETTING}: {path}: {error}", next_step="correct the line; whom it denies is not clear"
        ) from None


def _take_line(denied: Denied, line: bytes) -> None:
    if len(line) > MAX_LENGTH:
        raise ValueError(f"has more than {MAX_LENGTH} bytes")
    text = line.decode("utf-8").strip()
    if text and not text.startswith("#"):
        _take(denied, text)


def _take(denied: Denied, text: str) -> None:
    kind, _, value = text.partition(":")
    if kind == "spiffe":
        _take_spiffe(denied, text)
    elif kind in ("https", "http") and _TOKEN.fullmatch(text):
        denied.subjects.add(text)
    elif kind == "person" and 0 < len(value) <= 200:
        denied.people.add(value)
    elif kind == "sha256" and _SHA256.fullmatch(value):
        denied.certificates.add(bytes.fromhex(value))
    elif kind == "serial" and (match := _SERIAL.fullmatch(value)):
        denied.serials.add((int(match[1], 16), parse_spiffe_id(f"spiffe://{match[2]}").domain))
    else:
        raise ValueError(
            "must be spiffe://..., https://issuer#sub, person:NAME, sha256:<64 hexadecimal digits> or "
            "serial:<hexadecimal>@<trust domain>"
        )


def _take_spiffe(denied: Denied, text: str) -> None:
    if text.endswith("/*"):
        base = text.removesuffix("/*")
        parse_spiffe_id(base)
        denied.below.add(base)
    elif parse_spiffe_id(text).path:
        denied.subjects.add(text)
    else:
        raise ValueError("names no workload; with /* at its end, all of the trust domain")


def _parents(subject: str) -> Iterator[str]:
    """All that a SPIFFE ID is below, down to its trust domain."""
    start = len("spiffe://")
    place = subject.find("/", start) if subject.startswith("spiffe://") else -1
    while place != -1:
        yield subject[:place]
        place = subject.find("/", place + 1)


def _forms(certificate: x509.Certificate, der: bytes) -> Iterator[bytes]:
    """A certificate as it is, and as its holder could have made it look without the CA: where (r, s) is an ECDSA
    signature, (r, n - s) is one as well, so the hash of one of them would not deny the other."""
    yield der
    if not certificate.signature_algorithm_oid.dotted_string.startswith(_ECDSA):
        return
    r, s = decode_dss_signature(certificate.signature)
    signed = certificate.tbs_certificate_bytes
    start = der.index(signed) + len(signed)
    algorithm = der[start : start + 2 + der[start + 1]]
    # The curve is that of the CA's key, which is not in the certificate.
    for order in _ORDERS:
        if 0 < s < order:
            signature = encode_dss_signature(r, order - s)
            yield tlv(SEQUENCE, signed, algorithm, tlv(BIT_STRING, b"\0", signature))
