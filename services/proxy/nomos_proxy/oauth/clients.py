"""As which client a tenant asks a provider: its id as a fact, its secret or key sealed; and the request that it makes.

Each tenant registers its own client: what one tenant's client is allowed, or loses, is nobody else's.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Final

from nomos.catalogue import Catalogue, Connector, OutgoingRequest
from nomos.catalogue.oauth import Endpoint, OAuth
from nomos.errors import Conflict, LimitExceeded, Malformed, NomosError, NotPermitted, UpstreamFailed
from nomos.events import CONNECTION_ADDED, CONNECTION_REMOVED, OAUTH_CLIENT_SET, Actor
from nomos.ids import new_id
from nomos_proxy.answer import UpstreamResponse
from nomos_proxy.destination import Origin, check_request
from nomos_proxy.exchange import Limits, WireRequest
from nomos_proxy.oauth.assertion import client_assertion, public_key
from nomos_proxy.oauth.protocol import ANSWER_BYTES_MAX, Granted, TokenSet, check_answer, is_revoked, read_tokens
from nomos_proxy.oauth.requests import Client, TokenRequest, revoke_request
from nomos_proxy.store import ClientFacts, Connections, CredentialStore
from nomos_proxy.upstream import Upstreams
from nomos_runtime import observe
from nomos_runtime.eventstore import StoredEvent
from nomos_runtime.secret import Secret
from nomos_runtime.vault import PURPOSE_CLIENT, PURPOSE_CLIENT_KEY, Place

#: Printable ASCII without spaces: what a provider hands out.
_CLIENT_ID: Final = re.compile(r"[!-~]{1,255}")
_SECRET: Final = re.compile(rb"[!-~]{8,}")
SECRET_BYTES_MAX: Final = 1_024
#: Seconds of one request to a token endpoint. Far below the lease, so that it is over before another process asks.
ASK_SECONDS: Final = 12.0


class Party:
    """One tenant's client at one provider, ready to ask."""

    __slots__ = ("_has_key", "_held", "_upstreams", "client_id", "oauth", "origin")

    def __init__(self, oauth: OAuth, facts: ClientFacts, held: Secret, upstreams: Upstreams) -> None:
        """Takes a client and what it holds: its secret, or its private key as ``facts`` says."""
        self.oauth = oauth
        self.client_id = facts.client_id
        #: In place of the provider's, in development only.
        self.origin = facts.origin
        self._has_key = facts.has_key
        self._held = held
        self._upstreams = upstreams

    def client(self) -> Client:
        """The client for one request: what proves it by a key serves once.

        Raises:
            Malformed: the provider takes no signature of its key any more.
        """
        if not self._has_key:
            return Client(id=self.client_id, secret=self._held)
        assertion = client_assertion(
            self._held,
            self.oauth.keys,
            client_id=self.client_id,
            audience=self.issuer or self.address(self.oauth.token),
            now=int(time.time()),
            token_id=new_id("jt"),
        )
        return Client(id=self.client_id, secret=Secret(b""), assertion=assertion)

    @property
    def issuer(self) -> str:
        """What ``iss`` must be; in development the origin that takes the provider's place."""
        return str(self.origin) if self.origin is not None and self.oauth.issuer else self.oauth.issuer

    def address(self, endpoint: Endpoint) -> str:
        """Where a browser is sent."""
        return str(endpoint) if self.origin is None else f"{self.origin}{endpoint.path}"

    async def ask(self, endpoint: Endpoint, request: TokenRequest) -> UpstreamResponse:
        """Posts a form.

        Raises:
            DestinationRefused, UpstreamFailed: nothing was sent.
            UnknownOutcome: it was sent and no complete answer came back.
            AnswerRefused: it was answered, and the answer is over a limit or badly framed.
        """
        return await post_form(self._upstreams, self.origin, endpoint, request)

    async def tokens(self, request: TokenRequest, now: int) -> Granted:
        """Asks the token endpoint.

        Args:
            request: with a code or a refresh token.
            now: Unix seconds.

        Raises:
            GrantRefused: the code or refresh token is no good.
            AnswerUnreadable: it said yes in a way that cannot be read.
            NomosError: as :meth:`ask` and :func:`check_answer`.
        """
        answer = await self.ask(self.oauth.token, request)
        check_answer(self.oauth, answer.status, answer.body)
        return read_tokens(answer.body, now=now)

    async def give_back(self, tokens: TokenSet) -> str:
        """Has the provider revoke tokens (RFC 7009), in the way that its connector says.

        Returns:
            ``revoked``; ``unsupported`` where the provider takes none back; else the code of what went wrong.
        """
        if self.oauth.revoke is None:
            return "unsupported"
        try:
            request = revoke_request(self.oauth, self.client(), tokens)
            if request is None:
                return "unsupported"
            answer = await self.ask(self.oauth.revoke, request)
        except NomosError as e:
            observe.say("proxy", observe.CREDENTIAL_FAULT, code=e.code)
            return e.code
        return "revoked" if is_revoked(self.oauth, answer.status, answer.body) else UpstreamFailed.code


