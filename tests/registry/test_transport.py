"""A registry that hangs, floods, lies or sends elsewhere is refused with its reason, and takes nobody down."""

from __future__ import annotations

import socket
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from sealkeeper.registry import Deadline, Hosts, ImageReference, Registry
from sealkeeper.registry.authorization import _Kept
from sealkeeper.registry.errors import (
    AddressRefusedError,
    DigestLiesError,
    MalformedError,
    PlaintextRefusedError,
    RedirectRefusedError,
    RegistryError,
    RegistryThrottledError,
    RegistryTimeoutError,
    RegistryUnavailableError,
    TooLargeError,
)
from sealkeeper.registry.manifest import OCI_MANIFEST, Descriptor
from tests.ports import free_ports
from tests.registry.attached import named
from tests.registry.scripted_registry import (
    Handler,
    Reply,
    ScriptedRegistry,
    drip,
    endless,
    endless_line,
    hang,
    scripted_registry,
    sha256,
)
from tests.stores.openbao import make_certificates

MANIFEST = "/v2/acme/app/manifests/1.0"
BLOB = b"of the blob"
BLOB_PATH = f"/v2/acme/app/blobs/{sha256(BLOB)}"
MEGABYTE = 1024 * 1024


@pytest.mark.parametrize("behaviour", [hang, drip])
def test_a_registry_that_hangs_ends_with_the_deadline(
    scripted: ScriptedRegistry, client: Registry, behaviour: Any
) -> None:
    scripted.replies[MANIFEST] = behaviour
    with pytest.raises(RegistryTimeoutError) as refused:
        client.resolve(named(scripted, "acme/app:1.0"), Deadline.after(0.3))
    assert refused.value.transient


