"""A mail from its parts, and its parts from the mail: one plain text, without attachments.

The parts are what a policy and an approver see; the message that is sent holds nothing else. What is read back is
written again and compared by the caller (:func:`nomos.catalogue.bodies.read_body`), so a message that says more, or says
it otherwise, is refused.

Pure. Source: RFC 5322, RFC 2047, RFC 4648 section 5; Gmail API, users.messages (``raw``).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Final, cast

from nomos.errors import Malformed

#: Members that go into the message; the rest stand beside it.
PARTS: Final = ("bcc", "cc", "in_reply_to", "subject", "text", "to")
_LISTS: Final = {"to": "To", "cc": "Cc", "bcc": "Bcc"}
_POLICY: Final = policy.SMTP.clone(max_line_length=78)


def write_mail(parts: Mapping[str, object]) -> str:
    """The message, base64url without padding, as ``raw`` takes it.

    Args:
        parts: ``to``, ``cc``, ``bcc`` as lists of addresses; ``subject``, ``text``, ``in_reply_to`` as texts.

    Raises:
        Malformed: a part cannot stand in its header.
    """
    message = EmailMessage(policy=_POLICY)
    try:
        for name, header in _LISTS.items():
            if name in parts:
                message[header] = ", ".join(cast(list[str], parts[name]))
        message["Subject"] = str(parts.get("subject", ""))
        if "in_reply_to" in parts:
            message["In-Reply-To"] = message["References"] = str(parts["in_reply_to"])
        # base64 keeps every line break as it is
        message.set_content(str(parts.get("text", "")), cte="base64")
        raw = message.as_bytes()
    except (ValueError, UnicodeError) as error:
        raise Malformed("a part of the message cannot stand in a mail", cause=type(error).__name__) from error
    return base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")


def read_mail(raw: str) -> dict[str, object]:
    """The parts of a message that :func:`write_mail` made; what else it may hold shows when it is written again.

    Raises:
        Malformed: not such a message.
    """
    try:
        content = base64.urlsafe_b64decode(raw + "=" * (-len(raw) % 4))
        message = cast(EmailMessage, BytesParser(policy=_POLICY).parsebytes(content))
        parts: dict[str, object] = {
            name: str(message[header]).split(", ") for name, header in _LISTS.items() if message[header] is not None
        }
        parts["subject"] = str(message["Subject"] or "")
        if message["In-Reply-To"] is not None:
            parts["in_reply_to"] = str(message["In-Reply-To"])
        parts["text"] = str(message.get_content())
    except (binascii.Error, ValueError, LookupError, AttributeError, TypeError) as error:
        raise Malformed("not a mail of ours", cause=type(error).__name__) from error
    return parts
