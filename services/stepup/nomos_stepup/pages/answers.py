"""What ``passkey.js`` put into a form, as JSON values. Parsed for real where it is verified."""

from __future__ import annotations

import msgspec

from nomos.errors import LimitExceeded, Malformed
from nomos_stepup.responses import RESPONSE_BYTES_MAX


def passkey_answer(text: str) -> dict[str, object]:
    """The answer of an authenticator.

    Raises:
        Malformed: nothing, or no JSON object.
        LimitExceeded: over ``RESPONSE_BYTES_MAX``.
    """
    if not text:
        raise Malformed("the form holds no answer of a passkey", hint="passkeys need JavaScript in the browser")
    if len(text) > RESPONSE_BYTES_MAX:
        raise LimitExceeded("RESPONSE_BYTES_MAX", RESPONSE_BYTES_MAX, len(text))
    try:
        return msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as e:
        raise Malformed("the passkey's answer is not JSON", cause=str(e)) from e
