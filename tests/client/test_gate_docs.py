"""The pages on gates say what is so: policies decide as they say, commands and options exist, nothing is missing."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from typer.main import get_command

from sealkeeper.client.admission.metrics import GateMetrics
from sealkeeper.client.cli import app, gate_scan
from sealkeeper.client.cli.arguments import in_order
from sealkeeper.client.manifest_files import RULES
from sealkeeper.verify import algorithms, entry_body
from sealkeeper.verify.bundle import MEDIA_TYPES
from sealkeeper.verify.gate import cases, policy, snapshot
from sealkeeper.verify.gate.cases import parse_cases, run_cases
from sealkeeper.verify.gate.decision import Artifact
from sealkeeper.verify.gate.evidence import Examined, Refused
from sealkeeper.verify.gate.policy import GatePolicy, parse_policy
from sealkeeper.verify.gate.rego_input import rego_input
from sealkeeper.verify.rego import RegoModule, RegoResult, RegoRunner, check_module

ROOT = Path(__file__).parents[2]
GATES = ROOT / "docs" / "gates"
OTHERS = ROOT / "docs" / "verify-others.md"
PAGES = [*sorted(GATES.glob("*.md")), OTHERS]
CLUSTERS = {"kubernetes", "gatekeeper"}
"""Pages whose YAML is applied to a cluster, where it is tried."""
SCHEMA = json.loads((GATES / "rego-input.schema.json").read_text())
ENDS = frozenset({"|", "||", "&&", ";", ">", ">>", "<", "<<<"})
NOW = datetime(2030, 1, 1, tzinfo=UTC)
GATEWAYS_OWN = {"POLICY_UNUSABLE"}
"""Reasons that no evaluation gives, but the gateway where it cannot begin one."""


@cache
def blocks(page: Path, language: str) -> list[str]:
    """Blocks of a page, those in lists too, without their indentation."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def is_policy(text: str) -> bool:
    return text.startswith("gate: v1\n")


def is_table(text: str) -> bool:
    return re.search(r"^cases:$", text, re.MULTILINE) is not None


def of_pages(language: str, wanted: Any = lambda text: True) -> list[Any]:
    return [
        pytest.param(page, text, id=f"{page.stem}-{place}")
        for page in PAGES
        for place, text in enumerate(blocks(page, language))
        if wanted(text)
    ]


def policy_of(page: Path) -> GatePolicy:
    """The first policy of a page, for which its tables of cases are."""
    return parse_policy(next(text for text in blocks(page, "yaml") if is_policy(text)).encode())


@pytest.mark.parametrize(("page", "text"), of_pages("yaml", is_policy))
def test_every_policy_is_one(page: Path, text: str) -> None:
    parsed = parse_policy(text.encode())
    for rules in (parsed.defaults, *parsed.environments.values()):
        for module in rules.rego:
            check_module(module)


@pytest.mark.parametrize(("page", "text"), of_pages("yaml", is_table))
def test_every_case_comes_out_as_the_page_says(page: Path, text: str) -> None:
    with RegoRunner() as rego:
        results = run_cases(policy_of(page), parse_cases(text.encode()), rego)
    assert [(one.case.name, one.decision.verdict.reasons) for one in results if not one.passed] == []
    assert {one.case.expect for one in results} == {"ALLOW", "DENY"}


def test_no_policy_and_no_table_is_left_out() -> None:
    assert len(of_pages("yaml", is_policy)) >= 3
    assert len(of_pages("yaml", is_table)) >= 3


@pytest.mark.parametrize(("page", "text"), of_pages("rego"))
def test_every_module_is_one(page: Path, text: str) -> None:
    check_module(text)


def test_the_module_that_looks_at_the_signer_does_not_take_anybodys_word() -> None:
    [careful] = [text for text in blocks(GATES / "rego.md", "rego") if "signer.names" in text]
    with RegoRunner() as rego:
        for signers, allowed in ((["ci"], True), (["qa", "ci"], True), (["qa"], False), ([], False)):
            predicate = {"author": "ada", "approved_by": ["bob", "eve"]}
            kind = "https://acme.example/review/v1"
            said = [{"predicate_type": kind, "predicate": predicate, "signer": {"names": signers}}]
            assert rego.evaluate(RegoModule(careful), {"attestations": said}).allowed is allowed


@dataclass
class Listening:
    """An evaluator that keeps what it is asked about."""

    asked: list[Any] = field(default_factory=list)

    def evaluate(self, module: RegoModule, input_document: Any) -> RegoResult:
        self.asked.append(input_document)
        return RegoResult(True)


