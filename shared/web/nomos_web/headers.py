"""The headers of every answer, whatever it is: what a browser may do with a page of ours.

Nothing is loaded, framed or sent anywhere but our own origin; there is no inline script and no inline style, so text
that somehow became markup still runs nothing. Pages are kept nowhere: they show what one person may see.

Sources: Content Security Policy Level 3; Fetch (``nosniff``, cross-origin policies); RFC 6797.
"""

from __future__ import annotations

from typing import Final

from starlette.responses import Response

CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
#: Seconds for which a browser keeps to https, two years; sent over https only (RFC 6797, 7.2).
STRICT_TRANSPORT_SECONDS: Final = 63_072_000
_ALWAYS: Final = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "publickey-credentials-create=(self), publickey-credentials-get=(self), camera=(), "
    "geolocation=(), microphone=(), payment=(), usb=()",
    # Not no-referrer: with that a browser says "null" where a form of ours should say its origin (Fetch, 3.2).
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


#: Of the one page that may register a worker: a worker of ours, by the one policy that its script makes.
_WITH_WORKER: Final = CONTENT_SECURITY_POLICY.replace(
    "trusted-types 'none'", "trusted-types nomos-worker; worker-src 'self'"
)


def with_worker(response: Response) -> None:
    """Lets the page of ``response`` register a service worker."""
    response.headers["content-security-policy"] = _WITH_WORKER


def security_headers(*, https: bool) -> dict[str, str]:
    """The headers of every answer. ``https`` says whether the pages are served over TLS."""
    if not https:
        return dict(_ALWAYS)
    # Not includeSubDomains: other names below this one are not ours to decide about.
    return {**_ALWAYS, "strict-transport-security": f"max-age={STRICT_TRANSPORT_SECONDS}"}
