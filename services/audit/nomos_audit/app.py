"""Audit, wired. Reads top to bottom; no logic."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from nomos.ids import new_id
from nomos.keys import parse_seed
from nomos_audit.admin import AuditAdmin
from nomos_audit.anchors import FileAnchor
from nomos_audit.archiving import ask_witnesses, checked, open_archive
from nomos_audit.arrivals import Arrivals
from nomos_audit.handlers import Reader, decoder
from nomos_audit.log import AuditLog
from nomos_audit.own import OwnEvents
from nomos_audit.retiring import Retirement
from nomos_audit.rolling import Rolling
from nomos_audit.rotating import Rotation
from nomos_audit.settings import AuditSettings
from nomos_audit.statements import Statements
from nomos_audit.writer import State
from nomos_runtime.database import Database
from nomos_runtime.peers import load_accounts
from nomos_runtime.service import Parts
from nomos_runtime.settings import load, secret

NAME: Final = "audit"
MIGRATIONS: Final = Path(__file__).parent / "migrations"


class Audit:
    """The running service: one candidate for the single writer, its projections and its readers."""

    def __init__(
        self,
        settings: AuditSettings,
        seed: bytes,
        next_seed: bytes | None,
        blinding_key: bytes,
        env: Mapping[str, str],
    ) -> None:
        self._settings = settings
        self._seed = seed
        self._next_seed = next_seed
        self._blinding_key = blinding_key
        self._env = env
        self._stack = ExitStack()
        # The server stamps account keys; the log names services.
        self._services = {key: name for name, key in load_accounts(env).items()}
        self._parts: Parts | None = None
        self._log: AuditLog | None = None
        self._admin: AuditAdmin | None = None

    async def start(self) -> None:
        """Connects, compares the chain with its checkpoints, then writes, projects and serves."""
        s = self._settings
        parts = self._parts = await Parts.open(NAME, s)
        database = parts.database = await Database.open(NAME, s.database_url)
        await database.migrate(MIGRATIONS)
        log = self._log = await AuditLog.open(
            parts.bus.client,
            database,
            origin=s.origin,
            seed=self._seed,
            next_seed=self._next_seed,
            writer_id=new_id("wr"),
            services=self._services,
            now=lambda: time.time_ns() // 1000,
            anchors=[FileAnchor(Path(s.anchor_file))] if s.anchor_file else [],
            checkpoint_seconds=s.checkpoint_seconds,
            rolling=Rolling(s.chain_roll_bytes, s.chain_roll_monthly),
            tiles=Path(s.tiles_dir or self._stack.enter_context(TemporaryDirectory(prefix="nomos-tiles-"))),
        )
        ask_witnesses(s, log)
        own = OwnEvents(parts.journal)
        await open_archive(s, self._env, log, own=own, blinding_key=self._blinding_key)
        statements = Statements(log, blinding_key=self._blinding_key, journal=own.append)
        parts.spawn(log.run())
        await parts.follow({"identity": parts.directory.apply})
        await parts.responder.serve_tenants("audit", "auditor", decoder, Reader(database, Arrivals(parts.bus)).read)
        retirement = Retirement(
            log, keep_days=s.chain_keep_days, tiles_stay=bool(s.tiles_dir), journal=own.append, now=time.time
        )
        rotation = Rotation(log.signer, journal=own.append)
        admin = self._admin = AuditAdmin(
            s, parts.bus, database, log, statements, rotation=rotation, retirement=retirement
        )
        either = ("read", "receipt", "prove", "consistency", "export-open", "export-read", "export-close")
        # The log of a tenant that was closed or erased stays to be read and proven.
        closed = either
        installation = ("checkpoint", "rotate-key", "keys", "retire")
        await parts.serve_admin(admin.verbs(), installation=installation, either=either, closed=closed)
        await parts.serving()

    def faults(self) -> list[str]:
        """Why audit cannot keep its promise now."""
        if self._parts is None or self._log is None:
            return ["not started"]
        found = self._parts.faults()
        if self._log.writer.state in (State.REFUSED, State.STOPPED):
            found.append(f"the writer is {self._log.writer.state.value}")
        if (key := self._log.signer.lacks) is not None:
            found.append(f"this process does not hold the log's key {key}, and signs nothing")
        if self._log.cosigning is not None and (fault := self._log.cosigning.fault()) is not None:
            found.append(fault)
        return found

    async def stop(self) -> None:
        """Ends what runs and disconnects."""
        if self._admin:
            self._admin.close()
        if self._log:
            await self._log.close()
        if self._parts:
            await self._parts.close()
        self._stack.close()


def build(env: Mapping[str, str]) -> Audit:
    """Audit from its environment."""
    following = "AUDIT_SIGN_KEY_NEXT"
    has_next = bool(env.get(following) or env.get(f"{following}_FILE"))
    return Audit(
        checked(load(AuditSettings, NAME, env)),
        parse_seed(secret("AUDIT_SIGN_KEY", env)),
        parse_seed(secret(following, env)) if has_next else None,
        parse_seed(secret("AUDIT_BLIND_KEY", env)),
        env,
    )
