"""``sealkeeper approvals watch``: what becomes of proposals, as it happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sealkeeper.client.cli.options import Json, options_of
from sealkeeper.client.cli.output import flush_output, print_json, print_text, printable
from sealkeeper.client.cli.proposal_listing import open_ids
from sealkeeper.client.cli.proposal_page import OPEN, document, row
from sealkeeper.client.cli.resources import enum_name
from sealkeeper.client.errors import UnavailableError

if TYPE_CHECKING:
    from sealkeeper.v1 import approval_pb2


def watch(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="ID", help="One proposal, until it is closed [default: all open ones]", autocompletion=open_ids
        ),
    ] = None,
    json_output: Json = False,
) -> None:
    """Print proposals when they change; with --json a stream of documents, one a line (NDJSON)."""
    from sealkeeper.client.approval_operations import watch_proposals

    options = options_of(context)
    watched = options.parent() if name is None else options.proposal_name(name)
    with options.client() as client:
        for found in client.stream(watch_proposals(watched)):
            _print(found, as_json=json_output)
            state = enum_name(found, "state")
            if name is not None and state not in OPEN:
                raise typer.Exit(0 if state == "EXECUTED" else 1)
    raise UnavailableError("the gateway has ended the watch", next_step="watch again")


def _print(proposal: approval_pb2.Proposal, *, as_json: bool) -> None:
    if as_json:
        print_json(document(proposal))
    else:
        print_text("\t".join(printable(one) for one in (*row(proposal), proposal.outcome)))
    # Whoever reads this waits for it.
    flush_output()
