"""``AdmissionReview`` of ``admission.k8s.io/v1``: what the API server asks, read strictly, and what it is answered.

Source: Kubernetes, kube-apiserver Admission (v1). Members that are not needed are not looked at: new versions of
Kubernetes bring new ones.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from sealkeeper.client.errors import ClientError
from sealkeeper.client.workload_images import ContainerImage, ManifestError, images_of
from sealkeeper.verify.strict_json import JsonError, Value

API_VERSION, KIND = "admission.k8s.io/v1", "AdmissionReview"
MAX_VALUES = 200_000
"""Most values of a review."""
DECIDED = ("CREATE", "UPDATE")
"""Operations that can bring images; the others are let through."""
_OPERATIONS = (*DECIDED, "DELETE", "CONNECT")
_MAX_UID = 256


class ReviewError(ClientError):
    """The review, or the object in it, is not what it has to be.

    Attributes:
        uid: of the review; empty where not even that could be read.
    """

    reason = "REVIEW_INVALID"

    def __init__(self, message: str, uid: str = "", *, reason: str | None = None, next_step: str = "") -> None:
        super().__init__(message, reason=reason, next_step=next_step)
        self.uid = uid


@dataclass(frozen=True, slots=True)
class Review:
    """What the API server asks.

    Attributes:
        uid: of this request, which the response repeats.
        operation: CREATE, UPDATE, DELETE or CONNECT.
        kind: of the object: group, version and kind.
        sub_resource: for example ``ephemeralcontainers``; empty for the object itself.
        namespace: that the request is for; empty for objects that are in none.
        name: of the object; empty where the API server makes one up.
        dry_run: nothing becomes of it.
        document: the object; ``None`` where there is none.
        old_document: the object before; ``None`` where there is none.
    """

    uid: str
    operation: str
    kind: tuple[str, str, str]
    sub_resource: str
    namespace: str
    name: str
    dry_run: bool
    document: Mapping[str, Any] | None = field(repr=False)
    old_document: Mapping[str, Any] | None = field(repr=False)

    @property
    def is_pod(self) -> bool:
        """It is what is run, not what others make pods of."""
        return self.kind[0] == "" and self.kind[2] == "Pod"


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing that is wrong, as ``metav1.StatusCause`` has it.

    Attributes:
        reason: stable, upper snake case.
        message: for a person.
        field: place in the object.
    """

    reason: str
    message: str
    field: str


@dataclass(frozen=True, slots=True)
class Response:
    """What the API server is answered.

    Attributes:
        allowed: the request goes on.
        code: of HTTP, for whoever made the request; of refusals only.
        reason: a ``metav1.StatusReason``; of refusals only.
        message: why not; of refusals only.
        causes: the same, for programs.
        warnings: shown to whoever made the request, whether it is allowed or not.
        audit: annotations for the API server's audit log, by unqualified names.
        patch: operations of RFC 6902.
    """

    allowed: bool
    code: int = 200
    reason: str = ""
    message: str = ""
    causes: tuple[Cause, ...] = ()
    warnings: tuple[str, ...] = ()
    audit: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    patch: tuple[Mapping[str, str], ...] = ()


def parse_review(data: bytes, max_length: int) -> Review:
    """Read a review.

    Args:
        data: JSON.
        max_length: most bytes.

    Raises:
        ReviewError: it is malformed; the text names the place.
    """
    uid = ""
    try:
        document = Value.parse(data, max_length, MAX_VALUES)
        _require(document.member("apiVersion"), API_VERSION)
        _require(document.member("kind"), KIND)
        request = document.member("request")
        uid = _uid(request)
        return _review(request, uid)
    except JsonError as error:
        raise ReviewError(str(error), uid, next_step=f"send an {KIND} of {API_VERSION}") from None


