"""Approvers and their passkeys: who may sign, with which credentials. Pure: a fold over events.

Rules: names are never given out twice; a passkey is enrolled only against an open offer of the service, once, in
time; a credential belongs to one approver of one tenant; a counter only rises. Whether an approver may release a
certain request is decided in ``domain.py``.

The counter is appended before the approval that it belongs to, each under its own expected version: of two uses of one
passkey at the same moment only one counts. A crash in between costs the approver a second signature, nothing else.
"""

from __future__ import annotations

import hashlib
from typing import Final, assert_never

import msgspec

from nomos.errors import ApprovalRefused, Conflict, Expired, LimitExceeded, Malformed, MalformedRecord, NotFound
from nomos.ids import parse_slug
from nomos.log.sealedfield import SealedField
from nomos_stepup.approvercommands import (
    AddApprover,
    ApproverCommand,
    EnrolPasskey,
    OfferEnrolment,
    RaiseCounter,
    RemoveApprover,
    RenamePasskey,
    ReportStalledCounter,
    RevokePasskey,
    SetGroups,
    SignOut,
)
from nomos_stepup.base64url import b64url, parse_b64url
from nomos_stepup.events import (
    ApproverAdded,
    ApproverEvent,
    ApproverGrouped,
    ApproverRemoved,
    ApproverSignedOut,
    EnrolmentOffered,
    PasskeyCounterRose,
    PasskeyCounterStalled,
    PasskeyEnrolled,
    PasskeyRenamed,
    PasskeyRevoked,
)
from nomos_stepup.facts import Passkey, VerifiedAssertion, check_counter

PASSKEYS_MAX: Final = 16
#: Groups that one approver may be in.
GROUPS_MAX: Final = 32
USER_HANDLE_BYTES: Final = 32
ENROLMENT_CHALLENGE_BYTES: Final = 32
ENROLMENT_SECONDS_MAX: Final = 86_400
NAME_LENGTH_MAX: Final = 120
LABEL_LENGTH_MAX: Final = 80
#: What a passkey is called whose owner says nothing.
DEFAULT_LABEL: Final = "passkey"
_STORED_BYTES_MAX: Final = 4096


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """An open enrolment. The challenge itself is kept by the store until it is used; its digest is in the log."""

    challenge_sha256: str
    expires_at: int


class Approver(msgspec.Struct, frozen=True, kw_only=True):
    """A person who may approve, as the fold of events gives it.

    Attributes:
        tenant: whose requests they may approve.
        id: their subject id, a slug, unique in the tenant.
        name: how pages call them; empty until the store has opened it, and once it is erased.
        user_handle: 32 random bytes, what authenticators know them by.
        active: False once removed.
        passkeys: enrolled and not revoked.
        offer: the open enrolment, or None.
        signed_out_at: sessions that were opened until then are over; Unix seconds, 0 when none were ended.
        version: how many events are folded; the store compares it when it appends.
        groups: those that the person is in.
    """

    tenant: str
    id: str
    name: str
    user_handle: bytes
    active: bool
    passkeys: tuple[Passkey, ...]
    offer: Offer | None
    version: int
    signed_out_at: int = 0
    groups: frozenset[str] = frozenset()

    def passkey(self, credential_id: bytes) -> Passkey:
        """The enrolled passkey with this id.

        Raises:
            ApprovalRefused: the approver has none, or was removed.
        """
        if self.active:
            for passkey in self.passkeys:
                if passkey.credential_id == credential_id:
                    return passkey
        raise ApprovalRefused("this passkey belongs to no approver of this tenant")


def decide_approver(state: Approver | None, command: ApproverCommand) -> tuple[ApproverEvent, ...]:
    """The events that ``command`` causes in ``state``.

    Returns:
        New events in order; empty when there is nothing to record.

    Raises:
        Malformed: a name, label or random value of another form; LimitExceeded over a limit.
        NotFound: the approver does not exist, was removed, or has no such passkey.
        Conflict: the name or the credential id is taken, the state is another than the one that was signed for, or
            no passkey would be left.
        ApprovalRefused: the registration does not answer the open offer, or the counter did not rise.
        Expired: the offer is over.
    """
    if isinstance(command, AddApprover):
        return _add(state, command)
    if state is None or not state.active:
        raise NotFound("this tenant has no such approver")
    match command:
        case RemoveApprover():
            return (ApproverRemoved(approver=state.id, at=command.now),)
        case OfferEnrolment():
            return _offer(state, command)
        case EnrolPasskey():
            return _enrol(state, command)
        case RaiseCounter():
            return _raise_counter(state, command.assertion)
        case ReportStalledCounter():
            stalled = command.stalled
            return (
                PasskeyCounterStalled(
                    approver=state.id,
                    credential_id=b64url(stalled.credential_id),
                    stored=stalled.stored,
                    got=stalled.got,
                    at=command.now,
                ),
            )
        case RevokePasskey():
            return _revoke(state, command)
        case RenamePasskey():
            return _rename(state, command)
        case SignOut():
            return (ApproverSignedOut(approver=state.id, at=command.now),)
        case SetGroups():
            return _set_groups(state, command)
        case _:
            assert_never(command)


