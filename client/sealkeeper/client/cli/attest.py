"""``sealkeeper attest``: SLSA provenance, bills of materials and other predicates, of files and of digests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sealkeeper.client.cli.images import attachment_document, image_of, look_up, open_registry, print_attachment
from sealkeeper.client.cli.input_files import read_limited
from sealkeeper.client.cli.options import Json, Options, options_of
from sealkeeper.client.cli.output import SUFFIX, note, print_json, print_text, printable, progress
from sealkeeper.client.cli.output_file import ROOM, STDOUT, OutputFile
from sealkeeper.client.cli.predicate_types import predicate_type_of, sbom_type_of, short_name_of

if TYPE_CHECKING:
    from sealkeeper.client.client import Client
    from sealkeeper.client.gate_evidence import Target
    from sealkeeper.registry import ImageReference, Registry
    from sealkeeper.v1 import attestation_pb2

_MAX_NAME = 512
_MAX_SUBJECTS = 10_000
_MAX_PREDICATE = 16 * 1024 * 1024
_MANY = "attestation"
_SLSA, _SBOM = "slsa", "sbom"
_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128, "sha1": 40, "gitCommit": 40}
_STRONG = ("sha256", "sha384", "sha512")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """An attestation to make.

    Attributes:
        kind: what its file is called after.
        predicate_type: URI; empty for provenance.
        predicate: JSON; empty for provenance.
        output: where its bundle goes.
    """

    kind: str
    predicate_type: str
    predicate: bytes
    output: Path


def attest(
    context: typer.Context,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE|IMAGE…]",
            help="What it is about: files, of which a quoted pattern is expanded, and IMAGE@sha256:HEX or IMAGE:TAG, "
            "which are looked up in their registry.",
        ),
    ] = None,
    subject: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME@sha256:HEX",
            help="What it is about and is no file; not looked up, but with --attach; may be repeated.",
        ),
    ] = None,
    attach: Annotated[
        bool, typer.Option("--attach", help="Put the bundle into the registry of each image, beside it.")
    ] = False,
    children: Annotated[
        bool, typer.Option("--children/--no-children", help="Of an image index, its images are subjects too.")
    ] = True,
    key: Annotated[
        str | None,
        typer.Option(help="Key [default: $SEALKEEPER_SIGNING_KEY, or signing_key of the client's file]"),
    ] = None,
    slsa: Annotated[bool, typer.Option("--slsa", help="SLSA provenance, which the gateway writes.")] = False,
    sbom: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="SPDX or CycloneDX, as JSON; may be repeated.")
    ] = None,
    predicate: Annotated[Path | None, typer.Option(metavar="FILE", help="Any other predicate: a JSON object.")] = None,
    predicate_type: Annotated[
        str | None,
        typer.Option("--type", help="Its type: a URI, or vulns, test-result, release, spdx, cyclonedx."),
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="External parameter of the build, for --slsa; may be repeated."),
    ] = None,
    dependency: Annotated[
        list[str] | None,
        typer.Option(metavar="URI@sha256:HEX", help="What the build used, for --slsa; may be repeated."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="Bundle file, - for standard output, or folder [default: FILE.slsa.sigstore.json, "
            "FILE.sbom.sigstore.json and so on beside FILE; of many, attestation.slsa.sigstore.json beside the first]",
        ),
    ] = None,
    certificate: Annotated[
        bool, typer.Option("--certificate", help="Prove the signer with a short-lived certificate.")
    ] = False,
    transient: Annotated[bool, typer.Option("--transient", help="Do not have the gateway keep it.")] = False,
    json_output: Json = False,
) -> None:
    """Attest files and images; the gateway signs, logs and keeps it, and writes who built what from the job's token."""
    if (parameter or dependency) and not slsa:
        raise typer.BadParameter("goes with --slsa", param_hint="--parameter" if parameter else "--dependency")
    options, report = options_of(context), _report(parameter, dependency)
    paths, images = _paths(files or ())
    wanted = _wanted(paths, output, slsa=slsa, sboms=sbom or (), predicate=predicate, predicate_type=predicate_type)
    named = [] if attach else [_named(one) for one in subject or ()]
    images += [_image_named(one) for one in subject or ()] if attach else []
    if not 1 <= len(paths) + len(named) + len(images) <= _MAX_SUBJECTS:
        raise typer.BadParameter(f"1 to {_MAX_SUBJECTS} files, images and subjects are needed", param_hint="FILE")
    if attach and not images:
        raise typer.BadParameter("needs an image to attach to: IMAGE@sha256:HEX", param_hint="--attach")
    name = options.key_name(options.signing_key(key))
    with ExitStack() as stack:
        places = [
            stack.enter_context(OutputFile(one.output, room=ROOM + 2 * len(one.predicate), inputs=paths))
            for one in wanted
        ]
        registry = open_registry() if images else None
        targets = look_up(images, registry, options, children=children) if registry is not None else []
        subjects = [*_subjects(paths, quiet=json_output), *_of_images(targets), *named]
        client = stack.enter_context(options.client())
        reports, bundles = [], list[bytes]()
        for one, place in zip(wanted, places, strict=True):
            answer = _attest(client, name, subjects, one, report, certificate=certificate, transient=transient)
            reports.append(_hand_over(answer, one, place, as_json=json_output))
            bundles.append(answer.signature.bundle)
    # Whatever the registry says then, all that was signed has been handed over.
    if attach and registry is not None:
        with _how_to_go_on(targets, wanted):
            for bundle, told in zip(bundles, reports, strict=True):
                say = note if told["bundle"] == STDOUT else print_text
                told["attached"] = _attach(registry, targets, bundle, options, None if json_output else say)
    if json_output:
        print_json(reports if len(reports) > 1 else reports[0])


