"""Bundles of any Sigstore instance, v0.1 to v0.3: all shapes verify; each step refuses what is wrong in its place."""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError
from typing import Any

import pytest
import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from sealkeeper.verify import (
    Artifact,
    Policy,
    PolicyError,
    TrustRoot,
    TrustRootError,
    VerificationResult,
    public_good,
    verify,
)
from sealkeeper.verify.note import ed25519_key_id, signature_line
from tests.interop.stock import Job, refusal_of_sigstore_python, refusals_of_sigstore_js
from tests.verify import naive_tree
from tests.verify.instance import (
    ARTIFACT,
    CLAIMS,
    IDENTITY,
    IN_TOTO,
    ISSUER,
    MEDIA_TYPES,
    NOW,
    REKOR_V1,
    REKOR_V2,
    STATEMENT,
    Instance,
    Shape,
    all_shapes,
    b64,
    der,
    utf8,
)
from tests.verify.signed import RUNNER, failed_step, signed

INSTANCE = Instance()
SHAPES = all_shapes()
BY_IDENTITY = Policy(identity=IDENTITY, issuer=ISSUER)
BY_PUBLIC_KEY = Policy(public_key=der(INSTANCE.signer))
SECOND = timedelta(seconds=1)


def policy_for(shape: Shape, instance: Instance = INSTANCE) -> Policy:
    return BY_IDENTITY if shape.certificate else Policy(public_key=der(instance.signer))


def check(
    document: Any,
    shape: Shape,
    *,
    instance: Instance = INSTANCE,
    trust: TrustRoot | None = None,
    policy: Policy | None = None,
    artifact: Artifact | None = None,
) -> VerificationResult:
    given = artifact or (None if shape.envelope else Artifact.from_bytes(ARTIFACT))
    data = json.dumps(document).encode()
    return verify(data, given, trust or instance.trust(), policy or policy_for(shape, instance))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_shape_verifies_and_says_what_it_is(shape: Shape) -> None:
    result = check(INSTANCE.bundle(shape), shape).require()
    assert result.bundle_version == shape.version[:3]
    assert result.material == ("certificate" if shape.certificate else "key")
    assert (result.key_details, result.public_key) == ("PKIX_ECDSA_P256_SHA_256", der(INSTANCE.signer))
    assert result.time == NOW
    assert (result.payload, result.payload_type) == ((STATEMENT, IN_TOTO) if shape.envelope else (b"", ""))
    assert (result.identity, result.issuer) == ((IDENTITY, ISSUER) if shape.certificate else ("", ""))
    assert result.claims.get("source_repository_uri") == ("https://github.com/acme/app" if shape.certificate else None)
    v2 = (shape.kind, shape.kind_version) == ("hashedrekord", "0.0.2")
    assert result.log_origin == (REKOR_V2 if v2 else REKOR_V1)
    # Over all shards only where the log has signed that.
    assert result.log_index == (121_903_002 if shape.promised else 2)
    names = [step.name for step in result.steps]
    assert ("inclusion-promise" in names, "checkpoint" in names, "inclusion-proof" in names) == (
        shape.promised,
        shape.proven,
        shape.proven,
    )


@pytest.mark.parametrize("shape", [one for one in SHAPES if not one.envelope], ids=str)
def test_a_digest_is_as_good_as_the_artifact(shape: Shape) -> None:
    artifact = Artifact.from_digest("SHA2_256", sha256(ARTIFACT).digest())
    assert check(INSTANCE.bundle(shape), shape, artifact=artifact).verified
    other = Artifact.from_digest("SHA2_256", sha256(b"another").digest())
    assert failed_step(check(INSTANCE.bundle(shape), shape, artifact=other)) == "content"


def test_a_payload_may_be_given_as_a_digest_too() -> None:
    shape = Shape(kind="dsse", envelope=True)
    for algorithm, name in (("SHA2_256", "sha256"), ("SHA2_512", "sha512")):
        digest = Artifact.from_digest(algorithm, hashlib.new(name, STATEMENT).digest())
        assert check(INSTANCE.bundle(shape), shape, artifact=digest).verified
        other = Artifact.from_digest(algorithm, hashlib.new(name, b"another").digest())
        assert failed_step(check(INSTANCE.bundle(shape), shape, artifact=other)) == "content"


# What sigstore-python cannot do: managed keys, the kind intoto, entries without a proof.
PYTHON_SHAPES = [one for one in SHAPES if one.certificate and one.kind != "intoto" and one.proven]


@pytest.mark.parametrize("shape", PYTHON_SHAPES, ids=str)
def test_sigstore_python_agrees(shape: Shape) -> None:
    document = INSTANCE.bundle(shape)
    assert refusal_of_sigstore_python(_job(document, shape)) is None
    _flip(document["dsseEnvelope"]["signatures"][0] if shape.envelope else document["messageSignature"])
    assert refusal_of_sigstore_python(_job(document, shape)) is not None
    assert failed_step(check(document, shape)) == "signature"


def _job(document: Any, shape: Shape) -> Job:
    key = {"rawBytes": b64(der(INSTANCE.signer)), "validFor": {"start": "2026-01-01T00:00:00Z"}}
    return Job(
        json.dumps(document).encode(),
        None if shape.envelope else ARTIFACT,
        INSTANCE.trusted_root(),
        [] if shape.certificate else [{"hint": INSTANCE.hint, "publicKey": key}],
        IDENTITY if shape.certificate else None,
        ISSUER if shape.certificate else None,
    )


def test_sigstore_js_agrees_where_it_knows_the_shape() -> None:
    # @sigstore/verify 3.1.1 compares the digest of a hashedrekord with that of the payload, where Rekor v2 logs that of
    # the pre-authentication encoding; and of v0.3 it knows the newer media type only.
    known = [
        one
        for one in SHAPES
        if not (one.envelope and one.kind == "hashedrekord") and one.version != "0.3+json" and one.proven
    ]
    answers = refusals_of_sigstore_js([_job(INSTANCE.bundle(one), one) for one in known])
    assert {str(one): answer for one, answer in zip(known, answers, strict=True) if answer is not None} == {}


