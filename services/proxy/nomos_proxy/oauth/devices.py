"""Connecting an account without a browser here: the provider gives a code, and a person enters it wherever they are.

    offer (operator) -> provider: device code, sealed, and a code for people -> poll (operator, again and again)
        -> provider: not yet | slow down | no | too late | tokens -> stored

The operator's command polls; the proxy asks the provider, never sooner than the provider allows. When it may be asked
next stands sealed beside the device code and is moved on by compare-and-set *before* it is asked, so of many who poll
at once, over all proxies, one asks. A process that dies while it asks costs one wait.

A code works for whoever enters it (RFC 8628 section 5.4): it is given to whom the account belongs and to nobody else.

Source: RFC 8628.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final, Literal

import msgspec
from msgspec import Struct, structs

from nomos.errors import Expired, NomosError, NotFound, NotPermitted, RateLimited, UnknownOutcome, UpstreamFailed
from nomos.events import CONNECT_RETURNED, Actor
from nomos.ids import is_id, new_id
from nomos_proxy.oauth.attempts import Attempts, stream
from nomos_proxy.oauth.clients import Clients
from nomos_proxy.oauth.deviceanswers import DeviceCode, device_state, read_device
from nomos_proxy.oauth.flow import ID_PREFIX, Flow
from nomos_proxy.oauth.party import ASK_SECONDS, Party
from nomos_proxy.oauth.protocol import Granted, NotConnected, check_answer, read_tokens
from nomos_proxy.oauth.requests import device_request, device_token_request
from nomos_runtime import observe
from nomos_runtime.secret import Secret

#: What a provider that is asked too often adds to the interval, RFC 8628 section 3.5.
SLOW_DOWN_SECONDS: Final = 5
#: Seconds between two questions to which it may grow.
INTERVAL_SECONDS_MAX: Final = 120


class Waiting(Struct, frozen=True, kw_only=True):
    """What is kept of an attempt.

    Attributes:
        code: the device code.
        interval: seconds between two questions.
        next_at: Unix seconds before which nobody asks.
    """

    code: str
    interval: int
    next_at: int

    def __repr__(self) -> str:
        return "Waiting(redacted)"


class Polled(Struct, frozen=True, kw_only=True):
    """How an attempt stands.

    Attributes:
        state: ``pending`` or ``connected``; everything else is raised.
        again_seconds: when to come again.
        trouble: the code of what went wrong with the last question, which changes nothing; else empty.
    """

    state: Literal["pending", "connected"]
    again_seconds: int = 0
    trouble: str = ""


_waiting: Final = msgspec.json.Decoder(Waiting)


class Devices:
    """Offers codes, and asks whether they have been entered."""

    def __init__(self, attempts: Attempts, clients: Clients, refresh: Callable[[], Awaitable[None]]) -> None:
        """Wires it; ``refresh`` brings this replica's facts up to date."""
        self._attempts = attempts
        self._clients = clients
        self._refresh = refresh

    async def offer(
        self, tenant: str, *, connector: str, name: str, scopes: tuple[str, ...], base_url: str, by: Actor, corr: str
    ) -> tuple[str, DeviceCode]:
        """Asks the provider for a code; gives the attempt and what a person needs of it.

        Raises:
            NotPermitted: the provider gives no codes.
            UpstreamFailed, UnknownOutcome: the provider gave none now.
            NomosError: as :meth:`Attempts.asked`.
        """
        asked, party = await self._attempts.asked(
            tenant, connector=connector, name=name, scopes=scopes, base_url=base_url
        )
        if party.oauth.device is None:
            raise NotPermitted(
                f"the provider of {connector} gives no codes for devices",
                hint="connect by a link: nomos connection connect",
            )
        request = device_request(party.oauth, party.client(), asked.scopes)
        answer = await party.ask(party.oauth.device, request)
        check_answer(party.oauth, answer.status, answer.body)
        now, flow = int(time.time()), new_id(ID_PREFIX)
        code = read_device(answer.body, now=now, instead=party.origin)
        kept = Waiting(code=code.device_code, interval=code.interval, next_at=now + code.interval)
        sealed = await self._attempts.seal(tenant, flow, connector, Secret(msgspec.json.encode(kept)))
        members = {"device": True, "link_sha256": "", "expires_at": code.expires_at}
        await self._attempts.offered(tenant, flow, asked, members, by=by, corr=corr, sealed={stream(flow): sealed})
        return flow, code

    async def poll(self, tenant: str, flow_id: str, corr: str) -> Polled:
        """Asks the provider, if it may be asked now, whether the code has been entered.

        Raises:
            NotFound: there is no such attempt of a device.
            Replayed: it has ended before.
            Expired: the code's time is over.
            NotConnected: the person said no.
            GrantRefused, AnswerNotTaken, Conflict: the provider gives nothing for it, or something that is not taken.
        """
        flow = await self._attempts.flow(tenant, flow_id) if is_id(flow_id, ID_PREFIX) else None
        if flow is None or not flow.is_device:
            raise NotFound("there is no such attempt of a device")
        now = int(time.time())
        try:
            flow.check_open(now)
        except Expired as e:
            await self._attempts.end(flow, flow.version, "failed", e.code, corr)
            raise
        kept, record = await self._attempts.kept(flow)
        waiting = _waiting.decode(kept.reveal())
        if now < waiting.next_at:
            return Polled(state="pending", again_seconds=waiting.next_at - now)
        # Longer than the question takes: nobody else asks while this one may still be on its way.
        held = await self._moved(flow, record, waiting, now + int(ASK_SECONDS) + waiting.interval)
        if held is None:
            return Polled(state="pending", again_seconds=waiting.interval)
        return await self._asked(flow, waiting, held, corr)

    async def _asked(self, flow: Flow, waiting: Waiting, held: bytes, corr: str) -> Polled:
        party = await self._clients.party(flow.tenant, flow.connector, is_shared=flow.is_shared)
        try:
            state, body = await self._question(party, waiting)
        except (UpstreamFailed, UnknownOutcome, RateLimited) as e:
            # The code is as good as before, or the next answer says that it is not.
            observe.say("proxy", observe.CREDENTIAL_FAULT, code=e.code, tenant=flow.tenant)
            return await self._later(flow, waiting, held, longer=SLOW_DOWN_SECONDS, trouble=e.code)
        except NomosError as e:
            await self._attempts.end(flow, flow.version, "failed", e.code, corr)
            raise
        if state == "pending":
            return await self._later(flow, waiting, held)
        if state == "slow_down":
            return await self._later(flow, waiting, held, longer=SLOW_DOWN_SECONDS)
        if state == "denied":
            await self._attempts.end(flow, flow.version, "denied", NotConnected.code, corr)
            raise NotConnected("the provider connected nothing: access_denied")
        if state == "expired":
            await self._attempts.end(flow, flow.version, "failed", Expired.code, corr)
            raise Expired("the time of this code is over", hint="ask for a new one")
        await self._granted(party, flow, body, corr)
        return Polled(state="connected")

    @staticmethod
    async def _question(party: Party, waiting: Waiting) -> tuple[str, bytes]:
        answer = await party.ask(party.oauth.token, device_token_request(party.oauth, party.client(), waiting.code))
        state = device_state(party.oauth, answer.body)
        if state == "granted":
            # raises where it is none of these five: the provider is down, or the code no good
            check_answer(party.oauth, answer.status, answer.body)
        return state, answer.body

    async def _granted(self, party: Party, flow: Flow, body: bytes, corr: str) -> None:
        version = flow.version
        try:
            granted = read_tokens(body, now=int(time.time()))
            await self._returned(party, flow, granted, corr)
            version += 1
            await self._attempts.take(party, flow, granted, nonce="", corr=corr)
        except NomosError as e:
            await self._attempts.failed(flow, version, e, corr)
            raise
        await self._attempts.end(flow, flow.version + 1, "connected", "", corr)
        await self._refresh()

    async def _returned(self, party: Party, flow: Flow, granted: Granted, corr: str) -> None:
        """Before anything is stored: of two who end an attempt one loses here, and keeps nothing."""
        event: dict[str, object] = {"flow": flow.id, "at": int(time.time())}
        try:
            await self._attempts.append(flow.tenant, flow.id, flow.version, CONNECT_RETURNED, event, corr=corr)
        except NomosError:
            await party.give_back(granted.tokens)
            raise

    async def _later(self, flow: Flow, waiting: Waiting, held: bytes, *, longer: int = 0, trouble: str = "") -> Polled:
        interval = min(waiting.interval + longer, INTERVAL_SECONDS_MAX)
        next_at = int(time.time()) + interval
        await self._moved(flow, held, structs.replace(waiting, interval=interval), next_at)
        return Polled(state="pending", again_seconds=interval, trouble=trouble)

    async def _moved(self, flow: Flow, before: bytes, waiting: Waiting, next_at: int) -> bytes | None:
        content = Secret(msgspec.json.encode(structs.replace(waiting, next_at=next_at)))
        return await self._attempts.exchange(flow, before, content)
