"""A ceremony record as a page for the paper file: ASCII, at most 100 columns, as ``lpr`` takes it."""

from __future__ import annotations

import base64
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sealkeeper.client.cli.output import printable

if TYPE_CHECKING:
    from sealkeeper.verify import Ceremony, CeremonyResult, LogProof
    from sealkeeper.verify.ceremony import AttestedBy, EvidenceThen, ImportedBy

WIDTH = 100
_LABEL = 22
_EVENTS = {
    "CREATED": "made in the key store, with a new key",
    "ROTATED": "made in the key store, as the key's next version",
    "STANDBY_ADDED": "made in a second key store, to stand by",
    "IMPORTED": "brought into the key store by its owner",
}
_EXPORTABLE = {True: "YES: the store would give the private key out", False: "no", None: "the store does not say"}
_RULE = "=" * WIDTH
_BLANK = "_" * 38


def page(result: CeremonyResult, proof: LogProof, *, from_gateway: bool) -> Iterator[str]:
    """The lines of the page.

    Args:
        result: of the verification, which must have passed.
        proof: that the record is in the log.
        from_gateway: the public key came from the gateway, not from another hand.
    """
    found, checkpoint = result.require(), result.checkpoint
    yield _RULE
    yield f"{'KEY CEREMONY RECORD':<50}{found.event:>50}"
    yield from _wrapped("", found.key_version)
    yield _RULE
    yield from _what(found, from_gateway=from_gateway)
    if found.imported is not None:
        yield from _how_imported(found.imported)
    yield from _evidence(found.evidence)
    yield from _section("Where this is written")
    yield from _field("log", checkpoint.origin if checkpoint is not None else "")
    yield from _field("entry", str(proof.index))
    yield from _field("checkpoint of size", str(proof.tree_size))
    yield from _field("root hash", base64.b64encode(checkpoint.root_hash).decode() if checkpoint is not None else "")
    yield from _field("nonce", found.nonce)
    yield from _section("What was checked")
    for step in result.steps:
        yield from _field(step.name, step.detail)
    yield from _section("Present")
    for _ in range(3):
        yield ""
        yield f"  Name {_BLANK}   Signature {_BLANK}"
    yield ""
    yield f"  Date {_BLANK}   Place     {_BLANK}"
    yield _RULE


def _what(found: Ceremony, *, from_gateway: bool) -> Iterator[str]:
    yield from _section("What, when, who")
    yield from _field("event", _EVENTS[found.event])
    yield from _field("time", _time(found.time))
    yield from _field("asked for by", found.subject)
    yield from _field("tenant, role", f"{found.tenant}, {found.role}")
    yield from _field("gateway", found.gateway)
    yield from _section("Public key")
    yield from _field("algorithm", found.algorithm)
    yield from _digest("SHA-256", found.fingerprint)
    yield from _field("compared with", "that of the gateway ONLY" if from_gateway else "one that was given separately")
    yield from _section("Where the private key lives")
    yield from _field("provider", f"{found.provider['name']} ({found.provider['scheme']})")
    yield from _field("description", found.provider["description"])
    yield from _field("region", found.provider["region"] or "not known")
    yield from _field("protection", found.provider["protectionLevel"])
    yield from _field("standby", "yes" if found.standby else "no")


def _how_imported(found: ImportedBy) -> Iterator[str]:
    yield from _section("How it was brought")
    yield from _field("import", found.name)
    yield from _field("begun", f"{_time(found.begun_time)} by {found.begun_by}")
    yield from _field("wrapped by", found.wrap_method)
    yield from _digest("wrapping key SHA-256", found.wrapping_key_fingerprint)
    yield from _digest("wrapped key SHA-256", found.wrapped_key_digest)
    yield from _attestation(found.attestation)


def _evidence(found: EvidenceThen) -> Iterator[str]:
    yield from _section("What the store said of the private key then")
    yield from _field("protection level", found.protection_level)
    yield from _field("origin", found.origin)
    yield from _field("can be exported", _EXPORTABLE[found.exportable])
    for name, said in sorted(found.claims.items()):
        yield from _field("claim", f"{name}: {said}")
    yield from _attestation(found.attestation)


def _attestation(found: AttestedBy | None) -> Iterator[str]:
    if found is None:
        yield from _field("attestation", "none")
        return
    size = f"{len(found.content)} bytes" if found.content is not None else "too long for the record"
    yield from _field("attestation", f"{found.format}, {size} (not checked here)")
    yield from _digest("attestation SHA-256", found.digest)


def _section(title: str) -> Iterator[str]:
    yield ""
    yield title
    yield "-" * len(title)


def _field(label: str, value: str) -> Iterator[str]:
    yield from _wrapped(f"  {label:<{_LABEL}}", value)


def _wrapped(label: str, value: str) -> Iterator[str]:
    # Escaped, what only looks like another letter does not on paper either.
    text = printable(value).encode("ascii", "backslashreplace").decode()
    indent = " " * len(label)
    lines = textwrap.wrap(text, WIDTH, initial_indent=label, subsequent_indent=indent, break_on_hyphens=False)
    yield from lines or [label.rstrip()]


def _digest(label: str, digest: bytes) -> Iterator[str]:
    """In groups of four digits, eight a line, to be read out."""
    digits = digest.hex()
    groups = [digits[at : at + 4] for at in range(0, len(digits), 4)]
    yield from _field(label, " ".join(groups[:8]))
    yield from _field("", " ".join(groups[8:]))


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
