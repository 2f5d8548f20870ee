"""``sealkeeper gate policy``: look at gates' policies, try changes, propose them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from sealkeeper.client.cli.input_files import read_limited
from sealkeeper.client.cli.options import EXIT_CODES, Json, Options, options_of
from sealkeeper.client.cli.output import (
    Coloured,
    print_json,
    print_table,
    print_text,
    printable,
)
from sealkeeper.client.cli.policy_drafts import MAX_POLICY, print_difference, read_policy, simulated
from sealkeeper.client.cli.resources import enum_name, short_name, time_of
from sealkeeper.client.cli.values import period
from sealkeeper.client.errors import REFUSED, NotFoundError

if TYPE_CHECKING:
    from sealkeeper.client.client import Client
    from sealkeeper.v1 import gate_pb2

app = typer.Typer(no_args_is_help=True, help="Gates and their policies.", epilog=EXIT_CODES)
Gate: TypeAlias = Annotated[str, typer.Argument(help="NAME in your tenant, or tenants/T/gates/NAME.")]
SIMULATE_EXIT_CODES = "Exit codes: 0 done; 1 something would change and --fail-on-change was given; 2 wrong usage."
_WANTED = 1000


@app.command("list")
def list_(
    context: typer.Context,
    gate: Annotated[str | None, typer.Argument(help="Its versions, rather than all gates.")] = None,
    json_output: Json = False,
) -> None:
    """List your tenant's gates, or the versions of one's policy."""
    options = options_of(context)
    with options.client() as client:
        found = list(
            client.list_gates(options.parent()) if gate is None else client.list_gate_versions(gate_name(options, gate))
        )
    if json_output:
        print_json([_version_document(one) for one in found])
        return
    rows = [
        (_gate_of(one), one.number, time_of(one, "create_time"), one.author or "", short_name(one.proposal))
        for one in found
    ]
    print_table(("GATE", "VERSION", "SINCE", "BY", "PROPOSAL"), rows)


@app.command()
def show(
    context: typer.Context,
    gate: Gate,
    version: Annotated[int | None, typer.Option(help="Number of an earlier version.", min=1)] = None,
    json_output: Json = False,
) -> None:
    """Print a gate's policy."""
    options = options_of(context)
    name = gate_name(options, gate) + (f"/versions/{version}" if version is not None else "")
    with options.client() as client:
        found = client.get_gate_version(name)
    if json_output:
        print_json({**_version_document(found), "text": found.text})
    else:
        for line in found.text.splitlines():
            print_text(printable(line.expandtabs(2)))


@app.command("set")
def set_(
    context: typer.Context,
    gate: Gate,
    file: Annotated[Path, typer.Argument(help="The whole new policy, YAML.")],
    reason: Annotated[str, typer.Option(help="Why; approvers see it.")] = "",
    json_output: Json = False,
) -> None:
    """Make a gate, or propose another policy for one. It is in force when others have approved."""
    from sealkeeper.verify.gate.policy import parse_policy

    data = read_limited(file, MAX_POLICY, "FILE")
    # What the gateway would refuse is refused before anybody is asked to approve of it.
    parse_policy(data)
    options = options_of(context)
    name = gate_name(options, gate)
    with options.client() as client:
        base = _in_force(client, name)
        if not json_output:
            said = f"version {base.number}" if base is not None else "a new gate"
            print_difference(base.text if base is not None else "", said, data.decode(), file)
        made = client.update_gate(name, data.decode(), base.number if base is not None else 0, reason)
    if json_output:
        print_json(_version_document(made))
    else:
        print_text(f"{printable(made.name)} is in force")


