"""What happened to approvals and approvers, as it goes into the log.

Three histories: an approval's (``stepup.*``), an approver's (``approver.*``, ``passkey.*``) and a session's of the
pages (``session.*``). All are folds (``domain.py``, ``approvers.py``, ``sessions.py``). Bytes are base64url without
padding, times Unix seconds, everything else text: values that the log's canonical JSON can hold. Unknown fields of an
event are ignored, never refused; those of a request are refused, since they would change what was signed.

An approver is named by their subject id (``sub-``), never by name. A personal text leaves the domain as text and stands
sealed once it is stored (``nomos_runtime.subjects``), so both are read back.
"""

from __future__ import annotations

from typing import Final

import msgspec

from nomos import events as kernel
from nomos.errors import MalformedRecord
from nomos.log.sealedfield import SealedField
from nomos_stepup.challenge import ApprovalRequest

ENROLMENT_OFFERED: Final = "passkey.offered"
PASSKEY_COUNTER_ROSE: Final = "passkey.counter"
PASSKEY_COUNTER_STALLED: Final = "passkey.stalled"
PASSKEY_RENAMED: Final = "passkey.renamed"
APPROVER_SIGNED_OUT: Final = "approver.signed-out"
SESSION_OPENED: Final = "session.opened"
SESSION_CLOSED: Final = "session.closed"


class _ApprovalEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """An event in the history of ``approval``."""

    approval: str


class StepUpRequested(_ApprovalEvent, frozen=True, kw_only=True, tag=kernel.APPROVAL_REQUESTED):
    """A human was asked. Holds all that the challenge is computed from, and the text that the human reads.

    Attributes:
        request: its canonical JSON is what the challenge binds.
        salt: base64url, 32 bytes.
        args_text: the arguments as shown; its digest stands in the request.
    """

    request: ApprovalRequest
    salt: str
    args_text: str


class StepUpApproved(_ApprovalEvent, frozen=True, kw_only=True, omit_defaults=True, tag=kernel.APPROVAL_APPROVED):
    """One approver signed. Holds the whole assertion, so that anybody can verify it again offline.

    Attributes:
        approver: who signed.
        credential_id: base64url.
        public_key: the COSE key that verified it, base64url; the same as in the ``passkey.enrolled`` event.
        client_data_json: base64url.
        authenticator_data: base64url.
        signature: base64url, over ``authenticator_data ‖ SHA-256(client_data_json)``.
        rp_id: whose hash stands in ``authenticator_data``.
        sign_count: the counter after this signature.
        missing: how many more approvers must sign; 0 when this one released the request.
        at: Unix seconds.
        groups: of the groups that the request asks, those that the approver was in.
    """

    approver: str
    credential_id: str
    public_key: str
    client_data_json: str
    authenticator_data: str
    signature: str
    rp_id: str
    sign_count: int
    missing: int
    at: int
    groups: tuple[str, ...] = ()


class StepUpDenied(_ApprovalEvent, frozen=True, kw_only=True, tag=kernel.APPROVAL_DENIED):
    """An approver refused; one refusal is enough."""

    approver: str
    reason: str | SealedField
    at: int


class StepUpExpired(_ApprovalEvent, frozen=True, kw_only=True, tag=kernel.APPROVAL_EXPIRED):
    """Nobody, or too few, signed in time."""

    at: int


class StepUpCancelled(_ApprovalEvent, frozen=True, kw_only=True, tag=kernel.APPROVAL_CANCELLED):
    """The asker or an operator took the request back. ``by_kind`` and ``by`` name the actor."""

    by_kind: str
    by: str
    reason: str
    at: int


class StepUpConsumed(_ApprovalEvent, frozen=True, kw_only=True, tag=kernel.APPROVAL_CONSUMED):
    """The approval released one decision and can release no other. ``request`` is the request that spent it."""

    agent: str
    request: str
    at: int


class _ApproverEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """An event in the history of ``approver``."""

    approver: str


class ApproverAdded(_ApproverEvent, frozen=True, kw_only=True, tag=kernel.APPROVER_ADDED):
    """A person may approve. ``user_handle`` is random, base64url: authenticators keep it, so it names nobody."""

    tenant: str
    name: str | SealedField
    user_handle: str
    at: int


class ApproverRemoved(_ApproverEvent, frozen=True, kw_only=True, tag=kernel.APPROVER_REMOVED):
    """The person may not approve any more. The name is not given out again."""

    at: int


