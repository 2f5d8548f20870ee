"""Keys in a PKCS#11 token (OASIS PKCS #11 v3.1): an HSM, a smart card, SoftHSM2.

``pkcs11:token=acme?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/secrets/pin`` (RFC 7512)

Runs in a worker process of its own, with one thread: python-pkcs11 tells the module that there is only one. A session
that was lost is opened anew once; where that does not help the worker ends, and the next one loads the module afresh.
A PIN is sent once: never where the token says that one more mistake would lock it.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import quote, unquote_to_bytes

import pkcs11
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass, TokenFlag, exceptions
from pkcs11.constants import MechanismFlag
from pkcs11.mechanisms import MGF
from pkcs11.util.ec import encode_named_curve_parameters

from sealkeeper.hsm.algorithms import ALGORITHMS, Algorithm, load_public_key
from sealkeeper.hsm.backend import BackendLostError, require_algorithm
from sealkeeper.hsm.errors import (
    AlgorithmNotSupportedError,
    KeyHandleError,
    PinRefusedError,
    ProviderConfigurationError,
    ProviderUnavailableError,
)
from sealkeeper.hsm.provider import ProtectionLevel, ProviderInfo, ProviderKey
from sealkeeper.hsm.secret_file import read_secret
from sealkeeper.hsm.uri import Pkcs11Uri, parse_pkcs11_uri

_T = TypeVar("_T")
_CACHE_LIMIT = 10_000

# DER DigestInfo up to the digest (RFC 8017 section 9.2, note 1): CKM_RSA_PKCS pads what it is given.
_DIGEST_INFO_SHA256 = bytes.fromhex("3031300d060960864801650304020105000420")

_CURVES: dict[str, ec.EllipticCurve] = {
    "secp256r1": ec.SECP256R1(),
    "secp384r1": ec.SECP384R1(),
    "secp521r1": ec.SECP521R1(),
}
_KEY_BITS = {"secp256r1": 256, "secp384r1": 384, "secp521r1": 521}
# EC_PARAMS of Ed25519 as PKCS #11 v3.0 has them: the name of the curve as a PrintableString (section 2.3.5).
_ED25519_PARAMS = b"\x13\x0cedwards25519"
_SIGNS = {
    "ecdsa": (Mechanism.ECDSA, Mechanism.EC_KEY_PAIR_GEN),
    "ed25519": (Mechanism.EDDSA, Mechanism.EC_EDWARDS_KEY_PAIR_GEN),
    "rsa-pkcs1v15": (Mechanism.RSA_PKCS, Mechanism.RSA_PKCS_KEY_PAIR_GEN),
    "rsa-pss": (Mechanism.RSA_PKCS_PSS, Mechanism.RSA_PKCS_KEY_PAIR_GEN),
}

# After these the session is worth opening anew; object handles go with it.
_LOST = (
    exceptions.SessionHandleInvalid,
    exceptions.SessionClosed,
    exceptions.DeviceError,
    exceptions.DeviceRemoved,
    exceptions.GeneralError,
    exceptions.FunctionFailed,
    exceptions.TokenNotPresent,
    exceptions.TokenNotRecognised,
    exceptions.UserNotLoggedIn,
    exceptions.ObjectHandleInvalid,
    exceptions.KeyHandleInvalid,
    exceptions.OperationActive,
)


class Pkcs11Backend:
    """One token, logged in.

    Raises:
        ProviderConfigurationError: no such library or token, or not exactly one token fits.
        PinRefusedError: the PIN is wrong, or too few tries are left to risk it.
        ProviderUnavailableError: the token does not answer.
    """

    def __init__(self, uri: str) -> None:
        self._uri = parse_pkcs11_uri(uri)
        self._session: Any = None
        # Private key objects of this session, by handle.
        self._objects: OrderedDict[str, tuple[Algorithm, Any]] = OrderedDict()
        try:
            self._library = pkcs11.lib(str(self._uri.module_path))
        except (exceptions.PKCS11Error, OSError, RuntimeError):
            raise ProviderConfigurationError(
                "the PKCS#11 module cannot be loaded", next_step=f"check that {self._uri.module_path} is the library"
            ) from None
        try:
            token = self._open(relogin=False)
        except exceptions.PKCS11Error as error:
            raise ProviderUnavailableError(f"the token cannot be opened ({type(error).__name__})") from None
        self.info = ProviderInfo("pkcs11", _describe(token), ProtectionLevel.HSM, _offered(token))

    def generate(self, label: str, algorithm: Algorithm) -> ProviderKey:
        """Make a key pair in the token: sensitive, not extractable, for signing only."""
        identifier = secrets.token_bytes(16)
        handle = _handle(identifier, algorithm)

        def make() -> bytes:
            public, private = self._generate(label, identifier, algorithm)
            try:
                spki = _spki(public, algorithm)
            except BaseException:
                private.destroy()
                public.destroy()
                raise
            self._remember(handle, algorithm, private)
            return spki

        try:
            return ProviderKey(handle, algorithm, self._recovering(make))
        except (exceptions.MechanismInvalid, exceptions.KeySizeRange, exceptions.DomainParamsInvalid):
            raise AlgorithmNotSupportedError(f"the token refuses to make a key for {algorithm.name}") from None

    def public_key(self, handle: str) -> ProviderKey:
        """Read the public key from the token, whose private key must be there too."""
        identifier, algorithm = _parse_handle(handle)

        def read() -> bytes:
            self._private(handle)
            return _spki(self._find(identifier, ObjectClass.PUBLIC_KEY), algorithm)

        return ProviderKey(handle, algorithm, self._recovering(read))

    def sign(self, handle: str, algorithm: Algorithm, payloads: Sequence[bytes]) -> list[bytes]:
        """Sign each payload."""

        def sign() -> list[bytes]:
            key_algorithm, private = self._objects.get(handle) or self._private(handle)
            require_algorithm(key_algorithm, algorithm)
            one = _SIGNERS[algorithm.family]
            return [one(private, payload) for payload in payloads]

        return self._recovering(sign)

    def destroy(self, handle: str) -> None:
        """Remove both objects."""
        identifier, _ = _parse_handle(handle)
        self._objects.pop(handle, None)

        def remove() -> None:
            for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
                for found in list(self._session.get_objects({Attribute.CLASS: kind, Attribute.ID: identifier})):
                    found.destroy()

        self._recovering(remove)

    def check(self) -> None:
        """Ask the token for random bytes."""
        self._recovering(lambda: self._session.generate_random(64))

    def close(self) -> None:
        """End the session."""
        session, self._session = self._session, None
        self._objects.clear()
        if session is not None:
            try:
                session.close()
            except exceptions.PKCS11Error:
                return

    def _open(self, *, relogin: bool) -> Any:
        token = _find_token(self._library, self._uri)
        _require_tries(token.flags, relogin=relogin)
        pin = _pin(self._uri)
        try:
            self._session = token.open(rw=True, user_pin=pin)
        except exceptions.UserAlreadyLoggedIn:
            # The login belongs to the process, not to the session that was lost.
            self._session = token.open(rw=True)
        except (exceptions.PinIncorrect, exceptions.PinInvalid, exceptions.PinLenRange):
            raise PinRefusedError(
                "the token refused the PIN", next_step="correct the PIN file; it will not be tried again before"
            ) from None
        except (exceptions.PinLocked, exceptions.PinExpired, exceptions.UserPinNotInitialized) as error:
            raise PinRefusedError(
                f"the token takes no PIN ({type(error).__name__})",
                next_step="have the security officer reset the user PIN, then write it into the PIN file",
            ) from None
        return token

    def _recovering(self, action: Callable[[], _T]) -> _T:
        """Do it; where the session turns out to be lost, open it anew once and do it again."""
        try:
            if self._session is not None:
                return action()
        except _LOST:
            pass
        except exceptions.PKCS11Error as error:
            raise _translated(error) from None
        self.close()
        try:
            self._open(relogin=True)
            return action()
        except exceptions.PKCS11Error as error:
            self.close()
            if isinstance(error, _LOST):
                raise BackendLostError("the token does not answer", next_step="look at the token") from None
            raise _translated(error) from None
        except ProviderConfigurationError as error:
            self.close()
            if isinstance(error, PinRefusedError):
                raise
            raise BackendLostError("the token is not there", next_step="put the token back") from None

    def _generate(self, label: str, identifier: bytes, algorithm: Algorithm) -> tuple[Any, Any]:
        names: dict[str, Any] = {
            "id": identifier,
            "label": label,
            "store": True,
            "public_template": {Attribute.VERIFY: True, Attribute.ENCRYPT: False, Attribute.WRAP: False},
            "private_template": {
                Attribute.PRIVATE: True,
                Attribute.SENSITIVE: True,
                Attribute.EXTRACTABLE: False,
                Attribute.SIGN: True,
                Attribute.DECRYPT: False,
                Attribute.UNWRAP: False,
            },
        }
        if algorithm.family in ("rsa-pkcs1v15", "rsa-pss"):
            return tuple(self._session.generate_keypair(KeyType.RSA, int(algorithm.parameter), **names))
        kind, params = KeyType.EC_EDWARDS, _ED25519_PARAMS
        if algorithm.family == "ecdsa":
            kind, params = KeyType.EC, encode_named_curve_parameters(str(algorithm.parameter))
        # They can encrypt nothing, and some tokens refuse to be told so.
        for template, unknown in (("public_template", "ENCRYPT"), ("private_template", "DECRYPT")):
            del names[template][Attribute[unknown]]
        domain = self._session.create_domain_parameters(kind, {Attribute.EC_PARAMS: params}, local=True)
        return tuple(domain.generate_keypair(**names))

    def _private(self, handle: str) -> tuple[Algorithm, Any]:
        identifier, algorithm = _parse_handle(handle)
        private = self._find(identifier, ObjectClass.PRIVATE_KEY)
        self._remember(handle, algorithm, private)
        return algorithm, private

    def _find(self, identifier: bytes, kind: ObjectClass) -> Any:
        found = list(self._session.get_objects({Attribute.CLASS: kind, Attribute.ID: identifier}))
        if len(found) != 1:
            raise KeyHandleError("the token has no such key")
        return found[0]

    def _remember(self, handle: str, algorithm: Algorithm, private: Any) -> None:
        self._objects[handle] = algorithm, private
        if len(self._objects) > _CACHE_LIMIT:
            self._objects.popitem(last=False)


def _pin(uri: Pkcs11Uri) -> str:
    try:
        return read_secret(uri.pin_source, "PIN").decode("utf-8")
    except UnicodeDecodeError:
        raise ProviderConfigurationError("the PIN file is not UTF-8") from None


def _translated(error: exceptions.PKCS11Error) -> Exception:
    if isinstance(error, (exceptions.MechanismInvalid, exceptions.KeySizeRange, exceptions.DomainParamsInvalid)):
        return AlgorithmNotSupportedError(f"the token refuses the algorithm ({type(error).__name__})")
    return ProviderUnavailableError(f"the token refused ({type(error).__name__})")


def _handle(identifier: bytes, algorithm: Algorithm) -> str:
    """RFC 7512 path attributes; the vendor attribute keeps an RSA key to the one padding that it was made for."""
    return f"id={''.join(f'%{byte:02x}' for byte in identifier)};x-algorithm={quote(algorithm.name)}"


def _parse_handle(handle: str) -> tuple[bytes, Algorithm]:
    identifier, separator, name = handle.removeprefix("id=").partition(";x-algorithm=")
    if not handle.startswith("id=") or not separator or name not in ALGORITHMS:
        raise KeyHandleError("the token has no such key")
    return unquote_to_bytes(identifier), ALGORITHMS[name]


def _find_token(library: Any, uri: Pkcs11Uri) -> Any:
    found = []
    for slot in library.get_slots(token_present=True):
        if uri.slot_id is not None and slot.slot_id != uri.slot_id:
            continue
        try:
            token = slot.get_token()
        except (exceptions.TokenNotPresent, exceptions.TokenNotRecognised):
            continue
        if _fits(token, uri):
            found.append(token)
    if len(found) != 1:
        count = "no token fits" if not found else f"{len(found)} tokens fit"
        raise ProviderConfigurationError(
            f"{count} the pkcs11: URI", next_step="name the token with token=, serial= or slot-id="
        )
    return found[0]


def _fits(token: Any, uri: Pkcs11Uri) -> bool:
    if not token.flags & TokenFlag.TOKEN_INITIALIZED:
        return False
    serial = token.serial.decode("utf-8", "replace") if isinstance(token.serial, bytes) else token.serial
    pairs = (
        (uri.token, token.label),
        (uri.manufacturer, token.manufacturer_id),
        (uri.model, token.model),
        (uri.serial, serial),
    )
    return all(wanted is None or wanted == is_ for wanted, is_ in pairs)


def _require_tries(flags: TokenFlag, *, relogin: bool) -> None:
    if flags & (TokenFlag.USER_PIN_LOCKED | TokenFlag.USER_PIN_FINAL_TRY):
        raise PinRefusedError(
            "the token's user PIN is locked, or one more mistake would lock it; the PIN was not tried",
            next_step="log in once by hand with the right PIN, or have the security officer reset it",
        )
    if relogin and flags & TokenFlag.USER_PIN_COUNT_LOW:
        raise PinRefusedError(
            "wrong PINs were tried on the token since the gateway logged in; the PIN was not tried again",
            next_step="find out who tried, log in once by hand with the right PIN, and start the gateway anew",
        )


def _describe(token: Any) -> str:
    version = ".".join(map(str, token.firmware_version))
    return f"{token.manufacturer_id.strip()} {token.model.strip()} {version}, token {token.label.strip()!r}"


def _offered(token: Any) -> frozenset[str]:
    mechanisms = token.slot.get_mechanisms()

    def offers(algorithm: Algorithm) -> bool:
        if algorithm.family not in _SIGNS:
            return False
        signing, generating = _SIGNS[algorithm.family]
        if not {signing, generating} <= mechanisms:
            return False
        if algorithm.family == "ed25519":
            return True
        bits = int(_KEY_BITS.get(str(algorithm.parameter), algorithm.parameter))
        limits = token.slot.get_mechanism_info(signing)
        # Some modules leave the limits at 0: unknown, so the token is asked when it comes to it.
        small_enough = limits.max_key_length in (0, None) or bits <= limits.max_key_length
        return bool(limits.flags & MechanismFlag.SIGN) and (limits.min_key_length or 0) <= bits and small_enough

    return frozenset(name for name, algorithm in ALGORITHMS.items() if offers(algorithm))


def _spki(public: Any, algorithm: Algorithm) -> bytes:
    try:
        if algorithm.family in ("rsa-pkcs1v15", "rsa-pss"):
            numbers = (public[name] for name in (Attribute.PUBLIC_EXPONENT, Attribute.MODULUS))
            key: Any = rsa.RSAPublicNumbers(*(int.from_bytes(number, "big") for number in numbers)).public_key()
        else:
            point = _octets(public[Attribute.EC_POINT])
            if algorithm.family == "ed25519":
                key = ed25519.Ed25519PublicKey.from_public_bytes(point)
            else:
                key = ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[str(algorithm.parameter)], point)
    except (ValueError, TypeError):
        raise ProviderUnavailableError("the token's public key is not one for the algorithm") from None
    spki: bytes = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    load_public_key(algorithm, spki)
    return spki


def _octets(value: bytes) -> bytes:
    """The content of a DER OCTET STRING (X.690 section 8.7), in which tokens wrap a point."""
    if len(value) > 2 and value[0] == 4 and value[1] == len(value) - 2 < 128:
        return value[2:]
    if len(value) > 3 and value[:2] == b"\x04\x81" and value[2] == len(value) - 3:
        return value[3:]
    return value


def _sign_ecdsa(private: Any, digest: bytes) -> bytes:
    raw = private.sign(digest, mechanism=Mechanism.ECDSA)
    half = len(raw) // 2
    return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))


def _sign_ed25519(private: Any, message: bytes) -> bytes:
    return bytes(private.sign(message, mechanism=Mechanism.EDDSA))


def _sign_rsa_pkcs1v15(private: Any, digest: bytes) -> bytes:
    return bytes(private.sign(_DIGEST_INFO_SHA256 + digest, mechanism=Mechanism.RSA_PKCS))


def _sign_rsa_pss(private: Any, digest: bytes) -> bytes:
    parameters = (Mechanism.SHA256, MGF.SHA256, 32)
    return bytes(private.sign(digest, mechanism=Mechanism.RSA_PKCS_PSS, mechanism_param=parameters))


_SIGNERS: dict[str, Callable[[Any, bytes], bytes]] = {
    "ecdsa": _sign_ecdsa,
    "ed25519": _sign_ed25519,
    "rsa-pkcs1v15": _sign_rsa_pkcs1v15,
    "rsa-pss": _sign_rsa_pss,
}
