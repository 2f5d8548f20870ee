"""What those who run a gateway see: start, stop, health, metrics, mistakes."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from sealkeeper.client import Client, Connection, message_content
from sealkeeper.client.errors import ClientError, UnavailableError
from sealkeeper.server.identity import Role
from sealkeeper.server.issuing import Caller, issue_caller, renew_server
from tests.e2e.running import ANY_PORT, P256, PARENT, TENANT, Running
from tests.ports import free_ports


def channel(gateway: Running, role: str = "verifier") -> grpc.Channel:
    connection = gateway.connection(role)
    return grpc.secure_channel(connection.endpoint, connection.credentials())


def test_health_and_reflection_are_the_standard_ones(gateway: Running) -> None:
    with channel(gateway) as open_channel:
        health = health_pb2_grpc.HealthStub(open_channel)
        for service in ("", "sealkeeper.v1.SigningService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(open_channel)
        requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        [answer] = reflection.ServerReflectionInfo(requests, timeout=10)
        names = {one.name for one in answer.list_services_response.service}
    assert {f"sealkeeper.v1.{name}Service" for name in ("Key", "Signing", "Log", "Trust")} <= names


def speak_without_certificate(gateway: Running) -> None:
    host, _, port = gateway.addresses["grpc"].rpartition(":")
    context = ssl.create_default_context(cafile=str(gateway.directory / "tls" / "ca.pem"))
    context.set_alpn_protocols(["h2"])
    raw = socket.create_connection((host, int(port)), timeout=10)
    with raw, context.wrap_socket(raw, server_hostname="localhost") as wrapped:
        wrapped.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        if not wrapped.recv(1):
            raise ConnectionResetError


def test_nobody_gets_in_without_a_certificate_of_the_local_ca(gateway: Running, tmp_path: Path) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        speak_without_certificate(gateway)
    stranger = Running.make(tmp_path / "stranger")
    stranger.addresses = gateway.addresses
    with stranger.client("admin", timeout=5) as client, pytest.raises(UnavailableError):
        client.trust_root(PARENT)


def test_metrics_count_calls_refusals_signatures_and_the_log(gateway: Running, key: str) -> None:
    with gateway.client("ci") as ci:
        ci.sign(key, message_content(b"x"))
        with pytest.raises(ClientError):
            list(ci.list_keys(PARENT))
    connection = http.client.HTTPConnection(gateway.addresses["metrics"], timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    for name in (
        "sealkeeper_call_duration_seconds_count",
        "sealkeeper_refusals_total",
        "sealkeeper_signatures_total",
        "sealkeeper_provider_duration_seconds_count",
        "sealkeeper_sequencer_batch_size_count",
        "sealkeeper_sequencer_cycle_duration_seconds_count",
        "sealkeeper_log_size",
        "sealkeeper_log_checkpoint_age_seconds",
    ):
        assert f"\n{name}" in text
    assert 'reason="PERMISSION_DENIED"' in text
    # Labels of what callers make up would grow without bound.
    assert key.rpartition("/")[2] not in text
    assert "spiffe" not in text


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sealkeeper.client.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_port_in_use_is_named(own_gateway: Running) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for setting, old in (("gateway.listen", "[gateway]"), ("http.listen", "[http]")):
            own_gateway.change_settings(lambda text, old=old: _listen(text, old, address))  # type: ignore[misc]
            done = run("serve", str(own_gateway.directory))
            assert done.returncode == 2, done.stderr
            assert setting in done.stderr
            assert "next:" in done.stderr
            own_gateway.change_settings(lambda text, old=old: _listen(text, old, "127.0.0.1:0"))  # type: ignore[misc]


def _listen(text: str, section: str, address: str) -> str:
    before, _, after = text.partition(section)
    head, _, rest = after.partition("listen = ")
    return f'{before}{section}{head}listen = "{address}"\n{rest.partition(chr(10))[2]}'


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[storage]", "[storage]\nspeed = 3", "storage.speed"),
        ('directory = "state"', "", "storage.directory"),
        ("tenants", "tenant", "tenants"),
        ("[gateway]", "[gateway", "not TOML"),
        ('default_provider = "main"', 'default_provider = "moon"', "providers.moon"),
        ("sealkeeper.example", "other.example", "domain"),
        ("tls/server.key", "tls/nothing.key", "tls.key"),
        ("sealing-key-source=file:", "sealing-key-source=file:/nonexistent", "cannot be read"),
    ],
)
def test_a_bad_setting_is_named_and_nothing_starts(own_gateway: Running, old: str, new: str, said: str) -> None:
    own_gateway.change_settings(lambda text: text.replace(old, new))
    done = run("serve", str(own_gateway.directory))
    assert done.returncode in (2, 3)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_plaintext_is_for_loopback_only(own_gateway: Running) -> None:
    own_gateway.change_settings(lambda text: _listen(text, "[gateway]", "0.0.0.0:0"))
    done = run("serve", str(own_gateway.directory), "--insecure")
    assert (done.returncode, "loopback" in done.stderr) == (2, True)


def test_insecure_on_loopback_works_and_says_so(own_gateway: Running) -> None:
    with own_gateway.running(SEALKEEPER_GATEWAY__INSECURE="true"):
        connection = Connection(own_gateway.addresses["grpc"], "acme", insecure=True)
        with Client(connection) as client:
            key = client.create_key(PARENT, "release", "PKIX_ED25519").key.name
            client.sign(key, message_content(b"x"))
    assert "plaintext on loopback" in own_gateway.log_lines()


def test_two_gateways_do_not_share_a_folder(own_gateway: Running) -> None:
    with own_gateway.running():
        done = run("serve", str(own_gateway.directory))
        assert done.returncode == 3
        assert "Another process" in done.stderr or "another process" in done.stderr


def test_sigterm_ends_it_cleanly_and_what_was_signed_is_published(own_gateway: Running) -> None:
    own_gateway.start()
    key = own_gateway.create_key("release")
    with own_gateway.client("ci") as ci:
        index = ci.sign(key, message_content(b"x")).signature.log_index
    assert own_gateway.stop() == 0
    assert (own_gateway.logs / "transparency" / "checkpoint").read_text().split("\n")[1] == str(index + 1)
    lines = [json.loads(line) for line in own_gateway.log_lines().splitlines()]
    assert lines[-1]["message"] == "stopped"


def test_init_refuses_a_folder_in_use_and_leaves_nothing_of_a_failure(own_gateway: Running) -> None:
    before = sorted(own_gateway.directory.rglob("*"))
    done = run("init", str(own_gateway.directory))
    assert (done.returncode, "not empty" in done.stderr) == (2, True)
    assert sorted(own_gateway.directory.rglob("*")) == before
    failed = own_gateway.directory.with_name("failed")
    done = run(
        "init", str(failed), "--provider-uri", "pkcs11:token=x?module-path=/nonexistent&pin-source=file:/nonexistent"
    )
    assert done.returncode in (2, 3)
    assert not failed.exists()


def test_doctor_as_the_readme_has_it_is_content_beside_a_gateway_that_runs(
    own_gateway: Running, tmp_path: Path
) -> None:
    folder = own_gateway.directory
    for port in free_ports(3):
        address = f"127.0.0.1:{port}"
        own_gateway.change_settings(lambda text, address=address: text.replace(ANY_PORT, address, 1))  # type: ignore[misc]
    with own_gateway.running():
        config = ("--config", str(folder / "clients" / "ci.toml"), "--endpoint", own_gateway.addresses["grpc"])
        assert run(*config, "trust", "export", str(tmp_path / "trust")).returncode == 0
        done = run(*config, "doctor", "--gateway", str(folder), "--trust", str(tmp_path / "trust"))
    assert done.returncode == 0, done.stdout
    assert "the gateway answers" in done.stdout


def test_a_caller_to_whom_a_certificate_is_issued_may_do_what_its_role_may(own_gateway: Running) -> None:
    caller = Caller(Role.CI, TENANT, "build-7")
    settings = issue_caller(own_gateway.directory, caller, timedelta(days=1), None, datetime.now(UTC))
    with own_gateway.running():
        key = own_gateway.create_key("release")
        endpoint = own_gateway.addresses["grpc"]
        with Client(Connection.load(settings, environment={}, endpoint=endpoint)) as client:
            client.sign(key, message_content(b"x"))
            with pytest.raises(ClientError) as caught:
                client.create_key(PARENT, "another", P256)
    assert caught.value.reason == "PERMISSION_DENIED"


def test_a_renewed_certificate_is_what_a_gateway_shows_once_it_has_started_anew(own_gateway: Running) -> None:
    certificate = own_gateway.directory / "tls" / "server.pem"
    before = certificate.read_bytes()
    renew_server(own_gateway.directory, [], timedelta(days=1), datetime.now(UTC))
    assert certificate.read_bytes() != before
    with own_gateway.running():
        own_gateway.create_key("release")


def test_doctor_finds_nothing_wrong_with_a_good_gateway_and_names_what_is(own_gateway: Running) -> None:
    own_gateway.change_settings(lambda text: text)
    assert run("doctor", "--gateway", str(own_gateway.directory)).returncode == 0
    (own_gateway.directory / "secrets" / "sealing-key").chmod(0o644)
    done = run("doctor", "--gateway", str(own_gateway.directory), "--json")
    failed = [one for one in json.loads(done.stdout) if not one["passed"]]
    assert done.returncode == 1
    assert [one["name"] for one in failed] == ["provider main"]
    assert "chmod 600" in failed[0]["nextStep"]
