"""in-toto test result, version 0.1 (in-toto attestation spec, predicates/test-result)."""

from __future__ import annotations

from dataclasses import dataclass, field

from sealkeeper.verify.predicates.provenance import read_descriptors
from sealkeeper.verify.statement import MAX_VALUES, ResourceDescriptor, read_text
from sealkeeper.verify.strict_json import Value

TEST_RESULT_V0_1 = "https://in-toto.io/attestation/test-result/v0.1"


@dataclass(frozen=True, slots=True)
class TestResult:
    """What a run of tests showed.

    Attributes:
        result: PASSED, WARNED or FAILED.
        configuration: that the tests ran with.
        url: of the run; empty where it is not told.
        passed_tests: names.
        warned_tests: names.
        failed_tests: names.
    """

    __test__ = False

    result: str
    configuration: tuple[ResourceDescriptor, ...]
    url: str
    passed_tests: tuple[str, ...] = field(repr=False)
    warned_tests: tuple[str, ...] = field(repr=False)
    failed_tests: tuple[str, ...] = field(repr=False)


def read_test_result(_predicate_type: str, predicate: Value) -> TestResult:
    """Read a test result that its schema has passed.

    Raises:
        JsonError: a descriptor of the configuration is malformed.
    """
    return TestResult(
        predicate.member("result").text(),
        read_descriptors(predicate.member("configuration")),
        read_text(predicate, "url"),
        _names(predicate.optional("passedTests")),
        _names(predicate.optional("warnedTests")),
        _names(predicate.optional("failedTests")),
    )


def _names(value: Value | None) -> tuple[str, ...]:
    return () if value is None else tuple(one.text() for one in value.items(MAX_VALUES))
