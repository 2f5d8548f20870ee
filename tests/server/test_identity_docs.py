"""The pages on identity say what is so: settings load, pipelines parse, policies decide as they say."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from sealkeeper.client.connection import Connection
from sealkeeper.server.authorization import Action, Decision
from sealkeeper.server.identity import Method, Principal, Role
from sealkeeper.server.identity_settings import IssuerSettings
from sealkeeper.server.policy_engine import Facts, Question, compile_policy, default_policy
from sealkeeper.server.resources import KeyName
from sealkeeper.server.settings import Settings, load_settings
from sealkeeper.server.token_claims import attributes_of, rule_of
from tests.e2e.running import DOMAIN
from tests.oidc_issuer import claims_of
from tests.server.house import House

DOCS = Path(__file__).parents[2] / "docs" / "identity"
PAGES = sorted(DOCS.glob("*.md"))
NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = KeyName("acme", "release")
GATEWAY, CLIENT = "# sealkeeper.toml\n", "# client.toml\n"
NO_POLICY, PULL_REQUEST, ALLOWED = "no-policy", "pull-requests-do-not-sign", "ci-may-sign-for-its-repository"


def blocks(page: Path, language: str) -> list[str]:
    """Blocks of a page, those in lists too, without their indentation."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def marked(mark: str) -> list[Any]:
    return [
        pytest.param(text, id=f"{page.stem}-{place}")
        for page in PAGES
        for place, text in enumerate(blocks(page, "toml"))
        if text.startswith(mark)
    ]


def put_in(settings: str, block: str) -> str:
    """What a person does with a block: sections that are there get more lines, others come behind."""
    for section in re.split(r"^(?=\[)", block, flags=re.MULTILINE):
        header = section.partition("\n")[0]
        if header and f"\n{header}\n" in settings:
            settings = settings.replace(f"\n{header}\n", f"\n{section}\n", 1)
        else:
            settings += f"\n{section}"
    return settings


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The settings that ``sealkeeper init`` writes."""
    import asyncio

    folder = tmp_path_factory.mktemp("house") / "gw"
    asyncio.run(House.make(folder))
    return (folder / "sealkeeper.toml").read_text().replace(DOMAIN, "gateway.example.com")


def loaded(made: str, block: str, folder: Path) -> Settings:
    path = folder / "sealkeeper.toml"
    path.write_text(put_in(made, block))
    return load_settings(path)


def issuer_of(page: str, made: str, folder: Path) -> IssuerSettings:
    """The issuer of a page's first block of settings."""
    block = next(one for one in blocks(DOCS / page, "toml") if one.startswith(GATEWAY))
    (issuer,) = loaded(made, block, folder).issuers.values()
    return issuer


def caller(issuer: IssuerSettings, kind: str, **changes: Any) -> Principal:
    claims = {**claims_of(kind), **changes}
    rule = rule_of(issuer.principals, claims)
    attributes = attributes_of(issuer.kind, claims, issuer.protected_refs)
    subject = f"{issuer.issuer}#{claims['sub']}"
    return Principal(rule.tenant, subject, rule.role, None, Method.TOKEN, "", issuer.issuer, attributes)


def decided(principal: Principal, labels: dict[str, str], *policies: str) -> Decision:
    policy = compile_policy("\n".join((default_policy(), *policies)))
    return policy.decide(Question(principal, Action.SIGN, KEY, "192.0.2.1", NOW, Facts(labels)), "1")


def label_of(page: str) -> dict[str, str]:
    """The labels of the key that a page has made."""
    found = re.search(r"keys create release(?: --label (\w+)=(\S+))?\n", (DOCS / page).read_text())
    assert found is not None
    return {found[1]: found[2]} if found[1] else {}


@pytest.mark.parametrize("block", marked(GATEWAY))
def test_every_block_of_gateway_settings_loads(made: str, tmp_path: Path, block: str) -> None:
    settings = loaded(made, block, tmp_path)
    assert settings.issuers or settings.trust_domains


@pytest.mark.parametrize("block", marked(CLIENT))
def test_every_block_of_client_settings_loads(tmp_path: Path, block: str) -> None:
    path = tmp_path / "client.toml"
    path.write_text(block)
    (tmp_path / "token").write_text("a.b.c")
    token = {} if "\ncertificate = " in block else {"SEALKEEPER_TOKEN_FILE": str(tmp_path / "token")}
    connection = Connection.load(path, environment={"HOME": str(tmp_path), **token}, root=tmp_path)
    assert connection.endpoint.startswith("gateway.example.com:")


def test_no_block_of_settings_is_left_out() -> None:
    every = [text for page in PAGES for text in blocks(page, "toml")]
    assert all(text.startswith((GATEWAY, CLIENT)) for text in every)
    assert len(every) == len(marked(GATEWAY)) + len(marked(CLIENT)) > 10
    assert len(PAGES) == 8


@pytest.mark.parametrize("text", [pytest.param(text, id=page.stem) for page in PAGES for text in blocks(page, "yaml")])
def test_every_pipeline_parses(text: str) -> None:
    documents = list(yaml.safe_load_all(text))
    assert all(isinstance(one, dict) for one in documents)


