"""An import of a key (BYOK), as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from sealkeeper.hsm import WrappingKey
from sealkeeper.server.resources import KeyImportName, KeyName


class ImportState(StrEnum):
    """What has become of an import, as in the contract."""

    OPEN = "OPEN"
    FINISHED = "FINISHED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class KeyImport:
    """An import.

    Attributes:
        name: its name.
        state: what has become of it.
        key: that gets the version.
        algorithm: name in ``PublicKeyDetails``.
        provider: name of the one that takes the key.
        region: where that is.
        standby: the version is to stand by.
        labels: of a new key.
        begun_by: subject of who began it.
        wrapping_key: that the store offered.
        create_time: when it was begun.
        expire_time: until when it can be finished.
        close_time: when it ceased to be OPEN.
        key_version: that was made; empty unless it is FINISHED.
        left_over: what it left in the store has not been removed yet.
    """

    name: KeyImportName
    state: ImportState
    key: KeyName
    algorithm: str
    provider: str
    region: str
    standby: bool
    labels: Mapping[str, str]
    begun_by: str
    wrapping_key: WrappingKey = field(repr=False)
    create_time: datetime
    expire_time: datetime
    close_time: datetime | None = None
    key_version: str = ""
    left_over: bool = True
