"""The order of arguments: what is said of the gateway may stand before or after the command."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

JSON = "--json"
_END = "--"


def asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether ``--json`` is among the options."""
    end = arguments.index(_END) if _END in arguments else len(arguments)
    return JSON in arguments[:end]


def in_order(root: Any, arguments: Sequence[str]) -> list[str]:
    """Put the root's options before the command, and ``--json`` behind it.

    Args:
        root: the command line's outermost command.
        arguments: as they were given. An option that a command has of its own stays with it.
    """
    before: list[str] = []
    behind: list[str] = []
    shared, own, command = _takes_value(root), dict[str, bool](), root
    left = deque(arguments)
    while left and left[0] != _END:
        one = left.popleft()
        name, joined, _ = one.partition("=")
        if not one.startswith("-"):
            behind.append(one)
            command = getattr(command, "commands", {}).get(one, command)
            own = _takes_value(command) if command is not root else {}
            continue
        place = before if name in shared and name not in own else behind
        place.append(one)
        if {**shared, **own}.get(name) and not joined and left:
            place.append(left.popleft())
    if command is not root and JSON in behind:
        behind = [*(one for one in behind if one != JSON), JSON]
    return before + behind + list(left)


def _takes_value(command: Any) -> dict[str, bool]:
    """The command's options, and whether each is followed by a value."""
    return {
        name: not getattr(one, "is_flag", False)
        for one in command.params
        if one.param_type_name == "option"
        for name in (*one.opts, *one.secondary_opts)
    }