def _flip(holder: Any, *names: str) -> None:
    name = names[0] if names else ("sig" if "sig" in holder else "signature")
    data = bytearray(b64decode(holder[name]))
    data[-1] ^= 1
    holder[name] = b64(bytes(data))


def _material(document: Any) -> Any:
    return document["verificationMaterial"]


def _entry(document: Any) -> Any:
    return _material(document)["tlogEntries"][0]


def _stamps(document: Any) -> Any:
    return _material(document)["timestampVerificationData"]["rfc3161Timestamps"]


V1, V1_STAMPED = Shape(), Shape(stamped=True)
V2 = Shape(kind_version="0.0.2", stamped=True, promised=False)
DSSE, INTOTO = Shape(kind="dsse", envelope=True), Shape(kind="intoto", kind_version="0.0.2", envelope=True)
KEY, KEY_DSSE = Shape(certificate=False), Shape(certificate=False, kind="dsse", envelope=True)
OLD, OLDER = Shape(version="0.2"), Shape(version="0.1")
OLDEST = Shape(version="0.1", proven=False)


@dataclass(frozen=True)
class Wrong:
    """One thing wrong in the document of a bundle; it fails this step, and says this."""

    what: str
    shape: Shape
    change: Callable[[Any], Any]
    step: str
    text: str = ""


def _signed_by_another(document: Any) -> None:
    """A promise by another key than the log's."""
    other = Instance(rekor_v1=ec.derive_private_key(99, ec.SECP256R1()))
    entry = _entry(document)
    own = INSTANCE.log_ids[False]
    payload = {"body": entry["canonicalizedBody"], "integratedTime": int(entry["integratedTime"])}
    payload |= {"logID": own.hex(), "logIndex": int(entry["logIndex"])}
    entry["inclusionPromise"]["signedEntryTimestamp"] = b64(other.sign_as_rekor_v1(rfc8785.dumps(payload)))


def _checkpoint(root: bytes | None = None, origin: str = "", *, v2: bool = False) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        proof = _entry(document)["inclusionProof"]
        signed_root = b64decode(proof["rootHash"]) if root is None else root
        proof["checkpoint"]["envelope"] = INSTANCE.checkpoint(signed_root, v2=v2, origin=origin)

    return change


def _set(name: str, value: Any) -> Callable[[Any], None]:
    return lambda document: _entry(document).update({name: value})


def _drop(name: str) -> Callable[[Any], Any]:
    return lambda document: _entry(document).pop(name)


