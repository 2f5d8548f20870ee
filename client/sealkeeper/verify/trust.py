"""What a verifier trusts: Sigstore's ``trusted_root.json`` and, beside it, a tenant's public keys (``keys.json``).

``keys.json``, a format of our own, is an object of ``mediaType`` (``KEYS_MEDIA_TYPE``), ``gateway`` (its domain),
``tenant``, ``issuedAt`` (RFC 3339, as all times) and ``keys``: every version of the tenant's keys, each an object of

- ``name``: ``tenants/{tenant}/keys/{key}/versions/{version}``;
- ``hint``: base64 of SHA-256 of the SubjectPublicKeyInfo;
- ``publicKey``: ``rawBytes`` (SubjectPublicKeyInfo, DER, base64), ``keyDetails`` (name of the algorithm) and
  ``validFor`` (``start``, ``end``: while it signs or signed; a PUBLISHED version's ``start`` is to come);
- ``state``: a ``KeyState``;
- ``compromiseTime``, with COMPROMISED and in every later state: signatures from then on are refused;
- ``disabled``, optional: ``true`` for a version that went from DISABLED to DESTROY_SCHEDULED or DESTROYED, and that is
  refused as a DISABLED one is.

>>> trust = TrustRoot.from_directory(Path("trust"))  # doctest: +SKIP
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from sealkeeper.verify.algorithms import (
    ALGORITHMS,
    OTHERS_ALGORITHMS,
    Algorithm,
    KeyMismatchError,
    PublicKey,
    load_public_key,
)
from sealkeeper.verify.certificate import (
    UNREADABLE,
    require_authority,
    require_readable,
    signs_certificate_timestamps,
)
from sealkeeper.verify.errors import NoteError, TrustRootError, VerifyError
from sealkeeper.verify.note import NoteVerifier, log_id_ed25519
from sealkeeper.verify.public_good import read_public_good
from sealkeeper.verify.strict_json import JsonError, Value

MEDIA_TYPES = (
    "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
    "application/vnd.dev.sigstore.trustedroot.v0.2+json",
)
KEYS_MEDIA_TYPE = "application/vnd.sealkeeper.keys+json;version=1"
PUBLIC_GOOD = "public-good"
"""What is trusted by this name is Sigstore's public-good instance; a folder of that name is given by its whole path."""
MAX_DOCUMENT = 16 * 1024 * 1024
MAX_LOGS = 256
MAX_KEYS = 100_000
MAX_VALUES = 600_000
"""Most values of a document: what ``MAX_DOCUMENT`` bytes of the shortest key versions have."""

_VERSION = re.compile(r"(tenants/([a-z0-9-]{1,63})/keys/[a-z0-9-]{1,63})/versions/[1-9][0-9]{0,8}")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Validity:
    """A time span; both ends belong to it, ``None`` leaves one open."""

    start: datetime | None
    end: datetime | None

    def covers(self, moment: datetime) -> bool:
        """Tell whether the moment is inside."""
        return (self.start is None or self.start <= moment) and (self.end is None or moment <= self.end)

    def __str__(self) -> str:
        return f"{self.start.isoformat() if self.start else '…'} to {self.end.isoformat() if self.end else '…'}"


@dataclass(frozen=True, slots=True)
class TransparencyLog:
    """A log; ``origin`` is the host name of its base URL, ``verifier`` checks its checkpoints, ``key`` its promises."""

    base_url: str
    origin: str
    log_id: bytes
    verifier: NoteVerifier
    validity: Validity
    algorithm: Algorithm
    key: PublicKey


