"""A walk over a whole log finds what does not belong."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealkeeper.server.log import TRANSPARENCY, Submission, open_logs
from sealkeeper.verify.errors import LogCorruptError, NoteError, TrustRootError
from sealkeeper.verify.log import DirectorySource, read_checkpoint, tile_path, trusted_verifier, verify_log
from sealkeeper.verify.note import Checkpoint, NoteVerifier
from tests.log.signer import Signer, signers
from tests.verify.signed import signed

SIGNER = Signer(TRANSPARENCY)


def body(number: int) -> bytes:
    return b"entry %d" % number


async def written(directory: Path, sizes: list[int]) -> DirectorySource:
    logs = await open_logs(directory, signers(), publish_interval=0, segment_bytes=1 << 20)
    done = 0
    for size in sizes:
        await logs.submit(Submission([body(number) for number in range(done, size)], [], []))
        done = size
    await logs.close()
    return DirectorySource(directory / TRANSPARENCY)


# Published in C2SP tlog-tiles: index 1234067 is x001/x234/067.
def test_paths_are_those_of_tlog_tiles() -> None:
    assert tile_path("0", 1234067) == "tile/0/x001/x234/067"
    assert tile_path("entries", 0, 5) == "tile/entries/000.p/5"


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 1000])
async def test_a_whole_log_verifies(tmp_path: Path, size: int) -> None:
    source, told = await written(tmp_path, [size] if size else []), list[tuple[int, int]]()
    report = verify_log(source, SIGNER.verifier(), progress=lambda done, total: told.append((done, total)))
    assert report.checkpoint.size == size
    assert not size or told[-1] == (size, size)


async def test_a_log_of_three_levels_verifies(tmp_path: Path) -> None:
    source = await written(tmp_path, [20_000, 40_000, 60_000, 66_000])
    assert verify_log(source, SIGNER.verifier()).checkpoint.size == 66_000


def spoil(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


async def test_the_first_bad_entry_is_named(tmp_path: Path) -> None:
    source = await written(tmp_path, [700])
    entries = source.directory / tile_path("entries", 1)
    # Each entry: two bytes of length, then "entry NNN".
    spoil(entries, 44 * 11 + 10)
    spoil(entries, 50 * 11 + 10)
    with pytest.raises(LogCorruptError, match="entry 300") as caught:
        verify_log(source, SIGNER.verifier())
    assert caught.value.index == 300


@pytest.mark.parametrize(
    ("kind", "number", "width", "first"), [("entries", 2, 188, 512), ("0", 1, 256, 256), ("1", 0, 2, 0)]
)
async def test_a_missing_tile_is_named(tmp_path: Path, kind: str, number: int, width: int, first: int) -> None:
    source = await written(tmp_path, [700])
    (source.directory / tile_path(kind, number, width)).unlink()
    with pytest.raises(LogCorruptError, match="missing") as caught:
        verify_log(source, SIGNER.verifier())
    assert caught.value.index == first


async def test_a_rewritten_hash_tile_is_found(tmp_path: Path) -> None:
    source = await written(tmp_path, [700])
    spoil(source.directory / tile_path("1", 0, 2), 40)
    with pytest.raises(LogCorruptError) as caught:
        verify_log(source, SIGNER.verifier())
    assert caught.value.index == 256


async def test_a_history_rewritten_in_all_its_tiles_is_not_what_was_signed(tmp_path: Path) -> None:
    source, other = await written(tmp_path / "a", [10]), await written(tmp_path / "b", [9])
    (source.directory / "checkpoint").write_bytes((other.directory / "checkpoint").read_bytes())
    for kind in ("entries", "0"):
        whole = source.directory / tile_path(kind, 0, 10)
        data = whole.read_bytes()
        part = source.directory / tile_path(kind, 0, 9)
        part.write_bytes(data.replace(b"entry 3", b"entry X") if kind == "entries" else data[:288])
    with pytest.raises(LogCorruptError, match="entry 3"):
        verify_log(source, SIGNER.verifier())


async def test_an_earlier_checkpoint_must_still_be_contained(tmp_path: Path) -> None:
    source = await written(tmp_path / "a", [300])
    earlier = read_checkpoint(source, SIGNER.verifier())
    source = await written(tmp_path / "b", [300, 500])
    assert verify_log(source, SIGNER.verifier(), earlier=earlier).checkpoint.size == 500
    other = Checkpoint(earlier.origin, 299, earlier.root_hash)
    for wrong in (other, Checkpoint(earlier.origin, 501, bytes(32))):
        with pytest.raises(LogCorruptError):
            verify_log(source, SIGNER.verifier(), earlier=wrong)


async def test_another_key_or_no_checkpoint_is_refused(tmp_path: Path) -> None:
    source = await written(tmp_path, [3])
    with pytest.raises(LogCorruptError, match="not signed by"):
        verify_log(source, Signer("audit").verifier())
    with pytest.raises(LogCorruptError, match="no checkpoint"):
        verify_log(DirectorySource(tmp_path / "nowhere"), SIGNER.verifier())


def test_a_log_is_found_in_the_trust_root_by_its_origin(tmp_path: Path) -> None:
    world = signed().world
    for origin in (world.origin, "ct.sealkeeper.example"):
        (tmp_path / "checkpoint").write_text(f"{origin}\n0\n")
        assert trusted_verifier(DirectorySource(tmp_path), signed().trust).name == origin
    (tmp_path / "checkpoint").write_text("log.other.example\n0\n")
    with pytest.raises(TrustRootError, match="does not know the log"):
        trusted_verifier(DirectorySource(tmp_path), signed().trust)


def test_a_verifier_key_reads_back() -> None:
    # golang.org/x/mod/sumdb/note, package example.
    published = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    p256 = signed().world.ct.public_key
    for text in (published, SIGNER.verifier().vkey(), NoteVerifier("ct.example", p256).vkey()):
        assert NoteVerifier.from_vkey(text + "\n").vkey() == text
    for wrong in ("", "a+b+c", published.replace("Peter", "Paul"), published[:-4], published.replace("+AR", "+AB")):
        with pytest.raises(NoteError):
            NoteVerifier.from_vkey(wrong)
