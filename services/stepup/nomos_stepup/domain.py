"""Approvals: one request, one decision by humans, one use. Pure: a fold over events.

    pending -> approved (-> consumed) | denied | expired | cancelled

Rules, in order, for an approval to be approved: the approver is of the same tenant and active; it is pending; its
time is not over; the approver is not one of those who ask; the assertion signs the challenge that the *stored* request
gives, with a passkey of that approver; the approver has not signed before; somebody like the approver is still missing.
It stays pending until of each group that is asked as many different people have signed as are needed; who is in several
groups counts in each. One refusal, by any approver, ends it. Once approved it can be consumed once, before it expires,
by the same agent, for the same request.

Every state but pending is final; ``consumed`` is a fact on top of approved. Single use and races are the store's
compare-and-set on ``version``: of two decisions on one version, one is appended and the other is decided again and
refused.

Leaves to others: verifying signatures (``webauthn.py``), counters (``approvers.py``), what policy makes of it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, assert_never

import msgspec

from nomos.errors import (
    ApprovalRefused,
    Conflict,
    Expired,
    LimitExceeded,
    Malformed,
    MalformedRecord,
    NotCovered,
    NotFound,
    Refused,
    Replayed,
)
from nomos.log.assertion import SALT_BYTES
from nomos_stepup.approvers import Approver, check_line
from nomos_stepup.base64url import b64url, parse_b64url
from nomos_stepup.challenge import (
    ARGS_TEXT_BYTES_MAX,
    ApprovalRequest,
    challenge_of,
    check_request,
    text_sha256,
)
from nomos_stepup.events import (
    ApprovalEvent,
    StepUpApproved,
    StepUpCancelled,
    StepUpConsumed,
    StepUpDenied,
    StepUpExpired,
    StepUpRequested,
)
from nomos_stepup.facts import VerifiedAssertion

#: The longest time that a request may wait for people, in seconds.
LIFETIME_SECONDS_MAX: Final = 86_400
#: Requests of one agent that may wait at once: more is a flood, and floods make people click.
PENDING_PER_AGENT_MAX: Final = 20
REASON_LENGTH_MAX: Final = 500


class ApprovalState(StrEnum):
    """Where an approval stands. The values are what the wire and the pages show."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """One approval, as the fold of events gives it.

    Attributes:
        request: what is asked; bound by the challenge.
        salt: 32 bytes, of the challenge.
        args_text: the arguments as shown, bound by their digest in ``request``.
        state: where it stands.
        signatures: who signed, in order, and of which groups that are asked; different people.
        consumed_by: the request that spent it, or None.
        version: how many events are folded; the store compares it when it appends.
    """

    request: ApprovalRequest
    salt: bytes
    args_text: str
    state: ApprovalState
    signatures: tuple[tuple[str, tuple[str, ...]], ...]
    consumed_by: str | None
    version: int

    @property
    def approvers(self) -> tuple[str, ...]:
        """Who signed, in order."""
        return tuple(approver for approver, _ in self.signatures)

    @property
    def missing(self) -> dict[str, int]:
        """Group that is asked -> how many of it must still sign; the empty group is everybody."""
        return {one.group: max(one.approvals - self._signed(one.group), 0) for one in self.request.asked_of}

    def _signed(self, group: str) -> int:
        return sum(not group or group in groups for _, groups in self.signatures)

    @property
    def id(self) -> str:
        """The approval's id."""
        return self.request.approval

    @property
    def challenge(self) -> bytes:
        """The 32 bytes to sign, computed from what is stored."""
        return challenge_of(self.salt, self.request)


class Open(msgspec.Struct, frozen=True, kw_only=True):
    """Asks humans. ``pending_of_agent`` counts the requests of this agent that wait already."""

    request: ApprovalRequest
    salt: bytes
    args_text: str
    pending_of_agent: int
    now: int


class Approve(msgspec.Struct, frozen=True, kw_only=True):
    """An approver has signed; ``assertion`` is verified, ``approver`` is their newest state."""

    approver: Approver
    assertion: VerifiedAssertion
    now: int


class Deny(msgspec.Struct, frozen=True, kw_only=True):
    """An authenticated approver refuses. No passkey is asked for: refusing is as easy as approving, or easier."""

    approver: Approver
    reason: str
    now: int


class Expire(msgspec.Struct, frozen=True, kw_only=True):
    """The timer fired; may come early, late or twice."""

    now: int


class Cancel(msgspec.Struct, frozen=True, kw_only=True):
    """The asking agent (``by_kind`` agent) or an operator takes the request back."""

    tenant: str
    by_kind: str
    by: str
    reason: str
    now: int


