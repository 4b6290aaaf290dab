"""Time-stamp tokens of RFC 3161 over a day's root: that a third party saw the root at the time that it states.

Decides whether a token is over given bytes and was signed by an authority that a root of the auditor's vouches for. The
authority's certificates must have been valid **at the time in the token**, not now: a token outlives the certificate
that made it, which is what it is for. A token says nothing of the log's truth; it says that the root is not younger.

Rules, in order: the answer grants; the imprint is the digest of the bytes (SHA-256, SHA-384 or SHA-512); the nonce is
the one that was sent, where the verifier knows it; one signer, whose certificate is for time stamping alone, is vouched
for by a root. The parser takes strict DER only.

Trusted: the roots, from the auditor's hands. An authority of these can state a false time.

Source: RFC 3161 sections 2.3 and 2.4; RFC 5652.
"""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256, sha384, sha512
from typing import Final

import msgspec
from cryptography import x509
from rfc3161_client import PKIStatus, TimeStampResponse, VerificationError, VerifierBuilder, decode_timestamp_response

from nomos.errors import BadSignature, LimitExceeded, MalformedRecord

#: A token with a chain of certificates has 2 to 8 KB.
TOKEN_BYTES_MAX: Final = 65_536
ROOTS_BYTES_MAX: Final = 1_048_576
_DIGESTS: Final = {
    "2.16.840.1.101.3.4.2.1": sha256,
    "2.16.840.1.101.3.4.2.2": sha384,
    "2.16.840.1.101.3.4.2.3": sha512,
}


class OtherContent(BadSignature):
    """A token over other bytes than those at hand, or the answer to another question."""

    code = "other_content"


class Stamp(msgspec.Struct, frozen=True, kw_only=True):
    """What a verified token says: when, and by which authority (the subject of its certificate)."""

    at: datetime
    authority: str


def parse_roots(pem: bytes) -> list[x509.Certificate]:
    """The certificates of an auditor's file.

    Raises:
        MalformedRecord: none, or not PEM.
        LimitExceeded: longer than :data:`ROOTS_BYTES_MAX`.
    """
    if len(pem) > ROOTS_BYTES_MAX:
        raise LimitExceeded("size of a file of TSA roots in bytes", ROOTS_BYTES_MAX, len(pem))
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise MalformedRecord("not a file of certificates in PEM", cause=str(error)) from None


def parse_token(encoded: bytes) -> TimeStampResponse:
    """Parses an authority's answer that holds a token.

    Raises:
        MalformedRecord: not strict DER of a TimeStampResp, or no token in it.
        LimitExceeded: longer than :data:`TOKEN_BYTES_MAX`.
    """
    if len(encoded) > TOKEN_BYTES_MAX:
        raise LimitExceeded("size of a time-stamp token in bytes", TOKEN_BYTES_MAX, len(encoded))
    try:
        response = decode_timestamp_response(encoded)
        if PKIStatus(response.status) is not PKIStatus.GRANTED:
            raise MalformedRecord(f"the authority did not grant a token: status {response.status}")
        # Parsed when first read.
        _ = (response.tst_info.gen_time, response.tst_info.message_imprint.message, response.signed_data.signer_infos)
    except (ValueError, TypeError) as error:
        raise MalformedRecord("not a time-stamp token", cause=str(error)) from None
    return response


def check_content(response: TimeStampResponse, content: bytes, nonce: int | None = None) -> None:
    """Checks that a token is over ``content``, and answers the question with ``nonce`` where one is given.

    Raises:
        OtherContent: it is over other bytes or answers another question.
    """
    imprint = response.tst_info.message_imprint
    digest = _DIGESTS.get(imprint.hash_algorithm.dotted_string)
    if digest is None:
        raise OtherContent("the token's digest is not SHA-256, SHA-384 or SHA-512")
    if imprint.message != digest(content).digest():
        raise OtherContent("the token is over other bytes")
    if nonce is not None and response.tst_info.nonce != nonce:
        raise OtherContent("the token answers another question: its nonce is not the one that was sent")


def verify_token(encoded: bytes, content: bytes, roots: list[x509.Certificate], nonce: int | None = None) -> Stamp:
    """Checks a token as of the time that it states. Needs no clock and no network.

    Args:
        encoded: the authority's answer, DER.
        content: what the token must be over.
        roots: the roots that the auditor trusts for time stamps; at least one.
        nonce: the one that was sent, where it is known.

    Raises:
        MalformedRecord: it is no token.
        OtherContent: it is over other bytes or answers another question.
        BadSignature: no root vouches for it as of its time, or its certificate is not for time stamping.
    """
    response = parse_token(encoded)
    check_content(response, content, nonce)
    # Not through the builder's methods: they share one list of roots between builders.
    verifier = VerifierBuilder(roots=list(roots)).build()
    try:
        verifier.verify_message(response, content)
    except (VerificationError, ValueError) as error:
        raise BadSignature(
            "no root vouches for the token as of its time, or its certificate is not for time stamps", cause=str(error)
        ) from None
    return Stamp(at=response.tst_info.gen_time, authority=_authority(response))


def _authority(response: TimeStampResponse) -> str:
    (signer,) = response.signed_data.signer_infos
    for encoded in response.signed_data.certificates:
        certificate = x509.load_der_x509_certificate(encoded)
        if (certificate.issuer, certificate.serial_number) == (signer.issuer, signer.serial_number):
            return certificate.subject.rfc4514_string()
    raise BadSignature("the token does not hold its signer's certificate")
