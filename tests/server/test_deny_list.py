"""The deny list: who is on it is refused, and a list that cannot be read lets nobody in again."""

from __future__ import annotations

import logging
import os
import re
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.server.deny_list import MAX_LENGTH, MAX_LINES, DenyList, parse_deny_list
from sealkeeper.server.der import BIT_STRING, ECDSA_SHA256, SEQUENCE, tlv
from sealkeeper.server.errors import ConfigurationError, UnauthenticatedError
from sealkeeper.server.identity import Method, Principal, Role
from sealkeeper.server.trust_bundles import TrustBundles
from tests.server.svids import DAY, Ca

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PROD = "prod.example.org"
RELEASE = f"spiffe://{PROD}/ns/build/sa/release"
CA, RSA_CA = Ca.make(NOW), Ca.make(NOW, key=rsa.generate_private_key(65537, 2048))
SVID, RSA_SVID = CA.issue(RELEASE), RSA_CA.issue(RELEASE)
WORKLOAD = Principal("acme", RELEASE, Role.CI, issuer=PROD, certificate=SVID.der)
RSA_WORKLOAD = Principal("acme", RELEASE, Role.CI, issuer=PROD, certificate=RSA_SVID.der)
TOKEN = Principal("acme", "https://login.example.org#repo:a/b:ref:refs/heads/main", Role.CI, method=Method.TOKEN)
PERSON = Principal("acme", "https://login.example.org#248289", Role.CUSTODIAN, method=Method.TOKEN, person="first")


def denies(text: str, principal: Principal) -> bool:
    return parse_deny_list(text.encode()).has(principal)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "deny.txt"
    path.write_text("# nobody yet\n")
    return path


def allowed(deny_list: DenyList, principal: Principal) -> bool:
    try:
        deny_list.require_allowed(principal)
    except UnauthenticatedError as error:
        return not (error.reason == "IDENTITY_DENIED" and error.next_step)
    return True


@pytest.mark.parametrize(
    ("line", "principal"),
    [
        (RELEASE, WORKLOAD),
        (f"  {RELEASE}\t", WORKLOAD),
        (f"spiffe://{PROD}/*", WORKLOAD),
        (f"spiffe://{PROD}/ns/*", WORKLOAD),
        (f"spiffe://{PROD}/ns/build/sa/*", WORKLOAD),
        (TOKEN.subject, TOKEN),
        ("person:first", PERSON),
        (f"sha256:{sha256(SVID.der).hexdigest()}", WORKLOAD),
        (f"sha256:{sha256(SVID.der).hexdigest().upper()}", WORKLOAD),
        (f"sha256:{sha256(RSA_SVID.der).hexdigest()}", RSA_WORKLOAD),
        (f"serial:{SVID.certificate.serial_number:x}@{PROD}", WORKLOAD),
        (f"serial:{SVID.certificate.serial_number:040X}@{PROD}", WORKLOAD),
    ],
    # Serial numbers are made by chance, and processes that share the tests must call them alike.
    ids=lambda value: re.sub("[0-9a-fA-F]{20,}", "…", value) if isinstance(value, str) else "",
)
def test_who_is_on_the_list_is_denied(line: str, principal: Principal) -> None:
    assert denies(f"# some\n\n{line}\r\n# others\n", principal)
    assert not denies(f"# {line}\n", principal)


@pytest.mark.parametrize(
    ("line", "principal"),
    [
        (f"{RELEASE}-2", WORKLOAD),
        (f"{RELEASE}/*", WORKLOAD),
        (f"spiffe://{PROD}/ns/build/sa", WORKLOAD),
        (f"spiffe://{PROD}/n/*", WORKLOAD),
        ("spiffe://rod.example.org/*", WORKLOAD),
        (f"serial:{SVID.certificate.serial_number:x}@other.example.org", WORKLOAD),
        (f"serial:{SVID.certificate.serial_number:x}@{PROD}", RSA_WORKLOAD),
        (f"sha256:{sha256(SVID.der).hexdigest()}", RSA_WORKLOAD),
        ("person:second", PERSON),
        ("person:first", WORKLOAD),
        ("https://login.example.org#2482890", PERSON),
        (f"spiffe://{PROD}/*", TOKEN),
    ],
    # Serial numbers are made by chance, and processes that share the tests must call them alike.
    ids=lambda value: re.sub("[0-9a-fA-F]{20,}", "…", value) if isinstance(value, str) else "",
)
def test_nobody_else_is(line: str, principal: Principal) -> None:
    assert not denies(line, principal)


def test_a_denied_certificate_is_denied_with_its_other_signature_too() -> None:
    r, s = decode_dss_signature(SVID.certificate.signature)
    twin = encode_dss_signature(r, ec.SECP256R1.group_order - s)
    der = tlv(SEQUENCE, SVID.certificate.tbs_certificate_bytes, ECDSA_SHA256, tlv(BIT_STRING, b"\0", twin))
    # It is as good as the other.
    bundles = TrustBundles({PROD: [CA.certificate]})
    assert bundles.issuer_of(x509.load_der_x509_certificate(der), PROD, NOW) is not None
    other = Principal("acme", RELEASE, Role.CI, issuer=PROD, certificate=der)
    assert denies(f"sha256:{sha256(SVID.der).hexdigest()}", other)
    assert denies(f"sha256:{sha256(der).hexdigest()}", WORKLOAD)


