"""What came back from an upstream: a complete answer, or one that is not passed on. Values only."""

from __future__ import annotations

from msgspec import Struct

from nomos.errors import ResponseRefused

#: Names and values of headers; names in lower case.
Headers = tuple[tuple[str, str], ...]


class AnswerHead(Struct, frozen=True, kw_only=True):
    """What comes before the body of an answer."""

    status: int
    headers: Headers


class UpstreamResponse(Struct, frozen=True, kw_only=True):
    """A complete answer. Its body has not been sanitized."""

    status: int
    headers: Headers
    body: bytes


class AnswerRefused(ResponseRefused):
    """An answer whose head arrived and whose body will not be passed on. The request took the effect of its status."""

    def __init__(self, detail: str, status: int) -> None:
        super().__init__(detail)
        self.status = status
