"""Records what a service's pages refuse, as every edge of it does, and bounds what strangers can make it record.

A refusal to somebody who is known stands in the log that they belong to, under their id. One to anybody else is a
stranger's, whatever they say: it stands in the log of the tenant that they tried to reach, else in the installation's
own, at most :data:`STRANGERS_PER_MINUTE_MAX` a minute in one process, since whoever reaches the page must not be able
to fill the journal of all. The rest are counted, and said once a minute. An address is never recorded, since it can
hold the secret of a link: the path's template is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec
from starlette.requests import Request

from nomos.client import error_of
from nomos.errors import NomosError, NotPermitted
from nomos.events import Actor
from nomos.ids import SYSTEM_TENANT, new_id
from nomos_runtime import observe
from nomos_runtime.responder import Responder

STRANGERS_PER_MINUTE_MAX: Final = 60
_MINUTE: Final = 60.0

#: Whose log a refusal belongs into and who was refused; None for a stranger.
Who = Callable[[Request], tuple[str, Actor] | None]


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One request of the pages. ``id`` is the correlation id of what it records."""

    id: str


def attempt(request: Request) -> Attempt:
    """The request's attempt; one for each request."""
    found = getattr(request.state, "attempt", None)
    if isinstance(found, Attempt):
        return found
    request.state.attempt = made = Attempt(id=new_id("rq"))
    return made


def concerns(request: Request, tenant: str) -> None:
    """Says whose log a stranger's refusal belongs into."""
    request.state.concerns = tenant


class Refusals:
    """Records the refusals of one process's pages."""

    def __init__(
        self,
        responder: Responder,
        service: str,
        *,
        who: Who,
        stranger: Actor,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Wires it.

        Args:
            responder: of the service.
            service: its name.
            who: asks who acts.
            stranger: the actor of whom nobody knows.
            clock: a steady one, seconds.
        """
        self._responder = responder
        self._service = service
        self._who = who
        self._stranger = stranger
        self._clock = clock
        self._since = clock()
        self._strangers = 0

    async def record(self, request: Request, error: Exception) -> NomosError:
        """Records ``error``; gives what is shown."""
        known = self._who(request)
        if known is not None:
            tenant, actor = known
        elif self._is_flood():
            observe.counts[self._service, observe.PAGE_FLOOD] += 1
            return error if isinstance(error, NomosError) else NotPermitted("nothing was allowed")
        else:
            tenant, actor = getattr(request.state, "concerns", SYSTEM_TENANT), self._stranger
        verb = f"{request.method} {request.state.template}"
        if not isinstance(error, NomosError):
            return error_of(await self._responder.fault(error, tenant, actor, attempt(request), verb))
        failure = await self._responder.refuse(error, tenant, actor, attempt(request), verb)
        # The class gives the page's status; the failure is another one only where nothing could be recorded.
        return error if failure.code == error.code else error_of(failure)

    def _is_flood(self) -> bool:
        now = self._clock()
        if now - self._since >= _MINUTE:
            if self._strangers > STRANGERS_PER_MINUTE_MAX:
                observe.say(self._service, observe.PAGE_FLOOD, refused=self._strangers)
            self._since, self._strangers = now, 0
        self._strangers += 1
        return self._strangers > STRANGERS_PER_MINUTE_MAX
