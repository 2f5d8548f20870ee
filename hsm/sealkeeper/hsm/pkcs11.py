"""Keys in a PKCS#11 token (OASIS PKCS #11 v3.1): an HSM, a smart card, SoftHSM2.

``pkcs11:token=acme?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/secrets/pin`` (RFC 7512)

Runs in a worker process of its own, with one thread: python-pkcs11 tells the module that there is only one. A session
that was lost is opened anew once; where that does not help the worker ends, and the next one loads the module afresh.
A PIN is sent once: never again after it was refused, nor where the token says that one more mistake would lock it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import pkcs11
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11 import Attribute, Mechanism, ObjectClass, SignMixin, exceptions
from pkcs11.mechanisms import MGF

from sealkeeper.hsm import pkcs11_import
from sealkeeper.hsm.algorithms import Algorithm
from sealkeeper.hsm.backend import BackendLostError, require_algorithm
from sealkeeper.hsm.errors import (
    AlgorithmNotSupportedError,
    KeyHandleError,
    PinRefusedError,
    ProviderConfigurationError,
    ProviderUnavailableError,
)
from sealkeeper.hsm.pin_latch import PinLatch
from sealkeeper.hsm.pkcs11_evidence import evidence_of, mapper
from sealkeeper.hsm.pkcs11_keys import generate_pair, handle_of, new_identifier, parse_handle, spki_of
from sealkeeper.hsm.pkcs11_loading import cannot_load
from sealkeeper.hsm.pkcs11_modules import quirks_of
from sealkeeper.hsm.pkcs11_token import TokenMissingError, describe, find_token, offered, pin_of, require_tries
from sealkeeper.hsm.provider import KeyEvidence, ProtectionLevel, ProviderInfo, ProviderKey, WrapMethod, WrappingKey
from sealkeeper.hsm.uri import parse_pkcs11_uri

_T = TypeVar("_T")
_CACHE_LIMIT = 10_000

# DER DigestInfo up to the digest (RFC 8017 section 9.2, note 1): CKM_RSA_PKCS pads what it is given.
_DIGEST_INFO_SHA256 = bytes.fromhex("3031300d060960864801650304020105000420")

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
        ProviderConfigurationError: no such library, or several tokens fit.
        PinRefusedError: the PIN is wrong, or too few tries are left to risk it.
        ProviderUnavailableError: the token is not there, or does not answer.
    """

    def __init__(self, uri: str) -> None:
        self._uri = parse_pkcs11_uri(uri)
        # The gateway's own knows only of PINs that were refused to a worker when it started.
        self._latch = PinLatch(uri, self._uri.pin_source, None)
        self._session: Any = None
        # Private key objects of this session, by handle.
        self._objects: OrderedDict[str, tuple[Algorithm, Any]] = OrderedDict()
        try:
            self._library = pkcs11.lib(str(self._uri.module_path))
        except (exceptions.PKCS11Error, OSError, RuntimeError) as error:
            raise cannot_load(self._uri.module_path, error) from None
        self._quirks = quirks_of(self._library)
        try:
            token = self._open(relogin=False)
        except exceptions.PKCS11Error as error:
            raise ProviderUnavailableError(
                f"the token cannot be opened ({type(error).__name__})",
                next_step="look at the token, at the way to it, and at the log of its vendor's library",
            ) from None
        self.info = ProviderInfo(
            "pkcs11",
            describe(token),
            ProtectionLevel.HSM,
            offered(token) - self._quirks.cannot_sign,
            wrap_methods=pkcs11_import.wrap_methods(token, self._quirks),
        )

    def generate(self, label: str, algorithm: Algorithm) -> ProviderKey:
        """Make a key pair in the token: sensitive, not extractable, for signing only."""
        identifier = new_identifier()
        handle = handle_of(identifier, algorithm)

        def make() -> bytes:
            public, private = generate_pair(self._session, label, identifier, algorithm, self._quirks)
            try:
                spki = spki_of(public, algorithm)
            except BaseException:
                private.destroy()
                public.destroy()
                raise
            self._remember(handle, algorithm, private)
            return spki

        return ProviderKey(handle, algorithm, self._recovering(self._once(identifier, make)))

    def public_key(self, handle: str) -> ProviderKey:
        """Read the public key from the token, whose private key must be there too."""
        identifier, algorithm = parse_handle(handle)

        def read() -> bytes:
            self._private(handle)
            return spki_of(self._find(identifier, ObjectClass.PUBLIC_KEY), algorithm)

        return ProviderKey(handle, algorithm, self._seeing(read))

    def sign(self, handle: str, algorithm: Algorithm, payloads: Sequence[bytes]) -> list[bytes]:
        """Sign each payload."""

        def sign() -> list[bytes]:
            key_algorithm, private = self._objects.get(handle) or self._private(handle)
            require_algorithm(key_algorithm, algorithm)
            one = _SIGNERS[algorithm.family]
            return [one(private, payload) for payload in payloads]

        return self._seeing(sign)

    def destroy(self, handle: str) -> None:
        """Remove both objects."""
        identifier, _ = parse_handle(handle)
        self._objects.pop(handle, None)

        def remove() -> None:
            if not self._remove(identifier):
                raise KeyHandleError("the token has no such key")

        with suppress(KeyHandleError):
            self._seeing(remove)

    def evidence(self, handle: str) -> KeyEvidence:
        """Read the private key's attributes back."""
        return self._seeing(lambda: evidence_of(self._private(handle)[1], self.info.protection_level))

    def begin_import(self, label: str, algorithm: Algorithm) -> WrappingKey:
        """Make a wrapping key pair in the token, and try what it unwraps with it."""
        return self._recovering(lambda: pkcs11_import.offer(self._session, label, algorithm, self.info.wrap_methods))

    def finish_import(
        self, state: bytes, label: str, algorithm: Algorithm, method: WrapMethod, wrapped: bytes, public_key: bytes
    ) -> ProviderKey:
        """Unwrap a private key in the token; the same one twice gives one key."""
        identifier = pkcs11_import.identifier_of(state, method, wrapped, public_key)
        handle = handle_of(identifier, algorithm)

        def unwrap() -> bytes:
            wrapping = pkcs11_import.wrapping_key(self._session, state)
            try:
                # Asked for again, after an answer that was lost.
                self._private(handle)
                return spki_of(self._find(identifier, ObjectClass.PUBLIC_KEY), algorithm)
            except KeyHandleError:
                self._remove(identifier)
            names = {"id": identifier, "label": label, "store": True}
            private, spki = pkcs11_import.finish(wrapping, names, algorithm, method, wrapped, public_key)
            self._remember(handle, algorithm, private)
            return spki

        return ProviderKey(handle, algorithm, self._recovering(unwrap))

    def end_import(self, state: bytes) -> None:
        """Remove the wrapping key pair."""
        self._recovering(lambda: pkcs11_import.end(self._session, state))

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
        token = find_token(self._library, self._uri)
        require_tries(token.flags, relogin=relogin)
        tried = self._latch.require_open()
        pin = pin_of(self._uri)
        try:
            self._session = token.open(rw=True, user_pin=pin, attribute_mapper=mapper())
        except exceptions.UserAlreadyLoggedIn:
            # The login belongs to the process, not to the session that was lost.
            self._session = token.open(rw=True, attribute_mapper=mapper())
        except (exceptions.PinIncorrect, exceptions.PinInvalid, exceptions.PinLenRange):
            self._latch.shut(tried)
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
        except (ProviderConfigurationError, TokenMissingError) as error:
            self.close()
            if isinstance(error, PinRefusedError):
                raise
            raise BackendLostError("the token is not there", next_step="put the token back") from None

    def _once(self, identifier: bytes, make: Callable[[], _T]) -> Callable[[], _T]:
        """Make key objects; when it is done again, remove those of the first time, which may be there unseen."""
        begun = False

        def again() -> _T:
            nonlocal begun
            if begun:
                self._remove(identifier)
            begun = True
            return make()

        return again

    def _remove(self, identifier: bytes) -> bool:
        """Remove both objects of a key; whether there was anything."""
        anything = False
        for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
            for found in list(self._session.get_objects({Attribute.CLASS: kind, Attribute.ID: identifier})):
                found.destroy()
                anything = True
        return anything

    def _seeing(self, action: Callable[[], _T]) -> _T:
        """Do it; where a key is missing and the module does not see what others make, start it anew and look again."""
        try:
            return self._recovering(action)
        except KeyHandleError:
            if not self._quirks.blind:
                raise
        self.close()
        try:
            self._library.reinitialize()
        except exceptions.PKCS11Error:
            raise BackendLostError("the token does not answer", next_step="look at the token") from None
        return self._recovering(action)

    def _private(self, handle: str) -> tuple[Algorithm, Any]:
        identifier, algorithm = parse_handle(handle)
        private = self._find(identifier, ObjectClass.PRIVATE_KEY)
        if not isinstance(private, SignMixin):
            raise KeyHandleError("the token's key is not one to sign with")
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


def _translated(error: exceptions.PKCS11Error) -> Exception:
    if isinstance(error, (exceptions.MechanismInvalid, exceptions.KeySizeRange, exceptions.DomainParamsInvalid)):
        return AlgorithmNotSupportedError(f"the token refuses the algorithm ({type(error).__name__})")
    return ProviderUnavailableError(f"the token refused ({type(error).__name__})")


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