def test_a_body_that_stops_in_the_middle_ends_with_the_deadline(scripted: ScriptedRegistry, client: Registry) -> None:
    def stops(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        hang(handler)

    scripted.replies[MANIFEST] = stops
    with pytest.raises(RegistryTimeoutError):
        client.resolve(named(scripted, "acme/app:1.0"), Deadline.after(0.3))


def test_tls_that_never_greets_ends_with_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        registry = Registry(hosts=Hosts(secure=frozenset({host})), proxies={})
        with pytest.raises(RegistryTimeoutError):
            registry.resolve(ImageReference.parse(f"{host}/acme/app:1.0"), Deadline.after(0.3))


def test_a_file_of_cas_that_is_none_is_named(tmp_path: Path, deadline: Deadline) -> None:
    for content in (None, "no PEM"):
        path = tmp_path / "ca.pem"
        if content is not None:
            path.write_text(content)
        registry = Registry(ca_file=path, proxies={}, resolve=lambda *_: ["127.0.0.1"])
        with pytest.raises(RegistryError, match=r"ca\.pem"):
            registry.resolve(ImageReference.parse("registry.example/acme/app:1.0"), deadline)


def test_a_deadline_that_is_over_asks_nobody(scripted: ScriptedRegistry, client: Registry) -> None:
    with pytest.raises(RegistryTimeoutError):
        client.resolve(named(scripted, "acme/app:1.0"), Deadline(0.0, lambda: 1.0))
    assert not scripted.seen


@pytest.mark.parametrize("behaviour", [endless, endless_line])
def test_an_endless_answer_is_refused_in_bounded_memory(
    scripted: ScriptedRegistry, client: Registry, deadline: Deadline, behaviour: Any
) -> None:
    scripted.replies[MANIFEST] = behaviour
    tracemalloc.start()
    try:
        with pytest.raises((TooLargeError, RegistryUnavailableError)):
            client.resolve(named(scripted, "acme/app:1.0"), deadline)
        assert tracemalloc.get_traced_memory()[1] < 32 * MEGABYTE
    finally:
        tracemalloc.stop()


def test_a_body_that_is_said_to_be_large_is_not_read(
    scripted: ScriptedRegistry, client: Registry, deadline: Deadline
) -> None:
    scripted.replies[MANIFEST] = Reply(200, b"", {"Content-Length": str(100 * MEGABYTE)})
    with pytest.raises(TooLargeError, match="104857600"):
        client.resolve(named(scripted, "acme/app:1.0"), deadline)


def test_a_manifest_that_does_not_have_its_digest_is_a_lie(
    scripted: ScriptedRegistry, client: Registry, deadline: Deadline
) -> None:
    digest = scripted.push_image("acme/app")
    other = scripted.push_image("acme/app", layer=b"another")
    kind, data = scripted.manifests["acme/app", other]
    scripted.replies[f"/v2/acme/app/manifests/{digest}"] = Reply(200, data, {"Content-Type": kind})
    with pytest.raises(DigestLiesError, match=other) as refused:
        client.manifest(named(scripted, f"acme/app@{digest}"), deadline)
    assert refused.value.reason == "DIGEST_LIES"


def test_a_tag_whose_digest_the_registry_misstates_is_a_lie(
    scripted: ScriptedRegistry, client: Registry, deadline: Deadline
) -> None:
    kind, data = scripted.manifests["acme/app", scripted.push_image("acme/app")]
    headers = {"Content-Type": kind, "Docker-Content-Digest": sha256(b"something else")}
    scripted.replies[MANIFEST] = Reply(200, data, headers)
    with pytest.raises(DigestLiesError):
        client.resolve(named(scripted, "acme/app:1.0"), deadline)


@pytest.mark.parametrize("body", [b"of the BLOB", b"of the", BLOB + b" and more", b""])
def test_a_blob_that_does_not_have_its_digest_or_its_size_is_a_lie(
    scripted: ScriptedRegistry, client: Registry, deadline: Deadline, body: bytes
) -> None:
    scripted.replies[BLOB_PATH] = Reply(200, body)
    with pytest.raises(DigestLiesError):
        client.blob(named(scripted, "acme/app"), blob(), deadline)


def test_a_blob_that_is_shorter_than_its_descriptor_says_is_a_lie(
    scripted: ScriptedRegistry, client: Registry, deadline: Deadline
) -> None:
    longer = Descriptor("a/b", scripted.put_blob(BLOB), len(BLOB) + 1)
    with pytest.raises(DigestLiesError):
        client.blob(named(scripted, "acme/app"), longer, deadline)


def test_a_blob_that_is_too_large_is_not_asked_for(
    scripted: ScriptedRegistry, client: Registry, deadline: Deadline
) -> None:
    with pytest.raises(TooLargeError):
        client.blob(named(scripted, "acme/app"), Descriptor("a/b", sha256(BLOB), 100 * MEGABYTE), deadline)
    assert not scripted.seen


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(429), RegistryThrottledError),
        (Reply(500), RegistryUnavailableError),
        (Reply(503, b"x" * 1_000_000), RegistryUnavailableError),
        (Reply(400), RegistryError),
        (Reply(200, b"<html>", {"Content-Type": "text/html"}), MalformedError),
        (Reply(200, b"{}"), MalformedError),
        (Reply(200, b"", {"Content-Encoding": "gzip"}), MalformedError),
        (Reply(200, b"[" * 100_000, {"Content-Type": OCI_MANIFEST}), MalformedError),
        (Reply(200, b'{"a":' * 40 + b"1" + b"}" * 40, {"Content-Type": OCI_MANIFEST}), MalformedError),
        (Reply(302, b"", {"Location": "https://elsewhere.example/"}), RedirectRefusedError),
    ],
)
def test_an_answer_that_is_no_manifest_is_refused(
    scripted: ScriptedRegistry, client: Registry, deadline: Deadline, reply: Reply, expected: type[RegistryError]
) -> None:
    scripted.replies[MANIFEST] = reply
    with pytest.raises(expected) as refused:
        client.resolve(named(scripted, "acme/app:1.0"), deadline)
    assert refused.value.reason
    assert refused.value.next_step


def test_what_is_no_http_is_refused(scripted: ScriptedRegistry, client: Registry, deadline: Deadline) -> None:
    def greets(handler: Handler) -> None:
        handler.wfile.write(b"SSH-2.0-OpenSSH\r\n")

    scripted.replies[MANIFEST] = greets
    with pytest.raises(RegistryError):
        client.resolve(named(scripted, "acme/app:1.0"), deadline)


