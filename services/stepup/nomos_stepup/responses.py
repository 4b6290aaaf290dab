"""What a browser hands over after a ceremony, parsed strictly and not verified (WebAuthn Level 3, section 5.1).

The form is ``PublicKeyCredential.toJSON()``. Members that nothing depends on are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeVar

import msgspec

from nomos.errors import LimitExceeded, Malformed
from nomos_stepup.authenticator import AUTHENTICATOR_DATA_BYTES_MAX
from nomos_stepup.base64url import parse_b64url
from nomos_stepup.clientdata import CLIENT_DATA_BYTES_MAX

_T = TypeVar("_T")

#: A response as JSON, in bytes.
RESPONSE_BYTES_MAX: Final = 65_536
ATTESTATION_BYTES_MAX: Final = 16_384
#: WebAuthn Level 3, section 4, "Credential ID".
CREDENTIAL_ID_BYTES_MAX: Final = 1023
#: RSA of 4096 bits; an ES256 signature takes at most 72.
SIGNATURE_BYTES_MAX: Final = 512
USER_HANDLE_BYTES_MAX: Final = 64


class AttestationResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed registration response, not verified."""

    credential_id: bytes
    client_data_json: bytes
    attestation_object: bytes


class AssertionResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed assertion response, not verified. ``credential_id`` only selects the key to verify with."""

    credential_id: bytes
    client_data_json: bytes
    authenticator_data: bytes
    signature: bytes
    user_handle: bytes | None


class _AttestationJson(msgspec.Struct, frozen=True, kw_only=True):
    clientDataJSON: str  # noqa: N815 - the specification's name
    attestationObject: str  # noqa: N815


class _AssertionJson(msgspec.Struct, frozen=True, kw_only=True):
    clientDataJSON: str  # noqa: N815
    authenticatorData: str  # noqa: N815
    signature: str
    userHandle: str | None = None  # noqa: N815


class _RegistrationJson(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    rawId: str  # noqa: N815
    type: Literal["public-key"]
    response: _AttestationJson


class _AuthenticationJson(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    rawId: str  # noqa: N815
    type: Literal["public-key"]
    response: _AssertionJson


def parse_registration(response: bytes | Mapping[str, object]) -> AttestationResponse:
    """Parses ``PublicKeyCredential.toJSON()`` of a registration; verifies nothing.

    Args:
        response: the JSON in bytes, or the object decoded from it.

    Raises:
        LimitExceeded: a part is over its limit.
        Malformed: another form.
    """
    parsed = _decode(response, _RegistrationJson)
    return AttestationResponse(
        credential_id=_credential_id(parsed.id, parsed.rawId),
        client_data_json=parse_b64url(parsed.response.clientDataJSON, "client data", CLIENT_DATA_BYTES_MAX),
        attestation_object=parse_b64url(parsed.response.attestationObject, "attestation object", ATTESTATION_BYTES_MAX),
    )


def parse_assertion(response: bytes | Mapping[str, object]) -> AssertionResponse:
    """Parses ``PublicKeyCredential.toJSON()`` of an assertion; verifies nothing.

    Args:
        response: the JSON in bytes, or the object decoded from it.

    Raises:
        LimitExceeded: a part is over its limit.
        Malformed: another form.
    """
    parsed = _decode(response, _AuthenticationJson)
    inner = parsed.response
    handle = inner.userHandle
    return AssertionResponse(
        credential_id=_credential_id(parsed.id, parsed.rawId),
        client_data_json=parse_b64url(inner.clientDataJSON, "client data", CLIENT_DATA_BYTES_MAX),
        authenticator_data=parse_b64url(inner.authenticatorData, "authenticator data", AUTHENTICATOR_DATA_BYTES_MAX),
        signature=parse_b64url(inner.signature, "signature", SIGNATURE_BYTES_MAX),
        user_handle=parse_b64url(handle, "user handle", USER_HANDLE_BYTES_MAX) if handle is not None else None,
    )


def _credential_id(named: str, raw: str) -> bytes:
    if named != raw:
        raise Malformed("the response names two credential ids")
    credential_id = parse_b64url(raw, "credential id", CREDENTIAL_ID_BYTES_MAX)
    if not credential_id:
        raise Malformed("the credential id is empty")
    return credential_id


def _decode(response: bytes | Mapping[str, object], kind: type[_T]) -> _T:
    try:
        if isinstance(response, bytes):
            if len(response) > RESPONSE_BYTES_MAX:
                raise LimitExceeded("RESPONSE_BYTES_MAX", RESPONSE_BYTES_MAX, len(response))
            return msgspec.json.decode(response, type=kind)
        return msgspec.convert(response, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as e:
        raise Malformed("not a passkey response", cause=str(e)) from e
