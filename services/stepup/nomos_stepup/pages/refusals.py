"""Records what the pages refuse, as every edge of the service does, and bounds what strangers can make it record.

A refusal to a person whose session or link holds stands in the log of their tenant under their id. One to anybody else
is a stranger's, whatever they say: it stands in the log of the tenant that they tried to sign in to, else in the
installation's own, at most :data:`STRANGERS_PER_MINUTE_MAX` a minute in one process, since whoever reaches the page
must not be able to fill the journal of all. The rest are counted, and said once a minute. An address is never recorded,
since it can hold the secret of a link: the path's template is.
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
from nomos_stepup.approvers import Approver
from nomos_stepup.ceremonies import actor_of

STRANGERS_PER_MINUTE_MAX: Final = 60
_MINUTE: Final = 60.0
STRANGER: Final = Actor(kind="approver", id="unknown")


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


def acting(request: Request, approver: Approver) -> None:
    """Says who acts, once that is proved: from here on a refusal is theirs."""
    request.state.acting = approver


def acting_operator(request: Request, operator: str) -> None:
    """Says which operator acts, once that is proved; what they are refused stands in the installation's own log."""
    request.state.operator = Actor(kind="operator", id=operator)


def concerns(request: Request, tenant: str) -> None:
    """Says whose log a stranger's refusal belongs into."""
    request.state.concerns = tenant


class Refusals:
    """Records the refusals of one process's pages."""

    def __init__(self, responder: Responder, service: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._responder = responder
        self._service = service
        self._clock = clock
        self._since = clock()
        self._strangers = 0

    async def record(self, request: Request, error: Exception) -> NomosError:
        """Records ``error``; gives what is shown."""
        approver = getattr(request.state, "acting", None)
        operator = getattr(request.state, "operator", None)
        if isinstance(approver, Approver):
            tenant, actor = approver.tenant, actor_of(approver)
        elif isinstance(operator, Actor):
            tenant, actor = SYSTEM_TENANT, operator
        elif self._is_flood():
            observe.counts[self._service, observe.PAGE_FLOOD] += 1
            return error if isinstance(error, NomosError) else NotPermitted("nothing was allowed")
        else:
            tenant, actor = getattr(request.state, "concerns", SYSTEM_TENANT), STRANGER
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
