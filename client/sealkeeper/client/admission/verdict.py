"""From the answers about images to the response to a review: who is refused, who is let in, and what is said of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sealkeeper.client.admission.decider import AnswerSource, GateReason, ImageAnswer
from sealkeeper.client.admission.review import Cause, Response
from sealkeeper.client.admission.settings import DigestRule, FailurePolicy, NamespaceRule
from sealkeeper.client.workload_images import ContainerImage

NOT_PINNED, NOT_MAPPED, TOO_MANY = "IMAGE_NOT_PINNED", "NAMESPACE_NOT_MAPPED", "IMAGES_TOO_MANY"
ALLOWED, REFUSED, UNDECIDED = "allowed", "refused", "undecided"
MAX_WARNING, MAX_WARNINGS, MAX_MESSAGE, MAX_ANNOTATION = 120, 10, 8192, 2048
"""Characters, or how many: beyond, the API server may cut warnings itself."""
_MAX_REASONS, _MAX_CAUSES = 5, 50
_DIGEST = re.compile(r"[^@\s]+@(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})")
SAID_BY = {
    AnswerSource.GATEWAY: "says the gateway",
    AnswerSource.CACHE: "from the cache",
    AnswerSource.OFFLINE: "decided offline",
    AnswerSource.REGISTRY: "from what the registry has",
    AnswerSource.NONE: "not decided",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """An image that is not let in.

    Attributes:
        image: as the manifest has it.
        reasons: why.
        said_by: from where, for a person.
        resolved: reference with digest; may be empty.
    """

    image: str
    reasons: tuple[GateReason, ...]
    said_by: str
    resolved: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a review.

    Attributes:
        outcome: ``ALLOWED``, ``REFUSED`` or ``UNDECIDED``, which is refused too, but may be another time.
        response: to answer with.
        admitted: answers of images that are let in.
        failed_open: those of images that are let in though nobody could decide.
        refused: images that are not.
    """

    outcome: str
    response: Response
    admitted: tuple[ImageAnswer, ...] = ()
    failed_open: tuple[ImageAnswer, ...] = ()
    refused: tuple[Refusal, ...] = ()


def is_pinned(image: str) -> bool:
    """Whether a reference says the digest, so that it means the same wherever and whenever it is pulled."""
    return _DIGEST.fullmatch(image) is not None


def needs_digest(rule: NamespaceRule, *, is_pod: bool) -> bool:
    """Whether a rule refuses tags in such an object."""
    return rule.require_digest is DigestRule.EVERYWHERE or (rule.require_digest is DigestRule.PODS and is_pod)


def judge(
    rule: NamespaceRule,
    images: Sequence[ContainerImage],
    answers: Mapping[str, ImageAnswer],
    *,
    is_pod: bool,
) -> Verdict:
    """What becomes of a review.

    Args:
        rule: of its namespace, with a gate.
        images: of the object.
        answers: by image, of all images except those that the rule refuses unasked.
        is_pod: the object is what is run.
    """
    admitted, failed_open, refused, only_undecided = list[ImageAnswer](), list[ImageAnswer](), list[Refusal](), True
    for image in dict.fromkeys(one.image for one in images):
        if needs_digest(rule, is_pod=is_pod) and not is_pinned(image):
            refused.append(_unpinned(image))
            only_undecided = False
            continue
        answer = answers[image]
        if answer.allowed:
            admitted.append(answer)
        elif answer.source is AnswerSource.NONE and rule.failure_policy is FailurePolicy.OPEN:
            failed_open.append(answer)
        else:
            refused.append(Refusal(image, answer.reasons, SAID_BY[answer.source], answer.resolved))
            only_undecided &= answer.source is AnswerSource.NONE
    outcome = ALLOWED if not refused else UNDECIDED if only_undecided else REFUSED
    warnings = _warnings(admitted, failed_open)
    audit = _audit(rule, outcome, list(answers.values()), failed_open, refused)
    if outcome == ALLOWED:
        response = Response(allowed=True, warnings=warnings, audit=audit)
    else:
        response = _refusal(rule, outcome, images, refused, warnings, audit)
    return Verdict(outcome, response, tuple(admitted), tuple(failed_open), tuple(refused))


def refused_at_once(code: str, message: str, next_step: str, audit: Mapping[str, str]) -> Response:
    """A refusal of the whole object, before any image is looked at."""
    text = sentence(GateReason(code, message, next_step))
    return Response(
        allowed=False, code=403, reason="Forbidden", message=text, causes=(Cause(code, message, ""),), audit=audit
    )


