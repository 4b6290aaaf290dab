"""Checks an approval again from recorded events alone: what an auditor does, offline, without trusting this service.

From ``stepup.requested`` the challenge is computed; each ``stepup.approved`` must carry a passkey signature over it
that verifies with the key that ``passkey.enrolled`` recorded for that approver. The whole history must obey the rules
of ``domain.py``.

What this cannot tell: that an enrolled key was that person's (see who added the approver), and that it had not been
revoked before it signed (compare positions in the log).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nomos.errors import ApprovalRefused, Malformed, MalformedRecord
from nomos_stepup.base64url import parse_b64url
from nomos_stepup.challenge import check_request, text_sha256
from nomos_stepup.clientdata import CLIENT_DATA_BYTES_MAX
from nomos_stepup.domain import Approval, evolve
from nomos_stepup.events import ApprovalEvent, PasskeyEnrolled, StepUpApproved, StepUpRequested
from nomos_stepup.facts import Passkey
from nomos_stepup.party import RelyingParty
from nomos_stepup.responses import AssertionResponse
from nomos_stepup.webauthn import verify_assertion

#: Every recorded part of an assertion is smaller; client data may be the largest.
_PART_BYTES_MAX = CLIENT_DATA_BYTES_MAX


def recheck(history: Sequence[ApprovalEvent], *, enrolled: Iterable[PasskeyEnrolled], party: RelyingParty) -> Approval:
    """Folds the history of one approval and verifies every signature in it.

    Args:
        history: the events of one approval, in order, from ``stepup.requested`` on.
        enrolled: the enrolments of the approval's tenant.
        party: the relying party that the auditor expects.

    Returns:
        The approval as the history leaves it.

    Raises:
        MalformedRecord: the history is empty, breaks a rule of approvals, or holds bytes of another form.
        ApprovalRefused: a recorded signature does not verify, or its passkey was not enrolled for that approver.
    """
    keys = {(event.approver, event.credential_id): event for event in enrolled}
    state: Approval | None = None
    for event in history:
        try:
            if isinstance(event, StepUpRequested):
                check_request(event.request)
                if text_sha256(event.args_text) != event.request.args_text_sha256:
                    raise MalformedRecord("the recorded arguments are not those that the request binds")
            elif isinstance(event, StepUpApproved) and state is not None:
                _verify(event, keys.get((event.approver, event.credential_id)), state, party)
        except MalformedRecord:
            raise
        except Malformed as e:
            raise MalformedRecord("a record of this approval is malformed", cause=e.detail) from e
        state = evolve(state, event)
    if state is None:
        raise MalformedRecord("the history of the approval is empty")
    return state


def _verify(event: StepUpApproved, enrolment: PasskeyEnrolled | None, state: Approval, party: RelyingParty) -> None:
    if enrolment is None or enrolment.public_key != event.public_key:
        raise ApprovalRefused("the passkey that signed was not enrolled for this approver")
    if event.approver in state.request.requesters:
        raise ApprovalRefused("who asks cannot approve")
    if event.at >= state.request.expires_at:
        raise ApprovalRefused("the approval was signed after its time")
    credential_id = parse_b64url(event.credential_id, "credential id", _PART_BYTES_MAX)
    verified = verify_assertion(
        AssertionResponse(
            credential_id=credential_id,
            client_data_json=parse_b64url(event.client_data_json, "client data", _PART_BYTES_MAX),
            authenticator_data=parse_b64url(event.authenticator_data, "authenticator data", _PART_BYTES_MAX),
            signature=parse_b64url(event.signature, "signature", _PART_BYTES_MAX),
            user_handle=None,
        ),
        challenge=state.challenge,
        passkey=Passkey(
            credential_id=credential_id,
            public_key=parse_b64url(enrolment.public_key, "public key", _PART_BYTES_MAX),
            # Zero accepts any counter: counters of one passkey run through many approvals, here only one is at hand.
            sign_count=0,
            aaguid=enrolment.aaguid,
            label="",
            backup_eligible=enrolment.backup_eligible,
        ),
        user_handle=b"",
        party=party,
    )
    if verified.sign_count != event.sign_count or verified.rp_id != event.rp_id:
        raise MalformedRecord("the recorded counter or relying party is not the one that was signed")
