"""A token that was used stays with who used it: ids of used tokens, until they end.

Where tenants share an issuer, each may fill what it leaves to the others (see ``fair_queue.py``): one that gets many
tokens is refused before the others are.
"""

from __future__ import annotations

import heapq
from collections import Counter
from datetime import timedelta
from hashlib import blake2b

from sealkeeper.server.errors import OverloadedError, UnauthenticatedError
from sealkeeper.server.identity_settings import Replay

MAX_IDS = 100_000
"""Unexpired ids that are remembered of an issuer."""

_RETRY_AFTER = timedelta(seconds=5)
_SIZE = 16


class UsedTokens:
    """Of one issuer. Keeps hashes alone: 128 bits of what tokens are told apart by, and of the place of their use.

    Args:
        binding: what a token is bound to once it has been used.
        limit: unexpired ids that are remembered.
        shared: several tenants have tokens of this issuer.
    """

    def __init__(self, binding: Replay, limit: int = MAX_IDS, *, shared: bool = False) -> None:
        self.binding = binding
        self._limit = limit
        self._shared = shared
        self._places: dict[bytes, bytes] = {}
        self._ends: list[tuple[float, bytes, str]] = []
        self._of_tenant: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._places)

    def place_of(self, peer: str) -> str:
        """What a token that comes from there is bound to; empty for nothing.

        Args:
            peer: as gRPC writes it, with the port behind the last colon.
        """
        if self.binding == "none":
            return ""
        return peer if self.binding == "connection" else peer.rpartition(":")[0]

    def use(self, token_id: str, peer: str, end: float, now: float, tenant: str = "") -> None:
        """Take note of a token that is good in every other way.

        Args:
            token_id: its ``jti``, or what else tells it apart.
            peer: where it comes from.
            end: when it is refused by itself, seconds since the epoch.
            now: seconds since the epoch.
            tenant: whose it is.

        Raises:
            UnauthenticatedError: it was used elsewhere.
            OverloadedError: there are too many to be remembered.
        """
        if self.binding == "none":
            return
        self._forget(now)
        name, place = _digest(token_id), _digest(self.place_of(peer))
        known = self._places.get(name)
        if known == place:
            return
        if known is not None:
            raise replayed()
        free = self._limit - len(self._places)
        if free <= 0 or (self._shared and self._of_tenant[tenant] >= free):
            raise OverloadedError("too many tokens of this issuer are in use", retry_after=_RETRY_AFTER)
        self._places[name] = place
        self._of_tenant[tenant] += 1
        heapq.heappush(self._ends, (end, name, tenant))

    def _forget(self, now: float) -> None:
        while self._ends and self._ends[0][0] < now:
            _, name, tenant = heapq.heappop(self._ends)
            del self._places[name]
            self._of_tenant[tenant] -= 1


def replayed() -> UnauthenticatedError:
    """The refusal of a token that was used elsewhere, or may have been."""
    return UnauthenticatedError(
        "the token was used from elsewhere, or was issued before the gateway started",
        reason="TOKEN_REPLAYED",
        next_step="get a new token for each connection",
    )


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_SIZE).digest()