def sentence(reason: GateReason, said_by: str = "") -> str:
    """A reason for a person: code, message, next step, and where it is from."""
    text = f"{plain(reason.code, 64)}: {plain(reason.message, 512)}"
    if reason.next_step:
        text += f"; to do: {plain(reason.next_step, 512)}"
    return f"{text} ({said_by})" if said_by else text


def plain(text: str, most: int) -> str:
    """Text of at most ``most`` characters, on one line and with nothing that a terminal obeys."""
    shown = "".join(one if one.isprintable() else " " for one in text[: most + 1])
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."


def annotation(text: str) -> str:
    """Text for the audit log."""
    return plain(text, MAX_ANNOTATION)


def _unpinned(image: str) -> Refusal:
    reason = GateReason(NOT_PINNED, "it is named by tag, which can be moved", "name it by digest: NAME@sha256:...")
    return Refusal(image, (reason,), "by the webhook's settings")


def _refusal(
    rule: NamespaceRule,
    outcome: str,
    images: Sequence[ContainerImage],
    refused: Sequence[Refusal],
    warnings: tuple[str, ...],
    audit: Mapping[str, str],
) -> Response:
    places = {one.image: one for one in reversed(images)}
    lines = [f"{_gate(rule)} does not let in {len(refused)} of {len(places)} images:"]
    causes = list[Cause]()
    for one in refused:
        place = places[one.image]
        named = f"{place.kind} {plain(place.container, 64)!r}, image {plain(one.image, 256)}"
        if one.resolved and one.resolved != one.image:
            named += f" = {plain(one.resolved, 256)}"
        for reason in one.reasons[:_MAX_REASONS] or (GateReason("GATE_REFUSED", "no reason was given"),):
            lines.append(f"{named}: {sentence(reason, one.said_by)}")
            causes.append(Cause(plain(reason.code, 64), plain(reason.message, 512), plain(place.path, 256)))
        if len(one.reasons) > _MAX_REASONS:
            lines.append(f"{named}: and {len(one.reasons) - _MAX_REASONS} more reasons")
    text = "\n".join(lines)
    if len(text) > MAX_MESSAGE:
        text = f"{text[: MAX_MESSAGE - 3]}..."
    # Whoever made the request may try again what nobody could decide on.
    code, status = (503, "ServiceUnavailable") if outcome == UNDECIDED else (403, "Forbidden")
    return Response(
        allowed=False,
        code=code,
        reason=status,
        message=text,
        causes=tuple(causes[:_MAX_CAUSES]),
        warnings=warnings,
        audit=audit,
    )


def _warnings(admitted: Sequence[ImageAnswer], failed_open: Sequence[ImageAnswer]) -> tuple[str, ...]:
    found = [
        _warning("let in undecided: ", answer.image, reason) for answer in failed_open for reason in answer.reasons
    ]
    for answer in admitted:
        if answer.warn:
            found += [_warning("would be refused: ", answer.image, reason) for reason in answer.reasons]
    if len(found) > MAX_WARNINGS:
        more = len(found) - MAX_WARNINGS + 1
        found = [*found[: MAX_WARNINGS - 1], f"and {more} more warnings about images"]
    return tuple(found)


def _warning(what: str, image: str, reason: GateReason) -> str:
    # Headers of HTTP carry them. Of a long reference the end tells more, which has tag and digest.
    name = image if len(image) <= 48 else f"...{image[-45:]}"
    return plain(f"{what}{name}: {reason.code}: {reason.message}".encode("ascii", "replace").decode(), MAX_WARNING)


def _audit(
    rule: NamespaceRule,
    outcome: str,
    answers: Sequence[ImageAnswer],
    failed_open: Sequence[ImageAnswer],
    refused: Sequence[Refusal],
) -> dict[str, str]:
    sources = Counter(answer.source.value for answer in answers)
    found = {
        "outcome": outcome,
        "gate": rule.binding.gate if rule.binding else "",
        "environment": rule.binding.environment if rule.binding else "",
        "sources": " ".join(f"{name}={number}" for name, number in sorted(sources.items())),
        "resolved": " ".join(answer.resolved for answer in answers if answer.resolved),
        "decisions": " ".join(answer.decision for answer in answers if answer.decision),
        "exceptions": " ".join(answer.exception for answer in answers if answer.exception),
        "failed-open": " ".join(answer.image for answer in failed_open),
        "refused": " ".join(one.image for one in refused),
        "reasons": " ".join(sorted({reason.code for one in refused for reason in one.reasons})),
    }
    return {name: annotation(text) for name, text in found.items() if text}


def _gate(rule: NamespaceRule) -> str:
    if rule.binding is None:
        return "the gate"
    where = f" for {rule.binding.environment}" if rule.binding.environment else ""
    return f"{rule.binding.gate}{where}"
