"""Which of several attestations counts."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sealkeeper.verify.gate.evidence import Evidence, Examined
from sealkeeper.verify.gate.policy import parse_policy
from sealkeeper.verify.gate.statement_rules import check_attestation
from sealkeeper.verify.statement import Statement, Subject
from sealkeeper.verify.verifier import VerificationResult

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TYPE = "https://example.com/review/v1"
POLICY = parse_policy(
    f"""
gate: v1
signers: {{qa: {{key: tenants/acme/keys/qa}}}}
require:
  attestations: [{{type: '{TYPE}', signers: [qa], fields: {{result: ok}}}}]
""".encode()
)


def review(result: str, digest: str, log_index: int) -> Evidence:
    statement = Statement((Subject("app", {"sha256": "ab" * 32}),), TYPE, {"result": result})
    key = "tenants/acme/keys/qa"
    verified = VerificationResult(True, time=NOW, key_name=key, log_origin="log.example", log_index=log_index)
    return Evidence(digest, "store", verified, statement, ("qa",))


@pytest.mark.parametrize("digests", [("sha256:00", "sha256:ff"), ("sha256:ff", "sha256:00")])
def test_of_attestations_of_one_second_the_one_counts_that_the_log_has_last(digests: tuple[str, str]) -> None:
    rule = POLICY.defaults.attestations[0]
    first, last = review("ok", digests[0], 7), review("bad", digests[1], 8)
    for found in ((first, last), (last, first)):
        assert not check_attestation(rule, POLICY, Examined(found, ()), NOW).passed
    assert check_attestation(rule, POLICY, Examined((first, review("bad", digests[1], 6)), ()), NOW).passed
