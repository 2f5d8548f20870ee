"""Really signed Statements: by keys of a gateway's tenants, and by identities of a Sigstore instance, at any time."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from hashlib import sha256
from typing import Any

import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sealkeeper.hsm import ALGORITHMS, ProviderKey
from sealkeeper.server.bundle import BundleTemplate
from sealkeeper.server.certificates import CertificateAuthority
from sealkeeper.server.entry import EntryTemplate
from sealkeeper.server.timestamping import TimestampAuthority
from sealkeeper.server.trusted_root import TenantKey, key_hint, keys_json
from sealkeeper.verify import TrustRoot
from sealkeeper.verify.gate.decision import Artifact, Decision
from sealkeeper.verify.gate.evaluate import Context, evaluate
from sealkeeper.verify.gate.evidence import FoundBundle
from sealkeeper.verify.gate.policy import parse_policy
from tests.shapes.world import DOMAIN, START, World, pae
from tests.verify.instance import (
    CLAIMS,
    IN_TOTO,
    ISSUER,
    MEDIA_TYPES,
    NOW,
    Instance,
    Shape,
    b64,
    certify,
    der,
    utf8,
)
from tests.verify.signed import P256, RUNNER, signed

ARTIFACT = b"an image"
DIGEST = sha256(ARTIFACT).hexdigest()
APP = Artifact("registry.example/acme/app", {"sha256": DIGEST})
SUBJECT = {"name": "app", "digest": {"sha256": DIGEST}}
REPOSITORY = "https://github.com/acme/app"
WORKFLOW = f"{REPOSITORY}/.github/workflows/release.yml@refs/tags/v1"
HOSTED = "https://github.com/actions/runner/github-hosted"
PROVENANCE = "https://slsa.dev/provenance/v1"
SUMMARY = "https://slsa.dev/verification_summary/v1"
SCAN = "https://in-toto.io/attestation/vulns/v0.1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
RELEASE, RELEASE_2, QA, GATES = "release/versions/1", "release/versions/2", "qa/versions/1", "gates/versions/1"
STRANGER = "stranger/versions/1"
"""Of a tenant whose keys nobody here lists."""
LISTED = (RELEASE, RELEASE_2, QA, GATES)
INSTANCE = Instance()

POLICY = f"""
gate: v1
signers:
  release: {{key: tenants/acme/keys/release}}
  qa: {{key: tenants/acme/keys/qa}}
  gates: {{key: tenants/acme/keys/gates}}
  github: {{identity: "{REPOSITORY}/.github/workflows/release.yml@refs/tags/*", issuer: "{ISSUER}"}}
builders:
  - {{signer: release, id: {HOSTED}, level: 3}}
  - {{signer: github, id: {HOSTED}, level: 2}}
"""
BUILT = f"""{POLICY}
require:
  provenance: {{minimum_level: 2, source: {{repository: {REPOSITORY}, tag: v*}}}}
