"""The alert rules: what they name is measured, what they say fires, and each says what to do."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from typer.main import get_command

from sealkeeper.client.cli import app
from sealkeeper.server.settings import TelemetrySettings
from sealkeeper.server.telemetry import Telemetry

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES = FOLDER / "sealkeeper.rules.yml"
TESTS = FOLDER / "sealkeeper.rules.test.yml"
_ALERT = re.compile(r"- alert: (\w+)\n(.*?)(?=\n      - alert:|\n\n|\Z)", re.DOTALL)


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is missing (deploy/test-prerequisites installs it)")
    return found


@pytest.mark.parametrize(("what", "path"), [("check", RULES), ("test", TESTS)])
def test_prometheus_takes_the_rules_and_they_fire_as_their_tests_say(promtool: str, what: str, path: Path) -> None:
    done = subprocess.run([promtool, what, "rules", path], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@dataclass(frozen=True)
class Health:
    circuit: str = "CLOSED"
    error_rate: float = 0.0
    last_success: datetime | None = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Provider:
    health: Health = Health()
    region: str = "eu"


class Logs:
    tree_sizes: Mapping[str, int] = {"audit": 1}
    pending_entries = 0

    def seconds_since_checkpoint(self) -> float:
        return 1.0


class Grants:
    def active_emergencies(self) -> Mapping[str, int]:
        return {"acme": 1, "other": 0}


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """With everything that it measures, once."""
    made = Telemetry(TelemetrySettings(), "tests")
    made.watch_logs(Logs())
    made.watch_providers({"hsm": Provider()})
    made.watch_grants(Grants(), ["acme"], ["Sign", "RotateKey"])
    made.watch_issuers({"github": lambda: 5.0})
    made.call("SigningService/Sign", "acme", "ci", "INTERNAL", 0.1)
    made.signatures("acme", "PKIX_ED25519", 1)
    made.failover("acme", "hsm", "cloud", 1)
    made.residency_refusal("acme", "us", "sign")
    made.provider_operation("hsm", "sign", "OK", 0.1)
    made.cycle(1, 0.1)
    made.break_glass_use("acme", "Sign")
    made.authentication_failure("CREDENTIALS_MISSING")
    made.proposal("acme", "BreakGlass", "PENDING")
    made.quota_refusal("acme", "tenant_calls")
    made.watch_gates(lambda: {("acme", "production"): (2, 7.0)}, lambda: [("acme", "production", "warn")])
    for passed in (True, False):
        place = ("acme", "production", "eu")
        made.gate_decision(place, outcome="ALLOW", passed=passed, reasons=[] if passed else ["A_B", "A_B"])
    made.gate_decision_time("acme", 0.1, cached=True)
    yield made
    made.close()


def measured() -> dict[str, dict[tuple[str, ...], float]]:
    """By name as Prometheus has it, then by the values of the labels in the order of their names."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(generate_latest().decode()):
        for sample in family.samples:
            labels = sorted(one for one in sample.labels.items() if not one[0].startswith("otel_"))
            found.setdefault(sample.name, {})[tuple(value for _, value in labels)] = sample.value
    return found


@pytest.mark.parametrize("path", [RULES, TESTS])
@pytest.mark.usefixtures("telemetry")
def test_every_metric_that_the_rules_name_is_measured(path: Path) -> None:
    named = set(re.findall(r"\bsealkeeper_\w+", path.read_text()))
    assert len(named) >= 10
    # Descriptions name histograms, whose samples have endings.
    known = measured()
    assert {one for one in named if one not in known and f"{one}_count" not in known} == set()


@pytest.mark.usefixtures("telemetry")
def test_what_is_counted_of_access_is_measured_under_its_labels() -> None:
    found = measured()
    assert found["sealkeeper_break_glass_uses_total"] == {("Sign", "acme"): 1, ("RotateKey", "acme"): 0}
    assert found["sealkeeper_break_glass_active"] == {("acme",): 1, ("other",): 0}
    assert found["sealkeeper_authentication_failures_total"] == {("CREDENTIALS_MISSING",): 1}
    assert found["sealkeeper_proposals_total"] == {("BreakGlass", "PENDING", "acme"): 1}
    assert found["sealkeeper_quota_refusals_total"] == {("tenant_calls", "acme"): 1}
    assert found["sealkeeper_issuer_keys_age_seconds"] == {("github",): 5}


@pytest.mark.usefixtures("telemetry")
def test_what_gates_decide_is_measured_under_its_labels() -> None:
    found = measured()
    assert found["sealkeeper_gate_decisions_total"] == {
        ("eu", "production", "ALLOW", "true", "acme"): 1,
        ("eu", "production", "ALLOW", "false", "acme"): 1,
    }
    assert found["sealkeeper_gate_reasons_total"] == {("eu", "production", "A_B", "acme"): 1}
    assert found["sealkeeper_gate_exceptions_active"] == {("production", "acme"): 2}
    assert found["sealkeeper_gate_exceptions_age_seconds"] == {("production", "acme"): 7}
    assert found["sealkeeper_gate_mode"] == {("production", "warn", "acme"): 1}
    assert found["sealkeeper_gate_decision_duration_seconds_count"] == {("true", "acme"): 1}


def test_reasons_that_callers_make_up_are_counted_as_others(telemetry: Telemetry) -> None:
    for number in range(1000):
        telemetry.gate_decision(("acme", "other", ""), outcome="DENY", passed=False, reasons=[f"MADE_UP_{number}"])
    counted = {one: count for one, count in measured()["sealkeeper_gate_reasons_total"].items() if "other" in one}
    assert len(counted) == 200
    assert sum(counted.values()) == 1000


def commands(command: Any, *names: str) -> set[str]:
    """The command's name, and those of the commands in it."""
    inner = getattr(command, "commands", {})
    return {" ".join(names)} | {one for name, found in inner.items() for one in commands(found, *names, name)}


def test_every_alert_has_a_severity_a_summary_and_a_next_step_and_is_tried() -> None:
    alerts = dict(_ALERT.findall(RULES.read_text()))
    assert len(alerts) == RULES.read_text().count("- alert:")
    for name, body in alerts.items():
        assert re.search(r"severity: (critical|warning|info)$", body, re.MULTILINE), name
        assert re.search(r'summary: ".{10,}"$', body, re.MULTILINE), name
        assert re.search(r"description: >-\n +.{40,}", body), name
        # That it fires, and when.
        assert f'alertname="{name}", alertstate="firing", severity=' in TESTS.read_text(), name


def test_every_command_that_an_alert_names_is_there() -> None:
    known = commands(get_command(app))
    named = set(re.findall(r"sealkeeper ((?:[a-z][a-z-]* ?)+?)(?= --|[:.;,]|$)", RULES.read_text(), re.MULTILINE))
    assert len(named) >= 5
    assert named - known == set()
