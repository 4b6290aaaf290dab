"""DAG-CBOR with one spelling per value.

Decides whether bytes are canonical DAG-CBOR within limits. Rules, in order:

1. At most ``bytes_max`` bytes, nested at most ``DEPTH_MAX`` deep. Depth is checked **before** decoding: a decoder
   reserves room for as many elements as a head announces, so nested heads that each announce the rest of the
   input would reserve the square of its size.
2. The decoder is strict (shortest heads, sorted unique text keys, 64-bit floats, no NaN, no infinity, tag 42 only).
3. Links are CIDv1 dag-cbor sha2-256.
4. Encoding the value again gives the same bytes. The rule is kept although the decoder is strict: it is the
   promise that matters, one token has one spelling.

Source: the IPLD DAG-CBOR specification, section "Strictness".
"""

from __future__ import annotations

from typing import Final, TypeAlias

from cbrrr import decode_dag_cbor, encode_dag_cbor

from nomos.errors import LimitExceeded, Malformed
from nomos.ucan.cid import Link

#: A value of the IPLD data model.
Ipld: TypeAlias = "bool | int | float | str | bytes | Link | list[Ipld] | dict[str, Ipld] | None"

DEPTH_MAX: Final = 64
#: Up to this size a token with at most DEPTH_MAX bytes that could open a container needs no walk.
WALK_FREE_BYTES: Final = 4096

_CONTAINER_HEADS: Final = bytes(range(0x80, 0xC0))
_MAJOR_BYTES: Final = 2
_MAJOR_TEXT: Final = 3
_MAJOR_LIST: Final = 4
_MAJOR_MAP: Final = 5
_MAJOR_TAG: Final = 6


def encode(value: Ipld) -> bytes:
    """The canonical bytes of a value.

    Args:
        value: nested at most as deep as the caller has checked; must not contain itself.

    Raises:
        Malformed: a type outside the data model, a float that is not finite, an integer beyond 64 bits, or a lone
            surrogate.
    """
    try:
        return encode_dag_cbor(value, cid_type=Link)  # type: ignore[arg-type]  # its types know only its own CID class
    except (TypeError, ValueError) as error:
        raise Malformed("value has no DAG-CBOR form", cause=str(error)) from None


def decode(encoded: bytes, *, bytes_max: int) -> Ipld:
    """Reads canonical bytes.

    Args:
        encoded: the bytes as received.
        bytes_max: the caller's limit on their number.

    Raises:
        LimitExceeded: too long or nested too deep.
        Malformed: anything that is not the canonical encoding of one value.
    """
    if len(encoded) > bytes_max:
        raise LimitExceeded("dag_cbor_bytes_max", bytes_max, len(encoded))
    if len(encoded) > WALK_FREE_BYTES or _container_bytes(encoded) > DEPTH_MAX:
        _check_depth(encoded)
    try:
        value: Ipld = decode_dag_cbor(encoded, cid_ctor=Link)  # type: ignore[assignment]  # as above
    except ValueError as error:
        raise Malformed("not canonical DAG-CBOR", cause=str(error)) from None
    if encode(value) != encoded:
        raise Malformed("not the canonical spelling of its value")
    return value


def _container_bytes(encoded: bytes) -> int:
    """How many bytes have the value of a list or map head: an upper bound of the depth, found without a walk."""
    return len(encoded) - len(encoded.translate(None, _CONTAINER_HEADS))


def _check_depth(encoded: bytes) -> None:
    """Walks the heads. Where the input is cut short or uses a reserved head it stops: the decoder refuses there."""
    position, end = 0, len(encoded)
    open_items = [1]
    while open_items:
        if open_items[-1] == 0:
            open_items.pop()
            continue
        open_items[-1] -= 1
        if position >= end:
            return
        major, extra = encoded[position] >> 5, encoded[position] & 0x1F
        position += 1
        if extra < 24:
            argument = extra
        elif extra < 28:
            width = 1 << (extra - 24)
            argument = int.from_bytes(encoded[position : position + width], "big")
            position += width
        else:
            return
        if major in (_MAJOR_BYTES, _MAJOR_TEXT):
            position += argument
        elif major in (_MAJOR_LIST, _MAJOR_MAP, _MAJOR_TAG):
            if len(open_items) > DEPTH_MAX:
                raise LimitExceeded("dag_cbor_depth_max", DEPTH_MAX)
            open_items.append(argument if major == _MAJOR_LIST else 2 * argument if major == _MAJOR_MAP else 1)
