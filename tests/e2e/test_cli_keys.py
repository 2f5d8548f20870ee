"""``sealkeeper keys``: times are instants, not digits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.command import run
from tests.e2e.running import Running


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("2026-01-24T22:00:00+02:00", "2026-01-24T20:00:00Z"),
        ("2026-01-24T22:00:00", "2026-01-24T22:00:00Z"),
        ("2026-01-24 22:00:00Z", "2026-01-24T22:00:00Z"),
    ],
)
def test_a_compromise_time_keeps_its_zone_and_is_utc_without_one(
    gateway: Running, key: str, tmp_path: Path, given: str, meant: str
) -> None:
    arguments = ["keys", "set-state", f"{key}/versions/1", "COMPROMISED", "--yes", "--json", "--compromise-time", given]
    done = run(gateway, "custodian", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["compromiseTime"] == meant


@pytest.mark.parametrize("given", ["1764014400", "20261124", "yesterday", ""])
def test_a_compromise_time_that_is_no_time_is_named(gateway: Running, tmp_path: Path, given: str) -> None:
    arguments = ["keys", "set-state", "release/1", "COMPROMISED", "--yes", "--compromise-time", given]
    done = run(gateway, "custodian", *arguments, cwd=tmp_path)
    assert (done.returncode, "--compromise-time" in done.stderr) == (2, True)