@app.command(epilog=SIMULATE_EXIT_CODES)
def simulate(
    context: typer.Context,
    gate: Gate,
    policy: Annotated[Path, typer.Option("--policy", help="File with a draft.")],
    since: Annotated[str, typer.Option("--since", metavar="PERIOD", help="Of how long ago: 12h, 30d.")] = "30d",
    decisions: Annotated[
        int, typer.Option(help="At most so many decisions, the newest.", min=1, max=100_000)
    ] = _WANTED,
    fail_on_change: Annotated[bool, typer.Option("--fail-on-change", help="Exit with 1 on any change.")] = False,
    json_output: Json = False,
) -> None:
    """Decide what was decided of late again by a draft, and tell what would come out otherwise."""
    options, text, past = options_of(context), read_policy(policy, "--policy"), period(since, "--since")
    with options.client() as client:
        answers = client.simulate_gate(gate_name(options, gate), text, period=past, decisions=decisions)
        found = simulated(answers, decisions, "decisions", quiet=json_output)
    if json_output:
        print_json(
            {"decisions": found.done, "skipped": found.skipped, "changes": list(map(_change_document, found.changes))}
        )
    else:
        _print_changes(found)
    if found.changes and fail_on_change:
        raise typer.Exit(REFUSED)


@app.command()
def export(
    context: typer.Context,
    gates: Annotated[list[str], typer.Argument(help="NAMEs of gates.")],
    directory: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("gate"),
    json_output: Json = False,
) -> None:
    """Fetch what is needed to decide without the gateway: signed snapshots, and the trust root."""
    from sealkeeper.client.gate_snapshots import SnapshotFolder
    from sealkeeper.verify.gate.snapshot import parse_snapshot

    options, folder, told = options_of(context), SnapshotFolder(directory), []
    with options.client() as client:
        for one in gates:
            name = gate_name(options, one)
            answer = client.get_gate_snapshot(name)
            folder.write(name, answer)
            told.append(parse_snapshot(answer.snapshot))
    if json_output:
        print_json([{"gate": one.gate, "version": one.version, "expires": one.expires.isoformat()} for one in told])
        return
    for snapshot in told:
        print_text(
            f"wrote {printable(snapshot.gate)}, version {snapshot.version}: decides until "
            f"{snapshot.expires:%Y-%m-%d %H:%M}Z, signed with {printable(snapshot.policy.verdict_key)}"
        )


def gate_name(options: Options, name: str) -> str:
    """A gate's full name, of its last part."""
    return name if "/gates/" in name else f"{options.parent()}/gates/{name}"


def is_policy_file(text: str) -> bool:
    """Whether ``--policy`` means a file rather than a gate."""
    return text.endswith((".yaml", ".yml"))


def _in_force(client: Client, name: str) -> gate_pb2.GateVersion | None:
    try:
        return client.get_gate_version(name)
    except NotFoundError:
        return None


def _print_changes(found: gate_pb2.SimulateGateResponse) -> None:
    rows = [
        (
            one.count,
            one.before.subject.name,
            one.before.environment,
            _outcome(one.before),
            _outcome(one.after),
            ", ".join(dict.fromkeys(reason.code for reason in one.after.reasons)),
            time_of(one.before, "time"),
        )
        for one in found.changes
    ]
    if rows:
        print_table(("COUNT", "ARTIFACT", "ENVIRONMENT", "NOW", "THEN", "WHY", "LAST"), rows)
    skipped = f", {found.skipped} of them without evidence to look at again" if found.skipped else ""
    changed = sum(one.count for one in found.changes)
    print_text(f"{found.done} decisions{skipped}; {changed} would come out otherwise")


def _outcome(decision: gate_pb2.GateDecision) -> Coloured:
    name = enum_name(decision, "outcome")
    colour = "red" if name == "DENY" else "green" if decision.passed else "yellow"
    return Coloured(name if decision.passed or name == "DENY" else f"{name}, not passed", colour)


def _change_document(one: gate_pb2.GateChange) -> dict[str, Any]:
    from sealkeeper.client.cli.gate_page import decision_document

    return {"before": decision_document(one.before), "after": decision_document(one.after), "count": one.count}


def _gate_of(one: gate_pb2.GateVersion) -> str:
    return short_name(one.name.partition("/versions/")[0])


def _version_document(one: gate_pb2.GateVersion) -> dict[str, Any]:
    return {
        "name": one.name,
        "number": one.number,
        "sha256": one.digest.hex(),
        "createTime": one.create_time.ToJsonString(),
        "proposal": one.proposal or None,
        "author": one.author or None,
    }
