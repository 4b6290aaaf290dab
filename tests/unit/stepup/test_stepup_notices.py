"""Notices: who is told of what, once, by whom; what a hook gets; and that nothing waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import smtplib
from collections import Counter
from typing import Any

import msgspec
import pytest

from nomos.errors import Conflict, DestinationRefused, LimitExceeded, Malformed, Misconfigured, Unavailable
from nomos.events import NOTICE_BEGUN, NOTIFY_ADDED, NOTIFY_REMOVED
from nomos.servicemessages import Fact, Quorum
from nomos_runtime.secret import Secret
from nomos_stepup import notifying as module
from nomos_stepup import sending
from nomos_stepup.domain import ApprovalState
from nomos_stepup.notices import (
    AFTER_SECONDS_MAX,
    CHANNELS_MAX,
    Channel,
    NoticeEnded,
    Secrets,
    body_of,
    make_channel,
    signature_of,
    text_of,
)
from nomos_stepup.notifying import PER_MINUTE_MAX, SENDING_PER_CHANNEL_MAX, SENDING_PER_TENANT_MAX, TRIES_MAX, Notifier
from nomos_stepup.sending import MailServer, mail, post

NO_MAIL = MailServer(host="", port=0, tls="", user="", password=Secret(b""), sender="")
URL = "https://hooks.example.com/T/x?y=1"


def _make(**changes: Any) -> Channel:
    right = {"channel": "ops", "kind": "webhook", "to": URL, "group": "", "after": 0, "development": False, "now": 7}
    return make_channel(changes.pop("state", {}), **{**right, **changes})


# --- channels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"to": "http://hooks.example.com/x"}, Misconfigured),
        ({"to": "http://localhost/x"}, Misconfigured),
        ({"to": "http://10.0.0.1/x", "development": True}, Misconfigured),
        ({"to": "https://user@hooks.example.com/x"}, Misconfigured),
        ({"to": "https://hooks.example.com/x#y"}, Misconfigured),
        ({"to": "https:///x"}, Misconfigured),
        ({"to": "https://hooks.example.com:x/"}, Misconfigured),
        ({"to": "https://hooks.example.com/a b"}, Misconfigured),
        ({"to": "https://hooks.example.com/a\r\nb"}, Misconfigured),
        ({"to": "file:///etc/passwd"}, Misconfigured),
        ({"to": "https://hooks.example.com/" + "x" * 2_000}, LimitExceeded),
        ({"kind": "email", "to": "ops"}, Malformed),
        ({"kind": "email", "to": "a@b.example, c@d.example"}, Malformed),
        ({"kind": "email", "to": "Ops <ops@b.example>"}, Malformed),
        ({"kind": "email", "to": "ops@b.example\r\nBcc: all@b.example"}, Malformed),
        ({"kind": "email", "to": "x" * 250 + "@b.example"}, LimitExceeded),
        ({"kind": "pager"}, Malformed),
        ({"after": -1}, Malformed),
        ({"after": AFTER_SECONDS_MAX + 1}, Malformed),
        ({"channel": "Not a name"}, Malformed),
        ({"group": "Not a name"}, Malformed),
        ({"state": {f"c{n}": None for n in range(CHANNELS_MAX)}}, LimitExceeded),
    ],
)
def test_what_is_no_channel_is_refused(changes: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        _make(**changes)


def test_channels_that_are_one() -> None:
    assert _make(to="http://localhost:8/x", development=True).kind == "webhook"
    assert _make(kind="email", to="ops+night@b.example", group="ops", after=60).after == 60
    assert _make(state={"ops": _make(), **{f"c{n}": None for n in range(CHANNELS_MAX - 1)}}).channel == "ops"


def test_a_hook_is_told_no_argument_and_can_check_who_tells_it(stage: Any) -> None:
    request = stage.request(v=2, quorums=(Quorum(approvals=1, group="ops"),))
    body = body_of("webhook", request, "https://a.example/approvals/ap_1", at=5)
    told = msgspec.json.decode(body)
    assert (told["type"], told["agent"], told["action"]) == ("approval.requested", "site-bot", "github:repos.delete")
    assert told["asked_of"] == [{"approvals": 1, "group": "ops"}]
    # Nothing of what would be sent, and nothing by which somebody could approve.
    assert not {"args", "args_digest", "args_text_sha256", "salt", "challenge", "decision"} & set(told)
    right = hmac.new(b"key", b"5." + body, hashlib.sha256).hexdigest()
    assert signature_of("key", body, at=5) == f"t=5,v1={right}"
    assert msgspec.json.decode(body_of("slack", request, "u", at=5)) == {"text": text_of(request, "u")}
    assert "nomos approve ap_" in text_of(request, "")


# --- who is told, once ----------------------------------------------------------------------------------------------


class Store:
    """A notice store in memory."""

    def __init__(self) -> None:
        self.begun: set[tuple[str, str]] = set()
        self.ended: list[NoticeEnded] = []
        self.fails: list[Exception] = []

    async def begin(self, tenant: str, notice: Any) -> None:
        if self.fails:
            raise self.fails.pop(0)
        if (notice.approval, notice.channel) in self.begun:
            raise Conflict("begun")
        self.begun.add((notice.approval, notice.channel))

    async def end(self, tenant: str, notice: NoticeEnded) -> None:
        self.ended.append(notice)

    async def secrets(self, tenant: str, channel: str) -> Secrets:
        return Secrets(to=URL, secret="key")


class Index:
    """What waits."""

    def __init__(self, *approvals: Any) -> None:
        self.approvals = list(approvals)

    def pending(self) -> list[Any]:
        return [one for one in self.approvals if one.state is ApprovalState.PENDING]


@pytest.fixture
def posted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was posted; an error in it is raised instead, once."""
    posted: list[Any] = []
    errors: list[Exception] = []

    async def take(url: str, body: bytes, headers: dict[str, str], *, development: bool) -> None:
        if errors:
            raise errors.pop(0)
        posted.append((url, msgspec.json.decode(body), headers))

    async def at_once(seconds: float) -> None:
        return

    monkeypatch.setattr(module, "post", take)
    monkeypatch.setattr(module.asyncio, "sleep", at_once)
    posted_errors = errors
    posted.append(posted_errors)
    return posted


