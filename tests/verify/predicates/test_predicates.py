"""All kinds of predicates: which there are, what is refused and where it says so, and that nothing else happens."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.verify.errors import PredicateError
from sealkeeper.verify.predicates import KINDS, by_short_name, kind_of, read_predicate, validate_predicate
from sealkeeper.verify.predicates.schema import MAX_PROBLEMS, json_path, require_valid
from sealkeeper.verify.statement import MAX_DEPTH, Subject, encode_statement, parse_statement
from tests.verify.predicates.samples import (
    COSIGN_VULN_OF_GRYPE,
    CYCLONEDX,
    SAMPLES,
    SHA1,
    SHA256,
)

PROVENANCE = "https://slsa.dev/provenance/v1"
PROVENANCE_V0_2 = "https://slsa.dev/provenance/v0.2"
VSA = "https://slsa.dev/verification_summary/v1"
SPDX = "https://spdx.dev/Document/v2.3"
SPDX_3 = "https://spdx.dev/Document/v3"
BOM = "https://cyclonedx.org/bom"
VULNS = "https://in-toto.io/attestation/vulns/v0.2"
VULNS_V0_1 = "https://in-toto.io/attestation/vulns/v0.1"
COSIGN = "https://cosign.sigstore.dev/attestation/vuln/v1"
TESTS = "https://in-toto.io/attestation/test-result/v0.1"
RELEASE = "https://in-toto.io/attestation/release/v0.1"

Place = tuple[str | int, ...]


def changed(predicate: dict[str, Any], place: Place, value: object) -> dict[str, Any]:
    """A copy with one value replaced, or left out where it is ``...``."""
    document: Any = copy.deepcopy(predicate)
    holder = document
    for part in place[:-1]:
        holder = holder[part]
    if value is ...:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value
    return dict(document)


def places(value: object, place: Place = ()) -> Iterator[Place]:
    """Where there is a value within a value."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in members:
        yield (*place, name)
        yield from places(one, (*place, name))


def refusal(predicate_type: str, predicate: dict[str, Any]) -> PredicateError:
    with pytest.raises(PredicateError) as caught:
        validate_predicate(predicate_type, predicate)
    return caught.value


@pytest.mark.parametrize("predicate_type", SAMPLES)
def test_the_example_of_each_specification_is_read_from_a_statement(predicate_type: str) -> None:
    sample = SAMPLES[predicate_type]
    encoded = encode_statement([Subject("", {"sha256": SHA256})], predicate_type, json.dumps(sample).encode())
    statement = parse_statement(encoded)
    assert statement.predicate == sample
    assert read_predicate(statement.predicate_type, statement.predicate) is not None


def test_every_predicate_type_belongs_to_one_kind_and_is_found_by_its_names() -> None:
    types = [one for kind in KINDS for one in kind.types]
    assert len(types) == len(set(types))
    assert all(kind_of(one) is kind and by_short_name(kind.short_name) is kind for kind in KINDS for one in kind.types)
    assert {kind.short_name: kind.types[0] for kind in KINDS} == {
        "slsa-provenance": PROVENANCE,
        "vsa": VSA,
        "spdx": "https://spdx.dev/Document",
        "cyclonedx": BOM,
        "vulns": VULNS,
        "test-result": TESTS,
        "release": RELEASE,
    }
    assert kind_of("https://example.com/unknown") is by_short_name("unknown") is None


def test_every_schema_is_one_and_says_what_it_is_of() -> None:
    folder = files("sealkeeper.verify.predicates")
    schemas = [one for one in folder.iterdir() if one.name.endswith(".schema.json")]
    used = {schema for kind in KINDS for schema in kind.schemas.values()} | {"fields.schema.json"}
    assert {one.name for one in schemas} == used
    for one in schemas:
        document = json.loads(one.read_text())
        assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        assert "https://" in document["$comment"]
        jsonschema_rs.meta.validate(document)


@pytest.mark.parametrize("predicate_type", SAMPLES)
def test_a_predicate_under_the_type_of_another_kind_is_refused(predicate_type: str) -> None:
    for other, sample in SAMPLES.items():
        if other != predicate_type and {other, predicate_type} != {VULNS, VULNS_V0_1}:
            assert refusal(predicate_type, sample).path.startswith("$")


def test_a_predicate_of_a_type_that_is_not_known_is_any_object() -> None:
    assert read_predicate("https://example.com/unknown", {"a": [1]}) is None
    with pytest.raises(PredicateError, match=r"^\$: must be an object"):
        read_predicate("https://example.com/unknown", [])  # type: ignore[arg-type]


