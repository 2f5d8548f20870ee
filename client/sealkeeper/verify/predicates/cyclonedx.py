"""CycloneDX 1.2 to 1.7 (https://cyclonedx.org/specification/overview) as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sealkeeper.verify.predicates.findings import Finding, severity, worst_score
from sealkeeper.verify.predicates.sbom import Sbom, require_version
from sealkeeper.verify.predicates.times import read_time
from sealkeeper.verify.strict_json import Value

CYCLONEDX = "https://cyclonedx.org/bom"
CYCLONEDX_TYPES = (CYCLONEDX, *(f"{CYCLONEDX}/v{version}" for version in ("1.2", "1.3", "1.4", "1.5", "1.6", "1.7")))


def read_cyclonedx(predicate_type: str, predicate: Value) -> Sbom:
    """Read a CycloneDX document that its schema has passed.

    Raises:
        JsonError: it is of another version than its type says, or its time is malformed.
    """
    version = predicate.member("specVersion")
    require_version(predicate_type, CYCLONEDX, version, version.text())
    metadata = predicate.optional("metadata") or Value({}, "$.metadata")
    described: Mapping[str, Any] = metadata.json.get("component", {})
    packages: dict[str, str] = {}
    return Sbom(
        "CycloneDX",
        version.text(),
        _named(described),
        read_time(metadata, "timestamp"),
        _tools(metadata.json.get("tools", [])),
        _count_components(predicate.json, packages),
        sum(len(one.get("dependsOn", [])) for one in predicate.json.get("dependencies", [])),
        tuple(_read_vulnerability(one, packages) for one in predicate.json.get("vulnerabilities", [])),
    )


def _count_components(bom: Mapping[str, Any], packages: dict[str, str]) -> int:
    # Also notes what each reference stands for.
    level: list[Mapping[str, Any]] = [bom]
    found = 0
    while level := [one for each in level for one in each.get("components", [])]:
        found += len(level)
        packages |= {one["bom-ref"]: one.get("purl") or _named(one) for one in level if "bom-ref" in one}
    return found


def _tools(tools: Any) -> tuple[str, ...]:
    if isinstance(tools, dict):
        tools = [*tools.get("components", []), *tools.get("services", [])]
    return tuple(_named(one) for one in tools if one.get("name"))


def _named(component: Mapping[str, Any]) -> str:
    name, version = component.get("name", ""), component.get("version", "")
    return f"{name}@{version}" if version else name


def _read_vulnerability(one: Mapping[str, Any], packages: Mapping[str, str]) -> Finding:
    ratings = one.get("ratings", [])
    score = worst_score(each.get("score") for each in ratings if each.get("method", "CVSS").startswith("CVSS"))
    return Finding(
        one.get("id", ""),
        severity([each["severity"] for each in ratings if "severity" in each], score),
        score,
        tuple(packages.get(each["ref"], each["ref"]) for each in one.get("affects", [])),
        one.get("analysis", {}).get("state", ""),
    )
