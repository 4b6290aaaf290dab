"""A load generator in a process of its own: so many requests in flight, each answer checked, every latency kept.

Run as ``python -m nomos_runtime.bench.load``. It reads one :class:`Load` as a line of JSON on standard input, connects
and writes ``ready``; on the next line of input it warms up, measures and writes one :class:`Measured` as JSON; when its
input ends it ends. A closed loop: a request follows the answer to the one before it, so ``in_flight`` bounds the load.

It is a lean client: the agents' own bus client, messages and credentials on uvloop. It leaves out what
:class:`nomos.agent.Agent` adds (repeating, errors as classes), and it does not verify the delegation. A ``call`` is an
authorization and a signed invocation of it; ``direct`` is the same HTTP request to the same upstream, without anything
of ours in between.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec
import nats.errors
import uvloop

from nomos.creds import Credentials, read_creds
from nomos.errors import NomosError
from nomos.ids import new_id
from nomos.keys import SigningKey
from nomos.messages import (
    Allowed,
    Authorize,
    AuthorizeReply,
    Command,
    Decoder,
    Failure,
    Invoke,
    Returned,
    encode,
    now_ms,
)
from nomos.natsclient import LeanClient
from nomos.ucan.delegation import parse_delegation
from nomos.ucan.grant import sign_request

CLIENT: Final = "the agents' bus client on uvloop with nomos.messages; closed loop; delegations are not verified"
REQUEST_SECONDS: Final = 5.0
ACTION: Final = "github:issues.list"
#: Repositories that requests go round through when they are not to be new each time.
REPOSITORIES: Final = 200

_OK: Final = 200
_reply = Decoder.of(AuthorizeReply, "authorize reply")
_returned = Decoder.of(Returned | Failure, "invoke reply")


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What to do.

    Attributes:
        creds: path of an agent's credentials file.
        in_flight: requests at once.
        warmup_seconds: before anything counts.
        seconds: what counts.
        is_new: whether each request names a resource that was never asked for.
        what: ``authorize``, ``call`` or ``direct``.
        connections: of calls, in turn; each has the connector's rate for itself.
        origin: of a ``direct`` request, ``http://127.0.0.1:PORT``.
        token_file: holds the bearer of a ``direct`` request.
    """

    creds: str
    in_flight: int
    warmup_seconds: float
    seconds: float
    is_new: bool
    what: Literal["authorize", "call", "direct"] = "authorize"
    connections: tuple[str, ...] = ()
    origin: str = ""
    token_file: str = ""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured: latencies in microseconds of the requests that were allowed, and what else came back.

    ``stages_us`` holds the parts of a call that the client can tell apart, by name; those of the warm-up are in it.
    """

    latencies_us: list[int]
    errors: dict[str, int]
    seconds: float
    stages_us: dict[str, list[int]] = {}


def _requests(load: Load) -> Iterator[tuple[str, dict[str, object]]]:
    if load.is_new:
        run = new_id("r")[-12:]
        for number in itertools.count():
            yield f"github:repo/acme/{run}-{number}", {"state": "open"}
    for number in itertools.count():
        yield f"github:repo/acme/repo-{number % REPOSITORIES}", {"state": "open", "page": 1 + number % 10_000}


#: One request: None where it went as it should, else what came back.
_Ask = Callable[[], Awaitable[str | None]]


class _Measurement:
    """The loops and what they have seen."""

    def __init__(self, asks: Sequence[_Ask], load: Load, stages: dict[str, list[int]]) -> None:
        self._asks = asks
        self._load = load
        self._stages = stages
        self._latencies: list[int] = []
        self._errors: dict[str, int] = {}
        self._from = self._until = 0.0

    async def run(self) -> Measured:
        self._from = time.perf_counter() + self._load.warmup_seconds
        self._until = self._from + self._load.seconds
        await asyncio.gather(*(self._loop(ask) for ask in self._asks))
        return Measured(
            latencies_us=self._latencies, errors=self._errors, seconds=self._load.seconds, stages_us=self._stages
        )

    async def _loop(self, ask: _Ask) -> None:
        began = time.perf_counter()
        while began < self._until:
            failed = await ask()
            ended = time.perf_counter()
            # Counted by its end: what began in the warm-up and ends in the measurement is work of the measurement.
            if self._from <= ended < self._until:
                if failed is None:
                    self._latencies.append(int((ended - began) * 1e6))
                else:
                    self._errors[failed] = self._errors.get(failed, 0) + 1
            began = ended


class _Agent:
    """Requests of one agent over the bus."""

    def __init__(self, client: LeanClient, creds: Credentials, load: Load) -> None:
        self._client = client
        self._creds = creds
        self._load = load
        self._requests = _requests(load)
        self._connections = itertools.cycle(load.connections or ("",))
        self._key = SigningKey(creds.agent_seed or b"")
        #: Microseconds of the parts of a call.
        self.stages: dict[str, list[int]] = {"authorize": [], "invoke": []} if load.what == "call" else {}

    async def authorize(self) -> str | None:
        """One authorization."""
        resource, args = next(self._requests)
        answer = await self._authorized(resource, args, next(self._connections))
        return None if isinstance(answer, Allowed) else answer

    async def call(self) -> str | None:
        """One authorization and its use."""
        resource, args = next(self._requests)
        connection = next(self._connections)
        began = time.perf_counter()
        allowed = await self._authorized(resource, args, connection)
        if not isinstance(allowed, Allowed):
            return allowed
        between = time.perf_counter()
        failed = await self._invoked(resource, args, connection, allowed.delegation)
        self.stages["authorize"].append(int((between - began) * 1e6))
        self.stages["invoke"].append(int((time.perf_counter() - between) * 1e6))
        return failed

    async def _invoked(self, resource: str, args: dict[str, object], connection: str, delegation: bytes) -> str | None:
        subject = parse_delegation(delegation).subject
        if subject is None:
            return "no subject"
        invocation = sign_request(
            self._key, subject=subject, action=ACTION, resource=resource, args=args, proofs=[delegation],
            now=int(time.time()), ttl_seconds=30, nonce=os.urandom(12), connection=connection or "github",
        )  # fmt: skip
        deadline_ms = now_ms() + int(REQUEST_SECONDS * 1000)
        command = Invoke(v=1, id=new_id("rq"), deadline_ms=deadline_ms, invocation=invocation, proofs=[delegation])
        reply = await self._asked("invoke", command, _returned)
        if not isinstance(reply, Returned):
            return _what_came(reply)
        return None if reply.status == _OK else f"status {reply.status}"

    async def _authorized(self, resource: str, args: dict[str, object], connection: str) -> Allowed | str:
        deadline_ms = now_ms() + int(REQUEST_SECONDS * 1000)
        command = Authorize(
            v=1, id=new_id("rq"), deadline_ms=deadline_ms, action=ACTION, resource=resource, args=args,
            connection=connection,
        )  # fmt: skip
        reply = await self._asked("authorize", command, _reply)
        if isinstance(reply, Allowed):
            return reply
        return _what_came(reply)

    async def _asked(self, verb: str, command: Command, decoder: Decoder) -> object:
        """The answer, or the name of what came in its place."""
        subject = f"req.{verb}.{self._creds.name}"
        try:
            answer = await self._client.request(subject, encode(command), timeout=REQUEST_SECONDS)
            return decoder.decode(answer.data)
        except (TimeoutError, nats.errors.Error) as e:
            return type(e).__name__
        except NomosError as e:
            return e.code


def _what_came(reply: object) -> str:
    if isinstance(reply, str):
        return reply
    return reply.code if isinstance(reply, Failure) else type(reply).__name__


class _Direct:
    """The same requests, straight to the upstream over a connection of its own."""

    def __init__(self, load: Load) -> None:
        self._requests = _requests(load)
        self._at = urlsplit(load.origin)
        self._token = Path(load.token_file).read_text(encoding="ascii").strip()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self) -> str | None:
        """One request."""
        resource, args = next(self._requests)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                return await self._get(resource.removeprefix("github:repo/"), args)
        except (OSError, EOFError, TimeoutError, ValueError) as e:
            self._streams = None
            return type(e).__name__

    async def _get(self, repository: str, args: dict[str, object]) -> str | None:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._at.hostname, self._at.port)
        reader, writer = self._streams
        query = "&".join(f"{name}={value}" for name, value in args.items())
        writer.write(
            f"GET /repos/{repository}/issues?{query} HTTP/1.1\r\nHost: {self._at.netloc}\r\n"
            f"Authorization: Bearer {self._token}\r\n\r\n".encode("ascii")
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = next(line for line in head.split("\r\n") if line.lower().startswith("content-length:"))
        await reader.readexactly(int(length.partition(":")[2]))
        return None if head.startswith("HTTP/1.1 200 ") else head[9:12]


async def _main() -> None:
    loop = asyncio.get_running_loop()
    load = msgspec.json.decode(await loop.run_in_executor(None, sys.stdin.readline), type=Load)
    creds = await loop.run_in_executor(None, read_creds, Path(load.creds))
    client = LeanClient()
    await client.connect(
        list(creds.servers),
        user_jwt_cb=lambda: bytearray(creds.jwt.encode()),
        signature_cb=lambda nonce: b64encode(creds.user.sign(nonce.encode())),
        inbox_prefix=f"_INBOX.{creds.name}".encode(),
        allow_reconnect=False,
    )
    agent = _Agent(client, creds, load)
    asks: Sequence[_Ask] = [agent.call if load.what == "call" else agent.authorize] * load.in_flight
    if load.what == "direct":
        asks = [_Direct(load).get for _ in range(load.in_flight)]
    try:
        print("ready", flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)
        measured = await _Measurement(asks, load, agent.stages).run()
    finally:
        await client.close()
    sys.stdout.buffer.write(msgspec.json.encode(measured) + b"\n")
    sys.stdout.buffer.flush()
    # Stays until its processor time has been read.
    await loop.run_in_executor(None, sys.stdin.readline)


if __name__ == "__main__":
    uvloop.run(_main())
