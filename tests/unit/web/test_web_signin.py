"""Signing in at a service's pages: what the browser is given, and what no browser can make of it."""

from __future__ import annotations

import asyncio
import base64
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message

from nomos.errors import NomosError, NotPermitted, Replayed, Unavailable
from nomos.messages import Decoder, encode, failure
from nomos.signin import AskSession, OperatorSignedIn, OperatorSignedOut, RedeemSignIn, state_of
from nomos_web.assets import Assets
from nomos_web.signin import PATH_CHARS_MAX, SignedIn, SignIn, is_local
from nomos_web.site import Site
from nomos_web.templates import Templates

ORIGIN, STEPUP = "https://policy.example", "https://approve.example"
SESSION, BEGUN = "__Host-nomos-policy-session", "__Host-nomos-policy-begun"
SECRET = base64.urlsafe_b64encode(bytes(range(32))).rstrip(b"=").decode()
CODE = "0" * 32 + "." + SECRET
_asked = Decoder.of(RedeemSignIn, "redeem")
_session = Decoder.of(AskSession, "session")


def signed_in(**changes: Any) -> OperatorSignedIn:
    given = {
        "session": "0" * 32, "operator": "sub-1", "role": "tenant-operator", "tenant": "acme", "expires_at": 1,
    }  # fmt: skip
    return OperatorSignedIn(**(given | changes))


class Answer:
    """Status, headers and text of one answer."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status_code, self.text = status, body.decode()
        self.headers = dict(headers)
        self.cookies = [value for name, value in headers if name == "set-cookie"]


class Browser:
    """Sends requests to the site with the cookies that it was given."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.cookies: dict[str, str] = {}

    def get(self, path: str, params: dict[str, str] | None = None, headers: dict[str, str] | None = None) -> Answer:
        return asyncio.run(self._send("GET", path, urlencode(params or {}), headers or {}, b""))

    def post(self, path: str, form: dict[str, str], headers: dict[str, str] | None = None) -> Answer:
        given = {"content-type": "application/x-www-form-urlencoded"} | (headers or {})
        return asyncio.run(self._send("POST", path, "", given, urlencode(form).encode()))

    async def _send(self, method: str, path: str, query: str, headers: dict[str, str], body: bytes) -> Answer:
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        given = {"host": "policy.example", "cookie": cookies} | headers
        scope = {
            "type": "http", "method": method, "path": path, "query_string": query.encode(), "http_version": "1.1",
            "scheme": "https", "server": ("policy.example", 443), "root_path": "",
            "headers": [(k.lower().encode(), v.encode()) for k, v in given.items()],
        }  # fmt: skip
        await self.app(scope, receive, send)
        content = b"".join(m.get("body", b"") for m in sent if m["type"] == "http.response.body")
        answer = Answer(sent[0]["status"], [(k.decode(), v.decode()) for k, v in sent[0]["headers"]], content)
        for line in answer.cookies:
            for name, morsel in SimpleCookie(line).items():
                self.cookies[name] = morsel.value
                if morsel["max-age"] == "0":
                    del self.cookies[name]
        return answer


class Stepup:
    """Answers as stepup would."""

    def __init__(self) -> None:
        self.verifiers: list[bytes] = []
        self.ended: list[str] = []
        self.error: NomosError | None = None
        self.down = False

    async def __call__(self, subject: str, payload: bytes) -> bytes:
        if self.down:
            raise Unavailable("nobody answers")
        if subject == "svc.stepup.redeem":
            asked = _asked.decode(payload)
            assert isinstance(asked, RedeemSignIn)
            self.verifiers.append(base64.urlsafe_b64decode(asked.verifier + "="))
            return encode(failure(self.error) if self.error else signed_in(secret=SECRET))
        message = _session.decode(payload)
        assert isinstance(message, AskSession)
        if message.end:
            self.ended.append(message.session)
        is_held = message.secret == SECRET and message.session not in self.ended
        return encode(signed_in() if is_held else OperatorSignedOut(why="no"))


