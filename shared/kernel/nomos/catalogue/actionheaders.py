"""Headers that every request of one action carries, and media types of its body: the shapes that a file may give them.

Some providers tell one action from another by a header alone (AWS's JSON services by ``x-amz-target``), or by the
version that a header names. Such a header is a constant of the catalogue, and no argument reaches it. Names are a
closed list of shapes and not a list of what is forbidden: a header that moves a request, frames it, names another
object or presents somebody has none of them, and the proxy's own, the signer's and the credential's are refused
besides.

Pure. Sources: RFC 9110 sections 5 and 12.5, RFC 6838 section 4.2; AWS JSON 1.0 and 1.1 protocols.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

from nomos.catalogue.auth import FORBIDDEN_HEADERS
from nomos.errors import LimitExceeded, MalformedCatalogue

#: Headers of one action.
ACTION_HEADERS_MAX: Final = 4
#: Those that choose among forms of one answer. Two actions that differ in them alone do the same thing.
NEGOTIATED: Final = frozenset({"accept", "accept-language", "prefer"})
#: A name, as a regular expression of JSON Schema too.
NAME: Final = r"accept|accept-language|prefer|(?:[a-z][a-z0-9]{0,19}-){1,4}(?:action|beta|operation|target|version)"
VALUE: Final = r"[A-Za-z0-9](?:[A-Za-z0-9 .,;:=/+*_-]{0,126}[A-Za-z0-9*])?"
#: Media types of a JSON body that are not the plain one.
MEDIA_TYPE: Final = r"application/(?:[a-z0-9][a-z0-9.-]{0,60}\+json|x-amz-json-1\.[01])"
#: What AWS's signer writes begins so; one name is not its own.
_SIGNERS: Final = "x-amz-"
_TARGET: Final = "x-amz-target"
_HOPS: Final = ("proxy-", "sec-")


def check_action_headers(
    what: str, headers: Mapping[str, str], *, taken: Collection[str]
) -> tuple[tuple[str, str], ...]:
    """The headers of an action, sorted by name.

    Args:
        what: which action, for the error.
        headers: names to values, as the file has them.
        taken: names that the connector's headers, its credential and the action's idempotency key have already.

    Raises:
        MalformedCatalogue: a name or value has none of the shapes, or is somebody else's.
        LimitExceeded: more than ``ACTION_HEADERS_MAX``.
    """
    if len(headers) > ACTION_HEADERS_MAX:
        raise LimitExceeded(f"action_headers_max of {what}", ACTION_HEADERS_MAX, len(headers))
    for name, value in headers.items():
        is_signers = name.startswith(_SIGNERS) and name != _TARGET
        if name.lower() in FORBIDDEN_HEADERS or is_signers or name.startswith(_HOPS):
            raise MalformedCatalogue(f"{what}: the header {name!a} is written by the proxy itself, or by nobody")
        if re.fullmatch(NAME, name, re.ASCII) is None:
            raise MalformedCatalogue(
                f"{what}: the header {name!a} is none that an action may fix: accept, accept-language, prefer, or one "
                "in lower case that ends with -target, -operation, -action, -version or -beta"
            )
        if name in taken:
            raise MalformedCatalogue(f"{what}: the header {name!a} is the connector's, or holds a key, and stands once")
        if re.fullmatch(VALUE, value, re.ASCII) is None:
            raise MalformedCatalogue(
                f"{what}: the header {name!a} is 1 to 128 letters, digits and . , ; : = / + * _ - with spaces inside"
            )
    return tuple(sorted(headers.items()))


def check_media_type(what: str, media_type: str, *, is_json: bool) -> str:
    """The media type of an action's body; empty for that of its format.

    Raises:
        MalformedCatalogue: it is none of JSON, or the body is not JSON.
    """
    if media_type and (not is_json or re.fullmatch(MEDIA_TYPE, media_type, re.ASCII) is None):
        raise MalformedCatalogue(
            f"{what}: content_type is application/<name>+json or application/x-amz-json-1.0 or -1.1, of a JSON body"
        )
    return media_type
