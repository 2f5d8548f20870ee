"""Whose a statement is, what it is about, and what it counts for."""

from __future__ import annotations

from datetime import timedelta
from itertools import combinations, permutations
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from sealkeeper.verify.gate.decision import Artifact, Decision, Outcome
from sealkeeper.verify.gate.evidence import FoundBundle, bounded, examine, same_artifact
from sealkeeper.verify.gate.policy import parse_policy
from tests.shapes.world import DOMAIN
from tests.verify.gate.signed_statements import (
    APP,
    ARTIFACT,
    BUILT,
    DIGEST,
    GATES,
    QA,
    RELEASE,
    RELEASE_2,
    SIGNED,
    STRANGER,
    SUBJECT,
    by_identity,
    by_key,
    codes,
    decided,
    provenance,
    results,
    scan,
    told,
    trust,
)
from tests.verify.instance import ISSUER, NOW

ALICE = ec.derive_private_key(77, ec.SECP256R1())
BOB = ec.derive_private_key(78, ec.SECP256R1())


def pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def quorum(threshold: int, **signers: str) -> str:
    named = "\n".join(f"  {name}: {one}" for name, one in signers.items())
    wanted = f"{{signers: [{', '.join(signers)}], threshold: {threshold}}}"
    return f"gate: v1\nsigners:\n{named}\nrequire: {{signatures: {wanted}}}\n"


def identity(pattern: str, issuer: str = ISSUER) -> str:
    return f'{{identity: "{pattern}", issuer: "{issuer}"}}'


def public_key(key: ec.EllipticCurvePrivateKey) -> str:
    return f"{{public_key: {pem(key)!r}}}".replace("'", '"')


RELEASE_KEY, QA_KEY = "{key: tenants/acme/keys/release}", "{key: tenants/acme/keys/qa}"


# Whose it is.


def test_one_key_is_one_party_whatever_its_names_and_versions() -> None:
    names = {"a": RELEASE_KEY, "b": RELEASE_KEY, "c": "{key: tenants/acme/keys/release/versions/2}"}
    found = [by_key(results(), RELEASE), by_key(results(), RELEASE_2), by_key(results(), RELEASE, certificate=True)]
    assert codes(decided(quorum(2, **names), found)) == {"SIGNATURES_TOO_FEW"}
    assert decided(quorum(1, **names), found).outcome is Outcome.ALLOW


def test_a_version_of_a_key_is_asked_for_by_its_name() -> None:
    policy = quorum(1, a="{key: tenants/acme/keys/release/versions/2}")
    assert decided(policy, [by_key(results(), RELEASE_2)]).outcome is Outcome.ALLOW
    assert codes(decided(policy, [by_key(results(), RELEASE)])) == {"SIGNATURES_TOO_FEW"}


def test_a_pinned_key_with_a_certificate_is_one_party_with_itself() -> None:
    policy = quorum(2, raw=public_key(ALICE), person=identity("alice@example.com"))
    raw = by_identity(results(), signer=ALICE, certified=False)
    certified = by_identity(results(), "alice@example.com", signer=ALICE)
    assert codes(decided(policy, [raw, certified])) == {"SIGNATURES_TOO_FEW"}
    assert decided(policy.replace("threshold: 2", "threshold: 1"), [raw]).outcome is Outcome.ALLOW


def test_a_public_key_of_another_instance_is_pinned_and_no_other_key_passes_for_it() -> None:
    policy = quorum(1, alice=public_key(ALICE))
    assert decided(policy, [by_identity(results(), signer=ALICE, certified=False)]).outcome is Outcome.ALLOW
    decision = decided(policy, [by_identity(results(), signer=BOB, certified=False)])
    assert codes(decision) == {"SIGNATURES_TOO_FEW"}
    assert "no key with the hint" in told(decision)


def test_two_people_are_two_parties() -> None:
    policy = quorum(2, a=public_key(ALICE), b=public_key(BOB))
    found = [by_identity(results(), signer=one, certified=False) for one in (ALICE, BOB)]
    assert decided(policy, found).outcome is Outcome.ALLOW
    assert codes(decided(policy, found[:1] * 3)) == {"SIGNATURES_TOO_FEW"}


def test_an_identity_of_another_issuer_is_another() -> None:
    policy = quorum(1, a=identity("alice@example.com"))
    assert decided(policy, [by_identity(results(), "alice@example.com")]).outcome is Outcome.ALLOW
    other = by_identity(results(), "alice@example.com", issuer="https://accounts.evil.example", claims={})
    decision = decided(policy, [other])
    assert codes(decision) == {"SIGNATURES_TOO_FEW"}
    assert "accounts.evil.example" in told(decision)


