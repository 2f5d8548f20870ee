"""The responsibility matrix is true of the product as far as that can be seen, and its page is of the same data."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.main import get_command

from sealkeeper import v1
from sealkeeper.client.cli import app, run
from sealkeeper.client.cli.server_commands import server_command_names
from sealkeeper.client.responsibilities import OWNERS, Responsibility, markdown, responsibilities
from sealkeeper.server.settings import Settings

ROOT = Path(__file__).parents[2]
ROWS = responsibilities()
NAMES = [f"{one.area}: {one.control}" for one in ROWS]
# Clauses of ISO/IEC 27002:2022, how many controls each has, and of ISO/IEC 27002:2013, as ISO/IEC 27017 counts.
CONTROLS = {"5": 37, "6": 8, "7": 14, "8": 34}
OF_2013 = re.compile(r"(?:[5-9]|1[0-8])\.[1-9]\.[1-9]")
CLD = {"CLD.6.3.1", "CLD.8.1.5", "CLD.9.5.1", "CLD.9.5.2", "CLD.12.1.5", "CLD.12.4.5", "CLD.13.1.4"}


def exists(place: str) -> bool:
    """Whether the product has what a row names."""
    if place.startswith("sealkeeper "):
        return command_exists(place.split()[1:])
    if place.startswith("["):
        return setting_exists(Settings, place.strip("[]").split("."))
    if re.fullmatch(r"[A-Z][A-Za-z]+Service\.[A-Z][A-Za-z]+", place):
        return method_exists(*place.split("."))
    return (ROOT / place).is_file()


def command_exists(words: list[str]) -> bool:
    command: Any = get_command(app)
    if words[0] in server_command_names():
        return len(words) == 1
    for word in words:
        command = getattr(command, "commands", {}).get(word)
    return command is not None


def setting_exists(section: Any, names: list[str]) -> bool:
    """``*`` stands for a name that the settings' owner chooses."""
    for name in names:
        fields = getattr(section, "model_fields", {})
        if name != "*" and name not in fields:
            return False
        section = get_args(section)[1] if name == "*" else fields[name].annotation
    return True


def method_exists(service: str, method: str) -> bool:
    texts = [path.read_text() for path in Path(next(iter(v1.__path__))).glob("*.proto")]
    found = [text for text in texts if f"service {service} {{" in text]
    return any(f"rpc {method}(" in text for text in found)


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_what_a_row_names_is_there(row: Responsibility) -> None:
    assert [place for place in row.where if not exists(place)] == []
    assert row.where or row.gap


@pytest.mark.parametrize(
    "place",
    [
        "sealkeeper keys vanish",
        "sealkeeper vanish",
        "sealkeeper init more",
        "[vanish]",
        "[keys.vanish]",
        "[providers.*.vanish]",
        "KeyService.Vanish",
        "VanishService.Vanish",
        "docs/vanish.md",
    ],
)
def test_what_is_not_there_would_be_found_out(place: str) -> None:
    assert not exists(place)


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_a_row_says_who_does_what_by_controls_that_there_are(row: Responsibility) -> None:
    assert row.owner in OWNERS
    assert row.provider.endswith(".")
    assert row.customer.endswith(".")
    assert row.iso27002
    assert row.iso27017
    for number in row.iso27002:
        clause, _, place = number.partition(".")
        assert 1 <= int(place) <= CONTROLS[clause], number
    for number in row.iso27017:
        assert number in CLD or OF_2013.fullmatch(number), number
    # It would end the cell of a table.
    assert "|" not in "".join((row.control, row.provider, row.customer, row.gap))


def test_no_control_stands_there_twice_and_areas_stand_together() -> None:
    assert len(set(NAMES)) == len(ROWS) >= 35
    areas = [one.area for one in ROWS]
    assert [area for place, area in enumerate(areas) if area != (areas[place - 1] if place else "")] == [
        *dict.fromkeys(areas)
    ]


def test_what_a_cloud_customer_must_know_is_in_it() -> None:
    """Shared roles, removal of assets, segregation, administration, monitoring: the controls of ISO/IEC 27017's own."""
    assert {number for one in ROWS for number in one.iso27017} >= CLD


def test_the_page_is_of_the_same_data() -> None:
    page = (ROOT / "docs" / "responsibilities.md").read_text("utf-8")
    assert page == markdown(ROWS), "make it anew: sealkeeper responsibilities --markdown > docs/responsibilities.md"


def test_what_is_not_in_the_product_yet_is_said() -> None:
    [backup] = [one for one in ROWS if one.iso27017 == ("12.3.1",)]
    assert "not in the product yet" in backup.gap
    assert f"**Not yet:** {backup.gap}" in markdown(ROWS)


def test_the_command_prints_rows_of_one_owner(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["responsibilities", "--json", "--owner", "customer"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["control"] for one in found] == [one.control for one in ROWS if one.owner == "customer"]
    assert run(["responsibilities"]) == 0
    text = capsys.readouterr().out
    assert all(f"{name}  [" in text for name in NAMES)


@pytest.mark.parametrize("arguments", [["--owner", "nobody"], ["--json", "--markdown"]])
def test_wrong_usage_is_told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["responsibilities", *arguments]) == 2
