"""Certificates that nobody would issue on purpose: known refusals come out, and no other name than was signed."""

from __future__ import annotations

import asyncio
import base64
import string
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import example, given
from hypothesis import strategies as st

from sealkeeper.server.certificate_identity import CertificateAuthenticator, parse_spiffe_id
from sealkeeper.server.errors import UnauthenticatedError
from sealkeeper.server.identity import Principal, Role
from sealkeeper.server.identity_settings import SpiffeRule, TrustDomainSettings
from sealkeeper.server.trust_bundles import parse_bundle
from tests.server.svids import NAME, Bundles, Ca, NamedPeople, Svid, bundle, caller_with, jwk, new_key, uris

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
OWN, PROD = "sealkeeper.example", "prod.example.org"
RELEASE = f"spiffe://{PROD}/ns/build/sa/release"
OWN_CA, PROD_CA = Ca.make(NOW), Ca.make(NOW)
REASONS = {
    "CERTIFICATE_DOMAIN_MISMATCH",
    "CERTIFICATE_DOMAIN_UNKNOWN",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_INVALID",
    "CERTIFICATE_NAME_INVALID",
    "PRINCIPAL_UNKNOWN",
}
RULES = {
    PROD: TrustDomainSettings(
        bundle=Path("prod.pem"),
        principals=[
            SpiffeRule(path="/ns/{namespace}/sa/{service_account}", tenant="acme", role=Role.CI),
            SpiffeRule(path="/{actor}", tenant="acme", role=Role.ADMIN, person="{actor}"),
        ],
    )
}
BUNDLES = Bundles.of({OWN: [OWN_CA.certificate], PROD: [PROD_CA.certificate]})
AUTHENTICATOR = CertificateAuthenticator(OWN, BUNDLES, RULES, NamedPeople())
KEY = new_key()
SVIDS = [
    PROD_CA.issue(RELEASE, key=KEY),
    PROD_CA.issue(RELEASE, key=KEY, subject=NAME, san_critical=True),
    OWN_CA.issue(f"spiffe://{OWN}/tenants/acme/roles/admin/first", key=KEY),
]


def asked(pem: bytes) -> Principal | str:
    """The principal, or the reason of the refusal."""
    try:
        return asyncio.run(AUTHENTICATOR.authenticate(caller_with(pem), NOW))
    except UnauthenticatedError as error:
        return error.reason


def pem_of(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


@st.composite
def mutated(draw: st.DrawFn) -> tuple[Svid, bytes]:
    svid = draw(st.sampled_from(SVIDS))
    der = bytearray(svid.der)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(der) - 1))
        match draw(st.sampled_from(["set", "cut", "add", "swap"])):
            case "set":
                der[place] = draw(st.integers(0, 255))
            case "cut":
                del der[place : place + draw(st.integers(1, 8))]
            case "add":
                der[place:place] = draw(st.binary(min_size=1, max_size=8))
            case _:
                other = draw(st.integers(0, len(der) - 1))
                der[place], der[other] = der[other], der[place]
        if not der:
            der = bytearray(b"\x30")
    return svid, bytes(der)


@given(mutated())
def test_a_changed_certificate_is_refused_or_says_the_same(case: tuple[Svid, bytes]) -> None:
    svid, der = case
    found = asked(pem_of(der))
    if isinstance(found, str):
        assert found in REASONS
        return
    # What can be changed without the CA is the form of the signature.
    signed = x509.load_der_x509_certificate(found.certificate)
    assert signed.tbs_certificate_bytes == svid.certificate.tbs_certificate_bytes
    assert found.subject in {RELEASE, f"spiffe://{OWN}/tenants/acme/roles/admin/first"}
    assert found.issuer == parse_spiffe_id(found.subject).domain


@given(st.binary(max_size=300))
def test_bytes_that_are_no_certificate_are_refused(data: bytes) -> None:
    assert asked(data) == asked(pem_of(data)) == "CERTIFICATE_INVALID"


