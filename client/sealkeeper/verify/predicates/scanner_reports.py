"""Reports of vulnerability scanners, as Trivy and Grype write them with ``--format json``."""

from __future__ import annotations

from typing import Any

from sealkeeper.verify.predicates.findings import Finding, severity, worst_score
from sealkeeper.verify.statement import MAX_VALUES, read_text
from sealkeeper.verify.strict_json import JsonError, Value


def read_report(report: Value) -> tuple[Finding, ...] | None:
    """What a scanner found; ``None`` where the report is neither Trivy's (SchemaVersion 2) nor Grype's.

    Raises:
        JsonError: it is one of theirs, and malformed.
    """
    if not isinstance(report.json, dict):
        return None
    if report.json.get("SchemaVersion") == 2 and "ArtifactName" in report.json:
        return tuple(_trivy(one) for each in _items(report, "Results") for one in _items(each, "Vulnerabilities"))
    descriptor = report.json.get("descriptor")
    if "matches" in report.json and isinstance(descriptor, dict) and descriptor.get("name") == "grype":
        return tuple(_grype(one) for one in _items(report, "matches"))
    return None


def _trivy(value: Value) -> Finding:
    identifier, sources = value.optional("PkgIdentifier"), value.optional("CVSS")
    # The members' names are the report's own, and not told.
    scores = [] if sources is None else [_object(Value(one, sources.path)) for one in _object(sources).values()]
    score = worst_score(one.get(name) for one in scores for name in ("V40Score", "V3Score"))
    if score is None:
        score = worst_score(one.get("V2Score") for one in scores)
    purl = "" if identifier is None else read_text(identifier, "PURL")
    return Finding(
        value.member("VulnerabilityID").text(),
        severity([read_text(value, "Severity")], score),
        score,
        (purl or _package(read_text(value, "PkgName"), read_text(value, "InstalledVersion")),),
    )


def _grype(value: Value) -> Finding:
    vulnerability, artifact = value.member("vulnerability"), value.member("artifact")
    metrics = [one.optional("metrics") for one in _items(vulnerability, "cvss")]
    score = worst_score(_object(one).get("baseScore") for one in metrics if one is not None)
    package = read_text(artifact, "purl") or _package(read_text(artifact, "name"), read_text(artifact, "version"))
    return Finding(
        vulnerability.member("id").text(), severity([read_text(vulnerability, "severity")], score), score, (package,)
    )


def _items(value: Value, name: str) -> list[Value]:
    one = value.optional(name)
    return [] if one is None else one.items(MAX_VALUES)


def _object(value: Value) -> dict[str, Any]:
    if not isinstance(value.json, dict):
        raise JsonError(f"{value.path}: must be an object")
    return value.json


def _package(name: str, version: str) -> str:
    return f"{name}@{version}" if version else name
