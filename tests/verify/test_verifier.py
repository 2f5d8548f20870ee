"""Every step of a verification passes for what is right, and fails alone for what is wrong in its place."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from sealkeeper.hsm import ALGORITHMS
from sealkeeper.verify import Artifact, Policy, PolicyError, StepFailedError, TrustRoot, TrustRootError, verify
from sealkeeper.verify.artifact import MAX_MESSAGE, ArtifactError
from sealkeeper.verify.trust import KeyState
from tests.shapes.world import DOMAIN, KEY, NOW
from tests.verify import certificates
from tests.verify.signed import (
    ARTIFACT,
    BY_KEY,
    P256,
    RUNNER,
    Signed,
    changed,
    check,
    edited_trusted_root,
    failed_step,
    signed,
)

IDENTITY = f"https://{DOMAIN}/{KEY}"
ISSUER = f"https://{DOMAIN}"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_bundles_of_every_algorithm_and_shape_verify(algorithm: str) -> None:
    one = signed(algorithm)
    for bundle in (one.key_bundle, one.certificate_bundle):
        result = check(bundle, one.trust).require()
        assert result.key_name == f"{KEY}/versions/1"
        assert result.log_index == 6
        assert result.time == NOW.replace(microsecond=0)
    for bundle in (one.key_envelope, one.certificate_envelope):
        result = verify(bundle, None, one.trust, BY_KEY).require()
        assert result.payload == ARTIFACT


def test_the_steps_are_these_in_this_order() -> None:
    one = signed()
    before, after = ["bundle", "material", "content", "signature", "timestamp"], ["log-entry", "checkpoint"]
    names = [step.name for step in check(one.key_bundle, one.trust).steps]
    assert names == [*before, "key-policy", "key-state", *after, "inclusion-proof"]
    names = [step.name for step in check(one.certificate_bundle, one.trust).steps]
    chain = ["certificate-chain", "certificate-timestamp", "identity", "key-state"]
    assert names == [*before, *chain, *after, "inclusion-proof"]


def _entry(document: Any) -> Any:
    return document["verificationMaterial"]["tlogEntries"][0]


def _flip(holder: Any, name: str) -> None:
    data = bytearray(b64decode(holder[name]))
    data[-1] ^= 1
    holder[name] = b64encode(data).decode()


def _other_body(document: Any) -> None:
    body = b64decode(_entry(document)["canonicalizedBody"]).replace(b'"kind"', b' "kind"')
    _entry(document)["canonicalizedBody"] = b64encode(body).decode()


def _set(path: list[Any], value: Any) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for part in path[:-1]:
            document = document[part]
        document[path[-1]] = value

    return change


ENTRY = ["verificationMaterial", "tlogEntries", 0]
PROOF = [*ENTRY, "inclusionProof"]
HASH = b64encode(bytes(32)).decode()
WRONG: list[tuple[str, Callable[[Any], None], str]] = [
    ("media type", _set(["mediaType"], "application/vnd.dev.sigstore.bundle.v0.2+json"), "bundle"),
    ("hint", _set(["verificationMaterial", "publicKey", "hint"], HASH), "material"),
    ("digest in the bundle", _set(["messageSignature", "messageDigest", "digest"], HASH), "content"),
    ("signature", lambda document: _flip(document["messageSignature"], "signature"), "signature"),
    ("no timestamp", lambda document: document["verificationMaterial"].pop("timestampVerificationData"), "timestamp"),
    (
        "timestamp",
        lambda document: _flip(
            document["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"][0], "signedTimestamp"
        ),
        "timestamp",
    ),
    ("no entry", _set(["verificationMaterial", "tlogEntries"], []), "log-entry"),
    ("log id", _set([*ENTRY, "logId", "keyId"], HASH), "log-entry"),
    ("kind", _set([*ENTRY, "kindVersion", "kind"], "dsse"), "log-entry"),
    ("version", _set([*ENTRY, "kindVersion", "version"], "0.0.1"), "log-entry"),
    ("index", _set([*ENTRY, "logIndex"], "5"), "log-entry"),
    ("body with another spelling", _other_body, "log-entry"),
    ("root", _set([*PROOF, "rootHash"], HASH), "checkpoint"),
    ("size", _set([*PROOF, "treeSize"], "9"), "checkpoint"),
    ("checkpoint", _set([*PROOF, "checkpoint", "envelope"], "log\n1\nAAAA\n"), "checkpoint"),
    ("hashes", lambda document: _entry(document)["inclusionProof"]["hashes"].reverse(), "inclusion-proof"),
    ("a hash too few", lambda document: _entry(document)["inclusionProof"]["hashes"].pop(), "inclusion-proof"),
]


@pytest.mark.parametrize(("change", "step"), [one[1:] for one in WRONG], ids=[one[0] for one in WRONG])
def test_one_wrong_place_fails_its_step(change: Callable[[Any], None], step: str) -> None:
    one = signed()
    assert failed_step(check(changed(one.key_bundle, change), one.trust)) == step


def test_a_body_for_another_signature_is_named() -> None:
    one = signed()
    other = json.loads(RUNNER.run(one.world.bundle(one.key, b"another", certificate=False)))

    def change(document: Any) -> None:
        document["verificationMaterial"]["tlogEntries"] = other["verificationMaterial"]["tlogEntries"]

    result = check(changed(one.key_bundle, change), one.trust)
    assert failed_step(result) == "log-entry"
    assert "another digest" in result.steps[-1].detail


def test_another_artifact_is_refused() -> None:
    one = signed()
    for bundle in (one.key_bundle, one.certificate_bundle):
        assert failed_step(check(bundle, one.trust, artifact=Artifact.from_bytes(b"tampered"))) == "content"
    assert failed_step(check(one.key_envelope, one.trust, artifact=Artifact.from_bytes(b"tampered"))) == "content"
    assert failed_step(verify(one.key_bundle, None, one.trust, BY_KEY)) == "content"


def test_a_bundle_without_a_digest_is_still_held_to_the_artifact() -> None:
    one = signed()
    bundle = changed(one.key_bundle, lambda document: document["messageSignature"].pop("messageDigest"))
    assert check(bundle, one.trust).verified
    assert failed_step(check(bundle, one.trust, artifact=Artifact.from_bytes(b"tampered"))) == "signature"


def test_a_tampered_envelope_is_refused() -> None:
    one = signed()
    payload = changed(one.key_envelope, _set(["dsseEnvelope", "payload"], b64encode(b"other").decode()))
    kind = changed(one.key_envelope, _set(["dsseEnvelope", "payloadType"], "text/plain"))
    hint = changed(one.key_envelope, _set(["dsseEnvelope", "signatures", 0, "keyid"], "someone"))
    assert failed_step(verify(payload, None, one.trust, BY_KEY)) == "signature"
    assert failed_step(verify(kind, None, one.trust, BY_KEY)) == "signature"
    assert failed_step(verify(hint, None, one.trust, BY_KEY)) == "content"


def test_a_policy_pins_something_or_says_that_it_does_not() -> None:
    for arguments in ({}, {"identity": "x"}, {"issuer": "x"}, {"key": "release"}, {"key": KEY, "any_signer": True}):
        with pytest.raises(PolicyError):
            Policy(**arguments)
    one = signed()
    assert check(one.key_bundle, one.trust, Policy.any_trusted()).verified


def test_another_signer_than_the_policys_is_refused() -> None:
    one = signed()
    other = Policy(key="tenants/acme/keys/other")
    assert failed_step(check(one.key_bundle, one.trust, other)) == "key-policy"
    assert failed_step(check(one.certificate_bundle, one.trust, other)) == "identity"
    assert failed_step(check(one.key_bundle, one.trust, Policy(key=f"{KEY}/versions/2"))) == "key-policy"
    assert failed_step(check(one.certificate_bundle, one.trust, Policy(key=f"{KEY}/versions/2"))) == "identity"
    assert failed_step(check(one.key_bundle, one.trust, Policy(identity=IDENTITY, issuer=ISSUER))) == "key-policy"
    assert check(one.certificate_bundle, one.trust, Policy(identity=IDENTITY, issuer=ISSUER)).verified
    for policy in (Policy(identity=IDENTITY + "x", issuer=ISSUER), Policy(identity=IDENTITY, issuer=ISSUER + "x")):
        assert failed_step(check(one.certificate_bundle, one.trust, policy)) == "identity"


def test_a_certificate_matches_no_key_without_the_gateways_keys() -> None:
    one = signed()
    trust = TrustRoot.from_json(one.world.trusted_root())
    assert failed_step(check(one.certificate_bundle, trust)) == "identity"
    assert check(one.certificate_bundle, trust, Policy(identity=IDENTITY, issuer=ISSUER)).verified
    assert failed_step(check(one.key_bundle, trust)) == "material"


def test_a_disabled_key_is_refused() -> None:
    one = signed()
    for bundle in (one.key_bundle, one.certificate_bundle):
        assert failed_step(check(bundle, one.trust_in("DISABLED"))) == "key-state"


@pytest.mark.parametrize("state", ["DESTROY_SCHEDULED", "DESTROYED"])
def test_a_disabled_key_is_refused_on_its_way_to_destruction_too(state: str) -> None:
    one = signed()

    def disabled(value: bool) -> TrustRoot:
        def change(key: Any) -> None:
            key["publicKey"]["validFor"].update(end=NOW.isoformat())
            key.update(disabled=value)

        return one.trust_in(state, change)

    for bundle in (one.key_bundle, one.certificate_bundle):
        result = check(bundle, disabled(True))
        assert failed_step(result) == "key-state"
        assert "DISABLED" in result.steps[-1].detail
        assert check(bundle, disabled(False)).verified


def test_a_trust_root_fetched_before_a_version_signs_verifies_it_from_then_on() -> None:
    one, moment = signed(), NOW.replace(microsecond=0)

    def starts(at: Any) -> TrustRoot:
        return one.trust_in("PUBLISHED", lambda key: key["publicKey"]["validFor"].update(start=at.isoformat()))

    for bundle in (one.key_bundle, one.certificate_bundle):
        assert check(bundle, starts(moment)).verified
        assert failed_step(check(bundle, starts(moment + timedelta(seconds=1)))) == "key-state"


def test_a_published_key_that_does_not_say_when_it_signs_is_refused() -> None:
    one = signed()
    result = check(one.key_bundle, one.trust_in("PUBLISHED", lambda key: key["publicKey"].update(validFor={})))
    assert failed_step(result) == "key-state"
    assert "PUBLISHED" in result.steps[-1].detail


@pytest.mark.parametrize("state", ["VERIFY_ONLY", "DESTROY_SCHEDULED", "DESTROYED"])
def test_a_retired_key_that_does_not_say_when_it_ceased_to_sign_is_refused(state: str) -> None:
    one = signed()
    result = check(one.key_bundle, one.trust_in(state))
    assert failed_step(result) == "key-state"
    assert "until when" in result.steps[-1].detail


@pytest.mark.parametrize("state", ["VERIFY_ONLY", "DESTROY_SCHEDULED", "DESTROYED"])
def test_a_retired_key_verifies_what_it_signed_in_its_time(state: str) -> None:
    one, second = signed(), timedelta(seconds=1)
    moment = NOW.replace(microsecond=0)

    def ends(at: Any) -> Callable[[Any], None]:
        return lambda key: key["publicKey"]["validFor"].update(end=at.isoformat())

    assert check(one.key_bundle, one.trust_in(state, ends(moment))).verified
    assert failed_step(check(one.key_bundle, one.trust_in(state, ends(moment - second)))) == "key-state"


def test_a_key_does_not_verify_what_came_before_it() -> None:
    one = signed()
    late = (NOW + timedelta(seconds=1)).isoformat()
    trust = one.trust_in("ACTIVE", lambda key: key["publicKey"]["validFor"].update(start=late))
    assert failed_step(check(one.key_bundle, trust)) == "key-state"


@pytest.mark.parametrize("state", KeyState)
def test_a_key_that_was_compromised_verifies_only_what_came_before_in_every_state(state: str) -> None:
    one, second = signed(), timedelta(seconds=1)
    moment = NOW.replace(microsecond=0)

    def since(at: Any) -> TrustRoot:
        def change(key: Any) -> None:
            key["publicKey"]["validFor"].update(end=(moment + second).isoformat())
            key.update(compromiseTime=at.isoformat())

        return one.trust_in(state, change)

    for bundle in (one.key_bundle, one.certificate_bundle):
        assert failed_step(check(bundle, since(moment))) == "key-state"
        assert check(bundle, since(moment + second)).verified == (state != "DISABLED")


def _unlisted(one: Signed) -> TrustRoot:
    """Keys of another key pair under the same names: those of a trust root made before a rotation, say."""
    other = signed("PKIX_ECDSA_P384_SHA_384")
    return TrustRoot.from_json(one.world.trusted_root(), one.world.keys(other.key))


@pytest.mark.parametrize("policy", [BY_KEY, Policy(identity=IDENTITY, issuer=ISSUER), Policy.any_trusted()])
def test_a_certified_key_that_its_tenants_keys_do_not_list_is_refused(policy: Policy) -> None:
    one = signed()
    result = check(one.certificate_bundle, _unlisted(one), policy)
    assert failed_step(result) == "key-state"
    assert "fetch a newer trust root" in result.steps[-1].detail


def test_a_certified_version_that_is_not_listed_is_refused_for_its_state() -> None:
    one = signed()
    assert failed_step(check(one.certificate_bundle, _unlisted(one), Policy(key=f"{KEY}/versions/1"))) == "key-state"


def test_a_key_certified_under_another_keys_name_is_refused() -> None:
    one = signed()
    trust = one.trust_in("ACTIVE", lambda key: key.update(name="tenants/acme/keys/other/versions/1"))
    for policy in (BY_KEY, Policy.any_trusted()):
        result = check(one.certificate_bundle, trust, policy)
        assert failed_step(result) == "key-state"
        assert "tenants/acme/keys/other/versions/1" in result.steps[-1].detail


def test_keys_of_another_tenant_or_gateway_say_nothing_about_a_certificate_unless_a_key_is_asked_for() -> None:
    one = signed()
    document = json.loads(one.world.keys(one.key))
    for change in ({"tenant": "other", "keys": []}, {"gateway": "elsewhere.example", "keys": []}):
        trust = TrustRoot.from_json(one.world.trusted_root(), json.dumps(document | change).encode())
        assert check(one.certificate_bundle, trust, Policy(identity=IDENTITY, issuer=ISSUER)).verified
        assert not check(one.certificate_bundle, trust).verified


PAST = {"start": "2025-01-01T00:00:00Z", "end": "2025-02-01T00:00:00Z"}
UNTRUSTED: list[tuple[Callable[[Any], None], str]] = [
    (_set(["timestampAuthorities"], []), "timestamp"),
    (_set(["timestampAuthorities", 0, "validFor"], PAST), "timestamp"),
    (_set(["certificateAuthorities"], []), "certificate-chain"),
    (_set(["certificateAuthorities", 0, "validFor"], PAST), "certificate-chain"),
    (_set(["ctlogs"], []), "certificate-timestamp"),
    (_set(["ctlogs", 0, "publicKey", "validFor"], PAST), "certificate-timestamp"),
    (_set(["tlogs"], []), "log-entry"),
    (_set(["tlogs", 0, "publicKey", "validFor"], PAST), "log-entry"),
]


@pytest.mark.parametrize(("change", "step"), UNTRUSTED)
def test_what_the_trust_root_does_not_vouch_for_is_refused(change: Callable[[Any], None], step: str) -> None:
    one = signed()
    assert failed_step(check(one.certificate_bundle, edited_trusted_root(one, change))) == step


def test_another_worlds_authorities_are_refused() -> None:
    one, other = signed(), signed("PKIX_ECDSA_P384_SHA_384")
    assert failed_step(check(one.certificate_bundle, other.trust)) == "timestamp"
    mixed = json.loads(other.world.trusted_root())
    mixed["timestampAuthorities"] = json.loads(one.world.trusted_root())["timestampAuthorities"]
    trust = TrustRoot.from_json(json.dumps(mixed).encode(), one.world.keys(one.key))
    assert failed_step(check(one.certificate_bundle, trust)) == "certificate-chain"


def test_a_certificate_out_of_its_time_is_refused() -> None:
    one = signed()
    real = one.world.ca.clock
    one.world.ca.clock = lambda: NOW - timedelta(hours=1)
    try:
        bundle = RUNNER.run(one.world.bundle(one.key, ARTIFACT, certificate=True))
    finally:
        one.world.ca.clock = real
    assert failed_step(check(bundle, one.trust)) == "certificate-chain"


UNKNOWN_CURVE = b64encode(certificates.UNKNOWN_CURVE).decode()
UNKNOWN_FEATURE = certificates.raw_bytes(
    certificates.certificate((certificates.TLS_FEATURE, certificates.UNKNOWN_FEATURE))
)
TRUST_ROOT_ERRORS: list[tuple[Callable[[Any], None], str]] = [
    (_set(["mediaType"], "text/plain"), "$.mediaType"),
    (_set(["extra"], 1), "extra"),
    (_set(["tlogs", 0, "publicKey", "validFor"], {}), "$.tlogs[0].publicKey.validFor: start"),
    (_set(["tlogs", 0, "baseUrl"], "https://other.example"), "$.tlogs[0].logId.keyId"),
    (_set(["tlogs", 0, "publicKey", "keyDetails"], "PKIX_RSA"), "keyDetails"),
    (_set(["tlogs", 0, "hashAlgorithm"], "SHA2_512"), "hashAlgorithm"),
    (_set(["ctlogs", 0, "logId", "keyId"], HASH), "$.ctlogs[0].logId.keyId"),
    (lambda document: document["tlogs"].append(document["tlogs"][0]), "twice"),
    (lambda document: document["certificateAuthorities"][0]["certChain"]["certificates"].reverse(), "certChain"),
    (lambda document: document["timestampAuthorities"][0]["certChain"]["certificates"].pop(), "certificates"),
    (_set(["tlogs"], {}), "$.tlogs: must be an array"),
    (_set(["tlogs", 0, "baseUrl"], "https://["), "$.tlogs[0].baseUrl"),
    (_set(["ctlogs", 0, "baseUrl"], "https://["), "$.ctlogs[0].baseUrl"),
    (_set(["tlogs", 0, "publicKey", "rawBytes"], UNKNOWN_CURVE), "$.tlogs[0].publicKey"),
    (_set(["certificateAuthorities", 0, "certChain", "certificates", 0, "rawBytes"], UNKNOWN_FEATURE), "rawBytes"),
]


@pytest.mark.parametrize(("change", "place"), TRUST_ROOT_ERRORS)
def test_a_bad_trusted_root_is_refused_naming_the_place(change: Callable[[Any], None], place: str) -> None:
    with pytest.raises(TrustRootError) as caught:
        edited_trusted_root(signed(), change)
    assert place in str(caught.value)
    assert "trusted_root.json" in str(caught.value)


OTHER_KEY = ec.generate_private_key(ec.SECP384R1()).public_key()
OTHER_SPKI = b64encode(OTHER_KEY.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
KEYS_ERRORS: list[tuple[Callable[[Any], None], str]] = [
    (_set(["name"], "tenants/evil/keys/release/versions/1"), "$.keys[0].name"),
    (_set(["hint"], HASH), "$.keys[0].hint"),
    (_set(["state"], "FINE"), "$.keys[0].state"),
    (_set(["state"], "COMPROMISED"), "compromiseTime"),
    (_set(["publicKey", "rawBytes"], OTHER_SPKI), "$.keys[0].hint"),
    (_set(["publicKey", "keyDetails"], "PKIX_ED25519"), "public key is not one for PKIX_ED25519"),
    (_set(["publicKey", "validFor", "start"], "yesterday"), "validFor.start"),
    (_set(["publicKey", "validFor", "end"], "2001-01-01T00:00:00Z"), "ends before it starts"),
    (_set(["disabled"], "yes"), "$.keys[0].disabled"),
    (_set(["enabled"], True), "enabled"),
]


@pytest.mark.parametrize(("change", "place"), KEYS_ERRORS)
def test_a_bad_keys_document_is_refused_naming_the_place(change: Callable[[Any], None], place: str) -> None:
    with pytest.raises(TrustRootError) as caught:
        signed().trust_in("ACTIVE", change)
    assert place in str(caught.value)
    assert "keys.json" in str(caught.value)


def test_a_trust_root_is_read_from_its_folder(tmp_path: Path) -> None:
    with pytest.raises(TrustRootError, match=r"trusted_root\.json"):
        TrustRoot.from_directory(tmp_path)
    one = signed()
    (tmp_path / "trusted_root.json").write_bytes(one.world.trusted_root())
    assert not TrustRoot.from_directory(tmp_path).tenant_keys
    (tmp_path / "keys.json").write_bytes(one.world.keys(one.key))
    assert check(one.key_bundle, TrustRoot.from_directory(tmp_path)).verified


def test_keys_that_are_meant_to_be_there_and_cannot_be_read_are_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "trusted_root.json").write_bytes(signed().world.trusted_root())
    (tmp_path / "keys.json").symlink_to(tmp_path / "gone")
    with pytest.raises(TrustRootError, match=r"keys\.json"):
        TrustRoot.from_directory(tmp_path)


@pytest.mark.parametrize("name", ["gateway", "tenant"])
def test_keys_of_nobody_are_refused(name: str) -> None:
    one = signed()
    document = json.loads(one.world.keys(one.key)) | {name: "", "keys": []}
    with pytest.raises(TrustRootError, match=rf"keys\.json: \$\.{name}"):
        TrustRoot.from_json(one.world.trusted_root(), json.dumps(document).encode())


def test_two_keys_under_one_name_are_refused() -> None:
    one, other = signed(), signed("PKIX_ECDSA_P384_SHA_384")
    document = json.loads(one.world.keys(one.key))
    document["keys"] += json.loads(other.world.keys(other.key))["keys"]
    with pytest.raises(TrustRootError, match=r"keys\[1\]\.name"):
        TrustRoot.from_json(one.world.trusted_root(), json.dumps(document).encode())


def test_a_file_is_hashed_as_it_streams_by(tmp_path: Path) -> None:
    path, read = tmp_path / "artifact", list[int]()
    path.write_bytes(ARTIFACT)
    one = signed()
    assert check(one.key_bundle, one.trust, artifact=Artifact.from_path(path, read.append)).verified
    assert sum(read) == len(ARTIFACT)


def test_a_message_algorithm_needs_the_message_and_bounds_it(tmp_path: Path) -> None:
    one = signed("PKIX_ED25519")
    digest = Artifact.from_digest("SHA2_256", Artifact.from_bytes(ARTIFACT).digest("SHA2_256"))
    result = check(one.key_bundle, one.trust, artifact=digest)
    assert failed_step(result) == "content"
    assert check(signed().key_bundle, signed().trust, artifact=digest).verified
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.truncate(MAX_MESSAGE + 1)
    assert failed_step(check(one.key_bundle, one.trust, artifact=Artifact.from_path(path))) == "content"


def test_a_digest_of_the_wrong_length_or_kind_is_refused() -> None:
    for algorithm, length in (("SHA2_256", 31), ("SHA2_384", 32), ("MD5", 16)):
        with pytest.raises(ArtifactError):
            Artifact.from_digest(algorithm, bytes(length))
    one = signed()
    assert (
        failed_step(check(one.key_bundle, one.trust, artifact=Artifact.from_digest("SHA2_384", bytes(48)))) == "content"
    )


def test_require_raises_the_failed_step() -> None:
    one = signed()
    with pytest.raises(StepFailedError) as caught:
        check(b"{}", one.trust).require()
    assert caught.value.step == "bundle"


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_no_changed_byte_makes_it_raise_or_verify_as_something_else(data: st.DataObject) -> None:
    one = signed(P256)
    original = data.draw(st.sampled_from([one.key_bundle, one.certificate_bundle]))
    mutant = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(mutant) - 1))
        kind = data.draw(st.sampled_from(["set", "delete", "insert"]))
        if kind == "set":
            mutant[place] = data.draw(st.integers(0, 255))
        elif kind == "delete":
            del mutant[place]
        else:
            mutant.insert(place, data.draw(st.integers(0, 255)))
    result = check(bytes(mutant), one.trust)
    if result.verified:
        assert _meaning(bytes(mutant)) == _meaning(original)


def _meaning(bundle: bytes) -> Any:
    document = json.loads(bundle)
    document["messageSignature"].pop("messageDigest", None)
    # What no signature covers: how the timestamp says that it was granted.
    stamps = document["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"]
    stamps[0]["signedTimestamp"] = ""
    return document


def _texts(value: Any) -> list[tuple[Any, Any]]:
    """Where a document has strings: each one's holder and its name or place there."""
    places = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    found = [(value, name) for name, one in places if isinstance(one, str)]
    return found + [place for _, one in places if isinstance(one, dict | list) for place in _texts(one)]


