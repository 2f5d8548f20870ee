"""``sealkeeper attestations``: find what was attested."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sealkeeper.client.cli.options import EXIT_CODES, Json, Options, options_of
from sealkeeper.client.cli.output import print_json, print_table, print_text, printable, progress
from sealkeeper.client.cli.output_file import STDOUT, OutputFile
from sealkeeper.client.cli.predicate_types import known_type, short_name_of
from sealkeeper.client.cli.resources import short_name, time_of
from sealkeeper.client.cli.values import moment

if TYPE_CHECKING:
    from sealkeeper.v1 import attestation_pb2

app = typer.Typer(no_args_is_help=True, help="Find what was attested.", epilog=EXIT_CODES)


@app.command("list")
def list_(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Of this file.", exists=True, dir_okay=False)
    ] = None,
    digest: Annotated[str | None, typer.Option(metavar="sha256:HEX", help="Of what has this digest.")] = None,
    predicate_type: Annotated[
        str | None, typer.Option("--type", help="Of this type: a URI, or slsa, spdx, cyclonedx, vulns and so on.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Built from this repository: its URL.")] = None,
    builder: Annotated[str | None, typer.Option(help="Built by this builder id.")] = None,
    key: Annotated[str | None, typer.Option(help="Signed with this key, or with its version NAME/NUMBER.")] = None,
    after: Annotated[str | None, typer.Option(metavar="TIME", help="Signed then or later.")] = None,
    before: Annotated[str | None, typer.Option(metavar="TIME", help="Signed earlier.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many, the newest.", min=1, max=100_000)] = 100,
    json_output: Json = False,
) -> None:
    """List your tenant's attestations, newest first."""
    from sealkeeper.client.attestation_operations import Filters

    if file is not None and digest is not None:
        raise typer.BadParameter("give FILE or --digest, not both", param_hint="--digest")
    options = options_of(context)
    filters = Filters(
        digest or (_digest(file, quiet=json_output) if file is not None else ""),
        known_type(predicate_type, "--type") if predicate_type else "",
        source or "",
        builder or "",
        options.key_name(key) if key else "",
        moment(after, "--after"),
        moment(before, "--before"),
    )
    with options.client() as client:
        found = list(islice(client.list_attestations(options.parent(), filters), limit))
    if json_output:
        print_json([document(one) for one in found])
        return
    rows = [
        (
            short_name(one.name),
            time_of(one, "create_time"),
            short_name_of(one.predicate_type),
            _subjects(one),
            short_name(one.key_version),
            one.source_repository,
            one.source_commit[:12],
        )
        for one in found
    ]
    print_table(("ATTESTATION", "SIGNED", "TYPE", "SUBJECTS", "KEY", "SOURCE", "COMMIT"), rows)


@app.command()
def get(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Its id, or tenants/T/attestations/ID.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write its bundle; - is standard output.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Show an attestation, or write its bundle."""
    options = options_of(context)
    with options.client() as client:
        found = client.get_attestation(_full_name(options, name))
    if output is not None:
        with OutputFile(output, room=max(len(found.bundle), 1)) as place:
            place.write(found.bundle + b"\n")
    if json_output:
        if output is None or str(output) != STDOUT:
            print_json(document(found.attestation))
    elif output is None:
        _print(found.attestation)


def document(one: attestation_pb2.AttestationRecord) -> dict[str, Any]:
    """For ``--json``."""
    return {
        "name": one.name,
        "predicateType": one.predicate_type,
        "subjects": [{"name": about.name, "digest": dict(about.digest)} for about in one.subjects],
        "subjectCount": one.subject_count,
        "keyVersion": one.key_version,
        "attester": one.attester,
        "sourceRepository": one.source_repository or None,
        "sourceRef": one.source_ref or None,
        "sourceCommit": one.source_commit or None,
        "builderId": one.builder_id or None,
        "buildType": one.build_type or None,
        "createTime": one.create_time.ToJsonString(),
        "logIndex": one.log_index,
        "bundleDigest": f"sha256:{one.bundle_digest.hex()}",
        "bundleSize": one.bundle_size,
    }


def _print(one: attestation_pb2.AttestationRecord) -> None:
    print_text(f"{printable(one.name)}: {printable(one.predicate_type)}")
    print_text(f"  signed {time_of(one, 'create_time')} with {printable(one.key_version)}, log entry {one.log_index}")
    print_text(f"  asked for by {printable(one.attester)}")
    if one.source_repository:
        at = f", {printable(one.source_ref)}" if one.source_ref else ""
        print_text(f"  built by {printable(one.builder_id)}")
        print_text(f"  from {printable(one.source_repository)} at {printable(one.source_commit)}{at}")
    for about in one.subjects:
        digests = " ".join(f"{algorithm}:{digest}" for algorithm, digest in sorted(about.digest.items()))
        print_text(f"  of {printable(about.name or '(no name)')} {printable(digests)}")
    left = one.subject_count - len(one.subjects)
    if left > 0:
        print_text(f"  and {left} more")


def _subjects(one: attestation_pb2.AttestationRecord) -> str:
    first = one.subjects[0].name or "(no name)" if one.subjects else ""
    return first if one.subject_count == 1 else f"{first} and {one.subject_count - 1} more"


def _digest(file: Path, *, quiet: bool) -> str:
    from sealkeeper.verify import Artifact

    with progress(f"hashing {file}", file.stat().st_size, quiet=quiet) as advance:
        return f"sha256:{Artifact.from_path(file, advance).digest('SHA2_256').hex()}"


def _full_name(options: Options, name: str) -> str:
    return name if "/attestations/" in name else f"{options.parent()}/attestations/{name}"
