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
        self._queues: dict[str, list[asyncio.Queue[ProposalName | None]]] = {}

    def one_more(self, tenant: str) -> Watcher:
        """A context in which a queue has the names of what changes, and ``None`` when watching ends.

        Raises:
            OverloadedError: too many watch already.
        """
        queues = self._queues.setdefault(tenant, [])
        if len(queues) >= _MAX_WATCHERS:
            raise OverloadedError(
                f"{_MAX_WATCHERS} callers of {tenant} watch proposals already", retry_after=timedelta(seconds=10)
            )
        return Watcher(queues)

    def tell(self, name: ProposalName) -> None:
        """Tell those who watch the tenant's."""
        for one in self._queues.get(name.tenant, ()):
            one.put_nowait(name)

    def end(self) -> None:
        """Let everybody go."""
        for queues in self._queues.values():
            for one in queues:
                one.put_nowait(None)


class Watcher:
    """One who watches."""

    def __init__(self, queues: list[asyncio.Queue[ProposalName | None]]) -> None:
        self._queues = queues
        self._queue: asyncio.Queue[ProposalName | None] = asyncio.Queue()

    def __enter__(self) -> asyncio.Queue[ProposalName | None]:
        self._queues.append(self._queue)
        return self._queue

    def __exit__(self, *_: object) -> None:
        self._queues.remove(self._queue)
