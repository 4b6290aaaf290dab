"""What the edge has proved before the domain decides, as frozen values.

A :class:`VerifiedAssertion` and a :class:`VerifiedRegistration` are made in ``webauthn.py`` only, after every check of
that module; the domain takes them as facts. A :class:`Passkey` is an enrolled credential, folded from the log.
"""

from __future__ import annotations

import msgspec

from nomos.errors import ApprovalRefused


class Passkey(msgspec.Struct, frozen=True, kw_only=True):
    """A credential that an approver has enrolled.

    Attributes:
        credential_id: as the authenticator named it, 1 to 1023 bytes.
        public_key: the COSE key, as the authenticator sent it.
        sign_count: the highest signature counter seen, 0 when the authenticator keeps none.
        aaguid: the authenticator's model, as a UUID text; not attested, so a hint and never a proof.
        label: the approver's own name for it; empty where the log holds it sealed.
        backup_eligible: whether the credential may be synchronised between devices; never changes for a credential.
    """

    credential_id: bytes
    public_key: bytes
    sign_count: int
    aaguid: str
    label: str
    backup_eligible: bool


class VerifiedRegistration(msgspec.Struct, frozen=True, kw_only=True):
    """A new credential whose registration has been verified against ``challenge``."""

    challenge: bytes
    credential_id: bytes
    public_key: bytes
    sign_count: int
    aaguid: str
    backup_eligible: bool


class VerifiedAssertion(msgspec.Struct, frozen=True, kw_only=True):
    """A passkey signature over ``challenge``, verified with ``public_key``, with the bytes that prove it.

    Attributes:
        challenge: the 32 bytes that were signed, through ``client_data_json``.
        credential_id: the credential that signed.
        public_key: the enrolled COSE key that the signature was verified with.
        sign_count: the counter after this signature.
        rp_id: the relying party id whose hash stands in ``authenticator_data``.
        client_data_json: as the browser sent it.
        authenticator_data: as the authenticator signed it.
        signature: over ``authenticator_data ‖ SHA-256(client_data_json)``.
    """

    challenge: bytes
    credential_id: bytes
    public_key: bytes
    sign_count: int
    rp_id: str
    client_data_json: bytes
    authenticator_data: bytes
    signature: bytes


class CounterStalled(ApprovalRefused):
    """The signature verifies, but the passkey's counter did not rise: the credential may exist twice.

    Raised after the signature check only, so nobody without the private key can raise this alarm.
    """

    def __init__(self, credential_id: bytes, *, stored: int, got: int) -> None:
        super().__init__(
            f"the passkey's counter did not rise: it was {stored} and is {got}",
            hint="the passkey may have been copied; enrol another one and revoke this one",
        )
        self.credential_id = credential_id
        self.stored = stored
        self.got = got


def check_counter(passkey: Passkey, sign_count: int) -> None:
    """Checks a verified assertion's counter against the stored one (WebAuthn Level 3, 7.2 step 22 and 6.1.1).

    Both zero means that the authenticator keeps no counter, as synchronised passkeys do; that is accepted, since the
    challenge is single use and so is the approval. Once a counter has been non-zero, zero is no rise.

    Raises:
        CounterStalled: the counter is not above the stored one.
    """
    if sign_count == 0 and passkey.sign_count == 0:
        return
    if sign_count <= passkey.sign_count:
        raise CounterStalled(passkey.credential_id, stored=passkey.sign_count, got=sign_count)
