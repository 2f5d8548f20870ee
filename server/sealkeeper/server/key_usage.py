"""How keys are used: what it does to others when a key version is switched off or destroyed.

A projection of the audit log: it is kept up as signatures are made, written now and then, and can be made anew from the
log. Each record is counted once, whatever ends when: what is written says how far into the log it goes, and ``replay``
counts what comes behind that. Records come in nearly, not strictly, in the order of the log, so what is new waits in
slices of the log until all of a slice has surely come.

Of a batch an audit record has no digests; ``complete`` reads them from the transparency log. Nor has it all names of
one whose names are very long: of those, after a crash, some are empty.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TypeAlias

import msgspec

from sealkeeper.server.audit import OK
from sealkeeper.server.clock import SteadyClock, rfc3339
from sealkeeper.server.entry import parse_entry
from sealkeeper.server.identity import Principal
from sealkeeper.server.log import LogReader
from sealkeeper.server.resources import KeyVersionName, parse_version_name
from sealkeeper.server.store.usage_table import ArtifactRow, UsageRow, UsageTable

KEPT = 10
"""Artifacts of a version that are known, and again as many of those for production."""
_SETTLED = timedelta(seconds=10)
_METHODS = ("SigningService/", "AttestationService/")
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_HASHES = {"SHA2_256": "sha256", "SHA2_384": "sha384", "SHA2_512": "sha512"}
_Kept: TypeAlias = tuple[int, str, str, bytes, datetime, str]
"""Index in the transparency log, name, digest algorithm, digest (empty where it is not known), time, subject."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact that was signed.

    Attributes:
        name: as its signer called it; may be empty.
        digest: algorithm, a colon and hexadecimal digits; of DSSE, of its pre-authentication encoding.
        time: when.
        subject: by whom.
    """

    name: str
    digest: str
    time: datetime
    subject: str


@dataclass(frozen=True, slots=True)
class Usage:
    """How a key version is used.

    Attributes:
        signatures: how many it has made, those included that did not leave.
        production_signatures: how many of them for workloads in an environment called production.
        last_use: when it made the last one.
        recent: the newest artifacts, newest first, at most 10.
        production: the newest for production, newest first, at most 10.
    """

    signatures: int
    production_signatures: int
    last_use: datetime
    recent: tuple[Artifact, ...]
    production: tuple[Artifact, ...]


class _Use:
    """The use of a version, as it is summed up."""

    __slots__ = ("last", "production", "production_recent", "recent", "signatures")

    def __init__(self) -> None:
        self.signatures = self.production = 0
        self.last = _BEGINNING
        # Oldest first.
        self.recent: list[_Kept] = []
        self.production_recent: list[_Kept] = []

    def add(self, count: int, artifacts: Iterable[_Kept], time: datetime, *, production: bool) -> None:
        self.signatures += count
        if time > self.last:
            self.last = time
        for one in artifacts:
            _keep(self.recent, one)
        if production:
            self.production += count
            for one in artifacts:
                _keep(self.production_recent, one)

    def merge(self, other: _Use) -> None:
        self.signatures += other.signatures
        self.production += other.production
        self.last = max(self.last, other.last)
        for one in other.recent:
            _keep(self.recent, one)
        for one in other.production_recent:
            _keep(self.production_recent, one)


class _Slice:
    """What is new in a part of the audit log.

    Attributes:
        end: index behind the last record that belongs to it.
        sealed: when that was known.
        uses: by version.
    """

    __slots__ = ("end", "sealed", "uses")

    def __init__(self, end: int, sealed: datetime) -> None:
        self.end = end
        self.sealed = sealed
        self.uses: dict[KeyVersionName, _Use] = {}


class KeyUsage:
    """The use of all key versions. Used on the event loop.

    Args:
        table: where it is durable.
        clock: the time.
        audit_size: number of records in the audit log.
    """

    def __init__(self, table: UsageTable, clock: SteadyClock, audit_size: Callable[[], int]) -> None:
        self._table = table
        self._clock = clock
        self._audit_size = audit_size
        # What is written, or is to be: all of the audit log before the mark, and nothing behind it.
        self._uses: dict[KeyVersionName, _Use] = {}
        self._changed: set[KeyVersionName] = set()
        self._mark = 0
        self._written_mark = 0
        # What is behind the mark: slices whose end is known, oldest first, and the rest.
        self._slices: list[_Slice] = []
        self._newest: dict[KeyVersionName, _Use] = {}
        self._newest_start = 0

    async def open(self) -> int:
        """Read what is written.

        Returns:
            Number of audit records that are counted: ``replay`` is to be given all those behind.

        Raises:
            SealkeeperError: the database does not answer.
        """
        rows, self._mark = await self._table.read()
        self._written_mark = self._mark
        self._uses = {name: _use(row) for name, row in rows.items()}
        return self._mark

    def replay(self, record: bytes) -> None:
        """Count an audit record behind the mark, whatever it is. To be called in the log's order, before ``record``."""
        self._mark += 1
        self._newest_start = self._mark
        found = _recorded(record)
        if found is None:
            return
        name = parse_version_name(found.details.key_version, "keyVersion")
        use = self._uses.setdefault(name, _Use())
        use.add(found.details.count, _artifacts_of(found), _time(found.time), production=_is_production(found.caller))
        self._changed.add(name)

    async def complete(self, transparency: LogReader) -> None:
        """Read digests that audit records did not have from the transparency log; after ``replay``.

        Raises:
            LogError: the log cannot be read.
        """
        known: dict[int, tuple[str, bytes]] = {}
        for name in self._changed:
            use = self._uses[name]
            for kept in (use.recent, use.production_recent):
                for place, one in enumerate(kept):
                    if not one[3]:
                        digest = known.get(one[0]) or await _logged_digest(transparency, one[0])
                        known[one[0]] = digest
                        kept[place] = (*one[:2], *digest, *one[4:])

    def record(
        self,
        version: KeyVersionName,
        count: int,
        artifacts: Sequence[tuple[str, str, bytes]],
        principal: Principal,
        time: datetime,
        audit_index: int,
        log_index: int,
    ) -> None:
        """Count a request whose signatures are in the log. Takes a few microseconds.

        Args:
            version: that signed.
            count: of its signatures.
            artifacts: name, digest algorithm as in ``HashAlgorithm``, and digest of the last of them, at most 10.
            principal: for whom.
            time: of its audit record.
            audit_index: of its audit record.
            log_index: of its first entry in the transparency log.
        """
        uses = self._newest if audit_index >= self._newest_start else self._uses_at(audit_index)
        use = uses.get(version)
        if use is None:
            use = uses[version] = _Use()
        start, subject = log_index + count - len(artifacts), principal.subject
        kept = [
            (start + place, name, algorithm, digest, time, subject)
            for place, (name, algorithm, digest) in enumerate(artifacts)
        ]
        use.add(count, kept, time, production=bool(principal.attributes) and _for_production(principal))

    def _uses_at(self, audit_index: int) -> dict[KeyVersionName, _Use]:
        # What comes after its slice was written is counted all the same; only a crash would lose it.
        return next((one.uses for one in self._slices if audit_index < one.end), self._newest)

    def of(self, version: KeyVersionName) -> Usage | None:
        """How a version is used; ``None`` where it has signed nothing yet."""
        total = _Use()
        for uses in (self._uses, *(one.uses for one in self._slices), self._newest):
            use = uses.get(version)
            if use is not None:
                total.merge(use)
        if not total.signatures:
            return None
        return Usage(
            total.signatures,
            total.production,
            _milliseconds(total.last),
            tuple(_shown(one) for one in reversed(total.recent)),
            tuple(_shown(one) for one in reversed(total.production_recent)),
        )

    async def flush(self) -> None:
        """Write what has changed, as far as it is settled. To be called every few seconds.

        Raises:
            SealkeeperError: the database did not take it; it is written the next time.
        """
        now = self._clock.at_least_latest()
        self._seal(now)
        await self._write(now - _SETTLED)

    async def close(self) -> None:
        """Write everything, when nothing is signed any more.

        Raises:
            SealkeeperError: the database did not take it; it is counted anew from the audit log.
        """
        now = self._clock.at_least_latest()
        self._seal(now)
        await self._write(now)

    def _seal(self, now: datetime) -> None:
        sealed = _Slice(self._audit_size(), now)
        sealed.uses, self._newest = self._newest, {}
        self._newest_start = sealed.end
        self._slices.append(sealed)

    async def _write(self, until: datetime) -> None:
        while self._slices and self._slices[0].sealed <= until:
            settled = self._slices.pop(0)
            self._mark = settled.end
            self._changed.update(settled.uses)
            for name, use in settled.uses.items():
                self._uses.setdefault(name, _Use()).merge(use)
        mark = self._mark
        if not self._changed and mark == self._written_mark:
            return
        changed, self._changed = self._changed, set()
        try:
            await self._table.write({name: _row(self._uses[name]) for name in changed}, mark)
            self._written_mark = mark
        except BaseException:
            self._changed |= changed
            raise


