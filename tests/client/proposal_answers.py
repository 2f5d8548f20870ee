"""Proposals as a gateway answers with them, with content as the evidence in ``tests/verify/proposals.py`` has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from sealkeeper.v1 import approval_pb2, policy_pb2
from sealkeeper.verify.kept_proposal import KeptProposal
from tests.client.answering import Gateway
from tests.verify.proposals import END, START, Made, canonical, content, identity

DIGEST = "sha256:" + "ab" * 32
POLICY = '@id("a")\npermit (principal, action, resource);\n@id("b")\nforbid (principal, action, resource);\n'


def moment(time: datetime) -> Timestamp:
    found = Timestamp()
    found.FromDatetime(time)
    return found


def approval(person: str = "second", decision: str = "APPROVE", **other: Any) -> approval_pb2.Approval:
    members: dict[str, Any] = {
        "subject": identity(person),
        "person": person,
        "decision": approval_pb2.ApprovalDecision.Value(f"APPROVAL_DECISION_{decision}"),
        "create_time": moment(START + timedelta(hours=1)),
        "log_index": 2,
    }
    return approval_pb2.Approval(**{**members, **other})


def proposal(document: dict[str, Any] | None = None, state: str = "PENDING", **other: Any) -> approval_pb2.Proposal:
    document = document or content()
    data = canonical(document)
    proposer = document["proposer"]
    members: dict[str, Any] = {
        "name": document["proposal"],
        "state": approval_pb2.ProposalState.Value(f"PROPOSAL_STATE_{state}"),
        "action": document["action"],
        "resource": document["resource"],
        "content": data,
        "digest": sha256(data).digest(),
        "proposer": proposer["subject"],
        "proposer_person": proposer["person"],
        "reason": document["reason"],
        "required": document["required"],
        "create_time": moment(START),
        "expire_time": moment(END),
        "log_index": 1,
    }
    return approval_pb2.Proposal(**{**members, **other})


def action(name: str, parameters: dict[str, Any], **other: Any) -> approval_pb2.Proposal:
    """A proposal of an action with parameters."""
    return proposal(content(action=name, parameters=parameters, **other))


def got(found: approval_pb2.Proposal, **other: Any) -> approval_pb2.GetProposalResponse:
    return approval_pb2.GetProposalResponse(proposal=found, **other)


def got_with_evidence(made: Made) -> tuple[approval_pb2.GetProposalResponse, KeptProposal]:
    """An answer with evidence, and what has to be kept of it."""
    kept = made.kept()
    found = proposal(made.content, "EXECUTED")
    for one in kept.approvals:
        found.approvals.append(
            approval_pb2.Approval(
                statement=one.statement, verification_material=one.material, certificate=one.certificate
            )
        )
    evidence = [
        approval_pb2.RecordEvidence(log_index=one.index, record=one.record, hashes=one.hashes, tree_size=one.tree_size)
        for one in reversed(kept.records)
    ]
    return got(found, evidence=evidence, checkpoint=kept.checkpoint), kept


def impact(**other: Any) -> approval_pb2.Impact:
    def artifact(name: str, time: datetime) -> approval_pb2.SignedArtifact:
        return approval_pb2.SignedArtifact(name=name, digest=DIGEST, sign_time=moment(time), subject="ci-job")

    return approval_pb2.Impact(
        signatures=1234,
        last_use_time=moment(START - timedelta(hours=1)),
        recent_artifacts=[artifact("app-2.whl", START - timedelta(hours=1)), artifact("", START - timedelta(days=9))],
        production_artifacts=[artifact("shop\x1b[2J.img", START - timedelta(days=2))],
        production_signatures=56,
        **other,
    )


def policy(text: str = POLICY, number: int = 3) -> policy_pb2.GetPolicyResponse:
    version = policy_pb2.PolicyVersion(number=number, text=text, digest=sha256(text.encode()).digest())
    return policy_pb2.GetPolicyResponse(version=version)


class StreamingGateway(Gateway):
    """A gateway that answers to WatchProposals with all of ``stream``.

    Args:
        answers: by the method's name.
        stream: proposals, one a message.
    """

    def __init__(self, answers: dict[str, Any], stream: Sequence[approval_pb2.Proposal] = ()) -> None:
        super().__init__(answers)
        self.stream = list(stream)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        name = details.method.rpartition("/")[2]
        if name != "WatchProposals":
            return super().service(details)

        def answer(request: bytes, _: grpc.ServicerContext) -> Iterator[bytes]:
            self.asked.append((name, request))
            for one in self.stream:
                yield approval_pb2.WatchProposalsResponse(proposal=one).SerializeToString()

        return grpc.unary_stream_rpc_method_handler(answer)
