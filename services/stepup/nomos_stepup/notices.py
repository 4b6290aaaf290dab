"""Notices: which channels of a tenant are told that somebody must approve, and what they are told. Pure: a fold.

A channel is a web hook, a Slack-compatible hook or a mail address. A notice names who asks, what, on what, and the page
of the approval; it holds no argument of the request and nothing by which one could approve. A hook's body is signed:

    Nomos-Signature: t=<Unix seconds>,v1=<hex of HMAC-SHA256(secret, "<t>." || body)>

Rules: a channel has a name, given once at a time; a URL is https (in development also http on loopback); a channel may
be of one group, and is then told only of what that group is asked; a channel may wait, and is then told only of what
still waits. Each channel is told once of an approval, whatever becomes of it.

Leaves to others: sending (``sending``), when (``notifying``), where secrets are (``noticestore``).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec

from nomos.errors import LimitExceeded, Malformed, MalformedRecord, Misconfigured
from nomos.events import NOTICE_BEGUN, NOTIFY_ADDED, NOTIFY_REMOVED
from nomos.ids import parse_slug
from nomos.loopback import is_loopback
from nomos_stepup.challenge import ApprovalRequest

#: Channels of one tenant.
CHANNELS_MAX: Final = 32
#: A channel may wait so long, seconds.
AFTER_SECONDS_MAX: Final = 3_600
URL_LENGTH_MAX: Final = 2_000
ADDRESS_LENGTH_MAX: Final = 254
SIGNATURE_HEADER: Final = "nomos-signature"
#: Characters of a notice on a browser; it says where to look, and the page says all.
_BODY_SHOWN_MAX: Final = 300
#: Types of events that a replica follows.
FOLLOWED: Final = (NOTIFY_ADDED, NOTIFY_REMOVED, NOTICE_BEGUN)

Kind = Literal["webhook", "slack", "email", "push"]
Outcome = Literal["sent", "failed"]


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """Payload of ``notify.added``. Where it leads, and its secret, are sealed beside it.

    Attributes:
        channel: its name.
        kind: how it is told.
        group: told only of what this group is asked; empty for everything.
        after: seconds that a request must have waited.
        at: Unix seconds.
    """

    channel: str
    kind: Kind
    group: str
    after: Annotated[int, msgspec.Meta(ge=0, le=AFTER_SECONDS_MAX)]
    at: int

    def is_for(self, request: ApprovalRequest) -> bool:
        """Whether the channel is told of this request."""
        return not self.group or any(one.group == self.group for one in request.asked_of)


class ChannelRemoved(msgspec.Struct, frozen=True, kw_only=True):
    """Payload of ``notify.removed``."""

    channel: str
    at: int


class NoticeBegun(msgspec.Struct, frozen=True, kw_only=True):
    """Payload of ``notify.begun``: one replica, and no other, tells the channel of the approval."""

    approval: str
    channel: str
    at: int


class NoticeEnded(msgspec.Struct, frozen=True, kw_only=True):
    """Payload of ``notify.ended``.

    Attributes:
        approval: of which approval.
        channel: which channel.
        outcome: sent; or failed, after all tries.
        tries: how often it was tried.
        detail: why it failed, in one line; never where it leads.
        at: Unix seconds.
    """

    approval: str
    channel: str
    outcome: Outcome
    tries: int
    detail: str
    at: int


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """Where a channel leads, sealed at rest: a URL or an address, and what signs a hook's body."""

    to: str
    secret: str = ""


Channels = Mapping[str, Channel]


def evolve(state: Channels, kind: str, payload: object) -> Channels:
    """The channels after an event; of other types nothing changes.

    Raises:
        MalformedRecord: the payload is not of its type.
    """
    try:
        if kind == NOTIFY_ADDED:
            added = msgspec.convert(payload, Channel)
            return {**state, added.channel: added}
        if kind == NOTIFY_REMOVED:
            gone = msgspec.convert(payload, ChannelRemoved).channel
            return {name: one for name, one in state.items() if name != gone}
    except msgspec.ValidationError as error:
        raise MalformedRecord(f"the event is no {kind}", cause=str(error)) from error
    return state


