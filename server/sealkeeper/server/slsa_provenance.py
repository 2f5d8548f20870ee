"""SLSA Provenance v1 (https://slsa.dev/spec/v1.1/provenance) that a build cannot forge.

Who built, from which repository, ref and commit, by which workflow, in which run and why is written here from the
caller's verified token. What the build says of itself goes into external parameters, dependencies and by-products;
where it says something else of the same things than the token, it is refused.

Each kind of CI system has its own layout, so that verifiers which know its own provenance read ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from sealkeeper.server.errors import FailedPreconditionError, InvalidRequestError
from sealkeeper.server.identity import Method, Principal
from sealkeeper.server.identity_settings import IssuerKind, IssuerSettings

FIELD = "slsa_provenance"
_EXTERNAL = f"{FIELD}.external_parameters"
_DEPENDENCIES = f"{FIELD}.resolved_dependencies"
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_MAX_PATH = 200
_DIGESTS = ("gitCommit", "sha1")
_PURL_HOSTS = {"github": "github.com", "gitlab": "gitlab.com", "bitbucket": "bitbucket.org"}
_SCP = re.compile(r"(?:[\w.-]+@)?([\w.-]+):(?!//)(.+)", re.ASCII)
# Of what else verifiers take for the source; what stands there must be what the token says.
_REPOSITORY_NAMES, _REF_NAMES, _COMMIT_NAMES = ("repository", "source"), ("ref",), ("sha", "commit", "revision")
_MISMATCH = "leave it out: the gateway writes it from the token; or build from what it says"


@dataclass(frozen=True, slots=True)
class BuildPlatform:
    """A CI system, as provenance names it.

    Attributes:
        issuer: of its tokens.
        kind: whose claims they have.
        source_url: of which repositories' names are parts; empty where they are URLs or host names themselves.
        builder_id: of all its builds; empty for what its kind has.
    """

    issuer: str
    kind: IssuerKind
    source_url: str = ""
    builder_id: str = ""

    @classmethod
    def of(cls, settings: IssuerSettings) -> BuildPlatform:
        """The one of an issuer, by its settings."""
        url = settings.source_url or _source_url(settings.kind, settings.issuer)
        return cls(settings.issuer, settings.kind, url.rstrip("/"), settings.builder_id or "")


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build says of itself.

    Attributes:
        external_parameters: any JSON object.
        resolved_dependencies: ResourceDescriptors.
    """

    external_parameters: Mapping[str, Any] = field(default_factory=dict)
    resolved_dependencies: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class _Build:
    """What the token says, laid out for its kind.

    Attributes:
        repository: URL of the source.
        dependency: URI of the source with its revision.
        ref: Git ref; may be empty.
        commit: hexadecimal.
        build_type: URI.
        parameters: members of the external parameters that are the gateway's.
        internal: parameters that the CI system chose.
        builder_id: URI.
        invocation: URI of the run.
    """

    repository: str
    dependency: str
    ref: str
    commit: str
    build_type: str
    parameters: Mapping[str, Any]
    internal: Mapping[str, Any]
    builder_id: str
    invocation: str

    @property
    def names(self) -> tuple[str, str]:
        """The repository as ``_repository_key`` has it, with its host and without."""
        key = _repository_key(self.repository)
        return key, key.partition("/")[2]

    @property
    def refs(self) -> tuple[str, ...]:
        """The ref in full and in short; none where there is none."""
        return (self.ref, re.sub("^refs/(heads|tags)/", "", self.ref)) if self.ref else ()


