"""What is sent to an authorization server, and what its answers mean. Expected texts are the specifications' own."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from nomos.catalogue.oauth import OAuth, OAuthFile, build_oauth
from nomos.errors import NomosError, UpstreamFailed
from nomos_proxy.oauth.grants import AHEAD_SECONDS_MAX, EXPIRY_SECONDS_MAX, renew_at, use_until
from nomos_proxy.oauth.protocol import (
    AnswerNotTaken,
    AnswerUnreadable,
    GrantRefused,
    TokenSet,
    check_answer,
    check_issuer,
    is_revoked,
    read_tokens,
    taken,
)
from nomos_proxy.oauth.requests import (
    Client,
    authorization_parameters,
    authorization_url,
    code_request,
    push_request,
    pushed_url,
    refresh_request,
    revoke_request,
)
from nomos_runtime.secret import Secret

BASIC = build_oauth(
    OAuthFile(
        authorize="https://id.example.com/authorize",
        token="https://id.example.com/token",
        revoke="https://id.example.com/revoke",
        issuer="https://id.example.com",
        scopes=("read", "write"),
    )
)
POST = structs.replace(BASIC, client="post")
WITH_ACCOUNT = structs.replace(BASIC, account="id_token.sub")
SECRET = "p%s w+rd&=:x".replace(" ", "")
CLIENT = Client(id="s6BhdRkqt3", secret=Secret(SECRET.encode()))
PUBLIC = Client(id="s6BhdRkqt3", secret=Secret(b""))
NOW = 1_800_000_000
BEFORE = TokenSet(
    access="old-access", refresh="old-refresh", obtained_at=NOW - 3600, expires_at=NOW, scopes=("read", "write"),
    account="alice",
)  # fmt: skip


def form(body: bytes) -> dict[str, str]:
    found = parse_qs(body.decode("ascii"), strict_parsing=True, keep_blank_values=True)
    assert all(len(values) == 1 for values in found.values())
    return {name: values[0] for name, values in found.items()}


def given_back(oauth: OAuth, client: Client, tokens: TokenSet) -> dict[str, str]:
    request = revoke_request(oauth, client, tokens)
    assert request is not None
    return form(request.body)


def answer(**members: Any) -> bytes:
    return msgspec.json.encode({"access_token": "new-access", "token_type": "Bearer"} | members)


def id_token(**claims: Any) -> str:
    body = msgspec.json.encode(
        {"iss": "https://id.example.com", "aud": "s6BhdRkqt3", "sub": "alice", "nonce": "n-0S6_WzA2Mj"} | claims
    )
    return f"e30.{base64.urlsafe_b64encode(body).rstrip(b'=').decode()}.c2ln"


def take(body: bytes, oauth: OAuth = BASIC, *, before: TokenSet | None = None, nonce: str = "") -> TokenSet:
    return taken(
        oauth, read_tokens(body, now=NOW), client_id=CLIENT.id, issuer=oauth.issuer, nonce=nonce, before=before,
        asked=("read", "write"),
    )  # fmt: skip


# --- what is sent ----------------------------------------------------------------------------------------------


def test_the_challenge_is_that_of_rfc_7636_appendix_b() -> None:
    asked = authorization_parameters(
        BASIC, client_id="c", redirect_uri="https://me.example/connected", scopes=("read",), state="xyz",
        verifier="dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", nonce="",
    )  # fmt: skip
    assert asked["code_challenge"] == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    assert asked["code_challenge_method"] == "S256"


def test_an_address_holds_every_parameter_once_and_nothing_secret() -> None:
    oauth = structs.replace(
        WITH_ACCOUNT, extra=(("access_type", "offline"),), resource="https://api.example.com/v1", separator=","
    )
    asked = authorization_parameters(
        oauth, client_id="c", redirect_uri="https://me.example/connected?x=1&y", scopes=("read", "wri&te"),
        state="s&t=", verifier="v" * 48, nonce="n",
    )  # fmt: skip
    url = authorization_url("https://id.example.com/authorize", asked)
    assert form(urlsplit(url).query.encode()) == {
        "response_type": "code", "client_id": "c", "redirect_uri": "https://me.example/connected?x=1&y",
        "scope": "read,wri&te", "state": "s&t=", "code_challenge": asked["code_challenge"],
        "code_challenge_method": "S256", "resource": "https://api.example.com/v1", "access_type": "offline",
        "nonce": "n",
    }  # fmt: skip
    assert "v" * 48 not in url


def test_a_client_says_who_it_is_in_a_header_in_the_form_or_by_its_name_alone() -> None:
    basic = code_request(BASIC, CLIENT, code="SplxlOBeZQQYbYS6WxSbIA", verifier="v", redirect_uri="https://me/cb")
    headers = dict(basic.headers)
    # RFC 6749 section 2.3.1: each half form-encoded, then joined
    assert base64.b64decode(headers[b"authorization"].split(b" ")[1]) == b"s6BhdRkqt3:p%25sw%2Brd%26%3D%3Ax"
    assert form(basic.body) == {
        "grant_type": "authorization_code", "code": "SplxlOBeZQQYbYS6WxSbIA", "code_verifier": "v",
        "redirect_uri": "https://me/cb",
    }  # fmt: skip
    post = refresh_request(POST, CLIENT, "tGzv3JOkF0XG5Qx2TlKWIA")
    assert b"authorization" not in dict(post.headers)
    assert form(post.body) == {
        "grant_type": "refresh_token", "refresh_token": "tGzv3JOkF0XG5Qx2TlKWIA", "client_id": "s6BhdRkqt3",
        "client_secret": SECRET,
    }  # fmt: skip
    public = refresh_request(BASIC, PUBLIC, "r")
    assert form(public.body) == {"grant_type": "refresh_token", "refresh_token": "r", "client_id": "s6BhdRkqt3"}
    assert b"authorization" not in dict(public.headers)


def test_a_token_is_given_back_and_a_request_pushed() -> None:
    assert given_back(POST, PUBLIC, BEFORE) == {
        "token": "old-refresh", "token_type_hint": "refresh_token", "client_id": "s6BhdRkqt3",
    }  # fmt: skip
    assert given_back(POST, PUBLIC, structs.replace(BEFORE, refresh="")) == {
        "token": "old-access", "token_type_hint": "access_token", "client_id": "s6BhdRkqt3",
    }  # fmt: skip
    asked = {"client_id": "s6BhdRkqt3", "response_type": "code", "state": "x"}
    # as the example of RFC 9126 section 2.1 has it: the client is named once in the form, however it says who it is
    for oauth, client in ((BASIC, PUBLIC), (BASIC, CLIENT), (POST, CLIENT)):
        pushed = form(push_request(oauth, client, asked).body)
        assert pushed == asked | ({"client_secret": SECRET} if (oauth, client) == (POST, CLIENT) else {})
    assert form(urlsplit(pushed_url("https://id.example.com/authorize", "c", "urn:x:1")).query.encode()) == {
        "client_id": "c", "response_type": "code", "request_uri": "urn:x:1",
    }  # fmt: skip


def test_what_is_given_back_is_what_the_connector_says() -> None:
    access = structs.replace(BASIC, revoked="access_token")
    assert given_back(access, PUBLIC, BEFORE)["token"] == "old-access"
    account = structs.replace(BASIC, revoked="account", revoked_as="user_id")
    assert given_back(account, PUBLIC, BEFORE) == {"user_id": "alice", "client_id": "s6BhdRkqt3"}
    assert revoke_request(account, PUBLIC, structs.replace(BEFORE, account="")) is None


def test_a_secret_that_stands_as_a_bearer_stands_nowhere_else() -> None:
    oauth = structs.replace(BASIC, client="bearer")
    request = refresh_request(oauth, CLIENT, "r")
    assert dict(request.headers)[b"authorization"] == b"Bearer " + SECRET.encode()
    assert form(request.body) == {"grant_type": "refresh_token", "refresh_token": "r", "client_id": "s6BhdRkqt3"}
    public = refresh_request(oauth, PUBLIC, "r")
    assert b"authorization" not in dict(public.headers)
    asked = {"client_id": "s6BhdRkqt3", "response_type": "code"}
    assert form(push_request(oauth, CLIENT, asked).body) == asked


def test_a_body_in_json_is_one_object_and_names_the_client_where_no_header_does() -> None:
    oauth = structs.replace(BASIC, body="json", headers=(("x-version", "1"),), is_pkce=False)
    request = code_request(oauth, CLIENT, code="c", verifier="v", redirect_uri="https://me/cb")
    assert request.content_type == b"application/json"
    assert msgspec.json.decode(request.body) == {
        "grant_type": "authorization_code", "code": "c", "redirect_uri": "https://me/cb",
    }  # fmt: skip
    headers = dict(request.headers)
    assert set(headers) == {b"authorization", b"accept", b"x-version"}
    assert headers[b"authorization"].startswith(b"Basic ")
    public = msgspec.json.decode(refresh_request(oauth, PUBLIC, "r").body)
    assert public == {"grant_type": "refresh_token", "refresh_token": "r", "client_id": "s6BhdRkqt3"}
    given = revoke_request(oauth, CLIENT, BEFORE)
    assert given is not None
    assert msgspec.json.decode(given.body) == {"token": "old-refresh"}


def test_no_challenge_goes_to_a_provider_that_knows_none_and_one_to_every_other() -> None:
    for oauth, is_sent in ((BASIC, True), (structs.replace(BASIC, is_pkce=False), False)):
        asked = authorization_parameters(
            oauth, client_id="c", redirect_uri="https://me/cb", scopes=(), state="s", verifier="v", nonce=""
        )
        sent = form(code_request(oauth, CLIENT, code="c", verifier="v", redirect_uri="https://me/cb").body)
        assert ("code_challenge" in asked, "code_challenge_method" in asked) == (is_sent, is_sent)
        assert ("code_verifier" in sent) is is_sent


def test_nothing_that_holds_a_secret_shows_it() -> None:
    request = code_request(POST, CLIENT, code="the-code", verifier="the-verifier", redirect_uri="https://me/cb")
    granted = read_tokens(answer(refresh_token="new-refresh"), now=NOW)
    for shown in (repr(request), repr(BEFORE), repr(granted), repr(CLIENT)):
        assert not any(secret in shown for secret in (SECRET, "the-code", "old-", "new-"))


# --- what comes back -------------------------------------------------------------------------------------------


def test_tokens_of_a_new_connection() -> None:
    made = take(answer(refresh_token="r", expires_in=3600, scope="write"))
    assert made == TokenSet(
        access="new-access", refresh="r", obtained_at=NOW, expires_at=NOW + 3600, scopes=("write",), account=""
    )
    assert take(answer()).scopes == ("read", "write"), "an absent scope is what was asked for"
    assert take(answer(scope="")).scopes == ("read", "write")
    assert take(answer(scope="write,read")).scopes == ("read", "write")
    assert take(answer(scope=["read"])).scopes == ("read",)


def test_a_renewal_keeps_what_it_is_not_given() -> None:
    made = take(answer(expires_in=60), before=BEFORE)
    assert (made.refresh, made.scopes, made.account) == ("old-refresh", ("read", "write"), "alice")
    assert take(answer(refresh_token="r2"), before=BEFORE).refresh == "r2"
    assert take(answer(scope="read"), before=BEFORE).scopes == ("read", "write"), "for once"


@pytest.mark.parametrize("scope", ["read write admin", "admin", 'read "x"', "re\\ad", 7, {}, "x" * 300])
@pytest.mark.parametrize("before", [None, BEFORE])
def test_more_than_was_granted_is_refused(scope: object, before: TokenSet | None) -> None:
    with pytest.raises(AnswerNotTaken):
        take(answer(scope=scope), before=before)


@pytest.mark.parametrize("kind", ["mac", "DPoP", "", 7, None])
def test_what_is_no_bearer_is_refused(kind: object) -> None:
    with pytest.raises(AnswerNotTaken):
        take(answer(token_type=kind))


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b"{", b"access_token=x", answer(access_token=""), answer(access_token=7),
     answer(access_token="a b"), answer(access_token="a\u00e9"), answer(access_token="a" * 8_001),
     answer(refresh_token="a\nb"), answer(refresh_token=["x"]), b'{"token_type": "bearer"}'],
)  # fmt: skip
def test_an_answer_that_cannot_be_read_says_so(body: bytes) -> None:
    with pytest.raises(AnswerUnreadable) as e:
        read_tokens(body, now=NOW)
    assert "access_token=x" not in e.value.detail


@pytest.mark.parametrize("life", [None, "x", -1, 0, True, [], "", "1e3", float("1e300")])
def test_a_life_that_cannot_be_read_costs_no_tokens(life: object) -> None:
    made = take(answer(refresh_token="r", expires_in=life))
    assert made.refresh == "r"
    assert made.expires_at == 0 or made.expires_at > NOW


@given(st.integers(min_value=1, max_value=10**9))
def test_a_token_is_renewed_before_it_is_not_used_and_not_used_after_its_end(life: int) -> None:
    made = take(answer(refresh_token="r", expires_in=life))
    assert made.expires_at > NOW
    assert NOW <= renew_at(made) <= use_until(made) <= made.expires_at
    assert made.expires_at - renew_at(made) <= AHEAD_SECONDS_MAX
    assert made.expires_at - use_until(made) <= EXPIRY_SECONDS_MAX


def test_a_token_without_an_end_or_without_a_refresh_token_is_never_due() -> None:
    assert renew_at(take(answer(refresh_token="r"))) == use_until(take(answer())) == 0
    assert renew_at(take(answer(expires_in=10))) == 0


# --- whose account ---------------------------------------------------------------------------------------------


def test_the_account_is_read_from_the_id_token_or_the_answer() -> None:
    nonce = "n-0S6_WzA2Mj"
    assert take(answer(id_token=id_token()), WITH_ACCOUNT, nonce=nonce).account == "alice"
    assert take(answer(id_token=id_token(aud=["x", "s6BhdRkqt3"])), WITH_ACCOUNT, nonce=nonce).account == "alice"
    in_answer = structs.replace(BASIC, account="team.id")
    assert take(answer(team={"id": "T1"}), in_answer, nonce="x").account == "T1"
    # a renewal need not say it again, and may say the same
    assert take(answer(), WITH_ACCOUNT, before=BEFORE).account == "alice"
    renewed = id_token()
    assert take(answer(id_token=renewed), WITH_ACCOUNT, before=BEFORE).account == "alice"


@pytest.mark.parametrize(
    "token",
    [None, "", "a.b", "a.!.c", "a.e30.c", 7, id_token(nonce="other"), id_token(nonce=None), id_token(aud="other"),
     id_token(aud=["other"]), id_token(aud=None), id_token(iss="https://evil.example"), id_token(sub=None),
     id_token(sub=""), id_token(sub={"a": 1}), id_token(sub=True), id_token(sub="x" * 256)],
)  # fmt: skip
def test_an_id_token_that_is_not_for_this_request_is_refused(token: object) -> None:
    with pytest.raises(AnswerNotTaken):
        take(answer(id_token=token), WITH_ACCOUNT, nonce="n-0S6_WzA2Mj")


def test_a_changed_account_is_refused_at_a_renewal() -> None:
    with pytest.raises(AnswerNotTaken, match="another account"):
        take(answer(id_token=id_token(sub="mallory")), WITH_ACCOUNT, before=BEFORE)


# --- errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (400, b'{"error": "invalid_grant"}', GrantRefused, "invalid_grant"),
        (403, b'{"error": "invalid_grant", "error_description": "Unknown"}', GrantRefused, "invalid_grant"),
        (200, b'{"error": "bad_refresh_token"}', GrantRefused, "bad_refresh_token"),
        (200, b'{"ok": false, "error": "token_revoked"}', GrantRefused, "token_revoked"),
        (401, b'{"error": "invalid_client"}', UpstreamFailed, "does not take our client"),
        (401, b"", UpstreamFailed, "does not take our client"),
        (400, b'{"error": "unauthorized_client"}', UpstreamFailed, "does not take our client"),
        (200, b'{"ok": false}', UpstreamFailed, "not_ok"),
        (429, b'{"error": "slow_down"}', UpstreamFailed, "429 slow_down"),
        (500, b"<html>", UpstreamFailed, "500"),
        (302, b"", UpstreamFailed, "302"),
        (400, b'{"error": "<script>"}', UpstreamFailed, "an error"),
        (400, b'{"error": ["x"]}', UpstreamFailed, "an error"),
        (200, b"<html>", AnswerUnreadable, "no JSON"),
    ],
)
def test_what_a_token_endpoint_s_error_means(status: int, body: bytes, kind: type[NomosError], said: str) -> None:
    oauth = structs.replace(BASIC, refused=("bad_refresh_token", "token_revoked"))
    with pytest.raises(NomosError) as e:
        check_answer(oauth, status, body)
    assert type(e.value) is kind
    assert said in e.value.detail
    assert "<" not in e.value.detail


def test_a_good_answer_is_no_error() -> None:
    check_answer(BASIC, 200, answer())
    check_answer(BASIC, 200, answer(ok=True, error=""))


def test_who_sent_the_answer_is_compared_wherever_it_stands() -> None:
    always = structs.replace(BASIC, is_iss_sent=True)
    check_issuer(BASIC, None, BASIC.issuer)
    check_issuer(BASIC, "https://id.example.com", BASIC.issuer)
    check_issuer(always, "https://id.example.com", BASIC.issuer)
    for oauth, given_issuer in ((BASIC, "https://id.example.com/"), (BASIC, ""), (always, None), (always, "x")):
        with pytest.raises(AnswerNotTaken):
            check_issuer(oauth, given_issuer, BASIC.issuer)


@pytest.mark.parametrize(
    ("status", "body", "wanted"),
    [(200, b"", True), (204, b"", True), (200, b'{"ok": true}', True), (400, b'{"error": "invalid_token"}', True),
     (200, b'{"ok": false, "error": "token_revoked"}', True), (400, b'{"error": "invalid_request"}', False),
     (400, b"", False), (401, b'{"error": "invalid_client"}', False), (503, b"<html>", False),
     (200, b'{"ok": false, "error": "ratelimited"}', False)],
)  # fmt: skip
def test_whether_a_token_is_gone(status: int, body: bytes, wanted: bool) -> None:
    assert is_revoked(BASIC, status, body) is wanted


def test_an_error_s_code_is_read_where_the_connector_says_it_stands() -> None:
    oauth = structs.replace(BASIC, error="code")
    said = b'{"object": "error", "status": 400, "code": "invalid_grant"}'
    for body in (said, b'{"error": "invalid_grant"}'):
        with pytest.raises(GrantRefused):
            check_answer(oauth, 400, body)
    with pytest.raises(UpstreamFailed):
        check_answer(BASIC, 400, said)
    assert is_revoked(oauth, 400, said)
    assert not is_revoked(oauth, 400, b'{"code": "invalid_request"}')
    assert is_revoked(oauth, 200, b'{"request_id": "x"}')


@given(st.binary(max_size=200))
def test_no_answer_breaks_anything(body: bytes) -> None:
    for work in (lambda: check_answer(BASIC, 200, body), lambda: read_tokens(body, now=NOW)):
        try:
            work()
        except NomosError as e:
            assert e.detail
