"""Providers that no server of others stands for, on loopback: they take what their documentation says and no more.

Notion: https://developers.notion.com/reference/create-a-token and /revoke-token. Stripe:
https://docs.stripe.com/connect/oauth-reference. Everybody who comes grants what is asked for. And GitHub's codes for
devices, which nobody enters: https://docs.github.com/en/apps/oauth-apps/building-oauth-apps/authorizing-oauth-apps.
"""

from __future__ import annotations

import base64
import json
import secrets
from abc import ABC, abstractmethod
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlencode, urlsplit


class Refused(Exception):
    """A status, and an error's code."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code


class Documented(ABC):
    """A provider. Subclasses say what one of them is like."""

    authorize: ClassVar[str]
    token: ClassVar[str]
    revoke: ClassVar[str]

    def __init__(self, redirect_uri: str) -> None:
        self.client_id = f"ca_{secrets.token_hex(8)}"
        self.client_secret = f"key{secrets.token_hex(12)}"
        self.account = secrets.token_hex(8)
        #: What reached the endpoints, in order: path and parameters.
        self.asked: list[tuple[str, dict[str, str]]] = []
        #: Access tokens that are good, and what gets another one.
        self.good: set[str] = set()
        self.refreshes: set[str] = set()
        self._redirect_uri = redirect_uri
        self._codes: dict[str, str] = {}
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
                try:
                    to = provider.granted(urlsplit(self.path).path, query)
                except Refused as e:
                    self._say(e.status, provider.error(e))
                    return
                self.send_response(302)
                self.send_header("location", to)
                self.send_header("content-length", "0")
                self.end_headers()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                try:
                    self._say(200, provider.answer(self.path, dict(self.headers.items()), body))
                except Refused as e:
                    self._say(e.status, provider.error(e))

            def _say(self, status: int, members: dict[str, Any]) -> None:
                content = json.dumps(members).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.issuer = f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def granted(self, path: str, query: dict[str, str]) -> str:
        """Where the browser goes back to."""
        self.asked.append((path, query))
        right = (self.authorize, self.client_id, "code", self._redirect_uri)
        if (path, query.get("client_id"), query.get("response_type"), query.get("redirect_uri")) != right:
            raise Refused(400, "invalid_request")
        code = secrets.token_hex(16)
        self._codes[code] = query.get("scope", "")
        return f"{self._redirect_uri}?{urlencode({'code': code, 'state': query['state']})}"

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
        parameters = self.read({name.lower(): value for name, value in headers.items()}, body)
        self.asked.append((path, parameters))
        if path == self.token:
            return self.tokens(parameters)
        if path == self.revoke:
            return self.ended(parameters)
        raise Refused(404, "not_found")

    def new_tokens(self) -> dict[str, Any]:
        access, refresh = secrets.token_hex(20), secrets.token_hex(20)
        self.good.add(access)
        self.refreshes.add(refresh)
        return {"access_token": access, "refresh_token": refresh, "token_type": "bearer"}

    def scope_of(self, parameters: dict[str, str]) -> str:
        """Uses a code or refresh token up; gives the scope of a code."""
        if parameters.get("grant_type") == "refresh_token" and parameters.get("refresh_token") in self.refreshes:
            self.refreshes.discard(parameters["refresh_token"])
            return ""
        if parameters.get("grant_type") == "authorization_code" and parameters.get("code") in self._codes:
            return self._codes.pop(parameters["code"])
        raise Refused(400, "invalid_grant")

    @abstractmethod
    def read(self, headers: dict[str, str], body: bytes) -> dict[str, str]: ...

    @abstractmethod
    def tokens(self, parameters: dict[str, str]) -> dict[str, Any]: ...

    @abstractmethod
    def ended(self, parameters: dict[str, str]) -> dict[str, Any]: ...

    @abstractmethod
    def error(self, refused: Refused) -> dict[str, Any]: ...


class Notion(Documented):
    """Basic, JSON of a fixed shape, a version in a header, an error's code in ``code``; refresh tokens rotate."""

    authorize, token, revoke = "/v1/oauth/authorize", "/v1/oauth/token", "/v1/oauth/revoke"
    _SHAPES: ClassVar = ({"grant_type", "code", "redirect_uri"}, {"grant_type", "refresh_token"}, {"token"})

    def granted(self, path: str, query: dict[str, str]) -> str:
        if query.get("owner") != "user":
            raise Refused(400, "validation_error")
        return super().granted(path, query)

    def read(self, headers: dict[str, str], body: bytes) -> dict[str, str]:
        who = base64.b64encode(f"{self.client_id}:{self.client_secret}".encode()).decode()
        if headers.get("authorization") != f"Basic {who}":
            raise Refused(401, "invalid_client")
        if headers.get("content-type") != "application/json" or headers.get("notion-version") != "2022-06-28":
            raise Refused(400, "missing_version")
        found: dict[str, str] = json.loads(body)
        if set(found) not in self._SHAPES:
            raise Refused(400, "validation_error")
        return found

    def tokens(self, parameters: dict[str, str]) -> dict[str, Any]:
        self.scope_of(parameters)
        about = {"workspace_id": self.account, "bot_id": secrets.token_hex(8), "owner": {"type": "user"}}
        return self.new_tokens() | about

    def ended(self, parameters: dict[str, str]) -> dict[str, Any]:
        if parameters["token"] not in self.good:
            raise Refused(400, "invalid_grant")
        self.good.discard(parameters["token"])
        return {"request_id": secrets.token_hex(8)}

    def error(self, refused: Refused) -> dict[str, Any]:
        return {"object": "error", "status": refused.status, "code": refused.code, "message": "no"}


