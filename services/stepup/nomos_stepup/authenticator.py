"""Authenticator data and the CBOR inside it, checked before any general decoder sees them.

WebAuthn Level 3, sections 6.1 (authenticator data) and 6.5 (attestation); CTAP 2.1, section 8 (its CBOR: definite
lengths, no tags, at most four levels). A general CBOR decoder turns tags into dates, patterns and numbers of any size;
an authenticator needs none of that, so bytes with such items are refused here by a scan that builds nothing.

Leaves to ``webauthn.py``: which key algorithms and formats are accepted, and every decision.
"""

from __future__ import annotations

from typing import Final

import msgspec

from nomos.errors import LimitExceeded, Malformed

#: Header: SHA-256 of the relying party id, flags, counter.
HEADER_BYTES: Final = 37
AUTHENTICATOR_DATA_BYTES_MAX: Final = 4096
CBOR_DEPTH_MAX: Final = 4

FLAG_USER_PRESENT: Final = 0x01
FLAG_USER_VERIFIED: Final = 0x04
FLAG_BACKUP_ELIGIBLE: Final = 0x08
FLAG_BACKED_UP: Final = 0x10
FLAG_ATTESTED: Final = 0x40
FLAG_EXTENSIONS: Final = 0x80

_AAGUID_AND_LENGTH_BYTES: Final = 18
_ARGUMENT_BYTES: Final = {24: 1, 25: 2, 26: 4, 27: 8}
_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_FALSE_TRUE_NULL: Final = frozenset({0xF4, 0xF5, 0xF6})


class AuthenticatorHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The fixed part of authenticator data."""

    rp_id_hash: bytes
    flags: int
    sign_count: int

    def has(self, flag: int) -> bool:
        """Whether ``flag`` (one of the ``FLAG_`` constants) is set."""
        return self.flags & flag != 0


def parse_header(octets: bytes) -> AuthenticatorHeader:
    """Reads the header of authenticator data and checks that the rest has the form its flags announce.

    Raises:
        LimitExceeded: over :data:`AUTHENTICATOR_DATA_BYTES_MAX`.
        Malformed: too short, bytes left over, or CBOR that CTAP does not allow.
    """
    if len(octets) > AUTHENTICATOR_DATA_BYTES_MAX:
        raise LimitExceeded("AUTHENTICATOR_DATA_BYTES_MAX", AUTHENTICATOR_DATA_BYTES_MAX, len(octets))
    if len(octets) < HEADER_BYTES:
        raise Malformed(f"expected at least {HEADER_BYTES} bytes of authenticator data, got {len(octets)}")
    header = AuthenticatorHeader(
        rp_id_hash=octets[:32], flags=octets[32], sign_count=int.from_bytes(octets[33:HEADER_BYTES], "big")
    )
    if header.has(FLAG_BACKED_UP) and not header.has(FLAG_BACKUP_ELIGIBLE):
        raise Malformed("authenticator data says backed up, but not eligible for backup")
    end = HEADER_BYTES
    if header.has(FLAG_ATTESTED):
        start = end + _AAGUID_AND_LENGTH_BYTES
        id_length = int.from_bytes(octets[start - 2 : start], "big")
        end = scan_cbor(octets, start + id_length, kind=_MAP)
    if header.has(FLAG_EXTENSIONS):
        end = scan_cbor(octets, end, kind=_MAP)
    if end != len(octets):
        raise Malformed("authenticator data does not end where its flags say")
    return header


def check_cbor(octets: bytes) -> None:
    """Checks that ``octets`` is one CBOR map as CTAP allows it.

    Raises:
        Malformed: it is not.
    """
    if scan_cbor(octets, 0, kind=_MAP) != len(octets):
        raise Malformed("bytes after the end of a CBOR item")


def scan_cbor(octets: bytes, start: int, *, kind: int | None = None, depth: int = 0) -> int:
    """The position after the CBOR item that begins at ``start``; nothing is built.

    Args:
        octets: the bytes.
        start: position of the item.
        kind: the major type that it must have, or None.
        depth: how many arrays and maps it stands in.

    Raises:
        Malformed: truncated, nested too deep, or an item that CTAP does not allow (tag, float, indefinite length).
    """
    if start >= len(octets):
        raise Malformed("CBOR ends too early")
    major, low = octets[start] >> 5, octets[start] & 0x1F
    if kind is not None and major != kind:
        raise Malformed("expected a CBOR map")
    if major == _SIMPLE:
        if octets[start] not in _FALSE_TRUE_NULL:
            raise Malformed("CBOR has an item that CTAP does not allow")
        return start + 1
    if major == _TAG or low > 27:
        raise Malformed("CBOR has an item that CTAP does not allow")
    position = start + 1 + _ARGUMENT_BYTES.get(low, 0)
    argument = low if low < 24 else int.from_bytes(octets[start + 1 : position], "big")
    if major in (_BYTES, _TEXT):
        position += argument
    elif major in (_ARRAY, _MAP):
        if depth >= CBOR_DEPTH_MAX:
            raise LimitExceeded("CBOR_DEPTH_MAX", CBOR_DEPTH_MAX)
        # Each item takes a byte at least, so the loop ends with the bytes, whatever count they announce.
        for _ in range(argument if major == _ARRAY else 2 * argument):
            position = scan_cbor(octets, position, depth=depth + 1)
    if position > len(octets):
        raise Malformed("CBOR ends too early")
    return position
