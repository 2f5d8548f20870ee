"""The responsibility matrix: what falls to whoever runs a gateway, and what to its tenants.

The data is in ``responsibilities.toml`` beside this module. Controls are numbered as in ISO/IEC 27002:2022 and in
ISO/IEC 27017:2015, whose clauses are those of ISO/IEC 27002:2013, and CLD for its own.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

OWNERS = ("provider", "customer", "shared")
"""Who is responsible: whoever runs the gateway, the tenant, or each for a part."""
_HEADING = """\
# Who is responsible for what

Between whoever runs a gateway (**provider**: the gateway's, not a key store) and a tenant of it (**customer**).
Controls are numbered as in ISO/IEC 27002:2022 and ISO/IEC 27017:2015. The table is a place to start an agreement from,
not legal advice, and does not make anybody conform to a standard.

`sealkeeper responsibilities` prints it; made by `sealkeeper responsibilities --markdown > docs/responsibilities.md`.
"""
_COLUMNS = ("control", "27002", "27017", "who", "provider", "customer", "in the product")


@dataclass(frozen=True, slots=True)
class Responsibility:
    """A row.

    Attributes:
        area: what it belongs to.
        control: what is to be done, in plain words.
        iso27002: controls of ISO/IEC 27002:2022.
        iso27017: of ISO/IEC 27017:2015.
        owner: one of ``OWNERS``.
        provider: what whoever runs the gateway does.
        customer: what the tenant does.
        where: in the product: commands, documents, settings, methods of the contract.
        gap: what the product does not do yet; may be empty.
    """

    area: str
    control: str
    iso27002: tuple[str, ...]
    iso27017: tuple[str, ...]
    owner: str
    provider: str
    customer: str
    where: tuple[str, ...]
    gap: str = ""


def responsibilities() -> list[Responsibility]:
    """All rows, those of an area together."""
    text = files("sealkeeper.client").joinpath("responsibilities.toml").read_text("utf-8")
    rows = tomllib.loads(text)["responsibility"]
    return [_row(row) for row in rows]


def _row(row: Mapping[str, Any]) -> Responsibility:
    members: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return Responsibility(**members)


def document(row: Responsibility) -> dict[str, object]:
    """For ``--json``."""
    return {
        "area": row.area,
        "control": row.control,
        "iso27002": list(row.iso27002),
        "iso27017": list(row.iso27017),
        "owner": row.owner,
        "provider": row.provider,
        "customer": row.customer,
        "where": list(row.where),
        "gap": row.gap or None,
    }


def markdown(rows: Iterable[Responsibility]) -> str:
    """The matrix as a page."""
    lines, area = [_HEADING], ""
    for row in rows:
        if row.area != area:
            area = row.area
            lines += [f"## {area}\n" if len(lines) == 1 else f"\n## {area}\n", _line(_COLUMNS), _line(["---"] * 7)]
        lines.append(_line(_cells(row)))
    return "\n".join(lines) + "\n"


def _cells(row: Responsibility) -> list[str]:
    places = [*(f"`{one}`" for one in row.where), *(f"**Not yet:** {row.gap}" for _ in range(bool(row.gap)))]
    return [
        row.control,
        ", ".join(row.iso27002),
        ", ".join(row.iso27017),
        row.owner,
        row.provider,
        row.customer,
        "; ".join(places),
    ]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
