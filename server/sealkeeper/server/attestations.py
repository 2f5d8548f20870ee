"""What is kept of attestations: bundles as files named by their SHA-256, and an index of what they say.

A file is durable before it is in the index. The index is a projection: what a crash left out of it, or all of it where
a database was lost, is made anew from the files and the audit log, which says who asked for what with which key.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import msgspec
from rfc3161_client import decode_timestamp_response

from sealkeeper.server.attestation import SHOWN, Attestation, Search, digests_of, log_index_of, origin_of, subjects_of
from sealkeeper.server.audit import OK
from sealkeeper.server.errors import NotFoundError, OverloadedError, UnavailableError
from sealkeeper.server.files import unusable, write_file
from sealkeeper.server.log import LogReader
from sealkeeper.server.resources import AttestationName, KeyVersionName, parse_version_name
from sealkeeper.server.store.attestation_table import AttestationTable
from sealkeeper.verify.bundle import Bundle, DsseEnvelope, parse_bundle
from sealkeeper.verify.errors import VerifyError
from sealkeeper.verify.statement import Statement, parse_statement

_log = logging.getLogger("sealkeeper.attestations")
METHOD = "AttestationService/Attest"
_NAME = re.compile(r"([0-9a-f]{64})\.json")
_WINDOW = 10_000
_MAX_UNDER_WAY = 64
_THREADS = 2
_RETRY_AFTER = timedelta(milliseconds=500)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class KeptBundle:
    """A bundle of an attestation, and what is in it."""

    data: bytes
    statement: Statement


class Attestations:
    """All attestations that are kept; ``open`` comes first. Used on the event loop, which it does not block.

    Args:
        table: the index.
        folder: of the bundles.
    """

    def __init__(self, table: AttestationTable, folder: Path) -> None:
        self._table = table
        self._folder = folder
        # In threads of its own: reading much JSON takes from no signature. Of these no tenant has more than half.
        self._threads = ThreadPoolExecutor(2 * _THREADS, "sealkeeper-attestations")
        self._turns: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(_THREADS))
        self._under_way: Counter[str] = Counter()

    async def work(self, tenant: str, task: Callable[[], _T]) -> _T:
        """Do what takes long in a thread, for each tenant a bounded number of such at a time.

        Raises:
            OverloadedError: too many of the tenant are under way.
        """
        if self._under_way[tenant] >= _MAX_UNDER_WAY:
            raise OverloadedError("too many attestations are being made or read", retry_after=_RETRY_AFTER)
        self._under_way[tenant] += 1
        try:
            async with self._turns[tenant]:
                return await asyncio.get_running_loop().run_in_executor(self._threads, task)
        finally:
            self._under_way[tenant] -= 1

    async def open(self, audit: LogReader) -> int:
        """Make the folder, and take bundles into the index that are not in it.

        Args:
            audit: the audit log.

        Returns:
            How many were taken in.

        Raises:
            ConfigurationError: the folder cannot be used.
            SealkeeperError: the database does not answer.
            LogError: the audit log cannot be read.
        """
        try:
            await asyncio.to_thread(self._folder.mkdir, mode=0o700, parents=True, exist_ok=True)
            missing: dict[int, Path] = {}
            for first in range(256):
                paths = await asyncio.to_thread(self._bundles, f"{first:02x}")
                for digest in await self._table.unknown(paths.keys()) if paths else ():
                    await self._note(paths[digest], missing)
            return await self._take_in(missing, audit)
        except OSError as error:
            raise unusable(error, self._folder) from None

    def _bundles(self, first: str) -> dict[bytes, Path]:
        """The bundles whose digests begin so, without what a crash left of one."""
        found: dict[bytes, Path] = {}
        for path in self._folder.glob(f"{first}/[0-9a-f][0-9a-f]/*"):
            if path.name.startswith("."):
                path.unlink(missing_ok=True)
            elif match := _NAME.fullmatch(path.name):
                found[bytes.fromhex(match[1])] = path
        return found

    async def _note(self, path: Path, missing: dict[int, Path]) -> None:
        try:
            index = await asyncio.to_thread(lambda: _log_index(_read(path, bytes.fromhex(path.stem))))
        except (VerifyError, UnavailableError) as error:
            _log.error("%s is left out: %s", path, error)
            return
        # Another bundle of the same entry, with another proof of it, may have been kept instead.
        if not await self._table.indexed(index):
            missing[index] = path

    async def _take_in(self, missing: dict[int, Path], audit: LogReader) -> int:
        asked, count = await _asked(audit, set(missing)), 0
        for index, path in sorted(missing.items()):
            if index not in asked:
                _log.error("%s is left out: the audit log knows nothing of it", path)
                continue
            one = asked[index]
            data = await asyncio.to_thread(path.read_bytes)
            try:
                await asyncio.to_thread(_require_statement, data, one.statement)
                made, digests = await asyncio.to_thread(_described, data, one.attester, one.version)
            except VerifyError as error:
                _log.error("%s is left out: %s", path, error)
                continue
            await self._table.add(made, digests)
            count += 1
        if count:
            _log.warning("took %d attestations into the index that were not in it", count)
        return count

    async def describe(self, bundle: bytes, attester: str, version: KeyVersionName) -> Attestation:
        """What is known of an attestation by its bundle.

        Args:
            bundle: of the gateway's own.
            attester: subject of who asked for it.
            version: that signed.
        """
        made, _ = await self.work(version.tenant, lambda: _described(bundle, attester, version))
        return made

    async def keep(self, bundle: bytes, attester: str, version: KeyVersionName) -> tuple[Attestation, bytes]:
        """Keep an attestation. Of one entry of the log the first bundle is kept, however often it is asked for.

        Args:
            bundle: of the gateway's own.
            attester: subject of who asked for it.
            version: that signed.

        Returns:
            What is kept, and its bundle.

        Raises:
            OverloadedError: the disk is full, or too many are under way.
            UnavailableError: the disk or the database did not take it.
        """
        made, digests = await self.work(version.tenant, lambda: _described(bundle, attester, version))
        known = await self._table.find(made.tenant, made.log_index)
        if known is None:
            await self.work(made.tenant, lambda: self._write(made.bundle_digest, bundle))
            known = await self._table.add(made, digests)
        return known, bundle if known.bundle_digest == made.bundle_digest else (await self.bundle(known)).data

    async def get(self, name: AttestationName) -> Attestation:
        """Look an attestation up.

        Raises:
            NotFoundError: there is none of this name.
            SealkeeperError: the database does not answer.
        """
        index = log_index_of(name.id)
        found = await self._table.find(name.tenant, index) if index is not None else None
        if found is not None:
            return found
        raise NotFoundError(
            f"there is no {name}", reason="ATTESTATION_NOT_FOUND", next_step="sealkeeper attestations list"
        )

    async def bundle(self, one: Attestation) -> KeptBundle:
        """The bundle of an attestation.

        Raises:
            UnavailableError: it is not on the disk, or not what was kept.
            OverloadedError: too many are being read.
        """

        def read() -> KeptBundle:
            data = _read(self._path(one.bundle_digest), one.bundle_digest)
            return KeptBundle(data, _statement(parse_bundle(data)))

        try:
            return await self.work(one.tenant, read)
        except (OSError, VerifyError) as error:
            _log.error("the bundle of %s cannot be read: %s", one.name, error)
            raise UnavailableError(
                f"the bundle of {one.name} cannot be read", next_step="have the gateway's disk looked at"
            ) from None

    async def data(self, tenant: str, digest: bytes) -> bytes | None:
        """A bundle by its SHA-256; ``None`` where it is not there, or not what was kept.

        Args:
            tenant: that asks, and has learnt the digest from what is its own.
            digest: 32 bytes.

        Raises:
            OverloadedError: too many are being read.
        """
        try:
            return await self.work(tenant, lambda: _read(self._path(digest), digest))
        except (OSError, UnavailableError):
            return None

    async def search(self, search: Search, below: int | None, limit: int) -> list[Attestation]:
        """Attestations that fit, newest first; as ``AttestationTable.search``."""
        return await self._table.search(search, below, limit)

    async def close(self) -> None:
        """Finish what is under way."""
        await asyncio.to_thread(self._threads.shutdown)

    def _path(self, digest: bytes) -> Path:
        name = digest.hex()
        return self._folder / name[:2] / name[2:4] / f"{name}.json"

    def _write(self, digest: bytes, bundle: bytes) -> None:
        path = self._path(digest)
        try:
            for folder in (path.parent.parent, path.parent):
                _make_folder(folder)
            write_file(path, bundle)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OverloadedError(
                    "the disk of the attestations is full",
                    reason="STORAGE_FULL",
                    next_step="free space there, then retry",
                ) from None
            _log.error("%s", unusable(error, self._folder))
            raise UnavailableError("the attestation could not be kept", next_step="retry") from None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return
    descriptor = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path, digest: bytes) -> bytes:
    data = path.read_bytes()
    if sha256(data).digest() != digest:
        raise UnavailableError(f"{path} is not what was kept")
    return data


def _log_index(bundle: bytes) -> int:
    return parse_bundle(bundle).entries[0].log_index


def _statement(bundle: Bundle) -> Statement:
    content = bundle.content
    if not isinstance(content, DsseEnvelope):
        raise VerifyError("the bundle has no DSSE envelope")
    return parse_statement(content.payload)


def _described(data: bytes, attester: str, version: KeyVersionName) -> tuple[Attestation, frozenset[str]]:
    """What a bundle says, and the digests of its subjects.

    Raises:
        VerifyError: it is not one of an attestation.
    """
    bundle = parse_bundle(data)
    statement = _statement(bundle)
    made = Attestation(
        version.tenant,
        bundle.entries[0].log_index,
        version,
        attester,
        statement.predicate_type,
        subjects_of(statement, SHOWN),
        len(statement.subjects),
        origin_of(statement),
        _signed_at(bundle.timestamps[0]),
        sha256(data).digest(),
        len(data),
    )
    return made, digests_of(statement)


def _require_statement(data: bytes, digest: str) -> None:
    """Refuse a bundle that has another Statement than was signed.

    Raises:
        VerifyError: it has.
    """
    content = parse_bundle(data).content
    if not isinstance(content, DsseEnvelope) or f"sha256:{sha256(content.payload).hexdigest()}" != digest:
        raise VerifyError("the audit log has another Statement of this entry")


def _signed_at(stamp: bytes) -> datetime:
    moment: datetime = decode_timestamp_response(stamp).tst_info.gen_time
    return moment


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the audit log says of an attestation: who asked for it, which version signed, the Statement's digest."""

    attester: str
    version: KeyVersionName
    statement: str


