"""``sealkeeper issue``: certificates for callers to come, and a new one for the gateway's port."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import typer
from cryptography import x509

from sealkeeper.client import Connection
from sealkeeper.server.certificate_identity import CertificateAuthenticator
from sealkeeper.server.errors import ConfigurationError
from sealkeeper.server.identity import Role
from sealkeeper.server.issuing import Caller, issue_caller, renew_server
from sealkeeper.server.local_ca import LocalCa
from sealkeeper.server.settings import SETTINGS_FILE, load_settings
from sealkeeper.server.tls import read_tls_files
from tests.server.svids import Bundles, NamedPeople, caller_with

NOW = datetime.now(UTC).replace(microsecond=0)
YEAR = timedelta(days=365)
BUILD = Caller(Role.CI, "acme", "build-7")
SETTINGS = """
tenants = ["acme", "umbrella"]
[gateway]
domain = "sealkeeper.example"
listen = "0.0.0.0:58443"
tls = { certificate = "tls/server.pem", key = "tls/server.key", client_ca = "tls/ca.pem" }
[storage]
directory = "state"
[providers.main]
uri = "software:///keys?sealing-key-source=file:/seal"
[keys]
default_provider = "main"
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "gateway"
    for name in ("tls", "clients"):
        (directory / name).mkdir(parents=True)
    (directory / SETTINGS_FILE).write_text(SETTINGS)
    LocalCa.create("sealkeeper.example", NOW).pair.write(directory / "tls/ca.pem", directory / "tls/ca.key")
    return directory


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_caller_gets_a_folder_that_can_be_carried_to_it(directory: Path, tmp_path: Path) -> None:
    settings = issue_caller(directory, BUILD, YEAR, tmp_path / "out", NOW)
    assert sorted(one.name for one in settings.parent.iterdir()) == ["ca.pem", "cert.pem", "client.toml", "key.pem"]
    carried = settings.parent.rename(tmp_path / "carried")
    connection = Connection.load(carried / "client.toml", environment={})
    assert (connection.endpoint, connection.tenant) == ("sealkeeper.example:58443", "acme")
    assert connection.warnings() == []
    connection.credentials()


async def test_the_gateway_knows_the_caller_by_its_certificate(directory: Path) -> None:
    folder = issue_caller(directory, BUILD, timedelta(days=30), None, NOW).parent
    assert folder == directory / "clients" / "acme-ci-build-7"
    pem = (folder / "cert.pem").read_bytes()
    bundles = Bundles.of({"sealkeeper.example": [certificate(directory / "tls/ca.pem")]})
    authenticator = CertificateAuthenticator("sealkeeper.example", bundles, {}, NamedPeople())
    principal = await authenticator.authenticate(caller_with(pem), NOW)
    assert (principal.tenant, principal.role, principal.subject.rpartition("/")[2]) == ("acme", Role.CI, "build-7")
    assert principal.not_after == NOW + timedelta(days=30)
    certificate(folder / "cert.pem").verify_directly_issued_by(certificate(directory / "tls/ca.pem"))


