"""What may be asked of an approver's history: the commands that ``approvers.py`` decides."""

from __future__ import annotations

import msgspec

from nomos_stepup.facts import CounterStalled, VerifiedAssertion, VerifiedRegistration


class AddApprover(msgspec.Struct, frozen=True, kw_only=True):
    """Adds a person. ``user_handle`` is :data:`USER_HANDLE_BYTES` random bytes."""

    tenant: str
    approver: str
    name: str
    user_handle: bytes
    now: int


class RemoveApprover(msgspec.Struct, frozen=True, kw_only=True):
    """Takes the right to approve away, with all passkeys."""

    now: int


class OfferEnrolment(msgspec.Struct, frozen=True, kw_only=True):
    """Opens an enrolment; ``challenge`` is ``ENROLMENT_CHALLENGE_BYTES`` random bytes. Replaces an older offer.

    ``version``: that of the state which the person has signed for; None where nobody has to.
    """

    challenge: bytes
    expires_at: int
    now: int
    version: int | None = None


class EnrolPasskey(msgspec.Struct, frozen=True, kw_only=True):
    """Uses the offer. ``is_taken`` says whether any approver of any tenant has this credential id already."""

    registration: VerifiedRegistration
    label: str
    is_taken: bool
    now: int


class RaiseCounter(msgspec.Struct, frozen=True, kw_only=True):
    """Records the counter of a verified assertion."""

    assertion: VerifiedAssertion


class ReportStalledCounter(msgspec.Struct, frozen=True, kw_only=True):
    """Records the alarm that the verification raised."""

    stalled: CounterStalled
    now: int


class RevokePasskey(msgspec.Struct, frozen=True, kw_only=True):
    """Takes one passkey out of use.

    ``version``: as in :class:`OfferEnrolment`. ``keeps_one``: the only one stays, so that nobody locks himself out.
    """

    credential_id: bytes
    now: int
    version: int | None = None
    keeps_one: bool = False


class RenamePasskey(msgspec.Struct, frozen=True, kw_only=True):
    """Changes what its owner calls a passkey."""

    credential_id: bytes
    label: str
    now: int


class SetGroups(msgspec.Struct, frozen=True, kw_only=True):
    """Says which groups the person is in; all of them."""

    groups: tuple[str, ...]
    now: int


class SignOut(msgspec.Struct, frozen=True, kw_only=True):
    """Ends every session of the person."""

    now: int


ApproverCommand = (
    AddApprover
    | RemoveApprover
    | OfferEnrolment
    | EnrolPasskey
    | RaiseCounter
    | ReportStalledCounter
    | RevokePasskey
    | RenamePasskey
    | SignOut
    | SetGroups
)
