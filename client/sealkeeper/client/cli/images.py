"""Images on the command line: which arguments are some, and what is told of bundles that are attached to them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sealkeeper.client.cli.output import printable

if TYPE_CHECKING:
    from sealkeeper.client.cli.options import Options
    from sealkeeper.client.gate_evidence import Target
    from sealkeeper.client.image_attachments import Attachment
    from sealkeeper.registry import ImageReference, Registry

_DIGEST = re.compile(r"sha\d+:")


def image_of(text: str, *, bare: bool = False) -> ImageReference | None:
    """The image that an argument means; ``None`` where it means a file or a digest, though none may be there.

    A file that is there is meant before an image. ``@sha256:…`` makes an image of it, and so does ``:TAG``.

    Args:
        text: the argument.
        bare: the name of an image alone is one as well, where it begins with a registry's host.

    Raises:
        ImageReferenceError: the text has a digest and is no image.
    """
    if _DIGEST.match(text) or _is_there(text):
        return None
    from sealkeeper.registry import ImageReference, RegistryError

    try:
        reference = ImageReference.parse(text)
    except RegistryError:
        if "@sha" in text:
            raise
        return None
    host, slash, _ = text.partition("/")
    named = bool(slash) and ("." in host or ":" in host or host == "localhost")
    tagged = ":" in text.rpartition("/")[2]
    return reference if tagged or (bare and named) else None


def _is_there(text: str) -> bool:
    try:
        return Path(text).exists()
    except OSError:
        # Images have longer names than files may.
        return False


def open_registry() -> Registry:
    """Registries, with the credentials of ``docker login`` and ``podman login``."""
    from sealkeeper.registry import ConfigFiles, Registry

    return Registry(ConfigFiles.of_environment())


def look_up(
    references: Sequence[ImageReference], registry: Registry, options: Options, *, children: bool
) -> list[Target]:
    """The images as they are now.

    Args:
        references: of them.
        registry: to ask.
        options: have the time for each.
        children: the images of an index too.

    Raises:
        RegistryError: one cannot be found.
    """
    from sealkeeper.client.gate_evidence import image_target
    from sealkeeper.registry import Deadline

    found = [image_target(one, registry, Deadline.after(options.timeout)) for one in references]
    return found if children else [replace(one, artifact=replace(one.artifact, children=())) for one in found]


def print_attachment(attachment: Attachment, say: Callable[[str], None]) -> None:
    """Tell a person of one, on a line of its own."""
    told = "attached to" if attachment.is_new else "was attached before to"
    say(f"  {told} {printable(attachment.image)} ({attachment.layout.value})")


def attachment_document(attachment: Attachment) -> dict[str, Any]:
    """For ``--json``."""
    return {
        "image": str(attachment.image),
        "manifest": attachment.manifest,
        "layout": attachment.layout.name,
        "new": attachment.is_new,
    }
