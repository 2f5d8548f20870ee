"""Which source a build was of, as its SLSA provenance has it (https://slsa.dev/spec/v1.0/provenance).

The first resolved dependency that is a git repository is the source; what build types say in their external parameters
(GitHub's ``workflow``, GitLab's ``source``) must be the same repository and ref.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sealkeeper.verify.errors import VerifyError
from sealkeeper.verify.gate.patterns import repository_of
from sealkeeper.verify.predicates import Provenance

_HOSTED = "self-hosted"


@dataclass(frozen=True, slots=True)
class BuildSource:
    """Where a build's source is.

    Attributes:
        repository: as ``repository_of`` spells it; empty where the provenance does not say.
        ref: full name of the git ref; empty likewise.
        commit: hexadecimal; empty likewise.
    """

    repository: str = ""
    ref: str = ""
    commit: str = ""


def build_source(provenance: Provenance) -> BuildSource:
    """The source.

    Raises:
        VerifyError: places that must agree do not, or a repository is none.
    """
    found = BuildSource()
    for one in provenance.resolved_dependencies:
        if one.uri.startswith("git+"):
            found = BuildSource(
                _repository(one.uri), _ref_in(one.uri), one.digests.get("gitCommit", one.digests.get("sha1", ""))
            )
            break
    for repository, ref in _said(provenance.external_parameters):
        known = _repository(repository) if repository else ""
        if known and found.repository and known != found.repository:
            raise VerifyError(f"the provenance names two repositories as its source, {found.repository} and {known}")
        if ref and found.ref and ref != found.ref:
            raise VerifyError(f"the provenance names two refs as its source, {found.ref[:200]} and {ref[:200]}")
        found = BuildSource(found.repository or known, found.ref or ref, found.commit)
    return found


def _said(parameters: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    workflow = parameters.get("workflow")
    if isinstance(workflow, Mapping):
        yield _text(workflow, "repository"), _text(workflow, "ref")
    source = parameters.get("source")
    if isinstance(source, str):
        yield source, ""
    elif isinstance(source, Mapping):
        yield _text(source, "uri") or _text(source, "repository"), _text(source, "ref")


def _text(found: Mapping[str, Any], name: str) -> str:
    value = found.get(name, "")
    return value if isinstance(value, str) else ""


def _repository(uri: str) -> str:
    try:
        return repository_of(uri)
    except ValueError as error:
        raise VerifyError(str(error)) from None


def _ref_in(uri: str) -> str:
    # From the first one on, as the repository ends there: refs may have more, and whoever names a branch chooses them.
    ref = uri.partition("@")[2]
    return ref if ref.startswith("refs/") else ""


def self_hosted(provenance: Provenance, claims: Mapping[str, str]) -> bool:
    """Whether the build ran on a machine of the repository's owner rather than of the CI system's, as anything says."""
    github = provenance.internal_parameters.get("github")
    said = _text(github, "runner_environment") if isinstance(github, Mapping) else ""
    places = (provenance.builder_id.rsplit("/", 1)[-1], said, claims.get("runner_environment", ""))
    return _HOSTED in places
