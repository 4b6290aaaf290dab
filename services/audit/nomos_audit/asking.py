"""One witness, asked over HTTP/1.1. Whatever it answers or fails to answer ends within :data:`ANSWER_SECONDS`.

Decides only where a witness may be and how long an answer may take and be. The answer is believed by nobody here.

Trusted: nothing that comes back.

Source: c2sp.org/tlog-witness.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Final
from urllib.parse import urlsplit

import h11

from nomos.errors import Misconfigured, Unavailable
from nomos.log.note import NOTE_BYTES_MAX, VerifierKey
from nomos.loopback import is_loopback

#: From the first byte to connect to the last of the answer.
ANSWER_SECONDS: Final = 8.0
ANSWER_BYTES_MAX: Final = NOTE_BYTES_MAX
HEADER_BYTES_MAX: Final = 16_384
_READ_BYTES: Final = 65_536
_PORTS: Final = {"https": 443, "http": 80}


class Asker:
    """Asks one witness; a connection for each question."""

    def __init__(self, key: VerifierKey, url: str, *, development: bool) -> None:
        """Takes the witness's key and where it is.

        Raises:
            Misconfigured: the URL is neither https nor, in development, http on loopback.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise Misconfigured(f"the URL of the witness {key.name} cannot be read", cause=str(error)) from error
        allowed = parts.scheme == "https" or (parts.scheme == "http" and development and is_loopback(host))
        if not allowed or not host or "@" in parts.netloc or parts.query or parts.fragment:
            detail = f"the URL of the witness {key.name} must be https, without a query"
            raise Misconfigured(detail, hint="http is for loopback, in development")
        self.key = key
        self._host = host
        self._port = port or _PORTS[parts.scheme]
        self._netloc = parts.netloc
        self._target = f"{parts.path.rstrip('/')}/add-checkpoint"
        self._tls = None
        if parts.scheme == "https":
            self._tls = ssl.create_default_context()
            self._tls.minimum_version = ssl.TLSVersion.TLSv1_3

    async def ask(self, body: bytes) -> tuple[int, str, bytes]:
        """Status, content type and body of the answer.

        Raises:
            Unavailable: none in time, one that is too long, or no HTTP.
        """
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
                try:
                    return await self._exchange(reader, writer, body)
                finally:
                    writer.close()
        except (OSError, TimeoutError, h11.ProtocolError) as error:
            raise Unavailable(f"the witness {self.key.name} does not answer", cause=repr(error)[:200]) from error

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes
    ) -> tuple[int, str, bytes]:
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEADER_BYTES_MAX)
        headers = [("host", self._netloc), ("content-length", str(len(body))), ("connection", "close")]
        asked = h11.Request(method="POST", target=self._target, headers=headers)
        for part in (asked, h11.Data(data=body), h11.EndOfMessage()):
            writer.write(http.send(part) or b"")
        await writer.drain()
        status, kind, answer = 0, "", bytearray()
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await reader.read(_READ_BYTES))
            elif isinstance(event, h11.Response):
                status = event.status_code
                named = dict(event.headers).get(b"content-type", b"")
                kind = named.partition(b";")[0].strip().lower().decode("latin-1")
            elif isinstance(event, h11.Data):
                answer += event.data
                if len(answer) > ANSWER_BYTES_MAX:
                    raise Unavailable(f"the witness {self.key.name} answers with more than {ANSWER_BYTES_MAX} bytes")
            elif isinstance(event, h11.EndOfMessage):
                return status, kind, bytes(answer)
            elif isinstance(event, h11.ConnectionClosed):
                raise Unavailable(f"the witness {self.key.name} ended the connection")
