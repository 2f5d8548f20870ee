"""URIs of Google Cloud KMS key rings: what is understood, and what is refused with its name."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.hsm.errors import ProviderUriError
from sealkeeper.hsm.gcpkms_uri import parse_gcpkms_uri

RING = "gcpkms://projects/acme-signing/locations/europe-west3/keyRings/release"


def test_a_key_ring_alone_means_hardware_google_and_default_credentials() -> None:
    uri = parse_gcpkms_uri(RING)
    assert uri.key_ring == "projects/acme-signing/locations/europe-west3/keyRings/release"
    assert (uri.project, uri.location, uri.ring) == ("acme-signing", "europe-west3", "release")
    assert (uri.protection, uri.credentials_source, uri.endpoint, uri.plaintext) == ("HSM", None, "", False)


def test_every_attribute_is_read() -> None:
    uri = parse_gcpkms_uri(f"{RING}?protection=SOFTWARE&credentials-source=file:/run/sa.json&endpoint=kms.acme.example")
    assert (uri.protection, uri.credentials_source) == ("SOFTWARE", Path("/run/sa.json"))
    assert (uri.endpoint, uri.plaintext) == ("kms.acme.example:443", False)


@pytest.mark.parametrize("project", ["acme-signing", "415104041262", "example.com:acme-signing"])
def test_projects_are_named_in_each_of_googles_ways(project: str) -> None:
    assert parse_gcpkms_uri(f"gcpkms://projects/{project}/locations/global/keyRings/r").project == project


@pytest.mark.parametrize("endpoint", ["127.0.0.1:8081", "127.9.9.9:1", "[::1]:8081"])
def test_loopback_alone_is_spoken_to_in_the_clear(endpoint: str) -> None:
    uri = parse_gcpkms_uri(f"{RING}?endpoint={endpoint}")
    assert (uri.endpoint, uri.plaintext) == (endpoint, True)


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("gcpkms:projects/acme/locations/eu/keyRings/r", "names a key ring"),
        (f"{RING}/cryptoKeys/k", "names a key ring"),
        ("gcpkms://projects/acme/locations/eu/keyRings/..", "names a key ring"),
        ("gcpkms://projects/acme/locations/eu/keyRings/r%0a", "names a key ring"),
        ("gcpkms://projects/../locations/eu/keyRings/r", "names a key ring"),
        ("gcpkms:", "the key ring"),
        (f"{RING}?protection=hsm", "protection must be HSM or SOFTWARE"),
        (f"{RING}?protection=EXTERNAL", "protection=EXTERNAL is not supported"),
        (f"{RING}?protection=HSM_SINGLE_TENANT", "protection=HSM_SINGLE_TENANT is not supported"),
        (f"{RING}?protection=HSM&protection=HSM", "given twice"),
        (f"{RING}?credentials-source=/run/sa.json", "credentials-source"),
        (f"{RING}?credentials-source=file:sa.json", "credentials-source"),
        (f"{RING}?token=ya29", "'token' is not an attribute"),
        (f"{RING}?endpoint=127.0.0.1", "needs a port"),
        (f"{RING}?endpoint=127.0.0.1:0", "endpoint"),
        (f"{RING}?endpoint=127.0.0.1:65536", "endpoint"),
        (f"{RING}?endpoint=10.0.0.1:8081", "endpoint must be a host name"),
        (f"{RING}?endpoint=[fd00::1]:8081", "endpoint must be a host name"),
        (f"{RING}?endpoint=localhost:8081", "endpoint must be a full host name"),
        (f"{RING}?endpoint=https://kms.acme.example", "endpoint"),
        (f"{RING}?endpoint=user@kms.acme.example", "endpoint"),
        (f"{RING}?endpoint=127.0.0.1:8081&credentials-source=file:/run/sa.json", "credentials-source does not go"),
        ("pkcs11:token=a", "not a gcpkms: URI"),
    ],
)
def test_a_bad_uri_is_refused_by_what_is_wrong(uri: str, named: str) -> None:
    with pytest.raises(ProviderUriError, match=named.replace("[", r"\[")):
        parse_gcpkms_uri(uri)


@given(st.text(max_size=60))
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    for uri in (f"gcpkms:{text}", f"{RING}?{text}", f"{RING}?endpoint={text}"):
        with contextlib.suppress(ProviderUriError):
            parsed = parse_gcpkms_uri(uri)
            assert not parsed.plaintext or parsed.endpoint.startswith(("127.", "[::1]", "[::ffff:127", "[0"))
