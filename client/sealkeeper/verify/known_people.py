"""Who has signed: people, by what their organisation says of them and not by what the gateway says.

The organisation gives the CA that certifies its people, whose certificates name them as
``spiffe://{gateway}/tenants/{tenant}/roles/{role}/{name}``, and public keys of persons by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from sealkeeper.verify.approval import key_id, load_approval_key
from sealkeeper.verify.certificate import UNREADABLE, CertificateError, require_readable
from sealkeeper.verify.errors import TrustRootError, VerifyError
from sealkeeper.verify.svid import AUTHORITY, CALLER

MAX_PEOPLE_FILE = 1024 * 1024
"""Bytes of a PEM file with CA certificates or public keys."""
_PERSON_ID = re.compile(
    r"spiffe://([a-z0-9._-]{1,255})/tenants/([a-z0-9-]{1,63})/roles/(admin|custodian)/([A-Za-z0-9._-]{1,128})"
)
_CLIENT = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}


@dataclass(frozen=True, slots=True)
class Signer:
    """Who has signed a statement.

    Attributes:
        person: name of the person.
        identity: SPIFFE ID of the certificate; empty where a public key alone was given.
        key_id: hexadecimal SHA-256 of the public key's SubjectPublicKeyInfo.
    """

    person: str
    identity: str
    key_id: str


@dataclass(frozen=True, slots=True)
class PersonId:
    """What the SPIFFE ID of a person says.

    Attributes:
        gateway: the trust domain.
        tenant: whose person it is.
        role: admin or custodian.
        person: name of the person.
    """

    gateway: str
    tenant: str
    role: str
    person: str


def parse_person_id(identity: str) -> PersonId | None:
    """Read ``spiffe://{gateway}/tenants/{tenant}/roles/{role}/{name}``; ``None`` where it is not that of a person."""
    match = _PERSON_ID.fullmatch(identity)
    return PersonId(match[1], match[2], match[3], match[4]) if match else None


class KnownPeople:
    """Whom an organisation vouches for.

    Args:
        authorities: certificates of the CAs that certify its people; each is trusted by itself.
        keys: names of persons, by their public keys: SubjectPublicKeyInfo, DER.
    """

    def __init__(self, authorities: Sequence[x509.Certificate], keys: Mapping[bytes, str]) -> None:
        self._store = Store(list(authorities)) if authorities else None
        self._keys = dict(keys)

    @classmethod
    def read(cls, authorities: Iterable[bytes], keys: Iterable[tuple[str, bytes]]) -> KnownPeople:
        """From PEM files.

        Args:
            authorities: each with CA certificates, at least one.
            keys: names of persons, each with a file of public keys, at least one.

        Raises:
            TrustRootError: nothing is given, something cannot be read, or a key is of two persons.
        """
        certificates = [one for data in authorities for one in _authorities(data)]
        owners: dict[bytes, str] = {}
        for person, data in keys:
            for spki in _public_keys(person, data):
                if owners.setdefault(spki, person) != person:
                    raise TrustRootError(f"a key of {person!r} is also of {owners[spki]!r}: one key is of one person")
        if not certificates and not owners:
            raise TrustRootError("neither a CA of people nor a public key of a person is given: nobody is known")
        return cls(certificates, owners)

    def signer(self, spki: bytes) -> Signer:
        """Whose public key it is.

        Raises:
            CertificateError: it is nobody's that the organisation has named.
        """
        person = self._keys.get(spki)
        if person is None:
            raise CertificateError(f"the key {key_id(spki)} is none that was given for a person")
        return Signer(person, "", key_id(spki))

    def certified(self, certificate: bytes, moment: datetime, *, gateway: str, tenant: str) -> Signer:
        """Whose certificate it is.

        Args:
            certificate: DER.
            moment: when it, and the CA's, must have been valid.
            gateway: that it must be for.
            tenant: whose person it must be of.

        Raises:
            CertificateError: none of the CAs has certified it, or not then, or it is not one of a person there.
        """
        leaf = _parse(certificate)
        self._require_issuer(leaf, moment)
        identity = _identity(leaf)
        found = parse_person_id(identity)
        if found is None:
            raise CertificateError(f"the certificate is of {identity!r}, which names no person")
        if (found.gateway, found.tenant) != (gateway, tenant):
            raise CertificateError(f"the certificate is of {identity!r}, not of a person of {tenant} at {gateway}")
        spki = _spki(leaf)
        # Whoever the organisation has given the key for is who it is, however a CA calls them.
        owner = self._keys.get(spki, found.person)
        if owner != found.person:
            raise CertificateError(f"the certificate names {found.person!r}; its key was given for {owner!r}")
        return Signer(found.person, identity, key_id(spki))

    def _require_issuer(self, leaf: x509.Certificate, moment: datetime) -> None:
        if self._store is None:
            raise CertificateError("a statement is signed with a certificate, and no CA of people was given")
        policy = PolicyBuilder().store(self._store).extension_policies(ca_policy=AUTHORITY, ee_policy=CALLER)
        try:
            policy = policy.time(moment)
            chain = policy.build_client_verifier().verify(leaf, []).chain
        except (VerificationError, *UNREADABLE):
            chain = []
        if len(chain) != 2:
            raise CertificateError(
                f"no CA that was given certifies the signer, or not at {moment.isoformat()}: the certificate is valid "
                f"from {leaf.not_valid_before_utc.isoformat()} to {leaf.not_valid_after_utc.isoformat()}"
            )


