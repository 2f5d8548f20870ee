from __future__ import annotations

import asyncio
import errno
import os
import shutil
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import combinations
from pathlib import Path

import pytest

from sealkeeper.server.log import (
    AUDIT,
    CT,
    LOG_NAMES,
    TRANSPARENCY,
    CycleStats,
    EntryTooLargeError,
    IndexOutOfRangeError,
    LogBrokenError,
    LogCorruptError,
    LogLockedError,
    LogOverloadedError,
    LogStorageFullError,
    LogUnavailableError,
    Receipt,
    Sequencer,
    Submission,
    open_logs,
    publisher,
    sequencer,
)
from sealkeeper.server.log.journal import Journal, read_records
from sealkeeper.verify.merkle import EMPTY_ROOT, leaf_hash, verify_consistency, verify_inclusion
from sealkeeper.verify.note import Checkpoint, parse_checkpoint, parse_signed_note
from tests.log.signer import Signer, signers

SEGMENT = 16 * 1024


@asynccontextmanager
async def opened(directory: Path, keys: dict[str, Signer] | None = None) -> AsyncIterator[Sequencer]:
    logs = await open_logs(directory, keys or signers(), publish_interval=0, segment_bytes=SEGMENT)
    try:
        yield logs
    finally:
        await logs.close()


def body(number: int) -> bytes:
    return b"entry %d " % number + bytes(300)


def checked(receipt: Receipt, bodies: list[bytes]) -> list[Checkpoint]:
    """Verify a receipt as a client does."""
    found = []
    for inclusion, one in zip(receipt.transparency, bodies, strict=True):
        note = parse_signed_note(inclusion.checkpoint)
        Signer(TRANSPARENCY).verifier().verify(note)
        checkpoint = parse_checkpoint(note.text)
        assert (checkpoint.size, checkpoint.root_hash) == (inclusion.tree_size, inclusion.root_hash)
        verify_inclusion(leaf_hash(one), inclusion.index, checkpoint.size, inclusion.hashes, checkpoint.root_hash)
        found.append(checkpoint)
    return found


async def entries(logs: Sequencer, name: str) -> list[bytes]:
    return [one async for _, bodies in logs.log(name).entries(0) for one in bodies]


