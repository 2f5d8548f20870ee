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

import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from types import MappingProxyType
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from sealkeeper.verify.algorithms import Algorithm, PublicKey, fitting_algorithms, require_key, signature_verifies
from sealkeeper.verify.artifact import Artifact, ArtifactError
from sealkeeper.verify.bundle import Bundle, DsseEnvelope, LogEntry, MessageSignature, parse_bundle
from sealkeeper.verify.certificate import (
    SignerCertificate,
    parse_signer_certificate,
    verify_certificate_timestamp,
    verify_chain,
)
from sealkeeper.verify.dsse import pae
from sealkeeper.verify.entry_body import Signed, require_body
from sealkeeper.verify.errors import PolicyError, StatementError, StepFailedError, VerifyError
from sealkeeper.verify.log_entry import verify_checkpoint, verify_promise, verify_proof
from sealkeeper.verify.statement import PAYLOAD_TYPE, Subject, parse_statement
from sealkeeper.verify.steps import Step, take_steps
from sealkeeper.verify.timestamp import UntrustedTimestampError, verify_timestamp
from sealkeeper.verify.trust import TenantKey, TransparencyLog, TrustRoot

_DIGESTS = {"sha256": "SHA2_256", "sha384": "SHA2_384", "sha512": "SHA2_512"}
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
        public_key: the key of a bundle that has a key, not a certificate: PEM, or SubjectPublicKeyInfo in DER, which it
            is kept as. A key of other instances is pinned so, whatever the bundle's hint at it says.

    Raises:
        PolicyError: nothing is pinned, or what is pinned makes no sense.
    """

    key: str | None = None
    identity: str | None = None
    issuer: str | None = None
    any_signer: bool = False
    public_key: bytes | None = None

    def __post_init__(self) -> None:
        pins = (self.key is not None or self.identity is not None, self.any_signer, self.public_key is not None)
        if sum(pins) != 1:
            raise PolicyError(
                "a policy pins a key, or a public key, or an identity and its issuer, or is Policy.any_trusted()"
            )
        if self.public_key is not None:
            object.__setattr__(self, "public_key", _spki(self.public_key))
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
        time: of the signature: the first that a trusted authority or log vouches for.
        key_name: of the key version; empty for a certificate of a key that ``keys.json`` does not list and need not.
        identity: that the certificate names; empty for a key bundle.
        issuer: of the identity.
        log_origin: name of the transparency log.
        log_index: of the entry there, over all of the log's shards where the log vouches for that.
        digest: algorithm and value of the artifact's digest, or of the DSSE encoding's.
        payload_type: of the DSSE envelope; empty where there is none.
        payload: of the DSSE envelope. Not to be looked at unless ``verified``.
        claims: what the certificate says beside its identity, by name; see ``claims.CLAIMS``.
        material: what the bundle has of its signer: ``key`` or ``certificate``.
        key_details: name of the signature's algorithm in ``PublicKeyDetails``.
        public_key: that verifies the signature, SubjectPublicKeyInfo DER.
        bundle_version: of the bundle's format: ``0.1``, ``0.2`` or ``0.3``.
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
    claims: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    material: str = ""
    key_details: str = ""
    public_key: bytes = field(default=b"", repr=False)
    bundle_version: str = ""

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
        artifact: what it should be a signature of. Of an in-toto Statement it must be one of the subjects, or the
            Statement itself; ``None`` for a DSSE envelope of whatever, whose payload is inside.
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
        # That the key fits; the signature tells which it is.
        self._algorithms: tuple[Algorithm, ...]
        self._content: Artifact
        self._signed: Signed
        self._times: list[datetime] = []
        self._issuer: Any = None
        self._entries: list[tuple[LogEntry, TransparencyLog]] = []
        self._promised: dict[int, datetime | None] = {}

    @property
    def _time(self) -> datetime:
        # The signature existed at each of them, so it was made by the first.
        return min(self._times)

    def steps(self, bundle: bytes | Bundle) -> Iterator[tuple[str, Callable[[], str]]]:
        """Each step's stable name and what it does; later ones rely on what earlier ones have found."""
        yield "bundle", lambda: self._parse(bundle)
        yield "material", self._find_key
        yield "content", self._compare_content
        yield "signature", self._check_signature
        if any(entry.promise is not None for entry, _ in self._entries):
            yield "inclusion-promise", self._check_promises
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
        if any(entry.proof is not None for entry, _ in self._entries):
            yield "checkpoint", self._check_checkpoints
            yield "inclusion-proof", self._check_inclusion

    def _parse(self, bundle: bytes | Bundle) -> str:
        self._bundle = bundle if isinstance(bundle, Bundle) else parse_bundle(bundle)
        logs = self._trust.logs
        self._entries = [(one, logs[one.log_id]) for one in self._bundle.entries if one.log_id in logs]
        material = "certificate" if self._bundle.certificate is not None else "key"
        self.result = replace(self.result, bundle_version=self._bundle.version, material=material)
        return f"Sigstore bundle v{self._bundle.version}"

    def _find_key(self) -> str:
        if self._bundle.certificate is not None:
            return self._use_certificate(parse_signer_certificate(self._bundle.certificate))
        key, pinned = self._trust.tenant_keys.get(self._bundle.hint or ""), self._policy.public_key
        if key is None and pinned is not None:
            # What is known of the pinned key counts, whatever the hint says.
            key = self._trust.tenant_keys.get(_base64(sha256(pinned).digest()))
        if key is not None:
            self._tenant_key, self._algorithms = key, (key.algorithm,)
            self._use_key(key.key, key.spki)
            self.result = replace(self.result, key_name=key.name)
            return f"{key.name}, {key.algorithm.name}"
        if pinned is None:
            raise VerifyError(
                f"the trust root has no key with the hint {self._bundle.hint!r}; is keys.json up to date? "
                "A key of another instance is pinned as a public key"
            )
        found = load_der_public_key(pinned)
        self._algorithms = fitting_algorithms(found)
        self._use_key(require_key(self._algorithms[0], found), pinned)
        return f"the public key that the policy pins, SHA-256 {sha256(pinned).hexdigest()}"

    def _use_key(self, key: PublicKey, spki: bytes) -> None:
        self._key, self._spki = key, spki
        self.result = replace(self.result, public_key=spki)

    def _use_certificate(self, certificate: SignerCertificate) -> str:
        self._certificate = certificate
        self._use_key(certificate.key, certificate.spki)
        self._tenant_key = self._trust.tenant_keys.get(_base64(sha256(self._spki).digest()))
        known = self._tenant_key
        self._algorithms = (known.algorithm,) if known is not None else certificate.algorithms
        self.result = replace(
            self.result,
            key_name=known.name if known is not None else "",
            identity=certificate.identity,
            issuer=certificate.issuer,
            claims=certificate.claims,
        )
        return f"certificate of {certificate.identity}"

    def _compare_content(self) -> str:
        content = self._bundle.content
        if isinstance(content, DsseEnvelope):
            return self._compare_envelope(content)
        return self._compare_message(content)

    def _compare_message(self, content: MessageSignature) -> str:
        if self._artifact is None:
            raise VerifyError("the bundle is a signature of an artifact; none was given")
        self._use_content(self._artifact)
        claimed = content.digest
        if claimed is not None and self._artifact.digest(claimed.algorithm) != claimed.digest:
            raise VerifyError("the artifact's digest is not the one in the bundle: this is another artifact")
        algorithm, digest = self.result.digest or ("", b"")
        return f"{algorithm} {digest.hex()}"

    def _compare_envelope(self, envelope: DsseEnvelope) -> str:
        if self._bundle.hint is not None and envelope.key_id not in ("", self._bundle.hint):
            raise VerifyError("the DSSE envelope's keyid is not the bundle's hint")
        about = _require_about(self._artifact, envelope) if self._artifact is not None else ""
        self._use_content(Artifact.from_bytes(pae(envelope.payload_type, envelope.payload)))
        self.result = replace(self.result, payload_type=envelope.payload_type, payload=envelope.payload)
        return f"DSSE envelope of {len(envelope.payload)} bytes, {envelope.payload_type}{about}"

    def _use_content(self, signed: Artifact) -> None:
        """Keep what was signed, and the algorithms from the first on that there is enough of it for."""
        self._content, problem = signed, None
        for place, one in enumerate(self._algorithms):
            try:
                _payload(signed, one)
            except ArtifactError as error:
                problem = problem or error
                continue
            self._algorithms = self._algorithms[place:]
            self.result = replace(self.result, digest=(one.digest, signed.digest(one.digest)))
            return
        raise problem or VerifyError("the key fits no algorithm")

    def _check_signature(self) -> str:
        for one in self._algorithms:
            try:
                payload, digest = _payload(self._content, one), self._content.digest(one.digest)
            except ArtifactError:
                continue
            if signature_verifies(one, self._key, payload, self._bundle.signature):
                self._signed = Signed(self._bundle.content, one, digest, self._bundle.certificate, self._spki)
                self.result = replace(self.result, digest=(one.digest, digest), key_details=one.name)
                return one.name
        raise VerifyError("the signature does not fit the key and the content")

    def _check_promises(self) -> str:
        for place, (entry, log) in enumerate(self._entries):
            if entry.promise is not None:
                self._promised[place] = verify_promise(entry, entry.promise, log)
        self._times += [one for one in self._promised.values() if one is not None]
        names = ", ".join(self._entries[place][1].origin for place in self._promised)
        return f"promised by {names}" + (f" at {self._times[0].isoformat()}" if self._times else "")

    def _check_timestamp(self) -> str:
        stamps, problem = self._bundle.timestamps, "the bundle has no timestamp, nor a time that a trusted log promises"
        if len(set(stamps)) != len(stamps):
            raise VerifyError("the bundle has the same timestamp twice")
        for one in stamps:
            try:
                moment = verify_timestamp(one, self._bundle.signature, self._trust.timestamp_authorities)
            except UntrustedTimestampError as error:
                # One for other verifiers, who trust another authority.
                problem = str(error)
                continue
            self._times.append(moment)
        if not self._times:
            strange = self._bundle.entries and not self._entries
            raise VerifyError(f"{problem}; none of its entries is of a trusted log" if strange else problem)
        self.result = replace(self.result, time=self._time)
        return f"signed by {self._time.isoformat()}"

    def _check_chain(self, certificate: SignerCertificate) -> str:
        # The certificate has to be valid at each of the times, not only at one of them.
        for moment in sorted(set(self._times)):
            self._issuer = verify_chain(certificate, self._trust.certificate_authorities, moment)
        return f"issued by {self._issuer.subject.rfc4514_string()}"

    def _check_certificate_timestamp(self, certificate: SignerCertificate) -> str:
        moment = verify_certificate_timestamp(certificate, self._issuer, self._trust.ct_logs)
        return f"promised to be logged at {moment.isoformat()}"

    def _check_identity(self, certificate: SignerCertificate) -> str:
        policy = self._policy
        if policy.public_key is not None:
            raise VerifyError("the policy pins a public key; the bundle has a certificate")
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
        if policy.identity is not None:
            raise VerifyError("the policy asks for an identity; the bundle has a key, not a certificate")
        if policy.public_key is not None and policy.public_key != self._spki:
            raise VerifyError("signed by another key than the public key that the policy pins")
        if policy.key is not None and (key is None or policy.key not in (key.name, key.key_name)):
            raise VerifyError(
                f"signed by {key.name if key is not None else 'no key'}; the policy asks for {policy.key}"
            )
        return key.name if key is not None else "the public key that the policy pins"

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
        if not self._entries:
            raise VerifyError("the bundle has no entry of a trusted log")
        if len({(entry.log_id, entry.log_index, entry.body) for entry, _ in self._entries}) != len(self._entries):
            raise VerifyError("the bundle has the same log entry twice")
        for place, (entry, log) in enumerate(self._entries):
            self._check_entry(entry)
            if not log.validity.covers(self._promised.get(place) or self._time):
                raise VerifyError(f"the log {log.origin} is trusted from {log.validity} only")
        entry, log = self._entries[0]
        # Without a promise nothing vouches for an index over all shards.
        index = entry.proof.log_index if entry.proof is not None and entry.promise is None else entry.log_index
        self.result = replace(self.result, log_origin=log.origin, log_index=index)
        return f"entry {index} of {log.origin}"

    def _check_entry(self, entry: LogEntry) -> None:
        proven = entry.proof is not None and entry.proof.checkpoint is not None
        if entry.promise is None and not proven:
            raise VerifyError("the entry has neither a promise nor a proof of inclusion with a checkpoint")
        if entry.is_rekor_v2 and entry.proof is not None and entry.log_index != entry.proof.log_index:
            raise VerifyError("the entry's index and that of its inclusion proof differ")
        require_body(entry, self._signed)

    def _check_checkpoints(self) -> str:
        texts = []
        for entry, log in self._entries:
            if entry.proof is not None and verify_checkpoint(entry, entry.proof, log):
                texts.append(f"{log.origin} at size {entry.proof.tree_size}")
        return ", ".join(texts) or "none: the proof's tree is signed by nobody, the promise stands for it"

    def _check_inclusion(self) -> str:
        texts = []
        for entry, _ in self._entries:
            if entry.proof is not None:
                verify_proof(entry, entry.proof)
                texts.append(f"entry {entry.proof.log_index} is in the tree of {entry.proof.tree_size}")
        return ", ".join(texts)