class _Attestation(msgspec.Struct, frozen=True):
    statement: str


class _Details(msgspec.Struct, frozen=True, rename="camel"):
    key_version: str
    log_index: int
    attestation: _Attestation


class _Record(msgspec.Struct, frozen=True):
    method: str
    outcome: str
    subject: str
    details: msgspec.Raw


_decode_record = msgspec.json.Decoder(_Record).decode
_decode_details = msgspec.json.Decoder(_Details).decode


async def _asked(audit: LogReader, wanted: set[int]) -> dict[int, _Asked]:
    """What the audit log says of entries of the transparency log; from its newest record back."""
    found: dict[int, _Asked] = {}
    end = audit.tree_size
    while end > 0 and len(found) < len(wanted):
        start = max(0, end - _WINDOW)
        async for _, bodies in audit.entries(start, end - start):
            found |= {index: one for index, one in _attested(bodies) if index in wanted}
        end = start
    return found


def _attested(records: list[bytes]) -> Iterator[tuple[int, _Asked]]:
    for body in records:
        if METHOD.encode() in body:
            record = _decode_record(body)
            if record.method == METHOD and record.outcome == OK:
                # One that was answered again from the log says nothing of an entry.
                try:
                    details = _decode_details(record.details)
                except msgspec.ValidationError:
                    continue
                version = parse_version_name(details.key_version, "keyVersion")
                yield details.log_index, _Asked(record.subject, version, details.attestation.statement)
