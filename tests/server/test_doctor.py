"""``sealkeeper doctor --gateway``: it finds the usual mistakes, says what to do, and is content with a good gateway."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from sealkeeper.server.audit import AuditRecord
from sealkeeper.server.doctor import check
from sealkeeper.server.initialise import Plan, initialise
from sealkeeper.server.local_ca import LocalCa, host_names
from sealkeeper.server.log import Submission, open_logs
from tests.e2e.running import ANY_PORT, DOMAIN, TENANT, Running
from tests.log.signer import signers
from tests.ports import free_ports
from tests.stores.softhsm import softhsm

NOW = datetime.now(UTC)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made") / "gateway"
    asyncio.run(initialise(Plan(directory, DOMAIN, TENANT, None, {}, ANY_PORT, ANY_PORT, ANY_PORT)))
    return directory


@pytest.fixture
def directory(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "gateway")


@pytest.fixture
def now() -> datetime:
    """The time when the test runs: the run may have begun before the gateway's certificates were valid."""
    return datetime.now(UTC)


def change(directory: Path, old: str, new: str) -> None:
    path = directory / "sealkeeper.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def failures(directory: Path, now: datetime | None = None) -> dict[str, str]:
    """What is wrong, by the check's name; each comes with something to do."""
    failed = [one for one in check(directory, now) if not one[1]]
    assert all(next_step for _, _, _, next_step in failed)
    return {name: detail for name, _, detail, _ in failed}


def test_a_good_gateway_passes_every_check(directory: Path) -> None:
    findings = check(directory)
    assert failures(directory) == {}
    assert {name for name, *_ in findings} >= {"settings", "state", "tls", "provider main", "gateway.listen", "clock"}


def listen(directory: Path, ports: list[int]) -> None:
    for port in ports:
        change(directory, ANY_PORT, f"127.0.0.1:{port}")


def test_a_gateway_that_runs_answers_on_its_ports_and_that_is_fine(directory: Path) -> None:
    listen(directory, free_ports(3))
    gateway = Running(directory)
    with gateway.running():
        found = {name: (passed, detail) for name, passed, detail, _ in check(directory)}
        assert failures(directory) == {}
    for name in ("gateway.listen", "http.listen", "telemetry.metrics_listen"):
        assert "the gateway answers" in found[name][1]