@dataclass(frozen=True, slots=True)
class CertificateTransparencyLog:
    """A log that promises to log certificates; ``log_id`` is SHA-256 of its key."""

    base_url: str
    origin: str
    log_id: bytes
    spki: bytes
    algorithm: Algorithm
    key: PublicKey
    validity: Validity


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate or timestamp authority; ``chain`` from the lowest certificate to the root."""

    uri: str
    chain: tuple[x509.Certificate, ...]
    validity: Validity


class KeyState(StrEnum):
    """State of a key version, as in the contract's ``KeyVersionState``."""

    PUBLISHED = "PUBLISHED"
    ACTIVE = "ACTIVE"
    VERIFY_ONLY = "VERIFY_ONLY"
    DISABLED = "DISABLED"
    COMPROMISED = "COMPROMISED"
    DESTROY_SCHEDULED = "DESTROY_SCHEDULED"
    DESTROYED = "DESTROYED"


_RETIRED = (KeyState.VERIFY_ONLY, KeyState.DESTROY_SCHEDULED, KeyState.DESTROYED)


@dataclass(frozen=True, slots=True)
class TenantKey:
    """A key version.

    Attributes:
        name: ``tenants/{tenant}/keys/{key}/versions/{version}``.
        key_name: the same without the version.
        hint: base64 of SHA-256 of ``spki``.
        spki: SubjectPublicKeyInfo, DER.
        algorithm: of its signatures.
        key: parsed.
        state: now.
        validity: while it signs or signed.
        compromise_time: from when on its signatures are refused, whatever the state; ``None`` for never.
        disabled: it was DISABLED when its destruction was scheduled.
    """

    name: str
    key_name: str
    hint: str
    spki: bytes
    algorithm: Algorithm
    key: PublicKey
    state: KeyState
    validity: Validity
    compromise_time: datetime | None
    disabled: bool = False

    def refusal_at(self, moment: datetime) -> str | None:
        """Why a signature of that moment is not to be trusted; ``None`` where it is."""
        if self.state is KeyState.DISABLED:
            return f"{self.name} is DISABLED"
        if self.disabled:
            return f"{self.name} was DISABLED before it became {self.state}"
        if self._compromised_at(moment):
            return f"{self.name} is COMPROMISED as of {self.compromise_time and self.compromise_time.isoformat()}"
        # A window that is left open would trust more than its state does.
        if self.state is KeyState.PUBLISHED and self.validity.start is None:
            return f"{self.name} is PUBLISHED and does not say from when on it signs"
        if self.state in _RETIRED and self.validity.end is None:
            return f"{self.name} is {self.state} and does not say until when it signed"
        if not self.validity.covers(moment):
            return f"{self.name} is valid from {self.validity}, the signature is of {moment.isoformat()}"
        return None

    def _compromised_at(self, moment: datetime) -> bool:
        if self.compromise_time is None:
            return self.state is KeyState.COMPROMISED
        return moment >= self.compromise_time


