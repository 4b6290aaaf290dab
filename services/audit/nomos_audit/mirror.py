"""A second store for daily roots, under other hands: who controls one of the two cannot make a root disappear.

Decides only what is copied: everything below ``roots/`` (some kilobytes a day). A mirror that does not answer holds
nothing up; the next day's copy begins with what is missing.
"""

from __future__ import annotations

from typing import Final

from nomos.errors import Conflict, NotFound, Unavailable
from nomos.log.index import ROOTS_NAME
from nomos_audit.store.port import Store, digest_of
from nomos_runtime import observe

MIRROR_AWAY: Final = "audit_mirror_away"
MIRROR_DIFFERS: Final = "audit_mirror_differs"


class Mirror:
    """Copies roots from the archive to the mirror."""

    def __init__(self, archive: Store, mirror: Store) -> None:
        self._archive = archive
        self._mirror = mirror

    async def follow(self, day: str, note: bytes) -> None:
        """Copies whatever the mirror has not; called when the root of ``day`` is archived."""
        try:
            there = set(await self._mirror.names(f"{ROOTS_NAME}/"))
            for name in await self._archive.names(f"{ROOTS_NAME}/"):
                if name not in there:
                    content = await self._archive.get(name)
                    await self._mirror.put_new(name, content, digest_of(content))
        except Conflict as error:
            observe.say("audit", MIRROR_DIFFERS, store=self._mirror.name, day=day, detail=error.detail)
        except (Unavailable, NotFound) as error:
            observe.say("audit", MIRROR_AWAY, store=self._mirror.name, day=day, detail=error.detail, cause=error.cause)
