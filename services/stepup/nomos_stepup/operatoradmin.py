"""Operators' verbs about themselves on pages: enrol a passkey, list and end sessions, take a passkey out of use.

An operator enrols for themselves only. Of sessions and passkeys an operator sees and ends their own; one of the whole
installation, who asks as the installation, those of everybody.
"""

from __future__ import annotations

import time
from typing import Final

import msgspec

from nomos.errors import Misconfigured, NotFound
from nomos.log.sealedfield import is_subject
from nomos_runtime.responder import NoParams, Operator, Verb
from nomos_stepup.base64url import b64url, parse_b64url
from nomos_stepup.operatoraccess import OperatorAccess
from nomos_stepup.operators import RevokePasskey
from nomos_stepup.operatorstore import OperatorStore, SessionIndex
from nomos_stepup.signins import End, SignIn, parse_session

OPERATOR_PASSKEY: Final = "/operator/passkey/"
_INSTALLATION: Final = "_"
_CREDENTIAL_BYTES_MAX: Final = 1023


class SessionParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A session's id."""

    session: str


class PasskeyParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A passkey's id, and whose it is; empty for the asking operator's own."""

    passkey: str
    operator: str = ""


class OperatorAdmin:
    """The verbs, by name, in :meth:`verbs`; all of them take a tenant or the installation."""

    def __init__(self, access: OperatorAccess, store: OperatorStore, index: SessionIndex, *, has_pages: bool) -> None:
        self._access = access
        self._store = store
        self._index = index
        self._has_pages = has_pages

    def verbs(self) -> dict[str, Verb]:
        """Verb name to parameters and handler."""
        return {
            "operator-passkey": (NoParams, self.passkey),
            "operator-passkeys": (NoParams, self.passkeys),
            "operator-passkey-revoke": (PasskeyParams, self.passkey_revoke),
            "operator-sessions": (NoParams, self.sessions),
            "operator-session-end": (SessionParams, self.session_end),
        }

    async def passkey(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """A link, single use and short-lived, with which the asking operator enrols a passkey."""
        if not self._has_pages:
            raise Misconfigured("this installation serves no pages", hint="set NOMOS_STEPUP_PAGES_LISTEN")
        await self._access.standing(by.name)
        challenge, expires_at = await self._access.offer(by.name, by.request)
        url = f"{self._access.party.origins[0]}{OPERATOR_PASSKEY}{by.name}.{b64url(challenge)}"
        return {"operator": by.name, "url": url, "expires_at": expires_at}

    async def passkeys(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """The asking operator's own passkeys."""
        keys = await self._access.keys(by.name)
        listed = [{"passkey": b64url(p.credential_id), "synchronised": p.backup_eligible} for p in keys.passkeys]
        return {"operator": by.name, "passkeys": listed}

    async def passkey_revoke(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Takes a passkey out of use; the sessions that it opened are over with it."""
        p = msgspec.convert(params, PasskeyParams)
        owner = p.operator or by.name
        if not is_subject(owner) or (owner != by.name and by.tenant != _INSTALLATION):
            raise NotFound("there is no such passkey")
        credential = parse_b64url(p.passkey, "passkey", _CREDENTIAL_BYTES_MAX)
        command = RevokePasskey(credential_id=credential, now=int(time.time()))
        await self._store.decide_keys(owner, command, by.actor, by.request)
        return {"operator": owner, "passkey": p.passkey}

    async def sessions(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Sessions that are open, oldest first: the operator's own, or as the installation everybody's."""
        seen = [s for s in self._index.open(int(time.time())) if by.name == s.operator or by.tenant == _INSTALLATION]
        return {"sessions": [_listed(s) for s in sorted(seen, key=lambda s: s.opened_at)]}

    async def session_end(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Ends a session at once."""
        session = parse_session(msgspec.convert(params, SessionParams).session)
        held = await self._store.session(session)
        if held is None or (held.operator != by.name and by.tenant != _INSTALLATION):
            raise NotFound("there is no such session")
        command = End(why="ended by an operator", now=int(time.time()))
        await self._store.decide_session(session, command, by.actor, by.request)
        return {"session": session}


def _listed(session: SignIn) -> dict[str, object]:
    return {
        "session": session.id,
        "operator": session.operator,
        "service": session.service,
        "opened_at": session.opened_at,
        "expires_at": session.expires_at,
    }
