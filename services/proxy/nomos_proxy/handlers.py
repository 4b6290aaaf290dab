"""The edge of proxy: one invocation to one upstream call.

    verify chain -> plan (build, derive, compare) -> gate (rates, circuit) -> credential (renewed where its time is
        over) -> mark used -> journal the attempt -> call -> sanitize -> journal the end -> answer

Where the arguments name a content, the invocation waits behind the plan until its bytes have come in pieces
(:mod:`nomos_proxy.uploads`); then all of it is done again from the beginning, as if it came now, and with them.

An answer that leaves while it comes goes another way behind the call: its pieces are read, cleaned and given one by one
(:mod:`nomos_proxy.openanswers`), and its end is journaled before the last one leaves.

What is durable at each crash point:

* before the mark: nothing; the agent's permission is unused.
* after the mark, before the attempt is journaled: the permission is spent, nothing was sent.
* after the attempt: the log says that a call was attempted; without an end its outcome is unknown.
* after the end: the log says how it ended; only the answer to the agent, or what it has not read of it, is lost.

The mark comes first, so an invocation has one attempt in the log at most, whatever is sent twice and whoever crashes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import msgspec

from nomos.catalogue import Catalogue
from nomos.errors import Expired, Malformed, NomosError, NotCovered, NotFound, Revoked, UnknownOutcome
from nomos.events import CALL_ATTEMPTED
from nomos.messages import Command, Decoder, Invoke, Returned, Taken, UploadPiece, Wanted
from nomos.ucan.verify import VerifiedInvocation, verify_invocation
from nomos_proxy.answer import UpstreamResponse
from nomos_proxy.dial import HttpVersion
from nomos_proxy.domain import CallPlan, ConnectionFacts, attempted, plan_call
from nomos_proxy.ending import Call, Ending, envelope, seconds_left
from nomos_proxy.exchange import Limits
from nomos_proxy.federation.tokens import Federated
from nomos_proxy.gate import Gate
from nomos_proxy.issuers import Issuers
from nomos_proxy.oauth.renewing import Accounts
from nomos_proxy.openanswers import OpenAnswers
from nomos_proxy.replay import ReplaySet
from nomos_proxy.revocations import Revocations
from nomos_proxy.settings import ProxySettings
from nomos_proxy.stages import Stages, Watch
from nomos_proxy.store import Connections, Credential, CredentialStore
from nomos_proxy.transports import Transports
from nomos_proxy.uploads import Uploads
from nomos_proxy.upstream import OpenAnswer, Upstreams
from nomos_runtime import observe
from nomos_runtime.directory import AgentFacts, Directory
from nomos_runtime.journal import Journal
from nomos_runtime.responder import Caller
from nomos_runtime.secret import Secret

decoder: Final = Decoder.of(Invoke, "invoke")
upload_decoder: Final = Decoder.of(UploadPiece, "upload")
UNAUTHORIZED: Final = 401
#: Resource texts whose parsed form is kept.
RESOURCES_MAX: Final = 4_096


class Broker:
    """Answers ``invoke``."""

    def __init__(
        self,
        *,
        settings: ProxySettings,
        journal: Journal,
        directory: Directory,
        catalogue: Catalogue,
        issuers: Issuers,
        revocations: Revocations,
        connections: Connections,
        credentials: CredentialStore,
        accounts: Accounts,
        federated: Federated,
        replay: ReplaySet,
        upstreams: Upstreams,
        transports: Transports,
        answers: OpenAnswers,
        uploads: Uploads,
        ending: Ending,
        check_fresh: Callable[[], None],
        gate: Gate,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._directory = directory
        self._catalogue = catalogue
        # As policy does: agents ask for the same few resources again and again; a refusal is not kept.
        self._parse_resource = lru_cache(maxsize=RESOURCES_MAX)(catalogue.parse_resource)
        self._issuers = issuers
        self._revocations = revocations
        self._connections = connections
        self._credentials = credentials
        self._accounts = accounts
        self._federated = federated
        self._replay = replay
        self._upstreams = upstreams
        self._transports = transports
        self._answers = answers
        self._uploads = uploads
        self._ending = ending
        self._check_fresh = check_fresh
        self._gate = gate
        self.stages = Stages()

    async def invoke(self, caller: Caller, command: Command) -> Returned | Wanted:
        """Runs one invocation of the agent that the bus names, or waits for its content.

        Raises:
            StalePolicy: this replica cannot prove that its revocations are fresh.
            UnknownOutcome: sent, and no complete answer came back.
            NomosError: refused; the responder records it.
        """
        if not isinstance(command, Invoke):
            raise Malformed("not an invoke message")
        watch = Watch()
        self._check_fresh()
        agent = self._directory.agent(caller.tenant, caller.name)
        plan, check = self._plan(agent, command, None)
        if plan.request.content is not None:
            return self._uploads.open(agent.tenant, agent.agent, command, plan.request.content)
        return await self._run(agent, command, plan, check, watch)

    async def upload(self, caller: Caller, command: Command) -> Returned | Taken:
        """Takes the next piece of a content; with the last one, runs the invocation that waited for it.

        Raises:
            NotFound: this agent has no such upload here.
            Conflict, Malformed, LimitExceeded, Expired: as :meth:`Uploads.take`.
            NomosError: as :meth:`invoke`.
        """
        if not isinstance(command, UploadPiece):
            raise Malformed("not an upload message")
        agent = self._directory.agent(caller.tenant, caller.name)
        whole = self._uploads.take(agent.tenant, agent.agent, command)
        if whole is None:
            return Taken(seq=command.seq)
        try:
            watch = Watch()
            self._check_fresh()
            plan, check = self._plan(agent, whole.command, whole.data)
            return await self._run(agent, whole.command, plan, check, watch)
        finally:
            self._uploads.done(whole)

    async def _run(
        self, agent: AgentFacts, command: Invoke, plan: CallPlan, check: Callable[[], None], watch: Watch
    ) -> Returned:
        if _is_live(command, plan):
            self._answers.check_live(agent.tenant, agent.agent)
        passage = self._gate.enter(agent.agent, plan)
        try:
            await passage.admit()
            credential = await self._credential(plan.connection, command)
            watch.lap()
            await self._replay.use(plan.replay_key)
            watch.lap()
            attempt = envelope(agent, command.id, "", CALL_ATTEMPTED, attempted(plan, command.deadline_ms))
            # Written ahead: from here on the log knows of the call, whatever happens to this process.
            await self._journal.append([attempt])
            watch.lap()
            end, credential = await self._made(command, plan, credential)
            passage.end(end.as_response() if isinstance(end, OpenAnswer) else end)
            watch.lap()
        finally:
            passage.leave()
        call = Call(
            agent=agent,
            command=command,
            plan=plan,
            credential=credential,
            attempt=attempt.id,
            check=check,
            watch=watch,
        )
        if isinstance(end, OpenAnswer):
            return await self._ending.opened(call, end)
        answer = await self._ending.ended(call, end)
        self.stages.keep(watch)
        return answer

    def _plan(self, agent: AgentFacts, command: Invoke, data: bytes | None) -> tuple[CallPlan, Callable[[], None]]:
        """The call that an invocation means, and what says whether its permission is still in force."""
        now = int(time.time())
        verified = verify_invocation(
            command.invocation,
            command.proofs,
            now=now,
            trusted_roots=self._issuers.roots(agent.tenant, now),
            revoked=lambda cid: self._revocations.is_revoked(agent.tenant, cid),
        )
        if verified.agent != agent.did:
            raise NotCovered("the invocation is signed by another key than this agent's")
        # Who handed the permission on must still be in force: a revoked agent's sub-agents are refused with it.
        holders = [self._directory.agent_of(agent.tenant, did) for did in verified.holders[:-1]]
        apps = (agent.app, *(h.app for h in holders))
        self._check_cut(agent.tenant, apps, verified)
        via = tuple(holder.agent for holder in holders)
        connection = self._connections.find(agent.tenant, verified.connection)

        def check() -> None:
            self._check_fresh()
            self._check_cut(agent.tenant, apps, verified)
            if any(self._revocations.is_revoked(agent.tenant, cid) for cid in verified.delegation_cids):
                raise Revoked("the permission was taken back")
            for name in (agent.agent, *via):
                self._directory.agent(agent.tenant, name)
            if not self._connections.find(agent.tenant, verified.connection).is_open:
                raise NotFound("the connection is closed")

        parse = self._parse_resource
        plan = plan_call(verified, self._catalogue, connection, via=via, data=data, parse_resource=parse)
        return plan, check

    def _check_cut(self, tenant: str, apps: tuple[str, ...], verified: VerifiedInvocation) -> None:
        if self._revocations.is_cut(tenant, apps, verified.root_expires_at):
            raise Revoked("everything that was issued for this app up to a moment ago was taken back")

    async def _credential(self, connection: ConnectionFacts, command: Invoke) -> Credential:
        given = self._given_by(connection)
        if given is None:
            return await self._credentials.credential(connection)
        return await given.credential(connection, within_seconds=seconds_left(command))

    def _given_by(self, connection: ConnectionFacts) -> Accounts | Federated | None:
        """Who gets the connection's credential from somebody; None where a person brought it, or it needs none."""
        if connection.federation is not None:
            return self._federated
        return self._accounts if connection.is_account else None

    async def _made(
        self, command: Invoke, plan: CallPlan, credential: Credential
    ) -> tuple[UpstreamResponse | OpenAnswer | NomosError, Credential]:
        """The answer of the call, or the error that took its place; and the credential that it was made with last.

        An upstream that takes a token no more has done nothing (401): an account's is renewed, a cloud's exchanged
        anew, and the same request is sent once more.
        """
        try:
            end = await self._send(command, plan, credential.bearer)
            given = self._given_by(plan.connection)
            if end.status == UNAUTHORIZED and given is not None:
                other = await given.after_refusal(plan.connection, credential, within_seconds=seconds_left(command))
                if other is not None:
                    if isinstance(end, OpenAnswer):
                        end.close()
                    credential = other
                    end = await self._send(command, plan, credential.bearer)
            return end, credential
        except NomosError as e:
            return e, credential
        except Exception as e:  # noqa: BLE001 - a fault of ours, perhaps after the first byte: the log and the agent hear so
            observe.say("proxy", observe.REQUEST_FAULT, error=type(e).__name__, verb="call")
            fault = UnknownOutcome("the service failed during the call; it may or may not have taken effect")
            return fault, credential

    async def _send(self, command: Invoke, plan: CallPlan, bearer: Secret) -> UpstreamResponse | OpenAnswer:
        left = seconds_left(command)
        if left <= 0:
            raise Expired("the deadline of this request is over; nothing was sent")
        is_live = _is_live(command, plan)
        size = self._settings.body_bytes_max if command.answer == "whole" else self._settings.large_body_bytes_max
        limits = msgspec.structs.replace(
            Limits(),
            total_seconds=min(Limits().total_seconds, left),
            body_bytes=self._settings.live_bytes_max if is_live else size,
            begin_by_ms=command.deadline_ms,
        )
        if plan.connector.scheme != "https":
            return await self._transports.call(plan, bearer, limits)
        send = self._upstreams.open if is_live else self._upstreams.call
        prefers = HttpVersion.HTTP2 if plan.connector.http == "2" else HttpVersion.HTTP1
        return await send(plan.origin, plan.request, bearer, limits, plan.headers, auth=plan.auth, prefers=prefers)


def _is_live(command: Invoke, plan: CallPlan) -> bool:
    return command.answer == "live" and plan.action.is_streaming and plan.connector.scheme == "https"
