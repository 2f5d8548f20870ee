"""What approvers sign under dual control: the content of a proposal, and statements about it.

The content (``sealkeeper-proposal/1``) is canonical JSON (RFC 8785) that says what is to be done; an approver signs a
statement (``sealkeeper-approval/1``) with its digest, in a DSSE envelope, with a key of their own.

>>> content = parse_content(proposal.content)  # doctest: +SKIP
>>> statement = Statement(content.gateway, content.proposal, content.digest, APPROVE, "", datetime.now(UTC))
... # doctest: +SKIP
>>> open_statement(sign_statement(statement, private_key), spki) == statement  # doctest: +SKIP
True
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, TypeAlias, TypeVar

import rfc8785
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from sealkeeper.verify.algorithms import KeyMismatchError
from sealkeeper.verify.dsse import pae
from sealkeeper.verify.errors import StepFailedError, VerifyError
from sealkeeper.verify.strict_json import JsonError, Value

CONTENT_FORMAT = "sealkeeper-proposal/1"
STATEMENT_FORMAT = "sealkeeper-approval/1"
PAYLOAD_TYPE = "application/vnd.sealkeeper.approval.v1+json"
APPROVE = "APPROVE"
REJECT = "REJECT"
MAX_CONTENT = 320 * 1024
"""Bytes of a proposal's content."""
MAX_ENVELOPE = 16 * 1024
"""Bytes of a signed statement."""
MAX_REASON = 1024
"""Characters of a reason."""
MAX_REQUIRED = 100
"""Most approvals that a proposal can need."""

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
PublicKey: TypeAlias = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

