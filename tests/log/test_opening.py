"""Crashes while the logs are being opened, after which they are opened again."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sealkeeper.server.log import LOG_NAMES, TRANSPARENCY, LogCorruptError, Submission, publisher
from tests.log.test_sequencer import body, checked, entries, opened


def copy_of_running(directory: Path, copy: Path) -> None:
    # The publisher may be at work; files may be replaced while they are copied.
    shutil.copytree(directory, copy, ignore=shutil.ignore_patterns(".*.new"))


@contextmanager
def copied_before_each_change(directory: Path, copies: Path) -> Iterator[list[Path]]:
    """Copy a folder before each thing that is done to its files: what a kill right then would leave."""
    made: list[Path] = []

    def copying(call: Any) -> Any:
        def copy_first(*arguments: Any, **options: Any) -> Any:
            copy = copies / f"{len(made)}-{call.__name__}"
            shutil.copytree(directory, copy)
            made.append(copy)
            return call(*arguments, **options)

        return copy_first

    with pytest.MonkeyPatch.context() as patched:
        for owner, name in ((os, "pwrite"), (os, "fsync"), (Path, "replace"), (Path, "unlink"), (Path, "mkdir")):
            patched.setattr(owner, name, copying(getattr(owner, name)))
        yield made


async def test_a_first_opening_killed_at_any_moment_can_be_repeated(tmp_path: Path) -> None:
    live = tmp_path / "live"
    live.mkdir()
    with copied_before_each_change(live, tmp_path) as moments:
        async with opened(live):
            pass
    assert len(moments) > 15
    for moment in moments:
        async with opened(moment) as logs:
            assert dict(logs.tree_sizes) == dict.fromkeys(LOG_NAMES, 0)


@pytest.mark.parametrize("count", [5, 100], ids=["short-records", "a-record-longer-than-a-segment"])
async def test_an_opening_killed_at_any_moment_loses_nothing(tmp_path: Path, count: int) -> None:
    live, killed = tmp_path / "live", tmp_path / "killed"
    bodies = [body(number) for number in range(count)]
    async with opened(live) as logs:
        checked(await logs.submit(Submission(transparency=bodies)), bodies)
        copy_of_running(live, killed)
    with copied_before_each_change(killed, tmp_path) as moments:
        async with opened(killed):
            pass
    assert len(moments) > 20
    for moment in moments:
        async with opened(moment) as logs:
            assert await entries(logs, TRANSPARENCY) == bodies
            checked(await logs.submit(Submission(transparency=[b"more"])), [b"more"])


async def test_openings_that_fail_do_not_fill_the_disk_with_segments(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        await logs.submit(Submission(transparency=[b"before"]))

    def fails(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    for _ in range(4):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(publisher, "_write", fails)
            with pytest.raises(OSError, match="Input/output error"):
                async with opened(tmp_path):
                    pass
    assert len(list((tmp_path / "journal").iterdir())) <= 2
    async with opened(tmp_path) as logs:
        assert await entries(logs, TRANSPARENCY) == [b"before"]


def tear(journal: Path) -> None:
    """Spoil the end of the newest record, as a power failure does."""
    newest = [path for path in sorted(journal.iterdir()) if path.read_bytes()[24:].strip(b"\0")][-1]
    data = newest.read_bytes()
    end = len(data.rstrip(b"\0"))
    newest.write_bytes(data[: end - 300] + bytes(len(data) - end + 300))


async def test_a_torn_segment_that_comes_back_after_another_power_failure_harms_nothing(tmp_path: Path) -> None:
    live, once, twice = tmp_path / "live", tmp_path / "once", tmp_path / "twice"
    async with opened(live) as logs:
        await logs.submit(Submission(transparency=[b"answered"]))
        await logs.submit(Submission(transparency=[b"x" * 400]))
        copy_of_running(live, once)
    tear(once / "journal")
    for name in LOG_NAMES:
        (once / name / "checkpoint").write_bytes(b"")
    old = {path.name: path.read_bytes() for path in (once / "journal").iterdir()}
    async with opened(once) as logs:
        assert await entries(logs, TRANSPARENCY) == [b"answered"]
        await logs.submit(Submission(transparency=[b"answered too"]))
        copy_of_running(once, twice)
    for name, data in old.items():
        (twice / "journal" / name).write_bytes(data)
    async with opened(twice) as logs:
        assert await entries(logs, TRANSPARENCY) == [b"answered", b"answered too"]


async def test_segments_are_removed_durably(tmp_path: Path) -> None:
    journal, done = tmp_path / "journal", list[str]()
    unlink, fsync = Path.unlink, os.fsync

    def noted_unlink(path: Path, missing_ok: bool = False) -> None:
        if path.parent == journal:
            done.append("removed")
        unlink(path, missing_ok)

    def noted_fsync(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink() == journal:
            done.append("synced")
        fsync(descriptor)

    async with opened(tmp_path) as logs:
        await logs.submit(Submission(transparency=[b"in a segment that the next opening removes"]))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Path, "unlink", noted_unlink)
        patched.setattr(os, "fsync", noted_fsync)
        async with opened(tmp_path):
            assert done[-2:] == ["removed", "synced"]


async def test_a_journal_without_its_state_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    live, spoiled = tmp_path / "live", tmp_path / "spoiled"
    async with opened(live) as logs:
        await logs.submit(Submission(transparency=[b"answered"]))
        copy_of_running(live, spoiled)
    for path in ("state.json", *(f"{name}/checkpoint" for name in LOG_NAMES)):
        (spoiled / path).unlink()
    with pytest.raises(LogCorruptError, match=r"state\.json"):
        async with opened(spoiled):
            pass
    assert not (spoiled / "state.json").exists()


async def test_a_file_in_the_journal_that_is_no_segment_is_named(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    (tmp_path / "journal" / "copy of 1.journal").touch()
    with pytest.raises(LogCorruptError, match=r"copy of 1\.journal"):
        async with opened(tmp_path):
            pass
