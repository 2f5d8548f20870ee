"""Where the client's settings come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealkeeper.client.connection import Connection
from sealkeeper.client.errors import ConfigurationError

FILE = 'endpoint = "a:1"\nca = "ca.pem"\ncertificate = "c.pem"\nkey = "k.pem"\ntenant = "acme"\n'


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