T = TypeVar("T")
_MAX_SUBJECT = 4096
_MIN_RSA, _MAX_RSA = 2048, 8192
_CURVES: dict[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
_KINDS = "ECDSA on P-256, P-384 or P-521, Ed25519, or RSA of 2048 to 8192 bits"
_ID = r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
_PROPOSAL = re.compile(rf"tenants/({_ID})/proposals/({_ID})")
_GATEWAY = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_ACTION = re.compile(r"[A-Z][A-Za-z0-9]{0,63}")
_ROLE = re.compile(r"[a-z](?:[a-z0-9-]{0,62})")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_KEY_ID = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_CONTENT_MEMBERS = {
    *("format", "gateway", "proposal", "action", "resource", "parameters"),
    *("proposer", "reason", "required", "createTime", "expireTime"),
}
_STATEMENT_MEMBERS = {"format", "gateway", "proposal", "contentDigest", "decision", "reason", "time"}


@dataclass(frozen=True, slots=True)
class Content:
    """What is to be done, and who proposed it.

    Attributes:
        gateway: domain of the gateway.
        proposal: ``tenants/{tenant}/proposals/{proposal}``.
        action: as policies name it, for example ``DestroyKeyVersion``.
        resource: name of what it is about.
        parameters: of the action: strings, whole numbers, booleans, ``None``, lists and mappings.
        proposer_subject: who proposed it, as the gateway knows callers.
        proposer_person: the person who did; empty for a workload.
        proposer_role: in which role.
        reason: why, in their words: at most 1,024 printable characters and line ends; may be empty.
        required: how many approvals it needs, 1 to 100.
        create_time: when it was proposed, to the millisecond.
        expire_time: until when it can be approved and done, to the millisecond.
        digest: SHA-256 of the canonical JSON, 32 bytes.
    """

    gateway: str
    proposal: str
    action: str
    resource: str
    parameters: Mapping[str, Any] = field(repr=False)
    proposer_subject: str
    proposer_person: str
    proposer_role: str
    reason: str
    required: int
    create_time: datetime
    expire_time: datetime
    digest: bytes


@dataclass(frozen=True, slots=True)
class Statement:
    """What an approver says of a proposal.

    Attributes:
        gateway: domain of the gateway.
        proposal: ``tenants/{tenant}/proposals/{proposal}``.
        content_digest: SHA-256 of the proposal's content, 32 bytes.
        decision: APPROVE or REJECT.
        reason: why, at most 1,024 printable characters; may be empty.
        time: when, by the approver's clock, to the millisecond.
    """

    gateway: str
    proposal: str
    content_digest: bytes
    decision: str
    reason: str
    time: datetime


def encode_content(
    *,
    gateway: str,
    proposal: str,
    action: str,
    resource: str,
    parameters: Mapping[str, Any],
    proposer_subject: str,
    proposer_person: str,
    proposer_role: str,
    reason: str,
    required: int,
    create_time: datetime,
    expire_time: datetime,
) -> bytes:
    """A proposal's content as canonical JSON; the arguments are as in ``Content``, times are cut to milliseconds.

    Raises:
        VerifyError: ``parse_content`` would refuse it; the text names the member.
    """
    document = {
        "format": CONTENT_FORMAT,
        "gateway": gateway,
        "proposal": proposal,
        "action": action,
        "resource": resource,
        "parameters": dict(parameters),
        "proposer": {"subject": proposer_subject, "person": proposer_person, "role": proposer_role},
        "reason": reason,
        "required": required,
        "createTime": _timestamp(create_time),
        "expireTime": _timestamp(expire_time),
    }
    data = _canonical(document)
    parse_content(data)
    return data


def parse_content(data: bytes) -> Content:
    """Read a proposal's content, strictly: exact members, bounds, and the canonical form byte for byte.

    Raises:
        VerifyError: it is not of the format ``sealkeeper-proposal/1``; the text names the member.
    """
    root = Value.parse(data, MAX_CONTENT)
    members = root.members(_CONTENT_MEMBERS)
    _require_format(members["format"], CONTENT_FORMAT)
    proposer = members["proposer"].members({"subject", "person", "role"})
    if not isinstance(members["parameters"].json, dict):
        raise JsonError(f"{members['parameters'].path}: must be an object")
    _require_plain(members["parameters"])
    content = Content(
        gateway=_matching(members["gateway"], _GATEWAY)[0],
        proposal=_matching(members["proposal"], _PROPOSAL)[0],
        action=_matching(members["action"], _ACTION)[0],
        resource=_printable(members["resource"], 512, 1),
        parameters=members["parameters"].json,
        proposer_subject=_printable(proposer["subject"], _MAX_SUBJECT, 1),
        proposer_person=_printable(proposer["person"], _MAX_SUBJECT),
        proposer_role=_matching(proposer["role"], _ROLE)[0],
        reason=_words(members["reason"]),
        required=_required(members["required"]),
        create_time=_time(members["createTime"]),
        expire_time=_time(members["expireTime"]),
        digest=sha256(data).digest(),
    )
    if content.create_time >= content.expire_time:
        raise JsonError("$.expireTime: must be after createTime")
    _require_canonical(root, data)
    return content


def sign_statement(statement: Statement, private_key: PrivateKey) -> bytes:
    """Sign a statement.

    Args:
        statement: to be signed.
        private_key: EC on P-256, P-384 or P-521 (ECDSA with SHA-256, SHA-384 or SHA-512), Ed25519, or RSA of 2048 to
            8192 bits (RSASSA-PKCS1-v1_5 with SHA-256).

    Returns:
        A DSSE envelope, JSON.

    Raises:
        KeyMismatchError: the key is of another kind.
        VerifyError: ``open_statement`` would refuse the statement.
    """
    payload = _canonical(
        {
            "format": STATEMENT_FORMAT,
            "gateway": statement.gateway,
            "proposal": statement.proposal,
            "contentDigest": f"sha256:{statement.content_digest.hex()}",
            "decision": statement.decision,
            "reason": statement.reason,
            "time": _timestamp(statement.time),
        }
    )
    _statement(payload)
    spki = private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    load_approval_key(spki)
    signature = {"keyid": key_id(spki), "sig": _base64(_sign(private_key, pae(PAYLOAD_TYPE, payload)))}
    envelope = {"payloadType": PAYLOAD_TYPE, "payload": _base64(payload), "signatures": [signature]}
    return json.dumps(envelope, separators=(",", ":")).encode()


def open_statement(envelope: bytes, public_key: bytes) -> Statement:
    """Verify a signed statement and read it.

    Args:
        envelope: DSSE envelope, JSON, with exactly one signature.
        public_key: the approver's, SubjectPublicKeyInfo DER, from another hand than the envelope.

    Raises:
        StepFailedError: the step ``envelope``, ``public-key``, ``signature`` or ``payload`` failed.
    """
    payload, hint, signature = _step("envelope", _open_envelope, envelope)
    key = _step("public-key", load_approval_key, public_key)
    if hint != key_id(public_key):
        raise StepFailedError("public-key", f"the statement is signed with the key {hint}, not with the one given")
    if not _verifies(key, signature, pae(PAYLOAD_TYPE, payload)):
        raise StepFailedError("signature", "the signature does not fit the key and the statement")
    return _step("payload", _statement, payload)


def signing_key_id(envelope: bytes) -> str:
    """The ``keyid`` that a signed statement names; nothing is verified.

    Raises:
        StepFailedError: the step ``envelope`` failed.
    """
    return _step("envelope", _open_envelope, envelope)[1]


def key_id(public_key: bytes) -> str:
    """How statements name a key: hexadecimal SHA-256 of its SubjectPublicKeyInfo (DER)."""
    return sha256(public_key).hexdigest()


def load_approval_key(public_key: bytes) -> PublicKey:
    """Read a public key that statements can be signed with.

    Args:
        public_key: SubjectPublicKeyInfo, DER.

    Raises:
        KeyMismatchError: malformed, or of another kind.
    """
    try:
        key = load_der_public_key(public_key)
        canonical = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyMismatchError("the public key is not a DER SubjectPublicKeyInfo of a known kind") from None
    # One key, one spelling: otherwise one key could pass as two.
    if canonical != public_key:
        raise KeyMismatchError("the public key is not in the usual form of a SubjectPublicKeyInfo")
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return key
    if isinstance(key, rsa.RSAPublicKey) and _MIN_RSA <= key.key_size <= _MAX_RSA:
        return key
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    raise KeyMismatchError(f"statements are signed with {_KINDS}")


def _sign(private_key: PrivateKey, message: bytes) -> bytes:
    if isinstance(private_key, ec.EllipticCurvePrivateKey):
        return private_key.sign(message, ec.ECDSA(_CURVES[private_key.curve.name]))
    if isinstance(private_key, rsa.RSAPrivateKey):
        return private_key.sign(message, padding.PKCS1v15(), hashes.SHA256())
    return private_key.sign(message)


def _verifies(key: PublicKey, signature: bytes, message: bytes) -> bool:
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, message, ec.ECDSA(_CURVES[key.curve.name]))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
        else:
            key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _open_envelope(envelope: bytes) -> tuple[bytes, str, bytes]:
    members = Value.parse(envelope, MAX_ENVELOPE).members({"payloadType", "payload", "signatures"})
    kind = members["payloadType"].text(256)
    if kind != PAYLOAD_TYPE:
        raise JsonError(f"$.payloadType: is {kind!r}, not that of an approver's statement")
    signature = members["signatures"].items(1, 1)[0].members({"keyid", "sig"})
    return (
        members["payload"].base64(MAX_ENVELOPE),
        _matching(signature["keyid"], _KEY_ID)[0],
        signature["sig"].base64(MAX_ENVELOPE),
    )


