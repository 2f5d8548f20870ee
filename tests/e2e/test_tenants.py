"""Tenants do not see each other: two tenants over mutual TLS, every method, every role."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import count
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from sealkeeper.client import message_content
from sealkeeper.client.connection import OPTIONS
from sealkeeper.client.operations import crc32c
from sealkeeper.server.policy_engine import default_policy
from sealkeeper.v1 import (
    approval_pb2,
    approval_pb2_grpc,
    attestation_pb2,
    attestation_pb2_grpc,
    gate_pb2,
    gate_pb2_grpc,
    grant_pb2,
    grant_pb2_grpc,
    identity_pb2,
    identity_pb2_grpc,
    key_import_pb2,
    key_import_pb2_grpc,
    key_pb2,
    key_pb2_grpc,
    log_pb2,
    log_pb2_grpc,
    policy_pb2,
    policy_pb2_grpc,
    provider_pb2,
    provider_pb2_grpc,
    quota_pb2,
    quota_pb2_grpc,
    resources_pb2,
    signing_pb2,
    signing_pb2_grpc,
    trust_pb2,
    trust_pb2_grpc,
)
from tests.e2e.running import DOMAIN, TENANT, Running

OTHER, NOBODYS = "beta", "none"
HOUR = Duration(seconds=3600)
TENANTS = (TENANT, OTHER)
ROLES = ("admin", "custodian", "ci", "verifier")
P256 = resources_pb2.PublicKeyDetails.PUBLIC_KEY_DETAILS_PKIX_ECDSA_P256_SHA_256
KWP = resources_pb2.WRAP_METHOD_RSA_OAEP_SHA256_AES_256_KWP
COMPROMISED = resources_pb2.KeyVersionState.KEY_VERSION_STATE_COMPROMISED
DISABLED = resources_pb2.KeyVersionState.KEY_VERSION_STATE_DISABLED
_numbers = count()


@dataclass(frozen=True)
class Outcome:
    """What a call came to: ``OK`` and its responses, or code, reason, text and all details of the refusal."""

    code: str
    reason: str = ""
    text: str = ""
    details: bytes = b""
    responses: tuple[Any, ...] = ()

    def naming(self, name: str) -> Outcome:
        """With a name of the request taken out; names that are compared are of one length."""
        return Outcome(
            self.code, self.reason, self.text.replace(name, ""), self.details.replace(name.encode(), b""), ()
        )


class World:
    """A gateway with two tenants, and callers with certificates of its local CA."""

    def __init__(self, gateway: Running) -> None:
        self.gateway = gateway
        tls = gateway.directory / "tls"
        self._ca = x509.load_pem_x509_certificate((tls / "ca.pem").read_bytes())
        self._ca_key: Any = serialization.load_pem_private_key((tls / "ca.key").read_bytes(), None)
        self._channels: dict[tuple[str, ...], grpc.Channel] = {}

    def caller(self, tenant: str, role: str) -> grpc.Channel:
        return self.named(f"spiffe://{DOMAIN}/tenants/{tenant}/roles/{role}/test")

    def named(self, *uris: str) -> grpc.Channel:
        """A channel of whoever has a certificate with these URI names."""
        if uris not in self._channels:
            ca = (self.gateway.directory / "tls" / "ca.pem").read_bytes()
            credentials = grpc.ssl_channel_credentials(ca, *self._pair(uris))
            self._channels[uris] = grpc.secure_channel(self.gateway.addresses["grpc"], credentials, OPTIONS)
        return self._channels[uris]

    def _pair(self, uris: tuple[str, ...]) -> tuple[bytes, bytes]:
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._ca.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([*map(x509.UniformResourceIdentifier, uris)]), critical=True)
            .sign(self._ca_key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return private, certificate.public_bytes(serialization.Encoding.PEM)

    def ask(self, tenant: str, role: str, request: Any) -> Outcome:
        return ask(self.caller(tenant, role), request)

    def new_key(self, tenant: str) -> str:
        request = key_pb2.CreateKeyRequest(
            parent=f"tenants/{tenant}", key_id=f"key-{next(_numbers):04}", key=resources_pb2.Key(algorithm=P256)
        )
        [response] = self.ask(tenant, "custodian", request).responses
        return str(response.key.name)

    def close(self) -> None:
        for one in self._channels.values():
            one.close()


STREAMS = ("ListEntries", "SimulatePolicy", "WatchProposals", "SimulateGate")


def ask(channel: grpc.Channel, request: Any) -> Outcome:
    """Call the method that takes this request."""
    method = type(request).__name__.removesuffix("Request")
    stubs: tuple[Callable[[Any], Any], ...] = (
        key_pb2_grpc.KeyServiceStub,
        key_import_pb2_grpc.KeyImportServiceStub,
        provider_pb2_grpc.ProviderServiceStub,
        signing_pb2_grpc.SigningServiceStub,
        log_pb2_grpc.LogServiceStub,
        trust_pb2_grpc.TrustServiceStub,
        identity_pb2_grpc.IdentityServiceStub,
        policy_pb2_grpc.PolicyServiceStub,
        grant_pb2_grpc.GrantServiceStub,
        approval_pb2_grpc.ApprovalServiceStub,
        quota_pb2_grpc.QuotaServiceStub,
        attestation_pb2_grpc.AttestationServiceStub,
        gate_pb2_grpc.GateServiceStub,
    )
    call = next(found for stub in stubs if (found := getattr(stub(channel), method, None)) is not None)
    try:
        answer = call(request, timeout=30)
        return Outcome("OK", responses=tuple(answer) if method in STREAMS else (answer,))
    except grpc.RpcError as raised:
        return _refusal(raised)


def _refusal(error: Any) -> Outcome:
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    info = error_details_pb2.ErrorInfo()
    for one in status_pb2.Status.FromString(details).details:
        one.Unpack(info)
        break
    return Outcome(error.code().name, info.reason, error.details(), details)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    gateway = Running.make(tmp_path_factory.mktemp("tenants") / "gateway", policy=default_policy())
    gateway.change_settings(lambda text: text.replace(f'tenants = ["{TENANT}"]', f'tenants = ["{TENANT}", "{OTHER}"]'))
    (folder := tmp_path_factory.mktemp("second")).joinpath("seal").write_text("5a" * 32)
    (folder / "seal").chmod(0o600)
    second = f'[providers.second]\nuri = "software://{folder}/keys?sealing-key-source=file:{folder}/seal"\n'
    gateway.change_settings(lambda text: f"{text}\n{second}")
    with gateway.running():
        made = World(gateway)
        for tenant in TENANTS:
            # So that there is a limit to raise again, whichever tests come first.
            lowered = quota_pb2.UpdateQuotaRequest(parent=f"tenants/{tenant}", limits=quota_pb2.Limits(keys=900))
            assert made.ask(tenant, "admin", lowered).code == "OK"
        yield made
        made.close()


CONTENT = message_content(b"the artifact")
LOG, AUDIT = "logs/transparency", "logs/audit"
ALL, KEY_READERS = frozenset(ROLES), frozenset({"admin", "custodian", "ci"})
CUSTODIAN, CI, ADMIN = frozenset({"custodian"}), frozenset({"ci"}), frozenset({"admin"})
PEOPLE = CUSTODIAN | ADMIN
VERIFIER = frozenset({"verifier"})
GATE_READERS = PEOPLE | VERIFIER
GATE_POLICY = "gate: v1\nsigners: {ci: {key: tenants/acme/keys/release}}\nrequire: {signatures: {signers: [ci]}}\n"
APP = attestation_pb2.Subject(name="app", digest={"sha256": "5e" * 32})
POLICY = default_policy()
QUESTION = policy_pb2.AccessRequest(
    principal=policy_pb2.AccessPrincipal(subject="spiffe://x/ci", role="ci"), action="ListKeys"
)

# A request about a key, or about something beside it, and the roles of the key's tenant that may make it.
OF_TENANTS: dict[str, tuple[Callable[[str], Any], frozenset[str]]] = {
    "CreateKey": (
        lambda key: key_pb2.CreateKeyRequest(
            parent=_tenant(key), key_id=f"new-{next(_numbers):04}", key=resources_pb2.Key(algorithm=P256)
        ),
        CUSTODIAN,
    ),
    "GetKey": (lambda key: key_pb2.GetKeyRequest(name=key), KEY_READERS),
    "ListKeys": (lambda key: key_pb2.ListKeysRequest(parent=_tenant(key)), frozenset({"admin", "custodian"})),
    "GetKeyVersion": (lambda key: key_pb2.GetKeyVersionRequest(name=f"{key}/versions/1"), KEY_READERS),
    "ListKeyVersions": (lambda key: key_pb2.ListKeyVersionsRequest(parent=key), KEY_READERS),
    "Sign": (lambda key: signing_pb2.SignRequest(key=key, content=CONTENT), CI),
    "Sign a version": (lambda key: signing_pb2.SignRequest(key=f"{key}/versions/1", content=CONTENT), CI),
    "SignBatch": (lambda key: signing_pb2.SignBatchRequest(key=key, items=[CONTENT]), CI),
    "Attest": (
        lambda key: attestation_pb2.AttestRequest(
            key=key,
            subjects=[attestation_pb2.Subject(name="app", digest={"sha256": "5e" * 32})],
            predicate=attestation_pb2.Predicate(type="https://example.org/x/v1", json=b"{}"),
        ),
        CI,
    ),
    "GetAttestation": (
        lambda key: attestation_pb2.GetAttestationRequest(name=f"{_tenant(key)}/attestations/a{'9' * 16}"),
        ALL,
    ),
    "ListAttestations": (lambda key: attestation_pb2.ListAttestationsRequest(parent=_tenant(key)), ALL),
    "Verify": (lambda key: signing_pb2.VerifyRequest(bundle=b"{}", key=key, message=b"x"), ALL),
    "GetPublicKey": (lambda key: signing_pb2.GetPublicKeyRequest(name=key), ALL),
    "GetPublicKey of a version": (lambda key: signing_pb2.GetPublicKeyRequest(name=f"{key}/versions/1"), ALL),
    "GetTrustRoot": (lambda key: trust_pb2.GetTrustRootRequest(parent=_tenant(key)), ALL),
    "RotateKey": (lambda key: key_pb2.RotateKeyRequest(name=key), CUSTODIAN),
    "AddStandbyVersion": (
        lambda key: key_pb2.AddStandbyVersionRequest(name=key, provider="second"),
        CUSTODIAN,
    ),
    "GetKeyEvidence": (lambda key: key_pb2.GetKeyEvidenceRequest(name=f"{key}/versions/1"), KEY_READERS),
    "GetKeyCeremony": (lambda key: key_pb2.GetKeyCeremonyRequest(name=f"{key}/versions/1"), KEY_READERS),
    "BeginKeyImport": (
        lambda key: key_import_pb2.BeginKeyImportRequest(
            parent=_tenant(key), key_id=key.rpartition("/")[2], algorithm=P256
        ),
        CUSTODIAN,
    ),
    "FinishKeyImport": (
        lambda key: key_import_pb2.FinishKeyImportRequest(
            name=_import(key), wrapped_key=b"x", wrapped_key_crc32c=crc32c(b"x"), public_key=b"x", wrap_method=KWP
        ),
        CUSTODIAN,
    ),
    "CancelKeyImport": (lambda key: key_import_pb2.CancelKeyImportRequest(name=_import(key)), CUSTODIAN),
    "GetKeyImport": (lambda key: key_import_pb2.GetKeyImportRequest(name=_import(key)), KEY_READERS),
    "ListKeyImports": (
        lambda key: key_import_pb2.ListKeyImportsRequest(parent=_tenant(key)),
        frozenset({"admin", "custodian"}),
    ),
    "GetProvider": (
        lambda key: provider_pb2.GetProviderRequest(name=f"{_tenant(key)}/providers/second"),
        KEY_READERS,
    ),
    "ListProviders": (
        lambda key: provider_pb2.ListProvidersRequest(parent=_tenant(key)),
        frozenset({"admin", "custodian"}),
    ),
    "SetKeyVersionState": (
        lambda key: key_pb2.SetKeyVersionStateRequest(name=f"{key}/versions/1", state=DISABLED),
        CUSTODIAN,
    ),
    "SetKeyVersionState to COMPROMISED": (
        lambda key: key_pb2.SetKeyVersionStateRequest(name=f"{key}/versions/1", state=COMPROMISED),
        CUSTODIAN,
    ),
    "WhoAmI": (lambda key: identity_pb2.WhoAmIRequest(key=key), ALL),
    "GetPolicy": (lambda key: policy_pb2.GetPolicyRequest(parent=_tenant(key)), PEOPLE),
    "ListPolicyVersions": (lambda key: policy_pb2.ListPolicyVersionsRequest(parent=_tenant(key)), PEOPLE),
    "UpdatePolicy": (
        lambda key: policy_pb2.UpdatePolicyRequest(parent=_tenant(key), text=POLICY, base=1, reason="to try it"),
        ADMIN,
    ),
    "TestPolicy": (
        lambda key: policy_pb2.TestPolicyRequest(
            parent=_tenant(key), cases=[policy_pb2.PolicyCase(name="a case", request=_question(key))]
        ),
        PEOPLE,
    ),
    "ExplainDecision": (
        lambda key: policy_pb2.ExplainDecisionRequest(parent=_tenant(key), request=_question(key)),
        PEOPLE,
    ),
    "SimulatePolicy": (
        lambda key: policy_pb2.SimulatePolicyRequest(parent=_tenant(key), text=POLICY, records=1),
        ADMIN,
    ),
    "CreateGrant": (
        lambda key: grant_pb2.CreateGrantRequest(
            parent=_tenant(key), key=key, subject="spiffe://x/ci", lifetime=HOUR, reason="to try it"
        ),
        CUSTODIAN,
    ),
    "BreakGlass": (
        lambda key: grant_pb2.BreakGlassRequest(
            resource=key, actions=["Sign"], lifetime=HOUR, reason="to see what comes of it"
        ),
        PEOPLE,
    ),
    "BreakGlass of a tenant": (
        lambda key: grant_pb2.BreakGlassRequest(
            resource=_tenant(key), actions=["Sign"], lifetime=HOUR, reason="to see what comes of it"
        ),
        PEOPLE,
    ),
    "RevokeGrant": (lambda key: grant_pb2.RevokeGrantRequest(name=_grant(key)), PEOPLE),
    "GetGrant": (lambda key: grant_pb2.GetGrantRequest(name=_grant(key)), PEOPLE),
    "ListGrants": (lambda key: grant_pb2.ListGrantsRequest(parent=_tenant(key)), PEOPLE),
    "GetProposal": (lambda key: approval_pb2.GetProposalRequest(name=_proposal(key)), PEOPLE),
    "ListProposals": (lambda key: approval_pb2.ListProposalsRequest(parent=_tenant(key)), PEOPLE),
    "DecideProposal": (
        lambda key: approval_pb2.DecideProposalRequest(name=_proposal(key), statement=b"{}"),
        PEOPLE,
    ),
    "WithdrawProposal": (lambda key: approval_pb2.WithdrawProposalRequest(name=_proposal(key)), PEOPLE),
    "WatchProposals": (lambda key: approval_pb2.WatchProposalsRequest(name=_proposal(key)), PEOPLE),
    "GetQuota": (lambda key: quota_pb2.GetQuotaRequest(parent=_tenant(key)), PEOPLE),
    "UpdateQuota": (
        lambda key: quota_pb2.UpdateQuotaRequest(parent=_tenant(key), limits=quota_pb2.Limits(keys=899)),
        PEOPLE,
    ),
    "UpdateQuota to raise it": (
        lambda key: quota_pb2.UpdateQuotaRequest(parent=_tenant(key), limits=quota_pb2.Limits(keys=901)),
        ADMIN,
    ),
    "Evaluate": (lambda key: gate_pb2.EvaluateRequest(gate=_gate(key), subject=APP), CI | VERIFIER),
    "ReportDecisions": (
        lambda key: gate_pb2.ReportDecisionsRequest(gate=_gate(key), decisions=[gate_pb2.GateDecision(subject=APP)]),
        VERIFIER,
    ),
    "GetGateSnapshot": (lambda key: gate_pb2.GetGateSnapshotRequest(gate=_gate(key)), GATE_READERS),
    "ListGates": (lambda key: gate_pb2.ListGatesRequest(parent=_tenant(key)), GATE_READERS),
    "GetGateVersion": (lambda key: gate_pb2.GetGateVersionRequest(name=_gate(key)), GATE_READERS),
    "GetGateVersion of a version": (
        lambda key: gate_pb2.GetGateVersionRequest(name=f"{_gate(key)}/versions/1"),
        GATE_READERS,
    ),
    "ListGateVersions": (lambda key: gate_pb2.ListGateVersionsRequest(parent=_gate(key)), GATE_READERS),
    "UpdateGate": (lambda key: gate_pb2.UpdateGateRequest(gate=_gate(key), text=GATE_POLICY), ADMIN),
    "SimulateGate": (lambda key: gate_pb2.SimulateGateRequest(gate=_gate(key), text=GATE_POLICY), ADMIN),
    "CreateGateException": (
        lambda key: gate_pb2.CreateGateExceptionRequest(
            gate=_gate(key), digest=f"sha256:{'5e' * 32}", lifetime=HOUR, reason="to try it"
        ),
        PEOPLE,
    ),
    "RevokeGateException": (
        lambda key: gate_pb2.RevokeGateExceptionRequest(name=f"{_gate(key)}/exceptions/e1"),
        PEOPLE,
    ),
    "ListGateExceptions": (lambda key: gate_pb2.ListGateExceptionsRequest(parent=_gate(key)), GATE_READERS),
    "GetGateDecision": (
        lambda key: gate_pb2.GetGateDecisionRequest(name=f"{_gate(key)}/decisions/d1"),
        GATE_READERS,
    ),
    "ListGateDecisions": (lambda key: gate_pb2.ListGateDecisionsRequest(parent=_gate(key)), GATE_READERS),
}
# A request about a log, which is of no tenant, and the roles that may make it.
OF_LOGS: dict[str, tuple[Callable[[], Any], frozenset[str]]] = {
    f"{name} of {log}": (make, allowed)
    for log, allowed in ((LOG, ALL), (AUDIT, ADMIN))
    for name, make in {
        "GetCheckpoint": lambda log=log: log_pb2.GetCheckpointRequest(log=log),
        "GetInclusionProof": lambda log=log: log_pb2.GetInclusionProofRequest(log=log, log_index=0),
        "GetConsistencyProof": lambda log=log: log_pb2.GetConsistencyProofRequest(log=log, first_size=1),
        "ListEntries": lambda log=log: log_pb2.ListEntriesRequest(log=log, limit=1),
    }.items()
}
DENIED = ("PERMISSION_DENIED", "PERMISSION_DENIED")
# Of what there is not, since no row makes an import, a grant or a proposal, those hear who may ask for it; and what
# takes two people is proposed.
PROPOSED = ("FAILED_PRECONDITION", "APPROVAL_REQUIRED")
ANSWERS = {
    **dict.fromkeys(("FinishKeyImport", "CancelKeyImport", "GetKeyImport"), ("NOT_FOUND", "IMPORT_NOT_FOUND")),
    "GetAttestation": ("NOT_FOUND", "ATTESTATION_NOT_FOUND"),
    **dict.fromkeys(("RevokeGrant", "GetGrant"), ("NOT_FOUND", "GRANT_NOT_FOUND")),
    **dict.fromkeys(
        ("GetProposal", "DecideProposal", "WithdrawProposal", "WatchProposals"), ("NOT_FOUND", "PROPOSAL_NOT_FOUND")
    ),
    **dict.fromkeys(("CreateGrant", "BreakGlass", "BreakGlass of a tenant", "UpdatePolicy"), PROPOSED),
    **dict.fromkeys(("SetKeyVersionState to COMPROMISED", "UpdateQuota to raise it", "UpdateGate"), PROPOSED),
    **dict.fromkeys(
        (
            *("Evaluate", "ReportDecisions", "GetGateSnapshot", "GetGateVersion", "GetGateVersion of a version"),
            *("ListGateVersions", "SimulateGate", "CreateGateException", "ListGateExceptions", "ListGateDecisions"),
        ),
        ("NOT_FOUND", "GATE_NOT_FOUND"),
    ),
    "RevokeGateException": ("NOT_FOUND", "EXCEPTION_NOT_FOUND"),
    "GetGateDecision": ("NOT_FOUND", "DECISION_NOT_FOUND"),
}


def _tenant(key: str) -> str:
    return key.partition("/keys/")[0]


def _import(key: str) -> str:
    return key.replace("/keys/", "/keyImports/")


def _grant(key: str) -> str:
    return key.replace("/keys/", "/grants/")


def _proposal(key: str) -> str:
    return key.replace("/keys/", "/proposals/")


def _gate(key: str) -> str:
    return key.replace("/keys/", "/gates/")


def _question(key: str) -> policy_pb2.AccessRequest:
    made = policy_pb2.AccessRequest()
    made.CopyFrom(QUESTION)
    made.resource = _tenant(key)
    return made


def _unnamed(outcome: Outcome, key: str) -> Outcome:
    for name in (key, _import(key), _grant(key), _proposal(key), _gate(key), _tenant(key)):
        outcome = outcome.naming(name)
    return outcome


def test_the_tables_have_every_method() -> None:
    methods = {
        method.name
        for module in (
            *(key_pb2, key_import_pb2, provider_pb2, signing_pb2, log_pb2, trust_pb2),
            *(identity_pb2, policy_pb2, grant_pb2, approval_pb2, quota_pb2, attestation_pb2),
            gate_pb2,
        )
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert {name.partition(" ")[0] for name in (*OF_TENANTS, *OF_LOGS)} == methods


@pytest.mark.parametrize("name", OF_TENANTS)
def test_a_role_may_do_what_its_row_says_in_its_own_tenant_and_nothing_in_another(world: World, name: str) -> None:
    make, allowed = OF_TENANTS[name]
    for tenant in TENANTS:
        key = world.new_key(tenant)
        for caller in TENANTS:
            for role in ROLES:
                outcome = world.ask(caller, role, make(key))
                wanted = ANSWERS.get(name, ("OK", "")) if caller == tenant and role in allowed else DENIED
                assert (outcome.code, outcome.reason) == wanted, (caller, role, key)


@pytest.mark.parametrize("name", OF_LOGS)
def test_logs_are_read_alike_by_a_role_of_every_tenant(world: World, name: str) -> None:
    make, allowed = OF_LOGS[name]
    signed = world.ask(TENANT, "ci", signing_pb2.SignRequest(key=world.new_key(TENANT), content=CONTENT))
    assert signed.code == "OK"
    for caller in TENANTS:
        for role in ROLES:
            outcome = world.ask(caller, role, make())
            assert (outcome.code, outcome.reason) == (("OK", "") if role in allowed else DENIED), (caller, role)


@pytest.mark.parametrize("name", [name for name in OF_TENANTS if name != "CreateKey"])
def test_what_another_tenant_has_cannot_be_told_from_what_it_has_not(world: World, name: str) -> None:
    make, _ = OF_TENANTS[name]
    there = world.new_key(OTHER)
    missing, nobodys = there.replace("key-", "nil-"), there.replace(OTHER, NOBODYS)
    for role in ROLES:
        seen = [_unnamed(world.ask(TENANT, role, make(key)), key) for key in (there, missing, nobodys)]
        assert seen[0] == seen[1] == seen[2]
        assert (seen[0].code, seen[0].reason) == DENIED


def test_creating_what_another_tenant_has_is_refused_as_creating_what_it_has_not(world: World) -> None:
    there = world.new_key(OTHER)
    missing = there.replace("key-", "nil-")
    for role in ROLES:
        seen = [
            world.ask(
                TENANT,
                role,
                key_pb2.CreateKeyRequest(
                    parent=_tenant(key), key_id=key.rpartition("/")[2], key=resources_pb2.Key(algorithm=P256)
                ),
            ).naming(key)
            for key in (there, missing)
        ]
        assert seen[0] == seen[1]
        assert (seen[0].code, seen[0].reason) == DENIED


def test_lists_and_trust_roots_have_the_callers_keys_only(world: World) -> None:
    keys = {tenant: {world.new_key(tenant) for _ in range(3)} for tenant in TENANTS}
    for tenant, foreign in zip(TENANTS, reversed(TENANTS), strict=True):
        parent = f"tenants/{tenant}"
        [listed] = world.ask(tenant, "custodian", key_pb2.ListKeysRequest(parent=parent, page_size=1000)).responses
        assert {_tenant(one.name) for one in listed.keys} == {parent}
        assert keys[tenant] <= {one.name for one in listed.keys}
        [root] = world.ask(tenant, "verifier", trust_pb2.GetTrustRootRequest(parent=parent)).responses
        assert f"tenants/{tenant}/".encode() in root.keys
        assert f"tenants/{foreign}/".encode() not in root.keys + root.trusted_root + root.signing_config


def test_a_page_token_of_one_tenant_opens_nothing_in_another(world: World) -> None:
    # In this order, so that there are keys behind the token's place in both.
    for tenant in (OTHER, OTHER, TENANT):
        world.new_key(tenant)
    request = key_pb2.ListKeysRequest(parent=f"tenants/{OTHER}", page_size=1)
    [page] = world.ask(OTHER, "custodian", request).responses
    request = key_pb2.ListKeysRequest(parent=f"tenants/{TENANT}", page_token=page.next_page_token, page_size=1000)
    [found] = world.ask(TENANT, "custodian", request).responses
    assert {_tenant(one.name) for one in found.keys} == {f"tenants/{TENANT}"}


def test_a_bundle_of_another_tenant_does_not_verify_as_ones_own(world: World) -> None:
    theirs, ours = world.new_key(OTHER), world.new_key(TENANT)
    for material in resources_pb2.VerificationMaterial.values():
        request = signing_pb2.SignRequest(key=theirs, content=CONTENT, material=material)
        [signed] = world.ask(OTHER, "ci", request).responses
        wanted = {"bundle": signed.signature.bundle, "message": b"the artifact"}
        [good] = world.ask(OTHER, "verifier", signing_pb2.VerifyRequest(key=theirs, **wanted)).responses
        [bad] = world.ask(TENANT, "verifier", signing_pb2.VerifyRequest(key=ours, **wanted)).responses
        assert (good.verified, bad.verified) == (True, False)


def test_an_attestation_of_one_tenant_is_not_found_by_another(world: World) -> None:
    make, _ = OF_TENANTS["Attest"]
    [made] = world.ask(OTHER, "ci", make(world.new_key(OTHER))).responses
    for tenant, whose in ((OTHER, True), (TENANT, False)):
        request = attestation_pb2.ListAttestationsRequest(
            parent=f"tenants/{tenant}", subject_digest=f"sha256:{'5e' * 32}", page_size=1000
        )
        [found] = world.ask(tenant, "verifier", request).responses
        assert sum(one.log_index == made.attestation.log_index for one in found.attestations) == whose
        name = made.attestation.name.replace(f"tenants/{OTHER}/", f"tenants/{tenant}/")
        outcome = world.ask(tenant, "verifier", attestation_pb2.GetAttestationRequest(name=name))
        assert outcome.code == ("OK" if whose else "NOT_FOUND")


def test_a_request_id_of_one_tenant_says_nothing_to_another(world: World) -> None:
    answers = []
    for tenant in TENANTS:
        content = message_content(tenant.encode())
        request = signing_pb2.SignRequest(key=world.new_key(tenant), content=content, request_id="the-same")
        answers.append(world.ask(tenant, "ci", request))
    assert [one.code for one in answers] == ["OK", "OK"]
    assert len({one.responses[0].signature.signature for one in answers}) == 2


def test_audit_records_of_another_tenant_come_as_hashes_that_still_make_the_tree(world: World) -> None:
    for tenant in TENANTS:
        for name in ("GetKey", "Sign"):
            world.ask(tenant, "verifier", OF_TENANTS[name][0](world.new_key(tenant)))
    world.ask(TENANT, "ci", key_pb2.GetKeyRequest(name=world.new_key(OTHER)))
    size = world.ask(TENANT, "admin", log_pb2.GetCheckpointRequest(log=AUDIT)).responses[0].tree_size
    seen = {}
    for tenant in TENANTS:
        answer = world.ask(tenant, "admin", log_pb2.ListEntriesRequest(log=AUDIT, limit=size))
        seen[tenant] = [entry for response in answer.responses for entry in response.entries]
        bodies = [entry.body for entry in seen[tenant] if entry.body]
        assert {json.loads(body)["tenant"] for body in bodies} == {tenant}
        assert all(sha256(b"\0" + entry.body).digest() == entry.leaf_hash for entry in seen[tenant] if entry.body)
    ours, theirs = (seen[tenant] for tenant in TENANTS)
    assert [one.leaf_hash for one in ours] == [one.leaf_hash for one in theirs]
    # Each record is somebody's and nobody else's.
    assert not any(one.body and other.body for one, other in zip(ours, theirs, strict=True))
    # Who asked for what is another's is told by the asker's record, and to the asker's tenant.
    assert any(b"tenants/" + OTHER.encode() in one.body for one in ours if b"PERMISSION_DENIED" in one.body)


STRANGERS = {
    "a tenant that is not served": ("TENANT_UNKNOWN", f"spiffe://{DOMAIN}/tenants/{NOBODYS}/roles/admin/x"),
    "a role that there is not": ("PRINCIPAL_UNKNOWN", f"spiffe://{DOMAIN}/tenants/{TENANT}/roles/root/x"),
    "another gateway": ("CERTIFICATE_DOMAIN_UNKNOWN", f"spiffe://other.example/tenants/{TENANT}/roles/admin/x"),
    "a longer name": ("PRINCIPAL_UNKNOWN", f"spiffe://{DOMAIN}/tenants/{TENANT}/roles/admin/x/y"),
    "no SPIFFE name": ("CERTIFICATE_NAME_INVALID", f"https://{DOMAIN}/tenants/{TENANT}/roles/admin/x"),
    "two tenants": (
        "CERTIFICATE_NAME_INVALID",
        *(f"spiffe://{DOMAIN}/tenants/{tenant}/roles/admin/x" for tenant in TENANTS),
    ),
}


@pytest.mark.parametrize("who", STRANGERS)
def test_who_is_not_a_principal_of_this_gateway_gets_nothing(world: World, who: str) -> None:
    reason, *names = STRANGERS[who]
    channel, key = world.named(*names), world.new_key(TENANT)
    requests = [make(key) for make, _ in OF_TENANTS.values()] + [make() for make, _ in OF_LOGS.values()]
    for request in requests:
        outcome = ask(channel, request)
        assert (outcome.code, outcome.reason) == ("UNAUTHENTICATED", reason)


def test_who_has_no_certificate_of_the_local_ca_makes_no_call(world: World) -> None:
    size = world.ask(TENANT, "admin", log_pb2.GetCheckpointRequest(log=AUDIT)).responses[0].tree_size
    ca = (world.gateway.directory / "tls" / "ca.pem").read_bytes()
    with grpc.secure_channel(world.gateway.addresses["grpc"], grpc.ssl_channel_credentials(ca), OPTIONS) as channel:
        assert ask(channel, key_pb2.GetKeyRequest(name="x")).code == "UNAVAILABLE"
    # The first of the admin's two calls came in between, and nothing else.
    after = world.ask(TENANT, "admin", log_pb2.GetCheckpointRequest(log=AUDIT)).responses[0].tree_size
    assert after == size + 1
