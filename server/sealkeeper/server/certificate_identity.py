"""Callers with a client certificate, an X.509-SVID: its SPIFFE ID becomes a ``Principal``.

TLS has checked the certificate against the bundles of all trust domains before this code sees it, and that its holder
has the private key. Here it is checked against the bundle of the domain that its name is of (``trust_bundles.py``).

In the gateway's own trust domain the name, ``spiffe://{gateway domain}/tenants/{tenant}/roles/{role}/{name}``, says
all; ``name`` is the person where the role is a person's. In others the settings' rules say whose a path is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from sealkeeper.server.errors import UnauthenticatedError
from sealkeeper.server.identity import PEOPLE, Caller, Method, Principal, Role
from sealkeeper.server.identity_settings import SpiffeRule, TrustDomainSettings
from sealkeeper.server.resources import ID
from sealkeeper.server.trust_bundles import TrustBundles
from sealkeeper.verify.certificate import UNREADABLE

_E = TypeVar("_E", bound=x509.ExtensionType)
_MAX_ID = 2048
_SPIFFE_ID = re.compile(r"spiffe://([a-z0-9._-]{1,255})((?:/[A-Za-z0-9._-]+)*)")
_NAMED = re.compile(r"\{([a-z_]+)\}")
_USAGES = frozenset({ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE})


class SpiffeId(NamedTuple):
    """A SPIFFE ID in its two parts.

    Attributes:
        domain: the trust domain.
        path: begins with ``/``; empty where there is none.
    """

    domain: str
    path: str


class People(Protocol):
    """Who is behind a subject."""

    def name_of(self, subject: str) -> str | None:
        """The person's name, where the settings say it."""
        ...

    def __contains__(self, name: object) -> bool:
        """Whether the settings have a person of this name."""
        ...


class BundleSource(Protocol):
    """Where the trust bundles are: others from one call to the next."""

    @property
    def bundles(self) -> TrustBundles:
        """As they are now."""
        ...


class _Match(NamedTuple):
    """What the path of a SPIFFE ID says."""

    tenant: str
    role: Role
    person: str
    attributes: tuple[tuple[str, str], ...]


class _Known(NamedTuple):
    """A certificate that was checked: good until ``end``, with the CA that vouches for it."""

    principal: Principal
    end: datetime


_Matcher: TypeAlias = Callable[[str], _Match | None]


def parse_spiffe_id(text: str) -> SpiffeId:
    """Read a SPIFFE ID (SPIFFE-ID, section 2).

    Raises:
        ValueError: it is none.
    """
    match = _SPIFFE_ID.fullmatch(text) if len(text) <= _MAX_ID else None
    if match is None or not {".", ".."}.isdisjoint(match[2].split("/")):
        raise ValueError("must be a SPIFFE ID, for example spiffe://prod.example.org/ns/build/sa/release")
    return SpiffeId(match[1], match[2])


class CertificateAuthenticator:
    """Mutual TLS with X.509-SVIDs.

    What was checked is remembered by its certificate, as long as certificate and CA are valid and the bundles the same:
    when they are replaced, callers are checked again at their next call, on connections that are there too.

    Args:
        domain: the gateway's own trust domain.
        source: of the bundles.
        trust_domains: the others, by name.
        people: names persons who are known by more than one identity.
        hardware_policies: certificate policies that say that a private key is in hardware, dotted.
    """

    _CACHE_LIMIT = 4096

    def __init__(
        self,
        domain: str,
        source: BundleSource,
        trust_domains: Mapping[str, TrustDomainSettings],
        people: People,
        hardware_policies: Collection[str] = (),
    ) -> None:
        self._domain = domain
        self._source = source
        self._bundles = source.bundles
        self._people = people
        self._hardware_policies = frozenset(hardware_policies)
        self._matchers: dict[str, list[_Matcher]] = {
            name: [_rule(rule) for rule in one.principals] for name, one in trust_domains.items()
        }
        self._matchers[domain] = [_own]
        self._known: dict[bytes, _Known] = {}

    async def authenticate(self, caller: Caller, now: datetime) -> Principal:
        """Tell who the certificate of a connection is of.

        Raises:
            UnauthenticatedError: it is none that counts here, or not any more.
        """
        if self._source.bundles is not self._bundles:
            self._known.clear()
            self._bundles = self._source.bundles
        pem = (caller.auth_context.get("x509_pem_cert") or (b"",))[0]
        known = self._known.get(pem)
        # TLS looked at the dates once; connections live for days. Of a clock that was set back since it is no use to
        # hear that a certificate is not valid yet: keys must be switched off all the same.
        if known is None or now > known.end:
            known = self._check(pem, now)
            # Bounded, so that a holder of a CA cannot fill memory; refilling costs one check a certificate.
            if len(self._known) >= self._CACHE_LIMIT:
                self._known.clear()
            self._known[pem] = known
        return known.principal

    def _check(self, pem: bytes, now: datetime) -> _Known:
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            extensions, key = certificate.extensions, certificate.public_key()
            der = certificate.public_bytes(Encoding.DER)
        except UNREADABLE:
            raise UnauthenticatedError(
                "the client certificate cannot be read",
                reason="CERTIFICATE_INVALID",
                next_step="use an X.509-SVID as the SPIFFE specification has it",
            ) from None
        subject = _subject(extensions)
        name = parse_spiffe_id(subject)
        if name.domain not in self._matchers:
            raise UnauthenticatedError(
                f"the client certificate is of the trust domain {name.domain}, which this gateway does not know",
                reason="CERTIFICATE_DOMAIN_UNKNOWN",
                next_step=f'have [trust_domains."{name.domain}"] added to the gateway\'s settings',
            )
        _require_not_over(end, now)
        _require_leaf(extensions, key)
        authority = self._require_authority(certificate, name.domain, max(now, start))
        found = next((match for matcher in self._matchers[name.domain] if (match := matcher(name.path))), None)
        if found is None:
            raise UnauthenticatedError(
                f"no principal of this gateway has the path {name.path} in the trust domain {name.domain}",
                reason="PRINCIPAL_UNKNOWN",
                next_step="use another certificate, or have a rule for it added to the trust domain's principals",
            )
        principal = Principal(
            found.tenant,
            subject,
            found.role,
            end,
            Method.CERTIFICATE,
            self._person(subject, name.domain, found.person) if found.role in PEOPLE else "",
            name.domain,
            found.attributes,
            not self._hardware_policies.isdisjoint(_policies(extensions)),
            certificate=der,
        )
        return _Known(principal, min(end, authority.not_valid_after_utc))

    def _person(self, subject: str, domain: str, found: str) -> str:
        listed = self._people.name_of(subject)
        # A name of [people] belongs to the identities that are listed there, and to whom the gateway's own CA names so.
        if not listed and domain != self._domain and found in self._people:
            raise UnauthenticatedError(
                f"the name that the rule for {domain} makes is that of a person whose identity this is not",
                reason="PRINCIPAL_UNKNOWN",
                next_step="have its subject added to people.*.identities, or the rule's person changed",
            )
        return listed or found

    def _require_authority(self, certificate: x509.Certificate, domain: str, now: datetime) -> x509.Certificate:
        authority = self._bundles.issuer_of(certificate, domain, now)
        if authority is not None:
            return authority
        other = self._bundles.domain_of(certificate, now)
        if other is not None:
            raise UnauthenticatedError(
                f"the client certificate names the trust domain {domain}, and a CA of {other} has signed it",
                reason="CERTIFICATE_DOMAIN_MISMATCH",
                next_step=f"use a certificate that a CA of {domain} has signed",
            )
        raise UnauthenticatedError(
            f"no CA that is trusted for {domain} now vouches for the client certificate",
            reason="CERTIFICATE_INVALID",
            next_step="renew the client certificate; where an intermediate CA issued it, the bundle must hold that CA",
        )


