"""A Sigstore instance in memory, of the public-good one's shape: CA, CT log, Rekor v1 and v2, timestamp authority.

Bundles are written down here a second time, from the specifications, and independently of the code that reads them.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from typing import Any

import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sealkeeper.verify import TrustRoot
from sealkeeper.verify.note import ecdsa_key_id, ed25519_key_id, log_id_ed25519, signature_line
from tests.shapes.world import NOW as NOW_WITH_FRACTION
from tests.shapes.world import pae
from tests.verify import naive_tree
from tests.verify.signed import RUNNER, signed

NOW = NOW_WITH_FRACTION.replace(microsecond=0)
START, END = NOW - timedelta(days=300), NOW + timedelta(days=300)
LIFETIME = timedelta(minutes=10)
REKOR_V1, REKOR_V2, TREE = "rekor.instance.example", "log2026-1.rekor.instance.example", "1193050959916656506"
IDENTITY = "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v1"
ISSUER = "https://token.actions.githubusercontent.com"
ARTIFACT = b"the artifact"
IN_TOTO = "application/vnd.in-toto+json"
STATEMENT = json.dumps(
    {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "artifact", "digest": {"sha256": sha256(ARTIFACT).hexdigest()}}],
        "predicateType": "https://example.com/predicate/v1",
        "predicate": {},
    }
).encode()
MEDIA_TYPES = {
    "0.1": "application/vnd.dev.sigstore.bundle+json;version=0.1",
    "0.2": "application/vnd.dev.sigstore.bundle+json;version=0.2",
    "0.3": "application/vnd.dev.sigstore.bundle.v0.3+json",
    "0.3+json": "application/vnd.dev.sigstore.bundle+json;version=0.3",
}
_OFFSET = 121_903_000
"""What earlier shards of Rekor v1 hold: the index over all shards is that much more than the one in the tree."""


def b64(data: bytes) -> str:
    return b64encode(data).decode()


def der(one: Any) -> bytes:
    """Of a certificate, or of a private key's public one."""
    if isinstance(one, x509.Certificate):
        return one.public_bytes(Encoding.DER)
    spki: bytes = one.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return spki


def utf8(text: str) -> bytes:
    """DER UTF8String."""
    data = text.encode()
    size = len(data)
    length = bytes([size]) if size < 128 else bytes([0x81, size]) if size < 256 else b"\x82" + size.to_bytes(2, "big")
    return b"\x0c" + length + data


@dataclass(frozen=True)
class Shape:
    """What a bundle is made of.

    Attributes:
        version: of the format; a key of ``MEDIA_TYPES``.
        certificate: rather than a hint at a key.
        kind: of the log entry.
        kind_version: of that.
        envelope: rather than a message.
        stamped: by the timestamp authority.
        promised: with a signed entry timestamp; Rekor v1 only.
        proven: with an inclusion proof.
    """

    version: str = "0.3"
    certificate: bool = True
    kind: str = "hashedrekord"
    kind_version: str = "0.0.1"
    envelope: bool = False
    stamped: bool = False
    promised: bool = True
    proven: bool = True

    def __str__(self) -> str:
        material, content = "certificate" if self.certificate else "key", "dsse" if self.envelope else "message"
        times = "+".join([name for name in ("stamped", "promised", "proven") if getattr(self, name)])
        return f"v{self.version}-{material}-{content}-{self.kind}-{self.kind_version}-{times}"


def all_shapes() -> list[Shape]:
    """Every combination of format, material, content, kind of entry, and what vouches for its time."""
    kinds = [
        ("hashedrekord", "0.0.1", False),
        ("dsse", "0.0.1", True),
        ("intoto", "0.0.2", True),
        ("hashedrekord", "0.0.2", False),
        ("hashedrekord", "0.0.2", True),
    ]
    found = []
    for version in MEDIA_TYPES:
        for certificate in (False, True):
            for kind, kind_version, envelope in kinds:
                base = (version, certificate, kind, kind_version, envelope)
                if (kind, kind_version) == ("hashedrekord", "0.0.2"):
                    # Rekor v2 promises nothing, and v0.1 wants a promise.
                    found += [Shape(*base, stamped=True, promised=False)] if version != "0.1" else []
                    continue
                found += [Shape(*base), Shape(*base, stamped=True)]
                found += [Shape(*base, proven=False)] if version == "0.1" else []
                found += [Shape(*base, stamped=True, promised=False)] if version != "0.1" else []
    return found


