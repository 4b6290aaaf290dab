"""People whom a service knows: their names sealed before an event is stored, and destroyed with one key.

A person is named in events by their subject id (``sub-``), which is random. Their name stands once, sealed, in
``subject.named``; other personal texts stand sealed in the fields of :data:`nomos.log.sealedfield.PERSONAL`. What this
service keeps, each as a sealed record under its environment key:

* ``subject-key/<subject>``: the key of the person's fields.
* ``subject-index/<HMAC>``: the subject of a name. The HMAC is under a key of the tenant, so that who has the table but
  not the environment key can't try names, and nobody can once that key is destroyed.
* ``subject-index-key``: that key.

Nothing opened is kept: keys are opened for one use, so no replica can go on using a key that another has destroyed.

An erasure is one transaction: the event ``subject.erased`` is stored and the records of the subject are deleted. What a
crash leaves: before the commit, nothing happened; after it the key is gone and the event waits in the outbox, from
which any process of the service publishes it. There is no state in which the key is gone and no record will say so.

Trusted / not trusted: who controls the table can delete keys unrecorded (the verifier then finds fields that nobody can
open) or put back a key from an old copy (backups must not outlive the deadline of an erasure).
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any, Final

import msgspec

from nomos.errors import Conflict, LimitExceeded, Malformed, NotFound
from nomos.events import SUBJECT_DISCLOSED, Actor, Envelope
from nomos.ids import new_id, parse_slug
from nomos.log.sealedfield import (
    KEY_BYTES,
    NONCE_BYTES,
    PERSONAL,
    SUBJECT_ERASED,
    SUBJECT_NAMED,
    FieldPlace,
    commitment,
    dek_of,
    is_subject,
    open_text,
    parse_sealed,
    seal_text,
    sealed_fields,
    subject_of,
)
from nomos_runtime.eventstore import SUBJECT_KEY, EventStore, StoredEvent
from nomos_runtime.sealing import Sealer

#: Subjects of one tenant in one service.
SUBJECTS_MAX: Final = 10_000
#: Characters of the basis of an erasure. It stands in the log in plain text.
BASIS_CHARS_MAX: Final = 200
_TRIES_MAX: Final = 5
_INDEX: Final = "subject-index/"
_INDEX_KEY: Final = "subject-index-key"
_PURPOSE: Final = "subject-v1"
#: Beginning of the name of each sealed record here -> what it is sealed for.
PURPOSES: Final = {SUBJECT_KEY: _PURPOSE, _INDEX: _PURPOSE, _INDEX_KEY: _PURPOSE}


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """A person whom the service knows. ``name`` is None once erased; ``erased_at`` is 0 until then; Unix seconds."""

    id: str
    kind: str
    name: str | None
    erased_at: int = 0


class Subjects:
    """The people of all tenants in one service. Holds no opened key."""

    def __init__(self, store: EventStore, sealer: Sealer, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._store = store
        self._sealer = sealer
        self._random_bytes = random_bytes

    async def find(self, tenant: str, kind: str, name: str) -> str | None:
        """The subject of a name, or None: never known, or erased, which nobody can tell apart any more."""
        index_key = await self._open(tenant, _INDEX_KEY)
        return None if index_key is None else await self._find(tenant, _index_name(index_key, kind, name))

    async def enrol(
        self, tenant: str, kind: str, name: str, *, by: Actor, corr: str, now: int, subject: str | None = None
    ) -> str:
        """The subject of a name; made, with a key of its own, where there is none.

        Args:
            tenant: the tenant that knows the person; operators are known to ``_sys``.
            kind: what they are to this service.
            name: a slug.
            by: who adds them.
            corr: request id.
            now: Unix seconds.
            subject: the id that a new one gets, where something bears it already; else a random one. A name that has
                another subject keeps it.

        Raises:
            Malformed: the name is no slug, or ``subject`` no subject's id.
            Conflict: ``subject`` bears another name.
            LimitExceeded: over :data:`SUBJECTS_MAX`.
            Revoked: the tenant has been erased here.
        """
        parse_slug(name, kind)
        for _ in range(_TRIES_MAX):
            index_key = await self._open(tenant, _INDEX_KEY)
            is_first = index_key is None
            index_key = index_key or self._random_bytes(KEY_BYTES)
            index = _index_name(index_key, kind, name)
            known = None if is_first else await self._find(tenant, index)
            if known is not None:
                return known
            held = len(await self._store.sealed_names(tenant, SUBJECT_KEY))
            if held >= SUBJECTS_MAX:
                raise LimitExceeded("SUBJECTS_MAX", SUBJECTS_MAX, held + 1)
            dek, key = new_id("dek") if subject is None else dek_of(subject), self._random_bytes(KEY_BYTES)
            made = subject_of(dek)
            records = {SUBJECT_KEY + made: key, index: made.encode()}
            if is_first:
                records[_INDEX_KEY] = index_key
            event: dict[str, object] = {"at": now, "kind": kind, "name": name, "subject": made}
            named = self._sealed(_envelope(SUBJECT_NAMED, tenant, by, corr, event), {made: key})
            try:
                await self._store.append(tenant, _stream(made), 0, [named], also=self._insert(tenant, records))
            except Conflict:
                # Another process was first with this name, or with the tenant's first one.
                continue
            return made
        raise Conflict("this person is being added by others")

    def _insert(self, tenant: str, records: dict[str, bytes]) -> Callable[[Any], Awaitable[None]]:
        sealed = [
            (tenant, name, self._sealer.seal(content, purpose=_PURPOSE, tenant=tenant, name=name))
            for name, content in records.items()
        ]

        async def insert(connection: Any) -> None:
            # A plain insert: of two at once the second fails, where the store's own would replace the first.
            await connection.executemany("INSERT INTO sealed (tenant, name, record) VALUES ($1, $2, $3)", sealed)

        return insert

    async def protect(self, envelope: Envelope) -> Envelope:
        """The envelope with its personal fields sealed, as the table of the kernel says.

        A field whose subject is not known here (a history from before fields were sealed) stays as it is.

        Raises:
            Conflict: the person has been erased.
            LimitExceeded: a text over the limit of sealed texts.
        """
        keys: dict[str, bytes] = {}
        for _, of in PERSONAL.get(envelope.type, ()):
            subject = envelope.event.get(of)
            if isinstance(subject, str) and is_subject(subject):
                key = await self._open(envelope.tenant, SUBJECT_KEY + subject)
                if key is None:
                    raise Conflict("this person has been erased")
                keys[subject] = key
        return self._sealed(envelope, keys)

    def _sealed(self, envelope: Envelope, keys: dict[str, bytes]) -> Envelope:
        event = dict(envelope.event)
        for name, of in PERSONAL.get(envelope.type, ()):
            text, subject = event.get(name), str(event.get(of))
            if isinstance(text, str) and text and subject in keys:
                place = FieldPlace(tenant=envelope.tenant, id=envelope.id, field=name)
                nonce = self._random_bytes(NONCE_BYTES)
                event[name] = msgspec.to_builtins(seal_text(keys[subject], dek_of(subject), place, text, nonce))
        return msgspec.structs.replace(envelope, event=event)

    async def opened(self, envelope: Envelope) -> Envelope:
        """The envelope with its sealed fields opened; a field of a person who has been erased is an empty text.

        Raises:
            CredentialUnreadable: a key that does not open here.
            FieldUnreadable: a field that was altered, or moved from its place.
            MalformedRecord: a sealed field of another form.
        """
        event = dict(envelope.event)
        for name, sealed in sealed_fields(envelope.type, envelope.event):
            key = await self._open(envelope.tenant, SUBJECT_KEY + subject_of(sealed.dek))
            place = FieldPlace(tenant=envelope.tenant, id=envelope.id, field=name)
            event[name] = "" if key is None else open_text(key, place, sealed)
        return msgspec.structs.replace(envelope, event=event)

    async def show(self, tenant: str, subject: str) -> Subject:
        """What is known of a subject.

        Raises:
            NotFound: this tenant has none of this id here.
            CredentialUnreadable: a key that does not open here.
        """
        history = await self._store.load(tenant, _stream(subject))
        if not history:
            raise NotFound("this tenant has no such person")
        return await self._shown(tenant, history)

    async def all(self, tenant: str) -> list[Subject]:
        """The subjects of ``tenant``, erased ones too, in the order in which they became known."""
        streams: dict[str, list[StoredEvent]] = {}
        for stored in await self._store.load_matching(tenant, _stream("")):
            streams.setdefault(stored.stream, []).append(stored)
        return [await self._shown(tenant, history) for history in streams.values()]

    async def _shown(self, tenant: str, history: list[StoredEvent]) -> Subject:
        named = history[0].envelope
        subject, kind = str(named.event["subject"]), str(named.event["kind"])
        erased = next((s.envelope.event for s in history if s.envelope.type == SUBJECT_ERASED), None)
        if erased is not None:
            return Subject(id=subject, kind=kind, name=None, erased_at=int(str(erased["at"])))
        key = await self._open(tenant, SUBJECT_KEY + subject)
        if key is None:
            # Between the erasure's commit and its publication.
            return Subject(id=subject, kind=kind, name=None)
        place = FieldPlace(tenant=tenant, id=named.id, field="name")
        return Subject(id=subject, kind=kind, name=open_text(key, place, parse_sealed(named.event["name"])))

    async def disclose(self, tenant: str, subject: str, *, purpose: str, by: Actor, corr: str) -> bytes:
        """The subject's key, for who may read what is sealed under it; recorded before it is given.

        Raises:
            NotFound: erased, or never known.
        """
        history = await self._store.load(tenant, _stream(subject))
        key = await self._open(tenant, SUBJECT_KEY + subject)
        if key is None or not history:
            raise NotFound("this tenant has no such person")
        event: dict[str, object] = {"dek": dek_of(subject), "purpose": purpose, "subject": subject}
        told = _envelope(SUBJECT_DISCLOSED, tenant, by, corr, event)
        await self._store.append(tenant, _stream(subject), len(history), [told])
        return key

    async def erase(self, tenant: str, subject: str, *, basis: str, by: Actor, corr: str, now: int) -> bool:
        """Destroys the subject's key and stores the record of it, in one transaction.

        Returns:
            True; False where the subject is erased already or was never known.

        Raises:
            Malformed: the basis is not one line of at most :data:`BASIS_CHARS_MAX` printable characters.
            JournalUnavailable: the key is destroyed; the record waits in the outbox.
        """
        check_basis(basis)
        for _ in range(_TRIES_MAX):
            key = await self._open(tenant, SUBJECT_KEY + subject)
            history = await self._store.load(tenant, _stream(subject))
            if key is None or not history:
                return False
            index = await self._index_of(tenant, history, key)
            event: dict[str, object] = {
                "at": now,
                "basis": basis,
                "dek": dek_of(subject),
                "kc": commitment(key),
                "kind": str(history[0].envelope.event["kind"]),
                "subject": subject,
            }
            erased = _envelope(SUBJECT_ERASED, tenant, by, corr, event)
            destroy = _destroy(tenant, [SUBJECT_KEY + subject, *index])
            try:
                await self._store.append(tenant, _stream(subject), len(history), [erased], also=destroy)
            except Conflict:
                continue
            return True
        raise Conflict("this person is being changed by others")

    async def _index_of(self, tenant: str, history: list[StoredEvent], key: bytes) -> list[str]:
        index_key = await self._open(tenant, _INDEX_KEY)
        if index_key is None:
            return []
        named = history[0].envelope
        place = FieldPlace(tenant=tenant, id=named.id, field="name")
        name = open_text(key, place, parse_sealed(named.event["name"]))
        return [_index_name(index_key, str(named.event["kind"]), name)]

    async def _find(self, tenant: str, index: str) -> str | None:
        found = await self._open(tenant, index)
        return None if found is None else found.decode()

    async def _open(self, tenant: str, name: str) -> bytes | None:
        record = await self._store.sealed(tenant, name)
        return None if record is None else self._sealer.open(record, purpose=_PURPOSE, tenant=tenant, name=name)


def check_basis(basis: str) -> None:
    """Checks the words that say why something is erased.

    Raises:
        Malformed: not one line of 1 to :data:`BASIS_CHARS_MAX` printable characters.
    """
    if not basis.strip() or not basis.isprintable() or len(basis) > BASIS_CHARS_MAX:
        raise Malformed(f"the basis must be one line of 1 to {BASIS_CHARS_MAX} printable characters")


def _destroy(tenant: str, names: list[str]) -> Callable[[Any], Awaitable[None]]:
    async def destroy(connection: Any) -> None:
        done = await connection.execute("DELETE FROM sealed WHERE tenant = $1 AND name = ANY($2)", tenant, names)
        if done != f"DELETE {len(names)}":
            raise Conflict("the key was destroyed by another")

    return destroy


def _index_name(index_key: bytes, kind: str, name: str) -> str:
    # A slug holds no line feed, and neither does a kind.
    return _INDEX + hmac.new(index_key, f"{kind}\n{name}".encode(), sha256).hexdigest()


def _stream(subject: str) -> str:
    return f"subject/{subject}"


def _envelope(kind: str, tenant: str, by: Actor, corr: str, event: dict[str, object]) -> Envelope:
    return Envelope(id=new_id("ev"), type=kind, tenant=tenant, actor=by, corr=corr, cause="", event=event)
