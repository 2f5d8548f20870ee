"""Tokens of CI systems: each system is known by its variables, and its tokens are had in its way, within bounds."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.client.ci_identity import CommandTokens, GitHubTokens, detect
from sealkeeper.client.https import ask, checked_url
from sealkeeper.client.token_source import TokenSource, TokenUnavailableError
from tests.client.tls_folder import TlsFolder

AUDIENCE = "https://gateway.example.com"
TOKEN = "aaaa.bbbb.cccc"
SECRET = "the-request-token"


class Service:
    """A server over TLS that gives the answers it was told to, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes, dict[str, str]]] = []
        self.asked: list[tuple[str, dict[str, list[str]], str]] = []
        self.url = ""

    @contextmanager
    def serving(self, tls: TlsFolder) -> Iterator[None]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 30

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                service.asked.append((parts.path, parse_qs(parts.query), self.headers.get("Authorization", "")))
                status, body, headers = service.answers.pop(0)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                return

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.certificate, tls.key)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://localhost:{server.server_port}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join(10)


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    tls = TlsFolder.make(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tls.ca))
    one = Service()
    with one.serving(tls):
        yield one


def github(url: str) -> TokenSource:
    environment = {
        "GITHUB_ACTIONS": "true",
        "ACTIONS_ID_TOKEN_REQUEST_URL": url,
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": SECRET,
    }
    found = detect(environment, AUDIENCE)
    assert found is not None
    return found


def refused(source: TokenSource) -> TokenUnavailableError:
    with pytest.raises(TokenUnavailableError) as caught:
        source.fetch()
    assert caught.value.reason == "TOKEN_UNAVAILABLE"
    assert caught.value.next_step
    assert SECRET not in f"{caught.value}{caught.value.next_step}{caught.value!r}"
    return caught.value


def script(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_github_is_asked_for_a_token_for_the_gateway_alone(service: Service) -> None:
    service.answers = [(200, json.dumps({"value": TOKEN}).encode(), {})]
    source = github(f"{service.url}/oidc?api-version=2.0")
    assert source.fetch().text == TOKEN
    assert service.asked == [("/oidc", {"api-version": ["2.0"], "audience": [AUDIENCE]}, f"Bearer {SECRET}")]
    assert source.renewable
    assert SECRET not in repr(source)


def test_a_job_without_the_permission_is_told_which_one_it_lacks() -> None:
    with pytest.raises(TokenUnavailableError) as caught:
        detect({"GITHUB_ACTIONS": "true"}, AUDIENCE)
    assert "id-token: write" in caught.value.next_step


def test_the_request_token_of_github_does_not_follow_redirects(service: Service) -> None:
    service.answers = [(302, b"", {"Location": f"{service.url}/elsewhere"}), (200, b"{}", {})]
    assert "302" in str(refused(github(f"{service.url}/oidc?a=b")))
    assert [path for path, _, _ in service.asked] == ["/oidc"]


@pytest.mark.parametrize(
    "url", ["http://localhost:1/x?y", "file:///etc/passwd", "https://", "https://a@b/", "nonsense"]
)
def test_githubs_address_must_be_https(url: str) -> None:
    assert "ACTIONS_ID_TOKEN_REQUEST_URL" in str(refused(github(url)))


def test_a_request_token_that_cannot_be_sent_is_not_quoted(service: Service) -> None:
    refused(GitHubTokens(f"{service.url}/oidc?a=b", f"{SECRET}\nx", AUDIENCE))
    assert service.asked == []


def test_a_host_that_is_no_name_is_refused() -> None:
    refused(github("https://a..b/oidc?a=b"))


@given(st.text(max_size=50), st.sampled_from(["https://", "http://", "HTTPS://", ""]))
def test_what_is_asked_is_an_https_address_whatever_is_said(text: str, scheme: str) -> None:
    try:
        url = checked_url(scheme + text, "it")
    except TokenUnavailableError:
        return
    assert url.startswith("https://")
    assert urlsplit(url).hostname
    assert url.isprintable()


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b"no json",
        b'{"value": 3}',
        b'{"value": "a b"}',
        b'{"value": ""}',
        b'{"value": "a\\nb"}',
        b"[" * 9999,
    ],
)
def test_an_answer_of_github_without_a_token_is_refused(service: Service, body: bytes) -> None:
    service.answers = [(200, body, {})]
    refused(github(f"{service.url}/oidc?a=b"))


def test_an_answer_that_is_too_long_is_not_read_to_its_end(service: Service) -> None:
    service.answers = [(200, json.dumps({"value": "a" * 70_000}).encode(), {})]
    assert "64 KiB" in str(refused(github(f"{service.url}/oidc?a=b")))


def test_githubs_issuer_is_asked_again_where_it_is_broken_for_a_moment(service: Service) -> None:
    service.answers = [(503, b"", {}), (200, json.dumps({"value": TOKEN}).encode(), {})]
    waits: list[float] = []
    assert GitHubTokens(f"{service.url}/oidc?a=b", SECRET, AUDIENCE, waits.append).fetch().text == TOKEN
    assert len(waits) == 1


