"""``audit retire``: takes away ended segments of the chain, once the audit service has recorded that they may go.

Two credentials: the operator's asks, and the audit service judges and records; ``audit-retirer``'s deletes, and can do
nothing else. Without the second one the command only looks. Segments are deleted oldest first; a command that was
interrupted is given again.
"""

from __future__ import annotations

import asyncio
import json
from argparse import Namespace
from pathlib import Path
from typing import Final

import msgspec
import nats
import nats.errors

from nomos.cli.context import Context, load_context
from nomos.cli.output import Exit, result
from nomos.errors import Malformed, Misconfigured, Unavailable
from nomos.operator import INSTALLATION, Operator

#: Each segment is read back from the archive and compared record by record.
RETIRE_MS: Final = 120_000
DELETE_SECONDS: Final = 30.0
RETIRER: Final = "audit-retirer"
_STREAM: Final = "CHAIN"


class _Judged(msgspec.Struct, frozen=True):
    stream: str
    first_block: int
    last_block: int
    first: int
    last: int
    against: str


class _Answer(msgspec.Struct, frozen=True):
    segments: list[_Judged]


def retire(args: Namespace) -> int:
    """``nomos audit retire [--retirer-creds FILE]``: 0 where something went or nothing was to go, 1 where none may."""
    context = load_context(args)
    found = asyncio.run(_retire(context, args.retirer_creds))
    gone = [one for one in found if not one.against]
    verb = "retired" if args.retirer_creds else "may go"
    lines = [
        f"{one.stream}: records {one.first} to {one.last}, " + (f"stays: {one.against}" if one.against else verb)
        for one in found
    ]
    if gone and not args.retirer_creds:
        lines.append("  --retirer-creds takes them away")
    members = {"segments": [msgspec.to_builtins(one) for one in found], "retired": bool(args.retirer_creds)}
    result(args, "audit retire", members, lines or ["no segment of the chain has ended"])
    return Exit.YES if gone or not found else Exit.NO


async def _retire(context: Context, creds: str) -> list[_Judged]:
    if creds:
        # Before anything is recorded.
        _check_readable(creds)
    async with await Operator.connect(context.operator_creds, url=context.bus_url) as operator:
        reply = await operator.ask("audit", "retire", INSTALLATION, timeout_ms=RETIRE_MS, only_look=not creds)
    try:
        found = msgspec.convert(reply, _Answer).segments
    except msgspec.ValidationError as e:
        raise Malformed("the audit service sent another answer", cause=str(e)) from e
    if creds:
        await delete_segments(context.bus_url, creds, [one.stream for one in found if not one.against])
    return found


def _check_readable(creds: str) -> None:
    try:
        Path(creds).read_bytes()
    except OSError as e:
        raise Misconfigured(f"{creds} cannot be used: {e.strerror or e}") from e


async def _quiet(_: Exception) -> None:
    """What the client would print; the error is raised and told once."""


async def delete_segments(url: str, creds: str, names: list[str]) -> None:
    """Deletes segments of the chain, in order.

    Args:
        url: of the bus.
        creds: path of the retirer's credentials file.
        names: of streams that are segments.

    Raises:
        Malformed: a name is none; nothing is deleted.
        Misconfigured: the credentials cannot be read.
        Unavailable: the bus does not answer, or does not delete one; those before it are gone.
    """
    if any(name != _STREAM and not name.startswith(f"{_STREAM}-") for name in names):
        raise Malformed("the audit service names a stream that is no segment of the chain")
    _check_readable(creds)
    try:
        client = await nats.connect(
            url,
            error_cb=_quiet,
            user_credentials=creds,
            inbox_prefix=f"_INBOX.{RETIRER}".encode(),
            allow_reconnect=False,
            connect_timeout=5,
        )
    except (nats.errors.Error, OSError, TimeoutError, ValueError) as e:
        raise Unavailable("the bus does not let the retirer in", cause=repr(e)) from e
    try:
        for name in names:
            reply = await client.request(f"$JS.API.STREAM.DELETE.{name}", b"", timeout=DELETE_SECONDS)
            answer = json.loads(reply.data)
            if not answer.get("success"):
                told = answer.get("error", {}).get("description", "no reason given")
                raise Unavailable(f"{name} was not deleted: {told}", hint="give the command again")
    except (nats.errors.Error, TimeoutError, ValueError) as e:
        raise Unavailable("a segment may not be deleted yet", cause=repr(e), hint="give the command again") from e
    finally:
        await client.close()
