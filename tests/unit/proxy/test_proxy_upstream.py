"""Upstream calls over real sockets: what passes, what is refused, and what each failure is called."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest

from nomos.catalogue import OutgoingRequest, build_request, load_catalogue
from nomos.errors import DestinationRefused, Expired, LimitExceeded, UnknownOutcome, UpstreamFailed
from nomos.messages import now_ms
from nomos_proxy.answer import AnswerRefused
from nomos_proxy.destination import Origin, parse_development_origin
from nomos_proxy.dial import tls_context
from nomos_proxy.exchange import Limits
from nomos_proxy.pool import PoolLimits
from nomos_proxy.upstream import Upstreams
from nomos_runtime.embedded.upstream import EmbeddedUpstream, Fault, FaultKind
from nomos_runtime.embedded.upstream_state import Planted
from nomos_runtime.secret import Secret

CATALOGUE = load_catalogue(Path(__file__).parents[3] / "connectors")
BODIES = Path(__file__).parents[2] / "fixtures" / "github"
REPO = CATALOGUE.parse_resource("github:repo/acme/site")
LIMITS = Limits(total_seconds=5.0)
SHORT = Limits(total_seconds=0.3)


def request(action_id: str, **args: object) -> OutgoingRequest:
    return build_request(CATALOGUE.action(action_id), REPO, args)


GET = request("github:repos.get")
DELETE = request("github:repos.delete")


async def test_a_recorded_body_comes_back_under_the_name_that_was_asked_for(
    upstreams: Upstreams, origin: Origin, bearer: Secret
) -> None:
    answer = await upstreams.call(origin, GET, bearer, LIMITS)
    assert answer.status == 200
    assert orjson.loads(answer.body)["full_name"] == "acme/site"


async def test_only_listed_answer_headers_pass(upstreams: Upstreams, origin: Origin, bearer: Secret) -> None:
    answer = await upstreams.call(origin, GET, bearer, LIMITS)
    assert dict(answer.headers) == {
        "content-type": "application/json; charset=utf-8",
        "x-github-request-id": "0000:0000",
    }


async def test_the_upstream_sees_the_bearer_and_the_connectors_headers_and_nothing_else(
    upstreams: Upstreams, upstream: EmbeddedUpstream, origin: Origin, bearer: Secret
) -> None:
    headers = CATALOGUE.connectors["github"].headers
    await upstreams.call(origin, request("github:issues.create", title="t"), bearer, LIMITS, headers)
    seen = upstream.seen[0]
    assert seen.bearer_ok
    assert seen.headers == {
        "host": f"127.0.0.1:{upstream.port}",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "content-length": "13",
        **dict(headers),
    }
    assert seen.body == b'{"title":"t"}'


async def test_a_wrong_credential_is_an_answer_of_401(upstreams: Upstreams, origin: Origin) -> None:
    answer = await upstreams.call(origin, GET, Secret(b"wrong"), LIMITS)
    assert (answer.status, orjson.loads(answer.body)["message"]) == (401, "Bad credentials")


@pytest.mark.parametrize("credential", [b"", b"a b", b"a\r\nx: y", b"a\0", "ü".encode(), b"a,b"])
async def test_a_credential_that_is_no_bearer_token_is_not_sent(
    upstreams: Upstreams, upstream: EmbeddedUpstream, origin: Origin, credential: bytes
) -> None:
    with pytest.raises(DestinationRefused):
        await upstreams.call(origin, GET, Secret(credential), LIMITS)
    assert not upstream.seen


@pytest.mark.parametrize(
    "header",
    [
        ("host", "evil.example"),
        ("authorization", "Basic x"),
        ("transfer-encoding", "chunked"),
        ("Accept", "x"),
        ("x-a", "a\r\nb: c"),
        ("x-a", ""),
        ("x a", "b"),
    ],
)
async def test_a_header_that_a_connector_may_not_set_is_not_sent(
    upstreams: Upstreams, upstream: EmbeddedUpstream, origin: Origin, bearer: Secret, header: tuple[str, str]
) -> None:
    with pytest.raises(DestinationRefused):
        await upstreams.call(origin, GET, bearer, LIMITS, (header,))
    assert not upstream.seen


async def test_a_connection_is_kept_and_used_again(
    upstreams: Upstreams, upstream: EmbeddedUpstream, origin: Origin, bearer: Secret
) -> None:
    for _ in range(3):
        await upstreams.call(origin, GET, bearer, LIMITS)
    assert [seen.connection for seen in upstream.seen] == [1, 1, 1]


async def test_calls_at_once_share_a_bounded_pool(
    upstreams: Upstreams, upstream: EmbeddedUpstream, origin: Origin, bearer: Secret
) -> None:
    answers = await asyncio.gather(*[upstreams.call(origin, GET, bearer, LIMITS) for _ in range(6)])
    assert {answer.status for answer in answers} == {200}
    assert {seen.connection for seen in upstream.seen} == {1, 2}


async def test_calls_beyond_the_waiting_limit_are_refused_unsent(
    upstreams: Upstreams, upstream: EmbeddedUpstream, origin: Origin, bearer: Secret
) -> None:
    upstream.fault = Fault(kind=FaultKind.HANG)
    ends = await asyncio.gather(
        *[upstreams.call(origin, GET, bearer, SHORT) for _ in range(10)], return_exceptions=True
    )
    unsent = [end for end in ends if isinstance(end, UpstreamFailed)]
    unknown = [end for end in ends if isinstance(end, UnknownOutcome)]
    # two hang, four wait, and four are refused at once
    assert len(unsent) + len(unknown) == 10
    assert len(unsent) >= 4
    assert sum("calls wait" in end.detail for end in unsent) == 4


async def test_a_connection_that_rested_too_long_is_not_used(
    upstream: EmbeddedUpstream, origin: Origin, bearer: Secret
) -> None:
    client = Upstreams(context=tls_context(), development_origins={origin}, pool_limits=PoolLimits(idle_seconds=0.0))
    await client.call(origin, GET, bearer, LIMITS)
    await client.call(origin, GET, bearer, LIMITS)
    client.close()
    assert [seen.connection for seen in upstream.seen] == [1, 2]


async def test_an_answer_that_takes_too_long_is_an_unknown_outcome(
    upstreams: Upstreams, upstream: EmbeddedUpstream, origin: Origin, bearer: Secret
) -> None:
    upstream.fault = Fault(kind=FaultKind.HANG)
    with pytest.raises(UnknownOutcome):
        await upstreams.call(origin, DELETE, bearer, SHORT)
    assert upstream.count("DELETE", "/repos/acme/site") == 1


async def test_a_slow_answer_inside_the_limit_is_an_answer(
    upstreams: Upstreams, upstream: EmbeddedUpstream, origin: Origin, bearer: Secret
) -> None:
    upstream.fault = Fault(kind=FaultKind.SLOW, delay_seconds=0.05)
    assert (await upstreams.call(origin, GET, bearer, LIMITS)).status == 200


@pytest.mark.parametrize("method", [GET, DELETE])
@pytest.mark.parametrize("kind", [FaultKind.CLOSE, FaultKind.GARBAGE, FaultKind.BAD_CHUNKS, FaultKind.ENDLESS_HEAD])
async def test_a_broken_answer_is_an_unknown_outcome(
    upstreams: Upstreams,
    upstream: EmbeddedUpstream,
    origin: Origin,
    bearer: Secret,
    kind: FaultKind,
    method: OutgoingRequest,
) -> None:
    upstream.fault = Fault(kind=kind)
    with pytest.raises(UnknownOutcome):
        await upstreams.call(origin, method, bearer, LIMITS)
    assert len(upstream.seen) == 1


async def test_an_answer_that_is_cut_short_is_an_unknown_outcome(
    upstreams: Upstreams, upstream: EmbeddedUpstream, origin: Origin, bearer: Secret
) -> None:
    upstream.fault = Fault(kind=FaultKind.TRUNCATE)
    with pytest.raises(UnknownOutcome):
        await upstreams.call(origin, GET, bearer, LIMITS)


@pytest.mark.parametrize(
    "kind", [FaultKind.ENCODED, FaultKind.UNFRAMED, FaultKind.TWICE_FRAMED, FaultKind.ENDLESS_BODY]
)
async def test_an_answer_that_cannot_be_made_safe_is_refused_with_its_status(
    upstreams: Upstreams, upstream: EmbeddedUpstream, origin: Origin, bearer: Secret, kind: FaultKind
) -> None:
    upstream.fault = Fault(kind=kind)
    with pytest.raises(AnswerRefused) as raised:
        await upstreams.call(origin, GET, bearer, LIMITS)
    assert raised.value.status == 200


@pytest.mark.parametrize(("size", "is_allowed"), [(10_000, True), (10_001, False)])
async def test_a_body_may_be_as_large_as_its_limit_and_no_larger(
    upstreams: Upstreams, upstream: EmbeddedUpstream, origin: Origin, bearer: Secret, size: int, is_allowed: bool
) -> None:
    upstream.fault = Fault(kind=FaultKind.OVERSIZE, size_bytes=size)
    limits = Limits(total_seconds=5.0, body_bytes=10_000)
    if is_allowed:
        assert len((await upstreams.call(origin, GET, bearer, limits)).body) == size
        return
    with pytest.raises(AnswerRefused):
        await upstreams.call(origin, GET, bearer, limits)


async def test_an_answer_with_too_many_headers_is_refused(upstreams: Upstreams, origin: Origin, bearer: Secret) -> None:
    with pytest.raises(AnswerRefused):
        await upstreams.call(origin, GET, bearer, Limits(headers=3))


async def test_a_large_answer_passes_the_read_ahead(
    upstreams: Upstreams, upstream: EmbeddedUpstream, origin: Origin, bearer: Secret
) -> None:
    upstream.fault = Fault(kind=FaultKind.OVERSIZE, size_bytes=700_000)
    assert len((await upstreams.call(origin, GET, bearer, LIMITS)).body) == 700_000


async def test_a_redirect_is_an_answer_and_nobody_follows_it(
    upstreams: Upstreams, upstream: EmbeddedUpstream, origin: Origin, bearer: Secret
) -> None:
    upstream.fault = Fault(kind=FaultKind.REDIRECT, location=f"{upstream.origin}/repos/acme/other")
    answer = await upstreams.call(origin, GET, bearer, LIMITS)
    assert (answer.status, answer.headers, answer.body) == (302, (), b"")
    assert [seen.path for seen in upstream.seen] == ["/repos/acme/site"]


async def test_a_second_answer_that_nobody_asked_for_is_given_to_nobody(
    upstreams: Upstreams, upstream: EmbeddedUpstream, origin: Origin, bearer: Secret
) -> None:
    upstream.fault = Fault(kind=FaultKind.SPLIT)
    for _ in range(3):
        answer = await upstreams.call(origin, GET, bearer, LIMITS)
        assert orjson.loads(answer.body)["full_name"] == "acme/site"
    assert [seen.connection for seen in upstream.seen] == [1, 2, 3]


async def test_bytes_on_a_resting_connection_end_it(origin: Origin, bearer: Secret) -> None:
    connections: list[asyncio.StreamWriter] = []
    good = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(good)
        if len(connections) == 1:
            await asyncio.sleep(0.05)  # so that the answer is read and the connection rests before the forged one
            writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n"forged"')
            await reader.read()
            ended.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    local = Origin(scheme="http", host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    client = Upstreams(context=tls_context(), development_origins={local})
    await client.call(local, GET, bearer, LIMITS)
    async with asyncio.timeout(5):
        await ended.wait()
    assert (await client.call(local, GET, bearer, LIMITS)).body == b"{}"
    assert len(connections) == 2
    client.close()
    for writer in connections:
        writer.close()
    server.close()


async def test_a_get_lost_on_a_kept_connection_is_sent_again_once(
    upstreams: Upstreams, upstream: EmbeddedUpstream, origin: Origin, bearer: Secret
) -> None:
    await upstreams.call(origin, GET, bearer, LIMITS)
    upstream.fault = Fault(kind=FaultKind.CLOSE_KEPT)
    assert (await upstreams.call(origin, GET, bearer, LIMITS)).status == 200
    assert [seen.connection for seen in upstream.seen] == [1, 1, 2]


async def test_a_write_lost_on_a_kept_connection_is_an_unknown_outcome_and_not_sent_again(
    upstreams: Upstreams, upstream: EmbeddedUpstream, origin: Origin, bearer: Secret
) -> None:
    await upstreams.call(origin, GET, bearer, LIMITS)
    upstream.fault = Fault(kind=FaultKind.CLOSE_KEPT)
    with pytest.raises(UnknownOutcome):
        await upstreams.call(origin, DELETE, bearer, LIMITS)
    assert upstream.count("DELETE", "/repos/acme/site") == 1


async def test_a_get_lost_on_a_fresh_connection_is_not_sent_again(
    upstreams: Upstreams, upstream: EmbeddedUpstream, origin: Origin, bearer: Secret
) -> None:
    upstream.fault = Fault(kind=FaultKind.CLOSE)
    with pytest.raises(UnknownOutcome):
        await upstreams.call(origin, GET, bearer, LIMITS)
    assert len(upstream.seen) == 1


async def test_a_call_after_the_upstream_closed_uses_a_fresh_connection(
    upstreams: Upstreams, upstream: EmbeddedUpstream, origin: Origin, bearer: Secret
) -> None:
    upstream.fault = Fault(kind=FaultKind.CLOSE_AFTER)
    for _ in range(3):
        assert (await upstreams.call(origin, GET, bearer, LIMITS)).status == 200


async def test_a_cancelled_call_takes_its_connection_with_it(
    upstreams: Upstreams, upstream: EmbeddedUpstream, origin: Origin, bearer: Secret
) -> None:
    upstream.fault = Fault(kind=FaultKind.SLOW, delay_seconds=0.2)
    for _ in range(5):
        task = asyncio.create_task(upstreams.call(origin, GET, bearer, LIMITS))
        await asyncio.sleep(0.03)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    upstream.fault = Fault()
    # five cancelled calls in a pool of two: their places came back, and none of their answers is taken for this one
    answer = await upstreams.call(origin, DELETE, bearer, LIMITS)
    assert answer.status == 204


async def test_nobody_listening_means_nothing_was_sent(bearer: Secret) -> None:
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    local = Origin(scheme="http", host="127.0.0.1", port=server.sockets[0].getsockname()[1])
    server.close()
    await server.wait_closed()
    client = Upstreams(context=tls_context(), development_origins={local})
    with pytest.raises(UpstreamFailed):
        await client.call(local, DELETE, bearer, LIMITS)


async def test_an_origin_that_is_not_listed_is_refused_before_it_is_resolved(
    upstream: EmbeddedUpstream, origin: Origin, bearer: Secret
) -> None:
    async def resolver(_host: str, _port: int) -> list[str]:
        raise AssertionError("resolved")

    client = Upstreams(context=tls_context(), resolver=resolver)
    with pytest.raises(DestinationRefused):
        await client.call(origin, GET, bearer, LIMITS)
    assert not upstream.seen


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["140.82.121.6", "127.0.0.1"], ["64:ff9b::169.254.169.254"]])
async def test_a_name_that_leads_inside_is_refused_without_a_connection(
    upstream: EmbeddedUpstream, bearer: Secret, addresses: list[str]
) -> None:
    async def resolver(_host: str, _port: int) -> list[str]:
        return addresses

    client = Upstreams(context=tls_context(), resolver=resolver)
    with pytest.raises(DestinationRefused):
        await client.call(Origin(scheme="https", host="rebind.example", port=upstream.port), GET, bearer, LIMITS)
    assert not upstream.seen


async def test_a_name_is_resolved_once_for_a_connection(
    authority: object, upstream: EmbeddedUpstream, bearer: Secret
) -> None:
    asked: list[str] = []

    async def resolver(host: str, _port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"]

    named = Origin(scheme="http", host="upstream.test", port=upstream.port)
    client = Upstreams(context=tls_context(), resolver=resolver, development_origins={named})
    await client.call(named, GET, bearer, LIMITS)
    await client.call(named, GET, bearer, LIMITS)
    client.close()
    assert asked == ["upstream.test"]
    assert upstream.seen[0].headers["host"] == f"upstream.test:{upstream.port}"


async def test_a_resolver_that_hangs_means_nothing_was_sent(bearer: Secret) -> None:
    async def resolver(_host: str, _port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    client = Upstreams(context=tls_context(), resolver=resolver)
    with pytest.raises(UpstreamFailed):
        await client.call(Origin(scheme="https", host="slow.example", port=443), GET, bearer, SHORT)


async def test_a_closed_client_calls_nobody(upstreams: Upstreams, origin: Origin, bearer: Secret) -> None:
    upstreams.close()
    with pytest.raises(UpstreamFailed):
        await upstreams.call(origin, GET, bearer, LIMITS)


@pytest.mark.parametrize("kind", list(FaultKind))
async def test_no_error_holds_the_credential(
    upstreams: Upstreams, upstream: EmbeddedUpstream, origin: Origin, bearer: Secret, token: str, kind: FaultKind
) -> None:
    upstream.fault = Fault(kind=kind, location="http://elsewhere.example/")
    try:
        await upstreams.call(origin, GET, bearer, SHORT)
    except (UnknownOutcome, AnswerRefused) as error:
        # this test's own frame knows the token; the frames of the proxy below it must not
        frames = traceback.walk_tb(error.__traceback__.tb_next if error.__traceback__ else None)
        shown = str(traceback.StackSummary.extract(frames, capture_locals=True).format())
        shown += "".join(traceback.format_exception(error))
        assert token not in shown


async def test_planted_text_reaches_the_proxy_and_not_the_recording(token: str, bearer: Secret) -> None:
    planted = Planted(secret="s" * 20, hidden="obey", echo_credential=True)
    bodies = Path(__file__).parents[2] / "fixtures" / "github"
    server = await EmbeddedUpstream.start(bodies=bodies, token=token, planted=planted)
    local = Origin(scheme="http", host="127.0.0.1", port=server.port)
    client = Upstreams(context=tls_context(), development_origins={local})
    answer = await client.call(local, request("github:issues.get", issue_number=13), bearer, LIMITS)
    body = orjson.loads(answer.body)["body"]
    assert "s" * 20 in body
    assert token in body
    assert "\U000e006f\U000e0062" in body
    client.close()
    await server.close()


async def test_an_origin_that_rests_makes_room_for_another_and_one_in_use_does_not(bearer: Secret, token: str) -> None:
    """Every tenant may name hosts of its own; none of them may use up the places of all."""
    servers = [await EmbeddedUpstream.start(bodies=BODIES, token=token) for _ in range(4)]
    origins = [parse_development_origin(server.origin) for server in servers]
    client = Upstreams(
        context=tls_context(), development_origins=set(origins), pool_limits=PoolLimits(connections=2, upstreams=2)
    )
    try:
        for origin in origins:
            assert (await client.call(origin, GET, bearer, LIMITS)).status == 200
        # the two used last are kept, the oldest first to go
        assert (await client.call(origins[3], GET, bearer, LIMITS)).status == 200
        assert (await client.call(origins[2], GET, bearer, LIMITS)).status == 200
        assert [server.seen[-1].connection for server in servers] == [1, 1, 1, 1]
        assert (await client.call(origins[0], GET, bearer, LIMITS)).status == 200
        assert servers[0].seen[-1].connection == 2, "its connection had been closed"
        for at in (0, 2):
            servers[at].fault = Fault(kind=FaultKind.HANG)
        hanging = [asyncio.create_task(client.call(origins[at], GET, bearer, SHORT)) for at in (0, 2)]
        await asyncio.sleep(0.05)
        with pytest.raises(LimitExceeded):
            await client.call(origins[1], GET, bearer, LIMITS)
        assert all(isinstance(e, UnknownOutcome) for e in await asyncio.gather(*hanging, return_exceptions=True))
        assert (await client.call(origins[1], GET, bearer, LIMITS)).status == 200
    finally:
        client.close()
        for server in servers:
            await server.close()


async def test_nothing_is_begun_after_its_moment_however_late_that_shows(
    upstreams: Upstreams, upstream: EmbeddedUpstream, origin: Origin, bearer: Secret
) -> None:
    """A process that stood still between its last look at the clock and the first byte."""
    late = Limits(total_seconds=5.0, begin_by_ms=now_ms() - 1)
    for send in (upstreams.call, upstreams.open):
        with pytest.raises(Expired, match="nothing was sent"):
            await send(origin, DELETE, bearer, late)
    assert not upstream.seen
    in_time = Limits(total_seconds=5.0, begin_by_ms=now_ms() + 5_000)
    assert (await upstreams.call(origin, GET, bearer, in_time)).status == 200
