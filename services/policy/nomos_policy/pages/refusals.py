"""Who was refused on policy's pages: an operator, in the log of the tenant that they act for, or a stranger."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request

from nomos.events import Actor
from nomos.ids import SYSTEM_TENANT

STRANGER: Final = Actor(kind="operator", id="unknown")


def acting(request: Request, operator: str, tenant: str = "") -> None:
    """Says which operator acts, and for which tenant once that is found to be theirs: a refusal stands there."""
    request.state.operator = (tenant or SYSTEM_TENANT, Actor(kind="operator", id=operator))


def who(request: Request) -> tuple[str, Actor] | None:
    """Whose log a refusal belongs into, and who was refused; None for a stranger."""
    found = getattr(request.state, "operator", None)
    return found if isinstance(found, tuple) else None
