"""``sealkeeper provenance``: where an artifact comes from, what is known about it, and where it was let run."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sealkeeper.client.cli.images import image_of, open_registry
from sealkeeper.client.cli.options import Json, Options, options_of
from sealkeeper.client.cli.output import SUFFIX, coloured, is_terminal, note, print_json, print_text, printable
from sealkeeper.client.cli.output_file import STDOUT, OutputFile
from sealkeeper.client.errors import ConfigurationError

if TYPE_CHECKING:
    from sealkeeper.client.provenance_graph import IndexChild, Node, ProvenanceGraph
    from sealkeeper.client.provenance_sources import Sources
    from sealkeeper.verify import Artifact, TrustRoot

app = typer.Typer(no_args_is_help=True, help="Where artifacts come from, and what is known about them.")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ALGORITHM = re.compile(r"sha\d+:")
_EPILOG = (
    "Believes whoever the trust root vouches for: to look, not to decide; gates decide.\n\n"
    "Exit codes: 0 shown; 1 nothing verified is there; 2 wrong usage or input; "
    "3 the gateway or registry does not answer."
)


@app.callback()
def _group() -> None:
    pass


@app.command(epilog=_EPILOG)
def show(
    context: typer.Context,
    artifact: Annotated[
        str,
        typer.Argument(
            metavar="DIGEST|FILE|IMAGE", help="sha256:HEX, the artifact itself, or IMAGE, IMAGE:TAG, IMAGE@sha256:HEX."
        ),
    ],
    svg: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="Draw it into this file; - is standard output.")
    ] = None,
    bundle: Annotated[
        list[Path] | None,
        typer.Option("--bundle", "-b", help="Bundle to look at; may be repeated [default: FILE.sigstore.json, if any]"),
    ] = None,
    registry: Annotated[
        bool, typer.Option("--registry/--no-registry", help="Look at what is attached to an image in its registry.")
    ] = True,
    trust: Annotated[
        Path | None,
        typer.Option(
            envvar="SEALKEEPER_TRUST", help="Folder that sealkeeper trust export wrote [default: from the gateway]"
        ),
    ] = None,
    show_all: Annotated[bool, typer.Option("--all", help="All dependencies, artifacts and decisions.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Digests in full, and each bundle; cut nothing.")] = False,
    depth: Annotated[int, typer.Option(help="How far dependencies' own builds are followed.", min=0, max=5)] = 1,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no gateway; needs --trust.")] = False,
    json_output: Json = False,
) -> None:
    """Show source, build, artifact, attestations and deploy decisions; what is not verified is marked as such."""
    if svg is not None and str(svg) == STDOUT and json_output:
        raise typer.BadParameter("standard output cannot be both; name a file", param_hint="--svg")
    options = options_of(context)
    asked = _read(artifact, bundle) or _image(artifact, bundle, options, registry=registry)
    with ExitStack() as stack:
        picture = stack.enter_context(OutputFile(svg, "--svg", inputs=asked.inputs)) if svg is not None else None
        gateway, root = _gateway(options, stack, trust, offline=offline)
        graph = _graph(asked, gateway, root, depth=depth, show_all=show_all)
        if picture is not None:
            from sealkeeper.client.provenance_svg import provenance_svg

            picture.write(provenance_svg(graph))
    if json_output:
        print_json(_document(graph))
    elif svg is None or str(svg) != STDOUT:
        _print(graph, full=full)
    if not graph.verified:
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the command line names."""

    digest: str
    bundles: tuple[Path, ...]
    path: Path | None = None
    artifact: Artifact | None = None
    children: tuple[IndexChild, ...] = ()
    name: str = ""
    attached: tuple[Sources, ...] = ()

    @property
    def inputs(self) -> list[Path]:
        """Files that must not be overwritten."""
        return [one for one in (*self.bundles, *([self.path] if self.path is not None else [])) if one.exists()]


def _read(text: str, bundles: Sequence[Path] | None) -> _Asked | None:
    """A digest or a file; ``None`` where it is an image."""
    from sealkeeper.client.provenance_sources import MAX_INDEX, index_children
    from sealkeeper.verify import Artifact

    if _DIGEST.fullmatch(text):
        return _Asked(text, tuple(bundles or ()))
    path, beside = Path(text), Path(f"{text}{SUFFIX}")
    if _ALGORITHM.match(text) and not path.exists():
        raise typer.BadParameter("must be sha256: and 64 lower-case hexadecimal digits", param_hint="DIGEST")
    if image_of(text, bare=True) is not None:
        return None
    if path.is_dir():
        raise typer.BadParameter(f"{printable(path)} is a folder", param_hint="FILE")
    artifact = Artifact.from_path(path)
    digest = f"sha256:{artifact.digest('SHA2_256').hex()}"
    with path.open("rb") as file:
        children = index_children(file.read(MAX_INDEX + 1))
    given = bundles if bundles is not None else [beside] if beside.is_file() else []
    return _Asked(digest, tuple(given), path, artifact, tuple(children), path.name)