DOCUMENTS = [
    # What the format of each version wants.
    Wrong("version", V1, lambda d: d.update(mediaType="application/vnd.dev.sigstore.bundle.v0.4+json"), "bundle"),
    Wrong("no version", V1, lambda d: d.update(mediaType="application/vnd.dev.sigstore.bundle+json"), "bundle"),
    Wrong("chain in v0.3", OLD, lambda d: d.update(mediaType=MEDIA_TYPES["0.3"]), "bundle", "x509CertificateChain"),
    Wrong("certificate in v0.2", V1, lambda d: d.update(mediaType=MEDIA_TYPES["0.2"]), "bundle", "certificate"),
    Wrong("certificate in v0.1", V1, lambda d: d.update(mediaType=MEDIA_TYPES["0.1"]), "bundle", "certificate"),
    Wrong("empty chain", OLD, lambda d: _material(d).update(x509CertificateChain={"certificates": []}), "bundle"),
    Wrong("key and certificate", V1, lambda d: _material(d).update(publicKey={"hint": "x"}), "bundle"),
    Wrong("no promise in v0.1", OLDER, _drop("inclusionPromise"), "bundle", "inclusionPromise"),
    Wrong("no proof in v0.2", OLD, _drop("inclusionProof"), "bundle", "inclusionProof"),
    Wrong("no proof in v0.3", V1, _drop("inclusionProof"), "bundle", "inclusionProof"),
    Wrong(
        "no checkpoint in v0.2", OLD, lambda d: _entry(d)["inclusionProof"].pop("checkpoint"), "bundle", "checkpoint"
    ),
    Wrong("no checkpoint in v0.3", V1, lambda d: _entry(d)["inclusionProof"].pop("checkpoint"), "bundle", "checkpoint"),
    Wrong("time in Rekor v2", V2, _set("integratedTime", "1780315200"), "bundle", "integratedTime"),
    Wrong("promise in Rekor v2", V2, _set("inclusionPromise", {"signedEntryTimestamp": "AAAA"}), "bundle", "Promise"),
    Wrong("time beyond the calendar", V1, _set("integratedTime", str(2**62)), "bundle", "integratedTime"),
    Wrong("time before the epoch", V1, _set("integratedTime", "-1"), "bundle", "integratedTime"),
    # Whose signature of what.
    Wrong("keyid", KEY_DSSE, lambda d: d["dsseEnvelope"]["signatures"][0].update(keyid="x"), "content", "keyid"),
    Wrong("digest", V1, lambda d: d["messageSignature"]["messageDigest"].update(digest=b64(bytes(32))), "content"),
    Wrong("signature", V1, lambda d: _flip(d["messageSignature"]), "signature"),
    Wrong("payload", DSSE, lambda d: d["dsseEnvelope"].update(payload=b64(b"{}")), "signature"),
    Wrong("payload type", DSSE, lambda d: d["dsseEnvelope"].update(payloadType="text/plain"), "signature"),
    # The promise is of this entry, all of it.
    Wrong("promise", V1, lambda d: _flip(_entry(d)["inclusionPromise"], "signedEntryTimestamp"), "inclusion-promise"),
    Wrong("promise of another log", V1, _signed_by_another, "inclusion-promise"),
    Wrong("promised time", V1, _set("integratedTime", str(int(NOW.timestamp()) + 1)), "inclusion-promise"),
    Wrong("no promised time", V1_STAMPED, _drop("integratedTime"), "inclusion-promise"),
    Wrong("promised index", V1, _set("logIndex", "121903003"), "inclusion-promise"),
    Wrong("index beyond JSON", V1, _set("logIndex", str(2**60)), "inclusion-promise"),
    Wrong("promised body", V1, lambda d: _flip(_entry(d), "canonicalizedBody"), "inclusion-promise"),
    Wrong(
        "promise of v0.1",
        OLDEST,
        lambda d: _flip(_entry(d)["inclusionPromise"], "signedEntryTimestamp"),
        "inclusion-promise",
    ),
    # A time that is vouched for.
    Wrong("time without promise", V1, _drop("inclusionPromise"), "timestamp", "nor a time"),
    Wrong("no timestamp", V2, lambda d: _material(d).pop("timestampVerificationData"), "timestamp"),
    Wrong("timestamp twice", V2, lambda d: _stamps(d).append(_stamps(d)[0]), "timestamp", "twice"),
    Wrong("no timestamp at all", V2, lambda d: _stamps(d)[0].update(signedTimestamp="AAAA"), "timestamp", "malformed"),
    Wrong("timestamp's signature", V2, lambda d: _flip(_stamps(d)[0], "signedTimestamp"), "timestamp"),
    # The log, and what it says.
    Wrong("log", V2, _set("logId", {"keyId": b64(bytes(32))}), "log-entry", "trusted log"),
    Wrong("entry twice", V1, lambda d: _material(d)["tlogEntries"].append(_entry(d)), "log-entry", "twice"),
    Wrong("index in Rekor v2", V2, _set("logIndex", "3"), "log-entry", "index"),
    Wrong("kind", V1, _set("kindVersion", {"kind": "rekord", "version": "0.0.1"}), "log-entry", "not known"),
    Wrong(
        "kind's version", V1, _set("kindVersion", {"kind": "hashedrekord", "version": "0.0.3"}), "log-entry", "known"
    ),
    Wrong("kind of an envelope", V1, _set("kindVersion", {"kind": "dsse", "version": "0.0.1"}), "log-entry", "message"),
    Wrong("kind of a message", DSSE, _set("kindVersion", {"kind": "hashedrekord", "version": "0.0.1"}), "log-entry"),
    Wrong(
        "another kind of an envelope", DSSE, _set("kindVersion", {"kind": "intoto", "version": "0.0.2"}), "log-entry"
    ),
    Wrong(
        "older intoto", INTOTO, _set("kindVersion", {"kind": "intoto", "version": "0.0.1"}), "log-entry", "not known"
    ),
    Wrong("newer dsse", DSSE, _set("kindVersion", {"kind": "dsse", "version": "0.0.2"}), "log-entry", "not known"),
    # The tree.
    Wrong("checkpoint's root", V1, _checkpoint(root=bytes(32)), "checkpoint", "another tree"),
    Wrong("checkpoint's origin", V1, _checkpoint(origin="other.example - 1"), "checkpoint", "another log"),
    Wrong("checkpoint of a longer name", V1, _checkpoint(origin=f"{REKOR_V1}.evil.example - 1"), "checkpoint"),
    Wrong("checkpoint of a name alone", V1, _checkpoint(origin=f"{REKOR_V1} - x"), "checkpoint"),
    Wrong("checkpoint of another log", V1, _checkpoint(v2=True), "checkpoint", "not signed"),
    Wrong("tree id in Rekor v2", V2, _checkpoint(v2=True, origin=f"{REKOR_V2} - 1"), "checkpoint", "another log"),
    Wrong(
        "checkpoint's signature",
        V1,
        lambda d: _entry(d)["inclusionProof"]["checkpoint"].update(
            envelope=_entry(d)["inclusionProof"]["checkpoint"]["envelope"].replace("\n5\n", "\n6\n")
        ),
        "checkpoint",
        "wrong",
    ),
    Wrong("tree size", V1, lambda d: _entry(d)["inclusionProof"].update(treeSize="6"), "checkpoint"),
    Wrong("root hash", V1, lambda d: _entry(d)["inclusionProof"].update(rootHash=b64(bytes(32))), "checkpoint"),
    Wrong("hashes", V1, lambda d: _entry(d)["inclusionProof"]["hashes"].reverse(), "inclusion-proof"),
    Wrong("no hashes", V1, lambda d: _entry(d)["inclusionProof"].pop("hashes"), "inclusion-proof"),
    Wrong("proof's index", V1, lambda d: _entry(d)["inclusionProof"].update(logIndex="1"), "inclusion-proof"),
    Wrong("proof of v0.1", OLDER, lambda d: _entry(d)["inclusionProof"]["hashes"].reverse(), "inclusion-proof"),
]


@pytest.mark.parametrize("wrong", DOCUMENTS, ids=lambda one: one.what)
def test_one_wrong_place_of_the_document_fails_its_step(wrong: Wrong) -> None:
    document = INSTANCE.bundle(wrong.shape)
    assert check(document, wrong.shape).verified
    wrong.change(document)
    result = check(document, wrong.shape)
    assert failed_step(result) == wrong.step
    assert wrong.text in result.steps[-1].detail


def _at(document: Any, *path: Any) -> Any:
    for part in path:
        document = document[part]
    return document


def _pem_of_another(holder: Any, name: str) -> None:
    holder[name] = b64(INSTANCE.ca.public_bytes(Encoding.PEM))


