"""Who was refused on stepup's pages: a person whose session or link holds, an operator, or a stranger."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request

from nomos.events import Actor
from nomos.ids import SYSTEM_TENANT
from nomos_stepup.approvers import Approver
from nomos_stepup.ceremonies import actor_of

STRANGER: Final = Actor(kind="approver", id="unknown")


def acting(request: Request, approver: Approver) -> None:
    """Says who acts, once that is proved: from here on a refusal is theirs."""
    request.state.acting = approver


def acting_operator(request: Request, operator: str) -> None:
    """Says which operator acts, once that is proved; what they are refused stands in the installation's own log."""
    request.state.operator = Actor(kind="operator", id=operator)


def who(request: Request) -> tuple[str, Actor] | None:
    """Whose log a refusal belongs into, and who was refused; None for a stranger."""
    approver = getattr(request.state, "acting", None)
    if isinstance(approver, Approver):
        return approver.tenant, actor_of(approver)
    operator = getattr(request.state, "operator", None)
    return (SYSTEM_TENANT, operator) if isinstance(operator, Actor) else None
