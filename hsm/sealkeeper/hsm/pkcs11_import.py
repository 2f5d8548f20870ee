"""Private keys that a PKCS#11 token unwraps: RSA-OAEP for an AES-256 key, and AES-KWP (RFC 5649) for the private key.

The wrapping key pair is a token object, since the worker may be another one when the wrapped key comes. It is unwrapped
by C_UnwrapKey, once or twice as the token can: neither key is ever outside of it. What a module really does is tried
with a throw-away key.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass, exceptions
from pkcs11.constants import DEFAULT, MechanismFlag
from pkcs11.mechanisms import MGF

from sealkeeper.hsm import pkcs11_rsa_aes
from sealkeeper.hsm.algorithms import Algorithm
from sealkeeper.hsm.errors import ImportExpiredError, ImportNotSupportedError, WrappedKeyError
from sealkeeper.hsm.pkcs11_keys import (
    SIGNING_PRIVATE,
    belongs,
    create_public,
    encoded,
    key_type,
    new_identifier,
    rsa_public,
    said,
    spki_of,
)
from sealkeeper.hsm.pkcs11_modules import Quirks
from sealkeeper.hsm.pkcs11_rsa_aes import OneStep
from sealkeeper.hsm.provider import WrapMethod, WrappingKey

_WRAPPING_BITS = 3072
"""As strong as AES-128 (NIST SP 800-57 part 1, table 2), and made by most tokens within a second or two."""
_MAX_WRAPPED = 16 * 1024
_MIN_KWP = 16


_Parameters: TypeAlias = tuple[Mechanism, MGF, None]


@dataclass(frozen=True, slots=True)
class _Oaep:
    """RSAES-OAEP with one hash for the label and for MGF1: in the token, and outside of it."""

    parameters: _Parameters
    digest: hashes.HashAlgorithm


# The best first.
_METHODS = {
    WrapMethod.RSA_OAEP_SHA256_AES_256_KWP: _Oaep((Mechanism.SHA256, MGF.SHA256, None), hashes.SHA256()),
    WrapMethod.RSA_OAEP_SHA1_AES_256_KWP: _Oaep((Mechanism.SHA_1, MGF.SHA1, None), hashes.SHA1()),  # noqa: S303
}
# Of the two, CKM_AES_KEY_WRAP_PAD means RFC 5649 in SoftHSM2 and others, and PKCS #7 padding in some: the trial tells.
_KWP = (Mechanism.AES_KEY_WRAP_KWP, Mechanism.AES_KEY_WRAP_PAD)
_CURVES = {"secp256r1": ec.SECP256R1(), "secp384r1": ec.SECP384R1(), "secp521r1": ec.SECP521R1()}

# What python-pkcs11 would say of a key of its own accord, and what a private or secret key must not be told.
_UNSAID = dict.fromkeys((Attribute.ENCRYPT, Attribute.VERIFY, Attribute.WRAP), DEFAULT)
_AES = {
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.UNWRAP: True,
}

# The session is lost, rather than the wrapped key wrong.
_SESSION = (
    exceptions.SessionHandleInvalid,
    exceptions.SessionClosed,
    exceptions.DeviceRemoved,
    exceptions.TokenNotPresent,
    exceptions.TokenNotRecognised,
    exceptions.UserNotLoggedIn,
)


def wrap_methods(token: Any, quirks: Quirks) -> frozenset[WrapMethod]:
    """What a token's mechanisms promise: whether it is kept, ``offer`` finds out."""
    able = pkcs11_rsa_aes.listed(token) or _kwp_mechanisms(token)
    return frozenset(_METHODS) - quirks.cannot_unwrap if able else frozenset()


def offer(session: Any, label: str, algorithm: Algorithm, methods: frozenset[WrapMethod]) -> WrappingKey:
    """Make a wrapping key pair, and try by which of the methods the token unwraps a key of the kind with it.

    Raises:
        ImportNotSupportedError: by none. Nothing is left in the token.
    """
    _require(methods, algorithm)
    identifier = new_identifier()
    public, private = session.generate_keypair(
        KeyType.RSA,
        _WRAPPING_BITS,
        id=identifier,
        label=f"sealkeeper wrapping key for import of {label}",
        store=True,
        capabilities=MechanismFlag(0),
        public_template={Attribute.WRAP: True},
        private_template={
            Attribute.PRIVATE: True,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.UNWRAP: True,
        },
    )
    try:
        key = rsa_public(public)
        pkcs8 = _throw_away(algorithm)
        kept = tuple(one for one in _METHODS if one in methods and _unwraps(private, key, one, algorithm, pkcs8))
        _require(kept, algorithm)
    except BaseException:
        private.destroy()
        public.destroy()
        raise
    return WrappingKey(identifier, encoded(key), kept)


