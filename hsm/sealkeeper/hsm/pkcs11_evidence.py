"""What a PKCS#11 token says of a private key: its attributes, read back, in the standard's own names."""

from __future__ import annotations

from typing import Any

from pkcs11 import Attribute, Mechanism
from pkcs11.attributes import AttributeMapper, handle_ulong

from sealkeeper.hsm.pkcs11_keys import said
from sealkeeper.hsm.provider import KeyEvidence, Origin, ProtectionLevel

_ASKED = (
    Attribute.SENSITIVE,
    Attribute.ALWAYS_SENSITIVE,
    Attribute.EXTRACTABLE,
    Attribute.NEVER_EXTRACTABLE,
    Attribute.LOCAL,
    Attribute.PRIVATE,
    Attribute.TOKEN,
    Attribute.SIGN,
    Attribute.DECRYPT,
    Attribute.UNWRAP,
    Attribute.DERIVE,
)
_ORIGINS = {True: Origin.GENERATED, False: Origin.IMPORTED, None: Origin.UNKNOWN}
# CK_UNAVAILABLE_INFORMATION, as a C long is on this machine: the key was not made by a mechanism.
_UNAVAILABLE = (2**32 - 1, 2**64 - 1)


def mapper() -> AttributeMapper:
    """How attributes are read: a mechanism by its number, since the library refuses those that it has no name for."""
    made = AttributeMapper()
    made.register_handler(Attribute.KEY_GEN_MECHANISM, *handle_ulong)
    return made


def evidence_of(private: Any, level: ProtectionLevel) -> KeyEvidence:
    """What the module says of a private key object. What it does not say is not in the claims."""
    flags = {name: value for name in _ASKED if isinstance(value := said(private, name), bool)}
    claims = {f"CKA_{name.name}": str(value).lower() for name, value in flags.items()}
    mechanism = said(private, Attribute.KEY_GEN_MECHANISM)
    if isinstance(mechanism, int) and mechanism not in _UNAVAILABLE:
        claims["CKA_KEY_GEN_MECHANISM"] = _name(mechanism)
    return KeyEvidence(
        protection_level=level,
        origin=_ORIGINS[flags.get(Attribute.LOCAL)],
        exportable=flags.get(Attribute.EXTRACTABLE),
        claims=claims,
    )


def _name(mechanism: int) -> str:
    try:
        return f"CKM_{Mechanism(mechanism).name}"
    except ValueError:
        return f"0x{mechanism:08x}"
