"""The command serves until it is told to stop, and checks its settings without serving."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import typer
from typer.testing import CliRunner

from sealkeeper.client.cli.gate_webhook import webhook_command
from sealkeeper.client.errors import ConfigurationError
from tests.client.admission import reviews
from tests.client.admission.deciding import ScriptedDecider
from tests.client.admission.tls_calls import Authority, caller

SETTINGS = """
listen = "127.0.0.1:0"
metrics_listen = "127.0.0.1:0"
drain = 0
[tls]
certificate = "tls.crt"
key = "tls.key"
[[namespaces]]
names = ["shop-*"]
gate = "tenants/acme/gates/production"
"""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    Authority.make(tmp_path).serve()
    path = tmp_path / "webhook.toml"
    path.write_text(SETTINGS)
    return path


def validated(address: str, context: ssl.SSLContext) -> bool:
    data = reviews.as_bytes(reviews.create_pod())
    request = Request(f"https://{address}/validate", data, {"Content-Type": "application/json"})
    with urlopen(request, timeout=10, context=context) as response:
        allowed: bool = json.loads(response.read())["response"]["allowed"]
    return allowed


def test_it_serves_until_it_is_told_to_stop(settings: Path) -> None:
    command = [sys.executable, "-m", "tests.client.admission.served_command", str(settings)]
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=root, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            addresses = json.loads(line)["serving"]
            assert validated(addresses["webhook"], caller(settings.parent / "ca.crt"))
            with urlopen(f"http://{addresses['metrics']}/metrics", timeout=10) as response:
                assert b"sealkeeper_gate_admissions_total" in response.read()
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()


def command() -> typer.Typer:
    app = typer.Typer()
    app.command()(webhook_command(lambda _settings: ScriptedDecider()))
    return app


def test_settings_are_checked_without_serving(settings: Path) -> None:
    result = CliRunner().invoke(command(), [str(settings), "--check"])
    assert (result.exit_code, "1 rules for namespaces" in result.output) == (0, True)


@pytest.mark.parametrize("wrong", ["no_such_setting = 1\n", "[tls]\ncertificate = 'none'\nkey = 'none'\n"])
def test_settings_that_are_wrong_are_refused_by_the_check(settings: Path, wrong: str) -> None:
    settings.write_text(wrong + SETTINGS if "tls" not in wrong else SETTINGS.replace("tls.crt", "none.crt"))
    result = CliRunner().invoke(command(), [str(settings), "--check"])
    assert isinstance(result.exception, ConfigurationError)
