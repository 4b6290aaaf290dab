"""Contents: bytes that are sent to an upstream and are too long, or no text, to be an argument.

An argument of the type ``content`` names the bytes: their SHA-256, how many, and their media type. That is what is
decided, signed, approved and recorded, so it stands for exactly these bytes. The bytes themselves go from the agent to
the proxy in pieces, and take the argument's place in the request there, after they were compared to what was named.

Pure. Source of a media type's spelling: RFC 9110 section 8.3.1, without parameters but the charset UTF-8.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from nomos.errors import Malformed, NotCovered

#: Largest content, bytes. The proxy holds one in memory until it is sent.
CONTENT_BYTES_MAX: Final = 8_388_608
#: The media type of bytes of which nothing else is known.
BYTES: Final = "application/octet-stream"

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_MEDIA_TYPE: Final = re.compile(r"[a-z]{1,20}/[a-z0-9][a-z0-9.+-]{0,90}(?:; charset=utf-8)?")


class Content(Struct, frozen=True, kw_only=True):
    """Bytes, by what names them.

    Attributes:
        sha256: their SHA-256, lower-case hexadecimal.
        size: how many.
        media_type: what they are; sent as the content type where they are the whole body.
    """

    sha256: str
    size: int
    media_type: str

    @property
    def arg(self) -> dict[str, object]:
        """The argument that names them."""
        return {"sha256": self.sha256, "bytes": self.size, "type": self.media_type}

    def check(self, data: bytes) -> None:
        """Checks that ``data`` is what is named.

        Raises:
            NotCovered: it is something else.
        """
        if len(data) != self.size or hashlib.sha256(data).hexdigest() != self.sha256:
            raise NotCovered("these are not the bytes that were decided on")


def named_by(value: object) -> Content:
    """The content that an argument names.

    Raises:
        Malformed: it names none.
    """
    if not isinstance(value, Mapping) or set(value) != {"sha256", "bytes", "type"}:
        raise Malformed("a content is named by sha256, bytes and type")
    sha256, size, media_type = value["sha256"], value["bytes"], value["type"]
    if not isinstance(sha256, str) or _SHA256.fullmatch(sha256) is None:
        raise Malformed("sha256 of a content is 64 lower-case hexadecimal digits")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise Malformed("bytes of a content is a number")
    if not isinstance(media_type, str) or _MEDIA_TYPE.fullmatch(media_type) is None:
        raise Malformed("type of a content is a media type in lower case, with no parameter but charset=utf-8")
    return Content(sha256=sha256, size=size, media_type=media_type)