class Pages:
    """A site with one page and one form, and a client of it."""

    def __init__(self) -> None:
        self.stepup, self.refused, self.saved = Stepup(), list[str](), list[tuple[str, str]]()
        assets = Assets()
        templates = Templates("nomos_stepup.pages", assets)
        sign_in = SignIn(service="policy", site=STEPUP, ask=self.stepup, templates=templates)

        async def home(request: Request, person: SignedIn) -> Response:
            return PlainTextResponse(f"{person.operator} {person.tenant} {person.token('/save')}")

        async def save(request: Request, person: SignedIn, form: dict[str, str]) -> Response:
            self.saved.append((person.operator, form["text"]))
            return PlainTextResponse("saved")

        async def refused(request: Request, error: Exception) -> NomosError:
            assert isinstance(error, NomosError), error
            self.refused.append(error.code)
            return error

        views = [
            ("GET", "/policies/{name}", sign_in.page(home)),
            ("POST", "/save", sign_in.form(save, ("text",))),
            *sign_in.routes(),
        ]
        site = Site(views, origins=(ORIGIN,), templates=templates, assets=assets, refused=refused)
        self.browser = Browser(site.app)

    def begin(self, path: str = "/policies/acme") -> str:
        """Opens a page; gives the state that the browser takes to stepup."""
        led = self.browser.get(path)
        assert led.status_code == 303
        target = urlsplit(led.headers["location"])
        assert f"{target.scheme}://{target.netloc}{target.path}" == f"{STEPUP}/operator/sign-in"
        asked = parse_qs(target.query)
        assert set(asked) == {"service", "state"}
        return asked["state"][0]

    def sign_in(self) -> Any:
        return self.browser.get("/signed-in", params={"code": CODE, "state": self.begin()})


@pytest.fixture
def pages() -> Pages:
    return Pages()


def test_who_is_not_signed_in_is_led_to_stepup_and_back_to_the_page(pages: Pages) -> None:
    state = pages.begin()
    answer = pages.browser.get("/signed-in", params={"code": CODE, "state": state})
    assert answer.status_code == 200
    assert 'content="0;url=/policies/acme"' in answer.text
    (verifier,) = pages.stepup.verifiers
    assert state_of(verifier) == state
    cookies = answer.cookies
    (session,) = (c for c in cookies if c.startswith(SESSION))
    for flag in ("HttpOnly", "Secure", "SameSite=strict", "Path=/"):
        assert flag in session
    assert BEGUN not in pages.browser.cookies
    assert pages.browser.get("/policies/acme").text.startswith("sub-1 acme")


@pytest.mark.parametrize("state", ["", "x", state_of(bytes(32)), "é"])
def test_a_state_that_this_browser_did_not_begin_is_refused_and_recorded(pages: Pages, state: str) -> None:
    pages.begin()
    assert pages.browser.get("/signed-in", params={"code": CODE, "state": state}).status_code == 403
    assert pages.refused == ["not_permitted"]
    assert pages.stepup.verifiers == []
    assert SESSION not in pages.browser.cookies


def test_a_browser_that_began_nothing_is_given_no_session(pages: Pages) -> None:
    state = pages.begin()
    other = Browser(pages.browser.app)
    assert other.get("/signed-in", params={"code": CODE, "state": state}).status_code == 403
    other.cookies[BEGUN] = "x.y"
    assert other.get("/signed-in", params={"code": CODE, "state": state}).status_code == 403
    assert SESSION not in other.cookies


def test_a_code_that_stepup_refuses_opens_nothing(pages: Pages) -> None:
    pages.stepup.error = Replayed("this code has been used")
    assert pages.sign_in().status_code == 403
    assert pages.refused == ["replayed"]
    asked = len(pages.stepup.verifiers)
    long = pages.browser.get("/signed-in", params={"code": "c" * 76, "state": pages.begin()})
    assert long.status_code == 400
    assert len(pages.stepup.verifiers) == asked
    assert SESSION not in pages.browser.cookies