ONE = ("spec", "signatures", 0)
ENVELOPE = ("spec", "content", "envelope")
TWO = (*ENVELOPE, "signatures", 0)
ZEROS = {"algorithm": "sha256", "value": "00" * 32}
DIGEST, SIGNATURE, SIGNER = "another digest", "another signature", "another key"
# The log took these in, and promised and proves them: only what they say is wrong.
BODIES = [
    Wrong("digest", V1, lambda b: _at(b, "spec", "data").update(hash=ZEROS), "log-entry", DIGEST),
    Wrong("algorithm", V1, lambda b: _at(b, "spec", "data", "hash").update(algorithm="sha512"), "log-entry", DIGEST),
    Wrong("signature", V1, lambda b: _flip(_at(b, "spec", "signature"), "content"), "log-entry", SIGNATURE),
    Wrong(
        "signer",
        V1,
        lambda b: _pem_of_another(_at(b, "spec", "signature", "publicKey"), "content"),
        "log-entry",
        SIGNER,
    ),
    Wrong(
        "key", KEY, lambda b: _pem_of_another(_at(b, "spec", "signature", "publicKey"), "content"), "log-entry", SIGNER
    ),
    Wrong("more", V1, lambda b: b["spec"].update(more=1), "log-entry", "canonical"),
    Wrong("more beside", V1, lambda b: b.update(more=1), "log-entry", "canonical"),
    Wrong("no spec", V1, lambda b: b.pop("spec"), "log-entry", "spec"),
    Wrong("kind within", V1, lambda b: b.update(kind="rekord"), "log-entry", "canonical"),
    Wrong("version within", V1, lambda b: b.update(apiVersion="0.0.9"), "log-entry", "canonical"),
    Wrong(
        "digest", V2, lambda b: _at(b, "spec", "hashedRekordV002", "data").update(digest="AAAA"), "log-entry", DIGEST
    ),
    Wrong(
        "signature",
        V2,
        lambda b: _flip(_at(b, "spec", "hashedRekordV002", "signature"), "content"),
        "log-entry",
        SIGNATURE,
    ),
    Wrong(
        "details",
        V2,
        lambda b: _at(b, "spec", "hashedRekordV002", "signature", "verifier").update(keyDetails="PKIX_ED25519"),
        "log-entry",
        SIGNER,
    ),
    Wrong("payload", DSSE, lambda b: b["spec"].update(payloadHash=ZEROS), "log-entry", DIGEST),
    Wrong("signature", DSSE, lambda b: _flip(_at(b, *ONE), "signature"), "log-entry", SIGNATURE),
    Wrong("signer", DSSE, lambda b: _pem_of_another(_at(b, *ONE), "verifier"), "log-entry", SIGNER),
    Wrong(
        "two signatures", DSSE, lambda b: _at(b, "spec", "signatures").append(_at(b, *ONE)), "log-entry", "signatures"
    ),
    Wrong(
        "envelope", DSSE, lambda b: b["spec"].update(envelopeHash={"algorithm": "sha256", "value": "x"}), "log-entry"
    ),
    Wrong("no envelope", DSSE, lambda b: b["spec"].pop("envelopeHash"), "log-entry", "envelopeHash"),
    Wrong("payload", INTOTO, lambda b: _at(b, "spec", "content").update(payloadHash=ZEROS), "log-entry", DIGEST),
    Wrong(
        "signature", INTOTO, lambda b: _at(b, *TWO).update(sig=b64(b64(b"another").encode())), "log-entry", SIGNATURE
    ),
    Wrong("signature once", INTOTO, lambda b: _at(b, *TWO).update(sig=b64(b"x")), "log-entry", SIGNATURE),
    Wrong("signer", INTOTO, lambda b: _pem_of_another(_at(b, *TWO), "publicKey"), "log-entry", SIGNER),
    Wrong("payload type", INTOTO, lambda b: _at(b, *ENVELOPE).update(payloadType="x"), "log-entry", "payload type"),
    Wrong("keyid", INTOTO, lambda b: _at(b, *TWO).update(keyid="x"), "log-entry", "key id"),
    Wrong("payload within", INTOTO, lambda b: _at(b, *ENVELOPE).update(payload="x"), "log-entry", "payload"),
]


@pytest.mark.parametrize("wrong", BODIES, ids=lambda one: f"{one.shape.kind}-{one.shape.kind_version}-{one.what}")
def test_an_entry_of_something_else_fails_although_it_is_logged(wrong: Wrong) -> None:
    result = check(INSTANCE.bundle(wrong.shape, change_body=wrong.change), wrong.shape)
    assert failed_step(result) == wrong.step
    assert wrong.text in result.steps[-1].detail


def _spoiled() -> list[tuple[str, Wrong, Any]]:
    """Everything wrong from above: a name, what it is, and the bundle."""
    found = []
    for wrong in DOCUMENTS:
        document = INSTANCE.bundle(wrong.shape)
        wrong.change(document)
        found.append((wrong.what, wrong, document))
    for wrong in BODIES:
        document = INSTANCE.bundle(wrong.shape, change_body=wrong.change)
        found.append((f"{wrong.shape.kind} {wrong.shape.kind_version}: {wrong.what}", wrong, document))
    return found


# It takes the tree's size from the checkpoint, does not look at the checkpoint's origin, at Rekor v2's index, time and
# promise, at a promise without a time, or at members that it does not know.
PYTHON_LETS_PASS = {
    "time in Rekor v2",
    "promise in Rekor v2",
    "no promised time",
    "index in Rekor v2",
    "checkpoint's origin",
    "checkpoint of a longer name",
    "checkpoint of a name alone",
    "tree id in Rekor v2",
    "tree size",
    "hashedrekord 0.0.1: more",
    "hashedrekord 0.0.1: more beside",
    "dsse 0.0.1: envelope",
}
# Beyond that, it finds the log by its checkpoint, and compares neither the signer that an entry names, nor the kind of
# material with the version of the bundle.
JS_LETS_PASS = (PYTHON_LETS_PASS - {"promise in Rekor v2", "no promised time"}) | {
    "version",
    "certificate in v0.2",
    "certificate in v0.1",
    "keyid",
    "log",
    "checkpoint of another log",
    "root hash",
    "hashedrekord 0.0.1: algorithm",
    "hashedrekord 0.0.1: signer",
    "hashedrekord 0.0.1: key",
    "hashedrekord 0.0.2: details",
    "dsse 0.0.1: signer",
    "dsse 0.0.1: no envelope",
    "intoto 0.0.2: signer",
    "intoto 0.0.2: payload type",
    "intoto 0.0.2: keyid",
    "intoto 0.0.2: payload within",
}


