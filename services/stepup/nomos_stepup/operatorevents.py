"""What happened to operators' passkeys and sessions, as it goes into the log. All of it stands in ``_sys`` (ADR 0032).

Two histories: an operator's passkeys (``operator.passkey-*``, a fold in ``operators.py``) and a session's
(``operator.signed-in`` and what follows, a fold in ``signins.py``). An operator is named by their subject id and
nothing here is personal: their name stands sealed in identity (ADR 0026). Bytes are base64url, times Unix seconds.
"""

from __future__ import annotations

from typing import Final

import msgspec

from nomos.errors import MalformedRecord

PASSKEY_OFFERED: Final = "operator.passkey-offered"
PASSKEY_ENROLLED: Final = "operator.passkey-enrolled"
PASSKEY_COUNTER: Final = "operator.passkey-counter"
PASSKEY_STALLED: Final = "operator.passkey-stalled"
PASSKEY_REVOKED: Final = "operator.passkey-revoked"
SIGNED_IN: Final = "operator.signed-in"
CODE_REDEEMED: Final = "operator.code-redeemed"
SESSION_ENDED: Final = "operator.session-ended"
SIGN_IN_TYPES: Final = (SIGNED_IN, CODE_REDEEMED, SESSION_ENDED)


class _OperatorEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """An event in the history of ``operator``."""

    operator: str


class PasskeyOffered(_OperatorEvent, frozen=True, kw_only=True, tag=PASSKEY_OFFERED):
    """One passkey may be enrolled until ``expires_at``, with the challenge of this SHA-256 (hex)."""

    challenge_sha256: str
    expires_at: int
    at: int


class PasskeyEnrolled(_OperatorEvent, frozen=True, kw_only=True, tag=PASSKEY_ENROLLED):
    """A passkey was registered; it uses up the offer."""

    credential_id: str
    public_key: str
    sign_count: int
    aaguid: str
    backup_eligible: bool
    at: int


class PasskeyCounterRose(_OperatorEvent, frozen=True, kw_only=True, tag=PASSKEY_COUNTER):
    """A verified signature raised the counter."""

    credential_id: str
    sign_count: int


class PasskeyCounterStalled(_OperatorEvent, frozen=True, kw_only=True, tag=PASSKEY_STALLED):
    """A verified signature came with a counter that had not risen: an alarm, since the passkey may exist twice."""

    credential_id: str
    stored: int
    got: int
    at: int


class PasskeyRevoked(_OperatorEvent, frozen=True, kw_only=True, tag=PASSKEY_REVOKED):
    """The passkey signs nothing any more, and the sessions that it opened are over."""

    credential_id: str
    at: int


class SignedIn(_OperatorEvent, frozen=True, kw_only=True, tag=SIGNED_IN):
    """A passkey was used for the pages of ``service``. The browser carries a one-time code there.

    Attributes:
        session: its id.
        service: whose pages, and who alone may redeem the code.
        credential_id: the passkey.
        code_sha256: of the code's secret, hex.
        state: of the asking browser (``nomos.signin.state_of``).
        code_expires_at: until when the code may be redeemed.
        expires_at: until when the session lasts at most.
        at: now.
    """

    session: str
    service: str
    credential_id: str
    code_sha256: str
    state: str
    code_expires_at: int
    expires_at: int
    at: int


class CodeRedeemed(_OperatorEvent, frozen=True, kw_only=True, tag=CODE_REDEEMED):
    """The service redeemed the code, once. The browser now holds the secret of this SHA-256 (hex)."""

    session: str
    service: str
    secret_sha256: str
    at: int


class SessionEnded(_OperatorEvent, frozen=True, kw_only=True, tag=SESSION_ENDED):
    """The session is over before its time; the actor of the event ended it, ``why`` says how."""

    session: str
    why: str
    at: int


OperatorEvent = PasskeyOffered | PasskeyEnrolled | PasskeyCounterRose | PasskeyCounterStalled | PasskeyRevoked
SignInEvent = SignedIn | CodeRedeemed | SessionEnded


def to_record(event: OperatorEvent | SignInEvent) -> tuple[str, dict[str, object]]:
    """The type and the payload of ``event`` for an envelope."""
    payload: dict[str, object] = msgspec.to_builtins(event)
    return str(payload.pop("type")), payload


def operator_event(kind: str, payload: dict[str, object]) -> OperatorEvent:
    """Reads an event of an operator's passkeys back from the log.

    Raises:
        MalformedRecord: not such an event.
    """
    try:
        event: OperatorEvent = msgspec.convert({**payload, "type": kind}, type=OperatorEvent)
    except msgspec.ValidationError as e:
        raise MalformedRecord("not an event of an operator", cause=str(e)) from e
    return event


def sign_in_event(kind: str, payload: dict[str, object]) -> SignInEvent:
    """Reads an event of an operator's session back from the log.

    Raises:
        MalformedRecord: not such an event.
    """
    try:
        event: SignInEvent = msgspec.convert({**payload, "type": kind}, type=SignInEvent)
    except msgspec.ValidationError as e:
        raise MalformedRecord("not an event of an operator's session", cause=str(e)) from e
    return event
