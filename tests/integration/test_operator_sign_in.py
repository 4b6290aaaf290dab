"""Operators sign in at stepup's pages, and the service that asked is told who they are: all the ways in which it fails.

The service with pages is played by whoever holds policy's credentials, as a thief of them could.
"""

from __future__ import annotations

import os
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from tests.integration.visitor import Visitor
from tests.unit.stepup.conftest import b64 as text_of

from nomos.errors import NotFound
from nomos.log.sealedfield import is_subject
from nomos.messages import encode
from nomos.operator import Operator
from nomos.signin import AskSession, RedeemSignIn, state_of
from nomos_runtime.topology.doors import PAGES
from nomos_stepup import signins
from nomos_stepup.operatoraccess import OperatorAccess
from nomos_stepup.operatorstore import OperatorStore

SIGN_IN = "/operator/sign-in"
SIGN_IN_POST = "POST /operator/sign-in"
REDEEM = "svc.stepup.redeem.*"


class Person:
    """An operator with a browser, and the service whose pages they visit."""

    def __init__(self, scene: Any, operator: Operator) -> None:
        self.scene, self.operator = scene, operator
        self.id = operator._connection.credentials.name
        self.scope = operator._connection.credentials.tenant or "_"
        self.visitor = Visitor(scene)
        self.verifier = os.urandom(32)

    async def ask(self, verb: str, **params: Any) -> dict[str, Any]:
        return await self.operator.ask("stepup", verb, self.scope, **params)

    async def link(self) -> str:
        return str((await self.ask("operator-passkey"))["url"]).removeprefix(self.visitor.origin)

    async def enrol(self, path: str = "") -> int:
        path = path or await self.link()
        status = await self.visitor.get(path)
        if status != 200:
            return status
        made = self.visitor.authenticator.register(
            self.visitor.challenge, rp_id="localhost", origin=self.visitor.origin
        )
        form = self.visitor.fields(path) | {"response": msgspec.json.encode(made).decode()}
        return await self.visitor.post(path, form)

    async def page(self, service: str = "policy", state: str = "") -> int:
        return await self.visitor.get(f"{SIGN_IN}?service={service}&state={state or state_of(self.verifier)}")

    def signed(self, **changes: Any) -> str:
        """What the authenticator answers: a discoverable passkey says whose it is."""
        handle = changes.pop("handle", self.id)
        answer = msgspec.json.decode(self.visitor.signed(**changes))
        answer["response"]["userHandle"] = text_of(handle.encode())
        return msgspec.json.encode(answer).decode()

    async def sign_in(self) -> dict[str, str]:
        """Signs in at stepup; gives the code and the state that the browser brings."""
        assert await self.page() == 200
        form = self.visitor.fields(SIGN_IN) | {"response": self.signed()}
        assert await self.visitor.post(SIGN_IN, form) == 200, self.visitor.text
        return self.brought()

    def brought(self) -> dict[str, str]:
        address = re.search(r'http-equiv="refresh" content="0;url=([^"]+)"', self.visitor.text)
        assert address, self.visitor.text
        target = address[1].replace("&amp;", "&")
        assert target.startswith(f"http://localhost:{self.scene.installation.policy_port}/signed-in?")
        return {name: values[0] for name, values in parse_qs(urlsplit(target).query).items()}

    async def redeem(self, code: str, verifier: bytes | None = None, by: str = "policy") -> dict[str, Any]:
        message = RedeemSignIn(v=1, code=code, verifier=text_of(verifier or self.verifier))
        reply: dict[str, Any] = await self.scene.ask_raw(
            await self.scene.service(by), "svc.stepup.redeem", encode(message)
        )
        return reply

    async def session(self, held: dict[str, Any], *, end: bool = False, **changes: str) -> dict[str, Any]:
        given = {"session": held["session"], "secret": held["secret"]} | changes
        message = AskSession(v=1, end=end, **given)
        reply: dict[str, Any] = await self.scene.ask_raw(
            await self.scene.service("policy"), "svc.stepup.session", encode(message)
        )
        return reply

    async def open(self) -> dict[str, Any]:
        held = await self.redeem((await self.sign_in())["code"])
        assert held["type"] == "signed-in", held
        return held

    async def kinds(self) -> list[str]:
        """What the log holds of this operator's sign-ins."""
        found = await self.scene.events("_sys")
        return [e.type for e in found if e.event.get("operator") == self.id and e.type != "operator.added"]


