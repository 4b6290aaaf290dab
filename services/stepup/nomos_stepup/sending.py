"""Sends one notice: a POST to a hook, or a mail. What comes back ends within :data:`ANSWER_SECONDS` and is not kept.

A hook's name is resolved once, every address must be one that a service may connect to, and the connection goes to a
checked one (:mod:`nomos.addresses`). No redirect is followed. TLS 1.3 alone.

Trusted: nothing that comes back. Not told to anybody: where a channel leads.
"""

from __future__ import annotations

import asyncio
import smtplib
import socket
import ssl
from email.message import EmailMessage
from typing import Final
from urllib.parse import SplitResult, urlsplit

import h11
import msgspec

from nomos.addresses import is_allowed_address
from nomos.errors import DestinationRefused, Unavailable
from nomos.loopback import is_loopback
from nomos_runtime.secret import Secret

ANSWER_SECONDS: Final = 10.0
HEADER_BYTES_MAX: Final = 16_384
_READ_BYTES: Final = 16_384
_PORTS: Final = {"https": 443, "http": 80}
_GOOD: Final = range(200, 300)
_GONE: Final = (404, 410)


class Gone(Unavailable):
    """What was told does not exist there, or not any more."""


class MailServer(msgspec.Struct, frozen=True, kw_only=True):
    """The installation's mail server.

    Attributes:
        host: empty where there is none.
        port: TCP port.
        tls: ``starttls``, ``tls`` from the first byte, or ``none`` on loopback in development.
        user: empty sends without signing in.
        password: of the user.
        sender: the address that mails come from.
    """

    host: str
    port: int
    tls: str
    user: str
    password: Secret
    sender: str


async def post(url: str, body: bytes, headers: dict[str, str], *, development: bool) -> None:
    """Posts ``body``; returns when the hook has taken it.

    Raises:
        DestinationRefused: the name leads to an address that no service may connect to.
        Gone: the answer is that there is nothing.
        Unavailable: no answer in time, or one that is no success.
    """
    parts = urlsplit(url)
    if parts.scheme not in _PORTS:
        # A channel that became a mail address between the look at its kind and the one at where it leads.
        raise DestinationRefused("the channel is no hook any more")
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            address = await _resolve(host, port, may_be_private=development and is_loopback(host))
            tls = _context() if parts.scheme == "https" else None
            reader, writer = await asyncio.open_connection(
                address, port, ssl=tls, server_hostname=host if tls else None
            )
            try:
                status = await _exchange(reader, writer, _request(parts, body, headers), body)
            finally:
                writer.close()
    except (OSError, TimeoutError, h11.ProtocolError, UnicodeError) as error:
        # Not the error's own words: they may name the address.
        raise Unavailable(f"the hook does not answer ({type(error).__name__})") from error
    if status in _GONE:
        raise Gone(f"the hook answers {status}")
    if status not in _GOOD:
        raise Unavailable(f"the hook answers {status}")


def mail(server: MailServer, to: str, subject: str, text: str) -> None:
    """Sends a mail; returns when the server has taken it. Blocks: run it in a thread.

    Raises:
        Unavailable: the server does not take it, or not in time.
    """
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = server.sender, to, subject
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text)
    try:
        if server.tls == "tls":
            client: smtplib.SMTP = smtplib.SMTP_SSL(
                server.host, server.port, timeout=ANSWER_SECONDS, context=_context()
            )
        else:
            client = smtplib.SMTP(server.host, server.port, timeout=ANSWER_SECONDS)
        with client:
            if server.tls == "starttls":
                client.starttls(context=_context())
            if server.user:
                client.login(server.user, server.password.reveal().decode())
            client.send_message(message)
    except (OSError, smtplib.SMTPException) as error:
        raise Unavailable(f"the mail server does not take it ({type(error).__name__})") from error


async def _resolve(host: str, port: int, *, may_be_private: bool) -> str:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(address[0]) for *_, address in found]
    if not addresses or not all(is_allowed_address(one, may_be_private=may_be_private) for one in addresses):
        raise DestinationRefused("the hook's name leads to an address that is not public")
    return addresses[0]


def _request(parts: SplitResult, body: bytes, headers: dict[str, str]) -> h11.Request:
    sent = {
        "host": parts.netloc,
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        "user-agent": "nomos-stepup",
        **headers,
    }
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return h11.Request(method="POST", target=target, headers=list(sent.items()))


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: h11.Request, body: bytes) -> int:
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEADER_BYTES_MAX)
    for part in (asked, h11.Data(data=body), h11.EndOfMessage()):
        writer.write(http.send(part) or b"")
    await writer.drain()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await reader.read(_READ_BYTES))
        elif isinstance(event, h11.Response):
            # What else the hook says is not read.
            return int(event.status_code)
        elif isinstance(event, h11.ConnectionClosed):
            raise Unavailable("the hook ended the connection")


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context
