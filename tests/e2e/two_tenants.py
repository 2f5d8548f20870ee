"""Random calls of two tenants, by every method and role, and what the first of them sees of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice
from typing import Any, TypeAlias

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from sealkeeper.client import message_content
from sealkeeper.client.approval_operations import content_of, sign_decision
from sealkeeper.client.connection import OPTIONS
from sealkeeper.client.operations import crc32c
from sealkeeper.server.identity import Role, spiffe_id
from sealkeeper.server.local_ca import LocalCa
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
from tests.e2e.running import DOMAIN, Running
from tests.wrapping import pkcs8, private_key, spki, wrap

P256 = resources_pb2.PUBLIC_KEY_DETAILS_PKIX_ECDSA_P256_SHA_256
KWP = "RSA_OAEP_SHA256_AES_256_KWP"
HOUR = Duration(seconds=3600)
AUDIT = "logs/audit"
APP = attestation_pb2.Subject(name="app", digest={"sha256": "5e" * 32})
LOGS = (AUDIT, "logs/transparency", "logs/ct", "logs/none")
PROVIDERS = ("", "main", "theirs", "nones", "main")
STUBS: tuple[Callable[[Any], Any], ...] = (
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
METHODS = tuple(
    method.name
    for module in (
        *(key_pb2, key_import_pb2, provider_pb2, signing_pb2, log_pb2, trust_pb2),
        *(identity_pb2, policy_pb2, grant_pb2, approval_pb2, quota_pb2, attestation_pb2),
        gate_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
)
# Most calls are of those who may make them, about what there is.
CALLERS = ("custodian first", "custodian second", "admin first", "admin second", "ci first", "verifier first")
USUAL = {
    **dict.fromkeys(("Sign", "SignBatch", "Attest", "Verify", "GetPublicKey"), ("ci first",)),
    **dict.fromkeys(("UpdatePolicy", "SimulatePolicy", "UpdateGate", "SimulateGate"), ("admin first", "admin second")),
    **dict.fromkeys(("Evaluate", "ReportDecisions", "GetGateSnapshot"), ("verifier first",)),
    **dict.fromkeys(("GetCheckpoint", "GetInclusionProof", "GetConsistencyProof", "ListEntries"), ("admin first",)),
    **dict.fromkeys(("DecideProposal", "UpdateQuota"), ("admin second", "custodian second")),
}
PEOPLE = ("custodian first", "custodian second", "admin first")
WHOSE = ("own", "own", "own", "own", "other", "nobody")


@dataclass(frozen=True)
class Call:
    """A call that a tenant makes.

    Attributes:
        method: which.
        usual: by one who usually may.
        caller: which of those.
        whose: about a thing of one's own, of the other tenant, or of one that there is not.
        number: chooses among things and values.
    """

    method: str
    usual: bool
    caller: int
    whose: str
    number: int

    @property
    def by(self) -> str:
        """Role and name of the caller."""
        callers = USUAL.get(self.method, PEOPLE) if self.usual else CALLERS
        return callers[self.caller % len(callers)]


@dataclass
class Tenant:
    """A tenant and its callers.

    Attributes:
        name: its id; those of all tenants are of one length.
        gateway: that serves it.
        seen: ids of its own grants, proposals, imports and attestations, as they came to be, by kind.
        bundle: of its newest signature.
        wrapped: what it hands in for imports, by name: another time the same.
        start: where its audit records begin.
    """

    name: str
    gateway: Running
    seen: dict[str, list[str]] = field(default_factory=dict)
    bundle: bytes = b"{}"
    wrapped: dict[str, bytes] = field(default_factory=dict)
    start: int = 0
    _callers: dict[str, tuple[grpc.Channel, Any]] = field(default_factory=dict)

    def caller(self, who: str) -> tuple[grpc.Channel, Any]:
        """A connection, and the private key of its certificate."""
        if who not in self._callers:
            role, name = who.split()
            ca = LocalCa.read(self.gateway.directory)
            uri = spiffe_id(DOMAIN, self.name, Role(role), name)
            pair = ca.issue_client(uri, datetime.now(UTC), timedelta(hours=1))
            folder = self.gateway.directory / "clients" / f"{self.name}-{role}-{name}"
            folder.mkdir()
            pair.write(folder / "cert.pem", folder / "key.pem")
            credentials = grpc.ssl_channel_credentials(
                (self.gateway.directory / "tls" / "ca.pem").read_bytes(),
                (folder / "key.pem").read_bytes(),
                (folder / "cert.pem").read_bytes(),
            )
            channel = grpc.secure_channel(self.gateway.addresses["grpc"], credentials, OPTIONS)
            self._callers[who] = channel, pair.key
        return self._callers[who]

    def ask(self, who: str, request: Message, most: int | None = None) -> list[Any]:
        """The answers; of a stream that does not end, ``most`` of them."""
        method = type(request).__name__.removesuffix("Request")
        channel, _ = self.caller(who)
        call = next(found for stub in STUBS if (found := getattr(stub(channel), method, None)) is not None)
        answer = call(request, timeout=30)
        if isinstance(answer, Message):
            return [answer]
        answers = list(islice(answer, most))
        answer.cancel()
        return answers

    def close(self) -> None:
        """Hang up."""
        for channel, _ in self._callers.values():
            channel.close()

    def begin(self) -> None:
        """Take note of where its audit records begin."""
        [answer] = self.ask("admin first", log_pb2.GetCheckpointRequest(log=AUDIT))
        self.start = answer.tree_size

    def records(self) -> list[bytes]:
        """Its audit records, and none of others'."""
        answers = self.ask("admin first", log_pb2.ListEntriesRequest(log=AUDIT, start_index=self.start))
        return [entry.body for answer in answers for entry in answer.entries if entry.body]


