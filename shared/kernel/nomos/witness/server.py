"""The witness as a server: HTTP/1.1 over h11, one path, everything bounded.

Decides nothing about checkpoints (:mod:`nomos.witness.decide`). Requests of one log are decided one after the other;
what is remembered is durable before the cosignature is signed.

Trusted: nobody who connects. Whoever does can at most have this witness cosign what a trusted key signed and what
continues what was cosigned before.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Final

import h11

from nomos.errors import Malformed
from nomos.log.checkpoint import WitnessSigner
from nomos.log.note import Note, VerifierKey, format_note
from nomos.witness.decide import REQUEST_BYTES_MAX, Refusal, decide, parse_request
from nomos.witness.store import Remembered

PATH: Final = b"/add-checkpoint"
#: A request from its first byte to its last, and a connection without one, seconds. A log opens one for each question.
REQUEST_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 10.0
HEADER_BYTES_MAX: Final = 16_384
CONNECTIONS_MAX: Final = 64
_READ_BYTES: Final = 65_536


class Witness:
    """Answers requests. One for each process."""

    def __init__(
        self, signer: WitnessSigner, logs: Mapping[str, Sequence[VerifierKey]], remembered: Remembered
    ) -> None:
        """Takes the key, the keys that are trusted by origin, and the memory."""
        self._signer = signer
        self._logs = logs
        self._remembered = remembered
        self._locks = {origin: asyncio.Lock() for origin in logs}

    async def add_checkpoint(self, body: bytes) -> Refusal | str:
        """A refusal, or the cosignature's line.

        Raises:
            OSError, MalformedRecord: the memory cannot be read or written; nothing is signed.
        """
        try:
            asked = parse_request(body)
        except Malformed as error:
            return Refusal(status=400, body=f"{error.detail}\n")
        origin = asked.checkpoint.origin
        lock = self._locks.get(origin)
        if lock is None:
            return Refusal(status=404, body="this witness does not know the log\n")
        async with lock:
            known = await asyncio.to_thread(self._remembered.load, origin)
            answer = decide(asked, known, self._logs)
            if isinstance(answer, Refusal):
                return answer
            if known is None or known.size != answer.known.size:
                await asyncio.to_thread(self._remembered.keep, answer.known)
            signature = self._signer.cosign(answer.text, int(time.time()))
        return format_note(Note(text=answer.text, signatures=(signature,))).decode().removeprefix(answer.text + "\n")


async def serve(witness: Witness, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> asyncio.Server:
    """Listens; ``port`` 0 takes a free one.

    Raises:
        OSError: the address cannot be used.
    """
    places = asyncio.Semaphore(CONNECTIONS_MAX)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if places.locked():
            writer.close()
            return
        async with places:
            try:
                await _Connection(witness, reader, writer).run()
            except (OSError, TimeoutError, h11.ProtocolError):
                # The other side left, was too slow, or speaks no HTTP: there is nobody to tell.
                pass
            finally:
                writer.close()

    return await asyncio.start_server(connected, host, port, ssl=tls, limit=_READ_BYTES)


class _Connection:
    def __init__(self, witness: Witness, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._witness = witness
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEADER_BYTES_MAX)

    async def run(self) -> None:
        """Answers requests until one side ends the connection."""
        seconds = IDLE_SECONDS
        while True:
            async with asyncio.timeout(seconds):
                event = await self._next()
            if not isinstance(event, h11.Request):
                return
            async with asyncio.timeout(REQUEST_SECONDS):
                if not await self._answer(event):
                    return
            if self._http.our_state is h11.MUST_CLOSE:
                return
            self._http.start_next_cycle()

    async def _next(self) -> object:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            if self._http.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            self._http.receive_data(await self._reader.read(_READ_BYTES))

    async def _answer(self, request: h11.Request) -> bool:
        """Reads the body and answers; False where the connection must end."""
        body = b""
        while isinstance(event := await self._next(), h11.Data):
            body += event.data
            if len(body) > REQUEST_BYTES_MAX:
                await self._respond(Refusal(status=413, body="the request is too long\n"))
                return False
        if not isinstance(event, h11.EndOfMessage):
            return False
        if request.target.partition(b"?")[0] != PATH:
            answer: Refusal | str = Refusal(status=404, body="there is only /add-checkpoint\n")
        elif request.method != b"POST":
            answer = Refusal(status=405, body="POST\n")
        else:
            try:
                answer = await self._witness.add_checkpoint(body)
            except (OSError, Malformed):
                # What it remembers cannot be read or kept: it must not sign, and must not say why to strangers.
                answer = Refusal(status=500, body="the witness cannot keep what it signs\n")
        await self._respond(answer)
        return True

    async def _respond(self, answer: Refusal | str) -> None:
        refusal = answer if isinstance(answer, Refusal) else Refusal(status=200, body=answer)
        body = refusal.body.encode()
        headers = [("content-type", refusal.kind), ("content-length", str(len(body)))]
        await self._send(h11.Response(status_code=refusal.status, headers=headers))
        await self._send(h11.Data(data=body))
        await self._send(h11.EndOfMessage())

    async def _send(self, event: h11.Event) -> None:
        sent = self._http.send(event)
        if sent:
            self._writer.write(sent)
            await self._writer.drain()
