"""Who asks is told to the registry that wants to know, and to nobody else."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealkeeper.registry import ConfigFiles, Credentials, Deadline, Registry, attach_bundle
from sealkeeper.registry.authorization import parse_challenge
from sealkeeper.registry.errors import (
    AddressRefusedError,
    MalformedError,
    PlaintextRefusedError,
    RedirectRefusedError,
    RegistryDeniedError,
    RegistryError,
    RegistryUnavailableError,
    TooLargeError,
)
from tests.registry.attached import account_file, bundle_json, named, push_image
from tests.registry.scripted_registry import Handler, Reply, ScriptedRegistry
from tests.registry.token_service import ISSUER, SERVICE, TokenService, token_service
from tests.stores.docker_registry import DockerRegistry, TokenAuth, docker_registry
from tests.stores.openbao import make_certificates


@pytest.fixture
def service(tmp_path: Path) -> Iterator[TokenService]:
    make_certificates(tmp_path)
    with token_service(tmp_path) as running:
        running.accounts["ci"] = "the password"
        running.refresh_tokens.add("the refresh token")
        yield running


@pytest.fixture
def guarded(service: TokenService, tmp_path: Path) -> Iterator[DockerRegistry]:
    token = TokenAuth(service.realm, SERVICE, ISSUER, tmp_path / "ca.pem")
    with docker_registry(tmp_path / "data", token=token) as running:
        yield running


def test_a_real_registry_takes_the_token_that_a_password_gets(
    guarded: DockerRegistry, service: TokenService, tmp_path: Path, deadline: Deadline
) -> None:
    auth = base64.b64encode(b"ci:the password").decode()
    files = ConfigFiles((account_file(tmp_path, {"auths": {guarded.host: {"auth": auth}}}),))
    registry, reference = Registry(files, proxies={}), named(guarded, "acme/app:1.0")
    push_image(registry, reference, deadline)
    attach_bundle(registry, reference, bundle_json(), "", deadline)
    registry.resolve(reference, deadline)
    # One to write and one to read, however much is asked for with each.
    assert [one["scope"] for _, one in service.asked] == [
        "repository:acme/app:pull,push",
        "repository:acme/app:pull",
    ]


def test_a_real_registry_takes_the_token_that_an_identity_token_gets(
    guarded: DockerRegistry, service: TokenService, tmp_path: Path, deadline: Deadline
) -> None:
    entry = {"auth": "", "identitytoken": "the refresh token"}
    files = ConfigFiles((account_file(tmp_path, {"auths": {guarded.host: entry}}),))
    push_image(Registry(files, proxies={}), named(guarded, "acme/app:1.0"), deadline)
    [(method, parameters)] = service.asked
    assert (method, parameters["grant_type"]) == ("POST", "refresh_token")


def test_a_wrong_password_is_denied_without_a_word_of_it(
    guarded: DockerRegistry, tmp_path: Path, deadline: Deadline
) -> None:
    entry = {"username": "ci", "password": "a guess"}
    files = ConfigFiles((account_file(tmp_path, {"auths": {guarded.host: entry}}),))
    for registry in (Registry(files, proxies={}), Registry(proxies={})):
        with pytest.raises(RegistryDeniedError) as refused:
            registry.resolve(named(guarded, "acme/app:1.0"), deadline)
        assert "guess" not in str(refused.value)
        assert "secret" not in str(refused.value)


class Known:
    """Credentials that a test says."""

    def __init__(self, found: Credentials | None = None) -> None:
        self.found = found or Credentials("ci", "the password")

    def find(self, *_: object) -> Credentials | None:
        return self.found


def challenging(scripted: ScriptedRegistry, challenge: str) -> None:
    def authorize(handler: Handler) -> Reply | None:
        good = handler.headers.get("Authorization") == "Bearer good"
        return None if good else Reply(401, b"", {"WWW-Authenticate": challenge})

    scripted.authorize = authorize


def bearer(realm: str) -> str:
    return f'Bearer realm="{realm}",service="tests",scope="repository:acme/app:pull"'


@pytest.mark.parametrize(
    ("realm", "expected"),
    [
        ("https://169.254.169.254/latest/api/token", AddressRefusedError),
        ("https://[fe80::1]/token", AddressRefusedError),
        ("http://169.254.169.254/latest/api/token", PlaintextRefusedError),
        ("http://tokens.example/token", PlaintextRefusedError),
        ("file:///etc/passwd", RedirectRefusedError),
        ("https://user:word@tokens.example/", RedirectRefusedError),
        ("", RedirectRefusedError),
        ("/token", RedirectRefusedError),
    ],
)
def test_a_realm_where_nobody_must_ask_is_refused(
    scripted: ScriptedRegistry, deadline: Deadline, realm: str, expected: type[RegistryError]
) -> None:
    challenging(scripted, bearer(realm))
    with pytest.raises(expected):
        Registry(Known(), proxies={}).resolve(named(scripted, "acme/app:1.0"), deadline)


def test_a_realm_that_redirects_is_refused(scripted: ScriptedRegistry, deadline: Deadline) -> None:
    challenging(scripted, bearer(f"{scripted.url}/token"))
    scripted.replies["/token"] = Reply(307, b"", {"Location": "https://elsewhere.example/"})
    with pytest.raises(RedirectRefusedError):
        Registry(Known(), proxies={}).resolve(named(scripted, "acme/app:1.0"), deadline)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(200, b"{}"), MalformedError),
        (Reply(200, b"no JSON"), MalformedError),
        (Reply(200, b'{"token": 1}'), MalformedError),
        (Reply(200, json.dumps({"token": "a\r\nX-Injected: 1"}).encode()), MalformedError),
        (Reply(200, b" " * 1_000_000), TooLargeError),
        (Reply(403), RegistryDeniedError),
        (Reply(500), RegistryUnavailableError),
        (Reply(200, b'{"token": "bad"}'), RegistryDeniedError),
    ],
)
def test_a_token_service_that_gives_no_good_token_is_refused(
    scripted: ScriptedRegistry, deadline: Deadline, reply: Reply, expected: type[RegistryError]
) -> None:
    challenging(scripted, bearer(f"{scripted.url}/token"))
    scripted.replies["/token"] = reply
    with pytest.raises(expected):
        Registry(Known(), proxies={}).resolve(named(scripted, "acme/app:1.0"), deadline)
    # It does not go on asking.
    assert len(scripted.seen) <= 3


def test_a_token_is_used_until_it_ends(scripted: ScriptedRegistry, deadline: Deadline) -> None:
    challenging(scripted, bearer(f"{scripted.url}/token"))
    scripted.replies["/token"] = Reply(200, b'{"token": "good", "expires_in": 100}')
    scripted.push_image("acme/app", "1.0")
    scripted.push_image("acme/other", "1.0")
    now = [1000.0]
    registry = Registry(Known(), proxies={}, clock=lambda: now[0])

    def asked_for_tokens() -> int:
        return sum(path.startswith("/token") for path in scripted.paths())

    registry.resolve(named(scripted, "acme/app:1.0"), deadline)
    registry.resolve(named(scripted, "acme/app:1.0"), deadline)
    assert asked_for_tokens() == 1
    registry.resolve(named(scripted, "acme/other:1.0"), deadline)
    assert asked_for_tokens() == 2
    now[0] += 95
    registry.resolve(named(scripted, "acme/app:1.0"), deadline)
    assert asked_for_tokens() == 3


def test_nobody_is_told_a_password_that_is_for_another_registry(
    scripted: ScriptedRegistry, tmp_path: Path, deadline: Deadline
) -> None:
    challenging(scripted, 'Basic realm="tests"')
    files = ConfigFiles((account_file(tmp_path, {"auths": {"ghcr.io": {"username": "ci", "password": "word"}}}),))
    with pytest.raises(RegistryDeniedError):
        Registry(files, proxies={}).resolve(named(scripted, "acme/app:1.0"), deadline)
    assert {one.authorization for one in scripted.seen} == {""}


@pytest.mark.parametrize("challenge", ["", "Negotiate", "Digest realm=x", "Bearerrealm=x", "Basic " + "x" * 10_000])
def test_a_challenge_that_is_not_known_is_refused(
    scripted: ScriptedRegistry, deadline: Deadline, challenge: str
) -> None:
    challenging(scripted, challenge)
    with pytest.raises(MalformedError):
        Registry(Known(), proxies={}).resolve(named(scripted, "acme/app:1.0"), deadline)


@pytest.mark.parametrize(
    "text", ['Basic realm="x", Bearer realm="y"', 'Bearer realm="y", Basic realm="x"', 'Negotiate, Bearer realm="y"']
)
def test_a_token_is_preferred_to_a_password(text: str) -> None:
    assert parse_challenge(text, "registry.example") == ("bearer", {"realm": "y"})


def test_the_parameters_of_a_challenge_are_read() -> None:
    text = 'bearer realm="https://auth.example/token", service=registry.example , scope="repository:a/b:pull,push"'
    assert parse_challenge(text, "registry.example") == (
        "bearer",
        {
            "realm": "https://auth.example/token",
            "service": "registry.example",
            "scope": "repository:a/b:pull,push",
        },
    )
