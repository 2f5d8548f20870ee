from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sealkeeper.verify.errors import GatePolicyError
from sealkeeper.verify.gate.patterns import Pattern
from sealkeeper.verify.gate.policy import MAX_POLICY, Mode, Severity, parse_policy

FULL = """
gate: v1
description: what may run in production
mode: warn
verdict_key: tenants/acme/keys/gates
signers:
  release: {key: tenants/acme/keys/release}
  github:
    identity: https://github.com/acme/app/.github/workflows/*@refs/heads/main
    issuer: https://token.actions.githubusercontent.com
builders:
  - {signer: github, id: https://github.com/actions/runner/github-hosted, level: 3}
revoked:
  - {signer: release, from: 2026-01-01T00:00:00Z, until: 2026-01-02T00:00:00Z, reason: stolen laptop}
require:
  signatures: {signers: [release, github], threshold: 2, max_age: 30d}
  provenance:
    minimum_level: 2
    source:
      repository: https://github.com/acme/app
      branch: main
      tag: [v*]
      version: ">=1.2.0"
    build_type: https://actions.github.io/buildtypes/workflow/v1
    parameters: {workflow.path: .github/workflows/release.yml, inputs.debug: false, inputs.level: 3}
    self_hosted_runners: true
    claims_match: false
    max_age: 12h
    dependencies: {depth: 2, minimum_level: 1, except: ["pkg:deb/**"]}
  attestations:
    - {type: https://spdx.dev/Document, signers: [release], max_age: 7d, fields: {spdxVersion: SPDX-2.*}}
  vulnerabilities:
    worst_allowed: medium
    signers: [release]
    max_age: 1d
    unknown_severity: allow
    ignore: [{id: CVE-2026-1, until: 2027-01-01T00:00:00Z, reason: not reachable}]
  promotion: {verifier: https://gw/tenants/acme/gates/staging, signers: [release], levels: [SLSA_BUILD_LEVEL_2]}
  trust_root: {max_age: 7d, offline: refuse}
  rego: ["package sealkeeper.gate"]
  children: index
environments:
  staging: {promotion: null, signatures: {signers: [release]}}
only_named_environments: true
"""


def parsed(text: str = FULL) -> object:
    return parse_policy(text.encode())


def test_every_member_is_read() -> None:
    policy = parse_policy(FULL.encode())
    assert (policy.mode, policy.verdict_key) == (Mode.WARN, "tenants/acme/keys/gates")
    assert policy.signers["github"].identity == Pattern(
        "https://github.com/acme/app/.github/workflows/*@refs/heads/main"
    )
    assert policy.builders[0].level == 3
    assert policy.revoked[0].covers(datetime(2026, 1, 2, tzinfo=UTC))
    assert not policy.revoked[0].covers(datetime(2026, 1, 2, 0, 0, 1, tzinfo=UTC))
    rules = policy.defaults
    assert rules.signatures is not None
    assert (rules.signatures.threshold, rules.signatures.max_age) == (2, timedelta(days=30))
    assert rules.provenance is not None
    assert rules.provenance.source is not None
    assert [one.text for one in rules.provenance.source.ref] == ["refs/heads/main", "refs/tags/v*"]
    assert rules.provenance.parameters is not None
    assert [one.text for one in rules.provenance.parameters["inputs.debug"]] == ["false"]
    assert [one.text for one in rules.provenance.parameters["inputs.level"]] == ["3"]
    assert rules.vulnerabilities is not None
    assert rules.vulnerabilities.worst is Severity.MEDIUM
    assert not rules.trust_root.offline
    assert not rules.children


def test_an_environment_puts_its_sections_in_the_place_of_the_others() -> None:
    policy = parse_policy(FULL.encode())
    staging = policy.rules("staging")
    assert staging is not None
    assert staging.promotion is None
    assert staging.signatures is not None
    assert staging.signatures.threshold == 1
    assert staging.provenance == policy.defaults.provenance


def test_environments_that_are_not_named_are_refused_where_only_named_ones_are_known() -> None:
    assert parse_policy(FULL.encode()).rules("production") is None
    free = FULL.replace("only_named_environments: true", "")
    assert parse_policy(free.encode()).rules("production") is not None


