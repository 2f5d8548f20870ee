from __future__ import annotations

from pathlib import Path

import pytest

from sealkeeper.hsm import ProtectionLevel, ProviderUriError
from sealkeeper.hsm.azurekv_uri import Auth, AzureKeyVaultUri, Kind, parse_azurekv_uri

VAULT = "azurekv://acme.vault.azure.net"
WHO = "tenant-id=t-1&client-id=c-1"


def test_a_vault_is_logged_in_to_as_the_machine_and_makes_keys_in_hardware_unless_told() -> None:
    assert parse_azurekv_uri(VAULT) == AzureKeyVaultUri(
        host="acme.vault.azure.net",
        kind=Kind.VAULT,
        protection=ProtectionLevel.HSM,
        authority="login.microsoftonline.com",
        auth=Auth.MANAGED_IDENTITY,
    )


@pytest.mark.parametrize(
    ("host", "kind", "authority"),
    [
        ("acme.vault.azure.net", Kind.VAULT, "login.microsoftonline.com"),
        ("Acme-2.Vault.Azure.Net/", Kind.VAULT, "login.microsoftonline.com"),
        ("acme.managedhsm.azure.net", Kind.MANAGED_HSM, "login.microsoftonline.com"),
        ("acme.vault.azure.cn", Kind.VAULT, "login.chinacloudapi.cn"),
        ("acme.managedhsm.usgovcloudapi.net", Kind.MANAGED_HSM, "login.microsoftonline.us"),
    ],
)
def test_the_host_says_what_it_is_and_where_to_log_in(host: str, kind: Kind, authority: str) -> None:
    parsed = parse_azurekv_uri(f"azurekv://{host}")
    assert (parsed.kind, parsed.authority) == (kind, authority)
    assert parsed.host == host.lower().removesuffix("/")


@pytest.mark.parametrize(
    ("auth", "query", "source"),
    [
        ("managed-identity", "client-id=c-1", None),
        ("workload-identity", f"{WHO}&token-source=file:/run/token", "/run/token"),
        ("client-certificate", f"{WHO}&certificate-source=file:/run/cert.pem", "/run/cert.pem"),
        ("client-secret", f"{WHO}&client-secret-source=file:/run/secret", "/run/secret"),
    ],
)
def test_each_way_to_log_in_has_what_it_needs(auth: str, query: str, source: str | None) -> None:
    parsed = parse_azurekv_uri(f"{VAULT}?auth={auth}&{query}")
    assert (parsed.auth, parsed.client_id) == (auth, "c-1")
    assert parsed.source == (Path(source) if source else None)


def test_a_token_needs_no_identity() -> None:
    parsed = parse_azurekv_uri(f"{VAULT}?auth=token&token-source=file:///run/token")
    assert (parsed.auth, parsed.source, parsed.tenant_id) == (Auth.TOKEN, Path("/run/token"), "")


def test_protection_region_and_certificates_are_taken() -> None:
    parsed = parse_azurekv_uri(f"{VAULT}?protection=SOFTWARE&region=germanywestcentral&ca-file=/etc/ssl/inspect.pem")
    assert parsed.protection is ProtectionLevel.SOFTWARE
    assert parsed.region == "germanywestcentral"
    assert parsed.ca_file == Path("/etc/ssl/inspect.pem")


def test_a_store_on_loopback_says_what_it_is() -> None:
    parsed = parse_azurekv_uri("azurekv://127.0.0.1:8443?kind=managed-hsm&auth=token&token-source=file:/t")
    assert (parsed.host, parsed.kind, parsed.authority) == ("127.0.0.1:8443", Kind.MANAGED_HSM, "127.0.0.1:8443")


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("azurekv:", "host"),
        ("azurekv://", "host"),
        ("azurekv://acme", "host"),
        ("azurekv://acme.vault.azure.net.evil.example", "host"),
        ("azurekv://evil.example/acme.vault.azure.net", "host"),
        ("azurekv://acme.vault.azure.net:8443", "host"),
        ("azurekv://user@acme.vault.azure.net", "host"),
        ("azurekv://acme.vault.azure.net/keys/one", "host"),
        ("azurekv://a.b.vault.azure.net", "host"),
        ("azurekv://192.0.2.1:8443?kind=vault", "host"),
        ("azurekv://127.0.0.1:99999?kind=vault", "host"),
        ("azurekv://127.0.0.1:8443", "kind"),
        (f"{VAULT}?kind=vault", "kind"),
        (f"{VAULT}?auth=password", "auth"),
        (f"{VAULT}?auth=client-secret&tenant-id=t&client-secret-source=file:/s", "client-id"),
        (f"{VAULT}?auth=client-secret&{WHO}", "client-secret-source"),
        (f"{VAULT}?auth=client-secret&{WHO}&client-secret-source=/s", "client-secret-source"),
        (f"{VAULT}?auth=client-secret&{WHO}&client-secret-source=file:s", "client-secret-source"),
        (f"{VAULT}?auth=client-secret&{WHO}&client-secret-source=file:/s&token-source=file:/t", "token-source"),
        (f"{VAULT}?tenant-id=t", "tenant-id"),
        (f"{VAULT}?auth=token", "token-source"),
        (f"{VAULT}?client-id=a%20b", "client-id"),
        (f"{VAULT}?protection=EXTERNAL", "protection"),
        ("azurekv://acme.managedhsm.azure.net?protection=SOFTWARE", "protection"),
        (f"{VAULT}?region=Germany%20West", "region"),
        (f"{VAULT}?ca-file=ca.pem", "ca-file"),
        (f"{VAULT}?region=a&region=b", "region"),
        (f"{VAULT}?tls=off", "tls"),
    ],
)
def test_what_is_wrong_is_named(uri: str, named: str) -> None:
    with pytest.raises(ProviderUriError, match=named):
        parse_azurekv_uri(uri)


@pytest.mark.parametrize("name", ["client-secret", "token"])
def test_a_secret_in_the_uri_is_refused_and_not_repeated(name: str) -> None:
    with pytest.raises(ProviderUriError, match="not allowed") as refused:
        parse_azurekv_uri(f"{VAULT}?{name}=sesame-4711")
    assert "sesame" not in str(refused.value) + refused.value.next_step
