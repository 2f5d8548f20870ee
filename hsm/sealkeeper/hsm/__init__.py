"""Key providers: one small interface over an organisation's HSMs and KMSs.

Start with ``provider.py``, the interface; ``registry.py`` says which store goes by which URI scheme.
"""

from sealkeeper.hsm.algorithms import ALGORITHMS, Algorithm, algorithm_named
from sealkeeper.hsm.errors import (
    AlgorithmNotSupportedError,
    ImportExpiredError,
    ImportNotSupportedError,
    KeyHandleError,
    PayloadError,
    PinRefusedError,
    ProviderConfigurationError,
    ProviderError,
    ProviderPermissionError,
    ProviderSealedError,
    ProviderThrottledError,
    ProviderUnavailableError,
    ProviderUriError,
    SelfCheckError,
    WeakKeyError,
    WrappedKeyError,
)
from sealkeeper.hsm.provider import (
    Attestation,
    KeyDestroyer,
    KeyEvidence,
    KeyImporter,
    KeyProvider,
    KeyWitness,
    Origin,
    ProtectionLevel,
    ProviderInfo,
    ProviderKey,
    WrapMethod,
    WrappingKey,
)
from sealkeeper.hsm.worker_provider import open_provider

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "AlgorithmNotSupportedError",
    "Attestation",
    "ImportExpiredError",
    "ImportNotSupportedError",
    "KeyDestroyer",
    "KeyEvidence",
    "KeyHandleError",
    "KeyImporter",
    "KeyProvider",
    "KeyWitness",
    "Origin",
    "PayloadError",
    "PinRefusedError",
    "ProtectionLevel",
    "ProviderConfigurationError",
    "ProviderError",
    "ProviderInfo",
    "ProviderKey",
    "ProviderPermissionError",
    "ProviderSealedError",
    "ProviderThrottledError",
    "ProviderUnavailableError",
    "ProviderUriError",
    "SelfCheckError",
    "WeakKeyError",
    "WrapMethod",
    "WrappedKeyError",
    "WrappingKey",
    "algorithm_named",
    "open_provider",
]