@pytest.mark.parametrize("predicate_type", SAMPLES)
def test_members_that_are_not_known_are_ignored(predicate_type: str) -> None:
    sample = SAMPLES[predicate_type]
    assert read_predicate(predicate_type, sample | {"examplebuilder_isCodeReviewed": True}) == read_predicate(
        predicate_type, sample
    )


BAD: list[tuple[str, Place, object, str]] = [
    (PROVENANCE, ("buildDefinition",), ..., "$.buildDefinition: is missing"),
    (PROVENANCE, ("buildDefinition",), None, "$.buildDefinition: must be object"),
    (PROVENANCE, ("buildDefinition", "externalParameters"), ..., "$.buildDefinition.externalParameters: is missing"),
    (PROVENANCE, ("buildDefinition", "externalParameters"), [], "$.buildDefinition.externalParameters: must be object"),
    (PROVENANCE, ("buildDefinition", "buildType"), "make", "$.buildDefinition.buildType: must match"),
    (PROVENANCE, ("buildDefinition", "buildType"), 'https://a"', "$.buildDefinition.buildType: must be a URI"),
    (
        PROVENANCE,
        ("buildDefinition", "internalParameters"),
        "x",
        "$.buildDefinition.internalParameters: must be object or null",
    ),
    (
        PROVENANCE,
        ("buildDefinition", "resolvedDependencies", 0),
        {"name": "a"},
        "$.buildDefinition.resolvedDependencies[0]: must have a uri, a digest or content",
    ),
    (
        PROVENANCE,
        ("buildDefinition", "resolvedDependencies", 0, "digest", "gitCommit"),
        "7fd1a6",
        "$.buildDefinition.resolvedDependencies[0].digest.gitCommit: must be 40 or 64",
    ),
    (
        PROVENANCE,
        ("buildDefinition", "resolvedDependencies", 0, "digest"),
        {"a b": 3},
        '$.buildDefinition.resolvedDependencies[0].digest["a b"]: must be string',
    ),
    (
        PROVENANCE,
        ("buildDefinition", "resolvedDependencies", 0, "digest"),
        {"a b": "3"},
        "$.buildDefinition.resolvedDependencies[0].digest: a member's name is no algorithm",
    ),
    (PROVENANCE, ("runDetails", "builder", "id"), "", "$.runDetails.builder.id: must match"),
    (
        PROVENANCE,
        ("runDetails", "builder", "builderDependencies", 0),
        {},
        "$.runDetails.builder.builderDependencies[0]: must have a uri, a digest or content",
    ),
    (PROVENANCE, ("runDetails", "builder", "version"), {"a": 1}, "$.runDetails.builder.version.a: must be string"),
    (PROVENANCE, ("runDetails", "byproducts", 0, "content"), "?", "$.runDetails.byproducts[0].content: must be base64"),
    (
        PROVENANCE,
        ("runDetails", "metadata", "startedOn"),
        "2023-01-01T12:34:56",
        "$.runDetails.metadata.startedOn: must be a date and time",
    ),
    (
        PROVENANCE,
        ("runDetails", "metadata", "finishedOn"),
        "2023-01-01T12:34:55Z",
        "$.runDetails.metadata.finishedOn: is before startedOn",
    ),
    (PROVENANCE_V0_2, ("builder", "id"), ..., "$.builder.id: is missing"),
    (PROVENANCE_V0_2, ("invocation", "parameters"), [], "$.invocation.parameters: must be object or null"),
    (PROVENANCE_V0_2, ("materials", 0, "digest"), {"sha256": SHA1}, "$.materials[0].digest.sha256: must be 64"),
    (
        PROVENANCE_V0_2,
        ("metadata", "buildFinishedOn"),
        "2021-12-31T23:59:59.999Z",
        "$.metadata.buildFinishedOn: is before buildStartedOn",
    ),
    (
        PROVENANCE_V0_2,
        ("metadata", "completeness", "materials"),
        "yes",
        "$.metadata.completeness.materials: must be boolean or null",
    ),
    (VSA, ("verifier", "id"), "verifier", "$.verifier.id: must match"),
    (VSA, ("timeVerified",), "yesterday", "$.timeVerified: must be a date and time"),
    (VSA, ("resourceUri",), ..., "$.resourceUri: is missing"),
    (VSA, ("policy",), {"digest": {"sha256": SHA256}}, "$.policy.uri: is missing"),
    (VSA, ("policy", "digest", "sha256"), "00", "$.policy.digest.sha256: must be 64"),
    (VSA, ("inputAttestations", 0, "digest"), ..., "$.inputAttestations[0].digest: is missing"),
    (VSA, ("verificationResult",), "passed", "$.verificationResult: must be one of PASSED, FAILED"),
    (VSA, ("verifiedLevels",), ["FAILED"], "$.verifiedLevels: has FAILED, but the result is PASSED"),
    (VSA, ("verifiedLevels",), [""], "$.verifiedLevels[0]: "),
    (
        VSA,
        ("verifiedLevels",),
        ["SLSA_BUILD_LEVEL_3", "SLSA_SOURCE_LEVEL_2", "SLSA_BUILD_LEVEL_2"],
        "$.verifiedLevels[2]: is the second level of the track SLSA_BUILD",
    ),
    (VSA, ("dependencyLevels", "SLSA_BUILD_LEVEL_3"), -1, "$.dependencyLevels.SLSA_BUILD_LEVEL_3: "),
    (VSA, ("dependencyLevels", "a b"), 1, "$.dependencyLevels: has a member whose name is not allowed"),
    (VSA, ("slsaVersion",), "1", "$.slsaVersion: must match"),
    (SPDX, ("spdxVersion",), "SPDX-2.1", "$.spdxVersion: must be one of SPDX-2.2, SPDX-2.3"),
    (SPDX, ("spdxVersion",), "SPDX-2.2", "$.spdxVersion: must be 2.3, as the predicate type says"),
    (SPDX, ("SPDXID",), "SPDXRef-Other", "$.SPDXID: must be 'SPDXRef-DOCUMENT'"),
    (SPDX, ("documentNamespace",), ..., "$.documentNamespace: is missing"),
    (SPDX, ("creationInfo", "creators"), [], "$.creationInfo.creators: "),
    (SPDX, ("creationInfo", "created"), "2010-01-29", "$.creationInfo.created: must be a date and time"),
    (SPDX, ("packages", 1, "downloadLocation"), ..., "$.packages[1].downloadLocation: is missing"),
    (SPDX, ("packages", 0, "checksums", 0, "checksumValue"), "xyz", "$.packages[0].checksums[0].checksumValue: "),
    (SPDX, ("relationships", 2, "relationshipType"), "depends on", "$.relationships[2].relationshipType: must match"),
    (SPDX_3, ("@context",), "https://schema.org", "$.@context: is of none of the forms"),
    (SPDX_3, ("@graph",), ..., "$.@graph: is missing"),
    (SPDX_3, ("@graph",), [], "$.@graph: "),
    (SPDX_3, ("@graph", 3), ..., "$.@graph: must have an SpdxDocument"),
    (SPDX_3, ("@graph", 0, "specVersion"), "2.3", "$.@graph[0].specVersion: must match"),
    (SPDX_3, ("@graph", 0, "created"), ..., "$.@graph[0].created: is missing"),
    (SPDX_3, ("@graph", 3, "creationInfo"), "_:other", "$.@graph[3].creationInfo: names what is not in the graph"),
    (SPDX_3, ("@graph", 3, "creationInfo"), {"specVersion": "4"}, "$.@graph[3].creationInfo.specVersion: must be 3"),
    (SPDX_3, ("@graph", 4, "type"), ..., "$.@graph[4].type: is missing"),
    (SPDX_3, ("@graph", 4, "name"), ..., "$.@graph[4].name: is missing"),
    (SPDX_3, ("@graph", 6, "to"), ..., "$.@graph[6].to: is missing"),
    (BOM, ("bomFormat",), "SPDX", "$.bomFormat: must be 'CycloneDX'"),
    (BOM, ("specVersion",), "2.0", "$.specVersion: must be one of 1.2, 1.3"),
    (BOM, ("serialNumber",), "urn:uuid:3E671687-395b-41f5-a30f-a58921a69b79", "$.serialNumber: must match"),
    (BOM, ("version",), 0, "$.version: "),
    (BOM, ("metadata", "timestamp"), "2024-01-01", "$.metadata.timestamp: must be a date and time"),
    (BOM, ("components", 1, "name"), ..., "$.components[1].name: is missing"),
    (BOM, ("components", 1, "type"), "program", "$.components[1].type: must be one of application"),
    (BOM, ("components", 0, "components", 0, "type"), ..., "$.components[0].components[0].type: is missing"),
    (BOM, ("components", 0, "hashes", 0, "content"), "abc", "$.components[0].hashes[0].content: must match"),
    (BOM, ("components", 0, "bom-ref"), 7, "$.components[0].bom-ref: must be string"),
    (BOM, ("dependencies", 0, "ref"), ..., "$.dependencies[0].ref: is missing"),
    (BOM, ("vulnerabilities", 0, "ratings", 0, "severity"), "huge", "$.vulnerabilities[0].ratings[0].severity: "),
    (BOM, ("vulnerabilities", 0, "analysis", "state"), "fine", "$.vulnerabilities[0].analysis.state: must be one of"),
    (VULNS, ("scanner", "db", "lastUpdate"), ..., "$.scanner.db.lastUpdate: is missing"),
    (VULNS, ("scanner", "db", "lastUpdate"), "2021", "$.scanner.db.lastUpdate: must be a date and time"),
    (VULNS, ("scanner", "result"), {}, "$.scanner.result: must be array"),
    (VULNS, ("scanner", "result", 0, "id"), ..., "$.scanner.result[0].id: is missing"),
    (VULNS, ("scanner", "result", 0, "severity"), "high", "$.scanner.result[0].severity: must be array"),
    (VULNS, ("scanner", "result", 0, "severity", 1, "score"), ..., "$.scanner.result[0].severity[1].score: is missing"),
    (
        VULNS,
        ("scanner", "result", 0),
        {"vulnerability": {"id": "a", "severity": []}},
        "$.scanner.result[0].id: is missi",
    ),
    (
        VULNS,
        ("metadata", "scanFinishedOn"),
        "2021-08-06T17:45:50Z",
        "$.metadata.scanFinishedOn: is before scanStartedOn",
    ),
    (
        VULNS_V0_1,
        ("scanner", "result", 0, "vulnerability", "severity"),
        ...,
        "$.scanner.result[0].vulnerability.severity: is missing",
    ),
    (COSIGN, ("scanner", "result"), ..., "$.scanner.result: is missing"),
    (COSIGN, ("metadata", "scanStartedOn"), ..., "$.metadata.scanStartedOn: is missing"),
    (
        COSIGN,
        ("scanner", "result", "Results", 1, "Vulnerabilities", 0, "VulnerabilityID"),
        ...,
        "$.scanner.result.Results[1].Vulnerabilities[0]: VulnerabilityID is missing",
    ),
    (
        COSIGN,
        ("scanner", "result", "Results", 1, "Vulnerabilities", 0, "CVSS"),
        {"x: y": 3},
        "$.scanner.result.Results[1].Vulnerabilities[0].CVSS: must be an object",
    ),
    (TESTS, ("result",), "PASS", "$.result: must be one of PASSED, WARNED, FAILED"),
    (TESTS, ("configuration",), ..., "$.configuration: is missing"),
    (TESTS, ("configuration", 0), {}, "$.configuration[0]: must have a uri, a digest or content"),
    (TESTS, ("passedTests", 1), 2, "$.passedTests[1]: must be string"),
    (RELEASE, ("purl",), ..., "$.purl: is missing"),
    (RELEASE, ("purl",), "pkg:npm/@angular/http", "$.purl: must match"),
    (RELEASE, ("purl",), "https://registry.npmjs.org/semver", "$.purl: must match"),
    (RELEASE, ("releaseId",), "other", "$.releaseId: is not packageId"),
]