class Consume(msgspec.Struct, frozen=True, kw_only=True):
    """Policy spends the approval on ``request``. Tenant and agent are verified; ``digest`` is the request digest."""

    tenant: str
    agent: str
    connection: str
    digest: bytes
    request: str
    now: int


Command = Open | Approve | Deny | Expire | Cancel | Consume


def decide(state: Approval | None, command: Command) -> tuple[ApprovalEvent, ...]:
    """The events that ``command`` causes in ``state``.

    Returns:
        New events in order; empty when a timer has nothing to do.

    Raises:
        Malformed: a request, salt or text of another form; LimitExceeded over a limit.
        NotFound: there is no such approval for this tenant.
        ApprovalRefused: this approver or this assertion must not release it.
        Conflict: it is not pending any more, or this approver signed before.
        Expired: its time is over.
        Replayed: it is consumed already.
        NotCovered: it was approved for another request.
        Refused: it is not approved, or may not be cancelled by this actor.
    """
    if isinstance(command, Open):
        return _open(state, command)
    if state is None:
        raise NotFound("there is no such approval")
    match command:
        case Approve():
            return _approve(state, command)
        case Deny():
            return _deny(state, command)
        case Expire():
            is_due = state.state is ApprovalState.PENDING and command.now >= state.request.expires_at
            return (StepUpExpired(approval=state.id, at=command.now),) if is_due else ()
        case Cancel():
            return _cancel(state, command)
        case Consume():
            return _consume(state, command)
        case _:
            assert_never(command)


def evolve(state: Approval | None, event: ApprovalEvent) -> Approval:
    """The state after ``event``.

    Raises:
        MalformedRecord: a history that these rules cannot have written (it began twice, went on after its end, or was
            consumed without being approved).
    """
    if isinstance(event, StepUpRequested):
        return _requested(state, event)
    if state is None or state.id != event.approval:
        raise MalformedRecord("an event of another approval")
    then = msgspec.structs.replace(state, version=state.version + 1)
    if isinstance(event, StepUpConsumed):
        if state.state is not ApprovalState.APPROVED or state.consumed_by is not None:
            raise MalformedRecord("an approval was consumed twice, or without being approved")
        return msgspec.structs.replace(then, consumed_by=event.request)
    if state.state is not ApprovalState.PENDING:
        raise MalformedRecord("an approval went on after its end")
    match event:
        case StepUpApproved():
            if event.approver in state.approvers:
                raise MalformedRecord("an approver was counted twice")
            signed = msgspec.structs.replace(then, signatures=(*state.signatures, (event.approver, event.groups)))
            reached = ApprovalState.PENDING if any(signed.missing.values()) else ApprovalState.APPROVED
            return msgspec.structs.replace(signed, state=reached)
        case StepUpDenied():
            return msgspec.structs.replace(then, state=ApprovalState.DENIED)
        case StepUpExpired():
            return msgspec.structs.replace(then, state=ApprovalState.EXPIRED)
        case StepUpCancelled():
            return msgspec.structs.replace(then, state=ApprovalState.CANCELLED)
        case _:
            assert_never(event)


def may_sign(state: Approval, approver: Approver) -> bool:
    """Whether somebody like this approver is still missing: of a group that is asked, or of all."""
    return any(number and (not group or group in approver.groups) for group, number in state.missing.items())


def _open(state: Approval | None, command: Open) -> tuple[ApprovalEvent, ...]:
    if state is not None:
        raise Conflict("this approval exists")
    request = command.request
    check_request(request)
    if len(command.salt) != SALT_BYTES:
        raise Malformed(f"expected a salt of {SALT_BYTES} bytes, got {len(command.salt)}")
    if text_sha256(command.args_text) != request.args_text_sha256:
        raise Malformed("the text of the arguments is not the one that the request binds")
    size = len(command.args_text.encode())
    if size > ARGS_TEXT_BYTES_MAX:
        raise LimitExceeded("ARGS_TEXT_BYTES_MAX", ARGS_TEXT_BYTES_MAX, size)
    if request.expires_at <= command.now:
        raise Expired("the time of this request is over before anybody was asked")
    if request.expires_at - command.now > LIFETIME_SECONDS_MAX:
        raise LimitExceeded("LIFETIME_SECONDS_MAX", LIFETIME_SECONDS_MAX, request.expires_at - command.now)
    if command.pending_of_agent >= PENDING_PER_AGENT_MAX:
        raise LimitExceeded("PENDING_PER_AGENT_MAX", PENDING_PER_AGENT_MAX, command.pending_of_agent + 1)
    return (
        StepUpRequested(
            approval=request.approval, request=request, salt=b64url(command.salt), args_text=command.args_text
        ),
    )