def _require_not_over(end: datetime, now: datetime) -> None:
    if now > end:
        raise UnauthenticatedError(
            "the client certificate has expired",
            reason="CERTIFICATE_EXPIRED",
            next_step="renew the client certificate and connect again",
        )


def _subject(extensions: x509.Extensions) -> str:
    """The one SPIFFE ID with a path (X.509-SVID, sections 2 and 3.1)."""
    names = _extension(extensions, x509.SubjectAlternativeName)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else []
    try:
        if len(uris) == 1 and parse_spiffe_id(uris[0]).path:
            return uris[0]
    except ValueError:
        pass
    raise UnauthenticatedError(
        "the client certificate does not have one URI name that is a SPIFFE ID with a path",
        reason="CERTIFICATE_NAME_INVALID",
        next_step="use a certificate that names spiffe://{domain}/tenants/{tenant}/roles/{role}/{name}, or a workload",
    )


def _require_leaf(extensions: x509.Extensions, key: CertificatePublicKeyTypes) -> None:
    """X.509-SVID, sections 4.1, 4.3, 4.4 and 5.2."""
    constraints = _extension(extensions, x509.BasicConstraints)
    usage = _extension(extensions, x509.KeyUsage)
    extended = _extension(extensions, x509.ExtendedKeyUsage)
    if (
        (constraints is not None and constraints.ca)
        or (usage is not None and (usage.key_cert_sign or usage.crl_sign or not usage.digital_signature))
        or (extended is not None and _USAGES.isdisjoint(extended))
        or not _is_strong(key)
    ):
        raise UnauthenticatedError(
            "the client certificate is a CA's, has a weak key, or is not for signatures and TLS clients",
            reason="CERTIFICATE_INVALID",
            next_step="use one without CA flag, with digitalSignature and clientAuth, of P-256 or RSA from 2048 bits",
        )


def _is_strong(key: CertificatePublicKeyTypes) -> bool:
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size >= 2048
    return isinstance(key, ec.EllipticCurvePublicKey) and key.curve.key_size >= 256


def _policies(extensions: x509.Extensions) -> list[str]:
    policies = _extension(extensions, x509.CertificatePolicies)
    return [one.policy_identifier.dotted_string for one in policies] if policies is not None else []


def _extension(extensions: x509.Extensions, kind: type[_E]) -> _E | None:
    return next((one.value for one in extensions if isinstance(one.value, kind)), None)


_OWN = re.compile(rf"/tenants/({ID.pattern})/roles/({'|'.join(Role)})/([A-Za-z0-9._-]{{1,128}})")


def _own(path: str) -> _Match | None:
    """A path of the gateway's own trust domain."""
    match = _OWN.fullmatch(path)
    return _Match(match[1], Role(match[2]), match[3], ()) if match else None


def _rule(rule: SpiffeRule) -> _Matcher:
    """What tells whether a path fits a rule, each ``{name}`` one segment."""
    pattern = re.compile("/".join(_segment(one) for one in rule.path.split("/")))

    def matcher(path: str) -> _Match | None:
        match = pattern.fullmatch(path)
        if match is None:
            return None
        values = match.groupdict()
        person = _NAMED.sub(lambda named: values[named[1]], rule.person)
        return _Match(rule.tenant, rule.role, person, tuple(sorted(values.items())))

    return matcher


def _segment(text: str) -> str:
    named = _NAMED.fullmatch(text)
    return f"(?P<{named[1]}>[^/]+)" if named else re.escape(text)
