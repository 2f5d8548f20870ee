"""What can go wrong in a key provider.

Every error carries a stable ``reason`` (upper snake case, sent to callers in ``google.rpc.ErrorInfo``) and a
``next_step`` for a person. Texts never hold a PIN, a passphrase, key material or a path that came from a caller.
"""

from __future__ import annotations

from datetime import timedelta


class ProviderError(Exception):
    """Base of all provider errors.

    Attributes:
        reason: stable, upper snake case.
        next_step: what a person can do about it; may be empty.
        retry_after: when the store says that a retry makes sense; ``None`` where it does not say.
    """

    reason = "PROVIDER_ERROR"

    def __init__(self, message: str, *, next_step: str = "", retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.next_step = next_step
        self.retry_after = retry_after


class ProviderUriError(ProviderError):
    """The provider URI is malformed, or its scheme is not known."""

    reason = "PROVIDER_URI_INVALID"


class ProviderConfigurationError(ProviderError):
    """The provider cannot be opened as configured: library missing, no such token, secret file unreadable."""

    reason = "PROVIDER_MISCONFIGURED"


class PinRefusedError(ProviderConfigurationError):
    """The token refused the PIN, or is so near to locking that it was not tried. Never retried by itself."""

    reason = "PIN_REFUSED"


class ProviderUnavailableError(ProviderError):
    """The provider cannot answer now: worker died, token removed, store out of reach. A retry may succeed."""

    reason = "PROVIDER_UNAVAILABLE"


class ProviderSealedError(ProviderUnavailableError):
    """The store is there and locked: a sealed Vault, a vault that is being recovered. People must open it."""

    reason = "PROVIDER_SEALED"


class ProviderThrottledError(ProviderUnavailableError):
    """The store takes no more requests at this rate."""

    reason = "PROVIDER_THROTTLED"


class ProviderPermissionError(ProviderUnavailableError):
    """The store knows the gateway and does not let it: its credentials expired, or its policy is too narrow.

    Unavailable rather than misconfigured: it was right once and can become right again without a restart.
    """

    reason = "PROVIDER_PERMISSION_DENIED"


class AlgorithmNotSupportedError(ProviderError):
    """The provider, or this token, cannot do the algorithm."""

    reason = "ALGORITHM_NOT_SUPPORTED"


class KeyHandleError(ProviderError):
    """The provider holds no key with this handle."""

    reason = "PROVIDER_KEY_NOT_FOUND"


class PayloadError(ProviderError):
    """What is to be signed does not fit the algorithm: wrong digest length, message too long."""

    reason = "PAYLOAD_INVALID"


class SelfCheckError(ProviderError):
    """The provider answered with a signature that does not verify. It was withheld."""

    reason = "SIGNATURE_SELF_CHECK_FAILED"


class ImportNotSupportedError(ProviderError):
    """The store takes no private keys from outside, or none of this kind."""

    reason = "IMPORT_NOT_SUPPORTED"


class WrappedKeyError(ProviderError):
    """The wrapped private key cannot be unwrapped by the store, or is not a key for the algorithm."""

    reason = "WRAPPED_KEY_REFUSED"


class PublicKeyMismatchError(WrappedKeyError):
    """The private key is not the one of the public key that was named. It was destroyed."""

    reason = "PUBLIC_KEY_MISMATCH"


class ImportExpiredError(ProviderError):
    """The store has forgotten the wrapping key."""

    reason = "IMPORT_EXPIRED"


class WeakKeyError(ProviderError):
    """The key can be broken by others: it was made by a bad library, or by a bad hand."""

    reason = "WEAK_KEY"
