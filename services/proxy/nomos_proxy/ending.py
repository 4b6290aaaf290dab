"""What follows a call: its answer is cleaned, its end is journaled, and then, never before, the answer leaves.

An answer that came whole is given in one message, or, where its agent takes that, in pieces behind the first. One that
is still coming is given piece by piece and recorded when it ends. Of each the log says the status, a digest of what
came and what was removed from it, and of a withheld one that the call took effect all the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

import msgspec

from nomos.catalogue import next_args
from nomos.errors import JournalUnavailable, LimitExceeded, NomosError, ResponseRefused, UnknownOutcome
from nomos.events import CALL_FINISHED, Actor, Envelope
from nomos.ids import new_id
from nomos.messages import MESSAGE_BYTES_MAX, PIECE_BYTES_MAX, Invoke, Returned, now_ms
from nomos_proxy.answer import UpstreamResponse
from nomos_proxy.cleaning import Cleaned, Cleaning, InPieces
from nomos_proxy.domain import CallPlan, CallState, finished, folded, live_finished
from nomos_proxy.live import LiveAnswer, LiveLimits
from nomos_proxy.openanswers import Held, Live, OpenAnswers
from nomos_proxy.settings import ProxySettings
from nomos_proxy.stages import Watch
from nomos_proxy.store import Credential
from nomos_proxy.upstream import OpenAnswer
from nomos_runtime import observe
from nomos_runtime.directory import AgentFacts
from nomos_runtime.journal import Journal

#: Room in an answer for everything but the body, bytes.
ANSWER_OVERHEAD_BYTES: Final = 64_000
#: What is left of a deadline for sanitizing, journaling and answering, milliseconds.
AFTER_CALL_MS: Final = 200


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One call that was made.

    Attributes:
        agent: who made it.
        command: what it sent.
        plan: what that means.
        credential: what the call was made with last.
        attempt: id of the event that says it was attempted.
        check: raises where the permission is not in force any more.
        watch: how long its stages took.
    """

    agent: AgentFacts
    command: Invoke
    plan: CallPlan
    credential: Credential
    attempt: str
    check: Callable[[], None]
    watch: Watch


