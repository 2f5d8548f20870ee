"""What cosign signed before there were bundles counts for the image that its payload names, and for no other."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.verify.bundle import parse_bundle
from sealkeeper.verify.errors import VerifyError
from sealkeeper.verify.gate.decision import Outcome
from sealkeeper.verify.gate.simple_signing import TYPE, encode_simple_signing, image_digest, parse_found
from tests.verify.gate.signed_statements import APP, by_key, codes, decided, provenance, told

POLICY = "gate: v1\nsigners: {release: {key: tenants/acme/keys/release}}\nrequire: {signatures: {signers: [release]}}\n"
OTHER = f"sha256:{'5e' * 32}"


def payload(digest: str = APP.digest, kind: str = TYPE, **critical: Any) -> bytes:
    """As cosign writes it."""
    image = {"docker-manifest-digest": digest}
    identity = {"docker-reference": "ghcr.io/acme/app"}
    return json.dumps(
        {"critical": {"identity": identity, "image": image, "type": kind, **critical}, "optional": None}
    ).encode()


def signed(data: bytes) -> bytes:
    return encode_simple_signing(data, by_key(data, payload_type=""))


def test_a_signature_of_a_payload_that_names_the_image_is_one_of_the_image() -> None:
    decision = decided(POLICY, [signed(payload())])
    assert (decision.outcome, len(decision.verdict.attestations)) == (Outcome.ALLOW, 1)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (payload(OTHER), "names another image"),
        (payload(f"sha512:{APP.digest[7:]}"), "names another image"),
        (payload(APP.digest.upper()), "names another image"),
        (payload(kind="atomic container signature"), "not a 'cosign container image signature'"),
        (payload(image={}), "docker-manifest-digest"),
        (payload(image=None), "not one of simple signing"),
        (b"[]", "not one of simple signing"),
        (b'{"critical": {}, "critical": {}}', "not one of simple signing"),
        (b"app", "not one of simple signing"),
    ],
)
def test_a_good_signature_of_anything_else_is_refused(data: bytes, said: str) -> None:
    decision = decided(POLICY, [signed(data)])
    assert codes(decision) == {"SIGNATURES_TOO_FEW"}
    assert said in told(decision)


def test_a_payload_that_was_changed_is_refused() -> None:
    found = encode_simple_signing(payload(), by_key(payload(OTHER), payload_type=""))
    decision = decided(POLICY, [found])
    assert codes(decision) == {"SIGNATURES_TOO_FEW"}
    assert "this is another artifact" in told(decision)


def test_an_envelope_is_no_signature_of_a_payload() -> None:
    decision = decided(POLICY, [encode_simple_signing(payload(), by_key(provenance()))])
    assert "has an envelope" in told(decision)


def test_a_signature_of_a_payload_does_not_count_without_it() -> None:
    assert decided(POLICY, [by_key(payload(), payload_type="")]).outcome is Outcome.DENY


@given(st.binary(max_size=200) | st.dictionaries(st.text(max_size=12), st.text(max_size=12)).map(json.dumps))
def test_no_document_makes_it_raise_anything_else(rest: bytes | str) -> None:
    inner = rest.encode() if isinstance(rest, str) else rest
    document = json.loads(signed(payload()))
    for name in ("payload", "bundle"):
        changed = {**document, name: b64encode(inner).decode()}
        data = json.dumps(changed, separators=(",", ":")).encode()
        assert decided(POLICY, [data, data[: len(data) // 2]]).outcome is Outcome.DENY
    with pytest.raises(VerifyError):
        image_digest(inner)


def test_what_is_read_is_what_was_written() -> None:
    data = payload()
    document = signed(data)
    bundle, found = parse_found(document)
    assert (found, bundle) == (data, parse_bundle(b64decode(json.loads(document)["bundle"])))
