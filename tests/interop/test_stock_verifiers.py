"""Bundles as the gateway makes them, before verifiers that this project did not write."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sealkeeper.hsm import ALGORITHMS, ProviderKey
from tests.interop.stock import Job, refusal_of_sigstore_python, refusals_of_sigstore_js
from tests.shapes.world import DOMAIN, KEY, World

ARTIFACT = b"the artifact"
IDENTITY, ISSUER = f"https://{DOMAIN}/{KEY}", f"https://{DOMAIN}"
IN_TOTO = "application/vnd.in-toto+json"
STATEMENT = json.dumps(
    {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "artifact", "digest": {"sha256": "00" * 32}}],
        "predicateType": "https://example.com/predicate/v1",
        "predicate": {},
    }
).encode()


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return await World.create(tmp_path)


async def generate(world: World, name: str = "PKIX_ECDSA_P256_SHA_256") -> ProviderKey:
    return await world.provider.generate("release", ALGORITHMS[name])


async def job(world: World, key: ProviderKey, *, certificate: bool, dsse: bool = False) -> Job:
    content, payload_type = (STATEMENT, IN_TOTO) if dsse else (ARTIFACT, "")
    return Job(
        bundle=await world.bundle(key, content, certificate=certificate, payload_type=payload_type),
        artifact=None if dsse else ARTIFACT,
        trusted_root=world.trusted_root(),
        keys=json.loads(world.keys(key))["keys"],
        identity=IDENTITY if certificate else None,
        issuer=ISSUER if certificate else None,
    )


async def test_both_kinds_of_bundle_are_accepted(world: World) -> None:
    key = await generate(world)
    plain = [await job(world, key, certificate=certificate) for certificate in (False, True)]
    assert refusals_of_sigstore_js(plain) == [None, None]
    # Envelopes go to sigstore-python only: @sigstore/verify 3.1.1 compares the digest of a hashedrekord with that of
    # the payload, Rekor v2 logs that of the pre-authentication encoding.
    envelope = await job(world, key, certificate=True, dsse=True)
    assert [refusal_of_sigstore_python(one) for one in (plain[1], envelope)] == [None, None]


# What @sigstore/verify 3.1.1 can check of keys that it is given.
async def test_key_bundles_of_more_algorithms_are_accepted_by_sigstore_js(world: World) -> None:
    names = ["PKIX_ECDSA_P384_SHA_384", "PKIX_RSA_PKCS1V15_2048_SHA256"]
    jobs = [await job(world, await generate(world, name), certificate=False) for name in names]
    assert refusals_of_sigstore_js(jobs) == [None] * len(jobs)


def replace(path: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    """Change one member of a bundle; numbers in the path are places in a list."""

    def apply(document: dict[str, Any]) -> None:
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        place: Any = document
        for part in parents:
            place = place[part]
        place[last] = change(place[last])

    return apply


def flipped(text: str) -> str:
    data = bytearray(b64decode(text))
    data[len(data) // 2] ^= 1
    return b64encode(data).decode()


def flipped_at_the_end(text: str) -> str:
    """Flips a bit of a timestamp's signature, which is its end."""
    data = bytearray(b64decode(text))
    data[-3] ^= 1
    return b64encode(data).decode()


ENTRY = "verificationMaterial.tlogEntries.0"
TAMPERINGS = {
    "signature": replace("messageSignature.signature", flipped),
    "entry body": replace(f"{ENTRY}.canonicalizedBody", flipped),
    "proof hash": replace(f"{ENTRY}.inclusionProof.hashes.0", flipped),
    "root hash": replace(f"{ENTRY}.inclusionProof.rootHash", flipped),
    "log index": replace(f"{ENTRY}.inclusionProof.logIndex", lambda text: str(int(text) - 1)),
    "tree size": replace(f"{ENTRY}.inclusionProof.treeSize", lambda text: str(int(text) + 5)),
    "checkpoint": replace(f"{ENTRY}.inclusionProof.checkpoint.envelope", lambda text: text.replace("\n8\n", "\n9\n")),
    "log": replace(f"{ENTRY}.logId.keyId", flipped),
    "timestamp": replace(
        "verificationMaterial.timestampVerificationData.rfc3161Timestamps.0.signedTimestamp", flipped_at_the_end
    ),
    "no timestamp": replace("verificationMaterial.timestampVerificationData.rfc3161Timestamps", lambda _: []),
    "no entry": replace("verificationMaterial.tlogEntries", lambda _: []),
}
# What a stock verifier lets pass: both find the log by its checkpoint's key, and take size and root from there.
LET_PASS = {(which, name) for which in ("js", "python") for name in ("log", "root hash", "tree size")}


@pytest.mark.parametrize("certificate", [False, True], ids=["key", "certificate"])
async def test_every_tampering_is_refused(world: World, certificate: bool) -> None:
    good = await job(world, await generate(world), certificate=certificate)
    jobs = {}
    for name, tamper in TAMPERINGS.items():
        document = json.loads(good.bundle)
        tamper(document)
        assert document != json.loads(good.bundle), name
        jobs[name] = Job(
            json.dumps(document).encode(), ARTIFACT, good.trusted_root, good.keys, good.identity, good.issuer
        )
    jobs["artifact"] = Job(good.bundle, b"another artifact", good.trusted_root, good.keys, good.identity, good.issuer)
    if certificate:
        for name, identity, issuer in (
            ("identity", f"{IDENTITY}x", ISSUER),
            ("issuer", IDENTITY, "https://other.example"),
        ):
            jobs[name] = Job(good.bundle, ARTIFACT, good.trusted_root, good.keys, identity, issuer)
    answers = {
        ("js", name): text for name, text in zip(jobs, refusals_of_sigstore_js(list(jobs.values())), strict=True)
    }
    if certificate:
        answers |= {("python", name): refusal_of_sigstore_python(one) for name, one in jobs.items()}
    assert {which for which, text in answers.items() if text is None} <= LET_PASS


async def test_a_bundle_of_another_key_or_another_gateway_is_refused(world: World, tmp_path: Path) -> None:
    key, other = await generate(world), await generate(world)
    good = await job(world, key, certificate=False)
    swapped = json.loads(world.keys(other))["keys"][0] | {"hint": good.keys[0]["hint"]}
    (tmp_path / "other").mkdir()
    stranger = await World.create(tmp_path / "other")
    certified = await job(world, key, certificate=True)
    jobs = [
        Job(good.bundle, ARTIFACT, good.trusted_root, [swapped]),
        Job(good.bundle, ARTIFACT, stranger.trusted_root(), good.keys),
        Job(certified.bundle, ARTIFACT, stranger.trusted_root(), [], IDENTITY, ISSUER),
    ]
    assert all(refusals_of_sigstore_js(jobs))
    assert refusal_of_sigstore_python(jobs[2])