@pytest.mark.parametrize(
    "line",
    [
        "release",
        "spiffe://",
        f"spiffe://{PROD}",
        f"spiffe://{PROD}/ns/*/sa/release",
        f"spiffe://{PROD}/ns*",
        f"spiffe://{PROD.upper()}/ns/a",
        f"{RELEASE} # gone",
        "https://login.example.org",
        "https://login.example.org#",
        "ftp://login.example.org#1",
        "person:",
        f"person:{'x' * 201}",
        "sha256:00",
        f"sha256:{'g' * 64}",
        f"sha256:{'0' * 65}",
        "serial:12",
        "serial:xy@prod.example.org",
        "serial:12@prod.example.org/ns/a/..",
        "serial:@prod.example.org",
        "SPIFFE://prod.example.org/a",
        "x" * (MAX_LENGTH + 1),
    ],
)
def test_a_bad_line_is_named_with_its_file(path: Path, line: str) -> None:
    path.write_text(f"# first\n{line}\n{RELEASE}\n")
    with pytest.raises(ConfigurationError) as caught:
        DenyList(path)
    assert str(caught.value).startswith(f"identity.deny_list: {path}: line 2: ")
    assert caught.value.next_step


def test_what_is_not_utf8_is_a_bad_line(path: Path) -> None:
    path.write_bytes(b"person:\xff\n")
    with pytest.raises(ConfigurationError, match="line 1: is not UTF-8"):
        DenyList(path)


def test_a_missing_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"identity\.deny_list: cannot read .*gone\.txt: No such file"):
        DenyList(tmp_path / "gone.txt")


def test_as_many_lines_as_are_allowed_are_taken_and_not_one_more() -> None:
    whole = "".join(f"person:{place}\n" for place in range(MAX_LINES))
    assert len(parse_deny_list(whole.encode())) == MAX_LINES
    with pytest.raises(ValueError, match="has more than 100000 lines"):
        parse_deny_list(f"{whole}#".encode())


def test_without_a_file_nobody_is_denied() -> None:
    assert allowed(DenyList(None), WORKLOAD)


async def test_a_changed_list_counts_for_whom_is_known_already(path: Path) -> None:
    deny_list = DenyList(path)
    assert allowed(deny_list, WORKLOAD)
    path.write_text(f"{RELEASE}\n")
    await deny_list.refresh()
    assert not allowed(deny_list, WORKLOAD)
    assert (allowed(deny_list, TOKEN), deny_list.generation) == (True, 1)
    path.write_text(f"{TOKEN.subject}\n")
    await deny_list.refresh()
    assert (allowed(deny_list, WORKLOAD), allowed(deny_list, TOKEN)) == (True, False)


async def test_a_list_replaced_by_another_file_of_the_same_length_and_time_counts(path: Path) -> None:
    path.write_text("person:first\n")
    old = path.stat().st_mtime_ns - 10**10
    os.utime(path, ns=(old, old))
    deny_list = DenyList(path)
    await deny_list.refresh()
    assert not allowed(deny_list, PERSON)
    other = path.with_name("other")
    other.write_text("person:third\n")
    os.utime(other, ns=(old, old))
    other.rename(path)
    await deny_list.refresh()
    assert allowed(deny_list, PERSON)


async def test_a_list_that_cannot_be_read_does_not_let_anybody_in_again(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(f"{RELEASE}\n")
    deny_list = DenyList(path)
    path.write_text(f"{TOKEN.subject}\nrelease\n")
    with caplog.at_level(logging.ERROR):
        for _ in range(4):
            await deny_list.refresh()
        assert [one for one in caplog.messages if "line 2" in one and str(path) in one] == caplog.messages
        assert len(caplog.messages) == 1
        path.unlink()
        for _ in range(4):
            await deny_list.refresh()
        assert len(caplog.messages) == 2
        assert "No such file" in caplog.messages[1]
    assert (allowed(deny_list, WORKLOAD), allowed(deny_list, TOKEN)) == (False, True)
    path.write_text("")
    await deny_list.refresh()
    assert allowed(deny_list, WORKLOAD)


async def test_what_is_decided_is_decided_once_and_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text(f"{RELEASE}\n")
    deny_list = DenyList(path)
    monkeypatch.setattr(DenyList, "_CACHE_LIMIT", 4)
    for place in range(12):
        assert allowed(deny_list, Principal("acme", f"{RELEASE}-{place}", Role.CI))
        assert not allowed(deny_list, WORKLOAD)
        assert len(deny_list._decided) <= 4


@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
def test_bytes_are_a_list_or_are_refused_with_their_line(data: bytes) -> None:
    try:
        found = parse_deny_list(data)
    except ValueError as error:
        assert str(error).startswith("line ")  # noqa: PT017  (most are refused, and some are right)
    else:
        assert len(found) <= data.count(b"\n") + 1


SEGMENTS = st.lists(st.sampled_from(["a", "b", "ab", "..."]), min_size=1, max_size=4)


@given(SEGMENTS, SEGMENTS)
def test_below_means_more_segments_of_the_same_beginning(base: list[str], path: list[str]) -> None:
    subject = Principal("acme", f"spiffe://{PROD}/{'/'.join(path)}", Role.CI)
    below = len(path) > len(base) and path[: len(base)] == base
    assert denies(f"spiffe://{PROD}/{'/'.join(base)}/*", subject) is below


def test_a_renewed_certificate_of_a_denied_one_has_another_number() -> None:
    renewed = CA.issue(RELEASE, lifetime=DAY + timedelta(hours=1))
    other = Principal("acme", RELEASE, Role.CI, issuer=PROD, certificate=renewed.der)
    assert not denies(f"serial:{SVID.certificate.serial_number:x}@{PROD}", other)
