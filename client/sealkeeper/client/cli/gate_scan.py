"""``sealkeeper gate scan``: may the images run that manifests name?"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sealkeeper.client.cli.gate_policy import gate_name, is_policy_file
from sealkeeper.client.cli.options import Json, Options, options_of
from sealkeeper.client.cli.output import note, print_json, print_text, progress
from sealkeeper.client.cli.output_file import write_file
from sealkeeper.client.cli.resources import enum_name, short_name
from sealkeeper.client.errors import REFUSED, ClientError

if TYPE_CHECKING:
    from sealkeeper.client.cli.gate import Trusted
    from sealkeeper.client.gate_asking import Asking
    from sealkeeper.client.manifest_files import FoundImage
    from sealkeeper.client.scan_report import Finding
    from sealkeeper.registry import Registry
    from sealkeeper.v1 import gate_pb2

_AT_ONCE = 8
_MOST_TOLD = 3
_RULES = {
    "image-refused": (
        "An image that the gate's policy refuses.",
        "See why: sealkeeper gate explain IMAGE --policy GATE. docs/gates/reasons.md says what each reason means.",
        "error",
    ),
    "image-warned": (
        "An image that runs although the policy refuses it, since the policy's mode is warn or audit.",
        "Make it fulfil the policy before that enforces.",
        "warning",
    ),
    "image-undecided": (
        "An image that cannot be decided on: its registry or the gateway does not answer, or there is no such image.",
        "Check its name and the credentials for its registry, and try again.",
        "error",
    ),
    "image-allowed": ("An image that the policy allows.", "Nothing.", "note"),
    "image-by-tag": (
        "An image that is named by a tag, which can mean another image by the time it runs.",
        "Name it with its digest: IMAGE:TAG@sha256:…",
        "warning",
    ),
}


class Form(StrEnum):
    """What a report looks like."""

    PLAIN = "plain"
    SARIF = "sarif"
    JUNIT = "junit"


@dataclass(frozen=True, slots=True)
class _Answer:
    """What is known of one image."""

    decision: gate_pb2.GateDecision | None
    error: str = ""


def scan(
    context: typer.Context,
    paths: Annotated[list[str], typer.Argument(help="Files and folders with manifests; - for standard input.")],
    policy: Annotated[str, typer.Option(help="NAME of a gate of your tenant, or a FILE.yaml, decided by here.")],
    environment: Annotated[str, typer.Option(help="Where they are to run.")] = "",
    trust: Annotated[
        Path, typer.Option(help="For deciding here: folder or file with the trust root, or public-good.")
    ] = Path("trust"),
    trust_root: Annotated[
        list[str] | None,
        typer.Option(
            "--trust-root",
            metavar="NAME=PLACE",
            help="For deciding here: the trust root of another instance, by the policy's name for it; may be repeated.",
        ),
    ] = None,
    form: Annotated[Form, typer.Option("--format", help="Of the report.")] = Form.PLAIN,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File for the report.")] = None,
    require_digest: Annotated[
        bool, typer.Option("--require-digest", help="Images that are named by a tag are errors.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Tell whether the images may run that manifests name: Kubernetes objects, rendered charts, compose files.

    Render charts first: helm template CHART | sealkeeper gate scan - --policy prod. Decisions of a scan are not
    recorded, and nothing is signed.
    """
    from sealkeeper.client.manifest_files import FoundImage, scan_files

    options = options_of(context)
    entries = list(scan_files(paths))
    images = list(dict.fromkeys(one.image for one in entries if isinstance(one, FoundImage)))
    with progress("images", len(images), quiet=json_output, least=2) as advance:
        from sealkeeper.client.cli.gate import Trusted

        answers = _answers(options, images, policy, environment, Trusted(trust, trust_root or ()), advance)
    findings = [
        each
        for one in entries
        for each in (_findings(one, answers[one.image], tags=require_digest) if isinstance(one, FoundImage) else [one])
    ]
    _report(findings, form, output, json_output=json_output)
    if any(one.fails for one in findings):
        raise typer.Exit(REFUSED)


