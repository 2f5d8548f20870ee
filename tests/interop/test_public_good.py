"""What was really signed with Sigstore's public-good and staging instances, before this verifier and a stock one.

Attestations of Python packages (PEP 740) are bundles with other names: the statement is a DSSE envelope's payload of
the type in-toto, the transparency entries are a bundle's.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

from sealkeeper.verify import Policy, TrustRoot, VerificationResult, verify
from sealkeeper.verify.certificate import parse_signer_certificate
from sealkeeper.verify.public_good import read_public_good
from tests.interop.stock import ROOT, Job, refusal_of_sigstore_python
from tests.verify.signed import failed_step

ASSETS = ROOT / ".venv/sigstore-assets/test/assets"
IN_TOTO = "application/vnd.in-toto+json"
STAGING = "sigstore/_store/https%3A%2F%2Ftuf-repo-cdn.sigstage.dev/trusted_root.json"
GITHUB = "https://token.actions.githubusercontent.com"
CIRCLE_CI = "https://circleci.com/api/v2/projects/fdd9283f-e619-46af-8f9c-851f7d3e8b2b/pipeline-definitions"
CIRCLE_CI += "/8e4f8ab2-8d7c-4827-9f15-de076d6d647f"
WORKFLOW = ".github/workflows/release.yml@refs/tags"
MODELS = f"https://github.com/trailofbits/pypi-attestation-models/{WORKFLOW}/v0.0.4a2"
ATTESTATIONS = f"https://github.com/trailofbits/pypi-attestations/{WORKFLOW}/v0.0.19"
GITLAB = "https://gitlab.com/facutuesca/gitlab-oidc-project//.gitlab-ci.yml@refs/heads/main"
SIGNERS = {
    "circleci_sign_publish_example-0.0.1.dev137-py3-none-any.whl.provenance": (CIRCLE_CI, "https://oidc.circleci.com"),
    "gcb_attestation_test-0.0.0.tar.gz.provenance": (
        "919436158236-compute@developer.gserviceaccount.com",
        "https://accounts.google.com",
    ),
    "gitlab_oidc_project-0.0.3.tar.gz.publish.attestation": (GITLAB, "https://gitlab.com"),
    "pypi_attestation_models-0.0.4a2.tar.gz.attestation": (MODELS, GITHUB),
    "pypi_attestation_models-0.0.4a2.tar.gz.sigstore": (MODELS, GITHUB),
    "pypi_attestations-0.0.19.tar.gz.provenance": (ATTESTATIONS, GITHUB),
    "pypi_attestations-0.0.19.tar.gz.publish.attestation": (ATTESTATIONS, GITHUB),
    "pypi_attestations-0.0.19.tar.gz.slsa.attestation": (ATTESTATIONS, GITHUB),
}
# Signed by a person, whose address is not written down here.
STAGED = [
    "rfc8785-0.1.2-py3-none-any.whl.sigstore",
    "rfc8785-0.1.2-py3-none-any.whl.attestation",
    "spt3g-1.0-cp310-cp310-manylinux_2_17_x86_64.manylinux2014_x86_64.whl.publish.attestation",
]


@pytest.fixture(autouse=True)
def _assets() -> None:
    if not ASSETS.is_dir():
        pytest.skip("real bundles are missing (deploy/test-prerequisites fetches them)")


@cache
def roots() -> dict[bool, bytes]:
    """``trusted_root.json`` of the public-good instance (True) and of staging (False)."""
    return {True: read_public_good(), False: Path(str(distribution("sigstore").locate_file(STAGING))).read_bytes()}


def bundle_of(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((ASSETS / name).read_bytes())
    if name.endswith(".provenance"):
        document = document["attestation_bundles"][0]["attestations"][0]
    if "mediaType" in document:
        return document
    material, envelope = document["verification_material"], document["envelope"]
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {
            "certificate": {"rawBytes": material["certificate"]},
            "tlogEntries": material["transparency_entries"],
        },
        "dsseEnvelope": {
            "payload": envelope["statement"],
            "payloadType": IN_TOTO,
            "signatures": [{"sig": envelope["signature"]}],
        },
    }


def signer_of(name: str) -> tuple[str, str]:
    """Identity and issuer."""
    if name in SIGNERS:
        return SIGNERS[name]
    certificate = bundle_of(name)["verificationMaterial"]["certificate"]["rawBytes"]
    parsed = parse_signer_certificate(b64decode(certificate))
    assert "@" in parsed.identity
    return parsed.identity, "https://github.com/login/oauth"


def check(name: str, document: Any, *, public_good: bool) -> VerificationResult:
    identity, issuer = signer_of(name)
    trust = TrustRoot.from_json(roots()[public_good])
    return verify(json.dumps(document).encode(), None, trust, Policy(identity=identity, issuer=issuer))


def refusal_of_stock(name: str, document: Any, *, public_good: bool) -> str | None:
    identity, issuer = signer_of(name)
    job = Job(json.dumps(document).encode(), None, roots()[public_good], [], identity, issuer)
    return refusal_of_sigstore_python(job)


@pytest.mark.parametrize("name", [*SIGNERS, *STAGED])
def test_what_an_instance_really_signed_verifies_with_its_root_and_no_other(name: str) -> None:
    document, public_good = bundle_of(name), name in SIGNERS
    result = check(name, document, public_good=public_good).require()
    assert refusal_of_stock(name, document, public_good=public_good) is None
    # The wheel or archive lies beside, but for one.
    artifact = ASSETS / json.loads(result.payload)["subject"][0]["name"]
    if artifact.exists():
        digest = json.loads(result.payload)["subject"][0]["digest"]["sha256"]
        assert sha256(artifact.read_bytes()).hexdigest() == digest
    assert not check(name, document, public_good=not public_good).verified


def test_what_github_certifies_about_a_build_is_told() -> None:
    name = "pypi_attestations-0.0.19.tar.gz.publish.attestation"
    claims = check(name, bundle_of(name), public_good=True).require().claims
    assert claims["source_repository_uri"] == "https://github.com/trailofbits/pypi-attestations"
    assert claims["source_repository_ref"] == "refs/tags/v0.0.19"
    assert claims["build_signer_uri"] == ATTESTATIONS
    assert claims["runner_environment"] == "github-hosted"
    assert claims["source_repository_visibility"] == "public"
    assert claims["github_workflow_repository"] == "trailofbits/pypi-attestations"


def _entry(document: Any) -> Any:
    return document["verificationMaterial"]["tlogEntries"][0]


def _flip(holder: Any, name: str) -> None:
    data = bytearray(b64decode(holder[name]))
    data[len(data) // 2] ^= 1
    holder[name] = b64encode(data).decode()


TAMPERINGS: list[tuple[Callable[[Any], Any], str]] = [
    (lambda d: _flip(d["dsseEnvelope"], "payload"), "signature"),
    (lambda d: _flip(d["dsseEnvelope"]["signatures"][0], "sig"), "signature"),
    (lambda d: _flip(_entry(d)["inclusionPromise"], "signedEntryTimestamp"), "inclusion-promise"),
    (lambda d: _entry(d).update(integratedTime=str(int(_entry(d)["integratedTime"]) + 1)), "inclusion-promise"),
    (lambda d: _entry(d).pop("inclusionPromise"), "timestamp"),
    (lambda d: _flip(_entry(d), "canonicalizedBody"), "inclusion-promise"),
    (lambda d: _entry(d)["inclusionProof"].update(rootHash=b64encode(bytes(32)).decode()), "checkpoint"),
    (lambda d: _flip(_entry(d)["inclusionProof"]["hashes"], 0), "inclusion-proof"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("tamper", "step"), TAMPERINGS)
def test_a_real_bundle_with_one_thing_changed_is_refused_here_and_by_the_stock_client(
    tamper: Callable[[Any], Any], step: str
) -> None:
    name = "pypi_attestations-0.0.19.tar.gz.slsa.attestation"
    document = bundle_of(name)
    tamper(document)
    assert failed_step(check(name, document, public_good=True)) == step
    assert refusal_of_stock(name, document, public_good=True) is not None


def test_an_entry_of_another_real_bundle_is_refused() -> None:
    name, other = (
        "pypi_attestations-0.0.19.tar.gz.slsa.attestation",
        "pypi_attestations-0.0.19.tar.gz.publish.attestation",
    )
    document = bundle_of(name)
    document["verificationMaterial"]["tlogEntries"] = bundle_of(other)["verificationMaterial"]["tlogEntries"]
    step = failed_step(check(name, document, public_good=True))
    assert step in ("log-entry", "certificate-chain")
    assert refusal_of_stock(name, document, public_good=True) is not None