@dataclass(frozen=True, slots=True)
class TrustRoot:
    """Everything that is trusted.

    Attributes:
        logs: by log id.
        ct_logs: by log id.
        certificate_authorities: may certify signers.
        timestamp_authorities: may say when.
        gateway: domain of the gateway whose keys these are; empty without ``keys.json``.
        tenant: whose keys these are, and all of them; empty without ``keys.json``.
        issued_at: when ``keys.json`` was made.
        tenant_keys: by hint.
        others: trust roots of other instances, by name; a gate's signers say of which they are. Nothing else looks at
            them: each vouches for its own signers only.
    """

    logs: Mapping[bytes, TransparencyLog]
    ct_logs: Mapping[bytes, CertificateTransparencyLog]
    certificate_authorities: tuple[Authority, ...]
    timestamp_authorities: tuple[Authority, ...]
    gateway: str
    tenant: str
    issued_at: datetime | None
    tenant_keys: Mapping[str, TenantKey]
    others: Mapping[str, TrustRoot] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def from_json(cls, trusted_root: bytes, keys: bytes | None = None) -> TrustRoot:
        """Parse the documents.

        Raises:
            TrustRootError: naming the document and the place in it.
        """
        logs, ct_logs, authorities, stampers = _read("trusted_root.json", trusted_root, _parse_trusted_root)
        if keys is None:
            return cls(logs, ct_logs, authorities, stampers, "", "", None, MappingProxyType({}))
        return cls(logs, ct_logs, authorities, stampers, *_read("keys.json", keys, _parse_keys))

    @classmethod
    def from_directory(cls, directory: Path) -> TrustRoot:
        """Read ``trusted_root.json`` and, where it is there, ``keys.json``.

        Raises:
            TrustRootError: a file cannot be read, or is not what it should be.
        """
        keys = directory / "keys.json"
        # A link that leads nowhere is a file that cannot be read, not one that was never there.
        given = keys.exists() or keys.is_symlink()
        return cls.from_json(_file(directory / "trusted_root.json"), _file(keys) if given else None)

    @classmethod
    def public_good(cls) -> TrustRoot:
        """Sigstore's public-good instance, as the installed ``sigstore`` package (extra ``sigstore``) has it embedded.

        It is as old as that package: who needs what was changed since then fetches the root by TUF.

        Raises:
            TrustRootError: the package is not installed, or has none that can be read.
        """
        return cls.from_json(read_public_good())

    @classmethod
    def of_place(cls, place: Path) -> TrustRoot:
        """What a person names: a folder that ``trust export`` wrote, a ``trusted_root.json``, or ``PUBLIC_GOOD``.

        Raises:
            TrustRootError: it cannot be read, or is not what it should be.
        """
        if str(place) == PUBLIC_GOOD:
            return cls.public_good()
        return cls.from_json(_file(place)) if place.is_file() else cls.from_directory(place)


def _file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_DOCUMENT + 1)
    except OSError as error:
        raise TrustRootError(f"cannot read {path}: {error.strerror}") from None


def _read(name: str, data: bytes, parse: Callable[[Value], _T]) -> _T:
    try:
        return parse(Value.parse(data, MAX_DOCUMENT, MAX_VALUES))
    except VerifyError as error:
        raise TrustRootError(f"{name}: {error}") from None


def _parse_trusted_root(
    document: Value,
) -> tuple[
    Mapping[bytes, TransparencyLog],
    Mapping[bytes, CertificateTransparencyLog],
    tuple[Authority, ...],
    tuple[Authority, ...],
]:
    kinds = {"tlogs", "certificateAuthorities", "ctlogs", "timestampAuthorities"}
    members = document.members({"mediaType"}, kinds)
    if members["mediaType"].text() not in MEDIA_TYPES:
        raise JsonError(f"$.mediaType: must be {' or '.join(MEDIA_TYPES)}")
    lists = {kind: members[kind].items(MAX_LOGS) if kind in members else [] for kind in kinds}
    return (
        _by_id(lists["tlogs"], _log, lambda log: log.log_id),
        _by_id(lists["ctlogs"], _ct_log, lambda log: log.log_id),
        tuple(_authority(one, 1) for one in lists["certificateAuthorities"]),
        tuple(_authority(one, 2) for one in lists["timestampAuthorities"]),
    )


_K = TypeVar("_K", bytes, str)


def _by_id(values: list[Value], parse: Callable[[Value], _T], key: Callable[[_T], _K]) -> Mapping[_K, _T]:
    found: dict[_K, _T] = {}
    for value in values:
        one = parse(value)
        if key(one) in found:
            raise JsonError(f"{value.path}: the same key is there twice")
        found[key(one)] = one
    return MappingProxyType(found)


def _log(value: Value) -> TransparencyLog:
    members, spki, algorithm, key = _log_members(value)
    base_url, origin = _base_url(members["baseUrl"])
    log_id = _log_id(members["logId"], origin, spki, key)
    checkpoints = members.get("checkpointKeyId")
    note_id = _log_id(checkpoints, origin, spki, key) if checkpoints is not None else log_id
    try:
        verifier = NoteVerifier(origin, spki, algorithm, note_id)
    except NoteError as error:
        raise JsonError(f"{members['publicKey'].path}: {error}") from None
    return TransparencyLog(base_url, origin, log_id, verifier, _log_validity(members), algorithm, key)


