"""Where something that is attached to an image was found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Layout(Enum):
    """How it is attached."""

    REFERRERS_API = "referrers API"
    REFERRERS_TAG = "referrers tag"
    COSIGN_SIGNATURES = "cosign signature tag"
    COSIGN_ATTESTATIONS = "cosign attestation tag"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where it was found.

    Attributes:
        layout: how it is attached.
        image: digest of the image.
        manifest: digest of the manifest that holds it.
        layer: digest of the layer that it is; empty where the manifest has none that would do.
    """

    layout: Layout
    image: str
    manifest: str
    layer: str = ""

    def __str__(self) -> str:
        return f"{self.layout.value} of {self.image}, {self.layer or self.manifest}"
