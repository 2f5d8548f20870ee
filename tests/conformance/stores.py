"""The stores that the suite runs over, one row each: a function that sets one up and names its URI."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "sesame-4711"


def software(directory: Path) -> str:
    """A folder of sealed key files."""
    seal = directory / "seal"
    seal.write_text("5a" * 32)
    seal.chmod(0o600)
    return f"software://{directory}/keys?sealing-key-source=file:{seal}"


def softhsm(directory: Path) -> str:
    """A SoftHSM2 token of its own. Its module finds its settings by an environment variable, as workers do."""
    if not SOFTHSM.exists():
        pytest.skip(f"{SOFTHSM} is missing (Debian: apt-get install softhsm2)")
    (directory / "tokens").mkdir()
    settings = directory / "softhsm2.conf"
    settings.write_text(f"directories.tokendir = {directory}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
    os.environ["SOFTHSM2_CONF"] = str(settings)
    command = ["softhsm2-util", "--init-token", "--free", "--label", "acme", "--pin", PIN, "--so-pin", "so-4711"]
    subprocess.run(command, check=True, capture_output=True)
    pin = directory / "pin"
    pin.write_text(f"{PIN}\n")
    pin.chmod(0o600)
    return f"pkcs11:token=acme?module-path={SOFTHSM}&pin-source=file:{pin}"


STORES: dict[str, Callable[[Path], str]] = {"software": software, "softhsm": softhsm}
