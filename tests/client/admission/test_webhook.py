"""The webhook over TLS, asked as the API server asks."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sealkeeper.client.admission.decider import AnswerSource
from sealkeeper.client.admission.settings import DigestRule, FailurePolicy, Limits, WebhookSettings
from sealkeeper.client.errors import ConfigurationError
from tests.client.admission import reviews
from tests.client.admission.deciding import (
    PRODUCTION,
    ScriptedDecider,
    allowed,
    refused,
    resolved,
    rule,
    settings,
)
from tests.client.admission.tls_calls import Authority, Served, served


def serving(
    folder: Path, decider: ScriptedDecider | None = None, by: WebhookSettings | None = None
) -> AbstractAsyncContextManager[Served]:
    return served(by or settings(), decider or ScriptedDecider(), folder)


@pytest.mark.parametrize(
    ("document", "images"),
    [
        (reviews.create_pod(), {reviews.WEB, reviews.PROXY, reviews.MIGRATE}),
        (reviews.create_deployment(), {reviews.WEB}),
        (reviews.create_cron_job(), {reviews.WEB}),
        (reviews.debug_pod(), {reviews.WEB, reviews.PROXY, reviews.MIGRATE, reviews.DEBUG}),
    ],
    ids=["pod", "deployment", "cron job", "ephemeral container"],
)
async def test_every_image_of_an_object_is_decided_on(
    tmp_path: Path, document: dict[str, Any], images: set[str]
) -> None:
    async with serving(tmp_path) as webhook:
        assert (await webhook.review(document))["allowed"]
        assert set(webhook.decider.images()) == images
        assert {one.binding for one in webhook.decider.asked} == {PRODUCTION}


async def test_a_refused_image_refuses_the_pod_with_its_reason(tmp_path: Path) -> None:
    async with serving(tmp_path, ScriptedDecider({reviews.MIGRATE: refused(reviews.MIGRATE)})) as webhook:
        response = await webhook.review(reviews.create_pod())
        assert response["allowed"] is False
        status = response["status"]
        assert (status["status"], status["code"], status["reason"]) == ("Failure", 403, "Forbidden")
        assert f"image {reviews.MIGRATE}" in status["message"]
        assert "PROVENANCE_MISSING" in status["message"]
        assert status["details"]["causes"][0]["field"] == "spec.initContainers[0].image"
        refusals = webhook.webhook.metrics.refusals
        assert refusals.value("acme", "production", "PROVENANCE_MISSING") == 1


async def test_an_ephemeral_container_that_is_refused_is_not_added(tmp_path: Path) -> None:
    async with serving(tmp_path, ScriptedDecider({reviews.DEBUG: refused(reviews.DEBUG)})) as webhook:
        response = await webhook.review(reviews.debug_pod())
        assert response["status"]["details"]["causes"][0]["field"] == "spec.ephemeralContainers[0].image"


async def test_an_answer_from_the_cache_says_so(tmp_path: Path) -> None:
    answers = {reviews.WEB: refused(reviews.WEB, AnswerSource.CACHE)}
    async with serving(tmp_path, ScriptedDecider(answers)) as webhook:
        response = await webhook.review(reviews.create_pod())
        assert "(from the cache)" in response["status"]["message"]
        assert response["auditAnnotations"]["sources"] == "cache=1 gateway=2"


@pytest.mark.parametrize(
    ("document", "outcome"),
    [
        (reviews.delete_pod(), "not-decided"),
        (reviews.exec_pod(), "not-decided"),
        (reviews.create_config_map(), "no-images"),
        (reviews.label_pod(), "unchanged"),
        (reviews.scale_deployment(), "unchanged"),
        (reviews.create_pod(namespace="kube-system"), "exempt"),
    ],
    ids=["delete", "exec", "config map", "label", "scale", "exempt namespace"],
)
async def test_what_brings_no_image_is_let_through_unasked_and_says_why(
    tmp_path: Path, document: dict[str, Any], outcome: str
) -> None:
    async with serving(tmp_path) as webhook:
        response = await webhook.review(document)
        assert (response["allowed"], response["auditAnnotations"]["outcome"]) == (True, outcome)
        assert webhook.decider.asked == []


async def test_an_update_that_brings_another_image_is_decided_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as webhook:
        await webhook.review(reviews.scale_deployment({"web": "registry.example.com/shop/web:2"}))
        assert webhook.decider.images() == ["registry.example.com/shop/web:2"]


@pytest.mark.parametrize("namespace", ["kube-public", "shop", ""])
async def test_a_namespace_that_no_rule_names_is_refused(tmp_path: Path, namespace: str) -> None:
    async with serving(tmp_path) as webhook:
        response = await webhook.review(reviews.create_pod(namespace=namespace))
        assert response["allowed"] is False
        assert "NAMESPACE_NOT_MAPPED" in response["status"]["message"]
        assert webhook.decider.asked == []


async def test_the_namespace_of_the_request_counts_not_what_the_object_says(tmp_path: Path) -> None:
    document = reviews.create_pod()
    document["request"]["object"]["metadata"]["namespace"] = "kube-system"
    async with serving(tmp_path, ScriptedDecider({reviews.WEB: refused(reviews.WEB)})) as webhook:
        assert (await webhook.review(document))["allowed"] is False


async def test_a_dry_run_is_decided_as_one_and_not_counted(tmp_path: Path) -> None:
    async with serving(tmp_path, ScriptedDecider({reviews.WEB: refused(reviews.WEB)})) as webhook:
        assert (await webhook.review(reviews.create_pod(dry_run=True)))["allowed"] is False
        assert {one.dry_run for one in webhook.decider.asked} == {True}
        assert list(webhook.webhook.metrics.admissions.lines()) == []
        assert list(webhook.webhook.metrics.refusals.lines()) == []


async def test_admitted_images_are_counted_by_whether_they_were_verified(tmp_path: Path) -> None:
    exception = allowed(reviews.WEB, passed=False, exception="tenants/acme/gates/production/exceptions/1")
    async with serving(tmp_path, ScriptedDecider({reviews.WEB: exception})) as webhook:
        await webhook.review(reviews.create_pod())
        metrics = webhook.webhook.metrics
        assert metrics.admitted.value("acme", "production", "true") == 2
        assert metrics.admitted.value("acme", "production", "false") == 1
        assert metrics.exceptions_used.value("acme", "production") == 1
        assert metrics.admissions.value("acme", "production", "allowed") == 1


async def test_of_a_refused_pod_no_image_counts_as_admitted(tmp_path: Path) -> None:
    async with serving(tmp_path, ScriptedDecider({reviews.WEB: refused(reviews.WEB)})) as webhook:
        await webhook.review(reviews.create_pod())
        assert list(webhook.webhook.metrics.admitted.lines()) == []


async def test_what_is_not_decided_in_time_is_refused_by_name_and_the_rest_is_not_held_up(tmp_path: Path) -> None:
    async with serving(tmp_path, ScriptedDecider(never=frozenset({reviews.WEB}))) as webhook:
        response = await webhook.review(reviews.create_pod())
        status = response["status"]
        assert (response["allowed"], status["code"], status["reason"]) == (False, 503, "ServiceUnavailable")
        assert f"image {reviews.WEB}: GATE_TIMEOUT" in status["message"]
        assert reviews.MIGRATE not in status["message"]
        assert response["auditAnnotations"]["sources"] == "gateway=2 none=1"
        assert webhook.webhook.metrics.errors.value("timeout") == 1


async def test_where_the_rule_fails_open_it_is_let_in_with_a_warning_and_counted(tmp_path: Path) -> None:
    by = settings(rule(failure=FailurePolicy.OPEN))
    async with serving(tmp_path, ScriptedDecider(never=frozenset({reviews.WEB})), by) as webhook:
        response = await webhook.review(reviews.create_pod())
        assert response["allowed"] is True
        assert response["warnings"][0].startswith(f"let in undecided: {reviews.WEB}: GATE_TIMEOUT")
        assert webhook.webhook.metrics.failed_open.value("acme", "production") == 1


@pytest.mark.parametrize(
    ("query", "deadline"), [("?timeout=10s", 1007.75), ("?timeout=3s", 1002.16), ("", 1007.75), ("?timeout=x", 1007.75)]
)
async def test_the_deadline_is_before_the_api_server_gives_up(tmp_path: Path, query: str, deadline: float) -> None:
    async with serving(tmp_path) as webhook:
        await webhook.review(reviews.create_deployment(), f"/validate{query}")
        assert webhook.decider.deadlines == [pytest.approx(deadline)]


async def test_a_refusal_is_logged_on_one_line_without_what_a_stranger_put_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    document = reviews.create_pod(name="a\nb")
    async with serving(tmp_path, ScriptedDecider({reviews.WEB: refused(reviews.WEB)})) as webhook:
        with caplog.at_level(logging.INFO, "sealkeeper.admission"):
            await webhook.review(document)
    [record] = [one for one in caplog.records if one.name == "sealkeeper.admission"]
    said = f"refused: CREATE of Pod shop-prod/a b, request {reviews.UID}: PROVENANCE_MISSING"
    assert record.getMessage() == said


async def test_a_decider_that_fails_refuses_and_the_webhook_lives_on(tmp_path: Path) -> None:
    async with serving(tmp_path, ScriptedDecider({reviews.WEB: OSError("no")})) as webhook:
        assert "GATE_FAILED" in (await webhook.review(reviews.create_pod()))["status"]["message"]
        assert (await webhook.review(reviews.delete_pod()))["allowed"]


async def test_too_many_images_are_refused_unasked(tmp_path: Path) -> None:
    images = {f"c{number}": f"registry.example.com/a/b:{number}" for number in range(5)}
    async with serving(tmp_path, by=settings(limits=Limits(max_images=4))) as webhook:
        response = await webhook.review(reviews.create_deployment(images))
        assert "IMAGES_TOO_MANY" in response["status"]["message"]
        assert webhook.decider.asked == []


async def test_a_tag_is_refused_unasked_where_digests_are_required(tmp_path: Path) -> None:
    async with serving(tmp_path, by=settings(rule(digest=DigestRule.EVERYWHERE))) as webhook:
        response = await webhook.review(reviews.create_pod())
        assert response["status"]["message"].count("IMAGE_NOT_PINNED") == 2
        assert webhook.decider.images() == [reviews.PROXY]


async def patch_of(webhook: Served, document: dict[str, Any]) -> list[dict[str, str]]:
    response = await webhook.review(document, "/mutate?timeout=5s")
    assert response["allowed"] is True
    if "patch" not in response:
        return []
    assert response["patchType"] == "JSONPatch"
    found: list[dict[str, str]] = json.loads(base64.b64decode(response["patch"]))
    return found


async def test_mutating_pins_tags_to_what_was_decided_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as webhook:
        assert await patch_of(webhook, reviews.create_pod()) == [
            {"op": "replace", "path": "/spec/containers/0/image", "value": resolved(reviews.WEB)},
            {"op": "replace", "path": "/spec/initContainers/0/image", "value": resolved(reviews.MIGRATE)},
        ]
        # The decision that is recorded is the one of the validating webhook.
        assert {one.dry_run for one in webhook.decider.asked} == {True}


async def test_mutating_leaves_the_containers_that_run(tmp_path: Path) -> None:
    async with serving(tmp_path) as webhook:
        [one] = await patch_of(webhook, reviews.debug_pod())
        assert one["path"] == "/spec/ephemeralContainers/0/image"


@pytest.mark.parametrize(
    "document",
    [
        reviews.delete_pod(),
        reviews.create_config_map(),
        reviews.label_pod(),
        reviews.create_pod(namespace="kube-system"),
        reviews.create_pod(namespace="elsewhere"),
    ],
    ids=["delete", "no images", "unchanged", "exempt", "no rule"],
)
async def test_mutating_changes_nothing_where_nothing_is_decided(tmp_path: Path, document: dict[str, Any]) -> None:
    async with serving(tmp_path) as webhook:
        assert await patch_of(webhook, document) == []
        assert webhook.decider.asked == []


async def test_mutating_pins_what_is_allowed_only_and_refuses_nothing(tmp_path: Path) -> None:
    decider = ScriptedDecider({reviews.MIGRATE: refused(reviews.MIGRATE)}, never=frozenset({reviews.WEB}))
    async with serving(tmp_path, decider) as webhook:
        assert await patch_of(webhook, reviews.create_pod()) == []


async def test_pinned_by_one_webhook_a_pod_passes_the_other_that_wants_digests(tmp_path: Path) -> None:
    async with serving(tmp_path, by=settings(rule(digest=DigestRule.PODS))) as webhook:
        document = reviews.create_pod()
        assert (await webhook.review(document))["allowed"] is False
        for one in await patch_of(webhook, document):
            _, _, field, place, _ = one["path"].split("/")
            document["request"]["object"]["spec"][field][int(place)]["image"] = one["value"]
        assert (await webhook.review(document))["allowed"] is True


@pytest.mark.parametrize("path", ["/validate", "/mutate"])
async def test_an_object_that_cannot_be_read_is_refused_with_its_place(tmp_path: Path, path: str) -> None:
    document = reviews.create_pod()
    del document["request"]["object"]["spec"]["containers"][0]["image"]
    async with serving(tmp_path) as webhook:
        response = await webhook.review(document, path)
        assert (response["allowed"], response["status"]["code"]) == (False, 400)
        assert "MANIFEST_INVALID: spec.containers[0].image: is missing" in response["status"]["message"]


async def test_a_review_of_another_version_is_no_answer_but_an_error(tmp_path: Path) -> None:
    document = {**reviews.create_pod(), "apiVersion": "admission.k8s.io/v1beta1"}
    async with serving(tmp_path) as webhook:
        status, answer = await webhook.post("/validate", document)
        assert (status, answer["reason"]) == (400, "REVIEW_INVALID")
        assert answer["error"] == "$.apiVersion: must be admission.k8s.io/v1"


_HOSTILE = {
    "empty": b"",
    "no json": b"\x00\x01",
    "deep": b"[" * 500_000,
    "deeper": b'{"request":' * 200_000,
    "twice": reviews.as_bytes(reviews.create_pod()).replace(b'"uid":', b'"uid":"x","uid":', 1),
    "wrong uid": reviews.as_bytes({"kind": "AdmissionReview", "request": {"uid": []}}),
    "many": b"[" + b"0," * 1_000_000 + b"0]",
    "a list": reviews.as_bytes([reviews.create_pod()]),
}


@pytest.mark.parametrize("data", _HOSTILE.values(), ids=_HOSTILE)
@pytest.mark.parametrize("path", ["/validate", "/mutate", "/external-data/validate"])
async def test_a_hostile_body_is_refused_and_the_webhook_lives_on(tmp_path: Path, path: str, data: bytes) -> None:
    by = replace(settings(), external_data={"default": PRODUCTION})
    async with serving(tmp_path, by=by) as webhook:
        status, _ = await webhook.post(path, data)
        assert status == 400
        assert (await webhook.review(reviews.create_pod()))["allowed"]
        assert webhook.webhook.metrics.errors.value("malformed") == 1


async def test_a_body_that_says_it_is_too_long_is_not_read(tmp_path: Path) -> None:
    async with serving(tmp_path, by=settings(limits=Limits(max_body=100_000))) as webhook:
        host, _, port = webhook.webhook.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=webhook.tls)
        head = "POST /validate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100001\r\n\r\n"
        writer.write(head.encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        writer.close()


async def test_a_body_that_does_not_say_how_long_it_is_is_not_read_beyond_the_bound(tmp_path: Path) -> None:
    async def endless() -> Any:
        for _ in range(1000):
            yield b" " * 10_000

    async with serving(tmp_path, by=settings(limits=Limits(max_body=100_000))) as webhook:
        headers = {"Content-Type": "application/json"}
        request = webhook.client.post(webhook.url("/validate"), data=endless(), headers=headers, ssl=webhook.tls)
        async with request as response:
            assert response.status == 413


@pytest.mark.parametrize(
    "headers",
    [{"Content-Type": "application/yaml"}, {"Content-Encoding": "gzip"}, {"Content-Encoding": "deflate"}],
    ids=["yaml", "gzip", "deflate"],
)
async def test_a_body_of_another_kind_or_compressed_is_not_read(tmp_path: Path, headers: dict[str, str]) -> None:
    async with serving(tmp_path) as webhook:
        status, _ = await webhook.post("/validate", gzip.compress(b" " * 10_000_000), headers=headers)
        assert status == 415


async def test_a_body_that_does_not_come_is_given_up_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as webhook:
        host, _, port = webhook.webhook.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=webhook.tls)
        head = "POST /validate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        writer.write(head.encode())
        while webhook.webhook.metrics.reviews_under_way.value() == 0:
            await asyncio.sleep(0)
        webhook.clock.advance(9)
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        writer.close()


async def begun(webhook: Served, document: dict[str, Any]) -> asyncio.Task[tuple[int, Any]]:
    """A review that is being decided on, and goes on being so until the clock does."""
    before = len(webhook.decider.asked)
    task = asyncio.create_task(webhook.post("/validate", document))
    while len(webhook.decider.asked) == before:
        await asyncio.sleep(0)
    return task


async def test_more_reviews_than_are_allowed_at_once_are_turned_away(tmp_path: Path) -> None:
    decider = ScriptedDecider(never=frozenset({reviews.WEB}))
    async with serving(tmp_path, decider, settings(limits=Limits(max_reviews=1))) as webhook:
        # Without a clock of its own, the decider waits until the test lets time pass.
        decider.clock = None
        first = await begun(webhook, reviews.create_deployment())
        status, answer = await webhook.post("/validate", reviews.create_pod())
        assert (status, answer["reason"]) == (429, "overloaded")
        webhook.clock.advance(10)
        assert (await first)[1]["response"]["status"]["code"] == 503
        assert (await webhook.post("/validate", reviews.delete_pod()))[0] == 200


async def test_more_bytes_than_are_allowed_at_once_are_turned_away(tmp_path: Path) -> None:
    decider = ScriptedDecider(never=frozenset({reviews.WEB}))
    limits = Limits(max_body=50_000, max_bodies=52_000)
    async with serving(tmp_path, decider, settings(limits=limits)) as webhook:
        decider.clock = None
        first = await begun(webhook, reviews.create_deployment())
        status, _ = await webhook.post("/validate", b" " * 50_000)
        assert status == 429
        webhook.clock.advance(10)
        await first
        assert (await webhook.post("/validate", b" " * 50_000))[0] == 400


async def test_gatekeeper_is_answered_for_the_gate_of_its_url(tmp_path: Path) -> None:
    staging = replace(PRODUCTION, environment="staging")
    by = replace(settings(), external_data={"default": PRODUCTION, "staging": staging})
    decider = ScriptedDecider({reviews.MIGRATE: refused(reviews.MIGRATE)})
    body = {
        "apiVersion": "externaldata.gatekeeper.sh/v1beta1",
        "kind": "ProviderRequest",
        "request": {"keys": [reviews.WEB, reviews.MIGRATE]},
    }
    async with serving(tmp_path, decider, by) as webhook:
        status, answer = await webhook.post("/external-data/validate", body)
        items = {one["key"]: one for one in answer["response"]["items"]}
        assert (status, items[reviews.WEB]["value"]) == (200, resolved(reviews.WEB))
        assert items[reviews.MIGRATE]["error"].startswith("PROVENANCE_MISSING")
        await webhook.post("/external-data/validate/staging", body)
        assert [one.binding for one in decider.asked] == [PRODUCTION, PRODUCTION, staging, staging]
        status, answer = await webhook.post("/external-data/validate/other", body)
        assert (status, "external_data.other" in answer["response"]["systemError"]) == (404, True)
        keys = webhook.webhook.metrics.provider_keys
        assert keys.value("acme", "staging", "refused") == 1


async def test_gatekeeper_is_told_what_was_not_decided_in_time(tmp_path: Path) -> None:
    by = replace(settings(), external_data={"default": PRODUCTION})
    body = {
        "apiVersion": "externaldata.gatekeeper.sh/v1beta1",
        "kind": "ProviderRequest",
        "request": {"keys": [reviews.WEB, reviews.PROXY]},
    }
    async with serving(tmp_path, ScriptedDecider(never=frozenset({reviews.WEB})), by) as webhook:
        _, answer = await webhook.post("/external-data/validate?timeout=3s", body)
        assert [one["key"] for one in answer["response"]["items"]] == [reviews.PROXY]
        assert f"{reviews.WEB}: GATE_TIMEOUT" in answer["response"]["systemError"]


async def test_a_webhook_is_ready_when_its_decider_is_and_stays_in_use_after_that(tmp_path: Path) -> None:
    decider = ScriptedDecider(problem="the gateway does not answer")
    async with serving(tmp_path, decider) as webhook:
        assert await webhook.get("/healthz") == (200, "ok\n")
        assert await webhook.get("/readyz") == (503, "the gateway does not answer\n")
        decider.problem = ""
        assert await webhook.get("/readyz") == (200, "ok\n")
        assert webhook.webhook.metrics.decider_ready.value() == 1
        decider.problem = "the gateway does not answer"
        assert await webhook.get("/readyz") == (200, "ok, but: the gateway does not answer\n")
        assert webhook.webhook.metrics.decider_ready.value() == 0


async def test_a_webhook_that_ends_is_unready_first_and_still_answers(tmp_path: Path) -> None:
    async with serving(tmp_path) as webhook:
        draining = asyncio.create_task(webhook.webhook.drain())
        await asyncio.sleep(0)
        assert await webhook.get("/readyz") == (503, "ending\n")
        assert (await webhook.review(reviews.create_pod()))["allowed"]
        assert not draining.done()
        webhook.clock.advance(5)
        await draining
    assert webhook.decider.closed


async def test_metrics_and_probes_are_on_a_port_without_tls(tmp_path: Path) -> None:
    by = replace(settings(), metrics_listen="127.0.0.1:0")
    async with serving(tmp_path, by=by) as webhook:
        await webhook.review(reviews.create_pod())
        url = f"http://{webhook.webhook.metrics_address}"
        async with webhook.client.get(f"{url}/metrics") as response:
            assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            text = await response.text()
        line = 'sealkeeper_gate_admissions_total{tenant="acme",environment="production",outcome="allowed"} 1.0'
        assert line in text.splitlines()
        async with webhook.client.get(f"{url}/readyz") as response:
            assert response.status == 200
        async with webhook.client.post(f"{url}/validate", data=b"{}") as response:
            assert response.status == 404


async def test_an_address_that_is_taken_is_named(tmp_path: Path) -> None:
    async with serving(tmp_path) as webhook:
        taken = replace(settings(), listen=webhook.webhook.address)
        with pytest.raises(ConfigurationError, match=r"listen = '127\.0\.0\.1:\d+'"):
            async with served(taken, ScriptedDecider(), tmp_path):
                pass


async def test_a_port_that_cannot_be_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"listen = '127\.0\.0\.1:99999'"):
        async with served(replace(settings(), listen="127.0.0.1:99999"), ScriptedDecider(), tmp_path):
            pass


async def test_where_callers_need_a_certificate_one_without_is_not_answered(tmp_path: Path) -> None:
    callers = Authority.make(tmp_path, "callers")
    with_certificate = callers.call(tmp_path / "callers.crt")
    async with served(settings(), ScriptedDecider(), tmp_path, tmp_path / "callers.crt") as webhook:
        with_certificate.load_verify_locations(tmp_path / "ca.crt")
        with pytest.raises(Exception, match=r"(?i)certificate required|disconnected|reset"):
            await webhook.post("/validate", reviews.create_pod())
        assert webhook.decider.asked == []
        webhook.tls = with_certificate
        assert (await webhook.review(reviews.create_pod()))["allowed"]


async def test_a_caller_of_another_ca_is_not_answered(tmp_path: Path) -> None:
    Authority.make(tmp_path, "callers")
    stranger = Authority.make(tmp_path, "strangers").call(tmp_path / "strangers.crt")
    async with served(settings(), ScriptedDecider(), tmp_path, tmp_path / "callers.crt", stranger) as webhook:
        stranger.load_verify_locations(tmp_path / "ca.crt")
        with pytest.raises(Exception, match=r"(?i)unknown ca|disconnected|reset"):
            await webhook.post("/validate", reviews.create_pod())
        assert webhook.decider.asked == []


@pytest.mark.parametrize("sent", [b"", b"POST /validate HTTP/1.1\r\nHost: x\r\n"], ids=["nothing", "half a head"])
async def test_a_connection_that_asks_nothing_is_ended(tmp_path: Path, sent: bytes) -> None:
    async with serving(tmp_path) as webhook:
        host, _, port = webhook.webhook.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=webhook.tls, server_hostname="localhost")
        writer.write(sent)
        # Another connection that did ask stays: it is the same one afterwards.
        await webhook.review(reviews.create_pod())
        webhook.clock.advance(10)
        assert await reader.read() == b""
        writer.close()
        await webhook.review(reviews.create_pod())


async def test_connections_beyond_the_bound_are_turned_away(tmp_path: Path) -> None:
    async with serving(tmp_path, by=settings(limits=Limits(max_connections=1))) as webhook:
        await webhook.review(reviews.create_pod())
        host, _, port = webhook.webhook.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=webhook.tls, server_hostname="localhost")
        assert await reader.read() == b""
        writer.close()
        await webhook.review(reviews.create_pod())


async def test_plaintext_is_not_answered(tmp_path: Path) -> None:
    async with serving(tmp_path) as webhook:
        host, _, port = webhook.webhook.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP" not in await reader.read()
        writer.close()


async def test_nothing_else_is_served(tmp_path: Path) -> None:
    async with serving(tmp_path) as webhook:
        assert (await webhook.get("/metrics"))[0] == 404
        assert (await webhook.get("/validate"))[0] == 405