def test_a_port_that_somebody_else_has_is_found(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listen(directory, [port])
        assert failures(directory) == {"gateway.listen": f"127.0.0.1:{port}: Address already in use"}


@pytest.mark.parametrize(
    ("address", "said"), [("192.0.2.1:8443", "Cannot assign requested address"), ("nowhere.invalid:8443", "nowhere")]
)
def test_an_address_that_is_not_this_machines_is_found(directory: Path, address: str, said: str) -> None:
    change(directory, ANY_PORT, address)
    assert said in failures(directory)["gateway.listen"]


def replace_certificate(directory: Path, hosts: list[str], start: datetime) -> None:
    pair = LocalCa.read(directory).issue_server(host_names(hosts), start, 90 * DAY)
    pair.write(directory / "tls" / "server.pem", directory / "tls" / "server.key")


@pytest.mark.parametrize(
    ("start", "said"),
    [(NOW - 91 * DAY, "has expired"), (NOW + DAY, "is not valid before"), (NOW - 2000 * DAY, "has expired")],
)
def test_a_certificate_that_is_not_valid_now_is_found(directory: Path, start: datetime, said: str) -> None:
    replace_certificate(directory, [DOMAIN], start)
    [(name, detail)] = failures(directory).items()
    assert (name, "gateway.tls.certificate" in detail, said in detail) == ("tls", True, True)


def test_a_certificate_that_ends_soon_passes_and_is_spoken_of(directory: Path) -> None:
    replace_certificate(directory, [DOMAIN], NOW - 80 * DAY)
    [(_, passed, detail, next_step)] = [one for one in check(directory) if one[0] == "tls"]
    assert (passed, "expires soon" in detail, "sealkeeper issue" in next_step) == (True, True, True)


@pytest.mark.parametrize(
    ("hosts", "listen_address", "fits"),
    [
        ([DOMAIN], "127.0.0.1:0", True),
        (["127.0.0.1"], "127.0.0.1:0", True),
        (["other.example"], "127.0.0.1:0", False),
        (["127.0.0.1"], "0.0.0.0:0", False),
        (["*.example"], "0.0.0.0:0", True),
        (["*.example"], "[::]:0", True),
    ],
)
def test_a_certificate_for_other_names_than_callers_use_is_found(
    directory: Path, hosts: list[str], listen_address: str, fits: bool
) -> None:
    names = [x509.DNSName(one) if "*" in one else host_names([one])[0] for one in hosts]
    pair = LocalCa.read(directory).issue_server(names, NOW, DAY * 90)
    pair.write(directory / "tls" / "server.pem", directory / "tls" / "server.key")
    change(directory, ANY_PORT, listen_address)
    found = failures(directory)
    assert ("tls" not in found) == fits
    if not fits:
        assert f"is for {', '.join(hosts)}" in found["tls"]
        assert DOMAIN in found["tls"]


def test_a_key_of_another_certificate_is_found(directory: Path) -> None:
    shutil.copy(directory / "tls" / "ca.key", directory / "tls" / "server.key")
    assert "gateway.tls.key" in failures(directory)["tls"]


def test_a_certificate_that_is_not_pem_is_found_and_not_blamed_on_the_port(directory: Path) -> None:
    (directory / "tls" / "server.pem").write_bytes(b"\x30\x82" * 100)
    [(name, detail)] = failures(directory).items()
    assert (name, "server.pem is not a PEM file" in detail) == ("tls", True)


def _without_state(directory: Path) -> None:
    shutil.rmtree(directory / "state")


def _state_is_a_file(directory: Path) -> None:
    _without_state(directory)
    (directory / "state").write_text("")


@pytest.mark.parametrize("spoil", [_without_state, _state_is_a_file])
def test_a_missing_state_folder_is_found_and_the_other_checks_go_on(
    directory: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(directory)
    found = failures(directory)
    assert str(directory / "state") in found["state"]
    assert "authorities" in found
    assert {"settings", "tls", "provider main", "http.listen"} <= {name for name, *_ in check(directory)}
    assert not (directory / "state" / "logs").exists()


async def record_at(directory: Path, time: datetime) -> None:
    """Leave an audit record as a kill does: in the journal, and not yet in tiles."""
    logs = directory / "state" / "logs"
    killed = directory / "state" / "killed"
    sequencer = await open_logs(logs, signers(), publish_interval=3600)
    try:
        for _ in range(2):
            await sequencer.submit(Submission(audit=[AuditRecord(time, "Test/Method").encode()]))
        shutil.copytree(logs, killed)
    finally:
        await sequencer.close()
    shutil.rmtree(logs)
    killed.rename(logs)


async def test_a_clock_behind_the_newest_record_is_found_in_the_journal_of_a_killed_gateway(
    directory: Path, now: datetime
) -> None:
    await record_at(directory, now + timedelta(minutes=2))
    before = sorted((directory / "state" / "logs").rglob("*"))
    found = await asyncio.to_thread(failures, directory, now)
    assert found == {"clock": "the machine's clock is 120 s behind the newest record of the audit log"}
    assert await asyncio.to_thread(failures, directory, now + timedelta(seconds=115)) == {}
    assert sorted((directory / "state" / "logs").rglob("*")) == before


async def test_a_clock_behind_the_newest_record_is_found_in_the_tiles_of_a_gateway_that_has_ended(
    directory: Path, now: datetime
) -> None:
    logs = await open_logs(directory / "state" / "logs", signers())
    records = [AuditRecord(now + timedelta(seconds=number), "Test/Method").encode() for number in range(300)]
    await logs.submit(Submission(audit=records))
    await logs.close()
    found = await asyncio.to_thread(failures, directory, now)
    assert found == {"clock": "the machine's clock is 299 s behind the newest record of the audit log"}


async def test_a_clock_behind_the_newest_record_is_found_beside_a_gateway_that_runs(
    directory: Path, now: datetime
) -> None:
    logs = await open_logs(directory / "state" / "logs", signers())
    try:
        await logs.submit(Submission(audit=[AuditRecord(now + timedelta(minutes=2), "Test/Method").encode()]))
        await logs.published("audit", 1)
        found = await asyncio.to_thread(failures, directory, now)
    finally:
        await logs.close()
    assert found == {"clock": "the machine's clock is 120 s behind the newest record of the audit log"}


async def test_logs_that_cannot_be_read_are_said_to_be_so(directory: Path, now: datetime) -> None:
    await record_at(directory, now)
    (directory / "state" / "logs" / "state.json").write_text("{")
    found = await asyncio.to_thread(failures, directory, now)
    assert "newest record of the audit log cannot be read" in found["clock"]


@pytest.fixture
def token(directory: Path, tmp_path: Path) -> Iterator[Path]:
    """Its keys are in a SoftHSM2 token; answers the file with the PIN."""
    (tmp_path / "token").mkdir()
    with softhsm(tmp_path / "token") as uri:
        change(directory, 'uri = "', f'uri = "{uri}"\n# "')
        change(directory, "environment = {  }", f'environment = {{ SOFTHSM2_CONF = "{os.environ["SOFTHSM2_CONF"]}" }}')
        yield tmp_path / "token" / "pin"


def test_a_token_that_opens_passes(directory: Path, token: Path) -> None:
    assert token.exists()
    assert failures(directory) == {}


def test_a_wrong_pin_is_found_and_tried_only_once(directory: Path, token: Path) -> None:
    token.write_text("wrong\n")
    assert "PIN" in failures(directory)["provider main"]
    assert "not tried again" in failures(directory)["provider main"]


def test_a_missing_pin_file_is_found(directory: Path, token: Path) -> None:
    token.unlink()
    assert "PIN file cannot be read" in failures(directory)["provider main"]


def test_a_wrong_library_is_found(directory: Path, token: Path) -> None:
    assert token.exists()
    change(directory, "libsofthsm2.so", "libnothing.so")
    assert "module cannot be loaded" in failures(directory)["provider main"]


def test_a_store_that_is_not_known_is_found(directory: Path) -> None:
    change(directory, "software:", "vault:")
    assert "vault" in failures(directory)["provider main"]
