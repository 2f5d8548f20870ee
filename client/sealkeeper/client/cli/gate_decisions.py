"""``sealkeeper gate decisions``: what gates have decided."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

import typer

from sealkeeper.client.cli.gate_page import decision_document, print_decision
from sealkeeper.client.cli.gate_policy import Gate, gate_name
from sealkeeper.client.cli.options import EXIT_CODES, Json, options_of
from sealkeeper.client.cli.output import Coloured, print_json, print_table
from sealkeeper.client.cli.resources import enum_name, short_name, time_of
from sealkeeper.client.cli.values import moment, one_of

app = typer.Typer(no_args_is_help=True, help="What gates have decided.", epilog=EXIT_CODES)


@app.command("list")
def list_(
    context: typer.Context,
    gate: Gate,
    digest: Annotated[str, typer.Option(help="Of this artifact: sha256:HEX.")] = "",
    environment: Annotated[str, typer.Option(help="That were to run there.")] = "",
    outcome: Annotated[str, typer.Option(help="allow or deny.")] = "",
    after: Annotated[str | None, typer.Option(help="At or after this time, RFC 3339.")] = None,
    before: Annotated[str | None, typer.Option(help="Before this time.")] = None,
    most: Annotated[int, typer.Option("--most", help="At most so many, the newest.", min=1, max=100_000)] = 100,
    json_output: Json = False,
) -> None:
    """List decisions, newest first."""
    options = options_of(context)
    with options.client() as client:
        found = list(
            islice(
                client.list_gate_decisions(
                    gate_name(options, gate),
                    subject_digest=digest,
                    environment=environment,
                    outcome=one_of(outcome, ("ALLOW", "DENY"), "--outcome") if outcome else "",
                    after=moment(after, "--after"),
                    before=moment(before, "--before"),
                ),
                most,
            )
        )
    if json_output:
        print_json([decision_document(one) for one in found])
        return
    rows = [
        (
            short_name(one.name),
            time_of(one, "time"),
            Coloured(enum_name(one, "outcome"), "green" if one.passed else "red"),
            one.subject.name,
            one.environment,
            short_name(one.exception) if one.exception else ", ".join(reason.code for reason in one.reasons),
        )
        for one in found
    ]
    print_table(("DECISION", "TIME", "OUTCOME", "ARTIFACT", "ENVIRONMENT", "WHY"), rows)


@app.command()
def show(
    context: typer.Context,
    gate: Gate,
    decision: Annotated[str, typer.Argument(help="Its id, or its full name.")],
    json_output: Json = False,
) -> None:
    """Show a decision, with what came of each rule."""
    options = options_of(context)
    name = decision if "/decisions/" in decision else f"{gate_name(options, gate)}/decisions/{decision}"
    with options.client() as client:
        found = client.get_gate_decision(name)
    if json_output:
        print_json(decision_document(found))
    else:
        print_decision(found, explain=True)
