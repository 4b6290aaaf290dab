"""The edge of audit towards auditors: a tenant's own records, from any counter on, and the next ones as they come."""

from __future__ import annotations

from functools import partial
from typing import Final

from nomos.errors import Malformed
from nomos.messages import AuditRecords, Command, Decoder, ReadAudit, now_ms
from nomos_audit.arrivals import ANSWER_MS, WAIT_MS_MAX, Arrivals
from nomos_audit.export import read_tenant
from nomos_runtime.database import Database
from nomos_runtime.responder import Caller

decoder: Final = Decoder.of(ReadAudit, "read audit")


class Reader:
    """Answers ``audit``. The tenant is the auditor's own: it comes from the account that the server stamped."""

    def __init__(self, database: Database, arrivals: Arrivals) -> None:
        self._database = database
        self._arrivals = arrivals

    async def read(self, caller: Caller, command: Command) -> AuditRecords:
        """Records of the caller's tenant; with ``wait_ms``, waits for the next where there is none yet."""
        if not isinstance(command, ReadAudit):
            raise Malformed("not a read audit message")
        if not 0 <= command.wait_ms <= WAIT_MS_MAX:
            raise Malformed(f"wait_ms must be 0 to {WAIT_MS_MAX}")
        read = partial(read_tenant, self._database, caller.tenant, command.from_tseq, command.limit)
        found = await read()
        # An answer that comes after the deadline is one that nobody reads.
        wait_ms = min(command.wait_ms, command.deadline_ms - now_ms() - ANSWER_MS)
        if found.records or wait_ms <= 0 or command.limit <= 0:
            return found
        return await self._arrivals.after(caller.tenant, max(command.from_tseq, 0), wait_ms / 1000, read)
