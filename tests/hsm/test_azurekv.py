"""The azurekv provider against a store of its API on loopback; what every store must do is in ``tests/conformance``."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.keyvault.keys import KeyCurveName, KeyType
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from sealkeeper.hsm import (
    ALGORITHMS,
    Algorithm,
    AlgorithmNotSupportedError,
    ImportExpiredError,
    ImportNotSupportedError,
    KeyHandleError,
    Origin,
    ProtectionLevel,
    ProviderConfigurationError,
    ProviderError,
    ProviderKey,
    ProviderPermissionError,
    ProviderThrottledError,
    ProviderUnavailableError,
    PublicKeyMismatchError,
    SelfCheckError,
    WrapMethod,
    WrappingKey,
    open_provider,
)
from sealkeeper.hsm.algorithms import load_public_key, signature_verifies
from sealkeeper.hsm.azurekv import AzureKeyVaultBackend
from sealkeeper.hsm.azurekv_http import ACTIONS, MAX_ANSWER, Login
from sealkeeper.hsm.azurekv_uri import _KNOWN, Kind, parse_azurekv_uri
from sealkeeper.hsm.backend import BackendLostError
from tests.stores.azure_vault import CLIENT, CLIENT_SECRET, REGION, TENANT, Answer, Vault, running_vault
from tests.wrapping import new_private_key, pkcs8, private_key, spki, wrap

P256 = ALGORITHMS["PKIX_ECDSA_P256_SHA_256"]
RSA = ALGORITHMS["PKIX_RSA_PKCS1V15_2048_SHA256"]
PSS = ALGORITHMS["PKIX_RSA_PSS_2048_SHA256"]
SHA1_KWP = WrapMethod.RSA_OAEP_SHA1_AES_256_KWP
PAGE = Path(__file__).parents[2] / "docs/providers/azurekv.md"


class Slept:
    """Waits, without waiting."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture(scope="module")
def premium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    with running_vault(tmp_path_factory.mktemp("premium")) as vault:
        yield vault


@pytest.fixture
def vault(premium: Vault) -> Iterator[Vault]:
    """A Premium vault as if it were new."""
    yield premium
    premium.keys.clear()
    premium.deleted.clear()
    premium.actions.clear()
    premium.denied.clear()
    premium.asked.clear()
    premium.answers.clear()
    premium.logins.clear()
    premium.login_answers.clear()
    premium.tokens = {premium.token_file.read_text().strip()}
    premium.change = lambda _, document: document
    premium.lag, premium.purge_protection = 0, False
    premium.now = lambda: datetime.now(UTC)


@pytest.fixture(scope="module")
def hsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    with running_vault(tmp_path_factory.mktemp("hsm"), managed_hsm=True) as vault:
        yield vault


@pytest.fixture(scope="module")
def standard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    with running_vault(tmp_path_factory.mktemp("standard"), standard=True) as vault:
        yield vault


@pytest.fixture
def slept() -> Slept:
    return Slept()


@pytest.fixture
def backend(vault: Vault, slept: Slept) -> Iterator[AzureKeyVaultBackend]:
    opened = AzureKeyVaultBackend(vault.uri(), slept)
    vault.asked.clear()
    yield opened
    opened.close()


def verifies(key: ProviderKey, payload: bytes, signature: bytes) -> bool:
    return signature_verifies(key.algorithm, load_public_key(key.algorithm, key.public_key), payload, signature)


def changing(operation: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[str, dict[str, Any]], Any]:
    """Changes the answers of one operation."""
    return lambda name, document: change(document) if name == operation else document


