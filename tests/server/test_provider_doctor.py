"""``sealkeeper doctor --gateway`` and the providers: each usual mistake is made, and found with what to do about it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from threading import Barrier, BrokenBarrierError

import pytest

from sealkeeper.hsm.gcpkms_permissions import PERMISSIONS
from sealkeeper.server.doctor import check
from sealkeeper.server.finding import Finding
from sealkeeper.server.initialise import Plan, initialise
from tests.e2e.running import ANY_PORT, DOMAIN, TENANT
from tests.server.house import KEY, House
from tests.stores.aws import moto_kms
from tests.stores.azure_vault import azure_vault
from tests.stores.google_kms import KEY_RING, GoogleKms, served
from tests.stores.openbao import ROOT, OpenBao, documented_policy, server
from tests.stores.softhsm import SOFTHSM, softhsm
from tests.stores.tpm import module_path
from tests.stores.transit_front import Reply, front

LONG = timedelta(seconds=30)
SHORT = timedelta(seconds=1)
SELF = 'path "sys/capabilities-self" {\n  capabilities = ["update"]\n}\n'


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made") / "gateway"
    asyncio.run(initialise(Plan(directory, DOMAIN, TENANT, None, {}, ANY_PORT, ANY_PORT, ANY_PORT)))
    return directory


@pytest.fixture
def directory(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "gateway")


def change(directory: Path, old: str, new: str) -> None:
    """Change the settings, by a regular expression."""
    path = directory / "sealkeeper.toml"
    text, count = re.subn(old, lambda _: new, path.read_text(), count=1)
    assert count == 1
    path.write_text(text)


def keep_keys_in(directory: Path, uri: str, **environment: str) -> None:
    """Have the gateway's provider be at a URI."""
    variables = ", ".join(f'{name} = "{value}"' for name, value in environment.items())
    change(directory, r'uri = "[^"]*"\nenvironment = .*', f'uri = "{uri}"\nenvironment = {{ {variables} }}')


def add_provider(directory: Path, name: str, uri: str, more: str = "") -> None:
    path = directory / "sealkeeper.toml"
    path.write_text(f'{path.read_text()}\n[providers.{name}]\nuri = "{uri}"\n{more}\n')


def found(directory: Path, name: str = "provider main", patience: timedelta = LONG) -> Finding:
    """What was found by a check's name; where something is wrong, there is something to do."""
    findings = {one[0]: one for one in check(directory, patience=patience)}
    assert all(next_step for _, passed, _, next_step in findings.values() if not passed)
    return findings[name]


def wrong(directory: Path, name: str = "provider main", patience: timedelta = LONG) -> tuple[str, str]:
    """What is wrong, and what to do."""
    _, passed, detail, next_step = found(directory, name, patience)
    assert not passed
    return detail, next_step


# A provider that is as it should be


def test_a_provider_that_opens_says_what_it_is(directory: Path) -> None:
    change(directory, r"(?=environment = )", 'region = "eu-central-1"\n')
    _, passed, detail, next_step = found(directory)
    assert (passed, next_step) == (True, "")
    for part in ("protection level SOFTWARE", "region eu-central-1", "algorithms", "takes keys wrapped by RSA_OAEP"):
        assert part in detail
    assert "provider main permissions" not in {name for name, *_ in check(directory)}


# URIs


@pytest.mark.parametrize(
    ("uri", "said", "step"),
    [
        ("vault://here/transit", "vault: is not a store known here", "[providers.main] uri"),
        ("software:///keys", "sealing-key-source", "[providers.main] uri"),
        ("pkcs11:token=a?pin-value=4711", "pin-value is not allowed", "file of its own"),
        ("pkcs11:token=a?pin-source=file:/pin", "module-path is missing", "[providers.main] uri"),
        ("transit://vault.example.com/transit?auth=token&token=hvs.x", "token is not allowed", "token-source"),
        ("transit://vault.example.com/transit?auth=token&token-source=file:/t&tls=off", "tls=off", "ca-file="),
        ("gcpkms://projects/acme", "", "gcloud kms keyrings list"),
        ("azurekv://no-vault.example.com?auth=managed-identity", "", "azurekv://acme.vault.azure.net"),
        ("awskms:", "", "region"),
    ],
)
def test_a_bad_uri_is_found(directory: Path, uri: str, said: str, step: str) -> None:
    keep_keys_in(directory, uri)
    detail, next_step = wrong(directory)
    assert said in detail
    assert step in next_step
    assert not {"4711", "hvs.x"} & set(re.findall(r"[\w.]+", detail + next_step))