class Ending:
    """What is done with the ends of calls."""

    def __init__(self, *, settings: ProxySettings, journal: Journal, cleaning: Cleaning, answers: OpenAnswers) -> None:
        self._settings = settings
        self._journal = journal
        self._cleaning = cleaning
        self._answers = answers

    async def opened(self, call: Call, answer: OpenAnswer) -> Returned:
        """Begins to give an answer while it comes; or collects it, where it is of a type that must be cleaned whole."""
        is_handed_on = False
        try:
            body = await self._cleaning.open(call.agent.tenant, answer.head.headers, call.credential.echo)
            if body.is_live:
                is_handed_on = True
                return self._begun(call, answer, body)
            await body.drop()
            end = await self._collected(call, answer)
        except Exception as e:  # noqa: BLE001 - a fault of ours too: the upstream acted, and the log must say how it ended
            withheld = _withheld(e)
            nothing = hashlib.sha256().digest()
            event = live_finished(call.plan, status=answer.status, sha256=nothing, received=0, passed=0, error=withheld)
            await self._record(call, event)
            raise withheld from None
        finally:
            if not is_handed_on:
                answer.close()
        return await self.ended(call, end)

    def _begun(self, call: Call, answer: OpenAnswer, body: InPieces) -> Returned:
        limits = LiveLimits(total_seconds=self._settings.live_seconds_max)
        live = LiveAnswer(answer, body, call.credential.echo, limits)
        source = Live(live, lambda ended, error: self._live_ended(call, ended, error))
        return Returned(
            status=answer.status,
            headers=body.headers,
            body=b"",
            removed=folded(body.removed),
            invocation=call.plan.invocation,
            rest=self._answers.add(call.agent.tenant, call.agent.agent, source, call.check),
        )

    async def _collected(self, call: Call, answer: OpenAnswer) -> UpstreamResponse | NomosError:
        """The whole of an open answer, within the time and size of one that is not live."""
        try:
            body = await answer.collect(self._settings.large_body_bytes_max, seconds_left(call.command))
        except NomosError as e:
            return e
        return msgspec.structs.replace(answer.as_response(), body=body)

    async def _live_ended(self, call: Call, answer: LiveAnswer, error: NomosError | None) -> None:
        """Records how an answer ended that left while it came."""
        event = live_finished(
            call.plan,
            status=answer.status,
            sha256=answer.sha256,
            received=answer.received,
            passed=answer.passed,
            error=error,
        )
        event["removed"] = folded(answer.removed)
        if answer.noted:
            event["noted"] = folded(answer.noted)
        await self._record(call, event)

    async def ended(self, call: Call, end: UpstreamResponse | NomosError) -> Returned:
        """Records how a call ended, and gives its answer."""
        event = finished(call.plan, end)
        out = end if isinstance(end, NomosError) else await self._cleaned(call, end)
        if isinstance(out, Cleaned):
            event["removed"] = out.removed
            if out.noted:
                event["noted"] = out.noted
        else:
            event["withheld" if isinstance(end, UpstreamResponse) else "code"] = out.code
        call.watch.lap()
        await self._record(call, event)
        call.watch.lap()
        if isinstance(end, NomosError):
            raise end
        if isinstance(out, NomosError):
            raise out
        return self._returned(call, end.status, out)

    async def _record(self, call: Call, event: dict[str, object]) -> None:
        end = envelope(call.agent, call.command.id, call.attempt, CALL_FINISHED, event)
        try:
            await self._journal.append([end])
        except JournalUnavailable as e:
            if event["outcome"] == CallState.FAILED:
                raise
            # The upstream has acted: "denied" would be a lie that invites to do it again.
            raise UnknownOutcome("the call was made, and its end could not be recorded", cause=e.detail) from e

    async def _cleaned(self, call: Call, response: UpstreamResponse) -> Cleaned | NomosError:
        """What may leave of an answer, its reports short enough for the record; or why nothing does."""
        try:
            cleaned = await self._cleaning.whole(call.agent.tenant, response, call.credential.echo)
            if _is_large(cleaned.body):
                if call.command.answer == "whole":
                    raise LimitExceeded("MESSAGE_BYTES_MAX", MESSAGE_BYTES_MAX, len(cleaned.body))
                self._answers.check_held(call.agent.tenant, len(cleaned.body))
            return msgspec.structs.replace(cleaned, removed=folded(cleaned.removed), noted=folded(cleaned.noted))
        except Exception as e:  # noqa: BLE001 - a fault of ours too: the call took effect, and the log says both
            return _withheld(e)

    def _returned(self, call: Call, status: int, cleaned: Cleaned) -> Returned:
        """The answer in one message, or its first piece and where the others are."""
        first, rest = cleaned.body, None
        if _is_large(cleaned.body):
            first = cleaned.body[:PIECE_BYTES_MAX]
            held = Held(cleaned.body[PIECE_BYTES_MAX:])
            rest = self._answers.add(call.agent.tenant, call.agent.agent, held, call.check)
        return Returned(
            status=status,
            headers=cleaned.headers,
            body=first,
            removed=cleaned.removed,
            noted=cleaned.noted,
            invocation=call.plan.invocation,
            next_args=next_args(call.plan.action, call.plan.args, cleaned.headers, cleaned.body),
            rest=rest,
        )


def _withheld(error: Exception) -> NomosError:
    """Why an answer does not leave; of a fault of ours the agent hears no more than that."""
    if isinstance(error, NomosError):
        return error
    observe.say("proxy", observe.REQUEST_FAULT, error=type(error).__name__, verb="clean")
    return ResponseRefused("the answer is withheld")


def _is_large(body: bytes) -> bool:
    """Whether one message cannot carry it."""
    return len(body) + ANSWER_OVERHEAD_BYTES > MESSAGE_BYTES_MAX


def seconds_left(command: Invoke) -> float:
    """Seconds in which a call may still be under way."""
    return (command.deadline_ms - now_ms() - AFTER_CALL_MS) / 1000


def envelope(agent: AgentFacts, corr: str, cause: str, kind: str, event: dict[str, object]) -> Envelope:
    """An event of a call, with its agent as the actor."""
    return Envelope(
        id=new_id("ev"),
        type=kind,
        tenant=agent.tenant,
        actor=Actor(kind="agent", id=agent.agent),
        corr=corr,
        cause=cause,
        event=event,
    )