def in_key(**members: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda document: document | {"key": document["key"] | members}


class TestLogin:
    def test_the_first_request_is_challenged_without_a_token_and_later_ones_are_not(self, vault: Vault) -> None:
        AzureKeyVaultBackend(vault.uri()).close()
        assert vault.asked == ["list"]

    def test_a_challenge_of_another_place_gets_no_token(self, tmp_path: Path) -> None:
        with running_vault(tmp_path) as vault:
            vault.resource = "https://vault.azure.net"
            with pytest.raises(ProviderUnavailableError, match="not one of Key Vault's") as refused:
                AzureKeyVaultBackend(vault.uri(), Slept())
            assert "DNS" in refused.value.next_step
            assert vault.asked == []

    def test_a_token_that_was_replaced_is_read_again(self, tmp_path: Path) -> None:
        with running_vault(tmp_path) as vault:
            backend = AzureKeyVaultBackend(vault.uri())
            vault.tokens = {"second"}
            with pytest.raises(ProviderPermissionError, match="does not accept") as refused:
                backend.check()
            assert refused.value.next_step
            vault.token_file.write_text("second\n")
            backend.check()
            backend.close()

    def test_a_token_file_that_is_gone_for_a_while_is_a_refused_login(self, tmp_path: Path) -> None:
        with running_vault(tmp_path) as vault:
            backend = AzureKeyVaultBackend(vault.uri())
            vault.tokens = {"second"}
            vault.token_file.unlink()
            with pytest.raises(ProviderPermissionError, match="token file cannot be read"):
                backend.check()
            vault.token_file.write_text("second")
            vault.token_file.chmod(0o600)
            backend.check()
            backend.close()

    @pytest.mark.parametrize("content", ["", "two words", "line\nline", "schlüssel", "x" * 5000])
    def test_a_token_file_without_a_token_is_refused(self, vault: Vault, tmp_path: Path, content: str) -> None:
        file = tmp_path / "token"
        file.write_text(content)
        file.chmod(0o600)
        with pytest.raises(ProviderConfigurationError):
            AzureKeyVaultBackend(vault.uri(f"auth=token&token-source=file:{file}"))

    def test_a_token_file_that_others_can_read_is_refused(self, vault: Vault, tmp_path: Path) -> None:
        file = tmp_path / "token"
        file.write_text("token")
        file.chmod(0o644)
        with pytest.raises(ProviderConfigurationError, match="open to everybody"):
            AzureKeyVaultBackend(vault.uri(f"auth=token&token-source=file:{file}"))

    def test_a_client_secret_logs_in(self, vault: Vault, tmp_path: Path) -> None:
        backend = AzureKeyVaultBackend(vault.uri(_secret(tmp_path, CLIENT_SECRET)))
        backend.close()
        assert [login["client_id"] for login in vault.logins] == [CLIENT]

    def test_a_wrong_client_secret_is_refused_and_not_repeated(self, vault: Vault, tmp_path: Path) -> None:
        with pytest.raises(ProviderPermissionError, match="cannot log in") as refused:
            AzureKeyVaultBackend(vault.uri(_secret(tmp_path, "sesame-4712")), Slept())
        assert "sesame" not in str(refused.value) + refused.value.next_step

    def test_what_entra_id_says_of_a_refusal_is_not_printed_either(self, vault: Vault, tmp_path: Path) -> None:
        vault.login_answers.append(Answer(401, {"error": "invalid_client", "error_description": "sesame-4711"}))
        program = """
import sys
from sealkeeper.hsm.azurekv_http import Login, LoginRefusedError
from sealkeeper.hsm.azurekv_uri import parse_azurekv_uri

try:
    Login(parse_azurekv_uri(sys.stdin.read())).get_token("https://vault.azure.net/.default")
except LoginRefusedError:
    print("refused")
"""
        uri = vault.uri(_secret(tmp_path, CLIENT_SECRET))
        command = [sys.executable, "-c", program]
        ran = subprocess.run(command, input=uri, capture_output=True, text=True, check=False, timeout=60)
        assert (ran.stdout, ran.stderr) == ("refused\n", "")

    def test_a_client_secret_that_was_replaced_is_for_a_new_worker_to_use(self, vault: Vault, tmp_path: Path) -> None:
        backend = AzureKeyVaultBackend(vault.uri(_secret(tmp_path, CLIENT_SECRET)), Slept())
        vault.tokens = set()
        vault.login_answers.extend([Answer(401, {"error": "invalid_client"})] * 4)
        with pytest.raises(ProviderPermissionError):
            backend.check()
        _secret(tmp_path, "the next one")
        with pytest.raises(BackendLostError):
            backend.check()
        backend.close()

    def test_a_certificate_logs_in(self, vault: Vault, tmp_path: Path) -> None:
        file = tmp_path / "client.pem"
        file.write_bytes(_client_certificate())
        file.chmod(0o600)
        who = f"auth=client-certificate&tenant-id={TENANT}&client-id={CLIENT}&certificate-source=file:{file}"
        AzureKeyVaultBackend(vault.uri(who)).close()
        [login] = vault.logins
        assert login["client_assertion"].count(".") == 2

    def test_a_file_without_a_certificate_is_refused(self, vault: Vault, tmp_path: Path) -> None:
        file = tmp_path / "client.pem"
        file.write_bytes(pkcs8(private_key("secp256r1")))
        file.chmod(0o600)
        who = f"auth=client-certificate&tenant-id={TENANT}&client-id={CLIENT}&certificate-source=file:{file}"
        with pytest.raises(ProviderConfigurationError, match="client-certificate"):
            AzureKeyVaultBackend(vault.uri(who))

    def test_a_workload_logs_in_by_its_federated_token(self, vault: Vault, tmp_path: Path) -> None:
        file = tmp_path / "federated"
        file.write_text("header.claims.signature")
        file.chmod(0o600)
        who = f"auth=workload-identity&tenant-id={TENANT}&client-id={CLIENT}&token-source=file:{file}"
        AzureKeyVaultBackend(vault.uri(who)).close()
        [login] = vault.logins
        assert login["client_assertion"] == "header.claims.signature"

    @pytest.mark.parametrize("client", ["", f"client-id={CLIENT}"])
    def test_a_machine_logs_in_by_its_managed_identity(
        self, vault: Vault, monkeypatch: pytest.MonkeyPatch, client: str
    ) -> None:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"https://{vault.host}")
        AzureKeyVaultBackend(vault.uri(f"auth=managed-identity&{client}".rstrip("&"))).close()
        [login] = vault.logins
        assert login.get("client_id", "") == client.removeprefix("client-id=")

    @pytest.mark.parametrize("auth", ["managed-identity", "client-secret"])
    @pytest.mark.parametrize("document", [{"error": "sesame-4711"}, b"<html>sesame-4711"], ids=["error", "html"])
    @pytest.mark.parametrize("status", [302, 400, 403, 404, 409, 410, 418, 429, 500])
    def test_a_login_that_fails_says_nothing_of_keys(
        self, vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, auth: str, status: int, document: Any
    ) -> None:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"https://{vault.host}")
        monkeypatch.setattr("time.sleep", lambda _: None)
        backend = AzureKeyVaultBackend(vault.uri())
        key = backend.generate("key", P256)
        backend.close()
        uri = vault.uri("auth=managed-identity" if auth == "managed-identity" else _secret(tmp_path, CLIENT_SECRET))
        backend = AzureKeyVaultBackend(uri, Slept())
        vault.tokens.clear()
        for call in (backend.public_key, backend.destroy, backend.evidence):
            vault.login_answers.extend([Answer(status, document)] * 20)
            backend._idle.clear()
            backend._login = Login(parse_azurekv_uri(uri))
            with pytest.raises((ProviderPermissionError, ProviderUnavailableError), match="log in") as refused:
                call(key.handle)
            assert "sesame" not in str(refused.value)
        assert len(vault.keys) == 1


