"""What PKCS#11 modules do otherwise than the standard has it, as far as it was found by trying them.

A module that is not in the table is taken at its word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pkcs11 import Attribute, KeyType

from sealkeeper.hsm.provider import WrapMethod


@dataclass(frozen=True, slots=True)
class Quirks:
    """How to get on with a module.

    Attributes:
        unsaid: attributes that must not be in the templates of a new key pair of a type, public or private.
        cannot_sign: algorithms that its list of mechanisms promises and that do not work.
        cannot_unwrap: wrap methods that its list of mechanisms promises and that it does not do.
        blind: does not see what other processes put into the token until it is started anew.
    """

    unsaid: Mapping[KeyType, frozenset[Attribute]] = field(default_factory=dict)
    cannot_sign: frozenset[str] = frozenset()
    cannot_unwrap: frozenset[WrapMethod] = frozenset()
    blind: bool = False


_TABLE = {
    # 2.6.1: CKM_RSA_PKCS_OAEP with another hash than SHA-1 is CKR_ARGUMENTS_BAD.
    "SoftHSM": Quirks(cannot_unwrap=frozenset({WrapMethod.RSA_OAEP_SHA256_AES_256_KWP})),
    # 1.9.0: a TPM's key has one bit for signing and one for decrypting. CKA_ENCRYPT and CKA_VERIFY are taken for the
    # same two bits from the public key's side, the wrong way round: false for the one takes signing away, true for the
    # other lets an EC key decrypt. An RSA key must be let decrypt, since digests are signed by a raw TPM2_RSA_Decrypt.
    # The point of a P-521 key is stored with a length that the module itself cannot read again.
    "tpm2-software.github.io": Quirks(
        unsaid={
            KeyType.EC: frozenset({Attribute.ENCRYPT, Attribute.VERIFY}),
            KeyType.RSA: frozenset({Attribute.ENCRYPT, Attribute.DECRYPT}),
        },
        cannot_sign=frozenset({"PKIX_ECDSA_P521_SHA_512"}),
        blind=True,
    ),
}
"""By the library's manufacturer (CK_INFO.manufacturerID): the token's is often that of the hardware."""


def quirks_of(library: Any) -> Quirks:
    """How to get on with a loaded module."""
    return _TABLE.get(library.manufacturer_id.strip(), Quirks())
