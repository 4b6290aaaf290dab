"""What an agent hears: allowed, denied, or that a human must approve first; and the answer of an allowed call."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from nomos import messages
from nomos.errors import Malformed, NomosError
from nomos.messages import PolicyRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """The decision was allow; after :meth:`Agent.call` the upstream's answer is here too.

    Attributes:
        decision: id of the decision in the log.
        delegation: the UCAN delegation, for exactly this request.
        expires_at: its end, Unix seconds.
        policies: the policies that permitted it.
        status: HTTP status of the upstream; 0 when only authorized.
        headers: the allowed response headers.
        body: the cleaned body.
        removed: what the sanitizer took out: kind, rule, where, count, and for most secrets a fingerprint.
        noted: what it found and left, such as text that is addressed to a model: kind, rule, where, count.
        next_args: the arguments of the next page; None where there is none, or none that can be told.
    """

    decision: str
    delegation: bytes
    expires_at: int
    policies: tuple[PolicyRef, ...] = ()
    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    removed: tuple[Mapping[str, object], ...] = field(default=())
    noted: tuple[Mapping[str, object], ...] = field(default=())
    next_args: Mapping[str, object] | None = None

    def json(self) -> object:
        """The body as JSON; :class:`Malformed` when it is not."""
        try:
            return json.loads(self.body)
        except ValueError as e:
            raise Malformed("the body is not JSON") from e


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied:
    """The decision was deny; ``policies`` forbade it, or none permits it."""

    decision: str
    reason: str
    policies: tuple[PolicyRef, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepUpRequired:
    """A human must approve. Ask again with the cosigner of :meth:`Agent.wait_for`, or call with ``wait_seconds``."""

    decision: str
    approval: str
    expires_at: int
    url: str = ""
    policies: tuple[PolicyRef, ...] = ()


Decision = Allowed | Denied | StepUpRequired


class ApprovalEnded(NomosError):
    """A human has not approved: denied, expired, cancelled, already used, or still pending when the wait was over.

    Attributes:
        state: ``denied``, ``expired``, ``cancelled``, ``approved`` (used already) or ``pending``.
        reason: what the person said who refused it or took it back; empty where nobody said.
    """

    code = "not_approved"

    def __init__(self, state: str, reason: str = "") -> None:
        """Takes the state, and why."""
        still = "still " if state == "pending" else ""
        super().__init__(f"the approval is {still}{state}" + (f": {reason}" if reason else ""))
        self.state = state
        self.reason = reason


def decision_of(reply: object) -> Decision:
    """The decision that a reply carries.

    Raises:
        Malformed: it is none.
    """
    match reply:
        case messages.Allowed():
            return Allowed(
                decision=reply.decision,
                delegation=reply.delegation,
                expires_at=reply.expires_at,
                policies=tuple(reply.policies),
            )
        case messages.Denied():
            return Denied(decision=reply.decision, reason=reply.reason, policies=tuple(reply.policies))
        case messages.StepUpRequired():
            return StepUpRequired(
                decision=reply.decision,
                approval=reply.approval,
                expires_at=reply.expires_at,
                url=reply.url,
                policies=tuple(reply.policies),
            )
    raise Malformed("not an authorize reply")