SMALL = """
gate: v1
signers: {a: {key: tenants/acme/keys/a}, b: {key: tenants/acme/keys/b}}
builders: [{signer: a, id: "https://ci/*", level: 2}]
require: {signatures: {signers: [a]}}
"""


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("gate: v1", "gate: v2", "$.gate: must be v1"),
        ("gate: v1", "gate: v1\nunknown: 1", "$: unknown member 'unknown'"),
        ("gate: v1", "gate: v1\nmode: off", "$.mode: must be one of enforce, warn, audit"),
        ("gate: v1", "gate: v1\nverdict_key: gates", "$.verdict_key: must be"),
        ("{key: tenants/acme/keys/a}", "{}", "$.signers.a: needs exactly one of key, identity and public_key"),
        ("{key: tenants/acme/keys/a}", "{key: x}", "$.signers.a.key: must be"),
        ("{key: tenants/acme/keys/a}", "{identity: x}", "$.signers.a: an identity goes together with its issuer"),
        ("{key: tenants/acme/keys/a}", "{public_key: x}", "$.signers.a.public_key: must be a public key in PEM"),
        ("level: 2", "level: 5", "$.builders[0].level"),
        ("level: 2", "level: true", "$.builders[0].level"),
        ("{signer: a, id", "{signer: c, id", "$.builders[0].signer: there is no signer 'c'"),
        ("{signers: [a]}", "{signers: [a], threshold: 2}", "$.require.signatures.threshold: must be 1 to 1"),
        ("{signers: [a]}", "{signers: [a], threshold: 0}", "$.require.signatures.threshold"),
        ("{signers: [a]}", "{signers: [a, a]}", "$.require.signatures.signers: names a signer twice"),
        ("{signers: [a]}", "{signers: []}", "$.require.signatures.signers: has 0 items"),
        ("{signers: [a]}", "{signers: [a], max_age: 30}", "$.require.signatures.max_age"),
        ("{signers: [a]}", "{signers: [a], max_age: -1d}", "$.require.signatures.max_age"),
        ("{signatures: {signers: [a]}}", "{}", "$.require: asks for nothing that is signed"),
        ("{signatures: {signers: [a]}}", "{rego: [x]}", "$.require: asks for nothing that is signed"),
        ("{signatures: {signers: [a]}}", "{attestations: []}", "$.require: asks for nothing that is signed"),
        ("{signatures: {signers: [a]}}", "{provenance: {minimum_level: 3}}", "no builder of this policy reaches 3"),
        ("{signatures: {signers: [a]}}", "{provenance: {source: {}}}", "$.require.provenance.source: needs"),
        ("{signatures: {signers: [a]}}", "{provenance: {source: {version: x}}}", "$.require.provenance.source.version"),
        ("{signatures: {signers: [a]}}", "{provenance: {dependencies: {depth: 9}}}", "dependencies.depth: must"),
        ("{signatures: {signers: [a]}}", "{provenance: {parameters: {'a b': x}}}", "$.require.provenance.parameters"),
        ("{signers: [a]}}", "{signers: [a]}}\nenvironments: {prod: {signatures: null}}", "$.environments.prod: asks"),
        ("{signers: [a]}}", "{signers: [a]}}\nenvironments: {'': {}}", "$.environments: the name ''"),
        ("{signers: [a]}}", "{signers: [a]}}\nrevoked: [{reason: x}]", "$.revoked[0]: needs a signer"),
        ("{signers: [a]}}", "{signers: [a]}}\nrevoked: [{digest: 'sha256:AB', reason: x}]", "$.revoked[0].digest"),
        ("gate: v1", "gate: v1\ngate: v1", "the name 'gate' is there twice"),
        ("gate: v1", "gate: &x v1\ndescription: *x", "aliases are not allowed"),
        ("gate: v1", "gate: v1\ndescription: !!python/object:os.system x", "line 3"),
        ("gate: v1", "gate: [", "line"),
        ("gate: v1", "gate: v1\n---\n", "line"),
    ],
)
def test_what_is_not_as_it_should_be_is_refused_by_its_place(old: str, new: str, place: str) -> None:
    assert old in SMALL
    with pytest.raises(GatePolicyError) as caught:
        parsed(SMALL.replace(old, new, 1))
    assert place in str(caught.value)


def test_without_builders_nobody_is_believed_about_builds() -> None:
    text = SMALL.replace('builders: [{signer: a, id: "https://ci/*", level: 2}]', "")
    with pytest.raises(GatePolicyError, match="needs builders"):
        parsed(text.replace("{signatures: {signers: [a]}}", "{provenance: {}}"))


def test_yes_and_dates_are_texts() -> None:
    text = SMALL.replace("gate: v1", "gate: v1\ndescription: yes")
    assert parse_policy(text.encode()).description == "yes"
    assert parse_policy(text.replace("yes", "2026-01-01").encode()).description == "2026-01-01"


@pytest.mark.parametrize(
    "text",
    [
        b"\xff",
        b"",
        b"a: " * 100,
        b"[" * 5000,
        b"a: [" + b"x," * 20_000 + b"]",
        b"x" * (MAX_POLICY + 1),
        b"\x00",
        b"? [a]\n: b",
        b"1: 2",
    ],
)
def test_hostile_documents_are_refused(text: bytes) -> None:
    with pytest.raises(GatePolicyError):
        parse_policy(text)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_document_is_read_or_refused(text: bytes) -> None:
    with suppress(GatePolicyError):
        parse_policy(text)


@settings(deadline=None)
@given(st.integers(0, len(FULL) - 1), st.sampled_from("\x00:{}[]&*!|>'\"%@` \n0x-"))
def test_a_changed_policy_is_read_or_refused(place: int, character: str) -> None:
    with suppress(GatePolicyError):
        parse_policy((FULL[:place] + character + FULL[place + 1 :]).encode())
