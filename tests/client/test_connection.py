"""Where the client's settings come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealkeeper.client.ci_identity import CommandTokens
from sealkeeper.client.connection import Connection
from sealkeeper.client.errors import ConfigurationError
from sealkeeper.client.token_source import TokenUnavailableError

FILE = 'endpoint = "a:1"\nca = "ca.pem"\ncertificate = "c.pem"\nkey = "k.pem"\ntenant = "acme"\n'
ALONE = 'endpoint = "gateway.example.com:8443"\nca = "ca.pem"\ntenant = "acme"\n'
TOKEN = "aaaa.bbbb.cccc"


def test_flags_win_over_variables_and_these_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "client.toml"
    path.write_text(FILE)
    variables = {"SEALKEEPER_CONFIG": str(path), "SEALKEEPER_ENDPOINT": "b:2", "SEALKEEPER_TENANT": "beta"}
    loaded = Connection.load(environment=variables, tenant="gamma")
    assert (loaded.endpoint, loaded.tenant) == ("b:2", "gamma")
    assert loaded.certificate == tmp_path / "c.pem"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (FILE.replace("a:1", "nowhere"), "endpoint"),
        (FILE + "speed = 3\n", "speed"),
        (FILE.replace('"acme"', "7"), "tenant"),
        ("endpoint", "not TOML"),
        (FILE.replace('key = "k.pem"\n', ""), "certificate"),
        ("", "no gateway"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "client.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        Connection.load(path, environment={})


def test_plaintext_is_for_loopback_only() -> None:
    assert Connection("127.0.0.1:1", insecure=True)
    with pytest.raises(ConfigurationError, match="loopback"):
        Connection("gateway.example:1", insecure=True)


def test_a_key_that_others_can_read_is_warned_of(tmp_path: Path) -> None:
    key = tmp_path / "k.pem"
    key.touch(mode=0o644)
    key.chmod(0o644)
    connection = Connection("a:1", certificate=tmp_path / "c.pem", key=key)
    assert "chmod 600" in connection.warnings()[0]
    key.chmod(0o600)
    assert connection.warnings() == []


def load(folder: Path, text: str, **environment: str) -> Connection:
    path = folder / "client.toml"
    path.write_text(text)
    return Connection.load(path, environment={"HOME": str(folder), **environment}, root=folder)


def token_of(connection: Connection) -> str:
    assert connection.tokens is not None
    assert TOKEN not in repr(connection)
    return connection.tokens.fetch().text


def test_a_token_file_stands_beside_the_settings(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    connection = load(tmp_path, ALONE + 'token_file = "token"\n')
    assert (token_of(connection), connection.certificate) == (TOKEN, None)


def test_a_token_can_be_in_a_variable(tmp_path: Path) -> None:
    assert token_of(load(tmp_path, ALONE, SEALKEEPER_ID_TOKEN=TOKEN)) == TOKEN


def test_a_token_file_wins_over_the_variable_with_a_token_and_this_over_the_ci_system(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from.the.file")
    ci = {"GITLAB_CI": "true", "SEALKEEPER_ID_TOKEN": TOKEN}
    assert token_of(load(tmp_path, ALONE, SEALKEEPER_TOKEN_FILE=str(tmp_path / "token"), **ci)) == "from.the.file"
    assert token_of(load(tmp_path, ALONE, **ci)) == TOKEN
    with pytest.raises(TokenUnavailableError, match="GitLab"):
        load(tmp_path, ALONE, GITLAB_CI="true")


@pytest.mark.parametrize(
    ("setting", "audience"), [("", "https://gateway.example.com"), ('audience = "our-gateway"\n', "our-gateway")]
)
def test_tokens_of_ci_systems_are_for_the_gateway(tmp_path: Path, setting: str, audience: str) -> None:
    assert load(tmp_path, ALONE + setting, BUILDKITE="true").tokens == CommandTokens(
        ("buildkite-agent", "oidc", "request-token", "--audience", audience),
        f"see in the job what this says: buildkite-agent oidc request-token --audience {audience} > /dev/null",
    )


@pytest.mark.parametrize("variable", ["SEALKEEPER_ID_TOKEN", "SEALKEEPER_TOKEN_FILE"])
def test_a_certificate_and_a_token_together_are_refused(tmp_path: Path, variable: str) -> None:
    with pytest.raises(ConfigurationError, match="as whom") as caught:
        load(tmp_path, FILE, **{variable: TOKEN})
    assert TOKEN not in str(caught.value)


def test_a_certificate_wins_over_the_ci_system(tmp_path: Path) -> None:
    assert load(tmp_path, FILE, GITHUB_ACTIONS="true").tokens is None


def test_who_has_nothing_is_told_all_ways(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="who you are") as caught:
        load(tmp_path, ALONE)
    for way in ("certificate and key", "token_file", "SEALKEEPER_ID_TOKEN", "sealkeeper login", "CI system"):
        assert way in caught.value.next_step


def test_plaintext_needs_no_identity_and_asks_no_ci_system(tmp_path: Path) -> None:
    connection = Connection.load(
        endpoint="127.0.0.1:1", insecure=True, environment={"GITHUB_ACTIONS": "true", "HOME": str(tmp_path)}
    )
    assert connection.tokens is None


def test_approvals_are_signed_with_the_callers_key_unless_another_is_named(tmp_path: Path) -> None:
    assert load(tmp_path, FILE).approval_key == tmp_path / "k.pem"
    assert load(tmp_path, FILE + 'approval_key = "a.pem"\n').approval_key == tmp_path / "a.pem"


@pytest.mark.parametrize("line", ['login_token = "both"\n', 'login_issuer = "https://issuer.example"\n'])
def test_a_login_that_is_half_configured_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigurationError, match="login_"):
        load(tmp_path, ALONE + line)
