"""Policies of tenants in tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sealkeeper.server.policy_engine import default_policy


def one_is_enough() -> str:
    """The policy that comes with the gateway, but what needs approvals there needs none: for tests of other things."""
    return default_policy().replace('@approvals("1")', '@approvals("0")')


def write_first_policy(directory: Path, tenant: str, text: str) -> str:
    """Write a policy beside a gateway's settings; what to add to these."""
    name = f"{tenant}.cedar"
    (directory / name).write_text(text)
    return f'[initial_policies]\n{tenant} = "{name}"\n'


def with_first_policy(directory: Path, tenant: str, text: str) -> Callable[[str], str]:
    """A change of settings."""
    more = write_first_policy(directory, tenant, text)
    return lambda settings: f"{settings}\n{more}"
