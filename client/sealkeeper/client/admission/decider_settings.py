"""The table ``[decider]`` of the webhook's settings, and what is made of it.

::

    [decider]
    snapshots = "/var/lib/sealkeeper/gate"     # kept over restarts; left out: in memory only
    cache = 300                                # seconds for which an answer may stand in where there is no newer one
    fresh = 10                                 # seconds for which an answer is given again without asking
    tags = 30                                  # seconds for which a tag is taken to mean what it meant
    refresh = 10                               # seconds between looks at what has changed
    docker_config = "/etc/sealkeeper/docker"   # folder with config.json; left out: DOCKER_CONFIG, ~/.docker and so on
    local_registries = ["registry.local:5000"] # that may be at private addresses; others are refused there
    insecure_registries = []                   # that are spoken to without TLS
    registry_ca = "registry-ca.crt"            # of CAs to trust for registries instead of the system's

    [decider.trust_roots]                      # of other instances, for deciding without the gateway
    github = "public-good"                     # or the path of a trusted_root.json

    [decider.verdict_keys]                     # gates that may be decided on without the gateway
    "tenants/acme/gates/production" = "tenants/acme/keys/gates"
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from sealkeeper.client.admission.gateway_decider import DeciderSettings, GatewayDecider
from sealkeeper.client.admission.settings import WebhookSettings
from sealkeeper.client.client import AsyncClient
from sealkeeper.client.connection import Connection
from sealkeeper.client.errors import ConfigurationError, FieldViolation
from sealkeeper.client.retry import RetryPolicy
from sealkeeper.registry import ConfigFiles, Hosts, Registry
from sealkeeper.verify import TrustRoot, TrustRootError
from sealkeeper.verify.rego import RegoRunner
from sealkeeper.verify.trust import PUBLIC_GOOD

_GATE = re.compile(r"tenants/[a-z0-9-]{1,63}/gates/[a-z0-9-]{1,63}")
_KEY = re.compile(r"tenants/[a-z0-9-]{1,63}/keys/[a-z0-9-]{1,63}(/versions/[1-9][0-9]{0,8})?")
_HOST = re.compile(r"[a-z0-9.\[\]:-]{1,255}")
_SECONDS = {"cache": (0, 3600), "fresh": (0, 300), "tags": (0, 300), "refresh": (1, 600)}
_LISTS = ("local_registries", "insecure_registries")
_PATHS = ("snapshots", "docker_config", "registry_ca")
_MAX_LIST = 1000
_CALL_SECONDS = 10.0


def make_decider(settings: WebhookSettings) -> GatewayDecider:
    """What decides, as the settings have it, begun. To be called on the event loop.

    Raises:
        ConfigurationError: a setting is unknown or wrong, or the gateway cannot be reached as they say.
    """
    table = dict(settings.decider)
    found = decider_settings(table, settings.folder)
    paths = {name: _path(table, name, settings.folder) for name in _PATHS}
    hosts = Hosts(
        insecure=frozenset(_texts(table, "insecure_registries")),
        # Whoever may make a pod chooses what is asked.
        local=frozenset(_texts(table, "local_registries")),
    )
    if settings.connection is None:
        _wrong("connection", "is missing: how the gateway is reached")
    folder = paths["docker_config"]
    credentials = ConfigFiles((folder / "config.json",)) if folder is not None else ConfigFiles.of_environment()
    # Whoever waits for an answer has no time for retries.
    client = AsyncClient(Connection.load(settings.connection), retry=RetryPolicy(attempts=1), timeout=_CALL_SECONDS)
    made = GatewayDecider(client, Registry(credentials, hosts, paths["registry_ca"]), found, RegoRunner(workers=2))
    made.begin()
    return made


def decider_settings(table: Mapping[str, Any], folder: Path) -> DeciderSettings:
    """Read the table.

    Raises:
        ConfigurationError: a setting is unknown or wrong; the text names it.
    """
    for name in table:
        if name not in (*_SECONDS, *_LISTS, *_PATHS, "verdict_keys", "trust_roots"):
            _wrong(f"decider.{name[:64]}", "is no setting")
    return DeciderSettings(
        _verdict_keys(table.get("verdict_keys", {})),
        _path(table, "snapshots", folder),
        trust_roots=_trust_roots(table.get("trust_roots", {}), folder),
        **{name: _seconds(table, name) for name in _SECONDS if name in table},
    )


def _verdict_keys(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > _MAX_LIST:
        _wrong("decider.verdict_keys", "must be a table of gates and the keys that sign their snapshots")
    for gate, key in value.items():
        if not _GATE.fullmatch(gate):
            _wrong(f"decider.verdict_keys.{gate[:200]}", "must be named tenants/{tenant}/gates/{gate}")
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            _wrong(f"decider.verdict_keys.{gate}", "must be tenants/{tenant}/keys/{key}")
    return dict(value)


def _trust_roots(value: Any, folder: Path) -> dict[str, TrustRoot]:
    if not isinstance(value, dict) or not all(isinstance(one, str) and one for one in value.values()):
        _wrong("decider.trust_roots", "must be a table of names and paths")
    found = {}
    for name, place in value.items():
        try:
            found[name] = TrustRoot.of_place(Path(place) if place == PUBLIC_GOOD else folder / place)
        except TrustRootError as error:
            _wrong(f"decider.trust_roots.{name[:63]}", str(error))
    return found


def _seconds(table: Mapping[str, Any], name: str) -> float:
    found, (least, most) = table[name], _SECONDS[name]
    if not isinstance(found, int | float) or isinstance(found, bool) or not least <= found <= most:
        _wrong(f"decider.{name}", f"must be {least} to {most} seconds")
    return float(found)


def _texts(table: Mapping[str, Any], name: str) -> list[str]:
    found = table.get(name, [])
    good = isinstance(found, list) and len(found) <= _MAX_LIST
    if not good or not all(isinstance(one, str) and _HOST.fullmatch(one) for one in found):
        _wrong(f"decider.{name}", "must be a list of hosts, with their ports, as image references write them")
    return list(found)


def _path(table: Mapping[str, Any], name: str, folder: Path) -> Path | None:
    found = table.get(name)
    if found is None:
        return None
    if not isinstance(found, str) or not 0 < len(found) <= 4096 or "\0" in found:
        _wrong(f"decider.{name}", "must be a path")
    return folder / found


def _wrong(field: str, problem: str) -> NoReturn:
    raise ConfigurationError(
        f"{field}: {problem}",
        next_step="correct the webhook's settings: docs/gates/kubernetes.md has them all",
        violations=[FieldViolation(field, problem)],
    )
