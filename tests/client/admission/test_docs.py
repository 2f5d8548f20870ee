"""The pages on Kubernetes and Gatekeeper name settings, reasons and metrics that there are, and all of them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from sealkeeper.client.admission import asking, verdict
from sealkeeper.client.admission.metrics import GateMetrics
from sealkeeper.client.admission.review import ReviewError
from sealkeeper.client.admission.settings import parse_settings
from sealkeeper.client.workload_images import ManifestError

FOLDER = Path(__file__).parents[3] / "docs" / "gates"
KUBERNETES, GATEKEEPER = ((FOLDER / name).read_text() for name in ("kubernetes.md", "gatekeeper.md"))
LEAST = 'listen = "a:1"\n[tls]\ncertificate = "c"\nkey = "k"\n'


def blocks(page: str) -> list[str]:
    found = re.findall(r"^( *)```toml\n(.*?)^ *```", page, re.DOTALL | re.MULTILINE)
    return [re.sub(f"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def test_the_settings_that_are_shown_can_be_read() -> None:
    [text] = blocks(KUBERNETES)
    found = parse_settings(tomllib.loads(text), Path())
    assert found.rule_for("kube-system") is not None
    [text] = blocks(GATEKEEPER)
    assert set(parse_settings(tomllib.loads(LEAST + text), Path()).external_data) == {"default", "staging"}


def test_every_reason_of_the_webhook_is_explained() -> None:
    codes = {asking.TIMEOUT, asking.FAILED, asking.OVERLOADED, verdict.NOT_PINNED, verdict.NOT_MAPPED, verdict.TOO_MANY}
    codes |= {ReviewError.reason, ManifestError.reason}
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", KUBERNETES, re.MULTILINE)) == codes


def test_every_metric_is_named_and_none_that_there_is_not() -> None:
    names = {one.name for one in vars(GateMetrics()).values()}
    table = KUBERNETES.partition("## Metrics")[2].partition("The share")[0]
    assert set(re.findall(r"`(sealkeeper_gate_\w+)`", table)) == names


@pytest.mark.parametrize("page", [KUBERNETES, GATEKEEPER], ids=["kubernetes", "gatekeeper"])
def test_the_files_that_are_named_are_there(page: str) -> None:
    root = FOLDER.parents[1]
    for name in re.findall(r"deploy/kubernetes/[a-z-]+\.yaml", page):
        assert (root / name).is_file()
