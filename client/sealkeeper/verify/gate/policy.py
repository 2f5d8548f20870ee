"""Gate policies: what must be true of an artifact before it runs, as a short YAML.

What stands in it is what is required; what is unknown in it is refused, by its place. Text patterns are exact but for
``*``, any characters other than ``/``, and ``**``, any characters. ``docs/gates/policy.md`` has every member.

>>> policy = parse_policy(b'''
... gate: v1
... signers:
...   release: {key: tenants/acme/keys/release}
... require:
...   signatures: {signers: [release]}
... ''')
>>> policy.rules("").signatures.threshold
1
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Any, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from sealkeeper.verify.algorithms import fitting_algorithms
from sealkeeper.verify.errors import GatePolicyError
from sealkeeper.verify.gate.patterns import Pattern, VersionRange, parse_version_range
from sealkeeper.verify.gate.yaml_document import parse_yaml
from sealkeeper.verify.predicates import KINDS, by_short_name
from sealkeeper.verify.strict_json import JsonError, Value

MAX_POLICY = 256 * 1024
"""Bytes of a policy."""
MAX_SIGNERS = 100
MAX_LIST = 1000
MAX_DEPTH = 5
"""How deep dependencies can be followed."""
VERSION = "v1"

_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
_KEY = re.compile(r"tenants/[a-z0-9-]{1,63}/keys/[a-z0-9-]{1,63}(/versions/[1-9][0-9]{0,8})?")
_DURATION = re.compile(r"([1-9][0-9]{0,5})([smhdw])")
_DIGEST = re.compile(r"(sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_FIELD = re.compile(r"[A-Za-z0-9_.*%\-]{1,200}")
_T = TypeVar("_T")


class Mode(StrEnum):
    """What a refusal does."""

    ENFORCE = "enforce"
    """It keeps the artifact from running."""
    WARN = "warn"
    """It is told to whoever deploys."""
    AUDIT = "audit"
    """It is recorded only."""


class Severity(StrEnum):
    """How bad a vulnerability is, mildest first."""

    NEGLIGIBLE = "negligible"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"

    def exceeds(self, other: Severity) -> bool:
        """Whether it is worse."""
        ordered = list(Severity)
        return ordered.index(self) > ordered.index(other)


@dataclass(frozen=True, slots=True)
class SignerRule:
    """Who can sign: exactly one of a kept key, a certificate's identity with its issuer, and a public key.

    Attributes:
        name: by which the policy speaks of it.
        key: ``tenants/{tenant}/keys/{key}``, or one of its versions.
        identity: pattern of a certificate's subject alternative name.
        issuer: of the identity, exactly.
        public_key: SubjectPublicKeyInfo, DER.
        trust_root: name of the instance that vouches for it; empty for the gateway's own. An issuer's identities are
            believed of the instance that is named for them, and of no other.
    """

    name: str
    key: str = ""
    identity: Pattern | None = None
    issuer: str = ""
    public_key: bytes = b""
    trust_root: str = ""

    def __str__(self) -> str:
        if self.key:
            return f"{self.name} (key {self.key})"
        if self.identity is not None:
            return f"{self.name} (identity {self.identity.text}, issuer {self.issuer})"
        return f"{self.name} (public key SHA-256 {sha256(self.public_key).hexdigest()[:16]}…)"


@dataclass(frozen=True, slots=True)
class BuilderRule:
    """Up to which SLSA build level a builder is believed, when this signer says so. Neither is believed alone."""

    signer: str
    id: Pattern
    level: int


@dataclass(frozen=True, slots=True)
class SignatureRule:
    """So many different signers of the artifact itself, or of any statement about it."""

    signers: tuple[str, ...]
    threshold: int
    max_age: timedelta | None


@dataclass(frozen=True, slots=True)
class SourceRule:
    """Where the artifact must come from; one pattern of each list must fit, an empty list asks nothing.

    Attributes:
        repository: URIs, without ``git+`` and ``.git``.
        ref: full names: ``refs/heads/main``.
        version: that the tag must be in, as semantic version.
    """

    repository: tuple[Pattern, ...]
    ref: tuple[Pattern, ...]
    version: VersionRange | None


@dataclass(frozen=True, slots=True)
class DependencyRule:
    """What must be true of the resolved dependencies.

    Attributes:
        depth: how far they are followed; 1 is the artifact's own.
        minimum_level: SLSA build level that their provenance must reach.
        except_: patterns of URIs of which nothing is asked.
    """

    depth: int
    minimum_level: int
    except_: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True)
class ProvenanceRule:
    """SLSA provenance by one of the policy's builders.

    Attributes:
        minimum_level: SLSA build level.
        source: where from.
        build_type: patterns; empty for any.
        parameters: by path below externalParameters, patterns of their values; ``None`` asks nothing. Where it
            is there, parameters that it does not name are refused.
        self_hosted_runners: builds on them count.
        claims_match: the predicate must say what the signer's certificate says.
        max_age: since it was signed.
        dependencies: what must be true of them.
    """

    minimum_level: int
    source: SourceRule | None
    build_type: tuple[Pattern, ...]
    parameters: Mapping[str, tuple[Pattern, ...]] | None
    self_hosted_runners: bool
    claims_match: bool
    max_age: timedelta | None
    dependencies: DependencyRule | None


@dataclass(frozen=True, slots=True)
class AttestationRule:
    """A further attestation that must be there.

    Attributes:
        type: of its predicate as the policy has it: a URI, or a short name (``spdx``).
        types: URIs, of which its predicate's is one, exactly.
        signers: of whom one must have signed it.
        max_age: since it was signed.
        fields: by path below the predicate, patterns of which one must fit the text, number or truth value there.
    """

    type: str
    types: tuple[str, ...]
    signers: tuple[str, ...]
    max_age: timedelta | None
    fields: Mapping[str, tuple[Pattern, ...]]


@dataclass(frozen=True, slots=True)
class IgnoredVulnerability:
    """A vulnerability that is accepted, until a time."""

    id: str
    until: datetime | None
    reason: str


@dataclass(frozen=True, slots=True)
class VulnerabilityRule:
    """What the newest scan may have found.

    Attributes:
        worst: severity that is still allowed; ``None`` for no finding at all.
        signers: whose scans count.
        max_age: since the scan.
        unknown: findings without a severity are allowed.
        ignore: what is accepted.
    """

    worst: Severity | None
    signers: tuple[str, ...]
    max_age: timedelta | None
    unknown: bool
    ignore: tuple[IgnoredVulnerability, ...]


@dataclass(frozen=True, slots=True)
class SummaryRule:
    """A SLSA Verification Summary that counts: this verifier, with that signer, saying PASSED.

    Attributes:
        verifier: ``verifier.id``, exactly.
        signers: that this verifier signs with.
        levels: each must be in ``verifiedLevels``; a higher SLSA level of the same track counts for a lower one.
        resource: pattern of ``resourceUri``; ``None`` for any.
        max_age: since it was signed.
    """

    verifier: str
    signers: tuple[str, ...]
    levels: tuple[str, ...]
    resource: Pattern | None
    max_age: timedelta | None


@dataclass(frozen=True, slots=True)
class RevocationRule:
    """What is not believed of a time, both ends included; at least one of the first three.

    Attributes:
        signer: one of the policy's.
        builder: pattern of builder ids.
        digest: of an artifact, of a bundle, or of the Statement in it, ``sha256:…``. Anybody can write the same
            Statement into another bundle.
        start: from when on; ``None`` for ever since.
        end: until when; ``None`` for ever after.
        reason: why.
    """

    signer: str
    builder: Pattern | None
    digest: str
    start: datetime | None
    end: datetime | None
    reason: str

    def covers(self, moment: datetime) -> bool:
        """Tell whether the moment is inside."""
        return (self.start is None or self.start <= moment) and (self.end is None or moment <= self.end)


@dataclass(frozen=True, slots=True)
class TrustRule:
    """How fresh the trust root must be.

    Attributes:
        max_age: since it was made; ``None`` for any.
        offline: decide from the last trust root while there is no newer one, until that age.
    """

    max_age: timedelta | None
    offline: bool


@dataclass(frozen=True, slots=True)
class Rules:
    """What is required in one environment; ``None`` and empty ask nothing.

    Attributes:
        children: each image of an index must fulfil everything itself.
    """

    signatures: SignatureRule | None = None
    provenance: ProvenanceRule | None = None
    attestations: tuple[AttestationRule, ...] = ()
    vulnerabilities: VulnerabilityRule | None = None
    promotion: SummaryRule | None = None
    summaries: tuple[SummaryRule, ...] = ()
    trust_root: TrustRule = TrustRule(None, offline=True)
    rego: tuple[str, ...] = ()
    children: bool = True


@dataclass(frozen=True, slots=True)
class GatePolicy:
    """A checked policy; made by ``parse_policy``.

    Attributes:
        text: as it was written, UTF-8.
        description: for people.
        mode: what a refusal does.
        verdict_key: of the tenant, signs verdicts and this policy; empty for none.
        signers: by name.
        builders: who is believed about builds.
        revoked: what is not believed.
        defaults: in environments that are not named.
        environments: what is required in those that are.
        only_named: environments that are not named are refused.
    """

    text: bytes = field(repr=False)
    description: str
    mode: Mode
    verdict_key: str
    signers: Mapping[str, SignerRule]
    builders: tuple[BuilderRule, ...]
    revoked: tuple[RevocationRule, ...]
    defaults: Rules
    environments: Mapping[str, Rules]
    only_named: bool

    @property
    def digest(self) -> bytes:
        """SHA-256 of the text."""
        return sha256(self.text).digest()

    def rules(self, environment: str) -> Rules | None:
        """What is required there; ``None`` for an environment that the policy does not know."""
        if environment in self.environments:
            return self.environments[environment]
        return None if self.only_named else self.defaults


def parse_policy(text: bytes) -> GatePolicy:
    """Check a policy.

    Raises:
        GatePolicyError: naming the place that is not as it should be.
    """
    if len(text) > MAX_POLICY:
        raise GatePolicyError(f"$: the policy has {len(text)} bytes; at most {MAX_POLICY} are allowed")
    try:
        return _policy(text, Value(parse_yaml(text)))
    except JsonError as error:
        raise GatePolicyError(str(error)) from None


def _policy(text: bytes, document: Value) -> GatePolicy:
    members = document.members(
        {"gate", "signers", "require"},
        {"description", "mode", "verdict_key", "builders", "revoked", "environments", "only_named_environments"},
    )
    if members["gate"].text() != VERSION:
        raise JsonError(f"$.gate: must be {VERSION}")
    signers = {name: _signer(name, one) for name, one in _named(members["signers"], MAX_SIGNERS).items()}
    if not signers:
        raise JsonError("$.signers: names nobody, so nothing could be believed")
    builders = (
        tuple(_builder(one, signers) for one in members["builders"].items(MAX_LIST)) if "builders" in members else ()
    )
    reader = _RulesReader(signers, builders)
    defaults = reader.rules(members["require"])
    environments = {
        name: reader.rules(one, members["require"]) for name, one in _named(members.get("environments"), 100).items()
    }
    return GatePolicy(
        text,
        _optional(members, "description", lambda one: one.text(2000), ""),
        _optional(members, "mode", _mode, Mode.ENFORCE),
        _optional(members, "verdict_key", lambda one: _matching(one, _KEY, "tenants/{tenant}/keys/{key}"), ""),
        signers,
        builders,
        tuple(_revocation(one, signers) for one in members["revoked"].items(MAX_LIST)) if "revoked" in members else (),
        defaults,
        environments,
        _optional(members, "only_named_environments", Value.boolean, default=False),
    )


def _mode(value: Value) -> Mode:
    return _choice(value, Mode)


def _signer(name: str, value: Value) -> SignerRule:
    members = value.members(set(), {"key", "identity", "issuer", "public_key", "trust_root"})
    kinds = [one for one in ("key", "identity", "public_key") if one in members]
    if len(kinds) != 1:
        raise JsonError(f"{value.path}: needs exactly one of key, identity and public_key")
    if ("issuer" in members) != (kinds == ["identity"]):
        raise JsonError(f"{value.path}: an identity goes together with its issuer")
    if "key" in members and "trust_root" in members:
        raise JsonError(f"{value.path}: a kept key is one of the gateway's own trust root")
    root = _optional(members, "trust_root", lambda one: _matching(one, _NAME, "a name of a-z, 0-9 and -"), "")
    if "key" in members:
        return SignerRule(name, key=_matching(members["key"], _KEY, "tenants/{tenant}/keys/{key}"))
    if "public_key" in members:
        return SignerRule(name, public_key=_public_key(members["public_key"]), trust_root=root)
    identity, issuer = _pattern(members["identity"]), members["issuer"].text(512)
    return SignerRule(name, identity=identity, issuer=issuer, trust_root=root)


def _public_key(value: Value) -> bytes:
    try:
        key = serialization.load_pem_public_key(value.text(16_384).encode())
        known = bool(fitting_algorithms(key))
    except (ValueError, UnsupportedAlgorithm):
        known = False
    if not known:
        raise JsonError(f"{value.path}: must be a public key in PEM, of a kind that signs")
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _builder(value: Value, signers: Mapping[str, SignerRule]) -> BuilderRule:
    members = value.members({"signer", "id", "level"})
    return BuilderRule(_known(members["signer"], signers), _pattern(members["id"]), _level(members["level"]))


def _revocation(value: Value, signers: Mapping[str, SignerRule]) -> RevocationRule:
    members = value.members({"reason"}, {"signer", "builder", "digest", "from", "until"})
    if not members.keys() & {"signer", "builder", "digest"}:
        raise JsonError(f"{value.path}: needs a signer, a builder or a digest")
    return RevocationRule(
        _optional(members, "signer", lambda one: _known(one, signers), ""),
        _optional(members, "builder", _pattern, None),
        _optional(members, "digest", lambda one: _matching(one, _DIGEST, "sha256:…, lower case"), ""),
        _optional(members, "from", Value.time, None),
        _optional(members, "until", Value.time, None),
        members["reason"].text(1000),
    )


class _RulesReader:
    """Reads what is required, knowing whom and what the policy names."""

    _SECTIONS = frozenset(
        {
            *("signatures", "provenance", "attestations", "vulnerabilities"),
            *("promotion", "summaries", "trust_root", "rego", "children"),
        }
    )

    def __init__(self, signers: Mapping[str, SignerRule], builders: tuple[BuilderRule, ...]) -> None:
        self._signers = signers
        self._builders = builders

    def rules(self, value: Value, base: Value | None = None) -> Rules:
        """An environment's sections take the places of the same ones of ``base``; ``null`` takes one away."""
        members = {} if base is None else dict(base.members(frozenset(), self._SECTIONS))
        members.update(value.members(frozenset(), self._SECTIONS))
        members = {name: one for name, one in members.items() if one.json is not None}
        found = Rules(
            _optional(members, "signatures", self._signatures, None),
            _optional(members, "provenance", self._provenance, None),
            _optional(members, "attestations", lambda one: tuple(map(self._attestation, one.items(100))), ()),
            _optional(members, "vulnerabilities", self._vulnerabilities, None),
            _optional(members, "promotion", self._summary, None),
            _optional(members, "summaries", lambda one: tuple(map(self._summary, one.items(20))), ()),
            _optional(members, "trust_root", _trust_root, TrustRule(None, offline=True)),
            _optional(members, "rego", _rego, ()),
            _optional(members, "children", lambda one: _one_of(one, {"each": True, "index": False}), default=True),
        )
        if not (found.signatures or found.provenance or found.attestations or found.promotion or found.summaries):
            raise JsonError(
                f"{value.path}: asks for nothing that is signed; it needs signatures, provenance, attestations, "
                "promotion or summaries"
            )
        return found

    def _signatures(self, value: Value) -> SignatureRule:
        members = value.members({"signers"}, {"threshold", "max_age"})
        signers = self._named_signers(members["signers"])
        threshold = _optional(members, "threshold", Value.integer, 1)
        if not 1 <= threshold <= len(signers):
            raise JsonError(f"{value.path}.threshold: must be 1 to {len(signers)}, the number of signers")
        return SignatureRule(signers, threshold, _optional(members, "max_age", parse_duration, None))

    def _provenance(self, value: Value) -> ProvenanceRule:
        members = value.members(
            set(),
            {
                *("minimum_level", "source", "build_type", "parameters", "self_hosted_runners"),
                *("claims_match", "max_age", "dependencies"),
            },
        )
        if not self._builders:
            raise JsonError(f"{value.path}: needs builders, at the top, who are believed about builds")
        minimum = _optional(members, "minimum_level", _level, 1)
        if all(one.level < minimum for one in self._builders):
            raise JsonError(f"{value.path}.minimum_level: no builder of this policy reaches {minimum}")
        return ProvenanceRule(
            minimum,
            _optional(members, "source", _source, None),
            _optional(members, "build_type", _patterns, ()),
            _optional(members, "parameters", _fields, None),
            _optional(members, "self_hosted_runners", Value.boolean, default=False),
            _optional(members, "claims_match", Value.boolean, default=True),
            _optional(members, "max_age", parse_duration, None),
            _optional(members, "dependencies", _dependencies, None),
        )

    def _attestation(self, value: Value) -> AttestationRule:
        members = value.members({"type", "signers"}, {"max_age", "fields"})
        kind = members["type"].text(512)
        known = by_short_name(kind)
        if known is None and ":" not in kind:
            raise JsonError(f"{value.path}.type: must be a URI, or one of {', '.join(one.short_name for one in KINDS)}")
        return AttestationRule(
            kind,
            known.types if known is not None else (kind,),
            self._named_signers(members["signers"]),
            _optional(members, "max_age", parse_duration, None),
            _optional(members, "fields", _fields, {}),
        )

    def _vulnerabilities(self, value: Value) -> VulnerabilityRule:
        members = value.members({"worst_allowed", "signers"}, {"max_age", "unknown_severity", "ignore"})
        allowed = {"none": None, **{str(one): one for one in Severity}}
        return VulnerabilityRule(
            _one_of(members["worst_allowed"], allowed),
            self._named_signers(members["signers"]),
            _optional(members, "max_age", parse_duration, None),
            _optional(members, "unknown_severity", lambda one: _one_of(one, {"allow": True, "refuse": False}), False),
            _optional(members, "ignore", lambda one: tuple(map(_ignored, one.items(MAX_LIST))), ()),
        )

    def _summary(self, value: Value) -> SummaryRule:
        members = value.members({"verifier", "signers"}, {"levels", "resource", "max_age"})
        return SummaryRule(
            members["verifier"].text(512),
            self._named_signers(members["signers"]),
            _optional(members, "levels", lambda one: tuple(level.text(100) for level in one.items(20)), ()),
            _optional(members, "resource", _pattern, None),
            _optional(members, "max_age", parse_duration, None),
        )

    def _named_signers(self, value: Value) -> tuple[str, ...]:
        found = tuple(_known(one, self._signers) for one in value.items(MAX_SIGNERS, 1))
        if len(set(found)) != len(found):
            raise JsonError(f"{value.path}: names a signer twice")
        return found