def test_sigstore_python_refuses_nearly_all_of_that_too() -> None:
    known = [one for one in _spoiled() if one[1].shape.certificate and one[1].shape.kind != "intoto"]
    passed = {name for name, one, document in known if refusal_of_sigstore_python(_job(document, one.shape)) is None}
    assert passed <= PYTHON_LETS_PASS


def test_sigstore_js_refuses_most_of_that_too() -> None:
    wrong = _spoiled()
    answers = refusals_of_sigstore_js([_job(document, one.shape) for _, one, document in wrong])
    assert {one[0] for one, answer in zip(wrong, answers, strict=True) if answer is None} <= JS_LETS_PASS


def test_every_step_has_something_that_fails_it_alone() -> None:
    steps = {step.name for shape in SHAPES for step in check(INSTANCE.bundle(shape), shape).steps}
    failed = {wrong.step for wrong in DOCUMENTS + BODIES} | {step for _, step in CERTIFICATES}
    # A key whose name or public key is not the policy's; see test_a_pinned_key_that_the_gateway_knows_...
    assert steps - failed == {"key-policy"}


@pytest.mark.parametrize("shape", [V1, KEY, DSSE, INTOTO], ids=str)
def test_how_a_pem_is_broken_into_lines_is_no_difference(shape: Shape) -> None:
    places = {"dsse": (*ONE, "verifier"), "intoto": (*TWO, "publicKey")}
    path = places.get(shape.kind, ("spec", "signature", "publicKey", "content"))

    def unbroken(body: Any) -> None:
        first, *lines, last = b64decode(_at(body, *path)).decode().splitlines()
        _at(body, *path[:-1])[path[-1]] = b64(f"{first}\n{''.join(lines)}\n{last}".encode())

    def longer(body: Any) -> None:
        text = b64decode(_at(body, *path))
        _at(body, *path[:-1])[path[-1]] = b64(text + INSTANCE.ca.public_bytes(Encoding.PEM))

    assert check(INSTANCE.bundle(shape, change_body=unbroken), shape).verified
    assert failed_step(check(INSTANCE.bundle(shape, change_body=longer), shape)) == "log-entry"


# Times.


def test_each_time_has_to_be_in_the_certificates_validity() -> None:
    late = Instance(integrated=NOW + timedelta(minutes=20))
    # The timestamp is in time, the log's own time is not, and no timestamp makes up for that.
    result = check(late.bundle(V1_STAMPED), V1_STAMPED, instance=late)
    assert failed_step(result) == "certificate-chain"
    early = Instance(integrated=NOW - timedelta(minutes=20))
    assert failed_step(check(early.bundle(V1_STAMPED), V1_STAMPED, instance=early)) == "certificate-chain"
    # Without the promise it counts for nothing.
    unpromised = Shape(stamped=True, promised=False)
    assert check(late.bundle(unpromised), unpromised, instance=late).verified


def test_the_end_of_every_window_belongs_to_it() -> None:
    leaf = INSTANCE.certify(start=NOW - timedelta(minutes=10))
    assert leaf.not_valid_after_utc == NOW
    shape = V1_STAMPED
    document = INSTANCE.bundle(shape, certificate=leaf)
    assert check(document, shape).verified
    over = INSTANCE.bundle(shape, certificate=INSTANCE.certify(start=NOW - timedelta(minutes=10) - SECOND))
    assert failed_step(check(over, shape)) == "certificate-chain"

    def ends(kind: str, place: int, at: Any) -> TrustRoot:
        def change(root: Any) -> None:
            holder = root[kind][place]
            holder.get("publicKey", holder)["validFor"]["end"] = at.isoformat()

        return INSTANCE.trust(change)

    stamped = V2
    for kind, place, step, one in (
        ("timestampAuthorities", 0, "timestamp", stamped),
        ("certificateAuthorities", 1, "certificate-chain", stamped),
        ("tlogs", 0, "inclusion-promise", V1),
        ("tlogs", 1, "log-entry", stamped),
    ):
        document = INSTANCE.bundle(one)
        assert check(document, one, trust=ends(kind, place, NOW)).verified
        assert failed_step(check(document, one, trust=ends(kind, place, NOW - SECOND))) == step
    moment = NOW - timedelta(minutes=1)
    assert check(INSTANCE.bundle(V1), V1, trust=ends("ctlogs", 1, moment)).verified
    late = check(INSTANCE.bundle(V1), V1, trust=ends("ctlogs", 1, moment - SECOND))
    assert failed_step(late) == "certificate-timestamp"


def test_stock_sigstore_python_leaves_out_the_end_of_an_authoritys_window() -> None:
    # The specification has it inclusive (sigstore_trustroot.proto); should this fail, the library has caught up.
    def change(root: Any) -> None:
        root["timestampAuthorities"][0]["validFor"]["end"] = NOW.isoformat().replace("+00:00", "Z")

    document = INSTANCE.bundle(V2)
    job = Job(json.dumps(document).encode(), ARTIFACT, INSTANCE.trusted_root(change), [], IDENTITY, ISSUER)
    assert refusal_of_sigstore_python(job) is not None
    assert check(document, V2, trust=INSTANCE.trust(change)).verified


def test_a_timestamp_of_an_unknown_authority_counts_for_nothing() -> None:
    def change(root: Any) -> None:
        root["timestampAuthorities"] = []

    assert check(INSTANCE.bundle(V1_STAMPED), V1_STAMPED, trust=INSTANCE.trust(change)).verified
    assert failed_step(check(INSTANCE.bundle(V2), V2, trust=INSTANCE.trust(change))) == "timestamp"


