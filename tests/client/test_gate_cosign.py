"""A gate believes what cosign attached before there were bundles: read from a registry, verified in full."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import Iterator, Sequence
from datetime import timedelta
from hashlib import sha256
from typing import Any

import pytest
import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sealkeeper.client.gate_evidence import RegistryEvidence, Target
from sealkeeper.client.provenance_sources import RegistrySources, gather
from sealkeeper.registry import Deadline, ImageReference, Registry
from sealkeeper.registry.cosign import SIMPLE_SIGNING
from sealkeeper.registry.manifest import OCI_MANIFEST
from sealkeeper.registry.reference import referrers_tag
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.gate_evidence import given_bundles
from sealkeeper.server.gate_registries import Registries
from sealkeeper.server.settings import RegistrySettings
from sealkeeper.verify.errors import EvidenceError
from sealkeeper.verify.gate.decision import Artifact, Outcome
from sealkeeper.verify.gate.evidence import FoundBundle
from tests.registry.scripted_registry import ScriptedRegistry, described, scripted_registry
from tests.verify.gate.signed_statements import WORKFLOW, codes, decided, trust
from tests.verify.instance import ISSUER, NOW, Instance, Shape, b64, certify, utf8

TYPE = "cosign container image signature"


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    with scripted_registry() as running:
        yield running


def keep_signature(registry: ScriptedRegistry, image: ImageReference, named: str, *, certified: bool) -> str:
    """Keep a signature of a payload that names a digest, as cosign kept it; the signer's key in PEM."""
    instance = Instance(integrated=NOW)
    critical = {"identity": {"docker-reference": image.name}, "image": {"docker-manifest-digest": named}, "type": TYPE}
    payload = json.dumps({"critical": critical, "optional": None}).encode()
    start = NOW - timedelta(minutes=1)
    texts = {1: ISSUER.encode(), 8: utf8(ISSUER)}
    leaf = certify(
        instance, start=start, stamp_time=start, names=[x509.UniformResourceIdentifier(WORKFLOW)], texts=texts
    )
    key = instance.signer.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    pem, signature = leaf.public_bytes(Encoding.PEM) if certified else key, instance.sign(payload)
    spec: dict[str, Any] = {
        "data": {"hash": {"algorithm": "sha256", "value": sha256(payload).hexdigest()}},
        "signature": {"content": b64(signature), "publicKey": {"content": b64(pem)}},
    }
    body = rfc8785.dumps({"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": spec})
    notes = {
        "dev.cosignproject.cosign/signature": b64(signature),
        "dev.sigstore.cosign/bundle": rekor_bundle(instance.entry(Shape(certificate=certified), body)),
        **({"dev.sigstore.cosign/certificate": pem.decode()} if certified else {}),
    }
    config = described(registry.put_blob(b"{}"), 2, "application/vnd.oci.image.config.v1+json")
    layer = described(registry.put_blob(payload), len(payload), SIMPLE_SIGNING, annotations=notes)
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer]}
    registry.put_manifest(image.repository, manifest, referrers_tag(image.digest, ".sig"))
    return str(key.decode())


def rekor_bundle(entry: dict[str, Any]) -> str:
    said = {
        "body": entry["canonicalizedBody"],
        "integratedTime": int(entry["integratedTime"]),
        "logIndex": int(entry["logIndex"]),
        "logID": b64decode(entry["logId"]["keyId"]).hex(),
    }
    stamp = entry["inclusionPromise"]["signedEntryTimestamp"]
    return json.dumps({"SignedEntryTimestamp": stamp, "Payload": said})


def policy_of(signer: str) -> str:
    return f"gate: v1\nsigners:\n  vendor: {signer}\nrequire: {{signatures: {{signers: [vendor]}}}}\n"


async def found_by_gateway(image: ImageReference, artifact: Artifact) -> Sequence[FoundBundle]:
    registries = Registries({"one": RegistrySettings(host=image.registry)}, timedelta(minutes=1), SteadyClock())
    answer = (await registries.attached("acme", image, [artifact]))[artifact.digest]
    await registries.close()
    assert not isinstance(answer, EvidenceError)
    return answer


BY_IDENTITY = policy_of(f"{{identity: '{WORKFLOW}', issuer: '{ISSUER}'}}")


@pytest.mark.parametrize("certified", [True, False], ids=["certificate", "key"])
def test_an_older_signature_counts_here_and_by_way_of_the_gateway(registry: ScriptedRegistry, certified: bool) -> None:
    image = ImageReference.parse(f"{registry.host}/acme/app@{registry.push_image('acme/app')}")
    key = keep_signature(registry, image, image.digest, certified=certified)
    policy = BY_IDENTITY if certified else policy_of(f"{{public_key: {json.dumps(key)}}}")
    artifact = Artifact(str(image), {"sha256": image.digest[7:]})
    found = RegistryEvidence(Registry(proxies={}), Target(artifact, image), Deadline.after(20))(artifact)
    assert decided(policy, [one.data for one in found], artifact).outcome is Outcome.ALLOW
    # Sent to the gateway, it is looked at for this image; and the gateway finds the same by itself.
    assert list(given_bundles([one.data for one in found], artifact)) == [image.digest]
    assert [one.data for one in asyncio.run(found_by_gateway(image, artifact))] == [one.data for one in found]


def test_an_older_signature_of_another_image_does_not_count_where_it_is_kept(registry: ScriptedRegistry) -> None:
    image = ImageReference.parse(f"{registry.host}/acme/app@{registry.push_image('acme/app')}")
    keep_signature(registry, image, registry.push_image("acme/app", layer=b"other"), certified=True)
    artifact = Artifact(str(image), {"sha256": image.digest[7:]})
    found = RegistryEvidence(Registry(proxies={}), Target(artifact, image), Deadline.after(20))(artifact)
    assert codes(decided(BY_IDENTITY, [one.data for one in found], artifact)) == {"SIGNATURES_TOO_FEW"}


def test_the_chain_of_an_image_shows_an_older_signature_of_it_and_none_of_another(registry: ScriptedRegistry) -> None:
    image = ImageReference.parse(f"{registry.host}/acme/app@{registry.push_image('acme/app')}")
    other = registry.push_image("acme/app", layer=b"other")
    for named, shown in ((image.digest, [True]), (other, [])):
        keep_signature(registry, image, named, certified=True)
        target = Target(Artifact(str(image), {"sha256": image.digest[7:]}), image)
        sources = [RegistrySources(Registry(proxies={}), target, Deadline.after(20))]
        found = gather(image.digest, sources, trust()).statements[image.digest]
        assert [one.verified for one in found] == shown
