"""The agent's library: ask, get a one-minute delegation, use it once, get the cleaned answer.

    from nomos import Agent

    async with Agent.connect("issue-bot.creds") as agent:
        match await agent.call("github:issues.list", "github:repo/acme/site", {"state": "open"}):
            case Allowed() as done: print(done.json())
            case Denied() as no: print(no.reason, no.policies)
            case StepUpRequired() as wait: print("a human must approve", wait.approval)

The agent never holds a bearer. It proves possession of its own key by signing each invocation, so a stolen delegation
is useless. What is safe to repeat (authorize) is repeated while the services are away, until the call's time is over;
an invocation is sent once: when its answer is lost the outcome is unknown and the log says which.

An answer that goes on for long is read while it comes:

    async with agent.stream("http:requests.get", "http:site/api.example.com", {"path": "events"}) as answer:
        async for piece in answer: ...

What is too long, or no text, to be an argument is an upload:

    await agent.call("aws-s3:objects.put", "aws-s3:bucket/web", {"key": "a.png", "upload": Upload.of_file("a.png")})

What it was allowed it may hand on to a sub-agent, never wider, and take back:

    grant = agent.delegate(allowed, to=helper_did, only={"state": "open"})
    await helper.use(grant, "github:issues.list", "github:repo/acme/site", {"state": "open"})
    await agent.revoke(grant)
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, Self

from nomos import messages
from nomos.client import REQUEST_MS, Connection, NoAnswer, header, pause
from nomos.creds import Credentials
from nomos.decisions import Allowed, ApprovalEnded, Decision, Denied, StepUpRequired, decision_of
from nomos.errors import Malformed, Misconfigured, StalePolicy, Unavailable, UnknownOutcome
from nomos.handover import Grant, hand_on
from nomos.ids import Did
from nomos.keys import SigningKey, parse_did
from nomos.messages import Authorize, AwaitApproval, Decoder, Invoke, Revoke, now_ms
from nomos.reading import Pieces, Streaming
from nomos.ucan.dagcbor import Ipld
from nomos.ucan.grant import sign_request
from nomos.uploading import Upload, sent, separated

__all__ = ["Agent", "Allowed", "ApprovalEnded", "Decision", "Denied", "StepUpRequired", "Streaming", "Upload"]

RETRY_SECONDS: Final = 0.1
#: One try of an authorize, milliseconds: an answer that was lost with its process is asked for again in time.
TRY_MS: Final = 3_000
#: Life of an invocation: long enough for one call, shorter than its delegation.
INVOCATION_SECONDS: Final = 30
NONCE_BYTES: Final = 12
#: Pages of :meth:`Agent.pages`, unless its caller says otherwise.
PAGES_MAX: Final = 100
#: One wait for a human on the bus, milliseconds; the client asks again until its own time is over.
APPROVAL_WAIT_MS: Final = 5_000
#: Between two such questions, where the first was not held or not answered, seconds.
APPROVAL_PAUSE_SECONDS: Final = 1.0

_authorize = Decoder.of(messages.AuthorizeReply, "authorize reply")
_invoke = Decoder.of(messages.InvokeReply, "invoke reply")
_approval = Decoder.of(messages.ApprovalReply, "approval reply")
_revoke = Decoder.of(messages.RevokeReply, "revoke reply")


class Agent:
    """An agent on the bus. Use with ``async with Agent.connect(creds)``, or :meth:`session`."""

    def __init__(self, connection: Connection, signing_key: SigningKey) -> None:
        self._connection = connection
        self._signing_key = signing_key
        self._name = connection.credentials.name

    @property
    def did(self) -> Did:
        """This agent's key, to which others hand permissions on."""
        return self._signing_key.did

    @classmethod
    @asynccontextmanager
    async def connect(cls, creds: Credentials | Path | str, *, url: str | None = None) -> AsyncIterator[Self]:
        """``async with Agent.connect("issue-bot.creds") as agent``.

        Raises:
            Misconfigured: the file is not an agent's.
            NotPermitted: revoked or unknown to the server.
            Unavailable: no server answers.
        """
        async with await Connection.open(creds, url=url) as connection:
            seed = connection.credentials.agent_seed
            if seed is None:
                raise Misconfigured("these credentials are not an agent's", hint="nomos agent create ... --creds FILE")
            yield cls(connection, SigningKey(seed))

    async def authorize(
        self,
        action: str,
        resource: str,
        args: Mapping[str, object] | None = None,
        *,
        claims: Mapping[str, object] | None = None,
        connection: str = "",
        cosigner: bytes | None = None,
        timeout_ms: int = REQUEST_MS,
    ) -> Decision:
        """Asks for one action on one resource; repeated while services are away, until ``timeout_ms`` is over.

        Raises:
            Unavailable: no decision in time. Nothing was allowed.
            NomosError: the request was refused before a decision (unknown action, reserved key, ...).
        """
        end_ms, (named, _) = now_ms() + timeout_ms, separated(args)
        while True:
            left_ms = max(end_ms - now_ms(), 1)
            # One try only where it spends an approval: then it may take all the time there is.
            try_ms = left_ms if cosigner is not None else min(left_ms, TRY_MS)
            command = _command(
                Authorize,
                try_ms,
                action=action,
                resource=resource,
                args=named,
                claims=dict(claims or {}),
                connection=connection,
                cosigner=cosigner,
            )
            try:
                reply = await self._connection.ask(f"req.authorize.{self._name}", command, _authorize, try_ms)
                return decision_of(reply)
            except (Unavailable, StalePolicy):
                # An approval may have been spent by the try that was lost: asking again would hide that.
                if cosigner is not None or now_ms() + RETRY_SECONDS * 1000 >= end_ms:
                    raise
                await pause(RETRY_SECONDS)

    async def call(
        self,
        action: str,
        resource: str,
        args: Mapping[str, object] | None = None,
        *,
        claims: Mapping[str, object] | None = None,
        connection: str = "",
        cosigner: bytes | None = None,
        wait_seconds: float = 0,
        timeout_ms: int = REQUEST_MS,
    ) -> Decision:
        """Authorizes, and if allowed invokes once.

        Args:
            action: ``github:issues.list``.
            resource: ``github:repo/acme/site``.
            args: the action's arguments; one may be a :class:`nomos.Upload` where the action takes a content.
            claims: what the agent says of itself, for policies.
            connection: which connection's credential; empty means the connector's own.
            cosigner: the cosigner delegation of an approved step-up.
            wait_seconds: how long to wait for a human when one must approve; 0 answers at once.
            timeout_ms: bound of each of the two requests.

        Raises:
            UnknownOutcome: sent upstream, and no complete answer came back.
            NomosError: refused, as the class of its code.
        """
        given = dict(args or {})
        decision = await self._decided(
            action,
            resource,
            given,
            claims=claims,
            connection=connection,
            cosigner=cosigner,
            wait_seconds=wait_seconds,
            timeout_ms=timeout_ms,
        )
        if not isinstance(decision, Allowed):
            return decision
        return await self.invoke(decision, action, resource, given, connection=connection, timeout_ms=timeout_ms)

    async def _decided(
        self, action: str, resource: str, args: dict[str, object], *, wait_seconds: float, **asked: Any
    ) -> Decision:
        """The decision; after a human's approval, where one is needed and waited for."""
        decision = await self.authorize(action, resource, args, **asked)
        if isinstance(decision, StepUpRequired) and wait_seconds > 0:
            asked["cosigner"] = await self.wait_for(decision, wait_seconds)
            decision = await self.authorize(action, resource, args, **asked)
        return decision

    @asynccontextmanager
    async def stream(
        self,
        action: str,
        resource: str,
        args: Mapping[str, object] | None = None,
        *,
        claims: Mapping[str, object] | None = None,
        connection: str = "",
        cosigner: bytes | None = None,
        wait_seconds: float = 0,
        timeout_ms: int = REQUEST_MS,
    ) -> AsyncIterator[Streaming | Denied | StepUpRequired]:
        """As :meth:`call`, and the answer is read while it comes, where action and upstream allow it.

            async with agent.stream("http:requests.get", "http:site/api.example.com", {"path": "events"}) as answer:
                match answer:
                    case Streaming():
                        async for piece in answer: ...

        Whoever leaves early tells the proxy so. ``timeout_ms`` bounds the decision and the wait for the answer's head;
        how long the answer goes on is the proxy's to bound.

        Raises:
            UnknownOutcome: sent upstream, and no complete answer came back; also in the middle of the pieces.
            AnswerEnded: the rest is not passed on.
            NomosError: refused, as the class of its code.
        """
        given = dict(args or {})
        decision = await self._decided(
            action,
            resource,
            given,
            claims=claims,
            connection=connection,
            cosigner=cosigner,
            wait_seconds=wait_seconds,
            timeout_ms=timeout_ms,
        )
        if not isinstance(decision, Allowed):
            yield decision
            return
        grant = Grant(chain=(decision.delegation,))
        reply = await self._invoke(
            grant, action, resource, given, connection=connection, timeout_ms=timeout_ms, answer="live"
        )
        pieces = Pieces(self._connection, self._name, reply)
        try:
            yield Streaming(decision, reply, pieces)
        finally:
            await pieces.leave()

    async def invoke(
        self,
        allowed: Allowed,
        action: str,
        resource: str,
        args: Mapping[str, object],
        *,
        connection: str = "",
        timeout_ms: int = REQUEST_MS,
    ) -> Allowed:
        """Uses a delegation once. Errors as :meth:`call`."""
        grant = Grant(chain=(allowed.delegation,))
        reply = await self._invoke(grant, action, resource, args, connection=connection, timeout_ms=timeout_ms)
        return replace(
            allowed,
            status=reply.status,
            headers=tuple(reply.headers),
            body=await self._body(reply),
            removed=tuple(reply.removed),
            noted=tuple(reply.noted),
            next_args=reply.next_args,
        )

    async def pages(
        self,
        action: str,
        resource: str,
        args: Mapping[str, object] | None = None,
        *,
        connection: str = "",
        pages_max: int = PAGES_MAX,
        timeout_ms: int = REQUEST_MS,
    ) -> AsyncIterator[Decision]:
        """Calls an action page by page; each page is decided for itself.

        Args:
            action: one that comes in pages; any other gives one.
            resource: as for :meth:`call`.
            args: of the first page.
            connection: as for :meth:`call`.
            pages_max: pages after which it ends, however many there are.
            timeout_ms: of each page.

        Yields:
            The pages in order; the last one is a decision that was not an allow, if one was not.
        """
        following: Mapping[str, object] | None = args or {}
        for _ in range(pages_max):
            page = await self.call(action, resource, following, connection=connection, timeout_ms=timeout_ms)
            yield page
            following = page.next_args if isinstance(page, Allowed) else None
            if following is None:
                return

    async def use(
        self,
        grant: Grant,
        action: str,
        resource: str,
        args: Mapping[str, object] | None = None,
        *,
        connection: str = "",
        timeout_ms: int = REQUEST_MS,
    ) -> Allowed:
        """Uses what another agent handed on, for exactly the request that was decided. Errors as :meth:`call`."""
        reply = await self._invoke(
            grant, action, resource, dict(args or {}), connection=connection, timeout_ms=timeout_ms
        )
        return Allowed(
            decision="",
            delegation=grant.chain[-1],
            expires_at=grant.expires_at,
            status=reply.status,
            headers=tuple(reply.headers),
            body=await self._body(reply),
            removed=tuple(reply.removed),
            noted=tuple(reply.noted),
            next_args=reply.next_args,
        )

    async def _invoke(
        self,
        grant: Grant,
        action: str,
        resource: str,
        args: Mapping[str, object],
        *,
        connection: str,
        timeout_ms: int,
        answer: Literal["pieces", "live"] = "pieces",
    ) -> messages.Returned:
        subject, expires_at = grant.last.subject, grant.expires_at
        if subject is None:
            raise Malformed("the delegation names no subject")
        now = int(time.time())
        named, upload = separated(args)
        invocation = sign_request(
            self._signing_key,
            subject=subject,
            action=action,
            resource=resource,
            args=named,
            proofs=grant.chain,
            now=now,
            ttl_seconds=max(min(INVOCATION_SECONDS, expires_at - now), 1),
            nonce=os.urandom(NONCE_BYTES),
            connection=connection or action.partition(":")[0],
        )
        command = Invoke(**header(timeout_ms), invocation=invocation, proofs=list(grant.chain), answer=answer)  # type: ignore[arg-type]  # the fields of a header
        try:
            reply = await self._connection.ask(f"req.invoke.{self._name}", command, _invoke, timeout_ms)
        except NoAnswer as e:
            raise UnknownOutcome("no answer to the invocation; the log says what became of it") from e
        if isinstance(reply, messages.Wanted):
            return await sent(self._connection, self._name, command, reply, upload)
        if not isinstance(reply, messages.Returned):
            raise Malformed("not an invoke reply")
        return reply

    async def _body(self, reply: messages.Returned) -> bytes:
        """The whole body, where it came in pieces too."""
        return b"".join([piece async for piece in Pieces(self._connection, self._name, reply)])

    def delegate(
        self,
        allowed: Allowed | Grant,
        *,
        to: str,
        only: Mapping[str, Ipld] | None = None,
        ttl_seconds: int | None = None,
    ) -> Grant:
        """Hands a permission on to a sub-agent of the same tenant, narrower or equal; nothing is sent.

        Args:
            allowed: what this agent was allowed, or was handed on itself.
            to: the sub-agent's key, a ``did:key`` (:attr:`did`).
            only: arguments, by path, and the value that each must have.
            ttl_seconds: life from now; not longer than the permission's own, which is what None takes.

        Raises:
            Malformed, Expired, NotCovered, LimitExceeded: as :func:`nomos.handover.hand_on`.
        """
        chain = allowed.chain if isinstance(allowed, Grant) else (allowed.delegation,)
        return hand_on(self._signing_key, chain, to=parse_did(to).did, only=only or {}, ttl_seconds=ttl_seconds)

    async def revoke(self, allowed: Allowed | Grant, why: str = "", *, timeout_ms: int = REQUEST_MS) -> str:
        """Takes a permission back, with all that was handed on from it; gives its CID when it is in the journal.

        Args:
            allowed: what this agent was allowed or handed on; the last link of its chain is revoked.
            why: for the log.
            timeout_ms: bound of the request.

        Raises:
            NotCovered: this agent held no link of the chain.
            Expired: it has run out by itself.
            Unavailable: no answer; it is safe to ask again.
        """
        chain = allowed.chain if isinstance(allowed, Grant) else (allowed.delegation,)
        command = _command(Revoke, timeout_ms, chain=list(chain), why=why)
        reply = await self._connection.ask(f"req.revoke.{self._name}", command, _revoke, timeout_ms)
        if not isinstance(reply, messages.Revoked):
            raise Malformed("not a revoke reply")
        return reply.cid

    async def wait_for(self, step_up: StepUpRequired, seconds: float) -> bytes:
        """Waits until a human has approved, and returns the cosigner delegation; also while services are away.

        Raises:
            Unavailable: nobody answers when the time is over.
            NomosError: the approval was denied, expired or cancelled (code ``refused``), or still waits (``expired``).
        """
        end_ms = now_ms() + int(seconds * 1000)
        while True:
            wait_ms = max(min(end_ms - now_ms(), APPROVAL_WAIT_MS), 0)
            command = _command(AwaitApproval, wait_ms + REQUEST_MS, approval=step_up.approval, wait_ms=wait_ms)
            asked_ms = now_ms()
            try:
                reply = await self._connection.ask(f"req.stepup.{self._name}", command, _approval, wait_ms + REQUEST_MS)
            except Unavailable:
                # The service that held this question went away; asking again changes nothing there.
                if now_ms() + APPROVAL_PAUSE_SECONDS * 1000 >= end_ms:
                    raise
                await pause(APPROVAL_PAUSE_SECONDS)
                continue
            if not isinstance(reply, messages.ApprovalStatus):
                raise Malformed("not an approval reply")
            if reply.cosigner is not None:
                return reply.cosigner
            if reply.state != "pending":
                raise ApprovalEnded(reply.state, reply.reason)
            if now_ms() >= end_ms:
                raise ApprovalEnded("pending")
            if now_ms() - asked_ms < wait_ms:
                # It does not hold this question, because this agent waits for too many: then not more often than this.
                await pause(APPROVAL_PAUSE_SECONDS)


def _command(kind: type[messages.Command], timeout_ms: int, **fields: object) -> messages.Command:
    return kind(**header(timeout_ms), **fields)  # type: ignore[arg-type]  # the fields are those of each command
