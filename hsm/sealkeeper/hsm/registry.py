"""Which scheme is which store: one table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sealkeeper.hsm.backend import Backend
from sealkeeper.hsm.errors import ProviderConfigurationError, ProviderUriError
from sealkeeper.hsm.uri import parse_pkcs11_uri, scheme_of


def _software(uri: str) -> Backend:
    from sealkeeper.hsm.software import SoftwareBackend

    return SoftwareBackend(uri)


def _pkcs11(uri: str) -> Backend:
    try:
        from sealkeeper.hsm.pkcs11 import Pkcs11Backend
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "pkcs11":
            raise
        raise ProviderConfigurationError(
            "python-pkcs11 is not installed, which a pkcs11: URI needs", next_step="pip install 'sealkeeper[pkcs11]'"
        ) from None
    return Pkcs11Backend(uri)


# Imported when asked for: a store's libraries are loaded in its worker processes only.
BACKENDS: dict[str, Callable[[str], Backend]] = {"software": _software, "pkcs11": _pkcs11}


def require_known_scheme(uri: str) -> str:
    """The URI's scheme.

    Raises:
        ProviderUriError: no store goes by it.
    """
    scheme = scheme_of(uri)
    if scheme not in BACKENDS:
        raise ProviderUriError(f"{scheme}: is not a store known here; known are {', '.join(sorted(BACKENDS))}")
    return scheme


def open_backend(uri: str) -> Backend:
    """Open the store that a URI names, in this process. Blocks.

    Raises:
        ProviderError: it cannot be opened.
    """
    return BACKENDS[require_known_scheme(uri)](uri)


def pin_file_of(uri: str) -> Path | None:
    """The file with a PIN that locks the store when it is tried too often; ``None`` where there is none.

    Raises:
        ProviderUriError: the URI is malformed.
    """
    return parse_pkcs11_uri(uri).pin_source if require_known_scheme(uri) == "pkcs11" else None
