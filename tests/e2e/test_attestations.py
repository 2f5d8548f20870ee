"""Attesting at a live gateway, by CI jobs with tokens and by callers with certificates; keeping, finding, verifying."""

from __future__ import annotations

import http.client
import json
import re
import signal
import sqlite3
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import pytest

from sealkeeper.client import (
    AsyncClient,
    Client,
    ClientError,
    Connection,
    digest_content,
    dsse_content,
    message_content,
)
from sealkeeper.client.attestation_operations import BuildReport, Filters, list_attestations, subject
from sealkeeper.client.connection import OPTIONS
from sealkeeper.client.errors import InvalidRequestError
from sealkeeper.client.token_source import FixedToken
from sealkeeper.server.attesting import MAX_STATEMENT
from sealkeeper.server.policy_engine import default_policy
from sealkeeper.v1 import attestation_pb2
from sealkeeper.verify import Artifact, Policy, TrustRoot, VerificationResult, verify
from sealkeeper.verify.dsse import pae
from sealkeeper.verify.statement import PAYLOAD_TYPE, parse_statement
from tests.e2e.running import ANY_PORT, DOMAIN, NO_RETRY, P256, PARENT, TENANT, Running
from tests.e2e.test_tenants import ask
from tests.oidc_issuer import ABSENT, SHA, Issuer, oidc_issuer

SLSA = "https://slsa.dev/provenance/v1"
OTHER = "https://example.org/reviewed/v1"
MIB = 1024 * 1024
OTHER_SHA = "0" * 40
_numbers = count()


