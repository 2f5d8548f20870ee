"""The container images that Kubernetes objects name, each with its place in the object.

Plain JSON values come in, so that an admission webhook and a scanner of files read them alike.

>>> pod = {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "web", "image": "nginx:1"}]}}
>>> [(one.image, one.path) for one in images_of(pod)]
[('nginx:1', 'spec.containers[0].image')]
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from sealkeeper.client.errors import FieldViolation, InvalidRequestError

Keys: TypeAlias = tuple[str | int, ...]
ContainerKind: TypeAlias = Literal["container", "initContainer", "ephemeralContainer", "imageVolume"]
MAX_IMAGES = 10_000
"""Most images of an object, a list of objects included."""
MAX_VALUES = 200_000
"""Most objects and arrays that are looked at in one object of an unknown kind."""
MAX_DEPTH = 100
"""Deepest nesting that is looked at in objects of unknown kinds."""
MAX_LIST_DEPTH = 4
"""Deepest nesting of lists of objects in each other."""
MAX_TEXT = 4096
"""Most characters of an image, or of a container's name."""

_TEMPLATE: Keys = ("spec", "template", "spec")
# Kubernetes' own kinds, by API group: where their pod specification is. Old versions have it there too.
_POD_SPECS: Mapping[tuple[str, str], Keys] = {
    ("", "Pod"): ("spec",),
    ("", "PodTemplate"): ("template", "spec"),
    ("", "ReplicationController"): _TEMPLATE,
    **{
        (group, kind): _TEMPLATE
        for group in ("apps", "extensions")
        for kind in ("Deployment", "DaemonSet", "ReplicaSet")
    },
    ("apps", "StatefulSet"): _TEMPLATE,
    ("batch", "Job"): _TEMPLATE,
    ("batch", "CronJob"): ("spec", "jobTemplate", *_TEMPLATE),
}
_CUSTOM_WORKLOADS = frozenset(
    {
        ("apps.openshift.io", "DeploymentConfig"),
        ("argoproj.io", "ClusterWorkflowTemplate"),
        ("argoproj.io", "CronWorkflow"),
        ("argoproj.io", "Rollout"),
        ("argoproj.io", "Workflow"),
        ("argoproj.io", "WorkflowTemplate"),
        ("batch.volcano.sh", "Job"),
        ("jobset.x-k8s.io", "JobSet"),
        ("kubeflow.org", "PyTorchJob"),
        ("kubeflow.org", "TFJob"),
        ("leaderworkerset.x-k8s.io", "LeaderWorkerSet"),
        ("ray.io", "RayCluster"),
        ("ray.io", "RayJob"),
        ("ray.io", "RayService"),
        ("serving.knative.dev", "Configuration"),
        ("serving.knative.dev", "Revision"),
        ("serving.knative.dev", "Service"),
        ("tekton.dev", "ClusterTask"),
        ("tekton.dev", "Pipeline"),
        ("tekton.dev", "PipelineRun"),
        ("tekton.dev", "StepAction"),
        ("tekton.dev", "Task"),
        ("tekton.dev", "TaskRun"),
    }
)
_LISTS: Mapping[str, ContainerKind] = {
    "containers": "container",
    "initContainers": "initContainer",
    "ephemeralContainers": "ephemeralContainer",
}
# In kinds that are not Kubernetes' own; `steps` and `sidecars` are Tekton's and Argo's, where images may be left out.
_LOOSE_LISTS: Mapping[str, ContainerKind] = {**_LISTS, "steps": "container", "sidecars": "container"}
_LOOSE_CONTAINERS = frozenset({"container", "script", "stepTemplate"})
_LOOSE_NAMES = _LOOSE_LISTS.keys() | _LOOSE_CONTAINERS
# The schema of a custom resource speaks of containers and runs none; what metadata and status say, nothing runs.
_SCHEMAS = ("apiextensions.k8s.io", "CustomResourceDefinition")
_NOT_RUN = frozenset({"metadata", "status"})
_PLAIN_KEY = re.compile(r"[A-Za-z_$][\w$-]{0,62}", re.ASCII)


class ManifestError(InvalidRequestError):
    """An object is not what its kind has to be, so that its images cannot be told.

    Attributes:
        keys: the place in the object: member names, and indexes from 0.
        description: what is wrong there.
    """

    reason = "MANIFEST_INVALID"

    def __init__(self, keys: Keys, description: str) -> None:
        path = path_of(keys)
        super().__init__(
            f"{path or 'the object'}: {description}",
            next_step="correct the manifest; kubectl apply --dry-run=server shows what the cluster makes of it",
            violations=[FieldViolation(path, description)],
        )
        self.keys = keys
        self.description = description


