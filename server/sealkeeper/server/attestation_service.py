"""AttestationService: checks and translates requests, and leaves the rest to ``attesting.py``."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any

from sealkeeper.server.attestation import Attestation, AttestedSubject, Search, log_index_of, subjects_of
from sealkeeper.server.attesting import Attested, Attesting, GivenPredicate, GivenReport, Order
from sealkeeper.server.authorization import Action
from sealkeeper.server.calls import current_call
from sealkeeper.server.errors import InvalidRequestError
from sealkeeper.server.resources import (
    KeyName,
    KeyVersionName,
    TenantName,
    parse_attestation_name,
    parse_key_or_version_name,
    parse_tenant_name,
)
from sealkeeper.server.signing_service import material_of
from sealkeeper.server.slsa_provenance import FIELD
from sealkeeper.server.translation import (
    crc32c,
    id_of_page_token,
    moment_of,
    page_size_of,
    page_token,
    timestamp,
)
from sealkeeper.v1 import attestation_pb2, attestation_pb2_grpc, signing_pb2
from sealkeeper.verify.statement import DIGEST_LENGTHS, MAX_PREDICATE, MAX_SUBJECTS, Subject

MAX_NAME = 512
"""Characters of a subject's name."""
MAX_URI = 512
"""Characters of a predicate's type."""
_MAX_SEARCHED = 2048
_MAX_TOLD = 20
# To check more would hold up everybody else.
_FEW = 200
_STRONG = frozenset({"sha256", "sha384", "sha512"})
_ALGORITHMS = ("sha256", "sha384", "sha512", "sha1", "gitCommit")
_HEX = re.compile(r"[0-9a-f]{40,128}")
_MEBIBYTE = 1024 * 1024


class AttestationService(attestation_pb2_grpc.AttestationServiceServicer):
    """Answers for the contract's AttestationService.

    Args:
        attesting: attests, and finds again.
    """

    def __init__(self, attesting: Attesting) -> None:
        self._attesting = attesting

    async def Attest(  # noqa: N802
        self, request: attestation_pb2.AttestRequest, context: Any
    ) -> attestation_pb2.AttestResponse:
        """Make a Statement, sign it and keep it."""
        call = current_call()
        try:
            key = parse_key_or_version_name(request.key, "key")
            call.authorize(Action.ATTEST, key)
            if isinstance(key, KeyVersionName):
                call.details["keyVersion"] = str(key)
            call.use_request_id(request.request_id)
            few = len(request.subjects) <= _FEW
            order = _order(request, key) if few else await asyncio.to_thread(_order, request, key)
            attested = await self._attesting.attest(order, call)
        except Exception:
            call.details["asked"] = _asked(request)
            raise
        return _answer(attested)

    async def GetAttestation(  # noqa: N802
        self, request: attestation_pb2.GetAttestationRequest, context: Any
    ) -> attestation_pb2.GetAttestationResponse:
        """Look an attestation up."""
        name, call = parse_attestation_name(request.name, "name"), current_call()
        call.authorize(Action.GET_ATTESTATION, TenantName(name.tenant))
        call.details["attestation"] = str(name)
        found, kept = await self._attesting.get(name)
        return attestation_pb2.GetAttestationResponse(
            attestation=_message(found, subjects_of(kept.statement)),
            bundle=kept.data,
            bundle_crc32c=crc32c(kept.data),
        )

    async def ListAttestations(  # noqa: N802
        self, request: attestation_pb2.ListAttestationsRequest, context: Any
    ) -> attestation_pb2.ListAttestationsResponse:
        """List a tenant's attestations."""
        parent = parse_tenant_name(request.parent, "parent")
        current_call().authorize(Action.GET_ATTESTATION, parent)
        search, size = _search(request, parent), page_size_of(request.page_size)
        found = await self._attesting.search(search, _below(request.page_token), size + 1)
        return attestation_pb2.ListAttestationsResponse(
            attestations=[_message(one, one.subjects) for one in found[:size]],
            next_page_token=page_token(found[size - 1].name.id) if len(found) > size else "",
        )


def _order(request: attestation_pb2.AttestRequest, key: KeyName | KeyVersionName) -> Order:
    """Check a request as far as can be done without reading its JSON.

    Raises:
        InvalidRequestError: naming the field.
    """
    if not 1 <= len(request.subjects) <= MAX_SUBJECTS:
        raise InvalidRequestError.of(
            "subjects", f"has {len(request.subjects)} subjects; 1 to {MAX_SUBJECTS} are allowed"
        )
    subjects = [_subject(one, f"subjects[{place}]") for place, one in enumerate(request.subjects)]
    return Order(key, subjects, _content(request), material_of(request.material), request.transient)


def _subject(message: attestation_pb2.Subject, field: str) -> Subject:
    name, digests = message.name, dict(message.digest)
    if len(name) > MAX_NAME or not name.isprintable():
        raise InvalidRequestError.of(
            f"{field}.name", f"must be at most {MAX_NAME} characters without control characters"
        )
    if not _STRONG & digests.keys():
        raise InvalidRequestError.of(f"{field}.digest", "needs one of sha256, sha384 and sha512")
    for algorithm, digest in digests.items():
        if algorithm not in _ALGORITHMS:
            raise InvalidRequestError.of(
                f"{field}.digest", f"{algorithm[:64]!r} is not one of {', '.join(_ALGORITHMS)}"
            )
        _require_digest(algorithm, digest, f"{field}.digest.{algorithm}")
    # In one order, so that a retry makes the same Statement.
    return Subject(name, {one: digests[one] for one in _ALGORITHMS if one in digests})


