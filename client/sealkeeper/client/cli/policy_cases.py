"""Files of cases for ``sealkeeper policy test``: TOML, one ``[[case]]`` for each question with its expected answer."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from sealkeeper.client.errors import FieldViolation, InvalidRequestError

if TYPE_CHECKING:
    from sealkeeper.v1 import policy_pb2

MAX_FILE = 4 * 1024 * 1024
"""Bytes of a file of cases."""
_MEMBERS = ("name", "principal", "action", "resource", "labels", "address", "time", "expect", "policy", "approvals")
_PRINCIPAL = ("role", "subject", "method", "person", "issuer", "attributes", "hardware", "acr", "amr")
_COLLECTIONS = ("keys", "keyImports", "providers", "grants", "proposals", "attestations", "gates")
_KINDS = {str: "a string", bool: "true or false", int: "a whole number", dict: "a table", list: "a list"}
T = TypeVar("T")


def resource_name(parent: str, name: str) -> str:
    """A resource's full name: of a key ``release``, of others ``proposals/p-1``; empty for the tenant itself."""
    if name.startswith(("tenants/", "logs/")):
        return name
    if not name:
        return parent
    if name.partition("/")[0] in _COLLECTIONS:
        return f"{parent}/{name}"
    return f"{parent}/keys/{name}"


def read_cases(text: str, parent: str) -> list[policy_pb2.PolicyCase]:
    """The cases of a file.

    Args:
        text: TOML.
        parent: ``tenants/{tenant}``, for short names.

    Raises:
        InvalidRequestError: naming the case and its member.
    """
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise _invalid("cases", f"not TOML: {error}") from None
    unknown = [name for name in document if name != "case"]
    if unknown:
        raise _invalid(unknown[0], "there is no such member: only [[case]]")
    cases = document.get("case")
    if not isinstance(cases, list) or not cases:
        raise _invalid("case", "there must be at least one [[case]]")
    return [_case(one, place, parent) for place, one in enumerate(cases)]


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of a case, and what it is called in errors."""

    members: Mapping[str, Any]
    place: str

    def get(self, name: str, kind: type[T], default: T) -> T:
        """A member, which may be missing."""
        value = self.members.get(name, default)
        # To Python, true is a number.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise _invalid(f"{self.place}.{name}", f"must be {_KINDS[kind]}")
        return value

    def text(self, name: str) -> str:
        """A string that must be there."""
        found = self.get(name, str, "")
        if not found:
            raise _invalid(f"{self.place}.{name}", "must be there")
        return found

    def only(self, names: Sequence[str]) -> None:
        """Refuse other members."""
        for name in self.members:
            if name not in names:
                raise _invalid(f"{self.place}.{name}", f"there is no such member; known are {', '.join(names)}")


def _case(members: Any, number: int, parent: str) -> policy_pb2.PolicyCase:
    from sealkeeper.v1 import policy_pb2

    place = f"case[{number}]"
    if not isinstance(members, dict):
        raise _invalid(place, "must be a table")
    name = _Table(members, place).text("name")
    table = _Table(members, f"{place} ({name[:80]})")
    table.only(_MEMBERS)
    expect = table.text("expect")
    if expect not in ("allow", "deny"):
        raise _invalid(f"{table.place}.expect", "must be allow or deny")
    case = policy_pb2.PolicyCase(name=name, allowed=expect == "allow", policy=table.get("policy", str, ""))
    if "approvals" in members:
        approvals = table.get("approvals", int, 0)
        if not 0 <= approvals <= 10:
            raise _invalid(f"{table.place}.approvals", "must be from 0 to 10")
        case.approvals = approvals
    case.request.CopyFrom(_request(table, parent))
    return case


def _request(table: _Table, parent: str) -> policy_pb2.AccessRequest:
    from sealkeeper.v1 import policy_pb2

    principal = _Table(table.get("principal", dict, {}), f"{table.place}.principal")
    request = policy_pb2.AccessRequest(
        principal=_principal(principal),
        action=table.text("action"),
        resource=resource_name(parent, table.get("resource", str, "")),
        labels=_texts(_Table(table.get("labels", dict, {}), f"{table.place}.labels")),
        address=table.get("address", str, ""),
    )
    if "time" in table.members:
        moment = table.members["time"]
        if not isinstance(moment, datetime):
            raise _invalid(f"{table.place}.time", "must be a time, without quotes: 2026-03-01T12:00:00Z")
        request.time.FromDatetime(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    return request


def _principal(table: _Table) -> policy_pb2.AccessPrincipal:
    from sealkeeper.v1 import policy_pb2

    table.only(_PRINCIPAL)
    role = table.text("role")
    amr = table.get("amr", list, [])
    if not all(isinstance(one, str) for one in amr):
        raise _invalid(f"{table.place}.amr", "must be a list of strings")
    return policy_pb2.AccessPrincipal(
        subject=table.get("subject", str, "") or f"test:{role}",
        role=role,
        method=table.get("method", str, ""),
        person=table.get("person", str, ""),
        issuer=table.get("issuer", str, ""),
        attributes=_texts(_Table(table.get("attributes", dict, {}), f"{table.place}.attributes")),
        hardware=table.get("hardware", bool, False),
        acr=table.get("acr", str, ""),
        amr=amr,
    )


def _texts(table: _Table) -> dict[str, str]:
    found = {}
    for name, value in table.members.items():
        if isinstance(value, bool):
            found[name] = "true" if value else "false"
        else:
            found[name] = table.get(name, str, "")
    return found


def _invalid(field: str, description: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{field}: {description}",
        reason="CASES_INVALID",
        next_step="see docs/policies.md for what a file of cases looks like",
        violations=[FieldViolation(field, description)],
    )
