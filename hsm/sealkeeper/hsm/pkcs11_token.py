"""Finding a PKCS#11 token, what it is and can do, and whether its PIN may be tried."""

from __future__ import annotations

from typing import Any

from pkcs11 import Mechanism, TokenFlag, exceptions
from pkcs11.constants import MechanismFlag

from sealkeeper.hsm.algorithms import ALGORITHMS, Algorithm
from sealkeeper.hsm.errors import PinRefusedError, ProviderConfigurationError, ProviderUnavailableError
from sealkeeper.hsm.secret_file import read_secret
from sealkeeper.hsm.uri import Pkcs11Uri

_NAMED = 8
_KEY_BITS = {"secp256r1": 256, "secp384r1": 384, "secp521r1": 521}
_SIGNS = {
    "ecdsa": (Mechanism.ECDSA, Mechanism.EC_KEY_PAIR_GEN),
    "ed25519": (Mechanism.EDDSA, Mechanism.EC_EDWARDS_KEY_PAIR_GEN),
    "rsa-pkcs1v15": (Mechanism.RSA_PKCS, Mechanism.RSA_PKCS_KEY_PAIR_GEN),
    "rsa-pss": (Mechanism.RSA_PKCS_PSS, Mechanism.RSA_PKCS_KEY_PAIR_GEN),
}


class TokenMissingError(ProviderUnavailableError):
    """No token fits. It may have been taken out and come back: others can be signed with meanwhile."""


def find_token(library: Any, uri: Pkcs11Uri) -> Any:
    """The one token that a URI names.

    Raises:
        TokenMissingError: none fits.
        ProviderConfigurationError: several do.
    """
    found: list[Any] = []
    others: list[Any] = []
    for slot in library.get_slots(token_present=True):
        if uri.slot_id is not None and slot.slot_id != uri.slot_id:
            continue
        try:
            token = slot.get_token()
        except (exceptions.TokenNotPresent, exceptions.TokenNotRecognised):
            continue
        (found if _fits(token, uri) else others).append(token)
    if len(found) > 1:
        raise ProviderConfigurationError(
            f"{len(found)} tokens fit the pkcs11: URI", next_step="name the token with token=, serial= or slot-id="
        )
    if not found:
        names = [repr(token.label.strip()) for token in others if token.flags & TokenFlag.TOKEN_INITIALIZED]
        there = f"there are {', '.join(names[:_NAMED])}" if names else "there is none that was initialised"
        raise TokenMissingError(
            f"no token fits the pkcs11: URI; {there}",
            next_step="name the token with token=, serial= or slot-id=; if it is not there, put it in or make it, as "
            "docs/providers/pkcs11.md has it, and check the settings that the provider's environment names",
        )
    return found[0]


def pin_of(uri: Pkcs11Uri) -> str:
    """The PIN in its file.

    Raises:
        ProviderConfigurationError: it cannot be read.
    """
    try:
        return read_secret(uri.pin_source, "PIN").decode("utf-8")
    except UnicodeDecodeError:
        raise ProviderConfigurationError(
            "the PIN file is not UTF-8", next_step=f"put nothing but the PIN into {uri.pin_source}"
        ) from None


def require_tries(flags: TokenFlag, *, relogin: bool) -> None:
    """Refuse to try a PIN where one more mistake would lock the token, or where others make mistakes.

    Raises:
        PinRefusedError: it must not be tried.
    """
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


def describe(token: Any) -> str:
    """What a person recognises a token by."""
    version = ".".join(map(str, token.firmware_version))
    return f"{token.manufacturer_id.strip()} {token.model.strip()} {version}, token {token.label.strip()!r}"


def offered(token: Any) -> frozenset[str]:
    """Names of the algorithms that a token says it can make keys for and sign with."""
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