def evolve_approver(state: Approver | None, event: ApproverEvent) -> Approver:
    """The state after ``event``.

    Raises:
        MalformedRecord: a history that does not begin with ``approver.added``, or one of another approver.
    """
    if isinstance(event, ApproverAdded):
        if state is not None:
            raise MalformedRecord("an approver was added twice")
        return Approver(
            tenant=event.tenant,
            id=event.approver,
            name=_plain(event.name),
            user_handle=_stored(event.user_handle),
            active=True,
            passkeys=(),
            offer=None,
            version=1,
        )
    if state is None or state.id != event.approver:
        raise MalformedRecord("an event of another approver")
    then = msgspec.structs.replace(state, version=state.version + 1)
    match event:
        case ApproverRemoved():
            return msgspec.structs.replace(then, active=False, passkeys=(), offer=None)
        case EnrolmentOffered():
            offer = Offer(challenge_sha256=event.challenge_sha256, expires_at=event.expires_at)
            return msgspec.structs.replace(then, offer=offer)
        case PasskeyEnrolled():
            return msgspec.structs.replace(then, offer=None, passkeys=(*then.passkeys, _passkey(event)))
        case PasskeyCounterRose() | PasskeyRenamed():
            changed = _stored(event.credential_id)
            passkeys = tuple(_changed(p, event) if p.credential_id == changed else p for p in then.passkeys)
            return msgspec.structs.replace(then, passkeys=passkeys)
        case PasskeyCounterStalled():
            return then
        case PasskeyRevoked():
            revoked = _stored(event.credential_id)
            return msgspec.structs.replace(then, passkeys=tuple(p for p in then.passkeys if p.credential_id != revoked))
        case ApproverSignedOut():
            return msgspec.structs.replace(then, signed_out_at=event.at)
        case ApproverGrouped():
            return msgspec.structs.replace(then, groups=frozenset(event.groups))
        case _:
            assert_never(event)


def _add(state: Approver | None, command: AddApprover) -> tuple[ApproverEvent, ...]:
    if state is not None:
        raise Conflict("this name was given to an approver before")
    parse_slug(command.tenant, "tenant")
    parse_slug(command.approver, "approver")
    if len(command.user_handle) != USER_HANDLE_BYTES:
        raise Malformed(f"expected a user handle of {USER_HANDLE_BYTES} bytes")
    return (
        ApproverAdded(
            approver=command.approver,
            tenant=command.tenant,
            name=check_line(command.name, "name", NAME_LENGTH_MAX),
            user_handle=b64url(command.user_handle),
            at=command.now,
        ),
    )


def _raise_counter(state: Approver, assertion: VerifiedAssertion) -> tuple[ApproverEvent, ...]:
    passkey = state.passkey(assertion.credential_id)
    check_counter(passkey, assertion.sign_count)
    if assertion.sign_count == passkey.sign_count:
        return ()
    credential_id = b64url(passkey.credential_id)
    return (PasskeyCounterRose(approver=state.id, credential_id=credential_id, sign_count=assertion.sign_count),)


def _check_version(state: Approver, version: int | None) -> None:
    """A signature counts for the state that it was asked for, so it counts once."""
    if version is not None and state.version != version:
        raise Conflict("these passkeys have changed since the page was opened", hint="look again")


def _has(state: Approver, credential_id: bytes) -> None:
    if all(passkey.credential_id != credential_id for passkey in state.passkeys):
        raise NotFound("the approver has no such passkey")


def _rename(state: Approver, command: RenamePasskey) -> tuple[ApproverEvent, ...]:
    _has(state, command.credential_id)
    label = check_line(command.label, "label", LABEL_LENGTH_MAX)
    return (
        PasskeyRenamed(approver=state.id, credential_id=b64url(command.credential_id), label=label, at=command.now),
    )


def _revoke(state: Approver, command: RevokePasskey) -> tuple[ApproverEvent, ...]:
    _has(state, command.credential_id)
    _check_version(state, command.version)
    if command.keeps_one and len(state.passkeys) == 1:
        raise Conflict("this is your only passkey", hint="add another one first, or have an operator revoke this one")
    return (PasskeyRevoked(approver=state.id, credential_id=b64url(command.credential_id), at=command.now),)


