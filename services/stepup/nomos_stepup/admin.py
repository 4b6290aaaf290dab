"""Operators' verbs of stepup: approvers, enrolment, the list of what waits, approve and cancel.

An operator carries messages between a person's authenticator and this service; he can't approve by himself: only an
assertion of an enrolled passkey, over the challenge of exactly this request, releases it.
"""

from __future__ import annotations

import os
import time
from typing import Final

import msgspec

from nomos.errors import NotFound
from nomos_runtime.responder import NoParams, Operator, Verb
from nomos_stepup.approvercommands import AddApprover, OfferEnrolment, RemoveApprover, RevokePasskey, SetGroups, SignOut
from nomos_stepup.approvers import ENROLMENT_CHALLENGE_BYTES, USER_HANDLE_BYTES
from nomos_stepup.base64url import b64url, parse_b64url
from nomos_stepup.ceremonies import Ceremonies
from nomos_stepup.cosigner import mint_cosignature
from nomos_stepup.deeds import name_of
from nomos_stepup.domain import Approval, ApprovalState, Cancel
from nomos_stepup.index import Index
from nomos_stepup.links import enrolment_url
from nomos_stepup.pushes import Pushes
from nomos_stepup.render import render
from nomos_stepup.settings import StepupSettings
from nomos_stepup.store import StepupStore

NONCE_BYTES: Final = 12
#: Approvals in one list that holds ended ones too.
LISTED_MAX: Final = 200


class ApproverParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An approver's slug."""

    name: str


class GroupsParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An approver's slug, and all groups that they are in from now on."""

    name: str
    groups: list[str]


class EnrolParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An approver's registration response for the open offer."""

    name: str
    challenge: str
    response: dict[str, object]
    label: str = "passkey"


class PasskeyParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An approver's slug, and the short name of one of their passkeys (``deeds.name_of``)."""

    name: str
    passkey: str


class ApprovalsParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether what has ended is listed too."""

    all: bool = False


class ApprovalParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An approval's id."""

    approval: str


class ApproveParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An approval's id and the authenticator's assertion."""

    approval: str
    response: dict[str, object]


class CancelParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An approval's id, and why it is taken back."""

    approval: str
    why: str = ""


