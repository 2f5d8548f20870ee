"""What an API server really asks, asked over TLS: kube-apiserver 1.36.3, recorded by ``record_reviews.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.client.admission.deciding import ScriptedDecider, refused, settings
from tests.client.admission.record_reviews import FOLDER
from tests.client.admission.reviews import DEBUG, MIGRATE, PROXY, WEB
from tests.client.admission.tls_calls import served

ALL = frozenset({WEB, PROXY, MIGRATE})
DECIDED = {
    "create-pod": ALL,
    "create-pod-dry-run": ALL,
    "create-deployment": ALL,
    "create-cron-job": ALL,
    "debug-pod": ALL - {WEB} | {DEBUG},
    "update-pod-image": ALL - {WEB} | {DEBUG},
}
LET_THROUGH = {
    "label-pod": "unchanged",
    "scale-deployment": "no-images",
    "delete-pod": "not-decided",
    "create-config-map": "no-images",
}


def recorded(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_bytes())
    return document


def test_every_recording_is_asked() -> None:
    assert {one.stem for one in FOLDER.glob("*.json")} == DECIDED.keys() | LET_THROUGH.keys()


@pytest.mark.parametrize("name", DECIDED)
async def test_a_recorded_request_is_decided_on_by_all_its_images(tmp_path: Path, name: str) -> None:
    async with served(settings(), ScriptedDecider(), tmp_path) as webhook:
        response = await webhook.review(recorded(name))
        assert (response["uid"], response["allowed"]) == (recorded(name)["request"]["uid"], True)
        assert set(webhook.decider.images()) == DECIDED[name]
        assert {one.dry_run for one in webhook.decider.asked} == {name.endswith("dry-run")}


@pytest.mark.parametrize("name", DECIDED)
async def test_a_recorded_request_with_one_refused_image_is_refused(tmp_path: Path, name: str) -> None:
    async with served(settings(), ScriptedDecider({MIGRATE: refused(MIGRATE)}), tmp_path) as webhook:
        response = await webhook.review(recorded(name))
        assert (response["allowed"], response["status"]["code"]) == (False, 403)
        assert response["status"]["details"]["causes"][0]["field"].endswith("initContainers[0].image")


@pytest.mark.parametrize("name", LET_THROUGH)
async def test_a_recorded_request_that_brings_no_image_is_let_through(tmp_path: Path, name: str) -> None:
    async with served(settings(), ScriptedDecider(), tmp_path) as webhook:
        response = await webhook.review(recorded(name))
        assert (response["allowed"], response["auditAnnotations"]["outcome"]) == (True, LET_THROUGH[name])
