"""The edge of proxy: one invocation to one upstream call.

    verify chain -> plan (build, derive, compare) -> gate (rates, circuit) -> credential (renewed where its time is
        over) -> mark used -> journal the attempt -> call -> journal the end -> sanitize -> answer

What is durable at each crash point:

* before the mark: nothing; the agent's permission is unused.
* after the mark, before the attempt is journaled: the permission is spent, nothing was sent.
* after the attempt: the log says that a call was attempted; without an end its outcome is unknown.
* after the end: the log says how it ended; only the answer to the agent is lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec

from nomos import messages
from nomos.catalogue import Catalogue, next_args
from nomos.client import error_of
from nomos.errors import (
    Expired,
    JournalUnavailable,
    LimitExceeded,
    Malformed,
    NomosError,
    NotCovered,
    ResponseRefused,
    Revoked,
    Unavailable,
    UnknownOutcome,
)
from nomos.events import CALL_ATTEMPTED, CALL_FINISHED, Actor, Envelope
from nomos.ids import new_id
from nomos.messages import MESSAGE_BYTES_MAX, Command, Decoder, Failure, Invoke, Returned, Sanitize, now_ms
from nomos.ucan.verify import verify_invocation
from nomos_proxy.answer import UpstreamResponse
from nomos_proxy.domain import CallPlan, CallState, ConnectionFacts, attempted, finished, folded, plan_call
from nomos_proxy.echo import EchoGuard
from nomos_proxy.exchange import Limits
from nomos_proxy.federation.tokens import Federated
from nomos_proxy.gate import Gate
from nomos_proxy.issuers import Issuers
from nomos_proxy.oauth.renewing import Accounts
from nomos_proxy.personal import PersonalData
from nomos_proxy.replay import ReplaySet
from nomos_proxy.revocations import Revocations
from nomos_proxy.settings import ProxySettings
from nomos_proxy.store import Connections, Credential, CredentialStore
from nomos_proxy.upstream import Upstreams
from nomos_runtime import observe
from nomos_runtime.bus import Bus
from nomos_runtime.directory import AgentFacts, Directory
from nomos_runtime.journal import Journal
from nomos_runtime.responder import Caller
from nomos_runtime.secret import Secret

decoder: Final = Decoder.of(Invoke, "invoke")
_sanitized: Final = Decoder.of(messages.Sanitized | Failure, "sanitize reply")
#: Room in an answer for everything but the body, bytes.
ANSWER_OVERHEAD_BYTES: Final = 64_000
#: What is left of a deadline for sanitizing, journaling and answering, milliseconds.
AFTER_CALL_MS: Final = 200
UNAUTHORIZED: Final = 401


class Broker:
    """Answers ``invoke``."""

    def __init__(
        self,
        *,
        settings: ProxySettings,
        bus: Bus,
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
        personal: PersonalData,
        check_fresh: Callable[[], None],
        gate: Gate,
    ) -> None:
        self._settings = settings
        self._bus = bus
        self._journal = journal
        self._directory = directory
        self._catalogue = catalogue
        self._issuers = issuers
        self._revocations = revocations
        self._connections = connections
        self._credentials = credentials
        self._accounts = accounts
        self._federated = federated
        self._replay = replay
        self._upstreams = upstreams
        self._personal = personal
        self._check_fresh = check_fresh
        self._gate = gate

    async def invoke(self, caller: Caller, command: Command) -> Returned:
        """Runs one invocation of the agent that the bus names.

        Raises:
            StalePolicy: this replica cannot prove that its revocations are fresh.
            UnknownOutcome: sent, and no complete answer came back.
            NomosError: refused; the responder records it.
        """
        if not isinstance(command, Invoke):
            raise Malformed("not an invoke message")
        self._check_fresh()
        agent = self._directory.agent(caller.tenant, caller.name)
        plan = self._plan(agent, command)
        passage = self._gate.enter(agent.agent, plan)
        try:
            credential = await self._credential(plan.connection, command)
            await self._replay.use(plan.replay_key)
            attempt = _envelope(agent, command.id, "", CALL_ATTEMPTED, attempted(plan, command.deadline_ms))
            # Written ahead: from here on the log knows of the call, whatever happens to this process.
            await self._journal.append([attempt])
            end, credential = await self._made(command, plan, credential)
            passage.end(end)
        finally:
            passage.leave()
        return await self._ended(agent, command, plan, credential, attempt.id, end)

    def _plan(self, agent: AgentFacts, command: Invoke) -> CallPlan:
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
        if self._revocations.is_cut(agent.tenant, (agent.app, *(h.app for h in holders)), verified.root_expires_at):
            raise Revoked("everything that was issued for this app up to a moment ago was taken back")
        via = tuple(holder.agent for holder in holders)
        connection = self._connections.find(agent.tenant, verified.connection)
        return plan_call(verified, self._catalogue, connection, via=via)

    async def _credential(self, connection: ConnectionFacts, command: Invoke) -> Credential:
        if connection.federation is not None:
            return await self._federated.credential(connection, within_seconds=_seconds_left(command))
        if not connection.is_account:
            return await self._credentials.credential(connection)
        return await self._accounts.credential(connection, within_seconds=_seconds_left(command))

    async def _made(
        self, command: Invoke, plan: CallPlan, credential: Credential
    ) -> tuple[UpstreamResponse | NomosError, Credential]:
        """The answer of the call, or the error that took its place; and the credential that it was made with last.

        An upstream that takes an account's token no more has done nothing (401): the token is renewed, and the same
        request is sent once more.
        """
        try:
            end = await self._send(command, plan, credential.bearer)
            if end.status == UNAUTHORIZED and plan.connection.is_account:
                left = _seconds_left(command)
                other = await self._accounts.after_refusal(plan.connection, credential, within_seconds=left)
                if other is not None:
                    credential = other
                    end = await self._send(command, plan, credential.bearer)
            return end, credential
        except NomosError as e:
            return e, credential
        except Exception as e:  # noqa: BLE001 - a fault of ours, perhaps after the first byte: the log and the agent hear so
            observe.say("proxy", observe.REQUEST_FAULT, error=type(e).__name__, verb="call")
            fault = UnknownOutcome("the service failed during the call; it may or may not have taken effect")
            return fault, credential

    async def _ended(  # noqa: PLR0917 - one call, as far as it has come
        self,
        agent: AgentFacts,
        command: Invoke,
        plan: CallPlan,
        credential: Credential,
        cause: str,
        end: UpstreamResponse | NomosError,
    ) -> Returned:
        """Records how a call ended, and gives its answer."""
        answer: Returned | None = None
        event = finished(plan, end)
        if isinstance(end, UpstreamResponse):
            try:
                answer = await self._clean(agent, plan, end, credential.echo)
                event["removed"] = answer.removed  # folded: the record can hold it, whatever the upstream sent
                if answer.noted:
                    event["noted"] = answer.noted
            except NomosError as e:
                # The call took effect and its answer is withheld: the log says both.
                event["withheld"] = e.code
                end = e
            except Exception as e:  # noqa: BLE001 - as above
                observe.say("proxy", observe.REQUEST_FAULT, error=type(e).__name__, verb="clean")
                event["withheld"] = ResponseRefused.code
        else:
            event["code"] = end.code
        try:
            await self._journal.append([_envelope(agent, command.id, cause, CALL_FINISHED, event)])
        except JournalUnavailable as e:
            if event["outcome"] == CallState.FAILED:
                raise
            # The upstream has acted: "denied" would be a lie that invites to do it again.
            raise UnknownOutcome("the call was made, and its end could not be recorded", cause=e.detail) from e
        if answer is None:
            raise end if isinstance(end, NomosError) else ResponseRefused("the answer is withheld")
        return answer

    async def _send(self, command: Invoke, plan: CallPlan, bearer: Secret) -> UpstreamResponse:
        left = _seconds_left(command)
        if left <= 0:
            raise Expired("the deadline of this request is over; nothing was sent")
        limits = msgspec.structs.replace(
            Limits(),
            total_seconds=min(Limits().total_seconds, left),
            body_bytes=self._settings.body_bytes_max,
        )
        return await self._upstreams.call(plan.origin, plan.request, bearer, limits, plan.headers, auth=plan.auth)

    async def _clean(self, agent: AgentFacts, plan: CallPlan, response: UpstreamResponse, echo: EchoGuard) -> Returned:
        # First the credential, which nobody else may see; then, at the sanitizer, everything else.
        body, echoed = echo.clean(response.body)
        removed: list[dict[str, object]] = []
        if echoed:
            removed.append({"kind": "credential", "rule": "injected-bearer", "where": "body", "count": echoed})
        headers = []
        for name, value in response.headers:
            clean, count = echo.clean(value.encode("latin-1"))
            headers.append((name, clean.decode("latin-1")))
            if count:
                removed.append(
                    {"kind": "credential", "rule": "injected-bearer", "where": f"header:{name}", "count": count}
                )
        content_type = next((value for name, value in headers if name == "content-type"), "")
        message = messages.encode(
            Sanitize(
                v=1,
                tenant=agent.tenant,
                content_type=content_type,
                headers=headers,
                body=body,
                pii=self._personal.of_tenant(agent.tenant),
            )
        )
        if len(message) > MESSAGE_BYTES_MAX:
            raise LimitExceeded("MESSAGE_BYTES_MAX", MESSAGE_BYTES_MAX, len(message))
        try:
            reply = _sanitized.decode(
                await self._bus.request("svc.sanitize", message, self._settings.sanitize_timeout_ms)
            )
        except Unavailable as e:
            raise ResponseRefused("the sanitizer does not answer, so the body is withheld", cause=e.cause) from e
        if isinstance(reply, Failure):
            raise error_of(reply)
        if not isinstance(reply, messages.Sanitized):
            raise Malformed("not a sanitize reply")
        if len(reply.body) + ANSWER_OVERHEAD_BYTES > MESSAGE_BYTES_MAX:
            raise LimitExceeded("MESSAGE_BYTES_MAX", MESSAGE_BYTES_MAX, len(reply.body))
        return Returned(
            status=response.status,
            headers=reply.headers,
            body=reply.body,
            removed=folded(removed + reply.removed),
            noted=folded(reply.noted),
            invocation=plan.invocation,
            next_args=next_args(plan.action, plan.args, reply.headers, reply.body),
        )


def _seconds_left(command: Invoke) -> float:
    """Seconds in which a call may still be under way."""
    return (command.deadline_ms - now_ms() - AFTER_CALL_MS) / 1000


def _envelope(agent: AgentFacts, corr: str, cause: str, kind: str, event: dict[str, object]) -> Envelope:
    return Envelope(
        id=new_id("ev"),
        type=kind,
        tenant=agent.tenant,
        actor=Actor(kind="agent", id=agent.agent),
        corr=corr,
        cause=cause,
        event=event,
    )