def test_a_timestamp_of_something_else_is_refused_whatever_else_there_is() -> None:
    document = INSTANCE.bundle(V1_STAMPED)
    [stamp] = RUNNER.run(signed().world.tsa.stamp([b"something else"]))
    _stamps(document).append({"signedTimestamp": b64(stamp)})
    result = check(document, V1_STAMPED)
    assert failed_step(result) == "timestamp"
    assert "something else" in result.steps[-1].detail


def test_a_proof_of_the_first_version_may_lack_its_checkpoint_and_then_proves_nothing() -> None:
    document = INSTANCE.bundle(OLDER)
    _entry(document)["inclusionProof"].pop("checkpoint")
    result = check(document, OLDER).require()
    assert "signed by nobody" in {step.name: step.detail for step in result.steps}["checkpoint"]
    _entry(document)["inclusionProof"]["hashes"].reverse()
    assert failed_step(check(document, OLDER)) == "inclusion-proof"


def test_a_chain_in_a_bundle_makes_nobody_trusted() -> None:
    stranger = Instance(
        root_key=ec.derive_private_key(41, ec.SECP384R1()), ca_key=ec.derive_private_key(42, ec.SECP384R1())
    )
    document = stranger.bundle(OLDER)
    assert len(_material(document)["x509CertificateChain"]["certificates"]) == 3
    assert check(document, OLDER, instance=stranger).verified
    assert failed_step(check(document, OLDER)) == "certificate-chain"
    _material(document)["x509CertificateChain"]["certificates"].reverse()
    assert failed_step(check(document, OLDER, instance=stranger)) == "material"


# Certificates.


def _names(*names: x509.GeneralName) -> x509.Certificate:
    return INSTANCE.certify(names=list(names))


FULCIO_NAME = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.7")
URI = x509.UniformResourceIdentifier(IDENTITY)


@pytest.mark.parametrize(
    ("name", "identity"),
    [
        (URI, IDENTITY),
        (x509.RFC822Name("release@acme.example"), "release@acme.example"),
        (x509.OtherName(FULCIO_NAME, utf8("release!acme.example")), "release!acme.example"),
        (x509.UniformResourceIdentifier("https://acme.example/" + "a" * 300), "https://acme.example/" + "a" * 300),
    ],
)
def test_an_identity_is_any_name_that_fulcio_gives(name: x509.GeneralName, identity: str) -> None:
    document = INSTANCE.bundle(V1, certificate=_names(name))
    assert check(document, V1, policy=Policy(identity=identity, issuer=ISSUER)).require().identity == identity
    assert failed_step(check(document, V1, policy=Policy(identity=identity[:-1], issuer=ISSUER))) == "identity"


CERTIFICATES: list[tuple[Callable[[], x509.Certificate], str]] = [
    (lambda: _names(URI, x509.RFC822Name("release@acme.example")), "material"),
    (lambda: _names(x509.DNSName("acme.example")), "material"),
    (lambda: _names(x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), utf8("x"))), "material"),
    (lambda: _names(x509.OtherName(FULCIO_NAME, b"\x16\x01x")), "material"),
    (lambda: INSTANCE.certify(code_signing=False), "material"),
    (lambda: INSTANCE.certify(texts={8: ISSUER.encode()}), "material"),
    (lambda: INSTANCE.certify(texts={8: utf8(ISSUER), 12: b"no DER"}), "material"),
    (lambda: INSTANCE.certify(texts={8: utf8(ISSUER) + b"\0"}), "material"),
    (lambda: INSTANCE.certify(texts={8: utf8(ISSUER), 1: b"https://other.example"}), "material"),
    (lambda: INSTANCE.certify(texts={8: utf8(ISSUER), 2: b"\xff"}), "material"),
    (lambda: INSTANCE.certify(stamped=False), "certificate-timestamp"),
    (lambda: INSTANCE.certify(stamp_time=NOW - timedelta(days=400)), "certificate-timestamp"),
    (lambda: INSTANCE.certify(texts={}), "identity"),
    (lambda: INSTANCE.certify(start=NOW + SECOND), "certificate-chain"),
]


@pytest.mark.parametrize(("made", "step"), CERTIFICATES)
def test_a_certificate_that_is_not_fulcios_is_refused(made: Callable[[], x509.Certificate], step: str) -> None:
    assert failed_step(check(INSTANCE.bundle(V1, certificate=made()), V1)) == step


def test_the_claims_of_a_certificate_have_names() -> None:
    claims = check(INSTANCE.bundle(V1), V1).require().claims
    assert len(claims) == len(CLAIMS)
    assert claims["build_signer_uri"] == IDENTITY
    assert claims["runner_environment"] == "github-hosted"
    assert claims["source_repository_digest"] == "a" * 40
    assert claims["source_repository_id"] == "123"
    assert claims["source_repository_visibility"] == "public"
    assert claims["build_trigger"] == "push"


OLDER_TEXTS = {1: ISSUER.encode(), 2: b"push", 3: b"b" * 40, 4: b"release", 5: b"acme/app", 6: b"refs/heads/main"}


def test_older_claims_stand_in_for_newer_ones_and_only_where_those_are_absent() -> None:
    leaf = INSTANCE.certify(texts=OLDER_TEXTS)
    result = check(INSTANCE.bundle(V1, certificate=leaf), V1).require()
    assert result.issuer == ISSUER
    assert dict(result.claims) == {
        "github_workflow_trigger": "push",
        "github_workflow_sha": "b" * 40,
        "github_workflow_name": "release",
        "github_workflow_repository": "acme/app",
        "github_workflow_ref": "refs/heads/main",
        "build_trigger": "push",
        "source_repository_digest": "b" * 40,
        "source_repository_ref": "refs/heads/main",
        "source_repository_uri": "https://github.com/acme/app",
    }
    both = INSTANCE.certify(texts=OLDER_TEXTS | {13: utf8("c" * 40), 12: utf8("https://github.com/acme/other")})
    claims = check(INSTANCE.bundle(V1, certificate=both), V1).require().claims
    assert claims["source_repository_digest"] == "c" * 40
    assert claims["source_repository_uri"] == "https://github.com/acme/other"


