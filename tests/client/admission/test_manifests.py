"""The manifests of ``deploy/kubernetes`` fail closed, run with no rights, and fit together."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import regopy  # type: ignore[import-untyped]
import yaml

from sealkeeper.client.admission.settings import WebhookSettings, parse_settings
from sealkeeper.client.admission.time_budget import deadline_for
from sealkeeper.client.admission.verdict import is_pinned
from sealkeeper.client.connection import Connection
from sealkeeper.client.workload_images import images_of
from tests.client.admission import reviews

FOLDER = Path(__file__).parents[3] / "deploy" / "kubernetes"
DOCUMENTS: list[dict[str, Any]] = [
    one for path in sorted(FOLDER.glob("*.yaml")) for one in yaml.safe_load_all(path.read_text())
]
NAMESPACE = "sealkeeper-gate"
CONFIGURATIONS = ("ValidatingWebhookConfiguration", "MutatingWebhookConfiguration")


def the(kind: str, name: str = "") -> dict[str, Any]:
    [found] = [one for one in DOCUMENTS if one["kind"] == kind and (not name or one["metadata"]["name"] == name)]
    return found


def settings() -> WebhookSettings:
    text = the("ConfigMap")["data"]["webhook.toml"]
    return parse_settings(tomllib.loads(text), Path("/etc/sealkeeper"))


def pod_spec() -> dict[str, Any]:
    spec: dict[str, Any] = the("Deployment")["spec"]["template"]["spec"]
    return spec


def test_the_settings_and_the_connection_can_be_read(tmp_path: Path) -> None:
    found = settings()
    assert found.connection == Path("/etc/sealkeeper/client.toml")
    data = the("ConfigMap")["data"]
    assert {"webhook.toml", "client.toml", "gateway-ca.pem"} == set(data)
    (tmp_path / "client.toml").write_text(data["client.toml"])
    connection = Connection.load(tmp_path / "client.toml", environment={})
    assert connection.tokens is not None
    assert connection.ca == tmp_path / "gateway-ca.pem"


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_what_the_webhook_does_not_answer_is_refused(kind: str) -> None:
    for webhook in the(kind)["webhooks"]:
        assert webhook["failurePolicy"] == "Fail"
        assert webhook["matchPolicy"] == "Equivalent"
        assert webhook["sideEffects"] in ("None", "NoneOnDryRun")
        assert webhook["admissionReviewVersions"] == ["v1"]


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_the_webhook_answers_before_the_api_server_gives_up(kind: str) -> None:
    for webhook in the(kind)["webhooks"]:
        budget = settings().limits.budget
        assert budget < webhook["timeoutSeconds"]
        assert deadline_for(f"{webhook['timeoutSeconds']}s", 0.0, budget) == budget


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_the_ca_is_put_in_by_cert_manager_of_a_certificate_that_there_is(kind: str) -> None:
    configuration = the(kind)
    namespace, name = configuration["metadata"]["annotations"]["cert-manager.io/inject-ca-from"].split("/")
    certificate = the("Certificate", name)
    assert certificate["metadata"]["namespace"] == namespace
    for webhook in configuration["webhooks"]:
        service = webhook["clientConfig"]["service"]
        assert f"{service['name']}.{service['namespace']}.svc" in certificate["spec"]["dnsNames"]
        assert "caBundle" not in webhook["clientConfig"]


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_the_webhook_can_start_where_it_does_not_run_yet(kind: str) -> None:
    for webhook in the(kind)["webhooks"]:
        [one] = webhook["namespaceSelector"]["matchExpressions"]
        assert (one["key"], one["operator"]) == ("kubernetes.io/metadata.name", "NotIn")
        assert set(one["values"]) == {NAMESPACE, "kube-system", "cert-manager"}


@pytest.mark.parametrize(
    ("kind", "path"), [("ValidatingWebhookConfiguration", "/validate"), ("MutatingWebhookConfiguration", "/mutate")]
)
def test_the_service_leads_to_the_port_that_the_webhook_listens_on(kind: str, path: str) -> None:
    [webhook] = the(kind)["webhooks"]
    target = webhook["clientConfig"]["service"]
    assert target["path"] == path
    service = the("Service", target["name"])
    assert service["metadata"]["namespace"] == target["namespace"]
    assert service["spec"]["selector"] == the("Deployment")["spec"]["template"]["metadata"]["labels"]
    [port] = [one["targetPort"] for one in service["spec"]["ports"] if one["port"] == target["port"]]
    ports = {one["name"]: one["containerPort"] for one in pod_spec()["containers"][0]["ports"]}
    assert settings().listen.endswith(f":{ports[port]}")
    assert settings().metrics_listen.endswith(f":{ports['metrics']}")


@pytest.mark.parametrize(
    ("group", "resource"),
    [
        ("", "pods"),
        ("", "pods/ephemeralcontainers"),
        ("", "replicationcontrollers"),
        ("", "podtemplates"),
        *(("apps", one) for one in ("deployments", "statefulsets", "daemonsets", "replicasets")),
        ("batch", "jobs"),
        ("batch", "cronjobs"),
    ],
)
def test_creation_and_change_of_everything_that_runs_images_is_asked_about(group: str, resource: str) -> None:
    [webhook] = the("ValidatingWebhookConfiguration")["webhooks"]
    rules = [one for one in webhook["rules"] if group in one["apiGroups"] and resource in one["resources"]]
    assert [set(one["operations"]) for one in rules] == [{"CREATE", "UPDATE"}]


def test_tags_are_pinned_in_pods_only() -> None:
    [webhook] = the("MutatingWebhookConfiguration")["webhooks"]
    assert [one["resources"] for one in webhook["rules"]] == [["pods", "pods/ephemeralcontainers"]]
    assert webhook["sideEffects"] == "None"


def test_every_image_is_named_by_digest() -> None:
    images = [image.image for one in DOCUMENTS if one["kind"] == "Deployment" for image in images_of(one)]
    assert images
    assert all(is_pinned(one) for one in images)


def test_the_pods_have_no_rights_that_they_do_not_need() -> None:
    spec = pod_spec()
    assert spec["automountServiceAccountToken"] is False
    assert the("ServiceAccount")["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not any(spec.get(one) for one in ("hostNetwork", "hostPID", "hostIPC"))
    for container in spec["containers"]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]
    assert {next(iter(set(one) - {"name"})) for one in spec["volumes"]} <= {
        *("configMap", "secret", "projected", "emptyDir")
    }
    labels = the("Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_one_pod_may_go_while_another_answers() -> None:
    deployment, budget = the("Deployment"), the("PodDisruptionBudget")
    assert deployment["spec"]["replicas"] > budget["spec"]["minAvailable"] >= 1
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert budget["spec"]["selector"] == deployment["spec"]["selector"]
    limits = settings().limits
    assert pod_spec()["terminationGracePeriodSeconds"] > limits.drain + limits.budget


def test_what_the_settings_name_is_mounted() -> None:
    found, [container] = settings(), pod_spec()["containers"]
    mounts = {Path(one["mountPath"]) for one in container["volumeMounts"]}
    assert {found.tls.certificate.parent, found.tls.key.parent, found.folder} <= mounts
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod_spec()["volumes"]}
    client = tomllib.loads(the("ConfigMap")["data"]["client.toml"])
    assert Path(client["token_file"]).parent in mounts
    assert container["command"] == ["sealkeeper", "gate", "webhook", "/etc/sealkeeper/webhook.toml"]
    [secret] = [one["secret"]["secretName"] for one in pod_spec()["volumes"] if "secret" in one]
    assert secret == the("Certificate", "gate-webhook")["spec"]["secretName"]


def test_probes_need_no_client_certificate() -> None:
    [container] = pod_spec()["containers"]
    for name, path in (("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")):
        assert container[name]["httpGet"] == {"path": path, "port": "metrics"}


def test_network_policy_lets_in_only_who_asks_and_who_measures() -> None:
    policy = the("NetworkPolicy")["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert policy["podSelector"] == the("Deployment")["spec"]["selector"]
    for one in policy["ingress"]:
        assert one["from"]
        assert all(source.get("ipBlock", {}).get("cidr") != "0.0.0.0/0" for source in one["from"])
    assert {port["port"] for one in policy["ingress"] for port in one["ports"]} == {"webhook", "metrics"}


def test_everything_is_in_the_namespace_and_in_the_kustomization() -> None:
    cluster_wide = {*CONFIGURATIONS, "Namespace", "Kustomization", "Provider", "ConstraintTemplate", "SealkeeperGate"}
    for one in DOCUMENTS:
        if one["kind"] not in cluster_wide:
            assert one["metadata"]["namespace"] == NAMESPACE
    named = set(the("Kustomization")["resources"])
    there = {path.name for path in FOLDER.glob("*.yaml")}
    assert there - named == {"kustomization.yaml", "mutating-webhook.yaml", "gatekeeper.yaml"}
    assert named <= there


def test_gatekeeper_asks_for_a_gate_that_there_is_and_waits_long_enough() -> None:
    provider = the("Provider")["spec"]
    url = urlsplit(provider["url"])
    assert (url.scheme, url.path) == ("https", "/external-data/validate")
    assert url.hostname in the("Certificate", "gate-webhook")["spec"]["dnsNames"]
    assert "default" in settings().external_data
    [timeout] = parse_qs(url.query)["timeout"]
    assert deadline_for(timeout, 0.0, settings().limits.budget) < provider["timeout"] < 3
    constraint = the("SealkeeperGate")
    assert constraint["spec"]["enforcementAction"] == "deny"
    assert constraint["spec"]["parameters"]["provider"] == the("Provider")["metadata"]["name"]


def violations(document: dict[str, Any], answer: dict[str, Any]) -> list[str]:
    """What the template refuses, where ``external_data``, which Gatekeeper adds to Rego, answers so."""
    [code] = the("ConstraintTemplate")["spec"]["targets"][0]["code"]
    assert (code["engine"], code["source"]["version"]) == ("Rego", "v1")
    call = 'external_data({"provider": input.parameters.provider, "keys": keys})'
    assert code["source"]["rego"].count(call) == 1
    interpreter = regopy.Interpreter()
    interpreter.add_module("gate", code["source"]["rego"].replace(call, "input.answer"))
    interpreter.set_input({"review": document["request"], "parameters": {"provider": "p"}, "answer": answer})
    [found] = json.loads(str(interpreter.query("data.sealkeepergate.violation")))["expressions"]
    return sorted(one["msg"] for one in found)


def answer(*images: str, error: str = "", system: str = "") -> dict[str, Any]:
    return {
        "responses": [[one, f"{one}@digest"] for one in images],
        "errors": [[reviews.WEB, error]] if error else [],
        "status_code": 200,
        "system_error": system,
    }


_IMAGES = (reviews.WEB, reviews.PROXY, reviews.MIGRATE)


@pytest.mark.parametrize(
    ("document", "images"),
    [
        (reviews.create_pod(), _IMAGES),
        (reviews.create_deployment(), (reviews.WEB,)),
        (reviews.create_cron_job(), (reviews.WEB,)),
        (reviews.debug_pod(), (*_IMAGES, reviews.DEBUG)),
    ],
    ids=["pod", "deployment", "cron job", "ephemeral container"],
)
def test_gatekeepers_template_refuses_each_image_that_is_not_allowed(
    document: dict[str, Any], images: tuple[str, ...]
) -> None:
    assert violations(document, answer(*images)) == []
    for missing in images:
        others = [one for one in images if one != missing]
        assert violations(document, answer(*others)) == [f"{missing}: the gate has not allowed it"]


def test_gatekeepers_template_sees_image_volumes() -> None:
    document = reviews.create_pod()
    document["request"]["object"]["spec"]["volumes"].append({"name": "m", "image": {"reference": "model:1"}})
    assert violations(document, answer(*_IMAGES)) == ["model:1: the gate has not allowed it"]


def test_gatekeepers_template_shows_errors_and_refuses_by_a_system_error() -> None:
    document = reviews.create_deployment()
    refused = violations(document, answer(error="PROVENANCE_MISSING: none"))
    assert refused == [f"{reviews.WEB}: PROVENANCE_MISSING: none", f"{reviews.WEB}: the gate has not allowed it"]
    assert violations(document, answer(reviews.WEB, system="late")) == ["not decided: late"]


@pytest.mark.parametrize("nothing", [{}, {"responses": None, "errors": None, "system_error": ""}])
def test_gatekeepers_template_refuses_where_there_is_no_answer(nothing: dict[str, Any]) -> None:
    assert violations(reviews.create_deployment(), nothing) == [f"{reviews.WEB}: the gate has not allowed it"]


@pytest.mark.parametrize(
    "document",
    [reviews.label_pod(), reviews.scale_deployment(), reviews.delete_pod()],
    ids=["label", "scale", "delete"],
)
def test_gatekeepers_template_lets_through_what_brings_no_image(document: dict[str, Any]) -> None:
    # Gatekeeper puts the old object there when one is deleted.
    document["request"]["object"] = document["request"]["object"] or document["request"]["oldObject"]
    assert violations(document, {}) == []
