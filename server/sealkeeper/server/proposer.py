"""How services have others approve of something: what they need to know of ``proposals.py``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from sealkeeper.server.authorization import Action
from sealkeeper.server.calls import Call
from sealkeeper.server.resources import ResourceName


class Proposer(Protocol):
    """Has others approve first, where that is needed."""

    async def require(
        self, call: Call, action: Action, resource: ResourceName, parameters: Mapping[str, Any], reason: str, /
    ) -> object:
        """Return where no approval is needed; else propose it.

        Args:
            call: under way, and authorized.
            action: what is to be done.
            resource: about what.
            parameters: what exactly; as JSON has it, without fractions.
            reason: the caller's, for those who approve.

        Raises:
            ApprovalRequiredError: it is proposed, and done once others have approved.
        """
        ...
