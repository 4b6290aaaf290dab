"""What is plain means the same to h11: each request that is written and each answer that is read, byte for byte."""

from __future__ import annotations

import h11
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from nomos_proxy.plainhttp import parse_plain, write_plain

NAMES = st.sampled_from([
    b"Content-Length", b"content-length", b"Transfer-Encoding", b"Connection", b"Content-Type", b"X-Thing",
    b"Set-Cookie", b"bad name", b"", b"X\x00", b"\xc3\xa9", b" folded",
])  # fmt: skip
VALUES = st.one_of(
    st.sampled_from([b"5", b"0", b"05", b"5, 5", b"-1", b"chunked", b"keep-alive", b"Keep-Alive", b"close"]),
    st.binary(max_size=12),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=12).map(str.encode),
)
STATUS_LINES = st.one_of(
    st.sampled_from([
        b"HTTP/1.1 200 OK", b"HTTP/1.1 200", b"HTTP/1.1 404 Not Found", b"HTTP/1.1 204 No Content", b"HTTP/1.0 200 OK",
        b"HTTP/1.1 100 Continue", b"HTTP/1.1 304 Not Modified", b"HTTP/2 200", b"HTTP/1.1 2000 OK", b"http/1.1 200 OK",
        b"HTTP/1.1  200 OK", b"HTTP/1.1 600 Odd", b"HTTP/1.1 200 \xff",
    ]),
    st.binary(max_size=20),
)  # fmt: skip
COLONS = st.sampled_from([b": ", b":", b" : ", b":\t ", b""])
LINES = st.tuples(NAMES, COLONS, VALUES).map(b"".join)
PLAIN = ("HTTP/1.1 200 OK", "Content-Type: application/json", "Content-Length: 5")


