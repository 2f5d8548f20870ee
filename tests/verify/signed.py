"""Bundles of every shape, made once, and ways to change one place of them."""

from __future__ import annotations

import asyncio
import atexit
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from sealkeeper.hsm import ALGORITHMS, ProviderKey
from sealkeeper.verify import Artifact, Policy, TrustRoot, VerificationResult, verify
from tests.shapes.world import KEY, World

ARTIFACT = b"the artifact"
P256 = "PKIX_ECDSA_P256_SHA_256"
STATEMENT = "application/vnd.in-toto+json"
# One loop for all: a provider belongs to the loop that it was opened in.
RUNNER = asyncio.Runner()
atexit.register(RUNNER.close)
BY_KEY = Policy(key=KEY)


@dataclass(frozen=True)
class Signed:
    """A world, one of its keys, and its bundles."""

    world: World
    key: ProviderKey
    key_bundle: bytes
    certificate_bundle: bytes
    key_envelope: bytes
    certificate_envelope: bytes

    @property
    def trust(self) -> TrustRoot:
        return self.trust_in("ACTIVE")

    def trust_in(self, state: str, change: Callable[[Any], None] = lambda _: None) -> TrustRoot:
        """The trust root with the key in that state, and its record changed."""
        keys = json.loads(self.world.keys(self.key, state))
        change(keys["keys"][0])
        return TrustRoot.from_json(self.world.trusted_root(), json.dumps(keys).encode())


@cache
def signed(algorithm: str = P256) -> Signed:
    async def make() -> Signed:
        world = await World.create(Path(mkdtemp()))
        key = await world.provider.generate("key", ALGORITHMS[algorithm])
        kinds = [(False, ""), (True, ""), (False, STATEMENT), (True, STATEMENT)]
        bundles = [
            await world.bundle(key, ARTIFACT, certificate=certificate, payload_type=kind) for certificate, kind in kinds
        ]
        return Signed(world, key, *bundles)

    return RUNNER.run(make())


def changed(bundle: bytes, change: Callable[[Any], None]) -> bytes:
    document = json.loads(bundle)
    change(document)
    return json.dumps(document).encode()


def edited_trusted_root(one: Signed, change: Callable[[Any], None]) -> TrustRoot:
    """The trust root with ``trusted_root.json`` changed."""
    document = json.loads(one.world.trusted_root())
    change(document)
    return TrustRoot.from_json(json.dumps(document).encode(), one.world.keys(one.key))


def check(
    bundle: bytes, trust: TrustRoot, policy: Policy = BY_KEY, artifact: Artifact | None = None
) -> VerificationResult:
    return verify(bundle, artifact or Artifact.from_bytes(ARTIFACT), trust, policy)


def failed_step(result: VerificationResult) -> str:
    """The step that failed; all before it passed."""
    assert not result.verified
    assert all(step.passed for step in result.steps[:-1])
    assert not result.steps[-1].passed
    assert result.steps[-1].detail
    return result.steps[-1].name


ENTRY_PATHS = [
    ["mediaType"],
    ["verificationMaterial"],
    ["verificationMaterial", "publicKey"],
    ["verificationMaterial", "tlogEntries"],
    ["verificationMaterial", "tlogEntries", "logIndex"],
    ["verificationMaterial", "tlogEntries", "logId"],
    ["verificationMaterial", "tlogEntries", "kindVersion"],
    ["verificationMaterial", "tlogEntries", "inclusionProof"],
    ["verificationMaterial", "tlogEntries", "inclusionProof", "treeSize"],
    ["verificationMaterial", "tlogEntries", "inclusionProof", "rootHash"],
    ["verificationMaterial", "tlogEntries", "inclusionProof", "hashes"],
    ["verificationMaterial", "tlogEntries", "inclusionProof", "checkpoint"],
    ["verificationMaterial", "timestampVerificationData"],
    ["messageSignature"],
    ["messageSignature", "messageDigest"],
]
"""Places in a key bundle of a message, a list standing for its first item."""
