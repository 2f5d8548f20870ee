"""Keys of an issuer: where they may come from, how often they are asked for, how long they are good."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from pydantic import ValidationError

from sealkeeper.server import issuer_keys
from sealkeeper.server.errors import (
    ConfigurationError,
    IssuerUnavailableError,
    OverloadedError,
    SealkeeperError,
    UnauthenticatedError,
)
from sealkeeper.server.identity import Caller
from sealkeeper.server.identity_settings import IssuerSettings
from sealkeeper.server.issuer_keys import MAX_WAITING, IssuerKeys, read_keys
from sealkeeper.server.local_ca import LocalCa, host_names
from sealkeeper.server.people import People
from sealkeeper.server.token_identity import TokenAuthenticator
from sealkeeper.verify.strict_json import JsonError
from tests.oidc_issuer import AWAY, BROKEN, DISCOVERY, JWKS, SLOW, WELL, Issuer, Reply, oidc_issuer

RULE = {"claims": {"sub": "*"}, "tenant": "acme", "role": "ci"}
AUDIENCE = "https://gateway.example"
Make = Callable[..., IssuerKeys]


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def settings(issuer: Issuer, **more: Any) -> IssuerSettings:
    return IssuerSettings.model_validate({"issuer": issuer.url, "principals": [RULE], **more})


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with oidc_issuer() as issuer:
        yield issuer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture
async def make(issuer: Issuer, clock: Clock) -> AsyncIterator[Make]:
    made: list[IssuerKeys] = []

    def make(**more: Any) -> IssuerKeys:
        made.append(IssuerKeys("one", settings(issuer, **more), clock))
        return made[-1]

    yield make
    for one in made:
        await one.close()


async def refusal(keys: IssuerKeys, kid: str) -> SealkeeperError:
    with pytest.raises(SealkeeperError) as caught:
        await keys.find(kid)
    return caught.value


async def refreshed(keys: IssuerKeys) -> None:
    """Wait for the refresh that is under way."""
    task = keys._refreshing
    assert task is not None
    await task


# Where they come from.


async def test_keys_are_found_by_discovery(issuer: Issuer, make: Make) -> None:
    (found,) = await make().find(issuer.keys[0].kid)
    assert (found.kid, found.algorithms) == (issuer.keys[0].kid, frozenset({"RS256"}))
    assert [path for _, path in issuer.seen] == [DISCOVERY, JWKS]


async def test_keys_at_a_url_of_the_settings_need_no_discovery(issuer: Issuer, make: Make) -> None:
    assert await make(jwks_uri=f"{issuer.url}{JWKS}").find(issuer.keys[0].kid)
    assert [path for _, path in issuer.seen] == [JWKS]


async def test_keys_of_a_file_are_read_again_when_it_changes(
    issuer: Issuer, make: Make, clock: Clock, tmp_path: Path
) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": issuer.published}))
    keys = make(jwks_file=file)
    await keys.start()
    (first,) = await keys.find(issuer.keys[0].kid)
    new = issuer.rotate()
    issuer.withdraw(first.kid)
    file.write_text(json.dumps({"keys": issuer.published}))
    clock.seconds += issuer_keys.PACE
    assert await keys.find(new.kid)
    assert not keys.holds(first)
    assert issuer.seen == []


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"keys":{}}', b"x" * (issuer_keys.MAX_DOCUMENT + 1)])
async def test_a_file_that_is_no_key_set_keeps_the_gateway_from_starting(
    make: Make, tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "jwks.json").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"issuers\.one\.jwks_file"):
        await make(jwks_file=tmp_path / "jwks.json").start()


def test_a_ca_file_that_is_none_keeps_the_gateway_from_starting(issuer: Issuer, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("hello")
    for file in (tmp_path / "ca.pem", tmp_path / "absent.pem"):
        with pytest.raises(ConfigurationError, match=r"issuers\.one\.ca"):
            IssuerKeys("one", settings(issuer, ca=file))


async def test_over_tls_the_issuer_must_be_certified_by_the_ca_of_the_settings(tmp_path: Path) -> None:
    authority = LocalCa.create("gateway.example", datetime.now(UTC))
    issued = authority.issue_server(host_names(["localhost"]), datetime.now(UTC), timedelta(days=1))
    issued.write(tmp_path / "cert.pem", tmp_path / "key.pem")
    authority.pair.write(tmp_path / "ca.pem", tmp_path / "ca.key")
    with oidc_issuer(tmp_path / "cert.pem", tmp_path / "key.pem") as issuer:
        keys = IssuerKeys("one", settings(issuer, ca=tmp_path / "ca.pem"))
        assert await keys.find(issuer.keys[0].kid)
        stranger = IssuerKeys("one", settings(issuer))
        assert isinstance(await refusal(stranger, issuer.keys[0].kid), IssuerUnavailableError)
        assert "TLS" in stranger.problem
        await asyncio.gather(keys.close(), stranger.close())


def _discovery(issuer: Issuer, /, **changes: Any) -> Reply:
    return Reply.of({**issuer.discovery(), **changes})


BAD: dict[str, Callable[[Issuer], tuple[str, Reply]]] = {
    "another issuer's document": lambda one: (DISCOVERY, _discovery(one, issuer="https://example.org")),
    "an issuer with a slash more": lambda one: (DISCOVERY, _discovery(one, issuer=f"{one.url}/")),
    "no keys' URL": lambda one: (DISCOVERY, _discovery(one, jwks_uri=None)),
    "a plaintext URL elsewhere": lambda one: (DISCOVERY, _discovery(one, jwks_uri="http://192.0.2.1/keys")),
    "a plaintext URL elsewhere that begins like one of this machine": lambda one: (
        DISCOVERY,
        _discovery(one, jwks_uri="http://127.0.0.1:80@192.0.2.1/keys"),
    ),
    "a file URL": lambda one: (DISCOVERY, _discovery(one, jwks_uri="file:///etc/passwd")),
    "a URL that is none": lambda one: (DISCOVERY, _discovery(one, jwks_uri="https://[")),
    "a redirect of the document": lambda one: (DISCOVERY, Reply(302, b"", {"Location": f"{one.url}/elsewhere"})),
    "a redirect of the keys": lambda one: (JWKS, Reply(307, b"", {"Location": f"{one.url}/elsewhere"})),
    "not found": lambda _: (JWKS, Reply(404, b"{}")),
    "an array": lambda _: (JWKS, Reply(200, b"[]")),
    "no JSON": lambda _: (JWKS, Reply(200, b"<html>")),
    "a name twice": lambda _: (JWKS, Reply(200, b'{"keys":[],"keys":[]}')),
    "NaN": lambda _: (JWKS, Reply(200, b'{"keys":[],"a":NaN}')),
    "too many keys": lambda one: (JWKS, Reply.of({"keys": [dict(one.keys[0].public)] * 101})),
    "too deep": lambda _: (JWKS, Reply(200, b'{"keys":' + b"[" * 100 + b"]" * 100 + b"}")),
    "too long": lambda _: (JWKS, Reply(200, b'{"keys":[]' + b" " * (1024 * 1024) + b"}")),
    "compressed": lambda one: (
        JWKS,
        Reply(200, gzip.compress(json.dumps({"keys": one.published}).encode()), {"Content-Encoding": "gzip"}),
    ),
    "no keys": lambda _: (JWKS, Reply.of({"keys": []})),
}


@pytest.mark.parametrize("name", BAD)
async def test_what_is_not_the_issuers_key_set_is_not_taken(issuer: Issuer, make: Make, name: str) -> None:
    path, reply = BAD[name](issuer)
    issuer.replies[path] = reply
    refused = await refusal(make(), issuer.keys[0].kid)
    assert (type(refused), refused.reason) == (IssuerUnavailableError, "ISSUER_UNAVAILABLE")
    assert issuer.count("/elsewhere") == 0


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("a plaintext URL elsewhere", "no https:// URL"),
        ("a plaintext URL elsewhere that begins like one of this machine", "no https:// URL"),
        ("a file URL", "no https:// URL"),
        ("a redirect of the keys", "status 307"),
        ("too long", "more than 1048576 bytes"),
        ("compressed", "compressed"),
        ("too many keys", "not what it should be"),
    ],
)
async def test_what_is_not_taken_is_said_to_the_operator(issuer: Issuer, make: Make, name: str, problem: str) -> None:
    path, reply = BAD[name](issuer)
    issuer.replies[path] = reply
    keys = make()
    await refusal(keys, issuer.keys[0].kid)
    assert problem in keys.problem


async def test_a_failure_is_logged_without_what_the_issuer_sent(
    issuer: Issuer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    issuer.replies[JWKS] = Reply(200, b"<html>unexpected words</html>", {"Content-Type": "text/html"})
    with caplog.at_level(logging.WARNING, "sealkeeper.issuers"):
        await refusal(make(), "x")
    assert "issuers.one" in caplog.text
    assert "unexpected words" not in caplog.text


# Which of them are used.


def rsa_jwk(size: int = 2048, **more: Any) -> dict[str, Any]:
    public = rsa.generate_private_key(65537, size).public_key()
    return {**RSAAlgorithm.to_jwk(public, as_dict=True), "key_ops": ["verify"], **more}


UNFIT: dict[str, Callable[[], dict[str, Any]]] = {
    "RSA of 1024 bits": lambda: rsa_jwk(1024),
    "RSA with an exponent that makes verifying slow": lambda: rsa_jwk(e="_" * 341),
    # What is missing of it would be computed for hours, with nothing else going on meanwhile.
    "RSA, with a private exponent of any length": lambda: rsa_jwk(n="x" * 300_000, d="x" * 300_001),
    "for encryption": lambda: rsa_jwk(use="enc"),
    "for signing alone": lambda: rsa_jwk(key_ops=["sign"]),
    "key_ops that are no list": lambda: rsa_jwk(key_ops="verify"),
    "an algorithm of another type": lambda: rsa_jwk(alg="ES256"),
    "an unknown algorithm": lambda: rsa_jwk(alg="RSA-OAEP"),
    "an algorithm that is no text": lambda: rsa_jwk(alg=["RS256"]),
    "a name that is no text": lambda: rsa_jwk(kid=7),
    "a name that is too long": lambda: rsa_jwk(kid="x" * 256),
    "a secret": lambda: {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"},
    "an unknown curve": lambda: {"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"},
    "a point that is not on the curve": lambda: {"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43},
    "numbers for texts": lambda: rsa_jwk(n=5),
    "no type": lambda: {"alg": "RS256"},
    "RSA, published with its private part": lambda: RSAAlgorithm.to_jwk(
        rsa.generate_private_key(65537, 2048), as_dict=True
    ),
    "published with its private part": lambda: ECAlgorithm.to_jwk(
        ec.generate_private_key(ec.SECP256R1()), as_dict=True
    ),
}


@pytest.mark.parametrize("name", UNFIT)
async def test_a_key_that_does_not_fit_is_not_used(issuer: Issuer, make: Make, name: str) -> None:
    unfit = {"kid": "unfit", **UNFIT[name]()}
    issuer.published.append(unfit)
    keys = make()
    assert await keys.find(issuer.keys[0].kid)
    assert (await refusal(keys, str(unfit["kid"]))).reason == "TOKEN_KEY_UNKNOWN"


async def test_a_key_that_names_no_algorithm_is_used_for_those_of_its_type(issuer: Issuer, make: Make) -> None:
    issuer.published.append(rsa_jwk(kid="any"))
    (found,) = await make().find("any")
    assert found.algorithms == {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}


async def test_a_token_without_a_key_name_is_of_the_only_key_or_of_none(
    issuer: Issuer, make: Make, clock: Clock
) -> None:
    keys = make()
    (found,) = await keys.find("")
    assert found.kid == issuer.keys[0].kid
    issuer.rotate()
    clock.seconds += issuer_keys.INTERVAL
    await refusal(keys, "other")
    assert (await refusal(keys, "")).reason == "TOKEN_KEY_UNKNOWN"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["RSA", "EC", "P-256"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["keys", "kty", "kid", "n", "e", "x", "y", "crv", "alg", "use"]), inner, max_size=6
        )
    ),
    max_leaves=12,
)


@given(st.binary(max_size=80) | JSON.map(lambda one: json.dumps(one).encode()) | JSON.map(lambda one: _set_of(one)))
def test_a_key_set_is_read_or_refused_whatever_it_holds(data: bytes) -> None:
    with contextlib.suppress(JsonError):
        assert all(key.algorithms for key in read_keys(data).values())


def _set_of(one: object) -> bytes:
    kinds = [{"kty": "RSA", "n": one, "e": one}, {"kty": "EC", "crv": "P-256", "x": one, "y": one}]
    return json.dumps({"keys": [one, *kinds, {"kty": "OKP", "crv": "Ed25519", "x": one}, {"kty": one}]}).encode()


def test_a_key_with_absurd_numbers_is_passed_over() -> None:
    zeros = base64.urlsafe_b64encode(bytes(400)).decode()
    huge = base64.urlsafe_b64encode(b"\xff" * 5000).decode()
    keys = [{"kty": "RSA", "n": n, "e": e} for n in (zeros, huge, "") for e in ("AA", "AQ", "AQAB", huge)]
    assert read_keys(json.dumps({"keys": keys}).encode()) == {}


# When they are asked for.


async def test_after_a_rotation_the_new_key_is_known_at_once_with_one_refresh(
    issuer: Issuer, make: Make, clock: Clock
) -> None:
    keys = make()
    (first,) = await keys.find(issuer.keys[0].kid)
    clock.seconds += issuer_keys.PACE
    new = issuer.rotate()
    assert await keys.find(new.kid)
    assert issuer.count(JWKS) == 2
    assert keys.holds(first)


async def test_a_key_that_is_withdrawn_is_refused_after_the_refresh(issuer: Issuer, make: Make, clock: Clock) -> None:
    keys = make()
    (first,) = await keys.find(issuer.keys[0].kid)
    new = issuer.rotate()
    issuer.withdraw(first.kid)
    clock.seconds += issuer_keys.PACE
    await keys.find(new.kid)
    assert not keys.holds(first)
    assert (await refusal(keys, first.kid)).reason == "TOKEN_KEY_UNKNOWN"


async def test_a_remembered_token_of_a_withdrawn_key_is_refused(issuer: Issuer, clock: Clock) -> None:
    now = datetime.now(UTC)
    tokens = TokenAuthenticator("gateway.example", {"one": settings(issuer)}, People({}, {}), now, clock)

    async def ask(token: str) -> Any:
        return await tokens.authenticate(Caller({}, {"authorization": f"Bearer {token}"}, "ipv4:127.0.0.1:1"), now)

    old = issuer.token("person", AUDIENCE)
    principal = await ask(old)
    issuer.rotate()
    clock.seconds += issuer_keys.PACE
    await ask(issuer.token("person", AUDIENCE))
    assert await ask(old) is principal
    issuer.withdraw(issuer.keys[0].kid)
    issuer.rotate()
    clock.seconds += issuer_keys.PACE
    await ask(issuer.token("person", AUDIENCE))
    with pytest.raises(UnauthenticatedError) as caught:
        await ask(old)
    assert caught.value.reason == "TOKEN_KEY_UNKNOWN"
    await tokens.close()


async def test_a_flood_of_unknown_names_asks_the_issuer_once_in_ten_seconds(
    issuer: Issuer, make: Make, clock: Clock
) -> None:
    keys = make()
    await keys.find(issuer.keys[0].kid)
    for second in range(1, 31):
        clock.seconds += 1
        for number in range(20):
            assert (await refusal(keys, f"{second}-{number}")).reason == "TOKEN_KEY_UNKNOWN"
        assert issuer.count(JWKS) == 1 + second // 10
    assert await keys.find(issuer.keys[0].kid)


async def test_calls_that_wait_share_one_refresh_and_are_bounded(issuer: Issuer, make: Make) -> None:
    issuer.behave(SLOW)
    keys = make()
    waiting = [asyncio.create_task(keys.find(issuer.keys[0].kid)) for _ in range(MAX_WAITING)]
    while keys._waiting < MAX_WAITING:
        await asyncio.sleep(0)
    refused = await refusal(keys, issuer.keys[0].kid)
    assert (type(refused), refused.reason) == (OverloadedError, "OVERLOADED")
    waiting[0].cancel()
    issuer.behave(WELL)
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert len({id(answer[0]) for answer in answers[1:] if isinstance(answer, tuple)}) == 1
    assert issuer.count(JWKS) == 1
    assert keys._waiting == 0


@pytest.mark.parametrize(("max_age", "good_for"), [(None, 600), (60, 60), (0, 10), (86400, 600)])
async def test_keys_are_asked_for_again_when_their_time_is_up_and_used_meanwhile(
    issuer: Issuer, make: Make, clock: Clock, max_age: int | None, good_for: int
) -> None:
    issuer.max_age = max_age
    keys = make()
    await keys.find(issuer.keys[0].kid)
    clock.seconds += good_for
    await keys.find(issuer.keys[0].kid)
    assert keys._refreshing is None
    clock.seconds += 0.5
    issuer.behave(SLOW)
    assert await keys.find(issuer.keys[0].kid)
    issuer.behave(WELL)
    await refreshed(keys)
    assert issuer.count(JWKS) == 2


async def test_keys_are_asked_for_before_their_time_is_up_without_a_call(
    issuer: Issuer, make: Make, clock: Clock
) -> None:
    keys = make()
    await keys.start()
    await refreshed(keys)
    assert keys._timer is not None
    due = keys._timer.when() - asyncio.get_running_loop().time()
    assert 470 < due <= 480
    clock.seconds += 481
    keys._on_time()
    await refreshed(keys)
    assert issuer.count(JWKS) == 2


async def test_a_start_does_not_wait_for_an_issuer_that_is_away(issuer: Issuer, make: Make) -> None:
    issuer.behave(SLOW)
    keys = make()
    await keys.start()
    assert keys._refreshing is not None
    await keys.close()
    assert keys._timer is None


# While the issuer is away.


@pytest.mark.parametrize("behaviour", [AWAY, BROKEN])
async def test_known_keys_are_used_while_the_issuer_is_away_and_not_for_ever(
    issuer: Issuer, make: Make, clock: Clock, behaviour: str
) -> None:
    keys = make(stale=timedelta(hours=1))
    (known,) = await keys.find(issuer.keys[0].kid)
    issuer.behave(behaviour)
    clock.seconds += issuer_keys.INTERVAL + 3600
    assert await keys.find(known.kid) == (known,)
    assert keys.holds(known)
    clock.seconds += 1
    assert not keys.holds(known)
    refused = await refusal(keys, known.kid)
    assert isinstance(refused, IssuerUnavailableError)
    assert refused.retry_after is not None
    issuer.behave(WELL)
    clock.seconds += issuer_keys.PACE
    assert await keys.find(known.kid) == (known,)


async def test_a_name_that_is_not_known_while_the_issuer_is_away_may_be_good(
    issuer: Issuer, make: Make, clock: Clock
) -> None:
    keys = make()
    await keys.find(issuer.keys[0].kid)
    new = issuer.rotate()
    issuer.behave(AWAY)
    clock.seconds += issuer_keys.PACE
    assert (await refusal(keys, new.kid)).reason == "ISSUER_UNAVAILABLE"
    asked = len(issuer.seen)
    assert (await refusal(keys, new.kid)).reason == "ISSUER_UNAVAILABLE"
    assert len(issuer.seen) == asked


async def test_an_issuer_that_does_not_answer_is_waited_for_a_bounded_time(
    issuer: Issuer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer_keys, "TIMEOUT", 0.2)
    issuer.behave(SLOW)
    keys = make()
    assert (await refusal(keys, issuer.keys[0].kid)).reason == "ISSUER_UNAVAILABLE"
    assert keys.problem == "were not had in time"


async def test_an_issuer_that_withdraws_all_its_keys_has_none(issuer: Issuer, make: Make, clock: Clock) -> None:
    keys = make()
    (known,) = await keys.find(issuer.keys[0].kid)
    issuer.published.clear()
    clock.seconds += issuer_keys.PACE
    assert (await refusal(keys, "other")).reason == "ISSUER_UNAVAILABLE"
    assert not keys.holds(known)


async def test_of_keys_with_one_name_few_are_tried(issuer: Issuer, make: Make) -> None:
    issuer.published = [rsa_jwk(kid="same") for _ in range(5)]
    assert len(await make().find("same")) == 4


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:80@192.0.2.1",
        "https://first@login.example.org",
        "https://login.example.org#",
        "https://login.example.org#a",
        "http://localhost.example.org",
    ],
)
def test_an_issuer_is_a_url_of_one_host_and_has_no_fragment(url: str) -> None:
    rules = [{"claims": {"sub": "*"}, "tenant": "acme", "role": "ci"}]
    with pytest.raises(ValidationError, match=r"https:// URL|fragment"):
        IssuerSettings.model_validate({"issuer": url, "principals": rules})
