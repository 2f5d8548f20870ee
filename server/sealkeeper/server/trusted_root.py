"""What verifiers need: Sigstore's trusted root and signing config, and the tenants' public keys beside them.

Media type v0.1 of the trusted root is what all stock clients take. Tenants' keys are a document of our own, since stock
clients refuse algorithms that they do not know.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from sealkeeper.server.clock import rfc3339

TRUSTED_ROOT = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
SIGNING_CONFIG = "application/vnd.dev.sigstore.signingconfig.v0.2+json"
KEYS = "application/vnd.sealkeeper.keys+json;version=1"


@dataclass(frozen=True, slots=True)
class LogKey:
    """A log.

    Attributes:
        origin: bare host name.
        public_key: SubjectPublicKeyInfo, DER.
        key_details: name in ``PublicKeyDetails``.
        log_id: 32 bytes.
        start: from when on it is trusted.
    """

    origin: str
    public_key: bytes
    key_details: str
    log_id: bytes
    start: datetime


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate or timestamp authority; ``chain`` from the lowest certificate to the root."""

    uri: str
    chain: tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True)
class TenantKey:
    """A key version.

    Attributes:
        name: ``tenants/{tenant}/keys/{key}/versions/{version}``.
        public_key: SubjectPublicKeyInfo, DER.
        key_details: name in ``PublicKeyDetails``.
        state: of the version.
        start: when it became or will become ACTIVE.
        end: when it ceased to sign; ``None`` while it signs.
        compromise_time: from when on its signatures are refused.
        disabled: its signatures do not verify, although its state would let them.
    """

    name: str
    public_key: bytes
    key_details: str
    state: str
    start: datetime
    end: datetime | None = None
    compromise_time: datetime | None = None
    disabled: bool = False


def key_hint(public_key: bytes) -> str:
    """How bundles point at a key: base64 of SHA-256 of its SubjectPublicKeyInfo."""
    return _text(sha256(public_key).digest())


def trusted_root_json(
    tlogs: Sequence[LogKey], ctlogs: Sequence[LogKey], authorities: Sequence[Authority], stampers: Sequence[Authority]
) -> bytes:
    """Sigstore's ``trusted_root.json``."""
    return _render(
        {
            "mediaType": TRUSTED_ROOT,
            "tlogs": [_log(one) for one in tlogs],
            "certificateAuthorities": [_authority(one) for one in authorities],
            "ctlogs": [_log(one) for one in ctlogs],
            "timestampAuthorities": [_authority(one) for one in stampers],
        }
    )


def signing_config_json(gateway: str, log_origin: str, start: datetime) -> bytes:
    """Sigstore's signing config.

    Args:
        gateway: base URL of the gateway.
        log_origin: of the transparency log.
        start: from when on it is valid.
    """

    def service(url: str) -> dict[str, Any]:
        return {"url": url, "majorApiVersion": 1, "validFor": {"start": rfc3339(start)}, "operator": gateway}

    return _render(
        {
            "mediaType": SIGNING_CONFIG,
            "caUrls": [service(gateway)],
            "rekorTlogUrls": [{**service(f"https://{log_origin}"), "majorApiVersion": 2}],
            "rekorTlogConfig": {"selector": "ANY"},
            "tsaUrls": [service(gateway)],
            "tsaConfig": {"selector": "ANY"},
        }
    )


def keys_json(domain: str, tenant: str, issued_at: datetime, keys: Sequence[TenantKey]) -> bytes:
    """A tenant's public keys.

    Args:
        domain: the gateway's.
        tenant: whose keys they are.
        issued_at: when the document was made.
        keys: all versions.
    """
    return _render(
        {
            "mediaType": KEYS,
            "gateway": domain,
            "tenant": tenant,
            "issuedAt": rfc3339(issued_at),
            "keys": [_key(one) for one in keys],
        }
    )


def _key(key: TenantKey) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": key.name,
        "hint": key_hint(key.public_key),
        "publicKey": _public_key(key.public_key, key.key_details, key.start, key.end),
        "state": key.state,
    }
    if key.compromise_time is not None:
        document["compromiseTime"] = rfc3339(key.compromise_time)
    if key.disabled:
        document["disabled"] = True
    return document


def _log(log: LogKey) -> dict[str, Any]:
    return {
        "baseUrl": f"https://{log.origin}",
        "hashAlgorithm": "SHA2_256",
        "publicKey": _public_key(log.public_key, log.key_details, log.start, None),
        "logId": {"keyId": _text(log.log_id)},
    }


def _authority(authority: Authority) -> dict[str, Any]:
    subject = authority.chain[-1].subject
    return {
        "subject": {
            "organization": _attribute(subject, NameOID.ORGANIZATION_NAME),
            "commonName": _attribute(subject, NameOID.COMMON_NAME),
        },
        "uri": authority.uri,
        "certChain": {"certificates": [{"rawBytes": _text(one.public_bytes(Encoding.DER))} for one in authority.chain]},
        "validFor": {
            "start": rfc3339(max(one.not_valid_before_utc for one in authority.chain)),
            "end": rfc3339(min(one.not_valid_after_utc for one in authority.chain)),
        },
    }


def _public_key(public_key: bytes, details: str, start: datetime, end: datetime | None) -> dict[str, Any]:
    valid = {"start": rfc3339(start)}
    if end is not None:
        valid["end"] = rfc3339(end)
    return {"rawBytes": _text(public_key), "keyDetails": details, "validFor": valid}


def _attribute(name: x509.Name, kind: x509.ObjectIdentifier) -> str:
    return str(name.get_attributes_for_oid(kind)[0].value)


def _text(data: bytes) -> str:
    return b64encode(data).decode()


def _render(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=2).encode() + b"\n"
