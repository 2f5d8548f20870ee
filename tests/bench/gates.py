"""What gates decide: in this process, at a live gateway over mutual TLS, and behind the admission webhook.

All artifacts have the same four attestations, signed by the gateway: SLSA provenance of a job with a token, a bill of
materials, a test result and a scan. Whoever asks shares the processors with the gateway, and is in Python as well.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from http.client import HTTPSConnection
from itertools import cycle, takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from sealkeeper.client import Client, Connection
from sealkeeper.client.attestation_operations import subject
from sealkeeper.client.errors import ProposedError
from sealkeeper.client.token_source import FixedToken
from sealkeeper.registry import Deadline, ImageReference, Registry
from sealkeeper.registry.attach import attach_bundle
from sealkeeper.server.identity import Role
from sealkeeper.v1 import attestation_pb2
from sealkeeper.verify.gate.decision import Artifact
from sealkeeper.verify.gate.evaluate import Context, evaluate
from sealkeeper.verify.gate.evidence import FoundBundle
from sealkeeper.verify.gate.policy import parse_policy
from sealkeeper.verify.predicates.provenance import PROVENANCE_V1
from sealkeeper.verify.predicates.spdx import SPDX
from sealkeeper.verify.predicates.test_result import TEST_RESULT_V0_1
from sealkeeper.verify.predicates.vulnerability_scan import VULNS_V0_1
from tests.bench.identity import AUDIENCE, REPOSITORY
from tests.client.admission.reviews import as_bytes, create_pod
from tests.e2e.gate_webhook import RunningWebhook, running_webhook
from tests.e2e.running import ANY_PORT, P256, PARENT, TENANT, Running
from tests.oidc_issuer import Issuer
from tests.registry.attached import push_image
from tests.server.people import add_person, decide
from tests.stores.docker_registry import PROGRAM, docker_registry

GATE = f"{PARENT}/gates/prod"
POLICY = f"""
gate: v1
verdict_key: {PARENT}/keys/verdicts
signers: {{ci: {{key: {PARENT}/keys/release}}, quality: {{key: {PARENT}/keys/quality}}}}
builders: [{{signer: ci, id: https://github.com/actions/runner/github-hosted, level: 3}}]
require:
  provenance: {{minimum_level: 3, source: {{repository: https://github.com/{REPOSITORY}, branch: main}}, max_age: 90d}}
  attestations:
    - {{type: spdx, signers: [ci]}}
    - {{type: test-result, signers: [quality], fields: {{result: PASSED}}}}
  vulnerabilities: {{worst_allowed: high, signers: [quality], max_age: 7d}}
"""
THREADS = 8
ARTIFACTS, IMAGES, KEPT = 150, 50, 5
PACKAGES, FINDINGS = 100, 20
Attested = Sequence[tuple[str, bytes]]
"""Predicate types, with the bundles."""


def measure_gates(seconds: float = 5) -> None:
    """Print decisions per second, and how long one takes.

    Args:
        seconds: of each load that asks the same again; what is asked once takes as long as it does.
    """
    print(f"\ngate decisions, 4 bundles each{'':>16} decisions/s   p50 ms   p99 ms")
    with TemporaryDirectory() as folder, _house(Path(folder)) as house:
        _measure_here(house, seconds)
        _measure_gateway(house, seconds)
        if shutil.which(PROGRAM) is None:
            print("the webhook needs docker-registry (Debian: apt-get install docker-registry)")
        else:
            _measure_webhook(house, Path(folder), seconds)


def _show(name: str, times: Iterable[float], seconds: float) -> None:
    times = sorted(times)
    middle, late = times[len(times) // 2], times[int(len(times) * 0.99)]
    print(f"{name:>46} {len(times) / seconds:>11,.0f} {middle * 1e3:>8.2f} {late * 1e3:>8.2f}")


@dataclass(frozen=True)
class _House:
    """A gateway with a gate, and who attests: a job with a token and a caller with a certificate."""

    gateway: Running
    job: Client
    ci: Client

    def attest(self, about: attestation_pb2.Subject) -> Attested:
        """All that the policy wants, which the gateway keeps."""
        release, quality = f"{PARENT}/keys/release", f"{PARENT}/keys/quality"
        found = [(PROVENANCE_V1, self.job.attest_slsa(release, [about]).signature.bundle)]
        for client, key, kind, predicate in (
            (self.job, release, SPDX, _materials()),
            (self.ci, quality, TEST_RESULT_V0_1, _tests()),
            (self.ci, quality, VULNS_V0_1, _scan()),
        ):
            answer = client.attest(key, [about], kind, json.dumps(predicate).encode())
            found.append((kind, answer.signature.bundle))
        return found

    def attest_all(self, subjects: Sequence[attestation_pb2.Subject]) -> list[Attested]:
        with ThreadPoolExecutor(THREADS) as threads:
            return list(threads.map(self.attest, subjects))


@contextmanager
def _house(folder: Path) -> Iterator[_House]:
    # Its keys are in a file, so that it can have the name that provenance of GitHub needs.
    issuer = Issuer("https://token.actions.githubusercontent.com")
    issuer.lifetime = 3600
    gateway = Running.make(folder / "gateway")
    (gateway.directory / "jwks.json").write_text(json.dumps({"keys": issuer.published}))
    gateway.change_settings(
        lambda text: text.replace("[http]", f'token_listen = "{ANY_PORT}"\n\n[http]', 1) + _issuer(issuer.url)
    )
    with gateway.running():
        with gateway.client("custodian") as custodian:
            custodian.create_key(PARENT, "release", P256, labels={"repository": REPOSITORY})
        for key in ("quality", "verdicts"):
            gateway.create_key(key)
        _put(gateway, POLICY)
        tokens = FixedToken(issuer.token("github", AUDIENCE, repository=REPOSITORY), "the bench's token", "none")
        ca = gateway.directory / "tls" / "ca.pem"
        connection = Connection(gateway.addresses["tokens"], TENANT, ca, tokens=tokens)
        with Client(connection) as job, gateway.client("ci") as ci:
            yield _House(gateway, job, ci)


def _issuer(url: str) -> str:
    return f"""
[issuers.jobs]
issuer = "{url}"
kind = "github"
jwks_file = "jwks.json"
replay = "none"
principals = [{{ claims = {{ sub = "*" }}, tenant = "{TENANT}", role = "ci" }}]
"""


def _put(gateway: Running, policy: str) -> None:
    """Put a policy in force, which takes two people."""
    second = add_person(gateway.directory, Role.ADMIN, "second")
    with gateway.client("admin") as admin, pytest.raises(ProposedError) as caught:
        admin.update_gate(GATE, policy, 0, "to measure")
    with gateway.client(second) as client:
        decide(client, caught.value.proposal, gateway.directory / "clients" / second / "key.pem")


def _materials() -> dict[str, Any]:
    packages = [
        {
            "SPDXID": f"SPDXRef-{number}",
            "name": f"package-{number}",
            "versionInfo": f"1.{number}.0",
            "downloadLocation": f"https://packages.example/package-{number}-1.{number}.0.tar.gz",
            "licenseConcluded": "Apache-2.0",
        }
        for number in range(PACKAGES)
    ]
    return {
        "spdxVersion": "SPDX-2.3",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": "app",
        "dataLicense": "CC0-1.0",
        "documentNamespace": "https://acme.example/app",
        "creationInfo": {"created": _now(), "creators": ["Tool: syft"]},
        "packages": packages,
    }


def _tests() -> dict[str, Any]:
    return {"result": "PASSED", "configuration": [{"name": "tests", "digest": {"gitCommit": "c0" * 20}}]}


def _scan() -> dict[str, Any]:
    findings = [
        {"id": f"CVE-2026-{number}", "severity": [{"method": "nvd", "score": "medium"}]} for number in range(FINDINGS)
    ]
    return {
        "scanner": {"uri": "https://scanner.example", "db": {"lastUpdate": _now()}, "result": findings},
        "metadata": {"scanStartedOn": _now(), "scanFinishedOn": _now()},
    }


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _fresh(number: int) -> attestation_pb2.Subject:
    return subject("registry.example/acme/app", sha256=sha256(f"artifact {number}".encode()).hexdigest())


def _measure_here(house: _House, seconds: float) -> None:
    """Without the gateway; all is verified each time."""
    about = _fresh(-1)
    found = [FoundBundle(bundle, "file") for _, bundle in house.attest(about)]
    policy, trust = parse_policy(POLICY.encode()), house.gateway.trust()
    artifact = Artifact(about.name, dict(about.digest))

    def ask(_: object) -> None:
        decision = evaluate(policy, artifact, Context(trust, lambda _: found, datetime.now(UTC)))
        assert decision.verdict.passed, decision.verdict.reasons

    _show("in this process, one thread, nothing kept", *_timed(ask, _for(seconds, cycle([None]))))


def _measure_gateway(house: _House, seconds: float) -> None:
    """Evidence is in the gateway's store; every decision is recorded, whether or not its summary is signed."""
    subjects = [_fresh(number) for number in range(2 * ARTIFACTS)]
    house.attest_all(subjects)
    with house.gateway.client("verifier") as client:
        # The trust root is made at the first question after a change of keys; several at once make one each.
        client.evaluate_gate(GATE, _fresh(-1), dry_run=True)
    print(f"gateway, {THREADS} clients with certificates, recorded")
    for summary, asked in ((False, subjects[:ARTIFACTS]), (True, subjects[ARTIFACTS:])):
        name = "with a summary (VSA)" if summary else "without a summary"
        _show(f"first, {name}", *_load(house.gateway, asked, summary=summary, cached=False))
        _show(f"again, {name}", *_load(house.gateway, asked, seconds, summary=summary, cached=True))


def _load(
    gateway: Running,
    subjects: Sequence[attestation_pb2.Subject],
    seconds: float = 0,
    *,
    summary: bool,
    cached: bool,
) -> tuple[list[float], float]:
    """Ask about each from several threads: once, or again and again for so many seconds.

    Returns:
        seconds of each decision, and of all.
    """

    def ask(client: Client, about: attestation_pb2.Subject) -> None:
        answer = client.evaluate_gate(GATE, about, without_summary=not summary)
        assert answer.decision.passed, answer
        assert (answer.decision.cached, answer.HasField("summary")) == (cached, summary)

    def work(place: int) -> list[float]:
        own: Iterable[attestation_pb2.Subject] = subjects[place::THREADS]
        return _timed(partial(ask, clients[place]), _for(seconds, cycle(own)) if seconds else own)[0]

    with ExitStack() as stack, ThreadPoolExecutor(THREADS) as threads:
        clients = [stack.enter_context(gateway.client("verifier")) for _ in range(THREADS)]
        for client in clients:
            # So that no handshake is measured.
            client.trust_root(PARENT)
        started = time.perf_counter()
        times = [one for each in threads.map(work, range(THREADS)) for one in each]
        return times, time.perf_counter() - started


def _timed(ask: Callable[[Any], None], asked: Iterable[Any]) -> tuple[list[float], float]:
    """Seconds of each, and of all."""
    times, started = list[float](), time.perf_counter()
    for one in asked:
        begun = time.perf_counter()
        ask(one)
        times.append(time.perf_counter() - begun)
    return times, time.perf_counter() - started


def _for(seconds: float, asked: Iterable[Any]) -> Iterable[Any]:
    """Only what is asked in so many seconds."""
    end = time.perf_counter() + seconds
    return takewhile(lambda _: time.perf_counter() < end, asked)


def _measure_webhook(house: _House, folder: Path, seconds: float) -> None:
    """Bundles are attached to the images, and kept by the gateway; one connection that stays."""
    print(f"webhook over TLS, one connection, {IMAGES} images, with summaries")
    with docker_registry(folder / "registry") as registry:
        images = [_push(house, registry.host, number) for number in range(IMAGES)]
        for name in ("asked", "kept"):
            (folder / name).mkdir()
        with running_webhook(house.gateway, folder / "asked", registry.host, "fresh = 0") as webhook:
            for name in ("first", "again"):
                answers = _admit(webhook, images)
                assert {source for source, _ in answers} == {"gateway=1"}
                _show_answers(f"{name}, by registry and gateway", answers)
        with running_webhook(house.gateway, folder / "kept", registry.host, "fresh = 300") as webhook:
            answers = _admit(webhook, _for(seconds, cycle(images[:KEPT])))
            kept = [one for one in answers if one[0] == "cache=1"]
            _show_answers("again, by what the webhook keeps", kept)
            # It asks again, too, where it takes something for changed.
            print(f"{f'asked again all the same: {len(answers) - len(kept)} of {len(answers)}':>46}")


def _show_answers(name: str, answers: Sequence[tuple[str, float]]) -> None:
    times = [taken for _, taken in answers]
    _show(name, times, sum(times))


def _push(house: _House, host: str, number: int) -> ImageReference:
    """Put an image into the registry, with its attestations."""
    registry, reference = Registry(proxies={}), ImageReference.parse(f"{host}/acme/app-{number}")
    image = reference.with_digest(push_image(registry, reference, Deadline.after(30), f"layer {number}".encode()))
    for kind, bundle in house.attest(subject(str(image), sha256=image.digest.removeprefix("sha256:"))):
        attach_bundle(registry, image, bundle, kind, Deadline.after(30))
    return image


def _admit(webhook: RunningWebhook, images: Iterable[ImageReference]) -> list[tuple[str, float]]:
    """Of each pod that is asked about, where the answer was from, and seconds."""
    host, _, port = webhook.addresses["webhook"].rpartition(":")
    connection = HTTPSConnection(host, int(port), context=webhook.tls, timeout=30)
    connection.connect()
    sources = list[str]()

    def ask(asked: bytes) -> None:
        connection.request("POST", "/validate?timeout=10s", asked, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())["response"]
        assert answer["allowed"], answer
        sources.append(answer["auditAnnotations"]["sources"])

    try:
        times, _ = _timed(ask, map(_review, images))
    finally:
        connection.close()
    return list(zip(sources, times, strict=True))


def _review(image: ImageReference) -> bytes:
    asked = create_pod({"app": str(image)})
    asked["request"]["object"]["spec"]["initContainers"][0]["image"] = str(image)
    return as_bytes(asked)