class Clients:
    """Sets clients, and opens them."""

    def __init__(
        self, *, catalogue: Catalogue, connections: Connections, credentials: CredentialStore, upstreams: Upstreams
    ) -> None:
        self._catalogue = catalogue
        self._connections = connections
        self._credentials = credentials
        self._upstreams = upstreams

    def provider(self, connector: str) -> tuple[Connector, OAuth]:
        """The connector and how its accounts are connected.

        Raises:
            NotPermitted: there is no such connector, or its accounts are not connected this way.
        """
        found = self._catalogue.connectors.get(connector)
        able = [name for name, one in self._catalogue.connectors.items() if one.oauth is not None]
        if found is None or found.oauth is None:
            raise NotPermitted(f"accounts are connected to {', '.join(able) or 'no connector here'}")
        return found, found.oauth

    def host(self, tenant: str, connector: str) -> str:
        """Where a browser is sent to, as a person reads it.

        Raises:
            NotFound, NotPermitted: as :meth:`party`.
        """
        _, oauth = self.provider(connector)
        origin = self._connections.client(tenant, connector).origin
        return oauth.authorize.host if origin is None else origin.authority

    async def set(
        self,
        tenant: str,
        *,
        connector: str,
        client_id: str,
        secret: Secret,
        key: Secret,
        base_url: str,
        actor: Actor,
        corr: str,
    ) -> dict[str, object]:
        """Sets the tenant's client at a provider; an empty ``secret`` and ``key`` are a public client's.

        Returns:
            The public half of ``key``, a JSON Web Key; empty without one.

        Raises:
            NotPermitted: accounts are not connected to such a connector.
            Malformed, LimitExceeded: an id or secret that no provider hands out, or a key that this one does not take.
            Conflict: accounts are connected through another client; their tokens are of no use to this one.
        """
        _, oauth = self.provider(connector)
        content = secret.reveal()
        if _CLIENT_ID.fullmatch(client_id) is None:
            raise Malformed("a client's id is 1 to 255 printable ASCII characters without spaces")
        if content and key.reveal():
            raise Malformed("a client has a secret or a private key, not both")
        public = public_key(key, oauth.keys) if key.reveal() else {}
        if len(content) > SECRET_BYTES_MAX:
            raise LimitExceeded("secret_bytes_max of a client", SECRET_BYTES_MAX, len(content))
        if content and _SECRET.fullmatch(content) is None:
            raise Malformed("a client's secret is at least 8 printable ASCII characters without spaces")

        def decide(history: Sequence[StoredEvent]) -> tuple[str, dict[str, object]]:
            _check_same_client(history, connector, client_id)
            event: dict[str, object] = {"connector": connector, "client_id": client_id, "has_secret": bool(content)}
            event |= {"has_key": True} if public else {}
            return OAUTH_CLIENT_SET, event | ({"base_url": base_url} if base_url else {})

        # A public client's empty secret is sealed too: the record of an earlier one must not stay behind.
        seals = {_name(connector): (_place(tenant, connector, has_key=bool(public)), key if public else secret)}
        await self._credentials.change(tenant, decide, seals=seals, actor=actor, corr=corr)
        return public

    async def party(self, tenant: str, connector: str) -> Party:
        """The tenant's client at the provider of ``connector``.

        Raises:
            NotFound: none is set, or its secret has been destroyed.
            NotPermitted: accounts are not connected to such a connector (any more).
            CredentialUnreadable: its secret does not open here.
        """
        _, oauth = self.provider(connector)
        facts: ClientFacts = self._connections.client(tenant, connector)
        place = _place(tenant, connector, has_key=facts.has_key)
        return Party(oauth, facts, await self._credentials.unsealed(tenant, _name(connector), place), self._upstreams)


def _check_same_client(history: Sequence[StoredEvent], connector: str, client_id: str) -> None:
    """Checks that no account would be lost by another client (RFC 6749 section 6: tokens are the client's)."""
    said = [e.envelope for e in history]
    clients = [e.event for e in said if e.type == OAUTH_CLIENT_SET and e.event["connector"] == connector]
    if not clients or clients[-1]["client_id"] == client_id:
        return
    removed = {e.event["name"] for e in said if e.type == CONNECTION_REMOVED}
    through = [
        str(e.event["name"])
        for e in said
        if e.type == CONNECTION_ADDED
        and (e.event.get("method"), e.event["connector"]) == ("oauth", connector)
        and e.event["name"] not in removed
    ]
    if through:
        raise Conflict(
            f"accounts are connected through another client: {', '.join(through)[:200]}",
            hint="remove them first; a new secret of the same client can be set at any time",
        )


async def post_form(
    upstreams: Upstreams, instead: Origin | None, endpoint: Endpoint, request: TokenRequest
) -> UpstreamResponse:
    """Posts a form to a token endpoint; ``instead`` takes its origin's place. Errors as :meth:`Party.ask`."""
    origin = instead or Origin(scheme="https", host=endpoint.host, port=endpoint.port)
    limits = Limits(total_seconds=ASK_SECONDS, body_bytes=ANSWER_BYTES_MAX)
    target = check_request(origin, OutgoingRequest(method="POST", path=endpoint.path))
    return await upstreams.send(origin, _written(origin, target, request), limits)


def _written(origin: Origin, target: str, request: TokenRequest) -> WireRequest:
    # Made and handed on at once: a traceback that shows local variables must find nothing but what hides itself.
    return WireRequest(
        method="POST",
        target=target,
        headers=(
            (b"host", origin.authority.encode("ascii")),
            (b"accept-encoding", b"identity"),
            (b"user-agent", b"nomos-proxy"),
            (b"content-type", request.content_type),
            (b"content-length", str(len(request.body)).encode("ascii")),
            *request.headers,
        ),
        body=request.body,
    )


def _name(connector: str) -> str:
    return f"oauth-client/{connector}"


def _place(tenant: str, connector: str, *, has_key: bool) -> Place:
    purpose = PURPOSE_CLIENT_KEY if has_key else PURPOSE_CLIENT
    return Place(purpose=purpose, tenant=tenant, connection="", provider=connector)
