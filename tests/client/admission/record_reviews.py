"""Records what a real API server asks a webhook; not a test. What it wrote is in ``recorded``.

``python -m tests.client.admission.record_reviews KUBE_APISERVER ETCD`` starts both on loopback, with everything that
the API server does by itself (defaulting, its admission plugins), and a webhook that allows and keeps what it is sent.
"""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.error import HTTPError, URLError

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.client.admission import reviews
from tests.ports import free_ports
from tests.stores.openbao import make_certificates

FOLDER = Path(__file__).parent / "recorded"
NAMESPACE = "shop-prod"
_TOKEN = "of-a-recording-on-loopback"  # it ends with the API server
_SECONDS = 120


class _Recorder(BaseHTTPRequestHandler):
    seen: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append(data)
        response = {"uid": json.loads(data)["request"]["uid"], "allowed": True}
        answer = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


class _Api:
    def __init__(self, url: str, authority: Path) -> None:
        self._url = url
        self._context = ssl.create_default_context(cafile=str(authority))

    def __call__(self, method: str, path: str, document: Any = None, kind: str = "application/json") -> Any:
        data = None if document is None else json.dumps(document).encode()
        headers = {"Authorization": f"Bearer {_TOKEN}", "Content-Type": kind}
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30, context=self._context) as answer:
            return json.load(answer)

    def ready(self) -> bool:
        try:
            self("GET", "/api/v1/namespaces/default")
        except (HTTPError, URLError, OSError):
            return False
        return True


@contextmanager
def _process(*command: str) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=sys.stderr)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def _cluster(apiserver: str, etcd: str, folder: Path) -> Iterator[_Api]:
    make_certificates(folder)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "accounts.key").write_bytes(key.private_bytes(*pem))
    (folder / "tokens.csv").write_text(f'{_TOKEN},recorder,1,"system:masters"\n')
    store, peers, port = free_ports(3)
    urls = [f"http://127.0.0.1:{one}" for one in (store, peers)]
    with ExitStack() as stack:
        stack.enter_context(
            _process(
                *(etcd, f"--data-dir={folder / 'etcd'}", f"--listen-client-urls={urls[0]}"),
                *(f"--advertise-client-urls={urls[0]}", f"--listen-peer-urls={urls[1]}", "--log-level=error"),
            )
        )
        stack.enter_context(
            _process(
                *(apiserver, f"--etcd-servers={urls[0]}", "--bind-address=127.0.0.1", f"--secure-port={port}"),
                *(f"--tls-cert-file={folder / 'server.pem'}", f"--tls-private-key-file={folder / 'server.key'}"),
                *(f"--token-auth-file={folder / 'tokens.csv'}", "--authorization-mode=RBAC", "--anonymous-auth=false"),
                *("--service-account-issuer=https://recording.example", "--service-cluster-ip-range=10.0.0.0/24"),
                *(f"--service-account-key-file={folder / 'accounts.key'}", "--allow-privileged=true"),
                *(f"--service-account-signing-key-file={folder / 'accounts.key'}", "--endpoint-reconciler-type=none"),
            )
        )
        api, end = _Api(f"https://127.0.0.1:{port}", folder / "ca.pem"), time.monotonic() + _SECONDS
        while not api.ready():
            if time.monotonic() > end:
                raise SystemExit("the API server does not come up")
            time.sleep(0.5)
        yield api


def _watch(api: _Api, folder: Path, port: int) -> None:
    """Have everything sent to the webhook, and wait until it is."""
    bundle = base64.b64encode((folder / "ca.pem").read_bytes()).decode()
    rule = {"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*/*"], "scope": "Namespaced"}
    webhook = {
        "name": "gate.sealkeeper.example",
        "clientConfig": {"url": f"https://127.0.0.1:{port}/validate", "caBundle": bundle},
        "rules": [rule],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}},
        "sideEffects": "NoneOnDryRun",
        "admissionReviewVersions": ["v1"],
    }
    document = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "recorder"},
        "webhooks": [webhook],
    }
    api("POST", "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", document)
    end = time.monotonic() + _SECONDS
    probe = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "probe-"}}
    while not _Recorder.seen and time.monotonic() < end:
        api("POST", f"/api/v1/namespaces/{NAMESPACE}/configmaps?dryRun=All", probe)
        time.sleep(0.5)


def _steps(api: _Api) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is asked for, by the name of its recording."""
    core, apps = f"/api/v1/namespaces/{NAMESPACE}", f"/apis/apps/v1/namespaces/{NAMESPACE}"
    spec = {
        "containers": [{"name": "web", "image": reviews.WEB}, {"name": "proxy", "image": reviews.PROXY}],
        "initContainers": [{"name": "migrate", "image": reviews.MIGRATE}],
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"app": "web"}}, "spec": spec}
    template = {"metadata": {"labels": {"app": "web"}}, "spec": spec}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template},
    }
    job = {"spec": {"template": {"spec": {**spec, "restartPolicy": "Never"}}}}
    cron = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "nightly"},
        "spec": {"schedule": "0 3 * * *", "jobTemplate": job},
    }
    merge, strategic = "application/merge-patch+json", "application/strategic-merge-patch+json"
    debug = {"spec": {"ephemeralContainers": [{"name": "debug", "image": reviews.DEBUG}]}}
    newer = {"spec": {"containers": [{"name": "web", "image": reviews.DEBUG}]}}
    jobs = f"/apis/batch/v1/namespaces/{NAMESPACE}/cronjobs"
    yield "create-pod-dry-run", lambda: api("POST", f"{core}/pods?dryRun=All", pod)
    yield "create-pod", lambda: api("POST", f"{core}/pods", pod)
    yield "label-pod", lambda: api("PATCH", f"{core}/pods/web", {"metadata": {"labels": {"tier": "front"}}}, merge)
    yield "update-pod-image", lambda: api("PATCH", f"{core}/pods/web", newer, strategic)
    yield "debug-pod", lambda: api("PATCH", f"{core}/pods/web/ephemeralcontainers", debug, strategic)
    yield "delete-pod", lambda: api("DELETE", f"{core}/pods/web?gracePeriodSeconds=0")
    yield "create-deployment", lambda: api("POST", f"{apps}/deployments", deployment)
    yield "scale-deployment", lambda: api("PATCH", f"{apps}/deployments/web/scale", {"spec": {"replicas": 3}}, merge)
    yield "create-cron-job", lambda: api("POST", jobs, cron)
    map_ = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"a": "b"}}
    yield "create-config-map", lambda: api("POST", f"{core}/configmaps", map_)


def main(apiserver: str, etcd: str) -> None:
    """Record."""
    with tempfile.TemporaryDirectory() as name, _cluster(apiserver, etcd, Path(name)) as api:
        folder = Path(name)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem", folder / "server.key")
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Recorder)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        api("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
        api("POST", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", account)
        _watch(api, folder, server.server_port)
        FOLDER.mkdir(exist_ok=True)
        for step, act in _steps(api):
            _Recorder.seen.clear()
            act()
            (FOLDER / f"{step}.json").write_bytes(_Recorder.seen[-1].rstrip() + b"\n")
        server.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:3])
