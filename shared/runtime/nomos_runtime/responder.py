"""The thin responder: decode, deadline, call, reply; and the one place where errors become replies.

Every refusal is recorded before it is answered: a request that gets no decision becomes a ``request.refused`` event in
the tenant's log; where an agent is refused in a loop, a part of a count that does (:mod:`nomos_runtime.refusals`). If
even that cannot be made durable the answer is ``journal_unavailable``. A fault of our own (anything that is not a
:class:`NomosError`) is denied as ``internal``, recorded and said in the diagnostics.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Container, Mapping
from typing import Final

import msgspec
import nats.errors
from nats.aio.msg import Msg

from nomos import events
from nomos.errors import (
    JournalUnavailable,
    LimitExceeded,
    Malformed,
    NomosError,
    NotPermitted,
    Revoked,
    Unavailable,
    UnknownAgent,
    UnknownOperator,
    UnknownOutcome,
    UnknownTenant,
)
from nomos.events import Actor, Envelope
from nomos.ids import SYSTEM_TENANT, is_id, new_id
from nomos.log.sealedfield import is_subject
from nomos.messages import (
    MESSAGE_BYTES_MAX,
    Admin,
    Command,
    Decoder,
    Done,
    Failure,
    check_command,
    encode,
    failure,
    now_ms,
)
from nomos_runtime import observe
from nomos_runtime.bus import Bus
from nomos_runtime.directory import Directory
from nomos_runtime.journal import Journal
from nomos_runtime.refusals import ALWAYS_RECORDED, Refusals

#: What a refusal says of the input in the log, characters.
DETAIL_CHARS_MAX: Final = 300
#: Actor of the refusal of a credential that bears a name where an operator's id should stand: no record repeats it.
UNNAMED: Final = "unnamed"


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, from the subject that the server stamped. ``kind`` is the actor kind in the log."""

    tenant: str
    name: str
    kind: str


class Internal(NomosError):
    """A fault of our own; the caller learns nothing about it."""

    code = "internal"


