"""``sealkeeper serve`` as a process: what it writes on standard error, and what it says where it cannot start."""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sealkeeper.server.issuing import renew_server
from tests.e2e.running import Running


@pytest.fixture
def gateway(tmp_path: Path) -> Running:
    return Running.make(tmp_path / "gateway")


def serve(gateway: Running, limit: int = resource.RLIM_INFINITY) -> subprocess.CompletedProcess[str]:
    """Run it where it cannot start; ``limit`` is that of a file's size, in bytes."""
    return subprocess.run(
        [sys.executable, "-m", "sealkeeper.client.cli", "serve", str(gateway.directory)],
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_certificate_that_is_none_is_refused_without_lines_of_grpc_among_ours(gateway: Running) -> None:
    path = gateway.directory / "tls" / "server.pem"
    path.write_text("-----BEGIN CERTIFICATE-----\nzzz\n-----END CERTIFICATE-----\n")
    done = serve(gateway)
    assert done.returncode == 2
    assert not re.search(r"^[EWI]\d{4} ", done.stderr, re.MULTILINE)
    assert "next:" in done.stderr


def test_a_running_gateway_writes_json_lines_only_whatever_strangers_send(gateway: Running) -> None:
    with gateway.running():
        host, _, port = gateway.addresses["grpc"].rpartition(":")
        for words in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b""):
            with socket.create_connection((host, int(port)), timeout=10) as stranger:
                stranger.sendall(words)
                stranger.shutdown(socket.SHUT_WR)
                while stranger.recv(4096):
                    pass
        gateway.create_key("release")
    messages = [json.loads(line)["message"] for line in gateway.log_lines().splitlines()]
    assert (messages[0], messages[-1]) == ("serving", "stopped")


def test_a_disk_that_takes_no_more_is_named_with_what_to_do(gateway: Running) -> None:
    done = serve(gateway, limit=100_000)
    assert done.returncode == 2, done.stderr
    assert f"{gateway.directory}/state" in done.stderr
    assert "File too large" in done.stderr
    assert "next:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_certificate_that_has_expired_or_whose_key_is_another_s_is_named(gateway: Running) -> None:
    tls = gateway.directory / "tls"
    key = tls / "server.key"
    right = key.read_bytes()
    key.write_bytes((tls / "ca.key").read_bytes())
    done = serve(gateway)
    assert (done.returncode, "gateway.tls.key" in done.stderr) == (2, True)
    key.write_bytes(right)
    renew_server(gateway.directory, [], timedelta(days=1), datetime.now(UTC) - timedelta(days=2))
    done = serve(gateway)
    assert (done.returncode, "gateway.tls.certificate" in done.stderr) == (2, True)