def _keep(kept: list[_Kept], one: _Kept) -> None:
    """Take an artifact in, in the order of the log, and let go of the oldest."""
    if not kept or one[0] > kept[-1][0]:
        kept.append(one)
    else:
        insort(kept, one, key=_index)
    if len(kept) > KEPT:
        del kept[0]


def _index(one: _Kept) -> int:
    return one[0]


@lru_cache(maxsize=4096)
def _for_production(principal: Principal) -> bool:
    return _is_production_environment(principal.attribute("environment"))


def _is_production_environment(name: str) -> bool:
    """Whether it is ``production``, or one of several that begin so: ``production/eu``."""
    return name.lower().partition("/")[0] == "production"


class _Details(msgspec.Struct, frozen=True, rename="camel"):
    key_version: str
    count: int
    log_index: int
    artifacts: Sequence[str] = ()
    digest: str = ""


class _Caller(msgspec.Struct, frozen=True):
    attributes: dict[str, str] = {}


class _Record(msgspec.Struct, frozen=True):
    method: str
    outcome: str
    subject: str
    time: str
    details: msgspec.Raw
    caller: _Caller = _Caller()


class _Signing(msgspec.Struct, frozen=True):
    """What an audit record says of signatures that were made."""

    subject: str
    time: str
    caller: _Caller
    details: _Details


