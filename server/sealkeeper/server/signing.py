"""Signing: the ACTIVE version signs, the timestamp authority stamps, the logs record, and then the bundle leaves.

Third of the five files to read for one signature; ``signing_service.py`` calls it, ``hsm/provider.py`` signs,
``log/sequencer.py`` records.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeAlias

import msgspec
from cryptography import x509

from sealkeeper.hsm import ALGORITHMS, Algorithm, ProviderError, ProviderUnavailableError
from sealkeeper.hsm.backend import check_payloads
from sealkeeper.server.audit import OK
from sealkeeper.server.bundle import BundleTemplate
from sealkeeper.server.calls import Call
from sealkeeper.server.certificates import KeyCertificates
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.configured_provider import OUT_OF_REACH, ConfiguredProvider
from sealkeeper.server.entry import EntryTemplate, LoggedSignature, parse_entry
from sealkeeper.server.errors import (
    ClockWentBackError,
    FailedPreconditionError,
    InvalidRequestError,
    RegionNotAllowedError,
    UnavailableError,
)
from sealkeeper.server.key import Failover, KeyVersion, State
from sealkeeper.server.key_usage import KEPT, KeyUsage
from sealkeeper.server.keys import Keys
from sealkeeper.server.log import TRANSPARENCY, Inclusion, LogReader, Sequencer, Submission
from sealkeeper.server.residency import Residency
from sealkeeper.server.resources import KeyName, KeyVersionName
from sealkeeper.server.signing_lane import SigningLane
from sealkeeper.server.telemetry import Telemetry
from sealkeeper.server.timestamping import TimestampAuthority
from sealkeeper.verify.dsse import pae

MAX_ITEMS = 1000
"""Contents of a request."""
MAX_MESSAGE = 4 * 1024 * 1024
_ATTEMPTS = 3
# Bytes of artifacts' names in an audit record.
_MOST_NAMES = 16 * 1024
WITHHELD = "WITHHELD"
"""Outcome in an audit record: the signature is in the log, and did not leave."""
_INLINE = 64 * 1024
_INLINE_PAYLOADS = 1024 * 1024
_HASH_NAMES = {"sha256": "SHA2_256", "sha384": "SHA2_384", "sha512": "SHA2_512"}


class ContentKind(StrEnum):
    """In what form a content came."""

    DIGEST = "digest"
    MESSAGE = "message"
    DSSE = "dsse"


class Content(msgspec.Struct, frozen=True):
    """One thing to sign; lengths and checksums have been checked.

    Attributes:
        kind: what ``data`` is.
        data: the digest, the message, or the DSSE payload.
        digest_algorithm: of a digest, name in ``HashAlgorithm``.
        payload_type: of a DSSE payload.
        artifact_name: what a person calls it, for the audit log.
        field: where it stands in the request, for errors.
    """

    kind: ContentKind
    data: bytes
    digest_algorithm: str = ""
    payload_type: str = ""
    artifact_name: str = ""
    field: str = "content"


class Material(StrEnum):
    """What proves the signer in the bundle."""

    PUBLIC_KEY = "PUBLIC_KEY"
    CERTIFICATE = "CERTIFICATE"


class Signature(msgspec.Struct, frozen=True):
    """A signature that is logged: its bundle, itself, and its index in the transparency log."""

    bundle: bytes
    signature: bytes
    log_index: int


@dataclass(frozen=True, slots=True)
class Signed:
    """The answer: the signatures in the order of the contents.

    Attributes:
        key_version: that signed.
        material: in the bundles.
        signatures: one a content.
        timestamps: RFC 3161 responses, one a content.
    """

    key_version: str
    material: Material
    signatures: tuple[Signature, ...]
    timestamps: tuple[bytes, ...]


class _Prepared(msgspec.Struct, frozen=True):
    """A content as it is signed and as its entry has it."""

    content: Content
    payload: bytes
    digest_algorithm: str
    digest: bytes


_Made: TypeAlias = tuple[bytes, bytes, Inclusion, bytes]
"""Signature, log entry, where that is, timestamp."""


class _Job:
    """One request on its way through provider and log, together with others.

    Args:
        version: that signs.
        prepared: its contents.
        material: in the bundles.
        entry_of: makes the entries.
        call: for the audit record.
        fingerprint: of the request.
    """

    __slots__ = (
        "call",
        "count",
        "entry_of",
        "fingerprint",
        "first_index",
        "length",
        "made",
        "material",
        "prepared",
        "refused",
        "signatures",
        "tenant",
        "time",
        "version",
    )

    def __init__(
        self,
        version: KeyVersion,
        prepared: Sequence[_Prepared],
        material: Material,
        entry_of: EntryTemplate,
        call: Call,
        fingerprint: bytes,
    ) -> None:
        self.version = version
        self.prepared = prepared
        self.material = material
        self.entry_of = entry_of
        self.call = call
        self.fingerprint = fingerprint
        self.tenant = version.name.tenant
        self.count = len(prepared)
        self.length = sum(len(one.payload) for one in prepared)
        self.signatures: Sequence[bytes] = ()
        # Of its first entry, and the time of its audit record: known when they are recorded.
        self.first_index, self.time = 0, version.create_time
        # By the provider of its own key, rather than by that of the gateway's.
        self.refused = False
        self.made: asyncio.Future[Sequence[_Made] | None] = asyncio.get_running_loop().create_future()
        call.details["keyVersion"] = str(version.name)

    def finish(self, made: Sequence[_Made]) -> None:
        """Answer."""
        if not self.made.done():
            self.made.set_result(made)

    def give_up(self) -> None:
        """Answer that the version no longer signs."""
        if not self.made.done():
            self.made.set_result(None)

    def fail(self, error: Exception) -> None:
        """Answer with an error."""
        if not self.made.done():
            self.made.set_exception(error)

    def details(self) -> dict[str, Any]:
        """For the audit record."""
        details: dict[str, Any] = {"material": self.material, "count": len(self.prepared)}
        if self.fingerprint:
            details["fingerprint"] = self.fingerprint.hex()
        # Of a batch the digests are in the transparency log only: a record has a bounded length.
        if len(self.prepared) == 1:
            details["digest"] = f"{self.prepared[0].digest_algorithm}:{self.prepared[0].digest.hex()}"
        names = [one.content.artifact_name for one in self.prepared]
        if any(names):
            # A record has a bounded length, and there are more important things in it.
            while sum(len(name.encode()) for name in names) > _MOST_NAMES:
                names = names[: len(names) // 2]
            details["artifacts"] = names
        return details


class Signing:
    """Signs. Requests that come while others are under way go through provider and log together.

    While the provider of a key's ACTIVE version does not answer, the key's standby version signs, if that is what its
    custodian wants; the audit record says so. The provider is asked again as soon as its circuit breaker lets one try,
    so signing goes back to it by itself.

    Args:
        keys: whose versions sign.
        providers: by name.
        stamper: says when.
        certificates: of the keys, for bundles with a certificate.
        residency: of the tenants.
        logs: where everything is recorded.
        log_id: of the transparency log.
        clock: the time.
        telemetry: told of signatures.
        usage: told of what keys are used for.
    """

    def __init__(
        self,
        keys: Keys,
        providers: Mapping[str, ConfiguredProvider],
        stamper: TimestampAuthority,
        certificates: KeyCertificates,
        residency: Residency,
        logs: Sequencer,
        log_id: bytes,
        clock: SteadyClock,
        telemetry: Telemetry,
        usage: KeyUsage,
    ) -> None:
        self._usage = usage
        self._keys = keys
        self._providers = providers
        self._stamper = stamper
        self._certificates = certificates
        self._residency = residency
        self._logs = logs
        self._log_id = log_id
        self._clock = clock
        self._telemetry = telemetry
        self._lanes = {name: SigningLane(one, self._do) for name, one in providers.items()}
        # By verifier: a public key or a certificate, DER.
        self._templates: dict[bytes, tuple[EntryTemplate, BundleTemplate]] = {}

    async def sign(
        self,
        name: KeyName | KeyVersionName,
        contents: Sequence[Content],
        material: Material,
        call: Call,
        fingerprint: bytes = b"",
    ) -> Signed:
        """Sign all contents with one version, or none.

        Args:
            name: of the key, or of the version that must be the ACTIVE one.
            contents: 1 to 1,000.
            material: for the bundles.
            call: whose audit record goes into the log together with the signatures.
            fingerprint: of the request, where it has an id; recorded, so that a crash does not forget it.

        Raises:
            NotFoundError, FailedPreconditionError: there is no such key, or it does not sign.
            InvalidRequestError: a content does not fit the key's algorithm.
            PayloadError: a message is too long for the provider, or too short.
            ProviderError: the provider did not sign.
            LogError: what was signed could not be recorded; it is thrown away.
        """
        failed: ProviderError | None = None
        for _ in range(_ATTEMPTS):
            await self._keys.settled(name)
            version = self._version(name, failed, call)
            prepared = await _prepare_all(contents, ALGORITHMS[version.algorithm])
            _require_lengths(self._providers[version.provider], ALGORITHMS[version.algorithm], prepared)
            if material is Material.PUBLIC_KEY:
                entry_of, bundle_of = self._templates_for(version, version.public_key, is_certificate=False)
            else:
                certificate = await self._certificates.get(str(version.name.parent), version.public_key)
                entry_of, bundle_of = self._templates_for(version, certificate.der, is_certificate=True)
            job = _Job(version, prepared, material, entry_of, call, fingerprint)
            self._lanes[version.provider].put(job)
            try:
                made = await job.made
            except OUT_OF_REACH as error:
                if not job.refused or version.standby or isinstance(name, KeyVersionName):
                    raise
                failed = error
                continue
            if made is None:
                continue
            if not await self._still_signs(name, version):
                await self._withhold([job])
                continue
            self._count(version, len(prepared), call)
            call.recorded = True
            signatures = await _signatures(bundle_of, prepared, made)
            return Signed(str(version.name), material, tuple(signatures), tuple(one[3] for one in made))
        raise failed or UnavailableError("the key's versions change too quickly", next_step="retry")

    def _version(self, name: KeyName | KeyVersionName, failed: ProviderError | None, call: Call) -> KeyVersion:
        """The version that signs: the ACTIVE one, or while its provider is out of reach the one that stands by.

        Raises:
            NotFoundError, FailedPreconditionError: there is no such key, or it does not sign.
            RegionNotAllowedError: the ACTIVE version is where the tenant's keys may not be.
            ProviderError: ``failed``, where nothing stands by.
        """
        version = self._keys.signing_version(name, self._clock.now())
        provider = self._providers[version.provider]
        self._residency.require(version.name.tenant, provider.region, provider.name, "sign")
        call.details.pop("failover", None)
        if failed is None and provider.available:
            return version
        standby = self._standby(name)
        if standby is not None:
            reason = failed.reason if failed is not None else "CIRCUIT_OPEN"
            call.details["failover"] = {"from": str(version.name), "provider": version.provider, "reason": reason}
            return standby
        if failed is not None:
            raise failed
        # It is asked all the same: its error says when to come back.
        return version

    def _standby(self, name: KeyName | KeyVersionName) -> KeyVersion | None:
        """The version that may sign now in the place of the ACTIVE one."""
        if isinstance(name, KeyVersionName):
            return None
        key = self._keys.get(name)
        standby = key.active_at(self._clock.now(), standby=True)
        if standby is None or key.failover is not Failover.AUTOMATIC:
            return None
        provider = self._providers[standby.provider]
        try:
            self._residency.require(name.tenant, provider.region, provider.name, "failover")
        except RegionNotAllowedError:
            return None
        return standby if provider.available else None

    def _count(self, version: KeyVersion, count: int, call: Call) -> None:
        tenant = version.name.tenant
        self._telemetry.signatures(tenant, version.algorithm, count)
        failover = call.details.get("failover")
        if failover is not None:
            self._telemetry.failover(tenant, failover["provider"], version.provider, count)

    async def _still_signs(self, name: KeyName | KeyVersionName, version: KeyVersion) -> bool:
        """Whether what a version has signed may leave: a custodian may have switched it off meanwhile."""
        await self._keys.settled(name)
        try:
            active = self._keys.signing_version(name, self._clock.now())
            if version.standby and isinstance(name, KeyName):
                # It stands by a version that signs: of a key that was switched off nothing leaves.
                standby = self._keys.get(name).active_at(self._clock.now(), standby=True)
                return standby is not None and standby.name == version.name
        except (FailedPreconditionError, ClockWentBackError):
            return False
        return active.name == version.name

    async def _withhold(self, jobs: Sequence[_Job]) -> None:
        """Record that signatures which are in the log did not leave, so that no retry gets them after a crash."""
        now = self._clock.at_least_latest()
        records = [job.call.audit_record(now, WITHHELD, **job.details(), logIndex=job.first_index) for job in jobs]
        await self._logs.submit(Submission(audit=records))

    async def _do(self, jobs: Sequence[_Job]) -> None:
        try:
            await self._sign_and_record(jobs)
        except Exception as error:  # noqa: BLE001  (every caller gets it)
            for job in jobs:
                job.fail(error)

    async def _sign_and_record(self, jobs: Sequence[_Job]) -> None:
        """The way of a batch: the provider signs, then the timestamp authority stamps while the logs record."""
        jobs = await self._signed(jobs)
        now = self._clock.now()
        for job in jobs:
            if job.version.state_at(now) is not State.ACTIVE:
                job.give_up()
        jobs = [job for job in jobs if not job.made.done()]
        if not jobs:
            return
        signatures = [signature for job in jobs for signature in job.signatures]
        entries = [
            job.entry_of.body(one.digest_algorithm, one.digest, signature)
            for job in jobs
            for one, signature in zip(job.prepared, job.signatures, strict=True)
        ]
        # In this order: the logs' cycle begins, and its checkpoints travel to the provider together with the stamps.
        recording = self._logs.submit(
            Submission(transparency=entries, audit=lambda first: self._audit_records(jobs, first))
        )
        stamping = asyncio.ensure_future(self._stamper.stamp(signatures))
        try:
            receipt = await recording
            self._count_uses(jobs, receipt.audit_index)
            stamps = await stamping
        except BaseException:
            stamping.cancel()
            await asyncio.gather(stamping, return_exceptions=True)
            if recording.done() and not recording.cancelled() and recording.exception() is None:
                await self._withhold(jobs)
            raise
        made = list(zip(signatures, entries, receipt.transparency, stamps, strict=True))
        start = 0
        for job in jobs:
            end = start + len(job.prepared)
            job.finish(made[start:end])
            start = end

    def _count_uses(self, jobs: Sequence[_Job], audit_index: int) -> None:
        """Take note of what keys were used for. ``audit_index`` is that of the first job's record."""
        for place, job in enumerate(jobs):
            artifacts = [(one.content.artifact_name, one.digest_algorithm, one.digest) for one in job.prepared[-KEPT:]]
            self._usage.record(
                job.version.name, job.count, artifacts, job.call.caller, job.time, audit_index + place, job.first_index
            )

    async def _signed(self, jobs: Sequence[_Job]) -> Sequence[_Job]:
        """Have each key's provider sign; jobs whose provider failed are answered, the others are given back."""
        groups: dict[str, list[_Job]] = {}
        for job in jobs:
            if not job.made.done():
                groups.setdefault(job.version.provider + job.version.handle, []).append(job)
        if len(groups) == 1:
            await self._sign_group(*groups.values())
        else:
            await asyncio.gather(*map(self._sign_group, groups.values()))
        return [job for job in jobs if not job.made.done()]

    async def _sign_group(self, jobs: Sequence[_Job]) -> None:
        version = jobs[0].version
        payloads = [one.payload for job in jobs for one in job.prepared]
        algorithm, spans = ALGORITHMS[version.algorithm], [job.call.span for job in jobs]
        try:
            with self._telemetry.signing_for(version.name.tenant, str(version.name), spans):
                signatures = await self._providers[version.provider].sign(version.handle, algorithm, payloads)
        except ProviderError as error:
            for job in jobs:
                job.refused = True
                job.fail(error)
            return
        start = 0
        for job in jobs:
            end = start + len(job.prepared)
            job.signatures = signatures[start:end]
            start = end

    def _audit_records(self, jobs: Sequence[_Job], first: int) -> list[bytes]:
        records, now = [], self._clock.at_least_latest()
        for job in jobs:
            job.first_index, job.time = first, now
            records.append(job.call.audit_record(now, **job.details(), logIndex=first))
            first += len(job.prepared)
        return records

    def _templates_for(
        self, version: KeyVersion, verifier: bytes, *, is_certificate: bool
    ) -> tuple[EntryTemplate, BundleTemplate]:
        known = self._templates.get(verifier)
        if known is None:
            bundle = (
                BundleTemplate.for_certificate(verifier, self._log_id)
                if is_certificate
                else BundleTemplate.for_public_key(version.hint, self._log_id)
            )
            known = EntryTemplate(version.algorithm, verifier, is_certificate=is_certificate), bundle
            if len(self._templates) >= 10_000:
                self._templates.clear()
            self._templates[verifier] = known
        return known

    async def replay(self, answer: bytes, contents: Sequence[Content]) -> Signed:
        """Give the same signatures again, from the log.

        Args:
            answer: as ``encode_answer`` or ``recovered_answer`` made it.
            contents: of the request, the same as then.

        Raises:
            FailedPreconditionError: the answer cannot be made again.
            LogError: the log cannot be read.
        """
        kept = msgspec.msgpack.decode(answer, type=_Answer)
        version = self._keys.get_version(KeyVersionName(*kept.key_version))
        await self._keys.settled(version.name)
        algorithm, reader = ALGORITHMS[version.algorithm], self._logs.log(TRANSPARENCY)
        entries = await _entries(reader, kept.first_index, len(contents))
        logged = [parse_entry(one) for one in entries]
        stamps = kept.timestamps or await self._stamps_anew(version, logged)
        made = []
        for place, (content, entry, one, stamp) in enumerate(zip(contents, entries, logged, stamps, strict=True)):
            [prepared] = await _prepare_all([content], algorithm)
            _require_same_digest(prepared, one)
            _, bundle_of = self._templates_for(version, one.verifier, is_certificate=one.is_certificate)
            inclusion = await _inclusion(reader, kept.first_index + place)
            made += await _signatures(bundle_of, [prepared], [(one.signature, entry, inclusion, stamp)])
        return Signed(str(version.name), Material(kept.material), tuple(made), tuple(stamps))

    async def _stamps_anew(self, version: KeyVersion, logged: Sequence[LoggedSignature]) -> list[bytes]:
        """Stamp what was signed before a crash, which lost the stamps. They say now, so now it must still be valid."""
        now = self._clock.now()
        expired = any(one.is_certificate and _not_after(one.verifier) <= now for one in logged)
        if expired or version.state_at(now) is not State.ACTIVE:
            raise FailedPreconditionError(
                "the gateway ended before it gave this answer, and what it signed then is not valid any more",
                reason="ANSWER_LOST",
                next_step="ask again with a new request id",
            )
        stamps = await self._stamper.stamp([one.signature for one in logged])
        if not await self._still_signs(version.name, version):
            raise UnavailableError("the key's version has changed meanwhile", next_step="retry")
        return stamps


