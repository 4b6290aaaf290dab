"""Bodies in pieces at the sanitizer: in order, within limits, and with the same outcome as one message."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from nomos.errors import Conflict, LimitExceeded, NomosError, NotFound, ResponseRefused, Unavailable
from nomos.messages import PIECE_BYTES_MAX
from nomos.servicemessages import BodyOpened, BodyPiece, CleanPiece, OpenBody
from nomos_sanitizer import openbodies
from nomos_sanitizer.domain import Sanitizer
from nomos_sanitizer.limits import BODY_BYTES_MAX
from nomos_sanitizer.openbodies import IDLE_SECONDS, OPEN_MAX, OPEN_PER_TENANT_MAX, OpenBodies
from nomos_sanitizer.scrub import PLAIN

EVENTS, JSON = "text/event-stream", "application/json"


class Bench:
    """Open bodies with a clock in the test's hands."""

    def __init__(self, sanitizer: Sanitizer, threads: ThreadPoolExecutor) -> None:
        self.now = 1_000.0
        self.sanitizer = sanitizer
        self.bodies = OpenBodies(
            sanitizer, threads, replica="rp", options=lambda tenant, pii: PLAIN, clock=lambda: self.now
        )

    def open(self, content_type: str, tenant: str = "acme", *, is_live: bool = True, **headers: str) -> BodyOpened:
        named = [("content-type", content_type), *headers.items()]
        return self.bodies.open(OpenBody(v=1, tenant=tenant, content_type=content_type, headers=named, is_live=is_live))

    async def piece(self, opened: BodyOpened, seq: int, data: bytes = b"", step: Any = "more") -> CleanPiece:
        return await self.bodies.piece(BodyPiece(v=1, body=opened.body, seq=seq, data=data, step=step))

    async def through(self, opened: BodyOpened, body: bytes, size: int) -> tuple[bytes, CleanPiece]:
        """All of a body in pieces of ``size``, and the last answer."""
        out, seq = b"", 0
        chunks = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
        for number, chunk in enumerate(chunks):
            seq += 1
            given = await self.piece(opened, seq, chunk, "last" if number == len(chunks) - 1 else "more")
            out += given.data
        while not given.is_over:
            seq += 1
            given = await self.piece(opened, seq)
            assert len(given.data) <= PIECE_BYTES_MAX
            out += given.data
        return out, given


@pytest.fixture
def bench(sanitizer: Sanitizer) -> Iterator[Bench]:
    threads = ThreadPoolExecutor(2)
    yield Bench(sanitizer, threads)
    threads.shutdown()


async def test_a_live_body_leaves_with_its_pieces_and_reports_at_its_end(bench: Bench, github_token: str) -> None:
    opened = bench.open(EVENTS)
    assert (opened.is_live, opened.is_lines) == (True, True)
    assert (await bench.piece(opened, 1, b"data: one\n\n")).data == b"data: one\n\n"
    assert (await bench.piece(opened, 2, b"data: " + github_token[:9].encode())).data == b""
    given = await bench.piece(opened, 3, github_token[9:].encode() + b"\n\n", "last")
    assert given.data == b"data: [redacted:github-token]\n\n"
    assert given.is_over
    assert [line["rule"] for line in given.removed] == ["github-token"]
    with pytest.raises(NotFound):
        await bench.piece(opened, 4)


async def test_a_document_is_collected_and_comes_out_as_it_would_in_one_message(
    bench: Bench, github_token: str
) -> None:
    rows = [{"n": number, "text": "some words"} for number in range(30_000)]
    rows.append({"text": f"seen {github_token}"})
    body = json.dumps(rows).encode()
    whole = bench.sanitizer.sanitize(body, content_type=JSON, headers=(), credentials=())
    for size in (100_000, PIECE_BYTES_MAX):
        opened = bench.open(JSON, etag=github_token)
        assert not opened.is_live
        out, last = await bench.through(opened, body, size)
        assert out == whole.body
        assert [line["where"] for line in last.removed] == ["/30000/text", "header:etag"]
        assert dict(last.headers)["etag"] == "[redacted:github-token]"


async def test_of_a_body_that_is_not_live_nothing_leaves_before_its_end(bench: Bench) -> None:
    opened = bench.open("text/plain", is_live=False)
    given = await bench.piece(opened, 1, b"words and words\n" * 10_000)
    assert (given.data, given.has_more, given.is_over) == (b"", False, False)


async def test_headers_are_cleaned_before_the_first_piece(bench: Bench, github_token: str) -> None:
    opened = bench.open(EVENTS, **{"x-request-id": github_token})
    assert dict(opened.headers)["x-request-id"] == "[redacted:github-token]"
    assert [line["where"] for line in opened.removed] == ["header:x-request-id"]
    given = await bench.piece(opened, 1, b"", "last")
    assert given.removed == opened.removed


@pytest.mark.parametrize("seq", [0, 2, 3])
async def test_a_piece_out_of_its_order_is_refused_and_ends_the_body(bench: Bench, seq: int) -> None:
    opened = bench.open(EVENTS)
    with pytest.raises(Conflict, match="piece 1 of the body was expected"):
        await bench.piece(opened, seq, b"data: x\n\n")
    with pytest.raises(NotFound):
        await bench.piece(opened, 1, b"data: x\n\n")


