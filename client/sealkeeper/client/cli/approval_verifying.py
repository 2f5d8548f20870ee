"""``sealkeeper approvals verify``: an auditor's check of a proposal that was kept, offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sealkeeper.client.cli.input_files import read_limited, read_log_key
from sealkeeper.client.cli.options import Json
from sealkeeper.client.cli.output import mark, note, print_json, print_text, printable
from sealkeeper.client.cli.proposal_page import counted

if TYPE_CHECKING:
    from sealkeeper.verify.approval import Content
    from sealkeeper.verify.known_people import KnownPeople
    from sealkeeper.verify.proposal_evidence import ProposalResult


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="As show --evidence has kept it.")],
    ca: Annotated[
        list[Path] | None,
        typer.Option(help="PEM file of a CA that certifies your people, from your organisation; may be repeated."),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(metavar="PERSON=PEM", help="Public key of a person, from your organisation; may be repeated."),
    ] = None,
    audit_key: Annotated[
        Path | None, typer.Option(help="File with the audit log's verifier key: audit.vkey of the gateway.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Check, without the gateway, that enough people approved of exactly what was done, before it was done."""
    from sealkeeper.verify.kept_proposal import MAX_KEPT, KeptProposal
    from sealkeeper.verify.proposal_evidence import verify_proposal

    if not ca and not key:
        raise typer.BadParameter("or --key is needed: who your people are is not in the file", param_hint="--ca")
    people = _people(ca or [], key or [])
    log = read_log_key(audit_key, "--audit-key") if audit_key is not None else None
    kept = KeptProposal.parse(read_limited(file, MAX_KEPT, "FILE"))
    result = verify_proposal(kept, people=people, log=log)
    if json_output:
        print_json(_document(result))
    else:
        _print(result)
    if not result.verified:
        raise typer.Exit(1)


def _people(authorities: list[Path], keys: list[str]) -> KnownPeople:
    from sealkeeper.verify.known_people import MAX_PEOPLE_FILE, KnownPeople

    named = []
    for one in keys:
        person, separator, path = one.partition("=")
        if not person or not separator or not path:
            raise typer.BadParameter("must be PERSON=PEM, for example first=first.pem", param_hint="--key")
        named.append((person, read_limited(Path(path), MAX_PEOPLE_FILE, "--key")))
    return KnownPeople.read([read_limited(one, MAX_PEOPLE_FILE, "--ca") for one in authorities], named)


def _print(result: ProposalResult) -> None:
    for step in result.steps:
        print_text(f"{mark(step.passed)} {step.name:16} {printable(step.detail)}")
    if result.content is None or result.executed is None:
        print_text(f"refused at {result.steps[-1].name}: {printable(result.steps[-1].detail)}")
        return
    content = result.content
    print_text(f"verified: {printable(content.action)} of {printable(content.resource)}")
    print_text(f"  proposed by {printable(content.proposer_person or content.proposer_subject)}")
    for one in result.approvers:
        said = f": {printable(one.statement.reason)}" if one.statement.reason else ""
        print_text(f"  approved by {printable(one.signer.person)}, {one.record.time.isoformat()}{said}")
    print_text(f"  done {result.executed.time.isoformat()}; it needed {counted(content.required, 'approval')}")
    if not result.log_verified:
        note("warning: the log's signature was not checked; give --audit-key audit.vkey, from the gateway's folder")


def _document(result: ProposalResult) -> dict[str, Any]:
    steps = [{"name": one.name, "passed": one.passed, "detail": one.detail} for one in result.steps]
    found: dict[str, Any] = {"verified": result.verified, "logVerified": result.log_verified, "steps": steps}
    content, executed, checkpoint = result.content, result.executed, result.checkpoint
    if content is None or executed is None or checkpoint is None:
        return found
    approvers = [
        {
            "person": one.signer.person,
            "identity": one.signer.identity or None,
            "keyId": one.signer.key_id,
            "reason": one.statement.reason,
            "time": one.record.time.isoformat(),
            "logIndex": one.record.index,
        }
        for one in result.approvers
    ]
    return {
        **found,
        **_content_document(content),
        "approvers": approvers,
        "executeTime": executed.time.isoformat(),
        "logIndex": executed.index,
        "log": checkpoint.origin,
        "treeSize": checkpoint.size,
    }


def _content_document(content: Content) -> dict[str, Any]:
    return {
        "gateway": content.gateway,
        "proposal": content.proposal,
        "digest": f"sha256:{content.digest.hex()}",
        "action": content.action,
        "resource": content.resource,
        "parameters": dict(content.parameters),
        "proposer": {
            "subject": content.proposer_subject,
            "person": content.proposer_person,
            "role": content.proposer_role,
        },
        "reason": content.reason,
        "required": content.required,
        "createTime": content.create_time.isoformat(),
        "expireTime": content.expire_time.isoformat(),
    }
