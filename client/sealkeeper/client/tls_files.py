"""The client's certificate, its key and the CA, looked at before they are used.

gRPC says of most mistakes in them only that the gateway does not answer.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sealkeeper.client.errors import ConfigurationError, FieldViolation

if TYPE_CHECKING:
    from cryptography import x509

_MAX_FILE = 1024 * 1024
_ANEW = "have it issued anew, or name another file"


def read_pem(path: Path | None, name: str) -> bytes:
    """A PEM file's bytes.

    Args:
        path: of the file.
        name: the setting that named it: ``ca``, ``certificate`` or ``key``.

    Raises:
        ConfigurationError: no file is named, or it cannot be read, or it is none.
    """
    if path is None:
        raise _error(name, "no file is named")
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise _error(name, f"cannot read {path}: {error.strerror}") from None
    if b"-----BEGIN" not in data or len(data) > _MAX_FILE:
        raise _error(name, f"{path} is not a PEM file")
    return data


def certificates(path: Path | None, name: str) -> list[x509.Certificate]:
    """The certificates in a PEM file, at least one.

    Raises:
        ConfigurationError: the file cannot be read, or holds something else.
    """
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(read_pem(path, name))
    except ValueError:
        raise _error(name, f"{path} holds no certificate that can be read") from None


def check_identity(certificate: Path | None, key: Path | None, now: datetime) -> None:
    """Check that the certificate is valid now, and that the key is its.

    Raises:
        ConfigurationError: naming ``certificate`` or ``key``.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    found = certificates(certificate, "certificate")[0]
    try:
        private = serialization.load_pem_private_key(read_pem(key, "key"), password=None)
    except TypeError:
        raise _error("key", f"{key} is encrypted", "decrypt it, and let only its owner read it") from None
    except (ValueError, UnsupportedAlgorithm):
        raise _error("key", f"{key} holds no private key that can be read") from None
    if private.public_key() != found.public_key():
        raise _error("key", f"{key} is not the key of {certificate}")
    if now < found.not_valid_before_utc:
        raise _error("certificate", f"{certificate} is not valid before {found.not_valid_before_utc}", "set the clock")
    if now > found.not_valid_after_utc:
        raise _error("certificate", f"{certificate} expired at {found.not_valid_after_utc}")


def _error(name: str, problem: str, next_step: str = _ANEW) -> ConfigurationError:
    return ConfigurationError(f"{name}: {problem}", next_step=next_step, violations=[FieldViolation(name, problem)])
