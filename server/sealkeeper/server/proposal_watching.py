"""Watching proposals: who waits for changes is told of each by name."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from sealkeeper.server.errors import OverloadedError
from sealkeeper.server.resources import ProposalName

_MAX_WATCHERS = 64


class Watching:
    """Who watches which tenant's proposals. Used on the event loop."""

    def __init__(self) -> None:
        self._changes: dict[str, list[Changes]] = {}
        self._ended = False

    def one_more(self, tenant: str) -> Watcher:
        """A context in which one is told the names of what changes, and ``None`` when watching ends.

        Raises:
            OverloadedError: too many watch already.
        """
        watchers = self._changes.setdefault(tenant, [])
        if len(watchers) >= _MAX_WATCHERS:
            raise OverloadedError(
                f"{_MAX_WATCHERS} callers of {tenant} watch proposals already", retry_after=timedelta(seconds=10)
            )
        changes = Changes()
        if self._ended:
            changes.tell(None)
        return Watcher(watchers, changes)

    def tell(self, name: ProposalName) -> None:
        """Tell those who watch the tenant's."""
        for one in self._changes.get(name.tenant, ()):
            one.tell(name)

    def end(self) -> None:
        """Let everybody go, and who comes after this at once."""
        self._ended = True
        for watchers in self._changes.values():
            for one in watchers:
                one.tell(None)


class Changes:
    """What one who watches has not read yet: each name once, so that who reads slowly makes nothing grow."""

    def __init__(self) -> None:
        self._left: dict[ProposalName | None, None] = {}
        self._some = asyncio.Event()

    def tell(self, name: ProposalName | None) -> None:
        """Add what has changed."""
        self._left[name] = None
        self._some.set()

    async def get(self) -> ProposalName | None:
        """The one that changed first, waiting for it; ``None`` where watching has ended."""
        await self._some.wait()
        name = next(iter(self._left))
        del self._left[name]
        if not self._left:
            self._some.clear()
        return name


class Watcher:
    """One who watches."""

    def __init__(self, watchers: list[Changes], changes: Changes) -> None:
        self._watchers = watchers
        self._changes = changes

    def __enter__(self) -> Changes:
        self._watchers.append(self._changes)
        return self._changes

    def __exit__(self, *_: object) -> None:
        self._watchers.remove(self._changes)
