"""What custodians do: create, look at, rotate, retire, revoke, destroy."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from sealkeeper.client import Client, message_content
from sealkeeper.client.errors import ClientError, InvalidRequestError, NotFoundError, RefusedError
from sealkeeper.client.operations import Operation
from sealkeeper.v1 import key_pb2, resources_pb2
from sealkeeper.verify import Artifact, Policy, VerificationResult, verify
from tests.e2e.running import P256, PARENT, Running

State = resources_pb2.KeyVersionState


def sign(gateway: Running, key: str, data: bytes = b"data") -> bytes:
    with gateway.client("ci") as ci:
        return ci.sign(key, message_content(data)).signature.bundle


def checked(gateway: Running, key: str, bundle: bytes, data: bytes = b"data") -> VerificationResult:
    return verify(bundle, Artifact.from_bytes(data), gateway.trust(), Policy(key=key))


def test_a_new_key_has_one_active_version(gateway: Running, new_key_id: str) -> None:
    with gateway.client("custodian") as custodian:
        made = custodian.create_key(PARENT, new_key_id, P256, labels={"team": "release"})
        assert made.key.active_version == made.version.name == f"{PARENT}/keys/{new_key_id}/versions/1"
        assert made.version.state == State.KEY_VERSION_STATE_ACTIVE
        assert dict(made.key.labels) == {"team": "release"}
        assert custodian.get_key(made.key.name) == made.key
        assert custodian.get_key_version(made.version.name) == made.version
        with pytest.raises(RefusedError) as caught:
            custodian.create_key(PARENT, new_key_id, P256)
    assert caught.value.reason == "KEY_EXISTS"


def test_a_rotation_breaks_nobody(gateway: Running, key: str) -> None:
    old = sign(gateway, key)
    with gateway.client("custodian") as custodian:
        rotated = custodian.rotate_key(key, publish_period=timedelta(0))
    assert rotated.key.active_version == f"{key}/versions/2"
    new = sign(gateway, key)
    assert checked(gateway, key, old).key_name == f"{key}/versions/1"
    assert checked(gateway, key, new).key_name == f"{key}/versions/2"
    assert checked(gateway, key, old).verified
    assert checked(gateway, key, new).verified


def test_a_published_version_is_announced_and_does_not_sign_yet(gateway: Running, key: str) -> None:
    with gateway.client("custodian") as custodian:
        rotated = custodian.rotate_key(key, publish_period=timedelta(hours=1))
        assert rotated.version.state == State.KEY_VERSION_STATE_PUBLISHED
        with pytest.raises(RefusedError) as caught:
            custodian.rotate_key(key)
        assert caught.value.reason == "ROTATION_PENDING"
    names = {one.name: str(one.state) for one in gateway.trust().tenant_keys.values()}
    assert names[f"{key}/versions/2"] == "PUBLISHED"
    assert checked(gateway, key, sign(gateway, key)).key_name == f"{key}/versions/1"
    with gateway.client("ci") as ci, pytest.raises(RefusedError) as caught:
        ci.sign(f"{key}/versions/2", message_content(b"x"))
    assert caught.value.reason == "KEY_VERSION_NOT_ACTIVE"


def test_activating_a_published_version_retires_the_one_before(gateway: Running, key: str) -> None:
    with gateway.client("custodian") as custodian:
        custodian.rotate_key(key, publish_period=timedelta(hours=1))
        custodian.set_key_version_state(f"{key}/versions/2", "ACTIVE")
        states = [one.state for one in custodian.list_key_versions(key)]
    assert states == [State.KEY_VERSION_STATE_ACTIVE, State.KEY_VERSION_STATE_VERIFY_ONLY]
    assert checked(gateway, key, sign(gateway, key)).verified


def test_dropping_a_published_version_leaves_the_one_before_in_place(gateway: Running, key: str) -> None:
    with gateway.client("custodian") as custodian:
        custodian.rotate_key(key, publish_period=timedelta(hours=1))
        custodian.set_key_version_state(f"{key}/versions/2", "DISABLED")
        first = custodian.get_key_version(f"{key}/versions/1")
    assert first.state == State.KEY_VERSION_STATE_ACTIVE
    assert not first.HasField("retire_time")


def test_a_disabled_version_neither_signs_nor_verifies_until_enabled(gateway: Running, key: str) -> None:
    bundle = sign(gateway, key)
    with gateway.client("custodian") as custodian:
        custodian.set_key_version_state(f"{key}/versions/1", "DISABLED")
        with pytest.raises(RefusedError) as caught:
            sign(gateway, key)
        assert caught.value.reason == "KEY_VERSION_NOT_ACTIVE"
        assert caught.value.next_step
        assert checked(gateway, key, bundle).steps[-1].name == "key-state"
        custodian.set_key_version_state(f"{key}/versions/1", "ACTIVE")
    assert checked(gateway, key, bundle).verified
    assert checked(gateway, key, sign(gateway, key)).verified


def test_a_compromised_version_is_refused_from_then_on(gateway: Running, key: str) -> None:
    bundle, version = sign(gateway, key), f"{key}/versions/1"
    with gateway.client("custodian") as custodian:
        with pytest.raises(InvalidRequestError):
            custodian.set_key_version_state(
                version, "COMPROMISED", compromise_time=datetime.now(UTC) + timedelta(hours=1)
            )
        custodian.set_key_version_state(version, "COMPROMISED")
        with pytest.raises(RefusedError) as caught:
            custodian.set_key_version_state(version, "ACTIVE")
    assert caught.value.reason == "STATE_TRANSITION_REFUSED"
    assert checked(gateway, key, bundle).steps[-1].name == "key-state"


def test_a_destruction_waits_can_be_undone_and_has_a_minimum(gateway: Running, key: str) -> None:
    version = f"{key}/versions/1"
    with gateway.client("custodian") as custodian:
        custodian.set_key_version_state(version, "VERIFY_ONLY")
        with pytest.raises(InvalidRequestError) as caught:
            custodian.set_key_version_state(version, "DESTROY_SCHEDULED", destroy_delay=timedelta(hours=1))
        assert caught.value.violations[0].field == "destroy_delay"
        scheduled = custodian.set_key_version_state(version, "DESTROY_SCHEDULED")
        assert scheduled.destroy_time.ToDatetime(UTC) > datetime.now(UTC) + timedelta(hours=23)
        custodian.set_key_version_state(version, "DISABLED")
        assert custodian.set_key_version_state(version, "ACTIVE").state == State.KEY_VERSION_STATE_ACTIVE
    assert checked(gateway, key, sign(gateway, key)).verified


def test_an_etag_guards_against_changes_meanwhile(gateway: Running, key: str) -> None:
    version = f"{key}/versions/1"
    with gateway.client("custodian") as custodian:
        etag = custodian.get_key(key).etag
        custodian.set_key_version_state(version, "DISABLED", etag=etag)
        with pytest.raises(RefusedError) as caught:
            custodian.set_key_version_state(version, "ACTIVE", etag=etag)
    assert caught.value.reason == "ETAG_MISMATCH"


def test_changes_are_done_once_for_a_request_id_even_after_a_restart(own_gateway: Running) -> None:
    def everything(client: Client) -> list[object]:
        made = client.create_key(PARENT, "release", P256, request_id="1")
        rotated = client.rotate_key(made.key.name, publish_period=timedelta(0), request_id="2")
        moved = client.set_key_version_state(made.version.name, "DISABLED", request_id="3")
        return [made.version.public_key, rotated.version.name, moved.name]

    with own_gateway.running(), own_gateway.client("custodian") as custodian:
        first = everything(custodian)
        assert everything(custodian) == first
        with pytest.raises(RefusedError) as caught:
            custodian.create_key(PARENT, "other", P256, request_id="1")
        assert caught.value.reason == "REQUEST_ID_REUSED"
    with own_gateway.running(), own_gateway.client("custodian") as custodian:
        assert everything(custodian) == first
        assert len(list(custodian.list_key_versions(f"{PARENT}/keys/release"))) == 2


def test_pages_give_every_key_once_and_in_order(own_gateway: Running) -> None:
    with own_gateway.running(), own_gateway.client("custodian") as custodian:
        wanted = [custodian.create_key(PARENT, f"k{number:02}", P256).key.name for number in range(7)]
        found, token, pages = [], "", 0
        while True:
            request = key_pb2.ListKeysRequest(parent=PARENT, page_size=3, page_token=token)
            page = custodian.call(Operation("KeyService", "ListKeys", request, lambda one: one))
            found += [one.name for one in page.keys]
            pages, token = pages + 1, page.next_page_token
            if not token:
                break
        assert (found, pages) == (wanted, 3)
        for _ in range(4):
            custodian.rotate_key(wanted[0], publish_period=timedelta(0))
        newest = key_pb2.ListKeyVersionsRequest(parent=wanted[0], page_size=2)
        first = custodian.call(Operation("KeyService", "ListKeyVersions", newest, lambda one: one))
        assert [one.name[-1] for one in first.versions] == ["5", "4"]
        assert [one.name[-1] for one in custodian.list_key_versions(wanted[0])] == ["5", "4", "3", "2", "1"]


def test_a_mask_chooses_the_fields(gateway: Running, key: str) -> None:
    def get(*paths: str) -> resources_pb2.Key:
        request = key_pb2.GetKeyRequest(name=key, read_mask=FieldMask(paths=paths))
        with gateway.client("ci") as ci:
            operation: Operation[resources_pb2.Key] = Operation("KeyService", "GetKey", request, lambda one: one.key)
            return ci.call(operation)

    found = get("name", "etag")
    assert (found.name, found.etag, found.provider) == (key, "r1", "")
    with pytest.raises(InvalidRequestError) as caught:
        get("secret")
    assert caught.value.violations[0].field == "read_mask.paths"


KEY = resources_pb2.Key
P256_VALUE = resources_pb2.PublicKeyDetails.PUBLIC_KEY_DETAILS_PKIX_ECDSA_P256_SHA_256
BAD_CREATIONS: list[tuple[key_pb2.CreateKeyRequest, str]] = [
    (key_pb2.CreateKeyRequest(parent="acme", key_id="a", key=KEY(algorithm=P256_VALUE)), "parent"),
    (key_pb2.CreateKeyRequest(parent=PARENT, key_id="A", key=KEY(algorithm=P256_VALUE)), "key_id"),
    (key_pb2.CreateKeyRequest(parent=PARENT, key_id="../x", key=KEY(algorithm=P256_VALUE)), "key_id"),
    (key_pb2.CreateKeyRequest(parent=PARENT, key_id="a"), "key.algorithm"),
    (key_pb2.CreateKeyRequest(parent=PARENT, key_id="a", key=KEY(algorithm=77)), "key.algorithm"),  # type: ignore[arg-type]
    (
        key_pb2.CreateKeyRequest(parent=PARENT, key_id="a", key=KEY(algorithm=P256_VALUE, labels={"A B": ""})),
        "key.labels",
    ),
    (
        key_pb2.CreateKeyRequest(parent=PARENT, key_id="a", key=KEY(algorithm=P256_VALUE, labels={"a": "x" * 129})),
        "key.labels[a]",
    ),
]


@pytest.mark.parametrize(("request_", "field"), BAD_CREATIONS)
def test_a_bad_creation_is_refused_naming_the_field(
    gateway: Running, request_: key_pb2.CreateKeyRequest, field: str
) -> None:
    with gateway.client("custodian") as custodian, pytest.raises(InvalidRequestError) as caught:
        custodian.call(Operation("KeyService", "CreateKey", request_, lambda one: one))
    assert caught.value.violations[0].field == field


def test_an_unknown_provider_is_not_found_and_nothing_is_made(gateway: Running, new_key_id: str) -> None:
    with gateway.client("custodian") as custodian:
        with pytest.raises(NotFoundError) as caught:
            custodian.create_key(PARENT, new_key_id, P256, provider="nowhere")
        assert caught.value.reason == "PROVIDER_UNKNOWN"
        with pytest.raises(NotFoundError):
            custodian.get_key(f"{PARENT}/keys/{new_key_id}")


CALLS: dict[str, Callable[[Client, str], object]] = {
    "get": lambda client, key: client.get_key(key),
    "list": lambda client, key: list(client.list_keys(PARENT)),
    "rotate": lambda client, key: client.rotate_key(f"{PARENT}/keys/nobody"),
    "set-state": lambda client, key: client.set_key_version_state(f"{PARENT}/keys/nobody/versions/1", "ACTIVE"),
    "sign": lambda client, key: client.sign(key, message_content(b"x")),
    "verify": lambda client, key: client.verify(b"{}", key),
    "public-key": lambda client, key: client.public_key(key),
    "trust": lambda client, key: client.trust_root(PARENT),
    "log": lambda client, key: client.checkpoint(),
    "audit": lambda client, key: client.checkpoint("logs/audit"),
}
READ = {"verify", "public-key", "trust", "log"}
ALLOWED = {
    "admin": READ | {"get", "list", "audit"},
    "custodian": READ | {"get", "list", "rotate", "set-state"},
    "ci": READ | {"get", "sign"},
    "verifier": READ,
}


def _refused(call: Callable[[Client, str], object], client: Client, key: str) -> bool:
    try:
        call(client, key)
    except NotFoundError:
        return False
    except ClientError as error:
        return (error.reason, bool(error.next_step)) == ("PERMISSION_DENIED", True)
    return False


@pytest.mark.parametrize("role", ALLOWED)
def test_a_role_may_do_what_its_row_says_and_nothing_else(gateway: Running, key: str, role: str) -> None:
    allowed = set()
    with gateway.client(role) as client:
        for name, call in CALLS.items():
            if not _refused(call, client, key):
                allowed.add(name)
    assert allowed == ALLOWED[role]
