"""The messages by which a service with pages learns which operator is at the browser (ADR 0032).

The asking service is named by nobody in a message: the server stamps its account on the subject. Secrets are base64url
of 32 bytes. ``tenant`` is empty for an operator of the whole installation.

The state that travels through the browser is the hash of a *verifier* that stays in the browser's cookie at the asking
service, so an address that leaks opens nothing (as RFC 7636 does with ``S256``).
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Final, Literal

import msgspec

SECRET_BYTES: Final = 32
#: ``<session>.<secret>``: 32 hex digits, and base64url of 32 bytes.
_CODE: Final = re.compile(r"[0-9a-f]{32}\.[A-Za-z0-9_-]{43}")
_STATE_TAG: Final = b"nomos-sign-in-state-v1\0"


class RedeemSignIn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Uses the one-time code that the browser brought; ``verifier`` is what its state was made from."""

    v: Literal[1]
    code: str
    verifier: str


class AskSession(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Asks who a session's cookie stands for, now; with ``end`` it ends the session."""

    v: Literal[1]
    session: str
    secret: str
    end: bool = False


class OperatorSignedIn(msgspec.Struct, frozen=True, kw_only=True, tag="signed-in"):
    """The session holds.

    Attributes:
        session: its id.
        secret: of the cookie; given once, when a code is redeemed, and empty otherwise.
        operator: subject id.
        role: ``operator`` or ``tenant-operator``, as bus credentials have it.
        tenant: the one tenant of a ``tenant-operator``; empty for all.
        expires_at: Unix seconds.
    """

    session: str
    secret: str = ""
    operator: str
    role: str
    tenant: str
    expires_at: int


class OperatorSignedOut(msgspec.Struct, frozen=True, kw_only=True, tag="signed-out"):
    """The session does not hold, or not any more. This is an answer and no refusal: nothing was asked for."""

    why: str


def is_code(text: str) -> bool:
    """Whether ``text`` has the form of a one-time code; whether it is one, stepup knows."""
    return _CODE.fullmatch(text) is not None


def state_of(verifier: bytes) -> str:
    """What goes through the browser for ``verifier``, 32 random bytes: base64url, 43 characters."""
    digest = hashlib.sha256(_STATE_TAG + verifier).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")