@dataclass(frozen=True)
class Side:
    """A tenant that makes calls, and the other one that it may name."""

    own: Tenant
    other: Tenant

    def tenant(self, call: Call) -> str:
        """``tenants/{tenant}``."""
        names = {"own": self.own.name, "other": self.other.name, "nobody": "nobody"}
        return f"tenants/{names[call.whose]}"

    def key(self, call: Call) -> str:
        """One of three keys."""
        return f"{self.tenant(call)}/keys/k{call.number % 3}"

    def thing(self, call: Call, kind: str) -> str:
        """A grant, proposal, import or attestation: one that there is, where there is one."""
        known = {"own": self.own, "other": self.other}.get(call.whose)
        found = known.seen.get(kind, []) if known is not None else []
        return found[call.number % len(found)] if found else f"{self.tenant(call)}/{kind}/{_MISSING[kind]}"

    def make(self, call: Call) -> str:
        """Make the call; what is seen of it, without what is random or everybody's."""
        try:
            # At least one: who hangs up at once may not have been heard.
            most = max(1, self.open()) if call.method == "WatchProposals" else None
            answers = self.own.ask(call.by, REQUESTS[call.method](self, call), most)
        except grpc.RpcError as error:
            refused = _refusal(error)
            self._learn([refused])
            return self.plain(refused)
        self._learn(answers)
        if call.method in ("SimulatePolicy", "SimulateGate", "ListEntries"):
            answers = _gathered(answers)
        return self.plain([_document(one) for one in answers])

    def open(self) -> int:
        """How many proposals a watcher is told of before it has to wait."""
        request = approval_pb2.ListProposalsRequest(parent=f"tenants/{self.own.name}", open=True, page_size=1000)
        [answer] = self.own.ask("custodian first", request)
        return len(answer.proposals)

    def _learn(self, answers: list[Any]) -> None:
        for one in answers:
            for kind in _MISSING:
                for name in re.findall(rf"tenants/{self.own.name}/{kind}/[a-z0-9-]+", str(one)):
                    known = self.own.seen.setdefault(kind, [])
                    if name not in known:
                        known.append(name)
            if isinstance(one, signing_pb2.SignResponse):
                self.own.bundle = one.signature.bundle

    def plain(self, document: Any) -> str:
        """As text, with tenants called by what they are to the caller, and random ids by when they were first seen."""
        text = json.dumps(document)
        for kind in _MISSING:
            text = re.sub(rf"(?<=tenants/{self.other.name}/{kind}/)[a-z0-9-]+", "ID", text)
            for place, name in enumerate(self.own.seen.get(kind, ())):
                text = text.replace(name.rpartition("/")[2], f"#{place}")
        text = _VARIES_IN_TEXT.sub("N", text)
        named = text.replace(self.own.name, "OWN").replace(self.other.name, "OTHER")
        return json.dumps(_sorted(json.loads(named)), sort_keys=True)

    def records(self) -> list[str]:
        """Its audit records, as ``make`` has answers."""
        return [self.plain(_without(json.loads(body))) for body in self.own.records()]


