"""Offline verification of a bundle, step by step.

>>> result = verify(
...     Path("app.whl.sigstore.json").read_bytes(),
...     Artifact.from_path(Path("app.whl")),
...     TrustRoot.from_directory(Path("trust")),
...     Policy(key="tenants/acme/keys/release"),
... )  # doctest: +SKIP
>>> result.require()  # doctest: +SKIP
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from typing import Any

import rfc8785

from sealkeeper.verify.algorithms import Algorithm, PublicKey, signature_verifies
from sealkeeper.verify.artifact import Artifact
from sealkeeper.verify.bundle import Bundle, DsseEnvelope, LogEntry, parse_bundle
from sealkeeper.verify.certificate import (
    SignerCertificate,
    parse_signer_certificate,
    verify_certificate_timestamp,
    verify_chain,
)
from sealkeeper.verify.dsse import pae
from sealkeeper.verify.errors import PolicyError, StepFailedError, VerifyError
from sealkeeper.verify.merkle import leaf_hash, verify_inclusion
from sealkeeper.verify.note import parse_checkpoint, parse_signed_note
from sealkeeper.verify.steps import Step, take_steps
from sealkeeper.verify.timestamp import verify_timestamp
from sealkeeper.verify.trust import TenantKey, TransparencyLog, TrustRoot

_KEY = re.compile(r"tenants/[a-z0-9-]{1,63}/keys/[a-z0-9-]{1,63}(/versions/[1-9][0-9]{0,8})?")


@dataclass(frozen=True, slots=True)
class Policy:
    """Who must have signed.

    Attributes:
        key: ``tenants/{tenant}/keys/{key}`` for any of its versions, or one version's name. A certificate matches where
            it names that key at the gateway of ``keys.json``, and ``keys.json`` lists its public key under that name.
        identity: a certificate's subject alternative name, exactly.
        issuer: that vouches for the identity, exactly.
        any_signer: whoever the trust root vouches for; see ``any_trusted``.

    Raises:
        PolicyError: nothing is pinned, or what is pinned makes no sense.
    """

    key: str | None = None
    identity: str | None = None
    issuer: str | None = None
    any_signer: bool = False

    def __post_init__(self) -> None:
        if self.any_signer == (self.key is not None or self.identity is not None):
            raise PolicyError("a policy pins a key, or an identity and its issuer, or is Policy.any_trusted()")
        if self.key is not None and not _KEY.fullmatch(self.key):
            raise PolicyError("the key must be tenants/{tenant}/keys/{key} or .../versions/{version}")
        if (self.identity is None) != (self.issuer is None):
            raise PolicyError("an identity is pinned together with its issuer")

    @classmethod
    def any_trusted(cls) -> Policy:
        """Accept every signer of the trust root: for looking at bundles, not for gates."""
        return cls(any_signer=True)


@dataclass(frozen=True, slots=True)
class VerificationResult:
    """What came out.

    Attributes:
        verified: every step passed.
        steps: in order; the last one failed where ``verified`` is False.
        time: of the signature, as its timestamp has it.
        key_name: of the key version; empty for a certificate of a key that ``keys.json`` does not list and need not.
        identity: that the certificate names; empty for a key bundle.
        issuer: of the identity.
        log_origin: name of the transparency log.
        log_index: of the entry there.
        digest: algorithm and value of the artifact's digest, or of the DSSE encoding's.
        payload_type: of the DSSE envelope; empty where there is none.
        payload: of the DSSE envelope. Not to be looked at unless ``verified``.
    """

    verified: bool = False
    steps: tuple[Step, ...] = ()
    time: datetime | None = None
    key_name: str = ""
    identity: str = ""
    issuer: str = ""
    log_origin: str = ""
    log_index: int | None = None
    digest: tuple[str, bytes] | None = None
    payload_type: str = ""
    payload: bytes = field(default=b"", repr=False)

    def require(self) -> VerificationResult:
        """Return itself.

        Raises:
            StepFailedError: a step failed.
        """
        if not self.verified:
            raise StepFailedError(self.steps[-1].name, self.steps[-1].detail)
        return self


def verify(bundle: bytes | Bundle, artifact: Artifact | None, trust: TrustRoot, policy: Policy) -> VerificationResult:
    """Verify a bundle. A bad bundle is an answer, never an exception.

    Args:
        bundle: its JSON, or parsed.
        artifact: what it should be a signature of; ``None`` for a DSSE envelope, whose payload is inside.
        trust: what is trusted.
        policy: who must have signed.

    Raises:
        OSError: the artifact's file cannot be read.
    """
    run = _Verification(artifact, trust, policy)
    steps = take_steps(run.steps(bundle))
    return replace(run.result, verified=steps[-1].passed, steps=steps)


class _Verification:
    """The steps of one verification, and what they have found so far."""

    def __init__(self, artifact: Artifact | None, trust: TrustRoot, policy: Policy) -> None:
        self.result = VerificationResult()
        self._artifact = artifact
        self._trust = trust
        self._policy = policy
        self._bundle: Bundle
        self._certificate: SignerCertificate | None = None
        self._tenant_key: TenantKey | None = None
        self._key: PublicKey
        self._spki: bytes
        self._algorithm: Algorithm
        self._message: bytes | None = None
        self._digest: bytes
        self._time: datetime
        self._issuer: Any = None
        self._entries: list[tuple[LogEntry, TransparencyLog]] = []

    def steps(self, bundle: bytes | Bundle) -> Iterator[tuple[str, Callable[[], str]]]:
        """Each step's stable name and what it does; later ones rely on what earlier ones have found."""
        yield "bundle", lambda: self._parse(bundle)
        yield "material", self._find_key
        yield "content", self._compare_content
        yield "signature", self._check_signature
        yield "timestamp", self._check_timestamp
        if self._certificate is not None:
            certificate = self._certificate
            yield "certificate-chain", lambda: self._check_chain(certificate)
            yield "certificate-timestamp", lambda: self._check_certificate_timestamp(certificate)
            yield "identity", lambda: self._check_identity(certificate)
        else:
            yield "key-policy", self._check_key_policy
        if self._tenant_key is not None or self._certified_key() is not None:
            yield "key-state", self._check_key_state
        yield "log-entry", self._check_entries
        yield "checkpoint", self._check_checkpoints
        yield "inclusion-proof", self._check_inclusion

    def _parse(self, bundle: bytes | Bundle) -> str:
        self._bundle = bundle if isinstance(bundle, Bundle) else parse_bundle(bundle)
        return "Sigstore bundle v0.3"

    def _find_key(self) -> str:
        if self._bundle.certificate is not None:
            return self._use_certificate(parse_signer_certificate(self._bundle.certificate))
        key = self._trust.tenant_keys.get(self._bundle.hint or "")
        if key is None:
            raise VerifyError(
                f"the trust root has no key with the hint {self._bundle.hint!r}; is keys.json up to date?"
            )
        self._tenant_key, self._key, self._spki, self._algorithm = key, key.key, key.spki, key.algorithm
        self.result = replace(self.result, key_name=key.name)
        return f"{key.name}, {key.algorithm.name}"

    def _use_certificate(self, certificate: SignerCertificate) -> str:
        self._certificate, self._key, self._spki = certificate, certificate.key, certificate.spki
        self._tenant_key = self._trust.tenant_keys.get(_base64(sha256(self._spki).digest()))
        # RSA keys fit two algorithms; the signature tells them apart.
        known = self._tenant_key.algorithm if self._tenant_key is not None else None
        self._algorithm = known or certificate.algorithms[0]
        self.result = replace(
            self.result,
            key_name=self._tenant_key.name if self._tenant_key is not None else "",
            identity=certificate.identity,
            issuer=certificate.issuer,
        )
        return f"certificate of {certificate.identity}"

    def _compare_content(self) -> str:
        content = self._bundle.content
        if isinstance(content, DsseEnvelope):
            return self._use_envelope(content)
        if self._artifact is None:
            raise VerifyError("the bundle is a signature of an artifact; none was given")
        if not self._algorithm.signs_digest:
            self._message = self._artifact.message()
        self._digest = self._artifact.digest(self._algorithm.digest)
        claimed = content.digest
        if claimed is not None and self._artifact.digest(claimed.algorithm) != claimed.digest:
            raise VerifyError("the artifact's digest is not the one in the bundle: this is another artifact")
        self.result = replace(self.result, digest=(self._algorithm.digest, self._digest))
        return f"{self._algorithm.digest} {self._digest.hex()}"

    def _use_envelope(self, envelope: DsseEnvelope) -> str:
        if self._bundle.hint is not None and envelope.key_id not in ("", self._bundle.hint):
            raise VerifyError("the DSSE envelope's keyid is not the bundle's hint")
        if self._artifact is not None and self._artifact.message() != envelope.payload:
            raise VerifyError("the artifact given is not the DSSE envelope's payload")
        self._message = pae(envelope.payload_type, envelope.payload)
        self._digest = Artifact.from_bytes(self._message).digest(self._algorithm.digest)
        self.result = replace(
            self.result,
            digest=(self._algorithm.digest, self._digest),
            payload_type=envelope.payload_type,
            payload=envelope.payload,
        )
        return f"DSSE envelope of {len(envelope.payload)} bytes, {envelope.payload_type}"

    def _check_signature(self) -> str:
        candidates = [self._algorithm]
        if self._certificate is not None and self._tenant_key is None:
            candidates = list(self._certificate.algorithms)
        for one in candidates:
            payload = self._digest if one.signs_digest else self._message
            if payload is not None and signature_verifies(one, self._key, payload, self._bundle.signature):
                self._algorithm = one
                return f"{one.name}"
        raise VerifyError("the signature does not fit the key and the content")

    def _check_timestamp(self) -> str:
        if not self._bundle.timestamps:
            raise VerifyError("the bundle has no timestamp")
        times, problem = [], ""
        for one in self._bundle.timestamps:
            try:
                times.append(verify_timestamp(one, self._bundle.signature, self._trust.timestamp_authorities))
            except VerifyError as error:
                problem = str(error)
        if not times:
            raise VerifyError(problem)
        # The signature existed at each of them, so it was made by the first.
        self._time = min(times)
        self.result = replace(self.result, time=self._time)
        return f"signed by {self._time.isoformat()}"

    def _check_chain(self, certificate: SignerCertificate) -> str:
        self._issuer = verify_chain(certificate, self._trust.certificate_authorities, self._time)
        return f"issued by {self._issuer.subject.rfc4514_string()}"

    def _check_certificate_timestamp(self, certificate: SignerCertificate) -> str:
        moment = verify_certificate_timestamp(certificate, self._issuer, self._trust.ct_logs)
        return f"promised to be logged at {moment.isoformat()}"

    def _check_identity(self, certificate: SignerCertificate) -> str:
        policy = self._policy
        if policy.identity is not None:
            _require_equal("identity", certificate.identity, policy.identity)
            _require_equal("issuer", certificate.issuer, policy.issuer or "")
        if policy.key is not None:
            self._check_certified_key(certificate, policy.key)
        return f"{certificate.identity}, issuer {certificate.issuer or 'not named'}"

    def _check_certified_key(self, certificate: SignerCertificate, wanted: str) -> None:
        if not self._trust.gateway:
            raise VerifyError("to match a certificate with a key, the trust root needs keys.json")
        base, _, version = wanted.partition("/versions/")
        gateway = f"https://{self._trust.gateway}"
        _require_equal("identity", certificate.identity, f"{gateway}/{base}")
        _require_equal("issuer", certificate.issuer, gateway)
        # One that is not listed at all fails for its state.
        if version and self.result.key_name not in ("", wanted):
            raise VerifyError(f"the certificate's key is {self.result.key_name}, not {wanted}")

    def _certified_key(self) -> str | None:
        """The key that the certificate names, where ``keys.json`` has to list it; ``None`` where it need not.

        It has to where the policy asks for a key, and for every key of the tenant whose keys it holds: it holds all of
        them, so leaving one out says that it is not to be trusted. Of other tenants, of other gateways and of signers
        that are no keys it says nothing, nor does a trust root without it say anything of a key's state.
        """
        if self._certificate is None or not self._trust.gateway:
            return None
        gateway = f"https://{self._trust.gateway}/"
        name = self._certificate.identity.removeprefix(gateway)
        if name == self._certificate.identity:
            return None
        return name if self._policy.key is not None or name.startswith(f"tenants/{self._trust.tenant}/") else None

    def _check_key_policy(self) -> str:
        key, policy = self._tenant_key, self._policy
        if key is None or policy.identity is not None:
            raise VerifyError("the policy asks for an identity; the bundle has a key, not a certificate")
        if policy.key is not None and policy.key not in (key.name, key.key_name):
            raise VerifyError(f"signed by {key.name}; the policy asks for {policy.key}")
        return key.name

    def _check_key_state(self) -> str:
        key, certified = self._tenant_key, self._certified_key()
        if key is None:
            raise VerifyError(
                f"the certificate's key is not among those of {certified} in keys.json, which is of "
                f"{self._trust.issued_at}: fetch a newer trust root; if it is not in there, do not trust it"
            )
        if certified not in (None, key.key_name):
            raise VerifyError(f"the certificate names {certified}; its key is {key.name}")
        refusal = key.refusal_at(self._time)
        if refusal is not None:
            raise VerifyError(refusal)
        return f"{key.state}, valid at {self._time.isoformat()}"

    def _check_entries(self) -> str:
        logs = self._trust.logs
        self._entries = [(one, logs[one.log_id]) for one in self._bundle.entries if one.log_id in logs]
        if not self._entries:
            raise VerifyError("the bundle has no entry of a trusted log")
        for entry, log in self._entries:
            self._check_entry(entry)
            if not log.validity.covers(self._time):
                raise VerifyError(f"the log {log.origin} is trusted from {log.validity} only")
        entry, log = self._entries[0]
        self.result = replace(self.result, log_origin=log.origin, log_index=entry.log_index)
        return f"entry {entry.log_index} of {log.origin}"

    def _check_entry(self, entry: LogEntry) -> None:
        if (entry.kind, entry.version) != ("hashedrekord", "0.0.2"):
            raise VerifyError(f"entries are hashedrekord 0.0.2, not {entry.kind!r} {entry.version!r}")
        if entry.log_index != entry.proof_index:
            raise VerifyError("the entry's index and that of its inclusion proof differ")
        expected = self._expected_entry()
        # One byte string is right: no parser's leniency, no second reading.
        if entry.body != rfc8785.dumps(expected):
            raise VerifyError(_difference(expected, entry.body))

    def _expected_entry(self) -> dict[str, Any]:
        verifier: dict[str, Any]
        if self._certificate is not None:
            verifier = {"x509Certificate": {"rawBytes": _base64(self._certificate.der)}}
        else:
            verifier = {"publicKey": {"rawBytes": _base64(self._spki)}}
        verifier["keyDetails"] = self._algorithm.name
        record = {
            "data": {"algorithm": self._algorithm.digest, "digest": _base64(self._digest)},
            "signature": {"content": _base64(self._bundle.signature), "verifier": verifier},
        }
        return {"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": {"hashedRekordV002": record}}

    def _check_checkpoints(self) -> str:
        for entry, log in self._entries:
            note = parse_signed_note(entry.checkpoint)
            log.verifier.verify(note)
            checkpoint = parse_checkpoint(note.text)
            if checkpoint.origin != log.origin:
                raise VerifyError("the checkpoint is of another log")
            if (checkpoint.size, checkpoint.root_hash) != (entry.tree_size, entry.root_hash):
                raise VerifyError("the checkpoint is of another tree than the inclusion proof")
        entry, log = self._entries[0]
        return f"{log.origin} at size {entry.tree_size}"

    def _check_inclusion(self) -> str:
        for entry, _ in self._entries:
            verify_inclusion(leaf_hash(entry.body), entry.log_index, entry.tree_size, entry.hashes, entry.root_hash)
        entry, _ = self._entries[0]
        return f"entry {entry.log_index} is in the tree of {entry.tree_size}"


def _require_equal(what: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise VerifyError(f"the certificate's {what} is {found!r}; the policy asks for {wanted!r}")


def _difference(expected: dict[str, Any], body: bytes) -> str:
    try:
        found = json.loads(body)["spec"]["hashedRekordV002"]
        wanted = expected["spec"]["hashedRekordV002"]
        if found["data"] != wanted["data"]:
            return "the log entry is of another digest"
        if found["signature"]["content"] != wanted["signature"]["content"]:
            return "the log entry is of another signature"
        if found["signature"]["verifier"] != wanted["signature"]["verifier"]:
            return "the log entry names another key, certificate or algorithm"
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    return "the log entry is not the canonical form of a hashedrekord 0.0.2"


def _base64(data: bytes) -> str:
    return b64encode(data).decode()