def test_the_input_of_modules_is_as_its_schema_says() -> None:
    heard = Listening()
    [table] = [text for text in blocks(GATES / "rego.md", "yaml") if is_table(text)]
    run_cases(policy_of(GATES / "rego.md"), parse_cases(table.encode()), heard)
    stated = b"""
    cases:
      - name: signatures, certificates and strangers
        environment: production
        expect: allow
        found:
          - signature: {signers: []}
          - provenance: {signers: [ci], claims: {source_repository_uri: https://github.com/acme/app}}
    """
    run_cases(policy_of(GATES / "rego.md"), parse_cases(stated), heard)
    refused = Refused(f"sha256:{'0' * 64}", "store", "", "", "it cannot be read")
    heard.asked.append(rego_input(Artifact("a", {"sha256": "00"}), Examined((), (refused,)), (), 0, "", NOW))
    validator = jsonschema_rs.Draft202012Validator(SCHEMA, validate_formats=True)
    found = [one for document in heard.asked for one in validator.iter_errors(json.loads(json.dumps(document)))]
    assert [(one.message, list(one.instance_path)) for one in found] == []
    assert len(heard.asked) == 6
    assert any(one["rules"] for one in heard.asked)
    assert {len(one["attestations"]) for one in heard.asked} > {0}


def objects(schema: Any) -> Iterator[Any]:
    """All parts of the schema that describe objects of ours."""
    if isinstance(schema, dict):
        if schema.get("additionalProperties") is False:
            yield schema
        for one in schema.values():
            yield from objects(one)


def test_the_schema_leaves_nothing_open_and_the_page_names_all_of_it() -> None:
    jsonschema_rs.meta.validate(SCHEMA)
    page = (GATES / "rego.md").read_text()
    described = list(objects(SCHEMA))
    assert len(described) == 6
    for one in described:
        assert one["required"] == list(one["properties"])
        for name in one["properties"]:
            assert re.search(rf"[`.]{name}[`.\[]", page), name


def documents_in(text: str) -> list[Any]:
    return [one for one in yaml.safe_load_all(text) if one is not None]


def other_yaml() -> list[Any]:
    found = of_pages("yaml", lambda text: not is_policy(text) and not is_table(text))
    return [one for one in found if one.values[0].stem not in CLUSTERS]


@pytest.mark.parametrize(("page", "text"), other_yaml())
def test_every_other_yaml_is_what_its_comment_says(page: Path, text: str) -> None:
    documents = documents_in(text)
    assert all(isinstance(one, dict) for one in documents)
    document = documents[0]
    if text.startswith("# .github/workflows/"):
        # YAML 1.1 takes "on" for true.
        assert {"name", True, "jobs"} == document.keys()
        steps = [step for job in document["jobs"].values() for step in job["steps"]]
        assert all(len({"run", "uses"} & step.keys()) == 1 for step in steps)
        # What others choose would be a part of the script.
        assert not any("${{" in step.get("run", "") for step in steps)
    elif text.startswith("# .gitlab-ci.yml\n"):
        jobs = [one for one in document.values() if isinstance(one, dict) and "script" in one]
        assert jobs
        assert all(isinstance(line, str) for job in jobs for line in [*job["script"], *job.get("before_script", ())])
    elif text.startswith("# .pre-commit-config.yaml\n"):
        [hook] = document["repos"][0]["hooks"]
        assert hook["id"] in {one["id"] for one in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}
    else:
        assert all({"apiVersion", "kind"} <= one.keys() for one in documents)


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from strings(one)


def containers(value: Any) -> Iterator[list[str]]:
    """Commands of containers."""
    if isinstance(value, dict):
        if isinstance(value.get("command"), list):
            yield [*value["command"], *value.get("args", ())]
        for one in value.values():
            yield from containers(one)
    elif isinstance(value, list):
        for one in value:
            yield from containers(one)


def commands_in(script: str) -> Iterator[list[str]]:
    """Words of each ``sealkeeper`` in a script, without the word itself."""
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in ENDS:
                words.append(word)
                continue
            if words[:1] == ["sealkeeper"]:
                yield words[1:]
            # What follows a redirection is a file.
            words = [] if word in ("|", "||", "&&", ";") else ["-"]


def whole_commands() -> list[Any]:
    found: list[tuple[Path, list[str]]] = []
    for page in PAGES:
        scripts = [*blocks(page, "sh")]
        for text in blocks(page, "yaml"):
            if is_policy(text) or is_table(text):
                continue
            for document in documents_in(text):
                scripts += [one for one in strings(document) if "sealkeeper " in one]
                found += [(page, words[1:]) for words in containers(document) if words[0] == "sealkeeper"]
                for hook in [hook for repo in document.get("repos", ()) for hook in repo["hooks"]]:
                    found.append((page, ["gate", "scan", *hook["args"], "app.yaml"]))
        found += [(page, words) for script in scripts for words in commands_in(script)]
    return [pytest.param(words, id=f"{page.stem}: {' '.join(words)[:60]}") for page, words in found]


@pytest.mark.parametrize("words", whole_commands())
def test_every_command_line_is_one(words: list[str]) -> None:
    command: Any = get_command(app)
    left = in_order(command, words)
    parent = None
    while True:
        # Reads options and arguments as a call would, with all that is required; nothing is run.
        context = command.make_context(command.name, list(left), parent=parent)
        if not hasattr(command, "commands"):
            return
        name, command, left = command.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None, name
        parent = context


def test_no_command_line_is_left_out() -> None:
    found = whole_commands()
    assert len(found) > 35
    names = {" ".join(word for word in one.values[0] if re.fullmatch("[a-z]+", word))[:20] for one in found}
    assert len(names) > 12


