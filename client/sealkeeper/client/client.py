"""The client, with and without asyncio.

>>> with Client(Connection.load(Path("clients/ci.toml"))) as client:
...     signed = client.sign("tenants/acme/keys/release", message_content(b"hello"))  # doctest: +SKIP

Each call has a deadline, carries a request id where it changes or signs something, is retried while that is safe, and
has its answer's checksums checked.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, Protocol, TypeVar

# gRPC's C core would write to the standard error of whoever uses this; what fails is in our errors.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

from sealkeeper.client import attestation_operations, gate_operations, operations
from sealkeeper.client.attestation_operations import BuildReport, Filters
from sealkeeper.client.call_tokens import CallTokens
from sealkeeper.client.connection import OPTIONS, Connection
from sealkeeper.client.operations import Operation
from sealkeeper.client.retry import RetryPolicy
from sealkeeper.v1 import (
    approval_pb2_grpc,
    attestation_pb2,
    attestation_pb2_grpc,
    gate_pb2,
    gate_pb2_grpc,
    grant_pb2_grpc,
    identity_pb2_grpc,
    key_import_pb2,
    key_import_pb2_grpc,
    key_pb2,
    key_pb2_grpc,
    log_pb2,
    log_pb2_grpc,
    policy_pb2_grpc,
    provider_pb2,
    provider_pb2_grpc,
    quota_pb2_grpc,
    resources_pb2,
    signing_pb2,
    signing_pb2_grpc,
    trust_pb2,
    trust_pb2_grpc,
)

T = TypeVar("T")


class Page(Protocol):
    """An answer with a part of a list."""

    next_page_token: str


P = TypeVar("P", bound=Page)
_STUBS: dict[str, Callable[[Any], Any]] = {
    "KeyService": key_pb2_grpc.KeyServiceStub,
    "KeyImportService": key_import_pb2_grpc.KeyImportServiceStub,
    "ProviderService": provider_pb2_grpc.ProviderServiceStub,
    "SigningService": signing_pb2_grpc.SigningServiceStub,
    "LogService": log_pb2_grpc.LogServiceStub,
    "TrustService": trust_pb2_grpc.TrustServiceStub,
    "ApprovalService": approval_pb2_grpc.ApprovalServiceStub,
    "GateService": gate_pb2_grpc.GateServiceStub,
    "GrantService": grant_pb2_grpc.GrantServiceStub,
    "IdentityService": identity_pb2_grpc.IdentityServiceStub,
    "PolicyService": policy_pb2_grpc.PolicyServiceStub,
    "QuotaService": quota_pb2_grpc.QuotaServiceStub,
    "AttestationService": attestation_pb2_grpc.AttestationServiceStub,
}
_PAGE = 500


class Client:
    """A connection to a gateway.

    Args:
        connection: how to reach it.
        timeout: seconds for a call with all its retries, or for a stream from its start to its end.
        retry: when to try again.
        sleep: waits; injected in tests.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        timeout: float = 30.0,
        retry: RetryPolicy | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._tokens = CallTokens(connection.tokens)
        if connection.insecure:
            self._channel = grpc.insecure_channel(connection.endpoint, OPTIONS)
        else:
            credentials = self._tokens.secured(connection.credentials())
            self._channel = grpc.secure_channel(connection.endpoint, credentials, OPTIONS)
        self._stubs = {name: stub(self._channel) for name, stub in _STUBS.items()}
        self._timeout = timeout
        self._retry = retry or RetryPolicy()
        self._sleep = sleep

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        self._channel.close()

    def call(self, operation: Operation[T]) -> T:
        """Carry out a unary call.

        Raises:
            ClientError: it was refused, or the gateway did not answer in time.
        """
        deadline, tries, renew = time.monotonic() + self._timeout, 0, self._tokens.renewal()
        method = getattr(self._stubs[operation.service], operation.method)
        while True:
            tries += 1
            try:
                response = method(operation.request, timeout=max(0.001, deadline - time.monotonic()))
            except grpc.RpcError as raised:
                error = self._tokens.error_of(raised)
                delay = 0.0 if renew(error) else self._retry.delay(error, tries, deadline - time.monotonic())
                if delay is None:
                    raise error from None
                self._sleep(delay)
            else:
                return operation.check(response)

    def pages(self, page: Callable[[str, int], Operation[P]]) -> Iterator[P]:
        """Carry out the calls that give a list page by page.

        Args:
            page: makes the call for the page of a token, empty for the first, with at most so many items.

        Raises:
            ClientError: one was refused, or the gateway did not answer in time.
        """
        token, more = "", True
        while more:
            found = self.call(page(token, _PAGE))
            yield found
            token = found.next_page_token
            more = bool(token)

    def stream(self, operation: Operation[T], *, within: float | None = None) -> Iterator[T]:
        """Carry out a call that is answered with a stream; each message is checked. Not retried.

        Args:
            operation: the call.
            within: seconds from its start to its end; ``None`` for as long as the gateway goes on.

        Raises:
            ClientError: it was refused, or broke off, or did not end in time.
        """
        renew, begun = self._tokens.renewal(), False
        method, deadline = getattr(self._stubs[operation.service], operation.method), _deadline(within)
        while True:
            call = method(operation.request, timeout=_left(deadline))
            try:
                for response in call:
                    begun = True
                    yield operation.check(response)
                return  # noqa: TRY300
            except grpc.RpcError as raised:
                error = self._tokens.error_of(raised)
                if begun or not renew(error):
                    raise error from None
            finally:
                # Whoever stops reading has hung up.
                call.cancel()

    def sign(
        self,
        key: str,
        content: signing_pb2.SignContent,
        *,
        certificate: bool = False,
        request_id: str | None = None,
    ) -> signing_pb2.SignResponse:
        """Sign one content; see ``digest_content``, ``message_content``, ``dsse_content``.

        Args:
            key: ``tenants/{tenant}/keys/{key}``, or its ACTIVE version.
            content: what to sign.
            certificate: put a certificate into the bundle instead of a hint at the key.
            request_id: of a call that this one repeats.

        Raises:
            ClientError: it was refused, or the gateway did not answer in time.
        """
        return self.call(operations.sign(key, content, certificate=certificate, request_id=request_id))

    def sign_batch(
        self,
        key: str,
        items: Sequence[signing_pb2.SignContent],
        *,
        certificate: bool = False,
        request_id: str | None = None,
    ) -> signing_pb2.SignBatchResponse:
        """Sign up to 1,000 contents, all or none; as ``sign``."""
        return self.call(operations.sign_batch(key, items, certificate=certificate, request_id=request_id))

    def verify(
        self, bundle: bytes, key: str, *, message: bytes | None = None, digest: tuple[str, bytes] | None = None
    ) -> signing_pb2.VerifyResponse:
        """Let the gateway verify a bundle; ``sealkeeper.verify`` does it without a gateway."""
        return self.call(operations.verify(bundle, key, message=message, digest=digest))

    def public_key(self, name: str) -> signing_pb2.GetPublicKeyResponse:
        """The public key of a key's ACTIVE version, or of a version."""
        return self.call(operations.public_key(name))

    def create_key(
        self,
        parent: str,
        key_id: str,
        algorithm: str,
        *,
        provider: str = "",
        labels: Mapping[str, str] | None = None,
        request_id: str | None = None,
    ) -> key_pb2.CreateKeyResponse:
        """Make a key; ``algorithm`` as in ``PublicKeyDetails``."""
        return self.call(
            operations.create_key(
                parent, key_id, algorithm, provider=provider, labels=labels or {}, request_id=request_id
            )
        )

    def get_key(self, name: str) -> resources_pb2.Key:
        """Look a key up."""
        return self.call(operations.get_key(name))

    def list_keys(self, parent: str) -> Iterator[resources_pb2.Key]:
        """All keys of a tenant, page by page."""
        for page in self.pages(partial(operations.list_keys, parent)):
            yield from page.keys

    def get_key_version(self, name: str) -> resources_pb2.KeyVersion:
        """Look a version up."""
        return self.call(operations.get_key_version(name))

    def list_key_versions(self, parent: str) -> Iterator[resources_pb2.KeyVersion]:
        """All versions of a key, newest first, page by page."""
        for page in self.pages(partial(operations.list_key_versions, parent)):
            yield from page.versions

    def rotate_key(
        self, name: str, *, publish_period: timedelta | None = None, request_id: str | None = None
    ) -> key_pb2.RotateKeyResponse:
        """Make a new version that signs after ``publish_period``."""
        return self.call(operations.rotate_key(name, publish_period=publish_period, request_id=request_id))

    def set_key_version_state(
        self,
        name: str,
        state: str,
        *,
        compromise_time: datetime | None = None,
        destroy_delay: timedelta | None = None,
        etag: str = "",
        request_id: str | None = None,
    ) -> resources_pb2.KeyVersion:
        """Move a version into another state."""
        return self.call(
            operations.set_key_version_state(
                name,
                state,
                compromise_time=compromise_time,
                destroy_delay=destroy_delay,
                etag=etag,
                request_id=request_id,
            )
        )

    def add_standby_version(
        self,
        name: str,
        provider: str,
        *,
        failover: str = "AUTOMATIC",
        publish_period: timedelta | None = None,
        request_id: str | None = None,
    ) -> key_pb2.AddStandbyVersionResponse:
        """Make a version in another provider that signs while the first does not answer; see ``Failover``."""
        return self.call(
            operations.add_standby_version(
                name, provider, failover=failover, publish_period=publish_period, request_id=request_id
            )
        )

    def get_key_evidence(self, name: str) -> resources_pb2.KeyEvidence:
        """Read back what the store says of a version's private key."""
        return self.call(operations.get_key_evidence(name))

    def get_key_ceremony(self, name: str) -> key_pb2.GetKeyCeremonyResponse:
        """How a version came to be; ``sealkeeper.verify.verify_ceremony`` checks it."""
        return self.call(operations.get_key_ceremony(name))

    def begin_key_import(
        self,
        parent: str,
        key_id: str,
        *,
        algorithm: str = "",
        provider: str = "",
        standby: bool = False,
        labels: Mapping[str, str] | None = None,
        request_id: str | None = None,
    ) -> key_import_pb2.KeyImport:
        """Have the store offer a key to wrap a private key under."""
        return self.call(
            operations.begin_key_import(
                parent,
                key_id,
                algorithm=algorithm,
                provider=provider,
                standby=standby,
                labels=labels or {},
                request_id=request_id,
            )
        )

    def finish_key_import(
        self,
        name: str,
        wrap_method: str,
        wrapped_key: bytes,
        public_key: bytes,
        *,
        publish_period: timedelta | None = None,
        request_id: str | None = None,
    ) -> key_import_pb2.FinishKeyImportResponse:
        """Hand a wrapped private key over.

        Args:
            name: ``tenants/{tenant}/keyImports/{import}``.
            wrap_method: as in ``WrapMethod``, for example ``RSA_OAEP_SHA256_AES_256_KWP``.
            wrapped_key: at most 16 KiB.
            public_key: that of the private key, from another hand: SubjectPublicKeyInfo, DER, at most 4 KiB.
            publish_period: how long a version of a key that there is stays PUBLISHED.
            request_id: of a call that this one repeats.

        Raises:
            ClientError: it was refused, or the gateway did not answer in time.
        """
        return self.call(
            operations.finish_key_import(
                name, wrap_method, wrapped_key, public_key, publish_period=publish_period, request_id=request_id
            )
        )

    def cancel_key_import(self, name: str) -> key_import_pb2.KeyImport:
        """Give an import up; one that is closed already stays as it is."""
        return self.call(operations.cancel_key_import(name))

    def get_key_import(self, name: str) -> key_import_pb2.KeyImport:
        """Look an import up."""
        return self.call(operations.get_key_import(name))

    def list_key_imports(self, parent: str) -> Iterator[key_import_pb2.KeyImport]:
        """All imports of a tenant, page by page."""
        for page in self.pages(partial(operations.list_key_imports, parent)):
            yield from page.key_imports

    def list_providers(self, parent: str) -> Sequence[provider_pb2.Provider]:
        """The providers that a tenant may use, and how they are."""
        return self.call(operations.list_providers(parent))

    def get_provider(self, name: str) -> provider_pb2.Provider:
        """Look a provider up."""
        return self.call(operations.get_provider(name))

    def attest(
        self,
        key: str,
        subjects: Sequence[attestation_pb2.Subject],
        predicate_type: str,
        predicate: bytes,
        *,
        certificate: bool = False,
        transient: bool = False,
        request_id: str | None = None,
    ) -> attestation_pb2.AttestResponse:
        """Attest: sign a Statement of subjects and a predicate, and keep it.

        Args:
            key: ``tenants/{tenant}/keys/{key}``, or its ACTIVE version.
            subjects: what it is about: 1 to 10,000; see ``attestation_operations.subject``.
            predicate_type: URI; SLSA provenance is ``attest_slsa``.
            predicate: a JSON object, at most 16 MiB.
            certificate: put a certificate into the bundle instead of a hint at the key.
            transient: do not keep it.
            request_id: of a call that this one repeats.

        Raises:
            ClientError: it was refused, or the gateway did not answer in time.
        """
        return self.call(
            attestation_operations.attest(
                key,
                subjects,
                predicate_type,
                predicate,
                certificate=certificate,
                transient=transient,
                request_id=request_id,
            )
        )

    def attest_slsa(
        self,
        key: str,
        subjects: Sequence[attestation_pb2.Subject],
        report: BuildReport | None = None,
        *,
        certificate: bool = False,
        transient: bool = False,
        request_id: str | None = None,
    ) -> attestation_pb2.AttestResponse:
        """Attest SLSA provenance, which the gateway writes from the caller's token; as ``attest``."""
        return self.call(
            attestation_operations.attest_slsa(
                key, subjects, report, certificate=certificate, transient=transient, request_id=request_id
            )
        )

    def get_attestation(self, name: str) -> attestation_pb2.GetAttestationResponse:
        """Look an attestation up, with its bundle."""
        return self.call(attestation_operations.get_attestation(name))

    def list_attestations(
        self, parent: str, filters: Filters | None = None
    ) -> Iterator[attestation_pb2.AttestationRecord]:
        """A tenant's attestations that fit the filters, newest first, page by page."""
        for page in self.pages(partial(attestation_operations.list_attestations, parent, filters or Filters())):
            yield from page.attestations

    def checkpoint(self, log: str = "logs/transparency") -> log_pb2.GetCheckpointResponse:
        """The newest checkpoint."""
        return self.call(operations.checkpoint(log))

    def inclusion_proof(self, log: str, index: int, tree_size: int = 0) -> log_pb2.GetInclusionProofResponse:
        """Prove that an entry is in a tree; 0 is the newest checkpoint's."""
        return self.call(operations.inclusion_proof(log, index, tree_size))

    def consistency_proof(self, log: str, first: int, second: int = 0) -> log_pb2.GetConsistencyProofResponse:
        """Prove that one tree is a prefix of another; 0 is the newest checkpoint's."""
        return self.call(operations.consistency_proof(log, first, second))

    def entries(self, log: str, start: int = 0, limit: int = 0) -> Iterator[log_pb2.LogEntry]:
        """Entries in order, all within the timeout; not retried.

        Raises:
            ClientError: it was refused, or the gateway did not answer in time.
        """
        for page in self.stream(operations.entries(log, start, limit), within=self._timeout):
            yield from page

    def trust_root(self, parent: str) -> trust_pb2.GetTrustRootResponse:
        """The trust root with a tenant's keys."""
        return self.call(operations.trust_root(parent))

    def evaluate_gate(
        self,
        gate: str,
        subject: attestation_pb2.Subject,
        *,
        children: Sequence[attestation_pb2.Subject] = (),
        environment: str = "",
        bundles: Sequence[bytes] = (),
        image: str = "",
        without_summary: bool = False,
        dry_run: bool = False,
        request_id: str | None = None,
    ) -> gate_pb2.EvaluateResponse:
        """Ask whether an artifact may run; see ``gate_operations.evaluate_gate``. A DENY is an answer, not an error."""
        return self.call(
            gate_operations.evaluate_gate(
                gate,
                subject,
                children=children,
                environment=environment,
                bundles=bundles,
                image=image,
                without_summary=without_summary,
                dry_run=dry_run,
                request_id=request_id,
            )
        )

    def report_gate_decisions(
        self, gate: str, decisions: Sequence[gate_pb2.GateDecision], *, request_id: str | None = None
    ) -> Sequence[str]:
        """Tell of decisions that a gate made while it could not ask; their names."""
        return self.call(gate_operations.report_gate_decisions(gate, decisions, request_id=request_id))

    def get_gate_snapshot(self, gate: str) -> gate_pb2.GetGateSnapshotResponse:
        """What a gate needs to decide by itself."""
        return self.call(gate_operations.get_gate_snapshot(gate))

    def list_gates(self, parent: str) -> Iterator[gate_pb2.GateVersion]:
        """The versions in force of all gates of a tenant, without their texts, page by page."""
        for page in self.pages(partial(gate_operations.list_gates, parent)):
            yield from page.gates

    def get_gate_version(self, name: str) -> gate_pb2.GateVersion:
        """A version of a gate's policy; of a gate's own name the one in force."""
        return self.call(gate_operations.get_gate_version(name))

    def list_gate_versions(self, gate: str) -> Iterator[gate_pb2.GateVersion]:
        """All versions of a gate's policy, newest first, without their texts, page by page."""
        for page in self.pages(partial(gate_operations.list_gate_versions, gate)):
            yield from page.versions

    def update_gate(self, gate: str, text: str, base: int, reason: str = "") -> gate_pb2.GateVersion:
        """Propose another policy of a gate; ``base`` is the version that it was made from, 0 for a new gate.

        Raises:
            ProposedError: it is proposed, and in force when others have approved.
            ClientError: it was refused, or the gateway did not answer in time.
        """
        return self.call(gate_operations.update_gate(gate, text, base, reason))

    def simulate_gate(
        self, gate: str, text: str, *, period: timedelta | None = None, decisions: int = 0, within: float | None = None
    ) -> Iterator[gate_pb2.SimulateGateResponse]:
        """What a draft would decide otherwise of earlier decisions; the last answer has the changes."""
        operation = gate_operations.simulate_gate(gate, text, period=period, decisions=decisions)
        return self.stream(operation, within=within)

    def create_gate_exception(
        self,
        gate: str,
        *,
        digest: str = "",
        pattern: str = "",
        environment: str = "",
        lifetime: timedelta,
        reason: str,
        request_id: str | None = None,
    ) -> gate_pb2.GateException:
        """Let an artifact, by its digest or a pattern of its name, run for a time although the policy refuses it.

        Raises:
            ProposedError: it is proposed, and in force when others have approved.
            ClientError: it was refused, or the gateway did not answer in time.
        """
        return self.call(
            gate_operations.create_gate_exception(
                gate,
                digest=digest,
                pattern=pattern,
                environment=environment,
                lifetime=lifetime,
                reason=reason,
                request_id=request_id,
            )
        )

    def revoke_gate_exception(self, name: str) -> gate_pb2.GateException:
        """End an exception at once."""
        return self.call(gate_operations.revoke_gate_exception(name))

    def list_gate_exceptions(self, gate: str) -> Iterator[gate_pb2.GateException]:
        """All exceptions of a gate, page by page."""
        for page in self.pages(partial(gate_operations.list_gate_exceptions, gate)):
            yield from page.exceptions

    def get_gate_decision(self, name: str) -> gate_pb2.GateDecision:
        """A decision, with what came of each rule."""
        return self.call(gate_operations.get_gate_decision(name))

    def list_gate_decisions(
        self,
        gate: str,
        *,
        subject_digest: str = "",
        environment: str = "",
        outcome: str = "",
        after: datetime | None = None,
        before: datetime | None = None,
    ) -> Iterator[gate_pb2.GateDecision]:
        """A gate's decisions that fit all filters, newest first, without their rules, page by page."""
        filtered = partial(
            gate_operations.list_gate_decisions,
            gate,
            subject_digest=subject_digest,
            environment=environment,
            outcome=outcome,
            after=after,
            before=before,
        )
        for page in self.pages(filtered):
            yield from page.decisions


