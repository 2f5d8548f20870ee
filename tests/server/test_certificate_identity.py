"""Callers with X.509-SVIDs: whose certificate counts, as whom, and for how long."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import ValidationError

from sealkeeper.server.certificate_identity import CertificateAuthenticator, parse_spiffe_id
from sealkeeper.server.errors import UnauthenticatedError
from sealkeeper.server.identity import Method, Principal, Role
from sealkeeper.server.identity_settings import SpiffeRule, TrustDomainSettings
from sealkeeper.server.local_ca import LocalCa
from tests.server.svids import DAY, HARDWARE, Bundles, Ca, NamedPeople, Svid, caller_with, policies, uris, usage

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
OWN, PROD, STAGE = "sealkeeper.example", "prod.example.org", "stage.example.org"
RELEASE = f"spiffe://{PROD}/ns/build/sa/release"
FIRST = f"spiffe://{OWN}/tenants/acme/roles/custodian/first"
LOCAL = LocalCa.create(OWN, NOW)
PROD_CA, STAGE_CA = Ca.make(NOW), Ca.make(NOW)


def rule(path: str, role: Role = Role.CI, person: str = "", tenant: str = "acme") -> SpiffeRule:
    return SpiffeRule(path=path, tenant=tenant, role=role, person=person)


RULES = {
    PROD: TrustDomainSettings(
        bundle=Path("prod.pem"),
        principals=[
            rule("/ns/build/sa/fixed", tenant="umbrella"),
            rule("/ns/{namespace}/sa/{service_account}"),
            rule("/people/{actor}", Role.CUSTODIAN, "{actor}"),
        ],
    ),
    STAGE: TrustDomainSettings(bundle=Path("stage.pem"), principals=[rule("/ns/{namespace}/sa/{service_account}")]),
}


@pytest.fixture
def bundles() -> Bundles:
    return Bundles.of({OWN: [LOCAL.pair.certificate], PROD: [PROD_CA.certificate], STAGE: [STAGE_CA.certificate]})


@pytest.fixture
def authenticator(bundles: Bundles) -> CertificateAuthenticator:
    return CertificateAuthenticator(
        OWN, bundles, RULES, NamedPeople({FIRST: "the first", "https://login.example.org#1": "listed"}), [HARDWARE]
    )


def local(name: str) -> Svid:
    pair = LOCAL.issue_client(name, NOW, 30 * DAY)
    return Svid(pair.certificate, pair.key)


async def refusal(asking: Awaitable[Principal]) -> str:
    with pytest.raises(UnauthenticatedError) as caught:
        await asking
    assert caught.value.next_step
    return caught.value.reason


async def test_a_workload_is_known_by_its_path(authenticator: CertificateAuthenticator) -> None:
    svid = PROD_CA.issue(RELEASE)
    assert await authenticator.authenticate(svid.caller, NOW) == Principal(
        "acme",
        RELEASE,
        Role.CI,
        NOW + DAY,
        Method.CERTIFICATE,
        "",
        PROD,
        (("namespace", "build"), ("service_account", "release")),
        certificate=svid.der,
    )


async def test_the_first_rule_that_fits_counts(authenticator: CertificateAuthenticator) -> None:
    found = await authenticator.authenticate(PROD_CA.issue(f"spiffe://{PROD}/ns/build/sa/fixed").caller, NOW)
    assert (found.tenant, found.attributes) == ("umbrella", ())


async def test_a_person_of_another_domain_is_named_by_the_rule(authenticator: CertificateAuthenticator) -> None:
    found = await authenticator.authenticate(PROD_CA.issue(f"spiffe://{PROD}/people/second").caller, NOW)
    assert (found.role, found.person, found.attribute("actor")) == (Role.CUSTODIAN, "second", "second")


async def test_a_name_of_people_is_not_given_to_another_domains_certificates(
    authenticator: CertificateAuthenticator,
) -> None:
    svid = PROD_CA.issue(f"spiffe://{PROD}/people/listed")
    assert await refusal(authenticator.authenticate(svid.caller, NOW)) == "PRINCIPAL_UNKNOWN"


async def test_a_certificate_of_the_local_ca_says_all_itself(authenticator: CertificateAuthenticator) -> None:
    name = f"spiffe://{OWN}/tenants/acme/roles/custodian/second"
    svid = local(name)
    found = await authenticator.authenticate(svid.caller, NOW)
    assert found == Principal(
        "acme", name, Role.CUSTODIAN, NOW + 30 * DAY, Method.CERTIFICATE, "second", OWN, certificate=svid.der
    )


async def test_people_in_the_settings_have_the_name_that_they_have_there(
    authenticator: CertificateAuthenticator,
) -> None:
    assert (await authenticator.authenticate(local(FIRST).caller, NOW)).person == "the first"


async def test_a_workload_is_no_person_whatever_its_name(authenticator: CertificateAuthenticator) -> None:
    found = await authenticator.authenticate(local(f"spiffe://{OWN}/tenants/acme/roles/ci/first").caller, NOW)
    assert found.person == ""


COMMON_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "release")])
RSA_CA = Ca.make(NOW, key=rsa.generate_private_key(65537, 2048))
P384_CA = Ca.make(NOW, key=ec.generate_private_key(ec.SECP384R1()))
PLAIN_CA = Ca.make(NOW, extensions=[(x509.BasicConstraints(True, None), False)])
CA_WITH_NAME = Ca.make(
    NOW,
    extensions=[
        (x509.BasicConstraints(True, None), True),
        (usage(signs=False, certificates=True), True),
        (uris(f"spiffe://{PROD}"), False),
    ],
)


@pytest.mark.parametrize(
    ("ca", "options"),
    [
        (PROD_CA, {}),
        (PROD_CA, {"san_critical": True}),
        (PROD_CA, {"subject": COMMON_NAME}),
        (PROD_CA, {"extended": None}),
        (PROD_CA, {"extended": [ExtendedKeyUsageOID.CLIENT_AUTH]}),
        (PROD_CA, {"authority_key": False}),
        (PROD_CA, {"key_usage": None}),
        (PROD_CA, {"constraints": None}),
        (PROD_CA, {"key": rsa.generate_private_key(65537, 2048)}),
        (PROD_CA, {"more": [(policies("1.2.3.4"), True)]}),
        (
            PROD_CA,
            {"san": x509.SubjectAlternativeName([x509.DNSName("a"), x509.UniformResourceIdentifier(RELEASE)])},
        ),
        (RSA_CA, {}),
        (RSA_CA, {"key": rsa.generate_private_key(65537, 2048)}),
        (P384_CA, {}),
        (PLAIN_CA, {}),
        (CA_WITH_NAME, {}),
    ],
)
async def test_forms_that_svids_have_are_taken(
    bundles: Bundles, authenticator: CertificateAuthenticator, ca: Ca, options: dict[str, Any]
) -> None:
    bundles.replace({PROD: [ca.certificate]})
    found = await authenticator.authenticate(ca.issue(RELEASE, **options).caller, NOW)
    assert found.subject == RELEASE


async def test_an_intermediate_in_the_bundle_vouches_for_what_it_issued(
    bundles: Bundles, authenticator: CertificateAuthenticator
) -> None:
    intermediate = Ca.make(NOW, parent=PROD_CA)
    svid = intermediate.issue(RELEASE)
    assert await refusal(authenticator.authenticate(svid.caller, NOW)) == "CERTIFICATE_INVALID"
    bundles.replace({PROD: [PROD_CA.certificate, intermediate.certificate]})
    assert (await authenticator.authenticate(svid.caller, NOW)).subject == RELEASE


@pytest.mark.parametrize(
    ("oids", "hardware"), [([HARDWARE], True), (["1.2.3.4", HARDWARE], True), (["1.2.3.4"], False), ([], False)]
)
async def test_a_key_is_in_hardware_where_a_policy_of_the_settings_says_so(
    authenticator: CertificateAuthenticator, oids: list[str], hardware: bool
) -> None:
    more = [(policies(*oids), False)] if oids else []
    found = await authenticator.authenticate(PROD_CA.issue(RELEASE, more=more).caller, NOW)
    assert found.hardware is hardware


@pytest.mark.parametrize(
    "issue",
    [
        lambda: STAGE_CA.issue(RELEASE),
        lambda: PROD_CA.issue(FIRST),
        lambda: local(RELEASE),
    ],
)
async def test_a_ca_does_not_speak_for_another_domain(
    authenticator: CertificateAuthenticator, issue: Callable[[], Svid]
) -> None:
    assert await refusal(authenticator.authenticate(issue().caller, NOW)) == "CERTIFICATE_DOMAIN_MISMATCH"


OTHER_CA = Ca.make(NOW)
WRAPS = x509.KeyUsage(False, False, True, False, False, False, False, False, False)


@pytest.mark.parametrize(
    ("svid", "reason"),
    [
        (PROD_CA.issue("spiffe://other.example.org/ns/a/sa/b"), "CERTIFICATE_DOMAIN_UNKNOWN"),
        (OTHER_CA.issue(RELEASE), "CERTIFICATE_INVALID"),
        (PROD_CA.issue(), "CERTIFICATE_NAME_INVALID"),
        (PROD_CA.issue(san=x509.SubjectAlternativeName([x509.DNSName(PROD)])), "CERTIFICATE_NAME_INVALID"),
        (PROD_CA.issue(san=uris(RELEASE, RELEASE)), "CERTIFICATE_NAME_INVALID"),
        (PROD_CA.issue(san=uris(RELEASE, "https://prod.example.org")), "CERTIFICATE_NAME_INVALID"),
        (PROD_CA.issue("https://prod.example.org/ns/build/sa/release"), "CERTIFICATE_NAME_INVALID"),
        (PROD_CA.issue(f"spiffe://{PROD}"), "CERTIFICATE_NAME_INVALID"),
        (PROD_CA.issue(f"spiffe://{PROD}/ns/build"), "PRINCIPAL_UNKNOWN"),
        (PROD_CA.issue(f"{RELEASE}/more"), "PRINCIPAL_UNKNOWN"),
        (local(f"spiffe://{OWN}/tenants/acme/roles/owner/first"), "PRINCIPAL_UNKNOWN"),
        (local(f"spiffe://{OWN}/tenants/Acme/roles/ci/first"), "PRINCIPAL_UNKNOWN"),
        (PROD_CA.issue(RELEASE, start=-DAY, lifetime=-timedelta(hours=1)), "CERTIFICATE_EXPIRED"),
        (PROD_CA.issue(RELEASE, constraints=x509.BasicConstraints(True, None)), "CERTIFICATE_INVALID"),
        (PROD_CA.issue(RELEASE, key_usage=usage(certificates=True)), "CERTIFICATE_INVALID"),
        (PROD_CA.issue(RELEASE, key_usage=usage(revocations=True)), "CERTIFICATE_INVALID"),
        (PROD_CA.issue(RELEASE, key_usage=WRAPS), "CERTIFICATE_INVALID"),
        (PROD_CA.issue(RELEASE, extended=[ExtendedKeyUsageOID.SERVER_AUTH]), "CERTIFICATE_INVALID"),
        (PROD_CA.issue(RELEASE, key=rsa.generate_private_key(65537, 1024)), "CERTIFICATE_INVALID"),
        (
            PROD_CA.issue(
                RELEASE, more=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), True)]
            ),
            "CERTIFICATE_INVALID",
        ),
    ],
)
async def test_what_is_no_svid_of_a_principal_here_is_refused(
    authenticator: CertificateAuthenticator, svid: Svid, reason: str
) -> None:
    assert await refusal(authenticator.authenticate(svid.caller, NOW)) == reason


@pytest.mark.parametrize("pem", [b"", b"x", PROD_CA.key_pem, PROD_CA.issue(RELEASE).pem[:300]])
async def test_what_is_no_certificate_is_refused(authenticator: CertificateAuthenticator, pem: bytes) -> None:
    assert await refusal(authenticator.authenticate(caller_with(pem), NOW)) == "CERTIFICATE_INVALID"


async def test_a_known_certificate_is_refused_from_the_second_on_in_which_it_has_expired(
    authenticator: CertificateAuthenticator,
) -> None:
    caller = PROD_CA.issue(RELEASE).caller
    first = await authenticator.authenticate(caller, NOW)
    assert await authenticator.authenticate(caller, NOW + DAY) is first
    assert await refusal(authenticator.authenticate(caller, NOW + DAY + timedelta(seconds=1))) == "CERTIFICATE_EXPIRED"


async def test_a_known_certificate_is_refused_once_its_ca_has_expired(
    bundles: Bundles, authenticator: CertificateAuthenticator
) -> None:
    ca = Ca.make(NOW, lifetime=timedelta(hours=1))
    bundles.replace({PROD: [ca.certificate]})
    caller = ca.issue(RELEASE).caller
    await authenticator.authenticate(caller, NOW)
    later = NOW + timedelta(hours=1, seconds=1)
    assert await refusal(authenticator.authenticate(caller, later)) == "CERTIFICATE_INVALID"


async def test_a_known_certificate_is_refused_once_its_ca_is_gone(
    bundles: Bundles, authenticator: CertificateAuthenticator
) -> None:
    caller = PROD_CA.issue(RELEASE).caller
    first = await authenticator.authenticate(caller, NOW)
    assert await authenticator.authenticate(caller, NOW) is first
    bundles.replace({PROD: [OTHER_CA.certificate], STAGE: [STAGE_CA.certificate]})
    assert await refusal(authenticator.authenticate(caller, NOW)) == "CERTIFICATE_INVALID"
    bundles.replace({PROD: [OTHER_CA.certificate], STAGE: [PROD_CA.certificate]})
    assert await refusal(authenticator.authenticate(caller, NOW)) == "CERTIFICATE_DOMAIN_MISMATCH"


async def test_what_is_remembered_is_bounded(
    bundles: Bundles, authenticator: CertificateAuthenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CertificateAuthenticator, "_CACHE_LIMIT", 4)
    for place in range(12):
        await authenticator.authenticate(PROD_CA.issue(f"spiffe://{PROD}/ns/a/sa/{place}").caller, NOW)
        assert len(authenticator._known) <= 4


@pytest.mark.parametrize(
    "text",
    ["spiffe://a/b", "spiffe://a", "spiffe://a_b-c.example.org/A.b_c-d/..."],
)
def test_a_spiffe_id_is_read(text: str) -> None:
    found = parse_spiffe_id(text)
    assert f"spiffe://{found.domain}{found.path}" == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe://",
        "spiffe:///a",
        "SPIFFE://a/b",
        "https://a/b",
        "spiffe://A/b",
        "spiffe://a:443/b",
        "spiffe://me@a/b",
        "spiffe://a/",
        "spiffe://a/b/",
        "spiffe://a//b",
        "spiffe://a/./b",
        "spiffe://a/b/..",
        "spiffe://a/b?c",
        "spiffe://a/b#c",
        "spiffe://a/%62",
        "spiffe://a/b\n",
        "spiffe://ä/b",
        "spiffe://a/b c",
        f"spiffe://{'a' * 256}/b",
        f"spiffe://a/{'b' * 2048}",
    ],
)
def test_what_is_no_spiffe_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a SPIFFE ID"):
        parse_spiffe_id(text)


@pytest.mark.parametrize(
    ("path", "role", "person", "said"),
    [
        ("ns/a", Role.CI, "", "must begin with /"),
        ("/ns/{team}", Role.CI, "", "names must be different ones of repository"),
        ("/{actor}/{actor}", Role.CI, "", "names must be different ones of"),
        ("/{}", Role.CI, "", "names must be different ones of"),
        ("/ns//a", Role.CI, "", "'' must be"),
        ("/ns/..", Role.CI, "", "'..' must be"),
        ("/ns/a*", Role.CI, "", r"'a\*' must be"),
        ("/ns/x{actor}", Role.CI, "", r"'x{actor}' must be"),
        ("/people/{actor}", Role.CUSTODIAN, "{email}", r"{email} is not a name in the path"),
        ("/people/{actor}", Role.CUSTODIAN, "{actor", r"{ is not a name in the path"),
    ],
)
def test_a_rule_that_is_no_pattern_is_refused_in_the_settings(path: str, role: Role, person: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        rule(path, role, person)
