"""The operators' client: ``admin.<service>.<tenant>.<verb>.<operator>`` over one connection."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nomos.client import REQUEST_MS, Connection, header
from nomos.errors import Malformed
from nomos.ids import SYSTEM_TENANT, parse_slug
from nomos.messages import Admin, AdminReply, Decoder, Done

_reply = Decoder.of(AdminReply, "admin reply")
#: The tenant token of a verb that concerns the whole installation.
INSTALLATION = "_"


class Operator:
    """An operator's connection. ``async with await Operator.connect(creds) as operator``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @classmethod
    async def connect(cls, creds: Path | str, *, url: str | None = None) -> Self:
        """Connects with an operator's credentials file; errors as :meth:`nomos.client.Connection.open`."""
        return cls(await Connection.open(creds, url=url))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connection.close()

    @property
    def is_of_installation(self) -> bool:
        """Whether the credential may name every tenant and the installation; else one tenant."""
        return self._connection.credentials.role == "operator"

    async def ask(
        self, service: str, verb: str, tenant: str = INSTALLATION, *, timeout_ms: int = REQUEST_MS, **params: Any
    ) -> dict[str, object]:
        """Runs one verb of a service for ``tenant``; errors as :meth:`nomos.client.Connection.ask`.

        ``_sys``, the tenant of the installation's own records, is asked for as the installation.
        """
        if tenant == SYSTEM_TENANT:
            tenant = INSTALLATION
        if tenant != INSTALLATION:
            parse_slug(tenant, "tenant")
        subject = f"admin.{service}.{tenant}.{verb}.{self._connection.credentials.name}"
        fields = header(timeout_ms)
        command = Admin(v=1, id=str(fields["id"]), deadline_ms=int(str(fields["deadline_ms"])), params=dict(params))
        reply = await self._connection.ask(subject, command, _reply, timeout_ms)
        if not isinstance(reply, Done):
            raise Malformed("not an admin reply")
        return reply.result
