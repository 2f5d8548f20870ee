"""Signers of other Sigstore instances: each instance vouches for its own, and for nobody else's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sealkeeper.verify import TrustRoot
from sealkeeper.verify.errors import GatePolicyError
from sealkeeper.verify.gate.decision import Outcome
from sealkeeper.verify.gate.policy import parse_policy
from tests.verify.gate.signed_statements import (
    INSTANCE,
    RELEASE,
    by_identity,
    by_key,
    codes,
    decided,
    provenance,
    results,
    trust,
)
from tests.verify.instance import ISSUER, NOW

PERSON = "alice@example.com"
POLICY = f"""
gate: v1
signers:
  release: {{key: tenants/acme/keys/release}}
  alice: {{identity: {PERSON}, issuer: "{ISSUER}", trust_root: TRUSTED}}
require: {{attestations: [{{type: test-result, signers: [alice]}}]}}
"""


def own() -> TrustRoot:
    """What the gateway trusts by itself: nothing of the instance."""
    empty = TrustRoot({}, {}, (), (), "", "", None, {})
    known = trust()
    return replace(empty, gateway=known.gateway, tenant=known.tenant, issued_at=NOW, tenant_keys=known.tenant_keys)


def instance() -> TrustRoot:
    """What the instance trusts; of the gateway it knows nothing."""
    return TrustRoot.from_json(INSTANCE.trusted_root())


def policy(name: str) -> str:
    return POLICY.replace(", trust_root: TRUSTED", f", trust_root: {name}" if name else "")


def test_a_signer_of_another_instance_is_believed_by_its_trust_root() -> None:
    found = [by_identity(results(), PERSON)]
    context: dict[str, Any] = {"trust": replace(own(), others={"github": instance()})}
    assert decided(policy("github"), found, **context).outcome is Outcome.ALLOW


def test_another_instance_does_not_vouch_for_signers_of_the_own_one() -> None:
    found = [by_identity(results(), PERSON)]
    context: dict[str, Any] = {"trust": replace(own(), others={"github": instance()})}
    assert codes(decided(policy(""), found, **context)) == {"ATTESTATION_MISSING"}


def test_an_instance_does_not_vouch_for_signers_of_a_third() -> None:
    found = [by_identity(results(), PERSON)]
    context: dict[str, Any] = {"trust": replace(own(), others={"github": own(), "elsewhere": instance()})}
    assert codes(decided(policy("github"), found, **context)) == {"ATTESTATION_MISSING"}


def test_the_own_instance_does_not_vouch_for_signers_of_another() -> None:
    found = [by_identity(results(), PERSON)]
    context: dict[str, Any] = {"trust": replace(trust(), others={"github": own()})}
    assert codes(decided(policy("github"), found, **context)) == {"ATTESTATION_MISSING"}


def test_a_trust_root_that_is_not_here_is_a_reason() -> None:
    found = [by_identity(results(), PERSON)]
    assert "TRUST_ROOT_UNKNOWN" in codes(decided(policy("github"), found, trust=own()))


def test_what_the_own_one_vouches_for_needs_no_other() -> None:
    signed = policy("github").replace(
        "type: test-result, signers: [alice]", "type: slsa-provenance, signers: [release]"
    )
    context: dict[str, Any] = {"trust": replace(trust(), others={"github": instance()})}
    assert decided(signed, [by_key(provenance(), RELEASE)], **context).outcome is Outcome.ALLOW


def test_a_kept_key_is_of_the_own_trust_root_only() -> None:
    with pytest.raises(GatePolicyError, match="a kept key is one of the gateway's own trust root"):
        parse_policy(policy("x").replace("keys/release}", "keys/release, trust_root: x}").encode())