def test_a_connection_that_breaks_once_is_made_again(
    scripted: ScriptedRegistry, client: Registry, deadline: Deadline
) -> None:
    digest = scripted.push_image("acme/app", "1.0")

    def breaks(_: Handler) -> None:
        scripted.replies.clear()

    scripted.replies[MANIFEST] = breaks
    assert client.resolve(named(scripted, "acme/app:1.0"), deadline).digest == digest
    assert len(scripted.seen) == 2


def test_a_registry_that_stumbles_once_is_asked_again(
    scripted: ScriptedRegistry, client: Registry, deadline: Deadline
) -> None:
    digest = scripted.push_image("acme/app", "1.0")

    def stumbles(handler: Handler) -> None:
        scripted.replies.clear()
        handler.reply(Reply(500))

    scripted.replies[MANIFEST] = stumbles
    assert client.resolve(named(scripted, "acme/app:1.0"), deadline).digest == digest
    scripted.replies[MANIFEST] = Reply(500)
    with pytest.raises(RegistryUnavailableError, match="500"):
        client.resolve(named(scripted, "acme/app:1.0"), deadline)
    assert len(scripted.seen) == 4


def test_a_registry_that_is_not_there_is_unavailable(client: Registry, deadline: Deadline) -> None:
    [port] = free_ports(1)
    with pytest.raises(RegistryUnavailableError) as refused:
        client.resolve(ImageReference.parse(f"127.0.0.1:{port}/acme/app:1"), deadline)
    assert refused.value.reason == "REGISTRY_UNAVAILABLE"


def test_words_of_the_registry_are_not_repeated(
    scripted: ScriptedRegistry, client: Registry, deadline: Deadline
) -> None:
    body = b'{"errors":[{"code":"TAG_INVALID","message":"secret words"}]}'
    scripted.replies[MANIFEST] = Reply(400, body)
    with pytest.raises(RegistryError, match="400 TAG_INVALID") as refused:
        client.resolve(named(scripted, "acme/app:1.0"), deadline)
    assert "secret" not in str(refused.value)


# Redirects


def blob() -> Descriptor:
    return Descriptor("application/octet-stream", sha256(BLOB), len(BLOB))


@pytest.mark.parametrize(
    "target",
    [
        "https://169.254.169.254/latest/meta-data/",
        "https://[::ffff:169.254.169.254]/",
        "https://[fe80::1]/",
        "https://0.0.0.0/",
    ],
)
def test_a_redirect_to_a_link_local_address_is_refused_even_of_a_local_registry(
    scripted: ScriptedRegistry, client: Registry, deadline: Deadline, target: str
) -> None:
    scripted.replies[BLOB_PATH] = Reply(307, b"", {"Location": target})
    with pytest.raises(AddressRefusedError):
        client.blob(named(scripted, "acme/app"), blob(), deadline)


@pytest.mark.parametrize(
    "target",
    [
        "http://storage.example/blob",
        "file:///etc/passwd",
        "ftp://storage.example/",
        "gopher://storage.example/",
        "https://user:secret@storage.example/",
        "https://",
        "//",
        "https://storage.example:99999/",
        "https://storage.example:0/",
        "https://sto rage.example/",
        "https://storage.example/" + "a" * 10_000,
        "",
    ],
)
def test_a_redirect_to_what_is_no_https_is_refused(
    scripted: ScriptedRegistry, client: Registry, deadline: Deadline, target: str
) -> None:
    scripted.replies[BLOB_PATH] = Reply(307, b"", {"Location": target})
    with pytest.raises(RedirectRefusedError):
        client.blob(named(scripted, "acme/app"), blob(), deadline)


def test_redirects_without_end_are_refused(scripted: ScriptedRegistry, client: Registry, deadline: Deadline) -> None:
    scripted.replies[BLOB_PATH] = Reply(307, b"", {"Location": BLOB_PATH})
    with pytest.raises(RedirectRefusedError, match="after 5"):
        client.blob(named(scripted, "acme/app"), blob(), deadline)
    assert len(scripted.seen) == 6