@dataclass
class World:
    """A gateway with the policy that tenants begin with, and issuers of CI systems."""

    gateway: Running
    issuers: dict[str, Issuer]

    def job(self, kind: str = "github", **claims: Any) -> Client:
        """A client as a CI job has it, with a token of its own."""
        token = self.issuers[kind].token(kind, f"https://{DOMAIN}", **claims)
        ca = self.gateway.directory / "tls" / "ca.pem"
        tokens = FixedToken(token, "the test's token", "none")
        return Client(Connection(self.gateway.addresses["tokens"], TENANT, ca, tokens=tokens), retry=NO_RETRY)

    def key(self, repository: str = "", algorithm: str = P256, **labels: str) -> str:
        if repository:
            labels["repository"] = repository
        with self.gateway.client("custodian") as client:
            return client.create_key(PARENT, f"attest-{next(_numbers)}", algorithm, labels=labels).key.name

    def key_of(self, kind: str) -> str:
        return self.key({"github": "acme-org/app", "gitlab": "acme-group/app"}.get(kind, "acme-inc/app"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    gateway = Running.make(tmp_path_factory.mktemp("attestations") / "gateway", policy=default_policy())
    with oidc_issuer() as github, oidc_issuer() as gitlab, oidc_issuer() as circleci:
        issuers = {"github": github, "gitlab": gitlab, "circleci": circleci}
        gateway.change_settings(lambda text: with_issuers(text, issuers))
        with gateway.running():
            yield World(gateway, issuers)


def with_issuers(text: str, issuers: dict[str, Issuer]) -> str:
    text = text.replace("[http]", f'token_listen = "{ANY_PORT}"\n\n[http]', 1)
    for kind, issuer in issuers.items():
        text += f"""
[issuers.{kind}]
issuer = "{issuer.url}"
kind = "{kind}"
protected_refs = ["refs/heads/main"]
principals = [{{ claims = {{ sub = "*" }}, tenant = "{TENANT}", role = "ci" }}]
"""
    return text


def fresh(name: str = "app.whl") -> attestation_pb2.Subject:
    """A subject that no other test has."""
    return subject(name, sha256=sha256(f"{name} {next(_numbers)}".encode()).hexdigest())


def digest_of(one: attestation_pb2.Subject) -> str:
    return f"sha256:{one.digest['sha256']}"


def predicate_of(bundle: bytes, trust: TrustRoot, key: str) -> dict[str, Any]:
    result = verify(bundle, None, trust, Policy(key=key)).require()
    return dict(parse_statement(result.payload).predicate)


def refusal(caught: pytest.ExceptionInfo[Any]) -> tuple[str, list[str]]:
    return caught.value.reason, [one.field for one in caught.value.violations]


# Provenance.


def test_provenance_of_github_says_what_the_token_says(world: World) -> None:
    key, url = world.key_of("github"), world.issuers["github"].url
    with world.job() as job:
        answer = job.attest_slsa(key, [fresh()])
    record = answer.attestation
    assert (record.source_repository, record.source_ref, record.source_commit, record.builder_id) == (
        f"{url}/acme-org/app",
        "refs/heads/main",
        SHA,
        f"{url}/actions/runner/github-hosted",
    )
    found = predicate_of(answer.signature.bundle, world.gateway.trust(), key)
    definition = found["buildDefinition"]
    assert definition["buildType"] == "https://actions.github.io/buildtypes/workflow/v1"
    assert definition["externalParameters"] == {
        "workflow": {
            "ref": "refs/heads/main",
            "repository": f"{url}/acme-org/app",
            "path": ".github/workflows/release.yml",
        }
    }
    assert definition["resolvedDependencies"] == [
        {"uri": f"git+{url}/acme-org/app@refs/heads/main", "digest": {"gitCommit": SHA}}
    ]
    assert definition["internalParameters"]["github"]["event_name"] == "push"
    assert found["runDetails"]["metadata"]["invocationId"] == f"{url}/acme-org/app/actions/runs/22259804324"


def test_provenance_of_gitlab_says_what_the_token_says(world: World) -> None:
    key, url = world.key_of("gitlab"), world.issuers["gitlab"].url
    with world.job("gitlab", ref_protected="true") as job:
        answer = job.attest_slsa(key, [fresh()], BuildReport(external_parameters={"entryPoint": "build"}))
    found = predicate_of(answer.signature.bundle, world.gateway.trust(), key)
    parameters = found["buildDefinition"]["externalParameters"]
    assert (parameters["entryPoint"], parameters["source"]) == ("build", f"{url}/acme-group/app")
    assert found["buildDefinition"]["resolvedDependencies"][0] == {
        "uri": f"git+{url}/acme-group/app@refs/heads/main",
        "digest": {"gitCommit": SHA},
    }
    assert found["runDetails"]["builder"]["id"] == f"{url}/-/runners/self-hosted"
    assert answer.attestation.source_repository == f"{url}/acme-group/app"


def test_what_the_build_says_of_other_things_is_in_the_provenance(world: World) -> None:
    key, used = world.key_of("github"), {"uri": "pkg:pypi/urllib3@2.1.0", "digest": {"sha256": "5e" * 32}}
    # By what its parameters are to be read, the build does not choose: it is an input like any other.
    said = {"inputs": {"tag": "v1"}, "buildType": "https://example.org/build/v1"}
    with world.job() as job:
        answer = job.attest_slsa(key, [fresh()], BuildReport(said, [used]))
    found = predicate_of(answer.signature.bundle, world.gateway.trust(), key)
    build_type = "https://actions.github.io/buildtypes/workflow/v1"
    assert found["buildDefinition"]["buildType"] == build_type == answer.attestation.build_type
    assert {name: found["buildDefinition"]["externalParameters"][name] for name in said} == said
    assert found["buildDefinition"]["resolvedDependencies"][1:] == [used]
    assert (found["runDetails"].keys(), found["runDetails"]["metadata"].keys()) == (
        {"builder", "metadata"},
        {"invocationId"},
    )


FORGED: dict[str, tuple[BuildReport, str]] = {
    "another repository": (
        BuildReport(external_parameters={"workflow": {"repository": "https://github.com/evil/app"}}),
        "external_parameters.workflow.repository",
    ),
    "another workflow": (
        BuildReport(external_parameters={"workflow": {"path": ".github/workflows/other.yml"}}),
        "external_parameters.workflow.path",
    ),
    "a workflow that is no object": (
        BuildReport(external_parameters={"workflow": "x"}),
        "external_parameters.workflow",
    ),
    "more of a workflow": (
        BuildReport(external_parameters={"workflow": {"inputs": {}}}),
        "external_parameters.workflow.inputs",
    ),
    "a workflow in other letters": (BuildReport(external_parameters={"Workflow": {}}), "external_parameters.Workflow"),
    "another source": (
        BuildReport(external_parameters={"source": "git+https://github.com/evil/app"}),
        "external_parameters.source",
    ),
    "another ref": (BuildReport(external_parameters={"ref": "refs/heads/other"}), "external_parameters.ref"),
    "another commit": (BuildReport(external_parameters={"sha": OTHER_SHA}), "external_parameters.sha"),
    "another commit of the source": (
        BuildReport(
            resolved_dependencies=[
                {"uri": "git+SOURCE/acme-org/app@refs/heads/main", "digest": {"gitCommit": OTHER_SHA}}
            ]
        ),
        "resolved_dependencies[0].digest",
    ),
    "another ref of the source": (
        BuildReport(resolved_dependencies=[{"uri": "git+SOURCE/acme-org/app.git@refs/heads/other"}]),
        "resolved_dependencies[0].uri",
    ),
    "the source in other letters": (
        BuildReport(
            resolved_dependencies=[{"uri": "pkg:x"}, {"uri": "SOURCE/Acme-Org/App/", "digest": {"sha1": OTHER_SHA}}]
        ),
        "resolved_dependencies[1].digest",
    ),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_build_that_says_something_else_than_its_token_is_refused_and_nothing_is_signed(
    world: World, what: str
) -> None:
    report, field = FORGED[what]
    url, key, size = world.issuers["github"].url, world.key_of("github"), world.gateway.tree_size()
    dependencies = json.loads(json.dumps(report.resolved_dependencies).replace("SOURCE", url))
    report = BuildReport(external_parameters=report.external_parameters, resolved_dependencies=dependencies)
    with world.job() as job, pytest.raises(InvalidRequestError) as caught:
        job.attest_slsa(key, [fresh()], report)
    assert refusal(caught) == ("PROVENANCE_MISMATCH", [f"slsa_provenance.{field}"])
    assert world.gateway.tree_size() == size


def test_what_is_said_again_as_the_token_says_it_is_there_once(world: World) -> None:
    key, url = world.key_of("github"), world.issuers["github"].url
    parameters = {"workflow": {"ref": "refs/heads/main"}, "repository": "acme-org/app", "ref": "main", "commit": SHA}
    source = {"uri": f"git+{url}/acme-org/app.git@{SHA}", "digest": {"sha1": SHA}}
    with world.job() as job:
        answer = job.attest_slsa(key, [fresh()], BuildReport(parameters, [source, {"uri": f"{url}/acme-org/app"}]))
    found = predicate_of(answer.signature.bundle, world.gateway.trust(), key)["buildDefinition"]
    assert len(found["resolvedDependencies"]) == 1
    assert set(found["externalParameters"]["workflow"]) == {"ref", "repository", "path"}


def test_a_caller_with_a_certificate_gets_no_provenance(world: World) -> None:
    with world.gateway.client("ci") as ci, pytest.raises(ClientError) as caught:
        ci.attest_slsa(world.key(), [fresh()])
    assert caught.value.reason == "IDENTITY_UNSUITABLE"


@pytest.mark.parametrize("claim", ["sha", "run_id"])
def test_a_token_that_names_no_commit_or_run_gets_no_provenance(world: World, claim: str) -> None:
    absent: dict[str, Any] = {claim: ABSENT}
    with world.job(**absent) as job, pytest.raises(ClientError) as caught:
        job.attest_slsa(world.key_of("github"), [fresh()])
    assert caught.value.reason == "IDENTITY_UNSUITABLE"


def test_a_token_of_circleci_which_names_no_commit_gets_no_provenance(world: World) -> None:
    key = world.key("github.com/acme-org/app")
    with world.job("circleci") as job:
        with pytest.raises(ClientError) as caught:
            job.attest_slsa(key, [fresh()])
        assert caught.value.reason == "IDENTITY_UNSUITABLE"
        # Other predicates say nothing of the build.
        assert job.attest(key, [fresh()], OTHER, b"{}").attestation.name


@pytest.mark.parametrize("event", ["pull_request", "pull_request_target"])
def test_a_pull_request_attests_nothing(world: World, event: str) -> None:
    key = world.key_of("github")
    with world.job(event_name=event) as job:
        with pytest.raises(ClientError) as caught:
            job.attest_slsa(key, [fresh()])
        assert caught.value.reason == "PERMISSION_DENIED"
        with pytest.raises(ClientError) as caught:
            job.attest(key, [fresh()], OTHER, b"{}")
        assert caught.value.reason == "PERMISSION_DENIED"


def test_a_merge_request_attests_nothing(world: World) -> None:
    with world.job("gitlab", pipeline_source="merge_request_event") as job, pytest.raises(ClientError) as caught:
        job.attest_slsa(world.key_of("gitlab"), [fresh()])
    assert caught.value.reason == "PERMISSION_DENIED"


def test_a_job_of_another_repository_attests_nothing_with_the_key(world: World) -> None:
    key = world.key_of("github")
    with world.job(repository="acme-org/other") as job, pytest.raises(ClientError) as caught:
        job.attest_slsa(key, [fresh()])
    assert caught.value.reason == "PERMISSION_DENIED"


# Ways around the gateway.


SPELLINGS = (
    SLSA,
    "https://slsa.dev/provenance/v0.2",
    "https://slsa.dev/provenance/v9",
    "HTTPS://SLSA.DEV/Provenance/v1",
    "http://slsa.dev/provenance/v1/",
    "https://slsa.dev:443/provenance/v1?x#y",
    "https://slsa.dev//provenance/./v1",
    "https://slsa.dev/%70rovenance/v1",
    "https://slsa.dev/%2570rovenance/v1",
    "https://in-toto.io/Provenance/v0.1",
)


@pytest.mark.parametrize("predicate_type", SPELLINGS)
def test_provenance_is_attested_and_signed_by_nobody_who_writes_it_themselves(
    world: World, predicate_type: str
) -> None:
    key, size = world.key(), world.gateway.tree_size()
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "a", "digest": {"sha256": "5e" * 32}}],
        "predicateType": predicate_type,
        "predicate": {},
    }
    with world.gateway.client("ci") as ci:
        with pytest.raises(InvalidRequestError) as caught:
            ci.attest(key, [fresh()], predicate_type, b"{}")
        assert refusal(caught) == ("PREDICATE_INVALID", ["predicate.type"])
        assert "--slsa" in caught.value.next_step
        for payload_type in (PAYLOAD_TYPE, f"{PAYLOAD_TYPE.upper()} ; charset=utf-8"):
            with pytest.raises(InvalidRequestError) as caught:
                ci.sign(key, dsse_content(payload_type, json.dumps(statement).encode()))
            assert refusal(caught) == ("PREDICATE_INVALID", ["content.dsse.payload"])
    assert world.gateway.tree_size() == size