"""
SIGNED = f"{POLICY}\nrequire: {{signatures: {{signers: [release]}}}}\n"


def statement(predicate_type: str, predicate: Any, *subjects: Any) -> bytes:
    """The payload; about the artifact where no subject is given."""
    document = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": list(subjects) or [SUBJECT],
        "predicateType": predicate_type,
        "predicate": predicate,
    }
    return json.dumps(document).encode()


def provenance(
    *subjects: Any,
    repository: str = REPOSITORY,
    ref: str = "refs/tags/v1",
    commit: str = "a" * 40,
    builder: str = HOSTED,
    parameters: Mapping[str, Any] | None = None,
    dependencies: Iterable[Any] = (),
    finished: str = "",
) -> bytes:
    """SLSA provenance."""
    source = {"uri": f"git+{repository}@{ref}", "digest": {"gitCommit": commit}}
    predicate: dict[str, Any] = {
        "buildDefinition": {
            "buildType": "https://actions.github.io/buildtypes/workflow/v1",
            "externalParameters": dict(parameters or {}),
            "resolvedDependencies": [source, *dependencies],
        },
        "runDetails": {"builder": {"id": builder}, "metadata": {"finishedOn": finished} if finished else {}},
    }
    return statement(PROVENANCE, predicate, *subjects)


def summary(
    result: str = "PASSED", verifier: str = "https://gw/gates/staging", verified: str = "", **more: Any
) -> bytes:
    """A SLSA Verification Summary."""
    predicate = {
        "verifier": {"id": verifier},
        "timeVerified": verified or "2026-06-01T00:00:00Z",
        "resourceUri": "https://example.com/app",
        "policy": {"uri": "https://example.com/policy"},
        "verificationResult": result,
        "verifiedLevels": ["SLSA_BUILD_LEVEL_2"] if result == "PASSED" else ["FAILED"],
        **more,
    }
    return statement(SUMMARY, predicate)


def scan(*severities: str, finished: str = "2026-05-01T00:00:00Z") -> bytes:
    """A vulnerability scan that found one of each."""
    results = [
        {"id": f"CVE-2026-{number}", "severity": [{"method": "nvd", "score": one}]}
        for number, one in enumerate(severities, 1)
    ]
    times = {"scanStartedOn": finished, "scanFinishedOn": finished}
    database = {"lastUpdate": finished}
    scanner = {"uri": "https://example.com/scanner", "db": database, "result": results}
    return statement(SCAN, {"scanner": scanner, "metadata": times})


def results(result: str = "PASSED", **more: Any) -> bytes:
    """A test result."""
    return statement(TEST_RESULT, {"result": result, "configuration": [SUBJECT], **more})


# Signers.


@cache
def keys() -> Mapping[str, ProviderKey]:
    provider = signed().world.provider

    async def make() -> dict[str, ProviderKey]:
        return {name: await provider.generate("key", ALGORITHMS[P256]) for name in (*LISTED, STRANGER)}

    return RUNNER.run(make())


def trust(change: Callable[[dict[str, Any]], None] | None = None) -> TrustRoot:
    """The trust root of gateway and instance; ``change`` is told the records of the tenant's keys, by name."""
    if change is None:
        return _unchanged()
    listed = [TenantKey(f"tenants/acme/keys/{name}", keys()[name].public_key, P256, "ACTIVE", START) for name in LISTED]
    document = json.loads(keys_json(DOMAIN, "acme", NOW, listed))
    change({one["name"].removeprefix("tenants/acme/keys/"): one for one in document["keys"]})
    return TrustRoot.from_json(_trusted_root(), json.dumps(document).encode())


@cache
def _unchanged() -> TrustRoot:
    return trust(lambda _: None)


def _trusted_root() -> bytes:
    document, other = json.loads(signed().world.trusted_root()), json.loads(INSTANCE.trusted_root())
    for kind in ("tlogs", "ctlogs", "certificateAuthorities"):
        document[kind] += other[kind]
    return json.dumps(document).encode()


def by_key(
    payload: bytes,
    name: str = RELEASE,
    *,
    moment: datetime = NOW,
    certificate: bool = False,
    payload_type: str = IN_TOTO,
    tenant: str = "acme",
) -> bytes:
    """A bundle by a tenant's key: an envelope, or a signature of the artifact where ``payload_type`` is empty."""
    world, key = _at(moment), keys()[name]

    async def make() -> bytes:
        data = pae(payload_type, payload) if payload_type else payload
        digest_name, digest, signature = await world.sign(key, data)
        verifier, template = key.public_key, BundleTemplate.for_public_key(key_hint(key.public_key), world.log_id)
        if certificate:
            owner = f"tenants/{tenant}/keys/{name.partition('/')[0]}"
            verifier = (await world.ca.issue(owner, key.public_key)).der
            template = BundleTemplate.for_certificate(verifier, world.log_id)
        entry = EntryTemplate(P256, verifier, is_certificate=certificate).body(digest_name, digest, signature)
        [stamp] = await world.tsa.stamp([signature])
        if payload_type:
            return template.dsse(payload_type, payload, signature, entry, world.include(entry), stamp)
        return template.message_signature(digest_name, digest, signature, entry, world.include(entry), stamp)

    return RUNNER.run(make())


