"""Statements of heads between seals, and the proof of a tenant's own head that goes with its bundle.

A tenant's bundle is complete up to the newest statement that covers its last record: a seal, or, where the tenant has
records after the newest seal, an ``audit.heads`` that is journalled for the purpose and says the same. The tenant gets
its leaf, its path and its own blinding key, and so learns of the others only how many there are.

Decides when a new statement is needed, and builds ``head.json``. What it proves is judged by
:mod:`nomos.log.headproof`, here too before the file is handed out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from nomos.errors import NotFound, RolledBack, Unavailable
from nomos.ids import SYSTEM_TENANT
from nomos.log.checkpoint import parse_checkpoint
from nomos.log.headproof import HeadProof, check_head, format_head
from nomos.log.heads import (
    HEADS,
    STATEMENTS,
    Place,
    Roots,
    Statement,
    blind,
    event_of,
    parse_statement,
    producers_root,
    prove_leaf,
    root_of,
    tenant_key,
    tenant_leaf,
    tenant_leaves,
)
from nomos.log.keyhistory import short_name
from nomos.log.note import parse_note
from nomos.log.record import parse_record
from nomos.log.tree import inclusion_path
from nomos_audit.domain import JOURNAL
from nomos_audit.follow import head_at
from nomos_audit.head import Head
from nomos_audit.log import AuditLog
from nomos_audit.replay import HINT

#: How long a new statement is waited for: chained, signed for and in the table.
WAIT_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.05


class _Found(NamedTuple):
    record: bytes
    prev: bytes
    seq: int
    statement: Statement


class Statements:
    """Makes and finds statements of one log."""

    def __init__(
        self,
        log: AuditLog,
        *,
        blinding_key: bytes,
        journal: Callable[[str, dict[str, Any]], Awaitable[None]],
    ) -> None:
        """Takes what it works with.

        Args:
            log: the running log.
            blinding_key: 32 bytes, under which tenants' names are blinded.
            journal: makes an event of the audit service durable.
        """
        self._log = log
        self._client = log.client
        self._database = log.database
        self._origin = log.origin
        self._blinding_key = blinding_key
        self._journal = journal
        # One at a time: of many exports at once the first makes the statement, the others find it.
        self._lock = asyncio.Lock()

    async def ensure(self, tenant: str) -> _Found:
        """The newest statement that covers every record that ``tenant`` has in the chain now.

        Raises:
            NotFound: the tenant has no record.
            Unavailable: a new statement is not chained within :data:`WAIT_SECONDS`.
        """
        async with self._lock:
            head = await head_at(self._client, self._origin, None)
            own = head.tenants.get(tenant)
            if own is None:
                raise NotFound("the tenant has no record")
            found = await self._newest(-1)
            if found is not None and await self._covers(found.statement, tenant, own.hash):
                return found
            await self._journal(HEADS, event_of(self._statement(head)))
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    while found is None or found.statement.last < head.size - 1:
                        await asyncio.sleep(POLL_SECONDS)
                        found = await self._newest(head.size - 1)
            except TimeoutError as error:
                raise Unavailable("a statement of the tenants' heads is late") from error
            return found

    def _statement(self, head: Head) -> Statement:
        leaves = [tenant_leaf(one) for one in tenant_leaves(head.tenants, self._blinding_key)]
        return Statement(
            last=head.size - 1,
            keys=(short_name(self._log.signer.verifier_key),),
            pc_root=producers_root({name: one.next for name, one in head.producers.items()}).hex(),
            src=(Place(s=JOURNAL, q=head.intake),),
            tenants=Roots(n=len(leaves), root=root_of(leaves).hex()),
        )

    async def _covers(self, statement: Statement, tenant: str, last_hash: str) -> bool:
        if statement.last < 0:
            return False
        then = (await head_at(self._client, self._origin, statement.last)).tenants.get(tenant)
        return then is not None and then.hash == last_hash

    async def _newest(self, after: int) -> _Found | None:
        """The newest statement behind record ``after``, from the table; its proof is checked before it is used."""
        async with self._database.transaction(tenant=SYSTEM_TENANT) as connection:
            row = await connection.fetchrow(
                "SELECT record, prev, seq FROM audit_events WHERE tenant = $1 AND type = ANY($2) AND seq > $3"
                " ORDER BY tseq DESC LIMIT 1",
                SYSTEM_TENANT,
                sorted(STATEMENTS),
                after,
            )
        if row is None:
            return None
        record = parse_record(row["record"])
        return _Found(row["record"], row["prev"], row["seq"], parse_statement(record.type, record.event))

    async def head_of(self, found: _Found, tenant: str, note: bytes) -> bytes:
        """``head.json`` of ``tenant``: the statement ``found``, proven in the checkpoint ``note``.

        Raises:
            NotFound: the statement has no head of the tenant.
            RolledBack: the chain does not give what the statement says.
            ProofFailed: the tiles on disk are damaged.
        """
        checkpoint = parse_checkpoint(parse_note(note).text)
        head = await head_at(self._client, self._origin, found.statement.last)
        if head.size != found.statement.last + 1:
            raise RolledBack(f"record {found.statement.last}, the last of a statement, ends no block", hint=HINT)
        leaves = tenant_leaves(head.tenants, self._blinding_key)
        data = [tenant_leaf(one) for one in leaves]
        if root_of(data).hex() != found.statement.tenants.root:
            raise RolledBack(
                f"the statement in record {found.seq} does not say what the chain gives",
                hint="was AUDIT_BLIND_KEY changed? it stays for the life of a log; else: " + HINT,
            )
        key = tenant_key(self._blinding_key, tenant)
        name = blind(key, tenant)
        index = next((at for at, one in enumerate(leaves) if one.b == name), None)
        if index is None:
            raise NotFound("the tenant has no record up to the statement")
        subtree = await self._log.tiles.reach(checkpoint.size)
        proof = HeadProof(
            key=key,
            leaf=leaves[index],
            index=index,
            path=tuple(prove_leaf(data, index)),
            record=found.record,
            prev=found.prev,
            inclusion=tuple(inclusion_path(subtree, found.seq, checkpoint.size)),
        )
        check_head(proof, tenant, size=checkpoint.size, root=checkpoint.root)
        return format_head(proof)
