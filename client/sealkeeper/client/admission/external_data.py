"""Gatekeeper's external data: keys are image references, values the same with the digests that were decided on.

Gatekeeper keeps every item that it is given, errors too, for three minutes where its settings say nothing else. What
nobody could decide on is therefore no item but a system error, which it does not keep, and by which templates refuse.

Source: Gatekeeper, External Data, ``externaldata.gatekeeper.sh/v1beta1``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sealkeeper.client.admission.decider import AnswerSource, ImageAnswer
from sealkeeper.client.admission.verdict import SAID_BY, is_pinned, plain, sentence
from sealkeeper.client.errors import ClientError
from sealkeeper.verify.strict_json import JsonError, Value

API_VERSION, REQUEST, RESPONSE = "externaldata.gatekeeper.sh/v1beta1", "ProviderRequest", "ProviderResponse"
_MAX_KEY, _MAX_VALUES, _MAX_ERROR = 4096, 10_000, 4096


class ProviderRequestError(ClientError):
    """It is no request for external data that can be answered."""

    reason = "PROVIDER_REQUEST_INVALID"


def parse_keys(data: bytes, max_length: int, most: int) -> tuple[str, ...]:
    """The image references that are asked about, each once.

    Args:
        data: a ``ProviderRequest``, JSON.
        max_length: most bytes.
        most: how many keys there may be.

    Raises:
        ProviderRequestError: it is malformed; the text names the place.
    """
    try:
        document = Value.parse(data, max_length, _MAX_VALUES)
        for name, wanted in (("apiVersion", API_VERSION), ("kind", REQUEST)):
            if document.member(name).json != wanted:
                raise ProviderRequestError(f"$.{name}: must be {wanted}", next_step="use Gatekeeper 3.11 or newer")
        keys = [one.text(_MAX_KEY) for one in document.member("request").member("keys").items(most)]
    except JsonError as error:
        raise ProviderRequestError(str(error), next_step=f"send a {REQUEST} of {API_VERSION}") from None
    return tuple(dict.fromkeys(keys))


def provider_response(answers: Sequence[ImageAnswer]) -> dict[str, Any]:
    """The ``ProviderResponse`` with what was decided."""
    items, undecided = [], []
    for answer in answers:
        if answer.allowed and is_pinned(answer.resolved):
            items.append({"key": answer.image, "value": answer.resolved})
        elif answer.source is AnswerSource.NONE:
            undecided.append(f"{plain(answer.image, 256)}: {_why(answer)}")
        else:
            items.append({"key": answer.image, "error": _why(answer)})
    return _document(items, "; ".join(undecided))


def system_error(text: str) -> dict[str, Any]:
    """The ``ProviderResponse`` where nothing could be decided."""
    return _document([], text)


def _document(items: list[dict[str, str]], error: str) -> dict[str, Any]:
    # Mutation takes idempotent answers only; a digest stays the digest of what was decided on.
    response: dict[str, Any] = {"idempotent": True, "items": items}
    if error:
        response["systemError"] = plain(error, _MAX_ERROR)
    return {"apiVersion": API_VERSION, "kind": RESPONSE, "response": response}


def _why(answer: ImageAnswer) -> str:
    said = "; ".join(sentence(reason, SAID_BY[answer.source]) for reason in answer.reasons)
    if not said:
        said = "it is allowed, and has no digest" if answer.allowed else "it is refused"
    return plain(said, _MAX_ERROR)