def _log_id(value: Value, origin: str, spki: bytes, key: PublicKey) -> bytes:
    """As RFC 6962 section 3.2 has it, or C2SP's signed notes for Ed25519, untruncated."""
    allowed = [sha256(spki).digest()]
    if isinstance(key, ed25519.Ed25519PublicKey):
        allowed.append(log_id_ed25519(origin, key.public_bytes_raw()))
    found = value.members({"keyId"})["keyId"]
    if found.base64(64) not in allowed:
        raise JsonError(f"{found.path}: is not that of the key and the host name of baseUrl")
    return found.base64(64)


def _log_validity(members: dict[str, Value]) -> Validity:
    validity = _validity(members["publicKey"].member("validFor"))
    if validity.start is None:
        raise JsonError(f"{members['publicKey'].path}.validFor: start is missing")
    return validity


def _ct_log(value: Value) -> CertificateTransparencyLog:
    members, spki, algorithm, key = _log_members(value)
    if not signs_certificate_timestamps(algorithm):
        raise JsonError(
            f"{members['publicKey'].path}.keyDetails: certificate timestamps are signed with ECDSA on P-256 or "
            f"RSASSA-PKCS1-v1_5, and SHA-256, not {algorithm.name}"
        )
    log_id = members["logId"].members({"keyId"})["keyId"]
    if log_id.base64(64) != sha256(spki).digest():
        raise JsonError(f"{log_id.path}: is not SHA-256 of the key")
    base_url, origin = _base_url(members["baseUrl"])
    return CertificateTransparencyLog(
        base_url,
        origin,
        sha256(spki).digest(),
        spki,
        algorithm,
        key,
        _log_validity(members),
    )


def _base_url(value: Value) -> tuple[str, str]:
    url = value.text()
    try:
        origin = urlsplit(url).hostname
    except ValueError:
        origin = None
    if not origin:
        raise JsonError(f"{value.path}: must be a URL with a host name")
    return url, origin


def _log_members(value: Value) -> tuple[dict[str, Value], bytes, Algorithm, PublicKey]:
    members = value.members({"baseUrl", "hashAlgorithm", "publicKey", "logId"}, {"operator", "checkpointKeyId"})
    if members["hashAlgorithm"].text() != "SHA2_256":
        raise JsonError(f"{value.path}.hashAlgorithm: must be SHA2_256")
    key = members["publicKey"].members({"rawBytes", "keyDetails", "validFor"})
    spki, algorithm = _older_rsa_key(key) or _public_key(members["publicKey"], ALGORITHMS | OTHERS_ALGORITHMS)
    try:
        return members, spki, algorithm, load_public_key(algorithm, spki)
    except KeyMismatchError as error:
        raise JsonError(f"{members['publicKey'].path}: {error}") from None


def _older_rsa_key(members: dict[str, Value]) -> tuple[bytes, Algorithm] | None:
    """An RSA key whose details do not say its length, PKCS #1 or PKIX, as logs of 2021 have it."""
    if members["keyDetails"].text(64) not in ("PKCS1_RSA_PKCS1V5", "PKIX_RSA_PKCS1V5"):
        return None
    try:
        key = load_der_public_key(members["rawBytes"].base64())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    algorithm = ALGORITHMS.get(f"PKIX_RSA_PKCS1V15_{getattr(key, 'key_size', 0)}_SHA256")
    if not isinstance(key, rsa.RSAPublicKey) or algorithm is None:
        raise JsonError(f"{members['rawBytes'].path}: not an RSA key of 2048, 3072 or 4096 bits")
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), algorithm


