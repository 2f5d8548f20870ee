"""A TPM 2.0: swtpm behind its resource manager, with a token of tpm2-pkcs11.

swtpm talks to one client at a time and holds three objects; tpm2-abrmd lends it to several and swaps their objects in
and out. It is spoken to over D-Bus, so there is a bus of its own as well. Everything is on unix sockets in a folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

PIN = "sesame-4711"
PACKAGES = "swtpm libtpm2-pkcs11-1 libtpm2-pkcs11-tools tpm2-abrmd libtss2-tcti-tabrmd0 dbus"
_COMMANDS = ("swtpm", "tpm2-abrmd", "tpm2_ptool", "dbus-daemon", "dbus-send")
_BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={path}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""
_LONGEST_START = 20.0
# Whatever becomes of the tests, nothing outlives this: seconds.
_LONGEST_LIFE = "900"


def module_path() -> Path | None:
    """Where Debian has tpm2-pkcs11, on any of its architectures."""
    return next(iter(sorted(Path("/usr/lib").glob("*/pkcs11/libtpm2_pkcs11.so"))), None)


def _missing() -> list[str]:
    found = {name: _command(name) for name in _COMMANDS}
    missing = [name for name, path in found.items() if path is None]
    if not any(Path("/usr/lib").glob("*/libtss2-tcti-tabrmd.so.0")):
        missing.append("libtss2-tcti-tabrmd.so.0")
    if module_path() is None:
        missing.append("libtpm2_pkcs11.so")
    return missing


def _command(name: str) -> str | None:
    # tpm2-abrmd is in a folder that is not on everybody's path.
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


@contextmanager
def _running(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process, and its end by its own pid."""
    path = _command(command[0]) or command[0]
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["timeout", "--foreground", _LONGEST_LIFE, path, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(environment),
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], log: Path, ready: Callable[[], bool]) -> None:
    end = time.monotonic() + _LONGEST_START
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            pytest.fail(f"{log.stem} did not start: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.02)


def _owned(environment: Mapping[str, str]) -> bool:
    """Whether the resource manager is on the bus."""
    command = ["dbus-send", "--session", "--print-reply", "--dest=org.freedesktop.DBus", "/org/freedesktop/DBus"]
    command += ["org.freedesktop.DBus.NameHasOwner", "string:com.intel.tss2.Tabrmd"]
    found = subprocess.run(command, env=dict(environment), capture_output=True, text=True, timeout=10, check=False)
    return "boolean true" in found.stdout


@contextmanager
def tpm(directory: Path) -> Iterator[str]:
    """The URI of a token in a TPM of its own. The module finds both by environment variables, as workers do."""
    if missing := _missing():
        pytest.skip(f"{', '.join(missing)} missing (Debian: apt-get install {PACKAGES})")
    with ExitStack() as stack:
        # A unix socket's path is at most 107 characters, and folders of tests can be deep.
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tpm-")))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name in ("state", "store"):
            (directory / name).mkdir()
        patch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={sockets}/bus")
        patch.setenv("TPM2_PKCS11_STORE", f"{directory}/store")
        for name in ("TPM2_PKCS11_TCTI", "TPM2TOOLS_TCTI"):
            patch.setenv(name, "tabrmd:bus_type=session")

        (sockets / "bus.conf").write_text(_BUS.format(path=f"{sockets}/bus"))
        command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={directory}/state"]
        command += ["--server", f"type=unixio,path={sockets}/tpm", "--ctrl", f"type=unixio,path={sockets}/tpm.ctrl"]
        command += ["--flags", "not-need-init,startup-clear"]
        _start(stack, command, directory / "swtpm.log", (sockets / "tpm").exists)
        command = ["dbus-daemon", f"--config-file={sockets}/bus.conf", "--nofork"]
        _start(stack, command, directory / "dbus.log", (sockets / "bus").exists)
        command = ["tpm2-abrmd", "--session", "--allow-root", "--tcti", f"swtpm:path={sockets}/tpm"]
        _start(stack, command, directory / "abrmd.log", lambda: _owned(os.environ))
        yield _token(directory)


def _start(stack: ExitStack, command: Sequence[str], log: Path, ready: Callable[[], bool]) -> None:
    _wait(stack.enter_context(_running(command, log, os.environ)), log, ready)


def _token(directory: Path) -> str:
    pin = directory / "pin"
    pin.write_text(f"{PIN}\n")
    pin.chmod(0o600)
    made = ["addtoken", "--pid", "1", "--sopin", "so-4711", "--userpin", PIN, "--label", "acme"]
    for command in (["init"], made):
        subprocess.run(
            ["tpm2_ptool", *command, "--path", f"{directory}/store"], check=True, capture_output=True, timeout=60
        )
    return f"pkcs11:token=acme?module-path={module_path()}&pin-source=file:{pin}"
