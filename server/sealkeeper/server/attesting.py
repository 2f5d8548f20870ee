"""Attesting: a Statement is made, signed as any DSSE payload is, and kept with its bundle.

A retry makes the same Statement, so it is given the same signature, from the log (``idempotency.py``), and keeps what a
crash between signing and keeping has left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sealkeeper.hsm import ALGORITHMS
from sealkeeper.server.attestation import Attestation, Search
from sealkeeper.server.attestations import Attestations, KeptBundle
from sealkeeper.server.calls import Call
from sealkeeper.server.errors import FieldViolation, InvalidRequestError
from sealkeeper.server.idempotency import RequestId, RequestLedger
from sealkeeper.server.identity import Principal
from sealkeeper.server.keys import Keys
from sealkeeper.server.reserved_predicates import require_unreserved
from sealkeeper.server.resources import AttestationName, KeyName, KeyVersionName, parse_version_name
from sealkeeper.server.signing import (
    MAX_MESSAGE,
    Content,
    ContentKind,
    Material,
    Signature,
    Signed,
    Signing,
    encode_answer,
)
from sealkeeper.server.slsa_provenance import FIELD, BuildPlatform, BuildReport, provenance_of
from sealkeeper.server.telemetry import Telemetry
from sealkeeper.verify.bundle import MAX_BUNDLE
from sealkeeper.verify.dsse import pae
from sealkeeper.verify.errors import PredicateError, StatementError
from sealkeeper.verify.predicates import kind_of, validate_predicate
from sealkeeper.verify.predicates.provenance import PROVENANCE_V1
from sealkeeper.verify.statement import PAYLOAD_TYPE, Subject, encode_statement, parse_predicate
from sealkeeper.verify.strict_json import JsonError, Value

MAX_STATEMENT = (MAX_BUNDLE - 256 * 1024) // 4 * 3
"""Bytes of a Statement: in base64, with all that proves it, it fits into a bundle."""
PREDICATE = "predicate"
_MAX_TOLD = 20
_MAX_VALUES = 500_000


@dataclass(frozen=True, slots=True)
class GivenPredicate:
    """A predicate as its caller wrote it.

    Attributes:
        type: URI.
        json: an object, UTF-8.
    """

    type: str
    json: bytes


@dataclass(frozen=True, slots=True)
class GivenReport:
    """What a build says of itself, as it came; see ``BuildReport``. What is empty was not said."""

    external_parameters: bytes
    resolved_dependencies: bytes


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be attested.

    Attributes:
        key: that signs, or its version.
        subjects: 1 to 10,000, checked.
        content: the predicate, or what provenance is made of.
        material: for the bundle.
        transient: do not keep it.
    """

    key: KeyName | KeyVersionName
    subjects: Sequence[Subject]
    content: GivenPredicate | GivenReport
    material: Material
    transient: bool


@dataclass(frozen=True, slots=True)
class _Statement:
    payload: bytes
    predicate_type: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Attested:
    """The answer: the signature in its bundle, and what is known of it; ``kept`` says whether it will be found."""

    signature: Signature
    attestation: Attestation
    kept: bool