class AsyncClient:
    """The same for asyncio: ``call`` carries out what ``operations`` makes, the rest are its short forms.

    Args:
        connection: how to reach the gateway.
        timeout: seconds for a call with all its retries, or for a stream from its start to its end.
        retry: when to try again.
        sleep: waits; injected in tests.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        timeout: float = 30.0,
        retry: RetryPolicy | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._tokens = CallTokens(connection.tokens)
        if connection.insecure:
            self._channel = grpc.aio.insecure_channel(connection.endpoint, OPTIONS)
        else:
            credentials = self._tokens.secured(connection.credentials())
            self._channel = grpc.aio.secure_channel(connection.endpoint, credentials, OPTIONS)
        self._stubs = {name: stub(self._channel) for name, stub in _STUBS.items()}
        self._timeout = timeout
        self._retry = retry or RetryPolicy()
        self._sleep = sleep

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the connection."""
        await self._channel.close(None)

    async def call(self, operation: Operation[T]) -> T:
        """Carry out a unary call; as ``Client.call``."""
        deadline, tries, renew = time.monotonic() + self._timeout, 0, self._tokens.renewal()
        method = getattr(self._stubs[operation.service], operation.method)
        while True:
            tries += 1
            try:
                response = await method(operation.request, timeout=max(0.001, deadline - time.monotonic()))
            except grpc.RpcError as raised:
                error = self._tokens.error_of(raised)
                delay = 0.0 if renew(error) else self._retry.delay(error, tries, deadline - time.monotonic())
                if delay is None:
                    raise error from None
                await self._sleep(delay)
            else:
                return operation.check(response)

    async def pages(self, page: Callable[[str, int], Operation[P]]) -> AsyncIterator[P]:
        """Carry out the calls that give a list page by page; as ``Client.pages``."""
        token, more = "", True
        while more:
            found = await self.call(page(token, _PAGE))
            yield found
            token = found.next_page_token
            more = bool(token)

    async def stream(self, operation: Operation[T], *, within: float | None = None) -> AsyncIterator[T]:
        """Carry out a call that is answered with a stream; as ``Client.stream``."""
        renew, begun = self._tokens.renewal(), False
        method, deadline = getattr(self._stubs[operation.service], operation.method), _deadline(within)
        while True:
            call = method(operation.request, timeout=_left(deadline))
            try:
                async for response in call:
                    begun = True
                    yield operation.check(response)
                return  # noqa: TRY300
            except grpc.RpcError as raised:
                error = self._tokens.error_of(raised)
                if begun or not renew(error):
                    raise error from None
            finally:
                call.cancel()

    async def sign(
        self,
        key: str,
        content: signing_pb2.SignContent,
        *,
        certificate: bool = False,
        request_id: str | None = None,
    ) -> signing_pb2.SignResponse:
        """As ``Client.sign``."""
        return await self.call(operations.sign(key, content, certificate=certificate, request_id=request_id))

    async def sign_batch(
        self,
        key: str,
        items: Sequence[signing_pb2.SignContent],
        *,
        certificate: bool = False,
        request_id: str | None = None,
    ) -> signing_pb2.SignBatchResponse:
        """As ``Client.sign_batch``."""
        return await self.call(operations.sign_batch(key, items, certificate=certificate, request_id=request_id))

    async def verify(
        self, bundle: bytes, key: str, *, message: bytes | None = None, digest: tuple[str, bytes] | None = None
    ) -> signing_pb2.VerifyResponse:
        """As ``Client.verify``."""
        return await self.call(operations.verify(bundle, key, message=message, digest=digest))

    async def public_key(self, name: str) -> signing_pb2.GetPublicKeyResponse:
        """As ``Client.public_key``."""
        return await self.call(operations.public_key(name))

    async def create_key(
        self,
        parent: str,
        key_id: str,
        algorithm: str,
        *,
        provider: str = "",
        labels: Mapping[str, str] | None = None,
        request_id: str | None = None,
    ) -> key_pb2.CreateKeyResponse:
        """As ``Client.create_key``."""
        return await self.call(
            operations.create_key(
                parent, key_id, algorithm, provider=provider, labels=labels or {}, request_id=request_id
            )
        )

    async def get_key(self, name: str) -> resources_pb2.Key:
        """As ``Client.get_key``."""
        return await self.call(operations.get_key(name))

    async def list_keys(self, parent: str) -> AsyncIterator[resources_pb2.Key]:
        """As ``Client.list_keys``."""
        async for page in self.pages(partial(operations.list_keys, parent)):
            for one in page.keys:
                yield one

    async def get_key_version(self, name: str) -> resources_pb2.KeyVersion:
        """As ``Client.get_key_version``."""
        return await self.call(operations.get_key_version(name))

    async def list_key_versions(self, parent: str) -> AsyncIterator[resources_pb2.KeyVersion]:
        """As ``Client.list_key_versions``."""
        async for page in self.pages(partial(operations.list_key_versions, parent)):
            for one in page.versions:
                yield one

    async def rotate_key(
        self, name: str, *, publish_period: timedelta | None = None, request_id: str | None = None
    ) -> key_pb2.RotateKeyResponse:
        """As ``Client.rotate_key``."""
        return await self.call(operations.rotate_key(name, publish_period=publish_period, request_id=request_id))

    async def set_key_version_state(
        self,
        name: str,
        state: str,
        *,
        compromise_time: datetime | None = None,
        destroy_delay: timedelta | None = None,
        etag: str = "",
        request_id: str | None = None,
    ) -> resources_pb2.KeyVersion:
        """As ``Client.set_key_version_state``."""
        return await self.call(
            operations.set_key_version_state(
                name,
                state,
                compromise_time=compromise_time,
                destroy_delay=destroy_delay,
                etag=etag,
                request_id=request_id,
            )
        )

    async def add_standby_version(
        self,
        name: str,
        provider: str,
        *,
        failover: str = "AUTOMATIC",
        publish_period: timedelta | None = None,
        request_id: str | None = None,
    ) -> key_pb2.AddStandbyVersionResponse:
        """As ``Client.add_standby_version``."""
        return await self.call(
            operations.add_standby_version(
                name, provider, failover=failover, publish_period=publish_period, request_id=request_id
            )
        )

    async def get_key_evidence(self, name: str) -> resources_pb2.KeyEvidence:
        """As ``Client.get_key_evidence``."""
        return await self.call(operations.get_key_evidence(name))

    async def get_key_ceremony(self, name: str) -> key_pb2.GetKeyCeremonyResponse:
        """As ``Client.get_key_ceremony``."""
        return await self.call(operations.get_key_ceremony(name))

    async def begin_key_import(
        self,
        parent: str,
        key_id: str,
        *,
        algorithm: str = "",
        provider: str = "",
        standby: bool = False,
        labels: Mapping[str, str] | None = None,
        request_id: str | None = None,
    ) -> key_import_pb2.KeyImport:
        """As ``Client.begin_key_import``."""
        return await self.call(
            operations.begin_key_import(
                parent,
                key_id,
                algorithm=algorithm,
                provider=provider,
                standby=standby,
                labels=labels or {},
                request_id=request_id,
            )
        )

    async def finish_key_import(
        self,
        name: str,
        wrap_method: str,
        wrapped_key: bytes,
        public_key: bytes,
        *,
        publish_period: timedelta | None = None,
        request_id: str | None = None,
    ) -> key_import_pb2.FinishKeyImportResponse:
        """As ``Client.finish_key_import``."""
        return await self.call(
            operations.finish_key_import(
                name, wrap_method, wrapped_key, public_key, publish_period=publish_period, request_id=request_id
            )
        )

    async def cancel_key_import(self, name: str) -> key_import_pb2.KeyImport:
        """As ``Client.cancel_key_import``."""
        return await self.call(operations.cancel_key_import(name))

    async def get_key_import(self, name: str) -> key_import_pb2.KeyImport:
        """As ``Client.get_key_import``."""
        return await self.call(operations.get_key_import(name))

    async def list_key_imports(self, parent: str) -> AsyncIterator[key_import_pb2.KeyImport]:
        """As ``Client.list_key_imports``."""
        async for page in self.pages(partial(operations.list_key_imports, parent)):
            for one in page.key_imports:
                yield one

    async def list_providers(self, parent: str) -> Sequence[provider_pb2.Provider]:
        """As ``Client.list_providers``."""
        return await self.call(operations.list_providers(parent))

    async def get_provider(self, name: str) -> provider_pb2.Provider:
        """As ``Client.get_provider``."""
        return await self.call(operations.get_provider(name))

    async def attest(
        self,
        key: str,
        subjects: Sequence[attestation_pb2.Subject],
        predicate_type: str,
        predicate: bytes,
        *,
        certificate: bool = False,
        transient: bool = False,
        request_id: str | None = None,
    ) -> attestation_pb2.AttestResponse:
        """As ``Client.attest``."""
        return await self.call(
            attestation_operations.attest(
                key,
                subjects,
                predicate_type,
                predicate,
                certificate=certificate,
                transient=transient,
                request_id=request_id,
            )
        )

    async def attest_slsa(
        self,
        key: str,
        subjects: Sequence[attestation_pb2.Subject],
        report: BuildReport | None = None,
        *,
        certificate: bool = False,
        transient: bool = False,
        request_id: str | None = None,
    ) -> attestation_pb2.AttestResponse:
        """As ``Client.attest_slsa``."""
        return await self.call(
            attestation_operations.attest_slsa(
                key, subjects, report, certificate=certificate, transient=transient, request_id=request_id
            )
        )

    async def get_attestation(self, name: str) -> attestation_pb2.GetAttestationResponse:
        """As ``Client.get_attestation``."""
        return await self.call(attestation_operations.get_attestation(name))

    async def list_attestations(
        self, parent: str, filters: Filters | None = None
    ) -> AsyncIterator[attestation_pb2.AttestationRecord]:
        """As ``Client.list_attestations``."""
        async for page in self.pages(partial(attestation_operations.list_attestations, parent, filters or Filters())):
            for one in page.attestations:
                yield one

    async def checkpoint(self, log: str = "logs/transparency") -> log_pb2.GetCheckpointResponse:
        """As ``Client.checkpoint``."""
        return await self.call(operations.checkpoint(log))

    async def inclusion_proof(self, log: str, index: int, tree_size: int = 0) -> log_pb2.GetInclusionProofResponse:
        """As ``Client.inclusion_proof``."""
        return await self.call(operations.inclusion_proof(log, index, tree_size))

    async def consistency_proof(self, log: str, first: int, second: int = 0) -> log_pb2.GetConsistencyProofResponse:
        """As ``Client.consistency_proof``."""
        return await self.call(operations.consistency_proof(log, first, second))

    async def entries(self, log: str, start: int = 0, limit: int = 0) -> AsyncIterator[log_pb2.LogEntry]:
        """As ``Client.entries``."""
        async for page in self.stream(operations.entries(log, start, limit), within=self._timeout):
            for one in page:
                yield one

    async def trust_root(self, parent: str) -> trust_pb2.GetTrustRootResponse:
        """As ``Client.trust_root``."""
        return await self.call(operations.trust_root(parent))

    async def evaluate_gate(
        self,
        gate: str,
        subject: attestation_pb2.Subject,
        *,
        children: Sequence[attestation_pb2.Subject] = (),
        environment: str = "",
        bundles: Sequence[bytes] = (),
        image: str = "",
        without_summary: bool = False,
        dry_run: bool = False,
        request_id: str | None = None,
    ) -> gate_pb2.EvaluateResponse:
        """As ``Client.evaluate_gate``."""
        return await self.call(
            gate_operations.evaluate_gate(
                gate,
                subject,
                children=children,
                environment=environment,
                bundles=bundles,
                image=image,
                without_summary=without_summary,
                dry_run=dry_run,
                request_id=request_id,
            )
        )

    async def report_gate_decisions(
        self, gate: str, decisions: Sequence[gate_pb2.GateDecision], *, request_id: str | None = None
    ) -> Sequence[str]:
        """As ``Client.report_gate_decisions``."""
        return await self.call(gate_operations.report_gate_decisions(gate, decisions, request_id=request_id))

    async def get_gate_snapshot(self, gate: str) -> gate_pb2.GetGateSnapshotResponse:
        """As ``Client.get_gate_snapshot``."""
        return await self.call(gate_operations.get_gate_snapshot(gate))

    async def list_gates(self, parent: str) -> AsyncIterator[gate_pb2.GateVersion]:
        """As ``Client.list_gates``."""
        async for page in self.pages(partial(gate_operations.list_gates, parent)):
            for one in page.gates:
                yield one

    async def get_gate_version(self, name: str) -> gate_pb2.GateVersion:
        """As ``Client.get_gate_version``."""
        return await self.call(gate_operations.get_gate_version(name))

    async def list_gate_versions(self, gate: str) -> AsyncIterator[gate_pb2.GateVersion]:
        """As ``Client.list_gate_versions``."""
        async for page in self.pages(partial(gate_operations.list_gate_versions, gate)):
            for one in page.versions:
                yield one

    async def update_gate(self, gate: str, text: str, base: int, reason: str = "") -> gate_pb2.GateVersion:
        """As ``Client.update_gate``."""
        return await self.call(gate_operations.update_gate(gate, text, base, reason))

    async def simulate_gate(
        self, gate: str, text: str, *, period: timedelta | None = None, decisions: int = 0, within: float | None = None
    ) -> AsyncIterator[gate_pb2.SimulateGateResponse]:
        """As ``Client.simulate_gate``."""
        operation = gate_operations.simulate_gate(gate, text, period=period, decisions=decisions)
        async for one in self.stream(operation, within=within):
            yield one

    async def create_gate_exception(
        self,
        gate: str,
        *,
        digest: str = "",
        pattern: str = "",
        environment: str = "",
        lifetime: timedelta,
        reason: str,
        request_id: str | None = None,
    ) -> gate_pb2.GateException:
        """As ``Client.create_gate_exception``."""
        return await self.call(
            gate_operations.create_gate_exception(
                gate,
                digest=digest,
                pattern=pattern,
                environment=environment,
                lifetime=lifetime,
                reason=reason,
                request_id=request_id,
            )
        )

    async def revoke_gate_exception(self, name: str) -> gate_pb2.GateException:
        """As ``Client.revoke_gate_exception``."""
        return await self.call(gate_operations.revoke_gate_exception(name))

    async def list_gate_exceptions(self, gate: str) -> AsyncIterator[gate_pb2.GateException]:
        """As ``Client.list_gate_exceptions``."""
        async for page in self.pages(partial(gate_operations.list_gate_exceptions, gate)):
            for one in page.exceptions:
                yield one

    async def get_gate_decision(self, name: str) -> gate_pb2.GateDecision:
        """As ``Client.get_gate_decision``."""
        return await self.call(gate_operations.get_gate_decision(name))

    async def list_gate_decisions(
        self,
        gate: str,
        *,
        subject_digest: str = "",
        environment: str = "",
        outcome: str = "",
        after: datetime | None = None,
        before: datetime | None = None,
    ) -> AsyncIterator[gate_pb2.GateDecision]:
        """As ``Client.list_gate_decisions``."""
        filtered = partial(
            gate_operations.list_gate_decisions,
            gate,
            subject_digest=subject_digest,
            environment=environment,
            outcome=outcome,
            after=after,
            before=before,
        )
        async for page in self.pages(filtered):
            for one in page.decisions:
                yield one


def _deadline(seconds: float | None) -> float | None:
    return None if seconds is None else time.monotonic() + seconds


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.001, deadline - time.monotonic())