def test_verification_summaries_are_attested_by_gates_alone(world: World) -> None:
    summary = "https://slsa.dev/verification_summary/v1"
    with world.gateway.client("ci") as ci, pytest.raises(InvalidRequestError) as caught:
        ci.attest(world.key(), [fresh()], summary, b"{}")
    assert refusal(caught) == ("PREDICATE_INVALID", ["predicate.type"])
    assert "sealkeeper gate" in caught.value.next_step


def test_a_payload_that_is_said_to_be_a_statement_and_is_none_is_not_signed(world: World) -> None:
    key = world.key()
    twice = (
        b'{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"%b"}}],"predicateType":"a:b",'
        % (b"5e" * 32)
    )
    with world.gateway.client("ci") as ci:
        for payload in (b"{}", b"x", b"[]", twice + b'"predicateType":"c:d"}'):
            with pytest.raises(InvalidRequestError) as caught:
                ci.sign_batch(key, [message_content(b"a"), dsse_content(PAYLOAD_TYPE, payload)])
            assert refusal(caught) == ("PREDICATE_INVALID", ["items[1].dsse.payload"])
        assert ci.sign(key, dsse_content(PAYLOAD_TYPE, twice + b'"predicate":{}}')).key_version


def test_a_message_that_would_be_an_envelopes_signature_is_not_signed(world: World) -> None:
    with world.gateway.client("ci") as ci, pytest.raises(InvalidRequestError) as caught:
        ci.sign(world.key(algorithm="PKIX_ED25519"), message_content(pae(PAYLOAD_TYPE, b"{}")))
    assert refusal(caught) == ("INVALID_FIELD", ["content.message"])