@pytest.fixture
async def person(scene: Any) -> Person:
    made = Person(scene, await scene.named_operator(scene.name("olga")))
    assert await made.enrol() == 303, made.visitor.text
    return made


async def test_an_operator_enrols_signs_in_and_the_service_is_told_who_they_are(person: Person) -> None:
    brought = await person.sign_in()
    assert brought["state"] == state_of(person.verifier)
    held = await person.redeem(brought["code"])
    assert (held["operator"], held["role"], held["tenant"]) == (person.id, "operator", "")
    told = await person.session(held)
    assert told == held | {"secret": ""}
    # What stood in an address is not what the cookie holds, and the log holds neither.
    assert held["secret"] not in brought["code"]
    for secret in (held["secret"], brought["code"].split(".")[1], text_of(person.verifier)):
        assert all(secret not in str(e.event) for _, e in await person.scene.journal())
    counted = [k for k in await person.kinds() if k != "operator.passkey-counter"]
    assert counted == [
        "operator.passkey-offered", "operator.passkey-enrolled", "operator.signed-in", "operator.code-redeemed",
    ]  # fmt: skip
    actors = {e.actor.id for e in await person.scene.events("_sys", "operator.signed-in")}
    assert actors == {person.id}
    assert is_subject(person.id)


async def test_an_operator_of_one_tenant_is_told_as_such(scene: Any) -> None:
    tenant = await scene.tenant(policy="", connection=False)
    person = Person(scene, await scene.tenant_operator(tenant))
    assert await person.enrol() == 303
    held = await person.open()
    assert (held["role"], held["tenant"]) == ("tenant-operator", tenant)
    await scene.operator.ask("identity", "tenant-close", name=tenant, basis="ended")

    async def is_over() -> bool:
        return bool((await person.session(held))["type"] == "signed-out")

    await scene.until(is_over, "the session of an operator whose tenant is closed to end")


async def test_a_link_enrols_once_and_says_nothing_to_who_guesses(person: Person) -> None:
    path = await person.link()
    person.visitor.authenticator = type(person.visitor.authenticator)()
    assert await person.enrol(path) == 303
    assert await person.enrol(path) == 404
    for guess in (path[:-1] + "A", path.replace("sub-", "sub"), "/operator/passkey/x", "/operator/passkey/x.y"):
        assert await person.visitor.get(guess) == 404
    older, newer = await person.link(), await person.link()
    assert await person.visitor.get(older) == 404
    assert await person.visitor.get(newer) == 200
    recorded = [r for r in await person.scene.refusals("_sys") if r[0] == "GET /operator/passkey/{link}"]
    assert set(recorded) == {("GET /operator/passkey/{link}", "not_found")}


async def test_a_code_is_redeemed_once_and_a_replay_ends_the_session(person: Person) -> None:
    code = (await person.sign_in())["code"]
    held = await person.redeem(code)
    assert (await person.session(held))["type"] == "signed-in"
    again = await person.redeem(code)
    assert again["code"] == "replayed"
    assert (REDEEM, "replayed") in await person.scene.refusals("_sys")
    assert (await person.session(held))["type"] == "signed-out"
    assert (await person.kinds())[-1] == "operator.session-ended"


async def test_a_code_of_another_browser_or_a_guessed_one_is_refused_and_recorded(person: Person) -> None:
    code = (await person.sign_in())["code"]
    assert (await person.redeem(code, os.urandom(32)))["code"] == "refused"
    session, secret = code.split(".")
    assert (await person.redeem(f"{session}.{text_of(os.urandom(32))}"))["code"] == "not_found"
    assert (await person.redeem(session))["code"] == "malformed"
    recorded = await person.scene.refusals("_sys")
    assert [r for r in recorded if r[0] == REDEEM] == [(REDEEM, c) for c in ("refused", "not_found", "malformed")]
    # A session that never was can be made up by anybody: refused, and not recorded.
    assert (await person.redeem(f"{'0' * 32}.{secret}"))["code"] == "not_found"
    assert len([r for r in await person.scene.refusals("_sys") if r[0] == REDEEM]) == 3
    # None of it used the code up.
    assert (await person.redeem(code))["type"] == "signed-in"