def _notifier(stage: Any, store: Store, *channels: Channel, **asked: Any) -> tuple[Notifier, Any]:
    approval = stage.approval(**asked)
    made = Notifier(
        Index(approval), store, server=NO_MAIL, url_of=lambda name: f"https://a.example/{name}", development=False  # type: ignore[arg-type]
    )  # fmt: skip
    for one in channels or (_make(),):
        made.apply(Fact(rev=1, type=NOTIFY_ADDED, tenant="acme", event=msgspec.to_builtins(one)))
    return made, approval


async def test_a_channel_is_told_once(stage: Any, posted: list[Any]) -> None:
    store = Store()
    notifier, approval = _notifier(stage, store)
    for _ in range(3):
        notifier.look(stage.NOW + 1)
        await notifier.close()
    ((url, told, headers),) = posted[1:]
    assert (url, told["approval"]) == (URL, approval.id)
    assert told["url"] == f"https://a.example/{approval.id}"
    assert headers["nomos-signature"].startswith("t=")
    assert [(one.outcome, one.tries, one.detail) for one in store.ended] == [("sent", 1, "")]


async def test_of_two_replicas_one_tells(stage: Any, posted: list[Any]) -> None:
    store = Store()
    one, approval = _notifier(stage, store)
    other, _ = _notifier(stage, store)
    one.look(stage.NOW + 1)
    other.look(stage.NOW + 1)
    await asyncio.gather(one.close(), other.close())
    assert len(posted[1:]) == len(store.ended) == 1
    # A replica that hears of it does not even try.
    third, _ = _notifier(stage, store)
    third.apply(
        Fact(rev=2, type=NOTICE_BEGUN, tenant="acme", event={"approval": approval.id, "channel": "ops", "at": 1})
    )
    third.look(stage.NOW + 1)
    assert not third._sending


