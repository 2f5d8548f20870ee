"""The way of a review: whether anything is to be decided, by which gate, and what is answered."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sealkeeper.client.admission.asking import Asking
from sealkeeper.client.admission.decider import AnswerSource, Binding, ImageAnswer, ImageQuestion
from sealkeeper.client.admission.metrics import GateMetrics
from sealkeeper.client.admission.pinning import pins, to_pin
from sealkeeper.client.admission.review import (
    DECIDED,
    Cause,
    Response,
    Review,
    ReviewError,
    images_before,
    review_images,
    same_images,
)
from sealkeeper.client.admission.settings import NamespaceRule, WebhookSettings
from sealkeeper.client.admission.verdict import (
    NOT_MAPPED,
    TOO_MANY,
    Verdict,
    annotation,
    is_pinned,
    judge,
    needs_digest,
    plain,
    refused_at_once,
)

_log = logging.getLogger("sealkeeper.admission")


class Answering:
    """Answers what Kubernetes and Gatekeeper ask.

    Args:
        settings: which gate is asked where.
        asking: asks the decider.
        metrics: counts what became of it.
    """

    def __init__(self, settings: WebhookSettings, asking: Asking, metrics: GateMetrics) -> None:
        self._settings = settings
        self._asking = asking
        self._metrics = metrics

    async def validate(self, review: Review, deadline: float) -> Response:
        """Decide whether what a review asks for may be.

        Raises:
            ReviewError: the images of the object cannot be told.
        """
        rule = self._settings.rule_for(review.namespace)
        if rule is not None and rule.binding is None:
            return self._let_through(review, rule, "exempt")
        if review.operation not in DECIDED:
            return self._let_through(review, rule, "not-decided")
        images = review_images(review)
        if not images:
            return self._let_through(review, rule, "no-images")
        if same_images(images, images_before(review)):
            return self._let_through(review, rule, "unchanged")
        if rule is None or rule.binding is None:
            return self._unmapped(review)
        names = dict.fromkeys(one.image for one in images)
        if len(names) > self._settings.limits.max_images:
            return self._too_many(review, rule.binding, len(names))
        asked = [name for name in names if is_pinned(name) or not needs_digest(rule, is_pod=review.is_pod)]
        answers = await self._ask(asked, rule.binding, review.dry_run, deadline)
        verdict = judge(rule, images, answers, is_pod=review.is_pod)
        self._count(review, rule.binding, verdict)
        if verdict.refused or verdict.failed_open:
            _tell(review, verdict)
        return verdict.response

    async def mutate(self, review: Review, deadline: float) -> Response:
        """Pin the tags of what a review asks for, where they can be resolved. Refusing is left to ``validate``.

        Raises:
            ReviewError: the images of the object cannot be told.
        """
        rule = self._settings.rule_for(review.namespace)
        if rule is None or rule.binding is None or review.operation not in DECIDED:
            return Response(allowed=True)
        images = to_pin(review_images(review), images_before(review))
        names = list(dict.fromkeys(one.image for one in images))
        if not names or len(names) > self._settings.limits.max_images:
            return Response(allowed=True)
        # The decision that counts, and is recorded, is the one on what the object becomes by this.
        answers = await self._ask(names, rule.binding, True, deadline)
        patch = pins(images, answers)
        left = [name for name in names if not answers[name].allowed or not is_pinned(answers[name].resolved)]
        audit = {"pinned": " ".join(one["value"] for one in patch), "not-pinned": " ".join(left)}
        return Response(
            allowed=True, patch=patch, audit={name: annotation(text) for name, text in audit.items() if text}
        )

    async def provide(self, keys: Sequence[str], binding: Binding, deadline: float) -> Sequence[ImageAnswer]:
        """Decide on what Gatekeeper asks about; answers in order."""
        answers = await self._ask(keys, binding, False, deadline)
        for answer in answers.values():
            undecided = answer.source is AnswerSource.NONE and not answer.allowed
            outcome = "allowed" if answer.allowed else "undecided" if undecided else "refused"
            self._metrics.provider_keys.add(binding.tenant, binding.environment, outcome)
        return list(answers.values())

    def malformed(self, error: ReviewError) -> Response:
        """The answer to a review that cannot be read, or whose object cannot."""
        self._metrics.admissions.add("", "", "malformed")
        text = f"{error.reason}: {plain(str(error), 1024)}"
        if error.next_step:
            text += f"; to do: {error.next_step}"
        causes = (Cause(error.reason, plain(str(error), 512), ""),)
        return Response(
            allowed=False, code=400, reason="BadRequest", message=text, causes=causes, audit={"outcome": "malformed"}
        )

    async def _ask(
        self, images: Sequence[str], binding: Binding, dry_run: bool, deadline: float
    ) -> dict[str, ImageAnswer]:
        questions = [ImageQuestion(one, binding, dry_run) for one in images]
        return dict(zip(images, await self._asking.ask(questions, deadline), strict=True))

    def _let_through(self, review: Review, rule: NamespaceRule | None, outcome: str) -> Response:
        self._admission(review, rule.binding if rule is not None else None, outcome)
        return Response(allowed=True, audit={"outcome": outcome})

    def _unmapped(self, review: Review) -> Response:
        self._admission(review, None, "refused")
        if not review.dry_run:
            self._metrics.refusals.add("", "", NOT_MAPPED)
        where = f"the namespace {review.namespace!r}" if review.namespace else "an object that is in no namespace"
        message = f"no rule of the webhook says which gate decides for {where}"
        step = "add it to [[namespaces]] of the webhook's settings, with a gate or with allow = true"
        return refused_at_once(NOT_MAPPED, message, step, {"outcome": "refused", "reasons": NOT_MAPPED})

    def _too_many(self, review: Review, binding: Binding, number: int) -> Response:
        self._admission(review, binding, "refused")
        if not review.dry_run:
            self._metrics.refusals.add(binding.tenant, binding.environment, TOO_MANY)
        message = f"the object has {number} different images, of which {self._settings.limits.max_images} are allowed"
        return refused_at_once(TOO_MANY, message, "split it", {"outcome": "refused", "reasons": TOO_MANY})

    def _admission(self, review: Review, binding: Binding | None, outcome: str) -> None:
        if not review.dry_run:
            where = (binding.tenant, binding.environment) if binding is not None else ("", "")
            self._metrics.admissions.add(*where, outcome)

    def _count(self, review: Review, binding: Binding, verdict: Verdict) -> None:
        self._admission(review, binding, verdict.outcome)
        # Of an object that is refused, no image is admitted.
        if review.dry_run:
            return
        where = (binding.tenant, binding.environment)
        for refusal in verdict.refused:
            for code in {reason.code for reason in refusal.reasons}:
                self._metrics.refusals.add(*where, code)
        if verdict.refused:
            return
        for answer in verdict.admitted:
            self._metrics.admitted.add(*where, "true" if answer.passed else "false")
            if answer.exception:
                self._metrics.exceptions_used.add(*where)
        for _ in verdict.failed_open:
            self._metrics.admitted.add(*where, "false")
            self._metrics.failed_open.add(*where)


def _tell(review: Review, verdict: Verdict) -> None:
    told = [one.reasons for one in verdict.refused] + [one.reasons for one in verdict.failed_open]
    codes = {reason.code for reasons in told for reason in reasons}
    _log.info(
        "%s: %s of %s %s/%s, request %s%s: %s",
        verdict.outcome if verdict.refused else "let in undecided",
        review.operation,
        plain(review.kind[2], 63),
        plain(review.namespace, 63),
        plain(review.name, 253),
        review.uid,
        ", dry run" if review.dry_run else "",
        " ".join(sorted(plain(code, 64) for code in codes)),
    )