async def test_a_fresh_log_has_a_signed_checkpoint_of_size_0(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        for name in LOG_NAMES:
            note = parse_signed_note((tmp_path / name / "checkpoint").read_text())
            Signer(name).verifier().verify(note)
            assert parse_checkpoint(note.text) == Checkpoint(f"{name}.example", 0, EMPTY_ROOT)
            assert logs.log(name).checkpoint == (tmp_path / name / "checkpoint").read_text()


async def test_many_submissions_at_once_share_cycles_and_each_gets_its_proof(tmp_path: Path) -> None:
    cycles: list[CycleStats] = []
    async with opened(tmp_path) as logs:
        logs.on_cycle = cycles.append
        bodies = [body(number) for number in range(500)]
        receipts = await asyncio.gather(*(logs.submit(Submission(transparency=[one])) for one in bodies))
        for receipt, one in zip(receipts, bodies, strict=True):
            checked(receipt, [one])
        assert sum(cycle.submissions for cycle in cycles) == 500
        assert len(cycles) < 100
        assert await entries(logs, TRANSPARENCY) == bodies


async def test_an_audit_record_can_name_the_entry_that_it_is_about(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        await logs.submit(Submission(transparency=[b"before"]))
        receipt = await logs.submit(
            Submission(transparency=[b"a", b"b"], ct=[b"c"], audit=lambda index: [b"signed as %d" % index])
        )
        assert [one.index for one in receipt.transparency] == [1, 2]
        assert await entries(logs, AUDIT) == [b"signed as 1"]
        assert await entries(logs, CT) == [b"c"]


async def test_logs_reopened_go_on_where_they_were(tmp_path: Path) -> None:
    bodies: list[bytes] = []
    for round_ in range(4):
        async with opened(tmp_path) as logs:
            assert await entries(logs, TRANSPARENCY) == bodies
            for number in range(150):
                bodies.append(body(1000 * round_ + number))
                checked(await logs.submit(Submission(transparency=bodies[-1:])), bodies[-1:])
            await logs.published(TRANSPARENCY, len(bodies))


async def test_proofs_and_entries_of_any_age_are_found(tmp_path: Path) -> None:
    bodies = [body(number) for number in range(1000)]
    async with opened(tmp_path) as logs:
        await logs.submit(Submission(transparency=bodies))
    async with opened(tmp_path) as logs:
        log = logs.log(TRANSPARENCY)
        await logs.submit(Submission(transparency=[b"newer"]))
        for index, size in ((0, 1), (0, 1000), (255, 256), (256, 1001), (999, 1000), (1000, 1001)):
            proof = await log.inclusion_proof(index, size)
            verify_inclusion(proof.leaf_hash, index, size, proof.hashes, proof.root_hash)
        roots = {size: (await log.inclusion_proof(0, size)).root_hash for size in (1, 256, 700, 1001)}
        for (first, first_root), (second, second_root) in combinations(roots.items(), 2):
            hashes = await log.consistency_proof(first, second)
            verify_consistency(first, second, hashes, first_root, second_root)
        found = [one async for _, part in log.entries(250, 600) for one in part]
        assert found == bodies[250:850]
        for call in (log.inclusion_proof(1001, 1001), log.inclusion_proof(0, 1002), log.consistency_proof(3, 2)):
            with pytest.raises(IndexOutOfRangeError):
                await call


async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path):
        with pytest.raises(LogLockedError, match=str(tmp_path)):
            await open_logs(tmp_path, signers())


async def test_a_log_is_not_opened_with_another_key(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    keys = signers()
    keys[TRANSPARENCY] = Signer("other")
    with pytest.raises(LogCorruptError, match="transparency"):
        await open_logs(tmp_path, keys)


async def test_an_entry_too_long_or_an_audit_record_that_fails_harms_nobody_else(tmp_path: Path) -> None:
    def fails(_: int) -> list[bytes]:
        raise ValueError("no record")

    async with opened(tmp_path) as logs:
        results = await asyncio.gather(
            logs.submit(Submission(transparency=[b"good"])),
            logs.submit(Submission(transparency=[bytes(65_536)])),
            logs.submit(Submission(transparency=[b"bad"], audit=fails)),
            logs.submit(Submission(transparency=[b"too long"], audit=lambda _: [bytes(65_536)])),
            logs.submit(Submission(transparency=[b"good too"])),
            return_exceptions=True,
        )
        assert [type(one) for one in results] == [Receipt, EntryTooLargeError, ValueError, EntryTooLargeError, Receipt]
        assert await entries(logs, TRANSPARENCY) == [b"good", b"good too"]


async def test_too_many_waiting_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequencer, "MAX_PENDING", 10)
    async with opened(tmp_path) as logs:
        results = await asyncio.gather(
            *(logs.submit(Submission(transparency=[b"x"])) for _ in range(15)), return_exceptions=True
        )
        assert sum(isinstance(one, LogOverloadedError) for one in results) == 5
        assert len(await entries(logs, TRANSPARENCY)) == 10


async def test_a_caller_that_goes_away_harms_nobody(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        tasks = [asyncio.ensure_future(logs.submit(Submission(transparency=[body(n)]))) for n in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(one, Receipt) for one in results[1::2])


async def test_while_checkpoints_cannot_be_signed_nothing_is_answered_and_afterwards_all_is_covered(
    tmp_path: Path,
) -> None:
    keys = signers()
    async with opened(tmp_path, keys) as logs:
        keys[TRANSPARENCY].failing = True
        with pytest.raises(LogUnavailableError):
            await logs.submit(Submission(transparency=[b"unanswered"]))
        assert logs.log(TRANSPARENCY).tree_size == 0
        keys[TRANSPARENCY].failing = False
        receipt = await logs.submit(Submission(transparency=[b"answered"]))
        checked(receipt, [b"answered"])
        assert await entries(logs, TRANSPARENCY) == [b"unanswered", b"answered"]
    async with opened(tmp_path) as logs:
        assert await entries(logs, TRANSPARENCY) == [b"unanswered", b"answered"]


async def test_a_full_disk_records_nothing_and_work_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as logs:
        await logs.submit(Submission(transparency=[b"before"]))
        real = os.pwrite
        calls = 0

        def full(descriptor: int, data: bytes, place: int) -> int:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(descriptor, data, place)

        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(LogStorageFullError):
            await logs.submit(Submission(transparency=[b"lost"]))
        checked(await logs.submit(Submission(transparency=[b"after"])), [b"after"])
        assert await entries(logs, TRANSPARENCY) == [b"before", b"after"]
    async with opened(tmp_path) as logs:
        assert await entries(logs, TRANSPARENCY) == [b"before", b"after"]


async def test_after_a_failed_sync_nothing_is_answered_until_reopened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as logs:
        checked(await logs.submit(Submission(transparency=[b"before"])), [b"before"])

        def fails(_: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patched:
            patched.setattr(os, "fdatasync", fails)
            with pytest.raises(LogBrokenError):
                await logs.submit(Submission(transparency=[b"unknown"]))
        with pytest.raises(LogBrokenError):
            await logs.submit(Submission(transparency=[b"later"]))
    async with opened(tmp_path) as logs:
        assert (await entries(logs, TRANSPARENCY))[0] == b"before"
        checked(await logs.submit(Submission(transparency=[b"again"])), [b"again"])


async def test_at_every_moment_of_a_run_a_copy_of_the_folder_recovers_to_one_history(tmp_path: Path) -> None:
    """A copy taken after an answer stands for the machine's state at a crash right then."""
    live, roots = tmp_path / "live", {0: EMPTY_ROOT}
    async with opened(live) as logs:
        for number in range(120):
            receipt = await logs.submit(Submission(transparency=[body(number)], audit=[b"%d" % number]))
            [checkpoint] = checked(receipt, [body(number)])
            assert roots.setdefault(checkpoint.size, checkpoint.root_hash) == checkpoint.root_hash
            if number % 10 == 3:
                crashed = tmp_path / f"crashed-{number}"
                # Files may be replaced while they are copied, as they may be when the power fails.
                shutil.copytree(live, crashed, ignore=shutil.ignore_patterns(".*.new"))
                async with opened(crashed) as recovered:
                    assert await entries(recovered, TRANSPARENCY) == [body(n) for n in range(number + 1)]
                    assert await entries(recovered, AUDIT) == [b"%d" % n for n in range(number + 1)]
                    assert recovered.log(TRANSPARENCY).root_hash == roots[number + 1]


async def test_tiles_lost_with_the_power_are_written_anew_from_the_journal(tmp_path: Path) -> None:
    live, crashed = tmp_path / "live", tmp_path / "crashed"
    async with opened(live) as logs:
        await logs.submit(Submission(transparency=[body(n) for n in range(30)]))
        await logs.published(TRANSPARENCY, 30)
        shutil.copytree(live, crashed)
        for name in LOG_NAMES:
            shutil.rmtree(crashed / name / "tile", ignore_errors=True)
            (crashed / name / "checkpoint").write_bytes(b"")
        async with opened(crashed) as recovered:
            assert await entries(recovered, TRANSPARENCY) == [body(n) for n in range(30)]
            assert (crashed / TRANSPARENCY / "checkpoint").read_text() == recovered.log(TRANSPARENCY).checkpoint


@pytest.mark.parametrize("what", ["journal", "checkpoint", "tile", "entries", "state.json"])
async def test_a_folder_that_was_tampered_with_is_refused(tmp_path: Path, what: str) -> None:
    live = tmp_path / "live"
    async with opened(live) as logs:
        await logs.submit(Submission(transparency=[body(n) for n in range(30)]))
        await logs.published(TRANSPARENCY, 30)
        crashed = tmp_path / "crashed"
        shutil.copytree(live, crashed)
    if what == "journal":
        # The records are gone, but readers have seen their checkpoint.
        shutil.rmtree(crashed / "journal")
    elif what == "checkpoint":
        forged = Checkpoint("transparency.example", 30, bytes(32)).text()
        signature = (live / TRANSPARENCY / "checkpoint").read_text().split("\n\n")[1]
        (crashed / TRANSPARENCY / "checkpoint").write_text(f"{forged}\n{signature}")
    elif what == "state.json":
        crashed = live
        (live / "state.json").unlink()
    else:
        crashed = live
        folder = live / TRANSPARENCY / "tile" / ("0" if what == "tile" else "entries") / "000.p"
        [path] = [path for path in folder.iterdir() if path.name == "30"]
        data = bytearray(path.read_bytes())
        data[40] ^= 1
        path.write_bytes(data)
    with pytest.raises(LogCorruptError):
        await open_logs(crashed, signers())


async def test_partial_tiles_and_journal_segments_are_cleaned_up(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        for number in range(300):
            await logs.submit(Submission(transparency=[body(number)], audit=[b"x"]))
    assert not (tmp_path / TRANSPARENCY / "tile/0/000.p").exists()
    assert not (tmp_path / TRANSPARENCY / "tile/entries/000.p").exists()
    assert (tmp_path / TRANSPARENCY / "tile/entries/000").exists()
    assert len(list((tmp_path / "journal").iterdir())) <= 2
    assert (tmp_path / AUDIT).stat().st_mode & 0o077 == 0


async def test_a_closed_log_takes_nothing_more(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        waiting = asyncio.ensure_future(logs.submit(Submission(transparency=[b"in time"])))
        await asyncio.sleep(0)
        await logs.close()
        assert (await waiting).transparency[0].index == 0
        with pytest.raises(LogUnavailableError):
            await logs.submit(Submission(transparency=[b"late"]))
        await logs.close()


async def test_a_submission_of_too_many_entries_or_bytes_is_refused_before_it_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequencer, "MAX_SUBMISSION_ENTRIES", 10)
    monkeypatch.setattr(sequencer, "MAX_SUBMISSION_BYTES", 1000)
    refused = (
        Submission(transparency=[b"x"] * 11),
        Submission(transparency=[b"x"] * 4, ct=[b"x"] * 4, audit=[b"x"] * 3),
        Submission(transparency=[bytes(600)], audit=[bytes(401)]),
    )
    late = (
        Submission(transparency=[b"x"] * 5, audit=lambda _: [b"x"] * 6),
        Submission(transparency=[bytes(600)], audit=lambda _: [bytes(401)]),
    )
    async with opened(tmp_path) as logs:
        for one in refused:
            answer = logs.submit(one)
            assert isinstance(answer.exception(), LogOverloadedError)
        good = Submission(transparency=[b"x"] * 5 + [bytes(500)], ct=[b"x"], audit=[b"x"] * 3)
        results = await asyncio.gather(*map(logs.submit, (*late, good)), return_exceptions=True)
        assert [type(one) for one in results] == [LogOverloadedError, LogOverloadedError, Receipt]
        assert logs.tree_sizes == {TRANSPARENCY: 6, CT: 1, AUDIT: 3}


async def test_what_waits_is_bounded_in_bytes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequencer, "MAX_PENDING_BYTES", 1000)
    async with opened(tmp_path) as logs:
        for _ in range(2):
            results = await asyncio.gather(
                *(logs.submit(Submission(transparency=[bytes(250)], audit=[bytes(150)])) for _ in range(5)),
                return_exceptions=True,
            )
            assert [type(one) for one in results] == [Receipt] * 3 + [LogOverloadedError] * 2


async def test_an_audit_record_that_is_too_long_is_refused_like_any_entry(tmp_path: Path) -> None:
    async with opened(tmp_path) as logs:
        with pytest.raises(EntryTooLargeError):
            await logs.submit(Submission(audit=[bytes(65_536)]))
        await logs.submit(Submission(audit=[bytes(65_535)]))


async def test_while_entries_cannot_be_published_those_kept_in_memory_are_bounded_in_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequencer, "MAX_UNPUBLISHED_BYTES", 10_000)

    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def submit_many(logs: Sequencer) -> None:
        for number in range(100):
            await logs.submit(Submission(transparency=[body(number)]))

    async with opened(tmp_path) as logs:
        with monkeypatch.context() as patched:
            patched.setattr(publisher, "_write", fails)
            with pytest.raises(LogStorageFullError):
                await submit_many(logs)
            size = logs.log(TRANSPARENCY).tree_size
            assert 30 <= size <= 35
        await logs.published(TRANSPARENCY, size)
        await logs.submit(Submission(transparency=[b"more"]))


async def test_entries_that_pile_up_while_checkpoints_cannot_be_signed_are_covered_when_they_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequencer, "MAX_UNPUBLISHED", 3)
    keys = signers()
    async with opened(tmp_path, keys) as logs:
        keys[TRANSPARENCY].failing = True
        for _ in range(4):
            with pytest.raises(LogUnavailableError):
                await logs.submit(Submission(transparency=[b"x"]))
        keys[TRANSPARENCY].failing = False
        with pytest.raises(LogUnavailableError):
            await logs.submit(Submission(transparency=[b"x"]))
        await logs.published(TRANSPARENCY, 4)
        receipt = await logs.submit(Submission(transparency=[b"more"]))
        assert receipt.transparency[0].index == 4


@pytest.mark.parametrize("where", ["leaf_hash", "encode_payload", "_proofs", "append", "Receipt"])
async def test_an_unexpected_error_in_a_cycle_breaks_the_log_and_leaves_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    class SurpriseError(Exception):
        """Comes from nowhere."""

    def fails(*_: object) -> None:
        raise SurpriseError("secret")

    async with opened(tmp_path) as logs:
        checked(await logs.submit(Submission(transparency=[b"before"])), [b"before"])
        assert not logs.broken
        with monkeypatch.context() as patched:
            patched.setattr(sequencer, "_MAX_CYCLE_ENTRIES", 2)
            patched.setattr(Journal if where == "append" else sequencer, where, fails)
            waiting = [logs.submit(Submission(transparency=[b"%d" % number])) for number in range(5)]
            results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)
        assert [type(one) for one in results] == [LogBrokenError] * 5
        assert logs.broken
        assert logs.pending_entries == 0
        with pytest.raises(LogBrokenError):
            await logs.submit(Submission(transparency=[b"later"]))
        assert "SurpriseError" in caplog.text
        assert "secret" not in caplog.text
        size = logs.log(TRANSPARENCY).tree_size
    # Not even closing it makes a broken log sign or write anything.
    assert logs.log(TRANSPARENCY).tree_size == size
    assert all(record.growths for record in read_records(tmp_path / "journal", 1))
    async with opened(tmp_path) as logs:
        assert (await entries(logs, TRANSPARENCY))[0] == b"before"
        checked(await logs.submit(Submission(transparency=[b"again"])), [b"again"])