def _require_digest(algorithm: str, digest: str, field: str) -> None:
    lengths = DIGEST_LENGTHS[algorithm]
    if not _HEX.fullmatch(digest) or len(digest) not in lengths:
        allowed = " or ".join(str(one) for one in sorted(lengths))
        raise InvalidRequestError.of(field, f"must be {allowed} lower-case hexadecimal digits")


def _content(request: attestation_pb2.AttestRequest) -> GivenPredicate | GivenReport:
    kind = request.WhichOneof("content")
    if kind is None:
        raise InvalidRequestError.of("content", "needs a predicate or slsa_provenance")
    if kind == "predicate":
        predicate = request.predicate
        _require_text(predicate.type, "predicate.type", MAX_URI, least=1)
        _require_size(predicate.json, "predicate.json", MAX_PREDICATE)
        return GivenPredicate(predicate.type, predicate.json)
    report = request.slsa_provenance
    _require_size(report.external_parameters, f"{FIELD}.external_parameters", _MEBIBYTE)
    _require_size(report.resolved_dependencies, f"{FIELD}.resolved_dependencies", 8 * _MEBIBYTE)
    return GivenReport(report.external_parameters, report.resolved_dependencies)


def _require_text(text: str, field: str, most: int, *, least: int = 0) -> None:
    if not least <= len(text) <= most or not text.isprintable():
        raise InvalidRequestError.of(field, f"must be {least} to {most} printable characters")


def _require_size(data: bytes, field: str, most: int) -> None:
    if len(data) > most:
        raise InvalidRequestError.of(field, f"has {len(data)} bytes; at most {most // _MEBIBYTE} MiB are allowed")


def _search(request: attestation_pb2.ListAttestationsRequest, parent: TenantName) -> Search:
    """Check what is searched for.

    Raises:
        InvalidRequestError: naming the field.
    """
    for field in ("predicate_type", "source_repository", "builder_id"):
        _require_text(getattr(request, field), field, _MAX_SEARCHED)
    if request.subject_digest:
        algorithm, _, digest = request.subject_digest.partition(":")
        if algorithm not in _ALGORITHMS:
            raise InvalidRequestError.of("subject_digest", f"must be one of {', '.join(_ALGORITHMS)}, ':' and digits")
        _require_digest(algorithm, digest, "subject_digest")
    key = parse_key_or_version_name(request.key, "key") if request.key else None
    if key is not None and key.tenant != parent.tenant:
        raise InvalidRequestError.of("key", "must be one of the tenant that parent names")
    return Search(
        parent.tenant,
        request.subject_digest,
        request.predicate_type,
        request.source_repository,
        request.builder_id,
        key,
        moment_of(request.after, "after") if request.HasField("after") else None,
        moment_of(request.before, "before") if request.HasField("before") else None,
    )


def _below(token: str) -> int | None:
    last = id_of_page_token(token)
    index = log_index_of(last)
    if last and index is None:
        raise InvalidRequestError.of("page_token", "must be the next_page_token of the page before")
    return index


def _asked(request: attestation_pb2.AttestRequest) -> dict[str, Any]:
    """What was to be attested, for the audit record of a refusal: as it came, but bounded."""
    digests = [
        f"{algorithm[:16]}:{digest[:128]}"
        for one in request.subjects[:_MAX_TOLD]
        for algorithm, digest in sorted(one.digest.items())[:1]
    ]
    asked = {
        "content": request.WhichOneof("content") or "nothing",
        "predicateType": request.predicate.type[:MAX_URI],
        "subjects": digests,
        "subjectCount": len(request.subjects),
    }
    return {name: value for name, value in asked.items() if value}


def _answer(attested: Attested) -> attestation_pb2.AttestResponse:
    signature, made = attested.signature, attested.attestation
    record = _message(made, made.subjects)
    if not attested.kept:
        record.name = ""
    return attestation_pb2.AttestResponse(
        signature=signing_pb2.Signature(
            bundle=signature.bundle,
            bundle_crc32c=crc32c(signature.bundle),
            signature=signature.signature,
            signature_crc32c=crc32c(signature.signature),
            log_index=signature.log_index,
        ),
        attestation=record,
    )


def _message(one: Attestation, subjects: Sequence[AttestedSubject]) -> attestation_pb2.AttestationRecord:
    return attestation_pb2.AttestationRecord(
        name=str(one.name),
        subjects=[attestation_pb2.Subject(name=shown.name, digest=dict(shown.digests)) for shown in subjects],
        subject_count=one.subject_count,
        predicate_type=one.predicate_type,
        key_version=str(one.key_version),
        attester=one.attester,
        source_repository=one.origin.source_repository,
        source_ref=one.origin.source_ref,
        source_commit=one.origin.source_commit,
        builder_id=one.origin.builder_id,
        build_type=one.origin.build_type,
        create_time=timestamp(one.create_time),
        log_index=one.log_index,
        bundle_digest=one.bundle_digest,
        bundle_size=one.bundle_size,
    )
