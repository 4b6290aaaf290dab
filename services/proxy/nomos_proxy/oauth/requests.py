"""What is sent to an authorization server. Pure: no IO, no clock, no randomness.

How parameters and clients are written is authlib's; which of them are sent is here: ``state`` always, PKCE with S256
but to a provider whose connector says that it knows none, and a ``nonce`` where an ID token is read. What comes back
is :mod:`nomos_proxy.oauth.protocol`.

Sources: RFC 6749, 7009, 7523, 7636, 8628, 8707, 9126.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote_plus

import msgspec
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from msgspec import Struct

from nomos.catalogue.oauth import OAuth
from nomos_proxy.oauth.assertion import ASSERTION_TYPE
from nomos_proxy.oauth.protocol import ID_TOKEN, TokenSet
from nomos_runtime.secret import Secret

DEVICE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"
FORM: Final = b"application/x-www-form-urlencoded"


class Client(Struct, frozen=True, kw_only=True):
    """As whom we ask, in one request.

    Attributes:
        id: the client's.
        secret: empty for a public client, and for one with a key.
        assertion: what proves it by its key (:mod:`nomos_proxy.oauth.assertion`); empty without one.
    """

    id: str
    secret: Secret
    assertion: Secret = Secret(b"")


class TokenRequest(Struct, frozen=True, kw_only=True):
    """What is posted: body, and headers beside the framing ones."""

    body: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    content_type: bytes = FORM

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
    }
    if oauth.is_pkce:
        found |= {"code_challenge": create_s256_code_challenge(verifier), "code_challenge_method": "S256"}
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
    is_named_anyway = oauth.client != "basic" or not client.secret.reveal()
    rest = {name: value for name, value in parameters.items() if name != "client_id" or not is_named_anyway}
    return _written(oauth, client, rest)


def code_request(oauth: OAuth, client: Client, *, code: str, verifier: str, redirect_uri: str) -> TokenRequest:
    """A code becomes tokens, RFC 6749 section 4.1.3."""
    rest = {"code": code, "redirect_uri": redirect_uri}
    if oauth.is_pkce:
        rest["code_verifier"] = verifier
    if oauth.resource:
        rest["resource"] = oauth.resource
    return _written(oauth, client, {"grant_type": "authorization_code", **rest})


def device_request(oauth: OAuth, client: Client, scopes: tuple[str, ...]) -> TokenRequest:
    """A code is asked for that a person enters elsewhere, RFC 8628 section 3.1."""
    rest = {"scope": oauth.separator.join(scopes)} if scopes else {}
    if oauth.resource:
        rest["resource"] = oauth.resource
    return _written(oauth, client, rest)


def device_token_request(oauth: OAuth, client: Client, device_code: str) -> TokenRequest:
    """Has the person entered it? RFC 8628 section 3.4."""
    return _written(oauth, client, {"grant_type": DEVICE_GRANT, "device_code": device_code})


def refresh_request(oauth: OAuth, client: Client, refresh: str) -> TokenRequest:
    """A refresh token becomes tokens, RFC 6749 section 6. No scope is named: it asks for what was granted."""
    rest = {"resource": oauth.resource} if oauth.resource else {}
    return _written(oauth, client, {"grant_type": "refresh_token", "refresh_token": refresh, **rest})


def revoke_request(oauth: OAuth, client: Client, tokens: TokenSet) -> TokenRequest | None:
    """What was granted is given back, RFC 7009 section 2.1; None where the provider takes this back in no way."""
    kind = oauth.revoked
    if kind == "refresh_token" and not tokens.refresh:
        kind = "access_token"
    given = {"refresh_token": tokens.refresh, "access_token": tokens.access, "account": tokens.account}[kind]
    if not given:
        return None
    rest = {oauth.revoked_as: given}
    if (oauth.revoked_as, oauth.body) == ("token", "form"):
        rest["token_type_hint"] = kind
    return _written(oauth, client, rest)


def _written(oauth: OAuth, client: Client, parameters: Mapping[str, str]) -> TokenRequest:
    secret, assertion = client.secret.reveal().decode("ascii"), client.assertion.reveal().decode("ascii")
    if assertion:
        parameters = {**parameters, "client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion}
    more = [(name.encode("ascii"), value.encode("ascii")) for name, value in oauth.headers]
    more += [(b"accept", b"application/json")]
    is_named = not secret or oauth.client == "bearer"
    if is_named:
        auth = ClientAuth(client.id, None, "none")
        more += [(b"authorization", b"Bearer " + secret.encode("ascii"))] if secret else []
    elif oauth.client == "basic":
        # RFC 6749 section 2.3.1: form-encoded before they are joined; the library joins them as they are
        auth = ClientAuth(quote_plus(client.id), quote_plus(secret), "client_secret_basic")
    else:
        auth = ClientAuth(client.id, secret, "client_secret_post")
    if oauth.body == "json":
        # the library writes forms; of what it does only the header is taken, and no form holds a secret here
        _, headers, _ = auth.prepare("POST", "", {}, "")
        body = msgspec.json.encode({**parameters, "client_id": client.id} if is_named else dict(parameters))
        return TokenRequest(body=body, headers=(*_encoded(headers), *more), content_type=b"application/json")
    body_text = prepare_token_request(
        parameters.get("grant_type", ""), "", **{k: v for k, v in parameters.items() if k != "grant_type"}
    )
    if "grant_type" not in parameters:
        body_text = body_text.removeprefix("grant_type=").removeprefix("&")
    _, headers, body_text = auth.prepare("POST", "", {}, body_text)
    return TokenRequest(body=body_text.encode("ascii"), headers=(*_encoded(headers), *more))


def _encoded(headers: Mapping[str, object]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("ascii"), str(value).encode("ascii")) for name, value in headers.items()]