class Responder:
    """Answers a service's subjects. One for each service process."""

    def __init__(
        self,
        bus: Bus,
        journal: Journal,
        directory: Directory,
        refresh: Callable[[], Awaitable[None]],
        tenant_in_flight_max: int,
        *,
        refusals: Refusals,
    ) -> None:
        self._bus = bus
        self._journal = journal
        self._directory = directory
        self._refresh = refresh
        self._tenant_in_flight_max = tenant_in_flight_max
        self._refusals = refusals
        #: Requests under way, by the account that the server stamped.
        self._in_flight: Counter[str] = Counter()

    async def serve_tenants(
        self,
        verb: str,
        kind: str,
        decoder: Decoder,
        handle: Callable[[Caller, Command], Awaitable[msgspec.Struct]],
        *,
        at: str = "",
    ) -> None:
        """Serves ``tenant.*.req.<verb>.*``: the server stamps the account, the user's permissions fix the name.

        Args:
            verb: the third token of the subject behind ``req``.
            kind: what the last token names (``agent``, ``auditor``).
            decoder: of a :class:`Command`.
            handle: gives the reply; raises :class:`NomosError` to refuse.
            at: the token behind the verb by which one replica is asked; empty where any of them answers.
        """

        async def answer(message: Msg) -> None:
            account = message.subject.split(".")[1]
            if self._in_flight[account] >= self._tenant_in_flight_max:
                # Not recorded: a tenant's flood must not fill the journal of all. The agent's library asks again.
                observe.counts[self._bus.service, observe.TENANT_FLOOD] += 1
                over = Unavailable(f"tenant_in_flight_max is {self._tenant_in_flight_max}", hint="ask again later")
                await self.reply(message, failure(over))
                return
            self._in_flight[account] += 1
            try:
                await answer_counted(message)
            finally:
                self._in_flight[account] -= 1
                if not self._in_flight[account]:
                    del self._in_flight[account]

        async def answer_counted(message: Msg) -> None:
            tokens = message.subject.split(".")
            tenant: str = SYSTEM_TENANT
            command: object = None
            reply: msgspec.Struct
            try:
                tenant = await self._tenant(tokens[1])
                command = decoder.decode(message.data)
                if not isinstance(command, Command):
                    raise Malformed(f"not a {decoder.what} message")
                check_command(command, now_ms())
                reply = await self._handle(handle, Caller(tenant=tenant, name=tokens[-1], kind=kind), command)
            except NomosError as e:
                reply = await self.refuse(e, tenant, Actor(kind=kind, id=tokens[-1]), command, verb)
            except Exception as e:  # noqa: BLE001 - the edge of the process: deny, record, say; never fail open
                reply = await self.fault(e, tenant, Actor(kind=kind, id=tokens[-1]), command, verb)
            await self.reply(message, reply)

        subject = f"tenant.*.req.{verb}.{at}.*" if at else f"tenant.*.req.{verb}.*"
        await self._bus.serve(subject, self._bus.service, answer)

    async def _tenant(self, account: str) -> str:
        try:
            return self._directory.tenant(account)
        except UnknownTenant:
            # Created a moment ago, perhaps: ask identity once before refusing.
            await self._refresh()
            return self._directory.tenant(account)

    async def _handle(
        self, handle: Callable[[Caller, Command], Awaitable[msgspec.Struct]], caller: Caller, command: Command
    ) -> msgspec.Struct:
        try:
            self._check_caller(caller)
        except UnknownAgent:
            # Created a moment ago, perhaps: as above.
            await self._refresh()
            self._check_caller(caller)
        return await handle(caller, command)

    def _check_caller(self, caller: Caller) -> None:
        """A revocation is in force from its event on, whether or not the servers have disconnected its holder yet."""
        if caller.kind == "auditor":
            self._directory.check_auditor(caller.tenant, caller.name)
        else:
            self._directory.agent(caller.tenant, caller.name)

    async def known_tenant(self, tenant: str) -> None:
        """Checks that the installation has ``tenant``.

        Raises:
            UnknownTenant: identity knows none of this name.
        """
        if not self._directory.has_tenant(tenant):
            await self._refresh()
        if not self._directory.has_tenant(tenant):
            raise UnknownTenant(f"no tenant {_clean(tenant)}", hint="nomos tenant create NAME")

    async def known_operator(self, operator: str) -> None:
        """Checks that ``operator`` is one whose name identity holds, sealed.

        Raises:
            NotPermitted: the credential bears a name; every record of its use would say it for good.
            UnknownOperator: identity knows none of this id.
            Revoked: the operator has been erased.
        """
        if not is_subject(operator):
            raise NotPermitted(
                "the credential bears a name, and operators are known by a random id",
                hint="nomos operator create NAME --creds FILE",
            )
        try:
            self._directory.check_operator(operator)
        except UnknownOperator:
            # Named a moment ago, perhaps: as above.
            await self._refresh()
            self._directory.check_operator(operator)

    async def standing(self, operator: str) -> str:
        """The one tenant that ``operator`` may act for; empty for an operator of the whole installation.

        Raises:
            NotPermitted, UnknownOperator, Revoked: as :meth:`known_operator`; also where their tenant is closed.
        """
        await self.known_operator(operator)
        tenant = self._directory.tenant_of_operator(operator)
        if tenant:
            self.check_open(tenant)
        return tenant

    def check_open(self, tenant: str) -> None:
        """Checks that ``tenant`` has not been closed.

        Raises:
            Revoked: it has.
        """
        if self._directory.is_closed(tenant):
            raise Revoked("this tenant is closed")

    async def serve_service(
        self,
        subject: str,
        callers: Mapping[str, str],
        decoder: Decoder,
        handle: Callable[[object], Awaitable[msgspec.Struct]],
    ) -> None:
        """Serves a ``svc.*`` subject of other services.

        Args:
            subject: ends in ``*``, where the server stamps the caller's account key.
            callers: account key to service name, of those that may ask. The bus lets no others through; that an
                operator's mistake in an account's JWT is not enough to get past, is checked here.
            decoder: of the message.
            handle: gives the reply; raises :class:`NomosError` to refuse.
        """

        async def whoever(_: str, message: object) -> msgspec.Struct:
            return await handle(message)

        await self.serve_callers(subject, callers, decoder, whoever)

    async def serve_callers(
        self,
        subject: str,
        callers: Mapping[str, str],
        decoder: Decoder,
        handle: Callable[[str, object], Awaitable[msgspec.Struct]],
    ) -> None:
        """As :meth:`serve_service`, where the answer depends on which service asks: ``handle`` is told its name."""

        async def answer(message: Msg) -> None:
            reply: msgspec.Struct
            account = message.subject.rsplit(".", 1)[-1]
            actor = Actor(kind="service", id=callers.get(account, account))
            try:
                if account not in callers:
                    raise NotPermitted("this service may not ask here")
                reply = await handle(callers[account], decoder.decode(message.data))
            except NomosError as e:
                reply = await self.refuse(e, SYSTEM_TENANT, actor, None, subject)
            except Exception as e:  # noqa: BLE001 - the edge of the process: deny, record, say; never fail open
                reply = await self.fault(e, SYSTEM_TENANT, actor, None, subject)
            await self.reply(message, reply)

        await self._bus.serve(subject, self._bus.service, answer)

    async def reply(self, message: Msg, reply: msgspec.Struct) -> None:
        """Sends ``reply``; a caller that left meanwhile is no fault. One that no message can hold is said as such."""
        encoded = encode(reply)
        if len(encoded) > MESSAGE_BYTES_MAX:
            observe.say(self._bus.service, observe.ANSWER_TOO_LARGE, size=len(encoded))
            encoded = encode(failure(LimitExceeded("MESSAGE_BYTES_MAX", MESSAGE_BYTES_MAX, len(encoded))))
        try:
            await self._bus.answer(message, encoded)
        except nats.errors.Error as e:
            observe.say(self._bus.service, observe.BUS_ERROR, error=repr(e)[:200])

    async def refuse(self, error: NomosError, tenant: str, actor: Actor, command: object, verb: str) -> Failure:
        """Records a refusal, then gives its wire form. What cannot be recorded is answered ``journal_unavailable``.

        But for an unknown outcome: that something may have happened must reach the caller in any case, and the attempt
        is in the log already. Of an agent's refusals beyond its quota the count is recorded, after the answer.
        """
        if isinstance(error, JournalUnavailable):
            return failure(error)
        event_id, how = new_id("ev"), "record"
        is_bounded = actor.kind == "agent" and error.code not in ALWAYS_RECORDED
        if is_bounded:
            how = self._refusals.take(tenant, _clean(actor.id), _clean(verb), error.code, event_id)
        if how == "count":
            observe.counts[self._bus.service, observe.REFUSALS_COUNTED] += 1
            return failure(error)
        corr = getattr(command, "id", "")
        envelope = Envelope(
            id=event_id,
            type=events.REQUEST_REFUSED,
            tenant=tenant,
            actor=Actor(kind=actor.kind, id=_clean(actor.id)),
            corr=corr if isinstance(corr, str) and is_id(corr, "rq") else "",
            cause="",
            event={
                "code": error.code,
                "detail": _clean(error.detail),
                "verb": _clean(verb),
                "service": self._bus.service,
                **({"counting": True} if how == "last" else {}),
            },
        )
        try:
            await self._journal.append([envelope])
        except JournalUnavailable as e:
            if is_bounded:
                self._refusals.unrecorded(tenant, _clean(actor.id))
            observe.say(self._bus.service, observe.REFUSAL_UNRECORDED, code=error.code)
            return failure(error if isinstance(error, UnknownOutcome) else e)
        return failure(error)

    async def fault(self, error: Exception, tenant: str, actor: Actor, command: object, verb: str) -> Failure:
        """Records and answers a fault of our own: denied, and nothing about it to the caller."""
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{frames[-1].name}:{frames[-1].lineno}" if frames else ""
        observe.say(self._bus.service, observe.REQUEST_FAULT, error=type(error).__name__, where=where, verb=verb)
        return await self.refuse(Internal("the service failed; nothing was allowed"), tenant, actor, command, verb)


