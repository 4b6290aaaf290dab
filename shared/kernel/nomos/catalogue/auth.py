"""How a credential is presented, as a connector's file or an operator says it.

bearer                      Authorization: Bearer <credential>              (RFC 6750)
basic                       Authorization: Basic <user:password, base64>    (RFC 7617)
header:x-api-key            a key in a header of its own
header:authorization:Token  the same, after a word
signature                   the request is signed, hmac-sha256              (RFC 9421)
aws4:s3                     the request is signed for a service of AWS      (Signature Version 4)

What is not HTTP has one way each, which nobody chooses: a private key for SSH, nothing for files.
"""

from __future__ import annotations

import re
from typing import Final

from nomos.catalogue.model import Auth
from nomos.errors import MalformedCatalogue

#: Headers that the proxy writes itself, or that would change how the request is framed or routed.
FORBIDDEN_HEADERS: Final = frozenset({
    "accept-encoding", "authorization", "connection", "content-digest", "content-length", "content-type", "cookie",
    "expect", "forwarded", "host", "keep-alive", "proxy-authorization", "proxy-connection", "signature",
    "signature-input", "te", "trailer", "transfer-encoding", "upgrade", "via", "x-amz-content-sha256", "x-amz-date",
    "x-amz-security-token", "x-forwarded-for", "x-forwarded-host", "x-http-method-override", "x-method-override",
    "x-original-url", "x-rewrite-url",
})  # fmt: skip
HEADER_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,63}")
_PREFIX: Final = re.compile(r"(?:[A-Za-z0-9_-]{1,32} )?")
_SERVICE: Final = re.compile(r"[a-z][a-z0-9-]{1,39}")
BEARER: Final = Auth()
BASIC: Final = Auth(kind="basic", prefix="Basic ")
KEY: Final = Auth(kind="key", header="", prefix="")
NONE: Final = Auth(kind="none", header="", prefix="")


def header_auth(header: str, prefix: str) -> Auth:
    """A credential in a header.

    Args:
        header: lower-case name.
        prefix: one word and a space, or nothing.

    Raises:
        MalformedCatalogue: it may not stand there, or the prefix is none.
    """
    is_own = header == "authorization" or header not in FORBIDDEN_HEADERS
    if HEADER_NAME.fullmatch(header) is None or not is_own:
        raise MalformedCatalogue(f"the credential may not stand in the header {header!a}")
    if _PREFIX.fullmatch(prefix) is None:
        raise MalformedCatalogue("the prefix of a credential is one word and a space, or nothing")
    return Auth(header=header, prefix=prefix)


def aws_auth(service: str) -> Auth:
    """A signature for a service of AWS.

    Raises:
        MalformedCatalogue: no name of a service.
    """
    if _SERVICE.fullmatch(service) is None:
        raise MalformedCatalogue("a service of AWS is named in lower case, such as s3")
    return Auth(kind="aws4", prefix="", service=service)


def parse_auth(text: str) -> Auth:
    """Reads what an operator says.

    Raises:
        MalformedCatalogue: none of the above.
    """
    kind, _, rest = text.partition(":")
    if text == "bearer":
        return BEARER
    if text == "basic":
        return BASIC
    if text == "signature":
        return Auth(kind="signature", header="signature", prefix="")
    if kind == "aws4":
        return aws_auth(rest)
    if kind == "header":
        header, _, word = rest.partition(":")
        return header_auth(header, f"{word} " if word else "")
    raise MalformedCatalogue("expected bearer, basic, signature, header:NAME, header:NAME:WORD or aws4:SERVICE")


def auth_text(auth: Auth) -> str:
    """What :func:`parse_auth` reads as ``auth``."""
    if auth.kind == "header" and auth != BEARER:
        return f"header:{auth.header}" + (f":{auth.prefix.rstrip()}" if auth.prefix else "")
    return {"header": "bearer", "aws4": f"aws4:{auth.service}"}.get(auth.kind, auth.kind)
