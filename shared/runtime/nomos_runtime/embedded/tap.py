"""Records every byte that crosses the bus, for the demonstration: a relay on loopback in front of the nats-server.

Development only. What is recorded is what an attacker on the wire would see without TLS, which production has.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import BinaryIO, Final

HOST: Final = "127.0.0.1"
CHUNK_BYTES: Final = 65_536
#: The record ends at this size; the bus goes on.
CAPTURE_BYTES_MAX: Final = 512 << 20


class BusTap:
    """The relay. Clients connect to :attr:`url`; both directions of all connections go into one file."""

    def __init__(self, server: asyncio.Server, record: BinaryIO) -> None:
        self._server = server
        self._record = record
        self._written = 0

    @classmethod
    async def start(cls, path: Path, upstream_port: int) -> BusTap:
        """Starts to relay to the nats-server on ``upstream_port``, recording into ``path``."""
        record = path.open("wb", buffering=0)
        tap: BusTap

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                server_reader, server_writer = await asyncio.open_connection(HOST, upstream_port)
            except OSError:
                writer.close()
                return
            async with asyncio.TaskGroup() as both:
                both.create_task(tap._copy(reader, server_writer))
                both.create_task(tap._copy(server_reader, writer))

        tap = cls(await asyncio.start_server(serve, HOST, 0), record)
        return tap

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{HOST}:{self._server.sockets[0].getsockname()[1]}"

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                if self._written < CAPTURE_BYTES_MAX:
                    self._record.write(chunk)
                    self._written += len(chunk)
                writer.write(chunk)
                await writer.drain()
        except ConnectionError:
            # One side has gone; closing the other tells it.
            pass
        finally:
            writer.close()

    def close(self) -> None:
        """Ends the relay and the record."""
        self._server.close()
        self._record.close()
