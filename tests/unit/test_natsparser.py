"""The parser of what the bus sends: however the bytes are cut, and whatever they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.errors import Malformed
from nomos.natsparser import CONTROL_LINE_BYTES_MAX, MESSAGE_BYTES_MAX, Parser, parse_headers

Seen = list[tuple[object, ...]]


class Recorder:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.seen: Seen = []

    def message(self, sid: bytes, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        self.seen.append(("message", sid, subject, reply, headers, payload))

    def ping(self) -> None:
        self.seen.append(("ping",))

    def pong(self) -> None:
        self.seen.append(("pong",))

    def info(self, document: bytes) -> None:
        self.seen.append(("info", document))

    def error(self, text: str) -> None:
        self.seen.append(("error", text))


def heard(*chunks: bytes) -> Seen:
    recorder = Recorder()
    parser = Parser(recorder)
    for chunk in chunks:
        parser.feed(chunk)
    return recorder.seen


words = st.from_regex(rb"[a-zA-Z0-9.$_*>-]{1,20}", fullmatch=True)


@st.composite
def operations(draw: st.DrawFn) -> tuple[bytes, tuple[object, ...]]:
    kind = draw(st.sampled_from(["msg", "hmsg", "ping", "pong", "ok", "info", "error"]))
    subject, sid, reply = draw(words), b"%d" % draw(st.integers(1, 10**6)), draw(st.one_of(st.just(b""), words))
    payload = draw(st.binary(max_size=200))
    to = b" ".join([subject, sid, *([reply] if reply else [])])
    match kind:
        case "msg":
            return b"MSG %s %d\r\n%s\r\n" % (to, len(payload), payload), ("message", sid, subject, reply, b"", payload)
        case "hmsg":
            block = b"NATS/1.0\r\n" + draw(st.binary(max_size=50)) + b"\r\n\r\n"
            sizes = b"%d %d" % (len(block), len(block) + len(payload))
            wire = b"HMSG %s %s\r\n%s%s\r\n" % (to, sizes, block, payload)
            return wire, ("message", sid, subject, reply, block, payload)
        case "ping":
            return b"PING\r\n", ("ping",)
        case "pong":
            return b"PONG\r\n", ("pong",)
        case "info":
            return b'INFO {"a":1}\r\n', ("info", b'{"a":1}')
        case "error":
            return b"-ERR 'Permissions Violation'\r\n", ("error", "'Permissions Violation'")
    return b"+OK\r\n", ()


@given(st.lists(operations(), max_size=8), st.data())
def test_operations_arrive_whole_and_in_order_however_they_are_cut(
    sent: list[tuple[bytes, tuple[object, ...]]], data: st.DataObject
) -> None:
    wire = b"".join(one for one, _ in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    chunks = [wire[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    assert heard(*chunks) == [seen for _, seen in sent if seen]


def test_a_message_in_single_bytes_is_the_message() -> None:
    wire = b"MSG a.b 7 _INBOX.x 5\r\nhello\r\nPING\r\n"
    assert heard(*[bytes([one]) for one in wire]) == [("message", b"7", b"a.b", b"_INBOX.x", b"", b"hello"), ("ping",)]


@given(st.lists(st.binary(max_size=300), max_size=4))
def test_any_bytes_are_operations_or_malformed(chunks: list[bytes]) -> None:
    try:
        heard(*chunks)
    except Malformed:
        return


@pytest.mark.parametrize(
    "wire",
    [
        b"HELLO\r\n",
        b"\r\n",
        b"MSG a 1\r\n",
        b"MSG a 1 r x 3 4\r\n",
        b"MSG a 1 -1\r\n",
        b"MSG a 1 99999999999\r\n",
        b"HMSG a 1 9 3\r\nabc\r\n",
        b"MSG a 1 3\r\nabcde",
        b"MSG a 1 %d\r\n" % (MESSAGE_BYTES_MAX + 1),
        b"x" * (CONTROL_LINE_BYTES_MAX + 1),
    ],
)
def test_what_is_no_operation_is_malformed(wire: bytes) -> None:
    with pytest.raises(Malformed):
        heard(wire)


def test_headers_are_read_with_the_status_of_their_first_line() -> None:
    assert parse_headers(b"") is None
    assert parse_headers(b"NATS/1.0\r\n\r\n") is None
    assert parse_headers(b"NATS/1.0 503\r\n\r\n") == {"Status": "503"}
    assert parse_headers(b"NATS/1.0 404 No Messages\r\n\r\n") == {"Status": "404", "Description": "No Messages"}
    block = b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 7\r\n\r\n"
    assert parse_headers(block) == {"Status": "100", "Description": "Idle Heartbeat", "Nats-Last-Consumer": "7"}
    assert parse_headers(b"NATS/1.0\r\na:b\r\nc :  d \r\nnot a name: x\r\n\xff: y\r\n\r\n") == {"a": "b", "c": "d"}


@given(st.binary(max_size=120))
def test_any_header_block_is_headers_or_malformed(block: bytes) -> None:
    try:
        found = parse_headers(block)
    except Malformed:
        return
    assert found is None or all(isinstance(name, str) for name in found)


@pytest.mark.parametrize("block", [b"NATS/1.0", b"HTTP/1.1 200 OK\r\n\r\n", b"\r\n"])
def test_what_is_no_header_block_is_malformed(block: bytes) -> None:
    with pytest.raises(Malformed):
        parse_headers(block)
