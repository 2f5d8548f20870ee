"""``sealkeeper approvals``: proposals that wait for others, and what approvers say of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sealkeeper.client.cli.approval_verifying import verify
from sealkeeper.client.cli.approval_watching import watch
from sealkeeper.client.cli.options import EXIT_CODES, Json, Options, options_of
from sealkeeper.client.cli.output import note, print_json, print_table, print_text, printable
from sealkeeper.client.cli.output_file import STDOUT, OutputFile
from sealkeeper.client.cli.proposal_effects import Known
from sealkeeper.client.cli.proposal_listing import ProposalId, proposals
from sealkeeper.client.cli.proposal_page import HEADINGS, counted, document, page, row, standing
from sealkeeper.client.cli.resources import enum_name
from sealkeeper.client.errors import NotFoundError, RefusedError

if TYPE_CHECKING:
    from sealkeeper.client.client import Client
    from sealkeeper.v1 import approval_pb2
    from sealkeeper.verify.approval import Content, PrivateKey

app = typer.Typer(no_args_is_help=True, help="What waits for the approval of others.", epilog=EXIT_CODES)
_ROOM = 1024 * 1024
_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command("list")
def list_(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Closed ones too, for 90 days.")] = False,
    json_output: Json = False,
) -> None:
    """List your tenant's open proposals, newest first."""
    options = options_of(context)
    with options.client() as client:
        found = list(proposals(client, options.parent(), only_open=not everything))
    if json_output:
        print_json([document(one) for one in found])
    else:
        print_table(HEADINGS, [row(one) for one in found])


@app.command()
def show(
    context: typer.Context,
    name: ProposalId,
    evidence: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to keep it in for auditors, with its records.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Show what a proposal does, what that breaks, and who has said what."""
    from sealkeeper.client.approval_operations import content_of, get_proposal, kept_proposal

    options = options_of(context)
    full = options.proposal_name(name)
    if evidence is None:
        with options.client() as client:
            proposal = client.call(get_proposal(full)).proposal
            content = content_of(proposal)
            known = _known(client, proposal, content)
    else:
        with OutputFile(evidence, "--evidence", room=_ROOM) as place:
            with options.client() as client:
                found = client.call(get_proposal(full, with_evidence=True))
                proposal, content = found.proposal, content_of(found.proposal)
                known = _known(client, proposal, content)
            place.write(kept_proposal(found).encode())
        # Standard output holds the one document already.
        if str(evidence) == STDOUT:
            return
    if json_output:
        print_json(document(proposal, content))
        return
    for line in page(proposal, content, known):
        print_text(line)


def _known(client: Client, proposal: approval_pb2.Proposal, content: Content) -> Known:
    from sealkeeper.client.policy_operations import get_policy

    impact = proposal.impact if proposal.HasField("impact") else None
    parent = content.proposal.partition("/proposals/")[0]
    try:
        if content.action == "UpdatePolicy":
            return Known(impact, client.call(get_policy(parent)).version)
        if content.action == "UpdateGate":
            return Known(impact, gate=client.get_gate_version(content.resource))
        return Known(impact)
    except (RefusedError, NotFoundError):
        # Then the new one is shown whole.
        return Known(impact)


@app.command()
def approve(
    context: typer.Context,
    name: ProposalId,
    reason: Annotated[str, typer.Option(help="Why; everybody who audits it reads it.")] = "",
    yes: _Yes = False,
    json_output: Json = False,
) -> None:
    """Read what a proposal does, and sign that it be done."""
    _decide(options_of(context), name, "APPROVE", reason, yes=yes, as_json=json_output)


@app.command()
def reject(
    context: typer.Context,
    name: ProposalId,
    reason: Annotated[str, typer.Option(help="Why; everybody who audits it reads it.")],
    yes: _Yes = False,
    json_output: Json = False,
) -> None:
    """Read what a proposal does, and sign that it not be done: that closes it."""
    if not reason:
        raise typer.BadParameter("say why", param_hint="--reason")
    _decide(options_of(context), name, "REJECT", reason, yes=yes, as_json=json_output)


def _decide(options: Options, name: str, decision: str, reason: str, *, yes: bool, as_json: bool) -> None:
    from sealkeeper.client.approval_operations import content_of, get_proposal, read_approval_key, sign_decision

    _require_reason(reason)
    if not yes and not sys.stdin.isatty():
        raise typer.BadParameter("is needed where nobody can be asked", param_hint="--yes")
    full = options.proposal_name(name)
    key: PrivateKey = read_approval_key(options.connection().approval_key)
    with options.client() as client:
        proposal = client.call(get_proposal(full)).proposal
        content = content_of(proposal)
        for line in page(proposal, content, _known(client, proposal, content)):
            (note if as_json else print_text)(line)
        _require_pending(proposal)
        if not yes:
            question = "Have you read it, and shall it be done?" if decision == "APPROVE" else "Shall it be rejected?"
            typer.confirm(question, abort=True, err=True)
        # What was shown is what is signed: nothing is fetched again in between.
        done = _hand_in(client, full, sign_decision(content, decision, reason, key))
    _print_state(done, as_json=as_json)


def _hand_in(client: Client, full: str, statement: bytes) -> approval_pb2.Proposal:
    from sealkeeper.client.approval_operations import decide_proposal, get_proposal

    try:
        return client.call(decide_proposal(full, statement))
    except RefusedError as error:
        # The first try was taken, and its answer was lost on the way.
        if error.reason not in ("APPROVAL_EXISTS", "PROPOSAL_CLOSED"):
            raise
        found = client.call(get_proposal(full)).proposal
        if all(one.statement != statement for one in found.approvals):
            raise
        return found


def _require_reason(reason: str) -> None:
    from sealkeeper.verify.approval import MAX_REASON

    if len(reason) > MAX_REASON or not reason.isprintable():
        raise typer.BadParameter(f"must be at most {MAX_REASON} printable characters", param_hint="--reason")


def _require_pending(proposal: approval_pb2.Proposal) -> None:
    state = enum_name(proposal, "state")
    if state != "PENDING":
        raise RefusedError(
            f"{proposal.name} is {state}: nothing was signed",
            reason="PROPOSAL_CLOSED",
            next_step="see what waits: sealkeeper approvals list",
        )


@app.command()
def withdraw(context: typer.Context, name: ProposalId, json_output: Json = False) -> None:
    """Take back your own proposal, or your approval of it."""
    from sealkeeper.client.approval_operations import withdraw_proposal

    options = options_of(context)
    operation: Any = withdraw_proposal(options.proposal_name(name))
    with options.client() as client:
        found = client.call(operation)
    _print_state(found, as_json=json_output)


def _print_state(proposal: approval_pb2.Proposal, *, as_json: bool) -> None:
    if as_json:
        print_json(document(proposal))
        return
    count = f"{standing(proposal)} of {counted(proposal.required, 'approval')}"
    outcome = f", {printable(proposal.outcome)}" if proposal.outcome else ""
    print_text(f"{printable(proposal.name)} is {enum_name(proposal, 'state')}, {count}{outcome}")


app.command(
    epilog="Exit codes: 0 done; 1 the one that was named was not done; 2 wrong usage; 3 the gateway does not answer; "
    "130 interrupted."
)(watch)
app.command(epilog="Exit codes: 0 verified; 1 not verified; 2 wrong usage or input, or a file that is not there.")(
    verify
)
