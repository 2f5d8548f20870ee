"""Certificates and bundles replaced under a real gRPC server, with connections that live on."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from sealkeeper.server.certificate_identity import CertificateAuthenticator
from sealkeeper.server.deny_list import DenyList
from sealkeeper.server.errors import ConfigurationError, UnauthenticatedError
from sealkeeper.server.identity import Caller, Role
from sealkeeper.server.identity_settings import SpiffeRule, TrustDomainSettings
from sealkeeper.server.local_ca import LocalCa, host_names
from sealkeeper.server.settings import TlsSettings
from sealkeeper.server.tls_reload import TlsReload
from tests.server.svids import DAY, Ca, NamedPeople, Svid, bundle, jwk

NOW = datetime.now(UTC).replace(microsecond=0)
OWN, PROD, STAGE = "sealkeeper.example", "prod.example.org", "stage.example.org"
RELEASE = f"spiffe://{PROD}/ns/build/sa/release"
STAGED = f"spiffe://{STAGE}/ns/build/sa/release"
FIRST = f"spiffe://{OWN}/tenants/acme/roles/custodian/first"
ASK = "/sealkeeper.test/Ask"
WITHIN = 20


@dataclass
class Place:
    """A gateway's folder: its TLS, and the CAs of it all."""

    folder: Path
    local: LocalCa
    prod: Ca
    stage: Ca
    ahead: int = 0

    @classmethod
    def make(cls, folder: Path) -> Place:
        place = cls(folder, LocalCa.create(OWN, NOW), Ca.make(NOW), Ca.make(NOW))
        place.renew()
        place.write("ca.pem", place.local.pem)
        place.write("prod.pem", place.prod.pem)
        place.write("stage.json", bundle(jwk(place.stage)))
        return place

    @property
    def tls(self) -> TlsSettings:
        return TlsSettings(
            certificate=self.folder / "server.pem", key=self.folder / "server.key", client_ca=self.folder / "ca.pem"
        )

    @property
    def trust_domains(self) -> dict[str, TrustDomainSettings]:
        rules = [SpiffeRule(path="/ns/{namespace}/sa/{service_account}", tenant="acme", role=Role.CI)]
        files = {PROD: "prod.pem", STAGE: "stage.json"}
        return {name: TrustDomainSettings(bundle=self.folder / file, principals=rules) for name, file in files.items()}

    def write(self, name: str, data: bytes) -> None:
        """As a tool does that replaces a file at once."""
        partial = self.folder / f".{name}"
        partial.write_bytes(data)
        partial.rename(self.folder / name)

    def server(self) -> Svid:
        pair = self.local.issue_server(host_names(["127.0.0.1", "localhost"]), NOW, 5 * DAY)
        return Svid(pair.certificate, pair.key)

    def renew(self) -> Svid:
        svid = self.server()
        self.write("server.pem", svid.pem)
        self.write("server.key", svid.key_pem)
        return svid

    def client(self, name: str) -> Svid:
        pair = self.local.issue_client(name, NOW, DAY)
        return Svid(pair.certificate, pair.key)

    def settle(self) -> None:
        """Make all files an hour old: nothing is in the midst of being replaced."""
        for path in self.folder.iterdir():
            then = path.stat().st_mtime_ns - 3600 * 10**9
            os.utime(path, ns=(then, then))

    def reload(self) -> TlsReload:
        return TlsReload(self.tls, OWN, self.trust_domains, lambda: datetime.now(UTC) + self.ahead * DAY)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place.make(tmp_path)


