"""``sealkeeper provenance show``: what is gathered, what is believed of it, and how it is told."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from sealkeeper.client import provenance_sources
from sealkeeper.client.cli import run
from sealkeeper.client.cli.provenance_tree import tree_lines
from sealkeeper.client.errors import RefusedError, UnavailableError
from sealkeeper.client.operations import crc32c
from sealkeeper.client.provenance_graph import (
    DeployDecision,
    build_graph,
)
from sealkeeper.client.provenance_sources import (
    ELSEWHERE,
    MAX_BUNDLES,
    MAX_FOLLOWED,
    gather,
    index_children,
)
from sealkeeper.v1 import attestation_pb2, gate_pb2, trust_pb2
from sealkeeper.verify.statement import Subject
from tests.client.answering import Gateway
from tests.client.provenance_samples import (
    ALLOWED,
    EVERYTHING,
    PROVENANCE,
    REFUSED,
    SIGNER,
    SPDX,
    believed,
    bundle_of,
    digest,
    provenance,
    sbom,
    statement,
    subject,
    whole,
)
from tests.verify.signed import ARTIFACT, RUNNER, changed, signed

FILE_DIGEST = "sha256:03473f89a784c14707308b73a324b887c10627dc400d8f62fd37a74d66b12438"
OFFLINE = ("--trust", "trust", "--offline")


class Scripted:
    """Knows what it was told, and remembers what it was asked."""

    def __init__(
        self, found: dict[str, Sequence[bytes]], decided: Sequence[DeployDecision] = (), error: Exception | None = None
    ) -> None:
        self.found, self.decided, self.error = found, decided, error
        self.asked: list[str] = []

    def statements(self, digest: str) -> Iterable[tuple[bytes, str]]:
        self.asked.append(digest)
        return ((one, "store") for one in self.found.get(digest, ()))

    def decisions(self, digest: str) -> Iterable[DeployDecision]:
        if self.error is not None:
            raise self.error
        return self.decided


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own with an artifact, its signature, bundles, and what is trusted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("SEALKEEPER_")]:
        monkeypatch.delenv(name)
    one = signed()
    (tmp_path / "a").write_bytes(ARTIFACT)
    (tmp_path / "a.sigstore.json").write_bytes(one.key_bundle)
    (tmp_path / "trust").mkdir()
    (tmp_path / "trust" / "trusted_root.json").write_bytes(one.world.trusted_root())
    (tmp_path / "trust" / "keys.json").write_bytes(one.world.keys(one.key))
    (tmp_path / "build.json").write_bytes(bundle_of(statement(PROVENANCE, provenance(["lib1"]))))
    (tmp_path / "sbom.json").write_bytes(bundle_of(statement(SPDX, sbom())))
    return tmp_path


def forged(bundle: bytes) -> bytes:
    """The same claims under a signature of something else."""
    other = json.loads(signed().key_envelope)["dsseEnvelope"]["signatures"]
    return changed(bundle, lambda document: document["dsseEnvelope"].update(signatures=other))


def shown(capfd: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    assert run(["provenance", "show", *arguments, *OFFLINE, "--json"]) == code
    return json.loads(capfd.readouterr().out)


def test_the_tree_of_a_whole_chain() -> None:
    signer = f"signed by {SIGNER}"
    assert tree_lines(whole()) == [
        "provenance of sha256:a172cedcae47…",
        "└── source github.com/acme/app, refs/heads/main, commit 7fd1a60b01f9",
        "    └── ✓ build ci.example/hosted, run ci.example/runs/15, type acme.example/workflow/v1; "
        f"{signer}, 2026-06-01 12:01:00Z",
        "        ├── dependency pkg:pypi/lib1, sha256:2bb9eaf06f17…, attested: 1 sbom",
        "        │   └── ✓ build ci.example/hosted, run ci.example/runs/15, type acme.example/workflow/v1; "
        f"{signer}, 2026-06-01 12:10:00Z",
        "        │       ├── source github.com/acme/lib1, refs/heads/main, commit 7fd1a60b01f9",
        "        │       └── dependency pkg:pypi/lib3, sha256:f9d248d8266a…",
        "        ├── dependency pkg:pypi/lib2, sha256:7cdacf15bed3…",
        "        ├── artifact app, sha256:a172cedcae47… (asked for)",
        "        │   ├── image linux/amd64, sha256:5861314d7fcc…",
        f"        │   ├── ✓ signature of the artifact; {signer}, 2026-06-01 12:07:00Z",
        f"        │   ├── ✓ sbom SPDX 2.3, 2 components, by scribe-1.2; {signer}, 2026-06-01 12:02:00Z",
        "        │   ├── ✓ scan 1 critical, 2 high, by scanner.example, of 2026-06-01 11:59:30Z; "
        f"{signer}, 2026-06-01 12:03:00Z",
        f"        │   ├── ✓ test FAILED, 2 failed; {signer}, 2026-06-01 12:04:00Z",
        f"        │   ├── ✓ release pkg:oci/app@1.4.0; {signer}, 2026-06-01 12:05:00Z",
        "        │   ├── ✓ summary PASSED, SLSA_BUILD_LEVEL_3, by sealkeeper.example/gates/production; "
        f"{signer}, 2026-06-01 12:06:00Z",
        f"        │   ├── ✓ attestation acme.example/review/v1; {signer}, 2026-06-01 12:08:00Z",
        "        │   ├── ✗ not verified: CycloneDX bill of materials: signature: it does not fit "
        f"(file x.json, bundle {digest('bundle 9')[:19]}…)",
        "        │   ├── decision refused for us, by production, 2026-06-01 14:00:00Z, SCAN_AGE: it is too old",
        "        │   ├── decision allowed for eu, by production, 2026-06-01 13:00:00Z",
        "        │   └── decision allowed, policy not fulfilled, by staging, 2026-06-01 12:00:00Z, exception hotfix",
        "        └── artifact app.tar.gz, sha256:4a21abdc0be4…",
    ]


def test_a_terminal_without_unicode_gets_ascii_of_the_same_width() -> None:
    graph = build_graph(digest("app"), {digest("app"): EVERYTHING}, name="ä\u202e\x1b[2J")
    lines = tree_lines(graph, encoding="ascii", width=60)
    assert "".join(lines).isascii()
    assert max(map(len, lines)) <= 60
    assert "x not verified: CycloneDX" in "".join(lines)
    assert r"artifact \xe4\u202e\x1b[2J" in "".join(lines)


@pytest.mark.parametrize("width", [20, 40, 80])
def test_a_narrow_terminal_gets_lines_that_are_cut(width: int) -> None:
    lines = tree_lines(whole(), width=width)
    assert len(lines) == len(tree_lines(whole()))
    # The deepest lines have twenty columns of guides, and twelve of text whatever the width is.
    assert max(map(len, lines)) <= max(width, 20 + 12)
    assert lines[2].endswith("…")


def test_digests_in_full_are_never_cut() -> None:
    text = "\n".join(tree_lines(whole(), width=20, full=True))
    assert text.count(digest("app")) == 2
    assert f"(store, bundle {digest('bundle 1')})" in text
    assert "…" not in text


def test_colours_are_for_those_who_want_them() -> None:
    assert "\x1b" not in "".join(tree_lines(whole()))
    coloured = "\n".join(tree_lines(whole(), coloured=True))
    assert "\x1b[31mnot verified: CycloneDX bill of materials" in coloured
    assert "\x1b[32mallowed for eu" in coloured


def test_what_several_builds_have_made_is_told_once() -> None:
    first, second = (believed(statement(PROVENANCE, provenance(["lib1"])), number) for number in (21, 22))
    lines = tree_lines(build_graph(digest("app"), {digest("app"): [first, second, EVERYTHING[1]]}))
    assert sum("sbom" in one for one in lines) == 1
    assert sum("artifact app (as above)" in one for one in lines) == 1
    assert sum("dependency pkg:pypi/lib1 (as above)" in one for one in lines) == 1


def test_files_tell_the_chain_of_a_file(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    about_a = Subject("a", {"sha256": FILE_DIGEST[7:]})
    (folder / "of-a.json").write_bytes(bundle_of(statement(PROVENANCE, provenance(["lib1"]), about_a)))
    (folder / "lib.json").write_bytes(bundle_of(statement(PROVENANCE, provenance(), subject("lib1"))))
    arguments = ("-b", "a.sigstore.json", "-b", "of-a.json", "--bundle", "lib.json", "-b", "sbom.json")
    document = shown(capfd, "a", *arguments)
    assert document["verified"] is True
    assert document["digest"] == FILE_DIGEST
    assert sorted((one["depth"], one["kind"]) for one in document["nodes"]) == [
        (0, "artifact"),
        (0, "build"),
        (0, "dependency"),
        (0, "signature"),
        (0, "source"),
        (1, "build"),
        (1, "source"),
    ]
    # What was of use for a dependency is not told as of no use.
    assert document["notes"] == [f"file sbom.json: {ELSEWHERE}"]
    assert {one["depth"] for one in shown(capfd, "a", *arguments, "--depth", "0")["nodes"]} == {0}


def test_a_digest_and_bundles_are_enough(capfd: pytest.CaptureFixture[str]) -> None:
    document = shown(capfd, digest("app"), "-b", "build.json", "-b", "sbom.json")
    [build] = [one for one in document["nodes"] if one["kind"] == "build"]
    assert build == {
        "id": "build-1",
        "kind": "build",
        "title": "ci.example/hosted",
        "digest": None,
        "asked": False,
        "depth": 0,
        "facts": {
            "builder": "https://ci.example/hosted",
            "buildType": "https://acme.example/workflow/v1",
            "run": "https://ci.example/runs/15",
            "startTime": "2026-06-01T11:50:00+00:00",
            "finishTime": None,
            "slsaProvenance": "1",
        },
        "verified": True,
        "whyNot": None,
        "signer": SIGNER,
        "time": "2026-06-01T12:00:00+00:00",
        "origin": "file build.json",
        "bundle": build["bundle"],
    }
    assert {"from": "build-1", "to": "artifact-1", "relation": "made"} in document["edges"]


def test_the_bundle_beside_the_file_is_taken_by_itself(capfd: pytest.CaptureFixture[str]) -> None:
    kinds = [(one["kind"], one["verified"]) for one in shown(capfd, "a")["nodes"]]
    assert kinds == [("artifact", None), ("signature", True)]


@pytest.mark.parametrize("make", [forged, lambda _: b"{}", lambda _: b"\xff", lambda _: b"[" * 100_000])
def test_what_does_not_verify_is_told_and_counts_for_nothing(
    capfd: pytest.CaptureFixture[str], folder: Path, make: Any
) -> None:
    (folder / "bad.json").write_bytes(make((folder / "build.json").read_bytes()))
    document = shown(capfd, digest("app"), "-b", "bad.json", code=1)
    [_, bad] = document["nodes"]
    assert (document["verified"], bad["kind"], bad["verified"], bad["signer"]) == (False, "attestation", False, None)
    assert bad["whyNot"]


def test_a_signature_of_another_artifact_is_not_one_of_this(capfd: pytest.CaptureFixture[str]) -> None:
    document = shown(capfd, digest("app"), "-b", "a.sigstore.json", code=1)
    assert "content" in document["nodes"][1]["whyNot"]


def test_of_nothing_nothing_is_shown_and_the_exit_code_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["provenance", "show", digest("app"), *OFFLINE]) == 1
    assert capfd.readouterr().out.splitlines() == [
        "provenance of sha256:a172cedcae47…",
        "└── artifact artifact, sha256:a172cedcae47… (asked for)",
        f"nothing verified is known about {digest('app')}",
    ]


def test_a_signer_that_the_trust_root_does_not_know_is_not_believed(
    capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    (folder / "trust" / "keys.json").unlink()
    assert shown(capfd, digest("app"), "-b", "build.json", code=1)["nodes"][1]["verified"] is False


def test_the_picture_is_written_beside_the_tree(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    assert run(["provenance", "show", digest("app"), "-b", "build.json", "--svg", "o.svg", *OFFLINE]) == 0
    assert "build ci.example/hosted" in capfd.readouterr().out
    assert ET.fromstring((folder / "o.svg").read_bytes()).tag.endswith("svg")
    assert run(["provenance", "show", digest("app"), "-b", "build.json", "--svg", "-", *OFFLINE]) == 0
    assert capfd.readouterr().out.encode() == (folder / "o.svg").read_bytes()


def test_the_picture_does_not_overwrite_what_is_read(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    before = (folder / "build.json").read_bytes()
    assert run(["provenance", "show", digest("app"), "-b", "build.json", "--svg", "build.json", *OFFLINE]) == 2
    assert (folder / "build.json").read_bytes() == before
    assert "one of the files that are read" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["sha256:00", *OFFLINE], "DIGEST"),
        (["sha512:" + "0" * 128, *OFFLINE], "DIGEST"),
        (["trust", *OFFLINE], "FILE"),
        (["nothing", *OFFLINE], "nothing"),
        (["a", "-b", "nothing.json", *OFFLINE], "nothing.json"),
        (["a", "--offline"], "--trust"),
        (["a", "--svg", "-", *OFFLINE], "--svg"),
        (["a", "--svg", "no/such/place.svg", *OFFLINE], "--svg"),
        (["a", "--depth", "9", *OFFLINE], "--depth"),
        (["a"], None),
        (["a", "--trust", "nowhere", "--offline"], None),
    ],
)
def test_wrong_usage_names_what_is_wrong(
    capfd: pytest.CaptureFixture[str], arguments: list[str], field: str | None
) -> None:
    assert run(["provenance", "show", *arguments, "--json"]) == 2
    document = json.loads(capfd.readouterr().out)
    assert document["exit_code"] == 2
    if field is not None:
        assert field in document["violations"][0]["field"]


def test_without_a_gateway_files_are_looked_at_and_a_note_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["provenance", "show", "a", "--trust", "trust"]) == 0
    assert "note: no gateway is asked: " in capfd.readouterr().err


def test_a_gateway_that_does_not_answer_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    reach = ["--endpoint", "127.0.0.1:1", "--insecure", "--tenant", "acme", "--timeout", "0.1"]
    assert run(["provenance", "show", "a", *reach, "--json"]) == 3
    assert json.loads(capfd.readouterr().out)["exit_code"] == 3


def test_names_cannot_command_the_terminal(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    evil = Subject("a\x1b]0;owned\x07\u202e", {"sha256": digest("app")[7:]})
    (folder / "evil.json").write_bytes(bundle_of(statement(PROVENANCE, provenance(), evil)))
    assert run(["provenance", "show", digest("app"), "-b", "evil.json", *OFFLINE]) == 0
    out = capfd.readouterr().out
    assert r"artifact a\x1b]0;owned\x07\u202e, " in out
    assert "\x1b" not in out


def test_a_terminal_gets_colours_and_lines_that_fit(folder: Path) -> None:
    arguments = [sys.executable, "-m", "sealkeeper.client.cli", "provenance", "show", digest("app"), "-b", "build.json"]
    primary, secondary = pty.openpty()
    environment = {**os.environ, "COLUMNS": "50", "TERM": "xterm", "PYTHONUTF8": "1"}
    environment.pop("NO_COLOR", None)
    subprocess.run([*arguments, *OFFLINE], stdout=secondary, env=environment, check=True, timeout=60)
    os.close(secondary)
    out = os.read(primary, 65_536).decode()
    os.close(primary)
    assert "\x1b[1mprovenance of sha256:" in out
    assert "…" in out.splitlines()[2]


def test_an_image_index_has_its_images_below(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            {"digest": digest("arm"), "size": 1, "platform": {"os": "linux", "architecture": "arm", "variant": "v7"}},
            {"digest": digest("other"), "size": 1},
        ],
    }
    (folder / "index.json").write_text(json.dumps(index))
    nodes = shown(capfd, "index.json", code=1)["nodes"]
    assert [(one["kind"], one["title"], one["digest"]) for one in nodes[1:]] == [
        ("index-child", "linux/arm/v7", digest("arm")),
        ("index-child", "image", digest("other")),
    ]


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"mediaType": "application/vnd.oci.image.index.v1+json"}',
        b'{"mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [{"digest": 7}]}',
        b'{"mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [{"digest": "x", "platform": []}]}',
        b"[" * 100_000,
        b" " * (5 * 1024 * 1024),
    ],
)
def test_what_is_no_image_index_has_no_images(document: bytes) -> None:
    assert index_children(document) == []


def test_sources_are_asked_about_the_artifact_and_then_its_dependencies_one_level() -> None:
    of_app = bundle_of(statement(PROVENANCE, provenance(["lib1"])))
    of_lib = bundle_of(statement(PROVENANCE, provenance(["lib2"]), subject("lib1")))
    source = Scripted({digest("app"): [of_app], digest("lib1"): [of_lib]}, [ALLOWED, REFUSED])
    chain = gather(digest("app"), [source], signed().trust)
    assert source.asked == [digest("app"), digest("lib1")]
    assert chain.decisions == (ALLOWED, REFUSED)
    assert [(one.verified, one.who, one.origin) for one in chain.statements[digest("lib1")]] == [
        (True, SIGNER, "store")
    ]
    source.asked.clear()
    gather(digest("app"), [source], signed().trust, depth=2)
    assert source.asked == [digest("app"), digest("lib1"), digest("lib2")]


def test_what_is_not_verified_is_never_followed() -> None:
    source = Scripted({digest("app"): [forged(bundle_of(statement(PROVENANCE, provenance(["lib1"]))))]})
    chain = gather(digest("app"), [source], signed().trust, depth=5)
    assert source.asked == [digest("app")]
    [one] = chain.statements[digest("app")]
    assert (one.verified, one.who, one.time) == (False, "", None)


def test_a_statement_about_something_else_is_not_believed_whoever_hands_it_over() -> None:
    source = Scripted({digest("other"): [bundle_of(statement(SPDX, sbom()))]})
    chain = gather(digest("other"), [source], signed().trust)
    assert chain.statements[digest("other")] == []
    assert chain.notes == (f"store: {ELSEWHERE}",)


def test_a_statement_that_was_signed_as_something_else_is_not_believed() -> None:
    one = signed()
    payload = json.loads(bundle_of(statement(SPDX, sbom())))["dsseEnvelope"]["payload"]
    bundle = one.world.bundle(one.key, b64decode(payload), certificate=False, payload_type="application/json")
    chain = gather(digest("app"), [Scripted({digest("app"): [RUNNER.run(bundle)]})], one.trust)
    [found] = chain.statements[digest("app")]
    assert not found.verified
    assert "application/json" in found.why_not


def test_who_may_not_see_decisions_sees_the_rest() -> None:
    source = Scripted({digest("app"): [bundle_of(statement(SPDX, sbom()))]}, error=RefusedError("not yours"))
    chain = gather(digest("app"), [source], signed().trust)
    assert len(chain.statements[digest("app")]) == 1
    assert chain.notes == ("decisions are not shown: not yours",)
    source.error = UnavailableError("gone")
    with pytest.raises(UnavailableError):
        gather(digest("app"), [source], signed().trust)


def test_the_bytes_that_are_looked_at_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance_sources, "MAX_BYTES", 5)
    chain = gather(digest("app"), [Scripted({digest("app"): [b"{}", b"[]", b"7 "]})], signed().trust)
    assert len(chain.statements[digest("app")]) == 2
    assert chain.notes == ("there are more attestations than can be looked at",)


def test_what_is_gathered_is_bounded_and_a_note_says_so() -> None:
    source = Scripted({digest("app"): [b"{}"] * (MAX_BUNDLES + 1)})
    chain = gather(digest("app"), [source], signed().trust)
    assert len(chain.statements[digest("app")]) == MAX_BUNDLES
    assert chain.notes == ("there are more attestations than can be looked at",)
    names = [f"lib{number}" for number in range(MAX_FOLLOWED + 1)]
    source = Scripted({digest("app"): [bundle_of(statement(PROVENANCE, provenance(names)))]})
    chain = gather(digest("app"), [source], signed().trust)
    assert len(source.asked) == 1 + MAX_FOLLOWED
    assert chain.notes == (f"only the first {MAX_FOLLOWED} dependencies were followed",)


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """A gateway that keeps the provenance of ``app``, and has one gate, which refused it."""
    one, name = signed(), "tenants/acme/attestations/1"
    bundle = bundle_of(statement(PROVENANCE, provenance()))
    record = attestation_pb2.AttestationRecord(name=name, bundle_digest=sha256(bundle).digest())
    refused = gate_pb2.GateDecision(
        outcome=gate_pb2.GATE_OUTCOME_DENY,
        mode=gate_pb2.GATE_MODE_ENFORCE,
        environment="eu",
        reasons=[gate_pb2.GateReason(code="SCAN_AGE", message="it is too old")],
    )
    refused.time.FromDatetime(datetime(2026, 6, 1, tzinfo=UTC))
    version = gate_pb2.GateVersion(name="tenants/acme/gates/production/versions/3")
    answers = {
        "ListAttestations": attestation_pb2.ListAttestationsResponse(attestations=[record]),
        "GetAttestation": attestation_pb2.GetAttestationResponse(
            attestation=record, bundle=bundle, bundle_crc32c=crc32c(bundle)
        ),
        "ListGates": gate_pb2.ListGatesResponse(gates=[version]),
        "ListGateDecisions": gate_pb2.ListGateDecisionsResponse(decisions=[refused]),
        "GetTrustRoot": trust_pb2.GetTrustRootResponse(
            trusted_root=one.world.trusted_root(), keys=one.world.keys(one.key)
        ),
    }
    found = Gateway(answers)
    with found.serving():
        yield found


def reach(gateway: Gateway) -> list[str]:
    return ["--endpoint", gateway.address, "--insecure", "--tenant", "acme"]


def test_a_gateway_tells_what_it_keeps_what_its_gates_decided_and_whom_to_trust(
    gateway: Gateway, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["provenance", "show", digest("app"), *reach(gateway)]) == 0
    assert capfd.readouterr().out.splitlines() == [
        f"provenance of {digest('app')[:19]}…",
        "└── source github.com/acme/app, refs/heads/main, commit 7fd1a60b01f9",
        "    └── ✓ build ci.example/hosted, run ci.example/runs/15, type acme.example/workflow/v1; "
        f"signed by {SIGNER}, 2026-06-01 12:00:00Z",
        f"        └── artifact app, {digest('app')[:19]}… (asked for)",
        "            └── decision refused for eu, by production, 2026-06-01 00:00:00Z, SCAN_AGE: it is too old",
    ]
    [listed] = gateway.requests(attestation_pb2.ListAttestationsRequest)
    assert (listed.parent, listed.subject_digest) == ("tenants/acme", digest("app"))
    [decided] = gateway.requests(gate_pb2.ListGateDecisionsRequest)
    assert (decided.parent, decided.subject_digest) == ("tenants/acme/gates/production", digest("app"))


def test_a_bundle_of_the_gateway_is_verified_like_any_other(
    gateway: Gateway, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = gateway.answers["GetAttestation"]
    kept.bundle = forged(kept.bundle)
    kept.bundle_crc32c, kept.attestation.bundle_digest = crc32c(kept.bundle), sha256(kept.bundle).digest()
    assert run(["provenance", "show", digest("app"), *reach(gateway), "--trust", "trust"]) == 1
    assert "✗ not verified: SLSA Provenance: signature: " in capfd.readouterr().out
    assert not gateway.requests(trust_pb2.GetTrustRootRequest)


def test_an_outcome_that_this_client_does_not_know_is_none_that_allows(
    gateway: Gateway, capfd: pytest.CaptureFixture[str]
) -> None:
    [decision] = gateway.answers["ListGateDecisions"].decisions
    decision.outcome = 7
    assert run(["provenance", "show", digest("app"), *reach(gateway), "--json"]) == 0
    nodes = json.loads(capfd.readouterr().out)["nodes"]
    assert [one["facts"]["outcome"] for one in nodes if one["kind"] == "decision"] == ["DENY"]
