"""Gatekeeper is answered in its own protocol, and remembers only what was really decided."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.client.admission.asking import TIMEOUT, undecided
from sealkeeper.client.admission.decider import AnswerSource, ImageAnswer, ImageQuestion
from sealkeeper.client.admission.external_data import ProviderRequestError, parse_keys, provider_response, system_error
from tests.client.admission.deciding import DIGEST, PRODUCTION, allowed, refused

VERSION = "externaldata.gatekeeper.sh/v1beta1"


def request(keys: Any, version: str = VERSION, kind: str = "ProviderRequest") -> bytes:
    return json.dumps({"apiVersion": version, "kind": kind, "request": {"keys": keys}}).encode()


def keys_of(data: bytes) -> tuple[str, ...]:
    return parse_keys(data, 1 << 20, 100)


def test_keys_are_image_references_each_once() -> None:
    assert keys_of(request(["a:1", "b:1", "a:1"])) == ("a:1", "b:1")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (request(["a"], version="externaldata.gatekeeper.sh/v1alpha1"), "$.apiVersion: must be"),
        (request(["a"], kind="ProviderResponse"), "$.kind: must be ProviderRequest"),
        (request("a"), "$.request.keys: must be an array"),
        (request([1]), "$.request.keys[0]: must be a string"),
        (request(["a"] * 101), "$.request.keys: has 101 items"),
        (request(["a" * 4097]), "$.request.keys[0]: must be a string of at most"),
        (b"{}", "$: apiVersion is missing"),
        (b"[" * 100_000, "$: nested more"),
        (b"", "$: not JSON"),
    ],
)
def test_what_is_no_request_is_named(data: bytes, said: str) -> None:
    with pytest.raises(ProviderRequestError) as caught:
        keys_of(data)
    assert str(caught.value).startswith(said)
    assert caught.value.next_step


def test_an_allowed_image_has_its_digest_for_a_value() -> None:
    assert provider_response([allowed("shop/web:1")]) == {
        "apiVersion": VERSION,
        "kind": "ProviderResponse",
        "response": {"idempotent": True, "items": [{"key": "shop/web:1", "value": f"shop/web@{DIGEST}"}]},
    }


def test_a_refused_image_has_the_reasons_for_an_error_and_from_where() -> None:
    [item] = provider_response([refused("a:1", AnswerSource.CACHE)])["response"]["items"]
    assert item == {
        "key": "a:1",
        "error": "PROVENANCE_MISSING: no SLSA provenance that verifies; to do: attest it in the build (from the cache)",
    }


def test_an_allowed_image_without_a_digest_has_no_value() -> None:
    [item] = provider_response([ImageAnswer("a:1", "", True, False, AnswerSource.GATEWAY)])["response"]["items"]
    assert item == {"key": "a:1", "error": "it is allowed, and has no digest"}


def test_what_nobody_decided_on_is_a_system_error_which_gatekeeper_does_not_keep() -> None:
    late = undecided(ImageQuestion("b:1", PRODUCTION), TIMEOUT, "it was not decided in time", "try again")
    response = provider_response([allowed("a:1"), late])["response"]
    assert [one["key"] for one in response["items"]] == ["a:1"]
    assert response["systemError"].startswith("b:1: GATE_TIMEOUT: it was not decided in time")


def test_a_system_error_is_bounded_and_on_one_line() -> None:
    text = system_error("x\n" * 10_000)["response"]["systemError"]
    assert len(text) == 4096
    assert text.isprintable()


_TEXT = st.text("a:/@\n\u00e9", max_size=8)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)


@given(_JSON)
def test_whatever_keys_are_they_are_taken_or_refused_and_never_crash(value: Any) -> None:
    with suppress(ProviderRequestError):
        assert isinstance(keys_of(request(value)), tuple)


@given(st.lists(_TEXT, max_size=5, unique=True))
def test_keys_come_as_they_were_sent(keys: list[str]) -> None:
    assert keys_of(request(keys)) == tuple(keys)


@given(st.dictionaries(_TEXT, st.tuples(st.booleans(), st.sampled_from(AnswerSource)), max_size=5))
def test_an_item_has_a_value_or_an_error_never_both(found: dict[str, tuple[bool, AnswerSource]]) -> None:
    answers = [allowed(key, source) if good else refused(key, source) for key, (good, source) in found.items()]
    response = provider_response(answers)["response"]
    assert response["idempotent"] is True
    assert all(("value" in one) != ("error" in one) for one in response["items"])
    values = {one["key"] for one in response["items"] if "value" in one}
    assert values <= {key for key, (good, _) in found.items() if good}
    missing = {key for key in found if key not in {one["key"] for one in response["items"]}}
    assert bool(missing) == ("systemError" in response)
