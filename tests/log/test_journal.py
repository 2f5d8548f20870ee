from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealkeeper.server.log.errors import LogCorruptError
from sealkeeper.server.log.journal import (
    DurabilityError,
    Growth,
    Journal,
    decode_payload,
    encode_payload,
    read_records,
    remove_segments,
)
from sealkeeper.server.log.journal import segments as segments_in

SEGMENT = 4096
PWRITE = os.pwrite


def payload(number: int, length: int = 50) -> bytes:
    return encode_payload([Growth(0, number, bytes(32), [b"%d" % number, bytes(length)])])


def written(directory: Path, count: int, length: int = 50) -> None:
    journal = Journal(directory, 1, SEGMENT)
    for number in range(1, count + 1):
        journal.append(payload(number, length))
    journal.close()


def sequences(directory: Path) -> list[int]:
    return [record.sequence for record in read_records(directory, 1)]


growths = st.lists(
    st.builds(
        Growth,
        st.integers(0, 2),
        st.integers(0, 2**63 - 1),
        st.binary(min_size=32, max_size=32),
        st.lists(st.binary(max_size=200), max_size=5),
    ),
    max_size=3,
)


@given(growths)
def test_payloads_come_back_whole(found: list[Growth]) -> None:
    assert decode_payload(encode_payload(found)) == found


def test_records_come_back_in_order_over_many_segments(tmp_path: Path) -> None:
    written(tmp_path, 100)
    assert sequences(tmp_path) == list(range(1, 101))
    assert len(segments_in(tmp_path)) > 2


def test_a_record_longer_than_a_segment_gets_its_own(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 1, SEGMENT)
    journal.append(payload(1))
    journal.append(payload(2, 60_000))
    journal.append(payload(3))
    journal.close()
    assert sequences(tmp_path) == [1, 2, 3]


def test_full_segments_are_named_with_their_last_record(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 1, SEGMENT)
    for number in range(1, 60):
        journal.append(payload(number))
    path, last = journal.retired[0]
    journal.close()
    path.unlink()
    assert [record.sequence for record in read_records(tmp_path, last + 1)] == list(range(last + 1, 60))


def test_only_the_gateway_s_user_reads_the_journal(tmp_path: Path) -> None:
    written(tmp_path, 1)
    assert [path.stat().st_mode & 0o777 for path in segments_in(tmp_path)] == [0o600]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, SEGMENT - 1), st.integers(1, 255))
def test_a_flipped_byte_yields_a_prefix_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, by: int
) -> None:
    directory = tmp_path_factory.mktemp("journal")
    written(directory, 10)
    [path] = segments_in(directory)
    data = bytearray(path.read_bytes())
    data[at] ^= by
    path.write_bytes(data)
    try:
        found = sequences(directory)
    except LogCorruptError:
        return
    assert found == list(range(1, len(found) + 1))
    # Nothing but the last record can be lost without being noticed.
    assert len(found) >= 9 or at < 24


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, SEGMENT))
def test_a_journal_cut_off_anywhere_yields_a_prefix(tmp_path_factory: pytest.TempPathFactory, end: int) -> None:
    directory = tmp_path_factory.mktemp("journal")
    written(directory, 10)
    [path] = segments_in(directory)
    path.write_bytes(path.read_bytes()[:end].ljust(SEGMENT, b"\0"))
    found = sequences(directory)
    assert found == list(range(1, len(found) + 1))


def test_a_bad_record_before_a_good_segment_is_refused(tmp_path: Path) -> None:
    written(tmp_path, 100)
    first = segments_in(tmp_path)[0]
    data = bytearray(first.read_bytes())
    data[100] ^= 1
    first.write_bytes(data)
    with pytest.raises(LogCorruptError, match=r"bad record in its middle"):
        sequences(tmp_path)


def test_a_missing_segment_is_refused(tmp_path: Path) -> None:
    written(tmp_path, 100)
    segments_in(tmp_path)[1].unlink()
    with pytest.raises(LogCorruptError, match=r"lacks record"):
        sequences(tmp_path)


def test_bytes_of_a_caller_are_never_taken_for_a_record(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    written(other, 3)
    forged = segments_in(other)[0].read_bytes()[24:1000]
    mine = tmp_path / "mine"
    mine.mkdir()
    journal = Journal(mine, 1, SEGMENT)
    journal.append(encode_payload([Growth(0, 0, bytes(32), [forged])]))
    journal.close()
    [path] = segments_in(mine)
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(data)
    assert sequences(mine) == []


def test_a_full_disk_leaves_nothing_of_the_record_and_the_next_one_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, 1, SEGMENT)
    journal.append(payload(1))
    real, calls = os.pwrite, []

    def fails_halfway(descriptor: int, data: bytes, place: int) -> int:
        calls.append(place)
        if len(calls) == 1:
            return real(descriptor, data[:40], place)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data, place)

    monkeypatch.setattr(os, "pwrite", fails_halfway)
    with pytest.raises(OSError, match="No space"):
        journal.append(payload(2))
    assert sequences(tmp_path) == [1]
    journal.append(payload(2))
    journal.close()
    assert sequences(tmp_path) == [1, 2]


