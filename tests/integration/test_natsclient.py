"""The bus client on a real nats-server, beside nats-py's own: one behaviour, one way shorter than the other."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import nats.errors
import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from nats.aio.client import Client
from nats.aio.msg import Msg
from tests.integration.plainserver import PlainServer

from nomos.natsclient import LeanClient
from nomos.natslink import WRITE_AHEAD_BYTES
from nomos_runtime import bus
from nomos_runtime.bus import Bus

UNTIL_SECONDS = 20.0
#: A user who may do nothing with ``closed.>``.
PERMISSIONS = 'authorization { users [{ user: a, password: b, permissions: { publish: { deny: "closed.>" } } }] }'
PAYLOAD_MAX = 1_048_576
LIMITS = f"max_payload: {PAYLOAD_MAX}"


async def until(condition: Callable[[], Any], what: str) -> None:
    ends = time.monotonic() + UNTIL_SECONDS
    while not condition():
        assert time.monotonic() < ends, f"waited in vain for: {what}"
        await asyncio.sleep(0.01)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PlainServer]:
    server = PlainServer(tmp_path, f"{LIMITS}\n{PERMISSIONS}")
    server.start()
    yield server
    server.kill()


class Errors(list[Exception]):
    """What the error callback heard."""

    async def take(self, error: Exception) -> None:
        self.append(error)

    def has(self, kind: type[Exception]) -> bool:
        return any(isinstance(one, kind) for one in self)


Opened = tuple[Any, Errors]
Open = Callable[..., Awaitable[Opened]]


@pytest.fixture
async def opened(request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    clients: list[Client] = []

    async def open_one(kind: type[Client], server: PlainServer, **options: Any) -> Opened:
        errors = Errors()
        client = kind()
        clients.append(client)
        chosen = {"user": "a", "password": "b", "max_reconnect_attempts": -1, "reconnect_time_wait": 0.05} | options
        await client.connect(server.url, error_cb=errors.take, **chosen)
        return client, errors

    yield open_one
    for client in clients:
        await client.close()


each_kind = pytest.mark.parametrize("kind", [Client, LeanClient])


async def settle(client: Client) -> None:
    """Returns when the server has done all that was sent: nats-py's first flush overtakes it."""
    await client.flush()
    await client.flush()


async def echo(message: Msg) -> None:
    await message.respond(message.data)


