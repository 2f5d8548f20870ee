"""Which scheme is which store: one table."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from sealkeeper.hsm.backend import Backend
from sealkeeper.hsm.errors import ProviderConfigurationError, ProviderUriError
from sealkeeper.hsm.uri import parse_pkcs11_uri, scheme_of


@dataclass(frozen=True, slots=True)
class _Store:
    """Where a store's backend is, and what it needs.

    Attributes:
        module: in which it is.
        backend: its class, made with the URI.
        library: package that may be missing.
        extra: of this distribution, which brings the library.
    """

    module: str
    backend: str
    library: str = ""
    extra: str = ""


_STORES = {
    "awskms": _Store("awskms", "AwsKmsBackend", "boto3", "aws"),
    "software": _Store("software", "SoftwareBackend"),
    "gcpkms": _Store("gcpkms", "GcpKmsBackend", "google.cloud.kms_v1", "gcp"),
    "azurekv": _Store("azurekv", "AzureKeyVaultBackend", "azure.keyvault.keys", "azure"),
    "pkcs11": _Store("pkcs11", "Pkcs11Backend", "pkcs11", "pkcs11"),
    "transit": _Store("transit", "TransitBackend", "hvac", "transit"),
}
"""By URI scheme."""


def require_known_scheme(uri: str) -> str:
    """The URI's scheme.

    Raises:
        ProviderUriError: no store goes by it.
    """
    scheme = scheme_of(uri)
    if scheme not in _STORES:
        raise ProviderUriError(f"{scheme}: is not a store known here; known are {', '.join(sorted(_STORES))}")
    return scheme


def open_backend(uri: str) -> Backend:
    """Open the store that a URI names, in this process. Blocks.

    Raises:
        ProviderError: it cannot be opened.
    """
    scheme = require_known_scheme(uri)
    store = _STORES[scheme]
    try:
        # Imported when asked for: a store's libraries are loaded in its worker processes only.
        module = import_module(f"sealkeeper.hsm.{store.module}")
    except ModuleNotFoundError as error:
        # ``google.cloud.kms`` is missing as ``google`` where nothing of Google's is installed.
        if not error.name or not f"{store.library}.".startswith(f"{error.name}."):
            raise
        raise ProviderConfigurationError(
            f"{store.library} is not installed, which a {scheme}: URI needs",
            next_step=f"pip install 'sealkeeper[{store.extra}]'",
        ) from None
    backend: Backend = getattr(module, store.backend)(uri)
    return backend


def pin_file_of(uri: str) -> Path | None:
    """The file with a PIN that locks the store when it is tried too often; ``None`` where there is none.

    Raises:
        ProviderUriError: the URI is malformed.
    """
    return parse_pkcs11_uri(uri).pin_source if require_known_scheme(uri) == "pkcs11" else None
