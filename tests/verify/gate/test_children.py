"""Images of an index, what artifacts were built from, and what a policy revokes: nothing of it is passed over."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Any

import pytest

from sealkeeper.verify.errors import EvidenceError
from sealkeeper.verify.gate.decision import Artifact, Outcome
from sealkeeper.verify.gate.evaluate import MAX_CHILDREN, MAX_DEPENDENCIES, MAX_LISTED
from sealkeeper.verify.gate.evidence import FoundBundle
from tests.verify.gate.signed_statements import (
    APP,
    BUILT,
    DIGEST,
    SUBJECT,
    by_identity,
    by_key,
    codes,
    decided,
    provenance,
    told,
)


def subject(number: int) -> dict[str, Any]:
    return {"name": f"{number}", "digest": {"sha256": f"{number:064x}"}}


def image(number: int, *children: Artifact) -> Artifact:
    return Artifact(f"app/{number}", subject(number)["digest"], children)


def index(*children: Artifact) -> Artifact:
    return Artifact(APP.name, APP.digests, children)


def by_digest(**found: Iterable[bytes]) -> Callable[[Artifact], list[FoundBundle]]:
    """Gathers by the end of the digest; ``app`` for the artifact itself."""

    def gather(artifact: Artifact) -> list[FoundBundle]:
        name = "app" if artifact.digests.get("sha256") == DIGEST else f"n{int(artifact.digest[-8:], 16)}"
        return [FoundBundle(one, "store") for one in found.get(name, ())]

    return gather


# Images.


def test_each_image_needs_its_own_or_one_statement_names_them_all() -> None:
    both = index(image(1), image(2))
    shared = by_key(provenance(SUBJECT, subject(1), subject(2)))
    assert decided(BUILT, [], both, gather=by_digest(app=[shared])).outcome is Outcome.ALLOW
    own = {"app": [by_key(provenance())], "n1": [by_key(provenance(subject(1)))]}
    assert codes(decided(BUILT, [], both, gather=by_digest(**own))) == {"PROVENANCE_MISSING"}
    own["n2"] = [by_key(provenance(subject(2)))]
    assert decided(BUILT, [], both, gather=by_digest(**own)).outcome is Outcome.ALLOW
    assert decided(f"{BUILT}  children: index\n", [own["app"][0]], both).outcome is Outcome.ALLOW


def test_the_lowest_level_of_all_images_is_that_of_the_index() -> None:
    found = by_digest(app=[by_key(provenance())], n1=[by_identity(provenance(subject(1)))])
    decision = decided(BUILT, [], index(image(1)), gather=found)
    assert (decision.outcome, decision.verdict.level) == (Outcome.ALLOW, 2)


def test_an_image_of_an_index_in_an_index_is_looked_at() -> None:
    found = by_digest(app=[by_key(provenance(SUBJECT, subject(1)))])
    decision = decided(BUILT, [], index(image(1, image(2))), gather=found)
    assert codes(decision) == {"PROVENANCE_MISSING"}


@pytest.mark.parametrize(("count", "code"), [(MAX_CHILDREN, None), (MAX_CHILDREN + 1, "CHILDREN_TOO_MANY")])
def test_more_images_than_can_be_looked_at_are_refused(count: int, code: str | None) -> None:
    shared = by_key(provenance(SUBJECT, *map(subject, range(count))))
    decision = decided(BUILT, [], index(*map(image, range(count))), gather=by_digest(app=[shared]))
    assert codes(decision) == ({code} if code else set())


def test_what_was_found_of_an_image_and_its_index_counts_once() -> None:
    shared = by_key(provenance(SUBJECT, subject(1)))
    decision = decided(BUILT, [shared], index(image(1)))
    assert decision.outcome is Outcome.ALLOW
    assert len(decision.verdict.attestations) == 1


def test_an_image_whose_registry_does_not_answer_is_refused() -> None:
    def gather(artifact: Artifact) -> list[FoundBundle]:
        if artifact.digests["sha256"] == DIGEST:
            return [FoundBundle(by_key(provenance(SUBJECT, subject(1))), "store")]
        raise EvidenceError("ATTESTATIONS_UNAVAILABLE", "the registry does not answer")

    assert codes(decided(BUILT, [], index(image(1)), gather=gather)) == {"ATTESTATIONS_UNAVAILABLE"}


# What is revoked.


def revoking(digest: str) -> str:
    return f'{BUILT}revoked: [{{digest: "{digest}", reason: malware}}]\n'


def test_a_revoked_artifact_is_refused_whatever_digest_it_is_asked_for_by() -> None:
    assert codes(decided(revoking(f"sha256:{DIGEST}"), [by_key(provenance())])) == {"ARTIFACT_REVOKED"}
    both = by_key(provenance({"digest": {"sha256": DIGEST, "sha512": "5" * 128}}))
    by_sha_512 = Artifact("app", {"sha512": "5" * 128})
    assert codes(decided(revoking(f"sha256:{DIGEST}"), [both], by_sha_512)) == {"ARTIFACT_REVOKED"}
    # What a stranger says of it revokes nothing.
    strange = by_identity(provenance({"digest": {"sha256": DIGEST, "sha512": "6" * 128}}), "mallory@example.com")
    assert decided(revoking("sha512:" + "6" * 128), [strange, by_key(provenance())]).outcome is Outcome.ALLOW


@pytest.mark.parametrize("mode", ["each", "index"])
def test_an_index_with_a_revoked_image_is_refused(mode: str) -> None:
    policy = revoking(f"sha256:{1:064x}").replace("require:", f"require:\n  children: {mode}")
    shared = by_key(provenance(SUBJECT, subject(1), subject(2)))
    assert codes(decided(policy, [shared], index(image(2), image(1)))) == {"ARTIFACT_REVOKED"}
    assert codes(decided(policy, [shared], index(image(2, image(1))))) == {"ARTIFACT_REVOKED"}
    assert decided(policy, [shared], index(image(2))).outcome is Outcome.ALLOW


def test_a_revoked_statement_stays_so_in_another_bundle() -> None:
    bundle = by_key(provenance())
    policy = revoking(f"sha256:{sha256(provenance()).hexdigest()}")
    for written in (bundle, bundle + b" ", json.dumps(json.loads(bundle), indent=1).encode(), by_key(provenance())):
        assert codes(decided(policy, [written])) == {"PROVENANCE_MISSING"}
    assert codes(decided(revoking(f"sha256:{sha256(bundle).hexdigest()}"), [bundle])) == {"PROVENANCE_MISSING"}
    assert decided(policy, [by_key(provenance(commit="b" * 40))]).outcome is Outcome.ALLOW


def test_a_conflict_names_the_statements_as_a_policy_can_revoke_them() -> None:
    other = provenance(repository="https://github.com/acme/other")
    found = [by_key(provenance()), by_key(other)]
    decision = decided(BUILT, found)
    digest = f"sha256:{sha256(other).hexdigest()}"
    assert codes(decision) == {"PROVENANCE_CONFLICT"}
    assert digest in told(decision)
    assert decided(revoking(digest), found).outcome is Outcome.ALLOW


# What it was built from.


def built_from(*numbers: int, of: Any = SUBJECT) -> bytes:
    return by_key(provenance(of, dependencies=[{"uri": f"pkg:x/{one}", **subject(one)} for one in numbers]))


EXCEPT: dict[str, Any] = {"except": "['pkg:deb/**']"}


def asking(depth: int = 1, **more: Any) -> str:
    rule = ", ".join(f"{name}: {one}" for name, one in {"depth": depth, **more}.items())
    return BUILT.replace("minimum_level: 2", f"minimum_level: 2, dependencies: {{{rule}}}")


def test_what_it_was_built_from_needs_provenance_as_deep_as_asked() -> None:
    found = {"app": [built_from(1)], "n1": [built_from(2, of=subject(1))]}
    assert decided(asking(1), [], gather=by_digest(**found)).outcome is Outcome.ALLOW
    assert codes(decided(asking(2), [], gather=by_digest(**found))) == {"DEPENDENCY_UNPROVEN"}
    found["n2"] = [built_from(of=subject(2))]
    assert decided(asking(5), [], gather=by_digest(**found)).outcome is Outcome.ALLOW
    assert codes(decided(asking(1), [], gather=by_digest(app=[built_from(1)]))) == {"DEPENDENCY_UNPROVEN"}


def test_dependencies_that_depend_on_one_another_end_and_are_asked_for_once() -> None:
    asked: list[str] = []
    found = {"app": [built_from(1)], "n1": [built_from(2, of=subject(1))], "n2": [built_from(1, 2, of=subject(2))]}

    def gather(artifact: Artifact) -> list[FoundBundle]:
        asked.append(artifact.digest)
        return by_digest(**found)(artifact)

    assert decided(asking(5), [], gather=gather).outcome is Outcome.ALLOW
    assert len(asked) == len(set(asked)) == 3


def test_the_order_of_what_is_found_of_a_dependency_changes_nothing() -> None:
    lax, strict = built_from(of=subject(1)), built_from(2, of=subject(1))
    outcomes = {
        decided(asking(2), [], gather=by_digest(app=[built_from(1)], n1=found)).outcome
        for found in ([lax, strict], [strict, lax])
    }
    assert len(outcomes) == 1


@pytest.mark.parametrize(("count", "code"), [(MAX_DEPENDENCIES, None), (MAX_DEPENDENCIES + 1, "DEPENDENCIES_TOO_MANY")])
def test_more_dependencies_than_can_be_looked_at_are_refused(count: int, code: str | None) -> None:
    proven = by_key(provenance(*map(subject, range(1, count + 1))))
    found = [built_from(*range(1, count + 1)), proven]
    assert codes(decided(asking(), found)) == ({code} if code else set())


def test_more_dependencies_than_can_be_gone_through_are_refused_though_nothing_is_asked_of_them() -> None:
    source = {"uri": "git+https://x.example/a", "digest": {"gitCommit": "a" * 40}}
    bomb = by_key(provenance(dependencies=[source] * MAX_LISTED))
    assert codes(decided(asking(), [bomb])) == {"DEPENDENCIES_TOO_MANY"}


@pytest.mark.parametrize(
    ("dependency", "code"),
    [
        ({"uri": "git+https://x.example/a", "digest": {"gitCommit": "a" * 40}}, None),
        ({"uri": "git+https://x.example/a", "digest": {"sha1": "a" * 40}}, None),
        ({"uri": "pkg:maven/a/b@1", "digest": {"sha1": "a" * 40}}, "DEPENDENCY_UNPROVEN"),
        ({"uri": "pkg:maven/a/b@1"}, "DEPENDENCY_UNPROVEN"),
        ({"uri": "pkg:maven/a/b@1", "digest": {"sha9": "x" * 500}}, "DEPENDENCY_UNPROVEN"),
        ({"uri": "pkg:deb/a", "digest": {"sha256": "a" * 64}}, None),
        ({"uri": "x", "digest": {"sha256": f"{9:064x}"}}, "ARTIFACT_REVOKED"),
    ],
)
def test_what_is_no_source_and_not_excepted_needs_provenance(dependency: Any, code: str | None) -> None:
    rules = asking(1, **EXCEPT)
    policy = f'{rules}revoked: [{{digest: "sha256:{9:064x}", reason: malware}}]\n'
    found = [by_key(provenance(dependencies=[dependency])), by_key(provenance(subject(9)))]
    assert codes(decided(policy, found)) == ({code} if code else set())
