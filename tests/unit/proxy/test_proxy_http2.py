"""Calls over HTTP/2: which version is spoken, many on one connection, and what each failure means."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hpack import NeverIndexedHeaderTuple
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.proxy.http2server import OK, Http2Server, Peer

from nomos.catalogue import OutgoingRequest
from nomos.errors import Expired, UnknownOutcome, UpstreamFailed
from nomos.messages import now_ms
from nomos_proxy.answer import AnswerRefused
from nomos_proxy.destination import Origin
from nomos_proxy.dial import HttpVersion, tls_context
from nomos_proxy.exchange import Limits, WireRequest
from nomos_proxy.http2 import IDLE_FRAMES_MAX, STREAM_WINDOW_BYTES, Connection, NotProcessed
from nomos_proxy.pool import PoolFull, PoolLimits
from nomos_proxy.upstream import Upstreams
from nomos_runtime.embedded.upstream import EmbeddedUpstream
from nomos_runtime.secret import Secret

NAME = "upstream.test"
BODIES = Path(__file__).parents[2] / "fixtures" / "github"
GET = OutgoingRequest(method="GET", path="/repos/acme/site")
POST = OutgoingRequest(method="POST", path="/repos/acme/site", body=b'{"a":1}')
BEARER = Secret(b"t0ken-t0ken-t0ken")
LIMITS = Limits(total_seconds=10.0)
HTTP2 = HttpVersion.HTTP2


class Both:
    """A server and a client for it."""

    def __init__(self, server: Http2Server, client: Upstreams, origin: Origin) -> None:
        self.server, self.client, self.origin = server, client, origin

    async def call(self, request: OutgoingRequest = GET, limits: Limits = LIMITS, **more: Any) -> Any:
        return await self.client.call(self.origin, request, BEARER, limits, prefers=HTTP2, **more)


@pytest.fixture
def both(authority: Any) -> Callable[..., Any]:
    @asynccontextmanager
    async def make(script: Callable[[Peer, int], None], **pool: Any) -> AsyncIterator[Both]:
        async with Http2Server(authority.server(NAME), script) as server:
            origin = Origin(scheme="https", host=NAME, port=server.port)
            client = client_for(authority, origin, **pool)
            yield Both(server, client, origin)
            client.close()

    return make


def client_for(authority: Any, origin: Origin, **pool: Any) -> Upstreams:
    async def resolver(_host: str, _port: int) -> list[str]:
        return ["127.0.0.1"]

    return Upstreams(
        context=tls_context(authority.ca_file),
        http2=tls_context(authority.ca_file, HTTP2),
        resolver=resolver,
        development_origins={origin},
        pool_limits=PoolLimits(**pool),
    )


def good(peer: Peer, stream: int) -> None:
    peer.answer(stream, b'{"ok":true}')


async def test_many_calls_share_one_connection_and_each_gets_its_own_answer(both: Any) -> None:
    def script(peer: Peer, stream: int) -> None:
        path = dict(peer.server.requests[-1][1])[b":path"]
        asyncio.get_running_loop().call_later(0.01 * (stream % 7), peer.answer, stream, path)

    async with both(script) as here:
        paths = [f"/items/{number}" for number in range(40)]
        answers = await asyncio.gather(*(here.call(OutgoingRequest(method="GET", path=path)) for path in paths))
        assert [answer.body.decode() for answer in answers] == paths
        assert {answer.status for answer in answers} == {200}
        assert len(here.server.peers) == 1


async def test_what_is_sent_is_what_http_1_sends_and_secrets_stay_out_of_the_compression_table(both: Any) -> None:
    async with both(good) as here:
        await here.call(POST, headers=(("accept", "application/json"), ("idempotency-key", "k1")))
        ((stream, fields),) = here.server.requests
        assert dict(fields) == {
            b":method": b"POST",
            b":scheme": b"https",
            b":authority": f"{NAME}:{here.server.port}".encode(),
            b":path": b"/repos/acme/site",
            b"accept-encoding": b"identity",
            b"accept": b"application/json",
            b"idempotency-key": b"k1",
            b"content-type": b"application/json",
            b"content-length": b"7",
            b"authorization": b"Bearer " + BEARER.reveal(),
        }
        assert bytes(here.server.peers[0].bodies[stream]) == POST.body
        never = {bytes(field[0]) for field in fields if isinstance(field, NeverIndexedHeaderTuple)}
        assert never == {b"authorization", b"idempotency-key"}


async def test_an_upstream_that_speaks_http_2_alone_is_found_out_once(both: Any, authority: Any) -> None:
    async with both(good) as here, strict(here.server.port) as (port, hellos):
        origin = Origin(scheme="https", host=NAME, port=port)
        client = client_for(authority, origin)
        for _ in range(3):
            answer = await client.call(origin, GET, BEARER, LIMITS)
            assert answer.body == b'{"ok":true}'
        assert hellos == ["http/1.1", "h2"]
        opened = await client.open(origin, GET, BEARER, LIMITS)
        assert await opened.collect(100, 5) == b'{"ok":true}'
        opened.close()
        assert hellos == ["http/1.1", "h2", "h2"]
        client.close()
        without = Upstreams(
            context=tls_context(authority.ca_file),
            resolver=here.client._dialer._resolver,
            development_origins={origin},
        )
        with pytest.raises(UpstreamFailed, match=r"does not speak http/1\.1"):
            await without.call(origin, GET, BEARER, LIMITS)
        with pytest.raises(UpstreamFailed, match=r"does not speak http/1\.1"):
            await without.open(origin, GET, BEARER, LIMITS)
        without.close()
        assert len(here.server.requests) == 4


async def test_a_live_call_finds_out_once_what_its_upstream_speaks(both: Any, authority: Any) -> None:
    async with both(good) as here, strict(here.server.port) as (port, hellos):
        origin = Origin(scheme="https", host=NAME, port=port)
        client = client_for(authority, origin)
        for _ in range(2):
            opened = await client.open(origin, GET, BEARER, LIMITS)
            assert await opened.collect(100, 5) == b'{"ok":true}'
            opened.close()
        assert hellos == ["http/1.1", "h2", "h2"]
        assert (await client.call(origin, GET, BEARER, LIMITS)).body == b'{"ok":true}', "an ordinary call knows it too"
        assert hellos == ["http/1.1", "h2", "h2", "h2"]
        client.close()


async def test_a_live_call_needs_no_room_among_the_pools(both: Any, authority: Any) -> None:
    waiting: list[tuple[Peer, int]] = []
    async with (
        both(lambda peer, stream: waiting.append((peer, stream))) as busy,
        both(good) as here,
        strict(here.server.port) as (port, hellos),
    ):
        origin = Origin(scheme="https", host=NAME, port=port)
        client = client_for(authority, origin, upstreams=1)
        client._dialer._development_origins = {origin, busy.origin}
        call = asyncio.create_task(client.call(busy.origin, GET, BEARER, LIMITS, prefers=HTTP2))
        async with asyncio.timeout(5):
            while not waiting:
                await asyncio.sleep(0.01)
        opened = await client.open(origin, GET, BEARER, LIMITS)
        assert await opened.collect(100, 5) == b'{"ok":true}'
        opened.close()
        assert hellos == ["http/1.1", "h2"]
        waiting[0][0].answer(waiting[0][1])
        assert (await call).status == 200
        client.close()


@asynccontextmanager
async def strict(port: int) -> AsyncIterator[tuple[int, list[str]]]:
    """In front of a server: refuses who offers HTTP/1.1, as RFC 7301 demands and Python's own server does not."""
    hellos: list[str] = []
    alert = bytes.fromhex("15 03 03 00 02 02 78")  # fatal, no_application_protocol
    pumps: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = await reader.read(65_536)
        hellos.append("http/1.1" if b"http/1.1" in hello else "h2")
        if hellos[-1] == "http/1.1":
            writer.write(alert)
            writer.close()
            return
        behind, to = await asyncio.open_connection("127.0.0.1", port)
        to.write(hello)
        pumps.update(asyncio.ensure_future(pump(*way)) for way in ((reader, to), (behind, writer)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1], hellos
    server.close()
    for one in pumps:
        one.cancel()
    await asyncio.gather(*pumps, return_exceptions=True)


async def test_an_upstream_that_does_not_speak_http_2_is_spoken_to_in_http_1(authority: Any) -> None:
    context: ssl.SSLContext = authority.server(NAME)
    server = await EmbeddedUpstream.start(bodies=BODIES, token=BEARER.reveal().decode(), tls=context)
    origin = Origin(scheme="https", host=NAME, port=server.port)
    client = client_for(authority, origin)
    try:
        for _ in range(2):
            assert (await client.call(origin, GET, BEARER, LIMITS, prefers=HTTP2)).status == 200
        opened = await client.open(origin, GET, BEARER, LIMITS, prefers=HTTP2)
        assert b"acme/site" in await opened.collect(100_000, 5)
        opened.close()
    finally:
        client.close()
        await server.close()


@pytest.mark.parametrize("request_", [GET, POST])
async def test_a_request_that_was_not_processed_is_sent_again_once(both: Any, request_: OutgoingRequest) -> None:
    refusals = 1

    def script(peer: Peer, stream: int) -> None:
        nonlocal refusals
        refusals -= 1
        if refusals >= 0:
            peer.reset(stream, ErrorCodes.REFUSED_STREAM)
        else:
            good(peer, stream)

    async with both(script) as here:
        assert (await here.call(request_)).status == 200
        assert len(here.server.requests) == 2
        refusals = 2
        with pytest.raises(NotProcessed):
            await here.call(request_)


async def test_a_goaway_moves_what_was_not_processed_to_a_new_connection(both: Any) -> None:
    def script(peer: Peer, stream: int) -> None:
        if len(peer.server.peers) == 1:
            peer.h2.close_connection(last_stream_id=0)
            peer.flush()
        else:
            good(peer, stream)

    async with both(script) as here:
        assert (await here.call(POST)).status == 200
        assert len(here.server.peers) == 2


async def test_an_answer_that_is_broken_off_says_nothing_about_its_neighbours(both: Any) -> None:
    held: list[tuple[Peer, int]] = []

    def script(peer: Peer, stream: int) -> None:
        if dict(peer.server.requests[-1][1])[b":path"] == b"/broken":
            peer.h2.send_headers(stream, OK)
            peer.h2.send_data(stream, b'{"half')
            peer.reset(stream, ErrorCodes.INTERNAL_ERROR)
            good(*held[0])
        else:
            held.append((peer, stream))

    async with both(script) as here:
        neighbour = asyncio.ensure_future(here.call())
        while not held:
            await asyncio.sleep(0)
        with pytest.raises(UnknownOutcome):
            await here.call(OutgoingRequest(method="GET", path="/broken"))
        assert (await neighbour).body == b'{"ok":true}'
        assert len(here.server.peers) == 1


async def test_a_connection_that_is_lost_in_an_answer_is_an_unknown_outcome(both: Any) -> None:
    def script(peer: Peer, stream: int) -> None:
        peer.h2.send_headers(stream, OK)
        peer.flush()
        peer.transport.close()

    async with both(script) as here:
        for request in (GET, POST):
            with pytest.raises(UnknownOutcome):
                await here.call(request)


async def test_a_kept_connection_that_ends_costs_a_read_nothing_and_a_write_its_certainty(both: Any) -> None:
    def script(peer: Peer, stream: int) -> None:
        if stream > 1:
            peer.transport.close()
        else:
            good(peer, stream)

    async with both(script) as here:
        await here.call()
        assert (await here.call()).status == 200
        assert len(here.server.peers) == 2
        with pytest.raises(UnknownOutcome):
            await here.call(POST)


BAD_HEADS = {
    "encoded": [*OK, ("content-encoding", "gzip")],
    "more than one content type": [*OK, ("content-type", "text/html")],
    "over the limit of 786432 bytes": [*OK, ("content-length", "999999999")],
    "more than 100 headers": [*OK, *((f"x-{number}", "v") for number in range(100))],
    "headers are over the limit": [*OK, *((f"x-{number}", "v" * 4_000) for number in range(10))],
}


@pytest.mark.parametrize("said", BAD_HEADS)
async def test_a_head_that_breaks_a_limit_is_refused_and_the_connection_stays(both: Any, said: str) -> None:
    is_bad = True

    def script(peer: Peer, stream: int) -> None:
        if is_bad:
            peer.h2.send_headers(stream, BAD_HEADS[said])
            peer.flush()
        else:
            good(peer, stream)

    async with both(script) as here:
        with pytest.raises(AnswerRefused, match=said) as refused:
            await here.call()
        assert refused.value.status == 200
        is_bad = False
        assert (await here.call()).status == 200
        (peer,) = here.server.peers
        assert peer.resets == [(1, ErrorCodes.CANCEL)]


async def test_a_body_over_its_limit_is_refused_and_its_stream_reset(both: Any) -> None:
    def script(peer: Peer, stream: int) -> None:
        peer.answer(stream, b"x" * 200_000)

    async with both(script) as here:
        with pytest.raises(AnswerRefused, match="over the limit of 100000 bytes"):
            await here.call(limits=Limits(total_seconds=5, body_bytes=100_000))
        assert len((await here.call()).body) == 200_000
        assert len(here.server.peers) == 1


BROKEN: dict[str, Callable[[Peer, int], None]] = {
    "a length that is not the body's": lambda peer, stream: peer.answer(stream, b"{}", [*OK, ("content-length", "5")]),
    "garbage": lambda peer, stream: peer.transport.write(b"\xff" * 64),
    "HTTP/1.1": lambda peer, stream: peer.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
}


@pytest.mark.parametrize("how", BROKEN)
async def test_an_answer_that_breaks_the_protocol_is_an_unknown_outcome(both: Any, how: str) -> None:
    async with both(BROKEN[how]) as here:
        with pytest.raises(UnknownOutcome):
            await here.call(POST)


async def test_a_peer_that_sends_nothing_but_control_frames_is_left(both: Any) -> None:
    def script(peer: Peer, stream: int) -> None:
        for number in range(IDLE_FRAMES_MAX + 10):
            peer.h2.ping(number.to_bytes(8, "big"))
        peer.flush()

    async with both(script) as here:
        with pytest.raises(UnknownOutcome, match="bring nothing further"):
            await here.call(POST)


async def test_interim_answers_have_a_limit(both: Any) -> None:
    def script(peer: Peer, stream: int) -> None:
        for _ in range(20):
            peer.h2.send_headers(stream, [(":status", "103")])
        good(peer, stream)

    async with both(script) as here:
        with pytest.raises(UnknownOutcome, match="interim answers"):
            await here.call(POST)


async def test_a_call_that_takes_too_long_is_given_up_and_the_connection_stays(both: Any) -> None:
    is_slow = True

    def script(peer: Peer, stream: int) -> None:
        if not is_slow:
            good(peer, stream)

    async with both(script) as here:
        with pytest.raises(UnknownOutcome, match=r"within 0\.3 seconds"):
            await here.call(POST, Limits(total_seconds=0.3))
        is_slow = False
        assert (await here.call()).status == 200
        (peer,) = here.server.peers
        assert peer.resets == [(1, ErrorCodes.CANCEL)]


async def test_a_large_request_waits_for_the_window_of_its_peer(both: Any) -> None:
    body = bytes(range(256)) * 3_000
    async with both(good) as here:
        request = OutgoingRequest(method="PUT", path="/large", body=body)
        assert (await here.call(request)).status == 200
        assert bytes(here.server.peers[0].bodies[1]) == body
        here.server.takes_bodies = False
        with pytest.raises(UnknownOutcome):
            await here.call(request, Limits(total_seconds=0.3))


async def test_a_reader_that_waits_holds_up_its_own_answer_and_no_other(both: Any) -> None:
    sent = 0

    def script(peer: Peer, stream: int) -> None:
        nonlocal sent
        if dict(peer.server.requests[-1][1])[b":path"] == b"/live":
            peer.h2.send_headers(stream, OK)
            sent = peer.fill(stream)
        else:
            good(peer, stream)

    async with both(script) as here:
        live = await here.client.open(
            here.origin, OutgoingRequest(method="GET", path="/live"), BEARER, LIMITS, prefers=HTTP2
        )
        assert 0 < sent <= STREAM_WINDOW_BYTES
        assert (await here.call()).status == 200
        peer = here.server.peers[0]
        assert peer.h2.local_flow_control_window(1) == 0
        got = 0
        while got < sent:
            got += len(await live.read())
        while peer.h2.local_flow_control_window(1) < sent // 2:
            await asyncio.sleep(0.01)
        live.close()
        # a live answer has a connection of its own
        assert len(here.server.peers) == 2


async def test_a_peer_says_how_many_streams_it_takes_and_the_pool_how_many_may_wait(both: Any) -> None:
    waiting: list[tuple[Peer, int]] = []

    def script(peer: Peer, stream: int) -> None:
        if stream == 1:
            good(peer, stream)  # from then on its settings are known
        else:
            waiting.append((peer, stream))

    async with both(script, streams=4, waiting=2) as here:
        here.server.settings = {SettingCodes.MAX_CONCURRENT_STREAMS: 2}
        await here.call()
        calls = [asyncio.ensure_future(here.call()) for _ in range(6)]
        while len(waiting) < 2:
            await asyncio.sleep(0.001)
        assert len(waiting) == 2
        with pytest.raises(PoolFull, match="more than 2 calls wait"):
            await here.call()
        while not all(one.done() for one in calls):
            assert len(waiting) <= 2
            if waiting:
                good(*waiting.pop(0))
            await asyncio.sleep(0.001)
        assert {(await one).status for one in calls} == {200}
        assert len(here.server.requests) == 7
        assert len(here.server.peers) == 1


async def test_nothing_is_begun_after_its_moment(both: Any) -> None:
    async with both(good) as here:
        await here.call()
        with pytest.raises(Expired):
            await here.call(POST, Limits(total_seconds=5, begin_by_ms=now_ms() - 1))
        assert len(here.server.requests) == 1
        assert (await here.call()).status == 200


class Quiet(asyncio.Transport):
    """A transport that takes everything and says nothing."""

    closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        del data

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


FRAME = st.builds(
    lambda kind, flags, stream, payload: (
        len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
    ),
    st.integers(0, 10),
    st.integers(0, 255),
    st.sampled_from([0, 1, 3, 2**31 - 1]),
    st.binary(max_size=40),
)


@given(st.lists(FRAME | st.binary(max_size=30), max_size=12))
async def test_no_bytes_of_a_peer_break_more_than_its_connection(frames: list[bytes]) -> None:
    connection, transport = Connection(), Quiet()
    connection.connection_made(transport)
    connection.data_received(bytes.fromhex("000000040000000000"))
    written = WireRequest(method="GET", target="/", headers=[(b"host", b"x")], body=None)
    exchange = await connection.begin(written, LIMITS)
    for frame in frames:
        if not transport.closed:
            connection.data_received(frame)
    connection.connection_lost(None)
    try:
        async with asyncio.timeout(5):
            await exchange.head()
            while await exchange.read():
                pass
    except (UnknownOutcome, UpstreamFailed, AnswerRefused):
        pass
