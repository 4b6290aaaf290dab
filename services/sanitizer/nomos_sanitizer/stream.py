"""A body that is sanitized while it arrives, chunk by chunk, with bounded memory.

Decides which bodies can be: plain text and HTML, through a window (:mod:`nomos_sanitizer.window`), and lines of JSON or
events, where each line of JSON is a document of its own and is cleaned when its end has come. Lines that are not JSON
go through the window together; at an empty line, where an event ends, what holds no finding passes at once. Whole
events on which nothing fires at all pass as they are, without a look at each line.

Cannot be: a JSON document (a member's name decides about a value, and the whole is written anew), another encoding of
characters than UTF-8, text without white space. They are refused; collect such a body and use
:class:`nomos_sanitizer.domain.Sanitizer`. Within what can be, the output is that of the whole body at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nomos.errors import ResponseRefused
from nomos_sanitizer import bodies, plain, tree
from nomos_sanitizer.bodies import Places
from nomos_sanitizer.budget import Budget
from nomos_sanitizer.credentials import Needles
from nomos_sanitizer.injections import Injections
from nomos_sanitizer.limits import PASSES_MAX, STREAM_LINE_BYTES_MAX
from nomos_sanitizer.matching import Matcher
from nomos_sanitizer.media import UTF_8, parse_media_type
from nomos_sanitizer.report import Report, tally
from nomos_sanitizer.scrub import PLAIN, Options, Scrubber
from nomos_sanitizer.window import TextWindow

_BOM: Final = b"\xef\xbb\xbf"
_BLANK: Final = b" \t\r\n"
_JSON_STARTS: Final = b'{["'
_FEED: Final = 0x0A
_EVENT_END: Final = b"\n\n"
_EVENT_END_CRLF: Final = b"\n\r\n"


class Stream:
    """One body on its way through.

    Args:
        matcher: the compiled rules.
        injections: the compiled markers.
        content_type: value of the Content-Type field.
        credentials: as for the whole body.
        options: as for the whole body.

    Raises:
        ResponseRefused: a body of this type cannot be sanitized in pieces.
    """

    def __init__(
        self,
        matcher: Matcher,
        injections: Injections,
        *,
        content_type: str,
        credentials: Sequence[bytes] = (),
        options: Options = PLAIN,
    ) -> None:
        self._media = parse_media_type(content_type)
        if self._media.codec != UTF_8:
            raise ResponseRefused("only UTF-8 can be sanitized in pieces")
        if self._media.is_json and not self._media.is_lines:
            raise ResponseRefused("a JSON document cannot be sanitized in pieces")
        self._matcher = matcher
        self._injections = injections
        self._needles = Needles(credentials)
        self._options = options
        self._window = TextWindow(matcher, self._needles, options)
        #: Bytes whose line, or whose first visible character, has not come yet.
        self._pending = b""
        self._is_begun = False
        self._line = 0
        self._first_plain = 1
        self._places: Places = []
        self._noted: Places = []

    def feed(self, chunk: bytes) -> bytes:
        """Takes the next bytes and gives back what may leave.

        Raises:
            ResponseRefused: it cannot be made safe, or not in pieces; nothing more may be fed.
        """
        self._pending += chunk
        if not self._is_begun and not self._begin():
            return b""
        if self._media.is_lines:
            return self._lines()
        text, self._pending = self._pending, b""
        return self._note(self._window.feed(text))

    def finish(self) -> bytes:
        """The rest of the body.

        Raises:
            ResponseRefused: as :meth:`feed`.
        """
        out = []
        if self._media.is_lines and self._pending:
            line, self._pending = self._pending, b""
            out.append(self._one_line(line))
        elif self._pending:
            text, self._pending = self._pending, b""
            out.append(self._note(self._window.feed(text)))
        out.append(self._end_plain())
        return b"".join(out)

    @property
    def is_lines(self) -> bool:
        """Whether it is read line by line."""
        return self._media.is_lines

    @property
    def held_bytes(self) -> int:
        """What has come and is kept: a line whose end has not, and the window."""
        return len(self._pending) + self._window.held_bytes

    @property
    def report(self) -> Report:
        """What was found so far; whole after :meth:`finish`."""
        return tally(self._places, self._noted)

    def _begin(self) -> bool:
        """Looks at the first visible character; False while it has not come."""
        if len(self._pending) < len(_BOM) and _BOM.startswith(self._pending):
            return False
        visible = self._pending.removeprefix(_BOM).lstrip(_BLANK)
        if self._media.is_lines or visible:
            self._pending = self._pending.removeprefix(_BOM)
            self._is_begun = True
            if not self._media.is_lines and visible[0] in _JSON_STARTS:
                raise ResponseRefused("what may be a JSON document cannot be sanitized in pieces")
        elif len(self._pending) > STREAM_LINE_BYTES_MAX:
            raise ResponseRefused(f"text begins with more than {STREAM_LINE_BYTES_MAX} bytes of white space")
        return self._is_begun

    def _lines(self) -> bytes:
        text = self._pending
        at = self._quiet_events(text)
        out = [text[:at]]
        while (end := _line_end(text, at)) > 0:
            out.append(self._one_line(text[at:end]))
            at = end
        self._pending = text[at:]
        if len(self._pending) > STREAM_LINE_BYTES_MAX:
            raise ResponseRefused(f"a line is over {STREAM_LINE_BYTES_MAX} bytes")
        return b"".join(out)

    def _quiet_events(self, text: bytes) -> int:
        """Where whole events end that may leave as they are; 0 where something fires on them, or lines are held back.

        What lies between two empty lines is searched together, as a window would; no line of it can be a document that
        is changed, for then a gate would have fired.
        """
        end = max(text.rfind(_EVENT_END), text.rfind(_EVENT_END_CRLF) + 1) + len(_EVENT_END)
        if end <= len(_EVENT_END) or not self._window.is_empty:
            return 0
        events = text[:end]
        ends = events.count(b"\n")
        scrubber = Scrubber(self._matcher, self._needles, Budget(end), self._options)
        if (
            events.count(b"\r") != events.count(b"\r\n")
            or self._injections.may_fire(events)
            or not plain.are_clean_lines(events, scrubber)
        ):
            return 0
        self._line += ends
        return end

    def _one_line(self, line: bytes) -> bytes:
        self._line += 1
        document = self._json_line(line)
        if document is not None:
            return self._end_plain() + document
        if self._window.is_empty:
            self._first_plain = self._line
        out = self._window.feed(line)
        if not line.strip(_BLANK):
            out += self._window.flush_quiet()
        return self._note(out)

    def _json_line(self, line: bytes) -> bytes | None:
        """A line of JSON, cleaned; None if it is none."""
        text = bodies.read(line, self._media)
        for number in range(PASSES_MAX):
            prefix, value, end = bodies.split_line(text)
            if value is None:
                if number:
                    raise ResponseRefused("a line of JSON does not settle")
                return None
            scrubber = Scrubber(self._matcher, self._needles, Budget(len(line)), self._options)
            if not number and plain.is_clean_line(line, scrubber):
                text = line.decode()
                break
            rendered, found = tree.render(value, scrubber)
            text = prefix + rendered + end
            if not found:
                break
            self._places += [(f"line:{self._line}{pointer}", one) for pointer, one in found]
        else:
            raise ResponseRefused("a line still holds secrets after the last pass")
        cleaned = text.encode()
        if self._needles.remain(cleaned):
            raise ResponseRefused("a line holds the credential in a place that cannot be redacted")
        if self._injections.may_fire(cleaned):
            _, value, _ = bodies.split_line(text)
            if value is not None:
                where = f"line:{self._line}"
                self._noted += [(where + pointer, one) for pointer, one in self._injections.in_json(value)]
        return cleaned

    def _end_plain(self) -> bytes:
        return self._note(self._window.finish())

    def _note(self, leaving: bytes) -> bytes:
        where = f"line:{self._first_plain}" if self._media.is_lines else "text"
        self._places += [(where, found) for found in self._window.found]
        self._window.found.clear()
        if leaving and self._injections.may_fire(leaving):
            self._noted += [(where, found) for found in self._injections.in_text(leaving.decode())]
        return leaving


def _line_end(text: bytes, at: int) -> int:
    """The place behind the end of the line that begins at ``at``; 0 while it has not come."""
    feed, carriage = text.find(b"\n", at), text.find(b"\r", at)
    if carriage < 0 or 0 <= feed < carriage:
        return feed + 1
    if carriage == len(text) - 1:
        return 0  # It may be the first half of an end.
    return carriage + (2 if text[carriage + 1] == _FEED else 1)
