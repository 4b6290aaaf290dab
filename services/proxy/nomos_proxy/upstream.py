"""Calls an upstream: the one door through which a credential leaves this process.

Rules, in order: the origin's scheme; the request compared with its own URL; the headers; a place in the upstream's
pool; the addresses; the exchange. No redirect is followed: a 3xx is an answer like any other, without its location.

HTTP/1.1 is spoken unless the connector prefers HTTP/2, or the upstream speaks nothing else: one version is offered, and
where the upstream does not speak it, the other, from then on (ADR 0050).

Trusted / not trusted: an upstream that lies can at most answer wrongly within the limits; it cannot direct the
credential elsewhere.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import OrderedDict
from collections.abc import Set
from contextlib import suppress

from nomos.catalogue import Auth, OutgoingRequest
from nomos.catalogue.auth import BEARER
from nomos.errors import LimitExceeded, UnknownOutcome, UpstreamFailed
from nomos_proxy.answer import AnswerHead, AnswerRefused, Headers, UpstreamResponse
from nomos_proxy.destination import Origin, check_request
from nomos_proxy.dial import Dialer, HttpVersion, OtherVersion, Resolver, system_resolver
from nomos_proxy.exchange import Exchange, Limits, WireRequest
from nomos_proxy.headers import outgoing_headers
from nomos_proxy.http2 import Connection as Http2Connection
from nomos_proxy.http2 import Exchange as Http2Exchange
from nomos_proxy.http2pool import Http2Pool
from nomos_proxy.pool import Pool, PoolLimits
from nomos_proxy.wire import Wire
from nomos_runtime.secret import Secret


class OpenAnswer:
    """An answer whose head has come. Read it to its end, or close it; both may be done twice."""

    __slots__ = ("_connection", "_exchange", "head")

    def __init__(
        self, head: AnswerHead, exchange: Exchange | Http2Exchange, connection: Wire | Http2Connection
    ) -> None:
        self.head = head
        self._exchange = exchange
        self._connection = connection

    @property
    def status(self) -> int:
        """Its status."""
        return self.head.status

    def as_response(self) -> UpstreamResponse:
        """The same without its body."""
        return UpstreamResponse(status=self.head.status, headers=self.head.headers, body=b"")

    async def read(self) -> bytes:
        """As :meth:`Exchange.read`. While nobody reads, the socket is told to wait."""
        return await self._exchange.read()

    async def collect(self, bytes_max: int, seconds: float) -> bytes:
        """The whole body.

        Raises:
            AnswerRefused: it is over ``bytes_max``, or the exchange's own limit.
            UnknownOutcome: it did not come within ``seconds``, or broke off.
        """
        body = bytearray()
        try:
            async with asyncio.timeout(seconds):
                while chunk := await self.read():
                    body += chunk
                    if len(body) > bytes_max:
                        raise AnswerRefused(f"the answer is over the limit of {bytes_max} bytes", self.status)
        except TimeoutError as error:
            raise UnknownOutcome(f"no complete answer within {seconds:g} seconds") from error
        return bytes(body)

    def close(self) -> None:
        """Ends the connection, whatever is still under way."""
        self._connection.close()


class Upstreams:
    """One pooled client for each origin that this process calls. Used from one event loop."""

    __slots__ = ("_dialer", "_is_closed", "_pool_limits", "_pools")

    def __init__(
        self,
        *,
        context: ssl.SSLContext,
        http2: ssl.SSLContext | None = None,
        resolver: Resolver = system_resolver,
        development_origins: Set[Origin] = frozenset(),
        pool_limits: PoolLimits | None = None,
    ) -> None:
        """Opens nothing yet.

        Args:
            context: from :func:`nomos_proxy.dial.tls_context`.
            http2: the same for HTTP/2; None where it is not spoken.
            resolver: names to addresses.
            development_origins: origins that may be clear text, loopback or private; empty in production.
            pool_limits: bounds of the pools.
        """
        contexts = {HttpVersion.HTTP1: context} | ({HttpVersion.HTTP2: http2} if http2 else {})
        self._dialer = Dialer(contexts=contexts, resolver=resolver, development_origins=development_origins)
        self._pool_limits = pool_limits or PoolLimits()
        #: The one used last at the end.
        self._pools: OrderedDict[Origin, Pool | Http2Pool] = OrderedDict()
        self._is_closed = False

    async def call(
        self,
        origin: Origin,
        request: OutgoingRequest,
        credential: Secret,
        limits: Limits,
        headers: Headers = (),
        *,
        auth: Auth = BEARER,
        prefers: HttpVersion = HttpVersion.HTTP1,
    ) -> UpstreamResponse:
        """Makes one call.

        Args:
            origin: scheme, host and port: the connector's, or a development origin.
            request: from :func:`nomos.catalogue.build_request`.
            credential: stands in the header that ``auth`` names and nowhere else.
            limits: bounds of this call.
            headers: the connector's headers, and the idempotency key where the action has one.
            auth: how the connector presents the credential.
            prefers: the version of HTTP that is tried first.

        Returns:
            The complete answer, whatever its status.

        Raises:
            DestinationRefused: origin, address, request or headers are not allowed; nothing was sent.
            UpstreamFailed: nothing was sent.
            UnknownOutcome: it was sent and no complete answer came back.
            AnswerRefused: it was answered, and the answer is not passed on (``status`` says what it was).
        """
        return await self.send(origin, self._written(origin, request, credential, headers, auth), limits, prefers)

    async def open(
        self,
        origin: Origin,
        request: OutgoingRequest,
        credential: Secret,
        limits: Limits,
        headers: Headers = (),
        *,
        auth: Auth = BEARER,
        prefers: HttpVersion = HttpVersion.HTTP1,
    ) -> OpenAnswer:
        """Makes one call and gives its answer before its body has come; arguments and errors as :meth:`call`.

        The connection is this call's own: an answer that goes on for long takes no place in the upstream's pool. The
        caller closes the answer.
        """
        if self._is_closed:
            raise UpstreamFailed("this process is stopping")
        written = self._written(origin, request, credential, headers, auth)
        deadline = asyncio.get_running_loop().time() + limits.total_seconds
        connection = await self._connected(origin, limits, prefers)
        try:
            async with asyncio.timeout_at(deadline):
                if isinstance(connection, Wire):
                    under_way: Exchange | Http2Exchange = Exchange(connection, written, limits)
                else:
                    under_way = await connection.begin(written, limits)
                head = await under_way.head()
        except TimeoutError as error:
            connection.close()
            raise UnknownOutcome(f"no answer within {limits.total_seconds:g} seconds") from error
        except BaseException:
            connection.close()
            raise
        return OpenAnswer(head, under_way, connection)

    async def _connected(self, origin: Origin, limits: Limits, prefers: HttpVersion) -> Wire | Http2Connection:
        """A connection outside of the pools, over which what the origin speaks is spoken."""
        version = self._version(origin, prefers)
        try:
            return await self._dialed(origin, limits, version)
        except OtherVersion:
            if not self._dialer.speaks(origin, version.other):
                raise
        connection = await self._dialed(origin, limits, version.other)
        self._learn(origin, version.other)
        return connection

    async def _dialed(self, origin: Origin, limits: Limits, version: HttpVersion) -> Wire | Http2Connection:
        make = Wire if version is HttpVersion.HTTP1 else Http2Connection
        return await self._dialer.dial(origin, min(limits.connect_seconds, limits.total_seconds), make, version)

    def _written(
        self, origin: Origin, request: OutgoingRequest, credential: Secret, headers: Headers, auth: Auth
    ) -> WireRequest:
        self._dialer.check(origin)
        target = check_request(origin, request)
        return WireRequest(
            method=request.method,
            target=target,
            headers=outgoing_headers(origin.authority, credential, auth, request, headers),
            body=request.body,
        )

    async def send(
        self, origin: Origin, written: WireRequest, limits: Limits, prefers: HttpVersion = HttpVersion.HTTP1
    ) -> UpstreamResponse:
        """Sends a request as it is written; otherwise as :meth:`call`. Its target is the caller's to have checked."""
        self._dialer.check(origin)
        pool = self._pool(origin, prefers)
        try:
            return await pool.call(written, limits)
        except OtherVersion:
            other = HttpVersion.HTTP2 if isinstance(pool, Pool) else HttpVersion.HTTP1
            if not self._dialer.speaks(origin, other):
                raise
        self._leave(origin, other)
        return await self._pool(origin, other).call(written, limits)

    def close(self) -> None:
        """Closes resting connections and refuses further calls."""
        self._is_closed = True
        for pool in self._pools.values():
            pool.close()

    def _version(self, origin: Origin, prefers: HttpVersion) -> HttpVersion:
        """What is spoken to an origin: what is known of it, else what is preferred."""
        found = self._pools.get(origin)
        if found is not None:
            return HttpVersion.HTTP1 if isinstance(found, Pool) else HttpVersion.HTTP2
        return prefers if self._dialer.speaks(origin, prefers) else HttpVersion.HTTP1

    def _learn(self, origin: Origin, version: HttpVersion) -> None:
        """An origin is spoken to in this version from now on: its pool remembers it, where there is room for one."""
        if not self._is_closed:
            self._leave(origin, version)
            with suppress(LimitExceeded):
                self._pool(origin, version)

    def _leave(self, origin: Origin, version: HttpVersion) -> None:
        """Gives up an origin's pool if it speaks another version than this one."""
        if origin in self._pools and self._version(origin, version) is not version:
            self._pools.pop(origin).close()

    def _pool(self, origin: Origin, prefers: HttpVersion) -> Pool | Http2Pool:
        if self._is_closed:
            raise UpstreamFailed("this process is stopping")
        found = self._pools.get(origin)
        if found is None:
            if len(self._pools) >= self._pool_limits.upstreams:
                self._make_room()
            kind = Pool if self._version(origin, prefers) is HttpVersion.HTTP1 else Http2Pool
            found = self._pools[origin] = kind(origin, self._dialer, self._pool_limits)
        self._pools.move_to_end(origin)
        return found

    def _make_room(self) -> None:
        """Closes the pool that was used least lately, of those that rest."""
        resting = next((origin for origin, pool in self._pools.items() if pool.is_resting), None)
        if resting is None:
            raise LimitExceeded("upstreams", self._pool_limits.upstreams)
        self._pools.pop(resting).close()
