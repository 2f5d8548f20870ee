"""An artifact with everything that can be known about it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from sealkeeper.client.provenance_graph import DeployDecision, IndexChild, ProvenanceGraph, SignedStatement, build_graph
from sealkeeper.verify.statement import Statement, Subject, encode_statement
from tests.verify.signed import RUNNER, STATEMENT, signed

START = datetime(2026, 6, 1, 12, tzinfo=UTC)
SIGNER = "tenants/acme/keys/release/versions/1"
PROVENANCE = "https://slsa.dev/provenance/v1"
SPDX = "https://spdx.dev/Document/v2.3"
VULNS = "https://in-toto.io/attestation/vulns/v0.2"
TEST = "https://in-toto.io/attestation/test-result/v0.1"
RELEASE = "https://in-toto.io/attestation/release/v0.1"
SUMMARY = "https://slsa.dev/verification_summary/v1"
COMMIT = "7fd1a60b01f91b314f59955a4e4d4e80d8edf11d"


def digest(name: str) -> str:
    return f"sha256:{sha256(name.encode()).hexdigest()}"


def subject(name: str) -> Subject:
    return Subject(name, {"sha256": digest(name).removeprefix("sha256:")})


APP = subject("app")


def provenance(dependencies: Sequence[str] = (), repository: str = "https://github.com/acme/app") -> dict[str, Any]:
    source = {"uri": f"git+{repository}@refs/heads/main", "digest": {"gitCommit": COMMIT}}
    others = [{"uri": f"pkg:pypi/{one}", "digest": dict(subject(one).digests)} for one in dependencies]
    return {
        "buildDefinition": {
            "buildType": "https://acme.example/workflow/v1",
            "externalParameters": {"workflow": {"repository": repository, "ref": "refs/heads/main"}},
            "resolvedDependencies": [source, *others],
        },
        "runDetails": {
            "builder": {"id": "https://ci.example/hosted"},
            "metadata": {"invocationId": "https://ci.example/runs/15", "startedOn": "2026-06-01T11:50:00Z"},
        },
    }


def sbom(packages: int = 2) -> dict[str, Any]:
    return {
        "spdxVersion": "SPDX-2.3",
        "SPDXID": "SPDXRef-DOCUMENT",
        "dataLicense": "CC0-1.0",
        "name": "app",
        "documentNamespace": "https://acme.example/app",
        "creationInfo": {"created": "2026-06-01T11:59:00Z", "creators": ["Tool: scribe-1.2"]},
        "packages": [
            {"name": f"p{one}", "SPDXID": f"SPDXRef-{one}", "downloadLocation": "NOASSERTION"}
            for one in range(packages)
        ],
    }


def scan(*scores: str) -> dict[str, Any]:
    database = {"uri": "https://scanner.example/db", "version": "1", "lastUpdate": "2026-06-01T00:00:00Z"}
    found = [
        {"id": f"CVE-2026-{number}", "severity": [{"method": "nvd", "score": score}]}
        for number, score in enumerate(scores)
    ]
    return {
        "scanner": {"uri": "https://scanner.example", "version": "1", "db": database, "result": found},
        "metadata": {"scanStartedOn": "2026-06-01T11:59:00Z", "scanFinishedOn": "2026-06-01T11:59:30Z"},
    }


TESTED = {"result": "FAILED", "configuration": [{"uri": "https://acme.example/t"}], "failedTests": ["a", "b"]}
SUMMED_UP = {
    "verifier": {"id": "https://sealkeeper.example/gates/production"},
    "timeVerified": "2026-06-01T12:30:00Z",
    "resourceUri": "app",
    "policy": {"uri": "https://sealkeeper.example/policy", "digest": {"sha256": "00" * 32}},
    "verificationResult": "PASSED",
    "verifiedLevels": ["SLSA_BUILD_LEVEL_3"],
}


def statement(kind: str, predicate: dict[str, Any], *subjects: Subject) -> Statement:
    return Statement(subjects or (APP,), kind, predicate)


def believed(said: Statement | None, number: int = 0) -> SignedStatement:
    time = START + timedelta(minutes=number)
    return SignedStatement(said, digest(f"bundle {number}"), "store", SIGNER, time, verified=True)


def unbelieved(said: Statement | None, number: int = 0, why: str = "signature: it does not fit") -> SignedStatement:
    one = believed(said, number)
    return replace(one, who="", time=None, verified=False, why_not=why, origin="file x.json")


ALLOWED = DeployDecision("tenants/acme/gates/production", "eu", "ALLOW", True, START + timedelta(hours=1))
REFUSED = DeployDecision(
    "tenants/acme/gates/production", "us", "DENY", False, START + timedelta(hours=2), "", ("SCAN_AGE: it is too old",)
)
EXCEPTED = DeployDecision(
    "tenants/acme/gates/staging", "", "ALLOW", False, START, "tenants/acme/gates/staging/exceptions/hotfix"
)
EVERYTHING = (
    believed(statement(PROVENANCE, provenance(["lib1", "lib2"]), APP, subject("app.tar.gz")), 1),
    believed(statement(SPDX, sbom()), 2),
    believed(statement(VULNS, scan("9.8", "7.5", "7.1")), 3),
    believed(statement(TEST, TESTED), 4),
    believed(statement(RELEASE, {"purl": "pkg:oci/app@1.4.0"}), 5),
    believed(statement(SUMMARY, SUMMED_UP), 6),
    believed(None, 7),
    believed(statement("https://acme.example/review/v1", {"by": "somebody"}), 8),
    unbelieved(statement("https://cyclonedx.org/bom/v1.6", {"lie": "harmless"}), 9),
)
OF_LIB1 = (
    believed(statement(PROVENANCE, provenance(["lib3"], "https://github.com/acme/lib1"), subject("lib1")), 10),
    believed(statement(SPDX, sbom(), subject("lib1")), 11),
)


def whole() -> ProvenanceGraph:
    return build_graph(
        digest("app"),
        {digest("app"): EVERYTHING, digest("lib1"): OF_LIB1},
        [EXCEPTED, REFUSED, ALLOWED],
        children=[IndexChild(digest("amd64"), "linux/amd64")],
    )


def bundle_of(said: Statement) -> bytes:
    """A real bundle of a statement, of the world that signs for tests."""
    one = signed()
    payload = encode_statement(said.subjects, said.predicate_type, json.dumps(dict(said.predicate)).encode())
    return RUNNER.run(one.world.bundle(one.key, payload, certificate=False, payload_type=STATEMENT))