def _public_key(value: Value, known: Mapping[str, Algorithm] = ALGORITHMS) -> tuple[bytes, Algorithm]:
    members = value.members({"rawBytes", "keyDetails", "validFor"})
    algorithm = known.get(members["keyDetails"].text(64))
    if algorithm is None:
        raise JsonError(f"{members['keyDetails'].path}: not a known algorithm")
    return members["rawBytes"].base64(), algorithm


def _validity(value: Value) -> Validity:
    members = value.members(set(), {"start", "end"})
    start, end = (members[name].time() if name in members else None for name in ("start", "end"))
    if start is not None and end is not None and end < start:
        raise JsonError(f"{value.path}: ends before it starts")
    return Validity(start, end)


def _authority(value: Value, least: int) -> Authority:
    members = value.members({"subject", "certChain", "validFor"}, {"uri", "operator"})
    certificates = members["certChain"].members({"certificates"})["certificates"].items(10, least)
    chain = tuple(_certificate(one.members({"rawBytes"})["rawBytes"]) for one in certificates)
    for below, above in itertools.pairwise(chain):
        try:
            below.verify_directly_issued_by(above)
            require_authority(above)
        except (*UNREADABLE, VerifyError) as error:
            raise JsonError(f"{members['certChain'].path}: {error or 'one does not certify the other'}") from None
    return Authority(members["uri"].text() if "uri" in members else "", chain, _validity(members["validFor"]))


def _certificate(value: Value) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(value.base64())
        require_readable(certificate)
        return certificate  # noqa: TRY300
    except UNREADABLE:
        raise JsonError(f"{value.path}: not a certificate") from None


def _parse_keys(document: Value) -> tuple[str, str, datetime, Mapping[str, TenantKey]]:
    members = document.members({"mediaType", "gateway", "tenant", "issuedAt", "keys"})
    if members["mediaType"].text() != KEYS_MEDIA_TYPE:
        raise JsonError(f"$.mediaType: must be {KEYS_MEDIA_TYPE}")
    # Without a name, the document would not be held to speak for anyone.
    gateway, tenant = members["gateway"].text(253), members["tenant"].text(63)
    for name in ("gateway", "tenant"):
        if not members[name].text():
            raise JsonError(f"$.{name}: must not be empty")
    values = members["keys"].items(MAX_KEYS)
    keys = _by_id(values, lambda value: _tenant_key(value, tenant), lambda key: key.hint)
    # In the order of the values, as a dict is.
    names: set[str] = set()
    for value, key in zip(values, keys.values(), strict=True):
        if key.name in names:
            raise JsonError(f"{value.path}.name: {key.name} has another key already")
        names.add(key.name)
    return gateway, tenant, members["issuedAt"].time(), keys


def _tenant_key(value: Value, tenant: str) -> TenantKey:
    members = value.members({"name", "hint", "publicKey", "state"}, {"compromiseTime", "disabled"})
    name = members["name"].text(200)
    match = _VERSION.fullmatch(name)
    if match is None or match[2] != tenant:
        raise JsonError(f"{members['name'].path}: must be tenants/{tenant}/keys/{{key}}/versions/{{version}}")
    spki, algorithm = _public_key(members["publicKey"])
    if members["hint"].base64(32) != sha256(spki).digest():
        raise JsonError(f"{members['hint'].path}: is not SHA-256 of the key")
    state = members["state"].text(32)
    if state not in KeyState.__members__:
        raise JsonError(f"{members['state'].path}: must be one of {', '.join(KeyState)}")
    if (state == KeyState.COMPROMISED) and "compromiseTime" not in members:
        raise JsonError(f"{value.path}: a COMPROMISED version needs compromiseTime")
    return TenantKey(
        name,
        match[1],
        members["hint"].text(),
        spki,
        algorithm,
        load_public_key(algorithm, spki),
        KeyState(state),
        _validity(members["publicKey"].member("validFor")),
        members["compromiseTime"].time() if "compromiseTime" in members else None,
        members["disabled"].boolean() if "disabled" in members else False,
    )
