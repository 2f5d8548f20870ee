"""``sealkeeper policy``: who may do what in your tenant; look at it, try changes, propose them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from sealkeeper.client.cli.options import EXIT_CODES, Json, Options, options_of
from sealkeeper.client.cli.output import (
    Coloured,
    mark,
    note,
    print_json,
    print_table,
    print_text,
    printable,
)
from sealkeeper.client.cli.output_file import OutputFile
from sealkeeper.client.cli.policy_cases import MAX_FILE, read_cases, resource_name
from sealkeeper.client.cli.policy_drafts import print_difference, read_policy, read_text, simulated
from sealkeeper.client.cli.resources import time_text
from sealkeeper.client.cli.server_commands import INSTALL, server_is_installed
from sealkeeper.client.cli.values import labels as pairs
from sealkeeper.client.cli.values import moment
from sealkeeper.client.errors import REFUSED, ConfigurationError

if TYPE_CHECKING:
    from sealkeeper.client.client import Client
    from sealkeeper.v1 import policy_pb2

app = typer.Typer(no_args_is_help=True, help="Access policies: who may do what in your tenant.", epilog=EXIT_CODES)
_FAILED = "Exit codes: 0 done; 1 refused, or {}; 2 wrong usage or input; 3 the gateway does not answer."
_Draft: TypeAlias = Annotated[
    Path | None, typer.Option("--policy", help="File with a draft [default: the policy in force]")
]


@app.command()
def show(
    context: typer.Context,
    version: Annotated[int, typer.Option(help="Its number [default: the one in force]", min=0)] = 0,
    schema: Annotated[bool, typer.Option("--schema", help="The schema instead: what policies can speak of.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write it to a file.")] = None,
    json_output: Json = False,
) -> None:
    """Show the policy."""
    from sealkeeper.client.policy_operations import get_policy

    options = options_of(context)
    operation = get_policy(options.parent(), version)
    if output is not None:
        with OutputFile(output) as file, options.client() as client:
            found = client.call(operation)
            file.write((found.schema if schema else found.version.text).encode())
    else:
        with options.client() as client:
            found = client.call(operation)
    if json_output:
        print_json({**_version_document(found.version), "text": found.version.text, "schema": found.schema})
    elif output is None:
        # Cedar's own text, in which line ends and tabs are as they should be.
        text = found.schema if schema else found.version.text
        print_text("\n".join(printable(line.expandtabs(2)) for line in text.rstrip("\n").splitlines()))


@app.command("list")
def list_(context: typer.Context, json_output: Json = False) -> None:
    """List the versions, newest first."""
    options = options_of(context)
    with options.client() as client:
        found = _versions(client, options.parent())
    if json_output:
        print_json([_version_document(one) for one in found])
        return
    rows = [
        (one.number, time_text(one.create_time), one.author or "the gateway", one.proposal.rpartition("/")[2])
        for one in found
    ]
    print_table(("VERSION", "IN FORCE SINCE", "PROPOSED BY", "PROPOSAL"), rows)


@app.command()
def propose(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The whole policy, as it is to be.")],
    base: Annotated[
        int, typer.Option(help="Number of the version that it was made from [default: the one in force]", min=0)
    ] = 0,
    reason: Annotated[str, typer.Option(help="Why, for those who approve.")] = "",
    json_output: Json = False,
) -> None:
    """Propose another policy: it is in force when others have approved. Shows the difference first."""
    from sealkeeper.client.policy_operations import get_policy, update_policy

    text = read_policy(file, "FILE")
    options = options_of(context)
    parent = options.parent()
    with options.client() as client:
        before = client.call(get_policy(parent, base)).version
        if not json_output:
            print_difference(before.text, f"version {before.number}", text, file)
        made = client.call(update_policy(parent, text, before.number, reason))
    if json_output:
        print_json(_version_document(made))
    else:
        print_text(f"version {made.number} is in force")


@app.command("test", epilog=_FAILED.format("a case failed"))
def run_cases(
    context: typer.Context,
    cases: Annotated[Path, typer.Argument(help="TOML file of cases.")],
    policy: _Draft = None,
    offline: Annotated[
        bool,
        typer.Option(
            "--offline",
            help="Without a gateway: against the draft, or the policy that tenants begin with; keys have the labels "
            "that cases give. Needs the server's packages.",
        ),
    ] = False,
    json_output: Json = False,
) -> None:
    """Run cases against a draft or the policy in force. Grants do not count."""
    from sealkeeper.client.policy_operations import run_policy_cases

    options = options_of(context)
    parent = _offline_parent(options) if offline else options.parent()
    text = read_text(cases, MAX_FILE, "CASES")
    operation = run_policy_cases(parent, read_cases(text, parent), text=_draft(policy))
    if offline:
        found = operation.check(_offline_engine()(operation.request))
    else:
        with options.client() as client:
            found = client.call(operation)
    failed = sum(not one.passed for one in found.results)
    if json_output:
        print_json(
            {
                "passed": not failed,
                "cases": [
                    {"name": one.name, "passed": one.passed, **_decision_document(one.decision)}
                    for one in found.results
                ],
                "unusedPolicies": list(found.unused_policies),
            }
        )
    else:
        _print_results(found, failed)
    if failed:
        raise typer.Exit(REFUSED)


def _offline_parent(options: Options) -> str:
    try:
        return options.parent()
    except ConfigurationError:
        # Without a gateway any name will do for what has short names.
        return "tenants/tenant"


def _offline_engine() -> Callable[[Any], Any]:
    from importlib.metadata import entry_points

    if not server_is_installed():
        raise ConfigurationError("sealkeeper policy test --offline needs the server's packages", next_step=INSTALL)
    found: Callable[[Any], Any] = next(iter(entry_points(group="sealkeeper.policy", name="offline"))).load()
    return found


@app.command()
def explain(
    context: typer.Context,
    role: Annotated[str, typer.Option(help="Of the caller: admin, custodian, ci or verifier.")],
    action: Annotated[str, typer.Option(help="As in the schema, for example Sign.")],
    subject: Annotated[str, typer.Option(help="The caller: a SPIFFE ID, or the issuer#sub of a token.")] = "",
    resource: Annotated[
        str, typer.Option(help="NAME of a key, proposals/NAME and the like, or logs/NAME [default: the tenant]")
    ] = "",
    method: Annotated[str, typer.Option(help="certificate or token.")] = "certificate",
    person: Annotated[str, typer.Option(help="Whose certificate or token it is.")] = "",
    issuer: Annotated[str, typer.Option(help="Trust domain of the certificate, or issuer of the token.")] = "",
    attribute: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, for example repository=acme/app; may be repeated.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, as if the key had it; may be repeated.")] = None,
    hardware: Annotated[bool, typer.Option("--hardware", help="The certificate's key is in hardware.")] = False,
    acr: Annotated[str, typer.Option(help="Authentication context class of the token.")] = "",
    amr: Annotated[list[str] | None, typer.Option(help="Authentication method of the token; may be repeated.")] = None,
    address: Annotated[str, typer.Option(help="IP address of the call [default: 127.0.0.1]")] = "",
    time: Annotated[str | None, typer.Option(help="When, RFC 3339 [default: now]")] = None,
    policy: _Draft = None,
    json_output: Json = False,
) -> None:
    """Tell what would be decided, and by which policies."""
    from sealkeeper.client.policy_operations import explain_decision
    from sealkeeper.v1 import policy_pb2

    options = options_of(context)
    parent = options.parent()
    request = policy_pb2.AccessRequest(
        principal=policy_pb2.AccessPrincipal(
            subject=subject or f"test:{role}",
            role=role,
            method=method,
            person=person,
            issuer=issuer,
            attributes=_pairs(attribute, "--attribute"),
            hardware=hardware,
            acr=acr,
            amr=amr or (),
        ),
        action=action,
        resource=resource_name(parent, resource),
        labels=_pairs(label, "--label"),
        address=address,
    )
    asked = moment(time, "--time")
    if asked is not None:
        request.time.FromDatetime(asked)
    with options.client() as client:
        found = client.call(explain_decision(parent, request, text=_draft(policy)))
    if json_output:
        document = {**_decision_document(found.decision), "policyVersion": found.policy_version}
        print_json({**document, "texts": list(found.texts)})
    else:
        _print_explanation(found)


@app.command(epilog=_FAILED.format("something would change and --fail-on-change was given"))
def simulate(
    context: typer.Context,
    policy: Annotated[Path, typer.Option("--policy", help="File with a draft.")],
    records: Annotated[
        int, typer.Option(help="How many of the newest audit records to decide again.", min=1, max=100_000)
    ] = 1000,
    fail_on_change: Annotated[
        bool, typer.Option("--fail-on-change", help="Exit with 1 where anything would be decided otherwise.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Tell what a draft would have decided otherwise of what was asked for of late."""
    from sealkeeper.client.policy_operations import simulate_policy

    options = options_of(context)
    parent, text = options.parent(), read_policy(policy, "--policy")
    with options.client() as client:
        answers = client.stream(simulate_policy(parent, text, records))
        found = simulated(answers, records, "records", quiet=json_output)
    if json_output:
        print_json(
            {
                "records": found.done,
                "skipped": found.skipped,
                "changes": [_change_document(one) for one in found.changes],
            }
        )
    else:
        _print_changes(found)
    if found.changes and fail_on_change:
        raise typer.Exit(REFUSED)


