"""``sealkeeper attest``, ``attestations`` and ``verify`` of what they make; and the ready steps of CI systems."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml

from sealkeeper.client.cli.options import Options
from tests.e2e.command import COMMAND, run_here, settings
from tests.e2e.running import DOMAIN, PARENT
from tests.e2e.test_attestations import OTHER, SLSA, World, world
from tests.oidc_issuer import SHA
from tests.verify.predicates.samples import CYCLONEDX
from tests.verify.predicates.samples import SPDX_2_3 as SPDX

__all__ = ["world"]
CI = Path(__file__).parents[2] / "deploy" / "ci"
ACTION = yaml.safe_load((CI / "github" / "action.yml").read_text())
SPEC, COMPONENT = yaml.safe_load_all((CI / "gitlab" / "templates" / "attest.yml").read_text())
IMAGE = f"registry.example.org/acme/app@sha256:{'5e' * 32}"


@pytest.fixture
def folder(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two artifacts in ``dist`` and the trust root; ``ci`` is who calls, with a key of its own."""
    (tmp_path / "dist").mkdir()
    for name in ("app.whl", "app.tar.gz"):
        (tmp_path / "dist" / name).write_text(f"{name} of {tmp_path}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEALKEEPER_CONFIG", str(settings(world.gateway, "ci", tmp_path)))
    monkeypatch.setenv("SEALKEEPER_SIGNING_KEY", world.key(use="attest"))
    assert run_here("trust", "export") == 0
    return tmp_path


