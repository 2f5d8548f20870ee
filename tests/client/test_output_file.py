"""Where commands write: tried before the work, whole or not at all, never over what was read."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from sealkeeper.client.cli.output_file import OutputFile, OutputFileError


def test_a_file_is_there_when_it_is_written_and_nothing_else_is_left(tmp_path: Path) -> None:
    with OutputFile(tmp_path / "a") as place:
        assert not (tmp_path / "a").exists()
        place.write(b"new")
    with OutputFile(tmp_path / "b"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"new"


def test_what_was_there_keeps_its_mode_and_stays_until_the_new_is_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old, and longer")
    (tmp_path / "a").chmod(0o640)
    with OutputFile(tmp_path / "a") as place:
        assert (tmp_path / "a").read_bytes() == b"old, and longer"
        place.write(b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    with OutputFile(tmp_path / "link") as place:
        place.write(b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"x"


def test_an_input_is_not_written_over_by_whatever_name(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"precious")
    (tmp_path / "soft").symlink_to("source")
    os.link(source, tmp_path / "hard")
    for name in ("source", "soft", "hard"):
        with pytest.raises(OutputFileError, match="one of the files that are read"):
            OutputFile(tmp_path / name, inputs=[source])
    assert source.read_bytes() == b"precious"


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    with OutputFile(tmp_path / "pipe") as place:
        place.write(b"x")
    reader.join(30)
    assert (got, stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)) == ([b"x"], True)


def test_a_device_is_written_to_and_its_fault_is_told() -> None:
    with OutputFile(Path(os.devnull)) as place:
        place.write(b"x")
    assert Path(os.devnull).is_char_device()
    with OutputFile(Path("/dev/full")) as place, pytest.raises(OutputFileError, match="No space"):
        place.write(b"x")


@pytest.mark.parametrize("name", ["nowhere/a", "folder", "x" * 300, "loop"])
def test_what_cannot_be_written_is_found_out_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputFileError) as caught:
        OutputFile(tmp_path / name)
    assert caught.value.violations[0].field == "--output"
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "loop"}


def test_the_longest_name_there_is_can_be_written(tmp_path: Path) -> None:
    with OutputFile(tmp_path / ("x" * 255)) as place:
        place.write(b"x")
    assert (tmp_path / ("x" * 255)).read_bytes() == b"x"