def _image(text: str, bundles: Sequence[Path] | None, options: Options, *, registry: bool) -> _Asked:
    """An image, with what its registry has of it."""
    from sealkeeper.client.gate_evidence import image_target
    from sealkeeper.client.provenance_sources import RegistrySources
    from sealkeeper.registry import Deadline, ImageReference

    reference, given = ImageReference.parse(text), tuple(bundles or ())
    if reference.digest and not _DIGEST.fullmatch(reference.digest):
        raise typer.BadParameter("is known by its SHA-256 here: @sha256:HEX", param_hint="IMAGE")
    if not registry:
        if not reference.digest:
            raise typer.BadParameter("needs @sha256:HEX where its registry is not asked", param_hint="IMAGE")
        return _Asked(reference.digest, given, name=str(reference))
    opened, deadline = open_registry(), Deadline.after(options.timeout)
    target = image_target(reference, opened, deadline)
    sources = RegistrySources(opened, target, deadline)
    return _Asked(
        target.artifact.digest, given, children=sources.children, name=target.artifact.name, attached=(sources,)
    )


def _gateway(
    options: Options, stack: ExitStack, trust: Path | None, *, offline: bool
) -> tuple[list[Sources], TrustRoot]:
    """What the gateway knows, where there is one to ask; and what is trusted."""
    from sealkeeper.client.provenance_sources import GatewaySources
    from sealkeeper.verify import TrustRoot

    root = TrustRoot.from_directory(trust) if trust is not None else None
    if offline:
        if root is None:
            raise typer.BadParameter("is needed without a gateway", param_hint="--trust")
        return [], root
    try:
        parent, client = options.parent(), stack.enter_context(options.client())
    except ConfigurationError as error:
        if root is None:
            raise
        note(f"note: no gateway is asked: {printable(error)}")
        return [], root
    if root is None:
        found = client.trust_root(parent)
        root = TrustRoot.from_json(found.trusted_root, found.keys)
    return [GatewaySources(client, parent)], root


def _graph(
    asked: _Asked, gateway: Sequence[Sources], root: TrustRoot, *, depth: int, show_all: bool
) -> ProvenanceGraph:
    from sealkeeper.client.provenance_graph import build_graph
    from sealkeeper.client.provenance_sources import FileSources, gather

    sources = [FileSources(asked.bundles), *asked.attached, *gateway]
    chain = gather(asked.digest, sources, root, artifact=asked.artifact, depth=depth)
    return build_graph(
        asked.digest,
        chain.statements,
        chain.decisions,
        name=asked.name,
        children=asked.children,
        notes=chain.notes,
        show_all=show_all,
    )


def _print(graph: ProvenanceGraph, *, full: bool) -> None:
    from sealkeeper.client.cli.provenance_tree import tree_lines

    lines = tree_lines(
        graph,
        width=shutil.get_terminal_size().columns if is_terminal(sys.stdout) else None,
        encoding=getattr(sys.stdout, "encoding", None) or "utf-8",
        coloured=coloured(sys.stdout),
        full=full,
    )
    for one in lines:
        print_text(one)
    if not graph.verified:
        print_text(f"nothing verified is known about {graph.asked.digest}")
    for one in graph.notes:
        note(f"note: {printable(one)}")


def _document(graph: ProvenanceGraph) -> dict[str, Any]:
    return {
        "digest": graph.asked.digest,
        "verified": graph.verified,
        "nodes": [_node(one) for one in graph.nodes],
        "edges": [{"from": one.tail, "to": one.head, "relation": one.relation} for one in graph.edges],
        "notes": list(graph.notes),
    }


def _node(node: Node) -> dict[str, Any]:
    signed = node.signed
    return {
        "id": node.id,
        "kind": str(node.kind),
        "title": node.title,
        "digest": node.digest or None,
        "asked": node.asked,
        "depth": node.depth,
        "facts": dict(node.facts),
        # Of what is known from another node's statement there is nothing to verify.
        "verified": None if signed is None else not node.why_not,
        "whyNot": node.why_not or None,
        "signer": (signed.who or None) if signed is not None else None,
        "time": signed.time.isoformat() if signed is not None and signed.time is not None else None,
        "origin": signed.origin if signed is not None else None,
        "bundle": signed.bundle_digest if signed is not None else None,
    }
