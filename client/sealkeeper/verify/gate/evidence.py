"""What is there about an artifact: bundles, each verified in full, and whose they are. Nothing else is ever looked at.

What does not verify, or is about something else, is kept as refused: reasons for a developer come from it.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from hashlib import sha256
from typing import Any

from sealkeeper.verify.artifact import Artifact as SignedArtifact
from sealkeeper.verify.bundle import Bundle, DsseEnvelope, parse_bundle
from sealkeeper.verify.errors import EvidenceError, PredicateError, VerifyError
from sealkeeper.verify.gate.decision import Artifact
from sealkeeper.verify.gate.patterns import Pattern
from sealkeeper.verify.gate.policy import GatePolicy, SignerRule
from sealkeeper.verify.gate.simple_signing import parse_found, require_image
from sealkeeper.verify.predicates import Provenance, VerificationSummary, VulnerabilityScan, read_predicate
from sealkeeper.verify.statement import PAYLOAD_TYPE, Statement, parse_statement
from sealkeeper.verify.trust import TrustRoot
from sealkeeper.verify.verifier import Policy, VerificationResult, verify

MAX_BUNDLES = 64
"""About one artifact."""
MAX_BYTES = 64 * 1024 * 1024
"""Of these together."""
_MAX_FOUND = 4 * MAX_BUNDLES
"""Where the same ones are found again: in a store and in a registry."""
_NOTHING = TrustRoot({}, {}, (), (), "", "", None, {})
_MAX_PINNED = 10
_TIMES: Mapping[type, tuple[str, ...]] = {
    Provenance: ("finished_on", "started_on"),
    VerificationSummary: ("time_verified",),
    VulnerabilityScan: ("finished_on", "started_on"),
}
_HASHES = {"sha256": "SHA2_256", "sha384": "SHA2_384", "sha512": "SHA2_512"}


@dataclass(frozen=True, slots=True)
class FoundBundle:
    """A bundle, and where it was found: ``store``, ``registry ghcr.io/acme/app``, ``file x.sigstore.json``.

    What cosign signed before there were bundles is one of ``simple_signing.encode_simple_signing``.
    """

    data: bytes = field(repr=False)
    origin: str

    @property
    def digest(self) -> str:
        """``sha256:`` and hexadecimal digits."""
        return f"sha256:{sha256(self.data).hexdigest()}"


@dataclass(frozen=True)
class Evidence:
    """A bundle that verifies and is about the artifact.

    Attributes:
        digest: of the bundle, ``sha256:…``.
        origin: where it was found.
        result: of its verification: who, when, with which certificate.
        statement: that was signed; ``None`` where the artifact itself was.
        signers: names of the policy's signers that it is of.
        pinned: its key is one that the policy pins itself, whatever certificate there is for it.
        trust_root: name of the instance whose trust root it verifies with; empty for the gateway's own.
    """

    digest: str
    origin: str
    result: VerificationResult
    statement: Statement | None
    signers: tuple[str, ...]
    pinned: bool = False
    trust_root: str = ""

    @property
    def statement_digest(self) -> str:
        """``sha256:…`` of the envelope's payload: who cannot sign can write a bundle in other ways, but not this.

        Empty where the artifact itself was signed.
        """
        return f"sha256:{sha256(self.result.payload).hexdigest()}" if self.statement is not None else ""

    @property
    def time(self) -> datetime:
        """When it was signed, by its timestamps."""
        assert self.result.time is not None  # noqa: S101  (of what is verified there is one)
        return self.result.time

    @property
    def made(self) -> datetime:
        """When what it says was found out: as builds, scans and verdicts say it themselves, or when that was signed.

        The signature does not cover its timestamp: whoever may ask a trusted authority for another one, and leaves the
        first one out, makes an old signature look new.
        """
        try:
            found = self.predicate
        except PredicateError:
            return self.time
        for name in _TIMES.get(type(found), ()):
            said: datetime | None = getattr(found, name)
            if said is not None:
                return min(self.time, said)
        return self.time

    @property
    def predicate_type(self) -> str:
        """Empty where the artifact itself was signed."""
        return self.statement.predicate_type if self.statement is not None else ""

    @property
    def who(self) -> str:
        """Who signed, for a person."""
        if self.result.identity:
            return f"{self.result.identity} (issuer {self.result.issuer})"
        return f"key {self.result.key_name or sha256(self.result.public_key).hexdigest()[:16]}"

    @property
    def party(self) -> str:
        """Alike for all that one party signed: a kept key, an identity, or a public key, whatever it is called."""
        if self.result.key_name:
            # Whoever signs with one of its versions does with the next.
            return self.result.key_name.partition("/versions/")[0]
        if self.result.identity and not self.pinned:
            return f"{self.trust_root} {self.result.issuer} {self.result.identity}"
        return sha256(self.result.public_key).hexdigest()

    @property
    def predicate(self) -> Any:
        """As its type has it; ``None`` for a type that is not known.

        Raises:
            PredicateError: it is not one of its type.
        """
        if isinstance(self._read, PredicateError):
            raise self._read
        return self._read

    @cached_property
    def _read(self) -> Any:
        # That it cannot be read is kept, too: rules ask again and again.
        if self.statement is None:
            return None
        try:
            return read_predicate(self.statement.predicate_type, self.statement.predicate)
        except PredicateError as error:
            return error


@dataclass(frozen=True, slots=True)
class Refused:
    """A bundle that counts for nothing, and why."""

    digest: str
    origin: str
    predicate_type: str
    who: str
    why: str


@dataclass(frozen=True, slots=True)
class Examined:
    """All that was found, looked at."""

    evidence: tuple[Evidence, ...]
    refused: tuple[Refused, ...]


def examine(
    found: Iterable[FoundBundle], artifact: Artifact, policy: GatePolicy, trust: TrustRoot, now: datetime
) -> Examined:
    """Verify bundles, and see whether they are about the artifact and whose they are.

    Args:
        found: at most ``MAX_BUNDLES``, with ``MAX_BYTES`` together.
        artifact: that they should be about.
        policy: whose signers are looked for.
        trust: what is trusted.
        now: a signature of the future is refused.

    Raises:
        EvidenceError: they are too many or too large: what is left out could be what forbids.
    """
    evidence: dict[str, Evidence] = {}
    refused: dict[str, Refused] = {}
    for one in bounded(found):
        digest = one.digest
        looked = _look(one, digest, artifact, policy, trust, now)
        if isinstance(looked, Evidence):
            evidence[digest] = looked
        else:
            refused[digest] = looked
    return Examined(tuple(evidence.values()), tuple(refused.values()))


def bounded(found: Iterable[FoundBundle]) -> list[FoundBundle]:
    """The bundles, each once; nothing more is asked for than is needed to see that they are too many.

    Raises:
        EvidenceError: they are more than ``MAX_BUNDLES``, or have more than ``MAX_BYTES`` together.
    """
    taken: dict[str, FoundBundle] = {}
    size = 0
    for count, one in enumerate(found, 1):
        size += len(one.data)
        if size > MAX_BYTES:
            raise EvidenceError("ATTESTATIONS_TOO_LARGE", f"the attestations have more than {MAX_BYTES} bytes together")
        taken.setdefault(one.digest, one)
        if len(taken) > MAX_BUNDLES or count > _MAX_FOUND:
            raise EvidenceError("ATTESTATIONS_TOO_MANY", f"there are more than {MAX_BUNDLES} attestations")
    return list(taken.values())


def _look(
    one: FoundBundle, digest: str, artifact: Artifact, policy: GatePolicy, trust: TrustRoot, now: datetime
) -> Evidence | Refused:
    said, result = "", VerificationResult()
    try:
        bundle, payload = parse_found(one.data)
        signed = _signed_artifact(artifact) if payload is None else SignedArtifact.from_bytes(payload)
        root, result = _verified(bundle, signed, policy.signers, trust)
        if payload is not None:
            require_image(payload, artifact)
        statement = _statement(result, artifact) if isinstance(bundle.content, DsseEnvelope) else None
        said = statement.predicate_type if statement is not None else ""
        signers = tuple(name for name, rule in policy.signers.items() if _is_of(rule, root, result, trust))
        pinned = any(rule.public_key == result.public_key for rule in policy.signers.values())
        found = Evidence(digest, one.origin, result, statement, signers, pinned, root)
        if found.time > now:
            return Refused(digest, one.origin, said, found.who, f"it was signed at {found.time}, which is yet to come")
        why = _revoked(found, policy)
        if why:
            return Refused(digest, one.origin, said, found.who, why)
        return found  # noqa: TRY300
    except VerifyError as error:
        who = result.identity or result.key_name
        return Refused(digest, one.origin, said or _claimed_type(one.data), who, str(error))


def _verified(
    bundle: Bundle, signed: SignedArtifact, signers: Mapping[str, SignerRule], trust: TrustRoot
) -> tuple[str, VerificationResult]:
    """Verify with the own trust root, then with those that the policy's signers name; which of them it was."""
    subject = None if isinstance(bundle.content, DsseEnvelope) else signed
    roots = {"": trust, **{one.trust_root: trust.others.get(one.trust_root, _NOTHING) for one in signers.values()}}
    roots[""] = trust
    first: VerificationResult | None = None
    for name, root in roots.items():
        result = _verified_with(bundle, subject, root, [one for one in signers.values() if one.trust_root == name])
        if result.verified:
            return name, result
        first = first or result
    return "", (first or VerificationResult()).require()


