"""Proposals of a tenant, page by page, and their ids for the shell that completes them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from sealkeeper.client.cli.options import Options
from sealkeeper.client.errors import ClientError

if TYPE_CHECKING:
    from sealkeeper.client.client import Client
    from sealkeeper.v1 import approval_pb2

_COMPLETION_TIMEOUT = 2.0


def proposals(client: Client, parent: str, *, only_open: bool) -> Iterator[approval_pb2.Proposal]:
    """A tenant's proposals, newest first."""
    from sealkeeper.client.approval_operations import list_proposals

    for page in client.pages(partial(list_proposals, parent, only_open=only_open)):
        yield from page.proposals


def open_ids(incomplete: str) -> list[str]:
    """Completions of a proposal; none where the gateway cannot be asked."""
    options = Options(timeout=_COMPLETION_TIMEOUT)
    try:
        with options.client() as client:
            names = [one.name.rpartition("/")[2] for one in proposals(client, options.parent(), only_open=True)]
    except ClientError:
        return []
    return [one for one in names if one.startswith(incomplete)]


ProposalId: TypeAlias = Annotated[
    str, typer.Argument(metavar="ID", help="As list shows it, or its full name.", autocompletion=open_ids)
]