def _source(value: Value) -> SourceRule:
    members = value.members(set(), {"repository", "ref", "branch", "tag", "version"})
    if not members:
        raise JsonError(f"{value.path}: needs a repository, a ref, a branch, a tag or a version")
    refs = [
        *_optional(members, "ref", _patterns, ()),
        *(Pattern(f"refs/heads/{one.text}") for one in _optional(members, "branch", _patterns, ())),
        *(Pattern(f"refs/tags/{one.text}") for one in _optional(members, "tag", _patterns, ())),
    ]
    version = _optional(members, "version", _version_range, None)
    return SourceRule(_optional(members, "repository", _patterns, ()), tuple(refs), version)


def _version_range(value: Value) -> VersionRange:
    try:
        return parse_version_range(value.text(200))
    except ValueError as error:
        raise JsonError(f"{value.path}: {error}") from None


def _dependencies(value: Value) -> DependencyRule:
    members = value.members(set(), {"depth", "minimum_level", "except"})
    depth = _optional(members, "depth", Value.integer, 1)
    if not 1 <= depth <= MAX_DEPTH:
        raise JsonError(f"{value.path}.depth: must be 1 to {MAX_DEPTH}")
    return DependencyRule(
        depth, _optional(members, "minimum_level", _level, 1), _optional(members, "except", _patterns, ())
    )