@dataclass
class Served:
    place: Place
    reload: TlsReload
    deny_list: DenyList
    address: str
    token_address: str

    def certificate(self, address: str | None = None) -> x509.Certificate:
        """What a handshake from now on shows."""
        host, _, port = (address or self.address).rpartition(":")
        pem = ssl.get_server_certificate((host, int(port)), timeout=WITHIN)
        return x509.load_pem_x509_certificate(pem.encode())

    @asynccontextmanager
    async def connected(self, client: Svid) -> AsyncIterator[Callable[[], Awaitable[str]]]:
        """A connection of its own; what it gives asks who the server takes the caller for."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        credentials = client.credentials(self.place.local.pem)
        async with grpc.aio.secure_channel(self.address, credentials, options=options) as channel:
            ask = channel.unary_unary(ASK, bytes, bytes)

            async def asked() -> str:
                try:
                    return str(await ask(b"", timeout=WITHIN), "utf-8")
                except grpc.aio.AioRpcError as error:
                    return (
                        error.details() or "" if error.code() is grpc.StatusCode.UNAUTHENTICATED else error.code().name
                    )

            yield asked

    async def asked_anew(self, client: Svid) -> str:
        async with self.connected(client) as asked:
            return await asked()


@asynccontextmanager
async def served(place: Place) -> AsyncIterator[Served]:
    reload = place.reload()
    deny_file = place.folder / "deny.txt"
    deny_file.touch()
    deny_list = DenyList(deny_file)
    authenticator = CertificateAuthenticator(OWN, reload, place.trust_domains, NamedPeople())

    async def ask(_: bytes, context: Any) -> bytes:
        caller = Caller(context.auth_context(), {}, context.peer())
        try:
            principal = await authenticator.authenticate(caller, datetime.now(UTC))
            deny_list.require_allowed(principal)
        except UnauthenticatedError as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, error.reason)
            raise
        return principal.subject.encode()

    handler = grpc.method_handlers_generic_handler("sealkeeper.test", {"Ask": grpc.unary_unary_rpc_method_handler(ask)})
    server = grpc.aio.server(handlers=[handler])
    port = server.add_secure_port("127.0.0.1:0", reload.credentials())
    token_port = server.add_secure_port("127.0.0.1:0", reload.token_credentials())
    await server.start()
    try:
        yield Served(place, reload, deny_list, f"127.0.0.1:{port}", f"127.0.0.1:{token_port}")
    finally:
        await server.stop(None)


async def test_a_new_server_certificate_is_shown_while_connections_live_on(place: Place) -> None:
    async with served(place) as gateway, gateway.connected(place.client(FIRST)) as asked:
        assert await asked() == FIRST
        before = await asyncio.to_thread(gateway.certificate, gateway.token_address)
        renewed = place.renew()
        await gateway.reload.refresh()
        shown = await asyncio.to_thread(gateway.certificate, gateway.token_address)
        assert (shown, shown == before) == (renewed.certificate, False)
        assert gateway.reload.leaf == renewed.certificate
        assert await asked() == FIRST
        assert await gateway.asked_anew(place.client(FIRST)) == FIRST


async def test_each_server_gets_a_change_by_credentials_of_its_own(place: Place) -> None:
    reload = place.reload()
    servers = [grpc.aio.server() for _ in range(3)]
    try:
        ports = [one.add_secure_port("127.0.0.1:0", reload.token_credentials()) for one in servers]
        for one in servers:
            await one.start()
        renewed = place.renew()
        await reload.refresh()
        for port in ports:
            for _ in range(2):
                pem = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port), timeout=WITHIN)
                assert x509.load_pem_x509_certificate(pem.encode()) == renewed.certificate
    finally:
        for one in servers:
            await one.stop(None)


async def test_a_new_ca_is_accepted_from_the_next_handshake_on(place: Place) -> None:
    new = Ca.make(NOW)
    async with served(place) as gateway:
        assert await gateway.asked_anew(new.issue(RELEASE)) == "UNAVAILABLE"
        place.write("prod.pem", place.prod.pem + new.pem)
        await gateway.reload.refresh()
        assert await gateway.asked_anew(new.issue(RELEASE)) == RELEASE
        assert await gateway.asked_anew(place.prod.issue(RELEASE)) == RELEASE


async def test_a_ca_that_is_gone_vouches_for_no_connection_new_or_old(place: Place) -> None:
    svid, new = place.prod.issue(RELEASE), Ca.make(NOW)
    async with served(place) as gateway, gateway.connected(svid) as asked:
        assert await asked() == RELEASE
        place.write("prod.pem", new.pem)
        await gateway.reload.refresh()
        assert await asked() == "CERTIFICATE_INVALID"
        assert await gateway.asked_anew(svid) == "UNAVAILABLE"
        assert await gateway.asked_anew(new.issue(RELEASE)) == RELEASE


async def test_a_ca_of_the_gateways_own_domain_that_is_gone_vouches_for_nobody(place: Place) -> None:
    svid, new = place.client(FIRST), LocalCa.create(OWN, NOW)
    async with served(place) as gateway, gateway.connected(svid) as asked:
        assert await asked() == FIRST
        place.write("ca.pem", new.pem)
        await gateway.reload.refresh()
        assert await asked() == "CERTIFICATE_INVALID"
        assert await gateway.asked_anew(svid) == "UNAVAILABLE"


async def test_a_ca_does_not_certify_names_of_another_domain(place: Place) -> None:
    async with served(place) as gateway:
        assert await gateway.asked_anew(place.stage.issue(STAGED)) == STAGED
        for svid in (place.stage.issue(RELEASE), place.stage.issue(FIRST), place.client(RELEASE)):
            assert await gateway.asked_anew(svid) == "CERTIFICATE_DOMAIN_MISMATCH"


async def test_an_intermediate_in_a_bundle_is_an_anchor_for_tls_too(place: Place) -> None:
    intermediate = Ca.make(NOW, parent=place.prod)
    place.write("prod.pem", intermediate.pem)
    async with served(place) as gateway:
        assert await gateway.asked_anew(intermediate.issue(RELEASE)) == RELEASE
        assert await gateway.asked_anew(place.prod.issue(RELEASE)) == "UNAVAILABLE"


async def test_who_is_denied_is_refused_at_the_next_call(place: Place) -> None:
    async with served(place) as gateway, gateway.connected(place.prod.issue(RELEASE)) as asked:
        assert await asked() == RELEASE
        place.write("deny.txt", f"{RELEASE}\n".encode())
        await gateway.deny_list.refresh()
        assert await asked() == "IDENTITY_DENIED"
        assert await gateway.asked_anew(place.stage.issue(STAGED)) == STAGED


async def test_a_set_that_is_half_replaced_is_waited_for_and_not_complained_of(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    reload, before, renewed = place.reload(), place.reload().leaf, place.server()
    with caplog.at_level(logging.INFO):
        place.write("server.pem", renewed.pem)
        await reload.refresh()
        assert reload.leaf == before
        place.write("server.key", renewed.key_pem)
        await reload.refresh()
    assert reload.leaf == renewed.certificate
    [said] = caplog.messages
    assert said.startswith("taken: gateway.tls.certificate, valid until ")


async def test_what_is_no_good_is_said_once_and_the_old_set_stays(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    reload = place.reload()
    bundles, leaf = reload.bundles, reload.leaf
    place.write("server.key", place.server().key_pem)
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            await reload.refresh()
        assert len(caplog.messages) == 1
        assert "gateway.tls.key: " in caplog.messages[0]
        place.write("prod.pem", b"nothing")
        place.renew()
        for _ in range(5):
            await reload.refresh()
        assert len(caplog.messages) == 2
        assert f"trust_domains.{PROD}.bundle: " in caplog.messages[1]
    assert (reload.bundles, reload.leaf) == (bundles, leaf)
    assert not [one for one in caplog.messages if "PRIVATE" in one]


async def test_a_certificate_that_comes_too_early_is_taken_once_it_is_valid(place: Place) -> None:
    reload, before = place.reload(), place.reload().leaf
    early = Ca.make(NOW + 3 * DAY)
    place.write("prod.pem", early.pem)
    place.settle()
    await reload.refresh()
    await reload.refresh()
    assert reload.bundles.authorities[PROD] == (place.prod.certificate,)
    place.ahead = 4
    await reload.refresh()
    assert reload.bundles.authorities[PROD] == (early.certificate,)
    assert reload.leaf == before


async def test_what_has_expired_does_not_keep_the_rest_from_being_replaced(place: Place) -> None:
    reload = place.reload()
    place.ahead = 20
    new = Ca.make(NOW + 20 * DAY)
    place.write("prod.pem", new.pem)
    await reload.refresh()
    assert reload.bundles.authorities[PROD] == (new.certificate,)
    with pytest.raises(ConfigurationError, match="has expired"):
        place.reload()


async def test_files_that_are_the_same_change_nothing(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    reload, told = place.reload(), []
    reload.on_change(lambda: told.append(reload.bundles.generation))
    before = reload.bundles
    with caplog.at_level(logging.INFO):
        place.settle()
        await reload.refresh()
        place.write("prod.pem", place.prod.pem)
        await reload.refresh()
    assert (reload.bundles, told, caplog.messages) == (before, [], [])


async def test_listeners_are_told_and_people_see_what_was_taken(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    reload, told = place.reload(), []
    reload.on_change(lambda: told.append(reload.bundles.generation))
    with caplog.at_level(logging.INFO):
        place.write("prod.pem", Ca.make(NOW).pem + Ca.make(NOW).pem)
        await reload.refresh()
        place.write("ca.pem", place.local.pem + Ca.make(NOW).pem)
        await reload.refresh()
    assert told == [1, 2]
    assert caplog.messages == [
        f"taken: trust_domains.{PROD}.bundle, 2 CA certificates, 2 of them new, 1 gone",
        "taken: gateway.tls.client_ca, 2 CA certificates, 1 of them new, 0 gone",
    ]


async def test_a_file_written_again_within_the_clock_of_the_file_system_is_noticed(place: Place) -> None:
    reload = place.reload()
    path = place.folder / "prod.pem"
    new = Ca.make(NOW)
    before = path.stat()
    path.write_bytes(new.pem.ljust(before.st_size, b"\n")[: max(before.st_size, len(new.pem))])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    await reload.refresh()
    assert reload.bundles.authorities[PROD] == (new.certificate,)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("server.pem", "gateway.tls.certificate"),
        ("server.key", "gateway.tls.key"),
        ("ca.pem", "gateway.tls.client_ca"),
        ("prod.pem", f"trust_domains.{PROD}.bundle"),
        ("stage.json", f"trust_domains.{STAGE}.bundle"),
    ],
)
@pytest.mark.parametrize("data", [None, b"nothing", b"x" * (1024 * 1024 + 1)])
def test_a_file_that_is_no_good_stops_the_start(place: Place, name: str, setting: str, data: bytes | None) -> None:
    if data is None:
        (place.folder / name).unlink()
    else:
        place.write(name, data)
    with pytest.raises(ConfigurationError) as caught:
        place.reload()
    assert str(caught.value).startswith(f"{setting}: ")
    assert str(place.folder / name) in str(caught.value)


def test_bundles_are_those_of_the_files(place: Place) -> None:
    found = place.reload().bundles
    assert {name: [one.public_bytes(Encoding.DER) for one in ones] for name, ones in found.authorities.items()} == {
        OWN: [place.local.pair.certificate.public_bytes(Encoding.DER)],
        PROD: [place.prod.der],
        STAGE: [place.stage.der],
    }
