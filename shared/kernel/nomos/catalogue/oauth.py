"""How a provider lets somebody connect an account of theirs, as its connector file says (``oauth:``).

Values only, checked when they are built. What is sent and what an answer means is the proxy's business. Endpoints come
from the file and from nothing else: no metadata document is fetched, so nobody who answers for one can move them.

Sources: RFC 6749 (endpoints, scopes), RFC 7009 (revocation), RFC 8707 (resource), RFC 9126 (pushed requests), RFC 9207
(``iss``), RFC 8628 (devices); OpenID Connect Core 1.0 (``sub``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

from msgspec import Struct

from nomos.errors import MalformedCatalogue

#: Scopes of one connection.
SCOPES_MAX: Final = 64
#: A scope, RFC 6749 appendix A.4, without the comma that some providers put between two.
SCOPE: Final = re.compile(r"[!#-+\--\[\]-~]{1,200}")
_ENDPOINT: Final = re.compile(
    r"https://(?P<host>(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?)"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?(?P<path>(?:/[A-Za-z0-9._~-]+)*/?)"
)
_PARAMETER: Final = re.compile(r"[a-z][a-z_]{0,39}")
_MEMBER: Final = re.compile(r"[a-z][a-z_]{0,39}(?:\.[a-z][a-z_]{0,39}){0,3}")
_ERROR: Final = re.compile(r"[a-z_]{1,64}")
#: Headers of a connector that the proxy writes itself into a request to a token endpoint.
_OWN_HEADERS: Final = frozenset({"accept", "user-agent"})
#: What the proxy writes itself into a request for authorization.
OWN_PARAMETERS: Final = frozenset({
    "client_id", "client_secret", "code", "code_challenge", "code_challenge_method", "nonce", "redirect_uri",
    "request", "request_uri", "resource", "response_mode", "response_type", "scope", "state",
})  # fmt: skip


#: Signatures of a client's key, RFC 7518 section 3.1.
Signature = Literal["RS256", "PS256", "ES256"]


class Endpoint(Struct, frozen=True, kw_only=True):
    """One address of a provider: https, a host, a port and a path without query."""

    host: str
    port: int
    path: str

    def __str__(self) -> str:
        return f"https://{self.host}{'' if self.port == 443 else f':{self.port}'}{self.path}"


class OAuth(Struct, frozen=True, kw_only=True):
    """How an account is connected.

    Attributes:
        authorize: where the browser goes.
        token: where a code or a refresh token becomes an access token.
        revoke: where a token is given back (RFC 7009); None where the provider has no such place.
        push: where the request is pushed before the browser goes (RFC 9126); None where the provider takes none.
        device: where a code is asked for that a person enters elsewhere (RFC 8628); None where there is no such place.
        issuer: what ``iss`` must be wherever it is sent; empty where the provider has no such name.
        is_iss_sent: whether the provider always sends ``iss`` with its answer, so that one without is refused.
        client: how the client says who it is: ``basic`` in a header, ``post`` in the form, or ``bearer``: its secret as
            a bearer in a header and its id in the form. One without a secret names itself only, and
            one with a private key proves itself by it.
        keys: the signatures of such a key that the provider takes (RFC 7523), the preferred first; none where it takes
            no key.
        body: how what is posted is written: ``form``, or ``json``, one object.
        headers: those of the connector's headers that are sent to every endpoint but ``authorize`` too.
        is_pkce: whether a challenge and its verifier are sent (RFC 7636); not to a provider that knows none and takes
            nothing that it does not know.
        scopes: asked for unless the operator says others.
        separator: between two scopes: a space as RFC 6749 says, or a comma.
        extra: further parameters of the request for authorization.
        resource: the API that tokens are for (RFC 8707); empty where the provider knows no such parameter.
        account: where an answer says whose account it is: ``sub`` and other claims of the ID token as ``id_token.sub``,
            else a dotted path in the answer; empty where it does not say.
        revoked: what is given back: the refresh token, which takes the others along, the access token, or the whole
            account; without a refresh token the access token.
        revoked_as: the parameter in which it stands.
        error: the member of an answer that holds an error's code.
        is_scoped: whether an account does only the actions that name scopes, and these only with their scopes granted.
        refused: errors that mean what ``invalid_grant`` means, in the provider's own words.
    """

    authorize: Endpoint
    token: Endpoint
    revoke: Endpoint | None
    push: Endpoint | None
    device: Endpoint | None
    issuer: str
    is_iss_sent: bool
    client: Literal["basic", "post", "bearer"]
    keys: tuple[Signature, ...]
    body: Literal["form", "json"]
    headers: tuple[tuple[str, str], ...]
    is_pkce: bool
    scopes: tuple[str, ...]
    separator: Literal[" ", ","]
    extra: tuple[tuple[str, str], ...]
    resource: str
    account: str
    revoked: Literal["refresh_token", "access_token", "account"]
    revoked_as: str
    error: str
    is_scoped: bool
    refused: tuple[str, ...]


class OAuthFile(Struct, frozen=True, forbid_unknown_fields=True):
    """The member ``oauth`` of a connector file."""

    authorize: str
    token: str
    revoke: str = ""
    push: str = ""
    device: str = ""
    issuer: str = ""
    iss_sent: bool = False
    client: Literal["basic", "post", "bearer"] = "basic"
    keys: tuple[Signature, ...] = ()
    body: Literal["form", "json"] = "form"
    headers: tuple[str, ...] = ()
    pkce: bool = True
    scopes: tuple[str, ...] = ()
    separator: Literal[" ", ","] = " "
    extra: dict[str, str] = {}
    resource: str = ""
    account: str = ""
    revoked: Literal["refresh_token", "access_token", "account"] = "refresh_token"
    revoked_as: str = "token"
    error: str = "error"
    actions: Literal["all", "scoped"] = "all"
    refused: tuple[str, ...] = ()


def build_oauth(file: OAuthFile, headers: Mapping[str, str] = MappingProxyType({})) -> OAuth:
    """Checks what a file says.

    Args:
        file: its member ``oauth``.
        headers: the connector's, checked.

    Raises:
        MalformedCatalogue: it breaks a rule.
    """
    check_scopes(file.scopes)
    if file.iss_sent and not file.issuer:
        raise MalformedCatalogue("oauth: a provider that sends iss needs an issuer to compare it with")
    for name in ("issuer", "resource"):
        value = getattr(file, name)
        if value and _ENDPOINT.fullmatch(value) is None:
            raise MalformedCatalogue(f"oauth: {name} must be an https address without query")
    for key, value in file.extra.items():
        if _PARAMETER.fullmatch(key) is None or key in OWN_PARAMETERS or not 0 < len(value) <= 200:
            raise MalformedCatalogue(f"oauth: {key!r} may not be a further parameter")
    if file.account and _MEMBER.fullmatch(file.account) is None:
        raise MalformedCatalogue("oauth: account must be a dotted path in the token answer, such as id_token.sub")
    if any(_ERROR.fullmatch(error) is None for error in file.refused):
        raise MalformedCatalogue("oauth: refused must list error codes")
    _check_requests(file, headers)
    return OAuth(
        authorize=_endpoint("authorize", file.authorize),
        token=_endpoint("token", file.token),
        revoke=_endpoint("revoke", file.revoke) if file.revoke else None,
        push=_endpoint("push", file.push) if file.push else None,
        device=_endpoint("device", file.device) if file.device else None,
        issuer=file.issuer,
        is_iss_sent=file.iss_sent,
        client=file.client,
        keys=file.keys,
        body=file.body,
        headers=tuple((name, headers[name]) for name in sorted(file.headers)),
        is_pkce=file.pkce,
        scopes=file.scopes,
        separator=file.separator,
        extra=tuple(sorted(file.extra.items())),
        resource=file.resource,
        account=file.account,
        revoked=file.revoked,
        revoked_as=file.revoked_as,
        error=file.error,
        is_scoped=file.actions == "scoped",
        refused=file.refused,
    )


def _check_requests(file: OAuthFile, headers: Mapping[str, str]) -> None:
    """Checks how requests are written, and what is given back."""
    if not set(file.headers) <= set(headers) - _OWN_HEADERS or len(set(file.headers)) != len(file.headers):
        raise MalformedCatalogue("oauth: headers must name headers of the connector, each once")
    if file.body == "json" and file.client == "post":
        raise MalformedCatalogue("oauth: a client that posts a JSON body says who it is in a header: basic or bearer")
    if len(set(file.keys)) != len(file.keys):
        raise MalformedCatalogue("oauth: keys must list signatures, each once")
    if any(_PARAMETER.fullmatch(name) is None for name in (file.revoked_as, file.error)):
        raise MalformedCatalogue("oauth: revoked_as and error must each name one member")
    if file.revoked == "account" and (not file.account or file.account.startswith("id_token.")):
        raise MalformedCatalogue("oauth: an account is given back only where the token answer names it: account")


def check_scopes(scopes: tuple[str, ...]) -> None:
    """Checks scopes, an operator's or a file's.

    Raises:
        MalformedCatalogue: too many, twice one, or a text that is none.
    """
    if len(scopes) > SCOPES_MAX or len(set(scopes)) != len(scopes):
        raise MalformedCatalogue(f"oauth: at most {SCOPES_MAX} scopes, each once")
    if any(SCOPE.fullmatch(scope) is None for scope in scopes):
        raise MalformedCatalogue("oauth: a scope is printable ASCII without spaces, quotes, commas and backslashes")


def _endpoint(name: str, text: str) -> Endpoint:
    found = _ENDPOINT.fullmatch(text)
    if found is None or not 1 <= (port := int(found["port"] or 443)) <= 65535:
        raise MalformedCatalogue(f"oauth: {name} must be an https address without query")
    return Endpoint(host=found["host"], port=port, path=found["path"] or "/")