_MISSING = {
    "grants": "g" + "0" * 16,
    "proposals": "p" + "0" * 20,
    "keyImports": "i" + "0" * 16,
    "attestations": "a" + "9" * 16,
    "gates/production/exceptions": "e" + "0" * 16,
    "gates/production/decisions": "d" + "0" * 20,
}
# Times; what is made of random keys; and what is everybody's: places in the logs, sizes of them, how a shared store is.
_VARIES = re.compile(
    r".*(?:_time|Time)|time|log_index|logIndex|tree_size|second_size|root_hash|hashes|checkpoint|leaf_hash|record|"
    r"public_key.*|publicKey.*|pem.*|hint|signature(?:_crc32c)?|bundle.*|content|contentDigest|digest|statement|material|"
    r"verification_material|wrapping_key.*|attestation|ceremony|claims|handle|health|retry_time|"
    r"calls_available|signatures_available|total|evidence|policyDigest|keys_json|.*[fF]ingerprint|answer|canonicalBody|envelope"
)

# Texts name them as well.
_VARIES_IN_TEXT = re.compile(
    r"\d{4}-\d\d-\d\d[T ][\d:.]+(?:\+00:00|Z| UTC)?|(?<=entry )\d+|(?<=tree of )\d+|(?<=at size )\d+"
)


def _without(document: Any) -> Any:
    if isinstance(document, Mapping):
        # A decision has the digests of bundles, which have times in them.
        kept = {name: one for name, one in document.items() if name != "attestations" or not _is_texts(one)}
        return {name: _without(one) for name, one in kept.items() if not _VARIES.fullmatch(name)}
    return [_without(one) for one in document] if isinstance(document, list) else document


def _is_texts(document: Any) -> bool:
    return isinstance(document, list) and all(isinstance(one, str) for one in document)


def _sorted(document: Any) -> Any:
    """With lists in another order: that of random ids is random."""
    if isinstance(document, Mapping):
        return {name: _sorted(one) for name, one in document.items()}
    if isinstance(document, list):
        return sorted(map(_sorted, document), key=lambda one: json.dumps(one, sort_keys=True))
    return document


def _document(message: Message) -> Any:
    document = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    if isinstance(message, trust_pb2.GetTrustRootResponse):
        document["keys"] = re.findall("tenants/[a-z0-9/-]+", message.keys.decode())
    if isinstance(message, gate_pb2.GetGateSnapshotResponse):
        for name in ("keys", "snapshot"):
            document[name] = re.findall("tenants/[a-z0-9/-]+", getattr(message, name).decode())
    return _without(document)


def _gathered(answers: list[Any]) -> list[Any]:
    """A simulation is over with its last message; how many come is for the size of the log."""
    if isinstance(answers[-1] if answers else None, policy_pb2.SimulatePolicyResponse | gate_pb2.SimulateGateResponse):
        return answers[-1:]
    # What a tenant is shown of its own is looked at when it has made all calls.
    return []


def _refusal(error: Any) -> Any:
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    # Their types must be known for that.
    assert error_details_pb2.ErrorInfo.DESCRIPTOR
    return [error.code().name, error.details(), MessageToDict(status_pb2.Status.FromString(details))]


def _policy(number: int) -> str:
    more = '@id("more") forbid (principal, action == Sealkeeper::Action::"ListKeys", resource);'
    return (default_policy(), f"{default_policy()}\n{more}", "nonsense")[number % 3]


def _question(side: Side, call: Call) -> policy_pb2.AccessRequest:
    principal = policy_pb2.AccessPrincipal(subject="spiffe://x/ci", role=("ci", "custodian", "none")[call.number % 3])
    return policy_pb2.AccessRequest(principal=principal, action="Sign", resource=side.key(call))


def _attest(side: Side, call: Call) -> Message:
    request = attestation_pb2.AttestRequest(
        key=side.key(call),
        subjects=[attestation_pb2.Subject(name="app", digest={"sha256": "5e" * 32})],
        request_id=_request_id(call),
    )
    # Half of them are good.
    if call.number % 4 == 3:
        request.slsa_provenance.external_parameters = b"{}"
    else:
        request.predicate.type = (
            "https://slsa.dev/provenance/v1" if call.number % 4 == 1 else "https://example.org/x/v1"
        )
        request.predicate.json = b"{}"
    return request


def _gate(side: Side, call: Call) -> str:
    return f"{side.tenant(call)}/gates/{'other' if call.number % 7 == 6 else 'production'}"


