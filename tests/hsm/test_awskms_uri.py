"""``awskms:`` URIs: what they say, and what is refused before AWS is asked anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from sealkeeper.hsm import ALGORITHMS, ProviderUriError
from sealkeeper.hsm.awskms_uri import AwsKmsUri, parse_awskms_uri

ROLE = "arn:aws:iam::111122223333:role/team/sealkeeper"


def test_a_region_is_enough() -> None:
    assert parse_awskms_uri("awskms:region=eu-central-1") == AwsKmsUri(
        region="eu-central-1",
        owner="sealkeeper",
        algorithms=frozenset(ALGORITHMS),
        multi_region=False,
        profile=None,
        credentials_source=None,
        role_arn=None,
        endpoint=None,
        sts_endpoint=None,
    )


def test_everything_can_be_said() -> None:
    uri = (
        "awskms:region=us-gov-west-1?owner=acme&algorithms=PKIX_ED25519,ML_DSA_65&multi-region=true"
        f"&credentials-source=file:/run/aws&role-arn={ROLE}&endpoint=https://vpce-1.kms.us-gov-west-1.vpce.amazonaws.com"
        "&sts-endpoint=http://127.0.0.1:5000/"
    )
    assert parse_awskms_uri(uri) == AwsKmsUri(
        region="us-gov-west-1",
        owner="acme",
        algorithms=frozenset({"PKIX_ED25519", "ML_DSA_65"}),
        multi_region=True,
        profile=None,
        credentials_source=Path("/run/aws"),
        role_arn=ROLE,
        endpoint="https://vpce-1.kms.us-gov-west-1.vpce.amazonaws.com",
        sts_endpoint="http://127.0.0.1:5000/",
    )


def test_the_region_may_be_left_to_the_sdk() -> None:
    parsed = parse_awskms_uri("awskms:?profile=signing%20keys")
    assert (parsed.region, parsed.profile) == (None, "signing keys")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "[::1]", "localhost"])
def test_plaintext_stays_on_this_machine(host: str) -> None:
    assert parse_awskms_uri(f"awskms:region=eu-central-1?endpoint=http://{host}:5000").endpoint


@pytest.mark.parametrize(
    ("rest", "why"),
    [
        ("region=", "region is empty"),
        ("region=Frankfurt", "not a region"),
        ("region=eu-central-1/../..", "not a region"),
        ("region=eu-central-1.evil.example", "not a region"),
        ("region=eu-central-1;region=eu-west-1", "given twice"),
        ("zone=1", "not an attribute known here"),
        ("?secret-access-key=abc", "not an attribute known here"),
        ("?origin=EXTERNAL_KEY_STORE", "not an attribute known here"),
        ("?endpoint=http://kms.eu-central-1.amazonaws.com", "plaintext"),
        ("?endpoint=http://localhost.evil.example", "plaintext"),
        ("?endpoint=http://127.0.0.1@evil.example", "more than scheme, host and port"),
        ("?endpoint=https://user:word@kms.example", "more than scheme, host and port"),
        ("?endpoint=https://kms.example/path", "more than scheme, host and port"),
        ("?endpoint=https://kms.example?a=b", "more than scheme, host and port"),
        ("?endpoint=https://kms.example:99999", "not a URL"),
        ("?endpoint=https://", "not an https: URL"),
        ("?endpoint=ftp://kms.example", "not an https: URL"),
        ("?endpoint=kms.example", "not an https: URL"),
        (f"?role-arn={ROLE}&sts-endpoint=http://10.0.0.1", "plaintext"),
        ("?sts-endpoint=https://sts.example", "no use without role-arn"),
        ("?profile=one&credentials-source=file:/run/aws", "both"),
        ("?credentials-source=/run/aws", "must be file:/path"),
        ("?credentials-source=file:aws", "not an absolute path"),
        ("?role-arn=sealkeeper", "not the ARN of an IAM role"),
        ("?role-arn=arn:aws:iam::111122223333:user/me", "not the ARN of an IAM role"),
        ("?owner=a%20b", "owner is not"),
        (f"?owner={'a' * 65}", "owner is not"),
        ("?multi-region=yes", "neither true nor false"),
        ("?algorithms=PKIX_ED25519,RSA", "'RSA'"),
        ("?algorithms=PKIX_ED25519,", "''"),
    ],
)
def test_what_is_wrong_is_named(rest: str, why: str) -> None:
    with pytest.raises(ProviderUriError, match=why):
        parse_awskms_uri(f"awskms:{rest}")