def identifier_of(state: bytes, method: WrapMethod, wrapped: bytes, spki: bytes) -> bytes:
    """CKA_ID of what an import makes: the same whenever the same is asked for, and of no other key."""
    digest = hashlib.sha256()
    for part in (state, method.value.encode(), wrapped, spki):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()[:16]


def finish(
    wrapping: Any, names: dict[str, Any], algorithm: Algorithm, method: WrapMethod, wrapped: bytes, spki: bytes
) -> tuple[Any, bytes]:
    """Unwrap a private key into the token, and put its public key beside it: the private object, the public key.

    Args:
        wrapping: private object of the wrapping key.
        names: of the new key: ``id``, ``label`` and ``store``.
        algorithm: of the key.
        method: that it was wrapped by.
        wrapped: private key.
        spki: public key.

    Raises:
        WrappedKeyError: it cannot be unwrapped, or is another key than the public key says. Nothing is left.
    """
    if method not in _METHODS:
        raise WrappedKeyError(
            f"the token does not unwrap {method.value}",
            next_step=f"wrap by one of the methods that were offered: {', '.join(one.value for one in _METHODS)}",
        )
    private = _unwrapped(wrapping, algorithm, method, wrapped, names)
    try:
        _require_belonging(private, algorithm, spki)
        public = create_public(wrapping.session, names["label"], names["id"], algorithm, spki)
        try:
            return private, spki_of(public, algorithm)
        except BaseException:
            public.destroy()
            raise
    except BaseException:
        private.destroy()
        raise


def end(session: Any, state: bytes) -> None:
    """Remove a wrapping key pair; it may be gone already."""
    if not state:
        return
    for kind, use in ((ObjectClass.PRIVATE_KEY, Attribute.UNWRAP), (ObjectClass.PUBLIC_KEY, Attribute.WRAP)):
        for found in list(session.get_objects({Attribute.CLASS: kind, Attribute.ID: state, use: True})):
            found.destroy()


def _kwp_mechanisms(token: Any) -> list[Mechanism]:
    """The mechanisms by which a token may unwrap a private key; none where it cannot unwrap an AES key before that."""
    listed = token.slot.get_mechanisms()

    def unwraps(mechanism: Mechanism) -> bool:
        return mechanism in listed and bool(token.slot.get_mechanism_info(mechanism).flags & MechanismFlag.UNWRAP)

    return [one for one in _KWP if unwraps(one)] if unwraps(Mechanism.RSA_PKCS_OAEP) else []


def wrapping_key(session: Any, state: bytes) -> Any:
    """The private object of the wrapping key that an import began with.

    Raises:
        ImportExpiredError: it is gone.
    """
    # By its use as well: a state must never make another key of the token unwrap something.
    wanted = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.ID: state, Attribute.UNWRAP: True}
    found = list(session.get_objects(wanted)) if state else []
    if len(found) != 1 or said(found[0], Attribute.KEY_TYPE) is not KeyType.RSA:
        raise ImportExpiredError(
            "the wrapping key is not in the token any more", next_step="begin the import anew, and wrap the key again"
        )
    return found[0]


def _require(kept: Collection[WrapMethod], algorithm: Algorithm) -> None:
    if not kept:
        raise ImportNotSupportedError(
            f"the token does not unwrap keys for {algorithm.name}",
            next_step="have the key made in the token, or import into another provider",
        )


def _require_belonging(private: Any, algorithm: Algorithm, spki: bytes) -> None:
    if not belongs(private, algorithm, spki):
        raise _refused(f"what was wrapped is not the private key for {algorithm.name} of the public key given")