def provenance_of(principal: Principal, platforms: Mapping[str, BuildPlatform], report: BuildReport) -> bytes:
    """The predicate, JSON: the same for the same caller and report.

    Args:
        principal: the caller.
        platforms: by issuer.
        report: of the build.

    Raises:
        FailedPreconditionError: with the reason IDENTITY_UNSUITABLE: the caller's proof of identity names no build.
        InvalidRequestError: with the reason PROVENANCE_MISMATCH: the report contradicts the token.
    """
    build = _build(principal, platforms)
    source = {"uri": build.dependency, "digest": {"gitCommit": build.commit}}
    predicate = {
        "buildDefinition": {
            "buildType": build.build_type,
            "externalParameters": _external_parameters(build, report.external_parameters),
            "internalParameters": build.internal,
            "resolvedDependencies": [source, *_dependencies(build, report.resolved_dependencies)],
        },
        "runDetails": {"builder": {"id": build.builder_id}, "metadata": {"invocationId": build.invocation}},
    }
    return json.dumps(predicate, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def _build(principal: Principal, platforms: Mapping[str, BuildPlatform]) -> _Build:
    platform = platforms.get(principal.issuer) if principal.method is Method.TOKEN else None
    if platform is None:
        raise _unsuitable("the caller has no token of a CI system")
    for name in ("repository", "sha", "run"):
        if not principal.attribute(name):
            raise _unsuitable(f"the caller's token does not say its {name}")
    commit = principal.attribute("sha").lower()
    if not _COMMIT.fullmatch(commit):
        raise _unsuitable("the caller's token has a sha that is no Git commit")
    return _LAYOUTS[platform.kind](principal, platform, commit)


# Layouts.


def _github(caller: Principal, platform: BuildPlatform, commit: str) -> _Build:
    """As GitHub's own attestations of builds: https://actions.github.io/buildtypes/workflow/v1."""
    url, repository, ref = platform.source_url, _path(caller.attribute("repository")), caller.attribute("ref")
    hosted = caller.attribute("runner") == "github-hosted"
    internal = {
        "event_name": caller.attribute("event"),
        "repository_id": caller.attribute("project"),
        "runner_environment": caller.attribute("runner"),
    }
    return _Build(
        f"{url}/{repository}",
        f"git+{url}/{repository}{_revision(ref)}",
        ref,
        commit,
        "https://actions.github.io/buildtypes/workflow/v1",
        {"workflow": _workflow(caller, url)},
        {"github": _filled(internal)},
        platform.builder_id or f"{url}/actions/runner/{'github-hosted' if hosted else 'self-hosted'}",
        f"{url}/{repository}/actions/runs/{_path(caller.attribute('run'))}",
    )


def _gitlab(caller: Principal, platform: BuildPlatform, commit: str) -> _Build:
    """As GitLab documents its provenance: https://docs.gitlab.com/ci/pipeline_security/slsa/provenance_v1."""
    url, project, ref = platform.source_url, _path(caller.attribute("repository")), caller.attribute("ref")
    hosted = caller.attribute("runner") == "gitlab-hosted"
    host, repository = url.partition("://")[2], f"{url}/{project}"
    # host/project//path@ref
    configured = caller.attribute("workflow").removeprefix(f"{host}/")
    internal = {
        "pipeline_source": caller.attribute("event"),
        "project_id": caller.attribute("project"),
        "runner_environment": caller.attribute("runner"),
    }
    where, _, workflow_ref = configured.partition("@")
    workflow_project, _, path = where.partition("//")
    workflow = {"ref": workflow_ref, "repository": f"{url}/{_path(workflow_project)}", "path": path}
    return _Build(
        repository,
        f"git+{repository}{_revision(ref)}",
        ref,
        commit,
        "https://docs.gitlab.com/ci/pipeline_security/slsa/provenance_v1",
        {"source": repository, **({"workflow": _filled(workflow)} if configured else {})},
        {"gitlab": _filled(internal)},
        platform.builder_id or f"{url}/-/runners/{'gitlab-hosted' if hosted else 'self-hosted'}",
        f"{repository}/-/pipelines/{_path(caller.attribute('run'))}",
    )


def _buildkite(caller: Principal, platform: BuildPlatform, commit: str) -> _Build:
    """Buildkite's tokens name the pipeline and no repository, so the pipeline stands for the source."""
    url, pipeline, ref = platform.source_url, _path(caller.attribute("repository")), caller.attribute("ref")
    hosted = caller.attribute("runner") == "buildkite-hosted"
    internal = {
        "build_source": caller.attribute("event"),
        "pipeline_id": caller.attribute("project"),
        "runner_environment": caller.attribute("runner"),
    }
    workflow = {"ref": ref, "repository": f"{url}/{pipeline}", "path": caller.attribute("workflow")}
    return _Build(
        f"{url}/{pipeline}",
        f"{url}/{pipeline}{_revision(ref)}",
        ref,
        commit,
        "https://sealkeeper.dev/build-types/buildkite/v1",
        {"workflow": _filled(workflow)},
        {"buildkite": _filled(internal)},
        platform.builder_id or f"{url}/runners/{'buildkite-hosted' if hosted else 'self-hosted'}",
        f"{url}/{pipeline}/builds/{_path(caller.attribute('run'))}",
    )


def _other(caller: Principal, platform: BuildPlatform, commit: str) -> _Build:
    """Of an issuer whose claims are named like the attributes, or that says all the same."""
    repository, ref = _repository_url(caller.attribute("repository"), platform), caller.attribute("ref")
    internal = {
        "event": caller.attribute("event"),
        "project": caller.attribute("project"),
        "runner": caller.attribute("runner"),
    }
    workflow = {"ref": ref, "repository": repository, "path": caller.attribute("workflow")}
    return _Build(
        repository,
        f"git+{repository}{_revision(ref)}",
        ref,
        commit,
        "https://sealkeeper.dev/build-types/token/v1",
        {"workflow": _filled(workflow)},
        {"token": _filled(internal)},
        platform.builder_id or platform.issuer,
        f"{repository}#run={_path(caller.attribute('run'))}",
    )


_LAYOUTS: Mapping[IssuerKind, Callable[[Principal, BuildPlatform, str], _Build]] = {
    "github": _github,
    "gitlab": _gitlab,
    "buildkite": _buildkite,
    "circleci": _other,
    "kubernetes": _other,
    "generic": _other,
}


def _source_url(kind: IssuerKind, issuer: str) -> str:
    """Where the repositories of an issuer's callers are, as far as its name tells."""
    parts = urlsplit(issuer)
    if kind == "github":
        if parts.hostname == "token.actions.githubusercontent.com":
            return "https://github.com"
        # Of GitHub with data residency; what else there is are servers of one's own, https://HOST/_services/token.
        host = parts.netloc.removeprefix("token.actions.") if parts.netloc.endswith(".ghe.com") else parts.netloc
        return f"{parts.scheme}://{host}"
    if kind == "gitlab":
        return issuer
    if kind == "buildkite":
        return (
            "https://buildkite.com" if parts.hostname == "agent.buildkite.com" else f"{parts.scheme}://{parts.netloc}"
        )
    return ""


def _repository_url(name: str, platform: BuildPlatform) -> str:
    scheme, separator, rest = name.partition("://")
    if separator and scheme == "https":
        return f"https://{_path(rest)}"
    if platform.kind == "circleci" and not platform.source_url:
        return f"https://{_path(name)}"
    if separator or not platform.source_url:
        raise _unsuitable(
            "the caller's token names a repository that is no https:// URL",
            next_step="have issuers.*.source_url set: the URL of which repositories' names are parts",
        )
    return f"{platform.source_url}/{_path(name)}"


def _workflow(caller: Principal, url: str) -> dict[str, str]:
    """Of ``OWNER/REPOSITORY/PATH@REF``."""
    where, _, ref = caller.attribute("workflow").partition("@")
    owner, _, rest = where.partition("/")
    repository, _, path = rest.partition("/")
    named = f"{owner}/{repository}" if path else caller.attribute("repository")
    return _filled({"ref": ref, "repository": f"{url}/{_path(named)}", "path": path or where})


def _path(name: str) -> str:
    return quote(name, safe="/-._~")


def _revision(ref: str) -> str:
    return f"@{quote(ref, safe='/-._~@+')}" if ref else ""


def _filled(members: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in members.items() if value}


# What the build says, held against what the token says.


def _external_parameters(build: _Build, said: Mapping[str, Any]) -> dict[str, Any]:
    own = {name.lower(): name for name in build.parameters}
    for name, value in said.items():
        path = f"{_EXTERNAL}.{name}"[:_MAX_PATH]
        if name in build.parameters:
            _require_same(path, value, build.parameters[name])
        elif name.lower() in own:
            # Some parsers of JSON do not tell names apart by case.
            raise _mismatch(path)
        else:
            _require_source(build, name.lower(), value, path)
    return {**{name: value for name, value in said.items() if name not in build.parameters}, **build.parameters}


def _require_same(path: str, said: Any, written: Any) -> None:
    """Refuse what is not the same, or not a part of the same."""
    if isinstance(said, Mapping) and isinstance(written, Mapping):
        for name, value in said.items():
            _require_same(f"{path}.{name}"[:_MAX_PATH], value, written.get(name))
    elif said != written or type(said) is not type(written):
        raise _mismatch(path)


def _require_source(build: _Build, name: str, value: Any, path: str) -> None:
    """Refuse another source under a name that is commonly one's."""
    if name in _REPOSITORY_NAMES:
        uri = value.get("uri") if isinstance(value, Mapping) else value
        if _repository_key(uri) not in build.names:
            raise _mismatch(path)
        _require_revision(build, value if isinstance(value, Mapping) else {"uri": value}, path)
    elif (name in _REF_NAMES and value not in build.refs) or (name in _COMMIT_NAMES and value != build.commit):
        raise _mismatch(path)


def _dependencies(build: _Build, said: Sequence[Any]) -> list[Any]:
    """What else was used: what names the source again says nothing new."""
    others = []
    for place, one in enumerate(said):
        # What is no descriptor is found when the predicate is checked.
        if isinstance(one, Mapping) and _repository_key(one.get("uri")) in build.names:
            _require_revision(build, one, f"{_DEPENDENCIES}[{place}]")
        else:
            others.append(one)
    return others


def _require_revision(build: _Build, descriptor: Mapping[str, Any], path: str) -> None:
    """Refuse another revision of the source than the one that was built."""
    digest = descriptor.get("digest") or {}
    if not isinstance(digest, Mapping) or any(digest.get(one, build.commit) != build.commit for one in _DIGESTS):
        raise _mismatch(f"{path}.digest")
    if _revision_in(descriptor["uri"]) not in ("", build.commit, *build.refs):
        raise _mismatch(f"{path}.uri")


def _repository_key(uri: object) -> str:
    """A repository's host and path as one text for all of its spellings; empty where it is none."""
    if not isinstance(uri, str):
        return ""
    text = unquote(uri).strip().removeprefix("git+")
    kind, _, path = text.removeprefix("pkg:").partition("/")
    if text.startswith("pkg:") and kind.lower() in _PURL_HOSTS:
        return _key(_PURL_HOSTS[kind.lower()], path)
    scp = _SCP.fullmatch(text)
    if scp is not None:
        return _key(scp[1], scp[2])
    host, _, path = text.rpartition("://")[2].partition("/")
    # Userinfo and port say nothing of which repository it is.
    return _key(host.rpartition("@")[2].partition(":")[0], path)


def _key(host: str, path: str) -> str:
    path = re.split(r"[@#?]", path, maxsplit=1)[0]
    return f"{host}/{path.strip('/').removesuffix('.git').strip('/')}".lower()


def _revision_in(uri: str) -> str:
    """What stands behind the ``@`` of ``git+https://host/path@revision``."""
    path = unquote(uri).rpartition("://")[2].partition("/")[2]
    return re.split(r"[#?]", path.partition("@")[2], maxsplit=1)[0]


def _mismatch(path: str) -> InvalidRequestError:
    return InvalidRequestError.of(
        path, "is not what the caller's token says of the build", reason="PROVENANCE_MISMATCH", next_step=_MISMATCH
    )


def _unsuitable(what: str, next_step: str = "") -> FailedPreconditionError:
    return FailedPreconditionError(
        f"{what}: provenance is written from it",
        reason="IDENTITY_UNSUITABLE",
        next_step=next_step or "attest in a CI job with the token of GitHub Actions, GitLab CI or Buildkite",
    )