class StepupAdmin:
    """The verbs, by name, in :meth:`verbs`."""

    def __init__(
        self, settings: StepupSettings, ceremonies: Ceremonies, store: StepupStore, index: Index, pushes: Pushes
    ) -> None:
        self._settings = settings
        self._party = ceremonies.party
        self._ceremonies = ceremonies
        self._store = store
        self._index = index
        self._pushes = pushes

    def verbs(self) -> dict[str, Verb]:
        """Verb name to parameters and handler."""
        return {
            "approver-add": (ApproverParams, self.approver_add),
            "passkey-offer": (ApproverParams, self.passkey_offer),
            "passkey-enrol": (EnrolParams, self.passkey_enrol),
            "approver-sign-out": (ApproverParams, self.approver_sign_out),
            "approver-groups": (GroupsParams, self.approver_groups),
            "approver-passkeys": (ApproverParams, self.approver_passkeys),
            "approver-passkey-revoke": (PasskeyParams, self.approver_passkey_revoke),
            "approver-list": (NoParams, self.approver_list),
            "approvals": (ApprovalsParams, self.approvals),
            "approval-find": (ApprovalParams, self.approval_find),
            "approval-show": (ApprovalParams, self.approval_show),
            "approve": (ApproveParams, self.approve),
            "cancel": (CancelParams, self.cancel),
        }

    async def approver_add(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Adds a person who may approve for the tenant; without a passkey yet."""
        p = msgspec.convert(params, ApproverParams)
        now = int(time.time())
        # A crash between the two leaves a name without an approver; the same command goes on from there.
        subject = await self._store.enrol(by.tenant, p.name, by=by.actor, corr=by.request, now=now)
        command = AddApprover(
            tenant=by.tenant, approver=subject, name=p.name, user_handle=os.urandom(USER_HANDLE_BYTES), now=now
        )
        await self._store.decide_approver(by.tenant, subject, command, by.actor, by.request)
        return {"approver": p.name, "subject": subject, "tenant": by.tenant}

    async def passkey_offer(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Opens an enrolment: single use, short-lived; the registration options for the authenticator."""
        p = msgspec.convert(params, ApproverParams)
        now, challenge = int(time.time()), os.urandom(ENROLMENT_CHALLENGE_BYTES)
        command = OfferEnrolment(challenge=challenge, expires_at=now + self._settings.enrolment_seconds, now=now)
        subject = await self._store.subject(by.tenant, p.name)
        state = await self._store.decide_approver(by.tenant, subject, command, by.actor, by.request)
        return {
            "approver": p.name,
            "challenge": b64url(challenge),
            "rp_id": self._party.id,
            "origin": self._party.origins[0],
            "user_handle": b64url(state.user_handle),
            "expires_at": command.expires_at,
            "url": enrolment_url(self._party, state, challenge) if self._settings.pages_listen else "",
        }

    async def passkey_enrol(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Verifies a registration against the open offer and enrols the passkey."""
        p = msgspec.convert(params, EnrolParams)
        challenge = parse_b64url(p.challenge, "challenge", ENROLMENT_CHALLENGE_BYTES)
        subject = await self._store.subject(by.tenant, p.name)
        approver = await self._store.approver(by.tenant, subject)
        if approver is None:
            raise NotFound("this tenant has no such approver")
        enrolled = await self._ceremonies.enrol(
            approver, challenge=challenge, response=p.response, label=p.label, actor=by.actor, corr=by.request
        )
        return {"approver": p.name, "passkey": b64url(enrolled)}

    async def approver_sign_out(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Ends every session of an approver on the pages, at once."""
        p = msgspec.convert(params, ApproverParams)
        subject = await self._store.subject(by.tenant, p.name)
        await self._store.decide_approver(by.tenant, subject, SignOut(now=int(time.time())), by.actor, by.request)
        return {"approver": p.name}

    async def approver_groups(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Says which groups an approver is in; those that are not named they leave."""
        p = msgspec.convert(params, GroupsParams)
        subject = await self._store.subject(by.tenant, p.name)
        command = SetGroups(groups=tuple(p.groups), now=int(time.time()))
        state = await self._store.decide_approver(by.tenant, subject, command, by.actor, by.request)
        return {"approver": p.name, "groups": sorted(state.groups)}

    async def approver_passkeys(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """An approver's passkeys: a short name of each, and what its owner calls it."""
        p = msgspec.convert(params, ApproverParams)
        subject = await self._store.subject(by.tenant, p.name)
        state = await self._store.approver(by.tenant, subject)
        called = await self._store.labels(by.tenant, subject)
        listed = [
            {
                "passkey": name_of(one.credential_id),
                "label": called.get(one.credential_id, ""),
                "synchronised": one.backup_eligible,
            }
            for one in (state.passkeys if state is not None else ())
        ]
        return {"approver": p.name, "passkeys": listed}

    async def approver_passkey_revoke(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Takes one passkey of an approver out of use, at once; sessions that it opened are over with it."""
        p = msgspec.convert(params, PasskeyParams)
        subject = await self._store.subject(by.tenant, p.name)
        state = await self._store.approver(by.tenant, subject)
        held = [one for one in (state.passkeys if state else ()) if name_of(one.credential_id) == p.passkey]
        if not held:
            raise NotFound("the approver has no such passkey", hint="nomos approver passkeys NAME lists them")
        command = RevokePasskey(credential_id=held[0].credential_id, now=int(time.time()))
        left = await self._store.decide_approver(by.tenant, subject, command, by.actor, by.request)
        return {"approver": p.name, "passkey": p.passkey, "left": len(left.passkeys)}

    async def approver_list(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """The people who may approve: name, groups, and how many passkeys they have."""
        listed: list[dict[str, object]] = []
        for known in self._index.approvers(by.tenant):
            one = await self._store.approver(by.tenant, known.id)
            if one is not None and one.active:
                listed.append(
                    {"approver": one.name or one.id, "groups": sorted(one.groups), "passkeys": len(one.passkeys)}
                )
        return {"tenant": by.tenant, "approvers": sorted(listed, key=lambda one: str(one["approver"]))}

    async def approvals(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """What waits for a human in this tenant, oldest first; or the newest of all, with why they were refused."""
        known = self._index.of_tenant(by.tenant)
        if not msgspec.convert(params, ApprovalsParams).all:
            return {"approvals": [_listed(a) for a in known if a.state is ApprovalState.PENDING]}
        refused = (ApprovalState.DENIED, ApprovalState.CANCELLED)
        return {
            "approvals": [
                {
                    **_listed(a),
                    "used": a.consumed_by is not None,
                    "reason": await self._store.reason(by.tenant, a.id) if a.state in refused else "",
                }
                for a in known[-LISTED_MAX:]
            ]
        }

    async def approval_find(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """The tenant of an approval; for operators of the whole installation."""
        p = msgspec.convert(params, ApprovalParams)
        found = self._index.find(p.approval)
        if found is None:
            raise NotFound("no such approval")
        return {"approval": found.id, "tenant": found.request.tenant}

    async def approval_show(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """What the human sees, rendered from the stored bytes, and the challenge that binds exactly that."""
        p = msgspec.convert(params, ApprovalParams)
        state = await self._store.approval(by.tenant, p.approval)
        shown = render(state.request, state.args_text)
        return {
            **_listed(state),
            "text": shown.text,
            "challenge": b64url(state.challenge),
            "rp_id": self._party.id,
            "origin": self._party.origins[0],
        }

    async def approve(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Verifies the assertion and approves; gives the cosigner delegation, which is of use to the agent only."""
        p = msgspec.convert(params, ApproveParams)
        approver = await self._ceremonies.owner(by.tenant, p.response)
        state = await self._ceremonies.approve(approver, p.approval, p.response, by.request)
        now = int(time.time())
        result: dict[str, object] = {**_listed(state), "approver": approver.name or approver.id}
        if state.state is ApprovalState.APPROVED:
            key = await self._store.cosigner(by.tenant)
            result["cosigner"] = b64url(mint_cosignature(state, key, nonce=os.urandom(NONCE_BYTES), now=now))
        return result

    async def cancel(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """An operator takes the request back; that needs no passkey."""
        p = msgspec.convert(params, CancelParams)
        command = Cancel(tenant=by.tenant, by_kind="operator", by=by.name, reason=p.why, now=int(time.time()))
        state = await self._store.decide(by.tenant, p.approval, lambda _: command, by.actor, by.request)
        return _listed(state)

    async def release(self, by: Operator, subject: str) -> None:
        """Takes an approver's right away, with all passkeys and browsers; before their name is erased."""
        await self._pushes.remove_all(by.tenant, subject, why="erased", actor=by.actor, corr=by.request)
        state = await self._store.approver(by.tenant, subject)
        if state is not None and state.active:
            command = RemoveApprover(now=int(time.time()))
            await self._store.decide_approver(by.tenant, subject, command, by.actor, by.request)

    async def held(self, tenant: str, subject: str) -> dict[str, object]:
        """What stepup holds of an approver beside their name: public data of the passkeys, and their browsers."""
        state = await self._store.approver(tenant, subject)
        if state is None:
            return {}
        passkeys = [
            {
                "credential_id": b64url(one.credential_id),
                "public_key": b64url(one.public_key),
                "sign_count": one.sign_count,
                "aaguid": one.aaguid,
                "backup_eligible": one.backup_eligible,
            }
            for one in state.passkeys
        ]
        known, _ = await self._pushes.of_approver(tenant, subject)
        browsers = [
            {"since": one.at, "endpoint": (await self._pushes.browser(tenant, name)).endpoint}
            for name, one in known.items()
        ]
        return {
            "active": state.active,
            "user_handle": b64url(state.user_handle),
            "passkeys": passkeys,
            "browsers": browsers,
        }


def _listed(state: Approval) -> dict[str, object]:
    request = state.request
    return {
        "approval": state.id,
        "tenant": request.tenant,
        "state": state.state.value,
        "agent": request.agent,
        "app": request.app,
        "action": request.action,
        "resource": request.resource,
        "risk": request.risk,
        "expires_at": request.expires_at,
        "signed": len(state.signatures),
        "missing": [{"group": group, "approvals": number} for group, number in state.missing.items() if number],
    }
