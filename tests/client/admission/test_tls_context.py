"""Certificate, key and CA are replaced without a restart, and only by what is good as a whole."""

from __future__ import annotations

import asyncio
import logging
import ssl
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from sealkeeper.client.admission import tls_context
from sealkeeper.client.admission.settings import TlsPaths
from sealkeeper.client.admission.tls_context import ReloadedTls
from sealkeeper.client.errors import ConfigurationError
from sealkeeper.client.tls_files import check_identity
from tests.client.admission import reviews
from tests.client.admission.deciding import ScriptedDecider, settings
from tests.client.admission.tls_calls import Authority, Served, caller, served


class NotAnsweredError(Exception):
    """The connection was closed without an answer."""


async def serial(webhook: Served, context: ssl.SSLContext | None = None) -> int:
    """Serial number of the certificate that a new connection sees, which is answered.

    Raises:
        NotAnsweredError: it is not.
    """
    host, _, port = webhook.webhook.address.rpartition(":")
    tls = context or webhook.tls
    reader, writer = await asyncio.open_connection(host, int(port), ssl=tls, server_hostname="localhost")
    try:
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        # A caller's certificate is refused after the handshake, as far as the caller can tell.
        answer = b""
        with suppress(OSError):
            answer = await reader.read()
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise NotAnsweredError
        found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.close()
    return x509.load_der_x509_certificate(found).serial_number


async def test_a_new_certificate_is_used_for_new_connections(tmp_path: Path) -> None:
    async with served(settings(), ScriptedDecider(), tmp_path) as webhook:
        first = await serial(webhook)
        Authority.make(tmp_path, "new").serve()
        await webhook.webhook.refresh_tls()
        second = await serial(webhook, caller(tmp_path / "new.crt"))
        assert first != second
        ends = webhook.webhook.metrics.certificate_not_after.value()
        assert ends > datetime.now(UTC).timestamp()


async def test_a_connection_that_is_there_lives_on(tmp_path: Path) -> None:
    async with served(settings(), ScriptedDecider(), tmp_path) as webhook:
        assert (await webhook.review(reviews.create_pod()))["allowed"]
        Authority.make(tmp_path, "new").serve()
        await webhook.webhook.refresh_tls()
        # The client knows the old CA only: this works on the connection that it has kept, and on no other.
        assert (await webhook.review(reviews.create_pod()))["allowed"]
        with pytest.raises(ssl.SSLCertVerificationError):
            await serial(webhook)


async def test_callers_of_a_new_ca_are_answered_and_those_of_the_old_one_no_more(tmp_path: Path) -> None:
    old = Authority.make(tmp_path, "callers").call(tmp_path / "callers.crt", "old-caller")
    async with served(settings(), ScriptedDecider(), tmp_path, tmp_path / "callers.crt", old) as webhook:
        old.load_verify_locations(tmp_path / "ca.crt")
        await serial(webhook)
        new = Authority.make(tmp_path, "callers").call(tmp_path / "ca.crt", "new-caller")
        with pytest.raises(NotAnsweredError):
            await serial(webhook, new)
        await webhook.webhook.refresh_tls()
        await serial(webhook, new)
        with pytest.raises(NotAnsweredError):
            await serial(webhook, old)


async def test_sessions_are_not_resumed_so_that_every_handshake_checks_the_caller(tmp_path: Path) -> None:
    async with served(settings(), ScriptedDecider(), tmp_path) as webhook:
        host, _, port = webhook.webhook.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=webhook.tls, server_hostname="localhost")
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        connection = writer.get_extra_info("ssl_object")
        assert connection.version() == "TLSv1.3"
        assert connection.session is None or not connection.session.has_ticket
        writer.close()


async def test_half_of_a_change_is_not_taken_and_the_whole_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with served(settings(), ScriptedDecider(), tmp_path) as webhook:
        first = await serial(webhook)
        other = Authority.make(tmp_path, "new")
        key = webhook.paths.key.read_bytes()
        other.serve()
        new_key = webhook.paths.key.read_bytes()
        webhook.paths.key.write_bytes(key)
        with caplog.at_level(logging.ERROR):
            await webhook.webhook.refresh_tls()
            await webhook.webhook.refresh_tls()
        assert await serial(webhook) == first
        assert len([one for one in caplog.records if "is not taken" in one.message]) == 1
        assert webhook.webhook.metrics.errors.value("tls_files") == 2
        webhook.paths.key.write_bytes(new_key)
        await webhook.webhook.refresh_tls()
        assert await serial(webhook, caller(tmp_path / "new.crt")) != first


@pytest.mark.parametrize("damage", ["gone", "empty", "cut"])
async def test_what_is_no_certificate_is_not_taken(tmp_path: Path, damage: str) -> None:
    async with served(settings(), ScriptedDecider(), tmp_path) as webhook:
        first = await serial(webhook)
        path = webhook.paths.certificate
        data = path.read_bytes()
        path.unlink()
        if damage != "gone":
            path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"")
        await webhook.webhook.refresh_tls()
        assert await serial(webhook) == first


async def test_a_caller_with_older_tls_is_not_answered(tmp_path: Path) -> None:
    async with served(settings(), ScriptedDecider(), tmp_path) as webhook:
        webhook.tls.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await serial(webhook)


async def test_files_that_are_replaced_while_they_are_read_are_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = Authority.make(tmp_path).serve()
    tls = ReloadedTls(paths)
    other = Authority.make(tmp_path, "new")
    other.serve()
    checked = check_identity

    def replacing(certificate: Path | None, key: Path | None, now: datetime) -> None:
        checked(certificate, key, now)
        other.serve()

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(tls_context, "check_identity", replacing)
        assert await tls.refresh() is False
    assert await tls.refresh() is True
    assert tls.leaf == x509.load_pem_x509_certificates(paths.certificate.read_bytes())[0]


async def test_files_that_break_whoever_reads_them_are_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(settings(), ScriptedDecider(), tmp_path) as webhook:
        first = await serial(webhook)
        Authority.make(tmp_path, "new").serve()
        with monkeypatch.context() as broken:
            broken.setattr(tls_context, "check_identity", lambda *_: 1 / 0)
            await webhook.webhook.refresh_tls()
        assert await serial(webhook) == first
        await webhook.webhook.refresh_tls()
        assert await serial(webhook, caller(tmp_path / "new.crt")) != first


async def test_a_change_of_nothing_is_none(tmp_path: Path) -> None:
    tls = ReloadedTls(Authority.make(tmp_path).serve())
    assert await tls.refresh() is False


def refused(paths: TlsPaths, now: datetime | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        ReloadedTls(paths, lambda: now or datetime.now(UTC))
    assert caught.value.next_step
    return str(caught.value)


def test_files_that_cannot_be_used_are_named_at_the_start(tmp_path: Path) -> None:
    paths = Authority.make(tmp_path).serve()
    Authority.make(tmp_path, "other").ca.pair.write(tmp_path / "other.crt", tmp_path / "other.key")
    assert refused(replace(paths, certificate=tmp_path / "none.crt")).startswith("certificate: cannot read")
    assert refused(replace(paths, key=tmp_path / "other.key")).startswith("key: ")
    assert refused(replace(paths, client_ca=tmp_path / "other.key")).startswith("client_ca: ")


def test_a_certificate_that_has_expired_is_refused_at_the_start(tmp_path: Path) -> None:
    paths = Authority.make(tmp_path).serve()
    assert "expired" in refused(paths, datetime.now(UTC) + timedelta(days=30))
