"""Going over to a new key: announced by a record of the log, done by the checkpoint that both keys sign.

Rules, in order: the new key is the one that this process holds as ``AUDIT_SIGN_KEY_NEXT``, never one from a command;
it was never a key of this log; the record is journalled like every event of the log's own; it is answered when the
checkpoint of both keys is durable.

Crash points. Before the record is journalled: nothing has happened. After it: whoever holds both keys signs the turn
when it meets the record, this process after a restart too. After the turn: the key is in force, and asking again only
says so. The old seed may be destroyed from then on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from nomos.errors import Conflict, Misconfigured, Unavailable
from nomos.events import Actor
from nomos.log.heads import KEY
from nomos.log.keyhistory import KeyChange, KeyHistory, event_of_change, short_name
from nomos_audit.checkpoints import Signer

#: How long the turn is waited for.
WAIT_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.05


class Rotation:
    """Rotates the key of one log."""

    def __init__(self, signer: Signer, *, journal: Callable[[str, dict[str, Any], Actor], Awaitable[None]]) -> None:
        """Takes the signer, which holds both keys, and what makes an event of the audit service durable."""
        self._signer = signer
        self._journal = journal
        # Two commands at once make one record.
        self._lock = asyncio.Lock()

    async def rotate(self, by: Actor) -> KeyHistory:
        """Goes over to ``AUDIT_SIGN_KEY_NEXT``; the keys of the log when it is in force. Asked again, only says so.

        Args:
            by: the operator who asks, as the record of the new key names them.

        Raises:
            Misconfigured: this process holds no next key.
            Conflict: the key was one of this log before, or another process went over to another key meanwhile.
            Unavailable: the bus does not answer, or the turn is late; ask again.
        """
        async with self._lock:
            following = self._signer.ring.next_key
            if following is None:
                raise Misconfigured(
                    "this process holds no next key",
                    hint="give every audit process AUDIT_SIGN_KEY_NEXT, restart it, and ask again",
                )
            await self._signer.checkpoint_now()
            before = self._signer.keys.in_force
            if before == following:
                return self._signer.keys
            if not self._signer.ring.holds(before):
                raise Conflict(
                    f"another process went over to {short_name(before)}, which this one does not hold",
                    hint="set AUDIT_SIGN_KEY to it, and AUDIT_SIGN_KEY_NEXT to one that is the same in every process",
                )
            change = KeyChange(key=following, prev=before)
            if not self._signer.keys.follows(change):
                raise Conflict(
                    f"{short_name(following)} has been a key of this log before, or the log has had too many keys",
                    hint="set AUDIT_SIGN_KEY_NEXT to a new key",
                )
            await self._journal(KEY, event_of_change(change), by)
            # Durable from here on: the writer chains it, and the signer stops at it.
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    while self._signer.keys.in_force == before:
                        await asyncio.sleep(POLL_SECONDS)
                        await self._signer.checkpoint_now()
            except TimeoutError as error:
                raise Unavailable("the checkpoint that both keys sign is late", hint="ask again") from error
            if self._signer.keys.in_force != following:
                raise Conflict("another process went over to another key", hint="give every process the same next key")
            return self._signer.keys
