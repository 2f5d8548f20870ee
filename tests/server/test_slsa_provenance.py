"""Provenance says of the build what the token says, in the layout of each CI system, whatever the build says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.server.errors import FailedPreconditionError, InvalidRequestError
from sealkeeper.server.identity import Method, Principal, Role
from sealkeeper.server.identity_settings import IssuerKind, IssuerSettings
from sealkeeper.server.slsa_provenance import BuildPlatform, BuildReport, provenance_of
from sealkeeper.server.token_claims import attributes_of
from sealkeeper.verify.predicates import Provenance, read_predicate
from tests.oidc_issuer import SHA, claims_of

PROVENANCE = "https://slsa.dev/provenance/v1"
GITHUB, GITLAB = "https://token.actions.githubusercontent.com", "https://gitlab.com"
BUILDKITE, CIRCLECI = "https://agent.buildkite.com", "https://oidc.circleci.com/org/c9035eb6"
RULE: Any = {"claims": {"sub": "*"}, "tenant": "acme", "role": "ci"}


def platform(kind: IssuerKind, issuer: str, **settings: Any) -> BuildPlatform:
    return BuildPlatform.of(IssuerSettings(issuer=issuer, kind=kind, principals=[RULE], **settings))


def caller(kind: IssuerKind, issuer: str, **changes: str) -> Principal:
    attributes = {**dict(attributes_of(kind, claims_of(kind), [])), **changes}
    filled = tuple(sorted((name, value) for name, value in attributes.items() if value))
    return Principal("acme", f"{issuer}#x", Role.CI, method=Method.TOKEN, issuer=issuer, attributes=filled)


def made(
    kind: IssuerKind,
    issuer: str,
    report: BuildReport | None = None,
    settings: dict[str, Any] | None = None,
    **changes: str,
) -> dict[str, Any]:
    known = platform(kind, issuer, **(settings or {}))
    predicate = provenance_of(caller(kind, issuer, **changes), {issuer: known}, report or BuildReport())
    found: dict[str, Any] = json.loads(predicate)
    return found


@pytest.mark.parametrize(
    ("kind", "issuer", "url"),
    [
        ("github", GITHUB, "https://github.com"),
        ("github", f"{GITHUB}/acme-enterprise", "https://github.com"),
        ("github", "https://token.actions.acme.ghe.com", "https://acme.ghe.com"),
        ("github", "https://git.example.org/_services/token", "https://git.example.org"),
        ("gitlab", GITLAB, "https://gitlab.com"),
        ("gitlab", "https://example.org/gitlab", "https://example.org/gitlab"),
        ("buildkite", BUILDKITE, "https://buildkite.com"),
        ("generic", "https://login.example.org", ""),
        ("circleci", CIRCLECI, ""),
    ],
)
def test_repositories_are_where_the_issuer_is(kind: IssuerKind, issuer: str, url: str) -> None:
    assert platform(kind, issuer).source_url == url


def test_the_settings_say_where_repositories_are_and_what_the_builder_is_called() -> None:
    settings = {"source_url": "https://git.example.org/", "builder_id": "https://example.org/builders/ci"}
    found = made("github", GITHUB, settings=settings)
    source = found["buildDefinition"]["resolvedDependencies"][0]
    assert source["uri"] == "git+https://git.example.org/acme-org/app@refs/heads/main"
    assert found["runDetails"]["builder"]["id"] == "https://example.org/builders/ci"


@pytest.mark.parametrize(
    ("kind", "issuer", "changes", "builder", "source", "invocation"),
    [
        (
            "github",
            GITHUB,
            {},
            "https://github.com/actions/runner/github-hosted",
            "git+https://github.com/acme-org/app@refs/heads/main",
            "https://github.com/acme-org/app/actions/runs/22259804324",
        ),
        (
            "github",
            GITHUB,
            {"runner": "self-hosted"},
            "https://github.com/actions/runner/self-hosted",
            "git+https://github.com/acme-org/app@refs/heads/main",
            "https://github.com/acme-org/app/actions/runs/22259804324",
        ),
        (
            "gitlab",
            GITLAB,
            {"runner": "gitlab-hosted", "run": "7"},
            "https://gitlab.com/-/runners/gitlab-hosted",
            "git+https://gitlab.com/acme-group/app@refs/heads/main",
            "https://gitlab.com/acme-group/app/-/pipelines/7",
        ),
        (
            "buildkite",
            BUILDKITE,
            {},
            "https://buildkite.com/runners/buildkite-hosted",
            "https://buildkite.com/acme-inc/app@refs/heads/main",
            "https://buildkite.com/acme-inc/app/builds/5",
        ),
        (
            "circleci",
            CIRCLECI,
            {"sha": SHA, "run": "r"},
            CIRCLECI,
            "git+https://github.com/acme-org/app@refs/heads/main",
            "https://github.com/acme-org/app#run=r",
        ),
    ],
)
def test_each_ci_system_has_its_builder_source_and_run(
    kind: IssuerKind, issuer: str, changes: dict[str, Any], builder: str, source: str, invocation: str
) -> None:
    found = read_predicate(PROVENANCE, made(kind, issuer, **changes))
    assert isinstance(found, Provenance)
    assert (found.builder_id, found.invocation_id) == (builder, invocation)
    assert (found.resolved_dependencies[0].uri, found.resolved_dependencies[0].digests) == (source, {"gitCommit": SHA})


def test_a_runner_of_which_nothing_is_said_counts_as_self_hosted() -> None:
    assert made("github", GITHUB, runner="")["runDetails"]["builder"]["id"].endswith("/self-hosted")


def test_a_gitlab_pipeline_names_its_own_file_where_that_is_in_another_project() -> None:
    workflow = "gitlab.com/acme-group/pipelines//ci/build.yml@refs/heads/stable"
    found = made("gitlab", GITLAB, workflow=workflow)["buildDefinition"]["externalParameters"]
    assert found["workflow"] == {
        "ref": "refs/heads/stable",
        "repository": "https://gitlab.com/acme-group/pipelines",
        "path": "ci/build.yml",
    }


def test_what_an_issuer_calls_the_repository_must_be_a_url_or_part_of_one() -> None:
    issuer, attributes = "https://login.example.org", {"sha": SHA, "run": "1"}

    def source(repository: str, **settings: str) -> str:
        known = platform("generic", issuer, **settings)
        attributed = tuple(sorted({**attributes, "repository": repository}.items()))
        who = Principal("acme", "x", Role.CI, method=Method.TOKEN, issuer=issuer, attributes=attributed)
        document = json.loads(provenance_of(who, {issuer: known}, BuildReport()))
        return str(document["buildDefinition"]["resolvedDependencies"][0]["uri"])

    assert source("https://git.example.org/app") == "git+https://git.example.org/app"
    assert source("app", source_url="https://git.example.org") == "git+https://git.example.org/app"
    for repository in ("app", "http://git.example.org/app", "file:///app"):
        with pytest.raises(FailedPreconditionError) as caught:
            source(repository)
        assert (caught.value.reason, "source_url" in caught.value.next_step) == ("IDENTITY_UNSUITABLE", True)


@pytest.mark.parametrize("name", ["repository", "sha", "run"])
def test_a_caller_that_is_not_known_to_build_something_gets_none(name: str) -> None:
    changes: dict[str, Any] = {name: ""}
    with pytest.raises(FailedPreconditionError) as caught:
        made("github", GITHUB, **changes)
    assert caught.value.reason == "IDENTITY_UNSUITABLE"


def test_neither_a_certificate_nor_an_unknown_issuer_nor_a_sha_that_is_none_is_enough() -> None:
    good = caller("github", GITHUB)
    platforms = {GITHUB: platform("github", GITHUB)}
    by_certificate = Principal("acme", "x", Role.CI, issuer=GITHUB, attributes=good.attributes)
    for who, known in (
        (by_certificate, platforms),
        (good, {}),
        (caller("github", GITHUB, sha="main"), platforms),
        (caller("kubernetes", GITHUB), {GITHUB: platform("kubernetes", GITHUB)}),
    ):
        with pytest.raises(FailedPreconditionError) as caught:
            provenance_of(who, known, BuildReport())
        assert caught.value.reason == "IDENTITY_UNSUITABLE"


def test_the_same_call_makes_the_same_provenance() -> None:
    assert made("github", GITHUB) == made("github", GITHUB)


def test_names_of_any_characters_are_uris() -> None:
    found = read_predicate(PROVENANCE, made("github", GITHUB, ref="refs/heads/ä b", repository="acme-org/a@b#c"))
    assert isinstance(found, Provenance)
    assert found.resolved_dependencies[0].uri == "git+https://github.com/acme-org/a%40b%23c@refs/heads/%C3%A4%20b"


ELSEWHERE = (
    "git+https://github.com/acme-org/app@refs/heads/other",
    "https://github.com/acme-org/app.git@other",
    "ssh://git@github.com/acme-org/app@v1",
    "git+ssh://git@github.com:22/Acme-Org/App.git@v1",
    "pkg:github/acme-org/app@v1",
    "https://github.com/acme%2Dorg/app@v1",
)


@pytest.mark.parametrize("uri", ELSEWHERE)
def test_another_revision_of_the_source_is_refused_however_it_is_written(uri: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        made("github", GITHUB, BuildReport(resolved_dependencies=[{"uri": uri}]))
    assert caught.value.reason == "PROVENANCE_MISMATCH"


@pytest.mark.parametrize(
    "uri", ["git@github.com:acme-org/app.git", f"pkg:github/acme-org/app@{SHA}", "https://github.com/acme-org/app/"]
)
@pytest.mark.parametrize("digest", [{"gitCommit": "0" * 40}, {"sha1": "0" * 40}, {"gitCommit": 7}, "x"])
def test_another_commit_of_the_source_is_refused_however_it_is_written(uri: str, digest: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        made("github", GITHUB, BuildReport(resolved_dependencies=[{"uri": uri, "digest": digest}]))
    assert caught.value.violations[0].field == "slsa_provenance.resolved_dependencies[0].digest"


def test_other_repositories_are_dependencies_like_others() -> None:
    others = [{"uri": "git+https://github.com/acme-org/app-tools@v1"}, {"uri": "pkg:pypi/app@1"}, {"name": "x"}, 7]
    found = made("github", GITHUB, BuildReport(resolved_dependencies=others))
    assert found["buildDefinition"]["resolvedDependencies"][1:] == others


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)
NAMES = st.sampled_from(("workflow", "Workflow", "source", "repository", "ref", "sha", "x")) | st.text(max_size=10)


@given(
    st.dictionaries(NAMES, JSON, max_size=4),
    st.lists(JSON | st.fixed_dictionaries({"uri": st.sampled_from(ELSEWHERE)}, optional={"digest": JSON}), max_size=3),
)
def test_whatever_a_build_says_source_builder_and_workflow_are_the_tokens(
    parameters: dict[str, Any], dependencies: list[Any]
) -> None:
    honest = made("github", GITHUB)
    try:
        found = made("github", GITHUB, BuildReport(parameters, dependencies))
    except InvalidRequestError:
        return
    assert found["runDetails"] == honest["runDetails"]
    definition, wanted = found["buildDefinition"], honest["buildDefinition"]
    assert definition["externalParameters"]["workflow"] == wanted["externalParameters"]["workflow"]
    assert definition["resolvedDependencies"][0] == wanted["resolvedDependencies"][0]
    assert {name.lower() for name in definition["externalParameters"]} >= {"workflow"}
    assert "Workflow" not in definition["externalParameters"]