def test_a_key_for_attestations_signs_no_digest_and_nothing_else(world: World) -> None:
    key = world.key(use="attest")
    encoding = sha256(pae(PAYLOAD_TYPE, b"{}")).digest()
    with world.gateway.client("ci") as ci:
        for content in (digest_content("SHA2_256", encoding), message_content(b"a"), dsse_content("text/plain", b"a")):
            with pytest.raises(ClientError) as caught:
                ci.sign(key, content)
            assert caught.value.reason == "PERMISSION_DENIED"
            assert "attestation-keys-only-attest" in caught.value.next_step
        assert ci.attest(key, [fresh()], OTHER, b"{}").attestation.name


# What is attested.


def test_an_attestation_verifies_offline_of_its_subjects_and_of_nothing_else(world: World, tmp_path: Path) -> None:
    key, artifact = world.key(), tmp_path / "app"
    artifact.write_bytes(b"built")
    with world.gateway.client("ci") as ci:
        answers = [
            ci.attest(
                key, [fresh(), subject("app", sha256=sha256(b"built").hexdigest())], OTHER, b"{}", certificate=one
            )
            for one in (False, True)
        ]
    trust = world.gateway.trust()

    def verified(bundle: bytes, about: Artifact) -> VerificationResult:
        return verify(bundle, about, trust, Policy(key=key))

    for answer in answers:
        bundle = answer.signature.bundle
        assert verified(bundle, Artifact.from_path(artifact)).verified
        assert verified(bundle, Artifact.from_digest("SHA2_256", sha256(b"built").digest())).verified
        refused = verified(bundle, Artifact.from_bytes(b"something else"))
        assert (refused.verified, refused.steps[-1].name) == (False, "content")
        assert not verified(bundle, Artifact.from_digest("SHA2_512", bytes(64))).verified


def test_a_subject_with_one_digest_that_is_not_the_artifacts_is_not_the_artifact(world: World) -> None:
    key, built = world.key(), b"built"
    about = subject("app", sha256=sha256(built).hexdigest(), sha512="00" * 64)
    with world.gateway.client("ci") as ci:
        bundle = ci.attest(key, [about], OTHER, b"{}").signature.bundle
    assert not verify(bundle, Artifact.from_bytes(built), world.gateway.trust(), Policy(key=key)).verified


