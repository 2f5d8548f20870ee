"""What can go wrong in a key provider.

Every error carries a stable ``reason`` (upper snake case, sent to callers in ``google.rpc.ErrorInfo``) and a
``next_step`` for a person. Texts never hold a PIN, a passphrase, key material or a path that came from a caller.
"""

from __future__ import annotations


class ProviderError(Exception):
    """Base of all provider errors.

    Attributes:
        reason: stable, upper snake case.
        next_step: what a person can do about it; may be empty.
    """

    reason = "PROVIDER_ERROR"

    def __init__(self, message: str, *, next_step: str = "") -> None:
        super().__init__(message)
        self.next_step = next_step


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
