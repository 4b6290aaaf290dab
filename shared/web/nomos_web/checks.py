"""What a request must be before a page looks at it: for this host, and where it changes something, from a page of ours.

Rules: exactly one ``Host`` header, of one of our origins (else a name that points here by somebody else's DNS would be
served). A form is taken only with an ``Origin`` that is exactly one of ours and, where the browser sends it, with
``Sec-Fetch-Site: same-origin``. Every browser that knows passkeys sends ``Origin`` with a POST, so its absence refuses.
The token of the form (``csrf.py``) is checked besides: either alone would do.

Source: Fetch metadata request headers; RFC 9110, 7.2; RFC 6454, 7.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from nomos.errors import NotPermitted


class WrongHost(NotPermitted):
    """The request was sent to another name than those that this site has."""

    code = "wrong_host"


class CrossOrigin(NotPermitted):
    """The form was not sent by a page of this site."""

    code = "cross_origin"


def host_of(origin: str) -> str:
    """The ``Host`` header that a browser sends to ``origin``."""
    return urlsplit(origin).netloc


def check_host(headers: Headers, hosts: Collection[str]) -> None:
    """Checks the ``Host`` header.

    Raises:
        WrongHost: none, several, or one that is not in ``hosts``.
    """
    named = headers.getlist("host")
    if len(named) != 1 or named[0].lower() not in hosts:
        raise WrongHost("this name is not served here")


def check_same_origin(headers: Headers, origins: Collection[str]) -> None:
    """Checks that a page of ours sent a form.

    Raises:
        CrossOrigin: another origin did, or nobody says which.
    """
    named = headers.getlist("origin")
    if len(named) != 1 or named[0] not in origins:
        raise CrossOrigin("the form was not sent by a page of this site")
    if any(site != "same-origin" for site in headers.getlist("sec-fetch-site")):
        raise CrossOrigin("the form was sent by a page of another site")
