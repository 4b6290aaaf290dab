"""Cosigner delegations that agents show: verified here, then spent at stepup, before Cedar sees ``cosigned``.

Trusted: stepup, for its tenants' cosigner keys (by its feed) and for single use (compare-and-set on the approval).
"""

from __future__ import annotations

import time
from typing import Final

from nomos import messages, servicemessages
from nomos.catalogue import Action
from nomos.client import error_of
from nomos.errors import Malformed, NotCovered
from nomos.events import COSIGNER_CREATED
from nomos.ids import Did, is_id
from nomos.messages import Decoder, Failure
from nomos.servicemessages import ConsumeApproval, Fact
from nomos.ucan.verify import verify_delegation_for
from nomos_runtime.bus import Bus
from nomos_runtime.directory import AgentFacts

_reply: Final = Decoder.of(servicemessages.ApprovalConsumed | Failure, "consume approval reply")


class Cosigners:
    """The tenants' cosigner keys, and the spending of approvals."""

    def __init__(self, bus: Bus, timeout_ms: int) -> None:
        self._bus = bus
        self._timeout_ms = timeout_ms
        self._keys: dict[str, set[Did]] = {}

    def apply(self, fact: Fact) -> None:
        """Folds one fact of stepup."""
        if fact.type == COSIGNER_CREATED:
            self._keys.setdefault(fact.tenant, set()).add(Did(str(fact.event["did"])))

    async def spend(
        self,
        token: bytes,
        *,
        agent: AgentFacts,
        action: Action,
        resource: str,
        connection: str,
        digest: bytes,
        request: str,
    ) -> None:
        """Verifies a cosigner delegation for exactly this request and spends its approval.

        Raises:
            NomosError: it is not for this request, agent and tenant, its time is over, or it was used.
        """
        verified = verify_delegation_for(
            token,
            issuers=self._keys.get(agent.tenant, set()),
            audience=Did(agent.did),
            command=action.command,
            resource=resource,
            digest=digest,
            now=int(time.time()),
            revoked=lambda _: False,  # a cosigner delegation ends with its approval, which stepup checks below
        )
        approval = verified.meta.get("approval")
        if not isinstance(approval, str) or not is_id(approval, "ap"):
            raise NotCovered("the cosigner delegation names no approval")
        message = ConsumeApproval(
            v=1,
            tenant=agent.tenant,
            agent=agent.agent,
            approval=approval,
            connection=connection,
            digest=digest,
            request=request,
        )
        reply = _reply.decode(await self._bus.request("svc.stepup.consume", messages.encode(message), self._timeout_ms))
        if isinstance(reply, Failure):
            raise error_of(reply)
        if not isinstance(reply, servicemessages.ApprovalConsumed):
            raise Malformed("not a consume approval reply")
