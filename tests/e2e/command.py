"""The command line, run as people and scripts run it: a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.e2e.running import Running

COMMAND = [sys.executable, "-m", "sealkeeper.client.cli"]


def settings(gateway: Running, role: str, folder: Path) -> Path:
    """The client's file of a role, written to the folder."""
    path, made = folder / f"{role}.toml", gateway.directory
    path.write_text(
        f'endpoint = "{gateway.addresses["grpc"]}"\nca = "{made}/tls/ca.pem"\ntenant = "acme"\n'
        f'certificate = "{made}/clients/{role}/cert.pem"\nkey = "{made}/clients/{role}/key.pem"\n'
    )
    return path


def run(gateway: Running, role: str, *arguments: str, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command as a role; ``options`` are those of ``subprocess.run``."""
    return run_alone("--config", str(settings(gateway, role, cwd)), *arguments, cwd=cwd, **options)


def run_alone(*arguments: str, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command that is told of no gateway."""
    command: list[str] = [*COMMAND, *arguments]
    if "stdout" not in options:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run(command, text=True, check=False, timeout=60, cwd=cwd, **options)
