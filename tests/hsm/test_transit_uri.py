"""What a ``transit:`` URI may say, and what it may not."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.hsm import ProviderUriError
from sealkeeper.hsm.transit_uri import KUBERNETES_TOKEN, TransitAuth, TransitUri, parse_transit_uri

TOKEN = "auth=token&token-source=file:/run/token"


def test_all_of_it() -> None:
    parsed = parse_transit_uri(
        "transit://vault.example.com:8300/teams/acme/transit?auth=approle&role-id=5f1c&secret-id-source=file:/run/secret-id"
        "&auth-mount=ci/approle&namespace=acme/prod/&ca-file=/etc/ca.pem&cert-file=/etc/c.pem&key-file=/etc/c.key"
    )
    assert parsed == TransitUri(
        host="vault.example.com",
        port=8300,
        mount="teams/acme/transit",
        auth=TransitAuth("approle", "ci/approle", "5f1c", Path("/run/secret-id")),
        namespace="acme/prod",
        ca_file=Path("/etc/ca.pem"),
        certificate=(Path("/etc/c.pem"), Path("/etc/c.key")),
    )
    assert parsed.base == "https://vault.example.com:8300"


def test_what_is_left_out() -> None:
    parsed = parse_transit_uri(f"transit://vault/transit?{TOKEN}")
    assert (parsed.port, parsed.namespace, parsed.tls, parsed.ca_file, parsed.certificate) == (
        8200,
        "",
        True,
        None,
        None,
    )
    assert parsed.auth == TransitAuth("token", "token", "", Path("/run/token"))


@pytest.mark.parametrize(
    ("query", "auth"),
    [
        ("auth=jwt&role=ci&jwt-source=file:/run/jwt", TransitAuth("jwt", "jwt", "ci", Path("/run/jwt"))),
        ("auth=kubernetes&role=ci", TransitAuth("kubernetes", "kubernetes", "ci", KUBERNETES_TOKEN)),
        (
            "auth=kubernetes&role=ci&jwt-source=file:/run/jwt&auth-mount=eks",
            TransitAuth("kubernetes", "eks", "ci", Path("/run/jwt")),
        ),
        ("auth=cert&cert-file=/c.pem&key-file=/c.key", TransitAuth("cert", "cert", "", None)),
        ("auth=cert&cert-file=/c.pem&key-file=/c.key&role=gw", TransitAuth("cert", "cert", "gw", None)),
    ],
)
def test_every_way_to_log_in(query: str, auth: TransitAuth) -> None:
    assert parse_transit_uri(f"transit://vault/transit?{query}").auth == auth


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "[::1]", "localhost"])
def test_plaintext_to_this_machine_is_allowed(host: str) -> None:
    assert parse_transit_uri(f"transit://{host}:8200/transit?{TOKEN}&tls=off").base == f"http://{host}:8200"


@pytest.mark.parametrize(
    "host",
    ["vault.example.com", "10.0.0.1", "[2001:db8::1]", "localhost.example.com", "127.0.0.1.example.com", "0.0.0.0"],
)
def test_plaintext_to_another_machine_is_refused(host: str) -> None:
    with pytest.raises(ProviderUriError, match="this machine only"):
        parse_transit_uri(f"transit://{host}/transit?{TOKEN}&tls=off")


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        (f"transit:/transit?{TOKEN}", "names its server"),
        (f"transit://user@vault/transit?{TOKEN}", "names its server"),
        (f"transit://user:word@vault:8200/transit?{TOKEN}", "names its server"),
        (f"transit://::1/transit?{TOKEN}", "names its server"),
        (f"transit://-vault/transit?{TOKEN}", "names its server"),
        (f"transit://vault:0/transit?{TOKEN}", "port"),
        (f"transit://vault:65536/transit?{TOKEN}", "port"),
        (f"transit://vault:{'9' * 100}/transit?{TOKEN}", "port"),
        (f"transit://vault?{TOKEN}", "names no mount"),
        (f"transit://vault/?{TOKEN}", "names no mount"),
        (f"transit://vault/../sys?{TOKEN}", "the mount is not"),
        (f"transit://vault/a/../../sys?{TOKEN}", "the mount is not"),
        (f"transit://vault/%2e%2e/sys?{TOKEN}", "the mount is not"),
        (f"transit://vault/a%3Fb?{TOKEN}", "the mount is not"),
        (f"transit://vault/a//b?{TOKEN}", "the mount is not"),
        (f"transit://vault/transit?{TOKEN}&namespace=../root", "namespace is not"),
        (f"transit://vault/transit?{TOKEN}&namespace=a%0Ab", "namespace is not"),
        (f"transit://vault/transit?{TOKEN}&tls=on", "tls is on"),
        (f"transit://vault/transit?{TOKEN}&verify=false", "not an attribute known here"),
        (f"transit://vault/transit?{TOKEN}&ca-file=ca.pem", "absolute"),
        (f"transit://vault/transit?{TOKEN}&cert-file=/c.pem", "go together"),
        (f"transit://127.0.0.1/transit?{TOKEN}&cert-file=/c&key-file=/k&tls=off", "needs TLS"),
        ("transit://vault/transit", "auth is not one of"),
        ("transit://vault/transit?auth=userpass", "auth is not one of"),
        ("transit://vault/transit?auth=token", "token-source is missing"),
        ("transit://vault/transit?auth=approle&role-id=a", "secret-id-source is missing"),
        ("transit://vault/transit?auth=jwt&jwt-source=file:/run/jwt", "role is missing"),
        ("transit://vault/transit?auth=cert", "cert-file is missing"),
        (f"transit://vault/transit?{TOKEN}&role=ci", "role does not belong to auth=token"),
        (f"transit://vault/transit?{TOKEN}&token-source=file:/b", "given twice"),
        ("transit://vault/transit?auth=token&token-source=/run/token", "must be file:/path"),
        ("transit://vault/transit?auth=jwt&role=a%0Ab&jwt-source=file:/run/jwt", "role is not"),
        ("transit://vault/transit?auth=token&token=hvs.CAES", "token is not allowed"),
        ("transit://vault/transit?auth=approle&role-id=a&secret-id=hvs.CAES", "secret-id is not allowed"),
    ],
)
def test_what_is_malformed_or_not_allowed_is_refused_by_name(uri: str, text: str) -> None:
    with pytest.raises(ProviderUriError, match=text) as refused:
        parse_transit_uri(uri)
    assert "hvs.CAES" not in f"{refused.value} {refused.value.next_step}"


@given(st.text(alphabet=st.sampled_from("ab1.-:@[]/?#%\\ "), max_size=30))
def test_a_host_is_never_read_as_another_one(text: str) -> None:
    try:
        parsed = parse_transit_uri(f"transit://{text}/transit?{TOKEN}")
    except ProviderUriError:
        return
    found = urlsplit(f"{parsed.base}/v1/{parsed.mount}/keys")
    assert (found.scheme, found.username, found.port) == ("https", None, parsed.port)
    assert found.hostname == parsed.host.strip("[]")
    assert text.startswith(parsed.host)