def _set_groups(state: Approver, command: SetGroups) -> tuple[ApproverEvent, ...]:
    groups = tuple(sorted({parse_slug(one, "group") for one in command.groups}))
    if len(groups) > GROUPS_MAX:
        raise LimitExceeded("groups of an approver", GROUPS_MAX, len(groups))
    if frozenset(groups) == state.groups:
        return ()
    return (ApproverGrouped(approver=state.id, groups=groups, at=command.now),)


def _offer(state: Approver, command: OfferEnrolment) -> tuple[ApproverEvent, ...]:
    _check_version(state, command.version)
    if len(command.challenge) != ENROLMENT_CHALLENGE_BYTES:
        raise Malformed(f"expected a challenge of {ENROLMENT_CHALLENGE_BYTES} bytes")
    lifetime = command.expires_at - command.now
    if lifetime <= 0:
        raise Malformed("an enrolment must expire after it was offered")
    if lifetime > ENROLMENT_SECONDS_MAX:
        raise LimitExceeded("ENROLMENT_SECONDS_MAX", ENROLMENT_SECONDS_MAX, lifetime)
    if len(state.passkeys) >= PASSKEYS_MAX:
        raise LimitExceeded("PASSKEYS_MAX", PASSKEYS_MAX)
    return (
        EnrolmentOffered(
            approver=state.id,
            challenge_sha256=hashlib.sha256(command.challenge).hexdigest(),
            expires_at=command.expires_at,
            at=command.now,
        ),
    )


def _enrol(state: Approver, command: EnrolPasskey) -> tuple[ApproverEvent, ...]:
    registration = command.registration
    if state.offer is None:
        raise ApprovalRefused("no enrolment is open for this approver")
    if hashlib.sha256(registration.challenge).hexdigest() != state.offer.challenge_sha256:
        raise ApprovalRefused("the registration answers another enrolment")
    if command.now >= state.offer.expires_at:
        raise Expired("the enrolment is over")
    # One credential with two owners would let one person count as two (WebAuthn Level 3, 7.1 step 26).
    if command.is_taken or any(p.credential_id == registration.credential_id for p in state.passkeys):
        raise Conflict("this passkey is enrolled already")
    return (
        PasskeyEnrolled(
            approver=state.id,
            credential_id=b64url(registration.credential_id),
            public_key=b64url(registration.public_key),
            sign_count=registration.sign_count,
            aaguid=registration.aaguid,
            label=check_line(command.label, "label", LABEL_LENGTH_MAX),
            backup_eligible=registration.backup_eligible,
            at=command.now,
        ),
    )


def check_offer(state: Approver | None, challenge: bytes, now: int) -> Approver:
    """Checks that ``challenge`` is that of the open enrolment; gives whose passkey it will be.

    Args:
        state: the approver that a link names.
        challenge: from the link, which is the secret of it.
        now: Unix seconds.

    Raises:
        NotFound: no such person, or another challenge; nobody learns which.
        Expired: the enrolment is over.
    """
    digest = hashlib.sha256(challenge).hexdigest()
    if state is None or not state.active or state.offer is None or state.offer.challenge_sha256 != digest:
        raise NotFound("this link opens nothing, or has been used", hint="ask for a new one")
    if now >= state.offer.expires_at:
        raise Expired("the time of this link is over", hint="ask for a new one")
    return state


def check_line(text: str, what: str, length_max: int) -> str:
    """Checks that ``text`` is one printable, non-empty line.

    Raises:
        LimitExceeded: longer than ``length_max`` characters.
        Malformed: empty, or with control or invisible characters.
    """
    if len(text) > length_max:
        raise LimitExceeded(f"length of {what}", length_max, len(text))
    if not text.strip() or not text.isprintable():
        raise Malformed(f"{what} must be one line of printable text")
    return text


def _plain(text: str | SealedField) -> str:
    """What a fold knows of a personal text: it holds no key."""
    return text if isinstance(text, str) else ""


def _passkey(event: PasskeyEnrolled) -> Passkey:
    return Passkey(
        credential_id=_stored(event.credential_id),
        public_key=_stored(event.public_key),
        sign_count=event.sign_count,
        aaguid=event.aaguid,
        label=_plain(event.label),
        backup_eligible=event.backup_eligible,
    )


def _changed(passkey: Passkey, event: PasskeyCounterRose | PasskeyRenamed) -> Passkey:
    if isinstance(event, PasskeyRenamed):
        return msgspec.structs.replace(passkey, label=_plain(event.label))
    return msgspec.structs.replace(passkey, sign_count=event.sign_count)


def _stored(text: str) -> bytes:
    try:
        return parse_b64url(text, "a stored value", _STORED_BYTES_MAX)
    except Malformed as e:
        raise MalformedRecord("an event of an approver holds no base64url", cause=e.detail) from e
