"""The audit log as one running thing: writer, signer, projections and the journal's trimming, started in safe order.

Decides order and what a failure of one part means for the others. Nothing is written before the chain has been compared
with every checkpoint that is kept somewhere. A part that finds the log changed ends all of them: the error reaches
whoever waits on :meth:`AuditLog.run`, and the process must not go on as if nothing had happened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import nats.errors
from nats.aio.client import Client

from nomos.log.index import FileEntry
from nomos.log.trust import TrustPolicy
from nomos.waiting import raise_if_cancelled
from nomos_audit.anchors import Anchor, DatabaseAnchor
from nomos_audit.archiver import RETRY_SECONDS, Archiver
from nomos_audit.checkpoints import CHECKPOINT_SECONDS, Signer
from nomos_audit.cosigning import Cosigning
from nomos_audit.domain import JOURNAL
from nomos_audit.keys import TurnTable
from nomos_audit.projections import TableProjection
from nomos_audit.rolling import NEVER, Rolling
from nomos_audit.store.port import Store
from nomos_audit.streams import REQUEST_SECONDS
from nomos_audit.tenants import TenantStreams
from nomos_audit.tiles import Tiles
from nomos_audit.writer import Writer
from nomos_runtime import observe
from nomos_runtime.database import Database

#: Journal messages that stay after they are chained and signed for, as a second copy for a while.
JOURNAL_KEPT: Final = 10_000
TRIM_SECONDS: Final = 60.0

JOURNAL_TRIMMED: Final = "audit_journal_trimmed"
TRIM_AWAY: Final = "audit_trim_away"


class AuditLog:
    """The log of one installation in this process. Build with :meth:`open`, then :meth:`run` until cancelled."""

    def __init__(
        self, client: Client, database: Database, *, origin: str, writer: Writer, signer: Signer, kept: int, tiles: Path
    ) -> None:
        self.client = client
        self.database = database
        self.origin = origin
        self.writer = writer
        self.signer = signer
        self.table = TableProjection(client, database, origin=origin)
        self.tenants = TenantStreams(client, origin=origin, may_publish=lambda: writer.is_active)
        self.tiles = Tiles(client, tiles, origin=origin)
        self.archiver: Archiver | None = None
        self.cosigning: Cosigning | None = None
        self._witness_wait_seconds = 0.0
        self._kept = kept

    @classmethod
    async def open(
        cls,
        client: Client,
        database: Database,
        *,
        origin: str,
        seed: bytes,
        next_seed: bytes | None = None,
        writer_id: str,
        services: Mapping[str, str],
        now: Callable[[], int],
        anchors: Sequence[Anchor] = (),
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        journal_kept: int = JOURNAL_KEPT,
        tiles: Path,
        rolling: Rolling = NEVER,
    ) -> AuditLog:
        """Compares the chain with its checkpoints; nothing is written yet.

        Args:
            client: connected to the account ``AUDIT``.
            database: the audit service's own, migrated.
            origin: the log's identity, constant for its life: a URL without scheme, no ``+``, no space.
            seed: the 32 bytes of ``AUDIT_SIGN_KEY``.
            next_seed: those of ``AUDIT_SIGN_KEY_NEXT``, the key that follows while it does.
            writer_id: unique for this process.
            services: account key as the server stamps it -> service name.
            now: microseconds since 1970, UTC.
            anchors: where checkpoints are kept besides ``CHECKPOINT`` and the database.
            checkpoint_seconds: between two checkpoints of a growing log; above 0.
            journal_kept: journal messages that stay after they are signed for.
            tiles: folder of the tree's tiles.
            rolling: when a segment of the chain ends.

        Raises:
            RolledBack: the chain is behind a checkpoint or differs from it.
            BadSignature: a checkpoint was not signed by this log's key.
            Malformed: a checkpoint or block breaks its format; the origin or a seed is not allowed.
            Misconfigured: the two keys do not follow each other.
            Unavailable: the bus, the database or an anchor does not answer.
        """
        writer = Writer(client, origin=origin, writer_id=writer_id, services=services, now=now, rolling=rolling)
        signer = Signer(
            client,
            origin=origin,
            seed=seed,
            next_seed=next_seed,
            turns=TurnTable(database),
            anchors=(DatabaseAnchor(database), *anchors),
            may_sign=lambda: writer.is_active,
            every_seconds=checkpoint_seconds,
        )
        await signer.open()
        return cls(client, database, origin=origin, writer=writer, signer=signer, kept=journal_kept, tiles=tiles)

    def archive(
        self,
        store: Store,
        *,
        blinding_key: bytes,
        journal: Callable[[str, dict[str, Any]], Awaitable[None]],
        now: Callable[[], int],
        tool: str,
        grace_seconds: float,
        retry_seconds: float = RETRY_SECONDS,
        stamp: Callable[[Collection[str]], Awaitable[tuple[FileEntry, ...]]] | None = None,
        after_root: Callable[[str, bytes], Awaitable[None]] | None = None,
    ) -> None:
        """Gives the log an archive; call before :meth:`run`. Arguments as of :class:`nomos_audit.archiver.Archiver`."""
        self.archiver = Archiver(
            self.client,
            self.database,
            store,
            origin=self.origin,
            signer=self.signer,
            blinding_key=blinding_key,
            journal=journal,
            tiles=self.tiles,
            projected=self.table,
            is_active=lambda: self.writer.is_active,
            now=now,
            tool=tool,
            grace_seconds=grace_seconds,
            retry_seconds=retry_seconds,
            stamp=stamp,
            vouched=self.vouched,
            after_root=after_root,
        )

    def witness(self, policy: TrustPolicy, *, wait_seconds: float, development: bool) -> None:
        """Has the witnesses of ``policy`` asked; call before :meth:`run`.

        Args:
            policy: which witnesses, where they are, and what a quorum is.
            wait_seconds: how long :meth:`vouched` waits for the quorum.
            development: whether a witness on loopback may be asked without TLS.

        Raises:
            Misconfigured: no witness, too many, or one without a URL or with one that is not allowed.
        """
        self.cosigning = Cosigning(
            self.client,
            self.database,
            self.tiles,
            policy,
            open_note=self.signer.open_note,
            is_active=lambda: self.writer.is_active,
            development=development,
        )
        self._witness_wait_seconds = wait_seconds

    async def vouched(self, note: bytes) -> bytes:
        """The note with the witnesses' cosignatures, once they are a quorum, or those that came within the time."""
        if self.cosigning is None:
            return note
        return await self.cosigning.quorum_of(note, self._witness_wait_seconds)

    async def run(self) -> None:
        """Runs all parts until cancelled.

        Raises:
            ExceptionGroup: a part ended, with its error; the others have been stopped.
        """
        async with asyncio.TaskGroup() as parts:
            parts.create_task(self.writer.run(), name="audit writer")
            parts.create_task(self.signer.run(), name="audit signer")
            parts.create_task(self.table.run(), name="audit table")
            parts.create_task(self.tenants.run(), name="audit tenants")
            parts.create_task(self.tiles.run(), name="audit tiles")
            parts.create_task(self._trim(), name="audit trim")
            if self.cosigning is not None:
                parts.create_task(self.cosigning.run(), name="audit witnesses")
            if self.archiver is not None:
                parts.create_task(self.archiver.run(), name="audit archiver")

    async def _trim(self) -> None:
        """Keeps the journal from filling up: what is chained and signed for may go, but for the newest messages."""
        trimmed = 0
        while True:
            raise_if_cancelled()
            await asyncio.sleep(TRIM_SECONDS)
            until = self.signer.signed_intake - self._kept
            if until <= trimmed or not self.writer.is_active:
                continue
            try:
                js = self.client.jetstream(timeout=REQUEST_SECONDS)
                await js.purge_stream(JOURNAL, seq=until + 1)
            except (nats.errors.Error, TimeoutError, OSError) as error:
                observe.say("audit", TRIM_AWAY, cause=repr(error)[:200])
                continue
            trimmed = until
            observe.say("audit", JOURNAL_TRIMMED, until=until)

    async def close(self) -> None:
        """Ends what :meth:`open` began."""
        await self.signer.close()
