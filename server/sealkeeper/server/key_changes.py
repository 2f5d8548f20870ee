"""Changes of keys that callers ask for: in the audit log before they take effect, and done once for a request id."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

import msgspec
from google.protobuf.message import Message

from sealkeeper.server.calls import Call, current_call
from sealkeeper.server.clock import SteadyClock
from sealkeeper.server.idempotency import RequestId, RequestLedger
from sealkeeper.server.identity import Principal
from sealkeeper.server.key import Key
from sealkeeper.server.log import Sequencer, Submission
from sealkeeper.server.new_version import Audit
from sealkeeper.server.store.database import Alongside

T = TypeVar("T")
Change: TypeAlias = Callable[[Audit, Alongside[Key] | None], Awaitable[Key]]


class CallAudit:
    """Records a call that changes something; an ``Audit``.

    Args:
        call: whose record it is.
        logs: where it goes.
        clock: the time.
    """

    def __init__(self, call: Call, logs: Sequencer, clock: SteadyClock) -> None:
        self.principal: Principal = call.caller
        self._call = call
        self._logs = logs
        self._clock = clock

    async def __call__(self, details: dict[str, object]) -> int:
        """Make the record durable; its index in the audit log."""
        self._call.details.update(details)
        record = self._call.audit_record(self._clock.at_least_latest())
        receipt = await self._logs.submit(Submission(audit=[record]))
        self._call.recorded = True
        return receipt.audit_index


class KeyChanges:
    """Has changes made.

    Args:
        ledger: knows which requests were answered.
        logs: where changes are recorded before they take effect.
        clock: the time.
    """

    def __init__(self, ledger: RequestLedger, logs: Sequencer, clock: SteadyClock) -> None:
        self._ledger = ledger
        self._logs = logs
        self._clock = clock

    def audit(self) -> CallAudit:
        """For the call under way."""
        return CallAudit(current_call(), self._logs, self._clock)

    async def once(self, request: Message, request_id: str, change: Change) -> Key:
        """Change a key, or give the answer of the same request before; as ``once_for``."""
        return await self.once_for(request, request_id, change, _replay)

    async def once_for(
        self,
        request: Message,
        request_id: str,
        change: Callable[[Audit, Alongside[Any] | None], Awaitable[T]],
        replay: Callable[[bytes], Awaitable[T]],
    ) -> T:
        """Change something, or give the answer of the same request before.

        Args:
            request: the caller's.
            request_id: the caller's; may be empty.
            change: stores the row that it is given together with what it changes.
            replay: makes the answer again from what the row kept.

        Raises:
            AlreadyExistsError: the request id was used for other content.
            Exception: what the change raises.
        """
        call, audit = current_call(), self.audit()
        call.use_request_id(request_id)
        if not call.request_id:
            return await change(audit, None)
        known = RequestId.of(call.caller, call.method, call.request_id, _without_id(request))
        return await self._ledger.once(
            known, lambda: change(audit, self._ledger.row(known, msgspec.msgpack.encode)), replay, None
        )


async def _replay(answer: bytes) -> Key:
    return msgspec.msgpack.decode(answer, type=Key)


def _without_id(request: Message) -> bytes:
    request.ClearField("request_id")
    return request.SerializeToString(deterministic=True)