class _Answer(msgspec.Struct, array_like=True):
    """What the ledger keeps of an answer: the rest is in the log."""

    key_version: tuple[str, str, int]
    material: str
    first_index: int
    timestamps: list[bytes]


def encode_answer(signed: Signed) -> bytes:
    """An answer as the request ledger keeps it."""
    tenant, key, number = signed.key_version.split("/")[1::2]
    first = signed.signatures[0].log_index
    return msgspec.msgpack.encode(_Answer((tenant, key, int(number)), signed.material, first, list(signed.timestamps)))


@dataclass(frozen=True, slots=True)
class RecordedSigning:
    """A signing request as its audit record knows it.

    Attributes:
        tenant: the caller's.
        subject: the caller.
        method: that was called.
        request_id: the caller's.
        fingerprint: of the content.
        time: when it was recorded.
        answer: for the request ledger; ``None`` where the signatures were withheld.
    """

    tenant: str
    subject: str
    method: str
    request_id: str
    fingerprint: bytes
    time: datetime
    answer: bytes | None


def recorded_signing(record: bytes) -> RecordedSigning | None:
    """Read an audit record; ``None`` where it is not one of a signing with a request id."""
    document = msgspec.json.decode(record)
    details, outcome = document.get("details", {}), document.get("outcome")
    if not document.get("requestId") or outcome not in (OK, WITHHELD) or "fingerprint" not in details:
        return None
    tenant, key, number = details["keyVersion"].split("/")[1::2]
    answer = _Answer((tenant, key, int(number)), details["material"], details["logIndex"], [])
    return RecordedSigning(
        document["tenant"],
        document["subject"],
        document["method"],
        document["requestId"],
        bytes.fromhex(details["fingerprint"]),
        datetime.fromisoformat(document["time"]),
        msgspec.msgpack.encode(answer) if outcome == OK else None,
    )