async def test_only_what_still_waits_is_told_and_only_when_it_has_waited(stage: Any, posted: list[Any]) -> None:
    store = Store()
    notifier, approval = _notifier(stage, store, _make(after=60))
    notifier.look(stage.NOW + 59)
    assert not notifier._sending
    notifier._index.approvals = [msgspec.structs.replace(approval, state=ApprovalState.DENIED)]  # type: ignore[attr-defined]
    notifier.look(stage.NOW + 60)
    assert not notifier._sending
    notifier._index.approvals = [approval]  # type: ignore[attr-defined]
    notifier.look(approval.request.expires_at)
    assert not notifier._sending
    notifier.look(stage.NOW + 60)
    await notifier.close()
    assert len(posted[1:]) == 1


async def test_a_channel_hears_of_its_group_and_of_nothing_before_it_was_made(stage: Any, posted: list[Any]) -> None:
    store = Store()
    groups = {"v": 2, "quorums": (Quorum(approvals=1, group="finance"),)}
    mine, other = _make(channel="mine", group="finance"), _make(channel="other", group="legal")
    late = _make(channel="late", now=stage.NOW + 1)
    notifier, _ = _notifier(stage, store, mine, other, late, **groups)
    notifier.look(stage.NOW + 2)
    await notifier.close()
    assert [one.channel for one in store.ended] == ["mine"]
    notifier.apply(Fact(rev=3, type=NOTIFY_REMOVED, tenant="acme", event={"channel": "mine", "at": 1}))
    assert set(notifier._channels["acme"]) == {"other", "late"}


@pytest.mark.parametrize(
    ("errors", "outcome", "tries"),
    [
        ([Unavailable("away")], "sent", 2),
        ([Unavailable("away")] * TRIES_MAX, "failed", TRIES_MAX),
        ([DestinationRefused("inside")], "failed", 1),
    ],
)
async def test_a_channel_that_fails_is_tried_again_and_the_end_is_recorded(
    stage: Any, posted: list[Any], errors: list[Exception], outcome: str, tries: int
) -> None:
    store = Store()
    posted[0].extend(errors)
    notifier, _ = _notifier(stage, store)
    notifier.look(stage.NOW + 1)
    await notifier.close()
    (ended,) = store.ended
    assert (ended.outcome, ended.tries) == (outcome, tries)
    assert bool(ended.detail) == (outcome == "failed")


async def test_a_notice_that_could_not_be_recorded_is_not_sent_and_tried_later(stage: Any, posted: list[Any]) -> None:
    store = Store()
    store.fails = [Unavailable("away")]
    notifier, _ = _notifier(stage, store)
    notifier.look(stage.NOW + 1)
    await notifier.close()
    assert not posted[1:]
    notifier.look(stage.NOW + 2)
    await notifier.close()
    assert len(posted[1:]) == 1


async def test_of_a_flood_few_are_told_at_once_and_none_is_hidden(stage: Any, posted: list[Any]) -> None:
    store = Store()
    notifier, _ = _notifier(stage, store)
    notifier._index.approvals = [  # type: ignore[attr-defined]
        stage.approval(approval=f"ap_{number:032x}") for number in range(PER_MINUTE_MAX + 5)
    ]

    async def told(now: int) -> int:
        for _ in range(PER_MINUTE_MAX):
            notifier.look(now)
            assert len(notifier._sending) <= SENDING_PER_CHANNEL_MAX
            await notifier.close()
        return len(store.ended)

    assert await told(stage.NOW + 1) == PER_MINUTE_MAX
    assert await told(stage.NOW + 60) == PER_MINUTE_MAX
    assert await told(stage.NOW + 61) == PER_MINUTE_MAX + 5
    assert {one.outcome for one in store.ended} == {"sent"}


