"""Tokens of forms: a form works only in the browser that it was made for, and at the one place that it was made for.

    token = base64url(HMAC-SHA256(secret, "nomos-form-v1" ‖ 0x00 ‖ path))

``secret`` is a cookie that no script can read, so whoever can't read our pages can't know a token. Nothing is stored.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final

from nomos_web.checks import CrossOrigin

FIELD: Final = "token"
SECRET_BYTES: Final = 32
_TAG: Final = b"nomos-form-v1\0"


def form_token(secret: bytes, path: str) -> str:
    """The token of the form that is sent to ``path`` by the holder of ``secret`` (:data:`SECRET_BYTES` bytes)."""
    octets = hmac.digest(secret, _TAG + path.encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")


def check_token(given: str, secret: bytes, path: str) -> None:
    """Checks the token of a form.

    Raises:
        CrossOrigin: it is none, or one of another form or browser.
    """
    if not hmac.compare_digest(given.encode(), form_token(secret, path).encode()):
        raise CrossOrigin("the form is not one that this site gave to this browser", hint="reload the page")
