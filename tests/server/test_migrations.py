"""What an earlier release wrote is read by this one: its database, and the answers that it kept for request ids."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, inspect

from sealkeeper.hsm import Origin, ProtectionLevel
from sealkeeper.server.key import Failover, State
from sealkeeper.server.key_changes import _replay
from sealkeeper.server.resources import KeyName
from sealkeeper.server.store.database import open_database, writer
from sealkeeper.server.store.import_table import ImportTable
from sealkeeper.server.store.key_table import KeyTable
from sealkeeper.server.store.schema import metadata

MADE = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
MICROSECONDS = (MADE - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def database_of_release_before(path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        configuration = Config()
        configuration.set_main_option("script_location", "sealkeeper.server.store:migrations")
        configuration.attributes["connection"] = connection
        command.upgrade(configuration, "0002")
    engine.dispose()
    with sqlite3.connect(path) as raw:
        raw.execute(
            "INSERT INTO keys (tenant, key, algorithm, provider, labels, create_time, revision) "
            "VALUES ('acme', 'release', 'PKIX_ED25519', 'main', '{\"team\": \"core\"}', ?, 7)",
            (MICROSECONDS,),
        )
        for number, state, disabled in ((1, "DISABLED", True), (2, "ACTIVE", False)):
            raw.execute(
                "INSERT INTO key_versions (tenant, key, number, state, provider, protection_level, handle, public_key, "
                "create_time, activate_time, disabled) VALUES ('acme', 'release', ?, ?, 'main', 'SOFTWARE', ?, ?, ?, "
                "?, ?)",
                (number, state, f"handle-{number}", bytes([number]), MICROSECONDS, MICROSECONDS, disabled),
            )
    raw.close()


async def test_keys_of_an_earlier_database_are_there_with_nothing_claimed_that_nobody_asked(tmp_path: Path) -> None:
    path = tmp_path / "sealkeeper.sqlite"
    database_of_release_before(path)
    for _ in range(2):
        database = await open_database(f"sqlite:///{path}")
        try:
            [key] = await KeyTable(database).read()
            assert await ImportTable(database).read() == []
            columns = await database.run(
                lambda connection: {
                    table.name: {one["name"] for one in inspect(connection).get_columns(table.name)}
                    for table in metadata.sorted_tables
                }
            )
            assert columns == {one.name: {column.name for column in one.columns} for one in metadata.sorted_tables}
            assert (key.failover, key.revision, key.labels) == (Failover.NONE, 7, {"team": "core"})
            assert [one.state for one in key.versions] == [State.DISABLED, State.ACTIVE]
            assert [one.disabled for one in key.versions] == [True, False]
            for one in key.versions:
                assert (one.region, one.standby, one.origin, one.ceremony_index) == ("", False, Origin.UNKNOWN, None)
                assert (one.protection_level, one.create_time) == (ProtectionLevel.SOFTWARE, MADE)
            # Written anew, as any change of the key does.
            await KeyTable(database).write(key, writer(None, key))
        finally:
            await database.close()


async def test_an_answer_that_an_earlier_release_kept_is_given_again() -> None:
    version: dict[str, Any] = {
        "name": {"tenant": "acme", "key": "release", "number": 1},
        "state": "ACTIVE",
        "algorithm": "PKIX_ED25519",
        "provider": "main",
        "protection_level": "SOFTWARE",
        "handle": "handle",
        "public_key": b"key",
        "create_time": MADE,
        "activate_time": MADE,
        "retire_time": None,
        "compromise_time": None,
        "destroy_time": None,
        "disabled": False,
    }
    kept: dict[str, Any] = {
        "name": {"tenant": "acme", "key": "release"},
        "algorithm": "PKIX_ED25519",
        "provider": "main",
        "labels": {},
        "create_time": MADE,
        "revision": 1,
        "versions": [version],
    }
    key = await _replay(msgspec.msgpack.encode(kept))
    assert (key.name, key.failover) == (KeyName("acme", "release"), Failover.NONE)
    assert (key.versions[0].origin, key.versions[0].standby) == (Origin.UNKNOWN, False)
