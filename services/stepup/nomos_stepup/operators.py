"""Operators' passkeys: what an operator proves themselves with on pages. Pure: a fold over events.

Rules: a passkey is enrolled only against an open offer, once, in time; a counter only rises; a revoked passkey signs
nothing. Who is an operator, and for which tenant, is identity's to say, and asked of its facts at every use; here it is
only decided which keys are theirs.

The *user handle* of an operator's passkeys is their subject id, which is random and names nobody, so an authenticator
says whose passkey answers and no index is kept. A passkey of an approver has another handle: neither passes for the
other.
"""

from __future__ import annotations

import hashlib
from typing import Final, assert_never

import msgspec

from nomos.errors import ApprovalRefused, Conflict, Expired, LimitExceeded, Malformed, MalformedRecord, NotFound
from nomos_stepup.approvers import ENROLMENT_CHALLENGE_BYTES, ENROLMENT_SECONDS_MAX, PASSKEYS_MAX, Offer
from nomos_stepup.base64url import b64url, parse_b64url
from nomos_stepup.facts import CounterStalled, Passkey, VerifiedAssertion, VerifiedRegistration, check_counter
from nomos_stepup.operatorevents import (
    OperatorEvent,
    PasskeyCounterRose,
    PasskeyCounterStalled,
    PasskeyEnrolled,
    PasskeyOffered,
    PasskeyRevoked,
)

_STORED_BYTES_MAX: Final = 4096


class OperatorKeys(msgspec.Struct, frozen=True, kw_only=True):
    """An operator's passkeys, as the fold of events gives them.

    Attributes:
        id: subject id.
        passkeys: enrolled and not revoked.
        offer: the open enrolment, or None.
        version: how many events are folded.
    """

    id: str
    passkeys: tuple[Passkey, ...] = ()
    offer: Offer | None = None
    version: int = 0

    @property
    def active(self) -> bool:
        """Always: whether they still are an operator is identity's to say."""
        return True

    @property
    def name(self) -> str:
        """How an authenticator lists the passkey; the name itself is not known here."""
        return f"operator {self.id}"

    @property
    def user_handle(self) -> bytes:
        """What authenticators know them by."""
        return self.id.encode()

    def passkey(self, credential_id: bytes) -> Passkey:
        """The enrolled passkey with this id.

        Raises:
            ApprovalRefused: the operator has none.
        """
        for passkey in self.passkeys:
            if passkey.credential_id == credential_id:
                return passkey
        raise ApprovalRefused("this passkey belongs to no operator here")


class OfferPasskey(msgspec.Struct, frozen=True, kw_only=True):
    """Opens an enrolment; ``challenge`` is 32 random bytes. Replaces an older offer."""

    challenge: bytes
    expires_at: int
    now: int


class EnrolPasskey(msgspec.Struct, frozen=True, kw_only=True):
    """Uses the offer."""

    registration: VerifiedRegistration
    now: int


class RaiseCounter(msgspec.Struct, frozen=True, kw_only=True):
    """Records the counter of a verified assertion."""

    assertion: VerifiedAssertion


class ReportStalledCounter(msgspec.Struct, frozen=True, kw_only=True):
    """Records the alarm that the verification raised."""

    stalled: CounterStalled
    now: int


class RevokePasskey(msgspec.Struct, frozen=True, kw_only=True):
    """Takes one passkey out of use."""

    credential_id: bytes
    now: int


OperatorCommand = OfferPasskey | EnrolPasskey | RaiseCounter | ReportStalledCounter | RevokePasskey


def decide_operator(state: OperatorKeys, command: OperatorCommand) -> tuple[OperatorEvent, ...]:
    """The events that ``command`` causes in ``state``.

    Raises:
        Malformed: a random value of another length; LimitExceeded over a limit.
        ApprovalRefused: the registration does not answer the open offer, or the counter did not rise.
        Expired: the offer is over.
        Conflict: the credential is enrolled already.
        NotFound: the operator has no such passkey.
    """
    match command:
        case OfferPasskey():
            return (_offer(state, command),)
        case EnrolPasskey():
            return (_enrol(state, command),)
        case RaiseCounter():
            passkey = state.passkey(command.assertion.credential_id)
            check_counter(passkey, command.assertion.sign_count)
            if command.assertion.sign_count == passkey.sign_count:
                return ()
            used, count = b64url(passkey.credential_id), command.assertion.sign_count
            return (PasskeyCounterRose(operator=state.id, credential_id=used, sign_count=count),)
        case ReportStalledCounter():
            stalled = command.stalled
            return (
                PasskeyCounterStalled(
                    operator=state.id,
                    credential_id=b64url(stalled.credential_id),
                    stored=stalled.stored,
                    got=stalled.got,
                    at=command.now,
                ),
            )
        case RevokePasskey():
            if all(p.credential_id != command.credential_id for p in state.passkeys):
                raise NotFound("the operator has no such passkey")
            revoked = b64url(command.credential_id)
            return (PasskeyRevoked(operator=state.id, credential_id=revoked, at=command.now),)
        case _:
            assert_never(command)


