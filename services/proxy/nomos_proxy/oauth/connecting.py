"""Connecting an account: an operator's link, a browser's way to the provider and back, a code that becomes tokens.

    offer (operator) -> link -> page -> begin: state, verifier, cookie -> provider -> returned: code -> tokens -> stored

The verifier (PKCE) and the nonce are sealed in this service and never leave it but to the provider, so a code that
somebody reads off an address opens nothing. An attempt takes one answer: it is marked as returned before the code is
used. A crash after that leaves no connection; the operator makes another link.

An account is connected *again* under the name of its connection. Then it must be the account that it was, where the
provider says whose account it is: policies speak of the connection, and must not come to mean somebody else's things.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from authlib.common.security import generate_token
from msgspec import Struct

from nomos.catalogue.oauth import check_scopes
from nomos.errors import Conflict, Malformed, NomosError, NotFound, Refused, UpstreamFailed
from nomos.events import (
    CONNECT_BEGUN,
    CONNECT_ENDED,
    CONNECT_OFFERED,
    CONNECT_RETURNED,
    CONNECTION_ADDED,
    CONNECTION_REPLACED,
    Actor,
    Envelope,
)
from nomos.ids import new_id, parse_slug
from nomos_proxy.domain import PROXY
from nomos_proxy.history import added, check_free
from nomos_proxy.keys import DataKeys
from nomos_proxy.oauth.clients import Clients
from nomos_proxy.oauth.flow import ID_PREFIX, SECRET_BYTES, Flow, b64url, fold, link_of, parse_link, sha256_hex
from nomos_proxy.oauth.grants import Grants
from nomos_proxy.oauth.party import Party
from nomos_proxy.oauth.protocol import AnswerNotTaken, TokenSet, check_issuer, error_code, read_object, taken
from nomos_proxy.oauth.requests import (
    authorization_parameters,
    authorization_url,
    code_request,
    push_request,
    pushed_url,
)
from nomos_proxy.store import CredentialStore
from nomos_runtime.eventstore import EventStore, StoredEvent
from nomos_runtime.secret import Secret
from nomos_runtime.vault import PURPOSE_FLOW, Place, Vault

#: Path of the page that a link opens, and of the one that providers send browsers back to.
CONNECT: Final = "/connect/"
CONNECTED: Final = "/connected"
#: Characters of a verifier, RFC 7636 section 4.1 (43 to 128); about 285 bits.
VERIFIER_CHARS: Final = 48
#: Characters of what a provider puts into an answer's address.
CODE_CHARS_MAX: Final = 4_000
REQUEST_URI_CHARS_MAX: Final = 1_000


class NotConnected(Refused):
    """The provider sent the browser back without a code: somebody said no, or it did not like the request."""

    code = "not_connected"


class Secrets(Struct, frozen=True, kw_only=True):
    """What is kept of one way to the provider."""

    verifier: str
    nonce: str


_secrets = msgspec.json.Decoder(Secrets)


class Connecting:
    """Offers links, sends browsers to providers, and takes their answers."""

    def __init__(
        self,
        *,
        store: EventStore,
        vault: Vault,
        keys: DataKeys,
        clients: Clients,
        credentials: CredentialStore,
        grants: Grants,
        origin: str,
        link_seconds: int,
        refresh: Callable[[], Awaitable[None]],
    ) -> None:
        """Wires it.

        Args:
            store: of the service.
            vault: seals what is kept of a way.
            keys: the tenants' data keys.
            clients: as whom a provider is asked.
            credentials: where connections are recorded.
            grants: where tokens are stored.
            origin: of the pages; with :data:`CONNECTED` it is the redirect address, exactly.
            link_seconds: how long a link works.
            refresh: brings this replica's facts up to date.
        """
        self._store = store
        self._vault = vault
        self._keys = keys
        self._clients = clients
        self._credentials = credentials
        self._grants = grants
        self._origin = origin
        self._link_seconds = link_seconds
        self._refresh = refresh

    @property
    def redirect_uri(self) -> str:
        """Where providers send browsers back; what is registered there."""
        return self._origin + CONNECTED

    async def offer(
        self, tenant: str, *, connector: str, name: str, scopes: tuple[str, ...], base_url: str, by: Actor, corr: str
    ) -> tuple[str, int]:
        """Makes a link by which somebody connects an account, once.

        Returns:
            Its address, and until when it works, Unix seconds.

        Raises:
            NotPermitted: accounts are not connected to such a connector.
            NotFound: the tenant has no client there, and there is none for all.
            LimitExceeded: it has as many accounts through the one for all as it may.
            Conflict: the name is that of a connection of another kind or provider.
            MalformedCatalogue: a scope that is none.
        """
        parse_slug(name, "connection")
        _, oauth = self._clients.provider(connector)
        is_shared = self._clients.is_shared(tenant, connector)
        await self._clients.party(tenant, connector, is_shared=is_shared)
        scopes = scopes or oauth.scopes
        check_scopes(scopes)
        history = await self._credentials.history(tenant)
        is_again = self._is_again(history, connector, name)
        self._clients.check_room(history, connector, name, is_shared=is_shared)
        # A tenant that uses a shared client may have sealed nothing before.
        await self._keys.of_or_new(tenant, history)
        if is_again and base_url:
            raise Conflict("a connection stays at the origin that it was added with")
        now, flow, secret = int(time.time()), new_id(ID_PREFIX), os.urandom(SECRET_BYTES)
        event: dict[str, object] = {
            "flow": flow,
            "connector": connector,
            "name": name,
            "scopes": list(scopes),
            "link_sha256": sha256_hex(secret),
            "expires_at": now + self._link_seconds,
            "at": now,
        }
        if base_url:
            event["base_url"] = base_url
        if is_shared:
            event["shared"] = True
        await self._append(tenant, flow, 0, CONNECT_OFFERED, event, actor=by, corr=corr)
        return f"{self._origin}{CONNECT}{link_of(tenant, flow, secret)}", now + self._link_seconds

    @staticmethod
    def _is_again(history: Sequence[StoredEvent], connector: str, name: str) -> bool:
        """Whether an account of this connection was connected before."""
        try:
            before = added(history, name)
        except NotFound:
            check_free(history, name)
            return False
        if before.get("method") != "oauth" or before["connector"] != connector:
            raise Conflict(f"connection {name} exists, and is no account of {connector}", hint="names are given once")
        return True

    async def opened(self, link: str) -> tuple[Flow, str, str]:
        """The attempt behind a link that still works, the provider's name, and the host where people go on.

        Raises:
            NotFound, Expired, Replayed: as :meth:`Flow.check_link`.
        """
        tenant, flow_id, secret = parse_link(link)
        flow = await self._flow(tenant, flow_id)
        flow.check_link(secret, int(time.time()))
        connector, _ = self._clients.provider(flow.connector)
        return flow, connector.title, self._clients.host(tenant, flow.connector, is_shared=flow.is_shared)

    async def begin(self, link: str, browser: bytes, corr: str) -> str:
        """Sends a browser to the provider; gives the address.

        Args:
            link: that it opened.
            browser: the secret in its cookie, :data:`SECRET_BYTES` bytes.
            corr: the request.

        Raises:
            NotFound, Expired, Replayed: as :meth:`Flow.check_link`.
            UpstreamFailed, UnknownOutcome: the provider does not take the pushed request.
        """
        flow, _, _ = await self.opened(link)
        party = await self._clients.party(flow.tenant, flow.connector, is_shared=flow.is_shared)
        state = b64url(os.urandom(SECRET_BYTES))
        secrets = Secrets(verifier=generate_token(VERIFIER_CHARS), nonce=b64url(os.urandom(SECRET_BYTES)))
        key = await self._keys.of(flow.tenant)
        if key is None:
            raise NotFound("the data key of this tenant has been destroyed")
        sealed = self._vault.seal(key, _place(flow), Secret(msgspec.json.encode(secrets)))
        event: dict[str, object] = {
            "flow": flow.id,
            "state_sha256": sha256_hex(state.encode()),
            "browser_sha256": sha256_hex(browser),
            "at": int(time.time()),
        }
        await self._append(
            flow.tenant, flow.id, flow.version, CONNECT_BEGUN, event, corr=corr, sealed={_stream(flow.id): sealed}
        )
        parameters = authorization_parameters(
            party.oauth,
            client_id=party.client_id,
            redirect_uri=self.redirect_uri,
            scopes=flow.scopes,
            state=state,
            verifier=secrets.verifier,
            nonce=secrets.nonce,
        )
        base = party.address(party.oauth.authorize)
        if party.oauth.push is None:
            return authorization_url(base, parameters)
        answer = await party.ask(party.oauth.push, push_request(party.oauth, party.client(), parameters))
        return pushed_url(base, party.client_id, _request_uri(answer.status, answer.body))

    async def returned(self, tenant: str, flow_id: str, browser: bytes, query: Mapping[str, str], corr: str) -> Flow:
        """Takes what a browser brought back; returns when the account is connected.

        Args:
            tenant: from the browser's cookie.
            flow_id: from the browser's cookie.
            browser: the secret in its cookie.
            query: of the address: ``code`` or ``error``, ``state``, ``iss``.
            corr: the request.

        Raises:
            NotFound, WrongBrowser, Expired, Replayed: as :meth:`Flow.check_return`; nothing has changed.
            NotConnected: the provider sent no code.
            AnswerNotTaken: another provider answered, or it granted something else than was asked for.
            GrantRefused, UpstreamFailed, UnknownOutcome: the provider gave no tokens for the code.
            Conflict: the connection was made, removed or changed meanwhile.
        """
        flow = await self._flow(tenant, flow_id)
        flow.check_return(query.get("state", ""), browser, int(time.time()))
        # Before the code is used: of two answers one loses here.
        event: dict[str, object] = {"flow": flow.id, "at": int(time.time())}
        await self._append(tenant, flow.id, flow.version, CONNECT_RETURNED, event, corr=corr)
        try:
            party = await self._clients.party(tenant, flow.connector, is_shared=flow.is_shared)
            check_issuer(party.oauth, query.get("iss"), party.issuer)
            if "error" in query or not query.get("code"):
                said = error_code(query["error"]) or "an error" if "error" in query else "no code"
                raise NotConnected(f"the provider connected nothing: {said}")
            if len(query["code"]) > CODE_CHARS_MAX:
                raise Malformed(f"CODE_CHARS_MAX is {CODE_CHARS_MAX}")
            await self._connect(party, flow, query["code"], corr)
        except NomosError as e:
            outcome = "denied" if isinstance(e, NotConnected) else "failed"
            await self._end(flow, outcome, e.code, corr)
            raise
        await self._end(flow, "connected", "", corr)
        await self._refresh()
        return flow

    async def _connect(self, party: Party, flow: Flow, code: str, corr: str) -> None:
        secrets = _secrets.decode(
            (await self._credentials.unsealed(flow.tenant, _stream(flow.id), _place(flow))).reveal()
        )
        request = code_request(
            party.oauth, party.client(), code=code, verifier=secrets.verifier, redirect_uri=self.redirect_uri
        )
        granted = await party.tokens(request, int(time.time()))
        try:
            tokens = taken(
                party.oauth,
                granted,
                client_id=party.client_id,
                issuer=party.issuer,
                nonce=secrets.nonce,
                before=None,
                asked=flow.scopes,
            )
            await self._store_connection(flow, tokens, corr)
        except NomosError:
            # What we do not keep must not go on living at the provider.
            await party.give_back(granted.tokens)
            raise

    async def _store_connection(self, flow: Flow, tokens: TokenSet, corr: str) -> None:
        history = await self._credentials.history(flow.tenant)
        is_again = self._is_again(history, flow.connector, flow.name)
        if is_again:
            before = await self._grants.find(flow.tenant, flow.name, flow.connector)
            if before.tokens.account != tokens.account:
                raise AnswerNotTaken(
                    f"this is another account than the one that {flow.name} was connected to",
                    hint="connect it under a name of its own",
                )
        key_id, write = await self._grants.writing(flow.tenant, flow.name, flow.connector, tokens)

        def decide(now: Sequence[StoredEvent]) -> tuple[str, dict[str, object]]:
            if self._is_again(now, flow.connector, flow.name) != is_again:
                raise Conflict(f"connection {flow.name} has changed meanwhile")
            # counted here: of two that were asked for at once the second may be one too many
            self._clients.check_room(now, flow.connector, flow.name, is_shared=flow.is_shared)
            event: dict[str, object] = {"name": flow.name, "key_id": key_id, "scopes": list(tokens.scopes)}
            event |= {"shared": True} if flow.is_shared else {}
            if is_again:
                return CONNECTION_REPLACED, event
            event |= {"connector": flow.connector, "method": "oauth"}
            return CONNECTION_ADDED, event | ({"base_url": flow.base_url} if flow.base_url else {})

        await self._credentials.change(flow.tenant, decide, also=write, actor=flow.by, corr=corr)

    async def _end(self, flow: Flow, outcome: str, code: str, corr: str) -> None:
        event: dict[str, object] = {"flow": flow.id, "outcome": outcome, "code": code, "at": int(time.time())}

        async def destroy(c: Any) -> None:
            await c.execute("DELETE FROM sealed WHERE tenant = $1 AND name = $2", flow.tenant, _stream(flow.id))

        await self._append(flow.tenant, flow.id, flow.version + 1, CONNECT_ENDED, event, corr=corr, also=destroy)

    async def _flow(self, tenant: str, flow_id: str) -> Flow:
        found = fold(tenant, flow_id, (e.envelope for e in await self._store.load(tenant, _stream(flow_id))))
        if found is None:
            raise NotFound("this link opens nothing", hint="ask for a new one")
        return found

    async def _append(
        self,
        tenant: str,
        flow: str,
        version: int,
        kind: str,
        event: dict[str, object],
        *,
        corr: str,
        actor: Actor = PROXY,
        sealed: Mapping[str, bytes] | None = None,
        also: Callable[[Any], Awaitable[None]] | None = None,
    ) -> None:
        envelope = Envelope(id=new_id("ev"), type=kind, tenant=tenant, actor=actor, corr=corr, cause="", event=event)
        await self._store.append(tenant, _stream(flow), version, [envelope], sealed, also=also)


def _request_uri(status: int, body: bytes) -> str:
    if status not in (200, 201):
        raise UpstreamFailed(f"the provider answered {status} to the pushed request")
    found = read_object(body).get("request_uri")
    if not isinstance(found, str) or not 0 < len(found) <= REQUEST_URI_CHARS_MAX:
        raise UpstreamFailed("the provider took the pushed request and gave no address for it")
    return found


def _stream(flow: str) -> str:
    return f"connect/{flow}"


def _place(flow: Flow) -> Place:
    return Place(purpose=PURPOSE_FLOW, tenant=flow.tenant, connection=flow.id, provider=flow.connector)
