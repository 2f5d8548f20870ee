"""Tags replaced by the digests that they mean now, so that what is pulled is what was decided on.

Source: JSON Patch (RFC 6902), JSON Pointer (RFC 6901).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sealkeeper.client.admission.decider import ImageAnswer
from sealkeeper.client.admission.verdict import is_pinned
from sealkeeper.client.workload_images import ContainerImage

_MAX_REFERENCE = 4096


def to_pin(images: Sequence[ContainerImage], before: Sequence[ContainerImage]) -> tuple[ContainerImage, ...]:
    """The images that are named by tag, without those that the object had before.

    A running pod's are left: another text would restart its container, and of ephemeral ones is refused.
    """
    known = {(one.kind, one.container, one.image) for one in before}
    return tuple(
        one for one in images if not is_pinned(one.image) and (one.kind, one.container, one.image) not in known
    )


def pins(images: Sequence[ContainerImage], answers: Mapping[str, ImageAnswer]) -> tuple[Mapping[str, str], ...]:
    """Operations that pin images.

    Args:
        images: of the object, to be pinned.
        answers: by image.

    Returns:
        For images that are allowed and were resolved; what is refused is left to the validating webhook.
    """
    found = []
    for one in images:
        answer = answers.get(one.image)
        if answer is None or not answer.allowed or not _is_usable(answer.resolved):
            continue
        found.append({"op": "replace", "path": _pointer(one), "value": answer.resolved})
    return tuple(found)


def _is_usable(resolved: str) -> bool:
    return is_pinned(resolved) and resolved.isascii() and resolved.isprintable() and len(resolved) <= _MAX_REFERENCE


def _pointer(image: ContainerImage) -> str:
    return "".join(f"/{str(key).replace('~', '~0').replace('/', '~1')}" for key in image.keys)
