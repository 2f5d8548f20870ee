from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sealkeeper.client.admission.decider_settings import decider_settings, make_decider
from sealkeeper.client.admission.settings import parse_settings
from sealkeeper.client.errors import ConfigurationError

GATE, KEY = "tenants/acme/gates/prod", "tenants/acme/keys/gates"


def test_what_is_not_said_is_as_usual() -> None:
    found = decider_settings({}, Path("/etc/gate"))
    assert (found.cache, found.fresh, found.snapshots, dict(found.verdict_keys)) == (300.0, 10.0, None, {})


def test_paths_are_relative_to_the_file() -> None:
    found = decider_settings({"snapshots": "held", "cache": 60, "verdict_keys": {GATE: KEY}}, Path("/etc/gate"))
    assert found.snapshots == Path("/etc/gate/held")
    assert (found.cache, dict(found.verdict_keys)) == (60.0, {GATE: KEY})


@pytest.mark.parametrize(
    ("table", "place"),
    [
        ({"unknown": 1}, "decider.unknown"),
        ({"cache": -1}, "decider.cache"),
        ({"cache": True}, "decider.cache"),
        ({"cache": float("nan")}, "decider.cache"),
        ({"fresh": "10"}, "decider.fresh"),
        ({"refresh": 0}, "decider.refresh"),
        ({"snapshots": ""}, "decider.snapshots"),
        ({"snapshots": 1}, "decider.snapshots"),
        ({"verdict_keys": []}, "decider.verdict_keys"),
        ({"verdict_keys": {"prod": KEY}}, "decider.verdict_keys.prod"),
        ({"verdict_keys": {GATE: "gates"}}, f"decider.verdict_keys.{GATE}"),
        ({"verdict_keys": {GATE: 1}}, f"decider.verdict_keys.{GATE}"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(table: dict[str, Any], place: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        decider_settings(table, Path())
    assert [one.field for one in caught.value.violations] == [place]


@pytest.mark.parametrize(
    ("decider", "place"),
    [
        ({"local_registries": "x"}, "decider.local_registries"),
        ({"local_registries": ["https://x"]}, "decider.local_registries"),
        ({"insecure_registries": [1]}, "decider.insecure_registries"),
        ({"docker_config": "\0"}, "decider.docker_config"),
        ({}, "connection"),
    ],
)
def test_what_only_the_real_one_needs_is_checked_as_well(decider: dict[str, Any], place: str) -> None:
    document = {
        "listen": "127.0.0.1:0",
        "tls": {"certificate": "c", "key": "k"},
        "namespaces": [{"names": ["*"], "gate": GATE}],
        "decider": decider,
    }
    with pytest.raises(ConfigurationError) as caught:
        make_decider(parse_settings(document, Path()))
    assert [one.field for one in caught.value.violations] == [place]
