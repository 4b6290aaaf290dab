"""A client of the approval pages that is no browser: it has cookies and an authenticator, and sends what it is told."""

from __future__ import annotations

import asyncio
import base64
import html
import http.client
import re
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlencode

import msgspec
from tests.unit.stepup.conftest import Authenticator

from nomos_web.csrf import form_token

SESSION = "__Host-nomos-session"


def b64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Visitor:
    """A client with cookies and an authenticator, which sends whatever it is told."""

    def __init__(self, scene: Any) -> None:
        self.origin: str = scene.installation.local.pages_origin
        self.port: int = scene.installation.local.pages_port
        self.cookies: dict[str, str] = {}
        self.authenticator = Authenticator()
        self.headers: dict[str, str] = {}
        self.text = ""
        #: Of the page with a passkey's form that was read last.
        self.challenge = b""

    async def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> int:
        return await asyncio.to_thread(self._send, method, path, body, headers)

    def _send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        given = {"Host": f"localhost:{self.port}"} | {k.replace("_", "-"): v for k, v in headers.items()}
        if self.cookies:
            given["Cookie"] = "; ".join(f"{k}={v}" for k, v in self.cookies.items())
        try:
            connection.request(method, path, body, {k: v for k, v in given.items() if v})
            answer = connection.getresponse()
            self.text = answer.read().decode()
        finally:
            connection.close()
        self.headers = {k.lower(): v for k, v in answer.getheaders()}
        for line in answer.headers.get_all("set-cookie") or []:
            for name, morsel in SimpleCookie(line).items():
                self.cookies[name] = morsel.value
        if options := re.search(r'data-options="([^"]*)"', self.text):
            self.challenge = b64(msgspec.json.decode(html.unescape(options[1]))["challenge"])
        return answer.status

    async def get(self, path: str, **headers: str) -> int:
        return await self.send("GET", path, **headers)

    async def post(self, path: str, form: dict[str, str], **headers: str) -> int:
        given = {"Origin": self.origin, "Content_Type": "application/x-www-form-urlencoded"} | headers
        return await self.send("POST", path, urlencode(form).encode(), **given)

    def fields(self, action: str) -> dict[str, str]:
        """The hidden fields of the form that is sent to ``action``, on the page that was read last."""
        form = re.search(rf'<form method="post" action="{re.escape(action)}"(.*?)</form>', self.text, re.DOTALL)
        assert form, self.text
        found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form[1])
        return {name: html.unescape(value) for name, value in found}

    def signed(self, **changes: Any) -> str:
        """What the authenticator answers to the page that was read last."""
        given = {"rp_id": "localhost", "origin": self.origin, "challenge": self.challenge} | changes
        return msgspec.json.encode(self.authenticator.sign(**given)).decode()

    def token(self, path: str) -> str:
        """The token of a form that no page of ours holds."""
        return form_token(b64(self.cookies[SESSION].split(".")[2]), path)

    async def enrol(self, scene: Any, tenant: str, name: str) -> dict[str, Any]:
        await scene.operator.ask("stepup", "approver-add", tenant, name=name)
        offer = await scene.operator.ask("stepup", "passkey-offer", tenant, name=name)
        path = offer["url"].removeprefix(self.origin)
        assert await self.get(path) == 200
        made = self.authenticator.register(b64(offer["challenge"]), rp_id="localhost", origin=self.origin)
        form = self.fields(path) | {"response": msgspec.json.encode(made).decode(), "label": "key"}
        assert await self.post(path, form) == 303, self.text
        return dict(offer)

    async def sign_in(self) -> None:
        assert await self.get("/sign-in") == 200
        form = self.fields("/sign-in") | {"response": self.signed()}
        assert await self.post("/sign-in", form) == 303, self.text
        assert SESSION in self.cookies

    async def approve_form(self, approval: str) -> dict[str, str]:
        assert await self.get(f"/approvals/{approval}") == 200
        return self.fields(f"/approvals/{approval}/approve")