def _ignored(value: Value) -> IgnoredVulnerability:
    members = value.members({"id", "reason"}, {"until"})
    return IgnoredVulnerability(
        members["id"].text(100), _optional(members, "until", Value.time, None), members["reason"].text(1000)
    )


def _trust_root(value: Value) -> TrustRule:
    members = value.members(set(), {"max_age", "offline"})
    offline = _optional(
        members, "offline", lambda one: _one_of(one, {"until-expiry": True, "refuse": False}), default=True
    )
    return TrustRule(_optional(members, "max_age", parse_duration, None), offline)


def _rego(value: Value) -> tuple[str, ...]:
    return tuple(one.text(65_536) for one in value.items(10, 1))


def _fields(value: Value) -> dict[str, tuple[Pattern, ...]]:
    if not isinstance(value.json, dict) or len(value.json) > MAX_LIST:
        raise JsonError(f"{value.path}: must be an object of at most {MAX_LIST} members, each a path and its patterns")
    for name in value.json:
        if not isinstance(name, str) or not _FIELD.fullmatch(name):
            raise JsonError(f"{value.path}: {str(name)[:64]!r} is no path of names parted by dots")
    return {name: _patterns(Value(one, f"{value.path}.{name}")) for name, one in value.json.items()}


def _patterns(value: Value) -> tuple[Pattern, ...]:
    """One pattern, or a list of them; numbers and truth values stand for their texts."""
    if isinstance(value.json, list):
        return tuple(map(_pattern, value.items(MAX_LIST, 1)))
    return (_pattern(value),)