@pytest.mark.parametrize(
    ("uri", "library", "extra"),
    [
        ("transit://127.0.0.1/transit?auth=token&token-source=file:/t", "hvac", "transit"),
        ("awskms:region=eu-central-1", "boto3", "aws"),
        (f"gcpkms://{KEY_RING}", "google", "gcp"),
        ("azurekv://acme.vault.azure.net?auth=managed-identity", "azure", "azure"),
        (f"pkcs11:token=a?module-path={SOFTHSM}&pin-source=file:/pin", "pkcs11", "pkcs11"),
    ],
)
def test_a_library_that_is_not_installed_is_found(
    directory: Path, tmp_path: Path, uri: str, library: str, extra: str
) -> None:
    # The worker finds this one first, and it says what Python says where there is none.
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / f"{library}.py").write_text(f"raise ModuleNotFoundError('none', name={library!r})\n")
    keep_keys_in(directory, uri, PYTHONPATH=str(tmp_path / "first"))
    detail, next_step = wrong(directory)
    assert "is not installed" in detail
    assert next_step == f"pip install 'sealkeeper[{extra}]'"


# Secret files


def _missing(path: Path) -> None:
    path.unlink()


def _open_to_everybody(path: Path) -> None:
    path.chmod(0o644)


def _empty(path: Path) -> None:
    path.write_text("\n")


def _not_a_key(path: Path) -> None:
    path.write_text("sesame\n")


@pytest.mark.parametrize(
    ("spoil", "said", "step"),
    [
        (_missing, "cannot be read: No such file", "check that {} exists"),
        (_open_to_everybody, "open to everybody", "chmod 600 {}"),
        (_empty, "is empty", "into {}"),
        (_not_a_key, "does not hold 32 bytes", ""),
    ],
)
def test_a_secret_file_that_cannot_be_used_is_found(
    directory: Path, spoil: Callable[[Path], None], said: str, step: str
) -> None:
    secret = directory / "secrets" / "sealing-key"
    keep_keys_in(directory, f"software://{directory}/keys?sealing-key-source=file:{secret}")
    spoil(secret)
    detail, next_step = wrong(directory)
    assert said in detail
    assert step.format(secret) in next_step
    assert "sesame" not in detail + next_step


# A transit server


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    with server(tmp_path_factory.mktemp("bao")) as running:
        yield running


def policy(bao: OpenBao, text: str) -> str:
    """The URI of the mount, to log into with a policy of its own."""
    bao.root("POST", "sys/policies/acl/other", {"policy": text})
    return bao.uri(bao.approle(token_policies="other"))


def without(*rules: str) -> str:
    """The documented policy without some of its rules, and with the one that lets the gateway ask what it may do."""
    text = documented_policy()
    for rule in rules:
        text, count = re.subn(rf'path "transit/{re.escape(rule)}" \{{\n.*?^\}}\n', "", text, flags=re.S | re.M)
        assert count == 1
    return text


def test_what_a_transit_policy_allows_is_told(directory: Path, bao: OpenBao) -> None:
    keep_keys_in(directory, policy(bao, without()))
    _, passed, detail, next_step = found(directory, "provider main permissions")
    assert (passed, next_step) == (True, "")
    assert "may not" not in detail
    assert "may sign" in detail


def test_a_transit_policy_that_forbids_to_ask_is_told_and_is_no_failure(directory: Path, bao: OpenBao) -> None:
    documented = documented_policy()
    assert SELF in documented
    keep_keys_in(directory, policy(bao, documented.replace(SELF, "")))
    _, passed, detail, next_step = found(directory, "provider main permissions")
    assert (passed, "does not say" in detail) == (True, True)
    assert "sys/capabilities-self" in next_step