@dataclass
class Instance:
    """The keys of an instance; those that vary are parameters."""

    rekor_v1: Any = field(default_factory=lambda: ec.derive_private_key(21, ec.SECP256R1()))
    rekor_v1_details: str = "PKIX_ECDSA_P256_SHA_256"
    signer: Any = field(default_factory=lambda: ec.derive_private_key(22, ec.SECP256R1()))
    root_key: Any = field(default_factory=lambda: ec.derive_private_key(23, ec.SECP384R1()))
    ca_key: Any = field(default_factory=lambda: ec.derive_private_key(24, ec.SECP384R1()))
    ct: Any = field(default_factory=lambda: ec.derive_private_key(25, ec.SECP256R1()))
    rekor_v2: ed25519.Ed25519PrivateKey = field(
        default_factory=lambda: ed25519.Ed25519PrivateKey.from_private_bytes(b"\x1a" * 32)
    )
    integrated: datetime = NOW

    def __post_init__(self) -> None:
        self.root = _authority("root", "root", self.root_key, self.root_key)
        self.ca = _authority("intermediate", "root", self.ca_key, self.root_key)

    # Trust.

    def trusted_root(self, change: Callable[[Any], None] = lambda _: None) -> bytes:
        """``trusted_root.json``, with two retired services beside the current ones."""
        world = signed().world
        spki = der(self.rekor_v2)
        log_id = log_id_ed25519(REKOR_V2, self.rekor_v2.public_key().public_bytes_raw())
        rekor, ct = der(self.rekor_v1), der(self.ct)
        retired = der(ec.derive_private_key(31, ec.SECP256R1()))
        old = {"start": "2021-01-01T00:00:00Z", "end": "2022-10-31T23:59:59.999Z"}
        document = {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [
                _log(f"https://{REKOR_V1}", rekor, self.rekor_v1_details, sha256(rekor).digest()),
                _log(f"https://{REKOR_V2}", spki, "PKIX_ED25519", log_id),
            ],
            "ctlogs": [
                _log("https://ctfe.instance.example/old", retired, "PKIX_ECDSA_P256_SHA_256", None, old),
                _log("https://ctfe.instance.example/2026", ct, "PKIX_ECDSA_P256_SHA_256", None),
            ],
            "certificateAuthorities": [_chain([self.root], old), _chain([self.ca, self.root])],
            "timestampAuthorities": [_chain(list(world.tsa.chain))],
        }
        change(document)
        return json.dumps(document).encode()

    def trust(self, change: Callable[[Any], None] = lambda _: None) -> TrustRoot:
        return TrustRoot.from_json(self.trusted_root(change))

    # Signatures.

    def certify(self, **options: Any) -> x509.Certificate:
        """The signer's certificate; see ``certify``."""
        return certify(self, **options)

    def sign(self, data: bytes) -> bytes:
        key = self.signer
        if isinstance(key, ed25519.Ed25519PrivateKey):
            return key.sign(data)
        if isinstance(key, rsa.RSAPrivateKey):
            return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
        signature: bytes = key.sign(data, ec.ECDSA(self._hash()))
        return signature

    def _hash(self) -> Any:
        size = self.signer.key_size if isinstance(self.signer, ec.EllipticCurvePrivateKey) else 256
        return {384: hashes.SHA384(), 521: hashes.SHA512()}.get(size, hashes.SHA256())

    def details(self) -> tuple[str, str, str]:
        """Of the signer's algorithm: ``keyDetails``, its digest in ``HashAlgorithm``, and in Rekor v1."""
        if isinstance(self.signer, ed25519.Ed25519PrivateKey):
            return "PKIX_ED25519", "SHA2_256", "sha256"
        if isinstance(self.signer, rsa.RSAPrivateKey):
            return f"PKIX_RSA_PKCS1V15_{self.signer.key_size}_SHA256", "SHA2_256", "sha256"
        bits = {256: 256, 384: 384, 521: 512}[self.signer.key_size]
        return f"PKIX_ECDSA_P{self.signer.key_size}_SHA_{bits}", f"SHA2_{bits}", f"sha{bits}"

    def digest(self, data: bytes) -> bytes:
        hashed = hashes.Hash(self._hash())
        hashed.update(data)
        return hashed.finalize()

    # Bundles.

    def bundle(
        self, shape: Shape, change_body: Callable[[Any], None] = lambda _: None, certificate: Any = None
    ) -> dict[str, Any]:
        """A bundle of ``ARTIFACT`` or ``STATEMENT``; its entry's body changed before the log takes it in."""
        leaf = certificate if certificate is not None else self.certify()
        signature = self.sign(pae(IN_TOTO, STATEMENT) if shape.envelope else ARTIFACT)
        document = self._body(shape, leaf, signature)
        change_body(document)
        entry = self.entry(shape, rfc8785.dumps(document))
        material: dict[str, Any] = {"tlogEntries": [entry]}
        if not shape.certificate:
            material["publicKey"] = {"hint": self.hint}
        elif shape.version.startswith("0.3"):
            material["certificate"] = {"rawBytes": b64(der(leaf))}
        else:
            chain = (leaf, self.ca, self.root) if shape.version == "0.1" else (leaf,)
            material["x509CertificateChain"] = {"certificates": [{"rawBytes": b64(der(one))} for one in chain]}
        # An empty one is what some clients write.
        material["timestampVerificationData"] = {}
        if shape.stamped:
            [stamp] = RUNNER.run(signed().world.tsa.stamp([signature]))
            material["timestampVerificationData"] = {"rfc3161Timestamps": [{"signedTimestamp": b64(stamp)}]}
        return {
            "mediaType": MEDIA_TYPES[shape.version],
            "verificationMaterial": material,
            **self._content(shape, signature),
        }

    @property
    def hint(self) -> str:
        return b64(sha256(der(self.signer)).digest())

    def _content(self, shape: Shape, signature: bytes) -> dict[str, Any]:
        if shape.envelope:
            one = {"sig": b64(signature), **({} if shape.certificate else {"keyid": self.hint})}
            return {"dsseEnvelope": {"payload": b64(STATEMENT), "payloadType": IN_TOTO, "signatures": [one]}}
        digest = {"algorithm": self.details()[1], "digest": b64(self.digest(ARTIFACT))}
        return {"messageSignature": {"messageDigest": digest, "signature": b64(signature)}}

    def _body(self, shape: Shape, leaf: x509.Certificate, signature: bytes) -> dict[str, Any]:
        details, algorithm, name = self.details()
        if shape.kind_version == "0.0.2" and shape.kind == "hashedrekord":
            data = pae(IN_TOTO, STATEMENT) if shape.envelope else ARTIFACT
            raw = {"rawBytes": b64(der(leaf if shape.certificate else self.signer))}
            verifier = {"x509Certificate" if shape.certificate else "publicKey": raw, "keyDetails": details}
            record = {
                "data": {"algorithm": algorithm, "digest": b64(self.digest(data))},
                "signature": {"content": b64(signature), "verifier": verifier},
            }
            return {"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": {"hashedRekordV002": record}}
        pem = leaf.public_bytes(Encoding.PEM)
        if not shape.certificate:
            pem = self.signer.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        payload = {"algorithm": "sha256", "value": sha256(STATEMENT).hexdigest()}
        sent = {"algorithm": "sha256", "value": sha256(b"the envelope as it was sent").hexdigest()}
        if shape.kind == "dsse":
            one = {"signature": b64(signature), "verifier": b64(pem)}
            spec: dict[str, Any] = {"envelopeHash": sent, "payloadHash": payload, "signatures": [one]}
        elif shape.kind == "intoto":
            two = {"sig": b64(b64(signature).encode()), "publicKey": b64(pem)}
            two |= {} if shape.certificate else {"keyid": self.hint}
            envelope = {"payloadType": IN_TOTO, "signatures": [two]}
            spec = {"content": {"envelope": envelope, "hash": sent, "payloadHash": payload}}
        else:
            spec = {
                "data": {"hash": {"algorithm": name, "value": self.digest(ARTIFACT).hex()}},
                "signature": {"content": b64(signature), "publicKey": {"content": b64(pem)}},
            }
        return {"apiVersion": shape.kind_version, "kind": shape.kind, "spec": spec}

    def entry(self, shape: Shape, body: bytes) -> dict[str, Any]:
        """A log entry, third of a tree of five."""
        v2 = (shape.kind, shape.kind_version) == ("hashedrekord", "0.0.2")
        leaves = [b"first", b"second", body, b"fourth", b"fifth"]
        log_id = self.log_ids[v2]
        entry: dict[str, Any] = {
            "logIndex": str(2 if v2 else _OFFSET + 2),
            "logId": {"keyId": b64(log_id)},
            "kindVersion": {"kind": shape.kind, "version": shape.kind_version},
            "integratedTime": "0" if v2 else str(int(self.integrated.timestamp())),
            "canonicalizedBody": b64(body),
        }
        if shape.promised:
            entry["inclusionPromise"] = {"signedEntryTimestamp": b64(self.promise(entry))}
        if shape.proven:
            entry["inclusionProof"] = {
                "logIndex": "2",
                "rootHash": b64(naive_tree.root(leaves)),
                "treeSize": "5",
                "hashes": [b64(one) for one in naive_tree.inclusion_proof(2, leaves)],
                "checkpoint": {"envelope": self.checkpoint(naive_tree.root(leaves), v2=v2)},
            }
        return entry

    @property
    def log_ids(self) -> Mapping[bool, bytes]:
        """Of Rekor v1 (False) and v2 (True)."""
        raw = self.rekor_v2.public_key().public_bytes_raw()
        return {False: sha256(der(self.rekor_v1)).digest(), True: log_id_ed25519(REKOR_V2, raw)}

    def promise(self, entry: dict[str, Any]) -> bytes:
        """Rekor v1's signed entry timestamp of an entry."""
        payload = {
            "body": entry["canonicalizedBody"],
            "integratedTime": int(entry["integratedTime"]),
            "logID": self.log_ids[False].hex(),
            "logIndex": int(entry["logIndex"]),
        }
        return self.sign_as_rekor_v1(rfc8785.dumps(payload))

    def sign_as_rekor_v1(self, data: bytes) -> bytes:
        key = self.rekor_v1
        if isinstance(key, ed25519.Ed25519PrivateKey):
            return key.sign(data)
        if isinstance(key, rsa.RSAPrivateKey):
            return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
        algorithm = {384: hashes.SHA384(), 521: hashes.SHA512()}.get(key.key_size, hashes.SHA256())
        signature: bytes = key.sign(data, ec.ECDSA(algorithm))
        return signature

    def checkpoint(self, root: bytes, *, v2: bool, origin: str = "") -> str:
        """Signed by its log."""
        name = REKOR_V2 if v2 else REKOR_V1
        text = f"{origin or (name if v2 else f'{name} - {TREE}')}\n5\n{b64(root)}\n"
        if v2:
            key_id = ed25519_key_id(name, self.rekor_v2.public_key().public_bytes_raw())
            return f"{text}\n{signature_line(name, key_id, self.rekor_v2.sign(text.encode()))}"
        key_id = ecdsa_key_id(der(self.rekor_v1))
        return f"{text}\n{signature_line(name, key_id, self.sign_as_rekor_v1(text.encode()))}"


