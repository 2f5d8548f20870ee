"""The printed matrix of the conformance suite: provider by algorithm by operation, as far as a run has proven it.

A pytest plugin. Tests say what they have proven (fixture ``proven`` of ``conftest.py``); at the end of a run the matrix
is printed, and compared with the one in the docs where all stores took part. ``--matrix`` writes it there instead.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from sealkeeper.hsm import ALGORITHMS

PROVEN = "proven"
OPERATIONS = ("generate", "sign", "reopen", "evidence", "import", "destroy")
DOCS = Path(__file__).parents[2] / "docs" / "providers" / "README.md"
START, END = "<!-- matrix: made by `make matrix` -->", "<!-- end of matrix -->"
_KEY = pytest.StashKey[set[tuple[str, str, str]]]()
_SKIPPED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--matrix``."""
    parser.addoption("--matrix", action="store_true", help="write the matrix of providers into the docs")


def pytest_configure(config: pytest.Config) -> None:
    """Nothing is proven yet."""
    config.stash[_KEY] = set()
    config.stash[_SKIPPED] = False
    config.pluginmanager.register(_Collector(config), "matrix-collector")


class _Collector:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take down what a test has proven. What failed has proven nothing."""
        if "tests/conformance/" in report.nodeid and not report.passed:
            self._config.stash[_SKIPPED] = True
        if report.when == "call" and report.passed:
            for name, value in report.user_properties:
                if name == PROVEN:
                    store, algorithm, operation = str(value).split(" ")
                    self._config.stash[_KEY].add((store, algorithm, operation))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print it."""
    found = config.stash[_KEY]
    if not found:
        return
    terminalreporter.section("providers: what was proven")
    for line in _lines(found):
        terminalreporter.line(line)
    if _stale(config):
        terminalreporter.line(f"{DOCS.name} of the providers has another matrix: run make matrix", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write it where that is asked for; else a matrix in the docs that is not true any more is a failure."""
    config = session.config
    if hasattr(config, "workerinput") or not config.stash[_KEY]:
        return
    if config.getoption("--matrix"):
        before, _, rest = DOCS.read_text().partition(START)
        after = rest.partition(END)[2]
        matrix = "\n".join(_lines(config.stash[_KEY]))
        DOCS.write_text(f"{before}{START}\n\n{matrix}\n\n{END}{after}")
    elif _stale(config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _stale(config: pytest.Config) -> bool:
    from tests.conformance.stores import STORES

    found = config.stash[_KEY]
    whole = {store for store, _, _ in found} == set(STORES) and not config.stash[_SKIPPED]
    # A part of the suite proves a part of the matrix only.
    if not whole or {operation for _, _, operation in found} != set(OPERATIONS) or not DOCS.exists():
        return False
    return "\n".join(_lines(found)) not in DOCS.read_text()


def _lines(found: set[tuple[str, str, str]]) -> list[str]:
    """A table in Markdown, which can be read as it is."""
    by_row: dict[tuple[str, str], set[str]] = defaultdict(set)
    for store, algorithm, operation in found:
        by_row[store, algorithm].add(operation)
    order = list(ALGORITHMS)
    rows = [
        (store, algorithm, *("yes" if operation in by_row[store, algorithm] else "-" for operation in OPERATIONS))
        for store, algorithm in sorted(by_row, key=lambda row: (row[0], order.index(row[1])))
    ]
    heads = ("provider", "algorithm", *OPERATIONS)
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    rule = tuple("-" * width for width in widths)
    return [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in (heads, rule, *rows)
    ]
