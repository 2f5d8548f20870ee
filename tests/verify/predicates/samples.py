"""Predicates after the examples of their specifications, in our own words; digests are those of nothing."""

from __future__ import annotations

from typing import Any

SHA256 = "fe4fe40ac7250263c5dbe1cf3138912f3f416140aa248637a60d65fe22c47da4"
SHA1 = "5ab2f8a4323abafb10abb68657d9d39f1a775057"

# SLSA v1.1, provenance: the parameters and dependency of its text, in a whole predicate.
PROVENANCE_V1: dict[str, Any] = {
    "buildDefinition": {
        "buildType": "https://slsa-framework.github.io/github-actions-buildtypes/workflow/v1",
        "externalParameters": {"repository": "https://github.com/octocat/hello-world", "ref": "refs/heads/main"},
        "internalParameters": {"github": {"event_name": "push"}},
        "resolvedDependencies": [
            {
                "uri": "git+https://github.com/octocat/hello-world@refs/heads/main",
                "digest": {"gitCommit": "7fd1a60b01f91b314f59955a4e4d4e80d8edf11d"},
            }
        ],
    },
    "runDetails": {
        "builder": {
            "id": "https://github.com/actions/runner/github-hosted",
            "version": {"runner": "2.311.0"},
            "builderDependencies": [{"uri": "pkg:github/actions/runner"}],
        },
        "metadata": {
            "invocationId": "https://github.com/octocat/hello-world/actions/runs/1536140711/attempts/1",
            "startedOn": "2023-01-01T12:34:56Z",
            "finishedOn": "2023-01-01T13:34:57+01:00",
        },
        "byproducts": [{"name": "log", "digest": {"sha256": SHA256}}],
    },
}

# SLSA v0.2, provenance: its example of a Makefile.
PROVENANCE_V0_2: dict[str, Any] = {
    "buildType": "https://example.com/Makefile",
    "builder": {"id": "mailto:person@example.com"},
    "invocation": {
        "configSource": {
            "uri": "https://example.com/example-1.2.3.tar.gz",
            "digest": {"sha256": SHA256},
            "entryPoint": "src:foo",
        },
        "parameters": {"CFLAGS": "-O3"},
        "environment": {"arch": "amd64"},
    },
    "metadata": {
        "buildInvocationId": "7",
        "buildStartedOn": "2022-01-01T00:00:00Z",
        "buildFinishedOn": "2022-01-01T00:00:00Z",
        "completeness": {"parameters": True, "environment": None, "materials": False},
        "reproducible": False,
    },
    "materials": [{"uri": "https://example.com/example-1.2.3.tar.gz", "digest": {"sha256": SHA256}}],
}

# SLSA v1.1, verification summary: its example.
VERIFICATION_SUMMARY: dict[str, Any] = {
    "verifier": {"id": "https://example.com/publication_verifier", "version": {"slsa-verifier-linux-amd64": "v2.3.0"}},
    "timeVerified": "1985-04-12T23:20:50.52Z",
    "resourceUri": "https://example.com/example-1.2.3.tar.gz",
    "policy": {"uri": "https://example.com/example_tarball.policy", "digest": {"sha256": SHA256}},
    "inputAttestations": [
        {"uri": "https://example.com/provenances/example-1.2.3.tar.gz.intoto.jsonl", "digest": {"sha256": SHA256}}
    ],
    "verificationResult": "PASSED",
    "verifiedLevels": ["SLSA_BUILD_LEVEL_3"],
    "dependencyLevels": {"SLSA_BUILD_LEVEL_3": 5, "SLSA_BUILD_LEVEL_2": 7, "SLSA_BUILD_LEVEL_1": 1},
    "slsaVersion": "1.0",
}

# SPDX 2.3: after its example document.
SPDX_2_3: dict[str, Any] = {
    "SPDXID": "SPDXRef-DOCUMENT",
    "spdxVersion": "SPDX-2.3",
    "dataLicense": "CC0-1.0",
    "name": "SPDX-Tools-v2.0",
    "documentNamespace": "https://spdx.org/spdxdocs/spdx-example-444504E0-4F89-41D3-9A0C-0305E82C3301",
    "creationInfo": {
        "created": "2010-01-29T18:30:22Z",
        "creators": ["Tool: LicenseFind-1.0", "Organization: ExampleCodeInspect ()", "Person: Jane Doe ()"],
    },
    "packages": [
        {
            "SPDXID": "SPDXRef-Package",
            "name": "glibc",
            "versionInfo": "2.11.1",
            "downloadLocation": "http://ftp.gnu.org/gnu/glibc/glibc-ports-2.15.tar.gz",
            "filesAnalyzed": False,
            "checksums": [{"algorithm": "SHA1", "checksumValue": SHA1}],
            "externalRefs": [
                {
                    "referenceCategory": "PACKAGE-MANAGER",
                    "referenceType": "purl",
                    "referenceLocator": "pkg:generic/glibc@2.11.1",
                }
            ],
        },
        {"SPDXID": "SPDXRef-Saxon", "name": "Saxon", "downloadLocation": "NOASSERTION"},
    ],
    "files": [{"SPDXID": "SPDXRef-File", "fileName": "./package/foo.c", "checksums": []}],
    "relationships": [
        {
            "spdxElementId": "SPDXRef-DOCUMENT",
            "relatedSpdxElement": "SPDXRef-Package",
            "relationshipType": "DESCRIBES",
        },
        {"spdxElementId": "SPDXRef-Package", "relatedSpdxElement": "SPDXRef-Saxon", "relationshipType": "DEPENDS_ON"},
        {
            "spdxElementId": "SPDXRef-Saxon",
            "relatedSpdxElement": "SPDXRef-Package",
            "relationshipType": "BUILD_DEPENDENCY_OF",
        },
    ],
}