ANY_CHARACTER = st.characters(categories=["Cs"]) | st.characters()


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_no_character_in_any_text_or_name_makes_it_raise(data: st.DataObject) -> None:
    one = signed()
    bundles = [one.key_bundle, one.certificate_bundle, one.key_envelope, one.certificate_envelope]
    document = json.loads(data.draw(st.sampled_from(bundles)))
    holder, name = data.draw(st.sampled_from(_texts(document)))
    text = holder[name]
    place, inserted = data.draw(st.integers(0, len(text))), data.draw(ANY_CHARACTER)
    holder[name] = text[:place] + inserted + text[place:]
    if isinstance(holder, dict) and data.draw(st.booleans()):
        holder[f"{name}{data.draw(ANY_CHARACTER)}"] = text
    # json.dumps writes them as escapes: what is no UTF-8 gets in that way.
    result = check(json.dumps(document).encode(), one.trust)
    # A DSSE keyid is a hint that nothing signs, and that a certificate makes needless.
    assert not result.verified or (name == "keyid" and result.identity)
    str(result).encode("utf-8")


@pytest.mark.parametrize(
    "path",
    [
        ["mediaType"],
        ["verificationMaterial", "publicKey", "hint"],
        ["dsseEnvelope", "payloadType"],
        ["dsseEnvelope", "signatures", 0, "keyid"],
        [*PROOF, "checkpoint", "envelope"],
    ],
)
def test_half_a_surrogate_pair_in_a_bundle_is_an_answer(path: list[Any]) -> None:
    one = signed()
    bundle = changed(one.key_envelope, _set(path, "text \ud800"))
    assert failed_step(check(bundle, one.trust)) == "bundle"


@given(st.binary(max_size=300))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    assert failed_step(check(data, signed().trust)) == "bundle"


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_changed_certificate_or_timestamp_makes_it_raise(data: st.DataObject) -> None:
    one = signed()
    document = json.loads(one.certificate_bundle)
    material = document["verificationMaterial"]
    holder, name = data.draw(
        st.sampled_from(
            [
                (material["certificate"], "rawBytes"),
                (material["timestampVerificationData"]["rfc3161Timestamps"][0], "signedTimestamp"),
            ]
        )
    )
    der = bytearray(b64decode(holder[name]))
    der[data.draw(st.integers(0, len(der) - 1))] ^= data.draw(st.integers(1, 255))
    holder[name] = b64encode(der).decode()
    result = check(json.dumps(document).encode(), one.trust)
    assert not result.verified or name == "signedTimestamp"