@dataclass(frozen=True, slots=True)
class ContainerImage:
    """An image that an object names.

    Attributes:
        image: as it is written: a reference, which may be none.
        container: name of the container, or of the volume; empty where it has none.
        kind: what it is for.
        keys: the place in the object: member names, and indexes from 0.
    """

    image: str
    container: str
    kind: ContainerKind
    keys: Keys

    @property
    def path(self) -> str:
        """The place as text, for example ``spec.template.spec.containers[0].image``."""
        return path_of(self.keys)


def path_of(keys: Keys) -> str:
    """Keys as text; names that are not plain words are quoted: ``spec["a.b"][0]``."""
    parts = []
    for key in keys:
        if isinstance(key, int):
            parts.append(f"[{key}]")
        elif _PLAIN_KEY.fullmatch(key):
            parts.append(f".{key}")
        else:
            parts.append(f"[{json.dumps(key[:64])}]")
    return "".join(parts).removeprefix(".")


def is_workload(kind: str, api_version: str) -> bool:
    """Whether objects of the kind are known to run containers.

    Args:
        kind: for example ``Deployment``.
        api_version: with its group, for example ``apps/v1``.
    """
    identity = (_group(api_version), kind)
    return identity in _POD_SPECS or identity in _CUSTOM_WORKLOADS


def images_of(manifest: Mapping[str, Any]) -> tuple[ContainerImage, ...]:
    """The images that an object names, in the order of its containers.

    Kubernetes' own kinds are read by their definition, and strictly: each container has an image. In other kinds,
    images are looked for wherever a pod specification may be: in ``containers``, ``initContainers``,
    ``ephemeralContainers`` and the ``volumes`` beside them, at any depth (Argo Rollouts, Knative, OpenShift, JobSet,
    Kubeflow, Ray, Volcano and the like), in ``steps``, ``sidecars`` and ``stepTemplate`` (Tekton), in ``container``
    and ``script`` (Argo Workflows). Their controllers may fill in an image later: one left out is no error there.

    Args:
        manifest: the object, as ``json.loads`` has it; also a ``List``, or a list of one kind, of objects.

    Raises:
        ManifestError: no kind or API version; a container without an image, or one that is no string; no containers
            in a kind that must have them; too many of them.
    """
    found: list[ContainerImage] = []
    for keys, one in objects_of(manifest):
        for image in _images(one):
            if len(found) == MAX_IMAGES:
                raise ManifestError(keys, f"has more than {MAX_IMAGES} images")
            found.append(ContainerImage(image.image, image.container, image.kind, keys + image.keys) if keys else image)
    return tuple(found)


def objects_of(manifest: Mapping[str, Any]) -> Iterator[tuple[Keys, Mapping[str, Any]]]:
    """The objects of a list, with their places in it; what is no list is its own only object.

    Items of a list of one kind (``PodList``) need not say their kind.

    Raises:
        ManifestError: no kind or API version, items that are no objects, or lists in lists too deep.
    """
    waiting: list[tuple[Keys, Any, str, str]] = [((), manifest, "", "")]
    while waiting:
        keys, one, kind, version = waiting.pop()
        if not isinstance(one, Mapping):
            raise ManifestError(keys, "must be an object")
        kind = _text(one, "kind", keys, kind or None)
        version = _text(one, "apiVersion", keys, version or None)
        if not _is_list(one, kind, version):
            yield keys, one if "kind" in one and "apiVersion" in one else {**one, "kind": kind, "apiVersion": version}
            continue
        # Two keys for each list: `items` and the index.
        if len(keys) >= 2 * MAX_LIST_DEPTH:
            raise ManifestError(keys, f"lists are nested more than {MAX_LIST_DEPTH} deep")
        items, of_kind = _array(one, "items", keys), kind.removesuffix("List")
        of_version = version if of_kind else ""
        waiting += [
            ((*keys, "items", place), item, of_kind, of_version) for place, item in reversed(list(enumerate(items)))
        ]


def _is_list(one: Mapping[str, Any], kind: str, version: str) -> bool:
    return (kind == "List" and not _group(version)) or (kind.endswith("List") and isinstance(one.get("items"), list))


def _images(manifest: Mapping[str, Any]) -> Iterator[ContainerImage]:
    identity = (_group(manifest["apiVersion"]), manifest["kind"])
    if identity == _SCHEMAS:
        return
    keys = _POD_SPECS.get(identity)
    if keys is None:
        yield from _search(manifest)
        if identity == ("tekton.dev", "StepAction"):
            yield from _loose_container(manifest.get("spec"), ("spec",), "container")
        return
    spec: Any = manifest
    for depth, key in enumerate(keys):
        spec = spec.get(key)
        if not isinstance(spec, Mapping):
            raise ManifestError(keys[: depth + 1], "must be an object")
    if not _array(spec, "containers", keys):
        raise ManifestError((*keys, "containers"), "has no containers")
    yield from _pod_images(spec, keys)


