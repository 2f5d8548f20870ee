"""Key providers: one small interface over an organisation's HSMs and KMSs.

Start with ``provider.py``, the interface; ``registry.py`` says which store goes by which URI scheme.
"""

from sealkeeper.hsm.algorithms import ALGORITHMS, Algorithm, algorithm_named
from sealkeeper.hsm.errors import (
    AlgorithmNotSupportedError,
    KeyHandleError,
    PayloadError,
    PinRefusedError,
    ProviderConfigurationError,
    ProviderError,
    ProviderUnavailableError,
    ProviderUriError,
    SelfCheckError,
)
from sealkeeper.hsm.provider import KeyDestroyer, KeyProvider, ProtectionLevel, ProviderInfo, ProviderKey
from sealkeeper.hsm.worker_provider import open_provider

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "AlgorithmNotSupportedError",
    "KeyDestroyer",
    "KeyHandleError",
    "KeyProvider",
    "PayloadError",
    "PinRefusedError",
    "ProtectionLevel",
    "ProviderConfigurationError",
    "ProviderError",
    "ProviderInfo",
    "ProviderKey",
    "ProviderUnavailableError",
    "ProviderUriError",
    "SelfCheckError",
    "algorithm_named",
    "open_provider",
]
