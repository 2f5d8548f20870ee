"""How keys are used: counted once, whatever ends when, and the same when it is made anew from the logs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sealkeeper.hsm import ProtectionLevel
from sealkeeper.server.audit import AuditRecord
from sealkeeper.server.authorization import UnrestrictedAuthorizer
from sealkeeper.server.calls import Call
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.entry import EntryTemplate
from sealkeeper.server.errors import UnavailableError
from sealkeeper.server.identity import Principal, Role
from sealkeeper.server.key import KeyVersion, State
from sealkeeper.server.key_usage import KEPT, KeyUsage, Usage
from sealkeeper.server.log import AUDIT, TRANSPARENCY, Sequencer, Submission, open_logs
from sealkeeper.server.resources import KeyName, KeyVersionName
from sealkeeper.server.signing import WITHHELD, Content, ContentKind, Material, _Job, _Prepared
from sealkeeper.server.store.database import Database, open_database
from sealkeeper.server.store.usage_table import UsageTable
from tests.log.signer import signers

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
P256 = "PKIX_ECDSA_P256_SHA_256"
NAME = KeyName("acme", "release").version(1)
OTHER = KeyName("acme", "release").version(2)
CI = Principal("acme", "https://issuer.example#repo:acme/app", Role.CI)
PRODUCTION = Principal(
    "acme", "https://issuer.example#repo:acme/app:prod", Role.CI, attributes=(("environment", "Production/EU"),)
)
STAGING = Principal(
    "acme", "https://issuer.example#repo:acme/app:st", Role.CI, attributes=(("environment", "productions"),)
)


class Quotas:
    """Without limits."""

    def admit_call(self, principal: Principal) -> None:
        pass

    def admit_signatures(self, principal: Principal, count: int) -> None:
        pass


def job(version: KeyVersionName, names: Sequence[str], principal: Principal) -> _Job:
    """A signing request, as ``signing.py`` has it."""
    found = KeyVersion(
        *(version, State.ACTIVE, P256, "main", ProtectionLevel.SOFTWARE, "handle", b"public key", START, START),
        *(None, None, None),
    )
    prepared = [
        _Prepared(Content(ContentKind.DIGEST, digest, "SHA2_256", "", name), digest, "SHA2_256", digest)
        for name, digest in ((one, sha256(one.encode()).digest()) for one in names)
    ]
    call = Call("SigningService/Sign", UnrestrictedAuthorizer(), Quotas(), lambda: START, principal)
    return _Job(
        found, prepared, Material.PUBLIC_KEY, EntryTemplate(P256, b"public key", is_certificate=False), call, b""
    )


class House:
    """Usage over a real database and real logs, which are written to as by ``signing.py``."""

    def __init__(self, database: Database, logs: Sequencer) -> None:
        self.now = START
        self.database = database
        self.logs = logs
        self.clock = SteadyClock(lambda: int(self.now.timestamp() * 1e9))
        self.usage = self.new_usage()

    def new_usage(self) -> KeyUsage:
        return KeyUsage(UsageTable(self.database), self.clock, lambda: self.logs.tree_sizes[AUDIT])

    async def sign(
        self, names: Sequence[str], version: KeyVersionName = NAME, principal: Principal = CI, outcome: str = "OK"
    ) -> None:
        made, now, first = job(version, names, principal), self.now, 0

        def records(index: int) -> list[bytes]:
            nonlocal first
            first = index
            return [made.call.audit_record(now, outcome, **made.details(), logIndex=index)]

        entries = [made.entry_of.body(one.digest_algorithm, one.digest, b"signature") for one in made.prepared]
        receipt = await self.logs.submit(Submission(transparency=entries, audit=records))
        if outcome == "OK":
            artifacts = [(one.content.artifact_name, one.digest_algorithm, one.digest) for one in made.prepared[-KEPT:]]
            self.usage.record(version, len(names), artifacts, principal, now, receipt.audit_index, first)

    async def note(self, method: str = "KeyService/GetKey", **details: Any) -> None:
        """A record of something else."""
        record = AuditRecord(self.now, method, "acme", details=details).encode()
        await self.logs.submit(Submission(audit=[record]))

    async def recover(self, usage: KeyUsage) -> int:
        """Open, and count what is not counted; how many records that were."""
        start, count = await usage.open(), 0
        async for _, bodies in self.logs.log(AUDIT).entries(start):
            for body in bodies:
                usage.replay(body)
                count += 1
        await usage.complete(self.logs.log(TRANSPARENCY))
        return count

    async def crash(self) -> int:
        self.usage = self.new_usage()
        return await self.recover(self.usage)

    def shown(self) -> list[Usage | None]:
        return [self.usage.of(NAME), self.usage.of(OTHER)]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    database = await open_database(f"sqlite:///{tmp_path}/metadata.db")
    logs = await open_logs(tmp_path / "logs", signers())
    yield House(database, logs)
    await logs.close()
    await database.close()


def used(house: House, version: KeyVersionName = NAME) -> Usage:
    found = house.usage.of(version)
    assert found is not None
    return found


async def test_a_version_that_has_signed_nothing_is_not_used(house: House) -> None:
    await house.sign(["a"])
    assert house.usage.of(OTHER) is None


async def test_signatures_are_counted_by_version_and_the_newest_artifacts_are_known(house: House) -> None:
    for number in range(12):
        await house.sign([f"a{number}"])
        house.now += SECOND
    found = used(house)
    assert (found.signatures, found.production_signatures) == (12, 0)
    assert found.last_use == START + 11 * SECOND
    assert [one.name for one in found.recent] == [f"a{number}" for number in range(11, 1, -1)]
    newest = found.recent[0]
    assert newest.digest == f"sha256:{sha256(b'a11').hexdigest()}"
    assert (newest.time, newest.subject) == (START + 11 * SECOND, CI.subject)


async def test_what_is_for_production_is_known_apart_however_much_else_is_signed(house: House) -> None:
    await house.sign(["release"], principal=PRODUCTION)
    for number in range(20):
        await house.sign([f"a{number}"], principal=STAGING if number % 2 else CI)
    found = used(house)
    assert (found.signatures, found.production_signatures) == (21, 1)
    assert [one.name for one in found.production] == ["release"]
    assert "release" not in [one.name for one in found.recent]


async def test_of_a_batch_all_are_counted_and_the_last_are_known(house: House) -> None:
    await house.sign([f"a{number}" for number in range(100)])
    assert used(house).signatures == 100
    assert [one.name for one in used(house).recent] == [f"a{number}" for number in range(99, 89, -1)]


async def test_it_can_be_made_anew_from_the_logs(house: House) -> None:
    for number in range(30):
        house.now += timedelta(milliseconds=1234, microseconds=567)
        principal = (CI, PRODUCTION, STAGING)[number % 3]
        await house.sign([f"a{number}.{part}" for part in range(number % 13 + 1)], (NAME, OTHER)[number % 2], principal)
        await house.note("SigningService/GetPublicKey", keyVersion=str(NAME))
        await house.note(count="many", keyVersion=[])
        await house.sign(["withheld"], outcome=WITHHELD)
    before = house.shown()
    assert None not in before
    # The database has nothing of it.
    assert await house.crash() == house.logs.tree_sizes[AUDIT]
    assert house.shown() == before


async def test_what_is_written_is_not_counted_again_and_what_is_not_is_counted(house: House) -> None:
    await house.sign(["a"], principal=PRODUCTION)
    await house.usage.flush()
    house.now += 11 * SECOND
    await house.sign(["b", "c"])
    # The first is settled now, and the others are not.
    await house.usage.flush()
    await house.sign(["d"], OTHER)
    before = house.shown()
    assert await house.crash() == 2
    assert house.shown() == before
    await house.usage.close()
    assert await house.crash() == 0
    assert house.shown() == before


async def test_what_was_counted_anew_after_a_crash_is_not_again_after_an_orderly_end(house: House) -> None:
    await house.note()
    assert await house.crash() == 1
    await house.usage.close()
    assert await house.crash() == 0


async def test_a_record_that_comes_late_is_counted_where_it_belongs(house: House) -> None:
    late, house.usage.record = house.usage.record, lambda *_: None  # type: ignore[method-assign]
    await house.sign(["late"])
    house.usage.record = late  # type: ignore[method-assign]
    await house.usage.flush()
    # Signed before that part of the log was closed, and told of only now.
    house.usage.record(NAME, 1, [("late", "SHA2_256", sha256(b"late").digest())], CI, house.now, 0, 0)
    await house.sign(["b"])
    house.now += 11 * SECOND
    await house.usage.flush()
    before = house.shown()
    assert await house.crash() == 1
    assert house.shown() == before
    assert [one.name for one in used(house).recent] == ["b", "late"]


async def test_what_the_database_did_not_take_is_written_the_next_time(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.sign(["a"])
    await house.usage.flush()
    house.now += 11 * SECOND

    async def away(*_: object) -> None:
        raise UnavailableError("away")

    with monkeypatch.context() as patch:
        patch.setattr(UsageTable, "write", away)
        with pytest.raises(UnavailableError):
            await house.usage.flush()
    before = house.shown()
    await house.usage.flush()
    assert await house.crash() == 0
    assert house.shown() == before


async def test_nothing_is_written_while_nothing_is_new(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.sign(["a"])
    await house.usage.close()

    async def never(*_: object) -> None:
        pytest.fail("something was written")

    monkeypatch.setattr(UsageTable, "write", never)
    for _ in range(3):
        house.now += 11 * SECOND
        await house.usage.flush()


@dataclass(frozen=True)
class Signed:
    """A step of a property test: sign."""

    version: KeyVersionName
    count: int
    principal: Principal


STEPS = st.lists(
    st.one_of(
        st.builds(
            Signed, st.sampled_from((NAME, OTHER)), st.integers(1, 12), st.sampled_from((CI, PRODUCTION, STAGING))
        ),
        st.sampled_from(("flush", "crash", "restart", "wait", "note")),
    ),
    max_size=20,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_each_signature_is_counted_once_whatever_ends_when(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Signed | str]
) -> None:
    async def run(folder: Path) -> None:
        database = await open_database(f"sqlite:///{folder}/metadata.db")
        logs = await open_logs(folder / "logs", signers())
        house, counted = House(database, logs), {NAME: 0, OTHER: 0}
        for step in steps:
            house.now += timedelta(milliseconds=10)
            if isinstance(step, Signed):
                counted[step.version] += step.count
                await house.sign([f"a{part}" for part in range(step.count)], step.version, step.principal)
            elif step == "flush":
                await house.usage.flush()
            elif step == "wait":
                house.now += 6 * SECOND
            elif step == "note":
                await house.note()
            else:
                if step == "restart":
                    await house.usage.close()
                before = house.shown()
                assert await house.crash() == 0 or step == "crash"
                assert house.shown() == before
        assert {name: found.signatures for name in counted if (found := house.usage.of(name))} == {
            name: count for name, count in counted.items() if count
        }
        await logs.close()
        await database.close()

    asyncio.run(run(tmp_path_factory.mktemp("usage")))
