"""The replicas' view of all approvals and approvers: a fold over stepup's own feed.

It answers lists, finds which approver owns a passkey, and wakes those who wait. Every decision loads its stream from
the store again: the index may be a moment behind, and nothing is released by it.
"""

from __future__ import annotations

import asyncio

from nomos import events
from nomos.servicemessages import Fact
from nomos_stepup.approvers import Approver, evolve_approver
from nomos_stepup.base64url import parse_b64url
from nomos_stepup.domain import Approval, ApprovalState, evolve
from nomos_stepup.events import (
    APPROVER_SIGNED_OUT,
    ENROLMENT_OFFERED,
    PASSKEY_COUNTER_ROSE,
    PASSKEY_COUNTER_STALLED,
    PASSKEY_RENAMED,
    approval_event,
    approver_event,
)

APPROVAL_TYPES = (
    events.APPROVAL_REQUESTED,
    events.APPROVAL_APPROVED,
    events.APPROVAL_DENIED,
    events.APPROVAL_EXPIRED,
    events.APPROVAL_CANCELLED,
    events.APPROVAL_CONSUMED,
)
APPROVER_TYPES = (
    events.APPROVER_ADDED,
    events.PASSKEY_ENROLLED,
    ENROLMENT_OFFERED,
    PASSKEY_COUNTER_ROSE,
    PASSKEY_COUNTER_STALLED,
    events.PASSKEY_REVOKED,
    PASSKEY_RENAMED,
    events.APPROVER_REMOVED,
    events.APPROVER_GROUPED,
    APPROVER_SIGNED_OUT,
)


class Index:
    """Fold of stepup's own facts."""

    def __init__(self) -> None:
        self._approvals: dict[str, Approval] = {}
        #: Those that wait: few, whatever has been asked before.
        self._pending: dict[str, Approval] = {}
        self._approvers: dict[tuple[str, str], Approver] = {}
        self._changed: dict[str, asyncio.Event] = {}

    def apply(self, fact: Fact) -> None:
        """Folds one fact and wakes who waits for its approval."""
        if fact.type in APPROVAL_TYPES:
            event = approval_event(fact.type, fact.event)
            state = self._approvals[event.approval] = evolve(self._approvals.get(event.approval), event)
            if state.state is ApprovalState.PENDING:
                self._pending[state.id] = state
            else:
                self._pending.pop(state.id, None)
            changed = self._changed.pop(event.approval, None)
            if changed is not None:
                changed.set()
        elif fact.type in APPROVER_TYPES:
            change = approver_event(fact.type, fact.event)
            at = (fact.tenant, change.approver)
            self._approvers[at] = evolve_approver(self._approvers.get(at), change)

    def find(self, approval: str) -> Approval | None:
        """The approval as last seen, of any tenant; the caller checks the tenant."""
        return self._approvals.get(approval)

    def of_tenant(self, tenant: str) -> list[Approval]:
        """The approvals of ``tenant``, oldest first."""
        return [a for a in self._approvals.values() if a.request.tenant == tenant]

    def pending_of_agent(self, tenant: str, agent: str) -> int:
        """How many approvals of this agent wait."""
        return sum((a.request.tenant, a.request.agent) == (tenant, agent) for a in self._pending.values())

    def pending(self) -> list[Approval]:
        """The approvals of all tenants that wait, oldest first."""
        return list(self._pending.values())

    def overdue(self, now: int) -> list[Approval]:
        """Pending approvals whose time is over at ``now`` (Unix seconds)."""
        return [a for a in self._pending.values() if a.request.expires_at <= now]

    def owner_of(self, tenant: str, credential_id: bytes) -> str | None:
        """The approver of ``tenant`` who has this passkey."""
        for (of, name), approver in self._approvers.items():
            if of == tenant and any(p.credential_id == credential_id for p in approver.passkeys):
                return name
        return None

    def holder_of(self, credential_id: bytes) -> tuple[str, str] | None:
        """Tenant and approver who have this passkey, or None. It only selects whose key verifies."""
        for at, approver in self._approvers.items():
            if any(p.credential_id == credential_id for p in approver.passkeys):
                return at
        return None

    def is_taken(self, credential_id: bytes) -> bool:
        """Whether any approver of any tenant has this passkey."""
        return any(p.credential_id == credential_id for a in self._approvers.values() for p in a.passkeys)

    def approver(self, tenant: str, approver: str) -> Approver | None:
        """An approver as last seen; without the name, which is sealed."""
        return self._approvers.get((tenant, approver))

    def approvers(self, tenant: str) -> list[Approver]:
        """The approvers of ``tenant``."""
        return [a for (of, _), a in self._approvers.items() if of == tenant]

    async def wait(self, approval: str, seconds: float) -> None:
        """Returns when the approval is pending no more or has changed, or after ``seconds``."""
        known = self._approvals.get(approval)
        if known is not None and known.state is not ApprovalState.PENDING:
            # It changed after the caller looked: nobody would wake them.
            return
        changed = self._changed.setdefault(approval, asyncio.Event())
        try:
            async with asyncio.timeout(seconds):
                await changed.wait()
        except TimeoutError:
            return


def credential_of(response: dict[str, object]) -> bytes:
    """The credential id that a WebAuthn response names; it only selects whose key verifies."""
    return parse_b64url(str(response.get("id", "")), "credential id", 1023)