@pytest.mark.parametrize(("predicate_type", "place", "value", "message"), BAD)
def test_bad_input_is_refused_with_its_place(predicate_type: str, place: Place, value: object, message: str) -> None:
    error = refusal(predicate_type, changed(SAMPLES[predicate_type], place, value))
    assert str(error).startswith(message)
    assert error.path == message.partition(": ")[0]


def test_every_problem_of_a_small_predicate_is_told_up_to_ten() -> None:
    error = refusal(TESTS, {"result": 1, "url": 2})
    assert {path for path, _ in error.problems} == {"$.result", "$.url", "$.configuration"}
    assert all(f"{path}: {text}" in str(error) for path, text in error.problems)
    many = refusal(TESTS, {"result": "PASSED", "configuration": [], "passedTests": list(range(500))})
    assert len(many.problems) == MAX_PROBLEMS
    more = refusal(TESTS, {"result": "PASSED", "configuration": [], "passedTests": list(range(5_000))})
    assert len(more.problems) == 1


@pytest.mark.parametrize("predicate_type", SAMPLES)
def test_what_is_wrong_is_not_repeated(predicate_type: str) -> None:
    for place in places(SAMPLES[predicate_type]):
        for value in ("do-not-repeat", ["do-not-repeat"], {"a": "do-not-repeat"}):
            try:
                validate_predicate(predicate_type, changed(SAMPLES[predicate_type], place, value))
            except PredicateError as error:
                told = str(error)
            else:
                told = ""
            assert "do-not-repeat" not in told


