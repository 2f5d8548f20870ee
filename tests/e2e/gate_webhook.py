"""``sealkeeper gate webhook`` as a process of its own, asked over TLS as an API server asks."""

from __future__ import annotations

import json
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.client.admission.reviews import create_pod
from tests.client.admission.tls_calls import Authority, caller
from tests.e2e.command import COMMAND, settings
from tests.e2e.running import PARENT, Running


@dataclass(frozen=True)
class RunningWebhook:
    """A webhook that runs.

    Attributes:
        addresses: that it listens on.
        tls: of callers.
        process: it.
    """

    addresses: dict[str, str]
    tls: ssl.SSLContext
    process: subprocess.Popen[bytes]

    def post(self, path: str, document: Any) -> Any:
        """What it answers."""
        request = urllib.request.Request(
            f"https://{self.addresses['webhook']}{path}",
            json.dumps(document).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, context=self.tls, timeout=30) as response:
            return json.loads(response.read())

    def admit(self, *images: str, **more: Any) -> Any:
        """The response to a review of a new pod; its init container has the first image too."""
        asked = create_pod({f"c{place}": image for place, image in enumerate(images)}, **more)
        asked["request"]["object"]["spec"]["initContainers"][0]["image"] = images[0]
        return self.post("/validate?timeout=10s", asked)["response"]

    def metrics(self) -> str:
        """Its metrics."""
        with urllib.request.urlopen(f"http://{self.addresses['metrics']}/metrics", timeout=10) as response:
            text: str = response.read().decode()
            return text


@contextmanager
def running_webhook(gateway: Running, folder: Path, registry: str, decider: str = "") -> Iterator[RunningWebhook]:
    """A webhook that asks the gate ``prod`` of a gateway.

    Args:
        gateway: that decides.
        folder: for its files.
        registry: host of a local registry.
        decider: more settings of how it is decided.
    """
    authority = Authority.make(folder)
    tls = authority.serve()
    path = folder / "webhook.toml"
    path.write_text(
        f"""
listen = "127.0.0.1:0"
metrics_listen = "127.0.0.1:0"
connection = "{settings(gateway, "verifier", folder)}"

[tls]
certificate = "{tls.certificate}"
key = "{tls.key}"

[[namespaces]]
names = ["shop-*"]
gate = "{PARENT}/gates/prod"

[external_data.default]
gate = "{PARENT}/gates/prod"

[decider]
local_registries = ["{registry}"]
snapshots = "held"
refresh = 1
{decider}

[decider.verdict_keys]
"{PARENT}/gates/prod" = "{PARENT}/keys/verdicts"
"""
    )
    with (folder / "webhook.log").open("wb") as log:
        process = subprocess.Popen([*COMMAND, "gate", "webhook", str(path)], stdout=subprocess.PIPE, stderr=log)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (folder / "webhook.log").read_text()
        yield RunningWebhook(json.loads(line)["serving"], caller(folder / "ca.crt"), process)
    finally:
        process.terminate()
        process.wait(20)
        if process.stdout is not None:
            process.stdout.close()
