"""``sealkeeper doctor --gateway`` and access: each usual mistake is made, and found with what to do about it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sealkeeper.server.access_doctor import check_access
from sealkeeper.server.doctor import check
from sealkeeper.server.finding import Finding
from sealkeeper.server.initialise import Plan, initialise
from sealkeeper.server.local_ca import LocalCa
from sealkeeper.server.settings import load_settings
from tests.e2e.running import ANY_PORT, DOMAIN, TENANT
from tests.oidc_issuer import AWAY, BROKEN, DISCOVERY, JWKS, Issuer, Reply, oidc_issuer

DAY = timedelta(days=1)
ISSUER = """
[issuers.login]
issuer = "{url}"
principals = [{{ claims = {{ sub = "*" }}, tenant = "acme", role = "ci" }}]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made") / "gateway"
    asyncio.run(initialise(Plan(directory, DOMAIN, TENANT, None, {}, ANY_PORT, ANY_PORT, ANY_PORT)))
    return directory


@pytest.fixture
def directory(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "gateway")


@pytest.fixture
def issuer(directory: Path) -> Iterator[Issuer]:
    with oidc_issuer() as running:
        change(directory, "[gateway]\n", f'[gateway]\ntoken_listen = "{ANY_PORT}"\n')
        add(directory, ISSUER.format(url=running.url))
        yield running


def change(directory: Path, old: str, new: str) -> None:
    path = directory / "sealkeeper.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def add(directory: Path, more: str) -> None:
    path = directory / "sealkeeper.toml"
    path.write_text(f"{path.read_text()}\n{more}")


