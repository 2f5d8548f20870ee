"""Predicates that only the gateway and gates write are refused however they are spelled, and others are not."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.server.errors import InvalidRequestError
from sealkeeper.server.reserved_predicates import (
    is_statement,
    require_no_encoding,
    require_signable,
    require_unreserved,
)
from sealkeeper.verify.dsse import pae
from sealkeeper.verify.predicates import KINDS
from sealkeeper.verify.statement import PAYLOAD_TYPE

RESERVED = tuple(uri for kind in KINDS if kind.short_name in ("slsa-provenance", "vsa") for uri in kind.types)
FREE = tuple(uri for kind in KINDS if kind.short_name not in ("slsa-provenance", "vsa") for uri in kind.types)


def refused(predicate_type: str) -> bool:
    try:
        require_unreserved(predicate_type, "predicate.type")
    except InvalidRequestError as error:
        return (error.reason, bool(error.next_step)) == ("PREDICATE_INVALID", True)
    return False


@pytest.mark.parametrize("predicate_type", RESERVED)
def test_what_the_gateway_or_a_gate_writes_is_reserved(predicate_type: str) -> None:
    assert refused(predicate_type)


@pytest.mark.parametrize(
    "predicate_type", [*FREE, "https://example.org/provenance/v1", "https://slsa.dev/attestations"]
)
def test_other_predicates_are_free(predicate_type: str) -> None:
    assert not refused(predicate_type)


@given(st.sampled_from(RESERVED), st.data())
def test_no_spelling_of_a_reserved_type_is_free(predicate_type: str, data: st.DataObject) -> None:
    scheme, _, rest = predicate_type.partition("://")
    letters = [
        data.draw(st.sampled_from((one, one.upper(), f"%{ord(one):02x}", quote(f"%{ord(one):02X}"))))
        if one.isalpha()
        else one
        for one in rest
    ]
    slashes = [one * data.draw(st.integers(1, 3)) if one == "/" else one for one in letters]
    spelled = f"{data.draw(st.sampled_from((scheme, 'http', 'HTTPS')))}://{''.join(slashes)}"
    assert refused(spelled + data.draw(st.sampled_from(("", "/", "?", "#", "/.", "?x=y"))))


@pytest.mark.parametrize(
    ("payload_type", "is_one"),
    [
        (PAYLOAD_TYPE, True),
        (PAYLOAD_TYPE.upper(), True),
        (f" {PAYLOAD_TYPE} ; charset=utf-8", True),
        ("application/json", False),
        (f"{PAYLOAD_TYPE}2", False),
    ],
)
def test_the_payload_type_of_statements_is_known_in_every_spelling(payload_type: str, is_one: bool) -> None:
    assert is_statement(payload_type) is is_one


@given(st.binary(max_size=100), st.text(st.characters(codec="ascii"), min_size=1, max_size=30))
def test_no_encoding_of_an_envelope_is_a_message(payload: bytes, payload_type: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        require_no_encoding(pae(payload_type, payload), "content.message")
    assert caught.value.violations[0].field == "content.message"


def test_what_merely_resembles_an_encoding_is_a_message() -> None:
    for message in (b"", b"DSSEv1", b"dssev1 1 a 1 b", b" DSSEv1 ", b"DSSEv11 "):
        require_no_encoding(message, "content.message")


@pytest.mark.parametrize("payload", [b"", b"{}", b"\xff", b"[" * 1000, b'{"_type":"link"}'])
def test_what_is_no_statement_is_not_signable(payload: bytes) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        require_signable(payload, "content.dsse.payload")
    assert (caught.value.reason, caught.value.violations[0].field) == ("PREDICATE_INVALID", "content.dsse.payload")


def test_a_statement_of_a_free_predicate_is_signable() -> None:
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"digest": {"sha256": "5e" * 32}}],
        "predicateType": FREE[0],
        "predicate": {},
    }
    require_signable(json.dumps(statement).encode(), "content.dsse.payload")
