"""``sealkeeper attach``: bundles that are there already, into the registry of the image that they are about."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sealkeeper.client.cli.images import attachment_document, look_up, open_registry, print_attachment
from sealkeeper.client.cli.input_files import read_limited
from sealkeeper.client.cli.options import Json, options_of
from sealkeeper.client.cli.output import note, print_json, print_text, printable
from sealkeeper.client.cli.predicate_types import short_name_of

if TYPE_CHECKING:
    from sealkeeper.client.image_attachments import ReadBundle

EXIT_CODES = "Exit codes: 0 attached, or was before; 2 wrong usage or input; 3 the registry does not answer."
_MAX_BUNDLE = 24 * 1024 * 1024
_MAX_BUNDLES = 64


def attach(
    context: typer.Context,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="IMAGE@sha256:HEX, or IMAGE:TAG.")],
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help="Files with Sigstore bundles, v0.3.")],
    json_output: Json = False,
) -> None:
    """Attach bundles to an image in its registry, and to those images of an index that they are about.

    As referrers; in the tag that stands in for them where the registry has no such API. No gateway is asked.
    """
    from sealkeeper.client.image_attachments import attach as attach_to
    from sealkeeper.registry import ImageReference

    if len(bundles) > _MAX_BUNDLES:
        raise typer.BadParameter(f"at most {_MAX_BUNDLES} bundles are taken", param_hint="BUNDLE")
    options, reference = options_of(context), ImageReference.parse(image)
    # All of them first, so that one that is no good is found out before anything is put anywhere.
    found = [(path, _read(path)) for path in bundles]
    registry = open_registry()
    [target] = look_up([reference], registry, options, children=True)
    told = []
    for path, bundle in found:
        if target.artifact.digest not in bundle.digests:
            about = printable(str(target.image))
            note(f"warning: {printable(path)} does not say that it is about {about}: gates pass over it")
        if not json_output:
            print_text(f"{printable(path)}: {printable(short_name_of(bundle.predicate_type) or 'signature')}")
        for one in attach_to(registry, target, bundle, options.timeout):
            if not json_output:
                print_attachment(one, print_text)
            told.append(
                {"bundle": str(path), "predicateType": bundle.predicate_type or None, **attachment_document(one)}
            )
    if json_output:
        print_json({"image": str(target.image), "attached": told})


def _read(path: Path) -> ReadBundle:
    from sealkeeper.client.image_attachments import read_bundle
    from sealkeeper.verify.errors import VerifyError

    try:
        bundle = read_bundle(read_limited(path, _MAX_BUNDLE, "BUNDLE"))
    except VerifyError as error:
        raise typer.BadParameter(f"{printable(path)}: {printable(str(error))}", param_hint="BUNDLE") from None
    if bundle.version != "0.3":
        raise typer.BadParameter(
            f"{printable(path)} is a bundle of v{bundle.version}; v0.3 is attached to images", param_hint="BUNDLE"
        )
    return bundle
