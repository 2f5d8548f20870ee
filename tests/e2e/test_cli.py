"""The command line as people and scripts use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.command import COMMAND, run
from tests.e2e.running import Running


def test_sign_and_verify_files_with_documented_exit_codes(gateway: Running, key: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    assert run(gateway, "ci", "sign", "a", "b", "--key", key, cwd=tmp_path).returncode == 0
    assert run(gateway, "verifier", "trust", "export", "trust", cwd=tmp_path).returncode == 0
    good = run(gateway, "verifier", "verify", "a", "--key", key, cwd=tmp_path)
    assert (good.returncode, "verified" in good.stdout) == (0, True)
    bad = run(gateway, "verifier", "verify", "b", "--bundle", "a.sigstore.json", "--key", key, "--json", cwd=tmp_path)
    assert bad.returncode == 1
    assert json.loads(bad.stdout)["steps"][-1]["name"] == "content"
    assert run(gateway, "verifier", "verify", "a", cwd=tmp_path).returncode == 2
    refused = run(gateway, "custodian", "sign", "a", "--key", key, "--json", cwd=tmp_path)
    assert (refused.returncode, json.loads(refused.stdout)["reason"]) == (1, "PERMISSION_DENIED")
    gone = run(gateway, "ci", "keys", "show", "nobody", cwd=tmp_path)
    assert (gone.returncode, "next:" in gone.stderr, "Traceback" in gone.stderr) == (2, True, False)


def test_a_refused_signature_leaves_no_file(gateway: Running, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    assert run(gateway, "ci", "sign", "a", "--key", "nobody", cwd=tmp_path).returncode == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "ci.toml"]


def test_a_gateway_that_does_not_answer_is_exit_code_3(tmp_path: Path) -> None:
    command = [
        *COMMAND,
        "--insecure",
        "--endpoint",
        "127.0.0.1:1",
        "--tenant",
        "acme",
        "--timeout",
        "1",
        "keys",
        "list",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)
    assert (done.returncode, "next:" in done.stderr) == (3, True)


def test_a_destructive_change_asks_or_needs_yes(gateway: Running, key: str, tmp_path: Path) -> None:
    version = f"{key}/versions/1"
    assert run(gateway, "custodian", "keys", "set-state", version, "DISABLED", cwd=tmp_path).returncode == 2
    assert run(gateway, "custodian", "keys", "set-state", version, "DISABLED", "--yes", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("command", ["sign", "verify"])
def test_a_big_file_needs_constant_memory(gateway: Running, key: str, tmp_path: Path, command: str) -> None:
    with (tmp_path / "big").open("wb") as file:
        file.truncate(600 * 1024 * 1024)
    assert run(gateway, "ci", "sign", "big", "--key", key, cwd=tmp_path).returncode == 0
    run(gateway, "verifier", "trust", "export", "trust", cwd=tmp_path)
    arguments = [*COMMAND, "--config", str(tmp_path / "ci.toml"), command, "big", "--key", key]
    # By a small process in between: a child's highest memory begins with what its parent has.
    measure = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        "sys.exit(done.returncode)"
    )
    done = subprocess.run([sys.executable, "-c", measure, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, check=True)
    assert int(done.stdout) < 150 * 1024


def test_completion_prints_a_script() -> None:
    environment = {**os.environ, "_SEALKEEPER_COMPLETE": "source_bash"}
    done = subprocess.run(
        ["sealkeeper"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**environment, "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}"},
    )
    assert "complete" in done.stdout