# SPDX 3.0.1: after its example of a package's SBOM in JSON-LD.
SPDX_3: dict[str, Any] = {
    "@context": "https://spdx.org/rdf/3.0.1/spdx-context.jsonld",
    "@graph": [
        {
            "type": "CreationInfo",
            "@id": "_:creationinfo",
            "createdBy": ["http://spdx.example.com/Agent/JoshuaWatt"],
            "createdUsing": ["http://spdx.example.com/Tool/make"],
            "specVersion": "3.0.1",
            "created": "2024-03-06T00:00:00Z",
        },
        {"type": "Person", "spdxId": "http://spdx.example.com/Agent/JoshuaWatt", "name": "Joshua Watt"},
        {"type": "Tool", "spdxId": "http://spdx.example.com/Tool/make", "name": "make"},
        {
            "type": "SpdxDocument",
            "spdxId": "http://spdx.example.com/Document1",
            "name": "my-document",
            "creationInfo": "_:creationinfo",
            "rootElement": ["http://spdx.example.com/Package1"],
        },
        {"type": "software_Package", "spdxId": "http://spdx.example.com/Package1", "name": "my-package"},
        {"type": "software_Package", "spdxId": "http://spdx.example.com/Package2", "name": "its-library"},
        {
            "type": "Relationship",
            "spdxId": "http://spdx.example.com/Relationship/1",
            "from": "http://spdx.example.com/Package1",
            "relationshipType": "dependsOn",
            "to": ["http://spdx.example.com/Package2"],
        },
    ],
}

# CycloneDX: after the specification's examples of components, dependencies and vulnerabilities.
CYCLONEDX: dict[str, Any] = {
    "bomFormat": "CycloneDX",
    "specVersion": "1.6",
    "serialNumber": "urn:uuid:3e671687-395b-41f5-a30f-a58921a69b79",
    "version": 1,
    "metadata": {
        "timestamp": "2024-01-01T00:00:00+00:00",
        "tools": {
            "components": [{"type": "application", "name": "syft", "version": "1.0.1"}],
            "services": [{"name": "scan-service"}],
        },
        "component": {"type": "application", "name": "acme-application", "version": "9.1.1", "bom-ref": "acme-app"},
    },
    "components": [
        {
            "type": "library",
            "bom-ref": "pkg:npm/acme/component@1.0.0",
            "group": "com.acme",
            "name": "tomcat-catalina",
            "version": "9.0.14",
            "purl": "pkg:maven/com.acme/tomcat-catalina@9.0.14?packaging=jar",
            "scope": "required",
            "hashes": [{"alg": "SHA-1", "content": SHA1}],
            "licenses": [{"license": {"id": "Apache-2.0"}}],
            "components": [{"type": "file", "name": "inner.js", "bom-ref": "inner"}],
        },
        {"type": "library", "name": "mylibrary", "version": "1.0.0"},
    ],
    "dependencies": [{"ref": "acme-app", "dependsOn": ["pkg:npm/acme/component@1.0.0", "inner"]}, {"ref": "inner"}],
    "vulnerabilities": [
        {
            "id": "CVE-2018-7489",
            "ratings": [
                {"score": 9.8, "severity": "critical", "method": "CVSSv31"},
                {"score": 0.97, "method": "other"},
                {"severity": "low"},
            ],
            "analysis": {"state": "not_affected"},
            "affects": [{"ref": "pkg:npm/acme/component@1.0.0"}, {"ref": "inner"}, {"ref": "elsewhere"}],
        }
    ],
}

# in-toto vulns v0.2: its example.
VULNS_V0_2: dict[str, Any] = {
    "scanner": {
        "uri": "pkg:github/aquasecurity/trivy@244fd47e07d1004f0aed9",
        "version": "0.19.2",
        "db": {
            "uri": "pkg:github/aquasecurity/trivy-db/commit/4c76bb580b2736d67751410fa4ab66d2b6b9b27d",
            "version": "v1-2021080612",
            "lastUpdate": "2021-08-06T17:45:50.52Z",
        },
        "result": [
            {
                "id": "CVE-123",
                "severity": [{"method": "nvd", "score": "medium"}, {"method": "cvss_score", "score": "5.2"}],
            }
        ],
    },
    "metadata": {"scanStartedOn": "2021-08-06T17:45:50.52Z", "scanFinishedOn": "2021-08-06T17:50:50.52Z"},
}

