"""``sealkeeper responsibilities``: what falls to whoever runs the gateway, and what to you."""

from __future__ import annotations

from typing import Annotated

import typer

from sealkeeper.client.cli.options import Json
from sealkeeper.client.cli.output import print_json, print_text


def _owners(incomplete: str) -> list[str]:
    from sealkeeper.client.responsibilities import OWNERS

    return [one for one in OWNERS if one.startswith(incomplete)]


def responsibilities(
    owner: Annotated[
        str | None,
        typer.Option(
            help="Only rows of provider (who runs the gateway), customer (its tenant) or shared.",
            autocompletion=_owners,
        ),
    ] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print a page in Markdown.")] = False,
    json_output: Json = False,
) -> None:
    """Show who is responsible for what, by controls of ISO/IEC 27002 and 27017; asks no gateway."""
    from sealkeeper.client.responsibilities import OWNERS, document, markdown
    from sealkeeper.client.responsibilities import responsibilities as all_rows

    if owner is not None and owner not in OWNERS:
        raise typer.BadParameter(f"must be one of {', '.join(OWNERS)}", param_hint="--owner")
    if as_markdown and json_output:
        raise typer.BadParameter("goes without --json", param_hint="--markdown")
    rows = [one for one in all_rows() if owner in (None, one.owner)]
    if json_output:
        print_json([document(one) for one in rows])
        return
    if as_markdown:
        print_text(markdown(rows).removesuffix("\n"))
        return
    for one in rows:
        controls = ", ".join([*one.iso27002, *(f"27017 {number}" for number in one.iso27017)])
        print_text(f"{one.area}: {one.control}  [{one.owner}; {controls}]")
        print_text(f"  provider: {one.provider}")
        print_text(f"  customer: {one.customer}")
        if one.where:
            print_text(f"  where: {'; '.join(one.where)}")
        if one.gap:
            print_text(f"  not yet: {one.gap}")