def _answers(
    options: Options, images: Sequence[str], policy: str, environment: str, trusted: Trusted, advance: Any
) -> dict[str, _Answer]:
    if not images:
        return {}
    from sealkeeper.client.cli.gate import asking_of
    from sealkeeper.registry import ConfigFiles, Registry

    registry = Registry(ConfigFiles.of_environment())
    name = policy if is_policy_file(policy) else gate_name(options, policy)
    with (
        asking_of(options, name, environment, trusted, dry_run=True) as asking,
        ThreadPoolExecutor(_AT_ONCE) as threads,
    ):

        def ask(image: str) -> _Answer:
            answer = _answer(asking, registry, image, options.timeout)
            advance(1)
            return answer

        return dict(zip(images, threads.map(ask, images), strict=True))


def _answer(asking: Asking, registry: Registry, image: str, timeout: float) -> _Answer:
    from sealkeeper.client.gate_evidence import RegistryEvidence, image_target
    from sealkeeper.registry import Deadline, ImageReference, RegistryError

    deadline = Deadline.after(timeout)
    try:
        target = image_target(ImageReference.parse(image), registry, deadline)
        return _Answer(asking.ask(target, RegistryEvidence(registry, target, deadline)))
    except (RegistryError, ClientError) as error:
        return _Answer(None, str(error))


def _findings(image: FoundImage, answer: _Answer, *, tags: bool) -> Iterable[Finding]:
    if "@" not in image.image:
        level = "error" if tags else "warning"
        yield image.finding("image-by-tag", level, f"{image.image} is named by a tag")  # type: ignore[arg-type]
    decision = answer.decision
    if decision is None:
        yield image.finding("image-undecided", "error", f"{image.image}: {answer.error}")
        return
    told = "; ".join(f"{one.code}: {one.message}" for one in decision.reasons[:_MOST_TOLD])
    if enum_name(decision, "outcome") != "ALLOW":
        yield image.finding("image-refused", "error", f"{image.image} may not run: {told}")
    elif decision.exception:
        excepted = f"exception {short_name(decision.exception)}"
        yield image.finding("image-refused", "error", f"{image.image} is refused: {told}", excepted)
    elif not decision.passed:
        yield image.finding("image-warned", "warning", f"{image.image} is refused by the policy: {told}")
    else:
        levels = ", ".join(decision.levels)
        yield image.finding("image-allowed", "none", f"{image.image} may run{f' ({levels})' if levels else ''}")


def _report(findings: Sequence[Finding], form: Form, output: Path | None, *, json_output: bool) -> None:
    from importlib.metadata import version

    from sealkeeper.client.manifest_files import RULES
    from sealkeeper.client.scan_report import Rule, junit, plain, sarif

    if form is Form.SARIF:
        rules = [Rule(name, *said) for name, said in _RULES.items()]  # type: ignore[arg-type]
        text = sarif(findings, [*RULES, *rules], version("sealkeeper"))
    else:
        text = junit(findings) if form is Form.JUNIT else plain(findings)
    failed = sum(one.fails for one in findings)
    allowed = sum(one.rule_id == "image-allowed" for one in findings)
    if output is not None:
        write_file(output, text.encode())
    if json_output:
        print_json({"passed": not failed, "findings": [_document(one) for one in findings]})
    elif output is None and text:
        sys.stdout.write(text)
    if not json_output:
        (note if form is not Form.PLAIN else print_text)(f"{allowed} images may run, {failed} findings must be mended")


def _document(one: Finding) -> dict[str, Any]:
    return {
        "rule": one.rule_id,
        "level": one.level,
        "message": one.message,
        "file": one.file,
        "line": one.line,
        "column": one.column,
        "image": one.image or None,
        "exception": one.justification,
        "properties": dict(one.properties),
    }
