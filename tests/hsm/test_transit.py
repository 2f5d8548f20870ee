"""The transit provider against a real OpenBao server: logins, tokens over time, and all that can be wrong."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sealkeeper.hsm import (
    ALGORITHMS,
    ImportExpiredError,
    KeyHandleError,
    Origin,
    ProtectionLevel,
    ProviderConfigurationError,
    ProviderError,
    ProviderKey,
    ProviderPermissionError,
    ProviderSealedError,
    ProviderThrottledError,
    ProviderUnavailableError,
    PublicKeyMismatchError,
    WrapMethod,
    WrappedKeyError,
    open_provider,
    transit,
    transit_connection,
)
from sealkeeper.hsm.algorithms import load_public_key, signature_verifies
from sealkeeper.hsm.registry import open_backend
from sealkeeper.hsm.transit import TransitBackend
from tests.stores.openbao import ROOT, OpenBao, server
from tests.stores.transit_front import LOSE, Front, Reply, front
from tests.wrapping import new_private_key, pkcs8, private_key, spki, wrap

P256 = ALGORITHMS["PKIX_ECDSA_P256_SHA_256"]
KWP = WrapMethod.RSA_OAEP_SHA256_AES_256_KWP
DIGEST = bytes(range(32))


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    with server(tmp_path_factory.mktemp("openbao")) as made:
        yield made


@pytest.fixture
def own_bao(tmp_path: Path) -> Iterator[OpenBao]:
    """A server that a test may damage."""
    with server(tmp_path) as made:
        yield made


@contextmanager
def opened(uri: str, clock: Callable[[], float] | None = None) -> Iterator[TransitBackend]:
    backend = TransitBackend(uri, clock) if clock else TransitBackend(uri)
    try:
        yield backend
    finally:
        backend.close()


@contextmanager
def fronted(bao: OpenBao) -> Iterator[tuple[Front, str]]:
    """A front before the server, and the URI of the mount through it."""
    with front(bao.port) as made:
        yield made, f"transit://127.0.0.1:{made.port}/transit?{bao.approle()}&tls=off"


def signs(backend: TransitBackend, key: ProviderKey) -> bool:
    [signature] = backend.sign(key.handle, key.algorithm, [DIGEST])
    return signature_verifies(key.algorithm, load_public_key(key.algorithm, key.public_key), DIGEST, signature)


def name_of(key: ProviderKey) -> str:
    return key.handle.split(";")[0].removeprefix("name=")


def token_of(bao: OpenBao, **settings: object) -> str:
    """A token with the documented policy."""
    wanted = {"policies": ["sealkeeper"], "no_default_policy": True, "ttl": "1h", **settings}
    return str(bao.root("POST", "auth/token/create", wanted)["auth"]["client_token"])


def token_file(bao: OpenBao, token: str, name: str = "token") -> str:
    return f"auth=token&token-source=file:{bao.secret(name, token)}"


class Asked:
    """What the server is asked from now on, by its own audit log."""

    def __init__(self, bao: OpenBao) -> None:
        self.bao, self.before = bao, len(bao.audit())

    def count(self, path: str) -> int:
        return sum(entry["request"]["path"].startswith(path) for entry in self.bao.audit()[self.before :])


# Logins.


def by_jwt(bao: OpenBao) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    bao.root("POST", "sys/auth/jwt", {"type": "jwt"})
    bao.root("POST", "auth/jwt/config", {"jwt_validation_pubkeys": [pem.decode()], "bound_issuer": "tests"})
    role = {"role_type": "jwt", "user_claim": "sub", "bound_audiences": ["vault"], "bound_subject": "gateway"}
    bao.root("POST", "auth/jwt/role/sealkeeper", {**role, "token_policies": "sealkeeper", "token_ttl": "1h"})
    now = datetime.now(UTC)
    claims = {"iss": "tests", "aud": "vault", "sub": "gateway", "iat": now, "exp": now + timedelta(hours=1)}
    source = bao.secret("jwt", jwt.encode(claims, key, "ES256"))
    return bao.uri(f"auth=jwt&role=sealkeeper&jwt-source=file:{source}")


def by_certificate(bao: OpenBao) -> str:
    bao.root("POST", "sys/auth/cert", {"type": "cert"})
    trusted = {"certificate": (bao.directory / "ca.pem").read_text(), "allowed_common_names": "sealkeeper"}
    bao.root("POST", "auth/cert/certs/sealkeeper", {**trusted, "token_policies": "sealkeeper", "token_ttl": "1h"})
    here = bao.directory
    return bao.uri(f"auth=cert&cert-file={here}/sealkeeper.pem&key-file={here}/sealkeeper.key&role=sealkeeper")


def by_kubernetes(bao: OpenBao, api: Front) -> str:
    """The API server is a stand-in that answers ``TokenReview`` alone."""
    account, namespace = "sealkeeper", "signing"
    user = {"username": f"system:serviceaccount:{namespace}:{account}", "uid": "4711", "groups": []}
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "status": {"authenticated": True, "user": user},
    }
    api.decide = lambda _method, _path: Reply(200, json.dumps(review).encode())
    bao.root("POST", "sys/auth/kubernetes", {"type": "kubernetes"})
    config = {"kubernetes_host": f"http://127.0.0.1:{api.port}", "disable_local_ca_jwt": True}
    config["kubernetes_ca_cert"] = (bao.directory / "ca.pem").read_text()
    bao.root("POST", "auth/kubernetes/config", config)
    bound = {"bound_service_account_names": account, "bound_service_account_namespaces": namespace}
    bao.root("POST", "auth/kubernetes/role/sealkeeper", {**bound, "token_policies": "sealkeeper", "token_ttl": "1h"})
    pod = {"namespace": namespace, "serviceaccount": {"name": account, "uid": "4711"}}
    now = datetime.now(UTC)
    claims: dict[str, Any] = {"iss": "k8s", "sub": user["username"], "kubernetes.io": pod}
    claims |= {"iat": now, "nbf": now - timedelta(minutes=1), "exp": now + timedelta(hours=1)}
    source = bao.secret("account", jwt.encode(claims, ec.generate_private_key(ec.SECP256R1()), "ES256"))
    return bao.uri(f"auth=kubernetes&role=sealkeeper&jwt-source=file:{source}")


@pytest.mark.parametrize("method", ["token", "approle", "jwt", "kubernetes", "cert"])
def test_every_way_to_log_in_leads_to_a_signature(bao: OpenBao, method: str) -> None:
    with ExitStack() as stack:
        match method:
            case "token":
                uri = bao.uri(token_file(bao, token_of(bao)))
            case "approle":
                uri = bao.uri(bao.approle())
            case "jwt":
                uri = by_jwt(bao)
            case "kubernetes":
                uri = by_kubernetes(bao, stack.enter_context(front()))
            case _:
                uri = by_certificate(bao)
        asked = Asked(bao)
        with opened(uri) as backend:
            assert signs(backend, backend.generate("login", P256))
            backend.check()
        assert asked.count(f"auth/{method}/login") == (method != "token")
        # A token that the gateway got by a login is given back; one that it was given is not its own.
        assert asked.count("auth/token/revoke-self") == (method != "token")


def test_a_refused_login_says_what_to_do_and_shows_no_secret(bao: OpenBao) -> None:
    query = bao.approle()
    source = bao.secret("wrong-secret-id", "not-the-secret-id")
    query = query.replace(f"{bao.directory}/secret-id", str(source))
    with pytest.raises(ProviderPermissionError, match="refuses the gateway's login by approle") as refused:
        TransitBackend(bao.uri(query))
    assert "bao write -f auth/approle/role/NAME/secret-id" in refused.value.next_step
    assert str(source) in refused.value.next_step
    assert "not-the-secret-id" not in f"{refused.value!r} {refused.value.next_step}"


def test_an_auth_method_that_is_not_there_says_so(bao: OpenBao) -> None:
    with pytest.raises(ProviderError) as refused:
        TransitBackend(bao.uri(f"{bao.approle()}&auth-mount=nowhere"))
    assert "bao auth" in refused.value.next_step
    assert "auth/nowhere" in refused.value.next_step


def test_a_secret_file_of_several_lines_or_open_to_everybody_is_refused(bao: OpenBao) -> None:
    two_lines = token_file(bao, "s.one\ns.two", "two-lines")
    with pytest.raises(ProviderConfigurationError, match="more than one line") as refused:
        TransitBackend(bao.uri(two_lines))
    assert "s.one" not in f"{refused.value!r} {refused.value.next_step}"
    (bao.directory / "two-lines").chmod(0o644)
    with pytest.raises(ProviderConfigurationError, match="open to everybody"):
        TransitBackend(bao.uri(two_lines))


def test_a_client_key_that_is_open_to_everybody_or_not_there_is_refused(bao: OpenBao) -> None:
    key = bao.secret("open.key", "-")
    key.chmod(0o644)
    uri = bao.uri(f"auth=cert&cert-file={bao.directory}/sealkeeper.pem&key-file={key}")
    with pytest.raises(ProviderConfigurationError, match="client key file is open to everybody"):
        TransitBackend(uri)
    key.unlink()
    with pytest.raises(ProviderConfigurationError, match="client key file cannot be read"):
        TransitBackend(uri)


# Tokens over time.


def test_a_token_is_renewed_after_two_thirds_of_its_time_and_not_before(bao: OpenBao) -> None:
    clock, asked = Clock(), Asked(bao)
    with opened(bao.uri(bao.approle(token_ttl="1h")), clock) as backend:
        key = backend.generate("renewed", P256)
        clock.now += 2399
        assert signs(backend, key)
        assert asked.count("auth/token/renew-self") == 0
        clock.now += 2
        assert signs(backend, key)
        assert signs(backend, key)
        assert asked.count("auth/token/renew-self") == 1
        assert asked.count("auth/approle/login") == 1


def test_a_token_at_the_end_of_its_longest_life_is_followed_by_a_login(bao: OpenBao) -> None:
    clock, asked = Clock(), Asked(bao)
    query = bao.approle(token_ttl="1h")
    with opened(bao.uri(query), clock) as backend:
        key = backend.generate("long", P256)
        bao.root("POST", "auth/approle/role/sealkeeper", {"token_max_ttl": "10m", "token_ttl": "10m"})
        clock.now += 2401
        assert signs(backend, key)
        assert asked.count("auth/token/renew-self") == 1
        assert asked.count("auth/approle/login") == 2
    bao.root("POST", "auth/approle/role/sealkeeper", {"token_max_ttl": 0, "token_ttl": "1h"})


def test_a_token_that_cannot_be_renewed_is_followed_by_a_login(bao: OpenBao) -> None:
    clock, asked = Clock(), Asked(bao)
    query = bao.approle(token_type="batch")
    try:
        with opened(bao.uri(query), clock) as backend:
            key = backend.generate("batch", P256)
            clock.now += 2401
            assert signs(backend, key)
            assert asked.count("auth/token/renew-self") == 0
            assert asked.count("auth/approle/login") == 2
    finally:
        bao.root("POST", "auth/approle/role/sealkeeper", {"token_type": "service"})


def test_a_server_that_cannot_renew_now_does_not_stop_a_token_that_is_still_good(bao: OpenBao) -> None:
    clock = Clock()
    with fronted(bao) as (before, uri), opened(uri, clock) as backend:
        key = backend.generate("still-good", P256)
        before.decide = lambda _method, path: Reply(500) if "/auth/" in path else None
        clock.now += 2401
        assert signs(backend, key)
        assert signs(backend, key)
        assert before.count("POST", "renew-self") == 1
        clock.now += 6
        assert signs(backend, key)
        assert before.count("POST", "renew-self") == 2
        clock.now += 1200
        with pytest.raises(ProviderUnavailableError):
            backend.sign(key.handle, P256, [DIGEST])


def test_an_idle_gateways_token_is_renewed_too(bao: OpenBao, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transit, "_KEEP_SECONDS", 0.01)
    clock = Clock()
    with opened(bao.uri(token_file(bao, token_of(bao))), clock):
        asked = Asked(bao)
        clock.now += 2401
        while not asked.count("auth/token/renew-self"):
            time.sleep(0.01)


def revoke_tokens(bao: OpenBao) -> None:
    """Revoke all tokens that AppRole has given."""
    bao.root("POST", "sys/leases/revoke-prefix/auth/approle/login", {})


def test_a_revoked_token_is_followed_by_one_login_however_many_threads_notice(bao: OpenBao) -> None:
    with opened(bao.uri(bao.approle())) as backend:
        key = backend.generate("revoked", P256)
        revoke_tokens(bao)
        asked = Asked(bao)
        with ThreadPoolExecutor(16) as threads:
            assert all(threads.map(lambda _: signs(backend, key), range(64)))
        assert asked.count("auth/approle/login") == 1


def test_a_revoked_token_of_a_file_is_followed_by_the_one_that_the_file_has_then(bao: OpenBao) -> None:
    clock, token = Clock(), token_of(bao)
    with opened(bao.uri(token_file(bao, token)), clock) as backend:
        key = backend.generate("handed-over", P256)
        bao.root("POST", "auth/token/revoke", {"token": token})
        for _ in range(2):
            with pytest.raises(ProviderPermissionError, match="does not know the token") as refused:
                backend.sign(key.handle, P256, [DIGEST])
        assert token not in f"{refused.value!r} {refused.value.next_step}"
        token_file(bao, token_of(bao))
        assert signs(backend, key)


def test_a_refused_login_is_repeated_at_growing_intervals_only(bao: OpenBao) -> None:
    clock = Clock()
    with opened(bao.uri(bao.approle()), clock) as backend:
        key = backend.generate("locked-out", P256)
        good = (bao.directory / "secret-id").read_text().strip()
        bao.secret("secret-id", "not-any-more")
        revoke_tokens(bao)
        asked = Asked(bao)
        tries: list[float] = []
        for _ in range(60):
            with pytest.raises(ProviderPermissionError):
                backend.sign(key.handle, P256, [DIGEST])
            if asked.count("auth/approle/login") > len(tries):
                tries.append(clock.now)
            clock.now += 1
        assert [after - before for before, after in pairwise(tries)] == [5, 10, 20]
        # Once the secret was put right there is nothing to wait for.
        bao.secret("secret-id", good)
        assert signs(backend, key)


# A server with something wrong.


def test_a_sealed_server_is_said_to_be_sealed_and_signs_again_when_it_is_not(own_bao: OpenBao) -> None:
    uri = own_bao.uri(own_bao.approle())
    with opened(uri) as backend:
        key = backend.generate("sealed", P256)
        own_bao.root("POST", "sys/seal", {})
        for call in (
            lambda: backend.sign(key.handle, P256, [DIGEST]),
            lambda: backend.public_key(key.handle),
            lambda: backend.generate("more", P256),
            lambda: backend.destroy(key.handle),
            lambda: backend.check(),
            lambda: TransitBackend(uri),
        ):
            with pytest.raises(ProviderSealedError) as sealed:
                call()
            assert "unseal" in sealed.value.next_step
        log = (own_bao.directory / "bao.log").read_text()
        [unseal_key] = [line.split()[-1] for line in log.splitlines() if line.startswith("Unseal Key:")]
        own_bao.root("POST", "sys/unseal", {"key": unseal_key})
        backend.check()
        assert signs(backend, key)


def test_a_rate_limit_is_passed_on_with_the_time_to_wait(bao: OpenBao) -> None:
    with opened(bao.uri(bao.approle())) as backend:
        key = backend.generate("throttled", P256)
        bao.root("POST", "sys/quotas/config", {"enable_rate_limit_response_headers": True})
        bao.root("POST", "sys/quotas/rate-limit/slow", {"path": "transit/", "rate": 1, "interval": "30s"})
        try:
            assert signs(backend, key)
            with pytest.raises(ProviderThrottledError) as throttled:
                backend.sign(key.handle, P256, [DIGEST])
        finally:
            bao.root("DELETE", "sys/quotas/rate-limit/slow")
        assert throttled.value.retry_after is not None
        assert timedelta() < throttled.value.retry_after <= timedelta(seconds=30)
        assert "sys/quotas/rate-limit" in throttled.value.next_step


def test_a_policy_that_is_too_narrow_is_said_to_be_and_costs_no_login(bao: OpenBao) -> None:
    with opened(bao.uri(bao.approle())) as backend:
        key = backend.generate("narrow", P256)
    policy = (
        'path "transit/keys/+" { capabilities = ["read"] }\npath "auth/token/lookup-self" { capabilities = ["read"] }'
    )
    bao.root("POST", "sys/policies/acl/narrow", {"policy": policy})
    asked = Asked(bao)
    with opened(bao.uri(bao.approle(token_policies="narrow"))) as backend:
        for call, what in (
            (lambda: backend.sign(key.handle, P256, [DIGEST]), "sign"),
            (lambda: backend.generate("more", P256), "make a key"),
            (lambda: backend.destroy(key.handle), "delete a key"),
            (lambda: backend.begin_import("more", P256), "read the wrapping key"),
        ):
            with pytest.raises(ProviderPermissionError, match=what) as denied:
                call()
            assert "docs/providers/transit.md" in denied.value.next_step
        backend.check()
        assert asked.count("auth/approle/login") == 1


def test_a_mount_or_namespace_that_is_not_there_is_named_with_the_command_that_makes_it(bao: OpenBao) -> None:
    policy = 'path "elsewhere/*" { capabilities = ["read"] }\npath "auth/token/*" { capabilities = ["read"] }'
    bao.root("POST", "sys/policies/acl/elsewhere", {"policy": policy})
    query = token_file(bao, token_of(bao, policies=["elsewhere"]))
    with pytest.raises(ProviderConfigurationError, match="nothing mounted at elsewhere") as missing:
        TransitBackend(bao.uri(query, "elsewhere"))
    assert missing.value.next_step.endswith("bao secrets enable -path=elsewhere transit")
    with pytest.raises(ProviderConfigurationError, match="no namespace nowhere") as missing:
        TransitBackend(bao.uri(f"{query}&namespace=nowhere"))
    assert "bao namespace create nowhere" in missing.value.next_step


def test_a_namespace_is_a_world_of_its_own(bao: OpenBao) -> None:
    bao.root("POST", "sys/namespaces/acme", {})
    bao.root("POST", "sys/mounts/transit", {"type": "transit"}, "acme")
    policy = bao.root("GET", "sys/policies/acl/sealkeeper")["data"]["policy"]
    bao.root("POST", "sys/policies/acl/sealkeeper", {"policy": policy}, "acme")
    bao.root("POST", "sys/auth/approle", {"type": "approle"}, "acme")
    before = bao.transit_keys()
    with opened(bao.uri(bao.approle("acme"))) as inside, opened(bao.uri(bao.approle())) as outside:
        key = inside.generate("inside", P256)
        assert signs(inside, key)
        inside.check()
        with pytest.raises(KeyHandleError):
            outside.sign(key.handle, P256, [DIGEST])
    assert bao.transit_keys() == before


def test_a_server_that_is_not_known_gets_no_secret(bao: OpenBao, tmp_path: Path) -> None:
    query = bao.approle()
    asked = Asked(bao)
    for uri in (
        bao.uri(query).replace(f"&ca-file={bao.directory}/ca.pem", ""),
        bao.uri(query).replace("127.0.0.1", "localhost"),
    ):
        with pytest.raises(ProviderConfigurationError, match="certificate") as unknown:
            TransitBackend(uri)
        assert "ca-file=" in unknown.value.next_step
    assert asked.count("") == 0
    with pytest.raises(ProviderConfigurationError, match="CA file cannot be read"):
        TransitBackend(f"{bao.uri(query).rsplit('=', 1)[0]}={tmp_path}/none.pem")


def test_the_environment_leads_nowhere(bao: OpenBao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with front() as elsewhere:
        for name in ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy", "ALL_PROXY", "VAULT_ADDR", "BAO_ADDR"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{elsewhere.port}")
        for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "VAULT_CACERT", "VAULT_CLIENT_CERT", "VAULT_CLIENT_KEY"):
            monkeypatch.setenv(name, str(tmp_path / "none"))
        monkeypatch.setenv("VAULT_TOKEN", ROOT)
        monkeypatch.setenv("VAULT_NAMESPACE", "nowhere")
        asked = Asked(bao)
        with opened(bao.uri(bao.approle())) as backend:
            assert signs(backend, backend.generate("environment", P256))
        assert asked.count("auth/approle/login") == 1
        assert elsewhere.seen == []


# Between the gateway and the server.


def test_an_answer_that_was_lost_is_asked_for_again_where_that_is_safe(bao: OpenBao) -> None:
    with fronted(bao) as (before, uri), opened(uri) as backend:
        key = backend.generate("lost", P256)
        losses: Iterator[Reply | str] = iter([LOSE, Reply(503, b"<html>"), LOSE])
        before.decide = lambda _method, path: next(losses, None) if "/sign/" in path else None
        assert signs(backend, key)
        assert before.count("POST", "/sign/") == 4


def test_what_stays_away_is_unavailable_and_not_asked_for_ever(bao: OpenBao) -> None:
    with fronted(bao) as (before, uri), opened(uri) as backend:
        key = backend.generate("away", P256)
        before.decide = lambda _method, _path: LOSE
        with pytest.raises(ProviderUnavailableError, match="cannot be reached, or broke") as away:
            backend.sign(key.handle, P256, [DIGEST])
        assert "sys/health" in away.value.next_step
        assert before.count("POST", "/sign/") == 4


def test_a_key_whose_making_was_not_heard_of_is_not_left_behind_and_not_made_twice(bao: OpenBao) -> None:
    there = bao.transit_keys()
    with fronted(bao) as (before, uri), opened(uri) as backend:
        losses = iter([LOSE])
        before.decide = lambda method, path: (
            next(losses, None) if method == "POST" and "/keys/sealkeeper-unheard" in path else None
        )
        with pytest.raises(ProviderUnavailableError):
            backend.generate("unheard", P256)
        made = [path for method, path in before.seen if method == "POST" and not path.endswith("/config")]
        assert sum("unheard" in path for path in made) == 1
    assert bao.transit_keys() == there


def test_an_import_whose_end_was_not_heard_of_can_be_repeated_and_gives_one_key(bao: OpenBao) -> None:
    there, private = bao.transit_keys(), new_private_key("secp256r1")
    with fronted(bao) as (before, uri), opened(uri) as backend:
        offer = backend.begin_import("repeated", P256)
        wrapped = wrap(KWP, offer.public_key, pkcs8(private))
        losses = iter([LOSE])
        before.decide = lambda _method, path: next(losses, None) if path.endswith("/import") else None
        with pytest.raises(ProviderUnavailableError):
            backend.finish_import(offer.state, "repeated", P256, KWP, wrapped, spki(private))
        first, again = (
            backend.finish_import(offer.state, "repeated", P256, KWP, wrapped, spki(private)) for _ in range(2)
        )
        assert first == again
        assert first.public_key == spki(private)
        assert before.count("POST", "/import") == 1
        # Another private key by the same import is another key, and the first stays what it is.
        other = new_private_key("secp256r1")
        wrapped = wrap(KWP, offer.public_key, pkcs8(other))
        second = backend.finish_import(offer.state, "repeated", P256, KWP, wrapped, spki(other))
        assert second.public_key == spki(other)
        assert backend.public_key(first.handle) == first
    assert bao.transit_keys() - there == {name_of(first), name_of(second)}


def test_one_import_finished_by_many_at_once_gives_one_key(bao: OpenBao) -> None:
    there, private = bao.transit_keys(), new_private_key("secp256r1")
    with opened(bao.uri(bao.approle())) as backend:
        offer = backend.begin_import("at-once", P256)
        wrapped = wrap(KWP, offer.public_key, pkcs8(private))
        with ThreadPoolExecutor(8) as threads:
            arguments = (offer.state, "at-once", P256, KWP, wrapped, spki(private))
            keys = set(threads.map(lambda _: backend.finish_import(*arguments), range(8)))
    assert len(keys) == 1
    assert bao.transit_keys() - there == {name_of(keys.pop())}


@pytest.mark.parametrize("status", [301, 307, 308])
def test_a_standby_that_refers_to_another_server_is_not_followed(bao: OpenBao, status: int) -> None:
    with front() as other, fronted(bao) as (before, uri), opened(uri) as backend:
        key = backend.generate("standby", P256)
        there = f"http://127.0.0.1:{other.port}/v1/transit"
        before.decide = lambda _method, path: (
            Reply(status, headers={"Location": there}) if "/transit/" in path else None
        )
        for call in (
            lambda: backend.sign(key.handle, P256, [DIGEST]),
            lambda: backend.public_key(key.handle),
            lambda: backend.destroy(key.handle),
        ):
            with pytest.raises(ProviderUnavailableError, match="standby") as standby:
                call()
            assert "sys/health" in standby.value.next_step
        assert other.seen == []


@pytest.mark.parametrize(
    ("reply", "error", "text"),
    [
        (Reply(429, b'{"initialized": true, "sealed": false, "standby": true}'), None, ""),
        (Reply(473, b'{"initialized": true, "sealed": false, "standby": true}'), None, ""),
        (Reply(472, b'{"initialized": true, "sealed": false, "standby": true}'), ProviderUnavailableError, "secondary"),
        (Reply(501, b'{"initialized": false, "sealed": true}'), ProviderConfigurationError, "not initialised"),
        (Reply(503, b'{"initialized": true, "sealed": true}'), ProviderSealedError, "sealed"),
        (Reply(503, b"<html>no healthy upstream</html>"), ProviderUnavailableError, "HTTP 503"),
        (Reply(200, b"<html>welcome</html>"), ProviderUnavailableError, "not a transit server"),
        (Reply(200, b"[" * 100_000), ProviderUnavailableError, "not a transit server"),
        (Reply(200, b"x" * 5_000_000), ProviderUnavailableError, "too long"),
    ],
)
def test_the_health_of_a_server_is_told_by_its_kind(
    bao: OpenBao, reply: Reply, error: type[ProviderError] | None, text: str
) -> None:
    with fronted(bao) as (before, uri), opened(uri) as backend:
        before.decide = lambda _method, path: reply if "sys/health" in path else None
        if error is None:
            backend.check()
            return
        with pytest.raises(error, match=text):
            backend.check()


def test_every_error_says_what_to_do(bao: OpenBao, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transit, "_PAUSES", (0.0,))
    with fronted(bao) as (before, uri), opened(uri) as backend:
        key = backend.generate("advice", P256)
        for reply in (*(Reply(status, b"{}") for status in (200, 204, 400, 403, 404, 405, 412, 429, 500)), LOSE):
            before.decide = lambda _method, path, reply=reply: reply if "/transit/" in path else None  # type: ignore[misc]
            for call in (
                lambda: backend.generate("more", P256),
                lambda: backend.public_key(key.handle),
                lambda: backend.sign(key.handle, P256, [DIGEST]),
                lambda: backend.evidence(key.handle),
                lambda: backend.begin_import("more", P256),
            ):
                with pytest.raises(ProviderError) as error:
                    call()
                assert error.value.next_step, f"{reply}: {error.value}"


def test_a_page_that_is_not_found_on_the_way_is_not_taken_for_a_key_that_is_gone(bao: OpenBao) -> None:
    with fronted(bao) as (before, uri), opened(uri) as backend:
        key = backend.generate("not-gone", P256)
        before.decide = lambda _method, path: Reply(404, b"<html>404</html>") if "/transit/" in path else None
        for call in (lambda: backend.public_key(key.handle), lambda: backend.destroy(key.handle)):
            with pytest.raises(ProviderUnavailableError, match="HTTP 404"):
                call()
        before.decide = lambda _method, _path: None
        assert signs(backend, key)


@pytest.mark.parametrize(
    "results",
    [
        None,
        [],
        [{}],
        ["vault:v1:AAAA"],
        [{"signature": "vault:v2:AAAA"}],
        [{"signature": "AAAA"}],
        [{"signature": "vault:v1:%%"}],
        [{"signature": 1}],
        [{"signature": "vault:v1:AAAA"}] * 2,
        [{"signature": "vault:v1:AAAA", "error": "internal error"}],
    ],
)
def test_a_batch_that_makes_no_sense_gives_no_signature(bao: OpenBao, results: object) -> None:
    with fronted(bao) as (before, uri), opened(uri) as backend:
        key = backend.generate("nonsense", P256)
        body = json.dumps({"data": {"batch_results": results}}).encode()
        before.decide = lambda _method, path: Reply(200, body) if "/sign/" in path else None
        with pytest.raises(ProviderUnavailableError):
            backend.sign(key.handle, P256, [DIGEST])


def test_what_a_server_writes_into_its_errors_is_not_shown(bao: OpenBao) -> None:
    with fronted(bao) as (before, uri), opened(uri) as backend:
        key = backend.generate("talkative", P256)
        for status in (400, 403, 404, 429, 500, 502, 503):
            before.decide = lambda _method, path, status=status: (  # type: ignore[misc]
                Reply.errors(status, "secret-word", Retry_After="7") if "/sign/" in path else None
            )
            with pytest.raises(ProviderError) as shown:
                backend.sign(key.handle, P256, [DIGEST])
            assert "secret-word" not in f"{shown.value!r} {shown.value.next_step}"
            assert shown.value.next_step


def test_a_server_that_says_nothing_is_not_waited_for(bao: OpenBao, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transit_connection, "_READ_SECONDS", 0.2)
    query = bao.approle()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(ProviderUnavailableError, match="did not answer in time"):
            TransitBackend(f"transit://127.0.0.1:{silent.getsockname()[1]}/transit?{query}&tls=off")
        nobody = silent.getsockname()[1]
    with pytest.raises(ProviderUnavailableError, match="cannot be reached"):
        TransitBackend(f"transit://127.0.0.1:{nobody}/transit?{query}&tls=off")


# Keys.


async def test_many_digests_are_signed_in_few_requests_and_in_their_order(bao: OpenBao) -> None:
    provider = await open_provider(bao.uri(bao.approle()))
    try:
        key = await provider.generate("many", P256)
        asked = Asked(bao)
        digests = [number.to_bytes(32, "big") for number in range(300)]
        signatures = await provider.sign(key.handle, P256, digests)
    finally:
        await provider.close()
    public = load_public_key(P256, key.public_key)
    assert all(signature_verifies(P256, public, *pair) for pair in zip(digests, signatures, strict=True))
    assert asked.count("transit/sign/") == 3


def test_many_long_messages_are_split_over_requests_that_servers_take(bao: OpenBao) -> None:
    ed25519 = ALGORITHMS["PKIX_ED25519"]
    with opened(bao.uri(bao.approle())) as backend:
        key = backend.generate("long-messages", ed25519)
        asked = Asked(bao)
        messages = [bytes([number]) * (1 << 20) for number in range(9)]
        signatures = backend.sign(key.handle, ed25519, messages)
        assert asked.count("transit/sign/") == 3
    public = load_public_key(ed25519, key.public_key)
    assert all(signature_verifies(ed25519, public, *pair) for pair in zip(messages, signatures, strict=True))


def test_a_key_is_what_evidence_says_and_what_a_custodian_finds(bao: OpenBao) -> None:
    with opened(bao.uri(bao.approle())) as backend:
        key = backend.generate("acme.release_1", P256)
        found = bao.root("GET", f"transit/keys/{name_of(key)}")["data"]
        assert (found["exportable"], found["allow_plaintext_backup"], found["type"]) == (False, False, "ecdsa-p256")
        assert name_of(key).startswith("sealkeeper-acme.release_1-")
        said = backend.evidence(key.handle)
        assert (said.protection_level, said.origin, said.exportable) == (
            ProtectionLevel.EXTERNAL,
            Origin.GENERATED,
            False,
        )
        assert said.claims["type"] == "ecdsa-p256"
        assert said.claims["allow_plaintext_backup"] == "false"
        assert said.claims["creation_time"] == found["keys"]["1"]["creation_time"]


@pytest.mark.parametrize("way_out", ["exportable", "allow_plaintext_backup"])
def test_a_key_that_the_server_would_give_out_is_said_to_be_exportable(bao: OpenBao, way_out: str) -> None:
    with opened(bao.uri(bao.approle())) as backend:
        key = backend.generate("opened-up", P256)
        bao.root("POST", f"transit/keys/{name_of(key)}/config", {way_out: True})
        said = backend.evidence(key.handle)
        assert said.exportable is True
        assert said.claims[way_out] == "true"


@pytest.mark.parametrize(
    ("said", "origin", "exportable"),
    [
        ({}, Origin.UNKNOWN, None),
        ({"exportable": False}, Origin.UNKNOWN, None),
        ({"exportable": "no", "allow_plaintext_backup": "no", "imported_key": "no"}, Origin.UNKNOWN, None),
        ({"allow_plaintext_backup": True, "imported_key": True}, Origin.IMPORTED, True),
    ],
)
def test_what_the_server_does_not_say_of_a_key_is_not_made_up(
    bao: OpenBao, said: dict[str, object], origin: Origin, exportable: bool | None
) -> None:
    with fronted(bao) as (before, uri), opened(uri) as backend:
        key = backend.generate("silent", P256)
        found = bao.root("GET", f"transit/keys/{name_of(key)}")["data"]
        body = json.dumps({"data": {"type": found["type"], "keys": found["keys"], **said}}).encode()
        before.decide = lambda _method, path: Reply(200, body) if "/transit/keys/" in path else None
        evidence = backend.evidence(key.handle)
        assert (evidence.origin, evidence.exportable) == (origin, exportable)


def test_an_imported_key_is_said_to_be_one(bao: OpenBao) -> None:
    private = new_private_key("secp256r1")
    with opened(bao.uri(bao.approle())) as backend:
        offer = backend.begin_import("brought", P256)
        wrapped = wrap(KWP, offer.public_key, pkcs8(private))
        key = backend.finish_import(offer.state, "brought", P256, KWP, wrapped, spki(private))
        assert signs(backend, key)
        said = backend.evidence(key.handle)
        assert (said.origin, said.exportable) == (Origin.IMPORTED, False)
        assert said.claims["imported_key_allow_rotation"] == "false"


def test_a_refused_import_leaves_nothing_behind(bao: OpenBao) -> None:
    there, private = bao.transit_keys(), private_key("secp256r1")
    with opened(bao.uri(bao.approle())) as backend:
        offer = backend.begin_import("refused", P256)
        right = wrap(KWP, offer.public_key, pkcs8(private))
        for wrapped in (
            b"",
            bytes(600),
            right[:-8],
            bytes([right[0] ^ 1]) + right[1:],
            wrap(WrapMethod.RSA_OAEP_SHA1_AES_256_KWP, offer.public_key, pkcs8(private)),
            wrap(KWP, offer.public_key, pkcs8(private_key("secp384r1"))),
            wrap(KWP, offer.public_key, pkcs8(private_key(2048))),
            wrap(KWP, offer.public_key, bytes(64)),
        ):
            with pytest.raises(WrappedKeyError):
                backend.finish_import(offer.state, "refused", P256, KWP, wrapped, spki(private))
        for label, algorithm in (("another", P256), ("refused", ALGORITHMS["PKIX_ED25519"])):
            with pytest.raises(ImportExpiredError):
                backend.finish_import(offer.state, label, algorithm, KWP, right, spki(private))
    assert bao.transit_keys() == there


def test_a_key_of_another_public_key_is_removed_and_the_right_one_stays(bao: OpenBao) -> None:
    there, private = bao.transit_keys(), new_private_key("secp256r1")
    with opened(bao.uri(bao.approle())) as backend:
        offer = backend.begin_import("mismatch", P256)
        wrapped = wrap(KWP, offer.public_key, pkcs8(private))
        key = backend.finish_import(offer.state, "mismatch", P256, KWP, wrapped, spki(private))
        for _ in range(2):
            with pytest.raises(PublicKeyMismatchError) as mismatch:
                backend.finish_import(offer.state, "mismatch", P256, KWP, wrapped, spki(private_key("secp256r1")))
            assert "fingerprints" in mismatch.value.next_step
        assert signs(backend, key)
    assert bao.transit_keys() - there == {name_of(key)}


def test_a_fault_of_the_server_is_not_blamed_on_the_wrapped_key(bao: OpenBao) -> None:
    private = private_key("secp256r1")
    with fronted(bao) as (before, uri), opened(uri) as backend:
        offer = backend.begin_import("fault", P256)
        wrapped = wrap(KWP, offer.public_key, pkcs8(private))
        before.decide = lambda _method, path: (
            Reply.errors(500, "1 error occurred: * internal error") if path.endswith("/import") else None
        )
        with pytest.raises(ProviderUnavailableError, match="HTTP 500"):
            backend.finish_import(offer.state, "fault", P256, KWP, wrapped, spki(private))


def test_a_wrapping_key_that_is_no_more_is_said_to_be_forgotten(own_bao: OpenBao) -> None:
    private = private_key("secp256r1")
    with opened(own_bao.uri(own_bao.approle())) as backend:
        offer = backend.begin_import("forgotten", P256)
        own_bao.root("DELETE", "sys/mounts/transit")
        own_bao.root("POST", "sys/mounts/transit", {"type": "transit"})
        wrapped = wrap(KWP, offer.public_key, pkcs8(private))
        with pytest.raises(ImportExpiredError, match="another wrapping key"):
            backend.finish_import(offer.state, "forgotten", P256, KWP, wrapped, spki(private))
    assert own_bao.transit_keys() == set()


def test_a_key_that_somebody_deleted_is_not_found_and_one_that_was_limited_is_not_let_sign(bao: OpenBao) -> None:
    with opened(bao.uri(bao.approle())) as backend:
        gone, rotated, limited = (backend.generate(label, P256) for label in ("gone", "rotated", "limited"))
        bao.root("POST", f"transit/keys/{name_of(gone)}/config", {"deletion_allowed": True})
        bao.root("DELETE", f"transit/keys/{name_of(gone)}")
        with pytest.raises(KeyHandleError):
            backend.sign(gone.handle, P256, [DIGEST])
        backend.destroy(gone.handle)
        for key in (rotated, limited):
            bao.root("POST", f"transit/keys/{name_of(key)}/rotate", {})
        # What the gateway signs with is the version that it knows, whatever came after.
        assert signs(backend, rotated)
        assert backend.public_key(rotated.handle) == rotated
        bao.root("POST", f"transit/keys/{name_of(limited)}/config", {"min_encryption_version": 2})
        with pytest.raises(ProviderPermissionError, match="this version") as refused:
            backend.sign(limited.handle, P256, [DIGEST])
        assert "min_encryption_version" in refused.value.next_step


def test_a_key_that_was_soft_deleted_does_not_sign_until_it_is_restored(bao: OpenBao) -> None:
    with opened(bao.uri(bao.approle())) as backend:
        key = backend.generate("soft", P256)
        bao.root("DELETE", f"transit/keys/{name_of(key)}/soft-delete")
        with pytest.raises(ProviderPermissionError, match="soft-deleted") as deleted:
            backend.sign(key.handle, P256, [DIGEST])
        assert "soft-delete-restore" in deleted.value.next_step
        assert backend.evidence(key.handle).claims["soft_deleted"] == "true"
        bao.root("POST", f"transit/keys/{name_of(key)}/soft-delete-restore", {})
        assert signs(backend, key)


@pytest.mark.parametrize(
    "handle",
    [
        "name=theirs;version=1;x-algorithm=PKIX_ECDSA_P256_SHA_256",
        "name=sealkeeper-../../../sys/seal;version=1;x-algorithm=PKIX_ECDSA_P256_SHA_256",
        "name=sealkeeper-a?b;version=1;x-algorithm=PKIX_ECDSA_P256_SHA_256",
        "name=sealkeeper-a;version=0;x-algorithm=PKIX_ECDSA_P256_SHA_256",
        "name=sealkeeper-a;version=1;x-algorithm=ML_DSA_65",
        "name=sealkeeper-a;version=1;x-algorithm=PKIX_ECDSA_P256_SHA_256\n",
    ],
)
def test_a_handle_that_is_not_ours_is_not_even_asked_for(bao: OpenBao, handle: str) -> None:
    with opened(bao.uri(bao.approle())) as backend:
        asked = Asked(bao)
        for call in (
            lambda: backend.public_key(handle),
            lambda: backend.sign(handle, P256, [DIGEST]),
            lambda: backend.destroy(handle),
            lambda: backend.evidence(handle),
        ):
            with pytest.raises(KeyHandleError):
                call()
        assert asked.count("transit/") == 0


async def test_a_handle_of_another_algorithm_than_the_keys_gives_no_signature(bao: OpenBao) -> None:
    provider = await open_provider(bao.uri(bao.approle()))
    try:
        key = await provider.generate("other", P256)
        forged = key.handle.replace("P256_SHA_256", "P384_SHA_384")
        for call in (
            provider.public_key(forged),
            provider.evidence(forged),
            # The engine itself cuts a digest that is too long for the curve, and signs.
            provider.sign(forged, ALGORITHMS["PKIX_ECDSA_P384_SHA_384"], [bytes(48)]),
        ):
            with pytest.raises(KeyHandleError):
                await call
    finally:
        await provider.close()


# What the policy of the docs lets the gateway do, and whoever steals its token.


def test_the_documented_policy_lets_nobody_take_a_key_out(bao: OpenBao) -> None:
    token, key = token_of(bao), "transit/keys/sealkeeper-stolen"

    def status(method: str, path: str, body: dict[str, Any] | None = None) -> int:
        return bao.ask(token, method, path, body).status_code

    assert status("POST", key, {"type": "ecdsa-p256", "exportable": False}) == 200
    for truth in (True, "true", 1, "1", "True"):
        for way_out in ("exportable", "allow_plaintext_backup"):
            assert status("POST", f"{key}-{truth}", {"type": "ecdsa-p256", way_out: truth}) == 403
            assert status("POST", f"{key}/config", {way_out: truth}) == 403
            brought = {"ciphertext": "AAAA", "type": "ecdsa-p256", way_out: truth}
            assert status("POST", f"{key}-{truth}/import", brought) == 403
    for path in (
        "transit/export/signing-key/sealkeeper-stolen",
        "transit/byok-export/a/sealkeeper-stolen",
        "transit/backup/sealkeeper-stolen",
        "transit/keys?list=true",
        "sys/mounts",
        "sys/policies/acl/sealkeeper",
    ):
        assert status("GET", path) == 403, path
    for path in (f"{key}/rotate", f"{key}/trim", f"{key}/import_version", "transit/restore", "auth/token/create"):
        assert status("POST", path, {}) == 403, path
    assert not any(name.startswith("sealkeeper-stolen-") for name in bao.transit_keys())


def test_the_registry_knows_it(bao: OpenBao) -> None:
    backend = open_backend(bao.uri(bao.approle()))
    try:
        assert isinstance(backend, TransitBackend)
        assert "transit engine transit at 127.0.0.1" in backend.info.description
        assert "version 2." in backend.info.description
    finally:
        backend.close()


def test_no_secret_shows_in_what_the_backend_shows_of_itself(bao: OpenBao) -> None:
    query = bao.approle()
    secret_id = (bao.directory / "secret-id").read_text().strip()
    with opened(bao.uri(query)) as backend:
        backend.generate("quiet", P256)
        token = backend._tokens.current()
        shown = f"{backend!r} {backend.info!r} {vars(backend)!r} {vars(backend._tokens)!r}"
    assert token not in shown
    assert secret_id not in shown
