"""CKM_RSA_AES_KEY_WRAP (PKCS #11 v3.0 section 2.1.21), which python-pkcs11 0.10.1 has no name and no parameters for.

Its parameters are a structure that points to another, so they are laid out here, as C has them on this machine.
"""

from __future__ import annotations

import ctypes
from typing import Any

from pkcs11 import Mechanism
from pkcs11.constants import MechanismFlag
from pkcs11.mechanisms import MGF

RSA_AES_KEY_WRAP = 0x1054
_AES_BITS = 256
_CKZ_DATA_SPECIFIED = 1


class _OaepParameters(ctypes.Structure):
    """CK_RSA_PKCS_OAEP_PARAMS."""

    _fields_ = (
        ("hashAlg", ctypes.c_ulong),
        ("mgf", ctypes.c_ulong),
        ("source", ctypes.c_ulong),
        ("pSourceData", ctypes.c_void_p),
        ("ulSourceDataLen", ctypes.c_ulong),
    )


class _Parameters(ctypes.Structure):
    """CK_RSA_AES_KEY_WRAP_PARAMS."""

    _fields_ = (("ulAESKeyBits", ctypes.c_ulong), ("pOAEPParams", ctypes.POINTER(_OaepParameters)))


def listed(token: Any) -> bool:
    """Whether a token says that it unwraps so."""
    slot = token.slot
    if RSA_AES_KEY_WRAP not in slot.get_mechanisms():
        return False
    return bool(slot.get_mechanism_info(RSA_AES_KEY_WRAP).flags & MechanismFlag.UNWRAP)


class OneStep:
    """The mechanism with its parameters; they are good while this object lives.

    Attributes:
        mechanism: as python-pkcs11 takes it.
        parameter: as bytes, which it passes on as they are.
    """

    __slots__ = ("_oaep", "mechanism", "parameter")

    def __init__(self, digest: Mechanism, mgf: MGF) -> None:
        self._oaep = _OaepParameters(int(digest), int(mgf), _CKZ_DATA_SPECIFIED, None, 0)
        self.parameter = bytes(_Parameters(_AES_BITS, ctypes.pointer(self._oaep)))
        # Only members of its enumeration are taken, and it lacks this one.
        self.mechanism = int.__new__(Mechanism, RSA_AES_KEY_WRAP)
        self.mechanism._name_ = "RSA_AES_KEY_WRAP"
        self.mechanism._value_ = RSA_AES_KEY_WRAP