async def test_a_code_whose_time_is_over_is_refused_and_recorded(
    person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signins, "CODE_SECONDS", 0)
    assert (await person.redeem((await person.sign_in())["code"]))["code"] == "expired"
    assert (REDEEM, "expired") in await person.scene.refusals("_sys")


async def test_no_other_service_reaches_the_door_and_a_code_is_of_one_service(person: Person) -> None:
    code = (await person.sign_in())["code"]
    for service in ("minting", "proxy", "sanitizer", "identity", "audit"):
        assert service not in PAGES
        client = await person.scene.service(service)
        for subject in ("svc.stepup.redeem", "svc.stepup.session"):
            assert not await person.scene.may_publish(client, subject), (service, subject)
    # A second service with pages, whose account the server would stamp.
    held_by = person.scene.installation.services["stepup"]
    message = RedeemSignIn(v=1, code=code, verifier=text_of(person.verifier))
    operators = OperatorAccess(
        OperatorStore(held_by._parts.store), held_by._party, standing=held_by._parts.responder.standing,
        services={}, enrolment_seconds=60, session_seconds=60,
    )  # fmt: skip
    with pytest.raises(NotFound):
        await person.scene.installation.run(operators.redeem("console", message))
    held = await person.redeem(code)
    other = AskSession(v=1, session=held["session"], secret=held["secret"])
    told = await person.scene.installation.run(operators.ask("console", other))
    assert told.why == "there is no such session"
    assert (await person.session(held))["type"] == "signed-in"


async def test_a_sign_in_goes_to_configured_services_only(person: Person) -> None:
    for service in ("proxy", "", "policy.evil.example", "https://evil.example"):
        assert await person.page(service=service) == 404
        assert "location" not in person.visitor.headers
    for state in ("x", "A" * 42, "A" * 60, "..//evil.example"):
        assert await person.page(state=state) in (400, 413)
    recorded = await person.scene.refusals("_sys")
    assert {("GET /operator/sign-in", "not_found"), ("GET /operator/sign-in", "malformed")} <= set(recorded)
    # An address in the request is not read.
    path = f"{SIGN_IN}?service=policy&state={state_of(person.verifier)}&return=https://evil.example&next=//evil.example"
    assert await person.visitor.get(path) == 200
    assert "evil" not in person.visitor.text


@pytest.mark.parametrize(
    "changes",
    [
        {"origin": "https://evil.example"},
        {"flags": 0x01},
        {"challenge": bytes(32)},
        {"kind": "webauthn.create"},
        {"handle": "alice"},
        {"handle": "sub-" + "0" * 32},
    ],
)
async def test_a_signature_that_is_not_for_this_page_is_refused_and_recorded(
    person: Person, changes: dict[str, Any]
) -> None:
    assert await person.page() == 200
    form = person.visitor.fields(SIGN_IN) | {"response": person.signed(**changes)}
    assert await person.visitor.post(SIGN_IN, form) in (400, 403)
    assert "operator.signed-in" not in await person.kinds()
    assert SIGN_IN_POST in {verb for verb, _ in await person.scene.refusals("_sys")}


async def test_a_signature_opens_one_session_and_a_form_of_another_browser_none(person: Person) -> None:
    assert await person.page() == 200
    fields = person.visitor.fields(SIGN_IN)
    form = fields | {"response": person.signed(counter=0)}
    assert await person.visitor.post(SIGN_IN, fields | {"response": form["response"], "token": "x"}) == 403
    assert await person.visitor.post(SIGN_IN, form, Origin="https://evil.example") == 403
    assert await person.visitor.post(SIGN_IN, form) == 200
    assert await person.visitor.post(SIGN_IN, form) == 409
    # What an approver's page asks is another challenge: the ask of one page is none of the other's.
    ask = fields["ask"]
    assert await person.visitor.get("/sign-in") == 200
    form = person.visitor.fields("/sign-in") | {"response": person.signed(), "ask": ask}
    assert await person.visitor.post("/sign-in", form) == 403


