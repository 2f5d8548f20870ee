"""Sigstore's public-good instance: its trusted root as the ``sigstore`` package has it embedded.

Only the file is read: nothing of the package is run.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from sealkeeper.verify.errors import TrustRootError

_FILE = "sigstore/_store/https%3A%2F%2Ftuf-repo-cdn.sigstore.dev/trusted_root.json"
_MAX_FILE = 16 * 1024 * 1024
_NEXT_STEP = "install it with: pip install 'sealkeeper[sigstore]'"


def read_public_good() -> bytes:
    """The embedded ``trusted_root.json``.

    Raises:
        TrustRootError: the package is not installed, or has no such file.
    """
    try:
        found = distribution("sigstore")
    except PackageNotFoundError:
        raise TrustRootError(f"the public-good trusted root comes with the package sigstore; {_NEXT_STEP}") from None
    try:
        with Path(str(found.locate_file(_FILE))).open("rb") as file:
            return file.read(_MAX_FILE + 1)
    except OSError:
        raise TrustRootError(
            f"the package sigstore {found.version} has no public-good trusted root where it is expected; {_NEXT_STEP}"
        ) from None
