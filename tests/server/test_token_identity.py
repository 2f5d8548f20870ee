"""Who a token says is calling, and what is refused."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import traceback
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import example, given
from hypothesis import strategies as st

from sealkeeper.server.errors import ConfigurationError, OverloadedError, SealkeeperError, UnauthenticatedError
from sealkeeper.server.identity import Caller, Method, Principal, Role
from sealkeeper.server.identity_settings import IssuerSettings, PersonSettings
from sealkeeper.server.people import People
from sealkeeper.server.token_claims import fits, lookup
from sealkeeper.server.token_identity import MAX_REMEMBERED, TokenAuthenticator, _Memory, _Remembered
from sealkeeper.server.token_replay import UsedTokens
from tests.oidc_issuer import ABSENT, SHA, Issuer, Key, compact, encoded, oidc_issuer

DOMAIN = "gateway.example"
AUDIENCE = f"https://{DOMAIN}"
PEER = "ipv4:192.0.2.1:50000"
OTHER_PORT = "ipv4:192.0.2.1:50001"
OTHER_ADDRESS = "ipv4:192.0.2.2:50000"
Benches = Any
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass
class Bench:
    """An issuer, an authenticator that trusts it, and one clock for both."""

    issuer: Issuer
    tokens: TokenAuthenticator
    seconds: float = 0

    @property
    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    async def ask(self, token: str, peer: str = PEER) -> Principal:
        return await self.tokens.authenticate(caller(f"Bearer {token}", peer), self.now)

    async def refusal(self, token: str, peer: str = PEER) -> SealkeeperError:
        with pytest.raises(SealkeeperError) as caught:
            await self.ask(token, peer)
        return caught.value

    async def reason(self, token: str, peer: str = PEER) -> str:
        return (await self.refusal(token, peer)).reason


def caller(authorization: str | bytes | None, peer: str = PEER) -> Caller:
    return Caller({}, {} if authorization is None else {"authorization": authorization}, peer)


def settings(issuer: Issuer, kind: str = "generic", **more: Any) -> IssuerSettings:
    rule = {"claims": {"sub": "*"}, "tenant": "acme", "role": "ci"}
    return IssuerSettings.model_validate({"issuer": issuer.url, "kind": kind, "principals": [rule], **more})


@pytest.fixture(scope="module")
def shared_issuer() -> Iterator[Issuer]:
    with oidc_issuer() as issuer:
        yield issuer


@pytest.fixture
def issuer(shared_issuer: Issuer) -> Iterator[Issuer]:
    yield shared_issuer
    shared_issuer.replies.clear()


@pytest_asyncio.fixture
async def benches(issuer: Issuer) -> AsyncIterator[Benches]:
    made: list[TokenAuthenticator] = []

    async def make(kind: str = "generic", people: People | None = None, **more: Any) -> Bench:
        tokens = TokenAuthenticator(
            DOMAIN, {"one": settings(issuer, kind, **more)}, people or People({}, {}), START - timedelta(minutes=1)
        )
        made.append(tokens)
        await tokens.start()
        bench = Bench(issuer, tokens)
        issuer.now = lambda: bench.now.timestamp()
        return bench

    yield make
    for one in made:
        await one.close()


# Whose it is.


async def test_a_github_token_becomes_a_principal_with_typed_attributes(benches: Benches) -> None:
    bench = await benches("github", principals=[rule(repository_owner="acme-org")])
    workflow = "acme-org/app/.github/workflows/release.yml@refs/heads/main"
    principal = await bench.ask(bench.issuer.token("github", AUDIENCE, environment="production"))
    assert principal == Principal(
        tenant="acme",
        subject=f"{bench.issuer.url}#repo:acme-org/app:ref:refs/heads/main",
        role=Role.CI,
        not_after=START + timedelta(seconds=300),
        method=Method.TOKEN,
        issuer=bench.issuer.url,
        attributes=(
            ("actor", "first"),
            ("environment", "production"),
            ("event", "push"),
            ("project", "424242"),
            ("ref", "refs/heads/main"),
            ("ref_protected", "true"),
            ("ref_type", "branch"),
            ("repository", "acme-org/app"),
            ("run", "22259804324"),
            ("runner", "github-hosted"),
            ("sha", SHA),
            ("workflow", workflow),
        ),
    )


async def test_a_github_token_of_a_reusable_workflow_alone_names_that_workflow(benches: Benches) -> None:
    bench = await benches("github")
    token = bench.issuer.token("github", AUDIENCE, workflow_ref=ABSENT, job_workflow_ref="acme-org/shared/x.yml@v1")
    assert (await bench.ask(token)).attribute("workflow") == "acme-org/shared/x.yml@v1"


async def test_a_gitlab_token_becomes_a_principal_with_a_full_ref(benches: Benches) -> None:
    bench = await benches("gitlab", principals=[rule(namespace_path="acme-group")])
    assert dict((await bench.ask(bench.issuer.token("gitlab", AUDIENCE))).attributes) == {
        "actor": "first",
        "environment": "production",
        "event": "push",
        "project": "20",
        "ref": "refs/heads/main",
        "ref_protected": "true",
        "ref_type": "branch",
        "repository": "acme-group/app",
        "run": "574",
        "runner": "self-hosted",
        "sha": SHA,
        "workflow": "gitlab.example.org/acme-group/app//.gitlab-ci.yml@refs/heads/main",
    }


async def test_a_branch_that_is_called_like_a_tag_is_a_branch(benches: Benches) -> None:
    for kind, changes in (
        ("gitlab", {"ref": "refs/tags/v1", "ref_protected": "false"}),
        ("buildkite", {"build_branch": "refs/tags/v1"}),
    ):
        bench = await benches(kind, protected_refs=["refs/tags/v*"])
        principal = await bench.ask(bench.issuer.token(kind, AUDIENCE, **changes))
        assert principal.attribute("ref") == "refs/heads/refs/tags/v1"
        assert principal.attribute("ref_protected") == "false"


async def test_a_buildkite_token_becomes_a_principal(benches: Benches) -> None:
    bench = await benches("buildkite", protected_refs=["refs/heads/main"])
    assert dict((await bench.ask(bench.issuer.token("buildkite", AUDIENCE))).attributes) == {
        "event": "webhook",
        "ref": "refs/heads/main",
        "ref_protected": "true",
        "ref_type": "branch",
        "repository": "acme-inc/app",
        "run": "5",
        "runner": "buildkite-hosted",
        "sha": SHA,
        "workflow": "build",
    }
    tag = await bench.ask(bench.issuer.token("buildkite", AUDIENCE, build_tag="v1.0.0"))
    assert [tag.attribute(name) for name in ("ref", "ref_type", "ref_protected")] == [
        "refs/tags/v1.0.0",
        "tag",
        "false",
    ]


async def test_a_circleci_token_becomes_a_principal(benches: Benches) -> None:
    bench = await benches("circleci", principals=[rule(**{"oidc.circleci.com/context-ids": "58bef0c1-*"})])
    assert dict((await bench.ask(bench.issuer.token("circleci", AUDIENCE))).attributes) == {
        "actor": "961ae4b1-070b-4134-ae64-1328a3ae3862",
        "environment": "58bef0c1-399d-49ca-a5ba-2f4317e4224d",
        "project": "ecc458d2-fbdc-4d9a-93c4-ac065ed3c3ca",
        "ref": "refs/heads/main",
        "ref_protected": "false",
        "ref_type": "branch",
        "repository": "github.com/acme-org/app",
        "run": "b6f2a2a4-1a55-4b0c-8a0e-6f3c9f8d2222",
        "workflow": "b2f4f7c1-6a9e-4c4c-9b43-1d1f6a2f3333",
    }
    several = bench.issuer.token("circleci", AUDIENCE, **{"oidc.circleci.com/context-ids": ["x", "58bef0c1-y"]})
    assert (await bench.ask(several)).attribute("environment") == ""
    rerun = bench.issuer.token("circleci", AUDIENCE, **{"oidc.circleci.com/ssh-rerun": True})
    assert (await bench.ask(rerun)).attribute("event") == "ssh-rerun"


async def test_a_kubernetes_token_becomes_a_principal(benches: Benches) -> None:
    fitting = rule(**{"kubernetes.io.namespace": "build", "kubernetes.io.serviceaccount.name": "signer"})
    bench = await benches("kubernetes", principals=[fitting])
    principal = await bench.ask(bench.issuer.token("kubernetes", [AUDIENCE, "https://kubernetes.default.svc"]))
    assert principal.attributes == (("namespace", "build"), ("pod", "app-0"), ("service_account", "signer"))
    assert principal.subject.endswith("#system:serviceaccount:build:signer")


async def test_a_person_comes_with_how_they_logged_in(benches: Benches) -> None:
    bench = await benches(principals=[rule("custodian", "{email}", groups="custodians")])
    principal = await bench.ask(bench.issuer.token("person", AUDIENCE))
    assert (principal.person, principal.role) == ("first@example.org", Role.CUSTODIAN)
    assert (principal.acr, principal.amr) == ("urn:example:phishing-resistant", ("hwk", "pwd"))
    assert principal.attributes == (("email", "first@example.org"),)


async def test_an_access_token_is_taken_as_well(benches: Benches) -> None:
    bench = await benches()
    claims = {"iss": bench.issuer.url, "aud": AUDIENCE, "sub": "x", "iat": int(bench.now.timestamp())}
    claims["exp"] = claims["iat"] + 60
    assert (await bench.ask(bench.issuer.sign(claims, header={"typ": "at+jwt"}))).subject.endswith("#x")


async def test_a_subject_that_people_lists_is_that_person_whatever_the_claims_say(benches: Benches) -> None:
    people = People({f"{(await benches()).issuer.url}#248289761001": "first"}, {"first": ()})
    bench = await benches(people=people, principals=[rule("custodian", "{email}")])
    assert (await bench.ask(bench.issuer.token("person", AUDIENCE))).person == "first"


async def test_a_name_of_people_is_not_given_to_subjects_that_are_not_listed(benches: Benches) -> None:
    bench = await benches(people=People({}, {"first": ()}), principals=[rule("custodian", "{nickname}")])
    assert await bench.reason(bench.issuer.token("person", AUDIENCE, nickname="first")) == "PRINCIPAL_UNKNOWN"
    assert (await bench.ask(bench.issuer.token("person", AUDIENCE, nickname="second"))).person == "second"


@pytest.mark.parametrize(
    "changes",
    [
        {"email": ABSENT},
        {"email": ""},
        {"email": 7},
        {"email": "a" * 201},
        {"email": "first@example.org "},
        {"email_verified": False},
    ],
    ids=str,
)
async def test_a_person_without_a_good_name_is_refused(benches: Benches, changes: dict[str, Any]) -> None:
    bench = await benches("github", principals=[rule("custodian", "{email}")])
    assert await bench.reason(bench.issuer.token("person", AUDIENCE, **changes)) == "PRINCIPAL_UNKNOWN"


async def test_the_first_rule_that_fits_counts(benches: Benches) -> None:
    first, second = rule("verifier", repository="acme-org/*", ref="refs/tags/*"), rule(repository="acme-org/*")
    bench = await benches("github", principals=[first, second])
    assert (await bench.ask(bench.issuer.token("github", AUDIENCE, ref="refs/tags/v1"))).role is Role.VERIFIER
    assert (await bench.ask(bench.issuer.token("github", AUDIENCE))).role is Role.CI
    assert await bench.reason(bench.issuer.token("github", AUDIENCE, repository="x/acme-org/a")) == "PRINCIPAL_UNKNOWN"


@pytest.mark.parametrize("said", ["false", False, ABSENT, None, ""], ids=str)
async def test_a_ref_is_protected_where_the_settings_or_the_token_say_so(benches: Benches, said: Any) -> None:
    bench = await benches("github", protected_refs=["refs/tags/v*"])
    for ref, protected in (("refs/tags/v1", "true"), ("refs/heads/x", "false")):
        token = bench.issuer.token("github", AUDIENCE, ref=ref, ref_protected=said)
        assert (await bench.ask(token)).attribute("ref_protected") == protected


async def test_nothing_is_said_of_protection_without_a_ref(benches: Benches) -> None:
    bench = await benches("github", protected_refs=["*"])
    assert (await bench.ask(bench.issuer.token("github", AUDIENCE, ref=ABSENT))).attribute("ref_protected") == ""


def rule(role: str = "ci", person: str = "", **claims: str) -> dict[str, Any]:
    return {"claims": claims or {"sub": "*"}, "tenant": "acme", "role": role, "person": person}


# What is refused.


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic dTpw",
        "Bearer a.b.c, Bearer a.b.c",
        "Bearer a.b.c d",
        b"Bearer a.b.c",
        "a.b.c",
    ],
    ids=str,
)
async def test_what_is_not_one_bearer_token_is_refused(benches: Benches, value: str | bytes | None) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        await (await benches()).tokens.authenticate(caller(value), START)
    assert caught.value.reason == "TOKEN_MALFORMED"


def test_what_a_call_carries_does_not_show_its_token() -> None:
    assert "secret" not in repr(Caller({}, {"authorization": "Bearer secret"}, "ipv4:192.0.2.1:50000"))


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer "])
async def test_the_scheme_may_be_written_in_any_case(benches: Benches, scheme: str) -> None:
    bench = await benches()
    token = bench.issuer.token("person", AUDIENCE)
    assert await bench.tokens.authenticate(caller(f"{scheme} {token}"), bench.now)


async def test_a_token_of_more_than_8_kib_is_refused(benches: Benches) -> None:
    bench = await benches()
    assert await bench.reason(bench.issuer.token("person", AUDIENCE, more="x" * 8192)) == "TOKEN_TOO_LARGE"
    assert await bench.reason("x" * 8193) == "TOKEN_TOO_LARGE"
    assert await bench.reason("x" * 8192) == "TOKEN_MALFORMED"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"nonsense",
        b"\xff",
        b'{"iss":1}',
        b'{"iss":"a","iss":"b"}',
        b'{"exp":NaN}',
        b'{"exp":Infinity}',
        b'{"a":' + b"[" * 40 + b"]" * 40 + b"}",
    ],
    ids=repr,
)
async def test_a_payload_that_is_no_plain_object_is_refused(benches: Benches, payload: bytes) -> None:
    bench = await benches()
    key = bench.issuer.keys[-1]
    assert await bench.reason(compact(b'{"alg":"RS256"}', payload, key)) == "TOKEN_MALFORMED"


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("sub", ABSENT),
        ("sub", ""),
        ("sub", 7),
        ("sub", ["a"]),
        ("sub", "a" * 256),
        # A line of the deny list could not name it.
        ("sub", "a "),
        ("sub", " a"),
        ("sub", "a\nb"),
        ("sub", "a\u202eb"),
        ("sub", "\ud800"),
        ("iat", "1"),
        ("iat", True),
        ("exp", [1]),
        ("exp", 1e300),
        ("exp", -1),
        ("exp", 10**60),
        ("nbf", "soon"),
        ("aud", 7),
        ("aud", [AUDIENCE, 7]),
        ("aud", {"a": 1}),
        ("jti", 7),
        ("jti", "a" * 513),
        ("acr", 1),
        ("amr", [1]),
        ("amr", ["x"] * 21),
        ("repository", {"a": 1}),
        ("repository", "a" * 257),
        ("repository", "a\x00"),
        ("ref_protected", "yes"),
        ("environment", ["production"]),
        ("run_id", 1.5),
    ],
    ids=str,
)
async def test_a_claim_of_another_type_or_out_of_bounds_is_refused_by_its_name(
    benches: Benches, claim: str, value: Any
) -> None:
    bench = await benches("github")
    refused = await bench.refusal(bench.issuer.token("github", AUDIENCE, **{claim: value}))
    assert refused.reason == "TOKEN_MALFORMED"
    assert claim in str(refused)


@pytest.mark.parametrize("claim", ["kubernetes.io", "serviceaccount"])
async def test_a_kubernetes_claim_that_is_no_object_is_refused(benches: Benches, claim: str) -> None:
    bench = await benches("kubernetes")
    value = "x" if claim == "kubernetes.io" else {"serviceaccount": "x"}
    refused = await bench.refusal(bench.issuer.token("kubernetes", AUDIENCE, **{"kubernetes.io": value}))
    assert (refused.reason, claim in str(refused)) == ("TOKEN_MALFORMED", True)


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["b64"], "b64": False},
        {"crit": []},
        {"b64": True},
        {"alg": 1},
        {"alg": ABSENT},
        {"kid": 1},
        {"kid": None},
        {"kid": ""},
        {"kid": "a" * 256},
        {"typ": "dpop+jwt"},
        {"typ": 1},
    ],
    ids=str,
)
async def test_a_header_that_asks_for_more_than_is_known_is_refused(benches: Benches, header: dict[str, Any]) -> None:
    bench = await benches()
    assert await bench.reason(with_header(bench.issuer, header)) == "TOKEN_MALFORMED"


def with_header(issuer: Issuer, header: dict[str, Any], key: Key | None = None, algorithm: str = "") -> str:
    """A token that is good but for its header, signed with whatever that says."""
    key = key or issuer.keys[-1]
    full = {"alg": key.algorithm, "kid": key.kid, "typ": "JWT", **header}
    claims = {"iss": issuer.url, "aud": AUDIENCE, "sub": "x", "iat": int(issuer.now()), "exp": int(issuer.now()) + 60}
    shown = {name: value for name, value in full.items() if value is not ABSENT}
    return compact(json.dumps(shown).encode(), json.dumps(claims).encode(), key, algorithm)


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE"])
async def test_an_unsigned_token_is_refused(benches: Benches, algorithm: str) -> None:
    bench = await benches()
    signed = with_header(bench.issuer, {"alg": algorithm})
    assert await bench.reason(signed) == "TOKEN_UNSIGNED"
    assert await bench.reason(signed.rpartition(".")[0] + ".") == "TOKEN_UNSIGNED"
    assert await bench.reason(with_header(bench.issuer, {}).rpartition(".")[0] + ".") == "TOKEN_UNSIGNED"


@pytest.mark.parametrize("algorithm", ["HS256", "PS256", "RS1", "rs256", ""])
async def test_an_algorithm_that_is_not_the_issuers_is_refused(benches: Benches, algorithm: str) -> None:
    bench = await benches()
    assert await bench.reason(with_header(bench.issuer, {"alg": algorithm})) == "TOKEN_ALGORITHM_REFUSED"


async def test_a_token_signed_with_the_public_key_as_a_secret_is_refused(benches: Benches) -> None:
    bench = await benches()
    public = bench.issuer.keys[-1].private.public_key()
    secret = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signed = with_header(bench.issuer, {"alg": "HS256"}).rpartition(".")[0]
    forged = f"{signed}.{encoded(hmac.digest(secret, signed.encode(), sha256))}"
    assert await bench.reason(forged) == "TOKEN_ALGORITHM_REFUSED"


async def test_a_key_is_used_for_its_own_algorithm_alone(benches: Benches) -> None:
    bench = await benches(algorithms=["RS256", "RS512", "ES256"])
    assert (
        await bench.reason(with_header(bench.issuer, {"alg": "RS512"}, algorithm="RS512")) == "TOKEN_ALGORITHM_REFUSED"
    )
    assert await bench.reason(with_header(bench.issuer, {"alg": "ES256"})) == "TOKEN_ALGORITHM_REFUSED"


async def test_keys_that_the_header_brings_along_are_not_used(benches: Benches) -> None:
    bench = await benches()
    own = Key.make("RS256")
    header = {"jwk": dict(own.public), "jku": f"{bench.issuer.url}/mine", "x5u": bench.issuer.url, "x5c": ["AAAA"]}
    assert await bench.reason(with_header(bench.issuer, {**header, "kid": own.kid}, own)) == "TOKEN_KEY_UNKNOWN"
    known = bench.issuer.keys[-1].kid
    assert await bench.reason(with_header(bench.issuer, {**header, "kid": known}, own)) == "TOKEN_SIGNATURE_INVALID"
    assert bench.issuer.count("/mine") == 0
    assert await bench.ask(with_header(bench.issuer, header))


@pytest.mark.parametrize("algorithm", ["RS384", "PS256", "ES256", "ES384", "ES512", "EdDSA"])
async def test_signatures_of_every_algorithm_are_verified(algorithm: str) -> None:
    with oidc_issuer() as issuer:
        issuer.rotate(algorithm)
        tokens = TokenAuthenticator(DOMAIN, {"one": settings(issuer, algorithms=[algorithm])}, People({}, {}), START)
        good = with_header(issuer, {})
        assert await tokens.authenticate(caller(f"Bearer {good}"), datetime.now(UTC))
        forged = with_header(issuer, {}, Key(issuer.keys[-1].kid, algorithm, Key.make(algorithm).private, {}))
        with pytest.raises(UnauthenticatedError) as caught:
            await tokens.authenticate(caller(f"Bearer {forged}"), datetime.now(UTC))
        assert caught.value.reason == "TOKEN_SIGNATURE_INVALID"
        await tokens.close()


async def test_an_issuer_that_is_not_configured_is_refused(benches: Benches) -> None:
    bench = await benches()
    for url in (f"{bench.issuer.url}/", bench.issuer.url.upper(), "https://example.org", ""):
        assert await bench.reason(bench.issuer.token("person", AUDIENCE, iss=url)) == "TOKEN_ISSUER_UNKNOWN"
    assert await bench.reason(bench.issuer.token("person", AUDIENCE, iss=ABSENT)) == "TOKEN_MALFORMED"


async def test_a_token_for_another_audience_is_refused(benches: Benches) -> None:
    bench = await benches()
    for audience in ("https://other.example", [], ["a", "b"], ABSENT, DOMAIN, f"{AUDIENCE}/"):
        assert await bench.reason(bench.issuer.token("person", audience)) == "TOKEN_AUDIENCE_REFUSED"
    other = await benches(audiences=["one", "two"])
    assert await other.ask(other.issuer.token("person", ["zero", "two"]))
    assert await other.reason(other.issuer.token("person", AUDIENCE)) == "TOKEN_AUDIENCE_REFUSED"


async def test_a_token_has_expired_once_its_end_and_the_leeway_are_over(benches: Benches) -> None:
    bench = await benches(leeway=timedelta(seconds=30))
    token, remembered = (bench.issuer.token("person", AUDIENCE, lifetime=60) for _ in range(2))
    await bench.ask(remembered)
    bench.seconds = 90
    assert await bench.ask(token)
    assert await bench.ask(remembered)
    bench.seconds = 90.001
    assert await bench.reason(token) == "TOKEN_EXPIRED"
    assert await bench.reason(remembered) == "TOKEN_EXPIRED"
    assert await bench.reason(remembered) == "TOKEN_EXPIRED"


@pytest.mark.parametrize("claim", ["iat", "nbf"])
async def test_a_token_from_the_future_is_refused(benches: Benches, claim: str) -> None:
    bench = await benches(leeway=timedelta(seconds=30))
    start = int(START.timestamp())
    assert await bench.ask(bench.issuer.token("person", AUDIENCE, **{claim: start + 30}))
    assert await bench.reason(bench.issuer.token("person", AUDIENCE, **{claim: start + 31})) == "TOKEN_NOT_YET_VALID"


async def test_a_token_that_lives_too_long_or_for_ever_is_refused(benches: Benches) -> None:
    bench = await benches(max_lifetime=timedelta(minutes=10))
    assert await bench.ask(bench.issuer.token("person", AUDIENCE, lifetime=600))
    assert await bench.reason(bench.issuer.token("person", AUDIENCE, lifetime=601)) == "TOKEN_LIFETIME_REFUSED"
    for claim in ("exp", "iat"):
        without = bench.issuer.token("person", AUDIENCE, **{claim: ABSENT})
        assert await bench.reason(without) == "TOKEN_LIFETIME_REFUSED"
    backwards = bench.issuer.token("person", AUDIENCE, exp=int(START.timestamp()) - 1)
    assert await bench.reason(backwards) == "TOKEN_LIFETIME_REFUSED"


async def test_a_refusal_says_nothing_of_what_the_token_holds(
    benches: Benches, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    bench = await benches(principals=[rule(sub="nobody")])
    secret = "q7Zx9"
    own = Key.make("RS256")
    tokens = [
        bench.issuer.token("person", secret, sub=secret, jti=secret),
        bench.issuer.token("person", AUDIENCE, sub=secret, jti=secret),
        bench.issuer.token("person", AUDIENCE, sub=f"{secret}\n"),
        bench.issuer.token("person", AUDIENCE, iss=f"https://{secret}.example"),
        bench.issuer.sign({"iss": bench.issuer.url, "sub": secret}, header={"kid": secret}),
        with_header(bench.issuer, {"alg": secret}),
        with_header(bench.issuer, {"kid": secret}, own),
        with_header(bench.issuer, {"kid": bench.issuer.keys[-1].kid}, own),
    ]
    for token in tokens:
        refused = await bench.refusal(token)
        shown = "".join(traceback.format_exception(refused)) + repr(refused.metadata) + refused.next_step
        assert secret not in shown
        assert not any(part in shown for part in token.split("."))
        assert refused.__cause__ is None
        assert refused.__context__ is None
    assert secret not in caplog.text
    assert not any(part in caplog.text for token in tokens for part in token.split("."))


# Remembered, and used once.


async def test_a_token_that_comes_again_gives_the_same_principal(benches: Benches) -> None:
    bench = await benches("github")
    token = bench.issuer.token("github", AUDIENCE)
    first = await bench.ask(token)
    assert await bench.ask(token) is first
    assert await bench.tokens.authenticate(caller(f"bearer   {token}"), bench.now) is first


@pytest.mark.parametrize("kind", ["github", "gitlab", "buildkite", "circleci", "kubernetes", "generic"])
async def test_kinds_of_issuers_have_bindings_that_suit_them(benches: Benches, kind: str) -> None:
    expected = "connection" if kind in ("github", "buildkite") else "address"
    bench = await benches(kind)
    made = "person" if kind == "generic" else kind
    token = bench.issuer.token(made, AUDIENCE)
    await bench.ask(token)
    assert await bench.reason(token, OTHER_ADDRESS) == "TOKEN_REPLAYED"
    if expected == "connection":
        assert await bench.reason(token, OTHER_PORT) == "TOKEN_REPLAYED"
    else:
        assert await bench.ask(token, OTHER_PORT)


async def test_a_used_token_stays_where_it_was_used_after_it_was_forgotten(benches: Benches) -> None:
    bench = await benches("github")
    token = bench.issuer.token("github", AUDIENCE)
    await bench.ask(token)
    bench.tokens._memory._tokens.clear()
    bench.tokens._memory._of_tenant.clear()
    assert await bench.reason(token, OTHER_PORT) == "TOKEN_REPLAYED"
    assert await bench.ask(token)


async def test_two_tokens_with_one_id_are_one(benches: Benches) -> None:
    bench = await benches("github")
    await bench.ask(bench.issuer.token("github", AUDIENCE, jti="same"))
    again = bench.issuer.token("github", AUDIENCE, jti="same", actor="second")
    assert await bench.reason(again, OTHER_PORT) == "TOKEN_REPLAYED"


async def test_a_token_without_an_id_is_bound_too_whatever_its_signature_looks_like(benches: Benches) -> None:
    bench = await benches("circleci")
    bench.issuer.rotate("ES256")
    claims = {"iss": bench.issuer.url, "aud": AUDIENCE, "sub": "x", "iat": int(bench.now.timestamp())}
    claims["exp"] = claims["iat"] + 60
    first, second = bench.issuer.sign(claims), bench.issuer.sign(claims)
    assert first != second
    await bench.ask(first)
    assert await bench.reason(second, OTHER_ADDRESS) == "TOKEN_REPLAYED"
    bench.issuer.rotate("RS256")


async def test_replay_none_binds_to_nothing(benches: Benches) -> None:
    bench = await benches("github", replay="none")
    token = bench.issuer.token("github", AUDIENCE)
    assert await bench.ask(token) is await bench.ask(token, OTHER_ADDRESS)


async def test_a_token_from_before_the_start_is_refused_where_it_is_bound_to_its_connection(benches: Benches) -> None:
    before = int(START.timestamp()) - 61
    bench = await benches("github")
    assert await bench.reason(bench.issuer.token("github", AUDIENCE, iat=before)) == "TOKEN_REPLAYED"
    assert await bench.ask(bench.issuer.token("github", AUDIENCE, iat=before + 1))
    other = await benches("gitlab")
    assert await other.ask(other.issuer.token("gitlab", AUDIENCE, iat=before))


async def test_what_is_refused_leaves_no_trace_in_the_memory_of_used_tokens(benches: Benches) -> None:
    bench = await benches("github", principals=[rule(sub="nobody")])
    used = next(iter(bench.tokens._issuers.values())).used
    for token in (
        bench.issuer.token("github", AUDIENCE),
        bench.issuer.token("github", "other"),
        with_header(bench.issuer, {}, Key(bench.issuer.keys[-1].kid, "RS256", Key.make().private, {})),
    ):
        await bench.refusal(token)
    assert len(used) == 0


def test_used_tokens_are_bounded_and_forgotten_at_their_end() -> None:
    used = UsedTokens("address", limit=2)
    for name, end in (("a", 10), ("b", 20)):
        used.use(name, PEER, end, 0)
    with pytest.raises(OverloadedError):
        used.use("c", PEER, 30, 10)
    used.use("a", OTHER_PORT, 10, 10)
    with pytest.raises(UnauthenticatedError):
        used.use("a", OTHER_ADDRESS, 10, 10)
    used.use("c", PEER, 30, 10.5)
    assert len(used) == 2


def test_tenants_of_one_issuer_leave_room_for_each_other() -> None:
    used = UsedTokens("address", limit=8, shared=True)
    for place in range(4):
        used.use(f"loud {place}", PEER, 10, 0, "loud")
    with pytest.raises(OverloadedError):
        used.use("loud 4", PEER, 10, 0, "loud")
    used.use("quiet", PEER, 10, 0, "quiet")
    used.use("loud 4", PEER, 20, 11, "loud")
    assert len(used) == 1


def test_a_tenant_alone_with_its_issuer_has_all_of_the_room() -> None:
    used = UsedTokens("address", limit=8)
    for place in range(8):
        used.use(f"{place}", PEER, 10, 0, "acme")
    assert len(used) == 8


async def test_the_id_of_a_token_of_somebody_else_takes_nothing_from_anybody(benches: Benches) -> None:
    bench = await benches("github")
    for subject, peer in (("repo:other/app:ref:x", OTHER_ADDRESS), ("repo:acme-org/app:ref:x", PEER)):
        assert await bench.ask(bench.issuer.token("github", AUDIENCE, jti="the same", sub=subject), peer)


def test_ipv6_peers_are_told_apart_by_address() -> None:
    used = UsedTokens("address")
    assert used.place_of("ipv6:%5B2001:db8::1%5D:50000") == used.place_of("ipv6:%5B2001:db8::1%5D:50001")
    assert used.place_of("ipv6:%5B2001:db8::1%5D:50000") != used.place_of("ipv6:%5B2001:db8::2%5D:50000")


def test_a_flood_of_one_tenants_tokens_pushes_out_its_own_alone() -> None:
    memory: Any = _Memory(8)
    for place in range(100):
        tenant = "quiet" if place < 3 else "loud"
        memory.add(b"%d" % place, _remembered(tenant, str(place)), None)
    assert len(memory._tokens) == 8
    assert all(memory.get(b"%d" % place) for place in range(3))
    assert MAX_REMEMBERED == 4096


def _remembered(tenant: str, subject: str) -> Any:
    unused: Any = None
    return _Remembered(Principal(tenant, subject, Role.CI), unused, unused, 0.0, "")


# Settings.


async def test_two_issuers_with_one_name_are_refused(issuer: Issuer) -> None:
    both = {"one": settings(issuer), "two": settings(issuer)}
    with pytest.raises(ConfigurationError, match=r"issuers\.two\.issuer"):
        TokenAuthenticator(DOMAIN, both, People({}, {}), START)


async def test_a_start_that_fails_leaves_nothing_under_way(issuer: Issuer, tmp_path: Path) -> None:
    away = IssuerSettings.model_validate(
        {"issuer": "https://issuer.example", "principals": [rule()], "jwks_file": tmp_path / "absent.json"}
    )
    tokens = TokenAuthenticator(DOMAIN, {"one": settings(issuer), "two": away}, People({}, {}), START)
    with pytest.raises(ConfigurationError, match=r"issuers\.two\.jwks_file"):
        await tokens.start()
    assert asyncio.all_tasks() == {asyncio.current_task()}


def person(*identities: str, keys: list[Path] | None = None) -> PersonSettings:
    return PersonSettings(identities=list(identities), approval_keys=keys or [])


def public_pem(path: Path, private: Any) -> Path:
    path.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def test_people_have_names_and_approval_keys(tmp_path: Path) -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    file = public_pem(tmp_path / "first.pem", private)
    people = People.read({"first": person("a", "b", keys=[file, file]), "second": person("c")})
    assert [people.name_of(subject) for subject in "abcd"] == ["first", "first", "second", ""]
    der = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert people.approval_keys("first") == (der,)
    assert people.approval_keys("second") == people.approval_keys("nobody") == ()


def test_what_belongs_to_two_people_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"people\.second\.identities: b is also of people\.first"):
        People.read({"first": person("a", "b"), "second": person("b")})
    file = public_pem(tmp_path / "one.pem", ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(ConfigurationError, match=r"people\.second\.approval_keys.*people\.first"):
        People.read({"first": person("a", keys=[file]), "second": person("b", keys=[file])})


def test_files_without_a_fit_public_key_are_refused(tmp_path: Path) -> None:
    small = rsa.generate_private_key(65537, 1024)
    curve = ec.generate_private_key(ec.SECP256K1())
    secret = ed25519.Ed25519PrivateKey.generate()
    (tmp_path / "secret.pem").write_bytes(secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    # No statement verifies with it: whoever named it would find out when an approval is needed.
    large = rsa.RSAPublicNumbers(65537, (1 << 8192) | 1).public_key()
    (tmp_path / "large.pem").write_bytes(large.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (tmp_path / "text.pem").write_text("hello")
    (tmp_path / "long.pem").write_text("x" * 70_000)
    files = {
        public_pem(tmp_path / "small.pem", small): "too short",
        public_pem(tmp_path / "curve.pem", curve): "another kind",
        tmp_path / "large.pem": "too long",
        tmp_path / "secret.pem": "private key",
        tmp_path / "text.pem": "no public key",
        tmp_path / "long.pem": "more than",
        tmp_path / "absent.pem": "cannot be read",
    }
    for file, problem in files.items():
        with pytest.raises(ConfigurationError, match=rf"people\.first\.approval_keys.*{problem}"):
            People.read({"first": person("a", keys=[file])})


# Patterns and paths.


@given(st.text("ab*", max_size=12), st.text("ab", max_size=12))
@example("ab*ba", "aba")
@example("a*b*ba", "aba")
def test_a_star_stands_for_anything(pattern: str, text: str) -> None:
    assert fits(pattern, text) == _slow_fits(pattern, text)


def _slow_fits(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(_slow_fits(pattern[1:], text[place:]) for place in range(len(text) + 1))
    return bool(text) and pattern[0] == text[0] and _slow_fits(pattern[1:], text[1:])


def test_a_path_finds_claims_whose_names_have_dots() -> None:
    claims = {"a.b": 1, "a": {"b": 2, "c": 3}, "kubernetes.io": {"x": {"y": 4}}, "t": "text"}
    found = [lookup(claims, name) for name in ("a.b", "a.c", "kubernetes.io.x.y", "a.d", "t.x", "", ".")]
    assert found == [1, 3, 4, None, None, None, None]


@pytest.mark.parametrize(
    ("value", "pattern", "expected"),
    [
        (["a", "b"], "b", True),
        (["a", ["b"]], "b", False),
        ([], "*", False),
        (True, "true", True),
        (7, "7", True),
        (7.5, "*", False),
        (None, "*", False),
        ({"a": 1}, "*", False),
        ("", "*", True),
    ],
    ids=str,
)
async def test_rules_look_at_texts_numbers_flags_and_lists(
    benches: Benches, value: Any, pattern: str, expected: bool
) -> None:
    bench = await benches(principals=[rule(checked=pattern)])
    token = bench.issuer.token("person", AUDIENCE, checked=value)
    if expected:
        assert await bench.ask(token)
    else:
        assert await bench.reason(token) == "PRINCIPAL_UNKNOWN"
