"""The current access token of a connected account, and its renewal: one at a time, over all replicas.

    use what is good -> else one task in this process -> lease -> journal -> ask the provider -> store -> use

What a crash leaves at each point:

* before the lease, or before the provider was asked: the tokens as they were; the lease runs out.
* asked, no answer stored: the tokens as they were. A provider that does not rotate, or that forgives a second use for a
  while, answers the next time. One that rotates and forgives nothing has handed its answer to a dead process, and no
  order of steps on this side can prevent that; then the connection is *lost*, and says so.
* stored, not used: nothing is missing; the next one reads it.

A set of tokens is stored before its access token is used, and until it is stored the task goes on trying: it is not
tied to the request that started it, which may end. A token that is still good is used while the provider is down or
another process renews. A refusal of the refresh token counts only if nobody has stored another set meanwhile.

Trusted / not trusted: a provider that lies can give tokens that do not work, and end its own grants.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from nomos.errors import (
    Conflict,
    ConnectionLost,
    NomosError,
    NotFound,
    Unavailable,
    UnknownOutcome,
    UpstreamFailed,
)
from nomos.events import CONNECTION_LOST, Envelope
from nomos.ids import new_id
from nomos_proxy.answer import AnswerRefused
from nomos_proxy.credentialevents import renewed, renewing
from nomos_proxy.domain import PROXY, ConnectionFacts
from nomos_proxy.flights import Flights
from nomos_proxy.history import added
from nomos_proxy.keeping import Kept
from nomos_proxy.oauth.clients import Clients
from nomos_proxy.oauth.grants import Grant, Grants, renew_at, use_until
from nomos_proxy.oauth.party import Party
from nomos_proxy.oauth.protocol import AnswerNotTaken, AnswerUnreadable, GrantRefused, TokenSet, taken
from nomos_proxy.oauth.requests import refresh_request
from nomos_proxy.store import Credential, CredentialStore, credential_of
from nomos_runtime import observe
from nomos_runtime.eventstore import StoredEvent
from nomos_runtime.journal import Journal
from nomos_runtime.secret import Secret

#: How often a process looks whether another one has stored new tokens, and for how long at most.
LOOK_SECONDS: Final = 0.05
WAIT_SECONDS: Final = 40.0
#: After a failure nobody asks for so long; doubled with each further one, up to the maximum.
RETRY_SECONDS: Final = 2
RETRY_SECONDS_MAX: Final = 300
#: How often and for how long storing is tried again while the database is away.
STORE_RETRY_SECONDS: Final = 0.2
STORE_SECONDS: Final = 600.0
#: An upstream that refuses a token younger than this refuses for another reason.
YOUNG_SECONDS: Final = 10
_TRIES: Final = 5


class Opened(Struct, frozen=True, kw_only=True):
    """An access token in memory: of which generation and revision, since when, until when it is used (0: for ever)."""

    credential: Credential
    generation: int
    revision: int
    since: int
    until: int


class Accounts:
    """The access tokens of connected accounts, for one process."""

    def __init__(
        self,
        *,
        grants: Grants,
        clients: Clients,
        credentials: CredentialStore,
        journal: Journal,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Wires it.

        Args:
            grants: the tokens at rest.
            clients: as whom the provider is asked.
            credentials: where a loss is recorded.
            journal: of the service.
            clock: Unix seconds.
        """
        self._grants = grants
        self._clients = clients
        self._credentials = credentials
        self._journal = journal
        self._clock = clock
        #: Names this process among those that hold leases.
        self._holder = new_id("rq")
        self._opened: Kept[Opened] = Kept()
        self._flights: Flights[tuple[str, str], Opened] = Flights()

    async def credential(self, connection: ConnectionFacts, *, within_seconds: float) -> Credential:
        """The access token of a connection, renewed if it must be.

        Args:
            connection: an open one whose tokens come from its provider.
            within_seconds: how long the caller waits; the renewal itself goes on.

        Raises:
            ConnectionLost: a person must connect the account again.
            NotFound: its tokens have been destroyed.
            Unavailable: no good token can be had now.
        """
        known = self._opened.find(*_at(connection))
        # One that is lost is looked up anew: a token without an end may still lie in memory here.
        if (
            known is not None
            and not connection.is_lost
            and known.revision == connection.revision
            and not self._is_over(known.until)
        ):
            return known.credential
        return (await self._newer(connection, 0, within_seconds)).credential

    async def after_refusal(
        self, connection: ConnectionFacts, used: Credential, *, within_seconds: float
    ) -> Credential | None:
        """Another access token in place of one that the upstream did not take (401); None where there is none."""
        known = self._opened.find(*_at(connection))
        if known is None:
            return None
        if known.credential is not used:
            return known.credential
        if self._clock() < known.since + YOUNG_SECONDS:
            # It says 401 to a token that was made just now: another one would be no better, and asking never ends.
            return None
        try:
            opened = await self._newer(connection, known.generation, within_seconds)
        except NomosError as e:
            # The upstream's own answer says more to the agent than why no other token could be had.
            observe.say("proxy", observe.CREDENTIAL_FAULT, code=e.code, tenant=connection.tenant)
            return None
        return opened.credential

    async def ahead(self, connection: ConnectionFacts) -> None:
        """Renews what is due. Errors as :meth:`credential`."""
        await self._newer(connection, -1, WAIT_SECONDS)

    async def now(self, connection: ConnectionFacts, *, within_seconds: float) -> int:
        """Renews at once, due or not; gives the new generation. Errors as :meth:`credential`."""
        grant = await self._grants.find(connection.tenant, connection.name, connection.connector)
        return (await self._newer(connection, grant.generation, within_seconds)).generation

    def drop(self, tenant: str, name: str) -> None:
        """Keeps nothing of a removed connection in memory from now on."""
        self._opened.drop(tenant, name)

    def forget(self, tenant: str) -> None:
        """Keeps nothing of a closed tenant in memory from now on."""
        self._opened.forget(tenant)

    async def close(self) -> None:
        """Lets what has been asked of providers come to its end: an answer that is on its way must not be lost."""
        await self._flights.land(WAIT_SECONDS)

    async def _newer(self, connection: ConnectionFacts, than: int, within_seconds: float) -> Opened:
        while True:
            opened = await self._flights.outcome(
                _at(connection), lambda: self._renewed(connection, than), within_seconds
            )
            # What ran may have been begun for an older one.
            if opened.generation > than:
                return opened

    async def _renewed(self, connection: ConnectionFacts, than: int) -> Opened:
        loop = asyncio.get_running_loop()
        ends = loop.time() + WAIT_SECONDS
        while True:
            grant = await self._grants.find(connection.tenant, connection.name, connection.connector)
            if grant.state == "ending":
                raise NotFound("the connection is closed")
            if grant.state == "lost":
                raise _lost()
            if self._is_good(grant, than):
                return self._kept(connection, grant)
            fallback = self._is_usable(grant, than)
            try:
                newer = await self._try(connection, grant)
            except NomosError as e:
                if isinstance(e, ConnectionLost) or not fallback:
                    raise
                return self._kept(connection, grant)
            if newer is not None:
                return self._kept(connection, newer)
            if fallback:
                return self._kept(connection, grant)
            if loop.time() > ends:
                raise Unavailable("another process renews this credential and has not come to an end")
            await asyncio.sleep(LOOK_SECONDS)

    def _is_good(self, grant: Grant, than: int) -> bool:
        """Whether nothing is to be done: for ``than`` -1 nothing is due yet, else the token is another and not over."""
        if than < 0:
            due = renew_at(grant.tokens)
            return due == 0 or self._clock() < due
        return grant.generation > than and not self._is_over(use_until(grant.tokens))

    def _is_usable(self, grant: Grant, than: int) -> bool:
        """Whether the token may be used for want of a newer one: the provider still takes it."""
        ends = grant.tokens.expires_at
        return grant.generation > than and (ends == 0 or self._clock() < ends)

    def _is_over(self, until: int) -> bool:
        return until != 0 and self._clock() >= until

    def _kept(self, connection: ConnectionFacts, grant: Grant) -> Opened:
        opened = Opened(
            credential=credential_of(Secret(grant.tokens.access.encode("ascii"))),
            generation=grant.generation,
            revision=connection.revision,
            since=grant.tokens.obtained_at,
            until=use_until(grant.tokens),
        )
        self._opened.keep(*_at(connection), opened)
        return opened

    async def _try(self, connection: ConnectionFacts, grant: Grant) -> Grant | None:
        """One try. None: another process is at it, or has changed the tokens; look again."""
        now = int(self._clock())
        if not grant.tokens.refresh:
            if now < (grant.tokens.expires_at or now + 1):
                # The upstream refuses a token that should be good, and there is no way to another.
                raise UpstreamFailed("the provider gave no refresh token, so its access token cannot be renewed")
            await self._lose(connection, grant, "no_refresh_token")
            raise _lost()
        if grant.retry_at > now:
            wait = f"the provider did not renew the credential; tried {grant.failures} times"
            raise UpstreamFailed(wait, retry_after_ms=(grant.retry_at - now) * 1_000)
        party = await self._clients.party(connection.tenant, connection.connector, is_shared=connection.is_shared)
        if not await self._grants.lease(connection.tenant, connection.name, grant.generation, self._holder):
            return None
        asked = renewing(connection, generation=grant.generation, now=now)
        try:
            # Written ahead, as a call is: from here on the log knows that the refresh token may have been used.
            await self._journal.append([asked])
        except NomosError:
            await self._grants.give_back(grant, self._holder, retry_at=now)
            raise
        try:
            tokens = await self._asked(party, connection, grant)
        except (GrantRefused, AnswerNotTaken) as e:
            # Recorded first: the provider refused, whatever that means for the connection.
            await self._ended(connection, asked, "refused", code=e.code)
            if not await self._lose(connection, grant, e.code):
                return None
            raise _lost() from e
        except NomosError as e:
            pause = min(RETRY_SECONDS << min(grant.failures, 12), RETRY_SECONDS_MAX)
            await self._grants.give_back(grant, self._holder, retry_at=int(self._clock()) + pause)
            # What cannot be read may have been the new tokens, as may what never came.
            is_open = isinstance(e, UnknownOutcome | AnswerRefused | AnswerUnreadable)
            await self._ended(connection, asked, "unknown" if is_open else "failed", code=e.code)
            raise
        try:
            is_stored = await self._store(connection, grant, tokens)
        except NomosError as e:
            await self._ended(connection, asked, "unknown", code=e.code)
            raise
        if not is_stored:
            # Others have been stored meanwhile, or the tokens are gone: these are used by nobody.
            await self._ended(connection, asked, "failed", code=Conflict.code)
            return None
        await self._ended(connection, asked, "renewed", expires_at=tokens.expires_at)
        return _next(grant, tokens)

    async def _asked(self, party: Party, connection: ConnectionFacts, grant: Grant) -> TokenSet:
        request = refresh_request(party.oauth, party.client(), grant.tokens.refresh)
        granted = await party.tokens(request, int(self._clock()))
        try:
            return taken(
                party.oauth,
                granted,
                client_id=party.client_id,
                issuer=party.issuer,
                before=grant.tokens,
                asked=connection.scopes,
            )
        except AnswerNotTaken:
            await party.give_back(granted.tokens)
            raise

    async def _store(self, connection: ConnectionFacts, grant: Grant, tokens: TokenSet) -> bool:
        """Stores tokens that a provider has handed out, however long the database is away."""
        ends = asyncio.get_running_loop().time() + STORE_SECONDS
        while True:
            try:
                return await self._grants.store(grant, connection.connector, tokens)
            except Unavailable as e:
                if asyncio.get_running_loop().time() > ends:
                    raise
                observe.say("proxy", observe.CREDENTIAL_FAULT, code=e.code, tenant=connection.tenant)
                await asyncio.sleep(STORE_RETRY_SECONDS)

    async def _lose(self, connection: ConnectionFacts, grant: Grant, code: str) -> bool:
        """Records that a connection is lost; False where somebody has stored other tokens meanwhile."""

        def decide(history: Sequence[StoredEvent]) -> tuple[str, dict[str, object]]:
            added(history, connection.name)
            return CONNECTION_LOST, {"name": connection.name, "code": code}

        for _ in range(_TRIES):
            now = await self._grants.find(connection.tenant, connection.name, connection.connector)
            if now.generation != grant.generation or now.state != "active":
                return False
            try:
                await self._credentials.change(
                    connection.tenant,
                    decide,
                    also=self._grants.losing(grant),
                    actor=PROXY,
                    corr=new_id("rq"),
                )
            except Conflict:
                continue
            return True
        raise Unavailable("the tenant's connections change too often to record a loss")

    async def _ended(
        self, connection: ConnectionFacts, asked: Envelope, outcome: str, *, code: str = "", expires_at: int = 0
    ) -> None:
        now = int(self._clock())
        ended = renewed(connection, asked, outcome=outcome, now=now, code=code, expires_at=expires_at)
        await self._journal.append([ended])


def _next(grant: Grant, tokens: TokenSet) -> Grant:
    return Grant(
        tenant=grant.tenant,
        connection=grant.connection,
        generation=grant.generation + 1,
        tokens=tokens,
        state="active",
        failures=0,
        retry_at=0,
    )


def _lost() -> ConnectionLost:
    return ConnectionLost(
        "the provider refuses to renew this connection's tokens",
        hint="connect the account again: nomos connection connect",
    )


def _at(connection: ConnectionFacts) -> tuple[str, str]:
    return connection.tenant, connection.name
