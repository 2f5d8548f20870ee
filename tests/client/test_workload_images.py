"""Images of Kubernetes objects: every kind, every place, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealkeeper.client import workload_images
from sealkeeper.client.workload_images import (
    ContainerImage,
    ManifestError,
    images_of,
    is_workload,
    objects_of,
    path_of,
)

POD = {"containers": [{"name": "web", "image": "web:1"}]}
FULL_POD = {
    "initContainers": [
        {"name": "init", "image": "init:1"},
        {"name": "side", "image": "side:1", "restartPolicy": "Always"},
    ],
    "containers": [{"name": "web", "image": "web:1"}, {"name": "again", "image": "web:1"}],
    "ephemeralContainers": [{"name": "debug", "image": "debug:1"}],
    "volumes": [{"name": "v", "emptyDir": {}}, {"name": "model", "image": {"reference": "model:1"}}],
}
TEMPLATE = {"template": {"spec": POD}}
KINDS: list[tuple[str, str, dict[str, Any], str]] = [
    ("v1", "Pod", {"spec": POD}, "spec"),
    ("v1", "PodTemplate", {"template": {"spec": POD}}, "template.spec"),
    ("v1", "ReplicationController", {"spec": TEMPLATE}, "spec.template.spec"),
    ("apps/v1", "Deployment", {"spec": TEMPLATE}, "spec.template.spec"),
    ("apps/v1", "ReplicaSet", {"spec": TEMPLATE}, "spec.template.spec"),
    ("apps/v1", "StatefulSet", {"spec": TEMPLATE}, "spec.template.spec"),
    ("apps/v1beta2", "DaemonSet", {"spec": TEMPLATE}, "spec.template.spec"),
    ("extensions/v1beta1", "Deployment", {"spec": TEMPLATE}, "spec.template.spec"),
    ("batch/v1", "Job", {"spec": TEMPLATE}, "spec.template.spec"),
    ("batch/v1", "CronJob", {"spec": {"jobTemplate": {"spec": TEMPLATE}}}, "spec.jobTemplate.spec.template.spec"),
]
CUSTOM: list[tuple[str, str, dict[str, Any], str]] = [
    ("argoproj.io/v1alpha1", "Rollout", {"spec": TEMPLATE}, "spec.template.spec.containers[0].image"),
    ("serving.knative.dev/v1", "Service", {"spec": TEMPLATE}, "spec.template.spec.containers[0].image"),
    ("serving.knative.dev/v1", "Revision", {"spec": POD}, "spec.containers[0].image"),
    ("apps.openshift.io/v1", "DeploymentConfig", {"spec": TEMPLATE}, "spec.template.spec.containers[0].image"),
    (
        "jobset.x-k8s.io/v1alpha2",
        "JobSet",
        {"spec": {"replicatedJobs": [{"template": {"spec": TEMPLATE}}]}},
        "spec.replicatedJobs[0].template.spec.template.spec.containers[0].image",
    ),
    (
        "ray.io/v1",
        "RayCluster",
        {"spec": {"workerGroupSpecs": [TEMPLATE]}},
        "spec.workerGroupSpecs[0].template.spec.containers[0].image",
    ),
    (
        "kubeflow.org/v1",
        "PyTorchJob",
        {"spec": {"pytorchReplicaSpecs": {"Master": TEMPLATE}}},
        "spec.pytorchReplicaSpecs.Master.template.spec.containers[0].image",
    ),
    ("tekton.dev/v1", "Task", {"spec": {"steps": [{"image": "web:1"}]}}, "spec.steps[0].image"),
    ("tekton.dev/v1", "Task", {"spec": {"stepTemplate": {"image": "web:1"}}}, "spec.stepTemplate.image"),
    ("tekton.dev/v1", "Task", {"spec": {"sidecars": [{"image": "web:1"}]}}, "spec.sidecars[0].image"),
    ("tekton.dev/v1beta1", "StepAction", {"spec": {"image": "web:1"}}, "spec.image"),
    (
        "tekton.dev/v1",
        "PipelineRun",
        {"spec": {"pipelineSpec": {"tasks": [{"taskSpec": {"steps": [{"image": "web:1"}]}}]}}},
        "spec.pipelineSpec.tasks[0].taskSpec.steps[0].image",
    ),
    (
        "argoproj.io/v1alpha1",
        "Workflow",
        {"spec": {"templates": [{"container": {"image": "web:1"}}]}},
        "spec.templates[0].container.image",
    ),
    (
        "argoproj.io/v1alpha1",
        "Workflow",
        {"spec": {"templates": [{"script": {"image": "web:1", "source": "x"}}]}},
        "spec.templates[0].script.image",
    ),
    ("example.com/v1", "Deployment", {"spec": {"a": {"b": [{"c": POD}]}}}, "spec.a.b[0].c.containers[0].image"),
    ("example.com/v1", "Odd", {"spec": {"a.b": POD}}, 'spec["a.b"].containers[0].image'),
    ("example.com/v1", "Flat", POD, "containers[0].image"),
]


def manifest(version: str, kind: str, rest: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": "x"}, **rest}


def deployment(spec: Any) -> dict[str, Any]:
    return manifest("apps/v1", "Deployment", {"spec": {"template": {"spec": spec}}})


def follow(value: Any, image: ContainerImage) -> Any:
    for key in image.keys:
        value = value[key]
    return value


def refused(value: Any) -> ManifestError:
    with pytest.raises(ManifestError) as raised:
        images_of(value)
    assert raised.value.reason == "MANIFEST_INVALID"
    assert raised.value.next_step
    return raised.value


@pytest.mark.parametrize(("version", "kind", "rest", "where"), KINDS)
def test_each_kind_of_kubernetes_has_its_pod_read_where_it_is(
    version: str, kind: str, rest: dict[str, Any], where: str
) -> None:
    (found,) = images_of(manifest(version, kind, rest))
    assert (found.image, found.container, found.kind) == ("web:1", "web", "container")
    assert found.path == f"{where}.containers[0].image"
    assert is_workload(kind, version)


@pytest.mark.parametrize(("version", "kind", "rest", "path"), CUSTOM)
def test_kinds_of_others_have_their_images_found_wherever_a_pod_may_be(
    version: str, kind: str, rest: dict[str, Any], path: str
) -> None:
    (found,) = images_of(manifest(version, kind, rest))
    assert (found.image, found.path) == ("web:1", path)
    assert is_workload(kind, version) == (not version.startswith("example.com"))


@pytest.mark.parametrize("version", ["v1", "example.com/v1"])
def test_all_containers_and_image_volumes_of_a_pod_are_found(version: str) -> None:
    found = images_of(manifest(version, "Pod", {"spec": FULL_POD}))
    assert {(one.image, one.container, one.kind, one.path) for one in found} == {
        ("init:1", "init", "initContainer", "spec.initContainers[0].image"),
        ("side:1", "side", "initContainer", "spec.initContainers[1].image"),
        ("web:1", "web", "container", "spec.containers[0].image"),
        ("web:1", "again", "container", "spec.containers[1].image"),
        ("debug:1", "debug", "ephemeralContainer", "spec.ephemeralContainers[0].image"),
        ("model:1", "model", "imageVolume", "spec.volumes[1].image.reference"),
    }
    assert len(found) == 6


@pytest.mark.parametrize(
    ("version", "kind"),
    [("v1", "Service"), ("v1", "ConfigMap"), ("rbac.authorization.k8s.io/v1", "Role"), ("example.com/v1", "Thing")],
)
def test_kinds_without_pods_name_no_images(version: str, kind: str) -> None:
    assert images_of(manifest(version, kind, {"spec": {"image": "x"}, "data": {"containers": "text"}})) == ()
    assert not is_workload(kind, version)


def test_what_a_schema_or_a_status_says_is_not_run() -> None:
    schema = manifest("apiextensions.k8s.io/v1", "CustomResourceDefinition", {"spec": {"default": POD}})
    assert images_of(schema) == ()
    assert images_of(manifest("example.com/v1", "Thing", {"status": POD})) == ()


def test_kinds_of_others_may_leave_images_out() -> None:
    spec = {"containers": [{"name": "x"}, {"image": None}, "odd"], "steps": [[{"image": "a"}], {"ref": {}}]}
    assert images_of(manifest("example.com/v1", "Thing", {"spec": spec})) == ()


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({}, "spec.template.spec.containers"),
        ({"containers": []}, "spec.template.spec.containers"),
        ({"containers": None}, "spec.template.spec.containers"),
        ({"containers": {"name": "x"}}, "spec.template.spec.containers"),
        ({"containers": "x"}, "spec.template.spec.containers"),
        ({"containers": ["x"]}, "spec.template.spec.containers[0]"),
        ({"containers": [{"name": "x"}]}, "spec.template.spec.containers[0].image"),
        ({"containers": [{"image": None}]}, "spec.template.spec.containers[0].image"),
        ({"containers": [{"image": ""}]}, "spec.template.spec.containers[0].image"),
        ({"containers": [{"image": 1.5}]}, "spec.template.spec.containers[0].image"),
        ({"containers": [{"image": ["x"]}]}, "spec.template.spec.containers[0].image"),
        ({"containers": [{"image": "x" * 4097}]}, "spec.template.spec.containers[0].image"),
        ({"containers": [{"image": "x", "name": 1}]}, "spec.template.spec.containers[0].name"),
        ({**POD, "initContainers": [{}]}, "spec.template.spec.initContainers[0].image"),
        ({**POD, "initContainers": 1}, "spec.template.spec.initContainers"),
        ({**POD, "ephemeralContainers": [{}]}, "spec.template.spec.ephemeralContainers[0].image"),
        ({**POD, "volumes": [1]}, "spec.template.spec.volumes[0]"),
        ({**POD, "volumes": [{"image": "x"}]}, "spec.template.spec.volumes[0].image"),
        ({**POD, "volumes": [{"image": {}}]}, "spec.template.spec.volumes[0].image.reference"),
        (None, "spec.template.spec"),
        ([], "spec.template.spec"),
    ],
)
def test_a_workload_whose_images_cannot_be_told_is_refused_with_the_place(spec: Any, path: str) -> None:
    error = refused(deployment(spec))
    assert error.violations[0].field == path
    assert str(error).startswith(path)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"kind": "Pod"},
        {"apiVersion": "v1"},
        {"apiVersion": 1, "kind": "Pod"},
        {"apiVersion": "v1", "kind": ["Pod"]},
    ],
)
def test_an_object_without_kind_or_version_is_refused(value: Any) -> None:
    refused(value)


def test_an_image_that_is_no_string_is_refused_in_any_kind() -> None:
    error = refused(manifest("example.com/v1", "Thing", {"spec": {"containers": [{"image": {"name": "x"}}]}}))
    assert error.violations[0].field == "spec.containers[0].image"


def test_lists_have_the_images_of_their_items() -> None:
    item = deployment(POD)
    for outer in (
        {"apiVersion": "v1", "kind": "List", "items": [item, item]},
        {"apiVersion": "apps/v1", "kind": "DeploymentList", "items": [item, {"spec": item["spec"]}]},
        {"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", "kind": "List", "items": [item]}, item]},
    ):
        found = images_of(outer)
        assert len(found) == 2
        assert all(follow(outer, one) == "web:1" for one in found)


def test_items_of_a_list_of_one_kind_have_its_kind() -> None:
    pods = {"apiVersion": "v1", "kind": "PodList", "items": [{"spec": POD}]}
    assert [(keys, one["kind"], one["apiVersion"]) for keys, one in objects_of(pods)] == [(("items", 0), "Pod", "v1")]


@pytest.mark.parametrize("items", [{"a": 1}, ["x"], [{}], "x"])
def test_a_list_of_what_is_no_object_is_refused(items: Any) -> None:
    refused({"apiVersion": "v1", "kind": "List", "items": items})


def test_lists_in_lists_without_end_are_refused() -> None:
    value: dict[str, Any] = deployment(POD)
    for _ in range(4):
        value = {"apiVersion": "v1", "kind": "List", "items": [value]}
    assert len(images_of(value)) == 1
    assert "nested" in str(refused({"apiVersion": "v1", "kind": "List", "items": [value]}))


def test_more_images_than_the_bound_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload_images, "MAX_IMAGES", 3)
    assert len(images_of(deployment({"containers": [{"image": "x"}] * 3}))) == 3
    assert "more than 3 images" in str(refused(deployment({"containers": [{"image": "x"}] * 4})))


def test_an_unknown_kind_that_is_too_deep_or_too_large_is_refused() -> None:
    deep: Any = POD
    for _ in range(200):
        deep = {"a": deep}
    refused(manifest("example.com/v1", "Thing", {"spec": deep}))
    shared: Any = [{}]
    for _ in range(60):
        # Two million million million of them, as an alias in YAML can make.
        shared = [shared, shared]
    refused(manifest("example.com/v1", "Thing", {"spec": shared}))


def test_places_quote_what_is_no_plain_word() -> None:
    assert path_of(("a", 0, "b-c", 'x"y.\n')) == 'a[0].b-c["x\\"y.\\n"]'
    assert len(path_of(("x" * 10_000,))) < 100


IMAGES = st.text(min_size=1, max_size=20)
CONTAINERS = st.lists(
    st.fixed_dictionaries({"image": IMAGES}, optional={"name": IMAGES, "args": st.lists(st.text(max_size=3))}),
    max_size=4,
)
PODS = st.fixed_dictionaries(
    {"containers": CONTAINERS.filter(bool)},
    optional={
        "initContainers": CONTAINERS,
        "ephemeralContainers": CONTAINERS,
        "volumes": st.lists(
            st.fixed_dictionaries({}, optional={"image": st.builds(lambda one: {"reference": one}, IMAGES)})
        ),
    },
)


@given(PODS, st.sampled_from(["apps/v1", "example.com/v1"]))
def test_every_image_of_a_deployment_is_found_exactly_once(pod: dict[str, Any], version: str) -> None:
    value = manifest(version, "Deployment", {"spec": {"template": {"spec": pod}}})
    lists = ("containers", "initContainers", "ephemeralContainers")
    written = [one["image"] for name in lists for one in pod.get(name, [])]
    written += [one["image"]["reference"] for one in pod.get("volumes", []) if "image" in one]
    found = images_of(value)
    assert sorted(one.image for one in found) == sorted(written)
    assert len({one.path for one in found}) == len(found)
    assert all(follow(value, one) == one.image for one in found)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["containers", "image", "spec", "template", "items", "volumes", "steps", "name", "script"]),
            inner,
        )
    ),
    max_leaves=20,
)


@given(
    JSON,
    st.sampled_from([("v1", "Pod"), ("v1", "List"), ("apps/v1", "Deployment"), ("a.b/v1", "Any"), ("v1", "PodList")]),
)
def test_whatever_an_object_holds_it_is_read_or_refused(rest: Any, identity: tuple[str, str]) -> None:
    value = {**(rest if isinstance(rest, dict) else {"spec": rest}), "apiVersion": identity[0], "kind": identity[1]}
    try:
        found = images_of(value)
    except ManifestError:
        return
    assert all(follow(value, one) == one.image for one in found)
    json.dumps([one.path for one in found])