def test_the_predicate_is_signed_as_it_was_written(world: World) -> None:
    key, predicate = world.key(), '{"b": 1.0, "a": [1e2, "\\u00fc ü"],\n "big": 123456789012345678901234567890}'
    with world.gateway.client("ci") as ci:
        answer = ci.attest(key, [fresh()], OTHER, predicate.encode())
    payload = verify(answer.signature.bundle, None, world.gateway.trust(), Policy(key=key)).require().payload
    assert payload.endswith(
        '"predicate":{"b":1.0,"a":[1e2,"\\u00fc ü"],"big":123456789012345678901234567890}}'.encode()
    )


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "no subjects": ({"subjects": []}, "INVALID_FIELD", "subjects"),
    "a weak digest alone": ({"subjects": [subject("a", sha1="5e" * 20)]}, "INVALID_FIELD", "subjects[0].digest"),
    "no digest": ({"subjects": [subject("a")]}, "INVALID_FIELD", "subjects[0].digest"),
    "a digest of another length": (
        {"subjects": [subject("a", sha256="5e")]},
        "INVALID_FIELD",
        "subjects[0].digest.sha256",
    ),
    "a digest in capitals": (
        {"subjects": [subject("a", sha256="5E" * 32)]},
        "INVALID_FIELD",
        "subjects[0].digest.sha256",
    ),
    "an unknown algorithm": (
        {"subjects": [subject("a", sha256="5e" * 32, md5="5e" * 16)]},
        "INVALID_FIELD",
        "subjects[0].digest",
    ),
    "a name with a line feed": ({"subjects": [subject("a\nb", sha256="5e" * 32)]}, "INVALID_FIELD", "subjects[0].name"),
    "a long name": ({"subjects": [subject("a" * 513, sha256="5e" * 32)]}, "INVALID_FIELD", "subjects[0].name"),
    "no predicate": ({"predicate": None}, "INVALID_FIELD", "content"),
    "no type": ({"predicate": attestation_pb2.Predicate(json=b"{}")}, "INVALID_FIELD", "predicate.type"),
    "a type that is no URI": (
        {"predicate": attestation_pb2.Predicate(type="x", json=b"{}")},
        "INVALID_FIELD",
        "predicate.type",
    ),
    "a predicate that is no JSON": (
        {"predicate": attestation_pb2.Predicate(type=OTHER, json=b"{")},
        "PREDICATE_INVALID",
        "predicate.json",
    ),
    "a predicate that is no object": (
        {"predicate": attestation_pb2.Predicate(type=OTHER, json=b"[]")},
        "PREDICATE_INVALID",
        "predicate.json",
    ),
    "a name twice in the predicate": (
        {"predicate": attestation_pb2.Predicate(type=OTHER, json=b'{"a":1,"a":2}')},
        "PREDICATE_INVALID",
        "predicate.json",
    ),
    "a bill of materials that is none": (
        {"predicate": attestation_pb2.Predicate(type="https://spdx.dev/Document", json=b'{"spdxVersion":"SPDX-2.3"}')},
        "PREDICATE_INVALID",
        "predicate.json",
    ),
    "a predicate that is too long": (
        {"predicate": attestation_pb2.Predicate(type=OTHER, json=b" " * (16 * MIB + 1))},
        "INVALID_FIELD",
        "predicate.json",
    ),
    "an unknown material": ({"material": 7}, "INVALID_FIELD", "material"),
    "a bad request id": ({"request_id": "not one!"}, "INVALID_FIELD", "request_id"),
    "no key": ({"key": "x"}, "INVALID_FIELD", "key"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_request_is_refused_and_names_its_field(world: World, what: str) -> None:
    changes, reason, field = BAD[what]
    good = {
        "key": f"{PARENT}/keys/none",
        "subjects": [subject("a", sha256="5e" * 32)],
        "predicate": attestation_pb2.Predicate(type=OTHER, json=b"{}"),
    }
    request = attestation_pb2.AttestRequest(
        **{name: one for name, one in {**good, **changes}.items() if one is not None}
    )
    with raw_channel(world.gateway) as channel:
        outcome = ask(channel, request)
    assert (outcome.code, outcome.reason) == ("INVALID_ARGUMENT", reason)
    assert outcome.text.startswith(field)


def raw_channel(gateway: Running) -> grpc.Channel:
    return grpc.secure_channel(gateway.addresses["grpc"], gateway.connection("ci").credentials(), OPTIONS)


def test_json_of_a_report_that_is_none_is_refused_and_names_its_field(world: World) -> None:
    cases = {
        "external_parameters": b"[]",
        "resolved_dependencies": b"{}",
    }
    key = world.key_of("github")
    for field, data in cases.items():
        with world.job() as job:
            request = attestation_pb2.AttestRequest(key=key, subjects=[fresh()])
            setattr(request.slsa_provenance, field, data)
            outcome = ask(job._channel, request)
        assert (outcome.code, f"slsa_provenance.{field}" in outcome.text) == ("INVALID_ARGUMENT", True)


def test_ten_thousand_subjects_are_attested_and_each_is_found(world: World) -> None:
    key = world.key()
    subjects = [subject(f"dist/file-{number}", sha256=f"{number:064x}") for number in range(10_000)]
    with world.gateway.client("ci") as ci:
        answer = ci.attest(key, subjects, OTHER, b"{}")
        assert (answer.attestation.subject_count, len(answer.attestation.subjects)) == (10_000, 20)
        for number in (0, 4321, 9_999):
            [found] = ci.list_attestations(PARENT, Filters(subject_digest=f"sha256:{number:064x}", key=key))
            assert found.name == answer.attestation.name
        whole = ci.get_attestation(answer.attestation.name)
        assert [one.name for one in whole.attestation.subjects] == [one.name for one in subjects]
        with pytest.raises(InvalidRequestError) as caught:
            ci.attest(key, [*subjects, fresh()], OTHER, b"{}")
    assert refusal(caught)[1] == ["subjects"]


def test_a_predicate_of_16_mib_is_attested_and_verifies_and_one_byte_more_is_not(world: World) -> None:
    key = world.key()
    predicate = b'{"a":"' + b"x" * (16 * MIB - 8) + b'"}'
    with world.gateway.client("ci", timeout=120) as ci:
        answer = ci.attest(key, [fresh()], OTHER, predicate)
        assert ci.get_attestation(answer.attestation.name).bundle == answer.signature.bundle
        result = verify(answer.signature.bundle, None, world.gateway.trust(), Policy(key=key))
        assert (result.verified, len(result.payload) > 16 * MIB) == (True, True)
        with pytest.raises(InvalidRequestError) as caught:
            ci.attest(key, [fresh()], OTHER, predicate[:-2] + b'x"}')
    assert refusal(caught)[1] == ["predicate.json"]


def test_a_statement_that_fits_no_bundle_is_refused(world: World) -> None:
    subjects = [subject("n" * 500, sha256=f"{number:064x}") for number in range(5_000)]
    predicate = b'{"a":"' + b"x" * (MAX_STATEMENT - 5_000 * 500 - 8) + b'"}'
    with world.gateway.client("ci", timeout=120) as ci, pytest.raises(InvalidRequestError) as caught:
        ci.attest(world.key(), subjects, OTHER, predicate)
    assert (refusal(caught)[1], "fewer subjects" in caught.value.next_step) == (["predicate"], True)


def test_a_key_that_signs_messages_takes_4_mib(world: World) -> None:
    key = world.key(algorithm="PKIX_ED25519")
    with world.gateway.client("ci") as ci:
        assert ci.attest(key, [fresh()], OTHER, b"{}").attestation.name
        with pytest.raises(InvalidRequestError) as caught:
            ci.attest(key, [fresh()], OTHER, b'{"a":"' + b"x" * 4 * MIB + b'"}')
    assert (refusal(caught)[1], "ECDSA or RSA" in caught.value.next_step) == (["predicate"], True)


# Keeping and finding.


def test_a_retry_is_given_the_same_attestation_and_another_content_is_refused(world: World) -> None:
    key, about = world.key_of("github"), fresh()
    with world.job(sub="repo:acme-org/app:again") as job:
        first = job.attest_slsa(key, [about], request_id="again")
        assert job.attest_slsa(key, [about], request_id="again") == first
        with pytest.raises(ClientError) as caught:
            job.attest_slsa(key, [fresh()], request_id="again")
    assert caught.value.reason == "REQUEST_ID_REUSED"
    # What another token of the same job says makes the same Statement; one of another commit does not.
    with world.job(sub="repo:acme-org/app:again") as job:
        assert job.attest_slsa(key, [about], request_id="again") == first
    with world.job(sub="repo:acme-org/app:again", sha=OTHER_SHA) as job, pytest.raises(ClientError) as caught:
        job.attest_slsa(key, [about], request_id="again")
    assert caught.value.reason == "REQUEST_ID_REUSED"


def test_what_is_transient_is_answered_and_logged_and_not_found(world: World) -> None:
    key, about = world.key(), fresh()
    with world.gateway.client("ci") as ci:
        answer = ci.attest(key, [about], OTHER, b"{}", transient=True)
        assert (answer.attestation.name, answer.attestation.subject_count) == ("", 1)
        assert list(ci.list_attestations(PARENT, Filters(subject_digest=digest_of(about)))) == []
    assert verify(answer.signature.bundle, None, world.gateway.trust(), Policy(key=key)).verified


def test_attestations_are_found_by_each_filter_newest_first(world: World) -> None:
    github, plain, about = world.key_of("github"), world.key(), fresh()
    with world.job() as job:
        built = job.attest_slsa(github, [about, fresh("other")]).attestation
    with world.gateway.client("ci") as ci:
        reviewed = ci.attest(plain, [about], OTHER, b"{}").attestation
        noon = datetime.now(UTC) + timedelta(hours=1)

        def found(**filters: Any) -> list[str]:
            return [one.name for one in ci.list_attestations(PARENT, Filters(**filters))]

        about_it = {"subject_digest": digest_of(about)}
        assert found(**about_it) == [reviewed.name, built.name]
        assert found(**about_it, predicate_type=SLSA) == [built.name]
        assert found(**about_it, source_repository=built.source_repository) == [built.name]
        assert found(**about_it, builder_id=built.builder_id) == [built.name]
        assert found(key=plain) == [reviewed.name]
        assert found(key=f"{github}/versions/1") == [built.name]
        assert found(key=f"{github}/versions/2") == []
        assert found(**about_it, after=noon) == found(**about_it, before=noon - timedelta(hours=2)) == []
        assert found(**about_it, after=built.create_time.ToDatetime(UTC), before=noon) == [reviewed.name, built.name]
        assert found(**about_it, source_repository=built.source_repository[:-1]) == []
        assert found(subject_digest=f"sha256:{'0' * 63}f", builder_id=built.builder_id) == []


def test_pages_of_a_list_have_all_of_it_once_in_order(world: World) -> None:
    key = world.key()
    with world.gateway.client("ci") as ci:
        made = [ci.attest(key, [fresh()], OTHER, b"{}").attestation.name for _ in range(5)]
        token, seen = "", list[str]()
        while True:
            page = ci.call(list_attestations(PARENT, Filters(key=key), token, 2))
            seen += [one.name for one in page.attestations]
            token = page.next_page_token
            if not token:
                break
        assert seen == made[::-1]
        for bad in ("x", "MTpr", "MTph"):
            with pytest.raises(InvalidRequestError) as caught:
                ci.call(list_attestations(PARENT, Filters(), bad, 2))
            assert refusal(caught) == ("INVALID_FIELD", ["page_token"])


@pytest.mark.parametrize(
    ("filters", "field"),
    [
        (Filters(subject_digest="sha256:xyz"), "subject_digest"),
        (Filters(subject_digest="md5:" + "5e" * 16), "subject_digest"),
        (Filters(key="tenants/beta/keys/k"), "key"),
        (Filters(key="k"), "key"),
        (Filters(builder_id="x" * 3000), "builder_id"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(world: World, filters: Filters, field: str) -> None:
    with world.gateway.client("verifier") as verifier, pytest.raises(InvalidRequestError) as caught:
        list(verifier.list_attestations(PARENT, filters))
    assert refusal(caught) == ("INVALID_FIELD", [field])


@pytest.mark.parametrize("name", ["a1", "a0000000000000000x", "b0000000000000000", "a9999999999999999", "a" + "0" * 17])
def test_a_name_of_no_attestation_is_not_found(world: World, name: str) -> None:
    with world.gateway.client("verifier") as verifier, pytest.raises(ClientError) as caught:
        verifier.get_attestation(f"{PARENT}/attestations/{name}")
    assert caught.value.reason == "ATTESTATION_NOT_FOUND"


def test_the_audit_log_says_who_attested_what(world: World) -> None:
    key, about, start = world.key_of("github"), fresh(), world.gateway.tree_size("audit")
    with world.job() as job:
        answer = job.attest_slsa(key, [about])
        with pytest.raises(InvalidRequestError):
            job.attest_slsa(key, [about], BuildReport(external_parameters={"sha": OTHER_SHA}))
    with world.gateway.client("admin") as admin:
        records = [json.loads(one.body) for one in admin.entries("logs/audit", start) if one.body]
    good, bad = [one for one in records if one["method"] == "AttestationService/Attest"]
    assert (good["outcome"], good["action"], good["resource"]) == ("OK", "Attest", key)
    payload = parse_payload(answer.signature.bundle)
    assert good["details"]["attestation"] == {
        "predicateType": SLSA,
        "statement": f"sha256:{sha256(payload).hexdigest()}",
        "subjects": [digest_of(about)],
        "subjectCount": 1,
    }
    assert good["caller"]["attributes"]["sha"] == SHA
    assert bad["outcome"] == "PROVENANCE_MISMATCH"
    assert bad["details"]["asked"]["subjects"] == [digest_of(about)]


def parse_payload(bundle: bytes) -> bytes:
    return b64decode(json.loads(bundle)["dsseEnvelope"]["payload"])


async def test_the_client_for_asyncio_attests_and_finds_as_the_other_does(world: World) -> None:
    key, about = world.key(), fresh()
    async with AsyncClient(world.gateway.connection("ci"), retry=NO_RETRY) as ci:
        made = (await ci.attest(key, [about], OTHER, b"{}")).attestation
        assert [one async for one in ci.list_attestations(PARENT, Filters(subject_digest=digest_of(about)))] == [made]
        assert (await ci.get_attestation(made.name)).attestation == made
        with pytest.raises(ClientError) as caught:
            await ci.attest_slsa(key, [about])
    assert caught.value.reason == "IDENTITY_UNSUITABLE"


def test_attestations_are_counted_by_kind_of_predicate(world: World) -> None:
    def counted() -> float:
        connection = http.client.HTTPConnection(world.gateway.addresses["metrics"], timeout=10)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        pattern = r'^sealkeeper_attestations_total{[^}]*kind="release"[^}]*tenant="acme"[^}]*} ([0-9.e+]+)$'
        return sum(map(float, re.findall(pattern, text, re.MULTILINE)))

    before = counted()
    with world.gateway.client("ci") as ci:
        ci.attest(world.key(), [fresh()], "https://in-toto.io/attestation/release/v0.1", b'{"purl":"pkg:pypi/x@1"}')
    assert counted() == before + 1


# What outlives a crash.


def attestations_folder(gateway: Running) -> Path:
    return gateway.directory / "state" / "attestations"


def test_what_was_signed_and_not_kept_before_a_kill_is_kept_by_a_retry(own_gateway: Running) -> None:
    with own_gateway.running():
        key = own_gateway.create_key("release")
        # Where folders would be made, there are files: so it ends between signing and keeping.
        for number in range(256):
            (attestations_folder(own_gateway) / f"{number:02x}").touch()
        with own_gateway.client("ci") as ci, pytest.raises(ClientError) as caught:
            ci.attest(key, [subject("a", sha256="5e" * 32)], OTHER, b"{}", request_id="r")
        assert caught.value.reason == "UNAVAILABLE"
        [entry] = transparency(own_gateway)
        own_gateway.stop(signal.SIGKILL)
    for path in attestations_folder(own_gateway).iterdir():
        path.unlink()
    with own_gateway.running(), own_gateway.client("ci") as ci:
        assert list(ci.list_attestations(PARENT)) == []
        answer = ci.attest(key, [subject("a", sha256="5e" * 32)], OTHER, b"{}", request_id="r")
        assert transparency(own_gateway) == [entry]
        assert answer.signature.log_index == 0
        assert verify(answer.signature.bundle, None, own_gateway.trust(), Policy(key=key)).verified
        assert [one.name for one in ci.list_attestations(PARENT)] == [answer.attestation.name]


def transparency(gateway: Running) -> list[bytes]:
    with gateway.client("verifier") as verifier:
        return [one.body for one in verifier.entries("logs/transparency")]


def test_bundles_that_are_not_in_the_index_are_taken_in_when_the_gateway_starts(own_gateway: Running) -> None:
    with own_gateway.running(), own_gateway.client("ci") as ci:
        key = own_gateway.create_key("release")
        for number in range(3):
            ci.attest(key, [subject("a", sha256=f"{number:064x}")], OTHER, b"{}", request_id=f"r{number}")
        before = list(ci.list_attestations(PARENT))
        own_gateway.stop(signal.SIGKILL)
    database = own_gateway.directory / "state" / "metadata.db"
    connection = sqlite3.connect(database)
    with connection:
        connection.execute("DELETE FROM attestation_subjects")
        connection.execute("DELETE FROM attestations WHERE log_index > 0")
    connection.close()
    folder = attestations_folder(own_gateway) / "ab" / "cd"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f".{'abcd' * 16}.json.1234").write_bytes(b"half of on")
    (folder / f"{'abcd' * 16}.json").write_bytes(b"something else")
    with own_gateway.running(), own_gateway.client("ci") as ci:
        assert list(ci.list_attestations(PARENT)) == before
        assert [one.name for one in ci.list_attestations(PARENT, Filters(subject_digest=f"sha256:{2:064x}"))] == [
            before[0].name
        ]
        again = ci.attest(key, [subject("a", sha256=f"{2:064x}")], OTHER, b"{}", request_id="r2")
        assert again.attestation == before[0]
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    assert "is left out" in own_gateway.log_lines()


def test_a_bundle_with_another_statement_than_was_signed_is_not_taken_in(own_gateway: Running) -> None:
    with own_gateway.running(), own_gateway.client("ci") as ci:
        key = own_gateway.create_key("release")
        ci.attest(key, [subject("a", sha256="5e" * 32)], OTHER, b'{"good": true}')
        own_gateway.stop(signal.SIGKILL)
    [path] = attestations_folder(own_gateway).rglob("*.json")
    bundle = json.loads(path.read_bytes())
    payload = b64decode(bundle["dsseEnvelope"]["payload"]).replace(b"true", b"null")
    bundle["dsseEnvelope"]["payload"] = b64encode(payload).decode()
    forged = json.dumps(bundle).encode()
    path.rename(path.with_name(f"{sha256(forged).hexdigest()}.json")).write_bytes(forged)
    connection = sqlite3.connect(own_gateway.directory / "state" / "metadata.db")
    with connection:
        connection.execute("DELETE FROM attestation_subjects")
        connection.execute("DELETE FROM attestations")
    connection.close()
    with own_gateway.running(), own_gateway.client("ci") as ci:
        assert list(ci.list_attestations(PARENT)) == []
    assert "another Statement" in own_gateway.log_lines()


def test_a_bundle_that_was_changed_on_the_disk_is_not_given_out(own_gateway: Running) -> None:
    with own_gateway.running(), own_gateway.client("ci") as ci:
        key = own_gateway.create_key("release")
        made = ci.attest(key, [subject("a", sha256="5e" * 32)], OTHER, b"{}").attestation
        [path] = attestations_folder(own_gateway).rglob("*.json")
        assert path.stem == made.bundle_digest.hex()
        path.write_bytes(path.read_bytes().replace(b"log", b"gol"))
        with pytest.raises(ClientError) as caught:
            ci.get_attestation(made.name)
        assert caught.value.reason == "UNAVAILABLE"
