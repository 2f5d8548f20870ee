"""Trust bundles: what is read, what is refused, and which domain a certificate counts for."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from sealkeeper.server.errors import ConfigurationError
from sealkeeper.server.trust_bundles import MAX_BUNDLE, TrustBundles, parse_bundle, read_bundle
from tests.server.svids import DAY, Ca, bundle, jwk, usage

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SETTING = "trust_domains.prod.example.org.bundle"
FIRST, SECOND = Ca.make(NOW), Ca.make(NOW, key=rsa.generate_private_key(65537, 2048))
OLD = Ca.make(NOW - 30 * DAY)
COMING = Ca.make(NOW + 30 * DAY)
LEAF = FIRST.issue("spiffe://prod.example.org/a")
NOT_FOR_CERTIFICATES = Ca.make(NOW, extensions=[(x509.BasicConstraints(True, None), True), (usage(), True)])

NO_CA = Ca.make(NOW, extensions=[(x509.BasicConstraints(False, None), True)])
WITHOUT_CONSTRAINTS = Ca.make(NOW, extensions=[(usage(signs=False, certificates=True), True)])


@pytest.mark.parametrize(
    "data",
    [
        FIRST.pem + SECOND.pem,
        b"# prod\n" + FIRST.pem + b"\n\n" + SECOND.pem + FIRST.pem,
        bundle(jwk(FIRST), jwk(SECOND)),
        b"\n " + bundle(jwk(FIRST), jwk(SECOND), jwk(FIRST)),
    ],
)
def test_a_bundle_is_pem_or_json_whatever_its_file_is_called(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bundle"
    path.write_bytes(data)
    assert read_bundle(path, SETTING, NOW) == (FIRST.certificate, SECOND.certificate)


def test_keys_of_other_uses_and_kinds_are_ignored() -> None:
    others: list[Any] = [
        {"use": "jwt-svid", "kty": "EC", "kid": "a", "crv": "P-256", "x": "AA", "y": "AA"},
        {"use": "wit-svid", "kty": {"not": "text"}, "x5c": 7},
        {"kty": "EC", "x5c": ["!"]},
        {"use": "x509-svid", "kty": "OKP", "x": "AA", "x5c": ["!"]},
        {"use": "x509-svid", "kty": "EC"},
        {"use": "x509-svid", "kty": "EC", "x5c": []},
    ]
    assert parse_bundle(bundle(*others, jwk(FIRST), unknown=[1])) == (FIRST.certificate,)


MANY = [Ca.make(NOW, key=FIRST.key) for _ in range(101)]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "holds no certificate"),
        (b"nothing of the kind", "holds no certificate"),
        (FIRST.key_pem, "holds no certificate"),
        (FIRST.pem + SECOND.pem[:-40], "certificate"),
        (FIRST.pem.replace(b"M", b"!", 1), "holds no certificate that can be read"),
        (FIRST.pem + LEAF.pem, "certificate 2 is not a CA certificate"),
        (NOT_FOR_CERTIFICATES.pem, "certificate 1 is not a CA certificate"),
        (NO_CA.pem, "certificate 1 is not a CA certificate"),
        (WITHOUT_CONSTRAINTS.pem, "certificate 1 is not a CA certificate"),
        (b"".join(one.pem for one in MANY), "holds more than 100 certificates"),
        (bundle(*map(jwk, MANY)), "holds more than 100 certificates"),
        (b"{", "is not a SPIFFE bundle in JSON"),
        (b"{}", "is not a SPIFFE bundle in JSON"),
        (b'{"keys": 7}', "is not a SPIFFE bundle in JSON"),
        (b'{"keys": [7]}', "is not a SPIFFE bundle in JSON"),
        (b'{"keys": ' + b"[" * 100_000, "is not a SPIFFE bundle in JSON"),
        (b'{"keys": [], "a": "\xff"}', "is not a SPIFFE bundle in JSON|holds no CA certificate"),
        (bundle(), "holds no CA certificate"),
        (bundle(jwk(LEAF)), "certificate 1 is not a CA certificate"),
        (bundle({**jwk(FIRST), "x5c": jwk(FIRST)["x5c"] * 2}), r"keys\[0\].x5c: must have exactly one certificate"),
        (bundle(jwk(FIRST), {**jwk(FIRST), "x5c": ["!"]}), r"keys\[1\].x5c: is not a certificate in base64"),
        (bundle({**jwk(FIRST), "x5c": [base64.b64encode(b"a").decode()]}), "is not a certificate in base64"),
        (bundle({**jwk(FIRST), "x5c": "MII"}), "is not a SPIFFE bundle in JSON"),
        (bundle({**jwk(FIRST), "x5c": jwk(SECOND)["x5c"]}), r"keys\[0\]: its parameters are not the key of its x5c"),
        (bundle({**jwk(FIRST), "y": jwk(FIRST)["x"]}), "its parameters are not the key"),
        (bundle({**jwk(SECOND), "e": "!"}), "its parameters are not the key"),
        (bundle({**jwk(SECOND), "n": None}), "its parameters are not the key"),
    ],
)
def test_what_is_no_bundle_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_bundle(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (OLD.pem, "has expired, at 2026-02-09"),
        (COMING.pem, "is not valid before 2026-03-30"),
        (OLD.pem + COMING.pem, "is not valid before 2026-03-30"),
        (b"x" * (MAX_BUNDLE + 1), "has more than 1048576 bytes"),
        (b"x", "holds no certificate"),
    ],
)
def test_a_file_that_nobody_could_get_in_with_is_refused_by_its_setting(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "bundle.pem"
    path.write_bytes(data)
    with pytest.raises(ConfigurationError, match=said) as caught:
        read_bundle(path, SETTING, NOW)
    assert str(caught.value).startswith(f"{SETTING}: ")
    assert str(path) in str(caught.value)
    assert caught.value.next_step


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{SETTING}: cannot read .*bundle\.pem: No such file"):
        read_bundle(tmp_path / "bundle.pem", SETTING, NOW)


def test_one_valid_ca_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "bundle.pem"
    path.write_bytes(OLD.pem + COMING.pem + FIRST.pem)
    assert len(read_bundle(path, SETTING, NOW)) == 3


def test_a_certificate_counts_for_the_domain_whose_ca_signed_it() -> None:
    bundles = TrustBundles({"a": [FIRST.certificate, OLD.certificate], "b": [SECOND.certificate]})
    assert bundles.issuer_of(LEAF.certificate, "a", NOW) == FIRST.certificate
    assert bundles.issuer_of(LEAF.certificate, "b", NOW) is None
    assert bundles.issuer_of(LEAF.certificate, "c", NOW) is None
    assert bundles.domain_of(LEAF.certificate, NOW) == "a"
    assert bundles.domain_of(OLD.issue("spiffe://a/b").certificate, NOW) is None


def test_a_ca_is_no_caller_even_of_its_own_domain() -> None:
    bundles = TrustBundles({"a": [FIRST.certificate]})
    assert bundles.issuer_of(FIRST.certificate, "a", NOW) is None
    below = Ca.make(NOW, parent=FIRST)
    assert bundles.issuer_of(below.issue("spiffe://a/b").certificate, "a", NOW) is None


def test_the_union_for_tls_holds_each_ca_once() -> None:
    bundles = TrustBundles({"a": [FIRST.certificate, SECOND.certificate], "b": [SECOND.certificate]})
    assert parse_bundle(bundles.pem) == (FIRST.certificate, SECOND.certificate)
    assert bundles.pem.count(b"BEGIN") == 2


def test_the_bundle_of_the_tests_is_json() -> None:
    assert json.loads(bundle(jwk(FIRST)))["keys"][0]["use"] == "x509-svid"
