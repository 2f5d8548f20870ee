"""A walk over a whole log finds what does not belong."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sealkeeper.server.log import TRANSPARENCY, Submission, open_logs
from sealkeeper.verify.errors import LogCorruptError, NoteError, TrustRootError
from sealkeeper.verify.log import MAX_FILE, DirectorySource, read_checkpoint, tile_path, trusted_verifier, verify_log
from sealkeeper.verify.merkle import EMPTY_ROOT
from sealkeeper.verify.note import Checkpoint, NoteVerifier
from tests.log.signer import Signer, signers
from tests.verify.signed import edited_trusted_root, signed

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


@dataclass(frozen=True)
class Watched:
    """A log of which it is noted what was read."""

    source: DirectorySource
    paths: set[str] = field(default_factory=set)

    def read(self, path: str) -> bytes | None:
        self.paths.add(path)
        return self.source.read(path)


# Published in C2SP tlog-tiles, section "Partial Tiles": what represents a tree of 70,000 entries.
async def test_a_log_of_three_levels_has_these_tiles_and_verifies(tmp_path: Path) -> None:
    source = Watched(await written(tmp_path, [20_000, 40_000, 60_000, 70_000]))
    assert verify_log(source, SIGNER.verifier()).checkpoint.size == 70_000
    tiles = {tile_path("0", number) for number in range(273)} | {tile_path("0", 273, 112)}
    upper = {tile_path("1", 0), tile_path("1", 1, 17), tile_path("2", 0, 1)}
    assert {path for path in source.paths if not path.startswith("tile/entries/")} == {"checkpoint"} | tiles | upper


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


def append(path: Path, junk: bytes) -> None:
    path.chmod(0o600)
    path.write_bytes(path.read_bytes() + junk)


@pytest.mark.parametrize("junk", [b"\0", bytes(2), bytes(32), b"\0\5entry"], ids=["byte", "empty", "hash", "entry"])
@pytest.mark.parametrize(
    ("kind", "number", "width", "first"),
    [("entries", 0, 256, 0), ("entries", 2, 188, 512), ("0", 1, 256, 256), ("0", 2, 188, 512), ("1", 0, 2, 0)],
)
async def test_bytes_behind_a_tile_are_found(
    tmp_path: Path, kind: str, number: int, width: int, first: int, junk: bytes
) -> None:
    source = await written(tmp_path, [700])
    append(source.directory / tile_path(kind, number, width), junk)
    with pytest.raises(LogCorruptError, match="long") as caught:
        verify_log(source, SIGNER.verifier())
    assert caught.value.index == first


@pytest.mark.parametrize(("kind", "number", "width"), [("0", 1, 256), ("0", 2, 188), ("1", 0, 2)])
async def test_a_hash_tile_that_is_cut_off_is_found(tmp_path: Path, kind: str, number: int, width: int) -> None:
    source = await written(tmp_path, [700])
    path = source.directory / tile_path(kind, number, width)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(LogCorruptError, match="long"):
        verify_log(source, SIGNER.verifier())


async def grown(directory: Path) -> DirectorySource:
    """A log of 512 entries with the checkpoint of its first 300, whose partial tiles are gone."""
    source = await written(directory / "a", [300])
    checkpoint = (source.directory / "checkpoint").read_bytes()
    source = await written(directory / "b", [300, 512])
    (source.directory / "checkpoint").write_bytes(checkpoint)
    for kind in ("entries", "0"):
        (source.directory / tile_path(kind, 1, 44)).unlink(missing_ok=True)
    return source


async def test_a_full_tile_stands_in_for_a_partial_one(tmp_path: Path) -> None:
    source = await grown(tmp_path)
    assert verify_log(source, SIGNER.verifier()).checkpoint.size == 300
    # What is behind the checkpoint is not what it speaks of.
    spoil(source.directory / tile_path("0", 1), 44 * 32)
    assert verify_log(source, SIGNER.verifier()).checkpoint.size == 300
    spoil(source.directory / tile_path("0", 1), 43 * 32)
    with pytest.raises(LogCorruptError, match="entry 299"):
        verify_log(source, SIGNER.verifier())


@pytest.mark.parametrize("kind", ["entries", "0"])
async def test_a_full_tile_that_stands_in_is_as_long_as_a_full_one(tmp_path: Path, kind: str) -> None:
    source = await grown(tmp_path)
    append(source.directory / tile_path(kind, 1), b"\0")
    with pytest.raises(LogCorruptError, match="long"):
        verify_log(source, SIGNER.verifier())


def test_no_more_of_a_file_is_read_than_a_tile_may_have(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    data = DirectorySource(tmp_path).read("checkpoint")
    assert data is not None
    assert len(data) == MAX_FILE + 1
    with pytest.raises(LogCorruptError, match="1 MiB"):
        read_checkpoint(DirectorySource(tmp_path), SIGNER.verifier())


async def test_an_endless_tile_is_found(tmp_path: Path) -> None:
    source = await written(tmp_path, [3])
    for kind in ("entries", "0"):
        path = source.directory / tile_path(kind, 0, 3)
        data = path.read_bytes()
        path.chmod(0o600)
        with path.open("ab") as file:
            file.truncate(1 << 40)
        with pytest.raises(LogCorruptError, match="long"):
            verify_log(source, SIGNER.verifier())
        path.write_bytes(data)


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
    empty = Checkpoint(earlier.origin, 0, EMPTY_ROOT)
    assert verify_log(source, SIGNER.verifier(), earlier=empty).checkpoint.size == 500
    with pytest.raises(LogCorruptError, match="first 0 entries"):
        verify_log(source, SIGNER.verifier(), earlier=Checkpoint(earlier.origin, 0, bytes(32)))


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


def test_a_log_of_certificates_whose_key_signs_no_checkpoints_is_named(tmp_path: Path) -> None:
    key = signed("PKIX_RSA_PKCS1V15_2048_SHA256").key.public_key

    def change(document: Any) -> None:
        log = document["ctlogs"][0]
        log["publicKey"].update(rawBytes=b64encode(key).decode(), keyDetails="PKIX_RSA_PKCS1V15_2048_SHA256")
        log["logId"]["keyId"] = b64encode(sha256(key).digest()).decode()

    (tmp_path / "checkpoint").write_text("ct.sealkeeper.example\n0\n")
    with pytest.raises(TrustRootError, match=r"ct\.sealkeeper\.example"):
        trusted_verifier(DirectorySource(tmp_path), edited_trusted_root(signed(), change))


def test_a_verifier_key_reads_back() -> None:
    # golang.org/x/mod/sumdb/note, package example.
    published = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    p256 = signed().world.ct.public_key
    for text in (published, SIGNER.verifier().vkey(), NoteVerifier("ct.example", p256).vkey()):
        assert NoteVerifier.from_vkey(text + "\n").vkey() == text
    for wrong in ("", "a+b+c", published.replace("Peter", "Paul"), published[:-4], published.replace("+AR", "+AB")):
        with pytest.raises(NoteError):
            NoteVerifier.from_vkey(wrong)