def _attach(
    registry: Registry, targets: Sequence[Target], bundle: bytes, options: Options, say: Callable[[str], None] | None
) -> list[dict[str, Any]]:
    """Attach a bundle to all images that it is about."""
    from sealkeeper.client.image_attachments import attach, read_bundle

    read, told = read_bundle(bundle), []
    for one in (one for target in targets for one in attach(registry, target, read, options.timeout)):
        told.append(attachment_document(one))
        if say is not None:
            print_attachment(one, say)
    return told


@contextmanager
def _how_to_go_on(targets: Sequence[Target], wanted: Sequence[_Wanted]) -> Iterator[None]:
    """What is signed need not be signed again where a registry fails."""
    from sealkeeper.registry import RegistryError

    try:
        yield
    except RegistryError as error:
        files = " ".join("BUNDLE" if str(one.output) == STDOUT else printable(one.output) for one in wanted)
        commands = " && ".join(f"sealkeeper attach {target.image} {files}" for target in targets)
        error.next_step = f"{error.next_step}; all is signed: attach it with {commands}"
        raise


def _attest(
    client: Client,
    key: str,
    subjects: Sequence[attestation_pb2.Subject],
    wanted: _Wanted,
    report: Mapping[str, Any],
    *,
    certificate: bool,
    transient: bool,
) -> attestation_pb2.AttestResponse:
    from sealkeeper.client.attestation_operations import BuildReport

    if not wanted.predicate_type:
        said = BuildReport(**report)
        return client.attest_slsa(key, subjects, said, certificate=certificate, transient=transient)
    return client.attest(
        key, subjects, wanted.predicate_type, wanted.predicate, certificate=certificate, transient=transient
    )


def _hand_over(
    answer: attestation_pb2.AttestResponse, wanted: _Wanted, place: OutputFile, *, as_json: bool
) -> dict[str, Any]:
    import json

    record, to_stdout = answer.attestation, str(wanted.output) == STDOUT
    if not (as_json and to_stdout):
        place.write(answer.signature.bundle + b"\n")
    if not as_json:
        say = note if to_stdout else print_text
        kept = f", kept as {printable(record.name.rpartition('/')[2])}" if record.name else ""
        what = short_name_of(record.predicate_type)
        say(
            f"attested {record.subject_count} subject{'s'[: record.subject_count != 1]}: {printable(what)} with "
            f"{printable(record.key_version)}, log entry {record.log_index}{kept}"
        )
        if record.source_repository:
            say(f"  built by {printable(record.builder_id)}")
            say(f"  from {printable(record.source_repository)} at {printable(record.source_commit)}")
        say(f"  {printable(wanted.output)}")
    document = {
        "attestation": record.name or None,
        "predicateType": record.predicate_type,
        "subjects": record.subject_count,
        "bundle": str(wanted.output),
        "keyVersion": record.key_version,
        "logIndex": record.log_index,
        "sourceRepository": record.source_repository or None,
        "sourceCommit": record.source_commit or None,
        "builderId": record.builder_id or None,
        "attached": list[Any](),
    }
    return {**document, "document": json.loads(answer.signature.bundle)} if to_stdout else document


def _paths(files: Sequence[str]) -> tuple[list[Path], list[ImageReference]]:
    """The files and images that are meant.

    Bundles among many files are left out: a pattern finds those of the last time.
    """
    found: list[Path] = []
    images: list[ImageReference] = []
    for file in files:
        path, image = Path(file), image_of(file)
        if image is not None:
            images.append(image)
            continue
        if not path.exists() and has_magic(file):
            matches = [one for one in sorted(glob(file, recursive=True)) if Path(one).is_file()]  # noqa: PTH207
            if not matches:
                raise typer.BadParameter(f"{printable(file)} fits no file", param_hint="FILE")
            found += map(Path, matches)
            continue
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "is no file" if path.exists() else "is not there"
            raise typer.BadParameter(f"{printable(path)} {what}", param_hint="FILE")
        found.append(path)
    found = list(dict.fromkeys(found))
    left = [one for one in found if not one.name.endswith(SUFFIX)] if len(found) > 1 else found
    if len(left) < len(found):
        note(f"left out: {len(found) - len(left)} bundles (…{SUFFIX})")
    return left, list(dict.fromkeys(images))