class Internet:
    """Public addresses that lead to this machine, since the real ones do not lead to tests."""

    def __init__(self) -> None:
        self.addresses: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.connected: list[str] = []
        self.scripts: dict[str, list[list[str]]] = {}

    def resolve(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        if self.scripts.get(host):
            return self.scripts[host].pop(0)
        return self.addresses[host]


REGISTRY, STORAGE = "140.82.121.34", "140.82.121.35"


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> Internet:
    found = Internet()
    connect = socket.create_connection

    def nearby(address: tuple[str, int], *rest: Any) -> socket.socket:
        found.connected.append(address[0])
        return connect(("127.0.0.1" if address[0] in (REGISTRY, STORAGE) else address[0], address[1]), *rest)

    monkeypatch.setattr(socket, "create_connection", nearby)
    return found


def public(
    scripted: ScriptedRegistry, internet: Internet, local: frozenset[str] | None = None, **options: Any
) -> tuple[Registry, ImageReference]:
    """The registry under a public name and address."""
    host = f"registry.example:{scripted.host.partition(':')[2]}"
    internet.addresses["registry.example"] = [REGISTRY]
    hosts = Hosts(insecure=frozenset({host}), local=local)
    registry = Registry(hosts=hosts, proxies={}, resolve=internet.resolve, **options)
    return registry, ImageReference.parse(f"{host}/acme/app:1.0")


@pytest.mark.parametrize("local", [None, frozenset()], ids=["any may be local", "none may be local"])
@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "192.168.0.1", "::1", "fd00::1", "169.254.169.254"])
def test_a_redirect_of_a_public_registry_to_a_local_address_is_refused(
    scripted: ScriptedRegistry, deadline: Deadline, internet: Internet, address: str, local: frozenset[str] | None
) -> None:
    registry, reference = public(scripted, internet, local)
    internet.addresses["storage.example"] = [address]
    literal = f"[{address}]" if ":" in address else address
    for host in ("storage.example", literal):
        scripted.replies[BLOB_PATH] = Reply(307, b"", {"Location": f"https://{host}/blob"})
        with pytest.raises(AddressRefusedError) as refused:
            registry.blob(reference, blob(), deadline)
        assert refused.value.reason == "ADDRESS_REFUSED"
    assert set(internet.connected) == {REGISTRY}


def test_a_realm_of_a_public_registry_at_a_local_address_is_refused(
    scripted: ScriptedRegistry, deadline: Deadline, internet: Internet
) -> None:
    registry, reference = public(scripted, internet)
    internet.addresses["tokens.example"] = ["10.0.0.1"]
    for host in ("tokens.example", "127.0.0.1", "localhost"):
        challenge = {"WWW-Authenticate": f'Bearer realm="https://{host}/token"'}
        internet.addresses["localhost"] = ["127.0.0.1"]
        scripted.replies[MANIFEST] = Reply(401, b"", challenge)
        with pytest.raises(AddressRefusedError):
            registry.resolve(reference, deadline)
    assert set(internet.connected) == {REGISTRY}


def test_a_redirect_goes_to_the_address_that_was_checked_whatever_the_name_means_later(
    scripted: ScriptedRegistry, deadline: Deadline, internet: Internet, tmp_path: Path
) -> None:
    make_certificates(tmp_path)
    registry, reference = public(scripted, internet, ca_file=tmp_path / "ca.pem")
    # Public when it is checked, and this machine if it were looked up again.
    internet.scripts["storage.example"] = [[STORAGE], ["127.0.0.1"]]
    with scripted_registry((tmp_path / "server.pem", tmp_path / "server.key")) as storage:
        port = storage.host.partition(":")[2]
        scripted.replies[BLOB_PATH] = Reply(307, b"", {"Location": f"https://storage.example:{port}/blob"})
        # Its certificate is for another name, which is as far as this can go.
        with pytest.raises(RegistryUnavailableError, match="certificate is not good"):
            registry.blob(reference, blob(), deadline)
    assert internet.connected == [REGISTRY, STORAGE]
    assert internet.asked.count("storage.example") == 1


