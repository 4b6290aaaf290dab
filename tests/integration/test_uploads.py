"""Contents that are sent in pieces: over the real bus, with the upstream's own view of them, and every refusal."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.integration.scripted import Answering, ScriptedUpstream

from nomos import Upload
from nomos.agent import Allowed, Denied
from nomos.bearer import seal_bearer
from nomos.errors import Expired, Malformed, NotFound, Unavailable
from nomos.handover import Grant
from nomos.messages import UPLOAD_PIECE_BYTES_MAX, Failure, Invoke, Taken, UploadPiece, Wanted
from nomos.ucan.grant import sign_request
from nomos.uploading import sent, separated
from nomos_proxy import uploads

POLICY = """
@id("site") permit (principal, action in [Action::"connector:http"], resource);
@id("small") forbid (principal, action, resource)
when { context has args && context.args has upload && context.args.upload.bytes > 3000000 };
"""
POST, SITE = "http:requests.post", "http:site/api.upload.example"
PNG = "image/png"


class Place:
    """A tenant with an agent and a connection to an upstream that keeps what it is sent."""

    def __init__(self, scene: Any, upstream: ScriptedUpstream, tenant: str, bot: Any) -> None:
        self.scene, self.upstream, self.tenant, self.bot = scene, upstream, tenant, bot
        self.received: list[tuple[str, str, bytes]] = []

    async def keep(self, answer: Answering) -> None:
        body = await answer.body()
        self.received.append((answer.request_line, answer.fields.get("content-type", ""), body))
        await answer.head("application/json", length=2)
        await answer.raw(b"{}")

    async def call(self, upload: Upload) -> Any:
        return await self.bot.agent.call(POST, SITE, {"path": "files", "upload": upload})

    async def begun(self, upload: Upload, *, args: dict[str, object] | None = None, **fields: Any) -> tuple[Any, Any]:
        """An invocation that names ``upload``, sent by hand, and what is answered."""
        given = {"path": "files", "upload": upload.content.arg} if args is None else args
        allowed = await self.bot.agent.authorize(POST, SITE, given)
        assert isinstance(allowed, Allowed), allowed
        return await self.invoked(allowed, given, **fields)

    async def invoked(self, allowed: Allowed, args: dict[str, object], **fields: Any) -> tuple[Any, Any]:
        key = self.bot.agent._signing_key
        token = sign_request(
            key,
            subject=Grant(chain=(allowed.delegation,)).last.subject,
            action=POST,
            resource=SITE,
            args=args,
            proofs=(allowed.delegation,),
            now=int(time.time()),
            ttl_seconds=30,
            nonce=os.urandom(12),
            connection="http",
        )
        command = self.scene.command(Invoke, invocation=token, proofs=[allowed.delegation], **fields)
        return command, await self.scene.ask(self.bot, "invoke", command)

    async def piece(self, wanted: Any, seq: int, data: bytes, *, by: Any = None) -> Any:
        command = self.scene.command(UploadPiece, upload=wanted.upload, seq=seq, data=data)
        return await self.scene.ask(by or self.bot, f"upload.{wanted.at}", command)

    async def nothing_was_sent(self) -> None:
        assert self.received == []
        assert await self.scene.events(self.tenant, "proxy.attempted") == []

    @property
    def awaited(self) -> set[str]:
        """The uploads of this tenant that the proxy waits for."""
        awaited = self.scene.installation.services["proxy"]._uploads._awaited
        return {name for name, one in awaited.items() if one.tenant == self.tenant}


@pytest.fixture
async def place(scene: Any) -> AsyncIterator[Place]:
    async with ScriptedUpstream(lambda answer: made.keep(answer)) as upstream:  # noqa: PLW0108 - made later
        tenant = await scene.tenant(policy=POLICY, connection=False)
        key = str((await scene.operator.ask("proxy", "sealing-key", tenant))["public_key"])
        await scene.operator.ask(
            "proxy",
            "connection-add",
            tenant,
            connector="http",
            name="http",
            host="api.upload.example",
            base_url=upstream.origin,
            sealed_bearer=seal_bearer(key, scene.bearer),
        )
        made = Place(scene, upstream, tenant, await scene.agent(tenant))
        yield made


async def test_a_content_of_many_pieces_arrives_as_it_is_and_the_log_names_it(place: Place) -> None:
    data = os.urandom(2 * UPLOAD_PIECE_BYTES_MAX + 1_001)
    answer = await place.call(Upload(data, PNG))
    assert isinstance(answer, Allowed)
    assert answer.status == 200
    assert place.received == [("POST /files HTTP/1.1", PNG, data)]
    assert place.upstream.bearers == [f"Bearer {place.scene.bearer}"]
    named = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "type": PNG}
    (decided,) = await place.scene.events(place.tenant, "authz.decision")
    assert decided.event["request"]["args"]["upload"] == named
    (end,) = await place.scene.events(place.tenant, "proxy.finished")
    assert end.event["outcome"] == "done"
    assert place.awaited == set()


@pytest.mark.parametrize("size", [0, 1, UPLOAD_PIECE_BYTES_MAX, UPLOAD_PIECE_BYTES_MAX + 1])
async def test_a_content_of_any_length_arrives(place: Place, size: int) -> None:
    data = os.urandom(size)
    answer = await place.call(Upload(data))
    assert isinstance(answer, Allowed)
    assert place.received == [("POST /files HTTP/1.1", "application/octet-stream", data)]


async def test_nothing_is_used_up_or_recorded_before_the_last_piece(place: Place) -> None:
    data = os.urandom(1_000)
    _, wanted = await place.begun(Upload(data))
    assert isinstance(wanted, Wanted)
    assert await place.piece(wanted, 1, data[:400]) == Taken(seq=1)
    assert await place.piece(wanted, 1, data[:400]) == Taken(seq=1)
    await place.nothing_was_sent()
    reply = await place.piece(wanted, 2, data[400:])
    assert reply.status == 200
    assert [body for _, _, body in place.received] == [data]
    again = await place.piece(wanted, 2, data[400:])
    assert again.code == "not_found"
    assert len(await place.scene.events(place.tenant, "proxy.attempted")) == 1


async def test_other_bytes_than_those_decided_on_are_refused_and_the_permission_is_not_used(place: Place) -> None:
    upload = Upload(b"what was decided on")
    args: dict[str, object] = {"path": "files", "upload": upload.content.arg}
    allowed = await place.bot.agent.authorize(POST, SITE, args)
    _, wanted = await place.invoked(allowed, args)
    refused = await place.piece(wanted, 1, b"what was not, so    ")
    assert refused.code == "limit_exceeded"
    _, wanted = await place.invoked(allowed, args)
    refused = await place.piece(wanted, 1, b"what nobody decided")
    assert (refused.code, refused.detail) == ("not_covered", "these are not the bytes that were decided on")
    await place.nothing_was_sent()
    assert {("upload", "limit_exceeded"), ("upload", "not_covered")} <= set(await place.scene.refusals(place.tenant))
    assert place.awaited == set()
    _, wanted = await place.invoked(allowed, args)
    assert (await place.piece(wanted, 1, upload.data)).status == 200


async def test_pieces_out_of_their_order_and_empty_ones_are_refused(place: Place) -> None:
    _, wanted = await place.begun(Upload(b"ab"))
    for seq, data, code in ((0, b"a", "conflict"), (2, b"b", "conflict"), (1, b"", "malformed")):
        assert (await place.piece(wanted, seq, data)).code == code
    assert await place.piece(wanted, 1, b"a") == Taken(seq=1)
    assert (await place.piece(wanted, 3, b"b")).code == "conflict"
    assert (await place.piece(wanted, 2, b"b")).status == 200
    assert {("upload", "conflict"), ("upload", "malformed")} <= set(await place.scene.refusals(place.tenant))


async def test_a_piece_that_is_too_long_is_refused_and_a_shorter_one_goes_on(place: Place) -> None:
    data = os.urandom(UPLOAD_PIECE_BYTES_MAX + 2)
    _, wanted = await place.begun(Upload(data))
    refused = await place.piece(wanted, 1, data[:-1])
    assert (refused.code, "UPLOAD_PIECE_BYTES_MAX" in refused.detail) == ("limit_exceeded", True)
    assert await place.piece(wanted, 1, data[:-2]) == Taken(seq=1)
    assert (await place.piece(wanted, 2, data[-2:])).status == 200


async def test_an_upload_belongs_to_its_agent_alone(place: Place, scene: Any) -> None:
    """Another agent of the tenant, and another tenant, hear the same as for an upload that never was."""
    _, wanted = await place.begun(Upload(b"mine"))
    colleague = await scene.agent(place.tenant)
    stranger = await scene.agent(await scene.tenant(policy=POLICY, connection=False))
    for other in (colleague, stranger):
        for name in (wanted.upload, wanted.upload[:-1] + "0"):
            refused = await place.piece(Wanted(upload=name, at=wanted.at), 1, b"mine", by=other)
            assert (refused.code, refused.detail) == ("not_found", "no such upload of yours is awaited here")
    assert ("upload", "not_found") in await scene.refusals(place.tenant)
    assert (await place.piece(wanted, 1, b"mine")).status == 200


async def test_a_permission_that_is_taken_back_meanwhile_sends_nothing(place: Place) -> None:
    upload = Upload(b"too late")
    args: dict[str, object] = {"path": "files", "upload": upload.content.arg}
    allowed = await place.bot.agent.authorize(POST, SITE, args)
    _, wanted = await place.invoked(allowed, args)
    await place.bot.agent.revoke(allowed, "changed my mind")

    async def refused() -> bool:
        return (await place.invoked(allowed, args))[1].__class__ is Failure

    await place.scene.until(refused, "the proxy hears of it")
    assert (await place.piece(wanted, 1, upload.data)).code == "revoked"
    await place.nothing_was_sent()
    assert ("upload", "revoked") in await place.scene.refusals(place.tenant)


async def test_a_connection_that_was_removed_meanwhile_sends_nothing(place: Place, scene: Any) -> None:
    _, wanted = await place.begun(Upload(b"x"))
    await scene.operator.ask("proxy", "connection-remove", place.tenant, name="http")
    assert (await place.piece(wanted, 1, b"x")).code == "not_found"
    await place.nothing_was_sent()
    assert ("upload", "not_found") in await scene.refusals(place.tenant)


async def test_nothing_is_kept_of_a_closed_tenant(place: Place, scene: Any) -> None:
    _, wanted = await place.begun(Upload(b"x"))
    assert wanted.upload in place.awaited
    await scene.operator.ask("identity", "tenant-close", name=place.tenant, basis="test")
    await scene.until(lambda: wanted.upload not in place.awaited, "the upload is forgotten")


async def test_an_agent_waits_with_so_many_contents_and_no_more(place: Place) -> None:
    for _ in range(uploads.UPLOADS_PER_AGENT_MAX):
        assert isinstance((await place.begun(Upload(b"x")))[1], Wanted)
    refused = (await place.begun(Upload(b"x")))[1]
    assert (refused.code, "UPLOADS_PER_AGENT_MAX" in refused.detail) == ("limit_exceeded", True)
    assert ("invoke", "limit_exceeded") in await place.scene.refusals(place.tenant)


async def test_a_policy_decides_by_length_and_type(place: Place) -> None:
    answer = await place.call(Upload(b"\0" * 3_000_001))
    assert isinstance(answer, Denied)
    assert [one.id for one in answer.policies] == ["small"]
    await place.nothing_was_sent()


@pytest.mark.parametrize(
    "upload",
    [
        {"sha256": "0" * 64, "bytes": 1, "type": "image/png\r\nx: y"},
        {"sha256": "0" * 63, "bytes": 1, "type": PNG},
        {"sha256": "0" * 64, "bytes": -1, "type": PNG},
        {"sha256": "0" * 64, "bytes": 1, "type": PNG, "more": 1},
        "text",
    ],
)
async def test_what_names_no_content_is_refused_and_recorded(place: Place, upload: object) -> None:
    answer = await place.bot.agent.authorize(POST, SITE, {"path": "files", "upload": upload})
    assert isinstance(answer, Denied)
    (decided,) = await place.scene.events(place.tenant, "authz.decision")
    assert decided.event["outcome"] == "deny"
    await place.nothing_was_sent()


async def test_one_of_json_and_upload_is_given(place: Place) -> None:
    upload = Upload(b"{}", "application/json")
    both: dict[str, object] = {"path": "files", "json": {}, "upload": upload.content.arg}
    _, refused = await place.begun(upload, args=both)
    assert (refused.code, refused.detail) == ("malformed", "http:requests.post takes one of json and upload")


async def test_an_upstream_that_answers_before_it_has_read_all_is_heard(place: Place) -> None:
    async def early(answer: Answering) -> None:
        await answer.head("text/plain", length=8, status="413 Content Too Large")
        await answer.raw(b"too long")
        await answer.gone()

    place.keep = early  # type: ignore[method-assign]
    answer = await place.call(Upload(os.urandom(2_900_000)))
    assert isinstance(answer, Allowed)
    assert (answer.status, answer.body) == (413, b"too long")


async def test_an_upload_whose_replica_has_gone_was_not_sent(place: Place) -> None:
    upload = Upload(b"anything")
    command, wanted = await place.begun(upload)
    gone = Wanted(upload=wanted.upload, at="rp_" + "0" * 32)
    with pytest.raises(Unavailable, match="nothing was sent upstream"):
        await sent(place.bot.connection, place.bot.name, command, gone, upload)
    await place.nothing_was_sent()


async def test_an_invocation_that_names_a_content_needs_it(place: Place) -> None:
    args: dict[str, object] = {"path": "files", "upload": Upload(b"x").content.arg}
    with pytest.raises(Malformed, match="waits for a content"):
        await place.bot.agent.call(POST, SITE, args)
    await place.nothing_was_sent()


async def test_an_upload_is_over_with_its_invocation(place: Place) -> None:
    upload = Upload(b"x")
    deadline = int(time.time() * 1_000) + 1_500
    command, wanted = await place.begun(upload, deadline_ms=deadline)

    async def is_forgotten() -> bool:
        return wanted.upload not in place.awaited

    await place.scene.until(is_forgotten, "the upload is forgotten")
    with pytest.raises((Expired, NotFound)):
        await sent(place.bot.connection, place.bot.name, command, wanted, upload)
    await place.nothing_was_sent()


def test_a_call_takes_one_upload() -> None:
    with pytest.raises(Malformed, match="one upload"):
        separated({"a": Upload(b""), "b": Upload(b"")})
