"""What the answers of an authorization server say. Pure: no IO, no clock, no randomness.

What is sent to one is :mod:`nomos_proxy.oauth.requests`. What is refused of its answers:

* ``iss`` is compared wherever it stands.
* An answer that grants a scope that was not granted before, or that is of another account, is refused.
* An ID token comes from the token endpoint itself over TLS, so its signature is not checked (OpenID Connect Core 1.0,
  3.1.3.7 item 6); issuer, audience, nonce and account are.

Sources: RFC 6749, 7009, 9207, 9700.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct, structs

from nomos.catalogue.oauth import SCOPE, OAuth
from nomos.errors import Refused, UpstreamFailed

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


class NotConnected(Refused):
    """The provider gave no code or token: somebody said no, or it did not like the request."""

    code = "not_connected"


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
        nonce: what an ID token must repeat; empty where no browser took one along.
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
    account = _account(oauth, answer, client_id=client_id, issuer=issuer, nonce=nonce, is_needed=before is None)
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
    error = answer_error(oauth, answer)
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


def is_revoked(oauth: OAuth, status: int, body: bytes) -> bool:
    """Whether an answer of a revocation endpoint says that the token is no good any more, RFC 7009 section 2.2."""
    try:
        error = answer_error(oauth, read_object(body)) if body else ""
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


def answer_error(oauth: OAuth, answer: Mapping[str, object]) -> str:
    """The error's code in an answer; empty where it holds none."""
    error = answer.get(oauth.error) or answer.get("error", "")
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


def _account(
    oauth: OAuth, answer: Mapping[str, object], *, client_id: str, issuer: str, nonce: str, is_needed: bool
) -> str:
    """Whose account it is; a renewal need not say it again."""
    if not oauth.account:
        return ""
    path = oauth.account
    found: object = answer
    if path.startswith(ID_TOKEN):
        token = answer.get("id_token")
        if token is None and not is_needed:
            return ""
        found = _claims(token, client_id=client_id, issuer=issuer, nonce=nonce)
        path = path.removeprefix(ID_TOKEN)
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    if found is None and not is_needed:
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
