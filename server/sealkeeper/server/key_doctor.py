"""What ``sealkeeper doctor --gateway`` finds out about where keys are and may be: residency, standbys, lost providers.

The metadata database is only read, beside a gateway that runs as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any
from urllib.parse import quote

from sqlalchemy import create_engine, make_url, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from sealkeeper.server.finding import Finding
from sealkeeper.server.key import State
from sealkeeper.server.provider_access import ProviderAccess
from sealkeeper.server.residency import Residency
from sealkeeper.server.resources import KeyName, KeyVersionName
from sealkeeper.server.settings import Settings
from sealkeeper.server.store.schema import key_versions

_NAMED = 3
_PATIENCE = 10.0
_SIGNS = {State.ACTIVE, State.PUBLISHED}


@dataclass(frozen=True, slots=True)
class _Version:
    """A key version that is not destroyed; ``signs``: it does, or is going to."""

    name: KeyVersionName
    provider: str
    standby: bool
    signs: bool


def check_residency(settings: Settings, regions: Mapping[str, str]) -> list[Finding]:
    """Whether each tenant with residency has a provider that its keys may be in.

    Args:
        settings: the gateway's.
        regions: of the providers, by name; empty where nobody says.
    """
    residency = Residency(settings.residency)
    return [_residency(settings, residency, tenant, regions) for tenant in settings.residency]


def _residency(settings: Settings, residency: Residency, tenant: str, regions: Mapping[str, str]) -> Finding:
    label = f"residency {tenant}"
    allowed = ", ".join(sorted(settings.residency[tenant]))
    access = ProviderAccess(settings.providers)
    fit = [name for name, region in regions.items() if residency.allows(tenant, region) and access.allows(tenant, name)]
    if not fit:
        places = ", ".join(f"{name} {_place(region)}" for name, region in regions.items())
        text = f"its keys may be in {allowed} only, and no provider is known to be there: {places}"
        next_step = (
            f"add a provider there, or widen [residency] {tenant}; a store that does not know where it is needs "
            "[providers.NAME] region"
        )
        return (label, False, text, next_step)
    default = settings.keys.default_provider
    if default not in fit:
        text = f"keys.default_provider {default} {_place(regions[default])}; its keys may be in {allowed} only"
        return (label, True, text, f"name another when its keys are made: --provider {fit[0]}")
    return (label, True, f"its keys may be in {allowed}: {', '.join(fit)}", "")


def _place(region: str) -> str:
    return f"is in {region}" if region else "does not say where it is"


def check_keys(settings: Settings, now: datetime) -> list[Finding]:
    """Whether the settings have the providers of all keys, and standby versions are elsewhere than those they stand by.

    Args:
        settings: the gateway's.
        now: UTC.
    """
    try:
        url = _read_only(make_url(settings.database_url))
        versions = None if url is None else _in_time(lambda: _read(url, now))
    except (SQLAlchemyError, ImportError, ValueError, OSError) as error:
        # The driver's text may hold a password.
        text = f"the metadata database cannot be read ({type(error).__name__})"
        return [
            ("keys", False, text, "check storage.database; the gateway brings its tables up to date when it starts")
        ]
    if versions is None:
        return [("keys", True, "there is no metadata database yet; the gateway makes it when it starts", "")]
    findings = [*_lost(settings, versions), *_strangers(settings, versions), *_standbys(settings, versions)]
    return findings or [("keys", True, f"the providers of all {len(versions)} key versions are in the settings", "")]


def _read_only(url: URL) -> URL | None:
    """The URL to read by; ``None`` where there is no database yet."""
    if url.get_backend_name() != "sqlite":
        return url
    if not url.database or not Path(url.database).exists():
        return None
    # https://www.sqlite.org/uri.html: it is neither made nor written to.
    return url.set(database=f"file:{quote(str(Path(url.database).absolute()))}", query={"mode": "ro", "uri": "true"})


def _in_time(work: Callable[[], list[_Version]]) -> list[_Version]:
    """Do what may hang, as a database far away does."""
    answers: SimpleQueue[list[_Version] | Exception] = SimpleQueue()

    def answer() -> None:
        try:
            answers.put(work())
        except Exception as error:  # noqa: BLE001  (raised by whoever waits)
            answers.put(error)

    Thread(target=answer, name="doctor-database", daemon=True).start()
    try:
        found = answers.get(timeout=_PATIENCE)
    except Empty:
        raise TimeoutError from None
    if isinstance(found, Exception):
        raise found
    return found


def _read(url: URL, now: datetime) -> list[_Version]:
    table = key_versions.c
    columns = (table.tenant, table.key, table.number, table.state, table.provider, table.standby, table.retire_time)
    query = select(*columns).where(table.state != State.DESTROYED.value)
    engine = create_engine(url, poolclass=NullPool, hide_parameters=True)
    try:
        with engine.connect() as connection:
            return [_version(row, now) for row in connection.execute(query)]
    finally:
        engine.dispose()


def _version(row: Any, now: datetime) -> _Version:
    retired = row.retire_time is not None and row.retire_time <= now
    name = KeyVersionName(row.tenant, row.key, row.number)
    return _Version(name, row.provider, row.standby, State(row.state) in _SIGNS and not retired)


def _lost(settings: Settings, versions: Iterable[_Version]) -> list[Finding]:
    lost = defaultdict(list)
    for version in versions:
        if version.provider not in settings.providers:
            lost[version.provider].append(version)
    return [
        (
            f"keys in {provider}",
            False,
            f"{len(found)} key versions are in provider {provider}, which is not in the settings: {_some(found)}",
            f"add [providers.{provider}] again, or destroy its keys first; the gateway does not start before",
        )
        for provider, found in sorted(lost.items())
    ]


def _strangers(settings: Settings, versions: Iterable[_Version]) -> list[Finding]:
    access, found = ProviderAccess(settings.providers), defaultdict(list)
    for version in versions:
        if version.provider in settings.providers and not access.allows(version.name.tenant, version.provider):
            found[version.provider, version.name.tenant].append(version)
    return [
        (
            f"keys of {tenant} in {provider}",
            False,
            f"{len(held)} key versions of {tenant} are in provider {provider}, which is others' alone: {_some(held)}",
            f"add {tenant} to [providers.{provider}] tenants; the gateway does not start before",
        )
        for (provider, tenant), held in sorted(found.items())
    ]


def _some(versions: Sequence[_Version]) -> str:
    named = [f"{one.name} (stands by)" if one.standby else str(one.name) for one in versions[:_NAMED]]
    return ", ".join(named) + (", ..." if len(versions) > _NAMED else "")


def _standbys(settings: Settings, versions: Iterable[_Version]) -> list[Finding]:
    keys: defaultdict[KeyName, list[_Version]] = defaultdict(list)
    for version in versions:
        if version.signs and version.provider in settings.providers:
            keys[version.name.parent].append(version)
    findings = []
    for name, found in keys.items():
        # The same store by two names is one store.
        first = {settings.providers[one.provider].uri: one for one in found if not one.standby}
        for standby in (one for one in found if one.standby):
            beside = first.get(settings.providers[standby.provider].uri)
            if beside is not None:
                findings.append(_together(name, standby, beside))
    return findings


def _together(name: KeyName, standby: _Version, beside: _Version) -> Finding:
    where = (
        f"both in provider {standby.provider}"
        if standby.provider == beside.provider
        else f"in providers {standby.provider} and {beside.provider}, which are one store"
    )
    return (
        f"standby of {name.key}",
        False,
        f"{standby.name} stands by {beside.name}, and they are {where}: they would fail together",
        f"make one elsewhere: sealkeeper keys standby {name.key} --provider OTHER, and retire this one",
    )