def _gate_policy(side: Side, call: Call) -> str:
    signers = f"signers: {{one: {{key: {side.key(call)}}}, two: {{key: {side.tenant(call)}/keys/k0}}}}"
    more = ("", "mode: warn", "environments: {dev: {signatures: {signers: [two]}}}", "nonsense")[call.number % 4]
    verdicts = f"verdict_key: {side.tenant(call)}/keys/k0" if call.number % 2 else ""
    return f"gate: v1\n{signers}\n{verdicts}\nrequire: {{signatures: {{signers: [one, two], threshold: 1}}}}\n{more}\n"


def _evaluate(side: Side, call: Call) -> Message:
    return gate_pb2.EvaluateRequest(
        gate=_gate(side, call),
        subject=APP,
        environment=("", "dev", "production")[call.number % 3],
        bundles=[side.own.bundle] if call.number % 2 else [],
        image="ghcr.io/acme/app" if call.number % 5 == 4 else "",
        dry_run=call.number % 4 == 3,
        request_id=_request_id(call),
    )


def _report(side: Side, call: Call) -> Message:
    made = gate_pb2.GateDecision(subject=APP, outcome=gate_pb2.GATE_OUTCOME_ALLOW, passed=bool(call.number % 3))
    made.mode = gate_pb2.GATE_MODE_ENFORCE
    made.time.GetCurrentTime()
    return gate_pb2.ReportDecisionsRequest(gate=_gate(side, call), decisions=[made])


