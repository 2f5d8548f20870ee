"""What the server adds to the command line, where it is installed; what to install, where it is not."""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec
from typing import Any

import typer

from sealkeeper.client.errors import ConfigurationError

INSTALL = "pip install 'sealkeeper[server]'"
_SUMMARIES = {
    "init": "Make a gateway's folder.",
    "serve": "Run a gateway.",
    "issue": "Issue certificates to callers, or renew the gateway's.",
}
# Of the extra `server`: without them the server's own modules are there, and cannot be run.
_NEEDED = (
    *("aiohttp", "alembic", "asn1crypto", "cedarpy", "jwt", "msgspec", "prometheus_client", "pydantic_settings"),
    "sqlalchemy",
)
_TAKES_ALL = {"ignore_unknown_options": True, "allow_extra_args": True}


def server_is_installed() -> bool:
    """Whether everything is there that the server's commands import."""
    return all(find_spec(name) is not None for name in _NEEDED)


def server_command(name: str, meant: Collection[str]) -> Any:
    """One of the server's commands, for the command line.

    Args:
        name: ``init`` or ``serve``.
        meant: words of the command line: a command that is not among them is named in the help only, not imported.
    """
    made = typer.Typer(add_completion=False, rich_markup_mode=None)
    function = _load(name) if name in meant and server_is_installed() else None
    if function is not None:
        made.command(name)(function)
    else:
        made.command(name, help=_SUMMARIES[name], context_settings=_TAKES_ALL)(_missing(name))
    return typer.main.get_command(made)


def server_command_names() -> tuple[str, ...]:
    """What there can be."""
    return tuple(_SUMMARIES)


def _load(name: str) -> Any:
    from importlib.metadata import entry_points

    return next((one.load() for one in entry_points(group="sealkeeper.commands", name=name)), None)


def _missing(name: str) -> Any:
    def missing(context: typer.Context) -> None:
        del context  # it holds the arguments, of which none is looked at
        raise ConfigurationError(f"sealkeeper {name} needs the server", next_step=INSTALL)

    return missing
