"""Logins of people by the device authorization grant, against a real issuer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sealkeeper.client.cli import run
from sealkeeper.client.connection import Connection, LoginSettings
from sealkeeper.client.errors import ConfigurationError
from sealkeeper.client.login import LoginTokens, begin, discover, keep, kept_login, wait
from sealkeeper.client.token_file import KeptLogin, TokenFile
from sealkeeper.client.token_source import TokenUnavailableError, claims_of
from tests.oidc_issuer import BROKEN, DISCOVERY, WELL, Issuer, Reply, oidc_issuer

COMMAND = [sys.executable, "-m", "sealkeeper.client.cli"]


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with oidc_issuer() as one:
        one.on_login = lambda code: one.approve(code, sub="248289761001")
        yield one


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TokenFile:
    for name in [name for name in os.environ if name.startswith("SEALKEEPER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return TokenFile.of()


def settings_of(issuer: Issuer, token: str = "", audience: str = "") -> LoginSettings:
    return LoginSettings(issuer.url, issuer.client_id, token, audience)


def logged_in(issuer: Issuer, settings: LoginSettings, sleeps: list[float] | None = None) -> KeptLogin:
    found = discover(settings.issuer)
    sleep = (lambda _: None) if sleeps is None else sleeps.append
    return wait(found, settings, begin(found, settings), sleep=sleep)


def refused(call: Any) -> TokenUnavailableError:
    with pytest.raises(TokenUnavailableError) as caught:
        call()
    assert caught.value.reason == "TOKEN_UNAVAILABLE"
    assert caught.value.next_step
    return caught.value


def options(issuer: Issuer) -> list[str]:
    return ["--login-issuer", issuer.url, "--login-client-id", issuer.client_id]


def test_a_login_gives_the_tokens_that_the_issuer_made_for_the_person(issuer: Issuer) -> None:
    kept = logged_in(issuer, settings_of(issuer))
    assert claims_of(kept.id_token)["sub"] == "248289761001"
    assert claims_of(kept.id_token)["aud"] == issuer.client_id
    assert (kept.text, kept.refresh_token != "") == (kept.id_token, True)
    assert not any(one in repr(kept) for one in (kept.id_token, kept.access_token, kept.refresh_token))


def test_the_issuer_says_how_often_it_is_asked(issuer: Issuer) -> None:
    issuer.interval, issuer.slow_downs = 3, 2
    sleeps: list[float] = []
    logged_in(issuer, settings_of(issuer), sleeps)
    assert sleeps == [3.0, 8.0, 13.0]


def test_it_goes_on_asking_until_the_person_has_decided(issuer: Issuer) -> None:
    issuer.on_login = lambda _: None
    found = discover(issuer.url)
    code = begin(found, settings_of(issuer))
    asked: list[float] = []

    def sleep(seconds: float) -> None:
        asked.append(seconds)
        if len(asked) == 3:
            issuer.approve(code.user_code)

    assert wait(found, settings_of(issuer), code, sleep=sleep).id_token
    assert len(asked) == 3
    assert code.device_code not in repr(code)


@pytest.mark.parametrize(("decide", "said"), [("deny", "refused in the browser"), ("expire", "in time")])
def test_a_login_that_comes_to_nothing_is_told(issuer: Issuer, decide: str, said: str) -> None:
    issuer.on_login = getattr(issuer, decide)
    assert said in str(refused(lambda: logged_in(issuer, settings_of(issuer))))


def test_nobody_is_waited_for_longer_than_the_code_lasts(issuer: Issuer) -> None:
    issuer.on_login = lambda _: None
    found = discover(issuer.url)
    code = replace(begin(found, settings_of(issuer)), lifetime=30.0, interval=10.0)
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    refused(lambda: wait(found, settings_of(issuer), code, sleep=sleep, clock=lambda: now))
    assert (now, issuer.polls) == (20.0, 2)


def test_an_issuer_that_is_away_for_a_moment_is_asked_less_often(issuer: Issuer) -> None:
    issuer.interval = 4
    found = discover(issuer.url)
    code = begin(found, settings_of(issuer))
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        issuer.behave("away" if len(waits) == 1 else WELL)

    assert wait(found, settings_of(issuer), code, sleep=sleep).id_token
    assert waits == [4.0, 8.0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"issuer": "https://other.example"}, "another issuer"),
        ({"token_endpoint": "http://issuer.example/token"}, "token_endpoint"),
        ({"token_endpoint": None}, "token_endpoint"),
        ({"device_authorization_endpoint": "file:///etc/passwd"}, "device_authorization_endpoint"),
        ({"device_authorization_endpoint": None}, "device authorization"),
    ],
)
def test_a_discovery_document_is_checked(issuer: Issuer, change: dict[str, Any], said: str) -> None:
    issuer.replies[DISCOVERY] = Reply.of({**issuer.discovery(), **change})
    assert said in str(refused(lambda: logged_in(issuer, settings_of(issuer))))


def test_an_issuer_must_be_https() -> None:
    assert "https" in str(refused(lambda: discover("http://issuer.example")))


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"device_code": "a", "user_code": "b", "verification_uri": "https://c"},
        {"device_code": "a", "user_code": "b", "verification_uri": "javascript:alert(1)", "expires_in": 60},
        {"device_code": "a", "user_code": "b" * 5000, "verification_uri": "https://c", "expires_in": 60},
        {"device_code": 1, "user_code": "b", "verification_uri": "https://c", "expires_in": 60},
    ],
)
def test_an_incomplete_answer_of_the_issuer_is_refused(issuer: Issuer, document: dict[str, Any]) -> None:
    issuer.replies["/device_authorization"] = Reply.of(document)
    refused(lambda: logged_in(issuer, settings_of(issuer)))


@pytest.mark.parametrize("claims", [{"iss": "https://other.example"}, {"aud": "other"}, {"aud": None}])
def test_an_id_token_for_somebody_else_is_not_kept(issuer: Issuer, claims: dict[str, Any]) -> None:
    issuer.replies["/token"] = Reply.of({"id_token": issuer.token("person", issuer.client_id, **claims)})
    assert "not for this client" in str(refused(lambda: logged_in(issuer, settings_of(issuer))))


def test_what_the_issuer_says_of_a_refusal_is_a_word_only(issuer: Issuer) -> None:
    for error, said in (("invalid_client", "invalid_client"), ("the token was abc.def", "HTTP status 400")):
        issuer.replies["/token"] = Reply.of({"error": error, "error_description": "secret"}, 400)
        text = str(refused(lambda: logged_in(issuer, settings_of(issuer))))
        assert (said in text, "secret" in text, "abc.def" in text) == (True, False, False)


def test_the_access_token_is_sent_where_that_is_wanted(issuer: Issuer, file: TokenFile) -> None:
    settings = settings_of(issuer, "access_token", "https://gateway.example.com")
    kept = logged_in(issuer, settings)
    assert claims_of(kept.text)["aud"] == "https://gateway.example.com"
    assert keep(kept, file).text == kept.access_token
    # What a setting says counts for a login that was made before it.
    other = kept_login(replace(settings, token="id_token"), {"XDG_STATE_HOME": str(file.folder.parent)})
    assert other is not None
    assert other.fetch().text == kept.id_token


def test_a_kept_login_is_renewed_before_its_token_ends(issuer: Issuer, file: TokenFile) -> None:
    issuer.lifetime = 20
    first = logged_in(issuer, settings_of(issuer))
    keep(first, file)
    issuer.lifetime = 300
    source = LoginTokens(settings_of(issuer), file)
    second = source.fetch()
    assert second.text != first.id_token
    assert (source.fetch(), source.renewable) == (second, True)
    found = file.find(issuer.url, issuer.client_id)
    assert found is not None
    assert (found.id_token, found.refresh_token != first.refresh_token) == (second.text, True)


def test_a_token_that_was_refused_is_renewed_though_it_has_not_ended(issuer: Issuer, file: TokenFile) -> None:
    keep(logged_in(issuer, settings_of(issuer)), file)
    source = LoginTokens(settings_of(issuer), file)
    first = source.fetch()
    assert source.fetch(renew=True).text != first.text


def test_calls_at_once_use_a_refresh_token_once(issuer: Issuer, file: TokenFile) -> None:
    issuer.lifetime = 20
    keep(logged_in(issuer, settings_of(issuer)), file)
    issuer.lifetime = 300
    sources = [LoginTokens(settings_of(issuer), file) for _ in range(4)]
    before = issuer.count("/token")
    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(lambda one: one.fetch().text, sources))
    assert (len(set(texts)), issuer.count("/token") - before) == (1, 1)


def test_a_login_that_was_ended_says_to_log_in_again(issuer: Issuer, file: TokenFile) -> None:
    issuer.lifetime = 20
    keep(logged_in(issuer, settings_of(issuer)), file)
    issuer.end_logins()
    error = refused(LoginTokens(settings_of(issuer), file).fetch)
    assert ("invalid_grant" in str(error), "sealkeeper login" in error.next_step) == (True, True)


def test_a_login_without_a_refresh_token_ends(issuer: Issuer, file: TokenFile) -> None:
    issuer.lifetime = 20
    found = discover(issuer.url)
    kept = wait(found, settings_of(issuer), begin(found, settings_of(issuer), "openid"), sleep=lambda _: None)
    keep(kept, file)
    assert "has ended" in str(refused(LoginTokens(settings_of(issuer), file).fetch))


def test_a_renewal_that_is_of_somebody_else_is_not_kept(issuer: Issuer, file: TokenFile) -> None:
    issuer.lifetime = 20
    kept = logged_in(issuer, settings_of(issuer))
    keep(kept, file)
    issuer.replies["/token"] = Reply.of({"id_token": issuer.token("person", issuer.client_id, sub="other")})
    assert "somebody else" in str(refused(LoginTokens(settings_of(issuer), file).fetch))
    assert file.find(issuer.url, issuer.client_id) == kept


def test_a_connection_takes_the_login_that_is_kept(issuer: Issuer, file: TokenFile, tmp_path: Path) -> None:
    environment = {
        "XDG_STATE_HOME": str(tmp_path),
        "SEALKEEPER_LOGIN_ISSUER": issuer.url,
        "SEALKEEPER_LOGIN_CLIENT_ID": issuer.client_id,
    }
    with pytest.raises(ConfigurationError, match="nobody is logged in"):
        Connection.load(endpoint="a:1", environment=environment, root=tmp_path)
    kept = logged_in(issuer, settings_of(issuer))
    keep(kept, file)
    connection = Connection.load(endpoint="a:1", environment=environment, root=tmp_path)
    assert connection.tokens is not None
    assert connection.tokens.fetch().text == kept.id_token


def test_the_command_shows_where_to_go_and_nothing_secret(
    issuer: Issuer, file: TokenFile, capfd: pytest.CaptureFixture[str]
) -> None:
    codes: list[str] = []

    def approve(code: str) -> None:
        codes.append(code)
        issuer.approve(code)

    issuer.on_login = approve
    assert run(["login", *options(issuer)]) == 0
    out, err = capfd.readouterr()
    assert (codes[0] in err, f"{issuer.url}/device" in err, "248289761001" in out) == (True, True, True)
    kept = file.read()[0]
    assert not any(one in out + err for one in (kept.id_token, kept.access_token, kept.refresh_token))
    assert run(["login", *options(issuer), "--access-token", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert (document["token"], document["renewable"], document["issuer"]) == ("access_token", True, issuer.url)
    assert file.read()[0].send == "access_token"


def test_logging_out_forgets_the_login_and_has_it_revoked(
    issuer: Issuer, file: TokenFile, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["login", *options(issuer)]) == 0
    kept = file.read()[0]
    capfd.readouterr()
    assert run(["logout", *options(issuer), "--json"]) == 0
    expected = {"issuer": issuer.url, "clientId": issuer.client_id, "removed": True, "revoked": True}
    assert json.loads(capfd.readouterr().out) == expected
    assert file.read() == []
    with file.locked():
        file.keep(replace(kept, id_token=""))
    assert "invalid_grant" in str(refused(LoginTokens(settings_of(issuer), file).fetch))


def test_logging_out_forgets_the_login_though_the_issuer_is_broken(
    issuer: Issuer, file: TokenFile, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["login", *options(issuer)]) == 0
    issuer.behave(BROKEN)
    assert run(["logout", *options(issuer)]) == 0
    assert "warning" in capfd.readouterr().err
    assert file.read() == []
    assert run(["logout", *options(issuer)]) == 0
    assert "nobody was logged in" in capfd.readouterr().out


def test_logging_in_needs_to_know_where(file: TokenFile, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["login", "--json"]) == 2
    assert json.loads(capfd.readouterr().out)["violations"][0]["field"] == "login_issuer"
    assert run(["login", "--login-issuer", "https://issuer.example", "--json"]) == 2
    assert "login_client_id" in json.loads(capfd.readouterr().out)["error"]


def test_who_gives_up_waiting_is_let_go(issuer: Issuer, file: TokenFile) -> None:
    issuer.on_login = lambda _: None
    issuer.interval = 60
    with subprocess.Popen([*COMMAND, "login", *options(issuer)], stderr=subprocess.PIPE, text=True) as process:
        issuer.next_login(60)
        assert process.stderr is not None
        # The line after which it waits.
        assert any("waiting" in line for line in iter(process.stderr.readline, ""))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert file.read() == []
