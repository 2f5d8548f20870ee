"""What becomes of a review, and what whoever deploys is told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.client.admission.asking import TIMEOUT, undecided
from sealkeeper.client.admission.decider import AnswerSource, GateReason, ImageAnswer, ImageQuestion
from sealkeeper.client.admission.settings import DigestRule, FailurePolicy, NamespaceRule
from sealkeeper.client.admission.verdict import (
    ALLOWED,
    MAX_ANNOTATION,
    MAX_MESSAGE,
    MAX_WARNING,
    MAX_WARNINGS,
    REFUSED,
    UNDECIDED,
    Verdict,
    is_pinned,
    judge,
    plain,
)
from sealkeeper.client.workload_images import ContainerImage, images_of
from tests.client.admission import reviews
from tests.client.admission.deciding import DIGEST, PRODUCTION, allowed, refused, rule

IMAGES = images_of(reviews.pod())
NAMES = [one.image for one in IMAGES]


def verdict(*answers: ImageAnswer, by: NamespaceRule | None = None, is_pod: bool = True) -> Verdict:
    found = {name: allowed(name) for name in NAMES} | {one.image: one for one in answers}
    return judge(by or rule(), IMAGES, found, is_pod=is_pod)


def timed_out(image: str) -> ImageAnswer:
    return undecided(ImageQuestion(image, PRODUCTION), TIMEOUT, "it was not decided in time", "try again")


def test_what_the_gate_allows_is_let_in_without_a_word() -> None:
    found = verdict()
    assert (found.outcome, found.response.allowed, found.response.warnings) == (ALLOWED, True, ())
    assert len(found.admitted) == 3


def test_one_refused_image_refuses_the_object() -> None:
    found = verdict(refused(reviews.WEB))
    assert (found.outcome, found.response.allowed) == (REFUSED, False)
    assert (found.response.code, found.response.reason) == (403, "Forbidden")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (AnswerSource.GATEWAY, "says the gateway"),
        (AnswerSource.CACHE, "from the cache"),
        (AnswerSource.OFFLINE, "decided offline"),
        (AnswerSource.NONE, "not decided"),
    ],
)
def test_a_refusal_says_image_reason_next_step_and_from_where(source: AnswerSource, said: str) -> None:
    message = verdict(refused(reviews.WEB, source)).response.message
    first, second = message.splitlines()
    assert first == "tenants/acme/gates/production for production does not let in 1 of 3 images:"
    assert second == (
        f"container 'web', image {reviews.WEB} = registry.example.com/shop/web@{DIGEST}: PROVENANCE_MISSING: "
        f"no SLSA provenance that verifies; to do: attest it in the build ({said})"
    )


def test_causes_name_the_place_in_the_object() -> None:
    causes = verdict(refused(reviews.WEB), refused(reviews.MIGRATE)).response.causes
    assert {one.field for one in causes} == {"spec.containers[0].image", "spec.initContainers[0].image"}


def test_what_nobody_could_decide_is_refused_for_now() -> None:
    found = verdict(timed_out(reviews.WEB))
    assert (found.outcome, found.response.allowed, found.response.code) == (UNDECIDED, False, 503)
    assert "GATE_TIMEOUT" in found.response.message
    assert reviews.WEB in found.response.message


def test_a_refusal_beside_what_nobody_could_decide_is_a_refusal() -> None:
    assert verdict(timed_out(reviews.WEB), refused(reviews.MIGRATE)).outcome == REFUSED


def test_failing_open_lets_in_what_nobody_could_decide_with_a_warning() -> None:
    found = verdict(timed_out(reviews.WEB), by=rule(failure=FailurePolicy.OPEN))
    assert (found.outcome, found.response.allowed) == (ALLOWED, True)
    assert [one.image for one in found.failed_open] == [reviews.WEB]
    assert found.response.warnings[0].startswith(f"let in undecided: {reviews.WEB}: GATE_TIMEOUT")
    assert found.response.audit["failed-open"] == reviews.WEB


@pytest.mark.parametrize("source", [AnswerSource.GATEWAY, AnswerSource.CACHE, AnswerSource.OFFLINE])
def test_failing_open_does_not_let_in_what_was_decided_against(source: AnswerSource) -> None:
    assert not verdict(refused(reviews.WEB, source), by=rule(failure=FailurePolicy.OPEN)).response.allowed


def test_failing_open_lets_in_none_of_an_object_with_a_refused_image() -> None:
    by = rule(failure=FailurePolicy.OPEN)
    assert not verdict(timed_out(reviews.WEB), refused(reviews.MIGRATE), by=by).response.allowed


@pytest.mark.parametrize(
    ("required", "is_pod", "lets_in"),
    [
        (DigestRule.NOWHERE, True, True),
        (DigestRule.PODS, True, False),
        (DigestRule.PODS, False, True),
        (DigestRule.EVERYWHERE, True, False),
        (DigestRule.EVERYWHERE, False, False),
    ],
)
@pytest.mark.parametrize("failure", list(FailurePolicy))
def test_tags_are_refused_where_digests_are_required(
    required: DigestRule, is_pod: bool, lets_in: bool, failure: FailurePolicy
) -> None:
    found = verdict(by=rule(digest=required, failure=failure), is_pod=is_pod)
    assert found.response.allowed == lets_in
    assert {one.image for one in found.refused} == (set() if lets_in else {reviews.MIGRATE, reviews.WEB})


def test_a_tag_where_digests_are_required_is_refused_for_good_beside_what_nobody_could_decide() -> None:
    found = verdict(timed_out(reviews.PROXY), by=rule(digest=DigestRule.EVERYWHERE))
    assert (found.outcome, found.response.code) == (REFUSED, 403)


def test_a_required_digest_is_not_asked_of_what_has_one() -> None:
    found = verdict(by=rule(digest=DigestRule.EVERYWHERE))
    assert {one.image for one in found.refused} == {reviews.WEB, reviews.MIGRATE}
    assert "IMAGE_NOT_PINNED" in found.response.message


@pytest.mark.parametrize(
    ("image", "pinned"),
    [
        (f"a@{DIGEST}", True),
        (f"a:1@{DIGEST}", True),
        ("a@sha512:" + "0" * 128, True),
        ("a:1", False),
        ("a", False),
        (f"a@{DIGEST[:-1]}", False),
        (f"a@{DIGEST}0", False),
        (f"@{DIGEST}", False),
        (f"a@{DIGEST.upper()}", False),
        (f"a@b@{DIGEST}", False),
        (f"a@{DIGEST}\n", False),
        ("a@md5:" + "0" * 32, False),
    ],
)
def test_only_a_whole_digest_pins(image: str, pinned: bool) -> None:
    assert is_pinned(image) == pinned


def test_a_gate_in_warn_mode_lets_in_and_warns() -> None:
    answer = replace(refused(reviews.WEB), allowed=True, warn=True)
    found = verdict(answer)
    assert found.response.allowed
    [warning] = found.response.warnings
    assert warning.startswith(f"would be refused: {reviews.WEB}: PROVENANCE_MISSING")


def test_reasons_of_an_allowed_image_are_not_shown_where_the_gate_does_not_warn() -> None:
    assert verdict(replace(refused(reviews.WEB), allowed=True)).response.warnings == ()


def test_warnings_are_few_short_and_ascii() -> None:
    reasons = tuple(GateReason(f"CODE_{number}", "\u00fcber\n" * 100) for number in range(30))
    found = verdict(replace(refused(reviews.WEB, AnswerSource.GATEWAY, *reasons), allowed=True, warn=True))
    warnings = found.response.warnings
    assert len(warnings) == MAX_WARNINGS
    assert all(len(one) <= MAX_WARNING and one.isascii() and one.isprintable() for one in warnings)
    assert warnings[-1] == "and 21 more warnings about images"


def test_the_audit_log_is_told_what_was_decided_by_whom_and_from_where() -> None:
    answers = (
        allowed(reviews.WEB, AnswerSource.CACHE, decision="tenants/acme/gates/production/decisions/1"),
        allowed(reviews.MIGRATE, exception="tenants/acme/gates/production/exceptions/2", passed=False),
        refused(reviews.PROXY),
    )
    audit = verdict(*answers).response.audit
    assert audit["outcome"] == REFUSED
    assert (audit["gate"], audit["environment"]) == ("tenants/acme/gates/production", "production")
    assert audit["sources"] == "cache=1 gateway=2"
    assert audit["decisions"] == "tenants/acme/gates/production/decisions/1"
    assert audit["exceptions"] == "tenants/acme/gates/production/exceptions/2"
    assert (audit["refused"], audit["reasons"]) == (reviews.PROXY, "PROVENANCE_MISSING")


def test_an_image_that_several_containers_run_is_told_of_once() -> None:
    images = images_of(reviews.pod({"web": reviews.WEB, "again": reviews.WEB}))
    answers = {one.image: refused(one.image) for one in images}
    message = judge(rule(), images, answers, is_pod=True).response.message
    assert message.count(reviews.WEB) == 1


_ODD = st.text(st.sampled_from("ab\n\r\x1b\x00\u202e\u00e9\U0001f600 "), max_size=2000)
_REASON = st.builds(GateReason, _ODD, _ODD, _ODD)


@given(_ODD.filter(bool), st.lists(_REASON, max_size=12), st.booleans(), st.sampled_from(AnswerSource), _ODD)
def test_whatever_a_decider_says_the_response_is_bounded_and_safe_to_print(
    image: str, reasons: list[GateReason], lets_in: bool, source: AnswerSource, odd: str
) -> None:
    answer = ImageAnswer(image, odd, lets_in, False, source, tuple(reasons), warn=True, decision=odd, exception=odd)
    images = (ContainerImage(image, odd, "container", ("spec", "containers", 0, "image")),)
    response = judge(rule(), images, {image: answer}, is_pod=True).response
    assert response.allowed == lets_in
    assert len(response.message) <= MAX_MESSAGE
    assert all(line.isprintable() for line in response.message.split("\n"))
    assert all(len(one) <= MAX_WARNING and one.isascii() and one.isprintable() for one in response.warnings)
    assert all(len(one) <= MAX_ANNOTATION and one.isprintable() for one in response.audit.values())


@given(_ODD, st.integers(4, 100))
def test_plain_text_is_bounded_and_on_one_line(text: str, most: int) -> None:
    shown = plain(text, most)
    assert len(shown) <= most
    assert shown.isprintable()
