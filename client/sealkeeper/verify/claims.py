"""What Fulcio certifies about a build beside its identity (Fulcio's oid-info: 1.3.6.1.4.1.57264.1).

Extensions 2 to 6 hold text as it is, 9 to 24 a DER UTF8String. The older ones say the same of GitHub's workflows only;
where a newer one is absent, the older one stands in for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from sealkeeper.verify.errors import VerifyError

ARC = "1.3.6.1.4.1.57264.1"
CLAIMS = {
    9: "build_signer_uri",
    10: "build_signer_digest",
    11: "runner_environment",
    12: "source_repository_uri",
    13: "source_repository_digest",
    14: "source_repository_ref",
    15: "source_repository_id",
    16: "source_repository_owner_uri",
    17: "source_repository_owner_id",
    18: "build_config_uri",
    19: "build_config_digest",
    20: "build_trigger",
    21: "run_invocation_uri",
    22: "source_repository_visibility",
    23: "deployment_environment",
    24: "token_subject",
}
OLDER_CLAIMS = {
    2: "github_workflow_trigger",
    3: "github_workflow_sha",
    4: "github_workflow_name",
    5: "github_workflow_repository",
    6: "github_workflow_ref",
}
"""Names of the claims, by the last number of their object identifiers."""

_SAME = {
    "github_workflow_trigger": "build_trigger",
    "github_workflow_sha": "source_repository_digest",
    "github_workflow_ref": "source_repository_ref",
}
_GITHUB = "https://token.actions.githubusercontent.com"
_REPOSITORY = re.compile(r"[A-Za-z0-9._-]{1,100}/[A-Za-z0-9._-]{1,100}")


class ClaimError(VerifyError):
    """An extension is not the text that it should be."""

    reason = "CERTIFICATE_INVALID"


def parse_claims(extensions: Mapping[str, bytes], issuer: str) -> Mapping[str, str]:
    """Read the claims of a certificate.

    Args:
        extensions: values by object identifier, dotted; others than claims are passed over.
        issuer: of the certificate's identity.

    Returns:
        The claims that are there, by name.

    Raises:
        ClaimError: one is no text, or not encoded as it should be.
    """
    found = {name: utf8_string(extensions[oid], oid) for oid, name in _oids(CLAIMS) if oid in extensions}
    older = {name: _text(extensions[oid], oid) for oid, name in _oids(OLDER_CLAIMS) if oid in extensions}
    for name, value in older.items():
        if name in _SAME:
            found.setdefault(_SAME[name], value)
    # The repository came without its host: only GitHub's own issuer says which that is.
    repository = older.get("github_workflow_repository", "")
    if issuer == _GITHUB and _REPOSITORY.fullmatch(repository):
        found.setdefault("source_repository_uri", f"https://github.com/{repository}")
    return MappingProxyType(found | older)


def _oids(names: Mapping[int, str]) -> list[tuple[str, str]]:
    return [(f"{ARC}.{number}", name) for number, name in names.items()]


def _text(value: bytes, oid: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ClaimError(f"the certificate's extension {oid} is not UTF-8") from None


def utf8_string(der: bytes, oid: str) -> str:
    """Read a DER UTF8String of less than 64 KiB (X.690 sections 8.1.3, 10.1): tag 0x0C, length, text.

    Raises:
        ClaimError: it is none.
    """
    for header in (2, 3, 4):
        if len(der) >= header and der[:header] == b"\x0c" + _length(len(der) - header):
            return _text(der[header:], oid)
    raise ClaimError(f"the certificate's extension {oid} is not a DER UTF8String")


def _length(size: int) -> bytes:
    if size < 0x80:
        return bytes([size])
    if size < 0x100:
        return bytes([0x81, size])
    return b"\x82" + size.to_bytes(2, "big") if size < 0x10000 else b""
