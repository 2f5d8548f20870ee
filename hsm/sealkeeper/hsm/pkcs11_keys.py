"""Key objects of a PKCS#11 token: what they are made with, and what is read from them."""

from __future__ import annotations

import secrets
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from pkcs11 import Attribute, KeyType, ObjectClass, exceptions
from pkcs11.constants import DEFAULT, MechanismFlag
from pkcs11.util.ec import encode_named_curve_parameters

from sealkeeper.hsm.algorithms import ALGORITHMS, Algorithm, load_public_key
from sealkeeper.hsm.errors import AlgorithmNotSupportedError, KeyHandleError, ProviderUnavailableError
from sealkeeper.hsm.pkcs11_modules import Quirks

_CURVES: dict[str, ec.EllipticCurve] = {
    "secp256r1": ec.SECP256R1(),
    "secp384r1": ec.SECP384R1(),
    "secp521r1": ec.SECP521R1(),
}
# EC_PARAMS of Ed25519 as PKCS #11 v3.0 has them: the name of the curve as a PrintableString (section 2.3.5).
_ED25519_PARAMS = b"\x13\x0cedwards25519"
_KEY_TYPES = {
    "ecdsa": KeyType.EC,
    "ed25519": KeyType.EC_EDWARDS,
    "rsa-pkcs1v15": KeyType.RSA,
    "rsa-pss": KeyType.RSA,
}

_SIGNING_PUBLIC = {Attribute.VERIFY: True, Attribute.ENCRYPT: False, Attribute.WRAP: False}
SIGNING_PRIVATE = {
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.SIGN: True,
    Attribute.DECRYPT: False,
    Attribute.UNWRAP: False,
    Attribute.DERIVE: False,
}
"""What every private key is made or unwrapped with: nobody reads it out, and it does nothing but sign."""


def key_type(algorithm: Algorithm) -> KeyType:
    """CKA_KEY_TYPE of an algorithm's keys.

    Raises:
        AlgorithmNotSupportedError: there is none that is used here.
    """
    try:
        return _KEY_TYPES[algorithm.family]
    except KeyError:
        raise AlgorithmNotSupportedError(f"{algorithm.name} is not used over PKCS#11") from None


def new_identifier() -> bytes:
    """A CKA_ID that no other key has."""
    return secrets.token_bytes(16)


def handle_of(identifier: bytes, algorithm: Algorithm) -> str:
    """RFC 7512 path attributes; the vendor attribute keeps an RSA key to the one padding that it was made for."""
    return f"id={''.join(f'%{byte:02x}' for byte in identifier)};x-algorithm={quote(algorithm.name)}"


def parse_handle(handle: str) -> tuple[bytes, Algorithm]:
    """CKA_ID and algorithm.

    Raises:
        KeyHandleError: it is none of ours.
    """
    identifier, separator, name = handle.removeprefix("id=").partition(";x-algorithm=")
    if not handle.startswith("id=") or not separator or name not in ALGORITHMS:
        raise KeyHandleError("the token has no such key")
    found = unquote_to_bytes(identifier)
    if not found:
        # A search for no CKA_ID finds what others left without one.
        raise KeyHandleError("the token has no such key")
    return found, ALGORITHMS[name]


def generate_pair(session: Any, label: str, identifier: bytes, algorithm: Algorithm, quirks: Quirks) -> tuple[Any, Any]:
    """Make a key pair in the token: public and private object."""
    kind = key_type(algorithm)
    unsaid: dict[Attribute, Any] = dict.fromkeys(quirks.unsaid.get(kind, ()), DEFAULT)
    names: dict[str, Any] = {
        "id": identifier,
        "label": label,
        "store": True,
        # Nothing of the library's own choice, which lets EC keys derive and RSA keys do everything.
        "capabilities": MechanismFlag(0),
        "public_template": {**_SIGNING_PUBLIC, **unsaid},
        "private_template": {**SIGNING_PRIVATE, **unsaid},
    }
    if kind is KeyType.RSA:
        return tuple(session.generate_keypair(kind, int(algorithm.parameter), **names))
    domain = session.create_domain_parameters(kind, {Attribute.EC_PARAMS: _ec_params(algorithm)}, local=True)
    return tuple(domain.generate_keypair(**names))


