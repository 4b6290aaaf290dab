"""What a person does with a passkey, from the parsed response to the event: enrol, sign in, approve, refuse.

The verbs of operators (``admin.py``) and the pages both come here, so there is one way in which a signature counts.
The caller has proved who asks; here the signature is verified, the counter raised, and the domain asked.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from nomos.errors import ApprovalRefused
from nomos.events import Actor
from nomos_stepup.approvercommands import (
    EnrolPasskey,
    OfferEnrolment,
    RaiseCounter,
    ReportStalledCounter,
    RevokePasskey,
)
from nomos_stepup.approvers import ENROLMENT_CHALLENGE_BYTES, Approver
from nomos_stepup.domain import Approval, Approve, Deny
from nomos_stepup.facts import CounterStalled, Passkey, VerifiedAssertion
from nomos_stepup.index import Index, credential_of
from nomos_stepup.sessions import OpenSession, Session, session_id
from nomos_stepup.store import StepupStore
from nomos_stepup.webauthn import (
    RelyingParty,
    parse_assertion,
    parse_registration,
    verify_assertion,
    verify_registration,
)


def actor_of(approver: Approver) -> Actor:
    """The approver as the actor of an event."""
    return Actor(kind="approver", id=approver.id)


class Ceremonies:
    """The ceremonies of one installation."""

    def __init__(self, party: RelyingParty, store: StepupStore, index: Index) -> None:
        self.party = party
        self._store = store
        self._index = index

    async def owner(self, tenant: str, response: Mapping[str, object]) -> Approver:
        """The approver of ``tenant`` whose passkey a response names; nothing is verified yet.

        Raises:
            ApprovalRefused: nobody of this tenant has it.
        """
        owner = self._index.owner_of(tenant, credential_of(dict(response)))
        approver = await self._store.approver(tenant, owner) if owner else None
        if approver is None:
            raise ApprovalRefused("this passkey belongs to no approver of this tenant")
        return approver

    async def enrol(
        self,
        approver: Approver,
        *,
        challenge: bytes,
        response: Mapping[str, object],
        label: str,
        actor: Actor,
        corr: str,
    ) -> bytes:
        """Verifies a registration against the open offer and enrols the passkey; gives its credential id."""
        verified = verify_registration(parse_registration(response), challenge=challenge, party=self.party)
        command = EnrolPasskey(
            registration=verified,
            label=label,
            is_taken=self._index.is_taken(verified.credential_id),
            now=int(time.time()),
        )
        await self._store.decide_approver(approver.tenant, approver.id, command, actor, corr)
        return verified.credential_id

    async def approve(self, approver: Approver, approval: str, response: Mapping[str, object], corr: str) -> Approval:
        """Verifies a signature over exactly the stored request, and approves with it.

        Raises:
            NotFound: the approver's tenant has no such approval.
            Malformed: the response breaks its format.
            ApprovalRefused: the signature does not release this request.
            Conflict, Expired: as ``domain.decide``.
        """
        state = await self._store.approval(approver.tenant, approval)
        raised, verified = await self._verified(approver, state.challenge, response, corr)
        command = Approve(approver=raised, assertion=verified, now=int(time.time()))
        return await self._store.decide(approver.tenant, approval, lambda _: command, actor_of(approver), corr)

    async def refuse(self, approver: Approver, approval: str, reason: str, corr: str) -> Approval:
        """Refuses a request, for a reason that may be empty; errors as ``domain.decide``. Needs no passkey."""
        command = Deny(approver=approver, reason=reason, now=int(time.time()))
        return await self._store.decide(approver.tenant, approval, lambda _: command, actor_of(approver), corr)

    async def sign_in(
        self,
        approver: Approver,
        *,
        challenge: bytes,
        response: Mapping[str, object],
        secret: bytes,
        seconds: int,
        corr: str,
    ) -> Session:
        """Verifies a signature over a challenge that stands for nothing but signing in, and opens a session.

        Raises:
            Conflict: the challenge has opened a session before.
            Malformed, ApprovalRefused: as :meth:`approve`.
        """
        raised, verified = await self._verified(approver, challenge, response, corr)
        now = int(time.time())
        command = OpenSession(approver=raised, assertion=verified, secret=secret, expires_at=now + seconds, now=now)
        return await self._store.decide_session(
            approver.tenant, session_id(challenge), command, actor_of(approver), corr
        )

    async def offer(
        self, approver: Approver, *, challenge: bytes, response: Mapping[str, object], seconds: int, corr: str
    ) -> tuple[Approver, bytes]:
        """Verifies a signature over a deed's challenge, and opens an enrolment; gives the secret of its link.

        Raises:
            Conflict: the passkeys have changed meanwhile.
            LimitExceeded: there are as many as may be.
            Malformed, ApprovalRefused: as :meth:`approve`.
        """
        _, verified = await self._verified(approver, challenge, response, corr)
        now, secret = int(time.time()), os.urandom(ENROLMENT_CHALLENGE_BYTES)
        version = _version_after(approver, verified)
        command = OfferEnrolment(challenge=secret, expires_at=now + seconds, now=now, version=version)
        actor = actor_of(approver)
        return await self._store.decide_approver(approver.tenant, approver.id, command, actor, corr), secret

    async def remove(
        self, approver: Approver, passkey: Passkey, *, challenge: bytes, response: Mapping[str, object], corr: str
    ) -> None:
        """Verifies a signature over a deed's challenge, and takes ``passkey`` out of use.

        Raises:
            Conflict: the passkeys have changed meanwhile, or it is the only one.
            Malformed, ApprovalRefused: as :meth:`approve`.
        """
        _, verified = await self._verified(approver, challenge, response, corr)
        version = _version_after(approver, verified)
        command = RevokePasskey(
            credential_id=passkey.credential_id, now=int(time.time()), version=version, keeps_one=True
        )
        await self._store.decide_approver(approver.tenant, approver.id, command, actor_of(approver), corr)

    async def _verified(
        self, approver: Approver, challenge: bytes, response: Mapping[str, object], corr: str
    ) -> tuple[Approver, VerifiedAssertion]:
        parsed = parse_assertion(response)
        tenant, actor = approver.tenant, actor_of(approver)
        try:
            verified = verify_assertion(
                parsed,
                challenge=challenge,
                passkey=approver.passkey(parsed.credential_id),
                user_handle=approver.user_handle,
                party=self.party,
            )
        except CounterStalled as e:
            alarm = ReportStalledCounter(stalled=e, now=int(time.time()))
            await self._store.decide_approver(tenant, approver.id, alarm, actor, corr)
            raise
        # The counter first: of two uses of one assertion one loses here, whatever it was for.
        raised = await self._store.decide_approver(tenant, approver.id, RaiseCounter(assertion=verified), actor, corr)
        return raised, verified


def _version_after(approver: Approver, verified: VerifiedAssertion) -> int:
    """The version that a deed's own signature leads to, and no other event.

    Not that of the state which was found after it: where a passkey keeps no counter, a second use of the signature at
    the same moment would find the state that the first one has made.
    """
    return approver.version + (approver.passkey(verified.credential_id).sign_count != verified.sign_count)
