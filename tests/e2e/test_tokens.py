"""Callers with tokens, at a live gateway: what is refused and how, who may do what, how people approve and log in."""

from __future__ import annotations

import hmac
import json
import os
import re
import subprocess
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sealkeeper.client.errors import ClientError
from sealkeeper.server.identity import Role
from sealkeeper.v1 import approval_pb2, identity_pb2, signing_pb2
from tests.e2e.command import COMMAND
from tests.e2e.running import TENANT
from tests.e2e.test_calls import refusal
from tests.e2e.test_tenants import ANSWERS, CONTENT, DENIED, OF_LOGS, OF_TENANTS, ROLES, TENANTS, Outcome, ask
from tests.e2e.tokens import (
    AUDIENCE,
    FIRST,
    OTHER_REPOSITORY,
    OWN_CONNECTION,
    REPOSITORY,
    TokenGateway,
    token_gateway,
)
from tests.oidc_issuer import AWAY, DISCOVERY, JWKS, Issuer, encoded, oidc_issuer
from tests.server.people import EXECUTED, add_person, decide, proposed

WHOAMI = "/sealkeeper.v1.IdentityService/WhoAmI"
COMPROMISED = "COMPROMISED"
Values = list[str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenGateway]:
    with token_gateway(tmp_path_factory.mktemp("tokens")) as made:
        yield made


def send(channel: Any, *values: str) -> Any:
    """Ask who one is, with these authorization headers."""
    return channel.unary_unary(WHOAMI)(b"", timeout=20, metadata=[("authorization", one) for one in values])


def bearer(token: str) -> Values:
    return [f"Bearer {token}"]


# What is refused.


def now(world: TokenGateway) -> int:
    return int(world.jobs.now())


def unsigned(world: TokenGateway) -> Values:
    _, claims, _ = world.job().split(".")
    return bearer(f"{encoded(json.dumps({'alg': 'none', 'typ': 'JWT'}).encode())}.{claims}.")


def signed_with_the_public_key(world: TokenGateway) -> Values:
    """HMAC, whose secret is what everybody knows (RFC 8725 section 2.1)."""
    key = world.jobs.keys[-1]
    secret = key.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _, claims, _ = world.job().split(".")
    signed = f"{encoded(json.dumps({'alg': 'HS256', 'kid': key.kid, 'typ': 'JWT'}).encode())}.{claims}"
    return bearer(f"{signed}.{encoded(hmac.digest(secret, signed.encode(), 'sha256'))}")


def of_another_issuer(world: TokenGateway) -> Values:
    """Whose name is another's: the key is the attacker's."""
    with oidc_issuer() as stranger:
        return bearer(stranger.token("github", AUDIENCE))


def forged(world: TokenGateway) -> Values:
    """With the name of the issuer and of its key, signed by somebody else."""
    with oidc_issuer() as stranger:
        key = world.jobs.keys[-1]
        return bearer(stranger.sign({**claims(world), "iss": world.jobs.url}, header={"kid": key.kid}))


def claims(world: TokenGateway) -> dict[str, Any]:
    return {"aud": AUDIENCE, "sub": "x", "iat": now(world), "exp": now(world) + 60}