def evolve_operator(state: OperatorKeys, event: OperatorEvent) -> OperatorKeys:
    """The state after ``event``.

    Raises:
        MalformedRecord: an event of another operator.
    """
    if state.id != event.operator:
        raise MalformedRecord("an event of another operator")
    then = msgspec.structs.replace(state, version=state.version + 1)
    match event:
        case PasskeyOffered():
            offer = Offer(challenge_sha256=event.challenge_sha256, expires_at=event.expires_at)
            return msgspec.structs.replace(then, offer=offer)
        case PasskeyEnrolled():
            return msgspec.structs.replace(then, offer=None, passkeys=(*then.passkeys, _passkey(event)))
        case PasskeyCounterRose():
            used = _stored(event.credential_id)
            raised = tuple(
                msgspec.structs.replace(p, sign_count=event.sign_count) if p.credential_id == used else p
                for p in then.passkeys
            )
            return msgspec.structs.replace(then, passkeys=raised)
        case PasskeyCounterStalled():
            return then
        case PasskeyRevoked():
            revoked = _stored(event.credential_id)
            return msgspec.structs.replace(then, passkeys=tuple(p for p in then.passkeys if p.credential_id != revoked))
        case _:
            assert_never(event)


def check_offer(state: OperatorKeys, challenge: bytes, now: int) -> OperatorKeys:
    """Checks that ``challenge`` is that of the open enrolment at ``now``, Unix seconds.

    Raises:
        NotFound: it is another, or none is open; nobody learns which.
        Expired: the enrolment is over.
    """
    if state.offer is None or state.offer.challenge_sha256 != hashlib.sha256(challenge).hexdigest():
        raise NotFound("this link opens nothing, or has been used", hint="nomos operator passkey gives a new one")
    if now >= state.offer.expires_at:
        raise Expired("the time of this link is over", hint="nomos operator passkey gives a new one")
    return state


def _offer(state: OperatorKeys, command: OfferPasskey) -> OperatorEvent:
    if len(command.challenge) != ENROLMENT_CHALLENGE_BYTES:
        raise Malformed(f"expected a challenge of {ENROLMENT_CHALLENGE_BYTES} bytes")
    lifetime = command.expires_at - command.now
    if lifetime <= 0:
        raise Malformed("an enrolment must expire after it was offered")
    if lifetime > ENROLMENT_SECONDS_MAX:
        raise LimitExceeded("ENROLMENT_SECONDS_MAX", ENROLMENT_SECONDS_MAX, lifetime)
    if len(state.passkeys) >= PASSKEYS_MAX:
        raise LimitExceeded("PASSKEYS_MAX", PASSKEYS_MAX)
    return PasskeyOffered(
        operator=state.id,
        challenge_sha256=hashlib.sha256(command.challenge).hexdigest(),
        expires_at=command.expires_at,
        at=command.now,
    )


def _enrol(state: OperatorKeys, command: EnrolPasskey) -> OperatorEvent:
    made = command.registration
    check_offer(state, made.challenge, command.now)
    if any(p.credential_id == made.credential_id for p in state.passkeys):
        raise Conflict("this passkey is enrolled already")
    return PasskeyEnrolled(
        operator=state.id,
        credential_id=b64url(made.credential_id),
        public_key=b64url(made.public_key),
        sign_count=made.sign_count,
        aaguid=made.aaguid,
        backup_eligible=made.backup_eligible,
        at=command.now,
    )


def _passkey(event: PasskeyEnrolled) -> Passkey:
    return Passkey(
        credential_id=_stored(event.credential_id),
        public_key=_stored(event.public_key),
        sign_count=event.sign_count,
        aaguid=event.aaguid,
        label="",
        backup_eligible=event.backup_eligible,
    )


def _stored(text: str) -> bytes:
    try:
        return parse_b64url(text, "a stored value", _STORED_BYTES_MAX)
    except Malformed as e:
        raise MalformedRecord("an event of an operator holds no base64url", cause=e.detail) from e