def _log(url: str, spki: bytes, details: str, log_id: bytes | None, valid: Any = None) -> dict[str, Any]:
    return {
        "baseUrl": url,
        "hashAlgorithm": "SHA2_256",
        "publicKey": {
            "rawBytes": b64(spki),
            "keyDetails": details,
            "validFor": valid or {"start": START.isoformat().replace("+00:00", "Z")},
        },
        "logId": {"keyId": b64(log_id or sha256(spki).digest())},
    }


def _chain(certificates: list[x509.Certificate], valid: Any = None) -> dict[str, Any]:
    return {
        "subject": {"organization": "instance.example", "commonName": "instance"},
        "uri": "https://instance.example",
        "certChain": {"certificates": [{"rawBytes": b64(der(one))} for one in certificates]},
        "validFor": valid or {"start": START.isoformat().replace("+00:00", "Z")},
    }


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(not authority, False, False, False, False, authority, authority, False, False)


@cache
def _certificate(subject: str, issuer: str, key: Any, issuer_key: Any) -> x509.Certificate:
    return (
        x509.CertificateBuilder(_name(issuer), _name(subject), key.public_key(), 7, START, END)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1 if subject == "root" else 0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA384())
    )


def _authority(subject: str, issuer: str, key: Any, issuer_key: Any) -> x509.Certificate:
    return _certificate(subject, issuer, key, issuer_key)