def test_a_member_with_a_long_or_strange_name_is_named_in_short() -> None:
    assert json_path(["a", 0, "b-c", "d e", "x" * 1000, "\u202e\n", "@graph"]) == (
        '$.a[0].b-c["d e"]["' + "x" * 64 + '"]["\\u202e\\n"].@graph'
    )
    error = refusal(VSA, SAMPLES[VSA] | {"dependencyLevels": {"x" * 1_000_000: 1}})
    assert len(str(error)) < 1000


WRONG: list[object] = [
    None,
    [],
    {},
    "",
    -1,
    1.5,
    True,
    "x" * 5_000,
    [[1]],
    [None],
    {"a": {}},
    {"id": 3},
    "2023-01-01T00:00:00Z",
    10**60,
]


@pytest.mark.parametrize("predicate_type", [*SAMPLES, "grype"])
def test_any_value_at_any_place_is_read_or_refused(predicate_type: str) -> None:
    sample = SAMPLES.get(predicate_type, COSIGN_VULN_OF_GRYPE)
    for place in places(sample):
        for value in (*WRONG, ...):
            with contextlib.suppress(PredicateError):
                read_predicate(COSIGN if predicate_type == "grype" else predicate_type, changed(sample, place, value))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from([*SAMPLES]), st.data())
