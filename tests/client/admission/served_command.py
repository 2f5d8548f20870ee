"""``sealkeeper gate webhook`` with a decider that allows everything, to be run as a process of its own."""

from __future__ import annotations

import sys

import typer

from sealkeeper.client.cli.gate_webhook import webhook_command
from tests.client.admission.deciding import ScriptedDecider

if __name__ == "__main__":
    app = typer.Typer()
    app.command()(webhook_command(lambda _settings: ScriptedDecider()))
    sys.exit(app())
