"""Provider URIs: what is understood, and what is refused with the attribute's name."""

from __future__ import annotations

import contextlib
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.hsm.errors import ProviderUriError
from sealkeeper.hsm.uri import parse_pkcs11_uri, parse_software_uri, scheme_of

HOW = "module-path=/usr/lib/p11.so&pin-source=file:/run/pin"


def test_the_attributes_of_rfc_7512_are_read() -> None:
    # RFC 7512 section 3, the example with a token, percent-encoded; with a module and a PIN file as needed here.
    uri = parse_pkcs11_uri(
        "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;"
        f"serial=4711;slot-id=327?{HOW}"
    )
    assert uri.token == "The Software PKCS#11 Softtoken"
    assert (uri.manufacturer, uri.model, uri.serial, uri.slot_id) == ("Snake Oil, Inc.", "1.0", "4711", 327)
    assert (uri.module_path, uri.pin_source) == (Path("/usr/lib/p11.so"), Path("/run/pin"))


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        (f"pkcs11:token=a;token=b?{HOW}", "token"),
        (f"pkcs11:colour=red?{HOW}", "colour"),
        (f"pkcs11:token=%zz?{HOW}", "token"),
        (f"pkcs11:token=%ff?{HOW}", "token"),
        (f"pkcs11:token=?{HOW}", "token"),
        (f"pkcs11:slot-id=one?{HOW}", "slot-id"),
        ("pkcs11:token=a", "module-path"),
        ("pkcs11:token=a?module-path=/usr/lib/p11.so", "pin-source"),
        ("pkcs11:token=a?module-path=p11.so&pin-source=file:/run/pin", "module-path"),
        ("pkcs11:token=a?module-path=/p11.so&pin-source=|/bin/sh", "pin-source"),
        ("pkcs11:token=a b?" + HOW, "printable"),
        ("token=a", "scheme"),
    ],
)
def test_a_bad_pkcs11_uri_is_refused_by_attribute(uri: str, named: str) -> None:
    with pytest.raises(ProviderUriError, match=named):
        parse_pkcs11_uri(uri)


def test_a_pin_in_the_uri_is_refused_without_repeating_it() -> None:
    with pytest.raises(ProviderUriError) as refused:
        parse_pkcs11_uri("pkcs11:token=a?module-path=/p11.so&pin-value=83621")
    assert "pin-value" in str(refused.value)
    assert "83621" not in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("software:///keys", "exactly one"),
        ("software:///keys?sealing-key-source=file:/a&passphrase-source=file:/b", "exactly one"),
        ("software:///keys?sealing-key-source=/a", "sealing-key-source"),
        ("software:keys?sealing-key-source=file:/a", "folder"),
        ("software:?sealing-key-source=file:/a", "folder"),
    ],
)
def test_a_bad_software_uri_is_refused_by_attribute(uri: str, named: str) -> None:
    with pytest.raises(ProviderUriError, match=named):
        parse_software_uri(uri)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=40))
def test_any_token_label_survives_percent_encoding(label: str) -> None:
    assert parse_pkcs11_uri(f"pkcs11:token={quote(label, safe='')}?{HOW}").token == label


@given(st.text(max_size=100))
def test_text_from_outside_raises_nothing_but_uri_errors(text: str) -> None:
    for parse in (scheme_of, parse_pkcs11_uri, parse_software_uri):
        for uri in (text, f"pkcs11:{text}", f"software:{text}"):
            with contextlib.suppress(ProviderUriError):
                parse(uri)
