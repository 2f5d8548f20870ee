"""The command line, run as people and scripts run it: a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from sealkeeper.client import cli
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
    command = [*COMMAND, "--config", str(settings(gateway, role, cwd)), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=cwd, **options)


def run_here(*arguments: str) -> int:
    """Run a command in this process, which is faster; returns its exit code."""
    return cli.run(list(arguments))
