"""An HTTP/2 server in the hands of a test: loopback, TLS, and a script for each request."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Self, cast

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from h2.errors import ErrorCodes

OK = [(":status", "200"), ("content-type", "application/json")]


class Peer(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: Http2Server) -> None:
        self.server = server
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        self.h2.local_settings = h2.settings.Settings(client=False, initial_values=server.settings)
        self.transport: asyncio.Transport
        self.bodies: dict[int, bytearray] = {}
        self.resets: list[tuple[int, int]] = []
        self.is_gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.h2.initiate_connection()
        self.flush()
        self.server.peers.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_gone = True

    def data_received(self, data: bytes) -> None:
        try:
            events = self.h2.receive_data(data)
        except h2.exceptions.ProtocolError:
            self.transport.abort()
            return
        for event in events:
            match event:
                case h2.events.RequestReceived():
                    self.bodies[event.stream_id] = bytearray()
                    self.server.requests.append((event.stream_id, list(event.headers)))
                case h2.events.DataReceived():
                    self.bodies[event.stream_id] += event.data
                    if self.server.takes_bodies:
                        self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case h2.events.StreamEnded():
                    self.server.script(self, event.stream_id)
                case h2.events.StreamReset():
                    self.resets.append((event.stream_id, int(event.error_code)))
        self.flush()

    def flush(self) -> None:
        data = self.h2.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def answer(self, stream: int, body: bytes = b"{}", headers: list[tuple[str, str]] | None = None) -> None:
        self.h2.send_headers(stream, headers or OK)
        while body:
            size = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if size <= 0:
                break
            self.h2.send_data(stream, body[:size])
            body = body[size:]
        else:
            self.h2.end_stream(stream)
        self.flush()

    def fill(self, stream: int) -> int:
        """Sends as much as the window lets; gives how much."""
        sent = 0
        while (size := min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)) > 0:
            self.h2.send_data(stream, b"x" * size)
            sent += size
        self.flush()
        return sent

    def reset(self, stream: int, code: ErrorCodes) -> None:
        self.h2.reset_stream(stream, code)
        self.flush()


Script = Callable[[Peer, int], None]


class Http2Server:
    """The server. Use with ``async with``; it speaks nothing but HTTP/2 and answers by ``script``."""

    def __init__(self, context: ssl.SSLContext, script: Script) -> None:
        self.script = script
        self.settings: dict[int, int] = {}
        self.takes_bodies = True
        self.peers: list[Peer] = []
        self.requests: list[tuple[int, list[tuple[bytes, bytes]]]] = []
        self._context = context
        context.set_alpn_protocols(["h2"])

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Peer(self), "127.0.0.1", 0, ssl=self._context)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for peer in self.peers:
            peer.transport.abort()

    @property
    def port(self) -> int:
        return int(self._server.sockets[0].getsockname()[1])