def _not_after(certificate: bytes) -> datetime:
    return x509.load_der_x509_certificate(certificate).not_valid_after_utc


async def _prepare_all(contents: Sequence[Content], algorithm: Algorithm) -> list[_Prepared]:
    def work() -> list[_Prepared]:
        return [_prepare(one, algorithm) for one in contents]

    # Hashing much would hold up everybody else.
    return work() if sum(len(one.data) for one in contents) < _INLINE else await asyncio.to_thread(work)


def _prepare(content: Content, algorithm: Algorithm) -> _Prepared:
    """What the provider gets, and what the entry says.

    Raises:
        InvalidRequestError: the content does not fit the algorithm.
    """
    name = _HASH_NAMES[algorithm.digest or "sha256"]
    if content.kind is ContentKind.DIGEST:
        if not algorithm.signs_digest:
            raise InvalidRequestError.of(
                f"{content.field}.digest",
                f"{algorithm.name} signs messages, not digests",
                reason="DIGEST_NOT_SUPPORTED",
                next_step="send the artifact as message, at most 4 MiB",
            )
        if content.digest_algorithm != name:
            raise InvalidRequestError.of(
                f"{content.field}.digest.algorithm",
                f"the key's algorithm {algorithm.name} goes with {name}, not {content.digest_algorithm}",
                reason="DIGEST_MISMATCH",
                next_step=f"compute the artifact's {name} digest",
            )
        return _Prepared(content, content.data, name, content.data)
    message = content.data if content.kind is ContentKind.MESSAGE else pae(content.payload_type, content.data)
    # The encoding around a payload of the largest size is beyond what a provider takes.
    if not algorithm.signs_digest and len(message) > MAX_MESSAGE:
        raise InvalidRequestError.of(f"{content.field}.dsse.payload", "is too long together with its payload type")
    digest = hashlib.new(algorithm.digest or "sha256", message).digest()
    return _Prepared(content, digest if algorithm.signs_digest else message, name, digest)