def test_any_json_in_place_of_a_part_is_read_or_refused(predicate_type: str, data: st.DataObject) -> None:
    sample = SAMPLES[predicate_type]
    place = data.draw(st.sampled_from(list(places(sample))))
    with contextlib.suppress(PredicateError):
        read_predicate(predicate_type, changed(sample, place, data.draw(JSON)))


@pytest.mark.parametrize("name", ["components", "unknown"])
def test_components_100_000_deep_are_refused(name: str) -> None:
    deep: dict[str, Any] = {}
    for _ in range(50_000):
        deep = {"type": "file", "name": "a", name: [deep]}
    error = refusal(BOM, CYCLONEDX | {"components": [deep]})
    assert (error.path, error.text) == ("$", f"nested more than {MAX_DEPTH} deep")


def test_of_a_predicate_in_which_all_is_wrong_the_first_problem_is_told() -> None:
    error = refusal(BOM, CYCLONEDX | {"components": [{"nam": 3}] * 100_000})
    assert len(error.problems) == 1
    assert error.path.startswith("$.components[0].")


def test_problems_that_each_have_a_long_name_do_not_take_memory_for_each_other() -> None:
    # Each problem with a name has a copy of the object: two gigabytes, were all of them made.
    levels = {f"{place} {'x' * 10_000}": -1 for place in range(500)}
    error = refusal(VSA, SAMPLES[VSA] | {"dependencyLevels": levels})
    assert error.path.startswith("$.dependencyLevels")
    assert (len(error.problems), len(error.path) < 200) == (1, True)


def test_100_000_components_of_16_mib_are_read() -> None:
    component = {"type": "library", "name": "a" * 20, "version": "1.0", "purl": "pkg:npm/" + "a" * 80}
    bom = CYCLONEDX | {"components": [component] * 100_000}
    read = read_predicate(BOM, parse_statement(_statement(bom)).predicate)
    assert getattr(read, "components", 0) == 100_000


def _statement(predicate: dict[str, Any]) -> bytes:
    return encode_statement(
        [Subject("", {"sha256": SHA256})], BOM, json.dumps(predicate, separators=(",", ":")).encode()
    )


def test_half_a_surrogate_pair_is_refused() -> None:
    assert "surrogate" in refusal(RELEASE, {"purl": "pkg:npm/\ud800@1"}).text


def test_a_schema_alone_says_what_does_not_fit() -> None:
    with pytest.raises(PredicateError, match=r"^\$\.purl: is missing$"):
        require_valid("release.schema.json", {})