def test_a_cookie_from_before_does_not_become_a_session(pages: Pages) -> None:
    planted = f"{'0' * 32}.{base64.urlsafe_b64encode(bytes(32)).rstrip(b'=').decode()}"
    pages.browser.cookies[SESSION] = planted
    pages.begin()
    pages.sign_in()
    assert pages.browser.cookies[SESSION] == f"{'0' * 32}.{SECRET}"


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example", "/\\evil.example", "https://evil.example", "evil", "", "/a b", "/a;b", "/\n", "/é",
        "/" + "a" * PATH_CHARS_MAX,
    ],
)  # fmt: skip
def test_the_browser_is_led_to_paths_of_this_site_only(pages: Pages, path: str) -> None:
    assert not is_local(path)
    state = pages.begin()
    forged = base64.urlsafe_b64encode(path.encode()).rstrip(b"=").decode()
    pages.browser.cookies[BEGUN] = pages.browser.cookies[BEGUN].split(".")[0] + "." + forged
    answer = pages.browser.get("/signed-in", params={"code": CODE, "state": state})
    assert answer.status_code == 200
    assert 'content="0;url=/"' in answer.text


def test_a_form_needs_a_session_and_its_own_token(pages: Pages) -> None:
    origin = {"Origin": ORIGIN}
    assert pages.browser.post("/save", {"text": "x"}, headers=origin).status_code == 403
    assert pages.refused == ["signed_out"]
    pages.sign_in()
    token = pages.browser.get("/policies/acme").text.split()[2]
    for wrong in ("", "x", token[:-1] + "_"):
        answer = pages.browser.post("/save", {"text": "x", "token": wrong}, headers=origin)
        assert answer.status_code == 403
    assert pages.browser.post("/save", {"text": "x", "token": token}).status_code == 403
    assert pages.saved == []
    assert pages.browser.post("/save", {"text": "x", "token": token}, headers=origin).text == "saved"
    assert pages.saved == [("sub-1", "x")]


def test_signing_out_ends_the_session_at_stepup(pages: Pages) -> None:
    pages.sign_in()
    person = SignedIn(
        operator="", role="", tenant="", session="", expires_at=0, secret=base64.urlsafe_b64decode(SECRET + "=")
    )
    form = {"token": person.token("/sign-out")}
    assert pages.browser.post("/sign-out", form, headers={"Origin": ORIGIN}).status_code == 200
    assert pages.stepup.ended == ["0" * 32]
    assert pages.browser.get("/policies/acme").status_code == 303


def test_an_end_is_in_force_at_the_next_request_and_without_stepup_nobody_is_signed_in(pages: Pages) -> None:
    pages.sign_in()
    assert pages.browser.get("/policies/acme").status_code == 200
    pages.stepup.ended.append("0" * 32)
    assert pages.browser.get("/policies/acme").status_code == 303
    pages.stepup.ended.clear()
    pages.stepup.down = True
    assert pages.browser.get("/policies/acme").status_code == 503
    assert pages.refused == ["unavailable"]


def test_from_another_site_the_page_asks_for_itself_once_more(pages: Pages) -> None:
    answer = pages.browser.get("/policies/acme", headers={"Sec-Fetch-Site": "cross-site"})
    assert 'content="0;url=/policies/acme"' in answer.text
    assert BEGUN not in pages.browser.cookies


def test_an_operator_of_one_tenant_acts_for_no_other() -> None:
    given = {"operator": "sub-1", "role": "", "session": "", "expires_at": 0, "secret": b""}
    SignedIn(tenant="acme", **given).check_tenant("acme")  # type: ignore[arg-type]
    SignedIn(tenant="", **given).check_tenant("acme")  # type: ignore[arg-type]
    with pytest.raises(NotPermitted):
        SignedIn(tenant="acme", **given).check_tenant("other")  # type: ignore[arg-type]


def test_an_answer_that_is_none_signs_nobody_in(pages: Pages) -> None:
    async def garbage(subject: str, payload: bytes) -> bytes:
        return encode(signed_in())

    pages.sign_in()
    sign_in = SignIn(service="policy", site=STEPUP, ask=garbage, templates=Templates("nomos_stepup.pages", Assets()))
    scope = {
        "type": "http", "method": "GET", "path": "/signed-in",
        "headers": [(b"cookie", f"{BEGUN}={SECRET}.Lw".encode())],
        "query_string": f"code={CODE}&state={state_of(base64.urlsafe_b64decode(SECRET + '='))}".encode(),
    }  # fmt: skip
    with pytest.raises(NomosError, match="not a redeem"):
        asyncio.run(sign_in.returned(Request(scope)))
