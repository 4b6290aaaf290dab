"""What a passkey signs to change the passkeys of its owner: a deed, on one state of them, until a time.

A signed-in browser alone must not do it: who took over a session could give himself a passkey, and approve with it.

A signature is over ``SHA-256("nomos-passkey-deed-v1" ‖ 0x00 ‖ sealed deed)``, a domain of its own: none over an
approval or a sign-in stands for it, nor the other way round. The deed is sealed by the service with a random nonce, so
a form can change nothing of it. It names the version of the approver's history, and what it causes moves that version
on: one signature does one thing, once.
"""

from __future__ import annotations

import hashlib
from typing import Final, Literal

import msgspec

from nomos.errors import Conflict, Expired, Malformed, NomosError
from nomos_runtime.sealing import Sealer
from nomos_stepup.approvers import Approver
from nomos_stepup.base64url import b64url, parse_b64url

#: How long a page can be used, in seconds.
DEED_SECONDS: Final = 300
_TAG: Final = b"nomos-passkey-deed-v1\0"
_PURPOSE: Final = "passkey-deed-v1"
_SEALED_BYTES_MAX: Final = 4_096
_NAME_CHARS: Final = 32

What = Literal["add", "remove"]


class Deed(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done.

    Attributes:
        what: a new passkey is to be offered, or one taken out of use.
        passkey: the name (:func:`name_of`) of the one that goes; empty for a new one.
        version: of the approver's history.
        until: Unix seconds.
    """

    what: What
    passkey: str
    version: int
    until: int


class Deeds:
    """Makes and checks deeds. Pure but for the sealer's nonce."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def ask(self, approver: Approver, what: What, passkey: str, now: int) -> tuple[str, bytes]:
        """A deed for a page: what its form carries, and the challenge that is signed."""
        deed = Deed(what=what, passkey=passkey, version=approver.version, until=now + DEED_SECONDS)
        sealed = self._sealer.seal(
            msgspec.msgpack.encode(deed), purpose=_PURPOSE, tenant=approver.tenant, name=approver.id
        )
        return b64url(sealed), _challenge(sealed)

    def check(self, approver: Approver, what: What, passkey: str, text: str, now: int) -> bytes:
        """The challenge of a deed that a form brings back, if it is this one and holds still.

        Raises:
            Malformed: not a deed of this person, or another one.
            Expired: its time is over.
            Conflict: the passkeys have changed since.
        """
        sealed = parse_b64url(text, "deed", _SEALED_BYTES_MAX)
        try:
            content = self._sealer.open(sealed, purpose=_PURPOSE, tenant=approver.tenant, name=approver.id)
            deed = msgspec.msgpack.decode(content, type=Deed)
        except (NomosError, msgspec.DecodeError) as error:
            raise Malformed("not a form of this page", cause=str(error)) from error
        if (deed.what, deed.passkey) != (what, passkey):
            raise Malformed("not a form of this page")
        if now >= deed.until:
            raise Expired("the time of this page is over", hint="reload it")
        if deed.version != approver.version:
            raise Conflict("these passkeys have changed since the page was opened", hint="look again")
        return _challenge(sealed)


def name_of(credential_id: bytes) -> str:
    """A short name of a passkey, for addresses: ids may have a thousand bytes."""
    return hashlib.sha256(credential_id).hexdigest()[:_NAME_CHARS]


def _challenge(sealed: bytes) -> bytes:
    return hashlib.sha256(_TAG + sealed).digest()
