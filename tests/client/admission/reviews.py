"""Admission reviews with every member that an API server of Kubernetes 1.30 and later sends.

Written from the API's documentation (kube-apiserver Admission v1, and the reference of each kind), with what defaulting
and the built-in admission plugins have added by then: service account volume, tolerations, managed fields.
"""

from __future__ import annotations

import copy
import json
from typing import Any

WEB = "registry.example.com/shop/web:1.4.2"
PROXY = "registry.example.com/mesh/proxy@sha256:" + "a" * 64
MIGRATE = "registry.example.com/shop/migrate:1.4.2"
DEBUG = "registry.example.com/tools/debug:2"
UID = "705ab4f5-6393-11e8-b7cc-42010a800002"


def _group_version(group: str, version: str, last: tuple[str, str]) -> dict[str, str]:
    return {"group": group, "version": version, last[0]: last[1]}


def review(
    operation: str,
    kind: tuple[str, str, str],
    resource: str,
    document: dict[str, Any] | None,
    old: dict[str, Any] | None = None,
    *,
    namespace: str = "shop-prod",
    name: str = "",
    sub_resource: str = "",
    dry_run: bool = False,
) -> dict[str, Any]:
    """The whole document."""
    group, version, of_kind = kind
    options = {"CREATE": "CreateOptions", "UPDATE": "UpdateOptions", "DELETE": "DeleteOptions"}.get(operation)
    request: dict[str, Any] = {
        "uid": UID,
        "kind": _group_version(group, version, ("kind", of_kind)),
        "resource": _group_version(group, version, ("resource", resource)),
        "requestKind": _group_version(group, version, ("kind", of_kind)),
        "requestResource": _group_version(group, version, ("resource", resource)),
        "namespace": namespace,
        "operation": operation,
        "userInfo": USER,
        "object": document,
        "oldObject": old,
        "dryRun": dry_run,
        "options": {"kind": options, "apiVersion": "meta.k8s.io/v1"} if options else None,
    }
    if name:
        request["name"] = name
    if sub_resource:
        request |= {"subResource": sub_resource, "requestSubResource": sub_resource}
    return {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}


USER = {
    "username": "system:serviceaccount:kube-system:replicaset-controller",
    "uid": "2a1d6b80-9b0d-4ee0-8f57-5d7fb7f9d9a1",
    "groups": ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"],
    "extra": {"authentication.kubernetes.io/credential-id": ["JTI=4b2cb1f4-8f0d-49cd-9d4e-24f1b9c5f1aa"]},
}
_PROBE = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
_TOKEN = {
    "name": "kube-api-access-9w7tk",
    "projected": {
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {
                "downwardAPI": {
                    "items": [
                        {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
                    ]
                }
            },
        ],
        "defaultMode": 420,
    },
}


def container(name: str, image: str) -> dict[str, Any]:
    return {
        "name": name,
        "image": image,
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
        "env": [
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}},
            {"name": "DSN", "valueFrom": {"secretKeyRef": {"name": "web-db", "key": "dsn"}}},
        ],
        "resources": {"limits": {"cpu": "500m", "memory": "256Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
        "volumeMounts": [
            {
                "name": "kube-api-access-9w7tk",
                "readOnly": True,
                "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
            }
        ],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": "http", "scheme": "HTTP"}, **_PROBE},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "IfNotPresent",
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }


def pod_spec(images: dict[str, str]) -> dict[str, Any]:
    return {
        "volumes": [copy.deepcopy(_TOKEN)],
        "containers": [container(name, image) for name, image in images.items()],
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "serviceAccountName": "web",
        "serviceAccount": "web",
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "affinity": {
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {
                        "weight": 100,
                        "podAffinityTerm": {
                            "labelSelector": {
                                "matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]
                            },
                            "topologyKey": "kubernetes.io/hostname",
                        },
                    }
                ]
            }
        },
        "schedulerName": "default-scheduler",
        "tolerations": [
            {"key": one, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
            for one in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
        ],
        "priority": 0,
        "enableServiceLinks": True,
        "preemptionPolicy": "PreemptLowerPriority",
    }


def managed_fields(manager: str, api_version: str, depth: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "manager": manager,
            "operation": "Update",
            "apiVersion": api_version,
            "time": "2026-03-02T09:41:07Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": depth,
        }
    ]


_CONTAINER_FIELDS = {
    'k:{"name":"web"}': {
        ".": {},
        "f:env": {".": {}, 'k:{"name":"DSN"}': {".": {}, "f:valueFrom": {".": {}, "f:secretKeyRef": {}}}},
        "f:image": {},
        "f:ports": {".": {}, 'k:{"containerPort":8080,"protocol":"TCP"}': {".": {}, "f:containerPort": {}}},
    }
}


