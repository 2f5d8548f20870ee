"""A CA with a certificate for loopback, as files, for servers in tests."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sealkeeper.server.local_ca import LocalCa, host_names


@dataclass(frozen=True)
class TlsFolder:
    """PEM files."""

    ca: Path
    certificate: Path
    key: Path

    @classmethod
    def make(cls, folder: Path) -> TlsFolder:
        now = datetime.now(UTC)
        ca = LocalCa.create("sealkeeper.example", now)
        made = cls(folder / "ca.pem", folder / "server.pem", folder / "server.key")
        ca.pair.write(made.ca, folder / "ca.key")
        names = host_names(["127.0.0.1", "localhost"])
        ca.issue_server(names, now, timedelta(days=1)).write(made.certificate, made.key)
        return made