# in-toto vulns v0.1: one entry as its text has it, one as its example.
VULNS_V0_1: dict[str, Any] = VULNS_V0_2 | {
    "invocation": {"parameters": [], "event_id": "1071875574", "builder.id": "GitHub Actions"},
    "scanner": VULNS_V0_2["scanner"]
    | {
        "result": [
            {"vulnerability": {"id": "GHSA-fxph-q3j8-mv87", "severity": [{"method": "cvss", "score": "9.8"}]}},
            *VULNS_V0_2["scanner"]["result"],
        ]
    },
}

# Trivy's report in cosign's specification of its scan record, cut short.
TRIVY: dict[str, Any] = {
    "SchemaVersion": 2,
    "ArtifactName": "alpine:3.12",
    "ArtifactType": "container_image",
    "Results": [
        {"Target": "Java", "Class": "lang-pkgs", "Type": "jar"},
        {
            "Target": "alpine:3.12 (alpine 3.12.9)",
            "Class": "os-pkgs",
            "Type": "alpine",
            "Vulnerabilities": [
                {
                    "VulnerabilityID": "CVE-2021-28831",
                    "PkgName": "busybox",
                    "InstalledVersion": "1.31.1-r21",
                    "Severity": "HIGH",
                    "CVSS": {"nvd": {"V2Score": 5, "V3Score": 7.5}, "redhat": {"V3Score": 7.1}},
                },
                {
                    "VulnerabilityID": "CVE-2024-12798",
                    "PkgName": "ch.qos.logback:logback-core",
                    "PkgIdentifier": {"PURL": "pkg:maven/ch.qos.logback/logback-core@1.2.13"},
                    "InstalledVersion": "1.2.13",
                    "Severity": "UNKNOWN",
                    "CVSS": {"nvd": {"V2Score": 5}},
                },
            ],
        },
    ],
}
COSIGN_VULN: dict[str, Any] = {
    "invocation": {"parameters": None, "uri": "", "event_id": "", "builder.id": ""},
    "scanner": {
        "uri": "pkg:github/aquasecurity/trivy@v0.30.1-8-gf9cb8a28",
        "version": "v0.30.1-8-gf9cb8a28",
        "db": {"uri": "", "version": ""},
        "result": TRIVY,
    },
    "metadata": {"scanStartedOn": "2022-07-24T17:14:04.864682+09:00", "scanFinishedOn": "2022-07-24T17:14:05Z"},
}
GRYPE: dict[str, Any] = {
    "matches": [
        {
            "vulnerability": {
                "id": "CVE-2004-0971",
                "severity": "Negligible",
                "cvss": [{"metrics": {"baseScore": 2.1}}],
            },
            "artifact": {
                "name": "libkrb5",
                "version": "1.18.3-6",
                "type": "deb",
                "purl": "pkg:deb/debian/libkrb5@1.18.3-6",
            },
        },
        {
            "vulnerability": {"id": "CVE-2023-0286", "severity": "High", "cvss": []},
            "artifact": {"name": "openssl", "version": "1.1.1n"},
        },
    ],
    "descriptor": {"name": "grype", "version": "0.74.0"},
}
COSIGN_VULN_OF_GRYPE = COSIGN_VULN | {"scanner": {"uri": "pkg:github/anchore/grype@v0.74.0", "result": GRYPE}}

# in-toto test-result v0.1: its example, cut short.
TEST_RESULT: dict[str, Any] = {
    "result": "PASSED",
    "configuration": [
        {
            "name": ".github/workflows/ci.yml",
            "downloadLocation": "https://github.com/in-toto/in-toto/blob/d20ace79/.github/workflows/ci.yml",
            "digest": {"gitBlob": "ebe4add40f63c3c98bc9b32ff1e736f04120b023"},
        }
    ],
    "url": "https://github.com/in-toto/in-toto/actions/runs/4425592351",
    "passedTests": ["build (3.7, ubuntu-latest, py)", "build (3.x, ubuntu-latest, lint)"],
    "warnedTests": [],
    "failedTests": None,
}

# in-toto release v0.2: its examples.
RELEASE: dict[str, Any] = {"purl": "pkg:npm/@angular/http@7.2.16", "packageId": "1234567890"}

SAMPLES: dict[str, dict[str, Any]] = {
    "https://slsa.dev/provenance/v1": PROVENANCE_V1,
    "https://slsa.dev/provenance/v0.2": PROVENANCE_V0_2,
    "https://slsa.dev/verification_summary/v1": VERIFICATION_SUMMARY,
    "https://spdx.dev/Document/v2.3": SPDX_2_3,
    "https://spdx.dev/Document/v3": SPDX_3,
    "https://cyclonedx.org/bom": CYCLONEDX,
    "https://in-toto.io/attestation/vulns/v0.1": VULNS_V0_1,
    "https://in-toto.io/attestation/vulns/v0.2": VULNS_V0_2,
    "https://cosign.sigstore.dev/attestation/vuln/v1": COSIGN_VULN,
    "https://in-toto.io/attestation/test-result/v0.1": TEST_RESULT,
    "https://in-toto.io/attestation/release/v0.1": RELEASE,
}