def _statement(payload: bytes) -> Statement:
    root = Value.parse(payload, MAX_ENVELOPE)
    members = root.members(_STATEMENT_MEMBERS)
    _require_format(members["format"], STATEMENT_FORMAT)
    decision = members["decision"].text(64)
    if decision not in (APPROVE, REJECT):
        raise JsonError("$.decision: must be APPROVE or REJECT")
    statement = Statement(
        gateway=_matching(members["gateway"], _GATEWAY)[0],
        proposal=_matching(members["proposal"], _PROPOSAL)[0],
        content_digest=bytes.fromhex(_matching(members["contentDigest"], _DIGEST)[1]),
        decision=decision,
        reason=_printable(members["reason"], MAX_REASON),
        time=_time(members["time"]),
    )
    _require_canonical(root, payload)
    return statement


def _require_plain(value: Value) -> None:
    found = value.json
    if isinstance(found, str):
        value.text(MAX_CONTENT)
    elif isinstance(found, dict):
        for name, one in found.items():
            _require_plain(Value(one, f"{value.path}.{name[:64]}"))
    elif isinstance(found, list):
        for place, one in enumerate(found):
            _require_plain(Value(one, f"{value.path}[{place}]"))
    elif isinstance(found, float):
        raise JsonError(f"{value.path}: must be a whole number")


def _required(value: Value) -> int:
    # Value.integer() takes numbers in strings as well, as protojson has them.
    if isinstance(value.json, str) or not 1 <= value.integer() <= MAX_REQUIRED:
        raise JsonError(f"{value.path}: must be a whole number from 1 to {MAX_REQUIRED}")
    return value.integer()


def _time(value: Value) -> datetime:
    text = value.text(64)
    if not _TIME.fullmatch(text):
        raise JsonError(f"{value.path}: must be a date and time of RFC 3339 in UTC, with milliseconds and Z")
    return value.time()


def _printable(value: Value, most: int, least: int = 0) -> str:
    text = value.text(most)
    # Line ends and what turns the direction of writing would show an approver something else than what is signed.
    if len(text) < least or not text.isprintable():
        raise JsonError(f"{value.path}: must be {least} to {most} printable characters")
    return text


def _words(value: Value) -> str:
    text = value.text(MAX_REASON)
    if not text.replace("\n", "").isprintable():
        raise JsonError(f"{value.path}: must be at most {MAX_REASON} printable characters and line ends")
    return text


def _matching(value: Value, pattern: re.Pattern[str]) -> re.Match[str]:
    match = pattern.fullmatch(value.text(256))
    if match is None:
        raise JsonError(f"{value.path}: is not of the form that it must have")
    return match


def _require_format(value: Value, known: str) -> None:
    if value.text(64) != known:
        raise JsonError(f"{value.path}: must be {known!r}")


def _require_canonical(root: Value, data: bytes) -> None:
    # One byte string is right: no parser's leniency, no second reading.
    if _canonical(root.json) != data:
        raise JsonError("$: is not in the canonical form of RFC 8785")


def _canonical(document: Any) -> bytes:
    try:
        return rfc8785.dumps(document)
    except (rfc8785.CanonicalizationError, UnicodeError):
        raise JsonError("$: has a value that the canonical form of RFC 8785 cannot hold") from None


def _timestamp(moment: datetime) -> str:
    if moment.tzinfo is None:
        raise VerifyError("a time has no time zone")
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _step(name: str, take: Callable[[bytes], T], data: bytes) -> T:
    try:
        return take(data)
    except VerifyError as error:
        raise StepFailedError(name, str(error)) from None


def _base64(data: bytes) -> str:
    return b64encode(data).decode()