def test_an_older_repository_of_another_issuer_is_not_taken_for_githubs() -> None:
    leaf = INSTANCE.certify(texts=OLDER_TEXTS | {1: b"https://git.acme.example"})
    policy = Policy(identity=IDENTITY, issuer="https://git.acme.example")
    claims = check(INSTANCE.bundle(V1, certificate=leaf), V1, policy=policy).require().claims
    assert "source_repository_uri" not in claims
    assert claims["github_workflow_repository"] == "acme/app"


# Keys.


def test_a_public_key_is_pinned_as_pem_or_der_whatever_the_hint_says() -> None:
    public = INSTANCE.signer.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert Policy(public_key=pem) == BY_PUBLIC_KEY
    document = INSTANCE.bundle(KEY)
    _material(document)["publicKey"]["hint"] = "anything"
    assert check(document, KEY, policy=Policy(public_key=pem)).verified
    result = check(document, KEY, policy=Policy.any_trusted())
    assert failed_step(result) == "material"
    assert "pinned" in result.steps[-1].detail
    other = Policy(public_key=der(ec.derive_private_key(5, ec.SECP256R1())))
    assert failed_step(check(document, KEY, policy=other)) == "signature"
    assert failed_step(check(INSTANCE.bundle(V1), V1, policy=BY_PUBLIC_KEY)) == "identity"
    assert failed_step(check(document, KEY, policy=BY_IDENTITY)) == "material"


def test_a_pinned_key_that_the_gateway_knows_is_held_to_its_state() -> None:
    one = signed()
    policy = Policy(public_key=one.key.public_key)
    artifact = Artifact.from_bytes(ARTIFACT)
    assert verify(one.key_bundle, artifact, one.trust, policy).require().key_name
    assert failed_step(verify(one.key_bundle, artifact, one.trust_in("DISABLED"), policy)) == "key-state"
    document = json.loads(one.key_bundle)
    _material(document)["publicKey"]["hint"] = "anything"
    bundle = json.dumps(document).encode()
    assert failed_step(verify(bundle, artifact, one.trust_in("DISABLED"), policy)) == "key-state"
    assert failed_step(verify(one.key_bundle, artifact, one.trust, BY_PUBLIC_KEY)) == "key-policy"


def test_a_policy_pins_one_thing() -> None:
    for arguments in (
        {"public_key": b"no key"},
        {"public_key": b"-----BEGIN PUBLIC KEY-----"},
        {"public_key": der(INSTANCE.signer), "any_signer": True},
        {"public_key": der(INSTANCE.signer), "identity": "x", "issuer": "y"},
        {"public_key": der(ec.derive_private_key(5, ec.SECP256K1()))},
    ):
        with pytest.raises(PolicyError):
            Policy(**arguments)


SIGNERS = {
    "P-384": ec.derive_private_key(51, ec.SECP384R1()),
    "P-521": ec.derive_private_key(52, ec.SECP521R1()),
    "RSA": rsa.generate_private_key(65537, 2048),
    "Ed25519": ed25519.Ed25519PrivateKey.from_private_bytes(b"\x31" * 32),
}


@pytest.mark.parametrize("shape", [V1, KEY, V2, DSSE, INTOTO], ids=str)
@pytest.mark.parametrize("name", SIGNERS)
def test_signers_of_every_kind_verify(shape: Shape, name: str) -> None:
    one = Instance(signer=SIGNERS[name])
    result = check(one.bundle(shape), shape, instance=one).require()
    assert result.key_details == one.details()[0]
    document = one.bundle(shape)
    _flip(document["dsseEnvelope"]["signatures"][0] if shape.envelope else document["messageSignature"])
    assert failed_step(check(document, shape, instance=one)) == "signature"


def test_what_other_instances_signed_with_sha_256_on_a_larger_curve_verifies() -> None:
    class Older(Instance):
        def _hash(self) -> Any:
            return hashes.SHA256()

        def details(self) -> tuple[str, str, str]:
            return "PKIX_ECDSA_P384_SHA_256", "SHA2_256", "sha256"

    one = Older(signer=SIGNERS["P-384"])
    for shape in (V1, KEY, DSSE):
        result = check(one.bundle(shape), shape, instance=one).require()
        assert (result.key_details, result.digest and result.digest[0]) == ("PKIX_ECDSA_P384_SHA_256", "SHA2_256")
    digest = Artifact.from_digest("SHA2_256", sha256(ARTIFACT).digest())
    assert check(one.bundle(V1), V1, instance=one, artifact=digest).verified


LOGS = {
    "PKIX_ECDSA_P384_SHA_384": SIGNERS["P-384"],
    "PKIX_ECDSA_P521_SHA_512": SIGNERS["P-521"],
    "PKIX_RSA_PKCS1V15_2048_SHA256": SIGNERS["RSA"],
    "PKIX_ED25519": SIGNERS["Ed25519"],
}


@pytest.mark.parametrize("details", LOGS)
def test_logs_of_every_kind_of_key_promise_and_sign_checkpoints(details: str) -> None:
    one = Instance(rekor_v1=LOGS[details], rekor_v1_details=details)
    assert check(one.bundle(V1), V1, instance=one).verified
    document = one.bundle(V1)
    _flip(_entry(document)["inclusionPromise"], "signedEntryTimestamp")
    assert failed_step(check(document, V1, instance=one)) == "inclusion-promise"
    document = one.bundle(V1)
    checkpoint = _entry(document)["inclusionProof"]["checkpoint"]
    checkpoint["envelope"] = checkpoint["envelope"].replace("\n5\n", "\n6\n")
    assert failed_step(check(document, V1, instance=one)) == "checkpoint"


# Trust roots.


