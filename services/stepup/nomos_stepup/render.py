"""What the human sees before signing: text made from the stored request, and from nothing else.

The same stored bytes give the challenge (``challenge.py``) and these lines, so nobody can be shown one request and sign
another. Every character that a screen would hide or use to reorder others is written out as ``⟨U+202E⟩``; the brackets
themselves are written out too, so no content can imitate such a mark. A page may lay the lines out, but may add nothing
to them; it must offer refusal as readily as approval and preselect neither.

Sources: Unicode 15 general categories and Default_Ignorable_Code_Point; UTS 55 (source code handling), for bidi.
"""

from __future__ import annotations

import unicodedata
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import msgspec
import orjson

from nomos.contents import Content, named_by
from nomos.errors import Malformed, MalformedRecord
from nomos.servicemessages import Quorum
from nomos_stepup.challenge import ApprovalRequest, text_sha256

#: Marks on one letter, at most; more is used to paint over neighbours.
COMBINING_RUN_MAX: Final = 3

_RISK: Final = {
    "read": "reads only",
    "write": "changes something",
    "destructive": "destroys something, perhaps for good",
    "payment": "moves money",
    "permission": "changes who may do what",
}
#: Controls, formats, surrogates, private use, unassigned, line and paragraph separators.
_HIDDEN_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
#: Default-ignorable or blank characters of visible categories: joiner, fillers, variation selectors, blank Braille.
_HIDDEN_RANGES: Final = (
    (0x034F, 0x034F),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x2800, 0x2800),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFFA0, 0xFFA0),
    (0x1D159, 0x1D159),
    (0xE0000, 0xE0FFF),
)
_BRACKETS: Final = "⟨⟩"
_RIGHT_TO_LEFT: Final = frozenset({"R", "AL", "AN"})


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One labelled line; ``text`` is clean and has no line break."""

    label: str
    text: str


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown for one request.

    Attributes:
        title: one sentence that names agent, action and resource.
        lines: who, on whose behalf, what, why, until when.
        args: the arguments as they will be sent, clean; line breaks are structure.
        notes: warnings about the text itself.
    """

    title: str
    lines: tuple[Line, ...]
    args: str
    notes: tuple[str, ...]

    @property
    def text(self) -> str:
        """All of it as plain text, for a terminal and for comparison."""
        width = max(len(line.label) for line in self.lines)
        body = "\n".join(f"{line.label:<{width}}  {line.text}" for line in self.lines)
        arguments = "\n".join(f"  {line}" for line in self.args.split("\n"))
        notes = "".join(f"\nNote: {note}" for note in self.notes)
        return f"{self.title}\n\n{body}\n\nArguments, as they will be sent:\n{arguments}\n{notes}"


def render(request: ApprovalRequest, args_text: str) -> Shown:
    """Renders a stored request.

    Args:
        request: as stored; what the challenge binds.
        args_text: the stored text of the arguments.

    Raises:
        MalformedRecord: the text is not the one that the request binds; nothing may be shown then.
    """
    if text_sha256(args_text) != request.args_text_sha256:
        raise MalformedRecord("the stored arguments are not those that the request binds")
    asks = f"agent {request.agent} of app {request.app}"
    behalf = f"tenant {request.tenant}" + (f", {request.behalf}" if request.behalf is not None else "")
    lines = [
        Line(label="Who asks", text=asks),
        Line(label="On behalf of", text=behalf),
        Line(label="Action", text=f"{clean(request.action)} ({_RISK[request.risk]})"),
        Line(label="Resource", text=clean(request.resource)),
        Line(label="Connection", text=request.connection),
        *(_why(policy.id, policy.description) for policy in request.policies),
    ]
    if request.needed > 1 or request.quorums:
        lines += [Line(label="Approvals", text=_quorum(one)) for one in request.asked_of]
    lines.append(Line(label="Asked at", text=_time(request.asked_at)))
    lines.append(Line(label="Valid until", text=_time(request.expires_at)))
    lines.append(Line(label="Approval", text=request.approval))
    title = f"{request.agent} wants to run {clean(request.action)} on {clean(request.resource)}"
    shown = Shown(
        title=title, lines=tuple(lines), args="\n".join(clean(line) for line in args_text.split("\n")), notes=()
    )
    return msgspec.structs.replace(shown, notes=_notes(request, args_text))


def clean(text: str) -> str:
    """``text`` as one line in which every character shows.

    Hidden characters, line breaks, spaces other than U+0020, brackets ``⟨⟩`` and combining marks after the third on one
    letter become ``⟨U+XXXX⟩``. Different texts stay different.
    """
    written: list[str] = []
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        is_escaped = marks > COMBINING_RUN_MAX or character in _BRACKETS or is_hidden(character)
        written.append(f"⟨U+{ord(character):04X}⟩" if is_escaped else character)
    return "".join(written)


def is_hidden(character: str) -> bool:
    """Whether ``character`` shows nothing of its own, or changes how others show."""
    if " " <= character <= "~":
        return False
    category = unicodedata.category(character)
    if category in _HIDDEN_CATEGORIES or category == "Zs":
        return True
    return any(first <= ord(character) <= last for first, last in _HIDDEN_RANGES)


def _why(policy: str, description: str) -> Line:
    sentence = f": {clean(description)}" if description else ""
    return Line(label="Why", text=f"policy {clean(policy)}{sentence}")


def _quorum(quorum: Quorum) -> str:
    people = "one person" if quorum.approvals == 1 else f"{quorum.approvals} different people"
    return f"{people}{f' of the group {quorum.group}' if quorum.group else ''} must approve"


def _notes(request: ApprovalRequest, args_text: str) -> tuple[str, ...]:
    policies = [text for policy in request.policies for text in (policy.id, policy.description)]
    texts = [request.action, request.resource, *policies, *args_text.split("\n")]
    hidden = sum(is_hidden(character) for text in texts for character in text)
    notes = []
    if hidden:
        notes.append(f"{hidden} hidden characters are written out as ⟨U+...⟩")
    if any(unicodedata.bidirectional(character) in _RIGHT_TO_LEFT for text in texts for character in text):
        notes.append("right-to-left text is shown; the order on the screen can differ from the order that is sent")
    notes += [
        f"{name} is {content.size} bytes ({content.media_type}) that are not shown; only those of this SHA-256 are sent"
        for name, content in _contents(args_text)
    ]
    return tuple(notes)


def _contents(args_text: str) -> list[tuple[str, Content]]:
    """The arguments that name bytes, or look as if they did."""
    try:
        args = orjson.loads(args_text)
    except orjson.JSONDecodeError:
        return []
    found = []
    for name, value in args.items() if isinstance(args, dict) else []:
        with suppress(Malformed):
            found.append((clean(str(name)), named_by(value)))
    return found


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