class Stripe(Documented):
    """The platform's secret key as a bearer; tokens without an end; an account is given back, not a token."""

    authorize, token, revoke = "/oauth/authorize", "/oauth/token", "/oauth/deauthorize"

    def read(self, headers: dict[str, str], body: bytes) -> dict[str, str]:
        if headers.get("authorization") != f"Bearer {self.client_secret}":
            raise Refused(401, "invalid_client")
        return {name: values[0] for name, values in parse_qs(body.decode(), strict_parsing=True).items()}

    def tokens(self, parameters: dict[str, str]) -> dict[str, Any]:
        scope = self.scope_of(parameters) or "read_write"
        return self.new_tokens() | {"scope": scope, "livemode": False, "stripe_user_id": f"acct_{self.account}"}

    def ended(self, parameters: dict[str, str]) -> dict[str, Any]:
        if parameters != {"client_id": self.client_id, "stripe_user_id": f"acct_{self.account}"}:
            raise Refused(400, "invalid_request")
        self.good.clear()
        return {"stripe_user_id": f"acct_{self.account}"}

    def error(self, refused: Refused) -> dict[str, Any]:
        return {"error": refused.code, "error_description": "no"}


class GitHub(Documented):
    """Gives codes for devices, answers 200 to everything, and says ``interval`` again where it was asked too often."""

    authorize, token, revoke = "/login/oauth/authorize", "/login/oauth/access_token", "/none"
    device = "/login/device/code"

    def __init__(self, redirect_uri: str) -> None:
        #: What questions get before the tokens come.
        self.answers: list[str] = ["authorization_pending"]
        super().__init__(redirect_uri)

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
        parameters = self.read(headers, body)
        self.asked.append((path, parameters))
        if path == self.device:
            return {
                "device_code": secrets.token_hex(20), "user_code": "WDJB-MJHT", "expires_in": 900, "interval": 1,
                "verification_uri": "https://github.com/login/device",
            }  # fmt: skip
        return self.tokens(parameters)

    def read(self, headers: dict[str, str], body: bytes) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(body.decode(), strict_parsing=True).items()}

    def tokens(self, parameters: dict[str, str]) -> dict[str, Any]:
        if self.answers:
            return {"error": self.answers.pop(0), "interval": 1}
        return self.new_tokens() | {"scope": "repo,read:org"}

    def ended(self, parameters: dict[str, str]) -> dict[str, Any]:
        raise Refused(404, "not_found")

    def error(self, refused: Refused) -> dict[str, Any]:
        return {"error": refused.code}
