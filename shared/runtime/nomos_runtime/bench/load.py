"""A load generator in a process of its own: so many requests in flight, each answer checked, every latency kept.

Run as ``python -m nomos_runtime.bench.load``. It reads one :class:`Load` as a line of JSON on standard input, connects
and writes ``ready``; on the next line of input it warms up, measures and writes one :class:`Measured` as JSON; when its
input ends it ends. A closed loop: a request follows the answer to the one before it, so ``in_flight`` bounds the load.

It is a lean client: nats-py on uvloop with the agent's own messages and credentials. It leaves out what
:class:`nomos.agent.Agent` adds (repeating, errors as classes), and it does not verify the delegation.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import nats
import nats.errors
import uvloop
from nats.aio.client import Client

from nomos.creds import read_creds
from nomos.errors import NomosError
from nomos.ids import new_id
from nomos.messages import Allowed, Authorize, AuthorizeReply, Decoder, Failure, encode, now_ms

CLIENT: Final = "nats-py on uvloop with nomos.messages; closed loop; delegations are not verified"
REQUEST_SECONDS: Final = 5.0
ACTION: Final = "github:issues.list"
#: Repositories that requests go round through when they are not to be new each time.
REPOSITORIES: Final = 200

_reply = Decoder.of(AuthorizeReply, "authorize reply")


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What to do.

    Attributes:
        creds: path of an agent's credentials file.
        in_flight: requests at once.
        warmup_seconds: before anything counts.
        seconds: what counts.
        is_new: whether each request names a resource that was never asked for.
    """

    creds: str
    in_flight: int
    warmup_seconds: float
    seconds: float
    is_new: bool


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured: latencies in microseconds of the requests that were allowed, and what else came back."""

    latencies_us: list[int]
    errors: dict[str, int]
    seconds: float


def _requests(load: Load) -> Iterator[tuple[str, dict[str, object]]]:
    if load.is_new:
        run = new_id("r")[-12:]
        for number in itertools.count():
            yield f"github:repo/acme/{run}-{number}", {"state": "open"}
    for number in itertools.count():
        yield f"github:repo/acme/repo-{number % REPOSITORIES}", {"state": "open", "page": 1 + number % 10_000}


class _Measurement:
    """The loops and what they have seen."""

    def __init__(self, client: Client, subject: str, load: Load) -> None:
        self._client = client
        self._subject = subject
        self._load = load
        self._requests = _requests(load)
        self._latencies: list[int] = []
        self._errors: dict[str, int] = {}
        self._from = self._until = 0.0

    async def run(self) -> Measured:
        self._from = time.perf_counter() + self._load.warmup_seconds
        self._until = self._from + self._load.seconds
        await asyncio.gather(*(self._loop() for _ in range(self._load.in_flight)))
        return Measured(latencies_us=self._latencies, errors=self._errors, seconds=self._load.seconds)

    async def _loop(self) -> None:
        began = time.perf_counter()
        while began < self._until:
            failed = await self._ask()
            ended = time.perf_counter()
            # Counted by its end: what began in the warm-up and ends in the measurement is work of the measurement.
            if self._from <= ended < self._until:
                if failed is None:
                    self._latencies.append(int((ended - began) * 1e6))
                else:
                    self._errors[failed] = self._errors.get(failed, 0) + 1
            began = ended

    async def _ask(self) -> str | None:
        """None where the answer is allow; else what it was."""
        resource, args = next(self._requests)
        deadline_ms = now_ms() + int(REQUEST_SECONDS * 1000)
        command = Authorize(v=1, id=new_id("rq"), deadline_ms=deadline_ms, action=ACTION, resource=resource, args=args)
        try:
            answer = await self._client.request(self._subject, encode(command), timeout=REQUEST_SECONDS)
            reply = _reply.decode(answer.data)
        except (TimeoutError, nats.errors.Error) as e:
            return type(e).__name__
        except NomosError as e:
            return e.code
        if isinstance(reply, Allowed):
            return None
        return reply.code if isinstance(reply, Failure) else type(reply).__name__


async def _main() -> None:
    loop = asyncio.get_running_loop()
    load = msgspec.json.decode(await loop.run_in_executor(None, sys.stdin.readline), type=Load)
    creds = await loop.run_in_executor(None, read_creds, Path(load.creds))
    client = await nats.connect(
        list(creds.servers),
        user_jwt_cb=lambda: bytearray(creds.jwt.encode()),
        signature_cb=lambda nonce: b64encode(creds.user.sign(nonce.encode())),
        inbox_prefix=f"_INBOX.{creds.name}".encode(),
        allow_reconnect=False,
    )
    try:
        print("ready", flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)
        measured = await _Measurement(client, f"req.authorize.{creds.name}", load).run()
    finally:
        await client.close()
    sys.stdout.buffer.write(msgspec.json.encode(measured) + b"\n")
    sys.stdout.buffer.flush()
    # Stays until its processor time has been read.
    await loop.run_in_executor(None, sys.stdin.readline)


if __name__ == "__main__":
    uvloop.run(_main())
