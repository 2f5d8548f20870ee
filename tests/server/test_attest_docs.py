"""The page on attesting says what is so: settings load, pipelines parse, commands and inputs are there."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from sealkeeper.client.cli import app
from sealkeeper.server.attesting import MAX_STATEMENT
from sealkeeper.server.identity_settings import IssuerSettings
from sealkeeper.server.policy_engine import compile_policy, default_policy
from sealkeeper.server.slsa_provenance import BuildPlatform, BuildReport, provenance_of
from sealkeeper.verify.bundle import MAX_BUNDLE
from sealkeeper.verify.predicates import KINDS, by_short_name
from tests.server.test_slsa_provenance import BUILDKITE, GITHUB, GITLAB, caller, platform

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "attest.md").read_text("utf-8")
CI = ROOT / "deploy" / "ci"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("text", blocks("toml"))
def test_settings_on_the_page_load(text: str) -> None:
    for one in tomllib.loads(text)["issuers"].values():
        assert BuildPlatform.of(IssuerSettings(**one)).builder_id


def test_pipelines_on_the_page_use_inputs_that_there_are() -> None:
    action = yaml.safe_load((CI / "github" / "action.yml").read_text())["inputs"]
    component = next(yaml.safe_load_all((CI / "gitlab" / "templates" / "attest.yml").read_text()))["spec"]["inputs"]
    documents = [yaml.safe_load(one) for one in blocks("yaml")]
    [used] = [
        step["with"]
        for one in documents
        for step in one.get("jobs", {}).get("attest", {}).get("steps", ())
        if "deploy/ci/github" in step.get("uses", "")
    ]
    assert required(action) <= set(used) <= set(action)
    [included] = [one["include"][0]["inputs"] for one in documents if "include" in one]
    assert {name for name, one in component.items() if "default" not in one} <= set(included) <= set(component)


def required(inputs: dict[str, Any]) -> set[str]:
    return {name for name, one in inputs.items() if one.get("required")}


def test_commands_on_the_page_have_options_that_there_are() -> None:
    root: Any = typer.main.get_command(app)
    lines = [line for block in (*blocks("sh"), *blocks("yaml")) for line in block.splitlines() if "sealkeeper " in line]
    seen = 0
    for line in lines:
        words = line.partition("sealkeeper ")[2].partition(" #")[0].split()
        command, known = root, {name for one in root.params for name in one.opts}
        for word in words:
            command = getattr(command, "commands", {}).get(word, command)
        known |= {name for one in command.params for name in one.opts}
        options = [word for word in words if word.startswith("--")]
        assert set(options) <= known, line
        seen += len(options)
    assert seen > 15


def test_types_on_the_page_are_those_that_are_known() -> None:
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (`https:.*) \|$", PAGE, re.MULTILINE))
    assert set(rows) == {one.short_name for one in KINDS} - {"slsa-provenance", "vsa"}
    for name, text in rows.items():
        kind = by_short_name(name)
        assert kind is not None
        assert f"`{kind.types[0]}`" in text


def test_what_the_page_says_of_provenance_is_what_is_written() -> None:
    for kind, issuer in (("github", GITHUB), ("gitlab", GITLAB), ("buildkite", BUILDKITE)):
        platforms = {issuer: platform(kind, issuer)}  # type: ignore[arg-type]  # one of the kinds
        who = caller(kind, issuer)  # type: ignore[arg-type]
        found = json.loads(provenance_of(who, platforms, BuildReport()))
        assert f"`{found['buildDefinition']['buildType']}`" in PAGE
        assert found["runDetails"]["builder"]["id"].rpartition("/")[0] in PAGE
        for members in found["buildDefinition"]["internalParameters"].values():
            assert all(f"`{name}`" in PAGE for name in members)


def test_bounds_on_the_page_are_those_that_hold() -> None:
    assert f"at most {MAX_STATEMENT / 1024**2:.1f} MiB, so that its bundle has at most {MAX_BUNDLE // 1024**2}" in PAGE


def test_the_rule_that_the_page_names_is_in_the_default_policy() -> None:
    assert "attestation-keys-only-attest" in PAGE
    assert "attestation-keys-only-attest" in compile_policy(default_policy()).texts
