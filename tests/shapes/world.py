"""A gateway's authorities with software keys and a log of a few leaves, without the gateway."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256, sha384, sha512
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from sealkeeper.hsm import ALGORITHMS, Algorithm, KeyProvider, ProviderKey, open_provider
from sealkeeper.server.bundle import BundleTemplate
from sealkeeper.server.certificates import CertificateAuthority, create_certificate_chain
from sealkeeper.server.entry import EntryTemplate
from sealkeeper.server.log.merkle_tree import Edge, MerkleTree
from sealkeeper.server.log.tiles import TileStore
from sealkeeper.server.timestamping import TimestampAuthority, create_timestamp_chain
from sealkeeper.server.trusted_root import Authority, LogKey, TenantKey, key_hint, keys_json, trusted_root_json
from sealkeeper.verify.merkle import leaf_hash
from sealkeeper.verify.note import Checkpoint, log_id_ed25519, signature_line

DOMAIN = "sealkeeper.example"
KEY = "tenants/acme/keys/release"
START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 6, 1, 12, 0, 0, 250_000, tzinfo=UTC)
_HASHES = {"sha256": (sha256, "SHA2_256"), "sha384": (sha384, "SHA2_384"), "sha512": (sha512, "SHA2_512")}


@dataclass(frozen=True)
class Inclusion:
    index: int
    tree_size: int
    root_hash: bytes
    hashes: tuple[bytes, ...]
    checkpoint: str


@dataclass
class World:
    """Everything that a verifier has to trust, and what it takes to sign."""

    provider: KeyProvider
    tsa: TimestampAuthority
    ca: CertificateAuthority
    log: ed25519.Ed25519PrivateKey
    ct: ProviderKey
    origin: str = f"log.{DOMAIN}"

    @classmethod
    async def create(cls, directory: Path) -> World:
        seal = directory / "seal"
        seal.write_text("5a" * 32)
        seal.chmod(0o600)
        provider = await open_provider(f"software://{directory}/keys?sealing-key-source=file:{seal}")
        p256, p384 = ALGORITHMS["PKIX_ECDSA_P256_SHA_256"], ALGORITHMS["PKIX_ECDSA_P384_SHA_384"]
        tsa_root, ca_root, ca = [await provider.generate("authority", p384) for _ in range(3)]
        tsa, ct = [await provider.generate("signer", p256) for _ in range(2)]
        end = START + timedelta(days=3650)
        stamps = await create_timestamp_chain(provider, tsa_root, tsa, DOMAIN, START, end)
        chain = await create_certificate_chain(provider, ca_root, ca, DOMAIN, START, end)
        return cls(
            provider,
            TimestampAuthority(provider, tsa, stamps, lambda: NOW),
            CertificateAuthority(provider, ca, chain, ct, DOMAIN, timedelta(minutes=10), lambda: NOW),
            ed25519.Ed25519PrivateKey.from_private_bytes(b"\7" * 32),
            ct,
        )

    @property
    def log_id(self) -> bytes:
        return log_id_ed25519(self.origin, self.log.public_key().public_bytes_raw())

    def trusted_root(self) -> bytes:
        spki = self.log.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        ct = self.ct.public_key
        return trusted_root_json(
            [LogKey(self.origin, spki, "PKIX_ED25519", self.log_id, START)],
            [LogKey(f"ct.{DOMAIN}", ct, "PKIX_ECDSA_P256_SHA_256", sha256(ct).digest(), START)],
            [Authority(f"https://{DOMAIN}", self.ca.chain)],
            [Authority(f"https://{DOMAIN}", self.tsa.chain)],
        )

    def keys(self, key: ProviderKey, state: str = "ACTIVE") -> bytes:
        one = TenantKey(f"{KEY}/versions/1", key.public_key, key.algorithm.name, state, START)
        return keys_json(DOMAIN, "acme", NOW, [one])

    def include(self, entry: bytes, others: int = 6) -> Inclusion:
        """Log an entry after some others and before one more."""
        tree = MerkleTree(TileStore(Path("/nonexistent"), private=False))
        for leaf in [b"other %d" % number for number in range(others)] + [entry, b"later"]:
            tree.extend([leaf_hash(leaf)])
        edge = Edge(tree, tree.size)
        text = Checkpoint(self.origin, tree.size, edge.root).text()
        note = f"{text}\n{signature_line(self.origin, self.log_id[:4], self.log.sign(text.encode()))}"
        return Inclusion(others, tree.size, edge.root, edge.inclusion_proof(others), note)

    async def sign(self, key: ProviderKey, data: bytes) -> tuple[str, bytes, bytes]:
        """Digest name, digest as the entry has it, signature."""
        algorithm: Algorithm = key.algorithm
        function, name = _HASHES[algorithm.digest or "sha256"]
        digest = function(data).digest()
        [signature] = await self.provider.sign(key.handle, algorithm, [digest if algorithm.signs_digest else data])
        return name, digest, signature

    async def bundle(self, key: ProviderKey, artifact: bytes, *, certificate: bool, payload_type: str = "") -> bytes:
        """A bundle of the artifact, or of a DSSE envelope around it where a payload type is given."""
        data = pae(payload_type, artifact) if payload_type else artifact
        name, digest, signature = await self.sign(key, data)
        verifier, template = key.public_key, BundleTemplate.for_public_key(key_hint(key.public_key), self.log_id)
        if certificate:
            verifier = (await self.ca.issue(KEY, key.public_key)).der
            template = BundleTemplate.for_certificate(verifier, self.log_id)
        entry = EntryTemplate(key.algorithm.name, verifier, is_certificate=certificate).body(name, digest, signature)
        [stamp] = await self.tsa.stamp([signature])
        if payload_type:
            return template.dsse(payload_type, artifact, signature, entry, self.include(entry), stamp)
        return template.message_signature(name, digest, signature, entry, self.include(entry), stamp)


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE protocol v1, written down a second time on purpose."""
    parts: Sequence[bytes] = (b"DSSEv1", b"%d" % len(payload_type), payload_type.encode(), b"%d" % len(payload))
    return b" ".join(parts) + b" " + payload