@pytest.mark.parametrize(
    ("caller", "said"),
    [
        (
            Caller(Role.CI, "stranger", "a"),
            "--tenant: 'stranger' is not one of the settings' tenants; they are acme, u",
        ),
        (Caller(Role.CI, None, "a"), "--tenant: is missing; they are acme, umbrella"),
        (Caller(Role.CI, "acme", "../a"), "--name '../a': must be"),
        (Caller(Role.CI, "acme", ""), "--name '': must be"),
    ],
)
def test_a_caller_that_the_gateway_would_not_know_is_refused(directory: Path, caller: Caller, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        issue_caller(directory, caller, YEAR, None, NOW)
    assert said in str(caught.value)
    assert list((directory / "clients").iterdir()) == []


def test_the_only_tenant_need_not_be_named(directory: Path) -> None:
    (directory / SETTINGS_FILE).write_text(SETTINGS.replace(', "umbrella"', ""))
    settings = issue_caller(directory, Caller(Role.VERIFIER, None, "gate"), YEAR, None, NOW)
    assert 'tenant = "acme"' in settings.read_text()


def test_a_folder_in_use_is_left_alone(directory: Path) -> None:
    made = issue_caller(directory, BUILD, YEAR, None, NOW).parent
    before = {path: path.read_bytes() for path in made.iterdir()}
    with pytest.raises(ConfigurationError, match="acme-ci-build-7 is there already"):
        issue_caller(directory, BUILD, YEAR, None, NOW)
    assert {path: path.read_bytes() for path in made.iterdir()} == before


def test_callers_whose_ca_the_gateway_does_not_trust_get_none(directory: Path, tmp_path: Path) -> None:
    LocalCa.create("other.example", NOW).pair.write(tmp_path / "other.pem", tmp_path / "other.key")
    (directory / SETTINGS_FILE).write_text(SETTINGS.replace("tls/ca.pem", str(tmp_path / "other.pem")))
    with pytest.raises(ConfigurationError, match=r"gateway\.tls\.client_ca: .*other\.pem does not have the local CA"):
        issue_caller(directory, BUILD, YEAR, None, NOW)


def test_a_ca_key_that_is_kept_elsewhere_is_asked_for(directory: Path) -> None:
    (directory / "tls/ca.key").unlink()
    with pytest.raises(ConfigurationError, match=r"ca\.key: No such file") as caught:
        issue_caller(directory, BUILD, YEAR, None, NOW)
    assert "bring it back" in caught.value.next_step


def test_a_renewed_server_certificate_keeps_its_names_and_is_taken_by_the_gateway(directory: Path) -> None:
    tls = load_settings(directory / SETTINGS_FILE).gateway.tls
    assert tls is not None
    renew_server(directory, ["seal.example.org"], timedelta(days=10), NOW - timedelta(days=30))
    with pytest.raises(ConfigurationError, match="has expired"):
        read_tls_files(tls, NOW)
    old = certificate(tls.certificate)
    renew_server(directory, ["192.0.2.7"], YEAR, NOW)
    leaf = read_tls_files(tls, NOW).leaf
    kind = x509.SubjectAlternativeName
    names, before = (set(one.extensions.get_extension_for_class(kind).value) for one in (leaf, old))
    assert {str(one.value) for one in names - before} == {"192.0.2.7"}
    assert x509.DNSName("seal.example.org") in names
    assert leaf.public_key() != old.public_key()


def test_a_server_certificate_of_another_ca_is_not_replaced(directory: Path, tmp_path: Path) -> None:
    other = LocalCa.create("corporate.example", NOW)
    pair = other.issue_server([x509.DNSName("sealkeeper.example")], NOW, YEAR)
    pair.write(directory / "tls/server.pem", directory / "tls/server.key")
    before = (directory / "tls/server.pem").read_bytes()
    with pytest.raises(ConfigurationError, match=r"server\.pem was not issued by the local CA"):
        renew_server(directory, [], YEAR, NOW)
    assert (directory / "tls/server.pem").read_bytes() == before


def command(*arguments: str) -> Any:
    app = typer.Typer()
    [found] = entry_points(group="sealkeeper.commands", name="issue")
    app.command()(found.load())
    return app(list(arguments), standalone_mode=False)


def test_the_command_issues_and_says_what_to_do_next(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(str(directory), "--role", "ci", "--tenant", "umbrella", "--name", "build-7", "--days", "30")
    said = capsys.readouterr().out
    assert f"made {directory}/clients/umbrella-ci-build-7/client.toml, valid until " in said
    assert "next: " in said
    command(str(directory), "--server")
    assert "start the gateway again" in capsys.readouterr().out
    assert (directory / "tls/server.pem").exists()


@pytest.mark.parametrize("arguments", [(), ("--role", "ci"), ("--server", "--name", "a"), ("--name", "a")])
def test_the_command_needs_a_caller_or_the_server(directory: Path, arguments: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match="--server"):
        command(str(directory), *arguments)