ROOTS: list[tuple[Callable[[Any], Any], str]] = [
    (lambda r: r["tlogs"][0]["publicKey"]["validFor"].pop("start"), "tlogs[0].publicKey.validFor"),
    (lambda r: r["ctlogs"][1]["publicKey"]["validFor"].pop("start"), "ctlogs[1].publicKey.validFor"),
    (lambda r: r["tlogs"][0]["publicKey"].pop("validFor"), "validFor"),
    (lambda r: r.update(mediaType="application/vnd.dev.sigstore.trustedroot.v0.3+json"), "mediaType"),
    (lambda r: r["tlogs"][0].update(purpose="any"), "purpose"),
    (lambda r: r["tlogs"][0]["publicKey"].update(keyDetails="PKIX_ED25519"), "tlogs[0].publicKey"),
    (lambda r: r["tlogs"][0]["publicKey"].update(keyDetails="PKCS1_RSA_PKCS1V5"), "rawBytes"),
    (lambda r: r["tlogs"][0].update(checkpointKeyId={"keyId": b64(bytes(32))}), "checkpointKeyId"),
    (lambda r: r["tlogs"][1].update(logId={"keyId": b64(bytes(32))}), "tlogs[1].logId"),
]


@pytest.mark.parametrize(("change", "place"), ROOTS)
def test_a_root_that_says_too_little_or_what_nobody_knows_is_refused(change: Callable[[Any], Any], place: str) -> None:
    with pytest.raises(TrustRootError) as caught:
        INSTANCE.trust(change)
    assert place in str(caught.value)


def test_a_root_of_the_second_version_is_read() -> None:
    def change(root: Any) -> None:
        root["mediaType"] = "application/vnd.dev.sigstore.trustedroot.v0.2+json"
        for log in root["tlogs"]:
            log |= {"operator": "acme", "checkpointKeyId": log["logId"]}
        for authority in root["certificateAuthorities"]:
            authority["operator"] = "acme"
            authority.pop("uri")

    for shape in (V1, V2):
        assert check(INSTANCE.bundle(shape), shape, trust=INSTANCE.trust(change)).verified


def test_a_log_of_ed25519_may_be_known_by_the_digest_of_its_key() -> None:
    spki = INSTANCE.rekor_v2.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    plain = sha256(spki).digest()

    def change(root: Any) -> None:
        root["tlogs"][1] |= {"checkpointKeyId": root["tlogs"][1]["logId"], "logId": {"keyId": b64(plain)}}

    document = INSTANCE.bundle(V2)
    _entry(document)["logId"]["keyId"] = b64(plain)
    assert check(document, V2, trust=INSTANCE.trust(change)).verified


def test_the_same_authority_may_be_trusted_for_two_spans_of_time() -> None:
    past = {"start": "2025-01-01T00:00:00Z", "end": "2025-02-01T00:00:00Z"}

    def change(root: Any) -> None:
        current = root["certificateAuthorities"][1]
        root["certificateAuthorities"] = [current | {"validFor": past}, current]

    assert check(INSTANCE.bundle(V1), V1, trust=INSTANCE.trust(change)).verified


def test_what_protobufs_json_leaves_out_is_nothing() -> None:
    # The first entry of a tree of one: index 0 and no hashes.
    document = INSTANCE.bundle(V2)
    entry = _entry(document)
    root = naive_tree.root([b64decode(entry["canonicalizedBody"])])
    text = f"{REKOR_V2}\n1\n{b64(root)}\n"
    key_id = ed25519_key_id(REKOR_V2, INSTANCE.rekor_v2.public_key().public_bytes_raw())
    note = f"{text}\n{signature_line(REKOR_V2, key_id, INSTANCE.rekor_v2.sign(text.encode()))}"
    entry.pop("logIndex")
    entry.pop("integratedTime")
    entry["inclusionProof"] = {"rootHash": b64(root), "treeSize": "1", "checkpoint": {"envelope": note}}
    assert check(document, V2).require().log_index == 0


def test_the_public_good_root_is_read_with_all_that_it_has() -> None:
    root = TrustRoot.public_good()
    origins = {log.origin for log in root.logs.values()}
    assert {"rekor.sigstore.dev", "log2025-1.rekor.sigstore.dev"} <= origins
    assert len(root.ct_logs) >= 2
    assert len(root.certificate_authorities) >= 2
    assert root.timestamp_authorities
    # A stranger's signature is none of its.
    assert failed_step(check(INSTANCE.bundle(V1), V1, trust=root)) == "timestamp"


def test_without_the_package_the_public_good_root_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(public_good, "distribution", missing)
    with pytest.raises(TrustRootError, match=r"pip install 'sealkeeper\[sigstore\]'"):
        TrustRoot.public_good()


# Whatever comes in.


@cache
def _made(shape: Shape) -> str:
    # Signatures differ in length from one time to the next.
    return json.dumps(INSTANCE.bundle(shape))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_changed_byte_of_a_body_or_chain_makes_it_raise_or_verify(data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([V1, OLDER, DSSE, INTOTO, KEY]))
    document = json.loads(_made(shape))
    places: list[tuple[Any, str]] = [(_entry(document), "canonicalizedBody")]
    places.append((_entry(document)["inclusionPromise"], "signedEntryTimestamp"))
    places.append((_entry(document)["inclusionProof"], "rootHash"))
    if shape.version == "0.1":
        places.append((_material(document)["x509CertificateChain"]["certificates"][0], "rawBytes"))
    holder, name = data.draw(st.sampled_from(places))
    mutant = bytearray(b64decode(holder[name]))
    mutant[data.draw(st.integers(0, len(mutant) - 1))] ^= data.draw(st.integers(1, 255))
    holder[name] = b64(bytes(mutant))
    assert failed_step(check(document, shape))


BODY = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["spec", "data", "hash", "signature", "signatures", "content"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(BODY, st.sampled_from([V1, DSSE, INTOTO, V2]))
def test_no_body_of_any_form_makes_it_raise_or_verify(body: Any, shape: Shape) -> None:
    def change(document: Any) -> None:
        document["spec"] = body

    assert failed_step(check(INSTANCE.bundle(shape, change_body=change), shape)) == "log-entry"
