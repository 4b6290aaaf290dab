"""What is sent to an authorization server, and what its answers say. Pure: no IO, no clock, no randomness.

How parameters and clients are written is authlib's; which of them are sent, and what is refused, is here:

* PKCE with S256 always; ``state``, and a ``nonce`` where an ID token is read; ``iss`` compared wherever it stands.
* An answer that grants a scope that was not granted before, or that is of another account, is refused.
* An ID token comes from the token endpoint itself over TLS, so its signature is not checked (OpenID Connect Core 1.0,
  3.1.3.7 item 6); issuer, audience, nonce and account are.

Sources: RFC 6749, 7009, 7636, 8707, 9126, 9207, 9700.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Final, Literal
from urllib.parse import quote_plus

import msgspec
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from msgspec import Struct, structs

from nomos.catalogue.oauth import SCOPE, OAuth
from nomos.errors import Refused, UpstreamFailed
from nomos_runtime.secret import Secret

#: Bytes of an answer of a token endpoint.
ANSWER_BYTES_MAX: Final = 65_536
#: Characters of a token. What is longer cannot be a header's value.
TOKEN_CHARS_MAX: Final = 8_000
#: Seconds that a token may live at most; a longer life is cut to it.
LIFE_SECONDS_MAX: Final = 10 * 366 * 86_400
ID_TOKEN: Final = "id_token."  # noqa: S105 - where an account is found
#: Errors that say that the code or the refresh token itself is no good, RFC 6749 section 5.2.
GRANT_ERRORS: Final = frozenset({"invalid_grant"})
#: Errors about the client; the grant may be as good as ever.
_CLIENT_ERRORS: Final = frozenset({"invalid_client", "unauthorized_client"})
_GONE: Final = GRANT_ERRORS | {"invalid_token", "token_revoked"}
#: Characters of an error code that goes into messages and the log.
ERROR_CHARS_MAX: Final = 64
#: Characters of an account's name; OpenID Connect Core 1.0 section 2 has no longer ``sub``.
ACCOUNT_CHARS_MAX: Final = 255


class GrantRefused(Refused):
    """The provider says that the code or the refresh token is no good: nothing but a person helps."""

    code = "grant_refused"


class AnswerNotTaken(Refused):
    """The provider answered with something that we do not take: more scopes, another account, another issuer."""

    code = "oauth_answer_refused"


class Client(Struct, frozen=True, kw_only=True):
    """As whom we ask. ``secret`` is empty for a public client."""

    id: str
    secret: Secret


class AnswerUnreadable(UpstreamFailed):
    """The provider said yes in a way that cannot be read. What it granted, if anything, is gone."""

    code = "oauth_answer_unreadable"


class TokenSet(Struct, frozen=True, kw_only=True):
    """What a provider has granted.

    Attributes:
        access: the access token, a bearer.
        refresh: the refresh token; empty where there is none.
        obtained_at: Unix seconds.
        expires_at: Unix seconds; 0 where the provider names no end.
        scopes: what is granted, sorted.
        account: whose account it is, as the provider names it; empty where it does not.
    """

    access: str
    refresh: str
    obtained_at: int
    expires_at: int
    scopes: tuple[str, ...]
    account: str

    def __repr__(self) -> str:
        return "TokenSet(redacted)"


class Granted(Struct, frozen=True, kw_only=True):
    """What a token endpoint gave: the tokens, and its whole answer."""

    tokens: TokenSet
    answer: dict[str, object]

    def __repr__(self) -> str:
        return "Granted(redacted)"


class TokenRequest(Struct, frozen=True, kw_only=True):
    """A form that is posted: body, and headers beside the framing ones."""

    body: bytes
    headers: tuple[tuple[bytes, bytes], ...]

    def __repr__(self) -> str:
        return "TokenRequest(redacted)"


def authorization_parameters(
    oauth: OAuth,
    *,
    client_id: str,
    redirect_uri: str,
    scopes: tuple[str, ...],
    state: str,
    verifier: str,
    nonce: str,
) -> dict[str, str]:
    """The parameters of a request for authorization, RFC 6749 section 4.1.1 and RFC 7636 section 4.3."""
    found = dict(oauth.extra) | {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": redirect_uri,
        "state": state,
        "code_challenge": create_s256_code_challenge(verifier),
        "code_challenge_method": "S256",
    }
    if scopes:
        found["scope"] = oauth.separator.join(scopes)
    if oauth.resource:
        found["resource"] = oauth.resource
    if oauth.account.startswith(ID_TOKEN):
        found["nonce"] = nonce
    return found


def authorization_url(base: str, parameters: Mapping[str, str]) -> str:
    """Where the browser goes: ``base`` is the authorization endpoint."""
    rest = {name: value for name, value in parameters.items() if name not in ("client_id", "response_type")}
    url: str = prepare_grant_uri(base, parameters["client_id"], parameters.get("response_type", "code"), **rest)
    return url


def pushed_url(base: str, client_id: str, request_uri: str) -> str:
    """Where the browser goes once the parameters have been pushed, RFC 9126 section 4."""
    url: str = prepare_grant_uri(base, client_id, "code", request_uri=request_uri)
    return url


def push_request(oauth: OAuth, client: Client, parameters: Mapping[str, str]) -> TokenRequest:
    """The parameters, pushed before the browser goes, RFC 9126 section 2.1."""
    is_named_anyway = oauth.client == "post" or not client.secret.reveal()
    rest = {name: value for name, value in parameters.items() if name != "client_id" or not is_named_anyway}
    return _written(oauth, client, rest)


def code_request(oauth: OAuth, client: Client, *, code: str, verifier: str, redirect_uri: str) -> TokenRequest:
    """A code becomes tokens, RFC 6749 section 4.1.3."""
    rest = {"code": code, "code_verifier": verifier, "redirect_uri": redirect_uri}
    if oauth.resource:
        rest["resource"] = oauth.resource
    return _written(oauth, client, {"grant_type": "authorization_code", **rest})


def refresh_request(oauth: OAuth, client: Client, refresh: str) -> TokenRequest:
    """A refresh token becomes tokens, RFC 6749 section 6. No scope is named: it asks for what was granted."""
    rest = {"resource": oauth.resource} if oauth.resource else {}
    return _written(oauth, client, {"grant_type": "refresh_token", "refresh_token": refresh, **rest})


def revoke_request(
    oauth: OAuth, client: Client, token: str, kind: Literal["refresh_token", "access_token"]
) -> TokenRequest:
    """A token is given back, RFC 7009 section 2.1."""
    return _written(oauth, client, {"token": token, "token_type_hint": kind})


def _written(oauth: OAuth, client: Client, parameters: Mapping[str, str]) -> TokenRequest:
    body = prepare_token_request(
        parameters.get("grant_type", ""), "", **{k: v for k, v in parameters.items() if k != "grant_type"}
    )
    if "grant_type" not in parameters:
        body = body.removeprefix("grant_type=&")
    secret = client.secret.reveal().decode("ascii")
    if not secret:
        auth = ClientAuth(client.id, None, "none")
    elif oauth.client == "basic":
        # RFC 6749 section 2.3.1: form-encoded before they are joined; the library joins them as they are
        auth = ClientAuth(quote_plus(client.id), quote_plus(secret), "client_secret_basic")
    else:
        auth = ClientAuth(client.id, secret, "client_secret_post")
    _, headers, body = auth.prepare("POST", "", {}, body)
    written = [(name.lower().encode("ascii"), str(value).encode("ascii")) for name, value in headers.items()]
    return TokenRequest(body=body.encode("ascii"), headers=(*written, (b"accept", b"application/json")))


def read_tokens(body: bytes, *, now: int) -> Granted:
    """The tokens in a good answer of a token endpoint, RFC 6749 section 5.1, not yet looked at any further.

    Args:
        body: of an answer that :func:`check_answer` took.
        now: Unix seconds.

    Raises:
        AnswerUnreadable: the answer cannot be read.
    """
    answer = read_object(body)
    access, refresh = _token(answer, "access_token"), _token(answer, "refresh_token")
    if not access:
        raise AnswerUnreadable("the provider answered without an access token")
    tokens = TokenSet(
        access=access,
        refresh=refresh,
        obtained_at=now,
        expires_at=_expires_at(answer, now),
        scopes=(),
        account="",
    )
    return Granted(tokens=tokens, answer=answer)


def taken(
    oauth: OAuth,
    granted: Granted,
    *,
    client_id: str,
    issuer: str,
    nonce: str = "",
    before: TokenSet | None,
    asked: tuple[str, ...],
) -> TokenSet:
    """What was granted, if we take it.

    Args:
        oauth: the provider.
        granted: what it gave.
        client_id: ours, which an ID token must be for.
        issuer: of an ID token.
        nonce: what an ID token must repeat; empty for a renewal, whose ID token need not have one.
        before: what a renewal renews; None for a new connection.
        asked: the scopes that may be granted to a new connection.

    Raises:
        AnswerNotTaken: it grants more, is of another account, or its ID token is not for us.
    """
    answer, tokens = granted.answer, granted.tokens
    kind = answer.get("token_type", "bearer")
    if not isinstance(kind, str) or kind.lower() not in ("bearer", "bot", "user"):
        raise AnswerNotTaken("the provider's tokens are not bearers")
    limit = before.scopes if before is not None else asked
    scopes = _scopes(answer, limit)
    if more := sorted(set(scopes) - set(limit)):
        raise AnswerNotTaken(f"the provider granted more than was asked for: {', '.join(more)[:200]}")
    account = _account(oauth, answer, client_id=client_id, issuer=issuer, nonce=nonce)
    if before is None:
        return structs.replace(tokens, scopes=scopes, account=account)
    if before.account and account and account != before.account:
        raise AnswerNotTaken("the provider's answer is of another account")
    return structs.replace(
        tokens,
        # a provider that does not rotate names none again (RFC 6749 section 6)
        refresh=tokens.refresh or before.refresh,
        # a renewal that grants less for once takes nothing away from the next
        scopes=before.scopes,
        account=before.account or account,
    )


def check_answer(oauth: OAuth, status: int, body: bytes) -> None:
    """Checks that an answer of a token endpoint is a good one.

    Raises:
        GrantRefused: the code or refresh token is no good.
        UpstreamFailed: anything else: the provider is busy, broken, or does not take our client.
    """
    # some providers answer 200 with an error inside, so the body is looked at first
    try:
        answer = read_object(body)
    except AnswerUnreadable:
        if status == 200:
            raise
        answer = {}
    error = _error(answer)
    if status == 200 and not error:
        return
    if error in GRANT_ERRORS or error in oauth.refused:
        raise GrantRefused(f"the provider refused the grant: {error}", hint="connect the account again")
    if error in _CLIENT_ERRORS or status == 401:
        raise UpstreamFailed(
            f"the provider does not take our client: {error or status}",
            hint="set the client's id and secret anew: nomos connection client",
        )
    raise UpstreamFailed(f"the provider answered {status} {error}".strip())


def is_revoked(status: int, body: bytes) -> bool:
    """Whether an answer of a revocation endpoint says that the token is no good any more, RFC 7009 section 2.2."""
    try:
        error = _error(read_object(body)) if body else ""
    except AnswerUnreadable:
        error = ""
    # some providers say of a token that is gone already that they do not know it
    return status in (200, 204) if not error else error in _GONE


def check_issuer(oauth: OAuth, given: str | None, issuer: str) -> None:
    """Checks ``iss`` of an answer that the browser brought, RFC 9207 section 2.4.

    Raises:
        AnswerNotTaken: it is another, or is missing although this provider sends it.
    """
    if given is None:
        if oauth.is_iss_sent:
            raise AnswerNotTaken("the answer does not say which provider sent it")
    elif issuer and given != issuer:
        raise AnswerNotTaken("the answer comes from another provider than the one that was asked")


def read_object(body: bytes) -> dict[str, object]:
    """A JSON object.

    Raises:
        AnswerUnreadable: it is none.
    """
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except msgspec.DecodeError:
        # the foreign message can hold a part of the body
        raise AnswerUnreadable("the provider's answer is no JSON object") from None


def error_code(value: object) -> str:
    """An error code that somebody outside sent, as messages and the log may hold it; empty where it is none."""
    if not isinstance(value, str) or len(value) > ERROR_CHARS_MAX:
        return ""
    return value if value.isascii() and value.replace("_", "").isalnum() else ""


def _error(answer: Mapping[str, object]) -> str:
    error = answer.get("error", "")
    if answer.get("ok") is False and not error:
        error = "not_ok"
    return "" if error == "" else error_code(error) or "an error"


def _token(answer: Mapping[str, object], name: str) -> str:
    value = answer.get(name) or ""
    if not isinstance(value, str) or len(value) > TOKEN_CHARS_MAX or not all("!" <= c <= "~" for c in value):
        raise AnswerUnreadable(f"the provider's {name} is no token")
    return value


def _scopes(answer: Mapping[str, object], otherwise: tuple[str, ...]) -> tuple[str, ...]:
    """RFC 6749 section 5.1: an absent ``scope`` means what was asked for. Some providers put commas between two."""
    value = answer.get("scope")
    if value is None or value == "":
        return otherwise
    text = " ".join(str(one) for one in value) if isinstance(value, list) else value
    found = sorted(set(text.replace(",", " ").split())) if isinstance(text, str) else [""]
    if any(SCOPE.fullmatch(one) is None for one in found):
        raise AnswerNotTaken("the provider does not say what it granted in a way that can be read")
    return tuple(found)


def _expires_at(answer: Mapping[str, object], now: int) -> int:
    """0 for a life that is not said, or that cannot be read: the upstream then says when the token has ended (401)."""
    value = answer.get("expires_in")
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:12])
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        return 0
    return now + max(1, int(min(value, LIFE_SECONDS_MAX)))


def _account(oauth: OAuth, answer: Mapping[str, object], *, client_id: str, issuer: str, nonce: str) -> str:
    if not oauth.account:
        return ""
    path = oauth.account
    found: object = answer
    if path.startswith(ID_TOKEN):
        token = answer.get("id_token")
        if token is None and not nonce:
            return ""
        found = _claims(token, client_id=client_id, issuer=issuer, nonce=nonce)
        path = path.removeprefix(ID_TOKEN)
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    if found is None and not nonce:
        return ""
    if not isinstance(found, str | int) or isinstance(found, bool) or not 0 < len(str(found)) <= ACCOUNT_CHARS_MAX:
        raise AnswerNotTaken("the provider does not say whose account it is")
    return str(found)


def _claims(token: object, *, client_id: str, issuer: str, nonce: str) -> dict[str, object]:
    parts = token.split(".") if isinstance(token, str) else []
    if len(parts) != 3:
        raise AnswerNotTaken("the provider sent no ID token")
    try:
        octets = base64.b64decode(parts[1] + "=" * (-len(parts[1]) % 4), altchars=b"-_", validate=True)
        claims = msgspec.json.decode(octets, type=dict[str, object])
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise AnswerNotTaken("the provider's ID token cannot be read") from None
    audience = claims.get("aud")
    if client_id not in (audience if isinstance(audience, list) else [audience]):
        raise AnswerNotTaken("the provider's ID token is for another client")
    if claims.get("iss") != issuer:
        raise AnswerNotTaken("the provider's ID token is of another issuer")
    if nonce and claims.get("nonce") != nonce:
        raise AnswerNotTaken("the provider's ID token belongs to another request")
    return claims