def _pattern(value: Value) -> Pattern:
    if isinstance(value.json, bool):
        return Pattern("true" if value.json else "false")
    if isinstance(value.json, int):
        return Pattern(str(value.json))
    text = value.text(1024)
    if not text or not text.isprintable():
        raise JsonError(f"{value.path}: must be 1 to 1024 printable characters")
    return Pattern(text)


def _known(value: Value, signers: Mapping[str, SignerRule]) -> str:
    name = value.text(63)
    if name not in signers:
        raise JsonError(f"{value.path}: there is no signer {name!r} in $.signers")
    return name


def _level(value: Value) -> int:
    level = value.integer()
    if not 1 <= level <= 4:
        raise JsonError(f"{value.path}: a SLSA build level is 1, 2, 3 or 4")
    return level


def parse_duration(value: Value) -> timedelta:
    """Read a number with a unit: ``90s``, ``15m``, ``12h``, ``30d``, ``2w``.

    Raises:
        JsonError: it is none.
    """
    match = _DURATION.fullmatch(value.text(16))
    if match is None:
        raise JsonError(f"{value.path}: must be a number with s, m, h, d or w, for example 12h or 30d")
    return timedelta(seconds=int(match[1]) * _SECONDS[match[2]])


def _matching(value: Value, form: re.Pattern[str], said: str) -> str:
    text = value.text(512)
    if not form.fullmatch(text):
        raise JsonError(f"{value.path}: must be {said}")
    return text


def _choice(value: Value, kind: type[Mode]) -> Mode:
    return _one_of(value, {str(one): one for one in kind})


def _one_of(value: Value, known: Mapping[str, _T]) -> _T:
    text = value.text(64)
    if text not in known:
        raise JsonError(f"{value.path}: must be one of {', '.join(known)}")
    return known[text]


def _named(value: Value | None, most: int) -> dict[str, Value]:
    if value is None:
        return {}
    if not isinstance(value.json, dict) or len(value.json) > most:
        raise JsonError(f"{value.path}: must be an object of at most {most} members")
    for name in value.json:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise JsonError(
                f"{value.path}: the name {str(name)[:64]!r} must be of a-z, 0-9 and -, and begin with a letter"
            )
    return {name: Value(one, f"{value.path}.{name}") for name, one in value.json.items()}


def _optional(members: Mapping[str, Value], name: str, read: Callable[[Value], _T], default: Any) -> _T:
    return read(members[name]) if name in members else default