def _check_open(state: Approval, now: int) -> None:
    is_pending = state.state is ApprovalState.PENDING
    if state.state is ApprovalState.EXPIRED or (is_pending and now >= state.request.expires_at):
        raise Expired("the time of this approval is over")
    if not is_pending:
        raise Conflict(f"this approval is {state.state.value} already")


def _check_approver(state: Approval, approver: Approver) -> None:
    # Another tenant's approval does not exist for this approver: the answer must not tell it from an unknown id.
    if approver.tenant != state.request.tenant:
        raise NotFound("there is no such approval")
    if not approver.active:
        raise ApprovalRefused("this person may not approve any more")


def _approve(state: Approval, command: Approve) -> tuple[ApprovalEvent, ...]:
    approver, assertion = command.approver, command.assertion
    _check_approver(state, approver)
    _check_open(state, command.now)
    # Those who ask are agents, known by name; the name of a person with the same one must not approve either.
    if not {approver.id, approver.name}.isdisjoint(state.request.requesters):
        raise ApprovalRefused("who asks cannot approve")
    passkey = approver.passkey(assertion.credential_id)
    if passkey.public_key != assertion.public_key:
        raise ApprovalRefused("the assertion was verified with another key than the enrolled one")
    # The edge compared the challenge when it verified; this ties the verified bytes to this approval and no other.
    if assertion.challenge != state.challenge:
        raise ApprovalRefused("the passkey signed another challenge than the one for this request")
    if approver.id in state.approvers:
        raise Conflict("this approver has signed already")
    asked = tuple(one.group for one in state.request.asked_of if one.group in approver.groups)
    if not may_sign(state, approver):
        wanted = min(group for group, number in state.missing.items() if number)
        raise ApprovalRefused(f"this approval waits for people of the group {wanted}")
    after = msgspec.structs.replace(state, signatures=(*state.signatures, (approver.id, asked)))
    return (
        StepUpApproved(
            approval=state.id,
            approver=approver.id,
            credential_id=b64url(assertion.credential_id),
            public_key=b64url(assertion.public_key),
            client_data_json=b64url(assertion.client_data_json),
            authenticator_data=b64url(assertion.authenticator_data),
            signature=b64url(assertion.signature),
            rp_id=assertion.rp_id,
            sign_count=assertion.sign_count,
            missing=max(after.missing.values()),
            at=command.now,
            groups=asked,
        ),
    )


def _deny(state: Approval, command: Deny) -> tuple[ApprovalEvent, ...]:
    _check_approver(state, command.approver)
    _check_open(state, command.now)
    reason = check_line(command.reason, "reason", REASON_LENGTH_MAX) if command.reason else ""
    return (StepUpDenied(approval=state.id, approver=command.approver.id, reason=reason, at=command.now),)


def _cancel(state: Approval, command: Cancel) -> tuple[ApprovalEvent, ...]:
    if command.tenant != state.request.tenant:
        raise NotFound("there is no such approval")
    if command.by_kind not in ("agent", "operator"):
        raise Refused("an approval is cancelled by the agent that asked or by an operator")
    if command.by_kind == "agent" and command.by != state.request.agent:
        raise NotFound("there is no such approval")
    _check_open(state, command.now)
    reason = check_line(command.reason, "reason", REASON_LENGTH_MAX) if command.reason else ""
    return (StepUpCancelled(approval=state.id, by_kind=command.by_kind, by=command.by, reason=reason, at=command.now),)


def _consume(state: Approval, command: Consume) -> tuple[ApprovalEvent, ...]:
    request = state.request
    if command.tenant != request.tenant or command.agent != request.agent:
        raise NotFound("there is no such approval")
    if state.consumed_by is not None:
        raise Replayed("this approval has been used")
    if state.state is not ApprovalState.APPROVED:
        raise Refused(f"this approval is {state.state.value}, not approved")
    if command.digest.hex() != request.args_digest or command.connection != request.connection:
        raise NotCovered("this approval was given for another request")
    if command.now >= request.expires_at:
        raise Expired("the time of this approval is over")
    return (StepUpConsumed(approval=state.id, agent=command.agent, request=command.request, at=command.now),)


def _requested(state: Approval | None, event: StepUpRequested) -> Approval:
    if state is not None or event.approval != event.request.approval:
        raise MalformedRecord("an approval was asked twice, or under another name")
    try:
        salt = parse_b64url(event.salt, "salt", SALT_BYTES)
    except Malformed as e:
        raise MalformedRecord("the salt of an approval is not base64url", cause=e.detail) from e
    return Approval(
        request=event.request,
        salt=salt,
        args_text=event.args_text,
        state=ApprovalState.PENDING,
        signatures=(),
        consumed_by=None,
        version=1,
    )
