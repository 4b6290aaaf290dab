"""The edge of audit towards auditors: a tenant's own records, from any counter on."""

from __future__ import annotations

from typing import Final

from nomos.errors import Malformed
from nomos.messages import AuditRecords, Command, Decoder, ReadAudit
from nomos_audit.export import read_tenant
from nomos_runtime.database import Database
from nomos_runtime.responder import Caller

decoder: Final = Decoder.of(ReadAudit, "read audit")


class Reader:
    """Answers ``audit``. The tenant is the auditor's own: it comes from the account that the server stamped."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, caller: Caller, command: Command) -> AuditRecords:
        """Records of the caller's tenant."""
        if not isinstance(command, ReadAudit):
            raise Malformed("not a read audit message")
        return await read_tenant(self._database, caller.tenant, command.from_tseq, command.limit)
