"""Addresses of pages that are given out. A link opens a page; no link approves, signs in or enrols by being opened.

The challenge of an enrolment is the secret of its link: who holds it may enrol, once, in time. The service keeps the
SHA-256 of it only. An approval's link holds no secret.
"""

from __future__ import annotations

from typing import Final

from nomos.errors import Malformed, NotFound
from nomos.ids import is_id, parse_slug
from nomos.log.sealedfield import is_subject
from nomos_stepup.approvers import ENROLMENT_CHALLENGE_BYTES, Approver
from nomos_stepup.base64url import b64url, parse_b64url
from nomos_stepup.party import RelyingParty

APPROVALS: Final = "/approvals"
ENROL: Final = "/enrol/"
_LINK_CHARS_MAX: Final = 200


def approval_path(approval: str) -> str:
    """The page of an approval."""
    return f"{APPROVALS}/{approval}"


def approval_url(party: RelyingParty, approval: str) -> str:
    """The page of an approval, with the origin."""
    return party.origins[0] + approval_path(approval)


def enrolment_url(party: RelyingParty, approver: Approver, challenge: bytes) -> str:
    """The page on which ``approver`` answers the offer with ``challenge``, with the origin."""
    return party.origins[0] + enrolment_path(approver, challenge)


def enrolment_path(approver: Approver, challenge: bytes) -> str:
    """The page on which ``approver`` answers the offer with ``challenge``."""
    return f"{ENROL}{approver.tenant}.{approver.id}.{b64url(challenge)}"


def parse_enrolment(link: str) -> tuple[str, str, bytes]:
    """Tenant, approver and challenge of what stands behind :data:`ENROL`.

    Raises:
        NotFound: no link of ours; it says no more than that.
    """
    parts = link.split(".") if len(link) <= _LINK_CHARS_MAX else []
    try:
        tenant, approver, challenge = parts
        parse_slug(tenant, "tenant")
        if not is_subject(approver):
            parse_slug(approver, "approver")
        octets = parse_b64url(challenge, "challenge", ENROLMENT_CHALLENGE_BYTES)
    except (ValueError, Malformed) as e:
        raise NotFound("this link opens nothing", hint="ask for a new one") from e
    return tenant, approver, octets


def parse_approval(text: str) -> str:
    """An approval's id from a path or a form.

    Raises:
        NotFound: no such id.
    """
    if not is_id(text, "ap"):
        raise NotFound("there is no such approval")
    return text