def test_a_transit_policy_that_does_not_let_the_gateway_sign_is_found(directory: Path, bao: OpenBao) -> None:
    keep_keys_in(directory, policy(bao, without("sign/+")))
    detail, next_step = wrong(directory, "provider main permissions")
    assert detail.startswith("may not sign, ")
    assert 'update on "transit/sign/+"' in next_step


def test_a_transit_policy_by_which_nobody_brings_keys_is_told_and_is_no_failure(directory: Path, bao: OpenBao) -> None:
    keep_keys_in(directory, policy(bao, without("keys/+/import", "wrapping_key")))
    _, passed, detail, next_step = found(directory, "provider main permissions")
    assert (passed, "may not take keys from outside" in detail) == (True, True)
    assert 'read on "transit/wrapping_key" and update on "transit/keys/+/import"' in next_step


def test_a_transit_policy_that_does_not_even_let_the_gateway_look_is_found(directory: Path, bao: OpenBao) -> None:
    keep_keys_in(directory, policy(bao, without("keys/+")))
    detail, next_step = wrong(directory)
    assert "does not let the gateway read a key" in detail
    assert "docs/providers/transit.md" in next_step


def test_a_root_token_is_found(directory: Path, bao: OpenBao) -> None:
    keep_keys_in(directory, bao.uri(f"auth=token&token-source=file:{bao.secret('root-token', ROOT)}"))
    detail, next_step = wrong(directory, "provider main permissions")
    assert "root token" in detail
    assert ROOT not in detail + next_step


def test_a_login_that_is_refused_is_found(directory: Path, bao: OpenBao) -> None:
    uri = bao.uri(bao.approle()).replace(f"{bao.directory}/secret-id", str(bao.secret("no-secret-id", "sesame-4711")))
    keep_keys_in(directory, uri)
    detail, next_step = wrong(directory)
    assert "refuses the gateway's login by approle" in detail
    assert "secret id" in next_step
    assert "sesame" not in detail + next_step


def test_a_mount_that_is_missing_is_found(directory: Path, bao: OpenBao) -> None:
    bao.root("POST", "sys/policies/acl/other", {"policy": documented_policy().replace("transit/", "elsewhere/")})
    keep_keys_in(directory, bao.uri(bao.approle(token_policies="other"), mount="elsewhere"))
    detail, next_step = wrong(directory)
    assert "nothing mounted at elsewhere" in detail
    assert "bao secrets enable -path=elsewhere transit" in next_step


def test_a_policy_for_another_mount_is_found(directory: Path, bao: OpenBao) -> None:
    keep_keys_in(directory, bao.uri(bao.approle(), mount="elsewhere"))
    detail, next_step = wrong(directory)
    assert "does not let the gateway" in detail
    assert "written for the mount elsewhere" in next_step


def test_a_ca_that_is_not_trusted_is_found(directory: Path, bao: OpenBao) -> None:
    keep_keys_in(directory, bao.uri(bao.approle()).partition("&ca-file=")[0])
    detail, next_step = wrong(directory)
    assert "certificate is not one of a known CA" in detail
    assert "ca-file=" in next_step


def test_plaintext_to_a_port_that_speaks_tls_is_found(directory: Path, bao: OpenBao) -> None:
    keep_keys_in(directory, bao.uri(bao.approle()).partition("&ca-file=")[0] + "&tls=off")
    detail, next_step = wrong(directory)
    assert "port speaks TLS" in detail
    assert "tls=off" in next_step


def test_tls_to_a_port_that_does_not_speak_it_is_found(directory: Path, bao: OpenBao) -> None:
    keep_keys_in(directory, bao.uri(bao.approle()).replace(f":{bao.tls_port}", f":{bao.port}"))
    detail, next_step = wrong(directory)
    assert "TLS with the transit server failed" in detail
    assert "port speaks TLS" in next_step


