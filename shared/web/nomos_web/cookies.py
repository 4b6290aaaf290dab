"""Cookies of a site: ``__Host-``, so that only this host over a secure connection sets them; no script; same site.

Browsers take ``http://localhost`` for secure here. Source: RFC 6265bis, 4.1.3.2 and 5.6.
"""

from __future__ import annotations

from typing import Final, Literal

from starlette.requests import Request
from starlette.responses import Response

PREFIX: Final = "__Host-"


def set_cookie(
    response: Response,
    name: str,
    value: str,
    *,
    seconds: int | None = None,
    samesite: Literal["strict", "lax"] = "strict",
) -> None:
    """Sets a cookie for ``seconds``, or until the browser ends where None.

    ``lax`` is for what must be there when another site of ours sends the browser back, and allows nothing by itself.
    """
    response.set_cookie(PREFIX + name, value, max_age=seconds, path="/", secure=True, httponly=True, samesite=samesite)


def clear_cookie(response: Response, name: str) -> None:
    """Takes a cookie back."""
    response.delete_cookie(PREFIX + name, path="/", secure=True, httponly=True, samesite="strict")


def cookie(request: Request, name: str) -> str:
    """The cookie's value, or empty."""
    return request.cookies.get(PREFIX + name, "")
