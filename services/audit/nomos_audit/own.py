"""Events of the log itself: seals, statements of heads, new keys, erasures.

They take the way of every other event: journalled here by the audit service under its own account, chained by the one
writer, so it does not matter which process is asked. Only this service's account may emit types under ``audit.``.
"""

from __future__ import annotations

from typing import Any

from nomos.events import Actor, Envelope
from nomos.ids import SYSTEM_TENANT, new_id
from nomos_audit.domain import SYSTEM_ACTOR
from nomos_runtime.journal import Journal


class OwnEvents:
    """Makes events of tenant ``_sys`` durable."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def append(self, kind: str, event: dict[str, Any], actor: Actor | None = None) -> None:
        """Journals one event; durable when it returns.

        Args:
            kind: a type under ``audit.``.
            event: values of the profile jcs-strict.
            actor: the operator on whose command it is; without one the log itself.

        Raises:
            Unavailable: the journal does not confirm; whether it is durable is unknown.
        """
        await self._journal.append(
            [
                Envelope(
                    id=new_id("ev"),
                    type=kind,
                    tenant=SYSTEM_TENANT,
                    actor=Actor(**SYSTEM_ACTOR) if actor is None else actor,
                    corr="",
                    cause="",
                    event=event,
                )
            ]
        )
