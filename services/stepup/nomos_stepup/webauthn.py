"""Verifies passkeys: registration (WebAuthn Level 3, section 7.1) and assertion (section 7.2).

Rules, in order: strict parsing of every part; the type, challenge, origin and framing of the client data; the hash of
the relying party id; user present and user verified; the key's algorithm; the signature; last of all the counter, so
that only the holder of the private key can raise the alarm about it. Signatures and CBOR are py_webauthn's work; what
it lets pass is checked here: cross-origin use, ``topOrigin``, repeated members, loose base64url, curve and key sizes,
the user handle and the backup flag. Foreign exceptions end in this module.

Accepted: ES256 on P-256 and RS256 with 2048 to 4096 bits (every authenticator in browsers offers one of them),
attestation ``none`` or self attestation: models are not proved, and no certificate is parsed.

Leaves to ``domain.py``: whether this approver may release this request.
"""

from __future__ import annotations

import hashlib
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from webauthn import verify_authentication_response, verify_registration_response
from webauthn.helpers import decode_credential_public_key, decoded_public_key_to_cryptography, parse_cbor
from webauthn.helpers.cose import COSECRV, COSEAlgorithmIdentifier
from webauthn.helpers.decode_credential_public_key import DecodedEC2PublicKey, DecodedRSAPublicKey
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import (
    AuthenticationCredential,
    AuthenticatorAssertionResponse,
    AuthenticatorAttestationResponse,
    RegistrationCredential,
)

from nomos.errors import ApprovalRefused, Malformed
from nomos.passkey import SOFTWARE_AAGUID
from nomos_stepup.authenticator import (
    FLAG_ATTESTED,
    FLAG_BACKUP_ELIGIBLE,
    FLAG_USER_PRESENT,
    FLAG_USER_VERIFIED,
    AuthenticatorHeader,
    check_cbor,
    parse_header,
)
from nomos_stepup.base64url import b64url
from nomos_stepup.clientdata import TYPE_CREATE, TYPE_GET, check_client_data, parse_client_data
from nomos_stepup.facts import Passkey, VerifiedAssertion, VerifiedRegistration, check_counter
from nomos_stepup.party import RelyingParty, relying_party
from nomos_stepup.responses import AssertionResponse, AttestationResponse, parse_assertion, parse_registration

#: All that the edge of the service needs of a ceremony, from one module.
__all__ = [
    "ALGORITHMS",
    "AssertionResponse",
    "AttestationResponse",
    "RelyingParty",
    "check_public_key",
    "parse_assertion",
    "parse_registration",
    "relying_party",
    "verify_assertion",
    "verify_registration",
]

RSA_BITS_MIN: Final = 2048
RSA_BITS_MAX: Final = 4096
RSA_EXPONENT_BYTES_MAX: Final = 4
P256_COORDINATE_BYTES: Final = 32
ALGORITHMS: Final = (COSEAlgorithmIdentifier.ECDSA_SHA_256, COSEAlgorithmIdentifier.RSASSA_PKCS1_v1_5_SHA_256)

