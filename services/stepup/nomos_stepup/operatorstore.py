"""Operators' passkeys and sessions in the event store, in ``_sys``: load, decide, append, again on a lost race."""

from __future__ import annotations

from collections.abc import Sequence

from nomos.errors import Conflict, NotFound
from nomos.events import Actor, Envelope
from nomos.ids import SYSTEM_TENANT, new_id
from nomos.servicemessages import Fact
from nomos_runtime.eventstore import EventStore
from nomos_stepup.operatorevents import (
    SIGN_IN_TYPES,
    OperatorEvent,
    SignInEvent,
    operator_event,
    sign_in_event,
    to_record,
)
from nomos_stepup.operators import OperatorCommand, OperatorKeys, decide_operator, evolve_operator
from nomos_stepup.signins import End, Open, Redeem, SignIn, decide_sign_in, evolve_sign_in
from nomos_stepup.store import TRIES_MAX


class OperatorStore:
    """The only writer of these streams. Single use is decided by the store's compare-and-set."""

    def __init__(self, store: EventStore) -> None:
        self._store = store

    async def keys(self, operator: str) -> OperatorKeys:
        """The passkeys of an operator; none where they never enrolled one."""
        state = OperatorKeys(id=operator)
        for stored in await self._store.load(SYSTEM_TENANT, _keys(operator)):
            state = evolve_operator(state, operator_event(stored.envelope.type, stored.envelope.event))
        return state

    async def decide_keys(self, operator: str, command: OperatorCommand, actor: Actor, corr: str) -> OperatorKeys:
        """Decides on the newest state and appends.

        Raises:
            NomosError: what the domain refuses with; Conflict when :data:`TRIES_MAX` races were lost.
        """
        for _ in range(TRIES_MAX):
            state = await self.keys(operator)
            events = decide_operator(state, command)
            if events and not await self._append(_keys(operator), state.version, events, actor, corr):
                continue
            for event in events:
                state = evolve_operator(state, event)
            return state
        raise Conflict("the operator's passkeys are being changed by others")

    async def session(self, session: str) -> SignIn | None:
        """The session from its events, or None."""
        state: SignIn | None = None
        for stored in await self._store.load(SYSTEM_TENANT, _session(session)):
            state = evolve_sign_in(state, sign_in_event(stored.envelope.type, stored.envelope.event))
        return state

    async def decide_session(self, session: str, command: Open | Redeem | End, actor: Actor, corr: str) -> SignIn:
        """Decides on a session's newest state and appends; errors as :meth:`decide_keys`."""
        for _ in range(TRIES_MAX):
            state = await self.session(session)
            events = decide_sign_in(state, command)
            version = state.version if state else 0
            if events and not await self._append(_session(session), version, events, actor, corr):
                continue
            for event in events:
                state = evolve_sign_in(state, event)
            if state is None:
                raise NotFound("there is no such session")
            return state
        raise Conflict("the session is being changed by others")

    async def _append(
        self, stream: str, version: int, events: Sequence[OperatorEvent | SignInEvent], actor: Actor, corr: str
    ) -> bool:
        """Whether it was appended; False where another was quicker."""
        envelopes = []
        for event in events:
            kind, payload = to_record(event)
            envelopes.append(
                Envelope(
                    id=new_id("ev"), type=kind, tenant=SYSTEM_TENANT, actor=actor, corr=corr, cause="", event=payload
                )
            )
        try:
            await self._store.append(SYSTEM_TENANT, stream, version, envelopes)
        except Conflict:
            return False
        return True


class SessionIndex:
    """The replicas' list of operators' sessions: a fold over stepup's own feed. It lists; nothing is allowed by it."""

    def __init__(self) -> None:
        self._sessions: dict[str, SignIn] = {}

    def apply(self, fact: Fact) -> None:
        """Folds one fact."""
        if fact.type in SIGN_IN_TYPES:
            event = sign_in_event(fact.type, fact.event)
            self._sessions[event.session] = evolve_sign_in(self._sessions.get(event.session), event)

    def open(self, now: int) -> list[SignIn]:
        """The sessions that were redeemed and have not ended at ``now``, Unix seconds; those that are over are let go.

        A session that is over stays for as long again: a fact of its end may come late.
        """
        self._sessions = {k: s for k, s in self._sessions.items() if now < 2 * s.expires_at - s.opened_at}
        return [s for s in self._sessions.values() if s.secret_sha256 and not s.ended and now < s.expires_at]


def _keys(operator: str) -> str:
    return f"operator/{operator}"


def _session(session: str) -> str:
    return f"operator-session/{session}"