async def test_what_other_replicas_told_counts_too(stage: Any, posted: list[Any]) -> None:
    notifier, _ = _notifier(stage, Store())
    for number in range(PER_MINUTE_MAX):
        event = {"approval": f"ap_{number + 1:032x}", "channel": "ops", "at": stage.NOW}
        notifier.apply(Fact(rev=number + 2, type=NOTICE_BEGUN, tenant="acme", event=event))
    notifier.look(stage.NOW + 1)
    assert not notifier._sending
    notifier.look(stage.NOW + 60)
    await notifier.close()
    assert len(posted[1:]) == 1


async def test_a_tenant_whose_hooks_hang_holds_up_no_other(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    release, told = asyncio.Event(), []

    async def take(url: str, body: bytes, headers: dict[str, str], *, development: bool) -> None:
        tenant = msgspec.json.decode(body)["tenant"]
        if tenant == "acme":
            await release.wait()
        told.append(tenant)

    monkeypatch.setattr(module, "post", take)
    notifier, _ = _notifier(stage, Store())
    notifier.apply(Fact(rev=9, type=NOTIFY_ADDED, tenant="other", event=msgspec.to_builtins(_make())))
    floods = [stage.approval(approval=f"ap_{number:032x}") for number in range(PER_MINUTE_MAX)]
    quiet = stage.approval(approval="ap_" + "f" * 32, tenant="other")
    notifier._index.approvals = [*floods, quiet]  # type: ignore[attr-defined]
    notifier.look(stage.NOW + 1)
    async with asyncio.timeout(5):
        while not told:
            await asyncio.sleep(0)
    assert told == ["other"]
    release.set()
    await notifier.close()
    assert told.count("acme") == SENDING_PER_CHANNEL_MAX
    assert not notifier._of_tenant
    assert not notifier._of_channel


async def test_a_channel_that_hangs_holds_up_no_other_of_its_tenant_and_a_tenant_has_its_places(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, told = asyncio.Event(), []

    async def take(url: str, body: bytes, headers: dict[str, str], *, development: bool) -> None:
        await release.wait()
        told.append(url)

    monkeypatch.setattr(module, "post", take)
    notifier, _ = _notifier(stage, Store(), *[_make(channel=f"c{number}") for number in range(6)])
    notifier._index.approvals = [  # type: ignore[attr-defined]
        stage.approval(approval=f"ap_{number:032x}") for number in range(PER_MINUTE_MAX)
    ]
    notifier.look(stage.NOW + 1)
    taken = Counter(channel for _, channel in notifier._of_channel.elements())
    assert max(taken.values()) == SENDING_PER_CHANNEL_MAX
    assert sum(taken.values()) == SENDING_PER_TENANT_MAX
    release.set()
    await notifier.close()
    assert len(told) == SENDING_PER_TENANT_MAX


async def test_a_fault_of_ours_while_telling_is_said(
    stage: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(module, "post", fail)
    notifier, _ = _notifier(stage, Store())
    notifier.look(stage.NOW + 1)
    await notifier.close()
    await asyncio.sleep(0)
    assert "ZeroDivisionError" in "".join(capsys.readouterr())


async def test_a_mail_address_is_no_hook() -> None:
    with pytest.raises(DestinationRefused):
        await post("ops@example.com", b"{}", {}, development=True)


# --- what is sent over ----------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _hook(answer: bytes) -> Any:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        seen.append(head + await reader.readexactly(length))
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x?y=1", seen
    finally:
        server.close()


async def test_a_hook_gets_the_body_and_the_headers() -> None:
    async with _hook(b"HTTP/1.1 204 No Content\r\n\r\n") as (url, seen):
        await post(url, b'{"a":1}', {"nomos-signature": "t=1,v1=x"}, development=True)
    assert seen[0].startswith(b"POST /x?y=1 HTTP/1.1\r\n")
    assert b"nomos-signature: t=1,v1=x\r\n" in seen[0].lower()
    assert seen[0].endswith(b'\r\n\r\n{"a":1}')


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
        b"no http at all\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 10_000,
    ],
)
async def test_a_hook_that_does_not_take_it_is_unavailable(answer: bytes) -> None:
    async with _hook(answer) as (url, _):
        with pytest.raises(Unavailable) as found:
            await post(url, b"{}", {}, development=True)
    assert "127.0.0.1" not in found.value.detail


async def test_a_hook_that_never_answers_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "ANSWER_SECONDS", 0.05)
    server = await asyncio.start_server(lambda *_: asyncio.sleep(1), "127.0.0.1", 0)
    try:
        with pytest.raises(Unavailable, match="TimeoutError"):
            await post(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", b"", {}, development=True)
    finally:
        server.close()


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "10.1.2.3", "169.254.169.254", "[::ffff:10.0.0.1]"]
)
async def test_a_hook_inside_is_refused_before_anything_is_sent(host: str) -> None:
    with pytest.raises(DestinationRefused):
        await post(f"https://{host}:9/x", b"", {}, development=False)


