"""Snapshots of gates in a folder: what is decided by while the gateway does not answer.

A folder has, for each gate, ``{gate}.sigstore.json``, and ``trusted_root.json`` and ``keys.json`` as ``sealkeeper trust
export`` writes them. A snapshot is signed with the gate's verdict key, which whoever uses it names. The trust root is
believed as it is: whoever can write the folder decides what is trusted, so it is kept as one keeps a list of CAs.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sealkeeper.client.errors import ConfigurationError
from sealkeeper.verify import TrustRoot
from sealkeeper.verify.gate.snapshot import Snapshot, verify_snapshot

if TYPE_CHECKING:
    from sealkeeper.v1 import gate_pb2

SUFFIX = ".sigstore.json"
_MAX_FILE = 24 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class HeldSnapshot:
    """A snapshot that verifies, and the trust root that it verifies with."""

    snapshot: Snapshot
    trust: TrustRoot


def held_snapshot(
    answer: gate_pb2.GetGateSnapshotResponse,
    gate: str,
    verdict_key: str,
    now: datetime,
    held: HeldSnapshot | None = None,
) -> HeldSnapshot:
    """A snapshot as the gateway gave it.

    Raises:
        VerifyError: it does not verify, has expired, or is older than the one that is held.
    """
    trust, before = TrustRoot.from_json(answer.trusted_root, answer.keys), held.snapshot if held is not None else None
    return HeldSnapshot(verify_snapshot(answer.bundle, trust, gate, verdict_key, now, before), trust)


class SnapshotFolder:
    """Snapshots on disk.

    Args:
        directory: where; it is made when something is written.
        trust: a folder with the trust root that snapshots must verify with, where that is not to be the one that came
            with them.
    """

    def __init__(self, directory: Path, trust: Path | None = None) -> None:
        self._directory = directory
        self._trust = trust

    def write(self, gate: str, answer: gate_pb2.GetGateSnapshotResponse) -> None:
        """Keep what the gateway gave, each file whole or as it was.

        Raises:
            ConfigurationError: the gate's policy names no verdict_key, so its snapshot is not signed.
            OSError: it cannot be written.
        """
        if not answer.bundle:
            raise ConfigurationError(
                f"{gate}: its policy names no verdict_key, so nobody signs what a gate could decide by offline",
                next_step="propose a policy with verdict_key: sealkeeper gate policy set",
            )
        self._directory.mkdir(parents=True, exist_ok=True)
        _write(self._directory / "trusted_root.json", answer.trusted_root)
        _write(self._directory / "keys.json", answer.keys)
        _write(self._path(gate), answer.bundle)

    def read(self, gate: str, verdict_key: str, now: datetime) -> HeldSnapshot:
        """Read a gate's snapshot.

        Raises:
            VerifyError: it does not verify, or has expired.
            OSError: there is none.
        """
        trust = TrustRoot.from_directory(self._trust or self._directory)
        with self._path(gate).open("rb") as file:
            data = file.read(_MAX_FILE)
        return HeldSnapshot(verify_snapshot(data, trust, gate, verdict_key, now), trust)

    def _path(self, gate: str) -> Path:
        return self._directory / f"{gate.rpartition('/')[2]}{SUFFIX}"


def _write(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