def pod(images: dict[str, str] | None = None, *, init: str = MIGRATE, generated: bool = True) -> dict[str, Any]:
    """As the ReplicaSet controller creates it; then it has no name yet."""
    spec = pod_spec(images or {"web": WEB, "proxy": PROXY})
    if init:
        spec["initContainers"] = [container("migrate", init)]
    owner = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": "web-6c8f9d7b5",
        "uid": "5e1f9e8b-1a63-4f39-86a8-d1d0e8d4a6ab",
        "controller": True,
        "blockOwnerDeletion": True,
    }
    fields = {"f:metadata": {"f:generateName": {}}, "f:spec": {"f:containers": _CONTAINER_FIELDS}}
    metadata: dict[str, Any] = {
        "generateName": "web-6c8f9d7b5-",
        "namespace": "shop-prod",
        "creationTimestamp": None,
        "labels": {"app": "web", "pod-template-hash": "6c8f9d7b5"},
        "ownerReferences": [owner],
        "managedFields": managed_fields("kube-controller-manager", "v1", fields),
    }
    if not generated:
        metadata |= {"name": "web-6c8f9d7b5-x2k4q", "uid": "0d6d5b66-0f5e-4d7c-8c3e-6f4f6c8f9d7b"}
        metadata |= {"resourceVersion": "184467", "creationTimestamp": "2026-03-02T09:41:07Z"}
    return {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": spec, "status": {}}


def create_pod(images: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    return review("CREATE", ("", "v1", "Pod"), "pods", pod(images), **more)


def _workload(kind: str, api_version: str, spec: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": kind,
        "apiVersion": api_version,
        "metadata": {
            "name": "web",
            "namespace": "shop-prod",
            "uid": "3f1f7b3c-52a5-47a5-8cf8-6a3c9b2f6a0e",
            "generation": 1,
            "creationTimestamp": "2026-03-02T09:41:06Z",
            "labels": {"app": "web"},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": '{"apiVersion":"apps/v1"}\n'},
            "managedFields": managed_fields("kubectl-client-side-apply", api_version, fields),
        },
        "spec": spec,
        "status": {},
    }


def _template(images: dict[str, str]) -> dict[str, Any]:
    spec = pod_spec(images)
    # What is added to pods only.
    for name in ("volumes", "tolerations", "priority", "enableServiceLinks", "preemptionPolicy"):
        del spec[name]
    return {"metadata": {"creationTimestamp": None, "labels": {"app": "web"}}, "spec": spec}


def deployment(images: dict[str, str] | None = None, replicas: int = 3) -> dict[str, Any]:
    spec = {
        "replicas": replicas,
        "selector": {"matchLabels": {"app": "web"}},
        "template": _template(images or {"web": WEB}),
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}},
        "revisionHistoryLimit": 10,
        "progressDeadlineSeconds": 600,
    }
    fields = {"f:spec": {"f:template": {"f:spec": {"f:containers": _CONTAINER_FIELDS}}}}
    return _workload("Deployment", "apps/v1", spec, fields)


def create_deployment(images: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    kind = ("apps", "v1", "Deployment")
    return review("CREATE", kind, "deployments", deployment(images), name="web", **more)


def scale_deployment(images: dict[str, str] | None = None) -> dict[str, Any]:
    """An update of the Deployment itself; the subresource ``scale`` brings no images at all."""
    kind = ("apps", "v1", "Deployment")
    return review("UPDATE", kind, "deployments", deployment(images, 5), deployment(), name="web")


def create_cron_job() -> dict[str, Any]:
    job = {"template": _template({"report": WEB})}
    spec = {
        "schedule": "15 3 * * *",
        "concurrencyPolicy": "Forbid",
        "suspend": False,
        "jobTemplate": {"metadata": {"creationTimestamp": None}, "spec": job},
        "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 1,
    }
    inner = {"f:template": {"f:spec": {"f:containers": _CONTAINER_FIELDS}}}
    document = _workload("CronJob", "batch/v1", spec, {"f:spec": {"f:jobTemplate": {"f:spec": inner}}})
    return review("CREATE", ("batch", "v1", "CronJob"), "cronjobs", document, name="web")


def debug_pod(image: str = DEBUG) -> dict[str, Any]:
    """``kubectl debug``: an update of the subresource ``ephemeralcontainers``, whose object is the whole pod."""
    before = pod(generated=False)
    after = copy.deepcopy(before)
    ephemeral = {
        "name": "debugger-7x2fz",
        "image": image,
        "stdin": True,
        "tty": True,
        "targetContainerName": "web",
        "resources": {},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "IfNotPresent",
    }
    after["spec"]["ephemeralContainers"] = [ephemeral]
    name = before["metadata"]["name"]
    kind = ("", "v1", "Pod")
    return review("UPDATE", kind, "pods", after, before, name=name, sub_resource="ephemeralcontainers")


def label_pod() -> dict[str, Any]:
    """An update that brings no other images."""
    before = pod(generated=False)
    after = copy.deepcopy(before)
    after["metadata"]["labels"]["tier"] = "front"
    return review("UPDATE", ("", "v1", "Pod"), "pods", after, before, name=before["metadata"]["name"])


def delete_pod() -> dict[str, Any]:
    before = pod(generated=False)
    return review("DELETE", ("", "v1", "Pod"), "pods", None, before, name=before["metadata"]["name"])


def exec_pod() -> dict[str, Any]:
    options = {
        "kind": "PodExecOptions",
        "apiVersion": "v1",
        "stdin": True,
        "stdout": True,
        "tty": True,
        "container": "web",
        "command": ["sh"],
    }
    kind = ("", "v1", "PodExecOptions")
    return review("CONNECT", kind, "pods", options, name="web-6c8f9d7b5-x2k4q", sub_resource="exec")


def create_config_map() -> dict[str, Any]:
    document = {
        "kind": "ConfigMap",
        "apiVersion": "v1",
        "metadata": {"name": "web", "namespace": "shop-prod", "creationTimestamp": None},
        "data": {"app.toml": "level = 3\n"},
    }
    return review("CREATE", ("", "v1", "ConfigMap"), "configmaps", document, name="web")


def as_bytes(document: Any) -> bytes:
    """As Go's encoder writes it: no spaces, a line end."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
