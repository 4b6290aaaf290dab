"""Operators' verbs of audit: read a tenant's records, prove one, sign a checkpoint now, export.

An export is prepared in a folder of this service and read over the bus file by file, so the operator needs no access to
the machine. What arrives is checked by ``nomos verify``; nothing here has to be believed.
"""

from __future__ import annotations

import base64
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from nomos.errors import LimitExceeded, Malformed, NotFound
from nomos.ids import SYSTEM_TENANT, new_id
from nomos.log.keyhistory import KeyHistory
from nomos.log.proof import format_receipt
from nomos_audit.continuing import prove_consistency
from nomos_audit.export import export_log, read_tenant
from nomos_audit.log import AuditLog
from nomos_audit.receipts import Located, Receipts
from nomos_audit.retiring import Retirement
from nomos_audit.rotating import Rotation
from nomos_audit.settings import AuditSettings
from nomos_audit.statements import Statements
from nomos_runtime.bus import Bus
from nomos_runtime.database import Database
from nomos_runtime.responder import NoParams, Operator, Verb

#: Exports that are open at once, those of one tenant, and how long one may stay open.
EXPORTS_MAX: Final = 8
TENANT_EXPORTS_MAX: Final = 2
EXPORT_SECONDS: Final = 3_600
#: Bytes of a file in one answer; base64 and the envelope stay under the message limit.
READ_BYTES_MAX: Final = 512 * 1024


class ReadParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From which tenant counter on, and how many records at most."""

    from_tseq: int = 0
    limit: int = 500


class FileParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of an open export, from an offset on."""

    export: str
    n: str
    offset: int = 0


class ProveParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A record by its number in the log."""

    seq: int


class ReceiptParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A record by the tenant's counter, or by its event's id; one of the two."""

    tseq: int | None = None
    event: str | None = None


class ConsistencyParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Two sizes that were signed; without ``newer`` the log as it stands."""

    older: int
    newer: int | None = None


class RetireParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether only to look."""

    only_look: bool


class ExportParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An open export."""

    export: str


class _Export(msgspec.Struct, frozen=True, kw_only=True):
    folder: Path
    tenant: str
    files: tuple[str, ...]
    opened_at: float


class AuditAdmin:
    """The verbs, by name, in :meth:`verbs`."""

    def __init__(
        self,
        settings: AuditSettings,
        bus: Bus,
        database: Database,
        log: AuditLog,
        statements: Statements,
        *,
        rotation: Rotation,
        retirement: Retirement,
    ) -> None:
        self._settings = settings
        self._bus = bus
        self._database = database
        self._log = log
        self._signer = log.signer
        self._tiles = log.tiles
        self._statements = statements
        self._rotation = rotation
        self._retirement = retirement
        self._receipts = Receipts(
            bus.client, database, origin=log.origin, signer=log.signer, tiles=log.tiles, vouched=log.vouched
        )
        self._exports: dict[str, _Export] = {}
        self._opening: list[str] = []

    def verbs(self) -> dict[str, Verb]:
        """Verb name to parameters and handler."""
        return {
            "read": (ReadParams, self.read),
            "checkpoint": (NoParams, self.checkpoint),
            "rotate-key": (NoParams, self.rotate_key),
            "keys": (NoParams, self.keys),
            "retire": (RetireParams, self.retire),
            "prove": (ProveParams, self.prove),
            "receipt": (ReceiptParams, self.receipt),
            "consistency": (ConsistencyParams, self.consistency),
            "export-open": (NoParams, self.export_open),
            "export-read": (FileParams, self.export_read),
            "export-close": (ExportParams, self.export_close),
        }

    async def read(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Records of the tenant in the subject, or of the log's own."""
        p = msgspec.convert(params, ReadParams)
        found = await read_tenant(self._database, _tenant_of(by), p.from_tseq, p.limit)
        return {"records": found.records, "prev": found.prev, "head_tseq": found.head_tseq}

    async def checkpoint(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Signs the log as it stands now."""
        note = await self._signer.checkpoint_now()
        return {"checkpoint": note.decode()}

    async def rotate_key(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Goes over to the next key; answers when it is in force."""
        return self._keys_of(await self._rotation.rotate(by.actor))

    async def keys(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """The log's keys by size, each change with its proof."""
        return self._keys_of(self._signer.keys)

    async def retire(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """The ended segments of the chain, and what speaks against taking each away; those that may go are recorded."""
        p = msgspec.convert(params, RetireParams)
        judged = await self._retirement.retire(by.actor, only_look=p.only_look)
        return {"segments": [one._asdict() for one in judged]}

    def _keys_of(self, keys: KeyHistory) -> dict[str, object]:
        turns = [
            {"record": one.record.decode(), "receipt": format_receipt(one.receipt).decode()}
            for one in self._signer.ring.turns
        ]
        return {"key": str(keys.in_force), "since": keys.since, "lines": keys.trust_lines(), "turns": turns}

    async def prove(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """A record by its number, with its receipt: any record for the installation, its own for a tenant."""
        p = msgspec.convert(params, ProveParams)
        return await self._prove(await self._receipts.by_seq(p.seq, None if by.tenant == "_" else by.tenant))

    async def receipt(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """One of the tenant's records, or of the log's own, with its receipt."""
        p = msgspec.convert(params, ReceiptParams)
        if p.tseq is not None and p.event is None:
            return await self._prove(await self._receipts.by_tseq(p.tseq, _tenant_of(by)))
        if p.event is not None and p.tseq is None:
            return await self._prove(await self._receipts.by_event(p.event, _tenant_of(by)))
        raise Malformed("a receipt is asked for by tseq or by event")

    async def consistency(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """The proof that one checkpoint continues another. It shows sizes and roots, and no tenant's record."""
        p = msgspec.convert(params, ConsistencyParams)
        proof = await prove_consistency(self._bus.client, self._signer, self._tiles, p.older, p.newer)
        return {"proof": proof.decode()}

    async def _prove(self, found: Located) -> dict[str, object]:
        proof = await self._receipts.prove(found)
        return {"seq": found.seq, "record": found.record.decode(), "receipt": proof.decode()}

    async def export_open(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Signs the log as it stands, and prepares the whole log (``_``) or the tenant's records with their proofs."""
        self._drop_old()
        if len(self._exports) + len(self._opening) >= EXPORTS_MAX:
            raise LimitExceeded("EXPORTS_MAX", EXPORTS_MAX)
        # Counted before the work begins, so that many at once do not all get in.
        mine = [one for one in self._opening if one == by.tenant]
        mine += [one.tenant for one in self._exports.values() if one.tenant == by.tenant]
        if len(mine) >= TENANT_EXPORTS_MAX:
            raise LimitExceeded("TENANT_EXPORTS_MAX", TENANT_EXPORTS_MAX)
        self._opening.append(by.tenant)
        try:
            return await self._open(by.tenant)
        finally:
            self._opening.remove(by.tenant)

    async def _open(self, tenant: str) -> dict[str, object]:
        head = None
        if tenant != "_":
            head = partial(self._statements.head_of, await self._statements.ensure(tenant), tenant)
        await self._log.vouched(await self._signer.checkpoint_now())
        folder = Path(tempfile.mkdtemp(prefix="nomos-export-", dir=self._settings.export_dir or None))
        try:
            await export_log(
                self._bus.client,
                folder,
                origin=self._settings.origin,
                keys=self._signer.keys,
                tenant=None if tenant == "_" else tenant,
                tiles=self._tiles,
                head=head,
                cosigned=None if self._log.cosigning is None else self._log.cosigning.vouched,
                table=self._database,
            )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        files = _listed(folder)
        export = new_id("ex")
        self._exports[export] = _Export(folder=folder, tenant=tenant, files=tuple(files), opened_at=time.monotonic())
        return {"export": export, "files": [{"n": n, "bytes": size} for n, size in files.items()]}

    async def export_read(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """A piece of a file of an open export."""
        p = msgspec.convert(params, FileParams)
        export = self._find(by, p.export)
        if p.n not in export.files:
            raise NotFound("this export has no such file")
        if p.offset < 0:
            raise Malformed("an offset is not negative")
        with (export.folder / p.n).open("rb") as f:
            f.seek(p.offset)
            piece = f.read(READ_BYTES_MAX)
        return {"content": base64.b64encode(piece).decode(), "bytes": len(piece)}

    async def export_close(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Removes a prepared export."""
        p = msgspec.convert(params, ExportParams)
        export = self._find(by, p.export)
        del self._exports[p.export]
        shutil.rmtree(export.folder, ignore_errors=True)
        return {"export": p.export}

    def close(self) -> None:
        """Removes every prepared export, and ends what is under way."""
        self._retirement.close()
        for export in self._exports.values():
            shutil.rmtree(export.folder, ignore_errors=True)
        self._exports.clear()

    def _find(self, by: Operator, name: str) -> _Export:
        export = self._exports.get(name)
        if export is None or export.tenant != by.tenant:
            raise NotFound("no such export is open")
        return export

    def _drop_old(self) -> None:
        for name, export in list(self._exports.items()):
            if time.monotonic() - export.opened_at > EXPORT_SECONDS:
                del self._exports[name]
                shutil.rmtree(export.folder, ignore_errors=True)


def _tenant_of(by: Operator) -> str:
    return SYSTEM_TENANT if by.tenant == "_" else by.tenant


def _listed(folder: Path) -> dict[str, int]:
    """The files below ``folder``: relative name and size in bytes."""
    return {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
