"""Which headers pass, in both directions. What is not listed does not pass.

Out: what the proxy writes itself and what a connector declares. In: what an agent can use; never cookies, locations
(they carry signed addresses) or anything about the connection.

Sources: RFC 9110 sections 5.5 and 7.6.1; RFC 6750 section 2.1 (bearer token syntax).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from nomos.catalogue.load import FORBIDDEN_HEADERS
from nomos.errors import DestinationRefused
from nomos_proxy.answer import Headers
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


def outgoing_headers(
    authority: str, bearer: Secret, body: bytes | None, declared: Headers
) -> list[tuple[bytes, bytes]]:
    """All headers of a request, in the order in which they are sent.

    Args:
        authority: value of ``Host``.
        bearer: the credential.
        body: None for a request without one.
        declared: the connector's headers and an idempotency key; lower-case names.

    Raises:
        DestinationRefused: a declared header may not be set, or the credential is not a bearer token.
    """
    if _BEARER.fullmatch(bearer.reveal()) is None:
        raise DestinationRefused("the stored credential is not a bearer token")
    headers = [(b"host", authority.encode("ascii"))]
    # an encoded body could not be searched for secrets, nor its size be known before it is decoded
    headers.append((b"accept-encoding", b"identity"))
    names = set()
    for name, value in declared:
        if name in FORBIDDEN_HEADERS or name in names or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise DestinationRefused("a request header that a connector may not set")
        names.add(name)
        headers.append((name.encode("ascii"), value.encode("ascii")))
    if body is not None:
        headers.append((b"content-type", b"application/json"))
        headers.append((b"content-length", str(len(body)).encode("ascii")))
    # last, when nothing can fail any more: a traceback that shows local variables must not find it
    headers.append((b"authorization", b"Bearer " + bearer.reveal()))
    return headers


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