SEGMENT = st.text(string.ascii_letters + string.digits + "._-%~@:?#\\ *{}\n", max_size=8)
PARTS = st.lists(
    SEGMENT | st.sampled_from(["ns", "sa", "tenants", "acme", "roles", "ci", "admin", "..", "."]), max_size=6
)
IDS = st.builds(
    lambda scheme, domain, path: f"{scheme}{domain}" + "".join(f"/{one}" for one in path),
    st.sampled_from(["spiffe://", "SPIFFE://", "https://", "spiffe:/", ""]),
    st.sampled_from([OWN, PROD, f"{PROD}:443", f"me@{PROD}", PROD.upper(), "other.example.org", "", f"{PROD}."]),
    PARTS,
)
NAMES = st.one_of(
    IDS.map(x509.UniformResourceIdentifier),
    st.just(x509.UniformResourceIdentifier(RELEASE)),
    st.sampled_from([PROD, "a.example"]).map(x509.DNSName),
    st.sampled_from(["first@example.org"]).map(x509.RFC822Name),
    st.just(x509.DirectoryName(NAME)),
    st.just(x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))),
    st.binary(max_size=4).map(
        lambda data: x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x04" + bytes([len(data)]) + data)
    ),
)


@given(st.sampled_from([OWN_CA, PROD_CA]), st.lists(NAMES, min_size=1, max_size=4), st.booleans())
def test_only_the_one_name_that_was_signed_by_its_domain_comes_out(
    ca: Ca, names: list[x509.GeneralName], critical: bool
) -> None:
    svid = ca.issue(san=x509.SubjectAlternativeName(names), key=KEY, san_critical=critical)
    found = asked(svid.pem)
    if isinstance(found, str):
        assert found in REASONS
        return
    [name] = [one.value for one in names if isinstance(one, x509.UniformResourceIdentifier)]
    domain = OWN if ca is OWN_CA else PROD
    assert (found.subject, found.issuer) == (name, domain)
    assert name.startswith(f"spiffe://{domain}/")
    if domain == OWN:
        assert name == f"spiffe://{OWN}/tenants/{found.tenant}/roles/{found.role}/{name.rpartition('/')[2]}"
    else:
        assert found.tenant == "acme"
        assert all(value in name.split("/") for _, value in found.attributes)


@given(IDS)
@example("spiffe://a/b")
def test_a_spiffe_id_is_one_or_is_refused(text: str) -> None:
    try:
        found = parse_spiffe_id(text)
    except ValueError:
        return
    assert f"spiffe://{found.domain}{found.path}" == text
    assert found.domain == found.domain.lower()
    assert set(found.path) <= set(string.ascii_letters + string.digits + "._-/")
    assert not {"", ".", ".."} & set(found.path.split("/")[1:])


@st.composite
def mutated_bundles(draw: st.DrawFn) -> bytes:
    whole = draw(st.sampled_from([PROD_CA.pem + OWN_CA.pem, bundle(jwk(PROD_CA), jwk(OWN_CA), {"use": "jwt-svid"})]))
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(data)))
        data[place : place + draw(st.integers(0, 60))] = draw(st.binary(max_size=6))
    return bytes(data)


@given(mutated_bundles())
def test_a_changed_bundle_is_refused_or_holds_what_is_whole_of_it(data: bytes) -> None:
    try:
        found = parse_bundle(data)
    except ValueError:
        return
    assert found
    for one in found:
        assert one.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert one.public_bytes(Encoding.DER)


@pytest.mark.parametrize("svid", SVIDS)
def test_what_is_not_changed_is_taken(svid: Svid) -> None:
    assert isinstance(asked(pem_of(svid.der)), Principal)


def test_the_name_counts_as_it_is_written() -> None:
    assert asked(PROD_CA.issue(san=uris(RELEASE.replace("prod", "PROD"))).pem) == "CERTIFICATE_NAME_INVALID"