def printed(capfd: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    capfd.readouterr()
    found, out = run_here(*arguments, "--json"), capfd.readouterr()
    assert found == code, out.err + out.out
    return json.loads(out.out)


def attestation(folder: Path, name: str) -> dict[str, Any]:
    from base64 import b64decode

    bundle = json.loads((folder / name).read_text())
    found: dict[str, Any] = json.loads(b64decode(bundle["dsseEnvelope"]["payload"]))
    return found


def test_a_predicate_of_one_file_goes_beside_it_and_verifies(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "review.json").write_text('{"reviewed": true}')
    report = printed(capfd, "attest", "dist/app.whl", "--predicate", "review.json", "--type", OTHER)
    assert report["bundle"] == "dist/app.whl.predicate.sigstore.json"
    assert attestation(folder, report["bundle"])["predicate"] == {"reviewed": True}
    verified = ("verify", "dist/app.whl", "--bundle", report["bundle"], "--key", os.environ["SEALKEEPER_SIGNING_KEY"])
    found = printed(capfd, *verified, "--type", OTHER)
    assert found["attestation"] == {"predicateType": OTHER, "subjects": 1}
    refused = printed(capfd, *verified, "--type", "slsa", code=1)
    assert (refused["verified"], refused["steps"][-1]["name"]) == (False, "predicate-type")
    other = ("verify", "dist/app.tar.gz", *verified[2:])
    assert printed(capfd, *other, code=1)["steps"][-1]["name"] == "content"


def test_many_files_have_one_attestation_and_bundles_among_them_are_left_out(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "bom.json").write_text(json.dumps(CYCLONEDX))
    for _ in range(2):
        report = printed(capfd, "attest", "dist/*", "--sbom", "bom.json")
        assert (report["bundle"], report["subjects"]) == ("dist/attestation.sbom.sigstore.json", 2)
    statement = attestation(folder, report["bundle"])
    assert statement["predicateType"] == "https://cyclonedx.org/bom"
    assert statement["subject"] == [
        {"name": name, "digest": {"sha256": sha256((folder / "dist" / name).read_bytes()).hexdigest()}}
        for name in ("app.tar.gz", "app.whl")
    ]


def test_bills_of_materials_are_known_by_what_is_in_them(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "a.json").write_text(json.dumps(SPDX))
    (folder / "b.json").write_text(json.dumps(CYCLONEDX))
    (folder / "out").mkdir()
    reports = printed(capfd, "attest", "--subject", IMAGE, "--sbom", "a.json", "--sbom", "b.json", "--output", "out")
    assert [one["bundle"] for one in reports] == [f"out/attestation.sbom-{number}.sigstore.json" for number in (1, 2)]
    assert [one["predicateType"] for one in reports] == ["https://spdx.dev/Document", "https://cyclonedx.org/bom"]
    (folder / "c.json").write_text('{"name": "neither"}')
    assert "neither SPDX nor CycloneDX" in printed(capfd, "attest", "dist/app.whl", "--sbom", "c.json", code=2)["error"]


WRONG: dict[str, tuple[list[str], str]] = {
    "nothing to attest": (["dist/app.whl"], "--slsa"),
    "no subject": (["--slsa"], "FILE"),
    "a file that is not there": (["none", "--slsa"], "FILE"),
    "a folder": (["dist", "--slsa"], "FILE"),
    "a pattern of nothing": (["none/*", "--slsa"], "FILE"),
    "a predicate without a type": (["dist/app.whl", "--predicate", "ci.toml"], "--type"),
    "a type that is none": (["dist/app.whl", "--predicate", "ci.toml", "--type", "nonsense"], "--type"),
    "provenance of one's own": (["dist/app.whl", "--predicate", "ci.toml", "--type", "slsa-provenance"], "--type"),
    "a summary of one's own": (["dist/app.whl", "--predicate", "ci.toml", "--type", "vsa"], "--type"),
    "a subject without a digest": (["--slsa", "--subject", "image"], "--subject"),
    "a subject with a weak digest": (["--slsa", "--subject", f"image@sha1:{'5e' * 20}"], "--subject"),
    "a subject with a digest in capitals": (["--slsa", "--subject", f"image@sha256:{'5E' * 32}"], "--subject"),
    "a parameter without a value": (["dist/app.whl", "--slsa", "--parameter", "x"], "--parameter"),
    "a parameter of no build": (["dist/app.whl", "--sbom", "ci.toml", "--parameter", "x=y"], "--parameter"),
    "a dependency without a digest": (["dist/app.whl", "--slsa", "--dependency", "pkg:x"], "--dependency"),
    "one file for two": (["dist/app.whl", "--slsa", "--sbom", "bom.json", "--output", "one"], "--output"),
    "a folder that is not there": (["dist/app.whl", "--slsa", "--output", "none/"], "--output"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_usage_is_named_and_nothing_is_signed(
    world: World, folder: Path, capfd: pytest.CaptureFixture[str], what: str
) -> None:
    (folder / "bom.json").write_text(json.dumps(SPDX))
    arguments, field = WRONG[what]
    size = world.gateway.tree_size()
    failure = printed(capfd, "attest", *arguments, code=2)
    assert failure["violations"][0]["field"].split(" / ")[0].strip("'") == field
    assert world.gateway.tree_size() == size


def test_a_key_must_be_named_somewhere(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEALKEEPER_SIGNING_KEY")
    assert "SEALKEEPER_SIGNING_KEY" in printed(capfd, "attest", "dist/*", "--slsa", code=2)["next_step"]
    with (folder / "ci.toml").open("a") as file:
        file.write('signing_key = "of-the-file"\n')
    assert Options(folder / "ci.toml").signing_key(None) == "of-the-file"
    assert Options(folder / "ci.toml").signing_key("named") == "named"


def test_a_bundle_goes_to_standard_output(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "bom.json").write_text(json.dumps(SPDX))
    report = printed(capfd, "attest", "dist/app.whl", "--sbom", "bom.json", "--output", "-", "--transient")
    assert (report["bundle"], report["attestation"]) == ("-", None)
    assert "dsseEnvelope" in report["document"]


def test_what_was_attested_is_listed_and_shown(world: World, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "bom.json").write_text(json.dumps(SPDX))
    made = printed(capfd, "attest", "dist/*", "--sbom", "bom.json")
    digest = sha256((folder / "dist" / "app.whl").read_bytes()).hexdigest()
    for filters in (["dist/app.whl"], ["--digest", f"sha256:{digest}"], ["dist/app.whl", "--type", "spdx"]):
        [found] = printed(capfd, "attestations", "list", *filters)
        assert (found["name"], found["subjectCount"]) == (made["attestation"], 2)
    assert printed(capfd, "attestations", "list", "dist/app.whl", "--type", "slsa") == []
    key = os.environ["SEALKEEPER_SIGNING_KEY"]
    assert len(printed(capfd, "attestations", "list", "--key", key, "--after", "2026-01-01T00:00:00Z")) == 1
    assert printed(capfd, "attestations", "list", "--key", key, "--before", "2026-01-01T00:00:00Z") == []
    shown = printed(capfd, "attestations", "get", made["attestation"].rpartition("/")[2], "--output", "again.json")
    assert shown["bundleDigest"] == f"sha256:{sha256((folder / 'again.json').read_bytes()[:-1]).hexdigest()}"
    assert (folder / "again.json").read_bytes() == (folder / made["bundle"]).read_bytes()
    assert run_here("attestations", "get", made["attestation"]) == run_here("attestations", "list", "--limit", "1") == 0
    text = capfd.readouterr().out
    assert "of app.whl sha256:" in text
    assert "app.tar.gz and 1 more" in text


# In CI systems, with nothing but the address of the gateway.


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[Path]:
    """A folder with the command ``sealkeeper``, and a ``pip`` that has it installed already."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sealkeeper").write_text(f'#!/bin/sh\nexec {sys.executable} -m sealkeeper.client.cli "$@"\n')
    (tools / "pip").write_text("#!/bin/sh\n")
    for path in tools.iterdir():
        path.chmod(0o755)
    yield tools
    shutil.rmtree(tools)


def environment(world: World, folder: Path, tools: Path, **more: str) -> dict[str, str]:
    return {
        "PATH": f"{tools}:/usr/bin:/bin",
        "HOME": str(folder),
        "SEALKEEPER_ENDPOINT": world.gateway.addresses["tokens"],
        "SEALKEEPER_CA": str(world.gateway.directory / "tls" / "ca.pem"),
        "SEALKEEPER_TENANT": "acme",
        **more,
    }


def filled_in(variables: dict[str, str], given: dict[str, str]) -> dict[str, str]:
    """The variables of a step, each of which is one input."""
    found = {}
    for name, value in variables.items():
        match = re.fullmatch(r"\$(?:\{\{|\[\[) inputs\.(.+) (?:}}|]])", value)
        assert match is not None
        found[name] = given[match[1]]
    return found


def job_token(world: World, kind: str, **claims: Any) -> str:
    return world.issuers[kind].token(kind, f"https://{DOMAIN}", **claims)


def test_a_job_attests_provenance_with_nothing_else_to_configure(world: World, folder: Path, tools: Path) -> None:
    key = world.key_of("gitlab")
    variables = environment(
        world,
        folder,
        tools,
        SEALKEEPER_SIGNING_KEY=key,
        SEALKEEPER_ID_TOKEN=job_token(world, "gitlab", ref_protected="true"),
        GITLAB_CI="true",
        CI_JOB_NAME="build wheel",
    )
    done = subprocess.run(
        [*COMMAND, "attest", "--slsa", "dist/app.whl"],
        env=variables,
        cwd=folder,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    statement = attestation(folder, "dist/app.whl.slsa.sigstore.json")
    assert statement["predicateType"] == SLSA
    assert statement["predicate"]["buildDefinition"]["externalParameters"]["entryPoint"] == "build wheel"
    assert run_here("trust", "export") == 0
    shown = run_verify(folder, "dist/app.whl", "dist/app.whl.slsa.sigstore.json", key)
    assert "/-/runners/self-hosted" in shown
    assert f"/acme-group/app@refs/heads/main at {SHA}" in shown


def run_verify(folder: Path, file: str, bundle: str, key: str) -> str:
    command = [*COMMAND, "verify", file, "--bundle", bundle, "--key", key, "--type", "slsa"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_action_for_github_attests_files_images_and_bills_of_materials(
    world: World, folder: Path, tools: Path
) -> None:
    key, output = world.key_of("github"), folder / "github-output"
    (folder / "bom $(touch x).json").write_text(json.dumps(SPDX))
    given = {
        **{name: one.get("default", "") for name, one in ACTION["inputs"].items()},
        "gateway": world.gateway.addresses["tokens"],
        "tenant": "acme",
        "key": key,
        "files": "dist/*.whl\n\ndist/*.gz\n",
        "subjects": IMAGE,
        "sbom": "bom $(touch x).json",
        "parameters": "tag=v1 $(touch y)",
        "dependencies": f"pkg:pypi/x@1@sha256:{'ab' * 32}",
        "ca": str(world.gateway.directory / "tls" / "ca.pem"),
    }
    [step] = [one for one in ACTION["runs"]["steps"] if one.get("id") == "attest"]
    variables = environment(world, folder, tools, **filled_in(step["env"], given))
    variables |= {"SEALKEEPER_ID_TOKEN": job_token(world, "github"), "GITHUB_OUTPUT": str(output)}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    done = subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert output.read_text() == "bundles=attestations\n"
    assert {path.name for path in (folder / "attestations").iterdir()} == {
        "attestation.slsa.sigstore.json",
        "attestation.sbom.sigstore.json",
    }
    statement = attestation(folder, "attestations/attestation.slsa.sigstore.json")
    assert [one["name"] for one in statement["subject"]] == ["app.whl", "app.tar.gz", IMAGE.partition("@")[0]]
    definition = statement["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["tag"] == "v1 $(touch y)"
    assert definition["resolvedDependencies"][1] == {"uri": "pkg:pypi/x@1", "digest": {"sha256": "ab" * 32}}
    assert not {"x", "y"} & {path.name for path in folder.iterdir()}


def test_the_component_for_gitlab_attests_files_and_images(world: World, folder: Path, tools: Path) -> None:
    key = world.key_of("gitlab")
    given = {
        **{name: one.get("default", "") for name, one in SPEC["spec"]["inputs"].items()},
        "gateway": world.gateway.addresses["tokens"],
        "tenant": "acme",
        "key": key,
        "slsa": "true",
        "files": "dist/*.whl\ndist/*.gz",
        "subjects": IMAGE,
        "parameters": "tag=$(touch x)",
        "ca": str(world.gateway.directory / "tls" / "ca.pem"),
    }
    [job] = COMPONENT.values()
    variables = environment(world, folder, tools, **filled_in(job["variables"], given))
    variables |= {"SEALKEEPER_ID_TOKEN": job_token(world, "gitlab", ref_protected="true"), "GITLAB_CI": "true"}
    script = "\n".join(job["script"])
    done = subprocess.run(
        ["sh", "-e", "-c", script], env=variables, cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    statement = attestation(folder, "attestations/attestation.slsa.sigstore.json")
    assert [one["name"] for one in statement["subject"]] == ["app.whl", "app.tar.gz", IMAGE.partition("@")[0]]
    assert statement["predicate"]["buildDefinition"]["externalParameters"]["tag"] == "$(touch x)"
    assert not (folder / "x").exists()


def test_tenant_names_are_the_same_in_short(folder: Path) -> None:
    assert Options(folder / "ci.toml").key_name("release") == f"{PARENT}/keys/release"