def _subjects(paths: Sequence[Path], *, quiet: bool) -> list[attestation_pb2.Subject]:
    from sealkeeper.client.attestation_operations import subject
    from sealkeeper.verify import Artifact

    names = [path.name for path in paths]
    # Of two with one name, each is called by its path.
    unclear = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    made = []
    total = sum(path.stat().st_size for path in paths)
    with progress("hashing", total, quiet=quiet) as advance:
        for path in paths:
            digest = Artifact.from_path(path, advance).digest("SHA2_256").hex()
            made.append(subject(_text(str(path) if path.name in unclear else path.name), sha256=digest))
    return made


def _text(name: str) -> str:
    return printable(os.fsencode(name).decode("utf-8", "backslashreplace"))[:_MAX_NAME]


def _of_images(targets: Sequence[Target]) -> list[attestation_pb2.Subject]:
    from sealkeeper.client.attestation_operations import subject

    artifacts = [one for target in targets for one in (target.artifact, *target.artifact.children)]
    return [subject(_text(one.name), **one.digests) for one in artifacts]


def _image_named(text: str) -> ImageReference:
    from sealkeeper.registry import ImageReference, RegistryError

    _named(text)
    try:
        return ImageReference.parse(text)
    except RegistryError as error:
        raise typer.BadParameter(f"--attach needs images: {printable(str(error))}", param_hint="--subject") from None


def _named(text: str) -> attestation_pb2.Subject:
    from sealkeeper.client.attestation_operations import subject

    name, algorithm, digest = _with_digest(text, "--subject")
    if algorithm not in _STRONG:
        raise typer.BadParameter(
            f"{printable(text)} must have a digest of sha256, sha384 or sha512", param_hint="--subject"
        )
    return subject(name, **{algorithm: digest})


def _with_digest(text: str, option: str) -> tuple[str, str, str]:
    name, separator, rest = text.rpartition("@")
    algorithm, _, digest = rest.partition(":")
    good = separator and name and len(digest) == _LENGTHS.get(algorithm) and not set(digest) - set("0123456789abcdef")
    if not good:
        raise typer.BadParameter(
            f"{printable(text)} must end with @sha256: and 64 lower-case hexadecimal digits", param_hint=option
        )
    return name, algorithm, digest


def _report(parameters: Sequence[str] | None, dependencies: Sequence[str] | None) -> dict[str, Any]:
    """What the build says of itself, as ``BuildReport`` has it."""
    external: dict[str, Any] = {}
    # What GitLab's own provenance calls the job, which its tokens do not name.
    if os.environ.get("GITLAB_CI") and os.environ.get("CI_JOB_NAME"):
        external["entryPoint"] = os.environ["CI_JOB_NAME"]
    for text in parameters or ():
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise typer.BadParameter("must be NAME=VALUE", param_hint="--parameter")
        external[name] = value
    used = []
    for text in dependencies or ():
        uri, algorithm, digest = _with_digest(text, "--dependency")
        used.append({"uri": uri, "digest": {algorithm: digest}})
    return {"external_parameters": external, "resolved_dependencies": used}


def _wanted(
    paths: Sequence[Path],
    output: str | None,
    *,
    slsa: bool,
    sboms: Sequence[Path],
    predicate: Path | None,
    predicate_type: str | None,
) -> list[_Wanted]:
    """The attestations to make, with their predicates read."""
    if (predicate is None) != (predicate_type is None):
        raise typer.BadParameter("--predicate and --type go together", param_hint="--type")
    made: list[tuple[str, str, bytes]] = [(_SLSA, "", b"")] if slsa else []
    for place, path in enumerate(sboms):
        data = read_limited(path, _MAX_PREDICATE, "--sbom")
        made.append((_SBOM if len(sboms) == 1 else f"{_SBOM}-{place + 1}", sbom_type_of(data, path), data))
    if predicate is not None and predicate_type is not None:
        uri = predicate_type_of(predicate_type, "--type")
        made.append((short_name_of(uri, "predicate"), uri, read_limited(predicate, _MAX_PREDICATE, "--predicate")))
    if not made:
        raise typer.BadParameter("say what to attest: --slsa, --sbom or --predicate", param_hint="--slsa")
    place_of = _places(paths, output, many=len(made) > 1)
    return [_Wanted(kind, uri, data, place_of(kind)) for kind, uri, data in made]


def _places(paths: Sequence[Path], output: str | None, *, many: bool) -> Callable[[str], Path]:
    """Where the bundle of an attestation goes, by its kind."""
    stem = paths[0].name if len(paths) == 1 else _MANY
    folder = paths[0].parent if paths else Path()
    if output is not None:
        given = Path(output)
        if not given.is_dir():
            if many or output.endswith("/"):
                raise typer.BadParameter(f"{printable(output)} is not a folder: make it first", param_hint="--output")
            return lambda kind: given
        folder = given
    return lambda kind: folder / f"{stem}.{kind}{SUFFIX}"