def test_a_sealed_server_is_found(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    with server(tmp_path / "own") as own:
        keep_keys_in(directory, own.uri(own.approle()))
        own.root("POST", "sys/seal")
        detail, next_step = wrong(directory)
    assert "is sealed" in detail
    assert "bao operator unseal" in next_step


# The way to a store


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def secret(directory: Path, content: str = "sesame-4711") -> Path:
    path = directory / "secrets" / "one"
    path.write_text(f"{content}\n")
    path.chmod(0o600)
    return path


def uris(directory: Path, place: str) -> dict[str, str]:
    credentials = secret(directory, "[default]\naws_access_key_id = AKIATEST\naws_secret_access_key = sesame-4711")
    return {
        "transit": f"transit://{place}/transit?auth=token&token-source=file:{credentials}",
        "awskms": f"awskms:region=eu-central-1?endpoint=https://{place}&credentials-source=file:{credentials}",
    }


@pytest.mark.parametrize("scheme", ["transit", "awskms"])
def test_a_host_that_has_no_address_is_found(directory: Path, scheme: str) -> None:
    keep_keys_in(directory, uris(directory, "nowhere.invalid:8200")[scheme])
    detail, next_step = wrong(directory)
    assert "cannot be reached" in detail
    assert "not known to this machine's DNS" in detail
    assert "sesame" not in detail + next_step


@pytest.mark.parametrize("scheme", ["transit", "awskms"])
def test_a_port_where_nothing_listens_is_found(directory: Path, scheme: str) -> None:
    keep_keys_in(directory, uris(directory, f"127.0.0.1:{closed_port()}")[scheme])
    detail, _ = wrong(directory)
    assert "nothing listens on the port" in detail


def test_a_key_ring_where_nothing_listens_is_found(directory: Path) -> None:
    keep_keys_in(directory, f"gcpkms://{KEY_RING}?endpoint=127.0.0.1:{closed_port()}")
    detail, _ = wrong(directory)
    assert "nothing listens on the port" in detail


def test_a_server_that_never_answers_does_not_hold_doctor_up(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        add_provider(directory, "silent", uris(directory, f"127.0.0.1:{port}")["transit"])
        findings = {one[0]: one for one in check(directory, patience=SHORT)}
    _, passed, detail, next_step = findings["provider silent"]
    assert (passed, "no answer within 1 s" in detail, "look at the store" in next_step) == (False, True, True)
    assert findings.keys() >= {"provider main", "keys", "gateway.listen", "clock"}


def test_a_library_that_hangs_does_not_hold_doctor_up(directory: Path, tmp_path: Path) -> None:
    # To open a pipe that nobody writes to takes for ever, in the dynamic loader as well.
    os.mkfifo(tmp_path / "module.so")
    keep_keys_in(directory, f"pkcs11:token=a?module-path={tmp_path}/module.so&pin-source=file:{secret(directory)}")
    assert "no answer within 1 s" in wrong(directory, patience=SHORT)[0]


def test_all_providers_are_looked_at_together(directory: Path) -> None:
    both = Barrier(2, timeout=20)

    def decide(_method: str, path: str) -> Reply | None:
        if not path.endswith("sys/health"):
            return Reply.errors(403, "permission denied")
        try:
            # Whoever is first hears nothing before the other is there.
            both.wait()
        except BrokenBarrierError:
            return Reply.errors(500)
        return Reply(200, b'{"version": "2.7.2"}')

    with front() as one:
        one.decide = decide
        source = secret(directory)
        uri = f"transit://127.0.0.1:{one.port}/transit?auth=token&token-source=file:{source}&tls=off"
        keep_keys_in(directory, uri)
        add_provider(directory, "second", uri)
        for name in ("provider main", "provider second"):
            assert "does not know the token" in wrong(directory, name)[0]


# Clouds


def test_a_key_ring_that_is_missing_is_found(directory: Path) -> None:
    google = GoogleKms(rings=set())
    with served(google) as endpoint:
        keep_keys_in(directory, f"gcpkms://{KEY_RING}?endpoint={endpoint}")
        detail, next_step = wrong(directory)
    assert "there is no Google Cloud KMS key ring 'release'" in detail
    assert "gcloud kms keyrings create release --location europe-west3" in next_step


def test_google_is_asked_for_the_documented_permissions() -> None:
    text = (Path(__file__).parents[2] / "docs" / "providers" / "gcpkms.md").read_text()
    assert sorted(PERMISSIONS) == sorted(re.findall(r"^- (cloudkms\.\S+)$", text, re.M))


def test_a_google_role_that_does_not_let_the_gateway_sign_is_found(directory: Path) -> None:
    google = GoogleKms(denied={"cloudkms.cryptoKeyVersions.useToSign", "cloudkms.importJobs.create"})
    with served(google) as endpoint:
        keep_keys_in(directory, f"gcpkms://{KEY_RING}?endpoint={endpoint}")
        detail, next_step = wrong(directory, "provider main permissions")
    assert detail.startswith("may not sign, may not take keys from outside, ")
    assert "cloudkms.cryptoKeyVersions.useToSign on the key ring" in next_step
    assert set(google.calls) == {"GetKeyRing", "TestIamPermissions"}


def test_what_a_google_role_leaves_out_on_purpose_is_told_and_is_no_failure(directory: Path) -> None:
    google = GoogleKms(denied={"cloudkms.cryptoKeyVersions.destroy"})
    with served(google) as endpoint:
        keep_keys_in(directory, f"gcpkms://{KEY_RING}?endpoint={endpoint}")
        _, passed, detail, _ = found(directory, "provider main permissions")
    assert (passed, "may not destroy keys" in detail) == (True, True)


def test_a_region_that_is_not_the_stores_is_found(directory: Path) -> None:
    with served(GoogleKms()) as endpoint:
        keep_keys_in(directory, f"gcpkms://{KEY_RING}?endpoint={endpoint}")
        change(directory, r"(?=environment = )", 'region = "us-east1"\n')
        detail, next_step = wrong(directory, "provider main region")
    assert detail == "the settings say us-east1, but the key store is in europe-west3"
    assert "[providers.main] region" in next_step


def test_a_clock_that_aws_refuses_is_found(directory: Path) -> None:
    text = b"Signature expired: 20261125T010000Z is now earlier than 20261125T011000Z (20261125T011500Z - 5 min.)"
    body = b'{"__type": "InvalidSignatureException", "message": "%s"}' % text
    with front() as aws:
        aws.decide = lambda _method, _path: Reply(400, body, {"Content-Type": "application/x-amz-json-1.1"})
        uri = uris(directory, f"127.0.0.1:{aws.port}")["awskms"].replace("https:", "http:")
        keep_keys_in(directory, uri)
        detail, next_step = wrong(directory)
    assert "clock that is off" in detail
    assert "NTP" in next_step


def test_that_aws_and_azure_do_not_tell_what_the_gateway_may_do_is_said(directory: Path, tmp_path: Path) -> None:
    with moto_kms(tmp_path) as aws, azure_vault(tmp_path) as azure:
        keep_keys_in(directory, aws)
        add_provider(directory, "azure", azure)
        findings = {one[0]: one for one in check(directory)}
    for name, step in (("main", "simulate-principal-policy"), ("azure", "az role assignment list")):
        assert findings[f"provider {name}"][1]
        _, passed, detail, next_step = findings[f"provider {name} permissions"]
        assert (passed, "what an i" in detail or "what it may do" in detail, step in next_step) == (True, True, True)


# Tokens


@pytest.fixture
def token(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "token").mkdir()
    with softhsm(tmp_path / "token") as uri:
        yield uri


def _is_missing(path: Path) -> None:
    assert not path.exists()


def _is_text(path: Path) -> None:
    path.write_text("INPUT(libsofthsm2.so)\n")


def _is_of_another_machine(path: Path) -> None:
    library = bytearray(SOFTHSM.read_bytes())
    # EM_S390: a machine that no one here has.
    library[18:20] = (22).to_bytes(2, "little")
    path.write_bytes(library)


def _is_no_module(path: Path) -> None:
    shutil.copy(next(Path("/lib").glob("*/libm.so.6")), path)


@pytest.mark.parametrize(
    ("spoil", "said", "step"),
    [
        (_is_missing, "there is no such file", "module-path"),
        (_is_text, "not a shared library", "the vendor's .so itself"),
        (_is_of_another_machine, "another kind of machine", "file "),
        (_is_no_module, "it is no PKCS#11 module", "ldd "),
    ],
)
def test_a_module_that_does_not_load_is_found(
    directory: Path, tmp_path: Path, spoil: Callable[[Path], None], said: str, step: str
) -> None:
    spoil(tmp_path / "module.so")
    keep_keys_in(directory, f"pkcs11:token=a?module-path={tmp_path}/module.so&pin-source=file:{secret(directory)}")
    detail, next_step = wrong(directory)
    assert "module cannot be loaded" in detail
    assert said in detail
    assert step in next_step


def test_a_module_without_its_settings_is_found(directory: Path, token: str) -> None:
    keep_keys_in(directory, token, SOFTHSM2_CONF="/nowhere/softhsm2.conf")
    detail, next_step = wrong(directory)
    assert "does not start" in detail
    assert "SOFTHSM2_CONF" in next_step


def test_a_tpm_whose_resource_manager_does_not_run_is_found(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    uri = f"pkcs11:token=acme?module-path={module_path()}&pin-source=file:{secret(directory)}"
    bus = f"unix:path={tmp_path}/bus"
    tcti = "tabrmd:bus_type=session"
    keep_keys_in(
        directory, uri, TPM2_PKCS11_STORE=f"{tmp_path}/store", TPM2_PKCS11_TCTI=tcti, DBUS_SESSION_BUS_ADDRESS=bus
    )
    detail, next_step = wrong(directory)
    assert "does not start" in detail
    assert "tpm2-abrmd" in next_step


def test_a_token_that_is_not_there_is_found_and_those_that_are_are_named(directory: Path, token: str) -> None:
    keep_keys_in(directory, token.replace("token=acme", "token=other"))
    detail, next_step = wrong(directory)
    assert detail == "no token fits the pkcs11: URI; there are 'acme'"
    assert "token=" in next_step


def test_a_pin_file_that_holds_no_text_is_found(directory: Path, token: str, tmp_path: Path) -> None:
    (tmp_path / "token" / "pin").write_bytes(b"\xff\xfe4711")
    keep_keys_in(directory, token)
    detail, next_step = wrong(directory)
    assert detail == "the PIN file is not UTF-8"
    assert str(tmp_path / "token" / "pin") in next_step


@pytest.mark.parametrize("same", ["token=acme", "token=acme;manufacturer=SoftHSM%20project"])
def test_a_wrong_pin_is_sent_once_though_two_providers_have_it(
    directory: Path, token: str, tmp_path: Path, same: str
) -> None:
    (tmp_path / "token" / "pin").write_text("sesame-0000\n")
    keep_keys_in(directory, token)
    add_provider(directory, "second", token.replace("token=acme", same))
    findings = {one[0]: one for one in check(directory)}
    assert findings["provider main"][2] == "the token refused the PIN"
    assert "not opened: its PIN file is that of provider main" in findings["provider second"][2]
    assert "sesame" not in str(findings)


def test_a_token_without_the_mechanisms_for_p256_is_found(directory: Path, token: str, tmp_path: Path) -> None:
    settings = tmp_path / "token" / "softhsm2.conf"
    settings.write_text(f"{settings.read_text()}slots.mechanisms = -CKM_ECDSA,CKM_EC_KEY_PAIR_GEN\n")
    keep_keys_in(directory, token)
    detail, next_step = wrong(directory, "provider main algorithms")
    assert "cannot do PKIX_ECDSA_P256_SHA_256" in detail
    assert "CKM_ECDSA and CKM_EC_KEY_PAIR_GEN" in next_step


# Residency


def live_in(directory: Path, *regions: str) -> None:
    path = directory / "sealkeeper.toml"
    path.write_text(f"{path.read_text()}\n[residency]\n{TENANT} = {list(regions)}\n".replace("'", '"'))


def test_a_tenant_that_may_use_no_provider_is_found(directory: Path) -> None:
    change(directory, r"(?=environment = )", 'region = "us-east-1"\n')
    live_in(directory, "eu-west-1", "eu-central-1")
    detail, next_step = wrong(directory, f"residency {TENANT}")
    assert "in eu-central-1, eu-west-1 only" in detail
    assert "main is in us-east-1" in detail
    assert "add a provider there" in next_step


def test_a_provider_that_does_not_say_where_it_is_is_no_tenants_with_residency(directory: Path) -> None:
    live_in(directory, "eu-west-1")
    detail, next_step = wrong(directory, f"residency {TENANT}")
    assert "main does not say where it is" in detail
    assert "[providers.NAME] region" in next_step


def test_a_default_provider_outside_a_tenants_regions_is_told(directory: Path) -> None:
    uri = re.search(r'uri = "([^"]*)"', (directory / "sealkeeper.toml").read_text())
    assert uri is not None
    change(directory, r"(?=environment = )", 'region = "us-east-1"\n')
    add_provider(directory, "europe", uri[1], 'region = "eu-west-1"')
    live_in(directory, "eu-west-1")
    _, passed, detail, next_step = found(directory, f"residency {TENANT}")
    assert (passed, "keys.default_provider main is in us-east-1" in detail) == (True, True)
    assert "--provider europe" in next_step


# Keys that are there already


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gateway's folder with a key in one provider and its standby version in another."""

    async def make(directory: Path) -> None:
        house = await House.make(directory)
        house.add_provider("spare")
        async with house.running() as gateway:
            await house.create_key(gateway)
            await house.ask(
                gateway,
                "custodian",
                lambda client: client.add_standby_version(KEY, "spare", publish_period=timedelta(0)),
            )

    directory = tmp_path_factory.mktemp("used") / "gateway"
    asyncio.run(make(directory))
    return directory


@pytest.fixture
def settled(used: Path, tmp_path: Path) -> Path:
    return shutil.copytree(used, tmp_path / "gateway")


def test_keys_whose_providers_are_all_there_pass(settled: Path) -> None:
    assert found(settled, "keys") == ("keys", True, "the providers of all 2 key versions are in the settings", "")


def test_a_provider_of_keys_that_is_not_in_the_settings_is_found(settled: Path) -> None:
    change(settled, r"\[providers\.spare\]\n(.*\n)*?\n?(?=\[|\Z)", "")
    detail, next_step = wrong(settled, "keys in spare")
    assert f"1 key versions are in provider spare, which is not in the settings: {KEY}/versions/2 (stands by)" == detail
    assert "[providers.spare]" in next_step


def test_a_standby_in_the_same_provider_is_found(settled: Path) -> None:
    with sqlite3.connect(settled / "state" / "metadata.db") as database:
        database.execute("UPDATE key_versions SET provider = 'main' WHERE standby")
    database.close()
    detail, next_step = wrong(settled, "standby of release")
    assert "both in provider main" in detail
    assert "sealkeeper keys standby release" in next_step


def test_a_standby_in_the_same_store_by_another_name_is_found(settled: Path) -> None:
    uri = re.search(r'\[providers\.main\]\nuri = "([^"]*)"', (settled / "sealkeeper.toml").read_text())
    assert uri is not None
    change(settled, r'\[providers\.spare\]\nuri = "[^"]*"', f'[providers.spare]\nuri = "{uri[1]}"')
    assert "in providers spare and main, which are one store" in wrong(settled, "standby of release")[0]


def test_the_gateways_own_keys_provider_that_is_not_in_the_settings_is_found(directory: Path) -> None:
    path = directory / "sealkeeper.toml"
    path.write_text(path.read_text().replace("[providers.main]", "[providers.new]").replace('= "main"', '= "new"'))
    detail, next_step = wrong(directory, "authorities")
    assert "in provider main, which is not in the settings" in detail
    assert "[providers.main]" in next_step


def test_a_database_that_cannot_be_read_is_found_and_not_changed(settled: Path) -> None:
    database = settled / "state" / "metadata.db"
    database.write_bytes(b"no database" * 1000)
    detail, next_step = wrong(settled, "keys")
    assert "metadata database cannot be read" in detail
    assert "storage.database" in next_step
    assert database.read_bytes() == b"no database" * 1000


def test_a_database_that_is_not_there_is_not_made(directory: Path) -> None:
    (directory / "state" / "metadata.db").unlink(missing_ok=True)
    assert found(directory, "keys")[1]
    assert not (directory / "state" / "metadata.db").exists()


def test_a_database_elsewhere_that_does_not_answer_tells_no_password(directory: Path) -> None:
    change(directory, r'(?<=directory = "state"\n)', 'database = "postgresql://gateway:sesame@127.0.0.1:1/keys"\n')
    detail, next_step = wrong(directory, "keys")
    assert "cannot be read" in detail
    assert "sesame" not in detail + next_step