async def test_in_development_too_only_loopback_is_inside() -> None:
    with pytest.raises(DestinationRefused):
        await post("https://192.168.1.1:9/x", b"", {}, development=True)


class Mails:
    """A mail server that says what it is told to."""

    def __init__(self, refuse: bytes = b"") -> None:
        self.seen: list[bytes] = []
        self._refuse = refuse

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            self.seen.append(line)
            verb = line[:4].upper()
            if self._refuse and verb == self._refuse:
                writer.write(b"550 no\r\n")
            elif verb == b"DATA":
                writer.write(b"354 go on\r\n")
                while (line := await reader.readline()) != b".\r\n":
                    self.seen.append(line)
                writer.write(b"250 taken\r\n")
            elif verb == b"QUIT":
                writer.write(b"221 bye\r\n")
                break
            else:
                writer.write(b"250 yes\r\n")
        writer.close()


@pytest.mark.parametrize("refuse", [b"", b"RCPT", b"DATA"])
async def test_a_mail_is_sent_or_its_refusal_told(refuse: bytes) -> None:
    mails = Mails(refuse)
    server = await asyncio.start_server(mails.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    to = MailServer(host="127.0.0.1", port=port, tls="none", user="", password=Secret(b""), sender="nomos@b.example")
    try:
        sent = asyncio.to_thread(mail, to, "ops@b.example", "Approval: a asks", "Look: https://a.example/x")
        if refuse:
            with pytest.raises(Unavailable, match="SMTP"):
                await sent
            return
        await sent
    finally:
        server.close()
    text = b"".join(mails.seen)
    assert b"RCPT TO:<ops@b.example>" in text.replace(b"rcpt", b"RCPT").replace(b"to:", b"TO:")
    assert b"Subject: Approval: a asks\r\n" in text
    assert b"Auto-Submitted: auto-generated\r\n" in text
    assert b"Look: https://a.example/x\r\n" in text


async def test_a_mail_server_that_cannot_encrypt_gets_no_mail() -> None:
    mails = Mails()
    server = await asyncio.start_server(mails.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    to = MailServer(host="127.0.0.1", port=port, tls="starttls", user="u", password=Secret(b"p"), sender="n@b.example")
    try:
        with pytest.raises(Unavailable, match=smtplib.SMTPNotSupportedError.__name__):
            await asyncio.to_thread(mail, to, "ops@b.example", "a", "b")
    finally:
        server.close()
    assert not any(line.upper().startswith((b"MAIL", b"AUTH")) for line in mails.seen)
