"""Media types: in which characters a body is written, and whether it is one JSON text or lines of them."""

from __future__ import annotations

from typing import Final

import msgspec

from nomos.errors import ResponseRefused

UTF_8: Final = "utf-8"
_CHARSETS: Final = {
    "": UTF_8,
    "utf-8": UTF_8,
    "utf8": UTF_8,
    "us-ascii": UTF_8,  # a subset; servers that say it and send UTF-8 are common
    "ascii": UTF_8,
    "iso-8859-1": "latin-1",
    "latin1": "latin-1",
    "windows-1252": "cp1252",
}
#: AWS's JSON services answer in these.
_JSON: Final = frozenset({"application/json", "application/x-amz-json-1.0", "application/x-amz-json-1.1"})
_LINES: Final = frozenset({"application/x-ndjson", "application/jsonl", "application/json-seq", "text/event-stream"})


class MediaType(msgspec.Struct, frozen=True, kw_only=True):
    """A content type that this service can read: its essence in lower case and a Python codec."""

    essence: str
    codec: str

    @property
    def is_lines(self) -> bool:
        """Whether each line is a JSON text of its own."""
        return self.essence in _LINES

    @property
    def is_json(self) -> bool:
        """Whether the header says JSON."""
        return self.essence in _JSON or self.essence.endswith("+json")


def parse_media_type(content_type: str) -> MediaType:
    """Reads a Content-Type value (RFC 9110 section 8.3).

    Raises:
        ResponseRefused: a character encoding that is not read here.
    """
    essence, *parameters = content_type.split(";")
    charset = ""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            charset = value.strip().strip('"').lower()
    codec = _CHARSETS.get(charset)
    if codec is None:
        raise ResponseRefused("answer is in a character encoding that is not read here")
    return MediaType(essence=essence.strip().lower(), codec=codec)