def mentioned() -> list[Any]:
    """Commands that are named within a text."""
    found = {
        (page, one)
        for page in PAGES
        for one in re.findall(r"`sealkeeper ([^`]+)`", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
    }
    return [pytest.param(text, id=f"{page.stem}: {text}") for page, text in sorted(found)]


@pytest.mark.parametrize("text", mentioned())
def test_every_command_that_is_mentioned_is_there_with_its_options(text: str) -> None:
    command: Any = get_command(app)
    for word in text.split():
        if word.startswith("--"):
            options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
            assert word.partition("=")[0] in options
        elif hasattr(command, "commands") and word != "…":
            assert word in command.commands
            command = command.commands[word]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", one).strip().lower().replace(" ", "-") for one in headings}
        assert not anchor or anchor in anchors, link


def codes() -> set[str]:
    """Reasons that the evaluation can give: constants in its source."""
    texts = "".join(path.read_text() for path in (ROOT / "client/sealkeeper/verify/gate").glob("*.py"))
    others = "".join(
        (ROOT / "client/sealkeeper" / one).read_text() for one in ("verify/errors.py", "client/gate_evidence.py")
    )
    found = {*re.findall(r'"([A-Z]+(?:_[A-Z]+)+)"', texts), *re.findall(r'"((?:REGO|ATTESTATIONS)_[A-Z_]+)"', others)}
    return {one for one in found if not one.startswith("SLSA_")}


def test_every_reason_has_a_row_and_every_row_a_reason() -> None:
    rows = re.findall(r"^\| (`[A-Z_`, ]+`) \|", (GATES / "reasons.md").read_text(), re.MULTILINE)
    listed = [one for row in rows for one in re.findall(r"[A-Z_]+", row)]
    assert len(listed) == len(set(listed))
    assert set(listed) == codes() | GATEWAYS_OWN


def test_every_member_of_policies_and_cases_is_on_the_page() -> None:
    page = (GATES / "policy.md").read_text()
    members = set(re.findall(r'members\["(\w+)"\]', Path(policy.__file__).read_text()))
    members |= set(re.findall(r'_optional\(members, "(\w+)"', Path(policy.__file__).read_text()))
    members |= {name for inner in cases._MEMBERS.values() for name in inner} | set(cases._KINDS)
    assert len(members) > 50
    assert [name for name in sorted(members) if not re.search(rf"\b{name}\b", page)] == []


def test_every_metric_is_in_the_table_with_its_labels() -> None:
    rows = re.findall(r"^\| `(sealkeeper_gate_\w+)` \|(.*)\|$", (GATES / "README.md").read_text(), re.MULTILINE)
    listed = {name: re.findall(r"`(\w+)`", labels) for name, labels in rows}
    assert listed == {one.name: list(one._labels) for one in vars(GateMetrics()).values()}


def test_every_finding_of_a_scan_is_in_the_table_with_its_level() -> None:
    rows = re.findall(r"^\| (`[a-z`, -]+`) \| (\w+)", (GATES / "scan.md").read_text(), re.MULTILINE)
    listed = {name: level for names, level in rows for name in re.findall(r"[a-z-]{3,}", names)}
    known = {rule.id: str(rule.level) for rule in RULES} | {name: one[2] for name, one in gate_scan._RULES.items()}
    # Its rule is a note; the finding, of an image that passed, has no level.
    assert listed == {**known, "image-allowed": "none"}


def test_the_page_on_others_signatures_names_all_that_is_accepted() -> None:
    page = OTHERS.read_text()
    assert {f"v{one}" for one in MEDIA_TYPES.values()} == set(re.findall(r"v0\.\d", page))
    kinds = {f"`{kind}` {number}" for kind, number in entry_body._KINDS}
    assert set(re.findall(r"`(?:hashedrekord|dsse|intoto)` 0\.0\.\d", page.partition("Not accepted")[0])) == kinds
    for name in algorithms.ALGORITHMS:
        curve = re.search(r"P\d+|\d{4}|ED25519|ML_DSA", name)
        assert curve is not None
        told = {"ED25519": "Ed25519", "ML_DSA": "ML-DSA 44, 65, 87"}.get(curve[0], curve[0].replace("P", "P-"))
        assert told in page, name


def test_the_clients_that_are_compared_with_are_those_that_the_tests_ask() -> None:
    page = OTHERS.read_text()
    node = json.loads((ROOT / "tests/interop/package.json").read_text())
    assert f"sigstore-python {version('sigstore')}" in page
    assert f"`@sigstore/verify` {node['dependencies']['@sigstore/verify']}" in page


def test_the_page_on_deciding_offline_names_all_of_a_snapshot() -> None:
    page = (GATES / "offline.md").read_text()
    payload = snapshot.encode_snapshot("tenants/acme/gates/production", 1, b"", (), NOW, NOW)
    assert snapshot.PAYLOAD_TYPE in page
    assert [name for name in json.loads(payload) if f"`{name}`" not in page] == []