def review_images(review: Review) -> tuple[ContainerImage, ...]:
    """The images of the object.

    Raises:
        ReviewError: it is not what its kind has to be, so that they cannot be told.
    """
    try:
        return images_of(review.document) if review.document is not None else ()
    except ManifestError as error:
        raise ReviewError(str(error), review.uid, reason=error.reason, next_step=error.next_step) from None


def images_before(review: Review) -> tuple[ContainerImage, ...]:
    """The images that the object had before an update; none where that cannot be told."""
    if review.operation != "UPDATE" or review.old_document is None:
        return ()
    try:
        return images_of(review.old_document)
    except ManifestError:
        return ()


def same_images(now: Sequence[ContainerImage], before: Sequence[ContainerImage]) -> bool:
    """Whether the same containers run the same images."""
    return sorted(map(_identity, now)) == sorted(map(_identity, before))


def response_document(uid: str, response: Response) -> dict[str, Any]:
    """The JSON document to answer with."""
    answer: dict[str, Any] = {"uid": uid, "allowed": response.allowed}
    if not response.allowed:
        causes = [{"reason": one.reason, "message": one.message, "field": one.field} for one in response.causes]
        answer["status"] = {
            "status": "Failure",
            "code": response.code,
            "reason": response.reason,
            "message": response.message,
            **({"details": {"causes": causes}} if causes else {}),
        }
    if response.warnings:
        answer["warnings"] = list(response.warnings)
    if response.audit:
        answer["auditAnnotations"] = dict(response.audit)
    if response.patch:
        operations = json.dumps([dict(one) for one in response.patch], separators=(",", ":"))
        answer |= {"patchType": "JSONPatch", "patch": base64.b64encode(operations.encode()).decode()}
    return {"apiVersion": API_VERSION, "kind": KIND, "response": answer}


def _review(request: Value, uid: str) -> Review:
    operation = _text(request, "operation", 16)
    if operation not in _OPERATIONS:
        raise JsonError(f"{request.path}.operation: must be one of {', '.join(_OPERATIONS)}")
    kind = request.member("kind")
    group, version, name = _text(kind, "group", 253, ""), _text(kind, "version", 63), _text(kind, "kind", 63)
    document, old = _object(request, "object"), _object(request, "oldObject")
    if operation in DECIDED:
        if document is None:
            raise JsonError(f"{request.path}.object: is missing")
        # The images are looked for by the object's own kind.
        _require(Value(document, f"{request.path}.object").member("kind"), name)
        api_version = f"{group}/{version}" if group else version
        _require(Value(document, f"{request.path}.object").member("apiVersion"), api_version)
    return Review(
        uid=uid,
        operation=operation,
        kind=(group, version, name),
        sub_resource=_text(request, "subResource", 253, ""),
        namespace=_text(request, "namespace", 63, ""),
        name=_text(request, "name", 253, ""),
        dry_run=_dry_run(request),
        document=document,
        old_document=old,
    )


def _uid(request: Value) -> str:
    uid = _text(request, "uid", _MAX_UID)
    if not uid.isprintable() or not uid.isascii():
        raise JsonError(f"{request.path}.uid: must be printable ASCII")
    return uid


def _text(parent: Value, name: str, most: int, missing: str | None = None) -> str:
    if missing is not None and (not isinstance(parent.json, dict) or parent.json.get(name) is None):
        return missing
    text = parent.member(name).text(most)
    if not text and missing is None:
        raise JsonError(f"{parent.path}.{name}: is empty")
    return text


def _object(request: Value, name: str) -> Mapping[str, Any] | None:
    found = request.json.get(name)
    if found is not None and not isinstance(found, dict):
        raise JsonError(f"{request.path}.{name}: must be an object or null")
    return found


def _dry_run(request: Value) -> bool:
    return False if request.json.get("dryRun") is None else request.member("dryRun").boolean()


def _require(value: Value, wanted: str) -> None:
    if value.json != wanted:
        raise JsonError(f"{value.path}: must be {wanted}")


def _identity(image: ContainerImage) -> tuple[str, str, str]:
    return image.kind, image.container, image.image
