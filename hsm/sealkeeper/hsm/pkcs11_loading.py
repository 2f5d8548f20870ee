"""Why a PKCS#11 module does not load or start, and what a person can do about it."""

from __future__ import annotations

import sys
from pathlib import Path

from pkcs11 import exceptions

from sealkeeper.hsm.errors import ProviderConfigurationError

_STARTING = (
    (
        "tpm2",
        "see that the TPM's resource manager and D-Bus run (systemctl status tpm2-abrmd), that TPM2_PKCS11_TCTI and "
        "TPM2_PKCS11_STORE are in the provider's environment, and that the gateway's user is in group tss",
    ),
    ("softhsm", "name its settings file by SOFTHSM2_CONF in the provider's environment, and let the gateway read it"),
    (
        "opencryptoki",
        "see that its daemon runs (systemctl status pkcsslotd), and that the gateway's user is in its group",
    ),
)
"""By a part of the library's name: what such a module needs in order to start."""
_OTHERS = "set in the provider's environment what the vendor's library needs, and see that its daemon runs"
_ELF = b"\x7fELF"
# Class (32 or 64 bits), byte order, and the machine (ELF header, gABI chapter 4).
_KIND = (slice(4, 6), slice(18, 20))


def cannot_load(path: Path, error: Exception) -> ProviderConfigurationError:
    """The error for a module that the operating system, or the module itself, refused to start.

    Args:
        path: of the library.
        error: python-pkcs11's.
    """
    # The class itself, none of its own: the dynamic loader refused, or there is no C_GetFunctionList.
    if isinstance(error, exceptions.PKCS11Error) and type(error) is not exceptions.PKCS11Error:
        name = path.name.lower()
        next_step = next((step for part, step in _STARTING if part in name), _OTHERS)
        return ProviderConfigurationError(
            f"the PKCS#11 module cannot be loaded: it does not start ({type(error).__name__})", next_step=next_step
        )
    why, next_step = _why(path)
    return ProviderConfigurationError(f"the PKCS#11 module cannot be loaded: {why}", next_step=next_step)


def _why(path: Path) -> tuple[str, str]:
    try:
        kind = _head(path)
    except FileNotFoundError:
        return "there is no such file", f"install the vendor's library, or correct module-path: {path} is missing"
    except OSError as error:
        return f"{error.strerror}", f"check that {path} is the library, and let the gateway's user read it"
    if not kind.startswith(_ELF):
        return "it is not a shared library", f"name the vendor's .so itself with module-path, not {path}"
    ours = _head(Path(sys.executable))
    if [kind[part] for part in _KIND] != [ours[part] for part in _KIND]:
        return "it is for another kind of machine", f"install the library for this one: file {path}"
    return "a library that it needs is missing, or it is no PKCS#11 module", f"see which one is missing: ldd {path}"


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(20)