REFUSED: dict[str, tuple[str, Callable[[TokenGateway], Values]]] = {
    "nothing": ("CREDENTIALS_MISSING", lambda _: []),
    "expired": ("TOKEN_EXPIRED", lambda one: bearer(one.job(iat=now(one) - 400, exp=now(one) - 31))),
    "issued in the future": ("TOKEN_NOT_YET_VALID", lambda one: bearer(one.job(iat=now(one) + 60, nbf=now(one)))),
    "not valid yet": ("TOKEN_NOT_YET_VALID", lambda one: bearer(one.job(nbf=now(one) + 60))),
    "for another audience": (
        "TOKEN_AUDIENCE_REFUSED",
        lambda one: bearer(one.jobs.token("github", "https://other.example")),
    ),
    "of an unknown issuer": ("TOKEN_ISSUER_UNKNOWN", of_another_issuer),
    "forged": ("TOKEN_SIGNATURE_INVALID", forged),
    "signed with an unknown key": (
        "TOKEN_KEY_UNKNOWN",
        lambda one: bearer(one.jobs.sign({**claims(one), "iss": one.jobs.url}, header={"kid": "unknown"})),
    ),
    "unsigned": ("TOKEN_UNSIGNED", unsigned),
    "signed with the public key as a secret": ("TOKEN_ALGORITHM_REFUSED", signed_with_the_public_key),
    "for too long": ("TOKEN_LIFETIME_REFUSED", lambda one: bearer(one.job(exp=now(one) + 25 * 3600))),
    "of 8 KiB and one": ("TOKEN_TOO_LARGE", lambda _: bearer("x" * 8193)),
    "of more than 8 KiB that is good": ("TOKEN_TOO_LARGE", lambda one: bearer(one.job(padding="x" * 8192))),
    "garbage": ("TOKEN_MALFORMED", lambda _: bearer("garbage")),
    "garbage of the right form": ("TOKEN_MALFORMED", lambda _: bearer("e30.e30.e30")),
    "no bearer token": ("TOKEN_MALFORMED", lambda _: [f"Basic {urlsafe_b64encode(b'a:b').decode()}"]),
    "two tokens": ("TOKEN_MALFORMED", lambda one: bearer(one.job()) + bearer(one.job())),
    "two tokens in one": ("TOKEN_MALFORMED", lambda one: [f"Bearer {one.job()}, Bearer {one.job()}"]),
    "of nobody's repository": ("PRINCIPAL_UNKNOWN", lambda one: bearer(one.job(repository_owner="acme-orgs"))),
    "of a person without a name": (
        "PRINCIPAL_UNKNOWN",
        lambda one: bearer(one.person("custodian", email_verified=False)),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_token_is_refused_with_its_reason_and_counted(world: TokenGateway, name: str) -> None:
    reason, make = REFUSED[name]
    values = make(world)
    counted = world.failures(reason)
    with world.channel() as channel:
        found = refusal(lambda: send(channel, *values))
    assert found[:2] == ("UNAUTHENTICATED", reason)
    assert world.failures(reason) == counted + 1


def test_every_refusal_is_recorded_and_no_token_is_written_down(world: TokenGateway) -> None:
    sent, start = [(reason, make(world)) for reason, make in REFUSED.values()], world.gateway.tree_size("audit")
    with world.channel() as channel:
        texts = [refusal(lambda values=values: send(channel, *values))[2] for _, values in sent]
    records = [one for one in world.records(start) if one["method"] == "IdentityService/WhoAmI"]
    assert [one["outcome"] for one in records] == [reason for reason, _ in sent]
    assert {(one["tenant"], one["subject"], one["address"]) for one in records} == {("", "", "127.0.0.1")}
    written = json.dumps(records) + "".join(texts) + world.gateway.log_lines()
    for part in (part for _, values in sent for value in values for part in re.split(r"[ .,]", value)):
        assert len(part) < 20 or part not in written


def test_what_is_longer_than_the_transport_takes_is_refused_by_it(world: TokenGateway) -> None:
    with world.channel() as channel:
        assert refusal(lambda: send(channel, *bearer("x" * 32_768)))[0] in ("RESOURCE_EXHAUSTED", "UNAVAILABLE")
        assert send(channel, *bearer(world.job()))


def test_a_token_that_was_used_is_refused_on_another_connection(world: TokenGateway) -> None:
    token, counted = world.job(), world.failures("TOKEN_REPLAYED")
    with world.channel() as first, world.channel() as second:
        assert send(first, *bearer(token))
        start = world.gateway.tree_size("audit")
        assert refusal(lambda: send(second, *bearer(token)))[:2] == ("UNAUTHENTICATED", "TOKEN_REPLAYED")
        assert send(first, *bearer(token))
    outcomes = [one["outcome"] for one in world.records(start) if one["method"] == "IdentityService/WhoAmI"]
    assert outcomes == ["TOKEN_REPLAYED", "OK"]
    assert world.failures("TOKEN_REPLAYED") == counted + 1


def test_a_token_together_with_a_certificate_is_refused(world: TokenGateway) -> None:
    connection, counted = world.gateway.connection("ci"), world.failures("TWO_IDENTITIES")
    start = world.gateway.tree_size("audit")
    with grpc.secure_channel(connection.endpoint, connection.credentials(), OWN_CONNECTION) as channel:
        found = refusal(lambda: send(channel, *bearer(world.job())))
        assert found[:2] == ("UNAUTHENTICATED", "TWO_IDENTITIES")
    assert "TWO_IDENTITIES" in [one["outcome"] for one in world.records(start)]
    assert world.failures("TWO_IDENTITIES") == counted + 1


def test_the_port_for_certificates_takes_nobody_with_a_token_alone(world: TokenGateway) -> None:
    with world.channel("grpc") as channel:
        assert refusal(lambda: send(channel, *bearer(world.job())))[0] == "UNAVAILABLE"


def test_a_caller_who_is_denied_while_the_request_is_held_back_signs_nothing(world: TokenGateway) -> None:
    key, token = world.new_key(TENANT), world.job(sub="repo:acme-org/app:denied")
    request = signing_pb2.SignRequest(key=key, content=CONTENT).SerializeToString()
    metadata = [("authorization", f"Bearer {token}")]
    with world.channel() as channel:
        raw: Any = channel
        requests: SimpleQueue[bytes | None] = SimpleQueue()
        assert send(raw, *bearer(token))
        held = raw.stream_unary("/sealkeeper.v1.SigningService/Sign").future(
            iter(requests.get, None), timeout=60, metadata=metadata
        )
        # The other call of this connection is answered after this one has come in.
        assert send(raw, *bearer(token))
        denied = world.gateway.directory.parent / "denied"
        denied.write_text(f"{world.jobs.url}#repo:acme-org/app:denied\n")
        while not _is_denied(raw, token):
            pass
        requests.put(request)
        requests.put(None)
        assert refusal(held.result)[:2] == ("UNAUTHENTICATED", "IDENTITY_DENIED")
    denied.write_text("")


def _is_denied(channel: Any, token: str) -> bool:
    try:
        return not send(channel, *bearer(token))
    except grpc.RpcError:
        return True


# Issuers.


def robot(issuer: Issuer) -> str:
    return issuer.token("person", AUDIENCE)


def reason(world: TokenGateway, token: str) -> str:
    """Of the refusal of a token; empty where there is none."""
    return ask(world.with_token(token), identity_pb2.WhoAmIRequest()).reason


def until(holds: Callable[[], bool]) -> None:
    """Ask until it holds; the gateway is about to take in what its issuer has just answered."""
    for _ in range(2000):
        if holds():
            return
    raise AssertionError


def next_request(issuer: Issuer) -> None:
    """Wait until the keys are asked for again, because they are getting old or for a token."""
    before = issuer.count(JWKS)
    issuer.wait_until(lambda: issuer.count(JWKS) > before)


def test_a_new_key_is_taken_and_one_that_is_withdrawn_is_not_taken_any_more(world: TokenGateway) -> None:
    issuer = world.lasting
    old, token = issuer.keys[-1], robot(issuer)
    assert reason(world, token) == ""
    issuer.rotate("ES256")
    fresh = robot(issuer)
    # An issuer is asked every ten seconds at most; until then the key is unknown.
    if reason(world, fresh) == "TOKEN_KEY_UNKNOWN":
        next_request(issuer)
        until(lambda: reason(world, fresh) == "")
    assert reason(world, token) == ""
    issuer.withdraw(old.kid)
    next_request(issuer)
    until(lambda: reason(world, token) == "TOKEN_KEY_UNKNOWN")
    assert reason(world, fresh) == ""


def test_callers_of_an_issuer_that_is_away_go_on_only_as_long_as_its_keys_may_be_used(world: TokenGateway) -> None:
    lasting, brief = robot(world.lasting), robot(world.brief)
    assert (reason(world, lasting), reason(world, brief)) == ("", "")
    for issuer in (world.lasting, world.brief):
        issuer.behave(AWAY)
    asked = world.lasting.count(DISCOVERY), world.brief.count(DISCOVERY)
    for issuer, before in zip((world.lasting, world.brief), asked, strict=True):
        issuer.wait_until(lambda issuer=issuer, before=before: issuer.count(DISCOVERY) > before)  # type: ignore[misc]
    until(lambda: reason(world, brief) == "ISSUER_UNAVAILABLE")
    outcome = ask(world.with_token(brief), identity_pb2.WhoAmIRequest())
    assert outcome.code == "UNAVAILABLE"
    assert reason(world, lasting) == ""
    assert reason(world, robot(world.lasting)) == ""
    assert reason(world, world.job()) == ""


# Who may do what.


@pytest.mark.parametrize("name", OF_TENANTS)
def test_a_role_by_token_may_do_what_its_row_says_in_its_own_tenant_and_nothing_in_another(
    world: TokenGateway, name: str
) -> None:
    make, allowed = OF_TENANTS[name]
    for tenant in TENANTS:
        key = world.new_key(tenant)
        for caller in TENANTS:
            for role in ROLES:
                outcome = world.ask(caller, role, make(key))
                wanted = ANSWERS.get(name, ("OK", "")) if caller == tenant and role in allowed else DENIED
                assert (outcome.code, outcome.reason) == wanted, (caller, role, key)


@pytest.mark.parametrize("name", OF_LOGS)
def test_logs_are_read_alike_by_a_role_by_token_of_every_tenant(world: TokenGateway, name: str) -> None:
    make, allowed = OF_LOGS[name]
    assert sign(world, world.new_key(TENANT)).code == "OK"
    for caller in TENANTS:
        for role in ROLES:
            outcome = world.ask(caller, role, make())
            assert (outcome.code, outcome.reason) == (("OK", "") if role in allowed else DENIED), (caller, role)


def sign(world: TokenGateway, key: str, **claims: Any) -> Outcome:
    return ask(world.with_token(world.job(**claims)), signing_pb2.SignRequest(key=key, content=CONTENT))


UNPROTECTED = {"ref": "refs/heads/topic", "ref_protected": "false"}
ASKED: dict[str, tuple[str | None, dict[str, Any], tuple[str, str]]] = {
    "its own key from a protected branch": (None, {}, ("OK", "")),
    "its own key from a protected tag": (None, {"ref": "refs/tags/v1", "ref_type": "tag"}, ("OK", "")),
    "its own key from another branch": (None, UNPROTECTED, DENIED),
    "its own key for a pull request": (None, {"event_name": "pull_request"}, DENIED),
    "its own key for a pull request with the secrets of its target": (
        None,
        {"event_name": "pull_request_target"},
        DENIED,
    ),
    "its own key without a word on protection": (None, {"ref_protected": ""}, DENIED),
    "its own key with another repository's job": (None, {"repository": "acme-org/other"}, DENIED),
    "the key of another tenant's repository": (OTHER_REPOSITORY, {}, DENIED),
    "a key of no repository": ("", {}, DENIED),
    "a key whose repository begins like its own": (f"{REPOSITORY}-two", {}, DENIED),
}


@pytest.mark.parametrize("name", ASKED)
def test_a_job_signs_with_keys_of_its_repository_from_protected_refs_alone(world: TokenGateway, name: str) -> None:
    repository, claims, wanted = ASKED[name]
    key = world.new_key(TENANT, repository)
    repository_claim = {"repository": claims.pop("repository")} if "repository" in claims else {}
    token = world.jobs.token("github", AUDIENCE, **{"repository": REPOSITORY, **repository_claim, **claims})
    outcome = ask(world.with_token(token), signing_pb2.SignRequest(key=key, content=CONTENT))
    assert (outcome.code, outcome.reason) == wanted


# People.


def compromise(client: Any, world: TokenGateway) -> str:
    """Propose that a key's first version be compromised; the proposal."""
    key = world.new_key(TENANT)
    with pytest.raises(ClientError) as caught:
        client.set_key_version_state(f"{key}/versions/1", COMPROMISED)
    return proposed(caught.value)


def first(world: TokenGateway) -> str:
    return world.person("custodian", sub=FIRST)


def test_a_person_with_a_token_approves_with_the_key_that_the_settings_name(world: TokenGateway) -> None:
    with world.gateway.client("custodian") as proposer, world.client(first(world)) as approver:
        proposal = compromise(proposer, world)
        decided = decide(approver, proposal, world.approval_key)
    assert decided.state == EXECUTED
    [approval] = decided.approvals
    assert (approval.person, approval.subject) == ("first", f"{world.people.url}#{FIRST}")
    assert approval.decision == approval_pb2.APPROVAL_DECISION_APPROVE


def test_a_person_approves_of_nothing_of_their_own_by_whatever_proves_them(world: TokenGateway) -> None:
    role = add_person(world.gateway.directory, Role.CUSTODIAN, "first")
    by_certificate = world.gateway.directory / "clients" / role / "key.pem"
    with world.gateway.client(role) as certificate, world.client(first(world)) as token:
        for proposer, approver, key in (
            (certificate, token, world.approval_key),
            (token, certificate, by_certificate),
            (token, certificate, world.approval_key),
        ):
            proposal = compromise(proposer, world)
            with pytest.raises(ClientError) as caught:
                decide(approver, proposal, key)
            assert caught.value.reason == "SELF_APPROVAL"


def test_a_person_with_a_token_and_no_key_in_the_settings_approves_of_nothing(world: TokenGateway) -> None:
    with world.gateway.client("custodian") as proposer, world.client(world.person("admin")) as approver:
        proposal = compromise(proposer, world)
        with pytest.raises(ClientError) as caught:
            decide(approver, proposal, world.approval_key)
    assert caught.value.reason == "APPROVAL_KEY_UNKNOWN"


def test_a_person_logs_in_is_known_and_logs_out(world: TokenGateway, tmp_path: Path) -> None:
    world.people.on_login = lambda code: world.people.approve(code, groups=["acme custodian"])
    settings = tmp_path / "client.toml"
    settings.write_text(
        f'endpoint = "{world.gateway.addresses["tokens"]}"\nca = "{world.ca}"\ntenant = "{TENANT}"\n'
        f'login_issuer = "{world.people.url}"\nlogin_client_id = "{world.people.client_id}"\n'
    )
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SEALKEEPER_", "GITHUB_", "GITLAB_", "BUILDKITE", "CIRCLE"))
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, "--config", str(settings), *arguments, "--json"]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**environment, "XDG_STATE_HOME": str(tmp_path)},
        )

    assert run("whoami").returncode == 2
    assert json.loads(run("login").stdout)["subject"] == FIRST
    who = json.loads(run("whoami").stdout)["principal"]
    assert (who["person"], who["role"], who["method"]) == ("first", "custodian", "TOKEN")
    assert who["subject"] == f"{world.people.url}#{FIRST}"
    out = json.loads(run("logout").stdout)
    assert (out["removed"], out["revoked"]) == (True, True)
    assert run("whoami").returncode == 2
