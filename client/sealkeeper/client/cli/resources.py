"""Keys, versions and their like, as tables and JSON documents show them."""

from __future__ import annotations

import re
from datetime import UTC
from typing import TYPE_CHECKING, Any

from sealkeeper.client.cli.output import print_table, printable

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from sealkeeper.v1 import resources_pb2

_NOT_SET = "UNSPECIFIED"


def enum_name(message: Any, field: str) -> str:
    """The value of a field, without the prefix of its kind; its number where this client does not know it."""
    return _name(message, field, getattr(message, field))


def enum_names(message: Any, field: str) -> list[str]:
    """The values of a repeated field; as ``enum_name``."""
    return [_name(message, field, one) for one in getattr(message, field)]


def known_name(message: Any, field: str) -> str | None:
    """As ``enum_name``; ``None`` where it is not set."""
    name = enum_name(message, field)
    return None if name == _NOT_SET else name


def _name(message: Any, field: str, number: int) -> str:
    kind = message.DESCRIPTOR.fields_by_name[field].enum_type
    if number not in kind.values_by_number:
        return str(number)
    name: str = kind.values_by_number[number].name
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", kind.name).upper() + "_"
    return name.removeprefix(prefix)


def short_name(name: str) -> str:
    """``release/1`` of ``tenants/acme/keys/release/versions/1``; the last part of other names."""
    key = name.partition("/keys/")[2].replace("/versions/", "/")
    return key or name.rpartition("/")[2]


def time_text(moment: Timestamp) -> str:
    """An instant, for a person."""
    return moment.ToDatetime(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def time_of(message: Any, field: str) -> str:
    """An instant, for a person; empty where it is not set."""
    return time_text(getattr(message, field)) if message.HasField(field) else ""


def where(version: resources_pb2.KeyVersion) -> str:
    """The provider of a version, how it keeps keys, and its region where that is known."""
    region = f", {printable(version.region)}" if version.region else ""
    return f"{printable(version.provider)} ({enum_name(version, 'protection_level')}{region})"


def key_document(key: resources_pb2.Key) -> dict[str, Any]:
    """For ``--json``."""
    return {
        "name": key.name,
        "algorithm": enum_name(key, "algorithm"),
        "provider": key.provider,
        "activeVersion": key.active_version or None,
        "standbyVersion": key.standby_version or None,
        "failover": known_name(key, "failover"),
        "labels": dict(key.labels),
        "createTime": key.create_time.ToJsonString(),
        "etag": key.etag,
    }


def version_document(version: resources_pb2.KeyVersion) -> dict[str, Any]:
    """For ``--json``."""
    times = ("create_time", "activate_time", "retire_time", "compromise_time", "destroy_time")
    document: dict[str, Any] = {
        "name": version.name,
        "state": enum_name(version, "state"),
        "algorithm": enum_name(version, "algorithm"),
        "provider": version.provider,
        "protectionLevel": enum_name(version, "protection_level"),
        "region": version.region or None,
        "origin": known_name(version, "origin"),
        "standby": version.standby,
        "hint": version.hint,
    }
    for field in times:
        if version.HasField(field):  # type: ignore[arg-type]  # names of the message's own fields
            camel = field.split("_")[0] + "Time"
            document[camel] = getattr(version, field).ToJsonString()
    return document


def made_text(version: resources_pb2.KeyVersion) -> str:
    """A sentence on a version that has been made just now."""
    state = enum_name(version, "state")
    verb = "stands by" if version.standby else "signs"
    when = "" if state == "ACTIVE" else f", {verb} from {time_text(version.activate_time)} on"
    return f"made {printable(version.name)}: {state}{when}"


def ceremony_hint(version: resources_pb2.KeyVersion) -> str:
    """Where to find how a version came to be."""
    return f"how it came to be, for the file: sealkeeper keys ceremony {printable(short_name(version.name))}"


def print_versions(found: list[resources_pb2.KeyVersion]) -> None:
    """A table of a key's versions."""
    rows = [
        (
            one.name.rpartition("/")[2],
            enum_name(one, "state"),
            where(one),
            known_name(one, "origin") or "",
            time_of(one, "activate_time"),
            time_of(one, "retire_time"),
            _remark(one),
        )
        for one in found
    ]
    print_table(("VERSION", "STATE", "KEPT IN", "ORIGIN", "SIGNS FROM", "UNTIL", ""), rows)


def _remark(version: resources_pb2.KeyVersion) -> str:
    remarks = ["stands by"] if version.standby else []
    if version.HasField("destroy_time"):
        remarks.append(f"destruction {time_text(version.destroy_time)}")
    elif version.HasField("compromise_time"):
        remarks.append(f"refused from {time_text(version.compromise_time)}")
    return "; ".join(remarks)
