"""Bundles of a live gateway, before verifiers that this project did not write."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sealkeeper.client import message_content
from tests.e2e.running import DOMAIN, PARENT, Running
from tests.interop.stock import Job, refusal_of_sigstore_python, refusals_of_sigstore_js

ARTIFACT = b"the artifact"


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> list[Job]:
    """A key bundle and a certificate bundle of one key, after a rotation."""
    gateway = Running.make(tmp_path_factory.mktemp("gateway") / "gateway")
    with gateway.running():
        key = gateway.create_key("release")
        with gateway.client("custodian") as custodian:
            custodian.rotate_key(key)
        with gateway.client("ci") as ci:
            plain = ci.sign(key, message_content(ARTIFACT)).signature.bundle
            certified = ci.sign(key, message_content(ARTIFACT), certificate=True).signature.bundle
            found = ci.trust_root(PARENT)
    keys = json.loads(found.keys)["keys"]
    identity, issuer = f"https://{DOMAIN}/{key}", f"https://{DOMAIN}"
    return [
        Job(plain, ARTIFACT, found.trusted_root, keys),
        Job(certified, ARTIFACT, found.trusted_root, keys, identity, issuer),
    ]


def test_stock_verifiers_accept_both_kinds(jobs: list[Job]) -> None:
    assert refusal_of_sigstore_python(jobs[1]) is None
    assert refusals_of_sigstore_js(jobs) == [None, None]


def _flip(document: Any, *path: Any) -> None:
    for part in path[:-1]:
        document = document[part]
    text = document[path[-1]]
    # Not in the middle of a checkpoint: there is the name in a signature line, which sigstore-python does not read.
    place = len(text) // 8
    document[path[-1]] = text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]


ENTRY = ("verificationMaterial", "tlogEntries", 0)
TAMPERINGS: list[Callable[[Any], None]] = [
    lambda document: _flip(document, "messageSignature", "signature"),
    lambda document: _flip(document, *ENTRY, "canonicalizedBody"),
    lambda document: _flip(document, *ENTRY, "inclusionProof", "checkpoint", "envelope"),
    lambda document: document["verificationMaterial"]["tlogEntries"].clear(),
    lambda document: document["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"].clear(),
]


@pytest.mark.parametrize("tamper", TAMPERINGS)
def test_stock_verifiers_refuse_what_was_tampered_with(jobs: list[Job], tamper: Callable[[Any], None]) -> None:
    bad = []
    for job in jobs:
        document = json.loads(job.bundle)
        tamper(document)
        bad.append(replace(job, bundle=json.dumps(document).encode()))
    assert refusal_of_sigstore_python(bad[1]) is not None
    assert None not in refusals_of_sigstore_js(bad)


def test_stock_verifiers_refuse_another_artifact_and_another_signer(jobs: list[Job]) -> None:
    other = [replace(job, artifact=b"another") for job in jobs]
    stranger = replace(jobs[1], identity=f"https://{DOMAIN}/tenants/evil/keys/release")
    assert refusal_of_sigstore_python(other[1]) is not None
    assert refusal_of_sigstore_python(stranger) is not None
    assert None not in refusals_of_sigstore_js([*other, stranger])