class EnrolmentOffered(_ApproverEvent, frozen=True, kw_only=True, tag=ENROLMENT_OFFERED):
    """One passkey may be enrolled until ``expires_at``, with the challenge of this SHA-256 (hex)."""

    challenge_sha256: str
    expires_at: int
    at: int


class PasskeyEnrolled(_ApproverEvent, frozen=True, kw_only=True, tag=kernel.PASSKEY_ENROLLED):
    """A passkey was registered; it uses up the offer. Ids and keys are base64url."""

    credential_id: str
    public_key: str
    sign_count: int
    aaguid: str
    label: str | SealedField
    backup_eligible: bool
    at: int


class PasskeyCounterRose(_ApproverEvent, frozen=True, kw_only=True, tag=PASSKEY_COUNTER_ROSE):
    """A verified signature raised the counter."""

    credential_id: str
    sign_count: int


class PasskeyCounterStalled(_ApproverEvent, frozen=True, kw_only=True, tag=PASSKEY_COUNTER_STALLED):
    """A verified signature came with a counter that had not risen: an alarm, since the passkey may exist twice."""

    credential_id: str
    stored: int
    got: int
    at: int


class PasskeyRevoked(_ApproverEvent, frozen=True, kw_only=True, tag=kernel.PASSKEY_REVOKED):
    """The passkey signs nothing any more."""

    credential_id: str
    at: int


class PasskeyRenamed(_ApproverEvent, frozen=True, kw_only=True, tag=PASSKEY_RENAMED):
    """Its owner calls the passkey so from now on."""

    credential_id: str
    label: str | SealedField
    at: int


class ApproverGrouped(_ApproverEvent, frozen=True, kw_only=True, tag=kernel.APPROVER_GROUPED):
    """The groups that the person is in from now on; all of them."""

    groups: tuple[str, ...]
    at: int


class ApproverSignedOut(_ApproverEvent, frozen=True, kw_only=True, tag=APPROVER_SIGNED_OUT):
    """Every session of the person that was opened until ``at`` is over."""

    at: int


class _SessionEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """An event in the history of ``session``, which is ``approver``'s."""

    session: str
    approver: str


class SessionOpened(_SessionEvent, frozen=True, kw_only=True, tag=SESSION_OPENED):
    """A person signed in to the pages with a passkey, until ``expires_at``. The browser holds the secret."""

    credential_id: str
    secret_sha256: str
    expires_at: int
    at: int


class SessionClosed(_SessionEvent, frozen=True, kw_only=True, tag=SESSION_CLOSED):
    """The person signed out."""

    at: int


ApprovalEvent = StepUpRequested | StepUpApproved | StepUpDenied | StepUpExpired | StepUpCancelled | StepUpConsumed
ApproverEvent = (
    ApproverAdded
    | ApproverRemoved
    | EnrolmentOffered
    | PasskeyEnrolled
    | PasskeyCounterRose
    | PasskeyCounterStalled
    | PasskeyRevoked
    | PasskeyRenamed
    | ApproverSignedOut
    | ApproverGrouped
)
SessionEvent = SessionOpened | SessionClosed


def to_record(event: ApprovalEvent | ApproverEvent | SessionEvent) -> tuple[str, dict[str, object]]:
    """The type and the payload of ``event`` for an envelope."""
    payload: dict[str, object] = msgspec.to_builtins(event)
    return str(payload.pop("type")), payload


def approval_event(kind: str, payload: dict[str, object]) -> ApprovalEvent:
    """Reads an event of an approval back from the log.

    Raises:
        MalformedRecord: not such an event.
    """
    try:
        event: ApprovalEvent = msgspec.convert({**payload, "type": kind}, type=ApprovalEvent)
    except msgspec.ValidationError as e:
        raise MalformedRecord("not an event of an approval", cause=str(e)) from e
    return event


def approver_event(kind: str, payload: dict[str, object]) -> ApproverEvent:
    """Reads an event of an approver back from the log.

    Raises:
        MalformedRecord: not such an event.
    """
    try:
        event: ApproverEvent = msgspec.convert({**payload, "type": kind}, type=ApproverEvent)
    except msgspec.ValidationError as e:
        raise MalformedRecord("not an event of an approver", cause=str(e)) from e
    return event


def session_event(kind: str, payload: dict[str, object]) -> SessionEvent:
    """Reads an event of a session back from the log.

    Raises:
        MalformedRecord: not such an event.
    """
    try:
        event: SessionEvent = msgspec.convert({**payload, "type": kind}, type=SessionEvent)
    except msgspec.ValidationError as e:
        raise MalformedRecord("not an event of a session", cause=str(e)) from e
    return event
