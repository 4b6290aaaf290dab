"""Reads forms: ``application/x-www-form-urlencoded``, strictly, within limits. Files are not taken.

A field occurs once; what is not UTF-8, not a field of the form, or too long is malformed. Source: URL Standard,
section 5.1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

from nomos.errors import Expired, LimitExceeded, Malformed

#: Bytes of a form as it is sent; a passkey's response takes about 2 KB.
FORM_BYTES_MAX: Final = 131_072
#: Seconds in which a form must have arrived.
FORM_SECONDS: Final = 10.0
CONTENT_TYPE: Final = "application/x-www-form-urlencoded"


async def read_form(request: Request, fields: Collection[str]) -> dict[str, str]:
    """The fields of a form; one that was not sent is empty.

    Args:
        request: its body has not been read.
        fields: the names that the form has.

    Raises:
        LimitExceeded: over :data:`FORM_BYTES_MAX`.
        Malformed: not such a form.
        Expired: it did not arrive within :data:`FORM_SECONDS`.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != CONTENT_TYPE:
        raise Malformed(f"expected a form of type {CONTENT_TYPE}")
    body = bytearray()
    try:
        async with asyncio.timeout(FORM_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > FORM_BYTES_MAX:
                    raise LimitExceeded("FORM_BYTES_MAX", FORM_BYTES_MAX)
    except TimeoutError as e:
        raise Expired(f"the form did not arrive within {FORM_SECONDS:.0f} seconds") from e
    except ClientDisconnect as e:
        raise Malformed("the form ended early") from e
    return parse_form(bytes(body), fields)


def parse_form(body: bytes, fields: Collection[str]) -> dict[str, str]:
    """The fields in ``body``; errors as :func:`read_form`."""
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            encoding="utf-8",
            errors="strict",
            max_num_fields=len(fields),
        )
    except ValueError as e:
        raise Malformed("not a form", cause=str(e)) from e
    found = dict(pairs)
    if len(found) != len(pairs) or not found.keys() <= set(fields):
        raise Malformed("the form has fields that it does not have here, or one of them twice")
    return {name: found.get(name, "") for name in fields}
