"""The credential of a federated connection for now: exchanged when it is needed, kept in memory, never stored.

One exchange at a time for each connection in this process; each process has its own, since a cloud gives as many as are
asked for. The exchange goes on when who waited has gone. The beginning and the end of each question are in the log.

Google's impersonation of a service account is a second question. The token of the first goes into it and nowhere else,
and is not kept: who is given a credential here is given the service account's.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

from msgspec import Struct

from nomos.catalogue.oauth import Endpoint
from nomos.errors import NomosError, NotFound, Unavailable, UnknownOutcome
from nomos.events import Envelope
from nomos_proxy.answer import AnswerRefused
from nomos_proxy.credentialevents import renewed, renewing
from nomos_proxy.domain import ConnectionFacts
from nomos_proxy.federation.cloud import Federation
from nomos_proxy.federation.exchange import (
    Exchanged,
    exchange_form,
    impersonation_request,
    read_exchanged,
    read_impersonated,
)
from nomos_proxy.federation.issuer import Issuer
from nomos_proxy.flights import Flights
from nomos_proxy.keeping import Kept
from nomos_proxy.oauth.party import ASK_SECONDS, post_form
from nomos_proxy.oauth.protocol import AnswerUnreadable, GrantRefused
from nomos_proxy.oauth.requests import TokenRequest
from nomos_proxy.store import Credential, credential_of
from nomos_proxy.upstream import Upstreams
from nomos_runtime import observe
from nomos_runtime.journal import Journal
from nomos_runtime.secret import Secret

#: A credential is exchanged anew so long before its end, or a fifth of its life if that is less.
AHEAD_SECONDS_MAX: Final = 120
#: After a failure nobody asks the cloud again for so long.
PAUSE_SECONDS: Final = 5
#: A credential that the upstream does not take is exchanged anew if it is at least so old.
YOUNG_SECONDS: Final = 10
#: A process that stops waits so long for what it has asked: two questions.
LANDING_SECONDS: Final = 2 * ASK_SECONDS
#: Which of two questions it was, in the log; empty where there is one.
EXCHANGE: Final = "exchange"
IMPERSONATION: Final = "impersonation"

#: Tenant, connection, and whose credential it is: another service account's is another one.
_At = tuple[str, str, tuple[tuple[str, str], ...]]


class _Held(Struct, frozen=True, kw_only=True):
    at: _At
    credential: Credential
    since: int
    until: int


class _Paused(Struct, frozen=True, kw_only=True):
    at: _At
    until: float


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
        self._flights: Flights[_At, _Held] = Flights()
        self._paused: Kept[_Paused] = Kept()

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
            GrantRefused: the cloud does not trust this connection, or does not let it act as its service account.
            NotFound: there is no federation key here.
            Unavailable: none can be had now.
        """
        held = self._found(connection)
        if held is not None and self._clock() < held.until:
            return held.credential
        if self._is_paused(connection):
            raise Unavailable("the cloud gave no credential a moment ago", retry_after_ms=PAUSE_SECONDS * 1_000)
        return await self._flown(connection, within_seconds)

    async def after_refusal(
        self, connection: ConnectionFacts, used: Credential, *, within_seconds: float
    ) -> Credential | None:
        """Another credential in place of one that the upstream did not take (401); None where there is none."""
        held = self._found(connection)
        if held is not None and held.credential is not used:
            return held.credential
        is_young = held is not None and self._clock() < held.since + YOUNG_SECONDS
        if is_young or self._is_paused(connection):
            # It says 401 to what was given just now: another one would be no better, and asking never ends.
            return None
        try:
            # What is held stays until there is another one: a 401 may be about something else.
            return await self._flown(connection, within_seconds)
        except NomosError as e:
            # The upstream's own answer says more to the agent than why no other credential could be had.
            observe.say("proxy", observe.CREDENTIAL_FAULT, code=e.code, tenant=connection.tenant)
            return None

    def drop(self, tenant: str, name: str) -> None:
        """Keeps nothing of a removed connection in memory from now on."""
        self._held.drop(tenant, name)
        self._paused.drop(tenant, name)

    def forget(self, tenant: str) -> None:
        """Keeps nothing of a closed tenant in memory from now on."""
        self._held.forget(tenant)
        self._paused.forget(tenant)

    async def close(self) -> None:
        """Lets what has been asked of clouds come to its end, so that the log has it; begins nothing more."""
        await self._flights.land(LANDING_SECONDS)

    def _found(self, connection: ConnectionFacts) -> _Held | None:
        """What is held for the connection as it is now."""
        held = self._held.find(connection.tenant, connection.name)
        return held if held is not None and held.at == _at(connection) else None

    def _is_paused(self, connection: ConnectionFacts) -> bool:
        paused = self._paused.find(connection.tenant, connection.name)
        return paused is not None and paused.at == _at(connection) and self._clock() < paused.until

    async def _flown(self, connection: ConnectionFacts, within_seconds: float) -> Credential:
        at = _at(connection)
        return (await self._flights.outcome(at, lambda: self._exchanged(connection), within_seconds)).credential

    async def _exchanged(self, connection: ConnectionFacts) -> _Held:
        federation = connection.federation
        if federation is None:
            raise NotFound("this connection is not federated")
        at, begun = _at(connection), int(self._clock())
        try:
            found = await self._asked(connection, federation)
        except NomosError:
            paused = _Paused(at=at, until=self._clock() + PAUSE_SECONDS)
            self._paused.keep(connection.tenant, connection.name, paused)
            raise
        ahead = min(AHEAD_SECONDS_MAX, (found.expires_at - begun) // 5)
        credential = credential_of(Secret(found.credential.encode("ascii")))
        held = _Held(at=at, credential=credential, since=begun, until=found.expires_at - ahead)
        self._held.keep(connection.tenant, connection.name, held)
        return held

    async def _asked(self, connection: ConnectionFacts, federation: Federation) -> Exchanged:
        """What the cloud gives in the end."""
        endpoint = federation.impersonation
        if endpoint is None:
            return await self._step(connection, "", lambda now: self._exchange(connection, federation, now))
        first = await self._step(connection, EXCHANGE, lambda now: self._exchange(connection, federation, now))
        return await self._step(
            connection, IMPERSONATION, lambda now: self._impersonate(connection, federation, endpoint, first, now)
        )

    async def _step(
        self, connection: ConnectionFacts, step: str, ask: Callable[[int], Awaitable[Exchanged]]
    ) -> Exchanged:
        """One question, with its beginning and its end in the log."""
        now = int(self._clock())
        asked = renewing(connection, generation=0, now=now, step=step)
        await self._journal.append([asked])
        try:
            found = await ask(now)
        except NomosError as e:
            outcome = "failed"
            if isinstance(e, GrantRefused):
                outcome = "refused"
            elif isinstance(e, UnknownOutcome | AnswerRefused | AnswerUnreadable):
                outcome = "unknown"
            await self._ended(connection, asked, outcome, code=e.code)
            raise
        await self._ended(connection, asked, "renewed", expires_at=found.expires_at)
        return found

    async def _exchange(self, connection: ConnectionFacts, federation: Federation, now: int) -> Exchanged:
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

    async def _impersonate(
        self, connection: ConnectionFacts, federation: Federation, endpoint: Endpoint, first: Exchanged, now: int
    ) -> Exchanged:
        request = impersonation_request(federation, first)
        answer = await post_form(self._upstreams, connection.exchange, endpoint, request)
        return read_impersonated(answer.status, answer.body, now=now)

    async def _ended(
        self, connection: ConnectionFacts, asked: Envelope, outcome: str, *, code: str = "", expires_at: int = 0
    ) -> None:
        now = int(self._clock())
        ended = renewed(connection, asked, outcome=outcome, now=now, code=code, expires_at=expires_at)
        await self._journal.append([ended])


def _at(connection: ConnectionFacts) -> _At:
    federation = connection.federation
    return connection.tenant, connection.name, () if federation is None else federation.identity