_decode_record = msgspec.json.Decoder(_Record).decode
_decode_details = msgspec.json.Decoder(_Details).decode


def _recorded(record: bytes) -> _Signing | None:
    """Read an audit record; ``None`` where it is not the one of signatures that were made."""
    try:
        found = _decode_record(record)
        # One that was answered again from the log, and one that was refused, made none.
        if found.outcome != OK or not found.method.startswith(_METHODS):
            return None
        return _Signing(found.subject, found.time, found.caller, _decode_details(found.details))
    except msgspec.ValidationError:
        return None


def _artifacts_of(found: _Signing) -> list[_Kept]:
    details, time = found.details, _time(found.time)
    algorithm, _, digest = details.digest.partition(":")
    return [
        (
            details.log_index + place,
            details.artifacts[place] if place < len(details.artifacts) else "",
            algorithm,
            bytes.fromhex(digest),
            time,
            found.subject,
        )
        for place in range(max(0, details.count - KEPT), details.count)
    ]


def _is_production(caller: _Caller) -> bool:
    return _is_production_environment(caller.attributes.get("environment", ""))


async def _logged_digest(transparency: LogReader, index: int) -> tuple[str, bytes]:
    async for _, [body] in transparency.entries(index, 1):
        logged = parse_entry(body)
        return logged.digest_algorithm, logged.digest
    return "", b""


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _milliseconds(time: datetime) -> datetime:
    """As audit records have it."""
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def _digest_text(algorithm: str, digest: bytes) -> str:
    return f"{_HASHES.get(algorithm, algorithm)}:{digest.hex()}" if digest else ""


def _shown(one: _Kept) -> Artifact:
    _, name, algorithm, digest, time, subject = one
    return Artifact(name, _digest_text(algorithm, digest), _milliseconds(time), subject)


def _row(use: _Use) -> UsageRow:
    return UsageRow(
        use.signatures,
        use.production,
        _milliseconds(use.last),
        [_artifact_row(one) for one in use.recent],
        [_artifact_row(one) for one in use.production_recent],
    )


def _artifact_row(one: _Kept) -> ArtifactRow:
    index, name, algorithm, digest, time, subject = one
    return index, name, f"{algorithm}:{digest.hex()}", rfc3339(time), subject


def _use(row: UsageRow) -> _Use:
    use = _Use()
    use.signatures, use.production, use.last = row.signatures, row.production_signatures, row.last_use_time
    use.recent = [_kept(one) for one in row.recent]
    use.production_recent = [_kept(one) for one in row.production]
    return use


def _kept(row: ArtifactRow) -> _Kept:
    index, name, text, time, subject = row
    algorithm, _, digest = text.partition(":")
    return index, name, algorithm, bytes.fromhex(digest), _time(time), subject
