"""Tags become the digests that were decided on, at the places where they are, and nothing else changes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.client.admission.decider import AnswerSource, ImageAnswer
from sealkeeper.client.admission.pinning import pins, to_pin
from sealkeeper.client.workload_images import images_of
from tests.client.admission import reviews
from tests.client.admission.deciding import allowed, refused, resolved


def patched(document: dict[str, Any], patch: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Apply ``replace`` operations as RFC 6902 section 4.3 has it: the place must be there."""
    made = copy.deepcopy(document)
    for one in patch:
        assert one["op"] == "replace"
        *path, last = [key.replace("~1", "/").replace("~0", "~") for key in one["path"].split("/")[1:]]
        inner: Any = made
        for key in path:
            inner = inner[int(key)] if isinstance(inner, list) else inner[key]
        assert last in inner
        inner[last] = one["value"]
    return made


def answers(document: dict[str, Any]) -> dict[str, ImageAnswer]:
    return {one.image: allowed(one.image) for one in images_of(document)}


def test_tags_are_pinned_and_digests_left_alone() -> None:
    pod = reviews.pod()
    patch = pins(to_pin(images_of(pod), ()), answers(pod))
    assert {one["path"] for one in patch} == {"/spec/containers/0/image", "/spec/initContainers/0/image"}
    made = patched(pod, patch)
    assert {one.image for one in images_of(made)} == {resolved(one.image) for one in images_of(pod)}


def test_what_a_pod_had_before_is_left_so_that_nothing_restarts() -> None:
    document = reviews.debug_pod()["request"]
    images = to_pin(images_of(document["object"]), images_of(document["oldObject"]))
    assert [one.image for one in images] == [reviews.DEBUG]


@pytest.mark.parametrize(
    "answer",
    [
        refused(reviews.WEB),
        ImageAnswer(reviews.WEB, "", True, True, AnswerSource.GATEWAY),
        ImageAnswer(reviews.WEB, "registry.example.com/shop/web:2", True, True, AnswerSource.GATEWAY),
        ImageAnswer(reviews.WEB, f"\u202e{resolved(reviews.WEB)}", True, True, AnswerSource.GATEWAY),
    ],
    ids=["refused", "unresolved", "another tag", "not ascii"],
)
def test_what_is_refused_or_has_no_digest_is_not_pinned(answer: ImageAnswer) -> None:
    images = to_pin(images_of(reviews.pod(init="")), ())
    assert pins(images, {reviews.WEB: answer}) == ()


_IMAGE = st.sampled_from(["a:1", "b:2", "b", resolved("c:1"), "registry.example.com:5000/d/e:v1"])
_CONTAINERS = st.lists(st.builds(lambda image: {"name": "n", "image": image}, _IMAGE), min_size=1, max_size=4)
_KEY = st.text("ab/~.[]\u00e9", min_size=1, max_size=5)


@given(_KEY, _KEY, _CONTAINERS, _CONTAINERS)
def test_wherever_images_are_exactly_they_change(key: str, other: str, one: list[Any], two: list[Any]) -> None:
    spec = {key: {other: {"containers": one, "initContainers": two, "image": "untouched:1"}}}
    document = {"apiVersion": "example.com/v1", "kind": "Odd", "spec": spec}
    made = patched(document, pins(to_pin(images_of(document), ()), answers(document)))
    assert [found.image for found in images_of(made)] == [resolved(found.image) for found in images_of(document)]
    wanted = copy.deepcopy(document)
    for found in images_of(document):
        inner: Any = wanted
        for step in found.keys[:-1]:
            inner = inner[step]
        inner["image"] = resolved(found.image)
    assert made == wanted
