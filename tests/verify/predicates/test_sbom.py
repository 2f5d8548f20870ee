"""Bills of materials, as they are read."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib.metadata import distribution
from typing import Any

import pytest

from sealkeeper.verify.errors import PredicateError
from sealkeeper.verify.predicates import Finding, Sbom, read_predicate
from tests.verify.predicates.samples import CYCLONEDX, SPDX_2_3, SPDX_3

SPDX_TYPE = "https://spdx.dev/Document"
BOM_TYPE = "https://cyclonedx.org/bom"


def read(predicate_type: str, predicate: dict[str, Any]) -> Sbom:
    found = read_predicate(predicate_type, predicate)
    assert isinstance(found, Sbom)
    return found


def test_spdx_2_3_is_read() -> None:
    assert read(SPDX_TYPE, SPDX_2_3) == Sbom(
        format="SPDX",
        version="2.3",
        name="SPDX-Tools-v2.0",
        created=datetime(2010, 1, 29, 18, 30, 22, tzinfo=UTC),
        tools=("LicenseFind-1.0",),
        components=2,
        dependencies=2,
    )


def test_spdx_3_is_read() -> None:
    assert read(SPDX_TYPE, SPDX_3) == Sbom(
        format="SPDX",
        version="3.0.1",
        name="my-document",
        created=datetime(2024, 3, 6, tzinfo=UTC),
        tools=("make",),
        components=2,
        dependencies=1,
    )


def test_spdx_3_is_read_where_a_set_of_one_is_written_as_its_member() -> None:
    info, person, tool, document, *others, relationship = SPDX_3["@graph"]
    graph = [
        person,
        tool,
        document | {"creationInfo": info | {"createdUsing": info["createdUsing"][0]}},
        *others,
        relationship | {"to": relationship["to"][0]},
    ]
    context = [SPDX_3["@context"], {"own": "https://example.com"}]
    assert read(SPDX_TYPE, {"@context": context, "@graph": graph}) == read(SPDX_TYPE, SPDX_3)


def test_cyclonedx_is_read_with_what_it_says_of_vulnerabilities() -> None:
    assert read(BOM_TYPE, CYCLONEDX) == Sbom(
        format="CycloneDX",
        version="1.6",
        name="acme-application@9.1.1",
        created=datetime(2024, 1, 1, tzinfo=UTC),
        tools=("syft@1.0.1", "scan-service"),
        components=3,
        dependencies=2,
        vulnerabilities=(
            Finding(
                "CVE-2018-7489",
                "critical",
                9.8,
                ("pkg:maven/com.acme/tomcat-catalina@9.0.14?packaging=jar", "inner.js", "elsewhere"),
                "not_affected",
            ),
        ),
    )


def test_tools_of_cyclonedx_before_1_5_are_read() -> None:
    old = {"bomFormat": "CycloneDX", "specVersion": "1.2", "version": 1, "metadata": {"tools": [{"name": "t"}, {}]}}
    assert read(BOM_TYPE, old) == Sbom("CycloneDX", "1.2", "", None, ("t",), 0, 0)


@pytest.mark.parametrize("package", ["jsonschema-rs", "cryptography", "ruff"])
def test_the_bill_of_materials_that_a_wheel_carries_is_read(package: str) -> None:
    # PEP 770.
    boms = [one for one in distribution(package).files or () if ".dist-info/sboms/" in str(one)]
    assert boms
    for one in boms:
        bom = read(BOM_TYPE, json.loads(one.read_text()))
        assert bom.components > 0


@pytest.mark.parametrize(
    ("predicate_type", "predicate", "fits"),
    [
        ("https://spdx.dev/Document", SPDX_2_3, True),
        ("https://spdx.dev/Document/v2.3", SPDX_2_3, True),
        ("https://spdx.dev/Document/v2.2", SPDX_2_3, False),
        ("https://spdx.dev/Document/v3", SPDX_2_3, False),
        ("https://spdx.dev/Document/v3", SPDX_3, True),
        ("https://spdx.dev/Document/v3.0", SPDX_3, True),
        ("https://spdx.dev/Document/v3.0.1", SPDX_3, True),
        ("https://spdx.dev/Document/v2.3", SPDX_3, False),
        ("https://cyclonedx.org/bom/v1.6", CYCLONEDX, True),
        ("https://cyclonedx.org/bom/v1.5", CYCLONEDX, False),
        ("https://cyclonedx.org/bom/v1.7", CYCLONEDX | {"specVersion": "1.7"}, True),
    ],
)
def test_the_version_is_the_one_that_the_predicate_type_says(
    predicate_type: str, predicate: dict[str, Any], fits: bool
) -> None:
    if fits:
        assert read(predicate_type, predicate)
    else:
        with pytest.raises(PredicateError, match="as the predicate type says"):
            read(predicate_type, predicate)
