"""A person's own passkeys over plain HTTP: what needs a signature does not happen without it, and that is recorded."""

from __future__ import annotations

import html
import re
from typing import Any

import msgspec
import pytest
from tests.integration.visitor import Visitor, b64
from tests.unit.stepup.conftest import Authenticator

from nomos_stepup.deeds import name_of

ADD, REMOVE, RENAME = "POST /passkeys/add", "POST /passkeys/{passkey}/remove", "POST /passkeys/{passkey}/rename"


class Person:
    """Somebody who has signed in, at their own passkeys."""

    def __init__(self, scene: Any) -> None:
        self.scene, self.visitor, self.tenant = scene, Visitor(scene), ""

    async def open(self, name: str = "alice", tenant: str = "") -> None:
        self.tenant = tenant or await self.scene.tenant()
        await self.visitor.enrol(self.scene, self.tenant, name)
        await self.visitor.sign_in()

    def one(self, authenticator: Authenticator | None = None) -> str:
        return "/passkeys/" + name_of((authenticator or self.visitor.authenticator).credential_id)

    async def form(self, path: str, **changes: Any) -> dict[str, str]:
        """The form of ``path``, with what this person's authenticator answers to its own challenge."""
        assert await self.visitor.get("/passkeys") == 200
        found = re.search(rf'action="{re.escape(path)}"[^>]*data-options="([^"]*)"', self.visitor.text)
        assert found, self.visitor.text
        self.visitor.challenge = b64(msgspec.json.decode(html.unescape(found[1]))["challenge"])
        return self.visitor.fields(path) | {"response": self.visitor.signed(**changes)}

    async def add(self) -> Authenticator:
        """A second passkey, all the way."""
        assert await self.visitor.post("/passkeys/add", await self.form("/passkeys/add")) == 303, self.visitor.text
        path = self.visitor.headers["location"]
        assert await self.visitor.get(path) == 200
        second = Authenticator()
        made = second.register(self.visitor.challenge, rp_id="localhost", origin=self.visitor.origin)
        form = self.visitor.fields(path) | {"response": msgspec.json.encode(made).decode(), "label": "second"}
        assert await self.visitor.post(path, form) == 303, self.visitor.text
        return second

    async def kinds(self) -> list[str]:
        return [e.type for e in await self.scene.events(self.tenant) if e.type.startswith("passkey.")]

    async def refused(self) -> list[tuple[str, str]]:
        return [r for r in await self.scene.refusals(self.tenant) if "/passkeys" in r[0]]


@pytest.fixture
async def person(scene: Any) -> Person:
    made = Person(scene)
    await made.open()
    return made


async def test_a_second_passkey_is_added_named_used_and_the_first_one_removed(person: Person) -> None:
    v, first = person.visitor, person.visitor.authenticator
    second = await person.add()
    path = person.one(second)
    await v.get("/passkeys")
    assert await v.post(f"{path}/rename", v.fields(f"{path}/rename") | {"label": "blue key"}) == 303
    await v.get("/passkeys")
    assert "blue key" in v.text
    v.authenticator = second
    gone = f"{person.one(first)}/remove"
    assert await v.post(gone, await person.form(gone)) == 303
    # The session was the first one's.
    assert await v.get("/passkeys") == 303
    assert v.headers["location"] == "/sign-in"
    await v.sign_in()
    await v.get("/passkeys")
    assert "only one" in v.text
    v.authenticator = first
    await v.get("/sign-in")
    assert await v.post("/sign-in", v.fields("/sign-in") | {"response": v.signed()}) == 403
    kinds = await person.kinds()
    assert [k for k in kinds if k != "passkey.counter"] == [
        "passkey.offered", "passkey.enrolled", "passkey.offered", "passkey.enrolled", "passkey.renamed",
        "passkey.revoked",
    ]  # fmt: skip
    (renamed,) = await person.scene.events(person.tenant, "passkey.renamed")
    assert renamed.actor.kind == "approver"
    assert "blue key" not in str(renamed.event), "it is sealed"


@pytest.mark.parametrize("changes", [{"challenge": bytes(32)}, {"origin": "https://evil.example"}, {"flags": 0x01}])
async def test_a_session_alone_adds_and_removes_nothing_and_that_is_recorded(
    person: Person, changes: dict[str, Any]
) -> None:
    await person.add()
    before = await person.kinds()
    for path in ("/passkeys/add", f"{person.one()}/remove"):
        form = await person.form(path, **changes)
        assert await person.visitor.post(path, form) == 403
        assert await person.visitor.post(path, form | {"response": ""}) == 400
    assert await person.kinds() == before
    assert [verb for verb, _ in await person.refused()] == [ADD, ADD, REMOVE, REMOVE]


async def test_a_signature_counts_once_and_for_its_own_form(person: Person) -> None:
    v, second = person.visitor, await person.add()
    form = await person.form("/passkeys/add")
    gone = f"{person.one(second)}/remove"
    other = v.fields(gone)
    # The token and the deed of one form, with what was signed for another.
    assert await v.post(gone, other | {"response": form["response"]}) == 403
    assert await v.post(gone, form | {"token": other["token"]}) == 400
    form = await person.form("/passkeys/add")
    assert await v.post("/passkeys/add", form) == 303
    assert await v.post("/passkeys/add", form) == 409
    assert {code for _, code in await person.refused()} >= {"approval_refused", "malformed", "conflict"}


async def test_the_only_passkey_stays_and_a_bad_name_is_refused(person: Person) -> None:
    v, path = person.visitor, person.one()
    await v.get("/passkeys")
    assert f"{path}/remove" not in v.text
    rename = v.fields(f"{path}/rename")
    assert await v.post(f"{path}/rename", rename | {"label": " "}) == 400
    assert await v.post(f"{path}/rename", rename | {"label": "x" * 81}) == 413
    assert await v.post(f"{path}/rename", {"token": "", "label": "x"}) == 403
    assert {verb for verb, _ in await person.refused()} == {RENAME}
    assert "passkey.renamed" not in await person.kinds()


async def test_another_persons_and_another_tenants_passkey_is_not_there(scene: Any, person: Person) -> None:
    bob, eve = Person(scene), Person(scene)
    await bob.open("bob", person.tenant)
    await eve.open()
    for other in (bob, eve):
        assert await person.visitor.get("/passkeys") == 200
        assert other.one() not in person.visitor.text
        for verb in ("rename", "remove"):
            path = f"{other.one()}/{verb}"
            form = {"token": person.visitor.token(path), "label": "mine", "ask": "x", "response": "{}"}
            wanted = {k: form[k] for k in (("token", "label") if verb == "rename" else ("token", "ask", "response"))}
            assert await person.visitor.post(path, wanted) == 404
    assert [code for _, code in await person.refused()] == ["not_found"] * 4


async def test_nobody_who_is_not_signed_in_sees_or_changes_them(person: Person) -> None:
    stranger = Visitor(person.scene)
    assert await stranger.get("/passkeys") == 303
    assert stranger.headers["location"] == "/sign-in"
    for path in ("/passkeys/add", f"{person.one()}/rename", f"{person.one()}/remove"):
        assert await stranger.post(path, {"token": "x", "label": "x", "ask": "", "response": ""}) in (401, 403)
