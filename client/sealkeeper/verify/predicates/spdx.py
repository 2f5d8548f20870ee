"""SPDX 2.2, 2.3 and 3 (https://spdx.github.io/spdx-spec), each as JSON."""

from __future__ import annotations

from typing import Any

from sealkeeper.verify.predicates.sbom import Sbom, require_version
from sealkeeper.verify.statement import read_text
from sealkeeper.verify.strict_json import JsonError, Value

SPDX = "https://spdx.dev/Document"
SPDX_TYPES = (SPDX, *(f"{SPDX}/v{version}" for version in ("2.2", "2.3", "3", "3.0", "3.0.1")))
_TOOL = "Tool: "


def read_spdx(predicate_type: str, predicate: Value) -> Sbom:
    """Read an SPDX document that its schema has passed.

    Raises:
        JsonError: it is of another version than its type says, or has no time at which it was made.
    """
    if "@context" in predicate.json:
        return _read_v3(predicate_type, predicate)
    version = predicate.member("spdxVersion")
    require_version(predicate_type, SPDX, version, version.text().removeprefix("SPDX-"))
    info = predicate.member("creationInfo")
    relationships: list[Any] = predicate.json.get("relationships", [])
    return Sbom(
        "SPDX",
        version.text().removeprefix("SPDX-"),
        predicate.member("name").text(),
        info.member("created").time(),
        tuple(one.removeprefix(_TOOL) for one in info.json["creators"] if one.startswith(_TOOL)),
        len(predicate.json.get("packages", [])),
        sum(_is_dependency(one["relationshipType"]) for one in relationships),
    )


def _is_dependency(kind: str) -> bool:
    return kind == "DEPENDS_ON" or kind.endswith("DEPENDENCY_OF")


def _read_v3(predicate_type: str, predicate: Value) -> Sbom:
    graph: list[dict[str, Any]] = predicate.json["@graph"]
    places = {one.get("spdxId") or one.get("@id"): place for place, one in enumerate(graph)}

    def element(place: int) -> Value:
        return Value(graph[place], f"$.@graph[{place}]")

    document = next((element(place) for place, one in enumerate(graph) if one["type"] == "SpdxDocument"), None)
    if document is None:
        raise JsonError("$.@graph: must have an SpdxDocument")
    info = document.member("creationInfo")
    if isinstance(info.json, str):
        if info.json not in places:
            raise JsonError(f"{info.path}: names what is not in the graph")
        info = element(places[info.json])
    version = info.member("specVersion")
    if not version.text(64).startswith("3."):
        raise JsonError(f"{version.path}: must be 3 and a minor version")
    require_version(predicate_type, SPDX, version, version.text(64))
    used = _references(info.json.get("createdUsing", []))
    tools = [graph[places[one]] for one in used if isinstance(one, str) and one in places]
    return Sbom(
        "SPDX",
        version.text(64),
        read_text(document, "name"),
        info.member("created").time(),
        tuple(one["name"] for one in tools if "name" in one),
        sum(one["type"] == "software_Package" for one in graph),
        sum(
            len(_references(one["to"]))
            for one in graph
            if one["type"] == "Relationship" and one["relationshipType"] == "dependsOn"
        ),
    )


def _references(value: Any) -> list[Any]:
    # JSON-LD writes a set of one as its member.
    return value if isinstance(value, list) else [value]
