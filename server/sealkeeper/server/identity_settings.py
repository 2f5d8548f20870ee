"""Settings of who callers can be: issuers of tokens, SPIFFE trust domains, people.

::

    [issuers.github]
    issuer = "https://token.actions.githubusercontent.com"
    kind = "github"
    protected_refs = ["refs/heads/main", "refs/tags/v*"]
    principals = [{ claims = { repository_owner = "acme-org" }, tenant = "acme", role = "ci" }]

    [trust_domains."prod.example.org"]
    bundle = "bundles/prod.pem"
    principals = [{ path = "/ns/{namespace}/sa/{service_account}", tenant = "acme", role = "ci" }]

    [people.first]
    identities = ["spiffe://sealkeeper.example/tenants/acme/roles/custodian/first", "https://login.example.org#248289"]
    approval_keys = ["people/first.pem"]
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from sealkeeper.server.identity import ATTRIBUTES, PEOPLE, Role
from sealkeeper.server.setting_types import Identifier, Section, is_loopback

# Public keys only: whoever knows a public key must not be able to make a token with it (RFC 8725 section 3.1).
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
IssuerKind = Literal["github", "gitlab", "buildkite", "circleci", "kubernetes", "generic"]
Replay = Literal["connection", "address", "none"]
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
_BRACES = re.compile(r"\{[^{}]*\}|[{}]")
_OID = re.compile(r"[0-2](?:\.(?:0|[1-9][0-9]{0,9})){1,30}")


def _url(value: str) -> str:
    parts = urlsplit(value)
    secure = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.netloc))
    if len(value) > 512 or not secure or not parts.netloc or "@" in parts.netloc:
        raise ValueError("must be an https:// URL (http:// to loopback only)")
    # Subjects are the issuer, "#" and the token's sub: with another "#", two could be the same.
    if "#" in value:
        raise ValueError("must have no fragment (#)")
    return value


def _oid(value: str) -> str:
    if not _OID.fullmatch(value):
        raise ValueError("must be an object identifier, for example 1.3.6.1.4.1.311.21.31")
    return value


Url = Annotated[str, AfterValidator(_url)]
Oid = Annotated[str, AfterValidator(_oid)]


class TokenRule(Section):
    """Which callers with a token of an issuer are whose: the first rule whose claims all fit counts.

    Attributes:
        claims: by name; a value with ``*`` fits what has anything in its place. At least one.
        tenant: whose they are.
        role: what they are there for.
        person: for roles of persons, who it is, made of claims: ``{email}``. Needed for those.
    """

    claims: dict[str, Annotated[str, Field(min_length=1, max_length=512)]] = Field(min_length=1)
    tenant: Identifier
    role: Role
    person: str = Field(default="", max_length=200)

    @model_validator(mode="after")
    def _persons_have_a_name(self) -> TokenRule:
        if (self.role in PEOPLE) != bool(self.person):
            raise ValueError("person: is needed for the roles admin and custodian, and for these only")
        return self


class IssuerSettings(Section):
    """An issuer of OIDC tokens.

    Attributes:
        issuer: its ``iss``, character by character.
        kind: whose claims it has.
        audiences: of which a token must have one; empty for ``https://`` and the gateway's domain.
        algorithms: that its signatures may have.
        jwks_uri: of its keys; ``None`` where OpenID Connect discovery tells.
        jwks_file: of its keys, instead: for issuers that the gateway cannot reach.
        ca: PEM file that its TLS certificate is checked against; ``None`` for the system's.
        protected_refs: refs that count as protected beside those that the token itself says are: ``refs/tags/v*``.
        replay: what a token is bound to once it has been used: the connection, the IP address, or nothing; ``None`` for
            what suits the kind.
        leeway: between its clock and ours.
        max_lifetime: of a token, from its issue to its end; longer ones are refused.
        stale: how long its keys are used when it does not answer.
        source_url: URL of which the names of its callers' repositories are parts, for provenance; ``None`` where the
            issuer's own name tells: ``https://github.com`` for that of GitHub Actions.
        builder_id: URI that provenance calls the builder of all its callers by; ``None`` for that of the CI system and
            whether it hosts the runner.
        principals: who its callers are.
    """

    issuer: Url
    kind: IssuerKind = "generic"
    audiences: list[Annotated[str, Field(min_length=1, max_length=512)]] = Field(default=[])
    algorithms: list[Algorithm] = Field(default=["RS256", "ES256"], min_length=1)
    jwks_uri: Url | None = None
    jwks_file: Path | None = None
    ca: Path | None = None
    protected_refs: list[Annotated[str, Field(min_length=1, max_length=256)]] = Field(default=[])
    replay: Replay | None = None
    leeway: timedelta = Field(default=timedelta(seconds=30), ge=timedelta(0), le=timedelta(minutes=5))
    max_lifetime: timedelta = Field(default=timedelta(hours=24), ge=timedelta(minutes=1), le=timedelta(days=7))
    stale: timedelta = Field(default=timedelta(hours=24), ge=timedelta(0), le=timedelta(days=30))
    source_url: Url | None = None
    builder_id: Url | None = None
    principals: list[TokenRule] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_source_of_keys(self) -> IssuerSettings:
        if self.jwks_uri is not None and self.jwks_file is not None:
            raise ValueError("jwks_uri and jwks_file: only one of them can be set")
        return self


class SpiffeRule(Section):
    """Which workloads of a trust domain are whose: the first rule whose path fits counts.

    Attributes:
        path: of the SPIFFE ID; ``{name}`` fits one segment, which becomes the attribute of that name; ``{name}`` may be
            ``namespace``, ``service_account``, ``workflow``, ``environment`` and other attributes' names.
        tenant: whose they are.
        role: what they are there for.
        person: for roles of persons, which part of the path names the person: ``{actor}``. Needed for those.
    """

    path: str = Field(min_length=2, max_length=512)
    tenant: Identifier
    role: Role
    person: str = Field(default="", max_length=200)

    @model_validator(mode="after")
    def _persons_have_a_name(self) -> SpiffeRule:
        if (self.role in PEOPLE) != bool(self.person):
            raise ValueError("person: is needed for the roles admin and custodian, and for these only")
        return self

    @model_validator(mode="after")
    def _path_is_a_pattern(self) -> SpiffeRule:
        names: list[str] = []
        root, *segments = self.path.split("/")
        for segment in segments:
            if segment.startswith("{") and segment.endswith("}"):
                names.append(segment[1:-1])
            elif segment in (".", "..") or not _SEGMENT.fullmatch(segment):
                raise ValueError(f'path: {segment!r} must be {{name}}, or of A-Z, a-z, 0-9, ".", "_" and "-"')
        if root:
            raise ValueError("path: must begin with /")
        if len(set(names)) < len(names) or not set(names) <= set(ATTRIBUTES):
            raise ValueError(f"path: names must be different ones of {', '.join(ATTRIBUTES)}")
        for part in _BRACES.findall(self.person):
            if part[1:-1] not in names:
                raise ValueError(f"person: {part} is not a name in the path")
        return self


class TrustDomainSettings(Section):
    """A SPIFFE trust domain beside the gateway's own.

    Attributes:
        bundle: its trust bundle: a PEM file of CA certificates (intermediates too, where workloads' certificates are
            issued by such), or a SPIFFE bundle in JSON (SPIFFE Trust Domain and Bundle, section 4).
        principals: who its workloads are.
    """

    bundle: Path
    principals: list[SpiffeRule] = Field(min_length=1)


class PersonSettings(Section):
    """A person who is known by more than one identity, or who approves with a key of their own.

    Attributes:
        identities: subjects, as audit records name them.
        approval_keys: PEM files of public keys that the person signs approvals with, where they log in with tokens.
    """

    identities: list[Annotated[str, Field(min_length=1, max_length=1024)]] = Field(min_length=1)
    approval_keys: list[Path] = Field(default=[])


class IdentitySettings(Section):
    """How identities are checked.

    Attributes:
        deny_list: a file of identities that are refused, whatever proves them; read again when it changes.
        hardware_policies: certificate policies (RFC 5280 section 4.2.1.4) by which a CA says that the private key of a
            certificate is in hardware.
        reload_interval: how often certificates, bundles and the deny list are looked at for changes.
    """

    deny_list: Path | None = None
    hardware_policies: list[Oid] = Field(default=[])
    reload_interval: timedelta = Field(default=timedelta(seconds=5), ge=timedelta(seconds=1), le=timedelta(hours=1))
