"""The credential of a federated connection for now: exchanged when it is needed, kept in memory, never stored.

One exchange at a time for each connection in this process; each process has its own, since a cloud gives as many as are
asked for. The exchange goes on when who waited has gone. Both its beginning and its end are in the log.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from nomos.errors import NomosError, NotFound, Unavailable, UnknownOutcome
from nomos.events import Envelope
from nomos_proxy.answer import AnswerRefused
from nomos_proxy.credentialevents import renewed, renewing
from nomos_proxy.domain import ConnectionFacts
from nomos_proxy.federation.cloud import Federation
from nomos_proxy.federation.exchange import Exchanged, exchange_form, read_exchanged
from nomos_proxy.federation.issuer import Issuer
from nomos_proxy.flights import Flights
from nomos_proxy.keeping import Kept
from nomos_proxy.oauth.party import post_form
from nomos_proxy.oauth.protocol import AnswerUnreadable, GrantRefused
from nomos_proxy.oauth.requests import TokenRequest
from nomos_proxy.store import Credential, credential_of
from nomos_proxy.upstream import Upstreams
from nomos_runtime.journal import Journal
from nomos_runtime.secret import Secret

#: A credential is exchanged anew so long before its end, or a fifth of its life if that is less.
AHEAD_SECONDS_MAX: Final = 120
#: After a failure nobody asks the cloud again for so long.
PAUSE_SECONDS: Final = 5


class _Held(Struct, frozen=True, kw_only=True):
    credential: Credential
    until: int


class Federated:
    """Credentials of federated connections, for one process."""

    def __init__(
        self,
        *,
        issuer: Issuer | None,
        upstreams: Upstreams,
        journal: Journal,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Wires it; without an issuer no connection is federated here."""
        self._issuer = issuer
        self._upstreams = upstreams
        self._journal = journal
        self._clock = clock
        self._held: Kept[_Held] = Kept()
        self._flights: Flights[tuple[str, str], _Held] = Flights()
        #: Until when nobody asks, by the clock.
        self._paused: Kept[float] = Kept()

    @property
    def issuer(self) -> Issuer:
        """Who signs.

        Raises:
            NotFound: this installation has no federation key.
        """
        if self._issuer is None:
            raise NotFound("this installation has no federation key", hint="set PROXY_FEDERATION_KEY")
        return self._issuer

    async def credential(self, connection: ConnectionFacts, *, within_seconds: float) -> Credential:
        """The connection's credential.

        Raises:
            GrantRefused: the cloud does not trust this connection.
            NotFound: there is no federation key here.
            Unavailable: none can be had now.
        """
        at = (connection.tenant, connection.name)
        held = self._held.find(*at)
        if held is not None and self._clock() < held.until:
            return held.credential
        if self._clock() < (self._paused.find(*at) or 0.0):
            raise Unavailable("the cloud gave no credential a moment ago", retry_after_ms=PAUSE_SECONDS * 1_000)
        return (await self._flights.outcome(at, lambda: self._exchanged(connection), within_seconds)).credential

    def drop(self, tenant: str, name: str) -> None:
        """Keeps nothing of a removed connection in memory from now on."""
        self._held.drop(tenant, name)
        self._paused.drop(tenant, name)

    def forget(self, tenant: str) -> None:
        """Keeps nothing of a closed tenant in memory from now on."""
        self._held.forget(tenant)
        self._paused.forget(tenant)

    async def _exchanged(self, connection: ConnectionFacts) -> _Held:
        federation = connection.federation
        if federation is None:
            raise NotFound("this connection is not federated")
        now = int(self._clock())
        asked = renewing(connection, generation=0, now=now)
        await self._journal.append([asked])
        try:
            found = await self._ask(connection, federation, now)
        except NomosError as e:
            self._paused.keep(connection.tenant, connection.name, self._clock() + PAUSE_SECONDS)
            outcome = "failed"
            if isinstance(e, GrantRefused):
                outcome = "refused"
            elif isinstance(e, UnknownOutcome | AnswerRefused | AnswerUnreadable):
                outcome = "unknown"
            await self._ended(connection, asked, outcome, code=e.code)
            raise
        await self._ended(connection, asked, "renewed", expires_at=found.expires_at)
        ahead = min(AHEAD_SECONDS_MAX, (found.expires_at - now) // 5)
        held = _Held(credential=credential_of(Secret(found.credential.encode("ascii"))), until=found.expires_at - ahead)
        self._held.keep(connection.tenant, connection.name, held)
        return held

    async def _ask(self, connection: ConnectionFacts, federation: Federation, now: int) -> Exchanged:
        issuer = self.issuer
        token = issuer.token(
            tenant=connection.tenant, connection=connection.name, audience=federation.audience, now=now
        )
        session = f"{connection.tenant}.{connection.name}"[:64]
        request = TokenRequest(
            body=exchange_form(federation, token, session), headers=((b"accept", b"application/json"),)
        )
        answer = await post_form(self._upstreams, connection.exchange, federation.endpoint, request)
        return read_exchanged(federation, answer.status, answer.body, now=now)

    async def _ended(
        self, connection: ConnectionFacts, asked: Envelope, outcome: str, *, code: str = "", expires_at: int = 0
    ) -> None:
        now = int(self._clock())
        ended = renewed(connection, asked, outcome=outcome, now=now, code=code, expires_at=expires_at)
        await self._journal.append([ended])