def stamped_again(bundle: bytes, moment: datetime) -> bytes:
    """The bundle with another timestamp in place of its own, as whoever can ask the authority may make it."""
    document = json.loads(bundle)
    signature = _signature(document)
    [stamp] = RUNNER.run(_at(moment).tsa.stamp([signature]))
    data = document["verificationMaterial"]["timestampVerificationData"]
    data["rfc3161Timestamps"] = [{"signedTimestamp": b64(stamp)}]
    return json.dumps(document).encode()


def _signature(document: Any) -> bytes:
    return b64decode(document["dsseEnvelope"]["signatures"][0]["sig"])


def _at(moment: datetime) -> World:
    world = signed().world
    tsa = TimestampAuthority(world.provider, world.tsa._key, world.tsa.chain, lambda: moment)
    lifetime = timedelta(minutes=10)
    ca = CertificateAuthority(world.provider, world.ca._key, world.ca.chain, world.ct, DOMAIN, lifetime, lambda: moment)
    return replace(world, tsa=tsa, ca=ca)


def by_identity(
    payload: bytes,
    identity: str = WORKFLOW,
    *,
    issuer: str = ISSUER,
    claims: Mapping[int, str] | None = None,
    moment: datetime = NOW,
    signer: Any = None,
    certified: bool = True,
) -> bytes:
    """A bundle by an identity of the instance, or by the signer's bare key; its time is what Rekor v1 promises."""
    instance = Instance(integrated=moment) if signer is None else Instance(integrated=moment, signer=signer)
    named = x509.UniformResourceIdentifier(identity) if "://" in identity else x509.RFC822Name(identity)
    said = {**(CLAIMS if claims is None else claims), 8: issuer}
    start = moment - timedelta(minutes=1)
    texts = {1: issuer.encode()} | {number: utf8(text) for number, text in said.items()}
    leaf = certify(instance, start=start, stamp_time=start, names=[named], texts=texts)
    signature = instance.sign(pae(IN_TOTO, payload))
    pem = leaf.public_bytes(Encoding.PEM) if certified else _pem(instance)
    spec: dict[str, Any] = {
        "envelopeHash": {"algorithm": "sha256", "value": sha256(b"as it was sent").hexdigest()},
        "payloadHash": {"algorithm": "sha256", "value": sha256(payload).hexdigest()},
        "signatures": [{"signature": b64(signature), "verifier": b64(pem)}],
    }
    shape = Shape(kind="dsse", envelope=True, certificate=certified)
    entry = instance.entry(shape, rfc8785.dumps({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec}))
    material: dict[str, Any] = {"publicKey": {"hint": instance.hint}}
    if certified:
        material = {"certificate": {"rawBytes": b64(der(leaf))}}
    document = {
        "mediaType": MEDIA_TYPES["0.3"],
        "verificationMaterial": {"tlogEntries": [entry], "timestampVerificationData": {}, **material},
        "dsseEnvelope": {"payload": b64(payload), "payloadType": IN_TOTO, "signatures": [{"sig": b64(signature)}]},
    }
    return json.dumps(document).encode()


def _pem(instance: Instance) -> bytes:
    pem: bytes = instance.signer.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


# Decisions.


def decided(policy: str, found: Iterable[bytes], artifact: Artifact = APP, **context: Any) -> Decision:
    """What a gate answers where that was found, whatever it looks for; ``context`` has members of ``Context``."""
    bundles = [FoundBundle(one, "store") for one in found]
    members = {"trust": trust(), "gather": lambda _: bundles, "now": NOW, **context}
    return evaluate(parse_policy(policy.encode()), artifact, Context(**members))


def codes(decision: Decision) -> set[str]:
    """Of the reasons."""
    return {one.code for one in decision.verdict.reasons}


def told(decision: Decision) -> str:
    """All the messages."""
    return "\n".join(one.message for one in decision.verdict.reasons)
