"""The first thing that a newcomer runs: it does the main job, leaves files to look at, and nothing running."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sealkeeper.verify import Artifact, Policy, TrustRoot, verify

ROOT = Path(__file__).parents[2]
KEY = "tenants/acme/keys/release"
PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "small"
version = "1"
[tool.hatch.build.targets.wheel]
include = ["small.py"]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "small.py").write_text("")
    return folder


def command(output: Path, source: Path) -> list[str]:
    return [sys.executable, "-m", "sealkeeper.server.quickstart", "--output", str(output), "--source", str(source)]


def test_it_does_the_main_job_twice_in_plain_text_and_leaves_files_that_verify(tmp_path: Path, project: Path) -> None:
    output = tmp_path / "quickstart"
    for source in (project, ROOT):
        done = subprocess.run(command(output, source), capture_output=True, text=True, check=False, timeout=120)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        assert "\x1b" not in done.stdout
        steps = [line.partition(".")[0] for line in done.stdout.splitlines() if line[:1].isdecimal()]
        assert steps == list("123456789")
    [wheel] = [one for one in output.glob("*.whl") if not one.name.startswith("tampered-")]
    expected = {"gateway", "gateway.log", "trust", "audit.checkpoint", wheel.name, f"tampered-{wheel.name}"}
    expected |= {f"{wheel.name}.sigstore.json", f"{wheel.name}.v2.sigstore.json"}
    left = {one.name for one in output.iterdir()} - {".quickstart", "softhsm"}
    assert left == expected
    trust, policy = TrustRoot.from_directory(output / "trust"), Policy(key=KEY)
    for bundle in (f"{wheel.name}.sigstore.json", f"{wheel.name}.v2.sigstore.json"):
        found = (output / bundle).read_bytes()
        assert verify(found, Artifact.from_bytes(wheel.read_bytes()), trust, policy).verified
        tampered = Artifact.from_bytes((output / f"tampered-{wheel.name}").read_bytes())
        assert not verify(found, tampered, trust, policy).verified


@contextmanager
def descendants(pid: int) -> Iterator[list[int]]:
    """Handles (pidfd) of the processes that a process and those below it have started."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found, grown = {pid}, True
    while grown:
        more = {child for child, parent in parents.items() if parent in found} - found
        grown, found = bool(more), found | more
    handles = [os.pidfd_open(one) for one in found - {pid}]
    try:
        yield handles
    finally:
        for handle in handles:
            os.close(handle)


def ends(handle: int) -> bool:
    return bool(select.select([handle], [], [], 30)[0])


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_where_it_is_interrupted_nothing_keeps_running(
    tmp_path: Path, project: Path, number: signal.Signals, code: int
) -> None:
    with subprocess.Popen(
        command(tmp_path / "quickstart", project), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert any(line.startswith("  gRPC ") for line in process.stdout)
        with descendants(process.pid) as handles:
            assert len(handles) >= 2
            process.send_signal(number)
            said = process.stdout.read() + process.stderr.read()
            assert process.wait(60) == code
            # Whoever was killed waits for nobody, and a gateway's workers leave when it has ended.
            assert all(ends(handle) for handle in handles)
    assert "Traceback" not in said


def test_an_interrupted_build_ends_too(tmp_path: Path, project: Path) -> None:
    with subprocess.Popen(
        command(tmp_path / "quickstart", project), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        assert any(line.startswith("1.") for line in process.stdout)
        process.send_signal(signal.SIGTERM)
        assert "Traceback" not in process.stdout.read()
        assert process.wait(60) == 143
