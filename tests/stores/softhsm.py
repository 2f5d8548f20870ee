"""A SoftHSM2 token (Debian: softhsm2)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "sesame-4711"


@contextmanager
def softhsm(directory: Path) -> Iterator[str]:
    """The URI of a token of its own. Its module finds its settings by an environment variable, as workers do."""
    if not SOFTHSM.exists():
        pytest.skip(f"{SOFTHSM} is missing (Debian: apt-get install softhsm2)")
    (directory / "tokens").mkdir()
    settings = directory / "softhsm2.conf"
    settings.write_text(f"directories.tokendir = {directory}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
    pin = directory / "pin"
    pin.write_text(f"{PIN}\n")
    pin.chmod(0o600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(settings))
        command = ["softhsm2-util", "--init-token", "--free", "--label", "acme", "--pin", PIN, "--so-pin", "so-4711"]
        subprocess.run(command, check=True, capture_output=True)
        yield f"pkcs11:token=acme?module-path={SOFTHSM}&pin-source=file:{pin}"