def public_key(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    path.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def findings(directory: Path, ahead: timedelta = timedelta()) -> dict[str, Finding]:
    """By the name of the check; what is wrong comes with something to do."""
    found = check_access(load_settings(directory / "sealkeeper.toml"), datetime.now(UTC) + ahead)
    assert all(passed or next_step for _, passed, _, next_step in found)
    return {one[0]: one for one in found}


def failures(directory: Path, ahead: timedelta = timedelta()) -> dict[str, str]:
    return {name: one[2] for name, one in findings(directory, ahead).items() if not one[1]}


def test_a_new_gateway_passes_and_nothing_is_said_of_what_it_has_not(directory: Path) -> None:
    assert not failures(directory)
    assert list(findings(directory)) == [f"trust domain {DOMAIN}", "secrets"]


def test_doctor_looks_at_access(directory: Path) -> None:
    (directory / "denied").write_text("nonsense\n")
    add(directory, '[identity]\ndeny_list = "denied"\n')
    found = {one[0]: one for one in check(directory)}
    assert not found["deny list"][1]
    assert "line 1" in found["deny list"][2]


def test_people_that_are_fine_pass(directory: Path) -> None:
    public_key(directory / "first.pem")
    add(
        directory,
        f'[people.first]\nidentities = ["spiffe://{DOMAIN}/tenants/acme/roles/custodian/first"]\n'
        'approval_keys = ["first.pem"]\n',
    )
    assert findings(directory)["people"][1:3] == (True, "1 people, 1 approval keys can be read")


def test_one_identity_of_two_people_is_found(directory: Path) -> None:
    identity = f"spiffe://{DOMAIN}/tenants/acme/roles/custodian/first"
    for name in ("first", "second"):
        add(directory, f'[people.{name}]\nidentities = ["{identity}"]\n')
    assert failures(directory)["people"] == f"people.second.identities: {identity} is also of people.first"


def test_an_approval_key_that_cannot_be_read_is_found(directory: Path) -> None:
    identity = f"spiffe://{DOMAIN}/tenants/acme/roles/custodian/first"
    add(directory, f'[people.first]\nidentities = ["{identity}"]\napproval_keys = ["missing.pem"]\n')
    assert "missing.pem cannot be read" in failures(directory)["people"]


@pytest.mark.parametrize(
    "identity", ["spiffe://sealkeeper.exmaple/tenants/acme/roles/ci/x", "https://nobody.example#1"]
)
def test_an_identity_that_nobody_can_prove_is_found(directory: Path, identity: str) -> None:
    add(directory, f'[people.first]\nidentities = ["{identity}"]\n')
    assert f"people.first.identities: {identity} is of no issuer" in failures(directory)["people"]


def test_people_who_cannot_approve_are_spoken_of(directory: Path, issuer: Issuer) -> None:
    add(directory, f'[people.first]\nidentities = ["{issuer.url}#1"]\n')
    _, passed, text, next_step = findings(directory)["people"]
    assert passed
    assert "first come with tokens alone and have none" in text
    assert "people.first.approval_keys" in next_step


def test_that_nobody_joins_the_identities_of_people_who_log_in_is_spoken_of(directory: Path, issuer: Issuer) -> None:
    assert "people" not in findings(directory)
    change(directory, 'role = "ci"', 'role = "custodian", person = "{email}"')
    _, passed, text, next_step = findings(directory)["people"]
    assert passed
    assert text == "people log in by login, and [people] joins no identities"
    assert "counts as two people" in next_step


def test_a_bundle_that_expires_soon_is_spoken_of_and_one_that_has_is_found(directory: Path) -> None:
    end = LocalCa.read(directory).pair.certificate.not_valid_after_utc
    label, left = f"trust domain {DOMAIN}", end - datetime.now(UTC)
    _, passed, text, next_step = findings(directory, left - DAY)[label]
    assert passed
    assert "expires soon" in text
    assert "gateway.tls.client_ca" in next_step
    assert "has expired" in failures(directory, left + DAY)[label]


def test_a_bundle_of_another_trust_domain_that_is_missing_is_found(directory: Path) -> None:
    rule = '{ path = "/{workflow}", tenant = "acme", role = "ci" }'
    add(directory, f'[trust_domains."prod.example"]\nbundle = "missing.pem"\nprincipals = [{rule}]\n')
    assert "trust_domains.prod.example.bundle: cannot read" in failures(directory)["trust domain prod.example"]


def test_an_issuer_that_answers_passes_and_what_its_tokens_must_be_for_is_told(directory: Path, issuer: Issuer) -> None:
    found = findings(directory)["issuer login"]
    assert found[1]
    assert f"tokens must be for https://{DOMAIN}, since issuers.login.audiences names none" in found[2]
    change(directory, f'issuer = "{issuer.url}"', f'issuer = "{issuer.url}"\naudiences = ["one", "two"]')
    assert findings(directory)["issuer login"][2].endswith("tokens must be for one, two")


@pytest.mark.parametrize(
    ("behaviour", "said"), [(AWAY, "cannot be had: ServerDisconnectedError"), (BROKEN, "the answer has status 500")]
)
def test_an_issuer_that_does_not_answer_is_found(directory: Path, issuer: Issuer, behaviour: str, said: str) -> None:
    issuer.behave(behaviour)
    assert said in failures(directory)["issuer login"]


def test_a_discovery_document_of_another_issuer_is_found(directory: Path, issuer: Issuer) -> None:
    issuer.replies[DISCOVERY] = Reply.of({**issuer.discovery(), "issuer": "https://other.example"})
    assert "the discovery document is another issuer's" in failures(directory)["issuer login"]


def test_an_issuer_without_a_key_of_the_algorithms_is_found(directory: Path, issuer: Issuer) -> None:
    change(directory, f'issuer = "{issuer.url}"', f'issuer = "{issuer.url}"\nalgorithms = ["EdDSA"]')
    assert "keys is for EdDSA" in failures(directory)["issuer login"]


def test_a_key_that_is_too_short_is_counted_among_the_others(directory: Path, issuer: Issuer) -> None:
    before = findings(directory)["issuer login"][2]
    short = {"kty": "RSA", "use": "sig", "kid": "short", "n": "wQ" * 80, "e": "AQAB"}
    issuer.replies[JWKS] = Reply.of({"keys": [*issuer.published, short]})
    after = findings(directory)["issuer login"][2]
    assert after == before.replace(" 0 others", " 1 others")
    issuer.replies[JWKS] = Reply.of({"keys": [short]})
    assert "none of its 1 keys" in failures(directory)["issuer login"]


@pytest.mark.parametrize(("ahead", "way"), [(timedelta(hours=1), "behind"), (timedelta(hours=-1), "ahead of")])
def test_a_clock_that_is_not_the_issuers_is_found(directory: Path, issuer: Issuer, ahead: timedelta, way: str) -> None:
    assert "issuer login clock" not in findings(directory)
    assert f"s {way} this machine's; 30 s are allowed" in failures(directory, ahead)["issuer login clock"]


def test_a_file_of_keys_is_read_and_its_absence_found(directory: Path, issuer: Issuer) -> None:
    change(directory, f'issuer = "{issuer.url}"', f'issuer = "{issuer.url}"\njwks_file = "keys.json"')
    issuer.behave(AWAY)
    assert "cannot be read: No such file" in failures(directory)["issuer login"]
    (directory / "keys.json").write_bytes(Reply.of({"keys": issuer.published}).body)
    assert not failures(directory)


def test_an_initial_policy_that_is_none_is_found(directory: Path) -> None:
    add(directory, '[initial_policies]\nacme = "acme.cedar"\n')
    assert "No such file" in failures(directory)["initial policy acme"]
    (directory / "acme.cedar").write_text("permit (principal, action, resource);")
    assert "needs an @id" in failures(directory)["initial policy acme"]
    (directory / "acme.cedar").write_text('@id("all") permit (principal, action, resource);')
    assert findings(directory)["initial policy acme"][1]


@pytest.mark.parametrize("name", ["server.key", "ca.key"])
def test_a_private_key_that_everybody_can_read_is_found(directory: Path, name: str) -> None:
    (directory / "tls" / name).chmod(0o644)
    assert name in failures(directory)["secrets"]


def test_a_file_that_says_who_is_whom_and_everybody_can_write_is_found(directory: Path) -> None:
    (directory / "tls" / "ca.pem").chmod(0o666)
    assert "ca.pem" in failures(directory)["access files"]