def _secret(directory: Path, secret: str) -> str:
    file = directory / "secret"
    file.unlink(missing_ok=True)
    file.write_text(f"{secret}\n")
    file.chmod(0o600)
    return f"auth=client-secret&tenant-id={TENANT}&client-id={CLIENT}&client-secret-source=file:{file}"


def _client_certificate() -> bytes:
    private = private_key(2048)
    assert isinstance(private, rsa.RSAPrivateKey)
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")]), datetime.now(UTC)
    built = x509.CertificateBuilder(name, name, private.public_key(), 1, now, now + timedelta(days=1))
    certificate = built.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return private.private_bytes(*pem) + certificate


class TestReachingTheStore:
    def test_another_certificate_than_expected_is_refused(self, vault: Vault, tmp_path: Path) -> None:
        with running_vault(tmp_path) as other:
            uri = vault.uri().replace(str(vault.ca_file), str(other.ca_file))
            with pytest.raises(ProviderUnavailableError, match="certificate is not trusted") as refused:
                AzureKeyVaultBackend(uri, Slept())
        assert "ca-file" in refused.value.next_step

    def test_a_store_that_is_not_there_is_unavailable(self, tmp_path: Path) -> None:
        with running_vault(tmp_path) as vault:
            uri = vault.uri()
        with pytest.raises(ProviderUnavailableError, match="cannot be reached"):
            AzureKeyVaultBackend(uri, Slept())

    def test_a_missing_ca_file_is_named(self, vault: Vault) -> None:
        with pytest.raises(ProviderConfigurationError, match="ca-file"):
            AzureKeyVaultBackend(vault.uri().replace("ca.pem", "no.pem"))

    def test_proxies_of_the_environment_are_not_used(self, vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv("NO_PROXY", "")
        AzureKeyVaultBackend(vault.uri()).close()

    def test_a_redirect_is_not_followed(self, vault: Vault, backend: AzureKeyVaultBackend) -> None:
        vault.answers.append(Answer(307, {}, {"Location": f"https://{vault.host}/keys?api-version=2025-07-01"}))
        with pytest.raises(ProviderUnavailableError, match="status 307"):
            backend.check()
        assert vault.asked == ["list: 307"]

    def test_a_region_is_told_and_one_that_differs_is_refused(
        self, vault: Vault, backend: AzureKeyVaultBackend
    ) -> None:
        assert backend.info.region == REGION
        AzureKeyVaultBackend(vault.uri(more=f"&region={REGION}")).close()
        with pytest.raises(ProviderConfigurationError, match=f"in {REGION}, not in francecentral"):
            AzureKeyVaultBackend(vault.uri(more="&region=francecentral"))

    def test_a_store_that_moves_to_another_region_is_unavailable(self, vault: Vault) -> None:
        backend = AzureKeyVaultBackend(vault.uri(more=f"&region={REGION}"))
        vault.answers.append(Answer(200, {"value": []}, {"x-ms-keyvault-region": "germanynorth"}))
        with pytest.raises(ProviderUnavailableError, match="in germanynorth"):
            backend.check()
        backend.check()
        backend.close()

    def test_an_answer_that_is_too_long_is_not_read(self, vault: Vault, backend: AzureKeyVaultBackend) -> None:
        key = backend.generate("key", P256)
        vault.change = changing("get", lambda document: document | {"more": "x" * (MAX_ANSWER - 2000)})
        assert backend.public_key(key.handle) == key
        vault.change = changing("get", lambda document: document | {"more": "x" * MAX_ANSWER})
        with pytest.raises(ProviderUnavailableError, match="did not answer properly"):
            backend.public_key(key.handle)

    @pytest.mark.parametrize(
        ("document", "headers"),
        [
            (b"x" * (MAX_ANSWER + 1), {}),
            (b"\x1f\x8b" + bytes(20), {"Content-Encoding": "gzip"}),
            (b"<html>", {"Content-Type": "text/html"}),
            (b"{", {}),
            (b"[" * 100_000, {}),
            ([], {}),
            (None, {}),
            ({"key": None}, {}),
            ({"key": {"kid": 7}}, {}),
            ({"key": {"kid": "keys"}}, {}),
        ],
        ids=["too long", "compressed", "html", "cut", "deep", "list", "nothing", "no key", "number", "no url"],
    )
    def test_an_answer_that_is_none_is_refused(
        self, vault: Vault, backend: AzureKeyVaultBackend, document: Any, headers: dict[str, str]
    ) -> None:
        key = backend.generate("key", P256)
        vault.answers.extend([Answer(200, document, headers)] * 3)
        with pytest.raises((ProviderUnavailableError, SelfCheckError)):
            backend.public_key(key.handle)
        vault.answers.extend([Answer(200, document, headers)] * (3 - len(vault.answers)))
        with pytest.raises((ProviderUnavailableError, SelfCheckError)):
            backend.sign(key.handle, P256, [bytes(32)])
        vault.answers.clear()
        assert verifies(key, bytes(32), backend.sign(key.handle, P256, [bytes(32)])[0])


class TestRefusals:
    def test_throttling_is_waited_for_where_it_is_short(
        self, vault: Vault, backend: AzureKeyVaultBackend, slept: Slept
    ) -> None:
        key = backend.generate("key", P256)
        vault.answers.append(Answer(429, {"error": {"code": "Throttled"}}, {"Retry-After": "1"}))
        assert verifies(key, bytes(32), backend.sign(key.handle, P256, [bytes(32)])[0])
        [waited] = slept.seconds
        assert 1 < waited < 2

    def test_throttling_for_long_is_told(self, vault: Vault, backend: AzureKeyVaultBackend, slept: Slept) -> None:
        key = backend.generate("key", P256)
        vault.answers.append(Answer(429, {"error": {"code": "Throttled"}}, {"Retry-After": "30"}))
        with pytest.raises(ProviderThrottledError) as refused:
            backend.sign(key.handle, P256, [bytes(32)])
        assert refused.value.retry_after == timedelta(seconds=30)
        assert slept.seconds == []

    @pytest.mark.parametrize("said", ["", "-1", "1e9", "9" * 30, "Wed, 21 Oct 2026 07:28:00 GMT", "٣"])
    def test_throttling_without_a_usable_time_is_told_without(
        self, vault: Vault, backend: AzureKeyVaultBackend, slept: Slept, said: str
    ) -> None:
        headers = {"Retry-After": said} if said.isascii() else {}
        vault.answers.extend([Answer(429, {}, headers)] * 3)
        with pytest.raises(ProviderThrottledError) as refused:
            backend.check()
        assert refused.value.retry_after is None
        assert sum(slept.seconds) < 1

    def test_a_failing_store_is_asked_three_times_and_then_said_to_fail(
        self, vault: Vault, backend: AzureKeyVaultBackend, slept: Slept
    ) -> None:
        key = backend.generate("key", P256)
        vault.answers.extend([Answer(503, {})] * 2)
        assert verifies(key, bytes(32), backend.sign(key.handle, P256, [bytes(32)])[0])
        vault.answers.extend([Answer(500, {})] * 4)
        with pytest.raises(ProviderUnavailableError, match="status 500"):
            backend.sign(key.handle, P256, [bytes(32)])
        assert len(vault.answers) == 1
        assert sum(slept.seconds) < 2

    def test_a_key_is_made_once_and_what_may_have_been_made_is_removed(
        self, vault: Vault, backend: AzureKeyVaultBackend
    ) -> None:
        vault.answers.append(Answer(504, {}))
        with pytest.raises(ProviderUnavailableError):
            backend.generate("key", P256)
        assert vault.asked == ["create: 504", "delete"]

    def test_a_key_that_is_being_deleted_or_recovered_is_a_matter_of_that_key_and_not_asked_again(
        self, vault: Vault, backend: AzureKeyVaultBackend
    ) -> None:
        key = backend.generate("key", P256)
        vault.asked.clear()
        vault.answers.append(Answer(409, {"error": {"code": "Conflict"}}))
        # Such an error does not have the store left alone: see ``ConfiguredProvider``.
        with pytest.raises(ProviderPermissionError, match="being deleted or recovered"):
            backend.sign(key.handle, P256, [bytes(32)])
        assert vault.asked == ["sign: 409"]

    def test_the_stores_own_words_do_not_get_out(self, vault: Vault, backend: AzureKeyVaultBackend) -> None:
        key = backend.generate("key", P256)
        for status in (400, 401, 403, 404, 409, 418, 429, 500):
            errors: list[dict[str, Any]] = [
                {"code": "x sesame-4711"},
                {"code": 7},
                {"innererror": []},
                {"innererror": {"code": "a" * 50}},
            ]
            for error in errors:
                words = {"error": {"message": "sesame-4711", **error}}
                vault.answers.extend([Answer(status, words)] * 3)
                with pytest.raises(ProviderError) as refused:
                    backend.sign(key.handle, P256, [bytes(32)])
                assert "sesame" not in str(refused.value) + refused.value.next_step
                vault.answers.clear()

    @pytest.mark.parametrize("action", ACTIONS, ids=lambda one: one.what)
    @pytest.mark.parametrize("kind", Kind)
    def test_a_missing_permission_is_named(self, vault: Vault, hsm: Vault, kind: Kind, action: Any) -> None:
        store = vault if kind is Kind.VAULT else hsm
        backend = AzureKeyVaultBackend(store.uri(), Slept())
        store.denied = {action.permission(kind)}
        try:
            with pytest.raises(ProviderPermissionError) as refused:
                _life(backend)
        finally:
            store.denied = set()
            backend.close()
        assert action.permission(kind) in refused.value.next_step
        assert "ForbiddenByRbac" in str(refused.value)

    @pytest.mark.parametrize(("code", "step"), [("ForbiddenByFirewall", "network"), ("KeyDisabled", "attributes")])
    def test_other_reasons_to_be_forbidden_have_their_own_next_step(
        self, vault: Vault, backend: AzureKeyVaultBackend, code: str, step: str
    ) -> None:
        vault.answers.append(Answer(403, {"error": {"code": "Forbidden", "innererror": {"code": code}}}))
        with pytest.raises(ProviderPermissionError, match=code) as refused:
            backend.check()
        assert step in refused.value.next_step

    def test_a_disabled_key_does_not_sign(self, vault: Vault, backend: AzureKeyVaultBackend) -> None:
        key = backend.generate("key", P256)
        next(iter(vault.keys.values())).attributes["enabled"] = False
        with pytest.raises(ProviderPermissionError, match="KeyDisabled"):
            backend.sign(key.handle, P256, [bytes(32)])

    def test_a_standard_vault_makes_no_keys_in_hardware_and_says_what_to_do(self, standard: Vault) -> None:
        backend = AzureKeyVaultBackend(standard.uri())
        with pytest.raises(AlgorithmNotSupportedError) as refused:
            backend.generate("key", P256)
        assert "protection=SOFTWARE" in refused.value.next_step
        backend.close()


def _life(backend: AzureKeyVaultBackend) -> None:
    """All that the gateway does with a store."""
    backend.check()
    key = backend.generate("key", P256)
    backend.public_key(key.handle)
    backend.sign(key.handle, P256, [bytes(32)])
    backend.evidence(key.handle)
    offer = backend.begin_import("brought", P256)
    private = private_key("secp256r1")
    wrapped = wrap(SHA1_KWP, offer.public_key, pkcs8(private))
    brought = backend.finish_import(offer.state, "brought", P256, SHA1_KWP, wrapped, spki(private))
    backend.end_import(offer.state)
    backend.destroy(brought.handle)
    backend.destroy(key.handle)


async def sign_in_a_worker(uri: str, handle: str, algorithm: Algorithm) -> None:
    provider = await open_provider(uri)
    try:
        await provider.sign(handle, algorithm, [bytes(32)])
    finally:
        await provider.close()


class TestKeys:
    def test_a_key_may_sign_and_verify_and_has_its_label_as_a_tag(
        self, vault: Vault, backend: AzureKeyVaultBackend
    ) -> None:
        backend.generate("acme_Release.1", P256)
        [key] = vault.keys.values()
        assert re.fullmatch(r"acme-Release-1-[0-9a-f]{20}", key.name)
        assert (key.kty, key.operations) == ("EC-HSM", ["sign", "verify"])
        assert key.tags["sealkeeper-label"] == "acme_Release.1"

    def test_the_longest_label_makes_a_name_that_azure_takes(self, vault: Vault, backend: AzureKeyVaultBackend) -> None:
        key = backend.generate("_" * 128, P256)
        assert verifies(key, bytes(32), backend.sign(key.handle, P256, [bytes(32)])[0])
        assert all(len(name) <= 127 for name in vault.keys)

    def test_keys_in_software_are_made_verified_and_told(self, standard: Vault) -> None:
        backend = AzureKeyVaultBackend(standard.uri(more="&protection=SOFTWARE"))
        assert backend.info.protection_level is ProtectionLevel.SOFTWARE
        assert backend.info.wrap_methods == frozenset()
        for algorithm in (P256, RSA, PSS):
            key = backend.generate("key", algorithm)
            assert verifies(key, bytes(32), backend.sign(key.handle, algorithm, [bytes(32)])[0])
            said = backend.evidence(key.handle)
            assert (said.protection_level, said.attestation) == (ProtectionLevel.SOFTWARE, None)
        standard.change = changing("sign", lambda document: document | {"value": "A" * 342})
        try:
            with pytest.raises(SelfCheckError, match="does not verify"):
                asyncio.run(sign_in_a_worker(standard.uri(more="&protection=SOFTWARE"), key.handle, PSS))
        finally:
            standard.change = lambda _, document: document
            backend.close()

    @pytest.mark.parametrize("operation", ["get", "sign"])
    @pytest.mark.parametrize("other", ["name", "version", "host", "nothing"])
    def test_an_answer_about_another_key_is_refused(
        self, vault: Vault, backend: AzureKeyVaultBackend, operation: str, other: str
    ) -> None:
        key, second = backend.generate("key", P256), backend.generate("second", P256)
        name, version = key.handle.partition(";")[0].split("/")
        kid = {
            "name": f"https://{vault.host}/keys/{second.handle.partition(';')[0]}",
            "version": f"https://{vault.host}/keys/{name}/{'0' * 32}",
            "host": f"https://acme.vault.azure.net/keys/{name}/{version}",
            "nothing": f"https://{vault.host}/keys/{name}/",
        }[other]
        vault.change = changing(
            operation, in_key(kid=kid) if operation == "get" else lambda document: document | {"kid": kid}
        )
        with pytest.raises((SelfCheckError, ProviderUnavailableError)):
            backend.public_key(key.handle) if operation == "get" else backend.sign(key.handle, P256, [bytes(32)])

    @pytest.mark.parametrize("length", [0, 1, 63, 65, 128])
    def test_a_signature_of_the_wrong_length_is_withheld(
        self, vault: Vault, backend: AzureKeyVaultBackend, length: int
    ) -> None:
        key = backend.generate("key", P256)
        value = "A" * -(-length * 4 // 3)
        vault.change = changing("sign", lambda document: document | {"value": value})
        with pytest.raises((SelfCheckError, ProviderUnavailableError)):
            backend.sign(key.handle, P256, [bytes(32)])

    @pytest.mark.parametrize(
        "wrong",
        [
            {"kty": "EC"},
            {"kty": "oct-HSM"},
            {"kty": None},
            {"crv": "P-384"},
            {"crv": "P-256K"},
            {"x": None},
            {"x": "AA"},
            {"y": "A" * 43},
            {"x": "A" * 2000},
            {"key_ops": ["sign", "verify", "decrypt"]},
            {"key_ops": []},
            {"key_ops": None},
            {"kid": "https://acme.vault.azure.net/keys/other/1"},
        ],
        ids=str,
    )
    def test_another_key_than_was_asked_for_is_refused_and_removed(
        self, vault: Vault, backend: AzureKeyVaultBackend, wrong: dict[str, Any]
    ) -> None:
        vault.change = changing("create", in_key(**wrong))
        with pytest.raises((AlgorithmNotSupportedError, SelfCheckError, ProviderUnavailableError)):
            backend.generate("key", P256)
        assert vault.keys == {}

    def test_an_exportable_key_is_refused_and_removed(self, vault: Vault, backend: AzureKeyVaultBackend) -> None:
        vault.change = changing("create", lambda document: document | {"attributes": {"exportable": True}})
        with pytest.raises(AlgorithmNotSupportedError, match="more than sign"):
            backend.generate("key", P256)
        assert vault.keys == {}

    def test_the_store_signs_even_where_it_gives_a_private_key_away(self, vault: Vault) -> None:
        first = AzureKeyVaultBackend(vault.uri())
        key = first.generate("key", P256)
        [kept] = vault.keys.values()
        assert isinstance(kept.private, ec.EllipticCurvePrivateKey)
        secret = kept.private.private_numbers().private_value.to_bytes(32, "big")
        vault.change = changing("get", in_key(d=base64.urlsafe_b64encode(secret).decode().rstrip("=")))
        again = AzureKeyVaultBackend(vault.uri())
        vault.asked.clear()
        assert verifies(key, bytes(32), again.sign(key.handle, P256, [bytes(32)])[0])
        assert vault.asked == ["get", "sign"]
        first.close()
        again.close()

    def test_an_rsa_key_keeps_to_the_padding_that_it_was_made_for(self, backend: AzureKeyVaultBackend) -> None:
        key = backend.generate("key", PSS)
        with pytest.raises(AlgorithmNotSupportedError, match=PSS.name):
            backend.sign(key.handle, RSA, [bytes(32)])
        assert verifies(key, bytes(32), backend.sign(key.handle, PSS, [bytes(32)])[0])

    def test_sixteen_signatures_are_under_way_at_once_each_on_a_connection_of_its_own(
        self, vault: Vault, backend: AzureKeyVaultBackend
    ) -> None:
        # The SDK forgets its token while others may be about to use it, so that clients are not for several threads.
        key, together = backend.generate("key", P256), threading.Barrier(backend.concurrency, timeout=20)
        vault.change = changing("sign", lambda document: document | {"met": together.wait()})
        with ThreadPoolExecutor(backend.concurrency) as pool:
            signed = list(
                pool.map(lambda _: backend.sign(key.handle, P256, [bytes(32)])[0], range(backend.concurrency))
            )
        assert all(verifies(key, bytes(32), signature) for signature in signed)
        assert len(set(backend._idle)) == backend.concurrency

    def test_many_threads_sign_while_the_token_changes(self, tmp_path: Path) -> None:
        with running_vault(tmp_path) as vault:
            backend = AzureKeyVaultBackend(vault.uri())
            key = backend.generate("key", P256)
            fresh = tmp_path / "fresh"
            with ThreadPoolExecutor(backend.concurrency) as pool:
                for turn in range(5):
                    payloads = [bytes([turn * 48 + number] * 32) for number in range(48)]
                    signing = [pool.submit(backend.sign, key.handle, P256, [payload]) for payload in payloads]
                    next(as_completed(signing))
                    fresh.write_text(f"token-{turn}\n")
                    fresh.chmod(0o600)
                    vault.tokens.add(f"token-{turn}")
                    fresh.replace(vault.token_file)
                    vault.tokens = {f"token-{turn}"}
                    signed = [one.result()[0] for one in signing]
                    assert all(verifies(key, *pair) for pair in zip(payloads, signed, strict=True))
            backend.close()

    def test_azures_library_still_names_no_other_kind_of_signing_key(self) -> None:
        assert {one.value for one in KeyType} == {"EC", "EC-HSM", "RSA", "RSA-HSM", "oct", "oct-HSM"}
        assert {one.value for one in KeyCurveName} == {"P-256", "P-384", "P-521", "P-256K"}


class TestDestruction:
    def test_a_key_is_purged_once_the_store_has_moved_it(
        self, vault: Vault, backend: AzureKeyVaultBackend, slept: Slept
    ) -> None:
        key = backend.generate("key", P256)
        vault.lag = 3
        backend.destroy(key.handle)
        assert (vault.keys, vault.deleted) == ({}, {})
        assert len(slept.seconds) == 3

    def test_a_store_that_takes_too_long_is_told_of_and_asked_again(
        self, vault: Vault, backend: AzureKeyVaultBackend, slept: Slept
    ) -> None:
        key = backend.generate("key", P256)
        vault.lag = 20
        with pytest.raises(ProviderUnavailableError, match="not ready yet") as refused:
            backend.destroy(key.handle)
        assert "again" in refused.value.next_step
        assert sum(slept.seconds) < 30
        next(iter(vault.deleted.values())).unseen = 0
        backend.destroy(key.handle)
        assert vault.deleted == {}

    def test_where_purging_is_forbidden_for_all_a_key_stays_deleted(
        self, vault: Vault, backend: AzureKeyVaultBackend
    ) -> None:
        vault.purge_protection = True
        key = backend.generate("key", P256)
        backend.destroy(key.handle)
        backend.destroy(key.handle)
        assert len(vault.deleted) == 1
        assert "purge" not in vault.asked
        for call in (backend.public_key, backend.evidence):
            with pytest.raises(KeyHandleError):
                call(key.handle)
        with pytest.raises(KeyHandleError):
            backend.sign(key.handle, P256, [bytes(32)])

    def test_a_key_that_is_between_two_states_is_waited_for(
        self, vault: Vault, backend: AzureKeyVaultBackend, slept: Slept
    ) -> None:
        key = backend.generate("key", P256)
        busy = Answer(409, {"error": {"code": "Conflict", "innererror": {"code": "ObjectIsBeingDeleted"}}})
        vault.denied = {"Microsoft.KeyVault/vaults/keys/purge/action"}
        with pytest.raises(ProviderPermissionError):
            backend.destroy(key.handle)
        vault.denied = set()
        vault.answers.extend([busy, busy, busy])
        backend.destroy(key.handle)
        said = ["delete: 409", "get deleted: 409", "get deleted: 409", "get deleted", "purge"]
        assert vault.asked[-5:] == said
        assert len(slept.seconds) == 2
        assert vault.deleted == {}


class TestEvidence:
    def test_a_vault_says_what_it_knows_and_the_origin_is_not_taken_from_our_own_tag(
        self, backend: AzureKeyVaultBackend
    ) -> None:
        said = backend.evidence(backend.generate("key", P256).handle)
        assert (said.protection_level, said.origin, said.exportable) == (ProtectionLevel.HSM, Origin.UNKNOWN, False)
        assert said.attestation is None
        assert said.claims["kty"] == "EC-HSM"
        assert said.claims["key_ops"] == "sign,verify"
        assert said.claims["recoveryLevel"] == "Recoverable+Purgeable"
        assert said.claims["tag sealkeeper-origin (written by the gateway)"] == "generated"

    def test_a_managed_hsm_attests(self, hsm: Vault) -> None:
        backend = AzureKeyVaultBackend(hsm.uri())
        key = backend.generate("key", P256)
        said = backend.evidence(key.handle)
        backend.close()
        assert said.claims["hsmPlatform"] == "2"
        assert said.attestation is not None
        document = json.loads(said.attestation.content)
        statement, _, signature = _decoded(document["privateKeyAttestation"]).partition(b"\n")
        [certificate] = said.attestation.certificates
        attestor = x509.load_der_x509_certificate(certificate).public_key()
        assert isinstance(attestor, ec.EllipticCurvePublicKey)
        attestor.verify(signature, statement, ec.ECDSA(hashes.SHA256()))
        assert key.handle.partition(";")[0] in json.loads(statement)["kid"]

    @pytest.mark.parametrize(
        "attestation",
        [None, {}, {"privateKeyAttestation": "A" * 60_000}, {"privateKeyAttestation": ""}],
        ids=["none", "empty", "too long", "blank"],
    )
    def test_an_attestation_that_is_none_is_left_out(self, hsm: Vault, attestation: Any) -> None:
        backend = AzureKeyVaultBackend(hsm.uri())
        key = backend.generate("key", P256)
        hsm.change = changing("attestation", lambda document: document | {"attributes": {"attestation": attestation}})
        try:
            assert backend.evidence(key.handle).attestation is None
        finally:
            hsm.change = lambda _, document: document
            backend.close()

    def test_a_key_that_the_store_would_give_out_is_said_to_be_exportable(
        self, vault: Vault, backend: AzureKeyVaultBackend
    ) -> None:
        key = backend.generate("key", P256)
        next(iter(vault.keys.values())).attributes["exportable"] = True
        assert backend.evidence(key.handle).exportable is True

    def test_what_the_store_says_is_made_printable(self, vault: Vault, backend: AzureKeyVaultBackend) -> None:
        key = backend.generate("key", P256)
        next(iter(vault.keys.values())).attributes["hsmPlatform"] = "\x1b[31mred\n" + "x" * 1000
        said = backend.evidence(key.handle).claims["hsmPlatform"]
        assert said.isprintable()
        assert len(said) <= 256


def _decoded(text: str) -> bytes:
    decoded: bytes = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    return decoded


class TestImport:
    def finish(
        self, backend: AzureKeyVaultBackend, offer: WrappingKey, *, public: bytes | None = None, state: bytes = b""
    ) -> ProviderKey:
        private = private_key("secp256r1")
        wrapped = wrap(SHA1_KWP, offer.public_key, pkcs8(private))
        return backend.finish_import(state or offer.state, "brought", P256, SHA1_KWP, wrapped, public or spki(private))

    def test_the_wrapping_key_is_for_imports_only_in_hardware_and_for_a_day(
        self, vault: Vault, backend: AzureKeyVaultBackend
    ) -> None:
        offer = backend.begin_import("brought", P256)
        [key] = vault.keys.values()
        assert (key.kty, key.operations, key.private.key_size) == ("RSA-HSM", ["import"], 4096)
        assert offer.expire_time is not None
        assert key.attributes["exp"] == offer.expire_time.timestamp()
        assert timedelta(hours=23) < offer.expire_time - datetime.now(UTC) <= timedelta(hours=24)
        assert offer.methods == (SHA1_KWP,)
        assert offer.attestation is None

    def test_a_managed_hsm_attests_the_wrapping_key(self, hsm: Vault) -> None:
        backend = AzureKeyVaultBackend(hsm.uri())
        offer = backend.begin_import("brought", P256)
        backend.end_import(offer.state)
        backend.close()
        assert offer.attestation is not None

    def test_a_wrapping_key_whose_attestation_cannot_be_read_is_removed(self, hsm: Vault) -> None:
        backend, before = AzureKeyVaultBackend(hsm.uri(), Slept()), set(hsm.keys)
        hsm.denied = {"Microsoft.KeyVault/managedHsm/keys/read/action"}
        try:
            with pytest.raises(ProviderPermissionError):
                backend.begin_import("brought", P256)
        finally:
            hsm.denied = set()
            backend.close()
        assert set(hsm.keys) == before

    def test_a_refused_key_is_told_of_even_where_it_cannot_be_purged(
        self, vault: Vault, backend: AzureKeyVaultBackend
    ) -> None:
        offer = backend.begin_import("brought", P256)
        vault.denied = {"Microsoft.KeyVault/vaults/keys/purge/action"}
        with pytest.raises(PublicKeyMismatchError, match="does not belong"):
            self.finish(backend, offer, public=spki(new_private_key("secp256r1")))
        assert len(vault.keys) == 1

    @pytest.mark.parametrize("wrong", [{"kty": "RSA"}, {"key_ops": ["import", "decrypt"]}, {"n": "AQAB"}], ids=str)
    def test_another_wrapping_key_than_was_asked_for_is_refused_and_removed(
        self, vault: Vault, backend: AzureKeyVaultBackend, wrong: dict[str, Any]
    ) -> None:
        vault.change = changing("create", in_key(**wrong))
        with pytest.raises((SelfCheckError, ProviderUnavailableError)):
            backend.begin_import("brought", P256)
        assert vault.keys == {}

    def test_a_key_that_was_brought_is_as_one_that_was_made(self, vault: Vault, backend: AzureKeyVaultBackend) -> None:
        offer = backend.begin_import("brought", P256)
        key = self.finish(backend, offer)
        backend.end_import(offer.state)
        assert vault.deleted == {}
        [kept] = vault.keys.values()
        assert (kept.kty, kept.operations) == ("EC-HSM", ["sign", "verify"])
        assert verifies(key, bytes(32), backend.sign(key.handle, P256, [bytes(32)])[0])
        said = backend.evidence(key.handle)
        assert said.origin is Origin.UNKNOWN
        assert said.claims["tag sealkeeper-origin (written by the gateway)"] == "imported"

    def test_another_public_key_than_named_leaves_nothing_behind(
        self, vault: Vault, backend: AzureKeyVaultBackend
    ) -> None:
        offer = backend.begin_import("brought", P256)
        with pytest.raises(PublicKeyMismatchError, match="does not belong"):
            self.finish(backend, offer, public=spki(new_private_key("secp256r1")))
        backend.end_import(offer.state)
        assert (vault.keys, vault.deleted) == ({}, {})

    def test_an_import_after_a_day_is_refused(self, vault: Vault) -> None:
        clock = datetime.now(UTC)
        backend = AzureKeyVaultBackend(vault.uri(), Slept(), lambda: clock)
        offer = backend.begin_import("brought", P256)
        clock += timedelta(hours=24)
        with pytest.raises(ImportExpiredError, match="too old") as refused:
            self.finish(backend, offer)
        assert "begin" in refused.value.next_step
        backend.close()

    def test_the_store_refuses_an_old_wrapping_key_by_itself(self, vault: Vault, backend: AzureKeyVaultBackend) -> None:
        offer = backend.begin_import("brought", P256)
        vault.now = lambda: datetime.now(UTC) + timedelta(hours=25)
        with pytest.raises(ProviderPermissionError, match="KeyExpired"):
            self.finish(backend, offer)
        assert len(vault.keys) == 1

    def test_a_signing_key_is_not_taken_for_a_wrapping_key(self, vault: Vault, backend: AzureKeyVaultBackend) -> None:
        offer, key = backend.begin_import("brought", P256), backend.generate("sealkeeper-wrapping", RSA)
        name, version = key.handle.partition(";")[0].split("/")
        state = json.dumps({"name": name, "version": version}).encode()
        with pytest.raises(ImportExpiredError):
            self.finish(backend, offer, state=state)
        with pytest.raises(ImportExpiredError):
            backend.end_import(state)
        assert name in vault.keys

    def test_an_import_that_fails_without_saying_how_far_it_came_is_removed(
        self, vault: Vault, backend: AzureKeyVaultBackend
    ) -> None:
        offer = backend.begin_import("brought", P256)
        vault.change = changing("import", in_key(kid="https://acme.vault.azure.net/keys/other/1"))
        with pytest.raises(SelfCheckError):
            self.finish(backend, offer)
        assert len(vault.keys) == 1

    def test_to_end_an_import_needs_no_leave_to_purge(self, vault: Vault, backend: AzureKeyVaultBackend) -> None:
        offer = backend.begin_import("brought", P256)
        vault.denied = {"Microsoft.KeyVault/vaults/keys/purge/action"}
        backend.end_import(offer.state)
        backend.end_import(offer.state)
        assert vault.keys == {}

    def test_keys_in_software_come_from_nowhere_else(self, standard: Vault) -> None:
        backend = AzureKeyVaultBackend(standard.uri(more="&protection=SOFTWARE"))
        with pytest.raises(ImportNotSupportedError) as refused:
            backend.begin_import("brought", P256)
        assert "Premium" in refused.value.next_step
        backend.close()


class TestThePage:
    """What ``docs/providers/azurekv.md`` tells a custodian is what the gateway does."""

    @pytest.mark.parametrize("kind", Kind)
    def test_the_least_role_is_what_the_gateway_uses(self, vault: Vault, hsm: Vault, kind: Kind) -> None:
        store = vault if kind is Kind.VAULT else hsm
        store.actions.clear()
        backend = AzureKeyVaultBackend(store.uri(), Slept())
        _life(backend)
        backend.close()
        [role] = [
            block for block in _blocks("json") if f"/{'vaults' if kind is Kind.VAULT else 'managedHsm'}/" in block
        ]
        granted = set(re.findall(r'"(Microsoft\.KeyVault/[A-Za-z/]+)"', json.dumps(_data_actions(json.loads(role)))))
        assert granted == store.actions == {action.permission(kind) for action in ACTIONS}

    def test_its_uris_are_ones_that_the_gateway_takes(self) -> None:
        uris = re.findall(r"azurekv://[^\s\"'`|)]+", PAGE.read_text())
        assert len(uris) >= 4
        for uri in uris:
            parse_azurekv_uri(uri)

    def test_it_names_every_attribute(self) -> None:
        text = PAGE.read_text()
        assert [name for name in _KNOWN if f"`{name}`" not in text] == []


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def _data_actions(role: dict[str, Any]) -> Any:
    return role.get("DataActions") or role["dataActions"]


@pytest.mark.parametrize("kind", ["managed HSM", "standard"])
async def test_every_algorithm_works_through_worker_processes(hsm: Vault, standard: Vault, kind: str) -> None:
    provider = await open_provider(hsm.uri() if kind == "managed HSM" else standard.uri(more="&protection=SOFTWARE"))
    try:
        for name in sorted(provider.info.algorithms):
            if "4096" in name:
                continue
            key = await provider.generate("key", ALGORITHMS[name])
            digest = bytes(key.algorithm.digest_length)
            assert verifies(key, digest, (await provider.sign(key.handle, key.algorithm, [digest]))[0])
    finally:
        await provider.close()
