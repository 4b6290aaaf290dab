"""Bodies by media type: how bytes become text, which text is JSON, which is lines of JSON, and which is just text.

Refuses what cannot be read in the encoding of its characters. Everything that looks like JSON is tried as JSON,
whatever the header says; JSON that does not parse is searched as text, with its escapes decoded.
"""

from __future__ import annotations

from typing import Final

import re2

from nomos.errors import ResponseRefused
from nomos_sanitizer import plain, structure, tree
from nomos_sanitizer.edits import Found
from nomos_sanitizer.injections import Injections
from nomos_sanitizer.media import UTF_8, MediaType
from nomos_sanitizer.scrub import Scrubber

_EVENT_FIELD: Final = "data:"
_BOM: Final = "\ufeff"
_RECORD_SEPARATOR: Final = "\x1e"  # RFC 7464 section 2.2
_LINE: Final = re2.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_JSON_STARTS: Final = ("{", "[", '"')

Places = list[tuple[str, Found]]


def read(body: bytes, media: MediaType) -> str:
    """Decodes a body; a byte order mark at its beginning is dropped.

    Raises:
        ResponseRefused: the bytes are not text in the encoding that the header says. Binary answers end here.
    """
    try:
        return body.decode(media.codec).removeprefix(_BOM)
    except UnicodeDecodeError as error:
        raise ResponseRefused("answer is not text in the encoding that it claims") from error


def write(text: str, media: MediaType) -> bytes:
    """Encodes a text in the encoding of its media type. Only ASCII was added to it, so that it can be."""
    return text.encode(media.codec)


def clean(text: str, media: MediaType, scrubber: Scrubber) -> tuple[str, Places]:
    """One pass over a body.

    Returns:
        The text after the pass and what was removed where.

    Raises:
        ResponseRefused: a limit of the pass is exceeded.
    """
    if media.is_lines:
        return _clean_lines(text, media, scrubber)
    return _clean_document(text, media, scrubber, "")


def _clean_document(text: str, media: MediaType, scrubber: Scrubber, where: str) -> tuple[str, Places]:
    if media.is_json or text.lstrip(" \t\r\n").startswith(_JSON_STARTS[:2]):
        try:
            value = structure.parse(text)
        except structure.NotJson:
            pass
        else:
            rendered, places = tree.render(value, scrubber)
            if media.codec != UTF_8:
                rendered = structure.ascii_only(rendered)
            return rendered, [(where + pointer, found) for pointer, found in places]
    cleaned, removed = scrubber.text(text)
    return cleaned, [(where or "text", found) for found in removed]


def _clean_lines(text: str, media: MediaType, scrubber: Scrubber) -> tuple[str, Places]:
    out: list[str] = []
    places: Places = []
    others: list[str] = []
    first_other = 0

    def flush() -> None:
        # Lines that are not JSON are searched together: a key in armour spans many.
        if others:
            cleaned, found = _clean_document("".join(others), _PLAIN, scrubber, f"line:{first_other}")
            out.append(cleaned)
            places.extend(found)
            others.clear()

    for number, line in enumerate(_split(text), 1):
        prefix, value, end = split_line(line)
        if value is None:
            first_other = first_other if others else number
            others.append(line)
            continue
        flush()
        if media.codec == UTF_8 and plain.is_clean_line(line.encode("utf-8", "surrogatepass"), scrubber):
            out.append(line)
            continue
        rendered, found = tree.render(value, scrubber)
        if media.codec != UTF_8:
            rendered = structure.ascii_only(rendered)
        out.append(prefix + rendered + end)
        places.extend((f"line:{number}{pointer}", one) for pointer, one in found)
    flush()
    return "".join(out), places


def split_line(line: str) -> tuple[str, structure.Json, str]:
    """What stands before the JSON text of a line, the value, and the line's end; no value if it is not JSON."""
    body = line.rstrip("\r\n")
    start = 0
    if body.startswith(_EVENT_FIELD):
        start = len(_EVENT_FIELD) + body.startswith(_EVENT_FIELD + " ")
    elif body.startswith(_RECORD_SEPARATOR):
        start = 1
    value_text = body[start:]
    try:
        value = structure.parse(value_text) if value_text.startswith(_JSON_STARTS) else None
    except structure.NotJson:
        value = None
    return body[:start], value, line[len(body) :]


def _split(text: str) -> list[str]:
    """The lines of a text with their ends: CR, LF or both. Other breaks may stand inside a JSON string."""
    return list(_LINE.findall(text))


def note(text: str, media: MediaType, injections: Injections) -> Places:
    """What is noted in a body that has been cleaned, with its places."""
    if not media.is_lines:
        return _note_document(text, injections, "")
    places: Places = []
    for number, line in enumerate(_split(text), 1):
        body = line.removeprefix(_EVENT_FIELD).strip(" \r\n" + _RECORD_SEPARATOR)
        places += _note_document(body, injections, f"line:{number}")
    return places


def _note_document(text: str, injections: Injections, where: str) -> Places:
    if text.lstrip(" \t\r\n").startswith(_JSON_STARTS):
        try:
            value = structure.parse(text)
        except structure.NotJson:
            pass
        else:
            return [(where + place, found) for place, found in injections.in_json(value)]
    return [(where or "text", found) for found in injections.in_text(text)]


_PLAIN: Final = MediaType(essence="text/plain", codec=UTF_8)