def _exception(side: Side, call: Call) -> Message:
    request = gate_pb2.CreateGateExceptionRequest(
        gate=_gate(side, call), lifetime=HOUR, reason="to try it", request_id=_request_id(call)
    )
    if call.number % 2:
        request.digest = f"sha256:{'5e' * 32}"
    else:
        request.pattern = ("app*", "**")[call.number // 2 % 2]
    return request


def _decide(side: Side, call: Call) -> Message:
    name = side.thing(call, "proposals")
    _, key = side.own.caller(call.by)
    statement = b"{}"
    if call.whose == "own" and name in side.own.seen.get("proposals", ()):
        try:
            [found] = side.own.ask("custodian first", approval_pb2.GetProposalRequest(name=name))
        except grpc.RpcError:
            pass
        else:
            decision = "REJECT" if call.number % 5 == 4 else "APPROVE"
            statement = sign_decision(content_of(found.proposal), decision, "", key)
    return approval_pb2.DecideProposalRequest(name=name, statement=statement)


@cache
def _brought() -> Any:
    """One private key, that all tenants bring."""
    return private_key("secp256r1")


def _finish(side: Side, call: Call) -> Message:
    name, wrapped = side.thing(call, "keyImports"), b"x"
    if call.whose == "own" and call.number % 3 and name in side.own.seen.get("keyImports", ()):
        try:
            [found] = side.own.ask("custodian first", key_import_pb2.GetKeyImportRequest(name=name))
            wrapped = side.own.wrapped.setdefault(name, wrap(KWP, found.key_import.wrapping_key, pkcs8(_brought())))
        except grpc.RpcError:
            pass
    return key_import_pb2.FinishKeyImportRequest(
        name=name,
        wrapped_key=wrapped,
        wrapped_key_crc32c=crc32c(wrapped),
        public_key=spki(_brought()),
        wrap_method=resources_pb2.WrapMethod.Value(f"WRAP_METHOD_{KWP}"),
        request_id=_request_id(call),
    )


def _request_id(call: Call) -> str:
    return ("", "", "r1", "r2", "not one!")[call.number % 5]


def _state(side: Side, call: Call) -> Message:
    state = ("DISABLED", "ACTIVE", "COMPROMISED", "DESTROY_SCHEDULED", "VERIFY_ONLY")[call.number % 5]
    return key_pb2.SetKeyVersionStateRequest(
        name=f"{side.key(call)}/versions/1", state=resources_pb2.KeyVersionState.Value(f"KEY_VERSION_STATE_{state}")
    )


Make: TypeAlias = Callable[[Side, Call], Message]
REQUESTS: dict[str, Make] = {
    "CreateKey": lambda side, call: key_pb2.CreateKeyRequest(
        parent=side.tenant(call),
        key_id=f"k{call.number % 3}",
        key=resources_pb2.Key(algorithm=P256, provider=PROVIDERS[call.number % 5], labels={"env": "prod"}),
        request_id=_request_id(call),
    ),
    "GetKey": lambda side, call: key_pb2.GetKeyRequest(name=side.key(call)),
    "ListKeys": lambda side, call: key_pb2.ListKeysRequest(parent=side.tenant(call), page_size=call.number % 3),
    "GetKeyVersion": lambda side, call: key_pb2.GetKeyVersionRequest(name=f"{side.key(call)}/versions/1"),
    "ListKeyVersions": lambda side, call: key_pb2.ListKeyVersionsRequest(
        parent=side.key(call), page_size=call.number % 3
    ),
    "RotateKey": lambda side, call: key_pb2.RotateKeyRequest(name=side.key(call), request_id=_request_id(call)),
    "SetKeyVersionState": _state,
    "AddStandbyVersion": lambda side, call: key_pb2.AddStandbyVersionRequest(
        name=side.key(call), provider=PROVIDERS[call.number % 5] or "main"
    ),
    "GetKeyEvidence": lambda side, call: key_pb2.GetKeyEvidenceRequest(name=f"{side.key(call)}/versions/1"),
    "GetKeyCeremony": lambda side, call: key_pb2.GetKeyCeremonyRequest(name=f"{side.key(call)}/versions/1"),
    "BeginKeyImport": lambda side, call: key_import_pb2.BeginKeyImportRequest(
        parent=side.tenant(call),
        key_id=f"k{call.number % 3}",
        algorithm=P256,
        provider=PROVIDERS[call.number % 5],
        request_id=_request_id(call),
    ),
    "FinishKeyImport": _finish,
    "CancelKeyImport": lambda side, call: key_import_pb2.CancelKeyImportRequest(name=side.thing(call, "keyImports")),
    "GetKeyImport": lambda side, call: key_import_pb2.GetKeyImportRequest(name=side.thing(call, "keyImports")),
    "ListKeyImports": lambda side, call: key_import_pb2.ListKeyImportsRequest(parent=side.tenant(call)),
    "ListProviders": lambda side, call: provider_pb2.ListProvidersRequest(parent=side.tenant(call)),
    "GetProvider": lambda side, call: provider_pb2.GetProviderRequest(
        name=f"{side.tenant(call)}/providers/{PROVIDERS[call.number % 5] or 'x'}"
    ),
    "Sign": lambda side, call: signing_pb2.SignRequest(
        key=side.key(call), content=message_content(b"a"), request_id=_request_id(call)
    ),
    "SignBatch": lambda side, call: signing_pb2.SignBatchRequest(
        key=side.key(call), items=[message_content(b"a"), message_content(b"b")], request_id=_request_id(call)
    ),
    "Verify": lambda side, call: signing_pb2.VerifyRequest(
        bundle=side.own.bundle if call.number % 4 else b"{}", key=side.key(call), message=b"a"
    ),
    "Attest": _attest,
    "GetAttestation": lambda side, call: attestation_pb2.GetAttestationRequest(name=side.thing(call, "attestations")),
    "ListAttestations": lambda side, call: attestation_pb2.ListAttestationsRequest(
        parent=side.tenant(call),
        subject_digest=f"sha256:{'5e' * 32}" if call.number % 2 else "",
        key=side.key(call) if call.number % 3 == 0 else "",
    ),
    "GetPublicKey": lambda side, call: signing_pb2.GetPublicKeyRequest(name=side.key(call)),
    "GetCheckpoint": lambda side, call: log_pb2.GetCheckpointRequest(log=LOGS[call.number % 4]),
    "GetInclusionProof": lambda side, call: log_pb2.GetInclusionProofRequest(log=LOGS[call.number % 4]),
    "GetConsistencyProof": lambda side, call: log_pb2.GetConsistencyProofRequest(
        log=LOGS[call.number % 4], first_size=1
    ),
    "ListEntries": lambda side, call: log_pb2.ListEntriesRequest(log=LOGS[call.number % 4], limit=10),
    "GetTrustRoot": lambda side, call: trust_pb2.GetTrustRootRequest(parent=side.tenant(call)),
    "WhoAmI": lambda side, call: identity_pb2.WhoAmIRequest(key=side.key(call) if call.number % 3 else ""),
    "GetPolicy": lambda side, call: policy_pb2.GetPolicyRequest(parent=side.tenant(call), number=call.number % 3),
    "ListPolicyVersions": lambda side, call: policy_pb2.ListPolicyVersionsRequest(parent=side.tenant(call)),
    "UpdatePolicy": lambda side, call: policy_pb2.UpdatePolicyRequest(
        parent=side.tenant(call), text=_policy(call.number), base=1 + call.number % 2, reason="to try it"
    ),
    "TestPolicy": lambda side, call: policy_pb2.TestPolicyRequest(
        parent=side.tenant(call), cases=[policy_pb2.PolicyCase(name="a case", request=_question(side, call))]
    ),
    "ExplainDecision": lambda side, call: policy_pb2.ExplainDecisionRequest(
        parent=side.tenant(call), request=_question(side, call)
    ),
    "SimulatePolicy": lambda side, call: policy_pb2.SimulatePolicyRequest(
        parent=side.tenant(call), text=_policy(call.number), records=1000
    ),
    "CreateGrant": lambda side, call: grant_pb2.CreateGrantRequest(
        parent=side.tenant(call), key=side.key(call), subject="spiffe://x/ci", lifetime=HOUR, reason="to try it"
    ),
    "BreakGlass": lambda side, call: grant_pb2.BreakGlassRequest(
        resource=side.tenant(call) if call.number % 2 else side.key(call),
        actions=["Sign"],
        lifetime=HOUR,
        reason="to see what comes of it",
    ),
    "RevokeGrant": lambda side, call: grant_pb2.RevokeGrantRequest(name=side.thing(call, "grants")),
    "GetGrant": lambda side, call: grant_pb2.GetGrantRequest(name=side.thing(call, "grants")),
    "ListGrants": lambda side, call: grant_pb2.ListGrantsRequest(parent=side.tenant(call)),
    "GetProposal": lambda side, call: approval_pb2.GetProposalRequest(name=side.thing(call, "proposals")),
    "ListProposals": lambda side, call: approval_pb2.ListProposalsRequest(
        parent=side.tenant(call), open=bool(call.number % 2)
    ),
    "DecideProposal": _decide,
    "WithdrawProposal": lambda side, call: approval_pb2.WithdrawProposalRequest(name=side.thing(call, "proposals")),
    "WatchProposals": lambda side, call: approval_pb2.WatchProposalsRequest(
        name=side.tenant(call) if side.open() else f"{side.tenant(call)}/proposals/{_MISSING['proposals']}"
    ),
    "GetQuota": lambda side, call: quota_pb2.GetQuotaRequest(parent=side.tenant(call)),
    "UpdateQuota": lambda side, call: quota_pb2.UpdateQuotaRequest(
        parent=side.tenant(call), limits=quota_pb2.Limits(keys=(2, 900, 10_000)[call.number % 3])
    ),
    "Evaluate": _evaluate,
    "ReportDecisions": _report,
    "GetGateSnapshot": lambda side, call: gate_pb2.GetGateSnapshotRequest(gate=_gate(side, call)),
    "ListGates": lambda side, call: gate_pb2.ListGatesRequest(parent=side.tenant(call), page_size=call.number % 3),
    "GetGateVersion": lambda side, call: gate_pb2.GetGateVersionRequest(
        name=f"{_gate(side, call)}{('', '/versions/1')[call.number % 2]}"
    ),
    "ListGateVersions": lambda side, call: gate_pb2.ListGateVersionsRequest(parent=_gate(side, call)),
    "UpdateGate": lambda side, call: gate_pb2.UpdateGateRequest(
        gate=_gate(side, call), text=_gate_policy(side, call), base=call.number // 2 % 2, reason="to try it"
    ),
    "SimulateGate": lambda side, call: gate_pb2.SimulateGateRequest(
        gate=_gate(side, call), text=_gate_policy(side, call)
    ),
    "CreateGateException": _exception,
    "RevokeGateException": lambda side, call: gate_pb2.RevokeGateExceptionRequest(
        name=side.thing(call, "gates/production/exceptions")
    ),
    "ListGateExceptions": lambda side, call: gate_pb2.ListGateExceptionsRequest(parent=_gate(side, call)),
    "GetGateDecision": lambda side, call: gate_pb2.GetGateDecisionRequest(
        name=side.thing(call, "gates/production/decisions")
    ),
    "ListGateDecisions": lambda side, call: gate_pb2.ListGateDecisionsRequest(parent=_gate(side, call)),
}


def interleaved(calls: list[Call], others: list[Call], turns: list[int]) -> Iterator[tuple[bool, Call]]:
    """Both lists in their orders: before each of the first some of the others, and the rest at the end."""
    left = iter(others)
    for call, turn in zip(calls, turns, strict=True):
        for other in islice(left, turn):
            yield False, other
        yield True, call
    for other in left:
        yield False, other