def create_public(session: Any, label: str, identifier: bytes, algorithm: Algorithm, spki: bytes) -> Any:
    """Put a public key into the token that it was not made in.

    Raises:
        AlgorithmNotSupportedError: it is not one for the algorithm.
    """
    public = load_public_key(algorithm, spki)
    template: dict[Attribute, Any] = {
        Attribute.CLASS: ObjectClass.PUBLIC_KEY,
        Attribute.KEY_TYPE: key_type(algorithm),
        Attribute.TOKEN: True,
        Attribute.ID: identifier,
        Attribute.LABEL: label,
        **_SIGNING_PUBLIC,
    }
    if isinstance(public, rsa.RSAPublicKey):
        numbers = public.public_numbers()
        template[Attribute.MODULUS] = _unsigned(numbers.n)
        template[Attribute.PUBLIC_EXPONENT] = _unsigned(numbers.e)
    else:
        encoding, form = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        if isinstance(public, ed25519.Ed25519PublicKey):
            encoding, form = serialization.Encoding.Raw, serialization.PublicFormat.Raw
        template[Attribute.EC_PARAMS] = _ec_params(algorithm)
        template[Attribute.EC_POINT] = _octet_string(public.public_bytes(encoding, form))
    return session.create_object(template)


def belongs(private: Any, algorithm: Algorithm, spki: bytes) -> bool:
    """Whether a private key object is one for the algorithm, and that of an RSA public key: they share the modulus.

    Where the token does not show what it takes to tell, it is left to the signature that is asked for later.
    """
    public = load_public_key(algorithm, spki)
    wanted: dict[Attribute, Any] = {Attribute.KEY_TYPE: key_type(algorithm)}
    if isinstance(public, rsa.RSAPublicKey):
        wanted[Attribute.MODULUS] = _unsigned(public.public_numbers().n)
    else:
        wanted[Attribute.EC_PARAMS] = _ec_params(algorithm)
    return all(said(private, name) in (None, value) for name, value in wanted.items())


def said(item: Any, attribute: Attribute) -> Any:
    """An attribute of an object; ``None`` where the module does not say."""
    try:
        value = item[attribute]
    except (exceptions.AttributeTypeInvalid, exceptions.AttributeSensitive, exceptions.FunctionFailed):
        return None
    except (ValueError, ArithmeticError, LookupError):
        # Of another length or kind than the standard has it.
        return None
    return value


def spki_of(public: Any, algorithm: Algorithm) -> bytes:
    """The SubjectPublicKeyInfo (DER) of a public key object.

    Raises:
        ProviderUnavailableError: it is not one for the algorithm.
    """
    try:
        if key_type(algorithm) is KeyType.RSA:
            key: Any = rsa_public(public)
        else:
            point = _octets(public[Attribute.EC_POINT])
            if algorithm.family == "ed25519":
                key = ed25519.Ed25519PublicKey.from_public_bytes(point)
            else:
                key = ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[str(algorithm.parameter)], point)
    except (ValueError, TypeError):
        raise ProviderUnavailableError("the token's public key is not one for the algorithm") from None
    spki = encoded(key)
    load_public_key(algorithm, spki)
    return spki


def rsa_public(public: Any) -> rsa.RSAPublicKey:
    """The RSA public key of an object.

    Raises:
        ValueError: it is none.
    """
    numbers = (public[name] for name in (Attribute.PUBLIC_EXPONENT, Attribute.MODULUS))
    return rsa.RSAPublicNumbers(*(int.from_bytes(number, "big") for number in numbers)).public_key()


def encoded(key: Any) -> bytes:
    """SubjectPublicKeyInfo, DER."""
    spki: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return spki


def _ec_params(algorithm: Algorithm) -> bytes:
    if algorithm.family == "ed25519":
        return _ED25519_PARAMS
    params: bytes = encode_named_curve_parameters(str(algorithm.parameter))
    return params


def _unsigned(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _octet_string(content: bytes) -> bytes:
    """A DER OCTET STRING (X.690 section 8.7) of up to 255 bytes."""
    length = bytes([len(content)]) if len(content) < 128 else bytes([0x81, len(content)])
    return b"\x04" + length + content


def _octets(value: bytes) -> bytes:
    """The content of a DER OCTET STRING (X.690 section 8.7), in which tokens wrap a point."""
    if len(value) > 2 and value[0] == 4 and value[1] == len(value) - 2 < 128:
        return value[2:]
    if len(value) > 3 and value[:2] == b"\x04\x81" and value[2] == len(value) - 3:
        return value[3:]
    return value