def read_by_h11(head: bytes, body: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes, bool]:
    """Status, headers, body, and whether a further request may follow on the connection."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "h")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(head + b"\r\n\r\n" + body)
    response = connection.next_event()
    assert isinstance(response, h11.Response)
    received = b""
    while isinstance(data := connection.next_event(), h11.Data):
        received += data.data
    assert isinstance(data, h11.EndOfMessage)
    return response.status_code, list(response.headers), received, connection.their_state is h11.DONE


@given(status=STATUS_LINES, lines=st.lists(LINES, max_size=5), end=st.sampled_from([b"\r\n", b"\n"]))
def test_an_answer_that_is_plain_is_the_same_to_h11(status: bytes, lines: list[bytes], end: bytes) -> None:
    head = end.join([status, *lines])
    plain = parse_plain(head)
    event("plain" if plain else "not plain")
    if plain is not None and plain.length < 1_000:
        body = b"b" * plain.length
        assert read_by_h11(head, body) == (plain.status, plain.fields, body, True)


OTHER_LINES = st.tuples(st.just(b"X-Thing"), COLONS, VALUES).map(b"".join)


@given(lines=st.lists(OTHER_LINES, max_size=4), length=st.integers(0, 9))
def test_an_answer_with_one_length_and_other_headers_is_the_same_to_h11(lines: list[bytes], length: int) -> None:
    head = b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"Content-Length:%d" % length])
    plain = parse_plain(head)
    event("plain" if plain else "not plain")
    if plain is not None:
        assert read_by_h11(head, b"b" * length) == (plain.status, plain.fields, b"b" * length, True)


def test_an_answer_of_a_known_length_is_plain() -> None:
    plain = parse_plain("\r\n".join([*PLAIN, "Connection: keep-alive", "Set-Cookie: a", "Set-Cookie: b c"]).encode())
    assert plain is not None
    assert (plain.status, plain.length) == (200, 5)
    assert plain.fields == [
        (b"content-type", b"application/json"), (b"content-length", b"5"), (b"connection", b"keep-alive"),
        (b"set-cookie", b"a"), (b"set-cookie", b"b c"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        "Transfer-Encoding: chunked", "Content-Length: 5", "Content-Length: 6", "Connection: close", "Upgrade: h2c",
        " folded: line", "X-Thing : v", "X-Thing: \x00", "X-Thing: \u00e9", "X-Thing", "X-Thing: a\nContent-Length: 9",
        "X-Thing:",
    ],
)  # fmt: skip
def test_an_answer_with_anything_unusual_is_not_plain(line: str) -> None:
    assert parse_plain("\r\n".join([*PLAIN, line]).encode()) is None
    assert parse_plain("\r\n".join([PLAIN[0], line, *PLAIN[1:]]).encode()) is None


@pytest.mark.parametrize("first", ["HTTP/1.1 204 No Content", "HTTP/1.1 304 Not Modified", "HTTP/1.1 100 Continue",
                                   "HTTP/1.0 200 OK", "HTTP/1.1 20 OK", "", "\u00ff"])  # fmt: skip
def test_a_status_line_that_needs_more_thought_is_not_plain(first: str) -> None:
    assert parse_plain("\r\n".join([first, *PLAIN[1:]]).encode("latin-1")) is None


def test_an_answer_without_a_length_is_not_plain() -> None:
    assert parse_plain(b"HTTP/1.1 200 OK\r\nContent-Type: application/json") is None


REQUEST_NAMES = st.sampled_from([
    b"host", b"accept", b"content-length", b"connection", b"transfer-encoding", b"expect", b"authorization", b"Accept",
    b"a b", b"",
])  # fmt: skip
REQUEST_VALUES = st.one_of(st.sampled_from([b"3", b"0", b"Bearer t", b"a\r\nb: c", b" a", b""]), st.binary(max_size=8))


@given(
    method=st.sampled_from(["GET", "POST", "DELETE", "HEAD", "get", "G T", "\u00e9"]),
    target=st.sampled_from(["/", "/a?b=c", "", "a", "/a b", "/\r\n", "/\u00e9"]),
    headers=st.lists(st.tuples(REQUEST_NAMES, REQUEST_VALUES), max_size=4),
    body=st.sampled_from([None, b"", b"abc"]),
    has_host=st.booleans(),
)
def test_a_request_that_is_plain_is_written_as_h11_writes_it(
    method: str, target: str, headers: list[tuple[bytes, bytes]], body: bytes | None, has_host: bool
) -> None:
    sent = [(b"host", b"api.example.com"), *headers] if has_host else headers
    plain = write_plain(method, target, sent, body)
    event("plain" if plain else "not plain")
    if plain is not None:
        connection = h11.Connection(h11.CLIENT)
        head = connection.send(h11.Request(method=method, target=target, headers=sent))
        data = b"" if body is None else connection.send(h11.Data(data=body))
        end = connection.send(h11.EndOfMessage())
        assert plain == b"".join(part or b"" for part in (head, data, end))
        assert connection.our_state is h11.DONE


def test_a_request_with_and_without_a_body_is_plain() -> None:
    host = (b"host", b"api.example.com")
    assert write_plain("GET", "/a?b=c", [host, (b"accept", b"*/*")], None) == (
        b"GET /a?b=c HTTP/1.1\r\nhost: api.example.com\r\naccept: */*\r\n\r\n"
    )
    assert write_plain("POST", "/a", [host, (b"content-length", b"3")], b"abc") == (
        b"POST /a HTTP/1.1\r\nhost: api.example.com\r\ncontent-length: 3\r\n\r\nabc"
    )
    assert write_plain("POST", "/a", [host, (b"content-length", b"0")], None) is not None


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ((b"content-length", b"4"), b"abc"), ((b"content-length", b"3"), None), ((b"accept", b"a"), b"abc"),
        ((b"accept", b"a\r\nb: c"), None), ((b"accept", b"\xff"), None), ((b"accept\r\nb", b"c"), None),
        ((b"connection", b"close"), None), ((b"host", b"other"), None), ((b"Accept", b"a"), None),
    ],
)  # fmt: skip
def test_a_request_with_anything_unusual_is_not_plain(header: tuple[bytes, bytes], body: bytes | None) -> None:
    assert write_plain("POST", "/a", [(b"host", b"api.example.com"), header], body) is None