@pytest.mark.parametrize(
    ("key", "tenant"), [(RELEASE, "acme"), (STRANGER, "mallory")], ids=["of the tenant", "of another tenant"]
)
def test_the_certificate_of_a_kept_key_is_nobodys_identity(key: str, tenant: str) -> None:
    policy = quorum(1, a=identity(f"https://{DOMAIN}/tenants/**", f"https://{DOMAIN}"))
    signed = by_key(results(), key, certificate=True, tenant=tenant)
    assert codes(decided(policy, [signed])) == {"SIGNATURES_TOO_FEW"}
    assert (decided(SIGNED, [signed]).outcome is Outcome.ALLOW) is (tenant == "acme")


@pytest.mark.parametrize(
    ("pattern", "found", "fits"),
    [
        ("https://github.com/acme/**@refs/heads/main", "https://github.com/acme/w@refs/heads/main", True),
        (
            "https://github.com/acme/**@refs/heads/main",
            "https://github.com/acme/a/w@refs/heads/x@refs/heads/main",
            False,
        ),
        ("https://github.com/acme/a/w.yml@refs/tags/**", "https://github.com/acme/a/w.yml@refs/tags/pkg@1.0.0", True),
        ("https://github.com/acme/a/**", "https://github.com/acme/a/w.yml@refs/heads/x", True),
        ("https://github.com/acme/*", "https://github.com/acme/a/w.yml@refs/heads/x", False),
        ("*@example.com", "mallory@evil.example", False),
        ("*@example.com", "alice@example.com", True),
    ],
)
def test_a_branch_cannot_be_named_so_that_it_passes_for_another(pattern: str, found: str, fits: bool) -> None:
    decision = decided(quorum(1, a=identity(pattern)), [by_identity(results(), found)])
    assert (decision.outcome is Outcome.ALLOW) is fits


# What it counts for.


def test_the_same_bundle_twice_counts_once() -> None:
    policy = quorum(2, a=RELEASE_KEY, b=QA_KEY)
    one = by_key(results())
    assert codes(decided(policy, [one, one, by_key(results())])) == {"SIGNATURES_TOO_FEW"}
    assert len(bounded([FoundBundle(one, "store"), FoundBundle(one, "registry")])) == 1
    assert len(decided(SIGNED, [one, one]).verdict.attestations) == 1


@pytest.fixture(scope="module")
def many() -> list[bytes]:
    """Good, bad, newer, older, of somebody else."""
    earlier = NOW - timedelta(days=3)
    return [
        by_key(provenance()),
        by_key(provenance(), moment=earlier),
        by_key(provenance(ref="refs/heads/evil")),
        by_key(scan("high"), QA),
        by_key(scan("low"), QA, moment=earlier),
        by_identity(provenance(), "mallory@example.com"),
        by_key(provenance(), STRANGER),
    ]


def test_evidence_in_any_order_gives_the_same_decision(many: list[bytes]) -> None:
    policy = f"{BUILT}  vulnerabilities: {{worst_allowed: medium, signers: [qa]}}\n"
    expected = decided(policy, many)
    assert codes(expected) == {"VULNERABILITIES_FOUND"}
    for place, one in enumerate(permutations(many)):
        if place % 97 == 0:
            found = decided(policy, one)
            assert (found.outcome, found.verdict.level) == (expected.outcome, expected.verdict.level)
            assert [reason.code for reason in found.verdict.reasons] == [one.code for one in expected.verdict.reasons]
            assert set(found.verdict.attestations) == set(expected.verdict.attestations)


def test_which_of_two_of_one_second_is_the_newest_is_nobodys_choice() -> None:
    policy = f"{BUILT}  attestations: [{{type: test-result, signers: [qa], fields: {{result: PASSED}}}}]\n"
    good, bad = by_key(results("PASSED"), QA), by_key(results("FAILED"), QA)
    built = by_key(provenance())
    assert decided(policy, [built, good]).outcome is Outcome.ALLOW
    for spaces in range(8):
        assert codes(decided(policy, [built, bad, good + b" " * spaces])) == {"ATTESTATION_FIELD"}


def _signed(who: int) -> bytes:
    makers = [
        lambda: by_key(results(), RELEASE),
        lambda: by_key(results(), RELEASE_2),
        lambda: by_key(results(), QA, certificate=True),
        lambda: by_key(results(), GATES),
        lambda: by_identity(results(), "alice@example.com", signer=ALICE),
        lambda: by_identity(results(), signer=ALICE, certified=False),
        lambda: by_identity(results(), "alice@example.com", signer=BOB),
        lambda: by_identity(results(), "bob@example.com", signer=BOB),
    ]
    return makers[who]()