def _require_lengths(provider: ConfiguredProvider, algorithm: Algorithm, prepared: Sequence[_Prepared]) -> None:
    """Refuse by itself what the provider would refuse together with all that others sign at the moment.

    Raises:
        PayloadError: a message is longer than the provider takes, or empty where it takes none.
    """
    if algorithm.signs_digest:
        return
    try:
        info = provider.info
    except ProviderUnavailableError:
        return
    check_payloads(algorithm, [one.payload for one in prepared], info)


async def _signatures(
    template: BundleTemplate, prepared: Sequence[_Prepared], made: Sequence[_Made]
) -> list[Signature]:
    def work() -> list[Signature]:
        return [
            _signature(template, one, signature, entry, inclusion, stamp)
            for one, (signature, entry, inclusion, stamp) in zip(prepared, made, strict=True)
        ]

    # A long payload is in its bundle.
    length = sum(len(one.content.data) for one in prepared if one.content.kind is ContentKind.DSSE)
    return work() if length < _INLINE_PAYLOADS else await asyncio.to_thread(work)


def _signature(
    template: BundleTemplate, one: _Prepared, signature: bytes, entry: bytes, inclusion: Inclusion, stamp: bytes
) -> Signature:
    if one.content.kind is ContentKind.DSSE:
        content = one.content
        bundle = template.dsse(content.payload_type, content.data, signature, entry, inclusion, stamp)
    else:
        bundle = template.message_signature(one.digest_algorithm, one.digest, signature, entry, inclusion, stamp)
    return Signature(bundle, signature, inclusion.index)


def _require_same_digest(prepared: _Prepared, logged: LoggedSignature) -> None:
    if (logged.digest_algorithm, logged.digest) != (prepared.digest_algorithm, prepared.digest):
        raise FailedPreconditionError("the log has another entry for this request", reason="ANSWER_LOST")


async def _entries(reader: LogReader, first: int, count: int) -> list[bytes]:
    found: list[bytes] = []
    async for _, some in reader.entries(first, count):
        found += some
    return found


async def _inclusion(reader: LogReader, index: int) -> Inclusion:
    proof, checkpoint = await reader.newest_inclusion_proof(index)
    return Inclusion(index, proof.tree_size, proof.root_hash, proof.hashes, checkpoint)
