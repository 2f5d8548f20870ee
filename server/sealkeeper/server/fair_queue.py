"""A queue in which tenants take turns, so that one tenant's flood neither delays nor shuts out the others.

Deficit round robin (Shreedhar and Varghese, 1995), with the number of signatures as the measure, or of bytes where they
are many. How much a tenant may have waiting depends on the room that is left (dynamic thresholds, Choudhury and Hahne,
1998): one alone gets half of all, and the rest stays free for those who come next.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from typing import Generic, Protocol, TypeVar

_QUANTUM = 64
# Bytes that count as much as a signature.
_BYTES = 64 * 1024


class Weighed(Protocol):
    """What can wait."""

    @property
    def tenant(self) -> str:
        """Whose it is."""
        ...

    @property
    def count(self) -> int:
        """Signatures that it asks for."""
        ...

    @property
    def length(self) -> int:
        """Its bytes."""
        ...


T = TypeVar("T", bound=Weighed)


class FairQueue(Generic[T]):
    """First in, first out within a tenant; the tenants take turns. Used on the event loop.

    Args:
        most_items: signatures that may wait.
        most_bytes: bytes that may wait.

    Attributes:
        items: signatures that wait.
    """

    def __init__(self, most_items: int, most_bytes: int) -> None:
        self.items = 0
        self._bytes = 0
        self._most_items = most_items
        self._most_bytes = most_bytes
        # The tenant in front is the next.
        self._queues: OrderedDict[str, deque[T]] = OrderedDict()
        self._credit: Counter[str] = Counter()
        self._items_of: Counter[str] = Counter()
        self._bytes_of: Counter[str] = Counter()

    def put(self, one: T) -> bool:
        """Let one wait; false where its tenant has as much waiting as it may."""
        tenant = one.tenant
        if (
            self._items_of[tenant] + one.count > self._most_items - self.items
            or self._bytes_of[tenant] + one.length > self._most_bytes - self._bytes
        ):
            return False
        self._weigh(one, 1)
        queue = self._queues.get(tenant)
        if queue is None:
            queue = self._queues[tenant] = deque()
        queue.append(one)
        return True

    def take(self, most_items: int, most_bytes: int) -> list[T]:
        """The next ones, within these limits; the first in any case."""
        taken: list[T] = []
        items = length = 0
        while self._queues:
            tenant, queue = next(iter(self._queues.items()))
            one = queue[0]
            if taken and (items + one.count > most_items or length + one.length > most_bytes):
                break
            cost = max(one.count, one.length // _BYTES)
            if len(self._queues) > 1 and self._credit[tenant] < cost:
                self._credit[tenant] += _QUANTUM
                self._queues.move_to_end(tenant)
                continue
            taken.append(queue.popleft())
            items += one.count
            length += one.length
            self._weigh(one, -1)
            self._credit[tenant] = max(0, self._credit[tenant] - cost)
            if not queue:
                del self._queues[tenant], self._credit[tenant]
        return taken

    def _weigh(self, one: T, sign: int) -> None:
        self.items += sign * one.count
        self._bytes += sign * one.length
        self._items_of[one.tenant] += sign * one.count
        self._bytes_of[one.tenant] += sign * one.length
        if not self._items_of[one.tenant]:
            # Tenants come and go; what is zero is not kept.
            del self._items_of[one.tenant], self._bytes_of[one.tenant]