async def test_whoever_is_told_of_cycles_does_no_harm_by_failing(tmp_path: Path) -> None:
    def fails(_: CycleStats) -> None:
        raise ValueError("no telemetry")

    async with opened(tmp_path) as logs:
        logs.on_cycle = fails
        for number in range(3):
            checked(await logs.submit(Submission(transparency=[body(number)])), [body(number)])
        assert not logs.broken


async def test_the_publisher_survives_an_unexpected_error_and_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write, failed = publisher._write, list[int]()

    def fails_once(snapshots: Sequence[object]) -> None:
        if not failed:
            failed.append(1)
            raise ZeroDivisionError("secret")
        write(snapshots)  # type: ignore[arg-type]

    async with opened(tmp_path) as logs:
        monkeypatch.setattr(publisher, "_write", fails_once)
        await logs.submit(Submission(transparency=[b"x"]))
        await asyncio.wait_for(logs.published(TRANSPARENCY, 1), 10)
        assert failed
        assert "ZeroDivisionError" in caplog.text
        assert "secret" not in caplog.text


async def test_tiles_that_the_disk_did_not_make_durable_break_the_log_and_are_written_anew_from_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered: list[bytes] = []

    async def submit_many(logs: Sequencer) -> None:
        for number in range(1000):
            checked(await logs.submit(Submission(transparency=[body(number)])), [body(number)])
            answered.append(body(number))

    async with opened(tmp_path) as logs:
        with monkeypatch.context() as patched:
            patched.setattr(publisher, "_syncfs", lambda _: errno.EIO)
            with pytest.raises(LogBrokenError, match="durable"):
                await submit_many(logs)
            assert logs.broken
    # What the disk did not keep.
    for name in LOG_NAMES:
        shutil.rmtree(tmp_path / name / "tile", ignore_errors=True)
        (tmp_path / name / "checkpoint").write_bytes(b"")
    async with opened(tmp_path) as logs:
        assert (await entries(logs, TRANSPARENCY))[: len(answered)] == answered


@pytest.mark.parametrize("broken", [False, True], ids=["sound", "broken"])
async def test_closing_waits_for_a_publication_that_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError

    write, begun, another = publisher._write, threading.Event(), threading.Event()
    beside: list[bool] = []

    def slow(snapshots: Sequence[object]) -> None:
        if begun.is_set():
            another.set()
        else:
            begun.set()
            beside.append(another.wait(0.2))
        write(snapshots)  # type: ignore[arg-type]

    async with opened(tmp_path) as logs:
        monkeypatch.setattr(publisher, "_write", slow)
        await logs.submit(Submission(transparency=[b"x"]))
        await asyncio.to_thread(begun.wait, 10)
        if broken:
            with monkeypatch.context() as patched:
                patched.setattr(Journal, "append", fails)
                with pytest.raises(LogBrokenError):
                    await logs.submit(Submission(transparency=[b"y"]))
    async with opened(tmp_path):
        pass
    assert beside == [False]