def make_channel(
    state: Channels, *, channel: str, kind: str, to: str, group: str, after: int, development: bool, now: int
) -> Channel:
    """A new channel.

    Args:
        state: the tenant's channels.
        channel: its name.
        kind: how it is told.
        to: a URL, or a mail address.
        group: see :class:`Channel`.
        after: see :class:`Channel`.
        development: whether http on loopback is allowed.
        now: Unix seconds.

    Raises:
        LimitExceeded: too many channels, or a value over a limit.
        Malformed: a name, kind, group or address of another form.
        Misconfigured: a URL that is neither https nor, in development, http on loopback.
    """
    if parse_slug(channel, "channel") not in state and len(state) >= CHANNELS_MAX:
        raise LimitExceeded("channels of a tenant", CHANNELS_MAX)
    if group:
        parse_slug(group, "group")
    try:
        made = msgspec.convert(
            {"channel": channel, "kind": kind, "group": group, "after": after, "at": now}, Channel, strict=True
        )
    except msgspec.ValidationError as error:
        raise Malformed(
            "a channel is a webhook, slack or email, and waits from 0 to "
            f"{AFTER_SECONDS_MAX} seconds", cause=str(error)
        ) from error  # fmt: skip
    if made.kind == "push":
        raise Malformed("a browser is told when its owner wants it, on the approval pages")
    if made.kind == "email":
        check_address(to)
    else:
        check_url(to, development=development)
    return made


def check_url(url: str, *, development: bool) -> None:
    """Checks where a hook may be.

    Raises:
        LimitExceeded: too long.
        Misconfigured: not https (in development also http on loopback), or with a name, a password or a fragment.
    """
    if len(url) > URL_LENGTH_MAX:
        raise LimitExceeded("length of a URL", URL_LENGTH_MAX, len(url))
    wrong = Misconfigured("a hook's URL must be https, with a host", hint="http is for loopback, in development")
    if not (url.isascii() and url.isprintable()) or " " in url:
        raise wrong
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise wrong from error
    allowed = parts.scheme == "https" or (parts.scheme == "http" and development and is_loopback(host))
    if not allowed or not host or "@" in parts.netloc or parts.fragment:
        raise wrong


def check_address(address: str) -> None:
    """Checks a mail address: one, plain, without a name, a comment or a line end.

    Raises:
        LimitExceeded: too long.
        Malformed: not such an address.
    """
    if len(address) > ADDRESS_LENGTH_MAX:
        raise LimitExceeded("length of an address", ADDRESS_LENGTH_MAX, len(address))
    local, at, domain = address.rpartition("@")
    plain = address.isascii() and address.isprintable() and not set(' ,;:<>()[]\\"').intersection(address)
    if not (plain and at and local and "@" not in local and "." in domain.strip(".")):
        raise Malformed("a mail address must be one plain address, such as ops@example.com")


def body_of(kind: Kind, request: ApprovalRequest, url: str, *, at: int) -> bytes:
    """What a hook is told, as JSON.

    Args:
        kind: webhook or slack.
        request: what somebody must approve.
        url: its page; empty where none is served.
        at: Unix seconds.
    """
    if kind == "slack":
        return msgspec.json.encode({"text": text_of(request, url)})
    return msgspec.json.encode(
        {
            "v": 1,
            "type": "approval.requested",
            "at": at,
            "approval": request.approval,
            "tenant": request.tenant,
            "app": request.app,
            "agent": request.agent,
            "action": request.action,
            "risk": request.risk,
            "resource": request.resource,
            "asked_of": [{"approvals": one.approvals, "group": one.group} for one in request.asked_of],
            "expires_at": request.expires_at,
            "url": url,
        }
    )


def title_of(request: ApprovalRequest) -> str:
    """A notice in one line."""
    return f"Approval: {request.agent} asks to run {request.action} on {request.resource}"


def message_of(request: ApprovalRequest, path: str) -> bytes:
    """What a browser is told, as JSON for our own worker (``push-worker.js``). It stays under a message's size.

    Args:
        request: what somebody must approve.
        path: its page on this site.
    """
    body = f"Agent {request.agent} of app {request.app}: {request.action} ({request.risk}) on {request.resource}"
    cut = body if len(body) <= _BODY_SHOWN_MAX else body[: _BODY_SHOWN_MAX - 1] + "…"
    return msgspec.json.encode({"title": "Somebody must approve", "body": cut, "tag": request.approval, "path": path})


def text_of(request: ApprovalRequest, url: str) -> str:
    """A notice as text. It says where to look; what exactly would run stands on the page alone."""
    where = f"Look, and approve or refuse: {url}" if url else f"nomos approve {request.approval}"
    return (
        f"Agent {request.agent} of app {request.app} (tenant {request.tenant}) asks to run {request.action} "
        f"({request.risk}) on {request.resource}.\n{where}"
    )


def signature_of(secret: str, body: bytes, *, at: int) -> str:
    """The value of :data:`SIGNATURE_HEADER`."""
    signed = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={signed}"
