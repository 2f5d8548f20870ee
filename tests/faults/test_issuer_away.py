"""An issuer of tokens goes away, hangs or answers nonsense: who is known goes on, nobody else is held up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from sealkeeper.client import Client, Connection
from sealkeeper.client.errors import ClientError
from sealkeeper.client.identity_operations import who_am_i
from sealkeeper.client.token_source import FixedToken
from sealkeeper.server.errors import IssuerUnavailableError, OverloadedError, SealkeeperError
from sealkeeper.server.identity import Caller, Principal
from sealkeeper.server.identity_settings import IssuerSettings
from sealkeeper.server.issuer_keys import INTERVAL, MAX_WAITING, PACE
from sealkeeper.server.people import People
from sealkeeper.server.status import code_of
from sealkeeper.server.token_identity import TokenAuthenticator
from tests.e2e.running import ANY_PORT, DOMAIN, NO_RETRY, P256, PARENT, TENANT, Running
from tests.faults.load import Called, under_load
from tests.oidc_issuer import AWAY, BROKEN, DISCOVERY, JWKS, SLOW, WELL, Issuer, Reply, oidc_issuer

AUDIENCE = "https://gateway.example"
STALE = timedelta(hours=1)


class Door:
    """An authenticator that knows two issuers, and the time."""

    def __init__(self, *issuers: Issuer) -> None:
        self.passed = 0.0
        self._start = datetime.now(UTC).replace(microsecond=0)
        for issuer in issuers:
            issuer.now = lambda: self.now.timestamp()
        configured = {
            f"issuer{place}": IssuerSettings.model_validate(
                {
                    "issuer": issuer.url,
                    "stale": STALE,
                    "principals": [{"claims": {"sub": "*"}, "tenant": "acme", "role": "ci"}],
                }
            )
            for place, issuer in enumerate(issuers)
        }
        self.tokens = TokenAuthenticator(
            "gateway.example", configured, People({}, {}), self._start, lambda: 1000 + self.passed
        )

    @property
    def now(self) -> datetime:
        return self._start + timedelta(seconds=self.passed)

    async def ask(self, token: str) -> Principal:
        caller = Caller({}, {"authorization": f"Bearer {token}"}, "ipv4:192.0.2.1:50000")
        return await self.tokens.authenticate(caller, self.now)

    async def refusal(self, token: str) -> SealkeeperError:
        with pytest.raises(SealkeeperError) as caught:
            await self.ask(token)
        return caught.value


def token(issuer: Issuer) -> str:
    return issuer.token("person", AUDIENCE)


@pytest.fixture
def issuers() -> Iterator[tuple[Issuer, Issuer]]:
    with oidc_issuer() as first, oidc_issuer() as second:
        yield first, second


@pytest_asyncio.fixture
async def door(issuers: tuple[Issuer, Issuer]) -> AsyncIterator[Door]:
    made = Door(*issuers)
    yield made
    await made.tokens.close()


@pytest.mark.parametrize("behaviour", [AWAY, BROKEN])
async def test_a_gateway_that_starts_without_its_issuer_takes_tokens_once_it_is_there(
    issuers: tuple[Issuer, Issuer], door: Door, behaviour: str
) -> None:
    issuers[0].behave(behaviour)
    await door.tokens.start()
    refused = await door.refusal(token(issuers[0]))
    assert (type(refused), code_of(refused).name) == (IssuerUnavailableError, "UNAVAILABLE")
    assert refused.retry_after == timedelta(seconds=PACE)
    issuers[0].behave(WELL)
    door.passed += PACE
    assert await door.ask(token(issuers[0]))


@pytest.mark.parametrize("behaviour", [AWAY, BROKEN])
async def test_callers_of_an_issuer_that_is_away_go_on_for_as_long_as_the_settings_say(
    issuers: tuple[Issuer, Issuer], door: Door, behaviour: str
) -> None:
    await door.ask(token(issuers[0]))
    issuers[0].behave(behaviour)
    end = INTERVAL + STALE.total_seconds()
    while door.passed + 300 <= end:
        door.passed += 300
        assert await door.ask(token(issuers[0]))
    door.passed = end + 1
    assert (await door.refusal(token(issuers[0]))).reason == "ISSUER_UNAVAILABLE"
    issuers[0].behave(WELL)
    door.passed += PACE
    assert await door.ask(token(issuers[0]))


async def test_a_token_that_is_remembered_is_refused_too_once_the_keys_are_too_old(
    issuers: tuple[Issuer, Issuer], door: Door
) -> None:
    issuers[0].lifetime = 24 * 3600
    known = token(issuers[0])
    principal = await door.ask(known)
    issuers[0].behave(AWAY)
    door.passed = INTERVAL + STALE.total_seconds()
    assert await door.ask(known) is principal
    door.passed += 1
    assert (await door.refusal(known)).reason == "ISSUER_UNAVAILABLE"
    issuers[0].behave(WELL)
    door.passed += PACE
    assert await door.ask(known) is principal


async def test_an_issuer_that_hangs_holds_up_neither_another_nor_those_who_are_known(
    issuers: tuple[Issuer, Issuer], door: Door
) -> None:
    hanging, other = issuers
    known = token(hanging)
    await door.ask(known)
    hanging.behave(SLOW)
    door.passed += PACE
    hanging.rotate()
    waiting = [asyncio.create_task(door.ask(token(hanging))) for _ in range(MAX_WAITING + 10)]
    refused, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert {type(one.exception()) for one in refused} == {OverloadedError}
    assert await door.ask(token(other))
    assert await door.ask(known)
    hanging.behave(WELL)
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert sum(isinstance(one, Principal) for one in answers) == MAX_WAITING
    assert hanging.count(JWKS) == 2


async def test_nonsense_from_an_issuer_takes_no_key_away(issuers: tuple[Issuer, Issuer], door: Door) -> None:
    issuer = issuers[0]
    await door.ask(token(issuer))
    for asked, body in enumerate((b"", b"<html>", b"{}", b'{"keys":{}}', b"\xff" * 1000)):
        issuer.replies[JWKS] = Reply(200, body)
        door.passed += PACE
        start = int(door.now.timestamp())
        claims = {"iss": issuer.url, "aud": AUDIENCE, "sub": "x", "iat": start, "exp": start + 60}
        assert (await door.refusal(issuer.sign(claims, header={"kid": "unknown"}))).reason == "ISSUER_UNAVAILABLE"
        assert issuer.count(JWKS) == asked + 2
        assert await door.ask(token(issuer))


# A live gateway, under load.


def job(issuer: Issuer) -> str:
    return issuer.token("github", f"https://{DOMAIN}")


def connection(gateway: Running, issuer: Issuer) -> Connection:
    """Of a job with a token of its own: tokens stay with their connection."""
    tokens = FixedToken(job(issuer), "the test's token", "none")
    return Connection(gateway.addresses["tokens"], TENANT, gateway.directory / "tls" / "ca.pem", tokens=tokens)


def reason_for(gateway: Running, issuer: Issuer) -> str:
    """Why another job is refused; empty where it is not."""
    with Client(connection(gateway, issuer), retry=NO_RETRY) as client:
        try:
            client.call(who_am_i())
        except ClientError as error:
            return error.reason if error.retry_after else f"{error.reason}, and no time to come back"
    return ""


def test_under_load_those_who_are_known_sign_on_while_their_issuer_hangs_and_new_ones_once_it_is_back(
    tmp_path: Path,
) -> None:
    gateway = Running.make(tmp_path / "gateway")
    with oidc_issuer() as issuer:
        issuer.max_age = 10
        rules = f'principals = [{{ claims = {{ repository = "acme-org/app" }}, tenant = "{TENANT}", role = "ci" }}]'
        section = f'[issuers.jobs]\nissuer = "{issuer.url}"\nkind = "github"\n{rules}\n'
        gateway.change_settings(
            lambda text: text.replace("[http]", f'token_listen = "{ANY_PORT}"\n\n[http]', 1) + section
        )
        with gateway.running():
            with gateway.client("custodian") as custodian:
                labels = {"repository": "acme-org/app"}
                of_tokens = custodian.create_key(PARENT, "of-tokens", P256, labels=labels).key.name
            of_certificates = gateway.create_key("of-certificates")

            def signed(key: str) -> bool:
                load.until(lambda call: call.key == key and bool(call.version), 20)
                return True

            with under_load(gateway) as load:
                load.add(of_tokens, threads=2, every=2, connect=lambda: connection(gateway, issuer), pause=0.05)
                load.add(of_certificates, threads=2, every=2, pause=0.05)
                assert signed(of_tokens)
                asked = issuer.count(DISCOVERY)
                issuer.behave(SLOW)
                known, _ = issuer.keys[-1], issuer.rotate()
                # Its key is not known, and it is too early to ask; or the issuer does not answer.
                assert reason_for(gateway, issuer) in ("TOKEN_KEY_UNKNOWN", "ISSUER_UNAVAILABLE")
                issuer.wait_until(lambda: issuer.count(DISCOVERY) > asked)
                assert reason_for(gateway, issuer) == "ISSUER_UNAVAILABLE"
                issuer.keys.append(known)
                # A new token that is signed with a key that is known needs nobody.
                assert reason_for(gateway, issuer) == ""
                assert signed(of_tokens)
                assert signed(of_certificates)
                asked = issuer.count(JWKS)
                issuer.behave(WELL)
                issuer.keys.pop()
                issuer.wait_until(lambda: issuer.count(JWKS) > asked, 60)
                while reason_for(gateway, issuer):
                    pass
                assert signed(of_tokens)
                assert signed(of_certificates)
            assert refused(load.calls) == []


def refused(calls: list[Called]) -> list[str]:
    return [one.reason for one in calls if one.reason]
