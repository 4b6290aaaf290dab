"""Approvals, approvers and cosigner keys in the event store: load, decide, append, and decide again on a lost race.

Personal texts are sealed here, between the decision and the store, and an approver's name is opened here again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from nomos.errors import Conflict, NotFound, Unavailable
from nomos.events import APPROVAL_CANCELLED, APPROVAL_DENIED, COSIGNER_CREATED, PASSKEY_ENROLLED, Actor, Envelope
from nomos.ids import new_id
from nomos.keys import SigningKey
from nomos.log.sealedfield import is_subject
from nomos_runtime.eventstore import EventStore
from nomos_runtime.sealing import Sealer
from nomos_runtime.subjects import Subjects
from nomos_stepup.approvercommands import ApproverCommand
from nomos_stepup.approvers import Approver, decide_approver, evolve_approver
from nomos_stepup.base64url import parse_b64url
from nomos_stepup.domain import Approval, Command, decide, evolve
from nomos_stepup.events import (
    PASSKEY_RENAMED,
    ApprovalEvent,
    ApproverEvent,
    SessionEvent,
    approval_event,
    approver_event,
    session_event,
    to_record,
)
from nomos_stepup.responses import CREDENTIAL_ID_BYTES_MAX
from nomos_stepup.sessions import Session, SessionCommand, decide_session, evolve_session

#: How often a decision is made again after a lost compare-and-set.
TRIES_MAX: Final = 5
COSIGNER_PURPOSE: Final = "cosigner-key-v1"
COSIGNER_STREAM: Final = "cosigner"
COSIGNER_NAME: Final = "cosigner-key"
#: What the people of this service are to it.
KIND: Final = "approver"
SERVICE: Final = Actor(kind="service", id="stepup")


class StepupStore:
    """The only writer of stepup's streams. Single use and races are decided by the store's compare-and-set."""

    def __init__(self, store: EventStore, sealer: Sealer, subjects: Subjects) -> None:
        self._store = store
        self._sealer = sealer
        self._subjects = subjects
        #: Tenants that were closed: their keys are not kept any more.
        self._closed: set[str] = set()
        self._cosigners: dict[str, SigningKey] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def approval(self, tenant: str, approval: str) -> Approval:
        """The approval from its events.

        Raises:
            NotFound: this tenant has none of this id.
        """
        state: Approval | None = None
        for stored in await self._store.load(tenant, f"approval/{approval}"):
            state = evolve(state, approval_event(stored.envelope.type, stored.envelope.event))
        if state is None:
            raise NotFound("this tenant has no such approval")
        return state

    async def reason(self, tenant: str, approval: str) -> str:
        """Why an approval was refused or taken back, in the person's words; empty where nobody said, or was erased."""
        for stored in reversed(await self._store.load(tenant, f"approval/{approval}")):
            if stored.envelope.type in (APPROVAL_DENIED, APPROVAL_CANCELLED):
                return str((await self._subjects.opened(stored.envelope)).event.get("reason", ""))
        return ""

    async def decide(
        self, tenant: str, approval: str, command: Callable[[Approval | None], Command], actor: Actor, corr: str
    ) -> Approval:
        """Decides on the newest state and appends; on a lost race decides again.

        Args:
            tenant: from the bus.
            approval: its id.
            command: makes the command from the state that it will be decided on.
            actor: who acts.
            corr: request id.

        Raises:
            NomosError: what the domain refuses with; Conflict when :data:`TRIES_MAX` races were lost.
        """
        for _ in range(TRIES_MAX):
            state: Approval | None = None
            for stored in await self._store.load(tenant, f"approval/{approval}"):
                state = evolve(state, approval_event(stored.envelope.type, stored.envelope.event))
            events = decide(state, command(state))
            if not events:
                if state is None:
                    raise NotFound("this tenant has no such approval")
                return state
            envelopes = await self._envelopes(events, tenant, actor, corr)
            try:
                await self._store.append(tenant, f"approval/{approval}", state.version if state else 0, envelopes)
            except Conflict:
                continue
            for event in events:
                state = evolve(state, event)
            if state is not None:
                return state
        raise Conflict("the approval is being decided by others")

    async def enrol(self, tenant: str, name: str, *, by: Actor, corr: str, now: int) -> str:
        """The subject of an approver's name; errors as :meth:`Subjects.enrol`."""
        return await self._subjects.enrol(tenant, KIND, name, by=by, corr=corr, now=now)

    async def subject(self, tenant: str, name: str) -> str:
        """The subject of an approver's name.

        Raises:
            NotFound: this tenant has no approver of this name, or they were erased.
        """
        found = await self._subjects.find(tenant, KIND, name)
        if found is None:
            raise NotFound("this tenant has no such approver")
        return found

    async def approver(self, tenant: str, subject: str) -> Approver | None:
        """The approver from their events, with the name opened, or None."""
        state: Approver | None = None
        for stored in await self._store.load(tenant, f"approver/{subject}"):
            state = evolve_approver(state, approver_event(stored.envelope.type, stored.envelope.event))
        if state is not None and is_subject(subject):
            known = await self._subjects.show(tenant, subject)
            state = msgspec.structs.replace(state, name=known.name or "")
        return state

    async def labels(self, tenant: str, subject: str) -> dict[bytes, str]:
        """What an approver calls their passkeys, by credential id; empty texts once they are erased."""
        found: dict[bytes, str] = {}
        for stored in await self._store.load(tenant, f"approver/{subject}"):
            if stored.envelope.type in (PASSKEY_ENROLLED, PASSKEY_RENAMED):
                event = (await self._subjects.opened(stored.envelope)).event
                found[parse_b64url(str(event["credential_id"]), "credential id", CREDENTIAL_ID_BYTES_MAX)] = str(
                    event["label"]
                )
        return found

    async def decide_approver(
        self, tenant: str, subject: str, command: ApproverCommand, actor: Actor, corr: str
    ) -> Approver:
        """Decides on an approver's newest state and appends; errors as :meth:`decide`."""
        for _ in range(TRIES_MAX):
            state = await self.approver(tenant, subject)
            events = decide_approver(state, command)
            if events:
                envelopes = await self._envelopes(events, tenant, actor, corr)
                try:
                    await self._store.append(tenant, f"approver/{subject}", state.version if state else 0, envelopes)
                except Conflict:
                    continue
            for event in events:
                state = evolve_approver(state, event)
            if state is not None:
                return state
        raise Conflict("the approver is being changed by others")

    async def session(self, tenant: str, session: str) -> Session | None:
        """The session from its events, or None."""
        state: Session | None = None
        for stored in await self._store.load(tenant, f"session/{session}"):
            state = evolve_session(state, session_event(stored.envelope.type, stored.envelope.event))
        return state

    async def decide_session(
        self, tenant: str, session: str, command: SessionCommand, actor: Actor, corr: str
    ) -> Session:
        """Decides on a session's newest state and appends; errors as :meth:`decide`."""
        for _ in range(TRIES_MAX):
            state = await self.session(tenant, session)
            events = decide_session(state, command)
            if events:
                envelopes = await self._envelopes(events, tenant, actor, corr)
                try:
                    await self._store.append(tenant, f"session/{session}", state.version if state else 0, envelopes)
                except Conflict:
                    continue
            for event in events:
                state = evolve_session(state, event)
            if state is not None:
                return state
        raise Conflict("the session is being changed by others")

    async def cosigner(self, tenant: str) -> SigningKey:
        """The tenant's cosigner key; a random seed, sealed, created by whichever replica comes first."""
        async with self._locks.setdefault(tenant, asyncio.Lock()):
            known = self._cosigners.get(tenant)
            if known is not None:
                return known
            key = await self._open_cosigner(tenant) or await self._create_cosigner(tenant)
            if tenant not in self._closed:
                self._cosigners[tenant] = key
            return key

    def forget(self, tenant: str) -> None:
        """Keeps no key of a closed tenant in memory from now on."""
        self._closed.add(tenant)
        self._cosigners.pop(tenant, None)

    async def _open_cosigner(self, tenant: str) -> SigningKey | None:
        if not await self._store.load(tenant, COSIGNER_STREAM):
            return None
        record = await self._store.sealed(tenant, COSIGNER_NAME)
        if record is None:
            raise Unavailable("the cosigner key of this tenant has been destroyed")
        return SigningKey(self._sealer.open(record, purpose=COSIGNER_PURPOSE, tenant=tenant, name=COSIGNER_NAME))

    async def _create_cosigner(self, tenant: str) -> SigningKey:
        seed = os.urandom(32)
        key = SigningKey(seed)
        envelope = Envelope(
            id=new_id("ev"),
            type=COSIGNER_CREATED,
            tenant=tenant,
            actor=SERVICE,
            corr="",
            cause="",
            event={"did": key.did},
        )
        sealed = {COSIGNER_NAME: self._sealer.seal(seed, purpose=COSIGNER_PURPOSE, tenant=tenant, name=COSIGNER_NAME)}
        try:
            await self._store.append(tenant, COSIGNER_STREAM, 0, [envelope], sealed)
        except Conflict:
            opened = await self._open_cosigner(tenant)
            if opened is None:
                raise Unavailable("the cosigner key of this tenant is being created") from None
            return opened
        return key

    async def _envelopes(
        self, events: Sequence[ApprovalEvent | ApproverEvent | SessionEvent], tenant: str, actor: Actor, corr: str
    ) -> list[Envelope]:
        envelopes = []
        for event in events:
            kind, payload = to_record(event)
            made = Envelope(id=new_id("ev"), type=kind, tenant=tenant, actor=actor, corr=corr, cause="", event=payload)
            envelopes.append(await self._subjects.protect(made))
        return envelopes