def public_key_of_certificate(certificate: bytes) -> bytes:
    """The public key of a certificate (DER), as SubjectPublicKeyInfo (DER); nothing is verified.

    Raises:
        CertificateError: the certificate is malformed.
    """
    return _spki(_parse(certificate))


def _parse(certificate: bytes) -> x509.Certificate:
    try:
        found = x509.load_der_x509_certificate(certificate)
        require_readable(found)
    except UNREADABLE:
        raise CertificateError("the certificate is malformed") from None
    return found


def _spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _identity(certificate: x509.Certificate) -> str:
    """The one URI of a certificate that is for callers and no CA's (X.509-SVID sections 2 and 4)."""
    found = {type(one.value): one.value for one in certificate.extensions}
    names, usage = found.get(x509.SubjectAlternativeName), found.get(x509.KeyUsage)
    extended, constraints = found.get(x509.ExtendedKeyUsage), found.get(x509.BasicConstraints)
    if isinstance(constraints, x509.BasicConstraints) and constraints.ca:
        raise CertificateError("the certificate is an authority's")
    if isinstance(usage, x509.KeyUsage) and not usage.digital_signature:
        raise CertificateError("the certificate's key usage does not allow digital signatures")
    if isinstance(extended, x509.ExtendedKeyUsage) and _CLIENT.isdisjoint(extended):
        raise CertificateError("the certificate is not one of a caller")
    uris: list[str] = []
    if isinstance(names, x509.SubjectAlternativeName):
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise CertificateError("the certificate needs exactly one URI as a subject alternative name")
    return uris[0]


def _authorities(data: bytes) -> list[x509.Certificate]:
    try:
        found = x509.load_pem_x509_certificates(data)
        for one in found:
            require_readable(one)
    except UNREADABLE:
        raise TrustRootError("the file of the CA of people holds no PEM certificate that can be read") from None
    return found


def _public_keys(person: str, data: bytes) -> list[bytes]:
    begin = b"-----BEGIN "
    found = []
    try:
        for block in data.split(begin)[1:]:
            key = load_pem_public_key(begin + block)
            found.append(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
            load_approval_key(found[-1])
    except (ValueError, UnsupportedAlgorithm, VerifyError):
        found = []
    if not found:
        raise TrustRootError(f"the file with the key of {person!r} holds no PEM public key that statements fit")
    return found