def _versions(client: Client, parent: str) -> list[policy_pb2.PolicyVersion]:
    from sealkeeper.client.policy_operations import list_policy_versions

    return [one for page in client.pages(partial(list_policy_versions, parent)) for one in page.versions]


def _draft(path: Path | None) -> str:
    return read_policy(path, "--policy") if path is not None else ""


def _pairs(texts: list[str] | None, option: str) -> dict[str, str]:
    try:
        return pairs(texts)
    except typer.BadParameter as error:
        raise typer.BadParameter(error.message, param_hint=option) from None


def _print_results(found: policy_pb2.TestPolicyResponse, failed: int) -> None:
    for one in found.results:
        print_text(f"{mark(one.passed)} {printable(one.name)}")
        if not one.passed:
            print_text(f"    is: {_decision_text(one.decision)}")
            for error in one.decision.errors:
                print_text(f"    {printable(error)}")
    for name in found.unused_policies:
        note(f"warning: no case is decided by {printable(name)}")
    print_text(f"{len(found.results) - failed} passed, {failed} failed")


def _print_explanation(found: policy_pb2.ExplainDecisionResponse) -> None:
    decision = found.decision
    decided = f"version {found.policy_version}" if found.policy_version else "the draft"
    print_text(f"{mark(decision.allowed)} {_decision_text(decision)} ({decided})")
    for error in decision.errors:
        print_text(f"  {printable(error)}")
    for text in found.texts:
        print_text()
        for line in text.splitlines():
            print_text(printable(line.expandtabs(2)))


