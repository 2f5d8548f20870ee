"""What tests attach, and to what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sealkeeper.registry import Deadline, ImageReference, Registry
from sealkeeper.registry.cosign import BUNDLE
from sealkeeper.registry.manifest import OCI_INDEX, OCI_MANIFEST, descriptor_json
from tests.registry.scripted_registry import ScriptedRegistry, described, sha256
from tests.stores.docker_registry import DockerRegistry


def bundle_json(words: str = "words", **more: Any) -> bytes:
    """What looks like a bundle."""
    document = {"mediaType": BUNDLE, "verificationMaterial": {}, "dsseEnvelope": {"payload": words}, **more}
    return json.dumps(document).encode()


def named(registry: ScriptedRegistry | DockerRegistry, rest: str) -> ImageReference:
    """A reference of an image in it."""
    return ImageReference.parse(f"{registry.host}/{rest}")


def account_file(directory: Path, content: dict[str, Any]) -> Path:
    """A ``config.json``."""
    path = directory / "config.json"
    path.write_text(json.dumps(content))
    return path


def push_image(registry: Registry, repository: ImageReference, deadline: Deadline, layer: bytes = b"layer") -> str:
    """Put an image of one layer into a real registry, under the reference's tag; its digest."""
    config = registry.push_blob(repository, b"{}", "application/vnd.oci.image.config.v1+json", deadline)
    content = registry.push_blob(repository, layer, "application/vnd.oci.image.layer.v1.tar", deadline)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor_json(config),
        "layers": [descriptor_json(content)],
    }
    data = json.dumps(document).encode()
    registry.push_manifest(repository, data, OCI_MANIFEST, deadline)
    return sha256(data)


def index_of(*children: dict[str, Any]) -> bytes:
    """An index."""
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children}).encode()


def bundle_manifest(registry: ScriptedRegistry, image: str, bundle: bytes, **changes: Any) -> dict[str, Any]:
    """The manifest of an attached bundle, whose blobs are kept."""
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": BUNDLE,
        "config": described(registry.put_blob(b"{}"), 2, "application/vnd.oci.empty.v1+json"),
        "layers": [described(registry.put_blob(bundle), len(bundle), BUNDLE)],
        "subject": described(image, 100, OCI_MANIFEST),
        **changes,
    }