async def test_nothing_may_follow_the_last_piece(bench: Bench) -> None:
    opened = bench.open("text/plain", is_live=False)
    body = b"words and words\n" * 40_000
    for seq, at in enumerate(range(0, len(body), PIECE_BYTES_MAX), start=1):
        await bench.piece(opened, seq, body[at : at + PIECE_BYTES_MAX])
    given = await bench.piece(opened, seq + 1, b"", "last")
    assert given.has_more
    with pytest.raises(Conflict, match="has come already"):
        await bench.piece(opened, seq + 2, b"more")


async def test_a_piece_a_body_and_all_together_have_limits(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LimitExceeded, match="PIECE_BYTES_MAX"):
        await bench.piece(bench.open(EVENTS), 1, b"x" * (PIECE_BYTES_MAX + 1))
    opened, seq = bench.open(JSON), 0
    with pytest.raises(ResponseRefused, match=f"over {BODY_BYTES_MAX} bytes"):
        while seq * PIECE_BYTES_MAX <= BODY_BYTES_MAX:
            seq += 1
            await bench.piece(opened, seq, b" " * PIECE_BYTES_MAX)
    monkeypatch.setattr(openbodies, "HELD_BYTES_MAX", 100_000)
    first, second = bench.open(JSON), bench.open(JSON, "other")
    await bench.piece(first, 1, b" " * 60_000)
    with pytest.raises(Unavailable, match="HELD_BYTES_MAX is 100000"):
        await bench.piece(second, 1, b" " * 60_000)
    await bench.piece(first, 2, b" " * 30_000)


@pytest.mark.parametrize(
    ("content_type", "piece"), [(EVENTS, b"data: " + b"x" * 60_000), ("text/plain", b"a " * 30_000)]
)
async def test_what_a_live_body_holds_back_counts(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, content_type: str, piece: bytes
) -> None:
    monkeypatch.setattr(openbodies, "HELD_BYTES_MAX", 75_000)
    first, second = bench.open(content_type), bench.open(content_type, "other")
    await bench.piece(first, 1, piece)
    with pytest.raises(Unavailable, match="HELD_BYTES_MAX is 75000"):
        await bench.piece(second, 1, piece)


async def test_one_tenant_s_bodies_take_no_room_of_another_s(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openbodies, "HELD_PER_TENANT_BYTES_MAX", 100_000)
    first, second, other = bench.open(JSON), bench.open(JSON), bench.open(JSON, "other")
    await bench.piece(first, 1, b" " * 60_000)
    with pytest.raises(Unavailable, match="HELD_PER_TENANT_BYTES_MAX is 100000"):
        await bench.piece(second, 1, b" " * 60_000)
    await bench.piece(other, 1, b" " * 60_000)


async def test_a_body_that_nobody_goes_on_with_takes_no_room(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openbodies, "HELD_BYTES_MAX", 100_000)
    left, kept = bench.open(JSON), bench.open(JSON, "other")
    await bench.piece(left, 1, b" " * 60_000)
    bench.now += IDLE_SECONDS + 1
    await bench.piece(kept, 1, b" " * 60_000)
    with pytest.raises(NotFound):
        await bench.piece(left, 2, b" ")


def test_a_tenant_has_so_many_bodies_open_and_takes_no_place_of_another(bench: Bench) -> None:
    for _ in range(OPEN_PER_TENANT_MAX):
        bench.open(EVENTS)
    with pytest.raises(Unavailable, match="OPEN_PER_TENANT_MAX"):
        bench.open(EVENTS)
    for number in range(OPEN_MAX - OPEN_PER_TENANT_MAX):
        bench.open(EVENTS, f"tenant-{number}")
    with pytest.raises(Unavailable, match="OPEN_MAX"):
        bench.open(EVENTS, "one-more")


async def test_a_body_that_nobody_goes_on_with_is_given_up(bench: Bench) -> None:
    opened = bench.open(EVENTS)
    bench.now += IDLE_SECONDS + 1
    kept = bench.open(EVENTS)
    with pytest.raises(NotFound):
        await bench.piece(opened, 1, b"data: x\n\n")
    assert (await bench.piece(kept, 1, b"data: x\n\n")).data


async def test_a_body_that_nobody_wants_is_dropped_and_its_place_is_free(bench: Bench) -> None:
    for _ in range(OPEN_PER_TENANT_MAX + 5):
        opened = bench.open(EVENTS)
        assert (await bench.piece(opened, 1, step="drop")).is_over
        with pytest.raises(NotFound):
            await bench.piece(opened, 2)


async def test_a_body_that_cannot_be_made_safe_is_refused_and_forgotten(bench: Bench) -> None:
    opened = bench.open(EVENTS)
    with pytest.raises(ResponseRefused, match="not text"):
        await bench.piece(opened, 1, b"data: \xff\xfe\n\n")
    with pytest.raises(NotFound):
        await bench.piece(opened, 2, b"data: x\n\n")


def test_a_body_in_an_encoding_that_is_not_read_is_not_live_and_is_refused_at_its_end(bench: Bench) -> None:
    assert not bench.open("text/plain; charset=utf-16").is_live
    assert not bench.open("text/html; charset=iso-8859-1").is_live
    with pytest.raises(NomosError, match="content encoding"):
        bench.open(EVENTS, **{"content-encoding": "gzip"})
