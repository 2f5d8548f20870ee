"""Bad settings, in the file or the environment: a clear error that names the setting and says what is expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealkeeper.server.errors import ConfigurationError
from sealkeeper.server.settings import endpoint_of, load_settings

GOOD = """
tenants = ["acme"]
[gateway]
domain = "sealkeeper.example"
insecure = true
[storage]
directory = "state"
[providers.main]
uri = "software:///keys?sealing-key-source=file:/seal"
[keys]
default_provider = "main"
[telemetry]
metrics_listen = "127.0.0.1:0"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sealkeeper.toml"
    path.write_text(GOOD)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(path)
    assert caught.value.next_step
    return str(caught.value)


def test_good_settings_are_taken_and_paths_are_relative_to_the_file(file: Path) -> None:
    assert load_settings(file).storage.directory == file.parent / "state"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('[gateway]\ndomain = "sealkeeper.example"\ninsecure = true', "", "gateway: is missing"),
        ("[keys]", "[[keys]]", "keys: must be a section"),
        ("insecure = true", 'tls = "tls/"', "gateway.tls: must be a section"),
        ("[providers.main]\nuri =", "[providers]\nmain =", "providers.main: must be a section"),
        ("insecure = true", "insecure = true\nlisten = 8443", "gateway.listen: "),
        ("insecure = true", 'insecure = true\nlisten = "8443"', "gateway.listen: must be host:port"),
        ('["acme"]', '["Acme"]', "tenants.0: must be 1 to 63 of a-z"),
        ('default_provider = "main"', "", "keys.default_provider: is missing"),
    ],
)
def test_a_bad_setting_of_the_file_is_named(file: Path, old: str, new: str, said: str) -> None:
    file.write_text(GOOD.replace(old, new))
    assert said in refusal(file)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ('tenants = ["globex"]', "gates.registries.one.tenants: there is no tenant 'globex'"),
        ('credentials = "docker.json"', "gates.registries.one: with credentials, name the tenants"),
        ('repositories = ["acme/*"]', "gates.registries.one.repositories.0: must be the name of a repository"),
        ('user = "x"', "gates.registries.one.user: there is no such setting; known here are host, repositories"),
    ],
)
def test_a_bad_setting_of_a_registry_is_named(file: Path, section: str, said: str) -> None:
    several = GOOD.replace('["acme"]', '["acme", "initech"]')
    file.write_text(f'{several}\n[gates.registries.one]\nhost = "ghcr.io"\n{section}\n')
    assert said in refusal(file)


def test_the_files_of_a_registry_are_beside_the_settings(file: Path) -> None:
    section = '[gates.registries.one]\nhost = "ghcr.io"\ncredentials = "docker.json"\nca = "/etc/ca.pem"\n'
    file.write_text(f"{GOOD}\n{section}")
    one = load_settings(file).gates.registries["one"]
    assert (one.credentials, one.ca) == (file.parent / "docker.json", Path("/etc/ca.pem"))