POOL = [_signed(who) for who in range(8)]
KINDS = [
    RELEASE_KEY,
    "{key: tenants/acme/keys/release/versions/1}",
    "{key: tenants/acme/keys/release/versions/2}",
    QA_KEY,
    "{key: tenants/acme/keys/gates}",
    identity("*@example.com"),
    identity("alice@example.com"),
    public_key(ALICE),
]


def _count(names: list[int], found: list[bytes]) -> int:
    policy = {f"s{place}": KINDS[one] for place, one in enumerate(names)}
    reached = [one for one in range(1, len(names) + 1) if decided(quorum(one, **policy), found).verdict.passed]
    assert reached == list(range(1, len(reached) + 1))
    return len(reached)


@settings(max_examples=40, deadline=None)
@given(
    names=st.lists(st.integers(0, 7), min_size=1, max_size=4),
    found=st.lists(st.integers(0, 7), max_size=6),
    more=st.integers(0, 7),
)
def test_a_quorum_grows_with_evidence_and_never_beyond_the_parties(
    names: list[int], found: list[int], more: int
) -> None:
    bundles = [POOL[one] for one in found]
    count = _count(names, bundles)
    assert _count(names, [*bundles, POOL[more]]) >= count
    policy = parse_policy(quorum(1, **{f"s{place}": KINDS[one] for place, one in enumerate(names)}).encode())
    seen = examine([FoundBundle(one, "store") for one in bundles], APP, policy, trust(), NOW).evidence
    assert count <= len({one.party for one in seen if one.signers})
    assert count == _best(names, seen)


def _best(names: list[int], seen: Any) -> int:
    """By trying everything."""
    wanted = [f"s{place}" for place in range(len(names))]
    for size in range(min(len(wanted), len(seen)), 0, -1):
        for chosen in combinations(wanted, size):
            for one in permutations(seen, size):
                fits = all(name in each.signers for name, each in zip(chosen, one, strict=True))
                if fits and len({each.party for each in one}) == size:
                    return size
    return 0


# What it is about.


def test_a_subject_of_sha_512_alone_is_the_artifact_where_the_artifact_has_it() -> None:
    subject = {"digest": {"sha512": "5" * 128}}
    both = Artifact("app", {"sha256": DIGEST, "sha512": "5" * 128})
    assert decided(BUILT, [by_key(provenance(subject))], both).outcome is Outcome.ALLOW
    assert codes(decided(BUILT, [by_key(provenance(subject))])) == {"PROVENANCE_MISSING"}
    assert decided(BUILT, [by_key(provenance(subject))], Artifact("app", subject["digest"])).outcome is Outcome.ALLOW


def test_digests_that_contradict_are_of_two_artifacts() -> None:
    both = Artifact("app", {"sha256": DIGEST, "sha512": "5" * 128})
    twisted = {"digest": {"sha256": DIGEST, "sha512": "6" * 128}}
    assert codes(decided(BUILT, [by_key(provenance(twisted))], both)) == {"PROVENANCE_MISSING"}
    # One subject that contradicts does not take from another that does not.
    assert decided(BUILT, [by_key(provenance(twisted, SUBJECT))], both).outcome is Outcome.ALLOW


def test_a_digest_that_can_be_forged_makes_nothing_the_artifact() -> None:
    assert not same_artifact({"sha1": "a" * 40, "md5": "b" * 32}, {"sha1": "a" * 40, "md5": "b" * 32})
    assert not same_artifact({"sha1": "a" * 40}, {"sha256": DIGEST, "sha1": "a" * 40})
    assert not same_artifact({}, {})


def test_a_signature_of_the_artifact_itself_counts_by_its_digest() -> None:
    assert decided(SIGNED, [by_key(ARTIFACT, payload_type="")]).outcome is Outcome.ALLOW
    other = decided(SIGNED, [by_key(ARTIFACT, payload_type="")], Artifact("app", {"sha512": "5" * 128}))
    assert codes(other) == {"SIGNATURES_TOO_FEW"}


def test_an_envelope_of_another_type_is_no_statement() -> None:
    kind = "application/vnd.sealkeeper.gate+json"
    decision: Decision = decided(SIGNED, [by_key(results(), payload_type=kind)])
    assert codes(decision) == {"SIGNATURES_TOO_FEW"}
    assert kind in told(decision)
