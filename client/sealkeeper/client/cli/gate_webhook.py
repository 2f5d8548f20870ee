"""``sealkeeper gate webhook``: serve Kubernetes' admission webhook, and Gatekeeper's external data."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sealkeeper.client.cli.output import print_text
from sealkeeper.client.errors import ConfigurationError

if TYPE_CHECKING:
    from sealkeeper.client.admission.settings import WebhookSettings
    from sealkeeper.client.admission.webhook import DeciderFactory

INSTALL = "pip install 'sealkeeper[gate]'"
_LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def webhook_command(make_decider: DeciderFactory) -> Callable[..., None]:
    """The command, for ``typer.Typer.command``.

    Args:
        make_decider: makes what decides, of the settings; called on the event loop.
    """

    def serve_webhook(
        settings: Annotated[Path, typer.Argument(help="TOML file; see docs/gates/kubernetes.md.")],
        check: Annotated[bool, typer.Option("--check", help="Check the settings and the TLS files, and end.")] = False,
    ) -> None:
        """Serve the admission webhook until told to stop."""
        if find_spec("aiohttp") is None:
            raise ConfigurationError("the webhook needs packages that are not installed", next_step=INSTALL)
        from sealkeeper.client.admission.settings import read_settings
        from sealkeeper.client.admission.tls_context import ReloadedTls

        found = read_settings(settings)
        if check:
            ReloadedTls(found.tls)
            print_text(f"{settings}: {len(found.rules)} rules for namespaces, {len(found.external_data)} external data")
            return
        logging.basicConfig(level=logging.INFO, format=_LINE, stream=sys.stderr)
        import asyncio

        asyncio.run(_serve(found, make_decider))

    return serve_webhook


async def _serve(settings: WebhookSettings, make_decider: DeciderFactory) -> None:
    import asyncio
    import signal

    from sealkeeper.client.admission.webhook import serve
    from sealkeeper.client.cli.output import flush_output

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    def tell(addresses: dict[str, object]) -> None:
        print_text(json.dumps(addresses))
        flush_output()

    await serve(settings, make_decider, stop, tell)
