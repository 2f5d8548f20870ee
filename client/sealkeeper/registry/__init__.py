"""OCI registries: what an image is, and which bundles are attached to it. Nothing is verified here but digests.

::

    from sealkeeper.registry import ConfigFiles, Deadline, ImageReference, Limits, Registry, find_bundles

    registry = Registry(ConfigFiles.of_environment())
    deadline = Deadline.after(20)  # seconds, for all that follows
    image = registry.resolve(ImageReference.parse("ghcr.io/acme/app:1.2"), deadline)
    for child in registry.images(image, deadline):
        found = find_bundles(registry, image.reference.with_digest(child.digest), Limits(), deadline)

All of it blocks; callers with an event loop use threads.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sealkeeper.registry.attach import attach_bundle
    from sealkeeper.registry.bundles import AttachedBundle, FoundBundles, Limits, Unusable, find_bundles
    from sealkeeper.registry.client import Registry, Resolved
    from sealkeeper.registry.cosign import CosignAttestation, CosignMaterial, CosignSignature, to_bundle
    from sealkeeper.registry.credentials import ConfigFiles, Credentials, CredentialSource
    from sealkeeper.registry.deadline import Deadline
    from sealkeeper.registry.errors import RegistryError
    from sealkeeper.registry.manifest import Descriptor, Index, Manifest, Platform
    from sealkeeper.registry.origin import Layout, Origin
    from sealkeeper.registry.reference import ImageReference
    from sealkeeper.registry.transport import Hosts

__all__ = [
    "AttachedBundle",
    "ConfigFiles",
    "CosignAttestation",
    "CosignMaterial",
    "CosignSignature",
    "CredentialSource",
    "Credentials",
    "Deadline",
    "Descriptor",
    "FoundBundles",
    "Hosts",
    "ImageReference",
    "Index",
    "Layout",
    "Limits",
    "Manifest",
    "Origin",
    "Platform",
    "Registry",
    "RegistryError",
    "Resolved",
    "Unusable",
    "attach_bundle",
    "find_bundles",
    "to_bundle",
]

# The command line starts faster where nobody asks a registry: TLS and HTTP are read when the first name is used.
_MODULES = {
    "attach": ("attach_bundle",),
    "bundles": ("AttachedBundle", "FoundBundles", "Limits", "Unusable", "find_bundles"),
    "client": ("Registry", "Resolved"),
    "cosign": ("CosignAttestation", "CosignMaterial", "CosignSignature", "to_bundle"),
    "credentials": ("ConfigFiles", "CredentialSource", "Credentials"),
    "deadline": ("Deadline",),
    "errors": ("RegistryError",),
    "manifest": ("Descriptor", "Index", "Manifest", "Platform"),
    "origin": ("Layout", "Origin"),
    "reference": ("ImageReference",),
    "transport": ("Hosts",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"sealkeeper.registry.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
