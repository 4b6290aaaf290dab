"""The edge of stepup towards services and agents: open, consume, wait."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from nomos.errors import Malformed, NomosError, NotFound
from nomos.events import Actor
from nomos.ids import is_id, new_id
from nomos.log.assertion import SALT_BYTES
from nomos.messages import ApprovalStatus, AwaitApproval, Command, Decoder
from nomos.servicemessages import ApprovalConsumed, ApprovalOpened, ConsumeApproval, OpenApproval
from nomos_runtime import observe
from nomos_runtime.responder import Caller
from nomos_stepup.cosigner import mint_cosignature
from nomos_stepup.domain import ApprovalState, Consume, Expire
from nomos_stepup.index import Index
from nomos_stepup.opening import prepare
from nomos_stepup.settings import StepupSettings
from nomos_stepup.store import SERVICE, StepupStore

open_decoder = Decoder.of(OpenApproval, "open approval")
consume_decoder = Decoder.of(ConsumeApproval, "consume approval")
await_decoder = Decoder.of(AwaitApproval, "await approval")
NONCE_BYTES: Final = 12
#: Requests of one agent that may wait for a human at once; further ones are answered with the state as it is.
WAITING_PER_AGENT_MAX: Final = 16


class Stepup:
    """Asks humans for policy, spends approvals for policy, and tells agents where theirs stand."""

    def __init__(
        self,
        settings: StepupSettings,
        store: StepupStore,
        index: Index,
        is_closed: Callable[[str], bool],
        url_of: Callable[[str], str],
    ) -> None:
        self._settings = settings
        self._store = store
        self._index = index
        self._is_closed = is_closed
        #: The page of an approval; empty where none is served.
        self._url_of = url_of
        self._waiting: Counter[tuple[str, str]] = Counter()
        #: Approvals of an agent that this process has opened and that the index may not show yet.
        self._opening: dict[tuple[str, str], set[str]] = {}

    async def open(self, message: object) -> ApprovalOpened:
        """Stores a request for a human. The agent's tenant and name were verified by policy."""
        if not isinstance(message, OpenApproval):
            raise Malformed("not an open approval message")
        approval, agent = new_id("ap"), (message.tenant, message.agent)
        # Those that are being opened count too: of many at once the limit lets no more through than one by one.
        opening = {a for a in self._opening.get(agent, ()) if self._index.find(a) is None}
        command = prepare(
            message,
            approval=approval,
            salt=os.urandom(SALT_BYTES),
            now=int(time.time()),
            pending_of_agent=self._index.pending_of_agent(*agent) + len(opening),
            lifetime_seconds=self._settings.approval_seconds,
        )
        self._opening[agent] = opening | {approval}
        actor = Actor(kind="agent", id=message.agent)
        try:
            state = await self._store.decide(message.tenant, approval, lambda _: command, actor, message.request)
        except BaseException:
            self._opening[agent].discard(approval)
            raise
        return ApprovalOpened(approval=approval, expires_at=state.request.expires_at, url=self._url_of(approval))

    async def consume(self, message: object) -> ApprovalConsumed:
        """Spends an approval; the second spending of the same approval is refused, whoever asks and wherever."""
        if not isinstance(message, ConsumeApproval):
            raise Malformed("not a consume approval message")
        if not is_id(message.approval, "ap"):
            raise Malformed("approval id must be ap_ and 32 hex digits")
        command = Consume(
            tenant=message.tenant,
            agent=message.agent,
            connection=message.connection,
            digest=message.digest,
            request=message.request,
            now=int(time.time()),
        )
        await self._store.decide(message.tenant, message.approval, lambda _: command, SERVICE, message.request)
        return ApprovalConsumed(approval=message.approval)

    async def status(self, caller: Caller, command: Command) -> ApprovalStatus:
        """The state of an approval that this very agent asked for; the cosigner delegation while it is approved."""
        if not isinstance(command, AwaitApproval):
            raise Malformed("not an await approval message")
        if not is_id(command.approval, "ap"):
            raise Malformed("approval id must be ap_ and 32 hex digits")
        state = await self._store.approval(caller.tenant, command.approval)
        if state.request.agent != caller.name:
            raise NotFound("this tenant has no such approval")
        agent = (caller.tenant, caller.name)
        is_wanted = state.state is ApprovalState.PENDING and command.wait_ms > 0
        if is_wanted and self._waiting[agent] < WAITING_PER_AGENT_MAX:
            # A place of this process is held as long as this waits, so no agent may hold many.
            self._waiting[agent] += 1
            try:
                await self._index.wait(command.approval, min(command.wait_ms, self._settings.wait_ms_max) / 1000)
            finally:
                self._waiting[agent] -= 1
                if not self._waiting[agent]:
                    del self._waiting[agent]
            state = await self._store.approval(caller.tenant, command.approval)
        now = int(time.time())
        cosigner = None
        if state.state is ApprovalState.APPROVED and state.consumed_by is None and now < state.request.expires_at:
            key = await self._store.cosigner(caller.tenant)
            cosigner = mint_cosignature(state, key, nonce=os.urandom(NONCE_BYTES), now=now)
        is_refused = state.state in (ApprovalState.DENIED, ApprovalState.CANCELLED)
        return ApprovalStatus(
            approval=command.approval,
            state=state.state.value,
            expires_at=state.request.expires_at,
            cosigner=cosigner,
            reason=await self._store.reason(caller.tenant, command.approval) if is_refused else "",
        )

    async def expire(self) -> None:
        """Ends what nobody decided in time. Early, late or twice does no harm."""
        now = int(time.time())
        for overdue in self._index.overdue(now):
            if self._is_closed(overdue.request.tenant):
                # Nothing is recorded of it any more; past its time it releases nothing.
                continue
            try:
                await self._store.decide(overdue.request.tenant, overdue.id, lambda _: Expire(now=now), SERVICE, "")
            except NomosError as e:
                # Tried again in a second, and the others' are not held up. Past its time it releases nothing anyway.
                observe.say("stepup", observe.REQUEST_FAULT, error=e.code, verb="expire")
