"""``sealkeeper sign``: nothing is signed that could not be handed over, and nothing is written over."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.command import COMMAND, run, run_here, settings
from tests.e2e.running import Running


@pytest.fixture(autouse=True)
def folder(gateway: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an artifact ``a``, in which ``ci`` is who calls."""
    (tmp_path / "a").write_text("precious")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEALKEEPER_CONFIG", str(settings(gateway, "ci", tmp_path)))
    return tmp_path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"ci.toml"}


@pytest.mark.parametrize("output", ["a", "link", "nowhere/a", "a/b", "new/", "x" * 256])
def test_an_output_that_cannot_be_had_is_named_and_nothing_is_signed(
    gateway: Running, key: str, folder: Path, capfd: pytest.CaptureFixture[str], output: str
) -> None:
    (folder / "link").symlink_to("a")
    size = gateway.tree_size()
    assert run_here("sign", "a", "--key", key, "--output", output, "--json") == 2
    assert "--output" in json.loads(capfd.readouterr().out)["violations"][0]["field"]
    assert gateway.tree_size() == size
    assert (folder / "a").read_text() == "precious"
    assert names(folder) == {"a", "link"}


def test_a_bundle_does_not_go_over_another_file_that_is_signed(gateway: Running, key: str, folder: Path) -> None:
    (folder / "a.sigstore.json").write_text("precious too")
    size = gateway.tree_size()
    assert run_here("sign", "a", "a.sigstore.json", "--key", key) == 2
    assert (gateway.tree_size(), (folder / "a.sigstore.json").read_text()) == (size, "precious too")


def test_a_disk_without_room_is_found_out_before_anything_is_signed(gateway: Running, key: str, folder: Path) -> None:
    size = gateway.tree_size()

    def little() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))

    done = run(gateway, "ci", "sign", "a", "--key", key, cwd=folder, preexec_fn=little)
    assert (done.returncode, "a.sigstore.json" in done.stderr, "--output" in done.stderr) == (2, True, True)
    assert (gateway.tree_size(), names(folder)) == (size, {"a"})


def test_a_name_of_any_bytes_and_of_any_length_can_be_signed(
    key: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in (b"caf\xe9\n", b"x" * 241):
        path = os.fsdecode(name)
        (folder / path).write_text("x")
        assert run_here("sign", path, "--key", key, "--json") == 0
        assert (folder / f"{path}.sigstore.json").exists()
        capfd.readouterr()


def test_one_document_whether_the_bundle_goes_to_a_file_or_to_standard_output(
    key: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert printed(capfd, "sign", "a", "--key", key, "--json")["bundle"] == "a.sigstore.json"
    many = printed(capfd, "sign", "a", "ci.toml", "--key", key, "--json")
    assert [one["artifact"] for one in many] == ["a", "ci.toml"]
    report = printed(capfd, "sign", "a", "--key", key, "--output", "-", "--json")
    assert (report["bundle"], report["logIndex"] > 0) == ("-", True)
    assert "messageSignature" in report["document"]
    assert printed(capfd, "sign", "a", "--key", key, "--output", "-").keys() == report["document"].keys()
    assert "-" not in names(folder)


def printed(capfd: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """The one document on standard output."""
    capfd.readouterr()
    assert run_here(*arguments) == 0
    return json.loads(capfd.readouterr().out)


def test_pipes_are_signed_and_written_to(key: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"x")
    os.close(writing)
    assert run_here("sign", f"/dev/fd/{reading}", "--key", key) == 2
    assert "--output" in capfd.readouterr().err
    assert run_here("sign", f"/dev/fd/{reading}", "--key", key, "--output", "x.json") == 0
    os.close(reading)
    assert json.loads((folder / "x.json").read_text())["messageSignature"]
    assert run_here("sign", "a", "--key", key, "--output", os.devnull) == 0
    assert Path(os.devnull).is_char_device()


def test_a_bundle_that_cannot_be_written_keeps_no_other_back(key: str, folder: Path) -> None:
    (folder / "b").write_text("x")
    (folder / "a.sigstore.json").symlink_to("/dev/full")
    assert run_here("sign", "a", "b", "--key", key) == 2
    assert json.loads((folder / "b.sigstore.json").read_text())["messageSignature"]


def test_a_bundle_that_nobody_reads_is_not_told_as_a_refusal(key: str, folder: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [*COMMAND, "sign", "-", "--key", key]
    done = subprocess.run(command, input=b"x", stdout=writing, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_what_grpc_itself_has_to_say_stays_out_of_the_way(folder: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "keys", "list", "--endpoint", "127.0.0.1:1", "--timeout", "0.3"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, [line.split(":")[0].strip() for line in done.stderr.splitlines()]) == (
        3,
        ["error", "next"],
    )