#: What py_webauthn and the libraries below it raise on hostile input; all of it means "not verified".
_FOREIGN: Final = (
    WebAuthnException,
    InvalidSignature,
    UnsupportedAlgorithm,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


def verify_registration(
    response: AttestationResponse, *, challenge: bytes, party: RelyingParty
) -> VerifiedRegistration:
    """Verifies that an authenticator made a new credential for ``party`` and ``challenge``, with the user verified.

    Args:
        response: parsed by :func:`parse_registration`.
        challenge: the random challenge of the open enrolment.
        party: this installation.

    Raises:
        Malformed: a part breaks its format.
        ApprovalRefused: a rule of the module is broken.
    """
    client = parse_client_data(response.client_data_json)
    check_client_data(client, kind=TYPE_CREATE, challenge=challenge, origins=party.origins)
    header = _check_attestation(response.attestation_object, party)
    try:
        verified = verify_registration_response(
            credential=RegistrationCredential(
                id=b64url(response.credential_id),
                raw_id=response.credential_id,
                response=AuthenticatorAttestationResponse(
                    client_data_json=response.client_data_json, attestation_object=response.attestation_object
                ),
            ),
            expected_challenge=challenge,
            expected_rp_id=party.id,
            expected_origin=list(party.origins),
            require_user_verification=True,
            supported_pub_key_algs=list(ALGORITHMS),
        )
    except _FOREIGN as e:
        raise ApprovalRefused("the passkey registration does not verify", cause=f"{type(e).__name__}: {e}") from e
    if verified.credential_id != response.credential_id:
        raise ApprovalRefused("the passkey registration names two credential ids")
    check_public_key(verified.credential_public_key)
    if verified.aaguid == SOFTWARE_AAGUID and not party.software_passkeys:
        raise ApprovalRefused("software passkeys are for development and are not accepted here")
    return VerifiedRegistration(
        challenge=challenge,
        credential_id=verified.credential_id,
        public_key=verified.credential_public_key,
        sign_count=verified.sign_count,
        aaguid=verified.aaguid,
        backup_eligible=header.has(FLAG_BACKUP_ELIGIBLE),
    )


def verify_assertion(
    response: AssertionResponse, *, challenge: bytes, passkey: Passkey, user_handle: bytes, party: RelyingParty
) -> VerifiedAssertion:
    """Verifies that ``passkey`` signed ``challenge`` on a page of ``party``, with the user verified.

    Args:
        response: parsed by :func:`parse_assertion`.
        challenge: computed from the stored request (``challenge_of``).
        passkey: the enrolled credential that the response names.
        user_handle: of the approver who owns ``passkey``.
        party: this installation.

    Raises:
        Malformed: a part breaks its format.
        ApprovalRefused: a rule of the module is broken.
        CounterStalled: everything verifies but the counter did not rise; the caller records an alarm.
    """
    if response.credential_id != passkey.credential_id:
        raise ApprovalRefused("the assertion was made by another passkey")
    if response.user_handle is not None and response.user_handle != user_handle:
        raise ApprovalRefused("the passkey belongs to another user")
    client = parse_client_data(response.client_data_json)
    check_client_data(client, kind=TYPE_GET, challenge=challenge, origins=party.origins)
    header = parse_header(response.authenticator_data)
    _check_header(header, party)
    if header.has(FLAG_ATTESTED):
        raise Malformed("an assertion holds no credential")
    if header.has(FLAG_BACKUP_ELIGIBLE) != passkey.backup_eligible:
        raise ApprovalRefused("the passkey changed between one device and many, which no credential does")
    check_public_key(passkey.public_key)
    try:
        verified = verify_authentication_response(
            credential=AuthenticationCredential(
                id=b64url(response.credential_id),
                raw_id=response.credential_id,
                response=AuthenticatorAssertionResponse(
                    client_data_json=response.client_data_json,
                    authenticator_data=response.authenticator_data,
                    signature=response.signature,
                    user_handle=response.user_handle,
                ),
            ),
            expected_challenge=challenge,
            expected_rp_id=party.id,
            expected_origin=list(party.origins),
            credential_public_key=passkey.public_key,
            # The library compares the counter before the signature; zero leaves that to check_counter below.
            credential_current_sign_count=0,
            require_user_verification=True,
        )
    except _FOREIGN as e:
        raise ApprovalRefused("the passkey assertion does not verify", cause=f"{type(e).__name__}: {e}") from e
    check_counter(passkey, verified.new_sign_count)
    return VerifiedAssertion(
        challenge=challenge,
        credential_id=passkey.credential_id,
        public_key=passkey.public_key,
        sign_count=verified.new_sign_count,
        rp_id=party.id,
        client_data_json=response.client_data_json,
        authenticator_data=response.authenticator_data,
        signature=response.signature,
    )


def check_public_key(cose: bytes) -> None:
    """Checks that a COSE key is one of :data:`ALGORITHMS`, complete, on its curve and of an accepted size.

    Raises:
        Malformed: not a CBOR map as CTAP writes it.
        ApprovalRefused: another algorithm, curve or size.
    """
    check_cbor(cose)
    try:
        decoded = decode_credential_public_key(cose)
        accepted = _is_accepted(decoded)
        if accepted:
            decoded_public_key_to_cryptography(decoded)
    except _FOREIGN as e:
        raise ApprovalRefused("the passkey's public key is not usable", cause=f"{type(e).__name__}: {e}") from e
    if not accepted:
        raise ApprovalRefused("the passkey's key must be ES256 on P-256, or RS256 with 2048 to 4096 bits")


def _is_accepted(decoded: object) -> bool:
    match decoded:
        case DecodedEC2PublicKey():
            return (
                decoded.alg == COSEAlgorithmIdentifier.ECDSA_SHA_256
                and decoded.crv == COSECRV.P256
                and len(decoded.x) == len(decoded.y) == P256_COORDINATE_BYTES
            )
        case DecodedRSAPublicKey():
            return (
                decoded.alg == COSEAlgorithmIdentifier.RSASSA_PKCS1_v1_5_SHA_256
                and RSA_BITS_MIN <= int.from_bytes(decoded.n, "big").bit_length() <= RSA_BITS_MAX
                and len(decoded.e) <= RSA_EXPONENT_BYTES_MAX
            )
        case _:
            return False


def _check_attestation(attestation_object: bytes, party: RelyingParty) -> AuthenticatorHeader:
    check_cbor(attestation_object)
    try:
        attestation = parse_cbor(attestation_object)
    except _FOREIGN as e:
        raise Malformed("not an attestation object", cause=f"{type(e).__name__}: {e}") from e
    authenticator_data, statement = attestation.get("authData"), attestation.get("attStmt")
    if not isinstance(authenticator_data, bytes) or not isinstance(statement, dict):
        raise Malformed("not an attestation object")
    header = parse_header(authenticator_data)
    _check_header(header, party)
    if not header.has(FLAG_ATTESTED):
        raise Malformed("a registration must hold a credential")
    is_self = attestation.get("fmt") == "packed" and "x5c" not in statement
    if attestation.get("fmt") != "none" and not is_self:
        raise ApprovalRefused("only passkeys without attestation, or with self attestation, are accepted")
    return header


def _check_header(header: AuthenticatorHeader, party: RelyingParty) -> None:
    if header.rp_id_hash != hashlib.sha256(party.id.encode()).digest():
        raise ApprovalRefused("the passkey was used for another relying party")
    if not header.has(FLAG_USER_PRESENT):
        raise ApprovalRefused("the passkey was used without the user being present")
    if not header.has(FLAG_USER_VERIFIED):
        raise ApprovalRefused("the passkey did not verify its user")