def _verified_with(
    bundle: Bundle, subject: SignedArtifact | None, trust: TrustRoot, signers: Sequence[SignerRule]
) -> VerificationResult:
    result = verify(bundle, subject, trust, Policy.any_trusted())
    if result.verified or bundle.hint is None:
        return result
    # A key that the policy pins itself, and no trust root need know.
    pinned = [one.public_key for one in signers if one.public_key]
    pinned.sort(key=lambda spki: b64encode(sha256(spki).digest()).decode() != bundle.hint)
    others = (verify(bundle, subject, trust, Policy(public_key=spki)) for spki in pinned[:_MAX_PINNED])
    return next((one for one in others if one.verified), result)


def _signed_artifact(artifact: Artifact) -> SignedArtifact:
    digests = {_HASHES[name]: bytes.fromhex(value) for name, value in artifact.digests.items() if name in _HASHES}
    return SignedArtifact(digests=digests)


def _statement(result: VerificationResult, artifact: Artifact) -> Statement:
    if result.payload_type != PAYLOAD_TYPE:
        raise VerifyError(f"the envelope's payload is of type {result.payload_type[:100]!r}, not {PAYLOAD_TYPE}")
    statement = parse_statement(result.payload)
    if not any(same_artifact(one.digests, artifact.digests) for one in statement.subjects):
        raise VerifyError(f"its statement is about something else: {_first_subjects(statement)}")
    return statement


