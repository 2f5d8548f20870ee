"""What auditors do: checkpoints, proofs, entries, tiles over HTTP, the audit log."""

from __future__ import annotations

import http.client
import json

import pytest

from sealkeeper.client import message_content
from sealkeeper.client.cli.log import HttpSource
from sealkeeper.client.errors import ClientError, InvalidRequestError, RefusedError
from sealkeeper.client.operations import Operation
from sealkeeper.v1 import log_pb2
from sealkeeper.verify.log import DirectorySource, trusted_verifier, verify_log
from sealkeeper.verify.merkle import leaf_hash, verify_consistency, verify_inclusion
from sealkeeper.verify.note import NoteVerifier, parse_signed_note
from tests.e2e.running import PARENT, Running


def get(gateway: Running, path: str, host: str = "") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(gateway.addresses["http"], timeout=10)
    connection.request("GET", path, headers={"Host": host} if host else {})
    response = connection.getresponse()
    data = response.read()
    connection.close()
    return response.status, dict(response.headers), data


def wait_until_published(gateway: Running) -> None:
    """Answers do not wait for tiles, which follow within a moment."""
    for name in ("transparency", "ct"):
        size = gateway.tree_size(name)
        while int(get(gateway, f"/{name}/checkpoint")[2].split(b"\n")[1]) < size:
            pass


def sign_some(gateway: Running, key: str, count: int) -> None:
    with gateway.client("ci") as ci:
        ci.sign_batch(key, [message_content(b"%d" % number) for number in range(count)])


def test_proofs_lead_to_signed_checkpoints(gateway: Running, key: str) -> None:
    with gateway.client("verifier") as client:
        sign_some(gateway, key, 3)
        before = client.checkpoint()
        sign_some(gateway, key, 300)
        after = client.checkpoint()
        log = next(iter(gateway.trust().logs.values()))
        log.verifier.verify(parse_signed_note(after.checkpoint))
        proof = client.consistency_proof("logs/transparency", before.tree_size, after.tree_size)
        verify_consistency(before.tree_size, after.tree_size, list(proof.hashes), before.root_hash, after.root_hash)
        for index in (0, before.tree_size, after.tree_size - 1):
            [entry] = client.entries("logs/transparency", index, 1)
            included = client.inclusion_proof("logs/transparency", index, after.tree_size)
            leaf = leaf_hash(entry.body)
            assert leaf == entry.leaf_hash == included.leaf_hash
            verify_inclusion(leaf, index, after.tree_size, list(included.hashes), after.root_hash)


def test_what_is_beyond_the_log_is_out_of_range(gateway: Running) -> None:
    size = gateway.tree_size()
    with gateway.client("verifier") as client:
        for call in (
            lambda: client.inclusion_proof("logs/transparency", size, 0),
            lambda: client.inclusion_proof("logs/transparency", 0, size + 10),
            lambda: client.consistency_proof("logs/transparency", 0, size + 10),
            lambda: list(client.entries("logs/transparency", size + 10)),
        ):
            with pytest.raises(InvalidRequestError) as caught:
                call()
            assert caught.value.reason == "INDEX_OUT_OF_RANGE"


def test_negative_numbers_and_unknown_logs_name_the_field(gateway: Running) -> None:
    requests = [
        ("GetInclusionProof", log_pb2.GetInclusionProofRequest(log="logs/transparency", log_index=-1), "log_index"),
        ("GetInclusionProof", log_pb2.GetInclusionProofRequest(log="logs/transparency", tree_size=-1), "tree_size"),
        ("GetConsistencyProof", log_pb2.GetConsistencyProofRequest(log="logs/ct", first_size=-1), "first_size"),
        ("GetCheckpoint", log_pb2.GetCheckpointRequest(log="logs/other"), "log"),
        ("GetCheckpoint", log_pb2.GetCheckpointRequest(log="../audit"), "log"),
    ]
    with gateway.client("verifier") as client:
        for method, request, field in requests:
            with pytest.raises(InvalidRequestError) as caught:
                client.call(Operation("LogService", method, request, lambda one: one))
            assert caught.value.violations[0].field == field


def test_the_public_logs_can_be_walked_over_http(gateway: Running, key: str) -> None:
    sign_some(gateway, key, 600)
    with gateway.client("ci") as ci:
        ci.sign(key, message_content(b"x"), certificate=True)
    wait_until_published(gateway)
    trust = gateway.trust()
    for name in ("transparency", "ct"):
        source = HttpSource(f"http://{gateway.addresses['http']}/{name}")
        report = verify_log(source, trusted_verifier(source, trust))
        assert report.checkpoint.size > 0


def test_a_log_is_at_the_root_of_its_origin(gateway: Running) -> None:
    assert get(gateway, "/checkpoint", "log.sealkeeper.example")[2].startswith(b"log.sealkeeper.example\n")
    assert get(gateway, "/checkpoint", "ct.sealkeeper.example")[2].startswith(b"ct.sealkeeper.example\n")
    assert get(gateway, "/checkpoint")[0] == 404


