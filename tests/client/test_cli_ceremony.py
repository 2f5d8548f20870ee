"""``sealkeeper keys evidence``, ``ceremony``, ``standby`` and ``providers`` against a gateway that answers as told."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from sealkeeper.client.cli import run
from sealkeeper.client.operations import crc32c
from sealkeeper.v1 import key_pb2, provider_pb2, resources_pb2
from sealkeeper.verify import KeptCeremony
from tests.client.answering import Gateway
from tests.verify.ceremonies import KEY, STATEMENT, VERSION, Made, b64, log_verifier, pem, spki

COMMAND = [sys.executable, "-m", "sealkeeper.client.cli"]
OTHER = ec.derive_private_key(22, ec.SECP256R1())
RELEASE = "tenants/acme/keys/release"
MOMENT = datetime(2026, 11, 24, 10, tzinfo=UTC)


def moment() -> Timestamp:
    found = Timestamp()
    found.FromDatetime(MOMENT)
    return found


def version(**other: Any) -> resources_pb2.KeyVersion:
    members: dict[str, Any] = {
        "name": VERSION,
        "state": resources_pb2.KEY_VERSION_STATE_ACTIVE,
        "provider": "vault",
        "protection_level": resources_pb2.PROTECTION_LEVEL_SOFTWARE,
        "region": "eu-central",
        "origin": resources_pb2.KEY_ORIGIN_IMPORTED,
        "public_key": spki(KEY),
        "public_key_crc32c": crc32c(spki(KEY)),
        "activate_time": moment(),
    }
    return resources_pb2.KeyVersion(**{**members, **other})


def standby() -> resources_pb2.KeyVersion:
    state = resources_pb2.KEY_VERSION_STATE_PUBLISHED
    return version(name=f"{RELEASE}/versions/2", provider="aws", region="eu-west-1", standby=True, state=state)


def key(**other: Any) -> resources_pb2.Key:
    return resources_pb2.Key(name=RELEASE, provider="vault", active_version=VERSION, etag="r1", **other)


def ceremony(kept: KeptCeremony) -> key_pb2.GetKeyCeremonyResponse:
    proof = kept.proof
    return key_pb2.GetKeyCeremonyResponse(
        record=kept.record,
        log_index=proof.index,
        tree_size=proof.tree_size,
        hashes=proof.hashes,
        checkpoint=proof.checkpoint,
    )


def evidence(**other: Any) -> key_pb2.GetKeyEvidenceResponse:
    found = resources_pb2.KeyEvidence(
        protection_level=resources_pb2.PROTECTION_LEVEL_HSM,
        origin=resources_pb2.KEY_ORIGIN_GENERATED,
        claims={"CKA_SENSITIVE": "true", "CKA_LOCAL": "true\x1b[31m"},
        **other,
    )
    return key_pb2.GetKeyEvidenceResponse(evidence=found)


def provider(state: str = "CLOSED", **other: Any) -> provider_pb2.Provider:
    health = provider_pb2.ProviderHealth(
        circuit=provider_pb2.CircuitState.Value(f"CIRCUIT_STATE_{state}"),
        latency=Duration(nanos=12_300_000),
        error_rate=0.25,
        last_success_time=moment(),
        **other,
    )
    return provider_pb2.Provider(
        name="tenants/acme/providers/vault",
        scheme="transit",
        description="OpenBao at bao.example",
        protection_level=resources_pb2.PROTECTION_LEVEL_SOFTWARE,
        region="eu-central",
        algorithms=[resources_pb2.PUBLIC_KEY_DETAILS_PKIX_ECDSA_P256_SHA_256],
        wrap_methods=[resources_pb2.WRAP_METHOD_RSA_OAEP_SHA256_AES_256_KWP],
        health=health,
    )


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own with keys to check with, in which nothing is set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("SEALKEEPER_")]:
        monkeypatch.delenv(name)
    (tmp_path / "public.pem").write_bytes(pem(KEY))
    (tmp_path / "public.der").write_bytes(spki(KEY))
    (tmp_path / "other.pem").write_bytes(pem(OTHER))
    (tmp_path / "audit.vkey").write_text(log_verifier().vkey() + "\n")
    (tmp_path / "other.vkey").write_text(log_verifier("audit.other.example").vkey() + "\n")
    return tmp_path


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    one = Gateway(
        {
            "GetKeyEvidence": evidence(exportable=False),
            "GetKeyCeremony": ceremony(Made().kept()),
            "GetKeyVersion": key_pb2.GetKeyVersionResponse(version=version()),
            "GetKey": key_pb2.GetKeyResponse(key=key()),
            "ListKeyVersions": key_pb2.ListKeyVersionsResponse(versions=[version()]),
            "AddStandbyVersion": key_pb2.AddStandbyVersionResponse(key=key(), version=standby()),
            "ListProviders": provider_pb2.ListProvidersResponse(providers=[provider()]),
            "GetProvider": provider_pb2.GetProviderResponse(provider=provider()),
        }
    )
    with one.serving():
        yield one


def command(gateway: Gateway, *arguments: str) -> int:
    return run(["--insecure", "--endpoint", gateway.address, "--tenant", "acme", *arguments])


def test_a_ceremony_is_a_page_that_a_printer_takes(gateway: Gateway, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["keys", "ceremony", "release/1", "--public-key", "public.pem", "--log-key", "audit.vkey"]
    assert command(gateway, *arguments) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert max(map(len, out.splitlines())) <= 100
    assert out.isascii()
    assert all(one.isprintable() for one in out.splitlines())
    for said in (
        VERSION,
        "2026-11-24 10:00:00 UTC",
        "spiffe://acme/custodian",
        "OpenBao at bao.example, mount transit",
        "eu-central",
        "type: ecdsa-p256",
        "VENDOR_V1, 18 bytes (not checked here)",
        "RSA_OAEP_SHA256_AES_256_KWP",
        "abab abab abab",
        "signature checked",
        "one that was given separately",
        "entry 2 is in the tree of 5",
    ):
        assert said in out, said
    assert [one for one, _ in gateway.asked] == ["GetKeyCeremony"]


@pytest.mark.parametrize(
    ("event", "method", "said"),
    [
        ("CREATED", "KeyService/CreateKey", "made in the key store, with a new key"),
        ("ROTATED", "KeyService/RotateKey", "the key's next version"),
        ("STANDBY_ADDED", "KeyService/AddStandbyVersion", "in a second key store"),
    ],
)
def test_every_event_has_its_page(
    gateway: Gateway, capfd: pytest.CaptureFixture[str], event: str, method: str, said: str
) -> None:
    def change(document: Any) -> None:
        document.update({"event": event, "import": None})
        document["evidence"]["attestation"].update(content=None, certificates=None)

    made = Made(change_payload=change, change_record=lambda one: one.update(method=method))
    gateway.answers["GetKeyCeremony"] = ceremony(made.kept())
    assert command(gateway, "keys", "ceremony", "release/1") == 0
    out = capfd.readouterr().out
    assert said in out
    assert "VENDOR_V1, too long for the record" in out
    assert "How it was brought" not in out


def test_a_page_stays_plain_whatever_the_record_says(gateway: Gateway, capfd: pytest.CaptureFixture[str]) -> None:
    def change(document: Any) -> None:
        document["provider"]["description"] = "Trеsor " + "x" * 300 + "\x1b[2J"  # noqa: RUF001  # a Cyrillic letter
        document["evidence"]["claims"]["long " * 40] = "y" * 500

    def encode(document: Any) -> bytes:
        return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    # As RFC 8785 has it, the escape character is written so.
    made = Made(change_payload=change, encode=lambda document: encode(document).replace(b"\\u001B", b"\\u001b"))
    gateway.answers["GetKeyCeremony"] = ceremony(made.kept())
    assert command(gateway, "keys", "ceremony", "release/1") == 0
    out = capfd.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    assert out.isascii()
    assert "\x1b" not in out
    assert "Tr\\u0435sor" in out


def test_what_was_not_checked_is_on_the_page_and_said(gateway: Gateway, capfd: pytest.CaptureFixture[str]) -> None:
    assert command(gateway, "keys", "ceremony", VERSION) == 0
    out, err = capfd.readouterr()
    assert "that of the gateway ONLY" in out
    assert "signature NOT checked" in out
    assert "give --public-key" in err
    assert "give --log-key" in err


def test_a_kept_record_is_checked_offline_to_the_same_page(gateway: Gateway, capfd: pytest.CaptureFixture[str]) -> None:
    keys = ["--public-key", "public.der", "--log-key", "audit.vkey"]
    assert command(gateway, "keys", "ceremony", "release/1", "-o", "record.json", *keys) == 0
    page = capfd.readouterr().out
    assert run(["keys", "ceremony", "--verify", "record.json", *keys]) == 0
    assert capfd.readouterr().out == page
    assert run(["keys", "ceremony", VERSION, "--verify", "record.json", *keys, "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert (document["verified"], document["logVerified"], document["keyVersion"]) == (True, True, VERSION)
    assert (document["logIndex"], document["treeSize"], document["exportable"]) == (2, 5, False)


def test_checking_offline_imports_no_grpc(gateway: Gateway) -> None:
    assert command(gateway, "keys", "ceremony", "release/1", "-o", "record.json") == 0
    code = (
        "import sys; from sealkeeper.client.cli import run; code = run(sys.argv[1:]); "
        "print(code, sorted({'grpc', 'google.protobuf', 'asyncio', 'http.client'} & set(sys.modules)))"
    )
    arguments = ["keys", "ceremony", "--verify", "record.json", "--public-key", "public.pem"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "0 []"


@pytest.mark.parametrize(
    ("arguments", "step"),
    [
        (["--public-key", "other.pem", "--log-key", "audit.vkey"], "public-key"),
        (["--public-key", "public.pem", "--log-key", "other.vkey"], "checkpoint"),
        (["tenants/acme/keys/release/versions/2", "--public-key", "public.pem"], "agreement"),
    ],
)
def test_a_record_that_does_not_verify_is_refused_with_its_step(
    gateway: Gateway, capfd: pytest.CaptureFixture[str], arguments: list[str], step: str
) -> None:
    assert command(gateway, "keys", "ceremony", "release/1", "-o", "record.json") == 0
    capfd.readouterr()
    assert run(["keys", "ceremony", "--verify", "record.json", *arguments]) == 1
    assert f"refused at {step}:" in capfd.readouterr().out
    assert run(["keys", "ceremony", "--verify", "record.json", *arguments, "--json"]) == 1
    document = json.loads(capfd.readouterr().out)
    assert (document["verified"], document["steps"][-1]["name"]) == (False, step)
    assert "keyVersion" not in document


def test_a_record_that_does_not_verify_is_not_kept(gateway: Gateway, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["keys", "ceremony", "release/1", "--public-key", "other.pem"]
    assert command(gateway, *arguments, "-o", "record.json") == 1
    assert command(gateway, *arguments, "-o", "-") == 1
    assert not Path("record.json").exists()
    assert "refused at public-key" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ([], "VERSION"),
        (["--verify", "public.pem"], "--public-key"),
        (["--verify", "public.pem", "--public-key", "public.pem", "-o", "x"], "--output"),
        (["--verify", "public.pem", "--public-key", "audit.vkey"], "--public-key"),
        (["--verify", "public.pem", "--public-key", "public.pem"], None),
        (["--verify", "nofile", "--public-key", "public.pem"], "nofile"),
        (["release/1", "--log-key", "public.pem"], None),
    ],
)
def test_what_cannot_be_checked_is_wrong_usage(
    gateway: Gateway, capfd: pytest.CaptureFixture[str], arguments: list[str], field: str | None
) -> None:
    assert command(gateway, "keys", "ceremony", *arguments, "--json") == 2
    failure = json.loads(capfd.readouterr().out)
    if field is not None:
        assert failure["violations"][0]["field"] == field


def test_evidence_is_what_the_store_says(gateway: Gateway, capfd: pytest.CaptureFixture[str]) -> None:
    assert command(gateway, "keys", "evidence", "release/1") == 0
    assert capfd.readouterr().out.splitlines()[1:] == [
        "protection level\tHSM",
        "origin\tGENERATED",
        "can be exported\tno",
        "claim CKA_LOCAL\ttrue\\x1b[31m",
        "claim CKA_SENSITIVE\ttrue",
        "attestation\tnone",
    ]
    [asked] = gateway.requests(key_pb2.GetKeyEvidenceRequest)
    assert asked.name == VERSION


def test_what_the_store_does_not_say_is_not_made_up(gateway: Gateway, capfd: pytest.CaptureFixture[str]) -> None:
    gateway.answers["GetKeyEvidence"] = key_pb2.GetKeyEvidenceResponse()
    assert command(gateway, "keys", "evidence", "release/1") == 0
    assert capfd.readouterr().out.count("the store does not say") == 3
    assert command(gateway, "keys", "evidence", "release/1", "--json") == 0
    document = json.loads(capfd.readouterr().out)
    assert (document["exportable"], document["origin"], document["attestation"]) == (None, None, None)


def test_an_attestation_is_written_to_files(gateway: Gateway, capfd: pytest.CaptureFixture[str]) -> None:
    attestation = resources_pb2.Attestation(format="VENDOR_V1", content=STATEMENT, certificates=[b"one", b"two"])
    gateway.answers["GetKeyEvidence"] = evidence(attestation=attestation)
    assert command(gateway, "keys", "evidence", "release/1", "--attestation-output", "proof/1") == 0
    assert {one.name: one.read_bytes() for one in Path("proof/1").iterdir()} == {
        "attestation": STATEMENT,
        "certificate-1.der": b"one",
        "certificate-2.der": b"two",
    }
    assert "VENDOR_V1, 18 bytes, 2 certificates (not checked)" in capfd.readouterr().out
    assert command(gateway, "keys", "evidence", "release/1", "--json") == 0
    assert json.loads(capfd.readouterr().out)["attestation"]["content"] == b64(STATEMENT)


def test_where_there_is_no_attestation_none_is_written(gateway: Gateway, capfd: pytest.CaptureFixture[str]) -> None:
    assert command(gateway, "keys", "evidence", "release/1", "--attestation-output", "proof", "--json") == 1
    assert json.loads(capfd.readouterr().out)["reason"] == "NO_ATTESTATION"
    assert not Path("proof").exists()


def test_a_standby_version_is_asked_for_with_its_policy(gateway: Gateway, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["keys", "standby", "release", "--provider", "aws"]
    assert command(gateway, *arguments, "--failover", "manual", "--publish-period", "1h") == 0
    assert command(gateway, *arguments) == 0
    first, second = gateway.requests(key_pb2.AddStandbyVersionRequest)
    assert (first.name, first.provider, first.failover) == (RELEASE, "aws", resources_pb2.FAILOVER_MANUAL)
    assert (first.publish_period.seconds, second.failover) == (3600, resources_pb2.FAILOVER_AUTOMATIC)
    out = capfd.readouterr().out
    assert f"made {RELEASE}/versions/2: PUBLISHED, stands by from 2026-11-24 10:00:00Z on" in out
    assert "aws (SOFTWARE, eu-west-1), failover manual" in out
    assert command(gateway, *arguments, "--failover", "never") == 2


def test_a_key_is_shown_with_its_regions_origins_and_standby(
    gateway: Gateway, capfd: pytest.CaptureFixture[str]
) -> None:
    found = key(standby_version=f"{RELEASE}/versions/2", failover=resources_pb2.FAILOVER_AUTOMATIC)
    gateway.answers["GetKey"] = key_pb2.GetKeyResponse(key=found)
    gateway.answers["ListKeyVersions"] = key_pb2.ListKeyVersionsResponse(versions=[standby(), version()])
    assert command(gateway, "keys", "show", "release") == 0
    out = capfd.readouterr().out
    assert "release/2 stands by, failover AUTOMATIC" in out
    assert "1\tACTIVE\tvault (SOFTWARE, eu-central)\tIMPORTED" in out
    assert "stands by\n" in out
    assert command(gateway, "keys", "show", "release", "--json") == 0
    document = json.loads(capfd.readouterr().out)
    assert document["key"]["failover"] == "AUTOMATIC"
    assert [one["standby"] for one in document["versions"]] == [True, False]
    assert document["versions"][1]["region"] == "eu-central"


def test_what_is_not_known_of_a_key_is_nothing(gateway: Gateway, capfd: pytest.CaptureFixture[str]) -> None:
    gateway.answers["ListKeyVersions"] = key_pb2.ListKeyVersionsResponse(
        versions=[version(region="", origin=resources_pb2.KEY_ORIGIN_UNSPECIFIED)]
    )
    assert command(gateway, "keys", "show", "release", "--json") == 0
    document = json.loads(capfd.readouterr().out)
    assert (document["key"]["standbyVersion"], document["key"]["failover"]) == (None, None)
    assert (document["versions"][0]["region"], document["versions"][0]["origin"]) == (None, None)
    assert command(gateway, "keys", "versions", "release") == 0
    assert "1\tACTIVE\tvault (SOFTWARE)\t\t" in capfd.readouterr().out


def test_providers_are_listed_with_how_they_are(gateway: Gateway, capfd: pytest.CaptureFixture[str]) -> None:
    assert command(gateway, "providers", "list") == 0
    row = ["vault", "transit", "eu-central", "SOFTWARE", "CLOSED", "12.3 ms", "25%", "2026-11-24 10:00:00Z"]
    assert capfd.readouterr().out.splitlines()[1].split("\t") == [*row, "ECDSA_P256", "RSA_OAEP_SHA256_AES_256_KWP"]


def test_a_provider_is_shown_with_what_ails_it(gateway: Gateway, capfd: pytest.CaptureFixture[str]) -> None:
    ailing = provider("OPEN", last_error="PROVIDER_SEALED", retry_time=moment())
    gateway.answers["GetProvider"] = provider_pb2.GetProviderResponse(provider=ailing)
    assert command(gateway, "providers", "show", "vault") == 0
    out = capfd.readouterr().out
    for row in (
        "circuit\tOPEN",
        "last error\tPROVIDER_SEALED",
        "tried again\t2026-11-24 10:00:00Z",
        "latency\t12.3 ms",
    ):
        assert row in out
    [asked] = gateway.requests(provider_pb2.GetProviderRequest)
    assert asked.name == "tenants/acme/providers/vault"
    assert command(gateway, "providers", "show", "vault", "--json") == 0
    health = json.loads(capfd.readouterr().out)["health"]
    assert (health["circuit"], health["latencySeconds"], health["lastError"]) == ("OPEN", 0.0123, "PROVIDER_SEALED")


def test_a_provider_that_was_never_reached_is_no_error(gateway: Gateway, capfd: pytest.CaptureFixture[str]) -> None:
    gateway.answers["GetProvider"] = provider_pb2.GetProviderResponse(provider=provider_pb2.Provider(name="p"))
    assert command(gateway, "providers", "show", "p") == 0
    out = capfd.readouterr().out
    assert "not reached yet" in out
    assert "last success\tnever" in out
    assert command(gateway, "providers", "show", "p", "--json") == 0
    assert json.loads(capfd.readouterr().out)["health"]["latencySeconds"] is None


@pytest.mark.parametrize(("environment", "colour"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_an_open_circuit_is_red_on_terminals_alone(
    gateway: Gateway, environment: dict[str, str], colour: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    gateway.answers["ListProviders"] = provider_pb2.ListProvidersResponse(providers=[provider("OPEN")])
    assert command(gateway, "providers", "list") == 0
    assert "\x1b" not in capfd.readouterr().out
    ours, theirs = pty.openpty()
    arguments = ["--insecure", "--endpoint", gateway.address, "--tenant", "acme", "providers", "list"]
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdout=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "300", **environment}
    )
    os.close(theirs)
    seen = b""
    try:
        while data := os.read(ours, 65536):
            seen += data
    except OSError:
        # So a terminal ends whose other side is closed.
        pass
    os.close(ours)
    assert process.wait(60) == 0
    assert (b"\x1b[31mOPEN" in seen, b"OPEN" in seen) == (colour, True)
