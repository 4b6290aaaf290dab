"""Operators' verbs that erase and hand out: those of people where a service knows some, and of a tenant everywhere.

Order of a person's erasure: what they may do is taken away (:attr:`People.release`), then the key is destroyed and
recorded in one transaction. A crash in between leaves a person without rights and with a key; the same command, sent
again, goes on from there.

Order of a tenant's: identity closes it first, which every service learns as a fact; a service refuses to erase a tenant
that it does not know as closed. Then each service erases every subject with a record for each, and in its last
transaction all other sealed records of the tenant, with ``tenant.erased``. After that the store takes nothing of the
tenant. Idempotent, resumable, and no row of another tenant is in reach: each transaction is the tenant's own.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

import msgspec
from nacl.public import PublicKey, SealedBox

from nomos.errors import Conflict, Malformed, NotFound, Refused
from nomos.events import TENANT_ERASED, Actor, Envelope
from nomos.ids import SYSTEM_TENANT, new_id, parse_slug
from nomos.log.sealedfield import dek_of
from nomos_runtime.directory import Directory
from nomos_runtime.eventstore import ERASURE_STREAM, SUBJECT_KEY, EventStore
from nomos_runtime.responder import NoParams, Operator, Responder, Verb
from nomos_runtime.subjects import Subjects, check_basis

#: Verbs that no operator of one tenant reaches.
INSTALLATION_VERBS: Final = ("tenant-erase",)
#: Verbs that a closed tenant still has.
SUBJECT_VERBS: Final = ("subject-list", "subject-erase", "subject-export")


class EraseSubjectParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A person's name, and why they are erased (stands in the log in plain text)."""

    name: str
    basis: str


class ExportSubjectParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A person's name, and the X25519 key (base64url) to which their key is sealed."""

    name: str
    reader: str


class EraseTenantParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A closed tenant, and why it is erased (stands in the log in plain text)."""

    name: str
    basis: str


class People(msgspec.Struct, frozen=True, kw_only=True):
    """The people whom a service knows.

    Attributes:
        kind: what they are to it: ``approver``, ``auditor``.
        subjects: their names and keys.
        release: takes away what the subject may do; nothing to do is no error. Operator, subject.
        held: what else the service holds of a subject, as JSON values. Tenant, subject.
    """

    kind: str
    subjects: Subjects
    release: Callable[[Operator, str], Awaitable[None]]
    held: Callable[[str, str], Awaitable[dict[str, object]]]


class Erasing:
    """The verbs, by name, in :meth:`verbs`."""

    def __init__(
        self,
        *,
        service: str,
        store: EventStore,
        responder: Responder,
        directory: Directory,
        refresh: Callable[[], Awaitable[None]],
        people: People | None,
        operators: People | None = None,
        tables: Collection[str] = (),
        leaving: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        """Takes what the verbs work on.

        Args:
            service: its name.
            store: of the service.
            responder: knows the tenants.
            directory: knows which are closed.
            refresh: brings this replica's facts up to date.
            people: those of a tenant.
            operators: the people of ``_``.
            tables: the service's own tables of tenants, beside those of the store.
            leaving: what is done for a closed tenant while its keys are still there; errors are its own to say.
        """
        self._service = service
        self._store = store
        self._responder = responder
        self._directory = directory
        self._refresh = refresh
        self._people = people
        self._operators = operators
        self._tables = tables
        self._leaving = leaving

    def verbs(self) -> dict[str, Verb]:
        """Verb name to parameters and handler."""
        verbs: dict[str, Verb] = {"tenant-erase": (EraseTenantParams, self.tenant_erase)}
        if self._people is not None or self._operators is not None:
            verbs |= {
                "subject-list": (NoParams, self.subject_list),
                "subject-erase": (EraseSubjectParams, self.subject_erase),
                "subject-export": (ExportSubjectParams, self.subject_export),
            }
        return verbs

    async def subject_list(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """The people of the tenant, or the operators: subject, what they are, and name, where it is not erased."""
        found = await self._known(by).subjects.all(_tenant_of(by))
        return {"service": self._service, "subjects": [msgspec.to_builtins(one) for one in found]}

    async def subject_erase(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Takes away what the person may do, destroys their key, and records it. 0 where the name is not known."""
        people, tenant, p = self._known(by), _tenant_of(by), msgspec.convert(params, EraseSubjectParams)
        check_basis(p.basis)
        subject = await people.subjects.find(tenant, people.kind, parse_slug(p.name, people.kind))
        if subject is None:
            return {"service": self._service, "kind": people.kind, "erased": 0}
        await people.release(by, subject)
        erased = await people.subjects.erase(
            tenant, subject, basis=p.basis, by=by.actor, corr=by.request, now=int(time.time())
        )
        return {"service": self._service, "kind": people.kind, "erased": int(erased), "subject": subject}

    async def subject_export(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """What this service holds of a person, and the key of their fields, sealed to the reader; recorded first."""
        people, tenant, p = self._known(by), _tenant_of(by), msgspec.convert(params, ExportSubjectParams)
        box = _reader(p.reader)
        subject = await people.subjects.find(tenant, people.kind, parse_slug(p.name, people.kind))
        if subject is None:
            return {"service": self._service, "kind": people.kind, "found": 0}
        held = await people.held(tenant, subject)
        key = await people.subjects.disclose(tenant, subject, purpose="export", by=by.actor, corr=by.request)
        return {
            "service": self._service,
            "kind": people.kind,
            "found": 1,
            "subject": subject,
            "dek": dek_of(subject),
            "held": held,
            "sealed_key": base64.urlsafe_b64encode(box.encrypt(key)).decode(),
        }

    async def tenant_erase(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Destroys every key of a closed tenant that this service holds, and records it."""
        p = msgspec.convert(params, EraseTenantParams)
        check_basis(p.basis)
        await self._responder.known_tenant(parse_slug(p.name, "tenant"))
        if not self._directory.is_closed(p.name):
            await self._refresh()
        if not self._directory.is_closed(p.name):
            raise Refused("only a closed tenant is erased", hint="nomos tenant erase closes it first")
        if self._leaving is not None:
            await self._leaving(p.name)
        subjects, secrets = await erase_tenant(
            self._store,
            None if self._people is None else self._people.subjects,
            p.name,
            service=self._service,
            tables=self._tables,
            basis=p.basis,
            by=by.actor,
            corr=by.request,
            now=int(time.time()),
        )
        return {"service": self._service, "tenant": p.name, "subjects": subjects, "secrets": secrets}

    def _known(self, by: Operator) -> People:
        known = self._operators if by.tenant == "_" else self._people
        if known is None:
            raise NotFound("this service knows no such people")
        return known


def _tenant_of(by: Operator) -> str:
    """The tenant that owns the people of a command: operators are the installation's, under the log's own name."""
    return SYSTEM_TENANT if by.tenant == "_" else by.tenant


async def erase_tenant(
    store: EventStore,
    subjects: Subjects | None,
    tenant: str,
    *,
    service: str,
    tables: Collection[str] = (),
    basis: str,
    by: Actor,
    corr: str,
    now: int,
) -> tuple[int, int]:
    """Erases every subject of the tenant, then every other sealed record of it.

    Returns:
        How many subjects and how many other sealed records this call erased; (0, 0) where it was done before.

    Raises:
        Conflict: a person was added meanwhile; run it again.
        JournalUnavailable: what was destroyed is recorded in the outbox; run it again for the rest.
    """
    if await store.load(tenant, ERASURE_STREAM):
        return 0, 0
    erased = 0
    if subjects is not None:
        for name in await store.sealed_names(tenant, SUBJECT_KEY):
            subject = name.removeprefix(SUBJECT_KEY)
            erased += await subjects.erase(tenant, subject, basis=basis, by=by, corr=corr, now=now)
    # Only counted here: what is destroyed is whatever there is in the transaction below.
    secrets = len(await store.sealed_names(tenant, ""))

    async def shred(connection: Any) -> None:
        left = "SELECT count(*) FROM sealed WHERE tenant = $1 AND starts_with(name, $2)"
        if await connection.fetchval(left, tenant, SUBJECT_KEY):
            # Their key must not go without a record of its own.
            raise Conflict("a person was added while the tenant was erased", hint="run it again")
        for table in ("sealed", *tables):
            await connection.execute(f"DELETE FROM {table} WHERE tenant = $1", tenant)  # noqa: S608 - names of ours

    event: dict[str, object] = {
        "at": now,
        "basis": basis,
        "secrets": secrets,
        "service": service,
        "subjects": erased,
        "tenant": tenant,
    }
    told = Envelope(id=new_id("ev"), type=TENANT_ERASED, tenant=tenant, actor=by, corr=corr, cause="", event=event)
    await store.append(tenant, ERASURE_STREAM, 0, [told], also=shred)
    return erased, secrets


def _reader(text: str) -> SealedBox[PublicKey]:
    try:
        return SealedBox(PublicKey(base64.urlsafe_b64decode(text)))
    except (binascii.Error, ValueError, TypeError):
        raise Malformed("the reader's key must be an X25519 public key in base64url") from None