class Attesting:
    """Attests.

    Args:
        signing: signs.
        attestations: keeps.
        ledger: knows which requests were answered.
        keys: that sign.
        platforms: CI systems, by issuer of their tokens.
        telemetry: told of attestations.
    """

    def __init__(
        self,
        signing: Signing,
        attestations: Attestations,
        ledger: RequestLedger,
        keys: Keys,
        platforms: Mapping[str, BuildPlatform],
        telemetry: Telemetry,
    ) -> None:
        self._signing = signing
        self._attestations = attestations
        self._ledger = ledger
        self._keys = keys
        self._platforms = platforms
        self._telemetry = telemetry
        self._tasks: set[asyncio.Task[Attested]] = set()

    async def attest(self, order: Order, call: Call) -> Attested:
        """Make a Statement, sign it and keep it. What is signed is kept even if the caller hangs up.

        Args:
            order: what.
            call: whose audit record goes into the log together with the signature.

        Raises:
            InvalidRequestError: with the reasons PREDICATE_INVALID and PROVENANCE_MISMATCH as well.
            FailedPreconditionError: with the reason IDENTITY_UNSUITABLE as well.
            SealkeeperError, ProviderError, LogError: as of ``Signing.sign``; or it could not be kept.
        """
        statement = await self._attestations.work(order.key.tenant, lambda: self._statement(order, call.caller))
        self._require_length(order, statement)
        call.details["attestation"] = _told(order, statement)
        task = asyncio.create_task(self._sign_and_keep(order, statement, call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def get(self, name: AttestationName) -> tuple[Attestation, KeptBundle]:
        """An attestation and its bundle.

        Raises:
            NotFoundError: there is none of this name.
            UnavailableError: its bundle cannot be read.
        """
        found = await self._attestations.get(name)
        return found, await self._attestations.bundle(found)

    async def search(self, search: Search, below: int | None, limit: int) -> list[Attestation]:
        """Attestations that fit, newest first; ``below`` the index in the log of the last one that was given."""
        return await self._attestations.search(search, below, limit)

    async def close(self) -> None:
        """Finish what is under way."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._attestations.close()

    def _statement(self, order: Order, caller: Principal) -> _Statement:
        """In a thread: there may be much of it."""
        content = order.content
        if isinstance(content, GivenPredicate):
            require_unreserved(content.type, f"{PREDICATE}.type")
            predicate_type, predicate = content.type, content.json
        else:
            report = _report(content)
            predicate_type, predicate = PROVENANCE_V1, provenance_of(caller, self._platforms, report)
        given = isinstance(content, GivenPredicate)
        try:
            payload = encode_statement(order.subjects, predicate_type, predicate)
            if kind_of(predicate_type) is not None:
                validate_predicate(predicate_type, parse_predicate(predicate))
        except StatementError as error:
            raise _refused(error.path, error.text, given=given) from None
        except PredicateError as error:
            violations = [
                FieldViolation(_field(f"$.predicate{path[1:]}", given=given), text) for path, text in error.problems
            ]
            raise InvalidRequestError(violations, reason="PREDICATE_INVALID") from None
        if len(payload) > MAX_STATEMENT:
            raise InvalidRequestError.of(
                PREDICATE if given else FIELD,
                f"makes a Statement of {len(payload)} bytes; at most {MAX_STATEMENT} are allowed",
                next_step="attest fewer subjects at a time, or a smaller predicate",
            )
        return _Statement(payload, predicate_type, sha256(payload).digest())

    def _require_length(self, order: Order, statement: _Statement) -> None:
        name = order.key.parent if isinstance(order.key, KeyVersionName) else order.key
        algorithm = ALGORITHMS[self._keys.get(name).algorithm]
        length = len(pae(PAYLOAD_TYPE, b"")) + len(statement.payload) + len(str(len(statement.payload))) - 1
        if not algorithm.signs_digest and length > MAX_MESSAGE:
            raise InvalidRequestError.of(
                PREDICATE if isinstance(order.content, GivenPredicate) else FIELD,
                f"makes a Statement of {len(statement.payload)} bytes; {algorithm.name} signs messages, at most 4 MiB",
                next_step="use a key whose algorithm signs digests: ECDSA or RSA",
            )

    async def _sign_and_keep(self, order: Order, statement: _Statement, call: Call) -> Attested:
        caller = call.caller
        name = next((one.name for one in order.subjects if one.name), "")
        content = Content(ContentKind.DSSE, statement.payload, payload_type=PAYLOAD_TYPE, artifact_name=name)
        signed = await self._sign(order, content, call)
        [signature] = signed.signatures
        version = parse_version_name(signed.key_version, "key_version")
        if order.transient:
            made, bundle = (
                await self._attestations.describe(signature.bundle, caller.subject, version),
                signature.bundle,
            )
        else:
            made, bundle = await self._attestations.keep(signature.bundle, caller.subject, version)
        kind = kind_of(statement.predicate_type)
        self._telemetry.attestation(caller.tenant, kind.short_name if kind is not None else "other")
        return Attested(Signature(bundle, signature.signature, signature.log_index), made, not order.transient)

    async def _sign(self, order: Order, content: Content, call: Call) -> Signed:
        fingerprint = b""

        async def sign() -> Signed:
            # What was signed before is given again for nothing.
            call.quotas.admit_signatures(call.caller, 1)
            return await self._signing.sign(order.key, [content], order.material, call, fingerprint)

        if not call.request_id:
            return await sign()
        # Of the same request with another token, the Statement may be another one.
        what = f"{order.key}\0{order.material}\0{order.transient}\0".encode() + sha256(content.data).digest()
        known = RequestId.of(call.caller, call.method, call.request_id, what)
        fingerprint = known.fingerprint
        return await self._ledger.once(
            known, sign, lambda answer: self._signing.replay(answer, [content]), encode_answer
        )


def _told(order: Order, statement: _Statement) -> dict[str, Any]:
    """For the audit record; of bounded length."""
    subjects = [f"{name}:{digest}" for one in order.subjects[:_MAX_TOLD] for name, digest in [*one.digests.items()][:1]]
    return {
        "predicateType": statement.predicate_type,
        "statement": f"sha256:{statement.digest.hex()}",
        "subjects": subjects,
        "subjectCount": len(order.subjects),
    }


def _report(given: GivenReport) -> BuildReport:
    """Read what a build says of itself.

    Raises:
        InvalidRequestError: it is no JSON, or not of the right kind.
    """
    parameters = _json(given.external_parameters, f"{FIELD}.external_parameters", dict)
    dependencies = _json(given.resolved_dependencies, f"{FIELD}.resolved_dependencies", list)
    return BuildReport(parameters, dependencies)


def _json(data: bytes, field: str, kind: type[Any]) -> Any:
    if not data:
        return kind()
    try:
        value = Value.parse(data, len(data), _MAX_VALUES)
        parsed = value.json
    except JsonError as error:
        raise InvalidRequestError.of(field, f"is not good JSON: {error}") from None
    if not isinstance(parsed, kind):
        raise InvalidRequestError.of(field, f"must be a JSON {'object' if kind is dict else 'array'}")
    return parsed


def _refused(path: str, text: str, *, given: bool) -> InvalidRequestError:
    about_predicate = path.startswith("$.predicate") and not path.startswith("$.predicateType")
    return InvalidRequestError.of(
        _field(path, given=given), text, reason="PREDICATE_INVALID" if about_predicate else None
    )


_OF_REPORTS = (
    ("$.predicate.buildDefinition.externalParameters", f"{FIELD}.external_parameters"),
    ("$.predicate.buildDefinition.resolvedDependencies", f"{FIELD}.resolved_dependencies"),
    ("$.predicate", FIELD),
)
_OF_PREDICATES = (("$.predicateType", f"{PREDICATE}.type"), ("$.predicate", f"{PREDICATE}.json"))


def _field(path: str, *, given: bool) -> str:
    """The request's field that a place in the Statement comes from."""
    for place, field in (("$.subject", "subjects"), *(_OF_PREDICATES if given else _OF_REPORTS)):
        if path.startswith(place):
            return f"{field}{path[len(place) :]}"[:200]
    return PREDICATE if given else FIELD
