"""What the page hands to the browser: options of a registration and of an assertion (WebAuthn Level 3, 5.4 and 5.5).

Options only ask; everything they ask for is checked on the answer (``webauthn.py``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from webauthn import generate_authentication_options, generate_registration_options
from webauthn.helpers import options_to_json_dict
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from nomos_stepup.facts import Passkey
from nomos_stepup.party import RelyingParty
from nomos_stepup.webauthn import ALGORITHMS

#: How long a browser waits for the user, in milliseconds; a hint to it, not a limit of ours.
CEREMONY_MS: Final = 120_000


class Holder(Protocol):
    """Whose passkeys they are: an approver, or an operator."""

    @property
    def id(self) -> str:
        """Subject id."""

    @property
    def name(self) -> str:
        """How an authenticator lists them; may be empty."""

    @property
    def user_handle(self) -> bytes:
        """What authenticators know them by."""

    @property
    def active(self) -> bool:
        """Whether their passkeys may answer."""

    @property
    def passkeys(self) -> tuple[Passkey, ...]:
        """Enrolled and not revoked."""


def registration_options(approver: Holder, *, challenge: bytes, party: RelyingParty) -> dict[str, object]:
    """Options for ``navigator.credentials.create()``, as JSON values.

    Args:
        approver: whose passkey it will be; enrolled ones are excluded.
        challenge: of the open enrolment, 32 random bytes.
        party: this installation.
    """
    return options_to_json_dict(
        generate_registration_options(
            rp_id=party.id,
            rp_name=party.name,
            user_id=approver.user_handle,
            # Stays on the authenticator; it is how the person tells their passkeys apart.
            user_name=approver.name or approver.id,
            user_display_name=approver.name or approver.id,
            challenge=challenge,
            timeout=CEREMONY_MS,
            authenticator_selection=AuthenticatorSelectionCriteria(
                # Signing in names nobody: the authenticator knows whose passkey it is.
                resident_key=ResidentKeyRequirement.REQUIRED,
                user_verification=UserVerificationRequirement.REQUIRED,
            ),
            exclude_credentials=_descriptors([approver]),
            supported_pub_key_algs=list(ALGORITHMS),
        )
    )


def assertion_options(approvers: Iterable[Holder], *, challenge: bytes, party: RelyingParty) -> dict[str, object]:
    """Options for ``navigator.credentials.get()``, as JSON values.

    Args:
        approvers: whose passkeys may answer; any of ``party`` where there are none.
        challenge: of the approval (``Approval.challenge``), or of a sign-in.
        party: this installation.
    """
    return options_to_json_dict(
        generate_authentication_options(
            rp_id=party.id,
            challenge=challenge,
            timeout=CEREMONY_MS,
            allow_credentials=_descriptors(approvers),
            user_verification=UserVerificationRequirement.REQUIRED,
        )
    )


def _descriptors(approvers: Iterable[Holder]) -> list[PublicKeyCredentialDescriptor]:
    return [PublicKeyCredentialDescriptor(id=p.credential_id) for a in approvers if a.active for p in a.passkeys]
