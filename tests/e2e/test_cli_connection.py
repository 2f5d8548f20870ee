"""Who may not connect is told what to look at: gRPC itself says only that nothing answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sealkeeper.client import Client, Connection
from sealkeeper.client.errors import UnavailableError
from tests.client.test_tls_files import write_identity
from tests.e2e.running import NO_RETRY, PARENT, Running


def next_step(connection: Connection) -> str:
    with Client(connection, retry=NO_RETRY, timeout=10) as client, pytest.raises(UnavailableError) as caught:
        client.trust_root(PARENT)
    return caught.value.next_step


def test_a_ca_that_did_not_issue_the_gateways_certificate_is_named(gateway: Running, tmp_path: Path) -> None:
    other = write_identity(tmp_path)
    assert "ca:" in next_step(replace(gateway.connection("ci"), ca=other.ca))


def test_a_certificate_that_the_gateway_does_not_know_is_named(gateway: Running, tmp_path: Path) -> None:
    other = write_identity(tmp_path)
    foreign = replace(gateway.connection("ci"), certificate=other.certificate, key=other.key)
    assert "certificate" in next_step(foreign)


def test_a_port_that_speaks_no_tls_is_named(gateway: Running) -> None:
    assert "endpoint" in next_step(replace(gateway.connection("ci"), endpoint=gateway.addresses["http"]))