def same_artifact(said: Mapping[str, str], known: Mapping[str, str]) -> bool:
    """Whether digests are of one artifact: one of SHA-2 is the same, and no algorithm of both differs."""
    shared = said.keys() & known.keys()
    return any(name in _HASHES for name in shared) and all(said[name] == known[name] for name in shared)


def _first_subjects(statement: Statement) -> str:
    told = [f"{one.name[:100] or 'no name'} {next(iter(one.digests.values()))[:16]}…" for one in statement.subjects[:3]]
    return ", ".join(told)


def _is_of(rule: SignerRule, root: str, result: VerificationResult, trust: TrustRoot) -> bool:
    if rule.trust_root != root:
        return False
    if rule.key:
        return result.key_name == rule.key or result.key_name.startswith(f"{rule.key}/versions/")
    if rule.identity is not None:
        # A kept key's certificate names the key; it is nobody's identity, nor does one of another tenant say its state.
        kept = result.key_name != "" or (trust.gateway != "" and result.issuer == f"https://{trust.gateway}")
        return result.material == "certificate" and not kept and _names(rule, rule.identity, result)
    return result.public_key == rule.public_key


def _names(rule: SignerRule, identity: Pattern, result: VerificationResult) -> bool:
    """Whether it is an identity of the issuer that the pattern means.

    Before the first ``@`` is the workflow, or the person; behind it the ref, or the host, and a ref may have another.
    Each half is compared by itself: to ``acme/**@refs/heads/main`` a branch ``x@refs/heads/main`` would be the same.
    """
    wanted, found = identity.text.partition("@"), result.identity.partition("@")
    if not wanted[1]:
        return result.issuer == rule.issuer and identity.fits(result.identity)
    halves = (Pattern(wanted[0]).fits(found[0]), found[1] == "@", Pattern(wanted[2]).fits(found[2]))
    return result.issuer == rule.issuer and all(halves)


def _revoked(found: Evidence, policy: GatePolicy) -> str:
    """Why the policy does not believe it; empty where it does."""
    builder = builder_of(found) if any(one.builder is not None for one in policy.revoked) else ""
    for one in policy.revoked:
        named = (
            (not one.signer or one.signer in found.signers)
            and (one.builder is None or (builder != "" and one.builder.fits(builder)))
            and one.digest in ("", found.digest, found.statement_digest)
        )
        # Also what it says itself: a signature of then can be given a timestamp of today.
        if named and (one.covers(found.time) or one.covers(found.made)):
            return f"the policy revokes it: {one.reason}"
    return ""


def builder_of(found: Evidence) -> str:
    """The builder that SLSA provenance names; empty where it is none that can be read."""
    try:
        return getattr(found.predicate, "builder_id", "")
    except PredicateError:
        return ""


def _claimed_type(data: bytes) -> str:
    """The predicate type of what was not verified, to tell a developer what was found."""
    try:
        content = parse_bundle(data).content
        if isinstance(content, DsseEnvelope):
            return parse_statement(content.payload).predicate_type
    except VerifyError:
        pass
    return ""