@each_kind
async def test_a_request_is_answered(server: PlainServer, opened: Open, kind: type[Client]) -> None:
    client, errors = await opened(kind, server)
    await client.subscribe("echo", cb=echo)
    replies = await asyncio.gather(*(client.request("echo", b"%d" % number, timeout=5) for number in range(200)))
    assert [reply.data for reply in replies] == [b"%d" % number for number in range(200)]
    whole = bytes(range(256)) * (PAYLOAD_MAX // 256)
    assert (await client.request("echo", whole, timeout=5)).data == whole
    assert errors == []


async def test_a_service_answers_with_the_payload_alone(server: PlainServer, opened: Open) -> None:
    asking, _ = await opened(LeanClient, server)
    answering, errors = await opened(LeanClient, server)
    bus = Bus("policy", answering, 8)
    answers: list[Exception] = []

    async def answer(message: Msg) -> None:
        try:
            await bus.answer(message, message.data)
        except nats.errors.Error as e:
            answers.append(e)

    await bus.serve("echo", "policy", answer)
    await bus.flush()
    reply = await asking.request("echo", b"payload", timeout=5, headers={"Nats-Request-Info": "who asks"})
    assert (reply.data, reply.headers) == (b"payload", None)
    # Who asks for no answer gets none, and the service hears so.
    await asking.publish("echo", b"payload")
    await until(lambda: answers, "the refusal to answer nobody")
    assert errors == []


@each_kind
async def test_nobody_answering_and_no_answer_are_different_errors(
    server: PlainServer, opened: Open, kind: type[Client]
) -> None:
    client, _ = await opened(kind, server)
    with pytest.raises(nats.errors.NoRespondersError):
        await client.request("nobody", b"", timeout=5)
    await client.subscribe("silent")
    with pytest.raises(nats.errors.TimeoutError):
        await client.request("silent", b"", timeout=0.05)


@each_kind
async def test_subscribing_comes_before_what_is_published_behind_it(
    server: PlainServer, opened: Open, kind: type[Client]
) -> None:
    client, _ = await opened(kind, server)
    subscription = await client.subscribe("numbers")
    for number in range(1_000):
        await client.publish("numbers", b"%d" % number, headers={"n": str(number)} if number % 3 == 0 else None)
    for number in range(1_000):
        message = await subscription.next_msg(5)
        assert message.data == b"%d" % number
        assert message.headers == ({"n": str(number)} if number % 3 == 0 else None)


@each_kind
@pytest.mark.parametrize(
    ("sent", "arrives"),
    [
        ({"Nats-Msg-Id": "proxy-1:7", "n": "1"}, {"Nats-Msg-Id": "proxy-1:7", "n": "1"}),
        ({"n": "two words"}, {"n": "two words"}),
        ({" n ": "  stripped\t"}, {"n": "stripped"}),
        ({"n": "one\r\nother: line"}, {"n": "one  other: line"}),
        ({"n": ""}, {"n": ""}),
        ({"n": "beyond ASCII: \u00e9"}, {"n": "beyond ASCII: \u00e9"}),
        ({"": "nothing", "n": "1"}, {"n": "1"}),
    ],
)
async def test_headers_arrive_as_they_were_sent_and_are_never_another_line(
    server: PlainServer, opened: Open, kind: type[Client], sent: dict[str, str], arrives: dict[str, str]
) -> None:
    client, errors = await opened(kind, server)
    subscription = await client.subscribe("headed")
    await client.publish("headed", b"payload\r\n", headers=sent)
    message = await subscription.next_msg(5)
    assert (message.headers, message.data) == (arrives, b"payload\r\n")
    assert errors == []


@each_kind
@pytest.mark.parametrize("name", ["a:b", "a b", "a\r\nb"])
async def test_a_header_whose_name_is_none_is_refused(
    server: PlainServer, opened: Open, kind: type[Client], name: str
) -> None:
    client, _ = await opened(kind, server)
    with pytest.raises(nats.errors.BadHeaderError):
        await client.publish("headed", b"", headers={name: "value"})


@each_kind
async def test_a_subscription_ends_after_as_many_messages_as_it_was_limited_to(
    server: PlainServer, opened: Open, kind: type[Client]
) -> None:
    client, _ = await opened(kind, server)
    subscription = await client.subscribe("some")
    await subscription.unsubscribe(limit=2)
    for _ in range(5):
        await client.publish("some")
    await settle(client)
    assert subscription.pending_msgs == 2


@each_kind
async def test_a_refusal_of_the_server_is_told(server: PlainServer, opened: Open, kind: type[Client]) -> None:
    client, errors = await opened(kind, server)
    await client.publish("closed.door")
    await until(lambda: any("permissions violation" in str(one).lower() for one in errors), "the refusal")
    assert client.is_connected


@each_kind
async def test_a_slow_subscription_loses_messages_and_says_so(
    server: PlainServer, opened: Open, kind: type[Client]
) -> None:
    client, errors = await opened(kind, server)
    subscription = await client.subscribe("many", pending_msgs_limit=2)
    for _ in range(5):
        await client.publish("many")
    await settle(client)
    await until(lambda: errors.has(nats.errors.SlowConsumerError), "the complaint")
    assert subscription.pending_msgs == 2


@each_kind
@pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB other 0\r\n", "a\tb"])
async def test_a_subject_that_would_be_another_command_is_refused(
    server: PlainServer, opened: Open, kind: type[Client], subject: str
) -> None:
    client, _ = await opened(kind, server)
    with pytest.raises(nats.errors.BadSubjectError):
        await client.publish(subject)
    with pytest.raises(nats.errors.BadSubjectError):
        await client.publish("fine", b"", reply=subject or "a b")


@each_kind
async def test_a_payload_over_the_servers_limit_is_refused_here(
    server: PlainServer, opened: Open, kind: type[Client]
) -> None:
    client, _ = await opened(kind, server)
    with pytest.raises(nats.errors.MaxPayloadError):
        await client.publish("large", b"x" * (PAYLOAD_MAX + 1))


@each_kind
async def test_it_comes_back_after_a_restart_with_its_subscriptions(
    server: PlainServer, opened: Open, kind: type[Client]
) -> None:
    client, _ = await opened(kind, server)
    other, _ = await opened(kind, server)
    await client.subscribe("echo", cb=echo)
    kept = await client.subscribe("kept")
    await settle(client)
    assert (await other.request("echo", b"before", timeout=5)).data == b"before"
    server.kill()
    await until(lambda: not client.is_connected and not other.is_connected, "the loss")
    # What is published meanwhile is kept and sent.
    await client.publish("kept", b"meanwhile")
    server.start()
    await until(lambda: client.is_connected and other.is_connected, "the return")
    assert (await kept.next_msg(5)).data == b"meanwhile"
    await settle(client)
    assert (await other.request("echo", b"after", timeout=5)).data == b"after"
    assert client.stats["reconnects"] == 1


@each_kind
async def test_draining_ends_what_arrived_and_closes(server: PlainServer, opened: Open, kind: type[Client]) -> None:
    client, errors = await opened(kind, server, drain_timeout=5)
    other, _ = await opened(kind, server)
    done: list[bytes] = []

    async def slowly(message: Msg) -> None:
        await asyncio.sleep(0)
        done.append(message.data)

    await client.subscribe("work", cb=slowly)
    await settle(client)
    for number in range(50):
        await other.publish("work", b"%d" % number)
    await settle(other)
    await client.drain()
    assert done == [b"%d" % number for number in range(50)]
    assert client.is_closed
    assert errors == []
    with pytest.raises(nats.errors.ConnectionClosedError):
        await client.publish("work")
    with pytest.raises(nats.errors.ConnectionClosedError):
        await client.request("work", timeout=1)


@pytest.mark.parametrize(
    "poison",
    [
        b"PUB \xff\xfe 0\r\n\r\n",
        b"HPUB poisoned 12 12\r\nNATS/1.0 \xff\xfe\xfd\r\n",
        b"HPUB poisoned 8 8\r\nNATS/1.0\r\n",
    ],
)
async def test_a_message_that_cannot_be_read_costs_its_neighbours_nothing(
    server: PlainServer, opened: Open, poison: bytes
) -> None:
    client, _ = await opened(LeanClient, server)
    other, _ = await opened(LeanClient, server)
    got = await client.subscribe(">")
    await client.flush()
    other._transport.write(poison)
    await other.publish("whole", b"whole")
    ends = time.monotonic() + UNTIL_SECONDS
    while (await got.next_msg(5)).data != b"whole":
        assert time.monotonic() < ends
    assert client.is_connected
    assert client.stats["reconnects"] == 0


async def test_a_message_goes_to_its_receiver_without_a_queue(server: PlainServer, opened: Open) -> None:
    client, _ = await opened(LeanClient, server)
    got: list[bytes] = []
    subscription = await client.receive("direct", lambda message: got.append(message.data), queue="one")
    for number in range(10):
        await client.publish("direct", b"%d" % number)
    await client.flush()
    assert got == [b"%d" % number for number in range(10)]
    assert subscription.pending_msgs == 0
    await subscription.unsubscribe()
    await client.publish("direct", b"late")
    await client.flush()
    assert len(got) == 10


async def test_a_cancelled_request_is_cancelled_and_its_answer_ignored(server: PlainServer, opened: Open) -> None:
    client, errors = await opened(LeanClient, server)
    held: list[Msg] = []
    await client.receive("held", held.append)
    asked = asyncio.create_task(client.request("held", b"", timeout=5))
    await until(lambda: held, "the request")
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await held[0].respond(b"late")
    await client.flush()
    assert errors == []


async def test_a_publisher_waits_while_the_socket_is_behind(server: PlainServer, opened: Open) -> None:
    """More than the bound is written; it is all there, in order, and no more than the bound waited at once."""
    client, errors = await opened(LeanClient, server)
    other, _ = await opened(LeanClient, server)
    sizes: list[int] = []
    await other.receive("flood", lambda message: sizes.append(len(message.data)))
    await other.flush()
    most, piece = 0, b"x" * 500_000
    for _ in range(40):
        await client.publish("flood", piece)
        link = client._link
        most = max(most, link._out_bytes + link._transport.get_write_buffer_size())
    await client.flush()
    await until(lambda: len(sizes) == 40, "the flood")
    assert len(piece) < most <= 2 * (WRITE_AHEAD_BYTES + len(piece) + 64)
    assert errors == []


async def test_one_who_gives_up_while_the_first_request_waits_takes_nobody_s_answer_along(
    server: PlainServer, opened: Open
) -> None:
    client, errors = await opened(LeanClient, server)
    other, _ = await opened(LeanClient, server)
    await other.subscribe("echo", cb=echo)
    await other.flush()
    os.kill(server.pid, signal.SIGSTOP)
    try:
        flood = asyncio.create_task(publish_often(client, 64))
        await until(lambda: client._link.is_full, "a socket that is behind")
        first = asyncio.create_task(client.request("echo", b"first", timeout=10))
        others = [asyncio.create_task(client.request("echo", b"%d" % number, timeout=10)) for number in range(3)]
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert [reply.data for reply in await asyncio.gather(*others)] == [b"0", b"1", b"2"]
    assert (await client.request("echo", b"after", timeout=10)).data == b"after"
    await flood
    assert errors == []


async def test_a_first_request_that_waits_ends_with_its_client(server: PlainServer, opened: Open) -> None:
    client, _ = await opened(LeanClient, server)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        flood = asyncio.create_task(publish_often(client, 64))
        await until(lambda: client._link.is_full, "a socket that is behind")
        first = asyncio.create_task(client.request("echo", b"first", timeout=10))
        await asyncio.sleep(0)
        closing = asyncio.create_task(client.close())
        await until(first.done, "the end of the request")
    finally:
        os.kill(server.pid, signal.SIGCONT)
    await closing
    for ended in await asyncio.gather(first, flood, return_exceptions=True):
        assert isinstance(ended, nats.errors.ConnectionClosedError)
    with pytest.raises(nats.errors.ConnectionClosedError):
        await client.request("echo", timeout=1)


async def test_a_server_that_stands_still_holds_up_no_end(server: PlainServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus, "DRAIN_SECONDS", 0.5)
    client = LeanClient()
    made = Bus("proxy", client, 64)
    await client.connect(server.url, user="a", password="b", error_cb=made._error)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        flood = asyncio.create_task(publish_often(client, 64))
        await until(lambda: client._link is not None and client._link.is_full, "a socket that is behind")
        async with asyncio.timeout(UNTIL_SECONDS):
            await made.close()
    finally:
        os.kill(server.pid, signal.SIGCONT)
    flood.cancel()
    await asyncio.gather(flood, return_exceptions=True)


async def publish_often(client: Client, times: int) -> None:
    for _ in range(times):
        await client.publish("flood", b"x" * 500_000)


def certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    chain, private = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return chain, private


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_over_tls_it_does_the_same_on_either_loop(tmp_path: Path, run: Callable[..., None]) -> None:
    chain, private = certificate(tmp_path)
    server = PlainServer(tmp_path, f'{LIMITS}\ntls {{ cert_file: "{chain}", key_file: "{private}" }}')

    async def both() -> None:
        trusted = ssl.create_default_context(cafile=str(chain))
        client = LeanClient()
        await client.connect(
            server.url.replace("nats:", "tls:"), tls=trusted, max_reconnect_attempts=-1, reconnect_time_wait=0.05
        )
        try:
            await client.subscribe("echo", cb=echo)
            whole = bytes(range(256)) * (PAYLOAD_MAX // 256)
            replies = await asyncio.gather(*(client.request("echo", whole, timeout=10) for _ in range(5)))
            assert [reply.data for reply in replies] == [whole] * 5
            server.kill()
            await until(lambda: not client.is_connected, "the loss")
            server.start()
            await until(lambda: client.is_connected, "the return")
            assert (await client.request("echo", b"after", timeout=10)).data == b"after"
        finally:
            await client.close()

    server.start()
    try:
        run(both())
    finally:
        server.kill()