def _spki(key: bytes) -> bytes:
    """SubjectPublicKeyInfo, DER, of a public key in PEM or DER."""
    try:
        loaded = load_pem_public_key(key) if key.lstrip().startswith(b"-----") else load_der_public_key(key)
    except (ValueError, UnsupportedAlgorithm):
        raise PolicyError("the public key must be PEM, or SubjectPublicKeyInfo in DER") from None
    if not fitting_algorithms(loaded):
        raise PolicyError("the public key is of a kind that is not supported")
    return loaded.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _payload(signed: Artifact, algorithm: Algorithm) -> bytes:
    """What an algorithm signs: a digest or the message."""
    return signed.digest(algorithm.digest) if algorithm.signs_digest else signed.message()


def _is_payload(artifact: Artifact, payload: bytes) -> bool:
    """Whether an artifact, of which maybe only a digest of some algorithm is here, is the payload."""
    problem: ArtifactError | None = None
    for algorithm in ("SHA2_256", "SHA2_384", "SHA2_512"):
        try:
            return artifact.digest(algorithm) == Artifact.from_bytes(payload).digest(algorithm)
        except ArtifactError as error:
            problem = error
    raise problem or ArtifactError("the artifact has no digest")


def _require_about(artifact: Artifact, envelope: DsseEnvelope) -> str:
    """Refuse an artifact that is neither one of the Statement's subjects nor the payload itself."""
    if envelope.payload_type == PAYLOAD_TYPE:
        try:
            subjects = parse_statement(envelope.payload).subjects
        except StatementError:
            subjects = ()
        for one in subjects:
            if _is_subject(artifact, one):
                return f" about {one.name or 'the artifact'}"
        if subjects and not _is_payload(artifact, envelope.payload):
            raise VerifyError("the artifact given is none of the subjects of the Statement: this is about others")
    if not _is_payload(artifact, envelope.payload):
        raise VerifyError("the artifact given is not the DSSE envelope's payload")
    return ""


def _is_subject(artifact: Artifact, subject: Subject) -> bool:
    """Whether every digest of the subject that can be compared is the artifact's, and one at least can be."""
    compared = False
    for name, digest in subject.digests.items():
        if name in _DIGESTS:
            try:
                found = artifact.digest(_DIGESTS[name]).hex()
            except ArtifactError:
                continue
            if found != digest:
                return False
            compared = True
    return compared


def _require_equal(what: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise VerifyError(f"the certificate's {what} is {found!r}; the policy asks for {wanted!r}")


def _base64(data: bytes) -> str:
    return b64encode(data).decode()
