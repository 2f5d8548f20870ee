"""Calls of AttestationService as values; see ``operations.py``.

>>> subjects = [subject("app.whl", sha256="5e" * 32)]
>>> client.call(attest("tenants/acme/keys/release", subjects, "https://spdx.dev/Document", sbom))  # doctest: +SKIP
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from sealkeeper.client.errors import CorruptAnswerError
from sealkeeper.client.operations import (
    Operation,
    crc32c,
    invalid,
    material_value,
    new_request_id,
    require_whole,
    timestamp_message,
)
from sealkeeper.v1 import attestation_pb2
from sealkeeper.verify.bundle import DsseEnvelope, parse_bundle
from sealkeeper.verify.errors import StatementError, VerifyError
from sealkeeper.verify.statement import (
    MAX_PREDICATE,
    MAX_SUBJECTS,
    PAYLOAD_TYPE,
    Statement,
    parse_predicate,
    parse_statement,
)


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build says of itself; who built what from which source, the gateway writes.

    Attributes:
        external_parameters: what was given to the build from outside; any JSON.
        resolved_dependencies: in-toto ResourceDescriptors of what it used, beside the source.
    """

    external_parameters: Mapping[str, Any] | None = None
    resolved_dependencies: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Filters:
    """What attestations are searched for; those that fit all that is set.

    Attributes:
        subject_digest: ``sha256:HEX``, or of another algorithm.
        predicate_type: URI.
        source_repository: URI.
        builder_id: URI.
        key: ``tenants/{tenant}/keys/{key}``, or one of its versions.
        after: signed then or later.
        before: signed earlier.
    """

    subject_digest: str = ""
    predicate_type: str = ""
    source_repository: str = ""
    builder_id: str = ""
    key: str = ""
    after: datetime | None = None
    before: datetime | None = None


def subject(name: str = "", **digests: str) -> attestation_pb2.Subject:
    """What an attestation is about: a name, and hexadecimal digits by the in-toto name of their algorithm."""
    return attestation_pb2.Subject(name=name, digest=digests)


def attest(
    key: str,
    subjects: Sequence[attestation_pb2.Subject],
    predicate_type: str,
    predicate: bytes,
    *,
    certificate: bool = False,
    transient: bool = False,
    request_id: str | None = None,
) -> Operation[attestation_pb2.AttestResponse]:
    """An attestation of any predicate but SLSA provenance.

    Raises:
        InvalidRequestError: too many subjects, or a predicate that is no JSON object of at most 16 MiB.
    """
    if len(predicate) > MAX_PREDICATE:
        raise invalid("predicate.json", f"has {len(predicate)} bytes; at most {MAX_PREDICATE} are allowed")
    try:
        wanted = parse_predicate(predicate)
    except StatementError as error:
        raise invalid(f"predicate.json{error.path[len('$.predicate') :]}", error.text) from None
    request = _request(key, subjects, certificate=certificate, transient=transient, request_id=request_id)
    request.predicate.CopyFrom(attestation_pb2.Predicate(type=predicate_type, json=predicate))

    def check(response: attestation_pb2.AttestResponse) -> attestation_pb2.AttestResponse:
        if _checked(response, request, predicate_type).predicate != wanted:
            raise CorruptAnswerError("the attestation has another predicate than was asked for")
        return response

    return Operation("AttestationService", "Attest", request, check)


def attest_slsa(
    key: str,
    subjects: Sequence[attestation_pb2.Subject],
    report: BuildReport | None = None,
    *,
    certificate: bool = False,
    transient: bool = False,
    request_id: str | None = None,
) -> Operation[attestation_pb2.AttestResponse]:
    """SLSA provenance, which the gateway writes from the caller's token and what the build says of itself.

    Raises:
        InvalidRequestError: too many subjects.
    """
    report = report or BuildReport()
    request = _request(key, subjects, certificate=certificate, transient=transient, request_id=request_id)
    said = request.slsa_provenance
    said.SetInParent()
    said.external_parameters = _json(dict(report.external_parameters or {}))
    said.resolved_dependencies = _json([dict(one) for one in report.resolved_dependencies])

    def check(response: attestation_pb2.AttestResponse) -> attestation_pb2.AttestResponse:
        # Loaded here: readers of predicates take a while, and most calls need none.
        from sealkeeper.verify.predicates.provenance import PROVENANCE_V1

        _checked(response, request, PROVENANCE_V1)
        return response

    return Operation("AttestationService", "Attest", request, check)