def no_room_for_new_files(descriptor: int, data: bytes, place: int) -> int:
    """Writes as a full disk does: into what has its place already, and nowhere else."""
    if place >= os.fstat(descriptor).st_size:
        raise OSError(errno.ENOSPC, "No space left on device")
    return PWRITE(descriptor, data, place)


def append_while_there_is_room(journal: Journal) -> None:
    while True:
        journal.append(payload(journal.next_sequence))


def test_when_a_disk_that_filled_between_rotations_has_room_again_the_next_record_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, 1, SEGMENT)
    while not journal.retired:
        journal.append(payload(journal.next_sequence))
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", no_room_for_new_files)
        for _ in range(3):
            with pytest.raises(OSError, match="No space"):
                append_while_there_is_room(journal)
    for _ in range(200):
        journal.append(payload(journal.next_sequence))
    journal.close()
    assert sequences(tmp_path) == list(range(1, journal.next_sequence))


def test_a_segment_that_could_not_be_made_ahead_is_made_when_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, 1, SEGMENT)
    with monkeypatch.context() as patched:
        # The first rotation makes its segment at once, and the next one ahead.
        while not journal.retired:
            journal.append(payload(journal.next_sequence))
        assert journal._spare is not None
        assert journal._spare.exception() is None
        patched.setattr(os, "pwrite", no_room_for_new_files)
        while len(journal.retired) < 2:
            journal.append(payload(journal.next_sequence))
        assert journal._spare is not None
        assert isinstance(journal._spare.exception(), OSError)
    for _ in range(200):
        journal.append(payload(journal.next_sequence))
    journal.close()
    assert sequences(tmp_path) == list(range(1, journal.next_sequence))


def test_a_sync_that_fails_is_told_apart_from_a_write_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, 1, SEGMENT)

    def fails(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fails)
    with pytest.raises(DurabilityError):
        journal.append(payload(1))
    journal.close()


def test_a_journal_opened_anew_leaves_all_that_is_there_as_it_is(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 1, SEGMENT)
    journal.append(payload(1, 60_000))
    journal.close()
    before = {path: path.read_bytes() for path in segments_in(tmp_path)}
    Journal(tmp_path, 2, SEGMENT).close()
    assert {path: path.read_bytes() for path in before} == before
    assert sequences(tmp_path) == [1]


def test_a_segment_is_made_under_a_name_that_nobody_took_meanwhile(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 1, SEGMENT)
    taken = tmp_path / f"{2:016}.journal"
    taken.write_bytes(b"somebody's")
    with pytest.raises(FileExistsError):
        journal.append(payload(1, 60_000))
    journal.append(payload(1, 60_000))
    journal.close()
    assert taken.read_bytes() == b"somebody's"


def torn(directory: Path, whole: int) -> None:
    """A segment that a power failure left with so many whole records and a torn one."""
    written(directory, whole + 1)
    [path] = segments_in(directory)
    data = path.read_bytes().rstrip(b"\0")
    path.write_bytes(data[:-3].ljust(SEGMENT, b"\0"))


@pytest.mark.parametrize("whole", [0, 1, 9])
def test_a_torn_record_that_the_next_segment_has_anew_was_never_answered(tmp_path: Path, whole: int) -> None:
    torn(tmp_path, whole)
    journal = Journal(tmp_path, whole + 1, SEGMENT)
    journal.append(payload(whole + 1))
    journal.append(payload(whole + 2))
    journal.close()
    assert sequences(tmp_path) == list(range(1, whole + 3))


def test_a_torn_record_that_the_next_segment_goes_on_behind_is_refused(tmp_path: Path) -> None:
    torn(tmp_path, 4)
    journal = Journal(tmp_path, 6, SEGMENT)
    journal.append(payload(6))
    journal.close()
    with pytest.raises(LogCorruptError, match=r"lacks record 5: 0+2.journal has 6 there; 0+1.journal is bad at byte"):
        sequences(tmp_path)


def test_a_segment_that_comes_back_is_passed_over_where_tiles_have_what_it_held(tmp_path: Path) -> None:
    torn(tmp_path, 4)
    journal = Journal(tmp_path, 20, SEGMENT)
    journal.append(payload(20))
    journal.close()
    assert [record.sequence for record in read_records(tmp_path, 20)] == [20]
    with pytest.raises(LogCorruptError, match="lacks record 19"):
        list(read_records(tmp_path, 19))


@pytest.mark.parametrize("next_sequence", [1, 11, 500])
def test_a_bad_record_with_a_good_one_behind_it_is_refused_whatever_tiles_have(
    tmp_path: Path, next_sequence: int
) -> None:
    written(tmp_path, 10)
    [path] = segments_in(tmp_path)
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    with pytest.raises(LogCorruptError, match="bad record in its middle"):
        list(read_records(tmp_path, next_sequence))


def test_a_removal_of_segments_that_was_cut_short_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, 100)
    paths, unlink = segments_in(tmp_path), Path.unlink

    def fails(path: Path, missing_ok: bool = False) -> None:
        if path == paths[1]:
            raise OSError(errno.EIO, "Input/output error")
        unlink(path, missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", fails)
        with pytest.raises(OSError, match="Input/output error"):
            remove_segments(tmp_path, paths)
    remove_segments(tmp_path, paths)
    assert segments_in(tmp_path) == []
