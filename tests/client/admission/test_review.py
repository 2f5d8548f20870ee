"""Admission reviews are read as the API server sends them, and answered as it takes them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.client.admission.review import (
    Cause,
    Response,
    Review,
    ReviewError,
    images_before,
    parse_review,
    response_document,
    review_images,
    same_images,
)
from sealkeeper.client.admission.settings import MAX_BODY
from tests.client.admission import reviews


def read(document: Any) -> Review:
    return parse_review(document if isinstance(document, bytes) else reviews.as_bytes(document), MAX_BODY)


def refused(document: Any) -> ReviewError:
    with pytest.raises(ReviewError) as caught:
        read(document)
    assert caught.value.reason == "REVIEW_INVALID"
    return caught.value


def changed(place: str, value: Any, made: Callable[[], dict[str, Any]] = reviews.create_pod) -> dict[str, Any]:
    document = made()
    *path, last = place.split(".")
    inner = document
    for name in path:
        inner = inner[name]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return document


@pytest.mark.parametrize(
    ("document", "images"),
    [
        (reviews.create_pod(), [reviews.MIGRATE, reviews.WEB, reviews.PROXY]),
        (reviews.create_deployment(), [reviews.WEB]),
        (reviews.create_cron_job(), [reviews.WEB]),
        (reviews.debug_pod(), [reviews.MIGRATE, reviews.WEB, reviews.PROXY, reviews.DEBUG]),
        (reviews.create_config_map(), []),
        (reviews.delete_pod(), []),
    ],
    ids=["pod", "deployment", "cron job", "ephemeral container", "config map", "delete"],
)
def test_what_the_api_server_sends_is_read_with_its_images(document: dict[str, Any], images: list[str]) -> None:
    found = read(document)
    assert found.uid == reviews.UID
    assert sorted(one.image for one in review_images(found)) == sorted(images)


def test_images_of_a_list_of_objects_are_found_each_with_its_place() -> None:
    items = [reviews.pod(), reviews.deployment()]
    document = {"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": ""}, "items": items}
    found = read(reviews.review("CREATE", ("", "v1", "List"), "lists", document))
    paths = {one.path for one in review_images(found) if one.image == reviews.WEB}
    assert paths == {"items[0].spec.containers[0].image", "items[1].spec.template.spec.containers[0].image"}


def test_a_review_says_where_what_and_whether_it_counts() -> None:
    found = read(reviews.debug_pod())
    assert (found.operation, found.kind, found.sub_resource) == ("UPDATE", ("", "v1", "Pod"), "ephemeralcontainers")
    assert (found.namespace, found.name, found.dry_run) == ("shop-prod", "web-6c8f9d7b5-x2k4q", False)
    assert found.is_pod
    assert read(reviews.create_pod(dry_run=True)).dry_run
    assert not read(reviews.create_deployment()).is_pod


def test_an_object_in_no_namespace_and_without_a_name_is_read() -> None:
    document = changed("request.namespace", ...)
    assert (read(document).namespace, read(document).name) == ("", "")


def test_members_of_newer_versions_are_not_looked_at() -> None:
    assert read(changed("request.madeUpLater", {"a": [1]})).uid == reviews.UID


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("apiVersion", "admission.k8s.io/v1beta1", "$.apiVersion: must be admission.k8s.io/v1"),
        ("kind", "AdmissionRequest", "$.kind: must be AdmissionReview"),
        ("request", ..., "$: request is missing"),
        ("request", [], "$.request: uid is missing"),
        ("request.uid", ..., "$.request: uid is missing"),
        ("request.uid", 7, "$.request.uid: must be a string"),
        ("request.uid", "", "$.request.uid: is empty"),
        ("request.uid", "a\nb", "$.request.uid: must be printable ASCII"),
        ("request.uid", "x" * 257, "$.request.uid: must be a string of at most 256"),
    ],
)
def test_a_review_without_a_uid_that_can_be_repeated_names_what_is_wrong(place: str, value: Any, said: str) -> None:
    error = refused(changed(place, value))
    assert (str(error).startswith(said), error.uid) == (True, "")


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("request.operation", "PATCH", "$.request.operation: must be one of CREATE, UPDATE, DELETE, CONNECT"),
        ("request.operation", None, "$.request.operation: must be a string"),
        ("request.kind", "Pod", "$.request.kind: version is missing"),
        ("request.kind.kind", "Deployment", "$.request.object.kind: must be Deployment"),
        ("request.kind.group", "apps", "$.request.object.apiVersion: must be apps/v1"),
        ("request.namespace", 5, "$.request.namespace: must be a string"),
        ("request.namespace", "n" * 64, "$.request.namespace: must be a string of at most 63"),
        ("request.dryRun", "true", "$.request.dryRun: must be true or false"),
        ("request.object", None, "$.request.object: is missing"),
        ("request.object", [], "$.request.object: must be an object or null"),
        ("request.oldObject", "pod", "$.request.oldObject: must be an object or null"),
        ("request.object.kind", "ConfigMap", "$.request.object.kind: must be Pod"),
    ],
)
def test_what_else_is_wrong_is_named_and_its_uid_kept(place: str, value: Any, said: str) -> None:
    error = refused(changed(place, value))
    assert (str(error).startswith(said), error.uid) == (True, reviews.UID)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b'"AdmissionReview"',
        b"\xff\xfe",
        b'{"kind":' * 5000,
        b"[" * 1_000_000,
        b'{"a":1,"a":2}',
        b'{"uid":' + b"9" * 100_000 + b"}",
        b'{"a":NaN}',
        b'["' + b"\\ud800" + b'"]',
        b"[" + b"1," * 300_000 + b"1]",
        b" " * (MAX_BODY + 1),
    ],
    ids=["empty", "null", "array", "text", "utf-16", "open", "deep", "twice", "digits", "nan", "half", "many", "long"],
)
def test_a_hostile_body_is_refused(data: bytes) -> None:
    assert refused(data).uid == ""


def test_a_member_that_is_there_twice_is_refused_wherever_it_is() -> None:
    text = reviews.as_bytes(reviews.create_pod()).replace(b'"image":"', b'"image":"harmless:1","image":"', 1)
    assert "twice" in str(refused(text))


def test_an_object_that_is_not_what_its_kind_must_be_is_refused_with_its_place() -> None:
    document = changed("request.object.spec.containers", "none")
    with pytest.raises(ReviewError, match=r"spec\.containers: must be an array") as caught:
        review_images(read(document))
    assert (caught.value.reason, caught.value.uid) == ("MANIFEST_INVALID", reviews.UID)


def test_images_are_the_same_where_the_same_containers_run_the_same_images() -> None:
    same, debugged = read(reviews.label_pod()), read(reviews.debug_pod())
    assert same_images(review_images(same), images_before(same))
    assert not same_images(review_images(debugged), images_before(debugged))


def test_images_that_change_places_are_not_the_same() -> None:
    document = reviews.label_pod()
    web, proxy, *_ = document["request"]["object"]["spec"]["containers"]
    web["image"], proxy["image"] = proxy["image"], web["image"]
    found = read(document)
    assert not same_images(review_images(found), images_before(found))


def test_nothing_is_the_same_as_an_old_object_that_cannot_be_read() -> None:
    found = read(changed("request.oldObject.spec.containers", 3, reviews.label_pod))
    assert images_before(found) == ()
    assert not same_images(review_images(found), images_before(found))


def test_a_creation_has_nothing_before_it_whatever_it_says() -> None:
    assert images_before(read(changed("request.oldObject", reviews.pod()))) == ()


def test_an_allowing_response_has_no_status() -> None:
    document = response_document("u", Response(allowed=True, warnings=("w",), audit={"a": "b"}))
    answer = {"uid": "u", "allowed": True, "warnings": ["w"], "auditAnnotations": {"a": "b"}}
    assert document == {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer}


def test_a_refusing_response_has_a_status_with_causes() -> None:
    response = Response(allowed=False, code=403, reason="Forbidden", message="no", causes=(Cause("R", "m", "spec"),))
    status = response_document("u", response)["response"]["status"]
    causes = [{"reason": "R", "message": "m", "field": "spec"}]
    assert status == {
        "status": "Failure",
        "code": 403,
        "reason": "Forbidden",
        "message": "no",
        "details": {"causes": causes},
    }


def test_a_patch_is_base64_of_a_json_patch() -> None:
    patch = ({"op": "replace", "path": "/spec", "value": "x"},)
    answer = response_document("u", Response(allowed=True, patch=patch))["response"]
    assert answer["patchType"] == "JSONPatch"
    assert json.loads(base64.b64decode(answer["patch"])) == list(patch)


_TEXT = st.text("ab/:@.\n\u00e9 ", max_size=6)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)
_PLACES = (
    *("kind", "request", "request.uid", "request.kind", "request.kind.group", "request.object", "request.oldObject"),
    *("request.operation", "request.namespace", "request.dryRun", "request.object.spec", "request.object.metadata"),
    *("request.object.spec.containers", "request.object.spec.volumes", "request.object.spec.initContainers"),
)


@given(st.sampled_from(_PLACES), _JSON)
def test_whatever_stands_in_a_review_it_is_read_or_refused_and_never_crashes(place: str, value: Any) -> None:
    with suppress(ReviewError):
        found = read(changed(place, value, reviews.label_pod))
        assert found.uid
        review_images(found)
        images_before(found)


@given(st.binary(max_size=64))
def test_whatever_a_body_is_it_is_refused_and_never_crashes(data: bytes) -> None:
    refused(data)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=256))
def test_the_uid_of_a_review_is_that_of_its_response(uid: str) -> None:
    found = read(changed("request.uid", uid))
    document = json.loads(json.dumps(response_document(found.uid, Response(allowed=True))))
    assert document["response"]["uid"] == uid