def get_attestation(name: str) -> Operation[attestation_pb2.GetAttestationResponse]:
    """One attestation with its bundle."""

    def check(response: attestation_pb2.GetAttestationResponse) -> attestation_pb2.GetAttestationResponse:
        record = response.attestation
        if record.name != name:
            raise CorruptAnswerError("the answer is another attestation")
        if crc32c(response.bundle) != response.bundle_crc32c:
            raise CorruptAnswerError("the bundle was damaged on its way", next_step="try again")
        if sha256(response.bundle).digest() != record.bundle_digest:
            raise CorruptAnswerError("the bundle is not the one that the attestation names")
        return response

    request = attestation_pb2.GetAttestationRequest(name=name)
    return Operation("AttestationService", "GetAttestation", request, check)


def list_attestations(
    parent: str, filters: Filters, page_token: str, page_size: int
) -> Operation[attestation_pb2.ListAttestationsResponse]:
    """A page of attestations, newest first, without their bundles."""
    request = attestation_pb2.ListAttestationsRequest(
        parent=parent,
        subject_digest=filters.subject_digest,
        predicate_type=filters.predicate_type,
        source_repository=filters.source_repository,
        builder_id=filters.builder_id,
        key=filters.key,
        after=timestamp_message(filters.after),
        before=timestamp_message(filters.before),
        page_size=page_size,
        page_token=page_token,
    )
    return Operation("AttestationService", "ListAttestations", request, lambda response: response)


def _request(
    key: str,
    subjects: Sequence[attestation_pb2.Subject],
    *,
    certificate: bool,
    transient: bool,
    request_id: str | None,
) -> attestation_pb2.AttestRequest:
    if not 1 <= len(subjects) <= MAX_SUBJECTS:
        raise invalid("subjects", f"has {len(subjects)} subjects; 1 to {MAX_SUBJECTS} are allowed")
    return attestation_pb2.AttestRequest(
        key=key,
        subjects=subjects,
        material=material_value(certificate),
        transient=transient,
        request_id=request_id or new_request_id(),
    )


def _checked(
    response: attestation_pb2.AttestResponse, request: attestation_pb2.AttestRequest, predicate_type: str
) -> Statement:
    """What came must be whole, and of what was asked; returns the Statement."""
    signature, record = response.signature, response.attestation
    require_whole(signature, "attestation")
    try:
        bundle = parse_bundle(signature.bundle)
        envelope = bundle.content
        if not isinstance(envelope, DsseEnvelope) or envelope.payload_type != PAYLOAD_TYPE:
            raise CorruptAnswerError("the bundle holds no attestation")
        statement = parse_statement(envelope.payload)
    except VerifyError as error:
        raise CorruptAnswerError(f"the bundle is malformed: {error}") from None
    if envelope.signature != signature.signature or sha256(signature.bundle).digest() != record.bundle_digest:
        raise CorruptAnswerError("the bundle is another one than the answer names")
    found = [(one.name, dict(one.digests)) for one in statement.subjects]
    asked = [(one.name, dict(one.digest)) for one in request.subjects]
    if found != asked or {statement.predicate_type, record.predicate_type} != {predicate_type}:
        raise CorruptAnswerError("the attestation is of something else")
    if bool(record.name) is request.transient:
        raise CorruptAnswerError("the answer does not say whether the attestation is kept")
    return statement


def _json(value: Any) -> bytes:
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False).encode() if value else b""
    except (TypeError, ValueError) as error:
        raise invalid("slsa_provenance", f"is no JSON: {error}") from None