def _print_changes(found: policy_pb2.SimulatePolicyResponse) -> None:
    rows = [
        (
            one.count,
            one.subject or "others",
            one.action,
            one.resource.partition("/keys/")[2] or one.resource or "others",
            Coloured(_verdict(one.before), _colour(one.before)),
            Coloured(_verdict(one.after), _colour(one.after)),
            ", ".join(one.after.policies),
            time_text(one.last_time),
        )
        for one in found.changes
    ]
    if rows:
        print_table(("COUNT", "SUBJECT", "ACTION", "RESOURCE", "NOW", "THEN", "BY", "LAST"), rows)
    skipped = f", {found.skipped} of them without a question to decide again" if found.skipped else ""
    changed = sum(one.count for one in found.changes)
    print_text(f"{found.done} records{skipped}; {changed} would be decided otherwise")


def _verdict(decision: policy_pb2.AccessDecision) -> str:
    if not decision.allowed:
        return "denied"
    if not decision.approvals:
        return "allowed"
    return f"allowed with {decision.approvals} approval{'s' if decision.approvals > 1 else ''}"


def _colour(decision: policy_pb2.AccessDecision) -> str:
    return "red" if not decision.allowed else "yellow" if decision.approvals else "green"


def _decision_text(decision: policy_pb2.AccessDecision) -> str:
    by = ", ".join(printable(one) for one in decision.policies)
    if decision.errors:
        return "denied, since a policy cannot be evaluated"
    return f"{_verdict(decision)} by {by}" if by else f"{_verdict(decision)}: no policy permits it"


def _decision_document(decision: policy_pb2.AccessDecision) -> dict[str, Any]:
    return {
        "allowed": decision.allowed,
        "policies": list(decision.policies),
        "approvals": decision.approvals,
        "errors": list(decision.errors),
    }


def _change_document(one: policy_pb2.PolicyChange) -> dict[str, Any]:
    return {
        "subject": one.subject,
        "action": one.action,
        "resource": one.resource,
        "before": _decision_document(one.before),
        "after": _decision_document(one.after),
        "count": one.count,
        "lastTime": one.last_time.ToJsonString(),
    }


def _version_document(one: policy_pb2.PolicyVersion) -> dict[str, Any]:
    return {
        "name": one.name,
        "number": one.number,
        "sha256": one.digest.hex(),
        "createTime": one.create_time.ToJsonString(),
        "proposal": one.proposal or None,
        "author": one.author or None,
    }
