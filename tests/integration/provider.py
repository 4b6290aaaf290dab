"""The npm package oidc-provider as a provider of accounts, on loopback, and a browser that goes there and back."""

from __future__ import annotations

import asyncio
import html
import http.client
import json
import re
import secrets
import shutil
import subprocess
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from nomos.catalogue import load_catalogue
from nomos_proxy.oauth.requests import DEVICE_GRANT
from nomos_web.csrf import FIELD

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".venv" / "provider"
SCRIPT = ROOT / "tests" / "oauth" / "provider.mjs"
CATALOGUE = load_catalogue(ROOT / "connectors")

needs_provider = pytest.mark.skipif(
    shutil.which("node") is None or not (HOME / "node_modules" / "oidc-provider").is_dir(),
    reason="needs node and the npm package oidc-provider: make provider",
)


class Provider:
    """One authorization server that stands for the provider of ``connector``."""

    def __init__(self, process: subprocess.Popen[str], issuer: str, client_id: str, client_secret: str) -> None:
        self._process = process
        self.issuer = issuer
        self.client_id = client_id
        self.client_secret = client_secret

    @classmethod
    def start(
        cls,
        connector: str,
        redirect_uri: str,
        *,
        rotate: bool = True,
        lives: float = 3600,
        refresh: bool = True,
        public: bool = False,
        par: bool = False,
        key: dict[str, object] | None = None,
        port: int = 0,
    ) -> Provider:
        """Starts one; ``key`` is the public half of a client's that proves itself by it, a JSON Web Key."""
        oauth = CATALOGUE.connectors[connector].oauth
        assert oauth is not None
        public = public or key is not None
        client_id, client_secret = f"client-{secrets.token_hex(4)}", "" if public else secrets.token_urlsafe(24)
        method = "none" if public else f"client_secret_{oauth.client}"
        client: dict[str, Any] = {
            "client_id": client_id,
            "redirect_uris": [redirect_uri],
            "grant_types": ["authorization_code", "refresh_token", DEVICE_GRANT],
            "response_types": ["code"],
            "token_endpoint_auth_method": method,
        }
        if key is not None:
            client |= {"token_endpoint_auth_method": "private_key_jwt", "jwks": {"keys": [key]}}
        if client_secret:
            client["client_secret"] = client_secret
        given = {
            "clients": [client],
            "rotate": rotate,
            "lives": lives,
            "refresh": refresh,
            "par": par,
            "port": port,
            "scopes": sorted({"openid", "offline_access", *oauth.scopes, "extra:scope"}),
            "routes": {
                "authorization": oauth.authorize.path,
                "token": oauth.token.path,
                "revocation": oauth.revoke.path if oauth.revoke else "/revoke",
                "device_authorization": oauth.device.path if oauth.device else "/device/auth",
                "pushed_authorization_request": oauth.push.path if oauth.push else "/par",
            },
        }
        script = HOME / "provider.mjs"
        script.write_bytes(SCRIPT.read_bytes())
        node = shutil.which("node")
        assert node is not None
        process = subprocess.Popen(
            [node, str(script), json.dumps(given)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "the provider did not start"
        return cls(process, json.loads(line)["issuer"], client_id, client_secret)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        if self._process.stdout is not None:
            self._process.stdout.close()

    async def seen(self, grant_type: str = "") -> list[dict[str, Any]]:
        """What reached the token endpoint."""
        found = json.loads((await self._ask("GET", "/_seen")) or "[]")
        return [one for one in found if grant_type in ("", one["grant_type"])]

    async def control(self, **what: Any) -> None:
        await self._ask("POST", "/_control", json.dumps(what))

    async def _ask(self, method: str, path: str, body: str | None = None) -> str:
        def run() -> str:
            connection = http.client.HTTPConnection("127.0.0.1", urlsplit(self.issuer).port or 0, timeout=10)
            try:
                connection.request(method, path, body)
                return connection.getresponse().read().decode()
            finally:
                connection.close()

        return await asyncio.to_thread(run)


class Browser:
    """Cookies by host, and no script. ``at`` is the address after the last redirect that was not followed further."""

    def __init__(self) -> None:
        self.cookies: dict[str, dict[str, str]] = {}
        self.status = 0
        self.text = ""
        self.at = ""

    async def get(self, address: str, *, follow: str = "") -> int:
        """Goes to ``address``, and along redirects while they stay at the origin ``follow``."""
        await asyncio.to_thread(self._send, "GET", address, None)
        while self.at and follow and self.at.startswith(follow):
            await asyncio.to_thread(self._send, "GET", self.at, None)
        return self.status

    async def post(self, address: str, **fields: str) -> int:
        await asyncio.to_thread(self._send, "POST", address, urlencode(fields))
        return self.status

    def _send(self, method: str, address: str, body: str | None) -> None:
        parts = urlsplit(address)
        host = parts.netloc
        headers = {"Host": host}
        kept = self.cookies.setdefault(host, {})
        if kept:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in kept.items())
        if body is not None:
            headers |= {"Content-Type": "application/x-www-form-urlencoded", "Origin": f"{parts.scheme}://{host}"}
        connection = http.client.HTTPConnection("127.0.0.1", parts.port or 80, timeout=20)
        try:
            connection.request(method, parts._replace(scheme="", netloc="").geturl(), body, headers)
            answer = connection.getresponse()
            self.text = answer.read().decode()
        finally:
            connection.close()
        for line in answer.headers.get_all("set-cookie") or []:
            for name, morsel in SimpleCookie(line).items():
                if morsel.value and morsel["max-age"] != "0":
                    kept[name] = morsel.value
                else:
                    kept.pop(name, None)
        self.status = answer.status
        to = answer.headers.get("location") or ""
        self.at = to if not to.startswith("/") else f"{parts.scheme}://{host}{to}"

    async def begin(self, link: str) -> str:
        """Opens a link and says yes; gives where the provider is."""
        assert await self.get(link) == 200, self.text
        found = re.search(rf'name="{FIELD}" value="([^"]+)"', self.text)
        assert found, self.text
        assert await self.post(link, **{FIELD: found[1]}) == 200, self.text
        target = re.search(r'url=([^"]+)"', self.text)
        assert target, self.text
        return html.unescape(target[1])

    async def at_provider(self, address: str) -> str:
        """Goes through the provider's pages; gives where it sends the browser back."""
        origin = "{0.scheme}://{0.netloc}".format(urlsplit(address))
        await self.get(address, follow=origin)
        assert self.at, (self.status, self.text[:500])
        return self.at

    async def enter(self, address: str, *, yes: bool = True) -> str:
        """Enters a device's code by the provider's own forms; gives the text of the page that it ends on."""
        origin = "{0.scheme}://{0.netloc}".format(urlsplit(address))
        await self.get(address, follow=origin)
        for last in ({}, {"confirm": "yes"} if yes else {"abort": "yes"}):
            fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', self.text)) | last
            action = re.search(r'action="([^"]+)"', self.text)
            assert action, self.text
            wanted = {name: fields[name] for name in ("xsrf", "user_code", *last) if name in fields}
            await self.post(action[1], **wanted)
            while self.at.startswith(origin):
                await self.get(self.at)
        return self.text

    async def connect(self, link: str) -> int:
        """The whole way; gives the status of the page that it ends on."""
        await self.get(await self.at_provider(await self.begin(link)))
        if self.status == 303:
            await self.get(self.at)
        return self.status


def query_of(address: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
