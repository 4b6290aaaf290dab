"""Which headers pass, in both directions. What is not listed does not pass.

Out: what the proxy writes itself and what a connector declares. In: what an agent can use; never cookies, locations
(they carry signed addresses) or anything about the connection.

Sources: RFC 9110 sections 5.5 and 7.6.1; RFC 6750 section 2.1 (bearer token syntax); RFC 7617 (basic).
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterable
from typing import Final

from nomos.catalogue import Auth, OutgoingRequest
from nomos.catalogue.auth import FORBIDDEN_HEADERS
from nomos.errors import DestinationRefused
from nomos_proxy.answer import Headers
from nomos_proxy.signing import aws_signature, message_signature
from nomos_runtime.secret import Secret

#: Characters of one answer header's value that pass; a longer one is dropped.
ANSWER_VALUE_LENGTH_MAX: Final = 4_096
#: Answer headers that pass to the sanitizer and then to the agent.
ANSWER_HEADERS: Final = frozenset({
    "content-language", "content-type", "date", "deprecation", "etag", "last-modified", "link", "retry-after",
    "sunset", "x-github-request-id", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset",
    "x-ratelimit-resource", "x-ratelimit-used", "x-request-id",
})  # fmt: skip

_NAME: Final = re.compile(r"[a-z0-9-]{1,64}")
_VALUE: Final = re.compile(r"[!-~](?:[ -~]{0,1022}[!-~])?")
_BEARER: Final = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
_KEY: Final = re.compile(rb"[!-~]+")
_USER_AND_PASSWORD: Final = re.compile(rb"[!-9;-~]+:[!-~]+")


def outgoing_headers(
    authority: str, credential: Secret, auth: Auth, request: OutgoingRequest, declared: Headers
) -> list[tuple[bytes, bytes]]:
    """All headers of a request, in the order in which they are sent.

    Args:
        authority: value of ``Host``.
        credential: what ``auth`` presents.
        auth: how the connector presents it.
        request: what is sent, with the action's own headers.
        declared: the connector's headers and an idempotency key; lower-case names.

    Raises:
        DestinationRefused: a declared header, or one of the action's, may not be set; or the credential is none of its
            kind.
    """
    check_credential(auth, credential)
    headers = [(b"host", authority.encode("ascii"))]
    # an encoded body could not be searched for secrets, nor its size be known before it is decoded
    headers.append((b"accept-encoding", b"identity"))
    names = set()
    for name, value in (*declared, *request.headers):
        is_ours = name in FORBIDDEN_HEADERS or name == auth.header or name in names
        if is_ours or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise DestinationRefused("a request header that a connector may not set")
        names.add(name)
        headers.append((name.encode("ascii"), value.encode("ascii")))
    if request.body is not None:
        headers.append((b"content-type", request.content_type.encode("ascii")))
        headers.append((b"content-length", str(len(request.body)).encode("ascii")))
    elif request.method in ("POST", "PUT", "PATCH"):
        # RFC 9110 section 8.6: a method that may have content says that there is none
        headers.append((b"content-length", b"0"))
    if auth.kind == "signature":
        return headers + message_signature(authority, request, credential, int(time.time()))
    if auth.kind == "aws4":
        return headers + aws_signature(authority, auth, request, credential, headers)
    # last, when nothing can fail any more: a traceback that shows local variables must not find it
    headers.append((auth.header.encode("ascii"), auth.prefix.encode("ascii") + _presented(auth, credential)))
    return headers


def check_credential(auth: Auth, credential: Secret) -> None:
    """Refuses a credential that could not stand in its header, or would stand there for something else.

    Raises:
        DestinationRefused: not a bearer token, not ``user:password`` or ``key id:secret``, or not printable ASCII
            without spaces.
    """
    if auth.kind != "header":
        words = "user:password" if auth.kind == "basic" else "key id:secret"
        is_of_kind, what = _USER_AND_PASSWORD.fullmatch(credential.reveal()), words
    elif auth.prefix == "Bearer ":
        is_of_kind, what = _BEARER.fullmatch(credential.reveal()), "a bearer token"
    else:
        is_of_kind, what = _KEY.fullmatch(credential.reveal()), "a key of printable ASCII characters without spaces"
    if is_of_kind is None:
        raise DestinationRefused(f"the stored credential is not {what}")


def _presented(auth: Auth, credential: Secret) -> bytes:
    return base64.b64encode(credential.reveal()) if auth.kind == "basic" else credential.reveal()


def passing_headers(received: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The answer's headers that pass, sorted. Repeated ones are joined (RFC 9110 section 5.3)."""
    passing: dict[str, str] = {}
    for raw_name, raw_value in received:
        name = raw_name.decode("latin-1").lower()
        value = raw_value.decode("latin-1")
        if name not in ANSWER_HEADERS or not value.isascii() or not value.isprintable():
            continue
        joined = f"{passing[name]}, {value}" if name in passing else value
        if len(joined) <= ANSWER_VALUE_LENGTH_MAX:
            passing[name] = joined
    return tuple(sorted(passing.items()))
