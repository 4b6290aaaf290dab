"""A mail from its parts, and its parts from the mail: one plain text, without attachments.

The parts are what a policy and an approver see; the message that is sent holds nothing else. It is written in one
fixed form: addresses one to a line, the subject in encoded words, the text in base64. So a part has no way to end its
own header, and a message can be read back without a mail parser's leniency. The caller writes what was read again and
compares (:func:`nomos.catalogue.bodies.read_body`); a message that says more, or says it otherwise, is refused.

Pure. Source: RFC 5322, RFC 2045 section 6.8, RFC 2047 section 4.1, RFC 4648 section 5; Gmail API (``raw``).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Final

from nomos.errors import Malformed

#: Members that go into the message; the rest stand beside it.
PARTS: Final = ("bcc", "cc", "in_reply_to", "subject", "text", "to")
_LISTS: Final = (("to", "To"), ("cc", "Cc"), ("bcc", "Bcc"))
_ADDRESS: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@[A-Za-z0-9.-]{1,253}")
_MESSAGE_ID: Final = re.compile(r"<[!-;=?-~]{1,248}>")
#: Bytes of one encoded word's text: 60 characters in base64, within RFC 2047's 75 for the word.
_WORD_BYTES: Final = 45
_FIXED: Final = (
    "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n"
)
_NEXT: Final = "\r\n "


def write_mail(parts: Mapping[str, object]) -> str:
    """The message, base64url without padding, as ``raw`` takes it.

    Args:
        parts: ``to``, ``cc``, ``bcc`` as lists of addresses; ``subject``, ``text``, ``in_reply_to`` as texts.

    Raises:
        Malformed: a part cannot stand in its place.
    """
    lines: list[str] = []
    for name, header in _LISTS:
        addresses = parts.get(name, [])
        if not isinstance(addresses, list) or any(_ADDRESS.fullmatch(str(one)) is None for one in addresses):
            raise Malformed(f"{name} must be a list of plain mail addresses")
        if addresses:
            lines.append(f"{header}: {f',{_NEXT}'.join(addresses)}\r\n")
    if not lines:
        raise Malformed("a mail needs somebody to go to")
    if "in_reply_to" in parts:
        if _MESSAGE_ID.fullmatch(str(parts["in_reply_to"])) is None:
            raise Malformed("in_reply_to must be a message id in angle brackets")
        lines.append(f"In-Reply-To: {parts['in_reply_to']}\r\nReferences: {parts['in_reply_to']}\r\n")
    text = str(parts.get("text", ""))
    if "\r" in text:
        raise Malformed("the text of a mail has its lines ended by a line feed alone")
    lines.append(f"Subject: {_NEXT.join(_words(str(parts.get('subject', ''))))}\r\n")
    content = base64.b64encode(text.replace("\n", "\r\n").encode("utf-8")).decode("ascii")
    wrapped = "".join(f"{content[at : at + 76]}\r\n" for at in range(0, len(content), 76))
    message = "".join(lines) + _FIXED + wrapped
    return base64.urlsafe_b64encode(message.encode("ascii")).decode("ascii").rstrip("=")


def read_mail(raw: str) -> dict[str, object]:
    """The parts of a message that :func:`write_mail` made; what else it may hold shows when it is written again.

    Raises:
        Malformed: not such a message.
    """
    try:
        message = base64.urlsafe_b64decode(raw + "=" * (-len(raw) % 4)).decode("ascii")
        head, _, content = message.partition("\r\n\r\n")
        # a line that begins with a space goes on with the one before
        headers = dict(line.split(": ", 1) for line in re.split(r"\r\n(?! )", head))
        parts: dict[str, object] = {
            name: headers[header].split(f",{_NEXT}") for name, header in _LISTS if header in headers
        }
        if "In-Reply-To" in headers:
            parts["in_reply_to"] = headers["In-Reply-To"]
        parts["subject"] = "".join(_unworded(word) for word in headers["Subject"].split(_NEXT) if word)
        parts["text"] = base64.b64decode(content).decode("utf-8").replace("\r\n", "\n")
    except (binascii.Error, ValueError, KeyError) as error:
        raise Malformed("not a mail of ours", cause=type(error).__name__) from error
    return parts


def _words(text: str) -> Iterator[str]:
    """The text as encoded words, cut between characters (RFC 2047 section 5)."""
    piece = b""
    for character in text:
        encoded = character.encode("utf-8")
        if len(piece) + len(encoded) > _WORD_BYTES:
            yield _worded(piece)
            piece = b""
        piece += encoded
    if piece:
        yield _worded(piece)


def _worded(piece: bytes) -> str:
    return f"=?utf-8?B?{base64.b64encode(piece).decode('ascii')}?="


def _unworded(word: str) -> str:
    return base64.b64decode(word.removeprefix("=?utf-8?B?").removesuffix("?="), validate=True).decode("utf-8")
