"""Browsers are told by web push: what arrives at a push service, who is told, and when no more. The service is ours."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.integration.visitor import Visitor

from nomos.cli.main import main
from nomos_stepup.base64url import b64url
from nomos_stepup.pushes import SUBSCRIPTIONS_MAX

DELETE = "github:repos.delete"
ADD, REMOVE = "POST /notices/add", "POST /notices/{subscription}/remove"


class Phone:
    """A browser with its push service: it takes messages and reads them, as RFC 8291 has a browser do."""

    def __init__(self) -> None:
        self.key, self.auth = ec.generate_private_key(ec.SECP256R1()), os.urandom(16)
        self.answer = "201 Created"
        self.heads: list[str] = []
        self.told: list[dict[str, Any]] = []
        self.endpoint = ""

    @property
    def point(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    @property
    def form(self) -> dict[str, str]:
        return {"endpoint": self.endpoint, "p256dh": b64url(self.point), "auth": b64url(self.auth)}

    def read(self, body: bytes) -> dict[str, Any]:
        salt, theirs, sealed = body[:16], body[21:86], body[86:]
        shared = self.key.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), theirs))
        material = self._derive(shared, self.auth, b"WebPush: info\0" + self.point + theirs, 32)
        key = self._derive(material, salt, b"Content-Encoding: aes128gcm\0", 16)
        nonce = self._derive(material, salt, b"Content-Encoding: nonce\0", 12)
        return dict(msgspec.json.decode(AESGCM(key).decrypt(nonce, sealed, None).removesuffix(b"\x02")))

    @staticmethod
    def _derive(material: bytes, salt: bytes, info: bytes, length: int) -> bytes:
        return HKDF(algorithm=hashes.SHA256(), length=length, salt=salt, info=info).derive(material)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        body = await reader.readexactly(int(head.partition("content-length: ")[2].partition("\r\n")[0]))
        self.heads.append(head)
        self.told.append(self.read(body))
        writer.write(f"HTTP/1.1 {self.answer}\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def switched_on() -> AsyncIterator[Phone]:
    phone = Phone()
    server = await asyncio.start_server(phone.serve, "127.0.0.1", 0)
    phone.endpoint = f"http://localhost:{server.sockets[0].getsockname()[1]}/push/{os.urandom(8).hex()}"
    try:
        yield phone
    finally:
        server.close()


class World:
    """A tenant with an agent, and alice, who is signed in."""

    def __init__(self, scene: Any) -> None:
        self.scene, self.visitor = scene, Visitor(scene)
        self.tenant = ""
        self.bot: Any = None

    async def open(self) -> None:
        self.tenant = await self.scene.tenant()
        self.bot = await self.scene.agent(self.tenant)
        await self.sign_in("alice")

    async def sign_in(self, name: str) -> None:
        await self.visitor.enrol(self.scene, self.tenant, name)
        await self.visitor.sign_in()

    async def colleague(self, name: str) -> World:
        made = World(self.scene)
        made.tenant, made.bot = self.tenant, self.bot
        await made.sign_in(name)
        return made

    async def subscribe(self, phone: Phone, **changes: str) -> int:
        assert await self.visitor.get("/notices") == 200
        token = self.visitor.token("/notices/add")
        return await self.visitor.post("/notices/add", phone.form | {"token": token} | changes)

    async def ask(self) -> Any:
        return await self.bot.agent.authorize(DELETE, f"github:repo/acme/{self.scene.name('r')}")

    async def ended(self, number: int) -> list[Any]:
        async with asyncio.timeout(20):
            while len(found := await self.scene.events(self.tenant, "notify.ended")) < number:
                await asyncio.sleep(0.05)
        return list(found)


@pytest.fixture
async def world(scene: Any) -> World:
    made = World(scene)
    await made.open()
    return made


async def test_a_browser_is_told_what_waits_and_only_it_can_read_it(world: World) -> None:
    async with switched_on() as phone:
        assert await world.subscribe(phone) == 303
        wait = await world.ask()
        (ended,) = await world.ended(1)
        assert (ended.event["outcome"], ended.event["approval"]) == ("sent", wait.approval)
        (told,), (head,) = phone.told, phone.heads
        assert told["path"] == f"/approvals/{wait.approval}"
        assert world.bot.name in told["body"]
        assert "authorization: vapid t=" in head
        assert "content-encoding: aes128gcm" in head
        events = [e for e in await world.scene.events(world.tenant) if e.type.startswith(("push.", "notify."))]
        assert [e.type for e in events] == ["push.added", "notify.begun", "notify.ended"]
        assert phone.endpoint not in str([e.event for e in events])


async def test_who_may_not_approve_is_not_told_nor_who_has_signed_out_everywhere(world: World) -> None:
    ask = world.scene.operator.ask
    bob, other = await world.colleague("bob"), World(world.scene)
    await other.open()
    async with switched_on() as hers, switched_on() as his, switched_on() as elsewhere:
        for one, phone in ((world, hers), (bob, his), (other, elsewhere)):
            assert await one.subscribe(phone) == 303
        await ask("stepup", "approver-groups", world.tenant, name="alice", groups=["ops"])
        asking = world.scene.POLICY + (
            '@id("two") @approvers("ops") permit (principal, action == Action::"github:labels.delete", resource) '
            "when { context.cosigned };"
        )
        await ask("policy", "put", world.tenant, text=asking, why="ops")
        await world.bot.agent.authorize("github:labels.delete", "github:repo/acme/r", {"name": "x"})
        await world.ended(1)
        assert (len(hers.told), len(his.told), len(elsewhere.told)) == (1, 0, 0)
        await ask("stepup", "approver-sign-out", world.tenant, name="alice")
        await world.ask()
        # Bob is told, and by then alice would have been.
        await world.ended(2)
        assert (len(hers.told), len(his.told), len(elsewhere.told)) == (1, 1, 0)


async def test_a_browser_that_its_service_does_not_know_is_forgotten(world: World) -> None:
    async with switched_on() as phone:
        phone.answer = "410 Gone"
        assert await world.subscribe(phone) == 303
        await world.ask()
        (ended,) = await world.ended(1)
        assert (ended.event["outcome"], ended.event["tries"]) == ("failed", 1)
        (removed,) = await world.scene.events(world.tenant, "push.removed")
        assert removed.actor.kind == "service"
        await world.visitor.get("/notices")
        assert "Browser 1" not in world.visitor.text


async def test_what_is_no_browser_is_refused_and_recorded_and_their_number_is_bounded(world: World) -> None:
    async with switched_on() as phone:
        wrong = [
            {"endpoint": "http://10.0.0.1/x"}, {"endpoint": "file:///etc/passwd"}, {"endpoint": ""},
            {"p256dh": "AAAA"}, {"auth": "AAAA"}, {"p256dh": ""}, {"token": "x"},
        ]  # fmt: skip
        for changes in wrong:
            assert await world.subscribe(phone, **changes) >= 400, changes
        for _ in range(SUBSCRIPTIONS_MAX):
            assert await world.subscribe(phone) == 303
        assert await world.subscribe(phone) == 413
        refused = [verb for verb, _ in await world.scene.refusals(world.tenant)]
        assert refused.count(ADD) == len(wrong) + 1


async def test_a_browser_is_removed_by_its_owner_alone_and_with_the_person(world: World) -> None:
    bob = await world.colleague("bob")
    async with switched_on() as phone:
        for _ in range(2):
            assert await world.subscribe(phone) == 303
        first, second = [e.event["subscription"] for e in await world.scene.events(world.tenant, "push.added")]
        path = f"/notices/{first}/remove"
        assert await bob.visitor.post(path, {"token": bob.visitor.token(path)}) == 404
        assert (REMOVE, "not_found") in await world.scene.refusals(world.tenant)
        assert await world.visitor.post(path, {"token": world.visitor.token(path)}) == 303
        await world.scene.operator.ask("stepup", "subject-erase", world.tenant, name="alice", basis="asked")
        removed = await world.scene.events(world.tenant, "push.removed")
        assert [(e.event["subscription"], e.event["why"]) for e in removed] == [
            (first, "its owner"), (second, "erased"),
        ]  # fmt: skip
        async with switched_on() as his:
            assert await bob.subscribe(his) == 303
            await world.ask()
            await world.ended(1)
            assert (len(his.told), phone.told) == (1, [])


async def test_nobody_who_is_not_signed_in_subscribes(world: World) -> None:
    stranger = Visitor(world.scene)
    assert await stranger.get("/notices") == 303
    assert await stranger.post("/notices/add", {"token": "x", "endpoint": "", "p256dh": "", "auth": ""}) in (401, 403)


async def test_an_export_says_where_a_person_is_told(world: World, tmp_path: Path) -> None:
    async with switched_on() as phone:
        assert await world.subscribe(phone) == 303
        out = tmp_path / "person.json"
        words = ["subject", "export", "--tenant", world.tenant, "alice", "--out", str(out)]
        words += ["--context", str(world.scene.installation.local.context)]
        assert await asyncio.to_thread(main, words) == 0
        (held,) = msgspec.json.decode(out.read_bytes())["subjects"]
        assert [one["endpoint"] for one in held["held"]["browsers"]] == [phone.endpoint]
