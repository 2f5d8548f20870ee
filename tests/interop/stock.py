"""The verifiers that this project did not write: sigstore-python and @sigstore/verify."""

from __future__ import annotations

import json
import shutil
import subprocess
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NODE_MODULES = ROOT / ".venv/node"


@dataclass(frozen=True)
class Job:
    """One thing to verify.

    Attributes:
        bundle: JSON.
        artifact: bytes; ``None`` for a DSSE envelope.
        trusted_root: JSON.
        keys: tenants' keys, as in keys.json.
        identity: URI that the certificate must name; ``None`` for a key bundle.
        issuer: that its extension must name.
    """

    bundle: bytes
    artifact: bytes | None
    trusted_root: bytes
    keys: list[dict[str, Any]] = field(default_factory=list)
    identity: str | None = None
    issuer: str | None = None


def refusals_of_sigstore_js(jobs: list[Job]) -> list[str | None]:
    """Why each is refused; ``None`` where it is accepted. Skips where node is missing."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is missing (Debian: apt-get install nodejs npm)")
    if not (NODE_MODULES / "node_modules/@sigstore/verify").is_dir():
        pytest.skip("the stock JavaScript verifier is missing (deploy/test-prerequisites installs it with npm)")
    result = subprocess.run(
        [node, str(Path(__file__).with_name("verify.mjs")), str(NODE_MODULES)],
        input=json.dumps([_json(job) for job in jobs]),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    answers: list[str | None] = json.loads(result.stdout)
    return answers


def _json(job: Job) -> dict[str, Any]:
    document: dict[str, Any] = {
        "bundle": json.loads(job.bundle),
        "trustedRoot": json.loads(job.trusted_root),
        "keys": {
            key["hint"]: {"spki": key["publicKey"]["rawBytes"], **key["publicKey"]["validFor"]} for key in job.keys
        },
    }
    if job.artifact is not None:
        document["artifact"] = b64encode(job.artifact).decode()
    if job.identity is not None:
        document |= {"identity": job.identity, "issuer": job.issuer}
    return document


def refusal_of_sigstore_python(job: Job) -> str | None:
    """Why it is refused; ``None`` where it is accepted. Certificate bundles only: it knows no managed keys."""
    from sigstore.models import Bundle, TrustedRoot
    from sigstore.verify import Verifier, policy

    assert job.identity is not None
    try:
        verifier = Verifier(trusted_root=_trusted_root(TrustedRoot, job.trusted_root))
        bundle = Bundle.from_json(job.bundle)
        wanted = policy.Identity(identity=job.identity, issuer=job.issuer)
        if job.artifact is None:
            verifier.verify_dsse(bundle, wanted)
        else:
            verifier.verify_artifact(job.artifact, bundle, wanted)
    except Exception as error:  # noqa: BLE001  (whatever it raises is a refusal)
        return f"{type(error).__name__}: {error}"
    return None


def _trusted_root(kind: Any, document: bytes) -> Any:
    import tempfile

    with tempfile.NamedTemporaryFile("wb", suffix=".json") as file:
        file.write(document)
        file.flush()
        return kind.from_file(file.name)