@pytest.mark.parametrize("text", [pytest.param(text, id=page.stem) for page in PAGES for text in blocks(page, "cedar")])
def test_every_policy_can_be_added_to_the_one_that_tenants_begin_with(text: str) -> None:
    assert compile_policy(f"{default_policy()}\n{text}").names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^):]+)\)", page.read_text())
    assert all((page.parent / link).exists() for link in links)


@pytest.mark.parametrize(
    ("page", "kind", "changes", "policy"),
    [
        ("github-actions.md", "github", {}, ALLOWED),
        ("github-actions.md", "github", {"ref": "refs/tags/v1", "ref_protected": "false"}, ALLOWED),
        ("github-actions.md", "github", {"ref": "refs/heads/x", "ref_protected": "false"}, NO_POLICY),
        ("github-actions.md", "github", {"repository": "acme-org/other"}, NO_POLICY),
        ("github-actions.md", "github", {"event_name": "pull_request"}, PULL_REQUEST),
        ("github-actions.md", "github", {"event_name": "pull_request_target"}, PULL_REQUEST),
        ("github-actions.md", "github", {"event_name": "workflow_run"}, ALLOWED),
        ("gitlab-ci.md", "gitlab", {}, ALLOWED),
        ("gitlab-ci.md", "gitlab", {"ref_protected": "false"}, NO_POLICY),
        ("gitlab-ci.md", "gitlab", {"pipeline_source": "merge_request_event"}, PULL_REQUEST),
        ("buildkite.md", "buildkite", {}, ALLOWED),
        ("buildkite.md", "buildkite", {"build_branch": "x"}, NO_POLICY),
        ("buildkite.md", "buildkite", {"pipeline_slug": "other"}, NO_POLICY),
        ("circleci.md", "circleci", {}, ALLOWED),
        ("circleci.md", "circleci", {"oidc.circleci.com/vcs-ref": "refs/heads/x"}, NO_POLICY),
        ("circleci.md", "circleci", {"oidc.circleci.com/ssh-rerun": True}, ALLOWED),
        ("kubernetes.md", "kubernetes", {}, NO_POLICY),
    ],
)
def test_the_first_policy_decides_as_the_page_says(
    made: str, tmp_path: Path, page: str, kind: str, changes: dict[str, Any], policy: str
) -> None:
    decision = decided(caller(issuer_of(page, made, tmp_path), kind, **changes), label_of(page))
    assert (decision.allowed, decision.policy) == (policy == ALLOWED, policy)


@pytest.mark.parametrize(
    ("page", "kind", "changes", "allowed"),
    [
        ("github-actions.md", "github", {}, True),
        ("github-actions.md", "github", {"event_name": "workflow_run"}, False),
        ("github-actions.md", "github", {"runner_environment": "self-hosted"}, False),
        ("buildkite.md", "buildkite", {}, True),
        ("buildkite.md", "buildkite", {"build_source": "ui"}, False),
        ("circleci.md", "circleci", {}, True),
        ("circleci.md", "circleci", {"oidc.circleci.com/ssh-rerun": True}, False),
        ("kubernetes.md", "kubernetes", {}, True),
        ("kubernetes.md", "kubernetes", {"kubernetes.io": {"namespace": "other"}}, False),
    ],
)
def test_the_policies_of_a_page_decide_as_it_says(
    made: str, tmp_path: Path, page: str, kind: str, changes: dict[str, Any], allowed: bool
) -> None:
    principal = caller(issuer_of(page, made, tmp_path), kind, **changes)
    assert decided(principal, label_of(page), *blocks(DOCS / page, "cedar")).allowed is allowed


def test_workloads_with_a_certificate_sign_with_keys_of_no_repository() -> None:
    subject = "spiffe://prod.example.org/ns/build/sa/signer"
    principal = Principal(
        "acme", subject, Role.CI, issuer="prod.example.org", attributes=(("service_account", "signer"),)
    )
    assert decided(principal, label_of("spiffe.md")).policy == "ci-with-a-certificate-may-sign"
    assert not decided(principal, {"repository": "acme-org/app"}).allowed
    (own,) = blocks(DOCS / "spiffe.md", "cedar")
    assert "signer-may-sign-releases" in decided(principal, {"repository": "acme-org/app"}, own).policy


def test_the_rule_for_a_reusable_workflow_fits_it_alone(made: str, tmp_path: Path) -> None:
    block = next(one for one in blocks(DOCS / "github-actions.md", "toml") if "job_workflow_ref" in one)
    (issuer,) = loaded(made, block, tmp_path).issuers.values()
    workflow = "acme-org/ci/.github/workflows/sign.yml@refs/heads/main"
    assert caller(issuer, "github", job_workflow_ref=workflow).role == Role.CI
    with pytest.raises(Exception, match="no rule"):
        caller(issuer, "github")


def test_a_person_is_found_by_the_rule_of_the_page(made: str, tmp_path: Path) -> None:
    rule = rule_of(issuer_of("people.md", made, tmp_path).principals, claims_of("person"))
    assert (rule.role, rule.person) == (Role.CUSTODIAN, "{email}")
