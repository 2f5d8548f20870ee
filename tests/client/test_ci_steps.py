"""The ready steps for CI systems: their form, and that nothing which somebody gives becomes a part of a script."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

CI = Path(__file__).parents[2] / "deploy" / "ci"
ACTION = (CI / "github" / "action.yml").read_text()
COMPONENT = (CI / "gitlab" / "templates" / "attest.yml").read_text()
INPUT = re.compile(r"\$\{\{ inputs\.([a-z-]+) }}|\$\[\[ inputs\.([a-z-]+) ]]")


def action() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(ACTION)
    return found


def component() -> tuple[dict[str, Any], dict[str, Any]]:
    spec, jobs = yaml.safe_load_all(COMPONENT)
    [job] = jobs.values()
    return spec["spec"]["inputs"], job


def inputs_in(value: Any) -> set[str]:
    return {one or other for one, other in INPUT.findall(yaml.safe_dump(value, width=10_000))}


def test_the_action_is_composite_and_each_of_its_steps_names_its_shell() -> None:
    found = action()
    assert set(found) == {"name", "description", "author", "inputs", "outputs", "runs"}
    assert found["runs"]["using"] == "composite"
    for step in found["runs"]["steps"]:
        # A step of another action would have to be pinned.
        assert set(step) <= {"name", "id", "shell", "env", "run"}
        assert step["shell"] == "bash"
        assert step["run"].startswith("set -euo pipefail\n")


def test_no_script_has_an_expression_in_it() -> None:
    for step in action()["runs"]["steps"]:
        assert "${{" not in step["run"]
    _, job = component()
    assert not any("$[[" in line for line in job["script"])


def test_every_input_is_described_and_used_and_no_other_is() -> None:
    found = action()
    assert inputs_in(found["runs"]) == set(found["inputs"])
    for one in found["inputs"].values():
        assert one["description"]
        assert one.get("required") is True or "default" in one
    inputs, _ = component()
    assert inputs_in(yaml.safe_load_all(COMPONENT).__next__()) == set()
    assert {one or other for one, other in INPUT.findall(COMPONENT)} == set(inputs)
    assert all(one["description"] for one in inputs.values())


def test_both_take_the_same_inputs_for_the_same_things() -> None:
    inputs, _ = component()
    assert set(action()["inputs"]) <= set(inputs)
    assert set(inputs) - set(action()["inputs"]) == {"job-name", "stage", "image"}


def test_the_release_to_install_is_named_by_an_input_and_never_the_newest() -> None:
    install = action()["runs"]["steps"][0]
    assert '"sealkeeper==$VERSION"' in install["run"]
    assert install["env"] == {"VERSION": "${{ inputs.version }}"}
    _, job = component()
    assert job["script"][0].endswith('"sealkeeper==$ATTEST_VERSION"')


def test_the_component_declares_its_own_token_and_does_not_run_for_merge_requests() -> None:
    _, job = component()
    assert job["id_tokens"] == {"SEALKEEPER_ID_TOKEN": {"aud": "$[[ inputs.audience ]]"}}
    [rule] = job["rules"]
    assert '!= "merge_request_event"' in rule["if"]


def test_what_is_given_stands_in_variables_alone() -> None:
    _, job = component()
    for name, value in job["variables"].items():
        assert INPUT.fullmatch(value), name
    for step in action()["runs"]["steps"]:
        for name, value in step["env"].items():
            assert INPUT.fullmatch(value), name


def test_every_script_is_one_of_its_shell() -> None:
    _, job = component()
    scripts = [("bash", step["run"]) for step in action()["runs"]["steps"]]
    for shell, script in (*scripts, ("sh", "\n".join(job["script"]))):
        subprocess.run([shell, "-n", "-c", script], check=True, capture_output=True)