def test_a_redirected_request_carries_no_authorization(
    scripted: ScriptedRegistry, client: Registry, deadline: Deadline, tmp_path: Path
) -> None:
    make_certificates(tmp_path)
    scripted.put_blob(BLOB)
    with scripted_registry((tmp_path / "server.pem", tmp_path / "server.key")) as storage:
        storage.replies["/kept"] = Reply(200, BLOB)
        scripted.replies[BLOB_PATH] = Reply(307, b"", {"Location": f"{storage.url}/kept"})
        registry = Registry(ca_file=tmp_path / "ca.pem", proxies={})
        kept = _Kept("Bearer of-the-registry", float("inf"))
        registry._authorization._kept[scripted.host, "acme/app", "pull"] = kept
        assert registry.blob(named(scripted, "acme/app"), blob(), deadline) == BLOB
    assert scripted.seen[0].authorization == "Bearer of-the-registry"
    assert [one.authorization for one in storage.seen] == [""]


# Plaintext, and registries at local addresses


def test_a_registry_is_not_asked_in_plaintext(scripted: ScriptedRegistry, deadline: Deadline) -> None:
    registry = Registry(proxies={}, resolve=lambda *_: ["127.0.0.1"])
    port = scripted.host.partition(":")[2]
    with pytest.raises(RegistryUnavailableError, match="TLS"):
        registry.resolve(ImageReference.parse(f"registry.example:{port}/acme/app:1.0"), deadline)
    assert not scripted.seen


def test_localhost_that_is_another_machine_is_not_asked_in_plaintext(deadline: Deadline) -> None:
    registry = Registry(proxies={}, resolve=lambda *_: ["10.0.0.1"])
    with pytest.raises(PlaintextRefusedError):
        registry.resolve(ImageReference.parse("localhost:5000/acme/app:1.0"), deadline)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "registry.example"])
def test_an_image_of_a_local_registry_is_refused_where_none_is_named_as_local(deadline: Deadline, host: str) -> None:
    registry = Registry(hosts=Hosts(local=frozenset()), proxies={}, resolve=lambda *_: ["127.0.0.1"])
    with pytest.raises(AddressRefusedError):
        registry.resolve(ImageReference.parse(f"{host}:5000/acme/app:1.0"), deadline)


def test_a_registry_that_is_named_as_local_may_be(scripted: ScriptedRegistry, deadline: Deadline) -> None:
    digest = scripted.push_image("acme/app", "1.0")
    registry = Registry(hosts=Hosts(local=frozenset({scripted.host})), proxies={})
    assert registry.resolve(named(scripted, "acme/app:1.0"), deadline).digest == digest


def test_a_proxy_of_the_environment_is_asked(scripted: ScriptedRegistry, deadline: Deadline) -> None:
    registry = Registry(
        hosts=Hosts(insecure=frozenset({"registry.example:5000"})),
        proxies={"http": f"http://user:word@{scripted.host}"},
        resolve=lambda *_: pytest.fail("the proxy resolves names"),
    )
    scripted.replies["http://registry.example:5000" + MANIFEST] = Reply(404)
    with pytest.raises(RegistryError):
        registry.resolve(ImageReference.parse("registry.example:5000/acme/app:1.0"), deadline)
    [seen] = scripted.seen
    assert seen.path == "http://registry.example:5000" + MANIFEST


def test_an_address_is_checked_where_there_is_a_proxy_too(scripted: ScriptedRegistry, deadline: Deadline) -> None:
    registry = Registry(proxies={"https": f"http://{scripted.host}"})
    with pytest.raises(AddressRefusedError):
        registry.resolve(ImageReference.parse("169.254.169.254/acme/app:1.0"), deadline)
    assert not scripted.seen


def test_an_upload_that_is_to_go_elsewhere_is_refused(
    scripted: ScriptedRegistry, client: Registry, deadline: Deadline
) -> None:
    for target in ("https://elsewhere.example/upload", "http://127.0.0.1:1/upload", "https://169.254.169.254/"):
        scripted.replies["/v2/acme/app/blobs/uploads/"] = Reply(202, b"", {"Location": target})
        with pytest.raises(RedirectRefusedError):
            client.push_blob(named(scripted, "acme/app"), BLOB, "a/b", deadline)
    assert "PUT" not in {one.method for one in scripted.seen}