Verb = tuple[type[msgspec.Struct], Callable[["Operator", msgspec.Struct], Awaitable[dict[str, object]]]]


class Operator(msgspec.Struct, frozen=True, kw_only=True):
    """An operator's command: who, for which tenant (``_`` for the whole installation), under which request id.

    ``name`` is the operator's subject id: their name stands sealed in identity, and nowhere else.
    """

    name: str
    tenant: str
    request: str

    @property
    def actor(self) -> Actor:
        """The operator as the actor of an event."""
        return Actor(kind="operator", id=self.name)


class NoParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A verb without parameters."""


async def serve_admin(
    bus: Bus,
    responder: Responder,
    verbs: Mapping[str, Verb],
    *,
    installation: Container[str] = (),
    either: Container[str] = (),
    closed: Container[str] = (),
    unnamed: Container[str] = (),
) -> None:
    """Serves ``admin.<service>.<tenant>.<verb>.<operator>``.

    The operator's credential may publish only subjects that end in its own name, so tenant and operator are what the
    server let through. Whether the tenant exists, and the operator's name is held sealed, is checked here.

    Args:
        bus: the service's connection.
        responder: refuses and records.
        verbs: parameters and handler by verb.
        installation: verbs that concern the whole installation and take ``_``, so that an operator of one tenant
            cannot reach them. Every other verb takes a tenant.
        either: verbs that take both.
        closed: verbs that a tenant which has been closed still has; every other is refused.
        unnamed: verbs of operators whose name identity does not hold; they change nothing, or give the name.
    """
    decoder = Decoder.of(Admin, "admin")

    async def answer(message: Msg) -> None:
        _, _, tenant, verb, name = message.subject.split(".")
        actor = Actor(kind="operator", id=name if is_subject(name) else UNNAMED)
        scope = SYSTEM_TENANT
        command: object = None
        reply: msgspec.Struct
        try:
            if tenant != "_":
                await responder.known_tenant(tenant)
                scope = tenant  # type: ignore[assignment]  # a TenantId once it is known to exist
            command = decoder.decode(message.data)
            if not isinstance(command, Admin):
                raise Malformed("not an admin message")
            check_command(command, now_ms())
            if verb not in verbs:
                raise NotPermitted(f"{bus.service} has no verb {_clean(verb)}")
            if verb not in unnamed:
                await responder.known_operator(name)
            if verb not in either and (tenant == "_") != (verb in installation):
                takes = "_, not a tenant" if verb in installation else "a tenant"
                raise NotPermitted(f"the verb {verb} takes {takes}")
            if tenant != "_" and verb not in closed:
                responder.check_open(tenant)
            kind, handle = verbs[verb]
            try:
                params = msgspec.convert(command.params, kind)
            except msgspec.ValidationError as e:
                raise Malformed(f"{verb}: {e}") from e
            reply = Done(result=await handle(Operator(name=name, tenant=tenant, request=command.id), params))
        except NomosError as e:
            reply = await responder.refuse(e, scope, actor, command, verb)
        except Exception as e:  # noqa: BLE001 - the edge of the process: deny, record, say
            reply = await responder.fault(e, scope, actor, command, verb)
        await responder.reply(message, reply)

    await bus.serve(f"admin.{bus.service}.*.*.*", bus.service, answer)


def _clean(text: str) -> str:
    """Text that fits the log's profile: no NUL, no lone surrogates, bounded."""
    return text[:DETAIL_CHARS_MAX].encode("utf-8", "replace").decode().replace("\x00", "?")