def test_a_string_where_the_gateways_section_belongs_is_named(file: Path) -> None:
    start, end = GOOD.index("[gateway]"), GOOD.index("[storage]")
    file.write_text('gateway = "x"\n' + GOOD[:start] + GOOD[end:])
    assert "gateway: must be a section" in refusal(file)


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ("speed = 3\n[gateway]", "speed: there is no such setting; known here are gateway, http, storage, providers"),
        (
            "[gateway]\nspeed = 3",
            "gateway.speed: there is no such setting; known here are domain, listen, token_listen, tls",
        ),
        (
            "[providers.main.pool]\na = 1\n[gateway]",
            "providers.main.pool: there is no such setting; known here are uri",
        ),
        ("[gateway]\ntls.cert = 1", "gateway.tls.cert: there is no such setting; known here are certificate, key"),
    ],
)
def test_an_unknown_setting_comes_with_the_names_that_are_known(file: Path, new: str, said: str) -> None:
    file.write_text(GOOD.replace("[gateway]", new))
    assert said in refusal(file)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("SEALKEEPER_TENANTS", "acme", 'SEALKEEPER_TENANTS: must be a list, in a variable as JSON: ["acme"]'),
        ("SEALKEEPER_GATEWAY", "x", "SEALKEEPER_GATEWAY: must be a section with domain, listen, token_listen, tls"),
        ("SEALKEEPER_TENANTS", '["Acme"]', "SEALKEEPER_TENANTS.0: must be 1 to 63 of a-z"),
        ("SEALKEEPER_PROVIDERS", "[", "SEALKEEPER_PROVIDERS: must be a section, in a variable as JSON"),
        ("SEALKEEPER_PROVIDERS__MAIN__ENVIRONMENT", "x", "SEALKEEPER_PROVIDERS__MAIN__ENVIRONMENT: must be a section"),
        ("SEALKEEPER_GATEWAY", '"x"', "SEALKEEPER_GATEWAY: must be a section"),
        ("SEALKEEPER_GATEWAY__TLS", "x", "SEALKEEPER_GATEWAY__TLS: must be a section"),
        ("SEALKEEPER_GATEWAY__LISTEN", "8443", "SEALKEEPER_GATEWAY__LISTEN: must be host:port"),
        ("SEALKEEPER_GATEWAY__SPEED", "3", "SEALKEEPER_GATEWAY__SPEED: there is no such setting"),
        ("SEALKEEPER_PROVIDERS__MAIN__WORKERS", "many", "SEALKEEPER_PROVIDERS__MAIN__WORKERS: "),
    ],
)
def test_a_bad_variable_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert said in refusal(file)


def test_what_is_wrong_with_a_secret_is_said_without_showing_it(file: Path) -> None:
    file.write_text(GOOD.replace('directory = "state"', 'directory = "state"\ndatabase = ["postgresql://u:s3same@db"]'))
    text = refusal(file)
    assert "storage.database" in text
    assert "s3same" not in text


@pytest.mark.parametrize(
    ("endpoint", "insecure", "said"),
    [
        ("nonsense", "false", "telemetry.otlp_endpoint: must be host:port"),
        ("collector:99999", "false", "telemetry.otlp_endpoint: must be host:port"),
        ("https://collector:4317/v1/traces", "false", "telemetry.otlp_endpoint: must be host:port"),
        ("ftp://collector:4317", "false", "telemetry.otlp_endpoint: must be host:port"),
        ("http://127.0.0.1:4317", "false", "otlp_endpoint: http:// needs otlp_insecure = true"),
        ("https://127.0.0.1:4317", "true", "otlp_endpoint: https:// and otlp_insecure = true contradict"),
        ("http://collector:4317", "true", "otlp_insecure = true is allowed with a loopback otlp_endpoint only"),
    ],
)
def test_a_telemetry_endpoint_that_cannot_be_meant_is_refused(
    file: Path, endpoint: str, insecure: str, said: str
) -> None:
    file.write_text(f'{GOOD}\notlp_endpoint = "{endpoint}"\notlp_insecure = {insecure}\n')
    assert said in refusal(file)


@pytest.mark.parametrize(
    ("endpoint", "insecure"),
    [
        ("collector.example:4317", "false"),
        ("https://collector.example:4317", "false"),
        ("http://127.0.0.1:4317", "true"),
        ("[::1]:4317", "true"),
    ],
)
def test_a_telemetry_endpoint_that_agrees_with_its_flag_is_taken(file: Path, endpoint: str, insecure: str) -> None:
    file.write_text(f'{GOOD}\notlp_endpoint = "{endpoint}"\notlp_insecure = {insecure}\n')
    assert load_settings(file).telemetry.otlp_endpoint == endpoint


@pytest.mark.parametrize(
    ("listen", "endpoint"),
    [
        ("127.0.0.1:8443", "127.0.0.1:8443"),
        ("0.0.0.0:58443", "sealkeeper.example:58443"),
        ("[::]:58443", "sealkeeper.example:58443"),
        ("gateway.example:1", "gateway.example:1"),
    ],
)
def test_callers_connect_to_the_domain_where_the_gateway_listens_everywhere(listen: str, endpoint: str) -> None:
    assert endpoint_of(listen, "sealkeeper.example") == endpoint