def _unwraps(private: Any, public: rsa.RSAPublicKey, method: WrapMethod, algorithm: Algorithm, pkcs8: bytes) -> bool:
    """Try it with a key that is used for nothing else, in a session object that is gone at once."""
    aes, digest = os.urandom(32), _METHODS[method].digest
    wrapped = public.encrypt(aes, padding.OAEP(padding.MGF1(digest), digest, None))
    wrapped += aes_key_wrap_with_padding(aes, pkcs8)
    try:
        _unwrapped(private, algorithm, method, wrapped, {"store": False}).destroy()
    except WrappedKeyError:
        return False
    return True


def _unwrapped(wrapping: Any, algorithm: Algorithm, method: WrapMethod, wrapped: bytes, names: dict[str, Any]) -> Any:
    """The private key object that a wrapped key becomes."""
    split = len(wrapping[Attribute.MODULUS])
    if len(wrapped) > _MAX_WRAPPED or len(wrapped) < split + _MIN_KWP or (len(wrapped) - split) % 8:
        raise _refused(
            f"{len(wrapped)} bytes are not {split} bytes of RSA-OAEP with a key wrapped by AES-KWP behind them"
        )
    options = {**names, "template": {**SIGNING_PRIVATE, **_UNSAID}}
    oaep, kind = _METHODS[method].parameters, key_type(algorithm)
    if pkcs11_rsa_aes.listed(wrapping.session.token):
        # Where it does not go in one step, it may in two.
        with suppress(WrappedKeyError):
            return _in_one_step(wrapping, kind, oaep, wrapped, options)
    return _in_two_steps(wrapping, kind, oaep, wrapped, split, options)


def _in_one_step(wrapping: Any, kind: KeyType, oaep: _Parameters, wrapped: bytes, options: dict[str, Any]) -> Any:
    step = OneStep(oaep[0], oaep[1])
    return _unwrap(wrapping, (ObjectClass.PRIVATE_KEY, kind, wrapped), (step.mechanism, step.parameter), options)


def _in_two_steps(
    wrapping: Any, kind: KeyType, oaep: _Parameters, wrapped: bytes, split: int, options: dict[str, Any]
) -> Any:
    """The AES key between is a session object, and gone afterwards."""
    aes = _unwrap(
        wrapping,
        (ObjectClass.SECRET_KEY, KeyType.AES, wrapped[:split]),
        (Mechanism.RSA_PKCS_OAEP, oaep),
        {"store": False, "template": {**_AES, **_UNSAID}},
    )
    try:
        for mechanism in _kwp_mechanisms(wrapping.session.token):
            with suppress(WrappedKeyError):
                return _unwrap(aes, (ObjectClass.PRIVATE_KEY, kind, wrapped[split:]), (mechanism, None), options)
        raise _refused("the token cannot unwrap the private key")
    finally:
        # Where the session is lost, its objects are too.
        with suppress(exceptions.PKCS11Error):
            aes.destroy()


def _unwrap(key: Any, what: tuple[ObjectClass, KeyType, bytes], how: tuple[Mechanism, Any], options: Any) -> Any:
    try:
        return key.unwrap_key(*what, mechanism=how[0], mechanism_param=how[1], capabilities=MechanismFlag(0), **options)
    except _SESSION:
        raise
    except exceptions.PKCS11Error as error:
        # Modules have many words for it: CKR_GENERAL_ERROR, CKR_FUNCTION_FAILED, CKR_ENCRYPTED_DATA_INVALID and more.
        # Where it is the token itself that fails, this sign of life raises.
        key.session.generate_random(64)
        raise _refused(f"the token cannot unwrap the key ({type(error).__name__})") from None


def _refused(text: str) -> WrappedKeyError:
    return WrappedKeyError(
        text, next_step="wrap the PKCS#8 key under this import's wrapping key, by a method that was offered"
    )


def _throw_away(algorithm: Algorithm) -> bytes:
    """A private key of the kind, PKCS#8 DER, for a trial; RSA ones are shorter, since they take long to make."""
    match algorithm.family:
        case "ecdsa":
            key: Any = ec.generate_private_key(_CURVES[str(algorithm.parameter)])
        case "ed25519":
            key = ed25519.Ed25519PrivateKey.generate()
        case _:
            key = rsa.generate_private_key(65537, 2048)
    pkcs8: bytes = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pkcs8