def test_an_issuer_that_nobody_vouches_for_is_not_asked(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    assert refused(github(f"{service.url}/oidc?a=b")).exit_code == 3
    assert service.asked == []


def test_plaintext_is_asked_on_this_machine_only_and_never_by_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    from tests.oidc_issuer import oidc_issuer

    with oidc_issuer() as issuer:
        assert ask(f"{issuer.url}/keys", "it", loopback=True).status == 200
        with pytest.raises(TokenUnavailableError, match="https"):
            ask(f"{issuer.url}/keys", "it")
    with pytest.raises(TokenUnavailableError, match="https"):
        ask("http://issuer.example/keys", "it", loopback=True)


def test_gitlab_says_how_a_job_declares_its_token() -> None:
    with pytest.raises(TokenUnavailableError) as caught:
        detect({"GITLAB_CI": "true"}, AUDIENCE)
    assert "id_tokens" in caught.value.next_step
    assert AUDIENCE in caught.value.next_step


def test_buildkites_agent_is_asked_without_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, "buildkite-agent", f'printf "%s\\n" "$@" > {tmp_path}/words; echo {TOKEN}')
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    audience = "https://gateway.example.com/$(touch x); x"
    found = detect({"BUILDKITE": "true"}, audience)
    assert found is not None
    assert (found.fetch().text, found.renewable) == (TOKEN, True)
    assert (tmp_path / "words").read_text().splitlines() == ["oidc", "request-token", "--audience", audience]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("exit 3", "exit code 3"),
        ("echo", "is empty"),
        ("echo two words", "does not hold a token"),
        ("exec cat /dev/zero", "64 KiB"),
        ("exec sleep 60", "too long"),
        ("exec >&-; exec sleep 60", "too long"),
    ],
)
def test_a_command_that_gives_no_token_is_ended_in_time(tmp_path: Path, text: str, said: str) -> None:
    command = script(tmp_path, "agent", text)
    assert said in str(refused(CommandTokens((str(command),), "look at the agent", timeout=1.0)))


def test_a_command_that_is_not_there_is_named() -> None:
    assert "cannot be run" in str(refused(CommandTokens(("/nowhere/agent",), "install it")))


def test_circlecis_tool_gives_a_token_for_the_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, "circleci", f'printf "%s\\n" "$@" > {tmp_path}/words; echo {TOKEN}')
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    environment = {"CIRCLECI": "true", "PATH": f"{tmp_path}", "CIRCLE_OIDC_TOKEN_V2": "other.token.here"}
    found = detect(environment, AUDIENCE)
    assert found is not None
    assert found.fetch().text == TOKEN
    *words, claims = (tmp_path / "words").read_text().splitlines()
    assert (words, json.loads(claims)) == (["run", "oidc", "get", "--claims"], {"aud": AUDIENCE})


def test_without_its_tool_circlecis_variable_counts(tmp_path: Path) -> None:
    found = detect({"CIRCLECI": "true", "PATH": str(tmp_path), "CIRCLE_OIDC_TOKEN_V2": TOKEN}, AUDIENCE)
    assert found is not None
    assert (found.fetch().text, found.renewable) == (TOKEN, False)
    assert TOKEN not in repr(found)
    with pytest.raises(TokenUnavailableError, match="CircleCI"):
        detect({"CIRCLECI": "true", "PATH": str(tmp_path)}, AUDIENCE)


def test_a_projected_token_of_kubernetes_is_read_again_when_it_was_replaced(tmp_path: Path) -> None:
    # As the kubelet does it: a link to a folder is swapped, in which the file is another one.
    mount = tmp_path / "var/run/secrets/tokens"
    mount.mkdir(parents=True)
    for number in (1, 2):
        (mount / f"..{number}").mkdir()
        (mount / f"..{number}" / "sealkeeper").write_text(f"token.number.{number}\n")
    (mount / "..data").symlink_to("..1")
    (mount / "sealkeeper").symlink_to("..data/sealkeeper")
    found = detect({}, AUDIENCE, tmp_path)
    assert found is not None
    assert (found.fetch().text, found.changed()) == ("token.number.1", False)
    (mount / "..new").symlink_to("..2")
    (mount / "..new").replace(mount / "..data")
    assert (found.changed(), found.fetch().text, found.changed()) == (True, "token.number.2", False)


def test_the_default_token_of_a_service_account_is_not_sent(tmp_path: Path) -> None:
    path = tmp_path / "var/run/secrets/kubernetes.io/serviceaccount/token"
    path.parent.mkdir(parents=True)
    path.write_text(TOKEN)
    with pytest.raises(TokenUnavailableError, match="Kubernetes API") as caught:
        detect({}, AUDIENCE, tmp_path)
    assert AUDIENCE in caught.value.next_step


def test_no_ci_system_is_no_token(tmp_path: Path) -> None:
    assert detect({"CI": "true"}, AUDIENCE, tmp_path) is None