def _pod_images(spec: Mapping[str, Any], keys: Keys) -> Iterator[ContainerImage]:
    for name, kind in _LISTS.items():
        for place, one in enumerate(_array(spec, name, keys)):
            here = (*keys, name, place)
            if not isinstance(one, Mapping):
                raise ManifestError(here, "must be an object")
            yield ContainerImage(_text(one, "image", here), _text(one, "name", here, ""), kind, (*here, "image"))
    yield from _volume_images(spec, keys)


def _volume_images(spec: Mapping[str, Any], keys: Keys) -> Iterator[ContainerImage]:
    for place, volume in enumerate(_array(spec, "volumes", keys)):
        here = (*keys, "volumes", place)
        if not isinstance(volume, Mapping):
            raise ManifestError(here, "must be an object")
        source = volume.get("image")
        if source is None:
            continue
        if not isinstance(source, Mapping):
            raise ManifestError((*here, "image"), "must be an object")
        image = _text(source, "reference", (*here, "image"))
        yield ContainerImage(image, _text(volume, "name", here, ""), "imageVolume", (*here, "image", "reference"))


def _search(manifest: Mapping[str, Any]) -> Iterator[ContainerImage]:
    """Images of an object of a kind that is not known, wherever a pod specification may be."""
    waiting: list[tuple[Keys, Any]] = [((), {name: one for name, one in manifest.items() if name not in _NOT_RUN})]
    looked_at = 0
    while waiting:
        keys, value = waiting.pop()
        looked_at += 1
        if looked_at > MAX_VALUES or len(keys) > MAX_DEPTH:
            raise ManifestError(keys[:8], f"has more than {MAX_VALUES} values, or is nested more than {MAX_DEPTH} deep")
        if isinstance(value, Mapping):
            if not _LOOSE_NAMES.isdisjoint(value):
                yield from _loose_images(value, keys)
            inside: Iterable[tuple[str | int, Any]] = ((str(name), one) for name, one in value.items())
        else:
            inside = enumerate(value)
        deeper = [((*keys, key), one) for key, one in inside if isinstance(one, Mapping | list)]
        waiting += reversed(deeper)


def _loose_images(spec: Mapping[str, Any], keys: Keys) -> Iterator[ContainerImage]:
    for name, kind in _LOOSE_LISTS.items():
        containers = spec.get(name)
        for place, one in enumerate(containers if isinstance(containers, list) else ()):
            yield from _loose_container(one, (*keys, name, place), kind)
    for name in sorted(_LOOSE_CONTAINERS & spec.keys()):
        yield from _loose_container(spec[name], (*keys, name), "container")
    if any(isinstance(spec.get(name), list) for name in _LOOSE_LISTS):
        yield from _loose_volumes(spec.get("volumes"), keys)


def _loose_volumes(volumes: Any, keys: Keys) -> Iterator[ContainerImage]:
    for place, one in enumerate(volumes if isinstance(volumes, list) else ()):
        source = one.get("image") if isinstance(one, Mapping) else None
        if isinstance(source, Mapping) and source.get("reference") is not None:
            here = (*keys, "volumes", place, "image")
            yield ContainerImage(_text(source, "reference", here), _name(one), "imageVolume", (*here, "reference"))


def _loose_container(one: Any, keys: Keys, kind: ContainerKind) -> Iterator[ContainerImage]:
    if isinstance(one, Mapping) and one.get("image") is not None:
        yield ContainerImage(_text(one, "image", keys), _name(one), kind, (*keys, "image"))


def _name(one: Mapping[str, Any]) -> str:
    name = one.get("name")
    return name[:MAX_TEXT] if isinstance(name, str) else ""


def _array(parent: Mapping[str, Any], name: str, keys: Keys) -> list[Any]:
    # Kubernetes takes null for an array that is not there.
    value = parent.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ManifestError((*keys, name), "must be an array")
    return value


def _text(parent: Mapping[str, Any], name: str, keys: Keys, default: str | None = None) -> str:
    value = parent.get(name)
    if value is None and default is not None:
        return default
    if value is None:
        raise ManifestError((*keys, name), "is missing")
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT:
        raise ManifestError((*keys, name), f"must be a string of 1 to {MAX_TEXT} characters")
    return value


def _group(api_version: str) -> str:
    group, slash, _ = api_version.rpartition("/")
    return group if slash else ""