def test_checkpoints_are_fresh_and_tiles_are_for_ever(gateway: Running, key: str) -> None:
    sign_some(gateway, key, 300)
    wait_until_published(gateway)
    status, headers, _ = get(gateway, "/transparency/checkpoint")
    assert (status, headers["Cache-Control"], headers["Content-Type"]) == (200, "no-cache", "text/plain; charset=utf-8")
    status, headers, tile = get(gateway, "/transparency/tile/0/000")
    assert (status, len(tile), headers["Content-Type"]) == (200, 256 * 32, "application/octet-stream")
    assert "immutable" in headers["Cache-Control"]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/audit/checkpoint",
        "/transparency/",
        "/transparency/../audit/checkpoint",
        "/transparency/%2e%2e/audit/checkpoint",
        "/transparency/tile/0/../../../state.json",
        "/transparency/tile/0/1",
        "/transparency/tile/x/000",
        "/state.json",
        "/journal/0000000000000001.journal",
    ],
)
def test_nothing_else_is_served(gateway: Running, path: str) -> None:
    assert get(gateway, path)[0] == 404


def test_http_is_read_only(gateway: Running) -> None:
    for method in ("POST", "PUT", "DELETE"):
        connection = http.client.HTTPConnection(gateway.addresses["http"], timeout=10)
        connection.request(method, "/transparency/checkpoint")
        assert connection.getresponse().status == 405
        connection.close()


def records(gateway: Running) -> list[dict[str, object]]:
    with gateway.client("admin") as admin:
        return [json.loads(entry.body) for entry in admin.entries("logs/audit") if entry.body]


def test_every_call_is_in_the_audit_log_refusals_too(gateway: Running, key: str) -> None:
    with gateway.client("custodian") as custodian:
        custodian.get_key(key)
        with pytest.raises(RefusedError):
            custodian.sign(key, message_content(b"x"))
        with pytest.raises(InvalidRequestError):
            custodian.get_key("nonsense")
    wanted = [
        ("KeyService/GetKey", "OK"),
        ("SigningService/Sign", "PERMISSION_DENIED"),
        ("KeyService/GetKey", "INVALID_FIELD"),
    ]
    found = [one for one in records(gateway) if one["role"] == "custodian"][-3:]
    assert [(one["method"], one["outcome"]) for one in found] == wanted
    assert [one["resource"] for one in found] == [key, key, ""]
    assert (found[1]["policy"], found[1]["policyVersion"], found[1]["action"]) == ("no-policy", "1", "Sign")
    assert found[1]["caller"] == {"issuer": "sealkeeper.example", "method": "certificate", "person": "custodian"}
    assert all(str(one["subject"]).startswith("spiffe://sealkeeper.example/tenants/acme/") for one in found)


def test_a_change_of_a_key_says_what_was_changed(gateway: Running, key: str) -> None:
    with gateway.client("custodian") as custodian:
        custodian.set_key_version_state(f"{key}/versions/1", "DISABLED")
    last = [one for one in records(gateway) if one["method"] == "KeyService/SetKeyVersionState"][-1]
    assert last["details"] == {"from": "ACTIVE", "keyVersion": f"{key}/versions/1", "to": "DISABLED"}


def test_the_audit_log_verifies_with_its_own_key(gateway: Running) -> None:
    verifier = NoteVerifier.from_vkey((gateway.directory / "audit.vkey").read_text())
    assert verify_log(DirectorySource(gateway.logs / "audit"), verifier).checkpoint.size > 0


def test_no_secret_and_no_signature_is_in_audit_records_or_log_lines(gateway: Running, key: str) -> None:
    with gateway.client("ci") as ci:
        signature = ci.sign(key, message_content(b"a very particular message")).signature
    secret = (gateway.directory / "secrets" / "sealing-key").read_bytes().strip()
    written = gateway.log_lines().encode() + b"".join(
        path.read_bytes() for path in (gateway.logs / "audit").rglob("*") if path.is_file()
    )
    for text in (secret, signature.signature, b"a very particular message", b"PRIVATE KEY"):
        assert text not in written


def test_another_tenants_audit_records_are_hashes_only(own_gateway: Running) -> None:
    own_gateway.change_settings(lambda text: text.replace('tenants = ["acme"]', 'tenants = ["other", "acme"]'))
    own_gateway.change_settings(lambda text: text.replace("tls = {", "insecure = true\ntls = {"))
    with own_gateway.running():
        from sealkeeper.client import Client, Connection

        with Client(Connection(own_gateway.addresses["grpc"], insecure=True)) as other:
            other.create_key("tenants/other", "release", "PKIX_ECDSA_P256_SHA_256")
            with pytest.raises(ClientError) as caught:
                other.get_key(f"{PARENT}/keys/release")
            assert caught.value.reason == "PERMISSION_DENIED"
    own_gateway.change_settings(lambda text: text.replace("insecure = true\n", ""))
    with own_gateway.running(), own_gateway.client("admin") as admin:
        entries = list(admin.entries("logs/audit"))
    methods = [json.loads(entry.body)["method"] if entry.body else "" for entry in entries]
    # Of the own tenant only that its policy began.
    assert methods == ["", "Gateway/FirstPolicy", "", ""]
    assert all(len(entry.leaf_hash) == 32 for entry in entries)