async def test_an_approvers_passkey_signs_no_operator_in_and_the_other_way_round(scene: Any, person: Person) -> None:
    tenant = await scene.tenant(policy="", connection=False)
    alice = Person(scene, person.operator)
    offer = await alice.visitor.enrol(scene, tenant, scene.name("alice"))
    assert await alice.page() == 200
    answer = msgspec.json.decode(alice.visitor.signed())
    for handle in (offer["user_handle"], text_of(person.id.encode())):
        answer["response"]["userHandle"] = handle
        form = alice.visitor.fields(SIGN_IN) | {"response": msgspec.json.encode(answer).decode()}
        assert await alice.visitor.post(SIGN_IN, form) == 403
        assert await alice.page() == 200
        answer = msgspec.json.decode(alice.visitor.signed())
    assert await person.visitor.get("/sign-in") == 200
    form = person.visitor.fields("/sign-in") | {"response": person.signed()}
    assert await person.visitor.post("/sign-in", form) == 403


async def test_a_session_ends_by_signing_out_by_command_and_with_its_passkey(scene: Any, person: Person) -> None:
    first, second, third = await person.open(), await person.open(), await person.open()
    assert (await person.session(first, end=True))["why"] == "signed out"
    assert (await person.session(first))["why"] == "this session was ended"

    async def listed() -> set[str]:
        return {s["session"] for s in (await person.ask("operator-sessions"))["sessions"] if s["operator"] == person.id}

    async def shows(*sessions: dict[str, Any]) -> bool:
        return await listed() == {one["session"] for one in sessions}

    await scene.until(lambda: shows(second, third), "the list to show both sessions")
    await person.ask("operator-session-end", session=second["session"])
    assert (await person.session(second))["type"] == "signed-out"
    assert (await person.session(third, secret=second["secret"]))["type"] == "signed-out"
    assert (await person.session(third))["type"] == "signed-in"
    (held,) = (await person.ask("operator-passkeys"))["passkeys"]
    await person.ask("operator-passkey-revoke", passkey=held["passkey"])
    assert (await person.session(third))["why"] == "the passkey of this session was taken out of use"
    assert (await person.kinds())[-1] == "operator.passkey-revoked"


async def test_an_operator_of_one_tenant_sees_and_ends_no_session_of_another(scene: Any, person: Person) -> None:
    held = await person.open()
    other = Person(scene, await scene.tenant_operator(await scene.tenant(policy="", connection=False)))
    assert (await other.ask("operator-sessions"))["sessions"] == []
    with pytest.raises(NotFound):
        await other.ask("operator-session-end", session=held["session"])
    (key,) = (await person.ask("operator-passkeys"))["passkeys"]
    with pytest.raises(NotFound):
        await other.ask("operator-passkey-revoke", passkey=key["passkey"], operator=person.id)
    assert ("operator-session-end", "not_found") in await scene.refusals(other.scope)
    assert (await person.session(held))["type"] == "signed-in"
    # The installation's own operators do.
    await scene.operator.ask("stepup", "operator-session-end", session=held["session"])
    assert (await person.session(held))["type"] == "signed-out"


async def test_an_operator_who_was_erased_is_signed_out_and_cannot_sign_in(scene: Any) -> None:
    name = scene.name("erased")
    person = Person(scene, await scene.named_operator(name))
    assert await person.enrol() == 303
    held, code = await person.open(), (await person.sign_in())["code"]
    await scene.operator.ask("identity", "subject-erase", "_", name=name, basis="left")

    async def is_over() -> bool:
        return bool((await person.session(held))["type"] == "signed-out")

    await scene.until(is_over, "the session of an erased operator to end")
    assert (await person.redeem(code))["code"] == "revoked"
    assert await person.page() == 200
    form = person.visitor.fields(SIGN_IN) | {"response": person.signed()}
    assert await person.visitor.post(SIGN_IN, form) == 403
    assert (SIGN_IN_POST, "revoked") in await scene.refusals("_sys")