FULCIO = "1.3.6.1.4.1.57264.1"
CLAIMS = {
    9: IDENTITY,
    11: "github-hosted",
    12: "https://github.com/acme/app",
    13: "a" * 40,
    14: "refs/tags/v1",
    15: "123",
    16: "https://github.com/acme",
    20: "push",
    22: "public",
}


def certify(
    instance: Instance,
    *,
    start: datetime = NOW - timedelta(minutes=1),
    names: Any = None,
    texts: Mapping[int, bytes] | None = None,
    stamped: bool = True,
    stamp_time: datetime = NOW - timedelta(minutes=1),
    code_signing: bool = True,
) -> x509.Certificate:
    """A signer's certificate as Fulcio issues it, with a certificate timestamp.

    Args:
        instance: whose CA and CT log, and whose signer.
        start: of its ten minutes.
        names: subject alternative names; the identity's URI by default.
        texts: Fulcio's extensions by their last number, encoded; issuer and claims by default.
        stamped: with the certificate timestamp.
        stamp_time: of that.
        code_signing: what it is for.
    """
    public = instance.signer.public_key()
    texts = (
        texts if texts is not None else {1: ISSUER.encode(), 8: utf8(ISSUER)} | {k: utf8(v) for k, v in CLAIMS.items()}
    )
    purpose = ExtendedKeyUsageOID.CODE_SIGNING if code_signing else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        x509.CertificateBuilder(instance.ca.subject, x509.Name([]), public, 99, start, start + LIFETIME)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(instance.ca_key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName(names or [x509.UniformResourceIdentifier(IDENTITY)]), critical=True)
    )
    for number, value in texts.items():
        oid = x509.ObjectIdentifier(f"{FULCIO}.{number}")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
    if stamped:
        builder = builder.add_extension(_timestamp(instance, builder, stamp_time), critical=False)
    return builder.sign(instance.ca_key, hashes.SHA384())


def _timestamp(instance: Instance, builder: x509.CertificateBuilder, moment: datetime) -> x509.UnrecognizedExtension:
    """RFC 6962 section 3.2."""
    tbs = builder.sign(instance.ca_key, hashes.SHA384()).tbs_certificate_bytes
    milliseconds = int((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1)).to_bytes(8, "big")
    issuer = sha256(der(instance.ca_key)).digest()
    entry = b"\0\0" + milliseconds + b"\0\1" + issuer + len(tbs).to_bytes(3, "big") + tbs + b"\0\0"
    signature = instance.ct.sign(entry, ec.ECDSA(hashes.SHA256()))
    log_id = sha256(der(instance.ct)).digest()
    one = b"\0" + log_id + milliseconds + b"\0\0" + b"\4\3" + len(signature).to_bytes(2, "big") + signature
    stamps = len(one).to_bytes(2, "big") + one
    value = len(stamps).to_bytes(2, "big") + stamps
    return x509.UnrecognizedExtension(
        x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2"), b"\x04" + bytes([len(value)]) + value
    )
